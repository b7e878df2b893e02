"""What is known of a pack: the newest of each reading, and how old it is.

Frames in, readings out.  No I/O and no clock: ``now`` is an argument, in seconds of any monotonic
clock.  How old is too old is for the reader to say; here is only when a reading was taken.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from . import layout
from .frame import Frame
from .layout import PAIRS, Pair


class Reading(NamedTuple):
    """A value and when it was read.  A value of 0 is a measurement; None is "not known"."""

    value: int | None
    at: float


class Taken(Enum):
    """What became of a frame."""

    WHOLE = "whole"
    HELD = "held"
    """It differs in what rarely changes; it waits for the next frame to say the same."""


ROUND_S = 5.0
"""Bytes of one value come from one round if they are no further apart than this: they follow each
other within 0.5 to 2 s, and the next round is at least 19 x 0.5 = 9.5 s later."""

_BY_KEY = {key: pair for pair in PAIRS for key in pair.keys}
_INTERVALS = ((0.3, 0.75, 0.5), (0.75, 1.5, 1.0))
"""Gaps between frames (from, below) that speak for an interval.  Shorter ones come from a reader
that was late, longer ones from lost frames."""
_AGREEING_GAPS = 3


class PackState:
    """The newest readings of one pack.  Everything is None until it was seen.

    Frames are taken whole or not at all.  One that differs from the confirmed ones in the number of
    cells, the capacity or a setting is held back until the next brings the same, because a
    person changes these once a year and noise every day; ``frame`` stays what it was meanwhile.
    """

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.at: float | None = None
        """When ``frame`` was taken."""
        self.held: Frame | None = None
        """The last frame, if it was held back: nothing of it counts but that it denies."""
        self.frames = 0
        self.interval_s = 1.0
        """Seconds between frames: 1.0, or 0.5 with the "fast message" switch of older boards."""
        self.touched: set[int] = set()
        """Cells that the last frame brought a reading of."""
        self._gap_votes = [0.0] * _AGREEING_GAPS
        self._forget()

    def _forget(self) -> None:
        cells = self.frame.cells if self.frame else 0
        self.cell_mv: list[Reading | None] = [None] * cells
        """Per cell (cell 1 at index 0): the newest voltage."""
        self.cell_raw: list[Reading | None] = [None] * cells
        """Per cell: the newest temperature, raw, that was not its balancing board's."""
        self.pairs: dict[str, Reading] = {}
        """Values of the rotating keys by their name in ``layout.PAIRS``, once whole."""
        self._parts: dict[str, list[Reading]] = {}
        self._doubted: dict[str, int] = {}

    @property
    def confirmed(self) -> bool:
        """Whether two frames have said the same cells, capacity and settings."""
        return self.frames >= 2

    @property
    def round_s(self) -> float:
        """Seconds until every cell's turn has come once more."""
        return self.interval_s * (self.frame.cells if self.frame else 0)

    @property
    def pairs_round_s(self) -> float:
        """Seconds until every rotating key's turn has come once more."""
        return self.interval_s * layout.KEYS

    def age(self, now: float) -> float:
        """Seconds since the last frame that was taken; infinite before the first."""
        return float("inf") if self.at is None else now - self.at

    def pair(self, name: str, now: float | None = None) -> int | None:
        """The newest value of a rotating pair; with ``now``, only if it is at most 3 rounds old."""
        reading = self.pairs.get(name)
        if reading is None or (now is not None and now - reading.at > 3 * self.pairs_round_s):
            return None
        return reading.value

    def balancing(self, cell: int) -> bool | None:
        """Whether a cell (from 1) is over Vbalance, so that its board bleeds; None: not known.

        Raises ValueError for a cell that the pack does not have.
        """
        if not 1 <= cell <= len(self.cell_mv):
            raise ValueError(f"there is no cell {cell}")
        reading, frame = self.cell_mv[cell - 1], self.frame
        if reading is None or reading.value is None or frame is None:
            return None
        return 0 < frame.vbalance_mv < reading.value

    def take(self, frame: Frame, now: float) -> Taken:
        """Take a valid frame, or hold it back.  Never raises for anything a frame can hold."""
        if self.frame is not None and frame.rare != self.frame.rare:
            agreed = self.held is not None and self.held.rare == frame.rare
            if not agreed:
                self.held = frame
                return Taken.HELD
        changed = self.frame is not None and frame.cells != self.frame.cells
        self._learn_interval(now)
        self.frame, self.at, self.held = frame, now, None
        self.frames += 1
        if changed or not self.cell_mv:
            self._forget()
        self._take_cells(frame, now)
        self._take_pair(frame, now)
        return Taken.WHOLE

    def _learn_interval(self, now: float) -> None:
        for least, below, interval in _INTERVALS:
            if least <= self.age(now) < below:
                self._gap_votes = [*self._gap_votes[1:], interval]
                if self._gap_votes.count(interval) == _AGREEING_GAPS:
                    self.interval_s = interval

    def _take_cells(self, frame: Frame, now: float) -> None:
        """Join the cell whose turn it is with the extremes, which name theirs in every frame."""
        self.touched = set()
        for cell, millivolts in (
            (frame.cell, frame.cell_mv),
            (frame.lowest_cell, frame.lowest_mv),
            (frame.highest_cell, frame.highest_mv),
        ):
            if cell:
                self.cell_mv[cell - 1] = Reading(millivolts, now)
                self.touched.add(cell)
        for cell, raw in (
            (frame.cell, frame.cell_raw),
            (frame.hottest_cell, frame.hottest_raw),
            (frame.coldest_cell, frame.coldest_raw),
        ):
            # A bleeding board heats its sensor.  The coldest reading is never that of a hot board
            # in a pack where another is cooler, but when all bleed it is: the same rule for all.
            if cell and not frame.may_balance(cell):
                self.cell_raw[cell - 1] = Reading(raw, now)
                self.touched.add(cell)

    def _take_pair(self, frame: Frame, now: float) -> None:
        pair = _BY_KEY.get(frame.key) if frame.key is not None else None
        if pair is None:  # no pair, or the key of a newer firmware
            return
        index = pair.keys.index(frame.key or 0)
        parts = [] if index == 0 else self._parts.get(pair.name, [])
        if len(parts) != index or (parts and now - parts[0].at > ROUND_S):
            self._parts.pop(pair.name, None)
            return
        parts = [*parts, Reading(frame.value, now)]
        self._parts[pair.name] = parts
        if len(parts) == len(pair.keys):
            counts = int.from_bytes(bytes(part.value or 0 for part in parts), "big")
            self._take_counts(pair, counts, now)

    def _take_counts(self, pair: Pair, counts: int, now: float) -> None:
        value = None if pair.known is not None and counts > pair.known else counts * pair.step
        known = self.pairs.get(pair.name)
        differs = pair.rare and known is not None and value != known.value
        if differs and self._doubted.get(pair.name) != counts:
            self._doubted[pair.name] = counts  # a setting: the next round has to say the same
            return
        self._doubted.pop(pair.name, None)
        self.pairs[pair.name] = Reading(value, now)
