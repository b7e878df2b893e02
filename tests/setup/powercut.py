"""All the moments at which the power can go: /data after every single call of a command that changed it.

    cuts = powercut.trace(gx, "sh /data/setup.sh install")
    for state in cuts.states:
        with Gx(folder, data=state) as other:
            other.boot()

One run gives them all: the command and all its children are traced (ptrace), and while the one that has just
changed /data stands still, /data is looked at.  Not seen: what is written through a shared mmap.
Other processes that write to /data at that time (a service, a log) write into the picture.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import platform
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setup import tree
from setup.gx import Gx, Result
from setup.tree import Contents, Entry, State

# Numbers of the calls that can change a folder: x86_64, aarch64 (which lacks the older half).
_NUMBERS = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70), "pwritev2": (328, 287),
    "sendfile": (40, 71), "splice": (275, 76), "copy_file_range": (326, 285),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None),
    "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "fsync": (74, 82), "fdatasync": (75, 83), "sync": (162, 81), "syncfs": (306, 267),
}  # fmt: skip
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
_CALLS = {
    row[_COLUMN]: name for name, row in _NUMBERS.items() if _COLUMN is not None and row[_COLUMN] is not None
}
_WRITTEN = {
    "write": 0, "pwrite64": 0, "writev": 0, "pwritev": 0, "pwritev2": 0, "ftruncate": 0, "fallocate": 0,
    "sendfile": 0, "splice": 2, "copy_file_range": 2, "fchmod": 0, "fchown": 0, "fsync": 0, "fdatasync": 0,
    "syncfs": 0,
}  # fmt: skip
"""Which argument is the descriptor that is written to."""

# From linux/ptrace.h and sys/wait.h.
_CONTINUE, _DETACH, _SYSCALL, _SEIZE, _INTERRUPT, _LISTEN, _INFO = 7, 17, 24, 0x4206, 0x4207, 0x4208, 0x420E
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100000  # SYSGOOD, FORK, VFORK, CLONE, EXEC, EXITKILL
_EVENT_STOP = 128
_OF_THIS_THREAD = 0x40000000 | 0x20000000  # __WALL, __WNOTHREAD: nobody else's children are reaped
_ENTRY, _EXIT = 1, 2


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, as much as both ends of a call have in common."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("number_or_value", ctypes.c_int64),
        ("arguments", ctypes.c_uint64 * 6),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> bool:
    """Whether it was done: a process may be gone at any time."""
    return bool(_libc.ptrace(request, pid, address, data) >= 0)


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The states of /data from before the command to after it, each another than the one before."""

    states: list[State]
    result: Result

    @property
    def distinct(self) -> list[State]:
        """Each state once, in the order in which they came first."""
        return _once(self.states)

    @property
    def outcomes(self) -> list[State]:
        """What a power cut may leave: each state, and each with what was not synced empty; each once."""
        return _once([one for state in self.states for one in (state, state.emptied())])


def _once(states: list[State]) -> list[State]:
    seen: dict[str, State] = {}
    for state in states:
        seen.setdefault(state.key, state)
    return list(seen.values())


def trace(gx: Gx, command: str | Sequence[str], bound_s: float = 120.0, **environment: str) -> Cuts:
    """Run a command inside as ``Gx.run`` does, and see all states that /data goes through."""
    assert _COLUMN is not None, f"no numbers of system calls for {platform.machine()}"
    with ThreadPoolExecutor(1) as thread:  # a tracer is one thread, and waits for its own children only
        return thread.submit(_trace, gx, gx.command(command, **environment), bound_s).result()


