"""Faults put into a module, one at a time, each of which its tests have to notice.

``python tests/mutants.py`` prints how many there were and which survived.  A mutant changes one
comparison, one number, one ``and`` or ``or``, one sign, one bit of the layout, or one word of a row of the
mirror (condition, threshold, generation, mode, what becomes on or off).  It is run in the module's place,
under all tests of its test file that need no fixture.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / folder) for folder in ("dbus-smartbms", "protocol", "tests", "tests/driver")]

from smartbms_protocol import layout  # noqa: E402  the path comes first

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
}  # fmt: skip
TESTS = {"manuals": "test_mirror"}
"""Whose tests are not in a file of its own."""
NAMES = {
    "min": ("max",), "max": ("min",), "any": ("all",), "all": ("any",),
    "_BOTH": ("(_NORMAL,)", "(_CRITICAL,)"), "_NORMAL": ("_CRITICAL",), "_CRITICAL": ("_NORMAL",),
}  # fmt: skip
FLAGS = {name: bit for name, bit in vars(layout).items() if isinstance(bit, int) and bit.bit_count() == 1}
WORDS = (
    ("<", "<=", ">", ">=", "is"),
    ("charge", "load", "SoC"),
    ("on", "off"),
    ("100 %", "0 %"),
    ("A", "B", "C", "AB", "AC", "BC", "ABC"),
    ("normal", "critical"),
    ("any V", "all V"),
    ("any T", "all T"),
    ("charge power", "discharge power"),
    ("Vmin", "Vmax", "Vbalance", "Vbalance x cells"),
    ("Tmin charge", "Tmin discharge", "Tmax"),
    ("charge restart", "discharge restart"),
    ("5 % of the capacity", "10 % of the capacity"),
    ("there", "lost"),
)
"""Words of the rows: each is tried in the place of each other of its line."""


EQUIVALENT = {
    "step: seen is None or pack.at is None -> seen is None and pack.at is None": (
        "a pack with a frame has its time: the second half is for the type checker"
    ),
    "_synchronised: any((row.for_s is None or at - begin >= row.for_s for row in empty)) -> "
    "all((row.for_s is None or at - begin >= row.for_s for row in empty))": "no table has two such rows",
    # voltage
    "Held: over_mv: float = 0.0 -> over_mv: float = -0.001": "the same",
    # limits
    "Memory: frames: int = 0 -> frames: int = -1": "the first frame has number 1: it is new after both",
    "Memory: eased_s: float = 0.0 -> eased_s: float = 0.001": "set to 0 with the first target",
    "Memory: eased_s: float = 0.0 -> eased_s: float = -0.001": "the same",
    "Memory: ccl_was_zero: bool = False -> ccl_was_zero: bool = True": "the missing ceiling says it",
    "Memory: lost: bool = False -> lost: bool = True": "compared only once a step has set it",
    "Memory: spent: bool = False -> spent: bool = True": "the same",
    "Limits: lost: bool = False -> lost: bool = True": "every step says it",
    "Limits: spent: bool = False -> spent: bool = True": "the same",
    "_look: soon = 0.0 -> soon = 0.001": "the highest cell counts beside it, and is never so low",
    "_look: soon = 0.0 -> soon = -0.001": "the same",
    # shares
    "learn: total > 0 -> total >= 0": "nothing is learnt of a total of 0",
    "learn: total > 0 -> total > -1": "the same",
    # parallel
    "Member: present: bool = True -> present: bool = False": "one that joins does not wait: it is present",
    "Member: gone: int = 0 -> gone: int = 1": "set when it is lost, before anything asks for it",
    "Member: gone: int = 0 -> gone: int = -1": "the same",
    "Ceiling: risen_s: float = 0.0 -> risen_s: float = 0.001": "without an amount nothing rises",
    "Ceiling: risen_s: float = 0.0 -> risen_s: float = -0.001": "the same",
    "Memory: cells: int = 0 -> cells: int = 1": "counted with the first pack, and no pack has so few",
    "Memory: cells: int = 0 -> cells: int = -1": "the same",
    "Memory: sampled_at: float = 0.0 -> sampled_at: float = 0.001": "set with the first sample",
    "Memory: sampled_at: float = 0.0 -> sampled_at: float = -0.001": "the same",
    "_meet: pack.readings.frames - (not _lost(pack)) -> pack.readings.frames + (not _lost(pack))": (
        "any other number says that the frame is new"
    ),
    "_look: strict=True -> strict=False": "both have two",
    "_left: return 1.0 -> return 1.011": "with a frame a ramp holds it, and without one nothing rises",
    "_left: sum((part[cable] for cable in view.present)) / whole if whole else 1.0 -> "
    "sum((part[cable] for cable in view.present)) / whole if whole else 1.011": (
        "packs without a capacity setting have limits of 0"
    ),
    "_left: sum((part[cable] for cable in view.present)) / whole if whole else 1.0 -> "
    "sum((part[cable] for cable in view.present)) / whole if whole else 0.989": "the same",
    "_takes: max(part[cable] / min(1.0, among), LEAST_SHARE) if among else 1.0 -> "
    "max(part[cable] / min(1.0, among), LEAST_SHARE) if among else 1.011": "the same",
    "_takes: max(part[cable] / min(1.0, among), LEAST_SHARE) if among else 1.0 -> "
    "max(part[cable] / min(1.0, among), LEAST_SHARE) if among else 0.989": "the same",
    "_own: 0 if limits is None else limits.ccl_ma if way == CHARGE else limits.dcl_ma -> "
    "1 if limits is None else limits.ccl_ma if way == CHARGE else limits.dcl_ma": (
        "members have limits: None is for the type checker"
    ),
    "_own: 0 if limits is None else limits.ccl_ma if way == CHARGE else limits.dcl_ma -> "
    "-1 if limits is None else limits.ccl_ma if way == CHARGE else limits.dcl_ma": "the same",
    "_rise: at is None -> at is not None": "compared only with itself",
    "_rise: memory.began_at or 0.0 -> memory.began_at or 0.001": "began with the first member",
    "_rise: memory.began_at or 0.0 -> memory.began_at or -0.001": "the same",
    "_at_most: strict=True -> strict=False": "all have three",
}
"""Mutants that no test can notice, and why: they do the same."""


class Place(NamedTuple):
    """Where something is changed: an attribute of a node, or an element of a list in it."""

    parent: ast.AST
    field: str
    number: int | None
    inside: str
    """The function or the name that it is in, for a person to find it."""

    def put(self, node: ast.AST) -> None:
        """Set the node of this place."""
        if self.number is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.number] = node


def places(node: ast.AST, inside: str = "") -> Iterator[tuple[Place, ast.AST]]:
    """All nodes that do something, with their places: no docstrings, annotations, decorators, texts."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        inside = node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not inside:
        inside = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment", "decorator_list"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            text = isinstance(child, ast.JoinedStr) or (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            )
            if isinstance(child, ast.AST) and not text:
                yield Place(node, field, index, inside), child
                yield from places(child, inside)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    for operator in OPERATORS.get(type(node), ()):
        yield operator()
    if isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in values(node.value))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from (ast.parse(name, mode="eval").body for name in NAMES.get(node.id, ()))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Attribute) and node.attr in FLAGS:
        yield from (
            ast.Attribute(node.value, flag, ast.Load())
            for flag, bit in FLAGS.items()
            if bit != FLAGS[node.attr]
        )


