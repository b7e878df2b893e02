"""Captures: written from cables (``record``), and walked through the whole driver (``replay``).

``replay`` needs no serial port, no bus and no clock: JSON lines in, one answer each out.  The same
lines always give the same answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from smartbms_protocol import FRAME_SIZE

from . import tables
from .bank import Bank
from .capture import as_line
from .configuration import Configuration
from .items import BankItems
from .link import IDLE_S, Cable, Link
from .pack import Pack
from .views import Identity

log = logging.getLogger(__name__)

LONGEST_SILENCE_S = 200
"""Seconds of a gap between two lines that are walked through; nothing changes after that."""
_HEX = re.compile("(?:[0-9a-fA-F]{2})*")
"""Stricter than ``bytes.fromhex``, which skips white space."""
LATEST_S = 1e12
"""Beyond this, seconds would no longer be told apart to a millisecond."""
MOST_PACKS = 255


class Replay:
    """The state behind the answers."""

    def __init__(self, configuration: Configuration, *, items: bool = False) -> None:
        self.bank = Bank(configuration)
        self._identity = Identity(connection="replay", problems=tuple(configuration.problems))
        self._items = BankItems() if items else None
        self._t: float | None = None
        self._heard: dict[str, float] = {}
        """When the last line of each pack was."""
        self._last = self._pack(0)
        self._before = self._last.mirror_memory
        """Of the mirror, before the last frame."""

    def answer(self, line: str) -> dict[str, Any]:
        """The answer to one line; ``{"error": why}`` for a malformed one, which changes nothing."""
        try:
            t, number, data = self._parse(line)
        except ValueError as error:
            return {"error": str(error)}
        before = t if self._t is None else self._t
        for second in range(1, math.ceil(min(t - before, LONGEST_SILENCE_S))):
            self.bank.tick(before + second)
        self._t = t
        pack = self._last = self._pack(number)
        for frame in pack.feed(data, idle=t - self._heard.get(pack.cable, t) > IDLE_S):
            self._before = pack.mirror_memory
            self.bank.take(pack.cable, frame, t)
        self._heard[pack.cable] = t
        self.bank.tick(t)
        return self._state(pack, t)

    def _pack(self, number: int) -> Pack:
        return self.bank.pack(f"bms {number}")

    def explain(self, lines: Iterable[str]) -> str:
        """Walk through all lines; the last frame run through the manuals' tables.

        Raises ValueError for a malformed line, and where there was no frame.
        """
        for number, line in enumerate(lines, 1):
            answer = self.answer(line)
            if "error" in answer:
                raise ValueError(f"line {number}: {answer['error']}")
        pack = self._last
        return tables.explain(pack.settings, self._before, pack.readings, pack.readings.at or 0.0)

    def _parse(self, line: str) -> tuple[float, int, bytes]:
        try:
            entry = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError('expected an object, for example {"t": 1.0, "frame": null}')
        t = entry.get("t")
        if isinstance(t, bool) or not isinstance(t, (int, float)) or not -LATEST_S <= t <= LATEST_S:
            raise ValueError('"t" has to be a number of seconds')
        if self._t is not None and t < self._t:
            raise ValueError(f'"t" goes back from {self._t:g} to {t:g}')
        number = entry.get("bms", 0)
        if type(number) is not int or not 0 <= number < MOST_PACKS:
            raise ValueError(f'"bms" has to be the number of a pack, 0 to {MOST_PACKS - 1}')
        if ("frame" in entry) == ("bytes" in entry):
            raise ValueError('expected either "frame" or "bytes"')
        if "frame" in entry:
            frame = entry["frame"]
            if frame is None:
                return float(t), number, b""
            data = _from_hex("frame", frame)
            if len(data) != FRAME_SIZE:
                raise ValueError(f'"frame" has to be {2 * FRAME_SIZE} hex digits or null')
            return float(t), number, data
        return float(t), number, _from_hex("bytes", entry["bytes"])

    def _state(self, pack: Pack, t: float) -> dict[str, Any]:
        limits, relays = self.bank.limits, pack.relays
        state: dict[str, Any] = {
            "cvl": limits.cvl_mv / 1000 if limits else None,
            "ccl": limits.ccl_ma // 100 / 10 if limits else 0.0,
            "dcl": limits.dcl_ma // 100 / 10 if limits else 0.0,
            "allow_charge": bool(limits and limits.allow_charge),
            "allow_discharge": bool(limits and limits.allow_discharge),
            "reasons": {
                "cvl": limits.cvl_reason if limits else "no frame yet",
                "ccl": limits.ccl_reason if limits else "no frame yet",
                "dcl": limits.dcl_reason if limits else "no frame yet",
            },
            "state": limits.state if limits else "bulk",
            "mirror": {
                "charge": relays.charge.closed,
                "discharge": relays.load.closed,
                "soc": None if pack.lost or pack.soc is None else round(pack.soc, 2),
            },
            "frames": pack.stream.frames,
            "rejected": pack.stream.rejected,
        }
        if self._items is not None:
            self._items.update(self.bank, self._identity, {}, t)
            state["items"] = self._items.values()
        return state


def _from_hex(name: str, text: object) -> bytes:
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise ValueError(f'"{name}" has to be hex digits, two a byte')
    return bytes.fromhex(text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def replay(lines: Iterable[str], configuration: Configuration, *, items: bool = False) -> Iterator[str]:
    """One answer a line, as JSON."""
    state = Replay(configuration, items=items)
    for line in lines:
        yield json.dumps(state.answer(line))


def explain(source: str, configuration: Configuration) -> str:
    """The last frame of a capture run through the manuals' tables; ``source`` is its file, or a frame in hex.

    Raises ValueError, with a sentence, where there is no frame; OSError for a file that cannot be read.
    """
    state = Replay(configuration)
    frame = source.strip()
    if re.fullmatch("[0-9a-fA-F]{40,}", frame):
        if len(frame) != 2 * FRAME_SIZE:
            raise ValueError(f"a frame has {2 * FRAME_SIZE} hex digits, these are {len(frame)}")
        lines: Iterable[str] = [json.dumps({"t": 0, "frame": frame})]
    else:
        lines = Path(source).read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return state.explain(lines)


@dataclass
class Capture:
    """What has been recorded so far."""

    size: int = 0
    pieces: int = 0


async def record(devices: str, capture: Capture, out: TextIO, seconds: float | None) -> None:
    """Write what the cables send as lines that ``replay`` reads, until cancelled or for ``seconds``.

    The cable that is opened first is number 0, which its lines need not say; those of the others do.
    Raises OSError when ``out`` cannot be written, for example on a full disk.
    """
    begin = time.monotonic()
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    numbers: dict[str, int] = {}

    def opened(cable: Cable) -> None:
        if cable.identity not in numbers:
            numbers[cable.identity] = len(numbers)
            if len(numbers) > 1:
                who = ", ".join(f"{number} is {identity}" for identity, number in numbers.items())
                log.info('several cables: "bms" %s', who)

    def received(cable: Cable, data: bytes, _idle: bool) -> None:
        try:
            out.write(as_line(time.monotonic() - begin, numbers[cable.identity], data))
            out.flush()
            capture.size += len(data)
            capture.pieces += 1
        except OSError as error:
            if not failed.done():
                failed.set_exception(error)

    reading = asyncio.create_task(Link(devices, received, opened).run())
    try:
        done, _ = await asyncio.wait({reading, failed}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
