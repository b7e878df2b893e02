"""CVL, CCL and DCL of one pack, and for each the reason that binds.

``step`` is pure: what is not in ``Memory`` it does not remember, and time is an argument.
Every rule proposes a cap with its reason; the lowest wins.  Denying is quick (the same frame),
permitting is slow (3 frames in a row, then a ramp), and nothing rises without a new frame.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

from smartbms_protocol import CELSIUS, Frame, PackState, layout

from .mirror import Relays
from .mirror import soc as soc_of
from .ratings import LOWEST_CELL_MV, Thresholds, capacity_mah, chemistry, thresholds, vnom_mv
from .rules import CHARGE_RULES, DISCHARGE_RULES, NO_WISHES, Cap, Now, Wishes, caps, highest_cell, least
from .sag import Lowest, follow
from .settings import Settings
from .stages import FLOAT, Look, Stage
from .stages import step as next_stage
from .voltage import Cells, Held, block, hold, soon_mv

PERMITS = 3
"""Frames in a row that have to permit before a direction is allowed (again)."""
FIRST_STEP = 4
"""After a denial a limit begins at a quarter of what the rules allow."""
RAMP_S = 600.0
"""A limit rises over its whole range in this time: 10 minutes at most, whatever it fell to."""
STEP_S = 30.0
"""It rises in steps, so that whoever reads it has a steady number; and one that fell stays for so long: a
cloud, a kettle, a noisy cell."""
NOISE_MV = 20
"""Play of the tapers: a cell has to come back by more than this before a limit follows it."""
FLOW_MA = 1000
FLOW_RATE = 0.01
"""A current counts as flowing from 1 A or 0.01 C on: sensors have blind spots up to 1 A and more."""
EMPTY_MARGIN_MV = 100
"""So near Vmin or Vlow a pack counts as nearly empty."""
UNDER_VMAX_MV = 20
"""CVL stays so far under cells x Vmax: what a cell is read to."""
FLOAT_LFP_MV = 3370
FLOAT_BELOW_BALANCE_MV = 100
FULL_MV = 10
"""So near what CVL lets a cell have it counts as full, where that is not over Vbalance (a margin of 0)."""
EASE_MV = 10
"""mV a cell: CVL goes from absorption to float and back in such steps..."""
EASE_DOWN_S, EASE_UP_S = 300.0, 60.0
"""...so far apart: cells come to rest by themselves, and a step at once would sell what is in them."""


_NOT_HELD, _NOT_SEEN, _BULK = Held(), Lowest(), Stage()


@dataclass(frozen=True, slots=True)
class Direction:
    """What is remembered of charging, or of discharging."""

    permits: int = 0
    """Frames in a row that permitted, up to ``PERMITS``."""
    ceiling_ma: int | None = None
    """What the ramp lets through; None at the start, when there is nothing to ramp from."""
    risen_s: float = 0.0
    """Seconds of frames since it last rose or fell."""
    silent: bool = False
    """It was denied for silence alone, in a bank of several packs: those saw to it meanwhile."""


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
    stage: Stage = _BULK
    target_mv: int | None = None
    """CVL a cell while nothing else holds it down: between absorption and float it goes in steps."""
    eased_s: float = 0.0
    """Seconds of frames since it last did."""
    highest_mv: int | None = None
    lowest_mv: int | None = None
    ccl_was_zero: bool = False
    lost: bool = False
    spent: bool = False
    """Lost for longer than the ride-through: DCL is 0."""
    limits: Limits | None = None


class Company(NamedTuple):
    """What a pack has to know of those beside it."""

    several: bool = False
    """There are others."""
    floats: bool = True
    """They have come to float, too: until then the voltage stays up for them."""
    charged: bool = True
    """What flows into the pack comes from a charger: others may push into it, too."""


ALONE = Company()


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
    wrong: str | None = None
    """What makes no sense in the settings of the BMS."""


def flow_ma(capacity_mah: int) -> int:
    """So much counts as a current."""
    return max(FLOW_MA, int(capacity_mah * FLOW_RATE))


def floor_mv(pack: PackState, frame: Frame, volts: Thresholds) -> int:
    """CVL is never under cells x Vnom, Vlow where Vnom is not known, else Vmin.

    One that is not under Vbalance contradicts it, and would take every way down from CVL.
    """
    known = (vnom_mv(pack, frame), pack.pair("vlow_mv"))
    below = (mv for mv in known if mv and mv < volts.balance_mv)
    return frame.cells * next(below, frame.vmin_mv)


def float_mv(settings: Settings, pack: PackState, frame: Frame, volts: Thresholds) -> int:
    """The float voltage of a cell: LFP 3.37 V, others Vbalance - 100 mV."""
    below = volts.balance_mv - FLOAT_BELOW_BALANCE_MV
    return FLOAT_LFP_MV if chemistry(settings, frame, vnom_mv(pack, frame)) == "LFP" else max(0, below)


def step(
    settings: Settings,
    memory: Memory,
    pack: PackState,
    relays: Relays,
    now: float,
    wishes: Wishes = NO_WISHES,
    company: Company = ALONE,
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
    view = _look(settings, memory, pack, frame, wishes, fresh=fresh, now=now, charged=company.charged)
    lost, spent = _silence(view, pack.age(now))
    if (
        memory.limits is not None
        and not fresh
        and pack.held is None
        and (lost, spent) == (memory.lost, memory.spent)
        and memory.limits.ccl_ma <= view.charge.amount  # a wish does not wait for a frame
        and memory.limits.dcl_ma <= view.discharge.amount
    ):
        return memory, memory.limits
    no_charge = _denial(pack, layout.CHARGE_ALLOWED, "charging", relays.charge.forbids, lost)
    critical = relays.charge.forbids is not None
    denied = no_charge is not None and not critical
    stage = memory.stage
    if fresh:
        stage = next_stage(stage, _progress(view, denied=denied, critical=critical), dt_s)
    view = view._replace(stage=stage)
    if stage.ended and denied and not lost:
        no_charge = "full: the BMS has ended the charge"
    charge, ccl = _direct(
        memory.charge,
        least(rule(view) for rule in CHARGE_RULES),
        view.charge.amount,
        no_charge,
        fresh, dt_s, lost and company.several,
    )  # fmt: skip
    discharge, dcl = _direct(
        memory.discharge,
        least(rule(view) for rule in DISCHARGE_RULES),
        view.discharge.amount,
        _denial(pack, layout.DISCHARGE_ALLOWED, "discharging", relays.load.forbids, spent),
        fresh, dt_s, spent and company.several,
    )  # fmt: skip
    target_mv, eased_s = _ease(memory, view, dt_s, floats=company.floats)
    cvl, held = _voltage(memory, view, ccl, target_mv, lost=lost, starting=charge.ceiling_ma is None)
    limits = Limits(
        cvl.amount, ccl.amount, dcl.amount, cvl.reason, ccl.reason, dcl.reason,
        charge.permits == PERMITS, discharge.permits == PERMITS, FLOAT if lost else stage.name, lost, spent,
        view.volts.wrong,
    )  # fmt: skip
    memory = replace(
        memory,
        frames=pack.frames,
        at=pack.at,
        charge=charge,
        discharge=discharge,
        held=held,
        lowest=view.lowest,
        stage=stage,
        target_mv=target_mv,
        eased_s=eased_s,
        highest_mv=view.highest_mv,
        lowest_mv=view.lowest_mv,
        ccl_was_zero=ccl.amount == 0,
        lost=lost,
        spent=spent,
        limits=limits,
    )
    return memory, limits


def _progress(view: Now, *, denied: bool, critical: bool) -> Look:
    """What the charge's progress is judged by."""
    days, balance = view.settings.charge_to_full_days, view.volts.balance_mv
    return Look(
        view.frame.highest_mv, view.frame.lowest_mv, view.rest_mv, balance,
        min(balance, _top_mv(view) - FULL_MV), view.float_mv,
        view.frame.current_ma, view.capacity_mah, view.soc,
        denied, critical, None if days is None else days * 86400.0,
    )  # fmt: skip


