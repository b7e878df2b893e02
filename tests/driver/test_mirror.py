"""The manuals' relay tables, by hand: what each scene does to each relay, from both states.

The columns below were read off the manuals' tables, not off the rows of ``mirror``.  The pack is
``rig.FRAME`` (3.31 to 3.33 V; Vmin 2.9, Vbalance 3.4, Vmax 3.7 V; SoC 50; 16 kWh, 5 % are 800 W)
with Tmin charge 5, Tmin discharge -10, Tmax 45 degC, charge restart 90, discharge restart 10 %.
"""

from __future__ import annotations

from typing import Any

import pytest

from dbus_smartbms import mirror
from dbus_smartbms.mirror import Relays, Verdict
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


def pack_with(status2: int | None = None, at: float = 10.0, **changes: Any) -> PackState:
    """A pack after one frame, or two where status byte 2 is known."""
    pack = PackState()
    if status2 is not None:
        pack.take(frame(16, value=status2, **changes), at - 1.0)
    pack.take(frame(0, **changes), at)
    return pack


def step(
    pack: PackState, memory: Relays | None = None, now: float = 10.0, **configured: Any
) -> tuple[Relays, Verdict]:
    return mirror.step(Settings(**configured), memory or Relays(), pack, now)


def stored(percent: int) -> dict[str, int]:
    return {"soc_percent": percent, "stored_wh": percent * 160}


def balanced(watts_v: int, current_ma: int | None) -> dict[str, Any]:
    return {"lowest_mv": 3400, "highest_mv": 3410, "voltage_mv": watts_v, "current_ma": current_ma}


def unbalanced(lowest_mv: int) -> dict[str, Any]:
    return {"vbalance_mv": 0, "lowest_mv": lowest_mv, "highest_mv": 3670, "current_ma": 0}


# + on, - off, . stays; in each pair normal mode first, then critical.  Charge of A and B, charge of
# C, load of A, B and C (the same in all three).
SCENES: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("half full, nothing special", {}, "++", "++", "++"),
    ("SoC just under the charge restart", stored(89), "++", "++", "++"),
    ("SoC at the charge restart", stored(90), ".+", ".+", "++"),
    ("SoC at the discharge restart", stored(10), "++", "++", "++"),
    ("SoC just under the discharge restart", stored(9), "++", "++", ".+"),
    ("highest just under Vbalance", {"highest_mv": 3395}, "++", "++", "++"),
    ("highest at Vbalance", {"highest_mv": 3400}, ".+", ".+", "++"),
    ("lowest just under Vbalance", {"lowest_mv": 3395, "highest_mv": 3410}, ".+", ".+", "++"),
    ("all at Vbalance, 1088 W flow in", balanced(54_400, 20_000), "-+", ".+", "++"),
    ("all at Vbalance, 806 W flow in", balanced(51_200, 15_750), "-+", ".+", "++"),
    ("all at Vbalance, 800 W flow in: 5 %", balanced(51_200, 15_625), "-+", "-+", "++"),
    ("all at Vbalance, nothing flows", balanced(54_400, 0), "-+", "-+", "++"),
    ("all at Vbalance, current flows out", balanced(54_400, -20_000), "-+", "-+", "++"),
    ("all at Vbalance, the current is not known", balanced(54_400, None), "-+", ".+", "++"),
    ("balancing is off, all at Vmax less 30 mV", unbalanced(3670), "-+", "-+", "++"),
    ("balancing is off, lowest under that", unbalanced(3665), ".+", ".+", "++"),
    ("highest just under Vmax", {"highest_mv": 3695}, ".+", ".+", "++"),
    ("highest at Vmax", {"highest_mv": 3700}, "--", "--", "++"),
    ("highest over Vmax", {"highest_mv": 3705}, "--", "--", "++"),
    ("light Vh", {"status": BOTH | OVER_VMAX}, "--", "--", "++"),
    ("lowest just over Vmin", {"lowest_mv": 2905}, "++", "++", "++"),
    ("lowest at Vmin", {"lowest_mv": 2900}, "++", "++", "--"),
    ("lowest under Vmin", {"lowest_mv": 2895}, "++", "++", "--"),
    ("light Vl", {"status": BOTH | UNDER_VMIN}, "++", "++", "--"),
    ("coldest over Tmin charge", {"coldest_raw": 276 + 6}, "++", "++", "++"),
    ("coldest at Tmin charge", {"coldest_raw": 276 + 5}, "..", "..", "++"),
    ("coldest under Tmin charge", {"coldest_raw": 276 + 4}, "--", "--", "++"),
    ("coldest over Tmin discharge", {"coldest_raw": 276 - 9}, "--", "--", "++"),
    ("coldest at Tmin discharge", {"coldest_raw": 276 - 10}, "--", "--", ".."),
    ("coldest under Tmin discharge", {"coldest_raw": 276 - 11}, "--", "--", "--"),
    ("hottest under Tmax", {"hottest_raw": 276 + 44}, "++", "++", "++"),
    ("hottest at Tmax", {"hottest_raw": 276 + 45}, "..", "..", ".."),
    ("hottest over Tmax", {"hottest_raw": 276 + 46}, "--", "--", "--"),
    ("light Th", {"status": BOTH | OVER_TMAX}, "--", "--", "--"),
    ("light Tl, no status byte 2", {"status": BOTH | UNDER_TMIN}, "--", "--", "--"),
    ("light E", {"status": BOTH | NO_COMMUNICATION}, "--", "--", "--"),
    ("full and empty at once: off wins", {"lowest_mv": 2900, "highest_mv": 3700}, "--", "--", "--"),
    ("the BMS denies: the tables know nothing of that", {"status": 0}, "++", "++", "++"),
]  # fmt: skip


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("mode", ["normal", "critical"])
@pytest.mark.parametrize("generation", ["A", "B", "C"])
@pytest.mark.parametrize("scene", SCENES, ids=[scene[0] for scene in SCENES])
def test_the_relays_do_what_the_manuals_say(
    scene: tuple[str, dict[str, Any], str, str, str], generation: str, mode: str, before: bool
) -> None:
    _, changes, charge_ab, charge_c, load = scene
    column = ("normal", "critical").index(mode)
    meaning = {"+": True, "-": False, ".": before}
    relays, verdict = step(
        pack_with(**changes), Relays(before, before), generation=generation, mode=mode, **MANUAL
    )
    assert relays.charge is meaning[(charge_c if generation == "C" else charge_ab)[column]]
    assert relays.load is meaning[load[column]]
    assert verdict.relays == relays


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
    relays, verdict = step(pack_with(status2, status=status), Relays(True, True), generation=generation)
    said = "too cold (Tl); the coldest cell is now at 20 degC"
    assert verdict.no_charge == (said if no_charge else None)
    assert verdict.no_discharge == (said if no_discharge else None)
    assert relays == Relays(not no_charge, not no_discharge)


