"""``setup.sh`` and the service scripts where things are missing: one line says what to type."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import rig

TOOLS = ("sh", "dirname", "readlink", "id", "mktemp", "tail", "rm", "cat", "touch")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with the plain tools, and neither apt-get nor Python nor dbus-daemon."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or "/missing")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of setup.sh, so that nothing happens to the checkout."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(rig.ROOT / "setup.sh", folder)
    shutil.copy(rig.ROOT / "pyproject.toml", folder)
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def setup(project: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "HOME": os.environ.get("HOME", "/")}
    command = ["/bin/sh", str(project / "setup.sh"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_no_dbus_daemon(project: Path, bare: Path) -> None:
    ended = setup(project, bare, "demo")
    assert ended.returncode == 1
    assert ended.stderr == ("setup.sh: dbus-daemon is missing; install it with: sudo apt-get install dbus\n")


def test_no_python(project: Path, bare: Path) -> None:
    program(bare, "dbus-daemon", "exit 0")
    ended = setup(project, bare, "test")
    assert ended.returncode == 1
    assert ended.stderr.startswith("setup.sh: Python 3.11 or later is needed; install it with: sudo apt-get")


def test_an_old_python(project: Path, bare: Path) -> None:
    program(bare, "dbus-daemon", "exit 0")
    program(bare, "python3", "exit 1")  # what "is it 3.11 or later?" answers on 3.9
    assert "Python 3.11 or later is needed" in setup(project, bare, "test").stderr


def test_no_venv_module(project: Path, bare: Path) -> None:
    program(bare, "dbus-daemon", "exit 0")
    program(bare, "python3", '[ "$1" = -m ] && exit 1; exit 0')
    ended = setup(project, bare, "demo")
    assert ended.returncode == 1
    assert "the venv module is missing; install it with: sudo apt-get install python3-venv" in ended.stderr
    assert not (project / ".venv").exists()


@pytest.mark.skipif(
    os.geteuid() != 0, reason="apt is only used as root: run the tests as root to see this one"
)
def test_what_is_missing_is_installed_where_it_can_be(project: Path, bare: Path) -> None:
    log = bare.parent / "apt.log"
    program(bare, "apt-get", f'echo "$@" >> {log}; [ "$1" = update ] || : > {bare}/dbus-daemon')
    setup(project, bare, "demo")
    assert log.read_text().splitlines()[:2] == ["update", "install -y --no-install-recommends dbus"]


@pytest.mark.parametrize("words", [[], ["fly"]])
def test_wrong_words_exit_with_2_and_the_usage(project: Path, bare: Path, words: list[str]) -> None:
    ended = setup(project, bare, *words)
    assert ended.returncode == 2
    assert "usage: ./setup.sh demo" in ended.stderr


def test_help_has_examples(project: Path, bare: Path) -> None:
    ended = setup(project, bare, "--help")
    assert ended.returncode == 0
    assert "examples:\n  ./setup.sh demo" in ended.stdout


@pytest.mark.parametrize(("machine", "limit"), [("armv7l", "100000000"), ("aarch64", "400000000")])
def test_the_service_runs_the_driver_under_memory_limits(bare: Path, machine: str, limit: str) -> None:
    program(bare, "uname", f"echo {machine}")
    program(bare, "softlimit", 'echo "$@"')
    ended = subprocess.run(
        ["/bin/sh", str(rig.ROOT / "service" / "run")],
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
        check=True,
    )
    begin, _, end = ended.stdout.partition("/dbus-smartbms run ")
    assert begin.startswith(f"-d 100000000 -s 1000000 -a {limit} python3 -I -S -B -u ")
    assert end == (
        "--config /data/conf/dbus-smartbms.ini --state /data/conf/dbus-smartbms.state "
        "--runtime /run/dbus-smartbms\n"
    )


@pytest.mark.parametrize(
    ("can_write", "folder"), [("*", "/var/log/dbus-smartbms"), ("/run/*", "/run/dbus-smartbms/log")]
)
def test_the_log_is_bounded(bare: Path, can_write: str, folder: str) -> None:
    program(bare, "multilog", 'echo "$@"')
    program(bare, "mkdir", "exit 0")
    (bare / "touch").unlink()
    program(bare, "touch", f"case $1 in {can_write}) exit 0 ;; esac; exit 1")
    script = rig.ROOT / "service" / "log" / "run"
    ended = subprocess.run(
        ["/bin/sh", str(script)], env={"PATH": str(bare)}, capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"t s25000 n4 {folder}\n"
