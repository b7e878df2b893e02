"""D-Bus: a service of Victron's BusItem dialect, and a client of it.

The only module that imports the D-Bus library: dbus-next, or its descendant dbus-fast when the
environment variable ``DBUS_SMARTBMS_LIBRARY`` says ``dbus_fast`` (the tests run with both).

The service answers BusItem calls itself, from the table of items, in a message handler: Victron's own
programs send calls without an interface header, and neither library routes those.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .items import Item, Items
from .views import Value

_library = importlib.import_module(os.environ.get("DBUS_SMARTBMS_LIBRARY", "dbus_next"))
_MessageBus = importlib.import_module(_library.__name__ + ".aio").MessageBus
_Message, _Variant, _Kind = _library.Message, _library.Variant, _library.MessageType
_NO_REPLY = _library.MessageFlag.NO_REPLY_EXPECTED

log = logging.getLogger(__name__)

BUS_ITEM = "com.victronenergy.BusItem"
SETTINGS, SETTINGS_API = "com.victronenergy.settings", "com.victronenergy.Settings"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_DAEMON = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_PEER = "org.freedesktop.DBus.Peer"
_ERROR = "org.freedesktop.DBus.Error."
UNKNOWN_OBJECT, UNKNOWN_METHOD, INVALID_ARGS = (
    _ERROR + "UnknownObject",
    _ERROR + "UnknownMethod",
    _ERROR + "InvalidArgs",
)
CONNECT_S = 5.0
"""A bus that does not finish the handshake in this time counts as not there."""
CALL_S = 5.0
MOST_UNSENT = 200
"""Messages that may wait to be sent: what changes then waits, too, each path once."""
STUCK_S = 10.0
"""A bus that has taken none of them for so long is given up."""


class BusError(Exception):
    """The bus cannot be reached, or a call on it failed; the text says why."""


class _Bus(_MessageBus):  # type: ignore[misc,valid-type]
    """The library's connection, without what in it would stop the driver."""

    async def _auth_readline(self) -> str:
        """dbus-next 0.2.3 spins here, and the event loop with it, once the daemon has hung up."""
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await self._loop.sock_recv(self._sock, 1)
            if not byte:
                raise ConnectionResetError("the bus hung up in the handshake")
            line += byte
        return line[:-2].decode()


class _Patient:
    """A socket to send with: where it would block it has sent nothing, where it is closed everything.

    Both libraries end the connection where a message meets a full socket, which a large GetItems
    asked for by several clients at once is enough for.  Of a closed one the reader tells.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def send(self, data: bytes) -> int:
        try:
            count: int = self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:  # gone, or (ENOBUFS) as good as full
            return len(data) if isinstance(error, ConnectionError) or self._socket.fileno() < 0 else 0
        return count


def _wrap(kind: str, value: Value) -> Any:
    """A value as D-Bus carries it; "no value" is an empty array of ints."""
    return _Variant("ai", []) if value is None else _Variant(kind, value)


def _setting(value: str | int | float) -> Any:
    """A value as localsettings wants it: it takes the setting's type from that of the default."""
    return _Variant({str: "s", int: "i", float: "d"}[type(value)], value)


def _unwrap(value: Any) -> Any:
    """The other way; arrays of bytes and the like stay lists, an empty array is None."""
    if isinstance(value, _Variant):
        return _unwrap(value.value)
    if isinstance(value, dict):
        return {key: _unwrap(entry) for key, entry in value.items()}
    if isinstance(value, (list, bytes)):
        return [_unwrap(entry) for entry in value] or None
    return value


