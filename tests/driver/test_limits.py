"""Limits of one pack: numbers worked out by hand, and every edge from both sides.

The pack is ``rig.FRAME``: 16 LFP cells, 16 kWh: 303.030 Ah at 3.3 V, 0.5 C is 151.515 A, 0.02 C is
6.060 A.  Vmin 2.9, Vbalance 3.4, Vmax 3.7 V; with 30 mV margin CVL is 16 x 3.43 = 54.88 V.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dbus_smartbms import limits, mirror, ratings
from dbus_smartbms.limits import Company, Limits
from dbus_smartbms.pack import Pack
from dbus_smartbms.rules import Wishes
from dbus_smartbms.settings import Settings
from dbus_smartbms.stages import Stage
from rig import PAIRS, frame
from smartbms_protocol import Frame, PackState
from smartbms_protocol.layout import (
    CHARGE_ALLOWED,
    DISCHARGE_ALLOWED,
    NO_COMMUNICATION,
    OVER_TMAX,
    OVER_VMAX,
    TOO_COLD_TO_CHARGE,
    TOO_COLD_TO_DISCHARGE,
    UNDER_TMIN,
    UNDER_VMIN,
)

BOTH = CHARGE_ALLOWED | DISCHARGE_ALLOWED
FULL_CCL, FULL_DCL = 151_515, 303_030
NOT_CHARGING = "the BMS does not allow charging"
NOT_DISCHARGING = "the BMS does not allow discharging"
NO_FRAMES = "no frames from the BMS: is the cable plugged in?"
HELD_VOLTAGE = "no charging: held at the pack's voltage"
MOMENT = 2.0**-11
"""Half a millisecond, exact as a float: so close under a time nothing may have happened yet."""


class Sender:
    """A pack that sends a frame a second, or is silent."""

    def __init__(self, begin: float = 1000.0, **configured: Any) -> None:
        self.known = Pack(Settings(**configured))
        self.now = begin
        self.turn = 0

    def send(self, frames: int = 1, after: float = 1.0, **changes: Any) -> Limits:
        """Frames; the limits after the last.  The default ones are at rest, where nothing tapers."""
        for _ in range(frames):
            self.now += after
            self.known.take(frame(self.turn, **({"current_ma": 0} | changes)), self.now)
            self.turn += 1
        return self.limits

    def slow(self, frames: int = 1, seconds: float = 30.0, **changes: Any) -> Limits:
        """Frames so far apart, as if the BMS sent them so: all of that time counts, in few frames."""
        interval_s, self.known.readings.interval_s = self.known.readings.interval_s, seconds
        self.send(frames, after=seconds, **changes)
        self.known.readings.interval_s = interval_s
        return self.limits

    def silent(self, seconds: float) -> Limits:
        """Ticks without frames."""
        end = self.now + seconds
        while self.now + 1 <= end:
            self.now += 1
            self.known.tick(self.now)
        self.now = end
        self.known.tick(self.now)
        return self.limits

    @property
    def limits(self) -> Limits:
        assert self.known.limits is not None
        return self.known.limits

    @property
    def currents(self) -> tuple[int, int]:
        return self.limits.ccl_ma, self.limits.dcl_ma


def rules(configured: dict[str, Any] | None = None, turn: int = 0, **changes: Any) -> Limits:
    """What stands with the third permitting frame: the rules' limit, no ramp."""
    pack = Sender(**(configured or {}))
    pack.turn = turn
    return pack.send(3, **changes)


def knowing_pairs(**configured: Any) -> Sender:
    """A pack whose whole round of rotating values was seen: Vlow 3.0 V, Vnom 3.3 V."""
    pack = Sender(**configured)
    pack.send(19)
    return pack


# The beginning


def test_there_are_no_limits_before_the_first_frame() -> None:
    pack = Pack(Settings())
    pack.tick(5.0)
    assert pack.limits is None
    assert ratings.capacity_mah(Settings(), PackState()) == 0


def test_the_first_frame_gives_numbers_each_with_its_reason() -> None:
    waits = "waits for 3 frames in a row that permit it (1 so far)"
    assert Sender().send() == Limits(53_120, 0, 0, HELD_VOLTAGE, waits, waits, False, False, "bulk")


def test_the_second_frame_still_waits() -> None:
    result = Sender().send(2)
    assert (result.ccl_ma, result.dcl_ma) == (0, 0)
    assert result.ccl_reason == result.dcl_reason == "waits for 3 frames in a row that permit it (2 so far)"


def test_the_third_permitting_frame_gives_the_rules_limit_without_a_ramp() -> None:
    assert Sender().send(3) == Limits(
        54_880,
        FULL_CCL,
        FULL_DCL,
        "16 cells x 3.43 V",
        "0.5 C of 303 Ah",
        "1 C of 303 Ah",
        True,
        True,
        "bulk",
    )


