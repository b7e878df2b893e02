"""CVL, CCL and DCL of packs in parallel, and for each the reason that binds.

``step`` is pure, like ``limits.step``: what is not in ``Memory`` it does not remember, and time is an
argument.  A bank of one pack has that pack's limits.  With more, CVL is the lowest, and CCL and DCL are such
that no pack gets more than its own limit, however the current divides.  A pack that is lost, comes
back, or suddenly counts other cells bounds the bank at what it was, derated, until it permits again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from smartbms_protocol import Frame, PackState

from . import shares
from .limits import FIRST_STEP, RAMP_S, STEP_S, Limits, flow_ma
from .rules import NO_WISHES, Cap, Wishes, caps_of, least
from .settings import Settings
from .shares import CHARGE, DISCHARGE, Shares
from .stages import FLOAT, STAGES

JOIN_FRAMES = 3
"""A further pack joins with so many: the frames that have to permit, and one alone may be noise."""
START_S = 5.0
"""Packs that join within this time are there from the start: there is nothing to ramp from."""
STALE_INTERVALS = 3
LEAST_SHARE = 0.001
"""No pack takes less of the current: a division by nothing."""
CONTACTOR_S = 5.0
"""With a contactor of its own, a pack whose BMS denies carries no current after this time."""


class Mark(NamedTuple):
    """The bank's limits at a moment, and the packs that took part."""

    cvl_mv: int
    currents_ma: tuple[int, int]
    """CCL and DCL"""
    among: tuple[str, ...]


class Pack(Protocol):
    """What is looked at of a pack; ``pack.Pack`` has it all."""

    readings: PackState
    limits: Limits | None
    capacity_mah: int

    @property
    def label(self) -> str: ...
    @property
    def excluded(self) -> bool: ...
    @property
    def float_mv(self) -> int: ...
    @property
    def near_empty(self) -> bool: ...
    @property
    def waits(self) -> bool: ...
    def denies(self, direction: int) -> bool: ...
    def permits(self, direction: int) -> bool: ...
    def opened(self, direction: int) -> bool: ...


class Member(NamedTuple):
    """What is remembered of a pack that belongs to the bank."""

    frames: int
    """``PackState.frames`` at the last step."""
    present: bool = True
    """It takes part; else it is lost, comes back, or counts other cells than the rest."""
    gone: int = 0
    """``PackState.frames`` when it was lost."""
    mark: Mark | None = None
    """The bank's limits with its last frame: while it is not present they are not exceeded, derated."""
    opened_at: tuple[float | None, float | None] = (None, None)
    """Since when its BMS denies charging, discharging, or has not permitted it again."""


class Ceiling(NamedTuple):
    """What a limit rises through after packs came or went; None: nothing holds it."""

    amount: int | None = None
    risen_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """All that ``step`` remembers."""

    members: Mapping[str, Member]
    """By cable."""
    past: frozenset[str] = frozenset()
    """Cables of packs that took part at some time: one that is put back into the bank may be lost."""
    cells: int = 0
    """How many in a pack, for all that are merged."""
    began_at: float | None = None
    at: float | None = None
    """Of the last new frame."""
    shares: tuple[Shares, Shares] = (shares.UNKNOWN, shares.UNKNOWN)
    sampled: Mapping[str, int] | None = None
    """Frames of each pack when their currents were looked at last."""
    sampled_at: float = 0.0
    ceilings: tuple[Ceiling, Ceiling] = (Ceiling(), Ceiling())
    """Of CCL and DCL."""
    setup: object = None
    """Who takes part: when that changes, limits do not jump up."""
    wanted: object = None
    """What the user wants: while that stays, nothing rises without a new frame."""
    limits: Limits | None = None


NOTHING = Memory({})


