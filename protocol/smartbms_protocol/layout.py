"""The 58 bytes and the 19 rotating keys, as tables.

This file is the data sheet: one row per field.  Decoding, encoding, the checks and the
documentation all read these rows; nothing else in the project indexes a frame.  Rules about
what a value means belong in ``frame.py`` and ``pack.py``.

Source: 123electric, "UART data protocol", firmware v3.3.11, checked against independent
public decoders.  Integers are big-endian and unsigned; bytes are numbered from 1, as the vendor
does.  A current is one ASCII sign byte (``+``, ``-`` or ``X`` for "no value") and a magnitude.
"""

from __future__ import annotations

from typing import NamedTuple

FRAME_SIZE = 58
BIT_RATE = 9600
"""Line speed, 8N1: a frame lasts 58 x 10 / 9600 = 60.4 ms."""

SIGNS = b"+-X"
KEY_OFFSET = 25
"""The wire carries key + 25; below 25 the firmware sends no pair (before 3.3.6)."""

KEYS = 19
"""Keys 0 to 18, one a frame: a round takes 19 frames."""


class Field(NamedTuple):
    """One field of the frame.  ``step`` is how many ``unit`` one count of the wire stands for."""

    name: str
    byte: int
    size: int
    step: int
    unit: str
    meaning: str
    signed: bool = False
    """A sign byte at ``byte``, the magnitude in the ``size - 1`` bytes after it."""
    rare: bool = False
    """Changes only when a person changes it: two frames have to agree (``pack.py``)."""


FIELDS = (
    Field("voltage_mv", 1, 3, 5, "mV", "pack voltage"),
    Field("current1_ma", 4, 3, 125, "mA", "current sensor 1 (charge side)", signed=True),
    Field("current2_ma", 7, 3, 125, "mA", "current sensor 2 (load side)", signed=True),
    Field("current_ma", 10, 3, 125, "mA", "battery current, positive charges", signed=True),
    Field("lowest_mv", 13, 2, 5, "mV", "lowest cell voltage"),
    Field("lowest_cell", 15, 1, 1, "cell", "the cell of it; cell 1 is at the minus side"),
    Field("highest_mv", 16, 2, 5, "mV", "highest cell voltage"),
    Field("highest_cell", 18, 1, 1, "cell", "the cell of it"),
    Field("coldest_raw", 19, 2, 1, "raw", "lowest cell temperature"),
    Field("coldest_cell", 21, 1, 1, "cell", "the cell of it"),
    Field("hottest_raw", 22, 2, 1, "raw", "highest cell temperature"),
    Field("hottest_cell", 24, 1, 1, "cell", "the cell of it"),
    Field("cell", 25, 1, 1, "cell", "the cell that bytes 27 to 30 are about, another each frame"),
    Field("cells", 26, 1, 1, "cells", "number of cells in series, 2 to 255", rare=True),
    Field("cell_mv", 27, 2, 5, "mV", "that cell's voltage"),
    Field("cell_raw", 29, 2, 1, "raw", "that cell's temperature; far too high while it balances"),
    Field("status", 31, 1, 1, "bits", "status byte 1"),
    Field("collected_today_wh", 32, 3, 1, "Wh", "energy collected today"),
    Field("stored_wh", 35, 3, 1, "Wh", "energy stored now"),
    Field("consumed_today_wh", 38, 3, 1, "Wh", "energy consumed today"),
    Field("soc_percent", 41, 1, 1, "%", "state of charge"),
    Field("collected_kwh", 42, 3, 1, "kWh", "energy collected in total"),
    Field("consumed_kwh", 45, 3, 1, "kWh", "energy consumed in total"),
    Field("key", 48, 1, 1, "key + 25", "which rotating value this frame carries"),
    Field("value", 49, 1, 1, "byte", "the rotating value"),
    Field("capacity_wh", 50, 2, 100, "Wh", "battery capacity (setting)", rare=True),
    Field("vmin_mv", 52, 2, 5, "mV", "Vmin (setting)", rare=True),
    Field("vmax_mv", 54, 2, 5, "mV", "Vmax (setting)", rare=True),
    Field("vbalance_mv", 56, 2, 5, "mV", "Vbalance (setting), Vbypass on generation A", rare=True),
    Field("checksum", 58, 1, 1, "sum", "low 8 bits of the sum of bytes 1 to 57"),
)


class Pair(NamedTuple):
    """A value that travels in the rotating keys, its high byte first.

    ``known`` is the highest count that means a value: above it the BMS does not know.
    """

    name: str
    keys: tuple[int, ...]
    step: int
    unit: str
    meaning: str
    known: int | None = None
    rare: bool = False


PAIRS = (
    Pair("soh_percent", (0,), 1, "%", "state of health", known=100),
    Pair("charge_efficiency_percent", (1,), 1, "%", "charge efficiency", known=100),
    Pair("vlow_mv", (2, 3), 5, "mV", "Vlow (setting)", rare=True),
    Pair("vnom_mv", (4, 5), 5, "mV", "nominal cell voltage (setting)", rare=True),
    Pair("firmware_major_minor", (6,), 1, "2 x 4 bits", "firmware version, major and minor"),
    Pair("firmware_patch", (7,), 1, "", "firmware version, patch"),
    Pair("cycles", (8, 9), 1, "cycles", "charge cycles"),
    Pair("charged_kwh", (10, 11, 12), 1, "kWh", "energy charged into the battery, lifetime"),
    Pair("discharged_kwh", (13, 14, 15), 1, "kWh", "energy discharged, lifetime"),
    Pair("status2", (16,), 1, "bits", "status byte 2"),
    Pair("vfull_mv", (17, 18), 5, "mV", "Vfull (setting)", rare=True),
)


# Status byte 1
CHARGE_ALLOWED = 1 << 0
DISCHARGE_ALLOWED = 1 << 1
NO_COMMUNICATION = 1 << 2
"""Cell communication error, the light "E"."""
UNDER_VMIN = 1 << 3
"""The light "Vl"."""
OVER_VMAX = 1 << 4
"""The light "Vh"."""
UNDER_TMIN = 1 << 5
"""The light "Tl"."""
OVER_TMAX = 1 << 6
"""The light "Th"."""
SOC_NOT_CALIBRATED = 1 << 7

# Status byte 2 (key 16); bits 0, 6 and 7 are unused
EARLY_WARNING = 1 << 1
TOO_COLD_TO_CHARGE = 1 << 2
TOO_COLD_TO_DISCHARGE = 1 << 3
CHARGE_RELAY_CLOSED = 1 << 4
LOAD_RELAY_CLOSED = 1 << 5


def markdown() -> str:
    """The two tables as Markdown, for ``protocol/README.md`` (a test compares them)."""
    lines = ["| byte | size | field | one count | range | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for field in FIELDS:
        top = (256 ** (field.size - field.signed) - 1) * field.step
        low = f"-{top}" if field.signed else "0"
        count = f"{field.step} {field.unit}"
        lines.append(
            f"| {field.byte} | {field.size} | `{field.name}` | {count} | {low} to {top} | {field.meaning} |"
        )
    lines += ["", "| keys | value | one count | meaning |", "| --- | --- | --- | --- |"]
    for pair in PAIRS:
        keys = ", ".join(map(str, pair.keys))
        note = f"; over {pair.known}: not known" if pair.known is not None else ""
        count = f"{pair.step} {pair.unit}".strip()
        lines.append(f"| {keys} | `{pair.name}` | {count} | {pair.meaning}{note} |")
    return "\n".join(lines) + "\n"
