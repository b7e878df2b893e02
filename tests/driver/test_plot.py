"""``plot``: what is read from a capture, what of it is drawn, and pictures as a person looks at them."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from dbus_smartbms import cli, plot
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.plot import Segment
from dbus_smartbms.replay import replay
from dbus_smartbms.series import Columns, Kinds, PlotError, read
from dbus_smartbms.settings import Settings
from rig import PATIENCE_S, PROGRAM, ROOT, frame
from smartbms_protocol import encode

CLEAN = ROOT / "tests" / "recorded" / "clean.jsonl"
NAN = math.nan
NEITHER = "neither charging nor discharging"


def line(t: float, turn: int = 0, **changes: Any) -> str:
    return json.dumps({"t": t, "frame": encode(frame(turn, **changes)).hex()})


def nothing(t: float) -> str:
    return json.dumps({"t": t, "frame": None})


def frames(begin: int, end: int, **changes: Any) -> list[str]:
    """A frame a second."""
    return [line(float(t), t, **changes) for t in range(begin, end)]


def columns(lines: Sequence[str], **configured: Any) -> Columns:
    return read(lines, Configuration(Settings(**configured)))


def rows(of: Columns, *names: str) -> dict[float, Any]:
    """By time, what stands in the columns of these names; None for "not known"."""
    table = {}
    for row, t in enumerate(of.t):
        both = [of.numbers[name][row] if name in of.numbers else of.words[name][row] for name in names]
        known = [None if isinstance(one, float) and math.isnan(one) else one for one in both]
        table[t] = known if len(known) > 1 else known[0]
    return table


# Kinds of reasons


TAPERS = "cell {} at {} V: charging tapers from {} V"


@pytest.mark.parametrize(
    ("reasons", "label"),
    [
        (["0.5 C of 303 Ah"], "0.5 C of 303 Ah"),
        (["configured maximum 80 A"], "configured maximum 80 A"),
        (["16 cells x 3.43 V"], "16 cells x 3.43 V"),
        (["no frames: is the cable plugged in?"], "no frames: is the cable plugged in?"),
        (["the BMS does not allow charging"], "the BMS does not allow charging"),
        ([TAPERS.format(7, 3.53, 3.5)], "charging tapers from 3.5 V"),
        ([TAPERS.format(7, 3.53, 3.5), TAPERS.format(12, 3.535, 3.5)], "charging tapers from 3.5 V"),
        ([TAPERS.format(7, 3.53, 3.5), TAPERS.format(7, 3.53, 3.45)], "charging tapers"),
        (["cell 3 at 2.905 V: more would let it sag to Vmin"], "more would let it sag to Vmin"),
        ([f"empty: cell 3 at {n} V, Vmin 2.90 V" for n in ("2.905", "2.900")], "empty, Vmin 2.90 V"),
        (["cell 1 at 3.700 V: Vmax 3.70 V (Vh)"], "Vmax 3.70 V (Vh)"),
        (["rises slowly again to 34 A", "rises slowly again to 40 A"], "rises slowly again"),
        (
            [f"waits for 3 frames in a row that permit it ({n} so far)" for n in (1, 2)],
            "waits for 3 frames in a row that permit it",
        ),
        (
            [f"too cold (Tl); the coldest cell is now at {n} degC" for n in (-3, -2, 0)],
            "too cold (Tl)",
        ),
        (
            [f"too hot: the hottest cell is at {n} degC, over [pack] tmax" for n in ("55.5", "56.4")],
            "too hot, over [pack] tmax",
        ),
        (["cell 1 at 3.4 V", "cell 2 at 3.5 V"], "cell"),
        (["3 of 4", "2 of 4"], "… of 4"),
    ],
)  # fmt: skip
def test_a_kind_is_what_is_left_without_the_numbers_that_change(reasons: list[str], label: str) -> None:
    kinds = Kinds()
    (kind,) = {kinds.kind(reason) for reason in reasons * 2}
    assert kinds.label(kind) == label


def test_reasons_that_differ_in_words_are_of_different_kinds() -> None:
    kinds = Kinds()
    assert kinds.kind("cell 7 at 3.53 V: charging tapers") != kinds.kind("cell 7 at 3.53 V: held")


@given(st.lists(st.text("cell 0123456789.:,;()AVx-…", max_size=30), min_size=1, max_size=5))
def test_every_reason_has_a_label(reasons: list[str]) -> None:
    kinds = Kinds()
    labels = [kinds.label(kind) for kind in map(kinds.kind, reasons)]
    assert all(label or not reason for label, reason in zip(labels, reasons, strict=True))


# Reading


def test_a_frame_becomes_a_row_of_what_it_says() -> None:
    read_ = columns(frames(0, 6))
    assert [*read_.t] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert rows(read_, "highest", "lowest", "current", "soc")[5.0] == [3.33, 3.31, -12.5, 50.0]
    assert rows(read_, "Vmin", "Vlow", "Vbalance", "Vmax")[5.0] == [2.9, 3.0, 3.4, 3.7]
    answer = json.loads([*replay(frames(0, 6), Configuration(Settings()))][-1])
    limits = [answer["cvl"] / 16, answer["ccl"], answer["dcl"]]
    assert rows(read_, "cvl", "ccl", "dcl")[5.0] == pytest.approx(limits, abs=0.1)
    assert rows(read_, "CVL", "CCL", "DCL")[5.0] == [*answer["reasons"].values()]
    assert rows(read_, "state", "stopped")[5.0] == [answer["state"], None]
    assert (read_.cells, read_.frames, read_.lines, read_.damaged, read_.rejected) == (16, 6, 6, 0, 0)
    assert (read_.begin, read_.end) == (0.0, 5.0)


def test_what_is_not_known_is_not_0() -> None:
    """No current sensor, Vlow before its turn came, balancing that is off; 0 A is a measurement."""
    read_ = columns([line(0.0, current_ma=None, vbalance_mv=0), line(1.0, 1, current_ma=0, vbalance_mv=0)])
    assert rows(read_, "current", "Vlow", "Vbalance") == {0.0: [None, None, None], 1.0: [0.0, None, None]}


def test_the_start_of_the_driver_is_not_drawn() -> None:
    """Two frames in which nothing is allowed yet would look like a BMS that denies."""
    read_ = columns(frames(0, 4))
    assert rows(read_, "ccl", "dcl", "CCL", "stopped") == {
        0.0: [None, None, None, None], 1.0: [None, None, None, None],
        2.0: [151.515, 303.03, "0.5 C of 303 Ah", None], 3.0: [151.515, 303.03, "0.5 C of 303 Ah", None],
    }  # fmt: skip
    assert rows(read_, "highest")[0.0] == 3.33


@pytest.mark.parametrize(("seconds", "drawn"), [(8, None), (9, NEITHER)])
def test_a_denial_from_the_beginning_is_drawn(seconds: int, drawn: str | None) -> None:
    read_ = columns([*frames(0, seconds, status=0), *frames(seconds, seconds + 5)])
    assert rows(read_, "stopped")[0.0] == drawn


def test_a_capture_in_which_nothing_is_ever_allowed_is_drawn() -> None:
    assert set(rows(columns(frames(0, 5, status=0)), "stopped").values()) == {NEITHER}


@pytest.mark.parametrize(
    ("status", "word"), [(0b11, None), (0b10, "no charging"), (0b01, "no discharging"), (0, NEITHER)]
)
def test_a_limit_of_0_is_said(status: int, word: str | None) -> None:
    assert rows(columns([*frames(0, 4), *frames(4, 6, status=status)]), "stopped")[5.0] == word


SILENT = [nothing(float(t)) for t in range(6, 90)]


@pytest.mark.parametrize("silence", [SILENT, []], ids=["told", "a gap between two lines"])
def test_a_silence_is_a_gap_in_what_is_read_and_not_in_the_limits(silence: list[str]) -> None:
    """Frames until second 5; after 3 s a reading is old, after 10 and 60 s the link is lost."""
    read_ = columns([*frames(0, 6), *silence, *frames(90, 94)])
    assert [*read_.t] == [0, 1, 2, 3, 4, 5, 9, 15, 65, 90, 91, 92, 93]
    readings = rows(read_, "highest", "lowest", "current", "soc", "counted")
    assert readings[5.0] == [3.33, 3.31, -12.5, 50.0, pytest.approx(50.0, abs=0.01)]
    assert readings[9.0] == readings[15.0] == readings[65.0] == [None] * 5
    assert rows(read_, "highest")[90.0] == 3.33
    found = rows(read_, "ccl", "dcl", "stopped")
    assert found[9.0] == [151.515, 303.03, None]
    assert found[15.0] == [0.0, 303.03, "link lost"]
    assert found[65.0] == [0.0, 0.0, "link lost"]
    assert found[90.0][2] == NEITHER
    assert found[92.0][2] is None
    assert rows(read_, "Vmin")[65.0] == 2.9


@pytest.mark.parametrize(("after", "gaps"), [(4.0, 0), (5.0, 1)])
def test_three_intervals_without_a_frame_are_no_gap_yet(after: float, gaps: int) -> None:
    read_ = columns([*frames(0, 6), line(5 + after)])
    assert sum(map(math.isnan, read_.numbers["highest"])) == gaps


def test_what_is_in_force_holds_until_the_end_of_the_capture() -> None:
    read_ = columns([*frames(0, 6), *SILENT])
    assert (read_.end, read_.t[-1]) == (89.0, 89.0)
    assert rows(read_, "highest", "dcl", "stopped")[89.0] == [None, 0.0, "link lost"]


def test_a_frame_that_is_held_back_is_no_row_but_what_it_denies_is() -> None:
    lines = [*frames(0, 4), line(4.0, 4, vmax_mv=3650, status=0), *frames(5, 7)]
    read_ = columns(lines)
    assert rows(read_, "Vmax", "stopped")[4.0] == [3.7, NEITHER]
    assert read_.frames == 7
    assert 4.0 not in [*columns([*frames(0, 4), line(4.0, 4, vmax_mv=3650), *frames(5, 7)]).t]


def test_a_recorded_capture_is_read_as_replay_reads_it() -> None:
    """16 cells of 3305 to 3380 mV, in pieces as they came from the cable (see the captures' own notes)."""
    with CLEAN.open() as lines:
        read_ = columns([*lines])
    expected = json.loads(CLEAN.with_suffix(".expected.json").read_text())
    assert read_.frames == len(read_.t) == expected["counts"]["frames"]
    assert (read_.numbers["lowest"][0], read_.numbers["highest"][0]) == (3.305, 3.38)
    assert read_.begin == 500.016
    assert read_.lines == 108


def test_damaged_lines_are_counted_and_the_first_is_named() -> None:
    lines = ["x\n", line(0.0), "\n", "[]\n", *frames(1, 4), "  \n", nothing(2.0)]
    read_ = columns(lines)
    assert (read_.lines, read_.damaged) == (7, 3)
    assert read_.damage == "line 1: not JSON: Expecting value: line 1 column 1 (char 0)"
    assert [*read_.t] == [0.0, 1.0, 2.0, 3.0]


def test_damaged_bytes_are_counted() -> None:
    bad = bytearray(encode(frame(4)))
    bad[0] ^= 1
    read_ = columns([*frames(0, 4), json.dumps({"t": 4.0, "bytes": bad.hex()}), line(5.0, 5)])
    assert (read_.frames, read_.rejected, read_.damaged) == (5, 1, 0)
    assert b"5 frames, damaged places on the line: 1" in plot.picture(read_, "t", "svg")


@pytest.mark.parametrize(
    "lines", [[], ["\n"], [nothing(0.0)], ["x"], [json.dumps({"t": 0, "bytes": "00" * 80})]]
)
def test_without_a_frame_there_is_nothing_to_draw(lines: list[str]) -> None:
    with pytest.raises(PlotError, match="there is no valid frame in it"):
        columns(lines)


# What is drawn


def test_words_that_follow_each_other_are_one_segment() -> None:
    found = plot.segments([0.0, 1.0, 2.0, 3.0, 5.0], [None, "a", "a", "b", None], 9.0)
    assert found == [Segment(1.0, 3.0, "a"), Segment(3.0, 5.0, "b")]
    assert plot.segments([0.0], ["a"], 9.0) == [Segment(0.0, 9.0, "a")]
    assert plot.segments([], [], 9.0) == []


def test_a_reason_whose_numbers_change_is_one_segment() -> None:
    lines = [line(float(t), t, highest_mv=3500 + 5 * (t % 4), highest_cell=t % 3 + 1) for t in range(20)]
    read_ = columns(lines)
    (part,) = plot.segments(read_.t, read_.words["CCL"], read_.end)
    assert (part.begin, part.end) == (2.0, 19.0)
    assert part.word.startswith("charging tapers")


def test_how_long_a_word_held_from_the_longest() -> None:
    parts = [Segment(0, 2, "a"), Segment(2, 7, "b"), Segment(7, 8, "a")]
    assert [*plot.lengths(parts).items()] == [("b", 5), ("a", 3)]


def test_a_second_is_seen_in_a_day() -> None:
    day = [Segment(0, 40_000, "a"), Segment(40_000, 40_001, "b"), Segment(40_001, 86_400, "a")]
    assert plot.strip(day, 0, 86_400, 864) == [
        Segment(0, 40_000, "a"), Segment(40_000, 40_100, "b"), Segment(40_100, 86_400, "a"),
    ]  # fmt: skip


def test_a_strip_has_no_more_segments_than_pixels_and_keeps_what_is_not_known_empty() -> None:
    flutter = [Segment(t, t + 1, "ab"[t % 2]) for t in range(500, 1000)]
    found = plot.strip(flutter, 0, 1000, 100)
    assert len(found) <= 50
    assert (found[0].begin, found[-1].end) == (500, 1000)


def test_a_capture_of_one_moment_has_a_strip() -> None:
    assert [part.word for part in plot.strip([Segment(3.0, 3.0, "a")], 3.0, 3.0)] == ["a"]


def test_few_rows_are_all_drawn() -> None:
    assert plot.thin([0.0, 1.0, 2.0], [[1.0, 1.0, 1.0]], 3) == [0, 1, 2]


def test_of_many_rows_first_last_lowest_highest_and_a_gap_are_drawn() -> None:
    t = [float(second) for second in range(200)]
    numbers = [0.0] * 200
    numbers[33], numbers[66], numbers[77], numbers[150] = 9.0, -9.0, NAN, 1.0
    assert plot.thin(t, [numbers], 2) == [0, 33, 66, 77, 99, 100, 150, 198, 199]


SERIES = st.lists(st.one_of(st.integers(-5, 5).map(float), st.just(NAN)), min_size=50, max_size=200)


@given(SERIES, st.integers(1, 20))
def test_thinning_loses_no_extreme_and_draws_no_line_through_a_gap(numbers: list[float], pixels: int) -> None:
    t = [float(second) for second in range(len(numbers))]
    kept = plot.thin(t, [numbers], pixels)
    assert len(kept) <= (pixels + 1) * 7
    width = t[-1] / pixels
    for pixel in range(pixels + 1):
        before = [one for second, one in zip(t, numbers, strict=True) if int(second / width) == pixel]
        after = [numbers[row] for row in kept if int(t[row] / width) == pixel]
        assert any(map(math.isnan, before)) == any(map(math.isnan, after))
        known = [one for one in before if not math.isnan(one)]
        left = [one for one in after if not math.isnan(one)]
        assert (min(known, default=0), max(known, default=0)) == (min(left, default=0), max(left, default=0))


def made(**given_: Sequence[float]) -> Columns:
    """Columns by hand: those not given are not known."""
    read_ = Columns()
    length = max(map(len, given_.values()))
    for row in range(length):
        read_.add(
            float(row), [given_[name][row] if name in given_ else NAN for name in read_.numbers], [None] * 5
        )
    read_.end = float(length - 1)
    return read_


@pytest.mark.parametrize(
    ("given_", "low", "high"),
    [
        ({"lowest": [3.30], "highest": [3.40], "cvl": [3.43]}, 3.2948, 3.4352),
        ({"lowest": [3.2], "highest": [3.3], "Vbalance": [3.4], "Vmax": [3.65]}, 3.195, 3.305),
        ({"lowest": [3.2], "highest": [3.38], "Vbalance": [3.4], "Vmax": [3.65]}, 3.192, 3.408),
        ({"lowest": [3.0], "highest": [3.4], "Vmin": [2.9]}, 2.88, 3.42),
        ({"lowest": [0.0, 3.3], "highest": [0.0, 3.4]}, 3.295, 3.405),
        ({"lowest": [0.0], "highest": [0.0], "Vmin": [2.9], "Vmax": [3.7]}, 2.868, 3.732),
    ],
    ids=[
        "cells and CVL",
        "settings far off are not",
        "settings near are",
        "below too",
        "0 V was not measured",
        "none",
    ],
)
def test_which_voltages_are_shown(given_: dict[str, list[float]], low: float, high: float) -> None:
    assert plot.voltage_range(made(**given_)) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("current", "ccl", "dcl", "bottom", "top"),
    [
        ([-5.0, 10.0], 150.0, 300.0, -11.5, 21.5),
        ([0.0, 100.0], 150.0, 300.0, -60.0, 160.0),
        ([-50.0, -5.0], 20.0, 0.0, -53.5, 23.5),
        ([-50.0, 60.0], 40.0, 40.0, -55.5, 65.5),
        ([NAN, NAN], 100.0, 300.0, -320.0, 120.0),
        ([0.0, 0.0], 0.0, 0.0, -1.0, 1.0),
    ],
    ids=["limits far off", "one near", "denied", "current over its limits", "no sensor", "nothing"],
)
def test_limits_do_not_flatten_the_current(
    current: list[float], ccl: float, dcl: float, bottom: float, top: float
) -> None:
    found = plot.current_range(made(current=current, ccl=[ccl, ccl], dcl=[dcl, dcl]))
    assert found == pytest.approx((bottom, top))


