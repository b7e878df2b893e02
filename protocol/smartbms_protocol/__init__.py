r"""Decoder for the extended data output of the 123\SmartBMS: bytes in, readings out.

Standard library only, no I/O, no clock.  ``layout`` is the data sheet as tables, ``frame``
one frame, ``stream`` bytes in any pieces to frames, ``pack`` frames to the newest readings.
Units are in the names: mV, mA, Wh, ``raw`` for temperatures before conversion (``CELSIUS``).
"""

from .frame import CELSIUS, Damage, Frame, decode, encode, read
from .layout import BIT_RATE, FRAME_SIZE
from .pack import PackState, Reading, Taken
from .stream import FrameStream

__all__ = [
    "BIT_RATE",
    "CELSIUS",
    "FRAME_SIZE",
    "Damage",
    "Frame",
    "FrameStream",
    "PackState",
    "Reading",
    "Taken",
    "decode",
    "encode",
    "read",
]
