"""The configuration file: what a user may write, and what is said to one who mistyped."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbus_smartbms import cli
from dbus_smartbms.configuration import Configuration, load
from dbus_smartbms.limits import Limits
from dbus_smartbms.pack import Pack
from dbus_smartbms.settings import OPTIONS, Option, Settings, example
from rig import frame

BOTH_CAREFUL = frozenset({"charge_rate", "discharge_rate"})
POINT = "decimals take a point, not a comma"
IGNORED = "? The line is ignored"
CCL_CAREFUL = "CCL is at most 0.1 C, so that a mistake raises no limit"
DCL_CAREFUL = "DCL is at most 0.1 C, so that a mistake raises no limit"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bms.ini"


def read(file: Path, text: str, *overrides: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return load(file, list(overrides))


def said(configuration: Configuration, file: Path) -> list[str]:
    """The problems, the file's name left out where it stands first."""
    return [problem.removeprefix(f"{file}, ") for problem in configuration.problems]


def limits_of(settings: Settings, **changes: Any) -> Limits:
    pack = Pack(settings)
    for second in range(3):
        pack.take(frame(second, **changes), float(second))
    assert pack.limits is not None
    return pack.limits


# Without a problem


def test_without_a_file_everything_is_at_its_default() -> None:
    assert load(None, []) == Configuration(Settings(), [])


def test_a_file_that_is_not_there_is_no_problem(file: Path) -> None:
    assert load(file, []) == Configuration(Settings(), [])


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing\n; at all\n", "[limits]\n[pack]\n", "\ufeff[pack]\n"]
)
def test_an_empty_file_is_no_problem(file: Path, text: str) -> None:
    assert read(file, text) == Configuration(Settings(), [])


WHOLE = """
# A pack in a boat
[pack]
generation = b
Mode = NORMAL          ; as set in its app
chemistry=lfp
temperature : vendor
tmin_charge = 2.5
tmin_discharge = -20
tmax = 55              # degC
charge_restart = 90
discharge_restart = 15

[ limits ]
max_charge_current = 80
max_discharge_current = 1e2
charge_rate = .3
discharge_rate = 2
charge_margin_mv = 25 ; mV

[LINK]
devices = /dev/serial/by-id/usb-123:x#1
hold_s = 5
ride_through_s = 5
[log]
level = Warning
"""


def test_every_key_is_read(file: Path) -> None:
    assert read(file, WHOLE) == Configuration(
        Settings(
            generation="B", mode="normal", chemistry="LFP", temperature="vendor",
            tmin_charge=2.5, tmin_discharge=-20.0, tmax=55.0, charge_restart=90.0, discharge_restart=15.0,
            max_charge_current=80.0, max_discharge_current=100.0, charge_rate=0.3, discharge_rate=2.0,
            charge_margin_mv=25.0, devices="/dev/serial/by-id/usb-123:x#1", hold_s=5.0, ride_through_s=5.0,
            level="warning",
        )
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_a_file_from_another_editor_reads_the_same(file: Path, ending: str) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.strip().replace("\n", ending).encode())
    assert load(file, []) == read(file, WHOLE)


def test_a_line_separator_in_a_comment_does_not_begin_a_line(file: Path) -> None:
    text = "[limits]\n# once\u2028max_charge_current = 500\x0cmax_charge_current = 500\x85charge_rate = 5\n"
    assert read(file, text) == Configuration(Settings(), [])


def test_the_shipped_example_changes_nothing(file: Path) -> None:
    assert read(file, example()) == Configuration(Settings(), [])


def test_every_line_of_the_shipped_example_may_be_uncommented(file: Path) -> None:
    keys = [f"#{option.key} =" for option in OPTIONS]
    lines = [line[1:] if line.startswith(tuple(keys)) else line for line in example().splitlines()]
    assert sum(not line.startswith(("#", "[")) and bool(line) for line in lines) == len(OPTIONS)
    assert read(file, "\n".join(lines)) == Configuration(Settings(), [])


def test_every_option_says_what_it_means_and_what_is_allowed() -> None:
    for option in OPTIONS:
        assert option.meaning
        assert option.allowed in example()
        assert option.default is None or not option.unit or option.low <= float(option.default) <= option.high


# Numbers and their ends


