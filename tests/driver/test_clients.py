"""Clients that we did not write, against the driver as a process.

Each reads a measured value, the limits and everything, writes the name, and sees its codes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms.driver import SERVICE
from dbus_smartbms.paths import CELL_ROWS, ROWS
from smartbms_protocol import encode

SYSTEM_PYTHON = "/usr/bin/python3"
PATHS = {row.path.replace("{b}", "1") for row in ROWS} | {
    row.path.replace("{b}", "1").replace("{c}", str(cell)) for cell in range(1, 17) for row in CELL_ROWS
}
LIMITS = {
    "/Info/MaxChargeVoltage": 54.88,
    "/Info/MaxChargeCurrent": 151.5,
    "/Info/MaxDischargeCurrent": 303.0,
    "/Info/BatteryLowVoltage": 46.4,
}
EMPTY = "/History/TimeSinceLastFullCharge"
"""A path without a value: this pack was never full."""
WRITES = (("s", "Boat", 0), ("s", "x" * 33, 2), ("i", 5, 1), ("d", 1.5, 1), ("s", "", 0))
"""Type, value and the code of writing it to /CustomName."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bus with the driver on it, whose pack is fully known and goes on being read."""
    folder = tmp_path_factory.mktemp("clients")
    ended = threading.Event()
    with rig.daemon(folder) as daemon, rig.driver(folder, daemon.address) as driver:
        asyncio.run(fill(driver, daemon.address))
        feeding = threading.Thread(target=feed, args=(driver.line, ended))
        feeding.start()
        yield daemon.address
        ended.set()
        feeding.join()


def feed(line: rig.Line, ended: threading.Event) -> None:
    for turn in itertools.count(41):
        line.write(encode(rig.frame(turn)))
        if ended.wait(0.2):
            return


async def fill(driver: rig.Driver, address: str) -> None:
    await driver.ready()
    await driver.line.pour(*(rig.frame(turn) for turn in range(41)))
    async with rig.Client(address, SERVICE) as client:
        await rig.until(lambda: known(client))


async def known(client: rig.Client) -> bool:
    items = await client.items()
    return bool(items["/Voltages/Sum"]["Value"] == {"d": 53.12} and items["/Soh"]["Value"] == {"d": 95.0})


