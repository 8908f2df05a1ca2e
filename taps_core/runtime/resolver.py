"""Resolvers: what a System needs of one, and the built-in one's door.

What resolves a name, and it is not little, is imported when there is a name to resolve, in a
thread: whoever has addresses does without, and no event loop stands still for it.
"""

from __future__ import annotations

import asyncio
import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

from taps_core.model.endpoints import Endpoint

if TYPE_CHECKING:
    import os
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Hashable,
        Mapping,
        Sequence,
    )
    from typing import Literal, Self, TypeAlias

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.planning.destinations import SourceLookup
    from taps_core.planning.service_records import Chance
    from taps_core.runtime.names import Names

    Way: TypeAlias = Literal["auto", "dns", "system"]
    #: Numeric address → Local Endpoint to ask it from; ``None``: the system chooses. Raises
    #: EstablishmentError where there is no way.
    ToServer: TypeAlias = "Callable[[str], LocalEndpoint | None]"

__all__ = [
    "NO_TERMS",
    "Exit",
    "Pathwise",
    "Remembering",
    "Resolver",
    "Resolving",
    "Terms",
    "Trickle",
    "Trickling",
    "anyhow",
]

E = TypeVar("E", bound=Endpoint)
T_co = TypeVar("T_co", bound=Endpoint, covariant=True)


class Resolving(Protocol):
    """What a System needs of a resolver; an application may bring its own."""

    async def resolve(self, endpoint: E) -> list[E]:
        """Endpoints with ``ip_address`` and ``port`` in place of name and service.

        Args:
            endpoint: Any. What needs no resolution comes back as it is.

        Returns:
            One for each address, best first; each keeps everything else of
            ``endpoint``, the name included. Never empty.

        Raises:
            EstablishmentError: RESOLUTION_FAILED.
        """


@runtime_checkable
class Remembering(Resolving, Protocol):
    """A resolver with a cache that it can leave aside."""

    def isolated(self) -> Resolving:
        """One that neither uses nor leaves anything in the cache (``isolateSession``)."""


class Exit(NamedTuple):
    """The path by which questions leave this machine."""

    name: str
    """The path's, for sentences, and for answers to be remembered by."""
    to: ToServer
    """Whoever is asked, from where."""
    here: Callable[[str], bool]
    """Whether a server has an address of this machine: then ``to`` says ``None``."""


def anyhow(_: str) -> None:
    """No path is chosen: as the system sends."""


@runtime_checkable
class Pathwise(Resolving, Protocol):
    """A resolver that can ask by a path that was chosen."""

    def by(self, exit: Exit) -> Resolving:  # noqa: A002  # what it is
        """One whose questions leave by this path, and that uses only answers from there."""


