"""The whole driver on a simulated pack, in one terminal.

A private dbus-daemon, the simulator on a pty, the driver on both; what is shown is read back from
D-Bus, as any client would.  Everything that was started is ended, everything that was made removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .bus import BusError, Connection
from .driver import SERVICE

_BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
PICTURE_S = 0.5
"""Pause between two looks at the bus."""
START_S = 15.0
"""How long the parts may take to come up."""
END_S = 3.0

Items = Mapping[str, Mapping[str, Any]]


class DemoError(Exception):
    """A part of the demo did not come up; the text says which and why."""


def demo(cells: int, seconds: float | None) -> int:
    """Run until Ctrl-C or for ``seconds``; returns the exit status."""
    if shutil.which("dbus-daemon") is None:
        print("dbus-smartbms demo: dbus-daemon is missing; install it: apt-get install dbus", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="dbus-smartbms-demo-"))
    try:
        return asyncio.run(_Demo(folder, cells).run(seconds))
    except DemoError as error:
        print(f"dbus-smartbms demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    def __init__(self, folder: Path, cells: int) -> None:
        self._folder = folder
        self._cells = cells
        self._children: list[asyncio.subprocess.Process] = []

    async def run(self, seconds: float | None) -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last: the window was closed
            loop.add_signal_handler(number, ended.set)
        showing = asyncio.create_task(self._show())
        waiting = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({showing, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                showing.result()
        finally:
            for task in (showing, waiting):
                task.cancel()
            await asyncio.gather(showing, waiting, return_exceptions=True)
            await self._end()
        return 0

    async def _show(self) -> None:
        socket, tty = self._folder / "bus", self._folder / "tty"
        configuration = self._folder / "bus.conf"
        configuration.write_text(_BUS_CONFIGURATION.format(socket=socket))
        address = f"unix:path={socket}"
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = address
        await self._start("dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile")
        simulator = await self._start(
            sys.executable, sys.argv[0], "simulate", "--cells", str(self._cells), "--link", str(tty), *_SCENE
        )
        await self._start(
            sys.executable, sys.argv[0], "run", "--device", str(tty), "--set", "log.level=warning"
        )
        client = await self._connect()
        picture = _Picture(self._cells)
        try:
            while True:
                self._check()
                with contextlib.suppress(BusError):
                    items = await client.get_items(SERVICE)
                    picture.show(items)
                    _tell_charger(simulator, items)
                await asyncio.sleep(PICTURE_S)
        finally:
            client.disconnect()
            await client.closed()

    async def _start(self, *command: str) -> asyncio.subprocess.Process:
        """A child in a session of its own, so that Ctrl-C reaches only us and we end them in order."""
        with (self._folder / "log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        self._children.append(child)
        return child

    async def _connect(self) -> Connection:
        for _ in range(int(START_S / PICTURE_S)):
            self._check()
            client = Connection()
            try:
                await client.connect()
            except BusError:
                await asyncio.sleep(PICTURE_S / 5)
            else:
                return client
        raise DemoError("the bus did not come up")

    def _check(self) -> None:
        for child in self._children:
            if child.returncode is not None:
                lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
                raise DemoError(f"a part ended with status {child.returncode}: {lines[-1] if lines else ''}")

    async def _end(self) -> None:
        """SIGTERM in reverse order, SIGKILL to what does not go."""
        for child in reversed(self._children):
            if child.returncode is None:
                child.terminate()
                try:
                    await asyncio.wait_for(child.wait(), END_S)
                except TimeoutError:
                    child.kill()
                    await child.wait()


_SCENE = ("--soc=98", "--spread-soc=2", "--speed=10", "--interval=0.5", "--sun=3500", "--load=900")
"""A sunny noon: nearly full, one cell after the other begins to balance."""


def _tell_charger(simulator: asyncio.subprocess.Process, items: Items) -> None:
    """What systemcalc does on a GX: hand the limits to the charger."""
    names = ("MaxChargeVoltage", "MaxChargeCurrent", "MaxDischargeCurrent")
    values = [items[f"/Info/{name}"]["Value"] for name in names]
    if simulator.stdin is not None and None not in values:
        simulator.stdin.write(("limits " + " ".join(f"{value:g}" for value in values) + "\n").encode())


class _Picture:
    """Draws over itself in a terminal; elsewhere two pictures, then a line a change."""

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self._terminal = sys.stdout.isatty()
        self._last = ""
        self._printed = 0

    def show(self, items: Items) -> None:
        if self._terminal:
            width, height = shutil.get_terminal_size()
            lines = [line[:width] for line in (*_head(items), "", *_cells(items, self._cells, width))]
            if len(lines) > height - 3:
                lines = [*lines[: height - 4], "... (a larger window shows more)"]
            legend = "---: not heard yet (one cell a frame), or a board that balances. Ctrl-C ends it."
            print("\x1b[H\x1b[J" + "\n".join([*lines, "", legend[:width]]), flush=True)
        elif self._printed == 0 or (self._printed == 1 and items["/Voltages/Sum"]["Value"] is not None):
            # at once, and once more when every cell has been seen
            print("\n".join((*_head(items), "", *_cells(items, self._cells, 80), "")), flush=True)
            self._printed += 1
        else:
            line = _line(items)
            if line != self._last:
                print(line, flush=True)
            self._last = line


def _text(items: Items, path: str) -> str:
    return str(items.get(path, {}).get("Text", "---"))


def _head(items: Items) -> list[str]:
    paths = ("/Dc/0/Voltage", "/Dc/0/Current", "/Dc/0/Power", "/Soc", "/Info/ChargeMode")
    texts = [_text(items, path) for path in paths]
    lines = [
        f"{_text(items, '/ProductName')}, a simulated pack (10 times as fast as real), as it is on D-Bus",
        "",
        "pack  {:>9}  {:>9}  {:>8}   SoC {}   {}".format(*texts),
    ]
    for name, path, reason in (
        ("CVL", "MaxChargeVoltage", "ChargeVoltageLimitation"),
        ("CCL", "MaxChargeCurrent", "ChargeLimitation"),
        ("DCL", "MaxDischargeCurrent", "DischargeLimitation"),
    ):
        lines.append(f"{name}   {_text(items, '/Info/' + path):>9}  {_text(items, '/Info/' + reason)}")
    raised = [path for path, item in items.items() if path.startswith("/Alarms/") and item["Value"]]
    if raised:
        lines.append("alarms " + ", ".join(f"{path[8:]} {_text(items, path)}" for path in raised))
    return lines


def _cells(items: Items, cells: int, width: int) -> list[str]:
    """The cells in as many columns as fit, counting downwards."""
    entries = [_cell(items, cell) for cell in range(1, cells + 1)]
    columns = max(1, width // len(entries[0]))
    rows = -(-cells // columns)
    return ["".join(entries[row::rows]) for row in range(rows)]


def _cell(items: Items, cell: int) -> str:
    marks = [
        "balancing" if items.get(f"/Balances/Cell{cell}", {}).get("Value") else "",
        "lowest" if _text(items, "/System/MinVoltageCellId") == str(cell) else "",
        "highest" if _text(items, "/System/MaxVoltageCellId") == str(cell) else "",
    ]
    voltage, temperature = (_text(items, f"/{name}/Cell{cell}") for name in ("Voltages", "Temperatures"))
    return f"cell {cell:3}  {voltage:>8} {temperature:>8}  {next(filter(None, marks), ''):<11}"


def _line(items: Items) -> str:
    limits = ("MaxChargeVoltage", "MaxChargeCurrent", "MaxDischargeCurrent")
    cvl, ccl, dcl = (_text(items, f"/Info/{name}") for name in limits)
    pack = ", ".join(_text(items, path) for path in ("/Dc/0/Voltage", "/Dc/0/Current", "/Soc"))
    extremes = " to ".join(_text(items, f"/System/{name}CellVoltage") for name in ("Min", "Max"))
    return f"pack {pack}; cells {extremes}; CVL {cvl}, CCL {ccl}, DCL {dcl}"
