"""A service's presence on the bus, for as long as the driver runs: connection, name, instance.

And what localsettings keeps of it, as rows: where localsettings is, each is the same there and here.  The
bus may come and go, and localsettings too; no limit waits for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from .bus import SETTINGS, BusError, Service
from .items import Item, Items
from .state import MOST_INSTANCE
from .views import Identity

log = logging.getLogger(__name__)

AGAIN_S = 10.0
"""Before one that did not answer is asked again."""
INSTANCE_S = 2.0
"""The name waits so long for localsettings; then the instance is what it was the last time."""
TELL_S = 1.0, 60.0
"""What changes is told to localsettings at once, the next after 1 s, then 2 s, ... up to a minute."""
RETRY_S = 1.0
"""Pause before the bus is tried again: it is back well within 5 s."""
LONGEST_ID = 100
"""Characters of a serial number in a bus name, of which there may be 255."""
LEAVE_S = 1.0
"""A parting takes so long at most; half of it may go into telling localsettings what it does not know."""


def device_id(serial: str) -> str:
    """What a pack is called in localsettings and in its bus name: neither holds more than words."""
    return "smartbms_" + re.sub("[^A-Za-z0-9_]", "_", serial)[:LONGEST_ID]


class Kept(NamedTuple):
    """A setting below ``/Settings/Devices/<id>/``; its type is that of what ``give`` returns."""

    key: str
    give: Callable[[], str | int | float]
    """What we have."""
    take: Callable[[Any], object]
    """Have this instead: anything that came over the bus; what is not valid changes nothing."""


class Presence:
    """One service: on the bus whenever the bus is there, while ``run`` runs."""

    def __init__(
        self,
        name: str,
        settings_id: str,
        items: Items,
        identity: Identity,
        kept: Sequence[Kept],
        changed: Callable[[], None],
        written: Callable[[], None],
        meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """``settings_id``: of the device, in localsettings; ``kept``: what it keeps beside the instance.

        ``changed`` is called when something is now what localsettings has, ``written`` after a client's
        write; both announce what follows from it.  ``meanwhile`` is run once the name is ours, and
        cancelled with the connection.
        """
        self.level = logging.WARNING
        """Of what is said of the bus itself."""
        self.service = Service(name, items, written)
        self.instance: int | None = None
        """What localsettings keeps, as far as is known: an earlier run may have known it."""
        self._identity = identity
        self._changed = changed
        self._meanwhile = meanwhile
        self._serving: asyncio.Task[None] | None = None
        self._said: str | None = None
        self._said_refused: set[str] = set()
        self._moved = asyncio.Event()
        self._folder = f"/Settings/Devices/{settings_id}"
        instance = Kept("ClassAndVrmInstance", self._give_instance, self._take_instance)
        self._rows = {f"{self._folder}/{row.key}": row for row in (instance, *kept)}
        self._known: dict[str, str | int | float | None] = {}
        """What we had when it and localsettings agreed; None: it is to be told in any case."""
        self._there: set[str] = set()
        """What is known to be in localsettings, of this connection's."""
        self._heard: dict[str, Any] = {}
        """What localsettings said of its own since it was asked or told last."""
        self._asked = asyncio.Event()
        """It has answered, on this connection, or failed to."""
        self._came = asyncio.Event()
        """It came or went."""
        self._wake = asyncio.Event()

    def remember(self) -> None:
        """What there is now an earlier run left behind: what localsettings keeps is newer.

        Else that is so of what there is when ``run`` is first called.
        """
        self._known = {path: row.give() for path, row in self._rows.items()}

    def announce(self, changed: Mapping[str, Item]) -> None:
        """Announce items; what localsettings keeps of it is told there too, and nobody waits for that."""
        self.service.announce(changed)
        if not self._wake.is_set() and any(map(self._differs, self._rows)):
            self._wake.set()

    async def run(self) -> None:
        """Be on the bus whenever it is there, until cancelled or until ``leave``; may be run again then."""
        for path, row in self._rows.items():
            self._known.setdefault(path, row.give())
        self._serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait({self._serving})
            if not self._serving.cancelled():
                self._serving.result()
        finally:
            self._serving.cancel()

    async def leave(self) -> None:
        """Release the name, end the connection and ``run``: within ``LEAVE_S``, whatever the bus does."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_S / 2):
                        await self._tell()
                await self.service.leave()
        self.service.owned = False
        self.service.disconnect()

    async def _serve(self) -> None:
        while True:
            tasks: set[asyncio.Task[None]] = set()
            try:
                await self.service.connect()
                tasks.add(await self._begin_keeping())
                await self._recall_instance()
                if await self.service.take_name():
                    log.info("on the bus as %s, instance %d", self.service.name, self._identity.instance)
                    self._said = None
                    tasks.add(asyncio.create_task(self._follow_instance()))
                    if self._meanwhile is not None:
                        tasks.add(asyncio.create_task(self._meanwhile()))
                    await self._stay(tasks)
                    log.log(self.level, "the bus is gone")
                else:
                    self._say(f"{self.service.name} is taken: is another driver running?")
            except BusError as error:
                self._say(f"no bus ({error}); it is tried again every second")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            self.service.owned = False
            self.service.disconnect()
            await asyncio.sleep(RETRY_S)

    async def _stay(self, tasks: set[asyncio.Task[None]]) -> None:
        """Until the connection ends; an error of ours in what is done meanwhile is raised."""
        closed = asyncio.create_task(self.service.closed())
        tasks.add(closed)
        running = tasks
        while not closed.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.log(self.level, "%s", text)

    # What localsettings keeps

    def _differs(self, path: str) -> bool:
        """Whether ours was changed since it and localsettings agreed."""
        return self._rows[path].give() != self._known.get(path)

    async def _begin_keeping(self) -> asyncio.Task[None]:
        self._there.clear()
        self._asked.clear()
        with contextlib.suppress(BusError):
            await self.service.watch(SETTINGS, self._settings_changed, self._folder)
        return asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Ask for what is not known and tell what differs, as often as that may be."""
        pause = TELL_S[0]
        while True:
            self._came.clear()
            self._wake.clear()
            known = await self._ask()
            self._asked.set()
            told = await self._tell()
            await _wait(self._came, pause if known and told else AGAIN_S)
            again = self._wake.is_set() and not self._came.is_set()
            pause = min(2 * pause, TELL_S[1]) if again else TELL_S[0]
            if known and told:
                await self._wake.wait()

    async def _ask(self) -> bool:
        """Ask for the settings of which that was not done; whether all are known now."""
        defaults = {path: row.give() for path, row in self._rows.items() if path not in self._there}
        for path in defaults:
            self._heard.pop(path, None)
        try:
            kept = await self.service.add_settings(defaults) if defaults else {}
        except BusError:  # it is not there, and will say when it is; or it hangs
            return False
        if self._came.is_set():
            return False  # who answered is gone
        for path in defaults.keys() & kept.keys():
            self._there.add(path)
            if path not in self._heard:  # else a change came after the answer, and was heard before it
                self._found(path, kept[path])
        took = [self._took(path, there=path in kept) for path in defaults]
        return all(took)

    async def _tell(self) -> bool:
        """Write to localsettings what differs; whether it took everything."""
        told = [await self._write(path) for path in self._rows if path in self._there and self._differs(path)]
        return all(told)

    async def _write(self, path: str) -> bool:
        value = self._rows[path].give()
        self._known[path] = None  # also if it fails: it may still arrive
        self._heard.pop(path, None)
        try:
            taken = await self.service.set_setting(path, value)
        except BusError:
            self._there.discard(path)
            return False
        if not self._took(path, there=taken):
            return False
        self._known[path] = value
        if path in self._heard:  # ours, or what came after it
            self._found(path, self._heard[path])
        return True

    def _took(self, path: str, *, there: bool) -> bool:
        """Whether localsettings took a setting; that it did not is said once."""
        if not there and path not in self._said_refused:
            self._said_refused.add(path)
            log.warning("localsettings refuses %s", path)
        return there

    def _settings_changed(self, path: str, entry: dict[str, object]) -> None:
        if not path:
            self._there.clear()
            self._came.set()
            self._wake.set()
        elif path in self._rows:
            self._heard[path] = entry.get("Value")
            self._found(path, entry.get("Value"))

    def _found(self, path: str, value: object) -> None:
        """What localsettings keeps counts, unless ours was changed and could not be told: that goes there."""
        if self._differs(path):
            return
        row = self._rows[path]
        ours = row.give()
        row.take(value)
        self._known[path] = row.give()
        if row.give() != ours:
            self._changed()

    # The instance

    async def _recall_instance(self) -> None:
        """The instance that localsettings keeps, where it is; a limit does not wait for it for long."""
        await _wait(self._asked, INSTANCE_S)
        self._moved.clear()
        if self.instance is not None and self.instance != self._identity.instance:
            self._identity.instance = self.instance
            self._changed()

    def _give_instance(self) -> str:
        return f"battery:{self._identity.instance if self.instance is None else self.instance}"

    def _take_instance(self, value: object) -> None:
        """Another number than before is one that somebody wants, or the next that is free."""
        match = re.fullmatch(r"battery:(\d{1,5})", value) if isinstance(value, str) else None
        if match and int(match[1]) <= MOST_INSTANCE:
            self.instance = int(match[1])
            self._moved.set()

    async def _follow_instance(self) -> None:
        """Take another instance: clients look at it only when the name appears."""
        try:
            while True:
                await self._moved.wait()
                self._moved.clear()
                if self.instance is None or self.instance == self._identity.instance:
                    continue
                await self.service.hide()
                self._identity.instance = self.instance
                self._changed()
                if not await self.service.take_name():
                    raise BusError("the name was taken meanwhile")
                log.info("instance %d now, as the settings have it", self._identity.instance)
        except BusError as error:
            log.warning("the instance cannot be changed (%s); connecting anew", error)
            self.service.disconnect()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until it is set, but no longer than this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
