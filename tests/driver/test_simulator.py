"""The simulator's shell: the pty at wire speed, faults of the line, lines on stdin, options."""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbus_smartbms import simulator
from dbus_smartbms.plant import Plant, PlantSettings
from dbus_smartbms.simulator import BYTE_S, COMMANDS, Line, Simulator
from smartbms_protocol import FRAME_SIZE, Frame, FrameStream, encode, layout, read

LIMIT_S = 20
"""Longer than anything here takes on a busy machine."""
ROOT = Path(__file__).parents[2]
START = """
import argparse, asyncio
from dbus_smartbms import simulator
parser = argparse.ArgumentParser()
simulator.add_arguments(parser)
raise SystemExit(asyncio.run(simulator.run(parser.parse_args())))
"""


def simulated(
    line: Line | None = None, *, interval_s: float = 1.0, speed: float = 1.0, **plant: Any
) -> Simulator:
    return Simulator(Plant(PlantSettings(**plant)), line or Line(), interval_s=interval_s, speed=speed)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def plugged(link: Path | None = None) -> Iterator[Line]:
    line = Line(link)
    line.plug()
    try:
        yield line
    finally:
        line.unplug()


async def readable(descriptor: int) -> bytes:
    """The next bytes of a device; empty at its end."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            with contextlib.suppress(BlockingIOError):  # on a busy machine a pty is "ready" too soon
                return os.read(descriptor, 4096)
    finally:
        loop.remove_reader(descriptor)


async def frames_of(descriptor: int, count: int) -> list[Frame]:
    stream, found = FrameStream(), list[Frame]()
    async with asyncio.timeout(LIMIT_S):
        while len(found) < count:
            found += stream.feed(await readable(descriptor))
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - nothing tells when a link comes
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def sending(simulation: Simulator) -> Iterator[None]:
    task = asyncio.get_running_loop().create_task(simulation.send_frames())
    try:
        yield
    finally:
        assert not task.done()
        task.cancel()


# The line


async def test_frames_of_the_simulator_come_over_a_pty() -> None:
    with plugged() as line, opened(line.path or "") as client:
        simulation, twin = simulated(line, interval_s=0.1), simulated(interval_s=0.1)
        with sending(simulation):
            found = await frames_of(client, 3)
    assert [encode(frame) for frame in found] == [twin.next_bytes() for _ in range(3)]


class WatchedLine(Line):
    """A line that notes when it was given how many bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[float, int]] = []

    def write(self, data: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), len(data)))
        super().write(data)


class WatchedSimulator(Simulator):
    """A simulator that notes when it looked at its plant."""

    def __init__(self, line: Line, interval_s: float) -> None:
        super().__init__(Plant(PlantSettings()), line, interval_s=interval_s)
        self.asked: list[float] = []

    def next_bytes(self) -> bytes:
        self.asked.append(asyncio.get_running_loop().time())
        return super().next_bytes()


async def test_no_byte_comes_sooner_than_the_wire_carries_it_and_no_frame_is_older_than_it() -> None:
    line = WatchedLine()
    line.plug()
    began = asyncio.get_running_loop().time() - 0.001
    with opened(line.path or "") as client:
        simulation = WatchedSimulator(line, 0.2)
        with sending(simulation):
            await frames_of(client, 3)
    line.unplug()
    sent = 0
    for at, size in line.written:
        sent += size
        number, byte = divmod(sent - 1, FRAME_SIZE)
        assert size <= 4
        assert at >= began + number * 0.2 + (byte + 1) * BYTE_S
    assert sent >= 3 * FRAME_SIZE
    assert all(at >= began + number * 0.2 for number, at in enumerate(simulation.asked))


async def test_after_a_stop_of_the_process_nothing_is_made_up_for() -> None:
    with plugged() as line, opened(line.path or "") as client:
        simulation = simulated(line, interval_s=0.1)
        with sending(simulation):
            await frames_of(client, 1)
            time.sleep(1)  # noqa: ASYNC251 - nothing runs meanwhile, as after SIGSTOP
            before = asyncio.get_running_loop().time()
            await frames_of(client, 4)
            assert asyncio.get_running_loop().time() - before >= 0.2


def test_every_byte_passes_unchanged_and_nothing_comes_back() -> None:
    with plugged() as line, opened(line.path or "") as client:
        line.write(bytes(range(256)))
        assert os.read(client, 1000) == bytes(range(256))
        line.write(b"\r\n\x03\x04\x11\x13")
        assert os.read(client, 1000) == b"\r\n\x03\x04\x11\x13"


