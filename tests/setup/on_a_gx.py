"""Runs a folder's ``__main__.py`` where only some modules can be had, as on a GX.

usage: python3 -I -S on_a_gx.py RULES REPORT FOLDER [WORDS ...]

RULES are lines: ``-tty`` is not there, nor what is below it; ``+json`` is there; ``+serial.*`` is there with
all that is below it. Without a line with ``+`` everything else is there. What the program has loaded when it
ends, and what it asked for in vain though this Python has it, is written to REPORT: ``+json``, ``-tty``.
It imports nothing that could hide an import of the program, not even annotations or paths.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: PTH123, S102  no pathlib, see above; and it runs a program

import atexit
import sys


class Finder:
    """Asked before all others; an import that the rules do not have fails as on a GX."""

    def __init__(self, rules):
        self._refused = {rule[1:] for rule in rules if rule[:1] == "-"}
        self._there = {rule[1:] for rule in rules if rule[:1] == "+"}
        self.asked = set()

    def _has(self, name):
        parts = name.split(".")
        above = {".".join(parts[: count + 1]) for count in range(len(parts))}
        if above & self._refused:
            return False
        return not self._there or name in self._there or bool({f"{part}.*" for part in above} & self._there)

    def find_spec(self, name, path=None, target=None):
        if not self._has(name):
            if any(finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self):
                self.asked.add(name)
            raise ModuleNotFoundError(f"No module named {name!r}, as on a GX", name=name)


def main():
    rules, report, folder = sys.argv[1:4]
    with open(rules, encoding="utf-8") as file:
        finder = Finder(file.read().split())

    def write():
        lines = [f"+{name}" for name in sys.modules] + [f"-{name}" for name in finder.asked]
        with open(report, "w", encoding="utf-8") as file:
            file.write("\n".join(sorted(lines)))

    atexit.register(write)
    sys.meta_path.insert(0, finder)
    sys.argv[:] = [folder, *sys.argv[4:]]
    sys.path.insert(0, folder)
    path = f"{folder}/__main__.py"
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    exec(code, {"__name__": "__main__", "__file__": path})


main()
