"""Starts that did not end in order: how they are counted, what is made of any file, what a driver does then.

The driver is a process on a real line and a real bus; where time has to pass, the file is written beforehand.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rig
from dbus_smartbms import starts
from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration, load
from dbus_smartbms.rules import Wishes
from dbus_smartbms.settings import Settings, after_restarts
from dbus_smartbms.starts import CALM_S, LARGEST

BANK = "com.victronenergy.battery.smartbms"
CCL, DCL = "/Info/MaxChargeCurrent", "/Info/MaxDischargeCurrent"
CAREFUL = "0.1 C of 303 Ah: the driver was restarted again and again"
TOO_MANY = (
    "The driver was restarted 3 times within 5 minutes: "
    "CCL and DCL are at most 0.1 C until it has run for 10 minutes"
)
MAXIMUM = "/SwitchableOutput/max_charge_current/Dimming"


# Counting


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((), 1000.0, 1),
        ((900.0,), 1000.0, 2),
        ((900.0, 950.0), 1000.0, 3),
        ((700.0, 950.0), 1000.0, 3),
        ((699.999, 950.0), 1000.0, 2),
        ((0.0, 300.0), 600.0, 2),
    ],
)
def test_three_restarts_within_five_minutes_are_too_many(
    before: tuple[float, ...], now: float, expected: int
) -> None:
    """Exactly five minutes are within, a millisecond more is not; older ones are forgotten."""
    restarts = starts.counted(starts.Found(before, unended=True), now)
    assert len(restarts) == expected
    assert restarts[-1] == now


def test_a_start_after_an_end_in_order_is_no_restart() -> None:
    assert starts.counted(starts.Found((900.0, 950.0)), 1000.0) == (900.0, 950.0)
    assert starts.counted(starts.Found(), 1000.0) == ()


def test_too_many_stay_too_many_until_a_calm_run() -> None:
    """A driver that crashes every nine minutes would else be free at each second start."""
    many = (900.0, 950.0, 1000.0)
    assert starts.counted(starts.Found(many, unended=True), 1540.0) == many
    assert starts.counted(starts.Found(many), 99_999.0) == many, "and an end in order is no way past it"
    just = (100.0, 200.0, 400.0)
    assert starts.counted(starts.Found(just), 401.0) == just


def test_two_restarts_are_forgotten_after_five_minutes() -> None:
    assert starts.counted(starts.Found((700.0, 701.0)), 1000.0) == (700.0, 701.0)
    assert starts.counted(starts.Found((699.9, 701.0)), 1000.0) == (701.0,)
    assert starts.counted(starts.Found((699.8, 699.9)), 1000.0) == ()


def test_the_memory_stays_small() -> None:
    text, sizes = "", []
    for number in range(1000):
        restarts = starts.counted(starts.read(text, float(number)), float(number))
        text = "".join(f"restarted {at}\n" for at in restarts) + f"started {number}\n"
        sizes.append(len(text.splitlines()))
    assert max(sizes) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", starts.Found()),
        ("started 900\n", starts.Found((), unended=True)),
        ("started 1000\n", starts.Found((), unended=True)),
        ("started 1000.001\n", starts.Found()),
        ("restarted 950\nrestarted 900.5\n", starts.Found((900.5, 950.0))),
        ("restarted 1000.001\nrestarted 1000\n", starts.Found((1000.0,))),
        ("restarted 900\nstarted 950\n", starts.Found((900.0,), unended=True)),
        ("restarted\n", starts.Found((), unended=True)),
        ("restarted nan\n", starts.Found((), unended=True)),
        ("restarted inf\n", starts.Found()),
        ("restarted -1\n", starts.Found((), unended=True)),
        ("restarted 0\nrestarted 0.5\n", starts.Found((0.0, 0.5))),
        ("ended 900\n", starts.Found((), unended=True)),
        ("\0\0\0", starts.Found((), unended=True)),
        ("restarted 900\n?\n", starts.Found((900.0,), unended=True)),
    ],
)
def test_what_a_file_says(text: str, expected: starts.Found) -> None:
    """At 1000 s: what is later is of another boot; damage is one end that was not in order."""
    assert starts.read(text, 1000.0) == expected


@given(st.text(), st.floats(0, 1e9))
def test_any_text_is_read_and_damage_alone_is_never_too_many(text: str, now: float) -> None:
    found = starts.read(text, now)
    assert all(0 <= at <= now for at in found.restarts)
    assert len(starts.counted(found, now)) <= 3
    if "restarted" not in text:
        assert len(starts.counted(found, now)) <= 1


# The file


def crash(folder: Path, *times: float) -> starts.Starts:
    """Drivers that started at these times, and none of them ended in order but maybe the last."""
    for at in times:
        one = starts.Starts(folder)
        one.begin(at)
    return one


def test_the_first_and_two_restarts_are_free_the_third_is_not(tmp_path: Path) -> None:
    assert not crash(tmp_path, 100.0).too_many
    assert not crash(tmp_path, 110.0).too_many
    assert not crash(tmp_path, 120.0).too_many
    assert crash(tmp_path, 130.0).too_many
    assert (tmp_path / "starts").read_text() == (
        "restarted 110.000\nrestarted 120.000\nrestarted 130.000\nstarted 130.000\n"
    )


def test_how_long_a_run_was_before_the_first_crash_does_not_matter(tmp_path: Path) -> None:
    assert crash(tmp_path, 100.0, 90_000.0, 90_100.0, 90_300.0).too_many


def test_ends_in_order_leave_nothing_and_count_nothing(tmp_path: Path) -> None:
    for at in range(10):
        one = starts.Starts(tmp_path)
        one.begin(float(at))
        one.end()
        assert not one.too_many
        assert not any(tmp_path.iterdir())
    crash(tmp_path, 10.0, 11.0, 12.0).end()
    assert not crash(tmp_path, 13.0).too_many, "two restarts, and a start after an end in order"
    assert crash(tmp_path, 14.0).too_many


def test_a_calm_run_forgets_all_to_the_millisecond(tmp_path: Path) -> None:
    one = crash(tmp_path, 100.0, 110.0, 120.0, 130.0)
    one.tick(130.0 + CALM_S - 0.001)
    assert one.too_many
    one.tick(130.0 + CALM_S)
    assert not one.too_many
    assert (tmp_path / "starts").read_text() == "started 130.000\n"
    assert not crash(tmp_path, 131.0 + CALM_S).too_many
    assert not crash(tmp_path, 132.0 + CALM_S).too_many


def test_a_crash_before_ten_calm_minutes_begins_them_anew(tmp_path: Path) -> None:
    crash(tmp_path, 100.0, 110.0, 120.0, 130.0)
    again = crash(tmp_path, 129.0 + CALM_S)
    assert again.too_many
    again.tick(130.0 + CALM_S)
    assert again.too_many
    again.tick(129.0 + 2 * CALM_S)
    assert not again.too_many


def damage(path: Path, kind: str) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        path.write_text("restarted 1\n" * (LARGEST // 12 + 1))
    else:
        path.write_bytes(bytes(range(256)))


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link", "huge", "bytes"])
def test_damage_is_no_reason_to_be_careful_and_heals(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / "starts", kind)
    assert not crash(tmp_path, 100.0).too_many
    if kind == "a folder":
        assert [record.message for record in caplog.records] == [
            f"{tmp_path} cannot be written (Is a directory): restarts are not counted"
        ]
        (tmp_path / "starts").rmdir()
    assert not crash(tmp_path, 110.0).too_many
    assert crash(tmp_path, 120.0, 130.0, 140.0).too_many
    assert {path.name for path in tmp_path.iterdir()} == {"starts"}


def test_a_file_as_large_as_ours_may_be_is_read(tmp_path: Path) -> None:
    text = "restarted 90\nrestarted 91\nrestarted 92\n"
    (tmp_path / "starts").write_text(text + "\n" * (LARGEST - len(text)))
    assert crash(tmp_path, 100.0).too_many
    (tmp_path / "starts").write_text(text + "\n" * (LARGEST - len(text) + 1))
    assert not crash(tmp_path, 100.0).too_many


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("")
    one = crash(tmp_path / "run", 100.0)
    one.end()
    assert not one.too_many
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.message == f"{tmp_path / 'run'} cannot be written (File exists): restarts are not counted"


def test_a_folder_that_goes_while_it_runs_is_made_again_and_an_end_in_order_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = crash(tmp_path / "run", 100.0, 110.0, 120.0, 130.0)
    (tmp_path / "run" / "starts").unlink()
    (tmp_path / "run").rmdir()
    one.tick(130.0 + CALM_S)
    assert lines(tmp_path / "run") == ["started"]
    (tmp_path / "run" / "starts").unlink()
    (tmp_path / "run").rmdir()
    one.end()
    assert caplog.records == []


# The cap


@given(
    rate=st.floats(0, 5), other=st.floats(0, 5), most=st.none() | st.floats(0, 10_000),
    careful=st.sampled_from([frozenset[str](), frozenset({"charge_rate"})]),
)  # fmt: skip
def test_careful_settings_raise_nothing(
    rate: float, other: float, most: float | None, careful: frozenset[str]
) -> None:
    before = Settings(charge_rate=rate, discharge_rate=other, max_charge_current=most, careful=careful)
    after = after_restarts(before)
    assert after.charge_rate == min(rate, 0.1)
    assert after.discharge_rate == min(other, 0.1)
    assert after.max_charge_current == most
    assert after.careful == {"charge_rate", "discharge_rate"}


class Packs:
    """A bank that is told of restarts before its first frame, fed with a frame of each pack a second."""

    def __init__(self, names: str, *options: str, restarted: bool = True, **changes: Any) -> None:
        self.bank = Bank(load(None, list(options)))
        self.bank.restarted = restarted
        self.names, self.changes, self.now = names, changes, 1000.0

    def run(self, seconds: int) -> list[tuple[int, int]]:
        """CCL and DCL after each second."""
        seen = []
        for _ in range(seconds):
            self.now += 1.0
            for name in self.names:
                self.bank.take(name, rig.frame(int(self.now), **self.changes), self.now)
            assert self.bank.limits is not None
            seen.append((self.bank.limits.ccl_ma, self.bank.limits.dcl_ma))
        return seen

    @property
    def reasons(self) -> tuple[str, str]:
        assert self.bank.limits is not None
        return self.bank.limits.ccl_reason, self.bank.limits.dcl_reason


@pytest.mark.parametrize("names", ["a", "ab", "abcd"])
def test_the_whole_bank_has_a_tenth_of_its_capacity(names: str) -> None:
    packs = Packs(names)
    tenth = len(names) * 30_303
    seen = packs.run(100)
    assert max(seen) == seen[-1]
    assert all(tenth - len(names) <= amount <= tenth for amount in seen[-1])
    assert all("Ah: the driver was restarted again and again" in reason for reason in packs.reasons)


@pytest.mark.parametrize("names", ["a", "ab", "abcd"])
def test_when_it_is_lifted_limits_rise_by_the_ramp(names: str) -> None:
    """Not at the tick that lifts it, not with the next frame: in steps of 30 s, all in ten minutes."""
    packs = Packs(names)
    before = packs.run(20)[-1]
    packs.bank.restarted = False
    packs.bank.look_again(packs.now + 0.5)
    assert packs.bank.limits is not None
    assert (packs.bank.limits.ccl_ma, packs.bank.limits.dcl_ma) == before
    seen = [before, *packs.run(700)]
    for way, full in enumerate((151_515 * len(names), 303_030 * len(names))):
        amounts = [limits[way] for limits in seen]
        assert amounts == sorted(amounts)
        assert amounts[25] == amounts[0], "it stood for less than 30 s"
        steps = [after - one for one, after in pairwise(amounts)]
        assert max(steps) <= full * 32 / 600
        assert full - len(names) <= amounts[-1] <= full
        assert sum(step > 0 for step in steps) >= 15
    assert all("restarted" not in reason for reason in packs.reasons)


def test_it_lasts_when_the_configuration_is_read_again_and_raises_nothing() -> None:
    packs = Packs("a", "limits.max_charge_current=20", "limits.discharge_rate=0.05")
    assert packs.run(10)[-1] == (20_000, 15_151)
    packs.bank.configuration = Configuration(Settings(max_charge_current=500.0))
    packs.bank.look_again(packs.now)
    assert packs.run(700)[-1] == (30_303, 30_303)
    packs.bank.wishes = Wishes(10.0, None)
    assert packs.run(5)[-1] == (10_000, 30_303)


def test_a_bank_that_was_not_restarted_is_not_touched() -> None:
    packs = Packs("ab", restarted=False)
    assert packs.run(10)[-1] == (303_030, 606_060)
    assert packs.bank.settings is packs.bank.configuration.settings


def test_a_wish_may_be_for_all_that_is_configured() -> None:
    """What is kept of a wish is not judged by a cap that passes: else it would be lost with it."""
    packs = Packs("a")
    packs.run(5)
    assert [cap.amount for cap in packs.bank.caps] == [151_515, 303_030]


# The driver


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[rig.Daemon]:
    with rig.daemon(tmp_path) as daemon:
        yield daemon


def before(folder: Path, *ages_s: float) -> Path:
    """A folder in which drivers have restarted so long ago, the last of which did not end in order."""
    now = time.monotonic()
    runtime = folder / "run"
    runtime.mkdir()
    lines = [f"restarted {now - age:.3f}\n" for age in ages_s]
    (runtime / "starts").write_text("".join(lines) + f"started {now - ages_s[-1]:.3f}\n")
    return runtime


def lines(runtime: Path) -> list[str]:
    """The first words of the lines of the file."""
    file = runtime / "starts"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


async def test_the_third_restart_is_careful_says_so_and_a_hangup_changes_nothing(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    runtime, file = before(tmp_path, 250.0, 100.0), tmp_path / "bms.ini"
    file.write_text("[limits]\ncharge_rate = 0.4\n")
    options = ("--runtime", str(runtime), "--config", str(file))
    with rig.driver(tmp_path, bus.address, *options) as driver:
        await driver.ready()
        assert driver.log.count(f"WARNING {TOO_MANY}\n") == 1
        async with rig.Client(bus.address, BANK) as client:
            assert (await client.get(CCL), await client.get(DCL)) == (30.3, 30.3)
            assert await client.get("/Info/ChargeLimitation") == CAREFUL
            assert await client.get("/Info/DischargeLimitation") == CAREFUL
            assert await client.get("/ConnectionInformation") == TOO_MANY
            assert await client.get("/SmartBms/Configuration/Errors") == 0
            assert await client.write(MAXIMUM, {"d": 80.0}) == 0
            file.write_text("[limits]\ncharge_rate = 2\n")
            driver.process.process.send_signal(signal.SIGHUP)
            await driver.logged("the configuration was read again")
            await driver.line.pour(*(rig.frame(turn) for turn in range(4, 40)))
            assert (await client.get(CCL), await client.get(DCL)) == (30.3, 30.3)
            assert await client.get(MAXIMUM) == 80.0
        assert lines(runtime) == ["restarted"] * 3 + ["started"]
    assert lines(runtime) == ["restarted"] * 3, "ended in order, but not calm yet"


@pytest.mark.parametrize("ages_s", [(50.0,), (301.0, 100.0)])
async def test_fewer_restarts_or_slower_ones_are_free(
    tmp_path: Path, bus: rig.Daemon, ages_s: tuple[float, ...]
) -> None:
    runtime = before(tmp_path, *ages_s)
    with rig.driver(tmp_path, bus.address, "--runtime", str(runtime)) as driver:
        await driver.ready()
        async with rig.Client(bus.address, BANK) as client:
            assert (await client.get(CCL), await client.get(DCL)) == (151.5, 303.0)
            assert await client.get("/ConnectionInformation") == ""


async def test_kills_are_counted_and_ends_in_order_are_not(tmp_path: Path, bus: rig.Daemon) -> None:
    runtime = tmp_path / "new" / "run"
    options = ("--runtime", str(runtime))
    for number in (signal.SIGTERM, signal.SIGINT):
        with rig.driver(tmp_path, bus.address, *options) as driver:
            await driver.logged("reading ")
            assert lines(runtime) == ["started"]
            assert driver.process.end(number) == 0
        assert lines(runtime) == []
    for killed in range(3):
        one = rig.Driver(tmp_path, bus.address, *options)
        try:
            await one.logged("reading ")
            assert one.process.end(signal.SIGKILL) == -signal.SIGKILL
            assert TOO_MANY not in one.process.text
        finally:
            one.process.kill()
            one.line.unplug()
        assert lines(runtime) == ["restarted"] * killed + ["started"]
    with rig.driver(tmp_path, bus.address, *options) as driver:
        await driver.ready()
        assert TOO_MANY in driver.log
        async with rig.Client(bus.address, BANK) as client:
            assert (await client.get(CCL), await client.get(DCL)) == (30.3, 30.3)


RUN = "import sys\nfrom dbus_smartbms import cli, starts\n{}sys.exit(cli.main(sys.argv[1:]))\n"
FAULT = """def take(self, cable, frame, now): raise ValueError('a fault of ours')
from dbus_smartbms import bank
bank.Bank.take = take
"""
HANG = """def take(self, cable, frame, now): time.sleep(60)
import time
from dbus_smartbms import bank, watchdog
watchdog.pat.__defaults__ = watchdog.start.__defaults__ = (4.0,)
bank.Bank.take = take
"""
"""The watchdog's patience is less, but more than a second, the time between two ticks."""
CALM = "from dbus_smartbms import driver\nstarts.CALM_S = 2.0\n"


