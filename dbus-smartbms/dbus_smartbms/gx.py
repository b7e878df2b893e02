"""The GX device as ``doctor`` finds it: its files, its services, its log.  Everything is only read.

All paths lie below a root, which on the device is ``/``; what is said of them is without it.  Nothing here
waits for ever: commands and whole sections have a time limit, files are read up to a size.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from . import starts
from .link import in_thread

_T = TypeVar("_T")

NAME = "dbus-smartbms"
APPS, APP = "/data/apps", "/data/apps/dbus-smartbms"
CONFIGURATION, STATE = "/data/conf/dbus-smartbms.ini", "/data/conf/dbus-smartbms.state"
TAKEOVER = "/data/conf/dbus-smartbms.takeover"
"""The user said that the vendor's driver is to make way for this one."""
RUNTIME, LOCK = "/run/dbus-smartbms", "/run/dbus-smartbms.lock"
"""The lock is a link to the number of the process that has it."""
MACHINE, MODEL = "/etc/venus/machine", "/sys/firmware/devicetree/base/model"
HOOK = "/data/rcS.local"
DISABLED = ".disabled"
"""What the GUI puts behind the name of a hook that it switches off."""
RULE = "/run/udev/rules.d/zz-dbus-smartbms.rules"
SERVICE, SERVICE_LOG = "/service/dbus-smartbms", "/service/dbus-smartbms/log"
VENDOR = "/data/123SmartBMS-Venus"
VENDOR_SERVICES = ("123SmartBMS-Venus", "smartbms-dbus.*")
LOGS = ("/run/dbus-smartbms/log", "/data/log/dbus-smartbms")
"""The first is in use where the second, which on a GX is /var/log, could not be written."""
_LOG_FILE = re.compile(r"@[0-9a-f]{24}\.[su]|current")
BOOT_LINES, LONGEST_LINE = 5, 200
"""What is shown of the boot's log; of a line, characters."""
COMMAND_S = 3.0
LARGEST = 65_536
_TAI = (1 << 62) + 10
"""multilog's second 0 (libtai's ``tai_now``: 10 s and no leap seconds after that)."""
_STAMP = re.compile("@([0-9a-f]{16})([0-9a-f]{8}) ?")


def bounded(work: Callable[[], _T], seconds: float) -> _T:
    """Run in a thread: one that hangs holds up nothing.  Raises what the work raises, and TimeoutError."""
    done = in_thread(work)
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None


