"""A capture as one picture: ``dbus-smartbms plot``.

First what of the columns is worth a pixel, which is pure; below it the drawing, which alone needs matplotlib.
"""

# ruff: noqa: PLC0415  matplotlib is imported to draw, not to read

from __future__ import annotations

import importlib
import io
import logging
import math
import os
import re
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .configuration import Configuration
from .ratings import LOWEST_CELL_MV
from .series import Columns, PlotError, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
COLUMNS = 1350
"""Pixels that lie side by side in a panel."""
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
"""In which time is given: the first of which there are more than two."""


class Segment(NamedTuple):
    """A time in which a word held."""

    begin: float
    end: float
    word: str


def segments(t: Sequence[float], words: Sequence[str | None], end: float) -> list[Segment]:
    """Rows to times: a word holds until the next row's, the last until ``end``."""
    runs = [next(run) for _, run in groupby(enumerate(words), key=lambda both: both[1])]
    times = [*(t[row] for row, _ in runs), end]
    return [
        Segment(begin, until, word)
        for (_, word), (begin, until) in zip(runs, pairwise(times), strict=True)
        if word
    ]


def lengths(parts: Iterable[Segment]) -> dict[str, float]:
    """How long each word held, in s, from the longest."""
    total: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        total[part.word] += part.end - part.begin
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def strip(parts: Sequence[Segment], begin: float, end: float, columns: int = COLUMNS) -> list[Segment]:
    """Segments in whole columns of pixels; of several in one the rarest word: no moment is lost in hours."""
    total = lengths(parts)
    width = (end - begin) / columns or 1.0
    words: list[str | None] = [None] * (columns + 1)
    for part in parts:
        first = min(int((part.begin - begin) / width), columns - 1)
        for column in range(first, max(first + 1, math.ceil((part.end - begin) / width))):
            before = words[column]
            if before is None or total[part.word] < total[before]:
                words[column] = part.word
    return segments([begin + column * width for column in range(columns + 1)], words[:columns], end)


def thin(t: Sequence[float], series: Iterable[Sequence[float]], columns: int = COLUMNS) -> list[int]:
    """The rows to draw: in each column of pixels each series' first, last, lowest, highest, and a gap."""
    if len(t) <= columns:
        return list(range(len(t)))
    width = (t[-1] - t[0]) / columns or 1.0
    pixels = [[*rows] for _, rows in groupby(range(len(t)), key=lambda row: int((t[row] - t[0]) / width))]
    kept = {row for rows in pixels for row in (rows[0], rows[-1])}
    for numbers in series:
        for rows in pixels:
            known = [row for row in rows if not math.isnan(numbers[row])]
            if known:
                lowest = min(known, key=numbers.__getitem__)
                highest = max(known, key=numbers.__getitem__)
                kept |= {known[0], known[-1], lowest, highest}
            if len(known) < len(rows):
                kept.add(next(row for row in rows if math.isnan(numbers[row])))
    return sorted(kept)


def voltage_range(columns: Columns) -> tuple[float, float]:
    """V from bottom to top: all cells and CVL, and those settings that are near."""
    shown = [number for name in ("highest", "lowest", "cvl") for number in _known(columns, name)]
    shown = [volts for volts in shown if volts >= LOWEST_CELL_MV / 1000]  # under it none is measured
    settings = {number for name in Columns.SETTINGS for number in _known(columns, name)}
    low, high = (min(shown), max(shown)) if shown else (min(settings), max(settings))
    near = max(0.05, (high - low) / 4)
    shown = [low, high, *(volts for volts in settings if low - near <= volts <= high + near)]
    room = max(0.005, (max(shown) - min(shown)) / 25)
    return min(shown) - room, max(shown) + room


