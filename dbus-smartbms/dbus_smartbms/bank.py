"""The battery as the GX sees it: one pack, or several in parallel.

No I/O and no clock, so that the driver, ``replay`` and the tests walk the same way.
"""

from __future__ import annotations

import math
from dataclasses import replace

from smartbms_protocol import Frame

from . import parallel, shares
from .configuration import Configuration
from .limits import Company, Limits, flow_ma
from .pack import Pack
from .rules import NO_WISHES, Cap, Wishes, caps_of
from .settings import Settings, after_restarts
from .stages import FLOAT

TICK_S = 1.0
"""A pack that was heard so recently needs no tick: its frame has done all that."""


class Bank:
    """All packs by their cables, and the limits of them together.  Never raises for any bytes."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.packs: dict[str, Pack] = {}
        """In an order that does not depend on who came first."""
        self._wishes = NO_WISHES
        self._restarted = False
        self._memory = parallel.NOTHING
        self._parted: object = None
        self._capacity_mah = 0
        """Of the merged packs."""

    @property
    def configuration(self) -> Configuration:
        """What the user wants; can be replaced while it runs."""
        return self._configuration

    @configuration.setter
    def configuration(self, configuration: Configuration) -> None:
        self._configuration, self._parted = configuration, None
        self._part()

    @property
    def settings(self) -> Settings:
        """Those of all packs."""
        return self._configuration.settings

    @property
    def restarted(self) -> bool:
        """Whether the driver was restarted again and again: CCL and DCL are then 0.1 C at most."""
        return self._restarted

    @restarted.setter
    def restarted(self, restarted: bool) -> None:
        self._restarted, self._parted = restarted, None
        self._part()

    def _in_force(self, cable: str | None) -> Settings:
        """The settings that limits go by, of a pack (of all: None)."""
        settings = self._configuration.of(cable)
        return after_restarts(settings) if self._restarted else settings

    @property
    def wishes(self) -> Wishes:
        """What was set over the bus, for the whole bank."""
        return self._wishes

    @wishes.setter
    def wishes(self, wishes: Wishes) -> None:
        self._wishes, self._parted = wishes, None
        self._part()

    @property
    def limits(self) -> Limits | None:
        """None before the first frame; numbers from then on, also while every pack is excluded."""
        return self._memory.limits

    @property
    def members(self) -> list[Pack]:
        """The packs that are merged, present or lost."""
        memory = self._memory
        packs = [pack for cable, pack in self.packs.items() if cable in memory.members]
        return [pack for pack in packs if not parallel.odd(memory, pack)]

    def odd(self, pack: Pack) -> bool:
        """Whether a pack is left out because it has another number of cells than those that are merged."""
        return pack.cable in self._memory.members and parallel.odd(self._memory, pack)

    @property
    def caps(self) -> tuple[Cap, Cap]:
        """The highest CCL and DCL that may be wished for; those of many restarts pass by themselves."""
        if not self.members:
            return Cap(0, "no frame yet"), Cap(0, "no frame yet")
        return caps_of(self.settings, self._capacity_mah)

    @property
    def charges_to_full(self) -> bool:
        """Whether "charge to full" is under way."""
        packs = self.members or self.packs.values()
        return any(pack.stage.asked_s is not None for pack in packs)

    def charge_to_full(self, *, on: bool) -> None:
        """Begin or end "charge to full", of all packs."""
        for pack in self.packs.values():
            pack.charge_to_full(on=on)

    def clear_history(self) -> None:
        """Begin the history of all packs anew."""
        for pack in self.packs.values():
            pack.clear_history()

    def pack(self, cable: str) -> Pack:
        """The pack behind a cable; a new one has no say before it has sent frames."""
        if cable not in self.packs:
            self.packs[cable] = Pack(self._in_force(cable), cable)
            # Shorter names first, so that 10 comes after 2.
            self.packs = dict(sorted(self.packs.items(), key=lambda item: (len(item[0]), item[0])))
            self._parted = None
            self._part()
        return self.packs[cable]

    def forget(self, cable: str) -> None:
        """A pack is not to be driven any more."""
        self.packs = {name: pack for name, pack in self.packs.items() if name != cable}

    def take(self, cable: str, frame: Frame, now: float) -> None:
        """One valid frame of the pack behind a cable, with everything that follows from it."""
        pack = self.pack(cable)
        if pack.company.several:
            others = [other for other in self.members if other is not pack and not other.lost]
            currents = [other.readings.frame.current_ma for other in others if other.readings.frame]
            whole_ma = sum(ma or 0 for ma in (frame.current_ma, *currents))
            pack.company = Company(
                several=True,
                floats=all(other.stage.name == FLOAT for other in others),
                charged=whole_ma > flow_ma(self._capacity_mah),
            )
        pack.take(frame, now)
        self._step(now)

    def tick(self, now: float) -> None:
        """A second went by: what has to happen without frames happens."""
        for pack in self.packs.values():
            if pack.readings.age(now) >= TICK_S:
                pack.tick(now)
        self._step(now)

    def look_again(self, now: float) -> None:
        """A pack has another name, or the configuration is another: that counts at once."""
        self._step(now)

    def _step(self, now: float) -> None:
        self._memory = parallel.step(self._in_force(None), self._memory, self.packs, now, self._wishes)
        self._part()

    def _part(self) -> None:
        """Give each pack its part of what is configured and wished for the bank.

        A pack alone has all of it.  Several have their rate each, or their part of a configured current
        where that is more: the bank as a whole keeps to the current.
        """
        memory = self._memory
        members = {pack.cable: pack.capacity_mah for pack in self.members}
        now = (memory.cells, list(memory.members), members)
        if now == self._parted:
            return
        self._parted = now
        self._capacity_mah = sum(members.values())
        several = len(memory.members) > 1
        parts = shares.by_capacity(members) if members else {}
        for cable, pack in self.packs.items():
            pack.settings, pack.wishes = self._in_force(cable), self._wishes
            pack.company = Company(several)
            if several and cable in parts:
                pack.settings = _part_of(pack.settings, pack.capacity_mah, parts[cable])
                # 0 A has to reach each pack's CVL; anything else is the bank's.
                pack.wishes = Wishes(*(0.0 if amps == 0 else None for amps in self._wishes))


def _part_of(settings: Settings, capacity_mah: int, share: float) -> Settings:
    """The settings of a pack that has this share of the bank's capacity."""

    def part(amps: float | None, rate: float) -> float | None:
        if not amps or amps * share > rate * capacity_mah / 1000:
            return amps and math.ceil(1000 * amps * share) / 1000  # together no less than the bank's
        return None

    return replace(
        settings,
        max_charge_current=part(settings.max_charge_current, settings.charge_rate),
        max_discharge_current=part(settings.max_discharge_current, settings.discharge_rate),
    )