class _View(NamedTuple):
    """What the rules look at."""

    settings: Settings
    memory: Memory
    """With the members of now."""
    packs: Mapping[str, Pack]
    """The members' packs, by cable."""
    merged: Mapping[str, Pack]
    """Those of them with the same number of cells."""
    present: Mapping[str, Pack]
    quiet: Mapping[str, Pack]
    """Members that are not present, or from which frames are missing."""
    caps: tuple[Cap, Cap]
    """What the user allows of CCL and DCL, or the packs' capacity."""
    now: float

    @property
    def heard(self) -> dict[str, Pack]:
        """The merged packs that frames come from, also those that come back."""
        return {cable: pack for cable, pack in self.merged.items() if not _lost(pack)}

    @property
    def absent(self) -> list[Pack]:
        """The merged packs that are not present."""
        return [pack for cable, pack in self.merged.items() if cable not in self.present]

    @property
    def contactors(self) -> bool:
        """Whether each pack has one of its own."""
        return self.settings.relays == "own"

    def shares(self, way: int) -> dict[str, float]:
        """Of all members."""
        return shares.in_use(self.memory.shares, way, _capacities(self.packs))


def _capacities(packs: Mapping[str, Pack]) -> dict[str, int]:
    return {cable: pack.capacity_mah for cable, pack in packs.items()}


def step(
    settings: Settings, memory: Memory, packs: Mapping[str, Pack], now: float, wishes: Wishes = NO_WISHES
) -> Memory:
    """What is remembered after a frame of any pack, or a second without one; the limits are in it.

    ``packs`` by their cables.  No limits before the first frame.  Never raises for any frame or time, never
    reads a clock.
    """
    memory = _meet(memory, packs, now)
    if not memory.members:
        if memory.limits is None:
            return memory
        return replace(memory, setup=(), limits=_nobody(memory.limits))
    belonging = {cable: pack for cable, pack in packs.items() if cable in memory.members}
    merged = {cable: pack for cable, pack in belonging.items() if not odd(memory, pack)}
    present = _present(memory, merged)
    quiet = {cable: pack for cable, pack in belonging.items() if cable not in present or _stale(pack, now)}
    caps = caps_of(settings, sum(pack.capacity_mah for pack in merged.values()), wishes)
    view = _View(
        settings, _look(memory, belonging, present, now), belonging, merged, present, quiet, caps, now
    )
    fresh = {
        cable for cable, pack in belonging.items() if pack.readings.frames != memory.members[cable].frames
    }
    alone = next(iter(belonging.values())).limits if len(belonging) == 1 else None
    if alone is None:
        view = view._replace(memory=_learn(view))
    limits, ceilings, setup = alone or _limits(view), memory.ceilings, memory.setup
    # A pack that was one of several has yet to be told what is the bank's.
    limits = _at_most(limits, (None, caps[0].amount, caps[1].amount), ("", caps[0].reason, caps[1].reason))
    if alone is None or setup is not None:
        ceilings, setup, limits = _rise(view, limits, fresh=bool(fresh))
    wanted, before = (settings, wishes, tuple(belonging)), memory.limits
    if before is not None and not fresh and wanted == memory.wanted and alone is None:
        tops = (before.cvl_mv, before.ccl_ma, before.dcl_ma)
        limits = _at_most(limits, tops, (before.cvl_reason, before.ccl_reason, before.dcl_reason))
    return replace(
        view.memory,
        members=_marked(view, limits, fresh),
        past=memory.past | view.present.keys(),
        at=now if fresh else memory.at,
        ceilings=ceilings,
        setup=setup,
        wanted=wanted,
        limits=limits,
    )


def _marked(view: _View, limits: Limits, fresh: set[str]) -> dict[str, Member]:
    """The members after their frames: what the bank has with each one's last."""
    mark = Mark(limits.cvl_mv, (limits.ccl_ma, limits.dcl_ma), tuple(view.present))
    members = dict(view.memory.members)
    for cable in fresh:
        member, pack = members[cable], view.packs[cable]
        known = mark if member.present else member.mark
        if known is not None and not member.present:
            # It denies while it comes back: that counts, too, if it goes again.
            charge, discharge = (
                0 if pack.denies(way) else amount for way, amount in enumerate(known.currents_ma)
            )
            known = known._replace(currents_ma=(charge, discharge))
        members[cable] = member._replace(frames=pack.readings.frames, mark=known)
    return members


