"""Records how velib_python's VeDbusService answers a table of calls, into ``velib_calls.json``.

    VELIB_PYTHON=<checkout> /usr/bin/python3 tests/recorded/record_velib.py > tests/recorded/velib_calls.json

Needs dbus-daemon, python3-dbus and python3-gi.  The service, the calls and the form of the answers
are here once; the tests show the same items with our own service and make the same calls.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any, NamedTuple

SERVICE = "com.victronenergy.battery.calls"
BUS_ITEM = "com.victronenergy.BusItem"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PROPERTIES = "org.freedesktop.DBus.Properties"
PEER = "org.freedesktop.DBus.Peer"


class Shown(NamedTuple):
    """An item: its type (d, i, s), what it shows, and which writes its owner accepts (None: none)."""

    path: str
    kind: str
    value: float | str | None
    text: str
    accepts: Callable[[Any], bool] | None = None


ITEMS = (
    Shown("/Dc/0/Voltage", "d", 53.12, "{:.2f} V"),
    Shown("/Dc/0/Current", "d", None, "{:.1f} A"),
    Shown("/Dc/0/Power", "d", 0.0, "{:.0f} W"),
    Shown("/ProductId", "i", 0xB050, "0x{:X}"),
    Shown("/ProductName", "s", "123\\SmartBMS", "{}"),
    Shown("/Serial", "s", None, "{}"),
    Shown("/Note", "s", "", "{}"),
    Shown("/Mode", "i", 3, "{}", lambda value: value != 7),
    Shown("/Settings/Limit", "d", 20.0, "{:.1f} A", lambda value: value is None or value <= 100),
    Shown("/CustomName", "s", "House", "{}", lambda value: value is None or len(value) <= 32),
    Shown("/Change", "i", 0, "{}", lambda _value: True),
)

CHANGES: dict[int, dict[str, float | None]] = {
    1: {"/Dc/0/Voltage": 54.0, "/Dc/0/Current": -12.5, "/Dc/0/Power": -675.0},
    2: {"/Dc/0/Voltage": 54.0, "/Dc/0/Current": None},
    3: {"/Dc/0/Voltage": 54.0, "/Dc/0/Current": None},
}
"""What the service sets in one go when the number is written to /Change."""


class Call(NamedTuple):
    """A call; arguments in the form of ``plain``, a variant being ``{signature: value}``."""

    name: str
    path: str
    member: str
    arguments: tuple[Any, ...] = ()
    signature: str = ""
    interface: str | None = BUS_ITEM
    reply: bool = True


def _write(name: str, path: str, variant: dict[str, Any], *, reply: bool = True) -> Call:
    return Call(name, path, "SetValue", (variant,), "v", reply=reply)


CALLS = (
    Call("value of a float", "/Dc/0/Voltage", "GetValue"),
    Call("value of zero", "/Dc/0/Power", "GetValue"),
    Call("value of an int", "/ProductId", "GetValue"),
    Call("value of a text", "/ProductName", "GetValue"),
    Call("value of an empty text", "/Note", "GetValue"),
    Call("no value, float", "/Dc/0/Current", "GetValue"),
    Call("no value, text", "/Serial", "GetValue"),
    Call("text of a float", "/Dc/0/Voltage", "GetText"),
    Call("text of an int", "/ProductId", "GetText"),
    Call("text of a text", "/ProductName", "GetText"),
    Call("text of an empty text", "/Note", "GetText"),
    Call("text of no value", "/Dc/0/Current", "GetText"),
    Call("description", "/Mode", "GetDescription", ("en", 10), "si"),
    Call("items", "/", "GetItems"),
    Call("value of the root", "/", "GetValue"),
    Call("text of the root", "/", "GetText"),
    Call("value of an inner node", "/Dc", "GetValue"),
    Call("text of an inner node", "/Dc", "GetText"),
    Call("value of the lowest inner node", "/Dc/0", "GetValue"),
    Call("text of the lowest inner node", "/Dc/0", "GetText"),
    Call("no interface: value", "/Dc/0/Voltage", "GetValue", interface=None),
    Call("no interface: no value", "/Serial", "GetValue", interface=None),
    Call("no interface: text", "/Dc/0/Voltage", "GetText", interface=None),
    Call("no interface: value of an inner node", "/Dc", "GetValue", interface=None),
    Call("no interface: text of an inner node", "/Dc", "GetText", interface=None),
    Call("no interface: value of the root", "/", "GetValue", interface=None),
    Call("no interface: items", "/", "GetItems", interface=None),
    Call("no interface: introspect", "/Dc", "Introspect", interface=None),
    Call("no interface: write", "/Mode", "SetValue", ({"i": 4},), "v", None),
    Call("no interface: write, refused", "/Mode", "SetValue", ({"i": 7},), "v", None),
    Call("no interface: unknown method", "/Mode", "Explode", interface=None),
    Call("items of a leaf", "/Mode", "GetItems"),
    Call("items of an inner node", "/Dc", "GetItems"),
    Call("write to an inner node", "/Dc", "SetValue", ({"i": 1},), "v"),
    Call("write to the root", "/", "SetValue", ({"i": 1},), "v"),
    Call("unknown path", "/Nothing", "GetValue"),
    Call("unknown path under a node", "/Dc/1", "GetValue"),
    Call("unknown path under a leaf", "/Dc/0/Voltage/Deep", "GetValue"),
    Call("unknown path that begins like a node", "/D", "GetValue"),
    Call("unknown path, no interface", "/Nothing", "GetValue", interface=None),
    Call("unknown path, write", "/Nothing", "SetValue", ({"i": 1},), "v"),
    Call("unknown path, introspect", "/Nothing", "Introspect", interface=INTROSPECTABLE),
    Call("unknown method", "/Mode", "Explode"),
    Call("unknown interface", "/Mode", "GetValue", interface="com.example.Other"),
    Call("unknown interface at the root", "/", "GetItems", interface="com.example.Other"),
    Call("introspect the root", "/", "Introspect", interface=INTROSPECTABLE),
    Call("introspect an inner node", "/Dc", "Introspect", interface=INTROSPECTABLE),
    Call("introspect a leaf", "/Dc/0/Voltage", "Introspect", interface=INTROSPECTABLE),
    Call("introspect by the wrong interface", "/Dc", "Introspect"),
    Call("all properties", "/Mode", "GetAll", (BUS_ITEM,), "s", PROPERTIES),
    Call("all properties of the root", "/", "GetAll", (BUS_ITEM,), "s", PROPERTIES),
    Call("a property", "/Mode", "Get", (BUS_ITEM, "Value"), "ss", PROPERTIES),
    Call("set a property", "/Mode", "Set", (BUS_ITEM, "Value", {"i": 1}), "ssv", PROPERTIES),
    Call("ping", "/Mode", "Ping", interface=PEER),
    Call("ping, unknown path", "/Nothing", "Ping", interface=PEER),
    Call("unknown method of the peer", "/Mode", "Pong", interface=PEER),
    _write("int, accepted", "/Mode", {"i": 5}),
    _write("int, equal", "/Mode", {"i": 5}),
    _write("int, refused", "/Mode", {"i": 7}),
    Call("int after the refusal", "/Mode", "GetValue"),
    _write("whole float for an int", "/Mode", {"d": 6.0}),
    Call("int after a whole float", "/Mode", "GetValue"),
    _write("whole float for an int, refused", "/Mode", {"d": 7.0}),
    _write("float with a fraction for an int", "/Mode", {"d": 8.5}),
    _write("bool for an int", "/Mode", {"b": True}),
    Call("int after a bool", "/Mode", "GetValue"),
    _write("byte for an int", "/Mode", {"y": 9}),
    _write("64 bits for an int", "/Mode", {"x": 10}),
    _write("unsigned for an int", "/Mode", {"u": 11}),
    _write("text for an int", "/Mode", {"s": "12"}),
    _write("words for an int", "/Mode", {"s": "twelve"}),
    _write("array for an int", "/Mode", {"ai": [1, 2]}),
    _write("struct for an int", "/Mode", {"(ii)": [1, 2]}),
    _write("dictionary for an int", "/Mode", {"a{sv}": {"a": {"i": 1}}}),
    _write("variant in a variant for an int", "/Mode", {"v": {"i": 13}}),
    _write("int outside a variant's range", "/Mode", {"x": 2**40}),
    Call("int after an int too long", "/Mode", "GetValue"),
    _write("int, once more", "/Mode", {"i": 3}),
    _write("no value for an int", "/Mode", {"ai": []}),
    _write("int, after no value", "/Mode", {"i": 4}),
    _write("float, accepted", "/Settings/Limit", {"d": 30.5}),
    _write("float, equal", "/Settings/Limit", {"d": 30.5}),
    _write("float, refused", "/Settings/Limit", {"d": 100.5}),
    _write("int for a float", "/Settings/Limit", {"i": 40}),
    Call("float after an int", "/Settings/Limit", "GetValue"),
    Call("text of a float after an int", "/Settings/Limit", "GetText"),
    _write("equal int for a float", "/Settings/Limit", {"i": 40}),
    _write("int for a float, refused", "/Settings/Limit", {"i": 101}),
    _write("infinity for a float", "/Settings/Limit", {"d": float("-inf")}),
    _write("float, once more", "/Settings/Limit", {"d": 20.0}),
    _write("text for a float", "/Settings/Limit", {"s": "50"}),
    _write("words for a float", "/Settings/Limit", {"s": "much"}),
    _write("no value for a float", "/Settings/Limit", {"ai": []}),
    _write("float, after no value", "/Settings/Limit", {"d": 25.0}),
    _write("text, accepted", "/CustomName", {"s": "Boat"}),
    _write("text, equal", "/CustomName", {"s": "Boat"}),
    _write("text, refused", "/CustomName", {"s": "x" * 33}),
    Call("text after the refusal", "/CustomName", "GetValue"),
    _write("empty text", "/CustomName", {"s": ""}),
    _write("text beyond ASCII", "/CustomName", {"s": "Zürich ☼"}),
    _write("object path for a text", "/CustomName", {"o": "/House"}),
    _write("text, once more", "/CustomName", {"s": "Boat"}),
    _write("number for a text", "/CustomName", {"i": 5}),
    _write("float for a text", "/CustomName", {"d": 5.5}),
    _write("texts for a text", "/CustomName", {"as": ["a", "b"]}),
    _write("no value for a text", "/CustomName", {"ai": []}),
    _write("text, after no value", "/CustomName", {"s": "House"}),
    _write("not writeable, float", "/Dc/0/Voltage", {"d": 1.0}),
    _write("not writeable, equal", "/Dc/0/Voltage", {"d": 53.12}),
    _write("not writeable, no value", "/Serial", {"s": "1"}),
    Call("float after writes that were not allowed", "/Dc/0/Voltage", "GetValue"),
    Call("write without a variant", "/Mode", "SetValue", (5,), "i"),
    Call("write without a value", "/Mode", "SetValue"),
    Call("write of two values", "/Mode", "SetValue", ({"i": 5}, {"i": 6}), "vv"),
    Call("value with an argument", "/Mode", "GetValue", ("x",), "s"),
    _write("no reply wanted, accepted", "/Mode", {"i": 6}, reply=False),
    Call("int after a write without a reply", "/Mode", "GetValue"),
    _write("no reply wanted, refused", "/Mode", {"i": 7}, reply=False),
    Call("no reply wanted, unknown path", "/Nothing", "GetValue", reply=False),
    Call("no reply wanted, value", "/Mode", "GetValue", reply=False),
    _write("change of three at once", "/Change", {"i": 1}),
    _write("change of one to no value, another stays", "/Change", {"i": 2}),
    _write("no change", "/Change", {"i": 3}),
    Call("items at the end", "/", "GetItems"),
)


def summary(xml: str) -> dict[str, Any]:
    """What counts of an introspection: the child nodes, and the signatures of the BusItem's members."""
    node = ET.fromstring(xml)  # noqa: S314  from our own private bus
    members = {
        member.get("name"): [f"{arg.get('direction', 'out')} {arg.get('type')}" for arg in member.iter("arg")]
        for member in node.findall(f"interface[@name='{BUS_ITEM}']/*")
    }
    return {"nodes": sorted(str(child.get("name")) for child in node.findall("node")), "members": members}


