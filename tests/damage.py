"""Damage on the line: a moving pack's frames, what a bad wire makes of them, and what comes through.

Seeded, so that a number found today is found again tomorrow.  The tests take a short run of the
figures, the bench a long one; by hand, with ``protocol`` and ``tests`` on the path:

    python -m damage --bytes 100000000
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from smartbms_protocol import FRAME_SIZE, Frame, FrameStream, PackState, Taken, encode, read
from smartbms_protocol.layout import CHARGE_ALLOWED, DISCHARGE_ALLOWED, KEYS

EXAMPLE = Frame(
    voltage_mv=53_120,
    current1_ma=6_500,
    current2_ma=18_875,
    current_ma=-12_375,
    lowest_mv=3_310,
    lowest_cell=5,
    highest_mv=3_330,
    highest_cell=11,
    coldest_raw=294,
    coldest_cell=1,
    hottest_raw=298,
    hottest_cell=8,
    cell=3,
    cells=16,
    cell_mv=3_320,
    cell_raw=296,
    status=CHARGE_ALLOWED | DISCHARGE_ALLOWED,
    collected_today_wh=5_200,
    stored_wh=9_120,
    consumed_today_wh=4_100,
    soc_percent=57,
    collected_kwh=1_234,
    consumed_kwh=1_100,
    key=0,
    value=98,
    capacity_wh=16_000,
    vmin_mv=2_900,
    vmax_mv=3_700,
    vbalance_mv=3_400,
)
"""An ordinary second of a 16-cell LiFePO4 pack; tests change the field that they are about."""

PAIR_BYTES = (98, 97, 2, 118, 2, 148, 0x33, 11, 0, 214, 0, 4, 210, 0, 4, 76, 0x30, 2, 178)
"""What the example pack sends under keys 0 to 18."""


def moving_pack(rng: Random, cells: int = 16, *, second_sensor: bool = True) -> Iterator[Frame]:
    """Its frames, one a second without end: everything moves but the settings."""
    capacity_wh = cells * 1_000
    ladder = [rng.gauss(0, 8) for _ in range(cells)]
    warmth = [rng.randint(290, 300) for _ in range(cells)]
    stored_wh, sun, load = capacity_wh * 0.57, 200, 150
    collected_wh, consumed_wh = 5_200.0, 4_100.0
    for n in itertools.count():
        sun = min(max(sun + rng.randint(-16, 16), 0), 1_200)  # counts of 125 mA
        load = min(max(load + rng.randint(-16, 16), 0), 1_200)
        current_ma = (sun - load) * 125
        middle = 3_280 + 60 * stored_wh / capacity_wh + current_ma * 0.0005
        cell_mv = [5 * round((middle + step + rng.gauss(0, 2)) / 5) for step in ladder]
        cell_raw = [raw + rng.randint(0, 1) for raw in warmth]
        voltage_mv = sum(cell_mv)
        collected_wh += voltage_mv * sun * 125 / 3.6e9
        consumed_wh += voltage_mv * load * 125 / 3.6e9
        stored_wh = min(max(stored_wh + voltage_mv * current_ma / 3.6e9, 0), capacity_wh)
        turn, key = n % cells, n % KEYS
        yield dataclasses.replace(
            EXAMPLE,
            voltage_mv=voltage_mv,
            current1_ma=sun * 125,
            current2_ma=load * 125 if second_sensor else None,
            current_ma=current_ma,
            lowest_mv=min(cell_mv),
            lowest_cell=cell_mv.index(min(cell_mv)) + 1,
            highest_mv=max(cell_mv),
            highest_cell=cell_mv.index(max(cell_mv)) + 1,
            coldest_raw=min(cell_raw),
            coldest_cell=cell_raw.index(min(cell_raw)) + 1,
            hottest_raw=max(cell_raw),
            hottest_cell=cell_raw.index(max(cell_raw)) + 1,
            cell=turn + 1,
            cells=cells,
            cell_mv=cell_mv[turn],
            cell_raw=cell_raw[turn],
            collected_today_wh=int(collected_wh),
            stored_wh=int(stored_wh),
            consumed_today_wh=int(consumed_wh),
            soc_percent=int(100 * stored_wh / capacity_wh),
            key=key,
            value=PAIR_BYTES[key],
            capacity_wh=capacity_wh,
        )


# What a bad wire does to the bytes of one frame.


def flipped_bit(data: bytes, rng: Random) -> bytes:
    return _flipped(data, rng, 1)


def flipped_bits(data: bytes, rng: Random) -> bytes:
    return _flipped(data, rng, rng.randint(2, 8))


def _flipped(data: bytes, rng: Random, bits: int) -> bytes:
    out = bytearray(data)
    for bit in rng.sample(range(8 * len(data)), bits):
        out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def lost_bytes(data: bytes, rng: Random) -> bytes:
    begin = rng.randrange(len(data))
    return data[:begin] + data[begin + rng.randint(1, 8) :]


def doubled_bytes(data: bytes, rng: Random) -> bytes:
    begin = rng.randrange(len(data))
    end = begin + rng.randint(1, 4)
    return data[:end] + data[begin:end] + data[end:]


def end_missing(data: bytes, rng: Random) -> bytes:
    return data[: -rng.randint(1, len(data) - 1)]


def beginning_missing(data: bytes, rng: Random) -> bytes:
    return data[rng.randint(1, len(data) - 1) :]


def inserted_bytes(data: bytes, rng: Random) -> bytes:
    place = rng.randint(1, len(data) - 1)
    return data[:place] + rng.randbytes(rng.randint(1, 70)) + data[place:]


def burst(data: bytes, rng: Random) -> bytes:
    begin, size = rng.randrange(len(data)), rng.randint(2, 30)
    return data[:begin] + rng.randbytes(min(size, len(data) - begin)) + data[begin + size :]


Damaging = Callable[[bytes, Random], bytes]

DAMAGE: tuple[Damaging, ...] = (
    flipped_bit,
    flipped_bits,
    lost_bytes,
    doubled_bytes,
    end_missing,
    beginning_missing,
    inserted_bytes,
    burst,
)


class Piece(NamedTuple):
    """Bytes on the line, and what they are: ``intact``, ``garbage`` or a name from ``DAMAGE``."""

    data: bytes
    kind: str
    sent: Frame | None
    """What the BMS sent there; None for garbage."""


def bad_line(
    rng: Random, frames: Iterable[Frame], *, damaged: float, garbage: float = 0.3
) -> Iterator[Piece]:
    """The frames on a line that damages this share of them and puts garbage before this share."""
    for frame in frames:
        if rng.random() < garbage:
            yield Piece(rng.randbytes(rng.randint(1, 120)), "garbage", None)
        data = encode(frame)
        if rng.random() < damaged:
            damage = rng.choice(DAMAGE)
            broken = damage(data, rng)
            # To lose one of two equal bytes and then the rest unharmed can leave the frame as it was.
            yield Piece(broken, "intact" if broken == data else damage.__name__, frame)
        else:
            yield Piece(data, "intact", frame)


@dataclass
class Found:
    """What came through a bad line.  A false frame has content that was never sent."""

    intact: int = 0
    found: int = 0
    damaged: int = 0
    places: int = 0
    """Intact frames that came right after damage or garbage."""
    found_at_places: int = 0
    false_at_places: int = 0
    """False frames that end in an intact frame, so that damage and frame made them together."""
    taken_at_places: int = 0
    """Those that ``PackState`` took whole."""
    false_elsewhere: Counter[str] = field(default_factory=Counter)
    """By the kind of damage that they end in: the damage itself kept the sum."""
    taken_elsewhere: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        by_kind = ", ".join(f"{kind} {count}" for kind, count in self.taken_elsewhere.most_common()) or "none"
        places, damaged = self.places, self.damaged
        elsewhere, taken = self.false_elsewhere.total(), self.taken_elsewhere.total()
        return [
            f"intact frames found: {self.found} of {self.intact} ({self.found / self.intact:.4%})",
            f"intact frames found right after damage or garbage: {self.found_at_places} of {places}",
            f"false frames there, taken whole: {_one_in(self.taken_at_places, places)}",
            f"false frames there, out of the stream: {_one_in(self.false_at_places, places)}",
            f"damaged frames that keep sum and sense, taken whole: {_one_in(taken, damaged)}: {by_kind}",
            f"damaged frames that keep sum and sense, out of the stream: {_one_in(elsewhere, damaged)}",
        ]


def _one_in(count: int, of: int) -> str:
    return f"{count} of {of}" + (f" (1 in {of // count})" if count else "")


def run_bad_line(pieces: Iterable[Piece], *, idle: bool = False) -> Found:
    """Through one ``FrameStream`` and one ``PackState``, piece by piece.

    With ``idle`` the line is said to be silent before each piece; it never is said to be otherwise.
    """
    stream, pack, out = FrameStream(), PackState(), Found()
    sent: deque[Frame] = deque(maxlen=8)
    before = "intact"
    for second, piece in enumerate(pieces):
        intact = piece.kind == "intact"
        if piece.sent is not None:
            sent.append(piece.sent)
            out.intact += intact
            out.damaged += not intact
        place = intact and before != "intact"
        out.places += place
        for frame in stream.feed(piece.data, idle=idle):
            whole = pack.take(frame, float(second)) is Taken.WHOLE
            if intact and frame == piece.sent:
                out.found += 1
                out.found_at_places += place
            elif frame in sent:
                pass  # damaged, and yet what was sent: a byte lost and made up for
            elif intact:
                out.false_at_places += 1
                out.taken_at_places += whole
            else:
                out.false_elsewhere[piece.kind] += 1
                out.taken_elsewhere.update([piece.kind] * whole)
        before = piece.kind
    return out


def first_frames(rng: Random, starts: int) -> tuple[int, int]:
    """How often the very first frame taken is false, when a start begins with damage; and starts.

    Nothing is confirmed yet, so that nothing but the frame itself stands against it.
    """
    false = 0
    for frame in itertools.islice(moving_pack(rng), starts):
        data = encode(frame)
        found = FrameStream().feed(rng.choice(DAMAGE)(data, rng) + data)
        false += found[0] != frame
    return false, starts


def false_in_random_bytes(rng: Random, windows: int) -> int:
    """Frames found in so many windows of 58 random bytes, one at every byte."""
    stream = FrameStream()
    return sum(len(stream.feed(rng.randbytes(min(65_536, windows - n)))) for n in range(0, windows, 65_536))


def false_with_signs(rng: Random, windows: int) -> int:
    """The same for single windows whose three sign bytes are in place, the hardest of all."""
    false = 0
    for _ in range(windows):
        data = bytearray(rng.randbytes(FRAME_SIZE))
        data[3], data[6], data[9] = rng.choices(b"+-X", k=3)
        false += isinstance(read(bytes(data)), Frame)
    return false


@dataclass
class Fuzzed:
    size: int = 0
    frames: int = 0
    taken: int = 0
    grown_kb: int = 0
    """How far the process's memory peak rose after the first tenth."""
    seconds: float = 0.0

    def line(self) -> str:
        frames = f"{self.frames} frames, {self.taken} taken whole, memory peak grown by {self.grown_kb} kB"
        return f"fuzzed bytes, nothing raised: {self.size} in {self.seconds:.0f} s, {frames}"


