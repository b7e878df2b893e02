"""The simulated pack: its cells, its charger, and each of its faults as the frame shows it."""

from itertools import pairwise
from typing import Any

import pytest

from dbus_smartbms.plant import (
    BLEED_A,
    CHEMISTRIES,
    COOLING_S,
    RANGES,
    Plant,
    PlantSettings,
    interpolate,
    rest_table,
    usable_curve,
)
from dbus_smartbms.simulated_bms import SETTABLE, Setup
from smartbms_protocol import Frame, PackState, encode, layout, read

CALM: dict[str, Any] = {
    "spread_mv": 0, "spread_percent": 0, "spread_capacity_percent": 0, "leak_ma": 0, "ripple_mv": 0,
    "load_w": 0, "sun_w": 0,
}  # fmt: skip
"""All cells alike, nothing flows: what a test is about is then all that happens."""


def calm(**changes: Any) -> Plant:
    return Plant(PlantSettings(**{**CALM, **changes}))


def after(plant: Plant, seconds: float = 1) -> Frame:
    plant.step(seconds)
    return plant.frame()


def frames(plant: Plant, count: int) -> list[Frame]:
    return [after(plant) for _ in range(count)]


# Cells


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_open_circuit_voltage_always_rises_with_charge(name: str) -> None:
    curve = usable_curve(CHEMISTRIES[name])
    voltages = [interpolate(curve, n / 1000) for n in range(-20, 1021)]
    assert all(lower < higher for lower, higher in pairwise(voltages))


@pytest.mark.parametrize("percent", [-60, -20.1, -19.9, 0, 0.1, 33.33, 99.97, 100, 159.9, 160.1, 230])
@pytest.mark.parametrize("name", CHEMISTRIES)
def test_the_table_of_voltages_is_the_curve_and_goes_on_past_its_ends(name: str, percent: float) -> None:
    plant = calm(chemistry=name)
    plant.cells[0].soc = percent / 100
    plant.step(0)
    assert plant.idle_v[0] == pytest.approx(interpolate(plant.curve, percent / 100), abs=0.002)
    assert rest_table(name) is rest_table(name)


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_a_cell_is_empty_at_vmin_and_full_at_vbalance(name: str) -> None:
    chemistry = CHEMISTRIES[name]
    curve = usable_curve(chemistry)
    assert interpolate(curve, 0) == pytest.approx(chemistry.vmin_mv / 1000)
    assert interpolate(curve, 1) == pytest.approx(chemistry.vbalance_mv / 1000)


def test_lfp_is_flat_with_a_knee_at_either_end() -> None:
    curve = usable_curve(CHEMISTRIES["LFP"])

    def rise(low: float, high: float) -> float:
        return (interpolate(curve, high) - interpolate(curve, low)) / (high - low)

    plateau = rise(0.3, 0.9)
    assert plateau < 0.15  # V over the whole charge
    assert rise(0, 0.03) > 20 * plateau
    assert rise(0.99, 1) > 20 * plateau


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_thresholds_stand_in_order(name: str) -> None:
    row = CHEMISTRIES[name]
    order = [row.vmin_mv, row.vlow_mv, row.vnom_mv, row.vbalance_mv, row.vfull_mv, row.vmax_mv]
    assert order == sorted(set(order))


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_a_charge_fills_the_cells_by_what_flowed(name: str) -> None:
    plant = calm(chemistry=name, soc_percent=50, sun_w=2000)
    before, charge_ah = plant.cells[0].soc, 0.0
    for _ in range(600):
        plant.step(1)
        charge_ah += plant.sun_a / 3600
    assert charge_ah > 1
    assert all(
        (cell.soc - before) * plant.capacity_ah == pytest.approx(charge_ah, rel=1e-6) for cell in plant.cells
    )
    assert plant.bms.soc > 0.5


def test_a_discharge_empties_the_cells() -> None:
    plant = calm(load_w=2000)
    plant.step(600)
    assert plant.cells[0].soc < 0.6
    assert plant.bms.soc < 0.6
    assert plant.frame().current_ma == -plant.frame().current2_ma < 0  # type: ignore[operator]


