"""The simulated BMS: each generation in either mode, laid beside the manuals' tables."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from dbus_smartbms.simulated_bms import Bms, Setup

C_CRITICAL = Setup(2900, 3000, 3300, 3400, 3450, 3700, 16_000, normal_mode=False)
SETUPS = {
    f"{generation} {mode}": replace(
        C_CRITICAL,
        generation=generation,
        normal_mode=mode == "normal",
        tmin_charge_c=0,
        tmin_discharge_c=-20 if generation == "C" else 0,
    )
    for generation in "ABC"
    for mode in ("normal", "critical")
}
"""Vmin 2.9, Vbalance 3.4, Vmax 3.7 V; Tmin 0 and for C -20, Tmax 55 degC; restarts 95 and 10 %.

5 % of the 16 kWh are 800 W, 10 % are 1600 W: 100 A and 200 A at 8 V.
"""


class Measured(Bms):
    """A BMS that is shown one reading after the other, without a pack."""

    def __init__(self, setup: Setup, soc: float = 0.5) -> None:
        super().__init__(setup, soc, calibrated=False)

    def shows(
        self,
        *cell_mv: int,
        celsius: tuple[int, ...] = (20,),
        amps: float = 0,
        seconds: float = 1,
        pack_mv: int | None = None,
    ) -> tuple[bool, bool]:
        """The relays after a reading of these cells; the pack's voltage is their sum unless given."""
        raws = [276 + degrees for degrees in celsius]
        sun_ma, load_ma = round(max(amps, 0) * 1000), round(max(-amps, 0) * 1000)
        self.measure(list(cell_mv), raws, pack_mv or sum(cell_mv), sun_ma, load_ma, seconds)
        return self.charge_allowed, self.load_allowed


# Charge and load relays


class Row(NamedTuple):
    """What is shown, and what the relays "Charge" and "Load" do by the table: + on, - off, = as they were."""

    setups: str
    """Words that the name of a setup has to have, one of each group."""
    does: str
    cell_mv: tuple[int, ...] = (3300, 3300)
    soc: float = 0.5
    celsius: tuple[int, ...] = (20, 20)
    amps: float = 0
    communication: bool = True
    changed: tuple[tuple[str, int], ...] = ()
    """Settings that are not as in ``SETUPS``."""


