"""Installing, updating and uninstalling on a GX: what a user sees, and what is where afterwards."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import rig
from dbus_smartbms import __version__
from setup import packages, tree
from setup.gx import PATIENCE_S, Gx, has_clock, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

APP = "/data/apps/dbus-smartbms"
SETUP = f"sh {APP}/setup.sh"
HOOK = "/data/rcS.local"
LINE = f"[ -x {APP}/setup.sh ] && {APP}/setup.sh boot || : # dbus-smartbms"
OVER_SSH = f"tar xzf - -C /tmp && sh /tmp/apps/.dbus-smartbms-{__version__}.new/setup.sh install"
OLD_PYTHON = '#!/bin/sh\n[ "$1" != -V ] || echo Python 3.8.18\nexit 1\n'
VENDOR = "#!/bin/sh\nexec 2>&1\nexec sleep 1000001\n"


@pytest.fixture
def gx(tmp_path: Path) -> Iterator[Gx]:
    """A device that was just switched on, with a BMS's cable and somebody else's."""
    with Gx(tmp_path / "gx") as machine:
        machine.plug("ttyUSB0", serial="DK0ABC12")
        machine.plug("ttyUSB1", model="MK3-USB_Interface", serial="HQ1")
        machine.boot()
        yield machine


@pytest.fixture
def ssh(archive: tuple[Path, Path]) -> bytes:
    return archive[0].read_bytes()


@pytest.fixture
def stick(archive: tuple[Path, Path]) -> Path:
    return archive[1]


def until(what: Callable[[], object], gx: Gx) -> None:
    """Wait until something is so; AssertionError with the console when it does not become so."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, (gx.console, [*map(str, gx.processes())])
        time.sleep(0.05)


def drivers(gx: Gx) -> list[int]:
    """The driver's processes: one, where it runs."""
    return [process.pid for process in gx.processes() if str(process).startswith("python3 -I -S -B -u")]


def reads(gx: Gx, times: int = 1) -> bool:
    """Whether the driver has opened the BMS's cable so often, since it was installed."""
    return log(gx).count("reading /dev/ttyUSB0") == times


def install(gx: Gx, archive: bytes) -> str:
    """Over SSH, as the README says it; what was said, when the driver has the cable open."""
    said = gx.run(OVER_SSH, stdin=archive)
    assert said.status == 0, said.output
    until(lambda: reads(gx), gx)
    return said.output


def in_use(gx: Gx) -> str:
    return str((gx.data / "apps" / "dbus-smartbms").readlink())


def log(gx: Gx) -> str:
    """All of it: multilog puts a file aside that a power cut left unfinished."""
    folder = gx.data / "log" / "dbus-smartbms"
    return "".join(file.read_text() for file in (*sorted(folder.glob("@*")), *folder.glob("current")))


def lasting(gx: Gx) -> dict[str, tree.Entry]:
    """What is on /data, but for other people's logs and caches and this driver's state."""
    own = "/data/log/", "/data/var/", "/data/conf/dbus-smartbms.state"
    return {path: entry for path, entry in gx.tree("/data").items() if not path.startswith(own)}


def placed(gx: Gx) -> dict[str, tree.Entry]:
    """All of a device where something of ours could lie."""
    found = gx.tree("/data", "/run", "/service")
    others = "/data/var/", "/service/serial-starter", "/run/serial-starter", "/run/venus/custom-rc"
    moving = ("/data/log/dbus-systemcalc-py", "/service/dbus-systemcalc-py", *others)
    return {path: entry for path, entry in found.items() if not path.startswith(moving)}


def test_over_ssh_and_not_rebooted(gx: Gx, ssh: bytes) -> None:
    said = install(gx, ssh)
    assert f"dbus-smartbms {__version__} is installed." in said
    assert "/service/dbus-smartbms: up" in said
    assert "cable: /dev/ttyUSB0 SmartBMSToUSB DK0ABC12\n" in said
    assert gx.properties("ttyUSB0")["VE_SERVICE"] == "ignore"
    assert gx.properties("ttyUSB1")["VE_SERVICE"] == "mkx"
    # Compiled files are in RAM, not on the flash.
    assert [*gx.path("/run/dbus-smartbms/pycache").rglob("driver.*.pyc")]
    assert not [*gx.data.rglob("*.pyc")]
    assert sorted(path.name for path in (gx.data / "apps").iterdir()) == [in_use(gx), "dbus-smartbms"]
    assert gx.data.joinpath("rcS.local").read_text() == f"#!/bin/sh\n{LINE}, all of this file\n"


