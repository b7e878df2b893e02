"""The way of a byte: bytes or silence in; readings, limits, alarms and history out.

One pack today.  No I/O and no clock, so that the driver, ``replay`` and the tests walk the same way.
"""

from __future__ import annotations

from dataclasses import replace

from smartbms_protocol import Frame, FrameStream, PackState, Taken

from . import limits, mirror, rules
from .agreement import Agreement
from .alarms import Alarms
from .history import History
from .settings import Settings
from .stages import Stage


class Bank:
    """Everything that is known of the battery at a moment.  Never raises for any bytes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stream = FrameStream()
        self.pack = PackState()
        self.relays = mirror.Relays()
        self.soc: float | None = None
        """The mirror's state of charge in %; ``mirror.soc`` is the BMS's."""
        self.limits: limits.Limits | None = None
        self.alarms = Alarms()
        self.history = History()
        self.agreement = Agreement()
        self.wishes = rules.NO_WISHES
        self._mirror = mirror.Memory()
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
        whole, lost = self.pack.take(frame, now) is Taken.WHOLE, self.lost
        self._step(now)
        if whole:
            if lost:
                self.alarms.heard(self.pack)
            self.alarms.frame(self.pack, now, wrong=bool(self.limits and self.limits.wrong))
            self.history.frame(self.pack, now)
            self.agreement.frame(self.settings, self._mirror, self.relays, self.pack, now)

    def tick(self, now: float) -> None:
        """A second went by: what has to happen without frames happens."""
        self._step(now)
        if self.limits is not None:
            self.alarms.silence(lost=self.limits.lost, spent=self.limits.spent)
            if self.lost:
                self.agreement = Agreement()  # there is nothing to compare

    def clear_history(self) -> None:
        """Begin the history anew."""
        self.history = History()
        self.history.frame(self.pack, self.pack.at or 0.0)

    @property
    def counted(self) -> mirror.Counted | None:
        """What a later run of the driver begins with; None before the first frame."""
        return self._mirror.counted

    @property
    def stage(self) -> Stage:
        """How far the charge has come."""
        return self._memory.stage

    @property
    def caps(self) -> tuple[rules.Cap, rules.Cap]:
        """The highest CCL and DCL that may be wished for."""
        return rules.caps(self.settings, self.pack)

    def restore(self, counted: mirror.Counted | None, stage: Stage | None) -> None:
        """Begin anew the mirror and the charge's progress, with what an earlier run knew if there is that."""
        self._mirror = mirror.Memory(counted=counted)
        self._memory = replace(self._memory, stage=stage or Stage())

    def charge_to_full(self, *, on: bool) -> None:
        """Begin or end "charge to full"."""
        self._memory = replace(self._memory, stage=self.stage.ask(on=on))

    @property
    def mirror_memory(self) -> mirror.Memory:
        """What the mirror remembers: with it a frame can be explained."""
        return self._mirror

    def _step(self, now: float) -> None:
        self._mirror, self.relays, self.soc = mirror.step(self.settings, self._mirror, self.pack, now)
        self._memory, self.limits = limits.step(
            self.settings, self._memory, self.pack, self.relays, now, self.wishes
        )