def test_each_direction_waits_for_its_own_three_frames() -> None:
    pack = Sender()
    pack.send(status=CHARGE_ALLOWED)
    pack.send(2)
    assert pack.currents == (FULL_CCL, 0)
    pack.send()
    assert pack.currents == (FULL_CCL, FULL_DCL // 4)


def test_a_pack_that_begins_denied_begins_by_a_ramp() -> None:
    pack = Sender()
    pack.send(status=0)
    assert pack.send(2).ccl_ma == 0
    assert pack.send().ccl_ma == FULL_CCL // 4


def test_silence_at_the_start_does_not_count_as_permission() -> None:
    pack = Sender()
    pack.send(2)
    assert pack.silent(5).ccl_ma == 0


def test_a_pack_lost_before_its_third_frame_comes_back_by_a_ramp() -> None:
    pack = Sender()
    assert pack.send().cvl_mv == 53_120
    assert pack.silent(11).cvl_mv == 53_120
    assert pack.send(3).ccl_ma == FULL_CCL // 4


@pytest.mark.parametrize("begin", [-5000.0, 0.0, 3.0, 1e9])
def test_what_the_clock_says_at_the_start_changes_nothing(begin: float) -> None:
    pack = Sender(begin)
    pack.turn = 2
    # Vnom 3.2 V makes the same Wh more Ah: 312.5, and 0.5 C of that is 156.25 A
    assert pack.send(3).ccl_ma == FULL_CCL
    assert pack.send(28, value=128).ccl_ma == FULL_CCL
    assert pack.send(2, value=128).ccl_ma == FULL_CCL + 156_250 // 20 - 3_077


# Denial


VH, VL = "cell 3 at {} V: Vmax 3.70 V (Vh)", "cell 7 at {} V: Vmin 2.90 V (Vl)"
TH, TL = (
    "too hot (Th); the hottest cell is now at {} degC",
    "too cold (Tl); the coldest cell is now at {} degC",
)
UNDER = "too cold: the coldest cell is at {} degC, under [pack] {}"
OVER = "too hot: the hottest cell is at 46.0 degC, over [pack] tmax"
E = "the BMS does not hear its cells (E)"
UNHEARD = {"lowest_mv": 0, "lowest_cell": 0, "highest_mv": 0, "highest_cell": 0, "cell": 0, "cell_mv": 0}

DENIED: list[tuple[str, dict[str, Any], dict[str, Any], str | None, str | None]] = [
    ("charge bit", {}, {"status": DISCHARGE_ALLOWED}, NOT_CHARGING, None),
    ("discharge bit", {}, {"status": CHARGE_ALLOWED}, None, NOT_DISCHARGING),
    ("both bits", {}, {"status": 0}, NOT_CHARGING, NOT_DISCHARGING),
    ("a cell at Vmax", {}, {"highest_mv": 3700}, VH.format("3.700"), None),
    ("a cell over Vmax", {}, {"highest_mv": 3705}, VH.format("3.705"), None),
    ("a cell at Vmin", {}, {"lowest_mv": 2900}, None, VL.format("2.900")),
    ("a cell at 0 V", {}, {"lowest_mv": 0}, None, VL.format("0.000")),
    ("Vh", {}, {"status": BOTH | OVER_VMAX}, VH.format("3.330"), None),
    ("Vl", {}, {"status": BOTH | UNDER_VMIN}, None, VL.format("3.310")),
    ("Th", {}, {"status": BOTH | OVER_TMAX}, TH.format(23), TH.format(23)),
    ("Tl", {}, {"status": BOTH | UNDER_TMIN}, TL.format(20), TL.format(20)),
    ("E", {}, {"status": BOTH | NO_COMMUNICATION}, E, E),
    ("E, and nothing measured", {}, {"status": BOTH | NO_COMMUNICATION, **UNHEARD}, E, E),
    ("tmin_charge", {"tmin_charge": 5.0}, {"coldest_raw": 280}, UNDER.format("4.0", "tmin_charge"), None),
    (
        "tmin_discharge",
        {"tmin_discharge": -10.0},
        {"coldest_raw": 265},
        None,
        UNDER.format("-11.0", "tmin_discharge"),
    ),
    ("tmax", {"tmax": 45.0}, {"hottest_raw": 322}, OVER, OVER),
]


@pytest.mark.parametrize(
    ("configured", "changes", "ccl", "dcl"), [row[1:] for row in DENIED], ids=[row[0] for row in DENIED]
)
def test_what_denies_gives_0_in_the_same_frame_and_says_why(
    configured: dict[str, Any], changes: dict[str, Any], ccl: str | None, dcl: str | None
) -> None:
    pack = Sender(**configured)
    pack.send(3)
    before = pack.limits
    result = pack.send(**changes)
    assert (result.ccl_ma, result.ccl_reason) == ((0, ccl) if ccl else (before.ccl_ma, before.ccl_reason))
    assert (result.dcl_ma == 0, result.allow_discharge) == ((True, False) if dcl else (False, True))
    assert result.dcl_reason == dcl or dcl is None
    assert (result.ccl_ma > 0, result.dcl_ma > 0) == (result.allow_charge, result.allow_discharge)


@pytest.mark.parametrize(
    ("status2", "ccl", "dcl"),
    [
        (0, FULL_CCL, FULL_DCL),
        (TOO_COLD_TO_CHARGE, 0, FULL_DCL),
        (TOO_COLD_TO_DISCHARGE, FULL_CCL, 0),
        (TOO_COLD_TO_CHARGE | TOO_COLD_TO_DISCHARGE, 0, 0),
    ],
)
def test_status_byte_2_names_the_direction_that_is_too_cold(status2: int, ccl: int, dcl: int) -> None:
    pack = Sender()
    pack.send(3)
    pack.turn = 16
    pack.send(value=status2)
    assert pack.currents == (ccl, dcl)


def test_charging_goes_on_just_under_vmax_and_discharging_just_over_vmin() -> None:
    result = rules(highest_mv=3695, lowest_mv=2915)
    assert (result.ccl_ma, result.dcl_ma) == (2_525, 6_060)  # 1/60 of 151.515 A; 0.02 C


def test_permission_takes_three_frames_in_a_row_and_begins_with_a_quarter() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    assert pack.send().ccl_reason == "waits for 3 frames in a row that permit it (1 so far)"
    assert pack.send().ccl_ma == 0
    result = pack.send()
    assert (result.ccl_ma, result.dcl_ma) == (37_878, 75_757)
    assert result.ccl_reason == "rises slowly again to 152 A"
    assert (result.allow_charge, result.allow_discharge) == (True, True)


def test_a_denial_between_starts_the_count_again() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    pack.send(2)
    pack.send(status=0)
    assert pack.send(2).ccl_ma == 0
    assert pack.send().ccl_ma > 0


def test_a_bms_that_flickers_between_yes_and_no_never_gets_more_than_0() -> None:
    pack = Sender()
    pack.send(3)
    for period in (2, 3):
        for second in range(40):
            pack.send(status=0 if second % period == 0 else BOTH)
            assert pack.currents == (0, 0)


def test_the_ramp_rises_in_steps_and_is_done_within_ten_minutes() -> None:
    """Every 30 s by what 10 minutes make of the whole: 5 %, and 1 mA so that it ends."""
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    seen = [pack.send(3).ccl_ma]
    for _ in range(15):
        assert pack.limits.ccl_reason == "rises slowly again to 152 A"
        seen.append(pack.slow().ccl_ma)
    assert seen[:3] == [37_878, 37_878 + 7_829, 37_878 + 7_829 + 7_576], "31 s for the first"
    assert seen[-2:] == [37_878 + 7_829 + 13 * 7_576, FULL_CCL]
    assert pack.limits.ccl_reason == "0.5 C of 303 Ah"


@pytest.mark.parametrize(("after", "frames"), [(1.0, 30), (0.5, 60)])
def test_a_step_of_the_ramp_takes_30_s_at_any_interval(after: float, frames: int) -> None:
    pack = Sender()
    pack.send(6, after=after)
    pack.send(status=0, after=after)
    pack.send(3, after=after)
    for more in (frames - 1, frames):  # the third frame's own time counts
        before = pack.limits.ccl_ma
        assert pack.send(more - 1, after=after).ccl_ma == before
        assert pack.send(after=after).ccl_ma == before + 7_576


def test_a_ramp_stands_still_in_silence_and_does_not_catch_up() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    before = pack.send(27).ccl_ma
    assert pack.silent(8).ccl_ma == before
    assert pack.send(3).ccl_ma == before, "1.5 intervals count, not 9 s"
    assert pack.send(2).ccl_ma > before


def test_two_frames_read_at_once_are_no_time_to_rise_in() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    before = pack.send(3).ccl_ma
    assert pack.send(after=0).ccl_ma == before


def falling() -> Sender:
    """A pack whose CCL fell to 50 A just now; it rises again, by 5 A, after 30 s of frames."""
    pack = Sender(max_charge_current=100.0)
    pack.send(5, highest_mv=3_550)
    assert pack.send(2).ccl_ma == 50_000
    return pack


def test_a_limit_rises_after_30_s_and_not_a_moment_sooner() -> None:
    pack = falling()
    pack.send(highest_mv=3_550)
    assert pack.send(29).ccl_ma == 50_000
    assert pack.send(after=1 - MOMENT).ccl_ma == 50_000
    assert pack.send(after=MOMENT).ccl_ma == 55_001
    assert pack.send(29).ccl_ma == 55_001
    assert pack.send(after=1 - MOMENT).ccl_ma == 55_001
    assert pack.send(after=MOMENT).ccl_ma == 60_002


def test_only_time_between_whole_frames_makes_a_limit_rise() -> None:
    """Not frames read at once, nor one that is held back, nor a clock that goes back."""
    pack = falling()
    pack.send(highest_mv=3_550)
    pack.send(28)
    pack.send(after=-5.0)
    pack.send(after=0.5, vmax_mv=3_650)
    pack.send(after=0.5)
    assert pack.send(3, after=0.0).ccl_ma == 50_000
    assert pack.send(after=1 - MOMENT).ccl_ma == 50_000
    assert pack.send(after=MOMENT).ccl_ma == 55_001


def test_of_a_longer_gap_one_and_a_half_intervals_count() -> None:
    pack = falling()
    pack.send(highest_mv=3_550)
    pack.send(19, after=3.0)
    assert pack.send(after=1.25).ccl_ma == 50_000, "29.75 s"
    assert pack.send(after=0.25).ccl_ma == 55_001
    pack.send(19, after=3.0)
    assert pack.send(after=3.0).ccl_ma == 60_002, "30 s"


def test_a_clock_that_goes_back_raises_nothing() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    before = pack.send(3)
    after = pack.send(after=-100)
    assert (after.ccl_ma, after.dcl_ma, after.lost) == (before.ccl_ma, before.dcl_ma, False)


# A frame that is held back


def test_a_deny_bit_in_a_held_back_frame_counts_at_once() -> None:
    pack = Sender()
    pack.send(3)
    result = pack.send(vmax_mv=3650, status=DISCHARGE_ALLOWED)
    assert (result.ccl_ma, result.ccl_reason, result.dcl_ma) == (0, NOT_CHARGING, FULL_DCL)
    result = pack.send(vmax_mv=3600, status=0)
    assert (result.ccl_ma, result.dcl_ma, result.dcl_reason) == (0, 0, NOT_DISCHARGING)


def test_nothing_else_of_a_held_back_frame_counts() -> None:
    pack = Sender()
    before = pack.send(3)
    held = pack.send(vmax_mv=3300, vbalance_mv=3200, vmin_mv=3320, capacity_wh=99_000, highest_mv=3440)
    assert held == before


@pytest.mark.parametrize(
    ("critical", "no_charge", "no_discharge"),
    [
        ({"highest_mv": 3700}, True, False),
        ({"lowest_mv": 2900}, False, True),
        ({"status": BOTH | NO_COMMUNICATION}, True, True),
        ({"status": BOTH | OVER_TMAX}, True, True),
    ],
)
def test_a_critical_reason_in_a_held_back_frame_denies_in_that_frame(
    critical: dict[str, Any], no_charge: bool, no_discharge: bool
) -> None:
    pack = Sender()
    before = pack.send(3)
    held = pack.send(capacity_wh=15_000, **critical)
    assert (held.ccl_ma == 0, held.dcl_ma == 0) == (no_charge, no_discharge)
    assert held.ccl_ma in (0, before.ccl_ma)
    assert held.dcl_ma in (0, before.dcl_ma)


def test_a_denial_opens_no_short_cut_past_the_ramp() -> None:
    """At 3.69 V little is let through; after a denial it begins there, not at a quarter of the rule."""
    pack = Sender()
    pack.send(3)
    low = pack.send(3, highest_mv=3690).ccl_ma
    assert pack.send(highest_mv=3700).ccl_ma == 0
    again = pack.send(3, highest_mv=3330)
    assert 0 < again.ccl_ma <= low


def test_held_back_frames_let_no_ramp_rise() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    before = pack.send(4, current_ma=-20_000)
    for vmax_mv in (3650, 3600, 3650):
        held = pack.send(vmax_mv=vmax_mv, current_ma=-20_000)
        assert (held.ccl_ma, held.dcl_ma, held.cvl_mv) == (before.ccl_ma, before.dcl_ma, before.cvl_mv)


def test_a_ramp_of_discharging_stands_still_when_the_link_is_lost() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=0)
    before = pack.send(4).dcl_ma
    assert pack.silent(30).dcl_ma == before


