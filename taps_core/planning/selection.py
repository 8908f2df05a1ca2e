"""Choosing Protocol Stacks (RFC 9622, section 6.2; RFC 9623, sections 3 and 4.1.3). Pure.

A stack is out if a Require or a Prohibit is not met, if its security is not
the demanded one, if policy prohibits it, if it does not reach the endpoints
or if the machine cannot run it. The others are ordered by a key, from left to
right:

1. secured before plaintext (only where security is opportunistic);
2. the application's Prefers that are met;
3. the application's Avoids that are not: ALWAYS there is worse than OPTIONAL;
4. system policy;
5. what has failed there lately after what has not, in its racing class: the classes keep
   their order, so that nobody changes it by making attempts fail;
6. deployability: protocols that any peer speaks before those that need evidence;
7. Prefers that are only defaults;
8. name.

A stack's key depends on nothing but the stack and what is asked for. So equal
input has equal outcome, and installing a plugin never reorders the others.
Paths are ranked before that, and elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters
from taps_core.planning.demands import Demands, check_endpoints
from taps_core.planning.policy import Policy
from taps_core.planning.ranking import By, Ranked, Rejected, Selection, Why
from taps_core.planning.stacks import compose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.layers import FramerDefinition
    from taps_core.model.properties import Property
    from taps_core.planning.stacks import Plugins, Stack

__all__ = ["By", "Policy", "Ranked", "Rejected", "Selection", "Selector", "Why", "select"]

#: Selections remembered at most; what comes again and again is what it is for.
_REMEMBERED: Final = 256

_NO_PREFERENCES: Final = TransportProperties()
_SECURE: Final = SecurityParameters()
_NO_POLICY: Final = Policy().on()


class Selector:
    """Chooses among the stacks of some plugins, and remembers what it chose.

    Args:
        plugins: The registry, or :class:`~taps_core.planning.stacks.Installed`.
    """

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._stacks: dict[tuple[FramerDefinition, ...], list[Stack]] = {}
        self._selections: dict[Any, Selection] = {}
        self._definitions: tuple[Property, ...] | None = None
        #: Another object after each :meth:`invalidate`.
        self.epoch = object()

    def invalidate(self) -> None:
        """Forget: plugins came or went, or can run what they could not before."""
        self._stacks.clear()
        self._selections.clear()
        self._definitions = None
        self.epoch = object()

    def select(
        self,
        properties: TransportProperties | None = None,
        *,
        role: str = "initiate",
        security: SecurityParameters | None = None,
        local: Sequence[LocalEndpoint] = (),
        remote: Sequence[RemoteEndpoint] = (),
        framers: Sequence[FramerDefinition] = (),
        policy: Policy | Mapping[str, Any] | None = None,
        evidence: frozenset[str] = frozenset(),
        failing: frozenset[tuple[str, ...]] = frozenset(),
    ) -> Selection:
        """Rank the stacks and give the reason for every place and every rejection.

        Args:
            properties: What the application asks for.
            role: ``"initiate"``, ``"listen"``, ``"rendezvous"`` or ``"clone"``.
            security: ``None``: secure defaults.
            local: A stack is in if it can use one of them; none: any.
            remote: A stack is in if it reaches one of them; none: any.
            framers: In the order in which they were added.
            policy: The system's say.
            evidence: Names of transports that the peer is known to speak.
            failing: Stacks that have failed there lately, each as the names of its
                transport and its security layer.

        Returns:
            Possibly without a candidate; see :meth:`Selection.candidates`.

        Raises:
            PropertyError: A protocol-specific property that its plugin does
                not know, or a value that it cannot have.
            EstablishmentError: INVALID_CONFIGURATION: what is asked for
                contradicts itself or the endpoints.
        """
        properties = _NO_PREFERENCES if properties is None else properties
        security = _SECURE if security is None else security
        verdict = _NO_POLICY
        if policy is not None:
            policy = Policy.coerce(policy)
            # Whom a Listener is for is no destination.
            verdict = policy.on_listeners() if role == "listen" else policy.on(remote)
        framers = tuple(framers)
        check_endpoints(properties, role, local, remote)
        # Of an endpoint nothing else counts here, so that one selection
        # serves all the addresses that an application connects to.
        shapes = (
            tuple([(endpoint.kinds, endpoint.protocol) for endpoint in local]),
            tuple([(endpoint.kinds, endpoint.protocol) for endpoint in remote]),
        )
        key: Any = (
            role,
            properties.key,
            security.mode,
            security.allowed_security_protocols,
            security.judges_peer,
            shapes,
            framers,
            verdict.key,
            evidence,
            failing,
        )
        try:
            known = self._selections.get(key)
        except TypeError:  # the value of a namespaced property cannot be hashed
            key = None
            known = None
        if known is None:
            demands = Demands(
                properties,
                self._all_definitions(),
                role,
                security,
                *shapes,
                verdict,
                evidence,
                failing,
            )
            _check_framers(framers)
            known = self._judge(demands, framers, role)
            known.policy = tuple(verdict.notes())
            if key is not None:
                if len(self._selections) >= _REMEMBERED:
                    self._selections.clear()
                self._selections[key] = known
        return known

    def _judge(
        self, demands: Demands, framers: tuple[FramerDefinition, ...], role: str
    ) -> Selection:
        stacks = self._composed(framers)
        layered = {stack.transport.name for stack in stacks if stack.security is not None}
        ranked: list[Ranked] = []
        rejected: list[Rejected] = []
        for stack in stacks:
            refusals = demands.refusals(
                stack, self._plugins, layered=stack.transport.name in layered
            )
            if refusals:
                rejected.append(Rejected(stack, refusals))
            else:
                ranked.append(demands.rank(stack))
        ranked.sort(key=_key_without_trouble)
        if any(each.key[_TROUBLE] for each in ranked):
            classes = {each.racing_class: index for index, each in reversed([*enumerate(ranked)])}
            ranked.sort(key=lambda each: (classes[each.racing_class], each.key))
        return Selection(ranked, rejected, role)

    def _composed(self, framers: tuple[FramerDefinition, ...]) -> list[Stack]:
        stacks = self._stacks.get(framers)
        if stacks is None:
            if len(self._stacks) >= _REMEMBERED:
                self._stacks.clear()
            stacks = self._stacks[framers] = compose(self._plugins, framers)
        return stacks

    def _all_definitions(self) -> tuple[Property, ...]:
        definitions = self._definitions
        if definitions is None:
            plugins = self._plugins
            definitions = self._definitions = tuple(
                definition
                for layers in (plugins.transports, plugins.security_layers)
                for layer in layers.values()
                for definition in layer.properties
            )
        return definitions


def _check_framers(framers: tuple[FramerDefinition, ...]) -> None:
    for framer in framers[:-1]:
        if framer.objects:
            raise EstablishmentError(
                f"framers: {framer.label} takes objects, so {framers[-1].label} "
                "cannot be added after it",
                reason=Reason.INVALID_CONFIGURATION,
            )


def select(
    plugins: Plugins, properties: TransportProperties | None = None, **how: Any
) -> Selection:
    """:meth:`Selector.select`, once."""
    return Selector(plugins).select(properties, **how)


#: Where the key says what has failed lately.
_TROUBLE: Final = 4


def _key_without_trouble(ranked: Ranked) -> tuple[Any, ...]:
    return ranked.key[:_TROUBLE] + ranked.key[_TROUBLE + 1 :]
