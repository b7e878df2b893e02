"""A capture as columns of numbers and kinds of reasons, for ``plot`` to draw.

Pure: lines in, columns out.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Sequence

from smartbms_protocol import Frame

from . import mirror
from .bank import Bank
from .configuration import Configuration
from .limits import Limits
from .pack import Pack
from .replay import Replay

START_S = 10.0
"""A start that takes longer is drawn."""


class PlotError(Exception):
    """There is no picture; the text says why."""


class Kinds:
    """Reasons by kind, which is what is left of them without their numbers: those change every second."""

    _NUMBER = re.compile(r"(\bcell )?(-?\d+(?:\.\d+)?)")

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._numbers: dict[str, list[str]] = {}
        """By kind; ``…`` is one that varied.  Which cell it was always counts as varying."""

    def kind(self, reason: str) -> str:
        """The kind of a reason."""
        kind = self._kinds.get(reason)
        if kind is None:
            kind = self._kinds[reason] = self._NUMBER.sub("\\1\0", reason)
            numbers = ["…" if cell else number for cell, number in self._NUMBER.findall(reason)]
            before = self._numbers.get(kind, numbers)
            self._numbers[kind] = [a if a == b else "…" for a, b in zip(before, numbers, strict=True)]
        return kind

    def label(self, kind: str) -> str:
        """A kind in words: numbers that never varied stay, clauses with one that did go."""
        numbers = iter(self._numbers[kind])
        text = re.sub("\0", lambda _: next(numbers), kind)
        clauses = re.split("(: |; |, )", re.sub(r" \([^)]*…[^)]*\)", "", text))
        steady = [
            (mark, clause)
            for mark, clause in zip(["", *clauses[1::2]], clauses[::2], strict=True)
            if "…" not in clause
        ]
        if steady:
            return steady[0][1] + "".join(mark + clause for mark, clause in steady[1:])
        begins = [
            re.split("(?: (?:to|from|of|under|over|at|in|for))? ?…", clause)[0] for clause in clauses[::2]
        ]
        return next(filter(None, reversed(begins)), text)


class Columns:
    """What a capture tells: a row for each frame, and wherever something changed without one.

    Times in s; V, A and % as they are drawn, NaN where nothing is known.
    """

    READINGS = ("highest", "lowest", "current", "soc", "counted")
    """Of the cells, the pack and the BMS, and the driver's own SoC: these have gaps in silence."""
    LIMITS = ("cvl", "ccl", "dcl")
    """CVL is that of a cell."""
    SETTINGS = ("Vmin", "Vlow", "Vbalance", "Vmax")
    WORDS = ("CVL", "CCL", "DCL", "state", "stopped")
    """The kinds of the reasons; bulk, absorption, float; which limits are 0."""

    def __init__(self) -> None:
        self.t = array("d")
        self.numbers = {name: array("d") for name in (*self.READINGS, *self.LIMITS, *self.SETTINGS)}
        self.words: dict[str, list[str | None]] = {name: [] for name in self.WORDS}
        self.begin = self.end = 0.0
        """Of the capture, which may have neither with a frame."""
        self.cells = self.frames = self.rejected = self.lines = self.damaged = 0
        """``rejected`` are damaged places in bytes, ``damaged`` are lines."""
        self.damage = ""
        """The first damaged line, and what is wrong with it."""

    def add(self, t: float, numbers: Iterable[float], words: Iterable[str | None]) -> None:
        """One row more; numbers and words in the order of the names."""
        self.t.append(t)
        for column, number in zip(self.numbers.values(), numbers, strict=True):
            column.append(number)
        for texts, word in zip(self.words.values(), words, strict=True):
            texts.append(word)


