"""The rig of the installer's tests: that it is what it claims to be."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial
from dbus_fast.aio import MessageBus

from setup import image, powercut, tree
from setup.gx import PATIENCE_S, Gx, has_clock, why_not
from setup.tree import Entry

RULE = 'ACTION!="remove", SUBSYSTEM=="tty", ENV{ID_BUS}=="usb", ENV{ID_MODEL}=="SmartBMSToUSB", '
IGNORE = RULE + 'ENV{VE_SERVICE}="ignore"\n'


@pytest.fixture
def gx(tmp_path: Path) -> Iterator[Gx]:
    """A machine that is off, with a new device's /data."""
    if why_not():
        pytest.skip(why_not())
    with Gx(tmp_path / "gx") as machine:
        yield machine


def test_where_there_are_no_machines_it_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    if why_not():
        with capsys.disabled():
            print(f"\n\n*** the installer is NOT tested here: {why_not()} ***\n")
    assert why_not() == "" or "GX rig" in why_not()


def hook(path: Path, *lines: str, mode: int = 0o755) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(mode)


def wait_for(look: Callable[[], object]) -> None:
    """Until a look gives something true."""
    end = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end, "not seen within the bound"
        time.sleep(0.02)


# The machine


def test_only_ram_and_data_can_be_written_to(gx: Gx) -> None:
    gx.boot()
    for folder in (
        "/",
        "/usr/bin",
        "/bin",
        "/etc/udev/rules.d",
        "/opt/victronenergy/service",
        "/sys/class/tty",
    ):
        result = gx.run(f"touch {folder}/x")
        assert "Read-only file system" in result.output, folder
    for folder in "/data /run /service /tmp /dev /home/root /var/log /media".split():  # noqa: SIM905
        assert gx.run(f"touch {folder}/x").status == 0, folder


def test_commands_are_those_of_a_gx(gx: Gx) -> None:
    gx.boot()
    found = set(gx.run("for d in $(echo $PATH | tr : ' '); do ls $d 2>/dev/null; done").output.split())
    assert found <= {*image.APPLETS, *image.DAEMONTOOLS, *image.DBUS, "python3", "udevadm"}
    assert {"sh", "tar", "sed", "pgrep", "setsid", "svc", "multilog", "softlimit"} <= found
    for command in (
        "timeout",
        "install",
        "bash",
        "wget",
        "curl",
        "rsync",
        "perl",
        "sudo",
        "systemctl",
        "busybox",
    ):
        assert gx.run(f"{command} --help").status == 127, command


def test_every_command_runs(gx: Gx) -> None:
    """No library is missing, and every link leads to an applet that busybox has."""
    gx.boot()
    said = gx.run(
        "for c in /bin/* /usr/bin/*; do case $c in */yes) ;; *) $c --help </dev/null 2>&1; esac; done"
    ).output
    assert "Usage:" in said
    for fault in ("applet not found", "error while loading", "not found"):
        assert fault not in said


def test_modules_that_are_not_promised_are_not_there(gx: Gx) -> None:
    gx.boot()
    tried = "import importlib, sys\nfor name in sys.argv[1:]:\n    try: importlib.import_module(name)\n"
    tried += "    except ImportError: print(name)\n"
    python = ["python3", "-I", "-S", "-c", tried]
    assert gx.run([*python, *image.UNPROMISED]).output.split() == [*image.UNPROMISED]
    promised = """asyncio argparse configparser contextlib dataclasses enum fcntl functools heapq itertools
        json logging os pathlib re select shutil signal socket struct subprocess tempfile termios threading
        time typing weakref xml.etree.ElementTree zipfile"""
    assert gx.run([*python, *promised.split()]).output == ""


def test_there_is_no_network(gx: Gx) -> None:
    gx.boot()
    assert gx.run("tail -n +3 /proc/net/dev | cut -d: -f1").output.split() == ["lo"]
    connect = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    assert "Network is unreachable" in gx.run(["python3", "-I", "-S", "-c", connect]).output


def test_nothing_of_a_machine_is_left(tmp_path: Path) -> None:
    if why_not():
        pytest.skip(why_not())
    with Gx(tmp_path / "gx") as gx:
        gx.boot()
        namespace = gx.path("/proc/1/ns/pid").readlink()
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()  # the tests' own mounts stay
        running = in_namespace(namespace)
        assert running
    assert not running & in_namespace(namespace)  # its number may be another machine's by now


