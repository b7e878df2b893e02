"""``dbus-smartbms simulate``: the simulated pack of ``plant.py`` on a pty, at wire speed.

A thin shell: the pty, the pace of the bytes, noise on the line, and lines on stdin that change what
is simulated while it runs.  It uses ``pty`` and ``tty``, which a GX need not have: nothing that runs
there imports this module.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import math
import os
import select
import signal
import sys
import threading
import tty
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

from smartbms_protocol import BIT_RATE, encode

from .plant import (
    CHEMISTRIES,
    CURRENT_A,
    CVL_V,
    OFFSET_MV,
    RANGES,
    WATTS,
    Plant,
    PlantSettings,
)
from .simulated_bms import GENERATIONS, PERCENT, SETTABLE, Range

CHUNK = 4
BYTE_S = 10 / BIT_RATE
"""A start bit, 8 data bits, a stop bit."""
LONGEST_GARBAGE = 40
"""Bytes: with a frame it has to fit into half a second (98 of 480)."""
TEMPERATURE_OFFSET_C = Range(-100, 100, "degC")
NOISE = Range(0, 1)
SILENCE_S = Range(0, 86_400, "s")
SPEED = Range(1, 100)


class Line:
    """The pty that stands in for the cable, and the symlink to it.

    Bytes that nobody takes are lost, as on a wire: ``write`` never waits and never raises.
    """

    def __init__(self, link: Path | None = None) -> None:
        self.path: str | None = None
        """The device to open; None while unplugged."""
        self._link = link
        self._master = -1
        self._hang_up = select.poll()

    def plug(self) -> str:
        """Make the pty and its link; the device's path.  OSError if that cannot be done."""
        if self.path is None:
            self._master, slave = os.openpty()
            tty.setraw(slave)  # it stays raw when closed
            self.path = os.ttyname(slave)
            os.close(slave)  # so that the last client's leaving is seen
            os.set_blocking(self._master, False)
            self._hang_up.register(self._master, 0)
            self._make_link(self.path)
        return self.path

    def unplug(self) -> None:
        """Take the pty and its link away: whoever has it open reads an end or an error."""
        if self.path is None:
            return
        path, self.path = self.path, None
        # The link first: the number of a closed pty is free for the next program that asks for one.
        if self._link and self._link.is_symlink() and str(self._link.readlink()) == path:
            self._link.unlink()
        self._hang_up.unregister(self._master)
        os.close(self._master)

    def write(self, data: bytes) -> None:
        """Send bytes; without a client, or with one that does not read, they are lost."""
        if self.path is None or self._hang_up.poll(0):
            return
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    def _make_link(self, path: str) -> None:
        if self._link is None:
            return
        try:
            if self._link.is_symlink():  # of a run that could not clean up
                self._link.unlink()
            self._link.symlink_to(path)
        except OSError:
            self.unplug()
            raise


def noisy(data: bytes, probability: float, random: Random) -> bytes:
    """A frame after a bad line: some bytes changed, garbage glued to either end, or neither."""
    sent = bytearray(data)
    if random.random() < probability:
        for _ in range(random.randint(1, 3)):
            sent[random.randrange(len(sent))] ^= random.randint(1, 255)
    if random.random() < probability:
        at = random.choice((0, len(sent)))
        sent[at:at] = random.randbytes(random.randint(1, LONGEST_GARBAGE))
    return bytes(sent)


