"""Questions to DNS servers, by dnspython. Imported in a thread: that takes a while."""

from __future__ import annotations

import asyncio
import importlib
import socket
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

import dns.asyncbackend
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
from taps_core.runtime.ip_sockets import show_address
from taps_core.runtime.tasks import until_done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taps_core.runtime.name_files import Configuration

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
_asyncio_backend: Final[Any] = dns.asyncbackend.get_backend("asyncio")


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
    """

    def __init__(self, configuration: Configuration) -> None:
        stub = dns.asyncresolver.Resolver(configure=False)
        stub.nameservers = [
            _Server(address, configuration.port) for address in configuration.nameservers
        ]
        stub.timeout = configuration.timeout
        stub.rotate = configuration.rotate
        self._stub = stub
        #: As sentences name them.
        self._servers = [_shown(it, configuration.port) for it in configuration.nameservers]

    async def ask(self, question: Question, lifetime: float) -> Answer:
        """The answer, or why there is none; raises nothing but CancelledError.

        Args:
            question: Its name is absolute.
            lifetime: Seconds.
        """
        backend: Any = _Backend()
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


class _Backend:
    """dnspython's own for asyncio, but for datagrams.

    Their sockets are connected, so that the kernel lets nobody else in, and says at once
    where there is no server.

    Cancelling does not lose one: uvloop (0.23) keeps the socket of a
    ``create_datagram_endpoint`` that is cancelled in mid-work, and then its
    ``loop.close()`` never returns. Making one takes two turns of the loop and no
    network: it is seen to its end.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(_asyncio_backend, name)

    def datagram_connection_required(self) -> bool:
        """Then the destination is known when the socket is made."""
        return True

    async def make_socket(self, family: int, kind: int, *arguments: Any, **more: Any) -> Any:
        """As :class:`dns.asyncbackend.Backend` has it."""
        making = _asyncio_backend.make_socket(family, kind, *arguments, **more)
        if kind != socket.SOCK_DGRAM:
            return await making
        task = asyncio.get_running_loop().create_task(making)
        try:
            await until_done([task])
        except asyncio.CancelledError:
            if task.exception() is None:
                await task.result().close()
            raise
        return _Connected(task.result())


class _Connected:
    """A datagram socket that is told once where to send."""

    def __init__(self, datagrams: Any) -> None:
        self._datagrams = datagrams

    def __getattr__(self, name: str) -> Any:
        return getattr(self._datagrams, name)

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        """As :class:`dns.asyncbackend.DatagramSocket` has it; there is one destination."""
        sent: int = await self._datagrams.sendto(what, None, timeout)
        return sent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._datagrams.close()


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