ROWS = (
    Row("ABC", "++"),
    Row("ABC", "--", communication=False),
    # any V >= Vmax
    Row("ABC critical", "++", (3300, 3695)),
    Row("ABC normal", "=+", (3300, 3695)),
    Row("ABC", "-+", (3300, 3700)),
    Row("ABC", "-+", (3300, 3705)),
    Row("ABC", "-+", (3700, 3700)),
    # all V < Vbalance, all V >= Vbalance
    Row("ABC normal", "++", (3300, 3395)),
    Row("ABC normal", "=+", (3300, 3400)),
    Row("ABC normal", "=+", (3300, 3405)),
    Row("ABC normal", "++", (3395, 3395)),
    Row("ABC normal", "=+", (3395, 3400)),
    Row("ABC normal", "-+", (3400, 3400)),
    Row("ABC normal", "-+", (3405, 3405)),
    Row("ABC normal", "-+", (3400, 3400), amps=-100),
    Row("ABC critical", "++", (3405, 3405)),
    # ... and for C a charge power <= 5 %
    Row("C normal", "-+", (4000, 4000), amps=99.875, changed=(("vmax_mv", 4500),)),
    Row("C normal", "-+", (4000, 4000), amps=100, changed=(("vmax_mv", 4500),)),
    Row("C normal", "=+", (4000, 4000), amps=100.125, changed=(("vmax_mv", 4500),)),
    Row("AB normal", "-+", (4000, 4000), amps=100.125, changed=(("vmax_mv", 4500),)),
    # SoC < charge restart, SoC >= discharge restart
    Row("ABC normal", "++", soc=0.9499),
    Row("ABC normal", "=+", soc=0.95),
    Row("ABC normal", "=+", soc=0.9501),
    Row("ABC normal", "+=", soc=0.0999),
    Row("ABC normal", "++", soc=0.1),
    Row("ABC normal", "++", soc=0.1001),
    Row("ABC critical", "++", soc=0),
    Row("ABC critical", "++", soc=1),
    # any V <= Vmin
    Row("ABC", "++", (2905, 3300)),
    Row("ABC", "+-", (2900, 3300)),
    Row("ABC", "+-", (2895, 3300)),
    # any T < Tmin, all T > Tmin
    Row("ABC", "++", celsius=(1, 20)),
    Row("AB", "==", celsius=(0, 20)),
    Row("AB", "--", celsius=(-1, 20)),
    Row("C", "=+", celsius=(0, 20)),
    Row("C", "-+", celsius=(-1, 20)),
    Row("C", "-+", celsius=(-19, 20)),
    Row("C", "-=", celsius=(-20, 20)),
    Row("C", "--", celsius=(-21, 20)),
    # any T > Tmax, all T < Tmax
    Row("ABC", "++", celsius=(20, 54)),
    Row("ABC", "==", celsius=(20, 55)),
    Row("ABC", "--", celsius=(20, 56)),
    # a disable condition wins over an enable condition
    Row("ABC normal", "-+", (3750, 3750), changed=(("vbalance_mv", 3800),)),
    # balancing off: there is only Vmax
    Row("ABC normal", "++", (3695, 3695), changed=(("vbalance_mv", 0),)),
    Row("ABC normal", "-+", (3700, 3700), changed=(("vbalance_mv", 0),)),
)


def named(words: str) -> list[str]:
    """``AB normal``: the names of A and of B in normal mode."""
    generations, _, mode = words.partition(" ")
    return [name for name in SETUPS if name[0] in generations and name.endswith(mode)]


@pytest.mark.parametrize("before", ["open", "closed"])
@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for row in ROWS for name in named(row.setups)], ids=str
)
def test_the_relays_do_what_the_manual_says(name: str, row: Row, before: str) -> None:
    changes: dict[str, Any] = dict(row.changed)
    bms = Measured(replace(SETUPS[name], **changes))
    was = bms.shows(3300, 3300, celsius=(56 if before == "open" else 20,))
    assert was == (before == "closed",) * 2
    bms.soc, bms.communication = row.soc, row.communication
    found = bms.shows(*row.cell_mv, celsius=row.celsius, amps=row.amps)
    assert found == tuple({"+": True, "-": False, "=": before == "closed"}[does] for does in row.does)


@pytest.mark.parametrize("name", SETUPS)
def test_one_relay_opens_without_the_other_and_without_communication_both(name: str) -> None:
    bms = Measured(SETUPS[name])
    for direction, allowed in (("charge", (False, True)), ("discharge", (True, False))):
        setattr(bms, f"deny_{direction}", True)
        assert bms.shows(3300, 3300) == allowed
        setattr(bms, f"deny_{direction}", False)
    assert bms.shows(3300, 3300) == (True, True)
    bms.communication = False
    assert bms.shows(3300, 3300) == (False, False)
    bms.communication = True
    assert bms.shows(3300, 3300) == (True, True)


@pytest.mark.parametrize("name", named("ABC normal"))
def test_a_full_pack_in_normal_mode_waits_for_its_charge_restart(name: str) -> None:
    bms = Measured(SETUPS[name])
    assert not bms.shows(3405, 3405)[0]
    assert bms.soc == 1
    assert not bms.shows(3300, 3300)[0]
    bms.soc = 0.95
    assert not bms.shows(3300, 3300)[0]
    bms.soc = 0.949
    assert bms.shows(3300, 3300)[0]


