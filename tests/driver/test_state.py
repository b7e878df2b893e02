"""What outlives the driver: the state file, whole or not at all, and the driver that reads and writes it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rig
from dbus_smartbms import state
from dbus_smartbms.driver import SERVICE, STATE_S
from dbus_smartbms.mirror import Counted
from dbus_smartbms.rules import Wishes
from dbus_smartbms.stages import Stage
from dbus_smartbms.state import Pack, Saved

FLOATING = Stage("float", 4000.0, 99.5, ended=True, asked_s=1.5, unfull_s=3.25, lasted_s=2.0, full_s=1.0)
HOUSE = Pack(Counted(16, 16_000, 57.25, 50.0), FLOATING)
SHED = Pack(Counted(4, 2_000, 0.0, 100.0))
ENTRY = HOUSE.counted._asdict()


def text_of(*, version: object = state.VERSION, **changes: Any) -> str:
    return json.dumps({"version": version, "packs": {"AB12": ENTRY | changes}})


def folder(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def written(path: Path) -> tuple[int, int]:
    """Another one after each writing."""
    return path.stat().st_ino, path.stat().st_mtime_ns


# The file


@pytest.mark.parametrize("packs", [{}, {"AB12": HOUSE}, {"AB12": HOUSE, "ttyUSB0": SHED, "Küche \n": SHED}])
def test_what_was_written_is_read(tmp_path: Path, packs: dict[str, Pack]) -> None:
    path = tmp_path / "state.json"
    for wishes in (Wishes(), Wishes(12.5, None), Wishes(0, 10_000)):
        for name, instance in (("", None), ("Küche 1", 0), ("x" * 32, 65_535)):
            state.write(path, Saved(packs, wishes, name, instance))
            assert state.read(path) == Saved(packs, wishes, name, instance)
    assert folder(tmp_path) == {"state.json"}


def test_the_ends_of_every_number_are_read(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    most = Stage("absorption", 10**9, 100, False, 10**9, 10**9, 10**9, 10**9, 10**9, 10**9)
    packs = {
        "least": Pack(Counted(0, 0, 0, 0), Stage("bulk", 0, 0, False, 0, 0, 0, 0, 0, 0)),
        "most": Pack(Counted(255, 6_553_500, 100, 100.0), most),
    }
    state.write(path, Saved(packs))
    assert state.read(path) == Saved(packs)


def test_no_file_is_nothing_saved(tmp_path: Path) -> None:
    assert state.read(tmp_path / "state.json") == Saved()
    assert state.read(tmp_path / "no folder" / "state.json") == Saved()
    assert folder(tmp_path) == set()


NO_JSON = [
    "", "\n", text_of()[:40], text_of() + text_of(), text_of() + "\0\0\0", "cells = 16", "{'version': 1}",
    text_of(cells=0).replace(": 0,", ": 1" + 5_000 * "0" + ","), "[" * 200_000, '{"version": ' * 200_000,
]  # fmt: skip
NO_VERSION = ["null", "true", "1", '"version"', "[]", '["version"]', "{}", '{"packs": {}}']
OTHER_VERSION: list[object] = [0, 2, -1, 1.5, "1", None, [], {}]
NO_PACKS = [
    '{"version": 1}',
    *(f'{{"version": 1, "packs": {packs}}}' for packs in ("null", "[]", '"AB12"', "1")),
]
NO_PACK: list[object] = [
    None, True, 16, "16", list(ENTRY), list(ENTRY.values()), {}, {"cells": 16}, ENTRY | {"note": 1},
    *({key: value for key, value in ENTRY.items() if key != missing} for missing in ENTRY),
]  # fmt: skip
NAN, INFINITE = float("nan"), float("inf")
MOST = {"cells": 255, "capacity_wh": 6_553_500, "soc": 100, "bms_soc": 100}
NO_NUMBER: list[object] = [True, False, None, "50", [], [50], {}, NAN, INFINITE, -INFINITE, -1, -0.001, 1e300]
NO_OBJECT: list[object] = [None, [], "bulk", 1, {"note": 1}]
NO_INSTANCE: list[object] = [-1, 65_536, 1.0, True, "5", []]
CHARGE = "name, since_s, soc, ended, asked_s, unfull_s, lasted_s, full_s, denied_s, low_s"
NO_STAGE: list[tuple[object, str]] = [
    *((stage, f"of a charge it has to say {CHARGE}, and nothing else")
      for stage in NO_OBJECT),
    ({"name": "storage"}, "name is 'storage', not what it can be"),
    ({"name": None}, "name is None, not what it can be"),
    ({"ended": 1}, "ended is 1, not what it can be"),
    ({"ended": None}, "ended is None, not what it can be"),
    ({"since_s": None}, "since_s is None, not a number from 0 to 1000000000"),
    ({"asked_s": -1}, "asked_s is -1, not a number from 0 to 1000000000"),
    ({"soc": 100.5}, "soc is 100.5, not a number from 0 to 100"),
    ({"soc": True}, "soc is True, not a number from 0 to 100"),
]  # fmt: skip
NO_WISHES: list[tuple[object, str]] = [
    *((wishes, "of the wishes it has to say max_charge_current, max_discharge_current, and nothing else")
      for wishes in NO_OBJECT),
    ({"max_charge_current": -1}, "max_charge_current is -1, not a number from 0 to 10000"),
    ({"max_discharge_current": 10_001}, "max_discharge_current is 10001, not a number from 0 to 10000"),
    ({"max_discharge_current": "5"}, "max_discharge_current is '5', not a number from 0 to 10000"),
]  # fmt: skip
DAMAGED = [
    *((text, ".+") for text in NO_JSON),
    *((text, "it does not say its version") for text in NO_VERSION),
    *((text_of(version=one), f"it is of version {re.escape(repr(one))}, not 1") for one in OTHER_VERSION),
    (text_of(version="x" * 10_000), "it is of version 'x{39}, not 1"),
    *((text, "it has no packs") for text in NO_PACKS),
    *((json.dumps({"version": 1, "packs": {"good": ENTRY, "bad": entry}}),
       "of a pack it has to say cells, capacity_wh, soc, bms_soc, and nothing else") for entry in NO_PACK),
    *((text_of(**{key: value}), f"{key} is {re.escape(repr(value))}, not a number from 0 to {MOST[key]}")
      for key in ENTRY for value in [*NO_NUMBER, MOST[key] + 1, MOST[key] + 0.001]),
    *((text_of(stage=stage), why) for stage, why in NO_STAGE),
    *((json.dumps({"version": 1, "packs": {}, "wishes": wishes}), why) for wishes, why in NO_WISHES),
    *((json.dumps({"version": 1, "packs": {}, "name": name}), "name is .+, not a text of at most 32 .+")
      for name in (None, 5, ["x"], "x" * 33, "two\nlines", "\0")),
    *((json.dumps({"version": 1, "packs": {}, "instance": number}),
       f"instance is {re.escape(repr(number))}, not a number from 0 to 65535") for number in NO_INSTANCE),
    (text_of(soc="5" * 10_000), "soc is '5{39}, not a number from 0 to 100"),
    (text_of(cells=10**300), "cells is 10{39}, not a number from 0 to 255"),
]  # fmt: skip
"""What is in the file, and what is said of it; what is no JSON in Python's words."""


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(ENTRY)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["version", "packs", "AB12", "stage", "wishes", "name", *ENTRY]),
            inner,
            max_size=5,
        ),
        inner.map(lambda one: {"version": 1, "packs": one}),
        inner.map(lambda one: {"version": 1, "packs": {"AB12": one}}),
    ),
    max_leaves=6,
)


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def ignored(path: Path, why: str) -> None:
    with pytest.raises(ValueError, match="ignored") as raised:
        state.read(path)
    sentence = f"the state file {re.escape(str(path))} {why}: it is ignored"
    assert re.fullmatch(sentence, str(raised.value)), raised.value
    assert len(str(raised.value)) < len(str(path)) + 300


