"""Finding plugins: entry points of the group ``taps``, and where they come from.

pluggy's own loop stops at the first plugin that fails to import and drops the
second of two equal entry-point names without a word, so this is ours: nothing
is imported here, and what cannot be read becomes a plugin that fails to load.
"""

from __future__ import annotations

import dataclasses
import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from importlib_metadata import IDistribution as Distribution

__all__ = ["ALLOW_VARIABLE", "BLOCK_VARIABLE", "Found", "Gate", "Source", "installed_plugins"]

GROUP: Final = "taps"

#: Environment: comma-separated entry-point names. Set but empty: no plugin.
ALLOW_VARIABLE: Final = "TAPS_PLUGINS"
#: Environment: comma-separated entry-point names to leave out.
BLOCK_VARIABLE: Final = "TAPS_PLUGINS_BLOCK"

THIS_PROGRAM: Final = "this program"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a plugin comes from."""

    plugin: str
    """Entry-point name; for an object given directly, what it is called."""
    distribution: str = ""
    """As its metadata spells it; empty for an object given directly."""
    version: str = ""
    location: str = THIS_PROGRAM
    """Directory it is installed in, or the URL or directory it was installed from."""
    editable: bool = False
    """Whether it runs from its source directory."""

    def __str__(self) -> str:
        return self.distribution or self.plugin

    @property
    def order(self) -> tuple[str, str]:
        """Sort key: normalised distribution, then entry point."""
        return (normalised(self.distribution), self.plugin)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A plugin that is there, not imported yet."""

    source: Source
    load: Callable[[], object]
    """Imports it; may raise whatever its author's code raises."""


def normalised(distribution: str) -> str:
    """The name under which package indexes compare distributions."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class Gate:
    """Which plugins may be loaded: by argument and by environment, both must agree.

    Args:
        allow: Entry-point names; ``None``: all.
        block: Entry-point names to leave out.
        environ: Where ``TAPS_PLUGINS`` and ``TAPS_PLUGINS_BLOCK`` are read.
    """

    def __init__(
        self,
        allow: frozenset[str] | None = None,
        block: frozenset[str] = frozenset(),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._allow: dict[str, frozenset[str]] = {}
        self._block: dict[str, frozenset[str]] = {}
        if allow is not None:
            self._allow["allow="] = allow
        if block:
            self._block["block="] = block
        if ALLOW_VARIABLE in environ:
            self._allow[ALLOW_VARIABLE] = _names(environ[ALLOW_VARIABLE])
        if environ.get(BLOCK_VARIABLE):
            self._block[BLOCK_VARIABLE] = _names(environ[BLOCK_VARIABLE])

    def closed_to(self, plugin: str) -> str | None:
        """Why this plugin may not be loaded, or ``None`` if it may."""
        for origin, names in self._block.items():
            if plugin in names:
                return f"{origin} leaves it out"
        for origin, names in self._allow.items():
            if plugin not in names:
                return f"{origin} does not name it" if names else f"{origin} is empty: no plugin"
        return None

    def asked_for(self) -> Iterator[tuple[str, str]]:
        """Each (origin, entry-point name) that is named as allowed or blocked."""
        for part in (self._allow, self._block):
            for origin, names in part.items():
                for name in sorted(names):
                    yield origin, name


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def installed_plugins() -> list[Found]:
    """Every entry point of the group, sorted by distribution and name."""
    import importlib_metadata  # slow to import, needed once

    found: list[Found] = []
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        try:
            # Parsing all metadata of all distributions would cost tens of
            # milliseconds; one substring tells those that matter.
            if f"[{GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = _quietly(partial(getattr, distribution, "name")) or ""
            # The first on the path is the one whose modules are imported.
            if normalised(name) in seen:
                continue
            if name:
                seen.add(normalised(name))
            found += _plugins_of(distribution, name)
        except Exception as error:  # noqa: BLE001  # other people's files: one bad one must not hide the rest
            found.append(_unreadable(distribution, error))
    return sorted(found, key=lambda each: each.source.order)


def _plugins_of(distribution: Distribution, name: str) -> Iterator[Found]:
    location, editable = _location(distribution)
    version = _quietly(lambda: distribution.version) or ""
    for entry_point in distribution.entry_points:
        if entry_point.group == GROUP:
            source = Source(
                plugin=entry_point.name,
                distribution=name,
                version=version,
                location=location,
                editable=editable,
            )
            yield Found(source=source, load=entry_point.load)


def _unreadable(distribution: Distribution, error: Exception) -> Found:
    location = _quietly(lambda: str(distribution.locate_file(""))) or "unknown"
    name = _quietly(lambda: distribution.name) or ""

    def fail() -> object:
        raise PluginError(f"its metadata cannot be read: {error}") from error

    return Found(
        source=Source(plugin=name or location, distribution=name, location=location), load=fail
    )


def _location(distribution: Distribution) -> tuple[str, bool]:
    """Directory or URL it was installed from, and whether it is editable (PEP 610)."""
    # An object_hook of importlib_metadata turns direct_url.json into attributes.
    origin: Any = _quietly(lambda: distribution.origin)
    url = getattr(origin, "url", None)
    if not isinstance(url, str):
        return str(distribution.locate_file("")).rstrip(os.sep), False
    editable = getattr(getattr(origin, "dir_info", None), "editable", False) is True
    if url.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        url = unquote(urlsplit(url).path)
    # Listings are pasted into reports: no name and password of a private index.
    return re.sub(r"(?<=://)[^/@]*@", "", url), editable


def _quietly(ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns, or ``None`` where a distribution's metadata is damaged."""
    try:
        return ask()
    except Exception:  # noqa: BLE001  # other people's files; the plugin itself may still be sound
        return None
