"""What the decoder's README says is so: its example runs, its tables are the rows'."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import smartbms_protocol
from smartbms_protocol import CELSIUS, layout

README = (Path(smartbms_protocol.__file__).parents[1] / "README.md").read_text("utf-8")


def block(language: str) -> str:
    """The one code block in this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(text)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table that begins with this line."""
    _, _, rest = README.partition(heading + "\n")
    table = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def test_the_example_prints_what_the_readme_says() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block("python"), {})  # noqa: S102 - the text is our own
    assert printed.getvalue() == block("text")


def test_both_tables_are_those_of_the_rows() -> None:
    for table in layout.markdown().split("\n\n"):
        assert table.rstrip("\n") + "\n\n" in README


@pytest.mark.parametrize("heading", ["| bit | name in `layout` | meaning |"])
def test_the_status_bits_have_their_names(heading: str) -> None:
    _, first, second = README.split(heading)
    for text, names in ((first, 8), (second, 5)):
        bits = re.findall(r"^\| (\d) \| `(\w+)` \|", text.split("\n\n")[0], re.MULTILINE)
        assert len(bits) == names
        assert all(getattr(layout, name) == 1 << int(bit) for bit, name in bits)


def test_the_table_of_temperatures_is_what_the_conversions_give() -> None:
    table = rows('| raw | `CELSIUS["document"]`: raw - 276 | `CELSIUS["vendor"]`: 0.857 raw - 232 |')
    assert len(table) == 5
    for raw, document, vendor in table:
        assert f"{CELSIUS['document'](int(raw))} degC" == document
        assert f"{CELSIUS['vendor'](int(raw))} degC" == vendor