def _ease(memory: Memory, view: Now, dt_s: float, *, floats: bool) -> tuple[int, float]:
    """What CVL is made of, mV a cell, on its way between absorption and float; at once at the start."""
    top, mv, eased_s = _top_mv(view), memory.target_mv, memory.eased_s + dt_s
    low = min(top, view.float_mv)
    goal = low if view.stage.name == FLOAT and floats else top
    if mv is None or mv > top:
        return goal, 0.0
    if mv > goal and eased_s >= EASE_DOWN_S:
        return max(goal, mv - EASE_MV), 0.0
    calm = view.fresh and view.frame.highest_mv <= top and not memory.ccl_was_zero
    if mv < goal and eased_s >= EASE_UP_S and calm:
        return min(goal, mv + EASE_MV), 0.0
    return mv, eased_s


def _top_mv(view: Now) -> int:
    """What the highest cell is held at: Vbalance and the margin, but a little under Vmax."""
    volts = view.volts
    if volts.vmax_mv is None:
        return view.frame.vmax_mv
    margin = round(view.settings.charge_margin_mv)
    return min(volts.balance_mv + margin, volts.vmax_mv - UNDER_VMAX_MV)


def _look(
    settings: Settings,
    memory: Memory,
    pack: PackState,
    frame: Frame,
    wishes: Wishes,
    *,
    fresh: bool,
    now: float,
    charged: bool,
) -> Now:
    """What the rules look at."""
    highest_before = frame.highest_mv if memory.highest_mv is None else memory.highest_mv
    lowest_before = frame.lowest_mv if memory.lowest_mv is None else memory.lowest_mv
    capacity = capacity_mah(settings, pack)
    volts = thresholds(settings, pack, frame)
    flows_ma = flow_ma(capacity)
    fills_ma = flows_ma if charged else sys.maxsize
    lowest = memory.lowest
    heard = not frame.has(layout.NO_COMMUNICATION) and frame.lowest_mv >= LOWEST_CELL_MV
    if fresh and heard:  # cells that the BMS does not hear are not empty
        lowest = follow(lowest, frame, volts.vmin_mv, capacity, volts.low_mv, fills_ma, now)
    charge, discharge = caps(settings, pack, wishes)
    soon = 0.0
    if fresh and frame.highest_mv >= volts.balance_mv:
        seen = memory.held.saw(frame.highest_mv).highest_mv
        soon = soon_mv((*seen[:-1], min(seen[-2:])), pack.interval_s)  # one reading alone is no rise
    celsius = CELSIUS[settings.temperature]
    judged = not frame.may_balance(frame.hottest_cell)
    return Now(
        settings=settings,
        frame=frame,
        volts=volts,
        soc=soc_of(pack) or 0.0,
        stage=memory.stage,
        now=now,
        fresh=fresh,
        floor_mv=floor_mv(pack, frame, volts),
        float_mv=float_mv(settings, pack, frame, volts),
        capacity_mah=capacity,
        highest_mv=max(frame.highest_mv, min(highest_before, frame.highest_mv + NOISE_MV)),
        lowest_mv=min(frame.lowest_mv, max(lowest_before, frame.lowest_mv - NOISE_MV)),
        interval_s=pack.interval_s,
        flow_ma=flows_ma,
        lowest=lowest,
        charge=charge,
        discharge=discharge,
        coldest_c=celsius(frame.coldest_raw),
        hottest_c=celsius(frame.hottest_raw) if judged else None,
        soon_mv=soon,
    )