class Simulator:
    """A plant on a line: sends its frames, and takes commands meanwhile."""

    def __init__(self, plant: Plant, line: Line, *, interval_s: float = 1.0, speed: float = 1.0) -> None:
        self.plant = plant
        self.line = line
        self.interval_s = interval_s
        self.speed = speed
        """How many times faster than the frames the plant's time goes."""
        self.noise = 0.0
        self.silence_s = 0.0
        """Seconds of silence that are still to come."""
        self._random = Random(plant.settings.seed)  # noqa: S311 - the same noise every time

    async def send_frames(self) -> None:
        """Send a frame every interval, for ever."""
        now = asyncio.get_running_loop().time
        due = now()
        while True:
            data = self.next_bytes()
            await self._send(data, due)
            due += self.interval_s
            due = max(due, now())  # after a stop of the process nothing is made up for
            await _sleep_until(due)

    def next_bytes(self) -> bytes:
        """Let an interval pass; what comes over the line at its end, empty in a silence."""
        self.plant.step(self.interval_s * self.speed)
        data = encode(self.plant.frame())
        if self.silence_s > 0:
            self.silence_s = max(0.0, self.silence_s - self.interval_s)
            return b""
        return noisy(data, self.noise, self._random)

    async def _send(self, data: bytes, start: float) -> None:
        """At the pace of the wire: a byte is there when its last bit is."""
        for begin in range(0, len(data), CHUNK):
            chunk = data[begin : begin + CHUNK]
            await _sleep_until(start + (begin + len(chunk)) * BYTE_S)
            self.line.write(chunk)

    def command(self, text: str) -> str:
        """Do what a line of stdin says; the answer for stdout, mostly empty.

        Raises ValueError with a sentence that says what is allowed; then nothing has changed.
        """
        name, *words = text.split() or [""]
        if not name:
            return ""
        if name not in COMMANDS:
            raise ValueError(f"there is no command {name!r}; allowed are {', '.join(COMMANDS)}")
        row = COMMANDS[name]
        try:
            inspect.signature(row.does).bind(self, *words)
            return row.does(self, *words) or ""
        except ValueError as error:
            reason = str(error)
        except TypeError:
            reason = f"{len(words)} words after it do not fit"
        raise ValueError(
            f"{text.strip()!r} changed nothing: {reason}; allowed is {row.usage} ({row.meaning})"
        )

    def load(self, watts: str) -> None:
        self.plant.load_w = _number("the load", watts, WATTS)

    def sun(self, watts: str) -> None:
        self.plant.sun_w = _number("the sun", watts, WATTS)

    def soc(self, percent: str) -> None:
        self.plant.bms.soc = _number("the SoC", percent, PERCENT) / 100

    def limits(self, *words: str) -> None:
        if words == ("off",):
            self.plant.told = None
        else:
            cvl, ccl, dcl = words if len(words) == 3 else ("", "", "")
            self.plant.limits(
                _number("CVL", cvl, CVL_V), _number("CCL", ccl, CURRENT_A), _number("DCL", dcl, CURRENT_A)
            )

    def cell(self, number: str, offset_mv: str) -> None:
        cells = Range(1, len(self.plant.cells))
        self.plant.offset_cell(_whole("the cell", number, cells), _number("the offset", offset_mv, OFFSET_MV))

    def temperature(self, offset_c: str) -> None:
        self.plant.temperature_offset_c = _number("the offset", offset_c, TEMPERATURE_OFFSET_C)

    def deny(self, direction: str, state: str) -> None:
        flag = _chosen(direction, {"charge": "deny_charge", "discharge": "deny_discharge"})
        setattr(self.plant.bms, flag, _chosen(state, ON_OFF))

    def communication(self, state: str) -> None:
        self.plant.bms.communication = _chosen(state, ON_OFF)

    def warning(self, state: str) -> None:
        self.plant.bms.early_warning = _chosen(state, ON_OFF)

    def calibrated(self, state: str) -> None:
        self.plant.bms.calibrated = _chosen(state, ON_OFF)

    def sensors(self, count: str) -> None:
        self.plant.bms.sensors = _chosen(count, {"2": 2, "1": 1, "0": 0})

    def change_setting(self, name: str, value: str) -> None:
        row = _chosen(name, SETTABLE)
        self.plant.change_setting(name, _number(name, value, row.allowed))

    def damage(self, probability: str) -> None:
        self.noise = _number("the noise", probability, NOISE)

    def silence(self, seconds: str) -> None:
        ends = {"on": math.inf, "off": 0.0}
        self.silence_s = ends[seconds] if seconds in ends else _number("the silence", seconds, SILENCE_S)

    def unplug(self) -> None:
        self.line.unplug()

    def plug(self) -> str:
        return self.line.plug()

    def explain(self) -> str:
        return "\n".join(map(str, COMMANDS.values()))


ON_OFF = {"on": True, "off": False}
T = TypeVar("T")


