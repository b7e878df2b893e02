"""Finding cables.  The list of USB devices is the one thing that cannot be real here."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

import rig
from dbus_smartbms.link import IDLE_S, Cable, Link, find_cables


def port(device: str, product: str | None, serial_number: str | None) -> ListPortInfo:
    info = ListPortInfo(device)
    info.product, info.serial_number = product, serial_number
    return info


PORTS = [
    port("/dev/ttyUSB2", "SmartBMSToUSB", "B2"),
    port("/dev/ttyUSB0", "VE Direct cable", "VE1"),
    port("/dev/ttyUSB1", "SmartBMSToUSB", "A1"),
    port("/dev/ttyUSB3", "FT232R USB UART", "FT3"),
    port("/dev/ttyS1", None, None),
]


@pytest.fixture
def usb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_ports, "comports", lambda: PORTS)


@pytest.mark.usefixtures("usb")
def test_auto_takes_our_cables_and_no_other_serial_device() -> None:
    assert find_cables("auto") == [Cable("/dev/ttyUSB1", "A1"), Cable("/dev/ttyUSB2", "B2")]


@pytest.mark.usefixtures("usb")
def test_an_unprogrammed_cable_is_found_by_its_serial_number() -> None:
    assert find_cables("FT3") == [Cable("/dev/ttyUSB3", "FT3")]


@pytest.mark.usefixtures("usb")
def test_a_path_is_taken_as_it_is_if_it_exists(tmp_path: Path) -> None:
    assert find_cables(str(tmp_path / "none")) == []
    (tmp_path / "tty").touch()
    assert find_cables(str(tmp_path / "tty")) == [Cable(str(tmp_path / "tty"), None)]
    assert find_cables(str(tmp_path / "tty"))[0].identity == "tty"


def test_without_any_usb_there_is_none() -> None:
    assert find_cables("no-such-serial-number") == []


async def run_until_said(link: Link, caplog: pytest.LogCaptureFixture, text: str) -> None:
    caplog.set_level(logging.INFO)
    task = asyncio.create_task(link.run())
    await rig.until(lambda: text in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_waiting_for_a_cable_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = 0

    def none() -> list[ListPortInfo]:
        nonlocal looks
        looks += 1
        return []

    monkeypatch.setattr("dbus_smartbms.link.LOOK_S", 0)
    monkeypatch.setattr(list_ports, "comports", none)
    caplog.set_level(logging.INFO)
    task = asyncio.create_task(Link("auto", lambda _data, _idle: None).run())
    await rig.until(lambda: looks > 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert caplog.messages == ["waiting for a cable (USB model SmartBMSToUSB)"]


async def test_a_device_that_cannot_be_opened_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    link = Link(str(tmp_path / "file"), lambda _data, _idle: None)
    await run_until_said(link, caplog, f"cannot open {tmp_path / 'file'}")


async def test_a_line_that_another_program_reads_is_not_shared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        rig.Line(tmp_path / "tty") as line,
        rig.Process(tmp_path, "record", "--device", str(line.path)) as other,
    ):
        await rig.until(lambda: "reading" in other.text)
        await run_until_said(Link(str(line.path), lambda _data, _idle: None), caplog, "cannot open")
        assert "another program has it open" in caplog.text
        assert other.end() == 1, "nothing was received"


@pytest.mark.usefixtures("usb")
async def test_two_cables_are_said(caplog: pytest.LogCaptureFixture) -> None:
    await run_until_said(Link("auto", lambda _data, _idle: None), caplog, "more than one cable")
    assert "/dev/ttyUSB1, /dev/ttyUSB2" in caplog.text


async def test_a_silence_before_bytes_is_passed_on(tmp_path: Path) -> None:
    read: list[tuple[bytes, bool]] = []
    with rig.Line(tmp_path / "tty") as line:
        task = asyncio.create_task(Link(str(line.path), lambda data, idle: read.append((data, idle))).run())

        def read_after_writing() -> object:
            line.write(b"a")
            return read

        await rig.until(read_after_writing)
        await asyncio.sleep(IDLE_S + 0.05)
        line.write(b"b")
        await rig.until(lambda: read[-1] == (b"b", True))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("error", [TypeError("int(None)"), OSError(5, "Input/output error")])
async def test_a_device_that_goes_while_cables_are_looked_for_is_weather(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def gone() -> list[ListPortInfo]:
        raise error

    monkeypatch.setattr(list_ports, "comports", gone)
    await run_until_said(Link("auto", lambda _data, _idle: None), caplog, "cannot look for cables")


@pytest.mark.parametrize("devices", ["/" + "x" * 300, "/dev/\0tty"])
async def test_a_device_path_that_cannot_be_one_is_said(
    caplog: pytest.LogCaptureFixture, devices: str
) -> None:
    await run_until_said(Link(devices, lambda _data, _idle: None), caplog, "ca")
    assert "waiting for a cable" in caplog.text or "cannot look for cables" in caplog.text
