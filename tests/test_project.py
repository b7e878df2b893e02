"""What holds for the project as a whole: imports, documents, the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rig
from dbus_smartbms import __version__, cli, paths, settings
from dbus_smartbms.configuration import load

PACKAGE = rig.ROOT / "dbus-smartbms" / "dbus_smartbms"

# Standard modules that are on every GX device, from Venus OS's build recipes. dbus-next needs urllib, which
# is in python3-core; pyserial needs glob, which is in python3-shell, which python3-io needs. (tarfile:
# OpenEmbedded's manifest of Python has it in one package with zipfile, and the core depends on that.)
ON_A_GX = {
    "__future__", "argparse", "asyncio", "collections", "concurrent", "contextlib", "dataclasses",
    "encodings", "enum", "errno", "faulthandler", "functools", "glob", "importlib", "io", "itertools", "json",
    "logging", "math", "operator", "os", "pathlib", "re", "select", "shutil", "signal", "stat", "struct",
    "subprocess", "sys", "tarfile", "tempfile", "termios", "textwrap", "threading", "time", "typing",
    "urllib", "weakref", "xml",
}  # fmt: skip
NOT_PROMISED = {
    "compileall", "curses", "difflib", "getpass", "importlib.metadata", "importlib.resources", "mmap",
    "multiprocessing", "pty", "resource", "sqlite3", "statistics", "syslog", "tomllib", "tty", "unittest",
    "zoneinfo",
}  # fmt: skip
"""Standard modules that a GX may be without: Venus OS has the library in pieces."""
TRAVELLING = {"dbus_next", "serial", "serial_asyncio", "smartbms_protocol"}
NOT_ON_A_GX = {"simulator", "plant", "simulated_bms", "house", "demo", "plot", "series"}
"""Modules of ours that a GX never runs."""

BELOW = {
    "settings": set(), "logs": set(), "watchdog": {"logs"}, "history": set(), "alarms": set(), "link": set(),
    "configuration": {"settings"},
    "ratings": {"settings"},
    "manuals": set(),
    "mirror": {"manuals", "ratings", "settings"},
    "agreement": {"manuals", "mirror", "settings"},
    "tables": {"manuals", "mirror", "settings"},
    "state": {"mirror", "ratings", "rules", "stages"},
    "starts": set(), "capture": set(),
    "sag": set(), "voltage": set(), "stages": set(),
    "rules": {"ratings", "sag", "settings", "stages"},
    "limits": {"mirror", "ratings", "rules", "sag", "settings", "stages", "voltage"},
    "pack": {"agreement", "alarms", "history", "limits", "mirror", "ratings", "rules", "settings", "stages"},
    "shares": set(),
    "parallel": {"limits", "rules", "settings", "shares", "stages"},
    "bank": {"configuration", "limits", "pack", "parallel", "rules", "settings", "shares", "stages"},
    "views": {"bank", "limits", "pack", "ratings", "rules"},
    "paths": {"alarms", "mirror", "views"},
    "items": {"bank", "paths", "views"},
    "bus": {"items", "views"},
    "presence": {"bus", "items", "state", "views"},
    "use": {"bus", "views"},
    "sayer": {"bank", "items", "views"},
    "driver": {
        "bank", "capture", "configuration", "items", "link", "pack", "paths", "presence", "rules", "sayer",
        "settings", "starts", "state", "use", "views", "watchdog",
    },
    "gx": {"link", "starts"},
    "usb": {"gx", "link"},
    "survey": {"bus", "use"},
    "findings": {"configuration", "gx", "link", "settings", "starts", "survey", "usb", "use"},
    "doctor": {"configuration", "findings", "gx", "survey", "usb", "use"},
    "report": {"findings", "gx", "link", "replay", "usb"},
    "replay": {"bank", "capture", "configuration", "items", "link", "pack", "tables", "views"},
    "series": {"bank", "configuration", "limits", "mirror", "pack", "replay"},
    "plot": {"configuration", "ratings", "series"},
    "simulated_bms": set(), "plant": {"simulated_bms"}, "simulator": {"plant", "simulated_bms"},
    "house": set(),
    "demo": {"bus", "driver"},
    "cli": {
        "configuration", "logs", "settings", "driver", "replay", "plot", "simulator", "demo", "paths",
        "series", "tables", "doctor", "findings", "gx", "report",
    },
}  # fmt: skip
"""What each module may import of ours: dependencies point one way."""


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The modules that a file imports: of others (their top names), and of ours."""
    others, ours = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            ours |= {node.module} if node.module else {alias.name for alias in node.names}
    return others, ours & set(BELOW)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_dependencies_point_one_way(path: Path) -> None:
    assert imports(path)[1] <= BELOW.get(path.stem, set())


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_imported_that_a_gx_does_not_have(path: Path) -> None:
    if path.stem not in NOT_ON_A_GX:
        assert imports(path)[0] <= ON_A_GX | TRAVELLING


