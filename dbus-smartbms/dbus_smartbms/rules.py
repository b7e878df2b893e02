"""What each rule allows of a current, and why: rows of proposals, the lowest wins.

Pure: no clock, no I/O, no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from smartbms_protocol import Frame, PackState

from .ratings import Thresholds, capacity_mah
from .sag import Lowest
from .settings import Points, Settings
from .stages import Stage

CHARGE_FOOT_MA = 1000
"""What one bleed resistor carries off (1 A in all manuals): charging tapers to it, then to 0."""
DISCHARGE_FOOT_RATE = 0.02
"""C: discharging tapers to this before 0, which off-grid is a blackout."""
WARMTH_C = 4.0
"""degC within a configured Tmin or Tmax in which currents taper: four steps of the wire."""
SAG_GUARD_MV = 30
"""mV over Vmin that a sagging cell is kept: noise, and loads that start before a limit is read."""


class Cap(NamedTuple):
    """A proposal: at most so much, and why."""

    amount: int
    reason: str


class Wishes(NamedTuple):
    """What was set while running; A.  Only ever lower than what is configured."""

    max_charge_current: float | None = None
    max_discharge_current: float | None = None


NO_WISHES = Wishes()


class Now(NamedTuple):
    """What the rules look at."""

    settings: Settings
    frame: Frame
    volts: Thresholds
    soc: float
    stage: Stage
    now: float
    fresh: bool
    """There is a new frame."""
    floor_mv: int
    """CVL is never under this."""
    float_mv: int
    """A cell at rest when it is full."""
    capacity_mah: int
    highest_mv: int
    """The highest cell with play (``NOISE_MV``): never under what the frame says."""
    lowest_mv: int
    """The lowest cell with play: never over what the frame says."""
    interval_s: float
    flow_ma: int
    """So much counts as a current."""
    lowest: Lowest
    charge: Cap
    """The user's, or by rate."""
    discharge: Cap
    coldest_c: float
    hottest_c: float | None
    """None where it may be that of a bleeding board: then the BMS's light decides."""
    soon_mv: float
    """Where the highest cell will be in some seconds, if it is over Vbalance and rises."""

    @property
    def rest_mv(self) -> float:
        """The lowest cell, with play, without its sag."""
        return self.lowest.rest_mv(self.lowest_mv, self.frame.current_ma)

    def rate_ma(self, rate: float) -> int:
        return int(self.capacity_mah * rate)


# Rules: what each allows of a current, and why.


def _charge_cap(now: Now) -> Cap:
    return now.charge


def _discharge_cap(now: Now) -> Cap:
    return now.discharge


def caps(settings: Settings, pack: PackState, wishes: Wishes = NO_WISHES) -> tuple[Cap, Cap]:
    """The highest CCL and DCL there may be: as configured or by rate, or lower where that is wished."""
    if pack.frame is None:
        return Cap(0, "no frame yet"), Cap(0, "no frame yet")
    return caps_of(settings, capacity_mah(settings, pack), wishes)


def caps_of(settings: Settings, capacity: int, wishes: Wishes = NO_WISHES) -> tuple[Cap, Cap]:
    """The same of a capacity in mAh."""
    careful, why = settings.careful, _RESTARTED if settings.restarted else _MISTAKE
    charge = _cap(
        capacity, settings.charge_rate, settings.max_charge_current, why if "charge_rate" in careful else ""
    )
    discharge = _cap(
        capacity, settings.discharge_rate, settings.max_discharge_current,
        why if "discharge_rate" in careful else "",
    )  # fmt: skip
    return _wished(charge, wishes.max_charge_current), _wished(discharge, wishes.max_discharge_current)


_MISTAKE = "a mistake in the configuration"
_RESTARTED = "the driver was restarted again and again"


def _wished(cap: Cap, amps: float | None) -> Cap:
    if amps is None:
        return cap
    return least((cap, Cap(round(amps * 1000), f"maximum set on the GX {amps:g} A")))


@lru_cache(maxsize=128)
def _cap(capacity: int, rate: float, amps: float | None, careful: str) -> Cap:
    """As configured: in A, else by rate, of a careful rate the lower.  It is the same for hours.

    ``careful``: why the rate is; empty where it is not.
    """
    by_rate = Cap(int(capacity * rate), f"{rate:g} C of {capacity / 1000:.0f} Ah")
    if careful:
        by_rate = by_rate._replace(reason=f"{by_rate.reason}: {careful}")
    if not capacity:
        by_rate = Cap(0, "the capacity setting of the BMS is 0")
    if amps is None:
        return by_rate
    by_user = Cap(round(amps * 1000), f"configured maximum {amps:g} A")
    return least((by_user, by_rate)) if careful else by_user


