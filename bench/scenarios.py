"""The scenarios of ``limits.py``: what is simulated, for how long, and why; and what they are built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from parallel import Busbar

from dbus_smartbms.house import CABLE_OHM, House, HouseSettings, Load, Mppt
from dbus_smartbms.plant import Plant, PlantSettings
from dbus_smartbms.settings import Settings

Hours = tuple[float, float]
"""From and to, since the beginning."""
NEVER: Hours = (0.0, 0.0)


@dataclass(frozen=True)
class Pack:
    """A pack of a bank: in what it differs."""

    plant: dict[str, Any] = field(default_factory=dict)
    ohm: float = 1.0
    """Its resistance and its cable's, as a multiple of what they would be."""
    prepare: Callable[[Plant, Random], None] | None = None
    """What is wrong with it at the beginning."""
    later: Callable[[Plant, float], None] | None = None
    """What happens to it, each second."""
    loss: float = 0.0
    """Probability that a frame is lost."""
    gap_s: tuple[float, float] = (0.0, 0.0)
    """Silences: one an hour on average, from and to so long."""
    silent_h: Hours = NEVER
    """When nothing comes through its cable."""
    away_h: Hours = NEVER
    """When it is not at the busbar either."""


@dataclass(frozen=True)
class Scenario:
    """A row: what is simulated, for how long, and why."""

    name: str
    reason: str
    hours: float
    plant: dict[str, Any] = field(default_factory=dict)
    house: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the driver, where a user would have to configure something."""
    prepare: Callable[[Plant, Random], None] | None = None
    """What is wrong with the pack at the beginning."""
    later: Callable[[Plant, float], None] | None = None
    """What happens to it, each second."""
    loss: float = 0.0
    """Probability that a frame is lost."""
    gap_s: tuple[float, float] = (0.0, 0.0)
    """Silences: one an hour on average, from and to so long."""
    seeds: int = 99
    """At most so many: long scenarios take their time."""
    packs: tuple[Pack, ...] = ()
    """Of a bank; without them there is one, with what is said above."""

    @property
    def bank(self) -> tuple[Pack, ...]:
        """The packs."""
        return self.packs or (Pack({}, 1.0, self.prepare, self.later, self.loss, self.gap_s),)


def ahead(percent: float) -> Callable[[Plant, Random], None]:
    """One cell fuller than the others."""

    def prepare(pack: Plant, random: Random) -> None:
        random.choice(pack.cells).soc += percent / 100

    return prepare


def behind(percent: float) -> Callable[[Plant, Random], None]:
    def prepare(pack: Plant, random: Random) -> None:
        random.choice(pack.cells).soc -= percent / 100

    return prepare


def weak(share: float, ohm: float, level: float) -> Callable[[Plant, Random], None]:
    """A cell with a share of the capacity and a multiple of the resistance, level with the rest at a SoC."""

    def prepare(pack: Plant, random: Random) -> None:
        cell = random.choice(pack.cells)
        cell.share *= share
        cell.ohm *= ohm
        cell.soc = level + (cell.soc - level) / share

    return prepare


def wrong_soc(percent: float) -> Callable[[Plant, Random], None]:
    def prepare(pack: Plant, _random: Random) -> None:
        pack.bms.soc = percent / 100

    return prepare


def warming(by_c: float, hours: float) -> Callable[[Plant, float], None]:
    """All cells warmer by and by."""

    def later(pack: Plant, t: float) -> None:
        pack.temperature_offset_c = by_c * min(t / 3600 / hours, 1.0)

    return later


SUNNY = {"mppts": (Mppt(6000, 100), Mppt(2500, 50)), "start_h": 7}
CLOUDY = {"clear_s": 240, "cloudy_s": 90}
FEED = {"grid": "ess", "feed_in": True}
SCENARIOS = (
    Scenario("summer day", "the usual: balanced, sun and a house; nothing may be wasted", 9,
             {"soc_percent": 55}, {**SUNNY, "kettles_an_hour": 1}),
    Scenario("one cell ahead", "a cell 2 % fuller reaches the top alone; bleeding it takes 6 h", 8.5,
             {"soc_percent": 80}, {**SUNNY, "start_h": 9}, prepare=ahead(2)),
    Scenario("one cell behind", "a cell 2 % emptier: all others wait for it at the top", 9,
             {"soc_percent": 85}, {**SUNNY, "start_h": 8}, prepare=behind(2)),
    Scenario("weak cell", "a cell with 85 % of the capacity and twice the resistance", 9,
             {"soc_percent": 70}, {**SUNNY, "start_h": 7, "kettles_an_hour": 2}, prepare=weak(0.85, 2, 0.9)),
    Scenario("new pack", "never balanced: 4 % between the cells, 1 A to balance with", 12,
             {"soc_percent": 85, "spread_percent": 4}, {"grid": "charge", "multi_a": 120, "load_w": 300}),
    Scenario("SoC too high", "the BMS believes 100 %, the cells have 60", 5,
             {"soc_percent": 60}, {**SUNNY, "start_h": 8}, prepare=wrong_soc(100)),
    Scenario("SoC too low", "the BMS believes 20 %, the cells have 90", 3,
             {"soc_percent": 90}, {**SUNNY, "start_h": 9}, prepare=wrong_soc(20)),
    Scenario("cold morning", "under 0 degC: nothing may flow in, then slowly warmer", 6,
             {"soc_percent": 50, "ambient_c": -4}, {**SUNNY, "start_h": 8}, later=warming(14, 4),
             settings={"tmin_charge": 0.0, "tmin_discharge": -20.0, "tmax": 55.0}),
    Scenario("cold, feed-in", "the same where chargers obey CVL alone; BMS's flags decide", 5,
             {"soc_percent": 50, "ambient_c": -4}, {**SUNNY, **FEED, "start_h": 8}, later=warming(14, 4)),
    Scenario("hot pack", "51 degC where it stands, Tmax 55: 0.5 C would trip it, 0.15 C may last", 8,
             {"soc_percent": 20, "ambient_c": 51},
             {"mppts": (Mppt(9000, 150), Mppt(6000, 100)), "start_h": 9},
             settings={"tmin_charge": 0.0, "tmin_discharge": -20.0, "tmax": 55.0}),
    Scenario("clouds at the top", "sun in and out while the pack gets full", 4,
             {"soc_percent": 93}, {**SUNNY, **CLOUDY, "start_h": 10}),
    Scenario("1 C at the top", "a charger of 1 C on a nearly full pack", 3,
             {"soc_percent": 94}, {"grid": "charge", "multi_a": 320, "mppts": (Mppt(0, 1),)},
             settings={"charge_rate": 1.0}),
    Scenario("feed-in, 16 cells", "CCL ignored, chargers at CVL + 0.4 V", 4,
             {"soc_percent": 88}, {**FEED, "mppts": (Mppt(8000, 150), Mppt(4000, 80)), "start_h": 9}),
    Scenario("feed-in, 4 cells", "the same at 12 V: CVL + 0.1 V, double the cable's share", 4,
             {"soc_percent": 88, "cells": 4, "capacity_kwh": 4.0},
             {**FEED, "mppts": (Mppt(2500, 150),), "start_h": 9, "load_w": 150, "multi_w": 3000}),
    Scenario("feed-in, clouds", "chargers at CVL + 0.4 V in and out of the sun, a cell ahead", 4,
             {"soc_percent": 93}, {**FEED, **CLOUDY, "mppts": (Mppt(8000, 150), Mppt(4000, 80)),
                                   "start_h": 10}, prepare=ahead(1)),
    Scenario("load steps near empty", "0.1 to 0.5 C switched on a nearly empty pack, ESS", 3,
             {"soc_percent": 12}, {"grid": "ess", "start_h": 20, "sunset_h": 19, "load_w": 1500,
                                   "kettles_an_hour": 12, "kettle_w": 6000, "kettle_s": 60}),
    Scenario("kettle on empty", "off-grid, 2 kW on a pack with 8 %: dips are not emptiness", 3,
             {"soc_percent": 8}, {"start_h": 2, "load_w": 250, "kettles_an_hour": 3}),
    Scenario("winter", "little sun, off-grid, the pack low for days", 9,
             {"soc_percent": 25}, {"start_h": 7, "sunrise_h": 8, "sunset_h": 16, "days": (0.15,),
                                   "load_w": 500, "kettles_an_hour": 1}),
    Scenario("long float", "full, on shore power for half a day", 10,
             {"soc_percent": 99}, {"grid": "charge", "load_w": 300, "mppts": (Mppt(0, 1),)}),
    Scenario("4 cells", "12 V on a boat", 5, {"soc_percent": 60, "cells": 4, "capacity_kwh": 4.0},
             {"mppts": (Mppt(1500, 100),), "start_h": 8, "load_w": 100}),
    Scenario("48 cells", "160 V", 3, {"soc_percent": 85, "cells": 48, "capacity_kwh": 48.0},
             {"mppts": (Mppt(24_000, 150),), "start_h": 9, "load_w": 1500, "multi_w": 30_000}),
    Scenario("100 cells", "330 V", 3, {"soc_percent": 88, "cells": 100, "capacity_kwh": 100.0},
             {"mppts": (Mppt(50_000, 150),), "start_h": 9, "load_w": 3000, "multi_w": 60_000}),
    Scenario("LTO", "2.6 to 2.8 V, a cell ahead", 8, {"soc_percent": 70, "chemistry": "LTO", "cells": 22},
             {**SUNNY, "start_h": 8}, prepare=ahead(2)),
    Scenario("NMC", "4.0 to 4.15 V, a cell ahead", 5, {"soc_percent": 70, "chemistry": "NMC", "cells": 14},
             {**SUNNY, "start_h": 9}, prepare=ahead(2)),
    Scenario("NCA", "4.0 to 4.15 V, a cell ahead", 5, {"soc_percent": 70, "chemistry": "NCA", "cells": 14},
             {**SUNNY, "start_h": 9}, prepare=ahead(2)),
    Scenario("normal mode", "the BMS ends the charge itself by opening its relay", 7,
             {"soc_percent": 80, "normal_mode": True}, {**SUNNY, "start_h": 9}, settings={"mode": "normal"}),
    Scenario("frames lost", "1 in 10 frames lost, and silences of 2 to 30 s", 4,
             {"soc_percent": 88}, {**SUNNY, "start_h": 9}, prepare=ahead(1), loss=0.1, gap_s=(2, 30)),
    Scenario("sensor noise", "readings 20 mV apart and 5 mV noisy", 4,
             {"soc_percent": 85, "spread_mv": 20, "ripple_mv": 5}, {**SUNNY, "start_h": 9}),
    Scenario("charger 0.5 % high", "its terminals stand 0.5 % over what it is told", 4,
             {"soc_percent": 88}, {**SUNNY, "start_h": 9, "mppts": (Mppt(8000, 150, 0.0015, 0.5),)}),
    Scenario("charger 0.5 % low", "and 0.5 % under: full all the same", 4,
             {"soc_percent": 88}, {**SUNNY, "start_h": 9, "mppts": (Mppt(8000, 150, 0.0015, -0.5),)}),
    Scenario("two weeks", "of weather, nights, loads", 14 * 24,
             {"soc_percent": 40}, {**SUNNY, "start_h": 0, "clear_s": 1200, "cloudy_s": 300, "load_w": 450,
                                   "kettles_an_hour": 0.4, "loads": (Load(18, 4, 700),),
                                   "days": (1.0, 0.8, 0.2, 0.1, 0.1, 0.4, 1.0, 0.9, 0.15, 0.3, 0.6, 1.0, 0.05,
                                            0.8)}, seeds=2),
)  # fmt: skip
AH_280 = {"capacity_kwh": 14.7}
AH_200 = {"capacity_kwh": 10.5}
AH_100 = {"capacity_kwh": 5.25}
UNEQUAL = (
    Pack(AH_280),
    Pack(AH_280, 1.3, prepare=weak(0.8, 1, 0.9)),
    Pack(AH_200, 1.3),  # of cells with 1.4 times the resistance: 1.8
)
"""Resistances as 1 : 1.3 : 1.8."""
ROOF = {"mppts": (Mppt(14_000, 250), Mppt(14_000, 250)), "multi_w": 20_000.0, "load_w": 1000.0, "start_h": 8}
NIGHT = {"start_h": 2, "load_w": 4000, "kettles_an_hour": 3}
WEAK = (Pack(AH_280), Pack(AH_200, 0.7, prepare=weak(0.8, 1, 0.9)))
"""Of equal resistance: the weaker gives as much as the other."""
OWN = {"relays": "own"}


def runaway(from_h: float, to_h: float) -> Callable[[Plant, float], None]:
    """A board that reads its cell higher and higher, within 10 minutes over Vmax, until it is mended."""

    def later(pack: Plant, t: float) -> None:
        pack.cells[4].error_mv = 450 * min(max((t / 3600 - from_h) * 6, 0.0), 1.0) * (t / 3600 < to_h)

    return later


def eight() -> tuple[Pack, ...]:
    """Packs of 100 Ah +-10 %, of resistances +-20 % in another order."""
    ohms = (0.8, 1.2, 0.86, 1.14, 0.91, 1.09, 0.97, 1.03)
    return tuple(Pack({"capacity_kwh": 5.25 * (0.9 + 0.2 * n / 7)}, ohm) for n, ohm in enumerate(ohms))


BANKS = (
    Scenario("three unequal, ESS", "resistances as 1 : 1.3 : 1.8, a weak cell; chargers obey CVL alone", 7,
             {"soc_percent": 50}, {**ROOF, **FEED}, packs=UNEQUAL),
    Scenario("three unequal, off-grid", "the same where chargers obey CCL", 7,
             {"soc_percent": 50}, {**ROOF, "kettles_an_hour": 2}, packs=UNEQUAL),
    Scenario("one cable bad", "of two equal packs one loses frames, and is silent for 5 to 40 s", 5,
             {"soc_percent": 80}, {**SUNNY, "start_h": 9},
             packs=(Pack(AH_280), Pack(AH_280, loss=0.05, gap_s=(5, 40)))),
    Scenario("cable pulled", "at the top of charge for 20 minutes; back while others are in absorption", 4,
             {"soc_percent": 80}, {**ROOF, "start_h": 10},
             packs=(Pack(AH_280), Pack(AH_280, 1.3, silent_h=(0.42, 0.75)), Pack(AH_200, 1.3))),
    Scenario("pack away, returns", "leaves at 70 %, comes back to full ones: they and the sun fill it", 4,
             {"soc_percent": 50}, {**ROOF, "start_h": 9}, settings=OWN,
             packs=(Pack(AH_280), Pack(AH_280), Pack(AH_200, silent_h=(0.5, 1.3), away_h=(0.5, 1.3)))),
    Scenario("one denies, own", "a board reads wrong: its pack's contactor opens; the other goes on", 5,
             {"soc_percent": 20}, {**ROOF, "start_h": 9}, settings=OWN,
             packs=(Pack(AH_280), Pack(AH_280, later=runaway(1, 3)))),
    Scenario("one denies, series", "the same where it stops all charging", 5,
             {"soc_percent": 20}, {**ROOF, "start_h": 9},
             packs=(Pack(AH_280), Pack(AH_280, later=runaway(1, 3)))),
    Scenario("to empty, own", "a weak pack is empty first: its contactor opens, the other goes on", 3,
             {"soc_percent": 30}, NIGHT, settings=OWN, packs=WEAK),
    Scenario("to empty, series", "the same where the first to be empty ends it for both", 3,
             {"soc_percent": 30}, NIGHT, packs=WEAK),
    Scenario("to empty, ESS", "the same with a grid: all that DCL allows is drawn, and then the sun rises", 6,
             {"soc_percent": 30}, {**ROOF, **NIGHT, "start_h": 4, "grid": "ess"}, packs=WEAK),
    Scenario("eight packs", "100 Ah +-10 %, +-20 % in resistance", 6,
             {"soc_percent": 50}, {**ROOF, "kettles_an_hour": 2}, packs=eight()),
    Scenario("one 30 % lower", "current divides by charge, far from the capacities' shares", 5,
             {"soc_percent": 80}, ROOF, packs=(Pack(AH_280), Pack({**AH_280, "soc_percent": 50}))),
)  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in (*SCENARIOS, *BANKS)}


def build(scenario: Scenario, seed: int, *, perfect: bool) -> tuple[Busbar, Settings]:
    """The packs in a house at the scenario's beginning, and the driver's settings.

    The seed is of the cells and of the weather; ``perfect`` chargers obey at once.
    """
    house = House(
        HouseSettings(**{"seed": seed, "perfect": perfect, **scenario.house}), scenario.plant.get("cells", 16)
    )
    plants = []
    for n, pack in enumerate(scenario.bank):
        cells = PlantSettings(**{"seed": seed + 1000 * n, **scenario.plant, **pack.plant})
        plant = Plant(cells, house.flow)
        for cell in plant.cells:
            cell.ohm *= pack.ohm
        if pack.prepare:
            pack.prepare(plant, Random(seed * 7919 + 17 + n))
        if pack.later:
            pack.later(plant, 0.0)
        plants.append(plant)
    ohms = [CABLE_OHM * pack.ohm for pack in scenario.bank]
    own = scenario.settings.get("relays") == "own"
    return Busbar(plants, house, ohms, own=own), Settings(**scenario.settings)