def _nobody(limits: Limits) -> Limits:
    """Limits stay numbers when there is nobody left: CVL as it was, and no current."""
    why = "every pack is left out"
    return limits._replace(
        ccl_ma=0, dcl_ma=0, ccl_reason=why, dcl_reason=why, allow_charge=False, allow_discharge=False
    )


# Who belongs to the bank, and who takes part


def _meet(memory: Memory, packs: Mapping[str, Pack], now: float) -> Memory:
    """Packs join when they have permitted or denied; they leave only when they are excluded."""
    known = {cable: pack for cable, pack in packs.items() if pack.limits is not None and not pack.excluded}
    members = {cable: member for cable, member in memory.members.items() if cable in known}
    for cable, pack in known.items():
        joins = (
            cable in memory.past if _lost(pack) else pack.readings.frames >= JOIN_FRAMES and not pack.waits
        )
        if cable not in members and (joins or not members):
            members[cable] = Member(frames=pack.readings.frames - (not _lost(pack)))
    if len(members) > 1:  # the first may have been noise: it had to show no more than one frame
        members = {
            cable: member for cable, member in members.items() if known[cable].readings.frames >= JOIN_FRAMES
        }
    if not members:
        return replace(memory, members=members)
    began_at = now if memory.began_at is None else memory.began_at
    cells = memory.cells
    frames = [frame for cable in members if (frame := known[cable].readings.frame)]
    if now - began_at < START_S or all(frame.cells != cells for frame in frames):
        cells = _most(frames)
    if cells != memory.cells:  # limits of other cells bound nothing
        members = {cable: member._replace(mark=None) for cable, member in members.items()}
    return replace(memory, members=members, cells=cells, began_at=began_at)


def _most(frames: Sequence[Frame]) -> int:
    """The number of cells that most of the energy has, else most of the packs, else the larger."""

    def votes(cells: int) -> tuple[int, int, int]:
        so = [frame.capacity_wh for frame in frames if frame.cells == cells]
        return sum(so), len(so), cells

    return max((frame.cells for frame in frames), key=votes)


def odd(memory: Memory, pack: Pack) -> bool:
    """Whether a pack has another number of cells than those that are merged."""
    frame = pack.readings.frame
    return frame is not None and frame.cells != memory.cells


def _lost(pack: Pack) -> bool:
    return pack.limits is None or pack.limits.lost


def _present(memory: Memory, merged: Mapping[str, Pack]) -> dict[str, Pack]:
    """Those that take part; one that comes back does when it has permitted, or denied, three times."""

    def is_back(pack: Pack, member: Member) -> bool:
        return pack.readings.frames >= member.gone + JOIN_FRAMES and not pack.waits

    return {
        cable: pack
        for cable, pack in merged.items()
        if not _lost(pack) and (memory.members[cable].present or is_back(pack, memory.members[cable]))
    }


def _look(memory: Memory, packs: Mapping[str, Pack], present: Mapping[str, Pack], now: float) -> Memory:
    """The members: who is present, and since when whose BMS denies."""
    members = dict(memory.members)
    for cable, member in memory.members.items():
        pack = packs[cable]
        is_present, opened = (
            cable in present,
            tuple(
                pack.opened(way) or (since is not None and not pack.permits(way))
                for way, since in enumerate(member.opened_at)
            ),
        )
        gone = pack.readings.frames if _lost(pack) else member.gone
        changed = opened != tuple(at is not None for at in member.opened_at)
        if changed or (is_present, gone) != (member.present, member.gone):
            charge, discharge = (
                None if not way_opened else now if since is None else since
                for way_opened, since in zip(opened, member.opened_at, strict=True)
            )
            members[cable] = member._replace(present=is_present, gone=gone, opened_at=(charge, discharge))
    return replace(memory, members=members)