def test_held_back_frames_permit_nothing() -> None:
    pack = Sender()
    pack.send(2)
    assert pack.send(vmax_mv=3650).ccl_ma == 0
    assert pack.send(vmax_mv=3600).ccl_ma == 0


def test_a_denial_that_was_held_back_needs_three_whole_frames() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(vmax_mv=3650, status=0)
    assert pack.send(vmax_mv=3600).ccl_ma == 0
    assert pack.send(2).ccl_ma == 0
    assert pack.send().ccl_ma == FULL_CCL // 4


def test_a_link_that_brings_only_held_back_frames_is_lost() -> None:
    pack = Sender()
    pack.send(3)
    for second in range(1, 61):
        pack.send(vmax_mv=3650 if second % 2 else 3600)
        assert pack.limits.lost == (second >= 10)
    assert pack.currents == (0, 0)


def test_new_settings_count_from_the_frame_that_repeats_them() -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(vbalance_mv=3350).cvl_mv == 54_880
    assert pack.send(vbalance_mv=3350).cvl_mv == 16 * 3380


# Caps


@pytest.mark.parametrize(
    ("configured", "ccl", "reason"),
    [
        ({}, 151_515, "0.5 C of 303 Ah"),
        ({"charge_rate": 0.25}, 75_757, "0.25 C of 303 Ah"),
        ({"charge_rate": 0.0}, 0, "0 C of 303 Ah"),
        ({"max_charge_current": 80.5}, 80_500, "configured maximum 80.5 A"),
        ({"max_charge_current": 2.3}, 2_300, "configured maximum 2.3 A"),
        ({"max_charge_current": 500.0}, 500_000, "configured maximum 500 A"),
        ({"max_charge_current": 0.0}, 0, "configured maximum 0 A"),
    ],
)
def test_ccl_is_the_cap_in_ampere_or_by_rate(configured: dict[str, Any], ccl: int, reason: str) -> None:
    result = rules(configured)
    assert (result.ccl_ma, result.ccl_reason) == (ccl, reason)


@pytest.mark.parametrize(
    ("configured", "dcl", "reason"),
    [
        ({}, 303_030, "1 C of 303 Ah"),
        ({"discharge_rate": 0.5}, 151_515, "0.5 C of 303 Ah"),
        ({"max_discharge_current": 120.0}, 120_000, "configured maximum 120 A"),
    ],
)
def test_dcl_is_the_cap_in_ampere_or_by_rate(configured: dict[str, Any], dcl: int, reason: str) -> None:
    result = rules(configured)
    assert (result.dcl_ma, result.dcl_reason) == (dcl, reason)


CAREFUL: dict[str, Any] = {"charge_rate": 0.1, "careful": frozenset({"charge_rate"})}


@pytest.mark.parametrize(
    ("configured", "ccl", "reason"),
    [
        (CAREFUL, 30_303, "0.1 C of 303 Ah: a mistake in the configuration"),
        (CAREFUL | {"max_charge_current": 80.0}, 30_303, "0.1 C of 303 Ah: a mistake in the configuration"),
        (CAREFUL | {"max_charge_current": 20.0}, 20_000, "configured maximum 20 A"),
    ],
)
def test_a_careful_rate_caps_beside_a_cap_in_ampere(
    configured: dict[str, Any], ccl: int, reason: str
) -> None:
    result = rules(configured)
    assert (result.ccl_ma, result.ccl_reason, result.dcl_ma) == (ccl, reason, FULL_DCL)


def test_a_careful_discharge_rate_leaves_charging_alone() -> None:
    result = rules({"discharge_rate": 0.1, "careful": frozenset({"discharge_rate"})})
    assert (result.ccl_ma, result.dcl_ma) == (FULL_CCL, 30_303)


def test_a_capacity_of_0_gives_no_current_by_rate_and_says_so() -> None:
    result = rules(capacity_wh=0)
    assert (result.ccl_ma, result.dcl_ma) == (0, 0)
    assert result.ccl_reason == result.dcl_reason == "the capacity setting of the BMS is 0"
    assert (result.cvl_mv, result.cvl_reason) == (53_120, HELD_VOLTAGE), "no charging goes by CVL too"


def test_a_capacity_of_0_leaves_a_configured_current() -> None:
    result = rules({"max_charge_current": 50.0, "max_discharge_current": 60.0}, capacity_wh=0)
    assert (result.ccl_ma, result.dcl_ma) == (50_000, 60_000)


def test_a_capacity_of_0_and_a_mistake_in_the_configuration_give_nothing() -> None:
    assert rules(CAREFUL | {"max_charge_current": 50.0}, capacity_wh=0).ccl_ma == 0


# Tapers


@pytest.mark.parametrize(
    ("highest_mv", "ccl"),
    [
        (3395, 100_000),
        (3400, 100_000),
        (3405, 98_333),
        (3550, 50_000),
        (3690, 3_333),
        (3695, 1_666),
        (3700, 0),
        (3705, 0),
    ],
)
def test_charging_tapers_from_vbalance_to_vmax(highest_mv: int, ccl: int) -> None:
    assert rules({"max_charge_current": 100.0}, highest_mv=highest_mv).ccl_ma == ccl


def test_the_taper_of_charging_says_which_cell_binds() -> None:
    result = rules(highest_mv=3550)
    assert result.ccl_reason == "cell 3 at 3.550 V: charging tapers from 3.40 V"


@pytest.mark.parametrize(
    ("cap_a", "highest_mv", "ccl"),
    [(20.0, 3680, 1_333), (20.0, 3685, 1_000), (20.0, 3695, 1_000), (0.5, 3695, 500)],
)
def test_charging_never_tapers_under_what_a_bleed_resistor_takes(
    cap_a: float, highest_mv: int, ccl: int
) -> None:
    assert rules({"max_charge_current": cap_a}, highest_mv=highest_mv).ccl_ma == ccl


@pytest.mark.parametrize(
    ("lowest_mv", "dcl"),
    [(3005, 100_000), (3000, 100_000), (2995, 95_000), (2950, 50_000), (2915, 6_060), (2900, 0), (2895, 0)],
)
@pytest.mark.parametrize("turn", [0, 2], ids=["Vlow not known", "Vlow 3.0 V"])
def test_discharging_tapers_to_a_foot_at_vmin(turn: int, lowest_mv: int, dcl: int) -> None:
    assert rules({"max_discharge_current": 100.0}, turn, lowest_mv=lowest_mv).dcl_ma == dcl


