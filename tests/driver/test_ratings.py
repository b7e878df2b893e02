"""What a pack is rated for, told from its settings on the wire: sensible ones, odd ones, nonsense.

The pack of ``rig`` has 16 LFP cells and 16 kWh, Vmin 2.9, Vbalance 3.4, Vmax 3.7 V; of the rotating values
its first frame says none, so Vlow and Vnom are not known unless a test says them.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbus_smartbms import ratings
from dbus_smartbms.settings import Settings
from rig import frame
from smartbms_protocol import PackState, decode, encode

SENSIBLE = (2900, None, 3400, 3700)


def pack(vlow_mv: int | None = None, vnom_mv: int | None = None, **changes: Any) -> PackState:
    """A pack that has sent its settings, and these rotating values as the wire has them, 5 mV a count."""
    state = PackState()
    state.take(frame(**changes), 0.0)
    for key, millivolts in ((2, vlow_mv), (4, vnom_mv)):
        if millivolts is not None:
            high, low = divmod(millivolts // 5, 256)
            state.take(frame(**changes | {"key": key, "value": high}), 1.0)
            state.take(frame(**changes | {"key": key + 1, "value": low}), 2.0)
    return state


def read(configured: dict[str, Any] | None = None, **said: Any) -> Any:
    """The thresholds of a pack."""
    state = pack(**said)
    assert state.frame is not None
    return ratings.thresholds(Settings(**(configured or {})), state, state.frame)


# Sensible settings


ADVISED = [
    # Vmin, Vbalance, Vmax as the manuals of B and C advise
    ("LFP", 2900, 3400, 3700),
    ("LTO, B", 2150, 2600, 2700),
    ("LTO, C", 2150, 2600, 2800),
    ("NMC, B", 3430, 4000, 4100),
    ("NMC, C", 3490, 4000, 4150),
    ("Li-ion, B", 3430, 4100, 4150),
    ("NCA, C", 3400, 4000, 4150),
    ("LFP charged higher", 2800, 3600, 3650),
    ("as low as cells are measured", 1500, 1900, 2000),
    ("as high", 4000, 4900, 5000),
]


@pytest.mark.parametrize(
    ("vmin", "vbalance", "vmax"), [row[1:] for row in ADVISED], ids=[row[0] for row in ADVISED]
)
@pytest.mark.parametrize("vlow", [None, 0, 100], ids=["not known", "not set", "100 mV over Vmin"])
def test_settings_as_advised_are_read_as_they_are(
    vmin: int, vbalance: int, vmax: int, vlow: int | None
) -> None:
    found = read(vlow_mv=vmin + vlow if vlow else vlow, vmin_mv=vmin, vbalance_mv=vbalance, vmax_mv=vmax)
    assert found == (vmin, vmin + 100 if vlow else None, vbalance, vmax, None)
    assert found.low_mv == vmin + 100


@pytest.mark.parametrize(
    ("said", "configured", "balance_mv"),
    [
        ({}, {}, 3670),
        ({}, {"charge_margin_mv": 0.0}, 3700),
        ({}, {"charge_margin_mv": 27.5}, 3672),
        ({"vmax_mv": 4150, "vmin_mv": 3490}, {}, 4120),
    ],
)
def test_where_balancing_is_off_vbalance_is_vmax_less_the_margin(
    said: dict[str, Any], configured: dict[str, Any], balance_mv: int
) -> None:
    found = read(configured, vbalance_mv=0, **said)
    assert (found.balance_mv, found.wrong) == (balance_mv, None)
    assert ratings.balance_mv(Settings(**configured), frame(vbalance_mv=0, **said)) == balance_mv


def test_vbalance_as_the_frame_has_it_is_never_negative() -> None:
    assert ratings.balance_mv(Settings(), frame()) == 3400
    assert ratings.balance_mv(Settings(), frame(vbalance_mv=0, vmax_mv=20)) == 0


@pytest.mark.parametrize(("vlow", "low"), [(3100, 3100), (2905, 2905), (0, 3000), (None, 3000)])
def test_discharging_tapers_from_vlow_or_100_mv_over_vmin(vlow: int | None, low: int) -> None:
    assert read(vlow_mv=vlow).low_mv == low


# Nonsense


def no_cells(name: str, volts: str) -> str:
    return f"{name} {volts} V is no cell's voltage"


NONSENSE: list[tuple[str, dict[str, Any], tuple[Any, ...], list[str]]] = [
    # what the pack says, how it is read, what is said of it
    ("Vmin 0", {"vmin_mv": 0}, SENSIBLE, [no_cells("Vmin", "0.000")]),
    ("Vmin just no cell's", {"vmin_mv": 1499}, SENSIBLE, [no_cells("Vmin", "1.499")]),
    ("Vmin just a cell's", {"vmin_mv": 1500}, (1500, None, 3400, 3700), []),
    ("Vmin under Vbalance", {"vmin_mv": 3395}, (3395, None, 3400, 3700), []),
    (
        "Vmin at Vbalance", {"vmin_mv": 3400}, (3400, None, 3400, 3700),
        ["Vmin 3.400 V is not under Vbalance or Vmax"],
    ),
    (
        "Vmin 0, Vmax 1 V, balancing off", {"vmin_mv": 0, "vmax_mv": 1000, "vbalance_mv": 0},
        (2900, None, 970, None), [no_cells("Vmin", "0.000"), no_cells("Vmax", "1.000")],
    ),
    (
        "Vmin 5 V", {"vmin_mv": 5000}, (5000, None, 3400, 3700),
        ["Vmin 5.000 V is not under Vbalance or Vmax"],
    ),
    ("Vmin over 5 V", {"vmin_mv": 5001}, (5001, None, 3400, 3700), [no_cells("Vmin", "5.001")]),
    ("Vmin of the pack", {"vmin_mv": 46_400}, (46_400, None, 3400, 3700), [no_cells("Vmin", "46.400")]),
    ("Vmax 0", {"vmax_mv": 0}, (2900, None, 3400, None), [no_cells("Vmax", "0.000")]),
    ("Vmax just no cell's", {"vmax_mv": 1499}, (2900, None, 3400, None), [no_cells("Vmax", "1.499")]),
    (
        "Vmax just a cell's", {"vmax_mv": 1500}, (2900, None, 1470, 1500),
        ["Vbalance 3.400 V is not under Vmax 1.500 V", "Vmin 2.900 V is not under Vbalance or Vmax"],
    ),
    ("Vmax 5 V", {"vmax_mv": 5000}, (2900, None, 3400, 5000), []),
    ("Vmax over 5 V", {"vmax_mv": 5001}, (2900, None, 3400, 3500), [no_cells("Vmax", "5.001")]),
    ("Vmax of the pack", {"vmax_mv": 59_200}, (2900, None, 3400, 3500), [no_cells("Vmax", "59.200")]),
    (
        "Vmax of the pack, balancing off", {"vmax_mv": 59_200, "vbalance_mv": 0}, (2900, None, 59_170, None),
        [no_cells("Vmax", "59.200")],
    ),
    (
        "Vbalance just no cell's", {"vbalance_mv": 1499}, (2900, None, 3670, 3700),
        [no_cells("Vbalance", "1.499")],
    ),
    (
        "Vbalance just a cell's", {"vbalance_mv": 1500, "vmin_mv": 1500}, (1500, None, 1500, 3700),
        ["Vmin 1.500 V is not under Vbalance or Vmax"],
    ),
    ("Vbalance 5 V", {"vbalance_mv": 5000, "vmax_mv": 80_000}, (2900, None, 5000, 5100),
     [no_cells("Vmax", "80.000")]),
    (
        "Vbalance over 5 V", {"vbalance_mv": 5001}, (2900, None, 3670, 3700),
        [no_cells("Vbalance", "5.001")],
    ),
    ("Vbalance under Vmax", {"vbalance_mv": 3695}, (2900, None, 3695, 3700), []),
    (
        "Vbalance at Vmax", {"vbalance_mv": 3700}, (2900, None, 3670, 3700),
        ["Vbalance 3.700 V is not under Vmax 3.700 V"],
    ),
    (
        "Vbalance over Vmax", {"vbalance_mv": 4000}, (2900, None, 3670, 3700),
        ["Vbalance 4.000 V is not under Vmax 3.700 V"],
    ),
    ("Vlow under Vmin", {"vlow_mv": 2800}, SENSIBLE, ["Vlow 2.800 V is not over Vmin"]),
    ("Vlow at Vmin", {"vlow_mv": 2900}, SENSIBLE, ["Vlow 2.900 V is not over Vmin"]),
    ("Vlow over Vmin", {"vlow_mv": 2905}, (2900, 2905, 3400, 3700), []),
    ("Vlow under Vbalance", {"vlow_mv": 3395}, (2900, 3395, 3400, 3700), []),
    ("Vlow at Vbalance", {"vlow_mv": 3400}, SENSIBLE, ["Vlow 3.400 V is not under Vbalance or Vmax"]),
    ("Vlow of the pack", {"vlow_mv": 48_000}, SENSIBLE, ["Vlow 48.000 V is not under Vbalance or Vmax"]),
    (
        "Vlow under the Vmin that stands in", {"vmin_mv": 0, "vlow_mv": 2800}, SENSIBLE,
        [no_cells("Vmin", "0.000"), "Vlow 2.800 V is not over Vmin"],
    ),
    ("capacity 0", {"capacity_wh": 0}, SENSIBLE, ["the capacity is 0"]),
    ("hardly a capacity", {"capacity_wh": 100}, SENSIBLE, []),
    (
        "everything 0", {"vmin_mv": 0, "vmax_mv": 0, "vbalance_mv": 0, "vlow_mv": 0, "capacity_wh": 0},
        (2900, None, 0, None), [no_cells("Vmin", "0.000"), no_cells("Vmax", "0.000"), "the capacity is 0"],
    ),
    (
        "all wrong at once",
        {"vmin_mv": 6000, "vmax_mv": 6000, "vbalance_mv": 6000, "vlow_mv": 6000, "capacity_wh": 0},
        (6000, None, 5970, None),
        [
            no_cells("Vmin", "6.000"), no_cells("Vmax", "6.000"), no_cells("Vbalance", "6.000"),
            "Vlow 6.000 V is not over Vmin", "the capacity is 0",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expected", "sentences"), [row[1:] for row in NONSENSE], ids=[row[0] for row in NONSENSE]
)
def test_what_makes_no_sense_is_said_and_read_carefully(
    said: dict[str, Any], expected: tuple[Any, ...], sentences: list[str]
) -> None:
    found = read(**said)
    assert found[:4] == expected
    assert found.wrong == ("; ".join(sentences) or None)


@pytest.mark.parametrize(
    ("said", "vmin_mv"),
    [
        ({"vbalance_mv": 2600, "vmax_mv": 2800}, 2150),
        ({"vbalance_mv": 3400, "vmax_mv": 3700}, 2900),
        ({"vbalance_mv": 4000, "vmax_mv": 4150}, 3490),
        ({"vbalance_mv": 4000, "vmax_mv": 4150, "vnom_mv": 3600}, 3400),
        ({"vbalance_mv": 1900, "vmax_mv": 2000}, 1900),
        ({"vbalance_mv": 1500, "vmax_mv": 2000}, 1500),
        ({"vbalance_mv": 0, "vmax_mv": 1000}, 2900),
        ({"vbalance_mv": 0, "vmax_mv": 0}, 2900),
    ],
    ids=["LTO", "LFP", "NMC", "NCA", "not over Vbalance", "nor over a low one", "no Vbalance", "nothing"],
)
def test_a_vmin_under_any_cells_voltage_is_read_as_the_manual_advises(
    said: dict[str, Any], vmin_mv: int
) -> None:
    for millivolts in (0, 1000, 1499):
        assert read(vmin_mv=millivolts, **said).vmin_mv == vmin_mv


# Nominal voltage, chemistry, capacity


@pytest.mark.parametrize(
    ("vbalance_mv", "vnom_mv", "expected"),
    [
        (1499, None, "LFP"), (1500, None, "LTO"),
        (1900, None, "LTO"), (2999, None, "LTO"), (3000, None, "LFP"), (3001, None, "LFP"),
        (3799, None, "LFP"), (3800, None, "NMC"), (3801, None, "NMC"), (4900, None, "NMC"),
        (4000, 3649, "NCA"), (4000, 3650, "NMC"), (4000, 3651, "NMC"), (4000, 3600, "NCA"),
        (3400, 3600, "LFP"), (0, None, "LFP"),
    ],
)  # fmt: skip
def test_the_chemistry_is_told_from_vbalance_and_of_nickel_ones_from_vnom(
    vbalance_mv: int, vnom_mv: int | None, expected: str
) -> None:
    one = frame(vbalance_mv=vbalance_mv)
    assert ratings.chemistry(Settings(), one, vnom_mv) == expected
    for configured in ("LFP", "LTO", "NMC", "NCA"):
        assert ratings.chemistry(Settings(chemistry=configured), one, vnom_mv) == configured


@pytest.mark.parametrize(
    ("vmin_mv", "vnom_mv", "known"),
    [
        (2900, None, None), (2900, 0, None), (2900, 2895, None), (2900, 2900, 2900), (2900, 3300, 3300),
        (0, 1495, None), (0, 1500, 1500), (2900, 1500, None),
    ],
)  # fmt: skip
def test_a_nominal_voltage_is_at_least_vmin_and_a_cells(
    vmin_mv: int, vnom_mv: int | None, known: int | None
) -> None:
    state = pack(vnom_mv=vnom_mv, vmin_mv=vmin_mv)
    assert state.frame is not None
    assert ratings.vnom_mv(state, state.frame) == known


@pytest.mark.parametrize(
    ("chemistry", "vnom_mv", "mah"),
    [
        ("LFP", None, 303_030), ("LTO", None, 416_666), ("NMC", None, 270_270), ("NCA", None, 277_777),
        ("auto", None, 303_030), ("LFP", 3200, 312_500), ("NMC", 3300, 303_030), ("LFP", 0, 303_030),
    ],
)  # fmt: skip
def test_the_capacity_is_by_vnom_or_by_the_one_that_the_manual_advises(
    chemistry: str, vnom_mv: int | None, mah: int
) -> None:
    """16 kWh in 16 cells."""
    assert ratings.capacity_mah(Settings(chemistry=chemistry), pack(vnom_mv=vnom_mv)) == mah


def test_the_capacity_is_of_a_string_of_cells() -> None:
    """To the mAh: 6553.5 kWh in 100 cells of 3.3 V."""
    assert ratings.capacity_mah(Settings(), pack(cells=100, capacity_wh=6_553_500)) == 19_859_090
    assert ratings.capacity_mah(Settings(), pack(capacity_wh=0)) == 0
    assert ratings.capacity_mah(Settings(), PackState()) == 0


def test_the_highest_capacity_is_what_the_wire_can_carry() -> None:
    """65,535 counts of 100 Wh."""
    assert ratings.MOST_WH == 6_553_500
    assert decode(encode(frame(capacity_wh=ratings.MOST_WH))).capacity_wh == ratings.MOST_WH


# What holds for any settings


MILLIVOLTS = st.one_of(
    st.sampled_from([0, 1495, 1500, 2900, 3400, 3430, 3700, 5000, 5005]),
    st.integers(0, 65_535).map(lambda counts: 5 * counts),
)
MARGINS = st.floats(0, 100)


@given(MILLIVOLTS, MILLIVOLTS, MILLIVOLTS, st.one_of(st.none(), MILLIVOLTS), MARGINS)
def test_any_settings_are_read_in_order_and_carefully(
    vmin: int, vbalance: int, vmax: int, vlow: int | None, margin: float
) -> None:
    said = {"vlow_mv": vlow, "vmin_mv": vmin, "vbalance_mv": vbalance, "vmax_mv": vmax}
    found = read({"charge_margin_mv": margin}, **said)
    assert found.vmin_mv >= max(vmin, 1500)
    assert found.balance_mv >= 0
    assert found.vlow_mv is None or found.vmin_mv < found.vlow_mv == vlow < found.balance_mv
    assert found.low_mv > found.vmin_mv
    if found.vmax_mv is not None:
        assert found.balance_mv <= found.vmax_mv <= vmax
    if found.wrong is None:
        assert (found.vmin_mv, found.vmax_mv) == (vmin, vmax)
        assert 1500 <= vmin < found.balance_mv <= vmax <= 5000
        assert vbalance in (0, found.balance_mv)
