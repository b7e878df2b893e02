"""CVL, CCL and DCL of one pack, and for each the reason that binds.

``step`` is pure: what is not in ``Memory`` it does not remember, and time is an argument.
Every rule proposes a cap with its reason; the lowest wins.  Denying is quick (the same frame),
permitting is slow (3 frames in a row, then a ramp), and nothing rises without a new frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from smartbms_protocol import CELSIUS, Frame, PackState, layout

from .mirror import Relays, may_bleed
from .ratings import balance_mv, capacity_mah, chemistry, vnom_mv
from .sag import Lowest, follow
from .settings import Settings
from .voltage import Cells, Held, block, hold

PERMITS = 3
"""Frames in a row that have to permit before a direction is allowed (again)."""
FIRST_STEP = 4
"""After a denial a limit begins at a quarter of what the rules allow."""
RAMP_S = 600.0
"""A limit rises over its whole range in this time: 10 minutes at most, whatever it fell to."""
STEP_S = 30.0
"""It rises in steps, so that whoever reads it has a steady number."""
HOLD_S = 15.0
"""A limit that fell stays for so long before it rises: a cloud, a kettle, a noisy cell."""
NOISE_MV = 20
"""Play of the tapers: a cell has to come back by more than this before a limit follows it."""
FLOW_MA = 1000
FLOW_RATE = 0.01
"""A current counts as flowing from 1 A or 0.01 C on: sensors have blind spots up to 1 A and more."""
CHARGE_FOOT_MA = 1000
"""What one bleed resistor carries off (1 A in all manuals): charging tapers to it, then to 0."""
DISCHARGE_FOOT_RATE = 0.02
"""C: discharging tapers to this before 0, which off-grid is a blackout."""
WARMTH_C = 4.0
"""degC within a configured Tmin or Tmax in which currents taper: four steps of the wire."""
SAG_GUARD_MV = 30
"""mV over Vmin that a sagging cell is kept: noise, and loads that start before a limit is read."""
EMPTY_MARGIN_MV = 100
"""So near Vmin or Vlow a pack counts as nearly empty; and the taper's length where Vlow is not known."""
FLOAT_LFP_MV = 3370
FLOAT_BELOW_BALANCE_MV = 100


class Cap(NamedTuple):
    """A proposal: at most so much, and why."""

    amount: int
    reason: str


_NOT_HELD, _NOT_SEEN = Held(), Lowest()


@dataclass(frozen=True, slots=True)
class Direction:
    """What is remembered of charging, or of discharging."""

    permits: int = 0
    """Frames in a row that permitted, up to ``PERMITS``."""
    ceiling_ma: int | None = None
    """What the ramp lets through; None at the start, when there is nothing to ramp from."""
    fell_at: float = float("-inf")
    """When the limit last fell: a rise waits for ``HOLD_S`` from then."""
    risen_s: float = 0.0
    """Seconds of frames since it last rose."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that ``step`` remembers."""

    frames: int = 0
    """``PackState.frames`` of the last step: more now means a new frame."""
    at: float | None = None
    charge: Direction = Direction()
    discharge: Direction = Direction()
    held: Held = _NOT_HELD
    lowest: Lowest = _NOT_SEEN
    highest_mv: int | None = None
    lowest_mv: int | None = None
    ccl_was_zero: bool = False
    lost: bool = False
    spent: bool = False
    """Lost for longer than the ride-through: DCL is 0."""
    limits: Limits | None = None


class Limits(NamedTuple):
    """What goes out.  Whole mV and mA; always numbers, never negative."""

    cvl_mv: int
    ccl_ma: int
    dcl_ma: int
    cvl_reason: str
    ccl_reason: str
    dcl_reason: str
    allow_charge: bool
    allow_discharge: bool
    state: str
    """bulk, absorption or float"""
    lost: bool = False
    spent: bool = False


