"""System policy (RFC 9623, section 3.2): what this machine and its user say. Pure.

A policy is a sequence of rules. Each says for which destinations it is (all, or those
that its ``hosts``, ``networks`` and ``ports`` name) and what it prefers, avoids or
prohibits there: protocols, interfaces, address families. Merging is one rule:

* the last rule that prefers or avoids something decides about it;
* what any rule prohibits is prohibited, whatever comes before or after it.

So policies are merged by putting one after the other, and none un-prohibits what another
has prohibited, in whichever order they come.

A prohibition is judged for each address, also those that a name leads to later. Whether
something is preferred is asked before, so there a name is matched by ``hosts`` alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taps_core.model.errors import PolicyError
from taps_core.planning.candidates import MAX_LEAVES
from taps_core.planning.staggering import MAX_DELAY, MIN_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence
    from typing import TypeAlias

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.paths import Interface, ProvisioningDomain
    from taps_core.planning.candidates import Leaf
    from taps_core.planning.staggering import Staggering

    Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

__all__ = ["RACING", "Policy", "Rule", "Say", "Stance", "Subject", "Verdict"]

#: Outcomes for destinations that are remembered at most.
_REMEMBERED: Final = 256


class Stance(StrEnum):
    """What a rule says of something."""

    PREFER = "prefer"
    AVOID = "avoid"
    PROHIBIT = "prohibit"

    @property
    def says(self) -> str:
        """For sentences: ``"prefers"``."""
        return f"{self}s"


class Subject(StrEnum):
    """What rules are about; the keys of a ``[prefer]`` table."""

    PROTOCOLS = "protocols"
    """Names of transports and security layers: ``"tcp"``, ``"tls"``."""
    INTERFACES = "interfaces"
    """Names (``"wlan0"``) and types (``"cellular"``)."""
    FAMILIES = "families"
    """``"IPv4"`` and ``"IPv6"``."""


#: Keys of a ``[racing]`` table → least and greatest value, in seconds.
RACING: Final[Mapping[str, tuple[float, float]]] = {
    "delay": (MIN_DELAY, MAX_DELAY),
    "min_delay": (MIN_DELAY, MAX_DELAY),
    "max_delay": (MIN_DELAY, MAX_DELAY),
    "path_delay": (0.0, MAX_DELAY),
}

_BOUNDS: Final = ("min_delay", "max_delay")

_FAMILIES: Final = {"ipv4": "4", "ipv6": "6"}


class Say(NamedTuple):
    """What was said about something, and by whom."""

    stance: Stance
    source: str
    """File and rule, or empty: the program."""

    def sentence(self, name: str) -> str:
        """``"system policy avoids sctp (/etc/taps/policy.toml, rule 2)"``."""
        return f"system policy {self.stance.says} {name}" + self.by

    @property
    def by(self) -> str:
        """Source in parentheses, to be appended."""
        return f" ({self.source})" if self.source else ""


class Rule(NamedTuple):
    """What is said about some destinations, or about all. A value."""

    source: str = ""
    """File and rule, for sentences; empty: the program."""
    hosts: tuple[str, ...] = ()
    """Patterns of names, folded; ``*`` stands for anything, dots too."""
    networks: tuple[Network, ...] = ()
    """Of numeric addresses."""
    ports: tuple[tuple[int, int], ...] = ()
    """Ranges, both ends included."""
    says: tuple[tuple[Subject, str, Stance], ...] = ()
    """What it prefers, avoids and prohibits; names folded, families ``"4"`` and ``"6"``."""
    racing: tuple[tuple[str, float], ...] = ()
    """Of :data:`RACING`."""

    @property
    def is_general(self) -> bool:
        """Whether it is for every destination."""
        return not (self.hosts or self.networks or self.ports)

    def prohibits(self, *subjects: Subject) -> bool:
        """Whether it prohibits anything of these kinds."""
        return any(
            stance is Stance.PROHIBIT and subject in subjects for subject, _, stance in self.says
        )

    def covers(self, remote: RemoteEndpoint, *, unknown: bool = False) -> bool:
        """Whether it is for this destination.

        Args:
            remote: Of which address or port may not be known yet.
            unknown: What to say where they are what it depends on.
        """
        if self.hosts:
            name = (remote.hostname or "").rstrip(".").lower()
            if not name or not any(fnmatchcase(name, pattern) for pattern in self.hosts):
                return False
        if self.networks:
            address = remote.multicast_group or remote.ip_address
            if address is None:
                if not unknown:
                    return False
            elif not any(_is_in(address, network) for network in self.networks):
                return False
        if self.ports:
            if remote.port is None:
                return unknown
            return any(first <= remote.port <= last for first, last in self.ports)
        return True


class Verdict:
    """What policy says about one destination. Do not change it: it is shared.

    Attributes:
        protocols: Name → what is said.
        interfaces: Name or type → what is said.
        families: 4 or 6 → what is said.
        racing: Key of :data:`RACING` → seconds and source.
        key: Equal for equal verdicts.
    """

    __slots__ = (
        "_elsewhere",
        "_staggering",
        "families",
        "interfaces",
        "key",
        "protocols",
        "racing",
    )

    def __init__(
        self, rules: Iterable[tuple[Rule, bool]], *, elsewhere: Sequence[Rule] | None = None
    ) -> None:
        """Merge.

        Args:
            rules: Those that count, in order; False: all but their prohibitions.
            elsewhere: For a Listener, and only for one: those that are for destinations.
        """
        said: dict[Subject, dict[str, Say]] = {subject: {} for subject in Subject}
        racing: dict[str, tuple[float, str]] = {}
        for rule, for_all in rules:
            for subject, name, stance in rule.says:
                known = said[subject].get(name)
                if known is not None and known.stance is Stance.PROHIBIT:
                    continue
                if stance is not Stance.PROHIBIT or for_all:
                    said[subject][name] = Say(stance, rule.source)
            racing.update((key, (value, rule.source)) for key, value in rule.racing)
        self.protocols: Mapping[str, Say] = said[Subject.PROTOCOLS]
        self.interfaces: Mapping[str, Say] = said[Subject.INTERFACES]
        self.families: Mapping[int, Say] = {
            int(name): say for name, say in said[Subject.FAMILIES].items()
        }
        self.racing: Mapping[str, tuple[float, str]] = racing
        self._elsewhere = elsewhere
        #: The last one that was made: base, own, families, result.
        self._staggering: tuple[Staggering, bool, bool, Staggering] | None = None
        self.key: Hashable = (
            *(
                frozenset(each.items())
                for each in (self.protocols, self.interfaces, self.families, self.racing)
            ),
            None if elsewhere is None else tuple(elsewhere),
        )

    def of(self, protocols: Iterable[str]) -> tuple[str, Say] | None:
        """What decides about a stack of these: the worst that is said about any of them."""
        found = [(name, self.protocols[name]) for name in protocols if name in self.protocols]
        return max(found, key=_severity, default=None)

    def prohibited(self, protocols: Iterable[str]) -> Iterator[str]:
        """Sentences about those that are prohibited."""
        for name in protocols:
            say = self.protocols.get(name)
            if say is not None and say.stance is Stance.PROHIBIT:
                yield say.sentence(name)

    def of_interface(self, interface: Interface) -> tuple[str, Say] | None:
        """What decides about an interface, by name and by type: the worst that is said.

        The word that it was called by comes with it.
        """
        from taps_core.model.paths import type_named  # only where there are paths

        found = [
            (word, say)
            for word, say in self.interfaces.items()
            if word == interface.name or type_named(word) is interface.type
        ]
        return max(found, key=_severity, default=None)

    @property
    def first_family(self) -> int | None:
        """The address family that goes first by preference, if any does."""
        stances = {family: say.stance for family, say in self.families.items()}
        for family, other in ((6, 4), (4, 6)):
            if stances.get(family) is Stance.PREFER and stances.get(other) is not Stance.PREFER:
                return family
            if stances.get(other) is Stance.AVOID and stances.get(family) is not Stance.AVOID:
                return family
        return None

    @property
    def avoids_family(self) -> bool:
        """Whether the other family goes behind all of the first one, not in turn."""
        return any(say.stance is Stance.AVOID for say in self.families.values())

    def staggering(self, base: Staggering, *, own: bool, families: bool) -> Staggering:
        """When attempts follow each other, with what is said about delays and families.

        Args:
            base: Without.
            own: Whether the program chose it: then only its delays are bounded.
            families: Whether the application left it open which family goes first.
        """
        if not (self.racing or self.families):
            return base
        known = self._staggering
        if known is None or known[:-1] != (base, own, families):
            changes: dict[str, Any] = {
                name: value
                for name, (value, _) in self.racing.items()
                if name in ("min_delay", "max_delay") or not own
            }
            # Of several sources each may have one bound: then the greatest delay counts.
            least, most = (changes.get(name, getattr(base, name)) for name in _BOUNDS)
            changes["min_delay"] = min(least, most)
            family = None if own or not families else self.first_family
            if family is not None:
                changes["first_family"] = family
                if self.avoids_family:
                    changes["first_family_count"] = MAX_LEAVES
            known = self._staggering = (base, own, families, base.but(**changes))
        return known[-1]

    def against_family(self, family: int | None) -> str | None:
        """Why an address of this family must not be used; ``None`` if it may."""
        say = None if family is None else self.families.get(family)
        prohibited = say is not None and say.stance is Stance.PROHIBIT
        return say.sentence(f"IPv{family}") if say is not None and prohibited else None

    def notes(self) -> Iterator[str]:
        """What is said beside protocols and interfaces, in sentences.

        To a Listener also what has no effect on it.
        """
        orders = [(f"IPv{family}", say) for family, say in sorted(self.families.items())]
        racing = [
            f"system policy: {name} is {value:g} s" + (f" ({source})" if source else "")
            for name, (value, source) in sorted(self.racing.items())
        ]
        if self._elsewhere is None:
            yield from (say.sentence(what) for what, say in orders)
            yield from racing
            return
        orders += [(f"interface {word}", say) for word, say in sorted(self.interfaces.items())]
        for what, say in orders:
            if say.stance is not Stance.PROHIBIT:
                yield f"{say.sentence(what)}: {_NO_ATTEMPTS}"
            elif what.startswith("IPv"):
                yield say.sentence(what)
        yield from (f"{sentence}: {_NO_ATTEMPTS}" for sentence in racing)
        for rule in self._elsewhere:
            by = f" ({rule.source})" if rule.source else ""
            yield f"system policy for some destinations{by}: a Listener has none"


class Policy:
    """The system's say: rules, and the Provisioning Domains that there are. A value.

    Args:
        rules: In the order in which they count: see the module.
        domains: By name.
        prohibited: Protocol names (``"tcp"``, ``"tls"``): stacks with one of these are no
            candidates, whatever the destination.
        preferred: Stacks with one of these go before others that the application sees as
            equal.
        avoided: Stacks with one of these go after them.
    """

    __slots__ = (
        "_general",
        "_judges",
        "_to_listeners",
        "_verdicts",
        "domains",
        "key",
        "rules",
    )

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        domains: Mapping[str, ProvisioningDomain] | None = None,
        prohibited: Iterable[str] = (),
        preferred: Iterable[str] = (),
        avoided: Iterable[str] = (),
    ) -> None:
        # Of one that is named twice here the worse holds: the last word decides.
        says = tuple(
            (Subject.PROTOCOLS, name.lower(), stance)
            for stance, names in (
                (Stance.PREFER, preferred),
                (Stance.AVOID, avoided),
                (Stance.PROHIBIT, prohibited),
            )
            for name in names
        )
        self.rules = (*rules, *([Rule(says=says)] if says else ()))
        self.domains: Mapping[str, ProvisioningDomain] = dict(domains or {})
        #: Equal for policies that say the same.
        self.key: Hashable = (self.rules, frozenset(self.domains.values()))
        #: Whether addresses have to be looked at one by one.
        self._judges = any(
            rule.prohibits(*Subject) if not rule.is_general else rule.prohibits(Subject.FAMILIES)
            for rule in self.rules
        )
        self._general = all(rule.is_general for rule in self.rules)
        self._verdicts: dict[tuple[tuple[int, bool], ...], Verdict] = {}
        self._to_listeners: Verdict | None = None

    @classmethod
    def coerce(cls, value: Policy | Mapping[str, Any] | None) -> Policy:
        """``value`` itself; from a mapping as a file has it; an empty one for ``None``.

        Args:
            value: A mapping may instead be ``{"prohibited": […], "preferred": […],
                "avoided": […]}``, names of protocols.

        Raises:
            TypeError: It is something else.
            PolicyError: There is no such key, or it cannot have this value.
        """
        if value is None:
            return cls()
        if isinstance(value, Policy):
            return value
        if isinstance(value, Mapping):
            if value and value.keys() <= {"prohibited", "preferred", "avoided"}:
                return cls(**value)
            return cls.read(value)
        raise TypeError(f"Policy expected, not {value!r}")

    @classmethod
    def read(cls, given: Mapping[str, Any], file: str = "") -> Policy:
        """From the tables of a file.

        Args:
            given: As ``tomllib`` returns it.
            file: Its name, for sentences; empty: the program's own.

        Raises:
            PolicyError: With ``key``, as it is found from the outside in.
        """
        return _Reader(file).policy(given)

    def then(self, other: Policy) -> Policy:
        """This one, and after it, with the last word, the other one."""
        return Policy((*self.rules, *other.rules), domains={**self.domains, **other.domains})

    def __bool__(self) -> bool:
        return bool(self.rules or self.domains)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def on(self, remotes: Sequence[RemoteEndpoint] = ()) -> Verdict:
        """What it says about these.

        Args:
            remotes: Alternatives: what is preferred for one of them is, what is prohibited
                for all of them is. None: only what holds for every destination.
        """
        if self._general:
            which: tuple[tuple[int, bool], ...] = ()
        else:
            which = tuple(self._that_count(remotes))
        known = self._verdicts.get(which)
        if known is None:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            rules = (
                [(rule, True) for rule in self.rules]
                if self._general
                else [(self.rules[index], for_all) for index, for_all in which]
            )
            known = self._verdicts[which] = Verdict(rules)
        return known

    def on_listeners(self) -> Verdict:
        """What it says about Listeners: what is said about every destination, as they have none."""
        if self._to_listeners is None:
            self._to_listeners = Verdict(
                [(rule, True) for rule in self.rules if rule.is_general],
                elsewhere=[rule for rule in self.rules if not rule.is_general],
            )
        return self._to_listeners

    def _that_count(self, remotes: Sequence[RemoteEndpoint]) -> Iterator[tuple[int, bool]]:
        for index, rule in enumerate(self.rules):
            if rule.is_general:
                yield index, True
                continue
            covered = [rule.covers(remote) for remote in remotes]
            if any(covered):
                yield index, all(covered)

    def chooses_paths(self, remotes: Sequence[RemoteEndpoint]) -> bool:
        """Whether it says anything about the interfaces by which these are reached."""
        return bool(self.on(remotes).interfaces) or self.needs_paths(remotes)

    def needs_paths(self, remotes: Sequence[RemoteEndpoint]) -> bool:
        """Whether it may depend on the address which interfaces are prohibited.

        Then attempts must be bound to theirs, so that :meth:`against` can judge them.
        """
        return any(
            rule.prohibits(Subject.INTERFACES)
            and any(rule.covers(remote, unknown=True) for remote in remotes)
            and not all(map(rule.covers, remotes))
            for rule in self.rules
            if not rule.is_general
        )

    @property
    def judges_addresses(self) -> bool:
        """Whether :meth:`against` may have anything to say."""
        return self._judges

    def against(
        self, leaf: Leaf, interface_of: Callable[[str], Interface | None]
    ) -> tuple[str, ...]:
        """Why this must not be tried, now that its address is known; empty if it may.

        Args:
            leaf: A candidate.
            interface_of: The interface of a name.
        """
        verdict = self.on((leaf.remote,))
        against = [*verdict.prohibited(leaf.stack.protocols)]
        family = verdict.against_family(leaf.family)
        if family is not None:
            against.append(family)
        if verdict.interfaces and leaf.local is not None and leaf.local.interface is not None:
            interface = interface_of(leaf.local.interface)
            found = None if interface is None else verdict.of_interface(interface)
            if found is not None and found[1].stance is Stance.PROHIBIT:
                against.append(found[1].sentence(f"interface {found[0]}"))
        return tuple(against)

    def __repr__(self) -> str:
        return f"<Policy {len(self.rules)} rules, {len(self.domains)} Provisioning Domains>"


def _severity(found: tuple[str, Say]) -> int:
    return (Stance.PREFER, Stance.AVOID, Stance.PROHIBIT).index(found[1].stance)


def _is_in(address: str, network: Network) -> bool:
    return ipaddress.ip_address(address) in network


_NO_ATTEMPTS: Final = "no effect on a Listener, which makes no attempts"

_STANCES: Final = tuple(stance.value for stance in Stance)
_GENERAL_KEYS: Final = (*_STANCES, "racing", "rule", "pvd")
_RULE_KEYS: Final = ("name", "hosts", "networks", "ports", *_STANCES, "racing")


class _Reader:
    """Makes a policy of the tables of one file."""

    def __init__(self, file: str) -> None:
        self._file = file

    def policy(self, given: Mapping[str, Any]) -> Policy:
        _only(given, _GENERAL_KEYS, ())
        rules = []
        general = {key: given[key] for key in (*_STANCES, "racing") if key in given}
        if general:
            rules.append(self._rule(general, (), self._file))
        tables = given.get("rule", [])
        if not isinstance(tables, list | tuple) or not all(
            isinstance(each, Mapping) for each in tables
        ):
            raise PolicyError("rules are tables: [[rule]]", key=("rule",))
        for number, table in enumerate(tables, 1):
            at: tuple[str | int, ...] = ("rule", number)
            _only(table, _RULE_KEYS, at)
            source = f"rule {number}"
            if "name" in table:
                source += f", {_text(table['name'], (*at, 'name'))}"
            source = ", ".join(filter(None, (self._file, source)))
            rule = self._rule(table, at, source)
            if not (rule.says or rule.racing):
                raise PolicyError("says nothing", key=at)
            rules.append(rule)
        return Policy(rules, domains=_domains(given.get("pvd", {})))

    def _rule(self, table: Mapping[str, Any], at: tuple[str | int, ...], source: str) -> Rule:
        says: dict[tuple[Subject, str], Stance] = {}
        for stance in Stance:
            subjects = _table(table.get(stance.value, {}), (*at, stance.value))
            _only(subjects, tuple(Subject), (*at, stance.value))
            for key, names in subjects.items():
                where = (*at, stance.value, key)
                subject = Subject(key)
                for text in _texts(names, where):
                    name = _name(subject, text, where)
                    if (subject, name) in says and says[subject, name] is not stance:
                        raise PolicyError(
                            f"{text} is in {says[subject, name]} of the same rule", key=where
                        )
                    says[subject, name] = stance
        racing = _racing(table.get("racing", {}), (*at, "racing"))
        return Rule(
            source=source,
            hosts=tuple(
                each.rstrip(".").lower() for each in _texts(table.get("hosts", ()), (*at, "hosts"))
            ),
            networks=tuple(
                _network(each, (*at, "networks"))
                for each in _texts(table.get("networks", ()), (*at, "networks"))
            ),
            ports=tuple(_ports(table.get("ports", ()), (*at, "ports"))),
            says=tuple((subject, name, stance) for (subject, name), stance in says.items()),
            racing=tuple(racing.items()),
        )


def _only(table: Mapping[str, Any], known: Sequence[str], at: tuple[str | int, ...]) -> None:
    for key in table:
        if key not in known:
            raise PolicyError(f"there is no such key, but {', '.join(known)}", key=(*at, key))


def _table(value: Any, at: tuple[str | int, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PolicyError(f"a table, not {value!r}", key=at)
    return value


def _text(value: Any, at: tuple[str | int, ...]) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError(f"a string, not {value!r}", key=at)
    return value


def _texts(value: Any, at: tuple[str | int, ...]) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise PolicyError(f"a list of strings, not {value!r}", key=at)
    return [_text(each, at) for each in value]


def _name(subject: Subject, text: str, at: tuple[str | int, ...]) -> str:
    if subject is Subject.FAMILIES:
        family = _FAMILIES.get(text.lower())
        if family is None:
            raise PolicyError(f"IPv4 or IPv6, not {text!r}", key=at)
        return family
    # Names of interfaces are as the system has them; types are folded where they are used.
    return text.lower() if subject is Subject.PROTOCOLS else text


def _network(text: str, at: tuple[str | int, ...]) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise PolicyError(f"{error}", key=at) from None


def _ports(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[int, int]]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise PolicyError(
            f"a list of numbers and ranges such as '8000-8099', not {value!r}", key=at
        )
    for each in value:
        first, _, last = str(each).partition("-")
        if (
            isinstance(each, bool)
            or not first.isdecimal()
            or not (last or first).isdecimal()
            or not 0 < int(first) <= int(last or first) <= 65535
        ):
            raise PolicyError(f"a port, or a range such as '8000-8099', not {each!r}", key=at)
        yield int(first), int(last or first)


def _racing(value: Any, at: tuple[str | int, ...]) -> dict[str, float]:
    table = _table(value, at)
    _only(table, tuple(RACING), at)
    found: dict[str, float] = {}
    for key, seconds in table.items():
        least, most = RACING[key]
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not least <= seconds <= most
        ):
            raise PolicyError(f"{least:g} to {most:g} seconds, not {seconds!r}", key=(*at, key))
        found[key] = float(seconds)
    if found.get("min_delay", MIN_DELAY) > found.get("max_delay", MAX_DELAY):
        raise PolicyError("greater than max_delay", key=(*at, "min_delay"))
    return found


def _domains(value: Any) -> dict[str, ProvisioningDomain]:
    from taps_core.model.paths import ProvisioningDomain  # only where there are any

    found: dict[str, ProvisioningDomain] = {}
    for name, fields in _table(value, ("pvd",)).items():
        try:
            (found[name],) = ProvisioningDomain.all_of({name: _table(fields, ("pvd", name))})
        except ValueError as error:
            if isinstance(error, PolicyError):
                raise
            raise PolicyError(str(error), key=("pvd", name)) from None
    return found
