"""What is known of a pack after these frames, and how old it is."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from random import Random
from typing import Any

import pytest

from damage import EXAMPLE, moving_pack
from smartbms_protocol import Frame, PackState, Reading, Taken
from smartbms_protocol.layout import CHARGE_ALLOWED, DISCHARGE_ALLOWED, KEYS, NO_COMMUNICATION, PAIRS

WHOLE, HELD = Taken.WHOLE, Taken.HELD


def changed(**changes: Any) -> Frame:
    return replace(EXAMPLE, **changes)


def pack_after(*frames: Frame) -> PackState:
    """The state after these frames, one a second from 0 on."""
    pack = PackState()
    for second, frame in enumerate(frames):
        pack.take(frame, float(second))
    return pack


# Nothing, then something


def test_before_the_first_frame_nothing_is_known() -> None:
    pack = PackState()
    assert (pack.frame, pack.at, pack.held, pack.frames, pack.confirmed) == (None, None, None, 0, False)
    assert (pack.cell_mv, pack.cell_raw, pack.pairs, pack.touched) == ([], [], {}, set())
    assert pack.pair("soh_percent") is None
    assert pack.age(0.0) == float("inf")
    assert pack.round_s == 0.0


def test_the_first_frame_counts_whole() -> None:
    pack = PackState()
    assert pack.take(EXAMPLE, 7.0) is WHOLE
    assert (pack.frame, pack.at, pack.frames, pack.confirmed) == (EXAMPLE, 7.0, 1, False)
    assert pack.pair("soh_percent") == 98


def test_the_second_that_agrees_confirms_it() -> None:
    pack = pack_after(EXAMPLE, changed(soc_percent=58))
    assert pack.confirmed
    assert pack.frame == changed(soc_percent=58)


def test_age_counts_from_the_last_frame_taken() -> None:
    pack = pack_after(EXAMPLE, EXAMPLE, changed(cells=17))
    assert pack.age(1.0) == 0.0
    assert pack.age(2.5) == 1.5


# Two frames that agree

SETTINGS = [
    {"cells": 17},
    {"capacity_wh": 15_900},
    {"vmin_mv": 2_905},
    {"vmax_mv": 3_695},
    {"vbalance_mv": 0},
]


@pytest.mark.parametrize("change", SETTINGS, ids=str)
def test_a_frame_that_differs_in_a_setting_is_held_back_whole(change: dict[str, int]) -> None:
    pack = pack_after(changed(cell=2), EXAMPLE)
    before = (pack.frame, pack.at, pack.frames, pack.touched, list(pack.cell_mv), dict(pack.pairs))
    other = changed(cell=9, cell_mv=3_315, soc_percent=10, key=6, value=0x33, **change)
    assert pack.take(other, 2.0) is HELD
    assert pack.held == other
    assert (pack.frame, pack.at, pack.frames, pack.touched, pack.cell_mv, pack.pairs) == before


@pytest.mark.parametrize("change", SETTINGS, ids=str)
def test_it_is_taken_with_the_next_that_brings_the_same(change: dict[str, int]) -> None:
    pack = pack_after(EXAMPLE, EXAMPLE, changed(**change))
    following = changed(soc_percent=58, **change)
    assert pack.take(following, 3.0) is WHOLE
    assert (pack.frame, pack.held, pack.frames) == (following, None, 3)
    assert pack.take(following, 4.0) is WHOLE


def test_it_is_dropped_by_the_next_that_is_as_before() -> None:
    noise = changed(capacity_wh=100)
    pack = pack_after(EXAMPLE, EXAMPLE, noise)
    assert pack.take(EXAMPLE, 3.0) is WHOLE
    assert (pack.frame, pack.held) == (EXAMPLE, None)
    assert pack.take(noise, 4.0) is HELD


def test_three_that_all_differ_are_all_held_back() -> None:
    pack = pack_after(EXAMPLE, EXAMPLE)
    outcomes = [pack.take(changed(vmax_mv=mv), 2.0) for mv in (3_600, 3_605, 3_610, 3_610)]
    assert outcomes == [HELD, HELD, HELD, WHOLE]


def test_two_that_take_turns_are_never_taken() -> None:
    pack = pack_after(EXAMPLE, EXAMPLE)
    outcomes = {pack.take(changed(vmax_mv=mv), 2.0) for mv in (3_600, 3_605) * 5}
    assert outcomes == {HELD}
    assert pack.frame == EXAMPLE


def test_a_false_first_frame_gives_way_to_two_that_agree() -> None:
    pack = PackState()
    assert pack.take(changed(cells=200, cell=150), 0.0) is WHOLE
    assert pack.take(EXAMPLE, 1.0) is HELD
    assert not pack.confirmed
    assert pack.take(EXAMPLE, 2.0) is WHOLE
    assert (pack.frame, pack.confirmed, len(pack.cell_mv)) == (EXAMPLE, True, 16)


def test_what_a_held_frame_denies_can_be_seen_at_once() -> None:
    pack = pack_after(EXAMPLE, EXAMPLE)
    pack.take(changed(vmin_mv=3_000, status=CHARGE_ALLOWED), 2.0)
    assert pack.held is not None
    assert pack.held.has(CHARGE_ALLOWED)
    assert not pack.held.has(DISCHARGE_ALLOWED)
    assert pack.frame == EXAMPLE


def test_another_number_of_cells_forgets_the_readings() -> None:
    pack = pack_after(changed(cell=2), changed(cell=4, key=1, value=97))
    fewer = changed(cells=15, cell=15, key=6, value=0x33)
    pack.take(fewer, 2.0)
    pack.take(fewer, 3.0)
    assert len(pack.cell_mv) == len(pack.cell_raw) == 15
    assert [n for n, reading in enumerate(pack.cell_mv, 1) if reading] == [5, 11, 15]
    assert [n for n, reading in enumerate(pack.cell_raw, 1) if reading] == [1, 8, 15]
    assert pack.pairs == {"firmware_major_minor": Reading(0x33, 3.0)}


def test_another_setting_forgets_nothing() -> None:
    pack = pack_after(changed(cell=2, cell_mv=3_325), EXAMPLE)
    pack.take(changed(vmax_mv=3_650), 2.0)
    pack.take(changed(vmax_mv=3_650), 3.0)
    assert pack.cell_mv[1] == Reading(3_325, 0.0)


# Cells


def test_the_rotating_cell_is_joined_with_the_extremes_that_a_frame_names() -> None:
    pack = pack_after(EXAMPLE)
    seen = {n: reading for n, reading in enumerate(pack.cell_mv, 1) if reading}
    assert seen == {3: Reading(3_320, 0.0), 5: Reading(3_310, 0.0), 11: Reading(3_330, 0.0)}
    warm = {n: reading for n, reading in enumerate(pack.cell_raw, 1) if reading}
    assert warm == {3: Reading(296, 0.0), 1: Reading(294, 0.0), 8: Reading(298, 0.0)}
    assert pack.touched == {1, 3, 5, 8, 11}


def test_each_cell_keeps_the_time_of_its_own_reading() -> None:
    pack = pack_after(changed(cell=2), changed(cell=3), changed(cell=4))
    assert [pack.cell_mv[n - 1] for n in (2, 3, 4, 9)] == [
        Reading(3_320, 0.0),
        Reading(3_320, 1.0),
        Reading(3_320, 2.0),
        None,
    ]
    assert pack.touched == {1, 4, 5, 8, 11}


def test_where_a_cell_is_named_twice_the_extreme_is_its_reading() -> None:
    pack = pack_after(changed(cell=5, cell_mv=3_315))
    assert pack.cell_mv[4] == Reading(3_310, 0.0)


def test_after_one_round_every_cell_is_known() -> None:
    pack = PackState()
    for second, frame in enumerate(islice(moving_pack(Random(1)), 16)):
        pack.take(frame, float(second))
    assert None not in pack.cell_mv
    assert None not in pack.cell_raw


def test_255_cells() -> None:
    pack = PackState()
    for second, frame in enumerate(islice(moving_pack(Random(1), 255), 255)):
        assert pack.take(frame, float(second)) is WHOLE
    assert len(pack.cell_mv) == 255
    assert None not in pack.cell_mv
    assert pack.round_s == 255.0


def test_a_cell_at_0_volt_is_a_reading() -> None:
    pack = pack_after(changed(lowest_mv=0, cell_raw=0))
    assert pack.cell_mv[4] == Reading(0, 0.0)
    assert pack.cell_raw[2] == Reading(0, 0.0)


def test_a_bms_that_hears_no_cell_brings_no_readings_and_takes_none_away() -> None:
    pack = pack_after(EXAMPLE)
    none = dict.fromkeys(("cell", "lowest_cell", "highest_cell", "coldest_cell", "hottest_cell"), 0)
    pack.take(changed(status=NO_COMMUNICATION, lowest_mv=0, highest_mv=0, cell_mv=0, **none), 1.0)
    assert pack.touched == set()
    assert pack.cell_mv[15] is None
    assert pack.cell_mv[4] == Reading(3_310, 0.0)


# A balancing board's temperature

BALANCING = {"highest_mv": 3_450, "highest_cell": 11, "hottest_cell": 11, "hottest_raw": 350}


def test_the_hottest_cells_temperature_is_not_taken_while_it_balances() -> None:
    pack = pack_after(changed(hottest_cell=11), changed(**BALANCING))
    assert pack.balancing(11) is True
    assert pack.cell_raw[10] == Reading(298, 0.0)
    assert pack.cell_mv[10] == Reading(3_450, 1.0)


def test_the_rotating_cells_temperature_is_not_taken_while_it_balances() -> None:
    pack = pack_after(EXAMPLE, changed(cell=3, cell_mv=3_405, cell_raw=351, highest_mv=3_450))
    assert pack.cell_raw[2] == Reading(296, 0.0)
    assert pack.cell_mv[2] == Reading(3_405, 1.0)


def test_the_coldest_cells_temperature_is_not_taken_while_it_balances() -> None:
    pack = pack_after(EXAMPLE, changed(**{**BALANCING, "coldest_cell": 11, "coldest_raw": 349}))
    assert pack.cell_raw[10] is None


def test_a_cell_at_vbalance_does_not_balance_yet() -> None:
    pack = pack_after(changed(cell=3, cell_mv=3_400, cell_raw=297, highest_mv=3_400))
    assert pack.balancing(3) is False
    assert pack.cell_raw[2] == Reading(297, 0.0)


def test_with_balancing_off_no_board_is_hot() -> None:
    pack = pack_after(changed(vbalance_mv=0, **BALANCING))
    assert pack.balancing(11) is False
    assert pack.cell_raw[10] == Reading(350, 0.0)
    assert pack_after(changed(vbalance_mv=0)).cell_raw[7] == Reading(298, 0.0)  # not even one not seen yet


def test_a_cell_whose_voltage_is_not_known_may_be_balancing() -> None:
    pack = pack_after(changed(highest_mv=3_450, hottest_cell=8, hottest_raw=350))
    assert pack.balancing(8) is None
    assert pack.cell_raw[7] is None


def test_but_not_where_even_the_highest_cell_is_only_at_vbalance() -> None:
    pack = pack_after(changed(highest_mv=3_400, hottest_cell=8, hottest_raw=299))
    assert pack.balancing(8) is None
    assert pack.cell_raw[7] == Reading(299, 0.0)


def test_so_may_one_that_was_below_vbalance_when_last_seen() -> None:
    pack = pack_after(changed(cell=8), changed(highest_mv=3_450, hottest_cell=8, hottest_raw=350))
    assert pack.cell_raw[7] == Reading(298, 0.0)


def test_the_temperature_is_taken_again_when_the_cell_has_come_down() -> None:
    pack = pack_after(
        changed(hottest_cell=11), changed(**BALANCING), changed(hottest_cell=11, hottest_raw=299)
    )
    assert pack.cell_raw[10] == Reading(299, 2.0)


def test_whether_a_cell_balances_is_not_known_before_it_was_seen() -> None:
    assert pack_after(EXAMPLE).balancing(9) is None
    assert pack_after(EXAMPLE).balancing(3) is False


# Rotating keys: values of one, two and three bytes


def send(pack: PackState, now: float, *pairs: tuple[int | None, int]) -> float:
    """Frames a second apart that carry these (key, value); gives the time of the next."""
    for key, value in pairs:
        assert pack.take(changed(key=key, value=value), now) is WHOLE
        now += 1.0
    return now


def rounds(*values: dict[int, int]) -> Iterator[tuple[float, Frame]]:
    """One round of all keys after another, a frame a second; a key that is not given is lost."""
    clock = count()
    for bytes_of_round in values:
        for key in range(KEYS):
            now = float(next(clock))
            if key in bytes_of_round:
                yield now, changed(key=key, value=bytes_of_round[key])


def test_a_round_of_all_keys() -> None:
    pack = PackState()
    values = (98, 97, 0x02, 0x76, 0x02, 0x94, 0x33, 11, 0x01, 0x02, 0, 4, 210, 1, 4, 76, 0x30, 0x02, 0xB2)
    for now, frame in rounds(dict(enumerate(values))):
        pack.take(frame, now)
    assert pack.pairs == {
        "soh_percent": Reading(98, 0.0),
        "charge_efficiency_percent": Reading(97, 1.0),
        "vlow_mv": Reading(3_150, 3.0),
        "vnom_mv": Reading(3_300, 5.0),
        "firmware_major_minor": Reading(0x33, 6.0),
        "firmware_patch": Reading(11, 7.0),
        "cycles": Reading(258, 9.0),
        "charged_kwh": Reading(1_234, 12.0),
        "discharged_kwh": Reading(66_636, 15.0),
        "status2": Reading(0x30, 16.0),
        "vfull_mv": Reading(3_450, 18.0),
    }


def test_nothing_is_published_before_the_last_byte() -> None:
    pack = PackState()
    now = send(pack, 0.0, (10, 0), (11, 4))
    assert pack.pair("charged_kwh") is None
    send(pack, now, (12, 210))
    assert pack.pair("charged_kwh") == 1_234


def test_a_counter_that_rolls_over_between_two_rounds_is_never_read_wrong() -> None:
    """255 and then 256 cycles, and the bytes that would make 0 or 511 of them are there."""
    pack = PackState()
    for now, frame in rounds({8: 0x00}, {9: 0x00}):
        pack.take(frame, now)
    assert pack.pair("cycles") is None
    for now, frame in rounds({8: 0x01}, {9: 0xFF}):
        pack.take(frame, 100 + now)
    assert pack.pair("cycles") is None


@pytest.mark.parametrize("lost", [10, 11, 12])
def test_a_value_with_a_byte_lost_keeps_its_old_reading(lost: int) -> None:
    pack = PackState()
    first, second = {10: 0, 11: 4, 12: 255}, {10: 0, 11: 5, 12: 0}
    del second[lost]
    for now, frame in rounds(first, second):
        pack.take(frame, now)
    assert pack.pairs["charged_kwh"] == Reading(1_279, 12.0)


def test_the_round_after_a_lost_byte_is_whole_again() -> None:
    pack = PackState()
    for now, frame in rounds({8: 0, 9: 255}, {8: 1}, {8: 1, 9: 2}):
        pack.take(frame, now)
    assert pack.pairs["cycles"] == Reading(258, 47.0)


@pytest.mark.parametrize(
    ("gap", "value"), [(4.9, 258), (5.0, 258), (5.1, None)], ids=["inside", "at", "outside"]
)
def test_a_byte_that_comes_late_is_of_another_round(gap: float, value: int | None) -> None:
    pack = PackState()
    send(pack, 0.0, (8, 1))
    send(pack, gap, (9, 2))
    assert pack.pair("cycles") == value


def test_the_same_byte_twice_begins_again() -> None:
    pack = PackState()
    send(pack, 0.0, (8, 1), (8, 2), (9, 3))
    assert pack.pair("cycles") == 0x0203


def test_the_last_byte_twice_is_no_second_value() -> None:
    pack = PackState()
    send(pack, 0.0, (8, 1), (9, 2), (9, 3), (9, 4))
    assert pack.pair("cycles") == 0x0102


def test_bytes_out_of_order_are_no_value() -> None:
    pack = PackState()
    send(pack, 0.0, (10, 1), (12, 3), (11, 2), (12, 3))
    assert pack.pair("charged_kwh") is None


def test_bytes_of_a_frame_held_back_do_not_count() -> None:
    pack = PackState()
    send(pack, 0.0, (8, 1))
    pack.take(changed(key=9, value=2, vmax_mv=3_000), 1.0)
    send(pack, 2.0, (None, 0))
    assert pack.pair("cycles") is None


@pytest.mark.parametrize("key", [None, 19, 230])
def test_no_pair_and_unknown_keys_are_ignored(key: int | None) -> None:
    pack = PackState()
    send(pack, 0.0, (key, 77))
    assert pack.pairs == {}


def test_an_unknown_key_between_two_bytes_does_not_part_them() -> None:
    pack = PackState()
    send(pack, 0.0, (8, 1), (40, 77), (9, 2))
    assert pack.pair("cycles") == 258


@pytest.mark.parametrize("key", [0, 1])
@pytest.mark.parametrize(("value", "known"), [(0, 0), (100, 100), (101, None), (255, None)])
def test_a_percentage_over_100_is_seen_and_not_known(key: int, value: int, known: int | None) -> None:
    pack = PackState()
    send(pack, 4.0, (key, value))
    assert pack.pairs[PAIRS[key].name] == Reading(known, 4.0)
    assert pack.pair(PAIRS[key].name) == known


def test_not_known_any_more_takes_the_place_of_a_value() -> None:
    pack = PackState()
    send(pack, 0.0, (0, 98), (0, 255))
    assert pack.pairs["soh_percent"] == Reading(None, 1.0)


RARE = [("vlow_mv", 2, 3), ("vnom_mv", 4, 5), ("vfull_mv", 17, 18)]


@pytest.mark.parametrize(("name", "high", "low"), RARE)
def test_a_setting_changes_when_two_rounds_say_so(name: str, high: int, low: int) -> None:
    pack = PackState()
    old, new = {high: 0x02, low: 0x76}, {high: 0x02, low: 0x80}
    seen = []
    for now, frame in rounds(old, new, new):
        pack.take(frame, now)
        seen += [pack.pair(name)] * (frame.key == low)
    assert seen == [3_150, 3_150, 3_200]


@pytest.mark.parametrize(("name", "high", "low"), RARE)
def test_a_setting_that_one_round_says_is_forgotten(name: str, high: int, low: int) -> None:
    pack = PackState()
    old, noise = {high: 0x02, low: 0x76}, {high: 0xFF, low: 0x76}
    for now, frame in rounds(old, noise, old, noise, old):
        pack.take(frame, now)
        assert pack.pair(name) in (None, 3_150)
    assert pack.pairs[name].at == 4 * KEYS + low


def test_a_counter_changes_with_one_round() -> None:
    pack = PackState()
    for now, frame in rounds({8: 0, 9: 255}, {8: 1, 9: 0}):
        pack.take(frame, now)
    assert pack.pair("cycles") == 256


@pytest.mark.parametrize(
    ("age", "value"), [(56.9, 98), (57.0, 98), (57.1, None)], ids=["inside", "at", "outside"]
)
def test_a_pair_is_good_for_three_rounds_of_19_seconds(age: float, value: int | None) -> None:
    pack = PackState()
    send(pack, 10.0, (0, 98))
    assert pack.pair("soh_percent", 10.0 + age) == value
    assert pack.pair("soh_percent") == 98


# The interval


def frames_every(pack: PackState, seconds: float, frames: int, begin: float = 0.0) -> float:
    for n in range(1, frames + 1):
        pack.take(EXAMPLE, begin + n * seconds)
    return begin + frames * seconds


def test_a_second_is_assumed_and_half_a_second_learned() -> None:
    pack = PackState()
    assert pack.interval_s == 1.0
    now = frames_every(pack, 0.5, 3)
    assert pack.interval_s == 1.0
    frames_every(pack, 0.5, 1, now)
    assert pack.interval_s == 0.5
    assert pack.round_s == 8.0
    assert pack.pairs_round_s == 9.5


def test_a_second_is_learned_again() -> None:
    pack = PackState()
    now = frames_every(pack, 0.5, 10)
    now = frames_every(pack, 1.0, 2, now)
    assert pack.interval_s == 0.5
    frames_every(pack, 1.0, 1, now)
    assert pack.interval_s == 1.0


def test_an_interval_is_learned_from_three_gaps_in_a_row() -> None:
    pack = PackState()
    for now in (0.0, 0.5, 1.5, 2.0, 3.0, 3.5, 4.5, 5.0, 5.5):
        pack.take(EXAMPLE, now)
    assert pack.interval_s == 1.0
    pack.take(EXAMPLE, 6.0)
    assert pack.interval_s == 0.5


@pytest.mark.parametrize(
    ("gap", "learned"),
    [(0.29, 1.0), (0.3, 0.5), (0.74, 0.5), (0.75, 1.0), (1.49, 1.0), (1.5, 1.0), (2.0, 1.0)],
)
def test_gaps_that_speak_for_half_a_second(gap: float, learned: float) -> None:
    pack = PackState()
    for now in (0.0, gap, 10.0, 10.0 + gap, 20.0, 20.0 + gap):  # 10 s speak for nothing
        pack.take(EXAMPLE, now)
    assert pack.interval_s == learned


@pytest.mark.parametrize(
    ("gap", "learned"), [(0.29, 0.5), (0.74, 0.5), (0.75, 1.0), (1.49, 1.0), (1.5, 0.5), (2.0, 0.5)]
)
def test_gaps_that_speak_for_a_second(gap: float, learned: float) -> None:
    pack = PackState()
    frames_every(pack, 0.5, 4)
    for now in (10.0, 10.0 + gap, 20.0, 20.0 + gap, 30.0, 30.0 + gap):
        pack.take(EXAMPLE, now)
    assert pack.interval_s == learned


def test_lost_frames_and_frames_read_together_change_no_interval() -> None:
    pack = PackState()
    frames_every(pack, 0.5, 4)
    for now in (3.5, 3.5, 4.0, 6.0, 6.0, 6.5):
        pack.take(EXAMPLE, now)
    assert pack.interval_s == 0.5


@pytest.mark.parametrize("cell", [0, -1, 17])
def test_asking_for_a_cell_that_is_not_there_is_misuse(cell: int) -> None:
    with pytest.raises(ValueError, match=f"there is no cell {cell}"):
        pack_after(changed()).balancing(cell)