@pytest.mark.parametrize(("text", "why"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    ignored(path, rf"is damaged \({why}\)")


def test_a_file_too_large_for_the_memory_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    text = path.read_text()
    path.write_text(text.ljust(state.LARGEST))
    assert state.read(path) == Saved({"AB12": HOUSE})
    path.write_text(text.ljust(state.LARGEST + 1))
    ignored(path, r"is damaged \(it is larger than 1000000 bytes\)")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file: whoever reads all of it has no memory left
    ignored(path, r"is damaged \(it is larger than 1000000 bytes\)")


@pytest.mark.parametrize("length", range(0, len(text_of()), 7))
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, length: int) -> None:
    path = tmp_path / "state.json"
    path.write_text(text_of()[:length])
    ignored(path, r"is damaged \(.+\)")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", bytes(range(256)), b"\x00" * 4096, b"\xed\xa0\x80"])
def test_a_file_that_is_no_text_is_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(data)
    ignored(path, r"is damaged \(.+\)")


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode), JSON.map(json_bytes)))
def test_whatever_is_in_the_file_is_read_or_ignored(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "state.json"
        path.write_bytes(data)
        saved, said = None, ""
        try:
            saved = state.read(path)
        except ValueError as error:
            said = str(error)
        if saved is None:
            assert said.startswith(f"the state file {path} ")
            assert said.endswith(": it is ignored")
        else:
            state.write(path, saved)
            assert state.read(path) == saved


@pytest.mark.parametrize(
    "odd",
    [
        {"packs": {"AB12": ENTRY, "CD34": ENTRY | {"newer": 1}}},
        {"packs": {"CD34": None, "AB12": ENTRY}},
        {"packs": {"AB12": ENTRY, "CD34": ENTRY | {"stage": {"name": "storage"}}}},
        {"packs": {"AB12": ENTRY}, "instance": "x"},
        {"packs": {"AB12": ENTRY}, "name": 5},
    ],
    ids=["a newer field", "a pack that is none", "another stage", "instance", "name"],
)
def test_one_odd_part_takes_nothing_else_away(tmp_path: Path, odd: dict[str, Any]) -> None:
    """Above all no wish: it keeps a current low."""
    path = tmp_path / "state.json"
    whole = {"version": 1, "name": "Boat", "instance": 7, "wishes": {"max_charge_current": 20.0}}
    path.write_text(json.dumps(whole | odd))
    with pytest.raises(state.DamagedError) as raised:
        state.read(path)
    saved = raised.value.saved
    assert saved.wishes == Wishes(20.0, None)
    assert saved.packs == {"AB12": Pack(HOUSE.counted)}
    assert (saved.name, saved.instance) == ("" if "name" in odd else "Boat", None if "instance" in odd else 7)


def test_odd_wishes_take_no_pack_away(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"version": 1, "wishes": {"max": 1}, "packs": {"AB12": ENTRY}}))
    with pytest.raises(state.DamagedError) as raised:
        state.read(path)
    assert raised.value.saved == Saved({"AB12": Pack(HOUSE.counted)})


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.mkdir()
    ignored(path, r"cannot be read \(Is a directory\)")


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("")
    ignored(tmp_path / "conf" / "state.json", r"cannot be read \(Not a directory\)")