class _Now(NamedTuple):
    """What the rules look at."""

    settings: Settings
    frame: Frame
    balance_mv: int
    vlow_mv: int | None
    floor_mv: int
    """CVL is never under this."""
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
    low_mv: int
    """Where discharging begins to taper: Vlow, or so far over Vmin where that is not known."""

    @property
    def rest_mv(self) -> float:
        """The lowest cell, with play, without its sag."""
        return self.lowest.rest_mv(self.lowest_mv, self.frame.current_ma)

    def rate_ma(self, rate: float) -> int:
        return int(self.capacity_mah * rate)


def _floor_mv(settings: Settings, pack: PackState, frame: Frame) -> int:
    """CVL is never under cells x Vnom, Vlow where Vnom is not known, else Vmin.

    One that is not under Vbalance contradicts it, and would take every way down from CVL.
    """
    known = (vnom_mv(pack, frame), pack.pair("vlow_mv"))
    below = (mv for mv in known if mv and mv < balance_mv(settings, frame))
    return frame.cells * next(below, frame.vmin_mv)


def float_mv(settings: Settings, pack: PackState, frame: Frame) -> int:
    """The float voltage of the pack: LFP 3.37 V a cell, others Vbalance - 100 mV."""
    if chemistry(settings, frame, vnom_mv(pack, frame)) == "LFP":
        return frame.cells * FLOAT_LFP_MV
    return frame.cells * (balance_mv(settings, frame) - FLOAT_BELOW_BALANCE_MV)


# Rules: what each allows of a current, and why.


def _charge_cap(now: _Now) -> Cap:
    return now.charge


def _discharge_cap(now: _Now) -> Cap:
    return now.discharge


def _cap(settings: Settings, frame: Frame, capacity: int, amps: float | None, name: str) -> Cap:
    rate: float = getattr(settings, name)
    by_rate = Cap(int(capacity * rate), f"{rate:g} C of {capacity / 1000:.0f} Ah")
    if name in settings.careful:
        by_rate = by_rate._replace(reason=f"{by_rate.reason}: a mistake in the configuration")
    if not frame.capacity_wh:
        by_rate = Cap(0, "the capacity setting of the BMS is 0")
    if amps is None:
        return by_rate
    by_user = Cap(round(amps * 1000), f"configured maximum {amps:g} A")
    return _lowest((by_user, by_rate)) if name in settings.careful else by_user


def _charge_taper(now: _Now) -> Cap:
    """Straight from the cap at Vbalance to the foot at Vmax, by the highest cell."""
    start = min(now.balance_mv, now.frame.vmax_mv - 1)
    share = (now.frame.vmax_mv - now.highest_mv) / (now.frame.vmax_mv - start)
    if share >= 1:
        return now.charge
    reason = f"{_highest_cell(now)}: charging tapers from {start / 1000:.2f} V"
    return _taper(now.charge.amount, share, CHARGE_FOOT_MA, reason)


def _discharge_taper(now: _Now) -> Cap:
    """Straight from the cap at Vlow to the foot at Vmin, by the lowest cell at rest."""
    vmin, start = now.frame.vmin_mv, now.low_mv
    share = (now.rest_mv - vmin) / (start - vmin)
    if share >= 1:
        return now.discharge
    reason = f"{_lowest_cell(now)}: discharging tapers from {start / 1000:.2f} V"
    return _taper(now.discharge.amount, share, now.rate_ma(DISCHARGE_FOOT_RATE), reason)


def _sag(now: _Now) -> Cap:
    """What the lowest cell can give before it sags to Vmin; the foot all the same."""
    cap = now.discharge.amount
    room_mv = max(0.0, now.rest_mv - now.frame.vmin_mv - SAG_GUARD_MV)
    amount = min(cap, int(room_mv * 1000 / now.lowest.mv_a)) if now.lowest.mv_a else cap
    foot = min(now.rate_ma(DISCHARGE_FOOT_RATE), cap)
    return Cap(max(amount, foot), f"{_lowest_cell(now)}: more would let it sag to Vmin")


