"""Real parts for tests: a dbus-daemon, a serial line, the driver as a process, a clock-free wait."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import math
import os
import pty
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

import dbus_smartbms.bus
from smartbms_protocol import BIT_RATE, Frame, encode

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, str(ROOT / "dbus-smartbms")]
BUS_ITEM = "com.victronenergy.BusItem"
PATIENCE_S = 30.0
"""Bound of every wait: generous, because it is only met when something is broken."""

_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={socket}</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""

FRAME = Frame(
    voltage_mv=53120, current1_ma=0, current2_ma=12500, current_ma=-12500,
    lowest_mv=3310, lowest_cell=7, highest_mv=3330, highest_cell=3,
    coldest_raw=296, coldest_cell=1, hottest_raw=299, hottest_cell=16,
    cell=1, cells=16, cell_mv=3320, cell_raw=297, status=0b11,
    collected_today_wh=1234, stored_wh=8000, consumed_today_wh=2345, soc_percent=50,
    collected_kwh=100, consumed_kwh=90, key=None, value=0,
    capacity_wh=16000, vmin_mv=2900, vmax_mv=3700, vbalance_mv=3400,
)  # fmt: skip
"""A 16-cell LFP pack at half charge, discharging with 12.5 A: 0.5 C is 151.5 A, CVL 54.88 V."""

PAIRS = (95, 97, 2, 88, 2, 148, 0x33, 11, 1, 4, 0, 1, 2, 0, 1, 0, 0x30, 2, 168)
"""Values of keys 0 to 18: SoH 95, Vlow 3.0 V, Vnom 3.3 V, firmware 3.3.11, 260 cycles, Vfull 3.4 V ..."""


def frame(turn: int = 0, **changes: Any) -> Frame:
    """The frame of a turn: another cell and another rotating key each time."""
    rotating = {
        "cell": turn % changes.get("cells", FRAME.cells) + 1,
        "key": turn % 19,
        "value": PAIRS[turn % 19],
    }
    return dataclasses.replace(FRAME, **(rotating | changes))


class Daemon:
    """A dbus-daemon of its own on a socket in ``folder``; can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "bus"
        self.address = f"unix:path={self.socket}"
        self._configuration = folder / "bus.conf"
        self._configuration.write_text(_CONFIGURATION.format(socket=self.socket))
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = ["dbus-daemon", f"--config-file={self._configuration}", "--nofork", "--nopidfile"]
        with self._configuration.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--print-address"], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("unix:")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


class Line:
    """A serial line: bytes written here come out of ``path`` at 9600 bit/s, in small pieces."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._master = -1
        self.plug()

    def plug(self) -> None:
        """A new device appears under the path."""
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(self._master, False)
        self.path.symlink_to(os.ttyname(slave))
        os.close(slave)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def unplug(self) -> None:
        """The device goes, as when the cable is pulled."""
        if self._master >= 0:
            self.path.unlink()
            os.close(self._master)
            self._master = -1

    def write(self, data: bytes) -> None:
        """All at once, as after a stall of the reader; lost while the cable is pulled."""
        if self._master < 0:
            return
        with contextlib.suppress(BlockingIOError):  # nobody reads: a serial line loses bytes too
            os.write(self._master, data)

    async def send(self, *frames: Frame, gap_s: float = 0.05) -> None:
        """Frames at the pace of the wire, each followed by a pause."""
        for one in frames:
            data = encode(one)
            for begin in range(0, len(data), 8):
                self.write(data[begin : begin + 8])
                await asyncio.sleep(8 * 10 / BIT_RATE)
            await asyncio.sleep(gap_s)

    async def pour(self, *frames: Frame) -> None:
        """Frames as fast as the reader takes them; nothing gets lost.  TimeoutError if it takes no more."""
        data = memoryview(b"".join(map(encode, frames)))
        async with asyncio.timeout(PATIENCE_S):
            while data:
                try:
                    data = data[os.write(self._master, data) :]
                except BlockingIOError:
                    await asyncio.sleep(0.001)


class Process:
    """The driver (or another command) as a process; its log is in ``log``."""

    def __init__(self, folder: Path, *arguments: str, address: str | None = None, **environment: str) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}"
        variables = os.environ | environment | ({"DBUS_SESSION_BUS_ADDRESS": address} if address else {})
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables
            )

    @property
    def text(self) -> str:
        """The log, without what asyncio's debug mode says of a slow machine."""
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if "Executing <" not in line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        print(self.text)  # shown when the test fails
        self.kill()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it, kindly at first: a killed process tells coverage nothing."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
        self.process.wait()


def bus_on(library: str) -> Any:
    """``dbus_smartbms.bus`` on a D-Bus library (dbus_next or dbus_fast), beside the one in use."""
    source = dbus_smartbms.bus.__file__
    spec = importlib.util.spec_from_file_location(f"dbus_smartbms.bus_on_{library}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = os.environ.get("DBUS_SMARTBMS_LIBRARY", "dbus_next")
    os.environ["DBUS_SMARTBMS_LIBRARY"] = library
    spec.loader.exec_module(module)
    os.environ["DBUS_SMARTBMS_LIBRARY"] = before
    return module


def plain(value: Any) -> Any:
    """A value from the bus with its type to be seen: a variant as ``{signature: value}``."""
    if isinstance(value, Variant):
        return {value.signature: plain(value.value)}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, bytes)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def variant(form: dict[str, Any]) -> Variant:
    """The other way: ``{"d": 5.0}``, ``{"v": {"i": 1}}``, ``{"a{sv}": {"a": {"i": 1}}}``."""
    ((signature, value),) = form.items()
    if signature == "v":
        value = variant(value)
    elif signature == "a{sv}":
        value = {key: variant(entry) for key, entry in value.items()}
    return Variant(signature, value)


