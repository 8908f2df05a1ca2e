"""How results reach the reader: aligned plain text, or rich's tables on a terminal.

Everything printed passes :func:`printable`: what plugins call themselves is
other people's text, and a terminal obeys what it is sent.
"""

from __future__ import annotations

import os
import textwrap
from abc import ABC, abstractmethod
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, TextIO

__all__ = [
    "WIDTH",
    "Cell",
    "Output",
    "Plain",
    "Rich",
    "Row",
    "Show",
    "Tone",
    "output_for",
    "printable",
]

#: Columns that everything fits into.
WIDTH: Final = 80

#: Columns that a picture takes at most: beyond that the eye does not find its way across.
_WIDEST: Final = 140

_GAP: Final = 2


class Tone(StrEnum):
    """What a colour would say; plain text says it without. Values are rich's styles."""

    NONE = ""
    GOOD = "green"
    CAREFUL = "yellow"
    BAD = "red"
    NOTE = "cyan"
    FAINT = "dim"
    STRONG = "bold"


class Cell(NamedTuple):
    """A piece of text with its tone."""

    text: str
    tone: Tone = Tone.NONE


Row: TypeAlias = "Sequence[Cell | str]"
Show: TypeAlias = "Callable[[Sequence[Sequence[Cell]]], None]"


def printable(text: str) -> str:
    """The text in one line, without anything that a terminal would obey or hide.

    Control characters, escape sequences, direction overrides and invisible
    format characters become visible escapes.
    """
    flat = " ".join(text.split())
    if flat.isprintable():
        return flat
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in flat
    )


class Output(ABC):
    """Where results go."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    @abstractmethod
    def width(self) -> int:
        """Columns that a picture may take."""

    @abstractmethod
    def line(self, pieces: Sequence[Cell]) -> None:
        """Pieces of a picture beside each other, spaces and all; they have to fit."""

    def live(self) -> AbstractContextManager[Show | None]:
        """While a picture changes: what shows it as it is now, in place of what was shown.

        ``None``: here it cannot be shown until it is finished. At the end it vanishes.
        """
        return nullcontext()

    @abstractmethod
    def heading(self, text: str = "", *, name: str = "") -> None:
        """The title of what follows, with an empty line before it if something precedes.

        Args:
            text: May be shown in capitals.
            name: Stands before it as it is.
        """

    @abstractmethod
    def text(self, text: str, tone: Tone = Tone.NONE, *, indent: int = 0, hang: int = 0) -> None:
        """A paragraph.

        Args:
            text: Wrapped to the width.
            tone: Of all of it.
            indent: Spaces before its lines.
            hang: Further spaces before all lines but the first.
        """

    @abstractmethod
    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Row],
        *,
        indent: int = 0,
        widths: Sequence[int] | None = None,
    ) -> None:
        """A table; cells that do not fit are wrapped.

        Args:
            columns: Headings; all empty for a table without.
            rows: As many cells each as there are columns.
            indent: Spaces before its lines.
            widths: Of the columns, where further rows come later; ``None``: as
                these rows need.
        """


def _cell(cell: Cell | str) -> Cell:
    text, tone = cell if isinstance(cell, Cell) else (cell, Tone.NONE)
    return Cell(printable(text), tone)


class Plain(Output):
    """Aligned text of at most :data:`WIDTH` columns, for pipes, files and bare terminals."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._begun = False

    def _print(self, line: str = "") -> None:
        self._begun = True
        self.stream.write(f"{line.rstrip()}\n")

    @property
    def width(self) -> int:
        """Always the same."""
        return WIDTH

    def line(self, pieces: Sequence[Cell]) -> None:
        """Without tones."""
        self._print("".join(piece.text for piece in pieces))

    def heading(self, text: str = "", *, name: str = "") -> None:
        """In capitals."""
        if self._begun:
            self._print()
        self._print(f"{printable(name)} {printable(text).upper()}".strip())

    def text(self, text: str, tone: Tone = Tone.NONE, *, indent: int = 0, hang: int = 0) -> None:
        """Wrapped."""
        for line in _wrapped(printable(text), WIDTH, indent, hang):
            self._print(line)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Row],
        *,
        indent: int = 0,
        widths: Sequence[int] | None = None,
    ) -> None:
        """Aligned."""
        cells = [[_cell(cell).text for cell in row] for row in rows]
        if any(columns):
            cells.insert(0, list(columns))
        widths = widths or _fitted(cells, WIDTH - indent)
        for row in cells:
            wrapped = [
                _wrapped(text, width) or [""] for text, width in zip(row, widths, strict=True)
            ]
            for index in range(max(map(len, wrapped))):
                pieces = (
                    (lines[index] if index < len(lines) else "").ljust(width)
                    for lines, width in zip(wrapped, widths, strict=True)
                )
                self._print(" " * indent + (" " * _GAP).join(pieces))


