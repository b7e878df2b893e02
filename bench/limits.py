"""Limits in closed loop: laws over scenarios, one table.  ``python3 bench/limits.py --help``.

The simulated pack (``plant``) in a simulated house (``house``) obeys each law's CVL, CCL and DCL; what
comes of it is judged on the true cells, which no law sees.  No figure fails anything.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("dbus-smartbms", "protocol", "bench")]

from laws import LAWS, NOTHING, Told  # noqa: E402  the path comes first
from scenarios import BY_NAME, SCENARIOS, Scenario, build  # noqa: E402

from dbus_smartbms.house import House, Limits  # noqa: E402
from dbus_smartbms.plant import Plant  # noqa: E402
from smartbms_protocol import Frame, encode  # noqa: E402

LATENCY = 1
"""Seconds until the law has what the BMS measured (a round over the cells, and the wire)."""
WARNED_S = 8
"""A relay that opens within that of a limit over 0 has tripped."""
HIGH_MV = 50
"""Over Vbalance: where a cell should not be."""
BALANCED = 0.005
"""Part of the capacity: a pack is balanced while what its cells lack to full differs by no more."""
SWING = 0.1
"""Part of the range that the battery's current has in a run (at least of 0.1 C): a swing is as large."""


@dataclass
class Outcome:
    """What came of a run; the columns of the table."""

    trips: int = 0
    over_vmax_mv: float = 0.0
    over_mv: float = 0.0
    """Highest true cell over Vbalance + 50 mV."""
    over_s: int = 0
    """For how long at a stretch, at most."""
    under_mv: float = 0.0
    taken_wh: float = 0.0
    delivered_wh: float = 0.0
    sold_wh: float = 0.0
    dark_s: float = 0.0
    full_h: float | None = None
    balanced_h: float | None = None
    cvl_changes: float = 0.0
    ccl_changes: float = 0.0
    dcl_changes: float = 0.0
    swings: float = 0.0
    no_number_s: int = 0
    step_us: float = 0.0
    law_us: float = 0.0
    first_bad: str = ""


def swings(path: Sequence[float], least: float) -> int:
    """How often a path turns and turns back, each leg longer than ``least``."""
    turns, direction, low, high = 0, 0, path[0], path[0]
    for value in path:
        low, high = min(low, value), max(high, value)
        if direction >= 0 and high - value > least:
            turns, direction, low = turns + direction, -1, value
        elif direction <= 0 and value - low > least:
            turns, direction, high = turns - direction, 1, value
    return turns // 2


class Wire:
    """Between BMS and law: a delay, lost frames, silences."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._random = Random(seed * 104_729 + 3)
        self._frames: deque[Frame] = deque()
        self._silent_until = -1

    def carry(self, frame: Frame, t: int) -> Frame | None:
        """What arrives in second ``t``, in which this frame was sent."""
        self._frames.append(frame)
        arrived = self._frames.popleft() if len(self._frames) > LATENCY else None
        random, scenario = self._random, self._scenario
        if scenario.gap_s[1] and random.random() < 1 / 3600:
            self._silent_until = t + round(random.uniform(*scenario.gap_s))
        lost = t < self._silent_until or (scenario.loss and random.random() < scenario.loss)
        return None if lost else arrived


class Relay:
    """One of the BMS's two relays, and the limit that should have gone to 0 before it opens."""

    def __init__(self) -> None:
        self._closed = True
        self._allowed_at = -WARNED_S

    def trips(self, *, closed: bool, limit: int | None, t: int) -> bool:
        """Whether it opens without warning in second ``t``."""
        opened, self._closed = self._closed and not closed, closed
        surprised = opened and t - self._allowed_at < WARNED_S
        if limit is None or limit > 0:
            self._allowed_at = t
        return surprised


