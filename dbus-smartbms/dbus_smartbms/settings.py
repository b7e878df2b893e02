"""What a user can configure: one row an option, read from an INI file and from ``--set``.

A wrong line never stops the driver and never raises a limit: every problem is named with its
line, and what is used instead is said.  A current cap that cannot be read becomes 0.1 C.

The file is read line by line here, not by ``configparser``, because that knows no line numbers
after reading and gives up at the first line outside a section.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

CAREFUL_RATE = 0.1
"""C: what stands in for a current cap or a rate that cannot be read."""


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
    Option("link", "devices", "auto", "The cable: auto, a device path or a serial number"),
    Option("link", "hold_s", 10.0, "Silence after which the link counts as lost and CCL is 0", "s", 3, 30),
    Option("link", "ride_through_s", 60.0, "Silence after which DCL is 0 too, at least hold_s", "s", 3, 120),
    Option("log", "level", "info", "What is logged", choices=("debug", "info", "warning", "error")),
)

_SOC = Option("limits", "a point's SoC", None, "", *_PERCENT)
_BY_NAME = {option.name: option for option in OPTIONS}


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
    devices: str = "auto"
    hold_s: float = 10.0
    ride_through_s: float = 60.0
    level: str = "info"
    careful: frozenset[str] = frozenset()
    """Rates that stand in for something unreadable: they cap beside a current in A, not instead."""


@dataclass
class Configuration:
    """Settings and what was wrong on the way to them, each problem one sentence."""

    settings: Settings = field(default_factory=Settings)
    problems: list[str] = field(default_factory=list)


def load(path: Path | None, overrides: list[str]) -> Configuration:
    """Read a file (None, or one that is not there: defaults) and ``section.key=value`` overrides.

    Never raises for what a file holds.  Raises ValueError, with a sentence, for a wrong override:
    whoever typed it is there to read it.
    """
    reader = _Reader()
    if path is not None:
        reader.read_file(path)
    for override in overrides:
        name, equals, value = override.partition("=")
        option = _BY_NAME.get(name.strip().lower())
        if option is None or not equals:
            key = name.strip().lower().rpartition(".")[2]
            nearest = min(OPTIONS, key=lambda known: _unlikeness(key, known)).name
            if equals and "." in name:
                raise ValueError(
                    f"--set {override}: there is no option {name.strip()}, did you mean {nearest}?"
                )
            raise ValueError(f"--set {override}: expected section.key=value, for example {nearest}=...")
        try:
            reader.override(option, _parse(option, value.strip()))
        except ValueError as error:
            raise ValueError(f"--set {override}: {error}") from None
    return reader.result()


def example() -> str:
    """The configuration file that ships: every option, commented out, at its default."""
    lines = [
        "# dbus-smartbms. Every line is optional: without any, the driver takes what the BMS says.",
        "# On a GX device this file is /data/conf/dbus-smartbms.ini; restart the driver to apply it.",
    ]
    section = ""
    for option in OPTIONS:
        if option.section != section:
            section = option.section
            lines += ["", f"[{section}]"]
        default = "" if option.default is None else f"{option.default:g}" if option.unit else option.default
        lines.append(f"# {option.meaning} ({option.allowed}).")
        lines.append(f"#{option.key} = {default}".rstrip())
    return "\n".join(lines) + "\n"


def _parse(option: Option, text: str) -> Value:
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


class _Reader:
    """Collects values and problems; a cap that cannot be read lands in ``careful``."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.problems: list[str] = []
        self.careful: set[str] = set()
        self._lines: dict[str, int] = {}
        """Where the value of an option was first read."""
        self._path: Path | None = None

    def override(self, option: Option, value: Value) -> None:
        self.values[option.name] = value
        self._lines.pop(option.name, None)

    def read_file(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_text(encoding="utf-8-sig")  # with the mark that Windows editors set
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            self.careful |= {option.caps for option in OPTIONS if option.caps}
            reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
            self.problems.append(
                f"{path}: cannot be read ({reason}); CCL and DCL are at most {CAREFUL_RATE} C"
            )
            return
        section = ""
        for number, line in enumerate(text.split("\n"), 1):
            content = _without_comment(line)
            if content.startswith("[") and "=" not in content:
                section = self._section(number, content)
            elif content:
                self._read_line(section, content, number)

    def _at(self, number: int) -> str:
        return f"{self._path}, line {number}"

    def _section(self, number: int, content: str) -> str:
        section = content.strip("[] \t").lower()
        names = {option.section for option in OPTIONS}
        if section not in names:
            nearest = min(sorted(names), key=lambda name: _distance(section, name))
            self.problems.append(
                f"{self._at(number)}: unknown section [{section}], did you mean [{nearest}]?"
            )
        elif not content.endswith("]"):
            self.problems.append(f"{self._at(number)}: {content!r} is read as [{section}]")
        return section

    def _read_line(self, section: str, content: str, number: int) -> None:
        where = self._at(number)
        key, equals, value = content.partition("=" if "=" in content else ":")
        key, value = key.strip().lower(), value.strip()
        option = _BY_NAME.get(f"{section}.{key}")
        if option is None or not equals:
            word = key if equals else content.split(maxsplit=1)[0].lower()
            self._unknown(where, section, word, has_value=bool(equals))
            return
        try:
            parsed = _parse(option, value)
        except ValueError as error:
            self._fall_back(f"{where}: [{section}] {key}: {error}", option)
            return
        if option.name in self._lines:
            parsed = self._duplicate(where, option, parsed)
        self._lines.setdefault(option.name, number)
        self.values[option.name] = parsed

    def _duplicate(self, where: str, option: Option, parsed: Value) -> Value:
        """The later value counts; of two caps the lower, and a cap that is unset again stays."""
        numbers = [value for value in (self.values[option.name], parsed) if isinstance(value, float)]
        if option.caps and numbers:
            parsed = min(numbers)
        first = self._lines[option.name]
        again = f"[{option.section}] {option.key} is set again (first in line {first})"
        used = _used(parsed)
        if option.points:  # which of two lines is the lower is not the same everywhere
            used = self._careful(option)
        self.problems.append(f"{where}: {again}; {used}")
        return parsed

    def _unknown(self, where: str, section: str, key: str, *, has_value: bool) -> None:
        nearest = min(OPTIONS, key=lambda known: _unlikeness(key, known))
        if not has_value:
            what = f"expected 'key = value', found {key!r}"
        elif not section:
            what = f"{key!r} stands before the first [section]"
        elif section not in {option.section for option in OPTIONS}:
            what = f"{key!r} is in the unknown section [{section}]"
        else:
            what = f"unknown key {key!r} in [{section}]"
        hint = f", did you mean [{nearest.section}] {nearest.key}? The" if _alike(key, nearest) else "; the"
        self._fall_back(f"{where}: {what}{hint} line is ignored", nearest, ignored=True)

    def _fall_back(self, problem: str, option: Option, *, ignored: bool = False) -> None:
        instead = "" if ignored else f"; {_used(self.values.get(option.name, option.default))}"
        if option.caps:
            instead = f"; {self._careful(option)}"
        self.problems.append(problem + instead)

    def _careful(self, option: Option) -> str:
        """Let a careful rate stand in for a cap; says so."""
        self.careful.add(option.caps)
        limit = "CCL" if option.caps == "charge_rate" else "DCL"
        return f"{limit} is at most {CAREFUL_RATE} C, so that a mistake raises no limit"

    def result(self) -> Configuration:
        known: dict[str, Any] = {_BY_NAME[name].key: value for name, value in self.values.items()}
        for rate in self.careful:
            known[rate] = min(CAREFUL_RATE, known.get(rate, CAREFUL_RATE))
        known["careful"] = frozenset(self.careful)
        hold, ride = known.get("hold_s", 10.0), known.get("ride_through_s", 60.0)
        if ride < hold:
            line = self._lines.get("link.ride_through_s", self._lines.get("link.hold_s"))
            where = "" if line is None else f"{self._at(line)}: "
            self.problems.append(f"{where}[link] ride_through_s {ride:g} is under hold_s; {_used(hold)}")
            known["ride_through_s"] = hold
        for tmin in ("tmin_charge", "tmin_discharge"):
            if (
                (known.get(tmin) is not None)
                and (known.get("tmax") is not None)
                and known[tmin] >= known["tmax"]
            ):
                where = f"{self._at(self._lines['pack.' + tmin])}: " if "pack." + tmin in self._lines else ""
                text = f"{where}[pack] {tmin} {known[tmin]:g} is not under tmax {known['tmax']:g}"
                self.problems.append(f"{text}; the BMS's flags decide instead of both")
                known[tmin] = known["tmax"] = None
        return Configuration(Settings(**known), self.problems)


def _used(value: Value) -> str:
    if value is None:
        return "it stays unset"
    if isinstance(value, tuple):
        return ", ".join(f"{soc:g}: {rate:g}" for soc, rate in value) + " is used"
    return f"{value:g} is used" if isinstance(value, float) else f"{value} is used"


def _unlikeness(key: str, known: Option) -> tuple[int, int, bool]:
    """How little a known key is what was meant: mistyped, a part of it, another word.

    ``max_charge`` is short for ``max_charge_current``, though fewer letters differ in ``tmin_charge``.
    Of equals a current cap is meant.
    """
    letters = _distance(key, known.key)
    kind = 0 if letters <= 2 < len(key) / 2 else 1 if key in known.key or known.key in key else 2
    return kind, letters, not known.caps


def _alike(key: str, nearest: Option) -> bool:
    """Whether the nearest key is worth a question; where a cap is lowered, it always is."""
    kind, letters, _ = _unlikeness(key, nearest)
    return bool(nearest.caps) or kind < 2 or letters <= len(key) // 2


def _without_comment(line: str) -> str:
    """A line without its comment: ``#`` or ``;`` at its beginning or after white space."""
    for index, character in enumerate(line):
        if character in "#;" and (index == 0 or line[index - 1].isspace()):
            line = line[:index]
            break
    return line.strip()


def _distance(one: str, other: str) -> int:
    """How many letters differ (Levenshtein); ``difflib`` is not on every GX."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        before, row[0] = row[0], index
        for column, wanted in enumerate(other, 1):
            before, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, before + (letter != wanted)),
            )
    return row[-1]


if {option.key for option in OPTIONS} | {"careful"} != {item.name for item in fields(Settings)}:
    raise TypeError("the rows of OPTIONS and the attributes of Settings differ")
