"""``tables``: the manuals' tables as they are printed, and a frame run through them, number by number."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rig
from dbus_smartbms.settings import GENERATIONS, MODES
from smartbms_protocol import encode
from smartbms_protocol.layout import (
    CHARGE_ALLOWED,
    DISCHARGE_ALLOWED,
    OVER_TMAX,
    OVER_VMAX,
    TOO_COLD_TO_CHARGE,
    UNDER_TMIN,
    UNDER_VMIN,
)

BOTH = CHARGE_ALLOWED | DISCHARGE_ALLOWED
DOCUMENT = rig.ROOT / "docs" / "algorithm.md"
CLEAN = rig.ROOT / "tests" / "recorded" / "clean.jsonl"
MANUAL = ("pack.tmin_charge=5", "pack.tmin_discharge=-10", "pack.tmax=45",
          "pack.charge_restart=90", "pack.discharge_restart=10")  # fmt: skip
ALL_SET = tuple(word for option in MANUAL for word in ("--set", option))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*rig.PROGRAM, "tables", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=rig.PATIENCE_S, check=False)


def printed(*arguments: str) -> str:
    ended = run(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def wire(turn: int = 0, **changes: Any) -> str:
    return encode(rig.frame(turn, **changes)).hex()


def line(t: float, turn: int = 0, **changes: Any) -> str:
    return json.dumps({"t": t, "frame": wire(turn, **changes)})


def capture(folder: Path, *lines: str) -> str:
    path = folder / "capture.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# The tables


def test_the_document_is_what_the_command_prints() -> None:
    assert printed() == DOCUMENT.read_text()


def block(generation: str, mode: str) -> str:
    """Its part of the document."""
    title = f"## Generation {generation}, {mode} mode\n"
    after = DOCUMENT.read_text().partition(title)[2]
    assert after
    return title + after.partition("\n## ")[0].rstrip("\n") + "\n"


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_one_table_alone(generation: str, mode: str) -> None:
    assert printed("--generation", generation, "--mode", mode) == block(generation, mode)


@pytest.mark.parametrize("mode", MODES)
def test_one_mode_of_every_generation(mode: str) -> None:
    assert printed("--mode", mode) == "\n".join(block(generation, mode) for generation in GENERATIONS)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_both_modes_of_one_generation(generation: str) -> None:
    assert printed("--generation", generation) == "\n".join(block(generation, mode) for mode in MODES)


def test_the_table_of_c_in_normal_mode_as_the_manual_has_it() -> None:
    assert (
        block("C", "normal")
        == """\
## Generation C, normal mode

    charge on       all V < Vbalance
                and SoC < charge restart
                and all T > Tmin charge
                and all T < Tmax
                and cell communication is there                 relays, normal mode

    charge off      cell communication is lost                  relays, both modes, critical
                 or any V >= Vmax                               relays, both modes, critical
                 or any T < Tmin charge                         relays, both modes, critical
                 or any T > Tmax                                relays, both modes, critical
                 or all V >= Vbalance
                and charge power <= 5 % of the capacity         relays, normal mode

    load on         all V > Vmin
                and SoC >= discharge restart
                and all T > Tmin discharge
                and all T < Tmax
                and cell communication is there                 relays, normal mode

    load off        cell communication is lost                  relays, both modes, critical
                 or any V <= Vmin                               relays, both modes, critical
                 or any T < Tmin discharge                      relays, both modes, critical
                 or any T > Tmax                                relays, both modes, critical

    SoC 100 %       all V > Vbalance
                and charge power <= 5 % of the capacity
                and cell communication is there                 state of charge

    SoC 0 %         any V < Vmin
                and discharge power < 10 % of the capacity
                and cell communication is there, for 60 s       state of charge
