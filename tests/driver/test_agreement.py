"""The BMS beside the mirror of its tables: what differs for 10 s is said once, with what would fit."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rig
from dbus_smartbms import limits, mirror
from dbus_smartbms.agreement import Agreement
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.driver import Driver
from dbus_smartbms.link import Cable
from dbus_smartbms.pack import Pack
from dbus_smartbms.settings import GENERATIONS, MODES, Settings
from smartbms_protocol import PackState, encode
from smartbms_protocol.layout import (
    CHARGE_ALLOWED,
    CHARGE_RELAY_CLOSED,
    DISCHARGE_ALLOWED,
    LOAD_RELAY_CLOSED,
    NO_COMMUNICATION,
    OVER_TMAX,
    OVER_VMAX,
    TOO_COLD_TO_CHARGE,
    TOO_COLD_TO_DISCHARGE,
    UNDER_TMIN,
    UNDER_VMIN,
)

BOTH = CHARGE_ALLOWED | DISCHARGE_ALLOWED
CLOSED = CHARGE_RELAY_CLOSED | LOAD_RELAY_CLOSED
CHECK = "check [pack] generation and mode"
RESTARTS = {"charge_restart": 90.0, "discharge_restart": 10.0}


class Watched:
    """A pack and the seconds of its frames.  Only frames that are told so carry status byte 2."""

    def __init__(self, **configured: Any) -> None:
        self.pack = Pack(Settings(**configured))
        self.now = 0.0

    @property
    def text(self) -> str | None:
        """Without the conditions by which a relay is on: a test of their own has them."""
        text = self.pack.agreement.text
        return text and re.sub(r" \(all [^)]*\)", "", text)

    def frame(self, after_s: float = 1.0, status2: int | None = None, **changes: Any) -> str | None:
        """A frame after so many seconds; what is said then."""
        self.now += after_s
        key = {"key": None} if status2 is None else {"key": 16, "value": status2}
        self.pack.take(rig.frame(0, **(key | changes)), self.now)
        return self.text

    def frames(self, number: int, **changes: Any) -> str | None:
        """Frames, one a second; nothing new is said before the last."""
        before = self.text
        for _ in range(number - 1):
            assert self.frame(**changes) == before, self.now
        return self.frame(**changes)

    def silence(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.pack.tick(self.now)


def test_before_the_first_frame_there_is_nothing_to_compare() -> None:
    agreement = Agreement()
    agreement.frame(Settings(), mirror.Memory(), mirror.Relays(), PackState(), 0.0)
    assert agreement.text is None


# The permissions of status byte 1


CRITICAL = "the table of generation C in critical mode"


DENIED = f"but {CRITICAL} has no reason to switch it off; generation C in normal mode would fit: {CHECK}"
AT_VMAX = f"but {CRITICAL} switches it off: cell 3 at 3.700 V: Vmax 3.70 V (Vh); {CHECK}"
AT_VMIN = f"but {CRITICAL} switches it off: cell 7 at 2.900 V: Vmin 2.90 V (Vl); {CHECK}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": DISCHARGE_ALLOWED}, f"the BMS does not allow charging, {DENIED}"),
        ({"status": CHARGE_ALLOWED}, f"the BMS does not allow discharging, {DENIED}"),
        ({"highest_mv": 3700}, f"the BMS allows charging, {AT_VMAX}"),
        ({"lowest_mv": 2900}, f"the BMS allows discharging, {AT_VMIN}"),
    ],
)
def test_a_permission_that_differs_for_10_s_is_said_with_what_the_mirror_sees(
    changes: dict[str, Any], text: str
) -> None:
    watched = Watched()
    assert watched.frames(3) is None
    assert watched.frames(10, **changes) is None
    assert watched.frame(**changes) == text
    assert watched.frame() is None, "it clears by itself"


def test_a_table_that_waits_for_a_restart_keeps_it_off() -> None:
    watched = Watched(mode="normal", **RESTARTS)
    watched.frames(20, lowest_mv=3400, highest_mv=3410, current_ma=0, status=DISCHARGE_ALLOWED)
    assert watched.frames(10, soc_percent=95, stored_wh=15_200) is None
    assert watched.frame(soc_percent=95, stored_wh=15_200) == (
        "the BMS allows charging, but the table of generation C in normal mode keeps it off until "
        "SoC < charge restart; generation C in critical mode would fit: "
        "check [pack] generation, mode and charge_restart"
    )


@pytest.mark.parametrize(("last_s", "said"), [(0.4375, False), (0.5, True), (0.75, True)])
def test_10_s_are_10_s(last_s: float, said: bool) -> None:
    watched = Watched()
    watched.frame()
    watched.frame(status=DISCHARGE_ALLOWED)
    for _ in range(19):
        assert watched.frame(0.5, status=DISCHARGE_ALLOWED) is None
    assert (watched.frame(last_s, status=DISCHARGE_ALLOWED) is not None) is said


def test_a_difference_shorter_than_10_s_is_not_said_however_often_it_comes() -> None:
    watched = Watched()
    for _ in range(5):
        assert watched.frames(10, status=DISCHARGE_ALLOWED) is None
        assert watched.frame() is None


def test_a_bms_that_is_late_by_less_than_10_s_is_no_disagreement() -> None:
    """The bit comes 9 s after the cell is at Vmax, and goes 9 s after it no longer is."""
    watched = Watched()
    for _ in range(5):
        assert watched.frames(9, highest_mv=3700) is None
        assert watched.frames(9, highest_mv=3700, status=DISCHARGE_ALLOWED) is None
        assert watched.frames(9, status=DISCHARGE_ALLOWED) is None
        assert watched.frames(9) is None


def test_two_differences_at_once_are_said_in_one_text() -> None:
    watched = Watched()
    watched.frame()
    assert watched.frames(10, status=CHARGE_ALLOWED, highest_mv=3700) is None
    assert watched.frame(status=CHARGE_ALLOWED, highest_mv=3700) == (
        f"the BMS allows charging, but {CRITICAL} switches it off: cell 3 at 3.700 V: Vmax 3.70 V (Vh); "
        f"the BMS does not allow discharging, but {CRITICAL} has no reason to switch it off; {CHECK}"
    )


def test_of_two_differences_the_later_one_is_said_when_it_has_lasted_10_s_too() -> None:
    watched = Watched()
    watched.frames(3, highest_mv=3700)
    first = watched.frames(8, highest_mv=3700, status=CHARGE_ALLOWED)
    assert first is not None
    assert "discharging" not in first
    both = watched.frames(3, highest_mv=3700, status=CHARGE_ALLOWED)
    assert both is not None
    assert "the BMS allows charging" in both
    assert "the BMS does not allow discharging" in both
    second = watched.frame(status=CHARGE_ALLOWED)
    assert second is not None
    assert "charging, but" in second
    assert "allows charging" not in second


def test_a_difference_that_turns_round_begins_anew() -> None:
    watched = Watched()
    watched.frame()
    assert watched.frames(9, highest_mv=3700) is None
    assert watched.frames(10, status=DISCHARGE_ALLOWED) is None
    assert watched.frame(status=DISCHARGE_ALLOWED) is not None


def test_while_only_the_numbers_change_the_text_stays() -> None:
    watched = Watched()
    said = watched.frames(11, lowest_mv=2900)
    for millivolts in range(2895, 2600, -5):
        assert watched.frame(lowest_mv=millivolts, coldest_raw=290, soc_percent=9) == said


def test_a_lost_link_clears_it_and_the_10_s_begin_anew() -> None:
    watched = Watched()
    assert watched.frames(11, status=DISCHARGE_ALLOWED) is not None
    watched.silence(9)
    assert watched.text is not None
    watched.silence(1)
    assert watched.pack.lost
    assert watched.text is None
    assert watched.frames(10, status=DISCHARGE_ALLOWED) is None
    assert watched.frame(status=DISCHARGE_ALLOWED) is not None


# The relays of status byte 2


RELAYS = [
    # status 1, status 2, what else, what is said
    (BOTH, LOAD_RELAY_CLOSED, {}, 'the BMS has its relay "Charge" off', "has no reason to switch it off"),
    (BOTH, CHARGE_RELAY_CLOSED, {}, 'the BMS has its relay "Load" off', "has no reason to switch it off"),
    (DISCHARGE_ALLOWED, CLOSED, {"highest_mv": 3700}, 'the BMS has its relay "Charge" on',
     "switches it off: cell 3 at 3.700 V: Vmax 3.70 V (Vh)"),
    (CHARGE_ALLOWED, CLOSED, {"lowest_mv": 2900}, 'the BMS has its relay "Load" on',
     "switches it off: cell 7 at 2.900 V: Vmin 2.90 V (Vl)"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "status2", "changes", "bms", "table"), RELAYS)
def test_a_relay_that_does_not_do_what_its_permission_says_is_said(
    status: int, status2: int, changes: dict[str, Any], bms: str, table: str
) -> None:
    watched = Watched()
    now = {"status": status} | changes
    watched.frame(status2=CLOSED)
    assert watched.frames(11, **now) is None
    assert watched.frame(status2=status2, **now) is None
    assert watched.frames(9, **now) is None
    text = watched.frame(status2=status2, **now)
    assert text is not None, "a second reading says the same"
    assert text.startswith(f"{bms}, but {CRITICAL} {table}; ")
    assert watched.frames(8, **now) == text
    agreeing = (CHARGE_RELAY_CLOSED if status & CHARGE_ALLOWED else 0) | (
        LOAD_RELAY_CLOSED if status & DISCHARGE_ALLOWED else 0
    )
    assert watched.frame(status2=agreeing, **now) is None, "it clears by itself"


def test_one_fact_is_said_once() -> None:
    """The permission and the relay of one side: the relay follows the permission."""
    watched = Watched()
    off = {"status": DISCHARGE_ALLOWED}
    watched.frame(status2=CLOSED)
    text = watched.frames(11, status2=LOAD_RELAY_CLOSED, **off)
    assert text == (
        f"the BMS does not allow charging, but {CRITICAL} has no reason to switch it off; "
        f"generation C in normal mode would fit: {CHECK}"
    )
    assert watched.frames(60, status2=LOAD_RELAY_CLOSED, **off) == text


def test_relays_that_a_bms_never_says_to_be_on_are_not_compared() -> None:
    watched = Watched()
    assert watched.frames(100, status2=0) is None
    assert watched.frames(50, status2=CHARGE_RELAY_CLOSED) is None
    assert watched.frames(11, status2=0) is not None


def test_the_conditions_by_which_a_relay_is_on_are_named() -> None:
    watched = Watched(generation="A", mode="normal", **RESTARTS)
    watched.frames(3)
    watched.frames(11, status=DISCHARGE_ALLOWED)
    assert watched.pack.agreement.text == (
        "the BMS does not allow charging, but the table of generation A in normal mode has no reason to "
        "switch it off (all V < Vbalance, SoC < charge restart, all T > Tmin charge, all T < Tmax, "
        "cell communication is there); check [pack] generation and mode"
    )


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("tmin_charge", {"coldest_raw": 279}),
        ("tmin_discharge", {"coldest_raw": 279}),
        ("tmax", {"hottest_raw": 330}),
    ],
)
def test_a_threshold_of_the_users_own_is_what_to_check(key: str, changes: dict[str, Any]) -> None:
    watched = Watched(**{key: 20.0 if key == "tmax" else 5.0})
    text = watched.frames(11, **changes)
    assert text is not None
    assert text.endswith(f"[pack] {key}; check [pack] generation, mode and {key}") or key == "tmax"
    assert key in text


# What no frame shows


def test_a_sag_between_two_frames_is_no_disagreement() -> None:
    """Normal mode: the BMS has seen Vmin, no frame has; it stays off until the restart."""
    watched = Watched(mode="normal", **RESTARTS)
    watched.frames(3, soc_percent=5, stored_wh=800, lowest_mv=2980)
    assert watched.frames(60, soc_percent=5, stored_wh=800, lowest_mv=2990, status=CHARGE_ALLOWED) is None
    assert watched.frames(60, soc_percent=5, stored_wh=800, status=CHARGE_ALLOWED) is None


@pytest.mark.parametrize("late_s", [1, 4, 9])
def test_a_bms_that_is_late_at_an_unset_restart_is_no_disagreement(late_s: int) -> None:
    """Vmin for one frame, the cell comes back, the BMS's bit goes off later: that is where it waits."""
    watched = Watched(mode="normal")
    watched.frames(3)
    watched.frame(lowest_mv=2900)
    watched.frames(late_s, lowest_mv=2950)
    assert watched.frames(100, lowest_mv=3050, status=CHARGE_ALLOWED) is None


