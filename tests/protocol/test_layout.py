"""The tables, row by row against the vendor's document; written out again by hand on purpose."""

import pytest

from smartbms_protocol import layout

# byte from 0, size with the sign, mV/mA/Wh... a count
WIRE = [
    ("voltage_mv", 0, 3, 5),
    ("current1_ma", 3, 3, 125),
    ("current2_ma", 6, 3, 125),
    ("current_ma", 9, 3, 125),
    ("lowest_mv", 12, 2, 5),
    ("lowest_cell", 14, 1, 1),
    ("highest_mv", 15, 2, 5),
    ("highest_cell", 17, 1, 1),
    ("coldest_raw", 18, 2, 1),
    ("coldest_cell", 20, 1, 1),
    ("hottest_raw", 21, 2, 1),
    ("hottest_cell", 23, 1, 1),
    ("cell", 24, 1, 1),
    ("cells", 25, 1, 1),
    ("cell_mv", 26, 2, 5),
    ("cell_raw", 28, 2, 1),
    ("status", 30, 1, 1),
    ("collected_today_wh", 31, 3, 1),
    ("stored_wh", 34, 3, 1),
    ("consumed_today_wh", 37, 3, 1),
    ("soc_percent", 40, 1, 1),
    ("collected_kwh", 41, 3, 1),
    ("consumed_kwh", 44, 3, 1),
    ("key", 47, 1, 1),
    ("value", 48, 1, 1),
    ("capacity_wh", 49, 2, 100),
    ("vmin_mv", 51, 2, 5),
    ("vmax_mv", 53, 2, 5),
    ("vbalance_mv", 55, 2, 5),
    ("checksum", 57, 1, 1),
]


def test_every_field_is_where_the_document_has_it() -> None:
    assert [(field.name, field.byte - 1, field.size, field.step) for field in layout.FIELDS] == WIRE


def test_the_fields_fill_the_frame_without_gap_or_overlap() -> None:
    byte = 1
    for field in layout.FIELDS:
        assert field.byte == byte, field.name
        byte += field.size
    assert byte - 1 == layout.FRAME_SIZE == 58


def test_only_the_currents_have_a_sign() -> None:
    assert [field.name for field in layout.FIELDS if field.signed] == [
        "current1_ma",
        "current2_ma",
        "current_ma",
    ]


def test_two_frames_have_to_agree_on_cells_capacity_and_settings() -> None:
    rare = [field.name for field in layout.FIELDS if field.rare]
    assert rare == ["cells", "capacity_wh", "vmin_mv", "vmax_mv", "vbalance_mv"]


@pytest.mark.parametrize("field", layout.FIELDS, ids=lambda field: field.name)
def test_the_unit_is_in_the_name(field: layout.Field) -> None:
    units = {"mV": "_mv", "mA": "_ma", "Wh": "_wh", "kWh": "_kwh", "%": "_percent", "raw": "_raw"}
    assert field.name.endswith(units.get(field.unit, ""))


def test_the_rotating_keys_are_the_documents() -> None:
    assert [(pair.name, pair.keys, pair.step) for pair in layout.PAIRS] == [
        ("soh_percent", (0,), 1),
        ("charge_efficiency_percent", (1,), 1),
        ("vlow_mv", (2, 3), 5),
        ("vnom_mv", (4, 5), 5),
        ("firmware_major_minor", (6,), 1),
        ("firmware_patch", (7,), 1),
        ("cycles", (8, 9), 1),
        ("charged_kwh", (10, 11, 12), 1),
        ("discharged_kwh", (13, 14, 15), 1),
        ("status2", (16,), 1),
        ("vfull_mv", (17, 18), 5),
    ]
    assert layout.KEYS == 19
    assert layout.KEY_OFFSET == 25


def test_percentages_over_100_are_not_known_and_settings_are_rare() -> None:
    assert {pair.name for pair in layout.PAIRS if pair.known == 100} == {
        "soh_percent",
        "charge_efficiency_percent",
    }
    assert {pair.name for pair in layout.PAIRS if pair.rare} == {"vlow_mv", "vnom_mv", "vfull_mv"}


def test_status_bits() -> None:
    assert (
        layout.CHARGE_ALLOWED,
        layout.DISCHARGE_ALLOWED,
        layout.NO_COMMUNICATION,
        layout.UNDER_VMIN,
        layout.OVER_VMAX,
        layout.UNDER_TMIN,
        layout.OVER_TMAX,
        layout.SOC_NOT_CALIBRATED,
    ) == (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80)
    assert (
        layout.EARLY_WARNING,
        layout.TOO_COLD_TO_CHARGE,
        layout.TOO_COLD_TO_DISCHARGE,
        layout.CHARGE_RELAY_CLOSED,
        layout.LOAD_RELAY_CLOSED,
    ) == (0x02, 0x04, 0x08, 0x10, 0x20)


def test_a_frame_lasts_60_ms_on_the_wire() -> None:
    assert layout.BIT_RATE == 9_600
    assert round(layout.FRAME_SIZE * 10 / layout.BIT_RATE * 1_000, 1) == 60.4


@pytest.mark.parametrize(
    "line",
    [
        "| 1 | 3 | `voltage_mv` | 5 mV | 0 to 83886075 | pack voltage |",
        "| 4 | 3 | `current1_ma` | 125 mA | -8191875 to 8191875 | current sensor 1 (charge side) |",
        "| 26 | 1 | `cells` | 1 cells | 0 to 255 | number of cells in series, 2 to 255 |",
        "| 50 | 2 | `capacity_wh` | 100 Wh | 0 to 6553500 | battery capacity (setting) |",
        "| 0 | `soh_percent` | 1 % | state of health; over 100: not known |",
        "| 7 | `firmware_patch` | 1 | firmware version, patch |",
        "| 10, 11, 12 | `charged_kwh` | 1 kWh | energy charged into the battery, lifetime |",
    ],
)
def test_the_printed_tables_have_the_line(line: str) -> None:
    assert line in layout.markdown().splitlines()


def test_the_printed_tables_have_a_line_for_every_row() -> None:
    lines = layout.markdown().splitlines()
    assert len(lines) == 2 + 30 + 1 + 2 + 11
    assert lines[32] == ""
