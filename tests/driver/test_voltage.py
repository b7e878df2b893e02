"""CVL as a control law of its own: frames in, a voltage out; what it remembers is to be seen."""

from __future__ import annotations

from typing import Any

import pytest

from dbus_smartbms import voltage
from dbus_smartbms.voltage import Cells, Held

CELLS, TARGET, TOP, FLOOR = 16, 3430, 16 * 3430, 16 * 3300


class Loop:
    """A law that gets a frame a second: 16 cells, not level; target 3.43 V, floor 3.3 V, 20 A flow in."""

    def __init__(self) -> None:
        self.held, self.now = voltage.Held(), 1000.0

    def look(self, highest_mv: int, voltage_mv: int, **other: Any) -> Cells:
        usual: dict[str, Any] = {"interval_s": 1.0, "current_ma": 20_000, "flow_ma": 3_000, "spread_mv": 21}
        return voltage.Cells(CELLS, voltage_mv, highest_mv, TARGET, TOP, FLOOR, **(usual | other))

    def hold(
        self, highest_mv: int, voltage_mv: int = 54_400, frames: int = 1, after: float = 1.0, **other: Any
    ) -> float:
        for _ in range(frames):
            self.now += after
            look = self.look(highest_mv, voltage_mv, **other)
            self.held, cvl = voltage.hold(self.held, self.now, look)
        return cvl

    def block(
        self,
        voltage_mv: int = 54_400,
        frames: int = 1,
        after: float = 1.0,
        *,
        begins: bool = False,
        **other: Any,
    ) -> float:
        highest_mv = other.pop("highest_mv", 3340)
        for _ in range(frames):
            self.now += after
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


@pytest.mark.parametrize(
    "seen",
    [(0, 0, 3340, 3340, 3340), (0, 3340, 3340, 3340, 3345), (3330, 3330, 3330, 3330, 3410)],
    ids=["cells not heard", "and again", "a load that ended, a silence"],
)
def test_one_step_is_no_rise(seen: tuple[int, ...]) -> None:
    assert voltage.soon_mv(seen, 1.0) <= seen[-1]


def test_noise_of_two_counts_is_no_rise_at_any_interval() -> None:
    for interval_s in (1.0, 0.5):
        assert voltage.soon_mv((3415, 3415, 3420, 3415, 3425), interval_s) == 3410


def test_the_interval_of_the_frames_counts_for_a_rise() -> None:
    assert voltage.over_mv((3400, 3405, 3410, 3415, 3420), TARGET, 1.0) == pytest.approx(-2.5)
    assert voltage.over_mv((3400, 3405, 3410, 3415, 3420), TARGET, 0.5) == pytest.approx(20.0)
    assert voltage.over_mv((3405, 3410, 3415, 3420), TARGET, 0.5) == -20, "five frames are a rise"
    assert voltage.over_mv((3420, 3420, 3420, 3420, 3400), TARGET, 0.5) == -30


@pytest.mark.parametrize(
    ("seen", "soon"),
    [
        ((3451,), 3436),
        ((3440, 3440, 3450, 3450), 3435),
        ((3450, 3450, 3400, 3400, 3450), 3435),
        ((3460, 3460, 3400, 3400, 3450), 3435),
    ],
)
def test_without_a_rise_nothing_is_looked_ahead(seen: tuple[int, ...], soon: int) -> None:
    assert voltage.soon_mv(seen, 1.0) == soon


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


def test_the_next_step_waits_for_6_s() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET + 10, after=5.96875) == low
    assert loop.hold(TARGET + 10, after=0.03125) == low - CELLS * 10


@pytest.mark.parametrize(("over", "waits"), [(30, True), (31, False)])
def test_a_cell_that_runs_away_is_not_waited_for(over: int, waits: bool) -> None:
    """CVL came down for 10 mV; one frame counts by 15 mV less."""
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET + over) == (low if waits else low - CELLS * 16)
    assert loop.hold(TARGET + 60) < low


@pytest.mark.parametrize(("current_ma", "down"), [(None, True), (1, True), (-20_000, False)])
def test_a_cell_over_its_target_needs_no_lower_voltage_while_the_pack_is_discharged(
    current_ma: int | None, down: bool
) -> None:
    loop = Loop()
    assert (loop.hold(TARGET + 20, frames=60, current_ma=current_ma) < TOP) is down


