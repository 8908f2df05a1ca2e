"""Paths of this machine: which there are, which are chosen, and what leads where by them.

A path becomes a branch of the candidate tree (RFC 9623, section 4.1.2) by its Local Endpoint:
the interface, and the source address where routes are chosen by that. How a socket is bound to
it is :func:`taps_core.runtime.ip_sockets.bind_socket`'s.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import EstablishmentError, NoCandidates, Reason
from taps_core.model.paths import InterfaceType, ProvisioningDomain, is_link_local, is_loopback
from taps_core.model.properties import Preference
from taps_core.planning.candidates import MAX_LEAVES, build_leaves
from taps_core.planning.paths import choose_paths
from taps_core.planning.policy import Stance
from taps_core.runtime.ip_sockets import FAR_AWAY, source_address
from taps_core.runtime.resolver import Exit
from taps_core.runtime.survey import is_known, of_this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from taps_core.model.endpoints import Endpoint
    from taps_core.model.paths import Interface
    from taps_core.planning.candidates import Families, Leaf
    from taps_core.planning.paths import Path, PathSelection
    from taps_core.planning.policy import Policy
    from taps_core.planning.ranking import Ranked
    from taps_core.runtime.survey import Survey

    Domains: TypeAlias = Mapping[str, Mapping[str, Any]]

__all__ = ["Paths", "gather_on", "placed"]

_STRICT: Final = (Preference.REQUIRE, Preference.PROHIBIT)
#: Addresses that stand for all.
_UNSPECIFIED: Final = ("0.0.0.0", "::")
#: Addresses of the peer that the system is asked about when equal paths are ordered.
_LOOKED_AT: Final = 4
#: Seconds that what ``network`` says may be old: it is asked for every name.
_NETWORK_AGE: Final = 1.0


class Paths:
    """What a System knows of paths: ``System.paths``.

    Args:
        domains: Provisioning Domains of system policy, name → fields (see
            :class:`taps_core.model.paths.ProvisioningDomain`), or a function that
            returns them, asked each time.
        survey: Who tells of the machine; ``None``: its own system.
        policy: Returns what system policy says now, if anything.

    Raises:
        ValueError: A domain cannot be.
    """

    def __init__(
        self,
        domains: Domains | Callable[[], Domains] | None = None,
        *,
        survey: Survey | None = None,
        policy: Callable[[], Policy | None] = lambda: None,
    ) -> None:
        self._domains = domains
        self._fixed = (
            () if domains is None or callable(domains) else ProvisioningDomain.all_of(domains)
        )
        self._policy = policy
        self._survey = survey
        #: Whether ``survey`` tells of something else than this machine.
        self._stands_in = survey is not None
        self._network: Hashable = None
        self._network_until = 0.0
        self._interfaces: Sequence[Interface] = ()
        self._interfaces_until = 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether what asks the machine is imported."""
        return self._survey is not None or is_known()

    def load(self) -> None:
        """Import it: a few hundred milliseconds, so better in a thread than on a loop."""
        _ = self.survey

    @property
    def survey(self) -> Survey:
        """Who tells of the machine."""
        if self._survey is None:
            self._survey = of_this_machine()
        return self._survey

    def interfaces(self) -> Sequence[Interface]:
        """The machine's interfaces, as they are now.

        An answer is as old as it took to get it, and serves for as long again: establishing
        asks several times in a row, and on a host of containers each takes a tenth of a second.
        """
        began = time.monotonic()
        if began >= self._interfaces_until:
            self._interfaces = self.survey.interfaces()
            over = time.monotonic()
            # Who stands in for the machine may change while no time goes by.
            self._interfaces_until = 0.0 if self._stands_in else over + (over - began)
        return self._interfaces

    def domains(self) -> tuple[ProvisioningDomain, ...]:
        """The Provisioning Domains of system policy, as they are now.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: what a function returned cannot be.
        """
        own = self._own_domains()
        policy = self._policy()
        if policy is None or not policy.domains:
            return own
        return tuple({**policy.domains, **{each.name: each for each in own}}.values())

    def _own_domains(self) -> tuple[ProvisioningDomain, ...]:
        if not callable(self._domains):
            return self._fixed
        try:
            return ProvisioningDomain.all_of(self._domains())
        except ValueError as error:
            raise EstablishmentError(str(error), reason=Reason.INVALID_CONFIGURATION) from error

    @property
    def network(self) -> Hashable:
        """Equal as long as this machine is on the same network: for caches to be kept by.

        Made of the prefixes of the addresses from which it would go out, so that it is the
        same again after a while elsewhere; of those of all interfaces that are up, if somebody
        stands in for the machine. Up to a second old.
        """
        now = time.monotonic()
        if now >= self._network_until:
            with contextlib.suppress(OSError):  # for once nobody tells: as it was
                self._network = (
                    _network_of(self.interfaces()) if self._stands_in else _network_outwards()
                )
            self._network_until = now + _NETWORK_AGE
        return self._network

    def changed(self) -> None:
        """Forget what was known: something has changed."""
        self._network_until = 0.0
        self._interfaces_until = 0.0

    # -- choosing

    def choose(
        self, properties: Mapping[str, Any], remotes: Sequence[RemoteEndpoint] = ()
    ) -> PathSelection:
        """Rank the paths by ``interface``, ``pvd`` and system policy, as things are now.

        Args:
            properties: What is asked for.
            remotes: Where it goes, as far as that is known: for system policy.
        """
        policy = self._policy()
        return choose_paths(
            self.interfaces(),
            self.domains(),
            properties,
            None if policy is None else policy.on(remotes),
            bound=policy is not None and policy.needs_paths(remotes),
        )

    def chosen(
        self, properties: Mapping[str, Any], remotes: Sequence[RemoteEndpoint] = ()
    ) -> Sequence[Path]:
        """The paths that are left, best first; none where the system chooses.

        Raises:
            NoCandidates: None is left, with the reasons.
        """
        selection = self.choose(properties, remotes)
        error = selection.error()
        if error is not None:
            raise error
        return selection.ranked

    def branches(
        self,
        reached: Mapping[Path, Sequence[RemoteEndpoint]],
        locals_: Sequence[LocalEndpoint],
        known: Mapping[str, int] = MappingProxyType({}),
    ) -> list[tuple[str, dict[RemoteEndpoint, list[LocalEndpoint]]]]:
        """What leads where: for each path the remotes that it reaches, and from where.

        Args:
            reached: Of :meth:`chosen`, each with what the names mean there, over IP. Of
                those that are equal, the one that the system would take goes first.
            locals_: Those that the application gave, resolved; empty: any.
            known: Places, by name, of those that are equal: what earlier Connections have
                taught goes before the system's choice.

        Returns:
            (name, remote → Local Endpoints) of each path that leads anywhere.
        """
        own = {
            each.address for interface in self.interfaces() for each in interface.addresses or ()
        }
        targets = dict.fromkeys(_target(each) for remotes in reached.values() for each in remotes)
        usual = {self.survey.usual(target) for target in list(targets)[:_LOOKED_AT]}
        found = []

        def place(path: Path) -> tuple[tuple[int, int, int], int, bool]:
            return path.key, known.get(path.name, 0), path.interface.index not in usual

        for path in sorted(reached, key=place):
            branch = {
                remote: here
                for remote in reached[path]
                if (here := self._locals_on(path, remote, locals_, own))
            }
            if branch:
                found.append((path.name, branch))
        return found

    def _locals_on(
        self,
        path: Path,
        remote: RemoteEndpoint,
        locals_: Sequence[LocalEndpoint],
        own: set[str],
    ) -> list[LocalEndpoint]:
        """The Local Endpoints to reach ``remote`` from; none if the path does not lead there."""
        interface, target = path.interface, _target(remote)
        if not _is_on(remote, interface) or not _may_lead(interface, target, own):
            return []
        sources = self._sources(path, target)
        found: dict[LocalEndpoint, None] = {}
        for local in placed(path, locals_ or [LocalEndpoint()]):
            address = local.ip_address
            if address is not None and address not in _UNSPECIFIED:
                if self._leads(target, interface, address):
                    found[local] = None
                continue
            for source in sources:
                found[local if source is None else local.with_ip_address(source)] = None
        return list(found)

    def _sources(self, path: Path, target: str) -> Sequence[str | None]:
        """Addresses to be bound to, beside the interface; ``None``: the system's choice."""
        interface, domain = path.interface, path.domain
        usable = interface.sources(target)
        if domain is not None and domain.addresses:
            version = ":" in target
            wanted = [each for each in domain.addresses if (":" in each) is version]
            return [each for each in wanted if usable is None or each in usable]
        if usable is None:
            return [None]
        if usable and self._leads(target, interface, None):
            return [None]
        return [each for each in usable if self._leads(target, interface, each)]

    def _leads(self, target: str, interface: Interface, source: str | None) -> bool:
        # Loopback has no routes to what it leads to: this machine.
        return interface.type is InterfaceType.LOOPBACK or self.survey.leads_to(
            target, interface, source
        )

    def exit(self, path: Path) -> Exit:
        """For whoever asks DNS servers by a path: from where to ask each of them.

        A server on this machine is asked as ever: its own way out is its own matter.
        """
        own = {
            each.address for interface in self.interfaces() for each in interface.addresses or ()
        }

        def here(address: str) -> bool:
            host = address.partition("%")[0]
            return is_loopback(host) or host in own

        def to(address: str) -> LocalEndpoint | None:
            if here(address):
                return None
            host, _, zone = address.partition("%")
            remote = RemoteEndpoint(ip_address=host, interface=zone or None)
            found = self._locals_on(path, remote, (), own)
            if not found:
                raise EstablishmentError(f"{path.shown} does not lead there")
            return found[0]

        return Exit(path.name, to, here)

    # -- listening

    def places(
        self, endpoints: Sequence[LocalEndpoint], properties: Mapping[str, Any]
    ) -> Sequence[LocalEndpoint]:
        """Where to listen: on all paths that Require and Prohibit leave (RFC 9623, section 4.7).

        Prefer and Avoid order attempts, and a Listener makes none.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: nowhere.
        """
        pairs = (*properties["interface"], *properties["pvd"])
        if not any(preference in _STRICT for preference, _ in pairs) and not self._prohibits():
            return endpoints
        chosen = self.chosen(properties)
        if not chosen:
            return endpoints
        found: dict[LocalEndpoint, None] = {}
        for path in chosen:
            addresses = () if path.domain is None else path.domain.addresses
            for local in placed(path, endpoints):
                if addresses and local.ip_address in (None, *_UNSPECIFIED):
                    found.update(dict.fromkeys(map(local.with_ip_address, addresses)))
                else:
                    found[local] = None
        if not found:
            where = ", ".join(map(str, endpoints))
            paths = ", ".join(path.shown for path in chosen)
            raise EstablishmentError(
                f"{where} is on none of the paths that are left: {paths}",
                reason=Reason.INVALID_CONFIGURATION,
            )
        return list(found)

    def _prohibits(self) -> bool:
        """Whether system policy prohibits interfaces, wherever it goes."""
        policy = self._policy()
        return policy is not None and any(
            say.stance is Stance.PROHIBIT for say in policy.on_listeners().interfaces.values()
        )

    def address_of(self, name: str, families: Collection[int]) -> str | None:
        """An address by which an interface is reached, IPv4 first; ``None``: it has none.

        Args:
            name: Or index.
            families: Those that are left.
        """
        for interface in self.interfaces():
            if name in (interface.name, str(interface.index)):
                addresses = [
                    each.address
                    for each in interface.addresses or ()
                    if not is_link_local(each.address)
                    and (6 if ":" in each.address else 4) in families
                ]
                return min(addresses, key=lambda each: ":" in each, default=None)
        return None

    # -- system policy

    def permitted(self, leaves: Sequence[Leaf], policy: Policy) -> Sequence[Leaf]:
        """Those whose addresses system policy does not prohibit.

        Args:
            leaves: Candidates.
            policy: One that judges addresses.

        Raises:
            NoCandidates: None is left. POLICY_PROHIBITED.
        """
        interfaces: dict[str, Interface] = {}

        def interface_of(name: str) -> Interface | None:
            if not interfaces:
                for each in self.interfaces():
                    interfaces[each.name] = interfaces[str(each.index)] = each
            return interfaces.get(name)

        kept: list[Leaf] = []
        against: dict[str, tuple[str, ...]] = {}
        for leaf in leaves:
            why = policy.against(leaf, interface_of)
            if why:
                against[leaf.what] = why
            else:
                kept.append(leaf)
        if kept or not leaves:
            return kept
        lines = [f"  {what}: {'; '.join(why)}" for what, why in against.items()]
        raise NoCandidates(
            "\n".join(["system policy prohibits all that could be tried:", *lines]),
            reason=Reason.POLICY_PROHIBITED,
            rejected=against,
        )

    # -- temporary addresses

    def is_temporary(self, address: str) -> bool:
        """Whether it is a privacy address of this machine; False where nobody tells."""
        return any(
            each.temporary and each.address == address
            for interface in self.interfaces()
            for each in interface.addresses or ()
        )

    def from_right_source(
        self, leaves: Sequence[Leaf], properties: Mapping[str, Any]
    ) -> list[Leaf]:
        """Those that would be sent from a temporary address, or from none that is.

        The system is asked which address it would choose; nothing is sent.

        Args:
            leaves: Candidates.
            properties: ``useTemporaryLocalAddress`` is REQUIRE or PROHIBIT.

        Raises:
            NoCandidates: None is left.
        """
        wanted: Preference = properties["useTemporaryLocalAddress"]
        required = wanted is Preference.REQUIRE
        temporary = {
            each.address
            for interface in self.interfaces()
            for each in interface.addresses or ()
            if each.temporary
        }
        kept: list[Leaf] = []
        against: dict[str, tuple[str, ...]] = {}
        for leaf in leaves:
            address = leaf.remote.ip_address
            if address is None or ":" not in address:
                kept.append(leaf)  # of others build_leaves has judged
                continue
            try:
                source = source_address(leaf.remote, leaf.local, properties)
            except OSError as error:
                against[leaf.what] = (error.strerror or str(error),)
                continue
            if (source in temporary) is required:
                kept.append(leaf)
            else:
                is_what = "no temporary address" if required else "a temporary address"
                against[leaf.what] = (f"would be sent from {source}, which is {is_what}",)
        if kept or not leaves:
            return kept
        verb = "required" if required else "prohibited"
        lines = [f"  {what}: {'; '.join(why)}" for what, why in against.items()]
        raise NoCandidates(
            "\n".join([f"useTemporaryLocalAddress is {verb}, and nothing was sent:", *lines]),
            rejected=against,
        )


