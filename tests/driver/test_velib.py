"""Our service beside velib_python's: the same items, the same calls, the same answers.

What velib answered is recorded (``tests/recorded/record_velib.py``); where ours differs it is said
here, with the reason.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms.items import NO_VALUE_TEXT, Item, Items
from recorded import record_velib
from recorded.record_velib import CALLS, CHANGES, ITEMS, SERVICE, Call

RECORD = Path(record_velib.__file__).with_name("velib_calls.json")
ACCEPTED, NOT_ALLOWED = ({"signature": "i", "body": [code]} for code in (0, 1))
INVALID = {"error": "org.freedesktop.DBus.Error.InvalidArgs"}
TYPES = "a number is not a text, nor a text a number: systemcalc exits where a type wanders"
NO_VALUE = 'nobody may take the value away: "invalid" in a limit means no limit'

DIFFERENCES: dict[str, tuple[Any, str]] = {
    "float with a fraction for an int": (NOT_ALLOWED, "velib cuts the fraction off, which nobody asked for"),
    "text for an int": (NOT_ALLOWED, TYPES),
    "text for a float": (NOT_ALLOWED, TYPES),
    "number for a text": (NOT_ALLOWED, TYPES),
    "float for a text": (NOT_ALLOWED, TYPES),
    "texts for a text": (NOT_ALLOWED, TYPES),
    "int outside a variant's range": (NOT_ALLOWED, "an int is 32 bits on the bus and stays so"),
    "int after an int too long": ({"signature": "v", "body": [{"i": 13}]}, "the write before was not taken"),
    "infinity for a float": (NOT_ALLOWED, "no quantity of a battery is infinite"),
    "no value for an int": (NOT_ALLOWED, NO_VALUE),
    "no value for a float": (NOT_ALLOWED, NO_VALUE),
    "no value for a text": (NOT_ALLOWED, NO_VALUE),
    "write without a value": (INVALID, "an error of Python's has no place on the bus"),
    "write of two values": (INVALID, "an error of Python's has no place on the bus"),
    "value with an argument": ({"signature": "v", "body": [{"i": 5}]}, "arguments too many do no harm"),
    "unknown path, introspect": (
        {"error": "org.freedesktop.DBus.Error.UnknownObject"},
        "libdbus describes an empty node; what is not there is not described",
    ),
}
NOT_SENT = {"PropertiesChanged"}
"""Signals that only velib has on a leaf: ours announces every change by ItemsChanged."""


class Shown:
    """The items of the table in a service of ours, with writes decided as velib's callback does."""

    def __init__(self, bus: Any) -> None:
        self.items = Items()
        self._changed: dict[str, Item] = {}
        for row in ITEMS:
            item = self.items.items[row.path] = Item(row.kind)
            if row.value is not None:
                item.value, item.text = row.value, row.text.format(row.value)
            if row.accepts is not None:
                item.write = lambda value, row=row: self._decide(row, value)
        self.service = bus.Service(SERVICE, self.items, self._announce)

    def _decide(self, row: record_velib.Shown, value: Any) -> bool:
        assert row.accepts is not None
        if not row.accepts(value):
            return False
        self._set(row.path, value)
        if row.path == "/Change":
            for path, new in CHANGES[value].items():
                self._set(path, new)
        return True

    def _set(self, path: str, value: Any) -> None:
        item = self.items.items[path]
        if value != item.value:
            text = next(row.text for row in ITEMS if row.path == path)
            item.value, item.text = value, NO_VALUE_TEXT if value is None else text.format(value)
            self._changed[path] = item

    def _announce(self) -> None:
        changed, self._changed = self._changed, {}
        self.service.announce(changed)


async def make(client: rig.Client, call: Call) -> dict[str, Any]:
    """The answer to a call and the signals that came with it, in the form of the record."""
    client.signals.clear()
    arguments = [rig.variant(value) if isinstance(value, dict) else value for value in call.arguments]
    message = client.message(call.path, call.member, call.signature, *arguments, interface=call.interface)
    reply = None
    if call.reply:
        reply = await client.bus.call(message)
    else:
        await client.send(message)
    await client.call("/", "Ping", interface=record_velib.PEER)
    answer: dict[str, Any] | None = None
    if reply is not None and reply.error_name:
        answer = {"error": reply.error_name}
    elif reply is not None:
        answer = {"signature": reply.signature, "body": [rig.plain(value) for value in reply.body]}
        if call.member == "Introspect":
            answer["body"] = [record_velib.summary(reply.body[0])]
    signals = [
        {"path": s.path, "member": s.member, "signature": s.signature, "body": [rig.plain(v) for v in s.body]}
        for s in client.signals
    ]
    return {"reply": answer, "signals": signals}


def announced(signals: list[dict[str, Any]]) -> dict[str, Any]:
    """What signals of either form say: path to Value and Text."""
    said: dict[str, Any] = {}
    for signal in signals:
        content = signal["body"][0]
        said |= content if signal["member"] == "ItemsChanged" else {signal["path"]: content}
    return said


def without(reply: Any) -> Any:
    """An introspection without the signal that ours does not send."""
    reply = copy.deepcopy(reply)
    if isinstance(reply, dict) and reply.get("body") and isinstance(reply["body"][0], dict):
        for name in NOT_SENT:
            reply["body"][0].get("members", {}).pop(name, None)
    return reply


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    calls: dict[str, Any] = json.loads(RECORD.read_text())["calls"]
    return calls


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[rig.Daemon]:
    with rig.daemon(tmp_path) as one:
        yield one


def test_the_record_is_of_this_table(record: dict[str, Any]) -> None:
    assert list(record) == [call.name for call in CALLS]
    assert set(DIFFERENCES) <= set(record)


@pytest.mark.parametrize("library", ["dbus_next", "dbus_fast"])
async def test_answers_are_velibs(
    daemon: rig.Daemon, record: dict[str, Any], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", daemon.address)
    service = Shown(rig.bus_on(library)).service
    await service.connect()
    assert await service.take_name()
    async with rig.Client(daemon.address, SERVICE) as client:
        ours = {call.name: await make(client, call) for call in CALLS}
    await service.leave()
    await service.closed()
    for name, velib in record.items():
        expected, why = DIFFERENCES.get(name, (without(velib["reply"]), "as velib"))
        assert ours[name]["reply"] == expected, f"{name}: {why}"
        if name in DIFFERENCES:
            assert ours[name]["reply"] != velib["reply"], f"{name}: no difference any more"
        if ours[name]["reply"] == velib["reply"]:
            assert announced(ours[name]["signals"]) == announced(velib["signals"]), name
        assert len(ours[name]["signals"]) <= 1, name
        for signal in ours[name]["signals"]:
            form = (signal["path"], signal["member"], signal["signature"])
            assert form == ("/", "ItemsChanged", "a{sa{sv}}"), name


def test_velib_still_answers_as_recorded(record: dict[str, Any]) -> None:
    """Only where there is a checkout and the libraries under it."""
    if "VELIB_PYTHON" not in os.environ:
        pytest.skip("set VELIB_PYTHON to a checkout of victronenergy/velib_python")
    needed = ["/usr/bin/python3", "-c", "import dbus, gi"]
    if subprocess.run(needed, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("install python3-dbus and python3-gi")
    live = subprocess.run(
        ["/usr/bin/python3", record_velib.__file__], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert json.loads(live.stdout)["calls"] == record
