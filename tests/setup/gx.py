"""A GX device to install things on: Linux namespaces, a read-only root, everything that changes in RAM.

    with Gx(tmp_path) as gx:
        gx.plug("ttyUSB0", model="SmartBMSToUSB", serial="DK0ABC12")
        gx.boot()
        result = gx.run("sh /data/setup.sh install")
        before = gx.tree()
        gx.reboot()

Root's rights are needed (``why_not`` says what else).  Real: the shell and its commands (busybox, only
those that a GX has), daemontools, dbus-daemon, Python without the modules that a GX does not promise,
ptys for ttys, the network (there is none).  Stubs, in ``stubs/``: udev, serial-starter, the boot scripts.
Not modelled: flash that wears out or loses what was not synced (but see powercut.py), a second user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from setup import image, tree
from setup.tree import Entry, State

STUBS = Path(__file__).resolve().parent / "stubs"
PATIENCE_S = 30.0
"""Bound of every wait that is not the test's own: only met when something is broken."""
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "HOME": "/home/root", "USER": "root", "TERM": "linux",
    "FAKETIME_DISABLE_SHM": "1",
}  # fmt: skip
"""What a shell over SSH has."""
_MOUNT_POINTS = "usr dev proc sys run service data media mnt rig var/volatile"
_LINKS = {
    "bin": "usr/applets", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
    "tmp": "var/volatile/tmp", "home": "var/volatile", "var/log": "/data/log", "var/run": "/run",
    "var/tmp": "volatile/tmp",
}  # fmt: skip
_RULES = """# Which programs probe a tty, as Victron's serial-starter.rules say it in this language.
ACTION=="add", SUBSYSTEM=="tty", SUBSYSTEMS=="platform|usb-serial", SYMLINK+="serial-starter/%k"
ACTION=="add", ENV{ID_BUS}=="usb", ENV{ID_MODEL}=="VE_Direct_cable", ENV{VE_SERVICE}="vedirect"
ACTION=="add", ENV{ID_BUS}=="usb", ENV{ID_MODEL}=="MK3-USB_Interface", ENV{VE_SERVICE}="mkx"
ACTION=="add", ENV{ID_BUS}=="usb", ENV{ID_MODEL}=="FT232R_USB_UART", ENV{VE_SERVICE}="rs485:default"
ACTION=="add", ENV{ID_BUS}=="usb", ENV{VE_SERVICE}=="", ENV{VE_SERVICE}="default"
"""
_DBUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""
_UNLOCK, _NUMBER = 0x40045431, 0x80045430  # TIOCSPTLCK, TIOCGPTN: of a pty's master
_SERVICE = "#!/bin/sh\nexec 2>&1\nexec sleep 1000000\n"
"""A service of Victron's that does nothing, so that a test sees whether it was left alone."""
_LOG = "#!/bin/sh\nexec 2>&1\nexec multilog t s25000 n4 /var/log/{name}\n"


@functools.cache
def why_not() -> str:
    """Why no machine can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "the GX rig needs root's rights"
    if absent := image.missing():
        return f"the GX rig needs commands that are not installed: {' '.join(absent)}"
    trial = subprocess.run(
        ["unshare", "-m", "-p", "-n", "-u", "-i", "-f", "mount", "-t", "tmpfs", "trial", "/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"the GX rig needs Linux namespaces: {trial.stderr.strip()}" if trial.returncode else ""


@functools.cache
def _image() -> Path:
    """The image that all machines of this process share; its folder goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="gx-image-")
    _kept.append(folder)
    usr = image.build(Path(folder.name))
    for name in ("init", "behave", "uevent", "udev.py"):
        _put(usr / "libexec" / "rig" / name, (STUBS / name).read_text())
    _put(usr / "bin" / "udevadm", (STUBS / "udevadm").read_text())
    return usr


_kept: list[tempfile.TemporaryDirectory[str]] = []


def has_clock() -> bool:
    """Whether machines can have another time of day."""
    return bool(image.clocks())


