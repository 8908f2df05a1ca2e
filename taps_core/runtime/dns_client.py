"""Questions to DNS servers, by dnspython. Imported in a thread: that takes a while."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from dns.rdtypes.svcbbase import ParamKey

from taps_core.planning.answers import Answer, Question
from taps_core.planning.derivation import MAX_ADDRESSES
from taps_core.planning.service_records import Binding, SrvRecord
from taps_core.runtime.ip_sockets import bind_socket, show_address, socket_address
from taps_core.runtime.resolver import anyhow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from taps_core.runtime.name_files import Configuration
    from taps_core.runtime.resolver import ToServer

__all__ = ["DnsClient", "system_configuration"]

#: SRV, SVCB and HTTPS records of one name that are looked at.
_MAX_SERVICES: Final = 64

# dnspython imports these when it first meets them: not on the loop.
for _rdtype in (
    *("IN.A", "IN.AAAA", "IN.SRV", "IN.SVCB", "IN.HTTPS", "ANY.CNAME", "ANY.DNAME", "ANY.SOA"),
    *("ANY.OPT", "ANY.NS", "ANY.RRSIG", "ANY.NSEC", "ANY.NSEC3"),
):
    importlib.import_module(f"dns.rdtypes.{_rdtype}")
del _rdtype


def system_configuration() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name servers and search domains, where no file says them (Windows has a registry)."""
    try:
        found = dns.resolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return (), ()
    servers = tuple(server for server in found.nameservers if isinstance(server, str))
    return servers, tuple(name.to_text(omit_final_dot=True) for name in found.search)


class DnsClient:
    """Asks the servers of one configuration.

    One after the other until one says yes or no, again as long as there is time; a
    truncated answer is fetched anew over TCP. It remembers nothing, and belongs to no loop.

    Args:
        configuration: Which servers, and how.
        by: From where to ask each of them.
    """

    def __init__(self, configuration: Configuration, by: ToServer = anyhow) -> None:
        stub = dns.asyncresolver.Resolver(configure=False)
        stub.nameservers = [
            _Server(address, configuration.port) for address in configuration.nameservers
        ]
        stub.timeout = configuration.timeout
        stub.rotate = configuration.rotate
        self._stub = stub
        self._by = by
        #: As sentences name them.
        self._servers = [_shown(it, configuration.port) for it in configuration.nameservers]

    async def ask(self, question: Question, lifetime: float) -> Answer:
        """The answer, or why there is none; raises nothing but CancelledError.

        Args:
            question: Its name is absolute.
            lifetime: Seconds.
        """
        backend: Any = _Sockets(self._by)
        try:
            answer = await self._stub.resolve(
                dns.name.from_text(question.name),
                question.rdtype,
                raise_on_no_answer=False,
                search=False,
                lifetime=max(lifetime, 0.001),
                backend=backend,
            )
        except dns.resolver.NXDOMAIN as error:
            (response,) = error.kwargs["responses"].values()
            return Answer(
                problem="no such name",
                detail="no-such-name",
                ttl=_negative_ttl(response),
                server=_shown(*response.from_server),
            )
        except dns.resolver.LifetimeTimeout as error:
            said = _said(error)
            silent = ", ".join(server for server in self._servers if f"{server}:" not in said)
            return Answer(
                problem=f"no answer within {round(lifetime, 2):g} s"
                + (f" from {silent}" if silent else "")
                + (f"; {said}" if said else ""),
                detail="timeout",
                transient=True,
            )
        except dns.resolver.NoNameservers as error:
            return Answer(problem=_said(error), detail="server-failure", transient=True)
        except (dns.exception.DNSException, UnicodeError) as error:
            return Answer(problem=f"{type(error).__name__}: {error}", detail="bad-name")
        server = _shown(*answer.response.from_server)  # type: ignore[attr-defined]  # see _Server
        if answer.rrset is None:
            return Answer(
                problem=f"no {question.rdtype} record",
                detail="no-address",
                ttl=_negative_ttl(answer.response),
                server=server,
            )
        reader, limit = _READERS[question.rdtype]
        return Answer(
            records=tuple(map(reader, islice(answer.rrset, limit))),
            owner=_text(answer.canonical_name),
            ttl=answer.chaining_result.minimum_ttl,
            server=server,
        )


class _Server(dns.nameserver.Do53Nameserver):
    """Lets an answer tell who gave it: that there is no such name is an answer of somebody's."""

    async def async_query(self, *arguments: Any, **more: Any) -> Any:
        response: Any = await super().async_query(*arguments, **more)
        response.from_server = (self.address, self.port)
        return response