def in_namespace(namespace: Path) -> set[tuple[str, str]]:
    """The processes of a PID namespace: each with when it began, which no two with one number have."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "ns" / "pid").readlink() == namespace:
                found.add((folder.name, (folder / "stat").read_text().rpartition(")")[2].split()[19]))
    return found


def test_a_command_has_its_status_output_input_and_bound(gx: Gx) -> None:
    gx.boot()
    assert gx.run("cat; echo oops >&2; exit 3", stdin=b"hello\n").output == "hello\noops\n"
    assert gx.run("exit 3").status == 3
    assert gx.run("echo $NAME", NAME="value").output == "value\n"
    with pytest.raises(TimeoutError, match="begun"):
        gx.run("echo begun; sleep 60", bound_s=0.3)
    assert gx.run("sleep 60 & echo left").output == "left\n"  # what is left running holds up nothing
    wait_for(lambda: "sleep 60" in map(str, gx.processes()))


def test_orphans_are_reaped(gx: Gx) -> None:
    gx.boot()
    assert gx.run("(sleep 0.31 & sleep 0.32 &) ; true").status == 0
    wait_for(lambda: not [one for one in gx.processes() if str(one) in ("sleep 0.31", "sleep 0.32")])
    wait_for(lambda: gx.zombies() == [])


# Boot


def test_boot_is_in_the_order_of_venus(gx: Gx) -> None:
    look = "echo $0 $(ls /service | wc -l) $(pgrep svscan | wc -l) $(ls /dev/ttyUSB0) >>/data/order"
    gx.plug("ttyUSB0")
    hook(gx.data / "rcS.local", look, "exit 1")
    hook(gx.data / "rc.local", look)
    pack(gx.stick() / "venus-data-x.tgz", {"rc/pre-hook.sh": look})
    gx.boot()
    first, stick, last = (gx.data / "order").read_text().splitlines()
    assert first == "/data/rcS.local 2 0 /dev/ttyUSB0"
    assert stick.endswith("/rc/pre-hook.sh 2 0 /dev/ttyUSB0")
    assert last == "/data/rc.local 2 1 /dev/ttyUSB0"


def test_a_hook_that_is_not_executable_is_not_run(gx: Gx) -> None:
    hook(gx.data / "rc.local", "touch /data/ran", mode=0o644)
    gx.boot()
    assert not (gx.data / "ran").exists()


def test_a_hook_that_hangs_holds_up_the_boot(gx: Gx) -> None:
    hook(gx.data / "rcS.local", "echo here; sleep 60")
    with pytest.raises(TimeoutError, match="here"):
        gx.boot(bound_s=0.5)


def test_ram_goes_and_data_stays(gx: Gx) -> None:
    gx.boot()

    def cut() -> None:
        gx.power_cut()
        gx.boot()

    for again in (gx.reboot, cut):
        gx.run("for f in run service tmp dev home/root data; do echo x >/$f/mine; done")
        again()
        found = gx.run(
            "ls /run/mine /service/mine /tmp/mine /dev/mine /home/root/mine /data/mine 2>/dev/null"
        ).output
        assert found == "/data/mine\n"


def test_a_firmware_update_replaces_the_root(gx: Gx) -> None:
    foreign = gx.root / "etc" / "udev" / "rules.d" / "foreign.rules"
    foreign.write_text("# a driver's that was written there\n")
    gx.boot()
    assert gx.run("ls /etc/udev/rules.d").output.split() == ["foreign.rules", "serial-starter.rules"]
    gx.run("echo x >/data/mine")
    gx.firmware_update("v3.70")
    assert gx.run("ls /etc/udev/rules.d").output.split() == ["serial-starter.rules"]
    assert gx.run("head -n 1 /opt/victronenergy/version; cat /data/mine").output == "v3.70\nx\n"


def test_files_of_the_root_can_be_covered(gx: Gx) -> None:
    gx.covers["/usr/bin/python3"] = "#!/bin/sh\necho Python 3.8.13\n"
    gx.plug("ttyUSB0")
    gx.boot()
    assert gx.run("python3 --version").output == "Python 3.8.13\n"
    assert gx.properties("ttyUSB0")["ID_MODEL"] == "SmartBMSToUSB"  # the stubs have a Python of their own
    gx.covers.clear()
    gx.reboot()
    assert gx.run("python3 --version").output != "Python 3.8.13\n"


def test_run_can_be_missing(gx: Gx) -> None:
    gx.has_run = False
    gx.boot()
    assert "Read-only" in gx.run("touch /run/x").output


@pytest.mark.skipif(not has_clock(), reason="the package libfaketime is not installed")
def test_it_can_be_1970(gx: Gx) -> None:
    gx.clock = 60
    hook(gx.data / "rcS.local", "date +%Y >/data/year")
    gx.boot()
    python = "import time; a = time.monotonic(); time.sleep(0.1); print(time.gmtime().tm_year)"
    assert gx.run(["python3", "-I", "-S", "-c", python]).output == "1970\n"
    assert (gx.data / "year").read_text() == "1970\n"


def test_data_can_be_full_or_read_only(gx: Gx) -> None:
    gx.boot()
    gx.limit_data(gx.data_used_kib() + 8)
    assert "No space left" in gx.run("dd if=/dev/zero of=/data/large bs=20000 count=1").output
    assert gx.run("rm /data/large; head -c 8000 /dev/zero >/data/small").status == 0
    gx.power_cut()
    gx.limit_data(65536)
    gx.read_only_data()
    gx.boot()
    assert "Read-only" in gx.run("touch /data/x").output
    gx.off()
    gx.read_only_data(False)
    gx.boot()
    assert gx.run("touch /data/x").status == 0


# Services


def test_a_service_is_started_and_started_again(gx: Gx) -> None:
    gx.boot()
    service = gx.path("/service/.mine")
    (service / "log").mkdir(parents=True)
    hook(service / "run", "echo started", "exec sleep 77777")
    hook(service / "log" / "run", "exec multilog t s25000 n4 /var/log/mine")
    gx.run("mv /service/.mine /service/mine")
    wait_for(lambda: "sleep 77777" in map(str, gx.processes()))
    assert gx.run("pkill -f 'sleep 77777'").status == 0
    log = gx.data / "log" / "mine" / "current"
    wait_for(lambda: log.exists() and log.read_text().count("started") == 2)
    gx.run("mv /service/mine /service/.mine; svc -dx /service/.mine /service/.mine/log")
    wait_for(
        lambda: not [one for one in gx.processes() if "sleep 77777" in str(one) or "log/mine" in str(one)]
    )


def test_services_can_be_left_out(gx: Gx) -> None:
    gx.svscan = False
    gx.boot()
    assert not [one for one in gx.processes() if "sv" in one.command]


# Sticks


def pack(path: Path, members: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            archive.addfile(member, io.BytesIO(text.encode()))


def test_a_stick_is_unpacked_at_every_boot_while_it_is_in(gx: Gx) -> None:
    archive = gx.stick() / "venus-data-x.tgz"
    note = "echo $(basename $0) $1 $(ls /data/payload 2>/dev/null) >>/data/order\n"
    pack(archive, {"rc/pre-hook.sh": note, "rc/post-hook.sh": note, "payload": "x"})
    gx.boot()
    once = ["pre-hook.sh", "post-hook.sh success /data/payload"]
    assert (gx.data / "order").read_text().splitlines() == once
    assert not (gx.data / "rc").exists()
    (gx.data / "payload").unlink()
    gx.reboot()
    assert (gx.data / "order").read_text().splitlines() == once * 2
    shutil.rmtree(gx.stick())
    gx.reboot()
    assert (gx.data / "order").read_text().splitlines() == once * 2


def test_a_hook_before_that_fails_refuses_the_archive_only(gx: Gx) -> None:
    pack(
        gx.stick("sda1") / "venus-data-a.tgz",
        {"rc/pre-hook.sh": "exit 1", "rc/post-hook.sh": "touch /data/p", "a": ""},
    )
    pack(gx.stick("sdb1") / "venus-data-b.tar.gz", {"b": ""})
    pack(gx.stick("sdb1") / "other-c.tgz", {"c": ""})
    gx.boot()
    assert [(gx.data / name).exists() for name in "abcp"] == [False, True, False, False]


def test_hooks_named_with_a_dot_are_not_run(gx: Gx) -> None:
    pack(gx.stick() / "venus-data-x.tgz", {"./rc/pre-hook.sh": "touch /data/ran", "./payload": ""})
    gx.boot()
    assert (gx.data / "payload").exists()
    assert not (gx.data / "ran").exists()


def test_a_hook_after_hears_of_a_failure(gx: Gx) -> None:
    pack(gx.stick() / "venus-data-x.tgz", {"rc/post-hook.sh": "echo $1 >/run/how", "large": "x" * 20000})
    gx.limit_data(gx.data_used_kib() + 8)
    gx.boot()
    assert gx.run("cat /run/how").output == "extraction-failed\n"


def test_a_stick_that_is_mounted_late_is_seen(gx: Gx) -> None:
    gx.boot()
    part = gx.folder / "part"
    part.mkdir()
    pack(part / "venus-data-x.tgz", {"payload": ""})
    part.rename(gx.folder / "media" / "sda1")
    wait_for((gx.data / "payload").exists)


# Cables, udev, serial-starter


def test_an_unknown_tty_is_probed_and_an_ignored_one_is_not(gx: Gx) -> None:
    gx.plug("ttyUSB0", model="SmartBMSToUSB", serial="DK1")
    gx.plug("ttyUSB1", model="VE Direct cable")
    gx.plug("ttyUSB2", model="FT232R USB UART", serial="A10")
    hook(gx.data / "rcS.local", f"echo '{IGNORE.strip()}' >/run/udev/rules.d/zz.rules",
         "udevadm control --reload", "udevadm trigger --action=change --sysname-match=ttyUSB0")  # fmt: skip
    gx.boot()
    wait_for(lambda: {"probe ttyUSB1 vedirect", "probe ttyUSB2 rs485:default"} <= set(gx.calls))
    wait_for(lambda: gx.run("ls /dev/serial-starter").output == "")
    assert not [line for line in gx.calls if line.startswith("probe ttyUSB0")]
    assert gx.properties("ttyUSB0")["VE_SERVICE"] == "ignore"
    assert gx.properties("ttyUSB2")["ID_SERIAL_SHORT"] == "A10"


def test_a_probe_ends_when_its_tty_is_stopped(gx: Gx) -> None:
    gx.plug("ttyUSB0")
    gx.boot()

    def probed() -> bool:
        return "probe ttyUSB0" in " ".join(map(str, gx.processes()))

    wait_for(probed)
    assert gx.run("/opt/victronenergy/serial-starter/stop-tty.sh ttyUSB0").status == 0
    wait_for(lambda: not probed())
    gx.run("/opt/victronenergy/serial-starter/start-tty.sh ttyUSB0")
    wait_for(probed)
    assert "stop-tty.sh ttyUSB0" in gx.calls


def test_stubs_hang_and_fail_as_told(gx: Gx) -> None:
    gx.behave("stop-tty.sh", "hang")
    gx.behave("udevadm trigger", "fail")
    gx.boot()
    with pytest.raises(TimeoutError):
        gx.run("/opt/victronenergy/serial-starter/stop-tty.sh ttyUSB0", bound_s=0.3)
    assert gx.run("udevadm trigger").status == 1
    assert gx.run("udevadm control --reload").status == 0
    gx.behave("udevadm", "hang")
    with pytest.raises(TimeoutError):
        gx.run("udevadm control --reload", bound_s=0.3)
    gx.behave("udevadm", None)
    gx.behave("udevadm trigger", None)
    assert gx.run("udevadm trigger").status == 0


class TestUdev:
    """The stub against what eudev's source says."""

    @pytest.fixture
    def quiet(self, gx: Gx) -> Gx:
        gx.svscan = False
        gx.plug("ttyUSB0", serial="DK1")
        gx.boot()
        return gx

    def rule(self, gx: Gx, text: str, name: str = "zz.rules") -> None:
        gx.path(f"/run/udev/rules.d/{name}").write_text(text)

    def service(self, gx: Gx, *commands: str) -> str | None:
        for command in commands:
            result = gx.run(f"udevadm {command}")
            assert (result.status, result.output) == (0, "")
        return gx.properties("ttyUSB0").get("VE_SERVICE")

    def test_a_rule_counts_after_a_reload_and_an_event(self, quiet: Gx) -> None:
        self.rule(quiet, IGNORE)
        assert self.service(quiet, "trigger --action=change") is None  # serial-starter's is for "add" alone
        assert self.service(quiet, "control --reload") is None
        assert self.service(quiet, "trigger -n --action=change") is None  # -n is a dry run
        assert self.service(quiet, "trigger --action=change --sysname-match=ttyUSB1") is None
        assert self.service(quiet, "trigger --action=change --sysname-match=ttyUSB0") == "ignore"

    @pytest.mark.parametrize("chosen", ["--name-match=/dev/ttyUSB0", "/dev/ttyUSB0", "/sys/class/tty/ttyUSB0",
                                        "-s tty", "-y 'ttyUSB*'"])  # fmt: skip
    def test_ways_to_choose_a_tty(self, quiet: Gx, chosen: str) -> None:
        self.rule(quiet, IGNORE)
        assert self.service(quiet, "control -R", f"trigger -c add {chosen}") == "ignore"

    def test_the_last_name_wins(self, quiet: Gx) -> None:
        self.rule(quiet, IGNORE, "10-early.rules")
        assert (
            self.service(quiet, "control --reload", "trigger -c add") == "ignore"
        )  # nothing is said after it
        vendor = (
            'ACTION=="add", ENV{ID_BUS}=="usb", ENV{ID_MODEL}=="SmartBMSToUSB", ENV{VE_SERVICE}="smartbms"\n'
        )
        self.rule(quiet, vendor, "20-vendor.rules")
        assert self.service(quiet, "control --reload", "trigger -c add") == "smartbms"
        self.rule(quiet, IGNORE)
        assert self.service(quiet, "control --reload", "trigger -c add") == "ignore"

    def test_a_rule_for_add_alone_is_lost_with_the_next_change(self, quiet: Gx) -> None:
        self.rule(quiet, IGNORE.replace('!="remove"', '=="add"'))
        assert self.service(quiet, "control --reload", "trigger -c add") == "ignore"
        assert self.service(quiet, "trigger") is None

    def test_a_rule_that_does_not_match_changes_nothing(self, quiet: Gx) -> None:
        self.rule(
            quiet, f'ENV{{VE_SERVICE}}="wrong", KERNEL=="ttyUSB1"\n{IGNORE.replace("SmartBMS", "Other")}'
        )
        assert self.service(quiet, "control --reload", "trigger") is None

    def test_by_serial_number(self, quiet: Gx) -> None:
        self.rule(quiet, '# a comment\nACTION!="remove", SUBSYSTEM=="tty", \\\n'
                         ' ENV{ID_SERIAL_SHORT}=="DK2|DK1", ENV{VE_SERVICE}="ignore"\n')  # fmt: skip
        assert self.service(quiet, "control --reload", "trigger") == "ignore"

    @pytest.mark.parametrize("text", ['ENV{VE_SERVICE}="ignore', 'ENV{A}~="b"', 'FOO=="bar"', "nonsense"])
    def test_a_rule_that_cannot_be_read_is_said(self, quiet: Gx, text: str) -> None:
        self.rule(quiet, text + "\n")
        said = quiet.run("udevadm control --reload; udevadm trigger").output
        assert "zz.rules:1" in said or "unknown key FOO" in said
        assert any(line.startswith("udev error") for line in quiet.calls)

    @pytest.mark.parametrize("command", ["", "reload", "control", "control reload", "trigger --frobnicate",
                                         "trigger --action=insert", "info -n /dev/ttyUSB9"])  # fmt: skip
    def test_what_udevadm_does_not_have_fails(self, quiet: Gx, command: str) -> None:
        assert quiet.run(f"udevadm {command}").status == 1

    def test_a_removed_tty_takes_its_link_along(self, quiet: Gx) -> None:
        assert quiet.run("ls /dev/serial-starter").output == "ttyUSB0\n"
        quiet.unplug("ttyUSB0")
        assert quiet.run("ls /dev/serial-starter /dev/ttyUSB0 /sys/class/tty 2>/dev/null").output.split() == [
            "/dev/serial-starter:", "/sys/class/tty:"
        ]  # fmt: skip
        quiet.plug("ttyUSB0", serial="DK3")
        assert quiet.run("ls /dev/serial-starter").output == "ttyUSB0\n"