def test_a_pack_without_a_current_sensor_is_full_when_the_bms_says_so() -> None:
    watched = Watched(mode="normal", **RESTARTS)
    full = {
        "lowest_mv": 3400,
        "highest_mv": 3410,
        "current_ma": None,
        "soc_percent": 100,
        "stored_wh": 16_000,
    }
    watched.frames(3, **full)
    assert watched.frames(60, status=DISCHARGE_ALLOWED, **full) is None


def test_relays_that_were_never_seen_are_not_compared() -> None:
    watched = Watched()
    assert watched.frames(100) is None
    assert watched.frames(100, key=15, value=0) is None
    assert watched.frames(100, key=17, value=255) is None


def test_a_relay_that_moves_a_second_after_its_permission_is_no_disagreement() -> None:
    """Just the frame in which the permission goes, and mirror and BMS agree on it, brings the old relay."""
    watched = Watched()
    watched.frames(5)
    full = {"highest_mv": 3700, "status": DISCHARGE_ALLOWED}
    assert watched.frame(status2=CLOSED, **full) is None
    assert watched.frames(18, **full) is None
    assert watched.frame(status2=LOAD_RELAY_CLOSED, **full) is None
    assert watched.frames(18, **full) is None
    assert watched.frame(status2=LOAD_RELAY_CLOSED) is None, "and the other way"
    assert watched.frames(18) is None
    assert watched.frame(status2=CLOSED) is None


