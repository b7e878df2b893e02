"""What is lasting about a battery: the instance that localsettings keeps, the name that a user gives."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

import rig
from dbus_smartbms import state
from dbus_smartbms.driver import INSTANCE, SERVICE

SETTINGS = "com.victronenergy.settings"
BUS_ITEM = "com.victronenergy.BusItem"


class Settings:
    """A stand-in for localsettings: keeps texts, makes what is asked for, says what changes.

    ``answers``: of AddSettings; without it a call is left waiting, as by a process that hangs.
    """

    def __init__(self, address: str, stored: dict[str, str] | None = None, *, answers: bool = True) -> None:
        self.stored = {} if stored is None else stored
        self.asked: list[str] = []
        self._address, self._answers = address, answers

    async def __aenter__(self) -> Settings:
        self.bus = await MessageBus(bus_address=self._address).connect()
        self.bus.add_message_handler(self._answer)
        await self.bus.request_name(SETTINGS)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.bus.disconnect()
        with contextlib.suppress(Exception):
            await self.bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def _answer(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.member != "AddSettings":
            return None
        answers = []
        for entry in message.body[0]:
            path, default = entry["path"].value, entry["default"].value
            self.asked.append(default)
            value = self.stored.setdefault(path, default) if self._answers else default
            answers.append(
                {"path": Variant("s", path), "error": Variant("i", 0), "value": Variant("s", value)}
            )
        return Message.new_method_return(message, "aa{sv}", [answers]) if self._answers else True

    def change(self, value: str, path: str = INSTANCE, form: Any = None) -> None:
        """Somebody changes a setting."""
        self.stored[path] = value
        body = {"Value": form or Variant("s", value), "Text": Variant("s", value)}
        signal = Message.new_signal(path, BUS_ITEM, "PropertiesChanged", "a{sv}", [body])
        signal.flags = MessageFlag.NONE
        self.bus.send(signal)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[rig.Daemon]:
    with rig.daemon(tmp_path) as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def driving(folder: Path, bus: rig.Daemon) -> AsyncIterator[tuple[rig.Driver, rig.Client]]:
    """A driver on the bus, which keeps its state, and a client that listens."""
    with rig.driver(folder, bus.address, "--state", str(folder / "state.json")) as driver:
        async with rig.Client(bus.address, SERVICE) as client:
            await driver.ready()
            yield driver, client
    for path in (folder / "tty",):
        path.unlink(missing_ok=True)


async def instance(client: rig.Client) -> int:
    number: int = await client.get("/DeviceInstance")
    return number


async def test_without_localsettings_the_instance_is_the_default(tmp_path: Path, bus: rig.Daemon) -> None:
    async with driving(tmp_path, bus) as (driver, client):
        assert await instance(client) == 123
        assert "on the bus as com.victronenergy.battery.smartbms, instance 123" in driver.log
    assert state.read(tmp_path / "state.json").instance is None


async def test_the_instance_that_is_stored_is_there_when_the_name_appears(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    async with (
        Settings(bus.address, {INSTANCE: "battery:288"}) as settings,
        driving(tmp_path, bus) as (driver, client),
    ):
        assert await instance(client) == 288
        assert "instance 288" in driver.log
        assert settings.asked == ["battery:123"]
        changes = [sent.body[0] for sent in client.signals if sent.member == "ItemsChanged"]
        assert not any("/DeviceInstance" in change for change in changes), "clients look once"
    assert state.read(tmp_path / "state.json").instance == 288


async def test_what_is_not_stored_yet_is_stored_as_asked_for(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings:
        async with driving(tmp_path, bus) as (_, client):
            assert await instance(client) == 123
        assert settings.stored == {INSTANCE: "battery:123"}


async def test_another_instance_is_taken_by_appearing_anew(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (driver, client):
        client.signals.clear()
        settings.change("battery:5")
        await driver.logged("instance 5 now, as the settings have it")
        assert await instance(client) == 5
        owners = [sent.body for sent in client.signals if sent.member == "NameOwnerChanged"]
        assert len(owners) == 2, "it went, and came with the new one"
        assert owners[0][2] == ""
        assert owners[1][1] == ""
        assert await client.get("/Info/MaxChargeCurrent") == 151.5
        settings.change("battery:6")
        settings.change("battery:7")
        await driver.logged("instance 7 now")
        assert await instance(client) == 7


@pytest.mark.parametrize(
    "value", ["vebus:5", "battery:", "battery:x", "battery:-1", "battery:70000", "", "battery:123"]
)
async def test_what_is_no_instance_of_a_battery_changes_nothing(
    tmp_path: Path, bus: rig.Daemon, value: str
) -> None:
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (driver, client):
        settings.change(value)
        settings.change("battery:9", path="/Settings/Devices/other/ClassAndVrmInstance")
        settings.change("", form=Variant("i", 5))
        settings.change("battery:8")
        await driver.logged("instance 8 now")
        assert driver.log.count(" now, as the settings") == 1
        assert await instance(client) == 8


async def test_localsettings_that_hangs_delays_the_name_by_2_s_at_most(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    async with Settings(bus.address, answers=False), driving(tmp_path, bus) as (_, client):
        assert await instance(client) == 123


async def test_while_localsettings_is_away_the_instance_is_what_it_was(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    stored = {INSTANCE: "battery:288"}
    async with Settings(bus.address, stored), driving(tmp_path, bus):
        pass
    async with driving(tmp_path, bus) as (driver, client):
        assert await instance(client) == 288
        async with Settings(bus.address, stored) as settings:  # it comes back
            await rig.until(lambda: settings.asked)
            assert settings.asked == ["battery:288"]
            settings.change("battery:288")
        async with Settings(bus.address, stored) as settings:  # and again
            await rig.until(lambda: settings.asked)
            settings.change("battery:290")
            await driver.logged("instance 290 now")
        assert driver.log.count(" now, as the settings") == 1
        assert await instance(client) == 290


async def test_an_instance_that_was_changed_while_the_driver_was_away_is_followed(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    async with Settings(bus.address, {INSTANCE: "battery:288"}), driving(tmp_path, bus):
        pass
    async with driving(tmp_path, bus) as (driver, client):
        async with Settings(bus.address, {INSTANCE: "battery:300"}):
            await driver.logged("instance 300 now")
        assert await instance(client) == 300


async def test_a_custom_name_outlives_the_driver_and_so_does_an_empty_one(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    path = tmp_path / "state.json"
    async with driving(tmp_path, bus) as (_, client):
        assert await client.write("/CustomName", {"s": "Haus №1"}) == 0
        await rig.until(lambda: path.exists() and state.read(path).name == "Haus №1")
    async with driving(tmp_path, bus) as (_, client):
        assert await client.get("/CustomName") == "Haus №1"
        assert await client.write("/CustomName", {"s": ""}) == 0
    async with driving(tmp_path, bus) as (_, client):
        assert await client.get("/CustomName") == ""


async def test_limits_go_on_while_localsettings_is_asked(tmp_path: Path, bus: rig.Daemon) -> None:
    """The name waits for it, the frames do not: what appears with the name is of the last frame."""
    async with Settings(bus.address, answers=False):
        with rig.driver(tmp_path, bus.address) as driver:
            await driver.logged("reading ")
            await driver.line.pour(*(rig.frame(turn) for turn in range(4)))
            await driver.line.pour(rig.frame(4, voltage_mv=53_000))
            await driver.logged("on the bus")
            async with rig.Client(bus.address, SERVICE) as client:
                assert await client.get("/Dc/0/Voltage") == 53.0


async def test_nobody_but_localsettings_changes_the_instance(tmp_path: Path, bus: rig.Daemon) -> None:
    """A signal may be sent to a connection's own name by anybody."""
    async with (
        Settings(bus.address) as settings,
        driving(tmp_path, bus) as (driver, client),
        rig.Client(bus.address, SERVICE) as other,
    ):
        body = {"Value": Variant("s", "battery:9"), "Text": Variant("s", "battery:9")}
        signal = Message.new_signal(INSTANCE, BUS_ITEM, "PropertiesChanged", "a{sv}", [body])
        signal.destination = await other.owner()
        await other.bus.send(signal)
        await other.get("/DeviceInstance")  # the signal was there before this
        settings.change("battery:8")
        await driver.logged("instance 8 now")
        assert "instance 9" not in driver.log
        assert await instance(client) == 8


async def test_localsettings_that_recovers_is_asked_again(tmp_path: Path, bus: rig.Daemon) -> None:
    async with (
        Settings(bus.address, {INSTANCE: "battery:288"}, answers=False) as settings,
        driving(tmp_path, bus) as (driver, client),
    ):
        assert await instance(client) == 123
        settings._answers = True
        await driver.logged("instance 288 now")
