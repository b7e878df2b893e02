"""The mirror of the BMS's algorithm: the rows of ``manuals`` evaluated on what the wire tells.

Pure: no clock, no I/O.  The mirror can take permission away, never give it.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from smartbms_protocol import CELSIUS, Frame, PackState, layout

from . import manuals
from .manuals import Condition
from .ratings import LOWEST_CELL_MV, balance_mv, capacity_mah
from .settings import Settings


class Seen(NamedTuple):
    """What the conditions look at: a frame, the flags that stand in, the user's thresholds."""

    settings: Settings
    cells: int
    voltage_mv: int
    lowest_mv: int
    highest_mv: int
    lowest_cell: int
    highest_cell: int
    coldest_c: float
    hottest_c: float
    hottest_doubtful: bool
    """The hottest reading may be its bleeding board's: it is then not compared."""
    vmin_mv: int
    vmax_mv: int
    vbalance_mv: int
    current_ma: int | None
    capacity_wh: int
    soc: float
    status: int
    status2: int | None

    def flag(self, bits: int) -> bool:
        """Whether a bit of status byte 1 is set."""
        return bool(self.status & bits)

    def too_cold(self, flag2: int, *, discharging: bool) -> bool:
        """Under Tmin, as the BMS's own flags have it.

        Status byte 2 tells charging from discharging where it is sent (C); status byte 1 has one light
        for both.  Charging stops with either; discharging goes on while status byte 2 says that
        it may, because 0 there is a blackout.
        """
        if self.settings.generation != "C" or self.status2 is None:
            return self.flag(layout.UNDER_TMIN)
        return bool(self.status2 & flag2) or (self.flag(layout.UNDER_TMIN) and not discharging)


def _heard(seen: Seen) -> int:
    return int(not seen.flag(layout.NO_COMMUNICATION) and seen.highest_mv >= LOWEST_CELL_MV)


def _power_w(seen: Seen, direction: int) -> float | None:
    return None if seen.current_ma is None else direction * seen.voltage_mv * seen.current_ma / 1e6


def _hottest(seen: Seen) -> float | None:
    return None if seen.hottest_doubtful else seen.hottest_c


Number = Callable[[Seen], float | None]

NUMBERS: dict[str, Number] = {
    # "Any" and "all" cells are judged by the frame's own extremes: readings of single cells may be old.
    "any V >": lambda s: s.highest_mv,
    "all V <": lambda s: s.highest_mv,
    "any V <": lambda s: s.lowest_mv,
    "all V >": lambda s: s.lowest_mv,
    "any T >": _hottest,
    "all T <": _hottest,
    "any T <": lambda s: s.coldest_c,
    "all T >": lambda s: s.coldest_c,
    "pack voltage": lambda s: s.voltage_mv,
    "SoC": lambda s: s.soc,
    "charge power": lambda s: _power_w(s, 1),
    "discharge power": lambda s: _power_w(s, -1),
    "cell communication": _heard,
    "discharging": lambda s: int(s.flag(layout.DISCHARGE_ALLOWED)),
}
"""What is compared: mV, degC, %, W; 1 and 0 for yes and no.  None where it is not known."""

THRESHOLDS: dict[str, Number] = {
    "Vmin": lambda s: s.vmin_mv,
    "Vmax": lambda s: s.vmax_mv,
    "Vbalance": lambda s: s.vbalance_mv or None,
    "Vbalance x cells": lambda s: s.vbalance_mv * s.cells or None,
    "Tmin charge": lambda s: s.settings.tmin_charge,
    "Tmin discharge": lambda s: s.settings.tmin_discharge,
    "Tmax": lambda s: s.settings.tmax,
    "charge restart": lambda s: s.settings.charge_restart,
    "discharge restart": lambda s: s.settings.discharge_restart,
    "5 % of the capacity": lambda s: 0.05 * s.capacity_wh,
    "10 % of the capacity": lambda s: 0.10 * s.capacity_wh,
    "there": lambda _: 1,
    "lost": lambda _: 0,
    "not allowed": lambda _: 0,
}
"""What it is compared with, in the same units.  None where nobody configured it."""

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "is": operator.eq,
}


