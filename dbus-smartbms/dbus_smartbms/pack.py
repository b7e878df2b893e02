"""The way of a byte, of one pack: bytes or silence in; readings, limits, alarms and history out.

No I/O and no clock, so that the driver, ``replay`` and the tests walk the same way.
"""

from __future__ import annotations

from dataclasses import replace

from smartbms_protocol import Frame, FrameStream, PackState, Taken, layout

from . import limits, mirror, ratings, rules
from .agreement import Agreement
from .alarms import Alarms
from .history import History
from .settings import Settings
from .stages import Stage

_ALLOWED = layout.CHARGE_ALLOWED, layout.DISCHARGE_ALLOWED


class Pack:
    """Everything that is known of one BMS at a moment.  Never raises for any bytes."""

    def __init__(self, settings: Settings, cable: str = "") -> None:
        self.settings = settings
        self.cable = cable
        """The identity of its cable."""
        self.name = ""
        """What the user calls it; one that begins with ``*`` keeps it out of the bank."""
        self.stream = FrameStream()
        self.readings = PackState()
        self.relays = mirror.Relays()
        self.soc: float | None = None
        """The mirror's state of charge in %; ``mirror.soc`` is the BMS's."""
        self.limits: limits.Limits | None = None
        self.alarms = Alarms()
        self.history = History()
        self.agreement = Agreement()
        self.wishes = rules.NO_WISHES
        self.company = limits.ALONE
        self.capacity_mah = 0
        self._mirror = mirror.Memory()
        self._memory = limits.Memory()

    @property
    def lost(self) -> bool:
        """No frames for ``hold_s``."""
        return self.limits is not None and self.limits.lost

    @property
    def label(self) -> str:
        """What it is called in texts."""
        return self.name.lstrip("*") or self.cable

    @property
    def excluded(self) -> bool:
        """Whether the user keeps it out of the bank."""
        return self.name.startswith("*")

    @property
    def waits(self) -> bool:
        """Whether a direction is neither denied nor permitted yet."""
        memory = self._memory
        return any(0 < way.permits < limits.PERMITS for way in (memory.charge, memory.discharge))

    def denies(self, way: int) -> bool:
        """Whether charging (0) or discharging (1) is denied by the BMS or, critically, by its mirror."""
        permits = (self._memory.charge, self._memory.discharge)[way].permits
        return self.limits is not None and permits == 0

    def permits(self, way: int) -> bool:
        """Whether as many frames in a row have permitted it as it takes."""
        return (self._memory.charge, self._memory.discharge)[way].permits == limits.PERMITS

    def opened(self, way: int) -> bool:
        """Whether the BMS says that it has opened its relay "Charge" (0) or "Load" (1)."""
        frame = self.readings.frame
        return frame is not None and not frame.has(_ALLOWED[way])

    @property
    def near_empty(self) -> bool:
        """Whether a silence is not ridden through; False before the first frame."""
        frame = self.readings.frame
        if frame is None:
            return False
        return limits.near_empty(frame, ratings.thresholds(self.settings, self.readings, frame))

    @property
    def float_mv(self) -> int:
        """What the pack has at rest when it is full, not under what CVL may be; 0 before the first frame."""
        frame = self.readings.frame
        if frame is None:
            return 0
        volts = ratings.thresholds(self.settings, self.readings, frame)
        whole = frame.cells * limits.float_mv(self.settings, self.readings, frame, volts)
        return max(whole, limits.floor_mv(self.readings, frame, volts))

    def feed(self, data: bytes, *, idle: bool = False) -> list[Frame]:
        """Bytes as read from the line; the frames in them, each to be given to ``take``."""
        return self.stream.feed(data, idle=idle)

    def take(self, frame: Frame, now: float) -> None:
        """One valid frame, with everything that follows from it."""
        whole, lost = self.readings.take(frame, now) is Taken.WHOLE, self.lost
        self.capacity_mah = ratings.capacity_mah(self.settings, self.readings)
        self._step(now)
        if whole:
            if lost:
                self.alarms.heard(self.readings)
            self.alarms.frame(self.readings, now, wrong=bool(self.limits and self.limits.wrong))
            self.history.frame(self.readings, now)
            self.agreement.frame(self.settings, self._mirror, self.relays, self.readings, now)

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
        self.history.frame(self.readings, self.readings.at or 0.0)

    @property
    def counted(self) -> mirror.Counted | None:
        """What a later run of the driver begins with; None before the first frame."""
        return self._mirror.counted

    @property
    def stage(self) -> Stage:
        """How far the charge has come."""
        return self._memory.stage

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
        self._mirror, self.relays, self.soc = mirror.step(self.settings, self._mirror, self.readings, now)
        self._memory, self.limits = limits.step(
            self.settings, self._memory, self.readings, self.relays, now, self.wishes, self.company
        )
