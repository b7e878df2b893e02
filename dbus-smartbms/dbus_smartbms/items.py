"""The tables of items that the services show: what is on each path now, and what changed.

One loop creates the items, one update finds what changed; the rows are in ``paths.py``.  Knows nothing
of D-Bus, so tests compare ``{path: value}``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from .bank import Bank
from .paths import CELL_ROWS, ROWS, CellRow, Row, cell_celsius
from .views import Identity, Value, View, Whole, need

OF_A_PACK = tuple(row for row in ROWS if row.value)
"""The rows of a pack's service."""
JOINED = tuple(n for n, row in enumerate(OF_A_PACK) if row.join)
NUMBERED = tuple(n for n, row in enumerate(OF_A_PACK) if "{b}" in row.path)
"""Those of them that the battery's service joins, or has for each pack."""
OTHERS = tuple(n for n, row in enumerate(OF_A_PACK) if not row.join and "{b}" not in row.path)
OF_ALL = tuple(row for row in ROWS if row.whole)
LIVE_OF_ALL = tuple(row for row in OF_ALL if row.needs != "once")
Cells = dict[int, list[Value]]
"""What each row of ``CELL_ROWS`` has for a cell."""
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

    def values(self) -> dict[str, Value]:
        """Paths and values."""
        return {path: item.value for path, item in self.items.items()}

    def put(
        self, path: str, kind: str, text: str | Callable[[Any], str], value: Value, changed: dict[str, Item]
    ) -> None:
        """Show a value; ``changed`` gets the item if it is another one than before, or new."""
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

    def put_rows(
        self, rows: Iterable[int], values: Sequence[Value], number: int, changed: dict[str, Item]
    ) -> None:
        """Show rows of a pack, by their place in ``OF_A_PACK``; ``values`` are those of all rows."""
        for n in rows:
            row = OF_A_PACK[n]
            self.put(row.path.replace("{b}", str(number)), row.type, row.text, values[n], changed)

    def put_cells(
        self, cells: Cells, number: int, changed: dict[str, Item], *, only_numbered: bool = False
    ) -> None:
        """Show cells of a pack."""
        for index, row in enumerate(CELL_ROWS):
            if only_numbered and "{b}" not in row.path:
                continue
            path = row.path.replace("{b}", str(number))
            for cell, values in cells.items():
                self.put(path.replace("{c}", str(cell)), row.type, row.text, values[index], changed)

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


class PackItems(Items):
    """What there is to see of one pack: its service's table, and the values that the battery joins."""

    def __init__(self) -> None:
        super().__init__()
        self.view: View | None = None
        self.values_by_row: list[Value] = [None] * len(OF_A_PACK)
        self.cells: Cells = {}
        self._count = 0
        self._vbalance_mv: int | None = None
        self._seen: OrderedDict[int, float] = OrderedDict()
        """Cells by when they were last read, the oldest first."""
        self._shown: bool | None = False

    def look(self, view: View) -> tuple[set[int], Cells]:
        """Bring the values that the battery joins up to date; the rows and the cells that changed."""
        self.view = view
        rows = self._look_at((*JOINED, *NUMBERED), view)
        cells: Cells = {}
        if view.known is not None:
            self._look_at_cells(view, cells)
            self.cells.update(cells)
        return rows, cells

    def show(self, rows: Iterable[int], cells: Cells) -> dict[str, Item]:
        """Bring the table of the pack's service up to date; the items that changed."""
        changed: dict[str, Item] = {}
        view = self.view
        if view is None:
            return changed
        if not self.items:
            rows, cells = range(len(OF_A_PACK)), self.cells
        self.put_rows({*rows, *self._look_at(OTHERS, view)}, self.values_by_row, 1, changed)
        self.put_cells(cells, 1, changed)
        return changed

    def _look_at(self, numbers: Iterable[int], view: View) -> set[int]:
        """The rows whose values changed."""
        known, measured = view.known is not None, view.frame is not None
        changed, values = set(), self.values_by_row
        for n in numbers:
            row = OF_A_PACK[n]
            there = row.there(known=known, measured=measured)
            value = row.value(view) if there and row.value else None
            if value != values[n]:
                values[n] = value
                changed.add(n)
        return changed

    def _look_at_cells(self, view: View, changed: Cells) -> None:
        """Only the cells that were read, or whose readings are now too old, are worth a look."""
        frame, readings = need(view.known), view.readings
        cells: Iterable[int]
        everything = (frame.cells, frame.vbalance_mv, not view.lost)
        if everything != (self._count, self._vbalance_mv, self._shown):
            cells = range(1, max(frame.cells, self._count) + 1)
            self._count, self._vbalance_mv, self._shown = everything
        else:
            cells = set(readings.touched)
            while self._seen and next(iter(self._seen.values())) < view.stale_before:
                cells.add(self._seen.popitem(last=False)[0])
        for cell in cells:
            here = cell <= frame.cells and not view.lost
            changed[cell] = [
                row.value(view, cell) if here and _fresh(view, row, cell) else None for row in CELL_ROWS
            ]
            if here and cell in readings.touched:
                self._seen[cell] = readings.at or 0.0
                self._seen.move_to_end(cell)


