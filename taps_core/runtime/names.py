"""What the built-in resolver does with a name: where it looks, what it asks, what it remembers.

dnspython is imported when a name is first asked for, in a thread: localhost and the hosts
file do without it.

Nothing here belongs to an event loop.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import math
import os
import random
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.endpoints import Endpoint, RemoteEndpoint
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.planning.answers import ANY_ADDRESS, Answer, AnswerCache, Question
from taps_core.planning.derivation import (
    MAX_ADDRESSES,
    Derivation,
    Plan,
)
from taps_core.planning.destinations import SourceLookup, ordered
from taps_core.planning.service_records import PORTS, Chance, srv_labels
from taps_core.runtime.flights import Flights
from taps_core.runtime.ip_sockets import FAR_AWAY, source_address
from taps_core.runtime.look_up import LookUp
from taps_core.runtime.name_files import (
    Configuration,
    WatchedFile,
    is_the_systems,
    parse_hosts,
    parse_nsswitch,
    parse_resolv_conf,
    system_hosts_file,
)
from taps_core.runtime.resolver import NO_TERMS, Terms, anyhow
from taps_core.runtime.system_names import SystemNames

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from typing import Self

    from taps_core.runtime.dns_client import DnsClient
    from taps_core.runtime.resolver import Exit, ToServer, Trickle, Way

__all__ = ["Names"]

E = TypeVar("E", bound=Endpoint)

#: Answers that are remembered, each as long as its TTL says.
_CACHED_ANSWERS: Final = 1000

#: Seconds for which source addresses are taken to stay.
_SOURCES_LAST: Final = 5.0

#: Without a DNS server there is nobody to ask; still, one may be configured any time.
_NO_NAMESERVER: Final = Answer(
    problem="no DNS server is configured", detail="no-nameserver", transient=True
)

#: Application protocols that only HTTP has: whoever speaks one is asked for with HTTPS records.
_HTTP: Final = frozenset({"h2", "h3", "http/1.1"})
_HTTPS_PORT: Final = 443

_ADDRESS_TYPES: Final = frozenset({"A", "AAAA", ANY_ADDRESS})

#: What resolves names on systems that know no nsswitch.conf: mDNS is behind getaddrinfo.
_ELSEWHERE: Final = ("mdns_minimal", "files", "dns")


class Names:
    """Arguments as of :class:`~taps_core.runtime.resolver.Resolver`, and who asks the system."""

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
        system: SystemNames | None = None,
    ) -> None:
        self._fixed = (
            None
            if nameservers is None
            else Configuration(
                nameservers=tuple(nameservers),
                port=port,
                search=tuple(search),
                ndots=ndots,
                timeout=retry_after,
            )
        )
        self._timeout = timeout
        self._way: Way = way if nameservers is None or way == "system" else "dns"
        self._hosts = WatchedFile(
            os.fspath(hosts_file or system_hosts_file()),
            functools.partial(parse_hosts, limit=MAX_ADDRESSES),
        )
        self._resolv_conf = WatchedFile(os.fspath(resolv_conf), parse_resolv_conf)
        self._nsswitch = WatchedFile(os.fspath(nsswitch_conf), parse_nsswitch)
        self._network = network
        self._source_of = source_of
        self._look_up_sources(source_of or _source)
        self._chance: Chance = chance or random.Random()  # spreads load, no secret
        self._system = system or SystemNames()
        self._dns = _Dns()
        #: Name → port; ``None``: nobody knows it.
        self._services: dict[str, int | None] = {}
        self._cache: AnswerCache | None = AnswerCache(_CACHED_ANSWERS)
        self._flights = Flights()
        #: By which is asked, if a path was chosen.
        self._exit: Exit | None = None

    def _look_up_sources(self, source_of: SourceLookup) -> None:
        self._sources = _Sources(source_of)
        self._ordered: Callable[[Sequence[str]], Sequence[str]] = functools.partial(
            ordered, source_of=self._sources
        )

    async def resolve(self, endpoint: E) -> list[E]:
        """See :meth:`Resolver.resolve`."""
        known = self._known(endpoint, NO_TERMS)
        if known is None:
            await self._prepare(endpoint, NO_TERMS)
            known = self._known(endpoint, NO_TERMS)
        if known is not None:
            return known
        look_up = self._look_up(endpoint, NO_TERMS)
        try:
            return await look_up.whole()
        finally:
            await look_up.aclose()

    async def trickle(
        self, endpoint: E, terms: Terms = NO_TERMS
    ) -> tuple[list[E], Trickle[E] | None]:
        """See :meth:`Resolver.trickle`."""
        known = self._known(endpoint, terms)
        if known is None:
            await self._prepare(endpoint, terms)
            known = self._known(endpoint, terms)
        if known is not None:
            return known, None
        look_up = self._look_up(endpoint, terms)
        complete = True
        try:
            first = await anext(look_up)
            complete = look_up.complete
        finally:
            if complete:
                await look_up.aclose()
        return first, None if complete else look_up

    def isolated(self) -> Self:
        """See :meth:`Resolver.isolated`."""
        alone = copy.copy(self)
        alone._cache = None
        return alone

    def by(self, exit: Exit) -> Self:  # noqa: A002  # what it is
        """See :meth:`Resolver.by`. The cache is shared, and has answers for each path."""
        bound = copy.copy(self)
        bound._exit = exit
        bound._dns = self._dns.by(exit.to)
        if self._source_of is None:
            bound._look_up_sources(functools.partial(_source, to=exit.to))
        return bound

    # -- what is known without asking

    def _known(self, endpoint: E, terms: Terms) -> list[E] | None:
        """What an endpoint leads to, where nobody needs to be asked and nothing waited for.

        Returns:
            ``None``: it must be looked up.

        Raises:
            EstablishmentError: RESOLUTION_FAILED: it is known that there is nothing.
        """
        service = None if endpoint.port is not None else endpoint.service
        if service is not None and service not in self._services:
            return None
        name = None if endpoint.ip_address is not None else endpoint.hostname
        if name is None:
            return [self._with_port(endpoint)]
        if self._hosts.value() is None:
            return None
        addresses = self._here(name)
        if addresses is not None:
            # In the order in which they are written.
            endpoint = self._with_port(endpoint)
            return [endpoint.with_ip_address(address) for address in addresses]
        if not self._is_ready(endpoint, terms):
            return None
        derivation = self._derivation(endpoint, terms)
        if self._feed(derivation, derivation.start()):
            return None
        found = derivation.take(math.inf)
        if not found:
            raise derivation.error()
        return found

    def _with_port(self, endpoint: E) -> E:
        """With the port of its service, which was looked for."""
        service = endpoint.service
        if endpoint.port is not None or service is None:
            return endpoint
        port = self._services[service]
        if port is None:
            raise EstablishmentError(
                f"service {service!r} is not known on this machine: give a port",
                reason=Reason.RESOLUTION_FAILED,
                detail="unknown-service",
            )
        return endpoint.with_port(port)

    def _here(self, name: str) -> Sequence[str] | None:
        """Addresses of a name of this machine, or that its hosts file has."""
        plain = name.rstrip(".").lower()
        if plain == "localhost" or plain.endswith(".localhost"):
            return _loopback()
        return self._hosts.last.get(plain)

    def _is_ready(self, endpoint: Endpoint, terms: Terms) -> bool:
        """Whether everything that it takes to ask is imported and read."""
        return self._dns.is_ready(self._configuration()) or not self._needs_dns(endpoint, terms)

    def _configuration(self) -> Configuration | None:
        """Whom to ask, as of now; ``None`` where no file says it."""
        if self._fixed is not None:
            return self._fixed
        if os.name == "nt":
            return None
        return self._resolv_conf.value() or self._resolv_conf.read()

    def _feed(self, derivation: Derivation[Any], questions: Sequence[Question]) -> list[Question]:
        """Answer what can be answered at once; returns what cannot."""
        left: list[Question] = []
        waiting = list(questions)
        while waiting:
            question = waiting.pop(0)
            answer = self._answer(question)
            if answer is None:
                left.append(question)
            else:
                waiting += derivation.answered(question, answer)
        return [question for question in left if question in derivation.pending]

    def _answer(self, question: Question) -> Answer | None:
        if question.rdtype in _ADDRESS_TYPES:
            here = self._here(question.name)
            if here is not None:
                return _of_type(question.rdtype, here)
        if self._cache is None or question.rdtype == ANY_ADDRESS:
            return None
        return self._cache.get(self._network_key(), question, time.monotonic())

    def _network_key(self) -> Hashable:
        # On many machines the name server has the same address wherever they are.
        configuration, path = self._dns.configuration, None
        if self._exit is not None:
            # Servers on this machine say the same, whatever the path that they are asked for.
            servers = () if configuration is None else configuration.nameservers
            if not (servers and all(map(self._exit.here, servers))):
                path = self._exit.name
        if self._network is not None:
            return (path, configuration, self._network())
        return (path, configuration, *map(self._sources, FAR_AWAY))

    # -- what to ask

    def _derivation(self, endpoint: E, terms: Terms) -> Derivation[E]:
        port, srv, binding = self._records(endpoint, terms)
        assert endpoint.hostname is not None
        names, addresses = self._names(endpoint.hostname)
        plan = Plan(
            names=names,
            port=port,
            direct=port is not None or endpoint.service is None,
            protocol=endpoint.protocol,
            addresses=addresses,
            srv=srv,
            binding=binding,
            offered=terms.alpn,
            default_alpn=("http/1.1",) if binding and binding[1] == "HTTPS" else (),
            transports=terms.transports,
            path=None if self._exit is None else self._exit.name,
        )
        return Derivation(endpoint, plan, ordered=self._ordered, chance=self._chance)

    def _names(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names to ask for, and types of the questions for their addresses."""
        if self._asks_the_system(name):
            return (name.lower(),), (ANY_ADDRESS,)
        configuration = self._dns.configuration
        assert configuration is not None
        return configuration.names(name), ("AAAA", "A")

    def _records(
        self, endpoint: Endpoint, terms: Terms
    ) -> tuple[int | None, tuple[tuple[str, str], ...], tuple[str, str] | None]:
        """The port without further records; labels for SRV records; those for HTTPS or SVCB."""
        port, service = endpoint.port, endpoint.service
        srv: tuple[tuple[str, str], ...] = ()
        binding = None
        if port is None and service is not None:
            port = self._services[service]
        if not isinstance(endpoint, RemoteEndpoint):
            return port, (), None  # records say where others are, not where to listen
        if endpoint.port is None and service is not None:
            srv = srv_labels(service, endpoint.protocol)
            if service.startswith("_") and "." not in service:
                binding = (service.lower(), "SVCB")
        speaks_http = service is None and not _HTTP.isdisjoint(terms.alpn)
        if terms.secure and port is not None and (service == "https" or speaks_http):
            # RFC 9460, section 9.1
            binding = ("" if port == _HTTPS_PORT else f"_{port}._https", "HTTPS")
        return port, srv, binding

    def _asks_the_system(self, name: str) -> bool:
        if self._way != "auto":
            return self._way == "system"
        services = self._nsswitch.value() or self._nsswitch.read()
        if not self._nsswitch.exists and sys.platform != "linux":
            services = _ELSEWHERE
        return is_the_systems(services, name, on_path=self._exit is not None)

    def _needs_dns(self, endpoint: Endpoint, terms: Terms) -> bool:
        assert endpoint.hostname is not None
        if not self._asks_the_system(endpoint.hostname):
            return True
        _, srv, binding = self._records(endpoint, terms)
        return bool(srv or binding)

    # -- asking

    async def _prepare(self, endpoint: Endpoint, terms: Terms) -> None:
        """Read and import what it takes, off the loop."""
        service = None if endpoint.port is not None else endpoint.service
        if service is not None and service not in self._services:
            self._services[service] = await asyncio.to_thread(_port_of, service)
        if endpoint.hostname is None or endpoint.ip_address is not None:
            return
        if self._hosts.value() is None:
            await asyncio.to_thread(self._hosts.read)
        if not self._is_ready(endpoint, terms):
            await self._dns.get_ready(self._configuration())

    def _look_up(self, endpoint: E, terms: Terms) -> LookUp[E]:
        return LookUp(
            self._derivation(endpoint, terms),
            feed=self._feed,
            ask=self._ask,
            timeout=self._timeout,
        )

    async def _ask(self, question: Question, lifetime: float) -> Answer:
        """Raises nothing but CancelledError."""
        network = self._network_key()  # that it is asked on, wherever this machine is then

        async def ask(lifetime: float) -> Answer:
            if question.rdtype == ANY_ADDRESS:
                return await self._system.ask(question.name, lifetime)
            answer = await self._dns.ask(question, lifetime)
            if self._cache is not None:
                self._cache.put(network, question, answer, time.monotonic())
            return answer

        if self._cache is None:  # isolated: what it gets is nobody else's
            return await ask(lifetime)
        return await self._flights.ask((network, question), lifetime, ask)


