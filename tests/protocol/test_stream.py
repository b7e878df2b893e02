"""Bytes in any pieces, frames out; the tests are named for the damage."""

from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from damage import EXAMPLE, moving_pack
from smartbms_protocol import Damage, Frame, FrameStream, encode, read
from smartbms_protocol.layout import NO_COMMUNICATION

FIRST, SECOND, THIRD = islice(moving_pack(Random(2)), 3)
ONE, TWO, THREE = encode(FIRST), encode(SECOND), encode(THIRD)


def with_sum(data: bytes) -> bytes:
    """These 57 bytes with the checksum after them."""
    return data + bytes([sum(data) & 0xFF])


# Any pieces


def test_one_frame_in_one_piece() -> None:
    stream = FrameStream()
    assert stream.feed(ONE) == [FIRST]
    assert (stream.frames, stream.rejected, stream.skipped) == (1, 0, 0)


def test_one_frame_byte_by_byte() -> None:
    stream = FrameStream()
    for byte in ONE[:-1]:
        assert stream.feed(bytes([byte])) == []
    assert stream.feed(ONE[-1:]) == [FIRST]
    assert stream.skipped == 0


def test_two_frames_in_one_read_are_two_frames() -> None:
    assert FrameStream().feed(ONE + TWO) == [FIRST, SECOND]


def test_a_read_that_ends_in_the_next_frame() -> None:
    stream = FrameStream()
    assert stream.feed(ONE + TWO[:20]) == [FIRST]
    assert stream.feed(TWO[20:] + THREE) == [SECOND, THIRD]
    assert stream.skipped == 0


def test_nothing_read_is_no_frame_and_no_damage() -> None:
    stream = FrameStream()
    assert stream.feed(b"") == []
    assert stream.feed(b"", idle=True) == []
    assert (stream.frames, stream.rejected, stream.skipped) == (0, 0, 0)


# Damage, by name


@pytest.mark.parametrize("size", [1, 2, 12, 57, 58, 59, 500])
@pytest.mark.parametrize("garbage", [b"\x00", b"\xff", b"+", b"+-X", b"\x01\x02\x03"])
def test_frame_glued_to_garbage(garbage: bytes, size: int) -> None:
    noise = (garbage * size)[:size]
    stream = FrameStream()
    assert stream.feed(noise + ONE) == [FIRST]
    assert (stream.rejected, stream.skipped) == (1, size)


@pytest.mark.parametrize("size", range(1, 58))
def test_frame_preceded_by_the_beginning_of_a_frame(size: int) -> None:
    stream = FrameStream()
    assert stream.feed(TWO[:size] + ONE) == [FIRST]
    assert (stream.rejected, stream.skipped) == (1, size)


@pytest.mark.parametrize("size", range(1, 58))
def test_frame_preceded_by_the_end_of_a_frame(size: int) -> None:
    stream = FrameStream()
    assert stream.feed(TWO[-size:] + ONE) == [FIRST]
    assert (stream.rejected, stream.skipped) == (1, size)


@pytest.mark.parametrize("byte", range(58))
def test_frame_after_one_that_lost_a_byte(byte: int) -> None:
    stream = FrameStream()
    stream.feed(ONE + ONE)
    assert stream.feed(TWO[:byte] + TWO[byte + 1 :] + THREE)[-1] == THIRD


@pytest.mark.parametrize("byte", range(58))
def test_frame_after_one_with_a_byte_twice(byte: int) -> None:
    stream = FrameStream()
    stream.feed(ONE + ONE)
    assert stream.feed(TWO[: byte + 1] + TWO[byte:] + THREE)[-1] == THIRD


def test_a_frame_with_garbage_inside_is_lost_and_the_next_is_not() -> None:
    stream = FrameStream()
    assert stream.feed(ONE + TWO[:30] + b"\x00\x2b\x58" + TWO[30:] + THREE) == [FIRST, THIRD]
    assert (stream.rejected, stream.skipped) == (1, 61)


def test_frames_with_damage_between_them_count_each_place_once() -> None:
    stream = FrameStream()
    assert stream.feed(b"\x00" + ONE + b"\x00" * 200 + TWO + b"\x00" * 3 + THREE) == [FIRST, SECOND, THIRD]
    assert (stream.frames, stream.rejected, stream.skipped) == (3, 3, 204)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (ONE[:3] + b"," + ONE[4:], Damage.SIGNS),
        (ONE[:-1] + bytes([ONE[-1] ^ 1]), Damage.CHECKSUM),
        (encode(replace(FIRST, soc_percent=101)), Damage.IMPLAUSIBLE),
        (encode(replace(FIRST, voltage_mv=5)), Damage.INCONSISTENT),
    ],
    ids=lambda value: value.value if isinstance(value, Damage) else "",
)
def test_damage_is_counted_by_the_kind_of_its_beginning(wrong: bytes, kind: Damage) -> None:
    stream = FrameStream()
    assert stream.feed(ONE + wrong + TWO) == [FIRST, SECOND]
    assert stream.damage == {kind: 1}
    assert (stream.rejected, stream.skipped) == (1, 58)


def test_damage_is_counted_once_in_however_many_pieces_it_comes() -> None:
    stream = FrameStream()
    for byte in b"\x00" * 300 + ONE:
        stream.feed(bytes([byte]))
    assert (stream.frames, stream.rejected, stream.skipped) == (1, 1, 300)