def values(value: object) -> Iterator[bool | int | float | str]:
    """Other values of a constant: the opposite, a little more and less, another word of the rows."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, float):
        yield from (value * 1.01 + 1e-3, value * 0.99 - 1e-3)
    elif isinstance(value, str):
        for words in WORDS:
            yield from (word for word in words if value in words and word != value)


def cases(tests: ModuleType) -> list[tuple[str, Callable[[], object]]]:
    """Every test function of a module with each set of its parameters.

    Not those that ask for fixtures, nor those of hypothesis: they are slow, and tell time by a clock.
    """
    found: list[tuple[str, Callable[[], object]]] = []
    for name, function in vars(tests).items():
        if not name.startswith("test_") or not inspect.isfunction(function):
            continue
        if getattr(function, "is_hypothesis_test", False):
            continue
        sets: list[list[dict[str, Any]]] = []
        for mark in getattr(function, "pytestmark", []):
            names, rows = mark.args
            if isinstance(names, str) and "," not in names:
                sets.append([{names: row} for row in rows])
            else:
                split = names.split(",") if isinstance(names, str) else names
                sets.append([dict(zip(split, row, strict=True)) for row in rows])
        for choice in itertools.product(*sets):
            given = {key: value for one in choice for key, value in one.items()}
            if given.keys() == inspect.signature(function).parameters.keys():
                found.append((name, functools.partial(function, **given)))
    return found


class Outcome(NamedTuple):
    """How many mutants there were, and those that no test noticed, but for ``EQUIVALENT``."""

    mutants: int
    survivors: list[str]


def run(module: ModuleType, tests: ModuleType, say: Callable[[str], object] = lambda _: None) -> Outcome:
    """Put every mutant of ``module`` in its place under ``tests``.  The module is as before afterwards."""
    source = Path(inspect.getfile(module)).read_text()
    tree = ast.parse(source)
    every = cases(tests)
    for _, case in every:
        case()  # unchanged, all have to pass
    before = dict(vars(module))
    mutants, survivors = 0, []
    for place, node in list(places(tree)):
        for other in list(changes(node)):
            original = ast.unparse(place.parent)
            place.put(other)
            name = f"{place.inside}: {original} -> {ast.unparse(place.parent)}"
            code = compile(ast.fix_missing_locations(tree), "<mutant>", "exec")
            place.put(node)
            if name not in EQUIVALENT:
                mutants += 1
                if not _noticed(code, module, every):
                    survivors.append(name)
                    say(name)
                vars(module).update(before)
    return Outcome(mutants, survivors)


def _noticed(code: Any, module: ModuleType, every: list[tuple[str, Callable[[], object]]]) -> bool:
    """Whether a test fails; the one that did goes to the front, for it is likely to notice the next too."""
    try:
        exec(code, vars(module))  # noqa: S102  that is the point
    except Exception:  # noqa: BLE001  a mutant that does not load is noticed
        return True
    for index, (_, case) in enumerate(every):
        try:
            case()
        except Exception:  # noqa: BLE001  whatever a mutant does to a test
            every.insert(0, every.pop(index))
            return True
    return False


def main(names: list[str]) -> int:
    """Mutants of the modules named, by default of the mirror; status 1 if any survived."""
    status = 0
    for name in names or ["manuals", "mirror"]:
        module = importlib.import_module(f"dbus_smartbms.{name}")
        outcome = run(
            module,
            importlib.import_module(TESTS.get(name, f"test_{name}")),
            lambda text: print("survived:", text),
        )
        print(f"{name}: {outcome.mutants} mutants, {len(outcome.survivors)} survived")
        status |= bool(outcome.survivors)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
