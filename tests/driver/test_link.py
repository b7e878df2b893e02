"""Finding and reading cables.

The lines are real ptys; what USB says of them is the one thing that cannot be real.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import logging
import select
import termios
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

import rig
from dbus_smartbms import link as module
from dbus_smartbms.link import CABLE_MODEL, FTDI, IDLE_S, Cable, Link, Port, _Identities, find_cables, plugged


class Usb:
    """What is plugged in: each device a pty under a tty name in a folder, with what USB says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, rig.Line] = {}
        self.infos: dict[str, ListPortInfo] = {}
        self.hidden: dict[str, ListPortInfo] = {}
        self.looks = self.looked = 0
        self.free = threading.Event()
        """Cleared, a look hangs."""
        self.free.set()
        self.devices: list[serial.Serial] = []
        """All that were ever opened."""
        self.error: Exception | None = None

    def path(self, tty: str) -> str:
        return str(self.folder / tty)

    def plug(
        self,
        tty: str,
        serial_number: str | None,
        usb_port: str | None = None,
        model: str = CABLE_MODEL,
        hidden: bool = False,
    ) -> rig.Line:
        info = ListPortInfo(self.path(tty))
        info.serial_number, info.location, info.product, info.vid = serial_number, usb_port, model, FTDI
        self.lines[tty] = rig.Line(self.folder / tty)
        (self.hidden if hidden else self.infos)[tty] = info
        return self.lines[tty]

    def show(self, tty: str) -> None:
        self.infos[tty] = self.hidden.pop(tty)

    def pull(self, *ttys: str) -> None:
        for tty in ttys:
            self.infos.pop(tty)
            self.lines.pop(tty).unplug()

    def comports(self) -> list[ListPortInfo]:
        self.looks += 1
        self.free.wait(rig.PATIENCE_S)
        self.looked += 1
        if self.error is not None:
            raise self.error
        return list(self.infos.values())


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Usb]:
    (tmp_path / "dev").mkdir()
    usb = Usb(tmp_path / "dev")
    monkeypatch.setattr(list_ports, "comports", usb.comports)
    monkeypatch.setattr(module, "DEV", usb.folder)

    class Serial(serial.Serial):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            usb.devices.append(self)

    monkeypatch.setattr(serial, "Serial", Serial)
    yield usb
    usb.free.set()
    usb.pull(*list(usb.lines))
    assert not any(device.is_open for device in usb.devices)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    caplog.set_level(logging.INFO)


class Heard:
    """What a link said to its owner."""

    def __init__(self) -> None:
        self.opened: list[Cable] = []
        self.read: dict[str, bytearray] = defaultdict(bytearray)
        self.link: Link

    @property
    def identities(self) -> list[str]:
        return [cable.identity for cable in self.opened]

    async def opens(self, *identities: str) -> None:
        """Wait until these, in any order, are all that was opened."""
        await rig.until(lambda: len(self.opened) >= len(identities))
        assert sorted(self.identities) == sorted(identities)

    async def hears(self, line: rig.Line, identity: str) -> None:
        """Wait until a new word on a line is heard under an identity, and under no other."""
        word = f"<{next(WORDS)}>".encode()

        def said_and_heard() -> bool:
            line.write(word)  # again: what came before the opening is not read
            return word in self.read[identity]

        await rig.until(said_and_heard)
        assert [key for key, data in self.read.items() if word in data] == [identity]


WORDS = itertools.count()


@contextlib.asynccontextmanager
async def reading(devices: str) -> AsyncIterator[Heard]:
    """A running link, which leaves nothing open and lets no error go to waste."""
    before = files()
    heard = Heard()
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    heard.link = Link(
        devices, lambda cable, data, _idle: heard.read[cable.identity].extend(data), heard.opened.append
    )
    task = asyncio.create_task(heard.link.run())
    try:
        yield heard
        assert not task.done(), task
    finally:
        after = len(heard.opened)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not [path for path in files() if path.startswith("/dev/pts") and path not in before]
        assert len(heard.opened) == after
        assert errors == []


def files() -> list[str]:
    """Where the descriptors of this process lead."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(one.readlink()))
    return found


async def rounds(usb: Usb, monkeypatch: pytest.MonkeyPatch, number: int = 5) -> None:
    """Wait until the link has asked so often whether anything changed."""
    asked = 0
    known = module._changed_ns

    def changed_ns(folder: Path) -> int | None:
        nonlocal asked
        asked += 1
        return known(folder)

    monkeypatch.setattr(module, "_changed_ns", changed_ns)
    await rig.until(lambda: asked >= number)
    monkeypatch.setattr(module, "_changed_ns", known)


def is_open(line: rig.Line) -> bool:
    """Whether anybody has the line open: a pty's other side says so."""
    with select.epoll() as looker:
        looker.register(line._master, 0)
        return not any(event & select.EPOLLHUP for _, event in looker.poll(0))


