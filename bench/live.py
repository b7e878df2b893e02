"""The driver and bare senders as processes, on lines and buses of their own, looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rig
from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.driver import SERVICE
from dbus_smartbms.items import BankItems
from dbus_smartbms.plant import Plant, PlantSettings
from dbus_smartbms.views import Identity
from smartbms_protocol import BIT_RATE, Frame, encode, layout

# The listening client has to be cheap, for what it takes counts as latency: dbus-fast is compiled.
LIBRARY: Any = importlib.import_module("dbus_fast" if importlib.util.find_spec("dbus_fast") else "dbus_next")
_MessageBus = importlib.import_module(LIBRARY.__name__ + ".aio").MessageBus

CCL = "/Info/MaxChargeCurrent"
BARE, TIMED = "com.victronenergy.battery.bare", "com.victronenergy.battery.timed"
"""The bare sender that reads a line, and the one that reads none."""
FRAMES = 600
"""How many frames of a pack there are; after the last comes the first."""
PIECE = 16
"""Bytes in one read: what comes in 16 ms, after which an FTDI cable hands over what it has."""
BOUND_S = 20.0

CHARGE_DENIED = {"status": layout.DISCHARGE_ALLOWED}
CELL_AT_VMAX = {"highest_mv": 3700}


@functools.cache
def moving_frames(cells: int) -> tuple[Frame, ...]:
    """A pack under passing clouds and a changing load, a frame a second; always the same ones."""
    rng = random.Random(cells)
    plant = Plant(PlantSettings(cells=cells, capacity_kwh=cells, sun_w=100 * cells, load_w=40 * cells))
    frames = []
    for _ in range(FRAMES):
        plant.sun_w = min(max(plant.sun_w + rng.gauss(0, 3 * cells), 0), 200 * cells)
        plant.load_w = min(max(plant.load_w + rng.gauss(0, 3 * cells), 0), 200 * cells)
        plant.step(1.0)
        frames.append(plant.frame())
    return tuple(frames)


def signals(frames: Iterable[Frame], interval_s: float) -> list[list[list[Any]]]:
    """What the driver sends for these frames: per signal [path, type, value, text] of each item.

    Without the first three: the bulk before there are limits, which comes only once.
    """
    bank, items, identity, out = Bank(Configuration()), BankItems(), Identity(), []
    for n, frame in enumerate(frames):
        bank.take("pack", frame, n * interval_s)
        changed, _ = items.update(bank, identity, {}, n * interval_s)
        out.append([[path, item.type, item.value, item.text] for path, item in changed.items()])
    return out[3:]


class Heard(NamedTuple):
    """A signal and when the client had it."""

    at: float
    message: Any


class Client:
    """A client of one bus, which notes when which service said what."""

    def __init__(self) -> None:
        self.named: dict[str, float] = {}
        """When each name appeared."""
        self.heard: dict[str, list[Heard]] = defaultdict(list)
        """ItemsChanged by name."""
        self.ccl: list[tuple[float, float]] = []
        """When the driver's CCL was heard to be how much, A."""
        self._names: dict[str, str] = {}
        self._bus: Any = None

    async def connect(self, address: str) -> None:
        self._bus = await _MessageBus(bus_address=address).connect()
        self._bus.add_message_handler(self._hear)
        for member in ("ItemsChanged", "NameOwnerChanged"):
            rule = f"type='signal',member='{member}'"
            await self._call("org.freedesktop.DBus", "org.freedesktop.DBus", "AddMatch", "s", rule)

    async def get_items(self) -> None:
        """Ask the driver for everything, as each client on a GX does once."""
        reply = await self._call(SERVICE, "com.victronenergy.BusItem", "GetItems")
        self._note_ccl(time.monotonic(), reply.body[0])

    def close(self) -> None:
        self._bus.disconnect()

    async def _call(self, service: str, interface: str, member: str, signature: str = "", *body: Any) -> Any:
        return await self._bus.call(
            LIBRARY.Message(
                destination=service, path="/", interface=interface, member=member,
                signature=signature, body=list(body),
            )
        )  # fmt: skip

    def _hear(self, message: Any) -> None:
        at = time.monotonic()
        if message.member == "ItemsChanged":
            name = self._names[message.sender]
            self.heard[name].append(Heard(at, message))
            if name == SERVICE:
                self._note_ccl(at, message.body[0])
        elif message.member == "NameOwnerChanged":
            name, _, owner = message.body
            self._names[owner] = name
            self.named[name] = at

    def _note_ccl(self, at: float, items: dict[str, Any]) -> None:
        if CCL in items:
            self.ccl.append((at, items[CCL]["Value"].value))


class Used(NamedTuple):
    """CPU seconds of a process, and the frames (of a sender: the signals) they went into."""

    cpu_s: float
    frames: int

    @property
    def s_per_1000(self) -> float:
        """CPU seconds for 1,000 of them; NaN where there were none."""
        return self.cpu_s / self.frames * 1e3 if self.frames else float("nan")


