"""What came of a run of ``limits.py``: judged on the true cells, which no law sees."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from laws import NOTHING, Own, Told
from parallel import Busbar

WARNED_S = 8
"""A relay that opens within that of a limit over 0 has tripped."""
HIGH_MV = 50
"""Over Vbalance: where a cell should not be."""
BALANCED = 0.005
"""Part of the capacity: a pack is balanced while what its cells lack to full differs by no more."""
SHARED_S = 10
"""For so long a pack has to get more than its own limit, for that to count."""
NOISE = 0.03
"""C: a pack's own limit counts as no lower, and what is less than that flows not."""
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
    share_percent: float = 0.0
    """The most that a pack got of what it may have by its own limit."""
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


class Share:
    """What a pack gets of its own limit in a direction, while all together have what they may."""

    def __init__(self, least_ma: float) -> None:
        self._least_ma = least_ma
        self._ratios: deque[float] = deque(maxlen=SHARED_S)

    def sustained(self, amps: float, own_ma: int, *, obeyed: bool) -> float:
        """In %, what it was over for all of the last ``SHARED_S``."""
        if not obeyed:
            self._ratios.clear()
        else:
            self._ratios.append(100_000 * amps / max(own_ma, self._least_ma))
        return min(self._ratios) if len(self._ratios) == SHARED_S else 0.0


class Watch:
    """Looks at the true cells of a pack."""

    def __init__(self, bar: Busbar, n: int) -> None:
        self._bar, self._n, self._pack = bar, n, bar.packs[n]
        setup = self._pack.bms.setup
        self._vmax_v, self._vmin_v = setup.vmax_mv / 1000, setup.vmin_mv / 1000
        self._high_v = (setup.vbalance_mv + HIGH_MV) / 1000
        self._charge, self._load = Relay(), Relay()
        self._over_s = 0
        least_ma = NOISE * self._pack.capacity_ah * 1000
        self._shares = Share(least_ma), Share(least_ma)
        self._own: Own | None = None
        self.bled_ws = 0.0
        self.full_h: float | None = None
        self.balanced_h: float | None = None

    def see(self, t: int, told: Told, own: Own | None, out: Outcome) -> None:
        """Take a second into account: its number, the limits that end it, and the pack's own."""
        pack, bar = self._pack, self._bar
        self._own = own or self._own  # of one that is lost its last: the current knows nothing of it
        if bar.joined[self._n]:
            self._relays(t, told, out)
            self._part(told, out)
        volts = [cell.volts for cell in pack.cells]
        self._cells(t, min(volts), max(volts), out)
        if max(pack.bms.cell_mv) > pack.bms.setup.vbalance_mv:
            self._top(t)
        if self.balanced_h is None and t % 60 == 0:
            missing = [(1 - cell.soc) * cell.share for cell in pack.cells]
            if max(missing) - min(missing) <= BALANCED:
                self.balanced_h = t / 3600

    def _relays(self, t: int, told: Told, out: Outcome) -> None:
        bms, (_, ccl, dcl) = self._pack.bms, told
        if self._bar.own and self._own is not None:  # a contactor that opens on its pack alone
            ccl, dcl = (limit and min(limit, own) for limit, own in zip((ccl, dcl), self._own, strict=True))
        if self._charge.trips(closed=bms.charge_allowed, limit=ccl, t=t) and not self._misread():
            if not self._ended():
                self._tripped("charge", t, out)
            elif self.full_h is None:
                self.full_h = t / 3600
        if self._load.trips(closed=bms.load_allowed, limit=dcl, t=t):
            self._tripped("load", t, out)

    def _tripped(self, relay: str, t: int, out: Outcome) -> None:
        out.trips += 1
        self._bad(f"{relay} relay at {t} s", out)

    def _bad(self, what: str, out: Outcome) -> None:
        of = f" of {self._bar.cables[self._n]}" if len(self._bar.packs) > 1 else ""
        out.first_bad = out.first_bad or what + of

    def _part(self, told: Told, out: Outcome) -> None:
        """What it gets of its own limits."""
        if self._own is None:
            return
        pack, bar = self._pack, self._bar
        amps = pack.sun_a - pack.load_a
        for share, limit, own, sign in zip(self._shares, told[1:], self._own, (1, -1), strict=True):
            flows_a = sign * bar.net_a if limit is not None else 0.0
            obeyed = NOISE * bar.capacity_ah < flows_a <= (limit or 0) / 1000 * 1.01 + 1
            out.share_percent = max(out.share_percent, share.sustained(sign * amps, own, obeyed=obeyed))

    def _misread(self) -> bool:
        """Over Vmax by a board's word, far under it in truth: what no limit can prevent."""
        read_v, true_v = max(self._pack.bms.cell_mv) / 1000, max(cell.volts for cell in self._pack.cells)
        return true_v + HIGH_MV / 1000 < self._vmax_v <= read_v

    def _ended(self) -> bool:
        """In normal mode the relay opens when all cells are full: the end of a charge, no trip."""
        bms = self._pack.bms
        full = min(bms.cell_mv) >= bms.setup.vbalance_mv and max(bms.cell_mv) < bms.setup.vmax_mv
        return bms.setup.normal_mode and full

    def _cells(self, t: int, lowest_v: float, highest_v: float, out: Outcome) -> None:
        if highest_v > self._high_v:
            out.over_vmax_mv = max(out.over_vmax_mv, (highest_v - self._vmax_v) * 1000)
            out.over_mv = max(out.over_mv, (highest_v - self._high_v) * 1000)
            self._over_s += 1
            out.over_s = max(out.over_s, self._over_s)
            if self._over_s == 4:
                self._bad(f"over at {t - 3} s", out)
        else:
            self._over_s = 0
        if lowest_v < self._vmin_v:
            out.under_mv = max(out.under_mv, (self._vmin_v - lowest_v) * 1000)

    def _top(self, t: int) -> None:
        """With a cell over Vbalance: what bleeds, and whether a BMS of generation C calls the pack full."""
        pack, bms = self._pack, self._pack.bms
        self.bled_ws += sum(cell.volts for cell in pack.cells if cell.bleeds)
        little = bms.voltage_mv * (pack.sun_a - pack.load_a) / 1000 <= bms.setup.capacity_wh / 20
        if self.full_h is None and little and min(bms.cell_mv) > bms.setup.vbalance_mv:
            self.full_h = t / 3600


