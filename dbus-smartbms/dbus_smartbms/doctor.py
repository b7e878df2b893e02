"""What a helper asks for first, and what is wrong: ``dbus-smartbms doctor``, at 80 columns.

Facts in, lines out; ``gx``, ``usb`` and ``survey`` find the facts.
"""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from . import __version__, survey, usb
from .configuration import Configuration, load
from .findings import Facts, Finding, alarms, findings
from .gx import APP, CONFIGURATION, DISABLED, HOOK, RULE, VENDOR, Gx, Machine, Services, Supervised, bounded
from .survey import BOL, CHOSEN_BMS, CHOSEN_MONITOR, MONITOR, Battery, Bus
from .use import ACTIVE_BMS, DVCC

_T = TypeVar("_T")

COLUMNS = 80
LABEL = 18
LOG_LINES = 20
SECTION_S = 15.0
"""A section may take so long; cables twice that, and the bus a little more than its own limit."""
HANGS_S = 5.0
"""And the configuration, which is one small file."""


def gather(gx: Gx) -> Facts:
    """Everything that can be learnt; a section that fails or hangs is missing, and the rest is there."""
    facts = Facts()

    def learn(section: str, work: Callable[[], _T], seconds: float = SECTION_S) -> _T | None:
        try:
            return bounded(work, seconds)
        except Exception as error:  # noqa: BLE001  whatever it is: the rest goes on
            facts.unknown[section] = str(error) or type(error).__name__
            return None

    facts.machine = learn("versions", gx.machine)
    facts.configuration = learn("configuration", lambda: load(gx.path(CONFIGURATION), []), HANGS_S)
    facts.configured = gx.read(CONFIGURATION, 1) is not None
    devices = facts.configuration.settings.devices if facts.configuration else "auto"
    facts.usb = learn("cables", lambda: usb.look(gx, devices), 2 * SECTION_S)
    facts.services = learn("service", gx.services)
    facts.bus = learn("bus", lambda: asyncio.run(survey.look()), survey.SURVEY_S + 4)
    facts.log = learn("log", lambda: gx.last_lines(LOG_LINES))
    if facts.configuration:
        facts.configuration.problems = [gx.shown(problem) for problem in facts.configuration.problems]
    return facts


def report(facts: Facts) -> list[str]:
    """The sections and the verdict."""
    sections = (
        ("versions", facts.machine and _versions(facts.machine)),
        ("cables", facts.usb and _cables(facts.usb)),
        ("service", facts.services and _services(facts.services)),
        ("configuration", facts.configuration and _configuration(facts.configuration, facts.configured)),
        ("bus", facts.bus and _bus(facts.bus)),
        ("log", None if facts.log is None else _log(facts.log)),
    )
    lines: list[str] = []
    for title, text in sections:
        lines += [f"== {title}", *(text or _row("not known", facts.unknown.get(title, ""))), ""]
    return [_printable(line) for line in (*lines, *verdict(findings(facts)))]


def _printable(line: str) -> str:
    """A line without what would steer a terminal: names come from anybody's device."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def verdict(found: list[Finding]) -> list[str]:
    """What is wrong and what to do, numbered."""
    lines = ["== verdict"] if found else ["== verdict", "nothing wrong found"]
    for number, finding in enumerate(found, 1):
        lines += _wrap(f"{number}. {finding.what}", "   ")
        lines += _wrap(f"   -> {finding.do}", "      ")
    return lines


def _wrap(text: str, indent: str = "") -> list[str]:
    """Lines of at most 80 columns; a longer word, such as a path, stays whole where it fits."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _row(label: str, text: str) -> list[str]:
    """A label and what belongs to it, side by side."""
    lines = textwrap.wrap(text, COLUMNS - LABEL, break_on_hyphens=False) or ["-"]
    return [f"{name:<{LABEL}}{line}" for name, line in zip([label, *[""] * len(lines)], lines, strict=False)]


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [line for label, text in rows for line in _row(label, text)]


