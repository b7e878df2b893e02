"""The lowest cell at rest: what sags is learnt, what is empty is told from a dip."""

from __future__ import annotations

from typing import Any

import pytest

from dbus_smartbms import sag
from dbus_smartbms.sag import Lowest
from rig import frame

CAPACITY_MAH = 300_000
USUAL = 100 / 300
"""mV a cell and A: 100 mV at 1 C of 300 Ah."""


class Cell:
    """The lowest cell, frame by frame, a second apart; Vmin is 2.9 V, it has recovered at 3.0 V."""

    def __init__(self, capacity_mah: int = CAPACITY_MAH) -> None:
        self.lowest, self.now, self.capacity_mah = sag.Lowest(), 0.0, capacity_mah

    def frame(self, lowest_mv: int, current_ma: int | None, frames: int = 1, **other: Any) -> Lowest:
        for _ in range(frames):
            self.now += 1.0
            one = frame(lowest_mv=lowest_mv, current_ma=current_ma, **other)
            self.lowest = sag.follow(self.lowest, one, one.vmin_mv, self.capacity_mah, 3000, 3_000, self.now)
        return self.lowest

    @property
    def empty(self) -> bool:
        return self.lowest.empty_since is not None


def test_until_a_step_was_seen_the_usual_counts() -> None:
    cell = Cell()
    assert cell.frame(3200, -100_000).mv_a == pytest.approx(USUAL)
    assert cell.lowest.rest_mv(3200, -100_000) == pytest.approx(3200 + 100 * USUAL)
    assert cell.lowest.rest_mv(3200, 100_000) == 3200
    assert cell.lowest.rest_mv(3200, None) == 3200
    assert Cell(0).frame(3200, -100_000).mv_a == 0.0


@pytest.mark.parametrize(
    ("dip_mv", "learnt"),
    [(50, 1.4 * 0.5), (0, USUAL / 2), (-50, USUAL / 2), (500, USUAL * 4), (20, 1.4 * 0.2)],
)
def test_a_step_of_the_current_shows_how_far_the_cell_sags(dip_mv: int, learnt: float) -> None:
    cell = Cell()
    cell.frame(3200, 0)
    assert cell.frame(3200 - dip_mv, -100_000).mv_a == pytest.approx(USUAL + 0.3 * (learnt - USUAL))
    for _ in range(40):
        cell.frame(3200, 0)
        cell.frame(3200 - dip_mv, -100_000)
    assert cell.lowest.mv_a == pytest.approx(learnt, rel=1e-3)


@pytest.mark.parametrize(
    ("current_ma", "other"), [(-14_999, {}), (None, {}), (-100_000, {"lowest_cell": 8})], ids=str
)
def test_what_says_nothing_teaches_nothing(current_ma: int | None, other: dict[str, Any]) -> None:
    cell = Cell()
    cell.frame(3200, 0)
    assert cell.frame(3100, current_ma, **other).mv_a == pytest.approx(USUAL)


def test_a_step_from_an_unknown_current_teaches_nothing() -> None:
    cell = Cell()
    cell.frame(3200, None)
    assert cell.frame(3100, -100_000).mv_a == pytest.approx(USUAL)


def test_a_step_is_from_the_frame_before() -> None:
    cell = Cell()
    for lowest_mv in (3300, 3250, 3200):
        cell.frame(lowest_mv, 0)
    assert cell.frame(3150, -100_000).mv_a == pytest.approx(USUAL + 0.3 * (1.4 * 0.5 - USUAL))


def test_a_step_of_one_twentieth_c_teaches() -> None:
    cell = Cell()
    cell.frame(3200, 0)
    assert cell.frame(3190, -15_000).mv_a > USUAL


@pytest.mark.parametrize(("lowest_mv", "empty"), [(2910, True), (2911, False), (2900, True)])
def test_three_frames_near_vmin_are_empty(lowest_mv: int, empty: bool) -> None:
    cell = Cell()
    cell.frame(3100, -50_000, frames=3)
    cell.frame(lowest_mv, -50_000, frames=2)
    assert not cell.empty
    cell.frame(lowest_mv, -50_000)
    assert cell.empty is empty


def test_a_dip_of_two_frames_is_not_emptiness() -> None:
    cell = Cell()
    for _ in range(50):
        cell.frame(2905, -150_000, frames=2)
        cell.frame(3050, -10_000)
        assert not cell.empty


@pytest.mark.parametrize(
    ("lowest_mv", "current_ma", "seconds"),
    [(3000, 0, 121), (2999, 0, None), (2950, 3_001, 31), (2950, 3_000, None), (3000, None, 121)],
)
def test_it_is_over_when_the_cell_has_recovered_or_is_charged(
    lowest_mv: int, current_ma: int | None, seconds: int | None
) -> None:
    cell = Cell()
    cell.frame(2905, -20_000, frames=3)
    assert cell.empty
    if seconds is None:
        cell.frame(lowest_mv, current_ma, frames=1000)
        assert cell.empty
    else:
        cell.frame(lowest_mv, current_ma, frames=seconds - 1)
        assert cell.empty
        cell.frame(lowest_mv, current_ma)
        assert not cell.empty


def test_the_wait_begins_with_the_last_frame_that_was_empty() -> None:
    cell = Cell()
    cell.frame(2905, -20_000, frames=3)
    cell.frame(3050, 0, frames=100)
    cell.frame(2905, 0, frames=3)
    cell.frame(3050, 0, frames=120)
    assert cell.empty
    cell.frame(3050, 0)
    assert not cell.empty


@pytest.mark.parametrize(("known", "now"), [(5.0, 4 / 3), (0.01, 1 / 6), (1.0, 1.0)])
def test_what_was_learnt_of_another_capacity_is_brought_within_bounds(known: float, now: float) -> None:
    """0.5 to 4 times the usual 100 mV at 1 C: of 300 Ah, 1/3 mV/A."""
    one = frame(0, current_ma=0)
    lowest = sag.follow(sag.Lowest(mv_a=known), one, 2900, 300_000, 3000, 3_000, 0.0)
    assert lowest.mv_a == pytest.approx(now)
