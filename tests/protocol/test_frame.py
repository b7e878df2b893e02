"""One frame: what its bytes mean, and which 58 bytes are one."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from damage import EXAMPLE
from smartbms_protocol import CELSIUS, Damage, Frame, decode, encode, layout, read

# Put together by hand from the vendor's document, with its own examples where it has some.
BY_HAND = bytes.fromhex(
    "0105FF"  # pack voltage: 67071 x 5 mV = 335.355 V
    "2B0064"  # I1: + 100 x 125 mA
    "2B00C7"  # I2: + 199 x 125 mA
    "2D0063"  # battery current: - 99 x 125 mA
    "029C07"  # lowest cell: 668 x 5 mV, cell 7
    "02A02A"  # highest cell: 672 x 5 mV, cell 42
    "011401"  # coldest: 276, cell 1
    "012864"  # hottest: 296, cell 100
    "19"  # these readings are of cell 25
    "64"  # of 100
    "029E"  # its voltage: 670 x 5 mV
    "0122"  # its temperature: 290
    "83"  # charging and discharging allowed, SoC not calibrated
    "001450"  # collected today: 5200 Wh
    "0023A0"  # stored: 9120 Wh
    "001004"  # consumed today: 4100 Wh
    "39"  # 57 %
    "0004D2"  # collected in total: 1234 kWh
    "00044C"  # consumed in total: 1100 kWh
    "1C62"  # key 28 - 25 = 3, value 98
    "00A0"  # capacity: 160 x 0.1 kWh = 16.0 kWh
    "0244"  # Vmin: 580 x 5 mV
    "02E4"  # Vmax: 740 x 5 mV
    "02A8"  # Vbalance: 680 x 5 mV
    "7B"  # the sum of all these is 0x0C7B
)


def said(**changes: Any) -> Frame | Damage:
    """What is made of the example frame with these fields changed."""
    return read(encode(replace(EXAMPLE, **changes)))


def changed(**changes: Any) -> Frame:
    return replace(EXAMPLE, **changes)


# What the bytes mean


def test_every_field_of_a_frame_put_together_by_hand() -> None:
    assert read(BY_HAND) == Frame(
        voltage_mv=335_355,
        current1_ma=12_500,
        current2_ma=24_875,
        current_ma=-12_375,
        lowest_mv=3_340,
        lowest_cell=7,
        highest_mv=3_360,
        highest_cell=42,
        coldest_raw=276,
        coldest_cell=1,
        hottest_raw=296,
        hottest_cell=100,
        cell=25,
        cells=100,
        cell_mv=3_350,
        cell_raw=290,
        status=0x83,
        collected_today_wh=5_200,
        stored_wh=9_120,
        consumed_today_wh=4_100,
        soc_percent=57,
        collected_kwh=1_234,
        consumed_kwh=1_100,
        key=3,
        value=98,
        capacity_wh=16_000,
        vmin_mv=2_900,
        vmax_mv=3_700,
        vbalance_mv=3_400,
    )


def test_encode_writes_the_bytes_put_together_by_hand() -> None:
    assert encode(decode(BY_HAND)) == BY_HAND


@pytest.mark.parametrize("name", ["current1_ma", "current2_ma", "current_ma"])
def test_x_is_no_value_and_not_zero(name: str) -> None:
    byte = {"current1_ma": 3, "current2_ma": 6, "current_ma": 9}[name]
    none = BY_HAND[:byte] + b"X\x00\x00" + BY_HAND[byte + 3 :]
    zero = BY_HAND[:byte] + b"+\x00\x00" + BY_HAND[byte + 3 :]
    assert getattr(decode(none), name) is None
    assert getattr(decode(zero), name) == 0
    assert getattr(decode(zero), name) is not None


def test_x_is_no_value_whatever_follows_it() -> None:
    assert decode(BY_HAND[:6] + b"X\x12\x34" + BY_HAND[9:]).current2_ma is None


def test_minus_zero_is_zero() -> None:
    assert decode(BY_HAND[:9] + b"-\x00\x00" + BY_HAND[12:]).current_ma == 0


@pytest.mark.parametrize("name", ["current1_ma", "current2_ma", "current_ma"])
def test_zero_is_written_with_a_plus_and_no_value_with_zeros(name: str) -> None:
    byte = {"current1_ma": 3, "current2_ma": 6, "current_ma": 9}[name]
    assert encode(replace(EXAMPLE, **{name: 0}))[byte : byte + 3] == b"+\x00\x00"
    assert encode(replace(EXAMPLE, **{name: None}))[byte : byte + 3] == b"X\x00\x00"  # type: ignore[arg-type]


def test_a_frame_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EXAMPLE.soc_percent = 58  # type: ignore[misc]


@pytest.mark.parametrize(("byte", "key"), [(0, None), (24, None), (25, 0), (43, 18), (255, 230)])
def test_keys_begin_at_25_and_below_it_there_is_no_pair(byte: int, key: int | None) -> None:
    assert decode(BY_HAND[:47] + bytes([byte]) + BY_HAND[48:]).key == key


def test_has_is_true_for_any_of_the_bits() -> None:
    frame = changed(status=layout.CHARGE_ALLOWED | layout.UNDER_TMIN)
    assert frame.has(layout.CHARGE_ALLOWED)
    assert frame.has(layout.UNDER_TMIN | layout.OVER_TMAX)
    assert not frame.has(layout.DISCHARGE_ALLOWED | layout.OVER_VMAX)


@pytest.mark.parametrize(
    ("cell", "may"),
    [(1, False), (2, True), (3, False), (4, True), (0, False)],
    ids=["the lowest", "the highest", "the frame's own", "not named: as the highest", "no cell"],
)
def test_a_cell_over_vbalance_may_balance(cell: int, may: bool) -> None:
    frame = replace(
        EXAMPLE, lowest_cell=1, lowest_mv=3350, highest_cell=2, highest_mv=3405, cell=3, cell_mv=3400,
        vbalance_mv=3400,
    )  # fmt: skip
    assert frame.may_balance(cell) is may
    assert frame.may_balance(cell, 3405) is False
    assert frame.may_balance(cell, 3404) is (cell in (2, 4))
    assert replace(frame, vbalance_mv=0).may_balance(cell) is False
    assert replace(frame, vbalance_mv=0).may_balance(cell, 3400) is may


def test_rare_is_cells_capacity_and_settings() -> None:
    assert decode(BY_HAND).rare == (100, 16_000, 2_900, 3_700, 3_400)


@pytest.mark.parametrize(
    ("raw", "document", "vendor"),
    [(0x0114, 0.0, 4.5), (0x0128, 20.0, 21.7), (308, 32.0, 32.0), (340, 64.0, 59.4), (236, -40.0, -29.7)],
)
def test_both_conversions_of_the_temperature(raw: int, document: float, vendor: float) -> None:
    assert CELSIUS["document"](raw) == document
    assert CELSIUS["vendor"](raw) == vendor


def test_the_documents_temperature_is_the_careful_one_on_both_sides() -> None:
    assert all(CELSIUS["document"](raw) < CELSIUS["vendor"](raw) for raw in range(307))
    assert all(CELSIUS["document"](raw) > CELSIUS["vendor"](raw) for raw in range(309, 600))


# Misuse


@pytest.mark.parametrize("size", [0, 57, 59])
def test_a_frame_has_58_bytes(size: int) -> None:
    data = (BY_HAND * 2)[:size]
    with pytest.raises(ValueError, match=f"58 bytes, not {size}"):
        decode(data)
    with pytest.raises(ValueError, match=f"58 bytes, not {size}"):
        read(data)


@pytest.mark.parametrize(("byte", "name"), [(3, "current1_ma"), (6, "current2_ma"), (9, "current_ma")])
def test_a_wrong_sign_is_named(byte: int, name: str) -> None:
    wrong = BY_HAND[:byte] + b"?" + BY_HAND[byte + 1 :]
    with pytest.raises(ValueError, match=rf"byte {byte + 1} \({name}\) is 0x3F"):
        decode(wrong)
    assert read(wrong) is Damage.SIGNS


@pytest.mark.parametrize(
    "change",
    [
        {"voltage_mv": 53_121},
        {"voltage_mv": -5},
        {"voltage_mv": 5 * 256**3},
        {"current_ma": 126},
        {"current1_ma": 125 * 65_536},
        {"current2_ma": -125 * 65_536},
        {"capacity_wh": 15_950},
        {"cells": 256},
        {"value": -1},
        {"key": 231},
        {"key": -26},
    ],
    ids=str,
)
def test_encode_refuses_what_the_wire_cannot_carry(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=name):
        encode(replace(EXAMPLE, **change))


def test_encode_refuses_a_negative_key() -> None:
    with pytest.raises(ValueError, match="key"):
        encode(changed(key=-1))


# What is a frame


@pytest.mark.parametrize("byte", range(58))
def test_any_one_wrong_byte_is_noticed(byte: int) -> None:
    for difference in (1, 0x80, 0xFF):
        wrong = bytearray(BY_HAND)
        wrong[byte] ^= difference
        assert isinstance(read(bytes(wrong)), Damage)


def test_checksum_is_the_low_byte_of_the_sum() -> None:
    assert read(BY_HAND[:-1] + b"\x7a") is Damage.CHECKSUM
    assert read(BY_HAND[:-1] + b"\x7c") is Damage.CHECKSUM


@pytest.mark.parametrize(("percent", "good"), [(0, True), (100, True), (101, False), (255, False)])
def test_soc_ends_at_100_percent(percent: int, good: bool) -> None:
    assert said(soc_percent=percent) == (changed(soc_percent=percent) if good else Damage.IMPLAUSIBLE)


NAMED = ["lowest_cell", "highest_cell", "coldest_cell", "hottest_cell", "cell"]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(("number", "good"), [(0, False), (1, True), (16, True), (17, False)])
def test_a_cell_number_is_one_of_the_packs(name: str, number: int, good: bool) -> None:
    assert said(**{name: number}) == (changed(**{name: number}) if good else Damage.IMPLAUSIBLE)


@pytest.mark.parametrize("name", NAMED)
def test_a_bms_that_hears_no_cell_may_name_none(name: str) -> None:
    status = layout.NO_COMMUNICATION
    assert said(status=status, **{name: 0}) == changed(status=status, **{name: 0})
    assert said(status=status, **{name: 17}) is Damage.IMPLAUSIBLE


@pytest.mark.parametrize("cells", [0, 1])
def test_a_pack_has_two_cells_at_least(cells: int) -> None:
    ones = dict.fromkeys(NAMED, cells)
    assert said(cells=cells, **ones) is Damage.IMPLAUSIBLE
    assert said(cells=cells, status=layout.NO_COMMUNICATION, **ones) is Damage.IMPLAUSIBLE


@pytest.mark.parametrize(("cells", "voltage_mv"), [(2, 6_640), (255, 846_600)])
def test_2_and_255_cells(cells: int, voltage_mv: int) -> None:
    change = {"cells": cells, "voltage_mv": voltage_mv, **dict.fromkeys(NAMED, cells)}
    assert said(**change) == changed(**change)


# The tolerances: just inside, at, just outside


@pytest.mark.parametrize(
    ("i1", "i2", "total", "good"),
    [
        (0, 0, 24_875, True),
        (0, 0, 25_000, True),
        (0, 0, 25_125, False),
        (0, 0, -25_000, True),
        (0, 0, -25_125, False),
        # 25 A and a quarter of the larger of the two
        (100_000, 0, 150_000, True),
        (100_000, 0, 150_125, False),
        (100_000, 0, 50_000, True),
        (100_000, 0, 49_875, False),
        (0, 100_000, -50_000, True),
        (0, 100_000, -49_875, False),
        (0, -100_000, 150_000, True),
        (0, -100_000, 150_125, False),
        # I1 - I2, and not their sum
        (100_000, 100_000, 0, True),
        (100_000, 100_000, 200_000, False),
    ],
)
def test_the_battery_current_is_i1_less_i2(i1: int, i2: int, total: int, good: bool) -> None:
    change = {"current1_ma": i1, "current2_ma": i2, "current_ma": total}
    assert said(**change) == (changed(**change) if good else Damage.INCONSISTENT)


END_MA = 65_535 * 125


@pytest.mark.parametrize("name", ["current1_ma", "current2_ma", "current_ma"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_current_at_its_end_contradicts_nothing(name: str, sign: int) -> None:
    zero = {"current1_ma": 0, "current2_ma": 0, "current_ma": 0}
    at_the_end = {**zero, name: sign * END_MA}
    assert said(**at_the_end) == changed(**at_the_end)
    assert said(**{**zero, name: sign * (END_MA - 125)}) is Damage.INCONSISTENT


@pytest.mark.parametrize("name", ["current1_ma", "current2_ma", "current_ma"])
def test_a_current_without_sensor_contradicts_nothing(name: str) -> None:
    change = {"current1_ma": 400_000, "current2_ma": 400_000, "current_ma": 400_000, name: None}
    assert said(**change) == changed(**change)


@pytest.mark.parametrize(
    ("lowest", "good"), [(3_525, True), (3_530, True), (3_535, False)], ids=["inside", "at", "outside"]
)
def test_lowest_is_not_above_highest(lowest: int, good: bool) -> None:
    change = {"lowest_mv": lowest, "highest_mv": 3_330, "cell_mv": 3_330}
    assert said(**change) == (changed(**change) if good else Damage.INCONSISTENT)


@pytest.mark.parametrize(
    ("coldest", "good"), [(307, True), (308, True), (309, False)], ids=["inside", "at", "outside"]
)
def test_coldest_is_not_above_hottest(coldest: int, good: bool) -> None:
    change = {"coldest_raw": coldest, "hottest_raw": 298}
    assert said(**change) == (changed(**change) if good else Damage.INCONSISTENT)


@pytest.mark.parametrize(
    ("cell_mv", "good"),
    [(3_105, False), (3_110, True), (3_115, True), (3_525, True), (3_530, True), (3_535, False)],
)
def test_a_cell_lies_between_lowest_and_highest(cell_mv: int, good: bool) -> None:
    change = {"lowest_mv": 3_310, "highest_mv": 3_330, "cell_mv": cell_mv}
    assert said(**change) == (changed(**change) if good else Damage.INCONSISTENT)


@pytest.mark.parametrize(
    ("voltage_mv", "good"),
    [
        # 16 x 3.2 V less 15 %, 16 x 3.4 V and 15 % more
        (43_515, False),
        (43_520, True),
        (43_525, True),
        (62_555, True),
        (62_560, True),
        (62_565, False),
    ],
)
def test_the_pack_has_the_voltage_of_its_cells(voltage_mv: int, good: bool) -> None:
    change = {"lowest_mv": 3_200, "highest_mv": 3_400, "cell_mv": 3_300, "voltage_mv": voltage_mv}
    assert said(**change) == (changed(**change) if good else Damage.INCONSISTENT)


# No frame is refused for saying that something is wrong

ZEROS = {
    "voltage_mv": 0,
    "lowest_mv": 0,
    "highest_mv": 0,
    "cell_mv": 0,
    "coldest_raw": 0,
    "hottest_raw": 0,
    "cell_raw": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"status": layout.NO_COMMUNICATION, **ZEROS, **dict.fromkeys(NAMED, 0)},
        {"status": layout.NO_COMMUNICATION, **dict.fromkeys(NAMED, 0)},
        {"status": layout.NO_COMMUNICATION, "lowest_mv": 5_000, "highest_mv": 5, "voltage_mv": 5},
        ZEROS,
        {"voltage_mv": 0},
        {"lowest_mv": 0},
        {"lowest_mv": 0, "cell_mv": 0},
        {"lowest_mv": 0, "cell_mv": 0, "voltage_mv": 0},
        {"cell_mv": 0},
        {"highest_mv": 0},
        {"hottest_raw": 0},
        {"coldest_raw": 0},
        {"cell_raw": 0},
        {"cell_raw": 65_535},
        {"hottest_raw": 65_535, "cell_raw": 65_535},
        {"status": 0},
        {"status": 0xFB},
        {"status": 0xFF},
        {"soc_percent": 0, "stored_wh": 0},
        {"stored_wh": 0xFFFFFF, "collected_today_wh": 0xFFFFFF, "consumed_today_wh": 0xFFFFFF},
        {"collected_kwh": 0xFFFFFF, "consumed_kwh": 0xFFFFFF},
        {"capacity_wh": 0, "vmin_mv": 0, "vmax_mv": 0, "vbalance_mv": 0},
        {"capacity_wh": 6_553_500, "vmin_mv": 327_675, "vmax_mv": 327_675, "vbalance_mv": 327_675},
        {"vmin_mv": 4_000, "vmax_mv": 2_000},
        {"key": None, "value": 255},
        {"key": 230, "value": 255},
        {"highest_mv": 327_675, "lowest_mv": 327_675, "cell_mv": 327_675, "voltage_mv": 16 * 327_675},
    ],
    ids=str,
)
def test_neither_trouble_nor_size_is_a_reason_to_refuse(change: dict[str, Any]) -> None:
    assert said(**change) == changed(**change)