def run(*command: str, address: str, **environment: str) -> str:
    """What a program prints; it has to end well, and soon."""
    variables = os.environ | environment | {"DBUS_SESSION_BUS_ADDRESS": address}
    ended = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=rig.PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def needs(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")


# dbus-send


def dbus_send(address: str, path: str, member: str, *arguments: str) -> str:
    needs("dbus-send", "dbus")
    call = ("--print-reply", f"--dest={SERVICE}", path, f"{rig.BUS_ITEM}.{member}", *arguments)
    return run("dbus-send", f"--bus={address}", *call, address=address).partition("\n")[2].strip()


def test_dbus_send(address: str) -> None:
    assert dbus_send(address, "/Dc/0/Voltage", "GetValue").split() == ["variant", "double", "53.12"]
    assert dbus_send(address, "/Dc/0/Voltage", "GetText") == 'string "53.12 V"'
    assert dbus_send(address, "/History/TimeSinceLastFullCharge", "GetValue").split()[:2] == [
        "variant",
        "array",
    ]
    for path, limit in LIMITS.items():
        assert dbus_send(address, path, "GetValue").split() == ["variant", "double", f"{limit:g}"]
    everything = dbus_send(address, "/", "GetItems")
    assert set(re.findall(r'string "(/[^"]+)"\n\s+array', everything)) == PATHS
    names = {"s": "string", "i": "int32", "d": "double"}
    for kind, value, code in WRITES:
        written = dbus_send(address, "/CustomName", "SetValue", f"variant:{names[kind]}:{value}")
        assert written == f"int32 {code}"
    assert dbus_send(address, "/Dc/0/Voltage", "SetValue", "variant:double:1") == "int32 1"


# busctl


def busctl(address: str, *words: str) -> Any:
    needs("busctl", "systemd")
    return run("busctl", f"--address={address}", *words, address=address)


def test_busctl(address: str) -> None:
    def call(path: str, member: str, *arguments: str) -> Any:
        answer = busctl(address, "--json=short", "call", SERVICE, path, rig.BUS_ITEM, member, *arguments)
        return json.loads(answer)["data"][0]

    assert call("/Dc/0/Voltage", "GetValue") == {"type": "d", "data": 53.12}
    assert call(EMPTY, "GetValue") == {"type": "ai", "data": []}
    items = call("/", "GetItems")
    assert set(items) == PATHS
    assert {path: items[path]["Value"]["data"] for path in LIMITS} == LIMITS
    for kind, value, code in WRITES:
        assert call("/CustomName", "SetValue", "v", kind, str(value)) == code
    assert call("/Soc", "SetValue", "v", "d", "1") == 1


def test_busctl_walks_the_introspection_to_every_leaf(address: str) -> None:
    found = set(busctl(address, "--list", "tree", SERVICE).split())
    nodes = {path[:end] for path in PATHS for end in range(1, len(path)) if path[end] == "/"}
    assert found == PATHS | nodes | {"/"}
    described = busctl(address, "introspect", SERVICE, "/Dc/0/Voltage", rig.BUS_ITEM)
    assert re.search(r"\.SetValue\s+method\s+v\s+i\s", described)


# Debian's python3-dbus, the library under velib_python: it leaves the interface out unless told

LIBDBUS = """
import dbus, json, sys
bus = dbus.bus.BusConnection(sys.argv[1])
def at(path):
    return bus.get_object(sys.argv[2], path, introspect=False)
kinds = {"s": dbus.String, "i": dbus.Int32, "d": dbus.Double}
items = at("/").GetItems()
print(json.dumps({
    "voltage": at("/Dc/0/Voltage").GetValue(),
    "text": at("/Dc/0/Voltage").GetText(),
    "none": at("/History/TimeSinceLastFullCharge").GetValue(),
    "node": at("/Dc/0").GetValue(),
    "items": {path: item["Value"] for path, item in items.items()},
    "codes": [at("/CustomName").SetValue(kinds[k](v, variant_level=1)) for k, v in json.loads(sys.argv[3])],
}))
"""


def needs_libdbus() -> None:
    if subprocess.run([SYSTEM_PYTHON, "-c", "import dbus, gi"], capture_output=True, check=False).returncode:
        pytest.skip("python3-dbus is missing: apt-get install python3-dbus python3-gi")


def test_python3_dbus(address: str) -> None:
    needs_libdbus()
    writes = json.dumps([(kind, value) for kind, value, _ in WRITES])
    seen = json.loads(run(SYSTEM_PYTHON, "-c", LIBDBUS, address, SERVICE, writes, address=address))
    assert (seen["voltage"], seen["text"], seen["none"]) == (53.12, "53.12 V", [])
    assert seen["node"] == {"Voltage": 53.12, "Current": -12.5, "Power": -664.0, "Temperature": 21.5}
    assert set(seen["items"]) == PATHS
    assert {path: seen["items"][path] for path in LIMITS} == LIMITS
    assert seen["codes"] == [code for _, _, code in WRITES]


# velib_python's own client side, which Victron's programs use

VELIB = """
import json, sys
from dbus.mainloop.glib import DBusGMainLoop
DBusGMainLoop(set_as_default=True)
import dbus
from gi.repository import GLib
sys.path.insert(0, sys.argv[1])
from dbusmonitor import DbusMonitor
from vedbus import VeDbusItemImport
service, loop, seen = sys.argv[2], GLib.MainLoop(), []
def changed(name, path, options, changes, instance):
    seen.append([name, path, changes["Value"], changes["Text"], instance])
    loop.quit()
options = {"code": None, "whenToLog": "always", "accessLevel": None}
paths = ["/Dc/0/Voltage", "/Info/MaxChargeVoltage", "/CustomName", "/Soc", "/ProductName"]
monitor = DbusMonitor({"com.victronenergy.battery": {path: options for path in paths}}, changed)
values = {path: monitor.get_value(service, path) for path in paths}
name = VeDbusItemImport(dbus.SessionBus(), service, "/CustomName")
codes = [name.set_value(value) for value in ("Boat", "x" * 33, 5)]
loop.run()
print(json.dumps({
    "instance": monitor.get_device_instance(service), "values": values, "codes": codes, "seen": seen,
    "after": name.get_value(), "exists": name.exists, "last": name.set_value(""),
}))
"""


def test_velibs_monitor_and_import(address: str) -> None:
    if "VELIB_PYTHON" not in os.environ:
        pytest.skip("set VELIB_PYTHON to a checkout of victronenergy/velib_python")
    needs_libdbus()
    command = (SYSTEM_PYTHON, "-c", VELIB, os.environ["VELIB_PYTHON"], SERVICE)
    told = json.loads(run(*command, address=address))
    assert told["instance"] == 123
    assert told["values"] == {
        "/Dc/0/Voltage": 53.12,
        "/Info/MaxChargeVoltage": 54.88,
        "/CustomName": "",
        "/Soc": 50.0,
        "/ProductName": r"123\SmartBMS",
    }
    assert told["codes"] == [0, 2, 1]
    assert told["seen"] == [[SERVICE, "/CustomName", "Boat", "Boat", 123]]
    assert (told["after"], told["exists"], told["last"]) == ("Boat", True, 0)


# The library under Victron's Node-RED nodes

NODE = r"""
const dbus = require('dbus-native-victron');
const [address, destination, writes] = [process.argv[1], process.argv[2], JSON.parse(process.argv[3])];
const bus = dbus.createClient({ busAddress: address, authMethods: ['EXTERNAL'] });
const call = (path, member, signature, body, iface) => new Promise((resolve, reject) => {
  const message = { destination, path, member, signature, body };
  if (iface !== null) message.interface = 'com.victronenergy.BusItem';
  bus.invoke(message, (error, answer) => (error ? reject(new Error(error)) : resolve(answer)));
});
const value = (variant) => variant[1][0];
const announced = [];
bus.addMatch("type='signal',member='ItemsChanged',path='/'", async () => {
  bus.connection.on('message', (message) => {
    if (message.member === 'ItemsChanged') announced.push(message.body[0]);
  });
  const items = await call('/', 'GetItems');
  const codes = [];
  for (const variant of writes) codes.push(await call('/CustomName', 'SetValue', 'v', [variant]));
  console.log(JSON.stringify({
    voltage: value(await call('/Dc/0/Voltage', 'GetValue')),
    plain: value(await call('/Dc/0/Voltage', 'GetValue', undefined, undefined, null)),
    text: await call('/Dc/0/Voltage', 'GetText'),
    none: await call('/History/TimeSinceLastFullCharge', 'GetValue'),
    items: Object.fromEntries(items.map(([path, entry]) => [path, value(Object.fromEntries(entry).Value)])),
    codes,
    announced: announced.flat().filter(([path]) => path === '/CustomName')
      .map(([path, entry]) => [path, ...entry.map((one) => value(one[1]))]),
  }));
  bus.connection.end();
});
"""


def test_node(address: str) -> None:
    needs("node", "nodejs")
    folder = os.environ.get("NODE_CLIENT", "")
    if not (Path(folder) / "node_modules" / "dbus-native-victron").is_dir():
        how = "npm install --ignore-scripts --omit=optional --prefix DIR dbus-native-victron@0.4.3"
        pytest.skip(f"dbus-native-victron is missing: {how}; export NODE_CLIENT=DIR")
    writes = json.dumps([(kind, value) for kind, value, _ in WRITES])
    modules = str(Path(folder).resolve() / "node_modules")
    told = json.loads(run("node", "-e", NODE, address, SERVICE, writes, address=address, NODE_PATH=modules))
    assert (told["voltage"], told["plain"], told["text"]) == (53.12, 53.12, "53.12 V")
    assert told["none"][1] == [[]]
    assert set(told["items"]) == PATHS
    assert {path: told["items"][path] for path in LIMITS} == LIMITS
    assert told["codes"] == [code for _, _, code in WRITES]
    assert told["announced"] == [["/CustomName", "Boat", "Boat"], ["/CustomName", "", ""]]
