"""Packs in parallel: how the current of a house divides between the packs at one busbar.

A pack is its cells' voltage behind their resistance and its cable's; at the busbar all have the same voltage
(Kirchhoff), so that each takes the more, the less it resists, and packs of unequal charge exchange current.
V, A, ohm and s as floats; positive current charges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dbus_smartbms.house import House
from dbus_smartbms.plant import Plant


class Branch(NamedTuple):
    """A pack as the busbar sees it, and in which directions its contactors let current through."""

    idle_v: float
    ohm: float
    charge: bool
    load: bool

    def amps(self, volts: float) -> float:
        """What flows in at a voltage of the busbar."""
        amps = (volts - self.idle_v) / self.ohm
        return min(max(amps, -math.inf if self.load else 0.0), math.inf if self.charge else 0.0)

    def conducts(self, volts: float) -> bool:
        """Whether a little more voltage is a little more current."""
        return self.charge if volts > self.idle_v else self.load if volts < self.idle_v else False


def joint(branches: Sequence[Branch]) -> tuple[float, float]:
    """The voltage that branches have together without current, and their resistance."""
    siemens = [1 / branch.ohm for branch in branches]
    shares = [one / sum(siemens) for one in siemens]
    idle_v = sum(share * branch.idle_v for share, branch in zip(shares, branches, strict=True))
    return idle_v, 1 / sum(siemens)


def divide(branches: Sequence[Branch], amps: float) -> float:
    """The busbar's voltage at which the branches together take so much.

    Where none of them can, the nearest voltage at which one begins or ends to conduct.
    """
    bends = sorted(branch.idle_v for branch in branches)
    low_v, high_v = -math.inf, math.inf
    for volts in bends:
        taken = sum(branch.amps(volts) for branch in branches)
        low_v = volts if taken <= amps else low_v
        high_v = min(high_v, volts) if taken >= amps else high_v
    if low_v >= high_v:  # exactly there, or nothing flows between two bends
        return low_v
    between_v = max(low_v, bends[0] - 1) / 2 + min(high_v, bends[-1] + 1) / 2
    conducting = [branch for branch in branches if branch.conducts(between_v)]
    if not conducting:
        return low_v if high_v == math.inf else high_v
    idle_v, ohm = joint(conducting)
    return idle_v + amps * ohm


class Busbar:
    """Packs, each on a cable to the busbar, in a house.  One alone stands in it as ever, without a cable."""

    def __init__(
        self, packs: Sequence[Plant], house: House, ohms: Sequence[float] = (0.0,), *, own: bool = False
    ) -> None:
        self.packs, self.house = packs, house
        self.own = own
        """Each pack has contactors of its own, which its BMS opens; else any BMS that denies stops all."""
        self.cables = [chr(ord("A") + n) for n in range(len(packs))]
        self.joined = [True] * len(packs)
        """Which packs are at the busbar."""
        self.ohms = ohms
        """Of the packs' cables."""
        self.sun_a = self.load_a = 0.0
        self.voltage_v = sum(pack.voltage_v for pack in packs) / len(packs)
        for pack in packs:
            pack.switches = own or len(packs) == 1

    @property
    def net_a(self) -> float:
        """What flows into all packs together."""
        return self.sun_a - self.load_a

    @property
    def capacity_ah(self) -> float:
        """Of all packs."""
        return sum(pack.capacity_ah for pack in self.packs)

    def allowed(self, direction: str) -> bool:
        """Whether the house may charge, or discharge: what the wiring of the relays makes of them."""
        there = [pack.bms for pack, joined in zip(self.packs, self.joined, strict=True) if joined]
        closed = [bool(getattr(bms, f"{direction}_allowed")) for bms in there]
        return any(closed) if self.own else bool(closed) and all(closed)

    def branches(self) -> list[Branch]:
        """Every pack as it now is."""
        return [
            Branch(
                sum(pack.idle_v),
                sum(pack.quick_ohm) + ohm,
                joined and (pack.bms.charge_allowed or not self.own),
                joined and (pack.bms.load_allowed or not self.own),
            )
            for pack, ohm, joined in zip(self.packs, self.ohms, self.joined, strict=True)
        ]

    def step(self, dt_s: float) -> None:
        """Let so many seconds pass, one at most."""
        if len(self.packs) == 1:
            (pack,) = self.packs
            pack.step(dt_s)
            self.sun_a, self.load_a, self.voltage_v = pack.sun_a, pack.load_a, pack.voltage_v
            return
        for pack in self.packs:
            pack.look()
        branches = self.branches()
        conducting = [branch for branch in branches if branch.conducts(self.voltage_v)]
        idle_v, ohm = joint(conducting or branches)
        self.sun_a, self.load_a = self.house.flow(
            idle_v, ohm, self.voltage_v, dt_s, charge=self.allowed("charge"), load=self.allowed("load")
        )
        self.voltage_v = divide(branches, self.net_a)
        for pack, branch in zip(self.packs, branches, strict=True):
            amps = branch.amps(self.voltage_v)
            pack.carry(max(amps, 0.0), max(-amps, 0.0), dt_s)