NUMBERS = [option for option in OPTIONS if option.unit and not option.points]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_a_number_may_be_at_either_end_of_its_range_and_no_further(file: Path, option: Option) -> None:
    def problems(value: float) -> list[str]:
        text = f"[link]\nride_through_s = 120\n[{option.section}]\n{option.key} = {value}\n"
        if option.key == "ride_through_s":
            text = f"[link]\nhold_s = 3\nride_through_s = {value}\n"
        return read(file, text).problems

    assert problems(option.low) == problems(option.high) == []
    for value in (option.low - 0.01, option.high + 0.01):
        (problem,) = problems(value)
        assert f"'{value}' is not {option.allowed}" in problem


def test_the_ranges_are_those_of_the_design() -> None:
    assert {option.key: (option.low, option.high, option.unit) for option in NUMBERS} == {
        "tmin_charge": (-40, 85, "degC"), "tmin_discharge": (-40, 85, "degC"), "tmax": (-40, 85, "degC"),
        "charge_restart": (0, 100, "%"), "discharge_restart": (0, 100, "%"),
        "max_charge_current": (0, 10_000, "A"), "max_discharge_current": (0, 10_000, "A"),
        "charge_rate": (0, 5, "C"), "discharge_rate": (0, 5, "C"), "charge_margin_mv": (0, 100, "mV"),
        "charge_to_full_days": (1, 365, "days"),
        "hold_s": (3, 30, "s"), "ride_through_s": (3, 120, "s"),
    }  # fmt: skip


# What is said of a mistake


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tmax = warm", "[pack] tmax: 'warm' is not a number from -40 to 85 degC; it stays unset"),
        ("tmax = 86", "[pack] tmax: '86' is not a number from -40 to 85 degC; it stays unset"),
        ("tmax = nan", "[pack] tmax: 'nan' is not a number from -40 to 85 degC; it stays unset"),
        ("tmax = inf", "[pack] tmax: 'inf' is not a number from -40 to 85 degC; it stays unset"),
        ("tmax = 4_5", "[pack] tmax: '4_5' is not a number from -40 to 85 degC; it stays unset"),
        ("tmax = 45 degC", "[pack] tmax: '45 degC' is not a number from -40 to 85 degC; it stays unset"),
        ("tmax = 45,5", f"[pack] tmax: '45,5' is not a number from -40 to 85 degC; {POINT}; it stays unset"),
        ("mode = crit", "[pack] mode: 'crit' is not one of normal, critical; critical is used"),
        ("mode =", "[pack] mode: '' is not one of normal, critical; critical is used"),
        ("generation = D", "[pack] generation: 'D' is not one of A, B, C; C is used"),
        ("tmux = 45", "unknown key 'tmux' in [pack], did you mean [pack] tmax? The line is ignored"),
        ("hold_s = 20", "unknown key 'hold_s' in [pack], did you mean [link] hold_s? The line is ignored"),
        ("tmin = 5", "unknown key 'tmin' in [pack], did you mean [pack] tmin_charge? The line is ignored"),
        ("sailing = yes", "unknown key 'sailing' in [pack]; the line is ignored"),
        ("= 5", "unknown key '' in [pack], did you mean [pack] mode? The line is ignored"),
        ("tmax 45", "expected 'key = value', found 'tmax', did you mean [pack] tmax? The line is ignored"),
        ("lorem ipsum", "expected 'key = value', found 'lorem'; the line is ignored"),
        ("[limits", "'[limits' is read as [limits]"),
        ("[limit]", "unknown section [limit], did you mean [limits]?"),
        ("[]", "unknown section [], did you mean [log]?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_what_is_used_instead(
    file: Path, line: str, message: str
) -> None:
    configuration = read(file, f"# a file\n[pack]\n{line}\n")
    assert configuration.problems == [f"{file}, line 3: {message}"]
    assert configuration.settings == Settings()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("tmax = 45",
         [f"line 1: 'tmax' stands before the first [section], did you mean [pack] tmax{IGNORED}"]),
        ("[pak]\ntmax = 45",
         ["line 1: unknown section [pak], did you mean [pack]?",
          f"line 2: 'tmax' is in the unknown section [pak], did you mean [pack] tmax{IGNORED}"]),
        ("[link]\ndevices =", ["line 2: [link] devices: '' is not a text; auto is used"]),
        ("[link]\nhold_s = 2", ["line 2: [link] hold_s: '2' is not a number from 3 to 30 s; 10 is used"]),
        ("[link]\nhold_s = 12,5",
         [f"line 2: [link] hold_s: '12,5' is not a number from 3 to 30 s; {POINT}; 10 is used"]),
        ("[link]\nhold_s = 12.5\nhold_s = x",
         ["line 3: [link] hold_s: 'x' is not a number from 3 to 30 s; 12.5 is used"]),
        ("[link]\nhold_s = 12.5\nhold_s = 14",
         ["line 3: [link] hold_s is set again (first in line 2); 14 is used"]),
        ("[log]\nlevel = info\nLEVEL = error\nlevel = debug",
         ["line 3: [log] level is set again (first in line 2); error is used",
          "line 4: [log] level is set again (first in line 2); debug is used"]),
        ("[pack]\ntmax = 45\ntmax =",
         ["line 3: [pack] tmax is set again (first in line 2); it stays unset"]),
        ("[link]\nride_through_s = 5", ["line 2: [link] ride_through_s 5 is under hold_s; 10 is used"]),
        ("[link]\nhold_s = 30\nride_through_s = 29.5",
         ["line 3: [link] ride_through_s 29.5 is under hold_s; 30 is used"]),
    ],
)  # fmt: skip
def test_mistakes_over_several_lines(file: Path, text: str, messages: list[str]) -> None:
    assert said(read(file, text), file) == messages