class Light(NamedTuple):
    """What the BMS itself says of a condition."""

    name: str
    holds: Callable[[Seen], bool]


_MAY_CHARGE = Light("charging allowed", lambda s: s.flag(layout.CHARGE_ALLOWED))
_MAY_DISCHARGE = Light("discharging allowed", lambda s: s.flag(layout.DISCHARGE_ALLOWED))
_TL_CHARGE = Light("Tl", lambda s: s.too_cold(layout.TOO_COLD_TO_CHARGE, discharging=False))
_TL_LOAD = Light("Tl", lambda s: s.too_cold(layout.TOO_COLD_TO_DISCHARGE, discharging=True))
_TH = Light("Th", lambda s: s.flag(layout.OVER_TMAX))

BESIDE: dict[Condition, Light] = {
    manuals.AT_VMAX: Light("Vh", lambda s: s.flag(layout.OVER_VMAX)),
    manuals.AT_VMIN: Light("Vl", lambda s: s.flag(layout.UNDER_VMIN)),
    manuals.COLD_TO_CHARGE: _TL_CHARGE,
    manuals.COLD_TO_DISCHARGE: _TL_LOAD,
    manuals.HOT: _TH,
}
"""Lights that forbid beside the comparison: whatever is configured, the BMS knows its own thresholds."""

INSTEAD: dict[Condition, Light] = {
    manuals.UNDER_CHARGE_RESTART: _MAY_CHARGE,
    manuals.FROM_DISCHARGE_RESTART: _MAY_DISCHARGE,
    manuals.WARM_TO_CHARGE: Light("no Tl", lambda s: not _TL_CHARGE.holds(s)),
    manuals.WARM_TO_DISCHARGE: Light("no Tl", lambda s: not _TL_LOAD.holds(s)),
    manuals.ALL_UNDER_TMAX: Light("no Th", lambda s: not _TH.holds(s)),
}
"""What stands in for a comparison that nobody configured, or whose reading is in doubt."""


class Judged(NamedTuple):
    """A condition, its two numbers (None: not known), the BMS's light if it counts, and the outcome."""

    condition: Condition
    number: float | None
    threshold: float | None
    light: Light | None
    holds: bool


class Comparing(NamedTuple):
    """How a condition is evaluated."""

    number: Number
    comparison: Callable[[float, float], bool]
    threshold: Number
    beside: Light | None
    instead: Light | None


def _comparing(condition: Condition) -> Comparing:
    what, comparison, threshold = condition
    number = NUMBERS.get(what) or NUMBERS[f"{what} {comparison[0]}"]
    beside = BESIDE.get(condition)
    instead = INSTEAD.get(condition, beside)
    return Comparing(number, COMPARISONS[comparison], THRESHOLDS[threshold], beside, instead)


def judge(condition: Condition, seen: Seen) -> Judged:
    """Whether a condition holds.  What is not known holds only where a light says so."""
    return Judged(condition, *_weigh(_comparing(condition), seen))


def _weigh(how: Comparing, seen: Seen) -> tuple[float | None, float | None, Light | None, bool]:
    number_of, comparison, threshold_of, beside, instead = how
    number, threshold = number_of(seen), threshold_of(seen)
    if number is None or threshold is None:
        return number, threshold, instead, instead is not None and instead.holds(seen)
    if comparison(number, threshold):
        return number, threshold, None, True
    return number, threshold, beside, beside is not None and beside.holds(seen)


@functools.cache
def _table(generation: str, mode: str) -> tuple[tuple[Condition, Comparing], ...]:
    return tuple((condition, _comparing(condition)) for condition in manuals.conditions(generation, mode))


class Outcome(NamedTuple):
    """All conditions of the table at a moment: those that hold, and those near their threshold."""

    holding: set[Condition]
    near: set[Condition]


def _outcome(seen: Seen) -> Outcome:
    holding, near = set(), set()
    for condition, how in _table(seen.settings.generation, seen.settings.mode):
        number, threshold, light, holds = _weigh(how, seen)
        if holds:
            holding.add(condition)
        if _near(condition, number, threshold, light):
            near.add(condition)
    return Outcome(holding, near)