class Judge:
    """Looks at the true cells each second and fills in an ``Outcome``."""

    def __init__(self, pack: Plant, house: House) -> None:
        self.outcome = Outcome()
        self._pack, self._house = pack, house
        setup = pack.bms.setup
        self._vmax_v, self._vmin_v = setup.vmax_mv / 1000, setup.vmin_mv / 1000
        self._high_v = (setup.vbalance_mv + HIGH_MV) / 1000
        self._charge, self._load = Relay(), Relay()
        self._last = NOTHING
        self._changes = [0, 0, 0]
        self._over_s = 0
        self._bled_ws = self._taken_ws = 0.0
        self._low_a = self._high_a = 0.0
        self._path: list[float] = []

    def see(self, t: int, told: Told) -> None:
        """Take a second into account: its number, and the limits that end it."""
        pack, out = self._pack, self.outcome
        out.no_number_s += None in told
        if told != self._last:
            for n, (new, old) in enumerate(zip(told, self._last, strict=True)):
                self._changes[n] += new != old and old is not None
            self._last = told
        self._relays(t, told)
        volts = [cell.volts for cell in pack.cells]
        self._cells(t, min(volts), max(volts))
        self._taken_ws += pack.sun_a * pack.voltage_v
        if max(pack.bms.cell_mv) > pack.bms.setup.vbalance_mv:
            self._top(t)
        if out.balanced_h is None and t % 60 == 0:
            missing = [(1 - cell.soc) * cell.share for cell in pack.cells]
            if max(missing) - min(missing) <= BALANCED:
                out.balanced_h = t / 3600
        net_a = pack.sun_a - pack.load_a
        self._low_a, self._high_a = min(self._low_a, net_a), max(self._high_a, net_a)
        self._path.append(self._house.steered_a)

    def _relays(self, t: int, told: Told) -> None:
        bms, out = self._pack.bms, self.outcome
        if self._charge.trips(closed=bms.charge_allowed, limit=told[1], t=t):
            if not self._ended():
                out.trips += 1
                out.first_bad = out.first_bad or f"charge relay at {t} s"
            elif out.full_h is None:
                out.full_h = t / 3600
        if self._load.trips(closed=bms.load_allowed, limit=told[2], t=t):
            out.trips += 1
            out.first_bad = out.first_bad or f"load relay at {t} s"

    def _ended(self) -> bool:
        """In normal mode the relay opens when all cells are full: the end of a charge, no trip."""
        bms = self._pack.bms
        full = min(bms.cell_mv) >= bms.setup.vbalance_mv and max(bms.cell_mv) < bms.setup.vmax_mv
        return bms.setup.normal_mode and full

    def _cells(self, t: int, lowest_v: float, highest_v: float) -> None:
        out = self.outcome
        if highest_v > self._high_v:
            out.over_vmax_mv = max(out.over_vmax_mv, (highest_v - self._vmax_v) * 1000)
            out.over_mv = max(out.over_mv, (highest_v - self._high_v) * 1000)
            self._over_s += 1
            out.over_s = max(out.over_s, self._over_s)
            if self._over_s == 4:
                out.first_bad = out.first_bad or f"over at {t - 3} s"
        else:
            self._over_s = 0
        if lowest_v < self._vmin_v:
            out.under_mv = max(out.under_mv, (self._vmin_v - lowest_v) * 1000)

    def _top(self, t: int) -> None:
        """With a cell over Vbalance: what bleeds, and whether a BMS of generation C calls the pack full."""
        pack, bms = self._pack, self._pack.bms
        self._bled_ws += sum(cell.volts for cell in pack.cells if cell.bleeds)
        little = bms.voltage_mv * (pack.sun_a - pack.load_a) / 1000 <= bms.setup.capacity_wh / 20
        if self.outcome.full_h is None and little and min(bms.cell_mv) > bms.setup.vbalance_mv:
            self.outcome.full_h = t / 3600

    def finish(self, hours: float) -> Outcome:
        """The outcome of a run of so many hours."""
        out, house = self.outcome, self._house
        out.taken_wh = (self._taken_ws - self._bled_ws) / 3600
        if house.settings.grid == "ess":  # without what went to the grid
            out.taken_wh -= house.exported_wh
        out.cvl_changes, out.ccl_changes, out.dcl_changes = (n / hours for n in self._changes)
        least_a = SWING * max(self._high_a - self._low_a, 0.1 * self._pack.capacity_ah)
        out.swings = swings(self._path, least_a) / hours
        out.sold_wh, out.delivered_wh, out.dark_s = house.sold_wh, house.served_wh, house.dark_s
        return out


