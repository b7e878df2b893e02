"""The part of a GX that all machines of a test run share: commands, libraries, Python.  Built once.

Its one folder is mounted as ``/usr``; everything else of a root is small and each machine has its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# What Venus builds of busybox: OpenEmbedded's defconfig with Venus's own changes (venus.cfg).  Left out
# although a GX has them, because nothing of ours may need them: bash, wget, curl, rsync.
APPLETS = (Path(__file__).parent / "stubs" / "commands.txt").read_text().split()
# Those of them that Debian's busybox lacks; this machine's own stand in, with more options than a GX's.
STAND_INS = ("flock", "mountpoint", "nice", "nohup", "pgrep", "pkill")
DAEMONTOOLS = (
    "envdir", "envuidgid", "fghack", "multilog", "pgrphack", "readproctitle", "setlock", "setuidgid",
    "softlimit", "supervise", "svc", "svok", "svscan", "svstat", "tai64n", "tai64nlocal",
)  # fmt: skip
CLOCK = "libfaketime.so.1"
"""From Debian's package libfaketime: another time of day for a whole machine.  Does without, too."""
DBUS = ("dbus-daemon", "dbus-send")

# Modules of the standard library that a GX need not have: OpenEmbedded ships them in packages that
# Venus does not install, or not on every model.
UNPROMISED = (
    "tty", "pty", "statistics", "tomllib", "sqlite3", "unittest", "importlib.metadata",
    "importlib.resources", "difflib", "mmap", "multiprocessing", "resource", "syslog", "zoneinfo",
    "getpass", "curses", "compileall", "doctest", "pydoc", "idlelib", "lib2to3", "tkinter", "turtle",
    "ensurepip", "venv", "test", "dbm", "distutils", "wsgiref", "xmlrpc", "turtledemo", "pydoc_data",
)  # fmt: skip
_C_PARTS = ("_sqlite3", "_statistics", "_multiprocessing", "_posixshmem", "_zoneinfo", "_curses", "_tkinter",
            "_test", "_xx", "xx", "_dbm", "_gdbm", "_ctypes_test", "readline")  # fmt: skip


def missing() -> list[str]:
    """Commands of this machine that the rig is made of and that are not there."""
    needed = ("busybox", "unshare", "nsenter", "mount", *DAEMONTOOLS, *DBUS, *STAND_INS)
    return [name for name in needed if not shutil.which(name)]


def clocks() -> list[Path]:
    """Where this computer has the library that changes the time of day; empty if it has none."""
    return sorted(Path("/usr/lib").glob(f"*/faketime/{CLOCK}"))


def build(folder: Path) -> Path:
    """Make the image in an empty folder; the folder that becomes ``/usr``."""
    usr = folder / "usr"
    commands = usr / "bin"
    # What becomes /bin has the applets alone: Python finds its library by where it is called from.
    for path in (commands, usr / "applets", usr / "lib", usr / "lib64", usr / "libexec" / "rig"):
        path.mkdir(parents=True)
    (usr / "sbin").mkdir()
    busybox = _copy(_which("busybox"), usr / "libexec" / "busybox")
    has = subprocess.check_output([busybox, "--list"], text=True).split()
    for name in set(APPLETS) & set(has):
        for place in (commands, usr / "applets"):
            (place / name).symlink_to(f"../libexec/{busybox.name}")
    programs = [busybox]
    programs += [_copy(_which(name), commands / name) for name in STAND_INS if name not in has]
    programs += [_copy(_which(name), commands / name) for name in (*DAEMONTOOLS, *DBUS)]
    programs += _copy_python(usr)
    programs += [_copy(found, usr / "lib" / CLOCK) for found in clocks()[:1]]
    _copy_libraries(programs, usr)
    return usr


def _which(name: str) -> Path:
    found = shutil.which(name)
    assert found, name
    return Path(found).resolve()


def _copy(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    target.chmod(0o755)
    return target


# Python


def python() -> Path:
    """The interpreter that plays the GX's: 3.12 as Venus 3.60 has it, else the one that runs this."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [*sorted(home.glob("versions/3.12.*/bin/python3.12"))]
    candidates += [Path(found) for found in [shutil.which("python3.12")] if found]
    for one in candidates:
        if subprocess.run([one, "-c", ""], capture_output=True, check=False).returncode == 0:
            return one.resolve()
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _copy_python(usr: Path) -> list[Path]:
    source = python()
    asked = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = subprocess.check_output([source, "-I", "-c", asked], text=True).strip()
    target = usr / "lib" / Path(library).name
    shutil.copytree(library, target, ignore=_left_out(Path(library)), symlinks=True)
    program = _copy(source, usr / "bin" / "python3")
    # The stubs have one of their own, for tests in which the GX's Python is covered by another.
    own = _copy(source, usr / "libexec" / "rig" / "python3")
    return [program, own, *target.glob("lib-dynload/*.so")]


def _left_out(library: Path) -> Callable[[str, list[str]], list[str]]:
    """For copytree: the names in a folder that a GX need not have."""
    names = {Path(*name.split(".")) for name in UNPROMISED}
    patterns = re.compile(rf"config-.*|.*-packages|__phello__|({'|'.join(_C_PARTS)}).*\.so")

    def chosen(folder: str, entries: list[str]) -> list[str]:
        below = Path(folder).relative_to(library)
        return [entry for entry in entries if patterns.fullmatch(entry) or _module(below, entry) in names]

    return chosen


def _module(below: Path, entry: str) -> Path:
    """The module that a file belongs to, as a path without ending: also of a compiled one."""
    if below.name == "__pycache__":
        below = below.parent
    if below.name == "lib-dynload":
        below = below.parent
    return below / entry.partition(".")[0]


# Libraries


def _copy_libraries(programs: list[Path], usr: Path) -> None:
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    here = re.findall(r"=> (/\S+/libc\.so\S*)", listed)[0]
    found |= set(Path(here).parent.glob("libgcc_s.so.1"))  # Python's threads load it when they end
    for path in found:
        if path.is_relative_to(usr):
            continue
        is_loader = path.name.startswith("ld-")
        target = usr / path.parent.name / path.name if is_loader else usr / "lib" / path.name
        shutil.copyfile(path, target)
        target.chmod(0o755)
