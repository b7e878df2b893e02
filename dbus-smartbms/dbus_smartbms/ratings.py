"""What a pack is rated for, as its settings on the wire have it: chemistry, nominal voltage, capacity.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from smartbms_protocol import Frame, PackState

from .settings import Settings

LOWEST_CELL_MV = 1500
"""The BMS measures cells from here on (manuals B and C, "cell voltage range"): when not even the
highest cell reads so much, none is measured."""
MOST_WH = 0xFFFF * 100
"""Where the capacity setting ends on the wire."""
ADVISED_VNOM_MV = {"LFP": 3300, "LTO": 2400, "NMC": 3700, "NCA": 3600}
"""Nominal cell voltages the manual of generation C advises: used until the pack's own is known."""


def balance_mv(settings: Settings, frame: Frame) -> int:
    """Vbalance; where balancing is off (0 on the wire), Vmax less the margin."""
    return frame.vbalance_mv or max(0, frame.vmax_mv - round(settings.charge_margin_mv))


def chemistry(settings: Settings, frame: Frame, vnom_mv: int | None) -> str:
    """LFP, LTO, NMC or NCA: as configured, else told from Vbalance and Vnom (manuals' advice)."""
    if settings.chemistry != "auto":
        return settings.chemistry
    balance = balance_mv(settings, frame)
    if balance < 3000:
        return "LTO"
    if balance < 3800:
        return "LFP"
    return "NCA" if vnom_mv and vnom_mv < 3650 else "NMC"


def vnom_mv(pack: PackState, frame: Frame) -> int | None:
    """Vnom, unless no cell can have it: too low a number would make the Ah, and the limits, too high."""
    vnom = pack.pair("vnom_mv")
    return vnom if vnom and vnom >= max(frame.vmin_mv, LOWEST_CELL_MV) else None


def capacity_mah(settings: Settings, pack: PackState) -> int:
    """The capacity setting in mAh at the nominal voltage; 0 before the first frame."""
    frame = pack.frame
    if frame is None:
        return 0
    known = vnom_mv(pack, frame)
    nominal_mv = known or ADVISED_VNOM_MV[chemistry(settings, frame, known)]
    return frame.capacity_wh * 1_000_000 // (frame.cells * nominal_mv)
