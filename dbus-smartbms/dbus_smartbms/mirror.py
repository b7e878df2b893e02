r"""The mirror of the BMS's algorithm: its relay tables as rows, evaluated on what the wire tells.

Source of the rows: the manuals, "Charge and load relays" (generation A: 123\SmartBMS manual V1.2;
B: 123\SmartBMS gen3; C: the later gen3 manual).  A relay keeps its state while neither its "on"
nor its "off" row holds; "off" wins.  "All cells" is judged from the extremes of the frame.

Pure: no clock, no I/O.  The mirror can take permission away, never give it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from smartbms_protocol import CELSIUS, Frame, PackState, layout

from .settings import Settings


@dataclass(frozen=True, slots=True)
class Seen:
    """What the conditions look at: a frame, the flags that stand in, the user's thresholds."""

    settings: Settings
    lowest_mv: int
    highest_mv: int
    lowest_cell: int
    highest_cell: int
    coldest_c: float
    hottest_c: float
    hottest_doubtful: bool
    """The hottest reading may be its bleeding board's."""
    vmin_mv: int
    vmax_mv: int
    vbalance_mv: int
    power_w: float | None
    capacity_wh: int
    soc: float
    status: int
    status2: int | None

    def flag(self, bits: int) -> bool:
        """Whether a bit of status byte 1 is set."""
        return bool(self.status & bits)


LOWEST_CELL_MV = 1500
"""The BMS measures cells from here on (manuals B and C, "cell voltage range"): when not even the
highest cell reads so much, none is measured."""


class Condition(NamedTuple):
    """A condition of the tables: when it holds, and how it is said to a user."""

    holds: Callable[[Seen], bool]
    text: Callable[[Seen], str]
    critical: bool = False
    """It forbids, whatever the relays do."""


def _too_cold(seen: Seen, threshold: float | None, flag2: int, *, discharging: bool) -> bool:
    """Under a configured Tmin, or as the BMS's flags have it.

    Status byte 2 tells charging from discharging where it is sent (C); status byte 1 has one light
    for both.  Charging stops with either; discharging goes on while status byte 2 says that
    it may, because 0 there is a blackout.
    """
    if threshold is not None and seen.coldest_c < threshold:
        return True
    told_apart = seen.settings.generation == "C" and seen.status2 is not None
    if told_apart and (seen.status2 or 0) & flag2:
        return True
    return seen.flag(layout.UNDER_TMIN) and not (told_apart and discharging)


def _cold_text(seen: Seen) -> str:
    return f"too cold (Tl); the coldest cell is now at {seen.coldest_c:.0f} degC"


def _too_hot(seen: Seen) -> bool:
    tmax = seen.settings.tmax
    hot = tmax is not None and seen.hottest_c > tmax and not seen.hottest_doubtful
    return hot or seen.flag(layout.OVER_TMAX)


def _low_power(seen: Seen) -> bool:
    """Charge power at most 5 % of the capacity per hour (generation C)."""
    return seen.power_w is not None and seen.power_w <= 0.05 * seen.capacity_wh


def _below_charge_restart(seen: Seen) -> bool:
    restart = seen.settings.charge_restart
    return seen.flag(layout.CHARGE_ALLOWED) if restart is None else seen.soc < restart


def _from_discharge_restart(seen: Seen) -> bool:
    restart = seen.settings.discharge_restart
    return seen.flag(layout.DISCHARGE_ALLOWED) if restart is None else seen.soc >= restart