@pytest.mark.parametrize(
    ("soc", "shown"),
    [([99.0, 100.0], (80, 100)), ([0.0, 3.0], (0, 20)), ([41.0, 88.5], (40, 90)), ([NAN], (0, 100))],
)
def test_the_state_of_charge_is_shown_in_tens(soc: list[float], shown: tuple[float, float]) -> None:
    assert plot.soc_range(made(soc=soc)) == shown


def test_labels_do_not_cover_each_other() -> None:
    assert plot.spread([0.5, 0.1, 0.52], 0.05) == pytest.approx([0.5, 0.1, 0.55])
    assert plot.spread([0.5, 0.5], 0.05) == pytest.approx([0.5, 0.55])
    assert plot.spread([], 0.05) == []


@pytest.mark.parametrize(
    ("seconds", "unit", "name", "step"),
    [
        (1, 1, "seconds", 0.25), (120, 1, "seconds", 10), (121, 60, "minutes", 0.25),
        (3600, 60, "minutes", 5), (7200, 60, "minutes", 10),
        (7201, 3600, "hours", 0.25), (9 * 3600, 3600, "hours", 1), (86_400, 3600, "hours", 2),
        (14 * 86_400, 3600, "hours", 24), (3.6e9, 3600, "hours", 71_429),
    ],
)  # fmt: skip
def test_time_is_divided_as_people_do(seconds: float, unit: float, name: str, step: float) -> None:
    assert plot.ticks(seconds) == (unit, name, step)


