"""The manuals' tables as a person reads them, and a frame run through them: ``dbus-smartbms tables``."""

from __future__ import annotations

from collections.abc import Iterator

from smartbms_protocol import PackState

from . import manuals, mirror
from .manuals import Condition, Row
from .mirror import Judged, Relay, Seen
from .settings import GENERATIONS, MODES, Settings

_INTRODUCTION = f"""\
# What the BMS decides, and by which tables

Printed by `dbus-smartbms tables` from the rows that the driver evaluates. Lay it beside the manuals:
generation A is "123\\SmartBMS manual V1.2", B "123\\SmartBMS gen3", C the later gen3 manual; "relays" is
their "Charge and load relays", "state of charge" their "State of charge".

"All" is every cell, "any" at least one. "Off" wins over "on"; while neither holds, a relay stays as it is.
Vbalance is called Vbypass in generation A. A and B have one Tmin: set both keys to it. 5 % of the capacity
is a power: 800 W for 16 kWh.

What the wire does not carry comes from the configuration, section `[pack]`: `generation`, `mode`,
`tmin_charge`, `tmin_discharge`, `tmax`, `charge_restart`, `discharge_restart`. Where a temperature is not
configured, the BMS's own lights stand in (Tl and Th of status byte 1; generation C tells charging from
discharging in status byte 2); where a restart is not, its permission bit. A light forbids also beside a
threshold that is configured. With Vbalance 0 (balancing is off), Vbalance is read as Vmax less
`charge_margin_mv`. A hottest reading whose cell is over Vbalance may be that of its bleeding board: then
the light Th decides.

"Critical" is what the driver acts on by itself, in the same frame: the limit is 0 even while the BMS still
allows. All else is only compared: where BMS and table differ for 10 s, that is said
(`/SmartBms/Disagreement`, and the log). Nearer to a threshold than noise and a load's sag reach, and for 10
s after, nothing is compared, for both may be right. The mirror never gives a permission.

The mirror's SoC begins with the BMS's own, counts the measured current, and begins anew after more than
{mirror.GAP_INTERVALS} intervals without a frame. "For {manuals.STAYS_S} s" is ours: the manuals say "for a
longer time" (B) and "stays" (C).
"""


def markdown(generation: str | None = None, mode: str | None = None) -> str:
    """One table, some or all, as Markdown that reads well in a terminal.

    All of them are ``docs/algorithm.md`` (a test compares), and have an introduction.
    """
    blocks = [
        _block(one, other)
        for one in GENERATIONS
        if generation in (None, one)
        for other in MODES
        if mode in (None, other)
    ]
    return "\n".join(blocks if generation or mode else [_INTRODUCTION, *blocks])


def _block(generation: str, mode: str) -> str:
    rows = manuals.table(generation, mode)
    lines = [f"## Generation {generation}, {mode} mode"]
    for name in ("charge on", "charge off", "load on", "load off", "SoC 100 %", "SoC 0 %"):
        mine = [row for row in rows if f"{row.subject} {row.becomes}" == name]
        lines.append("")
        lines += _group(name, mine) if mine else [f"    {name:16}never"]
    return "\n".join(lines) + "\n"


def _group(name: str, rows: list[Row]) -> Iterator[str]:
    """``on`` is one row with a condition a line; of ``off`` each row is a line."""
    before = f"{name:16}"
    for row in rows:
        for condition in row.conditions:
            note = f"  {row.source}{', critical' if row.critical else ''}"
            last = condition is row.conditions[-1]
            text = f"{condition}{f', for {row.for_s} s' if row.for_s and last else ''}"
            yield f"    {before}{text:42}{note if last else ''}".rstrip()
            before = f"{'and ':>16}"
        before = f"{'or ':>16}"


def explain(settings: Settings, before: mirror.Memory, pack: PackState, now: float) -> str:
    """The last frame of a pack run through the tables; ``before`` is what was remembered before it.

    Raises ValueError where there was no frame.
    """
    seen = mirror.look(settings, pack, now)
    if seen is None:
        raise ValueError("there is no valid frame in it")
    _, relays, _ = mirror.step(settings, before, pack, now)
    rows = manuals.table(settings.generation, settings.mode)
    which = f"Generation {settings.generation}, {settings.mode} mode"
    volts = f"{seen.lowest_mv / 1000:.3f} to {seen.highest_mv / 1000:.3f} V"
    lines = [f"{which}: {seen.cells} cells, {volts}, SoC {seen.soc:.1f} %"]
    for subject, was, relay in (
        ("charge", before.charge, relays.charge),
        ("load", before.load, relays.load),
    ):
        mine = [row for row in rows if row.subject == subject]
        holds = any(all(mirror.judge(one, seen).holds for one in row.conditions) for row in mine)
        lines += ["", f"{subject}: {_change(was, relay, holds)}", *_judged(mine, seen)]
    lines += ["", "SoC:"]
    lines += _judged([row for row in rows if row.subject == "SoC"], seen)
    return "\n".join(lines) + "\n"


def _change(was: bool | None, relay: Relay, holds: bool) -> str:
    """What the relay does; ``holds``: a row says so."""
    now = "on" if relay.closed else "off"
    if was is None:
        return f"{now}; before is not known{'' if holds else ', so it begins as the BMS says'}"
    if was is relay.closed:
        return f"stays {now}"
    return f"{'on' if was else 'off'} before, {now} now"


def _judged(rows: list[Row], seen: Seen) -> Iterator[str]:
    for row in rows:
        judged = [mirror.judge(condition, seen) for condition in row.conditions]
        for index, one in enumerate(judged):
            word = row.becomes if not index else "and"
            holds = "true" if one.holds else "false"
            yield f"  {word:>5}  {one.condition!s:42}{holds:7}{_numbers(one)}"


def _numbers(judged: Judged) -> str:
    condition, number, threshold, light, holds = judged
    if condition.what in _WORDS:
        return _WORDS[condition.what][int(bool(number))]
    found = _figure(condition, number) if number is not None else "not known"
    with_what = _figure(condition, threshold) if threshold is not None else "not set"
    text = f"{found} {condition.comparison} {with_what}"
    return f"{text}; {light.name}: {'yes' if holds else 'no'}" if light else text


_WORDS = {"cell communication": ("lost", "there"), "discharging": ("not allowed", "allowed")}


def _figure(condition: Condition, number: float) -> str:
    """A number with its unit, and digits enough that it does not look like a threshold that it is not."""
    if condition.what.endswith((" V", "voltage")):
        return f"{number / 1000:.3f} V"
    unit = "degC" if condition.what.endswith(" T") else "W" if condition.what.endswith("power") else "%"
    return f"{number:.7g} {unit}"
