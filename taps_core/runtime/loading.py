"""From a plugin that was found to its declarations, each checked, or to rows that say why not.

This is the boundary to other people's code: whatever it raises or returns, one
plugin's mistake costs that plugin (or that one declaration), named with a
sentence, and nothing else.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from taps_core.model.capabilities import Capabilities, LayerCapabilities
from taps_core.model.layers import API_VERSION, FramerDefinition, SecurityLayer, Transport
from taps_core.model.namespaces import namespace_refusal, reserved_words
from taps_core.model.properties import EXTENSIONS, Property, nearest
from taps_core.runtime.sources import PolicySource, ResolverSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pluggy

    from taps_core.runtime.discovery import Found, Source

__all__ = [
    "HOOKS",
    "Declaration",
    "PluginKind",
    "Row",
    "Status",
    "kind_of",
    "load",
]

Declaration: TypeAlias = (
    Transport | SecurityLayer | FramerDefinition | PolicySource | ResolverSource
)

logger = logging.getLogger("taps_core.plugins")


class PluginKind(StrEnum):
    """What a row is about."""

    TRANSPORT = "transport"
    SECURITY = "security"
    FRAMER = "framer"
    POLICY = "policy"
    RESOLVER = "resolver"
    PLUGIN = "plugin"
    """A plugin that did not get as far as a declaration."""


class Status(StrEnum):
    """What has become of it."""

    AVAILABLE = "available"
    """In use."""
    UNAVAILABLE = "unavailable"
    """Sound, but this machine cannot run it now."""
    FAILED = "failed"
    """It raised, or declared something that cannot be used."""
    REFUSED = "refused"
    """It was written for another version of the plugin interface."""
    CONFLICT = "conflict"
    """Another plugin has its name, or one of its properties."""
    BLOCKED = "blocked"
    """Left out by argument or environment; not imported."""
    MISSING = "missing"
    """Asked for by argument or environment, but not installed."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of ``taps-plugins list``: what was found, and what has become of it."""

    name: str
    kind: PluginKind
    source: Source
    status: Status = Status.AVAILABLE
    reason: str = ""
    """Why it is not in use, one line."""
    remedy: str = ""
    """What to do about it, one line."""
    note: str = ""
    """What else is worth knowing although it is in use."""
    hooks: tuple[str, ...] = ()
    """The hooks that its plugin implements."""
    declaration: Declaration | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "status": self.status.value,
            "plugin": self.source.plugin,
            "distribution": self.source.distribution or None,
            "version": self.source.version or None,
            "location": self.source.location,
            "editable": self.source.editable,
            "reason": self.reason or None,
            "remedy": self.remedy or None,
            "note": self.note or None,
            "hooks": list(self.hooks),
        }


_CLASSES: Final[Mapping[PluginKind, type[Declaration]]] = {
    PluginKind.TRANSPORT: Transport,
    PluginKind.SECURITY: SecurityLayer,
    PluginKind.FRAMER: FramerDefinition,
    PluginKind.POLICY: PolicySource,
    PluginKind.RESOLVER: ResolverSource,
}

#: Hook → what it declares.
HOOKS: Final[Mapping[str, PluginKind]] = {
    "taps_transports": PluginKind.TRANSPORT,
    "taps_security_layers": PluginKind.SECURITY,
    "taps_framers": PluginKind.FRAMER,
    "taps_policies": PluginKind.POLICY,
    "taps_resolvers": PluginKind.RESOLVER,
}

#: Of a slip to the hook that was meant: all begin with taps_, which is much of a likeness.
_LIKENESS: Final = 0.7
#: "/" separates the layers of a stack's name; the rest would be trouble in a shell.
_NAME: Final = re.compile(r"[a-z_][a-z0-9_.-]{0,39}")


def kind_of(declaration: object) -> PluginKind | None:
    """Which kind of declaration it is; ``None``: none of them."""
    for kind, wanted in _CLASSES.items():
        if isinstance(declaration, wanted):
            return kind
    return None


def load(found: Found) -> list[Row]:
    """Import a plugin, call its hooks, check what they declare.

    Returns:
        A row for each declaration: with ``declaration`` set where it can be
        used, otherwise with the reason; and a row for each mistake.
    """
    source = found.source
    try:
        plugin = found.load()
    except (Exception, SystemExit) as error:  # plugin boundary: any import may fail
        logger.debug("importing %s (%s) failed", source.plugin, source, exc_info=True)
        return [_failed(source, f"import failed: {_told(error)}", _remedy(source, error))]
    logger.debug("imported %s (%s) as %r", source.plugin, source, plugin)
    return rows_of(plugin, source)


