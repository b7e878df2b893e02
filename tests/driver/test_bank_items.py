"""What is on each path of a battery of several packs, and of each pack's own service: worked out by hand.

Without changes a pack is ``rig.FRAME``: 16 kWh and 303 Ah, half full, 53.12 V, 12.5 A out, cells of 3.31 V to
3.33 V.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.items import BankItems, Item
from dbus_smartbms.paths import CELL_ROWS, ROWS
from dbus_smartbms.settings import Settings
from dbus_smartbms.views import Identity, Value
from rig import frame
from smartbms_protocol import layout

Changes = dict[str, Any]
OTHER_CELLS: Changes = {"cells": 8, "voltage_mv": 26_560, "hottest_cell": 8, "capacity_wh": 8_000}
FULL: Changes = {"soc_percent": 100, "stored_wh": 16_000}


class House:
    """A bank and its tables, in which only what has changed is looked at; all its packs are shown."""

    def __init__(self, cables: str = "abc", **configured: Any) -> None:
        self.bank = Bank(Configuration(Settings(**configured)))
        self.cables = cables
        self.identity = Identity("2 cables", instance=123)
        self.identities = {cable: Identity(f"Serial {cable}", f"FT{cable}") for cable in "abcdefghijklmnop"}
        self.items = BankItems()
        self.now = 1_000.0
        self.turn = 0
        self.announced: list[str] = []
        """Paths of the battery's service, each time they were announced."""

    def update(self, *cables: str) -> tuple[dict[str, Item], dict[str, dict[str, Item]]]:
        changed, of_packs = self.items.update(
            self.bank, self.identity, self.identities, self.now, cables or None, self.cables
        )
        self.announced += changed
        return changed, of_packs

    def take(self, cable: str, **changes: Any) -> dict[str, Value]:
        """A frame of a pack now; what it changed on the battery's service."""
        self.bank.take(cable, frame(self.turn, **changes), self.now)
        changed, _ = self.update(cable)
        return {path: item.value for path, item in changed.items()}

    def send(self, frames: int = 1, *, silent: str = "", **of: Changes) -> None:
        """Seconds: a frame of all packs that are not silent, each announced, then a tick."""
        for _ in range(frames):
            self.now += 1
            for cable in self.cables:
                if cable not in silent:
                    self.take(cable, **of.get(cable, {}))
            self.bank.tick(self.now)
            self.update()
            self.turn += 1

    def call(self, cable: str, name: str) -> None:
        self.bank.packs[cable].name = name
        self.bank.look_again(self.now)
        self.update()

    def name_or_forget(self, cable: str, name: str | None) -> None:
        if name is None:
            self.bank.forget(cable)
        else:
            self.bank.packs[cable].name = name
        self.bank.look_again(self.now)

    def __getitem__(self, path: str) -> Value:
        return self.items.items[path].value

    def of(self, cable: str, path: str) -> Value:
        """What a pack's own service shows."""
        return self.items.packs[cable].items[path].value

    def values(self, *paths: str) -> tuple[Value, ...]:
        return tuple(self[path] for path in paths)


def known(cables: str = "abc", **of: Any) -> House:
    """Packs of which everything is known."""
    house = House(cables)
    house.send(40, **of)
    return house


# A battery of one pack


def test_of_a_battery_of_one_pack_both_services_say_the_same() -> None:
    house = known("a")
    own = House("a")
    own.identity = house.identity = house.identities["a"]
    house.update()
    paths = {row.path.replace("{b}", "1") for row in ROWS if row.value} | {
        row.path.replace("{b}", "1").replace("{c}", str(cell)) for row in CELL_ROWS for cell in range(1, 17)
    }
    assert house.items.packs["a"].items.keys() == paths
    alarms = {path for path in paths if path.startswith("/Alarms/")}
    for path in paths - alarms:
        assert house.of("a", path) == house[path], path
    assert {house.of("a", path) for path in alarms} == {None}, "a fact is raised once"
    assert {house[path] for path in alarms} == {0}


