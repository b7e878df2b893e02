"""Runs the driver from this folder, with nothing installed: ``python3 dbus-smartbms run``."""

import importlib
import json
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# What travels with an archive comes first: a GX has a pyserial of its own. A clone has no vendor folder.
_FOLDERS = [_ROOT / "vendor", _ROOT / "dbus-smartbms", _ROOT / "protocol"]
sys.path[:0] = [str(folder) for folder in _FOLDERS if folder.is_dir()]

if "--runtime" in sys.argv[:-1]:
    # On a device compiled files go to RAM: what a power cut leaves of one on a disk can keep a program from
    # starting for ever. Python's own are on the image; they are loaded before, or they would be made again.
    if json.__spec__ and Path(json.__spec__.cached or "").exists():
        for _name in (
            "argparse",
            "asyncio",
            "dataclasses",
            "tempfile",
            "urllib.parse",
            "xml.etree.ElementTree",
        ):
            importlib.import_module(_name)
    sys.dont_write_bytecode = False  # the service starts Python with -B, for this file
    sys.pycache_prefix = str(Path(sys.argv[sys.argv.index("--runtime") + 1]) / "pycache")

from dbus_smartbms.cli import main  # noqa: E402  the path comes first

sys.exit(main())
