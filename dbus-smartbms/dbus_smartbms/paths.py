r"""The paths on the bus, one row each: type, text with unit, value, source.

A row gives None when there is nothing to give; that, and nothing else, is "no value" on the bus.
Floats appear here for the first time.

Consumers and meaning of the paths: Victron's dbus-systemcalc-py, gui-v2, dbus_modbustcp, VRM's
logger, and dbus-serialbattery's conventions for single cells and reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from smartbms_protocol import CELSIUS, Frame, layout

from . import __version__, alarms, mirror, ratings
from .bank import Bank

Value = float | int | str | None
PRODUCT_ID = 0xB050
"""Victron's registered id for this BMS; it has no special treatment anywhere."""
PRODUCT_NAME = r"123\SmartBMS"
LONGEST_TIME_TO_GO_S = 864_000
RUNNING, ERROR = 9, 10
"""Values of /State."""


@dataclass
class Identity:
    """Who this is, and what else of the surroundings is shown."""

    connection: str = ""
    serial: str | None = None
    instance: int = 123
    custom_name: str = ""
    problems: tuple[str, ...] = ()
    """What was wrong with the configuration."""
    in_use: bool | None = None
    """Whether the GX follows our limits; None while that is not known."""
    in_use_text: str | None = None


class View:
    """What the rows look at: the bank at a moment."""

    __slots__ = (
        "bank",
        "caps",
        "celsius",
        "frame",
        "identity",
        "known",
        "limits",
        "now",
        "pack",
        "stale_before",
    )

    def __init__(self, bank: Bank, identity: Identity, now: float) -> None:
        self.bank, self.identity, self.now = bank, identity, now
        self.pack, self.limits, self.caps = bank.pack, bank.limits, bank.caps
        self.known: Frame | None = bank.pack.frame
        """The last frame, however old: for what does not change when the cable is pulled."""
        self.frame: Frame | None = None if bank.lost else self.known
        """The last frame, None once the link is lost: for everything measured."""
        self.celsius = CELSIUS[bank.settings.temperature]
        self.stale_before = now - max(3 * bank.pack.round_s, bank.settings.hold_s)
        """Readings of single cells from before this are no longer shown."""

    def pair(self, name: str) -> int | None:
        """A rotating value that is at most 3 rounds old."""
        return None if self.frame is None else self.pack.pair(name, self.now)

    def nominal_mv(self) -> int:
        """Nominal pack voltage; 0 before the first frame."""
        capacity = ratings.capacity_mah(self.bank.settings, self.pack)
        return self.known.capacity_wh * 1_000_000 // capacity if self.known and capacity else 0


class Row(NamedTuple):
    """A path.  ``type`` is d, i or s; ``text`` a format, or a function of the value."""

    path: str
    type: str
    text: str | Callable[[Any], str]
    value: Callable[[View], Value]
    source: str
    needs: str = "frame"
    """When the value is None: "frame" before the first frame and once the link is lost, "known" only
    before the first frame, "" never for want of frames, "once" never, and it stays what it is."""


class CellRow(NamedTuple):
    """A path for each cell, ``{c}`` in it standing for the cell's number."""

    path: str
    type: str
    text: str
    value: Callable[[View, int], Value]
    source: str


def _frame(name: str, divisor: int = 1) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        number = getattr(view.frame, name)
        return None if number is None else number / divisor if divisor > 1 else number

    return value


def _known(name: str, divisor: int) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        number: int = getattr(view.known, name)
        return number / divisor if divisor > 1 else number

    return value


def _pair(name: str, divisor: int = 1) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        number = view.pair(name)
        return None if number is None else number / divisor if divisor > 1 else number

    return value


def _relay(name: str) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        closed: bool | None = getattr(view.bank.relays, name).closed
        return None if closed is None else int(closed)

    return value


