"""Which plugins there are: a Registry belongs to a System; nothing is global.

Plugins are imported on first use, not when a Registry is made. Whether the
machine can run what they declare is asked separately, and remembered until
:meth:`Registry.refresh`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from taps_core.model.errors import PluginError
from taps_core.model.layers import (
    AVAILABLE,
    Availability,
    FramerDefinition,
    SecurityLayer,
    Transport,
)
from taps_core.model.properties import Property, nearest
from taps_core.planning.policy import Policy
from taps_core.runtime.conflicts import KNOWN, distribution_of, properties_of, settled
from taps_core.runtime.discovery import (
    ALLOW_VARIABLE,
    Gate,
    Source,
    installed_plugins,
    normalised,
)
from taps_core.runtime.loading import (
    Declaration,
    PluginKind,
    Row,
    Status,
    kind_of,
    load,
    row_of,
    rows_of,
)
from taps_core.runtime.sources import PolicySource, ResolverSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from taps_core.model.capabilities import Capabilities, LayerCapabilities
    from taps_core.runtime.discovery import Found
    from taps_core.runtime.resolver import Resolver, Resolving

__all__ = ["KNOWN", "PluginKind", "Registry", "Row", "Source", "Status", "distribution_of"]

logger = logging.getLogger("taps_core.plugins")

D = TypeVar("D", Transport, SecurityLayer, FramerDefinition, PolicySource, ResolverSource)

_WORDS: Final[Mapping[PluginKind, str]] = {
    PluginKind.TRANSPORT: "transport",
    PluginKind.SECURITY: "security layer",
    PluginKind.FRAMER: "framer",
    PluginKind.POLICY: "policy",
    PluginKind.RESOLVER: "resolver",
}

_KIND_ORDER: Final = list(PluginKind)


class _Contents(NamedTuple):
    """What loading gave."""

    transports: Mapping[str, Transport]
    security_layers: Mapping[str, SecurityLayer]
    framers: Mapping[str, FramerDefinition]
    policies: Mapping[str, PolicySource]
    resolvers: Mapping[str, ResolverSource]
    properties: Mapping[str, Property]
    rows: tuple[Row, ...]
    sources: Mapping[int, Source]
    """The identity of each declaration → whose it is."""


class Registry:
    """The plugins of one System.

    Made by :meth:`from_entry_points` (what is installed) or :meth:`of` (these
    objects). The mappings hold what can be used as it is declared; whether the
    machine can run it now is :meth:`availability`.
    """

    def __init__(self, gather: Callable[[], list[Row]]) -> None:
        self._gather = gather
        self._contents: _Contents | None = None
        #: By the identity of a declaration that is kept as long as the registry is.
        self._availability: dict[int, Availability] = {}
        #: Likewise: what those said that are available; kept by ``refresh``, as somebody may
        #: be asking in another thread.
        self._policies: dict[int, Policy] = {}
        # Reentrant, so that a plugin that asks while it is imported gets an
        # error instead of a deadlock.
        self._lock = threading.RLock()
        self._loading = False

    @classmethod
    def from_entry_points(
        cls,
        allow: Iterable[str] | None = None,
        block: Iterable[str] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> Registry:
        """What is installed: the entry points of the group ``taps``.

        The environment can only narrow what the arguments allow.

        Args:
            allow: Names of entry points; ``None``: all of them.
            block: Names of entry points to leave out, unimported.
            environ: Holds ``TAPS_PLUGINS`` (comma-separated names to allow;
                empty: none), ``TAPS_PLUGINS_BLOCK`` (names to leave out) and
                ``TAPS_TRACE`` (``1``: log each import and hook call to
                ``taps_core.plugins`` at level DEBUG).
        """
        if isinstance(allow, str) or isinstance(block, str):
            raise TypeError("allow and block are collections of names, not one string")
        gate = Gate(None if allow is None else frozenset(allow), frozenset(block), environ)
        traced = environ.get("TAPS_TRACE", "") not in ("", "0")

        def gather() -> list[Row]:
            if traced:
                logger.setLevel(logging.DEBUG)
            return _rows_of_installed(installed_plugins(), gate)

        return cls(gather)

    @classmethod
    def of(cls, *plugins: object) -> Registry:
        """Exactly these, whatever is installed; for tests and for closed programs.

        Args:
            plugins: Modules or objects with hooks, or bare declarations.

        Raises:
            TypeError: A class was given where an instance is needed.
        """
        for plugin in plugins:
            if isinstance(plugin, type):
                raise TypeError(f"{plugin.__name__} is a class: give an instance of it")

        def gather() -> list[Row]:
            rows: list[Row] = []
            for plugin in plugins:
                name = getattr(plugin, "name", None) or getattr(plugin, "__name__", None)
                source = Source(plugin=str(name or type(plugin).__name__))
                kind = kind_of(plugin)
                if kind is None:
                    rows += rows_of(plugin, source)
                else:
                    rows.append(row_of(plugin, kind, source))
            return rows

        return cls(gather)

    # -- what there is

    @property
    def transports(self) -> Mapping[str, Transport]:
        """Name → declaration, sorted by name; read-only."""
        return self._loaded().transports

    @property
    def application_protocols(self) -> Mapping[str, str]:
        """Application protocols (ALPN) that run over one transport only → its name."""
        return {
            protocol: transport.name
            for transport in self.transports.values()
            for protocol in transport.alpn
        }

    @property
    def security_layers(self) -> Mapping[str, SecurityLayer]:
        """Name → declaration, sorted by name; read-only."""
        return self._loaded().security_layers

    @property
    def framers(self) -> Mapping[str, FramerDefinition]:
        """Name → declaration, sorted by name; read-only."""
        return self._loaded().framers

    @property
    def policies(self) -> Mapping[str, PolicySource]:
        """Name → declaration, sorted by name; read-only."""
        return self._loaded().policies

    @property
    def resolvers(self) -> Mapping[str, ResolverSource]:
        """Name → declaration, at most one; read-only."""
        return self._loaded().resolvers

    @property
    def properties(self) -> Mapping[str, Property]:
        """The protocol-specific properties of all transports and layers, by canonical name."""
        return self._loaded().properties

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that was found, also what failed, conflicts, is refused, blocked or missing.

        Sorted by kind and name, what is in use first.
        """
        return tuple(
            row if row.declaration is None else self._with_availability(row, row.declaration)
            for row in self._loaded().rows
        )

    @property
    def loaded(self) -> bool:
        """Whether the plugins were imported already."""
        return self._contents is not None

    def transport(self, name: str) -> Transport:
        """The transport of this name.

        Raises:
            PluginError: There is none; says what to install, or the nearest names.
        """
        return self._look_up(PluginKind.TRANSPORT, name, self.transports)

    def security_layer(self, name: str) -> SecurityLayer:
        """The security layer of this name.

        Raises:
            PluginError: There is none; says what to install, or the nearest names.
        """
        return self._look_up(PluginKind.SECURITY, name, self.security_layers)

    def framer(self, name: str) -> FramerDefinition:
        """The framer definition of this name.

        Raises:
            PluginError: There is none; says what to install, or the nearest names.
        """
        contents = self._contents or self._loaded()
        return contents.framers.get(name) or self._look_up(
            PluginKind.FRAMER, name, contents.framers
        )

    # -- can this machine run it?

    def availability(self, declaration: Declaration) -> Availability:
        """The declaration's own answer, asked once until :meth:`refresh`.

        A declaration that raises, or answers something else, is unavailable
        for that reason.
        """
        answer = self._availability.get(id(declaration))
        if answer is not None:
            return answer
        answer = _ask(declaration)
        if isinstance(declaration, PolicySource) and answer.available:
            answer = self._read(declaration)
        # Not that of a framer which the application made: it may be gone tomorrow.
        if id(declaration) in self._loaded().sources:
            self._availability[id(declaration)] = answer
        return answer

    def capabilities(
        self, declaration: Transport | SecurityLayer
    ) -> Capabilities | LayerCapabilities:
        """The table in force: what this machine can do of it, else what is declared."""
        return self.availability(declaration).capabilities or declaration.capabilities

    def probe(self) -> None:
        """Import the plugins and ask each declaration, now rather than on first use."""
        for row in self._loaded().rows:
            if row.declaration is not None:
                self.availability(row.declaration)

    def refresh(self) -> None:
        """Ask for availability anew from now on (a module was loaded, a limit raised)."""
        self._availability.clear()

    # -- what plugins say and do for every System

    def policy(self) -> Policy:
        """What the available policies say: that of the last name has the last word.

        Asks them if that has not been done: for a thread.
        """
        whole = Policy()
        for each in self.policies.values():
            if self.availability(each).available:
                whole = whole.then(self._policies[id(each)])
        return whole

    def resolver(self, usual: Resolver) -> Resolving:
        """What a plugin puts in place of this one; itself where none does, or it fails."""
        for each in self.resolvers.values():
            if self.availability(each).available:
                try:
                    made = each.resolver(usual)
                    if not callable(getattr(made, "resolve", None)):
                        raise TypeError(f"resolver() returned {made!r}, which resolves nothing")
                except Exception as error:  # noqa: BLE001  # plugin boundary: names are resolved all the same
                    self._availability[id(each)] = self._unusable(each, "resolver", error)
                else:
                    return made
        return usual

    def _read(self, declaration: PolicySource) -> Availability:
        source = self._loaded().sources.get(id(declaration))
        try:
            tables = declaration.policy()
            if tables is not None and not isinstance(tables, Mapping):
                raise TypeError(f"policy() returned {tables!r}, not a mapping")
            policy = Policy.read(tables or {}, f"plugin {source}")
        except Exception as error:  # noqa: BLE001  # plugin boundary: as a hook that raises
            return self._unusable(declaration, "policy", error)
        self._policies[id(declaration)] = policy
        return AVAILABLE

    def _unusable(self, declaration: Declaration, kind: str, error: Exception) -> Availability:
        source = self._loaded().sources.get(id(declaration))
        reason = f"its {kind} cannot be used: {type(error).__name__}: {error}"
        logger.debug("%s of %r failed", kind, declaration, exc_info=error)
        logger.warning("%s %r of %s is not used: %s", kind, declaration.name, source, reason)
        return Availability(available=False, reason=reason, remedy="tell its authors")

    # -- inside

    def _loaded(self) -> _Contents:
        contents = self._contents
        if contents is None:
            with self._lock:
                contents = self._contents
                if contents is None:
                    contents = self._contents = self._load()
        return contents

    def _load(self) -> _Contents:
        if self._loading:
            raise PluginError("a plugin cannot use the registry while the registry imports it")
        self._loading = True
        try:
            rows = settled(self._gather())
        finally:
            self._loading = False
        for row in rows:
            if row.status in (Status.FAILED, Status.REFUSED, Status.CONFLICT, Status.MISSING):
                logger.warning(
                    "%s %r of %s is not used: %s", row.kind, row.name, row.source, row.reason
                )
        used: dict[PluginKind, list[Any]] = {kind: [] for kind in PluginKind}
        for row in rows:
            if row.declaration is not None:
                used[row.kind].append(row.declaration)
        everything = [each for declarations in used.values() for each in declarations]
        return _Contents(
            transports=_by_name(used[PluginKind.TRANSPORT]),
            security_layers=_by_name(used[PluginKind.SECURITY]),
            framers=_by_name(used[PluginKind.FRAMER]),
            policies=_by_name(used[PluginKind.POLICY]),
            resolvers=_by_name(used[PluginKind.RESOLVER]),
            properties=MappingProxyType(
                {
                    definition.name: definition
                    for declaration in everything
                    for definition in properties_of(declaration)
                }
            ),
            rows=tuple(sorted(rows, key=_row_order)),
            sources={
                id(row.declaration): row.source for row in rows if row.declaration is not None
            },
        )

    def _with_availability(self, row: Row, declaration: Declaration) -> Row:
        answer = self.availability(declaration)
        if answer.available:
            return row
        return dataclasses.replace(
            row, status=Status.UNAVAILABLE, reason=answer.reason, remedy=answer.remedy
        )

    def _look_up(self, kind: PluginKind, name: str, found: Mapping[str, D]) -> D:
        try:
            return found[name]
        except KeyError:
            raise PluginError(self.explain_absence(name, kind)) from None

    def explain_absence(self, name: str, kind: PluginKind | None = None) -> str:
        """One or two sentences: why there is nothing of this name, and what to do.

        Args:
            name: As somebody wrote it.
            kind: What it should be; ``None``: any kind.
        """
        word = "plugin" if kind is None else _WORDS[kind]
        distribution = distribution_of(name, kind)
        broken = [row for row in self._loaded().rows if row.declaration is None]
        # Its own row says most; a plugin that failed to import has only its
        # own name, or that of the distribution which is known to declare it.
        for row in broken:
            if row.name == name and kind in (None, row.kind):
                return _broken(word, name, row)
        for row in broken:
            if row.kind is PluginKind.PLUGIN and (
                row.name == name
                or (distribution and normalised(row.source.distribution) == distribution)
            ):
                return _broken(word, name, row)
        if distribution is not None:
            return f'no {word} "{name}" is installed: pip install {distribution}'
        kinds = list(KNOWN) if kind is None else [kind]
        installed = sorted(
            row.name
            for row in self._loaded().rows
            if row.declaration is not None and row.kind in kinds
        )
        close = nearest(name, [*installed, *(known for each in kinds for known in KNOWN[each])])
        listed = f" (installed: {', '.join(installed)})" if installed and not close else ""
        return f'there is no {word} "{name}"{close}{listed}'


