"""Folders as values: read whole, compared, and written elsewhere.  Contents are kept once each."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

Contents = dict[str, bytes]
"""Contents of files by the SHA-256 of each."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name in a folder, as a test compares it."""

    kind: str
    """``file``, ``folder``, ``link``, ``fifo``, ``socket`` or ``device``."""
    mode: int
    owner: tuple[int, int]
    size: int = 0
    """Of a file; everything else has no size that means anything."""
    what: str = ""
    """The SHA-256 of a file, the target of a link, the numbers of a device."""
    inode: int = dataclasses.field(default=0, compare=False)
    mtime_ns: int = dataclasses.field(default=0, compare=False)


Tree = Mapping[str, Entry]
"""Entries by path; the folder that was read is itself under its own path."""

_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip


def read(folder: Path, name: str = "", contents: Contents | None = None) -> dict[str, Entry]:
    """Everything in a folder, by path below ``name``.  Contents of files are put into ``contents``.

    A name that goes while it is looked at is left out; links are not followed.
    """
    return dict(_walk(str(folder), name, contents))


def _walk(path: str, name: str, contents: Contents | None) -> Iterator[tuple[str, Entry]]:
    try:
        entry = look(path, contents)
        yield name, entry
        if entry.kind == "folder":
            for child in sorted(os.listdir(path)):  # noqa: PTH208  bare names: this is the hot loop
                yield from _walk(f"{path}/{child}", f"{name}/{child}", contents)
    except FileNotFoundError:
        return


def look(path: str, contents: Contents | None) -> Entry:
    """One name as it is now; FileNotFoundError if it has gone."""
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    size, what = 0, ""
    if kind == "file":
        with open(path, "rb") as file:  # noqa: PTH123  a plain path: thousands of them
            data = file.read()
        size, what = len(data), hashlib.sha256(data).hexdigest()
        if contents is not None:
            contents.setdefault(what, data)
    elif kind == "link":
        what = os.readlink(path)  # noqa: PTH115  a plain path: thousands of them
    elif kind == "device":
        what = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return Entry(
        kind, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid), size, what,
        status.st_ino, status.st_mtime_ns,
    )  # fmt: skip


def changes(before: Tree, after: Tree) -> list[str]:
    """What differs, a line for each path: ``+`` came, ``-`` went, ``!`` is another one now."""
    return [
        f"{'+' if path not in before else '-' if path not in after else '!'} {path}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


@dataclasses.dataclass(frozen=True)
class State:
    """A folder at one moment: files, folders and links (nothing else stays on a disk)."""

    tree: Tree
    contents: Contents = dataclasses.field(compare=False, repr=False)
    unsynced: frozenset[str] = frozenset()
    """Files whose contents were written since the last sync: a power cut may take them back to nothing."""
    after: str = dataclasses.field(default="", compare=False)
    """The call that led to it, for a test's message."""

    @classmethod
    def of(cls, folder: Path) -> State:
        contents: Contents = {}
        return cls(read(folder, contents=contents), contents)

    @property
    def key(self) -> str:
        """The same for the same bytes under the same names."""
        lines = (f"{path} {entry!r}" for path, entry in self._bare().items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _bare(self) -> dict[str, Entry]:
        return {path: dataclasses.replace(entry, inode=0, mtime_ns=0) for path, entry in self.tree.items()}

    def emptied(self) -> State:
        """The worst that a power cut leaves of it: the names are there, what was not synced is not."""
        nothing = hashlib.sha256(b"").hexdigest()
        tree = {
            path: dataclasses.replace(entry, size=0, what=nothing) if path in self.unsynced else entry
            for path, entry in self.tree.items()
        }
        return State(tree, self.contents | {nothing: b""}, frozenset(), f"{self.after}, unsynced files empty")

    def write(self, folder: Path) -> None:
        """Fill an empty folder with it, times included; its own mode and owner too.

        Names that were one file are two afterwards.
        """
        for path, entry in self.tree.items():
            target = f"{folder}{path}"
            if entry.kind == "folder":
                if path:
                    os.mkdir(target)  # noqa: PTH102  a plain path: thousands of them
            elif entry.kind == "link":
                os.symlink(entry.what, target)  # noqa: PTH211  a plain path: thousands of them
            elif entry.kind == "file":
                with open(target, "wb") as file:  # noqa: PTH123  a plain path: thousands of them
                    file.write(self.contents[entry.what])
            else:
                os.mkfifo(target)
        for path, entry in reversed(list(self.tree.items())):
            target = f"{folder}{path}"
            os.chown(target, *entry.owner, follow_symlinks=False)
            if entry.kind != "link":
                os.chmod(target, entry.mode)  # noqa: PTH101  a plain path: thousands of them
            os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