def _left(view: _View, mark: Mark, way: int) -> float:
    """What is left of the packs that made up a limit: by share of current or of capacity, the lower.

    All of it where no pack is present: a silence is ridden through.
    """
    if not view.present:
        return 1.0
    there = {cable for cable in mark.among if cable in view.packs} | view.present.keys()
    parts = (shares.by_capacity(_capacities(view.packs)), view.shares(way))
    wholes = [(part, sum(part[cable] for cable in there)) for part in parts]
    # Where no capacity is set the shares tell nothing.
    left = (sum(part[cable] for cable in view.present) / whole if whole else 1.0 for part, whole in wholes)
    return min(left)


# How the current divides


def _learn(view: _View) -> Memory:
    """Compare the packs' currents once in a round of frames, while all take part."""
    memory, packs = view.memory, view.merged
    frames = {cable: pack.readings.frames for cable, pack in packs.items()}
    opened = view.contactors and any(
        pack.opened(way) for pack in packs.values() for way in (CHARGE, DISCHARGE)
    )
    whole = len(view.present) == len(packs) > 1 and not opened
    before = memory.sampled
    if not whole or before is None or before.keys() != frames.keys():
        return replace(memory, sampled=frames if whole else None, sampled_at=view.now)
    if any(frames[cable] == before[cable] for cable in frames):
        if view.now - memory.sampled_at > STALE_INTERVALS:
            return replace(memory, sampled=frames, sampled_at=view.now)
        return memory
    seen = {cable: pack.readings.frame for cable, pack in packs.items()}
    current = {cable: None if frame is None else frame.current_ma for cable, frame in seen.items()}
    dt_s = view.now - memory.sampled_at
    learnt = shares.learn(memory.shares, current, _capacities(packs), dt_s)
    return replace(memory, shares=learnt, sampled=frames, sampled_at=view.now)


# What is allowed


def _limits(view: _View) -> Limits:
    silence = lost, spent = _silence(view)
    stops = [*_stops(view, CHARGE, silence)], [*_stops(view, DISCHARGE, silence)]
    ccl, dcl = (
        least((*stops[way], view.caps[way], *_takes(view, way), *_holds(view, way)))
        for way in (CHARGE, DISCHARGE)
    )
    cvl = _voltage(view, lost=lost)
    states = [pack.limits.state for pack in view.present.values() if pack.limits]
    told = [(pack.label, pack.limits.wrong) for pack in view.packs.values() if pack.limits]
    return Limits(
        cvl.amount, ccl.amount, dcl.amount, cvl.reason, ccl.reason, dcl.reason,
        _allowed(view, CHARGE, stops[CHARGE]), _allowed(view, DISCHARGE, stops[DISCHARGE]),
        FLOAT if lost or not states else min(states, key=STAGES.index), lost, spent,
        "; ".join(f"{label}: {wrong}" for label, wrong in told if wrong) or None,
    )  # fmt: skip


def _silence(view: _View) -> tuple[bool, bool]:
    """Whether the bank counts as lost, and whether the ride-through is over too.

    All packs: as for one, counted from the one that was heard last.  ``block``: one is enough.
    """
    quiet = view.absent
    if not quiet:
        return False, False
    if view.settings.on_pack_lost == "block":
        return True, any(_spent(pack) for pack in quiet)
    last = min(quiet, key=lambda pack: pack.readings.age(view.now))
    if view.heard:
        return False, False
    return True, _spent(last) or any(pack.near_empty for pack in quiet)


def _stops(view: _View, way: int, silence: tuple[bool, bool]) -> Iterator[Cap]:
    """What stops all packs at once."""
    lost, spent = silence
    if spent if way == DISCHARGE else lost:
        who = ", ".join(pack.label for pack in view.absent)
        yield Cap(0, f"no frames from {who}: is the cable plugged in?")
    for cable, pack in view.packs.items():
        merged = cable in view.merged
        if _lost(pack) or not (merged or view.memory.members[cable].mark):
            continue
        if not view.contactors and pack.denies(way):
            yield Cap(0, f"{pack.label}: {_reason(pack, way)}")
        if not merged:
            continue
        if view.settings.on_pack_lost == "block" and cable not in view.present:
            yield Cap(_own(pack, way), f"{pack.label}: {_reason(pack, way)}")
        if view.contactors and _stuck(view, cable, way):
            yield Cap(0, f"{pack.label}: current flows though its BMS denies it: its contactor?")


