"""Candidates (RFC 9623, sections 4.1 and 4.2): what can be tried, in which order.

A candidate is a leaf of the tree path → Protocol Stack → derived endpoint:
one stack, one address to reach, and the local endpoint to use. One node
branches in one way only. Names were resolved before; this part is pure.

Unless something is asked for about paths, there is one, the system's own choice:
``"default"``. Others are chosen in :mod:`taps_core.planning.paths`, and are a branch by
the Local Endpoints that lead to each remote.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from taps_core.model.properties import Preference

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from taps_core.model.endpoints import Endpoint, LocalEndpoint, RemoteEndpoint
    from taps_core.planning.stacks import Stack

__all__ = [
    "DEFAULT_PATH",
    "MAX_LEAVES",
    "USUAL_FAMILIES",
    "Families",
    "Leaf",
    "RankedStack",
    "build_leaves",
    "chooses_paths",
    "companions",
    "family_of",
    "interleave",
]

DEFAULT_PATH: Final = "default"

#: Leaves of one race at most (RFC 9623, section 12.2: the network decides how
#: many addresses a name has). Each stack gets an equal share, and in it each host.
MAX_LEAVES: Final = 64


class Families(NamedTuple):
    """How address families alternate."""

    first: int | None
    """6 or 4; ``None``: that of a host's first address."""
    in_a_row: int
    """How many of it come before one of the other: the First Address Family Count of
    RFC 8305, section 8."""


#: RFC 9623, section 4.1.3: with temporary addresses preferred, as they are, IPv6 is first.
USUAL_FAMILIES: Final = Families(6, 1)


class RankedStack(Protocol):
    """What the ranking says of a stack."""

    @property
    def stack(self) -> Stack:
        """The Protocol Stack."""

    @property
    def racing_class(self) -> Hashable:
        """Only stacks whose classes are equal race each other."""


class Leaf:
    """One attempt that can be made. Compares by identity.

    Args:
        stack: The Protocol Stack.
        remote: Resolved: ``ip_address`` and ``port``, a group, or a plugin's
            own identifiers.
        local: Address, port or interface to use; ``None``: the system chooses.
        path: The path's name.
        group: Rank of its security class, 0 for the first.
        place: Ranks of its path and its stack, 0 for the first: where a leaf that becomes
            known late goes among those that wait.
        silent: Whether it is established without a word from the peer, and so proves
            nothing (RFC 9623, section 4.6).
    """

    __slots__ = ("group", "local", "path", "place", "remote", "silent", "stack")

    def __init__(
        self,
        stack: Stack,
        remote: RemoteEndpoint,
        local: LocalEndpoint | None = None,
        *,
        path: str = DEFAULT_PATH,
        group: int = 0,
        place: tuple[int, int] = (0, 0),
        silent: bool = False,
    ) -> None:
        self.stack = stack
        self.remote = remote
        self.local = local
        self.path = path
        self.group = group
        self.place = place
        self.silent = silent

    @property
    def family(self) -> int | None:
        """4 or 6; ``None`` where there is no IP address."""
        return family_of(self.remote)

    @property
    def host(self) -> Hashable:
        """Addresses of one host race as RFC 8305 says; each host is a branch of its own.

        Addresses that the application gave without a name are one host: it
        says by them where the same service is. Hosts that a service's records name
        are several.
        """
        remote = self.remote
        if remote.ip_address is None:
            return str(remote)
        return (remote.hostname, remote.port, remote.target)

    @property
    def key(self) -> Hashable:
        """Equal for leaves that try the same thing."""
        return (self.path, self.stack.name, self.remote, self.local)

    @property
    def what(self) -> str:
        """Stack and address, ``"length-prefix/TCP to [::1]:7000"``."""
        return f"{self.stack.name} to {_place(self.remote)}{_from(self.local)}"

    def as_json(self) -> dict[str, Any]:
        """Its parts as values that ``json`` can write: see ``Attempt.as_json``."""
        local = self.local
        return {
            "stack": self.stack.name,
            "path": self.path,
            "remote": _place(self.remote),
            "local": None if local is None else local.ip_address or local.interface or str(local),
            "failover": self.group,
            # Not what it was told: one that nothing races against was told nothing.
            "silent": not self.stack.handshakes,
        }

    def __repr__(self) -> str:
        return f"<Leaf {self.what}>"


