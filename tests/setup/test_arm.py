"""The package on the two ARMs that a GX has, with Debian's Python under qemu: the same answers as here.

Byte order and word size, the terminal's settings, times of 32 bits are the guest's; the kernel is this
machine's.  ``ARM_PYTHON`` names the folder that ``.ci/arm-python`` made, with ``armhf`` and ``arm64`` in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms.driver import SERVICE

QEMU = {"armhf": "qemu-arm-static", "arm64": "qemu-aarch64-static"}
MACHINE = {"armhf": ["armv7l", 4], "arm64": ["aarch64", 8]}
"""What the interpreter says of itself: the machine, and the bytes of a C long."""
RECORDED = rig.ROOT / "tests" / "recorded"
OWN_PATHS = ("/Mgmt/Connection",)
"""Paths that name the line, and so differ between two drivers."""


@pytest.fixture(scope="session")
def here(package: Path) -> list[str]:
    """The program on this machine's interpreter."""
    return [sys.executable, "-I", "-S", "-u", "-B", str(package / "dbus-smartbms")]


@pytest.fixture(scope="session", params=QEMU)
def architecture(request: pytest.FixtureRequest) -> str:
    """One that can be had here; the test is skipped otherwise."""
    name: str = request.param
    if not shutil.which(QEMU[name]):
        pytest.skip(f"{QEMU[name]} is missing; install it with: sudo apt-get install qemu-user-static")
    if not (Path(os.environ.get("ARM_PYTHON", "")) / name / "usr" / "bin" / "python3").exists():
        pytest.skip(f"no Python for {name}: .ci/arm-python DIR {name}; export ARM_PYTHON=DIR")
    return name


@pytest.fixture(scope="session")
def python(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Its interpreter, started as on a device."""
    root = Path(os.environ["ARM_PYTHON"]).resolve() / architecture
    compiled = tmp_path_factory.mktemp("pycache")
    options = ["-I", "-S", "-u", "-X", f"pycache_prefix={compiled}"]
    return [QEMU[architecture], "-L", str(root), str(root / "usr" / "bin" / "python3"), *options]


@pytest.fixture(scope="session")
def there(python: list[str], package: Path) -> list[str]:
    """The program on it."""
    return [*python, str(package / "dbus-smartbms")]


def run(program: Sequence[str], *words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        [*program, *words], input=stdin, capture_output=True, check=True, timeout=600
    ).stdout


def test_the_interpreter_is_of_the_other_machine(python: list[str], architecture: str) -> None:
    ask = "import json, platform, struct; print(json.dumps([platform.machine(), struct.calcsize('l')]))"
    assert json.loads(run(python, "-c", ask)) == MACHINE[architecture]


def test_version(there: list[str], here: list[str]) -> None:
    assert run(there, "--version") == run(here, "--version")


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]


def three_packs() -> str:
    """Three cables, read at the same time: one of them is bad, one has another pack at its end."""
    several = [
        entry | {"t": entry["t"] - lines(name)[0]["t"], "bms": number}
        for number, name in enumerate(("clean", "noisy", "fast"))
        for entry in lines(name)
    ]
    return "".join(json.dumps(entry) + "\n" for entry in sorted(several, key=lambda entry: entry["t"]))


def damaged() -> str:
    """Lines of a capture that say nothing, or something impossible, among those that do."""
    wrong = ["", "no JSON", '{"t": 1e400}', '{"t": 0, "bytes": "00"}', '{"t": 999, "frame": "00"}', "[]"]
    text = (RECORDED / "noisy.jsonl").read_text().splitlines()
    return "".join(f"{line}\n{wrong[n % len(wrong)]}\n" for n, line in enumerate(text))


CAPTURES = {name: (RECORDED / f"{name}.jsonl").read_text() for name in ("clean", "noisy", "fast")} | {
    "three packs": three_packs(),
    "damaged": damaged(),
}


@pytest.mark.parametrize("capture", CAPTURES)
def test_replay(there: list[str], here: list[str], capture: str) -> None:
    answers = [run(each, "replay", "--items", stdin=CAPTURES[capture].encode()) for each in (here, there)]
    assert answers[0].count(b'"allow_charge": true') > 5  # there is something to compare
    assert answers[1] == answers[0]


@contextlib.contextmanager
def driver(program: list[str], folder: Path, *options: str) -> Iterator[tuple[rig.Driver, str]]:
    """A running driver on a line and a bus of its own; at the end SIGTERM ends it with status 0."""
    folder.mkdir()
    with rig.daemon(folder) as bus, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig, "PROGRAM", program)
        with rig.driver(folder, bus.address, *options) as one:
            yield one, bus.address


def line_settings(one: rig.Driver) -> list[Any]:
    """Speed, size, parity, waits: all that the driver set."""
    slave = os.open(one.line.path, os.O_RDONLY | os.O_NOCTTY)
    try:
        return termios.tcgetattr(slave)
    finally:
        os.close(slave)


async def test_run(there: list[str], here: list[str], tmp_path: Path) -> None:
    items: list[dict[str, Any]] = []
    settings: list[list[Any]] = []
    states = [tmp_path / "here.state", tmp_path / "there.state"]
    for program, state in zip((here, there), states, strict=True):
        with driver(program, tmp_path / state.stem, "--state", str(state)) as (one, address):
            await one.ready()
            await one.line.send(*(rig.frame(turn) for turn in range(4, 20)), gap_s=0.1)
            await one.line.send(rig.frame(20, voltage_mv=53130))
            async with rig.Client(address, SERVICE) as client:
                assert await client.owner()
                await client.write("/CustomName", {"s": "Boat"})
                await rig.until(lambda: shows_the_last_frame(client))
                items.append(await client.items())
                assert await client.get("/Voltages/Cell16") == 3.32
                assert await client.get("/Info/MaxChargeCurrent") > 0
            settings.append(line_settings(one))
    for path in OWN_PATHS:
        assert items[0].pop(path) != items[1].pop(path)
    assert items[1] == items[0]
    assert settings[1] == settings[0]
    assert settings[1][4:6] == [termios.B9600, termios.B9600]
    assert json.loads(states[1].read_text())["name"] == "Boat"


async def shows_the_last_frame(client: rig.Client) -> bool:
    return bool(await client.get("/Dc/0/Voltage") == 53.13)