def _stuck(view: _View, cable: str, way: int) -> bool:
    """Whether current flows through a pack whose own contactor should be open."""
    pack, since = view.packs[cable], view.memory.members[cable].opened_at[way]
    frame = pack.readings.frame
    if since is None or view.now - since < CONTACTOR_S:
        return False
    if frame is None or frame.current_ma is None:
        return False
    return (frame.current_ma if way == CHARGE else -frame.current_ma) > flow_ma(pack.capacity_mah)


def _takers(view: _View, way: int) -> dict[str, Pack]:
    """The packs that current flows through; where none is present, those that come back."""
    packs = dict(view.present) or view.heard
    if not view.contactors:
        return packs
    members = view.memory.members
    return {
        cable: pack
        for cable, pack in packs.items()
        if members[cable].opened_at[way] is None or _stuck(view, cable, way)
    }


def _takes(view: _View, way: int) -> Iterator[Cap]:
    """How much the bank may have so that each pack has its own limit at most.

    A pack whose BMS denies the other direction may have opened its contactor: the others count without
    it, and it counts with them.
    """
    takers, part = _takers(view, way), view.shares(way)
    if not takers:
        for pack in view.present.values():
            yield Cap(0, f"{pack.label}: {_reason(pack, way)}")
            return
    members = view.memory.members
    doubtful = {
        cable for cable in takers if view.contactors and members[cable].opened_at[1 - way] is not None
    }
    sure = sum(part[cable] for cable in takers.keys() - doubtful)
    amounts: dict[str, tuple[int, float]] = {}
    for cable, pack in takers.items():
        among = sure + part[cable] if cable in doubtful else sure
        share = max(part[cable] / min(1.0, among), LEAST_SHARE) if among else 1.0
        amounts[cable] = round(_own(pack, way) / share), share
    if amounts:
        cable = min(amounts, key=lambda taker: amounts[taker])
        pack, (amount, share) = takers[cable], amounts[cable]
        takes = "" if len(takers) == 1 else f" takes {share:.0%} of the current"
        yield Cap(amount, f"{pack.label}{takes}: {_reason(pack, way)}")


def _holds(view: _View, way: int | None) -> Iterator[Cap]:
    """What packs that are not there, or silent, leave of CCL, of DCL, or (``way`` None) of CVL."""
    for cable, pack in view.quiet.items():
        mark = view.memory.members[cable].mark
        if mark is None:
            continue
        if cable in view.present:
            amount = mark.cvl_mv if way is None else mark.currents_ma[way]
            yield Cap(amount, f"{pack.label} is silent: no more than before")
        elif way is not None:
            amount = int(mark.currents_ma[way] * _left(view, mark, way))
            yield Cap(amount, f"{pack.label} {_missing(view, pack)}: no more than before, derated")
        else:
            # Its cells are not seen: no further than the voltage at which full cells rest.
            amount = mark.cvl_mv if odd(view.memory, pack) else min(mark.cvl_mv, pack.float_mv)
            yield Cap(amount, f"{pack.label} {_missing(view, pack)}: no more than before, or float")


def _missing(view: _View, pack: Pack) -> str:
    if odd(view.memory, pack):
        return f"has other cells than {view.memory.cells}"
    return "is lost" if _lost(pack) else "comes back"


def _voltage(view: _View, *, lost: bool) -> Cap:
    """The lowest CVL of the packs that can be charged."""
    packs = (view.merged if lost else _takers(view, CHARGE) or view.present or view.merged).values()
    known = [(pack.limits.cvl_mv, pack.label, pack.limits.cvl_reason) for pack in packs if pack.limits]
    amount, label, reason = min(known, key=lambda one: one[0])
    return least((Cap(amount, f"{label}: {reason}"), *_holds(view, None)))