def _empty(now: _Now) -> Cap:
    """Nothing more, before the BMS has to open its relay."""
    if now.lowest.empty_since is None:
        return now.discharge
    return Cap(0, f"empty: {_lowest_cell(now)}, Vmin {now.frame.vmin_mv / 1000:.2f} V")


def _highest_cell(now: _Now) -> str:
    return f"cell {now.frame.highest_cell} at {now.frame.highest_mv / 1000:.3f} V"


def _lowest_cell(now: _Now) -> str:
    return f"cell {now.frame.lowest_cell} at {now.frame.lowest_mv / 1000:.3f} V"


def _charge_warmth(now: _Now) -> Cap:
    """Straight to the foot within ``WARMTH_C`` of a configured Tmin charge or Tmax."""
    share, why = _warmth(now, now.settings.tmin_charge)
    return _taper(now.charge.amount, share, CHARGE_FOOT_MA, f"{why}: charging tapers")


def _discharge_warmth(now: _Now) -> Cap:
    """The same of Tmin discharge."""
    share, why = _warmth(now, now.settings.tmin_discharge)
    return _taper(now.discharge.amount, share, now.rate_ma(DISCHARGE_FOOT_RATE), f"{why}: discharging tapers")


def _warmth(now: _Now, tmin: float | None) -> tuple[float, str]:
    """How much of the whole the temperatures let through, and which of them."""
    tmax, frame = now.settings.tmax, now.frame
    if tmin is None and tmax is None:
        return 1.0, ""
    cold = 1.0 if tmin is None else (now.coldest_c - tmin) / WARMTH_C
    heat = 1.0 if tmax is None or now.hottest_c is None else (tmax - now.hottest_c) / WARMTH_C
    if cold < heat:
        return cold, f"cell {frame.coldest_cell} at {now.coldest_c:.0f} degC"
    return heat, "" if now.hottest_c is None else f"cell {frame.hottest_cell} at {now.hottest_c:.0f} degC"


def _taper(cap_ma: int, share: float, foot_ma: int, reason: str) -> Cap:
    return Cap(max(int(cap_ma * min(share, 1.0)), min(foot_ma, cap_ma)), reason)


def _lowest(caps: Iterable[Cap]) -> Cap:
    """The cap that binds; of equals the first, so that a taper is named only where it takes something."""
    return min(caps, key=lambda cap: cap.amount)


Rule = Callable[[_Now], Cap]
CHARGE_RULES: tuple[Rule, ...] = (_charge_cap, _charge_taper, _charge_warmth)
DISCHARGE_RULES: tuple[Rule, ...] = (_discharge_cap, _discharge_taper, _discharge_warmth, _sag, _empty)