def test_what_takes_nothing_from_a_limit_is_pale() -> None:
    assert plot.calm(["a", "b", "b", "a", None], [150.0, 20.0, 150.0, 150.0, NAN]) == "a"
    assert plot.calm(["b", "b"], [20.0, 30.0]) is None
    assert plot.calm(["denied"], [0.0]) is None
    assert plot.calm([None], [NAN]) is None


def test_a_word_has_the_same_colour_in_every_row_and_no_other_word_there_has_it() -> None:
    given_ = [["tapers", "rises"], ["rises", "sags"], [f"word {n}" for n in range(20)]]
    found = plot.faces(given_, {"rises": plot.PALE})
    assert found["rises"] == (plot.PALE, "")
    for row in given_:
        assert len({found[word] for word in row}) == len(row)


# Pictures

STORY = [
    *frames(0, 100),
    *frames(100, 200, highest_mv=3500, current_ma=10_000, soc_percent=60, stored_wh=9600),
    *frames(200, 240, status=0b10),
    *frames(300, 400),
]
"""A high cell, a denial, a silence of a minute."""


def svg(lines: Sequence[str], title: str = "A day on the boat", **configured: Any) -> str:
    return plot.picture(columns(lines, **configured), title, "svg").decode()


@pytest.fixture(scope="module")
def story() -> str:
    return svg(STORY)


