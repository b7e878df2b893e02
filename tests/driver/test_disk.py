"""Full and read-only disks, and a log that nobody takes: the real things, around the driver as a process.

The disk is a tmpfs in a mount namespace of the driver's own, reached from here through /proc/PID/root: that
takes root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms import state
from dbus_smartbms.rules import Wishes

BANK = "com.victronenergy.battery.smartbms"
CCL, VOLTAGE = "/Info/MaxChargeCurrent", "/Dc/0/Voltage"
MAXIMUM = "/SwitchableOutput/max_charge_current/Dimming"
HURRIED = """import sys
from dbus_smartbms import cli, driver
driver.STATE_S, driver.AGAIN_S, driver.WISH_S = 0.05, 0.05, (0.01, 0.01)
sys.exit(cli.main(sys.argv[1:]))
"""
"""The driver with no time between two writings of its state file."""


def _may_mount() -> bool:
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


mounts = pytest.mark.skipif(not _may_mount(), reason="no mount namespaces here: that takes root")


class Disk:
    """A small tmpfs at ``folder``, in the namespace of a process alone."""

    def __init__(self, folder: Path, size: str = "64k") -> None:
        self.folder, self.size = folder, size
        folder.mkdir()
        self.pid = 0

    def around(self, *command: str) -> list[str]:
        """The command, in a namespace with this disk."""
        script = f'mount -t tmpfs -o size={self.size},nr_inodes=50 none {self.folder} && exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, "sh", *command]

    @property
    def inside(self) -> Path:
        """The folder as the process sees it."""
        return Path(f"/proc/{self.pid}/root{self.folder}")

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.inside / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))

    def free(self) -> None:
        (self.inside / "fill").unlink()

    def remount(self, how: str) -> None:
        command = ["nsenter", "-t", str(self.pid), "-m", "mount", "-o", f"remount,{how}", str(self.folder)]
        subprocess.run(command, check=True)


class Run:
    """The driver on a line and a bus, its log in a file or where ``errors`` leads."""

    def __init__(
        self, command: list[str], folder: Path, address: str, *options: str, errors: int = -1
    ) -> None:
        self.log = folder / "driver.log"
        self.line = rig.Line(folder / "tty")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path), "DBUS_SESSION_BUS_ADDRESS": address,
        }  # fmt: skip
        with self.log.open("wb") as log:
            to = log.fileno() if errors < 0 else errors
            self.process = subprocess.Popen(
                [*command, "run", "--device", str(self.line.path), *options],
                stdin=subprocess.DEVNULL, stdout=to, stderr=to, env=environment,
            )  # fmt: skip

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        print(self.log.read_text())  # shown when the test fails
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.line.unplug()

    @property
    def text(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        return self.log.read_text()

    async def logged(self, words: str, times: int = 1) -> None:
        await rig.until(lambda: self.text.count(words) >= times)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(rig.PATIENCE_S)


async def shows(client: rig.Client, path: str, value: Any) -> bool:
    return bool(await client.get(path) == value)


async def drives(run: Run, client: rig.Client) -> None:
    """Frames reach the bus: the first and the next.  No log need tell when it begins to read."""

    async def on_the_bus() -> bool:
        await run.line.pour(rig.frame(1))
        return await client.owner() is not None

    await rig.until(on_the_bus)
    await run.line.pour(*(rig.frame(turn) for turn in range(4)))
    await rig.until(lambda: shows(client, CCL, 151.5))
    for turn, voltage_mv in enumerate((53000, 52500, 53000), 4):
        await run.line.pour(rig.frame(turn, voltage_mv=voltage_mv))
        await rig.until(lambda: shows(client, VOLTAGE, voltage_mv / 1000))  # noqa: B023  awaited here


@mounts
async def test_on_a_full_and_on_a_read_only_disk_it_drives_says_so_once_each_and_loses_nothing(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    disk = Disk(tmp_path / "data")
    file = disk.folder / "state.json"
    command = disk.around(sys.executable, "-c", HURRIED)
    with Run(command, tmp_path, bus.address, "--state", str(file)) as run:
        disk.pid = run.process.pid
        await run.logged("reading ")
        async with rig.Client(bus.address, BANK) as client:
            await drives(run, client)
            await rig.until((disk.inside / "state.json").exists)
            old = (disk.inside / "state.json").read_text()

            disk.fill()
            assert await client.write(MAXIMUM, {"d": 80.0}) == 0
            await run.logged("cannot be written")
            for amps in range(70, 30, -1):
                assert await client.write(MAXIMUM, {"d": float(amps)}) == 0
                await run.line.pour(rig.frame(amps))
                await rig.until(lambda: shows(client, CCL, float(amps)))  # noqa: B023  awaited here
            said = [line for line in run.text.splitlines() if "state file" in line]
            assert len(said) == 1, said
            assert said[0].startswith(
                f"WARNING the state file {file} cannot be written, which is tried again: "
            )
            assert "No space left on device" in said[0]
            assert (disk.inside / "state.json").read_text() == old, "the old one is whole"

            disk.free()
            await run.logged(f"INFO the state file {file} is written again")
            await rig.until(lambda: state.read(disk.inside / "state.json").wishes == Wishes(31.0, None))

            disk.remount("ro")
            assert await client.write(MAXIMUM, {"d": 25.0}) == 0
            await run.logged("Read-only file system")
            await run.line.pour(rig.frame(80, voltage_mv=52000))
            await rig.until(lambda: shows(client, VOLTAGE, 52.0))
            assert run.text.count("cannot be written") == 2
            disk.remount("rw")
            await run.logged("is written again", 2)
            await rig.until(lambda: state.read(disk.inside / "state.json").wishes == Wishes(25.0, None))
            assert state.read(disk.inside / "state.json").packs.keys() == {"tty"}
        assert run.end() == 0
    assert "Traceback" not in run.log.read_text()


@mounts
@pytest.mark.parametrize("how", ["full", "read-only"])
async def test_a_disk_that_is_so_from_the_start_to_the_end_stops_nothing(
    tmp_path: Path, bus: rig.Daemon, how: str
) -> None:
    """State, restarts and captures all on it, nothing of which is there yet."""
    disk = Disk(tmp_path / "data")
    data, runtime = disk.folder / "conf" / "state.json", disk.folder / "run"
    shut = {
        "full": f"dd if=/dev/zero of={disk.folder}/fill bs=512 2>/dev/null; n=0; "
        f"while touch {disk.folder}/$n; do n=$((n+1)); done 2>/dev/null;",
        "read-only": f"mount -o remount,ro {disk.folder} &&",
    }[how]
    command = disk.around("sh", "-c", f'{shut} exec "$@"', "sh", sys.executable, "-c", HURRIED)
    options = ("--state", str(data), "--runtime", str(runtime))
    with Run(command, tmp_path, bus.address, *options) as run:
        disk.pid = run.process.pid
        await run.logged("reading ")
        async with rig.Client(bus.address, BANK) as client:
            await drives(run, client)
        run.process.send_signal(signal.SIGUSR1)
        await run.logged("capture.jsonl cannot be written: ")
        await run.logged("the state file")
        why = os.strerror({"full": errno.ENOSPC, "read-only": errno.EROFS}[how])
        assert f"{runtime} cannot be written ({why}): restarts are not counted" in run.text
        assert run.end() == 0
    text = run.log.read_text()
    assert "Traceback" not in text
    assert text.count("restarts are not counted") == text.count("the state file") == 1


# A log that nobody takes


def full_pipe() -> tuple[int, int]:
    """Its ends; not one byte more goes in."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\0")
    os.set_blocking(writer, True)
    return reader, writer


