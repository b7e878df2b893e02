"""What ``doctor`` makes of facts: each symptom by itself, its words, its place in the verdict."""

from __future__ import annotations

import calendar
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms import doctor, driver, gx, survey, usb
from dbus_smartbms.configuration import load
from dbus_smartbms.findings import Facts, findings
from dbus_smartbms.gx import Gx, Machine, Services, Supervised
from dbus_smartbms.link import Port
from dbus_smartbms.survey import Battery, Bus
from dbus_smartbms.usb import Holder, Tty, Usb

PORT = Port("/dev/ttyUSB0", "/dev/ttyUSB0", "AB0CDEF", "1-1", "SmartBMSToUSB", "123electric", ftdi=True)
TTY = Tty(
    PORT, "0403:6001", chosen=True, starter=False,
    holders=(Holder(812, "python3 /data/apps/dbus-smartbms/dbus-smartbms run"),),
    udev={"ID_MODEL": "SmartBMSToUSB", "VE_SERVICE": "ignore"},
)  # fmt: skip
BARE = TTY._replace(
    port=PORT._replace(model="FT232R USB UART", maker="FTDI"), chosen=False, holders=(), udev={}
)
MACHINE = Machine(".dbus-smartbms-0.1.0-1a2b3c4d", [], 900_000, [("Venus OS", "v3.60")])
UP = Supervised("/service/dbus-smartbms", there=True, said="up (pid 812) 9000 seconds")
SERVICES = Services(
    UP, UP._replace(name="/service/dbus-smartbms/log"), "ours", rule=True, why=None, restarts=0,
    takeover=False, vendor=False, vendor_services=[],
)  # fmt: skip
ITEMS: dict[str, tuple[Any, str]] = {
    "/DeviceInstance": (123, "123"), "/ProductName": ("123\\SmartBMS", ""), "/Soc": (50.0, "50.0 %"),
    "/Info/MaxChargeVoltage": (54.88, "54.88 V"), "/Info/ChargeVoltageLimitation": ("16 cells", "16 cells"),
    "/Alarms/BmsCable": (0, "0"), "/Alarms/LowCellVoltage": (0, "0"), "/System/NrOfModulesOffline": (0, "0"),
    "/SmartBms/DamagedPlaces": (3, "3"), "/SmartBms/Disagreement": ("", ""),
    "/ConnectionInformation": ("", ""),
}  # fmt: skip
OTHER = Battery("com.victronenergy.battery.other", {"/Info/MaxChargeVoltage": (56.0, "56.00V")})


def bus(system: dict[str, Any] | None = None, **changes: Any) -> Bus:
    values = {
        "/Control/Dvcc": 1,
        "/ActiveBmsService": survey.OURS,
        "/ActiveBatteryService": "com.victronenergy.battery/123",
    }
    items = ITEMS | {f"/{path.replace('__', '/')}": (value, str(value)) for path, value in changes.items()}
    return Bus(batteries=[Battery(survey.OURS, items)], system=values | (system or {}))


def facts(**changes: Any) -> Facts:
    """All is well, but for the changes."""
    whole = Facts(MACHINE, Usb("auto", [TTY], []), SERVICES, load(None, []), True, bus(), ["INFO running"])
    return dataclasses.replace(whole, **changes)


def services(**changes: Any) -> Services:
    return SERVICES._replace(**changes)


PROBE = Holder(5, "/opt/victronenergy/gps/gps_dbus")
DOWN = UP._replace(said="down 3 seconds, normally up")
GONE = UP._replace(there=False, said="")
VENDORS = UP._replace(name="/service/smartbms-dbus.ttyUSB0")
NO_CABLE = Usb("auto", [], [])
LOST = bus(System__NrOfModulesOffline=1, Alarms__BmsCable=2, ConnectionInformation="no frames for 12 s")