def test_energy_counted_is_energy_stored_and_heat() -> None:
    plant = calm(sun_w=4000, load_w=1000)
    stored_wh = heat_wh = 0.0
    for _ in range(1800):
        before, rest_v = plant.cells[0].soc, plant.rest_v
        plant.step(1)
        amps = plant.sun_a - plant.load_a
        stored_wh += (plant.cells[0].soc - before) * plant.capacity_ah * rest_v
        heat_wh += amps**2 * sum(cell.ohm for cell in plant.cells) / 3600
    counted_wh = plant.bms.collected_wh - plant.bms.consumed_wh
    assert counted_wh > 1000
    assert counted_wh == pytest.approx(stored_wh + heat_wh, rel=0.005)


def test_current_through_the_resistance_lowers_the_voltage_and_warms() -> None:
    plant = calm(cells=2, capacity_kwh=2, load_w=2000, soc_percent=90)
    plant.step(1)
    assert plant.cells[0].volts < interpolate(plant.curve, plant.cells[0].soc) - 0.05
    plant.step(1800)
    place_c = plant.settings.ambient_c + plant.cells[0].warmer_c
    warmed_c = plant.cells[0].celsius - place_c
    assert warmed_c > 2
    plant.load_w = 0
    plant.step(3 * 3600)  # the time constant
    assert plant.cells[0].celsius - place_c == pytest.approx(warmed_c * 0.368, rel=0.02)


def test_a_part_of_the_drop_comes_at_once_and_the_rest_in_minutes() -> None:
    def drop(slow_percent: float, seconds: int) -> float:
        plant = calm(ambient_c=25, slow_percent=slow_percent, load_w=1000)
        for _ in range(seconds):
            plant.step(1)
        cell = plant.cells[0]
        return (interpolate(plant.curve, cell.soc) - cell.volts) / plant.load_a / cell.ohm

    assert drop(0, 1) == pytest.approx(drop(0, 600), rel=0.01) == pytest.approx(1, rel=0.01)
    assert drop(40, 1) == pytest.approx(0.6, rel=0.02)
    assert drop(40, 61) == pytest.approx(0.6 + 0.4 * 0.632, rel=0.01)  # a time constant later
    assert drop(40, 600) == pytest.approx(1, rel=0.01)


def test_the_drop_also_goes_slowly_when_the_current_ends() -> None:
    plant = calm(load_w=2000)
    plant.step(600)
    lasting_v = plant.cells[0].slow_v
    plant.load_w = 0
    plant.step(1)
    assert plant.cells[0].volts == pytest.approx(
        interpolate(plant.curve, plant.cells[0].soc) + lasting_v, abs=1e-4
    )
    plant.step(60)
    assert plant.cells[0].slow_v == pytest.approx(lasting_v * 0.368, rel=0.03)


@pytest.mark.parametrize("degrees", [60, 25, 15, 0, -20])
def test_in_the_cold_a_cell_resists_more_whatever_made_it_cold(degrees: float) -> None:
    more = 1 + 0.025 * max(0.0, 25 - degrees)
    cold = calm(ambient_c=degrees)
    assert cold.quick_ohm[3] == pytest.approx(0.6 * cold.cells[3].ohm * more)
    chilled = calm(ambient_c=20)
    chilled.temperature_offset_c = degrees - 20
    chilled.step(1)
    assert chilled.quick_ohm[3] == pytest.approx(0.6 * chilled.cells[3].ohm * more, rel=1e-4)


def test_a_cold_cell_warms_more_by_the_same_current() -> None:
    def warmed_c(degrees: float) -> float:
        plant = calm(ambient_c=degrees, load_w=4000)
        start_c = plant.cells[0].celsius
        plant.step(300)
        return plant.cells[0].celsius - start_c - plant.cells[0].warmer_c * 300 / COOLING_S

    assert warmed_c(-10) > 1.7 * warmed_c(25)


def test_cells_of_less_capacity_are_full_together_and_empty_first() -> None:
    plant = calm(spread_capacity_percent=20, soc_percent=100, load_w=3000)
    assert {round(cell.soc, 9) for cell in plant.cells} == {1}
    shares = [cell.share for cell in plant.cells]
    assert 0.9 <= min(shares) < 0.93
    assert 1.07 < max(shares) <= 1.1
    plant.step(2 * 3600)
    by_share = sorted(plant.cells, key=lambda cell: cell.share)
    assert by_share == sorted(plant.cells, key=lambda cell: cell.soc)
    lost_ah = [(1 - cell.soc) * cell.share * plant.capacity_ah for cell in plant.cells]
    assert max(lost_ah) == pytest.approx(min(lost_ah))
    other = calm(spread_capacity_percent=20, soc_percent=40)  # balanced at the top, not where it stands
    assert {round((1 - cell.soc) * cell.share, 9) for cell in other.cells} == {0.6}