class _Watched(Bank):
    """A bank of which everything is written down."""

    def __init__(self, configuration: Configuration, columns: Columns, kinds: Sequence[Kinds]) -> None:
        super().__init__(configuration)
        self._columns, self._kinds = columns, kinds
        self._noted: tuple[Limits | None, bool] = (None, False)

    def take(self, cable: str, frame: Frame, now: float) -> None:
        """One valid frame; not noted when it is held back."""
        readings = self.pack(cable).readings
        frames = readings.frames
        super().take(cable, frame, now)
        if readings.frames != frames:
            self._note(now, silent=False)

    def tick(self, now: float) -> None:
        """A second went by; noted when it changed anything."""
        super().tick(now)
        silent = not self._packs_heard(now)
        if (self.limits, silent) != self._noted:
            self._note(now, silent=silent)

    def _packs_heard(self, now: float) -> list[Pack]:
        """The packs that frames come from."""
        return [
            pack
            for pack in self.members
            if pack.readings.age(now) <= mirror.GAP_INTERVALS * pack.readings.interval_s
        ]

    def _note(self, now: float, *, silent: bool) -> None:
        limits, packs = self.limits, [pack.readings for pack in self.members]
        known = [(readings, readings.frame) for readings in packs if readings.frame is not None]
        if not known or limits is None:
            return
        self._noted = limits, silent
        cells = self._columns.cells = known[0][1].cells
        packs_heard = self._packs_heard(now)
        heard = [pack.readings.frame for pack in packs_heard if pack.readings.frame is not None]
        currents = [frame.current_ma for frame in heard]
        readings = (
            max((frame.highest_mv for frame in heard), default=None),
            min((frame.lowest_mv for frame in heard), default=None),
            sum(ma for ma in currents if ma is not None) if currents and None not in currents else None,
        )
        socs = (
            _mean([mirror.soc(pack.readings) for pack in packs_heard]),
            _mean([pack.soc for pack in packs_heard]),
        )
        first, frame = known[0]
        settings = (frame.vmin_mv, first.pair("vlow_mv"), frame.vbalance_mv, frame.vmax_mv)
        numbers = (
            *(math.nan if silent or number is None else number / 1000 for number in readings),
            *(math.nan if silent or soc is None else soc for soc in socs),
            limits.cvl_mv / cells / 1000, limits.ccl_ma / 1000, limits.dcl_ma / 1000,
            *(mv / 1000 if mv else math.nan for mv in settings),  # 0 mV is a setting that is off
        )  # fmt: skip
        reasons = (limits.cvl_reason, limits.ccl_reason, limits.dcl_reason)
        why = (kinds.kind(reason) for kinds, reason in zip(self._kinds, reasons, strict=True))
        self._columns.add(now, numbers, (*why, limits.state, _stopped(limits)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _stopped(limits: Limits) -> str | None:
    if limits.lost:
        return "link lost"
    if not limits.ccl_ma:
        return "no charging" if limits.dcl_ma else "neither charging nor discharging"
    return None if limits.dcl_ma else "no discharging"


class _Walk(Replay):
    """``replay`` with such a bank."""

    def __init__(self, configuration: Configuration, columns: Columns, kinds: Sequence[Kinds]) -> None:
        super().__init__(configuration)
        self.bank = _Watched(configuration, columns, kinds)

    @property
    def at(self) -> float:
        """When the last line was."""
        return self._t or 0.0


def read(lines: Iterable[str], configuration: Configuration) -> Columns:
    """Walk lines through the driver.  Damaged ones are counted and change nothing; empty ones are none.

    Raises PlotError where there is no valid frame.
    """
    columns, kinds = Columns(), (Kinds(), Kinds(), Kinds())
    walk = _Walk(configuration, columns, kinds)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        answer = walk.answer(line)
        if "error" in answer:
            columns.damage = columns.damage or f"line {number}: {answer['error']}"
            columns.damaged += 1
        else:
            if columns.lines == columns.damaged:
                columns.begin = walk.at
            columns.end, columns.frames, columns.rejected = walk.at, answer["frames"], answer["rejected"]
        columns.lines += 1
    if not columns.t:
        raise PlotError("there is no valid frame in it" + (f"; {columns.damage}" if columns.damage else ""))
    _hold_on(columns)
    _forget_start(columns)
    for name, mine in zip(Columns.WORDS, kinds, strict=False):
        columns.words[name] = [word and mine.label(word) for word in columns.words[name]]
    return columns


def _hold_on(columns: Columns) -> None:
    """What is in force after the last row is so until the end."""
    if columns.end > columns.t[-1]:
        last = {name: column[-1] for name, column in columns.numbers.items()}
        last |= dict.fromkeys(Columns.READINGS, math.nan)
        columns.add(columns.end, last.values(), [words[-1] for words in columns.words.values()])


def _forget_start(columns: Columns) -> None:
    """Until a limit first lets something through it is the driver that starts, not the battery that stops."""
    stopped = enumerate(columns.words["stopped"])
    first = next((row for row, word in stopped if word in (None, "no charging", "no discharging")), 0)
    if columns.t[first] - columns.t[0] <= START_S:
        for name in Columns.LIMITS:
            columns.numbers[name][:first] = array("d", [math.nan] * first)
        for words in columns.words.values():
            words[:first] = [None] * first


# What of it is worth drawing
