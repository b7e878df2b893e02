r"""The manuals' tables: what switches the BMS's relays, and what synchronises its state of charge.

Source: generation A: 123\SmartBMS manual V1.2; B: 123\SmartBMS gen3; C: the later gen3 manual; their
"Charge and load relays" and "State of charge".  ``mirror`` evaluates the rows, ``tables`` prints them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple


class Condition(NamedTuple):
    """A comparison as the manuals write it: ``any V >= Vmax``."""

    what: str
    comparison: str
    threshold: str

    def __str__(self) -> str:
        """As the manuals write it."""
        return " ".join(self)


class Row(NamedTuple):
    """When all its conditions hold (for ``for_s`` seconds), the subject becomes what it says.

    Of several rows that make a subject the same, any one does it.  "off" wins over "on"; while no
    row of a relay holds, it stays as it is: that is the hysteresis.
    """

    subject: str
    becomes: str
    generations: str
    modes: tuple[str, ...]
    conditions: tuple[Condition, ...]
    source: str
    for_s: int | None = None
    critical: bool = False
    """It forbids, whatever the relays do.  Full, or waiting for a restart, forbids nothing."""


A_LONGER_TIME_S = 60
"""Generation B, "for a longer time": with the load switched off, a cell that only sagged is over Vmin again
within a minute; an empty one is not.  The manual gives no number."""
STAYS_S = 60
"""Generation C, discharge power "stays" under 10 %: a load that pauses, as a pump or a fridge does between
two starts, has not emptied the pack.  The manual gives no number."""

ALL_UNDER_VBALANCE = Condition("all V", "<", "Vbalance")
ALL_AT_VBALANCE = Condition("all V", ">=", "Vbalance")
UNDER_CHARGE_RESTART = Condition("SoC", "<", "charge restart")
FROM_DISCHARGE_RESTART = Condition("SoC", ">=", "discharge restart")
AT_VMAX = Condition("any V", ">=", "Vmax")
ALL_UNDER_VMAX = Condition("all V", "<", "Vmax")
AT_VMIN = Condition("any V", "<=", "Vmin")
ALL_OVER_VMIN = Condition("all V", ">", "Vmin")
COLD_TO_CHARGE = Condition("any T", "<", "Tmin charge")
WARM_TO_CHARGE = Condition("all T", ">", "Tmin charge")
COLD_TO_DISCHARGE = Condition("any T", "<", "Tmin discharge")
WARM_TO_DISCHARGE = Condition("all T", ">", "Tmin discharge")
HOT = Condition("any T", ">", "Tmax")
ALL_UNDER_TMAX = Condition("all T", "<", "Tmax")
HEARD = Condition("cell communication", "is", "there")
NOT_HEARD = Condition("cell communication", "is", "lost")
LITTLE_FLOWS_IN = Condition("charge power", "<=", "5 % of the capacity")

_NORMAL, _CRITICAL = "normal", "critical"
_BOTH = (_NORMAL, _CRITICAL)
_N, _C = "relays, normal mode", "relays, critical mode"
_NC = "relays, both modes"
_SOC = "state of charge"

ROWS = (
    # In "off" the first that holds is named to the user: without communication the readings mean nothing.
    Row("charge", "off", "ABC", _BOTH, (NOT_HEARD,), _NC, critical=True),
    Row("charge", "off", "ABC", _BOTH, (AT_VMAX,), _NC, critical=True),
    Row("charge", "off", "ABC", _BOTH, (COLD_TO_CHARGE,), _NC, critical=True),
    Row("charge", "off", "ABC", _BOTH, (HOT,), _NC, critical=True),
    Row("charge", "off", "AB", (_NORMAL,), (ALL_AT_VBALANCE,), _N),
    Row("charge", "off", "C", (_NORMAL,), (ALL_AT_VBALANCE, LITTLE_FLOWS_IN), _N),
    Row("charge", "on", "ABC", (_NORMAL,),
        (ALL_UNDER_VBALANCE, UNDER_CHARGE_RESTART, WARM_TO_CHARGE, ALL_UNDER_TMAX, HEARD), _N),
    Row("charge", "on", "ABC", (_CRITICAL,),
        (ALL_UNDER_VMAX, WARM_TO_CHARGE, ALL_UNDER_TMAX, HEARD), _C),

    Row("load", "off", "ABC", _BOTH, (NOT_HEARD,), _NC, critical=True),
    Row("load", "off", "ABC", _BOTH, (AT_VMIN,), _NC, critical=True),
    Row("load", "off", "ABC", _BOTH, (COLD_TO_DISCHARGE,), _NC, critical=True),
    Row("load", "off", "ABC", _BOTH, (HOT,), _NC, critical=True),
    Row("load", "on", "ABC", (_NORMAL,),
        (ALL_OVER_VMIN, FROM_DISCHARGE_RESTART, WARM_TO_DISCHARGE, ALL_UNDER_TMAX, HEARD), _N),
    Row("load", "on", "ABC", (_CRITICAL,),
        (ALL_OVER_VMIN, WARM_TO_DISCHARGE, ALL_UNDER_TMAX, HEARD), _C),

    # "Heard" is ours in these: without communication the cells read 0 V.
    Row("SoC", "100 %", "AB", (_NORMAL,), (ALL_AT_VBALANCE, HEARD), _SOC),
    Row("SoC", "100 %", "AB", (_CRITICAL,),
        (Condition("pack voltage", ">=", "Vbalance x cells"), HEARD), _SOC),
    Row("SoC", "100 %", "C", _BOTH,
        (Condition("all V", ">", "Vbalance"), LITTLE_FLOWS_IN, HEARD), _SOC),
    Row("SoC", "0 %", "B", _BOTH,
        (Condition("any V", "<", "Vmin"), Condition("discharging", "is", "not allowed"), HEARD),
        _SOC, A_LONGER_TIME_S),
    Row("SoC", "0 %", "C", _BOTH,
        (Condition("any V", "<", "Vmin"), Condition("discharge power", "<", "10 % of the capacity"), HEARD),
        _SOC, STAYS_S),
)  # fmt: skip


@functools.cache
def table(generation: str, mode: str) -> tuple[Row, ...]:
    """The rows of a generation in a mode."""
    return tuple(row for row in ROWS if generation in row.generations and mode in row.modes)


@functools.cache
def rows(generation: str, mode: str, subject: str, becomes: str) -> tuple[Row, ...]:
    """Those of them that make a subject what it says."""
    return tuple(row for row in table(generation, mode) if (row.subject, row.becomes) == (subject, becomes))


@functools.cache
def conditions(generation: str, mode: str) -> tuple[Condition, ...]:
    """Each condition of the table once."""
    return tuple(dict.fromkeys(one for row in table(generation, mode) for one in row.conditions))
