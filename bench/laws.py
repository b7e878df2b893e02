"""The laws that ``limits.py`` compares: the driver's own, three by which people charge today, an ideal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from parallel import Branch, Busbar

from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.plant import COOLING_S, Plant, interpolate
from dbus_smartbms.settings import Settings
from smartbms_protocol import Frame, layout

Frames = Sequence[Frame | None]
"""What came from each pack in a second; None: nothing."""

Told = tuple[int | None, int | None, int | None]
"""CVL in mV, CCL and DCL in mA; None: no number."""
NOTHING: Told = (None, None, None)
Own = tuple[int, int]
"""CCL and DCL of one pack by its own limits, in mA."""


class Law(Protocol):
    """A driver: frames and seconds without one (None) in, limits out."""

    def take(self, frames: Frames, t: float) -> Told: ...


class Ours:
    """The driver's own, all of it, to the 0.1 A that it publishes."""

    name = "ours"

    def __init__(self, settings: Settings, bar: Busbar) -> None:
        self._cables = bar.cables
        self._bank = Bank(Configuration(settings))

    def take(self, frames: Frames, t: float) -> Told:
        for cable, frame in zip(self._cables, frames, strict=True):
            if frame is not None:
                self._bank.take(cable, frame, t)
        if None in frames:
            self._bank.tick(t)
        limits = self._bank.limits
        if limits is None:
            return NOTHING
        return limits.cvl_mv, limits.ccl_ma // 100 * 100, limits.dcl_ma // 100 * 100

    def own(self, cable: str) -> Own | None:
        """The limits of a pack that is heard."""
        pack = self._bank.packs.get(cable)
        if pack is None or pack.lost or pack.limits is None:
            return None
        return pack.limits.ccl_ma, pack.limits.dcl_ma


class Fixed:
    """No driver: what a careful owner sets in the chargers (manual C: 25 to 40 mV over Vbalance)."""

    name = "fixed"

    def __init__(self, settings: Settings, bar: Busbar) -> None:
        ma, pack = bar.capacity_ah * 1000, bar.packs[0]
        cvl_mv = len(pack.cells) * (pack.bms.setup.vbalance_mv + 30)
        self._told = cvl_mv, int(ma * settings.charge_rate), int(ma * settings.discharge_rate)

    def take(self, _frames: Frames, _t: float) -> Told:
        return self._told


def share(points: Sequence[tuple[float, float]], x: float) -> float:
    """On the line through the points, level past its ends."""
    return interpolate(points, min(max(x, points[0][0]), points[-1][0]))


class Table:
    """dbus-serialbattery's default figures (LFP); other chemistries shifted to their Vbalance and Vmin.

    Currents are recalculated every 60 s, or when they differ by 5 % and more (its defaults).
    """

    name = "table"
    CHARGE = ((3375, 1), (3400, 0.25), (3425, 0.05), (3450, 0.005), (3500, 0))
    DISCHARGE = ((2800, 0), (2900, 0.005), (3000, 0.05), (3100, 0.25), (3190, 1))
    HOT = ((40, 1), (45, 0.5), (50, 0.25), (55, 0))
    CHARGE_C = ((0, 0), (2, 0.25), (5, 0.5), (10, 1), *HOT)
    DISCHARGE_C = ((-20, 0), (0, 0.25), (5, 0.5), (10, 1), *HOT)

    def __init__(self, settings: Settings, bar: Busbar) -> None:
        self._settings, self._pack = settings, bar.packs[0]
        self._out: dict[str, tuple[float, float]] = {}
        self._float = False
        self._level_at: float | None = None
        self._last: Told = NOTHING

    def take(self, frames: Frames, t: float) -> Told:
        (frame,) = frames
        if frame is None:
            return self._last
        top_mv, bottom_mv = frame.vbalance_mv - 3400, frame.vmin_mv - 2900
        celsius = (frame.coldest_raw - 276, frame.hottest_raw - 276)
        ccl = min(share(self.CHARGE, frame.highest_mv - top_mv), *(share(self.CHARGE_C, c) for c in celsius))
        dcl = min(
            share(self.DISCHARGE, frame.lowest_mv - bottom_mv), *(share(self.DISCHARGE_C, c) for c in celsius)
        )
        ma, settings = self._pack.capacity_ah * 1000, self._settings
        ccl *= ma * settings.charge_rate * frame.has(layout.CHARGE_ALLOWED)
        dcl *= ma * settings.discharge_rate * frame.has(layout.DISCHARGE_ALLOWED)
        self._last = (
            self._voltage(frame, top_mv, t), self._calm("ccl", ccl, t), self._calm("dcl", dcl, t)
        )  # fmt: skip
        return self._last

    def _voltage(self, frame: Frame, top_mv: int, t: float) -> int:
        spread_mv = frame.highest_mv - frame.lowest_mv
        if frame.highest_mv - top_mv < 3440 or spread_mv > 10:
            self._level_at = None
        elif self._level_at is None:
            self._level_at = t
        if self._float:
            self._float = frame.soc_percent >= 80 and spread_mv < 80
        else:
            self._float = self._level_at is not None and t - self._level_at >= 900
        if self._float:
            return frame.cells * (3375 + top_mv)
        return frame.cells * (3450 + top_mv) - sum(
            max(0, mv - top_mv - 3450) for mv in self._pack.bms.cell_mv
        )

    def _calm(self, name: str, value: float, t: float) -> int:
        old, at = self._out.get(name, (math.inf, -math.inf))
        if t - at >= 60 or value == 0 or abs(value - old) >= 0.05 * max(old, 1):
            self._out[name] = (value, t)
        return int(self._out[name][0])


