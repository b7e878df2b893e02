"""``replay``: the protocol to the letter, in this process and as a command over pipes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbus_smartbms.configuration import Configuration
from dbus_smartbms.replay import Capture, record, replay
from dbus_smartbms.settings import Settings
from rig import PATIENCE_S, PROGRAM, Line, frame, until
from smartbms_protocol import encode

KEYS = {
    "cvl", "ccl", "dcl", "allow_charge", "allow_discharge", "reasons", "state", "mirror",
    "frames", "rejected",
}  # fmt: skip


def wire(turn: int = 0, **changes: Any) -> str:
    return encode(frame(turn, **changes)).hex()


def line(t: float, turn: int = 0, **changes: Any) -> str:
    return json.dumps({"t": t, "frame": wire(turn, **changes)})


def nothing(t: float) -> str:
    return json.dumps({"t": t, "frame": None})


def raw(t: float, data: bytes) -> str:
    return json.dumps({"t": t, "bytes": data.hex()})


def answers(*lines: str, items: bool = False, **configured: Any) -> list[dict[str, Any]]:
    configuration = Configuration(Settings(**configured))
    return [json.loads(answer) for answer in replay(lines, configuration, items=items)]


STORY = (
    nothing(0.0),
    *(line(float(t), t) for t in range(1, 6)),
    line(6.0, 6, status=0),
    *(line(float(t), t) for t in range(7, 12)),
    *(nothing(float(t)) for t in range(12, 90)),
    *(line(float(t), t, highest_mv=3500) for t in range(90, 120)),
)
"""A start, a denial, a lost link, a high cell."""


# The answers


def test_before_the_first_frame_nothing_is_allowed() -> None:
    (answer,) = answers(nothing(0.0))
    assert answer == {
        "cvl": None, "ccl": 0.0, "dcl": 0.0, "allow_charge": False, "allow_discharge": False,
        "reasons": {"cvl": "no frame yet", "ccl": "no frame yet", "dcl": "no frame yet"},
        "state": "bulk", "mirror": {"charge": None, "discharge": None, "soc": None},
        "frames": 0, "rejected": 0,
    }  # fmt: skip


def test_the_third_frame_has_all_limits() -> None:
    assert answers(line(1.0, 0), line(2.0, 1), line(3.0, 2))[-1] == {
        "cvl": 54.88, "ccl": 151.5, "dcl": 303.0, "allow_charge": True, "allow_discharge": True,
        "reasons": {"cvl": "16 cells x 3.43 V", "ccl": "0.5 C of 303 Ah", "dcl": "1 C of 303 Ah"},
        "state": "bulk", "mirror": {"charge": True, "discharge": True, "soc": 50.0},
        "frames": 3, "rejected": 0,
    }  # fmt: skip


def test_every_line_has_one_answer_with_all_keys() -> None:
    result = answers(*STORY)
    assert len(result) == len(STORY)
    assert all(set(answer) == KEYS for answer in result)
    assert {answer["state"] for answer in result} == {"bulk", "absorption", "float"}


def test_currents_are_rounded_down_to_a_tenth() -> None:
    lines = [line(float(t), t) for t in range(3)]
    assert answers(*lines, max_charge_current=33.39)[-1]["ccl"] == 33.3


def test_a_denial_counts_in_the_answer_to_its_own_line() -> None:
    lines = [line(float(t), t) for t in range(3)]
    answer = answers(*lines, line(3.0, 3, status=0b10))[-1]
    assert (answer["ccl"], answer["dcl"], answer["allow_charge"]) == (0.0, 303.0, False)
    assert answer["mirror"]["charge"], "the tables know nothing of the BMS's bit"
    answer = answers(*lines, line(3.0, 3, lowest_mv=2900))[-1]
    assert (answer["dcl"], answer["mirror"]["discharge"]) == (0.0, False)


def test_silence_loses_the_link_after_10_s_and_discharging_after_60() -> None:
    result = answers(*(line(float(t), t) for t in range(3)), *(nothing(float(t)) for t in range(3, 63)))
    by_t = dict(enumerate(result))
    assert (by_t[11]["ccl"], by_t[11]["state"]) == (151.5, "bulk")
    assert (by_t[12]["ccl"], by_t[12]["dcl"], by_t[12]["cvl"]) == (0.0, 303.0, 53.12)
    assert (by_t[12]["state"], by_t[12]["allow_charge"], by_t[12]["allow_discharge"]) == (
        "float",
        False,
        True,
    )
    assert (by_t[61]["dcl"], by_t[62]["dcl"]) == (303.0, 0.0)


def test_a_gap_between_two_lines_is_walked_through_second_by_second() -> None:
    start = [line(float(t), t) for t in range(3)]
    (told,) = answers(*start, *(nothing(float(t)) for t in range(3, 72)), line(72.0, 3))[-1:]
    (gap,) = answers(*start, line(72.0, 3))[-1:]
    assert gap == told
    assert (gap["ccl"], gap["dcl"]) == (0.0, 0.0)


def test_a_gap_of_years_is_as_a_gap_of_minutes_and_takes_no_time() -> None:
    start = [line(float(t), t) for t in range(3)]
    assert answers(*start, line(1e11, 3))[-1] == answers(*start, line(300.0, 3))[-1]


def test_a_gap_of_less_than_hold_s_loses_nothing() -> None:
    start = [line(float(t), t) for t in range(3)]
    assert answers(*start, line(12.0, 3))[-1]["ccl"] == 151.5
    assert answers(*start, line(12.5, 3))[-1]["ccl"] == 0.0


def test_t_may_begin_anywhere_and_only_its_differences_count() -> None:
    def shifted(by: float) -> list[dict[str, Any]]:
        moved = [json.dumps(entry | {"t": entry["t"] + by}) for entry in map(json.loads, STORY)]
        return answers(*moved)

    assert shifted(-4096.0) == shifted(2.0**30) == answers(*STORY)


def test_the_same_lines_give_the_same_answers() -> None:
    assert answers(*STORY, items=True) == answers(*STORY, items=True)


def test_bytes_in_any_pieces_are_as_frames() -> None:
    whole = [answers(*(line(float(t), t) for t in range(1, turn)))[-1] for turn in (5, 9)]
    for size in (1, 7, 57, 58, 59):
        lines, turn = [], 0
        for turn in range(1, 9):
            data = bytes.fromhex(wire(turn))
            lines += [raw(float(turn), data[begin : begin + size]) for begin in range(0, len(data), size)]
            if turn == 4:
                assert answers(*lines)[-1] == whole[0]
        assert answers(*lines)[-1] == whole[1]


def test_several_frames_in_one_read_all_count() -> None:
    data = b"".join(bytes.fromhex(wire(turn)) for turn in range(3))
    answer = answers(raw(1.0, data))[-1]
    assert (answer["frames"], answer["ccl"]) == (3, 151.5)


def test_no_bytes_are_a_silence() -> None:
    assert answers(raw(1.0, b"")) == answers(nothing(1.0))


def test_damaged_frames_are_rejected_and_counted_not_errors() -> None:
    bad = bytearray.fromhex(wire(3))
    bad[0] ^= 1
    start = [line(float(t), t) for t in range(3)]
    result = answers(*start, json.dumps({"t": 3.0, "frame": bad.hex()}), line(4.0, 4))
    assert (result[-2]["frames"], result[-2]["rejected"]) == (3, 1)
    assert (result[-1]["frames"], result[-1]["rejected"], result[-1]["ccl"]) == (4, 1, 151.5)


@pytest.mark.parametrize(("gap", "found"), [(0.0, 4), (0.02, 4), (1.0, 3)])
def test_a_silence_between_two_lines_is_one_on_the_wire_too(gap: float, found: int) -> None:
    """Halves of frames from both sides of a silence, with other settings: more likely two damages."""
    data = bytes.fromhex(wire(3, vmax_mv=3650))
    start = [line(float(t), t) for t in range(3)]
    assert answers(*start, raw(3.0, data[:30]), raw(3.0 + gap, data[30:]))[-1]["frames"] == found


def test_hex_digits_may_be_capitals() -> None:
    capitals = json.dumps({"t": 1.0, "frame": wire().upper()})
    assert answers(capitals) == answers(line(1.0))


def test_pack_0_may_be_named_and_more_keys_may_stand_there() -> None:
    entry = {"t": 1, "frame": wire(), "bms": 0, "note": ["from the boat"]}
    assert answers(json.dumps(entry)) == answers(line(1.0))


def test_with_items_the_answer_holds_the_paths_on_the_bus() -> None:
    result = answers(*STORY[:5], *(nothing(float(t)) for t in range(5, 20)), items=True)
    assert set(result[0]) == KEYS | {"items"}
    assert result[0]["items"]["/Info/MaxChargeCurrent"] is None
    assert result[4]["items"]["/Info/MaxChargeCurrent"] == result[4]["ccl"] == 151.5
    assert result[4]["items"]["/Info/MaxChargeVoltage"] == result[4]["cvl"]
    assert result[4]["items"]["/Dc/0/Voltage"] == 53.12
    assert result[-1]["items"]["/Dc/0/Voltage"] is None
    assert result[-1]["items"]["/Info/MaxChargeCurrent"] == 0.0
    assert result[-1]["items"]["/Alarms/BmsCable"] == 1


# Malformed lines


GOOD = wire()
MALFORMED = [
    "", " ", "\n", "x", "{", "[]", "1", '"t"', "null", "true", "{}", "\x00", "\ufeff" + line(9.0), "{'t': 1}",
    "[" * 100_000, '{"t":' * 100_000,
    '{"t": 9.0}', '{"frame": null}', '{"t": null, "frame": null}', '{"t": "9", "frame": null}',
    '{"t": true, "frame": null}', '{"t": [9], "frame": null}',
    '{"t": NaN, "frame": null}', '{"t": Infinity, "frame": null}', '{"t": -Infinity, "frame": null}',
    '{"t": 9.0, "frame": null, "note": NaN}', '{"t": 9.0, "frame": NaN}',
    '{"t": 1e400, "frame": null}', '{"t": 1e300, "frame": null}', '{"t": -1e300, "frame": null}',
    '{"t": 1' + "0" * 400 + ', "frame": null}', '{"t": 1' + "0" * 5000 + ', "frame": null}',
    '{"t": 5.999, "frame": null}', '{"t": -9.0, "frame": null}',
    '{"t": 9.0, "frame": null, "bms": 255}', '{"t": 9.0, "frame": null, "bms": -1}',
    '{"t": 9.0, "frame": null, "bms": "0"}', '{"t": 9.0, "frame": null, "bms": null}',
    '{"t": 9.0, "frame": null, "bms": false}', '{"t": 9.0, "frame": null, "bms": []}',
    '{"t": 9.0, "frame": null, "bytes": ""}', '{"t": 9.0, "frame": null, "bytes": null}',
    '{"t": 9.0, "frame": ""}', '{"t": 9.0, "frame": 0}', '{"t": 9.0, "frame": false}',
    '{"t": 9.0, "frame": []}',
    *(json.dumps({"t": 9.0, "frame": text}) for text in (
        GOOD[:-1], GOOD[:-2], GOOD + "0", GOOD + "00", "0x" + GOOD[2:], "g" + GOOD[1:], GOOD[:-1] + "é",
        "\uff10" + GOOD[1:], GOOD[:-2] + "  ", " " * 116, GOOD[:50] + "  " + GOOD[50:-2], GOOD + "\n",
        "-" + GOOD[1:],
    )),
    *(json.dumps({"t": 9.0, "bytes": data}) for data in (
        None, 7, True, ["00"], "0", "0g", "00 11", " ", "é", "\ud800",
    )),
    line(9.0) + line(10.0), line(9.0) + ",", line(9.0)[:-1],
]  # fmt: skip


@pytest.mark.parametrize("bad", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_line_gets_an_error_and_changes_nothing(bad: str) -> None:
    before, after = STORY[:7], STORY[7:20]
    result = answers(*before, bad, bad, *after, items=True)
    for error in result[7:9]:
        assert set(error) == {"error"}
        assert error["error"]
    assert result[:7] + result[9:] == answers(*before, *after, items=True)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("[]", 'expected an object, for example {"t": 1.0, "frame": null}'),
        ("x", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"t": NaN, "frame": null}', "not JSON: NaN is no number"),
        ('{"t": "1", "frame": null}', '"t" has to be a number of seconds'),
        ('{"t": 4, "frame": null}', '"t" goes back from 5 to 4'),
        ('{"t": 9, "frame": null, "bms": 300}', '"bms" has to be the number of a pack, 0 to 254'),
        ('{"t": 9}', 'expected either "frame" or "bytes"'),
        ('{"t": 9, "frame": "00"}', '"frame" has to be 116 hex digits or null'),
        ('{"t": 9, "bytes": "0"}', '"bytes" has to be hex digits, two a byte'),
    ],
)
def test_the_error_says_what_is_wrong(bad: str, sentence: str) -> None:
    assert answers(nothing(5.0), bad)[-1] == {"error": sentence}


def test_a_malformed_first_line_does_not_set_the_time() -> None:
    assert answers('{"t": 100, "frame": 0}', nothing(1.0))[-1]["state"] == "bulk"


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(GOOD),
        st.integers(-3, 10**320),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["t", "frame", "bytes", "bms", "x"]), inner, max_size=4),
    ),
    max_leaves=6,
)  # fmt: skip


@given(
    st.lists(
        st.one_of(st.text(), st.text(alphabet='{}[]":,.0123456789eE+-tframebyscnul '), JSON.map(json.dumps))
    )
)
def test_no_text_ends_the_replay(lines: list[str]) -> None:
    result = answers(*lines, items=True)
    assert len(result) == len(lines)
    for answer in result:
        assert set(answer) in ({"error"}, KEYS | {"items"})


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.05, 0.25, 1.0, 7.0, 1e9]), st.binary(max_size=200)), max_size=8
    )
)
def test_no_bytes_end_the_replay(reads: list[tuple[float, bytes]]) -> None:
    t, lines = 0.0, []
    for gap, data in reads:
        t += gap
        lines.append(raw(t, data))
    assert not any("error" in answer for answer in answers(*lines, items=True))


# Recording


@contextlib.asynccontextmanager
async def recording(devices: str) -> AsyncIterator[Callable[[], list[dict[str, Any]]]]:
    """A running ``record``; what it has written so far."""
    out = io.StringIO()
    task = asyncio.create_task(record(devices, Capture(), out, None))
    try:
        yield lambda: [json.loads(one) for one in out.getvalue().splitlines()]
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def recorded(line: Line, word: bytes, entries: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
    """The entry of a word, sent until it is there: what came before the opening is not read."""

    def sent_and_there() -> dict[str, Any]:
        line.write(word)
        return next((entry for entry in entries() if word.hex() in entry["bytes"]), {})

    entry: dict[str, Any] = await until(sent_and_there)
    return entry


async def test_one_cable_is_recorded_without_a_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Line(tmp_path / "a") as line:
        async with recording(str(line.path)) as entries:
            await recorded(line, b"one", entries)
            assert all(set(entry) == {"t", "bytes"} for entry in entries())
    assert caplog.messages == [f"reading {line.path} (no serial number)"]


async def test_several_cables_are_recorded_each_under_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Line(tmp_path / "b") as first, Line(tmp_path / "a") as second:
        second.unplug()
        async with recording(f"{second.path},{first.path}") as entries:
            assert "bms" not in await recorded(first, b"one", entries)
            second.plug()
            assert (await recorded(second, b"two", entries))["bms"] == 1
            assert 'several cables: "bms" 0 is b, 1 is a' in caplog.messages
            first.unplug()
            await until(lambda: "lost" in caplog.text)
            first.plug()
            assert "bms" not in await recorded(first, b"three", entries), "it keeps its number"
            times = [entry["t"] for entry in entries()]
            assert times == sorted(times)


# As a command


def command(*arguments: str) -> list[str]:
    return [*PROGRAM, "replay", *arguments]


def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), input=text, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def test_each_answer_is_there_before_the_next_line_is_written(talk: subprocess.Popen[str]) -> None:
    assert talk.stdin
    assert talk.stdout
    for t, one in enumerate([nothing(0.0), "x", *(line(float(t), t) for t in range(1, 6))]):
        talk.stdin.write(one + "\n")
        answer = json.loads(talk.stdout.readline())
        assert ("error" in answer) == (t == 1)
    assert answer["ccl"] == 151.5
    talk.stdin.close()
    assert talk.stdout.read() == ""
    assert talk.wait(PATIENCE_S) == 0


def test_at_the_end_of_input_the_status_is_0() -> None:
    done = run("")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_command_answers_as_the_module_does_and_logs_nothing_else() -> None:
    done = run("\n".join(STORY))  # the last line without an end
    assert [json.loads(one) for one in done.stdout.splitlines()] == answers(*STORY)
    assert (done.returncode, done.stderr) == (0, "")


def test_bytes_that_are_no_text_and_lines_with_carriage_returns_get_an_answer() -> None:
    data = b"\xff\xfe\x00\n" + nothing(1.0).encode() + b"\r\n" + b"\xed\xa0\x80\n\n"
    done = subprocess.run(command(), input=data, capture_output=True, timeout=PATIENCE_S, check=True)
    errors = ["error" in json.loads(one) for one in done.stdout.splitlines()]
    assert errors == [True, False, True, True]


def test_set_config_and_items_reach_the_limits(tmp_path: Path) -> None:
    file = tmp_path / "bms.ini"
    file.write_text("[limits]\nmax_charge_current = 40\nmax_discharge_current = 50\nwrong = 1\n")
    text = "\n".join(STORY[:5])
    done = run(text, "--config", str(file), "--set", "limits.max_charge_current=30", "--items")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["ccl"], last["dcl"]) == (30.0, 50.0)
    assert last["items"]["/SmartBms/Configuration/Errors"] == 1
    assert done.stderr == (
        f"ERROR configuration: {file}, line 4: unknown key 'wrong' in [limits]; the line is ignored\n"
    )
    assert done.returncode == 0


def test_it_writes_no_file(tmp_path: Path) -> None:
    subprocess.run(
        command("--items"), input="\n".join(STORY), text=True, cwd=tmp_path, capture_output=True,
        timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("--set", "limits.max_charge_current=x"), ("--set", "nonsense"), ("--set",), ("--frob",)]
)
def test_a_wrong_option_ends_with_2_and_a_sentence(arguments: tuple[str, ...]) -> None:
    done = run(nothing(0.0), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dbus-smartbms")
