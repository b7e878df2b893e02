r"""The paths on the bus, one row each: type, text with unit, value, source.

The battery's service has the rows that join what its packs have, or look at all of them; the service
of a single pack has the rows that look at one.  Of a battery of one pack both say the same.

A row gives None when there is nothing to give; that, and nothing else, is "no value" on the bus.
Floats appear here for the first time.

Consumers and meaning of the paths: Victron's dbus-systemcalc-py, gui-v2, dbus_modbustcp, VRM's
logger, and dbus-serialbattery's conventions for single cells and reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from smartbms_protocol import Frame, layout

from . import __version__, alarms, mirror
from .views import Join, Value, View, Whole, each, highest, lowest, mean, need, total

PRODUCT_ID = 0xB050
"""Victron's registered id for this BMS; it has no special treatment anywhere."""
PRODUCT_NAME = r"123\SmartBMS"
LONGEST_TIME_TO_GO_S = 864_000
RUNNING, ERROR = 9, 10
"""Values of /State."""


class Row(NamedTuple):
    """A path.  ``type`` is d, i or s; ``text`` a format, or a function of the value.

    ``{b}`` in the path stands for the pack's number: from 1 on the battery's service, 1 on its own.
    """

    path: str
    type: str
    text: str | Callable[[Any], str]
    value: Callable[[View], Value] | None
    """Of one pack; None: the path is not on a pack's service."""
    source: str
    needs: str = "frame"
    """When the value is None: "frame" before the first frame and once the link is lost, "known" only
    before the first frame, "" never for want of frames, "once" never, and it stays what it is."""
    join: Join | None = None
    """Makes one value of those of several packs."""
    whole: Callable[[Whole], Value] | None = None
    """Of all packs; with neither, the path is only on a pack's service."""

    def there(self, *, known: bool, measured: bool) -> bool:
        """Whether what it needs is there: a frame at some time, one that still counts."""
        return measured if self.needs == "frame" else known or self.needs != "known"


class CellRow(NamedTuple):
    """A path for each cell, ``{c}`` in it standing for the cell's number.

    Those without ``{b}`` are on a pack's service, and on that of a battery of one pack.
    """

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
        closed: bool | None = getattr(view.pack.relays, name).closed
        return None if closed is None else int(closed)

    return value


def _bit(bit: int) -> Callable[[View], Value]:
    """A bit of status byte 2."""

    def value(view: View) -> Value:
        status2 = view.pair("status2")
        return None if status2 is None else int(bool(status2 & bit))

    return value


def _reason(name: str) -> Callable[[Whole], Value]:
    return lambda whole: str(getattr(whole.limits, name))


def _amps(name: str) -> Callable[[Whole], Value]:
    """A current limit to 0.1 A, rounded down."""

    def value(whole: Whole) -> Value:
        milliamps: int = getattr(whole.limits, name)
        return milliamps // 100 / 10

    return value


def _cvl(whole: Whole) -> Value:
    return whole.limits.cvl_mv / 1000 if whole.limits else None


def _extreme(name: str, cell: str) -> Callable[[View], Value]:
    """An extreme in V, None where the BMS names no cell to it: it hears none."""
    return lambda view: getattr(view.frame, name) / 1000 if getattr(view.frame, cell) else None


def _celsius(name: str, cell: str) -> Callable[[View], Value]:
    """An extreme in degrees, likewise."""
    return lambda view: view.celsius(getattr(view.frame, name)) if getattr(view.frame, cell) else None


def _cell_id(name: str) -> Callable[[View], Value]:
    """A cell's number as text; the BMS names cell 0 when it hears none."""
    return lambda view: str(getattr(view.frame, name)) if getattr(view.frame, name) else None


def _extreme_view(whole: Whole, name: str, cell: str, sign: int) -> View | None:
    """The pack with the lowest (sign 1) or highest (-1) of its cells."""
    if name not in whole.extremes:
        views = [view for view in whole.heard if getattr(view.frame, cell)]
        whole.extremes[name] = min(views, key=lambda view: sign * getattr(view.frame, name), default=None)
    return whole.extremes[name]


def _of_extreme(name: str, cell: str, sign: int, value: Callable[[View], Value]) -> Callable[[Whole], Value]:
    """What the pack with the extreme says of it."""

    def of_whole(whole: Whole) -> Value:
        view = _extreme_view(whole, name, cell, sign)
        return None if view is None else value(view)

    return of_whole


