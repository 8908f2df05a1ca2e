"""Names to addresses (RFC 9622, section 6.1; RFC 9623, section 4.1.1.1).

Looked at in this order, as the usual ``hosts: files dns`` says:

1. ``localhost`` and names below it: loopback, never asked for (RFC 6761);
2. the hosts file;
3. DNS: A and AAAA side by side, search domains as ``resolv.conf`` says.

dnspython is imported when a name is first asked for, in a thread: numeric
addresses, localhost and the hosts file do without it.

Nothing here belongs to an event loop: one Resolver serves several.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import os
import socket
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, runtime_checkable

from taps_core.model.endpoints import Endpoint, canonical_address
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.runtime.tasks import until_done

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    import dns.asyncresolver

__all__ = ["MAX_ADDRESSES", "RESOLUTION_DELAY", "Remembering", "Resolver", "Resolving"]

E = TypeVar("E", bound=Endpoint)

#: Seconds that AAAA answers may come after A answers (RFC 8305, section 8).
RESOLUTION_DELAY: Final = 0.050

#: Addresses of one name that are used (RFC 9623, section 12.2: the network
#: decides how many come). Each family gets half of them if it needs them.
MAX_ADDRESSES: Final = 32

#: Answers that are remembered, each as long as its TTL says.
_CACHED_ANSWERS: Final = 1000

#: A hosts file up to this size is read at once; a bigger one (block lists) in a thread.
_SMALL_FILE: Final = 64 * 1024

#: What a file was when it was read.
_Signature = tuple[int, int, int] | None


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


class Resolver:
    """The built-in resolver.

    Args:
        nameservers: IP addresses of DNS servers; ``None``: as the system is
            configured, read anew when that changes.
        port: Of those nameservers.
        search: Domains to complete short names with, with those nameservers.
        timeout: Seconds for one name, all retries included.
        hosts_file: ``None``: the system's.
        resolv_conf: The system's configuration, where it is a file.
    """

    def __init__(
        self,
        *,
        nameservers: Sequence[str] | None = None,
        port: int = 53,
        search: Sequence[str] = (),
        timeout: float = 10.0,
        hosts_file: str | os.PathLike[str] | None = None,
        resolv_conf: str | os.PathLike[str] = "/etc/resolv.conf",
    ) -> None:
        self._nameservers = None if nameservers is None else tuple(nameservers)
        self._port = port
        self._search = tuple(search)
        self._timeout = timeout
        self._hosts_file = os.fspath(hosts_file or _system_hosts_file())
        self._resolv_conf = os.fspath(resolv_conf)
        self._hosts: Mapping[str, tuple[str, ...]] = {}
        self._hosts_signature: _Signature = None
        self._stub: dns.asyncresolver.Resolver | None = None
        self._stub_signature: _Signature = None
        self._making_stub = threading.Lock()
        self._services: dict[str, int] = {}
        self._remembers = True

    async def resolve(self, endpoint: E) -> list[E]:
        """See :meth:`Resolving.resolve`. Cancelling it leaves nothing behind.

        Raises:
            EstablishmentError: RESOLUTION_FAILED; ``detail`` is one of
                ``"no-such-name"``, ``"no-address"``, ``"server-failure"``,
                ``"timeout"``, ``"bad-name"``, ``"no-nameserver"``,
                ``"unknown-service"``.
        """
        if endpoint.port is None and endpoint.service is not None:
            endpoint = endpoint.with_port(await self._port_of(endpoint.service))
        name = endpoint.hostname
        if name is None or endpoint.ip_address is not None:
            return [endpoint]
        addresses = await self._addresses(name)
        return [endpoint.with_ip_address(address) for address in addresses]

    def isolated(self) -> Self:
        """The same without memory: it asks anew each time, and no answer is kept.

        What the system's own resolver remembers, beyond this process, is out of reach.
        """
        alone = copy.copy(self)
        alone._remembers = False
        if self._stub is not None:
            alone._stub = copy.copy(self._stub)
            alone._stub.cache = None
        return alone

    # -- names

    async def _addresses(self, name: str) -> Sequence[str]:
        plain = name.rstrip(".").lower()
        if plain == "localhost" or plain.endswith(".localhost"):
            return _loopback()
        size = self._hosts_changed()
        if size is not None:
            if size <= _SMALL_FILE:
                self._read_hosts()
            else:
                await asyncio.to_thread(self._read_hosts)
        return self._hosts.get(plain) or await self._ask(name)

    def _hosts_changed(self) -> int | None:
        """The hosts file's size if it is not the one that was read."""
        signature = _signature(self._hosts_file)
        if signature == self._hosts_signature:
            return None
        return 0 if signature is None else signature[1]

    def _read_hosts(self) -> None:
        signature = _signature(self._hosts_file)
        try:
            with open(self._hosts_file, encoding="utf-8", errors="replace") as file:
                hosts = _parse_hosts(file.read())
        except OSError:  # a machine may have none
            hosts = {}
        self._hosts, self._hosts_signature = hosts, signature

    async def _ask(self, name: str) -> list[str]:
        """Ask DNS for both families at once."""
        stub = self._stub
        if stub is None or (
            self._nameservers is None and _signature(self._resolv_conf) != self._stub_signature
        ):
            stub = await asyncio.to_thread(self._make_stub, name)
        async with asyncio.TaskGroup() as group:
            aaaa = group.create_task(_query(stub, name, "AAAA"))
            a = group.create_task(_query(stub, name, "A"))
            await asyncio.wait((aaaa, a), return_when=asyncio.FIRST_COMPLETED)
            # AAAA may be a little late; servers exist that never answer it.
            # The other way round, A is waited for: it is what remains where
            # IPv6 does not work.
            enough = a.done() and a.result().addresses
            await asyncio.wait((aaaa, a), timeout=RESOLUTION_DELAY if enough else None)
            aaaa.cancel()
        answers = [task.result() for task in (aaaa, a) if not task.cancelled()]
        found = _balanced(*(answer.addresses for answer in answers))
        if not found:
            raise _unresolved(name, answers)
        return found

    def _make_stub(self, name: str) -> dns.asyncresolver.Resolver:
        """Import and configure dnspython. Runs in a thread: it takes a while."""
        with self._making_stub:
            signature = None if self._nameservers is not None else _signature(self._resolv_conf)
            if self._stub is not None and signature == self._stub_signature:
                return self._stub  # another one was faster
            import dns.asyncbackend
            import dns.asyncresolver
            import dns.name

            # dnspython imports these when it first meets them: not on the loop.
            dns.asyncbackend.get_backend("asyncio")
            for rdtype in ("IN.A", "IN.AAAA", "ANY.CNAME", "ANY.DNAME", "ANY.SOA", "ANY.OPT"):
                importlib.import_module(f"dns.rdtypes.{rdtype}")
            if self._nameservers is not None:
                stub = dns.asyncresolver.Resolver(configure=False)
                stub.nameservers = list(self._nameservers)
                stub.port = self._port
                stub.domain = dns.name.root
                stub.search = [dns.name.from_text(domain) for domain in self._search]
            else:
                try:
                    stub = dns.asyncresolver.Resolver(self._resolv_conf)
                except dns.resolver.NoResolverConfiguration:
                    raise _failure(
                        name, "no DNS server is configured", "no-nameserver", transient=True
                    ) from None
            stub.lifetime = self._timeout
            if self._remembers:
                stub.cache = dns.resolver.LRUCache(_CACHED_ANSWERS)
            self._stub, self._stub_signature = stub, signature
            return stub

    # -- services

    async def _port_of(self, service: str) -> int:
        known = self._services.get(service)
        if known is None:
            try:
                known = await asyncio.to_thread(socket.getservbyname, service)
            except OSError:
                raise EstablishmentError(
                    f"service {service!r} is not known on this machine: give a port",
                    reason=Reason.RESOLUTION_FAILED,
                    detail="unknown-service",
                ) from None
            self._services[service] = known
        return known


