"""The picture of an establishment in a terminal, in a file, and as a page."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import FAILED, HOLE, REPORTS, RUNNING, SIX, UDP, attempt, candidate
from reports import name as named
from reports import report as made

from taps_core.cli.drawing import ASCII, UNICODE, draw, frame, glyphs_for, picture
from taps_core.cli.output import WIDTH, Plain, Rich
from taps_core.cli.page import figure, page
from taps_core.cli.waterfall import columns, waterfall

needs_rich = pytest.mark.skipif(
    importlib.util.find_spec("rich") is None, reason="rich belongs to the extra cli"
)

EVIL = "</title><script>alert(1)</script>\"'><img src=http://evil.example/x.png>\x1b[2J\u202e&amp;"


class Utf8(io.StringIO):
    encoding = "utf-8"


def plain(told: Any) -> str:
    stream = Utf8()
    draw(Plain(stream), waterfall(told))
    return stream.getvalue()


def lines(told: Any, width: int, glyphs: Any = UNICODE) -> list[str]:
    return [
        "".join(piece.text for piece in line).rstrip()
        for line in picture(waterfall(told), width, glyphs)
    ]


# -- characters


def test_the_picture_of_a_black_hole() -> None:
    assert lines(HOLE, 80) == [
        "                                 0       100      200   300 ms",
        "                                 ┬────────┬────────┬───────┬───────",
        "A  server.example:443            ░◆                                  2 addresses",
        "1  TLS/TCP to [2001:db8::1]:443   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┤  cancelled",
        "2  TLS/TCP to 192.0.2.1:443       ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄━━━━━▓▓▓▓▓✓  won",
        "-  TLS/TCP to 192.0.2.2:443                                          never tried",
    ]


def test_a_terminal_without_such_characters_gets_others() -> None:
    assert glyphs_for("utf-8") is UNICODE
    assert glyphs_for("ascii") is glyphs_for("latin-1") is glyphs_for(None) is ASCII
    assert glyphs_for("no such encoding") is ASCII
    assert "".join(lines(FAILED, 100, ASCII)).isascii()


def test_a_narrow_picture_has_its_labels_above_its_bars() -> None:
    assert lines(FAILED, 44)[2:] == [
        "A  server.example:443",
        "   ◆                             2 addresses",
        "1  TLS/TCP to [2001:db8::1]:443",
        "   ━✗                            failed",
        "2  TLS/TCP to 192.0.2.1:443",
        "    ━━━━▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓✗  failed",
    ]


@given(REPORTS, st.integers(20, 200))
def test_a_picture_of_anything_fits_and_is_not_obeyed(told: Any, width: int) -> None:
    for pieces in frame(waterfall(told, now=1.0), width, UNICODE):
        line = "".join(piece.text for piece in pieces)
        assert columns(line.rstrip()) <= width
        assert line.isprintable()


def test_what_happened_is_told_below_with_a_legend_of_what_there_is() -> None:
    out = plain(HOLE)
    assert out.startswith("Connected after 374 ms: TLS/TCP to 192.0.2.1:443\n\n")
    assert "▓▓ connected; handshake above it, such as TLS" in out
    assert "✓ ready" in out
    flat = " ".join(out.split())
    assert "2 TLS/TCP to 192.0.2.1:443. Tried 250 ms after attempt 1 had begun" in flat
    assert "✗" not in out
    assert "waiting" not in plain(UDP)
    assert all(columns(line) <= WIDTH for line in out.splitlines())


@given(REPORTS)
def test_nothing_that_is_told_is_obeyed_by_a_terminal(told: Any) -> None:
    assert all(char.isprintable() or char == "\n" for char in plain(told))


@needs_rich
@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("told", [HOLE, FAILED, UDP, RUNNING], ids=["hole", "fail", "udp", "run"])
def test_a_terminal_of_any_width_shows_it_in_colours(told: Any, width: int) -> None:
    stream = Utf8()
    output = Rich(stream, width=width, force_terminal=True, color_system="standard", record=True)
    draw(output, waterfall(told))
    text = output._console.export_text(clear=False)
    assert all(columns(line) <= width for line in text.splitlines())
    fall = waterfall(told)
    assert " ".join(fall.headline.split()) in " ".join(text.split())
    for row in fall.rows:
        last = row.story.split()[-1]
        assert last in text
    assert "\x1b[" in stream.getvalue()


@needs_rich
def test_a_live_picture_vanishes_at_the_end() -> None:
    stream = Utf8()
    output = Rich(stream, width=80, force_terminal=True)
    with output.live() as show:
        for now in (0.1, 0.2):
            show(picture(waterfall(RUNNING, now=now), output.width, UNICODE))
    shown = stream.getvalue()
    assert shown.count("TLS/TCP") >= 2
    # Every line of it is erased.
    assert shown.count("\x1b[2K") >= 2 * len(lines(RUNNING, 80))


# -- the page


class Page(HTMLParser):
    """What is in a page: elements, their attributes, and text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


