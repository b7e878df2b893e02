"""Packages as a release has them, of any version: to update to, to go back to, to damage."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path

Members = dict[str, tuple[bytes, int]]
"""Content and mode of files by path."""


def members(archive: Path) -> Members:
    """The files of an archive."""
    with tarfile.open(archive) as tar:
        return {
            member.name: (file.read(), member.mode)
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


def of_version(archive: Path, version: str, folder: Path) -> Path:
    """An archive such as that one of another version, whole and with right sums, in a folder."""
    old = re.search(r"dbus-smartbms-(.*)\.tgz", archive.name)
    assert old is not None
    found: Members = {}
    said = f'__version__ = "{version}"'.encode()
    for name, (data, mode) in members(archive).items():
        other = f"{version}\n".encode() if name.rpartition("/")[2] == "version" else data
        if name.endswith("dbus_smartbms/__init__.py"):
            other = re.sub(rb'__version__ = ".*"', said, data)
        found[name.replace(f"-{old[1]}.new", f"-{version}.new")] = other, mode
    package = f"apps/.dbus-smartbms-{version}.new/"
    files = {
        name.removeprefix(package): data for name, (data, _) in found.items() if name.startswith(package)
    }
    del files["SHA256SUMS"]
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    sums = "".join(lines).encode()
    for name in [name for name in found if name.rpartition("/")[2] == "SHA256SUMS"]:
        found[name] = sums, 0o644
    path = folder / archive.name.replace(f"-{old[1]}.tgz", f"-{version}.tgz")
    write(path, found)
    return path


def write(path: Path, found: Members) -> None:
    """An archive of these files, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for folder in sorted(
            {str(folder) for name in found for folder in Path(name).parents} - {".", "apps"}
        ):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, (data, mode) in found.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