def _versions(machine: Machine) -> list[str]:
    free = "not known: there is no /data" if machine.free_kib is None else f"{machine.free_kib // 1024} MiB"
    return _rows(
        [
            ("driver", __version__),
            ("package", _package(machine)),
            ("Python", f"{sys.version.split()[0]}, {sys.executable}"),
            ("kernel", f"{os.uname().machine}, Linux {os.uname().release}"),
            *machine.about,
            ("free on /data", free),
        ]
    )


def _package(machine: Machine) -> str:
    if machine.package is None:
        return f"none: there is no link {APP}; this runs from {Path(__file__).parents[2]}"
    if machine.damaged is None:
        return machine.package
    if machine.damaged:
        return f"{machine.package}, CHANGED: {', '.join(machine.damaged[:5])}"
    return f"{machine.package}, as it was shipped"


def _cables(found: usb.Usb) -> list[str]:
    lines = _row("looked for", f"[link] devices = {found.devices}")
    for tty in found.ttys:
        port, holders = tty.port, "; ".join(map(str, tty.holders))
        lines += ["", *_row(port.device, usb.whose(tty, found.devices))]
        lines += _rows(
            [
                ("  says", ", ".join(filter(None, (port.maker, port.model, tty.ids))) or "nothing"),
                ("  serial number", port.serial_number or "none"),
                ("  USB port", port.usb_port or "not known"),
                ("  udev", _udev(tty)),
                ("  serial-starter", "has it on its list" if tty.starter else "does not have it"),
                ("  held open by", holders or "nobody"),
            ]
        )
    if not any(tty.chosen for tty in found.ttys):
        others = "; ".join(found.others) or "no devices at all"
        lines += ["", *_row("no cable found", f"on USB are: {others}")]
    return lines


def _udev(tty: usb.Tty) -> str:
    if tty.udev is None:
        return f"not known: {tty.udev_error}"
    said = [f"{key} {tty.udev[key]}" for key in ("ID_MODEL", "VE_SERVICE") if key in tty.udev]
    return ", ".join(said) + ("" if "VE_SERVICE" in tty.udev else ", no VE_SERVICE")


_HOOKS = {
    "ours": f"{HOOK} has our line",
    "disabled": f"switched off: {HOOK}{DISABLED} has our line",
    "not executable": f"{HOOK} has our line, but cannot be run",
    "foreign": f"{HOOK} is there without our line",
    "none": f"there is no {HOOK}",
}


def _services(services: Services) -> list[str]:
    why = (services.why or "").strip()
    rule = f"{RULE} is there" if services.rule else f"there is no {RULE}"
    count = services.hook_count
    lines = _rows(
        [
            ("driver", _supervised(services.driver)),
            ("its log", _supervised(services.log)),
            *([("not started", why)] if why else []),
            ("restarts", f"{services.restarts} after ends that were not in order"),
            ("boot hook", _HOOKS[services.hook] + (f" ({count} lines)" if count else "")),
            *(("", f"line {number}: {line}") for number, line in services.hook_lines),
            *(("boot.log", line) for line in services.boot_log),
            ("udev rule", rule),
            ("in /data/apps", ", ".join(services.apps) or "nothing of this driver"),
            *([("lock", services.lock)] if services.lock else []),
            ("vendor's driver", f"{VENDOR} is there" if services.vendor else "not installed"),
        ]
    )
    if services.vendor:
        lines += _row("", "taken over" if services.takeover else "not taken over")
    return lines + _rows(("", f"{one.name}: {_supervised(one)}") for one in services.vendor_services)


def _supervised(one: Supervised) -> str:
    if not one.there:
        return f"there is no {one.name}"
    return one.said or "svstat says nothing"


def _configuration(configuration: Configuration, there: bool) -> list[str]:
    lines = _row("file", CONFIGURATION + ("" if there else " (not there, which is no mistake)"))
    section = ""
    for line in configuration.show().splitlines():
        if line.startswith("["):
            section = line
        elif line and not line.endswith("# default"):
            lines += _row("set", f"{section} {' '.join(line.partition('  # ')[0].split())}")
    if len(lines) == 1:
        lines += _row("set", "nothing: all values are the defaults")
    return lines + _rows(("mistake", problem) for problem in configuration.problems or ["none"])