def test_a_packs_service_has_no_limits_and_no_controls() -> None:
    house = known()
    for cable in "abc":
        paths = house.items.packs[cable].items
        assert not [path for path in paths if path.startswith(("/Info/", "/SwitchableOutput/"))]
        assert "/Soc" in paths
        assert house.of(cable, "/System/NrOfBatteries") == 1


# Arithmetic


def test_voltage_is_the_mean_current_and_power_the_sum() -> None:
    house = known(
        a={"voltage_mv": 53_000, "current_ma": 10_000, "current1_ma": None},
        b={"voltage_mv": 53_200, "current_ma": -2_500, "current1_ma": None},
        c={"voltage_mv": 53_250, "current_ma": 1_250, "current1_ma": None},
    )
    assert house.values("/Dc/0/Voltage", "/Dc/0/Current") == (53.15, 8.75)
    assert house["/Dc/0/Power"] == pytest.approx(530.0 - 133.0 + 66.6)
    assert house.of("b", "/Dc/0/Current") == -2.5


def test_a_current_that_one_pack_does_not_know_is_not_known_of_all() -> None:
    house = known(b={"current_ma": None, "current1_ma": None})
    assert house.values("/Dc/0/Current", "/Dc/0/Power", "/TimeToGo") == (None, None, None)
    assert house["/Dc/0/Voltage"] == 53.12


def test_temperature_is_the_mean_of_what_is_known() -> None:
    house = known(b={"coldest_raw": 300, "hottest_raw": 301, "cell_raw": 300})
    assert house["/Dc/0/Temperature"] == pytest.approx((21.5 + 24.5 + 21.5) / 3, abs=0.001)


def test_soc_is_stored_over_capacity() -> None:
    """16 kWh half full and 8 kWh full: 16 of 24."""
    house = known("ab", b={"capacity_wh": 8_000, "stored_wh": 8_000, "soc_percent": 100})
    assert house["/Soc"] == 66.7
    assert house.values("/Capacity", "/InstalledCapacity", "/ConsumedAmphours") == (303.0, 454.5, -151.5)


@pytest.mark.parametrize(
    "late", [{"soc_percent": 99, "stored_wh": 16_000}, {"soc_percent": 99, "stored_wh": 15_990}]
)
def test_soc_is_99_until_every_pack_is_full_and_100_then(late: Changes) -> None:
    house = known(a=FULL, b=FULL, c=late)
    assert house["/Soc"] == 99.0
    house.send(a=FULL, b=FULL | {"stored_wh": 15_900}, c=FULL)
    assert house["/Soc"] == 100.0


def test_soc_under_99_is_as_it_is() -> None:
    house = known(a=FULL, b=FULL, c={"soc_percent": 90, "stored_wh": 14_400})
    assert house["/Soc"] == 96.7
    over = {"soc_percent": 99, "stored_wh": 20_000}
    house.send(a=over, b=over, c=over)
    assert house["/Soc"] == 99.0, "more than the setting"


def test_without_any_capacity_setting_soc_is_the_lowest() -> None:
    none = {"capacity_wh": 0}
    house = known("ab", a=none | {"soc_percent": 40}, b=none | {"soc_percent": 60})
    assert house["/Soc"] == 40.0


def test_the_time_to_go_is_that_of_all() -> None:
    """24 kWh of three, one of them charged with 6.25 A: 18.75 A x 53.12 V = 996 W."""
    house = known(c={"current_ma": 6_250, "current2_ma": 0, "current1_ma": 6_250})
    assert house["/TimeToGo"] == int(24_000 / 996 * 60) * 60
    house.send(a={"current_ma": 25_000, "current1_ma": 37_500}, c={"current_ma": 6_250, "current1_ma": None})
    assert house["/TimeToGo"] is None, "together they are charged"


