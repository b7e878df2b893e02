"""The bank: how the BMS and the mirror of its tables agree."""

from __future__ import annotations

import rig
from dbus_smartbms.bank import Bank
from dbus_smartbms.settings import Settings


def drive(bank: Bank, frames: int, begin: float, **changes: int) -> float:
    for turn in range(frames):
        bank.take(rig.frame(turn, **changes), begin + turn)
    return begin + frames


def test_a_disagreement_is_said_after_10_s_and_clears_by_itself() -> None:
    bank = Bank(Settings())
    now = drive(bank, 3, 0.0)
    assert bank.agreement.text is None
    now = drive(bank, 10, now, status=0b10)
    assert bank.agreement.text is None, "the BMS's bits may come late"
    now = drive(bank, 1, now, status=0b10)
    assert bank.agreement.text == (
        "the BMS does not allow charging, but the table of generation C in critical mode has no reason to "
        "switch it off; generation C in normal mode would fit: check [pack] generation and mode"
    )
    drive(bank, 1, now)
    assert bank.agreement.text is None


def test_a_bms_that_allows_what_the_table_forbids_is_named_with_the_condition() -> None:
    bank = Bank(Settings())
    drive(bank, 11, 0.0, lowest_mv=2900)
    assert bank.agreement.text == (
        "the BMS allows discharging, but the table of generation C in critical mode switches it off: "
        "cell 7 at 2.900 V: Vmin 2.90 V (Vl); check [pack] generation and mode"
    )


def test_a_disagreement_shorter_than_10_s_is_not_said() -> None:
    bank = Bank(Settings())
    now = 0.0
    for _ in range(5):
        now = drive(bank, 9, now, status=0b10)
        now = drive(bank, 2, now)
        assert bank.agreement.text is None