def step(
    settings: Settings, memory: Memory, pack: PackState, relays: Relays, now: float
) -> tuple[Memory, Limits | None]:
    """The limits after a frame (taken or held back) or after a second without one.

    None before the first frame.  Never raises for any frame or time, never reads a clock.
    """
    frame = pack.frame
    if frame is None:
        return memory, None
    fresh = pack.frames != memory.frames
    # A ramp stands still in silence: only the time between neighbouring frames counts.
    longest = 1.5 * pack.interval_s
    dt_s = min(max(now - memory.at, 0.0), longest) if fresh and memory.at is not None else 0.0
    view = _look(settings, memory, pack, frame, fresh=fresh, now=now)
    lost, spent = _silence(view, pack.age(now))
    if (
        memory.limits is not None
        and not fresh
        and pack.held is None
        and (lost, spent) == (memory.lost, memory.spent)
    ):
        return memory, memory.limits
    charge, ccl = _direct(
        memory.charge,
        _lowest(rule(view) for rule in CHARGE_RULES),
        view.charge.amount,
        _denial(pack, layout.CHARGE_ALLOWED, "charging", relays.charge.forbids, lost),
        fresh, now, dt_s,
    )  # fmt: skip
    discharge, dcl = _direct(
        memory.discharge,
        _lowest(rule(view) for rule in DISCHARGE_RULES),
        view.discharge.amount,
        _denial(pack, layout.DISCHARGE_ALLOWED, "discharging", relays.load.forbids, spent),
        fresh, now, dt_s,
    )  # fmt: skip
    cvl, held = _voltage(
        memory,
        view,
        ccl,
        fresh,
        now,
        lost,
        float_mv(settings, pack, frame),
        starting=charge.ceiling_ma is None,
    )
    limits = Limits(
        cvl.amount, ccl.amount, dcl.amount, cvl.reason, ccl.reason, dcl.reason,
        charge.permits == PERMITS, discharge.permits == PERMITS, _state(view, memory, lost), lost, spent,
    )  # fmt: skip
    memory = replace(
        memory,
        frames=pack.frames,
        at=pack.at,
        charge=charge,
        discharge=discharge,
        held=held,
        lowest=view.lowest,
        highest_mv=view.highest_mv,
        lowest_mv=view.lowest_mv,
        ccl_was_zero=ccl.amount == 0,
        lost=lost,
        spent=spent,
        limits=limits,
    )
    return memory, limits


def _look(
    settings: Settings, memory: Memory, pack: PackState, frame: Frame, *, fresh: bool, now: float
) -> _Now:
    """What the rules look at."""
    highest_before = frame.highest_mv if memory.highest_mv is None else memory.highest_mv
    lowest_before = frame.lowest_mv if memory.lowest_mv is None else memory.lowest_mv
    capacity = capacity_mah(settings, pack)
    vlow = pack.pair("vlow_mv")
    low_mv = vlow if vlow and vlow > frame.vmin_mv else frame.vmin_mv + EMPTY_MARGIN_MV
    flow_ma = max(FLOW_MA, int(capacity * FLOW_RATE))
    lowest = follow(memory.lowest, frame, capacity, low_mv, flow_ma, now) if fresh else memory.lowest
    celsius = CELSIUS[settings.temperature]
    judged = not may_bleed(frame.hottest_cell, frame, frame.vbalance_mv)
    return _Now(
        settings=settings,
        frame=frame,
        balance_mv=balance_mv(settings, frame),
        vlow_mv=vlow,
        floor_mv=_floor_mv(settings, pack, frame),
        capacity_mah=capacity,
        highest_mv=max(frame.highest_mv, min(highest_before, frame.highest_mv + NOISE_MV)),
        lowest_mv=min(frame.lowest_mv, max(lowest_before, frame.lowest_mv - NOISE_MV)),
        interval_s=pack.interval_s,
        flow_ma=flow_ma,
        lowest=lowest,
        charge=_cap(settings, frame, capacity, settings.max_charge_current, "charge_rate"),
        discharge=_cap(settings, frame, capacity, settings.max_discharge_current, "discharge_rate"),
        coldest_c=celsius(frame.coldest_raw),
        hottest_c=celsius(frame.hottest_raw) if judged else None,
        low_mv=low_mv,
    )


def _silence(view: _Now, age_s: float) -> tuple[bool, bool]:
    """Whether the link counts as lost, and whether the ride-through is over too."""
    near = max(view.frame.vmin_mv, view.vlow_mv or 0) + EMPTY_MARGIN_MV
    settings = view.settings
    ride_through_s = settings.hold_s if view.frame.lowest_mv <= near else settings.ride_through_s
    return age_s >= settings.hold_s, age_s >= max(ride_through_s, settings.hold_s)


def _denial(pack: PackState, bit: int, what: str, critical: str | None, lost: bool) -> str | None:
    """Why a direction is denied, or None.  The mirror's reason says more than the BMS's bit."""
    if lost:
        return "no frames from the BMS: is the cable plugged in?"
    if critical is not None:
        return critical
    denied = any(frame is not None and not frame.has(bit) for frame in (pack.frame, pack.held))
    return f"the BMS does not allow {what}" if denied else None