LISTING = """
import sys
sys.path.insert(0, "/data/lib")
from serial.tools import list_ports
for one in sorted(list_ports.comports()):
    print(one.device, one.product, one.serial_number, one.manufacturer, one.location, hex(one.vid))
"""


def test_pyserial_sees_the_cables(gx: Gx) -> None:
    shutil.copytree(Path(serial.__file__).parent, gx.data / "lib" / "serial")
    gx.plug("ttyUSB0", serial="DK1", port="1-1.2")
    gx.boot()
    gx.plug("ttyUSB1", model="FT232R USB UART")
    listed = gx.run(["python3", "-I", "-S", "-c", LISTING])
    assert listed.output.splitlines() == [
        "/dev/ttyUSB0 SmartBMSToUSB DK1 FTDI 1-1.2 0x403",
        "/dev/ttyUSB1 FT232R USB UART None FTDI 1-2 0x403",
    ]


def test_bytes_travel_both_ways(gx: Gx) -> None:
    gx.svscan = False
    cable = gx.plug("ttyUSB0")
    gx.boot()
    cable.write(b"\x00\xffabc")
    assert (
        gx.run("head -c 5 /dev/ttyUSB0 | od -An -tx1; echo back >/dev/ttyUSB0").output == " 00 ff 61 62 63\n"
    )
    assert cable.read() == b"back\n"
    gx.reboot()
    cable.write(b"again")
    assert gx.run("head -c 5 /dev/ttyUSB0").output == "again"


