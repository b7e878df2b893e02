"""Makes the two archives: ``./setup.sh build``, or ``python packaging/build.py [--output DIR]``.

The same sources give the same bytes: members come from the lists below and not from what lies about, in
sorted order, with one owner, one time and two modes.  Nothing here asks git, a clock, a locale or the modes
of files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "packaging"

PROGRAMS = ("setup.sh", "service/run", "service/log/run")
"""Files that are started by their name."""
TEXTS = (
    "service/placed.sh", "service/device.sh", "service/stick.sh",
    "README.md", "CHANGELOG.md", "LICENSE", "docs/dbus-smartbms.ini", "docs/install.md",
    "dbus-smartbms/__main__.py", "protocol/smartbms_protocol/py.typed",
)  # fmt: skip
PACKAGES = ("dbus-smartbms/dbus_smartbms", "protocol/smartbms_protocol")
"""Folders of which every module goes along."""
MODULE = re.compile(r"[a-z_][a-z0-9_]*\.py")
"""A module's name: an editor's ``.#cli.py`` or a system's ``._cli.py`` is none."""
HOOKS = ("rc/pre-hook.sh", "rc/post-hook.sh")
"""What Venus runs of an archive on a stick, before and after it unpacks the rest to /data."""
WITH_HOOKS = (
    "SHA256SUMS", "version", "setup.sh", "service/placed.sh", "service/device.sh", "service/stick.sh",
)  # fmt: skip
"""What the hooks need of the package: Venus has unpacked rc/ alone when it calls the first."""

PIN = re.compile(r"^([a-z-]+)==([0-9.]+) --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)
VERSION = re.compile(r'^__version__ = "([0-9]+\.[0-9]+\.[0-9]+[a-z0-9.]*)"$', re.MULTILINE)

MOST_BYTES = 3_000_000
"""Of the unpacked files: /data of a GX is small, and two versions lie there during an update."""
MEMBER_TIME_S = 315532800
"""1980-01-01, as zip files begin: tar warns of 0, and of a time to come where a GX woke up in 1970."""
STORED_MOST = 0xFFFF
"""Bytes of a stored block (RFC 1951, 3.2.4)."""

Files = dict[str, bytes]
"""Path below the package folder, with slashes: content."""


def main() -> None:
    """Build; SystemExit with a sentence where something is missing."""
    parser = argparse.ArgumentParser(prog="build.py", description="Makes the archives for a GX device.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the archives")
    text = "folder that keeps the downloaded packages: with them a build needs no network"
    parser.add_argument("--wheels", type=Path, default=ROOT / ".venv" / "wheels", help=text)
    args = parser.parse_args()
    package = sources() | vendor(wheels(args.wheels))
    package["SHA256SUMS"] = sums(package)
    size = sum(map(len, package.values()))
    if size > MOST_BYTES:
        stop(f"{size} bytes unpacked are more than the {MOST_BYTES} that a GX shall hold")
    version = package["version"].decode().strip()
    folder = f"apps/.dbus-smartbms-{version}.new"
    members = {f"{folder}/{name}": data for name, data in package.items()}
    programs = {f"{folder}/{name}" for name in PROGRAMS} | set(HOOKS)
    hooks = {name: read(HERE / name) for name in HOOKS}
    hooks |= {f"rc/{name}": package[name] for name in WITH_HOOKS}
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output / f"dbus-smartbms-{version}.tgz", gzip(tar(members, programs)))
    write(args.output / f"venus-data-dbus-smartbms-{version}.tgz", gzip(tar(members | hooks, programs)))


def stop(sentence: str) -> NoReturn:
    """End with status 1 and a sentence on stderr."""
    sys.exit(f"build: {sentence}")


def read(path: Path) -> bytes:
    """A file that has to be there."""
    if not path.is_file():
        stop(f"{path} is missing; build from a complete clone or source archive")
    return path.read_bytes()


def sources() -> Files:
    """What the package has of this repository, and the version as a file."""
    names = [*PROGRAMS, *TEXTS]
    for folder in PACKAGES:
        there = (path.name for path in (ROOT / folder).glob("*.py"))
        names += [f"{folder}/{name}" for name in there if MODULE.fullmatch(name)]
    match = VERSION.search(read(ROOT / PACKAGES[0] / "__init__.py").decode())
    if match is None:
        stop(f"{PACKAGES[0]}/__init__.py has no version such as 1.2.3")
    return {name: read(ROOT / name) for name in names} | {"version": f"{match[1]}\n".encode()}


