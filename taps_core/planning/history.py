"""What establishing has taught about destinations (RFC 9623, section 9). No I/O, no clock.

For each network, host and port: which Protocol Stacks, addresses and paths have worked,
which have failed, and how long the transport's handshake took. It orders what would
otherwise be equal; it removes nothing, and nothing that the application asked for.

Trouble fades: it halves every :data:`HALF_LIFE` seconds, and counts as long as more than
half of one failure is left. So one failure counts for that long, several for longer, up
to :data:`MOST_TROUBLE`. A success ends it. An attempt that was overtaken counts as one that
failed: it began before the winner, and had at least twice its time.

Bounded: :data:`MAX_DESTINATIONS`, those used longest ago go first, and :data:`LIFE`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taps_core.model.errors import EstablishmentRefused, Reason
from taps_core.planning.candidates import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.reports import Attempt
    from taps_core.planning.candidates import Leaf

    #: Names of a stack's transport and security layer.
    Protocols: TypeAlias = tuple[str, ...]

__all__ = ["HALF_LIFE", "LIFE", "MAX_DESTINATIONS", "NOTHING", "Evidence", "History"]

#: Destinations that are remembered at most, and of each addresses, paths and networks.
MAX_DESTINATIONS: Final = 1000
MAX_ADDRESSES: Final = 32
MAX_PATHS: Final = 32
MAX_NETWORKS: Final = 8

#: Seconds after which what was not used is forgotten.
LIFE: Final = 24 * 3600.0

#: Seconds in which trouble halves.
HALF_LIFE: Final = 300.0

#: Failures that count together at most: twenty minutes until they are forgotten.
MOST_TROUBLE: Final = 8.0

#: Seconds in which the weight of a handshake's time halves, and after which it counts no more
#: (RFC 9623, section 9.2: what changes quickly has a short life).
ROUND_TRIP_HALF_LIFE: Final = 60.0
ROUND_TRIP_LIFE: Final = 600.0

#: A path is slow whose handshakes are known to take so often what they take on another, and
#: so many seconds more.
_SLOW: Final = 2.0
_SLOWER_BY: Final = 0.010

#: How often an attempt must have had the winner's time to have been overtaken.
_OVERTAKEN: Final = 2.0

#: Reasons that tell of the request, not of the network or the peer.
_OURS: Final = frozenset(
    {Reason.INVALID_CONFIGURATION, Reason.POLICY_PROHIBITED, Reason.LOCAL_ABORT}
)


class Evidence(NamedTuple):
    """What is known about the stacks to a destination."""

    speaks: frozenset[str]
    """Names of transports that have worked."""
    failing: frozenset[Protocols]
    """Stacks that have not, lately."""


NOTHING: Final = Evidence(frozenset(), frozenset())


class _Fate:
    """How one stack, or one address, has fared."""

    __slots__ = ("trouble", "trouble_at", "worked_at")

    def __init__(self) -> None:
        self.worked_at: float | None = None
        self.trouble = 0.0
        self.trouble_at = 0.0

    def learn(self, worked: bool, now: float) -> None:
        if worked:
            self.worked_at = now
        self.trouble = 0.0 if worked else min(self.trouble_now(now) + 1.0, MOST_TROUBLE)
        self.trouble_at = now

    def trouble_now(self, now: float) -> float:
        return self.trouble * _faded(now - self.trouble_at, HALF_LIFE)

    def is_failing(self, now: float) -> bool:
        return self.trouble_now(now) > 0.5

    def has_worked(self, now: float) -> bool:
        return self.worked_at is not None and not self.is_failing(now)


class _Record:
    """One destination on one network."""

    __slots__ = ("addresses", "paths", "round_trips", "stacks", "used")

    def __init__(self) -> None:
        self.used = 0.0
        self.stacks: dict[Protocols, _Fate] = {}
        self.addresses: dict[str, _Fate] = {}
        #: By name; not where the system chose.
        self.paths: dict[str, _Fate] = {}
        #: Address and path → seconds, and when that was.
        self.round_trips: dict[tuple[str, str], tuple[float, float]] = {}

    def address(self, address: str) -> _Fate:
        fate = self.addresses.pop(address, None) or _Fate()
        if len(self.addresses) >= MAX_ADDRESSES:
            oldest = next(iter(self.addresses))
            del self.addresses[oldest]
            for key in [each for each in self.round_trips if each[0] == oldest]:
                del self.round_trips[key]
        self.addresses[address] = fate
        return fate

    def path(self, name: str) -> _Fate:
        fate = self.paths.pop(name, None) or _Fate()
        if len(self.paths) >= MAX_PATHS:
            del self.paths[next(iter(self.paths))]
        self.paths[name] = fate
        return fate

    def took(self, address: str, path: str, seconds: float, now: float) -> None:
        known = self.round_trips.get((address, path))
        if known is not None:
            before, at = known
            share = 0.875 * _faded(now - at, ROUND_TRIP_HALF_LIFE)
            seconds = share * before + (1.0 - share) * seconds
        self.round_trips[address, path] = seconds, now


class History:
    """All of it.

    ``network`` is whatever tells networks apart, ``now`` seconds on one clock.
    """

    def __init__(self) -> None:
        #: Host and port → network → what is known. Those used last come last.
        self._known: dict[tuple[str, int | None], dict[Hashable, _Record]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def knows(self, remotes: Iterable[RemoteEndpoint]) -> bool:
        """Whether anything is known about one of these, on whatever network."""
        known = self._known
        return bool(known) and any(_destination(each) in known for each in remotes)

    def about(self, remotes: Iterable[RemoteEndpoint], network: Hashable, now: float) -> Evidence:
        """What is known about the stacks to these, which are alternatives."""
        speaks: set[str] = set()
        failing: set[Protocols] = set()
        for record in self._records(remotes, network, now):
            for protocols, fate in record.stacks.items():
                if fate.has_worked(now):
                    speaks.add(protocols[0])
                elif fate.is_failing(now):
                    failing.add(protocols)
        if not (speaks or failing):
            return NOTHING
        return Evidence(frozenset(speaks), frozenset(failing))

    def order(self, leaves: Sequence[Leaf], network: Hashable, now: float) -> Sequence[Leaf]:
        """The same, of each host the addresses that have worked first, those in trouble last.

        What is said about an address holds, a little less, for the others of its family.
        """
        hosts: dict[Hashable, list[int]] = {}
        for index, leaf in enumerate(leaves):
            hosts.setdefault((leaf.group, leaf.path, leaf.stack.name, leaf.host), []).append(index)
        ordered = list(leaves)
        for indices in hosts.values():
            if len(indices) > 1:
                those = [leaves[index] for index in indices]
                places = self._places(those, network, now)
                those.sort(key=places.__getitem__)
                for index, leaf in zip(indices, those, strict=True):
                    ordered[index] = leaf
        return ordered

    def paths(
        self, remotes: Sequence[RemoteEndpoint], network: Hashable, now: float
    ) -> Mapping[str, int]:
        """Places for paths to these that are equal otherwise; of those not named it is 0.

        1: handshakes take clearly longer than on another; 2: failing.
        """
        places: dict[str, int] = {}
        times: dict[str, float] = {}
        hosts = {_destination(each): each for each in remotes}
        for record in self._records(hosts.values(), network, now):
            for name, fate in record.paths.items():
                if fate.is_failing(now):
                    places[name] = 2
            for (_, name), (seconds, at) in record.round_trips.items():
                if now - at <= ROUND_TRIP_LIFE:
                    times[name] = min(seconds, times.get(name, seconds))
        best = min(times.values(), default=0.0)
        for name, seconds in times.items():
            if seconds > max(_SLOW * best, best + _SLOWER_BY):
                places.setdefault(name, 1)
        return places

    def round_trip(
        self, remote: RemoteEndpoint, path: str, network: Hashable, now: float
    ) -> float | None:
        """Seconds that the transport's handshake took lately, if that is known."""
        for record in self._records((remote,), network, now):
            known = record.round_trips.get((remote.ip_address or "", path))
            if known is not None and now - known[1] <= ROUND_TRIP_LIFE:
                return known[0]
        return None

    def learn(self, attempts: Mapping[Leaf, Attempt], network: Hashable, now: float) -> None:
        """A race is over.

        Args:
            attempts: All that were made, with what became of them.
            network: Where.
            now: The present.
        """
        winner = next((each for each in attempts.values() if each.outcome == "ready"), None)
        # What has worked in any way is not in trouble.
        stacks: dict[tuple[_Record, Protocols], bool] = {}
        addresses: dict[tuple[_Record, str], bool] = {}
        paths: dict[tuple[_Record, str], bool] = {}
        for leaf, attempt in attempts.items():
            worked = _judged(attempt, winner)
            address = leaf.remote.ip_address
            if worked is None or leaf.silent or address is None:
                continue
            record = self._record(leaf.remote, network, now)
            stack = record, leaf.stack.protocols
            stacks[stack] = stacks.get(stack, False) or worked
            place = record, address
            addresses[place] = addresses.get(place, False) or worked
            if leaf.path != DEFAULT_PATH:
                way = record, leaf.path
                paths[way] = paths.get(way, False) or worked
            end = attempt.ended if attempt.connected is None else attempt.connected
            if worked and end is not None:
                record.took(address, leaf.path, end - attempt.started, now)
        for (record, protocols), worked in stacks.items():
            record.stacks.setdefault(protocols, _Fate()).learn(worked, now)
        for (record, address), worked in addresses.items():
            record.address(address).learn(worked, now)
        for (record, name), worked in paths.items():
            record.path(name).learn(worked, now)

    def forget(self, host: str | None = None) -> None:
        """All, or what is known about one name or address."""
        if host is None:
            self._known.clear()
        for destination in [each for each in self._known if each[0] == host]:
            del self._known[destination]

    # -- to be looked at, and kept

    def as_json(self, now: float) -> list[dict[str, Any]]:
        """One object for each destination on each network; times in seconds ago."""
        return [
            {
                "host": host,
                "port": port,
                "network": network,
                "used": now - record.used,
                "stacks": {
                    "/".join(reversed(protocols)): _told(fate, now)
                    for protocols, fate in record.stacks.items()
                },
                "addresses": {
                    address: _told(fate, now) for address, fate in record.addresses.items()
                },
                "paths": {name: _told(fate, now) for name, fate in record.paths.items()},
                "round_trips": [
                    {"address": address, "path": path, "seconds": seconds, "ago": now - at}
                    for (address, path), (seconds, at) in record.round_trips.items()
                ],
            }
            for (host, port), networks in self._known.items()
            for network, record in networks.items()
            if now - record.used <= LIFE
        ]

    def restore(self, told: Iterable[Mapping[str, Any]], now: float, older: float = 0.0) -> None:
        """Add what :meth:`as_json` said, ``older`` seconds later.

        Raises:
            KeyError, TypeError, ValueError: It is something else. What came before is added.
        """
        now -= older
        for each in told:
            record = _Record()
            record.used = now - float(each["used"])
            for stack, fate in each["stacks"].items():
                record.stacks[tuple(reversed(stack.split("/")))] = _restored(fate, now)
            for address, fate in each["addresses"].items():
                record.addresses[str(address)] = _restored(fate, now)
            for name, fate in each.get("paths", {}).items():
                record.paths[str(name)] = _restored(fate, now)
            for trip in each["round_trips"]:
                key = str(trip["address"]), str(trip["path"])
                record.round_trips[key] = float(trip["seconds"]), now - float(trip["ago"])
            self._put((each["host"], each["port"]), each["network"], record)

    # -- how

    def _records(
        self, remotes: Iterable[RemoteEndpoint], network: Hashable, now: float
    ) -> Iterator[_Record]:
        for remote in remotes:
            record = self._known.get(_destination(remote), {}).get(network)
            if record is not None and now - record.used <= LIFE:
                yield record

    def _record(self, remote: RemoteEndpoint, network: Hashable, now: float) -> _Record:
        destination = _destination(remote)
        record = self._known.get(destination, {}).get(network)
        if record is None or now - record.used > LIFE:
            record = _Record()
        record.used = now
        self._put(destination, network, record)
        return record

    def _put(self, destination: tuple[str, int | None], network: Hashable, record: _Record) -> None:
        networks = self._known.pop(destination, {})
        networks.pop(network, None)
        if len(networks) >= MAX_NETWORKS:
            del networks[next(iter(networks))]
        networks[network] = record
        if len(self._known) >= MAX_DESTINATIONS:
            del self._known[next(iter(self._known))]
        self._known[destination] = networks

    def _places(self, leaves: Sequence[Leaf], network: Hashable, now: float) -> dict[Leaf, float]:
        """Smaller ones first: worked, its family has, nothing known, its family fails, fails."""
        places = dict.fromkeys(leaves, 0.0)
        families: dict[int | None, float] = {}
        for leaf in leaves:
            for record in self._records((leaf.remote,), network, now):
                for address, fate in record.addresses.items():
                    place = _place(fate, now)
                    family = 6 if ":" in address else 4
                    # What has worked counts for more than what has not.
                    families[family] = min(families.get(family, place), place)
                    if address == leaf.remote.ip_address:
                        places[leaf] = place
        return {leaf: place or families.get(leaf.family, 0.0) / 2 for leaf, place in places.items()}


