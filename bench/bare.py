"""The bare sender: a dbus-next program that does nothing but send the driver's signals.

What it costs is what asyncio and dbus-next cost.  It wraps each value when it sends it, as any
program has to; it remembers nothing, compares nothing, decides nothing.

    python3 bare.py SIGNALS NAME --line DEVICE     a signal for every 58 bytes, which it does not look at
    python3 bare.py SIGNALS NAME --every SECONDS   reads no line: a signal each time the time is up

SIGNALS is a file of JSON lines, each a list of [path, type, value, text]; after the last comes the first.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import serial_asyncio
from dbus_next.aio.message_bus import MessageBus
from dbus_next.message import Message
from dbus_next.signature import Variant

FRAME_SIZE, BIT_RATE = 58, 9600
Signal = list[tuple[str, str, Any, str]]


class Reader(asyncio.Protocol):
    """Counts bytes."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send, self._size = send, 0

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        while self._size >= FRAME_SIZE:
            self._size -= FRAME_SIZE
            self._send()


async def run(signals: Iterator[Signal], name: str, line: str | None, every_s: float) -> None:
    """Send until killed, on the bus of DBUS_SESSION_BUS_ADDRESS."""
    bus: Any = await MessageBus().connect()

    def send() -> None:
        body = {
            path: {
                "Value": Variant("ai", []) if value is None else Variant(kind, value),
                "Text": Variant("s", text),
            }
            for path, kind, value, text in next(signals)
        }
        interface = "com.victronenergy.BusItem"
        bus.send(Message.new_signal("/", interface, "ItemsChanged", "a{sa{sv}}", [body]))

    if line is not None:
        loop = asyncio.get_running_loop()
        await serial_asyncio.create_serial_connection(
            loop, lambda: Reader(send), line, baudrate=BIT_RATE, exclusive=True
        )
    await bus.request_name(name)  # last, so that who sees it knows that the line is read
    while line is None:
        await asyncio.sleep(every_s)
        send()
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send recorded signals and do nothing else.")
    parser.add_argument("signals", type=Path)
    parser.add_argument("name")
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--line", metavar="DEVICE")
    pace.add_argument("--every", metavar="SECONDS", type=float, default=1.0)
    options = parser.parse_args()
    recorded = [json.loads(signal) for signal in options.signals.read_text().splitlines()]
    asyncio.run(run(itertools.cycle(recorded), options.name, options.line, options.every))
