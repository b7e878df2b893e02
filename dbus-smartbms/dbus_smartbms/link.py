"""The cables: finding them, and reading one for as long as the driver runs."""

from __future__ import annotations

import asyncio
import logging
import termios
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import serial_asyncio
from serial.tools import list_ports

from smartbms_protocol import BIT_RATE

log = logging.getLogger(__name__)

CABLE_MODEL = "SmartBMSToUSB"
"""What the "123\\SmartBMS to USB" cable says it is."""
LOOK_S = 1.0
"""How often an absent device is looked for."""
IDLE_S = 0.2
"""A silence on the line between two frames: a frame lasts 60 ms, the next begins 0.5 s later."""


class Cable(NamedTuple):
    """A device path, and the USB serial number where there is one."""

    device: str
    serial_number: str | None

    @property
    def identity(self) -> str:
        """The serial number, else the device's name: what stays when the tty number moves."""
        return self.serial_number or Path(self.device).name


def find_cables(devices: str) -> list[Cable]:
    """Cables that are plugged in now: by model for "auto", else by device path or serial number."""
    wanted = [name.strip() for name in devices.split(",") if name.strip()]
    ports = sorted(list_ports.comports(), key=lambda port: (port.serial_number or "", port.device))
    plugged = {port.device: port for port in ports}
    if wanted in ([], ["auto"]):
        chosen = [port for port in ports if (port.product or "").replace(" ", "_") == CABLE_MODEL]
        return [Cable(port.device, port.serial_number) for port in chosen]
    found = []
    for name in wanted:
        if name.startswith("/"):
            port = plugged.get(str(Path(name).resolve()))
            if Path(name).exists():
                found.append(Cable(name, port.serial_number if port else None))
        else:
            found += [Cable(port.device, name) for port in ports if port.serial_number == name]
    return found


class _Reader(asyncio.Protocol):
    """Passes on what comes from the line, with the word whether it was silent before."""

    def __init__(self, received: Callable[[bytes, bool], None]) -> None:
        self._received = received
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self.ended = asyncio.Event()
        self.reason: Exception | None = None

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        idle, self._last = now - self._last > IDLE_S, now
        self._received(data, idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reason = exc
        self.ended.set()


class Link:
    """Reads one cable, and opens it again whenever it went and came back."""

    def __init__(
        self,
        devices: str,
        received: Callable[[bytes, bool], None],
        opened: Callable[[Cable], None] = lambda _cable: None,
    ) -> None:
        """``received(bytes, idle)`` gets what is read, ``opened(cable)`` each opening."""
        self._devices = devices
        self._received = received
        self._opened = opened
        self._said: str | None = None
        self._chosen_anew = asyncio.Event()

    def choose(self, devices: str) -> None:
        """Read other devices from now on, if they are others."""
        if devices != self._devices:
            self._devices = devices
            self._chosen_anew.set()

    async def run(self) -> None:
        """Read for ever.  Never raises for anything a device does."""
        while True:
            cable = self._choose(self._find())
            if cable is not None:
                await self._read(cable)
            await asyncio.sleep(LOOK_S)

    def _find(self) -> list[Cable]:
        try:
            return find_cables(self._devices)
        except Exception as error:  # noqa: BLE001  a device that goes while pyserial looks raises anything
            self._say("cannot look for cables: %s", f"{type(error).__name__}: {error}")
            return []

    def _choose(self, cables: list[Cable]) -> Cable | None:
        if not cables:
            self._say(
                "waiting for a cable (%s)",
                f"USB model {CABLE_MODEL}" if self._devices == "auto" else self._devices,
            )
            return None
        if len(cables) > 1:
            names = ", ".join(cable.device for cable in cables)
            self._say(
                "more than one cable (%s): only the first is read; name yours in [link] devices",
                names,
            )
        return cables[0]

    async def _read(self, cable: Cable) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await serial_asyncio.create_serial_connection(
                loop, lambda: _Reader(self._received), cable.device, baudrate=BIT_RATE, exclusive=True
            )
        except (OSError, ValueError, termios.error) as error:  # SerialException is an OSError
            self._say("cannot open %s: %s", cable.device, _why(error))
            return
        self._say(
            "reading %s (%s)",
            cable.device,
            f"serial number {cable.serial_number}" if cable.serial_number else "no serial number",
        )
        self._opened(cable)
        reader = cast("_Reader", protocol)
        self._chosen_anew.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (reader.ended, self._chosen_anew)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if not transport.is_closing():  # a transport that closed itself cannot be closed again
                transport.abort()
            await reader.ended.wait()  # the device is closed only then
        why = "other devices are to be read" if self._chosen_anew.is_set() else str(reader.reason or "closed")
        self._say("lost %s: %s", cable.device, why)

    def _say(self, text: str, *values: str) -> None:
        """Log a line when it says something new."""
        line = text % values
        if line != self._said:
            self._said = line
            log.log(logging.INFO if text.startswith(("reading", "waiting")) else logging.WARNING, "%s", line)


def _why(error: Exception) -> str:
    """What is wrong with a device, in words that help."""
    text = str(error)
    for sign, words in (
        ("lock port", "another program has it open (a second driver, or serial-starter?)"),
        ("Inappropriate ioctl", "it is no serial port"),
        ("Permission denied", "no permission: run as root, or as a member of the group dialout"),
    ):
        if sign in text:
            return words
    return text