def gather_on(
    paths: Paths,
    ranked: Sequence[Ranked],
    reached: Mapping[Path, Sequence[RemoteEndpoint]],
    locals_: Sequence[LocalEndpoint],
    properties: Mapping[str, Any],
    families: Families,
    known: Mapping[str, int],
) -> list[Leaf]:
    """Candidates by path, then as :func:`taps_core.planning.candidates.build_leaves` has them.

    What is not reached over IP has no path: it comes last, as it is.

    Args:
        paths: Those of the System.
        ranked: Stacks, the best first.
        reached: As for :meth:`Paths.branches`, and what is not reached over IP.
        locals_: Resolved.
        properties: As ``ConnectRequest.properties``.
        families: As for ``build_leaves``.
        known: As for :meth:`Paths.branches`.
    """
    over_ip = {path: [each for each in of if _is_ip(each)] for path, of in reached.items()}
    others = dict.fromkeys(each for of in reached.values() for each in of if not _is_ip(each))
    branches = paths.branches(over_ip, locals_, known)
    share = MAX_LEAVES // max(1, len(branches) + bool(others))
    leaves = [
        leaf
        for place, (name, branch) in enumerate(branches)
        for leaf in build_leaves(
            ranked,
            tuple(branch),
            branch,
            properties=properties,
            path=name,
            place=place,
            max_leaves=share,
            families=families,
        )
    ]
    leaves += build_leaves(
        ranked,
        tuple(others),
        locals_,
        properties=properties,
        place=len(branches),
        max_leaves=share,
    )
    leaves.sort(key=lambda leaf: leaf.group)
    return leaves