@pytest.mark.parametrize("late_s", [0, 1, 9])
def test_a_reading_from_before_the_last_change_is_not_compared(late_s: int) -> None:
    """A cell is at Vmax, the BMS denies then or later: what the relays were before says nothing."""
    watched = Watched()
    watched.frames(5)
    watched.frame(status2=CLOSED)
    for _ in range(late_s):
        assert watched.frame(highest_mv=3700) is None
    assert watched.frames(56, highest_mv=3700, status=DISCHARGE_ALLOWED) is None


def test_a_reading_from_between_mirror_and_bms_is_not_compared_after_both_agree() -> None:
    watched = Watched()
    watched.frames(5)
    watched.frame(highest_mv=3700)
    watched.frame(highest_mv=3700, status2=CLOSED)
    watched.frame(highest_mv=3700)
    assert watched.frames(50, highest_mv=3700, status=DISCHARGE_ALLOWED) is None


def test_a_reading_right_after_the_change_is_compared() -> None:
    watched = Watched()
    watched.frame()
    full = {"highest_mv": 3700, "status": DISCHARGE_ALLOWED}
    watched.frame(**full)
    watched.frame(0.25, status2=CLOSED, **full)
    watched.frames(9, **full)
    assert watched.frame(status2=CLOSED, **full) is not None


