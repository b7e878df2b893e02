"""What outlives the driver, in a small file of JSON, one entry a pack.

Flash wears out: the driver writes rarely.  Power goes: the file is replaced whole or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .mirror import Counted
from .ratings import MOST_WH
from .rules import NO_WISHES, Wishes
from .stages import STAGES, Stage

log = logging.getLogger(__name__)
VERSION = 1
LARGEST = 1_000_000
"""Bytes; ours has half a thousand for a pack.  A larger one could take more memory than there is."""
LONGEST_NAME = 32
"""Characters of /CustomName, as gui-v2 limits it."""
MOST_INSTANCE = 0xFFFF
MOST_WISH = 10_000
_MOST = {
    "cells": 255, "capacity_wh": MOST_WH, "soc": 100, "bms_soc": 100,
    "max_charge_current": MOST_WISH, "max_discharge_current": MOST_WISH,
}  # fmt: skip
"""Numbers, each from 0 to here; the others are counts of seconds."""
_MOST_S = 10**9
COARSE_S = 3600.0
"""Passing time alone is worth a writing only so often."""


class Pack(NamedTuple):
    """What is known of a pack."""

    counted: Counted
    stage: Stage = Stage()
    name: str = ""
    """/CustomName of its own service."""
    instance: int | None = None
    """The device instance of that, as localsettings keeps it or as it was given."""


class Saved(NamedTuple):
    """What the file holds: packs by their cables, and what was set over the bus."""

    packs: Mapping[str, Pack] = {}
    wishes: Wishes = NO_WISHES
    name: str = ""
    """/CustomName"""
    instance: int | None = None
    """The device instance that localsettings keeps; None: never asked."""


class DamagedError(ValueError):
    """What is wrong with the file, in a sentence; ``saved``: what of it is good."""

    def __init__(self, text: str, saved: Saved) -> None:
        super().__init__(text)
        self.saved = saved


def read(path: Path) -> Saved:
    """What was saved; nothing where there is no file.

    Raises DamagedError for a file that is damaged or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        saved, wrong = _saved(json.loads(data.decode()))
    except FileNotFoundError:
        return Saved()
    except OSError as error:
        why = f"the state file {path} cannot be read ({error.strerror}): it is ignored"
        raise DamagedError(why, Saved()) from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the state file {path} is damaged ({error}): it is ignored", Saved()) from None
    if wrong:
        raise DamagedError(f"the state file {path} is damaged ({wrong[0]}): it is ignored", saved)
    return saved


def _saved(found: Any) -> tuple[Saved, list[str]]:
    """What is good, and what is wrong with the rest: one odd pack takes no wish away."""
    if not isinstance(found, dict) or "version" not in found:
        raise ValueError("it does not say its version")
    if found["version"] != VERSION:
        raise ValueError(f"it is of version {found['version']!r:.40}, not {VERSION}")
    if not isinstance(found.get("packs"), dict):
        raise ValueError("it has no packs")
    saved, wrong = Saved(), []
    parts: list[tuple[Callable[[Any], dict[str, Any]], Any]] = [
        (lambda entry: {"wishes": Wishes(**_read("the wishes", entry, Wishes._field_defaults, ()))},
         found.get("wishes", {})),
        (lambda entry: {"name": _name(entry)}, found.get("name", "")),
        (lambda entry: {"instance": _instance(entry)}, found.get("instance")),
        *((lambda entry: {"packs": {**saved.packs, entry[0]: _pack(entry[1])}}, item)
          for item in found["packs"].items()),
    ]  # fmt: skip
    for part, entry in parts:
        try:
            saved = saved._replace(**part(entry))
        except ValueError as error:
            wrong.append(str(error))
    return saved, wrong


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ValueError(f"name is {name!r:.40}, not a text of at most {LONGEST_NAME} characters")
    return name


def _instance(number: Any) -> int | None:
    if number is not None and (type(number) is not int or not 0 <= number <= MOST_INSTANCE):
        raise ValueError(f"instance is {number!r:.40}, not a number from 0 to {MOST_INSTANCE}")
    return number


def _pack(entry: Any) -> Pack:
    rest, entry = entry, entry if isinstance(entry, dict) else {}
    if entry:
        rest = {field: entry[field] for field in entry if field not in Pack._field_defaults}
    counted = _read("a pack", rest, {}, Counted._fields)
    stage = _read("a charge", entry.get("stage", {}), Stage._field_defaults, ())
    name, instance = _name(entry.get("name", "")), _instance(entry.get("instance"))
    return Pack(Counted(**counted), Stage(**stage), name, instance)


def _read(what: str, entry: Any, defaults: Mapping[str, Any], needed: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an entry, each checked; those with a default may be missing, and be what that is."""
    if not isinstance(entry, dict) or not set(needed) <= entry.keys() <= {*needed, *defaults}:
        names = ", ".join((*needed, *defaults))
        raise ValueError(f"of {what} it has to say {names}, and nothing else")
    for name, value in entry.items():
        default, allowed = defaults.get(name, 0), "what it can be"
        if name == "name":
            good = value in STAGES
        elif isinstance(default, bool):
            good = isinstance(value, bool)
        else:
            most = _MOST.get(name, _MOST_S)
            allowed = f"a number from 0 to {most}"
            number = not isinstance(value, bool) and isinstance(value, (int, float))
            good = default is None if value is None else number and 0 <= value <= most
        if not good:
            raise ValueError(f"{name} is {value!r:.40}, not {allowed}")
    return entry


def write(path: Path, saved: Saved) -> None:
    """Replace the file.  Raises OSError when that cannot be done; the old file is then as it was."""
    packs = {
        cable: {
            **pack.counted._asdict(),
            "stage": pack.stage._asdict(), "name": pack.name, "instance": pack.instance,
        }
        for cable, pack in saved.packs.items()
    }  # fmt: skip
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


class Keeper:
    """The state file, if there is one; what goes wrong with it is said once and stops nothing."""

    def __init__(self, path: Path | None) -> None:
        self.saved = Saved()
        self._path = path
        self._said: str | None = None
        self._lock = threading.Lock()
        try:
            self.saved = read(path) if path else self.saved
            if path:
                log.info("state: %d packs known from %s", len(self.saved.packs), path)
        except DamagedError as error:
            self.saved = error.saved
            log.warning("%s", error)

    def write(self, saved: Saved) -> bool:
        """Write what is worth it; False where that could not be done, and is worth to be tried again."""
        if self._path is None or _coarse(saved) == _coarse(self.saved):
            return True
        with self._lock:  # the last writing may come while a slow one is under way
            try:
                write(self._path, saved)
            except (OSError, ValueError) as error:
                text = f"the state file {self._path} cannot be written, which is tried again: {error}"
                if text != self._said:
                    log.warning("%s", text)
                self._said = text
                return False
            if self._said is not None:
                log.info("the state file %s is written again", self._path)
            self.saved = saved
            self._said = None
            return True


def _coarse(saved: Saved) -> object:
    """What makes a writing worth while: all but the seconds of a charge's progress."""
    return saved[1:], {
        cable: (
            pack.counted,
            pack.name,
            pack.instance,
            [int(part // COARSE_S) if isinstance(part, float) else part for part in pack.stage],
        )
        for cable, pack in saved.packs.items()
    }
