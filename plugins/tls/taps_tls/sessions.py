"""TLS sessions for resumption, by host name (RFC 9623, section 9). Each serves once."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl

__all__ = ["Sessions"]

#: Sessions kept unless ``maxCachedSessions`` says otherwise.
USUAL: Final = 64


class Sessions:
    """What one set of parameters has left to resume.

    Args:
        most: ``maxCachedSessions``; ``None``: :data:`USUAL`.
        lifetime: ``cachedSessionLifetimeSeconds``; ``None``: as long as the server said.
    """

    def __init__(self, most: int | None, lifetime: int | None) -> None:
        self._most = USUAL if most is None else most
        self._lifetime = lifetime
        #: Server name → the last session with it, the one used longest ago first.
        self._kept: OrderedDict[str, ssl.SSLSession] = OrderedDict()

    @property
    def wanted(self) -> bool:
        """Whether any is kept at all."""
        return self._most > 0

    def take(self, name: str) -> ssl.SSLSession | None:
        """The session with this server, which nobody else gets any more (RFC 9623, 5.3)."""
        session = self._kept.pop(name, None)
        if session is None:
            return None
        lifetime = session.timeout if self._lifetime is None else self._lifetime
        # By the wall clock: that is what OpenSSL stamps sessions with.
        return session if time.time() < session.time + min(lifetime, session.timeout) else None

    def keep(self, name: str, session: ssl.SSLSession) -> None:
        """Remember a session; the oldest makes room."""
        self._kept.pop(name, None)
        self._kept[name] = session
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
