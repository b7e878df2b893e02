"""Starts that did not end in order, in a small file in RAM: after too many the driver goes on carefully.

Times are of CLOCK_MONOTONIC, which all processes of one boot have in common.  A line is ``started S``, of
a driver that has not ended in order (yet), or ``restarted S``, of a start that followed such an end.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

RESTARTS, WINDOW_S = 3, 300.0
"""So many restarts within so long, first to last, are too many."""
CALM_S = 600.0
"""After so long a run they are forgotten."""
LARGEST = 4096
"""Bytes of the file: ours has four lines at most."""
_STARTED, _RESTARTED = "started", "restarted"


class Found(NamedTuple):
    """What a file holds."""

    restarts: tuple[float, ...] = ()
    """The earliest first."""
    unended: bool = False
    """The driver before this one did not end in order."""


def read(text: str, now: float) -> Found:
    """What a file's text says at ``now``.  Never raises.

    A line that is none counts as an end that was not in order: alone it is not too many.  One that
    is later than now is of another boot, whose end says nothing.
    """
    restarts, unended = [], False
    for line in text.splitlines():
        word, _, number = line.partition(" ")
        at = _seconds(number)
        if at is None or word not in (_STARTED, _RESTARTED) or (at <= now and word == _STARTED):
            unended = True
        elif at <= now:
            restarts.append(at)
    return Found(tuple(sorted(restarts)), unended)


def _seconds(text: str) -> float | None:
    try:
        at = float(text)
    except ValueError:
        return None
    return at if at >= 0 else None


def counted(found: Found, now: float) -> tuple[float, ...]:
    """The restarts that are to be remembered from a start at ``now`` on: ``RESTARTS`` of them are too many.

    They stay too many until the driver has run calmly, however long that takes it.
    """
    restarts = (*found.restarts, now) if found.unended else found.restarts
    for first in range(len(restarts) - RESTARTS + 1):
        some = restarts[first : first + RESTARTS]
        if some[-1] - some[0] <= WINDOW_S:
            return some
    return tuple(at for at in restarts if now - at <= WINDOW_S)


def _open(path: str, flags: int) -> int:
    """A pipe in its place would let the start wait."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


class Starts:
    """The file ``starts`` in a folder; what goes wrong with it is said once and stops nothing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "starts"
        self._restarts: tuple[float, ...] = ()
        self._at = 0.0
        self._said: str | None = None

    @property
    def too_many(self) -> bool:
        """Whether the driver was restarted too often, and has not run calmly since."""
        return len(self._restarts) >= RESTARTS

    def begin(self, now: float) -> None:
        """The driver starts: note that, and count."""
        found = read(self._text(), now)
        self._at, self._restarts = now, counted(found, now)
        self._write(running=True)

    def tick(self, now: float) -> None:
        """Time goes by: after a calm run all is forgotten."""
        if self.too_many and now - self._at >= CALM_S:
            self._restarts = ()
            self._write(running=True)

    def end(self) -> None:
        """The driver ends in order: its start is none to remember."""
        self._write(running=False)

    def _text(self) -> str:
        """What is in the file; anything that is no file of ours is damage."""
        try:
            with open(self._path, "rb", opener=_open) as file:
                data = file.read(LARGEST + 1) or b""
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"? {error}"
        return data.decode(errors="replace") if len(data) <= LARGEST else "?"

    def _write(self, *, running: bool) -> None:
        lines = [f"{_RESTARTED} {at:.3f}\n" for at in self._restarts]
        if running:
            lines.append(f"{_STARTED} {self._at:.3f}\n")
        new = self._path.with_name(self._path.name + ".new")
        try:
            if not lines:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text("".join(lines))
            new.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            text = f"{self._path.parent} cannot be written ({error.strerror}): restarts are not counted"
            if text != self._said:
                log.warning("%s", text)
            self._said = text
