"""The driver as a process: a real serial line, a real bus, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms import state
from dbus_smartbms.bus import BUS_ITEM, BusError, Connection, _wrap
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.driver import SERVICE, Driver
from dbus_smartbms.link import Cable
from smartbms_protocol import encode


class Setup:
    """A driver on a line and a bus, fed with frames for as long as ``frame`` is not None."""

    def __init__(self, folder: Path, address: str, *options: str) -> None:
        self.line = rig.Line(folder / "tty")
        self.process = rig.Process(folder, "run", "--device", str(folder / "tty"), *options, address=address)
        self.client = Connection()
        self.frame: dict[str, Any] | None = {}
        self.sent = 0

    async def feed(self) -> None:
        """Frames at wire speed, ten times as often as the BMS: nothing here depends on the interval."""
        while True:
            if self.frame is None or self.line._master < 0:
                await asyncio.sleep(0.01)
            else:
                await self.line.send(rig.frame(self.sent, **self.frame), gap_s=0.03)
                self.sent += 1

    async def values(self) -> dict[str, Any]:
        """Paths and values on the bus; empty while the service is not there."""
        try:
            return {path: item["Value"] for path, item in (await self.client.get_items(SERVICE)).items()}
        except BusError:
            return {}

    async def reach(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until what is on the bus is as wanted."""

        async def look() -> dict[str, Any]:
            values = await self.values()
            return values if values and wanted(values) else {}

        values: dict[str, Any] = await rig.until(look)
        return values


@pytest.fixture
def bus(session_bus: rig.Daemon) -> rig.Daemon:
    return session_bus


@contextlib.asynccontextmanager
async def driving(folder: Path, bus: rig.Daemon, *options: str) -> AsyncIterator[Setup]:
    setup = Setup(folder, bus.address, *options)
    feeding = asyncio.create_task(setup.feed())
    await setup.client.connect()
    try:
        yield setup
    finally:
        print(setup.process.text)  # shown when the test fails
        feeding.cancel()
        ended = await asyncio.gather(feeding, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError), f"the frames stopped: {ended[0]!r}"
        setup.client.disconnect()
        await setup.client.closed()
        setup.process.kill()
        setup.line.unplug()


def permitted(values: dict[str, Any]) -> bool:
    return bool(values["/Info/MaxChargeCurrent"] == 151.5 and values["/Info/MaxDischargeCurrent"] == 303.0)


async def test_a_pack_is_on_the_bus_cell_by_cell(tmp_path: Path, bus: rig.Daemon) -> None:
    async with driving(tmp_path, bus) as setup:
        values = await setup.reach(lambda v: permitted(v) and v["/Voltages/Sum"])
        assert values["/Dc/0/Voltage"] == 53.12
        assert values["/Dc/0/Current"] == -12.5
        assert values["/Info/MaxChargeVoltage"] == 54.88
        assert values["/Voltages/Cell3"] == 3.33
        assert values["/Battery/1/Cell/7/Voltage"] == 3.31
        assert values["/System/NrOfCellsPerBattery"] == 16
        assert values["/Serial"] == "tty"


async def test_silence_stops_charging_then_discharging_and_all_heals(tmp_path: Path, bus: rig.Daemon) -> None:
    async with driving(tmp_path, bus, "--set", "link.hold_s=3", "--set", "link.ride_through_s=5") as setup:
        await setup.reach(permitted)
        setup.frame = None
        lost = await setup.reach(lambda v: v["/Info/MaxChargeCurrent"] == 0)
        assert lost["/Info/MaxDischargeCurrent"] == 303.0
        assert lost["/Info/MaxChargeVoltage"] == 53.12
        assert lost["/Alarms/BmsCable"] == 1
        assert lost["/Dc/0/Voltage"] is None
        assert lost["/Voltages/Cell3"] is None
        assert lost["/System/NrOfModulesOffline"] == 1
        spent = await setup.reach(lambda v: v["/Info/MaxDischargeCurrent"] == 0)
        assert spent["/Alarms/BmsCable"] == 2
        assert spent["/Info/BatteryLowVoltage"] == 46.4
        setup.frame = {}
        healed = await setup.reach(lambda v: v["/Info/MaxChargeCurrent"] and v["/Info/MaxDischargeCurrent"])
        assert healed["/Info/MaxChargeCurrent"] <= 151.5 / 4 + 1
        assert healed["/Alarms/BmsCable"] == 0
        assert healed["/Dc/0/Voltage"] == 53.12


