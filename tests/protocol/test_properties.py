"""What holds for every frame and every stream, over the whole range of the wire."""

from dataclasses import fields, replace
from itertools import islice
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from damage import EXAMPLE, bad_line, moving_pack, wild_frame
from smartbms_protocol import FRAME_SIZE, Frame, FrameStream, PackState, Taken, decode, encode, layout, read

END_MA = 65_535 * 125


def currents() -> st.SearchStrategy[int | None]:
    counts = st.one_of(st.integers(-65_535, 65_535), st.integers(-800, 800))
    return st.one_of(st.none(), counts.map(lambda n: n * 125))


def millivolts(low: int = 0, high: int = 327_675) -> st.SearchStrategy[int]:
    """On the wire's steps and on its range, as near to these ends as that allows."""
    return st.integers(max(0, -(-low // 5)), min(65_535, high // 5)).map(lambda n: n * 5)


@st.composite
def any_frames(draw: st.DrawFn) -> Frame:
    """Everything that the wire can carry, sense or none."""
    values: dict[str, Any] = {}
    for field in layout.FIELDS:
        top = 256 ** (field.size - field.signed) - 1
        if field.signed:
            values[field.name] = draw(currents())
        elif field.name == "key":
            values["key"] = draw(st.one_of(st.none(), st.integers(0, 230)))
        elif field.name != "checksum":
            values[field.name] = draw(st.integers(0, top)) * field.step
    return Frame(**values)


@st.composite
def consistent_frames(draw: st.DrawFn, cells: int | None = None) -> Frame:
    """Every frame that a BMS may send: the whole range, but no contradictions."""
    if cells is None:
        cells = draw(st.integers(2, 255))
    status = draw(st.integers(0, 255))
    silent = bool(status & layout.NO_COMMUNICATION)
    number = st.integers(0 if silent else 1, cells)
    low, high = sorted((draw(millivolts()), draw(millivolts())))
    cell_mv = draw(st.one_of(st.just(0), millivolts(low - 200, high + 200)))
    least, most = -(-cells * low * 17 // 100), cells * high * 23 // 100  # 85 % and 115 %, in counts of 5 mV
    voltage_mv = 5 * draw(st.one_of(st.just(0), st.integers(least, max(least, min(most, 0xFFFFFF)))))
    if not high:
        cell_mv = draw(millivolts())
    coldest, hottest = sorted((draw(st.integers(0, 65_535)), draw(st.integers(0, 65_535))))
    i1, i2, total = draw(currents()), draw(currents()), draw(currents())
    if i1 is not None and i2 is not None and total is not None:
        slack = draw(st.integers(-200, 200)) * 125
        total = min(max(i1 - i2 + slack, -END_MA), END_MA)
    return replace(
        draw(any_frames()),
        voltage_mv=voltage_mv,
        current1_ma=i1,
        current2_ma=i2,
        current_ma=total,
        lowest_mv=low,
        lowest_cell=draw(number),
        highest_mv=high,
        highest_cell=draw(number),
        coldest_raw=coldest,
        coldest_cell=draw(number),
        hottest_raw=hottest,
        hottest_cell=draw(number),
        cell=draw(number),
        cells=cells,
        cell_mv=cell_mv,
        status=status,
        soc_percent=draw(st.integers(0, 100)),
    )


@given(any_frames())
def test_decode_undoes_encode(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


@given(
    st.binary(min_size=FRAME_SIZE, max_size=FRAME_SIZE),
    st.lists(st.sampled_from(b"+-X"), min_size=3, max_size=3),
)
def test_encode_undoes_decode(data: bytes, signs: list[int]) -> None:
    """But for what means the same: -0, a magnitude after X, a key below 25, the sum of these."""
    wire = bytearray(data)
    wire[3], wire[6], wire[9] = signs
    again = encode(decode(bytes(wire)))
    for sign in (3, 6, 9):
        magnitude = wire[sign + 1 : sign + 3]
        if wire[sign] == ord("X") or not any(magnitude):
            wire[sign] = ord("X") if wire[sign] == ord("X") else ord("+")
            wire[sign + 1 : sign + 3] = b"\0\0"
    if wire[47] < 25:
        wire[47] = 0
    wire[57] = sum(wire[:57]) & 0xFF
    assert again == wire


@given(consistent_frames())
def test_no_consistent_frame_is_refused(frame: Frame) -> None:
    assert read(encode(frame)) == frame


@given(st.binary(min_size=FRAME_SIZE, max_size=FRAME_SIZE))
def test_read_never_raises_for_58_bytes(data: bytes) -> None:
    read(data)


@given(st.integers())
def test_read_never_raises_for_58_bytes_that_nearly_are_a_frame(seed: int) -> None:
    read(wild_frame(Random(seed)))


def in_pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes in pieces of these sizes in turn, over and over."""
    pieces, begin, turn = [], 0, 0
    while begin < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[begin : begin + size])
        begin, turn = begin + size, turn + 1
    return pieces


@given(st.integers(0, 2**32), st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_any_chunking_gives_the_same_frames_and_counts(seed: int, sizes: list[int]) -> None:
    rng = Random(seed)
    frames = list(islice(moving_pack(rng, rng.choice((2, 16, 255))), 12))
    data = b"".join(piece.data for piece in bad_line(rng, frames, damaged=0.4))
    whole, pieces = FrameStream(), FrameStream()
    expected = whole.feed(data)
    assert [frame for piece in in_pieces(data, sizes) for frame in pieces.feed(piece)] == expected
    assert (pieces.frames, pieces.damage, pieces.skipped) == (whole.frames, whole.damage, whole.skipped)


@given(
    st.lists(consistent_frames(), min_size=1, max_size=4),
    st.lists(st.integers(1, 100), min_size=1, max_size=4),
)
def test_frames_without_damage_all_come_through(frames: list[Frame], sizes: list[int]) -> None:
    data = b"".join(map(encode, frames))
    stream = FrameStream()
    found = [frame for piece in in_pieces(data, sizes) for frame in stream.feed(piece)]
    assert [frame for frame in found if frame in frames] == frames
    assert stream.skipped == 0


@given(st.lists(st.binary(max_size=200)), st.booleans())
def test_the_stream_never_raises_and_loses_no_byte(pieces: list[bytes], idle: bool) -> None:
    stream = FrameStream()
    for piece in pieces:
        stream.feed(piece, idle=idle)
    size = sum(map(len, pieces))
    assert size - 57 <= stream.skipped + FRAME_SIZE * stream.frames <= size


STEPS = st.lists(st.tuples(consistent_frames(), st.floats(0, 30), st.booleans()), max_size=12)


@given(STEPS)
def test_whatever_comes_the_pack_state_is_whole(steps: list[tuple[Frame, float, bool]]) -> None:
    pack, now, taken = PackState(), 0.0, 0
    for frame, gap, twice in steps:
        for sent in [frame] * (1 + twice):
            now += gap
            before = pack.frame
            outcome = pack.take(sent, now)
            taken += outcome is Taken.WHOLE
            assert (pack.frame, pack.held) == ((sent, None) if outcome is Taken.WHOLE else (before, sent))
            assert pack.frames == taken
            assert pack.frame is not None
            assert len(pack.cell_mv) == len(pack.cell_raw) == pack.frame.cells
            assert pack.touched <= set(range(1, pack.frame.cells + 1))
            readings = [*pack.cell_mv, *pack.cell_raw, *pack.pairs.values()]
            assert all(0 <= reading.at <= now for reading in readings if reading)
            assert pack.age(now) == (0.0 if outcome is Taken.WHOLE else now - (pack.at or 0.0))
            for cell in range(1, pack.frame.cells + 1):
                pack.balancing(cell)
            for pair in layout.PAIRS:
                pack.pair(pair.name, now)


@given(st.lists(consistent_frames(cells=4), min_size=1, max_size=20))
def test_every_reading_was_sent_for_its_cell_at_its_time(frames: list[Frame]) -> None:
    settings = {name: getattr(EXAMPLE, name) for name in ("capacity_wh", "vmin_mv", "vmax_mv", "vbalance_mv")}
    pack = PackState()
    for second, frame in enumerate(frames):
        assert pack.take(replace(frame, **settings), float(second)) is Taken.WHOLE
    for cell, (voltage, temperature) in enumerate(zip(pack.cell_mv, pack.cell_raw, strict=True), 1):
        if voltage:
            frame = frames[int(voltage.at)]
            sent = {(frame.cell, frame.cell_mv), (frame.lowest_cell, frame.lowest_mv)}
            assert (cell, voltage.value) in {*sent, (frame.highest_cell, frame.highest_mv)}
        if temperature:
            frame = frames[int(temperature.at)]
            sent = {(frame.cell, frame.cell_raw), (frame.coldest_cell, frame.coldest_raw)}
            assert (cell, temperature.value) in {*sent, (frame.hottest_cell, frame.hottest_raw)}


def test_a_frame_has_a_field_for_every_row_but_the_checksum() -> None:
    assert [field.name for field in fields(Frame)] == [field.name for field in layout.FIELDS[:-1]]