def _bit(bit: int) -> Callable[[View], Value]:
    """A bit of status byte 2."""

    def value(view: View) -> Value:
        status2 = view.pair("status2")
        return None if status2 is None else int(bool(status2 & bit))

    return value


def _reason(name: str) -> Callable[[View], Value]:
    return lambda view: str(getattr(view.limits, name))


def _amps(name: str) -> Callable[[View], Value]:
    """A current limit to 0.1 A, rounded down."""

    def value(view: View) -> Value:
        milliamps: int = getattr(view.limits, name)
        return milliamps // 100 / 10

    return value


def _cvl(view: View) -> Value:
    return view.limits.cvl_mv / 1000 if view.limits else None


def _extreme(name: str, cell: str) -> Callable[[View], Value]:
    """An extreme in V, None where the BMS names no cell to it: it hears none."""
    return lambda view: getattr(view.frame, name) / 1000 if getattr(view.frame, cell) else None


def _celsius(name: str, cell: str) -> Callable[[View], Value]:
    """An extreme in degrees, likewise."""
    return lambda view: view.celsius(getattr(view.frame, name)) if getattr(view.frame, cell) else None


def _cell_id(name: str) -> Callable[[View], Value]:
    """A cell's number as text; the BMS names cell 0 when it hears none."""
    return lambda view: str(getattr(view.frame, name)) if getattr(view.frame, name) else None


def _power(view: View) -> Value:
    frame = need(view.frame)
    return None if frame.current_ma is None else round(frame.voltage_mv * frame.current_ma / 1e6, 1)


def _temperature(view: View) -> Value:
    """Midway between the coldest and the hottest cell; a bleeding board is no cell."""
    frame = need(view.frame)
    if not frame.coldest_cell or not frame.hottest_cell:
        return None
    coldest, hottest = view.celsius(frame.coldest_raw), view.celsius(frame.hottest_raw)
    if frame.may_balance(frame.hottest_cell):
        return coldest
    return round((coldest + hottest) / 2, 1)


def _time_to_go(view: View) -> Value:
    """Stored energy by the present power, to a minute; none while charging."""
    frame = need(view.frame)
    watts = -frame.voltage_mv * (frame.current_ma or 0) / 1e6
    if watts <= 0:
        return None
    return min(int(frame.stored_wh / watts * 60) * 60, LONGEST_TIME_TO_GO_S)


def _amp_hours(wh: Callable[[Frame], int]) -> Callable[[View], Value]:
    """Energy as charge at the nominal voltage; None where capacity or voltage is not set."""

    def value(view: View) -> Value:
        nominal = view.nominal_mv()
        return round(1000 * wh(need(view.known)) / nominal, 1) if nominal else None

    return value


def _firmware(view: View) -> Value:
    first, patch = view.pack.pair("firmware_major_minor"), view.pack.pair("firmware_patch")
    return None if first is None or patch is None else f"{first >> 4}.{first & 15}.{patch}"


def _balancing(view: View) -> bool:
    frame = need(view.frame)
    return 0 < frame.vbalance_mv < frame.highest_mv


def _charge_request(view: View) -> Value:
    frame = need(view.frame)
    empty = frame.has(layout.UNDER_VMIN) or frame.lowest_mv <= frame.vmin_mv
    return int(empty and frame.has(layout.CHARGE_ALLOWED))


_STATUS = (
    (layout.OVER_VMAX, 8 | 512),
    (layout.UNDER_VMIN, 16 | 32768),
    (layout.UNDER_TMIN, 32),
    (layout.OVER_TMAX, 64),
    (layout.NO_COMMUNICATION, 128),
)


def _status(view: View) -> Value:
    """Victron's bits: 1 balanced, 4 balancing, 8 over and 16 under voltage, 32 cold, 64 hot, 128 error."""
    frame = need(view.frame)
    return sum(theirs for ours, theirs in _STATUS if frame.has(ours)) | (4 if _balancing(view) else 1)


