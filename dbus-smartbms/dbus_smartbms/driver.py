"""The process: cables in, battery services out.  Thin, owns every task, fails loudly.

Everything that decides anything is pure and lives in ``bank``; here are the clock, the serial
lines, the bus, the signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import __version__, capture, state, watchdog
from .bank import TICK_S, Bank
from .configuration import Configuration
from .items import BankItems
from .link import AUTO, Cable, Link, split
from .pack import Pack
from .paths import CHARGE_TO_FULL, MAX_CHARGE_CURRENT, MAX_DISCHARGE_CURRENT
from .presence import Kept, Presence, device_id
from .rules import Wishes
from .sayer import Sayer
from .settings import CAREFUL_RATE
from .starts import CALM_S, RESTARTS, WINDOW_S, Starts
from .state import LONGEST_NAME
from .use import Use
from .views import Identity

log = logging.getLogger(__name__)

BATTERY = "com.victronenergy.battery"
SETTINGS_ID = "smartbms"
"""The bank's, in localsettings: ``/Settings/Devices/smartbms/...``"""
SERVICE = f"{BATTERY}.{SETTINGS_ID}"
FIRST_INSTANCE, INSTANCES = 200, 797
"""Where a pack's device instance is looked for, by its cable: a prime, so that all letters count."""
CATCH_UP_S = 0.1
"""For reading what waited while the process stood still: some 20 frames at the least."""
STATE_S = 900.0
"""Between two writings of the state file: flash wears out."""
AGAIN_S = 60.0
"""After one that failed, as on a full disk."""
ALL_S = 3.0
"""After the first pack, before the battery appears without one whose cable is there."""
CAPTURE_PAUSE_S = 1.0
"""Between two captures, however many are asked for: each is work, and a line of the log."""
WISH_S = 1.0, 60.0
"""What is set over the bus is written at once, the next after 1 s, then 2 s, ... up to a minute."""
WRITTEN_S = 1.0
"""Between two lines of the log on what is set over the bus: a client may send a thousand."""


