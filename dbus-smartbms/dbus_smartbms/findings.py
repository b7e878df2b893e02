"""What is wrong, in order of importance, and what to do for each: from the facts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .configuration import Configuration
from .gx import APP, CONFIGURATION, DISABLED, HOOK, VENDOR, Machine, Services
from .link import CABLE_MODEL, unprogrammed
from .settings import CAREFUL_RATE
from .starts import RESTARTS
from .survey import MULTIPLE, OURS, Battery, Bus
from .usb import Tty, Usb, name_it
from .use import ACTIVE_BMS, DVCC, judge

LITTLE_KIB = 10 * 1024
"""Under this the GX itself complains of a full /data."""
RESTARTING_S = 10
"""A driver that is younger than this, and not for the first time, does not stay."""
DAMAGED = 10
"""Damaged places that are no reason to look at the cable."""
FRAME_S = 1.0
CHECK_CABLE = (
    "check that the plug sits in a USB port of the GX (try another port, and without a hub), and that its "
    "other end sits in Ext Out of the BMS's End Board"
)
SETUP = f"{APP}/setup.sh"


class Finding(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    do: str


@dataclass
class Facts:
    """All that was found; None for what could not be learnt, with why in ``unknown``, by section."""

    machine: Machine | None = None
    usb: Usb | None = None
    services: Services | None = None
    configuration: Configuration | None = None
    configured: bool = False
    """Whether there is a configuration file, which there need not be."""
    bus: Bus | None = None
    log: list[str] | None = None
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def battery(self) -> Battery | None:
        """The driver's battery on the bus."""
        return self.bus.battery if self.bus else None

    @property
    def chosen(self) -> list[Tty]:
        """The cables that the driver takes."""
        return [tty for tty in self.usb.ttys if tty.chosen] if self.usb else []


def findings(facts: Facts) -> list[Finding]:
    """What is wrong, the most important first."""
    return [finding for rule in _RULES for finding in rule(facts)]


def _service(facts: Facts) -> Iterator[Finding]:
    services = facts.services
    if services is None:
        return
    driver, why = services.driver, (services.why or "").strip()
    if _hook_explains(facts):
        what, do = _HOOKS[services.hook]
        yield Finding(f"{what}: so the driver was not started at the last boot", f"{do}; then restart the GX")
        return
    why = f": {why}" if why else ""
    if driver.pid is not None:
        do = "see the last log lines; send a report to the driver's authors"
        again = "the driver ended and was started again"
        if services.restarts >= RESTARTS:
            yield Finding(f"{again} too often: it allows {CAREFUL_RATE} C until it runs calmly", do)
        elif services.restarts and _young(services):
            yield Finding(again, do)
    elif driver.there:
        said = driver.said or "svstat says nothing"
        do = "see the last log lines; then svc -u /service/dbus-smartbms, or restart the GX"
        if "supervise" in said:
            do = "restart the GX: svscan does not look after it"
        yield Finding(f"the driver does not run{why} ({said})", do)
    elif facts.machine and facts.machine.package is None:
        do = "run setup.sh install from its unpacked archive"
        yield Finding("the driver is not installed on this device", do)
    else:
        yield Finding(f"the driver's service is not there{why}", f"run {SETUP} install, or restart the GX")


def _hook_explains(facts: Facts) -> bool:
    """Whether nothing of the driver was started because Venus did not run the hook.

    Then an install would be refused, and a restart alone would change nothing.
    """
    services, machine = facts.services, facts.machine
    if services is None or services.driver.there or services.why or (machine and machine.package is None):
        return False
    return services.hook in ("disabled", "not executable")


def _young(services: Services) -> bool:
    """Whether the driver came up just now: it takes three frames to appear."""
    return (services.driver.seconds or 0) < RESTARTING_S


def _cable(facts: Facts) -> Iterator[Finding]:
    if facts.usb and not facts.chosen and (facts.battery is None or _lost(facts.battery)):
        yield _no_cable(facts.usb)
    for tty in facts.chosen:
        others = [holder for holder in tty.holders if not holder.ours]
        who = ", ".join(map(str, others))
        if others and all(holder.probes for holder in others):
            if _hook_explains(facts):
                continue
            do = f"run {SETUP} install, which tells it to leave the cable alone; or restart the GX"
            yield Finding(f"{tty.port.device} is held by what serial-starter has started: {who}", do)
        elif others:
            do = f"end it; if it is the vendor's driver: {SETUP} takeover"
            yield Finding(f"{tty.port.device} is held by another program: {who}", do)