def near_empty(frame: Frame, volts: Thresholds) -> bool:
    """Whether the lowest cell is so near Vmin or Vlow that a silence is not ridden through."""
    return frame.lowest_mv <= (volts.vlow_mv or volts.vmin_mv) + EMPTY_MARGIN_MV


def _silence(view: Now, age_s: float) -> tuple[bool, bool]:
    """Whether the link counts as lost, and whether the ride-through is over too."""
    settings = view.settings
    near = near_empty(view.frame, view.volts)
    ride_through_s = settings.hold_s if near else settings.ride_through_s
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
    memory: Direction, rule: Cap, full_ma: int, denial: str | None, fresh: bool, dt_s: float, silent: bool
) -> tuple[Direction, Cap]:
    """One direction's limit: denied, waiting for frames that permit, ramping, or as the rules say."""
    if denial is not None:
        before = full_ma if memory.ceiling_ma is None else memory.ceiling_ma
        silent = silent and (memory.silent or memory.permits == PERMITS)  # not after another denial
        return Direction(0, before, silent=silent), Cap(0, denial)
    permits = min(memory.permits + fresh, PERMITS)
    if permits < PERMITS:
        text = f"waits for {PERMITS} frames in a row that permit it ({permits} so far)"
        return replace(memory, permits=permits), Cap(0, text)
    ceiling, risen_s = memory.ceiling_ma, memory.risen_s + dt_s
    if ceiling is None:
        ceiling = rule.amount
    elif memory.permits < PERMITS:
        # Not over what it was before: a denial opens no short cut past the ramp.
        ceiling = min(rule.amount if memory.silent else rule.amount // FIRST_STEP, ceiling)
    elif rule.amount <= ceiling:  # noise that comes back to the same low starts the wait again
        ceiling, risen_s = rule.amount, 0.0
    elif risen_s >= STEP_S:
        ceiling, risen_s = min(rule.amount, ceiling + int(full_ma * risen_s / RAMP_S) + 1), 0.0
    limit = (
        rule if rule.amount <= ceiling else Cap(ceiling, f"rises slowly again to {rule.amount / 1000:.0f} A")
    )
    return Direction(permits, ceiling, risen_s), limit


def _voltage(
    memory: Memory, view: Now, ccl: Cap, target_mv: int, *, lost: bool, starting: bool
) -> tuple[Cap, Held]:
    """CVL, and what is remembered of it: nothing while ``starting``, for there is nothing to rise from."""
    frame, cells, top = view.frame, view.frame.cells, _top_mv(view)
    base = Cap(cells * target_mv, f"{cells} cells x {target_mv / 1000:.2f} V")
    if target_mv < top:
        base = base._replace(reason=f"{view.stage.name}: {base.reason}")
    floor_mv = min(view.floor_mv, base.amount)
    look = Cells(
        cells, frame.voltage_mv, frame.highest_mv, top, base.amount, floor_mv,
        view.interval_s, frame.current_ma, view.flow_ma, frame.highest_mv - frame.lowest_mv,
    )  # fmt: skip
    held, cvl = memory.held.within(look)
    reason = base.reason
    if lost:
        held = held.stopped(look, over=False)
        before = cvl if memory.limits is None else memory.limits.cvl_mv  # nothing rises without a frame
        cvl = min(cvl, before, float(max(min(cells * view.float_mv, frame.voltage_mv), floor_mv)))
        held = held._replace(cvl_mv=cvl)
        reason = "no frames from the BMS: held at the last voltage or float"
    elif ccl.amount == 0:
        begins = not memory.ccl_was_zero or memory.charge.ceiling_ma is None
        if view.fresh or begins:
            held, cvl = block(held, view.now, look, begins=begins)
        reason = "no charging: held at the pack's voltage"
    elif view.fresh:
        held, cvl = hold(held, view.now, look)
    if not lost and ccl.amount and cvl < base.amount:
        reason = f"{highest_cell(view)}: held under {top / 1000:.2f} V"
        if frame.highest_mv < top - NOISE_MV:
            reason = f"rises slowly again to {base.reason}"
    return Cap(int(cvl), reason), Held(highest_mv=held.highest_mv) if starting else held
