"""A small udev: a table of properties for each tty, and the rules that make them.

Understands of the rules' language what serial-starter's, the vendor's and our rules are written in; anything
else is an error, said on stderr and in the log of calls, and its rule is not applied.  As in eudev: the files
of all folders in the order of their names; all matches of a rule come before its assignments; nothing is kept
from one event to the next.  Stricter than eudev: rules are read at boot and with ``control --reload`` only,
never because a folder has changed.  Less: events are handled at once, so ``trigger`` waits for them.
"""

from __future__ import annotations

import fnmatch
import getopt
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RULES = [Path("/etc/udev/rules.d"), Path("/run/udev/rules.d"), Path("/lib/udev/rules.d")]
"""A name in an earlier one hides the same name in a later one."""
TABLE = Path("/rig/udev")
Token = tuple[str, str, str, str]
"""Key, attribute (empty if it has none), operator, value."""
CALLS = Path("/rig/calls")
CLASS = Path("/sys/class/tty")
TOKEN = re.compile(r'\s*([A-Z]+)(?:\{([^}]*)\})?\s*(==|!=|\+=|:=|=)\s*"([^"]*)"\s*(?:,|$)')


class BadRuleError(Exception):
    """A rule that this stub cannot read."""


# Rules


def parse(line: str) -> list[Token]:
    """The tokens of a rule."""
    tokens: list[Token] = []
    at = 0
    while at < len(line):
        match = TOKEN.match(line, at)
        if not match:
            raise BadRuleError(f"cannot read {line[at:]!r}")
        key, attribute, operator, value = match.groups()
        tokens.append((key, attribute or "", operator, value))
        at = match.end()
    return tokens


def load() -> None:
    """Read all rules, and keep what was read until it is read again."""
    files: dict[str, Path] = {}
    for folder in reversed(RULES):
        files.update({path.name: path for path in folder.glob("*.rules")})
    rules = []
    for name in sorted(files):
        text = files[name].read_text().replace("\\\n", "")
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    rules.append(parse(line.strip()))
                except BadRuleError as error:
                    complain(f"{files[name]}:{number}: {error}")
    (TABLE / "rules").write_text(json.dumps(rules))


def complain(text: str) -> None:
    call(f"udev error {text}")
    print(text, file=sys.stderr)


def matches(pattern: str, value: str) -> bool:
    """eudev's globs: ``|`` between several; a device without the property has it empty."""
    return any(fnmatch.fnmatchcase(value, one) for one in pattern.split("|"))


def apply(rules: list[list[Token]], device: Device) -> list[str]:
    """Run a device through all rules.  Its properties change; its links are returned."""
    links: list[str] = []
    skip_to = ""
    for rule in rules:
        if skip_to and not any(token[0] == "LABEL" and token[3] == skip_to for token in rule):
            continue
        skip_to = ""
        if not all(device.is_such(*token) for token in rule if token[2] in ("==", "!=")):
            continue
        for key, attribute, operator, value in rule:
            if operator in ("==", "!=", ":="):
                continue
            if key == "ENV":
                device.properties[attribute] = value.replace("%k", device.tty)
            elif key == "SYMLINK":
                links.append(value.replace("%k", device.tty))
            elif key == "GOTO":
                skip_to = value
            elif key not in ("LABEL", "RUN", "TAG", "MODE", "GROUP"):
                complain(f"unknown key {key}")
    return links


# Devices


class Device:
    """A tty as sysfs has it: only what rules look at."""

    def __init__(self, tty: str, action: str) -> None:
        self.tty = tty
        self.parents: list[Path] = []
        place = CLASS / tty
        if (place / "device").exists():
            self.parents = [(place / "device").resolve(), *(place / "device").resolve().parents]
        self.properties = {"DEVNAME": f"/dev/{tty}", "SUBSYSTEM": "tty", "ACTION": action}
        self.usb = next((one for one in self.parents if (one / "idVendor").exists()), None)
        if self.usb:
            self.properties.update(self.usb_id(self.usb))

    def read(self, folder: Path, name: str) -> str:
        try:
            return (folder / name).read_text().strip()
        except OSError:
            return ""

    def usb_id(self, usb: Path) -> dict[str, str]:
        """What udev's usb_id says: spaces become ``_``."""
        model, maker, serial = (
            self.read(usb, name).replace(" ", "_") for name in ("product", "manufacturer", "serial")
        )
        vendor, product = self.read(usb, "idVendor"), self.read(usb, "idProduct")
        found = {
            "ID_BUS": "usb",
            "ID_MODEL": model or product,
            "ID_MODEL_ID": product,
            "ID_VENDOR": maker or vendor,
            "ID_VENDOR_ID": vendor,
            "ID_SERIAL": "_".join(filter(None, (maker or vendor, model or product, serial))),
            "ID_USB_DRIVER": "ftdi_sio",
        }
        return found | ({"ID_SERIAL_SHORT": serial} if serial else {})

    def is_such(self, key: str, attribute: str, operator: str, value: str) -> bool:
        """Whether a match of a rule holds."""
        return any(matches(value, one) for one in self.looked_at(key, attribute)) == (operator == "==")

    def looked_at(self, key: str, attribute: str) -> list[str]:
        """The values that a match compares; of the parents' keys any one may do."""
        if key == "ENV":
            return [self.properties.get(attribute, "")]
        if key == "ATTRS":
            return [self.read(one, attribute) for one in self.parents if (one / attribute).exists()]
        if key == "SUBSYSTEMS":
            found = [
                (one / "subsystem").resolve().name for one in self.parents if (one / "subsystem").exists()
            ]
            return ["tty", *found]
        known = {"ACTION": self.properties["ACTION"], "SUBSYSTEM": "tty", "KERNEL": self.tty}
        if key not in known:
            complain(f"unknown key {key}")
        return [known.get(key, "")]


