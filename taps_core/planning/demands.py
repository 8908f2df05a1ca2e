"""What is demanded of a stack, and how one stack fares: reasons against it, or its key.

A stack is judged by itself: nothing here looks at two stacks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import Protection, Support
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.properties import (
    PROPERTIES,
    Direction,
    Kind,
    Multipath,
    Preference,
    ValueType,
)
from taps_core.model.security import SecurityMode
from taps_core.planning.policy import Stance
from taps_core.planning.ranking import By, Ranked, Why
from taps_core.planning.stacks import OF_PATHS, SHARING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from taps_core.model.endpoints import Endpoint, LocalEndpoint, RemoteEndpoint
    from taps_core.model.layers import Transport
    from taps_core.model.properties import Property, TransportProperties
    from taps_core.model.security import SecurityParameters
    from taps_core.planning.policy import Verdict
    from taps_core.planning.stacks import Plugins, Stack

__all__ = ["Demands", "check_endpoints"]

#: Preference-typed properties that stacks are matched against, in table order.
#: ``useTemporaryLocalAddress`` decides among paths, like ``interface`` and ``pvd``.
_MATCHED: Final = tuple(
    name
    for name, row in PROPERTIES.items()
    if row.kind is Kind.SELECTION
    and row.value_type is ValueType.PREFERENCE
    and name != "useTemporaryLocalAddress"
)

_KIND_WORDS: Final = {"ip": "IP addresses", "multicast": "multicast groups"}


class Demands:
    """All that a request demands.

    Args:
        properties: What the application asks for.
        definitions: Protocol-specific properties of the plugins there are.
        role: ``"initiate"``, ``"listen"``, ``"rendezvous"`` or ``"clone"``.
        security: What security is wanted.
        local: ``(kinds, protocol)`` of each Local Endpoint.
        remote: The same of each Remote Endpoint.
        policy: What the system says about where it goes.
        evidence: Names of transports that the peer is known to speak.
        failing: Stacks, by their protocols, that have failed there lately.

    Raises:
        PropertyError: A protocol-specific property that its plugin does not
            know, or a value that it cannot have.
        EstablishmentError: INVALID_CONFIGURATION: the properties contradict
            each other.
    """

    def __init__(
        self,
        properties: TransportProperties,
        definitions: Sequence[Property],
        role: str,
        security: SecurityParameters,
        local: Sequence[tuple[frozenset[str], str | None]],
        remote: Sequence[tuple[frozenset[str], str | None]],
        policy: Verdict,
        evidence: frozenset[str],
        failing: frozenset[tuple[str, ...]] = frozenset(),
    ) -> None:
        self._explicit = properties.explicit
        self._values = values = properties.effective(role, definitions)
        self._security = security
        self._role = role
        self._local = local
        # A Listener's Remote Endpoints filter who may come; they reach nobody.
        self._remote = () if role == "listen" else remote
        self._policy = policy
        self._evidence = evidence | {protocol for _, protocol in self._remote if protocol}
        self._failing = failing
        by_preference: dict[Preference, list[str]] = {each: [] for each in Preference}
        for name in _MATCHED:
            # RFC 9622, section 6.2.18: ignored for Rendezvous.
            if name != "activeReadBeforeSend" or role != "rendezvous":
                by_preference[values[name]].append(name)
        if values["multipath"] is not Multipath.DISABLED:
            # Counts as a preference for what is capable of it (section 6.2.14).
            by_preference[Preference.PREFER].append("multipath")
        self._required = by_preference[Preference.REQUIRE]
        self._prohibited = by_preference[Preference.PROHIBIT]
        self._preferred: dict[By, list[str]] = {By.APPLICATION: [], By.DEFAULT: []}
        for name in by_preference[Preference.PREFER]:
            self._preferred[self._by(name)].append(name)
        # What defaults avoid counts for nothing.
        self._avoided = [name for name in by_preference[Preference.AVOID] if name in self._explicit]
        _check_properties(values)

    def _by(self, name: str) -> By:
        return By.APPLICATION if name in self._explicit else By.DEFAULT

    # -- what speaks against a stack

    def refusals(self, stack: Stack, plugins: Plugins, *, layered: bool) -> tuple[Why, ...]:
        """Every reason why the stack is no candidate.

        Args:
            stack: The stack.
            plugins: Where it comes from.
            layered: Whether a security layer runs over its transport.
        """
        unreached = tuple(self._unreached(stack))
        if unreached:
            return unreached  # whatever else it lacks is beside the point
        return (
            *_unavailable(stack, plugins),
            *self._unmet(stack),
            *self._insecure(stack, plugins, layered),
            *self._forbidden(stack),
        )

    def _unreached(self, stack: Stack) -> Iterator[Why]:
        if self._role == "rendezvous" and not stack.transport.rendezvous:
            yield Why(f"{stack.transport.label} has no Rendezvous", By.APPLICATION)
        if stack.transport.on_request and not self._is_asked_for(stack.transport):
            name = stack.transport.name
            sentence = (
                f'is used only where it is asked for: by protocol="{name}" on an Endpoint, or by '
                "a system policy that prefers it"
            )
            yield Why(sentence, By.DEFAULT)
        for what, endpoints in (("Local", self._local), ("Remote", self._remote)):
            if not endpoints or any(stack.serves(*each) for each in endpoints):
                continue
            transport = stack.transport
            if any(protocol not in (None, transport.name) for _, protocol in endpoints):
                named = sorted({protocol for _, protocol in endpoints if protocol is not None})
                sentence = f"the {what} Endpoint is for {' or '.join(named)} only"
            else:
                served = " and ".join(_kind_word(kind) for kind in sorted(stack.reaches))
                sentence = f"reaches {served}, which the {what} Endpoint is not"
            yield Why(sentence, By.APPLICATION)

    def _is_asked_for(self, transport: Transport) -> bool:
        return (
            transport.name in self._evidence
            or self._is_preferred(transport.name)
            or any(protocol == transport.name for _, protocol in self._local)
        )

    def _is_preferred(self, protocol: str) -> bool:
        say = self._policy.protocols.get(protocol)
        return say is not None and say.stance is Stance.PREFER

    def _unmet(self, stack: Stack) -> Iterator[Why]:
        for name in self._required:
            if stack.support(name) is Support.NEVER:
                by = self._by(name)
                sentence = f"{name} is required by {by.value}, and {stack.gave(name)} lacks it"
                if name == "preserveMsgBoundaries":
                    sentence += "; a framer would find boundaries"
                yield Why(sentence, by, name)
        for name in self._prohibited:
            if stack.bare.support.get(name) is Support.ALWAYS:
                by = self._by(name)
                sentence = (
                    f"{name} is prohibited by {by.value}, and {stack.gave(name)} "
                    "cannot do without it"
                )
                yield Why(sentence, by, name)
        if (
            self._values["direction"] is Direction.BIDIRECTIONAL
            and stack.support("direction") is Support.NEVER
        ):
            sentence = f"direction is Bidirectional, and {stack.gave('direction')} is one-way"
            yield Why(sentence, self._by("direction"), "direction")
        if stack.capabilities.may_duplicate and not self._values["safelyReplayable"]:
            yield Why(
                f"{stack.transport.label} may deliver a Message twice, so safelyReplayable "
                "must be set on the Preconnection (RFC 9622, 9.1.3.4)",
                self._by("safelyReplayable"),
                "safelyReplayable",
            )

    def _insecure(self, stack: Stack, plugins: Plugins, layered: bool) -> Iterator[Why]:
        protection = stack.capabilities.protection
        mode = self._security.mode
        by = (
            By.DEFAULT
            if mode is SecurityMode.REQUIRED and not self._security.allowed_security_protocols
            else By.APPLICATION
        )
        label = stack.transport.label
        if mode is SecurityMode.DISABLED:
            # «No security is added» (section 6.3): a transport that has its
            # own cannot be asked to drop it, and stays.
            if stack.security is not None:
                yield Why(f"adds {stack.security.label}, and security is disabled", by)
        elif protection is None:
            if mode is SecurityMode.OPPORTUNISTIC:
                if self._security.judges_peer:
                    yield Why(
                        "is plaintext, and the peer is to be judged: by a pin, or by the trust "
                        "verification callback",
                        By.APPLICATION,
                    )
                return
            if layered:
                yield Why(
                    "is plaintext, and security is required: SecurityParameters.disabled() "
                    "or .opportunistic() would allow it",
                    by,
                )
            elif plugins.security_layers:
                yield Why(
                    f"{label} has no security of its own and no installed security layer runs "
                    "over it: pass SecurityParameters.disabled() to go without",
                    by,
                )
            else:
                yield Why(
                    f"{label} has no security of its own and no security layer is installed: "
                    "install taps-tls, or pass SecurityParameters.disabled()",
                    by,
                )
        else:
            if not self._permitted(protection):
                yield Why(
                    "allowedSecurityProtocols permits "
                    f"{_listed(self._security.allowed_security_protocols)}, and "
                    f"{_securer(stack)} offers {_listed(protection.protocols)}",
                    By.APPLICATION,
                )
            if mode is SecurityMode.REQUIRED and not protection.authenticates:
                yield Why(
                    f"{_securer(stack)} does not verify the peer's identity: "
                    "SecurityParameters.opportunistic() would allow that",
                    by,
                )

    def _forbidden(self, stack: Stack) -> Iterator[Why]:
        for sentence in self._policy.prohibited(stack.protocols):
            yield Why(sentence, By.POLICY)

    def _permitted(self, protection: Protection | None) -> tuple[str, ...]:
        """The protocol versions that may be used, best first."""
        if protection is None:
            return ()
        allowed = {_fold(each) for each in self._security.allowed_security_protocols}
        return tuple(each for each in protection.protocols if not allowed or _fold(each) in allowed)

    # -- where a stack that is in goes

    def rank(self, stack: Stack) -> Ranked:
        """A candidate with its key and the reasons for its place."""
        reasons: list[Why] = []
        protection = stack.capabilities.protection
        protocols = self._permitted(protection)
        racing_class: Hashable = None
        if protection is not None:
            opportunistic = self._security.mode is SecurityMode.OPPORTUNISTIC
            # The class of what may be used, not of what the layer could do.
            racing_class = Protection(
                protocols=protocols, authenticates=protection.authenticates and not opportunistic
            ).racing_class
        reasons.append(self._security_reason(stack, protocols))
        key = (
            protection is None and self._security.mode is SecurityMode.OPPORTUNISTIC,
            -self._prefers_met(stack, By.APPLICATION, reasons),
            self._avoids_unmet(stack, reasons),
            self._policy_place(stack, reasons),
            self._trouble(stack, reasons),
            self._deployability(stack, reasons),
            -self._prefers_met(stack, By.DEFAULT, reasons),
            stack.name,
        )
        return Ranked(
            stack, key, tuple(reasons), tuple(self._no_effect(stack)), protocols, racing_class
        )

    def _security_reason(self, stack: Stack, protocols: Sequence[str]) -> Why:
        mode = self._security.mode
        if stack.capabilities.protection is None:
            if mode is SecurityMode.OPPORTUNISTIC:
                sentence = "plaintext: tried only when everything secured has failed"
            else:
                sentence = "plaintext, as security is disabled"
            return Why(sentence, By.APPLICATION)
        sentence = f"secured by {_securer(stack)} ({_listed(protocols)})"
        if mode is SecurityMode.DISABLED:
            sentence += ", which is part of it"
        elif mode is SecurityMode.OPPORTUNISTIC:
            sentence += ", without authentication"
        return Why(sentence, By.DEFAULT if mode is SecurityMode.REQUIRED else By.APPLICATION)

    def _prefers_met(self, stack: Stack, by: By, reasons: list[Why]) -> int:
        """How many Prefers of the application, or of the RFC's defaults, are met."""
        met = 0
        for name in self._preferred[by]:
            if stack.support(name) is not Support.NEVER:
                met += 1
                sentence = f"{stack.gave(name)} has {name}, which {by.value} prefers"
                reasons.append(Why(sentence, by, name))
            elif by is By.APPLICATION:
                sentence = f"{stack.gave(name)} lacks {name}, which {by.value} prefers"
                reasons.append(Why(sentence, by, name))
        return met

    def _avoids_unmet(self, stack: Stack, reasons: list[Why]) -> tuple[int, int]:
        """How many of the application's Avoids are ALWAYS there, and how many OPTIONALly."""
        if not self._avoided:
            return 0, 0
        counts = {Support.ALWAYS: 0, Support.OPTIONAL: 0, Support.NEVER: 0}
        for name in self._avoided:
            # Matched like Prohibit: without what framers add.
            support = stack.bare.support.get(name, Support.NEVER)
            counts[support] += 1
            verb = {
                Support.ALWAYS: "always has",
                Support.OPTIONAL: "can do without",
                Support.NEVER: "does without",
            }[support]
            sentence = f"{stack.gave(name)} {verb} {name}, which the application avoids"
            reasons.append(Why(sentence, By.APPLICATION, name))
        return counts[Support.ALWAYS], counts[Support.OPTIONAL]

    def _policy_place(self, stack: Stack, reasons: list[Why]) -> int:
        found = self._policy.of(stack.protocols)
        if found is None:
            return 1
        name, say = found
        reasons.append(Why(say.sentence(name), By.POLICY))
        return 0 if say.stance is Stance.PREFER else 2

    def _trouble(self, stack: Stack, reasons: list[Why]) -> bool:
        if stack.protocols not in self._failing:
            return False
        sentence = f"{stack} has failed here lately: after what has not"
        reasons.append(Why(sentence, By.MACHINE))
        return True

    def _deployability(self, stack: Stack, reasons: list[Why]) -> int:
        transport = stack.transport
        if transport.deployable:
            return 0
        if transport.name in self._evidence:
            sentence = f"there is evidence that the peer speaks {transport.label}"
            reasons.append(Why(sentence, By.MACHINE))
            return 0
        sentence = f"no evidence that the peer speaks {transport.label}: after what any peer speaks"
        reasons.append(Why(sentence, By.MACHINE))
        return 1

    def _no_effect(self, stack: Stack) -> Iterator[str]:
        for given in self._explicit:
            row = PROPERTIES.get(given)
            if row is None:
                if not stack.has_effect(given):
                    yield given
            elif row.kind is not Kind.SELECTION:
                shared = given in SHARING and self._values["_taps.groupMaxSendRate"] != math.inf
                if (
                    self._explicit[given] != row.default
                    and not shared
                    and not stack.has_effect(given)
                ):
                    yield given
            elif (
                given in ("multipath", "advertisesAltaddr")
                and self._explicit[given] not in (Multipath.DISABLED, False)
                and stack.support(given) is Support.NEVER
            ) or (given in OF_PATHS and not stack.takes_paths):
                yield given