def test_a_change_of_one_side_leaves_the_other_to_be_compared() -> None:
    """The reading of relay "Load", off without a reason, is from before relay "Charge" changed."""
    watched = Watched()
    watched.frame(status2=CLOSED)
    text = watched.frames(11, status2=CHARGE_RELAY_CLOSED)
    assert text is not None
    assert '"Load" off' in text
    assert watched.frames(30, highest_mv=3700, status=DISCHARGE_ALLOWED) == text


@pytest.mark.parametrize(("age_s", "said"), [(56.75, True), (57.0, True), (57.25, False)])
def test_relays_that_were_read_more_than_3_rounds_ago_are_not_compared(age_s: float, said: bool) -> None:
    watched = Watched()
    watched.frame(status2=CLOSED)
    assert watched.frames(11, status2=LOAD_RELAY_CLOSED) is not None
    read_at = watched.now
    while watched.now + 1.0 < read_at + age_s:
        assert watched.frame() is not None
    assert (watched.frame(read_at + age_s - watched.now) is not None) is said


# Generation C in the cold, where the mirror goes by status byte 2

COLD = {"status": 0, "status2": TOO_COLD_TO_CHARGE | TOO_COLD_TO_DISCHARGE, "light": UNDER_TMIN}
COOL = {"status": DISCHARGE_ALLOWED, "status2": TOO_COLD_TO_CHARGE | LOAD_RELAY_CLOSED, "light": UNDER_TMIN}
COOL_UNLIT = COOL | {"light": 0}
ODD = {"status": CHARGE_ALLOWED, "status2": TOO_COLD_TO_DISCHARGE | CHARGE_RELAY_CLOSED, "light": 0}
WARM = {"status": BOTH, "status2": CLOSED, "light": 0}


