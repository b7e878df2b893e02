"""Settings for all tests."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

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