def with_vlow(vlow_mv: int, **changes: Any) -> Limits:
    pack = Sender(max_discharge_current=100.0)
    high, low = divmod(vlow_mv // 5, 256)
    pack.turn = 2
    pack.send(value=high, **changes)
    pack.send(value=low, **changes)
    return pack.send(**changes)


@pytest.mark.parametrize(
    ("vlow_mv", "lowest_mv", "dcl"),
    [
        (3100, 3105, 100_000), (3100, 3100, 100_000), (3100, 3050, 75_000), (3100, 3000, 50_000),
        (2920, 2940, 30_302), (2920, 3050, 100_000),
        (2900, 2950, 50_000), (2000, 2950, 50_000), (0, 2950, 50_000),
    ],
)  # fmt: skip
def test_discharging_tapers_from_vlow_unless_that_is_not_over_vmin(
    vlow_mv: int, lowest_mv: int, dcl: int
) -> None:
    assert with_vlow(vlow_mv, lowest_mv=lowest_mv).dcl_ma == dcl


def test_the_taper_of_discharging_says_which_cell_binds() -> None:
    assert with_vlow(3100, lowest_mv=3000).dcl_reason == "cell 7 at 3.000 V: discharging tapers from 3.10 V"


def test_a_limit_that_fell_waits_before_it_rises_and_then_rises_slowly() -> None:
    pack = Sender(max_charge_current=100.0)
    pack.send(3)
    assert pack.send(highest_mv=3550).ccl_ma == 50_000
    assert pack.send(14).ccl_ma == 50_000
    assert pack.limits.ccl_reason == "rises slowly again to 100 A"
    assert pack.send(15).ccl_ma == 50_000
    assert pack.send().ccl_ma == 50_000 + 5_000 + 1


def test_noise_in_the_taper_keeps_to_its_lowest_and_moves_nothing() -> None:
    pack = Sender(max_charge_current=100.0)
    pack.send(5, highest_mv=3530)
    low = pack.send(highest_mv=3570).ccl_ma
    assert low == 43_333
    for second in range(120):
        assert pack.send(highest_mv=3570 if second % 10 == 5 else 3530).ccl_ma == low
    pack.send(25, highest_mv=3530)
    assert pack.limits.ccl_ma == low
    assert pack.send(highest_mv=3530).ccl_ma == low + 5_000 + 1


def test_a_limit_at_rest_stays_when_the_rule_stays() -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(30).ccl_ma == FULL_CCL


CAPS: dict[str, Any] = {"max_charge_current": 100.0, "max_discharge_current": 100.0}
WARMTH = [
    # configured, coldest, hottest in degC, CCL, DCL
    ({}, -30, 80, 100_000, 100_000),
    ({"tmin_charge": 5.0}, 9, 20, 100_000, 100_000),
    ({"tmin_charge": 5.0}, 8, 20, 75_000, 100_000),
    ({"tmin_charge": 5.0}, 6, 20, 25_000, 100_000),
    ({"tmin_charge": 5.0}, 5, 20, 1_000, 100_000),
    ({"tmin_charge": 5.0}, 4, 20, 0, 100_000),
    ({"tmin_discharge": -10.0}, -6, 20, 100_000, 100_000),
    ({"tmin_discharge": -10.0}, -8, 20, 100_000, 50_000),
    ({"tmin_discharge": -10.0}, -10, 20, 100_000, 6_060),
    ({"tmin_discharge": -10.0}, -11, 20, 100_000, 0),
    ({"tmax": 45.0}, 20, 41, 100_000, 100_000),
    ({"tmax": 45.0}, 20, 42, 75_000, 75_000),
    ({"tmax": 45.0}, 20, 45, 1_000, 6_060),
    ({"tmax": 45.0}, 20, 46, 0, 0),
    ({"tmin_charge": 5.0, "tmax": 45.0}, 7, 44, 25_000, 25_000),
    ({"tmin_charge": 5.0, "tmax": 45.0}, 6, 43, 25_000, 50_000),
]


@pytest.mark.parametrize(("configured", "coldest", "hottest", "ccl", "dcl"), WARMTH)
def test_currents_taper_towards_configured_temperatures(
    configured: dict[str, Any], coldest: int, hottest: int, ccl: int, dcl: int
) -> None:
    result = rules(CAPS | configured, coldest_raw=276 + coldest, hottest_raw=276 + hottest)
    assert (result.ccl_ma, result.dcl_ma) == (ccl, dcl)


def test_the_taper_by_temperature_names_its_cell() -> None:
    cold = rules(CAPS | {"tmin_charge": 5.0}, coldest_raw=276 + 6)
    assert cold.ccl_reason == "cell 1 at 6 degC: charging tapers"
    hot = rules(CAPS | {"tmax": 45.0}, hottest_raw=276 + 43)
    assert hot.dcl_reason == "cell 16 at 43 degC: discharging tapers"
    assert hot.ccl_reason == "cell 16 at 43 degC: charging tapers"


def test_the_temperatures_taper_as_they_are_converted() -> None:
    """Raw 322: 46 degC by the document, 44 by the vendor's programs."""
    assert rules(CAPS | {"tmax": 47.0}, hottest_raw=322).ccl_ma == 25_000
    assert rules(CAPS | {"tmax": 47.0, "temperature": "vendor"}, hottest_raw=322).ccl_ma > 70_000


def test_the_board_of_a_cell_that_may_bleed_tapers_nothing() -> None:
    hot = {"hottest_raw": 276 + 43, "highest_mv": 3405, "hottest_cell": 3}
    assert rules(CAPS | {"tmax": 45.0}, **hot).dcl_ma == 100_000
    assert rules(CAPS | {"tmax": 45.0}, **(hot | {"highest_mv": 3395})).dcl_ma == 50_000


# Sag


def test_a_load_that_makes_a_cell_dip_does_not_make_the_pack_empty() -> None:
    """2.95 V under 60 A of 303 Ah are 2.97 V at rest: the taper goes by that."""
    pack = Sender(max_discharge_current=100.0)
    pack.send(3, lowest_mv=2_990)
    rest = pack.send(lowest_mv=2_950).dcl_ma
    loaded = Sender(max_discharge_current=100.0)
    loaded.send(3, lowest_mv=2_990, current_ma=-60_000)
    assert loaded.send(lowest_mv=2_950, current_ma=-60_000).dcl_ma == rest + 19_800


def test_no_more_is_let_through_than_makes_the_lowest_cell_sag_to_vmin() -> None:
    """At 2.95 V and 0 A: 20 mV over the guard, 0.33 mV sag for each A."""
    result = rules(lowest_mv=2_950)
    assert result.dcl_ma == 60_605
    assert result.dcl_reason == "cell 7 at 2.950 V: more would let it sag to Vmin"


def test_an_empty_pack_is_stopped_before_the_bms_has_to() -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(2, lowest_mv=2_905).dcl_ma > 0
    result = pack.send(lowest_mv=2_905)
    assert (result.dcl_ma, result.dcl_reason) == (0, "empty: cell 7 at 2.905 V, Vmin 2.90 V")
    assert result.allow_discharge, "the BMS and the mirror do"
    assert pack.send(120, lowest_mv=3_010).dcl_ma == 0
    assert 0 < pack.send(31, lowest_mv=3_010).dcl_ma < 50_000, "and comes back slowly"


# CVL


def test_cvl_is_cells_times_vbalance_and_margin() -> None:
    assert rules({"charge_margin_mv": 0.0}).cvl_mv == 16 * 3400
    assert rules({"charge_margin_mv": 27.5}).cvl_mv == 16 * 3428
    assert rules(vbalance_mv=3650, vmax_mv=3660).cvl_mv == 16 * 3640, "20 mV under Vmax at most"


@pytest.mark.parametrize(
    ("vmax_mv", "target_mv"), [(3700, 3680), (20, 0), (0, 0)], ids=["ordinary", "under the margin", "0"]
)
def test_where_balancing_is_off_vbalance_is_vmax_less_the_margin(vmax_mv: int, target_mv: int) -> None:
    frame_ = frame(vbalance_mv=0, vmax_mv=vmax_mv)
    assert ratings.balance_mv(Settings(), frame_) == max(0, vmax_mv - 30)
    if vmax_mv == 3700:
        assert rules(vbalance_mv=0).cvl_mv == 16 * target_mv
        assert rules({"max_charge_current": 100.0}, vbalance_mv=0, highest_mv=3685).ccl_ma == 50_000


def test_a_highest_cell_just_at_its_target_draws_nothing_down() -> None:
    assert rules(highest_mv=3430, voltage_mv=53_500).cvl_mv == 54_880


def test_cvl_never_goes_under_cells_times_vnom() -> None:
    pack = knowing_pairs()
    assert pack.send(20, highest_mv=3695, voltage_mv=53_000, current_ma=50_000).cvl_mv == 16 * 3_300
    assert pack.send(60, highest_mv=3695, voltage_mv=50_000, current_ma=50_000).cvl_mv == 16 * 3_300
    assert pack.send(highest_mv=3705, voltage_mv=50_000).cvl_mv == 16 * 3_300


def test_whatever_makes_ccl_0_holds_cvl_at_the_present_voltage() -> None:
    for changes in (
        {"status": DISCHARGE_ALLOWED},
        {"status": BOTH | OVER_TMAX},
        {"status": BOTH | UNDER_TMIN},
    ):
        pack = Sender()
        pack.send(3)
        result = pack.send(**changes)
        assert (result.cvl_mv, result.cvl_reason) == (53_120, HELD_VOLTAGE)
    assert rules({"max_charge_current": 0.0}).cvl_mv == 53_120
    assert rules({"charge_rate": 0.0}).cvl_mv == 53_120


def test_a_pack_over_cvl_does_not_lift_it_when_charging_is_denied() -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(status=DISCHARGE_ALLOWED, voltage_mv=56_000).cvl_mv == 54_880


def test_the_floor_is_vnom_else_vlow_else_vmin() -> None:
    denied = {"status": DISCHARGE_ALLOWED, "voltage_mv": 20_000, "lowest_mv": 2_905}
    pack = Sender()
    assert pack.send(**denied).cvl_mv == 16 * 2_900
    pack.turn = 2
    assert pack.send(2, **denied).cvl_mv == 16 * 3_000
    assert pack.send(2, **denied).cvl_mv == 16 * 3_300


@pytest.mark.parametrize(
    ("highest_mv", "reason"),
    [
        (3_480, "cell 3 at 3.480 V: held under 3.43 V"),
        (3_410, "cell 3 at 3.410 V: held under 3.43 V"),
        (3_409, "rises slowly again to 16 cells x 3.43 V"),
    ],
)
def test_cvl_says_why_it_is_low(highest_mv: int, reason: str) -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(highest_mv=3_480, voltage_mv=54_000, current_ma=9_000).cvl_mv == 54_000 - 480
    result = pack.send(highest_mv=highest_mv, voltage_mv=54_000)
    assert (result.cvl_mv, result.cvl_reason) == (54_000 - 480, reason)


@pytest.mark.parametrize(
    ("capacity_wh", "current_ma", "flows"),
    [(16_000, 3_030, False), (16_000, 3_031, True), (2_640, 1_000, False), (2_640, 1_001, True)],
    ids=["1 % of 303 Ah", "more", "1 A where that is more", "more"],
)
def test_what_counts_as_a_current_that_flows(capacity_wh: int, current_ma: int, flows: bool) -> None:
    pack = Sender()
    pack.send(3, capacity_wh=capacity_wh)
    denied = {"capacity_wh": capacity_wh, "current_ma": current_ma, "status": DISCHARGE_ALLOWED}
    assert pack.send(**denied).cvl_mv == 53_120
    assert pack.send(6, **denied).cvl_mv == (53_120 - 160 if flows else 53_120)


def test_while_charging_stays_denied_cvl_does_not_follow_the_pack_down() -> None:
    pack = Sender()
    pack.send(3)
    denied = {"status": DISCHARGE_ALLOWED, "current_ma": -20_000}
    assert pack.send(voltage_mv=53_200, **denied).cvl_mv == 53_200
    assert pack.send(9, voltage_mv=53_000, **denied).cvl_mv == 53_200


# Settings that make no sense


@pytest.mark.parametrize("vnom_mv", [0, 5, 1_495, 2_895])
def test_a_nominal_voltage_that_no_cell_has_does_not_lift_the_limits(vnom_mv: int) -> None:
    pack = Sender()
    pack.turn = 4
    high, low = divmod(vnom_mv // 5, 256)
    pack.send(value=high)
    pack.send(value=low)
    pack.send(30)
    assert pack.currents == (FULL_CCL, FULL_DCL)


def test_a_nominal_voltage_of_at_least_vmin_counts() -> None:
    pack = Sender()
    pack.turn = 4
    pack.send(value=2900 // 5 // 256)
    pack.send(value=2900 // 5 % 256)
    assert pack.send().ccl_ma == 172_413  # 16 kWh / (16 x 2.9 V) x 0.5 C
    pack = Sender()
    pack.turn = 4
    pack.send(value=1500 // 5 // 256, vmin_mv=0)
    pack.send(value=1500 // 5 % 256, vmin_mv=0)
    assert pack.send(vmin_mv=0).ccl_ma == 333_333


@pytest.mark.parametrize("vnom_mv", [3_400, 51_200, 327_675])
def test_a_nominal_voltage_over_vbalance_does_not_take_every_way_down_from_cvl(vnom_mv: int) -> None:
    pack = Sender()
    pack.turn = 2  # Vlow 3.0 V first
    pack.send(2)
    high, low = divmod(vnom_mv // 5, 256)
    pack.send(value=high)
    pack.send(value=low)
    pack.send(2)
    assert pack.send(3, highest_mv=3480, voltage_mv=54_000, current_ma=9_000).cvl_mv == 54_000 - 480
    assert pack.send(9, highest_mv=3695, voltage_mv=40_000, current_ma=9_000).cvl_mv == 48_000, "16 x Vlow"


def test_a_vlow_over_vbalance_is_no_floor() -> None:
    pack = Sender()
    pack.turn = 2
    pack.send(2, value=255)
    pack.send(status=DISCHARGE_ALLOWED, voltage_mv=40_000)
    assert pack.limits.cvl_mv == 16 * 2_900


def test_a_floor_over_cells_times_vmax_does_not_lift_cvl_over_it() -> None:
    pack = Sender()
    odd = {"vmin_mv": 3_600, "vmax_mv": 3_000, "status": DISCHARGE_ALLOWED, "current_ma": 50_000}
    for _ in range(10):
        assert pack.send(**odd).cvl_mv == 16 * 2_980


@pytest.mark.parametrize(
    "odd",
    [
        {"vmax_mv": 3_300, "vbalance_mv": 3_400},
        {"vmin_mv": 3_100, "lowest_mv": 3_310},
        {"vmin_mv": 3_500},
        {"vmin_mv": 0}, {"vmax_mv": 0}, {"vbalance_mv": 0}, {"vmin_mv": 0, "vmax_mv": 0, "vbalance_mv": 0},
        {"vmin_mv": 327_675, "vmax_mv": 327_675, "vbalance_mv": 327_675},
        {"voltage_mv": 0}, {"voltage_mv": 83_886_075}, {"capacity_wh": 6_553_500},
        {"cells": 2, "lowest_cell": 1, "highest_cell": 2, "hottest_cell": 2},
        {"cells": 255},
    ],
    ids=str,
)  # fmt: skip
def test_settings_without_sense_never_give_more_than_the_caps(odd: dict[str, Any]) -> None:
    configured: dict[str, Any] = {"max_charge_current": 50.0, "max_discharge_current": 60.0}
    pack = Sender(**configured)
    for changes in ({}, {"status": 0}, {"highest_mv": 3_500}, {"lowest_mv": 2_950}, {"current_ma": None}):
        result = pack.send(4, **(odd | changes))
        vmax_mv = odd.get("vmax_mv", 3_700)
        assert 0 <= result.ccl_ma <= 50_000
        assert 0 <= result.dcl_ma <= 60_000
        assert 0 <= result.cvl_mv <= odd.get("cells", 16) * vmax_mv


def test_with_vmax_under_vbalance_vmax_counts() -> None:
    result = rules({"max_charge_current": 100.0}, vmax_mv=3_350, highest_mv=3_335)
    assert (result.cvl_mv, result.ccl_ma) == (16 * 3_330, 50_000), "30 mV of taper, from 3.32 V"
    assert rules({"max_charge_current": 100.0}, vmax_mv=3_350, highest_mv=3_350).ccl_ma == 0


# Silence


def test_for_less_than_hold_s_nothing_changes() -> None:
    pack = Sender()
    before = pack.send(3)
    assert pack.silent(9.99) == before


def test_a_lost_link_stops_charging_and_holds_cvl_at_the_last_voltage() -> None:
    pack = Sender()
    pack.send(3)
    result = pack.silent(10)
    assert result == Limits(
        53_120, 0, FULL_DCL, "no frames from the BMS: held at the last voltage or float", NO_FRAMES,
        "1 C of 303 Ah", False, True, "float", lost=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("voltage_mv", "cvl"),
    [(54_800, 16 * 3_370), (53_925, 16 * 3_370), (53_915, 53_915), (53_120, 53_120), (50_000, 16 * 3_300)],
    ids=["over float", "just over float", "just under", "under", "under Vnom"],
)
def test_at_loss_cvl_is_float_or_the_last_voltage_but_not_under_vnom(voltage_mv: int, cvl: int) -> None:
    pack = knowing_pairs()
    pack.send(voltage_mv=voltage_mv)
    assert pack.silent(10).cvl_mv == cvl
    assert pack.silent(60).cvl_mv == cvl


def test_at_loss_cvl_does_not_rise_to_float() -> None:
    pack = knowing_pairs()
    before = pack.send(highest_mv=3480, voltage_mv=53_300, current_ma=9_000).cvl_mv
    assert before == 53_300 - 480
    pack.send(highest_mv=3425, voltage_mv=54_500)
    assert pack.silent(10).cvl_mv == before


def test_other_chemistries_float_100_mv_under_vbalance() -> None:
    nmc = {"vmin_mv": 3_490, "vbalance_mv": 4_000, "vmax_mv": 4_150, "lowest_mv": 3_950, "highest_mv": 3_990}
    pack = Sender()
    pack.send(3, voltage_mv=64_000, **nmc)
    assert pack.silent(10).cvl_mv == 16 * 3_900


@pytest.mark.parametrize(
    ("turn", "lowest_mv", "seconds"),
    [(10, 3_000, 10), (10, 3_001, 60), (2, 3_100, 10), (2, 3_101, 60), (10, 0, 10)],
    ids=["100 mV over Vmin", "over that", "100 mV over Vlow", "over that", "a cell at 0 V"],
)
def test_discharging_rides_through_a_silence_unless_nearly_empty(
    turn: int, lowest_mv: int, seconds: int
) -> None:
    pack = Sender()
    pack.turn = turn
    pack.send(3, lowest_mv=lowest_mv)
    before = pack.limits.dcl_ma
    result = pack.silent(seconds - 0.01)
    assert (result.dcl_ma, result.spent) == (before, False)
    result = pack.silent(0.01)
    assert (result.dcl_ma, result.dcl_reason, result.spent) == (0, NO_FRAMES, True)
    assert not result.allow_discharge


def test_vlow_under_vmin_does_not_shorten_what_counts_as_nearly_empty() -> None:
    pack = Sender()
    pack.turn = 2
    pack.send(2, value=1)
    pack.send(lowest_mv=3_000)
    assert pack.silent(10).spent


def test_hold_and_ride_through_are_configurable() -> None:
    pack = Sender(hold_s=3.0, ride_through_s=5.0)
    pack.send(3)
    assert not pack.silent(2.99).lost
    assert (pack.silent(0.01).lost, pack.limits.spent) == (True, False)
    assert not pack.silent(1.99).spent
    assert pack.silent(0.01).spent


def test_a_ride_through_shorter_than_hold_does_not_stop_discharging_first() -> None:
    pack = Sender(hold_s=10.0, ride_through_s=3.0)
    pack.send(3)
    assert (pack.silent(9.99).dcl_ma, pack.limits.spent) == (FULL_DCL, False)
    assert pack.silent(0.01).dcl_ma == 0


def test_in_no_second_of_a_long_silence_does_any_limit_rise() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=DISCHARGE_ALLOWED)
    pack.send(20, current_ma=-20_000)
    before = pack.limits
    for _ in range(150):
        after = pack.silent(1)
        assert (after.cvl_mv, after.ccl_ma, after.dcl_ma) <= (before.cvl_mv, before.ccl_ma, before.dcl_ma)
        assert after.cvl_mv <= before.cvl_mv
        assert after.ccl_ma <= before.ccl_ma
        assert after.dcl_ma <= before.dcl_ma
        before = after


def test_the_first_good_frames_heal_a_lost_link() -> None:
    pack = Sender()
    pack.send(3)
    pack.silent(15)
    first = pack.send()
    assert (first.lost, first.ccl_ma, first.dcl_ma) == (False, 0, FULL_DCL)
    assert first.ccl_reason == "waits for 3 frames in a row that permit it (1 so far)"
    assert first.state == "bulk"
    pack.send(2)
    assert pack.currents == (FULL_CCL // 4, FULL_DCL)
    assert pack.limits.cvl_mv == 54_880, "where it was: no cell asked for less"
    assert pack.slow(15).ccl_ma == FULL_CCL


def test_after_the_ride_through_discharging_comes_back_by_a_ramp_too() -> None:
    pack = Sender()
    pack.send(3)
    pack.silent(70)
    assert pack.currents == (0, 0)
    assert (pack.send(2).dcl_ma, pack.limits.spent) == (0, False)
    assert pack.send().dcl_ma == FULL_DCL // 4


def test_a_denial_in_force_when_the_link_is_lost_stays() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(status=CHARGE_ALLOWED)
    assert pack.silent(20).dcl_ma == 0


# State, chemistry


def test_absorption_begins_at_vbalance_and_ends_50_mv_under_it() -> None:
    pack = Sender()
    assert pack.send(3, highest_mv=3_395).state == "bulk"
    assert pack.send(highest_mv=3_400).state == "absorption"
    assert pack.send(highest_mv=3_350).state == "absorption"
    assert pack.send(59, highest_mv=3_345).state == "absorption"
    assert pack.send(highest_mv=3_345).state == "bulk"
    assert pack.send(highest_mv=3_350).state == "bulk"


@pytest.mark.parametrize(
    ("configured", "vbalance_mv", "vnom_mv", "expected"),
    [
        ("auto", 2_600, None, "LTO"), ("auto", 2_995, None, "LTO"),
        ("auto", 3_000, None, "LFP"), ("auto", 3_400, 3_300, "LFP"), ("auto", 3_795, None, "LFP"),
        ("auto", 3_800, None, "NMC"), ("auto", 4_000, 3_700, "NMC"), ("auto", 4_000, 3_650, "NMC"),
        ("auto", 4_000, 3_645, "NCA"), ("auto", 4_000, 0, "NMC"), ("auto", 0, None, "LFP"),
        ("NCA", 3_400, 3_300, "NCA"), ("LTO", 3_400, None, "LTO"),
    ],
)  # fmt: skip
def test_the_chemistry_is_told_from_vbalance_and_vnom(
    configured: str, vbalance_mv: int, vnom_mv: int | None, expected: str
) -> None:
    settings = Settings(chemistry=configured)
    assert ratings.chemistry(settings, frame(vbalance_mv=vbalance_mv), vnom_mv) == expected


@pytest.mark.parametrize(
    ("chemistry", "mah"), [("LFP", 303_030), ("LTO", 416_666), ("NMC", 270_270), ("NCA", 277_777)]
)
def test_until_vnom_is_known_the_capacity_is_by_the_advised_voltage(chemistry: str, mah: int) -> None:
    pack = Sender(chemistry=chemistry)
    pack.send()
    assert ratings.capacity_mah(pack.known.settings, pack.known.readings) == mah


# The step itself


def test_a_step_without_news_gives_the_same_answer_and_memory() -> None:
    pack = PackState()
    memory = limits.Memory()
    settings = Settings()
    relays = mirror.Relays()
    for now in (1.0, 2.0, 3.0):
        pack.take(frame(int(now)), now)
        memory, _ = limits.step(settings, memory, pack, relays, now)
    again, same = limits.step(settings, memory, pack, relays, 7.0)
    assert again is memory
    assert same is memory.limits


def test_the_mirror_denies_in_its_own_words() -> None:
    pack = PackState()
    pack.take(frame(), 1.0)
    relays = mirror.Relays(mirror.Relay(False, None, "too much"), mirror.Relay(False, None, "too little"))
    _, result = limits.step(Settings(), limits.Memory(), pack, relays, 1.0)
    assert result is not None
    assert (result.ccl_reason, result.dcl_reason) == ("too much", "too little")


def test_the_frame_of_these_tests_is_what_the_numbers_were_worked_out_for() -> None:
    one: Frame = frame()
    assert (one.cells, one.capacity_wh, one.vmin_mv, one.vbalance_mv, one.vmax_mv) == (
        16, 16_000, 2_900, 3_400, 3_700,
    )  # fmt: skip
    assert (PAIRS[2] * 256 + PAIRS[3]) * 5 == 3_000
    assert (PAIRS[4] * 256 + PAIRS[5]) * 5 == 3_300
    assert dataclasses.replace(one).status == BOTH


# Noise, and CVL where CCL is 0


def test_noise_of_20_mv_moves_no_taper() -> None:
    pack = Sender()
    pack.send(3, highest_mv=3500)
    settled = pack.currents
    for highest_mv in (3485, 3495, 3480, 3500, 3490) * 20:
        pack.send(highest_mv=highest_mv)
        assert pack.currents == settled


@pytest.mark.parametrize(("highest_mv", "follows"), [(3_480, False), (3_479, True)])
def test_a_taper_stays_for_a_highest_cell_that_comes_back_by_20_mv(highest_mv: int, follows: bool) -> None:
    pack = Sender()
    settled = pack.send(5, highest_mv=3_500).ccl_ma
    assert (pack.slow(2, highest_mv=highest_mv).ccl_ma > settled) is follows


@pytest.mark.parametrize(("lowest_mv", "follows"), [(2_970, False), (2_971, True)])
def test_a_taper_stays_for_a_lowest_cell_that_comes_back_by_20_mv(lowest_mv: int, follows: bool) -> None:
    pack = Sender()
    settled = pack.send(5, lowest_mv=2_950).dcl_ma
    assert (pack.slow(2, lowest_mv=lowest_mv).dcl_ma > settled) is follows


def test_the_taper_follows_a_cell_that_comes_back_by_more() -> None:
    pack = Sender()
    held = pack.send(3, highest_mv=3500).ccl_ma
    assert pack.send(30, highest_mv=3475).ccl_ma > held
    low = Sender()
    low.send(3)
    held = low.send(1, lowest_mv=2950).dcl_ma
    assert low.send(30, lowest_mv=2970).dcl_ma == held
    assert low.send(30, lowest_mv=2975).dcl_ma > held


def test_a_cell_over_vmax_draws_cvl_down_no_less_than_one_under_it() -> None:
    under, over = Sender(), Sender()
    for pack, highest_mv in ((under, 3690), (over, 3700)):
        pack.send(3)
        pack.send(voltage_mv=54500, highest_mv=highest_mv, current_ma=20000)
    assert over.limits.ccl_ma == 0
    assert over.limits.cvl_mv <= under.limits.cvl_mv < 54_500


@pytest.mark.parametrize("current_ma", [None, 0, 500, 3000])
def test_cvl_comes_down_for_a_cell_that_goes_on_rising_at_ccl_0(current_ma: int | None) -> None:
    pack = Sender()
    pack.send(3)
    first = pack.send(voltage_mv=54500, highest_mv=3700, current_ma=current_ma).cvl_mv
    assert pack.send(voltage_mv=54500, highest_mv=3745, current_ma=current_ma).cvl_mv < first


def test_no_cell_measured_is_no_permission() -> None:
    """The BMS measures from 1.5 V on: a highest cell under it is none."""
    pack = Sender()
    pack.send(3)
    assert pack.send(highest_mv=1495, lowest_mv=0).ccl_ma == 0
    assert "does not hear its cells" in pack.limits.ccl_reason


# Stages, as they show in CVL

FULL = {"lowest_mv": 3_410, "highest_mv": 3_420, "voltage_mv": 54_640, "current_ma": 5_000}


def test_a_full_pack_goes_to_float_in_steps_and_back_in_quicker_ones() -> None:
    pack = Sender(hold_s=30.0)
    pack.send(3, **FULL)
    assert pack.slow(15, 900.0, **FULL).state == "absorption", "3:45 h"
    assert pack.slow(14, 60.0, **FULL).state == "absorption"
    assert pack.limits.cvl_mv == 54_880
    assert pack.slow(1, 60.0, **FULL).state == "float"
    rest = {"lowest_mv": 3_365, "highest_mv": 3_375, "voltage_mv": 53_900}
    assert pack.limits.cvl_mv == 16 * 3_420, "the first step at once"
    assert pack.limits.cvl_reason == "float: 16 cells x 3.42 V"
    assert pack.slow(4, 60.0, **rest).cvl_mv == 16 * 3_420
    assert pack.slow(1, 60.0, **rest).cvl_mv == 16 * 3_410, "10 mV a cell after 5 minutes"
    assert pack.slow(4, 300.0, **rest).cvl_mv == 16 * 3_370
    assert pack.slow(9, 900.0, **rest).cvl_mv == 16 * 3_370
    assert pack.limits.ccl_ma == FULL_CCL
    pack.known.charge_to_full(on=True)
    assert pack.send(**rest).state == "bulk"
    assert pack.limits.cvl_mv == 16 * 3_380, "the first step at once"
    assert pack.limits.cvl_reason == "bulk: 16 cells x 3.38 V"
    assert pack.slow(3, 15.0, **rest).cvl_mv == 16 * 3_380
    assert pack.slow(1, 15.0, **rest).cvl_mv == 16 * 3_390, "10 mV a cell after a minute"
    assert pack.slow(4, 60.0, **rest).cvl_mv == 54_880


def test_a_step_towards_float_takes_5_minutes_and_one_back_a_minute() -> None:
    pack = Sender()
    pack.known.restore(None, Stage("float", soc=50.0))
    assert pack.send(3).cvl_mv == 16 * 3_370
    pack.known.charge_to_full(on=True)
    pack.slow(1, 57.0)  # 59 s since the first
    for step in (1, 2):
        assert pack.slow(1, 1 - MOMENT).cvl_mv == 16 * 3_370 + 160 * (step - 1)
        assert pack.slow(1, MOMENT).cvl_mv == 16 * 3_370 + 160 * step
        pack.slow(1, 59.0)
    pack.known.restore(None, Stage("float", soc=50.0))
    top = pack.limits.cvl_mv
    assert pack.slow(1, 241.0 - MOMENT).cvl_mv == top
    for step in (1, 2):
        assert pack.slow(1, MOMENT).cvl_mv == top - 160 * step
        assert pack.slow(1, 300.0 - MOMENT).cvl_mv == top - 160 * step


def test_a_driver_that_begins_in_float_is_at_the_float_voltage_at_once() -> None:
    pack = Sender()
    pack.known.restore(None, Stage("float", soc=50.0))
    assert pack.send(3).cvl_mv == 16 * 3_370
    assert pack.limits.state == "float"


def test_the_end_of_a_charge_by_the_bms_is_no_fault() -> None:
    pack = Sender(mode="normal", generation="A")
    pack.send(3, lowest_mv=3_400, highest_mv=3_420, voltage_mv=54_500)
    ended = {"lowest_mv": 3_400, "highest_mv": 3_420, "voltage_mv": 54_500, "status": DISCHARGE_ALLOWED}
    result = pack.send(**ended)
    assert (result.state, result.ccl_ma, result.ccl_reason) == ("absorption", 0, NOT_CHARGING)
    assert result.cvl_mv == 54_500
    result = pack.send(19, **ended)
    assert (result.state, result.ccl_ma) == ("float", 0)
    assert result.ccl_reason == "full: the BMS has ended the charge"
    later = {"lowest_mv": 3_350, "highest_mv": 3_360, "voltage_mv": 53_600}
    assert pack.send(60, status=DISCHARGE_ALLOWED, **later).state == "float"
    assert set(pack.known.alarms.levels.values()) == {0}
    result = pack.send(**later)
    assert result.state == "bulk"
    assert result.ccl_reason == "waits for 3 frames in a row that permit it (1 so far)"


def test_with_no_margin_a_pack_is_full_10_mv_under_vbalance() -> None:
    for highest_mv, grows in ((3_390, False), (3_391, True)):
        pack = Sender(charge_margin_mv=0.0)
        pack.send(4, lowest_mv=highest_mv, highest_mv=3_400)
        assert (pack.known.stage.full_s > 0) is grows
    for lowest_mv, grows in ((3_400, False), (3_401, True)):
        pack = Sender()
        pack.send(4, lowest_mv=lowest_mv, highest_mv=3_420)
        assert (pack.known.stage.full_s > 0) is grows


def test_a_critical_end_of_charging_is_not_full() -> None:
    pack = Sender()
    pack.send(3, lowest_mv=3_400, highest_mv=3_420)
    result = pack.send(lowest_mv=3_400, highest_mv=3_700, status=DISCHARGE_ALLOWED)
    assert (result.state, result.ccl_reason) == ("absorption", VH.format("3.700"))


def test_a_lost_link_is_float_to_whoever_reads_it_and_changes_no_stage() -> None:
    pack = Sender()
    pack.send(3, **FULL)
    assert pack.silent(15).state == "float"
    assert pack.known.stage.name == "absorption"
    assert pack.send(**FULL).state == "absorption"


def test_charging_to_full_by_itself_is_after_so_many_days() -> None:
    pack = Sender(charge_to_full_days=1.0)
    pack.send()
    pack.slow(1, 86_400 - 1.0)
    assert pack.known.stage.asked_s is None
    pack.send()
    assert pack.known.stage.asked_s == 0.0


# Wishes


def test_a_wish_lowers_a_limit_and_says_so() -> None:
    pack = knowing_pairs()
    pack.known.wishes = Wishes(40.5, 30.0)
    result = pack.send()
    assert (result.ccl_ma, result.ccl_reason) == (40_500, "maximum set on the GX 40.5 A")
    assert (result.dcl_ma, result.dcl_reason) == (30_000, "maximum set on the GX 30 A")
    pack.known.wishes = Wishes(500.0, 0.0)
    pack.send()
    assert pack.currents == (40_500, 0), "what was lifted rises slowly"
    assert pack.slow(1).ccl_ma > 40_500
    assert pack.slow(15).ccl_ma == FULL_CCL, "and no further than without a wish"


def test_charging_to_full_ignores_the_charge_taper_by_soc() -> None:
    pack = Sender(charge_soc_taper=((40.0, 0.1), (60.0, 0.0)))
    pack.send(3)
    assert (pack.limits.ccl_ma, pack.limits.cvl_mv) == (15_151, 54_880), "the frame says 50 %"
    assert pack.limits.ccl_reason == "SoC 50 %: charging tapers as configured"
    pack.known.charge_to_full(on=True)
    assert pack.slow(19).ccl_ma == FULL_CCL


@pytest.mark.parametrize(
    ("stored_wh", "dcl", "reason"),
    [(0, 0, "SoC 0 %: discharging tapers as configured"), (32, 303_030, "1 C of 303 Ah")],
)
def test_the_taper_by_soc_of_an_empty_pack(stored_wh: int, dcl: int, reason: str) -> None:
    result = rules({"discharge_soc_taper": ((0.0, 0.0), (0.2, 1.0))}, soc_percent=0, stored_wh=stored_wh)
    assert (result.dcl_ma, result.dcl_reason) == (dcl, reason)


# CVL after a time without charging


@pytest.mark.parametrize("highest_mv", [3_436, 3_445, 3_460])
def test_at_the_start_a_cell_over_its_target_is_not_waited_for(highest_mv: int) -> None:
    pack = Sender()
    rising = {"highest_mv": highest_mv, "voltage_mv": 54_000, "current_ma": 50_000}
    assert pack.send(2, **rising).cvl_mv <= 54_000
    assert pack.send(**rising).cvl_mv < 54_000
    assert pack.limits.ccl_ma > 0


def test_cells_that_were_not_heard_for_a_moment_take_nothing_from_cvl() -> None:
    pack = Sender()
    pack.send(5)
    pack.send(2, status=BOTH | NO_COMMUNICATION, **UNHEARD)
    assert pack.send(2).cvl_mv == 53_120
    assert pack.send().cvl_mv == 54_880


def test_a_silence_in_which_a_cell_rose_takes_nothing_from_cvl() -> None:
    pack = Sender()
    pack.send(5)
    pack.silent(3600)
    assert pack.send(2, highest_mv=3_410, voltage_mv=54_200).cvl_mv == 53_120
    assert pack.send(highest_mv=3_410, voltage_mv=54_200).cvl_mv == 54_880


def test_a_load_that_ends_takes_nothing_from_cvl() -> None:
    pack = Sender()
    pack.send(5, highest_mv=3_355, voltage_mv=53_600, current_ma=-130_000)
    assert pack.send(5, highest_mv=3_405, voltage_mv=54_300, current_ma=20_000).cvl_mv == 54_880


@pytest.mark.parametrize(
    ("changes", "eases"),
    [
        ({"highest_mv": 3_430}, True),
        ({"highest_mv": 3_431}, False),
        ({"status": DISCHARGE_ALLOWED, "voltage_mv": 54_200}, False),
    ],
    ids=["a cell at its target", "over it", "charging denied, the pack over CVL"],
)
def test_from_float_it_does_not_come_up_over_a_cell_nor_while_charging_is_denied(
    changes: dict[str, Any], eases: bool
) -> None:
    pack = Sender()
    pack.known.restore(None, Stage("float", soc=50.0))
    pack.send(3)
    pack.send(2, **changes)
    pack.known.charge_to_full(on=True)
    assert pack.slow(3, **changes).cvl_mv == 16 * (3_380 if eases else 3_370)


def test_after_a_denial_cvl_is_where_it_was() -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(60, status=DISCHARGE_ALLOWED, current_ma=-20_000).cvl_mv == 53_120
    assert pack.send(2).cvl_mv == 53_120
    assert pack.send().cvl_mv == 54_880


def test_a_link_lost_during_a_denial_takes_nothing_from_where_cvl_was() -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(5, status=DISCHARGE_ALLOWED).cvl_mv == 53_120
    assert pack.silent(15).cvl_mv == 53_120
    assert pack.send(3).cvl_mv == 54_880


def test_where_a_cell_asked_for_less_meanwhile_it_comes_back_slowly() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(5, highest_mv=3_700, voltage_mv=54_500, current_ma=9_000)
    low = pack.send(2).cvl_mv
    assert low < 54_500
    assert pack.send().cvl_mv == low
    pack.send(4)
    assert low < pack.send(after=300.0).cvl_mv < 54_880


@pytest.mark.parametrize(("lowest_mv", "rises_mv"), [(3_404, 32), (3_403, 0)], ids=["level", "not level"])
def test_level_cells_near_their_target_get_the_rest(lowest_mv: int, rises_mv: int) -> None:
    pack = Sender()
    pack.send(3)
    low = pack.send(highest_mv=3_480, voltage_mv=54_000, current_ma=9_000).cvl_mv
    near = {"highest_mv": 3_424, "lowest_mv": lowest_mv, "voltage_mv": 54_000}
    assert pack.send(5, **near).cvl_mv == low
    assert pack.send(after=600.0, **near).cvl_mv == low + rises_mv


def test_under_a_cell_over_its_target_it_stays() -> None:
    pack = Sender()
    pack.send(9, highest_mv=3_431)
    assert pack.send(9, highest_mv=3_431, status=DISCHARGE_ALLOWED).cvl_mv == 53_120
    assert pack.send(30, highest_mv=3_431).cvl_mv == 53_120
    assert pack.send(after=300.0, highest_mv=3_431).cvl_mv == 53_120
    assert pack.send(5, highest_mv=3_415).cvl_mv > 53_120


def test_a_lost_link_at_the_top_ends_where_it_began() -> None:
    pack = Sender()
    pack.send(9, highest_mv=3_430)
    assert pack.silent(20).cvl_mv == 53_120
    assert pack.send(3, highest_mv=3_420).cvl_mv == 54_880


# Settings that make no sense are said


def test_settings_without_sense_raise_an_alarm_and_are_said() -> None:
    pack = Sender()
    pack.send(6, vmax_mv=3_350)
    assert pack.limits.wrong == "Vbalance 3.400 V is not under Vmax 3.350 V"
    assert pack.known.alarms.levels["InternalFailure"] == 2
    assert pack.send(9).wrong is None
    assert pack.known.alarms.levels["InternalFailure"] == 0


def test_without_a_voltage_to_charge_to_nothing_is_charged() -> None:
    pack = Sender()
    result = pack.send(6, vmax_mv=327_675, vbalance_mv=0)
    assert (result.ccl_ma, result.cvl_mv) == (0, 53_120)
    assert result.ccl_reason == "nothing says how far to charge: Vmax 327.675 V is no cell's voltage"
    assert result.dcl_ma > 0


def test_a_cell_that_rises_fast_tapers_charging_before_it_is_there() -> None:
    """5 mV a second: in 6 s 30 mV more, less 15 mV that may be noise; of the newest two the lower counts."""
    pack, steady = Sender(max_charge_current=100.0), Sender(max_charge_current=100.0)
    for highest_mv in (3_450, 3_460, 3_470, 3_480, 3_490, 3_500):
        rising = pack.send(highest_mv=highest_mv).ccl_ma
    level = steady.send(6, highest_mv=3_500).ccl_ma
    assert level == 66_666
    assert rising == 65_000, "as at 3.505 V: 3.49 V, 5 mV/s, 15 mV of noise"
    assert rising < level


@pytest.mark.parametrize(("highest_mv", "tapers"), [(3_399, False), (3_400, True)])
def test_a_rise_under_vbalance_tapers_nothing(highest_mv: int, tapers: bool) -> None:
    """20 mV a second, less of a frame: it would be far over Vbalance soon."""
    pack = Sender()
    for before_mv in (3_300, 3_320, 3_340, 3_360, 3_380):
        pack.send(highest_mv=before_mv)
    assert pack.limits.ccl_ma == FULL_CCL
    assert (pack.send(highest_mv=highest_mv).ccl_ma < FULL_CCL) is tapers


# Cells that the BMS does not hear, a pack that is exchanged, wishes in silence


@pytest.mark.parametrize(
    "unheard",
    [
        {"status": BOTH | NO_COMMUNICATION, **UNHEARD},
        {"status": BOTH | NO_COMMUNICATION, "lowest_mv": 2_905},
        {"lowest_mv": 1_495},
        {"lowest_mv": 0},
    ],
    ids=["E", "E, with readings of before", "a cell under what is measured", "a cell at 0 V"],
)
def test_cells_that_are_not_heard_are_not_empty(unheard: dict[str, Any]) -> None:
    pack = Sender()
    pack.send(3)
    assert pack.send(4, **unheard).dcl_ma == 0
    assert pack.send(3).dcl_ma == FULL_DCL // 4
    assert "empty" not in pack.limits.dcl_reason


def test_a_measured_cell_at_vmin_is_empty() -> None:
    pack = Sender()
    pack.send(3)
    pack.send(4, lowest_mv=1_500)
    assert pack.send(3).dcl_reason.startswith("empty: cell 7")


def test_a_wish_in_silence_counts_with_the_next_second() -> None:
    pack = Sender()
    pack.send(3)
    pack.known.wishes = Wishes(10.0, 20.0)
    assert pack.silent(1)[1:3] == (10_000, 20_000)
    pack.known.wishes = Wishes(None, 20.0)
    assert pack.silent(1)[1:3] == (10_000, 20_000)


def test_float_of_a_pack_that_says_0_is_never_negative() -> None:
    for vmax_mv in (0, 20, 80, 125):
        pack = Sender(chemistry="NMC")
        pack.known.restore(None, Stage("float", soc=50.0))
        assert pack.send(3, vmax_mv=vmax_mv, vbalance_mv=0).cvl_mv == 0


def test_another_chemistry_raises_cvl_by_steps_and_not_in_silence() -> None:
    pack = Sender(chemistry="LFP")
    nmc = {"vmin_mv": 3_490, "vbalance_mv": 4_000, "vmax_mv": 4_150, "lowest_mv": 3_700, "highest_mv": 3_710}
    pack.known.restore(None, Stage("float", soc=50.0))
    low = pack.send(3, voltage_mv=59_000, **nmc).cvl_mv
    assert low == 16 * 3_370
    pack.known.settings = Settings()
    assert pack.silent(8).cvl_mv == low
    assert pack.silent(30).cvl_mv == low
    assert pack.send(3, voltage_mv=59_000, **nmc).cvl_mv <= low + 160


def test_a_pack_lost_after_one_odd_frame_raises_no_cvl() -> None:
    """Held at its voltage for a moment, under what its settings would have it float at."""
    pack = Sender(charge_margin_mv=0.0, hold_s=3.0, chemistry="LFP")
    cells = {"lowest_cell": 1, "highest_cell": 2, "coldest_cell": 1, "hottest_cell": 2}
    odd = {
        "cells": 2,
        "capacity_wh": 0,
        "vmin_mv": 5,
        "vmax_mv": 3335,
        "vbalance_mv": 1500,
        "highest_mv": 3330,
    }
    before = pack.send(**odd, **cells).cvl_mv
    assert pack.silent(4).cvl_mv == before == 2940


# Beside others


def test_beside_others_a_pack_that_was_only_silent_comes_back_whole() -> None:
    """They saw to it meanwhile, and the bank rises slowly; alone it begins with a quarter."""
    for several, ccl_ma in ((True, 151_515), (False, 151_515 // 4)):
        pack = Sender()
        pack.known.company = Company(several=several)
        pack.send(5)
        pack.silent(30)
        assert pack.send(2).ccl_ma == 0
        assert pack.send().ccl_ma == ccl_ma


def test_beside_others_a_denial_before_the_silence_is_none_of_it() -> None:
    pack = Sender()
    pack.known.company = Company(several=True)
    pack.send(5)
    pack.send(status=DISCHARGE_ALLOWED)
    pack.silent(30)
    assert pack.send(3).ccl_ma == 151_515 // 4


def test_beside_others_a_pack_that_had_not_permitted_yet_begins_with_a_quarter() -> None:
    pack = Sender()
    pack.known.company = Company(several=True)
    pack.send(2)
    pack.silent(30)
    assert pack.send(3).ccl_ma == 151_515 // 4


def test_what_others_push_into_an_empty_pack_does_not_fill_it() -> None:
    for charged, empty in ((True, False), (False, True)):
        pack = Sender()
        pack.send(5)
        pack.send(5, lowest_mv=2_905)
        pack.known.company = Company(several=True, charged=charged)
        limits = pack.send(80, lowest_mv=2_950, current_ma=20_000)
        assert (limits.dcl_ma == 0) is empty
    pack = Sender()
    pack.send(5)
    pack.send(5, lowest_mv=2_905)
    assert pack.send(80, lowest_mv=2_950, current_ma=20_000).dcl_ma > 0, "alone it is a charger"