@pytest.mark.parametrize("name", named("ABC normal"))
def test_an_empty_pack_in_normal_mode_waits_for_its_discharge_restart(name: str) -> None:
    bms = Measured(SETUPS[name], soc=0.05)
    assert not bms.shows(2900, 3000)[1]
    assert not bms.shows(3000, 3000)[1]
    bms.soc = 0.1
    assert bms.shows(3000, 3000)[1]


@pytest.mark.parametrize("generation", ["A", "B"])
def test_two_different_tmin_cannot_be_in_a_bms_that_has_one(generation: str) -> None:
    with pytest.raises(ValueError, match=f"generation {generation} has one Tmin"):
        replace(C_CRITICAL, generation=generation)


# State of charge


@pytest.mark.parametrize(
    ("names", "full", "cell_mv", "pack_mv", "amps"),
    [
        # A and B, normal: all V >= Vbalance, whatever flows
        ("AB normal", False, (3395, 3450), None, 0),
        ("AB normal", False, (3395, 3450), 7000, 0),
        ("AB normal", True, (3400, 3400), None, 0),
        ("AB normal", True, (3400, 3400), 6000, 0),
        ("AB normal", True, (3405, 3450), None, 500),
        ("AB normal", True, (3405, 3450), None, -500),
        # A and B, critical: pack voltage >= Vbalance x cells, whatever the cells are and whatever flows
        ("AB critical", False, (3395, 3400), None, 0),
        ("AB critical", True, (3300, 3500), None, 0),
        ("AB critical", True, (3300, 3505), None, 500),
        ("AB critical", True, (3300, 3505), None, -500),
        ("AB critical", False, (3405, 3405), 6795, 0),
        ("AB critical", True, (3395, 3395), 6800, 0),
        ("AB critical", False, (3400, 3400, 3395), None, 0),
        ("AB critical", True, (3400, 3400, 3400), None, 0),
        # C: all V > Vbalance, and a charge power <= 5 %
        ("C", False, (3395, 3700), None, 0),
        ("C", False, (3400, 3450), None, 0),
        ("C", True, (3405, 3405), None, 0),
        ("C", True, (3405, 3405), None, -500),
        ("C", True, (4000, 4000), None, 99.875),
        ("C", True, (4000, 4000), None, 100),
        ("C", False, (4000, 4000), None, 100.125),
    ],
)
def test_when_the_bms_takes_the_pack_for_full(
    names: str, full: bool, cell_mv: tuple[int, ...], pack_mv: int | None, amps: float
) -> None:
    for name in named(names):
        bms = Measured(SETUPS[name])
        bms.shows(*cell_mv, pack_mv=pack_mv, amps=amps)
        assert (bms.soc == 1, bms.calibrated) == (full, full), name


@pytest.mark.parametrize("name", named("A"))
def test_generation_a_never_takes_the_pack_for_empty(name: str) -> None:
    bms = Measured(SETUPS[name])
    for _ in range(1000):
        bms.shows(2500, 2500, seconds=86_400)
    assert (bms.soc, bms.calibrated) == (0.5, False)


@pytest.mark.parametrize("amps", [0, -500])
@pytest.mark.parametrize("name", named("B"))
def test_generation_b_is_empty_a_minute_under_vmin_with_discharging_not_allowed(
    name: str, amps: float
) -> None:
    bms = Measured(SETUPS[name])
    assert bms.shows(2900, 3000) == (True, False)
    bms.shows(2895, 3000, amps=amps, seconds=59)
    bms.shows(2900, 3000)  # it begins anew
    bms.shows(2895, 3000, amps=amps, seconds=59)
    assert bms.soc > 0.4
    assert not bms.calibrated
    bms.shows(2895, 3000, amps=amps)
    assert (bms.soc, bms.calibrated) == (0, True)


@pytest.mark.parametrize("name", named("B"))
def test_generation_b_is_not_empty_while_discharging_is_allowed(name: str) -> None:
    bms = Measured(SETUPS[name])
    for _ in range(3):
        assert bms.shows(2905, 3000) == (True, True)
        bms.shows(2895, 3000, seconds=600)
    assert (bms.soc, bms.calibrated) == (0.5, False)


