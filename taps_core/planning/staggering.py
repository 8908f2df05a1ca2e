"""How attempts of a race follow each other in time: delays, families (RFC 8305, section 8)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from taps_core.planning.candidates import Families

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.planning.candidates import Leaf

    #: Remote Endpoint and name of the path → seconds there and back, if they are known.
    RoundTrip: TypeAlias = "Callable[[RemoteEndpoint, str], float | None]"

__all__ = [
    "DELAY",
    "LEAST_ADAPTED",
    "MAX_DELAY",
    "MIN_DELAY",
    "PATIENCE",
    "RESOLUTION_DELAY",
    "Level",
    "Staggering",
]

#: Seconds. RFC 8305, section 8: Connection Attempt Delay, and the bounds that hold
#: for every kind of branch. The upper one is the RFC's recommendation.
DELAY: Final = 0.250
MIN_DELAY: Final = 0.010
MAX_DELAY: Final = 2.0

#: Seconds that answers which are better may come after those that are there.
RESOLUTION_DELAY: Final = 0.050

#: Round-trip times that an attempt gets before its sibling starts, where they are known: an
#: answer that has not come after two was lost, or nobody gives it.
PATIENCE: Final = 2.0

#: Seconds that it gets at least (RFC 8305, section 5: «recommended minimum 100 ms»): what
#: is known of earlier Connections may be wrong now. Whoever names a delay may go to 10 ms.
LEAST_ADAPTED: Final = 0.100


class Level(Enum):
    """What the children of a node of the candidate tree are."""

    SECURITY_CLASS = "security class"
    PATH = "path"
    STACK = "Protocol Stack"
    HOST = "host"
    ADDRESS = "address"


class Staggering:
    """When the next attempt of a race starts, and with which address family. A value.

    A start delay: it ends no attempt.

    Args:
        delay: Seconds until the next address, host, Protocol Stack or path is tried beside
            those that have not answered (RFC 8305: Connection Attempt Delay). From 10 ms
            to 2 s.
        path_delay: Seconds that a path gets beyond that for setting up its link and for
            names (RFC 9623, section 4.3.2).
        first_family: 6 or 4: which family of a host's addresses comes first; ``None``: that
            of the resolver's first address.
        first_family_count: How many addresses of that family come before one of the other
            (RFC 8305: First Address Family Count).
        round_trip: Asked for the time to a Remote Endpoint and back, given the name of the
            path: then the delay is twice that, from 100 ms to 2 s. ``None``, and an answer
            of ``None``: not known.
        min_delay: Least delay, whatever it is made of.
        max_delay: Greatest delay, likewise.

    Raises:
        ValueError: A number outside its range.
    """

    __slots__ = (
        "delay",
        "families",
        "first_family",
        "first_family_count",
        "max_delay",
        "min_delay",
        "path_delay",
        "round_trip",
    )

    def __init__(
        self,
        *,
        delay: float = DELAY,
        path_delay: float = 0.0,
        first_family: int | None = 6,
        first_family_count: int = 1,
        round_trip: RoundTrip | None = None,
        min_delay: float = MIN_DELAY,
        max_delay: float = MAX_DELAY,
    ) -> None:
        if not MIN_DELAY <= delay <= MAX_DELAY:
            raise ValueError(f"delay is {MIN_DELAY:g} to {MAX_DELAY:g} seconds, not {delay!r}")
        if not 0.0 <= path_delay <= MAX_DELAY:
            raise ValueError(f"path_delay is 0 to {MAX_DELAY:g} seconds, not {path_delay!r}")
        if first_family not in (4, 6, None):
            raise ValueError(f"first_family is 4, 6 or None, not {first_family!r}")
        if first_family_count < 1:
            raise ValueError(f"first_family_count is at least 1, not {first_family_count!r}")
        if not MIN_DELAY <= min_delay <= max_delay <= MAX_DELAY:
            raise ValueError(
                f"min_delay and max_delay are {MIN_DELAY:g} to {MAX_DELAY:g} seconds, in this "
                f"order, not {min_delay!r} and {max_delay!r}"
            )
        self.delay = delay
        self.path_delay = path_delay
        self.first_family = first_family
        self.first_family_count = first_family_count
        self.round_trip = round_trip
        self.min_delay = min_delay
        self.max_delay = max_delay
        #: As ``build_leaves`` takes them.
        self.families = Families(first_family, first_family_count)

    def __call__(self, level: Level, last: Leaf) -> float:
        """Seconds until a sibling starts: as ``RacePlanner`` asks.

        Args:
            level: Where siblings branch.
            last: What was begun there last.
        """
        known = self.round_trip and self.round_trip(last.remote, last.path)
        delay = self.delay
        if known is not None:
            delay = min(max(PATIENCE * known, LEAST_ADAPTED), MAX_DELAY)
        if level is Level.PATH:
            delay += self.path_delay
        return min(max(delay, self.min_delay), self.max_delay)

    def isolated(self) -> Staggering:
        """The same without what is known of other Connections (``isolateSession``)."""
        return self if self.round_trip is None else self.but(round_trip=None)

    def but(self, **changes: Any) -> Staggering:
        """The same with other arguments.

        Raises:
            ValueError: A number outside its range.
        """
        return Staggering(**{name: getattr(self, name) for name in _ARGUMENTS} | changes)

    def __repr__(self) -> str:
        bounds = {"min_delay": MIN_DELAY, "max_delay": MAX_DELAY}
        listed = (
            f"{name}={getattr(self, name)!r}"
            for name in _ARGUMENTS
            if name not in bounds or bounds[name] != getattr(self, name)
        )
        return f"Staggering({', '.join(listed)})"


_ARGUMENTS: Final = tuple(name for name in Staggering.__slots__ if name != "families")