def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    path = tmp_path / "data" / "conf" / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    assert state.read(path) == Saved({"AB12": HOUSE})


def test_what_a_power_cut_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    (tmp_path / "state.json.new").write_text(text_of()[:20])
    assert state.read(path) == Saved({"AB12": HOUSE})
    state.write(path, Saved({"AB12": SHED}))
    assert state.read(path) == Saved({"AB12": SHED})
    assert folder(tmp_path) == {"state.json"}


def test_the_file_is_replaced_never_changed(tmp_path: Path) -> None:
    """Whoever has the old one open goes on reading all of it: it was not written into."""
    path = tmp_path / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    with path.open() as old:
        state.write(path, Saved({"AB12": SHED}))
        assert json.loads(old.read())["packs"]["AB12"]["soc"] == 57.25


@contextlib.contextmanager
def at_most(what: int, number: int) -> Iterator[None]:
    """A limit of this process: bytes of a file, open files."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def unharmed(path: Path) -> None:
    assert state.read(path) == Saved({"AB12": HOUSE})
    assert folder(path.parent) == {path.name}


def test_a_disk_that_gets_full_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    with at_most(resource.RLIMIT_FSIZE, 50), pytest.raises(OSError, match="File too large"):
        state.write(path, Saved({"AB12": SHED}))
    unharmed(path)


def test_a_file_that_cannot_be_opened_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    with at_most(resource.RLIMIT_NOFILE, 0), pytest.raises(OSError, match="Too many open files"):
        state.write(path, Saved({"AB12": SHED}))
    unharmed(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"AB12": HOUSE}))
    (tmp_path / "state.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        state.write(path, Saved({"AB12": SHED}))
    unharmed(path)


def test_a_folder_in_the_files_place_stays_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        state.write(path, Saved({"AB12": SHED}))
    assert path.is_dir()
    assert folder(tmp_path) == {"state.json"}


def test_a_file_in_the_folders_place_stays(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("mine")
    with pytest.raises(FileExistsError):
        state.write(tmp_path / "conf" / "state.json", Saved({"AB12": SHED}))
    assert (tmp_path / "conf").read_text() == "mine"


# The driver


def test_it_is_written_rarely() -> None:
    """Flash wears out: not more than 100 times a day."""
    assert 100 * STATE_S >= 86_400


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[rig.Daemon]:
    with rig.daemon(tmp_path) as daemon:
        yield daemon


FULL = {"lowest_mv": 3400, "highest_mv": 3410}
"""At Vbalance: by the table of A in normal mode 100 %, while the BMS still says 50 %."""
OPTIONS = ("--set", "pack.generation=A", "--set", "pack.mode=normal", "--set", "link.hold_s=30")


COUNTED = Counted(16, 16_000, 100.0, 50.0)
"""What is saved of that."""


async def socs(bus: rig.Daemon) -> tuple[float, float]:
    """The BMS's and the mirror's state of charge on the bus."""
    async with rig.Client(bus.address, SERVICE) as client:
        return await client.get("/Soc"), await client.get("/SmartBms/Mirror/Soc")


async def test_the_mirrors_soc_outlives_the_driver_and_soc_stays_the_bmss(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    path = tmp_path / "data" / "state.json"
    with rig.driver(tmp_path, bus.address, *OPTIONS, "--state", str(path)) as driver:
        await driver.ready(**FULL)
        assert await socs(bus) == (50.0, 100.0)
    assert {cable: pack.counted for cable, pack in state.read(path).packs.items()} == {"tty": COUNTED}
    for options, mirrors in ((("--state", str(path)), 100.0), ((), 50.0)):
        with rig.driver(tmp_path, bus.address, *OPTIONS, *options) as driver:
            await driver.ready()
            assert await socs(bus) == (50.0, mirrors), options
            assert "state file" not in driver.log


async def test_wishes_and_charge_to_full_outlive_the_driver(tmp_path: Path, bus: rig.Daemon) -> None:
    """Not only its end: a write is kept at once, for the power may go."""
    path, controls = tmp_path / "state.json", "/SwitchableOutput"
    with rig.driver(tmp_path, bus.address, "--state", str(path)) as driver:
        await driver.ready()
        async with rig.Client(bus.address, SERVICE) as client:
            assert await client.write(f"{controls}/max_discharge_current/Dimming", {"d": 55.5}) == 0
            assert await client.write(f"{controls}/charge_to_full/State", {"i": 1}) == 0
            await rig.until(lambda: path.exists() and state.read(path).wishes == Wishes(None, 55.5))
    with rig.driver(tmp_path, bus.address, "--state", str(path)) as driver:
        await driver.ready()
        async with rig.Client(bus.address, SERVICE) as client:
            assert await client.get(f"{controls}/max_discharge_current/Dimming") == 55.5
            assert await client.get(f"{controls}/charge_to_full/State") == 1
    assert state.read(path).packs["tty"].stage.asked_s is not None


async def test_what_was_saved_of_another_pack_is_kept(tmp_path: Path, bus: rig.Daemon) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"shed": SHED}))
    with rig.driver(tmp_path, bus.address, *OPTIONS, "--state", str(path)) as driver:
        await driver.ready(**FULL)
        assert await socs(bus) == (50.0, 100.0)
    packs = state.read(path).packs
    assert (packs["shed"], packs["tty"].counted, len(packs)) == (SHED, COUNTED, 2)


async def test_a_damaged_state_file_is_said_once_and_replaced_at_the_end(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    path = tmp_path / "state.json"
    path.write_text(text_of(soc=-1))
    with rig.driver(tmp_path, bus.address, *OPTIONS, "--state", str(path)) as driver:
        await driver.ready(**FULL)
        assert await socs(bus) == (50.0, 100.0)
    assert driver.process.text.count(str(path)) == 1
    assert (
        f"WARNING the state file {path} is damaged (soc is -1, not a number from 0 to 100): it is ignored"
        in driver.process.text.splitlines()
    )
    assert {cable: pack.counted for cable, pack in state.read(path).packs.items()} == {"tty": COUNTED}


async def test_a_state_file_that_cannot_be_written_is_said_and_the_status_is_0(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    path = tmp_path / "state.json"
    state.write(path, Saved({"tty": HOUSE}))
    (tmp_path / "state.json.new").symlink_to("/dev/full")
    with rig.driver(tmp_path, bus.address, *OPTIONS, "--state", str(path)) as driver:
        await driver.ready(**FULL)
    lines = [line for line in driver.process.text.splitlines() if "state file" in line]
    assert len(lines) == 1
    assert lines[0].startswith("WARNING ")
    assert str(path) in lines[0]
    assert "cannot be written" in lines[0]
    assert "No space left on device" in lines[0]
    assert state.read(path) == Saved({"tty": HOUSE})


async def test_without_frames_the_state_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with rig.driver(tmp_path, "unix:path=/nowhere", "--state", str(path)) as driver:
        await driver.logged("reading ")
    assert not path.exists()
    state.write(path, Saved({"tty": HOUSE}))
    before = written(path)
    with rig.driver(tmp_path, "unix:path=/nowhere", "--state", str(path)) as driver:
        await driver.logged("reading ")
    assert written(path) == before


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_state_file_that_is_a_folder_is_refused(name: str) -> None:
    ended = subprocess.run(
        [*rig.PROGRAM, "run", "--state", name],
        capture_output=True,
        text=True,
        timeout=rig.PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert f"argument --state: {name!r} is not the name of a file" in ended.stderr


RUN = """import sys
from dbus_smartbms import cli, driver
status = cli.main(sys.argv[1:])
sys.exit(status)
"""
WATCHED = """import os, sys
status = None
def note(event, args):
    if status is not None:
        return
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(2, f"opened {args[0]}\\n".encode())
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link"):
        os.write(2, f"{event} {args[0]}\\n".encode())