class Connection:
    """One connection to the bus: ``DBUS_SESSION_BUS_ADDRESS`` if it is set, else the system bus."""

    def __init__(self) -> None:
        self._bus: Any = None
        self._end: asyncio.Task[None] | None = None
        self._unsent = 0
        self._taken_at = 0.0
        """When the bus took a message last, or there was none for it to take."""
        self._handlers: list[Callable[[Any], Any]] = []

    @property
    def connected(self) -> bool:
        """Whether the bus can be used now."""
        return self._bus is not None and bool(self._bus.connected)

    async def connect(self) -> None:
        """Connect, or raise BusError."""
        address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
        try:
            # A fresh object each time: after the daemon's restart the old one is of no use.
            bus = _Bus(bus_address=address) if address else _Bus(bus_type=_library.BusType.SYSTEM)
        except Exception as error:  # each library raises its own
            raise BusError(f"{type(error).__name__}: {error}") from error
        try:
            async with asyncio.timeout(CONNECT_S):
                await bus.connect()
        except BaseException as error:  # cancelled, too
            _close(bus)
            if not isinstance(error, Exception):
                raise
            raise BusError(f"{type(error).__name__}: {error}") from error
        bus._writer.sock = _Patient(bus._sock)
        for handler in self._handlers:
            bus.add_message_handler(handler)
        self._bus, self._unsent = bus, 0
        self._end = asyncio.create_task(_ended(bus))

    async def closed(self) -> None:
        """Return when the connection is gone, whoever ended it."""
        if self._end is not None:
            await asyncio.shield(self._end)

    def disconnect(self) -> None:
        """End the connection.  Does nothing where there is none."""
        if self.connected:
            self._bus.disconnect()

    def handle(self, handler: Callable[[Any], Any]) -> None:
        """Let ``handler`` see every message, from the next ``connect`` on."""
        self._handlers.append(handler)

    def send(self, message: Any) -> None:
        """Send without waiting."""
        if not self.connected:
            return
        if not self._unsent:
            self._taken_at = asyncio.get_running_loop().time()
        self._unsent += 1
        self._bus.send(message).add_done_callback(self._sent)

    def _sent(self, future: asyncio.Future[None]) -> None:
        self._unsent -= 1
        self._taken_at = asyncio.get_running_loop().time()
        _forget(future)

    @property
    def busy(self) -> bool:
        """Whether as much waits to be sent as may.  A bus that stopped reading loses the connection."""
        if self.connected and self._unsent >= MOST_UNSENT:
            if asyncio.get_running_loop().time() - self._taken_at >= STUCK_S:
                log.warning("the bus does not take our messages; connecting anew")
                self._bus.disconnect()
            return True
        return False

    async def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any
    ) -> Any:
        """The unwrapped first value of the answer, or BusError after ``CALL_S`` at the latest."""
        if not self.connected:
            raise BusError("not connected")
        message = _Message(
            destination=destination, path=path, interface=interface, member=member,
            signature=signature, body=list(body),
        )  # fmt: skip
        try:
            async with asyncio.timeout(CALL_S):  # wait_for of 3.11 may lose a cancelling
                reply = await self._bus.call(message)
        except Exception as error:  # each library raises its own
            raise BusError(f"{member} on {destination}: {type(error).__name__}: {error}") from error
        if reply is None:
            raise BusError(f"{member} on {destination}: the connection ended")
        if reply.message_type is _Kind.ERROR:
            raise BusError(f"{reply.error_name}: {reply.body[0] if reply.body else ''}")
        return _unwrap(reply.body[0]) if reply.body else None

    async def request_name(self, name: str) -> bool:
        """Take a name that nobody has; whether it is ours."""
        return await self.call(*_DAEMON, "RequestName", "su", name, 4) in (1, 4)  # 4: do not queue

    async def release_name(self, name: str) -> None:
        """Give a name back."""
        await self.call(*_DAEMON, "ReleaseName", "s", name)

    async def names(self) -> list[str]:
        """The names of all services on the bus, those of bare connections left out."""
        answer = await self.call(*_DAEMON, "ListNames")
        return sorted(name for name in answer or () if not name.startswith(":"))

    async def get_items(self, service: str) -> dict[str, dict[str, Any]]:
        """All items of a service: path to ``{"Value": ..., "Text": ...}``."""
        answer: dict[str, dict[str, Any]] = await self.call(service, "/", BUS_ITEM, "GetItems")
        return answer

    async def add_settings(self, defaults: Mapping[str, str | int | float]) -> dict[str, Any]:
        """What localsettings keeps at each path; the default where it kept nothing.

        What it refuses is missing.
        """
        entries = [
            {"path": _Variant("s", path), "default": _setting(default)} for path, default in defaults.items()
        ]
        answer = await self.call(SETTINGS, "/", SETTINGS_API, "AddSettings", "aa{sv}", entries)
        return {
            entry["path"]: entry["value"]
            for entry in (answer if isinstance(answer, list) else ())
            if isinstance(entry, dict) and isinstance(entry.get("path"), str)
            if "value" in entry and not entry.get("error")
        }

    async def set_setting(self, path: str, value: str | int | float) -> bool:
        """Change what localsettings keeps at a path; whether it took it."""
        code = await self.call(SETTINGS, path, BUS_ITEM, "SetValue", "v", _setting(value))
        return bool(code == 0)

    async def watch(
        self, service: str, changed: Callable[[str, dict[str, Any]], None], below: str | None = None
    ) -> None:
        """Tell of each change of a service, or of those below a path: ``changed(path, {"Value": ..., ...})``.

        Ends with the connection.  Of several watched services each is told of the others' changes, too.

        Told too, with path "" and an empty dict, when the service comes or goes.
        """
        owner: str | None = None

        def handler(message: Any) -> None:
            nonlocal owner
            if message.message_type is not _Kind.SIGNAL:
                return
            # Anybody can send anything to a connection's own name: look at the shape, too.
            said = (message.interface, message.member, message.signature)
            if said == (_DAEMON[0], "NameOwnerChanged", "sss"):
                if message.sender == _DAEMON[0] and message.body[0] == service:
                    owner = message.body[2] or None
                    changed("", {})
            elif message.sender != owner:
                return
            elif said == (BUS_ITEM, "ItemsChanged", "a{sa{sv}}"):
                for path, entry in message.body[0].items():
                    changed(path, _unwrap(entry))
            elif said == (BUS_ITEM, "PropertiesChanged", "a{sv}"):
                changed(message.path, _unwrap(message.body[0]))

        self._bus.add_message_handler(handler)
        part = "" if below is None else f",path_namespace='{below}'"
        for rule in (
            f"type='signal',interface='{BUS_ITEM}',sender='{service}'{part}",
            f"type='signal',sender='{_DAEMON[0]}',member='NameOwnerChanged',arg0='{service}'",
        ):
            await self.call(*_DAEMON, "AddMatch", "s", rule)
        with contextlib.suppress(BusError):  # nobody has the name yet
            found = await self.call(*_DAEMON, "GetNameOwner", "s", service)
            owner = owner or found  # what was heard meanwhile is newer