def _charge_taper(now: Now) -> Cap:
    """Straight from the cap at Vbalance to the foot at Vmax, by the highest cell, seen coming."""
    vmax = now.volts.vmax_mv
    if vmax is None:
        return Cap(0, f"nothing says how far to charge: {now.volts.wrong}")
    start = min(now.volts.balance_mv, vmax - 1)
    share = (vmax - max(now.highest_mv, now.soon_mv)) / (vmax - start)
    reason = f"{highest_cell(now)}: charging tapers from {start / 1000:.2f} V"
    return _taper(now.charge, share, CHARGE_FOOT_MA, reason)


def _discharge_taper(now: Now) -> Cap:
    """Straight from the cap at Vlow to the foot at Vmin, by the lowest cell at rest."""
    vmin, start = now.volts.vmin_mv, now.volts.low_mv
    share = (now.rest_mv - vmin) / (start - vmin)
    reason = f"{_lowest_cell(now)}: discharging tapers from {start / 1000:.2f} V"
    return _taper(now.discharge, share, now.rate_ma(DISCHARGE_FOOT_RATE), reason)


def _sag(now: Now) -> Cap:
    """What the lowest cell can give before it sags to Vmin; the foot all the same."""
    if not now.lowest.mv_a:
        return now.discharge
    room_mv = now.rest_mv - now.volts.vmin_mv - SAG_GUARD_MV
    amount = max(int(room_mv * 1000 / now.lowest.mv_a), now.rate_ma(DISCHARGE_FOOT_RATE))
    return Cap(amount, f"{_lowest_cell(now)}: more would let it sag to Vmin")


def _empty(now: Now) -> Cap:
    """Nothing more, before the BMS has to open its relay."""
    if now.lowest.empty_since is None:
        return now.discharge
    return Cap(0, f"empty: {_lowest_cell(now)}, Vmin {now.volts.vmin_mv / 1000:.2f} V")


def _charge_soc(now: Now) -> Cap:
    """By SoC, where that is configured, unless the pack is to be charged to full."""
    points = now.settings.charge_soc_taper
    if points is None or now.stage.asked_s is not None:
        return now.charge
    return _soc(now, points, "charging")


def _discharge_soc(now: Now) -> Cap:
    points = now.settings.discharge_soc_taper
    return now.discharge if points is None else _soc(now, points, "discharging")


def _soc(now: Now, points: Points, what: str) -> Cap:
    """On the line through the points, level past its ends."""
    rate = points[-1][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if now.soc < x1:
            rate = y0 + (y1 - y0) * max(0.0, now.soc - x0) / (x1 - x0)
            break
    return Cap(now.rate_ma(rate), f"SoC {now.soc:.0f} %: {what} tapers as configured")


def highest_cell(now: Now) -> str:
    return f"cell {now.frame.highest_cell} at {now.frame.highest_mv / 1000:.3f} V"


def _lowest_cell(now: Now) -> str:
    return f"cell {now.frame.lowest_cell} at {now.frame.lowest_mv / 1000:.3f} V"


def _charge_warmth(now: Now) -> Cap:
    """Straight to the foot within ``WARMTH_C`` of a configured Tmin charge or Tmax."""
    return _warmth(now, now.charge, now.settings.tmin_charge, CHARGE_FOOT_MA, "charging")


def _discharge_warmth(now: Now) -> Cap:
    """The same of Tmin discharge."""
    foot_ma = now.rate_ma(DISCHARGE_FOOT_RATE)
    return _warmth(now, now.discharge, now.settings.tmin_discharge, foot_ma, "discharging")


def _warmth(now: Now, cap: Cap, tmin: float | None, foot_ma: int, what: str) -> Cap:
    """What the hottest cell lets through, or the coldest where that is less."""
    proposals, frame, tmax = [cap], now.frame, now.settings.tmax
    if tmax is not None and now.hottest_c is not None:
        reason = f"cell {frame.hottest_cell} at {now.hottest_c:.0f} degC: {what} tapers"
        proposals.append(_taper(cap, (tmax - now.hottest_c) / WARMTH_C, foot_ma, reason))
    if tmin is not None:
        reason = f"cell {frame.coldest_cell} at {now.coldest_c:.0f} degC: {what} tapers"
        proposals.append(_taper(cap, (now.coldest_c - tmin) / WARMTH_C, foot_ma, reason))
    return least(proposals)


def _taper(cap: Cap, share: float, foot_ma: int, reason: str) -> Cap:
    """A share of a cap, but not under the foot.  It may be over the cap, which is a row of its own."""
    return Cap(max(int(cap.amount * share), foot_ma), reason)


def least(caps: Iterable[Cap]) -> Cap:
    """The cap that binds; of equals the first, so that a taper is named only where it takes something."""
    return min(caps, key=lambda cap: cap.amount)


Rule = Callable[[Now], Cap]
CHARGE_RULES: tuple[Rule, ...] = (_charge_cap, _charge_taper, _charge_warmth, _charge_soc)
DISCHARGE_RULES: tuple[Rule, ...] = (
    _discharge_cap,
    _discharge_taper,
    _discharge_warmth,
    _discharge_soc,
    _sag,
    _empty,
)
