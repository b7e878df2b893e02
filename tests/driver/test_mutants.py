"""The tests of what must not be wrong, tested: each fault put into it is noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mutants
from dbus_smartbms import mirror


def test_every_mutant_of_the_mirror_is_noticed() -> None:
    spec = importlib.util.spec_from_file_location("test_mirror", Path(__file__).with_name("test_mirror.py"))
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    before = mirror.step
    outcome = mutants.run(mirror, tests)
    assert mirror.step is before
    assert outcome.survivors == []
    assert outcome.mutants > 700