def fuzz(rng: Random, size: int) -> Fuzzed:
    """Feed at least so many bytes: noise, wild but valid frames, a bad line; in chunks of any size."""
    stream, pack, out, peak = FrameStream(), PackState(), Fuzzed(), 0
    begin = time.monotonic()
    pieces = _fuzz_pieces(rng)
    while out.size < size:
        data = next(pieces)
        while data:
            chunk = data[: rng.randint(1, 4_096)]
            data = data[len(chunk) :]
            for frame in stream.feed(chunk, idle=rng.random() < 0.1):
                out.taken += pack.take(frame, out.size / 58) is Taken.WHOLE
            out.size += len(chunk)
        if not peak and out.size >= size // 10:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out.frames = stream.frames
    out.grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    out.seconds = time.monotonic() - begin
    return out


def _fuzz_pieces(rng: Random) -> Iterator[bytes]:
    packs = [moving_pack(rng, cells, second_sensor=cells != 2) for cells in (2, 16, 255)]
    while True:
        yield rng.randbytes(32_768)
        yield bytes(rng.choices(b"+-X\x00\x01\x10\xff", k=256))
        yield b"".join(wild_frame(rng) for _ in range(16))
        line = bad_line(rng, itertools.islice(rng.choice(packs), 256), damaged=0.5)
        yield b"".join(piece.data for piece in line)


