"""Where system policy is written down: TOML files of the machine and of its user.

They are read once, with the plugins, off the loop; ``System.refresh()`` reads them anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taps_core.model.errors import PolicyError
from taps_core.planning.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["MACHINE", "VARIABLE", "policy_files", "read_policy"]

#: Environment variable with the names of the files to read in place of the usual ones.
VARIABLE: Final = "TAPS_POLICY"

#: The machine's.
MACHINE: Final = "/etc/taps/policy.toml"

#: A key at the beginning of a line, quoted or not, dots included.
_KEY: Final = re.compile(r"""\s*((?:[\w.-]|\s*\.\s*|"[^"]*"|'[^']*')+?)\s*=""")
_HEADER: Final = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")


def policy_files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files to read, in the order in which they count: the last has the last word.

    ``TAPS_POLICY`` names them, separated as in ``PATH``, and they must exist; set, but
    empty, it means none. Without it they are the machine's and the user's, where they
    exist: ``/etc/taps/policy.toml`` and ``taps/policy.toml`` in ``XDG_CONFIG_HOME``
    (``~/.config``).

    Args:
        environ: In place of the process's environment.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(VARIABLE)
    if named is not None:
        return [Path(each) for each in named.split(os.pathsep) if each]
    files = [Path(MACHINE)]
    # Relative paths in it are invalid: XDG Base Directory Specification.
    config = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):
        home = environ.get("HOME")
        config = os.path.join(home, ".config") if home else ""
    if config:
        files.append(Path(config, "taps", "policy.toml"))
    return [each for each in files if each.exists()]


def read_policy(files: Iterable[str | os.PathLike[str]]) -> Policy:
    """What these files say, merged.

    Args:
        files: In the order in which they count.

    Raises:
        PolicyError: With ``file``, and ``line`` where it is known: one cannot be read, or
            is no policy.
    """
    policy = Policy()
    for file in files:
        policy = policy.then(_read(os.fspath(file)))
    return policy


def _read(file: str) -> Policy:
    import tomllib  # only where there is a file

    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(error.strerror or str(error), file=file) from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"it is not UTF-8: {error}", file=file) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
        found = _AT_LINE.search(problem)
        line = int(found[1]) if found else text.count("\n") + 1
        raise PolicyError(_AT_LINE.sub("", problem), file=file, line=line) from error
    try:
        return Policy.read(tables, file)
    except PolicyError as error:
        where = _line_of(text, error.key)
        raise PolicyError(error.problem, key=error.key, file=file, line=where) from None


def _line_of(text: str, key: tuple[str | int, ...]) -> int | None:
    """The line that says most of the way to ``key``, the first of these.

    ``tomllib`` keeps no lines. Only what stands at the beginning of one is looked at, so a
    key in an inline table has the line of its table.
    """
    best, line = 0, None
    for number, way in _ways(text):
        common = 0
        for one, other in zip(way, key, strict=False):
            if one != other:
                break
            common += 1
        if common == len(way) and common > best:
            best, line = common, number
    return line


def _ways(text: str) -> Iterator[tuple[int, tuple[str | int, ...]]]:
    """Line → the way from the outside in to the table or key that begins there."""
    table: tuple[str | int, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            parts = _parts(header[2])
            if header[1] == "[[" and len(parts) == 1:
                counts[parts[0]] = counts.get(parts[0], 0) + 1
            first = parts[:1]
            table = (*first, *(counts[each] for each in first if each in counts), *parts[1:])
            yield number, table
        elif key := _KEY.match(line):
            yield number, (*table, *_parts(key[1]))


def _parts(dotted: str) -> list[str]:
    return [each.strip("\"'") for each in _PART.findall(dotted)]
