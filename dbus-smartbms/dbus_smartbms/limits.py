"""CVL, CCL and DCL of one pack, and for each the reason that binds.

``step`` is pure: what is not in ``Memory`` it does not remember, and time is an argument.
Every rule proposes a cap with its reason; the lowest wins.  Denying is quick (the same frame),
permitting is slow (3 frames in a row, then a ramp), and nothing rises without a new frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from smartbms_protocol import Frame, PackState, layout

from .mirror import Relays
from .ratings import balance_mv, capacity_mah, chemistry, vnom_mv
from .settings import Settings

PERMITS = 3
"""Frames in a row that have to permit before a direction is allowed (again)."""
FIRST_STEP = 4
"""After a denial a limit begins at a quarter of what the rules allow."""
RAMP_S = 600.0
"""A limit rises over its whole range in this time: 10 minutes at most, whatever it fell to."""
HOLD_S = 15.0
"""A limit that fell stays for so long before it rises: a cloud, a kettle, a noisy cell."""
CVL_RISE_MV_S = 1.0
"""mV a cell and second, upwards: slower than a charger follows, so nothing is chased."""
CVL_FALL_MV_S = 2.0
"""mV a cell and second, downwards, while current flows in that should not."""
CVL_HYSTERESIS_MV = 10
"""CVL rises again when the highest cell is so far under its target: two steps of the wire."""
NOISE_MV = 20
"""Play of the tapers: a cell has to come back by more than this before a limit follows it."""
FLOW_MA = 1000
FLOW_RATE = 0.01
"""A current counts as flowing from 1 A or 0.01 C on: sensors have blind spots up to 1 A and more."""
CHARGE_FOOT_MA = 1000
"""What one bleed resistor carries off (1 A in all manuals): charging tapers to it, then to 0."""
DISCHARGE_FOOT_RATE = 0.02
"""C: discharging tapers to this before 0, which off-grid is a blackout."""
EMPTY_MARGIN_MV = 100
"""So near Vmin or Vlow a pack counts as nearly empty; and the taper's length where Vlow is not known."""
FLOAT_LFP_MV = 3370
FLOAT_BELOW_BALANCE_MV = 100


class Cap(NamedTuple):
    """A proposal: at most so much, and why."""

    amount: int
    reason: str


@dataclass(frozen=True, slots=True)
class Direction:
    """What is remembered of charging, or of discharging."""

    permits: int = 0
    """Frames in a row that permitted, up to ``PERMITS``."""
    ceiling_ma: int | None = None
    """What the ramp lets through; None at the start, when there is nothing to ramp from."""
    fell_at: float = float("-inf")
    """When the limit last fell: a rise waits for ``HOLD_S`` from then."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that ``step`` remembers."""

    frames: int = 0
    """``PackState.frames`` of the last step: more now means a new frame."""
    at: float | None = None
    charge: Direction = Direction()
    discharge: Direction = Direction()
    cvl_mv: float | None = None
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
    return _cap(now, now.settings.max_charge_current, now.settings.charge_rate, "charge_rate")


def _discharge_cap(now: _Now) -> Cap:
    return _cap(now, now.settings.max_discharge_current, now.settings.discharge_rate, "discharge_rate")


def _cap(now: _Now, amps: float | None, rate: float, name: str) -> Cap:
    by_rate = Cap(now.rate_ma(rate), f"{rate:g} C of {now.capacity_mah / 1000:.0f} Ah")
    if name in now.settings.careful:
        by_rate = by_rate._replace(reason=f"{by_rate.reason}: a mistake in the configuration")
    if not now.frame.capacity_wh:
        by_rate = Cap(0, "the capacity setting of the BMS is 0")
    if amps is None:
        return by_rate
    by_user = Cap(round(amps * 1000), f"configured maximum {amps:g} A")
    return _lowest((by_user, by_rate)) if name in now.settings.careful else by_user