@pytest.mark.parametrize("name", named("B"))
def test_generation_b_at_vmin_is_not_under_it(name: str) -> None:
    bms = Measured(SETUPS[name])
    bms.shows(2900, 2900, seconds=3600)
    bms.shows(2900, 2900, seconds=3600)
    assert not bms.load_allowed
    assert (bms.soc, bms.calibrated) == (0.5, False)


@pytest.mark.parametrize("name", named("C"))
def test_generation_c_is_empty_half_a_minute_under_vmin(name: str) -> None:
    bms = Measured(SETUPS[name])
    for begun_anew in (2900, 2905):
        bms.shows(2895, 3000, seconds=29)
        bms.shows(begun_anew, 3000)
    bms.shows(2895, 3000, seconds=29)
    assert (bms.soc, bms.calibrated) == (0.5, False)
    bms.shows(2895, 3000)
    assert (bms.soc, bms.calibrated) == (0, True)


@pytest.mark.parametrize(("amps", "empty"), [(-200.125, False), (-200, False), (-199.875, True), (50, True)])
@pytest.mark.parametrize("name", named("C"))
def test_generation_c_with_a_tenth_of_its_capacity_flowing_is_not_empty(
    name: str, amps: float, empty: bool
) -> None:
    bms = Measured(replace(SETUPS[name], vmin_mv=4005, vbalance_mv=4200, vmax_mv=4300))
    bms.shows(4000, 4000, amps=amps, seconds=30)
    assert (bms.soc == 0) == empty
    bms = Measured(bms.setup)
    bms.shows(4000, 4000, seconds=29)
    bms.shows(4000, 4000, amps=amps)
    assert (bms.soc == 0) == empty


@pytest.mark.parametrize("name", SETUPS)
def test_without_cell_communication_nothing_is_synchronised(name: str) -> None:
    bms = Measured(SETUPS[name])
    bms.communication = False
    bms.shows(3405, 3405)
    bms.shows(2895, 2895, seconds=600)
    bms.shows(2895, 2895, seconds=600)
    assert (bms.soc, bms.calibrated) == (0.5, False)


@pytest.mark.parametrize("name", named("BC"))
def test_what_was_seen_before_the_communication_was_lost_does_not_count(name: str) -> None:
    bms = Measured(SETUPS[name])
    bms.shows(2895, 2895)
    bms.shows(2895, 2895, seconds=28)
    bms.communication = False
    bms.shows(2895, 2895, seconds=600)
    bms.communication = True
    bms.shows(2895, 2895, seconds=29)
    assert (bms.soc, bms.calibrated) == (0.5, False)
    bms.shows(2895, 2895, seconds=31)
    assert (bms.soc, bms.calibrated) == (0, True)


@pytest.mark.parametrize("name", SETUPS)
def test_between_its_ends_the_soc_is_what_flowed_of_the_capacity(name: str) -> None:
    bms = Measured(SETUPS[name])
    bms.shows(3300, 3300, amps=100, seconds=3600)  # 2 cells of 3.3 V: 660 Wh of 16 kWh
    assert bms.soc == pytest.approx(0.5 + 0.66 / 16)
    bms.shows(3300, 3300, amps=-100, seconds=2 * 3600)
    assert bms.soc == pytest.approx(0.5 - 0.66 / 16)
    assert not bms.calibrated


@pytest.mark.parametrize("amps", [1000, -1000])
@pytest.mark.parametrize("name", SETUPS)
def test_counting_ends_at_0_and_100_percent_and_calibrates_nothing(name: str, amps: float) -> None:
    bms = Measured(SETUPS[name])
    bms.shows(3300, 3300, amps=amps, seconds=86_400)
    assert (bms.soc, bms.calibrated) == (max(0, amps / 1000), False)
