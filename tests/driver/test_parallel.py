"""Limits of packs in parallel: who takes part, how much each gets, and what a pack that goes leaves behind.

Each pack is ``rig.FRAME``: 16 LFP cells, 303.030 Ah, so 151.515 A of CCL and 303.030 A of DCL of its own, CVL
54.88 V.  Three of them are 909.090 Ah: 454.545 A and 909.090 A; two are 606.060 Ah: 303.030 A and 606.060 A.
Their frames arrive together, and a tick follows them, as in the driver.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dbus_smartbms import parallel
from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.limits import Limits
from dbus_smartbms.rules import NO_WISHES, Wishes
from dbus_smartbms.settings import Settings
from dbus_smartbms.stages import ABSORPTION, BULK, FLOAT, Stage
from rig import frame
from smartbms_protocol import PackState
from smartbms_protocol.layout import CHARGE_ALLOWED, DISCHARGE_ALLOWED

ONE, TWO, THREE = (151_515, 303_030), (303_030, 606_060), (454_545, 909_090)
NO_CHARGE, NO_DISCHARGE = {"status": DISCHARGE_ALLOWED}, {"status": CHARGE_ALLOWED}
NEITHER = {"status": 0}
HALF = {"highest_mv": 3_550}
"""Midway from Vbalance to Vmax: charging tapers to half."""
HALF_EMPTY = {"lowest_mv": 2_980}
"""With 50 mV of the 100 that 1 C takes until it sags near Vmin: half of DCL."""
SMALL = {"capacity_wh": 8_000}
CELLS_8 = {"cells": 8, "voltage_mv": 26_560, "hottest_cell": 8}
CELLS_4 = {
    "cells": 4, "voltage_mv": 13_280, "hottest_cell": 4, "lowest_cell": 2, "capacity_wh": 1_000,
}  # fmt: skip
MOMENT = 2.0**-10
NO_FRAMES = "is the cable plugged in?"


class Many:
    """Packs in parallel on a clock that is turned by hand."""

    def __init__(self, cables: str = "abc", **configured: Any) -> None:
        self.bank = Bank(Configuration(Settings(**configured)))
        self.cables = cables
        self.now = 1000.0
        self.turn = 0

    def send(
        self,
        frames: int = 1,
        *,
        after: float = 1.0,
        silent: str = "",
        each: dict[str, Any] | None = None,
        **of: dict[str, Any],
    ) -> Limits:
        """Frames of all packs that are not silent, at rest but for what is said of each, or of one."""
        for _ in range(frames):
            self.now += after
            for cable in self.cables:
                if cable not in silent:
                    changes = {"current_ma": 0} | (each or {}) | of.get(cable, {})
                    turn = self.turn % changes.get("cells", 16)
                    self.bank.take(cable, frame(turn, **changes), self.now)
            self.bank.tick(self.now)
            self.turn += 1
        return self.limits

    def slow(self, frames: int, *, seconds: float = 30.0, **more: Any) -> Limits:
        """Frames so far apart, as if the packs sent them so: all of that time counts, in few frames."""
        readings = [pack.readings for pack in self.bank.packs.values()]
        for one in readings:
            one.interval_s = seconds
        self.send(frames, after=seconds, **more)
        for one in readings:
            one.interval_s = 1.0
        return self.limits

    def take(self, cable: str, **changes: Any) -> Limits:
        """One frame of one pack, now."""
        self.bank.take(cable, frame(self.turn, **{"current_ma": 0, **changes}), self.now)
        return self.limits

    def quiet(self, seconds: float) -> Limits:
        """Ticks without frames."""
        end = self.now + seconds
        while self.now + 1 <= end:
            self.now += 1
            self.bank.tick(self.now)
        self.now = end
        self.bank.tick(end)
        return self.limits

    def call(self, cable: str, name: str) -> None:
        """Another name for a pack."""
        self.bank.packs[cable].name = name
        self.bank.look_again(self.now)

    @property
    def limits(self) -> Limits:
        assert self.bank.limits is not None
        return self.bank.limits

    @property
    def currents(self) -> tuple[int, int]:
        return self.limits.ccl_ma, self.limits.dcl_ma

    @property
    def members(self) -> str:
        return "".join(pack.cable for pack in self.bank.members)


def started(cables: str = "abc", **configured: Any) -> Many:
    """Packs that have been there for longer than the start takes."""
    many = Many(cables, **configured)
    many.send(8)
    return many


def unequal(current_ma: dict[str, int], **configured: Any) -> Many:
    """Packs that have learnt in 10 minutes how these currents divide, and are at rest again."""
    many = started("".join(current_ma), **configured)
    currents: dict[str, Any] = {cable: {"current_ma": ma} for cable, ma in current_ma.items()}
    many.slow(20, **currents)
    many.send(2)
    return many


def third(part: float, whole: int = 3) -> tuple[int, int]:
    """Part of what the whole bank has."""
    return int(151_515 * whole * part), int(303_030 * whole * part)


# Who belongs to the bank


def test_before_the_first_frame_there_are_no_limits() -> None:
    bank = Bank(Configuration(Settings()))
    bank.tick(5.0)
    assert bank.limits is None
    bank.pack("a")
    bank.tick(6.0)
    assert bank.limits is None
    assert bank.members == []


def test_a_bank_of_one_pack_has_its_limits() -> None:
    many = Many("a")
    for frames in range(1, 6):
        many.send()
        assert many.limits is many.bank.packs["a"].limits
        assert many.currents == (ONE if frames >= 3 else (0, 0))


def test_seconds_before_the_first_frame_make_no_several_of_one() -> None:
    """The driver ticks while it looks for a cable: a pack alone has its own limits all the same."""
    many = Many("a")
    many.bank.tick(many.now)
    many.send(2)
    many.quiet(12)
    for _ in range(5):
        many.send()
        assert many.limits == many.bank.packs["a"].limits
    assert many.limits.ccl_reason == "rises slowly again to 152 A"


def test_packs_that_begin_together_do_not_ramp() -> None:
    many = Many()
    many.send(2)
    assert many.currents == (0, 0)
    assert many.members == "a", "two frames of the others may be noise"
    many.send()
    assert many.members == "abc"
    assert many.currents == THREE
    assert many.limits == Limits(
        54_880, *THREE, "a: 16 cells x 3.43 V", "0.5 C of 909 Ah", "1 C of 909 Ah", True, True, "bulk"
    )


@pytest.mark.parametrize("frames", [1, 2])
def test_a_pack_that_was_gone_before_it_permitted_takes_no_part(frames: int) -> None:
    """It may have been noise: it is not missed, and bounds nobody with the nothing that it allowed."""
    many = Many("ab")
    for _ in range(frames):
        many.take("a", **CELLS_4)
    many.send(2, silent="a")
    assert many.limits.cvl_mv < 15_000
    many.send(silent="a")
    assert many.members == "b"
    assert many.limits == many.bank.packs["b"].limits
    many.send(20, silent="a")
    assert (*many.currents, many.limits.lost) == (*ONE, False)


@pytest.mark.parametrize(("after", "ccl"), [(5.0 - MOMENT, 303_030), (5.0, 151_515)])
def test_a_pack_that_joins_within_5_s_was_there_from_the_start(after: float, ccl: int) -> None:
    """Counted from the first frame of all; later it is a change, which raises no limit at once."""
    many = Many("ab")
    many.send(3, silent="b", after=0.0)
    many.now += after
    many.send(2, after=0.0)
    assert many.members == "a"
    assert many.send(after=0.0).ccl_ma == ccl
    assert many.members == "ab"


def test_a_pack_that_joins_later_neither_dips_nor_lifts_limits_suddenly() -> None:
    many = started("ab")
    many.cables = "abc"
    for _ in range(31):
        many.send()
        assert many.currents == TWO
    assert many.members == "abc"
    assert many.limits.ccl_reason == "packs came or went: rises slowly; 0.5 C of 909 Ah"
    assert many.limits.dcl_reason == "packs came or went: rises slowly; 1 C of 909 Ah"
    many.send(2)  # 30 s after it joined with its third frame
    assert many.currents == (303_030 + 22_728, 606_060 + 45_455), "1/20 of all in 1/20 of 10 minutes"
    many.slow(5)
    assert many.currents == (303_030 + 6 * 22_728, 606_060 + 6 * 45_455)
    many.slow(1)
    assert many.currents == THREE
    assert many.limits.ccl_reason == "0.5 C of 909 Ah"


def test_a_pack_that_joins_with_learnt_shares_dips_nothing() -> None:
    """It counts with its part of the capacity until it was seen how the current divides now."""
    many = unequal({"a": 60_000, "b": 40_000})
    before = many.currents
    many.cables = "abc"
    many.send(5)
    assert many.members == "abc"
    assert many.currents == before


def test_a_further_pack_waits_with_its_own_permission() -> None:
    """It joins with the third frame if that permits, and if it denies; not while it waits."""
    many = started("ab")
    many.cables = "abc"
    many.send(c=NO_CHARGE)
    many.send(2)
    assert many.members == "ab"
    assert many.currents == TWO, "neither a denial yet, nor a limit of 0 while it waits"
    many.send()
    assert many.members == "abc"
    many = started("ab")
    many.cables = "abc"
    many.send(2, c=NO_CHARGE)
    assert many.currents == TWO
    many.send(2, c=NO_CHARGE)
    assert many.members == "abc"
    assert many.currents == (0, 606_060)


def test_a_pack_that_sent_three_frames_and_was_lost_does_not_join() -> None:
    many = started("ab")
    many.take("c")
    many.take("c")
    many.send(30)
    many.take("c")
    many.bank.packs["c"].readings.frames = 3
    many.quiet(10)
    many.send(1)
    assert many.members == "ab"


def test_a_pack_that_joined_and_went_at_once_bounds_the_rest() -> None:
    """Its third frame was its last: without it there is less than with it."""
    many = started("ab")
    many.cables = "abc"
    many.send(3)
    many.send(20, silent="c")
    assert many.currents == (202_020, 404_040)


# CVL


def test_cvl_is_the_lowest() -> None:
    many = started()
    many.send(40, b={"highest_mv": 3_520, "current_ma": 10_000})
    packs = [pack.limits.cvl_mv for pack in many.bank.packs.values() if pack.limits]
    assert packs[1] < packs[0] == packs[2] == 54_880
    assert many.limits.cvl_mv == packs[1]
    assert many.limits.cvl_reason.startswith("b: cell 3 at 3.520 V: held under 3.43 V")


def test_packs_are_called_by_their_names() -> None:
    many = started()
    many.bank.packs["b"].name = "House"
    assert many.send(b=NO_CHARGE).ccl_reason == "House: the BMS does not allow charging"


# CCL and DCL by shares


def test_by_capacity_no_pack_gets_more_than_its_own_limit() -> None:
    """Two thirds and one third: 454.545 Ah, 227.272 A of CCL."""
    many = Many("ab")
    many.send(8, b=SMALL)
    assert many.currents == (227_271, 454_545), "151.515 Ah: 75.757 A x 3"
    assert many.limits.ccl_reason == "b takes 33% of the current: 0.5 C of 152 Ah"
    many.send(b=SMALL | HALF)
    assert many.currents == (37_878 * 3, 454_545)
    assert (
        many.limits.ccl_reason == "b takes 33% of the current: cell 3 at 3.550 V: charging tapers from 3.40 V"
    )
    many.send(a=HALF_EMPTY, b=SMALL)
    assert many.currents[1] == 151_515 * 3 // 2
    assert many.limits.dcl_reason.startswith("a takes 67% of the current: cell 7 at 2.980 V")


def test_a_pack_that_is_next_to_nothing_still_has_a_thousandth() -> None:
    """100 Wh beside 200 kWh: its half C may be reached by so much of the current."""
    many = Many("ab")
    many.send(8, a={"capacity_wh": 200_000}, b={"capacity_wh": 100})
    assert many.limits.ccl_ma == 946_000
    assert many.limits.ccl_reason == "b takes 0% of the current: 0.5 C of 2 Ah"


def test_learnt_shares_bind_the_pack_that_takes_more() -> None:
    """Of equal packs one takes 60 % (within the dead bands of 1 % and 3 %)."""
    many = unequal({"a": 60_000, "b": 40_000})
    assert many.limits.ccl_ma == pytest.approx(151_515 / 0.6, rel=0.01)
    assert many.limits.dcl_ma == pytest.approx(303_030 / 0.6, rel=0.01), "until discharging was seen"
    assert many.limits.ccl_reason == "a takes 60% of the current: 0.5 C of 303 Ah"
    many.slow(20, a={"current_ma": -45_000}, b={"current_ma": -55_000})
    many.send(2)
    assert many.limits.ccl_ma == pytest.approx(151_515 / 0.6, rel=0.01)
    assert many.limits.dcl_ma == pytest.approx(303_030 / 0.55, rel=0.02)
    assert many.limits.dcl_reason == "b takes 56% of the current: 1 C of 303 Ah"


def test_five_minutes_of_frames_a_second_apart_are_enough() -> None:
    many = started("ab")
    many.send(300, a={"current_ma": 60_000}, b={"current_ma": 40_000})
    assert many.limits.ccl_ma == pytest.approx(151_515 / 0.6, rel=0.02)


def test_a_pack_without_current_gets_a_share_all_the_same() -> None:
    """One whose cable is loose carries nothing: half of its capacity share at the least."""
    many = unequal({"a": 100_000, "b": 0})
    assert many.send(b=HALF).ccl_ma == pytest.approx(min(151_515, 75_757 / 0.25), rel=0.01)
    assert many.send(b={"highest_mv": 3_640}).ccl_ma == pytest.approx(30_303 / 0.25, rel=0.04)


def test_nothing_is_learnt_while_a_pack_is_lost() -> None:
    """The current divides otherwise then, and what was known of it is of use when the pack is back."""
    many = unequal({"a": 60_000, "b": 40_000})
    many.send(silent="b", a={"current_ma": 100_000})
    before = many.bank._memory.shares
    many.send(30, silent="b", a={"current_ma": 100_000})
    assert many.bank._memory.shares == before
    many.send(2, a={"current_ma": 100_000})
    assert many.bank._memory.shares == before, "nor while it comes back"
    many.send(2, a={"current_ma": 100_000})
    assert many.bank._memory.shares != before


def test_what_was_learnt_of_a_pack_outlasts_the_time_that_it_is_left_out() -> None:
    many = unequal({"a": 60_000, "b": 40_000})
    many.send(2, b=CELLS_8 | SMALL)
    learnt = many.bank._memory.shares
    many.send(5, a={"current_ma": 100_000}, b=CELLS_8 | SMALL)
    assert many.bank._memory.shares == learnt


def test_currents_of_one_time_are_compared() -> None:
    """A pack whose frames fail for 3 s: its last current is not laid beside the others' of now."""
    many = unequal({"a": 50_000, "b": 50_000})
    many.send(silent="b", a={"current_ma": 100_000})
    before = many.bank._memory.shares
    many.send(8, silent="b", a={"current_ma": 100_000})
    assert many.bank._memory.shares == before
    many.send(silent="a", b={"current_ma": 0})
    assert many.bank._memory.shares == before
    many.send(1, a={"current_ma": 100_000})
    assert many.bank._memory.shares != before


