"""The process: cables in, a battery service out.  Thin, owns every task, fails loudly.

Everything that decides anything is pure and lives in ``bank``; here are the clock, the serial
line, the bus, the signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__, state, watchdog
from .bank import Bank
from .bus import BUS_ITEM, SETTINGS, BusError, Service
from .configuration import Configuration
from .items import Items
from .link import Cable, Link
from .paths import (
    CHARGE_TO_FULL,
    MAX_CHARGE_CURRENT,
    MAX_DISCHARGE_CURRENT,
    Identity,
    View,
)
from .rules import Wishes
from .state import LONGEST_NAME, MOST_INSTANCE

log = logging.getLogger(__name__)
_NUMBER = re.compile(r"\d+(\.\d+)?")

SERVICE = "com.victronenergy.battery.smartbms"
SYSTEM = "com.victronenergy.system"
INSTANCE = "/Settings/Devices/smartbms/ClassAndVrmInstance"
"""Where localsettings keeps the device instance, as ``battery:<number>``."""
AGAIN_S = 10.0
"""Before one that did not answer is asked again."""
INSTANCE_S = 2.0
"""The name waits so long for localsettings; then the instance is what it was the last time."""
DVCC, ACTIVE_BMS = "/Control/Dvcc", "/ActiveBmsService"
TICK_S = 1.0
CATCH_UP_S = 0.1
"""For reading what waited while the process stood still: some 20 frames at the least."""
RETRY_S = 1.0
"""Pause before the bus is tried again: it is back well within 5 s."""
STATE_S = 900.0
"""Between two writings of the state file: flash wears out."""
WISH_S = 1.0, 60.0
"""What is set over the bus is written at once, the next after 1 s, then 2 s, ... up to a minute."""
WRITTEN_S = 1.0
"""Between two lines of the log on what is set over the bus: a client may send a thousand."""
COARSE_S = 3600.0
"""Passing time alone is worth a writing only so often."""
SAY_S = 60.0
"""A change of nothing but reasons is logged so often at most."""
SETTLE_S = 5.0
"""How long what the GX does with our limits has to stand before it is said: at a start it
changes its mind several times."""


class Driver:
    """One pack on one bus."""

    def __init__(
        self,
        configuration: Configuration,
        state_file: Path | None = None,
        read_again: Callable[[], Configuration] | None = None,
    ) -> None:
        """``read_again`` reads the configuration anew, at SIGHUP."""
        self.configuration = configuration
        self._read_again = read_again or (lambda: configuration)
        self.bank = Bank(configuration.settings)
        self._link = Link(configuration.settings.devices, self._read, self._opened)
        self.identity = Identity(problems=tuple(configuration.problems))
        self.items = Items()
        self.service = Service(SERVICE, self.items, self._written)
        self._write_said = False
        self._said: tuple[object, ...] = ()
        self._said_why: tuple[str, ...] = ()
        self._said_at = 0.0
        self._said_wished: tuple[object, ...] = ()
        self._disagreement: str | None = None
        self._ready = asyncio.Event()
        self._use = _Use()
        self._kept = _Kept(state_file)
        self.bank.wishes = self._kept.saved.wishes
        self.identity.custom_name = self._kept.saved.name
        self._instance = self._kept.saved.instance
        """What localsettings keeps, as far as is known."""
        if self._instance is not None:
            self.identity.instance = self._instance
        self._instance_told = 0
        """How often it said that it had changed."""
        self._moved = asyncio.Event()
        self._packs: dict[str, state.Pack] = {}
        """What is known of packs that were here before."""
        self._arriving: tuple[Bank, Cable] | None = None
        """Another pack, until its first frame."""
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
        ending = asyncio.create_task(self._ended.wait(), name="signals")
        tasks = {
            asyncio.create_task(self._link.run(), name="link"),
            asyncio.create_task(self._serve(), name="bus"),
            asyncio.create_task(self._tick(), name="tick"),
            asyncio.create_task(self._keep(), name="state"),
        }
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
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.service.leave(), 1.0)
            self._kept.write(self._worth_keeping())
            watchdog.stop()
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
            self.configuration = new
            self.bank.settings = new.of(self.identity.serial)
            self._link.choose(new.settings.devices)
            logging.getLogger().setLevel(new.settings.level.upper())
        self._announce()

    # The way of a byte

    def _opened(self, cable: Cable) -> None:
        """A cable is read; another than before may be another pack, which counts from its first frame on."""
        self._arriving = None
        if cable.identity == self.identity.serial:
            self._connected(cable)
            return
        known = self._worth_keeping().packs.get(cable.identity)
        bank = Bank(self.configuration.of(cable.identity))
        bank.restore(known and known.counted, known and known.stage)
        if self.configuration.packs and cable.identity not in self.configuration.packs:
            log.warning(
                "the configuration has a section for %s, but none for this cable, %s",
                ", ".join(self.configuration.packs), cable.identity,
            )  # fmt: skip
        self._arriving = bank, cable
        if self.bank.limits is None:
            self._arrive(bank, cable)

    def _arrive(self, bank: Bank, cable: Cable) -> None:
        self._packs = dict(self._worth_keeping().packs)  # with the newest of the pack that goes
        bank.wishes, bank.settings = self.bank.wishes, self.configuration.of(cable.identity)
        self.bank, self._arriving = bank, None
        self.items.forget_cells()
        self._connected(cable)

    def _connected(self, cable: Cable) -> None:
        self.identity.connection = f"Serial {cable.device.removeprefix('/dev/')}"
        self.identity.serial = cable.identity

    def _read(self, cable: Cable, data: bytes, idle: bool) -> None:
        if cable.identity == (self._arriving[1].identity if self._arriving else self.identity.serial):
            self._received(data, idle)  # one pack: that of the cable opened last

    def _received(self, data: bytes, idle: bool) -> None:
        now = self._clock()
        bank = self._arriving[0] if self._arriving else self.bank
        for frame in bank.feed(data, idle=idle):
            bank.take(frame, now)
            if self._arriving:
                self._arrive(*self._arriving)
            self._announce()
            if bank.pack.confirmed:
                self._ready.set()

    def _announce(self) -> None:
        self.service.announce(self.items.update(View(self.bank, self.identity, self._clock())))
        self._say()

    def _written(self) -> None:
        """A client wrote something: announced before its answer, logged once a second at most."""
        self._announce()
        if not self._write_said:
            self._write_said = True
            self._say_wishes()
            asyncio.get_running_loop().call_later(WRITTEN_S, self._say_later)

    def _say_later(self) -> None:
        self._write_said = False
        self._say_wishes()

    def _say_wishes(self) -> None:
        wished = (*self.bank.wishes, self.bank.stage.asked_s is not None, self.identity.custom_name)
        if wished != self._said_wished:
            self._said_wished = wished
            log.info("set over the bus: CCL at most %s, DCL at most %s, charge to full %s, name %r", *wished)

    def _say(self) -> None:
        """One line when something changed that a person would want to read; nothing per frame."""
        limits, levels = self.bank.limits, self.bank.alarms.levels
        if limits is None:
            return
        if limits.lost:
            self._disagreement = None  # nothing is compared, and nothing agrees
        elif self.bank.agreement.text != self._disagreement:
            self._disagreement = self.bank.agreement.text
            log.warning("%s", self._disagreement or "the BMS and the manual's tables agree again")
        raised = tuple(f"{path} {level}" for path, level in levels.items() if level)
        now = (limits.allow_charge, limits.allow_discharge, limits.state, limits.lost, raised, limits.wrong)
        reasons = (limits.cvl_reason, limits.ccl_reason, limits.dcl_reason)
        why = tuple(_NUMBER.sub("", reason) for reason in reasons)
        if now != self._said or (why != self._said_why and self._clock() - self._said_at >= SAY_S):
            self._said, self._said_why, self._said_at = now, why, self._clock()
            log.info(
                "%s: CVL %.2f V (%s), CCL %.1f A (%s), DCL %.1f A (%s)%s",
                limits.state,
                limits.cvl_mv / 1000, limits.cvl_reason,
                limits.ccl_ma / 1000, limits.ccl_reason,
                limits.dcl_ma / 1000, limits.dcl_reason,
                "".join((
                    "; alarms: " + ", ".join(raised) if raised else "",
                    "; settings of the BMS: " + limits.wrong if limits.wrong else "",
                )),
            )  # fmt: skip

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
            self._use.judge(self.identity, now)
            if self.bank.pack.age(now) >= TICK_S:  # else a frame has just done all this
                self.bank.tick(now)
                self._announce()

    async def _keep(self) -> None:
        """Write down, now and then, what has to outlive this process; in a thread, for flash may be slow."""
        pause = WISH_S[0]
        while True:
            try:
                await asyncio.wait_for(self._wished.wait(), STATE_S)
            except TimeoutError:
                pause = WISH_S[0]
            self._wished.clear()
            with contextlib.suppress(RuntimeError):  # no thread to be had: the next time
                await asyncio.to_thread(self._kept.write, self._worth_keeping())
            await asyncio.sleep(pause)
            pause = min(2 * pause, WISH_S[1])

    def _worth_keeping(self) -> state.Saved:
        """What a later run begins with: of packs that were seen earlier, too."""
        packs, counted = {**self._kept.saved.packs, **self._packs}, self.bank.counted
        if self.identity.serial is not None and counted is not None:
            packs[self.identity.serial] = state.Pack(counted, self.bank.stage)
        return state.Saved(packs, self.bank.wishes, self.identity.custom_name, self._instance)

    # The bus

    async def _serve(self) -> None:
        """Be on the bus whenever it is there and there is something to show."""
        await self._ready.wait()
        said: str | None = None
        while True:
            try:
                await self.service.connect()
                await self._recall_instance()
                if await self.service.take_name():
                    log.info("on the bus as %s, instance %d", SERVICE, self.identity.instance)
                    said = None
                    tasks = [
                        asyncio.create_task(self._watch_system()),
                        asyncio.create_task(self._follow_instance()),
                    ]
                    await self.service.closed()
                    for task in tasks:
                        task.cancel()
                    log.warning("the bus is gone")
                else:
                    said = _once(said, f"{SERVICE} is taken: is another driver running?")
            except BusError as error:
                said = _once(said, f"no bus ({error}); it is tried again every second")
            self.service.owned = False
            self.service.disconnect()
            self._use.forget(self.identity)
            await asyncio.sleep(RETRY_S)

    async def _recall_instance(self) -> None:
        """Ask localsettings, where it is, for the instance; a limit does not wait for it for long."""
        try:
            await self.service.watch(SETTINGS, self._settings_changed, INSTANCE)
            await asyncio.wait_for(self._read_instance(), INSTANCE_S)
        except TimeoutError:  # it hangs: the name does not wait, we do
            self._reading_instance = asyncio.create_task(self._read_again_instance())
        except BusError:
            pass
        self._moved.clear()
        if self._instance is not None and self._instance != self.identity.instance:
            self.identity.instance = self._instance
            self._announce()

    async def _read_instance(self) -> None:
        told = self._instance_told
        value = await self.service.add_setting(INSTANCE, f"battery:{self.identity.instance}")
        if told == self._instance_told:  # else a change came after the answer, and was heard before it
            self._keeps(value)

    def _settings_changed(self, path: str, entry: dict[str, object]) -> None:
        if path == INSTANCE:
            self._instance_told += 1
            self._keeps(entry.get("Value"))
        elif not path:
            self._reading_instance = asyncio.create_task(self._read_again_instance())

    async def _read_again_instance(self) -> None:
        while self.service.connected:
            try:
                await self._read_instance()
            except BusError:  # it went, and will say when it is there; or it hangs
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def _keeps(self, value: object) -> None:
        """What localsettings says it keeps; another number than before is one that somebody wants."""
        match = re.fullmatch(r"battery:(\d{1,5})", value) if isinstance(value, str) else None
        if match and int(match[1]) <= MOST_INSTANCE and int(match[1]) != self._instance:
            self._instance = int(match[1])
            self._moved.set()
            self._wished.set()

    async def _follow_instance(self) -> None:
        """Take another instance: clients look at it only when the name appears."""
        try:
            while True:
                await self._moved.wait()
                self._moved.clear()
                if self._instance is None or self._instance == self.identity.instance:
                    continue
                await self.service.hide()
                self.identity.instance = self._instance
                self._announce()
                if not await self.service.take_name():
                    raise BusError("the name was taken meanwhile")
                log.info("instance %d now, as the settings have it", self.identity.instance)
        except BusError as error:
            log.warning("the instance cannot be changed (%s); connecting anew", error)
            self.service.disconnect()

    async def _watch_system(self) -> None:
        """Learn whether the GX follows our limits: DVCC on, and ours the chosen BMS."""
        with contextlib.suppress(BusError):  # nothing of the pack waits for this
            await self.service.watch(SYSTEM, self._system_changed)
            await self._read_system()

    async def _read_system(self) -> None:
        for path in (DVCC, ACTIVE_BMS):
            try:
                self._use.values[path] = await self.service.call(SYSTEM, path, BUS_ITEM, "GetValue")
            except BusError:
                self._use.values.pop(path, None)

    def _system_changed(self, path: str, entry: dict[str, object]) -> None:
        if path in (DVCC, ACTIVE_BMS):
            self._use.values[path] = entry.get("Value")
        elif not path:
            self._use.values.clear()
            self._reading = asyncio.create_task(self._read_system())

    # What may be written

    def _accept_writes(self) -> None:
        self.items.items["/CustomName"].write = self._write_name
        self.items.items["/Battery/Request/Id"].write = lambda _value: False  # 1 is there, others are not
        self.items.items["/History/Clear"].write = self._write_clear
        for path in (MAX_CHARGE_CURRENT, MAX_DISCHARGE_CURRENT):
            self.items.items[path].always = True  # what is shown may be the configured cap, under the wish
        self.items.items[CHARGE_TO_FULL].write = self._write_charge_to_full
        self.items.items[MAX_CHARGE_CURRENT].write = lambda amps: self._write_wish(0, amps)
        self.items.items[MAX_DISCHARGE_CURRENT].write = lambda amps: self._write_wish(1, amps)

    def _write_name(self, name: str) -> bool:
        if len(name) > LONGEST_NAME or not name.isprintable():
            return False
        self.identity.custom_name = name
        self._wished.set()
        return True

    def _write_clear(self, value: int) -> bool:
        if value != 1:
            return False
        self.bank.clear_history()
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
        wishes = list(self.bank.wishes)
        wishes[direction] = None if amps >= int(most) else amps
        self.bank.wishes = Wishes(*wishes)
        self._wished.set()
        return True


class _Kept:
    """The state file, if there is one; what goes wrong with it is said once and stops nothing."""

    def __init__(self, path: Path | None) -> None:
        self.saved = state.Saved()
        self._path = path
        self._said: str | None = None
        self._lock = threading.Lock()
        try:
            self.saved = state.read(path) if path else self.saved
            if path:
                log.info("state: %d packs known from %s", len(self.saved.packs), path)
        except state.DamagedError as error:
            self.saved = error.saved
            log.warning("%s", error)

    def write(self, saved: state.Saved) -> None:
        if self._path is None or _coarse(saved) == _coarse(self.saved):
            return
        with self._lock:  # the last writing may come while a slow one is under way
            try:
                state.write(self._path, saved)
            except (OSError, ValueError) as error:
                self._said = _once(self._said, f"the state file {self._path} cannot be written: {error}")
            else:
                self.saved = saved
                self._said = None


def _coarse(saved: state.Saved) -> object:
    """What makes a writing worth while: all but the seconds of a charge's progress."""
    return saved[1:], {
        cable: (
            pack.counted,
            [int(part // COARSE_S) if isinstance(part, float) else part for part in pack.stage],
        )
        for cable, pack in saved.packs.items()
    }


class _Use:
    """Whether the GX follows our limits, judged once it has stood for ``SETTLE_S``."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self._seen: tuple[bool | None, str | None] = (None, None)
        self._since = 0.0

    def forget(self, identity: Identity) -> None:
        self.values.clear()
        identity.in_use, identity.in_use_text = None, None

    def judge(self, identity: Identity, now: float) -> None:
        seen = self._look()
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif seen != (identity.in_use, identity.in_use_text) and now - self._since >= SETTLE_S:
            identity.in_use, identity.in_use_text = seen
            if seen[1] is not None:
                log.warning("%s", seen[1]) if seen[0] is False else log.info("%s", seen[1])

    def _look(self) -> tuple[bool | None, str | None]:
        if DVCC not in self.values or ACTIVE_BMS not in self.values:
            return None, None
        if self.values[DVCC] is None:
            return None, None
        if not self.values[DVCC]:
            return False, "DVCC is off: the GX does not follow our limits (Settings, DVCC)"
        bms = self.values[ACTIVE_BMS]
        if bms != SERVICE:
            return False, f"the GX follows another BMS: {bms or 'none'} (Settings, DVCC, Controlling BMS)"
        return True, "the GX follows our limits"


def _once(said: str | None, text: str) -> str:
    if text != said:
        log.warning("%s", text)
    return text
