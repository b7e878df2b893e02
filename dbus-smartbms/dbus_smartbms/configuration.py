"""The configuration: an INI file and ``--set``, read into ``Settings``.

A wrong line never stops the driver and never raises a limit: every problem is named with its
line, and what is used instead is said.  A current cap that cannot be read becomes 0.1 C.

The file is read line by line here, not by ``configparser``, because that knows no line numbers
after reading and gives up at the first line outside a section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .settings import BY_NAME, CAREFUL_RATE, OPTIONS, Option, Settings, Value, parse, written

LARGEST = 65_536
"""Characters of a file: more are no configuration, and would take long to read."""
MOST_PROBLEMS = 20
LONGEST_WORD = 40
Place = tuple[str | None, str]
"""A pack's cable, or None for all; and the option's name."""


@dataclass
class Configuration:
    """Settings and what was wrong on the way to them, each problem one sentence."""

    settings: Settings = field(default_factory=Settings)
    problems: list[str] = field(default_factory=list)
    packs: dict[str, Settings] = field(default_factory=dict)
    """Of packs with a section of their own, by the serial number of their cable."""
    sources: dict[Place, str] = field(default_factory=dict, compare=False)
    """Where a value comes from; what is not here is the default."""

    def of(self, serial: str | None) -> Settings:
        """The settings of a pack."""
        return self.packs.get(serial or "", self.settings)

    def show(self) -> str:
        """The values in force, each with where it comes from; those of single packs at the end."""
        lines: list[str] = []
        section = ""
        for option in OPTIONS:
            if option.section != section:
                section = option.section
                lines += [f"[{section}]"] if not lines else ["", f"[{section}]"]
            lines.append(self._line(self.settings, None, option))
        for serial, settings in self.packs.items():
            lines += ["", f"[pack {serial}]"]
            own = [option for option in OPTIONS if (serial, option.name) in self.sources]
            lines += [self._line(settings, serial, option) for option in own]
        return "\n".join(lines) + "\n"

    def _line(self, settings: Settings, serial: str | None, option: Option) -> str:
        value: Value = getattr(settings, option.key)
        source = self.sources.get((serial, option.name), "default")
        if option.key in settings.careful:
            source = "careful, for a mistake in the configuration"
        return f"{option.key} = {written(value)}".ljust(44) + f"  # {source}"


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
        option = BY_NAME.get(name.strip().lower())
        if option is None or not equals:
            key = name.strip().lower().rpartition(".")[2]
            nearest = min(OPTIONS, key=lambda known: _unlikeness(key, known)).name
            if equals and "." in name:
                raise ValueError(
                    f"--set {override}: there is no option {name.strip()}, did you mean {nearest}?"
                )
            raise ValueError(f"--set {override}: expected section.key=value, for example {nearest}=...")
        try:
            reader.override(option, parse(option, value.strip()))
        except ValueError as error:
            raise ValueError(f"--set {override}: {error}") from None
    return reader.result()


class _Reader:
    """Collects values and problems; a cap that cannot be read lands in ``careful``."""

    def __init__(self) -> None:
        self.values: dict[Place, Value] = {}
        self.problems: list[str] = []
        self.careful: set[str] = set()
        self._lines: dict[Place, int] = {}
        """Where the value of an option was first read."""
        self._sources: dict[Place, str] = {}
        self._path: Path | None = None
        self._pack: str | None = None
        """Whose section is being read: of a pack, or of all."""

    def override(self, option: Option, value: Value) -> None:
        """A value that was typed: it is that of all packs, whatever the file says of one."""
        for place in [place for place in self.values if place[1] == option.name]:
            del self.values[place]
            self._lines.pop(place, None)
            self._sources.pop(place, None)
        self.values[None, option.name] = value
        self._sources[None, option.name] = "--set"

    def read_file(self, path: Path) -> None:
        self._path = path
        try:
            with path.open(encoding="utf-8-sig") as file:  # with the mark that Windows editors set
                text = file.read(LARGEST + 1)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
            self._give_up(f"{path}: cannot be read ({reason})")
            return
        section = ""
        if len(text) > LARGEST:
            self._give_up(f"{path}: is no configuration, it has more than {LARGEST} characters")
            return
        for number, line in enumerate(text.split("\n"), 1):
            if len(self.problems) >= MOST_PROBLEMS:
                self._give_up(f"{self._at(number)}: the rest is not read, there are too many mistakes")
                return
            content = _without_comment(line)
            if content.startswith("[") and "=" not in content:
                section = self._section(number, content)
            elif content:
                self._read_line(section, content, number)

    def _give_up(self, problem: str) -> None:
        self.careful |= {option.caps for option in OPTIONS if option.caps}
        self.problems.append(f"{problem}; CCL and DCL are at most {CAREFUL_RATE} C")

    def _at(self, number: int) -> str:
        return f"{self._path}, line {number}"

    def _section(self, number: int, content: str) -> str:
        name, _, serial = content.strip("[] \t").partition(" ")
        section, self._pack = name.lower(), None
        if serial.strip() and section == "pack":
            self._pack = serial.strip()
        elif serial:
            section = f"{section} {serial}".lower()
        names = {option.section for option in OPTIONS}
        if section not in names:
            nearest = min(sorted(names), key=lambda name: _distance(section, name))
            self.problems.append(
                f"{self._at(number)}: unknown section [{section}], did you mean [{nearest}]?"
            )
        elif not content.endswith("]"):
            whole = section if self._pack is None else f"{section} {self._pack}"
            self.problems.append(f"{self._at(number)}: {content!r} is read as [{whole}]")
        return section

    def _read_line(self, section: str, content: str, number: int) -> None:
        where = self._at(number)
        key, equals, value = content.partition("=" if "=" in content else ":")
        key, value = key.strip().lower()[:LONGEST_WORD], value.strip()
        option = BY_NAME.get(f"{section}.{key}")
        if option is None or not equals:
            word = key if equals else content.split(maxsplit=1)[0].lower()[:LONGEST_WORD]
            self._unknown(where, section, word, has_value=bool(equals))
            return
        try:
            parsed = parse(option, value)
        except ValueError as error:
            self._fall_back(f"{where}: [{section}] {key}: {error}", option)
            return
        place = self._pack, option.name
        if place in self._lines:
            parsed = self._duplicate(where, option, parsed)
        self._lines.setdefault(place, number)
        self._sources[place] = where
        self.values[place] = parsed

    def _duplicate(self, where: str, option: Option, parsed: Value) -> Value:
        """The later value counts; of two caps the lower, and a cap that is unset again stays."""
        place = self._pack, option.name
        numbers = [value for value in (self.values[place], parsed) if isinstance(value, float)]
        if option.caps and numbers:
            parsed = min(numbers)
        first = self._lines[place]
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
        before = self.values.get((None, option.name), option.default)
        instead = "" if ignored else f"; {_used(self.values.get((self._pack, option.name), before))}"
        if option.caps:
            instead = f"; {self._careful(option)}"
        self.problems.append(problem + instead)

    def _careful(self, option: Option) -> str:
        """Let a careful rate stand in for a cap; says so."""
        self.careful.add(option.caps)
        limit = "CCL" if option.caps == "charge_rate" else "DCL"
        return f"{limit} is at most {CAREFUL_RATE} C, so that a mistake raises no limit"

    def result(self) -> Configuration:
        """All that was read: the settings, those of single packs, and what is wrong between them."""
        common = self._settings(None, {})
        serials = dict.fromkeys(pack for pack, _ in self.values if pack is not None)
        packs = {serial: self._settings(serial, self._of(None)) for serial in serials}
        return Configuration(common, self.problems, packs, self._sources)

    def _of(self, pack: str | None) -> dict[str, Any]:
        return {BY_NAME[name].key: value for (whose, name), value in self.values.items() if whose == pack}

    def _settings(self, pack: str | None, common: dict[str, Any]) -> Settings:
        """The settings of a pack (of all: None), with ``common`` where it has none of its own."""
        known = common | self._of(pack)
        for rate in self.careful:
            known[rate] = min(CAREFUL_RATE, known.get(rate, CAREFUL_RATE))
        known["careful"] = frozenset(self.careful)
        hold, ride = known.get("hold_s", 10.0), known.get("ride_through_s", 60.0)
        if ride < hold:
            if pack is None:
                where = self._where(None, "link.ride_through_s", "link.hold_s")
                self.problems.append(f"{where}[link] ride_through_s {ride:g} is under hold_s; {_used(hold)}")
            known["ride_through_s"] = hold
            self._sources[None, "link.ride_through_s"] = "as hold_s"
        for key in ("tmin_charge", "tmin_discharge"):
            tmin, tmax = known.get(key), known.get("tmax")
            if tmin is not None and tmax is not None and tmin >= tmax:
                if pack is None or self._of(pack).keys() & {key, "tmax"}:
                    where = self._where(pack, f"pack.{key}", "pack.tmax")
                    section = "pack" if pack is None else f"pack {pack}"
                    text = f"{where}[{section}] {key} {tmin:g} is not under tmax {tmax:g}"
                    self.problems.append(f"{text}; the BMS's flags decide instead of both")
                known[key] = known["tmax"] = None
                for name in (f"pack.{key}", "pack.tmax"):
                    self._sources[pack, name] = "not used: Tmin is not under Tmax"
        return Settings(**known)

    def _where(self, pack: str | None, *names: str) -> str:
        """The line of the first of some options that was read, to begin a problem with."""
        for name in names:
            if (pack, name) in self._lines:
                return f"{self._at(self._lines[pack, name])}: "
        return ""


def _used(value: Value) -> str:
    return "it stays unset" if value is None else f"{written(value)} is used"


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