def test_a_pack_at_rest_loses_its_leak_and_not_every_cell_the_same() -> None:
    plant = calm(leak_ma=20)
    before = plant.cells[0].soc
    plant.step(3600)
    lost_ma = [(before - cell.soc) * plant.capacity_ah * 1000 for cell in plant.cells]
    assert 0 <= min(lost_ma) < 5
    assert 15 < max(lost_ma) <= 20
    assert plant.bms.soc == pytest.approx(0.6)  # no sensor sees that


def test_resistances_differ_by_their_spread() -> None:
    ohms = [cell.ohm for cell in calm(spread_ohm_percent=50, cells=200, capacity_kwh=200).cells]
    assert 1.55 < max(ohms) / min(ohms) < 1.25 / 0.75
    assert len({cell.ohm for cell in calm(spread_ohm_percent=0).cells}) == 1


@pytest.mark.parametrize("name", RANGES)
def test_every_number_of_a_pack_has_ends(name: str) -> None:
    for beyond in (RANGES[name].low - 1, RANGES[name].high * 1.01):
        changes: dict[str, Any] = {name: beyond}
        with pytest.raises(ValueError, match=f"{name} has to be {RANGES[name]}, not ".replace("+", r"\+")):
            PlantSettings(**changes)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    def sent(seed: int) -> list[bytes]:
        return [encode(frame) for frame in frames(Plant(PlantSettings(seed=seed)), 40)]

    assert sent(7) == sent(7)
    assert sent(7) != sent(8)


def test_spread_shows_between_the_readings_of_the_cells() -> None:
    plant = calm(spread_mv=40)
    assert 10 < after(plant).highest_mv - plant.frame().lowest_mv <= 40


@pytest.mark.parametrize(
    "wrong",
    [
        {"chemistry": "lead"},
        {"generation": "D"},
        {"generation": ""},
        {"cells": 1},
        {"cells": 256},
        {"capacity_kwh": 0},
        {"soc_percent": 101},
        {"load_w": -1},
        {"sun_w": float("nan")},
    ],
)
def test_a_pack_that_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} has to be "):
        PlantSettings(**wrong)


@pytest.mark.parametrize("seconds", [-1, 86_401, float("nan")])
def test_time_does_not_go_back(seconds: float) -> None:
    with pytest.raises(ValueError, match="a step has to be 0 to 86400 s"):
        calm().step(seconds)


# Frames


@pytest.mark.parametrize("cells", [2, 16, 255])
@pytest.mark.parametrize("name", CHEMISTRIES)
def test_every_frame_is_one_that_a_reader_accepts(name: str, cells: int) -> None:
    plant = Plant(PlantSettings(chemistry=name, cells=cells, capacity_kwh=cells))
    for frame in frames(plant, 40):
        assert read(encode(frame)) == frame


def test_an_empty_and_a_full_pack_and_the_ends_of_the_wire_fit_a_frame() -> None:
    for changes in (
        {"soc_percent": 0, "load_w": 100_000, "cells": 2},
        {"soc_percent": 100, "sun_w": 100_000},
    ):
        plant = Plant(PlantSettings(**changes))  # type: ignore[arg-type]
        for frame in frames(plant, 100):
            assert read(encode(frame)) == frame


def test_a_current_beyond_the_wire_reads_as_its_end() -> None:
    plant = calm(cells=2, capacity_kwh=6000, load_w=100_000)
    assert after(plant).current2_ma == 0xFFFF * 125


def test_the_turn_goes_round_cells_and_keys() -> None:
    sent = frames(calm(cells=4), 40)
    assert [frame.cell for frame in sent[:6]] == [1, 2, 3, 4, 1, 2]
    assert [frame.key for frame in sent[:21]] == [*range(19), 0, 1]