def test_what_was_read_before_a_mistake_stays(file: Path) -> None:
    assert read(file, "[link]\nhold_s = 12.5\nhold_s = x\n").settings.hold_s == 12.5
    assert read(file, "[link]\nhold_s = x\nhold_s = 12.5\n").settings.hold_s == 12.5
    assert read(file, "[link]\nhold_s = 12.5\nhold_s = 14\n").settings.hold_s == 14.0


def test_a_section_whose_bracket_is_missing_is_read_as_meant(file: Path) -> None:
    configuration = read(file, "[pack]\n[limits\nmax_charge_current = 20\n")
    assert said(configuration, file) == ["line 2: '[limits' is read as [limits]"]
    assert configuration.settings == Settings(max_charge_current=20.0)


def test_ride_through_is_never_shorter_than_hold(file: Path) -> None:
    assert read(file, "[link]\nride_through_s = 5\n").settings.ride_through_s == 10.0
    assert read(file, "[link]\nhold_s = 30\nride_through_s = 29.5\n").settings.ride_through_s == 30.0
    from_both = read(file, "[link]\nride_through_s = 15\n", "link.hold_s=20")
    assert from_both.settings.ride_through_s == 20.0
    assert said(from_both, file) == ["line 2: [link] ride_through_s 15 is under hold_s; 20 is used"]
    assert load(None, ["link.ride_through_s=5"]).problems == [
        "[link] ride_through_s 5 is under hold_s; 10 is used"
    ]


# Files that cannot be read


def test_a_file_that_is_not_utf_8_lowers_the_limits_and_cuts_no_power(file: Path) -> None:
    file.write_bytes(b"[limits]\nmax_charge_current = 80 # H\xf6chstens\n")
    configuration = load(file, [])
    assert configuration.problems == [
        f"{file}: cannot be read (it is not UTF-8 text); CCL and DCL are at most 0.1 C"
    ]
    assert configuration.settings == Settings(charge_rate=0.1, discharge_rate=0.1, careful=BOTH_CAREFUL)
    limits = limits_of(configuration.settings)
    assert (limits.ccl_ma, limits.dcl_ma) == (30_303, 30_303)


def test_a_utf_16_file_is_named_too(file: Path) -> None:
    file.write_bytes("[limits]\nmax_charge_current = 80\n".encode("utf-16"))
    assert "it is not UTF-8 text" in load(file, []).problems[0]


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    configuration = load(tmp_path, [])
    assert configuration.problems == [
        f"{tmp_path}: cannot be read (Is a directory); CCL and DCL are at most 0.1 C"
    ]
    assert configuration.settings.careful == BOTH_CAREFUL


def test_a_file_where_a_folder_should_be_is_named(file: Path) -> None:
    file.write_text("")
    assert "Not a directory" in load(file / "bms.ini", []).problems[0]


# Current caps


