"""What outlives the driver, in a small file of JSON, one entry a pack.

Flash wears out: the driver writes rarely.  Power goes: the file is replaced whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .mirror import Counted
from .ratings import MOST_WH
from .rules import NO_WISHES, Wishes
from .stages import STAGES, Stage

VERSION = 1
LONGEST_NAME = 32
"""Characters of /CustomName, as gui-v2 limits it."""
MOST_INSTANCE = 0xFFFF
_EVER = 10**9
"""Seconds: what a count of them can be."""
_MOST = {
    "cells": 255, "capacity_wh": MOST_WH, "soc": 100, "bms_soc": 100,
    "since_s": _EVER, "asked_s": _EVER, "unfull_s": _EVER, "lasted_s": _EVER, "full_s": _EVER,
    "denied_s": _EVER, "low_s": _EVER,
    "max_charge_current": 10_000, "max_discharge_current": 10_000,
}  # fmt: skip
"""Numbers, each from 0 to here."""


class Pack(NamedTuple):
    """What is known of a pack."""

    counted: Counted
    stage: Stage = Stage()


class Saved(NamedTuple):
    """What the file holds: packs by their cables, and what was set over the bus."""

    packs: Mapping[str, Pack] = {}
    wishes: Wishes = NO_WISHES
    name: str = ""
    """/CustomName"""
    instance: int | None = None
    """The device instance that localsettings keeps; None: never asked."""


def read(path: Path) -> Saved:
    """What was saved; nothing where there is no file.

    Raises ValueError, with a sentence, for a file that is damaged or cannot be read.
    """
    try:
        return _saved(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Saved()
    except OSError as error:
        raise ValueError(f"the state file {path} cannot be read ({error.strerror}): it is ignored") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the state file {path} is damaged ({error}): it is ignored") from None


def _saved(found: Any) -> Saved:
    if not isinstance(found, dict) or "version" not in found:
        raise ValueError("it does not say its version")
    if found["version"] != VERSION:
        raise ValueError(f"it is of version {found['version']!r:.40}, not {VERSION}")
    if not isinstance(found.get("packs"), dict):
        raise ValueError("it has no packs")
    packs = {cable: _pack(entry) for cable, entry in found["packs"].items()}
    wishes = Wishes(**_read("the wishes", found.get("wishes", {}), Wishes._field_defaults, ()))
    name, instance = found.get("name", ""), found.get("instance")
    if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ValueError(f"name is {name!r:.40}, not a text of at most {LONGEST_NAME} characters")
    if instance is not None and (type(instance) is not int or not 0 <= instance <= MOST_INSTANCE):
        raise ValueError(f"instance is {instance!r:.40}, not a number from 0 to {MOST_INSTANCE}")
    return Saved(packs, wishes, name, instance)


def _pack(entry: Any) -> Pack:
    stage: Any = {}
    if isinstance(entry, dict):
        stage = entry.get("stage", {})
        entry = {name: value for name, value in entry.items() if name != "stage"}
    counted = _read("a pack", entry, {}, Counted._fields)
    return Pack(Counted(**counted), Stage(**_read("a charge", stage, Stage._field_defaults, ())))


def _read(what: str, entry: Any, defaults: Mapping[str, Any], needed: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an entry, each checked; those with a default may be missing, and be what that is."""
    if not isinstance(entry, dict) or not set(needed) <= entry.keys() <= {*needed, *defaults}:
        names = ", ".join((*needed, *defaults))
        raise ValueError(f"of {what} it has to say {names}, and nothing else")
    for name, value in entry.items():
        default = defaults.get(name, 0)
        if name == "name":
            good = value in STAGES
        elif isinstance(default, bool):
            good = isinstance(value, bool)
        elif value is None:
            good = default is None
        else:
            good = not isinstance(value, bool) and isinstance(value, (int, float))
            good = good and 0 <= value <= _MOST[name]
        if not good:
            allowed = f"a number from 0 to {_MOST[name]}" if name in _MOST else "what it can be"
            raise ValueError(f"{name} is {value!r:.40}, not {allowed}")
    return entry


def write(path: Path, saved: Saved) -> None:
    """Replace the file.  Raises OSError when that cannot be done; the old file is then as it was."""
    packs = {
        cable: pack.counted._asdict() | {"stage": pack.stage._asdict()} for cable, pack in saved.packs.items()
    }
    whole = {
        "version": VERSION, "name": saved.name, "instance": saved.instance, "wishes": saved.wishes._asdict(),
        "packs": packs,
    }  # fmt: skip
    text = json.dumps(whole, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