def turns(before: dict[str, int], after: dict[str, int], turn: int) -> Iterator[str | None]:
    """A BMS that goes from one to the other at a turn of the round, whose first frame has status byte 2."""
    watched = Watched(generation="C")
    for second in range(100):
        now = before if second < 38 + turn else after
        status2 = None if second % 19 else now["status2"]
        yield watched.frame(status2=status2, status=now["status"] | now["light"])


@pytest.mark.parametrize("turn", [0, 1, 5, 9, 10, 18])
@pytest.mark.parametrize("after", [COLD, COOL, WARM])
@pytest.mark.parametrize("before", [COLD, COOL, COOL_UNLIT, ODD, WARM])
def test_status_byte_2_that_comes_late_is_no_disagreement(
    before: dict[str, int], after: dict[str, int], turn: int
) -> None:
    assert set(turns(before, after, turn)) == {None}


@pytest.mark.parametrize(("turn", "said_at"), [(9, 57), (10, 76), (18, 76)])
@pytest.mark.parametrize("state", [COLD, COOL])
def test_in_the_cold_a_difference_is_said_by_a_status_byte_2_of_10_s_later(
    state: dict[str, int], turn: int, said_at: int
) -> None:
    """It is read at 38, 57 and 76; the BMS goes on allowing both."""
    texts = list(turns(WARM, state | {"status": BOTH}, turn))
    assert [text is not None for text in texts].index(True) == said_at


def test_in_the_cold_without_status_byte_2_10_s_are_enough() -> None:
    watched = Watched(generation="C")
    watched.frame()
    assert watched.frames(10, status=BOTH | UNDER_TMIN) is None
    assert watched.frame(status=BOTH | UNDER_TMIN) is not None


def test_where_nothing_is_cold_status_byte_2_is_not_waited_for() -> None:
    watched = Watched(generation="C")
    watched.frame(status2=CLOSED)
    assert watched.frames(10, highest_mv=3700) is None
    assert watched.frame(highest_mv=3700) is not None


@pytest.mark.parametrize("generation", ["A", "B"])
def test_generations_a_and_b_do_not_wait_for_status_byte_2(generation: str) -> None:
    watched = Watched(generation=generation)
    watched.frame(status2=CLOSED)
    assert watched.frames(10, status=BOTH | UNDER_TMIN) is None
    assert watched.frame(status=BOTH | UNDER_TMIN) is not None


# The hint


def test_a_relay_that_no_table_explains_is_not_blamed_on_one() -> None:
    """Its permission fits every table: naming another would send the user astray."""
    watched = Watched()
    watched.frame(status2=CLOSED)
    assert watched.frames(11, status2=LOAD_RELAY_CLOSED) == (
        f'the BMS has its relay "Charge" off, but {CRITICAL} has no reason to switch it off; {CHECK}'
    )


def test_a_relay_that_another_table_explains_names_it() -> None:
    """At Vbalance normal mode leaves a relay that is off as it is; critical mode has it on."""
    watched = Watched()
    watched.frame(highest_mv=3400, status2=CLOSED)
    assert watched.frames(11, status2=LOAD_RELAY_CLOSED, highest_mv=3400) == (
        f'the BMS has its relay "Charge" off, but {CRITICAL} has no reason to switch it off; '
        f"generation C in normal mode would fit: {CHECK}"
    )


def test_the_hint_names_the_nearest_that_fits() -> None:
    """All cells at Vbalance while 1088 W flow in, 5 % are 800 W: A and B are full, C is not."""
    full = {"lowest_mv": 3400, "highest_mv": 3410, "voltage_mv": 54_400, "current_ma": 20_000}
    full |= {"current1_ma": 20_000, "current2_ma": 0, "soc_percent": 100, "stored_wh": 16_000}
    watched = Watched(generation="A", mode="normal", **RESTARTS)
    assert watched.frames(11, **full) == (
        "the BMS allows charging, but the table of generation A in normal mode switches it off: "
        f"full: all cells are at Vbalance 3.40 V; generation C in normal mode would fit: {CHECK}"
    )
    watched = Watched(generation="C", mode="normal", **RESTARTS)
    assert watched.frames(11, status=DISCHARGE_ALLOWED, **full) is None, "it begins as the BMS's bit says"
    watched = Watched(generation="C", mode="normal", **RESTARTS)
    watched.frame()
    assert watched.frames(11, status=DISCHARGE_ALLOWED, **full) == (
        "the BMS does not allow charging, but the table of generation C in normal mode has no reason to "
        f"switch it off; generation A in normal mode would fit: {CHECK}"
    )