SYMPTOMS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "not installed": (
        {"machine": MACHINE._replace(package=None), "services": services(driver=GONE),
         "bus": Bus("none")},
        ["the driver is not installed", "the bus: none"], "setup.sh install",
    ),
    "not there after a boot": (
        {"services": services(driver=GONE, hook="disabled", why="Python 3.8 is too old\n"), "bus": bus()},
        ["the driver's service is not there: Python 3.8 is too old", "modifications are switched off"],
        "/data/apps/dbus-smartbms/setup.sh install",
    ),
    "modifications switched off, which explains all the rest": (
        {"services": services(driver=GONE, log=GONE, hook="disabled", rule=False),
         "usb": Usb("auto", [TTY._replace(holders=(PROBE,), udev={})], []),
         "bus": dataclasses.replace(bus(), batteries=[])},
        ["modifications are switched off on this GX (/data/rcS.local.disabled): so the driver was not"],
        "mv /data/rcS.local.disabled /data/rcS.local; then restart the GX",
    ),
    "a hook that Venus could not run at the last boot": (
        {"services": services(driver=GONE, hook="not executable", rule=False),
         "usb": Usb("auto", [TTY._replace(holders=(PROBE,), udev={})], []),
         "bus": dataclasses.replace(bus(), batteries=[])},
        ["the boot hook cannot be run: so the driver was not started"],
        "chmod 755 /data/rcS.local; then restart the GX",
    ),
    "just started": (
        {"services": services(driver=UP._replace(said="up (pid 812) 2 seconds")),
         "bus": dataclasses.replace(bus(), batteries=[])},
        ["too early to say: the driver was started 2 seconds ago and is not on the bus yet"],
        "try again in 10 seconds",
    ),
    "down": (
        {"services": services(driver=DOWN)},
        ["the driver does not run (down 3 seconds, normally up)"], "svc -u /service/dbus-smartbms",
    ),
    "starting again and again": (
        {"services": services(driver=UP._replace(said="up (pid 9) 1 seconds"), restarts=1)},
        ["the driver ended and was started again"], "the last log lines",
    ),
    "too many restarts": (
        {"services": services(restarts=3)},
        ["the driver ended and was started again too often: it allows 0.1 C until it runs calmly"],
        "the last log lines",
    ),
    "svscan does not look after it": (
        {"services": services(driver=UP._replace(said="supervise not running"))},
        ["the driver does not run (supervise not running)"], "restart the GX: svscan",
    ),
    "no cable": ({"usb": NO_CABLE, "bus": LOST}, ["no cable found", "no frames come"], "Ext Out"),
    "no cable, and no service on the bus": (
        {"usb": NO_CABLE, "bus": dataclasses.replace(bus(), batteries=[])}, ["no cable found"], "USB port",
    ),
    "a cable that was never programmed": (
        {"usb": Usb("auto", [BARE], []), "bus": Bus(system={})},
        ["no cable says SmartBMSToUSB, but /dev/ttyUSB0 may be one"], "[link] devices = auto, AB0CDEF",
    ),
    "Victron's own cable is none of ours": (
        {"usb": Usb("auto", [BARE._replace(port=BARE.port._replace(maker="VictronEnergy BV"))], []),
         "bus": Bus(system={})},
        ["no cable found"], "Ext Out",
    ),
    "a cable that the configuration leaves out": (
        {"usb": Usb("XY", [TTY._replace(chosen=False)], []), "bus": Bus(system={})},
        ["no cable is chosen, though /dev/ttyUSB0 says SmartBMSToUSB"], "add auto to [link] devices",
    ),
    "a name that nothing has": (
        {"usb": Usb("XY", [], []), "bus": Bus(system={})},
        ["no cable found: [link] devices = XY"], "use auto",
    ),
    "an FTDI without a tty": (
        {"usb": Usb("auto", [], ["1-1 0403:6001 FTDI"]), "bus": Bus(system={})},
        ["no cable found, but on USB is a device of FTDI without a tty"], "plug it in again",
    ),
    "held by another program": (
        {"usb": Usb("auto", [TTY._replace(holders=(Holder(5, "vedirect-interface"),))], [])},
        ["/dev/ttyUSB0 is held by another program: vedirect-interface (pid 5)"], "takeover",
    ),
    "held by serial-starter's probe": (
        {"usb": Usb("auto", [TTY._replace(holders=(PROBE,))], [])},
        ["/dev/ttyUSB0 is held by what serial-starter has started: gps_dbus (pid 5)"],
        "setup.sh install",
    ),
    "the vendor's driver runs": (
        {"services": services(vendor=True, vendor_services=[VENDORS])},
        ["the vendor's driver runs beside this one (/service/smartbms-dbus.ttyUSB0)"], "setup.sh takeover",
    ),
    "the vendor's driver runs though it was taken over": (
        {"services": services(vendor=True, takeover=True, vendor_services=[VENDORS])},
        ["the vendor's driver runs beside this one (/service/smartbms-dbus.ttyUSB0)"],
        "setup.sh install once more",
    ),
    "the vendor's driver is installed": (
        {"services": services(vendor=True)}, ["the vendor's driver is installed"], "takeover",
    ),
    "no bus": ({"bus": Bus("it does not answer")}, ["the bus: it does not answer"], "restart the GX"),
    "hangs on the bus": (
        {"bus": Bus(batteries=[Battery(survey.OURS, {}, "it does not answer")], system={})},
        ["the driver is on the bus, but it does not answer"], "svc -t",
    ),
    "no frame yet": (
        {"bus": dataclasses.replace(bus(), batteries=[])},
        ["the driver runs, but is not on the bus"], "Ext Out",
    ),
    "lost link": ({"bus": LOST}, ["no frames come: no frames for 12 s"], "has power"),
    "bad frames": ({"bus": bus(SmartBms__DamagedPlaces=91)}, ["the link has bad frames: 91"], "loose plug"),
    "DVCC is off": ({"bus": bus({"/Control/Dvcc": 0})}, ["DVCC is off"], "switch DVCC on"),
    "another BMS": (
        {"bus": bus({"/ActiveBmsService": OTHER.name})},
        [f"the GX follows another BMS: {OTHER.name}"], "choose automatic, or instance 123",
    ),
    "two with limits": (
        {"bus": dataclasses.replace(bus({"/Dvcc/Alarms/MultipleBatteries": 1}),
                                    batteries=[*bus().batteries, OTHER])},
        [f"several batteries give limits ({OTHER.name})"], "switch the other off",
    ),
    "no systemcalc": (
        {"bus": dataclasses.replace(bus(), system=None)},
        ["com.victronenergy.system is not on the bus"], "restart the GX",
    ),
    "boot hook disabled": (
        {"services": services(hook="disabled")}, ["modifications are switched off"],
        "mv /data/rcS.local.disabled /data/rcS.local",
    ),
    "boot hook not executable": (
        {"services": services(hook="not executable")}, ["the boot hook cannot be run"], "chmod 755",
    ),
    "boot hook without our line": (
        {"services": services(hook="foreign")}, ["our line is not in the boot hook"], "setup.sh install",
    ),
    "no rule": ({"services": services(rule=False)}, ["the udev rule is not there"], "setup.sh boot"),
    "serial-starter was not told": (
        {"usb": Usb("auto", [TTY._replace(udev={"VE_SERVICE": "vedirect"})], [])},
        ["serial-starter is not told to leave /dev/ttyUSB0 alone"], "setup.sh boot",
    ),
    "changed files": (
        {"machine": MACHINE._replace(damaged=["setup.sh"])},
        ["1 files of the package were changed (setup.sh)"],
        "install it again",
    ),
    "full /data": (
        {"machine": MACHINE._replace(free_kib=9000)}, ["/data is nearly full: 9000 KiB free"], "du -xk /data",
    ),
    "an alarm": (
        {"bus": bus(Alarms__LowCellVoltage=2)},
        ["alarms stand: LowCellVoltage (alarm)"], "look at the battery",
    ),
    "a BMS that differs": (
        {"bus": bus(SmartBms__Disagreement="charging: generation A would")},
        ["the BMS does not do what its tables say: charging: generation A would"], "[pack]",
    ),
    "a section that hangs": (
        {"usb": None, "unknown": {"cables": "no answer within 30 s"}},
        ["not known: cables (no answer within 30 s)"], "try again",
    ),
}  # fmt: skip


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert findings(facts()) == []
    assert findings(facts(services=services(restarts=2))) == []  # it has run for long since
    assert doctor.report(facts())[-2:] == ["== verdict", "nothing wrong found"]


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_symptom_and_cure(symptom: str) -> None:
    changes, beginnings, do = SYMPTOMS[symptom]
    found = findings(facts(**changes))
    assert [
        finding.what[: len(begin)] for finding, begin in zip(found, beginnings, strict=True)
    ] == beginnings
    assert do in found[0].do


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_the_text_is_readable_at_80_columns(symptom: str) -> None:
    lines = doctor.report(facts(**SYMPTOMS[symptom][0]))
    assert max(map(len, lines)) <= 80
    verdict = " ".join(" ".join(lines[lines.index("== verdict") :]).split())
    assert all(words in verdict for words in (f"1. {SYMPTOMS[symptom][1][0]}", SYMPTOMS[symptom][2]))


