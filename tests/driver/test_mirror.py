"""The mirror beside the manuals: ``manuals.txt`` holds what they say, written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dbus_smartbms import manuals, mirror
from dbus_smartbms.mirror import Counted, Memory, Relay, Relays
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
MANUAL: dict[str, Any] = {
    "tmin_charge": 5.0, "tmin_discharge": -10.0, "tmax": 45.0,
    "charge_restart": 90.0, "discharge_restart": 10.0,
}  # fmt: skip
GENERATIONS, MODES = ("A", "B", "C"), ("normal", "critical")


def section(name: str) -> list[list[str]]:
    """The lines of a section of ``manuals.txt``, split into their columns."""
    text = (Path(__file__).parent / "manuals.txt").read_text()
    lines = text.partition(f"\n[{name}]\n")[2].partition("\n[")[0].split("\n")
    return [[column.strip() for column in line.split("|")] for line in lines if line and line[0] != "#"]


LIGHTS = {"Vh": OVER_VMAX, "Vl": UNDER_VMIN, "Tl": UNDER_TMIN, "Th": OVER_TMAX, "E": NO_COMMUNICATION}
DENIALS = {"charge": CHARGE_ALLOWED, "discharge": DISCHARGE_ALLOWED}
MILLI = {
    "lowest": "lowest_mv", "highest": "highest_mv", "volts": "voltage_mv", "amps": "current_ma",
    "vmin": "vmin_mv", "vmax": "vmax_mv", "vbalance": "vbalance_mv",
}  # fmt: skip


def readings(text: str) -> dict[str, Any]:
    """``highest 3.7 light E`` as the fields of a frame."""
    changes: dict[str, Any] = {"status": BOTH}
    words = text.split()
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == "light":
            changes["status"] |= LIGHTS[value]
        elif name == "deny":
            changes["status"] &= ~DENIALS[value]
        elif name == "soc":
            changes |= stored(int(value))
        elif name in ("coldest", "hottest"):
            changes[f"{name}_raw"] = 276 + int(value)
        else:
            changes[MILLI[name]] = None if value == "unknown" else round(float(value) * 1000)
    return changes


def stored(percent: int) -> dict[str, int]:
    return {"soc_percent": percent, "stored_wh": percent * 160}


def pack_with(status2: int | None = None, at: float = 10.0, **changes: Any) -> PackState:
    """A pack after one frame, or two where status byte 2 is known."""
    pack = PackState()
    if status2 is not None:
        pack.take(frame(16, value=status2, **changes), at - 1.0)
    pack.take(frame(0, **changes), at)
    return pack


def step(
    pack: PackState, memory: Memory | None = None, now: float = 10.0, **configured: Any
) -> tuple[Memory, Relays, float | None]:
    return mirror.step(Settings(**configured), memory or mirror.Memory(), pack, now)


def relays_of(pack: PackState, before: bool | None = None, now: float = 10.0, **configured: Any) -> Relays:
    return step(pack, Memory(before, before), now, **configured)[1]


# The tables


def test_the_rows_are_those_of_the_manuals() -> None:
    written = [
        (name, generation, mode, tuple(conditions.split(" AND ")))
        for name, generations, mode, conditions in section("table")
        for generation in generations.split()
    ]
    ours = [
        (f"{row.subject} {row.becomes}", generation, mode, tuple(map(str, row.conditions)))
        for generation in GENERATIONS
        for mode in MODES
        for row in manuals.table(generation, mode)
    ]
    assert sorted(ours) == sorted(written)


@pytest.mark.parametrize("line", section("conditions"), ids=lambda line: str(line[0]))
def test_a_condition_just_below_at_and_just_above(line: list[str]) -> None:
    condition = next(c for row in manuals.ROWS for c in row.conditions if str(c) == line[0])
    outcomes = []
    for column in line[1:]:
        seen = mirror.look(Settings(**MANUAL), pack_with(**readings(column.partition(":")[0])), 10.0)
        assert seen is not None
        outcomes.append("yes" if mirror.judge(condition, seen).holds else "no")
    assert outcomes == [column.partition(":")[2].strip() for column in line[1:]]


def test_every_condition_is_judged_at_its_edges() -> None:
    written = {line[0] for line in section("conditions")}
    assert written == {str(condition) for row in manuals.ROWS for condition in row.conditions}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("scene", section("relays"), ids=lambda scene: scene[0] or "nothing special")
def test_the_relays_do_what_the_manuals_say(
    scene: list[str], generation: str, mode: str, before: bool
) -> None:
    text, charge, load = scene
    column = MODES.index(mode)
    meaning = {"+": True, "-": False, ".": before}
    relays = relays_of(pack_with(**readings(text)), before, generation=generation, mode=mode, **MANUAL)
    assert relays.charge.closed is meaning[charge.split()[column + 2 * (generation == "C")]]
    assert relays.load.closed is meaning[load.split()[column]]


TL = BOTH | UNDER_TMIN
COLD = [
    # generation, status 1, status 2, charging forbidden, discharging forbidden
    ("A", TL, None, True, True),
    ("A", TL, 0, True, True),
    ("A", BOTH, TOO_COLD_TO_CHARGE | TOO_COLD_TO_DISCHARGE, False, False),
    ("B", TL, None, True, True),
    ("B", TL, TOO_COLD_TO_CHARGE, True, True),
    ("B", BOTH, TOO_COLD_TO_DISCHARGE, False, False),
    ("C", TL, None, True, True),
    ("C", TL, 0, True, False),
    ("C", TL, TOO_COLD_TO_CHARGE, True, False),
    ("C", TL, TOO_COLD_TO_DISCHARGE, True, True),
    ("C", TL, TOO_COLD_TO_CHARGE | TOO_COLD_TO_DISCHARGE, True, True),
    ("C", BOTH, TOO_COLD_TO_CHARGE, True, False),
    ("C", BOTH, TOO_COLD_TO_DISCHARGE, False, True),
    ("C", BOTH, EARLY_WARNING, False, False),
    ("C", BOTH, None, False, False),
]


@pytest.mark.parametrize(("generation", "status", "status2", "no_charge", "no_discharge"), COLD)
def test_too_cold_by_the_lights(
    generation: str, status: int, status2: int | None, no_charge: bool, no_discharge: bool
) -> None:
    relays = relays_of(pack_with(status2, status=status), True, generation=generation)
    said = "too cold (Tl); the coldest cell is now at 20 degC"
    off, on = Relay(False, said, said), Relay(True)
    assert relays == Relays(off if no_charge else on, off if no_discharge else on)
    # it does not go on again either
    relays = relays_of(pack_with(status2, status=status), False, generation=generation)
    assert relays == Relays(off if no_charge else on, off if no_discharge else on)


def test_a_status_byte_2_of_long_ago_no_longer_overrules_the_light() -> None:
    pack = pack_with(0, at=10.0, status=TL)
    assert relays_of(pack, now=9.0 + 57.0).load.forbids is None
    assert relays_of(pack, now=9.0 + 57.5).load.forbids is not None


@pytest.mark.parametrize("configured", [{"tmin_charge": 5.0}, {"tmin_discharge": 5.0}])
def test_a_configured_tmin_counts_even_when_status_byte_2_says_nothing(configured: dict[str, Any]) -> None:
    relays = relays_of(pack_with(0, coldest_raw=280), **configured)
    assert (relays.charge.forbids is None, relays.load.forbids is None) == (
        "tmin_charge" not in configured, "tmin_discharge" not in configured,
    )  # fmt: skip


def test_the_vendors_conversion_is_warmer_below_and_cooler_above() -> None:
    """raw 273: document -3, vendor 2.0 degC; raw 324: document 48, vendor 45.7 degC."""
    cold, hot = pack_with(coldest_raw=273), pack_with(hottest_raw=324)
    assert relays_of(cold, tmin_charge=0.0).charge.forbids is not None
    assert relays_of(cold, tmin_charge=0.0, temperature="vendor").charge.forbids is None
    assert relays_of(hot, tmax=46.0).charge.forbids is not None
    assert relays_of(hot, tmax=46.0, temperature="vendor").charge.forbids is None


# Th and the board of a balancing cell


def hot_pack(cell_mv: int, **changes: Any) -> PackState:
    """Cell 16 is the hottest, at 60 degC, and its own turn says its voltage."""
    pack = PackState()
    pack.take(frame(15, cell_mv=cell_mv, hottest_raw=336, highest_mv=max(3400, cell_mv), **changes), 10.0)
    return pack


@pytest.mark.parametrize(("cell_mv", "forbidden"), [(3395, True), (3400, True), (3405, False)])
def test_a_configured_tmax_leaves_a_cell_over_vbalance_to_the_light(cell_mv: int, forbidden: bool) -> None:
    relays = relays_of(hot_pack(cell_mv), tmax=45.0)
    said = "too hot: the hottest cell is at 60.0 degC, over [pack] tmax" if forbidden else None
    assert (relays.charge.forbids, relays.load.forbids) == (said, said)


def test_a_hot_board_does_not_keep_a_relay_from_closing() -> None:
    assert closed(relays_of(hot_pack(3405), False, tmax=45.0)) == (True, True)


def test_the_light_th_counts_for_a_cell_over_vbalance_too() -> None:
    relays = relays_of(hot_pack(3405, status=BOTH | OVER_TMAX), False, tmax=45.0)
    said = "too hot (Th); the hottest cell is now at 60 degC"
    assert relays == Relays(Relay(False, said, said), Relay(False, said, said))


def test_a_hot_cell_whose_voltage_was_not_seen_is_no_doubt() -> None:
    pack = PackState()
    pack.take(frame(0, hottest_raw=336, hottest_cell=9), 10.0)
    assert relays_of(pack, tmax=45.0).charge.forbids is not None


def test_while_a_cell_is_over_vbalance_a_hot_one_that_was_not_named_may_be_bleeding() -> None:
    """Its own reading, of the round before, is past: it may have been 3.38 V then."""
    pack = PackState()
    for turn in range(15, 18):
        pack.take(frame(turn, cell_mv=3380, highest_mv=3450), 10.0 + turn)
    pack.take(frame(18, hottest_raw=336, highest_mv=3450), 30.0)
    assert relays_of(pack, tmax=45.0).charge.forbids is None


def test_an_old_reading_of_a_cell_over_vbalance_excuses_nothing() -> None:
    """Now no cell is: nothing can be bleeding."""
    pack = hot_pack(3450)
    pack.take(frame(16, hottest_raw=336, highest_mv=3400), 11.0)
    assert relays_of(pack, tmax=45.0).charge.forbids is not None


@pytest.mark.parametrize("named", ["lowest", "highest"])
def test_a_hot_cell_that_is_an_extreme_is_judged_by_that(named: str) -> None:
    changes: dict[str, Any] = {"highest_mv": 3450, "hottest_raw": 336, "hottest_cell": 9, f"{named}_cell": 9}
    relays = relays_of(pack_with(**changes), tmax=45.0)
    assert (relays.charge.forbids is not None) is (named == "lowest")


def test_a_hottest_cell_without_a_number_is_no_doubt() -> None:
    assert relays_of(pack_with(hottest_raw=336, hottest_cell=0), tmax=45.0).charge.forbids is not None


def test_where_balancing_is_off_no_board_is_warm_from_it() -> None:
    assert relays_of(hot_pack(3600, vbalance_mv=0), tmax=45.0).charge.forbids is not None


# Critical reasons, in words

TL_SAID = "too cold (Tl); the coldest cell is now at 4 degC"
TH, E = "too hot (Th); the hottest cell is now at 23 degC", "the BMS does not hear its cells (E)"


@pytest.mark.parametrize(
    ("changes", "no_charge", "no_discharge"),
    [
        ({}, None, None),
        ({"highest_mv": 3700}, "cell 3 at 3.700 V: Vmax 3.70 V (Vh)", None),
        ({"lowest_mv": 2900}, None, "cell 7 at 2.900 V: Vmin 2.90 V (Vl)"),
        ({"coldest_raw": 280}, "too cold: the coldest cell is at 4.0 degC, under [pack] tmin_charge", None),
        ({"coldest_raw": 280, "status": BOTH | UNDER_TMIN}, TL_SAID, TL_SAID),
        ({"status": BOTH | OVER_TMAX}, TH, TH),
        ({"status": BOTH | NO_COMMUNICATION, "lowest_mv": 0, "highest_mv": 3700, "coldest_raw": 0}, E, E),
        ({"highest_mv": 3700, "coldest_raw": 280, "hottest_raw": 330, "cell": 16},
         "cell 3 at 3.700 V: Vmax 3.70 V (Vh)",
         "too hot: the hottest cell is at 54.0 degC, over [pack] tmax"),
        ({"lowest_mv": 3400, "highest_mv": 3700, "current_ma": 0},
         "cell 3 at 3.700 V: Vmax 3.70 V (Vh)", None),
        # full, or waiting for a restart, is nothing that forbids
        ({"lowest_mv": 3400, "highest_mv": 3410, "current_ma": 0}, None, None),
        (stored(95), None, None),
        (stored(0), None, None),
        ({"status": 0}, None, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["normal", "critical"])
@pytest.mark.parametrize("generation", ["A", "B", "C"])
def test_only_critical_reasons_forbid_and_the_first_is_said(
    generation: str, mode: str, changes: dict[str, Any], no_charge: str | None, no_discharge: str | None
) -> None:
    relays = relays_of(pack_with(**changes), generation=generation, mode=mode, **MANUAL)
    assert (relays.charge.forbids, relays.load.forbids) == (no_charge, no_discharge)


def test_every_row_that_switches_off_says_why() -> None:
    seen = mirror.look(Settings(), pack_with(), 10.0)
    assert seen is not None
    for row in manuals.ROWS:
        if row.becomes == "off":
            assert mirror.REASONS[row.conditions[0]](seen)


def test_full_is_said_and_forbids_nothing() -> None:
    relays = relays_of(pack_with(lowest_mv=3400, highest_mv=3410, current_ma=0), mode="normal")
    assert relays.charge == Relay(False, "full: all cells are at Vbalance 3.40 V")


def closed(relays: Relays) -> tuple[bool | None, bool | None]:
    return relays.charge.closed, relays.load.closed


# The beginning


@pytest.mark.parametrize("status", [0, CHARGE_ALLOWED, DISCHARGE_ALLOWED, BOTH])
def test_with_no_memory_a_relay_begins_as_the_bms_says(status: int) -> None:
    """At Vbalance and SoC 9 in normal mode neither row of either relay holds."""
    pack = pack_with(status=status, highest_mv=3400, **stored(9))
    relays = relays_of(pack, mode="normal", **MANUAL)
    assert closed(relays) == (bool(status & CHARGE_ALLOWED), bool(status & DISCHARGE_ALLOWED))


@pytest.mark.parametrize("status", [0, CHARGE_ALLOWED, DISCHARGE_ALLOWED, BOTH])
def test_where_no_restart_is_configured_the_bms_s_bits_stand_in(status: int) -> None:
    relays = relays_of(pack_with(status=status), False, mode="normal")
    assert closed(relays) == (bool(status & CHARGE_ALLOWED), bool(status & DISCHARGE_ALLOWED))


def test_a_restart_of_0_percent_is_a_number() -> None:
    nothing = pack_with(status=0, **stored(0))
    relays = relays_of(nothing, False, mode="normal", charge_restart=0.0, discharge_restart=0.0)
    assert closed(relays) == (False, True)


def test_before_the_first_frame_nothing_is_said() -> None:
    assert mirror.look(Settings(), PackState(), 1.0) is None
    assert mirror.soc(PackState()) is None
    remembered = Memory(True, False, counted=Counted(16, 16_000, 50.0, 40.0))
    assert step(PackState(), remembered) == (remembered, Relays(), None)


# State of charge


@pytest.mark.parametrize(
    ("percent", "stored_wh", "capacity_wh", "expected"),
    [
        (50, 8_000, 16_000, 50.0),
        (50, 8_096, 16_000, 50.6),
        (50, 8_160, 16_000, 51.0),  # 1 % apart: the finer one
        (50, 8_161, 16_000, 50.0),  # more: the two disagree, and the BMS's own byte counts
        (50, 7_840, 16_000, 49.0),
        (50, 7_839, 16_000, 50.0),
        (50, 12_000, 16_000, 50.0),
        (0, 0, 16_000, 0.0),
        (100, 16_000, 16_000, 100.0),
        (100, 16_150, 16_000, 100.0),
        (100, 15_999, 16_000, 99.99375),
        (57, 9_000, 0, 57.0),
    ],
)
def test_the_soc_is_the_finer_of_two_that_agree(
    percent: int, stored_wh: int, capacity_wh: int, expected: float
) -> None:
    pack = pack_with(soc_percent=percent, stored_wh=stored_wh, capacity_wh=capacity_wh)
    assert mirror.soc(pack) == expected
    assert step(pack)[2] == expected


# The mirror's state of charge

NOMINAL_V, CAPACITY_WH = 16 * 3.3, 16_000
"""Until key 4 and 5 were seen, the manual's 3.3 V for LFP counts."""