def texts(of: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", of)


def test_title_panels_and_axis_are_named(story: str) -> None:
    found = texts(story)
    for text in (
        "A day on the boat", "16 cells, 6.65 minutes, 340 frames", "minutes since the capture began",
        "Cell voltage (V)", "Battery current (A), positive charges", "State of charge (%)",
        "highest cell", "lowest cell", "CVL / cells", "current", "allowed",
        "Vbalance 3.40", "DCL (up to 303 A)", "CCL (up to 152 A)",
    ):  # fmt: skip
        assert text in found, text


def test_the_legend_has_each_kind_once_in_the_column_of_its_limit(story: str) -> None:
    found = texts(story)
    legend = found[found.index("16 cells, 6.65 minutes, 340 frames") + 1 :]
    heads = [legend.index(head) for head in ("CVL", "CCL", "DCL", "state, stopped")]
    assert heads == sorted(heads)
    cvl, ccl, dcl, rest = (
        legend[begin + 1 : end] for begin, end in zip(heads, [*heads[1:], len(legend)], strict=True)
    )
    assert "16 cells x 3.43 V" in cvl
    assert "0.5 C of 303 Ah" in ccl
    assert [text.startswith("charging tapers") for text in ccl].count(True) == 1
    assert "the BMS does not allow charging" in ccl
    assert "1 C of 303 Ah" in dcl
    assert {"bulk", "no charging", "link lost"} <= set(rest)


def drawn(of: str, name: str) -> str:
    """The path of a line, as SVG has it."""
    found = re.search(rf'<g id="{name}">\s*<path d="([^"]*)"', of)
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", ["highest", "lowest", "current", "soc"])
def test_no_line_is_drawn_through_a_silence(story: str, name: str) -> None:
    assert drawn(story, name).count("M") == 2
    assert drawn(svg(frames(0, 400)), name).count("M") == 1


@pytest.mark.parametrize("name", ["cvl", "ccl", "dcl", "Vbalance"])
def test_a_limit_and_a_setting_hold_in_a_silence(story: str, name: str) -> None:
    assert drawn(story, name).count("M") == 1


def test_charging_is_drawn_upwards_and_discharging_downwards() -> None:
    found = svg(frames(0, 60, current_ma=0, current2_ma=0))
    ccl, zero, dcl = (
        {*re.findall(r" ([\d.]+) ?\n", drawn(found, name))} for name in ("ccl", "current", "dcl")
    )
    assert max(map(float, ccl)) < min(map(float, zero)) <= max(map(float, zero)) < min(map(float, dcl))


def test_a_frame_alone_is_a_dot() -> None:
    found = svg([*frames(0, 6), line(100.0), *frames(200, 206)])
    assert (
        found.count("<use xlink:href", found.index('<g id="highest">'), found.index('<g id="lowest">')) == 1
    )


def test_the_drivers_soc_is_drawn_where_it_differs() -> None:
    """The BMS's jumps to 100 % while 12.5 A flow out: the driver goes on counting."""
    assert "counted by the driver" not in texts(svg(frames(0, 60)))
    jump = frames(60, 120, soc_percent=100, stored_wh=16_000)
    assert "counted by the driver" in texts(svg([*frames(0, 60), *jump]))


def test_what_is_configured_counts() -> None:
    assert "configured maximum 40 A" in texts(svg(frames(0, 60), max_charge_current=40.0))


def test_without_a_current_sensor_there_is_no_line_for_it() -> None:
    found = svg(frames(0, 60, current_ma=None, current1_ma=None, current2_ma=None))
    assert '<g id="current">' not in found
    assert '<g id="ccl">' in found


def test_a_title_is_text_and_nothing_else() -> None:
    title = "$5 \\frac$ & <b> \x01\udcff 電池 " + "long " * 40
    text = next(text for text in texts(svg(frames(0, 3), title)) if text.startswith("$5"))
    assert text.startswith("$5 \\frac$ &amp; &lt;b&gt; ?? 電池 long")
    assert len(text) < 130


ODD = {
    "one frame": [line(7.0)],
    "one moment": [line(7.0), line(7.0)],
    "two frames": frames(0, 2),
    "0 V": frames(0, 40, lowest_mv=0, highest_mv=0, voltage_mv=0),
    "cells not heard": [*frames(0, 4), *frames(4, 8, status=4, lowest_mv=0, lowest_cell=0)],
    "30 years": [*frames(0, 9), line(1e9, 3)],
    "no capacity": frames(0, 5, capacity_wh=0),
    "no settings": frames(0, 5, vmin_mv=0, vmax_mv=0, vbalance_mv=0),
    "neither cells nor settings": frames(
        0, 5, lowest_mv=0, highest_mv=0, vmin_mv=0, vmax_mv=0, vbalance_mv=0
    ),
    "2 cells": frames(0, 30, cells=2, highest_cell=1, lowest_cell=2, hottest_cell=1, voltage_mv=6640),
}


@pytest.mark.parametrize("lines", ODD.values(), ids=ODD)
def test_odd_captures_have_a_picture_too(lines: list[str]) -> None:
    assert "Cell voltage (V)" in texts(svg(lines))


def test_a_long_capture_stays_a_small_picture() -> None:
    """A day of noise: each column of pixels has at most its extremes."""
    read_ = made(
        highest=[3.4 + (second * 7919 % 13) / 1000 for second in range(86_400)],
        lowest=[3.3 + (second * 7907 % 11) / 1000 for second in range(86_400)],
        current=[float(second * 7901 % 17) for second in range(86_400)],
    )
    read_.numbers["highest"][40_000] = 3.6
    picture = plot.picture(read_, "a day", "svg")
    assert len(picture) < 2_000_000
    assert "hours since the capture began" in picture.decode()
    y = [float(place) for place in re.findall(r" ([\d.]+) ?\n", drawn(picture.decode(), "highest"))]
    assert sorted(y)[1] - min(y) > 50, "the one extreme is drawn, far over all others"


def test_the_same_capture_is_the_same_picture() -> None:
    for form in ("png", "svg", "pdf"):
        assert plot.picture(columns(STORY), "t", form) == plot.picture(columns(STORY), "t", form)


def test_a_png_is_1600_wide_and_shows_what_it_should(tmp_path: Path) -> None:
    file = tmp_path / "story.png"
    file.write_bytes(plot.picture(columns(STORY), "A day on the boat", "png"))
    pixels = imread(file)
    height, width, _ = pixels.shape
    assert width == 1600
    assert 1000 < height < 1600
    seen = {tuple(round(255 * part) for part in pixel[:3]) for pixel in pixels.reshape(-1, 4)[::3]}
    for colour in (plot.RED, plot.BLUE, plot.GREEN, plot.BLACK, plot.PALE, plot.KINDS[0]):
        assert tuple(bytes.fromhex(colour[1:])) in seen, colour
    white = (pixels[..., :3] == 1).all(axis=2).mean()
    assert 0.5 < white < 0.95
    for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]):
        assert (edge[..., :3] == 1).all(), "nothing is cut off"