COLUMNS = (("A", "normal"), ("C", "normal"), ("A", "critical"), ("C", "critical"))
"""B's relays are those of A."""
FULL = {"lowest_mv": 3400, "highest_mv": 3410, "voltage_mv": 54_400, "soc_percent": 100, "stored_wh": 16_000}
FLOWS_IN = {"current1_ma": 20_000, "current2_ma": 0, "current_ma": 20_000}
NOTHING_FLOWS = {"current1_ma": 0, "current2_ma": 0, "current_ma": 0}
LIFE: list[tuple[dict[str, Any], int, int, str, str]] = [
    # readings, lights, cold bits of status byte 2; what each column does with charge and load
    ({}, 0, 0, "+ + + +", "+ + + +"),
    (FULL | FLOWS_IN, 0, 0, "- . + +", "+ + + +"),
    (FULL | NOTHING_FLOWS, 0, 0, "- - + +", "+ + + +"),
    ({"highest_mv": 3410, "soc_percent": 95, "stored_wh": 15_200}, 0, 0, ". . + +", "+ + + +"),
    ({"soc_percent": 90, "stored_wh": 14_400}, 0, 0, ". . + +", "+ + + +"),
    ({"soc_percent": 89, "stored_wh": 14_240}, 0, 0, "+ + + +", "+ + + +"),
    ({}, UNDER_TMIN, TOO_COLD_TO_CHARGE, "- - - -", "- + - +"),
    ({}, UNDER_TMIN, TOO_COLD_TO_CHARGE | TOO_COLD_TO_DISCHARGE, "- - - -", "- - - -"),
    ({}, 0, 0, "+ + + +", "+ + + +"),
    ({"lowest_mv": 2900, "soc_percent": 8, "stored_wh": 1_280}, UNDER_VMIN, 0, "+ + + +", "- - - -"),
    ({"soc_percent": 9, "stored_wh": 1_440}, 0, 0, "+ + + +", ". . + +"),
    ({"soc_percent": 10, "stored_wh": 1_600}, 0, 0, "+ + + +", "+ + + +"),
    ({}, OVER_TMAX, 0, "- - - -", "- - - -"),
    ({"highest_mv": 3700}, OVER_VMAX, 0, "- - - -", "+ + + +"),
    ({}, NO_COMMUNICATION, 0, "- - - -", "- - - -"),
    ({}, 0, 0, "+ + + +", "+ + + +"),
]
"""What a pack goes through, and what the manuals' tables say to it, by hand: + on, - off, . as it was."""


def column(generation: str, mode: str) -> int:
    return COLUMNS.index(("C" if generation == "C" else "A", mode))


def live(configured: tuple[str, str], bms: tuple[str, str]) -> Iterator[tuple[str, tuple[bool, bool], int]]:
    """Let a pack with such a BMS go through it: each text, what the BMS does then, and where that was."""
    watched = Watched(generation=configured[0], mode=configured[1], **RESTARTS)
    relays, said = (True, True), None
    for place, (changes, lights, cold, *columns) in enumerate(LIFE):
        words = [text.split()[column(*bms)] for text in columns]
        charge, load = (was if word == "." else word == "+" for was, word in zip(relays, words, strict=True))
        relays = charge, load
        status = lights | charge * CHARGE_ALLOWED | load * DISCHARGE_ALLOWED
        closed = charge * CHARGE_RELAY_CLOSED | load * LOAD_RELAY_CLOSED
        for second in range(38):
            text = watched.frame(status2=None if second % 19 else cold | closed, status=status, **changes)
            if text is not None and text != said:
                yield text, relays, place
            said = text