def command(*words: str, folder: Path | None = None, seconds: float = COMMAND_S) -> str:
    """What a program prints, whatever its status.

    Raises OSError, with a sentence, for one that hangs or is missing.
    """
    path = os.environ.get("PATH", "") + ":/usr/bin:/bin:/usr/sbin:/sbin"
    try:
        process = subprocess.Popen(
            words, cwd=folder, env=os.environ | {"PATH": path, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise ChildProcessError(f"there is no {words[0]}") from None
    try:
        return process.communicate(timeout=seconds)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # not even that ends one that waits for a disk
            process.communicate(timeout=1)
        raise ChildProcessError(f"{words[0]} does not end within {seconds:g} s") from None


class Machine(NamedTuple):
    """The device and what is installed."""

    package: str | None
    """The folder that the app's link leads to, with version and digest in its name; None: no link."""
    damaged: list[str] | None
    """Files of the package that are not as they were shipped; None: not known."""
    free_kib: int | None
    """Of ``/data``; None: there is none."""
    about: list[tuple[str, str]]
    """What else there is to know, with labels."""


class Supervised(NamedTuple):
    """A folder of svscan's, and what ``svstat`` says of it, such as ``up (pid 9) 5 seconds``."""

    name: str
    there: bool
    said: str = ""

    @property
    def pid(self) -> int | None:
        """Of the process, while it is up."""
        match = re.match(r"up \(pid (\d+)", self.said)
        return int(match[1]) if match else None

    @property
    def seconds(self) -> int | None:
        """Since it came up or went down."""
        match = re.search(r"(\d+) seconds", self.said)
        return int(match[1]) if match else None

    @property
    def starting(self) -> bool:
        """Whether it has ended and will be started again at once."""
        return "want up" in self.said


class Services(NamedTuple):
    """What runs, what starts it, and what is beside it."""

    driver: Supervised
    log: Supervised
    hook: str
    """"ours", "disabled", "not executable", "foreign" (without our line) or "none"."""
    rule: bool
    why: str | None
    """What the boot hook or the service says of why the driver is not started."""
    restarts: int
    """Starts after an end that was not in order, as many as the driver remembers."""
    takeover: bool
    vendor: bool
    """Whether the vendor's driver is installed."""
    vendor_services: list[Supervised]
    boot_log: tuple[str, ...] = ()
    """What the boot hook said, its first lines."""
    hook_lines: tuple[tuple[int, str], ...] = ()
    """The lines of the hook that name us, with their numbers; what else is in it is nobody's business."""
    hook_count: int = 0
    """How many lines the hook has."""
    apps: tuple[str, ...] = ()
    """What of ours is in ``/data/apps``."""
    lock: str = ""
    """Who has setup.sh's lock, in words; "" where nobody has."""


class Gx:
    """A device below a root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where something of the device is."""
        return self.root / name.lstrip("/")

    def shown(self, text: str) -> str:
        """A text without the root."""
        root = str(self.root).rstrip("/")
        return text.replace(root + "/", "/") if root else text

    def read(self, name: str, most: int = LARGEST) -> str | None:
        """The end of a file; None where there is none that can be read.  Never waits, for a pipe neither."""
        data = self.read_bytes(name, most)
        return None if data is None else data.decode(errors="replace").replace("\0", "")

    def read_bytes(self, name: str, most: int = LARGEST) -> bytes | None:
        """Likewise, as it is."""
        try:
            with open(
                self.path(name), "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
            ) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None
                if status.st_size > most:
                    file.seek(-most, os.SEEK_END)
                return file.read(most)
        except OSError:
            return None

    def line(self, name: str) -> str | None:
        """The first line of a file; None where there is none."""
        lines = (self.read(name) or "").splitlines()
        return lines[0].strip() if lines else None

    def machine(self) -> Machine:
        """What this is."""
        texts = ((label, name, self.read(name), says) for label, name, says in _ABOUT)
        about = [("date and time", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))]
        about += [
            (label, f"not known: there is no {name}" if text is None else says(text))
            for label, name, text, says in texts
        ]
        return Machine(self._package(), self._damaged(), self._free_kib(), about)

    def _package(self) -> str | None:
        try:
            return self.path(APP).readlink().name
        except OSError:
            return None

    def _damaged(self) -> list[str] | None:
        folder = self.path(APP)
        if not (folder / "SHA256SUMS").is_file():
            return None
        try:
            said = command("sha256sum", "-c", "SHA256SUMS", folder=folder, seconds=2 * COMMAND_S)
        except OSError:
            return None
        results = re.findall(r"^(.+): (OK|FAILED)", said, re.MULTILINE)
        # A list that a power cut left empty checks nothing.
        return [name for name, result in results if result == "FAILED"] if results else ["SHA256SUMS"]

    def _free_kib(self) -> int | None:
        try:
            disk = os.statvfs(self.path("/data"))
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize // 1024

    def services(self) -> Services:
        """What runs and what starts it."""
        vendor = [
            f"/service/{path.name}" for name in VENDOR_SERVICES for path in self.path("/service").glob(name)
        ]
        driver, log, *vendors = self.supervised(SERVICE, SERVICE_LOG, *sorted(vendor))
        boot_log = (self.read(f"{RUNTIME}/boot.log") or "").splitlines()
        hook = self._hook()
        hook_lines = (self.read(HOOK + (DISABLED if hook == "disabled" else "")) or "").splitlines()
        return Services(
            driver,
            log,
            hook,
            self.read(RULE, 1) is not None,
            self.read(f"{RUNTIME}/why", 1000),
            len(starts.read(self.read(f"{RUNTIME}/starts", starts.LARGEST) or "", time.monotonic()).restarts),
            self.read(TAKEOVER, 1) is not None,
            self.path(VENDOR).is_dir(),
            vendors,
            tuple(line[:LONGEST_LINE] for line in boot_log[:BOOT_LINES]),
            tuple((n, line[:LONGEST_LINE]) for n, line in enumerate(hook_lines, 1) if NAME in line),
            len(hook_lines),
            tuple(name for name in names_in(self.path(APPS)) if NAME in name),
            self._lock(),
        )

    def _lock(self) -> str:
        try:
            owner = self.path(LOCK).readlink().name
        except OSError:
            return ""
        if owner.isdecimal() and self.path(f"/proc/{owner}").exists():
            return f"setup.sh is at work (pid {owner})"
        return (
            f"{LOCK} is there, but its process {owner[:LONGEST_LINE]} is gone: the next setup.sh removes it"
        )

    def supervised(self, *names: str) -> list[Supervised]:
        """What ``svstat`` says of each now."""
        there = [name for name in names if self.path(name).is_dir()]
        try:
            lines = command("svstat", *(str(self.path(name)) for name in there)).splitlines() if there else []
            said = {name: what for name, _, what in (self.shown(line).partition(": ") for line in lines)}
        except OSError as error:
            said = dict.fromkeys(there, str(error))
        return [Supervised(name, name in there, said.get(name, "")) for name in names]

    def _hook(self) -> str:
        if self._names_us(HOOK + DISABLED):
            return "disabled"
        if not self._names_us(HOOK):
            return "foreign" if self.path(HOOK).exists() else "none"
        return "ours" if os.access(self.path(HOOK), os.X_OK) else "not executable"

    def _names_us(self, name: str) -> bool:
        lines = (self.read(name) or "").splitlines()
        return any(NAME in line and not line.lstrip().startswith("#") for line in lines)

    def logs(self) -> list[str]:
        """The driver's log files, the oldest first, at most five."""
        for folder in LOGS:
            # multilog's stamps sort by time, and "current" after "@".
            names = [name for name in names_in(self.path(folder)) if _LOG_FILE.fullmatch(name)]
            if names:
                return [f"{folder}/{name}" for name in names[-5:]]
        return []

    def last_lines(self, count: int) -> list[str]:
        """The newest lines of the log, with times in UTC; none where there is no log."""
        lines: list[str] = []
        for name in reversed(self.logs()):
            lines = (self.read(name) or "").splitlines() + lines
            if len(lines) >= count:
                break
        return [utc(line) for line in lines[-count:]]

    def secrets(self) -> list[str]:
        """What no report may have: portal id, serial number, host name, network addresses."""
        ids = [self.line("/data/venus/unique-id"), self.line("/data/venus/serial-number")]
        own = f"{self.line(MACHINE)} {self.line(MODEL)} localhost"
        hosts = [self.line("/etc/hostname"), os.uname().nodename]
        folder = "/sys/class/net"
        macs = [self.line(f"{folder}/{card}/address") or "" for card in names_in(self.path(folder))]
        macs = [mac for mac in macs if mac.strip("0:")]
        found = [
            *ids, *(host for host in hosts if host and host.lower() not in own.lower()),
            *macs, *(mac.replace(":", "") for mac in macs),
        ]  # fmt: skip
        return [secret for secret in found if secret and len(secret) > 2]


_PASSWORD = re.compile(r"((?:passw|secret|token)\w*[\"' \t:=]+)[^\s\"']+", re.IGNORECASE)


def hide(text: str, secrets: Iterable[str]) -> str:
    """A text without what nobody else should read."""
    for secret in secrets:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "(hidden)", text, flags=re.IGNORECASE)
    return _PASSWORD.sub(r"\1(hidden)", text)


