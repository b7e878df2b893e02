"""The tests of what must not be wrong, tested: each fault put into it is noticed."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

import mutants

TESTED_BY = {
    "manuals": ("test_mirror", 350),
    "mirror": ("test_mirror", 300),
    "ratings": ("test_ratings", 100),
    "rules": ("test_rules", 75),
    "sag": ("test_sag", 70),
    "voltage": ("test_voltage", 150),
    "limits": ("test_limits", 210),
    "stages": ("test_stages", 130),
    "shares": ("test_shares", 55),
    "parallel": ("test_parallel", 260),
}
"""A module, its tests, and how many mutants it has at the least."""


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", TESTED_BY)
def test_every_mutant_is_noticed(name: str) -> None:
    file, at_least = TESTED_BY[name]
    spec = importlib.util.spec_from_file_location(file, Path(__file__).with_name(f"{file}.py"))
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    module = importlib.import_module(f"dbus_smartbms.{name}")
    before = dict(vars(module))
    outcome = mutants.run(module, tests)
    assert vars(module) == before
    assert outcome.survivors == []
    assert outcome.mutants > at_least