class Driver:
    """One bank on one bus, and its packs beside it."""

    def __init__(
        self,
        configuration: Configuration,
        state_file: Path | None = None,
        read_again: Callable[[], Configuration] | None = None,
        runtime: Path | None = None,
    ) -> None:
        """``read_again`` reads the configuration anew, at SIGHUP.

        ``runtime``: a folder in RAM for what is left to the next run, and to whoever looks for a fault.
        """
        self._read_again = read_again or (lambda: configuration)
        self.bank = Bank(configuration)
        self._link = Link(configuration.settings.devices, self._received, self._opened)
        self.identity = Identity(problems=tuple(configuration.problems))
        self.identities: dict[str, Identity] = {}
        """Of the packs, by their cables."""
        self.items = BankItems()
        self._use = Use(SERVICE)
        self.presence = Presence(
            SERVICE, SETTINGS_ID, self.items, self.identity, self._lasting(),
            self._changed, self._written, self._watch_system,
        )  # fmt: skip
        self._shown: dict[str, tuple[Presence, asyncio.Task[None]]] = {}
        """The packs that have a service of their own, by their cables."""
        self._devices: dict[str, str] = {}
        """Where the cables were last."""
        self._confirmed: set[str] = set()
        """Packs that have sent frames that agree."""
        self._leaving: set[str] = set()
        """Cables that are no longer to be read: their packs stay until another one sends frames."""
        self._gone: dict[str, state.Pack] = {}
        """What is known of those that have left."""
        self._news: set[str] = set()
        """Cables of packs whose frames were taken and are not announced yet."""
        self._sayer = Sayer(self.bank, self.items, self.identity)
        self._write_said = False
        self._touched: Iterable[str] | None = ()
        """The packs that a write changed; None: all."""
        self._ready = asyncio.Event()
        self._keeper = state.Keeper(state_file)
        saved = self._keeper.saved
        self.bank.wishes = saved.wishes
        self.identity.custom_name = saved.name
        self.presence.instance = saved.instance
        if saved.instance is not None:
            self.identity.instance = saved.instance
        self._runtime = runtime
        self._starts = Starts(runtime) if runtime else None
        self._recent = capture.Recent() if runtime else None
        self._capture_wanted = asyncio.Event()
        self._wished = asyncio.Event()
        self._ended = asyncio.Event()
        self._broken: BaseException | None = None
        self._clock = time.monotonic
        self._announce()
        self._accept_writes()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; raises what the first task that ends unasked raised."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        loop.set_exception_handler(self._failed)
        watchdog.start()
        log.info("dbus-smartbms %s", __version__)
        for problem in self.identity.problems:
            log.error("configuration: %s", problem)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if self._starts is not None:
            self._starts.begin(self._clock())
            self._count_restarts(self._starts)
            loop.add_signal_handler(signal.SIGUSR1, self._capture_wanted.set)
        ending = asyncio.create_task(self._ended.wait(), name="signals")
        tasks = {
            asyncio.create_task(self._link.run(), name="link"),
            asyncio.create_task(self._serve(), name="bus"),
            asyncio.create_task(self._tick(), name="tick"),
            asyncio.create_task(self._keep(), name="state"),
        }
        if self._runtime is not None:
            file = self._runtime / "capture.jsonl"
            tasks.add(asyncio.create_task(self._capture(file), name="capture"))
        try:
            done, _ = await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ending}:
                task.result()
                raise RuntimeError(f"the {task.get_name()} task ended")
            if self._broken is not None:
                raise self._broken
        finally:
            for task in (ending, *tasks):
                task.cancel()
            await asyncio.gather(ending, *tasks, return_exceptions=True)
            # The battery goes last and comes first: without it a pack might be taken for it.
            await asyncio.gather(*map(self._hide_pack, [*self._shown]))
            await self.presence.leave()
            self._keeper.write(self._worth_keeping())
            watchdog.stop()
        if self._starts is not None:
            self._starts.end()
        log.info("ended")

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error in a callback ends the process: going on would freeze what is on the bus."""
        if "handle" in context:
            self._broken = context.get("exception")
            self._ended.set()
        loop.default_exception_handler(context)

    def _hang_up(self) -> None:
        """SIGHUP: take a changed configuration; one with a mistake leaves the old one in force."""
        new = self._read_again()
        # What would be used instead is not: the one in force stays.
        problems = (problem.partition("; ")[0] for problem in new.problems)
        self.identity.problems = tuple(
            f"{problem}; the configuration stays as it was" for problem in problems
        )
        for problem in self.identity.problems:
            log.error("configuration: %s", problem)
        if not new.problems:
            log.info("the configuration was read again")
            devices, self.bank.configuration = self.bank.settings.devices, new
            self._link.choose(new.settings.devices)
            if new.settings.devices != devices:
                self._leaving = {name for name in self.bank.packs if not self._is_named(name)}
            self.bank.look_again(self._clock())
            logging.getLogger().setLevel(new.settings.level.upper())
        self._announce()
        self._show_packs()

    def _count_restarts(self, starts: Starts) -> None:
        """After too many restarts go on carefully, until the driver has run calmly."""
        careful = starts.too_many
        if careful == self.bank.restarted:
            return
        self.bank.restarted = careful
        self.identity.restarts = ""
        if careful:
            self.identity.restarts = (
                f"The driver was restarted {RESTARTS} times within {WINDOW_S / 60:.0f} minutes: "
                f"CCL and DCL are at most {CAREFUL_RATE} C until it has run for {CALM_S / 60:.0f} minutes"
            )
            log.warning("%s", self.identity.restarts)
        else:
            log.info("the driver has run for %.0f minutes: CCL and DCL rise again slowly", CALM_S / 60)
        self.bank.look_again(self._clock())
        self._announce()

    def _is_named(self, name: str) -> bool:
        """Whether the cable of a pack is one of those that are to be read, plugged in or not."""
        words = split(self.bank.settings.devices)
        return AUTO in words or name.partition("@")[0] in words or self._devices[name] in words

    # The way of a byte

    def _opened(self, cable: Cable) -> None:
        """A cable is read; its pack counts from its frames on."""
        name = cable.identity
        if name not in self.bank.packs:
            pack, known = self.bank.pack(name), self._worth_keeping().packs.get(name)
            pack.restore(known and known.counted, known and known.stage)
            pack.name = known.name if known else ""
            instance = known.instance if known else None
            self.identities[name] = Identity(
                serial=name,
                instance=self._free_instance(name) if instance is None else instance,
                custom_name=pack.name,
            )
            own = self.bank.configuration.packs
            if own and name not in own:
                log.warning(
                    "the configuration has a section for %s, but none for this cable, %s",
                    ", ".join(own), name,
                )  # fmt: skip
            if self.bank.limits is None:
                self.presence.remember()
        self._leaving.discard(name)
        self._devices[name] = cable.device
        self.identities[name].connection = f"Serial {cable.device.removeprefix('/dev/')}"

    def _free_instance(self, cable: str) -> int:
        """A device instance that no service of ours has, or had; the same whoever comes first."""
        taken = {pack.instance for pack in self._keeper.saved.packs.values()}
        taken |= {identity.instance for identity in (self.identity, *self.identities.values())}
        number = FIRST_INSTANCE + int.from_bytes(cable.encode(), "big") % INSTANCES
        while number in taken:
            number += 1
        return number

    def _received(self, cable: Cable, data: bytes, idle: bool) -> None:
        now, name = self._clock(), cable.identity
        if self._recent is not None:
            self._recent.add(name, data, now)
        pack = self.bank.pack(name)
        for frame in pack.feed(data, idle=idle):
            self.bank.take(name, frame, now)
            if len(self.bank.packs) == 1:
                self._announce([name])
            else:
                self._announce_soon(name)
            if pack.readings.confirmed and not self._ready.is_set():
                self._get_ready()
            if self._leaving and pack.readings.confirmed and name not in self._leaving:
                self._forget()

    def _get_ready(self) -> None:
        """The name waits for all packs that are there, but not for long: currents are judged by them all."""
        if all(pack.readings.confirmed for pack in self.bank.packs.values()):
            self._ready.set()
        else:
            asyncio.get_running_loop().call_later(ALL_S, self._ready.set)

    def _forget(self) -> None:
        """The packs whose cables are no longer to be read leave."""
        self._gone = dict(self._worth_keeping().packs)
        for cable in self._leaving:
            self.bank.forget(cable)
        self._leaving = set()
        self.bank.look_again(self._clock())
        self._announce()

    def _announce_soon(self, cable: str) -> None:
        """Frames of several packs that are there at the same time are announced together."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._announce_news)
        self._news.add(cable)

    def _announce_news(self) -> None:
        news = [*self._news]
        self._news.clear()
        self._announce(news)

    def _announce(self, cables: Iterable[str] | None = None) -> None:
        """Tell of what changed: of the battery first, then of the packs that are shown."""
        changed, of_packs = self.items.update(
            self.bank, self.identity, self.identities, self._clock(), cables, self._shown
        )
        self.presence.announce(changed)
        for cable, items in of_packs.items():
            self._shown[cable][0].announce(items)
        self._sayer.say(self._clock())
        confirmed = {cable for cable, pack in self.bank.packs.items() if pack.readings.confirmed}
        if not self.presence.service.owned and not self._shown:
            return
        if confirmed != self._confirmed:
            self._confirmed = confirmed
            self._show_packs()

    def _written(self) -> None:
        """A client wrote something: announced before its answer, logged once a second at most."""
        touched, self._touched = self._touched, ()
        self._announce(touched)
        if not self._write_said:
            self._write_said = True
            self._sayer.say_wishes()
            asyncio.get_running_loop().call_later(WRITTEN_S, self._say_later)

    def _say_later(self) -> None:
        self._write_said = False
        self._sayer.say_wishes()

    async def _tick(self) -> None:
        """What has to happen without frames, once a second.

        A late tick means that the process stood still: the bytes that waited meanwhile come first.
        """
        while True:
            watchdog.pat()
            before = self._clock()
            await asyncio.sleep(TICK_S)
            if self._clock() - before > 2 * TICK_S:
                await asyncio.sleep(CATCH_UP_S)
            now = self._clock()
            if self._starts is not None:
                self._starts.tick(now)
                self._count_restarts(self._starts)
            self._use.judge(self.identity, now)
            quiet = [cable for cable, pack in self.bank.packs.items() if pack.readings.age(now) >= TICK_S]
            if quiet:  # else frames have just done all this
                self.bank.tick(now)
                self._announce(quiet)

    async def _keep(self) -> None:
        """Write down, now and then, what has to outlive this process; in a thread, for flash may be slow."""
        pause, kept = WISH_S[0], True
        while True:
            try:
                async with asyncio.timeout(STATE_S if kept else AGAIN_S):
                    await self._wished.wait()
            except TimeoutError:
                pause = WISH_S[0]
            self._wished.clear()
            with contextlib.suppress(RuntimeError):  # no thread to be had: the next time
                kept = await asyncio.to_thread(self._keeper.write, self._worth_keeping())
            await asyncio.sleep(pause)
            pause = min(2 * pause, WISH_S[1])

    async def _capture(self, file: Path) -> None:
        """At SIGUSR1 write down the last minute of all cables, in a thread as well."""
        while True:
            await self._capture_wanted.wait()
            self._capture_wanted.clear()
            now = self._clock()
            cables = self._recent.pieces(now) if self._recent else {}
            try:
                await asyncio.to_thread(capture.write, file, cables, now)
            except (OSError, RuntimeError) as error:
                log.warning("the capture %s cannot be written: %s", file, error)
            else:
                who = ", ".join(f"{number} is {cable}" for number, cable in enumerate(cables))
                log.log(
                    logging.INFO if cables else logging.DEBUG,  # an empty capture is no news
                    "the last %.0f s of %d cables are in %s%s",
                    capture.RECENT_S, len(cables), file, f' ("bms" {who})' if who else "",
                )  # fmt: skip
            await asyncio.sleep(CAPTURE_PAUSE_S)

    def _worth_keeping(self) -> state.Saved:
        """What a later run begins with: of packs that were seen earlier, too."""
        packs = {**self._keeper.saved.packs, **self._gone}
        for cable, pack in self.bank.packs.items():
            if pack.counted is not None:
                instance = self.identities[cable].instance if cable in self._shown else None
                instance = packs[cable].instance if instance is None and cable in packs else instance
                packs[cable] = state.Pack(pack.counted, pack.stage, pack.name, instance)
        return state.Saved(packs, self.bank.wishes, self.identity.custom_name, self.presence.instance)

    # The bus

    async def _serve(self) -> None:
        """Be on the bus once there is something to show."""
        await self._ready.wait()
        self._sayer.know_wishes()
        await self.presence.run()

    async def _watch_system(self) -> None:
        await self._use.watch(self.presence.service, self.identity)

    def _show_packs(self) -> None:
        """Give each pack that sends frames a service of its own, if they are to have one."""
        known = [cable for cable, pack in self.bank.packs.items() if pack.readings.confirmed]
        wanted = {"always": True, "never": False}.get(self.bank.settings.show_packs, len(known) > 1)
        for cable in known if wanted else ():
            if cable not in self._shown:
                self._show_pack(cable)
        for cable in [cable for cable in self._shown if not wanted or cable not in known]:
            asyncio.get_running_loop().create_task(self._hide_pack(cable)).add_done_callback(self._done)

    def _show_pack(self, cable: str) -> None:
        items, identity = self.items.packs[cable], self.identities[cable]
        name, number = device_id(cable), 1
        while f"{BATTERY}.{name}" in {presence.service.name for presence, _ in self._shown.values()}:
            number += 1
            name = f"{device_id(cable)}_{number}"
        kept = Kept("CustomName", lambda: identity.custom_name, lambda text: items.write("/CustomName", text))
        presence = Presence(
            f"{BATTERY}.{name}", name, items, identity, (kept,), self._changed, self._written,
        )  # fmt: skip
        presence.level = logging.DEBUG  # the battery's says it
        known = self._keeper.saved.packs.get(cable)
        presence.instance = known.instance if known else None
        items.show((), {})  # every path is there before its name
        items.items["/CustomName"].write = lambda text: self._write_pack_name(cable, text)
        items.items["/History/Clear"].write = lambda value: self._clear(self.bank.packs.get(cable), value)
        items.items["/Battery/Request/Id"].write = lambda value: value == 1
        task = asyncio.get_running_loop().create_task(presence.run(), name=f"bus {name}")
        task.add_done_callback(self._done)
        self._shown[cable] = presence, task

    async def _hide_pack(self, cable: str) -> None:
        presence, task = self._shown.pop(cable, (None, None))
        if presence is None or task is None:
            return
        await presence.leave()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        """A task has ended: an error in it ends the process."""
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()
            self._ended.set()

    # What may be written, and what localsettings keeps of it

    def _lasting(self) -> tuple[Kept, ...]:
        """What localsettings keeps of the bank: valid as when written over the bus; -1 A is no wish."""
        write = self.items.write
        return (
            Kept("CustomName", lambda: self.identity.custom_name, lambda name: write("/CustomName", name)),
            Kept("MaxChargeCurrent", lambda: self._wish(0), lambda amps: self._take_wish(0, amps)),
            Kept("MaxDischargeCurrent", lambda: self._wish(1), lambda amps: self._take_wish(1, amps)),
            Kept(
                "ChargeToFull", lambda: int(self.bank.charges_to_full), lambda on: write(CHARGE_TO_FULL, on)
            ),
        )

    def _changed(self) -> None:
        """Something is now what localsettings has."""
        self._wished.set()
        self._written()

    def _accept_writes(self) -> None:
        items = self.items.items
        items["/CustomName"].write = self._write_name
        items["/Battery/Request/Id"].write = self._write_request
        items["/History/Clear"].write = lambda value: self._clear(self.bank, value)
        for path in (MAX_CHARGE_CURRENT, MAX_DISCHARGE_CURRENT):
            items[path].always = True  # what is shown may be the configured cap, under the wish
        items[CHARGE_TO_FULL].write = self._write_charge_to_full
        items[MAX_CHARGE_CURRENT].write = lambda amps: self._write_wish(0, amps)
        items[MAX_DISCHARGE_CURRENT].write = lambda amps: self._write_wish(1, amps)

    def _write_name(self, name: str) -> bool:
        if not _is_name(name):
            return False
        self.identity.custom_name = name
        self._wished.set()
        return True

    def _write_pack_name(self, cable: str, name: str) -> bool:
        pack = self.bank.packs.get(cable)  # it may be leaving
        if pack is None or not _is_name(name):
            return False
        pack.name = self.identities[cable].custom_name = name
        self._touched = [cable]
        self.bank.look_again(self._clock())
        self._wished.set()
        return True

    def _write_request(self, number: int) -> bool:
        """Which battery gui-v2 shows: one that there is."""
        there = 1 <= number <= len(self.items.packs)
        if there:
            self.identity.shown = number
        return there

    def _clear(self, what: Bank | Pack | None, value: int) -> bool:
        if value != 1 or what is None:
            return False
        what.clear_history()
        self._touched = None
        return True

    def _write_charge_to_full(self, value: int) -> bool:
        if value not in (0, 1):
            return False
        self.bank.charge_to_full(on=bool(value))
        self._wished.set()
        return True

    def _write_wish(self, direction: int, amps: float) -> bool:
        """A current from 0 to what is configured; that itself, in the control's whole A, is no wish."""
        most = self.bank.caps[direction].amount // 100 / 10
        if not 0 <= amps <= math.ceil(most):
            return False
        self._wish_for(direction, None if amps >= int(most) else amps)
        return True

    def _wish_for(self, direction: int, amps: float | None) -> None:
        wishes = list(self.bank.wishes)
        wishes[direction] = amps
        self.bank.wishes = Wishes(*wishes)
        self._wished.set()

    def _wish(self, direction: int) -> float:
        amps = self.bank.wishes[direction]
        return -1.0 if amps is None else float(amps)

    def _take_wish(self, direction: int, amps: object) -> None:
        if amps == -1:
            self._wish_for(direction, None)
        else:
            self.items.write((MAX_CHARGE_CURRENT, MAX_DISCHARGE_CURRENT)[direction], amps)


def _is_name(name: str) -> bool:
    return len(name) <= LONGEST_NAME and name.isprintable()
