"""Runs the driver from this folder, with nothing installed: ``python3 dbus-smartbms run``."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# What travels with an archive comes first: a GX has a pyserial of its own. A clone has no vendor folder.
_FOLDERS = [_ROOT / "vendor", _ROOT / "dbus-smartbms", _ROOT / "protocol"]
sys.path[:0] = [str(folder) for folder in _FOLDERS if folder.is_dir()]

from dbus_smartbms.cli import main  # noqa: E402  the path comes first

sys.exit(main())
