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
from pathlib import Path
from random import Random
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("dbus-smartbms", "protocol", "bench")]

from judge import Judge, Outcome  # noqa: E402  the path comes first
from laws import BANK_LAWS, LAWS, NOTHING, Frames, Ours, Own, Told  # noqa: E402
from parallel import Busbar  # noqa: E402
from scenarios import BANKS, BY_NAME, SCENARIOS, Pack, Scenario, build  # noqa: E402

from dbus_smartbms.house import Limits  # noqa: E402
from dbus_smartbms.plant import Plant  # noqa: E402
from smartbms_protocol import Frame, encode  # noqa: E402

LATENCY = 1
"""Seconds until the law has what the BMS measured (a round over the cells, and the wire)."""


class Wire:
    """Between a BMS and the law: a delay, lost frames, silences."""

    def __init__(self, pack: Pack, seed: int) -> None:
        self._pack = pack
        self._random = Random(seed * 104_729 + 3)
        self._frames: deque[Frame] = deque()
        self._silent_until = -1

    def carry(self, frame: Frame, t: int) -> Frame | None:
        """What arrives in second ``t``, in which this frame was sent."""
        self._frames.append(frame)
        arrived = self._frames.popleft() if len(self._frames) > LATENCY else None
        random, pack = self._random, self._pack
        if pack.gap_s[1] and random.random() < 1 / 3600:
            self._silent_until = t + round(random.uniform(*pack.gap_s))
        pulled = pack.silent_h[0] <= t / 3600 < pack.silent_h[1]
        lost = t < self._silent_until or pulled or (pack.loss and random.random() < pack.loss)
        return None if lost else arrived


def run(name: str, law_name: str, seed: int, trace: Path | None = None) -> Outcome:
    """One scenario, one law, one seed."""
    scenario, clock = BY_NAME[name], time.perf_counter
    bar, settings = build(scenario, seed, perfect=law_name == "ideal")
    law, judge = LAWS[law_name](settings, bar), Judge(bar)
    wires = [Wire(pack, seed + 1000 * n) for n, pack in enumerate(scenario.bank)]
    writer = Trace(trace, bar) if trace else None
    steps, law_s, begin = round(scenario.hours * 3600), 0.0, clock()
    for t in range(steps):
        if t % 10 == 0:
            happen(scenario, bar, t)
        bar.step(1.0)
        frames = [wire.carry(pack.frame(), t) for wire, pack in zip(wires, bar.packs, strict=True)]
        before = clock()
        told = law.take(frames, float(t))
        law_s += clock() - before
        if told != NOTHING:
            bar.house.told = Limits(*(None if limit is None else limit / 1000 for limit in told))
        owns = [law.own(cable) if isinstance(law, Ours) else None for cable in bar.cables]
        judge.see(t, told, owns)
        if writer:
            writer.lines(t, frames, told, owns)
    seconds = clock() - begin
    if writer:
        writer.close()
    outcome = judge.finish(scenario.hours)
    outcome.step_us, outcome.law_us = (seconds - law_s) / steps * 1e6, law_s / steps * 1e6
    return outcome


def happen(scenario: Scenario, bar: Busbar, t: int) -> None:
    """What the scenario brings at a time."""
    for n, (pack, plant) in enumerate(zip(scenario.bank, bar.packs, strict=True)):
        if pack.later:
            pack.later(plant, float(t))
        bar.joined[n] = not pack.away_h[0] <= t / 3600 < pack.away_h[1]


