"""Whether the GX follows our limits: DVCC is on, and ours is the BMS that it chose."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from .bus import BUS_ITEM, BusError, Connection
from .views import Identity

log = logging.getLogger(__name__)

SYSTEM = "com.victronenergy.system"
DVCC, ACTIVE_BMS = "/Control/Dvcc", "/ActiveBmsService"
SETTLE_S = 5.0
"""How long what the GX does with our limits has to stand before it is said: at a start it
changes its mind several times."""


class Use:
    """What ``com.victronenergy.system`` says of it, judged once it has stood for ``SETTLE_S``."""

    def __init__(self, name: str) -> None:
        """``name``: of our service."""
        self.values: dict[str, object] = {}
        self._name = name
        self._seen: tuple[bool | None, str | None] = (None, None)
        self._since = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def watch(self, connection: Connection, identity: Identity) -> None:
        """Learn it for as long as the connection lasts; nothing of the battery waits for this."""

        def changed(path: str, entry: dict[str, object]) -> None:
            if path in (DVCC, ACTIVE_BMS):
                self.values[path] = entry.get("Value")
            elif not path:
                self.values.clear()
                self._reading = asyncio.create_task(self._read(connection))

        try:
            with contextlib.suppress(BusError):
                await connection.watch(SYSTEM, changed)
                await self._read(connection)
            await connection.closed()
        finally:
            self.values.clear()
            identity.in_use, identity.in_use_text = None, None

    async def _read(self, connection: Connection) -> None:
        for path in (DVCC, ACTIVE_BMS):
            try:
                self.values[path] = await connection.call(SYSTEM, path, BUS_ITEM, "GetValue")
            except BusError:
                self.values.pop(path, None)

    def judge(self, identity: Identity, now: float) -> None:
        """Say and show what has stood for long enough."""
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
        return judge(self._name, self.values[DVCC], self.values[ACTIVE_BMS])


def judge(name: str, dvcc: object, bms: object) -> tuple[bool | None, str | None]:
    """Whether the GX follows the limits of service ``name``, in words too; None where it does not say."""
    if dvcc is None:
        return None, None
    if not dvcc:
        return False, "DVCC is off: the GX does not follow our limits (Settings, DVCC)"
    if bms != name:
        return False, f"the GX follows another BMS: {bms or 'none'} (Settings, DVCC, Controlling BMS)"
    return True, "the GX follows our limits"