async def chatter(run: Run, client: rig.Client) -> None:
    """What makes it log, again and again; each time it goes on."""
    for turn in range(10, 40):
        denied = turn % 2
        await run.line.pour(rig.frame(turn, status=0b10 if denied else 0b11))
        await rig.until(lambda: shows(client, "/Io/AllowToCharge", 0) if denied else True)  # noqa: B023
        run.process.send_signal(signal.SIGHUP)
        run.process.send_signal(signal.SIGUSR1)
    await run.line.pour(*(rig.frame(turn, voltage_mv=51000) for turn in range(40, 44)))
    await rig.until(lambda: shows(client, VOLTAGE, 51.0))
    await rig.until(lambda: shows(client, "/Io/AllowToCharge", 1))


@pytest.mark.parametrize("there", [True, False], ids=["stuck", "dead"])
async def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path: Path, bus: rig.Daemon, there: bool) -> None:
    """The pipe is full from the first line on; or whoever read it is gone, with the pipe's other end."""
    reader, writer = full_pipe()
    if not there:
        os.close(reader)
    try:
        options = ("--runtime", str(tmp_path / "run"), "--state", str(tmp_path / "state.json"))
        with Run(rig.PROGRAM, tmp_path, bus.address, *options, errors=writer) as run:
            async with rig.Client(bus.address, BANK) as client:
                await drives(run, client)
                await chatter(run, client)
            assert run.end() == 0
        assert not (tmp_path / "run" / "starts").exists()
    finally:
        os.close(writer)
        if there:
            os.close(reader)


@mounts
@pytest.mark.skipif(shutil.which("multilog") is None, reason="there is no multilog (daemontools)")
async def test_multilog_on_a_full_disk_and_then_killed_holds_up_nothing(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    """As on a GX: multilog pauses until there is room; its supervisor holds the pipe open when it dies."""
    disk = Disk(tmp_path / "log", "512k")
    reader, writer = os.pipe()
    complaints = tmp_path / "multilog.log"
    with _multilog(disk, reader, complaints) as multilog:
        disk.pid = multilog.pid

        def logged(words: str) -> bool:
            with contextlib.suppress(FileNotFoundError):  # it was renamed just now
                return any(words in file.read_text() for file in disk.inside.glob("[@c]*"))
            return False

        try:
            with Run(
                rig.PROGRAM, tmp_path, bus.address, "--runtime", str(tmp_path / "run"), errors=writer
            ) as run:
                await rig.until(lambda: logged("reading "))
                disk.fill()
                async with rig.Client(bus.address, BANK) as client:
                    await drives(run, client)

                    async def full() -> bool:
                        await chatter(run, client)  # the last page of its file has room for some lines yet
                        return "pausing: out of disk space" in complaints.read_text()

                    await rig.until(full)
                    _stuff(writer)
                    await chatter(run, client)
                    disk.free()
                    await rig.until(lambda: logged("a line of another"))
                    await chatter(run, client)
                    multilog.kill()
                    multilog.wait()
                    _stuff(writer)
                    await chatter(run, client)
                assert run.end() == 0
        finally:
            os.close(reader)
            os.close(writer)


@contextlib.contextmanager
def _multilog(disk: Disk, reader: int, complaints: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real one, on a disk that is not full yet."""
    with complaints.open("wb") as out:
        command = disk.around("multilog", "t", "s25000", "n4", str(disk.folder))
        process = subprocess.Popen(command, stdin=reader, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _stuff(writer: int) -> None:
    """Write into a pipe, of which others write too, until nothing more goes in."""
    mine = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(mine, b"a line of another\n")
    os.close(mine)
