"""The service on a real bus, on both D-Bus libraries, seen by a client that is not ours.

What an answer looks like in detail is compared with velib's in ``test_velib.py``; here is the driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import string
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

import rig
from dbus_smartbms.bus import CALL_S
from dbus_smartbms.driver import SERVICE
from dbus_smartbms.items import Item, Items
from dbus_smartbms.paths import CELL_ROWS, ROWS
from recorded.record_velib import INTROSPECTABLE, PEER
from smartbms_protocol import layout

LIBRARIES = ["dbus_next", "dbus_fast"]
DAEMON = "org.freedesktop.DBus"
NO_VALUE = {"Value": {"ai": []}, "Text": {"s": "---"}}


def quiet(log: str) -> list[str]:
    """A log without what clients wrote."""
    return [line for line in log.splitlines() if "set over the bus" not in line]


CONTROLS = "/SwitchableOutput"
WRITEABLE = {
    "/CustomName", "/Battery/Request/Id", "/History/Clear", f"{CONTROLS}/charge_to_full/State",
    f"{CONTROLS}/max_charge_current/Dimming", f"{CONTROLS}/max_discharge_current/Dimming",
}  # fmt: skip


def all_paths(cells: int) -> dict[str, str]:
    """Path to type, of everything that a pack shows."""
    single = {row.path.replace("{b}", "1"): row.type for row in ROWS}
    each = [(row.path.replace("{b}", "1"), row.type) for row in CELL_ROWS]
    return single | {
        path.replace("{c}", str(cell)): kind for cell in range(1, cells + 1) for path, kind in each
    }


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Pack(rig.Driver):
    """A driver that is on the bus, and the turn of its frames."""

    address: str
    turn = itertools.count(4)

    async def show(self, **changes: Any) -> None:
        await self.line.pour(rig.frame(next(self.turn), **changes))

    async def settle(self) -> None:
        """Let it know all cells and pairs, and have read all that was sent."""
        await self.ready()
        for millivolts in (*itertools.repeat(52_000, 40), 53_120):
            await self.show(voltage_mv=millivolts)
        async with rig.Client(self.address, SERVICE) as client:
            await rig.until(lambda: shows(client, "/Dc/0/Voltage", 53.12))


async def shows(client: rig.Client, path: str, value: Any) -> bool:
    return bool(await client.get(path) == value)


@pytest.fixture(scope="module", params=LIBRARIES)
def pack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pack]:
    """One driver for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("pack")
    with rig.daemon(folder) as daemon:
        one = Pack(folder, daemon.address, DBUS_SMARTBMS_LIBRARY=request.param)
        one.address = daemon.address
        try:
            asyncio.run(one.settle())
            yield one
            assert one.process.end() == 0, one.process.text
            assert "Traceback" not in one.process.text, one.process.text
        finally:
            one.process.kill()
            one.line.unplug()


@pytest.fixture
async def client(pack: Pack) -> AsyncIterator[rig.Client]:
    async with rig.Client(pack.address, SERVICE) as one:
        yield one


# What is there to read


async def test_every_leaf_answers_with_and_without_an_interface(client: rig.Client) -> None:
    items = await client.items()
    assert set(items) == set(all_paths(16))
    for path, item in items.items():
        for interface in (rig.BUS_ITEM, None):
            value = await client.call(path, "GetValue", interface=interface)
            text = await client.call(path, "GetText", interface=interface)
            assert (value.signature, rig.plain(value.body)) == ("v", [item["Value"]]), path
            assert (text.signature, text.body) == ("s", [item["Text"]["s"]]), path


async def test_nodes_answer_for_their_subtree_with_and_without_an_interface(client: rig.Client) -> None:
    items = await client.items()
    nodes = {"/"} | {path[:end] for path in items for end, sign in enumerate(path) if sign == "/" and end}
    assert {"/", "/Dc", "/Dc/0", "/Battery/1/Cell"} <= nodes
    for node in nodes:
        below = node.rstrip("/") + "/"
        entries = {path[len(below) :]: item for path, item in items.items() if path.startswith(below)}
        for interface in (rig.BUS_ITEM, None):
            value = await client.call(node, "GetValue", interface=interface)
            text = await client.call(node, "GetText", interface=interface)
            assert rig.plain(value.body) == [{"a{sv}": {k: item["Value"] for k, item in entries.items()}}]
            assert rig.plain(text.body) == [{"a{ss}": {k: item["Text"]["s"] for k, item in entries.items()}}]


async def test_what_is_not_there_is_an_unknown_object(client: rig.Client) -> None:
    for path in ("/Dc/1", "/D", "/Voltages/Cell17", "/Battery/1/Cell/0/Voltage", "/Soc/Deep"):
        for member in ("GetValue", "GetText", "SetValue", "GetItems"):
            reply = await client.call(path, member)
            assert reply.error_name == "org.freedesktop.DBus.Error.UnknownObject", (path, member)


async def test_introspection_leads_from_the_root_to_every_leaf(client: rig.Client) -> None:
    leaves, ways = set(), ["/"]
    while ways:
        path = ways.pop()
        reply = await client.call(path, "Introspect", interface=INTROSPECTABLE)
        node = ET.fromstring(reply.body[0])  # noqa: S314  from our own service
        assert node.get("name") == path
        methods = {method.get("name") for method in node.iter("method")}
        if "SetValue" in methods:
            leaves.add(path)
        assert ("GetItems" in methods) == (path == "/")
        ways += [f"{path.rstrip('/')}/{child.get('name')}" for child in node.findall("node")]
    assert leaves == set(all_paths(16))


async def test_every_item_has_its_type_and_a_text(client: rig.Client) -> None:
    items = await client.items()
    for path, kind in all_paths(16).items():
        ((there, _),) = items[path]["Value"].items()
        assert there == kind or items[path] == NO_VALUE, path
        assert items[path]["Text"]["s"] or items[path]["Value"] == {"s": ""}, path


