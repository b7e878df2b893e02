"""What holds for every bank: hypothesis looks for packs and a story where it does not.

A story is a list of things that happen to 1 to 5 packs in parallel: seconds in which some send and some do
not, frames near the edges that the rules look at, frames that are held back, damaged bytes, names with a
star, wishes, and a configuration that is read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from dbus_smartbms import shares
from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.limits import Limits
from dbus_smartbms.pack import Pack
from dbus_smartbms.rules import Wishes
from dbus_smartbms.settings import Settings
from rig import frame
from smartbms_protocol import FrameStream, encode
from smartbms_protocol.layout import (
    CHARGE_ALLOWED,
    DISCHARGE_ALLOWED,
    NO_COMMUNICATION,
    OVER_TMAX,
    OVER_VMAX,
    UNDER_VMIN,
)

BOTH = CHARGE_ALLOWED | DISCHARGE_ALLOWED
BITS = (CHARGE_ALLOWED, DISCHARGE_ALLOWED)
CABLES = "abcde"
EXAMPLES = 120
BEGIN = 1000.0
Changes = dict[str, Any]


class Seconds(NamedTuple):
    """Seconds with a frame of each pack, but of those that are silent; one says something else."""

    number: int
    silent: frozenset[str] = frozenset()
    cable: str = "a"
    changes: Changes = {}  # noqa: RUF012  nobody changes it


class Garbage(NamedTuple):
    """Bytes that are no frame, from one cable."""

    cable: str
    data: bytes


class Want(NamedTuple):
    """What the user wants from now on: of it, what is not None."""

    wishes: Wishes | None = None
    configured: Settings | None = None
    excluded: frozenset[str] | None = None
    to_full: bool | None = None


Event = Seconds | Garbage | Want
STATUS = st.sampled_from(
    [
        0, CHARGE_ALLOWED, DISCHARGE_ALLOWED, BOTH, BOTH | UNDER_VMIN, BOTH | OVER_VMAX, BOTH | OVER_TMAX,
        BOTH | NO_COMMUNICATION,
    ]
)  # fmt: skip
CURRENTS = st.sampled_from([0, 125, 3_125, -3_125, 20_000, -20_000, 250_000, -250_000, 8_000_000, None])
CHANGES: st.SearchStrategy[Changes] = st.one_of(
    st.just({}),
    st.builds(lambda status: {"status": status}, STATUS),
    st.builds(lambda status, ma: {"status": status, "current_ma": ma}, STATUS, CURRENTS),
    st.builds(lambda ma: {"current_ma": ma}, CURRENTS),
    st.builds(
        lambda mv, ma: {"highest_mv": mv, "current_ma": ma},
        st.sampled_from([3_400, 3_450, 3_550, 3_695, 3_700]), CURRENTS,
    ),
    st.builds(
        lambda mv, ma: {"lowest_mv": mv, "current_ma": ma},
        st.sampled_from([2_900, 2_905, 2_950, 3_000, 3_100]), CURRENTS,
    ),
    st.builds(lambda status: {"vmax_mv": 3_705, "status": status}, STATUS),
    st.just({"soc_percent": 100, "stored_wh": 16_000, "highest_mv": 3_430, "lowest_mv": 3_415}),
    st.sampled_from([{"vmin_mv": 0}, {"vbalance_mv": 0}]),
)  # fmt: skip
OTHER_CELLS: Changes = {"cells": 8, "voltage_mv": 26_560, "hottest_cell": 8}
CAPACITIES = st.sampled_from([16_000, 16_000, 16_000, 8_000, 32_000, 0])
AMPS = st.sampled_from([None, None, 0.0, 0.3, 50.0, 300.0, 10_000.0])
RATES = st.sampled_from([0.5, 0.5, 0.0, 0.1, 5.0])
CONFIGURATIONS = st.builds(
    Settings,
    max_charge_current=AMPS, max_discharge_current=AMPS, charge_rate=RATES, discharge_rate=RATES,
    careful=st.sampled_from([frozenset[str](), frozenset(["charge_rate"]), frozenset(["discharge_rate"])]),
    relays=st.sampled_from(["series", "own"]), on_pack_lost=st.sampled_from(["derate", "derate", "block"]),
    hold_s=st.sampled_from([3.0, 10.0, 30.0]), ride_through_s=st.sampled_from([3.0, 30.0, 60.0]),
)  # fmt: skip


WISHES = st.builds(Wishes, AMPS, AMPS).map(lambda wishes: Want(wishes=wishes))
WANTS = st.one_of(
    WISHES,
    CONFIGURATIONS.map(lambda configured: Want(configured=configured)),
    st.frozensets(st.sampled_from(CABLES), max_size=2).map(lambda excluded: Want(excluded=excluded)),
    st.booleans().map(lambda to_full: Want(to_full=to_full)),
)
SILENT = st.one_of(st.just(frozenset[str]()), st.frozensets(st.sampled_from(CABLES), max_size=5))
SECONDS = st.builds(
    Seconds, st.sampled_from([1, 1, 2, 3, 4, 4, 11, 12, 32]), SILENT, st.sampled_from(CABLES), CHANGES
)
ODD = st.builds(Seconds, st.sampled_from([1, 2, 5]), SILENT, st.sampled_from(CABLES), st.just(OTHER_CELLS))
GARBAGE = st.builds(Garbage, st.sampled_from(CABLES), st.binary(min_size=1, max_size=100))


class House(NamedTuple):
    """What there is at the beginning."""

    cables: str
    capacity_wh: dict[str, int]
    configured: Settings


HOUSES = st.builds(
    lambda count, capacities, configured: House(
        CABLES[:count], dict(zip(CABLES, capacities, strict=True)), configured
    ),
    st.integers(1, 5), st.lists(CAPACITIES, min_size=5, max_size=5), CONFIGURATIONS,
)  # fmt: skip


def stories(*events: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Event]]:
    """Often a calm start of all packs; then seconds, mostly, with other events between."""
    calm = st.sampled_from([[], [Seconds(8)], [Seconds(8)], [Seconds(3)]])
    rest = st.lists(st.one_of(SECONDS, SECONDS, SECONDS, *events), min_size=4, max_size=12)
    return st.builds(lambda begin, more: [*begin, *more], calm, rest)


EVERYTHING = stories(ODD, GARBAGE, WANTS)


class Step(NamedTuple):
    """One thing that happened to the bank: a frame, bytes, a tick, a wish."""

    before: Limits | None
    limits: Limits | None
    cable: str | None
    """Whose frame it was."""
    fresh: bool
    """Whether that was a whole one: not held back, not damaged."""
    wanted: bool
    """The user wants something else since the last step."""


class Walk:
    """A bank that a story happens to."""

    def __init__(self, house: House, noise: bytes = b"") -> None:
        self.house = house
        self._noise = noise
        """What a cable brings while its pack is silent."""
        self.bank = Bank(Configuration(house.configured))
        self.now = BEGIN
        self.turn = 0

    def through(self, story: list[Event]) -> Iterator[Step]:
        """Every step of a story."""
        for event in story:
            if isinstance(event, Seconds):
                yield from self._seconds(event)
            elif isinstance(event, Garbage):
                yield self._garbage(event)
            else:
                yield self._want(event)

    def _seconds(self, event: Seconds) -> Iterator[Step]:
        for _ in range(event.number):
            self.now += 1.0
            self.turn += 1
            for cable in self.house.cables:
                if cable not in event.silent:
                    yield self._frame(cable, event.changes if cable == event.cable else {})
                elif cable in self.bank.packs:
                    self.bank.pack(cable).feed(self._noise)
            yield self._tick()

    def _frame(self, cable: str, changes: Changes) -> Step:
        changes = {"current_ma": 0, "capacity_wh": self.house.capacity_wh[cable]} | changes
        readings, before = self.bank.pack(cable).readings, self.bank.limits
        frames = readings.frames
        self.bank.take(cable, frame(self.turn % 19 % changes.get("cells", 16), **changes), self.now)
        return Step(before, self.bank.limits, cable, readings.frames != frames, False)

    def _tick(self, *, wanted: bool = False) -> Step:
        before = self.bank.limits
        self.bank.tick(self.now)
        return Step(before, self.bank.limits, None, False, wanted)

    def _garbage(self, event: Garbage) -> Step:
        before, pack = self.bank.limits, self.bank.pack(event.cable)
        fresh = False
        for one in pack.feed(event.data):
            fresh = True
            self.bank.take(event.cable, one, self.now)
        return Step(before, self.bank.limits, event.cable, fresh, False)

    def _want(self, event: Want) -> Step:
        if event.wishes is not None:
            self.bank.wishes = event.wishes
        if event.configured is not None:
            self.bank.configuration = Configuration(event.configured)
        if event.excluded is not None:
            for cable, pack in self.bank.packs.items():
                pack.name = f"*{cable}" if cable in event.excluded else ""
            self.bank.look_again(self.now)
        if event.to_full is not None:
            self.bank.charge_to_full(on=event.to_full)
        self.now += 1.0
        return self._tick(wanted=True)

    def open(self, pack: Pack, way: int) -> bool:
        """Whether its contactor counts as open: its BMS denies, or has not permitted three times again."""
        return pack.opened(way) or (not pack.permits(way) and bool(self._opened(pack)[way]))

    def _opened(self, pack: Pack) -> tuple[float | None, float | None]:
        return self.bank._memory.members[pack.cable].opened_at

    @property
    def present(self) -> list[Pack]:
        """The packs that take part now."""
        members = self.bank._memory.members
        return [pack for pack in self.bank.members if members[pack.cable].present]


def cap_ma(amps: float | None, rate: float, capacity_mah: int, careful: bool) -> float:
    by_rate = rate * capacity_mah
    if amps is None:
        return by_rate
    return min(1000 * amps, by_rate) if careful else 1000 * amps


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING)
def test_limits_are_numbers_within_what_the_user_allows(house: House, story: list[Event]) -> None:
    """From the first frame on, unless all packs are excluded."""
    walk = Walk(house)
    for step in walk.through(story):
        limits, packs = step.limits, walk.bank.packs.values()
        known = any(pack.limits is not None and not pack.excluded for pack in packs)
        assert limits is not None if known or step.before else limits is None
        if limits is None or (step.cable is None and not step.wanted and step.before == limits):
            continue
        for number in (limits.cvl_mv, limits.ccl_ma, limits.dcl_ma):
            assert type(number) is int
            assert number >= 0
        assert all((limits.cvl_reason, limits.ccl_reason, limits.dcl_reason))
        configured, (charge, discharge) = walk.bank.settings, walk.bank.wishes
        capacity = sum(pack.capacity_mah for pack in walk.bank.members)
        if step.fresh or step.wanted:
            careful = configured.careful
            assert limits.ccl_ma <= cap_ma(charge, 1e9, 1, careful=False)
            assert limits.dcl_ma <= cap_ma(discharge, 1e9, 1, careful=False)
            assert limits.ccl_ma <= cap_ma(
                configured.max_charge_current, configured.charge_rate, capacity, "charge_rate" in careful
            )
            assert limits.dcl_ma <= cap_ma(
                configured.max_discharge_current, configured.discharge_rate, capacity,
                "discharge_rate" in careful,
            )  # fmt: skip


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING)
def test_nothing_rises_without_a_new_valid_frame_of_some_pack(house: House, story: list[Event]) -> None:
    walk = Walk(house)
    for step in walk.through(story):
        if step.fresh or step.wanted or step.before is None:
            continue
        assert step.limits is not None
        assert step.limits.cvl_mv <= step.before.cvl_mv
        assert step.limits.ccl_ma <= step.before.ccl_ma
        assert step.limits.dcl_ma <= step.before.dcl_ma


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING)
def test_no_pack_gets_more_than_its_own_limit(house: House, story: list[Event]) -> None:
    """By the shares in use; in series, where one denies that is nothing, in the same frame."""
    walk = Walk(house)
    for step in walk.through(story):
        limits, memory = step.limits, walk.bank._memory
        if limits is None:
            continue
        capacity = {cable: walk.bank.packs[cable].capacity_mah for cable in memory.members}
        series = walk.bank.settings.relays == "series"
        for way, amount in ((0, limits.ccl_ma), (1, limits.dcl_ma)):
            part = shares.in_use(memory.shares, way, capacity)
            takers = [pack for pack in walk.present if series or not walk.open(pack, way)]
            whole = sum(part[pack.cable] for pack in takers) or 1.0
            for pack in takers:
                assert pack.limits is not None
                own = pack.limits.dcl_ma if way else pack.limits.ccl_ma
                assert amount * part[pack.cable] / whole <= own + 1
            heard = [pack for pack in walk.bank.members if not pack.lost]
            for pack in heard if series else ():
                for said in (pack.readings.frame, pack.readings.held):
                    assert amount == 0 or said is None or said.has(BITS[way])


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING)
def test_cvl_is_never_above_that_of_the_lowest_pack(house: House, story: list[Event]) -> None:
    walk = Walk(house)
    for step in walk.through(story):
        if step.limits is None:
            continue
        takers = walk.present
        if walk.bank.settings.relays == "own":
            takers = [pack for pack in takers if not walk.open(pack, shares.CHARGE)]
        for pack in takers or walk.present:
            assert pack.limits is not None
            assert step.limits.cvl_mv <= pack.limits.cvl_mv


@settings(max_examples=EXAMPLES)
@given(HOUSES, stories(GARBAGE, WISHES))
def test_a_lost_pack_bounds_the_bank_until_it_has_sent_three_frames(house: House, story: list[Event]) -> None:
    """To what there was with its last frame, less its part of the capacity, if any other is there."""
    walk = Walk(house)
    marks: dict[str, Limits] = {}
    gone: dict[str, int] = {}
    """Frames since it came back, of each that was lost."""
    for step in walk.through(story):
        members = {pack.cable: pack for pack in walk.bank.members}
        for cable in members.keys() & marks.keys() if len(members) > 1 else ():
            if members[cable].lost:
                gone[cable] = 0
        if step.fresh and step.cable in gone:
            gone[step.cable] += 1
            if gone[step.cable] >= 3:
                del gone[step.cable]
        capacity = sum(pack.capacity_mah for pack in members.values())
        for cable in gone:
            assert step.limits is not None
            others = any(not pack.lost for other, pack in members.items() if other not in gone)
            left = 1 - members[cable].capacity_mah / capacity if others and capacity else 1.0
            assert step.limits.ccl_ma <= marks[cable].ccl_ma * left + 1
            assert step.limits.dcl_ma <= marks[cable].dcl_ma * left + 1
            assert step.limits.cvl_mv <= marks[cable].cvl_mv
        if step.fresh and step.limits is not None and step.cable in members and step.cable not in gone:
            marks[step.cable] = step.limits


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING, st.binary(min_size=1, max_size=150))
def test_garbage_in_a_cable_is_as_silence(house: House, story: list[Event], noise: bytes) -> None:
    """One that sends bytes that are no frame moves no limit, neither its own nor that of the others."""
    quiet, noisy = Walk(house), Walk(house, noise)
    for one, other in zip(quiet.through(story), noisy.through(story), strict=True):
        assert one == other
    if FrameStream().feed(100 * noise) == []:
        assert all(pack.stream.frames == 0 for pack in noisy.bank.packs.values())


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING)
def test_a_bank_of_one_pack_has_exactly_its_limits(house: House, story: list[Event]) -> None:
    """Frame by frame, and whatever is wished and configured meanwhile."""
    walk = Walk(house._replace(cables="a"))
    alone = Pack(house.configured, "a")
    for event in story:
        if isinstance(event, Garbage) or (isinstance(event, Want) and event.excluded):
            continue
        before = walk.now
        for step in walk.through([event]):
            if isinstance(event, Want):
                alone.settings, alone.wishes = walk.bank.settings, walk.bank.wishes
                if event.to_full is not None:
                    alone.charge_to_full(on=event.to_full)
            if step.cable is not None:
                changes = {"current_ma": 0, "capacity_wh": house.capacity_wh["a"]}
                changes |= event.changes if isinstance(event, Seconds) and event.cable == "a" else {}
                turn = walk.turn % 19 % changes.get("cells", 16)
                alone.take(frame(turn, **changes), walk.now)
            else:
                alone.tick(walk.now)
            assert walk.bank.limits == alone.limits
        assert walk.now >= before


@settings(max_examples=EXAMPLES)
@given(HOUSES, EVERYTHING)
def test_only_differences_of_time_count(house: House, story: list[Event]) -> None:
    one, other = Walk(house), Walk(house)
    other.now = -(2.0**20)
    for mine, yours in zip(one.through(story), other.through(story), strict=True):
        assert mine == yours


@settings(max_examples=EXAMPLES)
@given(HOUSES, stories(ODD, GARBAGE, WISHES))
def test_the_names_of_the_cables_change_no_limit(house: House, story: list[Event]) -> None:
    """Only who is named in a reason; frames come in the same order."""
    one, other = Walk(house), Walk(house)
    names = dict(zip(CABLES, "54321", strict=True))

    def renamed(event: Event) -> Event:
        if isinstance(event, Seconds):
            return event._replace(cable=names[event.cable], silent=frozenset(names[c] for c in event.silent))
        return event._replace(cable=names[event.cable]) if isinstance(event, Garbage) else event

    other.house = House(
        "".join(names[c] for c in house.cables),
        {names[c]: wh for c, wh in house.capacity_wh.items()},
        house.configured,
    )
    theirs = other.through([renamed(event) for event in story])
    for mine, yours in zip(one.through(story), theirs, strict=True):
        if mine.limits is None or yours.limits is None:
            assert mine.limits is yours.limits
        else:
            for number, theirs_number in zip(mine.limits[:3], yours.limits[:3], strict=True):
                assert abs(number - theirs_number) <= 1, "but for the last digit of a sum"
            assert mine.limits[6:11] == yours.limits[6:11]


def test_the_frames_of_the_stories_are_frames() -> None:
    """Two packs of the same frames, so that a story is what the wire could carry."""
    assert len(encode(frame(3, **OTHER_CELLS))) == 58