"""
    )


def test_a_never_synchronises_to_0_percent() -> None:
    assert block("A", "normal").endswith("    SoC 0 %         never\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--generation", "D"), "invalid choice: 'D' (choose from"),
        (("--mode", "eco"), "invalid choice: 'eco' (choose from"),
        (("--explain",), "argument --explain: expected one argument"),
        (("--explain", wire(), "--set", "pack.tmax=hot"), "'hot' is not a number from -40 to 85 degC"),
        (("--explain", wire(), "--set", "nonsense"), "expected section.key=value"),
    ],
)
def test_wrong_options_end_with_2_and_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


# A frame run through them


def test_the_last_frame_of_a_capture_with_all_its_numbers() -> None:
    """Second 23 of ``clean``, by hand.

    Cell n has 3310 + 5 n mV: 3.315 to 3.390 V, together 53.640 V; 93 counts of 125 mA are 11.625 A, that is
    623.565 W.  9143 of 16000 Wh are 57.14375 %.  raw 281 and 296 are 5 and 20 degC.
    """
    assert (
        printed("--explain", str(CLEAN), "--mode", "normal", *ALL_SET)
        == """\
Generation C, normal mode: 16 cells, 3.315 to 3.390 V, SoC 57.1 %

charge: stays on
    off  cell communication is lost                false  there
    off  any V >= Vmax                             false  3.390 V >= 3.700 V; Vh: no
    off  any T < Tmin charge                       false  5 degC < 5 degC; Tl: no
    off  any T > Tmax                              false  20 degC > 45 degC; Th: no
    off  all V >= Vbalance                         false  3.315 V >= 3.400 V
    and  charge power <= 5 % of the capacity       true   623.565 W <= 800 W
     on  all V < Vbalance                          true   3.390 V < 3.400 V
    and  SoC < charge restart                      true   57.14375 % < 90 %
    and  all T > Tmin charge                       false  5 degC > 5 degC
    and  all T < Tmax                              true   20 degC < 45 degC
    and  cell communication is there               true   there

load: stays on
    off  cell communication is lost                false  there
    off  any V <= Vmin                             false  3.315 V <= 2.900 V; Vl: no
    off  any T < Tmin discharge                    false  5 degC < -10 degC; Tl: no
    off  any T > Tmax                              false  20 degC > 45 degC; Th: no
     on  all V > Vmin                              true   3.315 V > 2.900 V
    and  SoC >= discharge restart                  true   57.14375 % >= 10 %
    and  all T > Tmin discharge                    true   5 degC > -10 degC
    and  all T < Tmax                              true   20 degC < 45 degC
    and  cell communication is there               true   there

SoC:
  100 %  all V > Vbalance                          false  3.315 V > 3.400 V
    and  charge power <= 5 % of the capacity       true   623.565 W <= 800 W
    and  cell communication is there               true   there
    0 %  any V < Vmin                              false  3.315 V < 2.900 V
    and  discharge power < 10 % of the capacity    true   -623.565 W < 1600 W
    and  cell communication is there               true   there
"""
    )


def test_a_single_frame_with_nothing_configured() -> None:
    """53.12 V x -12.5 A are -664 W; Vbalance 3.4 V x 16 cells are 54.4 V."""
    assert (
        printed("--explain", wire(), "--generation", "B", "--mode", "critical")
        == """\
Generation B, critical mode: 16 cells, 3.310 to 3.330 V, SoC 50.0 %

charge: on; before is not known
    off  cell communication is lost                false  there
    off  any V >= Vmax                             false  3.330 V >= 3.700 V; Vh: no
    off  any T < Tmin charge                       false  20 degC < not set; Tl: no
    off  any T > Tmax                              false  23 degC > not set; Th: no
     on  all V < Vmax                              true   3.330 V < 3.700 V
    and  all T > Tmin charge                       true   20 degC > not set; no Tl: yes
    and  all T < Tmax                              true   23 degC < not set; no Th: yes
    and  cell communication is there               true   there

load: on; before is not known
    off  cell communication is lost                false  there
    off  any V <= Vmin                             false  3.310 V <= 2.900 V; Vl: no
    off  any T < Tmin discharge                    false  20 degC < not set; Tl: no
    off  any T > Tmax                              false  23 degC > not set; Th: no
     on  all V > Vmin                              true   3.310 V > 2.900 V
    and  all T > Tmin discharge                    true   20 degC > not set; no Tl: yes
    and  all T < Tmax                              true   23 degC < not set; no Th: yes
    and  cell communication is there               true   there