async def test_who_it_is(client: rig.Client) -> None:
    items = await client.items()
    assert items["/ProductId"] == {"Value": {"i": 0xB050}, "Text": {"s": "0xB050"}}
    assert items["/ProductName"]["Value"] == {"s": r"123\SmartBMS"}
    assert items["/Mgmt/ProcessName"]["Value"] == {"s": "dbus-smartbms"}
    assert items["/Connected"]["Value"] == {"i": 1}
    assert items["/DeviceInstance"]["Value"] == {"i": 123}
    assert items["/Dc/0/Voltage"] == {"Value": {"d": 53.12}, "Text": {"s": "53.12 V"}}


async def test_one_name_on_the_connection(client: rig.Client) -> None:
    """Two names on one connection crash systemcalc when the connection goes."""
    owner = await client.owner()
    names = await client.daemon("ListNames")
    owners = {name: await client.daemon("GetNameOwner", "s", name) for name in names}
    assert {name for name, unique in owners.items() if unique == owner} == {owner, SERVICE}


# What is announced


async def test_a_frame_is_one_signal_holding_what_changed_and_nothing_else(
    pack: Pack, client: rig.Client
) -> None:
    before = await client.items()
    for volts in (53.0, 53.5, 54.0, 53.12):
        client.signals.clear()
        await pack.show(voltage_mv=round(volts * 1000))
        await rig.until(lambda: any("/Dc/0/Voltage" in sent.body[0] for sent in client.signals))
        after = await client.items()
        shown = dict(before)
        for sent in client.signals:
            assert (sent.path, sent.interface, sent.member) == ("/", rig.BUS_ITEM, "ItemsChanged")
            assert sent.signature == "a{sa{sv}}"
            for path, item in rig.plain(sent.body[0]).items():
                assert item != shown[path], f"{path} did not change"
                shown[path] = item
        assert shown == after
        assert sum("/Dc/0/Voltage" in sent.body[0] for sent in client.signals) == 1
        assert after["/Dc/0/Voltage"]["Value"] == {"d": volts}
        before = after


async def test_a_frame_that_says_nothing_new_is_not_announced(pack: Pack, client: rig.Client) -> None:
    frame = rig.frame(0, key=None)
    await pack.line.pour(frame, frame)
    await pack.show(voltage_mv=53_000)
    await rig.until(lambda: any("/Dc/0/Voltage" in sent.body[0] for sent in client.signals))
    client.signals.clear()
    await pack.line.pour(frame, frame, frame)
    await rig.until(lambda: client.signals)
    assert rig.plain(client.signals[0].body[0])["/Dc/0/Voltage"]["Value"] == {"d": 53.12}
    assert not any("/Dc/0/Voltage" in sent.body[0] for sent in client.signals[1:])


async def test_an_accepted_write_is_announced_before_its_answer(client: rig.Client) -> None:
    for name in ("Boat", ""):
        client.signals.clear()
        assert await client.write("/CustomName", {"s": name}) == 0
        assert [rig.plain(sent.body[0]) for sent in client.signals] == [
            {"/CustomName": {"Value": {"s": name}, "Text": {"s": name}}}
        ]
        assert await client.write("/CustomName", {"s": name}) == 0
        assert len(client.signals) == 1, "an equal value changes nothing"


@pytest.mark.parametrize(
    ("name", "most", "limit"),
    [
        ("max_charge_current", 151.5, "Charge"),
        ("max_discharge_current", 303.0, "Discharge"),
    ],
)
async def test_a_current_is_lowered_over_the_bus_and_never_lifted(
    tmp_path: Path, name: str, most: float, limit: str
) -> None:
    path = f"{CONTROLS}/{name}/Dimming"
    with rig.daemon(tmp_path) as daemon, rig.driver(tmp_path, daemon.address) as driver:
        await driver.ready()
        async with rig.Client(daemon.address, SERVICE) as client:
            assert (
                await client.get(path) == await client.get(f"{CONTROLS}/{name}/Settings/DimmingMax") == most
            )
            for form, code in (
                ({"d": most + 1}, 2), ({"d": 1e9}, 2), ({"i": -1}, 2), ({"d": -0.1}, 2), ({"s": "50"}, 1),
                ({"d": float("nan")}, 1), ({"d": float("inf")}, 1), ({"ai": []}, 1),
            ):  # fmt: skip
                assert await client.write(path, form) == code, form
                assert await client.get(path) == most
            client.signals.clear()
            assert await client.write(path, {"i": 40}) == 0
            assert rig.plain(client.signals[0].body[0])[path]["Value"] == {"d": 40.0}
            await driver.line.pour(rig.frame(4))
            await rig.until(lambda: shows(client, f"/Info/Max{limit}Current", 40.0))
            assert await client.get(f"/Info/{limit}Limitation") == "maximum set on the GX 40 A"
            assert await client.write(path, {"d": most}) == 0
            assert await client.get(path) == most
            await driver.line.pour(rig.frame(5))
            await rig.until(
                lambda: shows(client, f"/Info/{limit}Limitation", f"rises slowly again to {most:.0f} A")
            )
    wished = "CCL at most 40.0" if limit == "Charge" else "DCL at most 40.0"
    assert wished in driver.process.text