class _Answer:
    """What one query gave: addresses, or a problem."""

    __slots__ = ("addresses", "detail", "problem", "transient")

    def __init__(
        self,
        addresses: Sequence[str] = (),
        *,
        problem: str = "",
        detail: str = "",
        transient: bool = False,
    ) -> None:
        self.addresses = addresses
        self.problem = problem
        self.detail = detail
        self.transient = transient


class _Backend:
    """dnspython's own for asyncio, but cancelling does not lose a socket.

    uvloop (0.23) keeps the socket of a ``create_datagram_endpoint`` that is
    cancelled in mid-work, and then its ``loop.close()`` never returns. Making
    one takes two turns of the loop and no network: it is seen to its end.
    """

    def __init__(self) -> None:
        import dns.asyncbackend

        self._backend: Any = dns.asyncbackend.get_backend("asyncio")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def make_socket(self, family: int, kind: int, *arguments: Any, **more: Any) -> Any:
        """As :class:`dns.asyncbackend.Backend` has it."""
        making = self._backend.make_socket(family, kind, *arguments, **more)
        if kind != socket.SOCK_DGRAM:
            return await making
        task = asyncio.get_running_loop().create_task(making)
        try:
            await until_done([task])
        except asyncio.CancelledError:
            if task.exception() is None:
                await task.result().close()
            raise
        return task.result()


