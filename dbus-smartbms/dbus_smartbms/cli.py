"""The command line.  Each command loads only what it needs: on a GX memory is short."""

# ruff: noqa: PLC0415  imports inside functions, for the reason above

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import __version__, logs, settings
from .configuration import Configuration, load

if TYPE_CHECKING:
    from .findings import Facts
    from .gx import Gx

_DESCRIPTION = r"""Driver for the 123\SmartBMS on a Victron GX device: reads the "123\SmartBMS to USB" cable
and publishes cells, alarms and charge limits as a com.victronenergy.battery service."""

_EXAMPLES = """examples:
  dbus-smartbms demo                                  all of it, live in this terminal
  dbus-smartbms run                                   the cables that say SmartBMSToUSB
  dbus-smartbms run --device /dev/ttyUSB0 --set limits.max_charge_current=80
  dbus-smartbms record --output capture.jsonl         what the cable sends, to look at later
  dbus-smartbms replay < capture.jsonl                the limits that the driver would have set
  dbus-smartbms plot capture.jsonl                    the same as a picture
  dbus-smartbms doctor                                on a GX device: what is wrong, and what to do
  dbus-smartbms COMMAND --help                        the options of a command
"""


DEVICE_FILE = Path("/data/conf/dbus-smartbms.ini")
"""Where the configuration is on a GX."""
log = logging.getLogger(__name__)