def _holds(row: manuals.Row, outcome: Outcome) -> bool:
    return outcome.holding.issuperset(row.conditions)


def _volts(cell: int, millivolts: int, name: str, setting_mv: int, light: str) -> str:
    return f"cell {cell} at {millivolts / 1000:.3f} V: {name} {setting_mv / 1000:.2f} V ({light})"


def _cold(seen: Seen, condition: Condition, key: str) -> str:
    light = BESIDE[condition]
    if light.holds(seen):
        return f"too cold ({light.name}); the coldest cell is now at {seen.coldest_c:.0f} degC"
    return f"too cold: the coldest cell is at {seen.coldest_c:.1f} degC, under [pack] {key}"


def _heat(seen: Seen) -> str:
    if _TH.holds(seen):
        return f"too hot (Th); the hottest cell is now at {seen.hottest_c:.0f} degC"
    return f"too hot: the hottest cell is at {seen.hottest_c:.1f} degC, over [pack] tmax"


REASONS: dict[Condition, Callable[[Seen], str]] = {
    manuals.NOT_HEARD: lambda _: "the BMS does not hear its cells (E)",
    manuals.AT_VMAX: lambda s: _volts(s.highest_cell, s.highest_mv, "Vmax", s.vmax_mv, "Vh"),
    manuals.AT_VMIN: lambda s: _volts(s.lowest_cell, s.lowest_mv, "Vmin", s.vmin_mv, "Vl"),
    manuals.COLD_TO_CHARGE: lambda s: _cold(s, manuals.COLD_TO_CHARGE, "tmin_charge"),
    manuals.COLD_TO_DISCHARGE: lambda s: _cold(s, manuals.COLD_TO_DISCHARGE, "tmin_discharge"),
    manuals.HOT: _heat,
    manuals.ALL_AT_VBALANCE: lambda s: f"full: all cells are at Vbalance {s.vbalance_mv / 1000:.2f} V",
}
"""What switches a relay off, as it is said to a user; of a row with several conditions the first."""


class Relay(NamedTuple):
    """A relay as its table has it."""

    closed: bool | None
    """On; None before the first frame."""
    why_off: str | None = None
    """The row that switches it off now, in words; None while none does."""
    forbids: str | None = None
    """The critical one, in words; None while none does."""
    doubtful: bool = False
    """Now, or a moment ago, the BMS may have seen a row hold that no frame shows, or the other way round."""


class Relays(NamedTuple):
    """Both relays."""

    charge: Relay = Relay(None)
    load: Relay = Relay(None)


class Counted(NamedTuple):
    """The mirror's SoC and the BMS's in %, and the pack they are of: this is what outlives the driver."""

    cells: int
    capacity_wh: int
    soc: float
    bms_soc: float


GAP_INTERVALS = 3
"""Over more than so many intervals between frames nothing is counted."""
NEAR = {
    "Vmin": 100, "Vmax": 100, "Vbalance": 20, "Tmin charge": 2, "Tmin discharge": 2, "Tmax": 2,
    "charge restart": 1, "discharge restart": 1, "5 % of the capacity": 0.25,
}  # fmt: skip
"""Nearer than this to a threshold the BMS may see it otherwise: between two frames a load makes a cell sag by
100 mV (mV), noise is 20 mV, a sensor 2 degC, the SoC byte 1 %; of a power the part of its threshold."""
DOUBT_S = 10
"""How much later than what it has seen the BMS's bits may come."""
KEPT_PERCENT = 10
"""When the BMS's SoC has moved further than this while the driver did not run, what was counted before says
nothing any more: the BMS may have been synchronised meanwhile."""


class Memory(NamedTuple):
    """All that ``step`` remembers.  An earlier run's ``counted`` alone is a memory to begin with."""

    charge: bool | None = None
    load: bool | None = None
    frames: int | None = None
    """``PackState.frames`` of the last step: another number now means a new frame."""
    at: float | None = None
    status: int | None = None
    """Status byte 1 of the last step."""
    charge_doubt: float | None = None
    """When the charge relay was in doubt last."""
    load_doubt: float | None = None
    counted: Counted | None = None
    empty_since: float | None = None
    """Since when the row that makes the SoC 0 % has held."""


