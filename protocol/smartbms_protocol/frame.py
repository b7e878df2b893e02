"""One frame: bytes to whole numbers and back, and what makes 58 bytes a frame.

Pure functions over the rows of ``layout.py``.  No I/O, no clock, no memory of other frames
(that is ``stream.py`` and ``pack.py``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from . import layout
from .layout import FIELDS, FRAME_SIZE, KEY_OFFSET, SIGNS


class Damage(Enum):
    """Why 58 bytes are not a frame."""

    SIGNS = "signs"
    """A sign byte is not ``+``, ``-`` or ``X``."""
    CHECKSUM = "checksum"
    IMPLAUSIBLE = "implausible"
    """A cell number beyond the number of cells, fewer than 2 cells, a SoC over 100 %."""
    INCONSISTENT = "inconsistent"
    """The fields contradict each other by more than any measurement can."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The fields of one frame in whole numbers; units are in the names, see ``layout.FIELDS``.

    ``None`` is "no value": an ``X`` current (no sensor, which is not 0 A), or a key that the
    firmware does not send.  ``*_raw`` are temperatures before conversion (``CELSIUS``).
    """

    voltage_mv: int
    current1_ma: int | None
    current2_ma: int | None
    current_ma: int | None
    lowest_mv: int
    lowest_cell: int
    highest_mv: int
    highest_cell: int
    coldest_raw: int
    coldest_cell: int
    hottest_raw: int
    hottest_cell: int
    cell: int
    cells: int
    cell_mv: int
    cell_raw: int
    status: int
    collected_today_wh: int
    stored_wh: int
    consumed_today_wh: int
    soc_percent: int
    collected_kwh: int
    consumed_kwh: int
    key: int | None
    value: int
    capacity_wh: int
    vmin_mv: int
    vmax_mv: int
    vbalance_mv: int

    def has(self, bits: int) -> bool:
        """Whether any of these bits of status byte 1 is set."""
        return bool(self.status & bits)

    def may_balance(self, cell: int, vbalance_mv: int | None = None) -> bool:
        """Whether a cell is over Vbalance, as far as this frame tells, so that its board may be warm.

        A cell that it does not name counts as the highest.  Vbalance is the frame's own unless one is given.
        """
        limit = self.vbalance_mv if vbalance_mv is None else vbalance_mv
        named = {
            self.cell: self.cell_mv,
            self.lowest_cell: self.lowest_mv,
            self.highest_cell: self.highest_mv,
        }
        return bool(cell and limit) and named.get(cell, self.highest_mv) > limit

    @property
    def rare(self) -> tuple[int, ...]:
        """What changes only when a person changes it: cells, capacity and the settings."""
        return (self.cells, self.capacity_wh, self.vmin_mv, self.vmax_mv, self.vbalance_mv)


# Names, offsets and steps once more, unpacked for the hot path.
_PLAIN = tuple(
    (f.name, f.byte - 1, f.byte - 1 + f.size, f.step)
    for f in FIELDS
    if not f.signed and f.name not in ("checksum", "key")
)
_SIGNED = tuple((f.name, f.byte - 1, f.byte - 1 + f.size, f.step) for f in FIELDS if f.signed)
_KEY = next(f.byte - 1 for f in FIELDS if f.name == "key")
_CHECKSUM = FRAME_SIZE - 1


def checksum(body: bytes | bytearray) -> int:
    """The low 8 bits of the sum of the first 57 bytes."""
    return sum(body[:_CHECKSUM]) & 0xFF


def decode(data: bytes) -> Frame:
    """The fields of 58 bytes, without judging them (``read`` does).

    Raises ValueError when these are not 58 bytes or a sign byte is not ``+``, ``-`` or ``X``.
    """
    if len(data) != FRAME_SIZE:
        raise ValueError(f"a frame has {FRAME_SIZE} bytes, not {len(data)}")
    values: dict[str, Any] = {
        name: int.from_bytes(data[begin:end], "big") * step for name, begin, end, step in _PLAIN
    }
    for name, begin, end, step in _SIGNED:
        sign = data[begin]
        if sign not in SIGNS:
            raise ValueError(f"byte {begin + 1} ({name}) is 0x{sign:02X}, not +, - or X")
        size = int.from_bytes(data[begin + 1 : end], "big") * step
        values[name] = None if sign == ord("X") else -size if sign == ord("-") else size
    key = data[_KEY]
    values["key"] = key - KEY_OFFSET if key >= KEY_OFFSET else None
    return Frame(**values)


def encode(frame: Frame) -> bytes:
    """The 58 bytes of a frame, checksum included; ``decode`` gives the same frame again.

    Raises ValueError, naming the field, when a value does not fit its bytes or its step.
    """
    values = asdict(frame)
    key = values["key"]
    if key is not None and key < 0:
        raise ValueError(f"key cannot be {key} on the wire; None is no pair")
    values["key"] = 0 if key is None else key + KEY_OFFSET
    out = bytearray()
    for field in FIELDS[:-1]:
        value = values[field.name]
        if field.signed:
            out += b"X" if value is None else b"-" if value < 0 else b"+"
            value = abs(value or 0)
        size = field.size - field.signed
        out += _counts(field.name, value, field.step, size).to_bytes(size, "big")
    out.append(checksum(out))
    return bytes(out)


def _counts(name: str, value: int, step: int, size: int) -> int:
    counts, rest = divmod(value, step)
    if rest or not 0 <= counts < 256**size:
        raise ValueError(f"{name} cannot be {value} on the wire (steps of {step}, {size} bytes)")
    return counts


def read(data: bytes) -> Frame | Damage:
    """A frame, or why these 58 bytes are not one.  Raises ValueError when they are not 58."""
    if len(data) == FRAME_SIZE and any(data[begin] not in SIGNS for _, begin, _, _ in _SIGNED):
        return Damage.SIGNS
    frame = decode(data)
    if checksum(data) != data[_CHECKSUM]:
        return Damage.CHECKSUM
    if not _plausible(frame):
        return Damage.IMPLAUSIBLE
    if not _consistent(frame):
        return Damage.INCONSISTENT
    return frame


def _plausible(frame: Frame) -> bool:
    # Cell number 0 is let pass only with the communication error: a BMS that hears no cell has
    # none to name.
    first = 0 if frame.has(layout.NO_COMMUNICATION) else 1
    named = (frame.lowest_cell, frame.highest_cell, frame.coldest_cell, frame.hottest_cell, frame.cell)
    return frame.cells >= 2 and frame.soc_percent <= 100 and min(named) >= first and max(named) <= frame.cells


# The tolerances are far outside what measurement and timing explain (the manuals give +-20 mV a
# cell and sensor steps up to 1.25 A): they are there to notice bytes that landed in the wrong
# field, never to doubt a BMS that reports trouble.
CELL_TOLERANCE_MV = 200
TEMPERATURE_TOLERANCE_RAW = 10
VOLTAGE_TOLERANCE_PERCENT = 15
CURRENT_TOLERANCE_PERCENT = 25
CURRENT_TOLERANCE_MA = 25_000
CURRENT_END_MA = 0xFFFF * 125


def _consistent(frame: Frame) -> bool:
    return _currents_agree(frame) and (frame.has(layout.NO_COMMUNICATION) or _cells_agree(frame))


def _currents_agree(frame: Frame) -> bool:
    """The battery current is I1 - I2; nothing is known where one is ``X`` or at its end."""
    i1, i2, total = frame.current1_ma, frame.current2_ma, frame.current_ma
    if i1 is None or i2 is None or total is None or CURRENT_END_MA in (abs(i1), abs(i2), abs(total)):
        return True
    tolerance = CURRENT_TOLERANCE_MA + max(abs(i1), abs(i2)) * CURRENT_TOLERANCE_PERCENT // 100
    return abs(total - (i1 - i2)) <= tolerance


def _cells_agree(frame: Frame) -> bool:
    """Lowest under highest, the named cell between them, their sum near the pack's voltage.

    0 V is what a cell, or a pack, without a measurement reads: it contradicts nothing.
    """
    low, high = frame.lowest_mv, frame.highest_mv
    if low > high + CELL_TOLERANCE_MV and high:
        return False
    if frame.coldest_raw > frame.hottest_raw + TEMPERATURE_TOLERANCE_RAW and frame.hottest_raw:
        return False
    if high and frame.cell_mv and not low - CELL_TOLERANCE_MV <= frame.cell_mv <= high + CELL_TOLERANCE_MV:
        return False
    if not high or not frame.voltage_mv:
        return True
    least = frame.cells * low * (100 - VOLTAGE_TOLERANCE_PERCENT)
    most = frame.cells * high * (100 + VOLTAGE_TOLERANCE_PERCENT)
    return least <= 100 * frame.voltage_mv <= most


def celsius_document(raw: int) -> float:
    """Degrees Celsius as the vendor's protocol document has it: 1 a count, 276 is 0."""
    return float(raw - 276)


def celsius_vendor(raw: int) -> float:
    """Degrees Celsius as the vendor's own programs have it: 0.857 a count, to 0.1."""
    return round(0.857 * raw - 232, 1)


CELSIUS = {"document": celsius_document, "vendor": celsius_vendor}
"""The two published conversions.  They meet at 31.7 degC; the document's is colder below and
hotter above, so it is the careful one on both sides and the default."""