def chooses_paths(properties: Mapping[str, Any]) -> bool:
    """Whether anything is asked for about interfaces or Provisioning Domains."""
    return bool(properties["interface"] or properties["pvd"])


def build_leaves(
    ranked: Sequence[RankedStack],
    remotes: Sequence[RemoteEndpoint],
    locals_: Sequence[LocalEndpoint] | Mapping[RemoteEndpoint, Sequence[LocalEndpoint]] = (),
    *,
    properties: Mapping[str, Any],
    path: str = DEFAULT_PATH,
    place: int = 0,
    max_leaves: int = MAX_LEAVES,
    families: Families = USUAL_FAMILIES,
) -> list[Leaf]:
    """Everything that can be tried, the best first.

    Args:
        ranked: Stacks, the best first. The first stack of each racing class
            gives the class its place; each class is failover for the one
            before it (RFC 9621, section 3.3).
        remotes: Resolved endpoints, in the application's and the resolver's
            order. What has neither address nor identifier is no candidate.
        locals_: Resolved local endpoints. If there are any, only they are
            used, each for the remotes of its own family; or those of each remote, where
            a path decides that: a remote that it does not lead to is not there.
        properties: As ``ConnectRequest.properties``. With
            ``useTemporaryLocalAddress`` REQUIRE there is no IPv4.
        path: The path that the names were resolved on.
        place: Rank of the path, 0 for the best.
        max_leaves: Bound of the result.
        families: How the families alternate.

    Returns:
        Leaves by class, stack, host and address; the addresses of a host
        alternate between the families (RFC 8305, section 4).
    """
    temporary = properties.get("useTemporaryLocalAddress") is Preference.REQUIRE
    if len(ranked) == 1 == len(remotes) and not locals_ and not temporary:
        (remote,), stack = remotes, ranked[0].stack
        if remote.ip_address and not remote.protocol and "ip" in stack.transport.serves:
            # One address and one way to speak to it: nothing to look into.
            return [Leaf(stack, remote, path=path)]
    if temporary:
        remotes = [remote for remote in remotes if family_of(remote) != 4]
    groups: dict[Hashable, int] = {}
    stacks: list[list[list[Leaf]]] = []
    for rank, each in enumerate(ranked):
        group = groups.setdefault(each.racing_class, len(groups))
        hosts: dict[Hashable, list[Leaf]] = {}
        transport = each.stack.transport
        silent = not each.stack.handshakes
        for remote in _reachable(remotes, transport.name, transport.serves):
            here = locals_[remote] if isinstance(locals_, Mapping) else locals_
            for local in _usable(here, remote, transport.name, transport.serves):
                leaf = Leaf(
                    each.stack,
                    remote if local is None else _with_zone(remote, local),
                    local,
                    path=path,
                    group=group,
                    place=(place, rank),
                    silent=silent,
                )
                hosts.setdefault(leaf.host, []).append(leaf)
        if hosts:
            stacks.append(list(hosts.values()))
    share = max(1, max_leaves // max(1, len(stacks)))
    leaves: list[Leaf] = []
    for of_stack in stacks:
        each_host = max(1, share // len(of_stack))
        capped = [
            leaf
            for host in of_stack
            for leaf in interleave(host, first=families.first, count=families.in_a_row)[:each_host]
        ]
        leaves += capped[:share]
    leaves.sort(key=lambda leaf: leaf.group)
    return leaves[:max_leaves]


def interleave(leaves: Sequence[Leaf], *, first: int | None = 6, count: int = 1) -> list[Leaf]:
    """The same leaves, families in turn, each family's order kept.

    Args:
        leaves: Of one host.
        first: Family of the first one: 6 or 4; ``None``: that of the first leaf.
        count: How many of that family come before one of the other.
    """
    if first is None and leaves:
        first = leaves[0].family
    ones = [leaf for leaf in leaves if leaf.family == first]
    others = [leaf for leaf in leaves if leaf.family != first]
    pairs = zip_longest(ones[count - 1 :], others)
    return ones[: count - 1] + [leaf for pair in pairs for leaf in pair if leaf is not None]


def companions(
    leaf: Leaf, leaves: Sequence[Leaf]
) -> tuple[Sequence[RemoteEndpoint], Sequence[LocalEndpoint]]:
    """What an attempt at ``leaf`` may use beside its own remote and local endpoint.

    Returns:
        Remote and local endpoints of the other leaves of its stack and host, in their order.
    """
    if len(leaves) == 1:
        return (), ()
    same = [other for other in leaves if other.stack is leaf.stack and other.host == leaf.host]
    remotes = dict.fromkeys(other.remote for other in same if other.remote != leaf.remote)
    locals_ = dict.fromkeys(
        other.local for other in same if other.local is not None and other.local != leaf.local
    )
    return tuple(remotes), tuple(locals_)


def family_of(endpoint: Endpoint) -> int | None:
    """4 or 6, of its address or its group; ``None`` where it has neither."""
    address = endpoint.multicast_group or endpoint.ip_address
    if address is None:
        return None
    return 6 if ":" in address else 4


def _reachable(
    remotes: Sequence[RemoteEndpoint], protocol: str, serves: frozenset[str]
) -> list[RemoteEndpoint]:
    """Those that this transport can reach, each once.

    An endpoint for this protocol takes the place of the general one of the
    same host: it is «an alternate port to use» (RFC 9622, section 6.1.3).
    """
    special = {_name(it) for it in remotes if it.protocol == protocol} - {None}
    found = dict.fromkeys(
        it
        for it in remotes
        if (it.protocol == protocol or (it.protocol is None and _name(it) not in special))
        and (("ip" in serves and it.ip_address is not None) or it.kinds & serves - {"ip"})
    )
    return list(found)


def _usable(
    locals_: Sequence[LocalEndpoint], remote: RemoteEndpoint, protocol: str, serves: frozenset[str]
) -> Sequence[LocalEndpoint | None]:
    """The local endpoints that go with this remote; ``[None]`` where none was given."""
    if not locals_:
        return [None]
    family = family_of(remote)
    return [
        local
        for local in dict.fromkeys(locals_)
        if local.protocol in (None, protocol)
        and (not local.kinds or local.kinds & serves)
        and (local.ip_address is None or family_of(local) == family)
    ]


def _with_zone(remote: RemoteEndpoint, local: LocalEndpoint) -> RemoteEndpoint:
    """A link-local address means something only with its zone: that of the interface used."""
    address = remote.ip_address
    if local.interface is None or remote.interface is not None or address is None:
        return remote
    if not address.startswith("fe"):
        return remote
    from taps_core.model.paths import is_link_local

    return remote.with_interface(local.interface) if is_link_local(address) else remote


def _name(endpoint: Endpoint) -> str | None:
    return endpoint.hostname or endpoint.ip_address


def _place(remote: RemoteEndpoint) -> str:
    address = remote.ip_address
    if address is None:
        return str(remote)
    if remote.interface is not None:
        address = f"{address}%{remote.interface}"
    if remote.port is None:
        return address
    return f"[{address}]:{remote.port}" if ":" in address else f"{address}:{remote.port}"


def _from(local: LocalEndpoint | None) -> str:
    where = None if local is None else (local.ip_address or local.interface)
    return "" if where is None else f" from {where}"