async def test_a_thousand_writes_at_once_neither_cost_the_connection_nor_fill_the_log(tmp_path: Path) -> None:
    path = f"{CONTROLS}/max_charge_current/Dimming"
    with rig.daemon(tmp_path) as daemon, rig.driver(tmp_path, daemon.address) as driver:
        await driver.ready()
        async with rig.Client(daemon.address, SERVICE) as client:
            owner = await client.owner()
            driver.process.process.send_signal(signal.SIGSTOP)  # so that it meets them all at once
            for turn in range(1_000):
                await client.send(client.message(path, "SetValue", "v", rig.variant({"i": 10 + turn % 90})))
                if turn % 50 == 49:
                    await client.owner()  # the daemon has taken what this client sent
            driver.process.process.send_signal(signal.SIGCONT)
            assert await client.write(path, {"i": 33}) == 0
            assert await client.get(path) == 33
            await rig.until(lambda: said(client, path, {"d": 33.0}))
            assert await client.owner() == owner
    assert driver.process.text.count("set over the bus") <= 10
    assert "connecting anew" not in driver.process.text


async def test_charge_to_full_is_begun_and_ended_over_the_bus(client: rig.Client) -> None:
    path = f"{CONTROLS}/charge_to_full/State"
    assert await client.get(path) == 0
    for form, code in (({"i": 2}, 2), ({"i": -1}, 2), ({"s": "1"}, 1), ({"d": 0.5}, 1)):
        assert await client.write(path, form) == code, form
    assert await client.write(path, {"i": 1}) == 0
    assert await client.get(f"{CONTROLS}/charge_to_full/Status") == 9
    assert await client.get("/Info/ChargeMode") == "Bulk, charging to full"
    assert await client.write(path, {"i": 0}) == 0
    assert (await client.get(path), await client.get("/Info/ChargeMode")) == (0, "Bulk")


async def test_a_cleared_history_begins_anew(pack: Pack, client: rig.Client) -> None:
    await pack.show(voltage_mv=54_000)
    await pack.show()
    await rig.until(lambda: sum("/Dc/0/Voltage" in sent.body[0] for sent in client.signals) == 2)
    assert await client.get("/History/MaximumVoltage") >= 54.0
    assert await client.write("/History/Clear", {"i": 1}) == 0
    assert "/History/MaximumVoltage" in client.signals[-1].body[0]
    assert await client.get("/History/MaximumVoltage") == 53.12
    assert await client.get("/History/Clear") == 0


# What may be written

NAME, REQUEST, CLEAR = "/CustomName", "/Battery/Request/Id", "/History/Clear"
WRITES: tuple[tuple[str, dict[str, Any], int], ...] = (
    (NAME, {"s": "x" * 32}, 0),
    (NAME, {"s": "x" * 33}, 2),
    (NAME, {"s": "two\nlines"}, 2),
    (NAME, {"s": "bell\a"}, 2),
    (NAME, {"s": "hidden\u200b"}, 2),
    (NAME, {"s": "Haus {0} %s ☼"}, 0),
    (NAME, {"v": {"s": "Deep"}}, 0),
    (NAME, {"v": {"v": {"v": {"s": "Deeper"}}}}, 0),
    (NAME, {"i": 1}, 1),
    (NAME, {"d": 1.5}, 1),
    (NAME, {"b": True}, 1),
    (NAME, {"ai": []}, 1),
    (NAME, {"as": ["a"]}, 1),
    (NAME, {"ay": b"abc"}, 1),
    (NAME, {"(s)": ["a"]}, 1),
    (NAME, {"a{sv}": {"a": {"s": "b"}}}, 1),
    (NAME, {"a{sv}": {}}, 1),
    (NAME, {"s": ""}, 0),
    (REQUEST, {"i": 1}, 0),
    (REQUEST, {"d": 1.0}, 0),
    (REQUEST, {"y": 1}, 0),
    (REQUEST, {"i": 0}, 2),
    (REQUEST, {"i": 2}, 2),
    (REQUEST, {"n": -1}, 2),
    (REQUEST, {"d": 1.5}, 1),
    (REQUEST, {"d": float("nan")}, 1),
    (REQUEST, {"d": float("inf")}, 1),
    (REQUEST, {"d": 1e300}, 1),
    (REQUEST, {"x": 2**40}, 1),
    (REQUEST, {"t": 2**64 - 1}, 1),
    (REQUEST, {"x": -(2**63)}, 1),
    (REQUEST, {"s": "1"}, 1),
    (REQUEST, {"ai": [1]}, 1),
    (REQUEST, {"(ii)": [1, 1]}, 1),
    (REQUEST, {"v": {"i": 1}}, 0),
    (CLEAR, {"i": 0}, 0),
    (CLEAR, {"i": 1}, 0),
    (CLEAR, {"d": 1.0}, 0),
    (CLEAR, {"b": True}, 0),
    (CLEAR, {"i": 2}, 2),
    (CLEAR, {"i": -1}, 2),
    (CLEAR, {"d": float("nan")}, 1),
    (CLEAR, {"s": "1"}, 1),
    (CLEAR, {"ai": []}, 1),
)


async def test_writes_are_accepted_refused_or_not_allowed(client: rig.Client) -> None:
    await client.write(NAME, {"s": ""})
    before = await client.items()
    for path, form, code in WRITES:
        assert await client.write(path, form) == code, (path, form)
        ((kind, value),) = (await client.items())[path]["Value"].items()
        assert {kind} == before[path]["Value"].keys(), (path, form)
        if path == NAME and code == 0:
            assert str(value) in str(form)
        elif path != NAME:
            assert (await client.items())[path] == before[path], (path, form)
    assert (await client.items())[NAME] == before[NAME]


async def test_what_is_not_writeable_stays(client: rig.Client) -> None:
    before = await client.items()
    forms: tuple[dict[str, Any], ...] = ({"d": 1.0}, {"i": 1}, {"s": "x"}, {"ai": []})
    for path, item in before.items():
        if path not in WRITEABLE:
            for form in (*forms, item["Value"]):
                assert await client.write(path, form) == 1, (path, form)
    assert await client.items() == before


