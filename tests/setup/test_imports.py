"""The package on a GX's Python: what it imports when it runs, and that this is enough.

What a GX has is known as a list of modules (``test_project.ON_A_GX``). Each of them loads others, which a GX
then has as well, or the first would not work there; so what is there is measured: everything that the listed
ones load while those that are not promised cannot be had. Codecs are loaded by name when they are used; Venus
OS has all of them (the folder encodings is in python3-core, openembedded-core's python3-manifest.json).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import rig
from dbus_smartbms import cli
from test_project import NOT_ON_A_GX, NOT_PROMISED, ON_A_GX, TRAVELLING

RUNNER = Path(__file__).resolve().parent / "on_a_gx.py"
CAPTURE = rig.ROOT / "tests" / "recorded" / "noisy.jsonl"
EXAMPLE = rig.ROOT / "docs" / "dbus-smartbms.ini"


class Gx(NamedTuple):
    """A Python that has what a GX promises: how to start the package on it, and its rules and report."""

    command: list[str]
    rules: set[str]
    report: Path

    def check(self) -> None:
        """Whatever ran has found all it looked for, and looked for nothing else."""
        lines = set(self.report.read_text().split())
        assert {line for line in lines if line[0] == "-"} <= self.rules
        loaded = {line[1:] for line in lines if line[0] == "+"}
        there = {rule[1:] for rule in self.rules if rule[0] == "+"}
        assert not {name for name in loaded - there if f"{name.split('.')[0]}.*" not in there}
        assert "dbus_smartbms" in loaded


OURS = {*TRAVELLING, "dbus_smartbms"}


def start(rules: set[str], folder: Path, program: Path) -> tuple[list[str], Path]:
    (folder / "rules").write_text("\n".join(sorted(rules)))
    words = [str(RUNNER), str(folder / "rules"), str(folder / "report"), str(program)]
    return [sys.executable, "-I", "-S", *words], folder / "report"


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Rules: all that the promised modules load is there, and what none of them needs is not."""
    folder = tmp_path_factory.mktemp("promised")
    names = [*sorted(ON_A_GX), "urllib.parse", "xml.etree.ElementTree"]
    (folder / "__main__.py").write_text("".join(f"import {name}\n" for name in names if name != "__future__"))
    never = {f"-{name}" for name in NOT_PROMISED}
    command, report = start(never, folder, folder)
    subprocess.run(command, check=True)
    lines = set(report.read_text().split())
    return never | lines | {"+__future__", "+encodings.*"} | {f"+{name}.*" for name in OURS}


@pytest.fixture
def gx(promised: set[str], package: Path, tmp_path: Path) -> Gx:
    command, report = start(promised, tmp_path, package / "dbus-smartbms")
    return Gx(command, promised, report)


COMMANDS: dict[str, list[list[str]]] = {
    "doctor": [["--root", "/nowhere"]],
    "config": [["check", str(EXAMPLE)], ["show", str(EXAMPLE)], ["example"]],
    "record": [["--help"]],
    "replay": [[], ["--items", "--config", str(EXAMPLE)]],
    "tables": [[], ["--explain", str(CAPTURE)]],
    "paths": [[]],
}
"""Words for each command that a GX runs, beside ``run``."""


def test_every_command_that_a_gx_runs_is_tried() -> None:
    assert {row.name for row in cli.COMMANDS} - {"simulate", *NOT_ON_A_GX} == {*COMMANDS, "run"}


@pytest.mark.parametrize(
    "words",
    [["--version"], *([name, *more] for name, choices in COMMANDS.items() for more in choices)],
    ids=lambda words: "-".join(Path(word).name for word in words),
)
def test_a_command_imports_what_a_gx_promises(gx: Gx, words: list[str]) -> None:
    with CAPTURE.open() as capture:
        ended = subprocess.run(
            [*gx.command, *words], stdin=capture, capture_output=True, text=True, check=False
        )
    assert ended.returncode == (words[0] == "doctor"), ended.stderr  # nothing is right with a GX of nowhere
    assert ended.stdout
    assert "as on a GX" not in ended.stderr
    gx.check()


async def test_the_driver_on_a_bus_imports_what_a_gx_promises(
    gx: Gx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack on a line, the service on a bus, calls answered, an orderly end: no other module on that way."""
    monkeypatch.setattr(rig, "PROGRAM", gx.command)
    state = tmp_path / "state"
    with (
        rig.daemon(tmp_path) as daemon,
        rig.driver(tmp_path, daemon.address, "--state", str(state), "--config", str(EXAMPLE)) as driver,
    ):
        await driver.ready()
        async with rig.Client(daemon.address, "com.victronenergy.battery.smartbms") as client:
            assert await client.get("/Info/MaxChargeVoltage") > 0
            assert await client.items()
            await client.call("/", "Introspect", interface="org.freedesktop.DBus.Introspectable")
            await driver.line.pour(*(rig.frame(turn, lowest_mv=3300) for turn in range(4)))
            await rig.until(lambda: client.signals)
    gx.check()


def test_what_is_not_promised_cannot_be_had(gx: Gx) -> None:
    """The other way round, so that the tests above can fail: the simulator needs a tty."""
    ended = subprocess.run([*gx.command, "simulate"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "No module named 'pty', as on a GX" in ended.stderr or "'tty', as on a GX" in ended.stderr


def test_what_travels_comes_before_what_is_there(package: Path) -> None:
    """A GX has a pyserial; the one that was tested is the one that runs."""
    program = str(package / "dbus-smartbms")
    command = [sys.executable, "-v", program, "replay"]  # as in a test: with all that is installed
    said = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stderr
    for name in ("serial", "serial_asyncio"):
        assert f"{package}/vendor/{name}/__init__.py" in said
        assert f"site-packages/{name}/__init__.py" not in said
