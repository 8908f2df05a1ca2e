"""Derived endpoints (RFC 9623, section 4.1.1.1): what to ask for a name, and what to try when.

No I/O, no clock. Whoever drives it asks the questions that it gets, reports each answer, and
takes what is ready::

    to_ask = derivation.start()
    to_ask = derivation.answered(question, answer, now)
    found = derivation.take(now)          # after each answer, and at derivation.deadline()

A name leads to *places*, the best first: where SRV records say (RFC 2782), or HTTPS and SVCB
records (RFC 9460) and after them the name itself, or the name itself alone. Each has a name of
its own, whose addresses are asked for, all places' side by side.

What is found goes out like this (RFC 8305, section 3, for all kinds of answers alike):

* at once, where nothing better can come: the best place has an IPv6 address, or its IPv4
  addresses and the answer that there are no others, and records that may name a better place are
  there or are known not to be;
* otherwise what there is :data:`RESOLUTION_DELAY` after the first address was known;
* afterwards whatever comes, when it comes.

SRV records are waited for in any case, for where they exist, the name itself is another host's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from taps_core.model.endpoints import Endpoint
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.planning.answers import ANY_ADDRESS, Answer, Question
from taps_core.planning.service_records import (
    Binding,
    Chance,
    SrvRecord,
    is_alias,
    protocols_for,
    sorted_bindings,
    sorted_srv,
)
from taps_core.planning.staggering import RESOLUTION_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "MAX_ADDRESSES",
    "RESOLUTION_DELAY",
    "Derivation",
    "Plan",
    "balanced",
    "unresolved",
]

E = TypeVar("E", bound=Endpoint)

#: Addresses of one name that are used (RFC 9623, section 12.2: the network
#: decides how many come). Each family gets half of them if it needs them.
MAX_ADDRESSES: Final = 32

#: Places of one name that are used, the name itself included.
_MAX_PLACES: Final = 8

#: Aliases in a row that are followed (RFC 9460, section 3, wants a limit of at least 8).
_MAX_ALIASES: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to ask for."""

    names: tuple[str, ...]
    """In this order, until one has something; absolute, but where the system completes them."""
    port: int | None = None
    """Where the name itself is reached."""
    direct: bool = True
    """Whether it is; else only where records say."""
    protocol: str | None = None
    """The only transport that counts."""
    addresses: tuple[str, ...] = ("AAAA", "A")
    """Types of the questions for addresses."""
    srv: tuple[tuple[str, str], ...] = ()
    """Labels before the name, and the transport that each is for."""
    binding: tuple[str, str] | None = None
    """Labels before the name (maybe none), and the type: ``"HTTPS"`` or ``"SVCB"``."""
    offered: tuple[str, ...] = ()
    """Application protocols that the application speaks."""
    default_alpn: tuple[str, ...] = ()
    """Those that the scheme stands for."""
    transports: Mapping[str, str] = field(default_factory=dict)
    """Application protocols that run over one transport only, and that."""
    path: str | None = None
    """Name of the path by which is asked, where one was chosen: for sentences."""