def _chosen(word: str, choices: Mapping[str, T]) -> T:
    if word not in choices:
        raise ValueError(f"{word!r} is none of {', '.join(choices)}")
    return choices[word]


def _number(name: str, text: str, allowed: Range) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} has to be {allowed}, not {text!r}") from None
    return allowed.checked(name, value)


def _whole(name: str, text: str, allowed: Range) -> int:
    value = _number(name, text, allowed)
    if value % 1:
        raise ValueError(f"{name} has to be a whole number, not {text!r}")
    return int(value)


class Command(NamedTuple):
    """A line of stdin: how it is written, what it means, and the method that does it."""

    usage: str
    meaning: str
    does: Callable[..., str | None]

    def __str__(self) -> str:
        """For people."""
        return f"{self.usage:28} {self.meaning}"


_ROWS = (
    Command("load WATTS", f"what the loads draw, {WATTS}", Simulator.load),
    Command("sun WATTS", f"what the sun has to give, {WATTS}", Simulator.sun),
    Command(
        "limits CVL CCL DCL", f"for charger and loads, {CVL_V}, {CURRENT_A} each; or off", Simulator.limits
    ),
    Command("soc PERCENT", f"what the BMS believes, {PERCENT}; the cells know better", Simulator.soc),
    Command("cell NUMBER MV", f"a cell out of line, {OFFSET_MV}; 0 ends it", Simulator.cell),
    Command(
        "temperature OFFSET", f"all cells warmer, {TEMPERATURE_OFFSET_C}; 0 ends it", Simulator.temperature
    ),
    Command("deny charge|discharge on|off", "the BMS forbids it, or no longer", Simulator.deny),
    Command("communication on|off", "off: the BMS hears no cells (E)", Simulator.communication),
    Command("warning on|off", "the early warning of status byte 2", Simulator.warning),
    Command(
        "calibrated on|off",
        "off: the SoC is not calibrated, until the next full charge",
        Simulator.calibrated,
    ),
    Command("sensors 2|1|0", "current sensors; 1: only the sum is known, 0: nothing", Simulator.sensors),
    Command(
        "set NAME VALUE",
        f"a setting of the BMS: {', '.join(SETTABLE)} (tmin is both; A and B have but that)",
        Simulator.change_setting,
    ),
    Command("noise PROBABILITY", f"of a damaged frame, and of garbage around one, {NOISE}", Simulator.damage),
    Command("silence SECONDS|on|off", f"no frames, {SILENCE_S} or until off", Simulator.silence),
    Command("unplug", "pty and link go away", Simulator.unplug),
    Command("plug", "a new pty, under the same link", Simulator.plug),
    Command("help", "these lines", Simulator.explain),
)
COMMANDS = {row.usage.split()[0]: row for row in _ROWS}


async def _sleep_until(deadline: float) -> None:
    await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run`` to a parser; wrong values end in its errors (status 2)."""

    def number(option: str, name: str, allowed: Range, default: float, meaning: str) -> None:
        whole = isinstance(default, int)

        def parse(text: str) -> float:
            try:
                return (_whole if whole else _number)("it", text, allowed)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        text = f"{meaning}: {allowed}".replace("%", "%%") + " (%(default)g)"
        parser.add_argument(option, dest=name, metavar="N", type=parse, default=default, help=text)

    usual = PlantSettings()
    parser.add_argument(
        "--chemistry", choices=CHEMISTRIES, default=usual.chemistry, help="of the cells (%(default)s)"
    )
    for option, name, meaning in _NUMBERS:
        number(option, name, RANGES[name], getattr(usual, name), meaning)
    number("--seed", "seed", SEED, usual.seed, "of everything that is left to chance")
    number("--speed", "speed", SPEED, 1.0, "times faster than the frames the pack lives")
    parser.add_argument(
        "--interval", type=float, choices=(1.0, 0.5), default=1.0, help="seconds between frames (%(default)s)"
    )
    parser.add_argument(
        "--generation", choices=GENERATIONS, default=usual.generation, help="of the BMS (%(default)s)"
    )
    parser.add_argument(
        "--mode", choices=("critical", "normal"), default="critical", help="of the BMS (%(default)s)"
    )
    parser.add_argument(
        "--ignore-limits", action="store_true", help="charger and loads do not keep to limits they are told"
    )
    parser.add_argument("--link", type=Path, metavar="PATH", help="a symlink to the pty, removed at the end")
    parser.add_argument(
        "--line",
        action="append",
        default=[],
        metavar="LINE",
        help="a line as on stdin, done before the first frame",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG


SEED = Range(0, 999_999)
_NUMBERS = (
    ("--cells", "cells", "cells in series"),
    ("--capacity", "capacity_kwh", "capacity, from Vmin to Vbalance"),
    ("--soc", "soc_percent", "state of charge at the start"),
    ("--spread", "spread_mv", "between the readings of equal cells"),
    ("--spread-soc", "spread_percent", "between the fullest and the emptiest cell"),
    ("--load", "load_w", "what the loads draw"),
    ("--sun", "sun_w", "what the sun has to give"),
    ("--ambient", "ambient_c", "where the pack stands"),
)
EPILOG = (
    "The first line on stdout is the device to open.  Lines on stdin change what is simulated:\n"
    + "\n".join(f"  {row}" for row in _ROWS)
    + """