# series: one that denies stops all


@pytest.mark.parametrize(
    ("changes", "ccl", "dcl", "reason"),
    [
        (NO_CHARGE, 0, 909_090, "b: the BMS does not allow charging"),
        (NO_DISCHARGE, 454_545, 0, "b: the BMS does not allow discharging"),
        ({"highest_mv": 3_700}, 0, 909_090, "b: cell 3 at 3.700 V: Vmax 3.70 V"),
        ({"lowest_mv": 2_900}, 454_545, 0, "b: cell 7 at 2.900 V: Vmin 2.90 V"),
        ({"vmax_mv": 3_705, "status": DISCHARGE_ALLOWED}, 0, 909_090, "b: the BMS does not allow charging"),
        ({"vmax_mv": 3_705, "status": CHARGE_ALLOWED}, 454_545, 0, "b: the BMS does not allow discharging"),
    ],
)
def test_in_series_one_that_denies_stops_all_in_the_same_frame(
    changes: dict[str, Any], ccl: int, dcl: int, reason: str
) -> None:
    """By the BMS's bit, by the mirror's critical reason, and in a frame that is held back."""
    many = started()
    many.now += 1
    many.take("a")
    assert many.currents == THREE
    limits = many.take("b", **changes)
    assert many.currents == (ccl, dcl)
    assert (limits.allow_charge, limits.allow_discharge) == (ccl > 0, dcl > 0)
    assert reason in (limits.ccl_reason if dcl else limits.dcl_reason)
    assert not limits.lost


