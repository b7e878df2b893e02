"""How far a charge has come, frame by frame: every threshold just below, at and just above it.

The pack has 300 Ah, so 15 A is little current; Vbalance is 3.4 V, the float voltage 3.37 V.  Times are
multiples of 1/4 s, so that they are exact.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbus_smartbms import stages
from dbus_smartbms.stages import ABSORPTION, BULK, FLOAT

HOUR, DAY = 3600.0, 86400.0
TOP = (3405, 3410)
"""Lowest and highest cell of a pack that is full and level."""
REST = (3330, 3340)
"""And when it is at rest."""


class Charge:
    """A stage that frames move on; by default with little current, allowed, and 95 % charged."""

    def __init__(self, name: str = BULK, **known: Any) -> None:
        self.stage = stages.Stage(name, **known)

    def frame(self, cells: tuple[int, int], dt_s: float = 1.0, **other: Any) -> str:
        lowest_mv, highest_mv = cells
        usual: dict[str, Any] = {
            "rest_mv": lowest_mv, "balance_mv": 3400, "full_mv": 3400, "float_mv": 3370, "current_ma": 0,
            "capacity_mah": 300_000, "soc": 95.0, "denied": False, "critical": False,
        }  # fmt: skip
        look = stages.Look(highest_mv, lowest_mv, **(usual | other))
        self.stage = stages.step(self.stage, look, dt_s)
        return self.stage.name


def absorbing(**known: Any) -> Charge:
    return Charge(ABSORPTION, **known)


def floating(**known: Any) -> Charge:
    """Full at 98 %."""
    return Charge(FLOAT, **({"soc": 98.0} | known))


# Bulk and absorption


def test_it_begins_in_bulk_and_knows_nothing() -> None:
    assert stages.Stage() == ("bulk", 0.0, None, False, None, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("highest_mv", "name"), [(3399, BULK), (3400, ABSORPTION), (3401, ABSORPTION)])
def test_absorption_begins_where_the_first_cell_is_at_vbalance(highest_mv: int, name: str) -> None:
    charge = Charge()
    assert charge.frame((3310, highest_mv)) == name


@pytest.mark.parametrize(("highest_mv", "name"), [(3349, BULK), (3350, ABSORPTION), (3399, ABSORPTION)])
def test_absorption_is_over_where_no_cell_is_within_50_mv_of_vbalance(highest_mv: int, name: str) -> None:
    """For a minute: a load, or a frame of cells that were not heard, is no end of it."""
    charge = absorbing()
    assert charge.frame((3310, highest_mv), dt_s=59.75) == ABSORPTION
    assert charge.frame((3310, highest_mv), dt_s=0.25) == name


def test_a_minute_that_was_broken_begins_again() -> None:
    charge = absorbing()
    charge.frame((3310, 3340), dt_s=50.0)
    charge.frame((3310, 3350))
    assert charge.frame((3310, 3340), dt_s=59.75) == ABSORPTION
    assert charge.stage.low_s == 59.75


def test_time_in_a_stage_begins_anew_with_it() -> None:
    charge = Charge(since_s=5.0, soc=98.0, asked_s=7.0, unfull_s=9.0, lasted_s=3.0, full_s=4.0)
    charge.frame((3310, 3390))
    assert charge.stage == ("bulk", 6.0, 98.0, False, 8.0, 10.0, 3.0, 4.0, 0.0, 0.0)
    charge.frame((3310, 3400))
    assert charge.stage == ("absorption", 0.0, 98.0, False, 9.0, 11.0, 0.0, 0.0, 0.0, 0.0)
    charge.frame(TOP)
    assert charge.stage == ("absorption", 1.0, 98.0, False, 10.0, 12.0, 1.0, 1.0, 0.0, 0.0)
    charge.frame(REST, dt_s=60.0)
    assert charge.stage == ("bulk", 0.0, 98.0, False, 70.0, 72.0, 0.0, 0.0, 0.0, 0.0)


def test_a_frame_that_takes_no_time_moves_no_clock() -> None:
    charge = Charge(since_s=5.0, asked_s=7.0, unfull_s=9.0)
    charge.frame((3310, 3390), dt_s=0.0)
    assert charge.stage == ("bulk", 5.0, None, False, 7.0, 9.0, 0.0, 0.0, 0.0, 0.0)
    charge = absorbing(since_s=5.0, lasted_s=6.0, full_s=7.0)
    charge.frame(TOP, dt_s=0.0)
    assert charge.stage == ("absorption", 5.0, None, False, None, 0.0, 6.0, 7.0, 0.0, 0.0)
    charge = floating(lasted_s=59.0)
    charge.frame(REST, dt_s=0.0, soc=50.0)
    assert charge.stage == ("float", 0.0, 98.0, False, None, 0.0, 59.0, 0.0, 0.0, 0.0)


# Full


@pytest.mark.parametrize(
    ("lowest_mv", "current_ma", "full"),
    [
        (3399, 0, False), (3400, 0, False), (3401, 0, True),
        (3401, 15_000, True), (3401, 15_001, False), (3401, -15_000, True), (3401, -15_001, False),
        (3401, None, True), (3400, None, False),
    ],
)  # fmt: skip
def test_full_is_all_cells_over_vbalance_and_little_current(
    lowest_mv: int, current_ma: int | None, full: bool
) -> None:
    """At Vbalance is not over it: generation C would not call that 100 %."""
    charge = absorbing()
    charge.frame((lowest_mv, 3410), current_ma=current_ma)
    assert charge.stage.full_s == (1.0 if full else 0.0)


@pytest.mark.parametrize(("highest_mv", "levelled_s"), [(3405, 1.0), (3424, 1.0), (3425, 1.0), (3426, 0.0)])
def test_level_cells_differ_by_20_mv_at_most(highest_mv: int, levelled_s: float) -> None:
    charge = absorbing()
    charge.frame((3405, highest_mv))
    assert (charge.stage.lasted_s, charge.stage.full_s) == (levelled_s, 1.0)


def test_a_level_pack_is_full_after_4_hours_at_the_top() -> None:
    charge = absorbing(lasted_s=4 * HOUR - 1, full_s=5 * HOUR, since_s=6 * HOUR, asked_s=7.0, unfull_s=8.0)
    assert charge.frame(TOP, dt_s=0.75) == ABSORPTION
    assert charge.frame(TOP, dt_s=0.25, soc=99.5) == FLOAT
    assert charge.stage == ("float", 0.0, 99.5, False, None, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_pack_that_gets_not_level_is_full_after_8_hours_at_the_top() -> None:
    charge = absorbing(lasted_s=3 * HOUR, full_s=8 * HOUR - 1, since_s=9 * HOUR, asked_s=7.0, unfull_s=8.0)
    assert charge.frame((3405, 3440), dt_s=0.75) == ABSORPTION
    assert charge.frame((3405, 3440), dt_s=0.25, soc=99.5) == FLOAT
    assert charge.stage == ("float", 0.0, 99.5, False, None, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("cells", [(3380, 3390), (3200, 3390), (3400, 3410)])
def test_a_load_between_does_not_take_back_what_was_reached(cells: tuple[int, int]) -> None:
    charge = absorbing(lasted_s=3 * HOUR, full_s=7 * HOUR)
    assert charge.frame(cells, dt_s=600.0, current_ma=-50_000) == ABSORPTION
    assert (charge.stage.lasted_s, charge.stage.full_s) == (3 * HOUR, 7 * HOUR)
    charge.frame(TOP, current_ma=-50_000)
    assert (charge.stage.lasted_s, charge.stage.full_s) == (3 * HOUR, 7 * HOUR)
    charge.frame(TOP)
    assert (charge.stage.lasted_s, charge.stage.full_s) == (3 * HOUR + 1, 7 * HOUR + 1)


def test_what_a_long_sunny_day_does() -> None:
    """Frames a minute apart: up, 4 h at the top with clouds between, float, and down in the evening."""
    charge = Charge()
    for millivolts in range(3300, 3400, 10):
        assert charge.frame((millivolts - 10, millivolts), 60.0, current_ma=90_000) == BULK
    for _ in range(60):
        assert charge.frame((3390, 3430), 60.0, current_ma=40_000) == ABSORPTION
    for _ in range(120):
        assert charge.frame(TOP, 60.0, current_ma=8_000) == ABSORPTION
        assert charge.frame((3370, 3380), 60.0, current_ma=-30_000) == ABSORPTION
    for _ in range(119):
        assert charge.frame(TOP, 60.0, current_ma=8_000) == ABSORPTION
    assert charge.frame(TOP, 60.0, current_ma=8_000, soc=100.0) == FLOAT
    for soc in (100.0, 99.0, 98.0, 97.0, 96.0, 95.5):
        assert charge.frame(REST, 60.0, soc=soc) == FLOAT
    assert charge.frame(REST, 60.0, soc=95.0) == BULK


# Absorption that does not get there


def test_absorption_lasts_24_hours_at_most_and_was_not_full() -> None:
    """A cell that leaks more than the others get: it may rest, but what was asked for goes on."""
    charge = absorbing(since_s=DAY - 1, asked_s=7.0, unfull_s=8.0, lasted_s=2.0, full_s=3.0)
    assert charge.frame((3300, 3430), dt_s=0.75) == ABSORPTION
    assert charge.frame((3300, 3430), dt_s=0.25, soc=88.0) == FLOAT
    assert charge.stage == ("float", 0.0, 88.0, False, 8.0, 9.0, 0.0, 0.0, 0.0, 0.0)


# The BMS ends the charge itself, as in normal mode


@pytest.mark.parametrize(
    ("lowest_mv", "denied", "critical", "name"),
    [
        (3351, True, False, FLOAT),
        (3350, True, False, ABSORPTION),
        (3351, False, False, ABSORPTION),
        (3351, False, True, ABSORPTION),
    ],
    ids=["all cells near the top", "one is not", "it allows", "a cell over Vmax, too cold, ..."],
)
def test_a_pack_whose_bms_ends_the_charge_near_the_top_is_full(
    lowest_mv: int, denied: bool, critical: bool, name: str
) -> None:
    """Once it has denied for 20 s: too cold, by status byte 2, may take a round to be known."""
    charge = absorbing(since_s=9.0, asked_s=7.0, unfull_s=8.0)
    for _ in range(19):
        charge.frame((lowest_mv, 3430), current_ma=50_000, soc=99.0, denied=denied, critical=critical)
        assert charge.stage.name == ABSORPTION
        assert charge.stage.asked_s is not None
    charge.frame((lowest_mv, 3430), current_ma=50_000, soc=99.0, denied=denied, critical=critical)
    assert charge.stage.name == name
    if name == FLOAT:
        assert charge.stage == ("float", 0.0, 99.0, True, None, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_cells_may_fall_once_the_charge_is_ended() -> None:
    charge = absorbing()
    charge.frame((3390, 3400), denied=True)
    for _ in range(18):
        assert charge.frame((3300, 3310), denied=True) == ABSORPTION
    assert charge.frame((3300, 3310), denied=True) == FLOAT


def test_a_denial_that_turns_out_critical_is_not_the_end_of_a_charge() -> None:
    charge = absorbing(asked_s=0.0)
    for _ in range(19):
        charge.frame((3390, 3400), denied=True)
    for _ in range(30):
        assert charge.frame((3390, 3400), critical=True) == ABSORPTION
    assert charge.stage.asked_s is not None
    for _ in range(19):
        assert charge.frame((3390, 3400), denied=True) == ABSORPTION, "and is counted anew"


def test_a_frame_that_took_no_time_ends_nothing() -> None:
    charge = absorbing()
    charge.frame((3390, 3400), dt_s=0.0, denied=True)
    for _ in range(59):
        assert charge.frame((3300, 3310), denied=True) == ABSORPTION
    assert charge.frame((3300, 3310), denied=True) == BULK


def test_the_frame_that_begins_absorption_may_begin_its_end() -> None:
    """Frames were lost, or all cells of a small pack came at once."""
    assert Charge().frame((3390, 3400), dt_s=19.9, denied=True) == ABSORPTION
    assert Charge().frame((3390, 3400), dt_s=20.0, denied=True) == FLOAT


@pytest.mark.parametrize("highest_mv", [3345, 3399])
def test_a_denial_under_the_top_is_not_the_end_of_a_charge(highest_mv: int) -> None:
    charge = Charge()
    assert charge.frame((3345, highest_mv), denied=True) == BULK


@pytest.mark.parametrize(
    ("ended", "denied", "critical", "name"),
    [
        (True, True, False, FLOAT),
        (True, False, True, FLOAT),
        (True, False, False, BULK),
        (False, False, False, FLOAT),
        (False, True, False, FLOAT),
    ],
)
def test_it_is_bulk_again_when_the_bms_that_ended_the_charge_allows_it_again(
    ended: bool, denied: bool, critical: bool, name: str
) -> None:
    charge = floating(ended=ended, since_s=9.0, unfull_s=8.0, lasted_s=2.0)
    assert charge.frame(REST, denied=denied, critical=critical) == name
    if name == BULK:
        assert charge.stage == ("bulk", 0.0, 98.0, False, None, 9.0, 0.0, 0.0, 0.0, 0.0)
    else:
        assert charge.stage == ("float", 10.0, 98.0, ended, None, 9.0, 0.0, 0.0, 0.0, 0.0)


# Back from float


BACK: list[tuple[str, float, tuple[int, int], dict[str, Any], bool]] = [
    # what it is, seconds in float, cells, what else is seen, whether it leads back
    ("full", 0.0, REST, {}, False),
    ("5 % less", 0.0, REST, {"soc": 93.0}, True),
    ("hardly so much less", 0.0, REST, {"soc": 93.03}, False),
    ("much less", 0.0, REST, {"soc": 20.0}, True),
    ("a cell 100 mV under float", 0.0, REST, {"rest_mv": 3270.0}, True),
    ("hardly so far", 0.0, REST, {"rest_mv": 3270.5}, False),
    ("further", 0.0, REST, {"rest_mv": 3269.5}, True),
    ("a dip under a load", 0.0, (3200, 3240), {"rest_mv": 3300.0}, False),
    ("not level, but not for long", 60.0, (3330, 3390), {}, False),
    ("not level for 6 h", 6 * HOUR, (3330, 3380), {}, True),
    ("not yet for 6 h", 6 * HOUR - 0.25, (3330, 3380), {}, False),
    ("level enough", 6 * HOUR, (3330, 3379), {}, False),
    ("nearly 7 days", 7 * DAY - 0.25, REST, {}, False),
    ("7 days", 7 * DAY, REST, {}, True),
]


@pytest.mark.parametrize(
    ("since_s", "cells", "seen", "back"), [row[1:] for row in BACK], ids=[row[0] for row in BACK]
)
def test_what_leads_back_from_float(
    since_s: float, cells: tuple[int, int], seen: dict[str, Any], back: bool
) -> None:
    charge = floating(since_s=since_s - 0.25)
    assert charge.frame(cells, 0.25, **({"soc": 98.0} | seen)) == FLOAT
    assert charge.stage == ("float", since_s, 98.0, False, None, 0.25, 0.25 if back else 0.0, 0.0, 0.0, 0.0)


def test_what_leads_back_has_to_last_a_minute() -> None:
    charge = floating(since_s=9.0, unfull_s=8.0)
    assert charge.frame(REST, 59.75, soc=93.0) == FLOAT
    assert charge.frame(REST, 0.25, soc=93.0) == BULK
    assert charge.stage == ("bulk", 0.0, 98.0, False, None, 68.0, 0.0, 0.0, 0.0, 0.0)


def test_a_reading_that_comes_back_starts_the_minute_again() -> None:
    charge = floating()
    for _ in range(20):
        assert charge.frame(REST, 59.75, soc=93.0) == FLOAT
        assert charge.frame(REST, 0.25, soc=93.5) == FLOAT


def test_a_float_that_knows_no_soc_ends() -> None:
    """Such as from a file that was edited."""
    charge = floating(soc=None)
    assert charge.frame(REST, 59.75) == FLOAT
    assert charge.frame(REST, 0.25) == BULK


# Charge to full


def test_the_wish_leads_back_from_float_at_once() -> None:
    charge = floating(since_s=9.0, unfull_s=8.0, lasted_s=2.0)
    charge.stage = charge.stage.ask(on=True)
    assert charge.stage.asked_s == 0.0
    assert charge.frame(REST, soc=98.0) == BULK
    assert charge.stage == ("bulk", 0.0, 98.0, False, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0)


def test_the_wish_can_be_taken_back() -> None:
    """The days until the next by itself begin anew, or it would be there again."""
    charge = Charge(asked_s=5.0, unfull_s=8.0 * DAY)
    charge.stage = charge.stage.ask(on=False)
    charge.frame(REST, every_s=7 * DAY)
    assert charge.stage == ("bulk", 1.0, None, False, None, 1.0, 0.0, 0.0, 0.0, 0.0)


def test_a_wish_that_was_not_there_is_not_taken_back() -> None:
    assert stages.Stage(unfull_s=8.0).ask(on=False) == stages.Stage(unfull_s=8.0)


def test_the_wish_leads_back_though_the_bms_still_denies() -> None:
    charge = floating(ended=True, asked_s=0.0)
    assert charge.frame(REST, denied=True) == BULK
    assert charge.stage.ended is False


@pytest.mark.parametrize("every_s", [None, 7 * DAY])
def test_the_wish_ends_after_a_day(every_s: float | None) -> None:
    """And when the pack was full not long ago, that counts from then, not from the wish."""
    charge = Charge(asked_s=DAY - 1, unfull_s=2 * DAY)
    charge.frame(REST, 0.75, every_s=every_s)
    assert charge.stage.asked_s == DAY - 0.25
    charge.frame(REST, 0.25, every_s=every_s)
    assert charge.stage.asked_s is None
    assert charge.stage.unfull_s == 2 * DAY + 1


def test_without_an_interval_it_never_begins_by_itself() -> None:
    charge = Charge(unfull_s=1000 * DAY)
    charge.frame(REST)
    assert charge.stage.asked_s is None


def test_by_itself_it_begins_when_the_pack_was_not_full_for_so_long() -> None:
    charge = Charge(unfull_s=7 * DAY - 1)
    charge.frame(REST, 0.75, every_s=7 * DAY)
    assert (charge.stage.asked_s, charge.stage.unfull_s) == (None, 7 * DAY - 0.25)
    charge.frame(REST, 0.25, every_s=7 * DAY)
    assert (charge.stage.asked_s, charge.stage.unfull_s) == (0.0, 7 * DAY)
    charge.frame(REST, every_s=7 * DAY)
    assert (charge.stage.asked_s, charge.stage.unfull_s) == (1.0, 7 * DAY + 1)


def test_a_pack_in_float_leaves_it_for_that() -> None:
    charge = floating(unfull_s=DAY - 1)
    assert charge.frame(REST, soc=98.0, every_s=DAY) == BULK
    assert charge.stage.asked_s == 0.0


@pytest.mark.parametrize("days", [1, 7])
def test_where_it_did_not_succeed_it_tries_again_a_day_later(days: int) -> None:
    charge = Charge(asked_s=DAY - 1, unfull_s=(days + 1) * DAY - 1)
    charge.frame(REST, every_s=days * DAY)
    assert (charge.stage.asked_s, charge.stage.unfull_s) == (None, (days - 1) * DAY)
    charge.frame(REST, DAY - 0.25, every_s=days * DAY)
    assert charge.stage.asked_s is None
    charge.frame(REST, 0.25, every_s=days * DAY)
    assert charge.stage.asked_s == 0.0


# What holds for any story

CELLS = st.sampled_from([0, 3270, 3330, 3349, 3350, 3351, 3379, 3380, 3400, 3401, 3405, 3430, 3700, 60_000])
CURRENTS = st.sampled_from([None, 0, 15_000, 15_001, -15_001, 90_000])
STEPS = st.tuples(
    CELLS, CELLS, CURRENTS, st.sampled_from([0.0, 92.0, 95.0, 100.0]), st.booleans(), st.booleans(),
    st.sampled_from([None, DAY, 7 * DAY]), st.sampled_from([None, None, None, False, True]),
    st.sampled_from([0.0, 1.0, 59.75, 60.0, HOUR, 4 * HOUR, DAY]),
)  # fmt: skip


@given(st.lists(STEPS, max_size=40))
def test_a_stage_is_a_known_one_and_its_clocks_are_sound(story: list[Any]) -> None:
    charge = Charge()
    for one, other, current_ma, soc, denied, critical, every_s, wish, dt_s in story:
        if wish is not None:
            charge.stage = charge.stage.ask(on=wish)
        before = charge.stage
        cells = (min(one, other), max(one, other))
        name = charge.frame(
            cells, dt_s, current_ma=current_ma, soc=soc, denied=denied, critical=critical, every_s=every_s
        )
        after = charge.stage
        assert name in stages.STAGES
        assert after.asked_s is None or 0 <= after.asked_s < DAY
        assert 0 <= after.unfull_s <= before.unfull_s + dt_s
        assert after.lasted_s >= 0
        assert after.full_s >= after.lasted_s or name == FLOAT
        assert name == FLOAT or not after.ended
        if before.name != FLOAT and name == FLOAT:
            assert cells[0] > 3350 or before.since_s + dt_s >= DAY or before.denied_s
        if name == ABSORPTION:
            assert cells[1] >= 3350 or after.denied_s or after.low_s
        assert after.since_s == (before.since_s + dt_s if name == before.name else 0.0)


def test_a_soc_that_the_bms_calls_only_in_float_counts_from_there() -> None:
    charge = floating(soc=94.0)
    charge.frame(REST, soc=100.0)
    assert charge.stage.soc == 100.0
    assert charge.frame(REST, soc=95.0, dt_s=60.0) == BULK


@pytest.mark.parametrize(("lowest_mv", "grows"), [(3390, False), (3391, True)])
def test_full_is_over_what_is_asked_for(lowest_mv: int, grows: bool) -> None:
    charge = absorbing()
    charge.frame((lowest_mv, 3400), full_mv=3390)
    assert (charge.stage.full_s > 0) is grows