@pytest.mark.parametrize(
    "line",
    [
        "max_charge_current = 8O",
        "max_charge_current = 80 A",
        "max_charge_current = 80,5",
        "max_charge_current = -1",
        "max_charge_current = 10001",
        "max_charge_current = nan",
        "max_charge_current = 8_0",
        "max_charge_current 80",
        "max_chrge_current = 80",
        "max charge current = 80",
        "maxchargecurrent = 80",
        "max_charge = 80",
        "max_current = 80",
        "charge_current = 80",
        "charge = 80",
        "charge_rate = 50 %",
        "charge_rate = 6",
        "charge_rate =",
        "chargerate = 0.9",
        "rate = 0.9",
        "[limits] max_charge_current = 80",
    ],
)
def test_a_cap_on_charging_that_cannot_be_read_becomes_a_tenth_c(file: Path, line: str) -> None:
    configuration = read(file, f"[limits]\n{line}\n")
    (problem,) = said(configuration, file)
    assert problem.startswith("line 2: ")
    assert problem.endswith(CCL_CAREFUL)
    limits = limits_of(configuration.settings)
    assert (limits.ccl_ma, limits.dcl_ma) == (30_303, 303_030)


@pytest.mark.parametrize(
    "line",
    [
        "max_discharge_current = x", "max_dischrge_current = 80", "max_discharge_current 80",
        "max_discharge = 80", "discharge_current = 80", "discharge_rate = 6", "dischargerate = 2",
    ],
)  # fmt: skip
def test_a_cap_on_discharging_that_cannot_be_read_becomes_a_tenth_c(file: Path, line: str) -> None:
    configuration = read(file, f"[limits]\n{line}\n")
    (problem,) = said(configuration, file)
    assert problem.endswith(DCL_CAREFUL)
    limits = limits_of(configuration.settings)
    assert (limits.ccl_ma, limits.dcl_ma) == (151_515, 30_303)


@pytest.mark.parametrize(
    "text",
    [
        "max_charge_current = 80",
        "[limit]\nmax_charge_current = 80",
        "[pack]\nmax_charge_current = 80",
        "[pack 1234]\ncharge_rate = 0.2",
        "[battery]\nMAX_CHARGE_CURRENT = 80",
        "[limits}\nmax_charge_current = 80",
    ],
)
def test_a_cap_in_the_wrong_place_becomes_a_tenth_c(file: Path, text: str) -> None:
    configuration = read(file, text)
    assert said(configuration, file)[-1].endswith(CCL_CAREFUL)
    assert limits_of(configuration.settings).ccl_ma == 30_303