def test_one_module_sees_the_dbus_library() -> None:
    naming = {path.stem for path in PACKAGE.glob("*.py") if "dbus_next" in path.read_text()}
    assert naming == {"bus"}


def test_nothing_pure_reads_a_clock() -> None:
    for name in (
        "ratings",
        "mirror",
        "agreement",
        "tables",
        "limits",
        "pack",
        "shares",
        "parallel",
        "bank",
        "alarms",
        "history",
        "items",
        "views",
        "paths",
        "settings",
        "plant",
        "house",
        "simulated_bms",
        "starts",
        "capture",
    ):
        assert not imports(PACKAGE / f"{name}.py")[0] & {"time", "asyncio", "datetime"}, name


def test_nothing_reads_the_wall_clock() -> None:
    """Clock jumps change nothing: a GX boots in 1970 and learns the time later."""
    for path in PACKAGE.glob("*.py"):
        assert "time.time(" not in path.read_text(), path
        assert "datetime" not in imports(path)[0], path


def test_the_documented_paths_are_the_rows() -> None:
    assert paths.markdown() in (rig.ROOT / "docs" / "dbus-paths.md").read_text()


def test_the_example_configuration_is_the_rows_and_reads_without_a_problem(tmp_path: Path) -> None:
    text = (rig.ROOT / "docs" / "dbus-smartbms.ini").read_text()
    assert text == settings.example()
    file = tmp_path / "all.ini"
    file.write_text(
        "\n".join(line[1:] if line[:1] == "#" and line[1:2] != " " else line for line in text.split("\n"))
    )
    configuration = load(file, [])
    assert configuration.problems == []
    assert configuration.settings == settings.Settings()


@pytest.mark.parametrize("command", [[], *([row.name] for row in cli.COMMANDS)], ids=" ".join)
def test_every_help_has_an_example(command: list[str]) -> None:
    ended = subprocess.run([*rig.PROGRAM, *command, "--help"], capture_output=True, text=True, check=True)
    assert "example" in ended.stdout
    assert f"dbus-smartbms {' '.join(command)}" in ended.stdout


def test_the_version_is_said() -> None:
    ended = subprocess.run([*rig.PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"dbus-smartbms {__version__}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "--fast"], "unrecognized arguments: --fast"),
        (
            ["run", "--set", "limits.max_charge=80"],
            "there is no option limits.max_charge, did you mean limits.max_charge_current?",
        ),
        (["run", "--set", "limits.charge_rate=9"], "'9' is not a number from 0 to 5 C"),
        (["record", "--seconds", "soon"], "'soon' is not a number of seconds over 0"),
        (["demo", "--cells", "1"], "'1' is not a number of cells from 2 to 255"),
        (["replay", "--set", "pack.generation=D"], "'D' is not one of A, B, C"),
    ],
)
def test_wrong_options_exit_with_2_and_a_sentence(words: list[str], sentence: str) -> None:
    ended = subprocess.run(
        [*rig.PROGRAM, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_runs_from_the_folder_with_nothing_but_its_dependencies() -> None:
    """As on a GX: isolated, and without site-packages the decoder and --version still work."""
    command = [sys.executable, "-I", "-S", str(rig.ROOT / "dbus-smartbms"), "--version"]
    assert __version__ in subprocess.run(command, capture_output=True, text=True, check=True).stdout
