"""What holds for every pack, every setting and every story: hypothesis looks for one where it does not.

A story is a list of things that happen to a ``Bank``: frames with any values the wire can carry,
silences, damaged bytes.  Times are multiples of 1/4 s, so that they are exact.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbus_smartbms.limits import RAMP_S, Limits
from dbus_smartbms.pack import Pack
from dbus_smartbms.ratings import LOWEST_CELL_MV, capacity_mah
from dbus_smartbms.rules import Wishes
from dbus_smartbms.settings import Settings
from rig import FRAME
from smartbms_protocol import Frame, encode, read
from smartbms_protocol.layout import (
    CHARGE_ALLOWED,
    DISCHARGE_ALLOWED,
    NO_COMMUNICATION,
    OVER_TMAX,
    OVER_VMAX,
    UNDER_TMIN,
    UNDER_VMIN,
)

BOTH = CHARGE_ALLOWED | DISCHARGE_ALLOWED


class Event(NamedTuple):
    """A frame, damaged bytes, or neither (a tick), so many seconds after the last; before it, writes."""

    after: float
    frame: Frame | None = None
    garbage: bytes = b""
    wishes: Wishes | None = None
    to_full: bool | None = None


# Frames: mostly near the edges that the rules look at, sometimes anything at all.


def wire_mv(*near: int) -> st.SearchStrategy[int]:
    steps = st.sampled_from([-10, -5, 0, 5, 10, 50])
    edges = [st.builds(lambda mv, step: max(0, mv + step), st.sampled_from(near), steps)] if near else []
    return st.one_of(*edges, st.integers(0, 65_535).map(lambda n: 5 * n))


CURRENTS = st.one_of(
    st.none(),
    st.sampled_from([0, 125, -125, 1_000, 3_125, -3_125, 50_000, -50_000]),
    st.integers(-65_535, 65_535).map(lambda n: 125 * n),
)
STATUS = st.one_of(st.just(BOTH), st.just(BOTH), st.just(BOTH), st.integers(0, 255))
CELL_MV = wire_mv(0, 2_900, 3_000, 3_300, 3_400, 3_430, 3_550, 3_700)
PACK_MV = st.one_of(
    st.sampled_from([0, 46_400, 52_800, 53_120, 54_880, 59_200]),
    st.integers(0, 0xFFFFFF).map(lambda n: 5 * n),
)
PAIRS = st.one_of(
    st.tuples(st.none(), st.just(0)),
    st.tuples(st.integers(0, 18), st.integers(0, 255)),
    st.tuples(st.sampled_from([2, 3, 4, 5, 16]), st.sampled_from([0, 2, 88, 148, 8, 4, 255])),
)


class Setup(NamedTuple):
    """What rarely changes."""

    cells: int
    capacity_wh: int
    vmin_mv: int
    vmax_mv: int
    vbalance_mv: int


SENSIBLE = Setup(16, 16_000, 2_900, 3_700, 3_400)
SETUPS = st.one_of(
    st.just(SENSIBLE),
    st.builds(
        Setup,
        st.sampled_from([2, 7, 16, 255]),
        st.one_of(st.just(0), st.just(16_000), st.integers(0, 65_535).map(lambda n: 100 * n)),
        wire_mv(0, 2_900, 3_400), wire_mv(0, 3_700, 3_400), wire_mv(0, 3_400, 3_700),
    ),
)  # fmt: skip


@st.composite
def frames(draw: st.DrawFn, setup: Setup) -> Frame:
    number = st.integers(1, setup.cells)
    key, value = draw(PAIRS)
    return replace(
        FRAME,
        **setup._asdict(),
        voltage_mv=draw(PACK_MV),
        current_ma=draw(CURRENTS), current1_ma=draw(CURRENTS), current2_ma=draw(CURRENTS),
        lowest_mv=draw(CELL_MV), lowest_cell=draw(number),
        highest_mv=draw(CELL_MV), highest_cell=draw(number),
        cell=draw(number), cell_mv=draw(CELL_MV), status=draw(STATUS), key=key, value=value,
        coldest_raw=draw(st.sampled_from([0, 270, 280, 296, 65_535])), coldest_cell=draw(number),
        hottest_raw=draw(st.sampled_from([0, 299, 330, 65_535])), hottest_cell=draw(number),
        soc_percent=draw(st.integers(0, 100)), stored_wh=draw(st.integers(0, 0xFFFFFF)),
    )  # fmt: skip


# The smallest gap is one that teaches no interval, the others are silences of every kind.
GAPS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 3.0, 9.75, 10.0, 61.0])


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """A calm start (or none), then anything; the setup changes now and then, often for one frame only."""
    setup = draw(SETUPS)
    begin = draw(st.integers(0, 4))
    calm = replace(
        FRAME, **setup._asdict(), lowest_cell=1, highest_cell=1, coldest_cell=1, hottest_cell=1,
        lowest_mv=3_310, highest_mv=3_330, cell=1,
    )  # fmt: skip
    events = [Event(1.0, calm)] * begin
    for kind in draw(st.lists(st.sampled_from("ffffcccttghow"), min_size=1, max_size=25)):
        after = draw(GAPS)
        if kind == "t":
            events.append(Event(after))
        elif kind == "g":
            events.append(Event(after, garbage=draw(st.binary(min_size=1, max_size=150))))
        elif kind == "w":
            events.append(Event(after, wishes=draw(WISHES), to_full=draw(st.booleans())))
        elif kind == "c":
            events.append(Event(1.0, calm))
        elif kind == "o":
            other = draw(SETUPS)
            events += [Event(1.0, draw(frames(other)))] * draw(st.integers(1, 3))
        elif kind == "h":
            events.append(Event(after, replace(calm, vmax_mv=abs(calm.vmax_mv - 5), status=draw(STATUS))))
        else:
            events.append(Event(after, draw(frames(setup))))
    return events


AMPS = st.one_of(st.none(), st.sampled_from([0.0, 0.3, 50.0, 10_000.0]))
WISHES = st.builds(Wishes, AMPS, AMPS)
TAPERS = st.sampled_from([None, None, ((20.0, 0.0), (80.0, 0.7)), ((90.0, 0.5), (95.0, 0.0)), ((50.0, 5.0),)])
RATES = st.sampled_from([0.0, 0.1, 0.5, 5.0])
CELSIUS = st.one_of(st.none(), st.none(), st.sampled_from([-40.0, 5.0, 45.0, 85.0]))
CONFIGURATIONS = st.builds(
    Settings,
    generation=st.sampled_from("ABC"),
    mode=st.sampled_from(["normal", "critical"]),
    chemistry=st.sampled_from(["auto", "LFP", "LTO", "NMC", "NCA"]),
    temperature=st.sampled_from(["document", "vendor"]),
    tmin_charge=CELSIUS, tmin_discharge=CELSIUS, tmax=CELSIUS,
    charge_restart=st.sampled_from([None, 90.0]), discharge_restart=st.sampled_from([None, 10.0]),
    max_charge_current=AMPS, max_discharge_current=AMPS, charge_rate=RATES, discharge_rate=RATES,
    charge_margin_mv=st.sampled_from([0.0, 27.5, 30.0, 100.0]),
    hold_s=st.sampled_from([3.0, 10.0, 30.0]), ride_through_s=st.sampled_from([3.0, 30.0, 60.0, 120.0]),
    charge_soc_taper=TAPERS, discharge_soc_taper=TAPERS,
    charge_to_full_days=st.sampled_from([None, 1.0, 30.0]),
    careful=st.sets(st.sampled_from(["charge_rate", "discharge_rate"])).map(frozenset),
)  # fmt: skip


class Told:
    """A pack and what it said after the last event."""

    def __init__(self, configured: Settings, begin: float = 0.0) -> None:
        self.pack = Pack(configured)
        self.now = begin
        self.before: Limits | None = None
        self.frames_before = 0

    def wait(self, seconds: float) -> None:
        """Ticks for the seconds until then, as the driver has them."""
        end = self.now + seconds
        while self.now + 1.0 < end:
            self.now += 1.0
            self._note()
            self.pack.tick(self.now)
            self.never_rises()
        self.now = end
        self._note()

    def happen(self, event: Event) -> Limits | None:
        """The seconds before an event, then the event."""
        self.wait(event.after)
        if event.wishes is not None:
            self.pack.wishes = event.wishes
        if event.to_full is not None:
            self.pack.charge_to_full(on=event.to_full)
        if event.frame is not None:
            self.pack.take(event.frame, self.now)
        elif event.garbage:
            for frame in self.pack.feed(event.garbage):
                self.pack.take(frame, self.now)
        else:
            self.pack.tick(self.now)
        return self.pack.limits

    def _note(self) -> None:
        self.before, self.frames_before = self.pack.limits, self.pack.readings.frames

    @property
    def fresh(self) -> bool:
        return self.pack.readings.frames != self.frames_before

    def never_rises(self) -> None:
        now = self.pack.limits
        if self.before is not None:
            assert now is not None
            assert now.cvl_mv <= self.before.cvl_mv
            assert now.ccl_ma <= self.before.ccl_ma
            assert now.dcl_ma <= self.before.dcl_ma


@settings(max_examples=400)
@given(CONFIGURATIONS, stories())
def test_limits_are_numbers_within_the_pack_and_the_caps(configured: Settings, story: list[Event]) -> None:
    told = Told(configured)
    for event in story:
        limits = told.happen(event)
        frame = told.pack.readings.frame
        assert (limits is None) == (frame is None)
        if limits is None or frame is None:
            continue
        for number in (limits.cvl_mv, limits.ccl_ma, limits.dcl_ma):
            assert type(number) is int
            assert number >= 0
        assert limits.cvl_mv <= frame.cells * frame.vmax_mv
        assert all((limits.cvl_reason, limits.ccl_reason, limits.dcl_reason))
        assert limits.state in ("bulk", "absorption", "float")
        capacity, wishes = capacity_mah(configured, told.pack.readings), told.pack.wishes
        if told.fresh and wishes.max_charge_current is not None:
            assert limits.ccl_ma <= 1000 * wishes.max_charge_current
        if told.fresh and wishes.max_discharge_current is not None:
            assert limits.dcl_ma <= 1000 * wishes.max_discharge_current
        assert limits.ccl_ma <= cap_ma(
            configured.max_charge_current,
            configured.charge_rate * capacity,
            "charge_rate" in configured.careful,
        )
        assert limits.dcl_ma <= cap_ma(
            configured.max_discharge_current,
            configured.discharge_rate * capacity,
            "discharge_rate" in configured.careful,
        )


def cap_ma(amps: float | None, by_rate: float, careful: bool) -> float:
    if amps is None:
        return by_rate
    return min(1000 * amps, by_rate) if careful else 1000 * amps


@settings(max_examples=400)
@given(CONFIGURATIONS, stories())
def test_nothing_rises_without_a_new_valid_frame(configured: Settings, story: list[Event]) -> None:
    told = Told(configured)
    for event in story:
        told.happen(event)
        if not told.fresh:
            told.never_rises()


@settings(max_examples=400)
@given(CONFIGURATIONS, stories())
def test_what_a_frame_denies_is_0_in_the_same_frame(configured: Settings, story: list[Event]) -> None:
    told = Told(configured)
    for event in story:
        limits = told.happen(event)
        if event.frame is None or limits is None:
            continue
        frame = event.frame
        whole = frame is told.pack.readings.frame
        charge, discharge = frame.has(CHARGE_ALLOWED), frame.has(DISCHARGE_ALLOWED)
        if whole:
            neither = frame.has(NO_COMMUNICATION | OVER_TMAX)
            cold = configured.tmin_charge is not None and event.frame.coldest_raw == 0
            charge = charge and not neither and not frame.has(OVER_VMAX | UNDER_TMIN) and not cold
            charge = charge and frame.highest_mv < frame.vmax_mv
            discharge = discharge and not neither and not frame.has(UNDER_VMIN)
            discharge = discharge and frame.lowest_mv > frame.vmin_mv
        if not charge:
            assert (limits.ccl_ma, limits.allow_charge) == (0, False)
        if not discharge:
            assert (limits.dcl_ma, limits.allow_discharge) == (0, False)


@settings(max_examples=400)
@given(CONFIGURATIONS, stories())
def test_a_current_needs_three_permitting_frames_in_a_row(configured: Settings, story: list[Event]) -> None:
    told = Told(configured)
    permits = [0, 0]
    for event in story:
        limits = told.happen(event)
        frame = event.frame
        if limits is None or frame is None:
            continue
        for index, bit in enumerate((CHARGE_ALLOWED, DISCHARGE_ALLOWED)):
            if not frame.has(bit):
                permits[index] = 0
            elif frame is told.pack.readings.frame and told.fresh:
                permits[index] += 1
            if permits[index] < 3:
                assert (limits.ccl_ma, limits.dcl_ma)[index] == 0


@settings(max_examples=400)
@given(CONFIGURATIONS, stories())
def test_a_denied_direction_comes_back_by_a_ramp(configured: Settings, story: list[Event]) -> None:
    """From 0 to a quarter of the cap; from there by the time between two frames."""
    told = Told(configured)
    denied = [False, False]
    for event in story:
        limits = told.happen(event)
        if limits is None:
            continue
        capacity = capacity_mah(configured, told.pack.readings)
        caps = (
            cap_ma(configured.max_charge_current, configured.charge_rate * capacity, careful=False),
            cap_ma(configured.max_discharge_current, configured.discharge_rate * capacity, careful=False),
        )
        before = (told.before.ccl_ma, told.before.dcl_ma) if told.before else (0, 0)
        allowed_before = (
            (told.before.allow_charge, told.before.allow_discharge) if told.before else (False, False)
        )
        allowed = (limits.allow_charge, limits.allow_discharge)
        for index in (0, 1):
            now = (limits.ccl_ma, limits.dcl_ma)[index]
            waits = (limits.ccl_reason, limits.dcl_reason)[index].startswith("waits")
            denied[index] = denied[index] or (not allowed[index] and not waits)
            if denied[index] and allowed[index]:
                step = caps[index] * 1.5 / RAMP_S + 2
                assert now <= (before[index] + step if allowed_before[index] else caps[index] / 4)


@settings(max_examples=200)
@given(CONFIGURATIONS, stories())
def test_only_differences_of_time_count(configured: Settings, story: list[Event]) -> None:
    one, other = Told(configured), Told(configured, -(2.0**20))
    for event in story:
        assert one.happen(event) == other.happen(event)


@settings(max_examples=200)
@given(CONFIGURATIONS, stories(), st.integers(1, 60))
def test_bytes_in_any_pieces_are_as_frames(configured: Settings, story: list[Event], size: int) -> None:
    """Frames that the wire lets pass, given whole or as bytes."""
    whole, pieces = Told(configured), Told(configured)
    for event in story:
        if event.frame is not None and isinstance(read(encode(event.frame)), Frame):
            whole.happen(event)
            data = encode(event.frame)
            pieces.wait(event.after)
            for begin in range(0, len(data), size):
                for frame in pieces.pack.feed(data[begin : begin + size]):
                    pieces.pack.take(frame, pieces.now)
        elif event.frame is None and not event.garbage:
            whole.happen(event)
            pieces.happen(event)
    assert whole.pack.limits == pieces.pack.limits
    assert whole.pack.stream.frames == 0


@settings(max_examples=200)
@given(CONFIGURATIONS, stories(), WISHES)
def test_no_wish_gives_more_than_there_is_without_it(
    configured: Settings, story: list[Event], wishes: Wishes
) -> None:
    """The same story with and without a wish from its beginning on."""
    free, wished = Told(configured), Told(configured)
    wished.pack.wishes = wishes
    for event in (event._replace(wishes=None) for event in story):
        one, other = free.happen(event), wished.happen(event)
        if one is not None and other is not None:
            assert other.ccl_ma <= one.ccl_ma
            assert other.dcl_ma <= one.dcl_ma


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_garbage_raises_nothing_and_moves_no_limit(noise: list[bytes]) -> None:
    told = Told(Settings())
    for turn in range(4):
        told.happen(Event(1.0, replace(FRAME, cell=turn + 1)))
    for data in noise:
        told.happen(Event(0.25, garbage=data))
        assert told.pack.limits == told.before


@given(CONFIGURATIONS, SETUPS, st.data())
def test_a_higher_highest_cell_never_gives_a_higher_ccl(
    configured: Settings, setup: Setup, data: st.DataObject
) -> None:
    """Three frames, so that the rules' limit stands; a warm board is not what this is about."""
    frame = replace(data.draw(frames(setup)), status=BOTH)
    measured = CELL_MV.filter(lambda millivolts: millivolts >= LOWEST_CELL_MV)  # under it, nothing is
    low, high = sorted((data.draw(measured), data.draw(measured)))
    ccl = []
    for highest_mv in (low, high):
        told = Told(replace(configured, tmax=None))
        for _ in range(3):
            told.happen(Event(1.0, replace(frame, highest_mv=highest_mv)))
        assert told.pack.limits is not None
        ccl.append(told.pack.limits.ccl_ma)
    assert ccl[0] >= ccl[1]