@pytest.mark.parametrize(
    ("valid", "ccl"),
    [
        ("max_charge_current = 80", 30_303),
        ("max_charge_current = 20", 20_000),
        ("charge_rate = 0.5", 30_303),
        ("charge_rate = 0.05", 15_151),
        ("max_charge_current = 0", 0),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_mistyped_cap_beside_a_valid_one_never_gives_more_than_either(
    file: Path, valid: str, ccl: int, first: bool
) -> None:
    lines = [valid, "max_chrge_current = 500"]
    configuration = read(file, "\n".join(["[limits]", *(lines if first else reversed(lines))]))
    assert limits_of(configuration.settings).ccl_ma == ccl


def test_an_override_does_not_lift_the_limit_that_a_mistake_lowered(file: Path) -> None:
    for override in ("limits.max_charge_current=500", "limits.charge_rate=2"):
        configuration = read(file, "[limits]\nmax_charge_current = x\n", override)
        assert limits_of(configuration.settings).ccl_ma == 30_303


def test_a_tenth_c_holds_when_the_capacity_is_0(file: Path) -> None:
    configuration = read(file, "[limits]\nmax_charge_current = 50\ncharge_rate = x\n")
    assert limits_of(configuration.settings, capacity_wh=0).ccl_ma == 0


@pytest.mark.parametrize(
    ("values", "used"),
    [
        (("80", "20"), "20"), (("20", "80"), "20"), (("20", ""), "20"), (("", "20"), "20"), (("0", ""), "0"),
        (("30", "20", "25"), "20"),
    ],
)  # fmt: skip
def test_of_a_cap_that_is_set_twice_the_lower_counts(file: Path, values: tuple[str, ...], used: str) -> None:
    lines = [f"max_charge_current = {value}" for value in values]
    configuration = read(file, "\n".join(["[limits]", *lines]))
    assert configuration.settings.max_charge_current == float(used)
    assert said(configuration, file)[-1] == (
        f"line {len(values) + 1}: [limits] max_charge_current is set again (first in line 2); {used} is used"
    )


def test_of_a_rate_that_is_set_twice_the_lower_counts(file: Path) -> None:
    assert read(file, "[limits]\ncharge_rate = 0.2\ncharge_rate = 1\n").settings.charge_rate == 0.2


@given(st.text(alphabet="abcdegmrtux_=:[]#; \n0123456789.,-\ufeffé", max_size=200))
def test_no_text_raises_and_none_gives_more_than_it_says(text: str) -> None:
    configuration = _load_text("[limits]\n" + text)
    settings = configuration.settings
    assert settings.charge_rate <= 0.5 or "charge_rate" in text
    assert all(settings.__getattribute__(name) <= 0.1 for name in settings.careful)
    assert settings.hold_s <= settings.ride_through_s


_SCRATCH: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    _SCRATCH[:] = [tmp_path_factory.mktemp("settings") / "any.ini"]


def _load_text(text: str) -> Configuration:
    _SCRATCH[0].write_text(text, encoding="utf-8")
    return load(_SCRATCH[0], [])


@given(
    st.sampled_from([option for option in OPTIONS if option.caps]),
    st.integers(0, 30),
    st.sampled_from("abcdefghijklmnopqrstuvwxyz_0123456789"),
    st.sampled_from(["drop", "change", "insert"]),
)
def test_one_wrong_letter_in_a_cap_never_raises_a_limit(
    option: Option, place: int, letter: str, change: str
) -> None:
    """CCL and DCL are at most what they are with the line right, or without it, whichever is lower."""
    place %= len(option.key)
    rest = option.key[place + (change != "insert") :]
    key = option.key[:place] + ("" if change == "drop" else letter) + rest
    value = "0.2" if option.unit == "C" else "50"
    typed = limits_of(_load_text(f"[limits]\n{key} = {value}\n").settings)
    meant = limits_of(_load_text(f"[limits]\n{option.key} = {value}\n").settings)
    assert typed.ccl_ma <= meant.ccl_ma
    assert typed.dcl_ma <= meant.dcl_ma


# Overrides from the command line


def test_overrides_win_over_the_file(file: Path) -> None:
    configuration = read(
        file, "[limits]\nmax_charge_current = 80\n", "limits.max_charge_current=90", "pack.mode=normal"
    )
    assert configuration == Configuration(Settings(max_charge_current=90.0, mode="normal"), [])


def test_an_override_may_have_spaces_capitals_and_an_equals_sign() -> None:
    settings = load(None, [" Limits.Charge_Rate = 0.3 ", "link.devices=/dev/a=b"]).settings
    assert (settings.charge_rate, settings.devices) == (0.3, "/dev/a=b")


def test_of_two_overrides_the_later_counts() -> None:
    assert load(None, ["link.hold_s=20", "link.hold_s=15"]).settings.hold_s == 15.0


def test_an_empty_override_takes_a_value_away(file: Path) -> None:
    assert read(file, "[pack]\ntmax = 45\n", "pack.tmax=").settings.tmax is None


EXPECTED = "expected section.key=value, for example "


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("limits.max_charge_current=x", "'x' is not a number from 0 to 10000 A"),
        ("limits.charge_rate=", "'' is not a number from 0 to 5 C"),
        ("limits.charge_rate=0,5", f"'0,5' is not a number from 0 to 5 C; {POINT}"),
        ("pack.mode=fast", "'fast' is not one of normal, critical"),
        ("limits.max_charge_current", EXPECTED + "limits.max_charge_current=..."),
        (
            "limits.max_chrge_current=80",
            "there is no option limits.max_chrge_current, did you mean limits.max_charge_current?",
        ),
        ("max_charge_current=80", EXPECTED + "limits.max_charge_current=..."),
        ("", EXPECTED + "pack.mode=..."),
    ],
)
def test_a_wrong_override_is_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="--set ") as caught:
        load(None, ["link.hold_s=20", override])
    assert str(caught.value) == f"--set {override}: {sentence}"


