"""When a sender has waited too long for its peer, and when it asks. Pure: no loop, no clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.properties import Preference

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MOST_PATIENCE", "PROBES", "PROBE_INTERVAL", "Vigil"]

#: Seconds: the largest retransmission time, as Linux has it.
MOST_PATIENCE: Final = 120.0

#: Idle seconds before a keep-alive where none are said (RFC 1122), seconds between those
#: that are not answered, and how many of those there are (as Linux has them).
_KEEP_ALIVE: Final = 7200.0
PROBE_INTERVAL: Final = 75.0
PROBES: Final = 9


class Vigil:
    """What one end of a connection knows of the other's being there.

    Args:
        properties: ``connTimeout``, ``keepAlive`` and ``keepAliveTimeout`` of the Connection.
        now: The present, in seconds.
    """

    def __init__(self, properties: Mapping[str, Any], now: float) -> None:
        #: Seconds without an answer after which the Connection has failed.
        self.timeout: float = properties.get("connTimeout", math.inf)
        self._idle: float = properties.get("keepAliveTimeout", math.inf)
        self._wanted: Preference = properties.get("keepAlive", Preference.NO_PREFERENCE)
        self._heard_at = now
        #: Since when an answer is waited for.
        self._since: float | None = None
        #: Probes without an answer, and those for room that none has come for.
        self._probes = 0
        self._asked = 0
        self._probed_at = now

    def apply(self, name: str, value: Any) -> bool:
        """``connTimeout`` and ``keepAliveTimeout``; True if it is one of these."""
        if name == "connTimeout":
            self.timeout = value
        elif name == "keepAliveTimeout":
            self._idle = value
            if value == math.inf:
                # Said on the Connection, it also stops those that ``keepAlive`` asked for.
                self._wanted = Preference.NO_PREFERENCE
        else:
            return False
        return True

    @property
    def keep_alive(self) -> float:
        """Idle seconds after which a keep-alive is sent; ``math.inf``: none is."""
        if self._wanted.unwanted:
            return math.inf
        if self._idle == math.inf:
            return _KEEP_ALIVE if self._wanted.wanted else math.inf
        # RFC 9622, section 8.1.4: of no use above connTimeout.
        return math.inf if self._idle > self.timeout else self._idle

    # -- what happens

    def sent(self, now: float) -> None:
        """Something is sent that wants an answer."""
        if self._since is None:
            self._since = now

    def heard(self, now: float, *, waits: bool) -> None:
        """Something came; ``waits``: something else is still to be answered."""
        self._heard_at = now
        self._probes = 0
        if not waits:
            self._since = None

    def answered(self, now: float, *, waits: bool) -> None:
        """What came was an answer to something that was sent."""
        self._since = now if waits else None

    def room(self) -> None:
        """The peer has told of new room."""
        self._asked = 0

    def probed(self, now: float, *, blocked: bool) -> None:
        """A probe is sent."""
        self.sent(now)
        self._probed_at = now
        self._probes += 1
        if blocked:
            self._asked += 1

    # -- what follows

    def fails_at(self) -> float:
        """When the Connection has failed unless something is heard before."""
        if self._since is None:
            return math.inf
        if self.timeout == math.inf and self._probes >= PROBES:
            return self._probed_at + PROBE_INTERVAL
        return self._since + self.timeout

    def probes_at(self, *, waits: bool, patience: float | None) -> float:
        """When to send a probe unless something happens before.

        Args:
            waits: Something is to be answered and sent again if it is not: that will tell.
            patience: The first retransmission time, if the peer has no room for
                what is to be sent; else ``None``.
        """
        if waits:
            return math.inf
        if patience is not None:
            # It has no end: a peer may read again tomorrow.
            pause = min(patience * 2.0**self._asked, MOST_PATIENCE)
            return max(self._heard_at, self._probed_at) + pause
        if self._probes:
            return self._probed_at + PROBE_INTERVAL if self._probes < PROBES else math.inf
        return self._heard_at + self.keep_alive
