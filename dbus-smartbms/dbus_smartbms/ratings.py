"""What a pack is rated for, as its settings on the wire have it: chemistry, nominal voltage, capacity.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from smartbms_protocol import Frame, PackState

from .settings import Settings

LOWEST_CELL_MV = 1500
"""The BMS measures cells from here on (manuals B and C, "cell voltage range"): when not even the
highest cell reads so much, none is measured."""
HIGHEST_CELL_MV = 5000
"""And up to here."""
MOST_WH = 0xFFFF * 100
"""Where the capacity setting ends on the wire."""
ADVISED_VNOM_MV = {"LFP": 3300, "LTO": 2400, "NMC": 3700, "NCA": 3600}
"""Nominal cell voltages the manual of generation C advises: used until the pack's own is known."""
ADVISED_VMIN_MV = {"LFP": 2900, "LTO": 2150, "NMC": 3490, "NCA": 3400}
"""Vmin the same manual advises: used where the BMS's is no cell's voltage."""
OVER_VBALANCE_MV = 100
"""Vmax over Vbalance where Vmax is no cell's voltage: the manuals leave 50 to 300 mV."""
OVER_VMIN_MV = 100
"""Vlow over Vmin where it is not known, or not over it."""


def balance_mv(settings: Settings, frame: Frame) -> int:
    """Vbalance; where balancing is off (0 on the wire), Vmax less the margin."""
    return frame.vbalance_mv or max(0, frame.vmax_mv - round(settings.charge_margin_mv))


def chemistry(settings: Settings, frame: Frame, vnom_mv: int | None) -> str:
    """LFP, LTO, NMC or NCA: as configured, else told from Vbalance and Vnom (manuals' advice)."""
    if settings.chemistry != "auto":
        return settings.chemistry
    balance = balance_mv(settings, frame)
    if LOWEST_CELL_MV <= balance < 3000:  # of what is no cell's voltage LTO would make the most Ah
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


class Thresholds(NamedTuple):
    """The BMS's voltages as the limits go by them, mV a cell: where they make no sense, careful ones."""

    vmin_mv: int
    vlow_mv: int | None
    balance_mv: int
    vmax_mv: int | None
    """None: there is nothing that says how far to charge."""
    wrong: str | None
    """What makes no sense, in words."""

    @property
    def low_mv(self) -> int:
        """Where discharging begins to taper."""
        return self.vlow_mv or self.vmin_mv + OVER_VMIN_MV


def thresholds(settings: Settings, pack: PackState, frame: Frame) -> Thresholds:
    """Read the settings on the wire carefully: each has to be a cell's voltage, in the right order."""
    return _read(
        frame.vmin_mv, pack.pair("vlow_mv"), frame.vbalance_mv, frame.vmax_mv, frame.capacity_wh,
        round(settings.charge_margin_mv), chemistry(settings, frame, vnom_mv(pack, frame)),
    )  # fmt: skip


@lru_cache(maxsize=128)
def _read(
    vmin: int, vlow: int | None, balance: int, vmax: int, capacity_wh: int, margin: int, of_chemistry: str
) -> Thresholds:
    """The same: a person changes these once a year, and they come once a second."""
    wrong = []
    for name, millivolts in (("Vmin", vmin), ("Vmax", vmax), ("Vbalance", balance or LOWEST_CELL_MV)):
        if not _of_a_cell(millivolts):
            wrong.append(f"{name} {millivolts / 1000:.3f} V is no cell's voltage")
    known = balance if _of_a_cell(balance) else None
    read: int | None = vmax
    if vmax > HIGHEST_CELL_MV:
        read = known + OVER_VBALANCE_MV if known else None
    elif vmax < LOWEST_CELL_MV:
        read = None
    elif known and known >= vmax:
        wrong.append(f"Vbalance {known / 1000:.3f} V is not under Vmax {vmax / 1000:.3f} V")
        known = None
    top = known or max(0, vmax - margin)
    if vmin < LOWEST_CELL_MV:
        advised = ADVISED_VMIN_MV[of_chemistry]
        vmin = min(advised, top) if top >= LOWEST_CELL_MV else advised
    elif top <= vmin <= HIGHEST_CELL_MV:
        wrong.append(f"Vmin {vmin / 1000:.3f} V is not under Vbalance or Vmax")
    if vlow and not vmin < vlow < top:
        place = "over Vmin" if vlow <= vmin else "under Vbalance or Vmax"
        wrong.append(f"Vlow {vlow / 1000:.3f} V is not {place}")
        vlow = None
    if not capacity_wh:
        wrong.append("the capacity is 0")
    return Thresholds(vmin, vlow or None, top, read, "; ".join(wrong) or None)


def _of_a_cell(millivolts: int) -> bool:
    return LOWEST_CELL_MV <= millivolts <= HIGHEST_CELL_MV