def test_without_a_client_bytes_are_lost_and_the_next_one_gets_new_ones() -> None:
    with plugged() as line:
        line.write(b"nobody hears this")
        with opened(line.path or "") as client:
            line.write(b"this is heard")
            assert os.read(client, 100) == b"this is heard"


def test_a_client_that_does_not_read_holds_nothing_up() -> None:
    with plugged() as line, opened(line.path or "") as client:
        for _ in range(2000):
            line.write(bytes(58))
        assert 0 < len(os.read(client, 1_000_000)) < 2000 * 58


def test_an_unplugged_cable_ends_for_its_reader_and_comes_back_under_its_link(tmp_path: Path) -> None:
    link = tmp_path / "cable"
    with plugged(link) as line:
        path = line.path
        assert str(link.readlink()) == path
        assert line.plug() == path  # it is plugged in
        with opened(link) as client:
            line.unplug()
            line.unplug()
            line.write(b"lost")
            assert os.read(client, 100) == b""
            assert not link.is_symlink()
            line.plug()
            with opened(link) as again:
                line.write(b"back")
                assert os.read(again, 100) == b"back"
    assert not link.is_symlink()


def test_a_link_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    link, file = tmp_path / "cable", tmp_path / "file"
    link.symlink_to("/dev/pts/of-a-run-that-was-killed")
    file.write_text("mine")
    with plugged(link) as line:
        assert str(link.readlink()) == line.path
    refused = Line(file)
    with pytest.raises(FileExistsError):
        refused.plug()
    assert refused.path is None
    assert file.read_text() == "mine"


def test_a_link_that_another_has_taken_over_stays(tmp_path: Path) -> None:
    link = tmp_path / "cable"
    with plugged(link) as first, plugged(link) as second:
        first.unplug()
        assert str(link.readlink()) == second.path


# Faults of the line


def test_noise_damages_some_frames_and_spares_the_others() -> None:
    simulation, stream, found = simulated(), FrameStream(), list[Frame]()
    simulation.command("noise 0.3")
    sent = [simulation.next_bytes() for _ in range(500)]
    for data in sent:
        found += stream.feed(data)
    intact = sum(1 for data in sent if len(data) == FRAME_SIZE and isinstance(read(data), Frame))
    assert 200 < intact < 300  # 0.7 x 0.7 of 500
    assert max(map(len, sent)) > FRAME_SIZE
    assert len(found) > intact  # garbage around a frame does no harm to it
    assert stream.rejected > 100
    again = simulated()
    again.command("noise 0.3")
    assert [again.next_bytes() for _ in range(500)] == sent


def test_a_silence_ends_by_itself_or_when_told_and_time_goes_on_in_it() -> None:
    simulation = simulated(load_w=5000, sun_w=0)
    counted = simulation.plant.bms.consumed_wh
    simulation.command("silence 2")
    assert [len(simulation.next_bytes()) for _ in range(3)] == [0, 0, FRAME_SIZE]
    assert simulation.plant.bms.consumed_wh > counted
    simulation.command("silence on")
    assert [len(simulation.next_bytes()) for _ in range(50)] == [0] * 50
    simulation.command("silence off")
    assert len(simulation.next_bytes()) == FRAME_SIZE


def test_speed_lets_the_plant_live_faster_than_the_frames() -> None:
    slow, fast = (simulated(speed=speed, load_w=5000, sun_w=0) for speed in (1, 60))
    slow.next_bytes()
    fast.next_bytes()
    assert fast.plant.bms.consumed_wh == pytest.approx(60 * slow.plant.bms.consumed_wh, rel=0.02)


# Lines


def shown(simulation: Simulator) -> Frame:
    frame = read(simulation.next_bytes())
    assert isinstance(frame, Frame)
    return frame