ELEMENTS = frozenset(
    {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "figure"}
    | {"svg", "desc", "g", "rect", "circle", "line", "path", "text"}
    | {"table", "thead", "tbody", "tr", "th", "td", "b"}
    | {"details", "summary", "code", "pre", "footer"}
)


def check(text: str) -> Page:
    """It is well formed, has nothing but what we draw with, and leads nowhere."""
    read = Page(text)
    assert read.open == []
    assert set(read.tags) <= ELEMENTS
    for tag, attribute, value in read.attributes:
        assert attribute not in ("src", "href", "xlink:href", "srcset", "action", "style", "data")
        assert not attribute.startswith("on")
        assert "url(" not in value
        assert "://" not in value or attribute == "xmlns", (tag, attribute, value)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert "url(" not in style
    assert "@import" not in style
    return read


@pytest.mark.parametrize("told", [HOLE, FAILED, UDP, RUNNING], ids=["hole", "fail", "udp", "run"])
def test_the_page_is_whole_and_refers_to_nothing_outside(told: Any) -> None:
    read = check(page(waterfall(told), told))
    assert "script" not in read.tags
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_the_page_tells_in_text_what_the_picture_shows() -> None:
    text = page(waterfall(HOLE), HOLE)
    read = check(text)
    words = " ".join(" ".join(read.text).replace("\xa0", " ").split())
    for row in waterfall(HOLE).rows:
        assert row.story in words
        assert row.result in words
    assert "waited 250 ms" in words
    assert "connecting 48 ms, handshake 62 ms" in words
    assert "ready at 374 ms" in words
    # For those who hear it: the picture has a name and says what it shows.
    named = {name: value for tag, name, value in read.attributes if tag == "svg"}
    assert named["role"] == "img"
    assert named["aria-labelledby"] == "taps-title taps-told"
    assert ("html", "lang", "en") in read.attributes


def test_the_page_says_below_a_bar_why_an_attempt_failed() -> None:
    assert "connecting 7.0 ms: no route" in page(waterfall(FAILED), FAILED)


def test_the_page_can_be_drawn_again() -> None:
    told = made("ready", 0.1, [attempt(EVIL, 0, 0.1, "ready", error=EVIL)])
    read = check(page(waterfall(told), told))
    (saved,) = [text for text in read.text if '"outcome": "ready"' in text]
    assert json.loads(saved) == told


def test_hostile_names_and_errors_stay_text() -> None:
    told = made(
        "failed",
        1.0,
        [attempt(EVIL, 0.0, 1.0, "failed", error=EVIL, stack=EVIL, local=EVIL, path=EVIL)],
        names=[named(0.5, (0.1, EVIL), asked=EVIL, outcome="failed", error=EVIL)],
        waiting=[candidate(EVIL, EVIL)],
        error=EVIL,
    )
    fall = waterfall(told)
    text = page(fall, told)
    assert "<script" not in text
    assert "<img" not in text
    check(text)
    for char in ("\x1b", "\u202e"):
        assert char not in text
    ElementTree.fromstring(figure(fall))  # our own


@given(REPORTS)
def test_the_page_of_anything_is_well_formed(told: Any) -> None:
    fall = waterfall(told)
    check(page(fall, told))
    root = ElementTree.fromstring(figure(fall))  # our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_long_names_are_shortened_in_the_picture_and_whole_in_the_text() -> None:
    long = "a" * 300 + ".example:443"
    told = made("ready", 0.1, [attempt(long, 0, 0.1, "ready")])
    text = page(waterfall(told), told)
    assert long in text
    (place,) = re.findall(r'<text class="place"[^>]*>([^<]*)</text>', text)
    assert len(place) < 50
    assert "…" in place


def test_the_one_that_won_is_marked() -> None:
    drawn = figure(waterfall(HOLE))
    assert drawn.count('class="band"') == 1
    assert drawn.count('class="sign won"') == 2  # in the picture and in its legend
    # One that is not over has no such end.
    assert "end won" in drawn
    assert 'class="end' not in figure(waterfall(RUNNING))


def test_attempts_of_one_host_with_no_time_between_are_drawn_all_the_same() -> None:
    told = made("ready", 0.0, [attempt(SIX, 0.0, 0.0, "ready")])
    assert lines(told, 80)
    check(page(waterfall(told), told))