def check_endpoints(
    properties: TransportProperties,
    role: str,
    local: Iterable[LocalEndpoint],
    remote: Iterable[RemoteEndpoint],
) -> None:
    """Raise if what is asked for contradicts the endpoints.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION.
    """
    explicit = properties.explicit
    direction = explicit.get("direction")
    for endpoint in local:
        if endpoint.multicast_group is None:
            continue
        # RFC 9623, section 10.5; RFC 9622, section 6.1.1.
        if role == "listen" and direction is not Direction.UNIDIRECTIONAL_RECEIVE:
            raise _contradiction(
                "to listen to a multicast group, direction must be 'Unidirectional receive'"
            )
        if endpoint.port in (None, 0) and endpoint.service is None:
            raise _contradiction("to receive from a multicast group, a port is needed")
        if role == "rendezvous" and endpoint.multicast_source is not None:
            raise _contradiction("a source-specific multicast group takes no Rendezvous")
    groups = [endpoint.multicast_group is not None for endpoint in remote]
    if role == "initiate" and any(groups):
        if direction is Direction.UNIDIRECTIONAL_RECEIVE:
            raise _contradiction(
                "initiating to a multicast group can only send: "
                "to receive, listen with the group on the Local Endpoint"
            )
        if not all(groups):
            raise _contradiction(
                "a Connection goes to multicast groups, where it can only send, or to single "
                "peers: Remote Endpoints of both kinds are no alternatives"
            )
    if "interface" in explicit:
        _check_interfaces(explicit["interface"], local)
    if explicit.get("useTemporaryLocalAddress") is Preference.REQUIRE:
        for what, endpoints in (("Local", tuple(local)), ("Remote", tuple(remote))):
            if endpoints and all(_is_ipv4(each) for each in endpoints):
                raise _contradiction(
                    "useTemporaryLocalAddress is required, which only IPv6 has, "
                    f"but the {what} Endpoint is {endpoints[0].ip_address}"
                )