def test_who_reads_a_cable_that_is_pulled_hears_of_it(gx: Gx) -> None:
    gx.svscan = False
    gx.plug("ttyUSB0")
    gx.boot()
    gx.run("(exec cat /dev/ttyUSB0; ) >/run/read 2>&1 &")
    wait_for(lambda: "cat /dev/ttyUSB0" in map(str, gx.processes()))
    gx.unplug("ttyUSB0")
    wait_for(lambda: "cat /dev/ttyUSB0" not in map(str, gx.processes()))


async def test_the_bus_is_reached_from_inside_and_outside(gx: Gx) -> None:
    gx.boot()
    sent = "dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames"
    assert "org.freedesktop.DBus" in gx.run(sent).output
    bus = await asyncio.wait_for(MessageBus(bus_address=gx.bus).connect(), PATIENCE_S)
    await bus.request_name("com.victronenergy.settings")
    assert "com.victronenergy.settings" in gx.run(sent).output
    bus.disconnect()
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


# Pictures


def test_a_picture_shows_every_change(gx: Gx) -> None:
    gx.svscan = False
    gx.boot()
    gx.run("cd /data; echo x >text; ln -s text link; mkdir folder; echo y >owned")
    before = gx.tree()
    assert before["/data/text"] == Entry("file", 0o644, (0, 0), 2, before["/data/text"].what)
    assert before["/dev/null"].what == "1:3"
    gx.run("cd /data; echo z >text; ln -sf other link; chmod 700 folder; chown 1:2 owned; touch new")
    gx.run("mkfifo /run/p")
    assert tree.changes(before, gx.tree()) == [
        "! /data/folder", "! /data/link", "+ /data/new", "! /data/owned", "! /data/text", "+ /run/p"
    ]  # fmt: skip
    gx.run("cd /data; echo x >text; ln -sf text link; chmod 755 folder; chown 0:0 owned; rm new /run/p")
    assert tree.changes(before, gx.tree()) == []