def _extreme_id(name: str, cell: str, sign: int) -> Callable[[Whole], Value]:
    """Its cell; of several packs, which of them."""

    def value(whole: Whole) -> Value:
        view = _extreme_view(whole, name, cell, sign)
        if view is None:
            return None
        number = _cell_id(cell)(view)
        return f"{view.pack.label}: {number}" if whole.several else number

    return value


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


def _whole_time_to_go(whole: Whole) -> Value:
    if len(whole.heard) == 1:
        return _time_to_go(whole.heard[0])
    frames = [need(view.frame) for view in whole.heard]
    if any(frame.current_ma is None for frame in frames):
        return None
    watts = -sum(frame.voltage_mv * (frame.current_ma or 0) for frame in frames) / 1e6
    if watts <= 0:
        return None
    return min(int(sum(frame.stored_wh for frame in frames) / watts * 60) * 60, LONGEST_TIME_TO_GO_S)


def _connections(whole: Whole) -> Value:
    """Of several packs only how many: the GX names its battery by this, and ports change."""
    if whole.several:
        return f"{len(whole.all)} cables"
    return whole.all[0].identity.connection if whole.all else whole.identity.connection


def _soc(view: View) -> Value:
    return round(mirror.soc(view.readings) or 0.0, 1)


def _whole_soc(whole: Whole) -> Value:
    """Stored energy by capacity; 99 until every pack is full."""
    frames = [need(view.frame) for view in whole.heard]
    capacity_wh = sum(frame.capacity_wh for frame in frames)
    if len(frames) == 1 or not capacity_wh:
        return lowest([_soc(view) for view in whole.heard])
    soc = min(100 * sum(frame.stored_wh for frame in frames) / capacity_wh, 100.0)
    full = all(frame.soc_percent == 100 for frame in frames)
    return 100.0 if full else min(round(soc, 1), 99.0)


def _amp_hours(wh: Callable[[Frame], int]) -> Callable[[View], Value]:
    """Energy as charge at the nominal voltage; None where capacity or voltage is not set."""

    def value(view: View) -> Value:
        nominal = view.nominal_mv()
        return round(1000 * wh(need(view.known)) / nominal, 1) if nominal else None

    return value


def _firmware(view: View) -> Value:
    first, patch = view.readings.pair("firmware_major_minor"), view.readings.pair("firmware_patch")
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
    for reading in view.readings.cell_mv:
        if reading is None or reading.value is None or reading.at < view.stale_before:
            return None
        total += reading.value
    return total / 1000


def _information(view: View) -> Value:
    """The one thing to know about a pack, in words."""
    if view.pack.lost:
        return "No data from the BMS: check the cable"
    if view.limits and view.limits.wrong:
        return "Settings of the BMS: " + view.limits.wrong
    if view.frame and view.frame.has(layout.SOC_NOT_CALIBRATED):
        return "SoC not calibrated: charge fully once"
    return ""


def _whole_information(whole: Whole) -> Value:
    """The same of the battery."""
    quiet = [view.pack.label for view in whole.members if view.pack.lost]
    if len(quiet) < len(whole.members) or len(quiet) > 1:
        quiet = [f"No data from {', '.join(quiet)}: check the cable"] if quiet else []
    elif quiet:
        quiet = ["No data from the BMS: check the cable"]
    odd = [view for view in whole.all if whole.bank.odd(view.pack)]
    odd_texts = [
        f"{view.pack.label} is left out: it has {need(view.known).cells} cells, the others "
        f"{need(whole.members[0].known).cells}"
        for view in odd
        if whole.members
    ]
    identity = whole.identity
    if whole.all and not whole.members:
        quiet = ["Every pack is left out"]
    told = [
        *quiet,
        *odd_texts,
        *(identity.restarts for _ in (0,) if identity.restarts),
        *("Configuration error: " + problem for problem in identity.problems[:1]),
        *("Settings of the BMS: " + limits.wrong for limits in [whole.limits] if limits and limits.wrong),
        *(identity.in_use_text for _ in (0,) if identity.in_use is False and identity.in_use_text),
        *(
            (f"{view.pack.label}: " if whole.several else "") + "SoC not calibrated: charge fully once"
            for view in whole.heard
            if need(view.frame).has(layout.SOC_NOT_CALIBRATED)
        ),
    ]
    return told[0] if told else ""


