"""Bytes in any pieces, frames out.

The wire has no header and no length: a frame is 58 bytes that ``frame.read`` accepts.  Damage is
weather here: it is counted, never raised.  No clock: whoever reads the line says when it was idle.
"""

from __future__ import annotations

import re
from collections import Counter

from .frame import Damage, Frame, read
from .layout import FIELDS, FRAME_SIZE, SIGNS

# Three sign bytes in place, found at the speed of the regular expression engine: a storm of noise
# costs next to nothing, and 58 bytes that have them are worth a closer look.
_ANY = [b"."] * FRAME_SIZE
for _field in FIELDS:
    if _field.signed:
        _ANY[_field.byte - 1] = b"[" + re.escape(SIGNS) + b"]"
_CANDIDATE = re.compile(b"(?=" + b"".join(_ANY) + b")", re.DOTALL)


class FrameStream:
    """Finds frames in a stream of bytes.  Never raises, holds at most 115 bytes between calls.

    ``frames`` counts frames found; ``damage`` counts damaged places by the kind of their
    beginning; ``skipped`` counts bytes that belong to no frame.

    A damaged frame and the beginning of an intact one can add up to 58 bytes that pass the
    checksum (1 in 256 do).  Such a window would swallow the intact frame, so the search goes on
    inside every frame that was found.  What overlaps a found frame is taken only if it carries the
    settings of the two frames before; an intact frame does, and shifted bytes do not.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.skipped = 0
        self.damage: Counter[Damage] = Counter()
        self._buffer = bytearray()
        self._free = 0  # bytes before this index belong to a frame already found
        self._border = -1  # the line was silent before the byte at this index; -1: nowhere in the buffer
        self._in_damage = False
        self._rare: tuple[int, ...] | None = None
        self._settled = False  # the last two frames had the same settings
        self._refused: tuple[int, ...] | None = None

    @property
    def rejected(self) -> int:
        """Damaged places so far: a run of bytes that belong to no frame counts once."""
        return self.damage.total()

    def feed(self, data: bytes, *, idle: bool = False) -> list[Frame]:
        """The frames that ``data`` completes, in order; often an empty list.

        ``idle`` says that the line was silent before ``data``.  It makes bytes from before and
        after the silence an unlikely frame, not an impossible one: a stalled reader sees
        silences that were none.
        """
        if idle:
            self._border = len(self._buffer)
        self._buffer += data
        found: list[Frame] = []
        position = 0
        last = len(self._buffer) - FRAME_SIZE
        while position <= last:
            match = _CANDIDATE.search(self._buffer, position)
            begin = match.start() if match else last + 1
            self._skip(position, begin, Damage.SIGNS)
            position = begin
            if match is None:
                break
            result = read(bytes(self._buffer[begin : begin + FRAME_SIZE]))
            if isinstance(result, Damage):
                self._skip(begin, begin + 1, result)
            elif self._doubted(result, begin):
                self._skip(begin, begin + 1, Damage.INCONSISTENT)
            else:
                found.append(result)
                self._found(result, begin + FRAME_SIZE)
            position += 1
        del self._buffer[:position]
        self._free = max(0, self._free - position)
        self._border = max(-1, self._border - position)
        return found

    def _doubted(self, frame: Frame, begin: int) -> bool:
        """Whether a window that is hardly a frame by its place is none by its settings either.

        A silence inside it may have been none: the second that brings the same settings is believed.
        """
        if not self._settled or frame.rare == self._rare:
            return False
        if begin < self._free:
            return True
        if begin < self._border < begin + FRAME_SIZE and frame.rare != self._refused:
            self._refused = frame.rare
            return True
        return False

    def _found(self, frame: Frame, end: int) -> None:
        self.frames += 1
        self._settled = frame.rare == self._rare
        self._rare = frame.rare
        self._free = end
        self._in_damage = False

    def _skip(self, begin: int, end: int, kind: Damage) -> None:
        """Count bytes that belong to no frame, and the place once, where the damage begins.

        A silence ends a damaged place: what comes after it, if it is damaged, is another.
        """
        begin = max(begin, self._free)
        if begin < self._border < end:
            self._skip(begin, self._border, kind)
            begin = self._border
        if begin >= end:
            return
        self.skipped += end - begin
        if not self._in_damage or begin == self._border:
            self._in_damage = True
            self.damage[kind] += 1