def test_extremes_are_of_all_packs_and_name_the_pack() -> None:
    house = known(
        b={"lowest_mv": 3_300, "lowest_cell": 4, "coldest_raw": 290, "coldest_cell": 5},
        c={"highest_mv": 3_340, "highest_cell": 9, "hottest_raw": 302, "hottest_cell": 12},
    )
    house.call("b", "House")
    assert house.values("/System/MinCellVoltage", "/System/MinVoltageCellId") == (3.3, "House: 4")
    assert house.values("/System/MaxCellVoltage", "/System/MaxVoltageCellId") == (3.34, "c: 9")
    assert house.values("/System/MinCellTemperature", "/System/MinTemperatureCellId") == (14.0, "House: 5")
    assert house.values("/System/MaxCellTemperature", "/System/MaxTemperatureCellId") == (26.0, "c: 12")
    assert house["/Voltages/Diff"] == 0.04
    assert house.of("b", "/System/MinVoltageCellId") == "4"
    assert house.of("b", "/Voltages/Diff") == 0.03


def test_a_pack_that_hears_no_cell_has_no_extreme() -> None:
    none = {
        "lowest_cell": 0, "highest_cell": 0, "coldest_cell": 0, "hottest_cell": 0, "lowest_mv": 0,
        "highest_mv": 0, "cell": 0, "status": 0b11 | layout.NO_COMMUNICATION,
    }  # fmt: skip
    house = known()
    house.send(a=none)
    assert house.values("/System/MinCellVoltage", "/System/MinVoltageCellId") == (3.31, "b: 7")
    house.send(a=none, b=none, c=none)
    assert house.values("/System/MinCellVoltage", "/System/MinVoltageCellId") == (None, None)


def test_counts_and_energies_are_joined() -> None:
    house = known("ab", b={"collected_today_wh": 1_000, "consumed_kwh": 10})
    assert house.values("/SmartBms/Today/Collected", "/SmartBms/Total/Consumed") == (2.234, 100.0)
    assert house.values("/History/ChargeCycles", "/History/ChargedEnergy") == (260, 516.0)
    assert house.values("/Soh", "/FirmwareVersion", "/System/NrOfCellsPerBattery") == (95.0, "3.3.11", 16)
    assert house.values("/SmartBms/LoadSensor/Current", "/SmartBms/ChargeSensor/Current") == (25.0, 0.0)
    assert house.values("/Mgmt/Connection", "/Serial") == ("2 cables", None)
    assert house.values("/Info/BatteryLowVoltage", "/Info/ChargeRequest") == (46.4, 0)
    house.send(b={"lowest_mv": 2_900})
    assert house["/Info/ChargeRequest"] == 1


def test_relays_and_bits_are_those_of_the_worst_pack() -> None:
    house = known()
    assert house.values("/Io/ExternalRelay", "/SmartBms/SocCalibrated", "/Balancing") == (1, 1, 0)
    assert house["/Balancer/Status"] == 1
    house.send(b={"key": 16, "value": 0, "status": 0b11 | layout.SOC_NOT_CALIBRATED, "highest_mv": 3_450})
    assert house.values("/Io/ExternalRelay", "/SmartBms/SocCalibrated", "/Balancing") == (0, 0, 1)
    assert house["/Balancer/Status"] == 2
    assert house["/ConnectionInformation"] == "b: SoC not calibrated: charge fully once"


def test_history_is_of_all_packs() -> None:
    house = known(a={"voltage_mv": 51_000, "lowest_mv": 3_100}, b={"voltage_mv": 55_000, "highest_mv": 3_500})
    assert house.values("/History/MinimumVoltage", "/History/MaximumVoltage") == (51.0, 55.0)
    assert house.values("/History/MinimumCellVoltage", "/History/MaximumCellVoltage") == (3.1, 3.5)
    assert house["/History/TotalAhDrawn"] == pytest.approx(-0.3), "12.5 A x 39 s, each to a tenth"
    assert house["/History/DeepestDischarge"] == pytest.approx(-454.5)
    assert house["/History/TimeSinceLastFullCharge"] is None
    house.send(a=FULL, b=FULL)
    assert house["/History/TimeSinceLastFullCharge"] is None, "c was not full"
    house.send(60)
    house.send(c=FULL)
    assert house["/History/TimeSinceLastFullCharge"] == 60
    house.bank.clear_history()
    house.update()
    assert house.values("/History/MinimumVoltage", "/History/DeepestDischarge")[0] == 53.12