def current_range(columns: Columns) -> tuple[float, float]:
    """A from bottom to top: the current, and the limits as far as they do not flatten it."""
    current = [0.0, *_known(columns, "current")]
    ccl, dcl = (max(_known(columns, name), default=0.0) for name in ("ccl", "dcl"))
    in_a, out_a = max(current), -min(current)
    widest = max(in_a, out_a)
    top = max(in_a, min(ccl, max(2 * in_a, widest / 2))) if widest else ccl
    bottom = max(out_a, min(dcl, max(2 * out_a, widest / 2))) if widest else dcl
    room = (top + bottom) / 20 or 1.0
    return -bottom - room, top + room


def soc_range(columns: Columns) -> tuple[float, float]:
    """% from bottom to top, in tens: at least 20 of them."""
    shown = [number for name in ("soc", "counted") for number in _known(columns, name)] or [0.0, 100.0]
    low = 10.0 * math.floor(min(*shown, 80.0) / 10)
    high = max(10.0 * math.ceil(max(shown) / 10), low + 20)
    return low, high


def _known(columns: Columns, name: str) -> list[float]:
    return [number for number in columns.numbers[name] if not math.isnan(number)]


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Places of labels, moved up where they would be less ``apart`` than that; in the order given."""
    moved = dict.fromkeys(range(len(places)), 0.0)
    before = -math.inf
    for index in sorted(moved, key=places.__getitem__):
        before = moved[index] = max(places[index], before + apart)
    return list(moved.values())


def ticks(seconds: float) -> tuple[float, str, float]:
    """How a time is divided: seconds in the unit, its name, and units from one tick to the next."""
    unit, name = next(row for row in UNITS if seconds > 2 * row[0] or row is UNITS[-1])
    steps = (0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 168) if name == "hours" else (0.25, 0.5, 1, 2, 5, 10, 20)
    most = seconds / unit
    return unit, name, next((step for step in steps if most / step <= 14), math.ceil(most / 14))


def calm(words: Iterable[str | None], numbers: Iterable[float]) -> str | None:
    """The word with which a limit stands still at its highest: nothing takes from it then."""
    amounts: defaultdict[str | None, set[float]] = defaultdict(set)
    for word, number in zip(words, numbers, strict=True):
        if word:
            amounts[word].add(number)
    most = max((max(some) for some in amounts.values()), default=0.0)
    return next((word for word, some in amounts.items() if some == {most} and most > 0), None)


def faces(rows: Sequence[Sequence[str]], fixed: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """A colour and a hatch for each word: the same wherever it stands, unlike all others in its rows.

    Words that have a ``fixed`` colour keep that.
    """
    given = {word: (colour, "") for word, colour in fixed.items()}
    choice = [(colour, hatch) for hatch in ("", "////", "....") for colour in KINDS]
    for word in dict.fromkeys(word for row in rows for word in row if word not in given):
        taken = {given.get(other) for row in rows if word in row for other in row}
        given[word] = next((face for face in choice if face not in taken), choice[-1])
    return given


# The drawing

WIDTH = 16.0
"""Of the picture; as all lengths here in inches of 100 pixels."""
LEFT, RIGHT = 0.95, 1.15
TOP = 0.6
CELLS, CURRENT, SOC = 3.6, 2.6, 1.2
"""Heights of the panels."""
HEAD = 0.45
"""Over a panel, for its name and its legend."""
ROW = 0.27
"""Of a strip."""
AXIS = 0.75
"""Below the lowest panel, for the time."""
LINE = 0.185
"""Of small print."""
LETTERS = 44
"""Of small print across a column of the legend of reasons."""

# The colours of Okabe and Ito, which people who see no red or no green tell apart too.
BLUE, SKY, GREEN, ORANGE, RED, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
YELLOW, BLACK, GREY = "#F0E442", "#000000", "#777777"
PALE = "#D4D4D4"
KINDS = (SKY, ORANGE, GREEN, PURPLE, YELLOW, BLUE, RED)
FIXED = {
    "bulk": PALE, "absorption": "#8F8F8F", "float": "#4A4A4A",
    "link lost": BLACK, "no charging": RED, "no discharging": BLUE,
    "neither charging nor discharging": PURPLE,
}  # fmt: skip
STEPS: dict[str, Any] = {"drawstyle": "steps-post"}
"""A limit or a setting holds until the next."""
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E2E2E2", "grid.linewidth": 0.7,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "legend.frameon": False, "hatch.linewidth": 0.6,
    "svg.fonttype": "none", "svg.hashsalt": "dbus-smartbms", "pdf.fonttype": 42,
}  # fmt: skip


def picture(columns: Columns, title: str, form: str) -> bytes:
    """The picture as a file of ``form`` (png, svg, pdf); the same columns always give the same.

    Raises PlotError when there is no matplotlib.
    """
    _need_matplotlib()
    from matplotlib import style
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a title in letters that the font has not
        figure = Figure()
        _Drawing(columns, figure).draw(title)
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        figure.savefig(out, format=form, dpi=100, metadata=dates.get(form))
    return out.getvalue()


def _need_matplotlib() -> None:
    for name in ("matplotlib", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell more than anyone wants to know
    os.environ["MPLBACKEND"] = "agg"  # no display is needed, whatever the user's notebook wants
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise PlotError("plot needs matplotlib: pip install matplotlib") from None


class _Drawing:
    """Panels from top to bottom over one time axis."""

    def __init__(self, columns: Columns, figure: Figure) -> None:
        self._columns, self._figure = columns, figure
        self._length = columns.end - columns.begin or 1.0
        self._unit, self._unit_name, self._step = ticks(self._length)
        self._strips = {
            name: strip(segments(columns.t, words, columns.end), columns.begin, columns.end)
            for name, words in columns.words.items()
        }
        words = {name: [*lengths(parts)] for name, parts in self._strips.items()}
        reasons = {name.upper(): columns.numbers[name] for name in Columns.LIMITS}
        still = [calm(columns.words[name], numbers) for name, numbers in reasons.items()]
        colours = faces([words[name] for name in reasons], dict.fromkeys(filter(None, still), PALE))
        others = faces([words["state"], words["stopped"]], FIXED)
        self._faces = {name: colours if name in reasons else others for name in words}
        self._legend = [
            (", ".join(names), [(self._face(name, word), word) for name in names for word in words[name]])
            for names in (("CVL",), ("CCL",), ("DCL",), ("state", "stopped"))
        ]
        lines = max(sum(len(_lines(word)) for _, word in entries) for _, entries in self._legend)
        panels = CELLS + CURRENT + SOC + len(self._strips) * ROW + 4 * HEAD
        self._top = TOP
        self._height = TOP + panels + AXIS + (lines + 2) * LINE
        figure.set_size_inches(WIDTH, self._height)

    def draw(self, title: str) -> None:
        """All of it."""
        title = "".join(letter if letter.isprintable() else "?" for letter in textwrap.shorten(title, 110))
        texts = [f"{self._columns.cells} cells", f"{self._length / self._unit:.3g} {self._unit_name}"]
        texts.append(f"{self._columns.frames} frames")
        if self._columns.rejected:
            texts.append(f"damaged places on the line: {self._columns.rejected}")
        self._figure.text(LEFT / WIDTH, self._y(0.32), title, fontsize=14, fontweight="bold")
        self._figure.text(LEFT / WIDTH, self._y(0.55), ", ".join(texts), color=GREY)
        self._cells(self._panel("Cell voltage (V)", CELLS))
        self._current(self._panel("Battery current (A), positive charges", CURRENT))
        self._soc(self._panel("State of charge (%)", SOC))
        self._reasons(self._panel("Why the limits are what they are", len(self._strips) * ROW))
        self._small_print()

    def _y(self, inches: float) -> float:
        """A place so far below the upper edge, as matplotlib counts."""
        return 1 - inches / self._height

    def _panel(self, name: str, tall: float) -> Axes:
        self._top += HEAD + tall
        place = (LEFT / WIDTH, self._y(self._top), (WIDTH - LEFT - RIGHT) / WIDTH, tall / self._height)
        axes = self._figure.add_axes(place)
        axes.set_title(name)
        reach = self._length / self._unit
        whole = round(reach / self._step) * self._step
        if 0 < whole - reach < reach / 200:  # 3.9997 hours are 4
            reach = whole
        axes.set_xlim(0, reach)
        places = [self._step * n for n in range(int(reach / self._step) + 1)]
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.tick_params(length=0, labelbottom=False)
        return axes

    def _rows(self, *names: str) -> list[int]:
        return thin(self._columns.t, [self._columns.numbers[name] for name in names])

    def _at(self, rows: Sequence[int]) -> list[float]:
        return [(self._columns.t[row] - self._columns.begin) / self._unit for row in rows]

    def _line(self, axes: Axes, rows: Sequence[int], name: str, *, sign: int = 1, **look: Any) -> list[float]:
        """Draw a column, if anything of it is known; its numbers."""
        numbers = [sign * self._columns.numbers[name][row] for row in rows]
        gaps = [math.isnan(number) for number in (math.nan, *numbers, math.nan)]
        alone = [i for i in range(len(numbers)) if gaps[i] and not gaps[i + 1] and gaps[i + 2]]
        if alone:  # no line leads there
            look |= {"marker": ".", "markersize": 3, "markevery": alone}
        if not all(gaps):
            axes.plot(self._at(rows), numbers, gid=name, **look)
        return numbers

    def _cells(self, axes: Axes) -> None:
        low, high = voltage_range(self._columns)
        rows = self._rows("highest", "lowest", "cvl")
        top = self._line(axes, rows, "highest", color=RED, lw=0.9, label="highest cell")
        bottom = self._line(axes, rows, "lowest", color=BLUE, lw=0.9, label="lowest cell")
        axes.fill_between(self._at(rows), bottom, top, color=SKY, alpha=0.25, lw=0)
        self._line(axes, rows, "cvl", color=BLACK, lw=1.4, label="CVL / cells", **STEPS)
        axes.set_ylim(low, high)
        _legend(axes)
        self._settings(axes, low, high)

    def _settings(self, axes: Axes, low: float, high: float) -> None:
        """Thin lines, their names in the margin."""
        last = {name: _known(self._columns, name)[-1:] for name in Columns.SETTINGS}
        shown = {name: volts[0] for name, volts in last.items() if volts and low <= volts[0] <= high}
        places = spread([(volts - low) / (high - low) for volts in shown.values()], 0.16 / CELLS)
        small: Any = {"color": GREY, "fontsize": 9, "va": "center", "transform": axes.transAxes}
        for (name, volts), place in zip(shown.items(), places, strict=True):
            self._line(axes, self._rows(name), name, color=GREY, lw=0.9, ls=(0, (6, 3)), **STEPS)
            axes.text(1.006, place, f"{name} {volts:.2f}", **small)

    def _current(self, axes: Axes) -> None:
        bottom, top = current_range(self._columns)
        rows = self._rows("current", "ccl", "dcl")
        self._line(axes, rows, "current", color=BLUE, lw=1.1, zorder=3, label="current")
        ccl = self._line(axes, rows, "ccl", color=GREEN, lw=1.3, label=self._limit("CCL", top), **STEPS)
        name = self._limit("DCL", -bottom)
        dcl = self._line(axes, rows, "dcl", sign=-1, color=ORANGE, lw=1.3, label=name, **STEPS)
        look: Any = {"step": "post", "color": GREEN, "alpha": 0.08, "lw": 0}
        axes.fill_between(self._at(rows), dcl, ccl, label="allowed", **look)
        axes.axhline(0, color=GREY, lw=0.8)
        axes.set_ylim(bottom, top)
        _legend(axes)

    def _limit(self, name: str, edge: float) -> str:
        """A limit's name; where it leaves the picture, with what it reaches."""
        most = max(_known(self._columns, name.lower()), default=0.0)
        return f"{name} (up to {most:.0f} A)" if most > edge else name

    def _soc(self, axes: Axes) -> None:
        numbers = self._columns.numbers
        low, high = soc_range(self._columns)
        self._line(axes, self._rows("soc"), "soc", color=BLUE, lw=1.3, label="the BMS's")
        apart = (abs(bms - own) for bms, own in zip(numbers["soc"], numbers["counted"], strict=True))
        if any(percent >= (high - low) / 50 for percent in apart):
            look: Any = {"color": RED, "lw": 1.3, "ls": (0, (4, 2)), "label": "counted by the driver"}
            self._line(axes, self._rows("counted"), "counted", **look)
        axes.set_ylim(low, high + (high - low) / 20)
        _legend(axes)

    def _reasons(self, axes: Axes) -> None:
        for row, (name, parts) in enumerate(self._strips.items()):
            for word in lengths(parts):
                begins = self._columns.begin
                spans = [
                    ((begin - begins) / self._unit, (end - begin) / self._unit)
                    for begin, end, its in parts
                    if its == word
                ]
                axes.broken_barh(spans, (row + 0.1, 0.8), **self._face(name, word))
        axes.set_ylim(len(self._strips), 0)
        axes.set_yticks([row + 0.5 for row in range(len(self._strips))], [*self._strips])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(f"{self._unit_name} since the capture began")

    def _face(self, name: str, word: str) -> dict[str, Any]:
        colour, hatch = self._faces[name][word]
        return {"facecolor": colour, "hatch": hatch, "edgecolor": BLACK, "lw": 0}

    def _small_print(self) -> None:
        """What the colours of the strips mean, a column for each of the limits."""
        from matplotlib.patches import Rectangle

        for index, (head, entries) in enumerate(self._legend):
            x = LEFT + index * (WIDTH - LEFT) / len(self._legend)
            y = self._top + AXIS
            self._figure.text(x / WIDTH, self._y(y), head, fontsize=9, fontweight="bold")
            for face, word in entries:
                place = (x / WIDTH, self._y(y + LINE))
                size = (0.16 / WIDTH, 0.11 / self._height)
                box = Rectangle(place, *size, transform=self._figure.transFigure, **face)
                self._figure.add_artist(box)
                for line in _lines(word):
                    y += LINE
                    self._figure.text((x + 0.24) / WIDTH, self._y(y), line, fontsize=9)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, LETTERS)