def test_a_tmin_over_tmax_would_cut_the_power_and_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "bms.ini"
    file.write_text("[pack]\ntmin_charge = 50\ntmax = 45\n")
    configuration = load(file, [])
    assert (configuration.settings.tmin_charge, configuration.settings.tmax) == (None, None)
    assert configuration.problems == [
        f"{file}, line 2: [pack] tmin_charge 50 is not under tmax 45; the BMS's flags decide instead of both"
    ]


# Lines through points


TAPER = "such as 80: 0.5, 100: 0.05"


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("80: 0.5, 100: 0.05", ((80.0, 0.5), (100.0, 0.05))),
        ("0:0,100:5", ((0.0, 0.0), (100.0, 5.0))),
        (" 50 : 0.1 ", ((50.0, 0.1),)),
        ("", None),
    ],
)
def test_a_taper_is_points_of_soc_and_rate(file: Path, text: str, points: object) -> None:
    configuration = read(file, f"[limits]\ncharge_soc_taper = {text}\n")
    assert (configuration.settings.charge_soc_taper, configuration.problems) == (points, [])


@pytest.mark.parametrize(
    "text",
    ["80", "80: 0.5, 70: 0.1", "80: 0.5, 80: 0.1", "80: 6", "80: -1", "101: 1", "-1: 1", "80: x", "80: 0.5,",
     "80: nan", "8_0: 1", "80: 0.5; 90: 0.1", "80: 0,5"],
)  # fmt: skip
def test_a_taper_that_cannot_be_read_raises_no_limit(file: Path, text: str) -> None:
    configuration = read(file, f"[limits]\ndischarge_soc_taper = {text}\n")
    (problem,) = configuration.problems
    assert TAPER in problem or ";" in text
    assert problem.endswith("DCL is at most 0.1 C, so that a mistake raises no limit")
    assert configuration.settings.discharge_rate == 0.1
    assert configuration.settings.discharge_soc_taper is None or ";" in text


def test_a_taper_set_twice_is_a_mistake_that_raises_no_limit(file: Path) -> None:
    configuration = read(file, "[limits]\ncharge_soc_taper = 50: 0\ncharge_soc_taper = 50: 1\n")
    (problem,) = configuration.problems
    assert problem.endswith(
        "line 3: [limits] charge_soc_taper is set again (first in line 2); "
        "CCL is at most 0.1 C, so that a mistake raises no limit"
    )
    assert configuration.settings.charge_rate == 0.1


# Packs with a section of their own


def test_a_section_of_a_pack_overrides_what_is_for_all(file: Path) -> None:
    text = """
[pack AB12]
mode = normal
[pack]
generation = B
tmax = 50
[pack cd 34]
tmax = 40
tmin_charge = 5
"""
    configuration = read(file, text)
    assert configuration.problems == []
    assert configuration.settings == Settings(generation="B", tmax=50.0)
    assert configuration.of(None) == configuration.of("ZZ99") == configuration.settings
    assert configuration.of("AB12") == Settings(generation="B", tmax=50.0, mode="normal")
    assert configuration.of("cd 34") == Settings(generation="B", tmax=40.0, tmin_charge=5.0)
    assert configuration.of("ab12") == configuration.settings, "a serial number has capitals or has not"


def test_mistakes_in_the_section_of_a_pack_are_named_with_it(file: Path) -> None:
    text = (
        "[pack]\ntmin_charge = 5\ntmax = 45\n[pack AB12\ntmax = warm\nmood = 1\ntmax = 3\ntmax = 4\n"
        "[pack CD34]\nmax_charge_current = 5\n"
    )
    configuration = read(file, text)
    assert [problem.removeprefix(f"{file}, ") for problem in configuration.problems] == [
        "line 4: '[pack AB12' is read as [pack AB12]",
        "line 5: [pack] tmax: 'warm' is not a number from -40 to 85 degC; 45 is used",
        "line 6: unknown key 'mood' in [pack], did you mean [pack] mode? The line is ignored",
        "line 8: [pack] tmax is set again (first in line 7); 4 is used",
        (
            "line 10: unknown key 'max_charge_current' in [pack], did you mean [limits] max_charge_current? "
            "The line is ignored; CCL is at most 0.1 C, so that a mistake raises no limit"
        ),
        "line 7: [pack AB12] tmin_charge 5 is not under tmax 4; the BMS's flags decide instead of both",
    ]
    assert configuration.of("AB12").tmax is None
    assert (configuration.settings.tmin_charge, configuration.settings.tmax) == (5.0, 45.0)
    assert configuration.of("AB12").charge_rate == configuration.settings.charge_rate == 0.1


