"""A host on a virtual network: addresses, ports, and the System that runs on it."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.paths import InterfaceType
from taps_core.runtime.preconnection import Preconnection
from taps_core.runtime.system import System
from taps_core.testing.ports import ANY, ANY_IPV4, Ports, canonical, no_route
from taps_core.testing.virtual_conditions import Conditions
from taps_core.testing.virtual_datagram import VirtualDatagram
from taps_core.testing.virtual_interfaces import HostSurvey
from taps_core.testing.virtual_names import VirtualResolver
from taps_core.testing.virtual_paths import Way
from taps_core.testing.virtual_stream import VirtualStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.model.layers import ConnectRequest, Transport
    from taps_core.runtime.listener import Handler, Listener
    from taps_core.testing.ports import Address
    from taps_core.testing.virtual_network import VirtualNetwork

__all__ = ["Host"]

T = TypeVar("T")

_LOOPBACK: Final = ("127.0.0.1", "::1")
#: What a host sends to itself: no distance, nothing lost, packets as large as IP has them.
_INSIDE: Final = Conditions(mtu=65535)


class Host(Ports):
    """A host: see ``VirtualNetwork.host``.

    Attributes:
        network: The network that it is on.
        name: Its name.
        addresses: Its addresses, loopback excepted, the preferred ones first.
        loopback: The way from itself to itself.
    """

    def __init__(
        self,
        network: VirtualNetwork,
        name: str,
        transports: Sequence[Callable[[Host], Transport]] | None,
    ) -> None:
        """Not called by applications: see ``VirtualNetwork.host``."""
        super().__init__()
        self.network = network
        self.name = name
        self.addresses: list[str] = []
        self.loopback = Way(f"inside {name}", conditions=_INSIDE)
        self._transports = transports or (VirtualStream, VirtualDatagram)
        self._system: System | None = None
        self._survey = HostSurvey(self)

    def __repr__(self) -> str:
        return f"<Host {self.name} at {', '.join(self.addresses)}>"

    # -- running on it

    @property
    def system(self) -> System:
        """The System of what runs on it, made on first use.

        It has the network's transports, as seen from here, and its names; and the
        framers of the System that is current then.
        """
        if self._system is None:
            made = [make(self) for make in self._transports]
            framers = System.current().registry.framers.values()
            resolver = VirtualResolver(self.network, self)
            self._system = System(plugins=[*made, *framers], resolver=resolver, survey=self._survey)
            # Left for later, it would be work in a thread.
            self._system.registry.probe()
        return self._system

    def interface(
        self,
        name: str,
        *addresses: str,
        type: InterfaceType | str = InterfaceType.WIRED,  # noqa: A002  # RFC 9622's word
    ) -> None:
        """Let addresses be those of a network interface, for the ``interface`` property.

        Those that are on none are on ``net0``. Every interface leads everywhere; a path of
        its own has what :meth:`VirtualNetwork.path` gives to one of its addresses.

        Args:
            name: Its name.
            *addresses: Of this host; new ones become this host's.
            type: ``"wired"``, ``"wifi"``, ``"cellular"``, ``"tunnel"``…

        Raises:
            ValueError: An address is none, or another host's; or there is no such type.
        """
        self.network.host(self.name, *addresses)
        self._survey.name(name, InterfaceType(type), [canonical(each) for each in addresses])

    @contextlib.contextmanager
    def use(self) -> Generator[Host]:
        """``with host.use():`` what is made inside, and by its tasks, is made on this host."""
        with self.system.use():
            yield self

    async def run(self, work: Awaitable[T]) -> T:
        """Await ``work``, a coroutine for instance, on this host."""
        with self.use():
            return await work

    def listen(
        self,
        local: LocalEndpoint | str,
        handler: Handler | None = None,
        *,
        max_connections: int | None = None,
        grace: float = 10.0,
        **preconnection: Any,
    ) -> Listener:
        """Start a Listener on this host, handlers included; stopping it is up to the caller.

        Args:
            local: Where.
            handler: As for ``Preconnection.listen``.
            max_connections: Likewise.
            grace: Likewise.
            **preconnection: What ``Preconnection`` takes beside ``local``.
        """
        with self.use():
            return Preconnection(local=local, **preconnection).listen(
                handler, max_connections=max_connections, grace=grace
            )

    async def close(self) -> None:
        """End what is still open on it: abort, with a ResourceWarning each."""
        if self._system is not None:
            await self._system.close()

    # -- what the network and the transports ask

    def add_address(self, address: str) -> None:
        """Let ``address``, in its canonical form, be one of this host's."""
        if address in (*_LOOPBACK, ANY, ANY_IPV4):
            raise ValueError(f"{address} is no address that others can reach")
        if address not in self.addresses:
            self.addresses.append(address)

    def has(self, address: str) -> bool:
        """Whether it is an address of this host, a loopback one included."""
        return address in self.addresses or address in _LOOPBACK

    def bind(self, kind: str, local: LocalEndpoint, door: Any) -> Address:
        """As :meth:`Ports.bind`, at an address of this host.

        Raises:
            OSError: ``EADDRINUSE``, ``EADDRNOTAVAIL``.
        """
        address = local.ip_address
        if address is not None and address not in (ANY, ANY_IPV4) and not self.has(address):
            raise OSError(
                errno.EADDRNOTAVAIL, f"{address} is not an address of the host {self.name}"
            )
        return super().bind(kind, local, door)

    def ends(self, kind: str, request: ConnectRequest) -> tuple[Address, Address]:
        """Local and remote address of a flow to be made.

        Raises:
            EstablishmentError: The remote endpoint was not resolved, or this host has
                no address of its family.
            OSError: ``EADDRNOTAVAIL``: the local address is not this host's.
        """
        remote, local = request.remote, request.local
        if remote.ip_address is None or remote.port is None:
            raise EstablishmentError(
                f"{remote} has no address and port", reason=Reason.INVALID_CONFIGURATION
            )
        there = remote.ip_address, remote.port
        here = None if local is None else local.ip_address
        if here is None or here in (ANY, ANY_IPV4):
            here = self._source_for(there[0], None if local is None else local.interface)
        if not self.has(here):
            raise OSError(errno.EADDRNOTAVAIL, f"{here} is not an address of the host {self.name}")
        if here in _LOOPBACK and not self.has(there[0]):
            raise no_route(there[0], f"{here} leads nowhere else", errno.ENETUNREACH)
        port = None if local is None else local.port
        return (here, port or self.free_port(kind, here)), there

    def _source_for(self, target: str, interface: str | None) -> str:
        if self.has(target):
            return target
        for address in self.addresses if interface is None else self._survey.addresses(interface):
            if (":" in address) == (":" in target):
                return address
        family = "IPv6" if ":" in target else "IPv4"
        where = self.name if interface is None else f"{interface} of {self.name}"
        raise no_route(target, f"{where} has no {family} address", errno.ENETUNREACH)