def test_twice_changes_nothing(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    before, pids = lasting(gx), drivers(gx)
    assert len(pids) == 1
    said = gx.run(OVER_SSH, stdin=ssh)
    assert "was installed already." in said.output
    assert tree.changes(before, lasting(gx)) == []
    said = gx.run(f"{SETUP} install")
    assert said.status == 0
    assert drivers(gx) == pids
    assert tree.changes(before, lasting(gx)) == []


def test_after_a_reboot_the_cable_is_not_probed(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    gx.reboot()
    until(lambda: reads(gx, 2), gx)
    since = gx.calls[gx.calls.index("boot 2") :]
    assert not [call for call in since if call.startswith("probe ttyUSB0")]
    assert "probe ttyUSB1 mkx" in since
    gx.unplug("ttyUSB0")
    gx.plug("ttyUSB2", serial="DK0ABC12")
    until(lambda: "reading /dev/ttyUSB2" in log(gx), gx)
    assert gx.properties("ttyUSB2")["VE_SERVICE"] == "ignore"


def test_a_firmware_update_leaves_it(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    gx.firmware_update("v3.70")
    until(lambda: "reading /dev/ttyUSB0" in log(gx), gx)
    assert "Venus OS v3.70" in gx.run(f"{SETUP} status").output


def test_before_services_are_started(tmp_path: Path, ssh: bytes) -> None:
    with Gx(tmp_path / "gx") as gx:
        gx.svscan = False
        gx.plug("ttyUSB0", serial="DK0ABC12")
        gx.boot()
        assert "is installed" in gx.run(OVER_SSH, stdin=ssh).output
        assert gx.run("ls /service/dbus-smartbms").output == "log\nrun\n"


@pytest.mark.parametrize(
    "foreign",
    [
        "#!/bin/sh\nset -e\necho early\nexit 0\n", "#!/bin/sh\necho early", "#!/bin/sh", "#!/bin/sh\n", "",
        "echo early\n", "echo early", "#!/bin/sh -e\n\n\necho x\n\n\n", '#!/usr/bin/env sh\necho "a\\tb"\r\n',
    ],
)  # fmt: skip
def test_a_foreign_hook_comes_back_byte_for_byte(tmp_path: Path, ssh: bytes, foreign: str) -> None:
    with Gx(tmp_path / "gx") as gx:
        gx.svscan = False
        hook = gx.data / "rcS.local"
        hook.write_bytes(foreign.encode())
        hook.chmod(0o750)
        gx.boot()
        before = lasting(gx)
        gx.run(OVER_SSH, stdin=ssh)
        gx.run(f"{SETUP} install")
        assert hook.read_text().count(f"{APP}/setup.sh boot") == 1
        gx.power_cut()
        gx.boot()
        assert gx.path("/service/dbus-smartbms/run").exists()
        assert ("early" in gx.console) == ("early" in foreign)
        gx.run(f"{SETUP} uninstall")
        assert hook.read_bytes() == foreign.encode()
        assert tree.changes(before, lasting(gx)) == []


def test_lines_that_others_add_to_our_hook_stay(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    hook = gx.data / "rcS.local"
    with hook.open("a") as file:
        file.write("echo mine\n")
    gx.run(f"{SETUP} uninstall")
    assert hook.read_text() == "#!/bin/sh\necho mine\n"


@pytest.mark.parametrize(
    ("name", "mode", "text", "says"),
    [
        ("rcS.local.disabled", 0o755, "#!/bin/sh\n", "modifications are switched off on this GX"),
        ("rcS.local", 0o644, "#!/bin/sh\nreboot\n", "rcS.local is not executable"),
        ("rcS.local", 0o755, "#!/usr/bin/python3\n", "is no shell script"),
    ],
)
def test_hooks_that_would_not_start_it_are_refused(
    gx: Gx, ssh: bytes, name: str, mode: int, text: str, says: str
) -> None:
    (gx.data / name).write_text(text)
    (gx.data / name).chmod(mode)
    before = lasting(gx)
    said = gx.run(OVER_SSH, stdin=ssh)
    assert said.status == 1
    assert says in said.output
    assert "nstall again" in said.output
    assert tree.changes(before, lasting(gx)) == []


def test_hook_that_the_gx_has_renamed(gx: Gx, ssh: bytes) -> None:
    before = lasting(gx)
    gx.run(OVER_SSH, stdin=ssh)
    gx.off()
    (gx.data / "rcS.local").rename(gx.data / "rcS.local.disabled")
    gx.boot()
    said = gx.run(f"{SETUP} status")
    assert said.status == 1
    assert "NOT started at boot: modifications are switched off" in said.output
    gx.run(f"{SETUP} uninstall")
    assert tree.changes(before, lasting(gx)) == []


def test_uninstall_leaves_the_device_as_it_was(gx: Gx, ssh: bytes) -> None:
    before = placed(gx)
    install(gx, ssh)
    said = gx.run(f"{SETUP} uninstall --purge")
    assert said.status == 0
    assert "dbus-smartbms is uninstalled." in said.output
    assert tree.changes(before, placed(gx)) == []
    assert not [one for one in gx.processes() if "smartbms" in str(one)]
    supervised = [one for one in gx.processes() if str(one).startswith(("supervise", "multilog"))]
    assert sorted(map(str, supervised)) == [
        "multilog t s25000 n4 /var/log/dbus-systemcalc-py", "supervise dbus-systemcalc-py", "supervise log",
        "supervise serial-starter",
    ]  # fmt: skip
    # And serial-starter has its cable again.
    until(lambda: gx.calls[-60:].count("probe ttyUSB0 default"), gx)


def test_uninstall_keeps_configuration_and_state(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    for name in ("ini", "state"):
        (gx.data / "conf" / f"dbus-smartbms.{name}").write_text("[log]\n")
    said = gx.run(f"{SETUP} uninstall")
    assert "/data/conf/dbus-smartbms.ini is kept; uninstall --purge removes it too" in said.output
    kept = {path.name: path.read_text() for path in (gx.data / "conf").glob("*smartbms*")}
    assert kept.keys() == {"dbus-smartbms.ini", "dbus-smartbms.state"}
    assert kept["dbus-smartbms.ini"] == "[log]\n"


@pytest.mark.parametrize(("stub", "how"), [("stop-tty.sh", "hang"), ("udevadm", "hang"), ("udevadm", "fail")])
def test_programs_of_the_gx_that_hang_or_fail_hold_up_nothing(
    gx: Gx, ssh: bytes, stub: str, how: str
) -> None:
    gx.behave(stub, how)
    said = gx.run(OVER_SSH, stdin=ssh, bound_s=120)
    assert said.status == 0, said.output
    until(lambda: reads(gx), gx)
    gx.power_cut()
    gx.boot(bound_s=60)
    until(lambda: reads(gx, 2), gx)
    if stub == "udevadm":
        assert "udev did not" in said.output


def test_a_cable_that_was_never_programmed_by_its_serial_number(gx: Gx, ssh: bytes) -> None:
    gx.plug("ttyUSB3", model="FT232R USB UART", serial="A50285BI")
    gx.plug("ttyUSB4", model="FT232R USB UART", serial="A5000000")
    text = "[link]\ndevices = auto, A50285BI  # the second pack\n"
    (gx.data / "conf" / "dbus-smartbms.ini").write_text(text)
    gx.run(OVER_SSH, stdin=ssh)
    until(lambda: "reading /dev/ttyUSB3 (serial number A50285BI)" in log(gx), gx)
    assert {gx.properties(f"ttyUSB{n}")["VE_SERVICE"] for n in (0, 3)} == {"ignore"}
    assert gx.properties("ttyUSB4")["VE_SERVICE"] == "rs485:default"


def test_venus_that_is_too_old(gx: Gx, ssh: bytes) -> None:
    gx.power_cut()
    gx.covers["/usr/bin/python3"] = OLD_PYTHON
    gx.firmware("v3.55")
    gx.boot()
    before = lasting(gx)
    said = gx.run(OVER_SSH, stdin=ssh)
    assert said.status == 1
    assert "Venus OS v3.55 has Python 3.8.18" in said.output
    assert "v3.60 and later. Update it" in said.output
    assert tree.changes(before, lasting(gx)) == []


def test_a_firmware_that_is_put_back_to_one_too_old(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    gx.covers["/usr/bin/python3"] = OLD_PYTHON
    gx.firmware_update("v3.55")
    said = gx.run(f"{SETUP} status")
    assert said.status == 1
    assert "the service does not run: Venus OS v3.55 has Python 3.8.18" in said.output
    assert gx.properties("ttyUSB0")["VE_SERVICE"] == "default"
    gx.covers.clear()
    gx.firmware_update("v3.60")
    until(lambda: reads(gx), gx)


# Beside the vendor's driver


def with_vendor(gx: Gx) -> None:
    """123\\SmartBMS's driver as SetupHelper installs it: in the root, and a folder on /data."""
    gx.off()
    service = gx.root / "opt/victronenergy/service/123SmartBMS-Venus"
    service.mkdir(parents=True)
    (service / "run").write_text(VENDOR)
    (service / "run").chmod(0o755)
    rules = gx.root / "etc/udev/rules.d/serial-starter.rules"
    own = 'ACTION=="add", ENV{ID_BUS}=="usb", ENV{ID_MODEL}=="SmartBMSToUSB", ENV{VE_SERVICE}="smartbms"\n'
    rules.write_text(rules.read_text() + own)
    (gx.data / "123SmartBMS-Venus").mkdir()
    gx.boot()
    until(lambda: is_on(gx), gx)


def is_on(gx: Gx) -> bool:
    return "sleep 1000001" in map(str, gx.processes())


def test_vendors_driver_refused_taken_over_given_back(gx: Gx, ssh: bytes) -> None:
    with_vendor(gx)
    before = placed(gx)
    said = gx.run(OVER_SSH, stdin=ssh)
    assert said.status == 1
    assert "two drivers must not read one cable" in said.output
    takeover = said.output.rpartition(": ")[2].strip()
    assert takeover == f"sh /var/volatile/tmp/apps/.dbus-smartbms-{__version__}.new/setup.sh takeover"
    assert is_on(gx)
    said = gx.run(takeover)
    assert said.status == 0, said.output
    assert "The vendor's driver is stopped; uninstall gives it back." in said.output
    until(lambda: reads(gx) and not is_on(gx), gx)
    assert gx.properties("ttyUSB0")["VE_SERVICE"] == "ignore"
    gx.reboot()
    until(lambda: reads(gx, 2), gx)
    assert not is_on(gx)
    gx.run(f"{SETUP} uninstall --purge")
    until(lambda: is_on(gx), gx)
    changed = [change for change in tree.changes(before, placed(gx)) if "/supervise" not in change]
    assert changed == []
    assert gx.properties("ttyUSB0")["VE_SERVICE"] == "smartbms"


def test_vendors_driver_that_comes_later_is_not_fought(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    with_vendor(gx)
    said = gx.run(f"{SETUP} status")
    assert "the service does not run: the vendor's driver is there" in said.output
    assert gx.properties("ttyUSB0")["VE_SERVICE"] == "smartbms"
    assert gx.run(f"{SETUP} takeover").status == 0
    until(lambda: reads(gx, 2) and not is_on(gx), gx)


# Sticks


def test_stick_in_and_left_in_over_three_boots(tmp_path: Path, stick: Path) -> None:
    with Gx(tmp_path / "gx") as gx:
        gx.plug("ttyUSB0", serial="DK0ABC12")
        shutil.copy(stick, gx.stick())
        told = gx.stick() / "dbus-smartbms-install.txt"
        gx.boot()
        until(lambda: reads(gx), gx)
        assert f" dbus-smartbms {__version__} is installed." in told.read_text()
        before, calls = lasting(gx), len(gx.calls)
        for boot in (2, 3):
            gx.reboot()
            until(functools.partial(reads, gx, boot), gx)
            assert "is installed already; the stick can be taken out" in told.read_text()
            assert tree.changes(before, lasting(gx)) == []
        assert not [call for call in gx.calls[calls:] if call.startswith("probe ttyUSB0")]


@pytest.mark.parametrize("names", [("sda1", "sdb1"), ("sdb1", "sda1")])
def test_two_sticks_the_newer_one_wins(tmp_path: Path, stick: Path, names: tuple[str, str]) -> None:
    with Gx(tmp_path / "gx") as gx:
        gx.svscan = False
        for name, version in zip(names, ("0.0.9", "9.10.0"), strict=True):
            packages.of_version(stick, version, gx.stick(name))
        for _ in range(2):
            gx.boot()
            assert gx.data.joinpath("apps/dbus-smartbms/version").read_text() == "9.10.0\n"
            gx.power_cut()


def test_stick_with_an_older_version(gx: Gx, ssh: bytes, stick: Path) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    packages.of_version(stick, "0.0.9", gx.stick())
    before = lasting(gx)
    gx.reboot()
    assert tree.changes(before, lasting(gx)) == []
    told = (gx.stick() / "dbus-smartbms-install.txt").read_text()
    assert f"0.0.9 on the stick is older than {__version__} on this GX: nothing is changed" in told


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("1.0.0", "1.0.0", False), ("1.0.0", "1.0.1", True), ("1.9.0", "1.10.0", True),
        ("1.10.0", "1.9.0", False), ("1.0.0rc1", "1.0.0", True), ("1.0.0", "1.0.0rc1", False),
        ("1.0.0rc1", "1.0.0rc2", True), ("0.9", "1.0.0", True),
    ],
)  # fmt: skip
def test_which_version_is_older(version: str, than: str, older: bool) -> None:
    script = f". {rig.ROOT}/service/stick.sh; is_older {version} {than}"
    assert (subprocess.run(["busybox", "sh", "-c", script], check=False).returncode == 0) == older


def test_stick_with_a_newer_version(gx: Gx, ssh: bytes, stick: Path) -> None:
    install(gx, ssh)
    packages.of_version(stick, "9.0.0", gx.stick())
    gx.reboot()
    until(lambda: "dbus-smartbms 9.0.0" in log(gx), gx)
    assert sorted(path.name for path in (gx.data / "apps").iterdir()) == [in_use(gx), "dbus-smartbms"]


def test_stick_after_uninstall_says_so(gx: Gx, ssh: bytes, stick: Path) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    packages.write(gx.stick() / stick.name, packages.members(stick))
    said = gx.run(f"{SETUP} uninstall")
    assert "would install it again at the next boot: take the stick out" in said.output


def test_stick_that_is_damaged(tmp_path: Path, stick: Path) -> None:
    with Gx(tmp_path / "gx") as gx:
        gx.svscan = False
        data = stick.read_bytes()
        gx.stick().joinpath(stick.name).write_bytes(data[: len(data) // 2])
        gx.boot()
        assert not [*gx.data.glob("apps/.*")]
        assert not (gx.data / "rcS.local").exists()
        assert "could not be unpacked" in (gx.stick() / "dbus-smartbms-install.txt").read_text()


def test_stick_and_no_room(tmp_path: Path, stick: Path) -> None:
    with Gx(tmp_path / "gx", data_kib=3000) as gx:
        gx.svscan = False
        shutil.copy(stick, gx.stick())
        gx.boot()
        assert not (gx.data / "apps").exists()
        assert "MB free, 4 are needed" in (gx.stick() / "dbus-smartbms-install.txt").read_text()


def test_stick_on_a_gx_where_modifications_are_switched_off(tmp_path: Path, stick: Path) -> None:
    with Gx(tmp_path / "gx") as gx:
        gx.svscan = False
        (gx.data / "rcS.local.disabled").write_text("#!/bin/sh\n")
        shutil.copy(stick, gx.stick())
        gx.boot()
        assert not (gx.data / "apps").exists()
        assert "modifications are switched off" in (gx.stick() / "dbus-smartbms-install.txt").read_text()


# Other versions


@pytest.mark.parametrize("version", ["9.0.0", "0.0.1"])
def test_update_over_a_running_driver(
    gx: Gx, archive: tuple[Path, Path], version: str, tmp_path: Path
) -> None:
    install(gx, archive[0].read_bytes())
    other = packages.of_version(archive[0], version, tmp_path / "other")
    said = gx.run(f"{SETUP} update -", stdin=other.read_bytes())
    assert f"dbus-smartbms {version} is installed." in said.output
    until(lambda: reads(gx, 2), gx)
    assert f"dbus-smartbms {version}\n" in log(gx)
    assert sorted(path.name for path in (gx.data / "apps").iterdir()) == [in_use(gx), "dbus-smartbms"]
    assert "-update" not in gx.run("ls /tmp").output


def test_update_from_what_is_no_archive(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    before = lasting(gx)
    for words, says in (
        ("update", "update from what?"), ("update /data/none.tgz", "there is no file /data/none.tgz"),
        ("update /data/conf/settings.xml", "is no archive of dbus-smartbms"),
        ("update -", "is no archive of dbus-smartbms"),
    ):  # fmt: skip
        said = gx.run(f"{SETUP} {words}", stdin=ssh[: len(ssh) // 3] if words.endswith("-") else b"")
        assert said.status == 1
        assert says in said.output or "cannot unpack" in said.output
        assert tree.changes(before, lasting(gx)) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_damaged_package(gx: Gx, ssh: bytes, damage: str) -> None:
    gx.run("tar xzf - -C /data", stdin=ssh)
    folder = gx.data / "apps" / f".dbus-smartbms-{__version__}.new"
    file = folder / "dbus-smartbms/dbus_smartbms/rules.py"
    if damage == "changed":
        file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
    elif damage == "missing":
        file.unlink()
    else:
        (folder / "vendor" / "serial.py").write_text("raise SystemExit\n")
    said = gx.run(f"sh /data/apps/{folder.name}/setup.sh install")
    assert said.status == 1
    assert "is damaged or incomplete. Copy the archive to the GX again." in said.output
    assert not (gx.data / "rcS.local").exists()


def test_what_is_in_use_is_repaired(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    (gx.data / "apps/dbus-smartbms/dbus-smartbms/dbus_smartbms/rules.py").unlink()
    assert "is installed." in gx.run(OVER_SSH, stdin=ssh).output
    assert gx.run(f"cd {APP}/. && sha256sum -c SHA256SUMS").status == 0
    assert "already" in gx.run(OVER_SSH, stdin=ssh).output


# A device that is not well


def test_crash_is_followed_by_a_start(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    for times in (2, 3, 4):
        gx.run(f"kill -9 {drivers(gx)[0]}")
        until(functools.partial(reads, gx, times), gx)
    assert "0.1 C" in log(gx)


def test_read_only_data(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    gx.off()
    gx.read_only_data()
    gx.boot()
    current = gx.path("/run/dbus-smartbms/log/current")
    until(lambda: current.exists() and "reading /dev/ttyUSB0" in current.read_text(), gx)
    said = gx.run(f"{SETUP} status")
    assert said.status == 0
    assert "reading /dev/ttyUSB0" in said.output
    assert gx.run(f"{SETUP} install").status == 0


def test_full_data(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    gx.off()
    gx.limit_data(gx.data_used_kib() + 4)
    gx.data.joinpath("filler").write_bytes(b"x" * 4096)
    gx.boot()
    until(lambda: drivers(gx), gx)
    until(lambda: gx.run("ls -l /proc/*/fd 2>/dev/null | grep -c /dev/ttyUSB0").output.strip() == "1", gx)


def test_no_run(gx: Gx, ssh: bytes) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    gx.off()
    gx.has_run = False
    gx.boot()
    until(lambda: drivers(gx), gx)


def test_clock_at_1970(gx: Gx, ssh: bytes) -> None:
    """At the installation it was right; at the next boot, before the network tells, it begins anew."""
    install(gx, ssh)
    for path in (gx.data / "rcS.local", *(gx.data / "apps").rglob("*"), *(gx.data / "conf").iterdir()):
        os.utime(path, (7, 7), follow_symlinks=False)
    gx.clock = 60.0 if has_clock() else None
    gx.reboot()
    until(lambda: reads(gx, 2), gx)


def test_compiled_files_beside_the_sources_go_at_the_next_boot(gx: Gx, ssh: bytes) -> None:
    """Half of one, after a power cut, would keep the program from starting for ever."""
    install(gx, ssh)
    gx.run(f"python3 -I -S {APP}/dbus-smartbms --version")
    (made,) = gx.data.rglob("__main__.*.pyc")
    made.write_bytes(made.read_bytes()[:40])
    assert gx.run(f"python3 -I -S -B {APP}/dbus-smartbms --version").status == 1
    gx.reboot()
    until(lambda: reads(gx, 2), gx)
    assert not [*gx.data.rglob("*.pyc")]
    assert "already" in gx.run(OVER_SSH, stdin=ssh).output


def test_configuration_is_checked_as_the_document_says(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    (gx.data / "conf" / "dbus-smartbms.ini").write_text("[limits]\nmax_charge_current = 80 W\n")
    said = gx.run(f"{SETUP} config check /data/conf/dbus-smartbms.ini")
    assert said.status == 1
    assert "line 2" in said.output
    (gx.data / "conf" / "dbus-smartbms.ini").write_text("[limits]\nmax_charge_current = 80\n")
    assert gx.run(f"{SETUP} config check /data/conf/dbus-smartbms.ini").status == 0
    gx.run("svc -h /service/dbus-smartbms")
    until(lambda: "the configuration was read again" in log(gx), gx)


# What people do


@pytest.mark.parametrize(
    "words", ["uninstall --prge", "uninstall purge", "install foo", "status x", "update a b"]
)
def test_words_that_it_does_not_know_do_nothing(gx: Gx, ssh: bytes, words: str) -> None:
    install(gx, ssh)
    before = lasting(gx)
    said = gx.run(f"{SETUP} {words}")
    assert said.status == 2
    assert said.output.startswith(f"setup.sh: {words.split(maxsplit=1)[0]} does not know '")
    assert tree.changes(before, lasting(gx)) == []


@pytest.mark.parametrize("command", ["demo", "test", "run", "bench", "build"])
def test_commands_for_a_computer(gx: Gx, ssh: bytes, command: str) -> None:
    gx.run(OVER_SSH, stdin=ssh)
    said = gx.run(f"{SETUP} {command}")
    assert said.status == 1
    assert said.output == f"setup.sh: {command} is for a computer; on a GX see setup.sh --help\n"


def test_copied_by_a_program_that_knows_no_modes(gx: Gx, ssh: bytes) -> None:
    """From a folder with a space in its name, too."""
    gx.run("mkdir -p '/data/my files' && tar xzf - -C '/data/my files'", stdin=ssh)
    gx.run("cd '/data/my files' && mv apps/.dbus* smartbms && chmod -R a-x,a+X smartbms && ls -l smartbms")
    said = gx.run("cd '/data/my files/smartbms' && sh setup.sh install")
    assert said.status == 0, said.output
    gx.reboot()
    until(lambda: drivers(gx), gx)


@pytest.mark.parametrize(
    "text",
    [
        "[link]\r\ndevices = A50285BI\r\n",
        "[LINK]\nDevices: 'A50285BI'\n",
        " [ link ]\n  devices=auto,A50285BI # two\n[log]\n",
    ],
)
def test_devices_however_they_are_written(gx: Gx, ssh: bytes, text: str) -> None:
    gx.plug("ttyUSB3", model="FT232R USB UART", serial="A50285BI")
    (gx.data / "conf" / "dbus-smartbms.ini").write_bytes(text.encode())
    gx.run(OVER_SSH, stdin=ssh)
    assert gx.properties("ttyUSB3")["VE_SERVICE"] == "ignore"
    assert "/dev/ttyUSB3" in gx.run(f"{SETUP} status").output


def test_two_at_once(gx: Gx, ssh: bytes) -> None:
    with ThreadPoolExecutor(2) as pool:
        said = [*pool.map(lambda _: gx.run(OVER_SSH, stdin=ssh, bound_s=90), range(2))]
    assert [one.status for one in said].count(0) >= 1, said
    assert gx.run(f"cd {APP}/. && sha256sum -c SHA256SUMS").status == 0
    assert gx.run(f"{SETUP} install").status == 0
    assert not gx.path("/run/dbus-smartbms.lock").is_symlink()


def test_a_lock_whose_owner_is_gone_holds_up_nothing(gx: Gx, ssh: bytes) -> None:
    gx.run("ln -s 99999 /run/dbus-smartbms.lock")
    install(gx, ssh)


def test_a_boot_line_that_is_commented_out(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    hook = gx.data / "rcS.local"
    hook.write_text(hook.read_text().replace("[ -x", "#[ -x"))
    assert "NOT started at boot" in gx.run(f"{SETUP} status").output
    gx.run(f"{SETUP} install")
    assert "started at boot by" in gx.run(f"{SETUP} status").output
    gx.run(f"{SETUP} uninstall")
    assert "dbus-smartbms" not in hook.read_text()


def test_uninstall_from_what_cannot_be_written(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    gx.off()
    gx.read_only_data()
    gx.boot()
    until(lambda: drivers(gx), gx)
    said = gx.run(f"{SETUP} uninstall")
    assert said.status == 1
    assert "cannot write to /data, so nothing is removed" in said.output
    assert drivers(gx)


def test_the_archive_for_a_stick_unpacked_by_hand(gx: Gx, stick: Path) -> None:
    before = lasting(gx)
    gx.run(OVER_SSH, stdin=stick.read_bytes())
    assert not (gx.data / "rc").exists()
    gx.run(f"{SETUP} uninstall --purge")
    assert tree.changes(before, lasting(gx)) == []


def test_update_from_the_folder_one_is_in(gx: Gx, archive: tuple[Path, Path], tmp_path: Path) -> None:
    gx.run(OVER_SSH, stdin=archive[0].read_bytes())
    packages.of_version(archive[0], "9.0.0", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "dbus-smartbms-9.0.0.tgz", gx.data)
    assert "9.0.0 is installed" in gx.run(f"cd /data && {SETUP} update dbus-smartbms-9.0.0.tgz").output


def test_a_driver_that_the_user_has_stopped_is_started_by_install(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    gx.run("svc -d /service/dbus-smartbms")
    until(lambda: not drivers(gx), gx)
    assert gx.run(f"{SETUP} install").status == 0
    assert drivers(gx)


def test_takeover_by_a_stick(gx: Gx, stick: Path) -> None:
    with_vendor(gx)
    gx.off()
    shutil.copy(stick, gx.stick())
    gx.boot()
    told = gx.stick() / "dbus-smartbms-install.txt"
    assert "put an empty file named dbus-smartbms-takeover beside the archive, and reboot" in told.read_text()
    (gx.stick() / "dbus-smartbms-takeover.txt").touch()
    gx.reboot()
    until(lambda: reads(gx) and not is_on(gx), gx)
    assert "The vendor's driver is stopped" in told.read_text()


def test_a_report_does_not_lie_in_the_package(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    said = gx.run(f"cd {APP} && ./setup.sh doctor --report", bound_s=120)
    assert "written: /data/dbus-smartbms-report.tgz" in said.output
    assert "ours: it says SmartBMSToUSB" in said.output
    assert "held open by    this driver (pid" in said.output
    assert "already" in gx.run(OVER_SSH, stdin=ssh).output


def test_install_again_needs_no_room(gx: Gx, ssh: bytes) -> None:
    install(gx, ssh)
    gx.limit_data(gx.data_used_kib() + 100)
    gx.run("rm /run/udev/rules.d/zz-dbus-smartbms.rules")
    said = gx.run(f"{SETUP} install")
    assert said.status == 0
    assert "/data has only 0 MB free: the GX warns below 10." in said.output
    assert gx.path("/run/udev/rules.d/zz-dbus-smartbms.rules").exists()


def test_a_connection_that_is_lost_does_not_stop_an_installation(gx: Gx, ssh: bytes) -> None:
    said = gx.run(f"({OVER_SSH}) | head -c 1; sleep 0.1", stdin=ssh)
    assert said.output.startswith("d")  # and then that nobody reads on
    until(lambda: reads(gx), gx)
    until(lambda: not gx.path("/run/dbus-smartbms.lock").is_symlink(), gx)
    assert f"{APP}/setup.sh boot" in (gx.data / "rcS.local").read_text()
    assert sorted(path.name for path in (gx.data / "apps").iterdir()) == [in_use(gx), "dbus-smartbms"]


@pytest.mark.parametrize("document", ["README.md", "docs/install.md"])
def test_the_line_to_copy_is_the_one_that_is_tried_here(document: str) -> None:
    text = (rig.ROOT / document).read_text()
    assert f'ssh root@venus.local "{OVER_SSH}" < dbus-smartbms-{__version__}.tgz' in text
