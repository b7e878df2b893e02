"""A simulated day of each BMS beside the mirror: each was written from the manuals, without the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dbus_smartbms.pack import Pack
from dbus_smartbms.plant import Plant, PlantSettings
from dbus_smartbms.settings import GENERATIONS, MODES, Settings
from dbus_smartbms.simulated_bms import DAY_S
from smartbms_protocol.layout import CHARGE_ALLOWED, DISCHARGE_ALLOWED, NO_COMMUNICATION

ODD_FRAMES = 20
"""Of a day's 43,200, where mirror and BMS may differ: at a restart the BMS knows its SoC finer."""


def configured(generation: str, mode: str) -> Settings:
    """The plant's thresholds, which the wire does not carry; of its own Tmin for A and B."""
    plant = Plant(PlantSettings(generation=generation, normal_mode=mode == "normal"))
    setup = plant.bms.setup
    return Settings(
        generation=generation,
        mode=mode,
        tmin_charge=float(setup.tmin_charge_c),
        tmin_discharge=float(setup.tmin_discharge_c),
        tmax=float(setup.tmax_c),
        charge_restart=float(setup.charge_restart_percent),
        discharge_restart=float(setup.discharge_restart_percent),
    )


def day(generation: str, mode: str, seconds: int = DAY_S) -> Iterator[tuple[float, Plant]]:
    """A small pack that is full by noon and empty by night, of which every other second is given.

    At two it freezes, at three it is hot, at four the BMS hears no cells for a while, at 16 h a cell is over
    Vmax for a while: nobody keeps to limits.
    """
    settings = PlantSettings(
        cells=2, capacity_kwh=1.0, soc_percent=40, generation=generation, normal_mode=mode == "normal"
    )
    plant = Plant(replace(settings, obeys=False))
    for second in range(0, seconds, 2):  # every other frame is lost, and the tests take half as long
        hour = second / 3600
        plant.sun_w = max(0.0, 350 * math.sin((hour - 6) / 12 * math.pi))
        plant.load_w = 250.0 if second // 1800 % 4 == 0 else 50.0
        plant.temperature_offset_c = {2: -30.0, 3: 45.0}.get(int(hour), 0.0)
        plant.bms.communication = not 4 <= hour < 4.1
        plant.offset_cell(1, 500 if 16 <= hour < 16.1 else 0)
        plant.step(2.0)
        yield float(second), plant


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_day_of_each_generation_and_mode_agrees_with_the_mirror(generation: str, mode: str) -> None:
    pack = Pack(configured(generation, mode))
    odd, furthest, relays, lights = 0, 0.0, set(), 0
    for now, plant in day(generation, mode):
        frame = plant.frame()
        pack.take(frame, now)
        assert pack.agreement.text is None, (now, pack.agreement.text)
        bms = (frame.has(CHARGE_ALLOWED), frame.has(DISCHARGE_ALLOWED))
        odd += bms != tuple(relay.closed for relay in pack.relays)
        relays.add(bms)
        lights |= frame.status
        assert pack.soc is not None
        furthest = max(furthest, abs(pack.soc - 100 * plant.bms.soc))
    assert odd <= ODD_FRAMES
    assert relays == {(True, True), (True, False), (False, True), (False, False)}, "the day has tried it all"
    assert lights & NO_COMMUNICATION
    assert furthest < 5.0  # synchronised to 0 % within the same minute, else only rounding


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("bms", "assumed"),
    [
        (("C", "normal"), ("C", "critical")),
        (("C", "normal"), ("A", "normal")),
        (("C", "critical"), ("B", "normal")),
    ],
)
def test_a_wrong_generation_or_mode_is_noticed_by_the_afternoon(
    bms: tuple[str, str], assumed: tuple[str, str]
) -> None:
    pack = Pack(replace(configured(*bms), generation=assumed[0], mode=assumed[1]))
    for now, plant in day(*bms, seconds=16 * 3600):
        pack.take(plant.frame(), now)
        if pack.agreement.text is not None:
            break
    assert pack.agreement.text is not None
    assert f"the table of generation {assumed[0]} in {assumed[1]} mode" in pack.agreement.text
    assert pack.agreement.text.endswith("check [pack] generation and mode")