def soc(pack: PackState) -> float | None:
    """The BMS's own state of charge in %, 0 to 100.

    Stored / capacity where that refines the byte, else the byte.
    """
    frame = pack.frame
    if frame is None:
        return None
    if frame.capacity_wh:
        fine = 100 * frame.stored_wh / frame.capacity_wh
        if abs(fine - frame.soc_percent) <= 1:
            return min(fine, 100.0)
    return float(frame.soc_percent)


def look(settings: Settings, pack: PackState, now: float, frame: Frame | None = None) -> Seen | None:
    """Collect what the conditions need, of the pack's frame or of another; None before the first.

    Thresholds are always those of the pack's frame: they are the confirmed ones.
    """
    confirmed = pack.frame
    if confirmed is None:
        return None
    frame = frame or confirmed
    celsius = CELSIUS[settings.temperature]
    balance = balance_mv(settings, confirmed)
    # Should the two extremes be the wrong way round, each is judged by the worse.
    (lowest_mv, lowest_cell), (highest_mv, highest_cell) = sorted(
        ((frame.lowest_mv, frame.lowest_cell), (frame.highest_mv, frame.highest_cell)), key=lambda one: one[0]
    )
    return Seen(
        settings=settings,
        cells=frame.cells,
        voltage_mv=frame.voltage_mv,
        lowest_mv=lowest_mv,
        highest_mv=highest_mv,
        lowest_cell=lowest_cell,
        highest_cell=highest_cell,
        coldest_c=celsius(min(frame.coldest_raw, frame.hottest_raw)),
        hottest_c=celsius(max(frame.coldest_raw, frame.hottest_raw)),
        hottest_doubtful=frame.may_balance(frame.hottest_cell, confirmed.vbalance_mv),
        vmin_mv=confirmed.vmin_mv,
        vmax_mv=confirmed.vmax_mv,
        vbalance_mv=balance,
        current_ma=frame.current_ma,
        capacity_wh=confirmed.capacity_wh,
        soc=soc(pack) or 0.0,
        status=frame.status,
        status2=pack.pair("status2", now),
    )


def step(
    settings: Settings, memory: Memory, pack: PackState, now: float
) -> tuple[Memory, Relays, float | None]:
    """Evaluate the tables once: what is remembered, the relays, the mirror's SoC in %.

    Never raises, never reads a clock.  With no memory a relay begins as the BMS's bit says, and so it
    does after a lost link, for what it did meanwhile was not seen.
    """
    seen = look(settings, pack, now)
    if seen is None or pack.at is None:
        return memory, Relays(), None
    outcome = _outcome(seen)
    lost = memory.at is not None and pack.at - memory.at >= settings.hold_s
    switched = 0 if memory.status is None else seen.status ^ memory.status
    charge, charge_doubt = _relay(
        "charge",
        seen,
        outcome,
        None if lost else memory.charge,
        layout.CHARGE_ALLOWED,
        switched,
        memory.charge_doubt,
        now,
    )
    load, load_doubt = _relay(
        "load",
        seen,
        outcome,
        None if lost else memory.load,
        layout.DISCHARGE_ALLOWED,
        switched,
        memory.load_doubt,
        now,
    )
    frames, at, counted, empty_since = memory.frames, memory.at, memory.counted, memory.empty_since
    if pack.frames != frames:
        dt_s = math.inf if at is None else pack.at - at
        gap = not 0 <= dt_s <= GAP_INTERVALS * pack.interval_s
        percent = _soc(memory, seen, capacity_mah(settings, pack), None if gap else dt_s)
        percent, empty_since = _synchronised(percent, None if gap else empty_since, pack.at, seen, outcome)
        counted = Counted(seen.cells, seen.capacity_wh, percent, seen.soc)
        frames, at = pack.frames, pack.at
    memory = Memory(
        charge.closed, load.closed, frames, at, seen.status, charge_doubt, load_doubt, counted, empty_since
    )
    if pack.held is not None:
        charge, load = _denied_by(pack.held, settings, pack, now, Relays(charge, load))
    return memory, Relays(charge, load), memory.counted.soc if memory.counted else None


