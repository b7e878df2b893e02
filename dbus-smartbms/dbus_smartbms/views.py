"""What the rows of ``paths`` look at: a pack, or all of them, at a moment; how values of several join."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smartbms_protocol import CELSIUS, Frame

from . import ratings
from .bank import Bank
from .limits import Limits
from .pack import Pack
from .rules import Cap

Value = float | int | str | None


@dataclass
class Identity:
    """Who this is, and what else of the surroundings is shown."""

    connection: str = ""
    serial: str | None = None
    instance: int = 123
    custom_name: str = ""
    shown: int = 1
    """The battery whose cells gui-v2 shows."""
    problems: tuple[str, ...] = ()
    """What was wrong with the configuration."""
    restarts: str = ""
    """What many restarts have led to, in words; empty: nothing."""
    in_use: bool | None = None
    """Whether the GX follows our limits; None while that is not known."""
    in_use_text: str | None = None


class View:
    """What the rows look at of one pack at a moment."""

    __slots__ = (
        "celsius",
        "frame",
        "identity",
        "known",
        "limits",
        "low_mv",
        "merged",
        "now",
        "pack",
        "readings",
        "stale_before",
    )

    def __init__(self, pack: Pack, identity: Identity, now: float, *, merged: bool = False) -> None:
        """``merged``: it is one of several, and what is raised for it is raised by them all."""
        self.pack, self.identity, self.now, self.merged = pack, identity, now, merged
        self.readings, self.limits = pack.readings, pack.limits
        self.known: Frame | None = pack.readings.frame if pack.limits else None
        """The last frame, however old: for what does not change when the cable is pulled."""
        self.frame: Frame | None = None if pack.lost else self.known
        """The last frame, None once the link is lost: for everything measured."""
        self.celsius = CELSIUS[pack.settings.temperature]
        self.low_mv = 0 if self.known is None else _low_mv(self.known, pack)
        self.stale_before = now - max(3 * pack.readings.round_s, pack.settings.hold_s)
        """Readings of single cells from before this are no longer shown."""

    @property
    def lost(self) -> bool:
        """No frames for ``hold_s``."""
        return self.pack.lost

    def pair(self, name: str) -> int | None:
        """A rotating value that is at most 3 rounds old."""
        return None if self.frame is None else self.readings.pair(name, self.now)

    def nominal_mv(self) -> int:
        """Nominal pack voltage; 0 before the first frame."""
        capacity = self.pack.capacity_mah
        return self.known.capacity_wh * 1_000_000 // capacity if self.known and capacity else 0


class Whole:
    """What the rows look at of all packs together."""

    def __init__(self, bank: Bank, identity: Identity, views: Mapping[str, View]) -> None:
        """``views`` of the packs that have sent a frame, by their cables."""
        self.bank, self.identity = bank, identity
        self.limits: Limits | None = bank.limits
        self.caps: tuple[Cap, Cap] = bank.caps
        self.all = tuple(views.values())
        self.members = tuple(views[pack.cable] for pack in bank.members if pack.cable in views)
        """The packs that are merged."""
        self.heard = tuple(view for view in self.members if view.frame is not None)
        self.several = len(self.all) > 1
        self.extremes: dict[str, View | None] = {}
        """Which pack has an extreme, once it was looked for."""

    @property
    def lost(self) -> bool:
        """No pack is heard, though there are some."""
        return bool(self.members) and not self.heard


Join = Callable[[Sequence[Any]], Value]


def total(values: Sequence[Any]) -> Value:
    """The sum; None where one is not known."""
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else round(sum(known), 6)


def mean(values: Sequence[Any]) -> Value:
    """The mean of what is known."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if known else None


def lowest(values: Sequence[Any]) -> Value:
    """The least of what is known."""
    return min((value for value in values if value is not None), default=None)


def highest(values: Sequence[Any]) -> Value:
    """The most of what is known."""
    return max((value for value in values if value is not None), default=None)


def each(values: Sequence[Any]) -> Value:
    """What is known, each once."""
    return ", ".join(dict.fromkeys(value for value in values if value)) or None


def need(frame: Frame | None) -> Frame:
    """The frame of a row that is only asked when there is one."""
    if frame is None:
        raise ValueError("this row needs a frame")
    return frame


def _low_mv(frame: Frame, pack: Pack) -> int:
    """The inverter/charger is told this: where Vmin is no cell's voltage, what the manual advises."""
    return frame.cells * ratings.thresholds(pack.settings, pack.readings, frame).vmin_mv
