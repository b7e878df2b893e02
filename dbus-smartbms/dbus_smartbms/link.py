"""The cables: finding them by what USB says of them, and reading all that are chosen at the same time.

Each cable has a task of its own.  What may take long (looking, opening) is done in threads, so that
one cable in trouble holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import serial
import serial_asyncio
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from smartbms_protocol import BIT_RATE

log = logging.getLogger(__name__)
_T = TypeVar("_T")

AUTO = "auto"
CABLE_MODEL = "SmartBMSToUSB"
"""What the "123\\SmartBMS to USB" cable says it is."""
FTDI = 0x0403
"""USB vendor of the cable's chip.  One that was never programmed does not say whose it is."""
_VICTRON = re.compile(r"Victron|VE[. ]Direct|MK[23]-USB", re.IGNORECASE)
"""Other cables with that chip on a GX, by manufacturer or product."""
DEV = Path("/dev")
LOOK_S = 1.0
"""How often it is asked whether anything can have changed."""
LOOK_ANYWAY_S = 10.0
"""A look, which walks through sysfs, is taken so often even when nothing seems to have changed."""
IDLE_S = 0.2
"""A silence on the line between two frames: a frame lasts 60 ms, the next begins 0.5 s later."""


class Cable(NamedTuple):
    """A device as it is named, its USB serial number, and its place where that number is not its own."""

    device: str
    serial_number: str | None
    place: str | None = None
    """The USB port (a path, where there is no USB), only of a cable whose name others have too."""

    @property
    def name(self) -> str:
        """The serial number, else the device's name: what stays when the tty number moves."""
        return self.serial_number or Path(self.device).name

    @property
    def identity(self) -> str:
        """The stable key of the cable: no two that are open have the same, and it never changes meanwhile."""
        return f"{self.name}@{self.place}" if self.place else self.name


class Port(NamedTuple):
    """A serial device that is plugged in now, and what USB says of it."""

    device: str
    """As it is named: in the configuration, else by the system."""
    path: str
    """Where that leads: the same for all names of a device."""
    serial_number: str | None = None
    usb_port: str | None = None
    """For example ``1-1.2``; a second interface of one device has its number behind a colon."""
    model: str = ""
    maker: str = ""
    ftdi: bool = False

    @property
    def says_so(self) -> bool:
        """Whether it says that it is a cable of the BMS."""
        return self.model.replace(" ", "_") == CABLE_MODEL

    @property
    def place(self) -> str:
        """What tells it from another with the same name."""
        return self.usb_port or self.device

    def cable(self, place: str | None = None) -> Cable:
        """The cable that it is, with its place if its name is not its own."""
        return Cable(self.device, self.serial_number, place)

    def is_still(self, other: Port | None) -> bool:
        """Whether what is under the same path now is the same device."""
        return (other or Port("", self.path))[1:] == self[1:]


def plugged() -> dict[str, Port]:
    """All serial devices, by path.  Raises whatever pyserial raises for a device that goes meanwhile."""
    ports = map(_port, list_ports.comports())
    return {port.path: port for port in ports}


def _port(info: ListPortInfo) -> Port:
    return Port(
        info.device,
        str(Path(info.device).resolve()),
        info.serial_number or None,
        info.location.removesuffix(":1.0") if info.location else None,
        info.product or "",
        info.manufacturer or "",
        info.vid == FTDI,
    )


def split(devices: str) -> list[str]:
    """The names in a list of devices: "auto", paths, serial numbers; none is "auto"."""
    return [name.strip() for name in devices.split(",") if name.strip()] or [AUTO]


def called(name: str, ports: dict[str, Port]) -> list[Port]:
    """Those of the ports that a name stands for; a path may lead to one that is not among them."""
    if name == AUTO:
        return [port for port in ports.values() if port.says_so]
    if name.startswith("/"):
        path = _where(name)
        return [ports.get(path, Port(name, path))._replace(device=name)] if path else []
    return [port for port in ports.values() if port.serial_number == name]