# From here on: velib_python and the D-Bus library that it is built on.


def typed(kind: str, value: Any, level: int = 0) -> Any:
    """A value as dbus-python takes it."""
    dbus = importlib.import_module("dbus")
    if kind == "v":
        ((inner, content),) = value.items()
        return typed(inner, content, level + 1)
    if kind == "a{sv}":
        content = {key: typed("v", entry) for key, entry in value.items()}
        return dbus.Dictionary(content, signature="sv", variant_level=level)
    if kind.startswith("a"):
        content = [typed(kind[1:], entry) for entry in value]
        return dbus.Array(content, signature=kind[1:], variant_level=level)
    if kind.startswith("("):
        content = [typed(*pair) for pair in zip(kind[1:-1], value, strict=True)]
        return dbus.Struct(content, signature=kind[1:-1], variant_level=level)
    kinds = {
        "d": dbus.Double, "i": dbus.Int32, "s": dbus.String, "b": dbus.Boolean, "y": dbus.Byte,
        "x": dbus.Int64, "u": dbus.UInt32, "o": dbus.ObjectPath,
    }  # fmt: skip
    return kinds[kind](value, variant_level=level)


def plain(value: Any, level: int | None = None) -> Any:
    """A value of dbus-python in the form of the record: variants as ``{signature: value}``."""
    dbus = importlib.import_module("dbus")
    level = getattr(value, "variant_level", 0) if level is None else level
    if level:
        return {_signature(value) if level == 1 else "v": plain(value, level - 1)}
    if isinstance(value, dbus.Dictionary):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (dbus.Array, dbus.Struct)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))  # JSON has no name for these
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value)} is not in the record's form")