def test_the_rotating_keys_say_what_the_bms_is_set_to() -> None:
    pack, plant = PackState(), calm()
    for second, frame in enumerate(frames(plant, 19)):
        pack.take(frame, second)
    assert {name: reading.value for name, reading in pack.pairs.items()} == {
        "soh_percent": 100,
        "charge_efficiency_percent": 99,
        "vlow_mv": 3000,
        "vnom_mv": 3300,
        "firmware_major_minor": 0x33,
        "firmware_patch": 11,
        "cycles": 100,
        "charged_kwh": 1600,
        "discharged_kwh": 1600,
        "status2": layout.CHARGE_RELAY_CLOSED | layout.LOAD_RELAY_CLOSED,
        "vfull_mv": 3450,
    }


def test_generation_a_sends_no_rotating_pairs_and_b_and_c_do() -> None:
    pairs = {
        generation: [
            (frame.key, frame.value)
            for frame in frames(Plant(PlantSettings(generation=generation)), 38)
            if read(encode(frame)) == frame
        ]
        for generation in "ABC"
    }
    assert pairs["A"] == [(None, 0)] * 38
    assert [key for key, _ in pairs["B"]] == [*range(19), *range(19)]
    assert pairs["B"] == pairs["C"]


def test_a_value_of_two_bytes_does_not_change_between_them() -> None:
    plant = calm()
    plant.change_setting("vlow", 2.56)  # 0x0200 counts
    sent = frames(plant, 3)
    plant.change_setting("vlow", 2.555)  # 0x01FF
    low = after(plant)
    assert [sent[2].key, low.key] == [2, 3]
    assert (sent[2].value, low.value) == (0x02, 0x00)


def test_today_begins_anew_after_a_day_and_the_totals_go_on() -> None:
    plant = calm(cells=2, load_w=100)
    first = after(plant, 86_000)
    second = after(plant, 1000)
    assert first.consumed_today_wh > 2000
    assert second.consumed_today_wh < 100
    assert first.consumed_kwh == second.consumed_kwh == 1602


def test_a_counter_beyond_its_bytes_stays_at_their_end() -> None:
    pack, plant = PackState(), calm(capacity_kwh=6000)
    plant.change_setting("capacity", 0.1)
    for second, frame in enumerate(frames(plant, 19)):
        pack.take(frame, second)
    assert pack.pair("cycles") == 0xFFFF


# The charger and the loads


def test_a_charger_without_limits_stops_a_little_over_vbalance() -> None:
    plant = calm(soc_percent=98, sun_w=8000)
    highest_mv = max(after(plant, 60).voltage_mv for _ in range(60))
    assert highest_mv == 16 * 3430
    assert 0 < (plant.frame().current_ma or 0) < 2000  # what the balancing takes


def test_with_balancing_off_the_charger_stops_under_vmax() -> None:
    plant = calm(soc_percent=99, sun_w=8000)
    plant.change_setting("vbalance", 0)
    assert max(after(plant, 60).voltage_mv for _ in range(60)) == 16 * 3670
    assert not any(cell.bleeds for cell in plant.cells)


def test_charger_and_loads_keep_to_the_limits_they_are_told() -> None:
    plant = calm(soc_percent=60, sun_w=8000)
    plant.limits(54.4, 20, 30)
    assert after(plant).current_ma == 20_000
    plant.sun_w, plant.load_w = 0, 8000
    assert after(plant).current_ma == -30_000
    plant.limits(53.2, 100, 120)
    plant.sun_w, plant.load_w = 8000, 0
    held = [after(plant, 60).voltage_mv for _ in range(20)]
    assert max(held) == 53_200
    assert 0 < plant.sun_a < 8000 / 53.2 - 20


def test_the_sun_carries_the_loads_while_nothing_may_be_charged() -> None:
    plant = calm(sun_w=3000, load_w=2000)
    plant.limits(56, 0, 100)
    frame = after(plant)
    assert (frame.current_ma, frame.current1_ma) == (0, frame.current2_ma)
    assert (frame.current2_ma or 0) > 30_000


def test_a_cvl_under_the_pack_takes_nothing_but_what_the_loads_use() -> None:
    plant = calm(sun_w=3000, load_w=0)
    plant.limits(50, 100, 100)
    assert after(plant).current1_ma == 0


