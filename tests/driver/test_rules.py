"""What each rule takes of a current, worked out by hand; every edge just below, at and just above it.

The pack has 16 LFP cells and 300 Ah: 0.02 C is 6 A.  Vmin 2.9, Vlow 3.0, Vbalance 3.4, Vmax 3.7 V.  The caps
are 100 A, unless a test says otherwise, and at rest in the middle nothing else binds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbus_smartbms import ratings, rules
from dbus_smartbms.ratings import Thresholds
from dbus_smartbms.rules import Wishes
from dbus_smartbms.sag import Lowest
from dbus_smartbms.settings import Settings, after_restarts
from dbus_smartbms.stages import Stage
from rig import frame
from smartbms_protocol import PackState

CAPACITY_WH = 15_840
"""16 x 3.3 V x 300 Ah."""
VOLTS = Thresholds(2900, 3000, 3400, 3700, None)
CAP = (100_000, "the cap")


def look(configured: dict[str, Any] | None = None, **seen: Any) -> Any:
    """What the rules look at: a pack at rest, but for what is ``seen``; cells are as the frame has them."""
    cells = {"highest_mv": 3330, "lowest_mv": 3310}
    cells |= {name: seen[name] for name in cells if name in seen}
    usual: dict[str, Any] = {
        "settings": Settings(**(configured or {})),
        "frame": frame(current_ma=seen.pop("current_ma", 0), **cells),
        "volts": VOLTS, "soc": 50.0, "stage": Stage(), "now": 0.0, "fresh": True, "floor_mv": 16 * 3300,
        "float_mv": 3370, "capacity_mah": 300_000, "interval_s": 1.0, "flow_ma": 3_000, "lowest": Lowest(),
        "charge": rules.Cap(*CAP), "discharge": rules.Cap(*CAP), "coldest_c": 20.0, "hottest_c": 23.0,
        "soon_mv": 0.0,
    }  # fmt: skip
    return rules.Now(**(usual | cells | seen))


def charging(configured: dict[str, Any] | None = None, **seen: Any) -> Any:
    """What all rules of charging together let through."""
    now = look(configured, **seen)
    return rules.least(rule(now) for rule in rules.CHARGE_RULES)


def discharging(configured: dict[str, Any] | None = None, **seen: Any) -> Any:
    now = look(configured, **seen)
    return rules.least(rule(now) for rule in rules.DISCHARGE_RULES)


def cap(milliamperes: int) -> dict[str, Any]:
    """Other caps."""
    return {"charge": rules.Cap(milliamperes, "the cap"), "discharge": rules.Cap(milliamperes, "the cap")}


# Caps


def caps(
    configured: dict[str, Any] | None = None, capacity_wh: int = CAPACITY_WH, **wished: float
) -> tuple[Any, Any]:
    pack = PackState()
    pack.take(frame(capacity_wh=capacity_wh), 1.0)
    return rules.caps(Settings(**(configured or {})), pack, Wishes(**wished))


def careful(*rates: str, **configured: Any) -> dict[str, Any]:
    """Settings in which these rates stand in for something that could not be read."""
    return dict.fromkeys(rates, 0.1) | {"careful": frozenset(rates)} | configured


def restarted(*rates: str, **configured: Any) -> dict[str, Any]:
    """The same after many restarts."""
    settings = after_restarts(Settings(**careful(*rates, **configured)))
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


CHARGE, DISCHARGE = (150_000, "0.5 C of 300 Ah"), (300_000, "1 C of 300 Ah")
EMPTY = (0, "the capacity setting of the BMS is 0")
RESTARTED = (30_000, "0.1 C of 300 Ah: the driver was restarted again and again")
MISTAKE = (30_000, "0.1 C of 300 Ah: a mistake in the configuration")
CONFIGURED: list[tuple[dict[str, Any], tuple[int, str], tuple[int, str]]] = [
    ({}, CHARGE, DISCHARGE),
    ({"charge_rate": 0.25}, (75_000, "0.25 C of 300 Ah"), DISCHARGE),
    ({"discharge_rate": 2.0}, CHARGE, (600_000, "2 C of 300 Ah")),
    ({"charge_rate": 0.0}, (0, "0 C of 300 Ah"), DISCHARGE),
    ({"max_charge_current": 80.5}, (80_500, "configured maximum 80.5 A"), DISCHARGE),
    ({"max_discharge_current": 400.0}, CHARGE, (400_000, "configured maximum 400 A")),
    ({"max_charge_current": 0.0}, (0, "configured maximum 0 A"), DISCHARGE),
    (careful("charge_rate"), MISTAKE, DISCHARGE),
    (careful("discharge_rate"), CHARGE, MISTAKE),
    (careful("charge_rate", max_charge_current=80.0), MISTAKE, DISCHARGE),
    (careful("charge_rate", max_charge_current=20.0), (20_000, "configured maximum 20 A"), DISCHARGE),
    (careful("discharge_rate", max_charge_current=80.0), (80_000, "configured maximum 80 A"), MISTAKE),
    (restarted(), RESTARTED, RESTARTED),
    (restarted("charge_rate"), RESTARTED, RESTARTED),
    (restarted(max_charge_current=80.0, max_discharge_current=20.0), RESTARTED,
     (20_000, "configured maximum 20 A")),
]  # fmt: skip


@pytest.mark.parametrize(("configured", "charge", "discharge"), CONFIGURED)
def test_a_cap_is_as_configured_or_by_rate_or_careful(
    configured: dict[str, Any], charge: tuple[int, str], discharge: tuple[int, str]
) -> None:
    assert caps(configured) == (charge, discharge)


@pytest.mark.parametrize(
    ("configured", "charge", "discharge"),
    [
        ({}, EMPTY, EMPTY),
        ({"max_charge_current": 50.0}, (50_000, "configured maximum 50 A"), EMPTY),
        (careful("charge_rate", max_charge_current=50.0), EMPTY, EMPTY),
    ],
)
def test_a_capacity_of_0_leaves_no_current_but_a_configured_one(
    configured: dict[str, Any], charge: tuple[int, str], discharge: tuple[int, str]
) -> None:
    assert caps(configured, capacity_wh=0) == (charge, discharge)


def test_before_the_first_frame_nothing_flows() -> None:
    nothing = (0, "no frame yet")
    configured = Settings(max_charge_current=50.0, max_discharge_current=50.0)
    assert rules.caps(configured, PackState(), Wishes(40.0, 40.0)) == (nothing, nothing)


@pytest.mark.parametrize(
    ("amps", "charge"),
    [
        (0.0, (0, "maximum set on the GX 0 A")),
        (12.5, (12_500, "maximum set on the GX 12.5 A")),
        (149.999, (149_999, "maximum set on the GX 149.999 A")),
        (150.0, CHARGE),
        (151.0, CHARGE),
        (10_000.0, CHARGE),
    ],
)
def test_a_wish_lowers_a_cap_and_never_raises_it(amps: float, charge: tuple[int, str]) -> None:
    assert caps(max_charge_current=amps) == (charge, DISCHARGE)


def test_a_wish_is_for_one_direction_and_under_what_is_configured() -> None:
    configured = {"max_charge_current": 60.0, "max_discharge_current": 60.0}
    both = (60_000, "configured maximum 60 A")
    assert caps(configured, max_discharge_current=50.0) == (both, (50_000, "maximum set on the GX 50 A"))
    assert caps(configured, max_charge_current=60.5, max_discharge_current=60.0) == (both, both)
    assert caps(careful("charge_rate"), max_charge_current=40.0) == (MISTAKE, DISCHARGE)


# Cell voltages


def test_in_the_middle_the_caps_bind() -> None:
    assert charging() == discharging() == CAP


@pytest.mark.parametrize(
    ("highest_mv", "ccl"),
    [
        (3399, 100_000), (3400, 100_000), (3401, 99_666), (3403, 99_000),
        (3550, 50_000), (3696, 1_333), (3697, 1_000), (3698, 1_000), (3700, 1_000), (3800, 1_000),
    ],
)  # fmt: skip
def test_charging_tapers_from_vbalance_to_1_a_at_vmax(highest_mv: int, ccl: int) -> None:
    reason = f"cell 3 at {highest_mv / 1000:.3f} V: charging tapers from 3.40 V"
    assert charging(highest_mv=highest_mv) == (ccl, reason if highest_mv > 3400 else "the cap")
    assert discharging(highest_mv=highest_mv) == CAP


def test_a_cap_under_what_a_bleed_resistor_takes_is_not_lifted_to_it() -> None:
    assert charging(highest_mv=3695, **cap(999)) == (999, "the cap")
    assert charging(highest_mv=3695, **cap(0)) == (0, "the cap")


def test_the_taper_goes_by_the_cell_with_its_play_and_names_the_cell_as_it_is() -> None:
    now = look(highest_mv=3540, lowest_mv=2960)._replace(highest_mv=3550, lowest_mv=2950)
    charge = rules.least(rule(now) for rule in rules.CHARGE_RULES)
    assert charge == (50_000, "cell 3 at 3.540 V: charging tapers from 3.40 V")
    discharge = rules.least(rule(now) for rule in rules.DISCHARGE_RULES)
    assert discharge == (50_000, "cell 7 at 2.960 V: discharging tapers from 3.00 V")


@pytest.mark.parametrize(
    ("soon_mv", "ccl"), [(0.0, 50_000), (3549.0, 50_000), (3550.0, 50_000), (3625.0, 25_000)]
)
def test_charging_tapers_by_a_cell_that_is_seen_coming(soon_mv: float, ccl: int) -> None:
    reason = "cell 3 at 3.550 V: charging tapers from 3.40 V"
    assert charging(highest_mv=3550, soon_mv=soon_mv) == (ccl, reason)


@pytest.mark.parametrize("balance_mv", [3699, 3700, 3800])
@pytest.mark.parametrize(("highest_mv", "ccl"), [(3698, 100_000), (3699, 100_000), (3700, 1_000)])
def test_where_vbalance_is_vmax_charging_tapers_at_once(balance_mv: int, highest_mv: int, ccl: int) -> None:
    volts = VOLTS._replace(balance_mv=balance_mv)
    assert charging(volts=volts, highest_mv=highest_mv).amount == ccl


def test_where_nothing_says_how_far_to_charge_nothing_is_charged() -> None:
    volts = VOLTS._replace(vmax_mv=None, wrong="Vmax 0.00 V is no cell's voltage")
    assert charging(volts=volts) == (0, "nothing says how far to charge: Vmax 0.00 V is no cell's voltage")
    assert discharging(volts=volts) == CAP


@pytest.mark.parametrize(
    ("lowest_mv", "dcl"),
    [
        (3001, 100_000), (3000, 100_000), (2999, 99_000), (2950, 50_000),
        (2907, 7_000), (2906, 6_000), (2905, 6_000), (2900, 6_000), (2895, 6_000), (0, 6_000),
    ],
)  # fmt: skip
def test_discharging_tapers_from_vlow_to_a_fiftieth_c_at_vmin(lowest_mv: int, dcl: int) -> None:
    reason = f"cell 7 at {lowest_mv / 1000:.3f} V: discharging tapers from 3.00 V"
    assert discharging(lowest_mv=lowest_mv) == (dcl, reason if lowest_mv < 3000 else "the cap")
    assert charging(lowest_mv=lowest_mv) == CAP


@pytest.mark.parametrize(("lowest_mv", "dcl"), [(3000, 100_000), (2999, 99_000)])
def test_where_vlow_is_not_known_discharging_tapers_from_100_mv_over_vmin(lowest_mv: int, dcl: int) -> None:
    volts = VOLTS._replace(vlow_mv=None)
    assert discharging(volts=volts, lowest_mv=lowest_mv).amount == dcl


def test_a_cap_under_a_fiftieth_c_is_not_lifted_to_it() -> None:
    assert discharging(lowest_mv=2900, **cap(5_999)) == (5_999, "the cap")
    assert discharging(lowest_mv=2900, lowest=Lowest(0.5), **cap(5_999)) == (5_999, "the cap")


# Sag


@pytest.mark.parametrize(
    ("lowest_mv", "current_ma", "dcl"),
    [
        (2950, -100_000, 60_000), (2950, 0, 50_000), (2950, 100_000, 50_000), (2950, None, 50_000),
        (2989, -100_000, 99_000), (2990, -100_000, 100_000),
    ],
)  # fmt: skip
def test_discharging_tapers_by_the_cell_without_its_sag(
    lowest_mv: int, current_ma: int | None, dcl: int
) -> None:
    """0.1 mV for each A, so that 100 A make 10 mV."""
    sags = Lowest(mv_a=0.1)
    assert discharging(lowest=sags, lowest_mv=lowest_mv, current_ma=current_ma).amount == dcl


@pytest.mark.parametrize(
    ("lowest_mv", "current_ma", "dcl"),
    [
        (2950, 0, 40_000), (2950, -10_000, 50_000), (2934, 0, 8_000), (2933, 0, 6_000), (2932, 0, 6_000),
        (2930, 0, 6_000), (2920, 0, 6_000), (2901, 0, 6_000), (2979, 0, 98_000), (2980, 0, 100_000),
    ],
)  # fmt: skip
def test_no_more_flows_than_lets_the_cell_sag_to_30_mv_over_vmin(
    lowest_mv: int, current_ma: int, dcl: int
) -> None:
    """0.5 mV for each A: 20 mV of room are 40 A.  Vlow is so near to Vmin that it tapers nothing."""
    volts = VOLTS._replace(vlow_mv=2901)
    reason = f"cell 7 at {lowest_mv / 1000:.3f} V: more would let it sag to Vmin"
    expected = (dcl, reason if dcl < 100_000 else "the cap")
    found = discharging(volts=volts, lowest=Lowest(mv_a=0.5), lowest_mv=lowest_mv, current_ma=current_ma)
    assert found == expected


def test_before_the_capacity_is_known_nothing_is_said_of_sag() -> None:
    volts = VOLTS._replace(vlow_mv=2901)
    assert discharging(volts=volts, lowest=Lowest(), lowest_mv=2905) == CAP


@pytest.mark.parametrize("lowest_mv", [2905, 3200])
def test_an_empty_pack_gives_nothing_more_until_it_has_recovered(lowest_mv: int) -> None:
    empty = Lowest(empty_since=0.0)
    reason = f"empty: cell 7 at {lowest_mv / 1000:.3f} V, Vmin 2.90 V"
    assert discharging(lowest=empty, lowest_mv=lowest_mv) == (0, reason)
    assert charging(lowest=empty, lowest_mv=lowest_mv) == CAP


# Temperatures


WARMTH: list[tuple[dict[str, Any], float, float | None, int, int]] = [
    # configured, coldest, hottest, CCL, DCL
    ({}, -30.0, 80.0, 100_000, 100_000),
    ({"tmin_charge": 5.0}, 10.0, 80.0, 100_000, 100_000),
    ({"tmin_charge": 5.0}, 9.0, 80.0, 100_000, 100_000),
    ({"tmin_charge": 5.0}, 8.75, 80.0, 93_750, 100_000),
    ({"tmin_charge": 5.0}, 8.0, None, 75_000, 100_000),
    ({"tmin_charge": 5.0}, 5.5, 80.0, 12_500, 100_000),
    ({"tmin_charge": 5.0}, 5.0, 80.0, 1_000, 100_000),
    ({"tmin_charge": 5.0}, -20.0, 80.0, 1_000, 100_000),
    ({"tmin_discharge": -10.0}, -6.0, 80.0, 100_000, 100_000),
    ({"tmin_discharge": -10.0}, -8.0, 80.0, 100_000, 50_000),
    ({"tmin_discharge": -10.0}, -10.0, 80.0, 100_000, 6_000),
    ({"tmax": 45.0}, -30.0, 40.0, 100_000, 100_000),
    ({"tmax": 45.0}, -30.0, 41.0, 100_000, 100_000),
    ({"tmax": 45.0}, -30.0, 41.25, 93_750, 93_750),
    ({"tmax": 45.0}, -30.0, 43.0, 50_000, 50_000),
    ({"tmax": 45.0}, -30.0, 45.0, 1_000, 6_000),
    ({"tmax": 45.0}, -30.0, 60.0, 1_000, 6_000),
    ({"tmax": 45.0}, -30.0, None, 100_000, 100_000),
    ({"tmin_charge": 5.0, "tmin_discharge": 5.0, "tmax": 45.0}, 6.0, 43.0, 25_000, 25_000),
    ({"tmin_charge": 5.0, "tmin_discharge": 5.0, "tmax": 45.0}, 7.0, 44.0, 25_000, 25_000),
    ({"tmin_charge": 5.0, "tmin_discharge": -10.0, "tmax": 45.0}, 6.0, 43.0, 25_000, 50_000),
]


@pytest.mark.parametrize(("configured", "coldest", "hottest", "ccl", "dcl"), WARMTH)
def test_currents_taper_within_4_degrees_of_what_is_configured(
    configured: dict[str, Any], coldest: float, hottest: float | None, ccl: int, dcl: int
) -> None:
    charge = charging(configured, coldest_c=coldest, hottest_c=hottest)
    discharge = discharging(configured, coldest_c=coldest, hottest_c=hottest)
    assert (charge.amount, discharge.amount) == (ccl, dcl)
    assert (charge == CAP, discharge == CAP) == (ccl == 100_000, dcl == 100_000)


@pytest.mark.parametrize(
    ("coldest", "hottest", "named"),
    [(6.0, 43.0, "cell 1 at 6 degC"), (7.0, 44.0, "cell 16 at 44 degC"), (7.0, 43.0, "cell 16 at 43 degC")],
    ids=["the cold binds", "the heat binds", "both alike"],
)
def test_the_cell_that_binds_is_named(coldest: float, hottest: float, named: str) -> None:
    configured = {"tmin_charge": 5.0, "tmin_discharge": 5.0, "tmax": 45.0}
    seen = {"coldest_c": coldest, "hottest_c": hottest}
    assert charging(configured, **seen).reason == f"{named}: charging tapers"
    assert discharging(configured, **seen).reason == f"{named}: discharging tapers"


# SoC


LINE = ((20.0, 0.3), (60.0, 0.5), (80.0, 0.1))
ON_IT = [
    (0.0, 90_000), (19.5, 90_000), (20.0, 90_000), (20.5, 90_750), (40.0, 120_000), (59.5, 149_250),
    (60.0, 150_000), (62.5, 135_000), (70.0, 90_000), (80.0, 30_000), (80.5, 30_000), (100.0, 30_000),
]  # fmt: skip


@pytest.mark.parametrize(("soc", "amount"), ON_IT)
def test_between_its_points_a_soc_taper_is_straight_and_level_past_its_ends(soc: float, amount: int) -> None:
    wide = cap(200_000)
    charge = charging({"charge_soc_taper": LINE}, soc=soc, **wide)
    assert charge == (amount, f"SoC {soc:.0f} %: charging tapers as configured")
    discharge = discharging({"discharge_soc_taper": LINE}, soc=soc, **wide)
    assert discharge == (amount, f"SoC {soc:.0f} %: discharging tapers as configured")


def test_a_soc_taper_is_for_one_direction() -> None:
    assert discharging({"charge_soc_taper": LINE}, soc=90.0) == CAP
    assert charging({"discharge_soc_taper": LINE}, soc=90.0) == CAP


@pytest.mark.parametrize("soc", [0.0, 50.0, 100.0])
def test_a_soc_taper_of_one_point_is_level(soc: float) -> None:
    assert charging({"charge_soc_taper": ((50.0, 0.2),)}, soc=soc).amount == 60_000


def test_a_soc_taper_lifts_no_cap() -> None:
    assert charging({"charge_soc_taper": ((50.0, 5.0),)}) == CAP


@pytest.mark.parametrize("asked_s", [0.0, 80_000.0])
def test_charge_to_full_goes_past_the_soc_taper_of_charging_alone(asked_s: float) -> None:
    configured = {"charge_soc_taper": ((0.0, 0.1),), "discharge_soc_taper": ((0.0, 0.1),)}
    asked = Stage(asked_s=asked_s)
    assert charging(configured, stage=asked) == CAP
    assert discharging(configured, stage=asked).amount == 30_000
    assert charging(configured).amount == 30_000


# What holds for any pack

MILLIVOLTS = st.one_of(
    st.sampled_from([0, 5, 1495, 1500, 2900, 3000, 3400, 3430, 3700, 5000, 5005]), st.integers(0, 65_535)
)
AMPERES = st.one_of(st.none(), st.floats(0, 10_000))
POINTS = st.lists(
    st.tuples(st.integers(0, 100), st.floats(0, 5)), min_size=1, max_size=4, unique_by=lambda point: point[0]
)
LINES = st.one_of(st.none(), POINTS.map(sorted).map(tuple))
CONFIGURATIONS = st.builds(
    Settings,
    max_charge_current=AMPERES, max_discharge_current=AMPERES,
    charge_rate=st.floats(0, 5), discharge_rate=st.floats(0, 5),
    charge_margin_mv=st.floats(0, 100), charge_soc_taper=LINES, discharge_soc_taper=LINES,
    tmin_charge=st.sampled_from([None, 5.0]), tmin_discharge=st.sampled_from([None, -10.0]),
    tmax=st.sampled_from([None, 45.0]),
    careful=st.sampled_from([frozenset[str](), frozenset({"charge_rate", "discharge_rate"})]),
)  # fmt: skip


@st.composite
def packs(draw: st.DrawFn) -> PackState:
    """With any settings on the wire, sensible or not."""
    pack = PackState()
    pack.take(
        frame(
            cells=draw(st.sampled_from([16, 255])), capacity_wh=draw(st.integers(0, 65_535)) * 100,
            vmin_mv=draw(MILLIVOLTS), vmax_mv=draw(MILLIVOLTS), vbalance_mv=draw(MILLIVOLTS),
            current_ma=draw(st.sampled_from([None, 0, 50_000, -50_000])),
        ),
        1.0,
    )  # fmt: skip
    return pack


@given(CONFIGURATIONS, packs(), AMPERES, AMPERES)
def test_no_wish_raises_a_cap(
    configured: Settings, pack: PackState, charge: float | None, discharge: float | None
) -> None:
    without = rules.caps(configured, pack)
    wished = rules.caps(configured, pack, Wishes(charge, discharge))
    for before, after, amps in zip(without, wished, (charge, discharge), strict=True):
        assert 0 <= after.amount <= before.amount
        assert amps is None or after.amount <= round(1000 * amps)


@given(CONFIGURATIONS, packs(), st.data())
def test_no_rule_gives_more_for_a_worse_cell(
    configured: Settings, pack: PackState, data: st.DataObject
) -> None:
    """A higher highest cell or a hotter one, a lower lowest cell or a colder one."""
    assert pack.frame is not None
    volts = ratings.thresholds(configured, pack, pack.frame)
    charge, discharge = rules.caps(configured, pack)
    hottest_c = data.draw(st.one_of(st.none(), st.floats(-40, 85)))
    now = rules.Now(
        configured, pack.frame, volts, soc=data.draw(st.floats(0, 100)), stage=Stage(), now=1.0, fresh=True,
        floor_mv=0, float_mv=3370, capacity_mah=ratings.capacity_mah(configured, pack),
        highest_mv=data.draw(MILLIVOLTS), lowest_mv=data.draw(MILLIVOLTS), interval_s=1.0, flow_ma=3_000,
        lowest=Lowest(data.draw(st.sampled_from([0.0, 0.1, 1.0]))), charge=charge, discharge=discharge,
        coldest_c=data.draw(st.floats(-40, 85)), hottest_c=hottest_c,
        soon_mv=data.draw(MILLIVOLTS),
    )  # fmt: skip
    worse = now._replace(
        highest_mv=now.highest_mv + data.draw(st.integers(0, 500)),
        soon_mv=now.soon_mv + data.draw(st.integers(0, 500)),
        lowest_mv=max(0, now.lowest_mv - data.draw(st.integers(0, 500))),
        coldest_c=now.coldest_c - data.draw(st.floats(0, 20)),
        hottest_c=None if hottest_c is None else hottest_c + data.draw(st.floats(0, 20)),
    )
    for rule in (*rules.CHARGE_RULES, *rules.DISCHARGE_RULES):
        assert 0 <= rule(worse).amount <= rule(now).amount, rule.__name__
        assert type(rule(now).amount) is int