@given(CONFIGURATIONS, SETUPS, st.data())
def test_a_lower_lowest_cell_never_gives_a_higher_dcl(
    configured: Settings, setup: Setup, data: st.DataObject
) -> None:
    frame = replace(data.draw(frames(setup)), status=BOTH)
    low, high = sorted((data.draw(CELL_MV), data.draw(CELL_MV)))
    dcl = []
    for lowest_mv in (low, high):
        told = Told(replace(configured, tmax=None))
        for _ in range(3):
            told.happen(Event(1.0, replace(frame, lowest_mv=lowest_mv)))
        assert told.pack.limits is not None
        dcl.append(told.pack.limits.dcl_ma)
    assert dcl[0] <= dcl[1]


@settings(max_examples=300)
@given(CONFIGURATIONS, stories())
def test_cvl_of_a_sensible_pack_is_never_under_cells_times_vnom(
    configured: Settings, story: list[Event]
) -> None:
    """Vlow and Vnom known, the settings those of an LFP pack: 16 x 3.3 V, whatever the cells do."""
    told = Told(configured)
    for turn in range(2, 6):
        key_value = ((2, 2), (3, 88), (4, 2), (5, 148))[turn - 2]
        told.happen(Event(1.0, replace(FRAME, cell=turn, key=key_value[0], value=key_value[1])))
    for event in story:
        if event.frame is not None:
            known = replace(event.frame, **SENSIBLE._asdict(), key=None)
            limits = told.happen(event._replace(frame=_within(known)))
        else:
            limits = told.happen(event)
        assert limits is not None
        assert 16 * 3_300 <= limits.cvl_mv <= 16 * 3_500


