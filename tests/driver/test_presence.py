"""What is lasting about a battery, and its being on the bus: instance, name, currents, "charge to full"."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

import rig
from dbus_smartbms import bus as bus_module
from dbus_smartbms import presence, state
from dbus_smartbms.driver import SERVICE
from dbus_smartbms.items import Item, Items
from dbus_smartbms.mirror import Counted
from dbus_smartbms.presence import Kept, Presence, device_id
from dbus_smartbms.rules import Wishes
from dbus_smartbms.stages import ASKED_S, Stage
from dbus_smartbms.views import Identity

SETTINGS = "com.victronenergy.settings"
BUS_ITEM = "com.victronenergy.BusItem"
DEVICES = "/Settings/Devices"
BANK = f"{DEVICES}/smartbms"
INSTANCE, NAME = f"{BANK}/ClassAndVrmInstance", f"{BANK}/CustomName"
CHARGE, DISCHARGE, TO_FULL = f"{BANK}/MaxChargeCurrent", f"{BANK}/MaxDischargeCurrent", f"{BANK}/ChargeToFull"
CONTROL = {
    NAME: "/CustomName",
    CHARGE: "/SwitchableOutput/max_charge_current/Dimming",
    DISCHARGE: "/SwitchableOutput/max_discharge_current/Dimming",
    TO_FULL: "/SwitchableOutput/charge_to_full/State",
}
"""Where each setting is on our service."""
FRESH = {INSTANCE: "battery:123", NAME: "", CHARGE: -1.0, DISCHARGE: -1.0, TO_FULL: 0}


def form(value: Any) -> dict[str, Any]:
    return {{str: "s", int: "i", float: "d"}[type(value)]: value}


class Settings:
    """A stand-in for localsettings: keeps values, makes what is asked for, says what changes.

    As the real one (1.76): two devices never have the same instance; a setting that is there with another
    default is said again; of another type it is refused; calls that a hanging process did not answer are
    dealt with, in their order, when it goes on.
    """

    def __init__(
        self,
        address: str,
        stored: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
        *,
        answers: bool = True,
    ) -> None:
        self.stored = {} if stored is None else stored
        self.asked: list[dict[str, Any]] = []
        """Defaults of each AddSettings."""
        self.written: list[tuple[str, Any]] = []
        self.refused: set[str] = set()
        """Paths of which nothing is kept."""
        self.frozen: set[str] = set()
        """Paths that take no other value."""
        self.answers = answers
        self._address = address
        self._defaults = defaults or {}
        self._waiting: list[Message] = []

    async def __aenter__(self) -> Settings:
        self.bus = await MessageBus(bus_address=self._address).connect()
        self.bus.add_message_handler(self._receive)
        await self.bus.request_name(SETTINGS)  # or wait for it, where another one has it
        return self

    async def __aexit__(self, *_: object) -> None:
        self.bus.disconnect()
        with contextlib.suppress(Exception):
            await self.bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def go_on(self) -> None:
        """Hang no longer."""
        self.answers = True
        for message in self._waiting:
            self.bus.send(self._answer(message))
        self._waiting.clear()

    @property
    def hanging(self) -> list[str]:
        """Which calls wait."""
        return [str(message.member) for message in self._waiting]

    def _receive(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if self.answers:
            return self._answer(message)
        self._waiting.append(message)
        return True

    def _answer(self, message: Message) -> Message:
        if message.member == "AddSettings":
            self.asked.append({entry["path"].value: entry["default"].value for entry in message.body[0]})
            body = [[self._add(path, default) for path, default in self.asked[-1].items()]]
            return Message.new_method_return(message, "aa{sv}", body)
        if message.member == "SetValue" and message.path in self.stored:
            return Message.new_method_return(message, "i", [self._set(message.path, message.body[0].value)])
        return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownObject", "no such setting")

    def _add(self, path: str, default: Any) -> dict[str, Variant]:
        error = -5 if path in self.refused or type(self.stored.get(path, default)) is not type(default) else 0
        if error:
            return {"path": Variant("s", path), "error": Variant("i", error)}
        if self._defaults.get(path) != default:
            self._defaults[path] = default
            self.change(self.stored.get(path, self._free(path, default)), path)
        value = rig.variant(form(self.stored[path]))
        return {"path": Variant("s", path), "error": Variant("i", 0), "value": value}

    def _set(self, path: str, value: Any) -> int:
        self.written.append((path, value))
        if path in self.frozen:
            return -1
        if value != self.stored[path]:
            self.change(self._free(path, value), path)
        return 0

    def _free(self, path: str, value: Any) -> Any:
        taken = {other for where, other in self.stored.items() if where != path}
        while path.endswith("/ClassAndVrmInstance") and value in taken:
            value = f"battery:{int(value[8:]) + 1}"
        return value

    def change(self, value: Any, path: str = INSTANCE, sent: Variant | None = None) -> None:
        """Somebody changes a setting."""
        self.stored[path] = value
        body = {"Value": sent or rig.variant(form(value)), "Text": Variant("s", str(value))}
        signal = Message.new_signal(path, BUS_ITEM, "PropertiesChanged", "a{sv}", [body])
        signal.flags = MessageFlag.NONE
        self.bus.send(signal)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[rig.Daemon]:
    with rig.daemon(tmp_path) as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def driving(
    folder: Path, bus: rig.Daemon, *options: str
) -> AsyncIterator[tuple[rig.Driver, rig.Client]]:
    """A driver on the bus, which keeps its state, and a client that listens."""
    with rig.driver(folder, bus.address, "--state", str(folder / "state.json"), *options) as driver:
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
        assert [defaults[INSTANCE] for defaults in settings.asked] == ["battery:123"]
        changes = [sent.body[0] for sent in client.signals if sent.member == "ItemsChanged"]
        assert not any("/DeviceInstance" in change for change in changes), "clients look once"
    assert state.read(tmp_path / "state.json").instance == 288


async def test_what_is_not_stored_yet_is_stored_as_asked_for(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings:
        async with driving(tmp_path, bus) as (_, client):
            assert await instance(client) == 123
        assert settings.stored == FRESH


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
        settings.change("", sent=Variant("i", 5))
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
            assert [defaults[INSTANCE] for defaults in settings.asked] == ["battery:288"]
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
        settings.go_on()
        await driver.logged("instance 288 now")


# Name, currents, "charge to full"

STORED = {INSTANCE: "battery:5", NAME: "Küche", CHARGE: 40.5, DISCHARGE: 100.0, TO_FULL: 1}


def remembered(folder: Path, **changes: Any) -> None:
    """An earlier run left this state file behind."""
    saved = state.Saved({"tty": state.Pack(Counted(16, 16_000, 50.0, 50.0))})
    state.write(folder / "state.json", saved._replace(**changes))


async def shown(client: rig.Client) -> dict[str, Any]:
    """What is on our service, by setting."""
    return {setting: await client.get(path) for setting, path in CONTROL.items()}


async def test_what_localsettings_does_not_keep_yet_is_kept_as_we_know_it(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    charging = state.Pack(Counted(16, 16_000, 50.0, 50.0), Stage(asked_s=5000.0))
    remembered(tmp_path, name="Haus", wishes=Wishes(30.0, None), instance=7, packs={"tty": charging})
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (_, client):
        known = {INSTANCE: "battery:7", NAME: "Haus", CHARGE: 30.0, DISCHARGE: -1.0, TO_FULL: 1}
        assert settings.asked == [known]
        assert settings.stored == known
        assert await client.get("/CustomName") == "Haus"
        assert settings.written == []
    assert state.read(tmp_path / "state.json").packs["tty"].stage.asked_s >= 5000.0, "not begun anew"  # type: ignore[operator]


@pytest.mark.parametrize("stored", [STORED, FRESH])
async def test_what_localsettings_keeps_counts_and_not_what_an_earlier_run_left(
    tmp_path: Path, bus: rig.Daemon, stored: dict[str, Any]
) -> None:
    """A name that is stored as empty stays empty, and -1 A is no wish; all is there with the name."""
    charging = state.Pack(Counted(16, 16_000, 50.0, 50.0), Stage(asked_s=0.0))
    remembered(tmp_path, name="Haus", wishes=Wishes(30.0, 60.0), instance=7, packs={"tty": charging})
    async with Settings(bus.address, dict(stored)) as settings, driving(tmp_path, bus) as (_, client):
        assert await shown(client) == {
            NAME: stored[NAME],
            CHARGE: 151.5 if stored[CHARGE] < 0 else stored[CHARGE],
            DISCHARGE: 303.0 if stored[DISCHARGE] < 0 else stored[DISCHARGE],
            TO_FULL: stored[TO_FULL],
        }
        assert settings.stored == stored
        assert settings.written == []
        changes = [sent.body[0] for sent in client.signals if sent.member == "ItemsChanged"]
        assert not any(path in change for change in changes for path in CONTROL.values())
    kept = state.read(tmp_path / "state.json")
    wishes = Wishes(40.5, 100.0) if stored is STORED else Wishes()
    assert (kept.name, kept.wishes) == (stored[NAME], wishes)
    assert (kept.packs["tty"].stage.asked_s is not None) == stored[TO_FULL]


BAD: list[tuple[str, list[Any]]] = [
    (NAME, ["x" * 33, "a\nb", 5]),
    (CHARGE, [153.0, 1e9, -0.5, -2.0, float("inf"), "40"]),
    (DISCHARGE, [304.0, -1.5, float("nan")]),
    (TO_FULL, [2, -1, 0.5]),
]


async def test_what_would_be_refused_over_the_bus_is_ignored_and_left_alone(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    """Also at the start: nothing that is stored lifts a limit over what is configured."""
    stored = FRESH | {NAME: "x" * 33, CHARGE: 1000.0, DISCHARGE: 303.5, TO_FULL: 2}
    remembered(tmp_path, name="Haus", wishes=Wishes(30.0, 60.0))
    ours = {NAME: "Haus", CHARGE: 30.0, DISCHARGE: 60.0, TO_FULL: 0}
    async with Settings(bus.address, dict(stored)) as settings, driving(tmp_path, bus) as (driver, client):
        assert await shown(client) == ours
        for path, values in BAD:
            for value in values:
                settings.change(value, path)
        settings.change("battery:9")
        await driver.logged("instance 9 now")
        assert await shown(client) == ours
        assert (await client.get("/Info/MaxChargeCurrent"), settings.written) == (30.0, [])


async def test_what_is_stored_is_never_more_than_what_is_configured_now(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    configured = ("--set", "limits.max_charge_current=20", "--set", "limits.max_discharge_current=50")
    async with (
        Settings(bus.address, dict(STORED)) as settings,
        driving(tmp_path, bus, *configured) as (_, client),
    ):
        assert await client.get("/Info/MaxChargeCurrent") == 20
        assert await client.get("/Info/MaxDischargeCurrent") == 50
        assert settings.stored == STORED


async def test_what_is_changed_in_localsettings_is_followed(tmp_path: Path, bus: rig.Daemon) -> None:
    async with (
        Settings(bus.address) as settings,
        driving(tmp_path, bus) as (driver, client),
        rig.Client(bus.address, SERVICE) as other,
    ):
        signal = Message.new_signal(
            NAME, BUS_ITEM, "PropertiesChanged", "a{sv}", [{"Value": Variant("s", "x")}]
        )
        signal.destination = await other.owner()
        await other.bus.send(signal)  # from somebody else
        assert await client.get("/CustomName") == ""
        client.signals.clear()
        for path in CONTROL:
            settings.change(STORED[path], path)
        await rig.until(lambda: shows(client, {path: STORED[path] for path in CONTROL}))
        await rig.until(lambda: reads(client, "/Info/MaxChargeCurrent", 40.5))
        changes = [sent.body[0] for sent in client.signals if sent.member == "ItemsChanged"]
        assert {path for change in changes for path in change} >= set(CONTROL.values()), "announced"
        settings.change(-1.0, CHARGE)
        await rig.until(lambda: shows(client, {CHARGE: 151.5}))
        await driver.logged(
            "set over the bus: CCL at most None, DCL at most 100.0, charge to full True, name 'Küche'"
        )
        assert settings.written == [], "it has it already"
        assert len(settings.asked) == 1


async def reads(client: rig.Client, path: str, value: float) -> bool:
    return bool(await client.get(path) == value)


async def shows(client: rig.Client, wanted: dict[str, Any]) -> bool:
    found = await shown(client)
    return all(found[setting] == value for setting, value in wanted.items())


async def test_what_is_written_over_the_bus_is_kept(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (_, client):
        for path, control in CONTROL.items():
            assert await client.write(control, form(STORED[path])) == 0
            assert await client.get(control) == STORED[path], "whatever localsettings does"
        await rig.until(
            lambda: {path: settings.stored[path] for path in CONTROL} == {p: STORED[p] for p in CONTROL}
        )
        assert await client.write(CONTROL[CHARGE], {"d": 151.0}) == 0
        assert await client.write(CONTROL[TO_FULL], {"i": 0}) == 0
        assert await client.write(CONTROL[NAME], {"s": ""}) == 0
        assert await client.write(CONTROL[CHARGE], {"d": 1000.0}) == 2
        await rig.until(lambda: settings.stored == FRESH | {DISCHARGE: 100.0})
        assert len(settings.asked) == 1


async def test_what_is_written_at_the_very_end_is_kept(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (driver, client):
        for turn in range(3):
            await client.write("/CustomName", {"s": f"{turn}"})
        assert await asyncio.to_thread(driver.process.end) == 0
        assert settings.stored[NAME] == "2"


async def test_thousands_of_writes_are_a_few_calls(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (_, client):
        for turn in range(2000):
            assert await client.write("/CustomName", {"s": f"{turn}"}) == 0
            assert await client.write(CONTROL[DISCHARGE], {"d": turn / 10}) == 0
        await rig.until(lambda: (settings.stored[NAME], settings.stored[DISCHARGE]) == ("1999", 199.9))
        for path in (NAME, DISCHARGE):
            values = [value for where, value in settings.written if where == path]
            assert len(values) <= 12, "after 1, 2, 4 ... s: 12 would be an hour"


async def test_what_was_changed_while_localsettings_was_away_is_told_and_the_rest_is_taken(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    stored = STORED | {INSTANCE: "battery:123"}
    async with driving(tmp_path, bus) as (_, client):
        async with Settings(bus.address, stored) as settings:
            await rig.until(lambda: shows(client, {path: stored[path] for path in CONTROL}))
        assert await client.write("/CustomName", {"s": ""}) == 0
        assert await client.write(CONTROL[CHARGE], {"d": 20.0}) == 0
        assert await client.write(CONTROL[TO_FULL], {"i": 0}) == 0
        assert await client.write(CONTROL[TO_FULL], {"i": 1}) == 0
        stored |= {DISCHARGE: 80.0, TO_FULL: 0}
        async with Settings(bus.address, stored) as settings:
            await rig.until(lambda: len(settings.written) == 2)
            await rig.until(lambda: shows(client, {NAME: "", CHARGE: 20.0, DISCHARGE: 80.0, TO_FULL: 0}))
            assert settings.stored == {
                INSTANCE: "battery:123",
                NAME: "",
                CHARGE: 20.0,
                DISCHARGE: 80.0,
                TO_FULL: 0,
            }
            assert settings.written == [(NAME, ""), (CHARGE, 20.0)]


async def test_localsettings_that_hangs_delays_no_write_and_learns_the_last_one(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    """What it was told while it hung it does when it goes on, and says so; it is not what counts by then."""
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (driver, client):
        settings.answers = False
        assert await client.write("/CustomName", {"s": "old"}) == 0
        await rig.until(lambda: settings.hanging == ["SetValue"])
        await driver.line.pour(rig.frame(4, voltage_mv=53_000))
        assert await client.write("/CustomName", {"s": ""}) == 0, "as it was before: to be told all the same"
        await rig.until(lambda: reads(client, "/Dc/0/Voltage", 53.0))
        settings.go_on()
        assert settings.stored[NAME] == "old"
        await rig.until(lambda: settings.stored[NAME] == "")
        assert settings.written == [(NAME, "old"), (NAME, "")]
        assert await client.get("/CustomName") == ""


async def test_somebody_elses_change_after_ours_counts(tmp_path: Path, bus: rig.Daemon) -> None:
    async with Settings(bus.address) as settings, driving(tmp_path, bus) as (_, client):
        settings.answers = False
        assert await client.write("/CustomName", {"s": "ours"}) == 0
        await rig.until(lambda: settings.hanging == ["SetValue"])
        settings.change("before", NAME)
        settings.go_on()
        settings.change("after", NAME)  # comes with the answer
        await rig.until(lambda: shows(client, {NAME: "after"}))
        assert settings.written == [(NAME, "ours")]
        assert settings.stored[NAME] == "after"


# "Charge to full" begins and ends by itself


async def test_a_charge_to_full_that_ended_is_not_begun_again(tmp_path: Path, bus: rig.Daemon) -> None:
    ending = state.Pack(Counted(16, 16_000, 50.0, 50.0), Stage(asked_s=ASKED_S - 0.5))
    remembered(tmp_path, packs={"tty": ending})
    async with Settings(bus.address, FRESH | {TO_FULL: 1}) as settings, driving(tmp_path, bus) as (driver, _):

        async def ended() -> bool:
            await driver.line.send(rig.frame())
            return bool(settings.stored[TO_FULL] == 0)

        await rig.until(ended)
        assert settings.written == [(TO_FULL, 0)]


async def test_a_charge_to_full_that_is_due_is_not_called_off(tmp_path: Path, bus: rig.Daemon) -> None:
    """It begins with the first frame, before localsettings is asked: that keeps the 0 of before."""
    due = state.Pack(Counted(16, 16_000, 50.0, 50.0), Stage(unfull_s=8 * 86400.0))
    remembered(tmp_path, packs={"tty": due})
    weekly = ("--set", "limits.charge_to_full_days=7")
    async with Settings(bus.address, dict(FRESH)) as settings, driving(tmp_path, bus, *weekly) as (_, client):
        await rig.until(lambda: settings.stored[TO_FULL] == 1)
        assert await client.get(CONTROL[TO_FULL]) == 1


# Several presences in one process


class Pack:
    """A service with nothing but an instance and a name."""

    def __init__(self, device: str, **more: Any) -> None:
        self.items, self.identity = Items(), Identity()
        self.items.items = {"/DeviceInstance": Item("i"), "/CustomName": Item("s")}
        self.changes = 0
        kept = Kept("CustomName", lambda: self.identity.custom_name, self.rename)
        self.presence = Presence(
            f"com.victronenergy.battery.{device}", device, self.items, self.identity, (kept,),
            self.changed, lambda: None, **more,
        )  # fmt: skip

    def rename(self, name: str) -> None:
        self.identity.custom_name = name
        self.presence.announce({})

    def changed(self) -> None:
        self.changes += 1
        self.items.items["/DeviceInstance"].value = self.identity.instance

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.presence.run())
        try:
            yield task
        finally:
            async with asyncio.timeout(rig.PATIENCE_S):
                await self.presence.leave()
                await asyncio.wait({task})


@pytest.fixture
def here(bus: rig.Daemon, monkeypatch: pytest.MonkeyPatch) -> rig.Daemon:
    """The bus of this process, which is in a hurry."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
    monkeypatch.setattr(presence, "AGAIN_S", 0.01)
    monkeypatch.setattr(presence, "RETRY_S", 0.01)
    monkeypatch.setattr(presence, "TELL_S", (0.01, 0.01))
    return bus


