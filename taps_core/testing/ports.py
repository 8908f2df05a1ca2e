"""Who listens where, which flow has which addresses, what is open."""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING, Any, TypeAlias

from taps_core.model.endpoints import canonical_address
from taps_core.model.errors import EstablishmentError

if TYPE_CHECKING:
    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.testing.memory_flow import MemoryFlow

__all__ = ["ANY", "ANY_IPV4", "Address", "Ports", "canonical", "no_route"]

#: IP address as text, and port.
Address: TypeAlias = tuple[str, int]

ANY_IPV4 = "0.0.0.0"  # nothing is bound outside this process
ANY = "::"
_FIRST_EPHEMERAL_PORT = 49152  # RFC 6335, section 6
_LAST_PORT = 65535


class Ports:
    """The ports of one set of addresses, by transport: listeners, and flows that are open.

    Attributes:
        dropped: Datagrams that came to a flow or a listener whose queue was full.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._doors: dict[tuple[str, str, int], Any] = {}
        self._routes: dict[tuple[str, Address, Address], Any] = {}
        # A dictionary keeps their order: what is done to all is done the same way each time.
        self._flows: dict[MemoryFlow, None] = {}
        self._numbers = itertools.cycle(range(_FIRST_EPHEMERAL_PORT, _LAST_PORT + 1))

    @property
    def open_flows(self) -> int:
        """Ends of flows that are not closed yet: two for each connection."""
        return len(self._flows)

    @property
    def flows(self) -> tuple[MemoryFlow, ...]:
        """The open ends themselves, the oldest first; to see what was left."""
        return tuple(self._flows)

    @property
    def open_listeners(self) -> int:
        """Listeners that have not been closed."""
        return len(self._doors)

    def bind(self, kind: str, local: LocalEndpoint, door: Any) -> Address:
        """Let ``door`` be found at ``local``; an unset port is chosen.

        Args:
            kind: Name of the transport; each has its own ports.
            local: Where. Without an address, or with ``::``, at all of them.
            door: What :meth:`door` gives for this address.

        Raises:
            OSError: ``EADDRINUSE``.
        """
        address = local.ip_address or ANY
        port = local.port or self.free_port(kind, address)
        if self._taken(kind, address, port):
            raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {address}:{port}")
        self._doors[kind, address, port] = door
        return address, port

    def unbind(self, kind: str, address: Address) -> None:
        """Free what :meth:`bind` took; nothing happens where it is free already."""
        self._doors.pop((kind, *address), None)

    def door(self, kind: str, address: Address) -> Any | None:
        """What is bound at ``address`` or at a wildcard that covers it."""
        host, port = address
        for candidate in (host, ANY_IPV4, ANY):
            if _covers(candidate, host) or candidate == ANY:
                door = self._doors.get((kind, candidate, port))
                if door is not None:
                    return door
        return None

    def free_port(self, kind: str, host: str) -> int:
        """A port from the ephemeral range that is not bound at ``host``.

        Ports go round all kinds, so that one chosen for a transport is
        normally free for the others too.
        """
        for port in itertools.islice(self._numbers, _LAST_PORT - _FIRST_EPHEMERAL_PORT + 1):
            if not self._taken(kind, host, port):
                return port
        raise OSError(errno.EADDRINUSE, "no port is left")

    def add_flow(self, flow: MemoryFlow) -> None:
        """Count ``flow`` as open."""
        self._flows[flow] = None

    def remove_flow(self, flow: MemoryFlow) -> None:
        """Count ``flow`` as closed."""
        self._flows.pop(flow, None)

    def add_route(self, kind: str, here: Address, there: Address, flow: Any) -> None:
        """Let what comes from ``there`` to ``here`` go to ``flow``; for connectionless transports.

        Raises:
            OSError: ``EADDRINUSE``: another flow has this pair of addresses.
        """
        if self._routes.setdefault((kind, here, there), flow) is not flow:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def remove_route(self, kind: str, here: Address, there: Address) -> None:
        """Undo :meth:`add_route`."""
        self._routes.pop((kind, here, there), None)

    def route(self, kind: str, here: Address, there: Address) -> Any | None:
        """The flow that has this pair of addresses."""
        return self._routes.get((kind, here, there))

    def _taken(self, kind: str, host: str, port: int) -> bool:
        return any(
            bound_kind == kind
            and bound_port == port
            and (_covers(bound, host) or _covers(host, bound))
            for bound_kind, bound, bound_port in self._doors
        )


def no_route(target: str, why: str, code: int = errno.EHOSTUNREACH) -> EstablishmentError:
    """The error for an address that cannot be reached."""
    error = EstablishmentError(f"no route to {target}: {why}", transient=True)
    error.errno, error.strerror = code, os.strerror(code)
    return error


def canonical(address: str) -> str:
    """The one way of writing an IP address that comparisons can use.

    Raises:
        ValueError: It is none.
    """
    text = canonical_address(address)
    if text is None:
        raise ValueError(f"{address!r} is not an IP address")
    return text


def _covers(bound: str, host: str) -> bool:
    """Whether a listener bound there has this address to itself.

    ``::`` also answers for IPv4 where nobody else does, but is no conflict:
    programs bind both wildcards to one port.
    """
    if bound == host:
        return True
    return bound == (ANY if ":" in host else ANY_IPV4)