def _sum(view: View) -> Value:
    """The cells' newest readings; None until every cell was seen, and when one is no longer."""
    total = 0
    for reading in view.pack.cell_mv:
        if reading is None or reading.value is None or reading.at < view.stale_before:
            return None
        total += reading.value
    return total / 1000


def _information(view: View) -> Value:
    """The one thing to know about the connection, in words."""
    if view.bank.lost:
        return "No data from the BMS: check the cable"
    if view.identity.problems:
        return "Configuration error: " + view.identity.problems[0]
    if view.limits and view.limits.wrong:
        return "Settings of the BMS: " + view.limits.wrong
    if view.identity.in_use is False:
        return view.identity.in_use_text
    if view.frame and view.frame.has(layout.SOC_NOT_CALIBRATED):
        return "SoC not calibrated: charge fully once"
    return ""


def _history_mv(name: str) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        millivolts = getattr(view.bank.history, name)
        return None if millivolts is None else millivolts / 1000

    return value


def _history_celsius(name: str) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        raw = getattr(view.bank.history, name)
        return None if raw is None else view.celsius(raw)

    return value


def _drawn(view: View) -> Value:
    return -round(view.bank.history.drawn_mas / 3.6e6, 1) or 0.0


def _deepest(view: View) -> Value:
    missing, nominal = view.bank.history.deepest_wh, view.nominal_mv()
    return None if missing is None or not nominal else -round(1000 * missing / nominal, 1) or 0.0


def _since_full(view: View) -> Value:
    full_at = view.bank.history.full_at
    return None if full_at is None else int(view.now - full_at) // 60 * 60


def _alarm(path: str) -> Callable[[View], Value]:
    return lambda view: view.bank.alarms.levels[path]


def _count(path: str) -> Callable[[View], Value]:
    return lambda view: view.bank.alarms.raised[path]


def _span(seconds: int) -> str:
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"


def need(frame: Frame | None) -> Frame:
    """The frame of a row that is only asked when there is one."""
    if frame is None:
        raise ValueError("this row needs a frame")
    return frame


def _low_voltage(view: View) -> Value:
    """The inverter/charger is told this: where Vmin is no cell's voltage, what the manual advises."""
    frame = need(view.known)
    return frame.cells * ratings.thresholds(view.bank.settings, view.pack, frame).vmin_mv / 1000


def _charge_mode(view: View) -> Value:
    if view.limits is None:
        return None
    wanted = "" if view.bank.stage.asked_s is None else ", charging to full"
    return _MODES[view.limits.state] + wanted


def _cap(direction: int) -> Callable[[View], Value]:
    """What may be wished for at most, A."""
    return lambda view: view.caps[direction].amount // 100 / 10


def _wish(direction: int) -> Callable[[View], Value]:
    """What is wished for, A; without a wish, what is configured."""

    def value(view: View) -> Value:
        most, wish = view.caps[direction].amount // 100 / 10, view.bank.wishes[direction]
        return most if wish is None else min(wish, most)

    return value


_OUTPUTS = "/SwitchableOutput"
CHARGE_TO_FULL = f"{_OUTPUTS}/charge_to_full/State"
MAX_CHARGE_CURRENT = f"{_OUTPUTS}/max_charge_current/Dimming"
MAX_DISCHARGE_CURRENT = f"{_OUTPUTS}/max_discharge_current/Dimming"
_TOGGLE, _NUMERIC = 1, 8
"""Kinds of a control, of gui-v2's SwitchableOutput."""


def _control(path: str, name: str, kind: int) -> Iterator[Row]:
    """What gui-v2 and VRM need to show a control, beside the value that is written."""
    place = path.rpartition("/")[0]

    def fixed(key: str, value: int | str) -> Row:
        kind = "s" if isinstance(value, str) else "i"
        return Row(f"{place}/{key}", kind, "{}", lambda _: value, _CARD, "once")

    yield fixed("Name", name)
    yield from (
        fixed(f"Settings/{key}", value)
        for key, value in (
            ("Type", kind), ("ValidTypes", 1 << kind), ("Group", "SmartBMS"), ("CustomName", ""),
            ("ShowUIControl", 1), ("Function", 2), ("ValidFunctions", 1 << 2),
        )
    )  # fmt: skip