def test_what_a_pack_is_called_has_letters_digits_and_underscores_only() -> None:
    assert device_id("AB12cd_3") == "smartbms_AB12cd_3"
    assert device_id("a-b.c/ü 1") == "smartbms_a_b_c___1"
    assert device_id("") == "smartbms_"


async def test_two_that_ask_for_the_same_instance_get_different_ones(here: rig.Daemon) -> None:
    one, two = Pack("smartbms"), Pack(device_id("AB-1"))
    async with Settings(here.address) as settings, one.running():
        await rig.until(lambda: one.presence.service.owned)
        async with two.running(), rig.Client(here.address, two.presence.service.name) as client:
            await rig.until(client.owner)
            assert (one.identity.instance, two.identity.instance) == (123, 124)
            assert await instance(client) == 124
            before = one.changes
            settings.change("vebus:31")
            settings.change("battery:32")
            await rig.until(lambda: one.identity.instance == 32)
            assert one.changes == before + 2, "known, and shown; of the other there is nothing to announce"
            settings.change("battery:30", f"{DEVICES}/smartbms_AB_1/ClassAndVrmInstance")
            await rig.until(lambda: two.identity.instance == 30)
            assert one.identity.instance == 32
            two.rename("Schuppen")
            await rig.until(lambda: settings.stored[f"{DEVICES}/smartbms_AB_1/CustomName"] == "Schuppen")
            assert settings.stored[NAME] == ""


