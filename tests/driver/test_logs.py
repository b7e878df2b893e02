"""A log that nobody reads, as multilog on a full disk: it must stop neither the driver nor its watchdog."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import rig

FILL = (
    "import fcntl, os, time\n"
    "fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_NONBLOCK)\n"
    "try:\n"
    "    while True: os.write(2, bytes(4096))\n"
    "except BlockingIOError: pass\n"
    "fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) & ~os.O_NONBLOCK)\n"
)


def run(code: str) -> tuple[int, bytes]:
    """Run code whose standard error is a full pipe that nobody reads."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", FILL + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        try:
            status = process.wait(rig.PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return status, process.stdout.read()


def test_lines_that_find_no_room_are_lost_and_nothing_waits() -> None:
    code = (
        "import logging\nfrom dbus_smartbms import logs\nlogs.start('info')\n"
        "for _ in range(100): logging.info('a line')\nprint('went on')\n"
    )
    assert run(code) == (0, b"went on\n")


def test_the_watchdog_ends_a_hung_process_all_the_same() -> None:
    code = "from dbus_smartbms import watchdog\nwatchdog.start(0.5)\nwhile True: time.sleep(60)\n"
    assert run(code)[0] == -signal.SIGALRM


def test_a_log_that_is_read_has_its_lines() -> None:
    code = "import logging\nfrom dbus_smartbms import logs\nlogs.start('info')\nlogging.info('a line')\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        env=environment,
        timeout=rig.PATIENCE_S,
        check=True,
    )
    assert ended.stderr == b"INFO a line\n"