async def test_a_pulled_cable_is_read_again_when_it_is_back(tmp_path: Path, bus: rig.Daemon) -> None:
    async with driving(tmp_path, bus) as setup:
        await setup.reach(permitted)
        setup.line.unplug()
        await rig.until(lambda: "lost " in setup.process.text)
        setup.line.plug()
        await rig.until(lambda: setup.process.text.count("reading ") == 2)
        setup.frame = {"voltage_mv": 53000}
        values = await setup.reach(lambda v: v["/Dc/0/Voltage"] == 53.0)
        assert permitted(values), "back within hold_s: no limit fell"


async def test_stopping_the_process_for_seconds_does_no_harm(tmp_path: Path, bus: rig.Daemon) -> None:
    """SIGSTOP for longer than hold_s: the frames that waited are read before the silence is judged."""
    async with driving(tmp_path, bus, "--set", "link.hold_s=3") as setup:
        await setup.reach(permitted)
        setup.process.process.send_signal(signal.SIGSTOP)
        begin = setup.sent
        await rig.until(lambda: setup.sent - begin > 40)
        setup.process.process.send_signal(signal.SIGCONT)
        setup.frame = {"voltage_mv": 53000}
        values = await setup.reach(lambda v: v["/Dc/0/Voltage"] == 53.0)
        assert permitted(values)
        assert "no frames" not in setup.process.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it_with_status_0_and_the_name_released(
    tmp_path: Path, bus: rig.Daemon, number: signal.Signals
) -> None:
    async with driving(tmp_path, bus) as setup:
        await setup.reach(permitted)
        assert await asyncio.to_thread(setup.process.end, number) == 0
        assert await setup.values() == {}
        assert "Traceback" not in setup.process.text


async def test_the_log_has_a_line_for_a_change_and_none_for_a_frame(tmp_path: Path, bus: rig.Daemon) -> None:
    async with driving(tmp_path, bus) as setup:
        await setup.reach(permitted)
        lines = len(setup.process.text.splitlines())
        begin = setup.sent
        await rig.until(lambda: setup.sent - begin > 50)
        assert len(setup.process.text.splitlines()) == lines
        setup.frame = {"status": 0b10}
        await rig.until(lambda: "the BMS does not allow charging" in setup.process.text)


async def test_an_idle_limit_is_said_and_said_again_when_it_changes(tmp_path: Path, bus: rig.Daemon) -> None:
    async with driving(tmp_path, bus) as setup, system(bus) as control:
        values = await setup.reach(lambda v: v["/SmartBms/LimitsInUse"] == 0)
        assert values["/SmartBms/LimitsInUseText"].startswith("DVCC is off")
        control(1, "com.victronenergy.battery.other")
        await setup.reach(lambda v: "follows another BMS" in (v["/SmartBms/LimitsInUseText"] or ""))
        control(1, SERVICE)
        await setup.reach(lambda v: v["/SmartBms/LimitsInUse"] == 1)
        assert setup.process.text.count("DVCC is off") == 1


@contextlib.asynccontextmanager
async def system(bus: rig.Daemon) -> AsyncIterator[Callable[[int, str], None]]:
    """A stand-in for systemcalc, which says whether DVCC is on and whose limits it follows."""
    from dbus_smartbms.bus import Service  # noqa: PLC0415  a service of ours under its name
    from dbus_smartbms.items import Item, Items  # noqa: PLC0415

    items = Items()
    items.items = {"/Control/Dvcc": Item("i"), "/ActiveBmsService": Item("s")}
    service = Service("com.victronenergy.system", items, lambda: None)

    def control(dvcc: int, bms: str | None) -> None:
        items.items["/Control/Dvcc"].value = dvcc
        items.items["/ActiveBmsService"].value = bms
        service.announce(items.items)

    control(0, None)
    await service.connect()
    await service.take_name()
    try:
        yield control
    finally:
        await service.leave()
        await service.closed()


