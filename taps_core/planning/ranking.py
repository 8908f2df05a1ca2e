"""What selection says: who is in, in which order, who is out, and why."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from taps_core.model.errors import NoCandidates, Reason

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from taps_core.planning.paths import PathSelection
    from taps_core.planning.stacks import Stack

__all__ = ["By", "Ranked", "Rejected", "Selection", "Why"]


class By(Enum):
    """Whose demand it was."""

    __hash__ = object.__hash__  # Enum's is a Python function, and these are keys

    APPLICATION = "the application"
    DEFAULT = "the RFC's default"
    POLICY = "system policy"
    MACHINE = "this machine"


class Why(NamedTuple):
    """One reason for a place or a rejection."""

    sentence: str
    """Complete, without a full stop."""
    by: By
    property: str | None = None
    """Canonical name of the property that decided, if one did."""

    def __str__(self) -> str:
        return self.sentence

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        return {"sentence": self.sentence, "by": self.by.value, "property": self.property}


class Ranked:
    """A candidate stack at its place.

    Attributes:
        stack: The Protocol Stack.
        place: 1 for the first.
        reasons: What put it there, in the order in which it counts.
        no_effect: Canonical names of what the application set without effect
            on this stack.
        security_protocols: Protocol versions that may be used on it, best
            first; empty for plaintext.
        racing_class: Only stacks whose classes are equal race each other;
            ``None`` is plaintext, else (authenticated, least version).
        key: What it was ordered by; compares left to right.
    """

    __slots__ = (
        "key",
        "no_effect",
        "place",
        "racing_class",
        "reasons",
        "security_protocols",
        "stack",
    )

    def __init__(
        self,
        stack: Stack,
        key: tuple[Any, ...],
        reasons: tuple[Why, ...],
        no_effect: tuple[str, ...],
        security_protocols: tuple[str, ...],
        racing_class: Hashable,
    ) -> None:
        self.stack = stack
        self.key = key
        self.reasons = reasons
        self.no_effect = no_effect
        self.security_protocols = security_protocols
        self.racing_class = racing_class
        self.place = 0

    @property
    def without_effect(self) -> tuple[str, ...]:
        """``no_effect`` as sentences: «keepAliveTimeout: no effect on UDP: why»."""
        return tuple(f"{name}: {self.stack.no_effect(name)}" for name in self.no_effect)

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        stack = self.stack
        return {
            "place": self.place,
            "stack": stack.name,
            "transport": stack.transport.name,
            "security": None if stack.security is None else stack.security.name,
            "framers": [framer.name for framer in stack.framers],
            "security_protocols": list(self.security_protocols),
            "racing_class": _plain(self.racing_class),
            "support": {
                name: {"support": stack.support(name).value, "from": stack.gave(name)}
                for name in sorted(stack.capabilities.support)
            },
            "reasons": [why.as_json() for why in self.reasons],
            "no_effect": list(self.no_effect),
        }

    def __repr__(self) -> str:
        return f"<Ranked {self.place} {self.stack}>"


class Rejected:
    """A stack that is no candidate, with every reason against it."""

    __slots__ = ("reasons", "stack")

    def __init__(self, stack: Stack, reasons: tuple[Why, ...]) -> None:
        self.stack = stack
        self.reasons = reasons

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        return {"stack": self.stack.name, "reasons": [why.as_json() for why in self.reasons]}

    def __repr__(self) -> str:
        return f"<Rejected {self.stack}: {'; '.join(map(str, self.reasons))}>"


class Selection:
    """The outcome. Do not change it: it is shared by equal requests.

    Attributes:
        ranked: Candidates, the best first.
        rejected: The others, by name.
        role: What was asked for: ``"initiate"``, ``"listen"``…
        paths: The paths, likewise; ``None`` where nothing was asked for about them.
        policy: What system policy says of families and delays, in sentences.
    """

    __slots__ = ("paths", "policy", "ranked", "rejected", "role")

    def __init__(
        self, ranked: Iterable[Ranked], rejected: Iterable[Rejected], role: str = "initiate"
    ) -> None:
        self.ranked = tuple(ranked)
        self.rejected = tuple(rejected)
        self.role = role
        self.paths: PathSelection | None = None
        self.policy: tuple[str, ...] = ()
        for place, each in enumerate(self.ranked, 1):
            each.place = place

    def on_paths(self, paths: PathSelection) -> Selection:
        """The same, with what was chosen about paths: that holds for this moment only."""
        selection = Selection(self.ranked, self.rejected, self.role)
        selection.paths = paths
        selection.policy = self.policy
        return selection

    def candidates(self) -> tuple[Ranked, ...]:
        """``ranked``, if there is any.

        Raises:
            NoCandidates: With every rejection and its reasons. POLICY_PROHIBITED
                if policy alone stands in the way.
        """
        if not self.ranked:
            raise self.error()
        error = None if self.paths is None else self.paths.error()
        if error is not None:
            raise error
        return self.ranked

    def error(self) -> NoCandidates:
        """What to raise where there is no candidate."""
        by_policy = any(
            all(why.by is By.POLICY for why in rejected.reasons) for rejected in self.rejected
        )
        if not self.rejected:
            message = "no transport is installed: pip install taps-tcp"
        else:
            message = "\n".join(
                ["no installed Protocol Stack can do this, and nothing was sent:"]
                + [line for each in self.rejected for line in _lines(each)]
            )
        return NoCandidates(
            message,
            reason=Reason.POLICY_PROHIBITED if by_policy else Reason.NO_CANDIDATES,
            rejected={
                each.stack.name: tuple(why.sentence for why in each.reasons)
                for each in self.rejected
            },
        )

    def as_json(self) -> dict[str, Any]:
        """The same as values that ``json`` can write."""
        return {
            "role": self.role,
            "paths": None if self.paths is None else self.paths.as_json(),
            "ranked": [each.as_json() for each in self.ranked],
            "rejected": [each.as_json() for each in self.rejected],
            "policy": list(self.policy),
        }

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.ranked)

    def __len__(self) -> int:
        return len(self.ranked)

    def __str__(self) -> str:
        lines = [f"for {self.role}:"]
        for each in self.ranked:
            lines.append(f"{each.place:>3}. {each.stack}")
            for sentence in (*map(str, each.reasons), *each.without_effect):
                lines += _wrapped(sentence, "     ")
        if not self.ranked:
            lines.append("  no candidate")
        if self.rejected:
            lines.append("rejected:")
            lines += [line for each in self.rejected for line in _lines(each)]
        if self.paths is not None:
            lines.append("paths:")
            for line in self.paths.lines():
                lines += _wrapped(line, "  ")
        for sentence in self.policy:
            lines += _wrapped(sentence, "")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Selection {[each.stack.name for each in self.ranked]}>"


def _lines(rejected: Rejected) -> Iterator[str]:
    name = rejected.stack.name
    for why in rejected.reasons:
        named = why.sentence.startswith(f"{name} ")
        yield from _wrapped(why.sentence if named else f"{name}: {why}", "  ")


def _wrapped(text: str, indent: str) -> list[str]:
    from textwrap import wrap  # only where something is printed

    return wrap(
        text,
        width=80,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(racing_class: Hashable) -> Any:
    return list(racing_class) if isinstance(racing_class, tuple) else racing_class