def test_a_state_comes_back_as_it_was(gx: Gx, tmp_path: Path) -> None:
    gx.boot()
    gx.run(
        "mkdir -m 700 /data/a; cd /data/a; echo x >text; chmod 444 text; ln -s no link; touch -d 2001-01-01 ."
    )
    gx.power_cut()
    state = gx.state()
    with Gx(tmp_path / "other", data=state) as other:
        assert other.state().tree == state.tree
        assert other.state().key == state.key
        assert (other.data / "a").stat().st_mtime == (gx.data / "a").stat().st_mtime


# Power cuts


def paths(state: tree.State) -> dict[str, bytes | None]:
    return {
        path: state.contents[entry.what] if entry.kind == "file" else None
        for path, entry in state.tree.items()
        if path.startswith("/x")
    }


def test_every_moment_of_a_script_is_seen(gx: Gx) -> None:
    gx.svscan = False
    gx.boot()
    (gx.data / "x").mkdir()
    cuts = powercut.trace(gx, "cd /data/x; echo one >a; (echo two >>a); mv a b; sync; rm b; exit 3")
    assert cuts.result.status == 3
    assert [(paths(state), sorted(state.unsynced)) for state in cuts.states] == [
        ({"/x": None}, []),
        ({"/x": None, "/x/a": b""}, []),
        ({"/x": None, "/x/a": b"one\n"}, ["/x/a"]),
        ({"/x": None, "/x/a": b"one\ntwo\n"}, ["/x/a"]),
        ({"/x": None, "/x/b": b"one\ntwo\n"}, ["/x/b"]),
        ({"/x": None, "/x/b": b"one\ntwo\n"}, []),
        ({"/x": None}, []),
    ]
    assert [paths(state) for state in cuts.outcomes] == [
        {"/x": None},
        {"/x": None, "/x/a": b""},
        {"/x": None, "/x/a": b"one\n"},
        {"/x": None, "/x/a": b"one\ntwo\n"},
        {"/x": None, "/x/b": b"one\ntwo\n"},
        {"/x": None, "/x/b": b""},
    ]


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        ("mkdir a", ["mkdir: + /x/a"]),
        ("ln -s a b", ["symlink: + /x/b"]),
        ("ln old b", ["link: + /x/b"]),
        ("chmod 600 old", ["chmod: ! /x/old"]),
        ("chown 1:1 old", ["chown: ! /x/old"]),
        (": >old", ["open: ! /x/old"]),
        ("truncate -s 1 old", ["ftruncate: ! /x/old"]),
        ("rm old", ["unlink: - /x/old"]),
        ("mv -f old other", ["rename: ! /x/other, - /x/old"]),
        ("printf 'xld\\n' | dd of=old conv=notrunc bs=1 count=1 2>/dev/null", ["write: ! /x/old"]),
        ("cp old b", ["open: + /x/b", "write: ! /x/b"]),
        ("touch b", ["open: + /x/b"]),
        ("echo x >/run/x; mkdir /tmp/x", []),
    ],
)
def test_every_kind_of_change_is_seen(gx: Gx, command: str, changed: list[str]) -> None:
    gx.svscan = False
    gx.boot()
    (gx.data / "x").mkdir()
    (gx.data / "x" / "old").write_text("old\n")
    (gx.data / "x" / "other").write_text("other\n")
    cuts = powercut.trace(gx, f"cd /data/x; {command}")
    assert cuts.result.status == 0, cuts.result
    names = [state.after.replace("at: ", ": ", 1) for state in cuts.states[1:]]  # unlinkat does as unlink
    generic = {
        "fchmod": "chmod",
        "lchown": "chown",
        "fchown": "chown",
        "sendfile": "write",
        "renameat2": "rename",
    }
    seen = [f"{generic.get(name, name)}:{what}" for name, _, what in (line.partition(":") for line in names)]
    assert [set(line.replace(",", "").split()) for line in seen] == [
        set(line.replace(",", "").split()) for line in changed
    ]


def test_what_a_command_leaves_running_is_let_go(gx: Gx) -> None:
    gx.svscan = False
    gx.boot()
    began = time.monotonic()
    cuts = powercut.trace(gx, "sleep 60 & (while :; do sleep 1; done) & echo done")
    assert cuts.result.output == "done\n"
    assert time.monotonic() - began < 30
    wait_for(lambda: "sleep 60" in map(str, gx.processes()))


def test_a_traced_command_has_a_bound(gx: Gx) -> None:
    gx.svscan = False
    gx.boot()
    with pytest.raises(TimeoutError, match="begun"):
        powercut.trace(gx, "echo begun; sleep 60", bound_s=1)


def test_children_of_others_are_not_reaped(gx: Gx) -> None:
    gx.svscan = False
    gx.boot()
    pid = os.posix_spawn("/bin/true", ["true"], {})
    powercut.trace(gx, "mkdir /data/x; sleep 0.2")
    assert os.waitpid(pid, 0)[0] == pid