def _signature(value: Any) -> str:
    dbus = importlib.import_module("dbus")
    if isinstance(value, dbus.Dictionary):
        return f"a{{{value.signature}}}"
    if isinstance(value, dbus.Array):
        return f"a{value.signature}"
    kinds = {
        dbus.Double: "d", dbus.Int32: "i", dbus.String: "s", dbus.Boolean: "b", dbus.Int64: "x",
    }  # fmt: skip
    return kinds[type(value)]


def serve() -> None:
    """Show the items with a VeDbusService until the process is ended."""
    importlib.import_module("dbus.mainloop.glib").DBusGMainLoop(set_as_default=True)
    sys.path.insert(0, os.environ["VELIB_PYTHON"])
    service = importlib.import_module("vedbus").VeDbusService(SERVICE, register=False)

    def decide(path: str, value: Any) -> bool:
        shown = next(item for item in ITEMS if item.path == path)
        if path == "/Change":
            with service as together:
                for changed, new in CHANGES[value].items():
                    together[changed] = new
        return shown.accepts is not None and shown.accepts(value)

    for item in ITEMS:
        service.add_path(
            item.path,
            item.value,
            writeable=item.accepts is not None,
            onchangecallback=decide,
            gettextcallback=lambda _path, value, text=item.text: text.format(value),
            valuetype={"d": float, "i": int, "s": str}[item.kind],
        )
    service.register()
    print("ready", flush=True)
    importlib.import_module("gi.repository.GLib").MainLoop().run()