def _forget(future: asyncio.Future[None]) -> None:
    """What became of a message is of no interest: the end of the connection is told elsewhere."""
    if not future.cancelled():
        future.exception()


def _close(bus: Any) -> None:
    """Give the socket back, which neither library does in every case."""
    if bus._sock is not None and bus._sock.fileno() >= 0:
        bus._loop.remove_reader(bus._sock)
        with contextlib.suppress(OSError):
            bus._stream.close()
        bus._sock.close()


async def _ended(bus: Any) -> None:
    """Wait for the end of a connection and clean up behind it."""
    try:
        with contextlib.suppress(Exception):
            await bus.wait_for_disconnect()
    finally:
        _close(bus)


class Service(Connection):
    """A service of its own connection, showing a table of items."""

    def __init__(self, name: str, items: Items, written: Callable[[], None]) -> None:
        """``written`` is called after a client's write was accepted, to announce what it changed."""
        super().__init__()
        self.name = name
        self.owned = False
        self._waiting: dict[str, Item] = {}
        """What changed and could not be sent yet."""
        self._items = items
        self._written = written
        self.handle(self._answer)

    async def take_name(self) -> bool:
        """Appear on the bus.  Every path has to be in the table by now: clients look once."""
        self.owned = True  # who sees the name sees every change from then on
        self.owned = await self.request_name(self.name)
        return self.owned

    async def hide(self) -> None:
        """Release the name, to appear again with what clients look at only once."""
        self.owned = False
        await self.release_name(self.name)

    async def leave(self) -> None:
        """Release the name, end the connection, and let every call on it fail before this returns."""
        if self.owned and self.connected:
            with contextlib.suppress(BusError):
                await self.release_name(self.name)
        self.owned = False
        self.disconnect()
        await self.closed()

    def announce(self, changed: Mapping[str, Item]) -> None:
        """One ItemsChanged with all that changed; nothing before the name is ours."""
        if not self.owned:
            self._waiting.clear()
            return
        self._waiting.update(changed)
        if self._waiting and not self.busy:
            body = [_entries(self._waiting.items())]
            self._waiting.clear()
            self.send(_Message.new_signal("/", BUS_ITEM, "ItemsChanged", "a{sa{sv}}", body))

    def _answer(self, message: Any) -> Any:
        """The library's message handler: True when the call was dealt with; None: not ours."""
        if message.message_type is not _Kind.METHOD_CALL:
            return None
        if message.flags & _NO_REPLY and message.member != "SetValue":
            return True  # an answer would be work for nobody
        try:
            signature, body = self._call(message.path, message.interface, message.member, message.body)
            reply = _Message.new_method_return(message, signature, [body] if signature else [])
        except _CallError as error:
            reply = _Message.new_error(message, *error.args)
        if not message.flags & _NO_REPLY:
            self._bus.send(reply).add_done_callback(_forget)
        return True

    def _call(self, path: str, interface: str | None, member: str, arguments: list[Any]) -> tuple[str, Any]:
        if (interface, member) == (_PEER, "Ping"):
            return "", None
        item = self._items.items.get(path)
        below = None if item else self._below(path)
        if not item and not below:
            raise _CallError(UNKNOWN_OBJECT, f"there is no {path} here")
        if member == "Introspect" and interface in (None, INTROSPECTABLE):
            return "s", _introspection(path, item is not None, below or ())
        if interface not in (None, BUS_ITEM):
            raise _CallError(UNKNOWN_METHOD, f"{interface}.{member} is not offered")
        if item is None:
            return self._call_node(path, member, below or [])
        return self._call_leaf(path, item, member, arguments)

    def _call_leaf(self, path: str, item: Item, member: str, arguments: list[Any]) -> tuple[str, Any]:
        if member == "GetValue":
            return "v", _wrap(item.type, item.value)
        if member == "GetText":
            return "s", item.text
        if member == "GetDescription":
            return "s", ""
        if member == "SetValue":
            if len(arguments) != 1:
                raise _CallError(INVALID_ARGS, "SetValue takes one value")
            code = self._items.write(path, _unwrap(arguments[0]))
            if code == 0:
                self._written()
            return "i", code
        raise _CallError(UNKNOWN_METHOD, f"{path} has no method {member}")

    def _call_node(self, path: str, member: str, below: list[str]) -> tuple[str, Any]:
        if member == "GetItems" and path == "/":
            return "a{sa{sv}}", _entries(self._items.items.items())
        length = len(path.rstrip("/")) + 1
        items = ((child[length:], self._items.items[child]) for child in below)
        if member == "GetValue":
            return "v", _Variant("a{sv}", {name: _wrap(item.type, item.value) for name, item in items})
        if member == "GetText":
            return "v", _Variant("a{ss}", {name: item.text for name, item in items})
        raise _CallError(UNKNOWN_METHOD, f"{path} has no method {member}")

    def _below(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return [child for child in self._items.items if child.startswith(prefix)]


class _CallError(Exception):
    """An error reply: its name and text."""


def _entries(items: Iterable[tuple[str, Item]]) -> dict[str, dict[str, Any]]:
    return {
        path: {"Value": _wrap(item.type, item.value), "Text": _Variant("s", item.text)}
        for path, item in items
    }


def _introspection(path: str, leaf: bool, below: Iterable[str]) -> str:
    """The XML that tools like D-Bus browsers ask for.  Paths of the table need no quoting in it."""
    length = len(path.rstrip("/")) + 1
    children = sorted({child[length:].split("/", 1)[0] for child in below})
    value = '<method name="GetValue"><arg direction="out" type="v"/></method>'
    if leaf:
        methods = (
            value + '<method name="GetText"><arg direction="out" type="s"/></method>'
            '<method name="SetValue"><arg direction="in" type="v" name="newvalue"/>'
            '<arg direction="out" type="i"/></method>'
            '<method name="GetDescription"><arg direction="in" type="s" name="language"/>'
            '<arg direction="in" type="i" name="length"/><arg direction="out" type="s"/></method>'
        )
    else:
        methods = value + '<method name="GetText"><arg direction="out" type="v"/></method>'
    if path == "/":
        methods += (
            '<method name="GetItems"><arg direction="out" type="a{sa{sv}}"/></method>'
            '<signal name="ItemsChanged"><arg type="a{sa{sv}}" name="changes"/></signal>'
        )
    nodes = "".join(f'<node name="{child}"/>' for child in children)
    introspect = '<method name="Introspect"><arg direction="out" type="s"/></method>'
    return (
        '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
        '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
        f'<node name="{path}"><interface name="{BUS_ITEM}">{methods}</interface>'
        f'<interface name="{INTROSPECTABLE}">{introspect}</interface>{nodes}</node>\n'
    )
