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
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise ValueError(f"it is of version {found['version']!r}")
        return {cable: _counted(entry) for cable, entry in found["packs"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"the state file {path} cannot be read ({error.strerror}): it is ignored") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the state file {path} is damaged ({error}): it is ignored") from None


def _counted(entry: Any) -> Counted:
    counted = Counted(**entry)
    for name, value, most in zip(Counted._fields, counted, (255, MOST_WH, 100, 100), strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}")
    return counted


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