def test_what_stops_the_driver_comes_before_what_disturbs_it(tmp_path: Path) -> None:
    file = tmp_path / "dbus-smartbms.ini"
    file.write_text("[limits]\nmax_charge = 80\n")
    all_wrong = facts(
        services=services(driver=DOWN, vendor=True, hook="none"),
        usb=NO_CABLE, configuration=load(file, []),
        bus=bus({"/Control/Dvcc": 0}, System__NrOfModulesOffline=1),
    )  # fmt: skip
    order = [
        "the driver does not run", "no cable found", "the vendor's driver", "no frames come", "DVCC is off",
        "the configuration has mistakes", "our line is not in",
    ]  # fmt: skip
    found = [finding.what for finding in findings(all_wrong)]
    assert [what[: len(begin)] for what, begin in zip(found, order, strict=True)] == order
    text = " ".join(" ".join(doctor.report(all_wrong)).split())
    assert "did you mean [limits] max_charge_current?" in text
    assert "(and 1 more)" not in text


def test_little_damage_is_no_reason_to_look_at_the_cable() -> None:
    """In 9000 s, one place in a hundred frames is allowed; in the first minutes, ten."""
    assert findings(facts(bus=bus(SmartBms__DamagedPlaces=90))) == []
    young = services(driver=UP._replace(said="up (pid 812) 60 seconds"))
    assert findings(facts(services=young, bus=bus(SmartBms__DamagedPlaces=10))) == []
    assert findings(facts(services=young, bus=bus(SmartBms__DamagedPlaces=11)))


