"""What is around a simulated pack: an inverter/charger, solar chargers, sun and clouds, loads, a grid.

For the proof of the limits in closed loop.  The chargers obey CVL, CCL and DCL as a GX hands them on
(dbus-systemcalc-py): read every 3 s, the solar chargers' share by what the inverter draws, and with
DC feed-in not obeyed at all but for CVL, and that higher.  Each regulates at its own terminals, through
a cable, with a lag.  Figures without a source are of the right size, no more.
Pure: no I/O, no clock, no chance but ``random.Random(seed)``.
V, A, W, ohm and s as floats; positive current charges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

READ_S = 3.0
"""How often systemcalc hands the limits on (``delegates/dvcc.py``)."""
FEED_IN_V_A_CELL = 0.025
"""How far over CVL the chargers hold under DC feed-in: 0.4 V at 48 V, a quarter of it at 12 V (Cerbo GX
manual, "DVCC for systems with the ESS Assistant")."""
EFFICIENCY = 0.94
"""Of an inverter, between battery and loads: a MultiPlus-II at its best has 95 to 96 % (data sheets)."""
CABLE_OHM = 0.0015
"""Of 2 m there and 2 m back in 50 mm2 of copper (0.35 mohm a metre), with lugs and a fuse."""
CLOUD_EDGE_S = 6.0
"""How quickly a cloud's shadow comes and goes: time constant."""
GRIDS = ("none", "ess", "charge")


class Mppt(NamedTuple):
    """A solar charger and its panels."""

    peak_w: float = 5000.0
    most_a: float = 100.0
    cable_ohm: float = CABLE_OHM
    error_percent: float = 0.0
    """How far over its setpoint it holds its terminals."""


class Load(NamedTuple):
    """A load with a timetable: on every day from an hour on, for so many hours."""

    from_h: float
    hours: float
    watts: float


class Limits(NamedTuple):
    """What the driver publishes; None is "no value", which is no limit."""

    cvl_v: float | None
    ccl_a: float | None
    dcl_a: float | None


@dataclass(frozen=True, slots=True)
class HouseSettings:
    """What is simulated.  Raises ValueError with a sentence for a grid that there is not."""

    grid: str = "none"
    """none: off-grid; ess: the grid gives what the battery may not, and takes a surplus with ``feed_in``;
    charge: shore power, the grid charges the battery and carries the loads."""
    feed_in: bool = False
    mppts: tuple[Mppt, ...] = (Mppt(),)
    multi_w: float = 10_000.0
    """What the inverter can take from the battery."""
    multi_a: float = 100.0
    """What its charger can give."""
    multi_cable_ohm: float = CABLE_OHM
    multi_error_percent: float = 0.0
    lag_s: float = 1.0
    """Time constant of every charger's current."""
    start_h: float = 6.0
    """The hour of the day at which the simulation begins."""
    sunrise_h: float = 6.0
    sunset_h: float = 20.0
    clear_s: float = 600.0
    cloudy_s: float = 0.0
    """How long the sky is clear, and how long a cloud stays, on average; 0: no clouds."""
    cloud_light: tuple[float, float] = (0.1, 0.5)
    """What a cloud lets through, from and to."""
    days: tuple[float, ...] = (1.0,)
    """What the weather lets through day by day, then from the beginning again."""
    load_w: float = 500.0
    loads: tuple[Load, ...] = ()
    kettles_an_hour: float = 0.0
    kettle_w: float = 2000.0
    kettle_s: float = 180.0
    seed: int = 1
    perfect: bool = False
    """Everything obeys everything at once: what the ideal is measured with."""

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise ValueError(f"the grid has to be one of {', '.join(GRIDS)}, not {self.grid}")