class Stand:
    """A bus with a client, the driver on a line, and the bare senders beside it."""

    def __init__(self, folder: Path, address: str, cells: int, interval_s: float) -> None:
        self.cells, self.interval_s = cells, interval_s
        self.client = Client()
        self.lines = {name: rig.Line(folder / name) for name in (SERVICE, BARE)}
        self.wrote: dict[str, list[float]] = {name: [] for name in self.lines}
        """When the last byte of each frame was written, by the service that reads it."""
        self.windows: list[dict[str, Used]] = []
        """What each process used in each part of ``steady``."""
        self._folder, self._address = folder, address
        self._frames = {name: itertools.cycle(moving_frames(cells)) for name in self.lines}
        self._driver: rig.Process | None = None
        self._senders: dict[str, subprocess.Popen[bytes]] = {}

    def start_driver(self) -> None:
        device = str(self.lines[SERVICE].path)
        self._driver = rig.Process(self._folder, "run", "--device", device, address=self._address)

    def start_senders(self) -> None:
        file = self._folder / "signals"
        sent = signals(moving_frames(self.cells), self.interval_s)
        file.write_text("".join(json.dumps(signal) + "\n" for signal in sent))
        program = [sys.executable, str(Path(__file__).with_name("bare.py")), str(file)]
        for name, *pace in (
            (BARE, "--line", str(self.lines[BARE].path)),
            (TIMED, "--every", str(self.interval_s)),
        ):
            variables = os.environ | {"DBUS_SESSION_BUS_ADDRESS": self._address}
            self._senders[name] = subprocess.Popen([*program, name, *pace], env=variables)

    def close(self) -> None:
        if self._driver:
            self._driver.kill()
        for sender in self._senders.values():
            sender.kill()
            sender.wait()
        self.client.close()
        for line in self.lines.values():
            line.unplug()

    def pid(self, name: str) -> int:
        """The process behind a name."""
        if name != SERVICE:
            return self._senders[name].pid
        assert self._driver is not None
        return self._driver.process.pid

    async def send(self, reader: str, **changes: int) -> None:
        """The next frame at the pace of the wire; when its last byte was written is noted."""
        frame = dataclasses.replace(next(self._frames[reader]), **changes)
        await send(self.lines[reader], frame, time.monotonic(), self.wrote[reader])

    async def send_steadily(self, reader: str, due: float) -> None:
        """Frames at the interval for ever, the first when it is ``due``."""
        while True:
            await sleep_until(due)
            await self.send(reader)
            due += self.interval_s

    async def started(self) -> tuple[float, float]:
        """When the driver's name was on the bus, and when its first CCL over 0 was."""
        client = self.client
        named = await rig.until(lambda: client.named.get(SERVICE), BOUND_S)
        await client.get_items()
        limits = await rig.until(lambda: next((at for at, amps in client.ccl if amps > 0), None), BOUND_S)
        return named, limits

    async def senders_started(self) -> None:
        """Return when both are there; the one that reads has its line open by then."""
        await rig.until(lambda: {BARE, TIMED} <= self.client.named.keys(), BOUND_S)

    async def steady(self, seconds: float, windows: int) -> None:
        """Look on for so long, in so many parts."""
        for _ in range(windows):
            before = self._used()
            await asyncio.sleep(seconds / windows)
            self.windows.append(
                {
                    name: Used(after.cpu_s - before[name].cpu_s, after.frames - before[name].frames)
                    for name, after in self._used().items()
                }
            )

    def _used(self) -> dict[str, Used]:
        counts = {
            SERVICE: len(self.wrote[SERVICE]),
            BARE: len(self.client.heard[BARE]),
            TIMED: len(self.client.heard[TIMED]),
        }
        return {name: Used(cpu_s(self.pid(name)), count) for name, count in counts.items()}

    def latencies(self, name: str, begin: float) -> list[float]:
        """Seconds from each frame's last byte since ``begin`` to the signal that came of it."""
        heard = iter(self.client.heard[name])
        signal = next(heard, None)
        out = []
        for wrote, following in itertools.pairwise([*self.wrote[name], float("inf")]):
            while signal and signal.at < wrote:
                signal = next(heard, None)
            if signal and signal.at < following and wrote >= begin:
                out.append(signal.at - wrote)
        return out

    async def denied_after(self, **changes: int) -> float:
        """Seconds from the last byte of ONE changed frame to CCL 0; before it CCL was over 0."""
        client = self.client
        for _ in range(50):  # three in a row permit
            if client.ccl[-1][1] > 0:
                break
            await self.send(SERVICE)
            await asyncio.sleep(0.05)
        await self.send(SERVICE, **changes)
        wrote = self.wrote[SERVICE][-1]
        zero: float = await rig.until(
            lambda: next((at for at, amps in client.ccl if at > wrote and amps == 0), None), BOUND_S
        )
        return zero - wrote


@contextlib.asynccontextmanager
async def stand(parent: Path, cells: int, interval_s: float) -> AsyncIterator[Stand]:
    """A stand with its own daemon in a folder under ``parent``; everything on it ends with it."""
    folder = tempfile.mkdtemp(dir=parent)
    with rig.daemon(Path(folder)) as daemon:
        one = Stand(Path(folder), daemon.address, cells, interval_s)
        await one.client.connect(daemon.address)
        try:
            yield one
        finally:
            one.close()


async def send(line: rig.Line, frame: Frame, begin: float, wrote: list[float]) -> None:
    """A frame at the pace of the wire; ``wrote`` gets when its last byte was written."""
    data = encode(frame)
    for end in range(PIECE, len(data) + PIECE, PIECE):
        await sleep_until(begin + min(end, len(data)) * 10 / BIT_RATE)
        if end >= len(data):
            wrote.append(time.monotonic())
        line.write(data[end - PIECE : end])


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample that so many percent of all do not exceed; NaN where there are none."""
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1] if samples else math.nan


def size(message: Any) -> int:
    """Bytes of a message on the wire."""
    return len(message._marshall(False))


def memory_mb(pid: int) -> tuple[float, float]:
    """RSS, and USS: what would be free again without the process.  MB of 10^6 bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {words[0]: int(words[1]) for words in lines}
    return kib["Rss:"] * 1024 / 1e6, (kib["Private_Clean:"] + kib["Private_Dirty:"]) * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, to the nanosecond: what clock_getcpuclockid(3) is for (stat knows 10 ms)."""
    return time.clock_gettime((~pid << 3) | 2)


async def sleep_until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