# Callers that want no reply, and callers that want trouble


async def test_who_wants_no_reply_gets_none(pack: Pack, client: rig.Client) -> None:
    """Seen from the bus itself: dbus-next sends one, which the daemon then drops."""
    owner, serials, answers = await client.owner(), [], {}
    watcher = await MessageBus(bus_address=pack.address).connect()

    def note(message: Message) -> bool:
        if message.sender == owner and message.destination == client.bus.unique_name:
            answers[message.reply_serial] = message
        return message.message_type is MessageType.METHOD_CALL  # a monitor answers nothing

    watcher.add_message_handler(note)
    monitoring = "org.freedesktop.DBus.Monitoring"
    reply = await watcher.call(
        Message(DAEMON, "/org/freedesktop/DBus", monitoring, "BecomeMonitor", signature="asu", body=[[], 0])
    )
    assert reply.message_type is MessageType.METHOD_RETURN, reply.body
    for path, member, *body in (
        ("/Soc", "GetValue"), ("/Soc", "GetText"), ("/", "GetItems"), ("/Nothing", "GetValue"),
        ("/Soc", "Explode"), ("/Soc", "SetValue"), (NAME, "SetValue", rig.variant({"s": "Quiet"})),
        (NAME, "SetValue", rig.variant({"i": 1})), ("/", "Introspect"),
    ):  # fmt: skip
        message = client.message(path, member, "v" if body else "", *body)
        await client.send(message)
        serials.append(message.serial)
    wanted = client.message("/Soc", "GetValue")
    await client.bus.call(wanted)
    await rig.until(lambda: wanted.serial in answers)
    assert not set(serials) & set(answers)
    assert await client.get(NAME) == "Quiet"
    assert await client.write(NAME, {"s": ""}) == 0
    watcher.disconnect()
    await watcher.wait_for_disconnect()  # type: ignore[no-untyped-call]


class Trouble:
    """Random calls and signals, valid on the wire and senseless otherwise."""

    LEAVES = ("y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g")
    PATHS = ("/", "/Soc", "/Dc", "/Dc/0", NAME, REQUEST, CLEAR, "/Nothing", "/Soc/Deep", "/_/_1")
    MEMBERS = ("GetValue", "GetText", "SetValue", "GetItems", "GetDescription", "SetDefault", "Introspect",
               "Get", "GetAll", "Set", "Ping", "GetMachineId", "GetManagedObjects", "ItemsChanged",
               "PropertiesChanged", "NameOwnerChanged", "NameLost")  # fmt: skip
    INTERFACES = (None, rig.BUS_ITEM, INTROSPECTABLE, PEER, "org.freedesktop.DBus.Properties",
                  "org.freedesktop.DBus", "org.freedesktop.DBus.ObjectManager", "a.b")  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def _word(self) -> str:
        return "".join(self.random.choices(string.ascii_letters, k=self.random.randint(1, 12)))

    def _signature(self, depth: int) -> str:
        choice = self.random.random()
        if depth == 0 or choice < 0.6:
            return self.random.choice(self.LEAVES)
        if choice < 0.7:
            return "v"
        if choice < 0.8:
            return "a" + self._signature(depth - 1)
        if choice < 0.9:
            return "(" + "".join(self._signature(depth - 1) for _ in range(self.random.randint(1, 3))) + ")"
        return "a{" + self.random.choice("si") + self._signature(depth - 1) + "}"

    def _value(self, kind: str, depth: int) -> Any:
        if kind == "v":
            inner = self._signature(depth)
            return Variant(inner, self._value(inner, max(0, depth - 1)))
        if kind.startswith("a{"):
            pieces = range(self.random.randint(0, 3))
            return {self._value(kind[2], 0): self._value(kind[3:-1], depth) for _ in pieces}
        if kind == "ay":
            return self.random.randbytes(self.random.randint(0, 9))
        if kind.startswith("a"):
            return [self._value(kind[1:], depth) for _ in range(self.random.randint(0, 3))]
        if kind.startswith("("):
            return [self._value(part, depth) for part in split(kind[1:-1])]
        return self._leaf(kind)

    def _leaf(self, kind: str) -> Any:
        bits = {"n": 15, "i": 31, "x": 63, "y": 8, "q": 16, "u": 32, "t": 64}
        if kind in bits:
            return self.random.choice([0, 1, 2, 2 ** bits[kind] - 1, -(2 ** bits[kind]) * (kind in "nix")])
        return {
            "b": bool(self.random.getrandbits(1)),
            "d": self.random.choice([0.0, 1.0, -1.5, 1e308, float("nan"), float("inf")]),
            "o": self.random.choice(self.PATHS),
            "g": "a{sv}",
        }.get(kind, self.random.choice(["", "1", self._word(), self._word() * 50, "\n\t\x01", "☼"]))

    def message(self, destination: str) -> Message:
        rare = self.random.random()
        signature = "".join(self._signature(3) for _ in range(self.random.choice([0, 1, 1, 1, 2])))
        member = self.random.choice(self.MEMBERS) if rare < 0.95 else self._word()
        if member == "SetValue":
            signature = self.random.choice(["v", "v", "v", signature])
        return Message(
            destination,
            self.random.choice(self.PATHS),
            self.random.choice(self.INTERFACES) or (None if rare < 0.8 else "c.d"),
            member,
            message_type=MessageType.METHOD_CALL,
            flags=MessageFlag.NO_REPLY_EXPECTED if rare < 0.2 else MessageFlag.NONE,
            signature=signature,
            body=[self._value(kind, 3) for kind in split(signature)],
        )

    def signal(self, destination: str) -> Message:
        signature = "".join(self._signature(2) for _ in range(self.random.choice([0, 1, 1, 3])))
        return Message(
            destination,
            self.random.choice(self.PATHS),
            self.random.choice(self.INTERFACES[1:]),
            self.random.choice(self.MEMBERS),
            message_type=MessageType.SIGNAL,
            signature=signature,
            body=[self._value(kind, 2) for kind in split(signature)],
        )


