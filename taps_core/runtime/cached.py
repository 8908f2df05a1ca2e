"""What a System remembers of its Connections (RFC 9623, section 9): ``System.cached``.

Only races teach anything: where there was one thing to try, there is nothing to choose the
next time either, and so it costs nothing. Connections with ``isolateSession`` neither use
nor leave anything here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from taps_core.planning.history import NOTHING, History

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.planning.candidates import Leaf
    from taps_core.planning.history import Evidence
    from taps_core.planning.race import RacePlanner
    from taps_core.runtime.paths import Paths

__all__ = ["CachedState"]


class CachedState:
    """What has worked, what has failed, and how long it took, for each network.

    In memory; :meth:`as_json` and :meth:`restore` are for programs that keep it.
    """

    def __init__(self) -> None:
        self._history = History()
        #: For the runtime: whether anything is remembered of one of some remotes.
        self.knows = self._history.knows

    def __len__(self) -> int:
        """Destinations, a host and a port each, about which anything is known."""
        return len(self._history)

    def __bool__(self) -> bool:
        return len(self._history) > 0

    def forget(self, host: str | None = None) -> None:
        """Forget everything, or what is known about one host.

        Args:
            host: A name or an address, as Connections were made to it.
        """
        self._history.forget(host)

    def as_json(self) -> dict[str, Any]:
        """All of it as values that ``json`` can write. It says where Connections went.

        ``saved`` is the time of day, ``destinations`` a list of objects: ``host``, ``port``,
        ``network`` (prefixes), ``used`` (seconds ago), ``stacks`` and
        ``addresses`` and ``paths`` with ``worked`` (seconds ago, or ``None``) and ``trouble``
        (failures, fading), and ``round_trips`` with ``address``, ``path``, ``seconds`` and ``ago``.
        """
        destinations = self._history.as_json(_now())
        for each in destinations:
            each["network"] = sorted(each["network"] or ())
        return {"saved": time.time(), "destinations": destinations}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Add what :meth:`as_json` once said; as old as it is now.

        Raises:
            ValueError: It is something else.
        """
        try:
            older = max(0.0, time.time() - float(saved["saved"]))
            destinations = [
                {**each, "network": frozenset(map(str, each["network"]))}
                for each in saved["destinations"]
            ]
            self._history.restore(destinations, _now(), older)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not what CachedState.as_json() says: {error!r}") from error

    # -- for the runtime

    def about(self, remotes: Sequence[RemoteEndpoint], paths: Paths) -> Evidence:
        """What is known about the stacks to these."""
        if not self._history.knows(remotes):
            return NOTHING
        return self._history.about(remotes, _network(paths), _now())

    def order(self, leaves: Sequence[Leaf], paths: Paths) -> Sequence[Leaf]:
        """The same, of each host what has worked first."""
        if len(leaves) < 2 or not self._history.knows(leaf.remote for leaf in leaves):
            return leaves
        return self._history.order(leaves, _network(paths), _now())

    def paths(self, remotes: Sequence[RemoteEndpoint], paths: Paths) -> Mapping[str, int]:
        """Places of paths that are equal otherwise, 0 for those not named."""
        if not self._history.knows(remotes):
            return {}
        return self._history.paths(remotes, _network(paths), _now())

    def round_trip(self, remote: RemoteEndpoint, path: str, paths: Paths) -> float | None:
        """Seconds, if they are known."""
        if not self._history.knows((remote,)):
            return None
        return self._history.round_trip(remote, path, _network(paths), _now())

    def learn(self, planner: RacePlanner, paths: Paths) -> None:
        """A race is over."""
        self._history.learn(planner.begun, _network(paths), _now())

    def __repr__(self) -> str:
        return f"<CachedState about {len(self)} destinations>"


def _network(paths: Paths) -> Hashable:
    try:
        return paths.network
    except OSError:  # a sandbox that does not tell: all is one network then
        return frozenset()


def _now() -> float:
    """The loop's time, which may be a virtual one; outside of loops that of asyncio's."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
