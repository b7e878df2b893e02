"""The archives: what is in them, and that the same sources give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import rig
from dbus_smartbms import __version__

PACKAGE = f"apps/.dbus-smartbms-{__version__}.new"
WHEELS = rig.ROOT / ".venv" / "wheels"
NO_NETWORK = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1",
}  # fmt: skip
PLACES = ("dbus-smartbms/dbus_smartbms", "protocol/smartbms_protocol", "service", "docs", "packaging/rc")
LITTER = (
    ".DS_Store", "._cli.py", ".#cli.py", "cli.py~", "cli.py.orig", "#cli.py#", ".cli.py.swp", "4913",
    "cli copy.py", "cli.py.orig.py",
)  # fmt: skip
"""What systems and editors leave beside a file."""
BUSYBOX = shutil.which("busybox")
with_busybox = pytest.mark.skipif(BUSYBOX is None, reason="busybox is not installed")

Archives = tuple[Path, Path]


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def contents(path: Path) -> dict[str, bytes | None]:
    """Name and bytes of each member, None for a folder."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() if file else None for name, file in files.items()}


def build(project: Path, *words: str, python: str = sys.executable, **more: str) -> tuple[int, str]:
    """Build there, without a network unless ``more`` says otherwise; the status and what is said."""
    command = [python, str(project / "packaging" / "build.py"), *words]
    ended = subprocess.run(
        command, env=os.environ | NO_NETWORK | more, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture
def elsewhere(archive: Archives, tmp_path: Path) -> Path:
    """The sources in another folder, as out of a zip file: no .git, other modes and times; and litter."""
    folder = tmp_path / "a copy"
    leave = shutil.ignore_patterns(".*", "__pycache__", "dist", "build")
    shutil.copytree(rig.ROOT, folder, ignore=leave)
    shutil.copytree(WHEELS, folder / ".venv" / "wheels")
    for place in PLACES:
        for name in LITTER:
            (folder / place / name).write_text("litter")
        (folder / place / "__pycache__").mkdir()
        (folder / place / "__pycache__" / "cli.cpython-312.pyc").write_text("litter")
    for path in sorted(folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (2_000_000_000, 2_000_000_000), follow_symlinks=False)
    return folder


def same(project: Path, archive: Archives) -> None:
    for path in archive:
        made = project / "dist" / path.name
        assert made.read_bytes() == path.read_bytes()
        assert (
            made.with_name(f"{path.name}.sha256").read_bytes()
            == path.with_name(f"{path.name}.sha256").read_bytes()
        )


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TZ": "Pacific/Kiritimati", "SOURCE_DATE_EPOCH": "1"},
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "2", "PYTHONOPTIMIZE": "2", "USER": "nobody", "HOME": "/nowhere"},
    ],
    ids=lambda environment: "-".join(environment) or "another folder",
)
def test_the_same_bytes_wherever_and_whenever(
    elsewhere: Path, archive: Archives, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert build(elsewhere, **environment)[0] == 0
    same(elsewhere, archive)


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_the_same_bytes_with_any_umask(elsewhere: Path, archive: Archives, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert build(elsewhere)[0] == 0
    finally:
        os.umask(before)
    same(elsewhere, archive)


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13"])
def test_the_same_bytes_from_each_python(elsewhere: Path, archive: Archives, name: str) -> None:
    python = shutil.which(name)
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"{name} is not installed")
    assert build(elsewhere, python=python)[0] == 0
    same(elsewhere, archive)


def test_a_clone_with_what_was_downloaded_builds_by_setup_sh(elsewhere: Path, archive: Archives) -> None:
    """As a user types it: setup.sh, in a clone where it ran before, without a network."""
    (elsewhere / ".venv" / "bin").mkdir()
    (elsewhere / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (elsewhere / ".venv" / "installed-").touch()
    os.utime(elsewhere / ".venv" / "installed-", (2_000_000_001, 2_000_000_001))
    ended = subprocess.run(
        ["/bin/sh", str(elsewhere / "setup.sh"), "build"],
        env=os.environ | NO_NETWORK,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    same(elsewhere, archive)
    assert ended.stdout == "".join(path.with_name(f"{path.name}.sha256").read_text() for path in archive)


def test_an_unpacked_package_does_not_build(package: Path) -> None:
    ended = subprocess.run(
        ["/bin/sh", str(package / "setup.sh"), "build"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "build needs a clone of the project" in ended.stderr


def test_the_pins_are_those_of_the_project() -> None:
    with (rig.ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    lines = (rig.ROOT / "packaging" / "vendor.txt").read_text().splitlines()
    pins = [re.fullmatch(r"(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines if line[0] != "#"]
    assert [pin and pin[1] for pin in pins] == wanted


def test_nothing_downloaded_and_no_network(elsewhere: Path) -> None:
    shutil.rmtree(elsewhere / ".venv")
    status, said = build(elsewhere)
    assert status == 1
    assert "build: pip could not download what packaging/vendor.txt names (no network?)" in said
    assert "Traceback" not in said
    assert not (elsewhere / "dist").exists()


def test_a_changed_wheel_is_not_taken(elsewhere: Path) -> None:
    wheel = next((elsewhere / ".venv" / "wheels").glob("dbus_next*"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    status, said = build(elsewhere)
    assert status == 1
    assert "pip could not download" in said


def test_a_missing_source_is_named(elsewhere: Path) -> None:
    (elsewhere / "docs" / "install.md").unlink()
    status, said = build(elsewhere)
    assert status == 1
    assert said.startswith(f"build: {elsewhere / 'docs' / 'install.md'} is missing")
    assert not (elsewhere / "dist").exists()


def test_nowhere_to_write_is_a_sentence(elsewhere: Path) -> None:
    (elsewhere / "dist").write_text("in the way")
    status, said = build(elsewhere)
    assert status == 1
    assert re.fullmatch(r"build: .*File exists.*dist'\n", said)


def test_too_much_is_refused(elsewhere: Path) -> None:
    (elsewhere / "docs" / "install.md").write_bytes(b"#" * 3_000_000)
    status, said = build(elsewhere)
    assert status == 1
    assert re.match(r"build: \d{7} bytes unpacked are more than the 3000000 that a GX shall hold", said)


def test_a_version_that_is_none_is_refused(elsewhere: Path) -> None:
    """It becomes a name on the device."""
    (elsewhere / "dbus-smartbms" / "dbus_smartbms" / "__init__.py").write_text('__version__ = "../1"\n')
    status, said = build(elsewhere)
    assert status == 1
    assert "has no version such as 1.2.3" in said


def test_every_member_is_root_s_and_plain(archive: Archives) -> None:
    for path in archive:
        for name, member in members(path).items():
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "root", "root")
            assert member.mtime == 315532800, name
            assert member.mode == (0o755 if member.isdir() or name.endswith(PROGRAMS) else 0o644), name
            assert member.isdir() or member.isreg(), name


PROGRAMS = (".new/setup.sh", ".new/service/run", ".new/service/log/run", "rc/pre-hook.sh", "rc/post-hook.sh")


def test_the_headers_are_ustar_and_nothing_else(archive: Archives) -> None:
    """No extended headers: what busybox does with those has changed over the years."""
    for path in archive:
        data = gzip.decompress(path.read_bytes())
        at, names = 0, []
        while data[at]:
            header = data[at : at + 512]
            assert header[257:265] == b"ustar\x0000"
            assert header[156:157] in b"05"
            names.append(header[:100].rstrip(b"\0").rstrip(b"/").decode("ascii"))
            at += 512 + -(-int(header[124:135], 8) // 512) * 512
        assert names == sorted(names, key=lambda name: (not f"{name}/".startswith("rc/"), name))
        assert not data[at:].strip(b"\0")


def test_the_gzip_header_has_no_name_and_no_time(archive: Archives) -> None:
    for path in archive:
        assert path.read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        subprocess.run(["gzip", "--test", str(path)], check=True)


def test_the_stick_s_archive_has_the_same_members_and_rc(archive: Archives) -> None:
    plain, stick = map(contents, archive)
    rc = {name: data for name, data in stick.items() if name.split("/")[0] == "rc"}
    assert {name: data for name, data in stick.items() if name not in rc} == plain
    scripts = {"setup.sh", "service", *(f"service/{name}.sh" for name in ("placed", "device", "stick"))}
    with_hooks = {"SHA256SUMS", "version", *scripts}
    hooks = {"rc/pre-hook.sh", "rc/post-hook.sh"}
    assert set(rc) == {"rc", *hooks, *(f"rc/{name}" for name in with_hooks)}
    assert all(rc[f"rc/{name}"] == plain[f"{PACKAGE}/{name}"] for name in with_hooks)
    assert rc["rc/version"] == f"{__version__}\n".encode()
    for hook in ("pre-hook.sh", "post-hook.sh"):
        assert rc[f"rc/{hook}"] == (rig.ROOT / "packaging" / "rc" / hook).read_bytes()


def test_everything_is_in_the_staging_folder(archive: Archives) -> None:
    """And no part of a path is called rc: ``--exclude rc`` would take it away."""
    names = set(members(archive[0]))
    assert all(name == PACKAGE or name.startswith(f"{PACKAGE}/") for name in names)
    assert not any("rc" in name.split("/") for name in names)
    below = {name.removeprefix(f"{PACKAGE}/") for name in names - {PACKAGE}}
    assert {name for name in below if name.count("/") < (2 if name.startswith("service") else 1)} == {
        "setup.sh", "version", "SHA256SUMS", "README.md", "CHANGELOG.md", "LICENSE",
        "docs", "service", "service/run", "service/log",
        "service/placed.sh", "service/device.sh", "service/stick.sh",
        "dbus-smartbms", "protocol", "vendor",
    }  # fmt: skip
    assert {name for name in below if name.startswith("docs/")} == {
        "docs/dbus-smartbms.ini",
        "docs/install.md",
    }
    folders = ("vendor/", "protocol/", "dbus-smartbms/")
    assert {name for name in below if name.count("/") == 1 and name.startswith(folders)} == {
        "dbus-smartbms/__main__.py", "dbus-smartbms/dbus_smartbms", "protocol/smartbms_protocol",
        "vendor/dbus_next", "vendor/serial", "vendor/serial_asyncio",
    }  # fmt: skip
    assert not [name for name in below if re.search(r"\.pyc$|\.so$|__pycache__|/\.|~$", name)]


@pytest.mark.skipif(
    not (rig.ROOT / ".git").exists(), reason="this is no clone: git cannot say what belongs to it"
)
def test_no_module_is_forgotten_and_each_file_is_the_one_here(archive: Archives) -> None:
    command = [
        "git",
        "-C",
        str(rig.ROOT),
        "ls-files",
        "dbus-smartbms",
        "protocol/smartbms_protocol",
        "service",
    ]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    packed = contents(archive[0])
    assert len(tracked) > 40
    for name in tracked:
        assert packed[f"{PACKAGE}/{name}"] == (rig.ROOT / name).read_bytes(), name


def test_the_licences_travel(package: Path) -> None:
    words = {"dbus_next": "Permission is hereby granted", "serial": "Redistribution and use"}
    for name, phrase in (words | {"serial_asyncio": "Redistribution and use"}).items():
        text = (package / "vendor" / name / "LICENSE").read_text()
        assert "Copyright (c)" in text
        assert phrase in text


def test_the_sums_beside_the_archives(archive: Archives) -> None:
    for path in archive:
        name = f"{path.name}.sha256"
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", name], cwd=path.parent, check=True)


def test_the_manifest_has_every_other_file_and_is_sorted(package: Path) -> None:
    lines = (package / "SHA256SUMS").read_text().splitlines()
    listed = [line.split("  ", 1) for line in lines]
    files = {str(path.relative_to(package)): path for path in package.rglob("*") if path.is_file()}
    names = [name for _, name in listed]
    assert names == sorted(set(files) - {"SHA256SUMS"})
    assert all(digest == hashlib.sha256(files[name].read_bytes()).hexdigest() for digest, name in listed)


@with_busybox
def test_busybox_reads_the_manifest_and_notices_damage(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(package, folder)

    def sound() -> bool:
        command = ["busybox", "sha256sum", "-c", "SHA256SUMS"]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0

    assert sound()
    file = folder / "docs" / "dbus-smartbms.ini"
    before = file.read_bytes()
    file.write_bytes(before[:-1] + b" ")
    assert not sound()
    file.write_bytes(before)
    assert sound()
    (folder / "LICENSE").unlink()
    assert not sound()


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Mode and bytes (None: a folder) of everything below."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {
        name: (path.stat().st_mode & 0o7777, None if path.is_dir() else path.read_bytes())
        for name, path in paths.items()
    }


@pytest.mark.parametrize("tar", [["tar"], pytest.param(["busybox", "tar"], marks=with_busybox)], ids=" ".join)
def test_venus_unpacks_a_stick_in_two_steps(archive: Archives, tmp_path: Path, tar: list[str]) -> None:
    """``tar xzf A -C TMP rc``, then ``tar xzf A -C /data --exclude rc``; /data/apps is there and not ours.

    Venus's busybox knows --exclude, Debian's does not: that one may leave rc in /data.
    """
    hooks, data = tmp_path / "hooks", tmp_path / "data"
    hooks.mkdir()
    (data / "apps" / "rc").mkdir(parents=True)
    (data / "apps").chmod(0o750)
    packed = contents(archive[1])
    expected = {name: (member.mode, packed[name]) for name, member in members(archive[1]).items()}
    usage = subprocess.run([*tar, "--help"], capture_output=True, text=True, check=False)
    excluding = ["--exclude", "rc"] if "--exclude" in usage.stdout + usage.stderr else []
    for words in (["-C", str(hooks), "rc"], ["-C", str(data), *excluding]):
        command = [*tar, "xzf", str(archive[1]), *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, umask=0o022)
        assert ended.stderr == ""
    if not excluding:
        shutil.rmtree(data / "rc")
    assert tree(hooks) == {name: entry for name, entry in expected.items() if name.split("/")[0] == "rc"}
    others = {"apps": (0o750, None), "apps/rc": ((data / "apps" / "rc").stat().st_mode & 0o7777, None)}
    assert tree(data) == others | {
        name: entry for name, entry in expected.items() if name.startswith("apps/")
    }


@pytest.mark.parametrize("tar", [["tar"], pytest.param(["busybox", "tar"], marks=with_busybox)], ids=" ".join)
def test_the_program_starts_from_the_unpacked_folder(
    archive: Archives, tmp_path: Path, tar: list[str]
) -> None:
    """With nothing else: no site-packages, no environment."""
    subprocess.run([*tar, "xzf", str(archive[0]), "-C", str(tmp_path)], check=True)
    program = str(tmp_path / PACKAGE / "dbus-smartbms")
    for words in (["--version"], ["replay"]):
        command = [sys.executable, "-I", "-S", "-X", f"pycache_prefix={tmp_path / 'cache'}", program, *words]
        ended = subprocess.run(
            command, env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
        assert ended.stderr == ""
    assert not list((tmp_path / PACKAGE).rglob("__pycache__"))