def _no_cable(usb: Usb) -> Finding:
    left_out = [tty.port.device for tty in usb.ttys if tty.port.says_so]
    if left_out:
        do = f"in {CONFIGURATION} add auto to [link] devices, which is {usb.devices} now"
        return Finding(f"no cable is chosen, though {', '.join(left_out)} says {CABLE_MODEL}", do)
    nameless = next((tty for tty in usb.ttys if unprogrammed(tty.port)), None)
    if nameless:
        what = f"no cable says {CABLE_MODEL}, but {nameless.port.device} may be one"
        return Finding(what, name_it(nameless))
    if usb.devices != "auto":
        do = f"check that name, or use auto; {CHECK_CABLE}"
        return Finding(f"no cable found: [link] devices = {usb.devices}", do)
    if not usb.ttys and any("0403:" in line for line in usb.others):
        do = "unplug it and plug it in again; if that changes nothing, restart the GX"
        return Finding("no cable found, but on USB is a device of FTDI without a tty", do)
    return Finding("no cable found", CHECK_CABLE)


def _beside(facts: Facts) -> Iterator[Finding]:
    services = facts.services
    if services is None:
        return
    do = f"run {SETUP} takeover: it stops and disables the vendor's driver; {SETUP} uninstall gives it back"
    running = [one.name for one in services.vendor_services if one.pid is not None]
    if running:
        if services.takeover:
            do = f"run {SETUP} install once more: it stops it"
        yield Finding(f"the vendor's driver runs beside this one ({', '.join(running)})", do)
    elif services.vendor and not services.takeover:
        yield Finding(f"the vendor's driver is installed ({VENDOR})", do)


def _bus(facts: Facts) -> Iterator[Finding]:
    bus, battery, services = facts.bus, facts.battery, facts.services
    if bus is None:
        return
    if bus.error:
        do = "restart the GX; on another machine set DBUS_SESSION_BUS_ADDRESS"
        yield Finding(f"the bus: {bus.error}", do)
    elif battery is None:
        if services is None or services.driver.pid is None or not facts.chosen:
            return
        if _young(services):
            what = f"too early to say: the driver was started {services.driver.seconds or 0} seconds ago"
            yield Finding(f"{what} and is not on the bus yet", f"try again in {RESTARTING_S} seconds")
        else:
            do = f"{CHECK_CABLE}; that the BMS has power; see the last log lines"
            what = "the driver runs, but is not on the bus: no valid frame came from the cable yet"
            yield Finding(what, do)
    elif battery.error:
        do = "svc -t /service/dbus-smartbms starts it again; send a report to the driver's authors"
        yield Finding(f"the driver is on the bus, but {battery.error}", do)


def _lost(battery: Battery) -> bool:
    return bool(battery.value("/System/NrOfModulesOffline"))


def _link(facts: Facts) -> Iterator[Finding]:
    battery = facts.battery
    if battery is None:
        return
    if _lost(battery):
        what = f"no frames come: {battery.text('/ConnectionInformation')}"
        yield Finding(what, f"{CHECK_CABLE}; that the BMS has power")
        return
    places = battery.value("/SmartBms/DamagedPlaces") or 0
    seconds = (facts.services.driver.seconds if facts.services else None) or 0
    if places > max(DAMAGED, seconds / FRAME_S / 100):
        do = "look for a loose plug, a line beside an inverter's, a bad USB hub; doctor --report shows it"
        yield Finding(f"the link has bad frames: {places} damaged places since the start", do)


