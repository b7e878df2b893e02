"""Whether the BMS does what its tables say: its bits and relays beside the mirror's.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from smartbms_protocol import Frame, PackState, layout

from . import manuals, mirror
from .settings import GENERATIONS, MODES, Settings

LASTS_S = 10.0
"""How long mirror and BMS have to differ before it is said: the BMS's bits may come late."""

_COLD = layout.TOO_COLD_TO_CHARGE | layout.TOO_COLD_TO_DISCHARGE
"""By these, beside the light Tl, the mirror of generation C tells charging from discharging."""


class Side(NamedTuple):
    """A relay of the BMS: what it switches, the mirror's name of it, its bits in status bytes 1 and 2."""

    what: str
    relay: str
    bit: int
    bit2: int


SIDES = (
    Side("charging", "charge", layout.CHARGE_ALLOWED, layout.CHARGE_RELAY_CLOSED),
    Side("discharging", "load", layout.DISCHARGE_ALLOWED, layout.LOAD_RELAY_CLOSED),
)


class Difference(NamedTuple):
    """What the BMS does other than the mirror."""

    side: Side
    byte: int
    """Status byte 1, or 2 where byte 1 agrees."""
    on: bool
    """What the BMS says; the mirror says the opposite."""


class Agreement:
    """Compares after every frame; ``text`` says what has differed for ``LASTS_S``, else it is None.

    A relay is compared while it is not in doubt: near a threshold both may be right.
    """

    def __init__(self) -> None:
        self.text: str | None = None
        self._said: tuple[Difference, ...] = ()
        self._since: dict[Difference, float] = {}
        self._states: dict[Side, tuple[bool, bool | None]] = {}
        self._changed: dict[Side, float] = {}
        self._calm: object = None
        """What was compared when nothing differed last."""
        self._calm_at = 0.0
        self._closed_once = 0
        """Relay bits of status byte 2 that were seen set: a BMS may leave them 0 for ever."""

    def frame(
        self, settings: Settings, memory: mirror.Memory, relays: mirror.Relays, pack: PackState, now: float
    ) -> None:
        """Compare after a frame was taken.  Never raises."""
        frame = pack.frame
        if frame is None:
            return
        reading = pack.pairs.get("status2")
        seen = (frame.status, relays, reading)
        if seen == self._calm and now - self._calm_at < LASTS_S:
            return  # as a moment ago, when nothing differed
        self._closed_once |= pack.pair("status2", now) or 0
        found: dict[Difference, float] = {}
        for side, relay in zip(SIDES, relays, strict=True):
            found.update(self._compare(side, relay, settings, frame, pack, now))
        self._since = {difference: self._since.get(difference, at) for difference, at in found.items()}
        self._calm, self._calm_at = (None, now) if found or self._said else (seen, now)
        lasting = tuple(one for one, at in found.items() if at - self._since[one] >= LASTS_S)
        if lasting != self._said:
            # Put into words once: the numbers in them would otherwise change with every frame.
            self._said, self.text = lasting, None
            if lasting:
                self.text = _said(settings, memory, relays, pack, lasting, now)

    def _compare(
        self,
        side: Side,
        relay: mirror.Relay,
        settings: Settings,
        frame: Frame,
        pack: PackState,
        now: float,
    ) -> Iterator[tuple[Difference, float]]:
        """The difference of one side, if there is one, with the time of the reading that shows it."""
        allowed = frame.has(side.bit)
        if self._states.get(side) != (allowed, relay.closed):
            self._states[side], self._changed[side] = (allowed, relay.closed), now
        if relay.doubtful:
            return
        status2, reading = pack.pair("status2", now), pack.pairs.get("status2")
        newer = reading is not None and reading.at >= self._changed[side]
        if allowed != relay.closed:
            # In the cold the mirror of generation C goes by status byte 2, which comes once a round.
            cold = frame.has(layout.UNDER_TMIN) or bool((status2 or 0) & _COLD)
            if reading is None or status2 is None or settings.generation != "C" or not cold:
                yield Difference(side, 1, allowed), now
            else:
                yield Difference(side, 1, allowed), max(reading.at, self._changed[side])
        # It is compared when it is newer than the last change.  One reading of it, just before a relay
        # moves, would stand for a round: a second has to say the same.
        elif reading is not None and status2 is not None and newer and self._closed_once & side.bit2:
            closed = bool(status2 & side.bit2)
            if closed != relay.closed:
                yield Difference(side, 2, closed), reading.at


def _said(
    settings: Settings,
    memory: mirror.Memory,
    relays: mirror.Relays,
    pack: PackState,
    differences: tuple[Difference, ...],
    now: float,
) -> str:
    """What the BMS does, what its table says and by which condition, and what to check."""
    seen = mirror.look(settings, pack, now)
    bms = [bool(pack.frame and pack.frame.has(side.bit)) for side in SIDES]
    sentences, keys = [], ["generation", "mode"]
    for side, byte, on in differences:
        bms[SIDES.index(side)] = on
        if byte == 1:
            does = f"the BMS {'allows' if on else 'does not allow'} {side.what}"
        else:
            does = f'the BMS has its relay "{side.relay.capitalize()}" {"on" if on else "off"}'
        why, key = _why(side, relays[SIDES.index(side)], settings, seen)
        sentences.append(
            f"{does}, but the table of generation {settings.generation} in {settings.mode} mode {why}"
        )
        keys += [key] if key else []
    own = any(key.startswith("t") for key in keys)  # a threshold of the user's own is the likelier cause
    fitting = None if own else _fitting(settings, memory, pack, bms, now)
    check = f"check [pack] {', '.join(keys[:-1])} and {keys[-1]}"
    return "; ".join([*sentences, f"{fitting} would fit: {check}" if fitting else check])


def _why(
    side: Side, relay: mirror.Relay, settings: Settings, seen: mirror.Seen | None
) -> tuple[str, str | None]:
    """What the table does and by which condition; and the key of [pack] that it hangs on, if it is one."""
    if relay.why_off:
        _, own, key = relay.why_off.partition("[pack] ")
        return f"switches it off: {relay.why_off}", key if own else None
    (row,) = manuals.rows(settings.generation, settings.mode, side.relay, "on")
    if relay.closed:
        return f"has no reason to switch it off ({', '.join(map(str, row.conditions))})", None
    missing = [c for c in row.conditions if seen and not mirror.judge(c, seen).holds]
    keys = [c.threshold.replace(" ", "_") for c in missing if "restart" in c.threshold]
    return f"keeps it off until {', '.join(map(str, missing))}", keys[0] if keys else None


def _fitting(
    settings: Settings, memory: mirror.Memory, pack: PackState, bms: list[bool], now: float
) -> str | None:
    """A generation and mode, the nearest to what is configured, whose table has the relays as the BMS has."""
    others = [(generation, mode) for generation in GENERATIONS for mode in MODES]
    others.sort(key=lambda one: (one[0] != settings.generation) + 2 * (one[1] != settings.mode))
    begin = memory._replace(charge=bms[0], load=bms[1])
    if _relays(settings, begin, pack, now) == bms:
        begin = memory  # it differs by what came before: only a table that switches now explains the BMS
    for generation, mode in others[1:]:
        if _relays(replace(settings, generation=generation, mode=mode), begin, pack, now) == bms:
            return f"generation {generation} in {mode} mode"
    return None


def _relays(settings: Settings, memory: mirror.Memory, pack: PackState, now: float) -> list[bool | None]:
    return [relay.closed for relay in mirror.step(settings, memory, pack, now)[1]]
