"""What is on the bus, for ``doctor``: batteries, who is battery monitor and BMS, DVCC."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .bus import BUS_ITEM, SETTINGS, BusError, Connection
from .use import ACTIVE_BMS, DVCC, SYSTEM

BATTERIES = "com.victronenergy.battery."
OURS = BATTERIES + "smartbms"
MONITOR, MULTIPLE = "/ActiveBatteryService", "/Dvcc/Alarms/MultipleBatteries"
BOL, CHOSEN_BMS, CHOSEN_MONITOR = (
    "/Settings/Services/Bol",
    "/Settings/SystemSetup/BmsInstance",
    "/Settings/SystemSetup/BatteryService",
)
SHOWN = (
    "/ProductName", "/CustomName", "/DeviceInstance", "/Soc", "/Dc/0/Voltage", "/Dc/0/Current",
    "/Info/MaxChargeVoltage", "/Info/MaxChargeCurrent", "/Info/MaxDischargeCurrent",
)  # fmt: skip
"""Asked for one by one of a service that does not know GetItems."""
SILENT = "it does not answer"
SURVEY_S = 16.0
"""Connecting and three calls after each other, each of which may take 5 s; then what is known counts."""


class Battery(NamedTuple):
    """A battery service: its items as ``{path: (value, text)}``, or why they are not known."""

    name: str
    items: dict[str, tuple[Any, str]]
    error: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is this driver's: the battery, or a pack of it."""
        return self.name == OURS or self.name.startswith(OURS + "_")

    def value(self, path: str) -> Any:
        """None where there is none."""
        return self.items.get(path, (None, ""))[0]

    def text(self, path: str) -> str:
        """As people read it; "-" where there is no value."""
        value, text = self.items.get(path, (None, ""))
        return "-" if value is None else text or str(value)


@dataclass
class Bus:
    """What was learnt; ``error`` says why it is not all."""

    error: str = ""
    batteries: list[Battery] = field(default_factory=list)
    system: dict[str, Any] | None = None
    """Values of com.victronenergy.system; None: it is not there."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def battery(self) -> Battery | None:
        """The driver's battery, which has the limits."""
        return next((battery for battery in self.batteries if battery.name == OURS), None)

    @property
    def instance(self) -> Any:
        """Of the driver's battery."""
        return self.battery.value("/DeviceInstance") if self.battery else None


async def look(limit_s: float = SURVEY_S) -> Bus:
    """Ask everybody, within the time.  Never raises for anything the bus does."""
    bus, connection = Bus(), Connection()
    try:
        async with asyncio.timeout(limit_s):
            await connection.connect()
            await _ask(connection, bus)
    except TimeoutError:
        bus.error = f"it does not answer within {limit_s:g} s"
    except BusError as error:
        bus.error = _words(error)
    finally:
        connection.disconnect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await connection.closed()
    return bus


def _words(error: BusError) -> str:
    """The library's error in words."""
    text = str(error)
    if "TimeoutError" in text:
        return SILENT
    if "FileNotFoundError" in text or "ConnectionRefusedError" in text:
        return "there is none"
    return text


async def _ask(connection: Connection, bus: Bus) -> None:
    names = await connection.names()

    async def battery(name: str) -> None:
        bus.batteries.append(await _battery(connection, name))
        bus.batteries.sort(key=lambda one: one.name)

    async def system() -> None:
        if SYSTEM in names:
            bus.system = await _values(connection, SYSTEM, (DVCC, ACTIVE_BMS, MONITOR, MULTIPLE))

    async def settings() -> None:
        if SETTINGS in names:
            bus.settings = await _values(connection, SETTINGS, (BOL, CHOSEN_BMS, CHOSEN_MONITOR))

    batteries = [battery(name) for name in names if name.startswith(BATTERIES)]
    await asyncio.gather(system(), settings(), *batteries)


async def _battery(connection: Connection, name: str) -> Battery:
    error = "its answer to GetItems is none"
    try:
        items = await connection.get_items(name)
        if isinstance(items, dict):
            found = [(path, item) for path, item in items.items() if isinstance(item, dict)]
            return Battery(
                name, {path: (item.get("Value"), str(item.get("Text", ""))) for path, item in found}
            )
    except BusError as failed:
        error = _words(failed)
    values = {} if error == SILENT else await _values(connection, name, SHOWN)
    return Battery(name, {path: (value, "") for path, value in values.items()}, "" if values else error)


async def _values(connection: Connection, service: str, paths: tuple[str, ...]) -> dict[str, Any]:
    """The values that there are."""
    found: dict[str, Any] = {}

    async def ask(path: str) -> None:
        with contextlib.suppress(BusError):
            found[path] = await connection.call(service, path, BUS_ITEM, "GetValue")

    await asyncio.gather(*map(ask, paths))
    return found
