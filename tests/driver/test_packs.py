"""Several packs, as a process on lines at the wire's speed and on a real bus."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import rig
from rig import frame, until

BANK = "com.victronenergy.battery.smartbms"
CCL, DCL = "/Info/MaxChargeCurrent", "/Info/MaxDischargeCurrent"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[rig.Daemon]:
    with rig.daemon(tmp_path) as daemon:
        yield daemon


class Packs:
    """The driver on some lines, each named like the pack whose frames come out of it."""

    def __init__(self, folder: Path, address: str, names: str, *options: str) -> None:
        self.folder, self.address, self.options = folder, address, options
        self.lines = {name: rig.Line(folder / name) for name in names}
        self.changes: dict[str, dict[str, Any]] = {name: {} for name in names}
        self.quiet: set[str] = set()
        """Packs that send nothing."""
        self.turn = 0
        self.start()

    def start(self) -> None:
        devices = [word for line in self.lines.values() for word in ("--device", str(line.path))]
        self.process = rig.Process(self.folder, "run", *devices, *self.options, address=self.address)

    async def logged(self, words: str, times: int = 1) -> None:
        try:
            await until(lambda: self.process.text.count(words) >= times)
        except TimeoutError as error:
            error.add_note(f"{words!r} is not in the log:\n{self.process.text}")
            raise

    async def round(self, seconds: int = 1, gap_s: float = 0.25) -> None:
        """A frame of each pack that is not quiet, all at the same time, at the pace of the wire."""
        for _ in range(seconds):
            self.turn += 1
            await asyncio.gather(*(
                line.send(frame(self.turn, **self.changes[name]), gap_s=gap_s)
                for name, line in self.lines.items() if name not in self.quiet
            ))  # fmt: skip

    async def ready(self) -> None:
        """Until all packs are read, and permit, and the battery is on the bus."""
        for line in self.lines.values():
            await self.logged(f"reading {line.path} ")
        await self.round(4)
        await self.logged(f"on the bus as {BANK},")

    async def until(self, look: Any) -> None:
        """Let frames come until it is so."""
        for _ in range(200):
            if await look():
                return
            await self.round()
        raise AssertionError("not seen\n" + self.process.text)

    def end(self) -> None:
        assert self.process.end() == 0, self.process.text
        assert "Traceback" not in self.process.text, self.process.text


@contextlib.asynccontextmanager
async def packs(folder: Path, bus: rig.Daemon, names: str, *options: str) -> AsyncIterator[Packs]:
    one = Packs(folder, bus.address, names, *options)
    try:
        await one.ready()
        yield one
        one.end()
    finally:
        one.process.kill()
        for line in one.lines.values():
            line.unplug()


async def value(address: str, service: str, path: str) -> Any:
    async with rig.Client(address, service) as client:
        return await client.get(path)


async def names(address: str) -> set[str]:
    async with rig.Client(address, BANK) as client:
        return {name for name in await client.daemon("ListNames") if ".battery." in name}


async def test_several_packs_are_one_battery_and_each_has_a_service_to_look_at(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    async with packs(tmp_path, bus, "ABC") as three, rig.Client(bus.address, BANK) as bank:
        shown = {BANK} | {f"{BANK}_{name}" for name in "ABC"}
        await three.until(lambda: _is(names(bus.address), shown))
        await three.until(lambda: _is(bank.get("/System/NrOfModulesOnline"), 3))
        assert await bank.get("/Dc/0/Current") == -37.5
        assert await bank.get(CCL) == 454.5
        assert await bank.get("/System/MinVoltageCellId") == "A: 7"
        instances = set()
        for name in "ABC":
            async with rig.Client(bus.address, f"{BANK}_{name}") as pack:
                items = await pack.items()
                assert not [path for path in items if path.startswith(("/Info", "/SwitchableOutput"))]
                assert await pack.get("/Dc/0/Current") == -12.5
                assert await pack.get("/Serial") == name
                assert await pack.get("/ProductName") == r"123\SmartBMS"
                assert await pack.get("/Connected") == 1
                assert await pack.get("/Battery/1/Cell/7/Voltage") == 3.31
                instances.add(await pack.get("/DeviceInstance"))
                assert await pack.owner() != await bank.owner(), "each has its own connection"
        assert instances == {265, 266, 267}, "by the cable: the same whoever comes first"


async def _is(found: Any, expected: Any) -> bool:
    return bool(await found == expected)


async def test_the_battery_comes_before_its_packs_and_goes_after_them(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    """Else a GX might take a pack for the battery in between."""
    two = Packs(tmp_path, bus.address, "AB")
    async with rig.Client(bus.address, BANK) as client:
        for name in "AB":
            rule = f"type='signal',member='NameOwnerChanged',arg0='{BANK}_{name}'"
            await client.daemon("AddMatch", "s", rule)
        try:
            await two.ready()
            await two.until(lambda: _is(names(bus.address), {BANK, f"{BANK}_A", f"{BANK}_B"}))
            two.end()

            def moves(owned: bool) -> list[str]:
                told = [message.body for message in client.signals if message.member == "NameOwnerChanged"]
                return [name for name, _, owner in told if bool(owner) is owned]

            await until(lambda: len(moves(owned=False)) == 3)
            assert moves(owned=True)[0] == moves(owned=False)[-1] == BANK
            assert len(moves(owned=True)) == 3
        finally:
            two.process.kill()
            for line in two.lines.values():
                line.unplug()


async def test_a_pulled_cable_derates_and_heals_and_the_name_never_moves(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    hold = ("--set", "link.hold_s=3", "--set", "bank.show_packs=never")
    async with packs(tmp_path, bus, "AB", *hold) as two, rig.Client(bus.address, BANK) as bank:
        await two.until(lambda: _is(bank.get("/System/NrOfModulesOnline"), 2))
        owner, before = await bank.owner(), await bank.get(CCL)
        two.lines["B"].unplug()
        two.quiet = {"B"}
        await two.until(lambda: _is(bank.get("/System/NrOfModulesOffline"), 1))
        assert await bank.get("/Battery/2/Voltage") is None
        assert await bank.get("/Battery/2/Cell/7/Voltage") is None
        assert await bank.get("/Battery/1/Voltage") == 53.12
        assert await bank.get("/Alarms/BmsCable") >= 1
        assert await bank.get("/ConnectionInformation") == "No data from B: check the cable"
        assert await bank.get("/State") == 9
        assert 0 < await bank.get(CCL) <= before / 2
        two.lines["B"].plug()
        two.quiet = set()
        await two.logged(f"reading {two.lines['B'].path} ", 2)
        await two.until(lambda: _is(bank.get("/System/NrOfModulesOffline"), 0))
        await two.round(3)
        assert before / 2 <= await bank.get(CCL) < before, "it rises slowly"
        assert await bank.get("/Alarms/BmsCable") == 0
        assert await bank.owner() == owner
        assert not [message for message in bank.signals if message.member == "NameOwnerChanged"]
        assert await names(bus.address) == {BANK}


async def test_all_cables_pulled_is_as_one_cable_pulled(tmp_path: Path, bus: rig.Daemon) -> None:
    hold = ("--set", "link.hold_s=3", "--set", "link.ride_through_s=5")
    async with packs(tmp_path, bus, "AB", *hold) as two, rig.Client(bus.address, BANK) as bank:
        await two.until(lambda: _is(bank.get("/System/NrOfModulesOnline"), 2))
        for line in two.lines.values():
            line.unplug()
        await until(lambda: _is(bank.get(CCL), 0.0))
        await until(lambda: _is(bank.get(DCL), 0.0))
        assert await bank.get("/State") == 10
        assert await bank.get("/Info/MaxChargeVoltage") <= 53.92
        assert await bank.get("/Dc/0/Voltage") is None
        for line in two.lines.values():
            line.plug()
        for line in two.lines.values():
            await two.logged(f"reading {line.path} ", 2)
        await two.until(lambda: _over(bank.get(CCL), 0))
        await two.until(lambda: _over(bank.get(DCL), 0))


async def _over(found: Any, least: float) -> bool:
    return bool(await found > least)


async def test_what_a_pack_is_called_and_its_instance_outlive_the_driver(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    kept = ("--state", str(tmp_path / "state.json"))
    async with packs(tmp_path, bus, "AB", *kept) as two:
        await two.until(lambda: _is(names(bus.address), {BANK, f"{BANK}_A", f"{BANK}_B"}))
        async with rig.Client(bus.address, f"{BANK}_B") as pack:
            assert await pack.write("/CustomName", {"s": "House"}) == 0
            assert await pack.write("/CustomName", {"s": "x" * 33}) == 2
            assert await pack.write("/DeviceInstance", {"i": 7}) == 1
            instance = await pack.get("/DeviceInstance")
        async with rig.Client(bus.address, BANK) as bank:
            two.changes["B"] = {"lowest_mv": 3300}
            await two.until(lambda: _is(bank.get("/System/MinVoltageCellId"), "House: 7"))
        two.end()
        two.start()
        await two.ready()
        await two.until(lambda: _is(names(bus.address), {BANK, f"{BANK}_A", f"{BANK}_B"}))
        async with rig.Client(bus.address, f"{BANK}_B") as pack:
            assert await pack.get("/CustomName") == "House"
            assert await pack.get("/DeviceInstance") == instance


async def test_a_name_with_a_star_keeps_a_pack_out_of_the_battery(tmp_path: Path, bus: rig.Daemon) -> None:
    async with packs(tmp_path, bus, "AB") as two, rig.Client(bus.address, BANK) as bank:
        two.changes["B"] = {"status": 0b10, "current_ma": -5000}
        await two.until(lambda: _is(bank.get(CCL), 0.0))
        async with rig.Client(bus.address, f"{BANK}_B") as pack:
            assert await pack.write("/CustomName", {"s": "*boat"}) == 0
            await two.until(lambda: _is(bank.get("/System/BatteriesParallel"), 1))
            assert await bank.get("/Dc/0/Current") == -12.5
            assert await bank.get("/Io/AllowToCharge") == 1
            await two.logged("boat is left out, as its name begins with *")
            assert await pack.write("/CustomName", {"s": "boat"}) == 0
            await two.until(lambda: _is(bank.get("/System/BatteriesParallel"), 2))
            assert await bank.get(CCL) == 0.0


async def test_an_odd_pack_is_named_and_alarmed(tmp_path: Path, bus: rig.Daemon) -> None:
    async with packs(tmp_path, bus, "AB") as two, rig.Client(bus.address, BANK) as bank:
        await two.until(lambda: _is(bank.get("/System/BatteriesParallel"), 2))
        two.changes["B"] = {"cells": 15, "hottest_cell": 3}
        await two.until(lambda: _is(bank.get("/Alarms/InternalFailure"), 2))
        text = await bank.get("/ConnectionInformation")
        assert text == "B is left out: it has 15 cells, the others 16"
        assert await bank.get("/System/NrOfCellsPerBattery") == 16
        assert 0 < await bank.get(CCL) <= 151.5
        assert await bank.get("/Info/MaxChargeVoltage") == 54.88


async def test_packs_are_shown_as_the_configuration_has_it_also_after_sighup(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    file = tmp_path / "driver.ini"
    file.write_text("[bank]\nshow_packs = always\n")
    async with packs(tmp_path, bus, "A", "--config", str(file)) as one:
        await one.until(lambda: _is(names(bus.address), {BANK, f"{BANK}_A"}))
        file.write_text("[bank]\nshow_packs = never\n")
        one.process.process.send_signal(signal.SIGHUP)
        await one.until(lambda: _is(names(bus.address), {BANK}))
        file.write_text("[bank]\nshow_pack = always\n")
        one.process.process.send_signal(signal.SIGHUP)
        await one.logged("unknown key 'show_pack' in [bank], did you mean [bank] show_packs?")
        await one.round(2)
        assert await names(bus.address) == {BANK}
        file.write_text("[bank]\nshow_packs = always\n")
        one.process.process.send_signal(signal.SIGHUP)
        await one.until(lambda: _is(names(bus.address), {BANK, f"{BANK}_A"}))
        async with rig.Client(bus.address, f"{BANK}_A") as pack:
            assert await pack.get("/Dc/0/Voltage") == 53.12


async def test_one_packs_garbage_touches_no_other(tmp_path: Path, bus: rig.Daemon) -> None:
    async with packs(tmp_path, bus, "AB") as two, rig.Client(bus.address, BANK) as bank:
        await two.until(lambda: _is(bank.get("/System/NrOfModulesOnline"), 2))
        before = await bank.get(CCL), await bank.get(DCL)
        for number in range(4):
            two.lines["B"].write(bytes((number * 37 + n * 91) % 256 for n in range(500)))
            await two.round()
        await two.until(lambda: _over(bank.get("/SmartBms/DamagedPlaces"), 0))
        assert (await bank.get(CCL), await bank.get(DCL)) == before
        assert await bank.get("/System/NrOfModulesOnline") == 2


async def test_frames_that_come_together_are_announced_together(tmp_path: Path, bus: rig.Daemon) -> None:
    async with packs(tmp_path, bus, "ABCDEFGH") as eight, rig.Client(bus.address, BANK) as bank:
        await eight.until(lambda: _is(bank.get("/System/NrOfModulesOnline"), 8))
        await eight.round(2)
        bank.signals.clear()
        await eight.round(3)
        await until(lambda: _is(bank.get("/Battery/8/Serial"), "H"))
        changes = [message for message in bank.signals if message.member == "ItemsChanged"]
        assert 3 <= len(changes) <= 3 * 8 + 3, "no more than one a frame, and the ticks"
