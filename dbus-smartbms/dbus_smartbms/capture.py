"""Captures: a line of JSON for each piece that was read from a cable; and the last minute of all cables.

The driver holds its ttys, so that no one else can record what comes: it keeps the last minute itself.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

RECENT_S = 60.0
MOST_BYTES = 1_000_000
"""Of memory, for a cable: a line full of garbage takes half of it in a minute, a BMS a tenth."""
PIECE_BYTES = 128
"""What a piece takes beside its bytes: two objects' heads, a time, a place in a queue."""


class Piece(NamedTuple):
    """What was read at once."""

    at: float
    data: bytes


def as_line(t: float, number: int, data: bytes) -> str:
    """A line that ``replay`` reads; cable 0 need not be said."""
    entry: dict[str, Any] = {"t": round(t, 3)}
    if number:
        entry["bms"] = number
    return json.dumps(entry | {"bytes": data.hex()}) + "\n"


class Recent:
    """The last minute of each cable's bytes, in memory that does not grow, whatever comes."""

    def __init__(self) -> None:
        self._cables: dict[str, _Cable] = {}

    def add(self, cable: str, data: bytes, now: float) -> None:
        """A piece that was just read."""
        kept = self._cables.get(cable)
        if kept is None:
            kept = self._cables[cable] = _Cable()
        kept.add(Piece(now, data))

    def pieces(self, now: float) -> dict[str, list[Piece]]:
        """Those of the last minute, of each cable from which there are any."""
        since = now - RECENT_S
        found = {
            cable: [piece for piece in kept.pieces if piece.at >= since]
            for cable, kept in self._cables.items()
        }
        return {cable: pieces for cable, pieces in found.items() if pieces}


class _Cable:
    def __init__(self) -> None:
        self.pieces: deque[Piece] = deque()
        self._size = 0

    def add(self, piece: Piece) -> None:
        pieces, since = self.pieces, piece.at - RECENT_S
        pieces.append(piece)
        self._size += len(piece.data) + PIECE_BYTES
        while pieces and (self._size > MOST_BYTES or pieces[0].at < since):
            self._size -= len(pieces.popleft().data) + PIECE_BYTES


def write(path: Path, cables: dict[str, list[Piece]], now: float) -> None:
    """Replace a file by a capture of these, whose second 60 is ``now``; cables are numbered in their order.

    Raises OSError when that cannot be done; the old file is then as it was.
    """
    begin = now - RECENT_S
    rows = [
        (piece.at, number, piece.data) for number, pieces in enumerate(cables.values()) for piece in pieces
    ]
    rows.sort(key=lambda row: row[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="ascii") as file:
            file.writelines(as_line(at - begin, number, data) for at, number, data in rows)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