class _Place:
    """A host and a port, and what is known of its addresses."""

    __slots__ = ("addresses", "answers", "hints", "name", "port", "protocols")

    def __init__(
        self,
        name: str,
        port: int | None,
        protocols: Sequence[str | None],
        hints: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.port = port
        self.protocols = protocols
        self.hints = hints
        #: By type of question.
        self.answers: dict[str, Answer] = {}

    def known(self, family: int) -> list[str]:
        """Its addresses of that family, hints as long as they are not known."""
        answer = self.answers.get("AAAA" if family == 6 else "A") or self.answers.get(ANY_ADDRESS)
        if answer is None or answer.transient:
            found: Iterable[str] = self.hints
        else:
            found = answer.records
        return [address for address in found if (":" in address) == (family == 6)]


class Derivation(Generic[E]):
    """One endpoint's.

    Args:
        endpoint: With a name.
        plan: What to ask for.
        ordered: Sorts addresses, the best first (RFC 6724).
        chance: Decides where records leave it open.

    Attributes:
        pending: Questions whose answers are still wanted; others may be given up.
    """

    def __init__(
        self,
        endpoint: E,
        plan: Plan,
        *,
        ordered: Callable[[Sequence[str]], Sequence[str]],
        chance: Chance,
    ) -> None:
        self.pending: set[Question] = set()
        self._endpoint = endpoint
        self._plan = plan
        self._ordered = ordered
        self._chance = chance
        self._stage = -1
        #: Every question, in the order in which they were asked.
        self._asked: dict[Question, None] = {}
        self._known: dict[Question, Answer] = {}
        #: Questions for SRV records, and the transport that each is for.
        self._srv: dict[Question, str] = {}
        #: The question for HTTPS or SVCB records that is the last of the aliases.
        self._binding: Question | None = None
        self._aliases = 0
        self._places: list[_Place] = []
        self._taken: set[tuple[str, int | None, str | None]] = set()
        self._first_at: float | None = None
        self._let_go = False
        self._refused = ""

    # -- what is known

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return not self.pending

    @property
    def has_any(self) -> bool:
        """Whether there is something, taken or not."""
        return bool(self._taken) or any(place.known(6) or place.known(4) for place in self._places)

    @property
    def must_wait(self) -> bool:
        """Whether what is pending is more than what may as well be left out.

        Where IPv6 does not work, it is the IPv4 addresses that remain.
        """
        return any(question.rdtype in ("A", "SRV", ANY_ADDRESS) for question in self.pending)

    def deadline(self) -> float | None:
        """When to call :meth:`take` although no answer came."""
        if self._let_go or self._first_at is None or self.done:
            return None
        return self._first_at + RESOLUTION_DELAY

    # -- what happens

    def start(self) -> list[Question]:
        """Begin. Returns what to ask."""
        return self._next_stage()

    def answered(self, question: Question, answer: Answer) -> list[Question]:
        """Somebody answered. Returns what to ask besides."""
        if question not in self.pending:
            return []
        self.pending.discard(question)
        self._known[question] = answer
        if question in self._srv:
            self._look_at_srv()
        elif question == self._binding:
            self._look_at_binding(question, answer)
        else:
            for place in self._places:
                if place.name == question.name:
                    place.answers[question.rdtype] = answer
        to_ask = self._questions()
        if not to_ask and not self.pending and not self.has_any:
            to_ask = self._next_stage()
        return to_ask

    def take(self, now: float) -> list[E]:
        """What is to be tried from now on, in this order; nothing while it is better to wait."""
        if self._asks_srv():
            return []
        fresh = self._fresh()
        if not fresh:
            return []
        if not self._let_go:
            if self._first_at is None:
                self._first_at = now
            late = now >= self._first_at + RESOLUTION_DELAY
            if not (late or self.done or self._is_best()):
                return []
            self._let_go = True
        return [self._derived(place, address, protocol) for place, address, protocol in fresh]

    def error(self) -> EstablishmentError:
        """Why there is nothing.

        Returns:
            RESOLUTION_FAILED, with the sentence of each problem.
        """
        name = self._plan.names[0] if self._endpoint.hostname is None else self._endpoint.hostname
        if self._plan.path is not None:
            name = f"{name} on {self._plan.path}"
        if self._refused:
            return unresolved(name, [Answer(problem=self._refused, detail="no-service")])
        if not self._plan.direct and not self._places:
            detail = "unknown-service"
            problem = (
                f"service {self._endpoint.service!r} is not known on this machine, and there is "
                "no record that says where it is: give a port"
            )
            records = [
                answer
                for question, answer in self._known.items()
                if answer.transient and question.rdtype in ("SRV", "SVCB", "HTTPS")
            ]
            return unresolved(name, records or [Answer(problem=problem, detail=detail)])
        problems = self._problems()
        missing = dict.fromkeys(
            question.name for question, answer in problems.items() if answer.no_such_name
        )
        return unresolved(name, list(problems.values()), list(missing))

    def _problems(self) -> dict[Question, Answer]:
        """Of the questions for addresses, those that have none, as they were asked."""
        return {
            question: self._known[question]
            for question in self._asked
            if question in self._known
            and question.rdtype in self._plan.addresses
            and not self._known[question].records
        }

    # -- places

    def _next_stage(self) -> list[Question]:
        """Begin with the next name, if there is one and the one before is known to have nothing."""
        vital = [*self._problems().values(), *(self._known[question] for question in self._srv)]
        if any(answer.transient for answer in vital) or self._refused:
            # A server that failed hides what there is: another name may be another host's.
            return []
        self._stage += 1
        if self._stage >= len(self._plan.names):
            return []
        plan, name = self._plan, self._plan.names[self._stage]
        self._places = [_Place(name, plan.port, (plan.protocol,))] if plan.direct else []
        # Where the system completes names, these are taken as complete.
        absolute = name if name.endswith(".") else f"{name}."
        self._srv = {
            Question(f"{label}.{absolute}", "SRV"): protocol for label, protocol in plan.srv
        }
        self._binding, self._aliases = None, 0
        if plan.binding is not None:
            label, rdtype = plan.binding
            self._binding = Question(f"{label}.{absolute}" if label else absolute, rdtype)
        return self._questions()

    def _questions(self) -> list[Question]:
        """What was not asked yet; what nobody needs any more is pending no longer."""
        wanted = dict.fromkeys(self._srv)
        if self._binding is not None:
            wanted[self._binding] = None
        for place in self._places:
            for rdtype in self._plan.addresses:
                wanted[Question(place.name, rdtype)] = None
        to_ask = [
            question
            for question in wanted
            if question not in self._known and question not in self.pending
        ]
        self.pending &= wanted.keys()
        self.pending.update(to_ask)
        self._asked |= dict.fromkeys(to_ask)
        return to_ask

    def _asks_srv(self) -> bool:
        return not self.pending.isdisjoint(self._srv)

    def _look_at_srv(self) -> None:
        if self._asks_srv():
            return
        records: list[tuple[SrvRecord, str]] = []
        for question, protocol in self._srv.items():
            found = self._known[question].records
            records += [(each, protocol) for each in sorted_srv(found, self._chance)]
        if not records:
            return  # RFC 2782: then the name itself
        self._binding = None
        # Stable: among the protocols' equal priorities, the order in which they are asked for.
        records.sort(key=lambda pair: pair[0].priority)
        offers = [pair for pair in records if pair[0].target != "."]
        if not offers:
            self._places = []
            asked = " and ".join(question.name for question in self._srv)
            self._refused = f"the service is not offered there, say the SRV records of {asked}"
        else:
            self._move(
                _Place(record.target, record.port, (protocol,)) for record, protocol in offers
            )

    def _look_at_binding(self, question: Question, answer: Answer) -> None:
        plan = self._plan
        name = plan.names[self._stage]
        own = [_Place(name, plan.port, (plan.protocol,))] if plan.direct else []
        if self._aliases:
            # The alias itself goes before the name (RFC 9460, section 3).
            own = [_Place(question.name, place.port, place.protocols) for place in own] + own
        if is_alias(answer.records):
            aliases = [binding for binding in answer.records if binding.priority == 0]
            alias: Binding = aliases[self._chance.randint(0, len(aliases) - 1)]
            # "." says that the service is not there; one may try it anyway (section 2.5.1).
            if alias.target != "." and self._aliases < _MAX_ALIASES:
                self._aliases += 1
                self._binding = Question(alias.target, question.rdtype)
                self._move(
                    _Place(each, place.port, place.protocols)
                    for place in own[-1:]
                    for each in (alias.target, name)
                )
            return
        places = []
        owner = answer.owner or question.name
        for binding in sorted_bindings(answer.records, self._chance):
            protocols = [
                protocol or plan.protocol
                for protocol in protocols_for(
                    binding,
                    offered=plan.offered,
                    default=plan.default_alpn,
                    transports=plan.transports,
                )
                if protocol is None or plan.protocol in (None, protocol)
            ]
            port = plan.port if binding.port is None else binding.port
            if protocols and (plan.direct or binding.port is not None):
                target = owner if binding.target == "." else binding.target
                # Where the owner carries labels of its own, "." is still the owner (section 2.5).
                places.append(_Place(target, port, protocols, binding.hints))
        self._move([*places[: _MAX_PLACES - len(own)], *own])

    def _move(self, places: Iterable[_Place]) -> None:
        """These are the places now; what is known of their names stays known."""
        self._places = list(places)[:_MAX_PLACES]
        for place in self._places:
            for rdtype in self._plan.addresses:
                known = self._known.get(Question(place.name, rdtype))
                if known is not None:
                    place.answers[rdtype] = known

    # -- what goes out

    def _is_waiting(self, place: _Place, *rdtypes: str) -> bool:
        return any(Question(place.name, rdtype) in self.pending for rdtype in rdtypes)

    def _is_best(self) -> bool:
        """Whether nothing that is pending could go before what is known."""
        if self._binding in self.pending:
            return False
        for place in self._places:
            if self._is_waiting(place, "AAAA", ANY_ADDRESS):
                return False
            if place.known(6):
                return True
            if self._is_waiting(place, "A"):
                return False
            if place.known(4):
                return True
        return False

    def _fresh(self) -> list[tuple[_Place, str, str | None]]:
        """What is known and was not taken, in order."""
        share = max(4, MAX_ADDRESSES // max(1, len(self._places)))
        fresh: list[tuple[_Place, str, str | None]] = []
        known = set(self._taken)
        for place in self._places:
            sixes, fours = place.known(6), place.known(4)
            kept = balanced(
                sixes,
                fours,
                limit=share,
                # Room for those that are still to come.
                first_may_grow=self._is_waiting(place, "AAAA"),
                second_may_grow=self._is_waiting(place, "A"),
            )
            for protocol in place.protocols:
                new = [it for it in kept if (it, place.port, protocol) not in known]
                # Two places may have one address.
                known |= {(address, place.port, protocol) for address in new}
                fresh += [(place, address, protocol) for address in self._sorted(place, new)]
        return fresh

    def _sorted(self, place: _Place, addresses: Sequence[str]) -> Sequence[str]:
        both = place.answers.get(ANY_ADDRESS)
        if both is None:
            return self._ordered(addresses)
        return [address for address in both.records if address in addresses]  # the system's order

    def _derived(self, place: _Place, address: str, protocol: str | None) -> E:
        self._taken.add((address, place.port, protocol))
        endpoint = self._endpoint
        if endpoint.port != place.port:
            endpoint = endpoint.with_port(place.port)
        if endpoint.protocol != protocol:
            endpoint = endpoint.with_protocol(protocol)
        if place.name != self._plan.names[self._stage]:
            endpoint = endpoint.with_target(place.name.rstrip("."))
        return endpoint.with_ip_address(address)


def balanced(
    first: Sequence[str],
    second: Sequence[str] = (),
    *,
    limit: int = MAX_ADDRESSES,
    first_may_grow: bool = False,
    second_may_grow: bool = False,
) -> list[str]:
    """At most ``limit`` of both families; neither crowds out the other, also one that is late."""
    half = limit // 2
    # Room for those that are still to come.
    others = max(len(second), half) if second_may_grow else len(second)
    kept = first[: max(half, limit - others)]
    taken = max(len(kept), half) if first_may_grow else len(kept)
    return [*kept, *second[: limit - taken]]


def unresolved(
    name: str, answers: Sequence[Answer], missing: Sequence[str] = ()
) -> EstablishmentError:
    """The sentence of the worst answer, or of all that differ.

    Args:
        name: As the application gave it.
        answers: Without records.
        missing: The names that do not exist.
    """
    problems = dict.fromkeys(answer.problem for answer in answers if not answer.no_such_name)
    if missing:
        problems[f"no such name (asked for {', '.join(missing)})"] = None
    servers = ", ".join(dict.fromkeys(answer.server for answer in answers if answer.server))
    # A server that failed hides what there is: it counts more than «no such name».
    worst = max(answers, key=lambda answer: answer.transient)
    return EstablishmentError(
        f"{name} cannot be resolved: {'; '.join(problems)}"
        + (f", says {servers}" if servers else ""),
        reason=Reason.RESOLUTION_FAILED,
        detail=worst.detail,
        transient=worst.transient,
    )