class Vendor:
    """The vendor's driver as ``peers`` tells of it: no tapers, a PI whose integral winds up."""

    name = "vendor"

    def __init__(self, _settings: Settings, bar: Busbar) -> None:
        self._ma = bar.capacity_ah * 1000
        self._integral_mv = 0.0
        self._low_s = self._full_s = self._spread_s = 0
        self._blocked_until = -math.inf
        self._storage_at: float | None = None
        self._last: Told = NOTHING
        self._frames = 0

    def take(self, frames: Frames, t: float) -> Told:
        (frame,) = frames
        self._frames += frame is not None
        if frame is None or self._frames < 10:
            return self._last
        full = frame.highest_mv >= frame.vmax_mv - 10
        ccl = self._ma * (frame.has(layout.CHARGE_ALLOWED) and not full)
        dcl = self._discharge(frame, t) * frame.has(layout.DISCHARGE_ALLOWED)
        self._last = (self._voltage(frame, t), int(ccl), int(dcl))
        return self._last

    def _discharge(self, frame: Frame, t: float) -> float:
        self._low_s = self._low_s + 1 if frame.lowest_mv < frame.vmin_mv + 100 else 0
        if self._low_s >= 15:
            self._blocked_until = t + 300
        if t < self._blocked_until:
            return 0.0
        if self._low_s >= 3:
            return 0.05 * self._ma
        soc = frame.soc_percent
        return self._ma / (
            8 if soc <= 10 else 4 if soc <= 20 else 2 if soc <= 30 else 1.5 if soc <= 40 else 1
        )

    def _voltage(self, frame: Frame, t: float) -> int:
        self._store(frame, t)
        if self._storage_at is not None:
            return frame.cells * (frame.vbalance_mv - 30)
        target_mv = frame.vbalance_mv + 25
        error_mv = target_mv - frame.highest_mv
        self._integral_mv = min(max(self._integral_mv + error_mv * 0.002, -50.0), 50.0)
        cell_mv = min(target_mv + 0.5 * error_mv + self._integral_mv, frame.vmax_mv)
        return round(frame.cells * cell_mv / 10) * 10

    def _store(self, frame: Frame, t: float) -> None:
        """When storage begins, and when it ends."""
        level = frame.lowest_mv >= frame.vbalance_mv and frame.soc_percent == 100
        full = level and (frame.current_ma or 0) < 0.04 * self._ma
        self._full_s = self._full_s + 1 if full else 0
        spread = frame.highest_mv - frame.lowest_mv >= 50
        self._spread_s = self._spread_s + 1 if spread else 0
        if self._storage_at is None:
            self._storage_at = t if self._full_s >= 120 else None
            return
        low = frame.soc_percent < 70 or frame.lowest_mv < frame.vbalance_mv - 150
        if low or self._spread_s >= 1200 or t - self._storage_at >= 11 * 3600:
            self._storage_at = None


class Reach(NamedTuple):
    """A pack at the busbar, and the A that it can take, or give."""

    branch: Branch
    most_a: float


def edge(pack: Reach, sign: int) -> float:
    """The busbar's voltage at which a pack takes (1) or gives (-1) all it can."""
    return pack.branch.idle_v + sign * pack.most_a * pack.branch.ohm


def together(packs: Sequence[Reach], sign: int) -> tuple[float, float]:
    """The A that packs can take or give together, none of them more than it can, and the voltage then.

    Under 0 where one has more from the others than it can take.
    """
    bound = [pack for pack in packs if (pack.branch.charge if sign > 0 else pack.branch.load)]
    if not bound:
        return 0.0, 0.0
    first = min(bound, key=lambda pack: sign * edge(pack, sign))
    volts = edge(first, sign)
    others = (sign * pack.branch.amps(volts) for pack in packs if pack is not first)
    return first.most_a + sum(others), volts