def run(name: str, law_name: str, seed: int, trace: Path | None = None) -> Outcome:
    """One scenario, one law, one seed."""
    scenario, clock = BY_NAME[name], time.perf_counter
    pack, house, settings = build(scenario, seed, perfect=law_name == "ideal")
    law, wire, judge = LAWS[law_name](settings, pack, house), Wire(scenario, seed), Judge(pack, house)
    writer = Trace(trace, pack, house) if trace else None
    steps, law_s, begin = round(scenario.hours * 3600), 0.0, clock()
    for t in range(steps):
        if scenario.later and t % 10 == 0:
            scenario.later(pack, float(t))
        pack.step(1.0)
        frame = wire.carry(pack.frame(), t)
        before = clock()
        told = law.take(frame, float(t))
        law_s += clock() - before
        if told != NOTHING:
            house.told = Limits(*(None if limit is None else limit / 1000 for limit in told))
        judge.see(t, told)
        if writer:
            writer.line(t, frame, told)
    seconds = clock() - begin
    if writer:
        writer.close()
    outcome = judge.finish(scenario.hours)
    outcome.step_us, outcome.law_us = (seconds - law_s) / steps * 1e6, law_s / steps * 1e6
    return outcome


class Trace:
    """A run as lines that ``replay`` reads (FILE), and as figures (FILE.csv)."""

    HEAD = (
        "t", "V", "A", "true_high", "true_low", "read_high", "read_low", "high_cell", "CVL", "CCL", "DCL",
        "charge", "load", "soc_bms", "soc_true", "solar_A", "multi_A", "steered_A", "light_A", "hottest",
        "coldest", "dark_s", "sold_Wh",
    )  # fmt: skip

    def __init__(self, path: Path, pack: Plant, house: House) -> None:
        self._pack, self._house = pack, house
        self._lines: TextIO = path.open("w")
        self._figures = path.with_name(path.name + ".csv").open("w", newline="")
        self._csv = csv.writer(self._figures)
        self._csv.writerow(self.HEAD)

    def line(self, t: int, frame: Frame | None, told: Told) -> None:
        """Write down second ``t``, the frame that came in it, and the limits that followed."""
        pack, bms, house = self._pack, self._pack.bms, self._house
        self._lines.write(json.dumps({"t": float(t), "frame": encode(frame).hex() if frame else None}) + "\n")
        volts = [cell.volts for cell in pack.cells]
        celsius = [cell.celsius + pack.temperature_offset_c for cell in pack.cells]
        self._csv.writerow(
            [
                t, f"{pack.voltage_v:.3f}", f"{pack.sun_a - pack.load_a:.2f}", f"{max(volts):.4f}",
                f"{min(volts):.4f}", max(bms.cell_mv), min(bms.cell_mv),
                bms.cell_mv.index(max(bms.cell_mv)) + 1, *told, int(bms.charge_allowed),
                int(bms.load_allowed), f"{bms.soc:.4f}",
                f"{statistics.mean(cell.soc for cell in pack.cells):.4f}", f"{sum(house.solar_a):.2f}",
                f"{house.multi_a:.2f}", f"{house.steered_a:.2f}", f"{house.free_a:.2f}",
                f"{max(celsius):.1f}", f"{min(celsius):.1f}", house.dark_s, f"{house.sold_wh:.1f}",
            ]
        )  # fmt: skip

    def close(self) -> None:
        """End both files."""
        self._lines.close()
        self._figures.close()


class Column(NamedTuple):
    """Of the table: its head, its width, and what stands in it for the outcomes of law and ideal."""

    head: str
    width: int
    cell: Callable[[Sequence[Outcome], Sequence[Outcome]], str]


def middle(values: Sequence[float], form: str, worst: Callable[[Sequence[float]], float] = max) -> str:
    """The median, and the worst where it differs."""
    median, bad = f"{statistics.median(values):{form}}", f"{worst(values):{form}}"
    return median if bad == median else f"{median}|{bad}"


def plain(name: str, form: str = ".0f") -> Callable[[Sequence[Outcome], Sequence[Outcome]], str]:
    """A figure of the law's runs."""
    return lambda outcomes, _ideals: middle([getattr(outcome, name) for outcome in outcomes], form)


def against(name: str) -> Callable[[Sequence[Outcome], Sequence[Outcome]], str]:
    """An energy in % of the ideal's (of next to nothing: 100)."""

    def cell(outcomes: Sequence[Outcome], ideals: Sequence[Outcome]) -> str:
        pairs = zip(outcomes, ideals, strict=True)
        energies = [(getattr(outcome, name), getattr(ideal, name)) for outcome, ideal in pairs]
        return middle([100 * ours / best if best > 50 else 100.0 for ours, best in energies], ".1f", min)

    return cell


