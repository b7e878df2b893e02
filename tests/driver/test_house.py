"""The simulated house: what flows, what obeys which limit, how soon, and where it ends when nobody does."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from dbus_smartbms.house import (
    EFFICIENCY,
    FEED_IN_V_A_CELL,
    GRIDS,
    READ_S,
    House,
    HouseSettings,
    Limits,
    Load,
    Mppt,
    Weather,
)
from dbus_smartbms.plant import Plant, PlantSettings, interpolate

CALM: dict[str, Any] = {"spread_mv": 0, "spread_percent": 0, "spread_capacity_percent": 0, "ripple_mv": 0}
OPEN = Limits(60.0, 500.0, 500.0)
SUN = {"mppts": (Mppt(5000, 100),), "start_h": 13.0, "load_w": 0.0}
FEED = {"grid": "ess", "feed_in": True}
LAGS = 5
"""Time constants after which a charger has done 99 % of what it was told."""


def build(house: dict[str, Any], told: Limits = OPEN, **plant: Any) -> tuple[Plant, House]:
    """A house at noon, unless it says otherwise, that has been told its limits, and its pack."""
    around = House(HouseSettings(**{**SUN, **house}), plant.get("cells", 16))
    around.told = told
    return Plant(PlantSettings(**{**CALM, **plant}), around.flow), around


def settle(pack: Plant, lag_s: float = 1.0) -> None:
    """Until whatever was told is read, and done."""
    for _ in range(round(READ_S + LAGS * lag_s)):
        pack.step(1)


def net_a(pack: Plant) -> float:
    return pack.sun_a - pack.load_a


# Energy


@pytest.mark.parametrize("feed_in", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_what_chargers_give_is_in_cells_and_loads_and_heat_and_grid(grid: str, feed_in: bool) -> None:
    pack, house = build(
        {"grid": grid, "feed_in": feed_in, "load_w": 1000, "cloudy_s": 60, "clear_s": 120},
        Limits(52.2 if grid == "ess" and feed_in else 53.2, 60, 200),
        soc_percent=60,
        leak_ma=0,
    )
    given = drawn = counted = stored = heat = 0.0
    for _ in range(3600):
        socs, slow = [cell.soc for cell in pack.cells], [cell.slow_v for cell in pack.cells]
        volts = pack.voltage_v  # by which the house goes in the next second
        pack.step(1)
        counted += pack.load_a * volts
        given += pack.sun_a * pack.voltage_v
        drawn += pack.load_a * pack.voltage_v
        for cell, soc, slow_v, ohm in zip(pack.cells, socs, slow, pack.quick_ohm, strict=True):
            amps = (cell.soc - soc) * cell.share * pack.capacity_ah * 3600
            stored += amps * interpolate(pack.curve, soc)
            bled_a = net_a(pack) - amps
            heat += net_a(pack) ** 2 * ohm + amps * slow_v + bled_a * cell.volts
    assert given > 1e6
    assert given - drawn == pytest.approx(stored + heat, rel=0.01, abs=0.002 * given)
    assert counted == pytest.approx(3600 * (house.served_wh + house.exported_wh), rel=1e-5)
    assert house.served_wh <= house.wanted_wh
    assert (house.exported_wh > 100) == (grid == "ess" and feed_in)


def test_loads_get_what_they_want_and_the_inverter_keeps_its_part() -> None:
    pack, house = build({"load_w": 940, "mppts": (Mppt(0, 1),)})
    settle(pack)
    assert pack.load_a * pack.voltage_v == pytest.approx(940 / EFFICIENCY, rel=1e-3)
    served_wh = house.served_wh
    pack.step(3600)
    assert house.served_wh - served_wh == pytest.approx(1000, rel=1e-3)  # of the battery's energy


# What obeys what


def test_a_charger_holds_cvl_at_its_own_end_of_the_cable() -> None:
    ohm = 0.005
    pack, _ = build({"mppts": (Mppt(5000, 100, ohm),)}, Limits(53.5, 500, 500), soc_percent=60)
    for _ in range(600):
        pack.step(1)
    assert net_a(pack) > 20
    assert pack.voltage_v + net_a(pack) * ohm == pytest.approx(53.5, abs=0.005)
    assert pack.voltage_v < 53.41


@pytest.mark.parametrize("percent", [-0.2, 0.2])
def test_a_charger_that_measures_wrong_holds_the_wrong_voltage(percent: float) -> None:
    pack, _ = build({"mppts": (Mppt(5000, 100, 0.0, percent),)}, Limits(53.8, 500, 500), soc_percent=95)
    for _ in range(120):
        pack.step(1)
    assert net_a(pack) > 5
    assert pack.voltage_v == pytest.approx(53.8 * (1 + percent / 100), abs=0.005)


@pytest.mark.parametrize("lag_s", [0.5, 1.0, 4.0])
def test_a_new_limit_is_read_within_3_s_and_done_in_the_chargers_time(lag_s: float) -> None:
    pack, house = build({"lag_s": lag_s})
    settle(pack, lag_s)
    free_a = net_a(pack)
    assert free_a > 80
    house.told = Limits(60.0, 20.0, 500.0)
    flowed = []
    for _ in range(round(READ_S + LAGS * lag_s)):
        pack.step(1)
        flowed.append(net_a(pack))
    read = next(n for n, amps in enumerate(flowed) if amps < 0.99 * free_a)
    assert read <= READ_S
    assert flowed[read] == pytest.approx(20 + (free_a - 20) * 2.718281828 ** (-1 / lag_s), rel=0.02)
    assert flowed[-1] == pytest.approx(20, abs=0.01 * free_a)


def test_the_solar_chargers_may_give_what_the_inverter_draws_beside() -> None:
    pack, house = build({"load_w": 1500, "mppts": (Mppt(5000, 100), Mppt(2500, 100))}, Limits(60, 10, 500))
    for _ in range(30):
        pack.step(1)
    assert 10 <= net_a(pack) < 11.1  # a whole A more may come, for systemcalc rounds up
    assert house.solar_a[0] == pytest.approx(2 * house.solar_a[1], rel=0.01)  # shared by what they have


def test_a_ccl_of_0_leaves_the_loads_to_the_sun() -> None:
    pack, _ = build({"load_w": 1500}, Limits(60, 0, 500))
    for _ in range(30):
        pack.step(1)
    assert pack.load_a > 25
    assert 0 <= net_a(pack) < 1.1


def test_shore_power_gives_no_more_than_ccl_less_the_sun() -> None:
    pack, house = build({"grid": "charge", "mppts": (Mppt(1000, 100),), "load_w": 3000}, Limits(60, 50, 500))
    for _ in range(30):
        pack.step(1)
    assert 15 < house.solar_a[0] < 20
    assert house.multi_a == pytest.approx(50 - house.solar_a[0], abs=0.51)  # in whole A
    assert pack.load_a == 0


def test_in_ess_the_grid_gives_what_dcl_forbids() -> None:
    night = {"grid": "ess", "start_h": 1.0, "load_w": 3000}
    pack, house = build(night, Limits(60, 100, 20))
    settle(pack)
    assert pack.load_a == pytest.approx(20, rel=0.01)
    house.told = Limits(60, 100, 0)
    settle(pack)
    assert pack.load_a == pytest.approx(0, abs=0.2)
    assert (house.stopped, house.dark_s) == (False, 0)


def test_off_grid_a_dcl_under_the_loads_is_not_obeyed_and_0_leaves_them_dark() -> None:
    night = {"start_h": 1.0, "load_w": 3000}
    pack, house = build(night, Limits(60, 100, 20))
    settle(pack)
    assert pack.load_a > 55
    dark_s, served_wh = house.dark_s, house.served_wh
    house.told = Limits(60, 100, 0)
    for _ in range(60):
        pack.step(1)
    assert pack.load_a == 0
    assert 60 - READ_S <= house.dark_s - dark_s <= 60
    assert house.served_wh - served_wh < 3000 * READ_S / 3600 * 1.01
    house.told = Limits(60, 100, 20)
    settle(pack)
    assert pack.load_a > 55


def test_nothing_flows_before_something_was_told_and_no_number_is_no_limit() -> None:
    pack, house = build({}, Limits(None, 0.0, 0.0))
    settle(pack)
    assert net_a(pack) == 0
    house.told = Limits(None, None, None)
    settle(pack)
    assert net_a(pack) > 80


# DC feed-in


@pytest.mark.parametrize("cells", [4, 16])
def test_with_feed_in_the_pack_is_held_25_mv_a_cell_over_cvl(cells: int) -> None:
    cvl_v = cells * 3.3
    plant = {"cells": cells, "capacity_kwh": cells}
    mppts = (Mppt(400.0 * cells, 100, 0.0),)
    told = Limits(cvl_v, 500, 500)
    pack, house = build({**FEED, "mppts": mppts, "multi_cable_ohm": 0.0}, told, **plant)
    for _ in range(600):
        pack.step(1)
    held_v = cvl_v + cells * FEED_IN_V_A_CELL
    assert net_a(pack) > 5
    assert pack.voltage_v == pytest.approx(held_v, abs=0.005)
    assert held_v - cvl_v == pytest.approx(0.4 * cells / 16)
    assert house.exported_wh > 0


def test_with_feed_in_the_chargers_do_not_look_at_ccl() -> None:
    pack, house = build(FEED, Limits(60, 0, 500), soc_percent=50)
    settle(pack)
    assert net_a(pack) > 80
    house.told = Limits(pack.voltage_v - 1.5, 0, 500)
    for _ in range(60):
        pack.step(1)
    assert net_a(pack) <= 0  # what CCL 0 does not do, CVL does


def test_without_feed_in_ess_obeys_ccl() -> None:
    pack, _ = build({"grid": "ess"}, Limits(60, 0, 500), soc_percent=50)
    settle(pack)
    assert net_a(pack) < 1


def test_a_cvl_far_under_the_pack_sells_the_battery() -> None:
    pack, house = build({**FEED, "multi_w": 5000}, Limits(48, 100, 500), soc_percent=80)
    before = pack.cells[0].soc
    for _ in range(600):
        pack.step(1)
    assert net_a(pack) < -20
    assert pack.cells[0].soc < before
    assert house.sold_wh > 100
    assert house.sold_wh <= house.exported_wh
    assert pack.load_a * pack.voltage_v < 5001


def test_a_cvl_under_the_pack_sells_nothing_without_feed_in() -> None:
    pack, house = build({"grid": "ess"}, Limits(48, 100, 500), soc_percent=80)
    settle(pack)
    assert net_a(pack) == pytest.approx(0, abs=0.01)
    assert (house.sold_wh, house.exported_wh) == (0, 0)


# Relays


@pytest.mark.parametrize("house", [{}, {"grid": "charge"}, FEED, {"grid": "ess"}])
def test_an_open_charge_relay_lets_no_charger_through_at_once(house: dict[str, Any]) -> None:
    pack, around = build({**house, "load_w": 1000})
    settle(pack)
    assert pack.sun_a > 50
    pack.bms.deny_charge = True
    pack.step(1)
    assert pack.sun_a == 0
    assert sum(around.solar_a) == 0


@pytest.mark.parametrize("house", [{}, FEED, {"grid": "ess"}])
def test_an_open_load_relay_lets_no_load_at_the_battery(house: dict[str, Any]) -> None:
    pack, around = build({**house, "start_h": 1.0, "load_w": 1000})
    settle(pack)
    assert pack.load_a > 15
    pack.bms.deny_discharge = True
    pack.step(1)
    assert pack.load_a == 0
    assert around.stopped == (around.settings.grid == "none")


# The ideal's house


@pytest.mark.parametrize("grid", GRIDS)
def test_perfect_chargers_obey_at_once_but_for_their_lag(grid: str) -> None:
    pack, house = build({"grid": grid, "perfect": True, "lag_s": 1e-3, "feed_in": True})
    for ccl_a in (60.0, 12.5, 0.0, 33.3):
        house.told = Limits(60.0, ccl_a, 500.0)
        pack.step(1)
        pack.step(1)
        assert net_a(pack) == pytest.approx(ccl_a, abs=1e-6)
    assert house.exported_wh == 0


# What limits do to the current, without what the weather does


def test_sun_and_loads_alone_steer_nothing() -> None:
    pack, house = build({"cloudy_s": 30, "clear_s": 60, "kettles_an_hour": 30, "load_w": 500})
    settle(pack)
    steered, light = house.steered_a, set()
    for _ in range(1200):
        pack.step(1)
        light.add(round(house.free_a))
    assert len(light) > 20
    assert house.steered_a == steered


def test_a_limit_up_and_down_is_steered_by_as_much() -> None:
    pack, house = build({})
    settle(pack)
    free_a, steered = net_a(pack), house.steered_a
    for ccl_a, by_a in ((20.0, 20 - free_a), (500.0, 0.0)):
        house.told = Limits(60.0, ccl_a, 500.0)
        settle(pack)
        assert house.steered_a - steered == pytest.approx(by_a, abs=0.5)


# Sun and loads


def test_the_sun_rises_and_sets_and_days_differ() -> None:
    weather = Weather(HouseSettings(start_h=0.0, days=(1.0, 0.25)), Random(1))
    seen = [weather.light(hour * 3600.0, 3600.0) for hour in range(72)]
    assert [hour for hour in range(24) if seen[hour] > 0] == list(range(7, 20))
    assert max(seen[:24]) == seen[13] == pytest.approx(1.0)
    assert seen[24:48] == pytest.approx([0.25 * value for value in seen[:24]])
    assert seen[48:] == pytest.approx(seen[:24])


def test_clouds_come_and_go_and_let_something_through() -> None:
    pack, house = build({"cloudy_s": 60, "clear_s": 60, "start_h": 12.0, "cloud_light": (0.2, 0.4)})
    offers = []
    for _ in range(3600):
        pack.step(1)
        offers.append(house.free_a)
    assert min(offers) < 0.45 * max(offers)
    assert min(offers) > 0.15 * max(offers)
    assert max(abs(b - a) for a, b in pairwise(offers)) < 0.2 * max(offers)


def test_loads_keep_their_hours_also_over_midnight() -> None:
    pack, house = build(
        {"start_h": 21.0, "load_w": 100, "loads": (Load(22, 4, 900),), "mppts": (Mppt(0, 1),)}
    )
    drawn: list[float] = []
    for _ in range(7):
        house.t = len(drawn) * 3600.0 + 1800
        pack.step(1)
        pack.step(1)
        drawn.append(round(pack.load_a * pack.voltage_v * EFFICIENCY, -2))
    assert drawn == [100, 1000, 1000, 1000, 1000, 100, 100]


def test_kettles_come_as_often_as_they_should_and_the_seed_says_when() -> None:
    def boils(seed: int) -> list[float]:
        house = House(HouseSettings(load_w=0, kettles_an_hour=4, kettle_s=60, seed=seed), 16)
        house.told = OPEN
        return [house.flow(52, 0.01, 52, 1.0, charge=True, load=True)[1] > 1 for _ in range(36_000)]

    seconds = boils(1)
    assert 25 * 60 < sum(seconds) < 55 * 60
    assert seconds == boils(1) != boils(2)


def test_a_grid_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="the grid has to be one of none, ess, charge, not feed"):
        HouseSettings(grid="feed")