def rows_of(plugin: object, source: Source) -> list[Row]:
    """As :func:`load`, for a plugin object that is there already."""
    try:
        return _rows_of(plugin, source)
    # Plugin boundary: attributes may be properties that raise, pluggy rejects arguments.
    except (Exception, SystemExit) as error:
        logger.debug("reading %s (%s) failed", source.plugin, source, exc_info=True)
        return [_failed(source, f"cannot be used: {_told(error)}", _remedy(source, error))]


def row_of(declaration: object, kind: PluginKind, source: Source) -> Row:
    """The row of a bare declaration, which is of that kind."""
    return _judged(declaration, kind, source, ())


def _rows_of(plugin: object, source: Source) -> list[Row]:
    version = getattr(plugin, "api_version", API_VERSION)
    if version != API_VERSION:
        return [_refused(source.plugin, PluginKind.PLUGIN, source, version)]
    # One manager for each plugin: none can wrap or reorder another's hooks,
    # and each result has one author.
    import pluggy

    from taps_core.runtime import hookspecs

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=source.plugin)
    hooks = tuple(hook for hook in HOOKS if getattr(manager.hook, hook).get_hookimpls())
    rows = [_failed(source, *mistake) for mistake in _misspelt_hooks(plugin, manager)]
    for hook in hooks:
        rows += _call(manager, hook, source, hooks)
    if not rows:
        rows.append(
            _failed(
                source,
                "it declares nothing",
                f"mark a function with taps_core.plugin.hookimpl: {', '.join(HOOKS)}"
                if not hooks
                else "let its hooks return what they declare",
            )
        )
    return [dataclasses.replace(row, hooks=hooks) for row in rows]


def _misspelt_hooks(plugin: object, manager: pluggy.PluginManager) -> Iterator[tuple[str, str]]:
    """(reason, remedy) for functions that look like hooks and are none.

    ``check_pending`` would only name the first one that is marked.
    """
    for attribute in dir(plugin):
        marks = manager.parse_hookimpl_opts(plugin, attribute)
        if marks is not None:
            hook = marks.get("specname") or attribute
            if hook not in HOOKS and not marks.get("optionalhook"):
                yield (
                    f'there is no hook "{hook}"{nearest(hook, HOOKS, _LIKENESS)}',
                    f"let its authors rename it; the hooks are {', '.join(HOOKS)}",
                )
        elif attribute.startswith("taps_"):
            function = inspect.getattr_static(plugin, attribute, None)
            # Functions that are merely imported into the module are not its hooks.
            if inspect.isfunction(function) and (
                not inspect.ismodule(plugin) or function.__module__ == plugin.__name__
            ):
                yield (
                    f'"{attribute}" is not marked as a hook, so it was not called'
                    + ("" if attribute in HOOKS else nearest(attribute, HOOKS, _LIKENESS)),
                    "put @hookimpl above it, or rename it: taps_ stands for hooks",
                )


def _call(
    manager: pluggy.PluginManager, hook: str, source: Source, hooks: tuple[str, ...]
) -> list[Row]:
    kind = HOOKS[hook]
    try:
        results = getattr(manager.hook, hook)()
        # pluggy drops None: a hook that forgot its return statement.
        declared = results[0] if results else None
        if declared is None or isinstance(declared, str | bytes | dict):
            raise TypeError(f"{hook} returned {declared!r}, not a sequence")
        if inspect.iscoroutine(declared):
            declared.close()
            raise TypeError(f"{hook} is a coroutine function; a hook is a plain one")
        declared = list(declared)
    except (Exception, SystemExit) as error:  # plugin boundary: a hook may do anything
        logger.debug("%s of %s (%s) failed", hook, source.plugin, source, exc_info=True)
        return [_failed(source, f"{hook}: {_told(error)}", _remedy(source, error))]
    logger.debug("%s of %s (%s) declares %r", hook, source.plugin, source, declared)
    return [_judged(each, kind, source, hooks) for each in declared]


