"""What is on each path, without a bus: frames in, paths and values out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import rig
from dbus_smartbms import __version__, paths
from dbus_smartbms.bank import Bank
from dbus_smartbms.configuration import Configuration
from dbus_smartbms.items import BankItems
from dbus_smartbms.paths import CELL_ROWS, ROWS, CellRow, Row
from dbus_smartbms.settings import Settings
from dbus_smartbms.views import Identity, Value
from smartbms_protocol import layout

# What Victron's programs and their companions read of a battery and this BMS can supply, one way or
# another, {b} a battery's number and {c} a cell's.  Sources: dbus-systemcalc-py, gui-v2,
# dbus_modbustcp, flashmq, venus-platform, victron-mqtt, dbus-serialbattery.
EXPECTED = set(
    re.findall(
        r"/\S+",
        """
/Mgmt/ProcessName /Mgmt/ProcessVersion /Mgmt/Connection /DeviceInstance /ProductId /ProductName /CustomName
/FirmwareVersion /Serial /DeviceName /Connected /ConnectionInformation
/Dc/0/Voltage /Dc/0/Current /Dc/0/Power /Dc/0/Temperature /Soc /Soh /TimeToGo /ConsumedAmphours /Capacity
/InstalledCapacity /State /ErrorCode /Relay/0/State
/Info/MaxChargeVoltage /Info/MaxChargeCurrent /Info/MaxDischargeCurrent /Info/BatteryLowVoltage
/Info/ChargeRequest /Info/ChargeMode
/Io/AllowToCharge /Io/AllowToDischarge /Io/ExternalRelay /Io/ProgrammableContact
/System/NrOfBatteries /System/BatteriesParallel /System/BatteriesSeries /System/NrOfCellsPerBattery
/System/MinCellVoltage /System/MaxCellVoltage /System/MinVoltageCellId /System/MaxVoltageCellId
/System/MinCellTemperature /System/MaxCellTemperature /System/MinTemperatureCellId
/System/MaxTemperatureCellId /System/NrOfModulesOnline /System/NrOfModulesOffline
/System/NrOfModulesBlockingCharge /System/NrOfModulesBlockingDischarge
/Balancing /Balancer/Status
/Battery/Request/Id /Battery/{b}/Serial /Battery/{b}/Capacity /Battery/{b}/FwVersion /Battery/{b}/Status
/Battery/{b}/Voltage /Battery/{b}/Current /Battery/{b}/Temperature
/Battery/{b}/Cell/{c}/Voltage /Battery/{b}/Cell/{c}/Temperature
/Voltages/Cell{c} /Voltages/Sum /Voltages/Diff /Balances/Cell{c} /Cell/{c}/Volts /Temperatures/Cell{c}
/Alarms/LowVoltage /Alarms/HighVoltage /Alarms/LowCellVoltage /Alarms/HighCellVoltage /Alarms/LowSoc
/Alarms/LowTemperature /Alarms/HighTemperature /Alarms/LowChargeTemperature /Alarms/CellImbalance
/Alarms/InternalFailure /Alarms/BmsCable /Alarms/BatteryTemperatureSensor /Alarms/StateOfHealth
/Error/{0-7}/Id
/History/DeepestDischarge /History/LastDischarge /History/AverageDischarge /History/ChargeCycles
/History/FullDischarges /History/TotalAhDrawn /History/MinimumVoltage /History/MaximumVoltage
/History/MinimumCellVoltage /History/MaximumCellVoltage /History/MinimumTemperature
/History/MaximumTemperature /History/TimeSinceLastFullCharge /History/LowVoltageAlarms
/History/HighVoltageAlarms /History/ChargedEnergy /History/DischargedEnergy /History/CanBeCleared
/History/Clear
/Diagnostics/ShutDownsDueError /Diagnostics/LastErrors/{1-4}/Error /Diagnostics/LastErrors/{1-4}/Time
/Settings/HasSettings /Settings/HasTemperature /Settings/DischargeFloor /Settings/Battery/Capacity
/Settings/Battery/ChargeEfficiency /Settings/Battery/NominalVoltage /Devices/0/*
""",
    )
)

_ONE_FACT = "the same fact is on another path, and two paths would raise two notifications: "
_NO_THRESHOLD = "the wire carries no threshold for it, and the GX has a rule of its own to set"
_THEIR_MONITOR = "a page of settings of Victron's own monitors, to be written; this BMS is set in its app"
_ANOTHER_PAGE = "shows the Diagnostics page, which would repeat the notifications"
OMITTED = {
    "/DeviceName": "ProductName and CustomName say it",
    "/ErrorCode": _ONE_FACT + "/Alarms/*",
    "/Relay/0/State": "the BMS has two relays: /Io/ExternalRelay and /Io/ProgrammableContact",
    "/Cell/{c}/Volts": "a third family of the cells' voltages, which nothing on a GX reads",
    "/Alarms/LowVoltage": _ONE_FACT + "/Alarms/LowCellVoltage",
    "/Alarms/HighVoltage": _ONE_FACT + "/Alarms/HighCellVoltage",
    "/Alarms/LowSoc": _NO_THRESHOLD,
    "/Alarms/CellImbalance": _NO_THRESHOLD,
    "/Alarms/StateOfHealth": _NO_THRESHOLD,
    "/Alarms/BatteryTemperatureSensor": "the BMS tells of no fault of a sensor",
    "/Error/{0-7}/Id": _ONE_FACT + "/Alarms/*",
    "/History/LastDischarge": "where a discharge ends is for a battery monitor to judge",
    "/History/AverageDischarge": "where a discharge ends is for a battery monitor to judge",
    "/History/FullDischarges": "where a discharge ends is for a battery monitor to judge",
    "/Diagnostics/ShutDownsDueError": _ANOTHER_PAGE,
    "/Diagnostics/LastErrors/{1-4}/Error": _ANOTHER_PAGE,
    "/Diagnostics/LastErrors/{1-4}/Time": _ANOTHER_PAGE,
    "/Settings/HasSettings": "absent, it hides a page that would be empty",
    "/Settings/DischargeFloor": "the BMS has Vmin and no floor in %",
    "/Settings/Battery/Capacity": _THEIR_MONITOR,
    "/Settings/Battery/ChargeEfficiency": _THEIR_MONITOR,
    "/Settings/Battery/NominalVoltage": _THEIR_MONITOR,
    "/Devices/0/*": "VictronConnect's way to devices that speak VE.Direct",
}

EVERY: list[Row | CellRow] = [*ROWS, *CELL_ROWS]

CARD: dict[str, Value] = {
    "Settings/Group": "SmartBMS", "Settings/CustomName": "", "Settings/ShowUIControl": 1,
    "Settings/Function": 2, "Settings/ValidFunctions": 0b100,
}  # fmt: skip
CURRENT: dict[str, Value] = {
    **CARD, "Status": 9, "Settings/Type": 8, "Settings/ValidTypes": 0b1_0000_0000, "Settings/DimmingMin": 0.0,
    "Settings/StepSize": 1.0, "Settings/Decimals": 0, "Settings/Unit": "A",
}  # fmt: skip
KNOWN: dict[str, Value] = {
    "/Mgmt/ProcessName": "dbus-smartbms",
    "/Mgmt/ProcessVersion": __version__,
    "/Mgmt/Connection": "Serial ttyUSB0",
    "/DeviceInstance": 123,
    "/ProductId": 0xB050,
    "/ProductName": r"123\SmartBMS",
    "/CustomName": "",
    "/FirmwareVersion": "3.3.11",
    "/Serial": "FT123",
    "/Connected": 1,
    "/ConnectionInformation": "",
    "/State": 9,
    "/Dc/0/Voltage": 53.12,
    "/Dc/0/Current": -12.5,
    "/Dc/0/Power": -664.0,  # 53.12 x 12.5
    "/Dc/0/Temperature": 21.5,  # midway of 20 and 23
    "/Soc": 50.0,
    "/Soh": 95.0,
    "/TimeToGo": 43_320,  # 8000 Wh / 664 W = 12.048 h: 722 whole minutes
    "/ConsumedAmphours": -151.5,  # 8000 Wh at 52.8 V
    "/Capacity": 151.5,
    "/InstalledCapacity": 303.0,  # 16000 Wh at 52.8 V
    "/Info/MaxChargeVoltage": 54.88,  # 16 x (3.40 + 0.03)
    "/Info/MaxChargeCurrent": 151.5,  # 0.5 C
    "/Info/MaxDischargeCurrent": 303.0,  # 1 C
    "/Info/BatteryLowVoltage": 46.4,  # 16 x 2.9
    "/Info/ChargeRequest": 0,
    "/Info/ChargeMode": "Bulk",
    "/Io/AllowToCharge": 1,
    "/Io/AllowToDischarge": 1,
    "/Io/ExternalRelay": 1,
    "/Io/ProgrammableContact": 1,
    "/System/NrOfBatteries": 1,
    "/System/BatteriesParallel": 1,
    "/System/BatteriesSeries": 1,
    "/System/NrOfCellsPerBattery": 16,
    "/System/MinCellVoltage": 3.31,
    "/System/MinVoltageCellId": "7",
    "/System/MaxCellVoltage": 3.33,
    "/System/MaxVoltageCellId": "3",
    "/System/MinCellTemperature": 20.0,
    "/System/MinTemperatureCellId": "1",
    "/System/MaxCellTemperature": 23.0,
    "/System/MaxTemperatureCellId": "16",
    "/System/NrOfModulesOnline": 1,
    "/System/NrOfModulesOffline": 0,
    "/System/NrOfModulesBlockingCharge": 0,
    "/System/NrOfModulesBlockingDischarge": 0,
    "/Balancing": 0,
    "/Balancer/Status": 1,
    "/Battery/Request/Id": 1,
    "/Battery/1/Serial": "FT123",
    "/Battery/1/Capacity": 303.0,
    "/Battery/1/FwVersion": "3.3.11",
    "/Battery/1/Status": 1,
    "/Battery/1/Voltage": 53.12,
    "/Battery/1/Current": -12.5,
    "/Battery/1/Temperature": 21.5,
    "/Voltages/Sum": 53.12,  # 14 x 3.32 + 3.31 + 3.33
    "/Voltages/Diff": 0.02,
    "/Alarms/LowCellVoltage": 0,
    "/Alarms/HighCellVoltage": 0,
    "/Alarms/LowTemperature": 0,
    "/Alarms/LowChargeTemperature": 0,
    "/Alarms/HighTemperature": 0,
    "/Alarms/InternalFailure": 0,
    "/Alarms/BmsCable": 0,
    "/History/MinimumVoltage": 53.12,
    "/History/MaximumVoltage": 53.12,
    "/History/MinimumCellVoltage": 3.31,
    "/History/MaximumCellVoltage": 3.33,
    "/History/MinimumTemperature": 20.0,
    "/History/MaximumTemperature": 23.0,
    "/History/TotalAhDrawn": -0.1,  # 12.5 A x 39 s
    "/History/DeepestDischarge": -151.5,
    "/History/TimeSinceLastFullCharge": None,
    "/History/ChargeCycles": 260,
    "/History/ChargedEnergy": 258.0,
    "/History/DischargedEnergy": 256.0,
    "/History/LowVoltageAlarms": 0,
    "/History/HighVoltageAlarms": 0,
    "/History/CanBeCleared": 1,
    "/History/Clear": 0,
    "/Settings/HasTemperature": 1,
    "/SmartBms/Today/Collected": 1.234,
    "/SmartBms/Today/Consumed": 2.345,
    "/SmartBms/Total/Collected": 100.0,
    "/SmartBms/Total/Consumed": 90.0,
    "/SmartBms/ChargeSensor/Current": 0.0,
    "/SmartBms/LoadSensor/Current": 12.5,
    "/SmartBms/SocCalibrated": 1,
    "/SmartBms/ChargeEfficiency": 97.0,
    "/SmartBms/Cell/Vmin": 2.9,
    "/SmartBms/Cell/Vmax": 3.7,
    "/SmartBms/Cell/Vbalance": 3.4,
    "/SmartBms/Cell/Vlow": 3.0,
    "/SmartBms/Cell/Vnom": 3.3,
    "/SmartBms/Cell/Vfull": 3.4,
    "/SmartBms/TemperatureConversion": "document",
    "/SmartBms/DamagedPlaces": 0,
    "/SmartBms/LimitsInUse": None,
    "/SmartBms/LimitsInUseText": None,
    "/SmartBms/Disagreement": "",
    "/SmartBms/Mirror/Charge": 1,
    "/SmartBms/Mirror/Discharge": 1,
    "/SmartBms/Mirror/Soc": 50.0,  # 40 s with -12.5 A of 303 Ah: 0.05 % less
    "/SmartBms/Configuration/Errors": 0,
    "/SmartBms/Configuration/FirstError": "",
    **{
        f"/SwitchableOutput/charge_to_full/{key}": value
        for key, value in {
            "State": 0,
            "Status": 0,
            "Name": "Charge to full now",
            **CARD,
            "Settings/Type": 1,
            "Settings/ValidTypes": 0b10,
        }.items()
    },
    **{
        f"/SwitchableOutput/max_charge_current/{key}": value
        for key, value in {
            "Dimming": 151.5,
            "Name": "Max charge current",
            **CURRENT,
            "Settings/DimmingMax": 151.5,
        }.items()
    },
    **{
        f"/SwitchableOutput/max_discharge_current/{key}": value
        for key, value in {
            "Dimming": 303.0,
            "Name": "Max discharge current",
            **CURRENT,
            "Settings/DimmingMax": 303.0,
        }.items()
    },
}
"""``rig.FRAME`` with all its pairs, 40 seconds of it, worked out by hand; limits' reasons apart."""

REASONS = ("/Info/ChargeVoltageLimitation", "/Info/ChargeLimitation", "/Info/DischargeLimitation")


class Desk:
    """A pack and its items on a clock that is turned by hand, in seconds."""

    def __init__(self, **settings: Any) -> None:
        self.bank = Bank(Configuration(Settings(**settings)))
        self.pack = self.bank.pack("FT123")
        self.identity = Identity("Serial ttyUSB0", "FT123")
        self.items = BankItems()
        self.now = 1_000.0
        self.turn = 0
        self.update()

    def update(self) -> dict[str, Value]:
        who = {"FT123": self.identity}
        changed, _ = self.items.update(self.bank, self.identity, who, self.now)
        return {path: item.value for path, item in changed.items()}

    def frame(self, **changes: Any) -> dict[str, Value]:
        """A second later the next frame; what changed."""
        self.now += 1
        self.bank.take("FT123", rig.frame(self.turn, **changes), self.now)
        self.turn += 1
        return self.update()

    def frames(self, count: int, **changes: Any) -> None:
        for _ in range(count):
            self.frame(**changes)

    def silence(self, seconds: float) -> dict[str, Value]:
        """Seconds without a frame; what changed in the last of them."""
        self.now += seconds
        self.bank.tick(self.now)
        return self.update()

    def __getitem__(self, path: str) -> Value:
        return self.items.items[path].value

    def text(self, path: str) -> str:
        return self.items.items[path].text


@pytest.fixture
def desk() -> Desk:
    """A pack that is fully known: each cell and each rotating key was seen."""
    one = Desk()
    one.frames(40)
    return one


# The rows


def test_every_path_that_can_be_supplied_is_there_or_left_out_for_a_reason() -> None:
    offered = {row.path.replace("/Battery/1/", "/Battery/{b}/") for row in EVERY}
    assert EXPECTED - offered == set(OMITTED)


def test_no_path_is_twice() -> None:
    offered = [row.path for row in EVERY]
    assert len(set(offered)) == len(offered)


def test_the_bus_can_carry_every_path() -> None:
    for row in EVERY:
        assert re.fullmatch(r"(/[A-Za-z0-9_]+)+", row.path.replace("{b}", "16").replace("{c}", "255"))


UNITS = (
    (r"Voltage$|^/Voltages/|^/SmartBms/Cell/", "V"),
    (r"Current$|/Dimming(Min|Max)?$|/StepSize$", "A"),
    (r"Power$", "W"),
    (r"Temperature$|^/Temperatures/", "°C"),
    (r"/So[ch]$|Efficiency$", "%"),
    (r"Amphours$|Capacity$|AhDrawn$|DeepestDischarge$", "Ah"),
    (r"Energy$|^/SmartBms/(Today|Total)/", "kWh"),
)


def test_every_quantity_has_its_unit_in_the_text() -> None:
    for row in EVERY:
        assert row.type in ("d", "i", "s"), row.path
        if row.type == "d":
            (unit,) = [unit for pattern, unit in UNITS if re.search(pattern, row.path)]
            assert isinstance(row.text, str), row.path
            assert row.text.format(1.0).endswith(f" {unit}"), row.path


def test_the_table_of_paths_is_well_formed() -> None:
    lines = paths.markdown().splitlines()
    assert len(lines) == 2 + len(ROWS) + len(CELL_ROWS)
    for line in lines:
        assert line.startswith("| ")
        assert len(line.split(" | ")) == 7, line
        assert all(cell.strip(" |") for cell in line.split(" | ")[::6]), line
    assert "| `/Dc/0/Voltage` | d | V | no value | mean | yes | bytes 1-3 |" in lines


# Values


def test_a_known_pack_is_shown_as_worked_out_by_hand(desk: Desk) -> None:
    shown = {path: value for path, value in desk.items.values().items() if not re.search(r"Cell/?\d", path)}
    assert all(shown.pop(path) for path in REASONS)
    assert shown == KNOWN
    for path, value in KNOWN.items():
        assert type(value) is type(desk[path]), path


def test_every_cell_is_shown_in_both_families(desk: Desk) -> None:
    volts = {3: 3.33, 7: 3.31}
    degrees = {1: 20.0, 16: 23.0}
    for cell in range(1, 17):
        for path in (f"/Battery/1/Cell/{cell}/Voltage", f"/Voltages/Cell{cell}"):
            assert desk[path] == volts.get(cell, 3.32)
        for path in (f"/Battery/1/Cell/{cell}/Temperature", f"/Temperatures/Cell{cell}"):
            assert desk[path] == degrees.get(cell, 21.0)
        assert desk[f"/Balances/Cell{cell}"] == 0
    assert desk.text("/Voltages/Cell7") == "3.310 V"
    assert desk.text("/Temperatures/Cell1") == "20.0 °C"


def test_texts_are_for_people(desk: Desk) -> None:
    texts = {
        "/ProductId": "0xB050",
        "/FirmwareVersion": "v3.3.11",
        "/Dc/0/Voltage": "53.12 V",
        "/Dc/0/Current": "-12.5 A",
        "/Dc/0/Power": "-664 W",
        "/Dc/0/Temperature": "21.5 °C",
        "/Soc": "50.0 %",
        "/TimeToGo": "12h 02m",
        "/ConsumedAmphours": "-151.5 Ah",
        "/Info/MaxChargeCurrent": "151.5 A",
        "/Io/AllowToCharge": "Yes",
        "/Balancer/Status": "Balanced",
        "/Alarms/BmsCable": "Ok",
        "/History/TimeSinceLastFullCharge": "---",
        "/History/ChargedEnergy": "258 kWh",
        "/SmartBms/Cell/Vmin": "2.90 V",
    }
    assert {path: desk.text(path) for path in texts} == texts


def test_before_the_first_frame_every_single_path_is_there() -> None:
    desk = Desk()
    rows = [row for row in ROWS if row.join or row.whole]
    assert set(desk.items.items) == {row.path for row in rows}
    for row in rows:
        without = row.needs in ("frame", "known") or KNOWN[row.path] is None or row.path == "/Serial"
        assert (desk[row.path] is None) == without, row.path
    assert desk["/ProductId"] == 0xB050


@pytest.mark.parametrize(
    ("stored", "percent", "soc"),
    [
        (8_000, 50, 50.0),
        (8_120, 51, 50.8),  # 50.75: the stored energy is finer than the byte
        (8_160, 50, 51.0),
        (8_176, 50, 50.0),  # 51.1: more than 1 % apart, the byte counts
        (16_200, 100, 100.0),
        (0, 0, 0.0),
    ],
)
def test_the_soc_is_as_fine_as_it_can_be(stored: int, percent: int, soc: float) -> None:
    desk = Desk()
    desk.frame(stored_wh=stored, soc_percent=percent)
    assert desk["/Soc"] == soc


def test_zero_is_a_value_and_no_sensor_is_none(desk: Desk) -> None:
    desk.frame(current_ma=0, current1_ma=0, current2_ma=0)
    assert (desk["/Dc/0/Current"], desk["/Dc/0/Power"], desk["/TimeToGo"]) == (0.0, 0.0, None)
    assert desk["/SmartBms/ChargeSensor/Current"] == 0.0
    assert desk.text("/Dc/0/Current") == "0.0 A"
    desk.frame(current_ma=None, current1_ma=None, current2_ma=None)
    for path in ("/Dc/0/Current", "/Dc/0/Power", "/TimeToGo", "/SmartBms/ChargeSensor/Current",
                 "/SmartBms/LoadSensor/Current", "/Battery/1/Current"):  # fmt: skip
        assert desk[path] is None
        assert desk.text(path) == "---"


def test_the_time_to_go_ends_at_ten_days(desk: Desk) -> None:
    desk.frame(current_ma=-125, current2_ma=125)
    assert desk["/TimeToGo"] == 864_000
    assert desk.text("/TimeToGo") == "240h 00m"
    desk.frame(current_ma=-125, current2_ma=125, stored_wh=0, soc_percent=0)
    assert desk["/TimeToGo"] == 0


def test_a_pack_fuller_than_its_setting_has_nothing_consumed(desk: Desk) -> None:
    desk.frame(stored_wh=16_500, soc_percent=100)
    assert desk["/ConsumedAmphours"] == 0
    assert desk["/Capacity"] == 312.5


def test_without_a_capacity_setting_there_are_no_ampere_hours() -> None:
    desk = Desk()
    desk.frame(capacity_wh=0)
    for path in ("/InstalledCapacity", "/Capacity", "/ConsumedAmphours", "/Battery/1/Capacity",
                 "/History/DeepestDischarge"):  # fmt: skip
        assert desk[path] is None
    assert desk["/Soc"] == 50.0


def test_the_other_conversion_of_temperatures() -> None:
    desk = Desk(temperature="vendor")
    desk.frame()
    assert desk["/System/MinCellTemperature"] == 21.7  # 0.857 x 296 - 232
    assert desk["/History/MinimumTemperature"] == 21.7
    assert desk["/SmartBms/TemperatureConversion"] == "vendor"


def test_who_balances_and_what_its_board_does_to_the_temperature(desk: Desk) -> None:
    desk.frame(highest_mv=3_450, hottest_cell=3, hottest_raw=340)
    assert (desk["/Balancing"], desk["/Balancer/Status"], desk["/Battery/1/Status"]) == (1, 2, 4)
    assert desk["/Balances/Cell3"] == 1
    assert desk["/Balances/Cell4"] == 0
    assert desk["/Dc/0/Temperature"] == 20.0, "the coldest: the hottest is a board"
    assert desk["/System/MaxCellTemperature"] == 64.0, "but it is shown as the BMS says it"
    assert desk["/Temperatures/Cell3"] == 21.0, "the last from before it balanced"


def test_a_board_that_balances_on_has_no_temperature_after_three_rounds(desk: Desk) -> None:
    desk.frames(48, highest_mv=3_450, hottest_cell=3, hottest_raw=340)
    assert desk["/Temperatures/Cell3"] is None
    assert desk["/Battery/1/Cell/3/Temperature"] is None
    assert desk["/Voltages/Cell3"] == 3.45
    assert desk["/Temperatures/Cell4"] == 21.0


def test_a_change_of_vbalance_is_seen_on_all_cells_at_once(desk: Desk) -> None:
    desk.frame(vbalance_mv=3_300)
    assert desk["/Balances/Cell4"] == 0, "one frame alone may be damage"
    desk.frame(vbalance_mv=3_300)
    assert all(desk[f"/Balances/Cell{cell}"] == 1 for cell in range(1, 17))


@pytest.mark.parametrize(
    ("status", "bits"),
    [
        (layout.OVER_VMAX, 1 | 8 | 512),
        (layout.UNDER_VMIN, 1 | 16 | 32768),
        (layout.UNDER_TMIN, 1 | 32),
        (layout.OVER_TMAX, 1 | 64),
        (layout.NO_COMMUNICATION, 1 | 128),
    ],
)
def test_the_lights_are_bits_of_the_batterys_status(desk: Desk, status: int, bits: int) -> None:
    desk.frame(status=status)
    assert desk["/Battery/1/Status"] == bits


def test_an_empty_pack_asks_for_charge_when_it_may_be_charged(desk: Desk) -> None:
    for low, status, request in ((2_905, 0b11, 0), (2_900, 0b01, 1), (2_900, 0b00, 0), (3_000, 0b1001, 1)):
        desk.frame(lowest_mv=low, status=status)
        assert desk["/Info/ChargeRequest"] == request, (low, status)


def test_a_denied_direction_is_a_blocking_module(desk: Desk) -> None:
    desk.frame(status=layout.CHARGE_ALLOWED)
    assert (desk["/Io/AllowToCharge"], desk["/System/NrOfModulesBlockingCharge"]) == (1, 0)
    assert (desk["/Io/AllowToDischarge"], desk["/System/NrOfModulesBlockingDischarge"]) == (0, 1)
    assert desk["/Info/MaxDischargeCurrent"] == 0.0
    assert desk["/Info/DischargeLimitation"] == "the BMS does not allow discharging"


def test_a_current_limit_is_rounded_down() -> None:
    desk = Desk(max_charge_current=80.29)
    desk.frames(3)
    assert desk["/Info/MaxChargeCurrent"] == 80.2


def test_a_bms_that_hears_no_cell_has_no_extremes(desk: Desk) -> None:
    desk.frame(lowest_cell=0, highest_cell=0, coldest_cell=0, hottest_cell=0, cell=0, status=4,
               lowest_mv=0, highest_mv=0, cell_mv=0)  # fmt: skip
    for path in ("/System/MinVoltageCellId", "/System/MaxVoltageCellId", "/System/MinTemperatureCellId",
                 "/System/MaxTemperatureCellId", "/System/MinCellVoltage", "/System/MaxCellVoltage",
                 "/System/MinCellTemperature", "/System/MaxCellTemperature",
                 "/Dc/0/Temperature"):  # fmt: skip
        assert desk[path] is None
    assert desk["/Dc/0/Voltage"] == 53.12


def test_the_soc_not_calibrated_is_seen(desk: Desk) -> None:
    desk.frame(status=0b11 | layout.SOC_NOT_CALIBRATED)
    assert desk["/SmartBms/SocCalibrated"] == 0
    assert desk["/ConnectionInformation"] == "SoC not calibrated: charge fully once"


def test_the_first_thing_to_know_is_said(desk: Desk) -> None:
    desk.frame(status=0b11 | layout.SOC_NOT_CALIBRATED)
    desk.identity.in_use, desk.identity.in_use_text = False, "DVCC is off"
    assert desk.update()["/ConnectionInformation"] == "DVCC is off"
    assert (desk["/SmartBms/LimitsInUse"], desk["/SmartBms/LimitsInUseText"]) == (0, "DVCC is off")
    desk.identity.problems = ("line 3: what?", "line 4: what?")
    assert desk.update()["/ConnectionInformation"] == "Configuration error: line 3: what?"
    assert (desk["/SmartBms/Configuration/Errors"], desk["/SmartBms/Configuration/FirstError"]) == (
        2,
        "line 3: what?",
    )
    assert desk.silence(11)["/ConnectionInformation"] == "No data from the BMS: check the cable"


def test_a_text_that_no_bus_can_carry_is_made_one_that_it_can(desk: Desk) -> None:
    desk.identity.serial = "half \ud800 and nul \0"
    assert desk.update() == {"/Serial": "half ? and nul ?", "/Battery/1/Serial": "half ? and nul ?"}
    assert desk.update() == {}


# Time


def test_a_lost_link_takes_what_was_measured_and_leaves_numbers_for_limits(desk: Desk) -> None:
    kept = {path for path, value in desk.items.values().items() if value is not None and path in KNOWN}
    kept -= {row.path.replace("{b}", "1") for row in ROWS if row.needs == "frame"}
    desk.silence(9.9)
    assert desk["/Dc/0/Voltage"] == 53.12
    assert desk["/State"] == 9
    changed = desk.silence(0.1)
    assert changed["/State"] == 10
    assert {path for path, value in desk.items.values().items() if value is not None} == kept | set(REASONS)
    for path in ("/Dc/0/Voltage", "/Dc/0/Current", "/Soc", "/Soh", "/System/MinCellVoltage", "/Balancing",
                 "/Voltages/Sum", "/Voltages/Cell3", "/Battery/1/Cell/3/Temperature", "/Balances/Cell3",
                 "/Info/ChargeRequest", "/TimeToGo", "/Capacity", "/SmartBms/Cell/Vlow"):  # fmt: skip
        assert changed[path] is None
        assert desk.text(path) == "---"
    assert desk["/Info/BatteryLowVoltage"] == 46.4
    assert desk["/Info/MaxChargeCurrent"] == 0.0
    assert desk["/Info/MaxDischargeCurrent"] == 303.0
    assert desk["/InstalledCapacity"] == 303.0
    assert desk["/FirmwareVersion"] == "3.3.11"
    assert desk["/Connected"] == 1
    assert (desk["/System/NrOfModulesOnline"], desk["/System/NrOfModulesOffline"]) == (0, 1)
    assert (desk["/Io/AllowToCharge"], desk["/Io/AllowToDischarge"]) == (0, 1)
    assert desk["/Alarms/BmsCable"] == 1
    assert desk.silence(50)["/Alarms/BmsCable"] == 2
    assert desk["/Info/MaxDischargeCurrent"] == 0.0


def test_all_is_back_with_the_first_frame_but_what_is_too_old(desk: Desk) -> None:
    desk.silence(30)
    desk.turn = 0
    changed = desk.frame()
    assert (changed["/State"], changed["/Alarms/BmsCable"], changed["/Dc/0/Voltage"]) == (9, 0, 53.12)
    assert desk["/Voltages/Cell8"] == 3.32, "32 seconds ago"
    desk.silence(50)
    desk.turn = 0
    desk.frame()
    assert desk["/Voltages/Cell1"] == 3.32
    assert desk["/Voltages/Cell8"] is None
    assert desk["/Voltages/Sum"] is None


def test_what_came_back_with_the_link_still_grows_old(desk: Desk) -> None:
    """Cells whose turn does not come any more must not be shown for ever."""
    desk.silence(11)
    for _ in range(60):
        desk.turn = 0
        desk.frame()
    assert desk["/Voltages/Cell1"] == 3.32
    for cell in (2, 5, 8, 15):
        assert desk[f"/Voltages/Cell{cell}"] is None
        assert desk[f"/Balances/Cell{cell}"] is None


def test_a_cell_not_heard_of_for_three_rounds_is_not_shown(desk: Desk) -> None:
    """Cell 9 was read at second 25 of 40, as the last of its kind."""
    last = desk.now - (desk.turn - 1 - 24)
    while desk.now < last + 48:
        desk.turn = 0
        desk.frame()
    assert desk["/Voltages/Cell9"] == 3.32
    assert desk["/Voltages/Sum"] == 53.12
    desk.turn = 0
    changed = desk.frame()
    assert changed["/Voltages/Cell9"] is None
    assert changed["/Battery/1/Cell/9/Temperature"] is None
    assert changed["/Balances/Cell9"] is None
    assert desk["/Voltages/Sum"] is None


def test_a_silence_does_not_keep_a_cell_young(desk: Desk) -> None:
    """Nine ticks without a frame, then frames about other cells: the age is that of the reading."""
    desk.turn = 8
    desk.frame()
    last = desk.now
    for _ in range(9):
        desk.silence(1)
    while desk.now < last + 49:
        desk.turn = 0
        desk.frame()
    assert desk["/Voltages/Cell9"] is None


def test_a_large_packs_round_is_waited_for() -> None:
    desk = Desk()
    desk.frames(255, cells=255, voltage_mv=846_600)
    assert desk["/Voltages/Cell1"] == 3.32
    assert desk["/Voltages/Cell255"] == 3.32
    assert desk["/Voltages/Sum"] == 846.6
    for _ in range(3 * 255):
        desk.turn = 0
        desk.frame(cells=255, voltage_mv=846_600)
    assert desk["/Voltages/Cell255"] == 3.32, "just now 3 rounds old"
    desk.turn = 0
    assert desk.frame(cells=255, voltage_mv=846_600)["/Voltages/Cell255"] is None
    assert desk["/Voltages/Cell1"] == 3.32


def test_a_pair_not_heard_of_for_three_rounds_is_not_shown(desk: Desk) -> None:
    """SoH came as key 0 of frame 38 of 40."""
    last = desk.now - 1
    while desk.now < last + 57:
        desk.frame(key=None)
    assert desk["/Soh"] == 95.0
    assert desk.frame(key=None)["/Soh"] is None
    desk.frames(19, key=None)
    for path in ("/History/ChargeCycles", "/Io/ExternalRelay", "/SmartBms/Cell/Vlow"):
        assert desk[path] is None
    assert desk["/FirmwareVersion"] == "3.3.11", "what never changes stays"


def test_a_pack_that_shrinks_and_grows(desk: Desk) -> None:
    smaller = {"cells": 8, "voltage_mv": 26_560, "hottest_cell": 8}
    assert not any("Cell/12" in path for path in desk.frame(**smaller)), "one frame alone may be damage"
    desk.turn = 0
    changed = desk.frame(**smaller)
    assert changed["/System/NrOfCellsPerBattery"] == 8
    for cell in range(9, 17):
        assert changed[f"/Voltages/Cell{cell}"] is None
    assert desk["/Voltages/Sum"] is None
    desk.frames(8, **smaller)
    assert desk["/Voltages/Sum"] == 26.56
    assert desk["/Voltages/Cell9"] is None
    desk.frames(1)
    desk.turn = 11
    desk.frame()
    assert desk["/Voltages/Cell12"] == 3.32
    assert desk["/Voltages/Cell13"] is None


# Changes


def test_a_view_that_did_not_change_changes_nothing(desk: Desk) -> None:
    assert desk.update() == {}
    assert desk.frame() == {}
    assert desk.silence(0.5) == {}


def test_only_what_was_read_is_looked_at() -> None:
    desk = Desk()
    large = {"cells": 255, "voltage_mv": 846_600, "current_ma": 0}
    desk.frames(255, **large)
    desk.turn = 99
    changed = desk.frame(**large, cell_mv=3_325, key=None)
    assert changed == {
        "/Battery/1/Cell/100/Voltage": 3.325,
        "/Voltages/Cell100": 3.325,
        "/Voltages/Sum": 846.605,
    }


def test_the_text_changes_with_the_value(desk: Desk) -> None:
    changed = desk.frame(voltage_mv=53_125)
    assert set(changed) == {"/Dc/0/Voltage", "/Dc/0/Power", "/Battery/1/Voltage", "/History/MaximumVoltage"}
    assert desk.text("/Dc/0/Voltage") == "53.12 V", "to a hundredth, half to even"
    desk.frame(voltage_mv=53_130)
    assert desk.text("/Dc/0/Voltage") == "53.13 V"


# Alarms and history


def test_an_alarm_comes_after_three_frames_and_goes_after_five(desk: Desk) -> None:
    for _ in range(2):
        desk.frame(status=0b11 | layout.UNDER_VMIN)
        assert desk["/Alarms/LowCellVoltage"] == 0
    assert desk.frame(status=0b11 | layout.UNDER_VMIN)["/Alarms/LowCellVoltage"] == 2
    assert desk.text("/Alarms/LowCellVoltage") == "Alarm"
    assert desk["/History/LowVoltageAlarms"] == 1
    for _ in range(4):
        desk.frame()
        assert desk["/Alarms/LowCellVoltage"] == 2
    assert desk.frame()["/Alarms/LowCellVoltage"] == 0
    assert desk["/History/LowVoltageAlarms"] == 1


def test_the_early_warning_is_a_warning(desk: Desk) -> None:
    desk.frames(3, key=16, value=layout.EARLY_WARNING)
    assert desk["/Alarms/InternalFailure"] == 1
    assert desk.text("/Alarms/InternalFailure") == "Warning"
    assert (desk["/Io/ExternalRelay"], desk["/Io/ProgrammableContact"]) == (0, 0)


def test_history_holds_the_extremes_and_can_be_cleared(desk: Desk) -> None:
    desk.frame(voltage_mv=51_000, lowest_mv=3_100, coldest_raw=266, stored_wh=4_000, soc_percent=25)
    desk.frame(voltage_mv=55_000, highest_mv=3_500, hottest_raw=316, stored_wh=16_000, soc_percent=100)
    desk.frames(61)
    extremes = {
        "/History/MinimumVoltage": (51.0, 53.12),
        "/History/MaximumVoltage": (55.0, 53.12),
        "/History/MinimumCellVoltage": (3.1, 3.31),
        "/History/MaximumCellVoltage": (3.5, 3.33),
        "/History/MinimumTemperature": (-10.0, 20.0),
        "/History/MaximumTemperature": (40.0, 23.0),
        "/History/DeepestDischarge": (-227.3, -151.5),  # 12 kWh, 8 kWh at 52.8 V
        "/History/TotalAhDrawn": (-0.4, 0.0),  # 12.5 A x 102 s
        "/History/TimeSinceLastFullCharge": (60, None),
    }
    assert {path: desk[path] for path in extremes} == {path: both[0] for path, both in extremes.items()}
    assert desk.text("/History/TimeSinceLastFullCharge") == "0h 01m"
    desk.pack.clear_history()
    assert desk.update() == {path: both[1] for path, both in extremes.items()}


# Writes


def test_a_write_is_judged_by_type_then_by_its_owner(desk: Desk) -> None:
    accepted: list[Any] = []

    def noting(decide: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def write(value: Any) -> bool:
            accepted.append(value)
            return decide(value)

        return write

    items = desk.items
    items.items["/CustomName"].write = noting(lambda value: len(value) < 5)
    items.items["/History/Clear"].write = noting(lambda value: value > 0)
    items.items["/Dc/0/Voltage"].write = noting(lambda _value: True)
    for path, value, code in (
        ("/CustomName", "Boat", 0), ("/CustomName", "Boats", 2), ("/CustomName", 5, 1),
        ("/CustomName", None, 1), ("/CustomName", "", 0),
        ("/History/Clear", 1, 0), ("/History/Clear", 1.0, 0), ("/History/Clear", 0, 0),
        ("/History/Clear", -1, 2), ("/History/Clear", 1.5, 1), ("/History/Clear", "1", 1),
        ("/History/Clear", 2**31, 1), ("/History/Clear", -(2**31), 1), ("/History/Clear", 2**31 - 1, 0),
        ("/History/Clear", float("inf"), 1), ("/History/Clear", [1], 1), ("/History/Clear", {}, 1),
        ("/Dc/0/Voltage", 50, 0), ("/Dc/0/Voltage", 53.12, 0), ("/Dc/0/Voltage", float("nan"), 1),
        ("/Dc/0/Voltage", "50", 1), ("/Soc", 50.0, 1), ("/Soc", 50, 1),
    ):  # fmt: skip
        assert items.write(path, value) == code, (path, value)
    assert accepted == ["Boat", "Boats", 1, 1, -1, 2**31 - 1, 50.0]
    assert [type(value) for value in accepted] == [str, str, int, int, int, int, float]