def utc(line: str) -> str:
    """A line of multilog's with its TAI64N stamp as a time in UTC; any other as it is."""
    match = _STAMP.match(line)
    if not match:
        return line
    seconds = int(match[1], 16) - _TAI
    if not 0 <= seconds < 1 << 33:
        return line
    return time.strftime("%Y-%m-%d %H:%M:%S ", time.gmtime(seconds)) + line[match.end() :]


def names_in(folder: Path) -> list[str]:
    """What a folder holds; nothing where there is none."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _version(text: str) -> str:
    """Of the image: the version is its first line, the build (a timestamp) its third."""
    lines = text.split("\n")
    return f"{lines[0]} (build {lines[2]})" if lines[2:] else text.strip()


def _up(text: str) -> str:
    return f"{float(text.split(maxsplit=1)[0]) / 3600:.1f} h"


def _memory(text: str) -> str:
    sizes = dict(re.findall(r"^(MemAvailable|MemTotal):\s*(\d+)\d{3} kB", text, re.MULTILINE))
    return f"{sizes.get('MemAvailable', '-')} of {sizes.get('MemTotal', '-')} MB"


_ABOUT: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("Venus OS", "/opt/victronenergy/version", _version),
    ("machine", MACHINE, str.strip),
    ("model", MODEL, str.strip),
    ("image", "/etc/venus/image-type", str.strip),
    ("up", "/proc/uptime", _up),
    ("free memory", "/proc/meminfo", _memory),
)
"""A label, a file, and what is made of it."""