# Who is chosen


def port(device: str, model: str = "", serial_number: str | None = None, maker: str = "") -> ListPortInfo:
    info = ListPortInfo(device)
    info.product, info.serial_number, info.manufacturer = model or None, serial_number, maker or None
    info.vid = FTDI if model else None
    return info


PORTS = [
    port("/dev/ttyUSB2", "SmartBMSToUSB", "B2"),
    port("/dev/ttyUSB0", "VE Direct cable", "VE1"),
    port("/dev/ttyUSB1", "SmartBMSToUSB", "A1"),
    port("/dev/ttyUSB3", "FT232R USB UART", "FT3"),
    port("/dev/ttyUSB5", "SmartBMSToUSB"),
    port("/dev/ttyS1"),
]


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ("auto", "ttyUSB5 ttyUSB1 ttyUSB2"),
        ("", "ttyUSB5 ttyUSB1 ttyUSB2"),
        ("FT3", "ttyUSB3"),
        ("FT3, auto", "ttyUSB5 ttyUSB1 ttyUSB2 ttyUSB3"),
        (" B2 ,,A1,", "ttyUSB1 ttyUSB2"),
        ("B2, B2, auto", "ttyUSB5 ttyUSB1 ttyUSB2"),
        ("VE2", ""),
        ("ttyUSB1", ""),
        ("SmartBMSToUSB", ""),
        ("/dev/no-such-tty", ""),
    ],
)
def test_only_what_is_ours_or_named_is_chosen(
    monkeypatch: pytest.MonkeyPatch, devices: str, found: str
) -> None:
    monkeypatch.setattr(list_ports, "comports", lambda: PORTS)
    assert [chosen.device for chosen in find_cables(devices, plugged())] == [
        f"/dev/{tty}" for tty in found.split()
    ]


def test_without_any_usb_there_is_none() -> None:
    assert find_cables("no-such-serial-number", plugged()) == []


def test_a_path_is_taken_as_it_is_if_it_exists(tmp_path: Path) -> None:
    name = tmp_path / "tty"
    assert find_cables(str(name), {}) == []
    name.touch()
    assert find_cables(str(name), {}) == [Port(str(name), str(name))]
    assert Port(str(name), str(name)).cable().identity == "tty"


def test_a_path_leads_to_what_usb_says_of_it(usb: Usb) -> None:
    usb.plug("ttyUSB0", "A1", "1-1")
    name = usb.folder / "battery"
    name.symlink_to(usb.folder / "ttyUSB0")
    (found,) = find_cables(str(name), plugged())
    assert (found.device, found.cable().identity) == (str(name), "A1")


def test_the_same_device_named_in_several_ways_is_one(usb: Usb) -> None:
    usb.plug("ttyUSB0", "A1")
    (usb.folder / "battery").symlink_to(usb.folder / "ttyUSB0")
    names = [usb.path("battery"), "A1", usb.path("ttyUSB0"), "auto"]
    for order in itertools.permutations(names):
        assert [found.serial_number for found in find_cables(",".join(order), plugged())] == ["A1"]


@pytest.mark.parametrize(
    ("location", "usb_port"),
    [("1-1.2", "1-1.2"), ("1-1.2:1.0", "1-1.2"), ("1-1.2:1.1", "1-1.2:1.1"), (None, None)],
)
def test_a_usb_port_is_without_the_interface_unless_it_is_a_second_one(
    usb: Usb, location: str | None, usb_port: str | None
) -> None:
    usb.plug("ttyUSB0", "A1", location)
    assert [found.usb_port for found in plugged().values()] == [usb_port]


# All are read, whatever comes and goes


async def test_all_chosen_cables_are_read_at_the_same_time(usb: Usb) -> None:
    lines = {number: usb.plug(f"ttyUSB{at}", number) for at, number in enumerate(["C3", "A1", "B2"])}
    usb.plug("ttyUSB3", "VE1", model="VE Direct cable")
    async with reading("auto") as heard:
        await heard.opens("A1", "B2", "C3")
        for _ in range(3):
            for identity, line in lines.items():
                await heard.hears(line, identity)
        assert Cable(usb.path("ttyUSB1"), "A1") in heard.opened


