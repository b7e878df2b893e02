"""CVL as a control law of its own: frames in, a voltage out; what it remembers is to be seen."""

from __future__ import annotations

from typing import Any

import pytest

from dbus_smartbms import voltage
from dbus_smartbms.voltage import Cells, Held

CELLS, TARGET, TOP, FLOOR = 16, 3430, 16 * 3430, 16 * 3300


class Loop:
    """A law that gets a frame a second: 16 cells, target 3.43 V, floor 3.3 V a cell, 20 A flow in."""

    def __init__(self) -> None:
        self.held, self.now = voltage.Held(), 1000.0

    def look(self, highest_mv: int, voltage_mv: int, **other: Any) -> Cells:
        usual: dict[str, Any] = {"interval_s": 1.0, "current_ma": 20_000, "flow_ma": 3_000}
        return Cells(CELLS, voltage_mv, highest_mv, TARGET, TOP, FLOOR, **(usual | other))

    def hold(self, highest_mv: int, voltage_mv: int = 54_400, frames: int = 1, **other: Any) -> float:
        for _ in range(frames):
            self.now += 1.0
            look = self.look(highest_mv, voltage_mv, **other)
            self.held, cvl = voltage.hold(self.held, self.now, look)
        return cvl

    def block(
        self, voltage_mv: int = 54_400, frames: int = 1, *, begins: bool = False, **other: Any
    ) -> float:
        highest_mv = other.pop("highest_mv", 3340)
        for _ in range(frames):
            self.now += 1.0
            look = self.look(highest_mv, voltage_mv, **other)
            self.held, cvl = voltage.block(self.held, self.now, look, begins=begins)
            begins = False
        return cvl


def test_far_from_its_target_a_cell_moves_nothing() -> None:
    loop = Loop()
    for highest in (3330, 3350, 3330, 3345, 3335) * 40:
        assert loop.hold(highest) == TOP


@pytest.mark.parametrize(("over", "moves"), [(0, False), (5, False), (6, True), (20, True)])
def test_three_frames_over_the_target_bring_it_down_to_the_present_voltage(over: int, moves: bool) -> None:
    loop = Loop()
    assert loop.hold(TARGET) == TOP
    assert loop.hold(TARGET + over, 54_000, frames=2) == TOP
    assert loop.hold(TARGET + over, 54_000) == (54_000 - CELLS * over if moves else TOP)


def test_two_frames_over_the_target_are_noise() -> None:
    loop = Loop()
    for _ in range(20):
        assert loop.hold(TARGET + 8, frames=2) == TOP
        assert loop.hold(TARGET) == TOP


@pytest.mark.parametrize(("over", "cvl"), [(20, TOP), (21, 54_400 - CELLS * 6), (40, 54_400 - CELLS * 25)])
def test_so_far_over_one_frame_is_enough(over: int, cvl: int) -> None:
    loop = Loop()
    loop.hold(3400, frames=2)
    assert loop.hold(TARGET + over) == cvl


def test_a_cell_that_rises_fast_is_seen_coming() -> None:
    """5 mV a second at the top of LFP: CVL comes down when it gets to its target."""
    loop = Loop()
    for highest in range(3380, TARGET + 20, 5):
        if loop.hold(highest) < TOP:
            break
    assert highest == TARGET, "15 mV in 4 s: 7.5 mV more than the play after another 6 s"
    assert loop.held.cvl_mv == 54_400 - CELLS * 7.5


def test_the_interval_of_the_frames_counts_for_a_rise() -> None:
    assert voltage.over_mv((3400, 3405, 3410, 3415, 3420), TARGET, 1.0) == pytest.approx(-2.5)
    assert voltage.over_mv((3400, 3405, 3410, 3415, 3420), TARGET, 0.5) == pytest.approx(20.0)
    assert voltage.over_mv((3405, 3410, 3415, 3420), TARGET, 0.5) == -20, "five frames are a rise"
    assert voltage.over_mv((3420, 3420, 3420, 3420, 3400), TARGET, 0.5) == -30


def test_a_step_is_never_deeper_than_30_mv_a_cell() -> None:
    loop = Loop()
    loop.hold(3400)
    assert loop.hold(3690) == 54_400 - CELLS * 30


def test_it_comes_down_again_when_the_charger_had_its_time() -> None:
    """A charger that holds 0.4 V more: step by step, until the cell obeys."""
    loop = Loop()
    loop.hold(TARGET + 10, 54_900, frames=3)
    first = loop.hold(TARGET + 10, 54_900)
    assert first == 54_880 - CELLS * 10, "not over what was asked before"
    assert loop.hold(TARGET + 10, 54_900, frames=4) == first
    assert loop.hold(TARGET + 10, 54_900) == first - CELLS * 10
    assert loop.hold(TARGET + 5, 54_900, frames=60) == first - CELLS * 10


def test_a_cell_that_runs_away_is_not_waited_for() -> None:
    loop = Loop()
    loop.hold(TARGET + 10, frames=3)
    first = loop.hold(TARGET + 10)
    assert loop.hold(TARGET + 30) == first - CELLS * 30


@pytest.mark.parametrize(("current_ma", "down"), [(None, True), (1, True), (-20_000, False)])
def test_a_cell_over_its_target_needs_no_lower_voltage_while_the_pack_is_discharged(
    current_ma: int | None, down: bool
) -> None:
    loop = Loop()
    assert (loop.hold(TARGET + 20, frames=60, current_ma=current_ma) < TOP) is down