def _wrapped(text: str, width: int, indent: int = 0, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_on_hyphens=False,
    )


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Widths of columns; the widest give way until all of it fits."""
    widths = [max(1, *map(len, column)) for column in zip(*rows, strict=True)]
    room = max(width - _GAP * (len(widths) - 1), len(widths))
    while sum(widths) > room:
        widest = max(widths)
        widths[widths.index(widest)] = widest - 1
    return widths


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


class Rich(Output):
    """Tables and colours by rich, as wide as the terminal."""

    def __init__(self, stream: TextIO, **console: Any) -> None:
        super().__init__(stream)
        from rich.console import Console

        # No markup, emoji or highlighting: text is text.
        self._console: Any = Console(
            file=stream, markup=False, emoji=False, highlight=False, **console
        )
        self._begun = False

    def _print(self, what: Any = "") -> None:
        self._begun = True
        self._console.print(what)

    @property
    def width(self) -> int:
        """That of the terminal, at most :data:`_WIDEST`."""
        return min(int(self._console.width), _WIDEST)

    def line(self, pieces: Sequence[Cell]) -> None:
        """In colours."""
        self._print(self._assembled(pieces))

    @contextmanager
    def live(self) -> Generator[Show]:
        """The last lines of the terminal, as many as fit."""
        from rich.console import Group
        from rich.live import Live

        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            yield lambda lines: live.update(Group(*map(self._assembled, lines)), refresh=True)

    def heading(self, text: str = "", *, name: str = "") -> None:
        """Bold."""
        if self._begun:
            self._print()
        self._print(self._styled(Cell(f"{name} {text}", Tone.STRONG)))

    def text(self, text: str, tone: Tone = Tone.NONE, *, indent: int = 0, hang: int = 0) -> None:
        """Wrapped to the terminal, at most :data:`WIDTH`."""
        from rich.padding import Padding

        width = min(self._console.width, WIDTH)
        for line in _wrapped(printable(text), width, indent, hang):
            self._print(
                Padding(self._styled(Cell(line, tone)), (0, 0, 0, _indent_of(line)), expand=False)
            )

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Row],
        *,
        indent: int = 0,
        widths: Sequence[int] | None = None,
    ) -> None:
        """Headings with a rule below."""
        from rich.box import SIMPLE_HEAD
        from rich.padding import Padding
        from rich.table import Table

        titled = any(columns)
        table = Table(
            box=SIMPLE_HEAD if titled else None,
            show_header=titled,
            show_edge=False,
            pad_edge=False,
            header_style=str(Tone.STRONG),
        )
        for index, column in enumerate(columns):
            table.add_column(
                column, overflow="fold", width=None if widths is None else widths[index]
            )
        for row in rows:
            table.add_row(*(self._styled(cell) for cell in row))
        self._print(Padding(table, (0, 0, 0, indent), expand=False))

    @staticmethod
    def _assembled(pieces: Sequence[Cell]) -> Any:
        from rich.text import Text

        return Text.assemble(
            *((piece.text, str(piece.tone)) for piece in pieces), no_wrap=True, overflow="crop"
        )

    @staticmethod
    def _styled(cell: Cell | str) -> Any:
        from rich.text import Text

        clean = _cell(cell)
        return Text(clean.text, style=str(clean.tone))


def output_for(stream: TextIO) -> Output:
    """Rich's on a terminal where rich is installed, else plain."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        try:
            return Rich(stream)
        except ImportError:  # the extra "cli" is not installed
            pass
    return Plain(stream)
