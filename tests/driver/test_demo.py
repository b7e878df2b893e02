"""The demo as a newcomer starts it: in a terminal, and into a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rig


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, to see that none is left behind; short, for a socket is in it."""
    with tempfile.TemporaryDirectory(prefix="bms") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def nothing_is_left(scratch: Path) -> bool:
    running = subprocess.run(["pgrep", "-f", str(scratch)], capture_output=True, check=False).stdout
    return not list(scratch.iterdir()) and not running


def test_without_a_terminal_it_prints_plain_lines(scratch: Path) -> None:
    command = [*rig.PROGRAM, "demo", "--seconds", "6", "--cells", "4"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout
    assert re.search(r"^pack +\d+\.\d\d V +-?\d+\.\d A .* SoC \d+\.\d %", ended.stdout, re.MULTILINE)
    assert re.search(r"^CVL +13\.72 V  4 cells x 3\.43 V$", ended.stdout, re.MULTILINE)
    assert re.search(r"^cell   1   3\.\d{3} V  \d+\.\d °C", ended.stdout, re.MULTILINE)
    assert nothing_is_left(scratch)


def test_ctrl_c_in_a_terminal_ends_it_cleanly(scratch: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.execv(rig.PROGRAM[0], [*rig.PROGRAM, "demo"])  # noqa: S606  that is what is tested
    screen = b""
    end = time.monotonic() + rig.PATIENCE_S
    while b"cell  16" not in screen and time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            screen += os.read(terminal, 65536)  # an error here: the demo ended by itself
    assert b"\x1b[H" in screen
    os.write(terminal, b"\x03")
    while time.monotonic() < end:
        try:
            screen += os.read(terminal, 65536)
        except OSError:  # the terminal's last process has ended
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 130)
    os.close(terminal)
    assert b"Traceback" not in screen
    assert nothing_is_left(scratch)


def test_a_part_that_does_not_come_up_is_named(scratch: Path, tmp_path: Path) -> None:
    """A dbus-daemon that ends at once stands for a broken installation."""
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "dbus-daemon"
    broken.write_text("#!/bin/sh\necho 'no such file: libdbus' >&2\nexit 3\n")
    broken.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    ended = subprocess.run(
        [*rig.PROGRAM, "demo"], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "dbus-smartbms demo: a part ended with status 3: no such file: libdbus" in ended.stderr
    assert nothing_is_left(scratch)


def test_without_a_dbus_daemon_it_says_what_to_type(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    ended = subprocess.run(
        [*rig.PROGRAM, "demo"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "dbus-smartbms demo: dbus-daemon is missing; install it: apt-get install dbus\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_kill_or_a_closed_window_ends_it_cleanly(scratch: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([*rig.PROGRAM, "demo", "--cells", "2"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "123\\SmartBMS" in process.stdout.readline()
    process.send_signal(number)
    assert process.wait(rig.PATIENCE_S) == 0
    process.stdout.close()
    assert nothing_is_left(scratch)