def test_a_status_byte_2_of_long_ago_no_longer_overrules_the_light() -> None:
    pack = pack_with(0, at=10.0, status=TL)
    assert step(pack, now=9.0 + 57.0)[1].no_discharge is None
    assert step(pack, now=9.0 + 57.5)[1].no_discharge is not None


@pytest.mark.parametrize("configured", [{"tmin_charge": 5.0}, {"tmin_discharge": 5.0}])
def test_a_configured_tmin_counts_even_when_status_byte_2_says_nothing(configured: dict[str, Any]) -> None:
    _, verdict = step(pack_with(0, coldest_raw=280), **configured)
    assert (verdict.no_charge is None, verdict.no_discharge is None) == (
        "tmin_charge" not in configured, "tmin_discharge" not in configured,
    )  # fmt: skip


def test_the_vendors_conversion_is_warmer_below_and_cooler_above() -> None:
    """raw 273: document -3, vendor 2.0 degC; raw 324: document 48, vendor 45.7 degC."""
    cold, hot = pack_with(coldest_raw=273), pack_with(hottest_raw=324)
    assert step(cold, tmin_charge=0.0)[1].no_charge is not None
    assert step(cold, tmin_charge=0.0, temperature="vendor")[1].no_charge is None
    assert step(hot, tmax=46.0)[1].no_charge is not None
    assert step(hot, tmax=46.0, temperature="vendor")[1].no_charge is None


# Th and the board of a balancing cell


def hot_pack(cell_mv: int, **changes: Any) -> PackState:
    """Cell 16 is the hottest, at 60 degC, and its own turn says its voltage."""
    pack = PackState()
    pack.take(frame(15, cell_mv=cell_mv, hottest_raw=336, highest_mv=max(3400, cell_mv), **changes), 10.0)
    return pack


@pytest.mark.parametrize(("cell_mv", "forbidden"), [(3395, True), (3400, True), (3405, False)])
def test_a_configured_tmax_leaves_a_cell_over_vbalance_to_the_light(cell_mv: int, forbidden: bool) -> None:
    _, verdict = step(hot_pack(cell_mv), tmax=45.0)
    said = "too hot (Th); the hottest cell is now at 60 degC" if forbidden else None
    assert (verdict.no_charge, verdict.no_discharge) == (said, said)


def test_a_hot_board_does_not_keep_a_relay_from_closing() -> None:
    assert step(hot_pack(3405), Relays(False, False), tmax=45.0)[0] == Relays(True, True)