def test_limits_are_the_banks() -> None:
    house = known()
    assert house.values("/Info/MaxChargeVoltage", "/Info/MaxChargeCurrent", "/Info/MaxDischargeCurrent") == (
        54.88,
        454.5,
        909.0,
    )
    assert house["/SwitchableOutput/max_charge_current/Settings/DimmingMax"] == 454.5
    assert house["/SwitchableOutput/max_discharge_current/Dimming"] == 909.0
    house.send(b={"status": 0b10})
    assert house.values("/Info/MaxChargeCurrent", "/Io/AllowToCharge") == (0.0, 0)
    assert house.values("/Io/AllowToDischarge", "/Info/ChargeLimitation") == (
        1, "b: the BMS does not allow charging",
    )  # fmt: skip
    assert house.of("b", "/Io/AllowToCharge") == 0
    assert house.of("a", "/Io/AllowToCharge") == 1


# Modules


def test_modules_are_counted() -> None:
    house = known()
    online, offline = "/System/NrOfModulesOnline", "/System/NrOfModulesOffline"
    charge, discharge = "/System/NrOfModulesBlockingCharge", "/System/NrOfModulesBlockingDischarge"
    assert house.values(online, offline, charge, discharge) == (3, 0, 0, 0)
    assert house.values("/System/NrOfBatteries", "/System/BatteriesParallel") == (3, 3)
    assert house["/System/BatteriesSeries"] == 1
    house.send(b={"status": 0b10})
    assert house.values(online, offline, charge, discharge) == (3, 0, 1, 0)
    house.send(10, silent="bc")
    assert house.values(online, offline, charge, discharge) == (1, 2, 2, 0)
    assert house["/System/BatteriesParallel"] == 3, "lost, they are a part of it all the same"
    house.send(50, silent="bc")
    assert house.values(online, offline, charge, discharge) == (1, 2, 2, 2)


# Each pack on the battery's service


def test_every_pack_has_its_number_on_the_batterys_service() -> None:
    house = known(b={"voltage_mv": 53_000}, c={"lowest_mv": 3_300})
    for number, cable in enumerate("abc", 1):
        assert house[f"/Battery/{number}/Serial"] == f"FT{cable}"
        for path in ("Voltage", "Current", "Capacity", "FwVersion", "Status", "Temperature"):
            assert house[f"/Battery/{number}/{path}"] == house.of(cable, f"/Battery/1/{path}") is not None
        for cell in range(1, 17):
            for kind in ("Voltage", "Temperature"):
                path = f"Cell/{cell}/{kind}"
                assert house[f"/Battery/{number}/{path}"] == house.of(cable, f"/Battery/1/{path}") is not None
    assert house["/Battery/2/Voltage"] == 53.0
    assert house["/Battery/3/Cell/7/Voltage"] == 3.3
    assert not [path for path in house.items.items if path.startswith("/Voltages/Cell") and house[path]]


def test_numbers_are_by_cable_whoever_comes_first() -> None:
    """And 10 comes after 2: a number is a place, not a text."""
    house = House("")
    house.identities = {cable: Identity(serial=cable) for cable in ("bms 2", "bms 10", "bms 1")}
    for cable in ("bms 10", "bms 2", "bms 1"):
        for _ in range(4):
            house.now += 1
            house.take(cable)
    serials = [house[f"/Battery/{number}/Serial"] for number in (1, 2, 3)]
    assert serials == ["bms 1", "bms 2", "bms 10"]