sys.addaudithook(note)
"""
"""Notes in the log whatever is opened to be written, made, moved or removed, until the driver has ended."""
NO_PAUSE = "driver.STATE_S = driver.AGAIN_S = 0.01; driver.WISH_S = 0.01, 0.01\n"
HURRIED = RUN.replace("status", NO_PAUSE + "status", 1)
"""The driver with no time between two writings of its state file."""


@contextlib.contextmanager
def process(
    code: str, folder: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], rig.Line, Path]]:
    """A process that runs the driver its own way, its line, its log; no bus."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere",
    }  # fmt: skip
    log = folder / "process.log"
    with rig.Line(folder / "tty") as line, log.open("wb") as out:
        command = [sys.executable, "-c", code, "run", "--device", str(line.path), *options]
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        try:
            yield started, line, log
        finally:
            if started.poll() is None:
                started.kill()
            started.wait()


async def test_between_two_ends_it_is_written_now_and_then_but_not_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with process(HURRIED, tmp_path, *OPTIONS, "--state", str(path)) as (driver, line, log):
        await rig.until(lambda: "reading " in log.read_text())
        await line.pour(rig.frame(0), rig.frame(1, **FULL))
        await rig.until(
            lambda: path.exists() and [pack.counted for pack in state.read(path).packs.values()] == [COUNTED]
        )
        before = written(path)
        await line.pour(rig.frame(2, **FULL))  # nothing of it is new
        await rig.until(lambda: "DCL 303.0" in log.read_text())
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(rig.PATIENCE_S) == 0
    assert written(path) == before