def wild_frame(rng: Random) -> bytes:
    """Any 58 bytes with signs, cell numbers and a sum that fit; whether more fits is chance."""
    data = bytearray(rng.choice((rng.randbytes, bytes))(FRAME_SIZE))
    data[3], data[6], data[9] = rng.choices(b"+-X", k=3)
    data[25] = rng.randint(2, 255)
    for byte in (14, 17, 20, 23, 24):
        data[byte] = rng.randint(1, data[25])
    data[30] |= rng.choice((0, 4))
    data[40] %= 101
    data[-1] = sum(data[:-1]) & 0xFF
    return bytes(data)


def figures(seed: int, frames: int, windows: int, size: int) -> Iterator[str]:
    """All figures, a line each as they are ready."""
    for cells in (2, 16, 255):
        for idle in (False, True):
            rng = Random(seed)
            pieces = bad_line(rng, itertools.islice(moving_pack(rng, cells), frames), damaged=0.2)
            yield f"{cells} cells, 20 % of frames damaged" + (", idle gaps told" if idle else "")
            yield from ("  " + line for line in run_bad_line(pieces, idle=idle).lines())
    false, starts = first_frames(Random(seed), frames)
    yield f"first frame false at a start that begins with damage: {_one_in(false, starts)}"
    false = false_in_random_bytes(Random(seed), windows)
    yield f"false frames in windows of random bytes: {_one_in(false, windows)}"
    false = false_with_signs(Random(seed), windows // 100)
    yield f"  the same with the sign bytes in place: {_one_in(false, windows // 100)}"
    yield fuzz(Random(seed), size).line()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m damage", description="What comes through a bad line.")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="fuzzed bytes (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=50_000, help="frames on each bad line (default: %(default)s)"
    )
    parser.add_argument(
        "--windows", type=int, default=10_000_000, help="windows of random bytes (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for line in figures(options.seed, options.frames, options.windows, options.bytes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