def named(text: str) -> tuple[str, str]:
    """What a text says would fit."""
    words = text.rpartition("; ")[2].split()
    wanted = ["generation", "in", "mode", "would", "fit:", "check", "[pack]"]
    assert words[:1] + words[2:3] + words[4:9] == wanted, text
    return words[1], words[3]


EVERY = [(generation, mode) for generation in GENERATIONS for mode in MODES]


@pytest.mark.parametrize("bms", EVERY)
@pytest.mark.parametrize("configured", EVERY)
def test_a_wrong_generation_or_mode_shows_up_and_the_right_one_never_does(
    configured: tuple[str, str], bms: tuple[str, str]
) -> None:
    """What is named as fitting has a reason for what the BMS does, or none against it."""
    texts = list(live(configured, bms))
    assert bool(texts) is (column(*configured) != column(*bms))
    for text, relays, place in texts:
        assert f"the table of generation {configured[0]} in {configured[1]} mode" in text
        words = [columns.split()[column(*named(text))] for columns in LIFE[place][3:]]
        for on, word in zip(relays, words, strict=True):
            assert word in ("+." if on else "-."), (text, place)


@pytest.mark.parametrize("bms", EVERY)
@pytest.mark.parametrize("configured", EVERY)
def test_who_follows_the_hints_arrives_at_what_the_bms_is(
    configured: tuple[str, str], bms: tuple[str, str]
) -> None:
    for _ in range(3):
        text, _, _ = next(live(configured, bms), (None, None, None))
        if text is not None:
            configured = named(text)
    assert column(*configured) == column(*bms)


# What is said in the log, and shown on the bus


CABLE = Cable("/dev/ttyUSB0", "FT123")


class Told:
    """The driver without its line and its bus: frames, seconds, and what it logs as a warning."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        self.driver, self.now, self._caplog = Driver(Configuration()), 0.0, caplog
        self.driver._clock = lambda: self.now
        self.driver._opened(CABLE)

    def frames(self, number: int, **changes: Any) -> list[str]:
        for _ in range(number):
            self.now += 1.0
            self.driver._received(CABLE, encode(rig.frame(0, key=None, **changes)), False)
        return self.warnings()

    def silence(self, seconds: int) -> list[str]:
        for _ in range(seconds):
            self.now += 1.0
            self.driver.bank.tick(self.now)
            self.driver._announce()
        return self.warnings()

    def warnings(self) -> list[str]:
        texts = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return texts

    @property
    def shown(self) -> object:
        return self.driver.items.items["/SmartBms/Disagreement"].value


EMPTY = f"the BMS allows discharging, {AT_VMIN}"
AGREE = "the BMS and the manual's tables agree again"


def test_a_disagreement_is_said_once_and_shown_until_it_clears(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(caplog)
    assert told.frames(3) == []
    assert told.shown == ""
    assert told.frames(10, lowest_mv=2900) == []
    assert told.frames(1, lowest_mv=2900) == [EMPTY]
    for millivolts in range(2895, 2800, -5):
        assert told.frames(1, lowest_mv=millivolts) == []
        assert told.shown == EMPTY
    assert told.frames(1) == [AGREE]
    assert told.shown == ""
    assert told.frames(30) == []


def test_a_lost_link_is_no_agreement(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was compared meanwhile: with the first frame again nobody knows yet."""
    told = Told(caplog)
    assert told.frames(11, lowest_mv=2900) == [EMPTY]
    assert told.silence(30) == []
    assert told.shown == ""
    assert told.frames(10, lowest_mv=2900) == []
    assert told.frames(1, lowest_mv=2900) == [EMPTY]
    assert told.frames(1) == [AGREE]
    told.frames(11, lowest_mv=2900)
    assert told.silence(30) + told.frames(30) == []


# The mirror takes permission away and gives none