class Ideal:
    """Perfect knowledge: the true cells' state, at once, no noise, no lag.

    It floats as people want their packs to, or what others do not take in float would count as lost.
    """

    name = "ideal"
    FLOAT_AFTER_S = 4 * 3600
    """Of all cells over Vbalance."""
    HEAT_S = 60.0
    """In how much time the hottest cell may reach its highest temperature."""

    def __init__(self, settings: Settings, bar: Busbar) -> None:
        self._settings, self._bar = settings, bar
        self._dark = False
        pack = bar.packs[0]
        setup = pack.bms.setup
        self._top_v = (setup.vbalance_mv + settings.charge_margin_mv) / 1000
        self._bottom_v = setup.vmin_mv / 1000 + 0.010
        self._float_v = 3.37 if pack.settings.chemistry == "LFP" else setup.vbalance_mv / 1000 - 0.1
        self._full_s = 0

    def take(self, _frames: Frames, _t: float) -> Told:
        bar, house = self._bar, self._bar.house
        setup = bar.packs[0].bms.setup
        self._full_s += all(min(pack.idle_v) > setup.vbalance_mv / 1000 for pack in bar.packs)
        branches, limits = bar.branches(), [self._limits(pack) for pack in bar.packs]
        ccl_a, cvl_v = together([Reach(one, most[0]) for one, most in zip(branches, limits, strict=True)], 1)
        dcl_a = self._drawn([Reach(one, most[1]) for one, most in zip(branches, limits, strict=True)])
        if ccl_a >= 0 or len(limits) == 1:  # else packs fill each other, and only to discharge them helps
            cvl_v = len(bar.packs[0].cells) * setup.vmax_mv / 1000
        if not bar.allowed("charge"):
            ccl_a = 0.0
        if not bar.allowed("load"):
            dcl_a = 0.0
        if house.settings.grid == "none":  # an inverter alone takes all it wants, or nothing
            want_a = -min(house.free_a, 0.0)
            self._dark = dcl_a < want_a + 0.05 * bar.capacity_ah * self._dark
            dcl_a = 0.0 if self._dark else dcl_a
        return round(cvl_v * 1000), int(max(ccl_a, 0) * 1000), int(max(dcl_a, 0) * 1000)

    def _limits(self, pack: Plant) -> tuple[float, float]:
        """What a pack can take and give."""
        settings, setup = self._settings, pack.bms.setup
        cool_a = self._cool_a(pack, setup.tmax_c - 1)
        ccl_a = min(pack.capacity_ah * settings.charge_rate, cool_a)
        dcl_a = min(pack.capacity_ah * settings.discharge_rate, cool_a)
        top_v = self._top_v if self._full_s < self.FLOAT_AFTER_S else self._float_v
        for volts, ohm in zip(pack.idle_v, pack.quick_ohm, strict=True):
            if (room_a := (top_v - volts) / ohm) < ccl_a:
                ccl_a = room_a
            if (rest_a := (volts - self._bottom_v) / ohm) < dcl_a:
                dcl_a = rest_a
        coldest = min(cell.celsius for cell in pack.cells) + pack.temperature_offset_c
        if coldest < setup.tmin_charge_c + 1:
            ccl_a = 0.0
        if coldest < setup.tmin_discharge_c + 1:
            dcl_a = 0.0
        return ccl_a, dcl_a

    def _drawn(self, packs: Sequence[Reach]) -> float:
        """What packs give together; with contactors of their own the empty ones leave it to the others."""
        most_a, _ = together(packs, -1)
        while self._bar.own and most_a < -self._bar.house.free_a and len(packs) > 1:
            packs = sorted(packs, key=lambda pack: edge(pack, -1))[:-1]
            most_a = max(most_a, together(packs, -1)[0])
        return most_a

    def _cool_a(self, pack: Plant, limit_c: float) -> float:
        """The current with which no cell gets warmer than that."""
        most_a = math.inf
        limit_c -= pack.temperature_offset_c
        for cell in pack.cells:
            if cell.celsius > limit_c - 5:
                cools_c = (cell.celsius - pack.settings.ambient_c - cell.warmer_c) / COOLING_S
                watts = pack.warmth_j_per_k * (cools_c + (limit_c - cell.celsius) / self.HEAT_S)
                most_a = min(most_a, math.sqrt(max(watts, 0.0) / cell.ohm))
        return most_a


LAWS: dict[str, Callable[[Settings, Busbar], Law]] = {
    law.name: law for law in (Ours, Fixed, Table, Vendor, Ideal)
}
BANK_LAWS = ("ours", "fixed", "ideal")
"""Those that know of several packs."""