class Counting:
    """The mirror over several frames; ``soc`` is what it counted."""

    def __init__(self, counted: Counted | None = None, **configured: Any) -> None:
        self.settings, self.pack, self.memory = (
            Settings(**configured),
            PackState(),
            mirror.Memory(counted=counted),
        )
        self.now, self.soc, self.relays = 100.0, 0.0, Relays()

    def frame(self, after_s: float = 1.0, **changes: Any) -> float:
        self.now += after_s
        self.pack.take(frame(0, **changes), self.now)
        return self.step()

    def step(self) -> float:
        self.memory, self.relays, soc = mirror.step(self.settings, self.memory, self.pack, self.now)
        assert soc is not None
        self.soc = soc
        return soc


def percent(amps: float, seconds: float) -> float:
    return 100 * amps * seconds / 3600 * NOMINAL_V / CAPACITY_WH


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("line", section("soc"), ids=lambda line: f"{line[0]} for {line[1]} s")
def test_the_soc_is_synchronised_by_the_manuals_rule(line: list[str], generation: str, mode: str) -> None:
    text, seconds, outcomes = line
    changes = readings(text)
    counting = Counting(generation=generation, mode=mode)
    for second in range(int(seconds) + 1):
        counting.frame(1.0, **changes)
        assert counting.now == 101.0 + second
    expected = outcomes.split()[2 * GENERATIONS.index(generation) + MODES.index(mode)]
    amps = changes.get("current_ma", -12_500) / 1000
    counted = 50.0 + percent(amps, float(seconds))
    assert counting.soc == pytest.approx(counted if expected == "." else float(expected), abs=1e-3)