# The command


def run(
    folder: Path, *arguments: str, text: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "plot", *arguments], cwd=folder, input=text, env=os.environ | environment,
        capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False,
    )  # fmt: skip


def test_a_capture_becomes_a_png_beside_us(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "here").mkdir()
    capture = tmp_path / "data" / "2024.05.01.jsonl"
    capture.write_text("\n".join([*STORY[:4], "x", *STORY[4:]]) + "\n\n")
    done = run(tmp_path / "here", str(capture))
    assert (done.returncode, done.stdout) == (0, "")
    damage, made_ = done.stderr.splitlines()
    assert damage.startswith("WARNING 1 of 341 lines are damaged and left out; line 5: not JSON: ")
    assert made_ == "INFO 2024.05.01.png: 340 frames"
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["2024.05.01.png"]
    assert (tmp_path / "here" / "2024.05.01.png").read_bytes().startswith(b"\x89PNG")


def test_from_standard_input_with_all_options(tmp_path: Path) -> None:
    config = tmp_path / "bms.ini"
    config.write_text("[limits]\nmax_charge_current = 40\nmax_discharge_current = 50\nwrong = 1\n")
    arguments = ("-", "--output", "a.SVG", "--title", "The boat", "--config", str(config))
    done = run(tmp_path, *arguments, "--set", "limits.max_charge_current=30", text="\n".join(STORY))
    assert done.returncode == 0, done.stderr
    assert "unknown key 'wrong'" in done.stderr
    found = texts((tmp_path / "a.SVG").read_text())
    assert {"The boat", "configured maximum 30 A", "configured maximum 50 A"} <= set(found)


