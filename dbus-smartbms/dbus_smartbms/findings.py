"""What is wrong, in order of importance, and what to do for each: from the facts alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .configuration import Configuration
from .gx import CONFIGURATION, HOOK, VENDOR, Machine, Services
from .link import CABLE_MODEL, unprogrammed
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
SETUP = "/data/apps/dbus-smartbms/setup.sh"


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
    def running(self) -> bool:
        """Whether svscan has the driver up."""
        return self.services is not None and self.services.driver.pid is not None

    @property
    def battery(self) -> Battery | None:
        """The driver's battery on the bus."""
        return self.bus.battery if self.bus else None


def findings(facts: Facts) -> list[Finding]:
    """What is wrong, the most important first."""
    found: list[Finding] = []
    for rule in (
        _service,
        _cable,
        _beside,
        _bus,
        _link,
        _dvcc,
        _configuration,
        _boot,
        _starter,
        _machine,
        _alarms,
    ):
        found += rule(facts)
    found += [
        Finding(f"not known: {section} ({why})", "try again; if it stays so, restart the GX")
        for section, why in facts.unknown.items()
    ]
    return found


def _service(facts: Facts) -> list[Finding]:
    services = facts.services
    if services is None or services.driver.pid is not None:
        return _restarting(services)
    if facts.machine and facts.machine.package is None and not services.driver.there:
        do = "run setup.sh install from its unpacked archive"
        return [Finding("the driver is not installed on this device", do)]
    why = f": {services.why.strip()}" if services.why and services.why.strip() else ""
    if not services.driver.there:
        return [Finding(f"the driver's service is not there{why}", f"run {SETUP} install, or restart the GX")]
    said = services.driver.said or "svstat says nothing"
    do = "see the last log lines; then svc -u /service/dbus-smartbms, or restart the GX"
    if "supervise" in said:
        do = "restart the GX: svscan does not look after it"
    return [Finding(f"the driver does not run{why} ({said})", do)]


def _restarting(services: Services | None) -> list[Finding]:
    if services is None or not services.restarts:
        return []
    do = "see the last log lines; send a report to the driver's authors"
    if services.restarts >= RESTARTS:
        return [
            Finding(
                "the driver ended and was started again too often: it allows 0.1 C until it runs calmly", do
            )
        ]
    return [Finding("the driver ended and was started again", do)] if _young_service(services) else []


def _cable(facts: Facts) -> list[Finding]:
    usb = facts.usb
    if usb is None:
        return []
    chosen = [tty for tty in usb.ttys if tty.chosen]
    if not chosen and (facts.battery is None or _lost(facts.battery)):
        return [_no_cable(usb)]
    return [finding for tty in chosen if (finding := _held(tty))]


def _no_cable(usb: Usb) -> Finding:
    left_out = [tty.port.device for tty in usb.ttys if tty.port.model.replace(" ", "_") == CABLE_MODEL]
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


def _held(tty: Tty) -> Finding | None:
    others = [holder for holder in tty.holders if not holder.ours]
    if not others:
        return None
    who = ", ".join(f"{holder.command} (pid {holder.pid})" for holder in others)
    if all(holder.probes for holder in others):
        do = f"run {SETUP} install, which tells it to leave the cable alone; or restart the GX"
        return Finding(f"{tty.port.device} is held by what serial-starter has started: {who}", do)
    do = f"end it; if it is the vendor's driver: {SETUP} takeover"
    return Finding(f"{tty.port.device} is held by another program: {who}", do)


def _beside(facts: Facts) -> list[Finding]:
    services = facts.services
    if services is None:
        return []
    do = f"run {SETUP} takeover: it stops and disables the vendor's driver; {SETUP} uninstall gives it back"
    running = [one.name for one in services.vendor_services if one.pid is not None]
    if running:
        return [Finding(f"the vendor's driver runs beside this one ({', '.join(running)})", do)]
    if services.vendor and not services.takeover:
        return [Finding(f"the vendor's driver is installed ({VENDOR})", do)]
    return []


def _bus(facts: Facts) -> list[Finding]:
    bus = facts.bus
    if bus is None:
        return []
    if bus.error:
        return [
            Finding(
                f"the bus: {bus.error}", "restart the GX; on another machine set DBUS_SESSION_BUS_ADDRESS"
            )
        ]
    battery = bus.battery
    if battery is not None and battery.error:
        do = "svc -t /service/dbus-smartbms starts it again; send a report to the driver's authors"
        return [Finding(f"the driver is on the bus, but {battery.error}", do)]
    chosen = facts.usb is not None and any(tty.chosen for tty in facts.usb.ttys)
    if facts.running and battery is None and chosen and not _young(facts):
        do = f"{CHECK_CABLE}; that the BMS has power; see the last log lines"
        return [Finding("the driver runs, but is not on the bus: no valid frame came from the cable yet", do)]
    return []


def _young(facts: Facts) -> bool:
    """Whether the driver came up just now: it takes three frames to appear."""
    return facts.services is not None and _young_service(facts.services)


def _young_service(services: Services) -> bool:
    return (services.driver.seconds or 0) < RESTARTING_S


