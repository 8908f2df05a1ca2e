"""TLS sessions for resumption, by host name (RFC 9623, section 9). Each serves once."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final, Generic, TypeVar

__all__ = ["Sessions"]

T = TypeVar("T")

#: Sessions kept unless ``maxCachedSessions`` says otherwise.
USUAL: Final = 64


class Sessions(Generic[T]):
    """What one set of parameters has left to resume.

    Args:
        most: ``maxCachedSessions``; ``None``: :data:`USUAL`.
        lifetime: ``cachedSessionLifetimeSeconds``; ``None``: as long as the server said.
    """

    def __init__(self, most: int | None, lifetime: int | None) -> None:
        self._most = USUAL if most is None else most
        self._lifetime = lifetime
        #: Server name → the last session with it and when it began and ends, in seconds
        #: since the epoch; the one used longest ago first.
        self._kept: OrderedDict[str, tuple[T, float, float]] = OrderedDict()

    @property
    def wanted(self) -> bool:
        """Whether any is kept at all."""
        return self._most > 0

    def take(self, name: str) -> T | None:
        """The session with this server, which nobody else gets any more (RFC 9623, 5.3)."""
        found = self._kept.pop(name, None)
        if found is None:
            return None
        session, began, ends = found
        if self._lifetime is not None:
            ends = min(ends, began + self._lifetime)
        # By the wall clock: that is what OpenSSL stamps sessions with.
        return session if time.time() < ends else None

    def keep(self, name: str, session: T, began: float, lifetime: float) -> None:
        """Remember a session; the oldest makes room.

        Args:
            name: Of the server.
            session: Of the library.
            began: Seconds since the epoch.
            lifetime: Seconds for which the server takes it.
        """
        self._kept.pop(name, None)
        self._kept[name] = (session, began, began + lifetime)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