def _is_ip(remote: RemoteEndpoint) -> bool:
    return (remote.multicast_group or remote.ip_address) is not None


def placed(path: Path, locals_: Iterable[LocalEndpoint]) -> list[LocalEndpoint]:
    """Those Local Endpoints that can be on this path, bound to its interface."""
    interface, domain = path.interface, path.domain
    return [
        local.with_interface(interface.name)
        for local in locals_
        if _is_on(local, interface)
        and (local.ip_address in (None, *_UNSPECIFIED) or interface.has(str(local.ip_address)))
        and (
            local.ip_address in (None, *_UNSPECIFIED)
            or domain is None
            or not domain.addresses
            or local.ip_address in domain.addresses
        )
    ]


def _target(remote: RemoteEndpoint) -> str:
    """The address that packets go to."""
    target = remote.multicast_group or remote.ip_address
    assert target is not None
    return target


def _is_on(endpoint: Endpoint, interface: Interface) -> bool:
    """Whether its interface (a zone, of a Remote Endpoint) is this one, or it names none."""
    return endpoint.interface in (None, interface.name, str(interface.index))


def _may_lead(interface: Interface, target: str, own: set[str]) -> bool:
    """To this machine itself only loopback leads, and it nowhere else."""
    here = is_loopback(target) or target in own
    return here is (interface.type is InterfaceType.LOOPBACK)


def _network_outwards() -> Hashable:
    """Asked of sockets that send nothing: for every name, so it must cost next to nothing.

    The real prefixes are netlink's to tell, whose import takes longer than a Connection. These
    ones are the same as long as a network gives addresses that are near each other.
    """
    found = set()
    for address in FAR_AWAY:
        with contextlib.suppress(OSError):  # no way there
            source = source_address(RemoteEndpoint(ip_address=address), None, {})
            if source is not None:
                length = 64 if ":" in source else 24
                found.add(str(ipaddress.ip_network(f"{source}/{length}", strict=False)))
    return frozenset(found)


def _network_of(interfaces: Iterable[Interface]) -> Hashable:
    return frozenset(
        str(ipaddress.ip_network(f"{each.address}/{each.prefix_length}", strict=False))
        for interface in interfaces
        if interface.up
        for each in interface.addresses or ()
        if not is_loopback(each.address) and not is_link_local(each.address)
    )
