"""The archives, built once for all tests here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rig
from dbus_smartbms import __version__


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Built from this folder: the archive for SSH, and the one for a stick; their sums are beside them."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, str(rig.ROOT / "packaging" / "build.py"), "--output", str(folder)]
    ended = subprocess.run(build, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    name = f"dbus-smartbms-{__version__}.tgz"
    return folder / name, folder / f"venus-data-{name}"


@pytest.fixture(scope="session")
def package(archive: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked package folder; to be read and run, not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    subprocess.run(["tar", "xzf", str(archive[0]), "-C", str(folder)], check=True, umask=0o022)
    return folder / "apps" / f".dbus-smartbms-{__version__}.new"
