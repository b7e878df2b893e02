"""The archive that ``doctor --report`` writes: the text, the log, the configuration, the state, a capture."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from smartbms_protocol import FrameStream

from .findings import Facts
from .gx import CONFIGURATION, RUNTIME, SERVICE, STATE, Gx, bounded, hide
from .link import IDLE_S
from .replay import Capture, record
from .usb import holders

NAME = "dbus-smartbms-report"
ENDINGS = (".tgz", ".tar.gz")
CAPTURE = f"{RUNTIME}/capture.jsonl"
CAPTURE_S = 10.0
"""The driver writes its capture within this time."""
LOOK_S = 0.1
LARGEST_LOG = 30_000
LARGEST_CAPTURE = 4_000_000
"""Characters; ten minutes of two cables are half of it."""


Files = dict[str, bytes]
"""Name in the archive: content."""


class Taken(NamedTuple):
    """What the capture gave: its lines (none: b""), and a sentence on it."""

    lines: bytes
    text: str


def places(gx: Gx) -> list[Path]:
    """Where the archive goes when nothing is said: the current folder, else ``/data``, else RAM."""
    folders = [gx.path("/data"), gx.path("/tmp")]  # noqa: S108  a device's only user is root
    with contextlib.suppress(FileNotFoundError):  # an update has removed the folder one is in
        folders.insert(0, Path.cwd())
    return [folder / f"{NAME}.tgz" for folder in dict.fromkeys(folders)]


def capture(gx: Gx, facts: Facts, seconds: float) -> Taken:
    """What the cables sent in the last minute, from the driver; where it does not run, from them.

    Never raises for anything that a device does, and ends within the seconds and 20 s more.
    """
    try:
        return bounded(lambda: _capture(gx, facts, seconds), seconds + 2 * CAPTURE_S)
    except Exception as error:  # noqa: BLE001  whatever it is: the archive is written without
        return Taken(b"", f"no capture: {str(error) or type(error).__name__}")


def _capture(gx: Gx, facts: Facts, seconds: float) -> Taken:
    (driver,) = gx.supervised(SERVICE)  # looked at anew: it may have come or gone since
    if driver.pid is not None:
        return _from_driver(gx, driver.pid)
    if driver.starting:  # the cable is not to be taken from it
        return Taken(b"", "no capture: the driver is being started again just now; try once more")
    paths = {tty.port.path for tty in facts.chosen}
    if not paths:
        return Taken(b"", "no capture: there is no cable")
    held = holders(gx, paths)
    if paths == held.keys():
        return Taken(b"", f"no capture: the cable is held by {held[min(paths)][0]}")
    return _from_cables(",".join(sorted(paths - held.keys())), seconds)


def _from_driver(gx: Gx, pid: int) -> Taken:
    if not _hears(gx, pid):  # the signal would end it
        return Taken(b"", f"no capture: the driver (pid {pid}) does not know SIGUSR1")
    before = _stamp(gx.path(CAPTURE))
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError as error:
        return Taken(b"", f"no capture: the driver (pid {pid}) cannot be asked: {error.strerror}")
    end = time.monotonic() + CAPTURE_S
    while _stamp(gx.path(CAPTURE)) in (None, before):
        if time.monotonic() > end:
            return Taken(b"", f"no capture: the driver (pid {pid}) wrote none within {CAPTURE_S:g} s")
        time.sleep(LOOK_S)
    lines = gx.read_bytes(CAPTURE, LARGEST_CAPTURE) or b""
    return Taken(lines, f"capture, from the running driver: {quality(lines)}")


def _hears(gx: Gx, pid: int) -> bool:
    """Whether a process has a handler for SIGUSR1."""
    status = gx.read(f"/proc/{pid}/status") or ""
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(masks) and bool(int(masks[0], 16) >> (signal.SIGUSR1 - 1) & 1)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _from_cables(devices: str, seconds: float) -> Taken:
    out = io.StringIO()
    asyncio.run(record(devices, Capture(), out, seconds))
    lines = out.getvalue()[-LARGEST_CAPTURE:].encode()
    return Taken(lines, f"capture, {seconds:g} s from the cables (the driver does not run): {quality(lines)}")


def quality(lines: bytes) -> str:
    """Frames and damage in a capture, in words."""
    streams: dict[int, tuple[FrameStream, list[float]]] = {}
    for line in lines.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            stream, last = streams.setdefault(entry.get("bms", 0), (FrameStream(), [entry["t"]]))
            stream.feed(bytes.fromhex(entry["bytes"]), idle=entry["t"] - last[0] > IDLE_S)
            last[0] = entry["t"]
    frames = sum(stream.frames for stream, _ in streams.values())
    damaged = sum(stream.rejected for stream, _ in streams.values())
    if not streams:
        return "nothing was received"
    return f"{frames} frames, {damaged} damaged places, {len(streams)} cable{'s' if len(streams) > 1 else ''}"


def members(gx: Gx, text: str, taken: Taken) -> Files:
    """Everything that goes into the archive, without what nobody else should read."""
    secrets = gx.secrets()
    found = {"report.txt": hide(text, secrets).encode()}
    for name in (*gx.logs(), CONFIGURATION, STATE):
        folder = "log/" if name not in (CONFIGURATION, STATE) else ""
        content = gx.read(name, LARGEST_LOG if folder else 4 * LARGEST_LOG)
        if content is not None:
            found[folder + Path(name).name] = hide(content, secrets).encode()
    return found | ({"capture.jsonl": taken.lines} if taken.lines else {})


def write_one(paths: Sequence[Path], files: Files) -> tuple[Path, int]:
    """Write the archive to the first of these places that takes it: where, and its size.

    Raises OSError, with the first place's reason.
    """
    first: OSError | None = None
    for path in paths:
        try:
            return path, write(path, files)
        except OSError as error:
            first = first or error
    raise first or FileNotFoundError


def write(path: Path, files: Files) -> int:
    """Write the archive, whole or not at all; its size.  Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as out:
            now = int(os.fstat(out.fileno()).st_mtime)
            with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
                for name, data in files.items():
                    entry = tarfile.TarInfo(f"{NAME}/{name}")
                    entry.size, entry.mtime, entry.mode = len(data), now, 0o644
                    archive.addfile(entry, io.BytesIO(data))
            out.flush()
            os.fsync(out.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return path.stat().st_size