def test_how_a_mistake_is_looked_up_on_a_gx(tmp_path: Path) -> None:
    file = tmp_path / "dbus-smartbms.ini"
    file.write_text("[limits]\nmax_charge = 80\n")
    (found,) = findings(facts(configuration=load(file, [])))
    assert "/data/apps/dbus-smartbms/setup.sh config check /data/conf/dbus-smartbms.ini" in found.do


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python3 -I -S -B -u /data/apps/.dbus-smartbms-0.1.0-1a2b/dbus-smartbms run", "this driver"),
        ("/usr/bin/python3 -u /data/123SmartBMS-Venus/smartbms.py --token x", "smartbms.py"),
        ("/bin/sh -e /opt/victronenergy/serial-starter/serial-starter.sh", "serial-starter.sh"),
        ("/bin/sh", "sh"),
        ("sh -c exec cat /dev/ttyUSB0", "sh"),
        ("/opt/victronenergy/vedirect-interface/vedirect-interface -v --log " + "x" * 500,
         "vedirect-interface"),
        ("sleep", "sleep"),
        ("", "?"),
    ],
)  # fmt: skip
def test_a_process_is_called_what_people_call_it(command: str, shown: str) -> None:
    assert str(Holder(5, command)) == f"{shown} (pid 5)"


def bus_section(**values: tuple[Any, str]) -> str:
    items = {path.replace("__", "/"): value for path, value in values.items()}
    ours = Battery(survey.OURS, ITEMS | items)
    lines = doctor.report(facts(bus=dataclasses.replace(bus(), batteries=[ours])))
    return " ".join(" ".join(lines[lines.index("== bus") : lines.index("== log")]).split())