async def test_no_other_serial_device_is_ever_opened(usb: Usb, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = serial.Serial

    def opens(path: str, *arguments: Any, **more: Any) -> serial.Serial:
        tried.append(path)
        return real(path, *arguments, **more)

    monkeypatch.setattr(serial, "Serial", opens)
    usb.plug("ttyUSB0", "VE1", model="VE Direct cable")
    usb.plug("ttyUSB1", "FT1", model="FT232R USB UART")
    usb.plug("ttyACM0", None, model="Modem")
    ours = usb.plug("ttyUSB2", "A1")
    async with reading("auto, B2") as heard:
        await heard.hears(ours, "A1")
        await rounds(usb, monkeypatch)
    assert tried == [str(ours.path)]


async def test_the_same_device_named_twice_is_opened_once(
    usb: Usb, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = usb.plug("ttyUSB0", "A1")
    (usb.folder / "battery").symlink_to(usb.folder / "ttyUSB0")
    async with reading(f"{usb.path('battery')},A1,{usb.path('ttyUSB0')}") as heard:
        await heard.hears(line, "A1")
        await rounds(usb, monkeypatch)
        assert heard.opened == [Cable(usb.path("battery"), "A1")]
    assert caplog.messages == [f"reading {usb.path('battery')} (serial number A1)"]


async def test_cables_are_plugged_and_pulled_while_others_are_read(
    usb: Usb, caplog: pytest.LogCaptureFixture
) -> None:
    async with reading("auto") as heard:
        first = usb.plug("ttyUSB0", "A1")
        await heard.hears(first, "A1")
        second = usb.plug("ttyUSB1", "B2")
        await heard.hears(second, "B2")
        usb.pull("ttyUSB0")
        await rig.until(lambda: f"lost {usb.path('ttyUSB0')}: " in caplog.text)
        await heard.hears(second, "B2")
        first = usb.plug("ttyUSB7", "A1", "1-1.4")
        await heard.hears(first, "A1")
        await heard.hears(second, "B2")
        assert heard.identities == ["A1", "B2", "A1"]
        assert heard.opened[-1].device == usb.path("ttyUSB7")


async def test_cables_that_swapped_their_tty_numbers_keep_their_identities(usb: Usb) -> None:
    usb.plug("ttyUSB0", "A1")
    usb.plug("ttyUSB1", "B2")
    async with reading("auto") as heard:
        await heard.opens("A1", "B2")
        for a, b in [("ttyUSB1", "ttyUSB0"), ("ttyUSB0", "ttyUSB1")] * 3:
            usb.pull("ttyUSB0", "ttyUSB1")
            first, second = usb.plug(a, "A1"), usb.plug(b, "B2")
            await heard.hears(first, "A1")
            await heard.hears(second, "B2")


async def test_a_cable_that_took_the_place_of_another_before_its_opening_is_not_taken_for_it(
    usb: Usb,
) -> None:
    line = usb.plug("ttyUSB0", "B2")
    before = ListPortInfo(usb.path("ttyUSB0"))
    before.serial_number, before.product = "A1", CABLE_MODEL
    known = usb.comports
    looks = [[before]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_ports, "comports", lambda: looks.pop() if looks else known())
        async with reading("auto") as heard:
            await heard.hears(line, "B2")
            assert heard.identities == ["B2"], "A1 was pulled just after it was seen"


async def test_a_cable_that_goes_between_look_and_opening_is_not_called_one_that_cannot_be_opened(
    usb: Usb, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usb.plug("ttyUSB0", "A1")
    usb.lines["ttyUSB0"].path.unlink()
    usb.lines["ttyUSB0"].path.symlink_to(usb.folder / "gone")
    async with reading("auto"):
        await rounds(usb, monkeypatch)
    assert caplog.messages == []


async def test_a_silence_before_bytes_is_passed_on(tmp_path: Path) -> None:
    read: list[tuple[bytes, bool]] = []
    with rig.Line(tmp_path / "tty") as line:
        link = Link(str(line.path), lambda _cable, data, idle: read.append((data, idle)))
        task = asyncio.create_task(link.run())

        def read_after_writing() -> object:
            line.write(b"a")
            return read

        await rig.until(read_after_writing)
        assert read[0][1], "what came before the opening, from the same pack, is not continued"
        await asyncio.sleep(IDLE_S + 0.05)
        line.write(b"b")
        await rig.until(lambda: read[-1] == (b"b", True))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_name_that_leads_elsewhere_at_the_opening_is_not_taken_for_what_was_there(usb: Usb) -> None:
    usb.plug("ttyUSB0", "A1")
    usb.plug("ttyUSB1", "B2")
    name = usb.folder / "battery"
    name.symlink_to(usb.path("ttyUSB0"))
    (found,) = find_cables(str(name), plugged())
    name.unlink()
    name.symlink_to(usb.path("ttyUSB1"))
    assert module._open_and_look(found) is None


# Others are chosen


async def test_of_a_new_choice_only_what_changed_is_opened_and_closed(
    usb: Usb, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = (usb.plug(f"ttyUSB{at}", number) for at, number in enumerate(["A1", "B2", "C3"]))
    async with reading("A1,B2") as heard:
        await heard.opens("A1", "B2")
        heard.link.choose(f"C3,{usb.path('ttyUSB1')}")
        await heard.opens("A1", "B2", "C3")
        await rig.until(lambda: not is_open(a))
        await heard.hears(b, "B2")
        await heard.hears(c, "C3")
        heard.link.choose("auto")
        await heard.opens("A1", "A1", "B2", "C3")
        await heard.hears(a, "A1")
    assert [line for line in caplog.messages if "lost" in line] == [
        f"lost {usb.path('ttyUSB0')}: other devices are to be read"
    ]


async def test_the_same_choice_again_disturbs_nothing(usb: Usb, monkeypatch: pytest.MonkeyPatch) -> None:
    line = usb.plug("ttyUSB0", "A1")
    async with reading("auto") as heard:
        await heard.opens("A1")
        looks = usb.looks
        heard.link.choose("auto")
        await rounds(usb, monkeypatch)
        assert usb.looks == looks
        await heard.hears(line, "A1")
        assert heard.identities == ["A1"]


async def test_a_choice_is_acted_on_at_once(usb: Usb, monkeypatch: pytest.MonkeyPatch) -> None:
    usb.plug("ttyUSB0", "A1")
    usb.plug("ttyUSB1", "B2")
    monkeypatch.setattr(module, "LOOK_S", 2 * rig.PATIENCE_S)
    async with reading("A1") as heard:
        await heard.opens("A1")
        heard.link.choose("A1,B2")
        await heard.opens("A1", "B2")


async def test_choices_in_quick_succession_are_all_survived(usb: Usb) -> None:
    line = usb.plug("ttyUSB0", "A1")
    async with reading("A1") as heard:
        await heard.opens("A1")
        for devices in ("B2", "C3", "A1", "B2", "auto"):
            heard.link.choose(devices)
        await heard.opens("A1", "A1")
        await heard.hears(line, "A1")


async def test_what_is_no_longer_chosen_when_it_is_open_at_last_is_closed(
    usb: Usb, slow: Callable[[str], threading.Event]
) -> None:
    line = usb.plug("ttyUSB0", "A1")
    go_on = slow(usb.path("ttyUSB0"))
    async with reading("A1") as heard:
        await rig.until(lambda: threading.active_count() > 1)
        heard.link.choose("B2")
        go_on.set()
        await rig.until(lambda: not heard.link._readings)
        assert not is_open(line)
        assert heard.opened == []


# Identity


async def test_of_two_cables_with_one_serial_number_each_has_its_port(
    usb: Usb, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = usb.plug("ttyUSB1", "S", "1-1.1"), usb.plug("ttyUSB0", "S", "1-1.2")
    async with reading("S") as heard:
        await heard.opens("S@1-1.1", "S@1-1.2")
        await heard.hears(first, "S@1-1.1")
        await heard.hears(second, "S@1-1.2")
        usb.pull("ttyUSB0", "ttyUSB1")
        await rig.until(lambda: "waiting for a cable (S)" in caplog.text)
        first, second = usb.plug("ttyUSB0", "S", "1-1.1"), usb.plug("ttyUSB1", "S", "1-1.2")
        await heard.hears(second, "S@1-1.2")
        await heard.hears(first, "S@1-1.1")
        await rounds(usb, monkeypatch)
    (said,) = (line for line in caplog.messages if "told apart" in line)
    assert said == (
        "2 cables have the serial number S; they are told apart by their USB port: "
        f"{usb.path('ttyUSB1')} is S@1-1.1, {usb.path('ttyUSB0')} is S@1-1.2"
    )


async def test_a_cable_keeps_its_identity_when_another_with_its_serial_number_comes(
    usb: Usb, caplog: pytest.LogCaptureFixture
) -> None:
    first = usb.plug("ttyUSB0", "S", "1-1.1")
    async with reading("auto") as heard:
        await heard.hears(first, "S")
        second = usb.plug("ttyUSB1", "S", "1-1.2")
        await heard.hears(second, "S@1-1.2")
        await heard.hears(first, "S")
        assert f"{usb.path('ttyUSB0')} is S, {usb.path('ttyUSB1')} is S@1-1.2" in caplog.text
        usb.pull("ttyUSB0")
        await heard.hears(second, "S@1-1.2")
        first = usb.plug("ttyUSB2", "S", "1-1.1")
        await heard.hears(first, "S")
        assert heard.identities == ["S", "S@1-1.2", "S"]
    assert caplog.text.count("told apart") == 1


async def test_a_serial_number_that_one_cable_alone_has_follows_it_to_another_port(usb: Usb) -> None:
    async with reading("auto") as heard:
        for usb_port in ("1-1.1", "1-1.2", "1-1.3"):
            line = usb.plug("ttyUSB0", "S", usb_port)
            await heard.hears(line, "S")
            usb.pull("ttyUSB0")


async def test_a_cable_in_another_port_waits_until_it_has_ended_where_it_was(
    usb: Usb, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading("auto") as heard:
        before = usb.plug("ttyUSB0", "S", "1-1.1")
        await heard.hears(before, "S")
        usb.hidden["ttyUSB0"] = usb.infos.pop("ttyUSB0")
        after = usb.plug("ttyUSB1", "S", "1-1.2")
        await rounds(usb, monkeypatch)
        assert heard.identities == ["S"]
        usb.show("ttyUSB0")
        usb.pull("ttyUSB0")
        await heard.hears(after, "S")


async def test_devices_without_serial_number_and_with_the_same_name_have_their_paths(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    with rig.Line(tmp_path / "x/tty") as one, rig.Line(tmp_path / "y/tty") as other:
        async with reading(f"{one.path},{other.path}") as heard:
            await heard.hears(one, f"tty@{one.path}")
            await heard.hears(other, f"tty@{other.path}")


def test_two_interfaces_of_one_device_are_two_cables() -> None:
    ports = [
        Port(f"/dev/ttyUSB{at}", f"/dev/ttyUSB{at}", "S", where)
        for at, where in enumerate(("1-1", "1-1:1.1"))
    ]
    assert [cable.identity for cable in _Identities().of(ports).values()] == ["S@1-1", "S@1-1:1.1"]


WHERE = st.dictionaries(st.sampled_from(["1", "2", "3", "4"]), st.sampled_from(["S", "T", None]), max_size=4)


@given(st.lists(st.tuples(WHERE, st.booleans()), max_size=8))
def test_no_two_open_cables_share_an_identity_and_none_changes(
    looks: list[tuple[dict[str, str | None], bool]],
) -> None:
    """Cables come and go on four ports; now and then one that is read is not seen, or ends late."""
    identities = _Identities()
    being_read: dict[str, tuple[str | None, Cable]] = {}
    for at_port, some_end_late in looks:
        if not some_end_late:
            being_read = {at: one for at, one in being_read.items() if at_port.get(at, 0) == one[0]}
        ports = [Port(f"/dev/ttyUSB{at}", f"/dev/ttyUSB{at}", number, at) for at, number in at_port.items()]
        cables = identities.of(ports)
        assert len({cable.identity for cable in cables.values()}) == len(cables), "never the same for two"
        for one in ports:
            at, cable = str(one.usb_port), cables[one.path]
            if at in being_read and being_read[at][0] == one.serial_number:
                assert cable.identity == being_read[at][1].identity
            open_now = {other.identity for _, other in being_read.values()}
            if at not in being_read and cable.identity not in open_now:
                identities.read(cable, one)
                being_read[at] = (one.serial_number, cable)


# Trouble, said once


async def test_waiting_for_a_cable_is_said_once(usb: Usb, caplog: pytest.LogCaptureFixture) -> None:
    async with reading("auto"):
        await rig.until(lambda: usb.looks > 5)
    assert caplog.messages == ["waiting for a cable (USB model SmartBMSToUSB)"]


async def test_who_of_several_is_missing_is_said(usb: Usb, caplog: pytest.LogCaptureFixture) -> None:
    usb.plug("ttyUSB0", "A1")
    async with reading("A1, B2, /dev/no-such-tty, auto") as heard:
        await heard.opens("A1")
        looks = usb.looks
        await rig.until(lambda: usb.looks > looks + 5)
        assert caplog.messages == [
            "waiting for a cable (B2, /dev/no-such-tty)",
            f"reading {usb.path('ttyUSB0')} (serial number A1)",
        ]
        usb.plug("ttyUSB1", "B2")
        await heard.opens("A1", "B2")
        assert caplog.messages[2] == "waiting for a cable (/dev/no-such-tty)"


async def test_a_device_that_is_no_serial_port_is_said_once(
    usb: Usb, caplog: pytest.LogCaptureFixture
) -> None:
    other = usb.plug("ttyUSB0", "A1")
    file = usb.folder / "file"
    file.touch()
    async with reading(f"{file},A1") as heard:
        await heard.hears(other, "A1")
        looks = usb.looks
        await rig.until(lambda: usb.looks > looks + 5)
        await heard.hears(other, "A1")
    assert [line for line in caplog.messages if "file" in line] == [
        f"cannot open {file}: it is no serial port"
    ]


async def test_a_busy_port_is_said_once_until_it_has_worked_in_between(
    usb: Usb, caplog: pytest.LogCaptureFixture
) -> None:
    other = usb.plug("ttyUSB1", "B2")

    async def is_locked_out(heard: Heard, times: int) -> None:
        with lock(usb.plug("ttyUSB0", "A1", hidden=True)):
            usb.show("ttyUSB0")
            await rig.until(lambda: caplog.text.count("another program has it open") == times)
            looks = usb.looks
            await rig.until(lambda: usb.looks > looks + 5)
            await heard.hears(other, "B2")
        assert caplog.text.count("another program has it open") == times

    async with reading("auto") as heard:
        await is_locked_out(heard, 1)
        usb.pull("ttyUSB0")
        await is_locked_out(heard, 1)
        await heard.hears(usb.lines["ttyUSB0"], "A1")
        usb.pull("ttyUSB0")
        await is_locked_out(heard, 2)
        assert f"cannot open {usb.path('ttyUSB0')}: another program" in caplog.text


@contextlib.contextmanager
def lock(line: rig.Line) -> Iterator[None]:
    """Another program has the line open."""
    with line.path.open("rb", buffering=0) as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield


async def test_a_line_that_another_program_reads_is_not_shared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        rig.Line(tmp_path / "tty") as line,
        rig.Process(tmp_path, "record", "--device", str(line.path)) as other,
    ):
        await rig.until(lambda: "reading" in other.text)
        async with reading(str(line.path)) as heard:
            await rig.until(lambda: "another program has it open" in caplog.text)
            assert heard.opened == []
        assert other.end() == 1, "nothing was received"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (serial.SerialException(13, "could not open port /dev/x: [Errno 13] Permission denied"), "dialout"),
        (serial.SerialException(16, "could not open port: Device or resource busy"), "another program"),
        (serial.SerialException(5, "could not open port /dev/x"), "Input/output error"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_what_is_wrong_is_said_in_words_that_help(error: Exception, words: str) -> None:
    assert words in module._why(error)


async def test_a_device_that_may_be_an_unprogrammed_cable_is_hinted_at_once(
    usb: Usb, caplog: pytest.LogCaptureFixture
) -> None:
    usb.plug("ttyUSB0", "FT1", model="FT232R USB UART")
    usb.plug("ttyUSB1", None, model="")
    usb.plug("ttyUSB2", "VE1", model="VE Direct cable")
    usb.plug("ttyUSB3", "MK1", model="MK3-USB Interface")
    usb.plug("ttyUSB4", "V1", model="something new")
    usb.infos["ttyUSB4"].manufacturer = "VictronEnergy BV"
    usb.plug("ttyUSB5", "FT2", model="FT232R USB UART")
    usb.plug("ttyACM0", "M1", model="Modem")
    usb.infos["ttyACM0"].vid = 0x1234
    async with reading("auto, FT2"):
        await rig.until(lambda: usb.looks > 5)
        usb.pull("ttyUSB0")
        usb.plug("ttyUSB6", "FT1", model="FT232R USB UART")
        looks = usb.looks
        await rig.until(lambda: usb.looks > looks + 5)
    hints = [line for line in caplog.messages if "left alone" in line]
    assert len(hints) == 2, hints
    assert hints[0] == (
        f"{usb.path('ttyUSB0')} (FT232R USB UART, FT1) is left alone; if it is a cable of the BMS that was "
        "never programmed, name its serial number FT1 in [link] devices"
    )
    assert hints[1].startswith(usb.path("ttyUSB1"))
    assert hints[1].endswith("name its path in [link] devices")


async def test_who_names_devices_gets_no_hints(usb: Usb, caplog: pytest.LogCaptureFixture) -> None:
    usb.plug("ttyUSB0", "FT1", model="FT232R USB UART")
    async with reading("A1"):
        await rig.until(lambda: usb.looks > 5)
    assert caplog.messages == ["waiting for a cable (A1)"]


@pytest.mark.parametrize("error", [TypeError("int(None)"), OSError(5, "Input/output error")])
async def test_a_device_that_goes_while_cables_are_looked_for_is_weather(
    usb: Usb, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    first = usb.plug("ttyUSB0", "A1")
    async with reading("A1,B2") as heard:
        await heard.hears(first, "A1")
        usb.error = error
        looks = usb.looks
        await rig.until(lambda: usb.looks > looks + 5)
        await heard.hears(first, "A1")
        said = f"cannot look for cables: {type(error).__name__}: {error}"
        assert caplog.messages.count(said) == 1
        usb.error = None
        await heard.hears(usb.plug("ttyUSB1", "B2"), "B2")
        usb.pull("ttyUSB1")
        usb.error = error
        await rig.until(lambda: caplog.messages.count(said) == 2)


async def test_errors_just_after_a_device_was_opened_are_said_and_close_it(
    usb: Usb, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = usb.plug("ttyUSB0", "A1"), usb.plug("ttyUSB1", "B2")

    def raises(*_: object) -> list[ListPortInfo]:
        raise termios.error(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("serial_asyncio.connection_for_serial", raises)
        async with reading("A1") as heard:
            await rig.until(lambda: "cannot open" in caplog.text)
            await rig.until(lambda: len(usb.devices) > 3)
            assert heard.opened == []
    assert caplog.text.count("Input/output error") == 1
    looks: list[Callable[[], list[ListPortInfo]]] = [usb.comports, raises, usb.comports]
    with monkeypatch.context() as patch:
        patch.setattr(list_ports, "comports", lambda: looks.pop()() if looks else usb.comports())
        async with reading("B2") as heard:
            await heard.hears(second, "B2")
    assert f"cannot open {usb.path('ttyUSB1')}: " in caplog.text
    assert not is_open(first)


@pytest.mark.parametrize("name", ["/" + "x" * 300, "/dev/\0tty", "/dev/ttyS0/x", "/loop"])
async def test_a_device_path_that_cannot_be_one_is_said_and_stops_no_other(
    usb: Usb, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    if name == "/loop":
        name = usb.path("loop")
        (usb.folder / "loop").symlink_to(name)
    line = usb.plug("ttyUSB0", "A1")
    async with reading(f"{name},A1") as heard:
        await heard.hears(line, "A1")
    assert f"waiting for a cable ({name})" in caplog.messages


# One cable's trouble is not another's


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], threading.Event]]:
    """Makes the opening of a device last until an event is set."""
    real = serial.Serial
    events: dict[str, threading.Event] = {}

    def opens(path: str, *arguments: Any, **more: Any) -> serial.Serial:
        real_path = str(Path(path).resolve())
        device = real(path, *arguments, **more)
        if real_path in events:
            events[real_path].wait(rig.PATIENCE_S)
        return device

    def slow_down(path: str) -> threading.Event:
        return events.setdefault(str(Path(path).resolve()), threading.Event())

    monkeypatch.setattr(serial, "Serial", opens)
    yield slow_down
    for event in events.values():
        event.set()


async def test_slow_openings_hold_up_no_other_cable(usb: Usb, slow: Callable[[str], threading.Event]) -> None:
    """More than the threads that asyncio would share among all."""
    numbers = [f"S{at:02}" for at in range(40)]
    lines = [usb.plug(f"ttyUSB{at}", number) for at, number in enumerate(numbers)]
    events = [slow(str(line.path)) for line in lines]
    async with reading("auto") as heard:
        await rig.until(lambda: all(map(is_open, lines)))
        await heard.hears(usb.plug("ttyUSB99", "A1"), "A1")
        assert heard.identities == ["A1"]
        assert all(one.daemon for one in threading.enumerate() if one is not threading.main_thread())
        for event in events:
            event.set()
        await heard.opens("A1", *numbers)


async def test_cancelled_while_a_device_is_opened_it_waits_to_close_it(
    usb: Usb, slow: Callable[[str], threading.Event]
) -> None:
    line = usb.plug("ttyUSB0", "A1")
    go_on = slow(str(line.path))
    task = asyncio.create_task(Link("auto", lambda *_: None).run())
    await rig.until(lambda: is_open(line))
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done
    go_on.set()
    await asyncio.gather(task, return_exceptions=True)
    assert not is_open(line)


async def test_a_look_that_hangs_holds_up_nobody_who_is_read(usb: Usb) -> None:
    line = usb.plug("ttyUSB0", "A1")
    async with reading("A1,B2") as heard:
        await heard.hears(line, "A1")
        looks = usb.looks
        usb.free.clear()
        await rig.until(lambda: usb.looks > looks)
        looked = usb.looked
        for _ in range(3):
            await heard.hears(line, "A1")
        assert usb.looked == looked


async def test_a_flood_of_bytes_on_one_line_leaves_the_others_their_turn(usb: Usb) -> None:
    wild, calm = usb.plug("ttyUSB0", "A1"), usb.plug("ttyUSB1", "B2")
    async with reading("auto") as heard:
        await heard.opens("A1", "B2")
        ending = threading.Event()

        def flood() -> None:
            while not ending.is_set():
                wild.write(bytes(4096))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(20):
                before = len(heard.read["A1"])
                await heard.hears(calm, "B2")
                await rig.until(partial(lambda before: len(heard.read["A1"]) > before, before))
        finally:
            ending.set()
            thread.join()


async def test_what_the_owner_raises_at_an_opening_ends_the_link_and_closes_all(usb: Usb) -> None:
    """A fault of ours: the process shall end, and say why."""
    lines = [usb.plug("ttyUSB0", "A1"), usb.plug("ttyUSB1", "B2")]

    def opened(cable: Cable) -> None:
        if cable.identity == "B2":
            raise ValueError("a fault of ours")

    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(Link("auto", lambda *_: None, opened).run(), rig.PATIENCE_S)
    assert raised.group_contains(ValueError, match="a fault of ours")
    assert not any(map(is_open, lines))


async def test_cancelled_it_returns_when_all_are_closed(usb: Usb) -> None:
    lines = [usb.plug(f"ttyUSB{at}", f"S{at}") for at in range(3)]
    opened: list[Cable] = []
    task = asyncio.create_task(Link("auto", lambda *_: None, opened.append).run())
    await rig.until(lambda: len(opened) == 3)
    assert all(map(is_open, lines))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(map(is_open, lines))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_hundreds_of_plugs_and_pulls_leak_nothing(usb: Usb) -> None:
    async with reading("auto") as heard:
        steady = usb.plug("ttyUSB0", "A1")
        await heard.hears(steady, "A1")
        before = len(files()), len(asyncio.all_tasks())
        for cycle in range(300):
            line = usb.plug(f"ttyUSB{cycle % 7 + 1}", "B2", f"1-1.{cycle % 3}")
            await rig.until(partial(lambda number: len(heard.opened) == number, cycle + 2))
            if cycle % 10 == 0:
                await heard.hears(line, "B2")
            usb.pull(f"ttyUSB{cycle % 7 + 1}")
        await rig.until(lambda: len(heard.link._readings) == 1)
        await rig.until(lambda: (len(files()), len(asyncio.all_tasks())) == before)
        await rig.until(lambda: threading.active_count() == 1)
        await heard.hears(steady, "A1")
        assert heard.identities == ["A1"] + 300 * ["B2"]
        assert len(heard.link._said) == 0


# Looking is cheap


async def test_while_all_are_read_and_nothing_changes_nobody_looks(
    usb: Usb, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = usb.plug("ttyUSB0", "A1")
    usb.plug("ttyUSB1", "FT1", model="FT232R USB UART")
    async with reading(f"auto,{usb.path('ttyUSB1')}") as heard:
        await heard.opens("A1", "FT1")
        await rounds(usb, monkeypatch, 3)
        looks = usb.looks
        await rounds(usb, monkeypatch, 50)
        assert usb.looks == looks
        usb.plug("ttyUSB2", "C3")
        await heard.opens("A1", "FT1", "C3")
        await heard.hears(line, "A1")


async def test_a_named_path_that_now_leads_elsewhere_is_a_reason_to_look(
    tmp_path: Path, usb: Usb, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "battery"
    name.symlink_to(usb.plug("ttyUSB0", "A1").path)
    second = usb.plug("ttyUSB1", "B2")
    async with reading(str(name)) as heard:
        await heard.opens("A1")
        await rounds(usb, monkeypatch, 3)
        name.unlink()
        name.symlink_to(second.path)
        await heard.hears(second, "B2")


async def test_a_look_is_taken_now_and_then_even_so(usb: Usb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_ANYWAY_S", 0.05)
    monkeypatch.setattr(module, "DEV", usb.folder / "none")
    usb.plug("ttyUSB0", "A1")
    async with reading("auto") as heard:
        await heard.opens("A1")
        await heard.hears(usb.plug("ttyUSB1", "B2"), "B2")


async def test_while_one_is_missing_it_is_looked_for(usb: Usb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEV", usb.folder / "none")
    usb.plug("ttyUSB0", "A1")
    async with reading("A1,B2") as heard:
        await heard.opens("A1")
        await heard.hears(usb.plug("ttyUSB1", "B2"), "B2")