def _within(frame: Frame) -> Frame:
    """Cell numbers of a bigger pack do not exist in this one."""
    names = ("lowest_cell", "highest_cell", "coldest_cell", "hottest_cell", "cell")
    return replace(frame, **{name: min(getattr(frame, name), 16) for name in names})


@settings(max_examples=100)
@given(CONFIGURATIONS, stories())
def test_a_lost_link_lets_nothing_in(configured: Settings, story: list[Event]) -> None:
    told = Told(configured)
    for event in story:
        told.happen(event)
    told.happen(Event(configured.hold_s))
    limits = told.pack.limits
    if limits is not None:
        assert limits.lost
        assert (limits.ccl_ma, limits.allow_charge) == (0, False)
        told.happen(Event(125.0))
        assert told.pack.limits is not None
        assert told.pack.limits.spent
        assert told.pack.limits.dcl_ma == 0


@pytest.mark.parametrize("cells", [2, 3, 16, 100, 255])
def test_every_number_of_cells_gets_limits(cells: int) -> None:
    told = Told(Settings())
    names = {"lowest_cell": 1, "highest_cell": cells, "coldest_cell": 1, "hottest_cell": cells}
    for turn in range(4):
        told.happen(
            Event(1.0, replace(FRAME, cells=cells, cell=turn % cells + 1, voltage_mv=cells * 3_320, **names))
        )
    limits = told.pack.limits
    assert limits is not None
    assert limits.cvl_mv == cells * 3_430
    assert limits.ccl_ma == 16_000_000_000 // (cells * 3_300) // 2