def test_garbage_without_end_is_dropped_as_it_comes() -> None:
    stream = FrameStream()
    for n in range(1, 20):
        assert stream.feed(b"\x00" * 1_000) == []
        assert stream.skipped == n * 1_000 - 57
    assert stream.rejected == 1


# A window of damage and frame that keeps the sum


def glued() -> tuple[Frame, bytes]:
    """A frame that lost its last 8 bytes, and the 8 that make it look whole: an intact one's first.

    The value of its rotating key is such that the sum fits: 1 frame in 256 is like that.
    """
    for value in range(256):
        data = encode(replace(FIRST, value=value))[:50]
        result = read(data + TWO[:8])
        if isinstance(result, Frame):
            return result, data
    raise AssertionError("no such value")


def test_an_intact_frame_inside_a_window_that_keeps_the_sum_is_found() -> None:
    false, beginning = glued()
    assert FrameStream().feed(beginning + TWO + THREE) == [false, SECOND, THIRD]


def test_an_intact_frame_is_found_there_after_confirmed_ones_too() -> None:
    false, beginning = glued()
    stream = FrameStream()
    stream.feed(ONE + ONE)
    assert stream.feed(beginning + TWO) == [false, SECOND]
    assert (stream.rejected, stream.skipped) == (0, 0)


def window_inside() -> tuple[Frame, Frame, bytes]:
    """An intact frame, and another one made of its last 31 bytes and 27 that come after it.

    By chance its status and energies read as signs where the other's are.
    """
    for value in range(256):
        frame = replace(
            EXAMPLE,
            collected_today_wh=0x00142D,  # its last byte reads as "-", and so on
            stored_wh=0x002358,
            status=0x2B,
            capacity_wh=6_400,
            value=value,
        )
        tail = encode(frame)[27:]
        if tail[30] & NO_COMMUNICATION:  # its checksum is the other's status
            window = with_sum(tail + bytes(26))
            inner = read(window)
            if isinstance(inner, Frame):
                return frame, inner, window[31:]
    raise AssertionError("no such value")


def test_a_window_inside_a_frame_is_not_taken_once_the_settings_are_known() -> None:
    frame, _, after = window_inside()
    stream = FrameStream()
    stream.feed(encode(frame) * 2)
    assert stream.feed(encode(frame) + after + encode(frame)) == [frame, frame]
    assert (stream.rejected, stream.skipped) == (1, 27)


def test_before_that_nothing_tells_the_two_apart() -> None:
    frame, inner, after = window_inside()
    assert FrameStream().feed(encode(frame) + after) == [frame, inner]


# Silence on the line


def test_a_silence_before_a_frame_changes_nothing() -> None:
    stream = FrameStream()
    assert stream.feed(ONE, idle=True) + stream.feed(TWO, idle=True) == [FIRST, SECOND]


def test_a_frame_with_a_silence_in_it_is_found_a_stalled_reader_sees_such() -> None:
    stream = FrameStream()
    stream.feed(ONE + ONE)
    stream.feed(TWO[:30])
    assert stream.feed(TWO[30:], idle=True) == [SECOND]


def test_even_the_first_frame_may_have_a_silence_in_it() -> None:
    stream = FrameStream()
    stream.feed(ONE[:30])
    assert stream.feed(ONE[30:], idle=True) == [FIRST]


def test_bytes_from_both_sides_of_a_silence_are_no_frame_with_new_settings() -> None:
    false, beginning = glued()
    stream = FrameStream()
    stream.feed(ONE + ONE)
    stream.feed(beginning)
    assert stream.feed(TWO, idle=True) == [SECOND]
    assert stream.damage == {Damage.INCONSISTENT: 1}
    assert stream.skipped == len(beginning)
    assert false.rare != FIRST.rare


def test_new_settings_are_found_after_a_silence() -> None:
    changed = replace(SECOND, vmax_mv=3_650)
    stream = FrameStream()
    stream.feed(ONE + ONE)
    assert stream.feed(encode(changed), idle=True) == [changed]


def test_a_silence_parts_two_damaged_places() -> None:
    stream = FrameStream()
    stream.feed(ONE + TWO[:40])
    assert stream.feed(TWO[:40] + THREE, idle=True) == [THIRD]
    assert (stream.rejected, stream.skipped) == (2, 80)


def test_it_does_so_byte_by_byte_too() -> None:
    stream = FrameStream()
    for _ in range(2):
        for n in range(100):
            stream.feed(b"\x00", idle=n == 0)
    assert (stream.rejected, stream.skipped) == (2, 143)


def test_no_silence_and_two_damaged_frames_are_one_damaged_place() -> None:
    stream = FrameStream()
    stream.feed(ONE + TWO[:40])
    assert stream.feed(TWO[:40] + THREE) == [THIRD]
    assert (stream.rejected, stream.skipped) == (1, 80)


def test_a_silence_after_damage_is_no_damage() -> None:
    stream = FrameStream()
    stream.feed(ONE + TWO[:40])
    assert stream.feed(THREE, idle=True) == [THIRD]
    assert (stream.rejected, stream.skipped) == (1, 40)


def test_new_settings_are_found_though_the_reader_sees_a_silence_in_every_frame() -> None:
    changed = encode(replace(SECOND, vmax_mv=3_650))
    stream = FrameStream()
    stream.feed(ONE + ONE)
    found = 0
    for _ in range(10):
        found += len(stream.feed(changed[:30])) + len(stream.feed(changed[30:], idle=True))
    assert found >= 8
