"""How the current divides: what is learnt of it, how fast, and what is not.

Two packs of 300 Ah and 100 Ah, unless a test says otherwise: three quarters and one quarter of the capacity;
0.03 C of both together are 12 A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from dbus_smartbms import shares
from dbus_smartbms.shares import Shares

CAPACITY = {"large": 300_000, "small": 100_000}
BY_CAPACITY = {"large": 0.75, "small": 0.25}
NEITHER = (Shares({}, {}), Shares({}, {}))
CHARGE, DISCHARGE = 0, 1
FIVE_MINUTES = 300
A_SECOND = 1 - math.exp(-1 / 60)
"""How far one second moves what is learnt towards what is seen."""


def see(
    known: tuple[Shares, Shares],
    current_ma: dict[str, int | None],
    seconds: int = 1,
    capacity_mah: dict[str, int] | None = None,
) -> tuple[Shares, Shares]:
    """What is known after frames a second apart that all say the same."""
    for _ in range(seconds):
        known = shares.learn(known, current_ma, capacity_mah or CAPACITY, 1.0)
    return known


def used(
    known: tuple[Shares, Shares], way: int = CHARGE, capacity_mah: dict[str, int] | None = None
) -> dict[str, float]:
    return shares.in_use(known, way, capacity_mah or CAPACITY)


def test_until_something_is_learnt_the_capacity_counts() -> None:
    assert (CHARGE, DISCHARGE) == (shares.CHARGE, shares.DISCHARGE)
    assert used(NEITHER, CHARGE) == used(NEITHER, DISCHARGE) == BY_CAPACITY
    assert shares.by_capacity({"a": 0, "b": 0}) == {"a": 0.5, "b": 0.5}
    assert shares.by_capacity({"a": 0, "b": 200_000}) == {"a": 0.0, "b": 1.0}
    assert shares.by_capacity({}) == {}


@pytest.mark.parametrize("part", [0.1, 0.2, 0.25, 1 / 3, 0.4])
@pytest.mark.parametrize("times", [0.5, 0.51, 0.6, 0.75, 0.9, 0.98, 1.0, 1.02, 1.1, 1.5, 1.7, 1.8, 1.99, 2.0])
def test_half_to_twice_the_capacitys_share_is_followed_within_five_minutes(part: float, times: float) -> None:
    """A pack so much better or worse than its capacity, beside another that has the rest.

    0.7 % of the way is left, and the dead band; too much is the careful side.
    """
    capacity = {"one": round(400_000 * part), "rest": round(400_000 * (1 - part))}
    one = round(100_000 * part * times)
    known = see(NEITHER, {"one": one, "rest": 100_000 - one}, FIVE_MINUTES, capacity)
    for cable, truth in (("one", part * times), ("rest", 1 - part * times)):
        if 2 * truth >= capacity[cable] / 400_000:
            assert known[CHARGE].learnt[cable] == pytest.approx(truth, rel=0.01)
            assert -0.011 < used(known, CHARGE, capacity)[cable] / truth - 1 < 0.038


def test_a_minute_brings_two_thirds_of_the_way_down() -> None:
    known = see(NEITHER, {"large": 50_000, "small": 50_000}, 60)
    assert known[CHARGE].learnt["large"] == pytest.approx(0.75 - 0.25 * (1 - 1 / math.e))
    one_step = shares.learn(NEITHER, {"large": 50_000, "small": 50_000}, CAPACITY, 60.0)
    assert one_step[CHARGE].learnt["large"] == pytest.approx(known[CHARGE].learnt["large"]), "in any steps"


def test_ten_seconds_bring_two_thirds_of_the_way_up_for_that_lowers_limits() -> None:
    two = see(NEITHER, {"large": 50_000, "small": 50_000}, 2)
    assert two[CHARGE].learnt["small"] == pytest.approx(0.25 + 0.25 * (1 - math.exp(-2 / 60)), abs=1e-9)
    known = see(two, {"large": 50_000, "small": 50_000}, 10)
    left = 0.5 - two[CHARGE].learnt["small"]
    assert known[CHARGE].learnt["small"] == pytest.approx(0.5 - left / math.e)


def test_a_sample_that_says_nothing_new_holds_back_no_slow_step() -> None:
    known = see(NEITHER, {"large": 75_000, "small": 25_000}, 1)
    known = see(known, {"large": 50_000, "small": 50_000}, 2)
    assert known[CHARGE].seen["small"] == (0.25, 0.5, 0.5)
    assert known[CHARGE].learnt["small"] > 0.25 * 1.02


def test_what_two_frames_say_of_two_moments_is_no_rise() -> None:
    """A load starts between the frames of two packs: all of it seems to come from one."""
    known = NEITHER
    for _ in range(10):
        known = see(known, {"large": 75_000, "small": 25_000}, 60)
        known = see(known, {"large": 5_000, "small": 25_000}, 2)
    assert known[CHARGE].learnt["small"] < 0.25 * 1.2


@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_is_learnt_up_to_three_hundredths_of_a_c(sign: int) -> None:
    """0.03 C of both together; offsets of the sensors are what is left of a small current."""
    at = see(NEITHER, {"large": sign * 6_000, "small": sign * 6_000})
    assert at == NEITHER
    over = see(NEITHER, {"large": sign * 6_000, "small": sign * 6_001})
    direction = CHARGE if sign > 0 else DISCHARGE
    assert over[direction].learnt["small"] > 0.25
    assert over[1 - direction] == NEITHER[0]


def test_noise_round_zero_current_is_not_learnt() -> None:
    """Sensors that are off by 1 A each way, and packs that charge each other: together it is nothing."""
    known = NEITHER
    for large, small in ((1_000, -1_000), (0, 1_000), (-1_000, -1_000), (30_000, -29_000), (-50_000, 45_000)):
        known = see(known, {"large": large, "small": small}, 10)
    assert known == NEITHER


def test_nothing_is_learnt_while_one_current_is_not_known() -> None:
    known = see(NEITHER, {"large": 50_000, "small": 50_000}, 100)
    assert see(known, {"large": 50_000, "small": None}, 100) == known
    assert see(known, {"large": None, "small": None}, 100) == known


def test_each_direction_has_its_own_shares() -> None:
    known = see(NEITHER, {"large": 50_000, "small": 50_000}, FIVE_MINUTES)
    known = see(known, {"large": -60_000, "small": -40_000}, FIVE_MINUTES)
    assert used(known, CHARGE) == pytest.approx({"large": 0.5, "small": 0.5}, rel=0.035)
    assert used(known, DISCHARGE) == pytest.approx({"large": 0.6, "small": 0.4}, rel=0.035)


@pytest.mark.parametrize(("direction", "sign"), [(CHARGE, 1), (DISCHARGE, -1)])
def test_the_other_directions_shares_are_used_until_a_direction_was_learnt(direction: int, sign: int) -> None:
    """By night nothing is known of charging but how the packs discharge."""
    known = see(NEITHER, {"large": sign * 50_000, "small": sign * 50_000}, FIVE_MINUTES)
    assert used(known, 1 - direction) == used(known, direction) == known[direction].used
    known = see(known, {"large": -sign * 75_000, "small": -sign * 25_000})
    first = known[direction].used["small"]
    assert known[1 - direction].learnt["small"] == pytest.approx(first + A_SECOND * (0.25 - first)), (
        "and that is where it begins from"
    )


@pytest.mark.parametrize(
    ("large", "small"),
    [(0, 300_000), (300_000, 0), (-500_000, 800_000), (800_000, -500_000), (100_000, -1), (8_000_000, 0)],
)
def test_one_frame_of_nonsense_moves_next_to_nothing(large: int, small: int) -> None:
    """Whatever it says; and no share gets smaller, so that no limit rises by it."""
    known = see(NEITHER, {"large": 75_000, "small": 25_000}, FIVE_MINUTES)
    after = see(known, {"large": large, "small": small})
    for cable, before in used(known).items():
        now = used(after)[cable]
        assert before <= now <= before * 1.05
    later = see(after, {"large": 75_000, "small": 25_000}, FIVE_MINUTES)
    assert used(later) == pytest.approx(used(known), rel=0.031)


def test_a_sensor_that_reads_nothing_frees_no_pack_of_its_limit() -> None:
    """Half of its share by capacity stays, and no pack is thought to take more than four times as much."""
    known = see(NEITHER, {"large": 100_000, "small": 0}, 3_000)
    assert known[CHARGE].learnt == pytest.approx({"large": 1.0, "small": 0.125})
    known = see(NEITHER, {"large": 100_000, "small": -80_000}, 3_000)
    assert known[CHARGE].learnt == pytest.approx({"large": 1.25, "small": 0.125}), "others give of it"
    known = see(NEITHER, {"large": 0, "small": 100_000}, 3_000)
    assert known[CHARGE].learnt == pytest.approx({"large": 0.375, "small": 1.0})


def step_to(times: float) -> Mapping[str, float]:
    """The shares in use after what was learnt of the small pack is so many times what is in use."""
    known = (Shares({"large": 0.75, "small": 0.25 * times}, BY_CAPACITY), NEITHER[0])
    return shares.learn(known, {"large": 75_000, "small": 25_000}, CAPACITY, 0.0)[CHARGE].used


@pytest.mark.parametrize(
    ("times", "follows"),
    [(1.0, False), (1.0099, False), (1.0101, True), (0.9701, False), (0.9699, True)],
)
def test_a_limit_stands_still_for_1_percent_more_and_3_percent_less(times: float, follows: bool) -> None:
    assert step_to(times)["small"] == (0.25 * times if follows else 0.25)
    assert step_to(times)["large"] == 0.75


def test_the_dead_band_includes_neither_of_its_ends() -> None:
    """Halves and quarters, so that the numbers are exact: 0.01 and 0.03 are not."""
    more, less = shares.MORE, shares.LESS
    shares.MORE, shares.LESS = 0.25, 0.25
    try:
        assert step_to(1.25)["small"] == 0.3125
        assert step_to(0.75)["small"] == 0.1875
    finally:
        shares.MORE, shares.LESS = more, less


def test_a_pack_that_is_new_has_its_part_of_the_capacity() -> None:
    known = see(NEITHER, {"large": 50_000, "small": 50_000}, FIVE_MINUTES)
    three = {**CAPACITY, "new": 400_000}
    assert used(known, CHARGE, three) == {**known[CHARGE].used, "new": 0.5}
    known = see(known, {"large": 25_000, "small": 25_000, "new": 50_000}, FIVE_MINUTES, three)
    assert used(known, CHARGE, three) == pytest.approx({"large": 0.25, "small": 0.25, "new": 0.5}, rel=0.04)


def test_a_pack_that_is_gone_is_forgotten() -> None:
    known = see(NEITHER, {"large": 50_000, "small": 50_000}, FIVE_MINUTES)
    assert see(known, {"small": 50_000}, 1, {"small": 100_000})[CHARGE].learnt.keys() == {"small"}
    assert used(known, CHARGE, {"small": 100_000}).keys() == {"small"}


def test_a_pack_without_a_capacity_setting_breaks_nothing() -> None:
    """Its part is nothing, so nothing is learnt of it; the other goes on."""
    capacity = {"set": 300_000, "not set": 0}
    known = see(NEITHER, {"set": 50_000, "not set": 50_000}, FIVE_MINUTES, capacity)
    assert used(known, CHARGE, capacity)["not set"] == 0.0
    assert used(known, CHARGE, capacity)["set"] == pytest.approx(0.5, rel=0.035)
    assert used(known, CHARGE, {"set": 300_000, "not set": 100_000})["not set"] == 0.25, "now it has"
    nothing = {"one": 0, "other": 0}
    assert see(NEITHER, {"one": 1, "other": 0}, 1, nothing)[CHARGE].learnt["one"] > 0.5
    assert see(NEITHER, {"one": 0, "other": 0}, 1, nothing) == NEITHER
    known = see(NEITHER, {"one": 70_000, "other": 30_000}, FIVE_MINUTES, nothing)
    assert used(known, CHARGE, nothing) == pytest.approx({"one": 0.7, "other": 0.3}, rel=0.035)


def test_no_time_teaches_nothing() -> None:
    known = shares.learn(NEITHER, {"large": 50_000, "small": 50_000}, CAPACITY, 0.0)
    assert known[CHARGE].learnt == BY_CAPACITY