class Weather:
    """Sun and clouds: ``light`` is what comes down, 0 to 1."""

    def __init__(self, settings: HouseSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._cloudy = False
        self._until_s = random.expovariate(1 / settings.clear_s) if settings.cloudy_s else math.inf
        self._toward = self._through = 1.0

    def light(self, t: float, dt_s: float) -> float:
        """At a time since the simulation began, ``dt_s`` after the one before."""
        settings = self._settings
        if t >= self._until_s:
            self._cloudy = not self._cloudy
            mean_s = settings.cloudy_s if self._cloudy else settings.clear_s
            self._until_s = t + self._random.expovariate(1 / mean_s)
            self._toward = self._random.uniform(*settings.cloud_light) if self._cloudy else 1.0
        self._through += (self._toward - self._through) * min(1.0, dt_s / CLOUD_EDGE_S)
        hour = settings.start_h + t / 3600
        day, hour = divmod(hour, 24)
        if not settings.sunrise_h < hour < settings.sunset_h:
            return 0.0
        height = math.sin(math.pi * (hour - settings.sunrise_h) / (settings.sunset_h - settings.sunrise_h))
        return height * self._through * settings.days[int(day) % len(settings.days)]


class House:
    """Everything but the pack.  ``told`` is what the driver says; ``flow`` lets time pass."""

    def __init__(self, settings: HouseSettings, cells: int) -> None:
        self.settings = settings
        self.told = Limits(None, 0.0, 0.0)
        self.t = 0.0
        self.solar_a = [0.0] * len(settings.mppts)
        self.multi_a = 0.0
        """Of the inverter/charger: under 0 it draws."""
        self.stopped = False
        """Off-grid: the inverter has been told DCL 0, or the load relay is open."""
        self.wanted_wh = self.served_wh = self.exported_wh = self.sold_wh = 0.0
        """What the loads wanted, what they got from battery and sun, what went to the grid, and what of
        that was the battery's."""
        self.dark_s = 0.0
        """Seconds in which off-grid loads were not served."""
        self.free_a = 0.0
        """What would flow into the battery if nothing were limited."""
        self.steered_a = 0.0
        """The battery's current without what sun, loads and grid changed in it: all steps that the limits and
        the BMS's relays made, summed up."""
        self._between = (-math.inf, math.inf)
        self._settles = 0.0
        self._offset_v = FEED_IN_V_A_CELL * cells if settings.grid == "ess" and settings.feed_in else 0.0
        self._random = Random(settings.seed)  # noqa: S311 - the same weather every time
        self._weather = Weather(settings, Random(settings.seed + 7_000_003))  # noqa: S311
        self._kettle_until = -1.0
        self._read_at = 0.0
        self._cvl_v = math.inf  # nothing was told yet, and nothing may flow
        self._ccl_a = self._dcl_a = 0.0
        self._multi_most_a = 0.0
        self._solar_most_a = [0.0] * len(settings.mppts)
        self._solar_v = [0.0] * len(settings.mppts)
        self._multi_v = 0.0

    def flow(
        self, idle_v: float, ohm: float, volts: float, dt_s: float, /, *, charge: bool, load: bool
    ) -> tuple[float, float]:
        """The currents of the next ``dt_s`` seconds: out of the chargers, and into the loads (and the grid).

        ``idle_v`` and ``ohm`` are the pack's voltage without current, and its resistance to a step of it;
        ``volts`` is its voltage now; ``charge`` and ``load`` are the BMS's relays.
        """
        settings, volts = self.settings, max(volts, 1.0)
        self._settles = 1 - math.exp(-dt_s / settings.lag_s)
        light = self._weather.light(self.t, dt_s)
        want_a = self._load_w(dt_s) / EFFICIENCY / volts
        if settings.grid == "charge":
            want_a = 0.0  # the grid carries the loads
        offers = [min(mppt.peak_w * light / volts, mppt.most_a) for mppt in settings.mppts]
        if settings.perfect or self.t >= self._read_at:
            self._read(offers)
            self._read_at = self.t + READ_S
        solar_a = self._solar(offers, idle_v, ohm) if charge else self._no_sun()
        room_a = (self._multi_v - idle_v - ohm * solar_a) / (ohm + settings.multi_cable_ohm)
        if settings.grid == "charge":
            self._charge(room_a, charge=charge)
        elif settings.grid == "ess":
            self._support(want_a, solar_a, room_a, settings.multi_w / volts, load=load)
        else:
            self._carry(want_a, settings.multi_w / volts, load=load)
            self.dark_s += dt_s * self.stopped
        self._account(want_a, volts, dt_s)
        self._steer(sum(offers) - want_a, self._reach(want_a, idle_v, ohm, charge=charge, load=load))
        self.t += dt_s
        return solar_a + max(self.multi_a, 0.0), max(-self.multi_a, 0.0)

    def _solar(self, offers: list[float], idle_v: float, ohm: float) -> float:
        """Let each solar charger come nearer to what it may and can give; their sum."""
        solar_a = sum(self.solar_a)
        for k, mppt in enumerate(self.settings.mppts):
            others_a = solar_a - self.solar_a[k] + self.multi_a
            room_a = (self._solar_v[k] - idle_v - ohm * others_a) / (ohm + mppt.cable_ohm)
            target_a = max(0.0, min(offers[k], self._solar_most_a[k], room_a))
            change_a = (target_a - self.solar_a[k]) * self._settles
            self.solar_a[k] += change_a
            solar_a += change_a
        return solar_a

    def _no_sun(self) -> float:
        self.solar_a = [0.0] * len(self.solar_a)
        return 0.0

    def _charge(self, room_a: float, *, charge: bool) -> None:
        """The inverter/charger on shore power."""
        target_a = max(0.0, min(self._multi_most_a, room_a))
        self.multi_a = self.multi_a + (target_a - self.multi_a) * self._settles if charge else 0.0

    def _support(self, want_a: float, solar_a: float, room_a: float, most_a: float, *, load: bool) -> None:
        """The inverter/charger in ESS: it serves the loads, and with feed-in it also holds the voltage."""
        target_a = -min(want_a, most_a, max(0.0, solar_a + self._dcl_a))
        if self.settings.feed_in and not self.settings.perfect:
            target_a = min(target_a, max(room_a, -most_a))
        self.multi_a += (target_a - self.multi_a) * self._settles
        if not load:
            self.multi_a = max(self.multi_a, -solar_a)

    def _carry(self, want_a: float, most_a: float, *, load: bool) -> None:
        """The inverter off-grid: all that the loads want, or nothing."""
        self.stopped = self._dcl_a <= 0 or not load
        self.multi_a = 0.0 if self.stopped else -min(want_a, most_a)

    def _load_w(self, dt_s: float) -> float:
        settings = self.settings
        watts = settings.load_w
        if settings.loads:
            hour = (settings.start_h + self.t / 3600) % 24
            for load in settings.loads:
                if (hour - load.from_h) % 24 < load.hours:
                    watts += load.watts
        if settings.kettles_an_hour:
            if self.t < self._kettle_until:
                watts += settings.kettle_w
            elif self._random.random() < settings.kettles_an_hour * dt_s / 3600:
                self._kettle_until = self.t + settings.kettle_s
        return watts

    def _read(self, offers: list[float]) -> None:
        """Hand the limits on, as systemcalc does."""
        settings, told = self.settings, self.told
        cvl_v = self._cvl_v if told.cvl_v is None else told.cvl_v
        ccl_a = math.inf if told.ccl_a is None else told.ccl_a
        self._cvl_v, self._ccl_a = cvl_v, ccl_a
        self._dcl_a = math.inf if told.dcl_a is None else told.dcl_a
        solar_a, draw_a = sum(self.solar_a), max(-self.multi_a, 0.0)
        limited = ccl_a < math.inf
        self._multi_most_a = min(settings.multi_a, max(0.0, ccl_a - solar_a))
        total_a = ccl_a + draw_a
        if limited and not settings.perfect:
            self._multi_most_a = min(settings.multi_a, max(0, round(ccl_a - solar_a)))
            total_a = math.inf if self._offset_v else math.ceil(total_a)
        offered_a = sum(offers)
        for k, mppt in enumerate(settings.mppts):
            share = offers[k] / offered_a if offered_a > 0 else 1 / len(offers)
            self._solar_most_a[k] = min(mppt.most_a, total_a * share) if total_a < math.inf else mppt.most_a
            self._solar_v[k] = (cvl_v + self._offset_v) * (1 + mppt.error_percent / 100)
        multi_v = cvl_v + (self._offset_v if solar_a > 1 else 0.0)
        self._multi_v = multi_v * (1 + settings.multi_error_percent / 100)

    def _account(self, want_a: float, volts: float, dt_s: float) -> None:
        wh = volts * dt_s / 3600
        self.wanted_wh += want_a * wh
        self.served_wh += min(want_a, max(-self.multi_a, 0.0)) * wh
        if self.settings.feed_in:
            net_a = sum(self.solar_a) + self.multi_a
            exported_a = max(-self.multi_a - want_a, 0.0)
            self.exported_wh += exported_a * wh
            self.sold_wh += min(exported_a, max(-net_a, 0.0)) * wh

    def _reach(
        self, want_a: float, idle_v: float, ohm: float, *, charge: bool, load: bool
    ) -> tuple[float, float]:
        """Between what the limits and the relays leave the battery's current."""
        settings = self.settings
        rooms_a = [
            (volts - idle_v) / (ohm + mppt.cable_ohm)
            for volts, mppt in zip(self._solar_v, settings.mppts, strict=True)
        ]
        if settings.grid == "charge":
            rooms_a.append((self._multi_v - idle_v) / (ohm + settings.multi_cable_ohm))
        most_a = math.inf if self._offset_v and not settings.perfect else self._ccl_a
        most_a = min(most_a, max(rooms_a)) if charge else 0.0
        if not self._offset_v:  # no charging leaves the loads
            most_a = max(most_a, -want_a)
        if settings.grid == "none":
            return 0.0 if self.stopped else -math.inf, most_a
        return -self._dcl_a if load else 0.0, most_a

    def _steer(self, free_a: float, between: tuple[float, float]) -> None:
        """Note what the limits changed in the current: sun and loads as they now are, limits then and now."""
        if self.settings.grid == "charge":
            free_a += self.settings.multi_a
        if self.t == 0:
            self._between = between
        (least_a, most_a), (before_least_a, before_most_a) = between, self._between
        before_a = max(before_least_a, min(before_most_a, free_a))
        self.steered_a += max(least_a, min(most_a, free_a)) - before_a
        self._between, self.free_a = between, free_a
