"""Settings for all tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import rig

# The same examples each time, however slow the machine: a red test is a change, never luck.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")


@pytest.fixture
def untraced() -> Iterator[None]:
    """Nothing that the test runs is measured: for hours of simulation, and for faults put into a module."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[rig.Daemon]:
    """A dbus-daemon of the test's own."""
    with rig.daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def session_bus(bus: rig.Daemon, monkeypatch: pytest.MonkeyPatch) -> rig.Daemon:
    """The same, also for whoever looks into the environment."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
    return bus
