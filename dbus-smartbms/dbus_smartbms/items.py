"""The table of items that a service shows: what is on each path now, and what changed.

One loop creates the items, one update finds what changed; the rows are in ``paths.py``.  Knows nothing
of D-Bus, so tests compare ``{path: value}``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from .paths import CELL_ROWS, ROWS, CellRow, Value, View, cell_celsius, need

LIVE = tuple(row for row in ROWS if row.needs != "once")
NO_VALUE_TEXT = "---"


def _text(value: Any) -> str:
    """A text that the bus can carry: it ends the connection of whoever sends a NUL or half a character."""
    return str(value).encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


_CASTS: dict[str, Callable[[Any], Any]] = {"d": float, "i": int, "s": _text}


class Item:
    """A path on the bus: its type (d, i, s), its value, its text, and who decides on writes."""

    __slots__ = ("always", "text", "type", "value", "write")

    def __init__(self, kind: str) -> None:
        self.type = kind
        self.value: Value = None
        self.text = NO_VALUE_TEXT
        self.write: Callable[[Any], bool] | None = None
        self.always = False
        """Whether it is asked for a value too that it shows already."""


class Items:
    """All items of a service, by path."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._cells = 0
        self._vbalance_mv: int | None = None
        self._seen: OrderedDict[int, float] = OrderedDict()
        """Cells by when they were last read, the oldest first."""
        self._shown: bool | None = False

    def values(self) -> dict[str, Value]:
        """Paths and values."""
        return {path: item.value for path, item in self.items.items()}

    def update(self, view: View) -> dict[str, Item]:
        """Bring every item up to date; returns those that changed."""
        changed: dict[str, Item] = {}
        known, measured = view.known is not None and view.limits is not None, view.frame is not None
        for row in LIVE if self.items else ROWS:
            there = measured if row.needs == "frame" else known or row.needs != "known"
            self._put(row.path, row.type, row.text, row.value(view) if there else None, changed)
        if known:
            self._update_cells(view, changed)
        return changed

    def forget_cells(self) -> None:
        """The next update looks at every cell: they are another pack's."""
        self._shown = None
        self._seen.clear()

    def _update_cells(self, view: View, changed: dict[str, Item]) -> None:
        """Only the cells that were read, or whose readings are now too old, are worth a look."""
        frame, pack = need(view.known), view.pack
        cells: Iterable[int]
        everything = (frame.cells, frame.vbalance_mv, not view.bank.lost)
        if everything != (self._cells, self._vbalance_mv, self._shown):
            cells = range(1, max(frame.cells, self._cells) + 1)
            self._cells, self._vbalance_mv, self._shown = everything
        else:
            cells = set(pack.touched)
            while self._seen and next(iter(self._seen.values())) < view.stale_before:
                cells.add(self._seen.popitem(last=False)[0])
        for cell in cells:
            here = cell <= frame.cells and not view.bank.lost
            for row in CELL_ROWS:
                fresh = here and _fresh(view, row, cell)
                value = row.value(view, cell) if fresh else None
                self._put(row.path.replace("{c}", str(cell)), row.type, row.text, value, changed)
            if here and cell in pack.touched:
                self._seen[cell] = pack.at or 0.0
                self._seen.move_to_end(cell)

    def _put(
        self, path: str, kind: str, text: str | Callable[[Any], str], value: Value, changed: dict[str, Item]
    ) -> None:
        item = self.items.get(path)
        if item is None:
            item = self.items[path] = changed[path] = Item(kind)
        cast = None if value is None else _CASTS[kind](value)
        if cast == item.value:
            return
        item.value = cast
        if cast is None:
            item.text = NO_VALUE_TEXT
        else:
            item.text = text(cast) if callable(text) else text.format(cast)
        changed[path] = item

    def write(self, path: str, value: Any) -> int:
        """SetValue: 0 accepted or equal, 1 not writeable or of the wrong type, 2 refused.

        Whoever accepts it changes what the row reads, so the next ``update`` announces it.
        """
        item = self.items[path]
        if item.write is None:
            return 1
        cast = _cast(item.type, value)
        if cast is None:
            return 1
        if cast == item.value and not item.always:
            return 0
        return 0 if item.write(cast) else 2


def _fresh(view: View, row: CellRow, cell: int) -> bool:
    readings = view.pack.cell_raw if row.value is cell_celsius else view.pack.cell_mv
    reading = readings[cell - 1]
    return reading is not None and reading.at >= view.stale_before


def _cast(kind: str, value: Any) -> Value:
    """A written value in the item's type, None when it is of another: text is not a number."""
    if kind == "s":
        return value if isinstance(value, str) else None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if kind == "i":
        return int(value) if value == int(value) and abs(value) < 2**31 else None
    return float(value)