class _Sockets:
    """What dnspython opens its sockets by: here, so that they are bound to a path.

    They are connected, so that the kernel lets nobody else in, and says at once where
    there is no server. They are the loop's for no longer than one call, and cancelling that
    leaves nothing: uvloop (0.23) loses the socket of a ``create_datagram_endpoint`` that is
    cancelled in mid-work, and then its ``loop.close()`` never returns.
    """

    def __init__(self, by: ToServer) -> None:
        self._by = by

    def datagram_connection_required(self) -> bool:
        """Then the destination is known when the socket is made."""
        return True

    async def sleep(self, interval: float) -> None:
        """As :class:`dns.asyncbackend.Backend` has it."""
        await asyncio.sleep(interval)

    async def make_socket(
        self,
        family: socket.AddressFamily,
        kind: socket.SocketKind,
        protocol: int,
        source: object,
        destination: tuple[str, int],
        timeout: float | None = None,
    ) -> _Socket:
        """As :class:`dns.asyncbackend.Backend` has it; nobody names a ``source``."""
        address, _, zone = destination[0].partition("%")
        where = socket_address(address, destination[1], zone or None)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            local = self._by(destination[0])
            if local is not None:
                bind_socket(sock, local, family)
            if kind == socket.SOCK_DGRAM:
                sock.connect(where)  # waits for nobody
            else:
                async with _within(timeout):
                    await asyncio.get_running_loop().sock_connect(sock, where)
        except BaseException:
            sock.close()
            raise
        return _Socket(sock)


class _Socket:
    """A datagram or a stream socket, as :mod:`dns.asyncbackend` has both."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        #: As dnspython says it and will compare it: an address of IPv6 has four parts.
        self._destination: object = None
        self._loop = asyncio.get_running_loop()
        self.family = sock.family

    async def sendto(self, what: bytes, destination: object, timeout: float | None) -> int:
        self._destination = destination  # there is but one
        await self.sendall(what, timeout)
        return len(what)

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        async with _within(timeout):
            await self._loop.sock_sendall(self._socket, what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, object]:
        return await self.recv(size, timeout), self._destination

    async def recv(self, size: int, timeout: float | None) -> bytes:
        async with _within(timeout):
            return await self._loop.sock_recv(self._socket, size)

    async def close(self) -> None:
        self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def _within(timeout: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise dns.exception.Timeout from error


def _text(name: dns.name.Name) -> str:
    return name.to_text().lower()


def _address(record: Any) -> str:
    return str(record.address)


def _srv(record: Any) -> SrvRecord:
    return SrvRecord(record.priority, record.weight, record.port, _text(record.target))


#: Parameters that are heeded (RFC 9460, section 7). Encrypted ClientHello is none of them:
#: Python's ssl cannot do it.
_UNDERSTOOD: Final = frozenset(
    {
        ParamKey.MANDATORY,
        ParamKey.ALPN,
        ParamKey.NO_DEFAULT_ALPN,
        ParamKey.PORT,
        ParamKey.IPV4HINT,
        ParamKey.IPV6HINT,
    }
)


def _binding(record: Any) -> Binding:
    params = record.params
    mandatory: Iterable[Any] = getattr(params.get(ParamKey.MANDATORY), "keys", ())
    port = params.get(ParamKey.PORT)
    hints = (params.get(ParamKey.IPV6HINT), params.get(ParamKey.IPV4HINT))
    return Binding(
        priority=record.priority,
        target=_text(record.target),
        alpn=tuple(
            name.decode("ascii", "replace")
            for name in getattr(params.get(ParamKey.ALPN), "ids", ())
        ),
        default_alpn=ParamKey.NO_DEFAULT_ALPN not in params,
        port=None if port is None else port.port,
        hints=tuple(
            address
            for hint in hints
            if hint is not None
            for address in islice(hint.addresses, MAX_ADDRESSES)
        ),
        not_understood=tuple(str(key) for key in mandatory if key not in _UNDERSTOOD),
    )


#: Type → what reads a record, and how many are read.
_READERS: Final[dict[str, tuple[Callable[[Any], Any], int]]] = {
    "A": (_address, MAX_ADDRESSES),
    "AAAA": (_address, MAX_ADDRESSES),
    "SRV": (_srv, _MAX_SERVICES),
    "SVCB": (_binding, _MAX_SERVICES),
    "HTTPS": (_binding, _MAX_SERVICES),
}


def _negative_ttl(response: Any) -> float:
    """How long «there is none» holds; without an SOA record not at all (RFC 2308, section 5)."""
    if not any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority):
        return 0.0
    return float(response.resolve_chaining().minimum_ttl)


def _shown(address: str, port: int) -> str:
    return address if port == 53 else show_address(address, port)


def _said(error: Any) -> str:
    """What the servers said, each once: ``"192.0.2.53: SERVFAIL"``."""
    lines = {
        f"{_shown(*_address_and_port(str(server)))}: {str(what).rstrip('.')}": None
        for server, _, _, what, _ in error.kwargs.get("errors") or ()
        if not isinstance(what, dns.exception.Timeout)
    }
    return "; ".join(lines)


def _address_and_port(server: str) -> tuple[str, int]:
    """Of dnspython's ``"Do53:192.0.2.53@53"``."""
    address, _, port = server.partition(":")[2].rpartition("@")
    return address, int(port)