def find_cables(devices: str, ports: dict[str, Port]) -> list[Port]:
    """Those that are chosen, each once, however often it is named; in an order that lasts."""
    found: dict[str, Port] = {}
    for name in split(devices):
        for port in called(name, ports):
            found.setdefault(port.path, port)
    return sorted(
        found.values(), key=lambda port: (port.serial_number or "", port.usb_port or "", port.device)
    )


def unprogrammed(port: Port) -> bool:
    """Whether it may be a cable of the BMS that was never programmed: its chip, and nobody else's name."""
    return port.ftdi and not _VICTRON.search(f"{port.maker} {port.model}")


def _where(name: str) -> str | None:
    """Where a path leads; None where nothing is."""
    try:
        return str(Path(name).resolve(strict=True))
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, a loop of links
        return None


class _Identities:
    """Tells cables with the same name apart, for one run.

    A name that one cable alone has is its identity, whatever port it moves to.  Once two were there at the
    same time, the port belongs to the identity, but for the one that was being read without it.
    """

    def __init__(self) -> None:
        self._shared: set[str] = set()
        self._first: dict[str, str] = {}
        """Where the cable is, or was, that is known by its name alone."""

    def of(self, ports: list[Port]) -> dict[str, Cable]:
        """The cables at these ports, by path."""
        names = [port.cable().name for port in ports]
        self._shared.update(name for name in names if names.count(name) > 1)
        return {port.path: self._cable(name, port) for name, port in zip(names, ports, strict=True)}

    def _cable(self, name: str, port: Port) -> Cable:
        alone = name not in self._shared or self._first.get(name) == port.place
        return port.cable(None if alone else port.place)

    def read(self, cable: Cable, port: Port) -> None:
        """Note who is going to be read under which identity."""
        if cable.place is None:
            self._first[cable.name] = port.place


class _Reading(asyncio.Protocol):
    """A cable from its opening on: passes on what comes, with the word whether the line was silent before."""

    def __init__(self, cable: Cable, port: Port, received: Callable[[Cable, bytes, bool], None]) -> None:
        self.cable = cable
        self.port = port
        self.ended = asyncio.Event()
        self.reason = "closed"
        self._received = received
        self._clock = asyncio.get_running_loop().time
        self._last = -math.inf  # bytes from before and after an opening do not belong together
        self._transport: Any = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self.ended.is_set()

    async def begin(self, device: serial.Serial) -> None:
        try:
            self._transport, _ = await serial_asyncio.connection_for_serial(
                asyncio.get_running_loop(), lambda: self, device
            )
        except BaseException:
            device.close()
            raise

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        idle, self._last = now - self._last > IDLE_S, now
        self._received(self.cable, data, idle)

    def end(self, reason: str) -> None:
        if self.is_open and not self._transport.is_closing():  # one that closed itself cannot be closed again
            self.reason = reason
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reason = str(exc) if exc else self.reason
        self.ended.set()  # whoever waits for it goes on when the device is closed


