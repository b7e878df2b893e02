"""What outlives the driver, in a small file of JSON, one entry a pack.

Flash wears out: the driver writes rarely.  Power goes: the file is replaced whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .mirror import Counted
from .ratings import MOST_WH

VERSION = 1


def read(path: Path) -> dict[str, Counted]:
    """What was saved, by the pack's cable; empty where there is no file.

    Raises ValueError, with a sentence, for a file that is damaged or cannot be read.
    """
    try:
        return _packs(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"the state file {path} cannot be read ({error.strerror}): it is ignored") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the state file {path} is damaged ({error}): it is ignored") from None


def _packs(found: Any) -> dict[str, Counted]:
    if not isinstance(found, dict) or "version" not in found:
        raise ValueError("it does not say its version")
    if found["version"] != VERSION:
        raise ValueError(f"it is of version {found['version']!r:.40}, not {VERSION}")
    if not isinstance(found.get("packs"), dict):
        raise ValueError("it has no packs")
    return {cable: _counted(entry) for cable, entry in found["packs"].items()}


def _counted(entry: Any) -> Counted:
    if not isinstance(entry, dict) or entry.keys() != set(Counted._fields):
        raise ValueError(f"of a pack it has to say {', '.join(Counted._fields)}, and nothing else")
    for name, most in zip(Counted._fields, (255, MOST_WH, 100, 100), strict=True):
        value = entry[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r:.40}, not a number from 0 to {most}")
    return Counted(**entry)


def write(path: Path, packs: Mapping[str, Counted]) -> None:
    """Replace the file.  Raises OSError when that cannot be done; the old file is then as it was."""
    entries = {cable: counted._asdict() for cable, counted in packs.items()}
    text = json.dumps({"version": VERSION, "packs": entries}, indent=1) + "\n"
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
