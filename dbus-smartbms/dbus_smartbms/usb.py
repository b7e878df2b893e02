"""The USB serial devices of a GX, for ``doctor``: whose each is, and who has it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from .gx import CONFIGURATION, Gx, command, names_in
from .link import CABLE_MODEL, FTDI, Port, find_cables, split, unprogrammed

_TTY = re.compile(r"tty(USB|ACM|XRUSB)\d+")
"""The names that pyserial looks for, of those on USB."""
_RUNS_SCRIPTS = re.compile(r"python[\d.]*|(ba|da|a)?sh")
VENUS_PROGRAMS = "/opt/victronenergy/"
_HUB = "09"
"""USB device class."""


class Holder(NamedTuple):
    """A process that has a device open."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{'this driver' if self.ours else self.name} (pid {self.pid})"

    @property
    def name(self) -> str:
        """Of the program, or of the script that it runs; never its options, which may be long or secret."""
        program, *words = self.command.split() or ["?"]
        if _RUNS_SCRIPTS.fullmatch(Path(program).name) and "-c" not in words:
            program = next((word for word in words if not word.startswith("-")), program)
        return Path(program).name

    @property
    def ours(self) -> bool:
        """Whether it is this driver."""
        return "dbus-smartbms" in self.command

    @property
    def probes(self) -> bool:
        """Whether it is of Venus itself: what serial-starter starts to look for a device of its own."""
        return VENUS_PROGRAMS in self.command


class Tty(NamedTuple):
    """A USB serial device and what is known of it."""

    port: Port
    ids: str
    """Vendor and product, as ``0403:6001``."""
    chosen: bool
    """Whether the driver takes it, by what the configuration says."""
    starter: bool
    """Whether serial-starter has it on its list."""
    holders: tuple[Holder, ...] = ()
    udev: dict[str, str] | None = None
    udev_error: str = ""

    @property
    def ignored(self) -> bool:
        """Whether serial-starter is told to leave it alone."""
        return (self.udev or {}).get("VE_SERVICE") == "ignore"


class Usb(NamedTuple):
    """All of them, and all other devices on USB in words."""

    devices: str
    """``[link] devices``."""
    ttys: list[Tty]
    others: list[str]


def look(gx: Gx, devices: str) -> Usb:
    """What is plugged in; ``devices`` is ``[link] devices``."""
    ports = (_port(gx, name) for name in names_in(gx.path("/dev")) if _TTY.fullmatch(name))
    found = [port for port in ports if port]
    below = ",".join(str(gx.path(name)) if name.startswith("/") else name for name in split(devices))
    chosen = {port.path for port in find_cables(below, {port.path: port for port, _ in found})}
    held = holders(gx, {port.path for port, _ in found})
    listed = names_in(gx.path("/dev/serial-starter"))
    ttys = []
    for port, ids in found:
        name = Path(port.device).name
        who = tuple(held.get(port.path, ()))
        port = port._replace(device=f"/dev/{name}")  # noqa: PLW2901  as it is said, without the root
        ttys.append(Tty(port, ids, port.path in chosen, name in listed, who, *_udev(name)))
    return Usb(devices, ttys, _devices(gx))


def _port(gx: Gx, name: str) -> tuple[Port, str] | None:
    """A tty as the link sees it, from sysfs as pyserial reads it; None for one that is not on USB."""
    inside = gx.path(f"/sys/class/tty/{name}/device").resolve()
    interface = next((one for one in (inside, *inside.parents) if (one.parent / "idVendor").exists()), None)
    if interface is None:
        return None
    device = interface.parent.name
    vendor, product, serial, model, maker, interfaces = (
        _says(gx, device, file)
        for file in ("idVendor", "idProduct", "serial", "product", "manufacturer", "bNumInterfaces")
    )
    place = device if interfaces in ("", "1") else interface.name.removesuffix(":1.0")
    tty = gx.path(f"/dev/{name}")
    port = Port(str(tty), str(tty.resolve()), serial or None, place, model, maker, vendor == f"{FTDI:04x}")
    return port, f"{vendor}:{product}"


def _says(gx: Gx, device: str, file: str) -> str:
    """What a USB device says of itself; nothing where it does not."""
    return gx.line(f"/sys/bus/usb/devices/{device}/{file}") or ""


def _udev(name: str) -> tuple[dict[str, str] | None, str]:
    """The properties that udev keeps of a tty, or why they are not known."""
    try:
        said = command("udevadm", "info", "-q", "property", "-n", f"/dev/{name}")
    except OSError as error:
        return None, str(error)
    properties = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return (properties, "") if properties else (None, "udev does not know it")


def holders(gx: Gx, paths: set[str]) -> dict[str, list[Holder]]:
    """The processes that have them open, by path; not those that have it from their parent, as ``sleep``."""
    found: dict[str, list[Holder]] = {}
    for process in names_in(gx.path("/proc")) if paths else ():
        if not process.isdecimal() or int(process) == os.getpid():
            continue
        folder = gx.path(f"/proc/{process}/fd")
        opened = set()
        for number in names_in(folder):
            with contextlib.suppress(OSError):
                opened.add(str((folder / number).readlink()))
        for path in opened & paths:
            words = (gx.read_bytes(f"/proc/{process}/cmdline", 4096) or b"").split(b"\0")
            text = b" ".join(words).decode(errors="replace").strip() or gx.line(f"/proc/{process}/comm") or ""
            found.setdefault(path, []).append(Holder(int(process), text))
    for path, all_of_it in found.items():
        pids = {holder.pid for holder in all_of_it}
        found[path] = [holder for holder in all_of_it if _parent(gx, holder.pid) not in pids]
    return found


def _parent(gx: Gx, pid: int) -> int | None:
    match = re.search(r"^PPid:\s*(\d+)", gx.read(f"/proc/{pid}/status") or "", re.MULTILINE)
    return int(match[1]) if match else None


def _devices(gx: Gx) -> list[str]:
    """What is on USB but for hubs, in words."""
    found = []
    for name in names_in(gx.path("/sys/bus/usb/devices")):
        kind, vendor, product, *names = (
            _says(gx, name, file)
            for file in ("bDeviceClass", "idVendor", "idProduct", "manufacturer", "product")
        )
        if vendor and product and kind != _HUB:  # an interface has neither
            found.append(" ".join([name, f"{vendor}:{product}", *filter(None, names)]))
    return found


def whose(tty: Tty, devices: str) -> str:
    """Whether a device is the driver's, and why or why not."""
    if tty.chosen:
        return (
            f"ours: it says {CABLE_MODEL}"
            if tty.port.says_so
            else f"ours: [link] devices = {devices} names it"
        )
    if tty.port.says_so:
        return f"not ours: it says {CABLE_MODEL}, but [link] devices = {devices} leaves it out"
    if unprogrammed(tty.port):
        return (
            f"not ours: it does not say {CABLE_MODEL}. A cable of the BMS that was never programmed? "
            + name_it(tty)
        )
    return "not ours: another device"


def name_it(tty: Tty) -> str:
    """How to have the driver take a device that does not say whose it is."""
    name = tty.port.serial_number or tty.port.device
    what = "serial number" if tty.port.serial_number else "path"
    return f"If so, name its {what} in {CONFIGURATION}: [link] devices = auto, {name}"