def _check_interfaces(
    wanted: Iterable[tuple[Preference, str]], local: Iterable[LocalEndpoint]
) -> None:
    # RFC 9622, section 6.1.4. Types of interface are for the paths to judge.
    from taps_core.model.paths import type_named  # only where something is asked for

    wanted = tuple(wanted)
    required = {name for preference, name in wanted if preference is Preference.REQUIRE}
    prohibited = {name for preference, name in wanted if preference is Preference.PROHIBIT}
    refused: list[str] = []
    for endpoint in local:
        name = endpoint.interface
        if name is not None and name in prohibited:
            refused.append(f"the Local Endpoint is on {name}, which is prohibited")
        elif (
            name is not None
            and required
            and name not in required
            and not any(map(type_named, required))
        ):
            refused.append(f"the Local Endpoint is on {name}, and {_listed(required)} is required")
        else:
            return  # this one will do; the paths leave the others out
    if refused:
        raise _contradiction(f"interface: {refused[0]}")


def _check_properties(values: dict[str, Any]) -> None:
    if (
        values["reliability"] is Preference.PROHIBIT
        and values["perMsgReliability"] is Preference.REQUIRE
    ):
        # RFC 9623, section 3.1
        raise _contradiction("reliability is prohibited, yet perMsgReliability is required")


def _contradiction(sentence: str) -> EstablishmentError:
    return EstablishmentError(sentence, reason=Reason.INVALID_CONFIGURATION)


def _unavailable(stack: Stack, plugins: Plugins) -> Iterator[Why]:
    for layer in (stack.transport, *stack.layers):
        answer = plugins.availability(layer)
        if not answer.available:
            remedy = f" ({answer.remedy})" if answer.remedy else ""
            yield Why(f"{layer.label} cannot run here: {answer.reason}{remedy}", By.MACHINE)


def _is_ipv4(endpoint: Endpoint) -> bool:
    return endpoint.ip_address is not None and ":" not in endpoint.ip_address


def _securer(stack: Stack) -> str:
    return stack.transport.label if stack.security is None else stack.security.label


def _kind_word(kind: str) -> str:
    return _KIND_WORDS.get(kind, kind)


def _listed(names: Iterable[str]) -> str:
    names = sorted(names) if isinstance(names, set) else list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _fold(protocol: str) -> str:
    return protocol.replace(" ", "").replace("-", "").lower()