def hours(name: str) -> Callable[[Sequence[Outcome], Sequence[Outcome]], str]:
    """A time; ``2x-``: in two of the runs it never came; ``(3)`` of the ideal's came in three."""

    def cell(outcomes: Sequence[Outcome], ideals: Sequence[Outcome]) -> str:
        times = [value for outcome in outcomes if (value := getattr(outcome, name)) is not None]
        never, best = len(outcomes) - len(times), sum(getattr(ideal, name) is not None for ideal in ideals)
        text = middle(times, ".1f") if times else ""
        return text if not never else f"{text} {never}x-({best})".strip()

    return cell


def darker(outcomes: Sequence[Outcome], ideals: Sequence[Outcome]) -> str:
    """Seconds without power, more than with the ideal."""
    pairs = zip(outcomes, ideals, strict=True)
    return middle([outcome.dark_s - ideal.dark_s for outcome, ideal in pairs], ".0f")


COLUMNS = (
    Column("trip", 8, plain("trips")),
    Column(">Vmax", 8, plain("over_vmax_mv")),
    Column(">+50mV", 9, plain("over_mv")),
    Column("s", 8, plain("over_s")),
    Column("<Vmin", 8, plain("under_mv")),
    Column("taken%", 12, against("taken_wh")),
    Column("deliv%", 12, against("delivered_wh")),
    Column("full h", 16, hours("full_h")),
    Column("level h", 16, hours("balanced_h")),
    Column("CVL/h", 10, plain("cvl_changes")),
    Column("CCL/h", 10, plain("ccl_changes")),
    Column("DCL/h", 10, plain("dcl_changes")),
    Column("swing/h", 11, plain("swings", ".1f")),
    Column("none s", 8, plain("no_number_s")),
    Column("dark s", 12, darker),
    Column("sold Wh", 10, plain("sold_wh")),
)

Job = tuple[str, str, int]
"""Scenario, law, seed."""


def lines(law: str, chosen: Sequence[Scenario], done: dict[Job, Outcome]) -> Iterator[str]:
    """The table of a law."""
    yield f"{'scenario':22}" + "".join(f"{column.head:>{column.width}}" for column in COLUMNS)
    for scenario in chosen:
        seeds = sorted(seed for name, one, seed in done if (name, one) == (scenario.name, law))
        outcomes = [done[scenario.name, law, seed] for seed in seeds]
        ideals = [done[scenario.name, "ideal", seed] for seed in seeds]
        cells = (f"{column.cell(outcomes, ideals):>{column.width}}" for column in COLUMNS)
        yield f"{scenario.name:22}" + "".join(cells)
        for seed, outcome in zip(seeds, outcomes, strict=True):
            if outcome.first_bad and law == "ours":
                yield f"    seed {seed}: first {outcome.first_bad}"


TOTALS = (
    Column("trips", 8, lambda ours, _: f"{sum(o.trips for o in ours)}"),
    Column(">Vmax", 8, lambda ours, _: f"{max(o.over_vmax_mv for o in ours):.0f}"),
    Column(">+50mV", 9, lambda ours, _: f"{max(o.over_mv for o in ours):.0f}"),
    Column("s", 8, lambda ours, _: f"{max(o.over_s for o in ours)}"),
    Column("<Vmin", 8, lambda ours, _: f"{max(o.under_mv for o in ours):.0f}"),
    Column("taken%", 12, against("taken_wh")),
    Column("deliv%", 12, against("delivered_wh")),
    Column("not full", 10, lambda ours, ideals: f"{missed(ours, ideals)}"),
    Column("CVL/h", 10, plain("cvl_changes")),
    Column("swing/h", 11, plain("swings", ".1f")),
    Column("sold Wh", 10, lambda ours, _: f"{sum(o.sold_wh for o in ours):.0f}"),
)
"""Of all scenarios and seeds together: sums of trips and of what was sold, else median|worst or the worst."""


def missed(outcomes: Sequence[Outcome], ideals: Sequence[Outcome]) -> int:
    """In how many runs the BMS never called the pack full where the ideal's did."""
    pairs = zip(outcomes, ideals, strict=True)
    return sum(outcome.full_h is None and ideal.full_h is not None for outcome, ideal in pairs)


