"""Facts that people are told of: the five lights, status byte 2, a lost link.

One fact is raised on one path only, and debounced, because every change to a non-zero value opens a
notification on the GX.  Limits do not wait for any of this: they act in the same frame.

Levels are Victron's: 0 none, 1 warning, 2 alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from smartbms_protocol import PackState, layout

RAISE_FRAMES = 3
"""Frames in a row that have to show a fact before it is raised."""
CLEAR_FRAMES = 5
"""Frames in a row without it before it is cleared: longer, so that it does not flutter."""


ROUND_FRAMES = layout.KEYS + 1
"""Frames in which status byte 2 comes round: it may yet say which direction it is too cold for."""


class Alarm(NamedTuple):
    """A row: the path below /Alarms, the level, when it holds, where it comes from."""

    path: str
    level: int
    holds: Callable[[int, int | None], bool]
    """Given status byte 1 and, where it is known and fresh, status byte 2."""
    source: str


_DIRECTIONS = layout.TOO_COLD_TO_CHARGE | layout.TOO_COLD_TO_DISCHARGE


def _cold_for_charging_only(status: int, status2: int | None) -> bool:
    return bool((status2 or 0) & layout.TOO_COLD_TO_CHARGE) and not _cold(status, status2)


def _cold(status: int, status2: int | None) -> bool:
    """Too cold for both; where status byte 2 names the direction, its word counts, not the light."""
    if status2 is not None and status2 & _DIRECTIONS:
        return bool(status2 & layout.TOO_COLD_TO_DISCHARGE)
    return bool(status & layout.UNDER_TMIN)


ROWS = (
    Alarm("LowCellVoltage", 2, lambda s, _: bool(s & layout.UNDER_VMIN), "status byte 1 bit 3 (Vl)"),
    Alarm("HighCellVoltage", 2, lambda s, _: bool(s & layout.OVER_VMAX), "status byte 1 bit 4 (Vh)"),
    Alarm("LowTemperature", 2, _cold, "status byte 1 bit 5 (Tl), status byte 2 bit 3"),
    Alarm("LowChargeTemperature", 2, _cold_for_charging_only, "status byte 2 bit 2 without bit 3"),
    Alarm("HighTemperature", 2, lambda s, _: bool(s & layout.OVER_TMAX), "status byte 1 bit 6 (Th)"),
    Alarm(
        "InternalFailure",
        1,
        lambda _, s2: bool((s2 or 0) & layout.EARLY_WARNING),
        "status byte 2 bit 1 (early warning); 2: settings of the BMS that make no sense",
    ),
    Alarm(
        "BmsCable",
        2,
        lambda s, _: bool(s & layout.NO_COMMUNICATION),
        "status byte 1 bit 2 (E); no frames: 1 after hold_s, 2 when DCL is 0",
    ),
)


@dataclass
class Alarms:
    """The debounced facts of a pack: ``levels`` by path; counts of alarms since the start."""

    levels: dict[str, int] = field(default_factory=lambda: {row.path: 0 for row in ROWS})
    raised: dict[str, int] = field(default_factory=lambda: {row.path: 0 for row in ROWS})
    """How often each was raised."""
    _runs: dict[str, int] = field(default_factory=dict)
    """Frames in a row that speak against the level in force."""

    def frame(self, pack: PackState, now: float, *, wrong: bool = False) -> None:
        """Judge the frame that was taken last; ``wrong``: settings of the BMS make no sense."""
        if pack.frame is None:
            return
        status, status2 = pack.frame.status, pack.pair("status2", now)
        for row in ROWS:
            level = row.level if row.holds(status, status2) else 0
            if wrong and row.path == "InternalFailure":
                level = 2
            frames = RAISE_FRAMES if level else CLEAR_FRAMES
            if level and row.path == "LowTemperature" and status2 is not None and not status2 & _DIRECTIONS:
                frames = ROUND_FRAMES
            self._debounce(row.path, level, frames)

    def silence(self, *, lost: bool, spent: bool) -> None:
        """The link is lost: the cable's alarm at once (it waited long enough), the rest stays."""
        if lost:
            self._set("BmsCable", max(2 if spent else 1, self.levels["BmsCable"]))
            self._runs["BmsCable"] = 0

    def heard(self, pack: PackState) -> None:
        """The link is back: its alarm goes with the first frame, unless that one brings the light E."""
        if pack.frame is not None and not pack.frame.has(layout.NO_COMMUNICATION):
            self.levels["BmsCable"] = 0

    def _debounce(self, path: str, level: int, frames: int) -> None:
        if level == self.levels[path]:
            self._runs[path] = 0
            return
        self._runs[path] = self._runs.get(path, 0) + 1
        if self._runs[path] >= frames:
            self._set(path, level)
            self._runs[path] = 0

    def _set(self, path: str, level: int) -> None:
        if level and not self.levels[path]:
            self.raised[path] += 1
        self.levels[path] = level