def test_the_current_is_counted_against_the_capacity() -> None:
    """-12.5 A of 303 Ah, 10 minutes: 0.6875 %."""
    counting = Counting()
    assert counting.frame() == 50.0
    for _ in range(600):
        counting.frame()
    assert counting.soc == pytest.approx(50.0 - 0.6875, abs=1e-3)
    for _ in range(600):
        counting.frame(current_ma=12_500)
    assert counting.soc == pytest.approx(50.0, abs=1e-3)


def test_vnom_of_the_bms_counts_once_it_is_known() -> None:
    """2.64 V a cell in place of 3.3 V: the same kWh are more Ah, so the same current is less."""
    counting = Counting(chemistry="LFP")
    vnom = 3630 // 5
    counting.frame(key=4, value=vnom >> 8)
    before = counting.frame(key=5, value=vnom & 255)
    after = counting.frame(current_ma=100_000)
    assert after - before == pytest.approx(percent(100, 1) * 3.63 / 3.3, rel=1e-4)


def test_the_current_of_a_frame_counts_for_the_time_before_it() -> None:
    counting = Counting()
    counting.frame(current_ma=500_000)
    assert counting.soc == 50.0, "nothing is known of the time before the first frame"
    assert counting.frame(2.0, current_ma=100_000) == pytest.approx(50.0 + percent(100, 2))


