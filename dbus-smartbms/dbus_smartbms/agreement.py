"""Whether the BMS does what its tables say: its bits and relays beside the mirror's.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from smartbms_protocol import PackState, layout

from . import mirror
from .settings import GENERATIONS, MODES, Settings

LASTS_S = 10.0
"""How long mirror and BMS have to differ before it is said: the BMS's bits may come late."""


class Side(NamedTuple):
    """A relay of the BMS: what it switches, the mirror's name of it, its bits in status bytes 1 and 2."""

    what: str
    relay: str
    bit: int
    bit2: int


SIDES = (
    Side("charging", "Charge", layout.CHARGE_ALLOWED, layout.CHARGE_RELAY_CLOSED),
    Side("discharging", "Load", layout.DISCHARGE_ALLOWED, layout.LOAD_RELAY_CLOSED),
)


class Difference(NamedTuple):
    """What the BMS does other than the mirror."""

    side: Side
    byte: int
    """Status byte 1 or 2."""
    on: bool
    """What the BMS says; the mirror says the opposite."""


class Agreement:
    """Compares after every frame; ``text`` says what has differed for ``LASTS_S``, else it is None."""

    def __init__(self) -> None:
        self.text: str | None = None
        self._said: tuple[Difference, ...] = ()
        self._since: dict[Difference, float] = {}
        self._states: dict[Side, tuple[bool, bool]] = {}
        self._changed: dict[Side, float] = {}

    def frame(
        self, settings: Settings, memory: mirror.Memory, relays: mirror.Relays, pack: PackState, now: float
    ) -> None:
        """Compare after a frame was taken.  Never raises."""
        found = tuple(
            difference
            for side, relay in zip(SIDES, relays, strict=True)
            for difference in self._compare(side, relay, pack, now)
        )
        self._since = {difference: self._since.get(difference, now) for difference in found}
        lasting = tuple(difference for difference in found if now - self._since[difference] >= LASTS_S)
        if lasting != self._said:
            # Put into words once: the numbers in them would otherwise change with every frame.
            self._said = lasting
            self.text = _said(settings, memory, relays, pack, lasting, now) if lasting else None

    def _compare(self, side: Side, relay: mirror.Relay, pack: PackState, now: float) -> Iterator[Difference]:
        if pack.frame is None or relay.closed is None or relay.unsure:
            return
        allowed = pack.frame.has(side.bit)
        if self._states.get(side) != (allowed, relay.closed):
            self._states[side], self._changed[side] = (allowed, relay.closed), now
        if allowed != relay.closed:
            yield Difference(side, 1, allowed)
        # Status byte 2 comes once a round: it is compared when it is newer than the last change.
        status2, reading = pack.pair("status2", now), pack.pairs.get("status2")
        if status2 is not None and reading is not None and reading.at >= self._changed[side]:
            closed = bool(status2 & side.bit2)
            if closed != relay.closed:
                yield Difference(side, 2, closed)


def _said(
    settings: Settings,
    memory: mirror.Memory,
    relays: mirror.Relays,
    pack: PackState,
    differences: tuple[Difference, ...],
    now: float,
) -> str:
    whose = f"the table of generation {settings.generation} in {settings.mode} mode"
    sentences = []
    for side, byte, on in differences:
        if byte == 1:
            bms = f"the BMS {'allows' if on else 'does not allow'} {side.what}"
        else:
            bms = f'the BMS has its relay "{side.relay}" {"on" if on else "off"}'
        relay = relays[SIDES.index(side)]
        if relay.closed:
            mine = f"{whose} has no reason to switch it off"
        else:
            mine = f"{whose} switches it off: {relay.why_off}" if relay.why_off else f"{whose} keeps it off"
        sentences.append(f"{bms}, but {mine}")
    fitting = _fitting(settings, memory, pack, now)
    check = f"{fitting} would fit: check" if fitting else "check"
    return f"{'; '.join(sentences)}; {check} [pack] generation and mode"


def _fitting(settings: Settings, memory: mirror.Memory, pack: PackState, now: float) -> str | None:
    """A generation and mode, the nearest to what is configured, whose table has the relays as the BMS has."""
    if pack.frame is None:
        return None
    bms = [pack.frame.has(side.bit) for side in SIDES]
    others = [(generation, mode) for generation in GENERATIONS for mode in MODES]
    others.sort(key=lambda one: (one[0] != settings.generation) + 2 * (one[1] != settings.mode))
    anew = memory._replace(charge=None, load=None)
    for generation, mode in others[1:]:
        other = replace(settings, generation=generation, mode=mode)
        _, relays, _ = mirror.step(other, anew, pack, now)
        if [relay.closed for relay in relays] == bms:
            return f"generation {generation} in {mode} mode"
    return None