@contextlib.contextmanager
def changed(
    change: str, folder: Path, address: str, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], rig.Line, Callable[[], str]]]:
    """The driver as a process in which something is changed, its line, its log."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "DBUS_SESSION_BUS_ADDRESS": address,
    }  # fmt: skip
    log = folder / "changed.log"
    with rig.Line(folder / "tty") as line, log.open("wb") as out:
        command = [sys.executable, "-c", RUN.format(change), "run", "--device", str(line.path), *options]
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        try:
            yield started, line, log.read_text
        finally:
            print(log.read_text())  # shown when the test fails
            if started.poll() is None:
                started.kill()
            started.wait()


@pytest.mark.parametrize(("change", "status"), [(FAULT, 1), (HANG, -signal.SIGALRM)], ids=["fault", "hang"])
async def test_a_fault_and_the_watchdog_are_no_end_in_order(tmp_path: Path, change: str, status: int) -> None:
    runtime = tmp_path / "run"
    with changed(change, tmp_path, "unix:path=/nowhere", "--runtime", str(runtime)) as (driver, line, log):
        await rig.until(lambda: "reading " in log())
        await line.pour(rig.frame())
        await rig.until(lambda: driver.poll() is not None)
        assert driver.returncode == status
    assert lines(runtime) == ["started"]


async def test_after_a_calm_run_it_says_so_forgets_and_limits_rise_slowly(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    runtime = before(tmp_path, 250.0, 100.0)
    with changed(CALM, tmp_path, bus.address, "--runtime", str(runtime)) as (driver, line, log):
        await rig.until(lambda: "reading " in log())
        await line.pour(*(rig.frame(turn) for turn in range(4)))
        await rig.until(lambda: "on the bus" in log())
        async with rig.Client(bus.address, BANK) as client:
            said = await client.get("/ConnectionInformation")
            assert said == TOO_MANY or "CCL and DCL rise again slowly" in log()
            await rig.until(lambda: "CCL and DCL rise again slowly" in log())
            assert lines(runtime) == ["started"]
            assert await client.get("/ConnectionInformation") == ""
            await line.pour(*(rig.frame(turn) for turn in range(4, 8)))

            async def rising() -> bool:
                return bool(await client.get("/Info/ChargeLimitation") == "rises slowly again to 152 A")

            await rig.until(rising)
            assert (await client.get(CCL), await client.get(DCL)) == (30.3, 30.3)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(rig.PATIENCE_S) == 0
    assert lines(runtime) == []


async def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, bus: rig.Daemon) -> None:
    runtime = tmp_path / "file"
    runtime.write_text("")
    with rig.driver(tmp_path, bus.address, "--runtime", str(runtime)) as driver:
        await driver.ready()
        async with rig.Client(bus.address, BANK) as client:
            assert await client.get(CCL) == 151.5
        driver.process.process.send_signal(signal.SIGUSR1)
        await driver.logged(f"the capture {runtime / 'capture.jsonl'} cannot be written: ")
    text = driver.process.text
    assert text.count(f"{runtime} cannot be written (File exists): restarts are not counted") == 1


async def test_a_damaged_file_stops_nothing(tmp_path: Path, bus: rig.Daemon) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    damage(runtime / "starts", "bytes")
    with rig.driver(tmp_path, bus.address, "--runtime", str(runtime)) as driver:
        await driver.ready()
        async with rig.Client(bus.address, BANK) as client:
            assert await client.get(CCL) == 151.5
        assert lines(runtime) == ["restarted", "started"]
