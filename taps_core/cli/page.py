"""The picture of an establishment as a page, or as an SVG image: complete, without scripts.

Nothing in it leads anywhere else, so that it can be opened from a file, mailed and
printed. What it says comes from the network, from plugins, or from a file: everything
passes :func:`_escaped`.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any, Final

from taps_core.cli.output import printable
from taps_core.cli.waterfall import Fate, Kind, Phase, columns, in_ms, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.cli.waterfall import Bar, Row, Waterfall

__all__ = ["figure", "page"]

# All in units of the image, which are pixels as long as there is room for it.
_WIDTH: Final = 960
_LABELS: Final = 316
_RESULTS: Final = 118
_CHART: Final = _WIDTH - _LABELS - _RESULTS
_TOP: Final = 42
_ROW: Final = 50
_BAR: Final = 14
_MARK: Final = 30
_TICKS: Final = 7
#: Widths of a character of text, and of what is small.
_TITLE: Final = 7.9
_PLACE: Final = 7.0
_SMALL: Final = 6.3
_LEGEND: Final = 22

_CLASSES: Final = {
    Phase.ASKING: "asking",
    Phase.DELAY: "delay",
    Phase.OPENING: "opening",
    Phase.CONNECTING: "connecting",
    Phase.HANDSHAKE: "handshake",
}
_FATES: Final = {
    Fate.RUNNING: "running",
    Fate.WON: "won",
    Fate.FAILED: "failed",
    Fate.CANCELLED: "cancelled",
    Fate.FOUND: "found",
    Fate.UNTRIED: "untried",
}
#: Paths of the signs at the end of a bar, around its end.
_SIGNS: Final = {
    Fate.WON: "M-5 0 L-1.5 4 L5 -4.5",
    Fate.FAILED: "M-4 -4 L4 4 M-4 4 L4 -4",
    Fate.CANCELLED: "M0 -7 L0 7",
    Fate.RUNNING: "M-3 -5 L3 0 L-3 5",
}
_COLOURS: Final = """\
.taps{--paper:#fff;--text:#1a1f27;--faint:#5d6673;--grid:#e3e6eb;--band:#eaf6ee;
--asking:#8b96a8;--connecting:#2c6fd6;--handshake:#b45f06;--good:#13773d;--bad:#b3261e}
@media (prefers-color-scheme:dark){.taps{--paper:#14181f;--text:#e8ebf0;--faint:#a2acba;
--grid:#2c333e;--band:#16301f;--asking:#76829a;--connecting:#6ea3f5;--handshake:#e7a04b;
--good:#5fd08a;--bad:#ff8a80}}
"""

_FIGURE: Final = """\
.taps text{font:13px ui-sans-serif,system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:var(--text)}
.taps .title{font-weight:600}
.taps .place,.taps .small{font-family:ui-monospace,"SF Mono","DejaVu Sans Mono",monospace}
.taps .place{font-size:11.5px;fill:var(--faint)}
.taps .small{font-size:10.5px;fill:var(--faint)}
.taps .mark{font-weight:600;text-anchor:middle}
.taps .ring{fill:none;stroke:var(--faint);stroke-width:1.2}
.taps .grid{stroke:var(--grid);stroke-width:1}
.taps .band{fill:var(--band)}
.taps .asking{fill:var(--asking)}
.taps .opening,.taps .connecting{fill:var(--connecting)}
.taps .handshake{fill:var(--handshake)}
.taps .lost{opacity:.55}
.taps .delay{stroke:var(--faint);stroke-width:1.6;stroke-dasharray:2 4;stroke-linecap:round}
.taps .sign{fill:none;stroke:var(--faint);stroke-width:2.4;
stroke-linecap:round;stroke-linejoin:round}
.taps .halo{fill:none;stroke:var(--paper);stroke-width:6.5;stroke-linecap:round}
.taps .sign.won{stroke:var(--good)}
.taps .sign.failed{stroke:var(--bad)}
.taps .arrival{fill:var(--paper);stroke:var(--good);stroke-width:2}
.taps text.won{fill:var(--good);font-weight:600}
.taps text.failed{fill:var(--bad);font-weight:600}
.taps text.cancelled,.taps text.untried{fill:var(--faint)}
.taps .end{stroke:var(--faint);stroke-width:1.4;stroke-dasharray:5 4}
.taps .end.won{stroke:var(--good)}
.taps .end.failed{stroke:var(--bad)}
"""

_PAGE: Final = """\
:root{color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--text);
font:16px/1.5 ui-sans-serif,system-ui,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem;overflow-wrap:anywhere}
h1.won{color:var(--good)}
h1.failed{color:var(--bad)}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
figure{margin:1.25rem 0;overflow-x:auto}
figure svg{display:block;width:100%;min-width:660px;height:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.4rem .75rem .4rem 0;
border-top:1px solid var(--grid);overflow-wrap:anywhere}
thead th{border-top:0;white-space:nowrap;color:var(--faint);font-weight:600;font-size:.85rem}
td.at{white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums}
td.won{color:var(--good);font-weight:600}
td.failed{color:var(--bad);font-weight:600}
td.cancelled,td.untried{color:var(--faint)}
td.fate{white-space:nowrap}
td b{display:block}
summary{cursor:pointer;margin-top:2rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;background:var(--band);padding:.75rem}
footer{margin-top:2rem;color:var(--faint);font-size:.85rem}
@media print{body{font-size:11pt}main{max-width:none;padding:0}details,footer{display:none}
.taps{--paper:#fff;--text:#000;--faint:#444;--grid:#bbb;--band:#eee;--asking:#8b96a8;
--connecting:#2c6fd6;--handshake:#b45f06;--good:#13773d;--bad:#b3261e}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}tr,svg{break-inside:avoid}}
"""


def page(fall: Waterfall, told: Any) -> str:
    """A page of HTML.

    Args:
        fall: The picture.
        told: What it was made of, to be drawn again from the page.
    """
    lead = f"<p>{_escaped(fall.lead)}</p>\n" if fall.lead else ""
    picture = f"<figure>\n{figure(fall, inline=True)}</figure>\n" if fall.rows else ""
    steps = _steps(fall.steps) if fall.rows else ""
    return f"""\
<!DOCTYPE html>
<html lang="en" class="taps">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escaped(fall.headline)}</title>
<style>
{_COLOURS}{_FIGURE}{_PAGE}</style>
</head>
<body>
<main>
<h1 class="{_FATES[fall.fate]}">{_escaped(fall.headline)}</h1>
{lead}{picture}{steps}<details>
<summary>The report, for <code>taps-plugins race --from</code></summary>
<pre>{html.escape(json.dumps(told, indent=2))}</pre>
</details>
<footer>Drawn by <code>taps-plugins race</code>. Times count from the beginning.</footer>
</main>
</body>
</html>
"""


def _steps(rows: Sequence[Row]) -> str:
    """What happened, as a table of sentences."""
    lines = []
    for row in rows:
        start = next((bar.start for bar in row.bars if bar.phase is not Phase.DELAY), None)
        at = "" if start is None else in_ms(start)
        fate = _FATES[row.fate]
        lines.append(
            f'<tr><th scope="row">{_escaped(row.mark)}</th><td class="at">{at}</td>'
            f"<td><b>{_escaped(row.label)}</b> {_unbroken(_escaped(row.story))}</td>"
            f'<td class="fate {fate}">{_escaped(row.result)}</td></tr>\n'
        )
    return f"""\
<h2>What happened, step by step</h2>
<table>
<thead><tr><th scope="col"></th><th scope="col">Began at</th><th scope="col">What</th>\
<th scope="col">Result</th></tr></thead>
<tbody>
{"".join(lines)}</tbody>
</table>
"""


def _unbroken(escaped: str) -> str:
    """No line ends between a number and its unit."""
    return re.sub(r"(\d) (m?s)\b", r"\1&nbsp;\2", escaped)


def _escaped(text: str) -> str:
    return html.escape(printable(text))


# -- the image


def figure(fall: Waterfall, *, inline: bool = False) -> str:
    """An SVG image.

    Args:
        fall: The picture.
        inline: As a part of a page that has the styles and the headline, else a file of
            its own.
    """
    chart_end = _TOP + _ROW * len(fall.rows)
    legend, height = _legend(fall, chart_end + 34)
    body = "".join(
        [
            *(
                f'<rect class="band" x="0" y="{_TOP + _ROW * index}" width="{_WIDTH}" '
                f'height="{_ROW - 4}" rx="6"/>\n'
                for index, row in enumerate(fall.rows)
                if row.fate is Fate.WON
            ),
            _grid(fall, chart_end),
            *(_row(fall, row, _TOP + _ROW * index) for index, row in enumerate(fall.rows)),
            legend,
        ]
    )
    told = " ".join(f"{row.label}: {row.story}" for row in fall.rows)
    head, style, shift = 'class="taps"', "", 0
    if not inline:
        shift = 40
        head += f' xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height + shift}"'
        style = (
            f"<style>\n{_COLOURS}{_FIGURE}.taps .head{{font-size:17px;font-weight:600}}\n</style>\n"
            f'<rect width="{_WIDTH}" height="{height + shift}" fill="var(--paper)"/>\n'
            f'<text class="head {_FATES[fall.fate]}" x="12" y="28">'
            f"{_escaped(shortened(printable(fall.headline), 100))}</text>\n"
        )
        body = f'<g transform="translate(0 {shift})">\n{body}</g>\n'
    return (
        f'<svg {head} viewBox="0 0 {_WIDTH} {height + shift}" role="img" '
        'aria-labelledby="taps-title taps-told">\n'
        f'<title id="taps-title">{_escaped(fall.headline)}</title>\n'
        f'<desc id="taps-told">{_escaped(told)}</desc>\n{style}{body}</svg>\n'
    )


def _x(fall: Waterfall, time: float) -> float:
    return round(_LABELS + min(time / fall.span, 1) * _CHART, 1)


def _grid(fall: Waterfall, bottom: int) -> str:
    parts = []
    ticks = fall.ticks(_TICKS)
    for index, tick in enumerate(ticks):
        x = _x(fall, tick)
        text = f"{tick * 1000:g}" + (" ms" if index == len(ticks) - 1 else "")
        parts.append(
            f'<line class="grid" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{bottom}"/>\n'
            f'<text class="small" x="{x}" y="{_TOP - 16}" text-anchor="middle">{text}</text>\n'
        )
    if fall.ended is not None:
        x = _x(fall, fall.ended)
        words = {Fate.WON: "ready", Fate.FAILED: "failed"}.get(fall.fate, "given up")
        fate = _FATES[fall.fate]
        parts.append(
            f'<line class="end {fate}" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{bottom + 4}"/>\n'
            f'<text class="small {fate}" x="{x}" y="{bottom + 16}" text-anchor="middle">'
            f"{words} at {in_ms(fall.ended)}</text>\n"
        )
    return "".join(parts)


def _row(fall: Waterfall, row: Row, top: int) -> str:
    fate = _FATES[row.fate]
    middle = top + 18
    room = _LABELS - _MARK - 16
    title, place = printable(row.title), printable(row.place)
    parts = ["<g>\n", f"<title>{_escaped(row.label)}. {_escaped(row.story)}</title>\n"]
    ring = 9 if row.kind is not Kind.WAITING else 0
    if ring:
        parts.append(f'<circle class="ring" cx="16" cy="{middle}" r="{ring}"/>\n')
    mark = row.mark if ring else "-"
    parts.append(
        f'<text class="mark" x="16" y="{middle + 4.5}">{_escaped(mark)}</text>\n'
        f'<text class="title {fate if row.fate is Fate.UNTRIED else ""}" x="{_MARK}" '
        f'y="{middle + (0 if place else 4.5)}">'
        f"{_escaped(shortened(title, int(room / _TITLE)))}</text>\n"
    )
    if place:
        parts.append(
            f'<text class="place" x="{_MARK}" y="{middle + 16}">'
            f"{_escaped(shortened(place, int(room / _PLACE)))}</text>\n"
        )
    parts += [_bar(fall, row, bar, middle) for bar in row.bars]
    if row.bars:
        parts.append(_captions(fall, row, middle))
    for at in row.arrivals:
        parts.append(f'<circle class="arrival" cx="{_x(fall, at)}" cy="{middle}" r="4"/>\n')
    if row.bars and row.fate in _SIGNS:
        x = _x(fall, row.bars[-1].end)
        where = f'd="{_SIGNS[row.fate]}" transform="translate({x} {middle})"'
        parts.append(f'<path class="halo" {where}/>\n<path class="sign {fate}" {where}/>\n')
    parts.append(
        f'<text class="{fate}" x="{_WIDTH - _RESULTS + 18}" y="{middle + 4.5}">'
        f"{_escaped(row.result)}</text>\n</g>\n"
    )
    return "".join(parts)


def _bar(fall: Waterfall, row: Row, bar: Bar, middle: int) -> str:
    left, right = _x(fall, bar.start), _x(fall, bar.end)
    if bar.phase is Phase.DELAY:
        return f'<line class="delay" x1="{left}" y1="{middle}" x2="{right}" y2="{middle}"/>\n'
    lost = " lost" if row.fate in (Fate.CANCELLED, Fate.FAILED) else ""
    thick = _BAR if bar.phase is Phase.HANDSHAKE else _BAR - 6
    return (
        f'<rect class="{_CLASSES[bar.phase]}{lost}" x="{left}" y="{middle - thick // 2}" '
        f'width="{max(round(right - left, 1), 1.5)}" height="{thick}" rx="1.5"/>\n'
    )


_DOING: Final = {
    Phase.ASKING: "asking",
    Phase.DELAY: "waited",
    Phase.OPENING: "opening",
    Phase.CONNECTING: "connecting",
    Phase.HANDSHAKE: "handshake",
}


def _captions(fall: Waterfall, row: Row, middle: int) -> str:
    """How long each bar is, below the bars, where there is room."""
    delay = [bar for bar in row.bars if bar.phase is Phase.DELAY]
    doing = [bar for bar in row.bars if bar.phase is not Phase.DELAY]
    text = ", ".join(f"{_DOING[bar.phase]} {in_ms(bar.end - bar.start)}" for bar in doing)
    if row.error:
        told = f"{text}: {printable(row.error)}"
        text = shortened(told, int(_CHART / _SMALL), keep_end=False)
    left, right = _x(fall, doing[0].start), _x(fall, doing[-1].end)
    size = columns(text) * _SMALL
    anchor, x = "start", left
    if left + size > _WIDTH - _RESULTS + 6:
        anchor, x = "end", max(right, _LABELS + size)
        left = x - size
    parts = [
        f'<text class="small" x="{round(x, 1)}" y="{middle + 20}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>\n"
    ]
    for bar in delay:
        text = f"{_DOING[bar.phase]} {in_ms(bar.end - bar.start)}"
        begin = _x(fall, bar.start)
        if begin + columns(text) * _SMALL < left - 6:
            parts.append(f'<text class="small" x="{begin}" y="{middle + 20}">{text}</text>\n')
    return "".join(parts)


def _legend(fall: Waterfall, top: int) -> tuple[str, int]:
    """What the signs mean, those that there are; and where that ends."""
    entries: list[tuple[str, str]] = []
    for phase in fall.phases:
        if phase is Phase.DELAY:
            sign = '<line class="delay" x1="0" y1="0" x2="22" y2="0"/>'
        else:
            thick = _BAR if phase is Phase.HANDSHAKE else _BAR - 6
            sign = (
                f'<rect class="{_CLASSES[phase]}" x="0" y="{-thick // 2}" width="22" '
                f'height="{thick}" rx="1.5"/>'
            )
        entries.append((sign, phase.value))
    if fall.arrivals:
        entries.append(('<circle class="arrival" cx="11" cy="0" r="4"/>', "an address came"))
    for fate in fall.fates:
        sign = f'<path class="sign {_FATES[fate]}" d="{_SIGNS[fate]}" transform="translate(11 0)"/>'
        entries.append((sign, fate.meaning))
    parts: list[str] = []
    x, y = 12.0, float(top)
    for sign, meaning in entries:
        size = 30 + columns(meaning) * _SMALL + 22
        if x + size > _WIDTH and x > 12:
            x, y = 12.0, y + _LEGEND
        parts.append(
            f'<g transform="translate({round(x, 1)} {y:g})">{sign}'
            f'<text class="small" x="30" y="4">{html.escape(meaning)}</text></g>\n'
        )
        x += size
    return "".join(parts), int(y) + _LEGEND