class NoAnswerError(Exception):
    """A service gave an error instead of a value: most often, its name is not on the bus (yet)."""


class Client:
    """A client of one service that is not ours: dbus-fast, message by message."""

    def __init__(self, address: str, service: str) -> None:
        self.service = service
        self._address = address
        self.signals: list[Message] = []
        """Signals of the service, and NameOwnerChanged of its name, as they came."""

    async def __aenter__(self) -> Client:
        self.bus = await MessageBus(bus_address=self._address).connect()
        self.bus.add_message_handler(self._heard)
        for rule in (f"sender='{self.service}'", f"member='NameOwnerChanged',arg0='{self.service}'"):
            await self.daemon("AddMatch", "s", f"type='signal',{rule}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.bus.disconnect()
        with contextlib.suppress(Exception):
            await self.bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def _heard(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member not in ("NameAcquired", "NameLost"):
            self.signals.append(message)

    async def daemon(self, member: str, signature: str = "", *body: Any) -> Any:
        """Call the bus itself; the first value of its answer, None for an error."""
        name = "org.freedesktop.DBus"
        reply = await asyncio.wait_for(
            self.bus.call(Message(name, "/", name, member, signature=signature, body=list(body))), PATIENCE_S
        )
        return reply.body[0] if reply.message_type is MessageType.METHOD_RETURN and reply.body else None

    async def owner(self) -> str | None:
        """The connection that has the service's name now."""
        owner: str | None = await self.daemon("GetNameOwner", "s", self.service)
        return owner

    def message(
        self, path: str, member: str, signature: str = "", *body: Any, interface: str | None = BUS_ITEM
    ) -> Message:
        return Message(self.service, path, interface, member, signature=signature, body=list(body))

    async def send(self, message: Message) -> None:
        """Send a call that wants no reply."""
        message.flags = MessageFlag.NO_REPLY_EXPECTED
        await self.bus.send(message)

    async def call(self, path: str, member: str, signature: str = "", *body: Any, **more: Any) -> Message:
        """Any call, answered within the bound; errors come back as messages too."""
        message = self.message(path, member, signature, *body, **more)
        return await asyncio.wait_for(self.bus.call(message), PATIENCE_S)

    async def get(self, path: str) -> Any:
        """The value on a path, None for "no value".  Raises NoAnswerError, for which ``until`` waits on."""
        reply = await self.call(path, "GetValue")
        if reply.message_type is not MessageType.METHOD_RETURN:
            raise NoAnswerError(f"{self.service} {path}: {reply.error_name}")
        value = reply.body[0]
        return None if value.signature == "ai" and not value.value else value.value

    async def items(self) -> dict[str, dict[str, Any]]:
        """All items, types to be seen."""
        answer: dict[str, dict[str, Any]] = plain((await self.call("/", "GetItems")).body[0])
        return answer

    async def write(self, path: str, form: dict[str, Any]) -> int:
        """SetValue of ``{signature: value}``; its code."""
        reply = await self.call(path, "SetValue", "v", variant(form))
        assert reply.signature == "i", reply.body
        code: int = reply.body[0]
        return code


async def until(look: Callable[[], Any], bound_s: float = PATIENCE_S) -> Any:
    """Wait for a look to give something true, and return it; TimeoutError after the bound."""
    end = time.monotonic() + bound_s
    while True:
        value = None
        with contextlib.suppress(NoAnswerError):
            result = look()
            value = await result if isinstance(result, Awaitable) else result
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError("not seen within the bound")
        await asyncio.sleep(0.01)


class Driver:
    """The driver as a process on a line in ``folder``; on a bus if it has an address."""

    def __init__(self, folder: Path, address: str, *options: str, **environment: str) -> None:
        self.address = address
        self.line = Line(folder / "tty")
        command = ("run", "--device", str(self.line.path), *options)
        self.process = Process(folder, *command, address=address, **environment)

    @property
    def log(self) -> str:
        """What it has logged; an AssertionError if it ended."""
        assert self.process.process.poll() is None, self.process.text
        return self.process.text

    async def ready(self, **changes: Any) -> None:
        """Let it read frames until it is on the bus and permits."""
        await self.logged("reading ")
        await self.line.pour(*(frame(turn, **changes) for turn in range(4)))
        await self.logged("on the bus")

    async def logged(self, words: str, times: int = 1) -> None:
        """Wait for words in its log."""
        try:
            await until(lambda: self.log.count(words) >= times)
        except TimeoutError as error:
            error.add_note(f"{words!r} is not in the log:\n{self.log}")
            raise

    def figure(self, name: str) -> int:
        """A figure of the process in kB or pieces: VmRSS, Threads ... of /proc, or open "files"."""
        proc = Path(f"/proc/{self.process.process.pid}")
        if name == "files":
            return len(list((proc / "fd").iterdir()))
        line = next(line for line in (proc / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])


@contextlib.contextmanager
def driver(folder: Path, address: str, *options: str, **environment: str) -> Iterator[Driver]:
    """A running driver, which ends as it should: with status 0 and no traceback in its log."""
    one = Driver(folder, address, *options, **environment)
    try:
        yield one
        assert one.process.end() == 0, one.process.text
        assert "Traceback" not in one.process.text, one.process.text
    finally:
        one.process.kill()
        one.line.unplug()


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """A running dbus-daemon."""
    one = Daemon(folder)
    try:
        yield one
    finally:
        one.stop()