def _broken(word: str, name: str, row: Row) -> str:
    remedy = f"; {row.remedy}" if row.remedy else ""
    if row.status is Status.MISSING:
        return f'no {word} "{name}": {row.reason}{remedy}'
    return f'the {word} "{name}" ({row.source}) cannot be used: {row.reason}{remedy}'


def _ask(declaration: Declaration) -> Availability:
    try:
        answer = declaration.availability()
        if not isinstance(answer, Availability):
            raise TypeError(f"availability() returned {answer!r}, not an Availability")
    except Exception as error:  # plugin boundary: one probe must not take the others along
        logger.debug("availability of %r failed", declaration, exc_info=True)
        return Availability(
            available=False,
            reason=f"its availability cannot be told: {type(error).__name__}: {error}",
            remedy="tell its authors",
        )
    return answer


def _by_name(declarations: Iterable[D]) -> Mapping[str, D]:
    return MappingProxyType({each.name: each for each in sorted(declarations, key=_name)})


def _name(declaration: Declaration) -> str:
    return declaration.name


def _row_order(row: Row) -> tuple[Any, ...]:
    return (_KIND_ORDER.index(row.kind), row.name, row.declaration is None, row.source.order)


# -- from what was found to what is used


def _rows_of_installed(found: list[Found], gate: Gate) -> list[Row]:
    namesakes: dict[str, list[Source]] = {}
    for each in found:
        namesakes.setdefault(each.source.plugin, []).append(each.source)
    rows: list[Row] = []
    for each in found:
        source = each.source
        closed = gate.closed_to(source.plugin)
        loaded = load(each) if closed is None else [_blocked(source, closed)]
        others = [str(other) for other in namesakes[source.plugin] if other is not source]
        if others:
            note = f'{" and ".join(others)} also calls its plugin "{source.plugin}"'
            loaded = [dataclasses.replace(row, note=note) for row in loaded]
        rows += loaded
    rows += _missing(found, gate)
    return rows


def _missing(found: list[Found], gate: Gate) -> Iterator[Row]:
    """Rows for names in allow and block lists that nothing answers to."""
    names = {each.source.plugin for each in found}
    by_distribution = {normalised(each.source.distribution): each.source.plugin for each in found}
    for origin, name in gate.asked_for():
        if name in names:
            continue
        plugin = by_distribution.get(normalised(name))
        if plugin is not None:
            remedy = f'{name} is the distribution; its plugin is called "{plugin}"'
        else:
            remedy = nearest(name, names).lstrip("; ")
            distribution = distribution_of(name)
            if not remedy and distribution is not None and origin in ("allow=", ALLOW_VARIABLE):
                remedy = f"pip install {distribution}"
        yield Row(
            name=name,
            kind=PluginKind.PLUGIN,
            source=Source(plugin=name, location=""),
            status=Status.MISSING,
            reason=f"{origin} names it, but it is not installed",
            remedy=remedy,
        )


def _blocked(source: Source, reason: str) -> Row:
    return Row(
        name=source.plugin,
        kind=PluginKind.PLUGIN,
        source=source,
        status=Status.BLOCKED,
        reason=reason,
    )