def test_the_light_th_counts_for_a_cell_over_vbalance_too() -> None:
    _, verdict = step(hot_pack(3405, status=BOTH | OVER_TMAX), tmax=45.0)
    assert verdict.no_charge == verdict.no_discharge == "too hot (Th); the hottest cell is now at 60 degC"


def test_a_hot_cell_whose_voltage_was_not_seen_is_no_doubt() -> None:
    pack = PackState()
    pack.take(frame(0, hottest_raw=336, hottest_cell=9), 10.0)
    assert step(pack, tmax=45.0)[1].no_charge is not None


def test_a_hottest_cell_without_a_number_is_no_doubt() -> None:
    assert step(pack_with(hottest_raw=336, hottest_cell=0), tmax=45.0)[1].no_charge is not None


def test_where_balancing_is_off_no_board_is_warm_from_it() -> None:
    assert step(hot_pack(3600, vbalance_mv=0), tmax=45.0)[1].no_charge is not None


# Critical reasons, in words

TH, E = "too hot (Th); the hottest cell is now at 23 degC", "the BMS does not hear its cells (E)"


@pytest.mark.parametrize(
    ("changes", "no_charge", "no_discharge"),
    [
        ({}, None, None),
        ({"highest_mv": 3700}, "cell 3 at 3.700 V: Vmax 3.70 V (Vh)", None),
        ({"lowest_mv": 2900}, None, "cell 7 at 2.900 V: Vmin 2.90 V (Vl)"),
        ({"coldest_raw": 280}, "too cold (Tl); the coldest cell is now at 4 degC", None),
        ({"status": BOTH | OVER_TMAX}, TH, TH),
        ({"status": BOTH | NO_COMMUNICATION, "lowest_mv": 0, "highest_mv": 3700, "coldest_raw": 0}, E, E),
        ({"highest_mv": 3700, "coldest_raw": 280, "hottest_raw": 330},
         "cell 3 at 3.700 V: Vmax 3.70 V (Vh)", "too hot (Th); the hottest cell is now at 54 degC"),
        # full, or waiting for a restart, is nothing that forbids
        (balanced(54_400, 0), None, None),
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
    _, verdict = step(pack_with(**changes), generation=generation, mode=mode, **MANUAL)
    assert (verdict.no_charge, verdict.no_discharge) == (no_charge, no_discharge)


def test_every_condition_says_something() -> None:
    seen = mirror.look(Settings(), pack_with(), 10.0)
    assert seen is not None
    texts = [condition.text(seen) for condition in mirror.CONDITIONS.values()]
    assert all(texts)
    assert {name for row in mirror.ROWS for name in (*row.on, *row.off)} == set(mirror.CONDITIONS)


# The beginning


@pytest.mark.parametrize("status", [0, CHARGE_ALLOWED, DISCHARGE_ALLOWED, BOTH])
def test_with_no_memory_a_relay_begins_as_the_bms_says(status: int) -> None:
    """At Vbalance and SoC 9 in normal mode neither row of either relay holds."""
    pack = pack_with(status=status, highest_mv=3400, **stored(9))
    relays, _ = step(pack, mode="normal", **MANUAL)
    assert relays == Relays(bool(status & CHARGE_ALLOWED), bool(status & DISCHARGE_ALLOWED))


@pytest.mark.parametrize("status", [0, CHARGE_ALLOWED, DISCHARGE_ALLOWED, BOTH])
def test_where_no_restart_is_configured_the_bms_s_bits_stand_in(status: int) -> None:
    relays, _ = step(pack_with(status=status), Relays(False, False), mode="normal")
    assert relays == Relays(bool(status & CHARGE_ALLOWED), bool(status & DISCHARGE_ALLOWED))


def test_a_restart_of_0_percent_is_a_number() -> None:
    nothing = pack_with(status=0, **stored(0))
    relays, _ = step(nothing, Relays(False, False), mode="normal", charge_restart=0.0, discharge_restart=0.0)
    assert relays == Relays(False, True)


def test_before_the_first_frame_nothing_is_said() -> None:
    assert mirror.look(Settings(), PackState(), 1.0) is None
    assert mirror.soc(PackState()) is None
    assert step(PackState()) == (Relays(), Verdict(Relays(), None, None, None))


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
        (100, 15_999, 16_000, 100.0),
        (57, 9_000, 0, 57.0),
    ],
)
def test_the_soc_is_the_finer_of_two_that_agree(
    percent: int, stored_wh: int, capacity_wh: int, expected: float
) -> None:
    pack = pack_with(soc_percent=percent, stored_wh=stored_wh, capacity_wh=capacity_wh)
    assert mirror.soc(pack) == expected
    assert step(pack)[1].soc == expected
