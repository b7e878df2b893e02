"""What a running driver writes into its log: what a person would want to read, and nothing per frame."""

from __future__ import annotations

import logging
import re

from .bank import Bank
from .items import BankItems
from .views import Identity

log = logging.getLogger(__name__)
_NUMBER = re.compile(r"\d+(\.\d+)?")
SAY_S = 60.0
"""A change of nothing but reasons is logged so often at most."""


class Sayer:
    """Says what changed since it was said last."""

    def __init__(self, bank: Bank, items: BankItems, identity: Identity) -> None:
        self._bank, self._items, self._identity = bank, items, identity
        self._said: tuple[object, ...] = ()
        self._why: tuple[str, ...] = ()
        self._at = 0.0
        self._wished: tuple[object, ...] = ()
        self._missing: list[str] = []
        self._disagreement: object = ""

    def know_wishes(self) -> None:
        """What is wished now need not be said."""
        bank = self._bank
        self._wished = (*bank.wishes, bank.charges_to_full, self._identity.custom_name)

    def say_wishes(self) -> None:
        """What was set over the bus, if it is something else than before."""
        before = self._wished
        self.know_wishes()
        if self._wished != before:
            log.info(
                "set over the bus: CCL at most %s, DCL at most %s, charge to full %s, name %r", *self._wished
            )

    def say(self, now: float) -> None:
        """Whether packs are missing, mirror and BMS differ, and what the limits are and why."""
        limits = self._bank.limits
        if limits is None:
            return
        several = len(self._items.packs) > 1
        if several:
            self._say_missing()
        disagreement = "" if limits.lost else self._items.items["/SmartBms/Disagreement"].value
        if disagreement != self._disagreement:
            self._disagreement = disagreement
            if not limits.lost:  # nothing is compared, and nothing agrees
                log.warning("%s", disagreement or "the BMS and the manual's tables agree again")
        raised = tuple(
            f"{pack.label}: {path} {level}" if several else f"{path} {level}"
            for pack in self._bank.packs.values()
            for path, level in pack.alarms.levels.items()
            if level
        )
        said = (limits.allow_charge, limits.allow_discharge, limits.state, limits.lost, raised, limits.wrong)
        reasons = (limits.cvl_reason, limits.ccl_reason, limits.dcl_reason)
        why = tuple(_NUMBER.sub("", reason) for reason in reasons)
        if said != self._said or (why != self._why and now - self._at >= SAY_S):
            self._said, self._why, self._at = said, why, now
            log.info(
                "%s: CVL %.2f V (%s), CCL %.1f A (%s), DCL %.1f A (%s)%s",
                limits.state,
                limits.cvl_mv / 1000, limits.cvl_reason,
                limits.ccl_ma / 1000, limits.ccl_reason,
                limits.dcl_ma / 1000, limits.dcl_reason,
                "".join((
                    "; alarms: " + ", ".join(raised) if raised else "",
                    "; settings of the BMS: " + limits.wrong if limits.wrong else "",
                )),
            )  # fmt: skip

    def _say_missing(self) -> None:
        packs = [pack for pack in self._items.packs if pack in self._bank.packs]
        missing = []
        for pack in map(self._bank.packs.__getitem__, packs):
            if pack.excluded:
                missing.append(f"{pack.label} is left out, as its name begins with *")
            elif self._bank.odd(pack):
                missing.append(f"{pack.label} is left out: it has another number of cells")
            elif pack.lost:
                missing.append(f"{pack.label} is lost")
        if missing != self._missing:
            self._missing = missing
            if missing:
                log.warning("%d packs: %s", len(packs), "; ".join(missing))
            else:
                log.info("%d packs: all are there", len(packs))
