"""The BMS of the simulated pack: its settings, its two relays, its SoC and its counters.

Generation A, B or C in normal or critical mode, after the manuals' tables, in plain code of its own
that shares nothing with the driver's mirror: the two are compared, and can disagree.
Pure: no I/O, no clock, no chance.  What it has measured is whole numbers, units in the names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from smartbms_protocol import layout


class Range(NamedTuple):
    """What a number may be, both ends included."""

    low: float
    high: float
    unit: str = ""

    def __str__(self) -> str:
        """For people: ``2 to 255 cells``."""
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()

    def checked(self, name: str, value: float) -> float:
        """The value; ValueError with a sentence if it is out of range (NaN always is)."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{name} has to be {self}, not {value:g}")
        return value


GENERATIONS = ("A", "B", "C")
CELL_V = Range(0, 5, "V")
CELSIUS = Range(-40, 85, "degC")
PERCENT = Range(0, 100, "%")
CAPACITY_KWH = Range(0.1, 6553.5, "kWh")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a person sets in the BMS, and what it is.

    Generations A and B have one Tmin, held as two that are equal: else ValueError with a sentence.
    """

    vmin_mv: int
    vlow_mv: int
    vnom_mv: int
    vbalance_mv: int
    vfull_mv: int
    vmax_mv: int
    capacity_wh: int
    normal_mode: bool
    generation: str = "C"
    tmin_charge_c: int = 0
    tmin_discharge_c: int = -20
    tmax_c: int = 55
    charge_restart_percent: int = 95
    discharge_restart_percent: int = 10

    def __post_init__(self) -> None:
        if self.generation != "C" and self.tmin_charge_c != self.tmin_discharge_c:
            raise ValueError(f"generation {self.generation} has one Tmin, and tmin sets it")


class Settable(NamedTuple):
    """Fields of ``Setup`` as a person writes them, and their ``step`` in thousandths (0: whole units)."""

    fields: tuple[str, ...]
    allowed: Range
    step: int = 0


SETTABLE = {
    "vmin": Settable(("vmin_mv",), CELL_V, 5),
    "vlow": Settable(("vlow_mv",), CELL_V, 5),
    "vnom": Settable(("vnom_mv",), CELL_V, 5),
    "vbalance": Settable(("vbalance_mv",), CELL_V, 5),
    "vfull": Settable(("vfull_mv",), CELL_V, 5),
    "vmax": Settable(("vmax_mv",), CELL_V, 5),
    "capacity": Settable(("capacity_wh",), CAPACITY_KWH, 100),
    "tmin": Settable(("tmin_charge_c", "tmin_discharge_c"), CELSIUS),
    "tmin_charge": Settable(("tmin_charge_c",), CELSIUS),
    "tmin_discharge": Settable(("tmin_discharge_c",), CELSIUS),
    "tmax": Settable(("tmax_c",), CELSIUS),
    "charge_restart": Settable(("charge_restart_percent",), PERCENT),
    "discharge_restart": Settable(("discharge_restart_percent",), PERCENT),
}

RAW_ZERO_C = 276
"""0 degC on the wire, at 1 degC a count: the vendor's protocol document."""
EMPTY_HOLD_S = {"A": math.inf, "B": 60.0, "C": 30.0}
"""How long the pack has to look empty before the SoC goes to 0.  A: it never does.  The manuals' words for
B, "for a longer time", and for C, "stays", have no number: 30 s is longer than a cell dips while a load
starts, and 60 s is time for cells to come back once the relay has cut their loads off.
"""
DAY_S = 86_400