def _dvcc(facts: Facts) -> Iterator[Finding]:
    bus = facts.bus
    if bus is None or bus.error or bus.battery is None:
        return
    if bus.system is None:
        what = "com.victronenergy.system is not on the bus: nobody follows the limits"
        yield Finding(what, "restart the GX")
        return
    on = bus.system.get(DVCC)
    followed, text = judge(OURS, on, bus.system.get(ACTIVE_BMS))
    if followed is False:
        do = "on the GX: Settings, DVCC: switch DVCC on"
        if on:
            do = f"on the GX: Settings, DVCC, Controlling BMS: choose automatic, or instance {bus.instance}"
        yield Finding(text or "", do)
    if on and bus.system.get(MULTIPLE):
        others = [
            one.name
            for one in bus.batteries
            if not one.ours and one.value("/Info/MaxChargeVoltage") is not None
        ]
        do = "there may be one: switch the other off, or its limits"
        yield Finding(f"several batteries give limits ({', '.join(others) or 'not known which'})", do)


def _configuration(facts: Facts) -> Iterator[Finding]:
    problems = facts.configuration.problems if facts.configuration else []
    if problems:
        check = f"{SETUP} config check {CONFIGURATION}"
        do = f"correct it ({check} names every line), then svc -h /service/dbus-smartbms"
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        yield Finding(f"the configuration has mistakes: {problems[0]}{more}", do)


_HOOKS = {
    "disabled": (
        f"modifications are switched off on this GX ({HOOK}{DISABLED})",
        f"Settings, General, Modification checks: All modifications enabled; or: mv {HOOK}{DISABLED} {HOOK}",
    ),
    "not executable": ("the boot hook cannot be run", f"chmod 755 {HOOK}"),
    "foreign": (f"our line is not in the boot hook {HOOK}", f"run {SETUP} install"),
    "none": (f"our line is not in the boot hook {HOOK}", f"run {SETUP} install"),
}


def _boot(facts: Facts) -> Iterator[Finding]:
    services = facts.services
    if services is None or services.hook == "ours" or _hook_explains(facts):
        return
    if services.driver.there or (facts.machine and facts.machine.package):
        what, do = _HOOKS[services.hook]
        yield Finding(f"{what}: after the next restart of the GX the driver will not start", do)


def _starter(facts: Facts) -> Iterator[Finding]:
    services = facts.services
    if services is None or facts.usb is None or not services.driver.there:
        return
    do = f"run {SETUP} boot, then unplug the cable and plug it in again"
    if not services.rule:
        yield Finding("the udev rule is not there: serial-starter will probe the cable", do)
        return
    for tty in facts.chosen:
        if tty.udev is not None and not tty.ignored:
            yield Finding(f"serial-starter is not told to leave {tty.port.device} alone", do)


def _machine(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if machine and machine.damaged:
        names = ", ".join(machine.damaged[:3])
        what = f"{len(machine.damaged)} files of the package were changed ({names})"
        yield Finding(what, "install it again")
    if machine and machine.free_kib is not None and machine.free_kib < LITTLE_KIB:
        do = "remove what is not needed there: du -xk /data | sort -n | tail"
        yield Finding(f"/data is nearly full: {machine.free_kib} KiB free", do)


def _alarms(facts: Facts) -> Iterator[Finding]:
    battery = facts.battery
    if battery is None:
        return
    standing = [] if _lost(battery) else alarms(battery)  # of a lost link it was said already
    if standing:
        yield Finding(f"alarms stand: {', '.join(standing)}", "look at the battery and its cells on the GX")
    differs = battery.value("/SmartBms/Disagreement")
    if differs:
        do = "set what it names in [pack] to what the BMS is set to; if it is right already, look at the BMS"
        yield Finding(f"the BMS does not do what its tables say: {differs}", do)


def alarms(battery: Battery) -> list[str]:
    """The alarms that stand, such as ``LowCellVoltage (warning)``."""
    return [
        f"{path.rpartition('/')[2]} ({'warning' if value == 1 else 'alarm'})"
        for path, (value, _) in sorted(battery.items.items())
        if path.startswith("/Alarms/") and value
    ]


def _unknown(facts: Facts) -> Iterator[Finding]:
    for section, why in facts.unknown.items():
        yield Finding(f"not known: {section} ({why})", "try again; if it stays so, restart the GX")


_RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _service, _cable, _beside, _bus, _link, _dvcc, _configuration, _boot, _starter, _machine, _alarms,
    _unknown,
)  # fmt: skip
"""The most important first."""
