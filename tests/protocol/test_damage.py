"""The figures of a bad line, on a short run; ``python -m damage`` takes the long one."""

import tracemalloc
from itertools import islice, pairwise
from random import Random

import pytest

import damage
from smartbms_protocol import decode, encode, read


@pytest.fixture(scope="module", params=[2, 16, 255])
def found(request: pytest.FixtureRequest) -> damage.Found:
    """20 % of 3,000 frames damaged, garbage between, by packs of three sizes; printed with -s."""
    rng = Random(7)
    pieces = damage.bad_line(rng, islice(damage.moving_pack(rng, request.param), 3_000), damaged=0.2)
    result = damage.run_bad_line(pieces)
    print(*result.lines(), sep="\n")
    return result


def test_the_line_is_as_bad_as_it_says(found: damage.Found) -> None:
    assert found.intact + found.damaged == 3_000
    assert 0.17 < found.damaged / 3_000 < 0.23
    assert found.places > 900


def test_99_5_percent_of_the_intact_frames_are_found(found: damage.Found) -> None:
    assert found.found / found.intact >= 0.995


def test_the_very_next_intact_frame_after_each_damage_is_found(found: damage.Found) -> None:
    assert found.found_at_places == found.places


def test_damage_that_runs_into_a_frame_makes_no_reading_that_was_not_sent(found: damage.Found) -> None:
    """The figure is 1 in 2,000 places; there are 1,000 here, so that one is too many."""
    assert found.taken_at_places == 0


def test_few_damaged_frames_keep_the_sum_and_the_sense(found: damage.Found) -> None:
    """Two flipped bits can: no checksum of 8 bits tells.  One in some thousand is what is left."""
    assert found.taken_elsewhere.total() <= 2


def test_idle_gaps_are_never_relied_on_and_do_no_harm() -> None:
    rng = Random(8)
    pieces = list(damage.bad_line(rng, islice(damage.moving_pack(rng), 2_000), damaged=0.2))
    told, untold = damage.run_bad_line(pieces, idle=True), damage.run_bad_line(pieces)
    assert told.found == told.intact == untold.found
    assert told.false_at_places <= untold.false_at_places


def test_no_frame_in_200_000_windows_of_random_bytes() -> None:
    assert damage.false_in_random_bytes(Random(3), 200_000) == 0


def test_hardly_a_frame_in_windows_that_have_their_signs_in_place() -> None:
    assert damage.false_with_signs(Random(3), 20_000) <= 4


def test_a_start_in_the_middle_of_damage_gives_few_false_first_frames() -> None:
    false, starts = damage.first_frames(Random(3), 4_000)
    assert false <= starts // 250


def test_fuzzed_bytes_raise_nothing_and_memory_stays_flat() -> None:
    damage.fuzz(Random(4), 50_000)  # what is made once is made
    tracemalloc.start()
    begin, _ = tracemalloc.get_traced_memory()
    fuzzed = damage.fuzz(Random(5), 400_000)
    end, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fuzzed.size >= 400_000
    assert fuzzed.frames > 200
    assert end - begin < 100_000


# The generator itself: figures of a line that does no damage would prove nothing


@pytest.mark.parametrize("cells", [2, 16, 255])
def test_the_moving_pack_sends_frames_that_are_frames(cells: int) -> None:
    frames = list(islice(damage.moving_pack(Random(cells), cells), 600))
    assert all(read(encode(frame)) == frame for frame in frames)
    assert len({frame.rare for frame in frames}) == 1
    assert {frame.cell for frame in frames} == set(range(1, cells + 1))
    assert len({frame.current_ma for frame in frames}) > 50
    assert all(before != after for before, after in pairwise(frames))


@pytest.mark.parametrize("kind", damage.DAMAGE, ids=lambda kind: kind.__name__)
def test_each_kind_of_damage_damages(kind: damage.Damaging) -> None:
    rng = Random(6)
    frames = [encode(frame) for frame in islice(damage.moving_pack(rng), 100)]
    changed = sum(kind(data, rng) != data for data in frames)
    assert changed >= 98


def test_wild_frames_are_frames_now_and_then() -> None:
    rng = Random(1)
    wild = [damage.wild_frame(rng) for _ in range(500)]
    assert all(decode(data) for data in wild)
    assert sum(read(data) == decode(data) for data in wild) > 20


def test_the_same_seed_gives_the_same_line() -> None:
    def line(seed: int) -> list[damage.Piece]:
        rng = Random(seed)
        return list(damage.bad_line(rng, islice(damage.moving_pack(rng), 50), damaged=0.5))

    assert line(1) == line(1)
    assert line(1) != line(2)


def test_all_figures_are_printed() -> None:
    lines = list(damage.figures(1, frames=100, windows=1_000, size=10_000))
    assert len(lines) == 6 * 7 + 4
    assert "intact frames found: " in lines[1]
    assert "nothing raised: " in lines[-1]