def _direct(
    memory: Direction, rule: Cap, full_ma: int, denial: str | None, fresh: bool, now: float, dt_s: float
) -> tuple[Direction, Cap]:
    """One direction's limit: denied, waiting for frames that permit, ramping, or as the rules say."""
    if denial is not None:
        before = full_ma if memory.ceiling_ma is None else memory.ceiling_ma
        return Direction(0, before, now), Cap(0, denial)
    permits = min(memory.permits + fresh, PERMITS)
    if permits < PERMITS:
        text = f"waits for {PERMITS} frames in a row that permit it ({permits} so far)"
        return replace(memory, permits=permits), Cap(0, text)
    ceiling, fell_at, risen_s = memory.ceiling_ma, memory.fell_at, memory.risen_s + dt_s
    if ceiling is None:
        ceiling = rule.amount
    elif memory.permits < PERMITS:
        # Not over what it was before: a denial opens no short cut past the ramp.
        ceiling, fell_at = min(rule.amount // FIRST_STEP, ceiling), now - HOLD_S
    elif rule.amount <= ceiling:  # noise that comes back to the same low starts the hold again
        ceiling, fell_at, risen_s = rule.amount, now, 0.0
    elif now - fell_at >= HOLD_S and risen_s >= STEP_S:
        ceiling, risen_s = min(rule.amount, ceiling + int(full_ma * risen_s / RAMP_S) + 1), 0.0
    limit = (
        rule if rule.amount <= ceiling else Cap(ceiling, f"rises slowly again to {rule.amount / 1000:.0f} A")
    )
    return Direction(permits, ceiling, fell_at, risen_s), limit


def _voltage(
    memory: Memory,
    view: _Now,
    ccl: Cap,
    fresh: bool,
    now: float,
    lost: bool,
    float_voltage_mv: int,
    *,
    starting: bool,
) -> tuple[Cap, Held]:
    """CVL, and what is remembered of it: nothing while ``starting``, for there is nothing to rise from."""
    frame, cells = view.frame, view.frame.cells
    target = min(view.balance_mv + round(view.settings.charge_margin_mv), frame.vmax_mv)
    base = Cap(cells * target, f"{cells} cells x {target / 1000:.2f} V")
    floor_mv = min(view.floor_mv, base.amount)
    look = Cells(
        cells, frame.voltage_mv, frame.highest_mv, target, base.amount, floor_mv,
        view.interval_s, frame.current_ma, view.flow_ma,
    )  # fmt: skip
    held, cvl = memory.held.within(look)
    reason = base.reason
    if lost:
        cvl = min(cvl, float(max(min(float_voltage_mv, frame.voltage_mv), floor_mv)))
        held = held._replace(cvl_mv=cvl)
        reason = "no frames from the BMS: held at the last voltage or float"
    elif ccl.amount == 0:
        begins = not memory.ccl_was_zero or memory.held.cvl_mv is None
        if fresh or begins:
            held, cvl = block(held, now, look, begins=begins)
        reason = "no charging: held at the pack's voltage"
    elif fresh:
        held, cvl = hold(held, now, look)
    if not lost and ccl.amount and cvl < base.amount:
        reason = f"{_highest_cell(view)}: held under {target / 1000:.2f} V"
        if frame.highest_mv < target - NOISE_MV:
            reason = f"rises slowly again to {base.reason}"
    return Cap(int(cvl), reason), held._replace(cvl_mv=None) if starting else held


def _state(view: _Now, memory: Memory, lost: bool) -> str:
    """Bulk until a cell is at Vbalance, then absorption until all are 50 mV under it again."""
    if lost:
        return "float"
    before = memory.limits.state if memory.limits else "bulk"
    release = view.balance_mv - (50 if before == "absorption" else 0)
    return "absorption" if view.frame.highest_mv >= release else "bulk"