def test_the_cells_of_a_pack_alone_leave_when_it_is_one_of_several() -> None:
    house = known("b")
    house.cables = "ab"
    assert house["/Voltages/Cell7"] == 3.31
    changed = house.take("a", voltage_mv=53_000)
    assert changed["/Voltages/Cell7"] is None
    assert changed["/Battery/1/Voltage"] == 53.0
    assert changed["/Battery/2/Voltage"] == 53.12
    assert house["/Battery/2/Cell/12/Voltage"] == 3.32
    assert house["/Battery/1/Cell/12/Voltage"] is None
    assert house.of("b", "/Voltages/Cell7") == 3.31, "on its own service they stay"


def test_a_pack_that_keeps_its_number_is_not_announced_again() -> None:
    house = known("a")
    house.cables = "ab"
    changed = house.take("b")
    assert not [path for path in changed if path.startswith("/Battery/1/")]
    assert house["/Battery/1/Voltage"] == 53.12
    assert house.items.items["/Battery/1/Voltage"].text == "53.12 V"


# A lost pack


def test_a_lost_pack_loses_its_values_and_the_bank_goes_on() -> None:
    house = known(a={"current_ma": -12_500}, b={"voltage_mv": 51_000, "stored_wh": 2_000, "lowest_mv": 3_200})
    assert house["/System/MinCellVoltage"] == 3.2
    house.send(9, silent="b")
    assert house["/Battery/2/Voltage"] == 51.0
    house.send(silent="b")
    assert house.values("/Battery/2/Voltage", "/Battery/2/Current", "/Battery/2/Status") == (None,) * 3
    for cell in range(1, 17):
        assert house[f"/Battery/2/Cell/{cell}/Voltage"] is None
        assert house.of("b", f"/Voltages/Cell{cell}") is None
        assert house[f"/Battery/1/Cell/{cell}/Voltage"] is not None
    assert house.values("/Battery/2/Serial", "/Battery/2/Capacity", "/Battery/2/FwVersion") == (
        "FTb", 303.0, "3.3.11",
    )  # fmt: skip
    assert house.values("/Dc/0/Voltage", "/Dc/0/Current", "/Soc", "/State") == (53.12, -25.0, 50.0, 9)
    assert house.values("/System/MinCellVoltage", "/System/MinVoltageCellId") == (3.31, "a: 7")
    assert house.values("/Capacity", "/InstalledCapacity") == (303.0, 909.0)
    assert house["/History/MinimumVoltage"] == 51.0, "that was"
    assert house["/ConnectionInformation"] == "No data from b: check the cable"
    for path in ("/Dc/0/Voltage", "/Dc/0/Current", "/Soc", "/System/MinCellVoltage"):
        assert house.of("b", path) is None
    assert house.of("b", "/State") == 10
    house.send()
    assert house["/Battery/2/Voltage"] == 53.12
    assert house["/ConnectionInformation"] == ""


def test_with_all_lost_what_was_measured_is_gone_and_limits_are_numbers() -> None:
    house = known("ab")
    house.send(10, silent="ab")
    assert house.values("/Dc/0/Voltage", "/Dc/0/Current", "/Soc", "/Battery/1/Voltage") == (None,) * 4
    assert house.values("/State", "/Info/MaxChargeCurrent", "/Info/MaxDischargeCurrent") == (10, 0.0, 606.0)
    assert house["/Io/AllowToDischarge"] == 1
    assert house["/ConnectionInformation"] == "No data from a, b: check the cable"
    assert house["/Alarms/BmsCable"] == 1
    house.send(50, silent="ab")
    assert house.values("/Alarms/BmsCable", "/Info/MaxDischargeCurrent") == (2, 0.0)


# Alarms


def test_a_fact_is_raised_by_the_battery_alone() -> None:
    house = known()
    house.send(3, b={"status": 0b11 | layout.OVER_TMAX})
    assert house["/Alarms/HighTemperature"] == 2
    for cable in "abc":
        assert house.of(cable, "/Alarms/HighTemperature") is None
    house.send(10, silent="c")
    assert house["/Alarms/BmsCable"] == 1
    assert house.of("c", "/Alarms/BmsCable") is None