async def _query(stub: dns.asyncresolver.Resolver, name: str, rdtype: str) -> _Answer:
    """Ask for one type of record; raises nothing but CancelledError."""
    import dns.exception
    import dns.resolver

    backend: Any = _Backend()
    try:
        answer = await stub.resolve(
            name,
            rdtype,
            raise_on_no_answer=False,
            search=True,
            backend=backend,
        )
    except dns.resolver.NXDOMAIN as error:
        tried = ", ".join(map(str, error.kwargs["qnames"]))
        return _Answer(problem=f"no such name (asked for {tried})", detail="no-such-name")
    except dns.resolver.LifetimeTimeout as error:
        said = _said(error)
        return _Answer(
            problem=f"no answer within {stub.lifetime:g} s" + (f" ({said})" if said else ""),
            detail="timeout",
            transient=True,
        )
    except dns.resolver.NoNameservers as error:
        return _Answer(problem=_said(error), detail="server-failure", transient=True)
    except (dns.exception.DNSException, UnicodeError) as error:
        return _Answer(problem=f"{type(error).__name__}: {error}", detail="bad-name")
    if answer.rrset is None:
        return _Answer(problem=f"no {rdtype} record", detail="no-address")
    return _Answer([record.address for record in islice(answer.rrset, MAX_ADDRESSES)])


def _said(error: Any) -> str:
    """What the servers said, each once: ``"192.0.2.53: SERVFAIL"``."""
    lines = {
        f"{str(server).partition(':')[2]}: {str(what).rstrip('.')}": None
        for server, _, _, what, _ in error.kwargs.get("errors") or ()
    }
    return "; ".join(lines)


def _unresolved(name: str, answers: Sequence[_Answer]) -> EstablishmentError:
    """No family has an address: the sentence of the worst, or of all that differ."""
    problems = dict.fromkeys(answer.problem for answer in answers)
    # A server that failed hides what there is: it counts more than «no such name».
    worst = max(answers, key=lambda answer: answer.transient)
    return _failure(name, "; ".join(problems), worst.detail, transient=worst.transient)


def _failure(name: str, problem: str, detail: str, *, transient: bool) -> EstablishmentError:
    return EstablishmentError(
        f"{name} cannot be resolved: {problem}",
        reason=Reason.RESOLUTION_FAILED,
        detail=detail,
        transient=transient,
    )


def _balanced(first: Sequence[str], second: Sequence[str] = ()) -> list[str]:
    """At most MAX_ADDRESSES of both families; neither crowds out the other."""
    kept = first[: max(MAX_ADDRESSES // 2, MAX_ADDRESSES - len(second))]
    return [*kept, *second[: MAX_ADDRESSES - len(kept)]]


def _loopback() -> list[str]:
    """Loopback addresses of the families that this machine has; all if none can be told."""
    addresses = []
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        except OSError:  # no such family, or no such interface in this namespace
            continue
        addresses.append(address)
    return addresses or ["::1", "127.0.0.1"]


def _parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Name → addresses, in the file's order; lines that are not to be understood are skipped."""
    hosts: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if canonical_address(address.partition("%")[0]) is None:
            continue
        for name in names:
            found = hosts.setdefault(name.rstrip(".").lower(), {})
            if len(found) < MAX_ADDRESSES:
                found[address] = None
    return {name: tuple(addresses) for name, addresses in hosts.items()}


def _system_hosts_file() -> str:
    if os.name == "nt":
        root = os.environ.get("SYSTEMROOT", r"C:\Windows")
        return os.path.join(root, "System32", "drivers", "etc", "hosts")
    return "/etc/hosts"


def _signature(path: str) -> _Signature:
    """Changes when the file does; ``None`` where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