def test_a_charger_that_ignores_limits_goes_on() -> None:
    plant = calm(sun_w=8000, obeys=False)
    plant.limits(50, 0, 0)
    assert (after(plant).current_ma or 0) > 100_000


@pytest.mark.parametrize("limits", [(-1, 0, 0), (1276, 0, 0), (50, -1, 0), (50, 0, float("nan"))])
def test_limits_that_cannot_be_are_refused_and_the_old_ones_stay(limits: tuple[float, float, float]) -> None:
    plant = calm()
    plant.limits(54, 1, 2)
    with pytest.raises(ValueError, match="has to be 0 to"):
        plant.limits(*limits)
    assert plant.told == (54, 1, 2)


class Socket:
    """Something else around the pack: 30 A in, 10 A out, and a note of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float, float, float, bool, bool]] = []

    def flow(
        self, idle_v: float, ohm: float, volts: float, dt_s: float, /, *, charge: bool, load: bool
    ) -> tuple[float, float]:
        self.asked.append((idle_v, ohm, volts, dt_s, charge, load))
        return 30.0, 10.0


def test_something_else_can_be_around_the_pack() -> None:
    socket = Socket()
    plant = Plant(PlantSettings(**{**CALM, "sun_w": 9000}), socket.flow)
    assert socket.asked == []  # nothing has moved yet
    before_v = plant.voltage_v
    plant.step(0.5)
    assert (plant.sun_a, plant.load_a) == (30, 10)
    assert plant.frame().current_ma == 20_000
    ((idle_v, ohm, volts, dt_s, charge, load),) = socket.asked
    assert (volts, dt_s, charge, load) == (before_v, 0.5, True, True)
    assert plant.voltage_v == pytest.approx(idle_v + 20 * ohm)
    plant.bms.deny_discharge = True
    plant.step(1)
    assert socket.asked[-1][4:] == (True, False)


def test_what_is_bled_shows_in_the_voltage_without_current() -> None:
    socket = Socket()
    plant = Plant(PlantSettings(**CALM), socket.flow)
    plant.step(1)
    plant.offset_cell(1, 200)
    plant.step(1)
    assert plant.cells[0].bleeds
    without_v = sum(cell.slow_v for cell in plant.cells) + plant.rest_v
    plant.step(1)
    assert socket.asked[-1][0] == pytest.approx(without_v - BLEED_A * plant.quick_ohm[0], abs=1e-6)


# The BMS in the pack


def test_a_relay_at_vmax_stops_what_a_charger_that_ignores_limits_sends() -> None:
    plant = calm(soc_percent=99, sun_w=8000, obeys=False, spread_percent=1)
    plant.change_setting("vbalance", 0)  # the charger aims at 30 mV under Vmax; some cells are fuller
    denied = [frame for frame in frames(plant, 1800) if not frame.has(layout.CHARGE_ALLOWED)]
    assert denied
    assert {frame.current1_ma for frame in denied} == {0}
    assert max(frame.highest_mv for frame in denied) >= 3700


# Balancing


def test_only_a_cell_over_vbalance_bleeds_and_its_board_reads_hot() -> None:
    plant = calm(cells=4)
    plant.offset_cell(2, 3400 - plant.cells[1].volts * 1000)  # just at it
    plant.offset_cell(3, 3410 - plant.cells[2].volts * 1000)
    frames(plant, 3)
    third = plant.cells[2]
    assert 3.41 - 1.0 * third.ohm < third.volts < 3.41 - 0.5 * third.ohm  # at once, and more in minutes
    plant.step(3600)
    assert [cell.bleeds for cell in plant.cells] == [False, False, True, False]
    lost_ah = (plant.cells[0].soc - plant.cells[2].soc) * plant.capacity_ah
    assert lost_ah == pytest.approx(1.0, rel=0.01)
    by_cell = {frame.cell: frame for frame in frames(plant, 4)}
    assert by_cell[3].cell_raw == plant.bms.cell_raw[2] + 40
    assert by_cell[2].cell_raw == plant.bms.cell_raw[1]
    assert by_cell[3].hottest_raw < by_cell[3].cell_raw


# Faults, as the frame shows them


def status2(plant: Plant) -> int:
    return next(frame.value for frame in frames(plant, 19) if frame.key == 16)


def test_deny_bits_and_no_current_in_that_direction() -> None:
    plant = calm(sun_w=1000, load_w=3000)
    plant.bms.deny_charge = True
    frame = after(plant)
    assert not frame.has(layout.CHARGE_ALLOWED)
    assert frame.has(layout.DISCHARGE_ALLOWED)
    assert frame.current1_ma == 0
    assert (frame.current2_ma or 0) > 0
    assert status2(plant) == layout.LOAD_RELAY_CLOSED
    plant.bms.deny_discharge = True
    frame = after(plant)
    assert not frame.has(layout.DISCHARGE_ALLOWED)
    assert (frame.current1_ma, frame.current2_ma, frame.current_ma) == (0, 0, 0)
    plant.bms.deny_charge = plant.bms.deny_discharge = False
    assert after(plant).has(layout.CHARGE_ALLOWED)
    assert (after(plant).current_ma or 0) < 0


def test_a_denial_counts_before_any_time_has_passed() -> None:
    plant = calm(load_w=3000)
    plant.step(1)
    plant.bms.deny_discharge = True
    assert plant.frame().current_ma == 0


def test_without_communication_no_cell_is_named_and_nothing_flows() -> None:
    plant = calm(load_w=3000)
    plant.bms.communication = False
    frame = after(plant)
    assert frame.status == layout.NO_COMMUNICATION
    assert (frame.lowest_cell, frame.highest_cell, frame.coldest_cell, frame.hottest_cell) == (0, 0, 0, 0)
    assert (frame.cell, frame.cell_mv, frame.current_ma, frame.cells) == (0, 0, 0, 16)
    assert read(encode(frame)) == frame
    assert status2(plant) == 0
    plant.bms.communication = True
    assert not after(plant).has(layout.NO_COMMUNICATION)
    assert (after(plant).current_ma or 0) < 0


def test_a_cell_out_of_line_is_named_and_moves_the_pack() -> None:
    plant = calm()
    before = after(plant)
    plant.offset_cell(7, 120)
    frame = after(plant)
    assert (frame.highest_cell, frame.highest_mv) == (7, before.highest_mv + 120)
    assert frame.voltage_mv == before.voltage_mv + 120
    plant.offset_cell(7, -1000)
    frame = after(plant)
    assert frame.lowest_cell == 7
    assert frame.has(layout.UNDER_VMIN)
    assert not frame.has(layout.DISCHARGE_ALLOWED)
    plant.offset_cell(7, 900)
    frame = after(plant)
    assert frame.has(layout.OVER_VMAX)
    assert not frame.has(layout.CHARGE_ALLOWED)
    plant.offset_cell(7, 0)
    assert after(plant).status == before.status


def test_a_dead_cell_reads_0_and_a_mad_one_5_volts() -> None:
    plant = calm(ripple_mv=20)
    plant.offset_cell(1, -5000)
    assert {frame.lowest_mv for frame in frames(plant, 20)} <= set(range(0, 101, 5))
    plant = calm()
    plant.offset_cell(1, 5000)
    assert after(plant).highest_mv == 5000


def test_a_pack_of_dead_cells_can_still_be_asked() -> None:
    plant = calm(cells=2, load_w=1000, sun_w=1000)
    for number in (1, 2):
        plant.offset_cell(number, -5000)
    assert [frame.voltage_mv for frame in frames(plant, 5)] == [0] * 5


@pytest.mark.parametrize(("number", "offset_mv"), [(0, 1), (17, 1), (1, 5001), (1, float("nan"))])
def test_a_cell_that_is_not_there_cannot_be_put_out_of_line(number: int, offset_mv: float) -> None:
    plant = calm()
    with pytest.raises(ValueError, match="has to be"):
        plant.offset_cell(number, offset_mv)
    assert {cell.offset_v for cell in plant.cells} == {0}


def test_cold_and_heat_light_their_lamps() -> None:
    plant = calm(ambient_c=20)
    plant.temperature_offset_c = -25
    frame = after(plant)
    assert frame.has(layout.UNDER_TMIN)
    assert not frame.has(layout.CHARGE_ALLOWED)
    assert frame.has(layout.DISCHARGE_ALLOWED)
    assert frame.coldest_raw == 276 - 5
    assert status2(plant) == layout.TOO_COLD_TO_CHARGE | layout.LOAD_RELAY_CLOSED
    plant.temperature_offset_c = -45
    assert status2(plant) == layout.TOO_COLD_TO_CHARGE | layout.TOO_COLD_TO_DISCHARGE
    plant.temperature_offset_c = 40
    frame = after(plant)
    assert frame.has(layout.OVER_TMAX)
    assert not frame.has(layout.CHARGE_ALLOWED | layout.DISCHARGE_ALLOWED)


def test_a_lost_current_sensor_is_x_and_its_charge_is_not_counted() -> None:
    plant = calm(load_w=3000)
    plant.bms.sensors = 1
    frame = after(plant)
    assert frame.current2_ma is None
    assert frame.current1_ma == frame.current_ma
    assert (frame.current_ma or 0) < 0
    plant.bms.sensors = 0
    counted = plant.bms.soc
    frame = after(plant, 600)
    assert (frame.current1_ma, frame.current2_ma, frame.current_ma) == (None, None, None)
    assert plant.bms.soc == counted
    assert plant.cells[0].soc < counted
    assert read(encode(frame)) == frame


def test_with_one_sensor_energy_is_counted_by_the_sign_of_the_sum() -> None:
    plant = calm(sun_w=1000, load_w=3000)
    plant.bms.sensors = 1
    frame = after(plant, 3600)
    assert frame.collected_today_wh == 0
    assert frame.consumed_today_wh == pytest.approx(2000, rel=0.02)


def test_the_soc_of_the_bms_can_be_wrong() -> None:
    plant = calm()
    plant.bms.soc = 0.2
    frame = after(plant)
    assert (frame.soc_percent, frame.stored_wh) == (20, 3200)
    assert plant.cells[0].soc == pytest.approx(0.6)


def test_an_uncalibrated_soc_and_the_early_warning_show() -> None:
    plant = calm(calibrated=False)
    assert after(plant).has(layout.SOC_NOT_CALIBRATED)
    plant.bms.early_warning = True
    assert status2(plant) & layout.EARLY_WARNING


@pytest.mark.parametrize(
    ("name", "value", "field", "counts"),
    [
        ("vmin", 2.801, "vmin_mv", 2800),
        ("vmax", 3.65, "vmax_mv", 3650),
        ("vbalance", 3.5, "vbalance_mv", 3500),
        ("capacity", 12.34, "capacity_wh", 12_300),
    ],
)
def test_a_changed_setting_is_in_the_next_frame(name: str, value: float, field: str, counts: int) -> None:
    plant = calm()
    plant.change_setting(name, value)
    frame = after(plant)
    assert getattr(frame, field) == counts
    assert read(encode(frame)) == frame


@pytest.mark.parametrize("name", SETTABLE)
def test_every_setting_changes_its_own_field_and_refuses_what_cannot_be(name: str) -> None:
    plant = calm()
    before = plant.bms.setup
    plant.change_setting(name, 5)
    changed = [
        field for field in Setup.__slots__ if getattr(plant.bms.setup, field) != getattr(before, field)
    ]
    assert changed == list(SETTABLE[name].fields)
    set_to = plant.bms.setup
    with pytest.raises(ValueError, match=f"{name} has to be"):
        plant.change_setting(name, -41)
    assert plant.bms.setup is set_to


@pytest.mark.parametrize("generation", ["A", "B"])
def test_generations_a_and_b_have_one_tmin(generation: str) -> None:
    plant = calm(generation=generation)
    before = plant.bms.setup
    assert (before.tmin_charge_c, before.tmin_discharge_c) == (0, 0)
    for name in ("tmin_charge", "tmin_discharge"):
        with pytest.raises(ValueError, match=f"generation {generation} has one Tmin, and tmin sets it"):
            plant.change_setting(name, 5)
    assert plant.bms.setup is before
    plant.change_setting("tmin", 20)
    plant.temperature_offset_c = -1
    assert not after(plant).has(layout.CHARGE_ALLOWED | layout.DISCHARGE_ALLOWED)


def test_a_setting_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="there is no setting 'vmaxx', only vmin, "):
        calm().change_setting("vmaxx", 1)


def test_a_vmax_set_under_the_cells_stops_the_charging() -> None:
    plant = calm(sun_w=1000)
    plant.change_setting("vmax", 3.2)
    assert not after(plant).has(layout.CHARGE_ALLOWED)