async def test_a_state_file_that_can_never_be_written_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    (tmp_path / "state.json.new").mkdir()
    with process(WATCHED + HURRIED, tmp_path, *OPTIONS, "--state", str(path)) as (driver, line, log):
        await rig.until(lambda: "reading " in log.read_text())
        await line.pour(rig.frame(0))
        await rig.until(lambda: log.read_text().count(f"opened {path}.new") > 5)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(rig.PATIENCE_S) == 0
    assert log.read_text().count("cannot be written") == 1
    assert folder(tmp_path) == {"state.json.new", "process.log"}


@pytest.mark.parametrize("kept", [False, True])
async def test_without_a_state_file_nothing_is_written_anywhere(tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "state.json"
    options = ("--state", str(path)) if kept else ()
    with process(WATCHED + RUN, tmp_path, *options) as (driver, line, log):
        await rig.until(lambda: "reading " in log.read_text())
        await line.pour(*(rig.frame(turn) for turn in range(4)))
        await rig.until(lambda: "DCL 303.0" in log.read_text())
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(rig.PATIENCE_S) == 0
        tty = str(line.path)
    lines = log.read_text().splitlines()
    touched = {
        text for text in lines if text.startswith(("opened ", "os.")) and not text.endswith("coverage")
    }
    mine = {f"os.mkdir {tmp_path}", f"opened {path}.new", f"os.rename {path}.new"}
    assert touched == {f"opened {tty}"} | (mine if kept else set())
    assert path.exists() is kept
