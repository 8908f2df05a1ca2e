"""The hooks: what a plugin implements to be found (entry-point group ``taps``).

A plugin is a module (or any object) that an entry point of the group ``taps``
names, with at least one function below, marked with
:data:`taps_core.plugin.hookimpl`::

    [project.entry-points.taps]
    echo = "taps_echo"

Rules for all of them:

* A hook *declares*. It does no I/O, imports nothing heavy (that belongs into
  ``connect``, ``listen`` and ``availability``) and decides nothing: whether
  the machine can run it is asked of each declaration's ``availability()``.
* It is called once per registry, with no arguments, before anything else is
  asked of the plugin, and returns a sequence of stateless declarations, made
  once, that may be shared by every System of the process.
* An exception, or a return value that is not what is described here, becomes
  a row of ``taps-plugins list`` with its reason. The plugin's other
  declarations, and all other plugins, are used as usual.
* Names are lower case, unique among their kind. Of two plugins that declare
  one name, the distribution that the name belongs to is used (``taps-tcp``
  for ``tcp``), else the first in alphabetical order of distributions; the
  other becomes a row that says so.

A plugin states the interface it was written for: ``api_version = 1`` on each
declaration's class, and optionally on the module itself, which is looked at
before any hook is called. Write the number; ``api_version = API_VERSION``
would claim to fit every version to come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.layers import FramerDefinition, SecurityLayer, Transport
    from taps_core.runtime.sources import PolicySource, ResolverSource

__all__ = [
    "PROJECT",
    "hookimpl",
    "taps_framers",
    "taps_policies",
    "taps_resolvers",
    "taps_security_layers",
    "taps_transports",
]

#: Entry-point group, and pluggy's name for the marks.
PROJECT: Final = "taps"

_hookspec = pluggy.HookspecMarker(PROJECT)

#: Marks a function of a plugin as the implementation of the hook of its name.
hookimpl = pluggy.HookimplMarker(PROJECT)


# A specification is never called; pluggy reads its name, arguments and docstring.


@_hookspec
def taps_transports() -> Sequence[Transport]:  # type: ignore[empty-body]  # see above
    """Declare transport protocols: what owns a socket and reaches endpoints.

    Each object is an instance of a subclass of
    :class:`~taps_core.plugin.Transport` with a ``name``, the kinds of endpoint
    identifier it ``serves``, a :class:`~taps_core.plugin.Capabilities` table,
    and the protocol-specific ``properties`` it understands, whose names carry
    a namespace (``tcp.userTimeoutValue``; RFC 9622, section 4.1).

    ::

        @hookimpl
        def taps_transports() -> Sequence[Transport]:
            return [Tcp()]

    Returns:
        The transports, in any order: order decides nothing.
    """


@_hookspec
def taps_security_layers() -> Sequence[SecurityLayer]:  # type: ignore[empty-body]  # see above
    """Declare security protocols that run over a transport (TLS, DTLS).

    Each object is an instance of a subclass of
    :class:`~taps_core.plugin.SecurityLayer` with a ``name`` and
    :class:`~taps_core.plugin.LayerCapabilities`, which say what the layer
    needs below, what it changes, and what protection it gives. A transport
    with security of its own (QUIC) says so in its own table instead.

    ::

        @hookimpl
        def taps_security_layers() -> Sequence[SecurityLayer]:
            return [Tls(), Dtls()]

    Returns:
        The layers, in any order: order decides nothing.
    """


@_hookspec
def taps_framers() -> Sequence[FramerDefinition]:  # type: ignore[empty-body]  # see above
    """Declare Message Framers that applications may name (RFC 9622, section 9.1.2).

    Each object is an instance of a subclass of
    :class:`~taps_core.plugin.FramerDefinition` with its usual parameters: what
    ``framers="line"`` stands for. It is frozen and makes a new framer for each
    Connection. Framers that applications construct themselves
    (``LengthPrefix(2, max_length=…)``) need no declaration.

    ::

        @hookimpl
        def taps_framers() -> Sequence[FramerDefinition]:
            return [Line(max_length=65536)]

    Returns:
        The definitions, in any order: order decides nothing.
    """


@_hookspec
def taps_policies() -> Sequence[PolicySource]:  # type: ignore[empty-body]  # see above
    """Declare policies: what an operator's or a company's package says about all Connections.

    Each object is an instance of a subclass of
    :class:`~taps_core.plugin.PolicySource` with a ``name``, whose ``policy()``
    returns tables as a policy file has them. They are merged before the files
    of the machine and its user, in alphabetical order of their names; what any
    of them prohibits is prohibited.

    ::

        @hookimpl
        def taps_policies() -> Sequence[PolicySource]:
            return [CompanyPolicy()]

    Returns:
        The policies, in any order: names decide.
    """


@_hookspec
def taps_resolvers() -> Sequence[ResolverSource]:  # type: ignore[empty-body]  # see above
    """Declare a resolver that every System uses in place of the built-in one.

    Each object is an instance of a subclass of
    :class:`~taps_core.plugin.ResolverSource` with a ``name``, whose
    ``resolver(usual)`` makes one. A program that brings its own
    (``System(resolver=…)``) uses that. Two resolvers are a conflict: that of
    the first in alphabetical order of distributions is used.

    ::

        @hookimpl
        def taps_resolvers() -> Sequence[ResolverSource]:
            return [FleetNames()]

    Returns:
        The resolver, in a sequence; more than one is a mistake.
    """
