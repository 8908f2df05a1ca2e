"""Choosing paths (RFC 9622, sections 6.2.11 and 6.2.12; RFC 9623, sections 4.1.1.2, 4.1.3). Pure.

A path is an interface, and a Provisioning Domain where one was asked about. It is out if a
Prohibit speaks against it, or if there is a Require and it meets none. The others are ordered:
the more Prefers are met the better, then the fewer Avoids are not, then in the system's order.

An entry of ``interface`` that is the name of an interface means that one, any other a type, if
it is a word for one. Several Requires are alternatives: no interface has two names.

System policy counts last: what it prefers goes before what it says nothing about, and that
before what it avoids. What it prohibits is out, as by the application.

As long as no path is better than another, and none is out by preference, the system chooses:
its routing knows more than we do (policy routing, several routes of one metric). Otherwise each
attempt is bound to its interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import NoCandidates, Reason
from taps_core.model.paths import type_named
from taps_core.model.properties import Preference
from taps_core.planning.policy import Stance
from taps_core.planning.ranking import By, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from taps_core.model.paths import Interface, ProvisioningDomain
    from taps_core.planning.policy import Say, Verdict

    Wanted: TypeAlias = Iterable[tuple[Preference, str]]

__all__ = ["MAX_PATHS", "Path", "PathSelection", "choose_paths"]

#: Paths of one race at most: a host of containers has hundreds of interfaces.
MAX_PATHS: Final = 16


class Path:
    """An interface to use, and the Provisioning Domain to use it for.

    Attributes:
        interface: As it was when the path was chosen.
        domain: ``None``: whatever the interface is configured with.
        reasons: What put it there.
    """

    __slots__ = ("domain", "interface", "key", "reasons")

    def __init__(
        self,
        interface: Interface,
        domain: ProvisioningDomain | None,
        key: tuple[int, int, int],
        reasons: tuple[Why, ...],
    ) -> None:
        self.interface = interface
        self.domain = domain
        #: What it was ordered by; compares left to right.
        self.key = key
        self.reasons = reasons

    @property
    def name(self) -> str:
        """``"eth0"``, or ``"corporate on eth0"``."""
        name = self.interface.name
        return name if self.domain is None else f"{self.domain.name} on {name}"

    @property
    def shown(self) -> str:
        """The same with the interface's type, for sentences."""
        shown = self.interface.shown
        return shown if self.domain is None else f"{self.domain.name} on {shown}"

    def __repr__(self) -> str:
        return f"<Path {self.name}>"


class PathSelection:
    """The outcome.

    Attributes:
        ranked: Paths, the best first; empty where the system chooses, and where none is left.
        rejected: Path → what speaks against it.
        notes: What was asked for without effect, in sentences.
        system_chooses: Nothing asked for makes a difference here.
    """

    __slots__ = ("notes", "ranked", "rejected", "system_chooses")

    def __init__(
        self,
        ranked: Sequence[Path],
        rejected: Mapping[str, tuple[Why, ...]],
        notes: Sequence[str] = (),
        *,
        system_chooses: bool = False,
    ) -> None:
        self.ranked = tuple(ranked)
        self.rejected = rejected
        self.notes = tuple(notes)
        self.system_chooses = system_chooses

    def error(self) -> NoCandidates | None:
        """What to raise if no path is left. Nothing was sent."""
        if self.ranked or self.system_chooses:
            return None
        lines = [f"  {name}: {why}" for name, reasons in self.rejected.items() for why in reasons]
        by_policy = any(
            all(why.by is By.POLICY for why in reasons) for reasons in self.rejected.values()
        )
        return NoCandidates(
            "\n".join(
                [
                    "no path can be used, and nothing was sent:",
                    *(lines or ["  this machine has no network interface"]),
                    *(f"  {note}" for note in self.notes),
                ]
            ),
            rejected={
                name: tuple(why.sentence for why in reasons)
                for name, reasons in self.rejected.items()
            },
            reason=Reason.POLICY_PROHIBITED if by_policy else Reason.NO_CANDIDATES,
        )

    def lines(self) -> Iterator[str]:
        """For people, one a path."""
        if self.system_chooses:
            yield "the system's choice: no preference for a path makes a difference here"
        for place, path in enumerate(self.ranked, 1):
            why = "; ".join(map(str, path.reasons))
            yield f"{place}. {path.shown}" + (f": {why}" if why else "")
        for name, reasons in self.rejected.items():
            yield f"not {name}: {'; '.join(map(str, reasons))}"
        yield from self.notes

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        return {
            "system_chooses": self.system_chooses,
            "ranked": [
                {
                    "path": path.name,
                    "interface": path.interface.name,
                    "type": path.interface.type.value,
                    "pvd": None if path.domain is None else path.domain.name,
                    "reasons": [why.as_json() for why in path.reasons],
                }
                for path in self.ranked
            ],
            "rejected": [
                {"path": name, "reasons": [why.as_json() for why in reasons]}
                for name, reasons in self.rejected.items()
            ],
            "notes": list(self.notes),
        }