@pytest.mark.parametrize(
    ("over", "current_ma", "change"), [(30, -3_001, None), (30, -3_000, -30), (31, -3_001, -30)]
)
def test_a_discharge_is_believed_for_a_cell_up_to_30_mv_over(
    over: int, current_ma: int, change: int | None
) -> None:
    cvl = Loop().hold(TARGET + over, frames=7, current_ma=current_ma)
    assert cvl == (TOP if change is None else 54_400 + CELLS * change)


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


def wait_s(loop: Loop) -> float:
    """Seconds from the last step until CVL rises for a cell 15 mV under its target."""
    began, cvl = loop.held.moved_at, loop.hold(TARGET - 15)
    for _ in range(1000):
        if loop.hold(TARGET - 15) != cvl:
            return loop.now - began
    raise AssertionError("it does not rise")


def test_it_rises_by_5_mv_a_cell_after_5_minutes_under_the_target() -> None:
    loop = Loop()
    low = lowered(loop)
    for steps in (1, 2, 3):
        assert wait_s(loop) == 300
        assert loop.held.cvl_mv == low + CELLS * 5 * steps


def test_at_its_top_nothing_holds_it_down() -> None:
    """Another top, as after float, is followed at once."""
    loop = Loop()
    lowered(loop)
    assert loop.hold(3330, frames=301) == TOP
    assert (
        voltage.hold(loop.held, loop.now + 1, loop.look(3330, 54_400)._replace(top_mv=TOP + 160))[1]
        == TOP + 160
    )


def test_what_moves_nothing_does_not_begin_the_wait_anew() -> None:
    loop = Loop()
    assert loop.hold(TARGET + 10, 50_000, frames=3) == FLOOR
    began = loop.now
    assert loop.hold(TARGET + 10, 50_000, frames=100) == FLOOR
    wait_s(loop)
    assert loop.now - began == 300
    loop = Loop()
    loop.hold(3330, frames=400)
    lowered(loop)
    assert wait_s(loop) == 300, "there was no step up at the top to be taken back"


def test_it_stays_while_the_cell_is_near_its_target() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET - 14, frames=3000) == low


@pytest.mark.parametrize(("under", "spread_mv", "step"), [(5, 20, 2), (14, 20, 2), (4, 20, 0), (5, 21, 0)])
def test_level_cells_near_their_target_get_the_rest_in_small_steps(
    under: int, spread_mv: int, step: int
) -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET - under, frames=5, spread_mv=spread_mv) == low
    assert loop.hold(TARGET - under, after=594.0, spread_mv=spread_mv) == low
    assert loop.hold(TARGET - under, spread_mv=spread_mv) == low + CELLS * step


def test_noise_near_the_target_keeps_it_from_rising() -> None:
    loop = Loop()
    low = lowered(loop)
    for _ in range(400):
        assert loop.hold(TARGET - 30, frames=4) == low
        assert loop.hold(TARGET - 10) == low


def test_a_cell_that_jumped_and_stays_is_waited_for() -> None:
    """One frame counts by 15 mV less than three do: the same 45 mV are no cell that runs away."""
    loop = Loop()
    loop.hold(3400, frames=5)
    first = loop.hold(TARGET + 45)
    assert first == 54_400 - CELLS * 30
    assert loop.hold(TARGET + 45, frames=5) == first
    assert loop.hold(TARGET + 45) == first - CELLS * 30


def test_far_under_its_target_it_rises_by_more() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.hold(TARGET - 55, frames=300) == low + CELLS * 20


def test_a_step_up_that_had_to_be_taken_back_is_waited_longer_for() -> None:
    loop = Loop()
    lowered(loop)
    assert wait_s(loop) == 300
    lowered(loop)
    assert wait_s(loop) == 600
    lowered(loop)
    assert wait_s(loop) == 600, "at the most"
    assert wait_s(loop) == 600
    assert wait_s(loop) == 300, "one that held is followed by the next sooner"


@pytest.mark.parametrize(("after", "wait"), [(599.0, 600), (600.0, 300)])
def test_a_step_up_that_held_for_10_minutes_was_not_too_much(after: float, wait: int) -> None:
    loop = Loop()
    lowered(loop)
    wait_s(loop)
    loop.hold(TARGET + 60, after=after)
    assert wait_s(loop) == wait


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


