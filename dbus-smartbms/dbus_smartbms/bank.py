"""The way of a byte: bytes or silence in; readings, limits, alarms and history out.

One pack today.  No I/O and no clock, so that the driver, ``replay`` and the tests walk the same way.
"""

from __future__ import annotations

from smartbms_protocol import Frame, FrameStream, PackState, Taken

from . import limits, mirror
from .alarms import Alarms
from .history import History
from .settings import Settings

DISAGREEMENT_S = 10.0
"""How long mirror and BMS have to differ before it is said: the BMS's bits may come late."""


class Bank:
    """Everything that is known of the battery at a moment.  Never raises for any bytes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stream = FrameStream()
        self.pack = PackState()
        self.relays = mirror.Relays()
        self.verdict = mirror.Verdict(self.relays, None, None, None)
        self.limits: limits.Limits | None = None
        self.alarms = Alarms()
        self.history = History()
        self.disagreement: str | None = None
        """How the mirror and the BMS differ, once they have done so for ``DISAGREEMENT_S``."""
        self._differs: str | None = None
        self._differs_since = 0.0
        self._memory = limits.Memory()

    @property
    def lost(self) -> bool:
        """No frames for ``hold_s``."""
        return self.limits is not None and self.limits.lost

    def feed(self, data: bytes, *, idle: bool = False) -> list[Frame]:
        """Bytes as read from the line; the frames in them, each to be given to ``take``."""
        return self.stream.feed(data, idle=idle)

    def take(self, frame: Frame, now: float) -> None:
        """One valid frame, with everything that follows from it."""
        whole = self.pack.take(frame, now) is Taken.WHOLE
        if whole:
            if self.lost:
                self.alarms.heard(self.pack)
            self.alarms.frame(self.pack, now)
            self.history.frame(self.pack, now)
        self._step(now)
        if whole:
            self._compare(now)

    def tick(self, now: float) -> None:
        """A second went by: what has to happen without frames happens."""
        self._step(now)
        if self.limits is not None:
            self.alarms.silence(lost=self.limits.lost, spent=self.limits.spent)

    def clear_history(self) -> None:
        """Begin the history anew."""
        self.history = History()
        self.history.frame(self.pack, self.pack.at or 0.0)

    def _compare(self, now: float) -> None:
        differs = mirror.disagreement(self.settings, self.pack, self.verdict)
        if (differs is None) != (self._differs is None):
            self._differs_since = now
        self._differs = differs
        if differs is None or now - self._differs_since >= DISAGREEMENT_S:
            self.disagreement = differs

    def _step(self, now: float) -> None:
        self.relays, self.verdict = mirror.step(self.settings, self.relays, self.pack, now)
        self._memory, self.limits = limits.step(self.settings, self._memory, self.pack, self.verdict, now)