class BankItems(Items):
    """The battery's service, and the tables of its packs behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.packs: dict[str, PackItems] = {}
        """By their cables."""
        self._order: list[str] = []
        """Of the packs that have sent a frame: their numbers are from 1."""
        self._begun = False
        self._members: list[str] = []
        """Those whose values are joined, and among them those that are heard."""

    def update(
        self,
        bank: Bank,
        identity: Identity,
        identities: Mapping[str, Identity],
        now: float,
        cables: Iterable[str] | None = None,
        shown: Collection[str] = (),
    ) -> tuple[dict[str, Item], dict[str, dict[str, Item]]]:
        """Bring every item up to date; those of the battery that changed, and those of ``shown`` packs.

        ``cables``: the packs that have changed, if not all.
        """
        changed: dict[str, Item] = {}
        changed_of: dict[str, dict[str, Item]] = {}
        order = [cable for cable, pack in bank.packs.items() if pack.limits is not None]
        before: dict[str, Value] = {}
        if order != self._order:
            before, cables = self._renumber(order, changed), None
        several, dirty = len(order) > 1, set[int]()
        merged = {pack.cable for pack in bank.members}
        for cable in order if cables is None else cables:
            if cable not in order:
                continue
            items, number = self.packs[cable], order.index(cable) + 1
            view = View(bank.packs[cable], identities.get(cable) or Identity(), now, merged=cable in merged)
            rows, cells = items.look(view)
            dirty |= rows
            self.put_rows(rows.intersection(NUMBERED), items.values_by_row, number, changed)
            self.put_cells(cells, number, changed, only_numbered=several)
            if cable in shown:
                changed_of[cable] = items.show(rows, cells)
        views = {cable: seen for cable in order if (seen := self.packs[cable].view)}
        self._show_whole(Whole(bank, identity, views), dirty, changed)
        for path, value in before.items():
            if value is not None and self.items[path].value == value:
                del changed[path]
        return changed, changed_of

    def _renumber(self, order: Sequence[str], changed: dict[str, Item]) -> dict[str, Value]:
        """Another pack has come: each may have another number now.  Gives what the numbered paths were."""
        self._order = list(order)
        self.packs = {cable: self.packs.get(cable) or PackItems() for cable in order}
        before: dict[str, Value] = {}
        for path, item in self.items.items():
            if (path.startswith(_NUMBERS) and path[9:10].isdigit()) or path.startswith(_OF_ONE):
                before[path] = item.value
                self.put(path, item.type, "", None, changed)
        for number, items in enumerate(self.packs.values(), 1):
            self.put_rows(NUMBERED, items.values_by_row, number, changed)
            self.put_cells(items.cells, number, changed, only_numbered=len(order) > 1)
        return before

    def _show_whole(self, whole: Whole, dirty: Iterable[int], changed: dict[str, Item]) -> None:
        known, measured = whole.limits is not None, bool(whole.heard)
        for row in LIVE_OF_ALL if self._begun else OF_ALL:
            there = row.there(known=known, measured=measured)
            value = row.whole(whole) if there and row.whole else None
            self.put(row.path, row.type, row.text, value, changed)
        self._begun = True
        members = [view.pack.cable for view in (*whole.members, *whole.heard)]
        numbers = set(dirty).intersection(JOINED)
        if members != self._members or not known:
            self._members, numbers = members, set(JOINED)
        for n in numbers:
            row = OF_A_PACK[n]
            self.put(row.path, row.type, row.text, self._joined(row, n, whole), changed)

    def _joined(self, row: Row, n: int, whole: Whole) -> Value:
        views = whole.heard if row.needs == "frame" else whole.members
        values = [self.packs[view.pack.cable].values_by_row[n] for view in views]
        if len(values) == 1:
            return values[0]
        return row.join(values) if values and row.join else None


_NUMBERS, _OF_ONE = "/Battery/", ("/Voltages/Cell", "/Temperatures/Cell", "/Balances/Cell")


def _fresh(view: View, row: CellRow, cell: int) -> bool:
    readings = view.readings.cell_raw if row.value is cell_celsius else view.readings.cell_mv
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
