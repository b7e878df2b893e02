"""What the lowest cell is without its load: a dip under a load is not emptiness.

A cell's voltage falls at once with the current, and comes back with it.  A limit that follows the raw
voltage lets less through, sees the cell recover, lets more through, and so on.  So how far a cell
sags for each ampere is learnt from steps of the current, and the limits go by the cell at rest.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from smartbms_protocol import Frame

USUAL_MV_C = 100
"""mV a cell and C: what a cell and its connections drop, until it was seen; rather much."""
LEAST, MOST = 0.5, 4.0
"""Of the usual: what may be learnt.  A weak cell in the cold has some four times the resistance."""
SAFETY = 1.4
"""A step shows what sags at once; about as much again comes in the minutes after it (its RC part)."""
SHARE = 0.3
"""Of what a step shows that is taken over."""
STEP_C = 0.05
"""C: a smaller change of the current says nothing, for a reading has steps of 5 mV."""
EMPTY_MV = 10
"""So near Vmin, in three frames, the pack is empty: two steps of the wire before the BMS opens its relay."""
EMPTY_S = 120
"""Before an empty pack counts as recovered: at rest it looks fuller than it is."""
CHARGED_S = 30
"""The same while it is being charged."""
SEEN = 3


class Lowest(NamedTuple):
    """What is remembered of the lowest cell."""

    mv_a: float = 0.0
    """How far it sags for each A; 0 until the capacity is known."""
    current_ma: int | None = None
    cell: int | None = None
    seen_mv: tuple[int, ...] = ()
    """Of the last frames, the newest last."""
    empty_since: float | None = None

    def rest_mv(self, lowest_mv: int, current_ma: int | None) -> float:
        """A voltage without what the current takes from it."""
        return lowest_mv if current_ma is None else lowest_mv + max(0, -current_ma) * self.mv_a / 1000


def follow(
    lowest: Lowest,
    frame: Frame,
    vmin_mv: int,
    capacity_mah: int,
    recovered_mv: int,
    flow_ma: int,
    now: float,
) -> Lowest:
    """After a frame.

    A cell is empty at ``vmin_mv``; that is over from ``recovered_mv`` on, or with a charge current over
    ``flow_ma``.
    """
    seen = (*lowest.seen_mv, frame.lowest_mv)[-SEEN:]
    return Lowest(
        mv_a=_learnt(lowest, frame, capacity_mah),
        current_ma=frame.current_ma,
        cell=frame.lowest_cell,
        seen_mv=seen,
        empty_since=_empty(lowest.empty_since, seen, frame, vmin_mv, recovered_mv, flow_ma, now),
    )


def _learnt(lowest: Lowest, frame: Frame, capacity_mah: int) -> float:
    if not capacity_mah:
        return lowest.mv_a
    usual = USUAL_MV_C * 1000 / capacity_mah
    mv_a = min(max(lowest.mv_a, LEAST * usual), MOST * usual) if lowest.mv_a else usual
    if lowest.current_ma is None or frame.current_ma is None or lowest.cell != frame.lowest_cell:
        return mv_a
    change_ma = frame.current_ma - lowest.current_ma
    if abs(change_ma) < STEP_C * capacity_mah:
        return mv_a
    shown = SAFETY * (frame.lowest_mv - lowest.seen_mv[-1]) * 1000 / change_ma
    return mv_a + SHARE * (min(max(shown, LEAST * usual), MOST * usual) - mv_a)


def _empty(
    since: float | None,
    seen: tuple[int, ...],
    frame: Frame,
    vmin_mv: int,
    recovered_mv: int,
    flow_ma: int,
    now: float,
) -> float | None:
    if len(seen) == SEEN and max(seen) <= vmin_mv + EMPTY_MV:
        return now
    if since is None:
        return None
    charged = frame.current_ma is not None and frame.current_ma > flow_ma and now - since > CHARGED_S
    recovered = frame.lowest_mv >= recovered_mv and now - since > EMPTY_S
    return None if charged or recovered else since