def _trace(gx: Gx, command: list[str], bound_s: float) -> Cuts:
    watch = _Watch(gx.data)
    gate, opened = os.pipe()
    with tempfile.TemporaryFile() as output:
        # It waits at a gate until it is traced.
        process = subprocess.Popen(
            ["sh", "-c", 'read -r go; exec "$@" </dev/null', "sh", *command],
            stdin=gate, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        os.close(gate)
        assert _ptrace(_SEIZE, process.pid, 0, _OPTIONS), os.strerror(ctypes.get_errno())
        _ptrace(_INTERRUPT, process.pid)
        os.write(opened, b"go\n")
        os.close(opened)
        late = threading.Timer(bound_s, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            status = _Tracer(process.pid, watch).run()
        finally:
            in_time = late.is_alive()
            late.cancel()
        process.returncode = status  # it was waited for here
        output.seek(0)
        text = output.read().decode(errors="replace")
    if not in_time:
        raise TimeoutError(f"{command!r} has not ended; it said:\n{text}")
    return Cuts(watch.states, Result(status, text))


class _Tracer:
    """Follows a process and all that come from it, from call to call."""

    def __init__(self, first: int, watch: _Watch) -> None:
        self._first = first
        self._watch = watch
        self._inside: dict[int, tuple[str, list[int]]] = {}
        """The call that each process is in, if it is one that may change something."""
        self._traced = {first}
        self._info = _Info()

    def run(self) -> int:
        """Until the first process has ended; its exit status.  What it leaves behind runs on untraced."""
        status: int | None = None
        while self._traced:
            pid, wait_status = os.waitpid(-1, _OF_THIS_THREAD)
            if os.WIFSTOPPED(wait_status):
                self._traced.add(pid)
                if status is None:
                    self._stopped(pid, wait_status)
                else:
                    _ptrace(_DETACH, pid, 0, 0)
                    self._traced.discard(pid)
            else:
                self._traced.discard(pid)
                if pid == self._first:
                    status = os.waitstatus_to_exitcode(wait_status)
                    for left in self._traced:
                        _ptrace(_INTERRUPT, left)
        assert status is not None
        return status

    def _stopped(self, pid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if number == signal.SIGTRAP | 0x80:
            self._at_call(pid)
            _ptrace(_SYSCALL, pid)
        elif event == _EVENT_STOP and number != signal.SIGTRAP:
            _ptrace(_LISTEN, pid)  # stopped by a signal; it stays so until another wakes it
        else:
            _ptrace(_SYSCALL, pid, 0, 0 if event else number)

    def _at_call(self, pid: int) -> None:
        info = self._info
        _ptrace(_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == _ENTRY:
            name = _CALLS.get(info.number_or_value)
            if name and self._may_change(pid, name, info.arguments):
                self._inside[pid] = name, list(info.arguments)
        elif info.op == _EXIT and (call := self._inside.pop(pid, None)) and info.number_or_value >= 0:
            self._watch.look(*call, pid)

    def _may_change(self, pid: int, name: str, arguments: Sequence[int]) -> bool:
        """Whether a call may change the folder: a writing one, only if it writes to a file in it."""
        if name in ("open", "openat"):
            return bool(arguments[2 if name == "openat" else 1] & (os.O_CREAT | os.O_TRUNC))
        if name in _WRITTEN:
            return self._watch.inode(pid, arguments[_WRITTEN[name]]) is not None
        return True


class _Watch:
    """The states of a folder, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._device = folder.stat().st_dev
        self._contents: Contents = {}
        self._known: dict[str, tuple[tuple[int, ...], Entry]] = {}
        self._dirty: set[int] = set()
        """Inodes of files that were written to since the last sync."""
        tree_now = self._read(None)
        self.states = [State(tree_now, self._contents, frozenset(), "before")]

    def inode(self, pid: int, descriptor: int) -> int | None:
        """The file in the folder that a process has open."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/fd/{descriptor}").stat()
            if status.st_dev == self._device:
                return status.st_ino
        return None

    def look(self, name: str, arguments: Sequence[int], pid: int) -> None:
        """A call was successful: note what it changed, if it changed anything."""
        inode = self.inode(pid, arguments[_WRITTEN[name]]) if name in _WRITTEN else None
        if name in ("sync", "syncfs"):
            self._dirty.clear()
        elif name in ("fsync", "fdatasync"):
            self._dirty.discard(inode or 0)
        before = self.states[-1]
        now = self._read(inode)
        had = {entry.inode: entry.what for entry in before.tree.values()}
        self._dirty |= {
            entry.inode
            for entry in now.values()
            if entry.kind == "file" and entry.size and had.get(entry.inode) != entry.what
        }
        unsynced = frozenset(path for path, entry in now.items() if entry.inode in self._dirty)
        if now != before.tree or unsynced != before.unsynced:
            changed = ", ".join(tree.changes(before.tree, now)) or "(synced)"
            self.states.append(State(now, self._contents, unsynced, f"{name}: {changed}"))

    def _read(self, written: int | None) -> dict[str, Entry]:
        """The folder, of which only what has changed is read anew."""
        found: dict[str, Entry] = {}
        self._walk(self._folder, "", written, found)
        self._known = {path: self._known[path] for path in found}
        return found

    def _walk(self, path: str, name: str, written: int | None, found: dict[str, Entry]) -> None:
        try:
            status = os.lstat(path)
            signs = (
                status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size,
                status.st_mtime_ns, status.st_ctime_ns,
            )  # fmt: skip
            known = self._known.get(name)
            if known is None or known[0] != signs or status.st_ino == written:
                entry = tree.look(path, self._contents)
                if known is not None and known[1] == entry:
                    entry = known[1]
                self._known[name] = known = signs, entry
            found[name] = known[1]
            if known[1].kind == "folder":
                for child in sorted(os.listdir(path)):  # noqa: PTH208  bare names: this is the hot loop
                    self._walk(f"{path}/{child}", f"{name}/{child}", written, found)
        except FileNotFoundError:
            found.pop(name, None)
