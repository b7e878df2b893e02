r"""A simulated pack: cells, a charger under the sun, loads, and a BMS after the manuals.

For the demo, for tests and for tuning the limits.  The BMS, and what it measures in whole numbers,
is in ``simulated_bms.py``; here is the pack that it looks at.  ``house.py`` can stand in for the
charger and the loads.
Pure: no I/O, no clock, and no chance but ``random.Random(seed)``.  Positive current charges.
Cells are floats in V, A and degC.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple, Protocol

from smartbms_protocol import Frame, layout

from .simulated_bms import (
    CAPACITY_KWH,
    CELSIUS,
    DAY_S,
    GENERATIONS,
    PERCENT,
    RAW_ZERO_C,
    SETTABLE,
    Bms,
    Range,
    Setup,
)


class Chemistry(NamedTuple):
    """The thresholds a BMS is set to, and an open-circuit curve: % of the cell's charge, mV.

    Vmin, Vnom, Vbalance, Vmax: the manuals' "Thresholds advised per chemistry", generation C.  They
    name no Vlow and Vfull: these stand a little over Vmin and Vbalance.  ``sag_mv`` is what 1 C drops over
    a cell and its connections; of the right size, no more.
    """

    vmin_mv: int
    vlow_mv: int
    vnom_mv: int
    vbalance_mv: int
    vfull_mv: int
    vmax_mv: int
    sag_mv: float
    curve: tuple[tuple[float, float], ...]


# LFP and NCA: S. Sunil et al., "Piecewise Linear Approximation of Battery Open-Circuit Voltage
# Characteristics", IEEE Trans. Instrum. Meas. 2025: APR18650M1B and INR21700-40T, charge and
# discharge at C/32 and C/20.  LTO and NMC: every other point of LibreSolar bms-firmware,
# bms_common.c, whose LTO is from doi:10.3390/batteries5010031.
CHEMISTRIES = {
    "LFP": Chemistry(
        2900, 3000, 3300, 3400, 3450, 3700, 100,
        ((0, 2010), (0.33, 2418), (1.17, 2741), (2.67, 2930), (5.34, 3087), (8.85, 3194), (29.72, 3277),
         (98.33, 3351), (99.5, 3418), (100, 3598)),
    ),
    "LTO": Chemistry(
        2150, 2200, 2400, 2600, 2650, 2800, 60,
        ((0, 2000), (5, 2105), (10, 2125), (20, 2154), (30, 2177), (40, 2198), (50, 2224), (60, 2259),
         (70, 2309), (80, 2376), (90, 2458), (95, 2513), (100, 2800)),
    ),
    "NMC": Chemistry(
        3490, 3550, 3700, 4000, 4050, 4150, 100,
        ((0, 2800), (5, 3588), (10, 3684), (20, 3726), (30, 3764), (40, 3803), (50, 3838), (60, 3883),
         (70, 3962), (80, 4026), (90, 4089), (100, 4198)),
    ),
    "NCA": Chemistry(
        3400, 3450, 3600, 4000, 4050, 4150, 100,
        ((0, 2500), (0.5, 2808), (3.52, 3118), (8.54, 3318), (13.57, 3419), (29.15, 3583), (45.23, 3694),
         (83.92, 4066), (95.48, 4112), (100, 4200)),
    ),
}  # fmt: skip

WATTS = Range(0, 100_000, "W")
RANGES = {
    "cells": Range(2, 255, "cells"),
    "capacity_kwh": CAPACITY_KWH,
    "soc_percent": PERCENT,
    "spread_mv": Range(0, 500, "mV"),
    "spread_percent": PERCENT,
    "ripple_mv": Range(0, 500, "mV"),
    "load_w": WATTS,
    "sun_w": WATTS,
    "ambient_c": CELSIUS,
    "spread_capacity_percent": Range(0, 50, "%"),
    "spread_ohm_percent": Range(0, 100, "%"),
    "leak_ma": Range(0, 1000, "mA"),
    "cold_ohm_percent": Range(0, 20, "% a degC"),
    "slow_percent": Range(0, 90, "%"),
    "slow_s": Range(1, 3600, "s"),
}
"""The numbers of ``PlantSettings``."""


@dataclass(frozen=True, slots=True)
class PlantSettings:
    """What is simulated.  Raises ValueError with a sentence for what cannot be."""

    chemistry: str = "LFP"
    cells: int = 16
    capacity_kwh: float = 16.0
    soc_percent: float = 60.0
    """Of the capacity, which is what the cells hold between Vmin and Vbalance."""
    spread_mv: float = 6.0
    """Between the boards' readings of equal cells (the manuals allow +-20 mV)."""
    spread_percent: float = 0.5
    """Between the states of charge of the fullest and the emptiest cell."""
    ripple_mv: float = 1.0
    """Standard deviation of a reading from one moment to the next."""
    seed: int = 1
    load_w: float = 600.0
    sun_w: float = 2500.0
    ambient_c: float = 20.0
    spread_capacity_percent: float = 2.0
    """Between the cells' capacities.  New cells of a batch differ by 0.2 to 0.3 % (standard deviation) and by
    0.7 to 3.8 % in impedance (Wildfeuer and Lienkamp, "Quantifiability of inherent cell-to-cell variations");
    a pack of some years by more."""
    spread_ohm_percent: float = 20.0
    """Between the cells' resistances, each with its connections."""
    leak_ma: float = 20.0
    """What a cell and its board lose at most, each cell a part of it left to chance.  3 % a month, as cells'
    data sheets have it, is 13 mA of 310 Ah."""
    cold_ohm_percent: float = 2.5
    """How much higher the resistance is for each degree under 25."""
    slow_percent: float = 40.0
    """The part of the resistance that a current has to last for (an RC); the rest acts at once."""
    slow_s: float = 60.0
    """The time constant of that.  It and the two above: the cell in MathWorks' example after Huria et al.,
    "High fidelity electrical model with thermal dependence", IEEE IEVC 2012, has 30 to 106 s and R1 of
    R0 + R1 16 to 25 % at 20 degC, 19 to 48 % at 5 degC, and 2.8 % more of both a degree.  More is slow here,
    for a single RC stands for the diffusion of minutes too."""
    generation: str = "C"
    """Of the BMS, one of ``GENERATIONS``."""
    normal_mode: bool = False
    """Of the BMS; else critical mode."""
    calibrated: bool = True
    """False: the BMS has not yet synchronised its SoC."""
    obeys: bool = True
    """Whether charger and loads keep the limits they are told."""

    def __post_init__(self) -> None:
        if self.chemistry not in CHEMISTRIES:
            raise ValueError(f"chemistry has to be one of {', '.join(CHEMISTRIES)}, not {self.chemistry}")
        if self.generation not in GENERATIONS:
            raise ValueError(f"generation has to be one of {', '.join(GENERATIONS)}, not {self.generation}")
        for name, allowed in RANGES.items():
            allowed.checked(name, getattr(self, name))


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """The y at x on the line through the points; past an end its last stretch goes on."""
    right = bisect_right(points, (x, math.inf), 1, len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (x - x0) * (y1 - y0) / (x1 - x0)


def usable_curve(chemistry: Chemistry) -> tuple[tuple[float, float], ...]:
    """The curve as (state of charge, V): 0 is at rest at Vmin, 1 at rest at Vbalance.

    That is what these thresholds leave of a cell: of NMC up to 4.0 V about 3/4 of its rating.
    """
    inverse = [(mv, percent) for percent, mv in chemistry.curve]
    empty, full = interpolate(inverse, chemistry.vmin_mv), interpolate(inverse, chemistry.vbalance_mv)
    return tuple(((percent - empty) / (full - empty), mv / 1000) for percent, mv in chemistry.curve)


BLEED_A = 1.0
HOT_BOARD_C = 40
"""How much too high a bleeding board reads."""
COOLING_S = 3 * 3600.0
WARMTH_J_PER_K_WH = 6.7
"""1 kJ/(kg K) at 150 Wh/kg, as large cells have it."""
CHARGER_MARGIN_MV = 30
"""A charger that is told no limits stops this much a cell over Vbalance (manual C: 25 to 40 mV)."""
STEP_S = 1.0
"""The longest time that is calculated in one go."""
STEPS = Range(0, DAY_S, "s")
WARM_C = 25.0
"""From here on the resistance does not fall any more."""
_FIRST, _LAST, _STEPS = -0.2, 1.6, 2000
"""States of charge between which a cell's voltage at rest is looked up, and how many for each 1."""

CVL_V = Range(0, 1275, "V")
CURRENT_A = Range(0, 10_000, "A")
OFFSET_MV = Range(-5000, 5000, "mV")
_KEYS = tuple((pair, index) for pair in layout.PAIRS for index in range(len(pair.keys)))


@dataclass(slots=True)
class Cell:
    """A cell and its board."""

    soc: float
    """Of its own capacity, 1 where it rests at Vbalance."""
    ohm: float
    """When warm, and for a current that lasts."""
    celsius: float
    warmer_c: float
    """How much warmer than the room its place is."""
    error_mv: float
    """How much too high its board reads."""
    share: float = 1.0
    """Its capacity, as a part of what a cell of this pack should have."""
    leak_a: float = 0.0
    slow_v: float = 0.0
    """The part of the voltage that a lasting current has built up."""
    offset_v: float = 0.0
    """A fault: how far the cell itself is out of line."""
    volts: float = 0.0
    bleeds: bool = False


class Limits(NamedTuple):
    """What the charger (CVL, CCL) and the loads (DCL) keep to."""

    cvl_v: float
    ccl_a: float
    dcl_a: float


class Flow(Protocol):
    """What is around a pack: the currents of the next ``dt_s`` seconds in A, out of chargers and into loads.

    ``idle_v`` and ``ohm`` are the pack's voltage without them and its resistance to a step of current;
    ``volts`` is its voltage now; ``charge`` and ``load`` are the BMS's relays.
    """

    def __call__(
        self, idle_v: float, ohm: float, volts: float, dt_s: float, /, *, charge: bool, load: bool
    ) -> tuple[float, float]: ...


@cache
def rest_table(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A chemistry's voltages at rest from ``_FIRST`` to ``_LAST``, and the rise from each to the next.

    Looking up is ten times as fast as interpolating, and this is done for each cell in each second.
    """
    curve = usable_curve(CHEMISTRIES[name])
    steps = round((_LAST - _FIRST) * _STEPS)
    volts = tuple(interpolate(curve, _FIRST + n / _STEPS) for n in range(steps + 1))
    return volts, tuple(high - low for low, high in pairwise(volts))


class Plant:
    """The pack and all around it: ``step`` lets time pass, ``frame`` is what the BMS sends then.

    Without a ``flow`` a charger under the sun and a load are around it, as its settings have them.
    """

    def __init__(self, settings: PlantSettings, flow: Flow | None = None) -> None:
        self.settings = settings
        self.load_w, self.sun_w = settings.load_w, settings.sun_w
        self.temperature_offset_c = 0.0
        """A fault: how much warmer every cell is than it should be; it is also how it behaves."""
        self.told: Limits | None = None
        """The limits told last; None: the charger goes by its own settings."""
        self.switches = True
        """Whether its relays switch what flows through it; not where they only tell a charger to stop."""
        self._random = Random(settings.seed)  # noqa: S311 - the same pack every time
        self._turn = 0
        self._latched = b""
        chemistry = CHEMISTRIES[settings.chemistry]
        setup = Setup(*chemistry[:6], round(settings.capacity_kwh * 10) * 100, settings.normal_mode)
        if settings.generation != "C":
            setup = replace(setup, generation=settings.generation, tmin_discharge_c=setup.tmin_charge_c)
        self.bms = Bms(setup, settings.soc_percent / 100, calibrated=settings.calibrated)
        self.curve = usable_curve(chemistry)
        self._table = rest_table(settings.chemistry)
        mean_v = sum(interpolate(self.curve, (n + 0.5) / 1000) for n in range(1000)) / 1000
        self.capacity_ah = settings.capacity_kwh * 1000 / (settings.cells * mean_v)
        self.cells = self._make_cells(chemistry.sag_mv / 1000 / self.capacity_ah)
        self.idle_v = [0.0] * settings.cells
        """Each cell's voltage if nothing came or went but what its board bleeds."""
        self.quick_ohm = [0.0] * settings.cells
        """Each cell's resistance to a step of current."""
        self._slow_by_quick = settings.slow_percent / (100 - settings.slow_percent)
        self.warmth_j_per_k = WARMTH_J_PER_K_WH * settings.capacity_kwh * 1000 / settings.cells
        self.sun_a = self.load_a = 0.0
        self.voltage_v = self.rest_v
        self._flow: Flow = self._flows
        self.step(0)
        self._flow = flow or self._flows

    def _make_cells(self, ohm: float) -> list[Cell]:
        settings, uniform = self.settings, self._random.uniform
        cells = [
            Cell(
                soc=(settings.soc_percent + settings.spread_percent * uniform(-0.5, 0.5)) / 100,
                ohm=ohm * (1 + settings.spread_ohm_percent / 100 * uniform(-0.5, 0.5)),
                celsius=settings.ambient_c,
                warmer_c=uniform(0, 2),
                error_mv=settings.spread_mv * uniform(-0.5, 0.5),
            )
            for _ in range(settings.cells)
        ]
        for cell in cells:
            cell.share = 1 + settings.spread_capacity_percent / 100 * uniform(-0.5, 0.5)
            cell.leak_a = settings.leak_ma / 1000 * uniform(0, 1)
            cell.soc = 1 - (1 - cell.soc) / cell.share  # the pack was balanced at the top
        return cells

    def limits(self, cvl_v: float, ccl_a: float, dcl_a: float) -> None:
        """Tell charger and loads their limits.  Raises ValueError for what cannot be one."""
        CVL_V.checked("CVL", cvl_v)
        CURRENT_A.checked("CCL", ccl_a)
        CURRENT_A.checked("DCL", dcl_a)
        self.told = Limits(cvl_v, ccl_a, dcl_a)

    def offset_cell(self, number: int, offset_mv: float) -> None:
        """Put a cell (from 1) out of line, with 0 back in.  Raises ValueError if there is no such cell."""
        Range(1, len(self.cells)).checked("the cell", number)
        self.cells[number - 1].offset_v = OFFSET_MV.checked("the offset", offset_mv) / 1000

    def change_setting(self, name: str, value: float) -> None:
        """Set one of ``SETTABLE`` in the BMS, in its unit.  Raises ValueError if that cannot be."""
        if name not in SETTABLE:
            raise ValueError(f"there is no setting {name!r}, only {', '.join(SETTABLE)}")
        fields, allowed, step = SETTABLE[name]
        allowed.checked(name, value)
        counts = round(value * 1000 / step) * step if step else round(value)
        changes: dict[str, Any] = dict.fromkeys(fields, counts)
        self.bms.setup = replace(self.bms.setup, **changes)

    @property
    def rest_v(self) -> float:
        """The pack's voltage when no current flows."""
        return sum(interpolate(self.curve, cell.soc) + cell.offset_v for cell in self.cells)

    def step(self, dt_s: float) -> None:
        """Let ``dt_s`` seconds pass, a day at most.  Raises ValueError for anything else."""
        STEPS.checked("a step", dt_s)
        parts = max(1, math.ceil(dt_s / STEP_S))
        for _ in range(parts):
            self._advance(dt_s / parts)

    def _advance(self, dt_s: float) -> None:
        bms = self.bms
        self.look()
        sun_a, load_a = self._flow(
            sum(self.idle_v),
            sum(self.quick_ohm),
            self.voltage_v,
            dt_s,
            charge=bms.charge_allowed,
            load=bms.load_allowed,
        )
        self.carry(sun_a, load_a, dt_s)

    def carry(self, sun_a: float, load_a: float, dt_s: float) -> None:
        """Let these currents flow for ``STEP_S`` at most: a step of a pack among others, after ``look``."""
        self.sun_a, self.load_a = sun_a, load_a
        self._pass(sun_a - load_a, dt_s)
        self._measure(dt_s)

    def look(self) -> None:
        """The cells as a current will find them: ``idle_v`` and ``quick_ohm``."""
        quick, cold = 1 - self.settings.slow_percent / 100, self.settings.cold_ohm_percent / 100
        warm_c = WARM_C - self.temperature_offset_c
        table_v, rises_v = self._table
        for n, cell in enumerate(self.cells):
            ohm = cell.ohm * quick
            if cell.celsius < warm_c:
                ohm *= 1 + cold * (warm_c - cell.celsius)
            at = (cell.soc - _FIRST) * _STEPS
            below = int(at)
            if 0 < at < len(rises_v):
                volts = table_v[below] + (at - below) * rises_v[below]
            else:
                volts = interpolate(self.curve, cell.soc)
            self.quick_ohm[n] = ohm
            self.idle_v[n] = volts + cell.offset_v + cell.slow_v - BLEED_A * ohm * cell.bleeds

    def _pass(self, net_a: float, dt_s: float) -> None:
        """Let a current through the cells."""
        slow, settled = self._slow_by_quick, 1 - math.exp(-dt_s / self.settings.slow_s)
        hours_by_ah, warms = dt_s / 3600 / self.capacity_ah, dt_s / self.warmth_j_per_k
        cools, ambient_c = dt_s / COOLING_S, self.settings.ambient_c
        for cell, idle_v, ohm in zip(self.cells, self.idle_v, self.quick_ohm, strict=True):
            volts = idle_v + net_a * ohm
            cell.volts = volts if 0.0 < volts < 5.0 else min(max(volts, 0.0), 5.0)
            amps = net_a - BLEED_A if cell.bleeds else net_a
            cell.slow_v += (amps * ohm * slow - cell.slow_v) * settled
            cell.soc += (amps - cell.leak_a) * hours_by_ah / cell.share
            above_c = cell.celsius - ambient_c - cell.warmer_c
            cell.celsius += amps * amps * ohm * (1 + slow) * warms - above_c * cools

    def _measure(self, dt_s: float) -> None:
        """Let the boards and the sensors read."""
        cells, bms = self.cells, self.bms
        gauss, ripple_mv = self._random.gauss, self.settings.ripple_mv
        self.voltage_v = sum(cell.volts for cell in cells)
        readings = [cell.volts * 1000 + cell.error_mv + gauss(0, ripple_mv) for cell in cells]
        cell_mv = [5 * round(reading / 5) if reading > 0 else 0 for reading in readings]
        cell_raw = [round(cell.celsius + self.temperature_offset_c) + RAW_ZERO_C for cell in cells]
        bms.measure(cell_mv, cell_raw, 5 * round(self.voltage_v * 200), *self._sensors_ma, dt_s)
        for cell, millivolts in zip(cells, cell_mv, strict=True):
            cell.bleeds = 0 < bms.setup.vbalance_mv < millivolts

    def _flows(
        self, idle_v: float, ohm: float, volts: float, _dt_s: float, /, *, charge: bool, load: bool
    ) -> tuple[float, float]:
        """What comes from the sun and what goes to the loads, in A.  Open relays let nothing pass.

        The charger holds the pack's voltage and current under its limits and carries the loads
        beside; the loads take from the pack no more than DCL.
        """
        volts = max(volts, 1.0)
        sun_a = self.sun_w / volts if charge else 0.0
        load_a = self.load_w / volts if load else 0.0
        limits = self.told if self.told and self.settings.obeys else self._charger_limits
        room_a = (limits.cvl_v - idle_v) / ohm
        sun_a = min(max(load_a + min(room_a, limits.ccl_a), 0.0), sun_a)
        return sun_a, min(load_a, sun_a + limits.dcl_a)

    @property
    def _charger_limits(self) -> Limits:
        setup = self.bms.setup
        full_mv = (setup.vbalance_mv or setup.vmax_mv - 2 * CHARGER_MARGIN_MV) + CHARGER_MARGIN_MV
        return Limits(len(self.cells) * full_mv / 1000, math.inf, math.inf)

    @property
    def _sensors_ma(self) -> tuple[int, int]:
        """The two currents as the sensors have them; a relay that has just opened lets none pass."""
        return (
            _sensor_ma(self.sun_a * (self.bms.charge_allowed or not self.switches)),
            _sensor_ma(self.load_a * (self.bms.load_allowed or not self.switches)),
        )

    def frame(self) -> Frame:
        """What the BMS sends now.  The next call is about the next cell and the next rotating key.

        Generation A is the oldest firmware: it sends no pairs.
        """
        bms, setup = self.bms, self.bms.setup
        current1_ma, current2_ma, current_ma = bms.currents(*self._sensors_ma)
        cell, key = self._turn % len(self.cells), self._turn % len(_KEYS)
        pairs = setup.generation != "A"
        self._turn += 1
        lowest = highest = coldest = hottest = (0, 0)
        number = cell_mv = cell_raw = 0
        if bms.communication:  # without, it names no cell and has no reading of one
            lowest, highest = _with_cell(bms.cell_mv, min), _with_cell(bms.cell_mv, max)
            coldest, hottest = _with_cell(bms.cell_raw, min), _with_cell(bms.cell_raw, max)
            number, cell_mv = cell + 1, bms.cell_mv[cell]
            cell_raw = bms.cell_raw[cell] + HOT_BOARD_C * self.cells[cell].bleeds
        return Frame(
            voltage_mv=bms.voltage_mv,
            current1_ma=current1_ma,
            current2_ma=current2_ma,
            current_ma=current_ma,
            lowest_mv=lowest[0],
            lowest_cell=lowest[1],
            highest_mv=highest[0],
            highest_cell=highest[1],
            coldest_raw=coldest[0],
            coldest_cell=coldest[1],
            hottest_raw=hottest[0],
            hottest_cell=hottest[1],
            cell=number,
            cells=len(self.cells),
            cell_mv=cell_mv,
            cell_raw=cell_raw,
            status=bms.status,
            collected_today_wh=int(bms.collected_wh),
            stored_wh=round(bms.soc * setup.capacity_wh),
            consumed_today_wh=int(bms.consumed_wh),
            soc_percent=round(bms.soc * 100),
            collected_kwh=int(bms.collected_kwh),
            consumed_kwh=int(bms.consumed_kwh),
            key=key if pairs else None,
            value=self._rotating_byte(key) if pairs else 0,
            capacity_wh=setup.capacity_wh,
            vmin_mv=setup.vmin_mv,
            vmax_mv=setup.vmax_mv,
            vbalance_mv=setup.vbalance_mv,
        )

    def _rotating_byte(self, key: int) -> int:
        """One byte, the high one first; all bytes of a value are of the moment of its first."""
        pair, index = _KEYS[key]
        size = len(pair.keys)
        if index == 0:
            counts = min(self.bms.rotating(pair.name) // pair.step, 256**size - 1)
            self._latched = counts.to_bytes(size, "big")
        return self._latched[index]


def _sensor_ma(amps: float) -> int:
    """In steps of 125 mA, up to where the wire ends."""
    return min(round(amps * 8), 0xFFFF) * 125


def _with_cell(readings: Sequence[int], pick: Callable[[Sequence[int]], int]) -> tuple[int, int]:
    """The reading picked, and the number of its cell."""
    reading = pick(readings)
    return reading, readings.index(reading) + 1
