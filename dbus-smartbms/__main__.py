"""Runs the driver from this folder, with nothing installed: ``python3 dbus-smartbms run``."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "protocol"), str(_HERE.parent / "vendor")]

from dbus_smartbms.cli import main  # noqa: E402  the path comes first

sys.exit(main())