def test_a_hung_loop_is_ended_by_the_alarm_with_its_stack() -> None:
    """The real alarm clock of the kernel, wound up for half a second."""
    code = (
        "import time\nfrom dbus_smartbms import watchdog\nwatchdog.start(0.5)\nwhile True: time.sleep(60)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=rig.PATIENCE_S,
        check=False,
    )
    assert ended.returncode == -signal.SIGALRM
    assert b"<string>" in ended.stderr


def test_a_patted_watchdog_does_not_bite() -> None:
    code = (
        "import time\nfrom dbus_smartbms import watchdog\nwatchdog.start(1.0)\n"
        "for _ in range(4): time.sleep(0.4); watchdog.pat(1.0)\nwatchdog.stop(); time.sleep(1.2)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=rig.PATIENCE_S, check=True)


async def test_a_broken_configuration_is_said_and_the_driver_runs(tmp_path: Path, bus: rig.Daemon) -> None:
    file = tmp_path / "bms.ini"
    file.write_text("[limits]\nmax_charge_curent = 500\n")
    async with driving(tmp_path, bus, "--config", str(file)) as setup:
        values = await setup.reach(lambda v: v["/Info/MaxChargeCurrent"] > 0)
        assert values["/Info/MaxChargeCurrent"] == 30.3, "0.1 C"
        assert values["/SmartBms/Configuration/Errors"] == 1
        assert (
            "line 2: unknown key 'max_charge_curent' in [limits]"
            in values["/SmartBms/Configuration/FirstError"]
        )
        assert "did you mean [limits] max_charge_current?" in setup.process.text


async def test_a_recording_replays_to_the_same_limits(tmp_path: Path) -> None:
    capture = tmp_path / "capture.jsonl"
    with (
        rig.Line(tmp_path / "tty") as line,
        rig.Process(tmp_path, "record", "--device", str(line.path), "--output", str(capture)) as recorder,
    ):
        await rig.until(lambda: "reading" in recorder.text)
        await line.send(*(rig.frame(turn) for turn in range(10)))
        await rig.until(lambda: capture.read_text().count("bytes") and digits(capture) == 10 * 116)
        assert recorder.end() == 0
    with capture.open("rb") as lines:
        command = [*rig.PROGRAM, "replay"]
        replay = await asyncio.create_subprocess_exec(*command, stdin=lines, stdout=subprocess.PIPE)
        answers, _ = await replay.communicate()
    last = json.loads(answers.splitlines()[-1])
    assert (last["frames"], last["rejected"], last["ccl"], last["cvl"]) == (10, 0, 151.5, 54.88)


def digits(capture: Path) -> int:
    """Hex digits in a capture so far; a line that is being written does not count."""
    return sum(
        len(json.loads(line)["bytes"]) for line in capture.read_text().splitlines() if line[-1:] == "}"
    )


async def test_a_capture_on_a_full_disk_ends_with_a_sentence(tmp_path: Path) -> None:
    with (
        rig.Line(tmp_path / "tty") as line,
        rig.Process(tmp_path, "record", "--device", str(line.path), "--output", "/dev/full") as recorder,
    ):

        def ended() -> bool:
            line.write(bytes(58))
            return recorder.process.poll() is not None

        await rig.until(ended)
        assert recorder.process.returncode == 1
        assert "cannot write the capture: [Errno 28] No space left on device" in recorder.text
        assert "Traceback" not in recorder.text


async def test_an_error_in_the_way_of_a_byte_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    """Going on would freeze what is on the bus; the supervisor starts it again."""
    code = (
        "import sys\nfrom dbus_smartbms import bank, cli\n"
        "def take(self, cable, frame, now): raise ValueError('a fault of ours')\n"
        "bank.Bank.take = take\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    with rig.Line(tmp_path / "tty") as line:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, "run", "--device", str(line.path),
            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        try:

            async def ended() -> bool:
                await line.send(rig.FRAME)
                return process.returncode is not None

            await rig.until(ended)
        finally:
            if process.returncode is None:
                process.kill()
            _, text = await process.communicate()
    assert process.returncode == 1
    assert b"ended by an error" in text
    assert b"ValueError: a fault of ours" in text


def test_a_change_of_reasons_alone_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """And noise in the numbers of a reason never."""
    one, now = Driver(Configuration()), [1000.0]
    one._clock = lambda: now[0]
    cable = Cable("/dev/ttyUSB0", "FT123")
    one._opened(cable)

    def lines(frames: int, **changes: Any) -> list[str]:
        caplog.clear()
        for _ in range(frames):
            now[0] += 1.0
            one._received(cable, encode(rig.frame(int(now[0]), **changes)), False)
        return [record.getMessage() for record in caplog.records if "CVL" in record.getMessage()]

    caplog.set_level(logging.INFO)
    assert len(lines(3)) == 2, "the first frame, and the third that permits"
    tapering = "cell 7 at 2.950 V: more would let it sag to Vmin"
    assert lines(59, lowest_mv=2950) == []
    (line,) = lines(1, lowest_mv=2950)
    assert tapering in line
    assert lines(100, lowest_mv=2945) == []
    (line,) = lines(200)
    assert "rises slowly again" in line or "1 C of" in line


async def test_a_changed_configuration_is_taken_at_hangup_and_a_broken_one_is_not(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    file = tmp_path / "bms.ini"
    file.write_text("[limits]\nmax_charge_current = 100\n")
    async with driving(tmp_path, bus, "--config", str(file)) as setup:
        await setup.reach(lambda v: v["/Info/MaxChargeCurrent"] == 100)

        async def hang_up(text: str, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
            file.write_text(text)
            setup.process.process.send_signal(signal.SIGHUP)
            return await setup.reach(wanted)

        await hang_up(
            "[limits]\nmax_charge_current = 60\n[pack tty]\nmode = normal\n",
            lambda v: v["/Info/MaxChargeCurrent"] == 60,
        )
        assert "the configuration was read again" in setup.process.text
        broken = await hang_up(
            "[limits]\nmax_charge_current = 9O\n", lambda v: v["/SmartBms/Configuration/Errors"] == 1
        )
        assert broken["/Info/MaxChargeCurrent"] == 60, "neither 90 nor the careful 0.1 C"
        first = broken["/SmartBms/Configuration/FirstError"]
        assert first.endswith("'9O' is not a number from 0 to 10000 A; the configuration stays as it was")
        assert first in setup.process.text
        file.unlink()
        setup.process.process.send_signal(signal.SIGHUP)
        gone = f"{file}: it is not there, or empty; the configuration stays as it was"
        await setup.reach(lambda v: v["/SmartBms/Configuration/FirstError"] == gone)
        file.write_text("")
        setup.process.process.send_signal(signal.SIGHUP)
        await rig.until(lambda: setup.process.text.count(gone) == 2)
        assert (await setup.values())["/Info/MaxChargeCurrent"] == 60
        healed = await hang_up(
            "[limits]\nmax_charge_current = 50\n", lambda v: v["/Info/MaxChargeCurrent"] == 50
        )
        assert healed["/SmartBms/Configuration/Errors"] == 0
        file.write_text(f"[limits]\nmax_charge_current = 40\n[link]\ndevices = {tmp_path / 'other'}\n")
        other = rig.Line(tmp_path / "other")
        try:
            setup.process.process.send_signal(signal.SIGHUP)
            await setup.reach(lambda v: v["/Info/MaxChargeCurrent"] == 40)
            assert "reading " + str(tmp_path / "other") not in setup.process.text, "--device was typed"
        finally:
            other.unplug()


async def test_other_devices_are_read_after_a_hangup(tmp_path: Path, bus: rig.Daemon) -> None:
    file, first = tmp_path / "bms.ini", tmp_path / "tty"
    file.write_text(f"[link]\ndevices = {first}\n")
    with (
        rig.Line(first),
        rig.Line(tmp_path / "other"),
        rig.Process(tmp_path, "run", "--config", str(file), address=bus.address) as process,
    ):
        await rig.until(lambda: f"reading {first} " in process.text)
        file.write_text(f"[link]\ndevices = {tmp_path / 'other'}\n")
        process.process.send_signal(signal.SIGHUP)
        await rig.until(lambda: f"reading {tmp_path / 'other'} " in process.text)
        assert f"lost {first}: other devices are to be read" in process.text


async def test_another_cable_is_another_pack_once_its_frames_agree(tmp_path: Path, bus: rig.Daemon) -> None:
    """Until then the limits stay numbers, and what is shown is the old pack's; each keeps what it knew."""
    file, state_file = tmp_path / "bms.ini", tmp_path / "state.json"
    control = "/SwitchableOutput/charge_to_full/State"

    def choose(name: str) -> None:
        file.write_text(f"[link]\ndevices = {tmp_path / name}\n[pack b]\nmode = normal\n")

    choose("a")
    client = Connection()
    with (
        rig.Line(tmp_path / "a") as first,
        rig.Line(tmp_path / "b") as second,
        rig.Process(
            tmp_path, "run", "--config", str(file), "--state", str(state_file), address=bus.address
        ) as process,
    ):
        await client.connect()

        async def look(wanted: dict[str, Any]) -> dict[str, Any]:
            async def found() -> dict[str, Any]:
                try:
                    items = await client.get_items(SERVICE)
                except BusError:
                    return {}
                values = {path: item["Value"] for path, item in items.items()}
                return values if all(values[path] == value for path, value in wanted.items()) else {}

            values: dict[str, Any] = await rig.until(found)
            return values

        await rig.until(lambda: "reading " in process.text)
        await rig.until(lambda: "has a section for b, but none for this cable, a" in process.text)
        await first.pour(*(rig.frame(turn) for turn in range(20)))
        await look({"/Serial": "a", "/Info/MaxChargeCurrent": 151.5, "/Voltages/Cell3": 3.33})
        await client.call(SERVICE, control, BUS_ITEM, "SetValue", "v", _wrap("i", 1))
        await look({control: 1})
        choose("b")
        process.process.send_signal(signal.SIGHUP)
        await rig.until(lambda: f"reading {tmp_path / 'b'} " in process.text)
        still = await look({"/Serial": "a"})
        assert isinstance(still["/Info/MaxChargeVoltage"], float)
        names = {"lowest_cell": 1, "highest_cell": 2, "coldest_cell": 3, "hottest_cell": 4}
        frames = (rig.frame(turn, cells=4, voltage_mv=13_280, capacity_wh=4_000, **names) for turn in (0, 1))
        await second.pour(*frames)
        values = await look({"/Serial": "b", "/Dc/0/Voltage": 13.28, control: 0})
        assert (values["/Info/MaxChargeCurrent"], values["/Info/MaxDischargeCurrent"]) == (0, 0)
        assert values["/System/NrOfCellsPerBattery"] == 4
        assert values["/Voltages/Cell12"] is None
        choose("a")
        process.process.send_signal(signal.SIGHUP)
        await rig.until(lambda: process.text.count(f"reading {tmp_path / 'a'} ") == 2)
        await first.pour(*(rig.frame(turn) for turn in range(4)))
        await look({"/Serial": "a", control: 1, "/Info/MaxChargeCurrent": 151.5})
        client.disconnect()
        await client.closed()
        assert process.end() == 0
    kept = state.read(state_file).packs
    assert set(kept) == {"a", "b"}
    assert kept["a"].stage.asked_s is not None