def test_in_series_it_comes_back_with_three_frames_and_a_ramp() -> None:
    many = started()
    many.send(b=NEITHER)
    for frames in (1, 2):
        assert many.send().ccl_ma == 0
        reason = f"b takes 33% of the current: waits for 3 frames in a row that permit it ({frames} so far)"
        assert many.limits.ccl_reason == many.limits.dcl_reason == reason
        assert (many.limits.allow_charge, many.limits.allow_discharge) == (False, False)
    many.send()
    assert many.currents == (3 * 37_878, 3 * 75_757), "a quarter of what b may have"
    assert (many.limits.allow_charge, many.limits.allow_discharge) == (True, True)
    many.send(30)
    assert many.limits.ccl_ma == 3 * (37_878 + 151_515 // 20 + 1)
    many.slow(20)
    assert many.currents == THREE


def test_in_series_a_denial_reaches_cvl_as_of_one_pack() -> None:
    many = started()
    many.send(b=NO_CHARGE)
    assert many.limits.cvl_mv == 53_120
    assert many.limits.cvl_reason == "b: no charging: held at the pack's voltage"


# own: each pack has a contactor


def test_with_contactors_the_others_go_on_within_their_limits() -> None:
    many = started(relays="own")
    many.send(b=NO_CHARGE)
    assert many.currents == (2 * 151_515, 606_060), "two packs take the current; b's contactor may be open"
    assert many.limits.ccl_reason == "a takes 50% of the current: 0.5 C of 303 Ah"
    assert (many.limits.allow_charge, many.limits.allow_discharge) == (True, True)
    assert many.limits.cvl_mv == 54_880, "and b's voltage holds them not"
    many.send(10, b=NO_CHARGE, c=HALF)
    assert many.limits.ccl_ma == 2 * 75_757
    many.send(10, a=NO_CHARGE, b=NO_CHARGE, c=HALF)
    assert many.limits.ccl_ma == 75_757
    assert many.limits.ccl_reason == "c: cell 3 at 3.550 V: charging tapers from 3.40 V"


def test_with_contactors_nothing_is_left_where_all_deny() -> None:
    many = started(relays="own")
    many.send(each=NO_CHARGE)
    assert many.currents == (0, 303_030), "and each may be the only one that is there for a load"
    assert many.limits.ccl_reason == "a: the BMS does not allow charging"
    assert not many.limits.allow_charge
    assert many.limits.cvl_mv == 53_120


def test_with_contactors_others_rise_slowly_when_one_that_held_them_denies() -> None:
    """b was nearly full: without it the others may have more, but not at once."""
    many = started(relays="own")
    many.send(b={"highest_mv": 3_690})
    before = many.limits.ccl_ma
    assert before == 3 * 5_050
    many.send(30, b=NO_CHARGE)
    assert many.limits.ccl_ma == 303_030 // 4, "of what the two may have"
    assert many.limits.ccl_reason.startswith("packs came or went: rises slowly")
    many.send(b=NO_CHARGE)
    assert many.limits.ccl_ma == 303_030 // 4 + 454_545 // 20 + 1
    many.slow(15, b=NO_CHARGE)
    assert many.limits.ccl_ma == 2 * 151_515


@pytest.mark.parametrize(
    ("denied", "flows", "trickles", "way"),
    [(NO_CHARGE, 3_125, 3_000, 0), (NO_DISCHARGE, -3_125, -3_000, 1)],
)
def test_current_through_a_contactor_that_should_be_open_stops_all_after_5_s(
    denied: dict[str, Any], flows: int, trickles: int, way: int
) -> None:
    """A hundredth of a C counts as a current; less may be the sensor."""
    stuck = denied | {"current_ma": flows}
    many = started(relays="own")
    many.send(5, b=stuck)
    assert many.currents[way] > 0
    many.now += 1 - MOMENT
    many.take("b", **stuck)
    assert many.currents[way] > 0
    many.now += MOMENT
    limits = many.take("b", **stuck)
    assert many.currents[way] == 0
    assert many.currents[1 - way] > 0
    reason = "b: current flows though its BMS denies it: its contactor?"
    assert (limits.ccl_reason, limits.dcl_reason)[way] == reason
    assert (limits.allow_charge, limits.allow_discharge)[way] is False
    many.send(b=denied | {"current_ma": trickles})
    assert many.currents[way] > 0
    many.send(b=denied | {"current_ma": -flows})
    assert many.currents[way] > 0
    many.send(b=denied | {"current_ma": None})
    assert many.currents[way] > 0


@pytest.mark.parametrize(("current_ma", "stuck"), [(1_000, False), (1_125, True)])
def test_what_counts_as_a_current_through_a_contactor(current_ma: int, stuck: bool) -> None:
    """Of a small pack: more than 1 A."""
    small = {"capacity_wh": 4_000}
    many = Many(relays="own")
    many.send(8, b=small)
    many.send(7, b=small | NO_CHARGE | {"current_ma": current_ma})
    assert (many.limits.ccl_ma == 0) == stuck


def test_with_contactors_both_directions_may_be_denied_at_once() -> None:
    many = started(relays="own")
    many.send(b=NEITHER)
    assert many.currents == TWO


def test_with_contactors_one_that_permits_again_takes_no_load_from_the_house() -> None:
    """The others go on without it until it has permitted three times; then it counts with its ramp."""
    many = started(relays="own")
    many.send(2, b=NO_DISCHARGE)
    for _ in range(2):
        many.send()
        assert many.currents[1] == 606_060
    many.send()
    assert many.limits.dcl_ma == 3 * 75_757
    assert many.limits.dcl_reason.startswith("b takes 33% of the current: rises slowly again")


def test_the_5_s_begin_anew_with_each_denial() -> None:
    stuck = NO_CHARGE | {"current_ma": 50_000}
    many = started(relays="own")
    many.send(4, b=stuck)
    many.send(5)
    many.send(5, b=stuck)
    assert many.limits.ccl_ma > 0
    many.send(b=stuck)
    assert many.limits.ccl_ma == 0


def test_in_series_a_current_past_a_denial_is_nobodys_contactor() -> None:
    many = started()
    many.send(10, b=NO_CHARGE | {"current_ma": 50_000})
    assert many.limits.ccl_reason == "b: the BMS does not allow charging"


def test_a_contactor_that_may_be_open_counts_both_ways() -> None:
    """b's BMS denies discharging: one contactor for both may be open, and then a and c share the charge;
    where it is not, b has its third, and has its own limit all the same."""
    many = started(relays="own")
    many.send(b=NO_DISCHARGE)
    assert many.limits.ccl_ma == 2 * 151_515
    many.send(b=NO_DISCHARGE | HALF)
    assert many.limits.ccl_ma == 3 * 75_757
    assert many.limits.ccl_reason.startswith("b takes 33% of the current: cell 3 at 3.550 V")
    many.send(a=NO_DISCHARGE, b=NO_DISCHARGE, c=NO_DISCHARGE | HALF)
    assert many.limits.ccl_ma == 75_757, "each may be the only one"


def test_with_contactors_a_critical_reason_stops_all_until_the_bms_denies_too() -> None:
    """As long as its BMS allows, its contactor is closed."""
    many = started(relays="own")
    assert many.send(b={"highest_mv": 3_700}).ccl_ma == 0
    assert many.limits.ccl_reason.startswith("b takes 33% of the current: cell 3 at 3.700 V: Vmax 3.70 V")


def test_with_contactors_nothing_is_learnt_while_one_may_be_open() -> None:
    many = started("ab", relays="own")
    before = many.bank._memory.shares
    for denied in (NO_CHARGE, NO_DISCHARGE):
        many.send(5, a={"current_ma": 100_000}, b=denied | {"current_ma": 0})
        assert many.bank._memory.shares == before
    many.send(5, a={"current_ma": 100_000})
    assert many.bank._memory.shares != before
    many = started("ab")
    many.send(5, a={"current_ma": 100_000}, b=NO_DISCHARGE)
    assert many.bank._memory.shares != before, "in series the current goes on through all of them"


def test_with_contactors_a_lost_pack_is_no_open_one() -> None:
    many = started(relays="own")
    many.send(10, silent="b")
    assert many.currents == third(2 / 3)


# A lost pack


def test_without_a_pack_the_bank_goes_on_with_less() -> None:
    many = started()
    many.send(9, silent="b")
    assert many.currents == THREE
    limits = many.send(silent="b")
    assert many.currents == TWO
    assert limits.cvl_mv == 16 * 3_370, "b's cells are not seen: not over where full cells rest"
    assert limits.cvl_reason == "b is lost: no more than before, or float"
    assert (limits.allow_charge, limits.allow_discharge) == (True, True)
    assert (limits.lost, limits.spent) == (False, False)
    many.send(200, silent="b")
    assert many.currents == TWO
    assert many.limits.cvl_mv == 16 * 3_370


def test_two_packs_of_which_one_is_lost() -> None:
    many = started("ab")
    many.send(10, silent="b")
    assert many.currents == ONE
    assert many.limits.ccl_reason == "a: 0.5 C of 303 Ah"


def test_the_bank_is_derated_by_what_the_lost_pack_took() -> None:
    """60 % of the current were b's: the rest, and a has no more than its own limit."""
    many = unequal({"a": 40_000, "b": 60_000})
    before = many.limits.ccl_ma
    assert before == pytest.approx(151_515 / 0.6, rel=0.02)
    many.send(10, silent="b")
    assert many.limits.ccl_ma == pytest.approx(before * 0.4, rel=0.02)
    assert many.limits.ccl_reason == "b is lost: no more than before, derated"
    assert many.limits.dcl_ma == pytest.approx(303_030 / 0.6 * 0.4, rel=0.02)


def test_the_bank_is_derated_by_the_capacity_where_that_is_more() -> None:
    """b took 40 %, and is half of the capacity."""
    many = unequal({"a": 60_000, "b": 40_000})
    before = many.currents
    many.send(10, silent="b")
    assert many.currents == (before[0] // 2, before[1] // 2)


def test_each_direction_is_derated_by_its_own_shares() -> None:
    many = unequal({"a": 40_000, "b": 60_000})
    many.slow(20, a={"current_ma": -30_000}, b={"current_ma": -70_000})
    many.send(2)
    before = many.currents
    many.send(10, silent="b")
    assert many.limits.ccl_ma == pytest.approx(before[0] * 0.4, rel=0.02)
    assert many.limits.dcl_ma == pytest.approx(before[1] * 0.3, rel=0.02)


def test_two_packs_lost_one_after_the_other() -> None:
    many = started()
    many.send(20, silent="b")
    assert many.currents == TWO
    many.send(9, silent="bc")
    assert many.currents == TWO
    many.send(silent="bc")
    assert many.currents == ONE
    many.send(5, silent="c")
    assert many.currents == ONE, "b is back; c's loss was from there"
    many.send(60)
    assert ONE < many.currents < THREE
    many.slow(20)
    assert many.currents == THREE


def test_two_packs_lost_at_once() -> None:
    many = started()
    many.send(10, silent="bc")
    assert many.currents == ONE
    many.send(5, silent="b")
    assert many.currents == ONE
    many.slow(10, silent="b")
    assert many.currents == TWO


def test_the_second_loss_is_measured_on_what_the_first_left() -> None:
    """Though the limit had been lower at the first: 2/3 of half, and 1/2 of that."""
    many = started()
    many.send(a=HALF)
    assert many.limits.ccl_ma == 3 * 75_757
    many.send(10, silent="b", a=HALF)
    assert many.limits.ccl_ma == 2 * 75_757
    many.slow(20, silent="b")
    assert many.limits.ccl_ma == 2 * 75_757
    many.send(10, silent="bc")
    assert many.limits.ccl_ma == 75_757


def test_a_pack_lost_while_nothing_was_allowed_leaves_nothing() -> None:
    many = started()
    many.send(a=NO_CHARGE)
    many.send(10, silent="b", a=NO_CHARGE)
    many.slow(20, silent="b")
    assert many.currents == (0, 606_060)
    assert many.limits.ccl_reason == "b is lost: no more than before, derated"
    many.send(2)
    assert many.limits.ccl_ma == 0
    many.send()
    assert many.limits.ccl_ma == 454_545 // 4, "as after a denial"
    many.slow(20)
    assert many.limits.ccl_ma == 454_545


def test_no_limit_is_above_what_it_was_at_the_loss_derated() -> None:
    """a tapers with b's last frame; it may have all again later, but then b is lost."""
    many = started()
    many.send(a=HALF | HALF_EMPTY)
    before = many.currents
    many.send(9, silent="b", a=HALF | HALF_EMPTY)
    for _ in range(12):
        many.slow(2, silent="b")
        assert many.limits.ccl_ma <= before[0] * 2 // 3
        assert many.limits.dcl_ma <= before[1] * 2 // 3


def test_what_the_others_take_away_meanwhile_they_may_give_back() -> None:
    many = started()
    many.send(20, silent="b")
    many.send(silent="b", a=HALF | HALF_EMPTY)
    assert many.currents == (151_514, 303_030)
    many.slow(20, silent="b")
    assert many.currents == TWO
    many.send(silent="b", c=NEITHER)
    assert many.currents == (0, 0), "one of them that denies stops the rest"
    many.slow(30, silent="b")
    assert many.currents == TWO


def test_a_pack_that_comes_back_frees_the_limits_with_its_third_permitting_frame() -> None:
    many = started()
    many.send(30, silent="b")
    for _ in range(2):
        many.send()
        assert many.currents == TWO
        assert many.limits.cvl_reason == "b comes back: no more than before, or float"
    many.send(30)
    assert many.currents == TWO
    assert many.limits.ccl_reason == "packs came or went: rises slowly; 0.5 C of 909 Ah"
    many.send()
    assert many.currents == (303_030 + 22_728, 606_060 + 45_455)
    many.slow(20)
    assert many.currents == THREE


def test_cvl_is_at_most_float_until_the_pack_that_was_lost_has_permitted() -> None:
    many = started()
    many.send(30, silent="b")
    assert many.limits.cvl_mv == 16 * 3_370
    many.send(2)
    assert many.limits.cvl_mv == 16 * 3_370
    many.send()
    assert many.limits.cvl_mv == 54_880
    assert many.limits.cvl_reason == "a: 16 cells x 3.43 V"


def test_a_pack_that_comes_back_denying_stops_all_at_once() -> None:
    many = started()
    many.send(30, silent="b")
    assert many.send(b=NO_CHARGE).ccl_ma == 0
    assert many.limits.ccl_reason == "b: the BMS does not allow charging"


def test_what_a_pack_denied_while_it_came_back_counts_when_it_goes_again() -> None:
    many = started()
    many.send(70, silent="b")
    assert many.currents == TWO
    many.send(b=NO_CHARGE)
    assert many.currents == (0, 606_060)
    many.send(20, silent="b")
    assert many.currents == (0, 606_060)
    assert many.limits.ccl_reason == "b is lost: no more than before, derated"


def test_what_it_denied_is_nothing_to_whoever_comes_back_alone() -> None:
    many = started("ab")
    many.quiet(20)
    many.take("b", **NO_DISCHARGE)
    many.quiet(12)
    assert many.currents == (0, 0)
    assert many.take("a").dcl_reason == "b is lost: no more than before, derated"
    assert many.currents == (0, 0)


def test_a_pack_back_soon_with_a_denial_frees_no_limit_with_one_frame() -> None:
    """Discharging was never denied to it, and charging is denied now: it waits for neither."""
    many = started()
    many.send(2, a=NO_DISCHARGE)
    many.send(5, silent="b", a=NO_DISCHARGE)
    many.send(20, silent="b")
    assert many.limits.dcl_ma == 0
    many.send(2, b=NO_CHARGE)
    assert many.limits.dcl_ma == 0
    assert many.limits.dcl_reason == "b comes back: no more than before, derated"
    assert many.send(b=NO_CHARGE).dcl_ma > 0


def test_a_pack_that_came_back_denying_and_then_permits_ramps_itself() -> None:
    many = started()
    many.send(30, silent="b")
    many.send(3, b=NEITHER)
    many.send(2)
    assert many.currents == (0, 0)
    many.send()
    assert many.currents == (3 * 37_878, 3 * 75_757)


def test_a_pack_that_flickers_between_lost_and_back_never_lifts_the_limits() -> None:
    many = started()
    for _ in range(6):
        many.send(12, silent="b")
        many.send(2)
        assert many.currents == TWO


def test_a_pack_that_is_only_silent_holds_what_was() -> None:
    """Three intervals; the others' limits may fall meanwhile, but not rise."""
    many = started()
    many.send(a=HALF)
    many.send(silent="b", a=HALF)
    assert many.limits.ccl_ma == 3 * 75_757
    mark = many.limits.ccl_ma
    many.bank.packs["a"]._memory = dataclasses.replace(  # its ramp is over just now
        many.bank.packs["a"]._memory,
        charge=dataclasses.replace(many.bank.packs["a"]._memory.charge, risen_s=29.0),
    )
    many.send(silent="b")
    many.send(silent="b")
    risen = many.limits.ccl_ma
    many.send(silent="b")
    assert many.limits.ccl_ma == mark
    assert risen > mark
    assert many.limits.ccl_reason == "b is silent: no more than before"
    many.send()
    assert many.limits.ccl_ma == risen


# Blocked


def test_blocked_is_as_if_all_were_lost() -> None:
    many = started(on_pack_lost="block")
    many.send(9, silent="b")
    assert (*many.currents, many.limits.lost) == (*THREE, False)
    limits = many.send(silent="b")
    assert many.currents == (0, 909_090 * 2 // 3)
    assert (limits.lost, limits.spent, limits.state) == (True, False, "float")
    assert limits.ccl_reason == "no frames from b: is the cable plugged in?"
    assert (limits.allow_charge, limits.allow_discharge) == (False, True)
    assert limits.cvl_mv == 53_120, "b's last voltage"
    many.send(49, silent="b")
    assert many.limits.dcl_ma > 0
    limits = many.send(silent="b")
    assert many.currents == (0, 0)
    assert limits.spent
    assert limits.dcl_reason == "no frames from b: is the cable plugged in?"


def test_blocked_near_empty_is_blocked_at_once() -> None:
    many = started(on_pack_lost="block")
    many.send(b={"lowest_mv": 3_000})
    many.send(9, silent="b")
    assert many.limits.dcl_ma > 0
    many.send(silent="b")
    assert many.currents == (0, 0)


def test_blocked_is_counted_from_the_first_that_was_lost() -> None:
    many = started(on_pack_lost="block")
    many.send(49, silent="b")
    many.send(10, silent="bc")
    assert many.limits.dcl_ma > 0
    many.send(silent="bc")
    assert many.currents == (0, 0)


def test_blocked_ends_with_the_third_permitting_frame() -> None:
    many = started(on_pack_lost="block")
    many.send(70, silent="b")
    many.send(2)
    assert many.currents == (0, 0)
    assert many.limits.lost
    many.send()
    assert many.currents == (454_545 // 4, 909_090 // 4)
    assert not many.limits.lost
    many.send(30)
    assert many.currents == (454_545 // 4 + 454_545 // 20 + 1, 909_090 // 4 + 909_090 // 20 + 1)


# All lost


def test_all_lost_is_as_one_pack_lost_counted_from_the_last() -> None:
    many = started("ab")
    many.send(5, silent="a")
    many.quiet(9)
    assert many.currents == ONE
    limits = many.quiet(1)
    assert many.currents == (0, 303_030)
    assert (limits.lost, limits.spent, limits.state) == (True, False, "float")
    assert (limits.allow_charge, limits.allow_discharge) == (False, True)
    assert limits.cvl_mv == 53_120
    assert limits.ccl_reason == "no frames from a, b: is the cable plugged in?"
    many.quiet(49)
    assert many.limits.dcl_ma == 303_030
    limits = many.quiet(1)
    assert many.currents == (0, 0)
    assert limits.spent
    assert not limits.allow_discharge
    assert limits.dcl_reason == "no frames from a, b: is the cable plugged in?"


@pytest.mark.parametrize("near", ["a", "b"])
def test_all_lost_near_empty_stops_discharging_with_the_last(near: str) -> None:
    many = started("ab")
    low: dict[str, Any] = {near: {"lowest_mv": 3_000}}
    many.send(**low)
    many.send(5, silent="a", **(low if near == "b" else {}))
    many.quiet(9)
    assert many.limits.dcl_ma > 0
    many.quiet(1)
    assert many.currents == (0, 0)


def test_all_lost_and_back_together() -> None:
    many = started()
    many.quiet(70)
    assert many.currents == (0, 0)
    for _ in range(2):
        many.send()
        assert many.currents == (0, 0)
    many.send()
    assert many.currents == (454_545 // 4, 909_090 // 4)
    many.slow(20)
    assert many.currents == THREE


def test_after_all_were_lost_the_first_back_works_alone() -> None:
    """No more than one pack had at the loss of the others."""
    many = started("ab")
    many.quiet(70)
    for _ in range(40):
        many.send(silent="b")
        assert many.currents <= ONE
    many.slow(20, silent="b")
    assert many.currents == ONE
    many.send(3)
    many.slow(20)
    assert many.currents == TWO


def test_the_first_back_has_no_more_than_there_was_when_all_were_lost() -> None:
    """c was nearly empty by its SoC: all may have three times what it could give."""
    many = started(discharge_soc_taper=((20.0, 0.1), (40.0, 1.0)))
    many.send(2, c={"soc_percent": 20, "stored_wh": 3_200})
    assert many.limits.dcl_ma == 90_909
    many.quiet(12)
    many.take("a")
    assert many.currents == (0, 90_909)


def test_a_silence_of_all_within_the_ride_through_takes_no_discharge() -> None:
    many = started()
    many.quiet(30)
    assert many.currents == (0, 909_090), "as for one pack"
    assert many.limits.allow_discharge
    many.send(3)
    many.slow(20)
    assert many.currents == THREE


def test_a_pack_that_came_back_and_went_again_leaves_no_more_than_it_could_give() -> None:
    """The bound of the loss before was higher: without a frame nothing rises to it."""
    many = started(discharge_soc_taper=((20.0, 0.1), (40.0, 1.0)))
    many.quiet(12)
    assert many.currents == (0, 909_090)
    many.take("a", soc_percent=20, stored_wh=3_200)
    assert many.currents == (0, 30_303)
    many.quiet(20)
    assert many.currents == (0, 30_303)
    assert many.limits.dcl_reason == "a: SoC 20 %: discharging tapers as configured"


# Other cells


def test_of_two_with_other_cells_the_one_with_less_energy_is_left_out() -> None:
    many = Many("ab")
    many.send(8, a=CELLS_8 | SMALL)
    assert many.members == "b"
    assert many.bank.odd(many.bank.packs["a"])
    assert not many.bank.odd(many.bank.packs["b"])
    assert many.limits.cvl_mv == 54_880
    assert many.currents == ONE


@pytest.mark.parametrize(
    ("of_a", "of_b", "members"),
    [
        (CELLS_8, {}, "b"),
        (CELLS_8 | {"capacity_wh": 16_100}, {}, "a"),
        (CELLS_8 | {"capacity_wh": 15_900}, {}, "b"),
    ],
)
def test_energy_counts_before_the_number_of_cells(
    of_a: dict[str, Any], of_b: dict[str, Any], members: str
) -> None:
    many = Many("ab")
    many.send(8, a=of_a, b=of_b)
    assert many.members == members


def test_of_three_the_two_that_agree_stay() -> None:
    many = Many()
    many.send(8, b=CELLS_8)
    assert many.members == "ac"
    assert many.currents == TWO
    assert many.limits.cvl_mv == 54_880
    many = Many()
    many.send(8, b=CELLS_8 | {"capacity_wh": 32_000})
    assert many.members == "ac", "of equal energy the more packs"


@pytest.mark.parametrize("cables", ["ab", "ba"])
@pytest.mark.parametrize("late", [1, 2])
def test_a_starter_battery_beside_the_house_battery_in_either_order(cables: str, late: int) -> None:
    """Whoever came first within the first seconds."""
    small, house = cables[0], cables[1]
    other: dict[str, Any] = {small: CELLS_4}
    many = Many(cables)
    many.send(late, silent=house, **other)
    many.send(8, **other)
    assert many.members == house
    assert many.currents == ONE
    assert many.limits.cvl_mv == 54_880
    many = Many(cables)
    many.send(late, silent=small)
    many.send(8, **other)
    assert many.members == house
    assert many.limits.cvl_mv == 54_880


@pytest.mark.parametrize(("first", "cvl"), [("a", 13_720), ("b", 54_880)])
def test_after_the_start_who_was_there_stays(first: str, cvl: int) -> None:
    """What is charged by CVL is not to change under way."""
    many = Many("ab")
    many.send(10, silent="b" if first == "a" else "a", a=CELLS_4)
    many.send(10, a=CELLS_4)
    assert many.members == first
    assert many.limits.cvl_mv == cvl


@pytest.mark.parametrize(("after", "members"), [(5.0 - MOMENT, "b"), (5.0, "a")])
def test_the_start_lasts_5_s(after: float, members: str) -> None:
    many = Many("ab")
    many.send(after=0.0, silent="b", a=CELLS_4)
    many.now += after
    many.send(3, after=0.0, a=CELLS_4)
    assert many.members == members


def test_a_pack_that_suddenly_counts_other_cells_is_left_out_and_bounds_the_rest() -> None:
    many = started()
    many.send(c=CELLS_8 | SMALL)
    assert many.members == "abc", "one frame alone may be damage"
    assert many.currents == THREE
    limits = many.send(c=CELLS_8 | SMALL)
    assert many.members == "ab"
    assert many.currents == TWO
    assert limits.cvl_mv == 54_880, "its cells are seen"
    many.send(c=CELLS_8 | SMALL, a=HALF)
    assert many.limits.ccl_ma == 2 * 75_757
    many.slow(20, c=CELLS_8 | SMALL)
    assert many.currents == TWO
    many.send(2)
    assert many.members == "abc"
    assert many.currents == TWO
    many.slow(20)
    assert many.currents == THREE


def test_what_bounds_is_named() -> None:
    many = started("abc", discharge_rate=5.0, max_discharge_current=300.0)
    many.send(2, c=CELLS_8 | SMALL)
    assert many.limits.dcl_ma == 200_000
    assert many.limits.dcl_reason == "c has other cells than 16: no more than before, derated"
    many.send(20, silent="c")
    assert many.limits.dcl_reason == "c has other cells than 16: no more than before, derated"
    many = started("abc", max_discharge_current=300.0)
    many.send(20, silent="c")
    assert many.limits.dcl_reason == "c is lost: no more than before, derated"
    many.send()
    assert many.limits.dcl_reason == "c comes back: no more than before, derated"


def test_an_odd_pack_stops_nobody_and_tells_nothing() -> None:
    many = Many()
    many.send(8, c=CELLS_8)
    many.send(c=CELLS_8 | NEITHER | {"hottest_cell": 8})
    assert many.currents == TWO
    many.send(20, silent="c")
    assert many.currents == TWO
    assert not many.limits.lost


def test_a_pack_that_was_one_of_them_still_stops_all_when_it_counts_other_cells() -> None:
    """In series its BMS opens the same relays, whatever it counts."""
    many = started()
    many.send(3, c=CELLS_8 | SMALL)
    assert many.currents == TWO
    limits = many.send(c=CELLS_8 | SMALL | NEITHER)
    assert many.currents == (0, 0)
    assert limits.ccl_reason == "c: the BMS does not allow charging"
    assert (limits.allow_charge, limits.allow_discharge) == (False, False)


def test_a_whole_bank_that_is_set_up_anew_goes_on_with_its_new_cells() -> None:
    many = started("ab")
    many.send(10, each=CELLS_8)
    assert many.members == "ab"
    assert many.limits.cvl_mv == 8 * 3_430
    many = started("a")
    many.send(10, each=CELLS_8)
    assert many.limits.cvl_mv == 8 * 3_430


# Names


def test_a_name_with_a_star_takes_a_pack_out_and_puts_it_back() -> None:
    many = started()
    many.call("b", "*Spare")
    assert many.members == "ac"
    assert many.currents == TWO
    many.send(5)
    assert many.currents == TWO
    assert many.limits.cvl_mv == 54_880
    many.send(b=NEITHER)
    many.send(20, silent="b")
    assert many.currents == TWO, "what it denies, and that it is gone, is nobody's business"
    many.send(4)
    many.slow(20)
    many.call("b", "Spare")
    assert many.members == "abc"
    assert many.currents == TWO
    many.slow(20)
    assert many.currents == THREE


def test_taking_a_pack_out_that_denies_lets_the_others_rise_slowly() -> None:
    many = started()
    many.send(b=NEITHER)
    many.call("b", "*b")
    assert many.currents == (303_030 // 4, 606_060 // 4)
    many.send(29, b=NEITHER)
    assert many.currents == (303_030 // 4, 606_060 // 4)
    many.send(b=NEITHER)
    assert many.currents == (303_030 // 4 + 303_030 // 20 + 1, 606_060 // 4 + 606_060 // 20 + 1)


def test_taking_all_but_one_pack_out_lets_it_rise_slowly_too() -> None:
    many = started("ab")
    many.send(b=NEITHER)
    many.call("b", "*b")
    assert many.currents == (151_515 // 4, 303_030 // 4)
    many.slow(20)
    assert many.currents == ONE
    assert many.limits.ccl_reason == "0.5 C of 303 Ah"


def test_with_one_pack_left_what_is_wished_holds_at_once() -> None:
    """It was the bank's while there were several, and no pack's."""
    many = started("ab")
    many.bank.wishes = Wishes(100.0, 50.0)
    many.send()
    many.call("b", "*b")
    assert many.currents == (100_000, 50_000)
    assert many.limits.ccl_reason == "maximum set on the GX 100 A"
    assert many.limits.dcl_reason == "maximum set on the GX 50 A"


def test_a_change_while_nothing_is_allowed_slows_no_pack_down() -> None:
    """a ramps by itself when it permits again."""
    many = started()
    many.send(a=NEITHER)
    many.call("c", "*c")
    many.send(2)
    assert many.currents == (0, 0)
    many.send()
    assert many.currents == (2 * 37_878, 2 * 75_757)


def test_what_rose_to_what_is_wished_for_has_risen() -> None:
    """303.030 A and 1/20 of 318.980 A are 318.980 A: then more may be wished for at once."""
    many = started("ab")
    many.bank.wishes = Wishes(318.980, None)
    many.cables = "abc"
    many.send(3)
    assert many.limits.ccl_ma == 303_030
    many.send(30)
    assert many.limits.ccl_ma == 318_980
    many.bank.wishes = NO_WISHES
    many.send()
    assert many.limits.ccl_ma == 454_545


def test_taking_a_lost_pack_out_ends_what_it_bounds() -> None:
    many = started()
    many.send(a=HALF | HALF_EMPTY)
    many.send(20, silent="b")
    many.slow(20, silent="b")
    assert many.currents == (151_514, 303_030)
    many.call("b", "*b")
    assert many.currents == (151_514, 303_030)
    many.slow(20, silent="b")
    assert many.currents == TWO


def test_with_all_packs_out_limits_stay_numbers_and_allow_no_current() -> None:
    many = started("ab")
    many.call("a", "*a")
    many.call("b", "*b")
    assert many.members == ""
    many.bank.tick(many.now)
    assert many.currents == (0, 0)
    assert many.limits.cvl_mv == 54_880
    assert many.limits.dcl_reason == "every pack is left out"
    assert (many.limits.allow_charge, many.limits.allow_discharge) == (False, False)
    many.call("a", "a")
    assert many.members == "a"


# The user's currents


def test_a_configured_current_is_the_banks() -> None:
    """100 A with three packs is 100 A, not 33 and not 300."""
    many = started(max_charge_current=100.0, max_discharge_current=120.0)
    assert many.currents == (100_000, 120_000)
    assert many.limits.ccl_reason == "configured maximum 100 A"
    many = started(max_charge_current=600.0)
    assert many.limits.ccl_ma == 600_000
    many.send(a=HALF)
    assert many.limits.ccl_ma == 300_000


def test_a_configured_current_is_divided_anew_when_a_pack_comes_goes_or_counts_other_cells() -> None:
    many = started(max_charge_current=600.0)
    many.call("c", "*c")
    many.slow(20)
    assert many.limits.ccl_ma == 600_000
    many.call("c", "c")
    many.send(3, c=CELLS_8)
    many.call("c", "*c")
    many.slow(20)
    assert many.limits.ccl_ma == 600_000
    many = Many(max_charge_current=600.0)
    many.send(8, c=CELLS_8 | SMALL)
    many.slow(20, c=CELLS_8 | SMALL)
    assert many.limits.ccl_ma == 600_000
    many = started("ab", max_charge_current=600.0)
    many.slow(20, b=CELLS_8 | SMALL)
    assert many.bank.packs["a"].settings.max_charge_current == 600.0


def test_a_wish_is_the_banks() -> None:
    many = started()
    many.bank.wishes = Wishes(100.0, 50.0)
    many.send()
    assert many.currents == (100_000, 50_000)
    assert many.limits.ccl_reason == "maximum set on the GX 100 A"
    many.bank.wishes = Wishes(1_000.0, None)
    many.send()
    assert many.currents == THREE


def test_a_wish_of_0_reaches_cvl() -> None:
    many = started()
    many.bank.wishes = Wishes(0.0, None)
    many.send()
    assert many.currents == (0, 909_090)
    assert many.limits.cvl_mv == 53_120
    assert many.limits.ccl_reason == "maximum set on the GX 0 A"


def test_a_configured_0_reaches_cvl() -> None:
    many = started(max_charge_current=0.0)
    assert many.limits.ccl_ma == 0
    assert many.limits.cvl_mv == 53_120
    assert many.limits.dcl_ma == 909_090


def test_a_mistake_in_the_configuration_leaves_a_tenth_of_a_c() -> None:
    careful = frozenset({"charge_rate"})
    many = started(charge_rate=0.1, careful=careful, max_charge_current=600.0)
    assert many.limits.ccl_ma == 90_909
    assert many.limits.ccl_reason == "0.1 C of 909 Ah: a mistake in the configuration"
    many = started(charge_rate=0.1, careful=careful, max_charge_current=60.0)
    assert many.limits.ccl_ma == 60_000


def test_what_may_be_wished_for_is_of_the_whole_bank() -> None:
    many = Many()
    assert [cap.amount for cap in many.bank.caps] == [0, 0]
    many.send()
    assert [cap.amount for cap in many.bank.caps] == list(ONE)
    many.send(3)
    assert [cap.amount for cap in many.bank.caps] == list(THREE)
    many.bank.wishes = Wishes(1.0, 1.0)
    many.send(20, silent="b")
    assert [cap.amount for cap in many.bank.caps] == list(THREE), (
        "lost, it is a part of the bank all the same"
    )


# Stages


def test_the_state_is_the_least_of_the_packs() -> None:
    many = started()
    packs = many.bank.packs
    for pack in packs.values():
        pack.restore(None, Stage(FLOAT, soc=50.0))
    assert many.send().state == FLOAT
    packs["b"].restore(None, Stage(ABSORPTION))
    assert many.send(b={"highest_mv": 3_400}).state == ABSORPTION
    packs["c"].restore(None, Stage())
    assert many.send(b={"highest_mv": 3_400}).state == BULK
    many.send(10, silent="c", b={"highest_mv": 3_400})
    assert many.limits.state == ABSORPTION, "of those that are there"


def test_the_voltage_comes_down_to_float_only_when_all_packs_float() -> None:
    many = started("ab")
    many.bank.packs["a"].restore(None, Stage(FLOAT, soc=50.0))
    many.slow(40)
    assert many.limits.cvl_mv == 54_880
    many.bank.packs["b"].restore(None, Stage(FLOAT, soc=50.0))
    many.slow(1)
    assert many.limits.cvl_mv == 16 * 3_420
    many.slow(50)
    assert many.limits.cvl_mv == 16 * 3_370


def test_a_lost_pack_keeps_nobody_from_float() -> None:
    many = started("ab")
    many.bank.packs["a"].restore(None, Stage(FLOAT, soc=50.0))
    many.send(20, silent="b")
    many.slow(60, silent="b")
    limits = many.bank.packs["a"].limits
    assert limits is not None
    assert limits.cvl_mv == 16 * 3_370


# What is wrong


def test_settings_that_make_no_sense_are_told_of_each_pack() -> None:
    many = started("ab")
    assert many.limits.wrong is None
    many.send(3, b={"vmin_mv": 0}, a={"vmin_mv": 5})
    assert many.limits.wrong == "a: Vmin 0.005 V is no cell's voltage; b: Vmin 0.000 V is no cell's voltage"


def test_packs_without_a_capacity_setting_break_nothing() -> None:
    none = {"capacity_wh": 0}
    many = Many()
    many.send(8, b=none, c=none)
    assert many.currents == (0, 0)
    many.send(5, b=none | {"current_ma": 20_000}, c=none | {"current_ma": 20_000}, a={"current_ma": 20_000})
    many.send(20, silent="a", b=none, c=none)
    many.send(20, silent="ab", b=none, c=none)
    many.quiet(20)
    assert many.currents == (0, 0)
    many = Many(max_charge_current=100.0)
    many.send(8, each=none)
    assert many.limits.ccl_ma == 100_000


# Time


def test_a_ramp_stands_still_in_silence() -> None:
    """While all are silent, and while one is: three intervals may be noise."""
    many = started("ab")
    many.cables = "abc"
    many.send(3 + 9)
    many.quiet(8)
    many.send(1 + 20)  # 29 s: the frame after the gap is no time
    assert many.currents == TWO
    many.send()
    assert many.currents > TWO
    many = started("ab")
    many.cables = "abc"
    many.send(3 + 9)
    many.send(8, silent="a")
    many.send(17)  # 29 s
    assert many.currents == TWO
    many.send()
    assert many.currents > TWO


def test_two_frames_read_at_once_are_no_time_to_rise_in() -> None:
    many = started("ab")
    many.cables = "abc"
    many.send(12)
    many.send(100, after=0.0)
    assert many.currents == TWO


def test_a_clock_that_goes_back_raises_nothing() -> None:
    many = started("ab")
    many.cables = "abc"
    many.send(40)
    before = many.currents
    many.send(30, after=-1.0)
    assert many.currents == before


def test_of_a_longer_gap_one_and_a_half_intervals_count() -> None:
    many = started("ab")
    many.cables = "abc"
    many.send(3)
    many.send(19, after=2.0)  # 28.5 s
    many.send()
    many.send(after=0.5 - MOMENT)
    assert many.currents == TWO
    many.send(after=MOMENT)
    assert many.currents > TWO


def test_the_intervals_of_the_slowest_count() -> None:
    """One pack sends twice a second, as far as is known."""
    many = started("ab")
    many.cables = "abc"
    many.send(3)
    many.bank.packs["a"].readings.interval_s = 0.5
    many.send(19, after=2.0)
    assert many.currents == TWO
    many.send(after=2.0)
    assert many.currents > TWO


def test_a_clock_that_goes_back_takes_no_time_from_a_ramp() -> None:
    many = started("ab")
    many.cables = "abc"
    many.send(3 + 9)
    many.send(after=-1.0)
    many.send(20)
    assert many.currents == TWO
    many.send()
    assert many.currents > TWO


def test_a_step_without_news_changes_nothing() -> None:
    many = started()
    before = many.bank._memory
    many.bank.tick(many.now)
    assert many.bank._memory == before


def test_what_has_no_members_has_no_memory_of_limits() -> None:
    memory = parallel.step(Settings(), parallel.NOTHING, {}, 5.0)
    assert memory.limits is None
    assert not memory.members


def test_the_frame_of_these_tests_is_what_the_numbers_were_worked_out_for() -> None:
    pack = PackState()
    pack.take(frame(), 1.0)
    assert pack.frame is not None
    assert (pack.frame.capacity_wh, pack.frame.cells, pack.interval_s) == (16_000, 16, 1.0)