@pytest.mark.parametrize(
    ("over", "current_ma", "lower"),
    [
        (20, 0, 0),
        (21, 0, 6),
        (45, 0, 30),
        (45, -3_000, 30),
        (45, -3_001, 0),
        (46, -3_001, 30),
        (45, None, 30),
    ],
)
def test_where_charging_ends_for_a_cell_over_its_target(
    over: int, current_ma: int | None, lower: int
) -> None:
    """One frame counts by 15 mV less; a discharge is believed up to 30 mV."""
    loop = Loop()
    assert loop.block(begins=True, highest_mv=TARGET + over, current_ma=current_ma) == 54_400 - CELLS * lower


@pytest.mark.parametrize(
    ("first", "second", "steps"),
    [(-30, 30, 0), (-30, 31, 16), (36, 41, 0), (36, 42, 27), (-90, -70, 0)],
)
def test_only_a_cell_that_runs_away_is_not_waited_for_while_charging_is_denied(
    first: int, second: int, steps: int
) -> None:
    loop = Loop()
    begin = loop.block(begins=True, highest_mv=TARGET + first)
    assert loop.block(highest_mv=TARGET + second) == begin - CELLS * steps


@pytest.mark.parametrize(("over", "steps"), [(36, 0), (37, 22)])
def test_how_far_over_it_was_is_remembered_of_each_step(over: int, steps: int) -> None:
    loop = Loop()
    begin = loop.block(begins=True, highest_mv=3400)
    assert loop.block(highest_mv=TARGET + 31) == begin - CELLS * 16
    assert loop.block(highest_mv=TARGET + over) == begin - CELLS * (16 + steps)


@pytest.mark.parametrize("first", [-90, 36])
def test_the_next_step_waits_for_6_s_while_charging_is_denied(first: int) -> None:
    loop = Loop()
    begin = loop.block(begins=True, highest_mv=TARGET + first)
    assert loop.block(after=5.96875, highest_mv=TARGET - 80) == begin
    assert loop.block(after=0.03125, highest_mv=TARGET - 80) == begin - CELLS * 10
    assert loop.block(after=5.96875, highest_mv=TARGET - 60) == begin - CELLS * 10


@pytest.mark.parametrize(
    ("current_ma", "further"), [(3_001, 30), (3_000, 0), (0, 0), (-3_000, 0), (-3_001, 0), (None, 0)]
)
def test_where_no_current_is_seen_to_flow_in_it_goes_one_step_under_the_present_voltage(
    current_ma: int | None, further: int
) -> None:
    loop = Loop()
    loop.block(begins=True)
    over: dict[str, Any] = {"after": 6.0, "highest_mv": TARGET + 46, "current_ma": current_ma}
    assert loop.block(**over) == 54_400 - CELLS * 30
    assert loop.block(**over) == 54_400 - CELLS * (30 + further)
    assert loop.block(54_100, **over) == (54_100 if not further else 54_400 - CELLS * 60) - CELLS * 30


def test_without_a_sensor_noise_does_not_bring_it_down_to_the_floor() -> None:
    loop = Loop()
    loop.block(54_000, begins=True, current_ma=None)
    assert loop.block(54_005, after=6.0, current_ma=None) == 54_000 - CELLS * 10
    assert loop.block(54_000, frames=600, current_ma=None) == 54_000 - CELLS * 30


@pytest.mark.parametrize(("highest_mv", "further"), [(3_485, 0), (3_486, 30)])
def test_a_cell_that_runs_away_is_being_charged_whatever_the_sensor_shows(
    highest_mv: int, further: int
) -> None:
    """A dead sensor, 4 cells, a charger 0.4 V over CVL: one step under the present voltage stops nothing."""
    loop = Loop()
    loop.hold(TARGET - 80, current_ma=0)
    assert loop.hold(TARGET + 50, current_ma=0) == 54_400 - CELLS * 30
    assert loop.hold(TARGET + 50, frames=20, current_ma=0) == 54_400 - CELLS * 30
    assert loop.hold(highest_mv, current_ma=0) == 54_400 - CELLS * (30 + further)


