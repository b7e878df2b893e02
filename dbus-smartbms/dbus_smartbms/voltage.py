"""CVL: the pack voltage that keeps the highest cell where it belongs, by itself.

Chargers regulate at their own terminals, read a limit every 3 s, and under DC feed-in look at CVL alone and
hold up to 0.4 V more.  So CVL comes down in steps, one for each time a charger needs to follow, until the
cell obeys: what is remembered is the voltage that was asked for, never above the present one on the way
down, so nothing winds up.  Up it goes rarely, in small steps; but after a time without charging, back to
where it was, if no cell asked for less meanwhile.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

SETTLE_S = 6.0
"""What a step needs to show: systemcalc hands on every 3 s, a charger's lag, a frame."""
RISE_S = 300.0
"""Before a step upwards: slower than cells follow, so nothing is chased."""
LONGEST_RISE_S = 600.0
"""After one that had to be taken back; and before one that is near the target."""
AHEAD_S = 6.0
"""How far the highest cell's rise is looked ahead: what a step needs to show."""
AHEAD_MV = 15
"""One frame, and a rise that is looked ahead, count by so much less: noise of two counts is neither."""
AGREE = 3
"""Frames that have to agree on a little."""
PLAY_MV = 5
"""A cell over its target by one count of the wire moves nothing."""
RELEASE_MV = 15
"""So far under its target the highest cell has to stay before CVL rises again."""
RISE_MV = 5
"""mV a cell: a step upwards."""
CREEP_MV = 2
"""mV a cell: the last steps of level cells near their target; in NMC 10 mV are 2 % of the charge."""
LEVEL_MV = 20
"""Cells that differ by no more rise together; else all of a step would go to the highest."""
MOST_MV = 30
"""mV a cell: a step down at most.  More of them follow if need be; one too deep would sell the battery."""
LIES_MV = MOST_MV
"""A cell so far over its target is not one of a pack that is discharged, whatever the sensor says."""
BLOCK_MV = 10
"""mV a cell: a step down against a current that should not flow, and up again."""
SEEN = 5
"""Frames that are remembered of the highest cell."""


class Cells(NamedTuple):
    """What the law looks at."""

    cells: int
    voltage_mv: int
    highest_mv: int
    target_mv: int
    """For the highest cell."""
    top_mv: int
    """For the pack: CVL is never over it."""
    floor_mv: int
    """CVL is never under it."""
    interval_s: float
    current_ma: int | None
    flow_ma: int
    """So much counts as a current: sensors have blind spots."""
    spread_mv: int
    """Between the highest and the lowest cell."""

    @property
    def flows_in(self) -> bool:
        """Whether the pack is charged, as far as its sensor tells."""
        return self.current_ma is not None and self.current_ma > self.flow_ma

    @property
    def flows_out(self) -> bool:
        """The same of discharging."""
        return self.current_ma is not None and self.current_ma < -self.flow_ma


class Held(NamedTuple):
    """What is remembered of CVL."""

    cvl_mv: float | None = None
    """What was asked for; None: nothing holds it down."""
    moved_at: float = float("-inf")
    over_mv: float = 0.0
    """How far the cell was over its target when CVL came down last; 0: CVL went up last."""
    wait_s: float = RISE_S
    """Before the next step upwards."""
    highest_mv: tuple[int, ...] = ()
    """Of the last frames, the newest last."""
    before_mv: float | None = None
    """CVL when charging was stopped, or what the cells have asked for since; None: it is not stopped."""
    began_mv: float | None = None
    """What CVL went to when charging was stopped: a sensor that lies lifts it one step over that at most."""

    def within(self, look: Cells) -> tuple[Held, float]:
        """What is remembered, between the bounds of now (a frame can bring other settings); and CVL."""
        if self.cvl_mv is None or self.cvl_mv >= look.top_mv:
            return self._replace(cvl_mv=None), float(look.top_mv)
        cvl = max(self.cvl_mv, float(look.floor_mv))
        return self._replace(cvl_mv=cvl), cvl

    def stopped(self, look: Cells, *, over: bool) -> Held:
        """Charging stops; CVL will come back to where it was, or to where it is with a cell ``over``."""
        held, cvl = self.within(look)
        before = cvl if held.before_mv is None else held.before_mv
        return held._replace(before_mv=min(before, cvl) if over else before)

    def back(self, look: Cells) -> Held:
        """Charging goes on; nothing comes back under a cell that is over its target."""
        if self.before_mv is None:
            return self
        calm = look.highest_mv <= look.target_mv
        cvl = max(self.cvl_mv, self.before_mv) if calm and self.cvl_mv is not None else self.cvl_mv
        return self._replace(cvl_mv=cvl, before_mv=None, began_mv=None)

    def saw(self, highest_mv: int) -> Held:
        """With one more frame."""
        return self._replace(highest_mv=(*self.highest_mv, highest_mv)[-SEEN:])


def soon_mv(seen: tuple[int, ...], interval_s: float) -> float:
    """Where the highest cell will be when a step has shown, if it goes on rising; less a noise's worth."""
    newest, rise = seen[-1], 0.0
    if len(seen) == SEEN:  # one step is a load that ended, a silence, a cell that was not heard: no rise
        steps = [after - before for before, after in pairwise(seen)]
        rise = max(0, sum(steps) - max(steps)) / (interval_s * len(steps))
    return newest + rise * AHEAD_S - AHEAD_MV


