"""The last minute of all cables: kept within bounds whatever comes, written as ``record`` writes it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rig
from dbus_smartbms import capture
from dbus_smartbms.capture import MOST_BYTES, PIECE_BYTES, Piece
from dbus_smartbms.driver import CAPTURE_PAUSE_S
from smartbms_protocol import encode

WIRE = 960
"""Bytes a second at 9600 bit/s."""


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is kept


def test_a_minute_is_kept_to_the_millisecond() -> None:
    recent = capture.Recent()
    for at in (99.0, 100.0, 130.0, 160.0):
        recent.add("a", b"%d" % at, at)
    assert [piece.data for piece in recent.pieces(160.0)["a"]] == [b"100", b"130", b"160"]
    assert [piece.data for piece in recent.pieces(160.001)["a"]] == [b"130", b"160"]


def test_a_cable_that_is_silent_for_a_minute_is_not_there() -> None:
    recent = capture.Recent()
    recent.add("a", b"1", 100.0)
    recent.add("b", b"2", 160.0)
    assert recent.pieces(161.0) == {"b": [Piece(160.0, b"2")]}


def test_a_minute_of_frames_and_of_garbage_at_the_wire_s_rate_fits() -> None:
    """Garbage as it comes from a cable: the chip passes it on every 16 ms."""
    recent = capture.Recent()
    pieces = int(60 / 0.016)
    for number in range(pieces + 1):
        recent.add("a", bytes(16), number * 0.016)
    assert len(recent.pieces(60.0)["a"]) == pieces + 1
    assert (pieces + 1) * 16 > 60 * WIRE


def test_a_bound_is_kept_with_single_bytes_and_with_large_pieces() -> None:
    most = MOST_BYTES // (PIECE_BYTES + 1)
    recent = capture.Recent()
    for number in range(most + 10):
        recent.add("a", b"%d" % (number % 10), 1.0)
    kept = recent.pieces(1.0)["a"]
    assert len(kept) == most
    assert kept[-1].data == b"%d" % ((most + 9) % 10), "the newest"
    recent.add("a", bytes(MOST_BYTES - PIECE_BYTES), 1.0)
    assert len(recent.pieces(1.0)["a"]) == 1
    recent.add("a", bytes(MOST_BYTES - PIECE_BYTES + 1), 1.0)
    assert recent.pieces(1.0) == {}
    recent.add("a", b"1", 1.0)
    assert recent.pieces(1.0) == {"a": [Piece(1.0, b"1")]}


@pytest.mark.parametrize("size", [1, 16, 1024])
def test_the_memory_it_takes_is_what_is_counted(size: int) -> None:
    """Four cables, ten minutes of whatever comes: as the allocator sees it."""
    data = [bytes([number % 256]) * size for number in range(1000)]
    recent = capture.Recent()
    tracemalloc.start()
    try:
        for number in range(40_000):
            recent.add("abcd"[number % 4], bytes(bytearray(data[number % 1000])), number * 0.001)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 4 * MOST_BYTES * 1.2
    assert taken > 4 * MOST_BYTES * 0.5, "the count is not far from what is taken"


def test_what_is_older_than_a_minute_takes_no_memory() -> None:
    """An hour of a BMS, eight pieces a second."""
    recent = capture.Recent()
    tracemalloc.start()
    try:
        for number in range(8 * 3600):
            recent.add("a", bytes(bytearray(8)), number / 8)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(recent.pieces(3600.0)["a"]) == 8 * 60
    assert taken < 8 * 60 * 1.2 * (8 + PIECE_BYTES)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=40), st.floats(0, 30)), max_size=40))
def test_whatever_comes_is_written_in_order_and_completely(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[str, bytes, float]]
) -> None:
    recent, now = capture.Recent(), 0.0
    for cable, data, later in pieces:
        now += later
        recent.add(cable, data, now)
    cables = recent.pieces(now)
    path = tmp_path_factory.mktemp("run") / "capture.jsonl"
    capture.write(path, cables, now)
    rows, at = written(path), 0.0
    for number, cable in enumerate(cables):
        of_cable = b"".join(bytes.fromhex(row["bytes"]) for row in rows if row.get("bms", 0) == number)
        assert of_cable == b"".join(piece.data for piece in cables[cable])
    for row in rows:
        assert at <= row["t"] <= 60.0
        at = row["t"]
    assert len(rows) == sum(map(len, cables.values()))


def test_lines_are_those_of_record(tmp_path: Path) -> None:
    """Cable 0 is not said; seconds have three decimals; the present is second 60."""
    path = tmp_path / "capture.jsonl"
    cables = {"a": [Piece(940.0, b"\x01"), Piece(999.9996, b"\xff+")], "b": [Piece(950.12345, b"")]}
    capture.write(path, cables, 1000.0)
    assert path.read_text() == (
        '{"t": 0.0, "bytes": "01"}\n{"t": 10.123, "bms": 1, "bytes": ""}\n{"t": 60.0, "bytes": "ff2b"}\n'
    )


def test_what_cannot_be_written_leaves_the_old_capture(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    path.write_text("old\n")
    (tmp_path / "capture.jsonl.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        capture.write(path, {"a": [Piece(1.0, b"1")]}, 1.0)
    assert {file.name for file in tmp_path.iterdir()} == {"capture.jsonl"}
    assert path.read_text() == "old\n"


# The driver


async def replayed(path: Path, *options: str) -> list[dict[str, Any]]:
    """The answers of the command to a capture."""
    with path.open("rb") as lines:
        process = await asyncio.create_subprocess_exec(
            *rig.PROGRAM, "replay", *options, stdin=lines, stdout=subprocess.PIPE
        )
        answers, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(answer) for answer in answers.splitlines()]


async def test_a_running_driver_writes_what_came_and_replay_reads_it(tmp_path: Path, bus: rig.Daemon) -> None:
    """All bytes, garbage too, and the limits that replay makes of them are those that the driver has."""
    runtime = tmp_path / "run"
    path = runtime / "capture.jsonl"
    garbage = bytes(range(100))
    with rig.driver(tmp_path, bus.address, "--runtime", str(runtime)) as driver:
        await driver.ready()
        driver.line.write(garbage)
        await driver.line.send(*(rig.frame(turn) for turn in range(4, 7)), rig.frame(7, voltage_mv=53000))
        await shown(bus, 53.0)
        driver.process.process.send_signal(signal.SIGUSR1)
        await driver.logged(f'the last 60 s of 1 cables are in {path} ("bms" 0 is tty)')
        sent = b"".join(encode(rig.frame(turn)) for turn in range(7)) + encode(rig.frame(7, voltage_mv=53000))
        rows = written(path)
        came = b"".join(bytes.fromhex(row["bytes"]) for row in rows)
        assert came == sent[: 4 * 58] + garbage + sent[4 * 58 :]
        assert all(row.keys() == {"t", "bytes"} for row in rows)
        assert rows[-1]["t"] <= 60.0
        last = (await replayed(path))[-1]
        assert (last["frames"], last["ccl"], last["cvl"]) == (8, 151.5, 54.88)
        await driver.line.pour(rig.frame(8, voltage_mv=52500))
        await shown(bus, 52.5)
        path.unlink()
        driver.process.process.send_signal(signal.SIGUSR1)
        await driver.logged("the last 60 s", 2)
        assert len(b"".join(bytes.fromhex(row["bytes"]) for row in written(path))) == len(came) + 58
    assert {file.name for file in runtime.iterdir()} - {"pycache"} == {"capture.jsonl"}


async def shown(bus: rig.Daemon, volts: float) -> None:
    """Wait until a voltage is on the bus: what came before it was read."""
    async with rig.Client(bus.address, "com.victronenergy.battery.smartbms") as client:

        async def look() -> bool:
            return bool(await client.get("/Dc/0/Voltage") == volts)

        await rig.until(look)


async def test_two_cables_are_numbered_and_the_log_says_which_is_which(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    runtime = tmp_path / "run"
    with (
        rig.Line(tmp_path / "other") as other,
        rig.driver(
            tmp_path, bus.address, "--runtime", str(runtime), "--device", str(tmp_path / "other")
        ) as driver,
    ):
        await driver.logged("reading ", 2)
        for turn in range(5):
            voltage_mv = 53000 if turn == 4 else 53120
            await driver.line.pour(rig.frame(turn, voltage_mv=voltage_mv))
            await other.pour(rig.frame(turn, voltage_mv=voltage_mv, soc_percent=40))
        await driver.logged("on the bus as com.victronenergy.battery.smartbms,")
        await shown(bus, 53.0)
        driver.process.process.send_signal(signal.SIGUSR1)
        await driver.logged("the last 60 s of 2 cables")
        text = driver.log
        first, second = ("tty", "other") if "0 is tty, 1 is other" in text else ("other", "tty")
        assert f'("bms" 0 is {first}, 1 is {second})' in text
        answers = await replayed(runtime / "capture.jsonl")
        assert answers[-1]["frames"] == 5
        rows = written(runtime / "capture.jsonl")
        data = b"".join(bytes.fromhex(row["bytes"]) for row in rows if row.get("bms") == 1)
        soc = {"tty": 50, "other": 40}[second]
        last = encode(rig.frame(4, voltage_mv=53000, soc_percent=soc))
        assert data == b"".join(encode(rig.frame(turn, soc_percent=soc)) for turn in range(4)) + last


async def test_with_nothing_received_the_capture_is_empty(tmp_path: Path, bus: rig.Daemon) -> None:
    runtime = tmp_path / "run"
    with rig.driver(tmp_path, bus.address, "--runtime", str(runtime), "--set", "log.level=debug") as driver:
        await driver.logged("reading ")
        driver.process.process.send_signal(signal.SIGUSR1)
        await driver.logged(f"DEBUG the last 60 s of 0 cables are in {runtime / 'capture.jsonl'}\n")
        assert (runtime / "capture.jsonl").read_bytes() == b""


async def test_a_hundred_signals_are_no_hundred_captures_and_harm_nothing(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    runtime = tmp_path / "run"
    with rig.driver(tmp_path, bus.address, "--runtime", str(runtime)) as driver:
        await driver.ready()
        begin = time.monotonic()
        for _ in range(100):
            driver.process.process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(0.01)  # else the kernel makes one of many
        await driver.logged("the last 60 s of 1 cables")
        await driver.line.pour(rig.frame(4, voltage_mv=53000))
        await shown(bus, 53.0)
        assert len(written(runtime / "capture.jsonl")) > 0
        most = (time.monotonic() - begin) / CAPTURE_PAUSE_S + 1
        assert driver.log.count("the last 60 s of 1 cables") <= most


def test_plot_draws_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "capture.jsonl"
    pieces = [Piece(1000.0 + turn, encode(rig.frame(turn))) for turn in range(20)]
    capture.write(path, {"a": pieces}, 1020.0)
    picture = tmp_path / "capture.svg"
    command = [*rig.PROGRAM, "plot", str(path), "--output", str(picture)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "20 frames" in ended.stderr
    assert picture.stat().st_size > 0