def _lost(battery: Battery) -> bool:
    return bool(battery.value("/System/NrOfModulesOffline"))


def _link(facts: Facts) -> list[Finding]:
    battery = facts.battery
    if battery is None or battery.error:
        return []
    if _lost(battery):
        what = f"no frames come: {battery.text('/ConnectionInformation')}"
        return [Finding(what, f"{CHECK_CABLE}; that the BMS has power")]
    places = battery.value("/SmartBms/DamagedPlaces") or 0
    seconds = (facts.services.driver.seconds if facts.services else None) or 0
    if places > max(DAMAGED, seconds / FRAME_S / 100):
        do = "look for a loose plug, a line beside an inverter's, a bad USB hub; doctor --report shows it"
        return [Finding(f"the link has bad frames: {places} damaged places since the start", do)]
    return []


def _dvcc(facts: Facts) -> list[Finding]:
    bus, battery = facts.bus, facts.battery
    if bus is None or bus.error or battery is None:
        return []
    if bus.system is None:
        return [
            Finding("com.victronenergy.system is not on the bus: nobody follows the limits", "restart the GX")
        ]
    followed, text = judge(OURS, bus.system.get(DVCC), bus.system.get(ACTIVE_BMS))
    if followed is False and not bus.system.get(DVCC):
        return [Finding(text or "", "on the GX: Settings, DVCC: switch DVCC on")]
    found = []
    if followed is False:
        do = f"on the GX: Settings, DVCC, Controlling BMS: choose automatic, or instance {bus.instance}"
        found.append(Finding(text or "", do))
    if bus.system.get(MULTIPLE):
        others = [
            one.name
            for one in bus.batteries
            if not one.ours and one.value("/Info/MaxChargeVoltage") is not None
        ]
        do = "there may be one: switch the other off, or its limits"
        found.append(Finding(f"several batteries give limits ({', '.join(others) or 'not known which'})", do))
    return found


def _configuration(facts: Facts) -> list[Finding]:
    problems = facts.configuration.problems if facts.configuration else []
    if not problems:
        return []
    do = "correct it (dbus-smartbms config check names every line), then svc -h /service/dbus-smartbms"
    more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
    return [Finding(f"the configuration has mistakes: {problems[0]}{more}", do)]


def _boot(facts: Facts) -> list[Finding]:
    services = facts.services
    if services is None or not (services.driver.there or (facts.machine and facts.machine.package)):
        return []
    after = "after the next restart of the GX the driver will not start"
    if services.hook == "disabled":
        do = f"switch modifications on again on the GX, or: mv {HOOK}.disabled {HOOK}"
        return [Finding(f"the boot hook is switched off ({HOOK}.disabled): {after}", do)]
    if services.hook == "not executable":
        return [Finding(f"the boot hook cannot be run: {after}", f"chmod 755 {HOOK}")]
    if services.hook != "ours":
        return [Finding(f"our line is not in the boot hook {HOOK}: {after}", f"run {SETUP} install")]
    return []


def _starter(facts: Facts) -> list[Finding]:
    services, usb = facts.services, facts.usb
    if services is None or usb is None or not services.driver.there:
        return []
    found = []
    if not services.rule:
        do = f"run {SETUP} boot, then unplug the cable and plug it in again"
        found.append(Finding("the udev rule is not there: serial-starter will probe the cable", do))
    for tty in usb.ttys:
        if services.rule and tty.chosen and tty.udev is not None and not tty.ignored:
            do = f"run {SETUP} boot, then unplug the cable and plug it in again"
            found.append(Finding(f"serial-starter is not told to leave {tty.port.device} alone", do))
    return found


def _machine(facts: Facts) -> list[Finding]:
    machine = facts.machine
    if machine is None:
        return []
    found = []
    if machine.damaged:
        names = ", ".join(machine.damaged[:3])
        found.append(
            Finding(f"{len(machine.damaged)} files of the package were changed ({names})", "install it again")
        )
    if machine.free_kib is not None and machine.free_kib < LITTLE_KIB:
        do = "remove what is not needed there: du -xk /data | sort -n | tail"
        found.append(Finding(f"/data is nearly full: {machine.free_kib} KiB free", do))
    return found


def _alarms(facts: Facts) -> list[Finding]:
    battery = facts.battery
    if battery is None or battery.error:
        return []
    found = []
    standing = [] if _lost(battery) else alarms(battery)  # of a lost link it was said already
    if standing:
        found.append(
            Finding(f"alarms stand: {', '.join(standing)}", "look at the battery and its cells on the GX")
        )
    differs = battery.value("/SmartBms/Disagreement")
    if differs:
        do = "set what it names in [pack] to what the BMS is set to; if it is right already, look at the BMS"
        found.append(Finding(f"the BMS does not do what its tables say: {differs}", do))
    return found


def alarms(battery: Battery) -> list[str]:
    """The alarms that stand, such as ``LowCellVoltage (warning)``."""
    return [
        f"{path.rpartition('/')[2]} ({'warning' if value == 1 else 'alarm'})"
        for path, (value, _) in sorted(battery.items.items())
        if path.startswith("/Alarms/") and value
    ]