@pytest.mark.parametrize(
    ("line", "effect"),
    [
        ("load 9000", lambda frame: frame.current_ma < -100_000),
        ("sun 9000", lambda frame: frame.current1_ma > 100_000),
        ("limits 56 3 100", lambda frame: frame.current_ma == 3000),
        ("cell 7 +120", lambda frame: frame.highest_cell == 7),
        ("temperature -30", lambda frame: frame.has(layout.UNDER_TMIN)),
        ("deny charge on", lambda frame: not frame.has(layout.CHARGE_ALLOWED)),
        ("deny discharge on", lambda frame: not frame.has(layout.DISCHARGE_ALLOWED)),
        ("communication off", lambda frame: frame.has(layout.NO_COMMUNICATION)),
        ("calibrated off", lambda frame: frame.has(layout.SOC_NOT_CALIBRATED)),
        ("sensors 1", lambda frame: frame.current2_ma is None),
        ("soc 12", lambda frame: frame.soc_percent == 12),
        ("  set   vmax 3.65\r", lambda frame: frame.vmax_mv == 3650),
    ],
)
def test_a_line_shows_in_the_next_frame(line: str, effect: Any) -> None:
    simulation = simulated()
    assert not effect(shown(simulation))
    assert simulation.command(line) == ""
    assert effect(shown(simulation))


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("limits 50 0 0", "limits off"),
        ("cell 7 -400", "cell 7 0"),
        ("deny charge on", "deny charge off"),
        ("communication off", "communication on"),
        ("warning on", "warning off"),
        ("sensors 0", "sensors 2"),
        ("noise 1", "noise 0"),
    ],
)
def test_what_a_line_began_another_ends(begin: str, end: str) -> None:
    simulation, untouched = simulated(), simulated()
    simulation.command(begin)
    simulation.command(end)
    assert [simulation.next_bytes() for _ in range(19)] == [untouched.next_bytes() for _ in range(19)]


def test_the_early_warning_is_in_its_rotating_key() -> None:
    simulation = simulated()
    simulation.command("warning on")
    assert any(
        frame.key == 16 and frame.value & layout.EARLY_WARNING
        for frame in (shown(simulation) for _ in range(19))
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "load",
        "load x",
        "load -1",
        "load 1 2",
        "load nan",
        "sun 100001",
        "limits 54",
        "limits 54 1 x",
        "limits on",
        "soc 101",
        "cell 0 1",
        "cell 17 1",
        "cell 1.5 1",
        "cell 1",
        "temperature 101",
        "deny",
        "deny on",
        "deny charge",
        "deny charge maybe",
        "communication",
        "warning 1",
        "calibrated x",
        "sensors 3",
        "set vmaxx 3",
        "set vmax",
        "set vmax 6",
        "noise 1.1",
        "silence -1",
        "silence inf",
        "unplug now",
        "plug in",
        "help me",
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence_and_changes_nothing(wrong: str) -> None:
    simulation, untouched = simulated(), simulated()
    with pytest.raises(ValueError, match=r"changed nothing: .*; allowed is ") as caught:
        simulation.command(wrong)
    sentence = str(caught.value)
    assert sentence.startswith(repr(wrong))
    assert COMMANDS[wrong.split(maxsplit=1)[0]].usage in sentence
    assert "\n" not in sentence
    assert [simulation.next_bytes() for _ in range(19)] == [untouched.next_bytes() for _ in range(19)]


def test_a_tmin_of_its_own_for_charging_is_refused_where_there_is_one_tmin() -> None:
    simulation = simulated(generation="A")
    with pytest.raises(ValueError, match="changed nothing: generation A has one Tmin, and tmin sets it; "):
        simulation.command("set tmin_charge 5")
    assert simulation.command("set tmin 5") == ""
    assert simulation.plant.bms.setup.tmin_charge_c == 5


def test_an_unknown_line_names_all_there_are_and_an_empty_one_is_nothing() -> None:
    with pytest.raises(ValueError, match=r"no command 'laod'; allowed are load, sun, .* unplug, plug, help"):
        simulated().command("laod 5")
    assert simulated().command("  ") == ""


def test_help_has_a_line_for_every_command() -> None:
    lines = simulated().command("help").splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)