NEAR = st.sampled_from([0, 1495, 1500, 2895, 2900, 2905, 3310, 3395, 3400, 3405, 3695, 3700, 3705])
STATUS = st.one_of(st.just(BOTH), st.just(BOTH), st.integers(0, 255))
FRAMES = st.fixed_dictionaries({
    "lowest_mv": NEAR, "highest_mv": NEAR, "status": STATUS,
    "coldest_raw": st.sampled_from([0, 280, 281, 282, 296]),
    "hottest_raw": st.sampled_from([299, 320, 321, 322, 400]),
    "current_ma": st.sampled_from([None, 0, 14_000, 15_000, 16_000, -40_000]),
    "soc_percent": st.sampled_from([0, 9, 10, 50, 89, 90, 100]),
    "key": st.sampled_from([None, 16]), "value": st.sampled_from([0x00, 0x30, 0x34, 0x38, 0x3C]),
})  # fmt: skip
SETTINGS = st.builds(
    Settings,
    generation=st.sampled_from(GENERATIONS), mode=st.sampled_from(MODES),
    tmin_charge=st.sampled_from([None, 5.0]), tmin_discharge=st.sampled_from([None, 5.0]),
    tmax=st.sampled_from([None, 45.0]),
    charge_restart=st.sampled_from([None, 90.0]), discharge_restart=st.sampled_from([None, 10.0]),
)  # fmt: skip
GAPS = st.sampled_from([0.25, 0.5, 1.0, 1.0, 1.0, 5.0, 12.0, 70.0])
STORIES = st.lists(st.tuples(GAPS, FRAMES), min_size=1, max_size=12)
HOTTEST = {"highest_cell": 16}
"""The hottest cell is the highest too, so that each frame says whether its board bleeds."""


def forbids(configured: Settings, frame: dict[str, Any], light: int, cold: float | None) -> bool:
    """Whether the manuals' disable conditions hold, but for Vmin, Vmax and a full pack; 276 is 0 degC."""
    status = frame["status"]
    too_cold = cold is not None and min(frame["coldest_raw"], frame["hottest_raw"]) - 276 < cold
    hottest = max(frame["coldest_raw"], frame["hottest_raw"])
    hot = configured.tmax is not None and hottest - 276 > configured.tmax
    bleeds = frame["highest_mv"] > 3400
    not_heard = max(frame["highest_mv"], frame["lowest_mv"]) < 1500
    return (
        bool(status & (NO_COMMUNICATION | OVER_TMAX | light)) or too_cold or (hot and not bleeds) or not_heard
    )


@given(SETTINGS, STORIES)
def test_a_disable_condition_is_off_whatever_came_before(
    configured: Settings, story: list[tuple[float, dict[str, Any]]]
) -> None:
    pack, now = Pack(configured), 0.0
    for gap, changes in story:
        now += gap
        pack.take(rig.frame(0, **(changes | HOTTEST)), now)
        assert pack.limits is not None
        lowest, highest = sorted((changes["lowest_mv"], changes["highest_mv"]))
        light = OVER_VMAX | UNDER_TMIN
        if forbids(configured, changes, light, configured.tmin_charge) or highest >= 3700:
            assert pack.relays.charge.closed is False
            assert pack.relays.charge.forbids is not None
            assert (pack.limits.allow_charge, pack.limits.ccl_ma) == (False, 0)
        light = UNDER_VMIN | (UNDER_TMIN if configured.generation != "C" else 0)
        if forbids(configured, changes, light, configured.tmin_discharge) or lowest <= 2900:
            assert pack.relays.load.closed is False
            assert pack.relays.load.forbids is not None
            assert (pack.limits.allow_discharge, pack.limits.dcl_ma) == (False, 0)
        full = lowest >= 3400 and configured.mode == "normal"
        if full and (configured.generation != "C" or changes["current_ma"] == 0):
            assert pack.relays.charge.closed is False


@given(SETTINGS, STORIES)
def test_the_mirror_gives_no_permission(
    configured: Settings, story: list[tuple[float, dict[str, Any]]]
) -> None:
    """Beside limits that know of no mirror: with it no more is allowed."""
    pack, now = Pack(configured), 0.0
    memory = limits.Memory()
    for gap, changes in story:
        now += gap
        pack.take(rig.frame(0, **changes), now)
        memory, alone = limits.step(configured, memory, pack.readings, mirror.Relays(), now)
        mine = pack.limits
        assert mine is not None
        assert alone is not None
        assert not mine.allow_charge or (changes["status"] & CHARGE_ALLOWED and alone.allow_charge)
        assert not mine.allow_discharge or (changes["status"] & DISCHARGE_ALLOWED and alone.allow_discharge)
        assert not mine.allow_charge or pack.relays.charge.forbids is None
        assert not mine.allow_discharge or pack.relays.load.forbids is None