def ttys() -> list[str]:
    return sorted(path.name for path in CLASS.iterdir())


def boot() -> None:
    """RAM is empty: nothing is known, no rule is read."""
    TABLE.mkdir(exist_ok=True)
    for path in TABLE.iterdir():
        path.unlink()
    load()


def event(action: str, tty: str) -> None:
    """The kernel, or a trigger, says that something is with a tty."""
    call(f"uevent {action} {tty}")
    before = stored(tty)
    device = Device(tty, action)
    if action == "remove":
        device.properties = {**before.get("properties", {}), "ACTION": action}
    links = apply(json.loads((TABLE / "rules").read_text()), device)
    if action == "remove":
        links = []
        (TABLE / f"{tty}.json").unlink(missing_ok=True)
    else:
        properties = {key: value for key, value in device.properties.items() if key != "ACTION" and value}
        table = TABLE / f"{tty}.json"
        new = table.with_name(f"{tty}.new")
        new.write_text(json.dumps({"properties": properties, "links": links}))
        new.rename(table)
    for name in set(before.get("links", [])) - set(links):
        Path("/dev", name).unlink(missing_ok=True)
    for name in links:
        link = Path("/dev", name)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(f"/dev/{tty}", link.parent))


def stored(tty: str) -> dict[str, Any]:
    """What the table has of a tty: its properties and links; empty if nothing."""
    try:
        found: dict[str, Any] = json.loads((TABLE / f"{tty}.json").read_text())
    except FileNotFoundError:
        return {}
    return found


# udevadm


def call(text: str) -> None:
    with CALLS.open("a") as file:
        file.write(text + "\n")


def main(arguments: list[str]) -> int:
    call(" ".join(["udevadm", *arguments]))
    verb = arguments[0] if arguments else ""
    behave(verb)
    verbs: dict[str, Callable[[list[str]], int]] = {
        "control": control,
        "trigger": trigger,
        "info": info,
        "settle": lambda _: 0,
    }
    if verb not in verbs:
        print(f"udevadm: unknown command {verb!r}", file=sys.stderr)
        return 1
    try:
        return verbs[verb](arguments[1:])
    except getopt.GetoptError as error:
        print(f"udevadm {verb}: {error}", file=sys.stderr)
        return 1


def behave(verb: str) -> None:
    for name in ("udevadm", f"udevadm {verb}"):
        try:
            how = Path("/rig/behave", name).read_text()
        except FileNotFoundError:
            continue
        while how == "hang":
            time.sleep(3600)
        sys.exit(1)


def control(arguments: list[str]) -> int:
    """``--reload`` (``--reload-rules``, ``-R``) and nothing else."""
    if arguments and set(arguments) <= {"--reload", "--reload-rules", "-R"}:
        load()
        return 0
    print(f"udevadm control: cannot {arguments}", file=sys.stderr)
    return 1


def trigger(arguments: list[str]) -> int:
    """With or without choice of devices; an action that is not named is "change".

    As in eudev, ``-n`` is a dry run; a name is asked for with ``--name-match``, or without any option.
    """
    options, named = getopt.gnu_getopt(
        arguments,
        "vnt:c:s:y:",
        ["verbose", "dry-run", "type=", "action=", "subsystem-match=", "sysname-match=", "name-match="],
    )
    action, dry, chosen = "change", False, ttys()
    for option, value in options:
        if option in ("-c", "--action"):
            action = value
        elif option in ("-n", "--dry-run"):
            dry = True
        elif option in ("-s", "--subsystem-match"):
            chosen = [tty for tty in chosen if matches(value, "tty")]
        elif option in ("-y", "--sysname-match"):
            chosen = [tty for tty in chosen if matches(value, tty)]
        elif option == "--name-match":
            named.append(value)
    if named:
        chosen = [tty for tty in chosen if any(is_below(tty, name) for name in named)]
    if action not in ("add", "remove", "change"):
        print(f"udevadm trigger: unknown action {action!r}", file=sys.stderr)
        return 1
    for tty in () if dry else chosen:
        event(action, tty)
    return 0


def is_below(tty: str, name: str) -> bool:
    """Whether a tty is a device, or hangs on one, that is named by its node or by its place in /sys."""
    if not name.startswith("/sys/"):
        return Path(name).name == tty
    return (CLASS / tty).resolve().is_relative_to(Path(name).resolve())


def info(arguments: list[str]) -> int:
    """One device: its properties (``-q property``), or with a mark before each (``-q all``)."""
    options, named = getopt.gnu_getopt(arguments, "q:n:p:", ["query=", "name=", "path="])
    query = "all"
    for option, value in options:
        if option in ("-q", "--query"):
            query = value
        else:
            named.append(value)
    if len(named) != 1 or not (CLASS / Path(named[0]).name).exists() or query not in ("all", "property"):
        print(f"udevadm info: cannot {arguments}", file=sys.stderr)
        return 1
    for key, value in stored(Path(named[0]).name).get("properties", {}).items():
        print(f"{'E: ' if query == 'all' else ''}{key}={value}")
    return 0
