"""A GX for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from setup.gx import Gx, why_not


@pytest.fixture
def gx(tmp_path: Path) -> Iterator[Gx]:
    """A machine that is off, with a new device's /data.  Skips the test where none can be had."""
    if why_not():
        pytest.skip(why_not())
    with Gx(tmp_path / "gx") as machine:
        yield machine
