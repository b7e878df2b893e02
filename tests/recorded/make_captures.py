"""Makes the captures in this folder: ``python tests/recorded/make_captures.py``.

The frames are put together here byte after byte from the vendor's document, not by the decoder's
own ``encode``: a capture that the decoder had made would agree with any mistake of it.  The packs
are simple on purpose, so that the expected values beside each capture can be checked by hand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
BYTE_S = 10 / 9600
PIECES = (15, 1, 16, 16, 7, 3, 30, 2, 58)
"""Sizes of the pieces that the line was read in, over and over."""

Timed = tuple[float, bytes]


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def current(counts: int | None) -> bytes:
    if counts is None:
        return b"X\x00\x00"
    return (b"-" if counts < 0 else b"+") + number(abs(counts), 2)


def extreme(value: int, cell: int) -> bytes:
    return number(value, 2) + number(cell, 1)


def with_sum(body: bytes) -> bytes:
    return body + number(sum(body) % 256, 1)


def sixteen_cells(second: int, *, vmax_mv: int = 3_700, heard: bool = True) -> bytes:
    """Cell n has 3300 + 5 n mV, and 10 mV more from second 12 on; its temperature is 280 + n."""
    cells_mv = [3_300 + 5 * n + (10 if second >= 12 else 0) for n in range(1, 17)]
    cell, key = second % 16 + 1, second % 19
    cycles = number(255 if second < 20 else 256, 2)  # rolls over from its low byte into its high one
    values = (
        *(98, 97, 0x02, 0x76, 0x02, 0x94, 0x33, 11, *cycles),
        *(0, 0x04, 0xD2, 1, 0x04, 0x4C, 0x30, 0x02, 0xB2),
    )
    if heard:
        voltages = extreme(cells_mv[0] // 5, 1) + extreme(cells_mv[-1] // 5, 16)
        temperatures = extreme(281, 1) + extreme(296, 16)
        turn = number(cell, 1) + b"\x10" + number(cells_mv[cell - 1] // 5, 2) + number(280 + cell, 2)
    else:
        voltages = temperatures = extreme(0, 0) + extreme(0, 0)
        turn = b"\x00\x10\x00\x00\x00\x00"
    return with_sum(
        number(sum(cells_mv) // 5, 3)
        + current(100 + second)
        + current(30)
        + current(70 + second)
        + voltages
        + temperatures
        + turn
        + (b"\x03" if heard else b"\x04")
        + number(5_200 + second, 3)
        + number(9_120 + second, 3)
        + number(4_100, 3)
        + b"\x39"
        + number(1_234, 3)
        + number(1_100, 3)
        + number(key + 25, 1)
        + number(values[key], 1)
        + number(160, 2)
        + number(2_900 // 5, 2)
        + number(vmax_mv // 5, 2)
        + number(3_400 // 5, 2)
    )


def four_cells(frame: int) -> bytes:
    """An older pack that is being charged: one current sensor, no rotating keys.

    Cell 3 is over Vbypass (3.4 V) from frame 8 on, so that its board heats, and at Vmax from frame 20.
    """
    third_mv = 3_395 if frame < 8 else 3_450 if frame < 20 else 3_700
    third_raw = 296 if frame < 8 else 340
    cells_mv, cells_raw = (3_390, 3_395, third_mv, 3_385), (294, 295, third_raw, 293)
    cell = frame % 4
    status = 0b1000_0011 if frame < 20 else 0b1001_0010
    return with_sum(
        number(sum(cells_mv) // 5, 3)
        + current(80 if frame < 20 else 0)
        + current(None)
        + current(80 if frame < 20 else 0)
        + extreme(3_385 // 5, 4)
        + extreme(third_mv // 5, 3)
        + extreme(293, 4)
        + extreme(third_raw, 3)
        + number(cell + 1, 1)
        + b"\x04"
        + number(cells_mv[cell] // 5, 2)
        + number(cells_raw[cell], 2)
        + number(status, 1)
        + number(800, 3)
        + number(1_180, 3)
        + number(0, 3)
        + b"\x5c"
        + number(17, 3)
        + number(15, 3)
        + b"\x00\x00"
        + number(13, 2)
        + number(2_900 // 5, 2)
        + number(3_700 // 5, 2)
        + number(3_400 // 5, 2)
    )


def noisy() -> Iterator[Timed]:
    """40 seconds of the sixteen cells on a bad line; what happens is said in the README."""
    for second in range(40):
        data = sixteen_cells(second, vmax_mv=3_700 if second < 30 else 3_650, heard=second != 33)
        if second == 4:  # two bits, of the coldest cell's number and of the energy collected
            data = data[:20] + bytes([data[20] ^ 0x40]) + data[21:33] + bytes([data[33] ^ 0x02]) + data[34:]
        elif second == 7:
            data = data[:10] + data[15:]
        elif second == 10:
            data = bytes.fromhex("002b00ff2d58aa55aa55000102030405ff") + data
        elif second == 13:
            data = data[:38]
        elif second == 16:
            data = data[:30] + data[29:]
        elif second == 19:
            continue
        elif (
            second == 22
        ):  # the capacity's 0x00A0 reads 0x00E0, the collected energy's 0xD2 0x92: the sum holds
            data = data[:43] + b"\x92" + data[44:50] + b"\xe0" + data[51:]
        elif second == 25:
            data = data[:29] + bytes(300)
        yield 1_000.0 + second, data


def clean() -> Iterator[Timed]:
    for second in range(24):
        yield 500.0 + second, sixteen_cells(second)


def fast() -> Iterator[Timed]:
    for frame in range(30):
        yield 20.0 + frame / 2, four_cells(frame)


CAPTURES = {"clean": clean, "noisy": noisy, "fast": fast}


def lines(sent: Iterable[Timed]) -> Iterator[str]:
    """The lines of a capture: each sending cut into pieces, with the time that its last byte was there."""
    sizes = itertools.cycle(PIECES)
    for begin, data in sent:
        end = 0
        while end < len(data):
            piece = data[end : end + next(sizes)]
            end += len(piece)
            yield json.dumps({"t": round(begin + end * BYTE_S, 3), "bytes": piece.hex()}) + "\n"


def main() -> None:
    for name, sent in CAPTURES.items():
        (HERE / f"{name}.jsonl").write_text("".join(lines(sent())))


if __name__ == "__main__":
    main()