def test_an_override_counts_for_all_packs(file: Path) -> None:
    configuration = read(file, "[pack AB12]\nmode = normal\ntmax = 40\n", "pack.mode=critical")
    assert configuration.of("AB12") == Settings(tmax=40.0)


def test_only_pack_has_sections_of_single_ones(file: Path) -> None:
    (problem, _) = read(file, "[link AB12]\nhold_s = 5\n").problems
    assert problem.endswith("line 1: unknown section [link ab12], did you mean [link]?")


# The command


def config(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = cli.main(["config", *words])
    except SystemExit as ended:
        status = int(ended.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_config_check_names_all_mistakes_in_one_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[limits]\ncharge_rate = 0.4\n")
    assert config(capsys, "check", str(file)) == (0, f"{file}: no mistakes\n", "")
    file.write_text("colour = red\n[pack]\nmode = fast\n[limits]\ncharge_rate = 1C\n")
    status, out, err = config(capsys, "check", str(file))
    assert (status, err) == (1, "")
    assert out.splitlines() == load(file, []).problems
    assert len(out.splitlines()) == 3
    missing = file.with_name("none.ini")
    assert config(capsys, "check", str(missing)) == (
        1, "", f"dbus-smartbms config: there is no file {missing}\n",
    )  # fmt: skip


def test_config_show_has_each_value_with_its_source(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[pack]\nmode = normal\n[pack AB12]\ntmax = 40\n[limits]\ncharge_soc_taper = 80: 0.5\n")
    status, out, err = config(capsys, "show", str(file), "--set", "link.hold_s=5")
    assert (status, err) == (0, "")
    rows = {line.split(" = ")[0]: line.split(" = ")[1] for line in out.splitlines() if " = " in line}
    assert rows["mode"].split() == ["normal", "#", f"{file},", "line", "2"]
    assert rows["hold_s"].split() == ["5", "#", "--set"]
    assert rows["generation"].split() == ["C", "#", "default"]
    assert rows["charge_soc_taper"].split()[:2] == ["80:", "0.5"]
    assert out.endswith(f"[pack AB12]\n{'tmax = 40':44}  # {file}, line 4\n")
    assert [line for line in out.splitlines() if line.startswith("[")] == [
        "[pack]", "[limits]", "[bank]", "[link]", "[log]", "[pack AB12]",
    ]  # fmt: skip
    file.write_text("[limits]\ncharge_rate = 1C\n")
    status, out, err = config(capsys, "show", str(file))
    assert (status, err.splitlines()) == (1, load(file, []).problems)
    assert (
        "charge_rate = 0.1                             # careful, for a mistake in the configuration" in out
    )
    status, _, err = config(capsys, "show", str(file), "--set", "link.hold=5")
    assert status == 2
    assert "did you mean link.hold_s?" in err


def test_config_example_is_the_file_that_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert config(capsys, "example") == (0, example(), "")


# A file that is none


def test_a_file_of_rubbish_is_given_up_soon_and_raises_nothing(file: Path) -> None:
    """And read in no time: the driver does this at SIGHUP, with its limits waiting."""
    configuration = read(file, "rubbish\n" * 5_000)
    assert len(configuration.problems) == 21
    assert configuration.problems[-1].endswith(
        "line 21: the rest is not read, there are too many mistakes; CCL and DCL are at most 0.1 C"
    )
    assert (configuration.settings.charge_rate, configuration.settings.discharge_rate) == (0.1, 0.1)
    configuration = read(file, "[limits]\n" + "x" * 60_000 + " = 1\n")
    assert len(configuration.problems[0]) < 300
    configuration = read(file, "#" * 70_000)
    assert configuration.problems == [
        f"{file}: is no configuration, it has more than 65536 characters; CCL and DCL are at most 0.1 C"
    ]
    assert configuration.settings.careful == {"charge_rate", "discharge_rate"}


def test_of_a_huge_file_only_the_beginning_is_read(file: Path) -> None:
    """The driver's memory is limited: it would end, and be started again, and end."""
    with file.open("wb") as out:
        out.truncate(50_000_000)
    tracemalloc.start()
    try:
        problems = load(file, []).problems
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "is no configuration" in problems[0]
    assert most < 5_000_000
