"""One driver with several packs: what each frame costs, and how quick it is when all come at once.

All drivers run at the same time, each on lines and a bus of its own, so that ratios are of the same seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from live import Client, Used, cpu_s, memory_mb, moving_frames, percentile, send, sleep_until

import rig
from dbus_smartbms.driver import SERVICE

ROWS = ((1, 16), (2, 16), (4, 16), (8, 16), (16, 16), (1, 255), (4, 255))
"""Packs and cells."""
INTERVAL_S = 1.0
BOUND_S = 30.0


class Figures(NamedTuple):
    """Of one driver in some seconds: ms from a frame's last byte to the signal that shows it; use."""

    latency_ms: list[float]
    used: list[Used]
    """In each part of the time."""
    signals: float
    """Of the battery and of its packs, a frame."""


class Bank:
    """A driver with some packs, and a client that hears what it says."""

    def __init__(self, folder: Path, address: str, packs: int, cells: int) -> None:
        self.packs, self.cells = packs, cells
        # In the order of the numbers that the driver gives them.
        self.lines = [rig.Line(folder / f"pack{number:02}") for number in range(packs)]
        self.client = Client()
        self.wrote: list[list[float]] = [[] for _ in self.lines]
        self._frames = [
            itertools.islice(itertools.cycle(moving_frames(cells)), 7 * n, None) for n in range(packs)
        ]
        devices = [word for line in self.lines for word in ("--device", str(line.path))]
        self.process = rig.Process(folder, "run", *devices, "--set", "log.level=warning", address=address)

    @property
    def pid(self) -> int:
        return self.process.process.pid

    async def send_steadily(self, number: int, due: float) -> None:
        """A pack's frames for ever, the first when it is ``due``, at the pace of the wire."""
        while True:
            await sleep_until(due)
            await send(self.lines[number], next(self._frames[number]), due, self.wrote[number])
            due += INTERVAL_S

    async def started(self) -> None:
        """Return when the battery and, of several, each pack is on the bus."""
        services = 1 if self.packs == 1 else 1 + self.packs
        await rig.until(
            lambda: sum(name.startswith(SERVICE) for name in self.client.named) >= services, BOUND_S
        )

    async def steady(self, seconds: float, parts: int) -> Figures:
        """Look on for so long, in so many parts."""
        begin, used = time.monotonic(), []
        for _ in range(parts):
            cpu, frames = cpu_s(self.pid), sum(map(len, self.wrote))
            await asyncio.sleep(seconds / parts)
            used.append(Used(cpu_s(self.pid) - cpu, sum(map(len, self.wrote)) - frames))
        await asyncio.sleep(INTERVAL_S / 2)
        wrote = sum(begin <= at < begin + seconds for times in self.wrote for at in times)
        signals = [one.at for heard in self.client.heard.values() for one in heard]
        count = sum(begin <= at < begin + seconds for at in signals)
        return Figures(self._latencies_ms(begin, begin + seconds), used, count / wrote)

    def _latencies_ms(self, begin: float, end: float) -> list[float]:
        """Of each frame until the battery's first signal with something of its pack."""
        out = []
        for number, times in enumerate(self.wrote, 1):
            of_pack = f"/Battery/{number}/"
            heard = [
                one.at
                for one in self.client.heard[SERVICE]
                if any(path.startswith(of_pack) for path in one.message.body[0])
            ]
            for wrote in times:
                if begin <= wrote < end:
                    at = next((at for at in heard if at >= wrote), None)
                    if at is not None and at - wrote < INTERVAL_S / 2:  # else it changed nothing
                        out.append((at - wrote) * 1e3)
        return out

    def close(self) -> None:
        self.process.kill()
        self.client.close()
        for line in self.lines:
            line.unplug()


@contextlib.asynccontextmanager
async def bank(folder: Path, packs: int, cells: int) -> AsyncIterator[Bank]:
    """A driver on a bus of its own in ``folder``; everything ends with it."""
    with rig.daemon(folder) as daemon:
        one = Bank(folder, daemon.address, packs, cells)
        try:
            await one.client.connect(daemon.address)
            yield one
        finally:
            one.close()


async def measure(folder: Path, seconds: float, parts: int) -> list[tuple[Bank, Figures, Figures, float]]:
    """Each driver with its frames spread over a second, then with all at the same time; and its RSS in MB."""
    async with contextlib.AsyncExitStack() as stack:
        folders = [Path(tempfile.mkdtemp(dir=folder)) for _ in ROWS]
        banks = [
            await stack.enter_async_context(bank(own, packs, cells))
            for own, (packs, cells) in zip(folders, ROWS, strict=True)
        ]
        found: list[list[Figures]] = [[] for _ in banks]
        for together in (False, True):
            begin = time.monotonic() + 1
            # Also of different drivers no frames end at the same moment: it is the drivers that are measured.
            starts = [begin + INTERVAL_S * row / len(banks) for row in range(len(banks))]
            sending = [
                asyncio.create_task(
                    one.send_steadily(n, start + (0 if together else INTERVAL_S * n / one.packs))
                )
                for one, start in zip(banks, starts, strict=True)
                for n in range(one.packs)
            ]
            for one in banks:
                await one.started()
            await asyncio.sleep(5)
            figures = await asyncio.gather(*(one.steady(seconds, parts) for one in banks))
            for row, each in enumerate(figures):
                found[row].append(each)
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        return [
            (one, spread, together, memory_mb(one.pid)[0])
            for one, (spread, together) in zip(banks, found, strict=True)
        ]


def lines(found: Sequence[tuple[Bank, Figures, Figures, float]]) -> list[str]:
    """The table."""
    head = ("packs", "cells", "p50 ms", "p99 ms", "together p99", "CPU s/1000", "ratio", "RSS MB", "signals")
    out = ["".join(f"{word:>14}" for word in head)]
    alone = {one.cells: spread for one, spread, _, _ in found if one.packs == 1}
    for one, spread, together, rss_mb in found:
        cpu = [part.s_per_1000 for part in spread.used]
        ratios = [a / b.s_per_1000 for a, b in zip(cpu, alone[one.cells].used, strict=True)]
        half = (max(ratios) - min(ratios)) / 2
        cells = (
            str(one.packs), str(one.cells), f"{percentile(spread.latency_ms, 50):.2f}",
            f"{percentile(spread.latency_ms, 99):.2f}", f"{percentile(together.latency_ms, 99):.2f}",
            f"{statistics.median(cpu):.2f}", f"{statistics.median(ratios):.2f} ±{half:.2f}",
            f"{rss_mb:.1f}", f"{spread.signals:.2f}",
        )  # fmt: skip
        out.append("".join(f"{cell:>14}" for cell in cells))
    return out