def _denied_by(held: Frame, settings: Settings, pack: PackState, now: float, relays: Relays) -> Relays:
    """The relays, with what a frame that was held back forbids: of such a frame nothing else counts."""
    seen = look(settings, pack, now, held)
    charge, load = (_off(subject, seen, _outcome(seen)) if seen else None for subject in ("charge", "load"))
    return Relays(
        charge if charge and charge.forbids else relays.charge, load if load and load.forbids else relays.load
    )


def _off(subject: str, seen: Seen, outcome: Outcome) -> Relay | None:
    """The relay, if a row switches it off."""
    rows = manuals.rows(seen.settings.generation, seen.settings.mode, subject, "off")
    for row in rows:  # the critical ones come first
        if _holds(row, outcome):
            why = REASONS[row.conditions[0]](seen)
            return Relay(False, why, why if row.critical else None)
    return None


def _relay(
    subject: str,
    seen: Seen,
    outcome: Outcome,
    before: bool | None,
    bit: int,
    switched: int,
    doubted: float | None,
    now: float,
) -> tuple[Relay, float | None]:
    """A relay after a frame, and when it was in doubt last."""
    off = _off(subject, seen, outcome)
    if off:
        return off, doubted
    generation, mode = seen.settings.generation, seen.settings.mode
    (on,) = manuals.rows(generation, mode, subject, "on")
    rows = (on, *manuals.rows(generation, mode, subject, "off"))
    if outcome.near and any(_may_hold(row, outcome) for row in rows):
        doubted = now
    doubtful = doubted is not None and now - doubted <= DOUBT_S
    if before is None or (doubtful and switched & bit):
        before = seen.flag(bit)  # what it has seen is better than what a frame a second shows
    return Relay(before or _holds(on, outcome), doubtful=doubtful), doubted


def _may_hold(row: manuals.Row, outcome: Outcome) -> bool:
    """Whether a row holds or not only as a number that is near its threshold, or not known, falls."""
    holding, near = outcome
    return not near.isdisjoint(row.conditions) and (holding | near).issuperset(row.conditions)


def _near(condition: Condition, number: float | None, threshold: float | None, light: Light | None) -> bool:
    if number is None or threshold is None:  # a light knows; a permission that stands in does not
        return light is None or light in (_MAY_CHARGE, _MAY_DISCHARGE)
    reach = NEAR.get(condition.threshold)
    return reach is not None and abs(number - threshold) < (reach if reach >= 1 else reach * threshold)


def _soc(memory: Memory, seen: Seen, capacity: int, dt_s: float | None) -> float:
    """The SoC with the current of a new frame; where nothing can be counted (None: a gap), the BMS's."""
    counted = memory.counted
    if counted is None or counted[:2] != (seen.cells, seen.capacity_wh):
        return seen.soc
    if memory.at is None:  # an earlier run's: how far the mirror was from the BMS
        moved = seen.soc - counted.bms_soc
        synchronised = seen.soc in (0.0, 100.0) or abs(moved) > KEPT_PERCENT
        return seen.soc if synchronised else _percent(counted.soc + moved)
    if dt_s is None or seen.current_ma is None or not capacity:
        return seen.soc
    return _percent(counted.soc + 100 * seen.current_ma * dt_s / 3600 / capacity)


def _percent(soc: float) -> float:
    return min(max(soc, 0.0), 100.0)


def _synchronised(
    soc: float, since: float | None, at: float, seen: Seen, outcome: Outcome
) -> tuple[float, float | None]:
    """The SoC, to 100 % at once and to 0 % when its row has held for so long; and since when it holds."""
    generation, mode = seen.settings.generation, seen.settings.mode
    (full,) = manuals.rows(generation, mode, "SoC", "100 %")
    if _holds(full, outcome):
        soc = 100.0
    empty = [row for row in manuals.rows(generation, mode, "SoC", "0 %") if _holds(row, outcome)]
    if not empty:
        return soc, None
    begin = at if since is None else since
    if any(row.for_s is None or at - begin >= row.for_s for row in empty):
        soc = 0.0
    return soc, begin