def _put(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command inside ended: its status, and stdout and stderr together as they came."""

    status: int
    output: str


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that runs inside."""

    pid: int
    """As it is seen inside."""
    parent: int
    command: str

    def __str__(self) -> str:
        return self.command


@dataclasses.dataclass
class Cable:
    """A tty with a pty behind.  ``write`` and ``read`` are the side of the wire."""

    tty: str
    master: int
    number: int
    facts: dict[str, str]

    def write(self, data: bytes) -> None:
        """All at once; what does not fit is lost, as on a line that nobody reads."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.master, data)

    def read(self) -> bytes:
        """What was written to it since."""
        try:
            return os.read(self.master, 65536)
        except OSError:
            return b""


class Gx:
    """A machine, off at first.  As a context it is gone afterwards, whatever ran on it.

    ``folder``: an empty folder.  ``data``: what is on /data, instead of a new device's.
    ``data_kib``: how large /data is.  ``version``: of Venus.

    Attributes that take effect at the next boot: ``covers`` (path to text: a file that covers one of the
    root's, for example ``/usr/bin/python3``), ``has_run`` (a writable /run), ``svscan`` (services at all),
    ``clock`` (what time it is when it boots, in s since 1970; None is now; needs ``has_clock``).
    """

    def __init__(
        self, folder: Path, data: State | None = None, data_kib: int = 65536, version: str = "v3.60"
    ) -> None:
        self.folder = folder
        self.covers: dict[str, str] = {}
        self.has_run = True
        self.svscan = True
        self.clock: float | None = None
        self.cables: dict[str, Cable] = {}
        self._state = data
        self._data_kib = data_kib
        self._version = version
        self._holder: subprocess.Popen[str] | None = None
        self._power: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._boots = 0

    # The machine

    def __enter__(self) -> Gx:
        assert not why_not(), why_not()
        for name in ("root", "data", "pts", "media", "sys/class/tty", "sys/devices", "rig/behave"):
            (self.folder / name).mkdir(parents=True)
        self.firmware(self._version)
        script = (
            'mount -t tmpfs -o "mode=755,size=$2k" data "$1/data"\n'
            'mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/pts"\n'
            "echo ready\ncat >/dev/null"
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", script, "sh", self.folder, str(self._data_kib)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        if self._state is None:
            for name in ("conf", "log", "var/lib/serial-starter"):
                (self.data / name).mkdir(parents=True)
            (self.data / "conf" / "settings.xml").write_text("<?xml version='1.0'?>\n<Settings/>\n")
        else:
            self._state.write(self.data)
        return self

    def __exit__(self, *_: object) -> None:
        self.power_cut()
        for tty in list(self.cables):
            self._forget(tty)
        if self._holder is not None:
            self._holder.communicate()

    @property
    def data(self) -> Path:
        """/data as it is now, from outside; also while the machine is off.  Do not resolve it."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root{self.folder.resolve()}/data")

    def path(self, inside: str) -> Path:
        """A path of the running machine from outside (absolute links on the way lead astray)."""
        assert self._pid, "the machine is off"
        return Path(f"/proc/{self._pid}/root/{inside.lstrip('/')}")

    @property
    def root(self) -> Path:
        """The root's own files (all but /usr), writable from outside: for a firmware's differences."""
        return self.folder / "root"

    def firmware(self, version: str) -> None:
        """Replace the whole root, as a firmware update does; takes effect with the next boot."""
        assert not self._pid, "switch it off first"
        shutil.rmtree(self.root)
        for name in _MOUNT_POINTS.split():
            (self.root / name).mkdir(parents=True)
        for name, target in _LINKS.items():
            (self.root / name).symlink_to(target)
        (self.root / "home").unlink()
        (self.root / "home").symlink_to("var/volatile/home")
        etc, opt = self.root / "etc", self.root / "opt" / "victronenergy"
        for name in ("rcS", "rc5", "update-data.sh"):
            _put(etc / "init.d" / name, (STUBS / name).read_text())
        _put(etc / "udev" / "rules.d" / "serial-starter.rules", _RULES, 0o644)
        _put(etc / "dbus-1" / "system.conf", _DBUS, 0o644)
        _put(etc / "passwd", "root:x:0:0:root:/home/root:/bin/sh\n", 0o644)
        _put(etc / "group", "root:x:0:\n", 0o644)
        _put(opt / "version", f"{version}\nVenus OS\n20250601000000\n", 0o644)
        for name in ("stop-tty.sh", "start-tty.sh", "probe"):
            _put(opt / "serial-starter" / name, (STUBS / name).read_text())
        _put(opt / "service" / "serial-starter" / "run", (STUBS / "serial-starter").read_text())
        _put(opt / "service" / "dbus-systemcalc-py" / "run", _SERVICE)
        _put(opt / "service" / "dbus-systemcalc-py" / "log" / "run", _LOG.format(name="dbus-systemcalc-py"))

    def boot(self, bound_s: float = PATIENCE_S) -> None:
        """Switch on, and wait until the last boot hook has ended; TimeoutError with the console's text."""
        assert not self._pid, "it is on"
        assert self._holder is not None
        self._boots += 1
        self._note(f"boot {self._boots}")
        _flag(self.folder / "no-run", not self.has_run)
        _flag(self.folder / "rig" / "no-svscan", not self.svscan)
        covers = self.folder / "covers"
        shutil.rmtree(covers, ignore_errors=True)
        covers.mkdir()
        for path, text in self.covers.items():
            _put(covers / path.lstrip("/"), text)
        self._set_clock()
        ttys = [f"{tty}:{cable.number}" for tty, cable in self.cables.items()]
        command = ["sh", str(STUBS / "power.sh"), str(self._holder.pid)]
        command += [str(self.folder.resolve()), str(_image()), str(covers), *ttys]
        with self._console.open("ab") as console:
            self._power = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=console, bufsize=0
            )
        end = time.monotonic() + bound_s
        self._pid = int(self._heard("pid ", end))
        self._heard("booted", end)

    def _set_clock(self) -> None:
        """All processes live some seconds off, always the same; the times of files stay as they are."""
        etc = self.root / "etc"
        for name in ("ld.so.preload", "faketimerc"):
            (etc / name).unlink(missing_ok=True)
        if self.clock is not None:
            _put(etc / "ld.so.preload", f"/usr/lib/{image.CLOCK}\n", 0o644)
            _put(etc / "faketimerc", f"{self.clock - time.time():+.0f}\n", 0o644)

    def _heard(self, word: str, end: float) -> str:
        """What follows a word that the machine says on its way up."""
        assert self._power is not None
        assert self._power.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            left = max(0, end - time.monotonic())
            more = (
                os.read(self._power.stdout.fileno(), 1)
                if select.select([self._power.stdout], [], [], left)[0]
                else b""
            )
            if not more:
                raise TimeoutError(f"no {word!r} at boot; the console:\n{self.console}")
            line += more
        assert line.startswith(word.encode()), line
        return line.decode().removeprefix(word).strip()

    def power_cut(self) -> None:
        """Off, from one moment to the next.  /data stays as it was; RAM is gone."""
        if self._power is None:
            return
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                first = os.pidfd_open(self._pid)
                os.kill(self._pid, signal.SIGKILL)
                select.select([first], [], [], PATIENCE_S)  # it ends when everything inside has
                os.close(first)
        assert self._power.stdin is not None
        assert self._power.stdout is not None
        self._power.stdin.close()
        self._power.wait()
        self._power.stdout.close()
        self._power, self._pid = None, 0

    def off(self) -> None:
        """Off, in order: services are stopped first."""
        self.run(
            "killall svscan; svc -dx /service/* /service/*/log; "
            "n=0; while pgrep supervise >/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done"
        )
        self.power_cut()

    def reboot(self) -> None:
        """Off in order, and on."""
        self.off()
        self.boot()

    def firmware_update(self, version: str) -> None:
        """The root is replaced, foreign changes in it are gone; then it boots."""
        self.off()
        self.firmware(version)
        self.boot()

    # What is done to it from outside

    def limit_data(self, kib: int) -> None:
        """Make /data so large; what is on it already stays, however much it is."""
        self._hold("mount", "-o", f"remount,size={kib}k", str(self.folder.resolve() / "data"))

    def data_used_kib(self) -> int:
        status = os.statvfs(self.data)
        return (status.f_blocks - status.f_bfree) * status.f_frsize // 1024

    def read_only_data(self, read_only: bool = True) -> None:
        """/data cannot be written to, or again.  Switch off first: no file may be open for writing."""
        self._hold(
            "mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(self.folder.resolve() / "data")
        )

    def _hold(self, *command: str) -> None:
        assert self._holder is not None
        subprocess.run(["nsenter", "--mount", "--target", str(self._holder.pid), "--", *command], check=True)

    def stick(self, name: str = "sda1") -> Path:
        """The folder of a stick that is in, now and at each boot; delete it to pull the stick."""
        folder = self.folder / "media" / name
        folder.mkdir(exist_ok=True)
        return folder

    def behave(self, stub: str, how: str | None) -> None:
        """Let ``stop-tty.sh``, ``start-tty.sh``, ``udevadm``, ``udevadm trigger`` ... "hang" or "fail"."""
        file = self.folder / "rig" / "behave" / stub
        file.unlink(missing_ok=True)
        if how:
            file.write_text(how)

    def plug(
        self, tty: str, model: str = "SmartBMSToUSB", serial: str = "", maker: str = "FTDI", port: str = ""
    ) -> Cable:
        """Plug a USB cable in; ``port`` is where, for example ``1-1.2``.  Without a serial number: none."""
        assert self._holder is not None
        pts = Path(f"/proc/{self._holder.pid}/root{self.folder.resolve()}/pts")
        master = os.open(pts / "ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(master, _UNLOCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(master, _NUMBER, b"    "))
        slave = os.open(pts / str(number), os.O_RDWR | os.O_NOCTTY)
        _make_raw(slave)
        os.close(slave)
        facts = {
            "product": model,
            "serial": serial,
            "manufacturer": maker,
            "idVendor": "0403",
            "idProduct": "6001",
        }
        cable = self.cables[tty] = Cable(tty, master, number, facts)
        self._describe(cable, port or f"1-{int(tty.lstrip('tyUSBACM')) + 1}")
        if self._pid:
            self._inside(f"touch /dev/{tty} && mount --bind /dev/pts/{number} /dev/{tty}")
            self._inside(f"/usr/libexec/rig/uevent add {tty}")
        return cable

    def _describe(self, cable: Cable, port: str) -> None:
        """What sysfs says of a USB device: as far as udev and pyserial read it."""
        sys = self.folder / "sys"
        usb = sys / "devices" / "usb1" / port
        interface = usb / f"{port}:1.0" / cable.tty
        own = interface / "tty" / cable.tty
        own.mkdir(parents=True)
        for name, bus in ((interface, "usb-serial"), (interface.parent, "usb"), (usb, "usb")):
            (sys / "bus" / bus).mkdir(parents=True, exist_ok=True)
            (name / "subsystem").symlink_to(os.path.relpath(sys / "bus" / bus, name))
        (own / "device").symlink_to("../../../" + cable.tty)
        (own / "dev").write_text(f"188:{cable.number}\n")
        for name_, text in {**cable.facts, "bNumInterfaces": " 1"}.items():
            if text:
                (usb / name_).write_text(text + "\n")
        (sys / "class" / "tty" / cable.tty).symlink_to(os.path.relpath(own, sys / "class" / "tty"))
        listed = sys / "bus" / "usb" / "devices"
        listed.mkdir(exist_ok=True)
        (listed / port).symlink_to(os.path.relpath(usb, listed))

    def unplug(self, tty: str) -> None:
        """Pull a cable: its tty goes, who has it open reads an error."""
        if self._pid:
            self._inside(f"umount -l /dev/{tty}; rm /dev/{tty}")
        self._forget(tty)
        if self._pid:
            self._inside(f"/usr/libexec/rig/uevent remove {tty}")

    def _forget(self, tty: str) -> None:
        os.close(self.cables.pop(tty).master)
        link = self.folder / "sys" / "class" / "tty" / tty
        usb = link.resolve().parents[3]
        link.unlink()
        (self.folder / "sys" / "bus" / "usb" / "devices" / usb.name).unlink()
        shutil.rmtree(usb)

    # What is done inside

    def command(self, command: str | Sequence[str], **environment: str) -> list[str]:
        """The command of this computer that runs one inside, as a shell over SSH would."""
        assert self._pid, "the machine is off"
        inner = ["sh", "-c", command] if isinstance(command, str) else list(command)
        variables = [f"{name}={value}" for name, value in (_ENVIRONMENT | environment).items()]
        enter = [
            "nsenter",
            "--target",
            str(self._pid),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
        ]
        return [*enter, "--wd=/", "--", "/usr/bin/env", "-i", *variables, *inner]

    def run(
        self,
        command: str | Sequence[str],
        stdin: bytes = b"",
        bound_s: float = PATIENCE_S,
        **environment: str,
    ) -> Result:
        """Run a command inside and wait for it, but not for what it leaves running.

        TimeoutError after the bound, with what it said.
        """
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
            source.write(stdin)
            source.seek(0)
            process = subprocess.Popen(
                self.command(command, **environment),
                stdin=source, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
            try:
                status: int | None = process.wait(bound_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = None
            output.seek(0)
            text = output.read().decode(errors="replace")
        if status is None:
            raise TimeoutError(f"{command!r} has not ended; it said:\n{text}")
        return Result(status, text)

    def _inside(self, command: str) -> None:
        result = self.run(command)
        assert result.status == 0, result

    # What is seen

    @property
    def console(self) -> str:
        """What the boots and their hooks printed."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def _console(self) -> Path:
        return self.folder / "console"

    @property
    def calls(self) -> list[str]:
        """What the stubs were asked and what they did, over all boots, which are lines of their own."""
        return (self.folder / "rig" / "calls").read_text().splitlines()

    def _note(self, line: str) -> None:
        with (self.folder / "rig" / "calls").open("a") as file:
            file.write(line + "\n")

    def tree(self, *folders: str) -> dict[str, Entry]:
        """A picture of folders inside, byte for byte; of all that can change, if none is named."""
        found: dict[str, Entry] = {}
        for folder in folders or ("/data", "/run", "/service", "/dev"):
            found |= tree.read(self.path(folder), folder)
        return {path: entry for path, entry in found.items() if not path.startswith("/dev/pts/")}

    def state(self) -> State:
        """What is on /data now."""
        return State.of(self.data)

    def processes(self) -> list[Process]:
        """What runs inside, without PID 1 and kernel's leftovers of processes that ended."""
        return [one for one in self._all_processes() if one.pid != 1 and one.command != "sleep 4000000"]

    def _all_processes(self) -> Iterator[Process]:
        for folder in self.path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    command = (
                        (folder / "cmdline")
                        .read_bytes()
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                        .strip()
                    )
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    if command:
                        yield Process(int(folder.name), parent, command)

    def zombies(self) -> list[str]:
        """Processes that have ended and that nobody has waited for."""
        stats = [path.read_text() for path in self.path("/proc").glob("[0-9]*/stat")]
        return [stat for stat in stats if stat.rpartition(")")[2].split()[0] == "Z"]

    def properties(self, tty: str) -> dict[str, str]:
        """What udev knows of a tty."""
        lines = self.run(["udevadm", "info", "-q", "property", "-n", f"/dev/{tty}"]).output.splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def bus(self) -> str:
        """The address of its D-Bus, from outside."""
        return f"unix:path={self.path('/run/dbus/system_bus_socket')}"


def _flag(path: Path, there: bool) -> None:
    path.unlink(missing_ok=True)
    if there:
        path.touch()


def _make_raw(slave: int) -> None:
    """No echo, no lines, as a serial line that was never opened; so a test may write before anyone reads."""
    modes = termios.tcgetattr(slave)
    modes[0] = modes[1] = modes[3] = 0
    modes[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
    termios.tcsetattr(slave, termios.TCSANOW, modes)