class Client:
    """Makes the calls with dbus-python's lower layer, which adds nothing and asks nothing."""

    def __init__(self) -> None:
        importlib.import_module("dbus.mainloop.glib").DBusGMainLoop(set_as_default=True)
        self._dbus = importlib.import_module("dbus.lowlevel")
        self._loop = importlib.import_module("gi.repository.GLib").MainLoop()
        self._bus = importlib.import_module("dbus").SessionBus()
        self._bus.add_match_string_non_blocking(f"type='signal',sender='{SERVICE}'")
        self._bus.add_message_filter(self._heard)
        self._signals: list[dict[str, Any]] = []

    def _heard(self, _bus: Any, message: Any) -> Any:
        if message.get_type() == 4 and message.get_interface() == BUS_ITEM:
            signal = {"path": str(message.get_path()), "member": str(message.get_member())}
            self._signals.append(signal | self._content(message))
        return importlib.import_module("_dbus_bindings").HANDLER_RESULT_NOT_YET_HANDLED

    @staticmethod
    def _content(message: Any) -> dict[str, Any]:
        return {
            "signature": str(message.get_signature()),
            "body": [plain(value) for value in message.get_args_list()],
        }

    def make(self, call: Call) -> dict[str, Any]:
        """The answer to a call, and the signals until the service has answered a Ping after it."""
        answers: list[Any] = []
        message = self._message(call.path, call.interface, call.member)
        kinds = [part.replace("A", "a{sv}") for part in call.signature.replace("a{sv}", "A")]
        message.append(*map(typed, kinds, call.arguments), signature=call.signature)
        self._signals = []
        if call.reply:
            self._bus.send_message_with_reply(message, answers.append)
        else:
            message.set_no_reply(True)
            self._bus.send_message(message)
        fence = self._message("/", PEER, "Ping")
        self._bus.send_message_with_reply(fence, lambda _reply: self._loop.quit())
        self._loop.run()
        return {"reply": self._answer(call, answers), "signals": self._signals}

    def _message(self, path: str, interface: str | None, member: str) -> Any:
        return self._dbus.MethodCallMessage(SERVICE, path, interface, member)

    def _answer(self, call: Call, answers: list[Any]) -> dict[str, Any] | None:
        if not answers:
            return None
        if answers[0].get_type() == 3:
            return {"error": str(answers[0].get_error_name())}
        content = self._content(answers[0])
        if call.member == "Introspect":
            content["body"] = [summary(content["body"][0])]
        return content


def record() -> None:
    """Start a bus and the service, make the calls, print the record."""
    checkout = os.environ["VELIB_PYTHON"]
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        command = ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:dir={folder}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
            assert daemon.stdout is not None
            os.environ["DBUS_SESSION_BUS_ADDRESS"] = daemon.stdout.readline().strip()
            command = [sys.executable, __file__, "serve"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
                assert service.stdout is not None
                assert service.stdout.readline() == "ready\n"
                client = Client()
                calls = {call.name: client.make(call) for call in CALLS}
                service.kill()
            daemon.kill()
    lines = [f"{json.dumps(name)}: {json.dumps(answer, sort_keys=True)}" for name, answer in calls.items()]
    print(f'{{"velib_python": "{commit}", "calls": {{\n' + ",\n".join(lines) + "\n}}")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else record()