class Terms:
    """How what is asked for will be used, as far as it matters to whoever is asked.

    Attributes:
        alpn: Application protocols that the application speaks.
        secure: Whether it will be talked to over TLS or its like: HTTPS records are for that.
        transports: Application protocols that run over one transport only, and that.
    """

    __slots__ = ("alpn", "secure", "transports")

    def __init__(
        self,
        *,
        alpn: Sequence[str] = (),
        secure: bool = False,
        transports: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.alpn = tuple(alpn)
        self.secure = secure
        self.transports = transports


#: Of those who say nothing of it.
NO_TERMS: Final = Terms()


class Trickle(Protocol[T_co]):
    """Answers that come later: an asynchronous iterator that has to be closed."""

    def __aiter__(self) -> AsyncIterator[Sequence[T_co]]:
        """Itself."""

    def __anext__(self) -> Awaitable[Sequence[T_co]]:
        """Further endpoints, best first. What goes wrong is an ``EstablishmentError``."""

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Ask no more; returns when nothing of it is left."""


class Trickling(Resolving, Protocol):
    """A resolver that does not keep what it knows back until it knows everything.

    A race begins with the first answers, and the later ones join it while it runs.
    """

    async def trickle(
        self, endpoint: E, terms: Terms = NO_TERMS
    ) -> tuple[list[E], Trickle[E] | None]:
        """What is worth beginning with, and what comes later.

        Args:
            endpoint: As for ``resolve``.
            terms: Say which records are of use.

        Returns:
            Endpoints as those of ``resolve``, and ``None`` if these are all. Cancelling
            leaves nothing behind.

        Raises:
            EstablishmentError: RESOLUTION_FAILED: there are none, and will be none.
        """


class Resolver:
    """The built-in resolver: names to addresses (RFC 9622, section 6.1; RFC 9623, section 4.1.1.1).

    Looked at in this order, as the usual ``hosts: files dns`` says:

    1. ``localhost`` and names below it: loopback, never asked for (RFC 6761);
    2. the hosts file;
    3. DNS: A and AAAA side by side, with them SRV, HTTPS or SVCB records where the service
       has them, search domains as ``resolv.conf`` says.

    Where ``nsswitch.conf`` says more than that, or on request, the system's own resolver is
    asked for addresses in place of the last two.

    One serves several event loops.

    Args:
        nameservers: IP addresses of DNS servers; ``None``: as the system is
            configured, read anew when that changes.
        port: Of those nameservers.
        search: Domains to complete short names with, with those nameservers.
        ndots: With those nameservers: a name with so many dots is first asked for as it is.
        retry_after: Seconds to wait for one nameserver before the next is asked, or the only one
            again; with those nameservers.
        timeout: Seconds for one name, all retries included.
        way: ``"system"`` asks the system's own resolver for addresses, ``"dns"`` never does,
            ``"auto"`` does where the system is configured for more than the hosts file and
            DNS (mDNS, split DNS). With ``nameservers`` it is ``"dns"``.
        hosts_file: ``None``: the system's.
        resolv_conf: The system's configuration, where it is a file.
        nsswitch_conf: Says what there is besides the hosts file and DNS.
        network: Tells networks apart whose name servers have the same addresses; an answer is
            used on the network only that it was learned on. First called in a thread.
            ``None``: by the addresses that this machine has for going out.
        source_of: The source address for a destination, for their order (RFC 6724).
        chance: Decides where SRV weights and equal priorities leave it to chance.
    """

    def __init__(
        self,
        *,
        nameservers: Sequence[str] | None = None,
        port: int = 53,
        search: Sequence[str] = (),
        ndots: int = 1,
        retry_after: float = 2.0,
        timeout: float = 10.0,
        way: Way = "auto",
        hosts_file: str | os.PathLike[str] | None = None,
        resolv_conf: str | os.PathLike[str] = "/etc/resolv.conf",
        nsswitch_conf: str | os.PathLike[str] = "/etc/nsswitch.conf",
        network: Callable[[], Hashable] | None = None,
        source_of: SourceLookup | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "nameservers": nameservers,
            "port": port,
            "search": search,
            "ndots": ndots,
            "retry_after": retry_after,
            "timeout": timeout,
            "way": way,
            "hosts_file": hosts_file,
            "resolv_conf": resolv_conf,
            "nsswitch_conf": nsswitch_conf,
            "network": network,
            "source_of": source_of,
            "chance": chance,
        }
        #: One, once it is imported; shared by those that are isolated.
        self._made: list[Names] = []
        self._remembers = True
        self._exit: Exit | None = None

    async def resolve(self, endpoint: E) -> list[E]:
        """See :meth:`Resolving.resolve`. Cancelling it leaves nothing behind.

        Raises:
            EstablishmentError: RESOLUTION_FAILED; ``detail`` is one of
                ``"no-such-name"``, ``"no-address"``, ``"server-failure"``,
                ``"timeout"``, ``"bad-name"``, ``"no-nameserver"``,
                ``"unknown-service"``, ``"no-service"``.
        """
        if _is_resolved(endpoint):
            return [endpoint]
        return await (await self._names()).resolve(endpoint)

    async def trickle(
        self, endpoint: E, terms: Terms = NO_TERMS
    ) -> tuple[list[E], Trickle[E] | None]:
        """See :meth:`Trickling.trickle`; errors as of :meth:`resolve`."""
        if _is_resolved(endpoint):
            return [endpoint], None
        return await (await self._names()).trickle(endpoint, terms)

    def isolated(self) -> Self:
        """The same without memory: it asks anew each time, and no answer is kept.

        What the system's own resolver remembers, beyond this process, is out of reach.
        """
        alone = copy.copy(self)
        alone._remembers = False
        return alone

    def by(self, exit: Exit) -> Self:  # noqa: A002  # what it is
        """The same by a path: see :meth:`Pathwise.by`.

        What this machine itself answers has no path: its hosts file, a DNS server on it,
        and its own resolver, which is asked for less then.
        """
        bound = copy.copy(self)
        bound._exit = exit
        return bound

    @property
    def path(self) -> str | None:
        """Name of the path by which it asks; ``None``: the system chooses."""
        return None if self._exit is None else self._exit.name

    async def _names(self) -> Names:
        if not self._made:
            made = await asyncio.to_thread(_make, self._options)
            if not self._made:  # another one may have been faster
                self._made.append(made)
        names = self._made[0]
        if self._exit is not None:
            names = names.by(self._exit)
        return names if self._remembers else names.isolated()


def _is_resolved(endpoint: Endpoint) -> bool:
    return (endpoint.hostname is None or endpoint.ip_address is not None) and (
        endpoint.port is not None or endpoint.service is None
    )


def _make(options: dict[str, Any]) -> Names:
    from taps_core.runtime.names import Names

    if options["network"] is not None:
        options["network"]()  # what it imports for the first time is not imported on the loop
    return Names(**options)