def _diff(view: View) -> Value:
    frame = need(view.frame)
    return (frame.highest_mv - frame.lowest_mv) / 1000


def _whole_diff(whole: Whole) -> Value:
    frames = [need(view.frame) for view in whole.heard]
    lowest_mv = min(frame.lowest_mv for frame in frames)
    return (max(frame.highest_mv for frame in frames) - lowest_mv) / 1000


def _longest(values: Sequence[Any]) -> Value:
    """Since all were full: None while one was not seen so."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _disagreement(whole: Whole) -> Value:
    texts = [
        (view.pack.label, view.pack.agreement.text) for view in whole.members if view.pack.agreement.text
    ]
    return "; ".join(f"{label}: {text}" if whole.several else str(text) for label, text in texts)


def _history_mv(name: str) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        millivolts = getattr(view.pack.history, name)
        return None if millivolts is None else millivolts / 1000

    return value


def _history_celsius(name: str) -> Callable[[View], Value]:
    def value(view: View) -> Value:
        raw = getattr(view.pack.history, name)
        return None if raw is None else view.celsius(raw)

    return value


def _drawn(view: View) -> Value:
    return -round(view.pack.history.drawn_mas / 3.6e6, 1) or 0.0


def _deepest(view: View) -> Value:
    missing, nominal = view.pack.history.deepest_wh, view.nominal_mv()
    return None if missing is None or not nominal else -round(1000 * missing / nominal, 1) or 0.0


def _since_full(view: View) -> Value:
    full_at = view.pack.history.full_at
    return None if full_at is None else int(view.now - full_at) // 60 * 60


def _alarm(path: str) -> Callable[[View], Value]:
    """Not of a pack that is merged: the battery raises it, and a fact is raised once."""
    return lambda view: None if view.merged else view.pack.alarms.levels[path]


def _whole_alarm(path: str) -> Callable[[Whole], Value]:
    """The highest of the merged packs; a pack with other cells than the rest is a failure, too."""

    def value(whole: Whole) -> Value:
        levels = [view.pack.alarms.levels[path] for view in whole.members]
        if path == "InternalFailure" and any(whole.bank.odd(view.pack) for view in whole.all):
            levels.append(2)
        return max(levels, default=0)

    return value


def _count(path: str) -> Callable[[View], Value]:
    return lambda view: view.pack.alarms.raised[path]


def _span(seconds: int) -> str:
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"


def _charge_mode(whole: Whole) -> Value:
    if whole.limits is None:
        return None
    wanted = ", charging to full" if whole.bank.charges_to_full else ""
    return _MODES[whole.limits.state] + wanted


def _cap(direction: int) -> Callable[[Whole], Value]:
    """What may be wished for at most, A."""
    return lambda whole: whole.caps[direction].amount // 100 / 10


def _wish(direction: int) -> Callable[[Whole], Value]:
    """What is wished for, A; without a wish, what is configured."""

    def value(whole: Whole) -> Value:
        most, wish = whole.caps[direction].amount // 100 / 10, whole.bank.wishes[direction]
        return most if wish is None else min(wish, most)

    return value


def _blocking(name: str) -> Callable[[Whole], Value]:
    """How many packs do not allow it; those that are lost among them."""
    return lambda whole: sum(not getattr(view.limits, name) for view in whole.members)


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
        return Row(f"{place}/{key}", kind, "{}", None, _CARD, "once", whole=lambda _: value)

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
    yield Row(path, "d", "{:.1f} A", None, source, "known", whole=_wish(direction))
    yield Row(f"{place}/Status", "i", "{}", None, "9: on", "once", whole=lambda _: 9)
    yield from _control(path, name, _NUMERIC)
    yield Row(f"{place}/Settings/DimmingMin", "d", "{:.1f} A", None, _CARD, "once", whole=lambda _: 0.0)
    source = f"highest {limit} that is configured, else by rate x capacity"
    yield Row(f"{place}/Settings/DimmingMax", "d", "{:.1f} A", None, source, "known", whole=_cap(direction))
    yield Row(f"{place}/Settings/StepSize", "d", "{:.1f} A", None, _CARD, "once", whole=lambda _: 1.0)
    yield Row(f"{place}/Settings/Decimals", "i", "{}", None, _CARD, "once", whole=lambda _: 0)
    yield Row(f"{place}/Settings/Unit", "s", "{}", None, _CARD, "once", whole=lambda _: "A")


_CARD = "how gui-v2 and VRM show the control"
_SEEN = "since cleared"
_LEVELS = ("Ok", "Warning", "Alarm")
_MODES = {"bulk": "Bulk", "absorption": "Absorption", "float": "Float"}
_YES = ("No", "Yes")

_LOW_V, _HIGH_V = ("lowest_mv", "lowest_cell"), ("highest_mv", "highest_cell")
_COLD, _HOT = ("coldest_raw", "coldest_cell"), ("hottest_raw", "hottest_cell")


def _fixed(path: str, kind: str, value: int | str, source: str = "driver", text: str = "{}") -> Row:
    """A row that is the same on every service, for ever."""
    return Row(path, kind, text, lambda _: value, source, "once", whole=lambda _: value)


def _cell_extreme(
    path: str, text: str, of_pack: Callable[[View], Value], names: tuple[str, str], sign: int, source: str
) -> Row:
    return Row(path, "d", text, of_pack, source, whole=_of_extreme(*names, sign, of_pack))


def _extreme_cell(path: str, names: tuple[str, str], sign: int, source: str) -> Row:
    return Row(path, "s", "{}", _cell_id(names[1]), source, whole=_extreme_id(*names, sign))


ROWS: tuple[Row, ...] = (
    _fixed("/Mgmt/ProcessName", "s", "dbus-smartbms"),
    _fixed("/Mgmt/ProcessVersion", "s", __version__),
    Row("/Mgmt/Connection", "s", "{}", lambda v: v.identity.connection, "the cable's device", "",
        whole=_connections),
    Row("/DeviceInstance", "i", "{}", lambda v: v.identity.instance, "driver", "",
        whole=lambda w: w.identity.instance),
    _fixed("/ProductId", "i", PRODUCT_ID, "registered at Victron", "0x{:X}"),
    _fixed("/ProductName", "s", PRODUCT_NAME),
    Row("/CustomName", "s", "{}", lambda v: v.identity.custom_name, "the user; writeable", "",
        whole=lambda w: w.identity.custom_name),
    Row("/FirmwareVersion", "s", "v{}", _firmware, "keys 6, 7", "known", join=each),
    Row("/Serial", "s", "{}", lambda v: v.identity.serial, "USB serial number of the cable", "",
        whole=lambda w: w.all[0].identity.serial if len(w.all) == 1 else None),
    _fixed("/Connected", "i", 1, "1 while the service is on the bus"),
    Row("/ConnectionInformation", "s", "{}", _information, "what to know first, in words", "",
        whole=_whole_information),
    Row("/State", "i", "{}", lambda v: ERROR if v.lost else RUNNING, "9 running, 10 link lost", "",
        whole=lambda w: ERROR if w.lost else RUNNING),
    Row("/Dc/0/Voltage", "d", "{:.2f} V", _frame("voltage_mv", 1000), "bytes 1-3", join=mean),
    Row("/Dc/0/Current", "d", "{:.1f} A", _frame("current_ma", 1000), "bytes 10-12; positive charges",
        join=total),
    Row("/Dc/0/Power", "d", "{:.0f} W", _power, "bytes 1-3 x bytes 10-12", join=total),
    Row("/Dc/0/Temperature", "d", "{:.1f} °C", _temperature, "bytes 19-24, midway", join=mean),
    Row("/Soc", "d", "{:.1f} %", _soc, "bytes 35-37 / 50-51, byte 41", whole=_whole_soc),
    Row("/Soh", "d", "{:.0f} %", _pair("soh_percent"), "key 0", join=lowest),
    Row("/TimeToGo", "i", _span, _time_to_go, "bytes 35-37 / power", whole=_whole_time_to_go),
    Row("/ConsumedAmphours", "d", "{:.1f} Ah",
        lambda v: None if v.frame is None else _amp_hours(lambda f: min(0, f.stored_wh - f.capacity_wh))(v),
        "bytes 35-37, 50-51 at the nominal voltage", join=total),
    Row("/Capacity", "d", "{:.1f} Ah",
        lambda v: None if v.frame is None else _amp_hours(lambda f: f.stored_wh)(v),
        "bytes 35-37 at the nominal voltage: what is left", join=total),
    Row("/InstalledCapacity", "d", "{:.1f} Ah", _amp_hours(lambda f: f.capacity_wh),
        "bytes 50-51 at the nominal voltage", "known", join=total),
    Row("/Info/MaxChargeVoltage", "d", "{:.2f} V", None, "CVL", "known", whole=_cvl),
    Row("/Info/MaxChargeCurrent", "d", "{:.1f} A", None, "CCL", "known", whole=_amps("ccl_ma")),
    Row("/Info/MaxDischargeCurrent", "d", "{:.1f} A", None, "DCL", "known", whole=_amps("dcl_ma")),
    Row("/Info/BatteryLowVoltage", "d", "{:.2f} V", None, "cells x Vmin", "known",
        whole=lambda w: max((view.low_mv for view in w.members or w.all), default=0) / 1000),
    Row("/Info/ChargeRequest", "i", lambda x: _YES[x], None, "1: a cell is at Vmin",
        whole=lambda w: highest([_charge_request(view) for view in w.heard])),
    Row("/Info/ChargeMode", "s", "{}", None, "Bulk, Absorption, Float; whether it charges to full", "known",
        whole=_charge_mode),
    Row("/Info/ChargeVoltageLimitation", "s", "{}", None, "why CVL is what it is", "known",
        whole=_reason("cvl_reason")),
    Row("/Info/ChargeLimitation", "s", "{}", None, "why CCL is what it is", "known",
        whole=_reason("ccl_reason")),
    Row("/Info/DischargeLimitation", "s", "{}", None, "why DCL is what it is", "known",
        whole=_reason("dcl_reason")),
    Row("/Io/AllowToCharge", "i", lambda x: _YES[x], lambda v: int(bool(v.limits and v.limits.allow_charge)),
        "status byte 1 bit 0 and the mirror", "known",
        whole=lambda w: int(bool(w.limits and w.limits.allow_charge))),
    Row("/Io/AllowToDischarge", "i", lambda x: _YES[x],
        lambda v: int(bool(v.limits and v.limits.allow_discharge)), "status byte 1 bit 1, and the mirror",
        "known", whole=lambda w: int(bool(w.limits and w.limits.allow_discharge))),
    Row("/Io/ExternalRelay", "i", "{}", _bit(layout.CHARGE_RELAY_CLOSED), 'key 16 bit 4: relay "Charge"',
        join=lowest),
    Row("/Io/ProgrammableContact", "i", "{}", _bit(layout.LOAD_RELAY_CLOSED), 'key 16 bit 5: relay "Load"',
        join=lowest),
    Row("/System/NrOfBatteries", "i", "{}", lambda _: 1, "packs", "", whole=lambda w: max(len(w.all), 1)),
    Row("/System/BatteriesParallel", "i", "{}", lambda _: 1, "packs that are merged", "",
        whole=lambda w: max(len(w.members), 1)),
    _fixed("/System/BatteriesSeries", "i", 1),
    Row("/System/NrOfCellsPerBattery", "i", "{}", _known("cells", 1), "byte 26", "known", join=highest),
    _cell_extreme("/System/MinCellVoltage", "{:.3f} V", _extreme(*_LOW_V), _LOW_V, 1, "bytes 13-14"),
    _extreme_cell("/System/MinVoltageCellId", _LOW_V, 1, "byte 15"),
    _cell_extreme("/System/MaxCellVoltage", "{:.3f} V", _extreme(*_HIGH_V), _HIGH_V, -1, "bytes 16-17"),
    _extreme_cell("/System/MaxVoltageCellId", _HIGH_V, -1, "byte 18"),
    _cell_extreme("/System/MinCellTemperature", "{:.1f} °C", _celsius(*_COLD), _COLD, 1, "byte 19"),
    _extreme_cell("/System/MinTemperatureCellId", _COLD, 1, "byte 21"),
    _cell_extreme("/System/MaxCellTemperature", "{:.1f} °C", _celsius(*_HOT), _HOT, -1, "byte 22"),
    _extreme_cell("/System/MaxTemperatureCellId", _HOT, -1, "byte 24"),
    Row("/System/NrOfModulesOnline", "i", "{}", lambda v: int(not v.lost), "frames arrive", "known",
        whole=lambda w: len(w.heard)),
    Row("/System/NrOfModulesOffline", "i", "{}", lambda v: int(v.lost), "link lost", "known",
        whole=lambda w: len(w.members) - len(w.heard)),
    Row("/System/NrOfModulesBlockingCharge", "i", "{}",
        lambda v: int(not (v.limits and v.limits.allow_charge)), "as /Io/AllowToCharge", "known",
        whole=_blocking("allow_charge")),
    Row("/System/NrOfModulesBlockingDischarge", "i", "{}",
        lambda v: int(not (v.limits and v.limits.allow_discharge)), "as /Io/AllowToDischarge", "known",
        whole=_blocking("allow_discharge")),
    Row("/Balancing", "i", lambda x: _YES[x], lambda v: int(_balancing(v)), "a cell is over Vbalance",
        join=highest),
    Row("/Balancer/Status", "i", lambda x: ("Unknown", "Balanced", "Balancing")[x],
        lambda v: 2 if _balancing(v) else 1, "1 balanced, 2 balancing", join=highest),
    Row("/Battery/Request/Id", "i", "{}", lambda v: v.identity.shown,
        "the battery that gui-v2 shows; writeable", "", whole=lambda w: w.identity.shown),
    Row("/Battery/{b}/Serial", "s", "{}", lambda v: v.identity.serial, "as /Serial", ""),
    Row("/Battery/{b}/Capacity", "d", "{:.1f} Ah", _amp_hours(lambda f: f.capacity_wh),
        "as /InstalledCapacity", "known"),
    Row("/Battery/{b}/FwVersion", "s", "v{}", _firmware, "as /FirmwareVersion", "known"),
    Row("/Battery/{b}/Status", "i", "{}", _status, "status byte 1 in Victron's bits"),
    Row("/Battery/{b}/Voltage", "d", "{:.2f} V", _frame("voltage_mv", 1000), "as /Dc/0/Voltage"),
    Row("/Battery/{b}/Current", "d", "{:.1f} A", _frame("current_ma", 1000), "as /Dc/0/Current"),
    Row("/Battery/{b}/Temperature", "d", "{:.1f} °C", _temperature, "as /Dc/0/Temperature"),
    Row("/Voltages/Sum", "d", "{:.2f} V", _sum, "all cells' newest readings", join=mean),
    Row("/Voltages/Diff", "d", "{:.3f} V", _diff, "bytes 13-17", whole=_whole_diff),
    *(Row(f"/Alarms/{row.path}", "i", lambda x: _LEVELS[x], _alarm(row.path), row.source, "known",
          whole=_whole_alarm(row.path))
      for row in alarms.ROWS),
    Row("/History/MinimumVoltage", "d", "{:.2f} V", _history_mv("lowest_pack_mv"), _SEEN, "known",
        join=lowest),
    Row("/History/MaximumVoltage", "d", "{:.2f} V", _history_mv("highest_pack_mv"), _SEEN, "known",
        join=highest),
    Row("/History/MinimumCellVoltage", "d", "{:.3f} V", _history_mv("lowest_cell_mv"), _SEEN, "known",
        join=lowest),
    Row("/History/MaximumCellVoltage", "d", "{:.3f} V", _history_mv("highest_cell_mv"), _SEEN, "known",
        join=highest),
    Row("/History/MinimumTemperature", "d", "{:.1f} °C", _history_celsius("coldest_raw"), _SEEN, "known",
        join=lowest),
    Row("/History/MaximumTemperature", "d", "{:.1f} °C", _history_celsius("hottest_raw"), _SEEN, "known",
        join=highest),
    Row("/History/TotalAhDrawn", "d", "{:.1f} Ah", _drawn, "current x time, since cleared", "known",
        join=total),
    Row("/History/DeepestDischarge", "d", "{:.1f} Ah", _deepest,
        "missing to full, since cleared; of several packs, each one's deepest together", "known", join=total),
    Row("/History/TimeSinceLastFullCharge", "i", _span, _since_full, "since byte 41 was 100", "known",
        join=_longest),
    Row("/History/ChargeCycles", "i", "{}", _pair("cycles"), "keys 8, 9", join=highest),
    Row("/History/ChargedEnergy", "d", "{:.0f} kWh", _pair("charged_kwh"), "keys 10-12", join=total),
    Row("/History/DischargedEnergy", "d", "{:.0f} kWh", _pair("discharged_kwh"), "keys 13-15", join=total),
    Row("/History/LowVoltageAlarms", "i", "{}", _count("LowCellVoltage"), "times raised", "known",
        join=total),
    Row("/History/HighVoltageAlarms", "i", "{}", _count("HighCellVoltage"), "times raised", "known",
        join=total),
    _fixed("/History/CanBeCleared", "i", 1),
    Row("/History/Clear", "i", "{}", lambda _: 0, "write 1 to begin anew; writeable", "",
        whole=lambda _: 0),
    _fixed("/Settings/HasTemperature", "i", 1, "shows the temperatures of /History"),
    Row(CHARGE_TO_FULL, "i", lambda x: _YES[x], None,
        "1: no float and no SoC taper until it is full, or for a day; writeable", "",
        whole=lambda w: int(w.bank.charges_to_full)),
    Row(f"{_OUTPUTS}/charge_to_full/Status", "i", "{}", None, "9: on, 0: off", "",
        whole=lambda w: 9 if w.bank.charges_to_full else 0),
    *_control(CHARGE_TO_FULL, "Charge to full now", _TOGGLE),
    *_current(MAX_CHARGE_CURRENT, "Max charge current", 0, "CCL"),
    *_current(MAX_DISCHARGE_CURRENT, "Max discharge current", 1, "DCL"),
    Row("/SmartBms/Disagreement", "s", "{}", lambda v: v.pack.agreement.text or "",
        "how the BMS and the mirror of its tables differ, after 10 s", "known", whole=_disagreement),
    Row("/SmartBms/Mirror/Charge", "i", lambda x: _YES[x], _relay("charge"),
        'relay "Charge" as the manual\'s table has it', join=lowest),
    Row("/SmartBms/Mirror/Discharge", "i", lambda x: _YES[x], _relay("load"),
        'relay "Load" as the manual\'s table has it', join=lowest),
    Row("/SmartBms/Mirror/Soc", "d", "{:.1f} %",
        lambda v: None if v.pack.soc is None else round(v.pack.soc, 1),
        "bytes 10-12 counted, synchronised by the manual's rule", join=mean),
    Row("/SmartBms/Today/Collected", "d", "{:.2f} kWh", _frame("collected_today_wh", 1000), "bytes 32-34",
        join=total),
    Row("/SmartBms/Today/Consumed", "d", "{:.2f} kWh", _frame("consumed_today_wh", 1000), "bytes 38-40",
        join=total),
    Row("/SmartBms/Total/Collected", "d", "{:.0f} kWh", _frame("collected_kwh"), "bytes 42-44", join=total),
    Row("/SmartBms/Total/Consumed", "d", "{:.0f} kWh", _frame("consumed_kwh"), "bytes 45-47", join=total),
    Row("/SmartBms/ChargeSensor/Current", "d", "{:.1f} A", _frame("current1_ma", 1000), "bytes 4-6 (I1)",
        join=total),
    Row("/SmartBms/LoadSensor/Current", "d", "{:.1f} A", _frame("current2_ma", 1000), "bytes 7-9 (I2)",
        join=total),
    Row("/SmartBms/SocCalibrated", "i", lambda x: _YES[x],
        lambda v: int(not need(v.frame).has(layout.SOC_NOT_CALIBRATED)), "status byte 1 bit 7", join=lowest),
    Row("/SmartBms/ChargeEfficiency", "d", "{:.0f} %", _pair("charge_efficiency_percent"), "key 1",
        join=lowest),
    Row("/SmartBms/Cell/Vmin", "d", "{:.2f} V", _known("vmin_mv", 1000), "bytes 52-53", "known",
        join=highest),
    Row("/SmartBms/Cell/Vmax", "d", "{:.2f} V", _known("vmax_mv", 1000), "bytes 54-55", "known",
        join=lowest),
    Row("/SmartBms/Cell/Vbalance", "d", "{:.2f} V", _known("vbalance_mv", 1000), "bytes 56-57", "known",
        join=lowest),
    Row("/SmartBms/Cell/Vlow", "d", "{:.2f} V", _pair("vlow_mv", 1000), "keys 2, 3", join=highest),
    Row("/SmartBms/Cell/Vnom", "d", "{:.2f} V", _pair("vnom_mv", 1000), "keys 4, 5", join=lowest),
    Row("/SmartBms/Cell/Vfull", "d", "{:.2f} V", _pair("vfull_mv", 1000), "keys 17, 18", join=lowest),
    Row("/SmartBms/TemperatureConversion", "s", "{}", lambda v: v.pack.settings.temperature,
        "[pack] temperature", "", whole=lambda w: w.bank.settings.temperature),
    Row("/SmartBms/DamagedPlaces", "i", "{}", lambda v: v.pack.stream.rejected,
        "places on the wire that were no frame", "",
        whole=lambda w: sum(pack.stream.rejected for pack in w.bank.packs.values())),
    Row("/SmartBms/LimitsInUse", "i", lambda x: _YES[x], None,
        "whether the GX follows our limits", "",
        whole=lambda w: None if w.identity.in_use is None else int(w.identity.in_use)),
    Row("/SmartBms/LimitsInUseText", "s", "{}", None, "and why not", "",
        whole=lambda w: w.identity.in_use_text),
    Row("/SmartBms/Configuration/Errors", "i", "{}", None, "configuration", "",
        whole=lambda w: len(w.identity.problems)),
    Row("/SmartBms/Configuration/FirstError", "s", "{}", None, "configuration", "",
        whole=lambda w: w.identity.problems[0] if w.identity.problems else ""),
)  # fmt: skip


def _cell_volts(view: View, cell: int) -> Value:
    reading = view.readings.cell_mv[cell - 1]
    return None if reading is None or reading.value is None else reading.value / 1000


def cell_celsius(view: View, cell: int) -> Value:
    reading = view.readings.cell_raw[cell - 1]
    return None if reading is None or reading.value is None else view.celsius(reading.value)


def _cell_balancing(view: View, cell: int) -> Value:
    balancing = view.readings.balancing(cell)
    return None if balancing is None else int(balancing)


_VOLTS = ("d", "{:.3f} V", _cell_volts, "bytes 27-28, and 13-18 when it is an extreme")
_DEGREES = ("d", "{:.1f} °C", cell_celsius, "bytes 29-30, and 19-24; never while it balances")
CELL_ROWS: tuple[CellRow, ...] = (
    CellRow("/Battery/{b}/Cell/{c}/Voltage", *_VOLTS),
    CellRow("/Battery/{b}/Cell/{c}/Temperature", *_DEGREES),
    CellRow("/Voltages/Cell{c}", *_VOLTS),
    CellRow("/Temperatures/Cell{c}", *_DEGREES),
    CellRow("/Balances/Cell{c}", "i", "{}", _cell_balancing, "1: over Vbalance"),
)


_JOINS: dict[Join, str] = {
    total: "sum", mean: "mean", lowest: "lowest", highest: "highest", each: "each",
    _longest: "longest; none while one is not known",
}  # fmt: skip


def _of_several(row: Row) -> str:
    """What becomes of a row on the battery's service when there are several packs."""
    if row.join:
        return _JOINS[row.join]
    return "of all" if row.whole else "each pack's"


def markdown() -> str:
    """All paths as a Markdown table, for ``docs/dbus-paths.md`` (a test compares them)."""
    lines = [
        "| path | type | unit | without frames | several packs | on a pack's service | source and meaning |",
        "|" + " --- |" * 7,
    ]
    gone = {"frame": "no value", "known": "kept", "": "kept", "once": "kept"}
    for row in ROWS:
        unit = row.text.rpartition("}")[2].strip() if isinstance(row.text, str) else "in words"
        own = "yes" if row.value else "no"
        lines.append(
            f"| `{row.path}` | {row.type} | {unit} | {gone[row.needs]} | {_of_several(row)} | {own} "
            f"| {row.source} |"
        )
    for cell in CELL_ROWS:
        unit = cell.text.rpartition("}")[2].strip()
        several = "each pack's" if "{b}" in cell.path else "not there"
        lines.append(
            f"| `{cell.path}` | {cell.type} | {unit} | {gone['frame']} | {several} | yes | {cell.source} |"
        )
    return "\n".join(lines) + "\n"