def wheels(folder: Path) -> dict[str, bytes]:
    """The pinned wheels: name of the distribution with its version, and content.

    Those of ``folder`` are taken where their sums are right; pip fetches all of them where one is not.
    """
    pinned = PIN.findall(read(HERE / "vendor.txt").decode())
    pins = {f"{name}-{version}": digest for name, version, digest in pinned}
    there = kept(folder)
    if not set(pins.values()) <= set(there):
        download(folder)
        there = kept(folder)
    return {name: there[digest] for name, digest in pins.items()}


def kept(folder: Path) -> dict[str, bytes]:
    """SHA-256 and content of each wheel in a folder."""
    contents = [path.read_bytes() for path in folder.glob("*.whl")]
    return {hashlib.sha256(content).hexdigest(): content for content in contents}


def download(folder: Path) -> None:
    """Let pip fetch what vendor.txt pins."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    which = ["--only-binary=:all:", "--require-hashes", "--requirement", str(HERE / "vendor.txt")]
    command = [*pip, *which, "--dest", str(folder)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if ended.returncode:
        said = "\n".join(line for line in ended.stderr.splitlines() if line and "Retrying" not in line)
        stop(f"pip could not download what packaging/vendor.txt names (no network?); it said:\n{said}")


def vendor(contents: dict[str, bytes]) -> Files:
    """Wheels unpacked, whole, with their licences inside the packages."""
    files: Files = {}
    for name, content in contents.items():
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            members = [member for member in wheel.namelist() if not member.endswith("/")]
            code = [member for member in members if ".dist-info/" not in member]
            licences = [member for member in members if ".dist-info/LICENSE" in member]
            files |= {f"vendor/{member}": wheel.read(member) for member in code}
            package = code[0].split("/")[0]
            licence = wheel.read(licences[0]) if licences else read(HERE / f"LICENSE.{name}")
            files[f"vendor/{package}/LICENSE"] = licence
    return files


def sums(files: Files) -> bytes:
    """The manifest that ``sha256sum -c`` reads, sorted by path."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    return "".join(lines).encode()


def tar(files: Files, programs: set[str]) -> bytes:
    """A plain ustar archive of files, some of them programs, and their folders.

    Not of ``apps``: that is shared with other people's packages, and unpacking would set its mode and time.
    rc/ comes first: of an archive that was copied in part Venus then has the hooks, which say so.
    """
    folders = {str(folder) for name in files for folder in Path(name).parents} - {".", "apps"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT, encoding="ascii") as archive:
        for name in sorted(folders | set(files), key=lambda name: (not f"{name}/".startswith("rc/"), name)):
            member = tarfile.TarInfo(name)
            member.uname = member.gname = "root"
            member.mtime = MEMBER_TIME_S
            if name in folders:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
                continue
            member.size = len(files[name])
            member.mode = 0o755 if name in programs else 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return out.getvalue()


def gzip(data: bytes) -> bytes:
    """Data as a gzip file (RFC 1952) of stored blocks, without name and time.

    Not compressed: what zlib makes of the same data is promised by nobody (zlib-ng, which some distributions
    have in its place, makes something else), and a sum that anyone can make again is worth the megabyte.
    """
    blocks = []
    for begin in range(0, len(data), STORED_MOST):
        block = data[begin : begin + STORED_MOST]
        last = begin + STORED_MOST >= len(data)
        length = len(block).to_bytes(2, "little")
        blocks += [bytes([last]), length, bytes(byte ^ 0xFF for byte in length), block]
    head = b"\x1f\x8b\x08\x00" + b"\x00\x00\x00\x00" + b"\x00\xff"
    return b"".join([head, *blocks, zlib.crc32(data).to_bytes(4, "little"), len(data).to_bytes(4, "little")])


def write(path: Path, data: bytes) -> None:
    """An archive and its sum beside it, each whole or not there."""
    line = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    for name, content in ((path, data), (path.with_name(f"{path.name}.sha256"), line.encode())):
        part = name.with_name(f"{name.name}.part")
        part.write_bytes(content)
        part.replace(name)
    print(line, end="")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # no space, no permission
        stop(str(error))
