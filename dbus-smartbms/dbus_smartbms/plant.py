r"""A simulated pack: cells, a charger under the sun, loads, and a BMS after the manuals.

For the demo, for tests and for tuning the limits.  The BMS, and what it measures in whole numbers,
is in ``simulated_bms.py``; here is the pack that it looks at.
Pure: no I/O, no clock, and no chance but ``random.Random(seed)``.  Positive current charges.
Cells are floats in V, A and degC.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

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

CVL_V = Range(0, 1275, "V")
CURRENT_A = Range(0, 10_000, "A")
OFFSET_MV = Range(-5000, 5000, "mV")
_KEYS = tuple((pair, index) for pair in layout.PAIRS for index in range(len(pair.keys)))


@dataclass(slots=True)
class Cell:
    """A cell and its board."""

    soc: float
    ohm: float
    celsius: float
    warmer_c: float
    """How much warmer than the room its place is."""
    error_mv: float
    """How much too high its board reads."""
    offset_v: float = 0.0
    """A fault: how far the cell itself is out of line."""
    volts: float = 0.0
    bleeds: bool = False


class Limits(NamedTuple):
    """What the charger (CVL, CCL) and the loads (DCL) keep to."""

    cvl_v: float
    ccl_a: float
    dcl_a: float


class Plant:
    """The pack and all around it: ``step`` lets time pass, ``frame`` is what the BMS sends then."""

    def __init__(self, settings: PlantSettings) -> None:
        self.settings = settings
        self.load_w, self.sun_w = settings.load_w, settings.sun_w
        self.temperature_offset_c = 0.0
        """A fault: how much warmer every cell is than it should be."""
        self.told: Limits | None = None
        """The limits told last; None: the charger goes by its own settings."""
        self._random = Random(settings.seed)  # noqa: S311 - the same pack every time
        self._turn = 0
        self._latched = b""
        chemistry = CHEMISTRIES[settings.chemistry]
        setup = Setup(*chemistry[:6], round(settings.capacity_kwh * 10) * 100, settings.normal_mode)
        if settings.generation != "C":
            setup = replace(setup, generation=settings.generation, tmin_discharge_c=setup.tmin_charge_c)
        self.bms = Bms(setup, settings.soc_percent / 100, calibrated=settings.calibrated)
        self.curve = usable_curve(chemistry)
        mean_v = sum(interpolate(self.curve, (n + 0.5) / 1000) for n in range(1000)) / 1000
        self.capacity_ah = settings.capacity_kwh * 1000 / (settings.cells * mean_v)
        self.cells = self._make_cells(chemistry.sag_mv / 1000 / self.capacity_ah)
        self.ohm = sum(cell.ohm for cell in self.cells)
        self._warmth_j_per_k = WARMTH_J_PER_K_WH * settings.capacity_kwh * 1000 / settings.cells
        self.sun_a = self.load_a = 0.0
        self.voltage_v = self.rest_v
        self.step(0)

    def _make_cells(self, ohm: float) -> list[Cell]:
        settings, uniform = self.settings, self._random.uniform
        return [
            Cell(
                soc=(settings.soc_percent + settings.spread_percent * uniform(-0.5, 0.5)) / 100,
                ohm=ohm * uniform(0.9, 1.1),
                celsius=settings.ambient_c,
                warmer_c=uniform(0, 2),
                error_mv=settings.spread_mv * uniform(-0.5, 0.5),
            )
            for _ in range(settings.cells)
        ]

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
        return sum(self._rest_v(cell) for cell in self.cells)

    def _rest_v(self, cell: Cell) -> float:
        return interpolate(self.curve, cell.soc) + cell.offset_v

    def step(self, dt_s: float) -> None:
        """Let ``dt_s`` seconds pass, a day at most.  Raises ValueError for anything else."""
        Range(0, DAY_S, "s").checked("a step", dt_s)
        parts = max(1, math.ceil(dt_s / STEP_S))
        for _ in range(parts):
            self._advance(dt_s / parts)

    def _advance(self, dt_s: float) -> None:
        # What the cells would have if nothing came or went but what their boards bleed.
        idle_v = [self._rest_v(cell) - BLEED_A * cell.ohm * cell.bleeds for cell in self.cells]
        self.sun_a, self.load_a = self._flows(sum(idle_v))
        for cell, volts in zip(self.cells, idle_v, strict=True):
            self._advance_cell(cell, volts, self.sun_a - self.load_a, dt_s)
        self.voltage_v = sum(cell.volts for cell in self.cells)
        cell_mv = [max(0, 5 * round(self._read_mv(cell) / 5)) for cell in self.cells]
        cell_raw = [round(cell.celsius + self.temperature_offset_c) + RAW_ZERO_C for cell in self.cells]
        self.bms.measure(cell_mv, cell_raw, 5 * round(self.voltage_v * 200), *self._sensors_ma, dt_s)
        for cell, millivolts in zip(self.cells, cell_mv, strict=True):
            cell.bleeds = 0 < self.bms.setup.vbalance_mv < millivolts

    def _read_mv(self, cell: Cell) -> float:
        return cell.volts * 1000 + cell.error_mv + self._random.gauss(0, self.settings.ripple_mv)

    def _flows(self, idle_v: float) -> tuple[float, float]:
        """What comes from the sun and what goes to the loads, in A.  Open relays let nothing pass.

        The charger holds the pack's voltage and current under its limits and carries the loads
        beside; the loads take from the pack no more than DCL.
        """
        bms, volts = self.bms, max(self.voltage_v, 1.0)
        sun_a = self.sun_w / volts if bms.charge_allowed else 0.0
        load_a = self.load_w / volts if bms.load_allowed else 0.0
        limits = self.told if self.told and self.settings.obeys else self._charger_limits
        room_a = (limits.cvl_v - idle_v) / self.ohm
        sun_a = min(max(load_a + min(room_a, limits.ccl_a), 0.0), sun_a)
        return sun_a, min(load_a, sun_a + limits.dcl_a)

    @property
    def _charger_limits(self) -> Limits:
        setup = self.bms.setup
        full_mv = (setup.vbalance_mv or setup.vmax_mv - 2 * CHARGER_MARGIN_MV) + CHARGER_MARGIN_MV
        return Limits(len(self.cells) * full_mv / 1000, math.inf, math.inf)

    def _advance_cell(self, cell: Cell, idle_v: float, net_a: float, dt_s: float) -> None:
        cell.volts = min(max(idle_v + net_a * cell.ohm, 0.0), 5.0)
        amps = net_a - BLEED_A * cell.bleeds
        cell.soc += amps * dt_s / 3600 / self.capacity_ah
        above_c = cell.celsius - self.settings.ambient_c - cell.warmer_c
        cell.celsius += (amps * amps * cell.ohm / self._warmth_j_per_k - above_c / COOLING_S) * dt_s

    @property
    def _sensors_ma(self) -> tuple[int, int]:
        """The two currents as the sensors have them; a relay that has just opened lets none pass."""
        return (
            _sensor_ma(self.sun_a * self.bms.charge_allowed),
            _sensor_ma(self.load_a * self.bms.load_allowed),
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
