"""The decoder stands alone: the standard library only, and nothing in it that reads or waits."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smartbms_protocol

FOLDER = Path(smartbms_protocol.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
IMPURE = {
    "asyncio",
    "os",
    "random",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
}
ORDER = ["layout", "frame", "stream", "pack", "__init__"]


def imported(path: Path) -> Iterator[str]:
    """The modules that a module imports; those of its own package with a dot before them."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level and node.module is None:
            yield from (f".{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_the_package_is_these_modules() -> None:
    assert {path.stem for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_it_imports_the_standard_library_and_nothing_that_reads_or_waits(path: Path) -> None:
    foreign = {name.partition(".")[0] for name in imported(path) if not name.startswith(".")}
    assert foreign <= sys.stdlib_module_names - IMPURE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_its_own_imports_point_one_way(path: Path) -> None:
    own = {name[1:] for name in imported(path) if name.startswith(".")}
    assert own <= set(ORDER[: ORDER.index(path.stem)])


def test_the_walk_sees_every_form_of_import(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text("import os.path, re\nfrom time import sleep\nfrom . import a\nfrom .b import c\n")
    assert set(imported(path)) == {"os.path", "re", "time", ".a", ".b"}