def over_mv(seen: tuple[int, ...], target_mv: int, interval_s: float) -> float:
    """How far the highest cell is over its target, or soon will be; negative: under it.

    Some frames have to agree on a little; one is enough for a lot, and a rise that goes on is looked ahead.
    """
    soon = soon_mv(seen, interval_s)
    return (max(min(seen[-AGREE:]), soon) if len(seen) >= AGREE else soon) - target_mv


def _down(held: Held, now: float, cvl: float, over: float) -> tuple[Held, float]:
    """A step down; one that takes back a step up makes the next one wait longer."""
    back = held.over_mv == 0 and now - held.moved_at < 2 * held.wait_s
    wait_s = LONGEST_RISE_S if back else held.wait_s
    return held._replace(cvl_mv=cvl, moved_at=now, over_mv=over, wait_s=wait_s), cvl


def _up(held: Held, now: float, cvl: float) -> tuple[Held, float]:
    """A step up; one that follows another waits less the next time."""
    wait_s = RISE_S if held.over_mv == 0 else held.wait_s
    return held._replace(cvl_mv=cvl, moved_at=now, over_mv=0.0, wait_s=wait_s), cvl


def _lower(held: Held, now: float, look: Cells, cvl: float, over: float) -> tuple[Held, float]:
    """A step down for a cell ``over`` its target, when the last one had its time or the cell runs away.

    Where nothing says that current flows in, the sensor may be blind, dead or stuck: then to one step under
    the present voltage, which few chargers charge at, and no further, for that would sell the battery.  A
    cell that runs away although CVL came down says that current flows; before that step had its time, two
    steps under the present voltage are enough.
    """
    came_down = bool(held.over_mv)
    soon = soon_mv(held.highest_mv, look.interval_s) - look.target_mv
    runs_away = came_down and soon > held.over_mv + PLAY_MV
    waited = not came_down or abs(now - held.moved_at) >= SETTLE_S
    if not waited and not runs_away:
        return held, cvl
    present, least = float(max(look.voltage_mv, look.floor_mv)), float(look.floor_mv)
    if not (waited and (look.flows_in or runs_away)):
        steps = 2 if runs_away else 1
        least = max(least, present - steps * look.cells * MOST_MV)
    asked = max(min(cvl, present) - look.cells * min(over, MOST_MV), least)
    return _down(held, now, asked, over) if asked < cvl else (held, cvl)


def hold(held: Held, now: float, look: Cells) -> tuple[Held, float]:
    """What is remembered, and CVL, after a frame while charging is allowed.

    Not down while the pack is discharged: a cell that is a little over its target and bleeds needs no lower
    voltage.
    """
    held, cvl = held.back(look).saw(look.highest_mv).within(look)
    over = over_mv(held.highest_mv, look.target_mv, look.interval_s)
    if over > PLAY_MV:
        bleeds = look.flows_out and over <= LIES_MV
        return (held, cvl) if bleeds else _lower(held, now, look, cvl, over)
    under, waited_s = look.target_mv - max(held.highest_mv), now - held.moved_at
    if under >= RELEASE_MV and waited_s >= held.wait_s:
        step = max(RISE_MV, (under - RELEASE_MV) / 2)
    elif under >= PLAY_MV and look.spread_mv <= LEVEL_MV and waited_s >= LONGEST_RISE_S:
        step = CREEP_MV
    else:
        return held, cvl
    return (held, cvl) if cvl >= look.top_mv else _up(held, now, min(cvl + look.cells * step, look.top_mv))


def block(held: Held, now: float, look: Cells, *, begins: bool) -> tuple[Held, float]:
    """The same while charging is not allowed, for chargers that look at nothing but CVL.

    At the present voltage when it ``begins``, down while current flows in, slowly up while it flows
    out; and down to what the highest cell needs, unless the pack is being discharged.
    """
    held, cvl = held.saw(look.highest_mv).within(look)
    present = float(max(look.voltage_mv, look.floor_mv))
    over = over_mv(held.highest_mv, look.target_mv, look.interval_s)
    enough = over <= PLAY_MV or (look.flows_out and over <= LIES_MV)
    held = held.stopped(look, over=over > PLAY_MV)
    began = min(cvl, present) if held.began_mv is None else held.began_mv
    held = held._replace(began_mv=began)
    if begins:
        asked = min(cvl, present) - (0 if enough else look.cells * min(over, MOST_MV))
        return _down(held, now, max(asked, float(look.floor_mv)), max(BLOCK_MV, over))
    # Without a sensor a pack above CVL is one that is being charged.
    if look.flows_in or not enough or (look.current_ma is None and look.voltage_mv > cvl):
        return _lower(held, now, look, cvl, max(BLOCK_MV, over))
    most = min(present, began + look.cells * MOST_MV)
    if look.flows_out and cvl < most and now - held.moved_at >= held.wait_s:
        return _up(held, now, min(cvl + look.cells * BLOCK_MV, most))
    return held, cvl