def totals(laws: Sequence[str], done: dict[Job, Outcome]) -> Iterator[str]:
    """The laws side by side, over the runs that all of them made."""
    yield f"{'law':22}" + "".join(f"{column.head:>{column.width}}" for column in TOTALS)
    common = [
        (name, seed)
        for name, one, seed in done
        if one == "ideal" and all((name, law, seed) in done for law in laws)
    ]
    ideals = [done[name, "ideal", seed] for name, seed in common]
    for law in laws:
        outcomes = [done[name, law, seed] for name, seed in common]
        yield f"{law:22}" + "".join(f"{c.cell(outcomes, ideals):>{c.width}}" for c in TOTALS)
    yield f"{len(common)} runs of each law: scenarios and seeds that all of them have"


def jobs(chosen: Sequence[Scenario], laws: Sequence[str], options: argparse.Namespace) -> list[Job]:
    """What has to be run, the longest first; each run of a law needs the ideal's beside it."""
    wanted = dict.fromkeys(
        (scenario.name, one, seed)
        for scenario in chosen
        for law in laws
        for n in range(options.seeds if law in ("ours", "ideal") else min(options.seeds, options.others))
        if n < scenario.seeds
        for seed in [options.first_seed + n]
        for one in (law, "ideal")
    )

    def effort(job: Job) -> float:
        scenario = BY_NAME[job[0]]
        return scenario.hours * float(scenario.plant.get("cells", 16) + 30)

    return sorted(wanted, key=effort, reverse=True)


def choose(words: Sequence[str], *, quick: bool) -> list[Scenario]:
    """The scenarios of these names, else those with one of these words in their names."""
    exact = [scenario for scenario in SCENARIOS if scenario.name in words]
    found = [s for s in SCENARIOS if any(word.lower() in s.name.lower() for word in words)]
    return [scenario for scenario in exact or found if not quick or scenario.hours <= 24]


def arguments() -> argparse.Namespace:
    """What the user wants."""
    parser = argparse.ArgumentParser(description="Limits in closed loop: laws over scenarios, one table.")
    add = parser.add_argument
    add("--law", action="append", choices=[*LAWS, "all"], help="ours, unless told otherwise")
    add("--scenario", action="append", metavar="NAME", help="its name or a part of it; all, without this")
    add("--seeds", type=int, help="how many (10; with --quick 1), of ours and the ideal")
    add("--others", type=int, default=3, metavar="SEEDS", help="of the laws beside it (%(default)s)")
    add("--first-seed", type=int, default=1, help="(%(default)s) tune on others than you report")
    add("--quick", action="store_true", help="one seed, no scenario of days: two minutes")
    add("--trace", type=Path, metavar="FILE", help="one run as lines for replay, and FILE.csv")
    add("--list", action="store_true", help="the scenarios, and why")
    add("--jobs", type=int, default=multiprocessing.cpu_count(), help="(%(default)s)")
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 10)
    if not choose(options.scenario or [""], quick=options.quick):
        parser.error(f"no scenario is called {' or '.join(options.scenario)}: --list names them")
    return options


def _job(job: Job) -> tuple[Job, Outcome]:
    return job, run(*job)


def main() -> None:
    """Run, and print the table."""
    options = arguments()
    chosen = choose(options.scenario or [""], quick=options.quick)
    laws = list(LAWS) if "all" in (options.law or []) else options.law or ["ours"]
    if options.list:
        for scenario in chosen:
            print(f"{scenario.name:22}{scenario.hours:4g} h  {scenario.reason}")
        return
    if options.trace:
        print(run(chosen[0].name, laws[0], options.first_seed, options.trace))
        return
    begin, wanted = time.perf_counter(), jobs(chosen, laws, options)
    with multiprocessing.Pool(options.jobs) as pool:
        done = dict(pool.imap_unordered(_job, wanted))
    for law in laws:
        count = max(sum(job[:2] == (scenario.name, law) for job in wanted) for scenario in chosen)
        print(f"\n{law}: median|worst of {count} seeds from {options.first_seed}")
        print(*lines(law, chosen, done), sep="\n")
    print("\nall scenarios together", *totals(laws, done), sep="\n")
    step_us = statistics.median(outcome.step_us for outcome in done.values())
    law_us = {law: statistics.median(o.law_us for job, o in done.items() if job[1] == law) for law in laws}
    print(
        f"\n{len(wanted)} runs in {time.perf_counter() - begin:.0f} s; pack, house and judgement "
        f"{step_us:.0f} us a step; law " + ", ".join(f"{law} {us:.0f} us" for law, us in law_us.items())
    )


if __name__ == "__main__":
    main()