class Bms:
    """What the BMS has measured and counted, its two relays, and its faults (plain attributes)."""

    def __init__(self, setup: Setup, soc: float, *, calibrated: bool) -> None:
        self.setup = setup
        self.soc = soc
        """0 to 1, as the BMS has counted it; the cells know better."""
        self.calibrated = calibrated
        self.cell_mv: list[int] = []
        self.cell_raw: list[int] = []
        self.voltage_mv = 0
        self.deny_charge = self.deny_discharge = self.early_warning = False
        self.communication = True
        self.sensors = 2
        """Current sensors: with 1 only the sum is known, with 0 nothing."""
        self.collected_wh = self.consumed_wh = 0.0  # today
        self.collected_kwh = self.consumed_kwh = 0.1 * setup.capacity_wh  # a pack of 100 cycles
        self.charged_kwh = self.discharged_kwh = 0.1 * setup.capacity_wh
        self._charge_relay = self._load_relay = True
        self._empty_s = self._day_s = 0.0

    @property
    def charge_allowed(self) -> bool:
        """The relay "Charge" is closed."""
        return self._charge_relay and self.communication and not self.deny_charge

    @property
    def load_allowed(self) -> bool:
        """The relay "Load" is closed."""
        return self._load_relay and self.communication and not self.deny_discharge

    def measure(
        self, cell_mv: list[int], cell_raw: list[int], voltage_mv: int, sun_ma: int, load_ma: int, dt_s: float
    ) -> None:
        """Take what flowed for ``dt_s`` seconds and what the cells read at their end."""
        self.cell_mv, self.cell_raw, self.voltage_mv = cell_mv, cell_raw, voltage_mv
        net_ma = sun_ma - load_ma
        if self.sensors < 2:
            sun_ma, load_ma = max(net_ma, 0), max(-net_ma, 0)
        if self.sensors == 0:
            net_ma = sun_ma = load_ma = 0
        battery_w = voltage_mv * net_ma / 1e6
        self._count_energy(voltage_mv * sun_ma / 1e6, voltage_mv * load_ma / 1e6, battery_w, dt_s / 3600)
        self._count_soc(net_ma, dt_s)
        self._synchronise(battery_w, dt_s)
        self._switch(battery_w)

    def _count_energy(self, sun_w: float, load_w: float, battery_w: float, hours: float) -> None:
        self._day_s += hours * 3600
        if self._day_s >= DAY_S:
            self._day_s -= DAY_S
            self.collected_wh = self.consumed_wh = 0.0
        self.collected_wh += sun_w * hours
        self.consumed_wh += load_w * hours
        self.collected_kwh += sun_w * hours / 1000
        self.consumed_kwh += load_w * hours / 1000
        self.charged_kwh += max(battery_w, 0) * hours / 1000
        self.discharged_kwh += max(-battery_w, 0) * hours / 1000

    def _count_soc(self, net_ma: int, dt_s: float) -> None:
        nominal_v = self.setup.vnom_mv / 1000 * len(self.cell_mv)
        self.soc += net_ma / 1000 * dt_s / 3600 * nominal_v / self.setup.capacity_wh
        self.soc = min(max(self.soc, 0.0), 1.0)

    def _synchronise(self, battery_w: float, dt_s: float) -> None:
        """The SoC at the ends: the manuals' "State of charge"."""
        if self.communication and self._looks_full(battery_w):
            self.soc, self.calibrated = 1.0, True
        empty = self.communication and self._looks_empty(battery_w)
        self._empty_s = self._empty_s + dt_s if empty else 0.0
        if self._empty_s >= EMPTY_HOLD_S[self.setup.generation]:
            self.soc, self.calibrated = 0.0, True

    def _looks_full(self, battery_w: float) -> bool:
        if self.setup.generation == "C":
            return min(self.cell_mv) > self._balanced_mv and self._charges_little(battery_w)
        if self.setup.normal_mode:
            return min(self.cell_mv) >= self._balanced_mv
        return self.voltage_mv >= self._balanced_mv * len(self.cell_mv)

    def _looks_empty(self, battery_w: float) -> bool:
        if min(self.cell_mv) >= self.setup.vmin_mv:
            return False
        if self.setup.generation == "C":
            return -battery_w < self.setup.capacity_wh / 10
        return not self.load_allowed  # as the relay was while the time passed

    def _charges_little(self, battery_w: float) -> bool:
        """At most 5 % of the capacity in an hour."""
        return battery_w <= self.setup.capacity_wh / 20

    @property
    def _balanced_mv(self) -> int:
        """Vbalance; with balancing off (0) there is only Vmax to go by."""
        return self.setup.vbalance_mv or self.setup.vmax_mv

    def _switch(self, battery_w: float) -> None:
        """The relays: the manuals' "Charge and load relays".  Off wins, else on, else as it was."""
        setup = self.setup
        lowest, highest = min(self.cell_mv), max(self.cell_mv)
        coldest, hottest = self._temperatures_c

        off = highest >= setup.vmax_mv or coldest < setup.tmin_charge_c or hottest > setup.tmax_c
        on = coldest > setup.tmin_charge_c and hottest < setup.tmax_c
        if setup.normal_mode:
            rests = setup.generation != "C" or self._charges_little(battery_w)
            off = off or (lowest >= self._balanced_mv and rests)
            on = on and highest < self._balanced_mv and self.soc < setup.charge_restart_percent / 100
        else:
            on = on and highest < setup.vmax_mv
        self._charge_relay = self.communication and not off and (on or self._charge_relay)

        off = lowest <= setup.vmin_mv or coldest < setup.tmin_discharge_c or hottest > setup.tmax_c
        on = lowest > setup.vmin_mv and coldest > setup.tmin_discharge_c and hottest < setup.tmax_c
        if setup.normal_mode:
            on = on and self.soc >= setup.discharge_restart_percent / 100
        self._load_relay = self.communication and not off and (on or self._load_relay)

    @property
    def _temperatures_c(self) -> tuple[int, int]:
        return min(self.cell_raw) - RAW_ZERO_C, max(self.cell_raw) - RAW_ZERO_C

    @property
    def status(self) -> int:
        """Status byte 1."""
        setup, (coldest, hottest) = self.setup, self._temperatures_c
        bits = layout.CHARGE_ALLOWED * self.charge_allowed | layout.DISCHARGE_ALLOWED * self.load_allowed
        bits |= layout.SOC_NOT_CALIBRATED * (not self.calibrated)
        if not self.communication:
            return bits | layout.NO_COMMUNICATION
        bits |= layout.UNDER_VMIN * (min(self.cell_mv) < setup.vmin_mv)
        bits |= layout.OVER_VMAX * (max(self.cell_mv) > setup.vmax_mv)
        bits |= layout.UNDER_TMIN * (coldest < max(setup.tmin_charge_c, setup.tmin_discharge_c))
        return bits | layout.OVER_TMAX * (hottest > setup.tmax_c)

    @property
    def status2(self) -> int:
        """Status byte 2."""
        bits = layout.CHARGE_RELAY_CLOSED * self.charge_allowed | layout.LOAD_RELAY_CLOSED * self.load_allowed
        bits |= layout.EARLY_WARNING * self.early_warning
        if self.communication:
            coldest, _ = self._temperatures_c
            bits |= layout.TOO_COLD_TO_CHARGE * (coldest < self.setup.tmin_charge_c)
            bits |= layout.TOO_COLD_TO_DISCHARGE * (coldest < self.setup.tmin_discharge_c)
        return bits

    def currents(self, sun_ma: int, load_ma: int) -> tuple[int | None, int | None, int | None]:
        """Sensor 1, sensor 2 and the battery current as the wire has them; None is ``X``."""
        net_ma = sun_ma - load_ma
        return ((None, None, None), (net_ma, None, net_ma), (sun_ma, load_ma, net_ma))[self.sensors]

    def rotating(self, name: str) -> int:
        """The value of one of ``layout.PAIRS``."""
        values = {
            "soh_percent": 100,
            "charge_efficiency_percent": 99,
            "vlow_mv": self.setup.vlow_mv,
            "vnom_mv": self.setup.vnom_mv,
            "firmware_major_minor": 0x33,
            "firmware_patch": 11,
            "cycles": int(self.discharged_kwh * 1000 / self.setup.capacity_wh),
            "charged_kwh": int(self.charged_kwh),
            "discharged_kwh": int(self.discharged_kwh),
            "status2": self.status2,
            "vfull_mv": self.setup.vfull_mv,
        }
        return values[name]