class _Sources:
    """Source addresses of late: looking one up costs as much as all else of a known name.

    What is old makes the order worse for some seconds, and a new network as the old one.
    """

    def __init__(self, source_of: SourceLookup) -> None:
        self._source_of = source_of
        self._known: dict[str, str | None] = {}
        self._until = 0.0

    def __call__(self, address: str) -> str | None:
        now = time.monotonic()
        if now >= self._until or len(self._known) >= _CACHED_ANSWERS:
            self._known.clear()
            self._until = now + _SOURCES_LAST
        if address not in self._known:
            self._known[address] = self._source_of(address)
        return self._known[address]


class _Dns:
    """What asks DNS servers, once it is imported."""

    def __init__(self, to: ToServer = anyhow, origin: _Dns | None = None) -> None:
        self.configuration: Configuration | None = None
        self._to = to
        self._origin = origin
        self._module: Any = None
        self._client: DnsClient | None = None

    def by(self, to: ToServer) -> _Dns:
        """One that asks from elsewhere."""
        bound = _Dns(to, self)
        bound._take()
        return bound

    def _take(self) -> None:
        """What the one has that this one was made of."""
        assert self._origin is not None
        self._module = self._origin._module
        if self._origin.configuration is not None:
            self._use(self._origin.configuration)

    def is_ready(self, configuration: Configuration | None) -> bool:
        """Whether it asks as that says (``None``: as the system's registry said)."""
        if self._module is None:
            return False
        if configuration is not None and configuration != self.configuration:
            self._use(configuration)
        return True

    async def get_ready(self, configuration: Configuration | None) -> None:
        """Import it, off the loop."""
        if self._origin is not None:
            await self._origin.get_ready(configuration)
            self._take()
            return
        if self._module is None:
            module = await asyncio.to_thread(_import_client)
            if configuration is None:
                servers, search = await asyncio.to_thread(module.system_configuration)
                configuration = Configuration(nameservers=servers, search=search)
            self._module = module
        if configuration is not None:
            self._use(configuration)

    def _use(self, configuration: Configuration) -> None:
        self._client = self._module.DnsClient(configuration, self._to)
        self.configuration = configuration

    async def ask(self, question: Question, lifetime: float) -> Answer:
        """Raises nothing but CancelledError."""
        assert self._client is not None
        assert self.configuration is not None
        if not self.configuration.nameservers:
            return _NO_NAMESERVER
        return await self._client.ask(question, lifetime)


def _import_client() -> Any:
    from taps_core.runtime import dns_client

    return dns_client


def _source(address: str, to: ToServer = anyhow) -> str | None:
    try:
        return source_address(RemoteEndpoint(ip_address=address), to(address), {})
    except OSError:  # EstablishmentError is one: there is no such interface
        return None


def _port_of(service: str) -> int | None:
    """What the system's list of services says, else our own. For a thread."""
    name = service.removeprefix("_").partition(".")[0]
    try:
        return socket.getservbyname(name)
    except OSError:
        return PORTS.get(name.lower())


def _of_type(rdtype: str, addresses: Iterable[str]) -> Answer:
    """Addresses that nobody was asked for, as an answer."""
    records = tuple(
        address
        for address in addresses
        if rdtype == ANY_ADDRESS or (":" in address) == (rdtype == "AAAA")
    )
    if records:
        return Answer(records=records)
    return Answer(problem=f"no {rdtype} record", detail="no-address")


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