examples:
  dbus-smartbms simulate --link /tmp/bms
  dbus-smartbms simulate --cells 8 --soc 95 --sun 4000 --load 0 --speed 20
  dbus-smartbms simulate --line "cell 7 +120" --line "noise 0.2"
"""
)


async def run(args: argparse.Namespace) -> int:
    """Simulate until SIGINT, SIGTERM or SIGHUP: status 0, or 2 and a sentence if it cannot begin."""
    line = Line(args.link)
    with _signals() as stop, contextlib.ExitStack() as leaving:
        leaving.callback(line.unplug)
        try:
            simulator = Simulator(Plant(_settings(args)), line, interval_s=args.interval, speed=args.speed)
            path = line.plug()
            answers = [simulator.command(text) for text in args.line]
        except (ValueError, OSError) as error:
            print(f"simulate: {error}", file=sys.stderr)
            return 2
        print(path, *filter(None, answers), sep="\n", flush=True)
        await _run_until(stop, simulator)
    return 0


def _settings(args: argparse.Namespace) -> PlantSettings:
    return PlantSettings(
        chemistry=args.chemistry,
        seed=args.seed,
        generation=args.generation,
        normal_mode=args.mode == "normal",
        obeys=not args.ignore_limits,
        **{name: getattr(args, name) for _, name, _ in _NUMBERS},
    )


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that the signals to end set, instead of ending the process at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _run_until(stop: asyncio.Event, simulator: Simulator) -> None:
    loop = asyncio.get_running_loop()
    if sys.stdin is not None:
        # Started with "&" from a terminal, reading it would stop the process instead of failing.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        reading = (sys.stdin.fileno(), lambda text: loop.call_soon_threadsafe(_take, simulator, text))
        threading.Thread(target=_read_lines, args=reading, daemon=True).start()
    sending = loop.create_task(simulator.send_frames())
    stopped = loop.create_task(stop.wait())
    try:
        await asyncio.wait((sending, stopped), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():  # it never ends by itself: say why
            await sending
    finally:
        for task in (sending, stopped):
            task.cancel()
        await asyncio.wait((sending, stopped))


def _take(simulator: Simulator, text: str) -> None:
    try:
        answer = simulator.command(text)
    except (ValueError, OSError) as error:
        print(f"simulate: {error}", file=sys.stderr, flush=True)
    else:
        if answer:
            print(answer, flush=True)


def _read_lines(descriptor: int, take: Callable[[str], object]) -> None:
    """Hand on the lines of a file until its end; in a thread, for no event loop can wait for every file.

    Reads the descriptor itself: a thread inside ``sys.stdin`` can keep the interpreter from ending.
    """
    rest = b""
    with contextlib.suppress(OSError, RuntimeError):  # nothing to read; the loop is closed
        while data := os.read(descriptor, 4096):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                take(line.decode(errors="replace"))
        take(rest.decode(errors="replace"))