def _current(path: str, name: str, direction: int, limit: str) -> Iterator[Row]:
    """The control of a current."""
    place = path.rpartition("/")[0]
    source = f"highest {limit}; writeable, never over what is configured"
    yield Row(path, "d", "{:.1f} A", _wish(direction), source, "known")
    yield Row(f"{place}/Status", "i", "{}", lambda _: 9, "9: on", "once")
    yield from _control(path, name, _NUMERIC)
    yield Row(f"{place}/Settings/DimmingMin", "d", "{:.1f} A", lambda _: 0.0, _CARD, "once")
    source = f"highest {limit} that is configured, else by rate x capacity"
    yield Row(f"{place}/Settings/DimmingMax", "d", "{:.1f} A", _cap(direction), source, "known")
    yield Row(f"{place}/Settings/StepSize", "d", "{:.1f} A", lambda _: 1.0, _CARD, "once")
    yield Row(f"{place}/Settings/Decimals", "i", "{}", lambda _: 0, _CARD, "once")
    yield Row(f"{place}/Settings/Unit", "s", "{}", lambda _: "A", _CARD, "once")


_CARD = "how gui-v2 and VRM show the control"
_SEEN = "since cleared"
_LEVELS = ("Ok", "Warning", "Alarm")
_MODES = {"bulk": "Bulk", "absorption": "Absorption", "float": "Float"}
_YES = ("No", "Yes")