class Trace:
    """A run as lines that ``replay`` reads (FILE), and a pack's figures (FILE.csv; in a bank FILE.A.csv)."""

    HEAD = (
        "t", "V", "A", "true_high", "true_low", "read_high", "read_low", "high_cell", "CVL", "CCL", "DCL",
        "charge", "load", "soc_bms", "soc_true", "solar_A", "multi_A", "steered_A", "light_A", "hottest",
        "coldest", "dark_s", "sold_Wh", "own_CCL", "own_DCL",
    )  # fmt: skip

    def __init__(self, path: Path, bar: Busbar) -> None:
        self._bar = bar
        self._lines: TextIO = path.open("w")
        ends = [f".{cable}.csv" if len(bar.packs) > 1 else ".csv" for cable in bar.cables]
        self._figures = [path.with_name(path.name + end).open("w", newline="") for end in ends]
        self._tables = [csv.writer(figures) for figures in self._figures]
        for table in self._tables:
            table.writerow(self.HEAD)

    def lines(self, t: int, frames: Frames, told: Told, owns: Sequence[Own | None]) -> None:
        """Write down second ``t``, the frames that came in it, and the limits that followed."""
        for n, (frame, own) in enumerate(zip(frames, owns, strict=True)):
            line = {"t": float(t), "frame": encode(frame).hex() if frame else None}
            self._lines.write(json.dumps({**line, "bms": n} if n else line) + "\n")
            self._tables[n].writerow([*self._row(t, self._bar.packs[n], told), *(own or ("", ""))])

    def _row(self, t: int, pack: Plant, told: Told) -> list[object]:
        bms, house = pack.bms, self._bar.house
        volts = [cell.volts for cell in pack.cells]
        celsius = [cell.celsius + pack.temperature_offset_c for cell in pack.cells]
        return [
            t, f"{pack.voltage_v:.3f}", f"{pack.sun_a - pack.load_a:.2f}", f"{max(volts):.4f}",
            f"{min(volts):.4f}", max(bms.cell_mv), min(bms.cell_mv),
            bms.cell_mv.index(max(bms.cell_mv)) + 1, *told, int(bms.charge_allowed),
            int(bms.load_allowed), f"{bms.soc:.4f}",
            f"{statistics.mean(cell.soc for cell in pack.cells):.4f}", f"{sum(house.solar_a):.2f}",
            f"{house.multi_a:.2f}", f"{house.steered_a:.2f}", f"{house.free_a:.2f}",
            f"{max(celsius):.1f}", f"{min(celsius):.1f}", house.dark_s, f"{house.sold_wh:.1f}",
        ]  # fmt: skip

    def close(self) -> None:
        """End all files."""
        self._lines.close()
        for figures in self._figures:
            figures.close()


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

BANK_COLUMNS = (*COLUMNS[:5], Column("share%", 9, plain("share_percent")), *COLUMNS[5:])

Job = tuple[str, str, int]
"""Scenario, law, seed."""


def lines(law: str, chosen: Sequence[Scenario], done: dict[Job, Outcome]) -> Iterator[str]:
    """The table of a law."""
    columns = BANK_COLUMNS if chosen[0].packs else COLUMNS
    yield f"{'scenario':22}" + "".join(f"{column.head:>{column.width}}" for column in columns)
    for scenario in chosen:
        seeds = sorted(seed for name, one, seed in done if (name, one) == (scenario.name, law))
        outcomes = [done[scenario.name, law, seed] for seed in seeds]
        ideals = [done[scenario.name, "ideal", seed] for seed in seeds]
        cells = (f"{column.cell(outcomes, ideals):>{column.width}}" for column in columns)
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
        return scenario.hours * len(scenario.bank) * float(scenario.plant.get("cells", 16) + 30)

    return sorted(wanted, key=effort, reverse=True)


def choose(words: Sequence[str], *, quick: bool, banks: bool) -> list[Scenario]:
    """The scenarios of these names, else those with one of these words in their names."""
    scenarios = BANKS if banks else SCENARIOS
    exact = [scenario for scenario in scenarios if scenario.name in words]
    found = [s for s in scenarios if any(word.lower() in s.name.lower() for word in words)]
    return [scenario for scenario in exact or found if not quick or scenario.hours <= 24]


def arguments() -> argparse.Namespace:
    """What the user wants."""
    parser = argparse.ArgumentParser(description="Limits in closed loop: laws over scenarios, one table.")
    add = parser.add_argument
    add("--law", action="append", choices=[*LAWS, "all"], help="ours, unless told otherwise")
    add("--banks", action="store_true", help="instead the scenarios of packs in parallel")
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
    options.law = options.law or ["ours"]
    if "all" in options.law:
        options.law = list(BANK_LAWS if options.banks else LAWS)
    elif options.banks and (strange := sorted({*options.law} - {*BANK_LAWS})):
        parser.error(f"{' and '.join(strange)} know of one pack alone")
    if not choose(options.scenario or [""], quick=options.quick, banks=options.banks):
        parser.error(f"no scenario is called {' or '.join(options.scenario)}: --list names them")
    return options


def _job(job: Job) -> tuple[Job, Outcome]:
    return job, run(*job)


def main() -> None:
    """Run, and print the table."""
    options = arguments()
    chosen, laws = choose(options.scenario or [""], quick=options.quick, banks=options.banks), options.law
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