def _bus(bus: Bus) -> list[str]:
    lines = [line for battery in bus.batteries for line in _battery(battery)]
    if bus.error:
        lines = _row("bus", bus.error) + lines
    elif not bus.batteries:
        lines = _row("batteries", "no com.victronenergy.battery service")
    if bus.system is None:
        return lines + ([] if bus.error else _row("system", "com.victronenergy.system is not there"))
    dvcc = bus.system.get(DVCC)
    on = "not known" if dvcc is None else "on" if dvcc else "off"
    chosen = bus.settings.get(CHOSEN_MONITOR, "-")
    return lines + _rows(
        [
            ("monitor", f"{bus.system.get(MONITOR) or 'none'} (chosen: {chosen})"),
            ("BMS", f"{bus.system.get(ACTIVE_BMS) or 'none'} (chosen: {_bms(bus.settings.get(CHOSEN_BMS))})"),
            ("DVCC", f"{on} ({BOL}: {bus.settings.get(BOL, '-')})"),
        ]
    )


def _bms(chosen: object) -> str:
    """What the user chose (systemcalc's ``BmsInstance``)."""
    if not isinstance(chosen, int):
        return "-"
    return {-1: "automatic", -255: "none"}.get(chosen, f"instance {chosen}")


def _battery(battery: Battery) -> list[str]:
    lines = [battery.name]
    if battery.error:
        return lines + _row("", battery.error)
    name = battery.value("/CustomName") or battery.value("/ProductName") or "-"
    lines += _rows(
        [
            ("  name", f"{name}, instance {battery.text('/DeviceInstance')}"),
            ("  now", ", ".join(battery.text(path) for path in ("/Soc", "/Dc/0/Voltage", "/Dc/0/Current"))),
        ]
    )
    for label, what in _PACK:
        if any(battery.value(path) is not None for _, path, _ in what):
            lines += _row(f"  {label}", ", ".join(_said(battery, *one) for one in what))
    for short, path, why in _LIMITS:
        if battery.value(path) is not None:
            reason = battery.value(why)
            lines += _row(f"  {short}", battery.text(path) + (f": {reason}" if reason else ""))
    if not battery.ours:
        return lines
    return lines + _rows(
        [
            ("  alarms", ", ".join(alarms(battery)) or "none"),
            ("  says", battery.text("/ConnectionInformation")),
            ("  link", f"{battery.text('/SmartBms/DamagedPlaces')} damaged places since the start"),
            ("  on", battery.text("/Mgmt/Connection")),
        ]
    )


def _said(battery: Battery, name: str, path: str, cell: str) -> str:
    number = battery.value(cell)
    return f"{name} {battery.text(path)}" + (f" (cell {number})" if number else "")


_SYSTEM, _BMS = "/System/", "/SmartBms/Cell/"
_PACK = (
    ("cells", (
        ("lowest", f"{_SYSTEM}MinCellVoltage", f"{_SYSTEM}MinVoltageCellId"),
        ("highest", f"{_SYSTEM}MaxCellVoltage", f"{_SYSTEM}MaxVoltageCellId"),
    )),
    ("temperature", (
        ("lowest", f"{_SYSTEM}MinCellTemperature", f"{_SYSTEM}MinTemperatureCellId"),
        ("highest", f"{_SYSTEM}MaxCellTemperature", f"{_SYSTEM}MaxTemperatureCellId"),
    )),
    ("allowed", (("charge", "/Io/AllowToCharge", ""), ("discharge", "/Io/AllowToDischarge", ""))),
    ("set to", (
        ("capacity", "/InstalledCapacity", ""),
        *((name, _BMS + name, "") for name in ("Vmin", "Vmax", "Vbalance")),
    )),
)  # fmt: skip
"""A label, and what stands beside it: what it is, its path, and that of the cell it belongs to."""
_LIMITS = (
    ("CVL", "/Info/MaxChargeVoltage", "/Info/ChargeVoltageLimitation"),
    ("CCL", "/Info/MaxChargeCurrent", "/Info/ChargeLimitation"),
    ("DCL", "/Info/MaxDischargeCurrent", "/Info/DischargeLimitation"),
)


def _log(lines: list[str]) -> list[str]:
    if not lines:
        return _row("log", "there is none in /var/log/dbus-smartbms")
    return [part for line in lines for part in _wrap(line, "    ")]