ROWS: tuple[Row, ...] = (
    Row("/Mgmt/ProcessName", "s", "{}", lambda _: "dbus-smartbms", "driver", "once"),
    Row("/Mgmt/ProcessVersion", "s", "{}", lambda _: __version__, "driver", "once"),
    Row("/Mgmt/Connection", "s", "{}", lambda v: v.identity.connection, "the cable's device", ""),
    Row("/DeviceInstance", "i", "{}", lambda v: v.identity.instance, "driver", ""),
    Row("/ProductId", "i", "0x{:X}", lambda _: PRODUCT_ID, "registered at Victron", "once"),
    Row("/ProductName", "s", "{}", lambda _: PRODUCT_NAME, "driver", "once"),
    Row("/CustomName", "s", "{}", lambda v: v.identity.custom_name, "the user; writeable", ""),
    Row("/FirmwareVersion", "s", "v{}", _firmware, "keys 6, 7", "known"),
    Row("/Serial", "s", "{}", lambda v: v.identity.serial, "USB serial number of the cable", ""),
    Row("/Connected", "i", "{}", lambda _: 1, "1 while the service is on the bus", "once"),
    Row("/ConnectionInformation", "s", "{}", _information, "what to know first, in words", ""),
    Row("/State", "i", "{}", lambda v: ERROR if v.bank.lost else RUNNING, "9 running, 10 link lost", ""),
    Row("/Dc/0/Voltage", "d", "{:.2f} V", _frame("voltage_mv", 1000), "bytes 1-3"),
    Row("/Dc/0/Current", "d", "{:.1f} A", _frame("current_ma", 1000), "bytes 10-12; positive charges"),
    Row("/Dc/0/Power", "d", "{:.0f} W", _power, "bytes 1-3 x bytes 10-12"),
    Row("/Dc/0/Temperature", "d", "{:.1f} °C", _temperature, "bytes 19-24, midway"),
    Row("/Soc", "d", "{:.1f} %", lambda v: round(mirror.soc(v.pack) or 0.0, 1),
        "bytes 35-37 / 50-51, byte 41"),
    Row("/Soh", "d", "{:.0f} %", _pair("soh_percent"), "key 0"),
    Row("/TimeToGo", "i", _span, _time_to_go, "bytes 35-37 / power"),
    Row("/ConsumedAmphours", "d", "{:.1f} Ah",
        lambda v: None if v.frame is None else _amp_hours(lambda f: min(0, f.stored_wh - f.capacity_wh))(v),
        "bytes 35-37, 50-51 at the nominal voltage"),
    Row("/Capacity", "d", "{:.1f} Ah",
        lambda v: None if v.frame is None else _amp_hours(lambda f: f.stored_wh)(v),
        "bytes 35-37 at the nominal voltage: what is left"),
    Row("/InstalledCapacity", "d", "{:.1f} Ah", _amp_hours(lambda f: f.capacity_wh),
        "bytes 50-51 at the nominal voltage", "known"),
    Row("/Info/MaxChargeVoltage", "d", "{:.2f} V", _cvl, "CVL", "known"),
    Row("/Info/MaxChargeCurrent", "d", "{:.1f} A", _amps("ccl_ma"), "CCL", "known"),
    Row("/Info/MaxDischargeCurrent", "d", "{:.1f} A", _amps("dcl_ma"), "DCL", "known"),
    Row("/Info/BatteryLowVoltage", "d", "{:.2f} V",
        _low_voltage, "cells x Vmin", "known"),
    Row("/Info/ChargeRequest", "i", lambda x: _YES[x], _charge_request, "1: a cell is at Vmin"),
    Row("/Info/ChargeMode", "s", "{}", _charge_mode,
        "Bulk, Absorption, Float; whether it charges to full", "known"),
    Row("/Info/ChargeVoltageLimitation", "s", "{}", _reason("cvl_reason"), "why CVL is what it is", "known"),
    Row("/Info/ChargeLimitation", "s", "{}", _reason("ccl_reason"), "why CCL is what it is", "known"),
    Row("/Info/DischargeLimitation", "s", "{}", _reason("dcl_reason"), "why DCL is what it is", "known"),
    Row("/Io/AllowToCharge", "i", lambda x: _YES[x],
        lambda v: int(bool(v.limits and v.limits.allow_charge)), "status byte 1 bit 0 and the mirror",
        "known"),
    Row("/Io/AllowToDischarge", "i", lambda x: _YES[x],
        lambda v: int(bool(v.limits and v.limits.allow_discharge)), "status byte 1 bit 1, and the mirror",
        "known"),
    Row("/Io/ExternalRelay", "i", "{}", _bit(layout.CHARGE_RELAY_CLOSED), 'key 16 bit 4: relay "Charge"'),
    Row("/Io/ProgrammableContact", "i", "{}", _bit(layout.LOAD_RELAY_CLOSED), 'key 16 bit 5: relay "Load"'),
    Row("/System/NrOfBatteries", "i", "{}", lambda _: 1, "driver", "once"),
    Row("/System/BatteriesParallel", "i", "{}", lambda _: 1, "driver", "once"),
    Row("/System/BatteriesSeries", "i", "{}", lambda _: 1, "driver", "once"),
    Row("/System/NrOfCellsPerBattery", "i", "{}", _known("cells", 1), "byte 26", "known"),
    Row("/System/MinCellVoltage", "d", "{:.3f} V", _extreme("lowest_mv", "lowest_cell"), "bytes 13-14"),
    Row("/System/MinVoltageCellId", "s", "{}", _cell_id("lowest_cell"), "byte 15"),
    Row("/System/MaxCellVoltage", "d", "{:.3f} V", _extreme("highest_mv", "highest_cell"), "bytes 16-17"),
    Row("/System/MaxVoltageCellId", "s", "{}", _cell_id("highest_cell"), "byte 18"),
    Row("/System/MinCellTemperature", "d", "{:.1f} °C", _celsius("coldest_raw", "coldest_cell"), "byte 19"),
    Row("/System/MinTemperatureCellId", "s", "{}", _cell_id("coldest_cell"), "byte 21"),
    Row("/System/MaxCellTemperature", "d", "{:.1f} °C", _celsius("hottest_raw", "hottest_cell"), "byte 22"),
    Row("/System/MaxTemperatureCellId", "s", "{}", _cell_id("hottest_cell"), "byte 24"),
    Row("/System/NrOfModulesOnline", "i", "{}", lambda v: int(not v.bank.lost), "frames arrive", "known"),
    Row("/System/NrOfModulesOffline", "i", "{}", lambda v: int(v.bank.lost), "link lost", "known"),
    Row("/System/NrOfModulesBlockingCharge", "i", "{}",
        lambda v: int(not (v.limits and v.limits.allow_charge)), "as /Io/AllowToCharge", "known"),
    Row("/System/NrOfModulesBlockingDischarge", "i", "{}",
        lambda v: int(not (v.limits and v.limits.allow_discharge)), "as /Io/AllowToDischarge", "known"),
    Row("/Balancing", "i", lambda x: _YES[x], lambda v: int(_balancing(v)), "a cell is over Vbalance"),
    Row("/Balancer/Status", "i", lambda x: ("Unknown", "Balanced", "Balancing")[x],
        lambda v: 2 if _balancing(v) else 1, "1 balanced, 2 balancing"),
    Row("/Battery/Request/Id", "i", "{}", lambda _: 1, "the battery that gui-v2 shows; writeable", ""),
    Row("/Battery/1/Serial", "s", "{}", lambda v: v.identity.serial, "as /Serial", ""),
    Row("/Battery/1/Capacity", "d", "{:.1f} Ah", _amp_hours(lambda f: f.capacity_wh), "as /InstalledCapacity",
        "known"),
    Row("/Battery/1/FwVersion", "s", "v{}", _firmware, "as /FirmwareVersion", "known"),
    Row("/Battery/1/Status", "i", "{}", _status, "status byte 1 in Victron's bits"),
    Row("/Battery/1/Voltage", "d", "{:.2f} V", _frame("voltage_mv", 1000), "as /Dc/0/Voltage"),
    Row("/Battery/1/Current", "d", "{:.1f} A", _frame("current_ma", 1000), "as /Dc/0/Current"),
    Row("/Battery/1/Temperature", "d", "{:.1f} °C", _temperature, "as /Dc/0/Temperature"),
    Row("/Voltages/Sum", "d", "{:.2f} V", _sum, "all cells' newest readings"),
    Row("/Voltages/Diff", "d", "{:.3f} V",
        lambda v: (need(v.frame).highest_mv - need(v.frame).lowest_mv) / 1000, "bytes 13-17"),
    *(Row(f"/Alarms/{row.path}", "i", lambda x: _LEVELS[x], _alarm(row.path), row.source, "known")
      for row in alarms.ROWS),
    Row("/History/MinimumVoltage", "d", "{:.2f} V", _history_mv("lowest_pack_mv"), _SEEN, "known"),
    Row("/History/MaximumVoltage", "d", "{:.2f} V", _history_mv("highest_pack_mv"), _SEEN,
        "known"),
    Row("/History/MinimumCellVoltage", "d", "{:.3f} V", _history_mv("lowest_cell_mv"), _SEEN,
        "known"),
    Row("/History/MaximumCellVoltage", "d", "{:.3f} V", _history_mv("highest_cell_mv"), _SEEN,
        "known"),
    Row("/History/MinimumTemperature", "d", "{:.1f} °C", _history_celsius("coldest_raw"), _SEEN,
        "known"),
    Row("/History/MaximumTemperature", "d", "{:.1f} °C", _history_celsius("hottest_raw"), _SEEN,
        "known"),
    Row("/History/TotalAhDrawn", "d", "{:.1f} Ah", _drawn,
        "current x time, since cleared", "known"),
    Row("/History/DeepestDischarge", "d", "{:.1f} Ah", _deepest, "missing to full, since cleared", "known"),
    Row("/History/TimeSinceLastFullCharge", "i", _span, _since_full, "since byte 41 was 100", "known"),
    Row("/History/ChargeCycles", "i", "{}", _pair("cycles"), "keys 8, 9"),
    Row("/History/ChargedEnergy", "d", "{:.0f} kWh", _pair("charged_kwh"), "keys 10-12"),
    Row("/History/DischargedEnergy", "d", "{:.0f} kWh", _pair("discharged_kwh"), "keys 13-15"),
    Row("/History/LowVoltageAlarms", "i", "{}", _count("LowCellVoltage"), "times raised", "known"),
    Row("/History/HighVoltageAlarms", "i", "{}", _count("HighCellVoltage"), "times raised", "known"),
    Row("/History/CanBeCleared", "i", "{}", lambda _: 1, "driver", "once"),
    Row("/History/Clear", "i", "{}", lambda _: 0, "write 1 to begin anew; writeable", ""),
    Row("/Settings/HasTemperature", "i", "{}", lambda _: 1, "shows the temperatures of /History", "once"),
    Row(CHARGE_TO_FULL, "i", lambda x: _YES[x], lambda v: int(v.bank.stage.asked_s is not None),
        "1: no float and no SoC taper until it is full, or for a day; writeable", ""),
    Row(f"{_OUTPUTS}/charge_to_full/Status", "i", "{}",
        lambda v: 0 if v.bank.stage.asked_s is None else 9, "9: on, 0: off", ""),
    *_control(CHARGE_TO_FULL, "Charge to full now", _TOGGLE),
    *_current(MAX_CHARGE_CURRENT, "Max charge current", 0, "CCL"),
    *_current(MAX_DISCHARGE_CURRENT, "Max discharge current", 1, "DCL"),
    Row("/SmartBms/Disagreement", "s", "{}", lambda v: v.bank.agreement.text or "",
        "how the BMS and the mirror of its tables differ, after 10 s", "known"),
    Row("/SmartBms/Mirror/Charge", "i", lambda x: _YES[x], _relay("charge"),
        'relay "Charge" as the manual\'s table has it'),
    Row("/SmartBms/Mirror/Discharge", "i", lambda x: _YES[x], _relay("load"),
        'relay "Load" as the manual\'s table has it'),
    Row("/SmartBms/Mirror/Soc", "d", "{:.1f} %",
        lambda v: None if v.bank.soc is None else round(v.bank.soc, 1),
        "bytes 10-12 counted, synchronised by the manual's rule"),
    Row("/SmartBms/Today/Collected", "d", "{:.2f} kWh", _frame("collected_today_wh", 1000), "bytes 32-34"),
    Row("/SmartBms/Today/Consumed", "d", "{:.2f} kWh", _frame("consumed_today_wh", 1000), "bytes 38-40"),
    Row("/SmartBms/Total/Collected", "d", "{:.0f} kWh", _frame("collected_kwh"), "bytes 42-44"),
    Row("/SmartBms/Total/Consumed", "d", "{:.0f} kWh", _frame("consumed_kwh"), "bytes 45-47"),
    Row("/SmartBms/ChargeSensor/Current", "d", "{:.1f} A", _frame("current1_ma", 1000), "bytes 4-6 (I1)"),
    Row("/SmartBms/LoadSensor/Current", "d", "{:.1f} A", _frame("current2_ma", 1000), "bytes 7-9 (I2)"),
    Row("/SmartBms/SocCalibrated", "i", lambda x: _YES[x],
        lambda v: int(not need(v.frame).has(layout.SOC_NOT_CALIBRATED)), "status byte 1 bit 7"),
    Row("/SmartBms/ChargeEfficiency", "d", "{:.0f} %", _pair("charge_efficiency_percent"), "key 1"),
    Row("/SmartBms/Cell/Vmin", "d", "{:.2f} V", _known("vmin_mv", 1000), "bytes 52-53", "known"),
    Row("/SmartBms/Cell/Vmax", "d", "{:.2f} V", _known("vmax_mv", 1000), "bytes 54-55", "known"),
    Row("/SmartBms/Cell/Vbalance", "d", "{:.2f} V", _known("vbalance_mv", 1000), "bytes 56-57", "known"),
    Row("/SmartBms/Cell/Vlow", "d", "{:.2f} V", _pair("vlow_mv", 1000), "keys 2, 3"),
    Row("/SmartBms/Cell/Vnom", "d", "{:.2f} V", _pair("vnom_mv", 1000), "keys 4, 5"),
    Row("/SmartBms/Cell/Vfull", "d", "{:.2f} V", _pair("vfull_mv", 1000), "keys 17, 18"),
    Row("/SmartBms/TemperatureConversion", "s", "{}", lambda v: v.bank.settings.temperature,
        "[pack] temperature", ""),
    Row("/SmartBms/DamagedPlaces", "i", "{}", lambda v: v.bank.stream.rejected,
        "places on the wire that were no frame", ""),
    Row("/SmartBms/LimitsInUse", "i", lambda x: _YES[x],
        lambda v: None if v.identity.in_use is None else int(v.identity.in_use),
        "whether the GX follows our limits", ""),
    Row("/SmartBms/LimitsInUseText", "s", "{}", lambda v: v.identity.in_use_text, "and why not", ""),
    Row("/SmartBms/Configuration/Errors", "i", "{}", lambda v: len(v.identity.problems), "configuration", ""),
    Row("/SmartBms/Configuration/FirstError", "s", "{}",
        lambda v: v.identity.problems[0] if v.identity.problems else "", "configuration", ""),
)  # fmt: skip