class Judge:
    """Looks at the packs and the house each second and fills in an ``Outcome``."""

    def __init__(self, bar: Busbar) -> None:
        self.outcome = Outcome()
        self._bar = bar
        self._watches = [Watch(bar, n) for n in range(len(bar.packs))]
        self._last = NOTHING
        self._changes = [0, 0, 0]
        self._taken_ws = 0.0
        self._low_a = self._high_a = 0.0
        self._path: list[float] = []

    def see(self, t: int, told: Told, owns: Sequence[Own | None]) -> None:
        """Take a second into account: its number, the limits that end it, and the packs' own."""
        bar, out = self._bar, self.outcome
        out.no_number_s += None in told
        if told != self._last:
            for n, (new, old) in enumerate(zip(told, self._last, strict=True)):
                self._changes[n] += new != old and old is not None
            self._last = told
        for watch, own in zip(self._watches, owns, strict=True):
            watch.see(t, told, own, out)
        self._taken_ws += bar.sun_a * bar.voltage_v
        self._low_a, self._high_a = min(self._low_a, bar.net_a), max(self._high_a, bar.net_a)
        self._path.append(bar.house.steered_a)

    def finish(self, hours: float) -> Outcome:
        """The outcome of a run of so many hours."""
        out, house, watches = self.outcome, self._bar.house, self._watches
        out.taken_wh = (self._taken_ws - sum(watch.bled_ws for watch in watches)) / 3600
        if house.settings.grid == "ess":  # without what went to the grid
            out.taken_wh -= house.exported_wh
        out.cvl_changes, out.ccl_changes, out.dcl_changes = (n / hours for n in self._changes)
        least_a = SWING * max(self._high_a - self._low_a, 0.1 * self._bar.capacity_ah)
        out.swings = swings(self._path, least_a) / hours
        out.full_h = last([watch.full_h for watch in watches])
        out.balanced_h = last([watch.balanced_h for watch in watches])
        out.sold_wh, out.delivered_wh, out.dark_s = house.sold_wh, house.served_wh, house.dark_s
        return out


def last(times: Sequence[float | None]) -> float | None:
    """When it had happened to all."""
    return None if None in times else max(time for time in times if time is not None)