def test_a_tick_without_a_frame_counts_nothing() -> None:
    counting = Counting()
    counting.frame()
    after = counting.frame()
    counting.now += 1.0
    assert counting.step() == after
    assert counting.frame(0.5) == pytest.approx(after + percent(-12.5, 1.5)), "the time of the frames counts"


@pytest.mark.parametrize(
    ("interval_s", "gap_s", "counted"),
    [(1.0, 2.9, True), (1.0, 3.0, True), (1.0, 3.1, False), (1.0, 30.0, False), (1.0, 1e6, False),
     (0.5, 1.4, True), (0.5, 1.5, True), (0.5, 1.6, False), (1.0, 0.0, True), (1.0, -0.5, False)],
)  # fmt: skip
def test_over_a_gap_or_a_clock_that_jumps_nothing_is_counted(
    interval_s: float, gap_s: float, counted: bool
) -> None:
    """After it the SoC begins anew from the BMS's, here 50 %."""
    counting = Counting()
    counting.now = 0.0  # so that the seconds are exact
    for _ in range(4):
        counting.frame(interval_s, current_ma=100_000)
    assert counting.pack.interval_s == interval_s
    before = counting.soc
    assert before > 50.0
    after = counting.frame(gap_s, current_ma=100_000)
    assert after == (pytest.approx(before + percent(100, gap_s)) if counted else 50.0)