SoC:
  100 %  pack voltage >= Vbalance x cells          false  53.120 V >= 54.400 V
    and  cell communication is there               true   there
    0 %  any V < Vmin                              false  3.310 V < 2.900 V
    and  discharging is not allowed                false  allowed
    and  cell communication is there               true   there
"""
    )


def explained(source: str, *arguments: str) -> dict[tuple[str, str], str]:
    """What is said of each condition, by its subject and itself; of the subject by ""."""
    found, subject = {}, ""
    for text in printed("--explain", source, *arguments).splitlines()[2:]:
        if text and not text.startswith(" "):
            subject, _, does = text.partition(":")
            found[subject, ""] = does.strip()
        elif text:
            found[subject, text[9:51].rstrip()] = " ".join(text[51:].split())
    return found


def test_hex_digits_may_be_capitals() -> None:
    assert printed("--explain", wire().upper()) == printed("--explain", wire())


def test_a_frame_that_switches_a_relay_off(tmp_path: Path) -> None:
    said = explained(capture(tmp_path, line(0.0), line(1.0, 1, highest_mv=3700)))
    assert said["charge", ""] == "on before, off now"
    assert said["charge", "any V >= Vmax"] == "true 3.700 V >= 3.700 V"
    assert said["charge", "all V < Vmax"] == "false 3.700 V < 3.700 V"
    assert said["load", ""] == "stays on"


def test_a_frame_that_switches_a_relay_on(tmp_path: Path) -> None:
    said = explained(capture(tmp_path, line(0.0, lowest_mv=2900), line(1.0, 1)))
    assert said["charge", ""] == "stays on"
    assert said["load", ""] == "off before, on now"
    assert said["load", "any V <= Vmin"] == "false 3.310 V <= 2.900 V; Vl: no"


def test_a_relay_that_stays_off_because_no_row_says_on(tmp_path: Path) -> None:
    """Full, then one cell under Vbalance: at 14400 of 16000 Wh, 90 %, charging does not restart."""
    full = line(0.0, lowest_mv=3400, highest_mv=3400, current_ma=0)
    rested = line(1.0, 1, soc_percent=90, stored_wh=14_400)
    said = explained(capture(tmp_path, full, rested), "--mode", "normal", *ALL_SET)
    assert said["charge", ""] == "stays off"
    assert said["charge", "SoC < charge restart"] == "false 90 % < 90 %"


def test_lines_after_the_last_frame_change_nothing(tmp_path: Path) -> None:
    lines = line(0.0), line(1.0, 1, highest_mv=3700)
    source = capture(tmp_path, *lines)
    before = printed("--explain", source)
    longer = capture(tmp_path, *lines, '{"t": 1.5, "frame": null}', '{"t": 90.0, "bytes": "0029c8"}')
    assert printed("--explain", longer) == before


def test_the_relays_before_a_frame_are_those_after_the_one_before_it(tmp_path: Path) -> None:
    """Both in one read: the first switched it off."""
    high = rig.frame(1, highest_mv=3700), rig.frame(2, highest_mv=3700)
    both = json.dumps({"t": 1.0, "bytes": b"".join(map(encode, high)).hex()})
    assert explained(capture(tmp_path, line(0.0), both))["charge", ""] == "stays off"


def test_a_relay_that_begins_anew_after_a_lost_link(tmp_path: Path) -> None:
    """As ``replay`` has it: off when full, 90 s later no row decides and the BMS allows it."""
    full = line(1.0, 1, lowest_mv=3400, highest_mv=3410, current_ma=0, status=DISCHARGE_ALLOWED)
    rested = line(91.0, 2, highest_mv=3410, soc_percent=95, stored_wh=15_200)
    source = capture(tmp_path, line(0.0), full, rested)
    options = ("--set", "pack.mode=normal", *ALL_SET)
    command = [*rig.PROGRAM, "replay", *options]
    replayed = subprocess.run(
        command, input=Path(source).read_text(), capture_output=True, text=True, check=True
    )
    answers = [json.loads(answer)["mirror"]["charge"] for answer in replayed.stdout.splitlines()]
    assert answers == [True, False, True]
    assert "on" in explained(source, *options)["charge", ""].split()


@pytest.mark.parametrize(("status", "on"), [(BOTH, "on"), (DISCHARGE_ALLOWED, "off")])
def test_where_no_row_decides_a_relay_begins_as_the_bms_says(status: int, on: str) -> None:
    frame = wire(status=status, highest_mv=3410, soc_percent=95, stored_wh=15_200)
    said = explained(frame, "--mode", "normal", *ALL_SET)
    assert said["charge", ""] == f"{on}; before is not known, so it begins as the BMS says"
    assert said["load", ""] == "on; before is not known"


def test_off_at_vmax_is_not_put_down_to_the_bms_s_bit() -> None:
    assert explained(wire(highest_mv=3700))["charge", ""] == "off; before is not known"


def test_lights_are_said_where_they_count() -> None:
    frame = wire(status=BOTH | UNDER_TMIN | OVER_TMAX | OVER_VMAX | UNDER_VMIN)
    said = explained(frame, "--mode", "normal")
    assert said["charge", "any V >= Vmax"] == "true 3.330 V >= 3.700 V; Vh: yes"
    assert said["charge", "any T < Tmin charge"] == "true 20 degC < not set; Tl: yes"
    assert said["charge", "all T > Tmin charge"] == "false 20 degC > not set; no Tl: no"
    assert said["charge", "any T > Tmax"] == "true 23 degC > not set; Th: yes"
    assert said["charge", "all T < Tmax"] == "false 23 degC < not set; no Th: no"
    assert said["charge", "SoC < charge restart"] == "true 50 % < not set; charging allowed: yes"
    assert said["load", "any V <= Vmin"] == "true 3.310 V <= 2.900 V; Vl: yes"
    assert said["load", "SoC >= discharge restart"] == "true 50 % >= not set; discharging allowed: yes"
    assert (said["charge", ""], said["load", ""]) == ("off; before is not known", "off; before is not known")


@pytest.mark.parametrize(
    ("generation", "charge", "load"), [("A", "yes", "yes"), ("B", "yes", "yes"), ("C", "yes", "no")]
)
def test_status_byte_2_tells_c_charging_from_discharging(
    tmp_path: Path, generation: str, charge: str, load: str
) -> None:
    cold = {"status": BOTH | UNDER_TMIN, "coldest_raw": 274}
    source = capture(tmp_path, line(0.0, 16, value=TOO_COLD_TO_CHARGE, **cold), line(1.0, 17, **cold))
    said = explained(source, "--generation", generation)
    holds = {"yes": "true", "no": "false"}
    assert said["charge", "any T < Tmin charge"] == f"{holds[charge]} -2 degC < not set; Tl: {charge}"
    assert said["load", "any T < Tmin discharge"] == f"{holds[load]} -2 degC < not set; Tl: {load}"
    assert said["load", ""] == ("stays off" if load == "yes" else "stays on")


@pytest.mark.parametrize(("t", "tl"), [(57.0, "no"), (57.5, "yes")])
def test_a_status_byte_2_of_long_ago_no_longer_tells_them_apart(tmp_path: Path, t: float, tl: str) -> None:
    cold = {"status": BOTH | UNDER_TMIN}
    source = capture(tmp_path, line(0.0, 16, value=TOO_COLD_TO_CHARGE, **cold), line(t, 17, **cold))
    assert explained(source)["load", "any T < Tmin discharge"].endswith(f"; Tl: {tl}")


def test_thresholds_that_are_configured_are_compared() -> None:
    frame = wire(coldest_raw=280, hottest_raw=322, soc_percent=9, stored_wh=1_440)
    said = explained(frame, "--mode", "normal", *ALL_SET)
    assert said["charge", "any T < Tmin charge"] == "true 4 degC < 5 degC"
    assert said["charge", "all T > Tmin charge"] == "false 4 degC > 5 degC"
    assert said["load", "any T < Tmin discharge"] == "false 4 degC < -10 degC; Tl: no"
    assert said["load", "any T > Tmax"] == "true 46 degC > 45 degC"
    assert said["load", "SoC >= discharge restart"] == "false 9 % >= 10 %"


def test_the_vendors_conversion_and_thresholds_with_decimals() -> None:
    """0.857 x 281 - 232 = 8.8 degC."""
    said = explained(
        wire(coldest_raw=281), "--set", "pack.temperature=vendor", "--set", "pack.tmin_charge=8.85"
    )
    assert said["charge", "any T < Tmin charge"] == "true 8.8 degC < 8.85 degC"


def test_the_configuration_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "bms.ini"
    file.write_text("[pack]\ngeneration = A\nmode = normal\ntmax = 45\n")
    source = wire(hottest_raw=322)
    assert printed("--explain", source, "--config", str(file)).startswith("Generation A, normal mode: ")
    said = explained(source, "--config", str(file))
    assert said["charge", "any T > Tmax"] == "true 46 degC > 45 degC"


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_generation_and_mode_stand_over_set_and_config(tmp_path: Path, generation: str, mode: str) -> None:
    file = tmp_path / "bms.ini"
    file.write_text("[pack]\ngeneration = B\nmode = normal\n")
    before = ("--config", str(file), "--set", "pack.generation=A", "--set", "pack.mode=normal")
    text = printed("--explain", wire(), *before, "--generation", generation, "--mode", mode)
    assert text.startswith(f"Generation {generation}, {mode} mode: ")
    assert printed("--explain", wire(), *before).startswith("Generation A, normal mode: ")
    assert printed("--explain", wire()).startswith("Generation C, critical mode: ")


def test_a_mistake_in_the_configuration_is_said(tmp_path: Path) -> None:
    """What is read otherwise than it was written would explain another driver."""
    file = tmp_path / "bms.ini"
    file.write_text("[pack]\ngenration = A\n")
    ended = run("--explain", wire(), "--config", str(file))
    assert ended.returncode == 0
    assert "line 2: unknown key 'genration' in [pack]" in ended.stderr


def test_what_is_not_known_is_said_so() -> None:
    """No current sensor, no capacity; balancing off is read as Vmax less 30 mV; the hottest board bleeds."""
    frame = wire(
        current1_ma=None, current2_ma=None, current_ma=None, vbalance_mv=0, capacity_wh=0, hottest_cell=3,
    )  # fmt: skip
    said = explained(frame, "--mode", "normal")
    assert said["charge", "charge power <= 5 % of the capacity"] == "false not known <= 0 W"
    assert said["charge", "all V >= Vbalance"] == "false 3.310 V >= 3.670 V"
    assert said["SoC", "discharge power < 10 % of the capacity"] == "false not known < 0 W"
    frame = wire(highest_mv=3405, hottest_cell=3, hottest_raw=336)
    said = explained(frame, "--set", "pack.tmax=45")
    assert said["charge", "any T > Tmax"] == "false not known > 45 degC; Th: no"
    assert said["charge", "all T < Tmax"] == "true not known < 45 degC; no Th: yes"
    said = explained(wire(vmax_mv=0, vbalance_mv=0), "--mode", "normal")
    assert said["charge", "all V >= Vbalance"] == "false 3.310 V >= not set"


def test_a_bms_that_hears_no_cell() -> None:
    frame = wire(
        status=0b100, lowest_mv=0, highest_mv=0, lowest_cell=0, highest_cell=0,
        coldest_raw=0, hottest_raw=0, coldest_cell=0, hottest_cell=0, cell=0, cell_mv=0,
    )  # fmt: skip
    said = explained(frame)
    assert said["charge", "cell communication is lost"] == "true lost"
    assert said["charge", "cell communication is there"] == "false lost"
    said = explained(frame, "--generation", "B")
    assert said["SoC", "discharging is not allowed"] == "true not allowed"


EDGES = [
    # readings, mode, condition, what is said: a number just beyond its threshold does not look like it
    ({"voltage_mv": 54_395}, "B", "pack voltage >= Vbalance x cells", "false 54.395 V >= 54.400 V"),
    ({"voltage_mv": 54_400}, "B", "pack voltage >= Vbalance x cells", "true 54.400 V >= 54.400 V"),
    # 51.205 V x 15.625 A, 51.2 V x 15.625 A
    ({"voltage_mv": 51_205, "current_ma": 15_625, "current1_ma": 15_625, "current2_ma": 0}, "C",
     "charge power <= 5 % of the capacity", "false 800.0781 W <= 800 W"),
    ({"voltage_mv": 51_200, "current_ma": 15_625, "current1_ma": 15_625, "current2_ma": 0}, "C",
     "charge power <= 5 % of the capacity", "true 800 W <= 800 W"),
    ({"voltage_mv": 51_205, "current_ma": -31_250, "current2_ma": 31_250}, "C",
     "discharge power < 10 % of the capacity", "false 1600.156 W < 1600 W"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "generation", "condition", "said"), EDGES)
def test_numbers_have_digits_enough(
    changes: dict[str, Any], generation: str, condition: str, said: str
) -> None:
    options = ("--generation", generation, "--mode", "critical")
    assert explained(wire(**changes), *options)["SoC", condition] == said


def test_a_soc_just_under_its_restart_does_not_look_like_it() -> None:
    """14399 of 16000 Wh are 89.99375 %."""
    said = explained(wire(soc_percent=90, stored_wh=14_399), "--mode", "normal", *ALL_SET)
    assert said["charge", "SoC < charge restart"] == "true 89.99375 % < 90 %"


# Wrong input


def refused(source: str, *arguments: str) -> str:
    """The one sentence that is said."""
    ended = run("--explain", source, *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("dbus-smartbms tables: ")
    return ended.stderr.removeprefix("dbus-smartbms tables: ").rstrip("\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    said = refused("nothing.jsonl")
    assert "nothing.jsonl" in said
    assert "No such file or directory" in said


def test_a_folder_is_no_capture(tmp_path: Path) -> None:
    assert "Is a directory" in refused(str(tmp_path))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("t=1", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"t": 0.5, "frame": null}', '"t" goes back from 1 to 0.5'),
        ('{"t": 2.0, "frame": "00"}', '"frame" has to be 116 hex digits or null'),
        ('{"t": 2.0}', 'expected either "frame" or "bytes"'),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, bad: str, why: str) -> None:
    source = capture(tmp_path, line(0.0), line(1.0, 1), bad, line(3.0, 2))
    assert refused(source).endswith(f": line 3: {why}")


def test_a_file_that_is_no_capture(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(bytes(range(256)))
    assert ": line 1: not JSON: " in refused(str(path))


@pytest.mark.parametrize(
    "lines",
    [[], ['{"t": 1, "frame": null}'], ['{"t": 1, "bytes": "0029c82b00642b"}'], [line(0.0)[:-4] + '00"}']],
)
def test_a_capture_without_a_frame(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "capture.jsonl"
    path.write_text("".join(one + "\n" for one in lines))
    assert refused(str(path)).endswith(": there is no valid frame in it")


@pytest.mark.parametrize(
    "damaged", [wire()[:-2] + "00", "00" * 58, "ff" * 58, wire()[2:] + "00", wire(soc_percent=101)]
)
def test_a_damaged_frame(damaged: str) -> None:
    assert refused(damaged) == f"{damaged[:60]}: there is no valid frame in it"


@pytest.mark.parametrize("piece", [wire()[:-1], wire()[:-2], wire() + "00", "0" + wire()])
def test_a_frame_of_another_length_is_not_taken_for_a_file(piece: str) -> None:
    assert "No such file" not in refused(piece)
