"""What the driver costs and how quick it is: ``python3 bench/bench.py``, in the project's environment.

Prints one table; beside each figure stands what the machine itself adds, or how far the runs lie
apart.  No figure is a test: a missed aim is printed and changes no exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("dbus-smartbms", "protocol", "tests", "bench")]

import live  # noqa: E402  the path comes first
import packs  # noqa: E402
from live import BARE, TIMED, Stand, percentile  # noqa: E402

import damage  # noqa: E402
from dbus_smartbms.configuration import Configuration  # noqa: E402
from dbus_smartbms.driver import SERVICE  # noqa: E402
from dbus_smartbms.replay import replay  # noqa: E402
from smartbms_protocol import BIT_RATE, FrameStream, encode  # noqa: E402

CELLS = (2, 16, 255)
INTERVALS_S = (1.0, 0.5)
WARM_UP_S = 6.0
P99_MS, CPU_RATIO, RSS_MB, SIGNALS_A_FRAME = 20, 2, 30, 1
"""To reach: under the first three on an idle machine, at most the last."""


class Length(NamedTuple):
    """How long to look."""

    starts: int
    steady_s: float
    windows: int
    denials: int
    frames: int
    runs: int


FULL = Length(starts=5, steady_s=240, windows=8, denials=10, frames=5000, runs=7)
QUICK = Length(starts=1, steady_s=10, windows=4, denials=2, frames=500, runs=3)


def line(name: str, figures: Iterable[str], noise: str = "", aim: str = "") -> None:
    """A row of the table: a figure for each number of cells, the noise, what is to be reached."""
    columns = "".join(f"{figure:>14}" for figure in figures)
    print(f"{name:34}{columns}   {noise:34}{aim}".rstrip(), flush=True)


def under(aim: float, figures: Iterable[float]) -> str:
    """What is to be reached, and whether it is for every number of cells."""
    return f"under {aim}: " + ("ok" if all(figure < aim for figure in figures) else "MISSED")


def spread(samples: Sequence[float], digits: int = 2) -> str:
    """The median, and half the way from the lowest to the highest of several."""
    median = f"{statistics.median(samples):.{digits}f}"
    return f"{median} ±{(max(samples) - min(samples)) / 2:.{digits}f}" if len(samples) > 1 else median


# Starts


async def measure_starts(folder: Path, length: Length) -> None:
    """Process start to name and to CCL over 0, on a line where frames pass all the time."""
    for interval_s in INTERVALS_S:
        named: list[list[float]] = []
        limits: list[list[float]] = []
        for cells in CELLS:
            # At moments spread over the time between two frames.
            phases = [(n + 0.5) / length.starts * interval_s for n in range(length.starts)]
            runs = [await one_start(folder, cells, interval_s, phase_s) for phase_s in phases]
            named.append([run[0] for run in runs])
            limits.append([run[1] for run in runs])
        noise = f"{length.starts} x, in all phases of the line"
        line(f"start to name, {interval_s} s: s", map(spread, named), noise)
        line(f"start to limits, {interval_s} s: s", map(spread, limits), noise)


async def one_start(folder: Path, cells: int, interval_s: float, phase_s: float) -> tuple[float, float]:
    async with live.stand(folder, cells, interval_s) as stand:
        begin = time.monotonic()
        stand.start_driver()
        sending = asyncio.create_task(stand.send_steadily(SERVICE, begin + phase_s))
        named, limits = await stand.started()
        sending.cancel()
        return named - begin, limits - begin


# Steady running


async def measure_steady(folder: Path, length: Length) -> None:
    """All drivers at once at their true pace, each with its bare senders; then sudden events."""
    async with AsyncExitStack() as stack:
        stands = {
            (cells, interval_s): await stack.enter_async_context(live.stand(folder, cells, interval_s))
            for interval_s in INTERVALS_S
            for cells in CELLS
        }
        for stand in stands.values():
            stand.start_driver()
            stand.start_senders()
        for stand in stands.values():
            await stand.senders_started()
        readers = [(stand, name) for name in (SERVICE, BARE) for stand in stands.values()]
        begin = time.monotonic()
        sending = [  # no two frames end at the same moment
            asyncio.create_task(stand.send_steadily(name, begin + n * min(INTERVALS_S) / len(readers)))
            for n, (stand, name) in enumerate(readers)
        ]
        for stand in stands.values():
            await stand.started()
        await asyncio.sleep(WARM_UP_S)
        begin = time.monotonic()
        await asyncio.gather(*(stand.steady(length.steady_s, length.windows) for stand in stands.values()))
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

        rows = {interval_s: [stands[cells, interval_s] for cells in CELLS] for interval_s in INTERVALS_S}
        for interval_s, row in rows.items():
            show_latency(interval_s, row, begin)
        for name, changes in (("deny bit", live.CHARGE_DENIED), ("cell at Vmax", live.CELL_AT_VMAX)):
            samples = [
                [await stand.denied_after(**changes) * 1e3 for _ in range(length.denials)]
                for stand in rows[INTERVALS_S[0]]
            ]
            line(f"{name} to CCL 0: ms", map(spread, samples), f"{length.denials} x, one frame each")
        for interval_s, row in rows.items():
            show_cpu(interval_s, row)
        show_memory(rows[INTERVALS_S[0]])
        for interval_s, row in rows.items():
            show_traffic(interval_s, row, begin, length.steady_s)


def show_latency(interval_s: float, stands: Sequence[Stand], begin: float) -> None:
    driver, bare = ([stand.latencies(name, begin) for stand in stands] for name in (SERVICE, BARE))
    for percent in (50, 99):
        figures, noise = ([percentile(samples, percent) * 1e3 for samples in each] for each in (driver, bare))
        line(
            f"wire to bus p{percent}, {interval_s} s: ms",
            (f"{figure:.2f}" for figure in figures),
            "bare sender " + " / ".join(f"{figure:.2f}" for figure in noise),
            under(P99_MS, figures) if percent == 99 else "",
        )


def show_cpu(interval_s: float, stands: Sequence[Stand]) -> None:
    """Part by part, so that what is compared ran in the same seconds."""
    cpu = {
        name: [[part[name].s_per_1000 for part in stand.windows] for stand in stands]
        for name in (SERVICE, BARE, TIMED)
    }
    noise = f"{len(stands[0].windows)} parts of the run"
    line(f"CPU a 1,000 frames, {interval_s} s: s", map(spread, cpu[SERVICE]), noise)
    for name, text in ((BARE, "bare sender, reading a line"), (TIMED, "bare sender, no line")):
        ratios = [
            [ours / theirs for ours, theirs in zip(*pair, strict=True)]
            for pair in zip(cpu[SERVICE], cpu[name], strict=True)
        ]
        aim = under(CPU_RATIO, map(statistics.median, ratios)) if name == BARE else ""
        line(f"  {text}: s", map(spread, cpu[name]), noise)
        line("    ratio to it", map(spread, ratios), noise, aim)


def show_memory(stands: Sequence[Stand]) -> None:
    driver, bare = ([live.memory_mb(stand.pid(name)) for stand in stands] for name in (SERVICE, BARE))
    rss = [mb for mb, _ in driver]
    line("RSS: MB", (f"{mb:.1f}" for mb in rss), f"bare sender {bare[0][0]:.1f}", under(RSS_MB, rss))
    line("USS: MB", (f"{mb:.1f}" for _, mb in driver), f"bare sender {bare[0][1]:.1f}")


def show_traffic(interval_s: float, stands: Sequence[Stand], begin: float, seconds: float) -> None:
    def sent(stand: Stand, name: str) -> list[int]:
        return [
            live.size(one.message) for one in stand.client.heard[name] if begin <= one.at < begin + seconds
        ]

    frames = [sum(begin <= at < begin + seconds for at in stand.wrote[SERVICE]) for stand in stands]
    driver, bare = ([sent(stand, name) for stand in stands] for name in (SERVICE, BARE))
    ratios = [len(sizes) / count for sizes, count in zip(driver, frames, strict=True)]
    aim = f"at most {SIGNALS_A_FRAME}: " + ("ok" if max(ratios) <= SIGNALS_A_FRAME else "MISSED")
    minutes = seconds / 60
    line(f"signals a frame, {interval_s} s", (f"{ratio:.3f}" for ratio in ratios), "", aim)
    line("  signals a minute", (f"{len(sizes) / minutes:.1f}" for sizes in driver))
    kilobytes = [f"{sum(sizes) / 1e3 / minutes:.0f}" for sizes in (*driver, *bare)]
    line("  kB a minute", kilobytes[: len(CELLS)], "bare sender " + " / ".join(kilobytes[len(CELLS) :]))


# Without a process


def measure_pure(length: Length) -> None:
    """How many frames a second go through the decoder, and through ``replay``."""

    def decode(cells: int) -> Callable[[], int]:
        data = b"".join(map(encode, islice(cycle(live.moving_frames(cells)), length.frames)))
        return lambda: len(FrameStream().feed(data))

    def walk(cells: int) -> Callable[[], int]:
        frames = islice(cycle(live.moving_frames(cells)), length.frames)
        lines = [json.dumps({"t": t, "frame": encode(frame).hex()}) for t, frame in enumerate(frames)]
        return lambda: len(list(replay(lines, Configuration())))

    for name, prepared in (("decode", decode), ("replay", walk)):
        rates = []
        for cells in CELLS:
            run, seconds = prepared(cells), []
            for _ in range(length.runs):
                begin = time.perf_counter()
                count = run()
                seconds.append(time.perf_counter() - begin)
                assert count == length.frames
            rates.append([length.frames / each for each in seconds])
        line(f"{name}: frames a second", (spread(each, 0) for each in rates), f"{length.runs} x")


def machine() -> str:
    """What else goes on here: the load, and how long the same piece of Python takes again and again."""
    samples = []
    for _ in range(20):
        begin = time.perf_counter()
        sum(number * number for number in range(100_000))
        samples.append((time.perf_counter() - begin) * 1e3)
    return f"load {os.getloadavg()[0]:.2f}, a fixed loop of Python {spread(samples, 1)} ms"


def show_head() -> None:
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("dbus-next", "pyserial-asyncio"))
    print(
        f"Python {platform.python_version()}, {', '.join(versions)}; {os.cpu_count()} x {platform.machine()}"
    )
    print(f"before: {machine()}")
    print(f"frames at {BIT_RATE} bit/s in pieces of {live.PIECE} bytes, all packs at once")
    print(f"the client that listens: {live.LIBRARY.__name__}; ± is half the way from lowest to highest\n")
    line("", (f"{cells} cells" for cells in CELLS), "noise", "to reach")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the driver costs and how quick it is.")
    parser.add_argument(
        "--quick", action="store_true", help="in less than a minute (default: about 6 minutes)"
    )
    parser.add_argument("--packs", action="store_true", help="instead: one driver with 1 to 16 packs")
    parser.add_argument("--damage", action="store_true", help="instead: what comes through a bad line")
    options = parser.parse_args()
    if options.damage:
        frames, size = (2_000, 1_000_000) if options.quick else (50_000, 100_000_000)
        for figure in damage.figures(1, frames, frames * 200, size):
            print(figure, flush=True)
        return
    length = QUICK if options.quick else FULL
    if options.packs:
        print(f"before: {machine()}\n")
        with tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(packs.measure(Path(folder), max(10, length.steady_s / 4), 4))
        print(*packs.lines(found), f"\nafterwards: {machine()}", sep="\n")
        return
    show_head()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure_starts(Path(folder), length))
        asyncio.run(measure_steady(Path(folder), length))
    measure_pure(length)
    print(f"\nafterwards: {machine()}")


if __name__ == "__main__":
    main()