CONDITIONS = {
    "any V >= Vmax": Condition(
        lambda s: s.highest_mv >= s.vmax_mv or s.flag(layout.OVER_VMAX),
        lambda s: f"cell {s.highest_cell} at {s.highest_mv / 1000:.3f} V: Vmax {s.vmax_mv / 1000:.2f} V (Vh)",
        critical=True,
    ),
    "all V < Vmax": Condition(lambda s: s.highest_mv < s.vmax_mv, lambda _: "all cells are under Vmax"),
    "any V <= Vmin": Condition(
        lambda s: s.lowest_mv <= s.vmin_mv or s.flag(layout.UNDER_VMIN),
        lambda s: f"cell {s.lowest_cell} at {s.lowest_mv / 1000:.3f} V: Vmin {s.vmin_mv / 1000:.2f} V (Vl)",
        critical=True,
    ),
    "all V > Vmin": Condition(lambda s: s.lowest_mv > s.vmin_mv, lambda _: "all cells are over Vmin"),
    "all V < Vbalance": Condition(
        lambda s: s.highest_mv < s.vbalance_mv, lambda _: "all cells are under Vbalance"
    ),
    "all V >= Vbalance": Condition(
        lambda s: s.lowest_mv >= s.vbalance_mv > 0, lambda _: "full: all cells are at Vbalance"
    ),
    "all V >= Vbalance and power <= 5 %": Condition(
        lambda s: s.lowest_mv >= s.vbalance_mv > 0 and _low_power(s),
        lambda _: "full: all cells are at Vbalance and little flows",
    ),
    "SoC < charge restart": Condition(_below_charge_restart, lambda _: "SoC under the charge restart"),
    "SoC >= discharge restart": Condition(
        _from_discharge_restart, lambda _: "SoC from the discharge restart on"
    ),
    "T < Tmin charge": Condition(
        lambda s: _too_cold(s, s.settings.tmin_charge, layout.TOO_COLD_TO_CHARGE, discharging=False),
        _cold_text,
        critical=True,
    ),
    "T < Tmin discharge": Condition(
        lambda s: _too_cold(s, s.settings.tmin_discharge, layout.TOO_COLD_TO_DISCHARGE, discharging=True),
        _cold_text,
        critical=True,
    ),
    "all T > Tmin charge": Condition(
        lambda s: s.settings.tmin_charge is None or s.coldest_c > s.settings.tmin_charge,
        lambda _: "all cells are warm enough to charge",
    ),
    "all T > Tmin discharge": Condition(
        lambda s: s.settings.tmin_discharge is None or s.coldest_c > s.settings.tmin_discharge,
        lambda _: "all cells are warm enough to discharge",
    ),
    "all T < Tmax": Condition(
        lambda s: s.settings.tmax is None or s.hottest_doubtful or s.hottest_c < s.settings.tmax,
        lambda _: "all cells are under Tmax",
    ),
    "T > Tmax": Condition(
        _too_hot, lambda s: f"too hot (Th); the hottest cell is now at {s.hottest_c:.0f} degC", critical=True
    ),
    "no communication": Condition(
        lambda s: s.flag(layout.NO_COMMUNICATION) or s.highest_mv < LOWEST_CELL_MV,
        lambda _: "the BMS does not hear its cells (E)",
        critical=True,
    ),
}


class Row(NamedTuple):
    """A relay's row of the manuals' table.  "on" needs all its conditions and none of "off".

    At exactly Tmin or Tmax neither holds, and the relay stays as it is.  Of several that forbid, the
    first in "off" is named: without communication the cells' readings mean nothing.
    """

    relay: str
    generations: str
    mode: str
    on: tuple[str, ...]
    off: tuple[str, ...]


_CHARGE_OFF = ("no communication", "any V >= Vmax", "T < Tmin charge", "T > Tmax")
_LOAD_OFF = ("no communication", "any V <= Vmin", "T < Tmin discharge", "T > Tmax")
_CHARGE_T = ("all T > Tmin charge", "all T < Tmax")
_LOAD_T = ("all T > Tmin discharge", "all T < Tmax")

ROWS = (
    Row("charge", "AB", "normal", ("all V < Vbalance", "SoC < charge restart", *_CHARGE_T),
        (*_CHARGE_OFF, "all V >= Vbalance")),
    Row("charge", "C", "normal", ("all V < Vbalance", "SoC < charge restart", *_CHARGE_T),
        (*_CHARGE_OFF, "all V >= Vbalance and power <= 5 %")),
    Row("charge", "ABC", "critical", ("all V < Vmax", *_CHARGE_T), _CHARGE_OFF),
    Row("load", "ABC", "normal", ("all V > Vmin", "SoC >= discharge restart", *_LOAD_T), _LOAD_OFF),
    Row("load", "ABC", "critical", ("all V > Vmin", *_LOAD_T), _LOAD_OFF),
)  # fmt: skip


class Relays(NamedTuple):
    """The two relays as the tables have them; None before the first frame."""

    charge: bool | None = None
    load: bool | None = None