def choose_paths(
    interfaces: Sequence[Interface],
    domains: Sequence[ProvisioningDomain],
    properties: Mapping[str, Any],
    policy: Verdict | None = None,
    *,
    bound: bool = False,
) -> PathSelection:
    """Rank the paths and give the reason for every place and every rejection.

    Args:
        interfaces: Those of the machine, in the system's order.
        domains: Those of system policy.
        properties: With ``interface`` and ``pvd``: sets of (preference, name or type).
        policy: What system policy says about where it goes.
        bound: The system is not to choose: something else depends on the interface.
    """
    by_interface = _Choice("interface", properties["interface"])
    by_domain = _Choice("pvd", properties["pvd"])
    names = {each.name for each in interfaces}
    ranked: list[Path] = []
    rejected: dict[str, tuple[Why, ...]] = {}
    excluded = bound
    for interface in interfaces:
        called = _interface_called(interface, names)
        said = None if policy is None else policy.of_interface(interface)
        for domain in _domains_of(interface, domains if by_domain.wanted else ()):
            reasons: list[Why] = []
            path = Path(interface, domain, (0, 0, 1), ())
            against = [
                *by_interface.against(called),
                *by_domain.against(_domain_called(domain)),
            ]
            if said is not None and said[1].stance is Stance.PROHIBIT:
                against.append(_by_policy(said))
            excluded = excluded or bool(against)
            if not interface.up:
                against.append(Why("is down", By.MACHINE))
            if against:
                rejected[path.shown] = tuple(against)
                continue
            met_one, unmet_one = by_interface.weigh(called, reasons)
            met_other, unmet_other = by_domain.weigh(_domain_called(domain), reasons)
            place = 1
            if said is not None:
                reasons.append(_by_policy(said))
                place = 0 if said[1].stance is Stance.PREFER else 2
            path.key = (-met_one - met_other, unmet_one + unmet_other, place)
            path.reasons = tuple(reasons)
            ranked.append(path)
    notes = [*by_interface.unknown(interfaces), *by_domain.unknown_domains(domains)]
    ranked.sort(key=_key)
    if not excluded and ranked and ranked[0].key == ranked[-1].key:
        return PathSelection((), {}, notes, system_chooses=True)
    for path in ranked[MAX_PATHS:]:
        rejected[path.shown] = (Why(f"is beyond the first {MAX_PATHS}", By.DEFAULT),)
    return PathSelection(ranked[:MAX_PATHS], rejected, notes)


class _Choice:
    """One of the two properties, and how it judges."""

    def __init__(self, name: str, wanted: Wanted) -> None:
        self.name = name
        self.wanted = sorted(wanted, key=_by_name)
        self._required = [each for preference, each in self.wanted if preference is _REQUIRE]

    def _those(self, preference: Preference, called: Callable[[str], bool]) -> Iterator[str]:
        for each, name in self.wanted:
            if each is preference and called(name):
                yield name

    def against(self, called: Callable[[str], bool]) -> Iterator[Why]:
        """What rules a path out.

        Args:
            called: Whether a name or type means it.
        """
        if self._required and not any(map(called, self._required)):
            required = " or ".join(self._required)
            yield Why(f"{self.name} {required} is required", By.APPLICATION, self.name)
        for name in self._those(Preference.PROHIBIT, called):
            yield Why(f"{self.name} {name} is prohibited", By.APPLICATION, self.name)

    def weigh(self, called: Callable[[str], bool], reasons: list[Why]) -> tuple[int, int]:
        """How many Prefers it meets, and how many Avoids it does not."""
        counts = []
        for preference, word in _WORDS:
            found = list(self._those(preference, called))
            reasons += [
                Why(f"{self.name} {name} is {word}", By.APPLICATION, self.name) for name in found
            ]
            counts.append(len(found))
        return counts[1], counts[2]

    def unknown(self, interfaces: Sequence[Interface]) -> Iterator[str]:
        """What names neither an interface nor a type that there is."""
        names = {each.name for each in interfaces}
        for _, name in self.wanted:
            if name not in names and type_named(name) is None:
                there = ", ".join(each.shown for each in interfaces) or "none"
                yield f"interface {name}: there is none of that name ({there})"

    def unknown_domains(self, domains: Sequence[ProvisioningDomain]) -> Iterator[str]:
        """What names no Provisioning Domain that there is."""
        for _, name in self.wanted:
            if not any(each.is_called(name) for each in domains):
                there = ", ".join(each.name for each in domains) or "there is none"
                yield f"pvd {name}: system policy has no such Provisioning Domain ({there})"


_REQUIRE: Final = Preference.REQUIRE
_PREFER: Final = Preference.PREFER
_AVOID: Final = Preference.AVOID
_WORDS: Final = ((_REQUIRE, "required"), (_PREFER, "preferred"), (_AVOID, "avoided"))


def _domains_of(
    interface: Interface, domains: Sequence[ProvisioningDomain]
) -> Sequence[ProvisioningDomain | None]:
    """Those reached by it; ``None`` for what it is configured with itself (RFC 7556, section 2).

    A domain that names addresses has only those of the interface; one that names none has it
    all.
    """
    found: list[ProvisioningDomain | None] = [each for each in domains if each.covers(interface)]
    if all(each is None or each.addresses for each in found):
        found.append(None)
    return found


def _by_policy(said: tuple[str, Say]) -> Why:
    word, say = said
    return Why(say.sentence(f"interface {word}"), By.POLICY)


def _interface_called(interface: Interface, names: set[str]) -> Callable[[str], bool]:
    def called(name: str) -> bool:
        if name in names:
            return name == interface.name
        return type_named(name) is interface.type

    return called


def _domain_called(domain: ProvisioningDomain | None) -> Callable[[str], bool]:
    return domain.is_called if domain is not None else lambda _: False


def _key(path: Path) -> tuple[int, int, int]:
    return path.key


def _by_name(wanted: tuple[Preference, str]) -> str:
    return wanted[1]