def _allowed(view: _View, way: int, stops: Sequence[Cap]) -> bool:
    if any(cap.amount == 0 for cap in stops):
        return False
    # With none there the ride-through goes on: what the last frames allowed counts.
    packs = _takers(view, way) or {cable: pack for cable, pack in view.merged.items() if not _spent(pack)}
    takers = [pack.limits for pack in packs.values() if pack.limits]
    return bool(takers) and all(
        limits.allow_charge if way == CHARGE else limits.allow_discharge for limits in takers
    )


def _own(pack: Pack, way: int) -> int:
    limits = pack.limits
    return 0 if limits is None else limits.ccl_ma if way == CHARGE else limits.dcl_ma


def _reason(pack: Pack, way: int) -> str:
    limits = pack.limits
    return "" if limits is None else limits.ccl_reason if way == CHARGE else limits.dcl_reason


def _spent(pack: Pack) -> bool:
    return pack.limits is not None and pack.limits.spent


def _stale(pack: Pack, now: float) -> bool:
    return pack.readings.age(now) > STALE_INTERVALS * pack.readings.interval_s


# Rising after packs came or went


def _rise(view: _View, limits: Limits, *, fresh: bool) -> tuple[tuple[Ceiling, Ceiling], object, Limits]:
    """Currents that would jump up because others take part now rise slowly.  What packs allow stays."""
    memory, before = view.memory, view.memory.limits
    opened = [tuple(at is None for at in memory.members[cable].opened_at) for cable in view.present]
    wired = view.settings.relays, view.settings.on_pack_lost
    setup = wired, tuple(view.packs), tuple(view.present), tuple(opened) if view.contactors else ()
    if before is None or view.now - (memory.began_at or 0.0) < START_S:
        return NOTHING.ceilings, setup, limits
    dt_s, caps, changed = _dt_s(view, fresh=fresh), view.caps, setup != memory.setup
    ccl, dcl = (
        _ceiling(ceiling, was if changed else None, wanted, cap.amount, dt_s)
        for ceiling, was, wanted, cap in (
            (memory.ceilings[CHARGE], before.ccl_ma, limits.ccl_ma, caps[CHARGE]),
            (memory.ceilings[DISCHARGE], before.dcl_ma, limits.dcl_ma, caps[DISCHARGE]),
        )
    )
    limits = _at_most(
        limits,
        (None, ccl.amount, dcl.amount),
        ("", _RISES + limits.ccl_reason, _RISES + limits.dcl_reason),
    )
    return (ccl, dcl), setup, limits


_RISES = "packs came or went: rises slowly; "


def _at_most(limits: Limits, tops: Sequence[int | None], reasons: Sequence[str]) -> Limits:
    """CVL, CCL and DCL, each lowered with its reason to what is given of it."""
    lower: dict[str, Any] = {}
    for name, top, reason in zip(("cvl_mv", "ccl_ma", "dcl_ma"), tops, reasons, strict=True):
        if top is not None and top < getattr(limits, name):
            lower |= {name: top, f"{name[:3]}_reason": reason}
    return limits._replace(**lower) if lower else limits


def _dt_s(view: _View, *, fresh: bool) -> float:
    """Seconds that a ramp moves on: it stands still in silence, and while one of the packs is silent."""
    packs, at = view.present.values(), view.memory.at
    if not fresh or at is None or not packs or view.present.keys() & view.quiet.keys():
        return 0.0
    return min(max(view.now - at, 0.0), 1.5 * max(pack.readings.interval_s for pack in packs))


def _ceiling(ceiling: Ceiling, was: int | None, wanted: int, full: int, dt_s: float) -> Ceiling:
    """What a current rises through, in steps over its whole range, from what it ``was`` at a change.

    From little or nothing it begins like a pack that permits again.
    """
    amount, risen_s = ceiling.amount, ceiling.risen_s + dt_s
    if was is not None and wanted > was:
        amount, risen_s = max(was, wanted // FIRST_STEP), 0.0
    if amount is not None and risen_s >= STEP_S:
        amount, risen_s = amount + int(full * risen_s / RAMP_S) + 1, 0.0
    return Ceiling() if amount is None or amount >= full else Ceiling(amount, risen_s)