class Verdict(NamedTuple):
    """What the mirror says of a pack.

    ``no_charge`` and ``no_discharge`` are the critical reasons that forbid, in words, else None.
    """

    relays: Relays
    soc: float | None
    no_charge: str | None
    no_discharge: str | None


def look(settings: Settings, pack: PackState, now: float) -> Seen | None:
    """Collect what the conditions need; None before the first frame."""
    frame = pack.frame
    if frame is None:
        return None
    celsius = CELSIUS[settings.temperature]
    current = frame.current_ma
    return Seen(
        settings=settings,
        lowest_mv=frame.lowest_mv,
        highest_mv=frame.highest_mv,
        lowest_cell=frame.lowest_cell,
        highest_cell=frame.highest_cell,
        coldest_c=celsius(frame.coldest_raw),
        hottest_c=celsius(frame.hottest_raw),
        hottest_doubtful=bool(frame.hottest_cell and pack.balancing(frame.hottest_cell)),
        vmin_mv=frame.vmin_mv,
        vmax_mv=frame.vmax_mv,
        vbalance_mv=balance_mv(settings, frame),
        power_w=None if current is None else frame.voltage_mv * current / 1e6,
        capacity_wh=frame.capacity_wh,
        soc=soc(pack) or 0.0,
        status=frame.status,
        status2=pack.pair("status2", now),
    )


def balance_mv(settings: Settings, frame: Frame) -> int:
    """Vbalance; where balancing is off (0 on the wire), Vmax less the margin."""
    return frame.vbalance_mv or max(0, frame.vmax_mv - round(settings.charge_margin_mv))


def soc(pack: PackState) -> float | None:
    """State of charge in %, 0 to 100: stored / capacity where it refines the byte, else the byte."""
    frame = pack.frame
    if frame is None:
        return None
    if frame.capacity_wh:
        fine = 100 * frame.stored_wh / frame.capacity_wh
        if abs(fine - frame.soc_percent) <= 1:
            return min(round(fine, 1), 100.0)
    return float(frame.soc_percent)


def step(settings: Settings, memory: Relays, pack: PackState, now: float) -> tuple[Relays, Verdict]:
    """Evaluate the tables once.  Never raises, never reads a clock.

    With no memory a relay begins as the BMS's bit says.
    """
    seen = look(settings, pack, now)
    if seen is None:
        return memory, Verdict(memory, None, None, None)
    holds = {name: condition.holds(seen) for name, condition in CONDITIONS.items()}
    state = {
        "charge": seen.flag(layout.CHARGE_ALLOWED) if memory.charge is None else memory.charge,
        "load": seen.flag(layout.DISCHARGE_ALLOWED) if memory.load is None else memory.load,
    }
    reasons: dict[str, str | None] = {}
    for row in ROWS:
        if settings.generation not in row.generations or settings.mode != row.mode:
            continue
        if any(holds[name] for name in row.off):
            state[row.relay] = False
        elif all(holds[name] for name in row.on):
            state[row.relay] = True
        critical = (name for name in row.off if holds[name] and CONDITIONS[name].critical)
        first = next(critical, None)
        reasons[row.relay] = CONDITIONS[first].text(seen) if first else None
    relays = Relays(state["charge"], state["load"])
    return relays, Verdict(relays, seen.soc, reasons["charge"], reasons["load"])


def disagreement(settings: Settings, pack: PackState, verdict: Verdict) -> str | None:
    """Where the BMS's bits and the mirror's relays differ, in words; None where they agree."""
    frame = pack.frame
    if frame is None:
        return None
    for what, bit, relay, forbids in (
        ("charging", layout.CHARGE_ALLOWED, verdict.relays.charge, verdict.no_charge),
        ("discharging", layout.DISCHARGE_ALLOWED, verdict.relays.load, verdict.no_discharge),
    ):
        if frame.has(bit) == relay:
            continue
        if frame.has(bit):
            return f"the BMS allows {what}, the manual's table does not: {forbids or 'no reason to allow it'}"
        table = f"generation {settings.generation}, {settings.mode} mode"
        return f"the BMS does not allow {what}, the manual's table does ({table}): is that what it is set to?"
    return None