class Link:
    """Reads all chosen cables, each again whenever it went and came back."""

    def __init__(
        self,
        devices: str,
        received: Callable[[Cable, bytes, bool], None],
        opened: Callable[[Cable], None] = lambda _cable: None,
    ) -> None:
        """``received(cable, bytes, idle)`` gets what is read, ``opened(cable)`` each opening.

        ``devices`` is a list, separated by commas, of "auto", device paths and USB serial numbers.
        """
        self._devices = devices
        self._received = received
        self._opened = opened
        self._chosen_anew = asyncio.Event()
        self._identities = _Identities()
        self._readings: dict[str, _Reading] = {}
        """By identity: whatever is open, or being opened."""
        self._found: set[str] = set()
        """Paths of what was chosen and there at the last look; empty if something was missing."""
        self._traces: list[object] = []
        self._looked_at = 0.0
        self._missing: list[str] = []
        self._said: set[tuple[str, str]] = set()

    def choose(self, devices: str) -> None:
        """Read others from now on: who is no longer chosen is closed, who still is goes on undisturbed."""
        if devices == self._devices:
            return
        self._devices = devices
        self._traces = []
        self._chosen_anew.set()
        for reading in self._readings.values():
            if not self._is_chosen(reading.port):
                reading.end("other devices are to be read")

    def _is_chosen(self, port: Port) -> bool:
        there = find_cables(self._devices, {port.path: port})
        return any(chosen.path == port.path for chosen in there)

    async def run(self) -> None:
        """Read for ever.  Never raises for anything a device does.

        Cancelled, it returns when every device is closed.  What ``opened`` raises ends it, in an
        ExceptionGroup.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                if self._may_differ():
                    for reading in await self._look():
                        tasks.create_task(self._read(reading), name=f"cable {reading.cable.identity}")
                with contextlib.suppress(TimeoutError):
                    # wait_for of Python 3.11 may lose a cancelling.
                    async with asyncio.timeout(LOOK_S):
                        await self._chosen_anew.wait()
                self._chosen_anew.clear()

    # Looking

    def _may_differ(self) -> bool:
        """Whether a look may find anything new.  Cheap, which on a GX a look is not."""
        now = asyncio.get_running_loop().time()
        paths = [name for name in split(self._devices) if name.startswith("/")]
        traces: list[object] = [_changed_ns(DEV), *map(_where, paths)]
        being_read = {reading.port.path for reading in self._readings.values() if reading.is_open}
        all_read = bool(self._found) and self._found <= being_read
        if all_read and traces == self._traces and now - self._looked_at < LOOK_ANYWAY_S:
            return False
        self._traces, self._looked_at = traces, now
        return True

    async def _look(self) -> list[_Reading]:
        """What is there to be opened now."""
        self._found = set()
        try:
            ports = await asyncio.wrap_future(in_thread(plugged))
        except Exception as error:  # noqa: BLE001  a device that goes while pyserial looks raises anything
            self._warn("looking", "cannot look for cables: %s", f"{type(error).__name__}: {error}")
            return []
        self._forget("looking")
        found = find_cables(self._devices, ports)
        self._say_what_is_missing(ports)
        if not self._missing:
            self._found = {port.path for port in found}
        self._hint(ports, found)
        cables = self._identities.of(found)
        self._say_who_is_who(list(cables.values()))
        return [
            self._take(cables[port.path], port) for port in found if self._is_free(cables[port.path], port)
        ]

    def _is_free(self, cable: Cable, port: Port) -> bool:
        """Whether nothing of it is open: not a device that is there no more, but has not ended yet."""
        return cable.identity not in self._readings and all(
            reading.port.path != port.path for reading in self._readings.values()
        )

    def _take(self, cable: Cable, port: Port) -> _Reading:
        self._identities.read(cable, port)
        reading = self._readings[cable.identity] = _Reading(cable, port, self._received)
        return reading

    # Reading

    async def _read(self, reading: _Reading) -> None:
        try:
            if await self._begin(reading):
                try:
                    self._opened(reading.cable)
                    await reading.ended.wait()
                finally:
                    reading.end("closed")
                    await reading.ended.wait()
                log.warning("lost %s: %s", reading.cable.device, reading.reason)
        finally:
            del self._readings[reading.cable.identity]

    async def _begin(self, reading: _Reading) -> bool:
        cable = reading.cable
        try:
            device = await _open(reading.port)
            if device is None:  # another one has its path now: the next look tells
                return False
            if not self._is_chosen(reading.port):
                device.close()
                return False
            await reading.begin(device)
        except Exception as error:  # noqa: BLE001  OSError, ValueError, termios.error, and what the listing raises
            if getattr(error, "errno", None) != errno.ENOENT:  # else it went just now
                self._warn(cable.identity, "cannot open %s: %s", cable.device, _why(error))
            return False
        self._forget(cable.identity)
        log.info(
            "reading %s (%s)",
            cable.device,
            f"serial number {cable.serial_number}" if cable.serial_number else "no serial number",
        )
        return True

    # What is said, and not every second

    def _warn(self, subject: str, text: str, *values: str) -> None:
        """Log what is wrong once for each reason, the last of the values, until it is forgotten."""
        if self._is_new(subject, values[-1]):
            log.warning(text, *values)

    def _is_new(self, subject: str, what: str) -> bool:
        new = (subject, what) not in self._said
        self._said.add((subject, what))
        return new

    def _forget(self, subject: str) -> None:
        self._said = {said for said in self._said if said[0] != subject}

    def _say_what_is_missing(self, ports: dict[str, Port]) -> None:
        missing = [name for name in split(self._devices) if not called(name, ports)]
        if missing and missing != self._missing:
            words = (f"USB model {CABLE_MODEL}" if name == AUTO else name for name in missing)
            log.info("waiting for a cable (%s)", ", ".join(words))
        self._missing = missing

    def _say_who_is_who(self, cables: list[Cable]) -> None:
        names = [cable.name for cable in cables]
        for name in sorted({name for name in names if names.count(name) > 1}):
            same = [cable for cable in cables if cable.name == name]
            if [cable for cable in same if self._is_new("the same name", cable.identity)]:
                log.warning(
                    "%d cables have the %s %s; they are told apart by %s: %s",
                    len(same),
                    *(("serial number", name, "their USB port") if same[0].serial_number
                      else ("name", name, "their path")),
                    ", ".join(f"{cable.device} is {cable.identity}" for cable in same),
                )  # fmt: skip

    def _hint(self, ports: dict[str, Port], found: list[Port]) -> None:
        """With "auto", tell of a device that may be ours and does not say so."""
        chosen = {port.path for port in found}
        for port in ports.values() if AUTO in split(self._devices) else ():
            if port.path in chosen or not unprogrammed(port):
                continue
            if self._is_new("a hint", port.serial_number or port.path):
                log.info(
                    "%s (%s) is left alone; if it is a cable of the BMS that was never programmed, "
                    "name its %s in [link] devices",
                    port.device,
                    ", ".join(filter(None, (port.model, port.serial_number))),
                    f"serial number {port.serial_number}" if port.serial_number else "path",
                )


def _changed_ns(folder: Path) -> int | None:
    """When a device was last added or removed, on a clock of the system's own."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


