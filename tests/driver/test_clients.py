"""Clients that we did not write, each against the driver as a process on a real bus.

Where one cannot be had its test is skipped and says what to install; CI installs them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import rig
from dbus_smartbms.driver import SERVICE

BUS_ITEM = "com.victronenergy.BusItem"
SYSTEM_PYTHON = "/usr/bin/python3"
NODE_CLIENT = os.environ.get("NODE_CLIENT", "")


def has_python3_dbus() -> bool:
    """Debian's binding of libdbus, on which velib_python stands."""
    return (
        Path(SYSTEM_PYTHON).exists()
        and subprocess.run([SYSTEM_PYTHON, "-c", "import dbus"], capture_output=True, check=False).returncode
        == 0
    )


def has_node_client() -> bool:
    return bool(
        shutil.which("node")
        and NODE_CLIENT
        and Path(NODE_CLIENT, "node_modules", "dbus-native-victron").exists()
    )


@pytest.fixture
async def pack(tmp_path: Path) -> AsyncIterator[rig.Driver]:
    """A pack on a bus, whose frames have ended: nothing changes while a client looks."""
    with rig.daemon(tmp_path) as daemon, rig.driver(tmp_path, daemon.address) as driver:
        await driver.ready()
        yield driver


async def ask(pack: rig.Driver, *command: str) -> str:
    """Run a client to its end; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"DBUS_SESSION_BUS_ADDRESS": pack.address},
    )
    text, _ = await asyncio.wait_for(process.communicate(), rig.PATIENCE_S)
    return text.decode()


@pytest.mark.skipif(not shutil.which("dbus-send"), reason="dbus-send is missing: apt-get install dbus")
async def test_dbus_send(pack: rig.Driver) -> None:
    async def call(path: str, member: str, *arguments: str) -> str:
        command = ("dbus-send", "--session", "--print-reply", f"--dest={SERVICE}")
        return await ask(pack, *command, path, f"{BUS_ITEM}.{member}", *arguments)

    assert "variant       double 53.12" in await call("/Dc/0/Voltage", "GetValue")
    assert 'string "53.12 V"' in await call("/Dc/0/Voltage", "GetText")
    assert "double 151.5" in await call("/Info/MaxChargeCurrent", "GetValue")
    assert (await call("/", "GetItems")).count('string "Value"') > 150
    assert "int32 0" in await call("/CustomName", "SetValue", "variant:string:House")
    assert 'string "House"' in await call("/CustomName", "GetValue")
    assert "int32 1" in await call("/CustomName", "SetValue", "variant:int32:5")
    assert "int32 1" in await call("/Info/MaxChargeCurrent", "SetValue", "variant:double:500")
    assert "int32 2" in await call("/Battery/Request/Id", "SetValue", "variant:int32:2")
    assert "org.freedesktop.DBus.Error.UnknownObject" in await call("/Nothing", "GetValue")


@pytest.mark.skipif(not shutil.which("busctl"), reason="busctl is missing: apt-get install systemd")
async def test_busctl(pack: rig.Driver) -> None:
    async def busctl(*words: str) -> str:
        return await ask(pack, "busctl", f"--address={pack.address}", "--no-pager", *words)

    assert await busctl("call", SERVICE, "/Dc/0/Current", BUS_ITEM, "GetValue") == "v d -12.5\n"
    assert await busctl("call", SERVICE, "/Info/MaxChargeVoltage", BUS_ITEM, "GetText") == 's "54.88 V"\n'
    assert (
        await busctl("call", SERVICE, "/Battery/Request/Id", BUS_ITEM, "SetValue", "v", "i", "3") == "i 2\n"
    )
    tree = await busctl("tree", "--list", SERVICE)
    assert "/Battery/1/Cell/16/Voltage" in tree
    assert "GetValue" in await busctl("introspect", SERVICE, "/Soc")


PYTHON3_DBUS = """
import dbus, sys
bus = dbus.SessionBus()
name = sys.argv[1]
def item(path):
    return dbus.Interface(bus.get_object(name, path, introspect=False), "com.victronenergy.BusItem")
assert item("/Dc/0/Voltage").GetValue() == 53.12
assert isinstance(item("/System/NrOfCellsPerBattery").GetValue(), dbus.Int32)
assert item("/Dc").GetValue() == {"0/Voltage": 53.12, "0/Current": -12.5, "0/Power": -664.0,
                                  "0/Temperature": 21.5}
assert len(item("/").GetItems()) > 150
# as velib_python calls: without an interface
bare = bus.get_object(name, "/Info/MaxChargeCurrent", introspect=False)
assert bare.GetValue() == 151.5
assert item("/CustomName").SetValue(dbus.String("Shed", variant_level=1)) == 0
assert item("/CustomName").SetValue(dbus.Double(1.5, variant_level=1)) == 1
assert item("/History/Clear").SetValue(dbus.Int32(7, variant_level=1)) == 2
print("all well")
"""


@pytest.mark.skipif(not has_python3_dbus(), reason="python3-dbus is missing: apt-get install python3-dbus")
async def test_python3_dbus(pack: rig.Driver) -> None:
    assert await ask(pack, SYSTEM_PYTHON, "-c", PYTHON3_DBUS, SERVICE) == "all well\n"


NODE = """
const bus = require("dbus-native-victron").sessionBus({ busAddress: process.env.DBUS_SESSION_BUS_ADDRESS });
const call = (path, member, signature, ...body) => new Promise((resolve, reject) => bus.invoke(
  { destination: process.argv[2], path, interface: "com.victronenergy.BusItem", member, signature, body },
  (error, answer) => (error ? reject(new Error(String(error))) : resolve(answer))));
(async () => {
  const heard = new Promise((resolve) => bus.connection.on("message", (message) => {
    if (message.member === "ItemsChanged") resolve(JSON.stringify(message.body));
  }));
  await new Promise((resolve) => bus.addMatch("type='signal',member='ItemsChanged'", resolve));
  const voltage = await call("/Dc/0/Voltage", "GetValue");
  const items = await call("/", "GetItems");
  const codes = [await call("/CustomName", "SetValue", "v", ["s", "Boat"]),
                 await call("/Info/MaxChargeCurrent", "SetValue", "v", ["d", 500]),
                 await call("/Battery/Request/Id", "SetValue", "v", ["i", 9])];
  console.log(JSON.stringify({ voltage: voltage[1][0], items: items.length, codes, told: await heard }));
  process.exit(0);
})().catch((error) => { console.log(String(error)); process.exit(1); });
"""


@pytest.mark.skipif(
    not has_node_client(),
    reason="the client of Victron's Node-RED nodes is missing: npm install --prefix DIR --ignore-scripts "
    "--omit=optional dbus-native-victron@0.4.3, and NODE_CLIENT=DIR",
)
async def test_node(pack: rig.Driver, tmp_path: Path) -> None:
    script = Path(NODE_CLIENT) / f"client-{tmp_path.name}.js"
    script.write_text(NODE)
    try:
        answer = json.loads(await ask(pack, "node", str(script), SERVICE))
    finally:
        script.unlink()
    assert answer["voltage"] == 53.12
    assert answer["items"] > 150
    assert answer["codes"] == [0, 1, 2]
    assert "/CustomName" in answer["told"]
    assert "Boat" in answer["told"]