# Options, and the whole program


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="simulate")
    simulator.add_arguments(made)
    return made


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--cells", "1"], "--cells: it has to be 2 to 255 cells, not 1"),
        (["--cells", "2.5"], "--cells: it has to be a whole number, not '2.5'"),
        (["--capacity", "x"], "--capacity: it has to be 0.1 to 6553.5 kWh, not 'x'"),
        (["--soc", "101"], "--soc: it has to be 0 to 100 %, not 101"),
        (["--speed", "0"], "--speed: it has to be 1 to 100, not 0"),
        (["--chemistry", "lead"], "--chemistry: invalid choice: 'lead'"),
        (["--interval", "2"], "--interval: invalid choice: 2.0"),
        (["--mode", "eco"], "--mode: invalid choice: 'eco'"),
        (["--generation", "D"], "--generation: invalid choice: 'D' (choose from "),
    ],
)
def test_a_wrong_option_ends_with_a_sentence_and_status_2(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(options)
    assert sentence in capsys.readouterr().err


def test_the_help_has_units_lines_and_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = parser().format_help()
    for part in ("0.1 to 6553.5 kWh (16)", "0 to 100 % (60)", "cell NUMBER MV", "examples:"):
        assert part in text


async def test_options_reach_the_pack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    made: list[Simulator] = []
    options = {
        "--chemistry": "LTO", "--cells": "24", "--capacity": "10", "--soc": "50", "--spread": "0",
        "--spread-soc": "0", "--load": "0", "--sun": "100", "--ambient": "30", "--seed": "5",
        "--speed": "2", "--interval": "0.5", "--mode": "normal", "--generation": "B",
    }  # fmt: skip
    words = [word for option in options.items() for word in option]
    words += ["--ignore-limits", "--line", "soc 20", "--line", "help"]

    async def stop_at_once(_: asyncio.Event, simulation: Simulator) -> None:
        made.append(simulation)

    monkeypatch.setattr(simulator, "_run_until", stop_at_once)
    assert await simulator.run(parser().parse_args(words)) == 0
    assert made[0].plant.settings == PlantSettings(
        "LTO", 24, 10, 50, 0, 0, seed=5, load_w=0, sun_w=100, ambient_c=30,
        generation="B", normal_mode=True, obeys=False,
    )  # fmt: skip
    assert (made[0].speed, made[0].interval_s, made[0].plant.bms.soc) == (2, 0.5, 0.2)
    assert "load WATTS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--line", "lod 5"], "simulate: there is no command 'lod'"),
        (["--line", "cell 99 5"], "simulate: 'cell 99 5' changed nothing"),
        (["--link", "/no/such/folder/cable"], "/no/such/folder/cable"),
    ],
)
async def test_what_cannot_begin_says_why_and_leaves_nothing(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "cable"
    assert await simulator.run(parser().parse_args(["--link", str(link), *options])) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert not link.is_symlink()


async def test_lines_of_stdin_are_done_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    link = tmp_path / "cable"
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w", buffering=1) as typing:
        monkeypatch.setattr(sys, "stdin", stdin)
        options = parser().parse_args(["--link", str(link), "--interval", "0.5"])
        running = asyncio.get_running_loop().create_task(simulator.run(options))
        await until(link.is_symlink)
        with opened(link) as client:
            typing.write("deny char")
            typing.write("ge on\nnonsense\n")
            while (await frames_of(client, 1))[0].has(layout.CHARGE_ALLOWED):
                pass
            typing.write("unplug\n")
            async with asyncio.timeout(LIMIT_S):
                while await readable(client):
                    pass
        assert not link.is_symlink()
        typing.write("plug")  # without an end of line: the end of the file will do
        typing.close()
        await until(link.is_symlink)
        with opened(link) as client:  # the end of stdin has not ended it
            assert not (await frames_of(client, 1))[0].has(layout.CHARGE_ALLOWED)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, LIMIT_S) == 0
    assert not link.is_symlink()
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2  # the device, and the one that came after it
    assert printed.err.startswith("simulate: there is no command 'nonsense'; allowed are load, ")


async def test_a_fault_while_it_runs_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: Plant) -> Frame:
        raise RuntimeError("the simulator is broken")

    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(Plant, "frame", breaks)
    with pytest.raises(RuntimeError, match="the simulator is broken"):
        await simulator.run(parser().parse_args([]))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_with_status_0_and_nothing_is_left(
    end: signal.Signals, tmp_path: Path
) -> None:
    link = tmp_path / "cable"
    paths = os.pathsep.join(str(ROOT / source) for source in ("dbus-smartbms", "protocol"))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, "--link", str(link)],
        stdin=subprocess.PIPE if end == signal.SIGINT else subprocess.DEVNULL,  # a thread waits, or has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == str(link.readlink())
        process.send_signal(end)
        assert process.wait(LIMIT_S) == 0
        assert process.stderr
        assert process.stderr.read() == ""
    assert not link.is_symlink()