def test_a_clock_that_jumped_is_counted_from_its_new_time_on() -> None:
    counting = Counting()
    counting.frame()
    counting.frame(-50.0, current_ma=100_000)
    assert counting.frame(1.0, current_ma=100_000) == pytest.approx(50.0 + percent(100, 1))


def test_without_a_current_sensor_the_soc_is_the_bms_s() -> None:
    counting = Counting()
    counting.frame(current_ma=100_000)
    assert counting.frame(current_ma=100_000) > 50.0
    assert counting.frame(current_ma=None, **stored(57)) == 57.0
    assert counting.frame(current_ma=None, **stored(58)) == 58.0


def test_without_a_capacity_the_soc_is_the_bms_s() -> None:
    counting = Counting()
    counting.frame(capacity_wh=0, soc_percent=33)
    assert counting.frame(capacity_wh=0, soc_percent=34, current_ma=100_000) == 34.0


@pytest.mark.parametrize("changed", [{"capacity_wh": 32_000}, {"cells": 32}])
def test_with_another_capacity_or_pack_the_soc_begins_anew(changed: dict[str, int]) -> None:
    counting = Counting()
    counting.frame(current_ma=100_000)
    assert counting.frame(current_ma=100_000) > 50.0
    held = counting.frame(current_ma=100_000, **changed)
    assert held > 50.0, "a setting counts when two frames agree"
    anew = counting.frame(soc_percent=40, stored_wh=changed.get("capacity_wh", 16_000) * 4 // 10, **changed)
    assert anew == 40.0


def test_the_soc_stays_within_0_and_100() -> None:
    counting = Counting()
    counting.frame(**stored(99))
    for _ in range(60):
        counting.frame(current_ma=1_000_000)
    assert counting.soc == 100.0
    for _ in range(1200):
        counting.frame(current_ma=-1_000_000)
    assert counting.soc == 0.0


def test_a_cell_that_recovers_begins_the_minute_anew() -> None:
    counting = Counting(generation="C")
    for _ in range(59):
        counting.frame(lowest_mv=2895, current_ma=0)
    counting.frame(lowest_mv=2900, current_ma=0)
    for _ in range(60):
        counting.frame(lowest_mv=2895, current_ma=0)
    assert counting.soc == 50.0
    assert counting.frame(lowest_mv=2895, current_ma=0) == 0.0


def test_a_gap_begins_the_minute_anew() -> None:
    counting = Counting(generation="C")
    for _ in range(60):
        counting.frame(lowest_mv=2895, current_ma=0)
    counting.frame(4.0, lowest_mv=2895, current_ma=0)
    for _ in range(59):
        counting.frame(lowest_mv=2895, current_ma=0)
    assert counting.soc == 50.0
    assert counting.frame(lowest_mv=2895, current_ma=0) == 0.0


def test_after_synchronisation_it_counts_on_from_there() -> None:
    counting = Counting(generation="A", mode="normal")
    counting.frame()
    assert counting.frame(lowest_mv=3400, highest_mv=3410) == 100.0
    assert counting.frame() == pytest.approx(100.0 + percent(-12.5, 1))


# What outlives the driver


def test_how_far_the_mirror_was_from_the_bms_outlives_the_driver() -> None:
    counting = Counting()
    counting.frame()
    for _ in range(100):
        counting.frame(current_ma=100_000)
    assert counting.memory.counted == Counted(16, 16_000, counting.soc, 50.0)
    later = Counting(counting.memory.counted)
    assert later.frame(**stored(53)) == pytest.approx(counting.soc + 3.0)
    assert later.frame(30.0, **stored(53)) == 53.0, "after a gap it begins anew"


@pytest.mark.parametrize(
    ("counted", "begins"),
    [
        (Counted(16, 16_000, 70.0, 60.0), 60.0),  # the BMS's has moved by 10 % since
        (Counted(16, 16_000, 70.0, 40.0), 80.0),
        (Counted(16, 16_000, 70.0, 60.1), 50.0),  # by more: it may have been synchronised
        (Counted(16, 16_000, 70.0, 39.9), 50.0),
        (Counted(8, 16_000, 70.0, 50.0), 50.0),
        (Counted(16, 32_000, 70.0, 50.0), 50.0),
        (Counted(16, 16_000, 99.0, 45.0), 100.0),
        (Counted(16, 16_000, 2.0, 55.0), 0.0),
        (None, 50.0),
    ],
)
def test_what_was_counted_holds_for_the_same_pack_soon_after(counted: Counted | None, begins: float) -> None:
    assert Counting(counted).frame() == pytest.approx(begins)


@pytest.mark.parametrize(("percent", "begins"), [(0, 0.0), (100, 100.0), (1, 6.0), (99, 94.0)], ids=str)
def test_a_bms_that_is_at_an_end_was_synchronised_there(percent: int, begins: float) -> None:
    offset = 5.0 if percent < 50 else -5.0
    counting = Counting(Counted(16, 16_000, percent + offset, float(percent)))
    assert counting.frame(**stored(percent)) == pytest.approx(begins)


# Relays over time


def test_a_relay_stays_as_it_is_between_its_conditions() -> None:
    """Normal mode, generation A: off at Vbalance, on again under the charge restart."""
    counting = Counting(generation="A", mode="normal", **MANUAL)
    path = [({}, True), ({"highest_mv": 3400}, True), ({"lowest_mv": 3400, "highest_mv": 3410}, False),
            ({"highest_mv": 3410}, False), (stored(95), False), (stored(90), False), (stored(89), True),
            (stored(95), True)]  # fmt: skip
    for changes, on in path:
        counting.frame(**changes)
        assert counting.relays.charge.closed is on, changes


def test_a_setting_that_changes_while_running_counts_when_two_frames_agree() -> None:
    counting = Counting()
    counting.frame(highest_mv=3500)
    assert counting.relays.charge.closed
    counting.frame(highest_mv=3500, vmax_mv=3500)
    assert counting.relays.charge.closed, "held back"
    counting.frame(highest_mv=3500, vmax_mv=3500)
    assert counting.relays.charge == Relay(
        False, "cell 3 at 3.500 V: Vmax 3.50 V (Vh)", "cell 3 at 3.500 V: Vmax 3.50 V (Vh)"
    )
    counting.frame(highest_mv=3500, vmax_mv=3505)
    counting.frame(highest_mv=3500, vmax_mv=3505)
    assert counting.relays.charge == Relay(True, doubtful=True)


@pytest.mark.parametrize(
    ("percent", "near"),
    [(88.5, False), (89.0, False), (89.1, True), (90.0, True), (90.9, True), (91.0, False), (91.5, False)],
)
def test_near_a_restart_the_bms_s_own_switching_counts(percent: float, near: bool) -> None:
    """It knows its SoC finer than the wire, which may round it to the other side."""
    here = {"soc_percent": round(percent), "stored_wh": round(percent * 160), "status": DISCHARGE_ALLOWED}
    counting = Counting(mode="normal", **MANUAL)
    counting.frame(**here | {"highest_mv": 3700})
    below = percent < 90
    for status, on in ((DISCHARGE_ALLOWED, below), (BOTH, below or near), (BOTH, below or near)):
        counting.frame(**here | {"status": status})
        assert counting.relays.charge == Relay(on, doubtful=near)


DOUBTS: list[tuple[str, bool, bool]] = [
    # normal mode; whether charge and load are in doubt
    ("", False, False),
    ("highest 3.380", False, False), ("highest 3.385", True, False), ("highest 3.415 soc 50", True, False),
    ("highest 3.420 soc 50", False, False), ("highest 3.415 soc 95", False, False),
    ("highest 3.600", False, False), ("highest 3.605", True, False), ("highest 3.700", False, False),
    ("lowest 3.000", False, False), ("lowest 2.995", False, True), ("lowest 2.900", False, False),
    ("coldest 7", False, False), ("coldest 6", True, False), ("coldest 5", True, False),
    ("coldest 4", False, False), ("coldest -8", False, False), ("coldest -9", False, True),
    ("coldest -10", False, True), ("hottest 43", False, False), ("hottest 44", True, True),
    ("soc 89", False, False), ("soc 90", True, False), ("soc 10", False, True), ("soc 9", False, False),
    # full but for the power: 800 W are 5 %, 1000 W no longer near
    ("lowest 3.425 highest 3.450 soc 100 volts 51.2 amps 19.5", True, False),
    ("lowest 3.425 highest 3.450 soc 100 volts 51.2 amps 19.625", False, False),
    ("lowest 3.425 highest 3.450 soc 100 amps unknown", True, False),
    ("lowest 3.385 highest 3.450 soc 100 amps 0", True, False),
    ("lowest 3.380 highest 3.450 soc 100 amps 0", False, False),
    ("lowest 3.385 highest 3.450 soc 100 volts 51.2 amps 19.625", False, False),
    ("lowest 3.425 highest 3.450 soc 100 volts 51.280 amps 19.5", True, False),
    ("lowest 3.425 highest 3.450 soc 100 volts 51.285 amps 19.5", False, False),
    ("lowest 2.999", False, True), ("highest 3.601", True, False), ("highest 3.381", True, False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "charge", "load"), DOUBTS)
def test_near_a_threshold_a_relay_is_in_doubt(text: str, charge: bool, load: bool) -> None:
    relays = relays_of(pack_with(**readings(text)), True, mode="normal", **MANUAL)
    assert (relays.charge.doubtful, relays.load.doubtful) == (charge, load)


@pytest.mark.parametrize("status", [CHARGE_ALLOWED, DISCHARGE_ALLOWED])
def test_doubt_lasts_as_long_as_the_bms_s_bits_may_be_late(status: int) -> None:
    """It has seen a cell at Vmin and one at Vmax between two frames."""
    for late_s, counts in ((1, True), (10, True), (11, False)):
        counting = Counting(mode="normal", **MANUAL)
        counting.frame(lowest_mv=2950, highest_mv=3650, **stored(95))
        calm = {"lowest_mv": 3310, "highest_mv": 3500, **stored(95)}
        for _ in range(late_s - 1):
            counting.frame(**calm)
        counting.frame(status=status, **calm | stored(5 if status == CHARGE_ALLOWED else 95))
        off = counting.relays.load if status == CHARGE_ALLOWED else counting.relays.charge
        assert off == Relay(not counts, doubtful=counts)


@pytest.mark.parametrize("missing", [{"highest_mv": 3500}, {"coldest_raw": 276 - 20}])
def test_the_bms_s_switching_counts_only_where_nothing_else_is_missing(missing: dict[str, Any]) -> None:
    counting = Counting(mode="normal", **MANUAL)
    counting.frame(status=DISCHARGE_ALLOWED, **stored(90) | missing)
    counting.frame(status=BOTH, **stored(90) | missing)
    assert counting.relays.charge.closed is False


@pytest.mark.parametrize("status", [0, BOTH])
def test_where_no_restart_is_configured_the_bms_knows_better(status: int) -> None:
    relays = relays_of(pack_with(status=status), True, mode="normal")
    assert relays == Relays(Relay(True, doubtful=True), Relay(True, doubtful=True))


# What of a frame that was held back counts


@pytest.mark.parametrize(
    ("changes", "no_charge", "no_discharge"),
    [
        ({}, False, False),
        ({"highest_mv": 3700}, True, False),
        ({"highest_mv": 3695}, False, False),
        ({"highest_mv": 3600, "vmax_mv": 3600}, False, False),  # not a threshold that is not confirmed
        ({"lowest_mv": 2900}, False, True),
        ({"coldest_raw": 280}, True, False),
        ({"status": BOTH | NO_COMMUNICATION}, True, True),
        ({"status": BOTH | OVER_TMAX}, True, True),
        ({"status": 0}, False, False),  # the bits count in the limits
        ({"cells": 200, "hottest_raw": 330, "hottest_cell": 200}, True, True),
    ],
)
def test_a_frame_that_was_held_back_can_forbid(
    changes: dict[str, Any], no_charge: bool, no_discharge: bool
) -> None:
    counting = Counting(**MANUAL)
    counting.frame()
    before = counting.memory
    counting.frame(**{"capacity_wh": 15_000} | changes)
    assert counting.pack.held is not None
    assert (counting.relays.charge.forbids is not None) is no_charge
    assert (counting.relays.load.forbids is not None) is no_discharge
    assert counting.memory == before, "and is forgotten"
    counting.frame()
    assert counting.relays == Relays(Relay(True), Relay(True))


@pytest.mark.parametrize(
    ("lowest", "highest", "no_charge", "no_discharge"),
    [(3750, 3600, True, False), (3600, 2850, False, True), (3600, 3650, False, False)],
)
def test_of_two_extremes_that_are_the_wrong_way_round_the_worse_counts(
    lowest: int, highest: int, no_charge: bool, no_discharge: bool
) -> None:
    relays = relays_of(pack_with(lowest_mv=lowest, highest_mv=highest))
    assert (relays.charge.forbids is not None, relays.load.forbids is not None) == (no_charge, no_discharge)
    if no_charge:
        assert relays.charge.forbids == "cell 7 at 3.750 V: Vmax 3.70 V (Vh)"


@pytest.mark.parametrize(("coldest", "hottest"), [(4, 0), (0, 4), (50, 30), (30, 50)])
def test_of_two_temperatures_the_worse_counts(coldest: int, hottest: int) -> None:
    pack = pack_with(coldest_raw=276 + coldest, hottest_raw=276 + hottest)
    assert relays_of(pack, **MANUAL).charge.forbids is not None


@pytest.mark.parametrize(("gap_s", "kept"), [(9.9, True), (10.0, False)])
def test_after_a_lost_link_a_relay_begins_as_the_bms_says(gap_s: float, kept: bool) -> None:
    """What it did meanwhile was not seen."""
    counting = Counting(mode="normal", **MANUAL)
    counting.now = 0.0
    counting.frame()
    denied = {"status": 0, "highest_mv": 3500} | stored(5)  # neither row of either relay holds
    counting.frame(gap_s, **denied)
    assert closed(counting.relays) == (kept, kept)
    counting.frame(**denied)
    assert closed(counting.relays) == (kept, kept)