def in_thread(work: Callable[[], _T]) -> Future[_T]:
    """Run in a thread of its own, which ends with it: one that hangs holds up nothing, not even the end."""
    done: Future[_T] = Future()
    done.set_running_or_notify_cancel()  # it cannot be called back

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001  it is raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return done


async def _open(port: Port) -> serial.Serial | None:
    """The open device; None if another is there by now.  Cancelled, it leaves nothing open."""
    opening = asyncio.wrap_future(in_thread(lambda: _open_and_look(port)))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if not opening.cancelled() and not opening.exception() and (device := opening.result()):
            device.close()
        raise


def _open_and_look(port: Port) -> serial.Serial | None:
    """Open a device and look whether it is still the one that was found.

    A tty number is not given to another device while the one that had it is open, so what has it
    after the opening is what was opened.
    """
    device = serial.Serial(port.device, BIT_RATE, timeout=0, write_timeout=0, exclusive=True)
    try:
        if _where(port.device) == port.path and port.is_still(plugged().get(port.path)):
            return device
    except BaseException:
        device.close()
        raise
    device.close()
    return None


def _why(error: Exception) -> str:
    """What is wrong with a device, in words that help."""
    text = str(error)
    for sign, words in (
        ("lock port", "another program has it open (a second driver, or serial-starter?)"),
        ("resource busy", "another program has it open (a second driver, or serial-starter?)"),
        ("Inappropriate ioctl", "it is no serial port"),
        ("Permission denied", "no permission: run as root, or as a member of the group dialout"),
    ):
        if sign in text:
            return words
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else text
