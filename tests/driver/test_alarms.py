"""What people are told of a pack: alarms, debounced, each fact on one path; and its history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dbus_smartbms.alarms import CLEAR_FRAMES, RAISE_FRAMES, ROWS, Alarms
from dbus_smartbms.history import History
from dbus_smartbms.pack import Pack
from dbus_smartbms.settings import Settings
from rig import frame
from smartbms_protocol import PackState
from smartbms_protocol.layout import (
    CHARGE_ALLOWED,
    DISCHARGE_ALLOWED,
    EARLY_WARNING,
    NO_COMMUNICATION,
    OVER_TMAX,
    OVER_VMAX,
    TOO_COLD_TO_CHARGE,
    TOO_COLD_TO_DISCHARGE,
    UNDER_TMIN,
    UNDER_VMIN,
)

BOTH = CHARGE_ALLOWED | DISCHARGE_ALLOWED


class Told:
    """A pack that sends a frame a second; status byte 2 in every frame (key 16), or in none."""

    def __init__(self) -> None:
        self.pack = Pack(Settings())
        self.now = 0.0

    def send(self, frames: int = 1, lights: int = 0, status2: int | None = None, **changes: Any) -> None:
        pair = {"key": None} if status2 is None else {"key": 16, "value": status2}
        for _ in range(frames):
            self.now += 1.0
            self.pack.take(frame(0, status=BOTH | lights, **(pair | changes)), self.now)
            self.pack.tick(self.now)

    def silent(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.pack.tick(self.now)

    @property
    def raised(self) -> dict[str, int]:
        return {path: level for path, level in self.pack.alarms.levels.items() if level}


FACTS: list[tuple[int, int | None, dict[str, int]]] = [
    (UNDER_VMIN, None, {"LowCellVoltage": 2}),
    (OVER_VMAX, None, {"HighCellVoltage": 2}),
    (UNDER_TMIN, None, {"LowTemperature": 2}),
    (UNDER_TMIN, TOO_COLD_TO_CHARGE, {"LowChargeTemperature": 2}),
    (UNDER_TMIN, TOO_COLD_TO_CHARGE | TOO_COLD_TO_DISCHARGE, {"LowTemperature": 2}),
    (UNDER_TMIN, TOO_COLD_TO_DISCHARGE, {"LowTemperature": 2}),
    (0, TOO_COLD_TO_CHARGE, {"LowChargeTemperature": 2}),
    (0, TOO_COLD_TO_DISCHARGE, {"LowTemperature": 2}),
    (OVER_TMAX, None, {"HighTemperature": 2}),
    (NO_COMMUNICATION, None, {"BmsCable": 2}),
    (0, EARLY_WARNING, {"InternalFailure": 1}),
    (0, 0b0011_0001, {}),  # relays closed, an unused bit
]


@pytest.mark.parametrize(("lights", "status2", "expected"), FACTS)
def test_one_fact_is_raised_on_one_path_after_three_frames(
    lights: int, status2: int | None, expected: dict[str, int]
) -> None:
    told = Told()
    told.send(5)
    told.send(2, lights, status2)
    assert told.raised == {}
    told.send(1, lights, status2)
    assert told.raised == expected
    assert {path for path, count in told.pack.alarms.raised.items() if count} == set(expected)


@pytest.mark.parametrize(("lights", "status2", "expected"), FACTS)
def test_it_is_cleared_after_five_frames_without_it(
    lights: int, status2: int | None, expected: dict[str, int]
) -> None:
    told = Told()
    told.send(3, lights, status2)
    off = None if status2 is None else 0
    told.send(4, 0, off)
    assert told.raised == expected
    told.send(1, 0, off)
    assert told.raised == {}


def test_the_cold_light_waits_for_status_byte_2_to_come_round() -> None:
    """The BMS says which direction it is too cold for up to 19 s later: one fact, one path."""
    told = Told()
    told.send(5, 0, 0)
    told.send(15, UNDER_TMIN, 0)
    assert told.raised == {}
    told.send(5, UNDER_TMIN, TOO_COLD_TO_CHARGE)
    assert told.raised == {"LowChargeTemperature": 2}


def test_a_cold_light_that_status_byte_2_never_explains_is_told_after_a_round() -> None:
    told = Told()
    told.send(19, UNDER_TMIN, 0)
    assert told.raised == {}
    told.send(1, UNDER_TMIN, 0)
    assert told.raised == {"LowTemperature": 2}


def test_all_facts_together_are_all_told() -> None:
    told = Told()
    told.send(3, 0b0111_1100, EARLY_WARNING | TOO_COLD_TO_DISCHARGE)
    assert told.raised == {
        "LowCellVoltage": 2, "HighCellVoltage": 2, "LowTemperature": 2, "HighTemperature": 2,
        "InternalFailure": 1, "BmsCable": 2,
    }  # fmt: skip


def test_a_light_that_flickers_is_not_raised() -> None:
    told = Told()
    for _ in range(20):
        told.send(2, OVER_VMAX)
        told.send(1)
    assert told.raised == {}


def test_an_alarm_that_flickers_is_raised_once() -> None:
    told = Told()
    told.send(3, OVER_VMAX)
    for _ in range(20):
        told.send(4)
        told.send(1, OVER_VMAX)
    assert told.raised == {"HighCellVoltage": 2}
    assert told.pack.alarms.raised["HighCellVoltage"] == 1


def test_an_alarm_that_comes_again_counts_again() -> None:
    told = Told()
    for _ in range(2):
        told.send(3, OVER_VMAX)
        told.send(5)
    assert told.pack.alarms.raised["HighCellVoltage"] == 2


def test_limits_do_not_wait_for_the_alarm() -> None:
    told = Told()
    told.send(3)
    told.send(1, OVER_TMAX)
    assert told.raised == {}
    assert told.pack.limits is not None
    assert (told.pack.limits.ccl_ma, told.pack.limits.dcl_ma) == (0, 0)


def test_status_byte_2_of_long_ago_raises_nothing() -> None:
    """Three rounds of 19 s, then it is not known; five frames later the alarm goes."""
    told = Told()
    told.send(3, 0, EARLY_WARNING)
    told.send(57)
    assert told.raised == {"InternalFailure": 1}
    told.send(4)
    assert told.raised == {"InternalFailure": 1}
    told.send(1)
    assert told.raised == {}


def test_a_frame_that_is_held_back_raises_nothing() -> None:
    told = Told()
    told.send(2, OVER_VMAX)
    told.send(1, OVER_VMAX, vmax_mv=3650)
    told.send(1, OVER_VMAX, vmax_mv=3600)
    assert told.raised == {}


# The cable


def test_a_lost_link_warns_then_alarms_then_is_gone_with_the_first_frame() -> None:
    told = Told()
    told.send(3)
    told.silent(9)
    assert told.raised == {}
    told.silent(1)
    assert told.raised == {"BmsCable": 1}
    told.silent(49)
    assert told.raised == {"BmsCable": 1}
    told.silent(1)
    assert told.raised == {"BmsCable": 2}
    assert told.pack.alarms.raised["BmsCable"] == 1
    told.send(1)
    assert told.raised == {}


def test_a_nearly_empty_pack_alarms_at_once() -> None:
    told = Told()
    told.send(3, lowest_mv=3000)
    told.silent(10)
    assert told.raised == {"BmsCable": 2}


def test_other_alarms_stay_while_the_link_is_lost() -> None:
    told = Told()
    told.send(3, OVER_VMAX)
    told.silent(100)
    assert told.raised == {"HighCellVoltage": 2, "BmsCable": 2}
    told.send(4)
    assert told.raised == {"HighCellVoltage": 2}
    told.send(1)
    assert told.raised == {}


def test_a_cable_that_goes_while_the_light_e_is_on_stays_an_alarm() -> None:
    """One path, two facts: a lower level in between would be told as something new."""
    told = Told()
    told.send(3, NO_COMMUNICATION)
    told.silent(10)
    assert told.raised == {"BmsCable": 2}
    told.silent(50)
    told.send(1, NO_COMMUNICATION)
    assert told.raised == {"BmsCable": 2}
    assert told.pack.alarms.raised["BmsCable"] == 1
    told.send(5)
    assert told.raised == {}


def test_a_link_that_comes_back_with_the_light_e_goes_from_warning_to_alarm() -> None:
    told = Told()
    told.send(3)
    told.silent(20)
    told.send(2, NO_COMMUNICATION)
    assert told.raised == {"BmsCable": 1}
    told.send(1, NO_COMMUNICATION)
    assert told.raised == {"BmsCable": 2}


def test_nothing_is_raised_before_the_first_frame() -> None:
    pack = Pack(Settings())
    pack.tick(1000.0)
    assert set(pack.alarms.levels.values()) == {0}
    alarms = Alarms()
    alarms.frame(PackState(), 1.0)
    alarms.heard(PackState())
    assert set(alarms.levels.values()) == {0}


def test_the_rows_name_each_path_once_and_where_it_comes_from() -> None:
    assert len({row.path for row in ROWS}) == len(ROWS)
    assert all(row.source for row in ROWS)
    assert (RAISE_FRAMES, CLEAR_FRAMES) == (3, 5)


# History


def test_the_history_begins_with_the_first_frame() -> None:
    told = Told()
    told.send()
    seen = told.pack.history
    assert (seen.lowest_pack_mv, seen.highest_pack_mv) == (53_120, 53_120)
    assert (seen.lowest_cell_mv, seen.highest_cell_mv) == (3_310, 3_330)
    assert (seen.coldest_raw, seen.hottest_raw) == (296, 299)
    assert (seen.drawn_mas, seen.deepest_wh, seen.full_at) == (0.0, 8_000, None)


def test_the_history_keeps_the_extremes() -> None:
    told = Told()
    told.send()
    told.send(
        voltage_mv=50_000,
        lowest_mv=3_000,
        highest_mv=3_200,
        coldest_raw=280,
        hottest_raw=290,
        stored_wh=7_000,
    )
    told.send(
        voltage_mv=56_000,
        lowest_mv=3_400,
        highest_mv=3_600,
        coldest_raw=300,
        hottest_raw=320,
        stored_wh=17_000,
    )
    seen = told.pack.history
    assert (seen.lowest_pack_mv, seen.highest_pack_mv) == (50_000, 56_000)
    assert (seen.lowest_cell_mv, seen.highest_cell_mv) == (3_000, 3_600)
    assert (seen.coldest_raw, seen.hottest_raw) == (280, 320)
    assert seen.deepest_wh == 9_000


def test_more_stored_than_the_capacity_is_no_negative_depth() -> None:
    told = Told()
    told.send(stored_wh=17_000)
    assert told.pack.history.deepest_wh == 0


def test_readings_of_a_bms_that_hears_no_cell_are_not_kept() -> None:
    told = Told()
    told.send(1, NO_COMMUNICATION, voltage_mv=0, lowest_mv=0, highest_mv=0, coldest_raw=0, hottest_raw=0)
    assert told.pack.history == History(deepest_wh=8_000, _at=1.0)
    told.send()
    before = replace(told.pack.history, _at=3.0, drawn_mas=25_000.0)
    told.send(1, NO_COMMUNICATION, voltage_mv=0, lowest_mv=0, highest_mv=0, coldest_raw=0, hottest_raw=0)
    assert told.pack.history == before


def test_charge_drawn_is_counted_between_frames_never_over_a_gap() -> None:
    told = Told()
    told.send(3, current_ma=-10_000)
    assert told.pack.history.drawn_mas == 20_000
    told.send(2, current_ma=10_000)
    told.send(1, current_ma=None)
    assert told.pack.history.drawn_mas == 20_000
    told.silent(2)
    told.send(1, current_ma=-10_000)
    assert told.pack.history.drawn_mas == 50_000, "3 s are three intervals"
    told.silent(3)
    told.send(1, current_ma=-10_000)
    assert told.pack.history.drawn_mas == 50_000


def test_full_is_when_the_bms_says_100() -> None:
    told = Told()
    told.send(soc_percent=99)
    assert told.pack.history.full_at is None
    told.send(soc_percent=100)
    told.send(soc_percent=99)
    assert told.pack.history.full_at == 2.0


def test_a_cleared_history_begins_with_the_last_frame() -> None:
    told = Told()
    told.send(voltage_mv=50_000)
    told.send()
    told.pack.clear_history()
    assert told.pack.history.lowest_pack_mv == 53_120
    told.send(current_ma=-10_000)
    assert told.pack.history.drawn_mas == 10_000


def test_a_history_cleared_before_the_first_frame_is_empty() -> None:
    pack = Pack(Settings())
    pack.clear_history()
    assert pack.history == History()