async def test_one_setting_of_another_type_keeps_no_other_from_being_kept(
    here: rig.Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    pack, stored = Pack("smartbms"), {NAME: 5, INSTANCE: "battery:7"}
    async with Settings(here.address, stored) as settings, pack.running():
        await rig.until(lambda: pack.presence.service.owned)
        assert pack.identity.instance == 7
        pack.rename("Haus")
        await rig.until(lambda: settings.asked[-1] == {NAME: "Haus"})
        await rig.until(lambda: len(settings.asked) > 9)  # again, by itself
        assert (settings.asked[1:].count({INSTANCE: "battery:123"}), settings.stored[NAME]) == (0, 5)
        assert caplog.text.count("refuses") == caplog.text.count(f"localsettings refuses {NAME}\n") == 1
        del settings.stored[NAME]
        await rig.until(lambda: settings.stored.get(NAME) == "Haus")


async def test_what_is_refused_is_told_again(here: rig.Daemon, caplog: pytest.LogCaptureFixture) -> None:
    pack = Pack("smartbms")
    async with Settings(here.address) as settings, pack.running():
        await rig.until(lambda: pack.presence.service.owned)
        settings.frozen.add(NAME)
        pack.rename("Haus")
        await rig.until(lambda: len(settings.written) > 3)
        settings.frozen.clear()
        await rig.until(lambda: settings.stored[NAME] == "Haus")
        assert caplog.text.count("refuses") == 1
        told = len(settings.written)
        pack.rename("Schuppen")
        await rig.until(lambda: settings.stored[NAME] == "Schuppen")
        assert len(settings.written) == told + 1, "once is enough again"


async def test_what_nobody_waited_for_any_longer_does_not_come_back(
    here: rig.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Localsettings hangs for longer than a call lasts; then it does all that it was told, in its order."""
    monkeypatch.setattr(bus_module, "CALL_S", 0.02)
    pack = Pack("smartbms")
    async with Settings(here.address) as settings, pack.running():
        await rig.until(lambda: pack.presence.service.owned)
        settings.answers = False
        pack.rename("x")
        await rig.until(lambda: settings.hanging.count("AddSettings") > 2)
        assert settings.hanging[0] == "SetValue"
        pack.rename("")
        monkeypatch.setattr(bus_module, "CALL_S", rig.PATIENCE_S)
        settings.go_on()
        await rig.until(lambda: settings.written[-1:] == [(NAME, "")])
        pack.rename("y")
        await rig.until(lambda: settings.stored[NAME] == "y")
        assert (NAME, "x") in settings.written
        assert pack.identity.custom_name == "y"


async def test_what_one_answered_that_is_gone_is_asked_of_the_next(here: rig.Daemon) -> None:
    """Its answer and its going may arrive together."""
    pack, path = Pack("smartbms"), ("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReleaseName")
    async with Settings(here.address, {NAME: "a"}) as one, Settings(here.address, {NAME: "b"}) as next_one:
        answer = one._answer

        def answer_and_go(message: Message) -> Message:
            if message.member == "AddSettings":
                loop.call_soon(one.bus.send, Message(*path, signature="s", body=[SETTINGS]))
            return answer(message)

        loop, one._answer = asyncio.get_running_loop(), answer_and_go  # type: ignore[method-assign]
        async with pack.running():
            await rig.until(lambda: next_one.asked)
            await rig.until(lambda: pack.identity.custom_name == "b")
            assert len(one.asked) == 1


async def test_a_setting_that_was_removed_is_made_again_when_it_is_needed(here: rig.Daemon) -> None:
    pack = Pack("smartbms")
    async with Settings(here.address) as settings, pack.running():
        await rig.until(lambda: pack.presence.service.owned)
        settings.change("", NAME, sent=Variant("ai", []))  # how the real one says it
        del settings.stored[NAME]
        pack.rename("Haus")
        await rig.until(lambda: settings.stored.get(NAME) == "Haus")


async def test_what_was_heard_before_an_answer_is_older(here: rig.Daemon) -> None:
    pack = Pack("smartbms")
    async with pack.running():
        async with Settings(here.address) as settings:
            await rig.until(lambda: settings.asked)
            settings.change("a", NAME)
            await rig.until(lambda: pack.identity.custom_name == "a")
            settings.stored[NAME] = "x"  # as if ours had been told, and no answer had come
            pack.rename("x")
            await rig.until(lambda: settings.written)
            settings.change("battery:50")
            await rig.until(lambda: pack.identity.instance == 50)
            assert pack.identity.custom_name == "x"
            settings.change("c", NAME)
            await rig.until(lambda: pack.identity.custom_name == "c")
        stored = {NAME: "b", INSTANCE: "battery:50"}
        async with Settings(here.address, stored, {NAME: "c", INSTANCE: "battery:50"}):
            await rig.until(lambda: pack.identity.custom_name == "b")


async def test_it_is_told_ever_more_rarely_and_after_a_pause_at_once(
    here: rig.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    ended: list[float] = []
    wait = presence._wait

    async def brief(event: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)
        await wait(event, 0.01)
        ended.append(seconds)

    monkeypatch.setattr(presence, "TELL_S", (1.0, 60.0))
    pack, turn = Pack("smartbms"), 0
    monkeypatch.setattr(presence, "_wait", brief)
    async with Settings(here.address) as settings, pack.running():
        await rig.until(lambda: pack.presence.service.owned)
        async with asyncio.timeout(rig.PATIENCE_S):
            while pauses[-2:] != [60.0, 60.0]:
                turn += 1
                pack.rename(f"{turn}")
                await asyncio.sleep(0.001)
        assert pauses[-8:] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]

        await rig.until(lambda: ended == pauses and settings.stored[NAME] == f"{turn}")
        pauses.clear()
        pack.rename("late")
        await rig.until(lambda: pauses)
        assert pauses == [1.0]


async def test_one_that_left_comes_again_with_what_is_stored_by_then(
    here: rig.Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pack, folder = Pack("smartbms_x"), f"{DEVICES}/smartbms_x"
    service = pack.presence.service.name
    async with Settings(here.address) as settings, rig.Client(here.address, service) as client:
        for turn in range(3):
            settings.stored[f"{folder}/ClassAndVrmInstance"] = f"battery:{turn}"
            settings.stored[f"{folder}/CustomName"] = f"pack {turn}"
            async with pack.running() as task:
                await rig.until(client.owner)
                assert pack.identity.custom_name == f"pack {turn}"
                pack.rename(f"mine {turn}")  # and at once
            assert await client.owner() is None
            assert not pack.presence.service.connected
            assert task.exception() is None
            assert settings.stored[f"{folder}/CustomName"] == f"mine {turn}", "told before it left"
        await pack.presence.leave()  # once more does nothing
    lines = [line for line in caplog.messages if "instance" in line]
    assert lines == [f"on the bus as {service}, instance {turn}" for turn in range(3)], "no moving"


async def test_leaving_ends_it_at_whatever_moment(here: rig.Daemon) -> None:
    """Also when an answer comes in the same turn of the loop as the end."""
    pack = Pack("smartbms")
    async with Settings(here.address) as settings:
        for turns in range(150):
            async with pack.running():
                await rig.until(lambda: pack.presence.service.owned)
                pack.rename(f"{turns}")
                for _ in range(turns % 50):
                    await asyncio.sleep(0)
            assert settings.stored[NAME] == f"{turns}"


async def test_leaving_waits_neither_for_localsettings_nor_for_the_bus(here: rig.Daemon) -> None:
    pack = Pack("smartbms")
    loop = asyncio.get_running_loop()
    async with Settings(here.address) as settings, pack.running():
        await rig.until(lambda: pack.presence.service.owned)
        settings.answers = False
        pack.rename("x")
        await rig.until(lambda: settings.hanging)
        begin = loop.time()
        await pack.presence.leave()
        assert loop.time() - begin < 5.0, "not the 5 s of a call"
        assert settings.stored[NAME] == ""
        settings.go_on()
        await rig.until(lambda: settings.stored[NAME] == "x")


async def test_one_that_leaves_while_it_connects_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(stall, tmp_path / "bus")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  no paths are wanted
    async with Pack("smartbms").running():
        await asyncio.wait_for(reached.wait(), rig.PATIENCE_S)
    await rig.until(lambda: len(os.listdir("/proc/self/fd")) == before)  # noqa: PTH208
    server.close()
    await server.wait_closed()


async def test_an_error_of_ours_in_what_is_done_meanwhile_is_raised(here: rig.Daemon) -> None:
    async def fail() -> None:
        raise ValueError("a fault of ours")

    pack = Pack("smartbms", meanwhile=fail)
    async with pack.running() as task:
        with pytest.raises(ValueError, match="a fault of ours"):
            await asyncio.wait_for(task, rig.PATIENCE_S)


async def test_what_is_done_meanwhile_ends_with_the_connection_and_begins_anew(here: rig.Daemon) -> None:
    told: list[str] = []

    async def meanwhile() -> None:
        told.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            told.append("ended")

    pack = Pack("smartbms", meanwhile=meanwhile)
    async with pack.running():
        await rig.until(lambda: told == ["begun"])
        here.stop()
        await rig.until(lambda: told == ["begun", "ended"])
        pack.rename("x")
        here.start()
        await rig.until(lambda: told == ["begun", "ended", "begun"])
        async with Settings(here.address, {NAME: "y"}) as settings:
            await rig.until(lambda: settings.stored[NAME] == "x")