def _charge_taper(now: _Now) -> Cap:
    """Straight from the cap at Vbalance to the foot at Vmax, by the highest cell."""
    start = min(now.balance_mv, now.frame.vmax_mv - 1)
    share = (now.frame.vmax_mv - now.highest_mv) / (now.frame.vmax_mv - start)
    reason = (
        f"cell {now.frame.highest_cell} at {now.frame.highest_mv / 1000:.3f} V: "
        f"charging tapers from {start / 1000:.2f} V"
    )
    return _taper(_charge_cap(now).amount, share, CHARGE_FOOT_MA, reason)


def _discharge_taper(now: _Now) -> Cap:
    """Straight from the cap at Vlow to the foot at Vmin, by the lowest cell."""
    vmin, vlow = now.frame.vmin_mv, now.vlow_mv
    start = vlow if vlow and vlow > vmin else vmin + EMPTY_MARGIN_MV
    share = (now.lowest_mv - vmin) / (start - vmin)
    reason = (
        f"cell {now.frame.lowest_cell} at {now.frame.lowest_mv / 1000:.3f} V: "
        f"discharging tapers from {start / 1000:.2f} V"
    )
    return _taper(_discharge_cap(now).amount, share, now.rate_ma(DISCHARGE_FOOT_RATE), reason)


def _taper(cap_ma: int, share: float, foot_ma: int, reason: str) -> Cap:
    return Cap(max(int(cap_ma * min(share, 1.0)), min(foot_ma, cap_ma)), reason)


def _lowest(caps: Iterable[Cap]) -> Cap:
    """The cap that binds; of equals the first, so that a taper is named only where it takes something."""
    return min(caps, key=lambda cap: cap.amount)


