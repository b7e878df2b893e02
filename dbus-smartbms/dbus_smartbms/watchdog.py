"""Ends the process when its event loop hangs, so that the supervisor starts it again.

A hung driver is the worst case: its old limits would stand for ever.  The kernel's alarm clock runs
outside the process, knows nothing of wall-clock jumps, and needs no thread.  When it
rings, the stack of where the loop hung goes to the log, and the process ends by SIGALRM.
"""

from __future__ import annotations

import faulthandler
import signal

from . import logs

PATIENCE_S = 20.0
"""How long the event loop may be silent."""


def start(patience_s: float = PATIENCE_S) -> None:
    """Arm the watchdog; ``pat`` it at least every ``patience_s`` from now on."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.register(signal.SIGALRM, file=logs.descriptor(), chain=True)
    pat(patience_s)


def pat(patience_s: float = PATIENCE_S) -> None:
    """The loop is alive: wind the clock up again."""
    signal.setitimer(signal.ITIMER_REAL, patience_s)


def stop() -> None:
    """Disarm."""
    signal.setitimer(signal.ITIMER_REAL, 0)
