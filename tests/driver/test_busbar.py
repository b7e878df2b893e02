"""Packs in parallel in the simulated house: how current divides, what relays stop, what is a trip."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbus_smartbms.house import House, HouseSettings, Limits, Mppt
from dbus_smartbms.plant import Plant, PlantSettings

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from judge import SHARED_S, WARNED_S, Judge, Outcome
from laws import NOTHING, Reach, together
from parallel import Branch, Busbar, divide

CALM: dict[str, Any] = {"spread_mv": 0, "spread_percent": 0, "spread_capacity_percent": 0, "ripple_mv": 0}
OPEN = Limits(60.0, 500.0, 500.0)
SUN = {"mppts": (Mppt(6000, 100),), "start_h": 13.0, "load_w": 0.0}
NIGHT = {"mppts": (Mppt(0, 1),), "load_w": 0.0}


def build(house: dict[str, Any], *packs: dict[str, Any], own: bool = False) -> Busbar:
    """Packs on cables of 1.5 mohm in a house that may do what it likes."""
    around = House(HouseSettings(**house), 16)
    around.told = OPEN
    plants = [Plant(PlantSettings(**{**CALM, **pack}), around.flow) for pack in packs]
    return Busbar(plants, around, [0.0015] * len(plants), own=own)


def after(bar: Busbar, seconds: int) -> list[float]:
    """What flows into each pack then."""
    for _ in range(seconds):
        bar.step(1.0)
    return [pack.sun_a - pack.load_a for pack in bar.packs]


# Division

volts = st.floats(40, 60)
ohms = st.floats(0.001, 0.1)
branches = st.lists(st.builds(Branch, volts, ohms, st.booleans(), st.booleans()), min_size=1, max_size=8)


@given(branches, st.floats(-500, 500))
def test_no_current_is_lost_at_the_busbar(packs: list[Branch], amps: float) -> None:
    at_v = divide(packs, amps)
    taken = sum(pack.amps(at_v) for pack in packs)
    if (amps <= 0 or any(pack.charge for pack in packs)) and (amps >= 0 or any(pack.load for pack in packs)):
        assert taken == pytest.approx(amps, abs=1e-6)
    else:  # as near as contactors allow
        assert abs(taken) <= abs(amps)


@given(branches, st.lists(st.floats(0, 200), min_size=8, max_size=8), st.sampled_from([1, -1]))
def test_the_ideal_asks_no_pack_for_more_than_it_can(
    packs: list[Branch], most_a: list[float], sign: int
) -> None:
    reaches = [Reach(*pair) for pair in zip(packs, most_a, strict=False)]
    amps, at_v = together(reaches, sign)
    if not any(pack.charge if sign > 0 else pack.load for pack in packs):
        assert amps == 0
        return
    each = [sign * pack.amps(at_v) for pack in packs]
    assert sum(each) == pytest.approx(amps, abs=1e-6)
    assert all(one <= most + 1e-6 for one, most in zip(each, most_a, strict=False))
    assert any(one == pytest.approx(most, abs=1e-6) for one, most in zip(each, most_a, strict=False))


def test_the_current_divides_by_resistance_and_each_bms_measures_its_part() -> None:
    bar = build(SUN, {}, {})
    for cell in bar.packs[1].cells:
        cell.ohm *= 2
    bar.ohms = [0.0015, 0.003]
    one_a, other_a = after(bar, 10)
    assert bar.net_a > 90
    assert one_a + other_a == pytest.approx(bar.net_a)
    assert one_a == pytest.approx(2 * other_a, rel=0.05)  # a while later the one is fuller
    for pack, amps, ohm in zip(bar.packs, (one_a, other_a), (0.0015, 0.003), strict=True):
        assert bar.voltage_v == pytest.approx(pack.voltage_v + amps * ohm)
        assert pack.frame().current_ma == pytest.approx(amps * 1000, abs=63)


def test_a_full_pack_fills_an_empty_one_without_any_charger() -> None:
    bar = build(NIGHT, {"soc_percent": 90}, {"soc_percent": 30})
    full_a, empty_a = after(bar, 2)
    assert empty_a > 20
    assert full_a == pytest.approx(-empty_a)
    before = [pack.cells[0].soc for pack in bar.packs]
    after(bar, 600)
    gave, got = (pack.cells[0].soc - soc for pack, soc in zip(bar.packs, before, strict=True))
    assert got == pytest.approx(-gave, abs=1e-4)
    assert got > 0.01


def test_a_pack_that_is_away_has_no_part_and_the_house_goes_on() -> None:
    bar = build(SUN, {}, {})
    bar.joined[1] = False
    one_a, away_a = after(bar, 10)
    assert away_a == 0
    assert one_a == pytest.approx(bar.net_a)
    bar.joined = [False, False]
    assert after(bar, 10) == [0, 0]
    assert bar.net_a == 0


def test_a_pack_alone_is_as_it_ever_was() -> None:
    bar = build({**SUN, "load_w": 800}, {})
    around = House(bar.house.settings, 16)
    around.told = OPEN
    pack = Plant(bar.packs[0].settings, around.flow)
    for _ in range(300):
        bar.step(1.0)
        pack.step(1.0)
    assert bar.packs[0].frame() == pack.frame()
    assert (bar.sun_a, bar.load_a, bar.voltage_v) == (pack.sun_a, pack.load_a, pack.voltage_v)


# Relays


def test_in_series_one_denial_stops_all_charging_but_no_discharging() -> None:
    bar = build({**SUN, "load_w": 1000}, {}, {})
    after(bar, 10)
    bar.packs[1].bms.deny_charge = True
    assert all(amps < -5 for amps in after(bar, 10))
    assert bar.sun_a == 0


def test_in_series_packs_go_on_exchanging_current_and_the_bms_that_denies_measures_it() -> None:
    bar = build(NIGHT, {"soc_percent": 90}, {"soc_percent": 30})
    bar.packs[1].bms.deny_charge = True
    assert after(bar, 2)[1] > 20
    assert (bar.packs[1].frame().current_ma or 0) > 20_000


def test_with_own_contactors_the_others_go_on_and_the_one_that_denies_may_still_give() -> None:
    bar = build(SUN, {}, {}, own=True)
    bar.packs[1].bms.deny_charge = True
    one_a, other_a = after(bar, 10)
    assert other_a == 0
    assert one_a == pytest.approx(bar.net_a)
    bar = build({**NIGHT, "load_w": 2000}, {}, {}, own=True)
    bar.packs[1].bms.deny_charge = True
    assert all(amps < -15 for amps in after(bar, 10))
    bar.packs[1].bms.deny_discharge = True
    one_a, other_a = after(bar, 10)
    assert other_a == 0
    assert one_a == pytest.approx(bar.net_a)


# Judgement


def judged(
    bar: Busbar, ccl_ma: int, own_ma: int, seconds: int, fault: Callable[[Plant], None] | None = None
) -> Outcome:
    """With so many mA for all packs and for the second of them, to which something happens in the end."""
    judge = Judge(bar)
    for t in range(seconds):
        if fault and t == seconds - 1:
            fault(bar.packs[1])
        bar.step(1.0)
        judge.see(t, (57_000, ccl_ma, 500_000), [(100_000, 500_000), (own_ma, 500_000)])
    return judge.outcome


@pytest.mark.parametrize(
    ("own", "ccl_ma", "own_ma", "trips"),
    [
        (False, 100_000, 0, 1),  # in series all are stopped, and should have been before
        (False, 0, 100_000, 0),
        (True, 100_000, 100_000, 1),
        (True, 100_000, 0, 0),  # its own contactor: the others may go on
        (True, 0, 100_000, 0),
    ],
)
def test_a_relay_that_opens_unannounced_is_a_trip(own: bool, ccl_ma: int, own_ma: int, trips: int) -> None:
    bar = build(SUN, {}, {}, own=own)

    def deny(pack: Plant) -> None:
        pack.bms.deny_charge = True

    assert judged(bar, ccl_ma, own_ma, WARNED_S + 5, deny).trips == trips


@pytest.mark.parametrize(("fault", "by", "trips"), [("error_mv", 500.0, 0), ("offset_v", 0.5, 1)])
def test_a_cell_over_vmax_is_a_trip_and_a_board_that_only_says_so_is_none(
    fault: str, by: float, trips: int
) -> None:
    bar = build(SUN, {}, {})
    assert judged(bar, 100_000, 100_000, 5, lambda pack: setattr(pack.cells[4], fault, by)).trips == trips
    assert not bar.packs[1].bms.charge_allowed


def test_a_pack_that_gets_more_than_its_own_limit_shows_while_the_banks_is_obeyed() -> None:
    outcome = judged(build(SUN, {}, {}), 110_000, 20_000, SHARED_S + 10)
    assert outcome.share_percent == pytest.approx(240, rel=0.05)  # half of 96 A
    assert judged(build(SUN, {}, {}), 110_000, 20_000, SHARED_S - 1).share_percent == 0  # too short
    assert judged(build(SUN, {}, {}), 50_000, 20_000, 60).share_percent == 0  # not obeyed


def test_of_a_pack_that_is_lost_the_last_limits_count() -> None:
    bar = build(SUN, {}, {})
    judge = Judge(bar)
    for t in range(30):
        bar.step(1.0)
        judge.see(t, (57_000, 110_000, 500_000), [(100_000, 500_000), (20_000, 500_000) if t < 3 else None])
    assert judge.outcome.share_percent > 200
    assert judge.outcome.no_number_s == 0
    judge.see(30, NOTHING, [None, None])
    assert judge.outcome.no_number_s == 1
