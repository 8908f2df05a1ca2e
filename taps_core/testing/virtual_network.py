"""A network that is not there: hosts, names and paths, on the clock of the event loop.

::

    async def scenario(net):
        server = net.host("server.example", "192.0.2.1", "2001:db8::1")
        net.path(net.client, server, latency=0.05, bandwidth=125_000)
        await net.serve("server.example:7000", echo, framers="line")
        await ask("server.example:7000", "hello")     # an application as it is

    run(scenario, seed=1)

The network itself does nothing but let packets go their way
(:mod:`taps_core.testing.virtual_paths`) and remember what happened. What is in
a packet, and what answers it, is the transports' business. It opens no socket
and starts no thread; on a :class:`~taps_core.testing.VirtualClockLoop` it takes
no time either, and times are exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from taps_core.model.endpoints import LocalEndpoint, canonical_address
from taps_core.model.events import PathChange
from taps_core.testing.ports import canonical
from taps_core.testing.virtual_host import Host
from taps_core.testing.virtual_log import EventLog, LogEntry
from taps_core.testing.virtual_names import Record, folded
from taps_core.testing.virtual_paths import Loss, Paths, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from taps_core.model.layers import Transport
    from taps_core.runtime.listener import Handler, Listener
    from taps_core.testing.memory_flow import MemoryFlow
    from taps_core.testing.ports import Address
    from taps_core.testing.virtual_conditions import ConditionKeywords, Counts
    from taps_core.testing.virtual_names import NameFailure
    from taps_core.testing.virtual_packet import Packet
    from taps_core.testing.virtual_paths import End, Path, Way

__all__ = ["VirtualNetwork"]

T = TypeVar("T")

#: Prefixes for hosts whose addresses nobody chose (RFC 5737 and RFC 3849).
_IPV4, _IPV6 = "198.51.100.", "2001:db8:51::"


class VirtualNetwork:
    """Hosts, their names, and the paths between them.

    As an async context manager it ends, when it is left, all that :meth:`serve`
    started and all that is still open on its hosts, the latter with a
    ResourceWarning each. :func:`~taps_core.testing.run` does that by itself.

    Args:
        seed: Of everything that chance decides: the same seed, the same run.
        log_limit: How many entries ``log`` keeps, the last ones; 0: none.
        transports: What every host has: called with the host, each makes a
            transport. ``None``: a byte stream and datagrams, as hosts usually have.

    Attributes:
        log: What happened.
        client: The host that scenarios run on.
    """

    def __init__(
        self,
        seed: int | str = 0,
        *,
        log_limit: int = 100_000,
        transports: Sequence[Callable[[Host], Transport]] | None = None,
    ) -> None:
        self.seed = seed
        self.log = EventLog(log_limit)
        self._transports = transports
        self._paths = Paths(str(seed), self._path_changed)
        self._hosts: dict[str, Host] = {}
        self._by_address: dict[str, Host] = {}
        self._records: dict[str, Record] = {}
        self._numbers = itertools.count(1)
        #: From which address to which → the way, as long as paths and hosts stay as they are.
        self._taken: dict[tuple[str, str], Way] = {}
        self._served: list[tuple[Host, Listener]] = []
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self.client = self.host("client")

    def __repr__(self) -> str:
        return f"<VirtualNetwork of {len(self._hosts)} hosts, seed {self.seed!r}>"

    # -- hosts and names

    def host(self, name: str, *addresses: str, aliases: Sequence[str] = ()) -> Host:
        """The host of this name, made if there is none.

        Args:
            name: Its name. Resolves to its addresses, as do the aliases.
            *addresses: IPv4 and IPv6 addresses, the preferred ones first. None at
                all: for a new host, one of each family is chosen.
            aliases: Further names.

        Raises:
            ValueError: An address is none, or another host's; or a host's name is
                an alias or an address.
        """
        name = folded(name)
        host = self._hosts.get(name)
        if host is None:
            if name in self._records or canonical_address(name) is not None:
                raise ValueError(f"{name} is no name for a host: it is taken, or an address")
            if not addresses:
                addresses = self._free_addresses()
            host = Host(self, name, self._transports)
        for address in map(canonical, addresses):
            if self._by_address.setdefault(address, host) is not host:
                raise ValueError(f"{address} is an address of {self._by_address[address].name}")
            host.add_address(address)
        self._hosts[name] = host
        self._taken.clear()
        for alias in aliases:
            self.name(alias, host)
        return host

    def _free_addresses(self) -> tuple[str, str]:
        while True:
            number = next(self._numbers)
            addresses = f"{_IPV4}{number}", f"{_IPV6}{number:x}"
            if not any(address in self._by_address for address in addresses):
                return addresses

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts, in the order in which they were made."""
        return tuple(self._hosts.values())

    def name(
        self,
        name: str,
        *targets: Host | str,
        delay: float | Mapping[int, float] = 0.0,
        fails: NameFailure | None = None,
    ) -> None:
        """Let ``name`` mean something, or something else than before.

        Args:
            name: A name. A host's name stays the host's, and resolves like this.
            *targets: Hosts (or their names) and addresses, whether or not anybody
                has them. None: the name has no address, unless it is a host's.
            delay: Seconds that resolving takes, or by family, ``{6: 0.3, 4: 0.01}``: then
                each is asked for by itself, as DNS is.
            fails: How it fails after that.
        """
        name = folded(name)
        if not targets and name in self._hosts:
            targets = (name,)
        addresses: list[str] = []
        for target in targets:
            host = target if isinstance(target, Host) else self._hosts.get(folded(target))
            addresses += [canonical(str(target))] if host is None else host.addresses
        self._records[name] = Record(
            addresses=tuple(dict.fromkeys(addresses)), delay=delay, fails=fails
        )

    def record(self, name: str) -> Record | None:
        """What there is to a name; for the resolver."""
        record = self._records.get(name)
        if record is None and name in self._hosts:
            return Record(addresses=tuple(self._hosts[name].addresses))
        return record

    def host_at(self, address: str) -> Host | None:
        """The host that has this address (not a loopback one)."""
        return self._by_address.get(address)

    # -- paths

    def path(
        self,
        one: Host | str | None = None,
        other: Host | str | None = None,
        **conditions: Unpack[ConditionKeywords],
    ) -> Path:
        """The path between two ends, with these conditions in both directions.

        The most particular path that fits is the one that packets take: between
        addresses before between hosts, before those of one host or address with
        everybody (``other`` left out), before that of all with all (both left
        out). A path that is asked for the first time begins as the one that it
        was part of so far. Each pair of hosts has its own bandwidth and queue.

        Args:
            one: A host, its name, or an address, whether or not anybody has it.
            other: Likewise.
            **conditions: What changes for packets that are sent from now on; see
                :class:`~taps_core.testing.Conditions`.

        Raises:
            ValueError: A name of no host, or conditions that cannot be.
        """
        path = self._paths.path(self._end(one), self._end(other))
        self._taken.clear()
        return path.set(**conditions)

    def _end(self, end: Host | str | None) -> list[End]:
        """An end of a path, and what it is part of."""
        if end is None:
            return [None]
        if isinstance(end, Host):
            return [end.name, None]
        address = canonical_address(end)
        if address is not None:
            host = self._by_address.get(address)
            return [address, None] if host is None else [address, host.name, None]
        name = folded(end)
        if name not in self._hosts:
            raise ValueError(f"there is no host {end!r}: net.host({end!r}) makes one")
        return [name, None]

    def way(self, host: Host, source: str, target: str) -> Way:
        """The way of a packet that ``host`` sends between these addresses."""
        if host.has(target):
            return host.loopback
        way = self._taken.get((source, target))
        if way is None:
            way = self._paths.taken(self._end(source), self._end(target))
            self._taken[source, target] = way
        return way

    def _path_changed(self, way: Way, before: State) -> None:
        self._note("path", target=way.label, detail=way.state.value)
        if State.BLACK_HOLE in (before, way.state):
            return  # nobody is told
        for host in self.hosts:
            for flow in host.flows:
                if self.way(host, flow.here[0], flow.there[0]) is way:
                    flow.tell(PathChange(f"the path is {way.state.value}"))

    @property
    def counts(self) -> Counts:
        """What went over all paths so far; what hosts send to themselves is not counted."""
        return self._paths.counts

    # -- packets

    def send(self, host: Host, packet: Packet) -> float:
        """Let ``host`` send a packet.

        Returns:
            When its last byte has left.
        """
        loop = self._running_loop()
        now = loop.time()
        target = host if host.has(packet.target[0]) else self.host_at(packet.target[0])
        way = self.way(host, packet.source[0], packet.target[0])
        size = packet.length + way.conditions.overhead
        between = (host.name, packet.target[0] if target is None else target.name)
        passage = way.carry(now, size, between)
        notes = ["again"] * packet.again + ["reordered"] * passage.reordered
        notes += ["duplicated"] * (len(passage.arrivals) > 1)
        self._note_packet(now, "sent", packet, size, ", ".join(notes))
        if passage.lost is not None:
            self._note_packet(now, "lost", packet, size, passage.lost.value)
            if passage.lost is Loss.DOWN:
                loop.call_soon(packet.unreachable, "the path is down")
        for arrival in passage.arrivals:
            loop.call_at(arrival, self._arrive, packet, target, way, size)
        return passage.left

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop() is not loop:
            # Another loop has another clock, and nothing of what was on the way.
            self._loop = weakref.ref(loop)
            self._paths.restart()
            for host in self.hosts:
                host.loopback.restart()
        return loop

    def _arrive(self, packet: Packet, target: Host | None, way: Way, size: int) -> None:
        loop = asyncio.get_running_loop()
        way.delivered(size)
        if target is not None:
            self._note_packet(loop.time(), "delivered", packet, size, "")
            packet.arrive(target)
            return
        # A router has it, and nobody to give it to: it says so.
        self._note_packet(loop.time(), "unreachable", packet, size, "nobody has this address")
        loop.call_later(way.conditions.latency, packet.unreachable, "nobody has this address")

    def _note(self, event: str, **more: Any) -> None:
        self.log.append(LogEntry(_now(), event, **more))

    def _note_packet(self, time: float, event: str, packet: Packet, size: int, detail: str) -> None:
        self.log.append(
            LogEntry(
                time,
                event,
                packet.transport,
                packet.what,
                _written(packet.source),
                _written(packet.target),
                size,
                packet.number,
                detail,
            )
        )

    # -- servers, and the end

    def serve(
        self,
        local: LocalEndpoint | str,
        handler: Handler | None = None,
        *,
        max_connections: int | None = None,
        grace: float = 10.0,
        **preconnection: Any,
    ) -> Listener:
        """Start a server; it ends with the scenario, or by its ``stop()``.

        Await it before anybody connects: it then listens.

        Args:
            local: Where, ``"server.example:7000"``. A host of that name is made if
                there is none.
            handler: Runs on that host for each Connection, as for
                ``Preconnection.listen``.
            max_connections: Likewise.
            grace: Likewise.
            **preconnection: What ``Preconnection`` takes beside ``local``.

        Raises:
            ValueError: ``local`` says neither a name nor a host's address.
        """
        endpoint = LocalEndpoint.coerce(local)
        if endpoint.hostname is not None:
            host: Host | None = self._host_called(endpoint.hostname)
        else:
            host = self.host_at(endpoint.ip_address or "")
        if host is None:
            raise ValueError(f"{local}: which host serves? Say its name, or one of its addresses")
        listener = host.listen(
            endpoint, handler, max_connections=max_connections, grace=grace, **preconnection
        )
        self._served.append((host, listener))
        return listener

    def _host_called(self, name: str) -> Host:
        record = self.record(folded(name))
        for address in record.addresses if record is not None else ():
            host = self.host_at(address)
            if host is not None:
                return host
        return self.host(name)

    @property
    def flows(self) -> tuple[MemoryFlow, ...]:
        """The open ends of flows, host by host; to see what was left."""
        return tuple(flow for host in self.hosts for flow in host.flows)

    @property
    def open_flows(self) -> int:
        """Ends of flows that are not closed yet."""
        return len(self.flows)

    @property
    def open_listeners(self) -> int:
        """Listeners that have not been closed."""
        return sum(host.open_listeners for host in self.hosts)

    async def play(self, scenario: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run ``scenario(*arguments)`` on the host ``client``, and end what was served."""
        async with self:
            with self.client.use():
                return await scenario(*arguments)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with contextlib.AsyncExitStack() as ending:
            serving = [host for host, _ in self._served]
            # The last comes first: what servers would close at the end is found open.
            for host in dict.fromkeys(serving):
                ending.push_async_callback(self._close, host, error is not None)
            while self._served:
                _, listener = self._served.pop(0)
                ending.push_async_callback(listener.__aexit__, kind, error, traceback)
            for host in self.hosts:
                if host not in serving:
                    ending.push_async_callback(self._close, host, error is not None)

    async def _close(self, host: Host, failed: bool) -> None:
        # What is left open after a failure is a consequence of it, and no news.
        with contextlib.suppress(ResourceWarning) if failed else contextlib.nullcontext():
            await host.close()


def _now() -> float:
    """The time, 0.0 before there is a loop: paths may be arranged before it runs."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


@lru_cache(maxsize=1024)
def _written(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