def split(signature: str) -> list[str]:
    """The complete types of a signature."""
    parts, begin, depth = [], 0, 0
    for end, sign in enumerate(signature, 1):
        depth += (sign in "({") - (sign in ")}")
        if depth == 0 and sign != "a":
            parts.append(signature[begin:end])
            begin = end
    return parts


async def test_ten_thousand_senseless_messages_disturb_nothing(pack: Pack, client: rig.Client) -> None:
    trouble, owner, log = Trouble(7), await client.owner(), pack.log
    assert owner is not None
    before, memory, files = await client.items(), pack.figure("VmRSS"), pack.figure("files")
    codes: dict[str, int] = {}
    for turn in range(100):
        calls = []
        for _ in range(90):
            message = trouble.message(SERVICE)
            if message.flags:
                await client.bus.send(message)
            else:
                calls.append(asyncio.wait_for(client.bus.call(message), rig.PATIENCE_S))
        for _ in range(10):
            await client.bus.send(trouble.signal(owner))
        for reply in await asyncio.gather(*calls):
            codes[reply.error_name or "answered"] = codes.get(reply.error_name or "answered", 0) + 1
        if turn % 10 == 0:
            client.signals.clear()
            millivolts = 53_000 + 5 * turn
            await pack.show(voltage_mv=millivolts)
            await rig.until(lambda: any("/Dc/0/Voltage" in sent.body[0] for sent in client.signals))
            assert await client.get("/Dc/0/Voltage") == millivolts / 1000
    assert await client.owner() == owner
    assert quiet(pack.log) == quiet(log)
    assert pack.figure("VmRSS") - memory < 10_000
    assert pack.figure("files") == files
    errors = {name.removeprefix("org.freedesktop.DBus.Error.") for name in codes}
    assert errors == {"answered", "UnknownObject", "UnknownMethod", "InvalidArgs"}, codes
    await pack.show()
    await rig.until(lambda: shows(client, "/Dc/0/Voltage", 53.12))
    await client.write(NAME, {"s": ""})
    after = await client.items()
    assert set(after) == set(before)
    assert {p: i["Value"].keys() for p, i in after.items()} == {
        p: i["Value"].keys() for p, i in before.items()
    }


async def test_calls_leave_no_line_in_the_log(pack: Pack, client: rig.Client) -> None:
    log = pack.log
    for path in all_paths(16):
        await client.call(path, "GetValue")
        await client.write(path, {"ai": []})
    await client.call("/Nothing", "GetValue")
    assert quiet(pack.log) == quiet(log)


# Coming, going, coming back


async def test_the_name_comes_with_the_second_frame_and_everything_behind_it(
    tmp_path: Path, bus: rig.Daemon, library: str
) -> None:
    """Who looks when the name appears looks once: each path has to be there by then."""
    with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
        async with rig.Client(bus.address, SERVICE) as client:
            await driver.logged("reading ")
            await driver.line.pour(rig.frame(0))
            driver.line.write(bytes(range(58)))
            await driver.logged("CVL")  # the first frame was taken
            assert await client.owner() is None
            await driver.line.pour(rig.frame(1))
            await rig.until(lambda: client.signals)
            assert client.signals[0].member == "NameOwnerChanged"
            assert client.signals[0].body == [SERVICE, "", await client.owner()]
            items = await client.items()
            assert set(items) == set(all_paths(16))
            for path in (
                "/DeviceInstance",
                "/ProductName",
                "/Mgmt/Connection",
                "/Info/MaxChargeVoltage",
                "/Info/MaxChargeCurrent",
                "/Info/MaxDischargeCurrent",
                "/Dc/0/Voltage",
                "/Soc",
            ):
                assert items[path] != NO_VALUE, path
            await driver.line.pour(*(rig.frame(turn, voltage_mv=53000 + 5 * turn) for turn in range(2, 42)))
            await rig.until(
                lambda: any(
                    rig.plain(sent.body[0]).get("/Dc/0/Voltage", {}).get("Value") == {"d": 53.205}
                    for sent in client.signals[1:]
                )
            )
            assert set().union(*(sent.body[0] for sent in client.signals[1:])) <= set(items)


def wandering() -> Iterator[dict[str, Any]]:
    """Frames at the ends of what the wire can say; a change of what is rare twice, as it has to be."""
    rest: dict[str, Any] = {"key": None}
    yield from ({} for _ in range(40))
    for currents in (
        (None, None, None),
        (None, 0, 0),
        (0, None, None),
        (0, 0, 0),
        (8_191_875, None, -8_191_875),
    ):
        yield dict(zip(("current1_ma", "current2_ma", "current_ma"), currents, strict=True)) | rest
    yield {"current_ma": 5_000, "stored_wh": 16_000, "soc_percent": 100}  # charging, full
    yield {"stored_wh": 0, "soc_percent": 0}
    yield {"stored_wh": 0xFFFFFF, "soc_percent": 100, "collected_kwh": 0xFFFFFF, "consumed_kwh": 0}
    yield {"collected_today_wh": 0, "consumed_today_wh": 0xFFFFFF}
    yield {"coldest_raw": 0, "hottest_raw": 65535, "cell_raw": 65535}
    nothing_heard = dict.fromkeys(
        ("lowest_mv", "lowest_cell", "highest_mv", "highest_cell", "coldest_raw", "coldest_cell",
         "hottest_raw", "hottest_cell", "cell", "cell_mv", "cell_raw", "voltage_mv"), 0
    )  # fmt: skip
    yield nothing_heard | {"status": layout.NO_COMMUNICATION}
    yield {"status": 0xFF}
    yield {"status": 0}
    yield from ({"status": layout.UNDER_VMIN | layout.SOC_NOT_CALIBRATED} for _ in range(4))
    for key, value in ((0, 101), (1, 255), (0, 0), (200, 9), (16, 0xFF), (6, 0xFF), (7, 0xFF)):
        yield {"key": key, "value": value}
    rares: tuple[dict[str, Any], ...] = (
        {"capacity_wh": 0}, {"capacity_wh": 6_553_500}, {"vbalance_mv": 0}, {"vmin_mv": 0, "vmax_mv": 0},
        {"vmin_mv": 327_675, "vmax_mv": 327_675}, {"vbalance_mv": 3_300},
        {"cells": 17, "cell": 17},
    )  # fmt: skip
    for rare in rares:
        yield from [rare | rest, rare | rest, rest, rest]


