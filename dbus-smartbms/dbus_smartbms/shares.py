"""How current divides between packs in parallel: learnt from what their sensors say.

The division is by resistance and state of charge, not by capacity alone: a long cable, an old pack or
one that is emptier takes another part.  Until it was seen, capacity is the best guess there is.

Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LEARN_S = 60.0
"""Time constant: what is learnt is within 1 % after 5 minutes of steady current."""
RISE_S = 10.0
"""The same for a share that rises, which lowers limits."""
AGREE = 3
"""Samples in a row that have to say so: frames of one moment may be of two, while a load starts."""
LEAST_RATE = 0.03
"""C of all packs together: under it, offsets of the sensors (up to 1 A) would be learnt."""
LEAST, MOST = 0.5, 4.0
"""Times its share of the capacity: a sensor that reads next to nothing frees no pack of its limit, and one
that reads nonsense in a frame moves little."""
MORE, LESS = 0.01, 0.03
"""A share in use follows one that was learnt when it is so much larger, or smaller: limits stand still for
less."""
MOST_SHARE = 1.25
"""More of the bank's current, because others give some of it, is no part of a current worth a limit."""
CHARGE, DISCHARGE = 0, 1


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the bank's current by cable, in one direction; empty: not learnt yet."""

    learnt: Mapping[str, float]
    used: Mapping[str, float]
    seen: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of the last samples, the newest last."""


UNKNOWN = Shares({}, {})


def by_capacity(capacity_mah: Mapping[str, int]) -> dict[str, float]:
    """Each pack's part of the capacity; equal parts where no capacity is set."""
    whole = sum(capacity_mah.values())
    return {cable: mah / whole if whole else 1 / len(capacity_mah) for cable, mah in capacity_mah.items()}


def in_use(
    shares: tuple[Shares, Shares], direction: int, capacity_mah: Mapping[str, int]
) -> dict[str, float]:
    """Each pack's share: of this direction, else of the other, else by capacity."""
    known = shares[direction].used or shares[1 - direction].used
    # A share of 0 was that of a pack without a capacity setting: with one it is as new.
    return {cable: known.get(cable) or part for cable, part in by_capacity(capacity_mah).items()}


def learn(
    shares: tuple[Shares, Shares],
    current_ma: Mapping[str, int | None],
    capacity_mah: Mapping[str, int],
    dt_s: float,
) -> tuple[Shares, Shares]:
    """What is known after ``dt_s`` seconds of these currents, of all packs at once.

    Nothing is learnt where a current is not known, or all together are small.
    """
    amounts = {cable: ma for cable, ma in current_ma.items() if ma is not None}
    total = sum(amounts.values())
    if len(amounts) < len(current_ma) or abs(total) <= LEAST_RATE * sum(capacity_mah.values()):
        return shares
    direction = CHARGE if total > 0 else DISCHARGE
    before, parts = in_use(shares, direction, capacity_mah), by_capacity(capacity_mah)
    known = shares[direction]
    slow, quick = (1 - math.exp(-dt_s / time_s) for time_s in (LEARN_S, RISE_S))
    learnt: dict[str, float] = {}
    used: dict[str, float] = {}
    seen: dict[str, tuple[float, ...]] = {}
    for cable, part in parts.items():
        now = min(max(amounts[cable] / total, LEAST * part), MOST * part, MOST_SHARE)
        old = known.learnt.get(cable, before[cable])
        seen[cable] = (*known.seen.get(cable, (old,) * AGREE), now)[-AGREE:]
        learnt[cable] = old + max(slow * (now - old), quick * (min(seen[cable]) - old))
        stays = (1 - LESS) * before[cable] < learnt[cable] < (1 + MORE) * before[cable]
        used[cable] = before[cable] if stays else learnt[cable]
    changed = Shares(learnt, used, seen)
    return (changed, shares[DISCHARGE]) if direction == CHARGE else (shares[CHARGE], changed)