def test_the_alarm_of_a_pack_that_is_left_out_is_on_its_own_service() -> None:
    house = known()
    house.call("b", "*Spare")
    house.send(3, b={"status": 0b11 | layout.OVER_TMAX})
    assert house["/Alarms/HighTemperature"] == 0
    assert house.of("b", "/Alarms/HighTemperature") == 2
    assert house.of("a", "/Alarms/HighTemperature") is None
    house.call("b", "")
    assert house["/Alarms/HighTemperature"] == 2
    assert house.of("b", "/Alarms/HighTemperature") is None


def test_a_pack_that_is_left_out_is_shown_and_not_counted() -> None:
    house = known(b={"voltage_mv": 51_000, "lowest_mv": 3_200})
    house.call("b", "*Spare")
    assert house.values("/Dc/0/Voltage", "/Dc/0/Current") == (53.12, -25.0)
    assert house["/System/MinCellVoltage"] == 3.31
    assert house.values("/System/NrOfBatteries", "/System/BatteriesParallel") == (3, 2)
    assert house.values("/System/NrOfModulesOnline", "/System/NrOfModulesOffline") == (2, 0)
    assert house["/Battery/2/Voltage"] == 51.0
    assert house["/InstalledCapacity"] == 606.0
    house.send(20, silent="b")
    assert house.values("/Alarms/BmsCable", "/ConnectionInformation") == (0, "")
    assert house.of("b", "/Alarms/BmsCable") == 1


def test_a_pack_with_other_cells_is_named_and_alarmed() -> None:
    house = House()
    house.send(8, b=OTHER_CELLS)
    assert house["/Alarms/InternalFailure"] == 2
    assert house["/ConnectionInformation"] == "b is left out: it has 8 cells, the others 16"
    assert house.values("/Dc/0/Voltage", "/System/BatteriesParallel") == (53.12, 2)
    assert house.of("b", "/Dc/0/Voltage") == 26.56
    assert house.of("b", "/Alarms/InternalFailure") == 0
    house.call("b", "*b")
    assert house["/Alarms/InternalFailure"] == 0
    assert house["/ConnectionInformation"] == ""


# Changes


def test_a_frame_of_one_pack_changes_what_is_its_own_and_what_is_joined() -> None:
    house = known()
    house.turn = 0
    house.take("b")
    assert house.take("b") == {}
    house.announced.clear()
    changed = house.take("b", current_ma=-11_250, current2_ma=11_250)
    assert changed.keys() == {
        "/Battery/2/Current", "/Dc/0/Current", "/Dc/0/Power", "/TimeToGo", "/SmartBms/LoadSensor/Current",
    }  # fmt: skip
    assert changed["/Dc/0/Current"] == -36.25
    assert house.announced == list(dict.fromkeys(house.announced))


def test_what_did_not_change_is_not_announced() -> None:
    house = known()
    assert house.update() == ({}, {"a": {}, "b": {}, "c": {}})


def test_a_pack_is_shown_from_when_it_is_asked_for_with_all_it_has() -> None:
    house = House("")
    house.bank.take("a", frame(0), house.now)
    house.update()
    assert house.items.packs["a"].items == {}
    house.cables = "a"
    _, of_packs = house.update("a")
    assert of_packs["a"].keys() == house.items.packs["a"].items.keys()
    assert house.of("a", "/Dc/0/Voltage") == 53.12


class Mirror:
    """A client that keeps what it was told."""

    def __init__(self) -> None:
        self.seen: dict[str, Value] = {}

    def hear(self, changed: dict[str, Item]) -> None:
        for path, item in changed.items():
            assert path not in self.seen or self.seen[path] != item.value or item.value is None, path
            self.seen[path] = item.value


