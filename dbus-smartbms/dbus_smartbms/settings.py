"""What a user can configure: one row an option.  ``configuration`` reads them from a file."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

CAREFUL_RATE = 0.1
"""C: what stands in for a current cap or a rate that cannot be read, and for both after many restarts."""


Points = tuple[tuple[float, float], ...]
"""A line through points: x rising, level past its ends."""
Value = str | float | Points | None
"""What an option may be."""


class Option(NamedTuple):
    """One option: its place, what it may be (``choices``, or ``low`` to ``high``), its meaning."""

    section: str
    key: str
    default: str | float | None
    meaning: str
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()
    caps: str = ""
    """The rate that becomes ``CAREFUL_RATE`` when this cannot be read."""
    points: bool = False
    """A line: ``SoC: rate`` in % and C, separated by commas; ``low`` to ``high`` are of the rate."""

    @property
    def name(self) -> str:
        """Section and key, as ``--set`` takes them."""
        return f"{self.section}.{self.key}"

    @property
    def allowed(self) -> str:
        """What may be written, for people."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.points:
            return "SoC in %: rate in C, rising, such as 80: 0.5, 100: 0.05"
        if self.unit:
            return f"a number from {self.low:g} to {self.high:g} {self.unit}"
        return "a text"


GENERATIONS = ("A", "B", "C")
MODES = ("normal", "critical")
_CELSIUS = ("degC", -40.0, 85.0)
_PERCENT = ("%", 0.0, 100.0)

OPTIONS = (
    Option("pack", "generation", "C", "Board generation", choices=GENERATIONS),
    Option("pack", "mode", "critical", "Operating mode of the BMS, as set in it", choices=MODES),
    Option(
        "pack",
        "chemistry",
        "auto",
        "Cell chemistry; auto tells it from the BMS's thresholds",
        choices=("auto", "LFP", "LTO", "NMC", "NCA"),
    ),
    Option(
        "pack",
        "temperature",
        "document",
        "Conversion of temperatures: of the protocol document, or of the vendor's programs",
        choices=("document", "vendor"),
    ),
    Option(
        "pack",
        "tmin_charge",
        None,
        "No charging when a cell is colder; unset, the BMS's flags decide",
        *_CELSIUS,
    ),
    Option(
        "pack",
        "tmin_discharge",
        None,
        "No discharging when a cell is colder; unset, the BMS's flags decide",
        *_CELSIUS,
    ),
    Option("pack", "tmax", None, "Neither when a cell is hotter; unset, the BMS's flags decide", *_CELSIUS),
    Option("pack", "charge_restart", None, "SoC under which charging restarts (normal mode)", *_PERCENT),
    Option("pack", "discharge_restart", None, "SoC from which discharging restarts (normal mode)", *_PERCENT),
    Option(
        "limits",
        "max_charge_current",
        None,
        "Highest CCL; unset, charge_rate x capacity",
        "A",
        0,
        10000,
        caps="charge_rate",
    ),
    Option(
        "limits",
        "max_discharge_current",
        None,
        "Highest DCL; unset, discharge_rate x capacity",
        "A",
        0,
        10000,
        caps="discharge_rate",
    ),
    Option(
        "limits",
        "charge_rate",
        0.5,
        "Highest CCL by capacity, 0.5 C of 300 Ah is 150 A",
        "C",
        0,
        5,
        caps="charge_rate",
    ),
    Option("limits", "discharge_rate", 1.0, "Highest DCL by capacity", "C", 0, 5, caps="discharge_rate"),
    Option(
        "limits",
        "charge_margin_mv",
        30.0,
        "CVL above Vbalance, for each cell; the manual asks for 25 to 40 mV",
        "mV",
        0,
        100,
    ),
    Option(
        "limits",
        "charge_soc_taper",
        None,
        "CCL by SoC, between the points in a straight line; unset, it is not; charge to full ignores it",
        "C",
        0,
        5,
        caps="charge_rate",
        points=True,
    ),
    Option(
        "limits",
        "discharge_soc_taper",
        None,
        "DCL by SoC, likewise",
        "C",
        0,
        5,
        caps="discharge_rate",
        points=True,
    ),
    Option(
        "limits",
        "charge_to_full_days",
        None,
        "Charge to full by itself when the pack was not full for so long; unset, it does not",
        "days",
        1,
        365,
    ),
    Option(
        "bank",
        "show_packs",
        "auto",
        "A service for each pack, to look at: with two packs or more (auto), always or never",
        choices=("auto", "always", "never"),
    ),
    Option(
        "bank",
        "on_pack_lost",
        "derate",
        "When a pack is not heard: go on with less (derate), or as if none were heard (block)",
        choices=("derate", "block"),
    ),
    Option(
        "bank",
        "relays",
        "series",
        "series: a BMS that denies stops all packs; own: each has a contactor that stops it alone",
        choices=("series", "own"),
    ),
    Option(
        "link",
        "devices",
        "auto",
        "The cables: auto, or device paths and serial numbers, separated by commas",
    ),
    Option("link", "hold_s", 10.0, "Silence after which the link counts as lost and CCL is 0", "s", 3, 30),
    Option("link", "ride_through_s", 60.0, "Silence after which DCL is 0 too, at least hold_s", "s", 3, 120),
    Option("log", "level", "info", "What is logged", choices=("debug", "info", "warning", "error")),
)