async def test_types_never_wander(tmp_path: Path, bus: rig.Daemon, library: str) -> None:
    """A float in an int's place makes systemcalc exit: every signal, to the ends of every field."""
    kinds = all_paths(17)
    options = ("--set", "link.hold_s=3")
    with rig.driver(tmp_path, bus.address, *options, DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.ready()
        async with rig.Client(bus.address, SERVICE) as client:
            frames = [rig.frame(turn, **changes) for turn, changes in enumerate(wandering())]
            await driver.line.pour(*frames, rig.frame(0, voltage_mv=50_000))
            await rig.until(lambda: said(client, "/Dc/0/Voltage", {"d": 50.0}))
            await rig.until(lambda: said(client, "/State", {"i": 10}))  # the link is lost
            lost = await client.items()
            await driver.line.pour(*(rig.frame(turn) for turn in range(4)))
            await rig.until(lambda: said(client, "/State", {"i": 9}))
            both_ways: dict[str, set[str]] = {}
            for sent in client.signals:
                for path, item in rig.plain(sent.body[0]).items():
                    ((kind, value),) = item["Value"].items()
                    assert (kind, value) == ("ai", []) or kind == kinds[path], (path, item)
                    assert item["Text"].keys() == {"s"}, path
                    both_ways.setdefault(path, set()).add(kind)
            assert {
                "/Dc/0/Current",
                "/TimeToGo",
                "/Soh",
                "/System/MinVoltageCellId",
                "/InstalledCapacity",
                "/Voltages/Cell17",
                "/Battery/1/Cell/3/Voltage",
            } <= {p for p, k in both_ways.items() if len(k) == 2}
            assert lost["/Dc/0/Voltage"] == lost["/Soc"] == lost["/Battery/1/Cell/3/Voltage"] == NO_VALUE
            for limit in ("/Info/MaxChargeVoltage", "/Info/MaxChargeCurrent", "/Info/MaxDischargeCurrent",
                          "/Info/BatteryLowVoltage"):  # fmt: skip
                assert lost[limit]["Value"].keys() == {"d"}, limit


def said(client: rig.Client, path: str, value: dict[str, Any]) -> bool:
    """Whether a value was announced."""
    return any(
        path in sent.body[0] and rig.plain(sent.body[0][path]["Value"]) == value for sent in client.signals
    )


async def test_a_taken_name_is_said_once_and_taken_when_free(
    tmp_path: Path, bus: rig.Daemon, library: str
) -> None:
    async with rig.Client(bus.address, SERVICE) as client:
        await client.daemon("RequestName", "su", SERVICE, 4)
        await client.daemon("AddMatch", "s", "type='signal',member='NameOwnerChanged',arg2=''")
        with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
            await driver.logged("reading ")
            await driver.line.pour(rig.frame(0), rig.frame(1))

            def tries() -> int:
                return sum(1 for sent in client.signals if sent.body[0].startswith(":") and not sent.body[2])

            await rig.until(lambda: tries() == 1)
            files = driver.figure("files")
            await rig.until(lambda: tries() == 2)
            assert driver.log.count("is taken") == 1
            assert "on the bus" not in driver.log
            await rig.until(lambda: driver.figure("files") <= files)
            await client.daemon("ReleaseName", "s", SERVICE)
            await driver.logged("on the bus")
            assert await client.get("/Dc/0/Voltage") == 53.12
            assert driver.log.count("is taken") == 1


async def test_it_is_back_after_the_daemons_restart(
    tmp_path: Path, bus: rig.Daemon, library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.ready()
        files = driver.figure("files")
        bus.stop()
        await driver.logged("the bus is gone")
        await driver.line.pour(rig.frame(9, voltage_mv=52_000))
        bus.socket.unlink(missing_ok=True)
        begin = time.monotonic()
        bus.start()
        async with rig.Client(bus.address, SERVICE) as client:
            await rig.until(client.owner)
            took = time.monotonic() - begin
            assert await client.get("/Dc/0/Voltage") == 52.0
            assert set(await client.items()) == set(all_paths(16))
            await driver.line.pour(rig.frame(9))
            await rig.until(lambda: said(client, "/Dc/0/Voltage", {"d": 53.12}))
        with capsys.disabled():
            print(f"\n  {library}: back on the bus {took:.2f} s after the daemon (to reach: under 5 s)")
        assert took < 5
        await rig.until(lambda: driver.figure("files") == files)
        assert driver.log.count("no bus") <= 2, "a line for each reason"


async def test_a_bus_that_stands_still_costs_no_memory(tmp_path: Path, bus: rig.Daemon, library: str) -> None:
    """The daemon stopped while 4,000 frames come in: far more than fits in any buffer."""
    with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.ready()
        assert bus.process is not None
        memory = driver.figure("VmRSS")
        bus.process.send_signal(signal.SIGSTOP)
        frames = (rig.frame(turn, voltage_mv=52_000 + 5 * (turn % 200)) for turn in range(4_000))
        await driver.line.pour(*frames)
        await driver.logged("the bus does not take our messages")
        grown = driver.figure("VmRSS") - memory
        bus.process.send_signal(signal.SIGCONT)
        async with rig.Client(bus.address, SERVICE) as client:
            await driver.logged("on the bus", 2)
            await driver.line.pour(rig.frame(3))
            await rig.until(lambda: said(client, "/Dc/0/Voltage", {"d": 53.12}))
        assert grown < 10_000, "kB"


async def test_a_short_stand_still_loses_nothing(tmp_path: Path, bus: rig.Daemon, library: str) -> None:
    """150 signals meet a full socket: both libraries would end the connection there."""
    with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.ready()
        async with rig.Client(bus.address, SERVICE) as client:
            owner = await client.owner()
            assert bus.process is not None
            bus.process.send_signal(signal.SIGSTOP)
            await driver.line.pour(*(rig.frame(turn, voltage_mv=52_000 + 5 * turn) for turn in range(150)))
            bus.process.send_signal(signal.SIGCONT)
            await rig.until(lambda: said(client, "/Dc/0/Voltage", {"d": 52.745}))
            # and what was sent counts no longer: another 150 do not make it too many
            await driver.line.pour(*(rig.frame(turn, voltage_mv=53_000 + 5 * turn) for turn in range(150)))
            await rig.until(lambda: said(client, "/Dc/0/Voltage", {"d": 53.745}))
            assert await client.owner() == owner
            assert sum("/Dc/0/Voltage" in sent.body[0] for sent in client.signals) == 300


async def test_many_may_ask_for_everything_at_once(tmp_path: Path, bus: rig.Daemon, library: str) -> None:
    """What happens when the name appears; 255 cells are 1,400 paths, and ten answers fill any socket."""
    with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.ready(cells=255, voltage_mv=840_000)
        async with rig.Client(bus.address, SERVICE) as client:
            owner = await client.owner()
            answers = await asyncio.gather(*(client.items() for _ in range(10)))
            assert all(set(items) == set(all_paths(255)) for items in answers)
            assert await client.owner() == owner


async def test_without_a_bus_it_lives_and_says_so_once(tmp_path: Path, library: str) -> None:
    """No socket; then one that hangs up in the handshake, where dbus-next would spin; then a bus."""
    socket = tmp_path / "bus"
    with rig.driver(tmp_path, f"unix:path={socket}", DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.logged("reading ")
        await driver.line.pour(rig.frame(0), rig.frame(1))
        await driver.logged("no bus")
        calls = []

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls.append(await reader.readline())
            writer.close()

        server = await asyncio.start_unix_server(hang_up, socket)
        await rig.until(lambda: len(calls) == 2)
        server.close()
        await server.wait_closed()
        socket.unlink(missing_ok=True)
        assert driver.log.count("no bus") == 2, "a line for each reason"
        await driver.line.pour(rig.frame(2, voltage_mv=52_000))
        with rig.daemon(tmp_path) as daemon:
            async with rig.Client(daemon.address, SERVICE) as client:
                await rig.until(client.owner)
                assert await client.get("/Dc/0/Voltage") == 52.0
                assert driver.log.count("no bus") <= 3


async def test_a_gx_that_does_not_answer_does_not_keep_it_off_the_bus(
    tmp_path: Path, bus: rig.Daemon, library: str
) -> None:
    """systemcalc busy or hung: what it does with our limits can wait, our name can not."""
    async with rig.Client(bus.address, SERVICE) as client:
        await client.daemon("RequestName", "su", "com.victronenergy.system", 4)
        client.bus.add_message_handler(lambda message: message.message_type is MessageType.METHOD_CALL)
        with rig.driver(tmp_path, bus.address, DBUS_SMARTBMS_LIBRARY=library) as driver:
            await driver.logged("reading ")
            begin = time.monotonic()
            await driver.line.pour(rig.frame(0), rig.frame(1))
            await rig.until(client.owner)
            assert time.monotonic() - begin < CALL_S


async def test_a_configuration_with_a_nul_in_it_does_not_keep_it_off_the_bus(
    tmp_path: Path, bus: rig.Daemon, library: str
) -> None:
    """The daemon ends the connection of whoever sends a text with a NUL."""
    file = tmp_path / "bms.ini"
    file.write_bytes(b"[link\0]\nhold_s = 5\n")
    options = ("--config", str(file))
    with rig.driver(tmp_path, bus.address, *options, DBUS_SMARTBMS_LIBRARY=library) as driver:
        await driver.ready()
        async with rig.Client(bus.address, SERVICE) as client:
            assert "unknown section [link" in await client.get("/SmartBms/Configuration/FirstError")
            assert await client.get("/Dc/0/Voltage") == 53.12


# The connection by itself


@contextlib.asynccontextmanager
async def connected(bus: Any, monkeypatch: pytest.MonkeyPatch, address: str) -> AsyncIterator[Any]:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    connection = bus.Connection()
    await connection.connect()
    try:
        yield connection
    finally:
        connection.disconnect()
        await connection.closed()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_watch_tells_of_changes_of_either_form_and_of_coming_and_going(
    bus: rig.Daemon, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ItemsChanged as ours sends it, PropertiesChanged as velib does."""
    other, heard = "com.victronenergy.system", []
    async with (
        connected(rig.bus_on(library), monkeypatch, bus.address) as connection,
        rig.Client(bus.address, other) as client,
    ):
        await connection.watch(other, lambda path, entry: heard.append((path, entry)))
        await client.daemon("RequestName", "su", other, 4)
        text = {"Text": Variant("s", "1")}

        async def emit(path: str, member: str, signature: str, *body: Any, **more: Any) -> None:
            interface = more.pop("interface", rig.BUS_ITEM)
            message = Message.new_signal(path, interface, member, signature, list(body))
            message.destination = more.pop("destination", None)
            await client.bus.send(message)

        await emit("/", "ItemsChanged", "a{sa{sv}}", {"/A": {"Value": Variant("i", 1)} | text, "/B": text})
        await emit("/A", "PropertiesChanged", "a{sv}", {"Value": Variant("ai", [])} | text)
        ours = connection._bus.unique_name
        await emit("/A", "PropertiesChanged", "a{sv}", text, interface="org.freedesktop.DBus.Properties")
        await emit("/A", "PropertiesChanged", "s", "x", destination=ours)
        await emit("/", "ItemsChanged", "", destination=ours)
        await emit("/", "ItemsChanged", "as", ["/A"], destination=ours)
        await emit("/", "NameOwnerChanged", "", interface=DAEMON, destination=ours)
        await emit("/", "NameOwnerChanged", "sss", other, "", "", interface=DAEMON, destination=ours)
        await client.daemon("ReleaseName", "s", other)
        await rig.until(lambda: len(heard) == 5)
    assert heard == [
        ("", {}),
        ("/A", {"Value": 1, "Text": "1"}),
        ("/B", {"Text": "1"}),
        ("/A", {"Value": None, "Text": "1"}),
        ("", {}),
    ]


async def test_a_call_that_fails_says_why(
    bus: rig.Daemon, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = rig.bus_on(library)
    async with (
        connected(module, monkeypatch, bus.address) as connection,
        rig.Client(bus.address, "com.example.mute") as client,
    ):
        with pytest.raises(module.BusError, match="ServiceUnknown"):
            await connection.get_items("com.example.nobody")
        await client.daemon("RequestName", "su", "com.example.mute", 4)
        calls: list[Message] = []

        def swallow(message: Message) -> bool:
            calls.append(message)
            return message.message_type is MessageType.METHOD_CALL

        client.bus.add_message_handler(swallow)
        monkeypatch.setattr(module, "CALL_S", 0.1)
        with pytest.raises(module.BusError, match=r"GetItems on com\.example\.mute: TimeoutError"):
            await connection.get_items("com.example.mute")
        monkeypatch.setattr(module, "CALL_S", rig.PATIENCE_S)
        waiting = asyncio.create_task(connection.get_items("com.example.mute"))
        await rig.until(lambda: [call.member for call in calls].count("GetItems") == 2)
        connection.disconnect()
        with pytest.raises(module.BusError, match=r"GetItems on com\.example\.mute"):
            await waiting
        await connection.closed()
        assert not connection.connected
        with pytest.raises(module.BusError, match="not connected"):
            await connection.get_items("com.example.mute")


async def test_where_there_was_no_connection_its_end_is_no_matter(library: str) -> None:
    module = rig.bus_on(library)
    service = module.Service("com.example.none", Items(), lambda: None)
    service.disconnect()
    service.send(None)
    await service.leave()
    await service.closed()
    assert not service.connected


async def test_without_a_session_it_is_the_system_bus(
    bus: rig.Daemon, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    connection = rig.bus_on(library).Connection()
    await connection.connect()
    assert await connection.request_name("com.example.system")
    connection.disconnect()
    await connection.closed()


@pytest.mark.parametrize("answer", [b"", b"OK " + b"0123abcd" * 4 + b"\r\n"], ids=["mute", "no name"])
async def test_a_handshake_that_does_not_end_is_given_up_and_leaves_nothing_open(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    module = rig.bus_on(library)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    monkeypatch.setattr(module, "CONNECT_S", 0.1)
    peers: list[asyncio.StreamWriter] = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        await reader.readline()
        writer.write(answer)
        await reader.read()  # until the other side gives up
        writer.close()

    server = await asyncio.start_unix_server(stall, tmp_path / "bus")
    files = open_files()
    for _ in range(5):
        with pytest.raises(module.BusError, match="TimeoutError"):
            await module.Connection().connect()
    for peer in peers:
        await peer.wait_closed()
    assert open_files() == files
    server.close()
    await server.wait_closed()


async def test_a_handshake_of_garbage_is_no_bus(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = rig.bus_on(library)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")

    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xff\xfe220 ready\r\n")
        writer.close()

    server = await asyncio.start_unix_server(babble, tmp_path / "bus")
    with pytest.raises(module.BusError):
        await module.Connection().connect()
    server.close()
    await server.wait_closed()


async def test_connections_that_ended_leave_nothing_open(
    bus: rig.Daemon, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = rig.bus_on(library)
    async with connected(module, monkeypatch, bus.address):
        pass
    files = open_files()
    service = module.Service("com.example.again", Items(), lambda: None)
    for _ in range(20):
        await service.connect()
        assert await service.take_name()
        await service.leave()
        await service.closed()
    assert open_files() == files


async def test_nothing_is_announced_before_the_name_is_ours(
    bus: rig.Daemon, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
    items = Items()
    items.items["/A"] = Item("i")
    service = rig.bus_on(library).Service("com.example.early", items, lambda: None)
    async with rig.Client(bus.address, "com.example.early") as client:
        await client.daemon("AddMatch", "s", f"type='signal',interface='{rig.BUS_ITEM}'")
        await service.connect()
        service.announce(items.items)
        assert await service.take_name()
        service.announce({})
        service.announce(items.items)
        await rig.until(lambda: len(client.signals) == 2)
        await service.leave()
        await service.closed()
        await rig.until(lambda: len(client.signals) == 3)
    members = [sent.member for sent in client.signals]
    assert members == ["NameOwnerChanged", "ItemsChanged", "NameOwnerChanged"]