def test_cells_temperatures_and_what_the_bms_is_set_to_are_shown() -> None:
    text = bus_section(
        __System__MinCellVoltage=(3.3, "3.300 V"), __System__MinVoltageCellId=("2", "2"),
        __System__MaxCellVoltage=(3.4, "3.400 V"), __System__MaxVoltageCellId=("7", "7"),
        __System__MinCellTemperature=(0.0, "0.0 °C"), __System__MinTemperatureCellId=("3", "3"),
        __System__MaxCellTemperature=(21.0, "21.0 °C"),
        __Io__AllowToCharge=(0, "no"), __Io__AllowToDischarge=(1, "yes"),
        __SmartBms__Cell__Vmin=(2.8, "2.80 V"), __SmartBms__Cell__Vmax=(3.8, "3.80 V"),
        __SmartBms__Cell__Vbalance=(3.5, "3.50 V"), __InstalledCapacity=(100.0, "100.0 Ah"),
    )  # fmt: skip
    for row in (
        "cells lowest 3.300 V (cell 2), highest 3.400 V (cell 7)",
        "temperature lowest 0.0 °C (cell 3), highest 21.0 °C",
        "allowed charge no, discharge yes",
        "set to capacity 100.0 Ah, Vmin 2.80 V, Vmax 3.80 V, Vbalance 3.50 V",
    ):
        assert row in text, row


def test_what_a_battery_does_not_have_is_no_row() -> None:
    assert "lowest" not in bus_section()
    assert "allowed" not in bus_section()
    assert "cells lowest -, highest 3.400 V" in bus_section(__System__MaxCellVoltage=(3.4, "3.400 V"))


def gx_with(root: Path, files: dict[str, str]) -> Gx:
    for folder in ("data", "run"):
        (root / folder).mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Gx(root)


def service_section(found: Gx) -> list[str]:
    lines = doctor.report(facts(services=found.services()))
    return lines[lines.index("== service") : lines.index("== configuration")]


def test_what_the_boot_said_and_what_is_left_of_an_install_is_shown(tmp_path: Path) -> None:
    hook = "#!/bin/sh\nPASS=hunter2\n[ -x /setup.sh ] && setup.sh boot || : # dbus-smartbms\nexit 0\n"
    boot = "".join(f"boot line {number}\n" for number in range(9))
    device = gx_with(
        tmp_path, {
            "run/dbus-smartbms/boot.log": boot, "data/rcS.local": hook, "data/apps/dbus-smartbms": "",
            "data/apps/.dbus-smartbms.removed": "", "data/apps/another": "",
        },
    )  # fmt: skip
    lines = service_section(device)
    assert [line.split()[-1] for line in lines if "boot line" in line] == list("01234")
    text = " ".join(" ".join(lines).split())
    assert "(4 lines) line 3: [ -x /setup.sh ] && setup.sh boot || : # dbus-smartbms boot.log" in text
    assert "hunter2" not in text
    assert "in /data/apps .dbus-smartbms.removed, dbus-smartbms" in text
    assert "another" not in text
    (tmp_path / "data/rcS.local").rename(tmp_path / "data/rcS.local.disabled")
    assert "line 3: [ -x /setup.sh ]" in " ".join(service_section(device))


def test_nothing_is_said_of_what_is_not_there(tmp_path: Path) -> None:
    text = " ".join(service_section(gx_with(tmp_path, {"run/dbus-smartbms/boot.log": ""})))
    assert "boot.log" not in text
    assert "lock" not in text
    assert "nothing of this driver" in text


def test_a_lock_says_whether_its_process_lives(tmp_path: Path) -> None:
    device = gx_with(tmp_path, {"proc/812/cmdline": "sh"})
    lock = tmp_path / "run/dbus-smartbms.lock"
    lock.symlink_to("812")
    assert device.services().lock == "setup.sh is at work (pid 812)"
    lock.unlink()
    lock.symlink_to("813")
    text = " ".join(" ".join(service_section(device)).split())
    assert "lock /run/dbus-smartbms.lock is there, but its process 813 is gone" in text


def test_the_report_says_when_it_was_made(tmp_path: Path) -> None:
    before = time.time()
    (said,) = [text for label, text in Gx(tmp_path).machine().about if label == "date and time"]
    at = calendar.timegm(time.strptime(said, "%Y-%m-%d %H:%M:%S UTC"))
    assert int(before) <= at <= time.time()


