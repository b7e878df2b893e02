"""Recorded captures through the whole decoder, against values that were worked out by hand."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from recorded import make_captures
from smartbms_protocol import FrameStream, PackState, Reading, Taken

FOLDER = Path(make_captures.__file__).parent
CAPTURES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def replay(name: str, silence_s: float) -> tuple[FrameStream, PackState, list[Taken]]:
    """The state after a capture; a longer pause than ``silence_s`` is told to the stream."""
    stream, pack, outcomes, before = FrameStream(), PackState(), [], 0.0
    for line in (FOLDER / f"{name}.jsonl").read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        now = record["t"]
        frames = stream.feed(bytes.fromhex(record["bytes"]), idle=now - before > silence_s)
        outcomes += [pack.take(frame, now) for frame in frames]
        before = now
    return stream, pack, outcomes


def test_there_are_captures() -> None:
    assert {"clean", "fast", "noisy"} <= set(CAPTURES)


@pytest.mark.parametrize("silence_s", [0.2, 1e9], ids=["idle told", "idle not told"])
@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_gives_the_expected_readings(name: str, silence_s: float) -> None:
    expected = json.loads((FOLDER / f"{name}.expected.json").read_text())
    stream, pack, outcomes = replay(name, silence_s)

    def with_second(reading: Reading | None) -> list[int | None] | None:
        return reading and [reading.value, int(reading.at - expected["begin_s"])]

    assert pack.frame is not None
    assert asdict(pack.frame) == expected["frame"]
    assert [with_second(reading) for reading in pack.cell_mv] == expected["cell_mv"]
    assert [with_second(reading) for reading in pack.cell_raw] == expected["cell_raw"]
    assert {pair: with_second(reading) for pair, reading in pack.pairs.items()} == expected["pairs"]
    assert pack.interval_s == expected["interval_s"]
    assert {
        "frames": stream.frames,
        "taken": outcomes.count(Taken.WHOLE),
        "held": outcomes.count(Taken.HELD),
        "rejected": stream.rejected,
        "skipped": stream.skipped,
    } == expected["counts"]


@pytest.mark.parametrize("name", make_captures.CAPTURES)
def test_the_captures_are_what_their_program_makes(name: str) -> None:
    made = "".join(make_captures.lines(make_captures.CAPTURES[name]()))
    assert (FOLDER / f"{name}.jsonl").read_text() == made