@pytest.mark.parametrize(("current_ma", "change"), [(-3_001, 10), (-3_000, 0), (0, 0), (None, 0)])
def test_only_while_the_pack_is_discharged_does_it_come_up(current_ma: int | None, change: int) -> None:
    loop = Loop()
    loop.block(53_200, begins=True)
    low = 53_200 - CELLS * 20
    assert loop.block(53_200, frames=12) == low
    quiet = low if current_ma is None else 53_200  # without a sensor a pack over CVL is charged
    assert loop.block(quiet, after=299.0, current_ma=current_ma) == low
    assert loop.block(quiet, current_ma=current_ma) == low + CELLS * change
    assert loop.block(quiet, after=299.0, current_ma=current_ma) == low + CELLS * change


def test_at_the_present_voltage_it_has_nowhere_to_rise_to() -> None:
    loop = Loop()
    begin = loop.block(53_200, begins=True)
    assert loop.block(53_200, after=300.0, current_ma=-20_000) == begin
    assert loop.block(53_300, current_ma=-20_000) == 53_300, "no step just now that had to be waited for"


# When charging is allowed again


@pytest.mark.parametrize(("over", "cvl"), [(0, TOP), (1, 53_200)])
def test_it_comes_back_to_where_it_was_unless_a_cell_is_over_its_target(over: int, cvl: float) -> None:
    """Where it held the cell before it will hold it again: a lost link is no reason to begin anew."""
    loop = Loop()
    assert loop.hold(TARGET + over) == TOP
    assert loop.block(53_200, frames=5, begins=True, highest_mv=TARGET + over, current_ma=0) == 53_200
    assert loop.hold(TARGET + over) == cvl


def test_it_comes_back_to_what_it_was_lowered_to() -> None:
    loop = Loop()
    low = lowered(loop)
    assert loop.block(53_200, begins=True) == 53_200
    assert loop.hold(3330) == low
    assert loop.hold(3330) == low


def test_it_was_never_away_where_the_pack_was_over_it() -> None:
    loop = Loop()
    assert loop.block(56_000, begins=True, current_ma=0) == TOP
    assert loop.hold(3330) == TOP


@pytest.mark.parametrize(("over", "cvl"), [(20, TOP), (21, 54_400)])
def test_a_cell_that_asked_for_less_meanwhile_is_remembered(over: int, cvl: float) -> None:
    loop = Loop()
    assert loop.block(begins=True, highest_mv=3400) == 54_400
    assert loop.block(highest_mv=TARGET + over) == 54_400
    assert loop.hold(3400) == cvl


def test_time_that_goes_back_keeps_nothing_from_coming_down() -> None:
    loop = Loop()
    loop.hold(TARGET + 10, frames=4)
    before = loop.held.cvl_mv
    loop.now -= 5000
    assert before is not None
    assert loop.hold(TARGET + 10) < before


def test_a_sensor_that_shows_a_discharge_lifts_it_by_one_step_at_most() -> None:
    """Charging is denied and goes on all the same, the sensor is stuck or the wrong way round."""
    loop = Loop()
    loop.block(53_200, begins=True, current_ma=-20_000)
    for voltage_mv in range(53_200, 55_000, 100):
        cvl = loop.block(voltage_mv, frames=300, current_ma=-20_000)
    assert cvl == 53_200 + CELLS * 30
    assert loop.block(53_300, frames=2, current_ma=-20_000) == cvl, "nothing brings it down without need"


def test_where_it_was_when_charging_stopped_is_what_it_was_lowered_to() -> None:
    """A link that was lost before: then it does not begin at the present voltage."""
    loop = Loop()
    loop.held = Held(cvl_mv=53_000.0)
    assert loop.block(54_000, frames=2_000, current_ma=-20_000) == 53_000 + CELLS * 30


def test_at_the_most_it_may_be_it_waits_for_nothing() -> None:
    loop = Loop()
    loop.block(53_200, begins=True, current_ma=-20_000)
    assert loop.block(53_200, frames=700, current_ma=-20_000) == 53_200
    assert loop.block(53_300, current_ma=-20_000) == 53_300


def test_a_cell_that_runs_away_brings_it_two_steps_down_before_the_first_had_its_time() -> None:
    loop = Loop()
    loop.hold(3_400, 54_400, frames=5)
    lowest = [loop.hold(highest_mv, 54_400) for highest_mv in (3_480, 3_520, 3_560, 3_600, 3_640)]
    assert lowest[-1] == 54_400 - CELLS * 60
    assert loop.hold(3_640, 54_400, frames=5) < 54_400 - CELLS * 60, "and further once it had"
