"""Bulk, absorption, float: how far a charge has come, and "charge to full".

Full is what the BMS calls full (all cells over Vbalance and little power), for a while and with level
cells, or for long; then CVL may come down to where a full pack rests.  Where the BMS ends the charge
itself, as in normal mode, that is full as well.

Time counts while frames come, so it needs no clock that outlives the driver.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from typing import NamedTuple

BULK, ABSORPTION, FLOAT = "bulk", "absorption", "float"
STAGES = (BULK, ABSORPTION, FLOAT)

LEAVE_MV = 50
"""Further under Vbalance absorption is over (the highest cell), or the BMS has not ended it (the lowest)."""
LOW_C = 0.05
"""C: a current that is no longer worth a higher voltage; 5 % of the capacity an hour (manual C)."""
LEVEL_MV = 20
"""Cells that differ by no more are level: the BMS reads a cell to 20 mV."""
STAYS_S = 60.0
"""What leads back to bulk has to last as long: a load, a late reading."""
LEVELLED_S = 4 * 3600.0
"""Absorption with level cells: time for all boards to bleed off a little, and for the BMS to call 100 %."""
TIME_UP_S = 8 * 3600.0
"""Full, but not level: 1 A of bleeding for so long is 0.7 % of 300 Ah; the next charge goes on with it."""
LONGEST_S = 24 * 3600.0
"""Absorption at a stretch at most: a cell that never gets there may leak."""
BACK_PERCENT = 5.0
"""So much less charge than when it was full: bulk again."""
BACK_MV = 100
"""The lowest cell so far under the float voltage, at rest: bulk again, whatever the SoC says."""
SPREAD_MV = 50
"""Cells so far apart in float: bulk again, to level them..."""
SPREAD_AFTER_S = 6 * 3600.0
"""...but not at once: an unlevel pack would never rest."""
AGAIN_S = 7 * 86400.0
"""Float at a stretch at most: a pack on shore power is levelled once a week."""
ENDED_S = 20.0
"""The BMS denies charging at the top for so long: it has ended the charge.  What else may have made it deny
(too cold, by status byte 2) has come round by then."""
ASKED_S = 86400.0
"""How long "charge to full" is tried."""


class Stage(NamedTuple):
    """What is remembered.  Seconds are seconds with frames."""

    name: str = BULK
    since_s: float = 0.0
    """In this stage."""
    soc: float | None = None
    """In %, when it became full."""
    ended: bool = False
    """The BMS ended the charge itself."""
    asked_s: float | None = None
    """For how long "charge to full" has been tried; None: it is not."""
    unfull_s: float = 0.0
    """Since the pack was full."""
    lasted_s: float = 0.0
    """For how long what ends this stage has been seen."""
    full_s: float = 0.0
    """Absorption: for how long the pack has been full, level or not."""
    denied_s: float = 0.0
    """Absorption: for how long the BMS has denied charging, since a frame with all cells at the top."""
    low_s: float = 0.0
    """Absorption: for how long no cell has been near the top."""

    def ask(self, *, on: bool) -> Stage:
        """With "charge to full" begun or ended; ended, the days until the next begin anew."""
        if on:
            return self._replace(asked_s=0.0)
        return self if self.asked_s is None else self._replace(asked_s=None, unfull_s=0.0)


class Look(NamedTuple):
    """What is looked at: mV a cell, mA, %."""

    highest_mv: int
    lowest_mv: int
    rest_mv: float
    """The lowest cell without its sag."""
    balance_mv: int
    full_mv: int
    """A pack is full with all cells over this: Vbalance, or a little under what CVL lets a cell have."""
    float_mv: int
    current_ma: int | None
    capacity_mah: int
    soc: float
    denied: bool
    """The BMS does not allow charging, and nothing critical is to be seen."""
    critical: bool
    """Charging is denied for a critical reason."""
    every_s: float | None = None
    """Charge to full by itself when it was not full for so long."""

    @property
    def little(self) -> bool:
        """Whether little current flows; a current that nobody measures does not delay float for ever."""
        return self.current_ma is None or abs(self.current_ma) <= LOW_C * self.capacity_mah

    @property
    def full(self) -> bool:
        """All cells at the top, and little current."""
        return self.lowest_mv > self.full_mv and self.little


def step(stage: Stage, look: Look, dt_s: float) -> Stage:
    """After a frame, ``dt_s`` after the one before."""
    stage = _wish(stage, look, dt_s)
    if stage.name == FLOAT:
        return _floating(stage, look, dt_s)
    if look.denied and stage.denied_s:
        return _denied(stage, look, dt_s)
    top = look.highest_mv >= look.balance_mv - (LEAVE_MV if stage.name == ABSORPTION else 0)
    if top:
        stage = _go(stage, ABSORPTION) if stage.name == BULK else stage._replace(low_s=0.0)
        return _absorbing(stage, look, dt_s)
    if stage.name == BULK:
        return stage
    stage = stage._replace(low_s=stage.low_s + dt_s)
    return _go(stage, BULK) if stage.low_s >= STAYS_S else stage


def _go(stage: Stage, name: str) -> Stage:
    return stage._replace(
        name=name, since_s=0.0, ended=False, lasted_s=0.0, full_s=0.0, denied_s=0.0, low_s=0.0
    )


def _wish(stage: Stage, look: Look, dt_s: float) -> Stage:
    """The time that passed; "charge to full" by itself, and its end after a day."""
    unfull_s, asked_s = stage.unfull_s + dt_s, stage.asked_s
    if asked_s is not None:
        asked_s += dt_s
        if asked_s >= ASKED_S:
            asked_s = None
            if look.every_s is not None:  # the next try a day later
                unfull_s = min(unfull_s, look.every_s - ASKED_S)
    elif look.every_s is not None and unfull_s >= look.every_s:
        asked_s = 0.0
    return stage._replace(since_s=stage.since_s + dt_s, unfull_s=unfull_s, asked_s=asked_s)


def _absorbing(stage: Stage, look: Look, dt_s: float) -> Stage:
    near = look.lowest_mv > look.balance_mv - LEAVE_MV
    if look.denied and near:
        return _denied(stage, look, dt_s)
    stage = stage._replace(denied_s=0.0)
    if look.full:  # a load between does not take back what was reached
        level = look.highest_mv - look.lowest_mv <= LEVEL_MV
        stage = stage._replace(full_s=stage.full_s + dt_s, lasted_s=stage.lasted_s + (dt_s if level else 0.0))
    done = stage.lasted_s >= LEVELLED_S or stage.full_s >= TIME_UP_S
    if done:
        return _full(stage, look)
    return _go(stage, FLOAT)._replace(soc=look.soc) if stage.since_s >= LONGEST_S else stage


def _denied(stage: Stage, look: Look, dt_s: float) -> Stage:
    """Without charging the cells fall: that they were at the top at its beginning is enough."""
    stage = stage._replace(denied_s=stage.denied_s + dt_s)
    return _full(stage, look)._replace(ended=True) if stage.denied_s >= ENDED_S else stage


def _full(stage: Stage, look: Look) -> Stage:
    return _go(stage, FLOAT)._replace(soc=look.soc, asked_s=None, unfull_s=0.0)


def _floating(stage: Stage, look: Look, dt_s: float) -> Stage:
    """Back by a wish, by what the BMS allows again, by SoC, lowest cell, spread or time."""
    if stage.asked_s is not None or (stage.ended and not (look.denied or look.critical)):
        return _go(stage, BULK)
    if stage.soc is not None:  # the BMS may call 100 % only now
        stage = stage._replace(soc=max(stage.soc, look.soc))
    spread = look.highest_mv - look.lowest_mv >= SPREAD_MV and stage.since_s >= SPREAD_AFTER_S
    back = (
        stage.soc is None
        or look.soc <= stage.soc - BACK_PERCENT
        or look.rest_mv <= look.float_mv - BACK_MV
        or spread
        or stage.since_s >= AGAIN_S
    )
    stage = stage._replace(lasted_s=stage.lasted_s + dt_s if back else 0.0)
    return _go(stage, BULK) if stage.lasted_s >= STAYS_S else stage