def _cell_volts(view: View, cell: int) -> Value:
    reading = view.pack.cell_mv[cell - 1]
    return None if reading is None or reading.value is None else reading.value / 1000


def cell_celsius(view: View, cell: int) -> Value:
    reading = view.pack.cell_raw[cell - 1]
    return None if reading is None or reading.value is None else view.celsius(reading.value)


def _cell_balancing(view: View, cell: int) -> Value:
    balancing = view.pack.balancing(cell)
    return None if balancing is None else int(balancing)


_VOLTS = ("d", "{:.3f} V", _cell_volts, "bytes 27-28, and 13-18 when it is an extreme")
_DEGREES = ("d", "{:.1f} °C", cell_celsius, "bytes 29-30, and 19-24; never while it balances")
CELL_ROWS: tuple[CellRow, ...] = (
    CellRow("/Battery/1/Cell/{c}/Voltage", *_VOLTS),
    CellRow("/Battery/1/Cell/{c}/Temperature", *_DEGREES),
    CellRow("/Voltages/Cell{c}", *_VOLTS),
    CellRow("/Temperatures/Cell{c}", *_DEGREES),
    CellRow("/Balances/Cell{c}", "i", "{}", _cell_balancing, "1: over Vbalance"),
)


def markdown() -> str:
    """All paths as a Markdown table, for ``docs/dbus-paths.md`` (a test compares them)."""
    lines = ["| path | type | unit | without frames | source and meaning |", "|" + " --- |" * 5]
    gone = {"frame": "no value", "known": "kept", "": "kept", "once": "kept"}
    for row in ROWS:
        unit = row.text.rpartition("}")[2].strip() if isinstance(row.text, str) else "in words"
        lines.append(f"| `{row.path}` | {row.type} | {unit} | {gone[row.needs]} | {row.source} |")
    for cell in CELL_ROWS:
        unit = cell.text.rpartition("}")[2].strip()
        lines.append(f"| `{cell.path}` | {cell.type} | {unit} | {gone['frame']} | {cell.source} |")
    return "\n".join(lines) + "\n"
