"""The power goes while it is installed, updated or uninstalled, and comes back: at every moment.

Every file operation is a moment, and each moment is there twice: with all that was written on the disk, and
with what was not synced empty.  Of those at which only a folder changes that is not in use (a version comes
or goes), every ``STEP`` th is tried; ``POWERCUT=all`` tries them all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dbus_smartbms import __version__
from setup import packages, powercut, tree
from setup.gx import Gx, why_not
from setup.tree import State

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

STEP = 1 if os.environ.get("POWERCUT") == "all" else 40
NEW = "9.0.0"
APP = "/data/apps/dbus-smartbms"
FOREIGN = "#!/bin/sh\necho early\nexit 0\n"
Archives = tuple[Path, Path]


@contextlib.contextmanager
def machine(folder: Path, data: State | None = None, stick: Path | None = None) -> Iterator[Gx]:
    """A device without services, which would only take time: what they would start is looked at."""
    with Gx(folder, data=data) as gx:
        gx.svscan = False
        gx.plug("ttyUSB0", serial="DK0ABC12")
        if stick is not None:
            shutil.copy(stick, gx.stick())
        yield gx
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def archives(archive: Archives, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Archives]:
    """By version: the one that is built, and one that comes after it."""
    folder = tmp_path_factory.mktemp("newer")
    ssh, stick = (packages.of_version(one, NEW, folder) for one in archive)
    return {__version__: archive, NEW: (ssh, stick)}


@pytest.fixture(scope="module")
def states(archives: dict[str, Archives], tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    """/data before anything of ours was on it, and with the old version."""
    found = {}
    with machine(tmp_path_factory.mktemp("states") / "gx") as gx:
        (gx.data / "rcS.local").write_text(FOREIGN)
        (gx.data / "rcS.local").chmod(0o755)
        (gx.data / "conf" / "dbus-smartbms.ini").write_text("[log]\nlevel = debug\n")
        gx.boot()
        found["before"] = gx.state()
        said = gx.run(over_ssh(__version__), stdin=archives[__version__][0].read_bytes())
        assert "is installed" in said.output, said.output
        found["old"] = gx.state()
    return found


def over_ssh(version: str, source: str = "-", command: str = "install") -> str:
    return f"tar xzf {source} -C /tmp && sh /tmp/apps/.dbus-smartbms-{version}.new/setup.sh {command}"


def try_all(
    cuts: list[State], check: Callable[[Gx], str], folder: Path, stick: Path | None = None
) -> dict[str, int]:
    """Boot from each state, and count what ``check`` says of it."""
    aside = [state for state in cuts if is_aside(state)]
    chosen = [state for state in cuts if not is_aside(state)] + aside[::STEP]

    def one(number: int, state: State) -> str:
        with machine(folder / str(number), state, stick) as gx:
            try:
                gx.boot()
                return check(gx)
            except AssertionError as error:
                raise AssertionError(f"after {state.after}: {error}\nthe console:\n{gx.console}") from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = [*pool.map(one, range(len(chosen)), chosen)]
    counts = {what: said.count(what) for what in sorted(set(said))}
    print(f"{len(cuts)} moments, {len(chosen)} tried: {counts}")
    return counts


def is_aside(state: State) -> bool:
    """Whether the call changed only what is inside of a folder of packages that is not in use."""
    link = state.tree.get("/apps/dbus-smartbms")
    going = "/apps/.dbus-smartbms.removed" in state.tree
    in_use = f"/apps/{link.what}/" if link and not going else "/none/"
    changed = re.findall(r"[-+!] (\S+?)(?:,|$)", state.after.partition(": ")[2])
    return bool(changed) and all(
        path.startswith("/apps/.") and path.count("/") > 2 and not path.startswith(in_use) for path in changed
    )


def version_in_use(gx: Gx) -> str:
    """The version that works, after everything about it was looked at; "none" where nothing is left of it."""
    assert (gx.data / "conf" / "dbus-smartbms.ini").read_text() == "[log]\nlevel = debug\n"
    hook = (gx.data / "rcS.local").read_text()
    ours = [line for line in hook.splitlines() if "dbus-smartbms" in line]
    assert [line for line in hook.splitlines() if line not in ours] == FOREIGN.splitlines()
    assert "early" in gx.console
    left = sorted(path.name for path in gx.data.glob("apps/*dbus-smartbms*"))
    if not gx.path("/service/dbus-smartbms").exists():
        assert not gx.path("/run/udev/rules.d/zz-dbus-smartbms.rules").exists()
        if "dbus-smartbms" in left:
            return "installed and not started"
        return "none" if not left and not ours else "left over"
    assert len(ours) == 1
    link = str((gx.data / "apps" / "dbus-smartbms").readlink())
    assert left == [link, "dbus-smartbms"]
    assert gx.path("/run/udev/rules.d/zz-dbus-smartbms.rules").exists()
    for file in ("run", "log/run"):
        assert (
            gx.path(f"/service/dbus-smartbms/{file}").read_text()
            == (gx.data / "apps" / link / "service" / file).read_text()
        )
    said = gx.run(
        f"cd {APP}/. && sha256sum -c SHA256SUMS >/dev/null && python3 -I -S -B dbus-smartbms --version"
    )
    assert said.status == 0, said.output
    version = said.output.split()[1]
    assert (gx.data / "apps" / link / "version").read_text() == f"{version}\n"
    return version


def started(gx: Gx, archives: dict[str, Archives], source: Path) -> None:
    """Put an archive where ``tar`` finds it, and switch on."""
    shutil.copy(source, gx.stick("archive") / "ours.tgz")
    gx.boot()


def test_while_it_is_installed(
    states: dict[str, State], archives: dict[str, Archives], tmp_path: Path
) -> None:
    with machine(tmp_path / "gx", states["before"]) as gx:
        started(gx, archives, archives[__version__][0])
        cuts = powercut.trace(gx, over_ssh(__version__, "/media/archive/ours.tgz"))
        assert cuts.result.status == 0, cuts.result.output

    def installs(gx: Gx) -> str:
        found = version_in_use(gx)
        if found != __version__:
            # Nothing is in the way of another try, and nothing stays behind of this one.
            gx.run(over_ssh(__version__), stdin=archives[__version__][0].read_bytes())
            assert version_in_use(gx) == __version__
        return found

    counts = try_all(cuts.outcomes, installs, tmp_path)
    assert counts.keys() <= {"none", "left over", __version__}
    assert {"none", __version__} <= counts.keys()


def test_while_it_is_updated(states: dict[str, State], archives: dict[str, Archives], tmp_path: Path) -> None:
    with machine(tmp_path / "gx", states["old"]) as gx:
        started(gx, archives, archives[NEW][0])
        cuts = powercut.trace(gx, over_ssh(NEW, "/media/archive/ours.tgz"))
        assert cuts.result.status == 0, cuts.result.output
    assert try_all(cuts.outcomes, version_in_use, tmp_path).keys() == {__version__, NEW}


@pytest.mark.parametrize("before", ["before", "old"])
def test_while_a_stick_installs_or_updates_it(
    states: dict[str, State], archives: dict[str, Archives], tmp_path: Path, before: str
) -> None:
    """The stick is still in when the power comes back, so the new version is there in any case."""
    stick = archives[NEW][1]
    with machine(tmp_path / "gx", states[before]) as gx:
        gx.boot()
        gx.run("pkill -f update-data.sh")  # it looks once more for a stick that is mounted late
        shutil.copy(stick, gx.stick())
        cuts = powercut.trace(gx, "/etc/init.d/update-data.sh")
        assert version_in_use(gx) == NEW, cuts.result.output
    assert try_all(cuts.outcomes, version_in_use, tmp_path, stick).keys() == {NEW}


def test_while_it_is_uninstalled(
    states: dict[str, State], archives: dict[str, Archives], tmp_path: Path
) -> None:
    with machine(tmp_path / "gx", states["old"]) as gx:
        gx.boot()
        cuts = powercut.trace(gx, f"sh {APP}/setup.sh uninstall")
        assert cuts.result.status == 0, cuts.result.output

    def ends(gx: Gx) -> str:
        found = version_in_use(gx)
        if found == "none":
            assert tree.changes(states["before"].tree, gx.state().tree) in (
                [],
                ["+ /apps"],
            )  # an empty folder
        elif found != __version__:
            # The line in the boot hook was gone, the last files were not. Nothing runs, and it can go on.
            if found == "left over":
                gx.run(over_ssh(__version__), stdin=archives[__version__][0].read_bytes())
            gx.run(f"sh {APP}/setup.sh uninstall")
            assert tree.changes(states["before"].tree, gx.state().tree) == []
        return found

    counts = try_all(cuts.outcomes, ends, tmp_path)
    assert counts.keys() <= {"none", "left over", "installed and not started", __version__}
    assert "none" in counts


def test_no_space_at_any_step(
    states: dict[str, State], archives: dict[str, Archives], tmp_path: Path
) -> None:
    """However much room there is, the old version works, or the new one, and what is said is a sentence."""
    with machine(tmp_path / "gx", states["old"]) as gx:
        used = gx.data_used_kib()

    def with_room(kib: int) -> str:
        with machine(tmp_path / str(kib), states["old"]) as gx:
            shutil.copy(archives[NEW][0], gx.stick("archive") / "ours.tgz")
            gx.boot()
            gx.limit_data(used + kib)
            said = gx.run(over_ssh(NEW, "/media/archive/ours.tgz"))
            gx.limit_data(65536)
            gx.power_cut()
            gx.boot()
            found = version_in_use(gx)
            assert (found == NEW) == (said.status == 0), said.output
            assert said.status == 0 or "setup.sh: " in said.output or "No space left" in said.output
            return found

    rooms = [*range(0, 64, 8), *range(64, 8192, 512)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [*pool.map(with_room, rooms)]
    assert set(found) == {__version__, NEW}
