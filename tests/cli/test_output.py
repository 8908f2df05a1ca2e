"""What is printed obeys nobody and fits."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.cli.output import WIDTH, Cell, Plain, printable


@given(st.text())
def test_printable_text_is_one_line_that_a_terminal_cannot_obey(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünïcode", "plain text, ünïcode"),
        ("two\n  lines\tand tab", "two lines and tab"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202eabc\u200b", r"\u202eabc\u200b"),
        ("\x9b31m", r"\x9b31m"),
        ("\udcff", r"\udcff"),
    ],
)
def test_printable_text_shows_what_would_be_hidden(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(
    st.lists(
        st.tuples(st.text(max_size=150), st.text(max_size=60), st.text(max_size=20)), max_size=4
    ),
    st.integers(0, 8),
)
def test_table_of_anything_fits(rows: list[tuple[str, str, str]], indent: int) -> None:
    stream = io.StringIO()
    Plain(stream).table(("NAME", "", "WHY"), rows, indent=indent)
    assert all(len(line) <= WIDTH for line in stream.getvalue().split("\n"))


def test_table_aligns_its_columns_and_wraps_the_widest() -> None:
    stream = io.StringIO()
    Plain(stream).table(("A", "B"), [("x", Cell("word " * 20)), ("longer", "y")])
    lines = stream.getvalue().splitlines()
    assert lines[0] == "A       B"
    assert lines[-1] == "longer  y"
    assert len(lines) == 4
