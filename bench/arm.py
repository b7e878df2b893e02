"""How many instructions of a 32-bit ARM the driver needs: ``python3 bench/arm.py ROOT PACKAGE``.

ROOT is what ``.ci/arm-python ROOT armhf`` made, PACKAGE an unpacked archive.  Needs gcc, and a qemu-arm that
takes plugins (Debian's package qemu-user; not qemu-user-static).  README.md says what follows.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / folder) for folder in ("dbus-smartbms", "protocol", "tests", "bench")]

import packs  # noqa: E402  the path comes first

import rig  # noqa: E402

ROWS = ((1, 16), (4, 16))
"""Packs and cells."""
WARM_UP_S, STEADY_S = 20, 40


class Counted(NamedTuple):
    """Of a process up to now."""

    instructions: int
    calls: int


class Emulated:
    """The package on the ARM's Python, with everything counted."""

    def __init__(self, folder: Path, root: Path, package: Path, qemu: str) -> None:
        plugin, self._file = folder / "count.so", folder / "counted"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", plugin, HERE / "count.c"], check=True)
        self._qemu = [qemu, "-plugin", f"{plugin},to={self._file}", "-L", str(root)]
        self._python = [str(root / "usr" / "bin" / "python3"), "-I", "-S", "-u"]
        self._program = str(package / "dbus-smartbms")

    def program(self, compiled: Path) -> list[str]:
        return [*self._qemu, *self._python, "-X", f"pycache_prefix={compiled}", self._program]

    def counted(self) -> Counted:
        return Counted(*struct.unpack("=QQ", self._file.read_bytes()))


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def start(emulated: Emulated) -> int:
    """Instructions until the line is open."""
    with (
        folder() as own,
        rig.daemon(own) as bus,
        rig.Line(own / "tty") as line,
        rig.Process(own, "run", "--device", str(line.path), address=bus.address) as process,
    ):
        await rig.until(lambda: "reading " in process.text)
        return emulated.counted().instructions


async def steady(emulated: Emulated, count: int, cells: int) -> tuple[float, float]:
    """Instructions and system calls a frame, each pack sending one a second."""
    with folder() as own:
        async with packs.bank(own, count, cells) as bank:
            begin = asyncio.get_running_loop().time() + 1
            sending = [
                asyncio.create_task(bank.send_steadily(n, begin + packs.INTERVAL_S * n / count))
                for n in range(count)
            ]
            await bank.started()
            await asyncio.sleep(WARM_UP_S)
            frames, before = sum(map(len, bank.wrote)), emulated.counted()
            await asyncio.sleep(STEADY_S)
            frames, after = sum(map(len, bank.wrote)) - frames, emulated.counted()
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
    return (after.instructions - before.instructions) / frames, (after.calls - before.calls) / frames


async def measure(emulated: Emulated, compiled: Path) -> None:
    rig.PROGRAM[:] = emulated.program(compiled)
    for name in ("nothing compiled", "all compiled"):
        print(f"start, {name}: {await start(emulated) / 1e6:.0f} million instructions", flush=True)
    for count, cells in ROWS:
        instructions, calls = await steady(emulated, count, cells)
        a_frame = f"{instructions / 1e6:.2f} million instructions a frame, {calls:.0f} system calls"
        print(f"{count} x {cells} cells: {a_frame}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Instructions that the driver needs on a 32-bit ARM.")
    parser.add_argument("root", type=Path, help="what .ci/arm-python made")
    parser.add_argument("package", type=Path, help="an unpacked archive")
    parser.add_argument("--qemu", default="qemu-arm", help="a qemu-arm that takes plugins")
    options = parser.parse_args()
    with folder() as own:
        emulated = Emulated(own, options.root.resolve(), options.package.resolve(), options.qemu)
        asyncio.run(measure(emulated, own / "compiled"))


if __name__ == "__main__":
    main()