def _destination(remote: RemoteEndpoint) -> tuple[str, int | None]:
    return (remote.hostname or remote.ip_address or "", remote.port)


def _faded(age: float, half_life: float) -> float:
    return math.pow(0.5, max(0.0, age) / half_life)


def _place(fate: _Fate, now: float) -> float:
    if fate.is_failing(now):
        return 1.0
    return 0.0 if fate.worked_at is None else -1.0


def _judged(attempt: Attempt, winner: Attempt | None) -> bool | None:
    """Whether it worked; ``None``: it says nothing about the network or the peer."""
    if attempt.outcome == "ready":
        return True
    if attempt.outcome == "failed":
        error = attempt.error
        ours = isinstance(error, EstablishmentRefused) or getattr(error, "reason", None) in _OURS
        return None if ours else False
    if attempt.outcome != "cancelled" or winner is None or attempt.connected is not None:
        return None
    if attempt.ended is None or winner.ended is None or attempt.started >= winner.started:
        return None
    had, needed = attempt.ended - attempt.started, winner.ended - winner.started
    return False if had >= _OVERTAKEN * needed else None


def _told(fate: _Fate, now: float) -> dict[str, float | None]:
    return {
        "worked": None if fate.worked_at is None else now - fate.worked_at,
        "trouble": fate.trouble_now(now),
    }


def _restored(told: Mapping[str, Any], now: float) -> _Fate:
    fate = _Fate()
    if told["worked"] is not None:
        fate.worked_at = now - float(told["worked"])
    fate.trouble = min(float(told["trouble"]), MOST_TROUBLE)
    fate.trouble_at = now
    return fate