EVENTS = st.one_of(
    st.tuples(
        st.just("frame"), st.sampled_from("abcd"),
        st.sampled_from([
            {}, {}, {"voltage_mv": 53_000}, {"lowest_mv": 3_200, "lowest_cell": 2}, {"current_ma": None},
            {"status": 0}, {"status": 0b11 | layout.OVER_TMAX}, FULL, OTHER_CELLS, {"vbalance_mv": 3_300},
            {"highest_mv": 3_450},
        ]),
    ),
    st.tuples(st.just("tick"), st.sampled_from([1, 1, 4, 10, 60]), st.none()),
    st.tuples(st.just("name"), st.sampled_from("abcd"), st.sampled_from(["", "*", "House"])),
    st.tuples(st.just("forget"), st.sampled_from("abcd"), st.none()),
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(EVENTS, min_size=5, max_size=60))
def test_nothing_is_forgotten_and_nothing_announced_twice(story: list[tuple[str, Any, Any]]) -> None:
    """After any story the tables are as if all had been looked at anew, and so is what a client was told."""
    house = House("abcd")
    battery, packs = Mirror(), {cable: Mirror() for cable in "abcd"}
    for kind, what, more in story:
        told: tuple[str, ...] = ()
        if kind == "frame":
            house.now += 0.25
            house.turn += 1
            house.bank.take(what, frame(house.turn, **more), house.now)
            told = (what,)
        elif kind == "tick":
            for _ in range(what):
                house.now += 1
                house.bank.tick(house.now)
        elif what in house.bank.packs:
            house.name_or_forget(what, more)
            packs[what] = packs[what] if what in house.bank.packs else Mirror()
        changed, of_packs = house.update(*told)
        battery.hear(changed)
        for cable, items in of_packs.items():
            packs[cable].hear(items)
    house.bank.tick(house.now)
    battery.hear(house.update()[0])
    assert battery.seen == house.items.values()
    anew = BankItems()
    anew.update(house.bank, house.identity, house.identities, house.now, None, "abcd")
    known_now = {path: value for path, value in anew.values().items() if value is not None}
    shown = {path: value for path, value in house.items.values().items() if value is not None}
    assert {path for path in known_now.keys() | shown if known_now.get(path) != shown.get(path)} == set()
    for cable, fresh in anew.packs.items():
        assert {path for path, value in fresh.values().items() if house.of(cable, path) != value} == set()


@settings(max_examples=100)
@given(st.lists(EVENTS, min_size=5, max_size=60))
def test_what_is_joined_is_up_to_date_with_each_frame(story: list[tuple[str, Any, Any]]) -> None:
    """Also when only the pack that has sent one is looked at: the rest is as a tick left it."""
    house = House("abcd")
    house.update()
    for kind, what, more in story:
        if kind == "frame":
            house.turn += 1
            house.bank.take(what, frame(house.turn, **more), house.now)
            house.update(what)
        elif kind == "tick":
            house.now += what
            house.bank.tick(house.now)
            house.update()
        elif what in house.bank.packs:
            house.name_or_forget(what, more)
            house.update()
        anew = BankItems()
        anew.update(house.bank, house.identity, house.identities, house.now, None, ())
        for path, value in anew.values().items():
            assert house[path] == value, path


def test_a_pack_that_is_forgotten_leaves_its_number_to_the_next() -> None:
    house = known(b={"voltage_mv": 53_000})
    house.bank.forget("a")
    house.bank.look_again(house.now)
    house.cables = "bc"
    changed, _ = house.update()
    assert house.values("/Battery/1/Serial", "/Battery/1/Voltage") == ("FTb", 53.0)
    assert house.values("/Battery/3/Serial", "/Battery/3/Voltage", "/Battery/3/Cell/7/Voltage") == (None,) * 3
    assert changed["/Battery/3/Cell/7/Voltage"].value is None
    assert house.values("/System/NrOfBatteries", "/InstalledCapacity") == (2, 606.0)
    assert house.update("a") == ({}, {}), "news of it that came late"
