"""The picture of an establishment in characters, for a terminal or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from taps_core.cli.output import Cell, Tone, printable
from taps_core.cli.waterfall import Fate, Kind, Phase, columns, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.cli.output import Output
    from taps_core.cli.waterfall import Row, Waterfall

__all__ = ["ASCII", "UNICODE", "Glyphs", "draw", "frame", "glyphs_for", "picture"]

#: Columns that a chart has at least; if labels leave less, they stand above it.
_LEAST_CHART: Final = 28
#: Part of the width that labels take at most.
_LABELS: Final = 0.45
_GAP: Final = 2
#: Columns from one number at the axis to the next, at least.
_TICK: Final = 6


class Glyphs(NamedTuple):
    """The characters that a picture is made of."""

    phases: Mapping[Phase, str]
    ends: Mapping[Fate, str]
    arrival: str
    line: str
    tick: str


UNICODE: Final = Glyphs(
    {
        Phase.ASKING: "░",
        Phase.DELAY: "┄",
        Phase.OPENING: "╍",
        Phase.CONNECTING: "━",
        Phase.HANDSHAKE: "▓",
    },
    {Fate.WON: "✓", Fate.FAILED: "✗", Fate.CANCELLED: "┤", Fate.RUNNING: "▸"},
    "◆",
    "─",
    "┬",
)
ASCII: Final = Glyphs(
    {
        Phase.ASKING: "?",
        Phase.DELAY: ".",
        Phase.OPENING: "~",
        Phase.CONNECTING: "-",
        Phase.HANDSHAKE: "=",
    },
    {Fate.WON: "V", Fate.FAILED: "X", Fate.CANCELLED: "|", Fate.RUNNING: ">"},
    "o",
    "-",
    "+",
)
_PHASES: Final = {
    Phase.ASKING: Tone.NOTE,
    Phase.DELAY: Tone.FAINT,
    Phase.OPENING: Tone.NOTE,
    Phase.CONNECTING: Tone.NOTE,
    Phase.HANDSHAKE: Tone.CAREFUL,
}
_FATES: Final = {
    Fate.RUNNING: Tone.NONE,
    Fate.WON: Tone.GOOD,
    Fate.FAILED: Tone.BAD,
    Fate.CANCELLED: Tone.FAINT,
    Fate.FOUND: Tone.NONE,
    Fate.UNTRIED: Tone.FAINT,
}


def glyphs_for(encoding: str | None) -> Glyphs:
    """Those that can be written in an encoding."""
    everything = "".join([*UNICODE.phases.values(), *UNICODE.ends.values(), *UNICODE[2:], "…"])
    try:
        everything.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def draw(output: Output, fall: Waterfall) -> None:
    """Print it all: the picture, what its signs mean, and what happened, in sentences."""
    glyphs = glyphs_for(getattr(output.stream, "encoding", None))
    output.text(fall.headline, _FATES[fall.fate] or Tone.STRONG)
    if not fall.rows:
        return
    output.line(())
    for line in picture(fall, output.width, glyphs):
        output.line(line)
    output.line(())
    for line in _legend(fall, glyphs, output.width):
        output.line(line)
    output.heading("What happened")
    if fall.lead:
        output.text(fall.lead, Tone.FAINT)
        output.line(())
    output.table(
        ("", ""),
        [
            (Cell(row.mark, _FATES[row.fate]), Cell(_told(row), _told_tone(row)))
            for row in fall.steps
        ],
    )


def _told(row: Row) -> str:
    return row.story if row.kind is Kind.NAME else f"{row.label}. {row.story}"


def _told_tone(row: Row) -> Tone:
    return Tone.FAINT if row.fate is Fate.UNTRIED else Tone.NONE


def frame(fall: Waterfall, width: int, glyphs: Glyphs) -> list[Sequence[Cell]]:
    """What is shown of one that runs, as lines of at most ``width`` columns."""
    head = Cell(shortened(printable(fall.headline), width), Tone.STRONG)
    return [(head,), (), *picture(fall, width, glyphs)]


def picture(fall: Waterfall, width: int, glyphs: Glyphs) -> list[Sequence[Cell]]:
    """Axis and rows, as lines of at most ``width`` columns.

    Args:
        fall: What is to be seen.
        width: Columns there are, at least 20.
        glyphs: Characters to use.
    """
    results = max((columns(printable(row.result)) for row in fall.rows), default=0)
    marks = max((columns(row.mark) for row in fall.rows), default=1)
    labels = [printable(row.label) for row in fall.rows]
    most = int(width * _LABELS) - marks - _GAP
    label_width = min(max(map(columns, labels), default=0), most)
    chart = width - marks - label_width - results - 3 * _GAP
    above = chart < _LEAST_CHART
    if above:
        label_width = width - marks - _GAP
        chart = width - marks - results - 2 * _GAP
    lead = marks + _GAP + (0 if above else label_width + _GAP)
    lines: list[Sequence[Cell]] = [
        (Cell(" " * lead), piece) for piece in _axis(fall, chart, glyphs)
    ]
    for row, label in zip(fall.rows, labels, strict=True):
        tone = _label_tone(row)
        shown = shortened(label, label_width)
        padding = " " * (label_width - columns(shown))
        mark = Cell(row.mark.rjust(marks) + " " * _GAP, _FATES[row.fate])
        bars = _bars(row, fall.span, chart, glyphs)
        result = Cell(" " * _GAP + shortened(printable(row.result), results), _FATES[row.fate])
        if above:
            lines.append((mark, Cell(shown, tone)))
            lines.append((Cell(" " * lead), *bars, result))
        else:
            lines.append((mark, Cell(shown + padding + " " * _GAP, tone), *bars, result))
    return lines


def _label_tone(row: Row) -> Tone:
    if row.fate is Fate.WON:
        return Tone.STRONG
    return Tone.FAINT if row.fate is Fate.UNTRIED else Tone.NONE


def _axis(fall: Waterfall, width: int, glyphs: Glyphs) -> list[Cell]:
    """Numbers, and the line below them."""
    numbers, line = [" "] * (width + _TICK), [glyphs.line] * width
    free = 0
    ticks = fall.ticks(max(width // _TICK, 2))
    for index, tick in enumerate(ticks):
        at = _column(tick, fall.span, width)
        line[at] = glyphs.tick
        text = f"{tick * 1000:g}" + (" ms" if index == len(ticks) - 1 else "")
        begin = min(max(at - len(text) // 2, 0), width - len(text))
        if begin >= free:
            numbers[begin : begin + len(text)] = text
            free = begin + len(text) + 1
    return [
        Cell("".join(numbers[:width]).rstrip(), Tone.FAINT),
        Cell("".join(line), Tone.FAINT),
    ]


def _column(time: float, span: float, width: int) -> int:
    return min(round(time / span * (width - 1)), width - 1)


def _bars(row: Row, span: float, width: int, glyphs: Glyphs) -> list[Cell]:
    """Of exactly ``width`` columns."""
    signs: list[Cell] = [Cell(" ")] * width
    for bar in row.bars:
        first, last = (_column(time, span, width) for time in (bar.start, bar.end))
        signs[first : last + 1] = [Cell(glyphs.phases[bar.phase], _PHASES[bar.phase])] * (
            last + 1 - first
        )
    for at in row.arrivals:
        signs[_column(at, span, width)] = Cell(glyphs.arrival, Tone.GOOD)
    if row.bars and row.fate in glyphs.ends:
        end = Cell(glyphs.ends[row.fate], _FATES[row.fate])
        signs[_column(row.bars[-1].end, span, width)] = end
    return _joined(signs)


def _joined(signs: Sequence[Cell]) -> list[Cell]:
    joined: list[Cell] = []
    for sign in signs:
        if joined and joined[-1].tone == sign.tone:
            joined[-1] = Cell(joined[-1].text + sign.text, sign.tone)
        else:
            joined.append(sign)
    return joined


def _legend(fall: Waterfall, glyphs: Glyphs, width: int) -> list[Sequence[Cell]]:
    """What the signs mean, those that there are."""
    entries = [(Cell(glyphs.phases[each] * 2, _PHASES[each]), each.value) for each in fall.phases]
    if fall.arrivals:
        entries.append((Cell(glyphs.arrival, Tone.GOOD), "an address came"))
    entries += [(Cell(glyphs.ends[each], _FATES[each]), each.meaning) for each in fall.fates]
    lines: list[Sequence[Cell]] = []
    line: list[Cell] = []
    used = 0
    for sign, meaning in entries:
        size = columns(sign.text) + 1 + columns(meaning)
        if line and used + 3 + size > width:
            lines.append(line)
            line, used = [], 0
        if line:
            line.append(Cell("   "))
            used += 3
        room = max(width - columns(sign.text) - 1, 0)
        line += [sign, Cell(f" {shortened(meaning, room)}", Tone.FAINT)]
        used += size
    return [*lines, line] if line else lines