_SOC = Option("limits", "a point's SoC", None, "", *_PERCENT)
BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force; attributes are named like the keys of ``OPTIONS``."""

    generation: str = "C"
    mode: str = "critical"
    chemistry: str = "auto"
    temperature: str = "document"
    tmin_charge: float | None = None
    tmin_discharge: float | None = None
    tmax: float | None = None
    charge_restart: float | None = None
    discharge_restart: float | None = None
    max_charge_current: float | None = None
    max_discharge_current: float | None = None
    charge_rate: float = 0.5
    discharge_rate: float = 1.0
    charge_margin_mv: float = 30.0
    charge_soc_taper: Points | None = None
    discharge_soc_taper: Points | None = None
    charge_to_full_days: float | None = None
    show_packs: str = "auto"
    on_pack_lost: str = "derate"
    relays: str = "series"
    devices: str = "auto"
    hold_s: float = 10.0
    ride_through_s: float = 60.0
    level: str = "info"
    careful: frozenset[str] = frozenset()
    """Rates that stand in for something unreadable: they cap beside a current in A, not instead."""
    restarted: bool = False
    """They are careful because the driver was restarted again and again."""


def after_restarts(settings: Settings) -> Settings:
    """The same with both rates careful: what a driver goes by that was restarted again and again."""
    return replace(
        settings,
        charge_rate=min(CAREFUL_RATE, settings.charge_rate),
        discharge_rate=min(CAREFUL_RATE, settings.discharge_rate),
        careful=frozenset({"charge_rate", "discharge_rate"}),
        restarted=True,
    )


def example() -> str:
    """The configuration file that ships: every option, commented out, at its default."""
    lines = [
        "# dbus-smartbms. Every line is optional: without any, the driver takes what the BMS says.",
        "# On a GX device this file is /data/conf/dbus-smartbms.ini; it is read at the start and at SIGHUP.",
    ]
    section = ""
    for option in OPTIONS:
        if option.section != section:
            section = option.section
            lines += ["", f"[{section}]"]
            if section == "pack":
                lines.append("# [pack SERIAL] has what differs for one pack; SERIAL is its cable's.")
        lines.append(f"# {option.meaning} ({option.allowed}).")
        lines.append(f"#{option.key} = {written(option.default)}".rstrip())
    return "\n".join(lines) + "\n"


def written(value: Value) -> str:
    """A value as it is written in the file."""
    if isinstance(value, tuple):
        return ", ".join(f"{soc:g}: {rate:g}" for soc, rate in value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else value


def parse(option: Option, text: str) -> Value:
    """The value of an option.  Raises ValueError saying what is allowed."""
    if not text and option.default is None:
        return None
    value: Value = text or None
    if option.points:
        value = _points(option, text)
    elif option.choices:
        value = next((choice for choice in option.choices if text.lower() == choice.lower()), None)
    elif option.unit:
        value = _number(option, text)
        if value is None and "," in text:
            raise ValueError(f"{text!r} is not {option.allowed}; decimals take a point, not a comma")
    if value is None:
        raise ValueError(f"{text!r} is not {option.allowed}")
    return value


def _number(option: Option, text: str) -> float | None:
    """A number within the option's range, None where it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    # 1_0 is a number for Python alone
    return number if option.low <= number <= option.high and "_" not in text else None


def _points(option: Option, text: str) -> Points | None:
    """A line, None where it is none: each point a SoC and a rate, the SoC rising."""
    points = []
    for part in text.split(","):
        first, _, second = part.partition(":")
        soc, rate = _number(_SOC, first), _number(option, second)
        if soc is None or rate is None:
            return None
        points.append((soc, rate))
    rising = [soc for soc, _ in points]
    return tuple(points) if rising == sorted(set(rising)) else None


if {option.key for option in OPTIONS} | {"careful", "restarted"} != {item.name for item in fields(Settings)}:
    raise TypeError("the rows of OPTIONS and the attributes of Settings differ")