class Command(NamedTuple):
    """A row: its name, what it does, an example, its options, what runs it."""

    name: str
    text: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, argparse.ArgumentParser], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.  Wrong options exit with 2 and a sentence."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="dbus-smartbms",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dbus-smartbms {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for row in COMMANDS:
        command = commands.add_parser(
            row.name,
            help=row.text,
            description=row.text[0].upper() + row.text[1:] + ".",
            epilog=f"example:\n  {row.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if row.name in words[:1]:
            row.options(command)
        command.set_defaults(command=row.run, parser=command)
    args = parser.parse_args(words)
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    try:
        status: int = args.command(args, args.parser)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing more to say there
        if not isinstance(error, BrokenPipeError):  # else whoever read our output has gone, which is no fault
            print(f"dbus-smartbms {words[0]}: {error}", file=sys.stderr)
            return 1
        return 0
    return status


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds over 0")
    return number


def _cells(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 255:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of cells from 2 to 255")
    return int(text)


def _file(text: str) -> Path:
    if not text or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file")
    return Path(text)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder")
    return Path(text)


def _device_option(parser: argparse.ArgumentParser) -> None:
    text = "serial device, may be given again (default: the cables that say SmartBMSToUSB)"
    parser.add_argument("--device", metavar="PATH", action="append", help=text)


def _settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="configuration file (INI)")
    text = "override one option, for example limits.max_charge_current=80"
    parser.add_argument("--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help=text)


def _configuration(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Configuration:
    try:
        configuration = load(args.config, args.set)
    except ValueError as error:
        parser.error(str(error))
    logs.start(configuration.settings.level)
    if args.config is not None and not args.config.exists():
        log.info("there is no configuration file %s: defaults are used", args.config)
    return configuration


def _say_problems(configuration: Configuration) -> None:
    for problem in configuration.problems:
        log.error("configuration: %s", problem)


def _devices(args: argparse.Namespace, default: str) -> str:
    return ",".join(args.device) if args.device else default


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` and end it at SIGTERM or SIGINT."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _run_options(parser: argparse.ArgumentParser) -> None:
    _device_option(parser)
    text = "where to keep what outlives a restart (default: nowhere)"
    parser.add_argument("--state", metavar="FILE", type=_file, help=text)
    text = "a folder in RAM: restarts are counted there, and SIGUSR1 writes the last 60 s of all cables to it"
    parser.add_argument("--runtime", metavar="DIR", type=_folder, help=f"{text} (default: none)")
    _settings_options(parser)


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    configuration = _configuration(args, parser)
    from .driver import Driver

    def chosen(configuration: Configuration) -> Configuration:
        devices = _devices(args, configuration.settings.devices)
        configuration.settings = replace(configuration.settings, devices=devices)
        return configuration

    def read_again() -> Configuration:
        new = chosen(load(args.config, args.set))
        try:
            there = args.config is None or args.config.stat().st_size > 0
        except OSError:
            there = False
        if not there:
            new.problems.append(f"{args.config}: it is not there, or empty")
        return new

    async def drive() -> None:
        await Driver(chosen(configuration), args.state, read_again, args.runtime).run()

    try:
        asyncio.run(drive())
    except Exception:
        # The one place: whatever ended the driver is logged, and the supervisor starts it again.
        logging.getLogger(__name__).exception("ended by an error")
        return 1
    return 0


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    from . import simulator

    simulator.add_arguments(parser)


def _simulate(args: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    from . import simulator

    return asyncio.run(simulator.run(args))


def _record_options(parser: argparse.ArgumentParser) -> None:
    _device_option(parser)
    parser.add_argument("--output", metavar="FILE", type=Path, help="where to (default: standard output)")
    parser.add_argument("--seconds", metavar="S", type=_seconds, help="how long (default: until Ctrl-C)")


def _record(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from .replay import Capture, record

    devices = _devices(args, "auto")
    if args.output and args.output.is_file():
        parser.exit(1, f"dbus-smartbms record: {args.output} is there already; choose another name\n")
    logs.start("info")
    capture = Capture()
    try:
        with args.output.open("w") if args.output else os.fdopen(os.dup(1), "w") as out:
            asyncio.run(_until_signal(record(devices, capture, out, args.seconds)))
    except BrokenPipeError:
        raise
    except OSError as error:
        parser.exit(1, f"dbus-smartbms record: cannot write the capture: {error}\n")
    if not capture.size:
        log.warning("nothing was received")
        return 1
    log.info("%d bytes in %d pieces", capture.size, capture.pieces)
    return 0


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", action="store_true", help="with all D-Bus paths and values in each answer")
    _settings_options(parser)


def _replay(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from .replay import replay

    configuration = _configuration(args, parser)
    _say_problems(configuration)
    lines = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115  standard input
    for answer in replay(lines, configuration, items=args.items):
        print(answer, flush=True)
    return 0


def _config_options(parser: argparse.ArgumentParser) -> None:
    text = "check: what is wrong; show: the values in force and their sources; example: the file that ships"
    parser.add_argument("what", choices=("check", "show", "example"), help=text)
    text = f"configuration file (default: {DEVICE_FILE}, where it is there)"
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help=text)
    text = "with show: override one option, for example limits.max_charge_current=80"
    parser.add_argument("--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help=text)


def _config(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.what == "example":
        print(settings.example(), end="")
        return 0
    file = args.file or DEVICE_FILE
    if not file.exists() and (args.file or args.what == "check"):
        parser.exit(1, f"dbus-smartbms config: there is no file {file}\n")
    try:
        configuration = load(file, args.set)
    except ValueError as error:
        parser.error(str(error))
    if args.what == "show":
        print(configuration.show(), end="")
    for problem in configuration.problems:
        print(problem, file=sys.stderr if args.what == "show" else sys.stdout)
    if args.what == "check" and not configuration.problems:
        print(f"{file}: no mistakes")
    return 1 if configuration.problems else 0


def _archive(text: str) -> Path:
    from .report import ENDINGS

    if not text.endswith(ENDINGS) or os.path.isdir(text):  # noqa: PTH112  Path's raises where it may not look
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of an archive ({', '.join(ENDINGS)})")
    return Path(text)


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    text = "also write an archive to attach (default: dbus-smartbms-report.tgz here, else in /data or /tmp)"
    parser.add_argument("--report", metavar="FILE", nargs="?", type=_archive, const=Path(), help=text)
    text = "how long to capture where the driver does not run, at most 600 (default: 60)"
    parser.add_argument("--seconds", metavar="S", type=_seconds, default=60.0, help=text)
    text = "where the device's files are (default: /)"
    parser.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help=text)


def _doctor(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.seconds > 600:
        parser.error("argument --seconds: at most 600")
    try:
        from . import doctor, findings
        from .gx import Gx, hide
    except ImportError as error:
        parser.exit(1, f"dbus-smartbms doctor: the package is not whole ({error}); install it again\n")
    logs.start("error")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that does not know a letter of a name
    gx = Gx(args.root.absolute())
    facts = doctor.gather(gx)
    text = hide("\n".join(doctor.report(facts)), gx.secrets())
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the archive is written nevertheless
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    written = True
    if args.report is not None:
        written = _write_report(args, gx, facts, text)
    return 0 if written and not findings.findings(facts) else 1


def _write_report(args: argparse.Namespace, gx: Gx, facts: Facts, text: str) -> bool:
    """Whether the archive could be written; says what is in it."""
    from . import report

    paths = report.places(gx) if args.report == Path() else [args.report]
    print(f"\ncapturing what the cable sends, at most {args.seconds:g} s ...", flush=True)
    taken = report.capture(gx, facts, args.seconds)
    print(taken.text, flush=True)
    files = report.members(gx, f"{text}\n\n{taken.text}\n", taken)
    try:
        path, size = report.write_one(paths, files)
    except OSError as error:
        where = " or ".join(map(str, paths))
        print(f"the report cannot be written to {where}: {error.strerror}; name another place: --report FILE")
        return False
    print(f"written: {path} ({size // 1024 + 1} kB) with {', '.join(files)}")
    return True


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=_cells, default=16, help="number of cells, 2 to 255 (default: 16)")
    parser.add_argument("--seconds", metavar="S", type=_seconds, help="how long (default: until Ctrl-C)")


def _demo(args: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    from .demo import demo

    return demo(args.cells, args.seconds)


def _picture(text: str) -> Path:
    from .plot import FORMATS

    if Path(text).suffix.lower() not in FORMATS or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a picture ({', '.join(FORMATS)})")
    return Path(text)


def _plot_options(parser: argparse.ArgumentParser) -> None:
    text = "lines that replay reads, such as those that record writes; - is standard input"
    parser.add_argument("capture", metavar="CAPTURE", help=text)
    text = "the picture: .png, .svg or .pdf (default: named like CAPTURE, .png, in the current folder)"
    parser.add_argument("--output", metavar="FILE", type=_picture, help=text)
    parser.add_argument("--title", metavar="TEXT", help="what stands over it (default: the capture's name)")
    _settings_options(parser)


def _plot(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from . import plot
    from .series import PlotError

    configuration = _configuration(args, parser)
    _say_problems(configuration)
    path = args.output or plot.output(args.capture)
    try:
        columns = plot.plot(args.capture, path, args.title, configuration)
    except PlotError as error:
        parser.exit(1, f"dbus-smartbms plot: {error}\n")
    if columns.damaged:
        log.warning(
            "%d of %d lines are damaged and left out; %s", columns.damaged, columns.lines, columns.damage
        )
    log.info("%s: %d frames", path, columns.frames)
    return 0


def _paths(_args: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    from .paths import markdown

    print(markdown(), end="")
    return 0


def _tables_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generation", choices=settings.GENERATIONS, help="only this one (default: all)")
    parser.add_argument("--mode", choices=settings.MODES, help="only this one (default: both)")
    text = "a frame (116 hex digits) or a capture, whose last frame is run through the tables"
    parser.add_argument("--explain", metavar="FRAME", help=text)
    _settings_options(parser)


def _tables(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from . import tables

    if args.explain is None:
        if args.config or args.set:
            parser.error("--config and --set belong to --explain: the tables alone depend on nothing")
        print(tables.markdown(args.generation, args.mode), end="")
        return 0
    from .replay import explain

    for name in ("generation", "mode"):
        if getattr(args, name):
            args.set.append(f"pack.{name}={getattr(args, name)}")
    configuration = _configuration(args, parser)
    _say_problems(configuration)
    try:
        print(explain(args.explain, configuration), end="")
    except (ValueError, OSError) as error:
        parser.exit(
            1,
            f"dbus-smartbms tables: {args.explain if '/' in args.explain else args.explain[:60]}: {error}\n",
        )
    return 0


COMMANDS = (
    Command("run", "drive the battery: cable in, D-Bus service out",
            "dbus-smartbms run --device /dev/ttyUSB0 --config /data/conf/dbus-smartbms.ini",
            _run_options, _run),
    Command("config", "check the configuration, show what is in force, print the example",
            "dbus-smartbms config check /data/conf/dbus-smartbms.ini",
            _config_options, _config),
    Command("doctor", "look at a GX device: cable, service, configuration, bus, log, and say what is wrong",
            "dbus-smartbms doctor --report",
            _doctor_options, _doctor),
    Command("simulate", "a simulated pack on a serial line",
            "dbus-smartbms simulate --chemistry LFP --cells 16 --load 2000",
            _simulate_options, _simulate),
    Command("record", "write down what the cable sends",
            "dbus-smartbms record --device /dev/ttyUSB0 --seconds 60 --output capture.jsonl",
            _record_options, _record),
    Command("replay", "what the driver makes of a capture, without cable and bus",
            "dbus-smartbms replay --items < capture.jsonl",
            _replay_options, _replay),
    Command("plot", "a capture as a picture: cells, current, limits and their reasons, state of charge",
            "dbus-smartbms plot capture.jsonl --output capture.svg",
            _plot_options, _plot),
    Command("demo", "a simulated pack, the driver and a bus of its own, shown live",
            "dbus-smartbms demo --seconds 30",
            _demo_options, _demo),
    Command("tables", "the BMS's tables as the driver has them, or a frame run through them",
            "dbus-smartbms tables --generation C --mode critical --explain capture.jsonl",
            _tables_options, _tables),
    Command("paths", "all D-Bus paths as a Markdown table",
            "dbus-smartbms paths",
            lambda _parser: None, _paths),
)  # fmt: skip