def _legend(axes: Axes) -> None:
    """Beside the panel's name, so that it covers nothing."""
    handles, _ = axes.get_legend_handles_labels()
    place: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.1}
    if handles:
        axes.legend(ncol=len(handles), fontsize=9.5, **place)


# The command


def output(capture: str) -> Path:
    """Where a picture goes by itself: named like the capture, in the current folder."""
    name = "capture" if capture == "-" else Path(capture).name
    return Path(re.sub(r"\.(jsonl?|ndjson|log|txt)$", "", name) + ".png")


def plot(capture: str, path: Path, title: str | None, configuration: Configuration) -> Columns:
    """Draw a capture (a file, or ``-`` for standard input) into a file, whose name says the format.

    Raises PlotError, with a sentence, when a file cannot be read or written or there is nothing to draw.
    """
    _need_matplotlib()
    if not path.parent.is_dir():
        raise PlotError(f"there is no folder {path.parent}")
    stdin = capture == "-"
    try:
        with open(0 if stdin else capture, encoding="utf-8", errors="replace", closefd=not stdin) as lines:
            if path.exists() and os.path.samestat(path.stat(), os.fstat(lines.fileno())):
                raise PlotError(f"{path} is the capture itself; choose another --output")
            columns = read(lines, configuration)
    except OSError as error:
        raise PlotError(f"cannot read {capture}: {error.strerror}") from None
    data = picture(columns, title or ("capture" if stdin else Path(capture).name), path.suffix[1:].lower())
    try:
        path.write_bytes(data)
    except OSError as error:
        raise PlotError(f"cannot write {path}: {error.strerror}") from None
    return columns