def _judged(declaration: Any, kind: PluginKind, source: Source, hooks: tuple[str, ...]) -> Row:
    """A row for one declaration, with it if it can be used."""
    name = source.plugin
    try:
        if isinstance(declaration, type):
            raise TypeError(f"{declaration.__name__} is a class; declare an instance of it")
        if not isinstance(declaration, _CLASSES[kind]):
            raise TypeError(
                f"{declaration!r} is not a {_CLASSES[kind].__name__} of taps_core.plugin"
            )
        version = declaration.api_version
        if version != API_VERSION:
            return _refused(str(getattr(declaration, "name", name)), kind, source, version)
        declared = getattr(declaration, "name", None)
        if isinstance(declared, str):
            name = declared
        _check(declaration, kind)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # plugin boundary: attributes may be properties that raise
        reason = str(error) if isinstance(error, TypeError | ValueError) else _told(error)
        return Row(
            name=name,
            kind=kind,
            source=source,
            status=Status.FAILED,
            reason=f"wrong declaration: {reason}",
            remedy=_remedy(source, error),
            hooks=hooks,
        )
    note = _note(declaration)
    return Row(name=name, kind=kind, source=source, note=note, hooks=hooks, declaration=declaration)


def _note(declaration: Declaration) -> str:
    """What its authors had better change."""
    words = {
        definition.name: reserved_words(definition.name)
        for definition in (
            declaration.properties if isinstance(declaration, Transport | SecurityLayer) else ()
        )
    }
    return "; ".join(
        f"{name}: {' and '.join(found)} should not be part of a name that is no protocol's"
        for name, found in words.items()
        if found
    )


def _check(declaration: Any, kind: PluginKind) -> None:
    """Raise TypeError or ValueError for what would fail later, far from its cause."""
    name: Any = getattr(declaration, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name: lower-case letters, digits, '-', '_' and '.', at most 40"
        )
    if kind not in (PluginKind.TRANSPORT, PluginKind.SECURITY):
        return
    table: type = Capabilities if kind is PluginKind.TRANSPORT else LayerCapabilities
    if not isinstance(getattr(declaration, "capabilities", None), table):
        raise TypeError(f"capabilities of {name} must be a {table.__name__}")
    for definition in declaration.properties:
        if not isinstance(definition, Property):
            raise TypeError(f"properties of {name} must be Property objects, not {definition!r}")
        refusal = namespace_refusal(definition.name, name)
        if refusal is not None:
            raise ValueError(
                f"the property {definition.name!r} of {name} {refusal} (RFC 9622, section 4.1)"
            )
        if any(definition.folded == own.folded for own in EXTENSIONS.values()):
            raise ValueError(f"the property {definition.name!r} of {name} is the core's own")
    if kind is PluginKind.TRANSPORT:
        serves: Any = declaration.serves
        if isinstance(serves, str) or not serves or not all(isinstance(s, str) for s in serves):
            raise TypeError(f"serves of {name} must be a non-empty set of names, as in {{'ip'}}")
        spoken: Any = declaration.alpn
        if isinstance(spoken, str) or not all(isinstance(each, str) for each in spoken):
            raise TypeError(f"alpn of {name} must be a sequence of names, as in ('h3',)")


def _failed(source: Source, reason: str, remedy: str) -> Row:
    return Row(
        name=source.plugin,
        kind=PluginKind.PLUGIN,
        source=source,
        status=Status.FAILED,
        reason=reason,
        remedy=remedy,
    )


def _refused(name: str, kind: PluginKind, source: Source, version: object) -> Row:
    newer = isinstance(version, int) and version > API_VERSION
    update = "taps-core" if newer else str(source)
    return Row(
        name=name,
        kind=kind,
        source=source,
        status=Status.REFUSED,
        reason=f"written for plugin interface {version}, this is {API_VERSION}",
        remedy=f"update {'taps-core' if newer else 'the plugin'}: pip install --upgrade {update}",
    )


#: Frames of these say nothing about the plugin.
_MACHINERY: Final = frozenset({"importlib", "importlib_metadata", "pluggy", "taps_core"})


def _told(error: BaseException) -> str:
    """The error in one line, with the line of the plugin that it came from."""
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY:
            file = "/".join(Path(frame.f_code.co_filename).parts[-2:])
            place = f" ({file}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return f"{told[:300]}{place}"


def _remedy(source: Source, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and source.distribution:
        return f"pip install --upgrade {source.distribution} (it needs the module {error.name})"
    return f"tell the authors of {source}; TAPS_PLUGINS_BLOCK={source.plugin} leaves it out"