def test_a_pdf_by_its_name_with_no_display(tmp_path: Path) -> None:
    environment = {"MPLBACKEND": "of-a-notebook", "DISPLAY": ""}
    done = run(tmp_path, "-", "--output", "a.pdf", text="\n".join(STORY[:20]), **environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_names_of_pictures() -> None:
    names = {
        name: str(plot.output(name)) for name in ("-", "a.jsonl", "/x/a.json", "b.log", "a.b.1", "plain")
    }
    assert names == {
        "-": "capture.png", "a.jsonl": "a.png", "/x/a.json": "a.png", "b.log": "b.png", "a.b.1": "a.b.1.png",
        "plain": "plain.png",
    }  # fmt: skip


def capture(folder: Path) -> None:
    (folder / "a.jsonl").write_text("\n".join(STORY[:20]))
    (folder / "a.png").write_text("\n".join(STORY[:20]))
    (folder / "noise").write_bytes(bytes(range(256)) * 40)
    (folder / "empty").write_text("")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("missing.jsonl",), 1, "cannot read missing.jsonl: No such file or directory\n"),
        ((".",), 1, "cannot read .: Is a directory\n"),
        (("empty",), 1, "there is no valid frame in it\n"),
        (("noise",), 1, "there is no valid frame in it; line 1: not JSON: "),
        (("a.png", "--output", "./a.png"), 1, "a.png is the capture itself; choose another --output\n"),
        (("a.jsonl", "--output", "no/a.svg"), 1, "there is no folder no\n"),
        (("a.jsonl", "--output", "/dev/null/a.svg"), 1, "there is no folder /dev/null\n"),
        (("a.jsonl", "--output", "/proc/a.svg"), 1, "cannot write /proc/a.svg: No such file"),
        (("a.jsonl", "--output", "a.gif"), 2, "'a.gif' is not the name of a picture (.png, .svg, .pdf)\n"),
        (("a.jsonl", "--output", "png"), 2, "'png' is not the name of a picture (.png, .svg, .pdf)\n"),
        ((), 2, "the following arguments are required: CAPTURE\n"),
        (("a.jsonl", "--set", "pack.generation=D"), 2, "'D' is not one of A, B, C"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_ends_with_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    capture(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert sentence in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dbus-smartbms plot: ")
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def without_matplotlib(tmp_path: Path) -> dict[str, str]:
    """An environment in which it cannot be imported, in place of one in which it is not installed."""
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ModuleNotFoundError\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, without_matplotlib: dict[str, str]
) -> None:
    done = run(tmp_path, "missing.jsonl", **without_matplotlib)
    assert done.returncode == 1
    assert done.stderr == "dbus-smartbms plot: plot needs matplotlib: pip install matplotlib\n"


def test_no_other_command_needs_matplotlib(without_matplotlib: dict[str, str]) -> None:
    environment = os.environ | without_matplotlib
    for command in [[row.name, "--help"] for row in cli.COMMANDS] + [["replay"], ["paths"], ["tables"]]:
        done = subprocess.run(
            [*PROGRAM, *command], input="", text=True, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)


def test_one_module_sees_matplotlib() -> None:
    package = ROOT / "dbus-smartbms" / "dbus_smartbms"
    assert {path.stem for path in package.glob("*.py") if "matplotlib" in path.read_text()} == {"plot"}