Rule = Callable[[_Now], Cap]
CHARGE_RULES: tuple[Rule, ...] = (_charge_cap, _charge_taper)
DISCHARGE_RULES: tuple[Rule, ...] = (_discharge_cap, _discharge_taper)


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
    highest_before = frame.highest_mv if memory.highest_mv is None else memory.highest_mv
    lowest_before = frame.lowest_mv if memory.lowest_mv is None else memory.lowest_mv
    view = _Now(
        settings=settings,
        frame=frame,
        balance_mv=balance_mv(settings, frame),
        vlow_mv=pack.pair("vlow_mv"),
        floor_mv=_floor_mv(settings, pack, frame),
        capacity_mah=capacity_mah(settings, pack),
        highest_mv=max(frame.highest_mv, min(highest_before, frame.highest_mv + NOISE_MV)),
        lowest_mv=min(frame.lowest_mv, max(lowest_before, frame.lowest_mv - NOISE_MV)),
    )
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
        _charge_cap(view).amount,
        _denial(pack, layout.CHARGE_ALLOWED, "charging", relays.charge.forbids, lost),
        fresh, now, dt_s,
    )  # fmt: skip
    discharge, dcl = _direct(
        memory.discharge,
        _lowest(rule(view) for rule in DISCHARGE_RULES),
        _discharge_cap(view).amount,
        _denial(pack, layout.DISCHARGE_ALLOWED, "discharging", relays.load.forbids, spent),
        fresh, now, dt_s,
    )  # fmt: skip
    cvl, cvl_mv = _voltage(memory, view, charge, ccl, dt_s, lost, float_mv(settings, pack, frame))
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
        cvl_mv=cvl_mv,
        highest_mv=view.highest_mv,
        lowest_mv=view.lowest_mv,
        ccl_was_zero=ccl.amount == 0,
        lost=lost,
        spent=spent,
        limits=limits,
    )
    return memory, limits


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
    ceiling, fell_at = memory.ceiling_ma, memory.fell_at
    if ceiling is None:
        ceiling = rule.amount
    elif memory.permits < PERMITS:
        # Not over what it was before: a denial opens no short cut past the ramp.
        ceiling, fell_at = min(rule.amount // FIRST_STEP, ceiling), now - HOLD_S
    elif rule.amount <= ceiling:  # noise that comes back to the same low starts the hold again
        ceiling, fell_at = rule.amount, now
    elif dt_s > 0 and now - fell_at >= HOLD_S:
        ceiling = min(rule.amount, ceiling + int(full_ma * dt_s / RAMP_S) + 1)
    limit = (
        rule if rule.amount <= ceiling else Cap(ceiling, f"rises slowly again to {rule.amount / 1000:.0f} A")
    )
    return Direction(permits, ceiling, fell_at), limit


def _voltage(
    memory: Memory, view: _Now, charge: Direction, ccl: Cap, dt_s: float, lost: bool, float_voltage_mv: int
) -> tuple[Cap, float | None]:
    """CVL, and what is remembered of it (None while nothing was ever permitted)."""
    frame, cells = view.frame, view.frame.cells
    target = min(view.balance_mv + round(view.settings.charge_margin_mv), frame.vmax_mv)
    base = Cap(cells * target, f"{cells} cells x {target / 1000:.2f} V")
    floor_mv = min(view.floor_mv, base.amount)
    # A frame can bring other settings: what is remembered has to fit between them.
    cvl = float(base.amount) if memory.cvl_mv is None else max(min(memory.cvl_mv, base.amount), floor_mv)
    reason = base.reason
    over = frame.highest_mv - target
    # Tied to the present voltage, so there is nothing to wind up; a quarter of the cells is between
    # "only this cell moves" and "all do".
    drawn = max(frame.voltage_mv - over * max(1, cells // 4), floor_mv) if over > 0 else base.amount
    if lost:
        cvl = min(cvl, max(min(float_voltage_mv, frame.voltage_mv), floor_mv))
        reason = "no frames from the BMS: held at the last voltage or float"
    elif ccl.amount == 0:
        begins = not memory.ccl_was_zero or memory.cvl_mv is None
        cvl = _without_charging(view, cvl, (floor_mv, drawn, base.amount), dt_s, begins=begins)
        reason = "no charging: held at the pack's voltage"
    elif over > 0:
        cvl = min(cvl, drawn)
    elif over <= -CVL_HYSTERESIS_MV and cvl < base.amount:
        cvl = min(cvl + cells * CVL_RISE_MV_S * dt_s, base.amount)
    if not lost and ccl.amount and cvl < base.amount:
        reason = (
            f"cell {frame.highest_cell} at {frame.highest_mv / 1000:.3f} V: held under {target / 1000:.2f} V"
        )
        if over < -CVL_HYSTERESIS_MV:
            reason = f"rises slowly again to {base.reason}"
    starting = charge.ceiling_ma is None  # nothing was permitted or denied yet: nothing to rise from
    return Cap(int(cvl), reason), None if starting else cvl


def _without_charging(
    view: _Now, cvl: float, bounds: tuple[int, int, int], dt_s: float, *, begins: bool
) -> float:
    """CVL while CCL is 0, for chargers that look at nothing else.

    At the present voltage when it ``begins``, down while current flows in, slowly up while it flows out;
    and down to what the highest cell needs, unless the pack is being discharged.  ``bounds`` are
    the floor, what the highest cell asks for, and the top.
    """
    frame, cells = view.frame, view.frame.cells
    floor_mv, drawn_mv, top_mv = bounds
    present = max(frame.voltage_mv, floor_mv)
    flow_ma = max(FLOW_MA, view.rate_ma(FLOW_RATE))
    current = frame.current_ma or 0
    # Without a sensor a pack above CVL is one that is being charged.
    flows_in = current > flow_ma if frame.current_ma is not None else frame.voltage_mv > cvl
    if begins:
        cvl = min(cvl, present)
    elif flows_in:
        cvl = max(min(cvl, present) - cells * CVL_FALL_MV_S * dt_s, floor_mv)
    elif current < -flow_ma:
        return min(cvl + cells * CVL_RISE_MV_S / 2 * dt_s, top_mv)
    return min(cvl, drawn_mv) if current >= -flow_ma else cvl


def _state(view: _Now, memory: Memory, lost: bool) -> str:
    """Bulk until a cell is at Vbalance, then absorption until all are 50 mV under it again."""
    if lost:
        return "float"
    before = memory.limits.state if memory.limits else "bulk"
    release = view.balance_mv - (50 if before == "absorption" else 0)
    return "absorption" if view.frame.highest_mv >= release else "bulk"
