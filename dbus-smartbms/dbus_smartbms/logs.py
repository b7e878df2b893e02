"""The log: lines on standard error that never wait for whoever reads them.

On a GX standard error is a pipe to multilog, which stands still while its disk is full.  A driver that
waited for it would leave its limits frozen on the bus; so a line that finds no room is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path


def descriptor() -> int:
    """Standard error; where it is a pipe, opened anew so that writing never blocks."""
    pipe = Path("/proc/self/fd/2")
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK) if pipe.is_fifo() else 2
    except OSError:
        return 2


class _Lines(logging.Handler):
    """Writes a line, or loses it."""

    def __init__(self) -> None:
        super().__init__()
        self._descriptor = descriptor()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line.encode(errors="replace"))


def start(level: str) -> None:
    """Log from ``level`` (a name) on."""
    logging.basicConfig(handlers=[_Lines()], level=level.upper(), format="%(levelname)s %(message)s")