def test_whose_a_device_is() -> None:
    cure = "name its %s in /data/conf/dbus-smartbms.ini: [link] devices = auto, %s"
    assert usb.whose(TTY, "auto") == "ours: it says SmartBMSToUSB"
    assert usb.whose(BARE._replace(chosen=True), "AB0CDEF") == "ours: [link] devices = AB0CDEF names it"
    assert usb.whose(TTY._replace(chosen=False), "XY").startswith("not ours: it says SmartBMSToUSB, but")
    assert usb.whose(BARE, "auto").endswith(cure % ("serial number", "AB0CDEF"))
    nameless = BARE._replace(port=BARE.port._replace(serial_number=None))
    assert usb.whose(nameless, "auto").endswith(cure % ("path", "/dev/ttyUSB0"))
    modem = BARE._replace(port=BARE.port._replace(ftdi=False))
    assert usb.whose(modem, "auto") == "not ours: another device"


def test_the_stamps_of_multilog_are_times() -> None:
    """As daemontools' own tai64nlocal has them."""
    assert gx.utc("@4000000037c219bf2ef02e94 mark") == "1999-08-24 04:04:05 mark"
    assert gx.utc("@40000000 mark") == "@40000000 mark"
    assert gx.utc("@ffffffffffffffff00000000 mark") == "@ffffffffffffffff00000000 mark"


def test_why_it_is_not_started_is_said_where_there_is_a_why() -> None:
    assert not [line for line in doctor.report(facts()) if line.startswith("not started")]
    lines = doctor.report(facts(services=services(why="Python 3.8 is too old\n")))
    assert "not started       Python 3.8 is too old" in lines


def test_a_long_word_is_searched_for_passwords_at_once() -> None:
    """A damaged log may be one word; a search that tries each beginning of it would take minutes."""
    text = "a" * 120_000
    assert gx.hide(f"{text} api_token: {text} b", ["xyz"]) == f"{text} api_token: (hidden) b"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("wifi_password=hunter2 x", "wifi_password=(hidden) x"),
        ("pppd password hunter2 nodetach", "pppd password (hidden) nodetach"),
        ('{"api-token": "hunter2", "a": 1}', '{"api-token": "(hidden)", "a": 1}'),
        ("--passwd hunter2", "--passwd (hidden)"),
        ("secret\nnext line", "secret\nnext line"),
    ],
)
def test_passwords_are_hidden_however_they_are_written(text: str, hidden: str) -> None:
    assert gx.hide(text, []) == hidden


def test_names_of_others_do_not_steer_the_terminal() -> None:
    tty = TTY._replace(port=PORT._replace(maker="\x1b]0;title\x07", model="SmartBMSToUSB\x9b2J"))
    text = "".join(doctor.report(facts(usb=Usb("auto", [tty], []))))
    assert text.isprintable()
    assert "?]0;title?, SmartBMSToUSB?2J" in text


def test_what_hangs_is_given_up_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that is a pipe is as good as a disk that does not answer."""
    monkeypatch.setattr(doctor, "HANGS_S", 0.2)
    file = tmp_path / "data/conf/dbus-smartbms.ini"
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    with rig.daemon(tmp_path) as daemon:
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", daemon.address)
        found = doctor.gather(Gx(tmp_path))
    os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))  # whoever waits for it goes on
    assert found.unknown == {"configuration": "no answer within 0.2 s"}
    assert found.usb is not None
    assert found.bus == Bus()
    assert "not known         no answer within 0.2 s" in doctor.report(found)


def test_a_pipe_instead_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert Gx(tmp_path).read("/pipe") is None


@pytest.mark.parametrize(
    ("files", "hook"),
    [
        ({}, "none"),
        ({"rcS.local": "#!/bin/sh\nexit 0\n"}, "foreign"),
        ({"rcS.local": "# dbus-smartbms was here\n"}, "foreign"),
        ({"rcS.local": "sh /data/apps/dbus-smartbms/setup.sh boot\n"}, "not executable"),
        ({"rcS.local.disabled": "sh /data/apps/dbus-smartbms/setup.sh boot\n"}, "disabled"),
    ],
)
def test_hooks(tmp_path: Path, files: dict[str, str], hook: str) -> None:
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).write_text(text)
    assert Gx(tmp_path).services().hook == hook


def test_a_machine_is_no_secret_though_it_is_the_host_name_too(tmp_path: Path) -> None:
    for name, text in {"etc/hostname": "einstein", "etc/venus/machine": "einstein"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "einstein" not in Gx(tmp_path).secrets()


def test_the_services_are_called_what_the_driver_calls_them() -> None:
    assert survey.OURS == driver.SERVICE
