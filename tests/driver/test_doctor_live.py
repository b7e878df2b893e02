"""``doctor`` as a process: beside the real driver on a real bus, with nothing at all, with what hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

import rig
from dbus_smartbms import bus as bus_module
from dbus_smartbms.driver import SERVICE
from dbus_smartbms.items import Item, Items
from smartbms_protocol import encode

FASTER = "import dbus_smartbms.bus as b; b.CONNECT_S = b.CALL_S = 3.0"
FEED_S = 0.1
FULL = """
import resource, signal
from dbus_smartbms import report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write, before = report.write, resource.getrlimit(resource.RLIMIT_FSIZE)
def small(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        return write(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
report.write = small
"""
"""Files have room for 100 bytes while the archive is written."""
CATCHES = """
import os, signal, sys, time
def write(*_):
    with open(sys.argv[1] + ".new", "w") as new:
        new.write(open(sys.argv[2]).read())
    os.replace(sys.argv[1] + ".new", sys.argv[1])
signal.signal(signal.SIGUSR1, write)
print("ready", flush=True)
while True:
    time.sleep(60)
"""
"""A process that answers SIGUSR1 as the driver does."""


def device(folder: Path) -> Path:
    """A folder made to look like a GX on which everything is as it should be; but no tty is there yet."""
    root = folder / "gx"
    package = root / "data/apps/.dbus-smartbms-0.1.0-1a2b3c4d"
    files = {
        "opt/victronenergy/version": "v3.60\nventus\n20250612091011\n",
        "etc/venus/machine": "einstein\n",
        "etc/venus/image-type": "normal\n",
        "etc/hostname": "my-boat\n",
        "data/venus/unique-id": "c0619ab12345\n",
        "data/conf/dbus-smartbms.ini": "[limits]\nmax_charge_current = 80\n",
        "data/conf/dbus-smartbms.state": '{"version": 1}\n',
        "data/log/dbus-smartbms/current": "@4000000065a0c1ca2ef02e94 INFO reading /dev/ttyUSB0 on my-boat\n",
        "data/rcS.local": "#!/bin/sh\nsh /data/apps/dbus-smartbms/setup.sh boot\n",
        "run/udev/rules.d/zz-dbus-smartbms.rules": "rule\n",
        "service/dbus-smartbms/log/run": "#!/bin/sh\n",
        f"{package.relative_to(root)}/version": "0.1.0\n",
    }
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "data/rcS.local").chmod(0o755)
    (root / "data/apps/dbus-smartbms").symlink_to(package.name)
    (root / "run/dbus-smartbms").mkdir(parents=True)
    (root / "dev/serial-starter").mkdir(parents=True)
    (root / "proc").symlink_to("/proc")
    cable(root, "SmartBMSToUSB")
    return root


def cable(root: Path, product: str, number: int = 0) -> None:
    """What sysfs has of an FTDI cable."""
    usb = root / f"sys/devices/usb1/1-{number + 1}"
    port = usb / f"1-{number + 1}:1.0" / f"ttyUSB{number}"
    port.mkdir(parents=True)
    for name, text in {
        "idVendor": "0403", "idProduct": "6001", "manufacturer": "123electric", "product": product,
        "serial": f"AB{number}CDEF", "bNumInterfaces": " 1",
    }.items():  # fmt: skip
        (usb / name).write_text(text + "\n")
    tty = root / f"sys/class/tty/ttyUSB{number}"
    tty.mkdir(parents=True)
    (tty / "device").symlink_to(port)
    devices = root / "sys/bus/usb/devices"
    devices.mkdir(parents=True, exist_ok=True)
    (devices / usb.name).symlink_to(usb)


def programs(folder: Path, **scripts: str) -> str:
    """A PATH with stand-ins for programs of a GX before the others."""
    place = folder / "programs"
    place.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
    return f"{place}:{os.environ['PATH']}"


UDEVADM = "echo DEVNAME=$5; echo ID_MODEL=SmartBMSToUSB; echo VE_SERVICE=ignore"


def doctor(
    *options: str,
    path: str | None = None,
    address: str = "unix:path=/nonexistent",
    before: str = "pass",
    folder: Path | None = None,
) -> tuple[int, str]:
    """Status and output; it has to end within the bound, whatever hangs."""
    source = str(rig.ROOT / "dbus-smartbms")
    program = (
        f"import sys; sys.path[:0] = [{source!r}, {str(rig.ROOT / 'protocol')!r}]; {before}\n"
        "from dbus_smartbms.cli import main; sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "doctor", *options],
        env=os.environ | {"DBUS_SESSION_BUS_ADDRESS": address} | ({"PATH": path} if path else {}),
        cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=2 * rig.PATIENCE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr, ended.stderr
    print(ended.stdout, ended.stderr)
    for line in ended.stdout.partition("\ncapturing")[0].splitlines():
        assert len(line) <= 80, line
    return ended.returncode, ended.stdout


def joined(text: str) -> str:
    return " ".join(text.split())


@contextlib.asynccontextmanager
async def systemcalc(bms: str, dvcc: int) -> AsyncIterator[None]:
    """A stand-in for systemcalc's part of the bus."""
    items = Items()
    for path, kind, value in (
        ("/Control/Dvcc", "i", dvcc), ("/ActiveBmsService", "s", bms),
        ("/ActiveBatteryService", "s", "com.victronenergy.battery/123"),
    ):  # fmt: skip
        items.items[path] = Item(kind)
        items.put(path, kind, "{}", value, {})
    service = bus_module.Service("com.victronenergy.system", items, lambda: None)
    await service.connect()
    try:
        assert await service.take_name()
        yield
    finally:
        await service.leave()


@pytest.fixture
def bus(session_bus: rig.Daemon) -> rig.Daemon:
    return session_bus


@contextlib.asynccontextmanager
async def supervised(root: Path, bus: rig.Daemon, options: str = "") -> AsyncIterator[None]:
    with supervising(root, bus, options):
        async with rig.Client(bus.address, SERVICE) as client:
            await rig.until(client.owner)
        yield


@contextlib.contextmanager
def supervising(root: Path, bus: rig.Daemon, options: str) -> Iterator[None]:
    """The real driver under the real supervise, on a line that sends a frame now and then."""
    if not (shutil.which("supervise") and shutil.which("svstat")):
        pytest.skip("daemontools is not here")
    service = root / "service/dbus-smartbms"
    with rig.Line(root / "dev/ttyUSB0") as line:
        run = service / "run"
        run.write_text(
            f"#!/bin/sh\nexec 2>{root}/data/log/dbus-smartbms/current\n"
            f"exec {' '.join(rig.PROGRAM)} run --device {line.path} {options}\n"
        )
        run.chmod(0o755)
        environment = os.environ | {"DBUS_SESSION_BUS_ADDRESS": bus.address}
        supervise = subprocess.Popen(["supervise", str(service)], env=environment)
        ended = threading.Event()
        turns = iter(range(1_000_000))

        def feed() -> None:
            while not ended.wait(FEED_S):
                line.write(encode(rig.frame(next(turns))))

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            yield
        finally:
            ended.set()
            feeding.join()
            subprocess.run(["svc", "-dx", str(service)], check=True)
            supervise.wait(rig.PATIENCE_S)


async def run_doctor(*options: str, **more: Any) -> tuple[int, str]:
    return await asyncio.to_thread(doctor, *options, **more)


async def test_nothing_is_wrong_beside_a_driver_that_works(tmp_path: Path, bus: rig.Daemon) -> None:
    root = device(tmp_path)
    path = programs(tmp_path, udevadm=UDEVADM)
    async with supervised(root, bus), systemcalc(SERVICE, 1):
        status, text = await run_doctor("--root", str(root), path=path, address=bus.address)
    assert "\n== verdict\nnothing wrong found\n" in text
    assert status == 0
    for fact in (
        "v3.60 (build 20250612091011)", "einstein", ".dbus-smartbms-0.1.0-1a2b3c4d",
        "ours: it says SmartBMSToUSB", "serial number AB0CDEF", "VE_SERVICE ignore",
        "date and time 20", "driver up (pid", "/data/rcS.local has our line (2 lines) line 2: sh /data/apps/",
        "in /data/apps .dbus-smartbms-0.1.0-1a2b3c4d, dbus-smartbms",
        "[limits] max_charge_current = 80", "instance 123",
        "50.0 %, 53.12 V, -12.5 A", "CVL 54.88 V", "CCL ", "DCL ", "BMS com.victronenergy.battery.smartbms",
        "monitor com.victronenergy.battery/123", "DVCC on",
    ):  # fmt: skip
        assert fact in joined(text), fact
    assert re.match(r" *this driver \(pid \d+\)\n", text.partition("held open by")[2])
    for row in (
        "cells lowest 3.",
        "temperature lowest ",
        "allowed charge Yes, discharge Yes",
        "set to capacity ",
    ):
        assert row in joined(text), row


async def test_dvcc_off_and_another_bms(tmp_path: Path, bus: rig.Daemon) -> None:
    root = device(tmp_path)
    path = programs(tmp_path, udevadm=UDEVADM)
    async with supervised(root, bus):
        async with systemcalc(SERVICE, 0):
            status, text = await run_doctor("--root", str(root), path=path, address=bus.address)
        assert status == 1
        assert "1. DVCC is off" in text
        async with systemcalc("com.victronenergy.battery.other", 1):
            status, text = await run_doctor("--root", str(root), path=path, address=bus.address)
        assert status == 1
        assert "1. the GX follows another BMS: com.victronenergy.battery.other" in joined(text)


@contextlib.asynccontextmanager
async def battery(
    address: str, name: str, answers: dict[tuple[str, str], Variant | str]
) -> AsyncIterator[None]:
    """A service of somebody else's: what it answers to a member on a path; an error to all else."""

    def answer(message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        value = answers.get((message.path or "", message.member or ""))
        if value is None:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "no")
        return Message.new_method_return(message, "s" if isinstance(value, str) else "v", [value])

    connection = await MessageBus(bus_address=address).connect()
    connection.add_message_handler(answer)
    try:
        await connection.request_name(name)
        yield
    finally:
        connection.disconnect()


async def test_services_that_know_no_getitems_or_answer_nonsense_are_shown(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    """Some services of a GX are asked path by path."""
    values = {("/ProductName", "GetValue"): Variant("s", "BMV-700"), ("/Soc", "GetValue"): Variant("d", 81.5)}
    nonsense: dict[tuple[str, str], Variant | str] = {("/", "GetItems"): "nonsense"}
    name = "com.victronenergy.battery."
    async with (
        battery(bus.address, f"{name}bmv", dict(values)),
        battery(bus.address, f"{name}nonsense", nonsense),
        battery(
            bus.address, f"{name}strange", {("/", "GetItems"): Variant("a{sv}", {"/Soc": Variant("i", 1)})}
        ),
    ):
        _, text = await run_doctor("--root", str(device(tmp_path)), address=bus.address)
    assert f"{name}bmv name BMV-700, instance - now 81.5, -, -" in joined(text)
    assert f"{name}nonsense its answer to GetItems is none" in joined(text)
    assert f"{name}strange name -" in joined(text)


def pid(root: Path) -> str:
    said = subprocess.run(["svstat", str(root / "service/dbus-smartbms")], capture_output=True, check=True)
    return said.stdout.decode().split()[3].rstrip(")")


async def test_a_driver_that_does_not_know_the_signal_outlives_the_report(
    tmp_path: Path, bus: rig.Daemon
) -> None:
    """SIGUSR1 would end it, which is no way to look at it."""
    root, file = device(tmp_path), tmp_path / "report.tgz"
    async with supervised(root, bus):
        before = await asyncio.to_thread(pid, root)
        _, text = await run_doctor("--root", str(root), "--report", str(file), address=bus.address)
        assert await asyncio.to_thread(pid, root) == before
    assert f"no capture: the driver (pid {before}) does not know SIGUSR1" in text
    assert "capture.jsonl" not in contents(file)


async def test_the_real_driver_writes_its_capture_and_goes_on(tmp_path: Path, bus: rig.Daemon) -> None:
    root, file = device(tmp_path), tmp_path / "report.tgz"
    async with supervised(root, bus, f"--runtime {root}/run/dbus-smartbms"):
        before = await asyncio.to_thread(pid, root)
        _, text = await run_doctor("--root", str(root), "--report", str(file), address=bus.address)
        assert await asyncio.to_thread(pid, root) == before
    assert "capture, from the running driver: " in text
    rows = [json.loads(line) for line in contents(file)["capture.jsonl"].splitlines()]
    data = b"".join(bytes.fromhex(row["bytes"]) for row in rows)
    assert any(encode(rig.frame(turn)) in data for turn in range(1000))


def contents(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        return {
            member.name.removeprefix("dbus-smartbms-report/"): found.read().decode()
            for member in archive
            if (found := archive.extractfile(member))
        }


def test_the_running_driver_is_asked_for_its_capture(tmp_path: Path) -> None:
    root = device(tmp_path)
    lines = "".join(
        json.dumps({"t": turn / 2, "bytes": encode(rig.frame(turn)).hex()}) + "\n" for turn in range(5)
    )
    (tmp_path / "lines").write_text(lines)
    stale = root / "run/dbus-smartbms/capture.jsonl"
    stale.write_text('{"t": 0, "bytes": ""}\n')
    command = [sys.executable, "-c", CATCHES, str(stale), str(tmp_path / "lines")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            path = programs(tmp_path, svstat=f'for i; do echo "$i: up (pid {process.pid}) 99 seconds"; done')
            file = tmp_path / "report.tgz"
            status, text = doctor("--root", str(root), "--report", str(file), path=path)
        finally:
            process.kill()
    assert status == 1  # there is no bus
    assert "capture, from the running driver: 5 frames, 0 damaged places, 1 cable" in text
    assert f"written: {file}" in text
    found = contents(file)
    assert found["capture.jsonl"] == lines
    assert set(found) == {
        "report.txt", "log/current", "dbus-smartbms.ini", "dbus-smartbms.state", "capture.jsonl",
    }  # fmt: skip
    assert found["report.txt"].startswith("== versions\n")
    assert "5 frames, 0 damaged" in found["report.txt"]
    assert found["dbus-smartbms.ini"] == "[limits]\nmax_charge_current = 80\n"


def test_without_a_driver_the_cable_itself_is_captured(tmp_path: Path) -> None:
    root = device(tmp_path)
    file = tmp_path / "report.tgz"
    ended = threading.Event()
    with rig.Line(root / "dev/ttyUSB0") as line:

        def feed() -> None:
            turn = 0
            while not ended.wait(0.05):
                line.write(encode(rig.frame(turn)))
                turn += 1

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            _, text = doctor("--root", str(root), "--report", str(file), "--seconds", "4")
        finally:
            ended.set()
            feeding.join()
    assert "capture, 4 s from the cables (the driver does not run): " in text
    captured = [json.loads(part) for part in contents(file)["capture.jsonl"].splitlines()]
    assert captured
    assert all(set(entry) == {"t", "bytes"} for entry in captured)


def test_nothing_that_others_should_not_read_leaves_the_device(tmp_path: Path) -> None:
    root = device(tmp_path)
    file = tmp_path / "report.tgz"
    (root / "sys/class/net/eth0").mkdir(parents=True)
    (root / "sys/class/net/eth0/address").write_text("c0:61:9a:b1:23:99\n")
    (root / "data/venus/serial-number").write_text("HQ2212ABCDE\n")
    (root / "data/conf/dbus-smartbms.ini").write_text("# password=hunter2 on C0619AB12345\n")
    log = "portal c0619ab12345 mac c0:61:9a:b1:23:99 serial HQ2212ABCDE host my-boat\n"
    (root / "data/log/dbus-smartbms/current").write_text(log)
    _, text = doctor("--root", str(root), "--report", str(file), "--seconds", "1")
    everything = text + "".join(contents(file).values())
    for secret in ("c0619ab12345", "C0619AB12345", "23:99", "HQ2212ABCDE", "my-boat", "hunter2"):
        assert secret not in everything, secret
    assert "portal (hidden) mac (hidden) serial (hidden) host (hidden)" in everything


def test_with_nothing_at_all_it_says_so(tmp_path: Path) -> None:
    status, text = doctor("--root", str(tmp_path / "none"))
    assert status == 1
    for section in ("versions", "cables", "service", "configuration", "bus", "log", "verdict"):
        assert f"== {section}\n" in text
    assert "1. the driver is not installed on this device" in text
    assert "2. no cable found" in text
    assert "the bus: there is none" in text


async def test_a_bus_that_stands_still_holds_up_nothing(tmp_path: Path, bus: rig.Daemon) -> None:
    root = device(tmp_path)
    assert bus.process
    bus.process.send_signal(signal.SIGSTOP)
    try:
        status, text = await run_doctor("--root", str(root), address=bus.address)
    finally:
        bus.process.send_signal(signal.SIGCONT)
    assert status == 1
    assert "the bus: it does not answer" in text
    assert "== log\n2024-01-12" in text


async def test_a_driver_that_hangs_is_said_to(tmp_path: Path, bus: rig.Daemon) -> None:
    """Others on the bus are shown all the same."""
    root = device(tmp_path)
    with rig.driver(tmp_path, bus.address) as driver:
        await driver.ready()
        async with systemcalc(SERVICE, 1):
            driver.process.process.send_signal(signal.SIGSTOP)
            try:
                status, text = await run_doctor("--root", str(root), address=bus.address, before=FASTER)
            finally:
                driver.process.process.send_signal(signal.SIGCONT)
    assert status == 1
    assert "the driver is on the bus, but it does not answer" in joined(text)
    assert "DVCC on" in joined(text)


def test_programs_that_hang_hold_up_nothing(tmp_path: Path) -> None:
    root = device(tmp_path)
    path = programs(
        tmp_path, svstat="exec sleep 1000", udevadm="sleep 1000 & wait", sha256sum="trap '' TERM; sleep 1000"
    )
    (root / "data/apps/dbus-smartbms/SHA256SUMS").write_text("")
    with rig.Line(root / "dev/ttyUSB0"):
        status, text = doctor("--root", str(root), path=path)
    assert status == 1
    assert "udevadm does not end within 3 s" in joined(text)
    assert "the driver does not run (svstat does not end within 3 s)" in joined(text)


def test_a_package_that_was_changed_is_named(tmp_path: Path) -> None:
    root = device(tmp_path)
    package = root / "data/apps/dbus-smartbms"
    sums = subprocess.run(["sha256sum", "version"], cwd=package, capture_output=True, check=True).stdout
    (package / "SHA256SUMS").write_bytes(sums)
    assert "as it was shipped" in doctor("--root", str(root))[1]
    (package / "SHA256SUMS").write_text("")  # as a power cut may leave it
    assert "1 files of the package were changed (SHA256SUMS)" in joined(doctor("--root", str(root))[1])
    (package / "SHA256SUMS").write_bytes(sums)
    (package / "version").write_text("9.9\n")
    assert "1 files of the package were changed (version)" in joined(doctor("--root", str(root))[1])


def test_the_report_goes_to_the_folder_one_is_in_else_to_data(tmp_path: Path) -> None:
    root, folder = device(tmp_path), tmp_path / "here"
    folder.mkdir()
    doctor("--root", str(root), "--report", folder=folder)
    assert set(contents(folder / "dbus-smartbms-report.tgz")) > {"report.txt", "dbus-smartbms.ini"}
    _, text = doctor("--root", str(root), "--report", folder=Path("/proc"))  # where nobody can write
    assert f"written: {root}/data/dbus-smartbms-report.tgz" in text
    assert (root / "data/dbus-smartbms-report.tgz").is_file()
    gone = "os.unlink('dbus-smartbms-report.tgz'); os.rmdir(os.getcwd())"
    before = f"import asyncio, os; os.chdir({str(folder)!r}); {gone}"
    (root / "data/dbus-smartbms-report.tgz").unlink()
    _, text = doctor("--root", str(root), "--report", before=before)  # as after an update
    assert f"written: {root}/data/dbus-smartbms-report.tgz" in text
    status, text = doctor("--report", "--root", str(tmp_path / "none"), folder=Path("/proc"))
    assert status == 1
    name, none = "dbus-smartbms-report.tgz", tmp_path / "none"
    where = f"/proc/{name} or {none}/data/{name} or {none}/tmp/{name}"  # noqa: S108
    assert f"cannot be written to {where}: " in text


def test_on_a_full_disk_the_report_goes_to_ram_and_no_place_is_named_twice(tmp_path: Path) -> None:
    root = device(tmp_path)
    shutil.rmtree(root / "data")
    (root / "data").mkdir()
    (root / "data/dbus-smartbms-report.tgz").mkdir()  # as good as full: it cannot be replaced
    (root / "tmp").mkdir()
    _, text = doctor("--root", str(root), "--report", folder=root / "data")
    assert f"written: {root}/tmp/dbus-smartbms-report.tgz" in text  # noqa: S108
    _, text = doctor("--root", str(root), "--report", folder=root / "data", before=FULL)
    assert text.count(f"{root}/data/dbus-smartbms-report.tgz") == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("signal.signal(signal.SIGUSR1, lambda *_: None)", "wrote none within 0.5 s"),
        ("pass", "does not know SIGUSR1"),
    ],
)
def test_a_driver_without_a_capture_is_no_reason_for_no_report(
    tmp_path: Path, script: str, words: str
) -> None:
    root, file = device(tmp_path), tmp_path / "report.tgz"
    source = f"import signal, time; {script}; print('ready', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            path = programs(tmp_path, svstat=f'for i; do echo "$i: up (pid {process.pid}) 99 seconds"; done')
            soon = "from dbus_smartbms import report; report.CAPTURE_S = 0.5"
            _, text = doctor("--root", str(root), "--report", str(file), path=path, before=soon)
            assert process.poll() is None
        finally:
            process.kill()
    assert f"no capture: the driver (pid {process.pid}) {words}" in text
    assert "capture.jsonl" not in contents(file)


def test_a_cable_that_another_program_holds_is_not_captured(tmp_path: Path) -> None:
    root, file = device(tmp_path), tmp_path / "report.tgz"
    with rig.Line(root / "dev/ttyUSB0") as line, line.path.open("rb", buffering=0):
        status, text = doctor("--root", str(root), "--report", str(file))
    assert status == 1
    assert f"(pid {os.getpid()})" in text
    assert "no capture: the cable is held by " in text
    assert "/dev/ttyUSB0 is held by another program" in joined(text)


def test_what_a_holder_has_started_itself_is_not_named(tmp_path: Path) -> None:
    """`sleep 1` in a script that probes has the cable from it, and is nobody."""
    root, script = device(tmp_path), tmp_path / "probe.sh"
    script.write_text("echo ready\nsleep 600\nexit 0\n")
    with rig.Line(root / "dev/ttyUSB0") as line, line.path.open("rb", buffering=0) as held:
        probe = subprocess.Popen(
            ["/bin/sh", str(script)],
            stdin=held, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        held.close()
        try:
            assert probe.stdout
            assert probe.stdout.readline() == "ready\n"
            _, text = doctor("--root", str(root))
        finally:
            os.killpg(probe.pid, signal.SIGKILL)
            probe.communicate()
    assert f"held open by probe.sh (pid {probe.pid}) " in joined(text)


def test_of_two_cables_the_one_that_another_program_holds_is_left_alone(tmp_path: Path) -> None:
    """Whoever reads there would miss each byte that is read here."""
    root, file = device(tmp_path), tmp_path / "report.tgz"
    cable(root, "SmartBMSToUSB", 1)
    ended, others = threading.Event(), 0
    with (
        rig.Line(root / "dev/ttyUSB0") as held,
        rig.Line(root / "dev/ttyUSB1") as free,
        held.path.open("rb", buffering=0) as reader,
    ):
        os.set_blocking(reader.fileno(), False)

        def feed() -> None:
            nonlocal others
            while not ended.wait(0.05):
                free.write(encode(rig.frame()))
                held.write(b"theirs")
                others += len(reader.read(6) or b"")

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            doctor("--root", str(root), "--report", str(file), "--seconds", "4")
        finally:
            ended.set()
            feeding.join()
        others += len(reader.read(6) or b"")
        assert others % 6 == 0
    captured = "".join(json.loads(part)["bytes"] for part in contents(file)["capture.jsonl"].splitlines())
    assert encode(rig.frame()).hex() in captured
    assert b"theirs".hex() not in captured


def test_a_driver_that_is_started_again_just_now_keeps_its_cable(tmp_path: Path) -> None:
    root, file = device(tmp_path), tmp_path / "report.tgz"
    path = programs(tmp_path, svstat='for i; do echo "$i: down 0 seconds, normally up, want up"; done')
    with rig.Line(root / "dev/ttyUSB0"):
        _, text = doctor("--root", str(root), "--report", str(file), path=path)
    assert "no capture: the driver is being started again just now" in text


def test_whoever_reads_the_text_may_go_and_the_archive_is_written(tmp_path: Path) -> None:
    root, file = device(tmp_path), tmp_path / "report.tgz"
    reader, writer = os.pipe()
    os.close(reader)
    command = [*rig.PROGRAM, "doctor", "--root", str(root), "--report", str(file)]
    environment = os.environ | {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"}
    ended = subprocess.run(
        command,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=2 * rig.PATIENCE_S,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")
    assert "report.txt" in contents(file)


def test_a_log_in_ram_is_the_one_that_counts(tmp_path: Path) -> None:
    """service/log/run writes there while /data cannot be written."""
    root, file = device(tmp_path), tmp_path / "report.tgz"
    (root / "run/dbus-smartbms/log").mkdir()
    (root / "run/dbus-smartbms/log/lock").touch()
    assert "INFO reading" in doctor("--root", str(root))[1]
    (root / "run/dbus-smartbms/log/current").write_text("@4000000065a0c1ca2ef02e94 INFO in RAM\n")
    _, text = doctor("--root", str(root), "--report", str(file))
    assert "INFO in RAM" in text
    assert contents(file)["log/current"].endswith("INFO in RAM\n")


def test_a_full_disk_is_said_and_the_text_and_the_archive_of_before_are_there(tmp_path: Path) -> None:
    root, file = device(tmp_path), tmp_path / "out" / "report.tgz"
    file.parent.mkdir()
    file.write_bytes(b"the one before")
    status, text = doctor("--root", str(root), "--report", str(file), before=FULL)
    assert status == 1
    assert "== verdict" in text
    assert f"the report cannot be written to {file}: File too large; name another place" in text
    assert [path.name for path in file.parent.iterdir()] == ["report.tgz"]
    assert file.read_bytes() == b"the one before"


def test_the_archive_is_no_bigger_than_it_may_be(tmp_path: Path) -> None:
    root = device(tmp_path)
    log = root / "data/log/dbus-smartbms"
    for number in range(9):
        (log / f"@4000000065a0c1c{number}2ef02e94.s").write_bytes(os.urandom(100_000))
    file = tmp_path / "report.tgz"
    doctor("--root", str(root), "--report", str(file))
    assert file.stat().st_size < 5 * 60_000
    with tarfile.open(file) as archive:
        assert len([name for name in archive.getnames() if "/log/" in name]) == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--report", "/data/conf/dbus-smartbms.ini"], "is not the name of an archive (.tgz, .tar.gz)"),
        (["--seconds", "601"], "at most 600"),
    ],
)
def test_a_report_overwrites_nothing_but_archives(words: list[str], sentence: str) -> None:
    ended = subprocess.run([*rig.PROGRAM, "doctor", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert sentence in ended.stderr