@pytest.mark.parametrize("current_ma", [0, 3_000, -3_000])
def test_a_sensor_that_shows_next_to_nothing_does_not_freeze_it(current_ma: int) -> None:
    """It may be blind or dead while a charger goes on; a step under the present voltage stops any."""
    loop = Loop()
    assert loop.hold(3600, 55_200, frames=60, current_ma=current_ma) == 55_200 - CELLS * 30
    assert loop.hold(3600, 55_000, frames=60, current_ma=current_ma) == 55_000 - CELLS * 30
    assert loop.hold(3600, 55_000, frames=60, current_ma=3_001) < 55_000 - CELLS * 30


def test_never_under_the_floor_nor_over_the_top() -> None:
    loop = Loop()
    assert loop.hold(3600, 50_000, frames=100) == FLOOR
    assert loop.hold(3330, frames=5000) == TOP


def lowered(loop: Loop) -> float:
    """CVL after a cell was 10 mV over its target; the last step was down."""
    loop.hold(TARGET + 10, frames=2)
    return loop.hold(TARGET + 10)


def test_it_rises_by_5_mv_a_cell_after_5_minutes_under_the_target() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET - 15, frames=299) == low
    assert loop.hold(TARGET - 15) == low + CELLS * 5
    assert loop.hold(TARGET - 15, frames=299) == low + CELLS * 5
    assert loop.hold(TARGET - 15) == low + CELLS * 10


def test_it_stays_while_the_cell_is_near_its_target() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET - 14, frames=3000) == low


def test_noise_near_the_target_keeps_it_from_rising() -> None:
    loop = Loop()
    low = lowered(loop)
    for _ in range(400):
        assert loop.hold(TARGET - 30, frames=4) == low
        assert loop.hold(TARGET - 10) == low


def test_far_under_its_target_it_rises_by_more() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET - 55, frames=300) == low + CELLS * 20


def test_a_step_up_that_had_to_be_taken_back_is_waited_longer_for() -> None:
    loop = Loop()
    low = lowered(loop)
    loop.hold(TARGET - 15, frames=300)
    low = lowered(loop)
    assert loop.hold(TARGET - 15, frames=590) == low
    assert loop.hold(TARGET - 15, frames=10) > low
    low = lowered(loop)
    assert loop.hold(TARGET - 15, frames=590) == low
    assert loop.hold(TARGET - 15, frames=10) > low, "600 s at the most"
    risen = loop.hold(TARGET - 15, frames=600)
    assert loop.hold(TARGET - 15, frames=300) > risen, "one that held is followed by the next sooner"


def test_a_frame_with_other_settings_moves_what_is_remembered_between_them() -> None:
    held = Held(cvl_mv=54_000.0)
    look = Loop().look(3330, 53_000)
    assert held.within(look._replace(top_mv=53_000))[1] == 53_000
    assert held.within(look._replace(floor_mv=54_500))[1] == 54_500
    assert held.within(look)[1] == 54_000
    assert Held().within(look)[1] == TOP


# While charging is not allowed


def test_where_charging_ends_it_goes_to_the_present_voltage() -> None:
    assert Loop().block(53_200, begins=True) == 53_200
    assert Loop().block(56_000, begins=True) == TOP
    assert Loop().block(50_000, begins=True) == FLOOR


def test_for_a_cell_over_its_target_it_goes_lower_at_once() -> None:
    assert Loop().block(54_500, begins=True, highest_mv=3700) == 54_500 - CELLS * 30
    assert Loop().block(54_500, begins=True, highest_mv=3450, current_ma=-20_000) == 54_500
    assert Loop().block(54_500, begins=True, highest_mv=3700, current_ma=-20_000) == 54_500 - CELLS * 30


@pytest.mark.parametrize(
    ("current_ma", "change"),
    [(3_001, -10), (3_000, 0), (0, 0), (-3_000, 0), (None, 0)],
)
def test_against_a_current_that_should_not_flow_it_goes_down(current_ma: int | None, change: int) -> None:
    loop = Loop()
    begin = loop.block(53_200, begins=True)
    assert loop.block(53_200, frames=5, current_ma=current_ma) == begin
    assert loop.block(53_200, current_ma=current_ma) == begin + CELLS * change


def test_without_a_sensor_a_pack_over_cvl_is_one_that_is_charged() -> None:
    loop = Loop()
    loop.block(53_200, begins=True, current_ma=None)
    assert loop.block(53_300, frames=6, current_ma=None) == 53_200 - CELLS * 10


def test_while_the_pack_is_discharged_it_comes_back_up_to_the_present_voltage() -> None:
    """The sun shall go on carrying the loads."""
    loop = Loop()
    loop.block(53_200, begins=True)
    low = loop.block(53_200, frames=6)
    assert loop.block(53_200, frames=299, current_ma=-3_001) == low
    assert loop.block(53_200, current_ma=-3_001) == 53_200
    assert loop.block(53_200, frames=3000, current_ma=-3_001) == 53_200


def test_a_cell_that_goes_on_rising_brings_it_down_though_little_flows() -> None:
    loop = Loop()
    begin = loop.block(54_500, begins=True, highest_mv=3700, current_ma=500)
    assert loop.block(54_500, highest_mv=3745, current_ma=500) == begin - CELLS * 30
    assert loop.block(54_500, frames=60, highest_mv=3745, current_ma=-20_000) == begin - CELLS * 30


def test_time_that_goes_back_keeps_nothing_from_coming_down() -> None:
    loop = Loop()
    loop.hold(TARGET + 10, frames=4)
    before = loop.held.cvl_mv
    loop.now -= 5000
    assert before is not None
    assert loop.hold(TARGET + 10) < before
