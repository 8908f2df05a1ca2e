"""SoftErrors of TCP: what is wrong on the path while the connection lives on.

The kernel wakes nobody for them. It notes an ICMP error at the socket, where SO_ERROR
shows it once; a newer one takes its place, and the next acknowledgement wipes it out. (With
IP_RECVERR it would make the next read fail, which event loops take for the end of the
connection.) Retransmissions it counts. So the kernel is asked, and only for those who want to
know and while something is unacknowledged: both come of what was sent. An error that the
connection got over between two looks is not seen.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import Preference, SoftError
from taps_tcp.delivery import unacknowledged
from taps_tcp.flow import TCPFlow
from taps_tcp.info import CLOSED, tcp_info
from taps_tcp.multipath import DISABLED
from taps_tcp.options import EXCESSIVE_RETRANSMISSIONS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from taps_core.plugin import Data, RemoteEndpoint
    from taps_tcp.info import TCPInfo

__all__ = ["WatchedTCPFlow", "flow_for"]

#: Seconds between two looks: twice within the time until the next retransmission, which
#: is what brings the next error, but within these bounds.
SHORTEST: Final = 0.1
LONGEST: Final = 1.0


def flow_for(
    sock: socket.socket,
    properties: Mapping[str, Any],
    *,
    remote: RemoteEndpoint | None = None,
    address: Any = None,
    single: str = DISABLED,
) -> TCPFlow:
    """A flow that is watched if ``softErrorNotify`` is Prefer or Require.

    Not for No Preference: watching costs a timer while data is on its way.

    Args:
        sock: As :class:`TCPFlow`, like all of them.
        properties: Likewise.
        remote: Likewise.
        address: Likewise.
        single: Likewise.
    """
    wanted = properties.get("softErrorNotify", Preference.NO_PREFERENCE)
    kind = WatchedTCPFlow if wanted.wanted else TCPFlow
    return kind(sock, properties, remote=remote, address=address, single=single)


class WatchedTCPFlow(TCPFlow):
    """One that tells of ICMP errors and of excessive retransmissions."""

    __slots__ = ("_seen", "_watch")

    def __init__(self, sock: socket.socket, properties: Mapping[str, Any], **more: Any) -> None:
        super().__init__(sock, properties, **more)
        self._watch: asyncio.TimerHandle | None = None
        #: Retransmissions in a row at the last look.
        self._seen = 0

    def write_through(self, data: Data, /) -> None:
        """Write at once; from then on it is watched."""
        super().write_through(data)
        if self._watch is None:
            self._watch = self._loop.call_later(SHORTEST, self._look)

    def flush(self) -> None:
        """Write everything gathered; from then on it is watched."""
        super().flush()
        if self._watch is None:
            self._watch = self._loop.call_later(SHORTEST, self._look)

    def apply(self, property: str, value: Any, /) -> bool:
        """Let the threshold count from the next look on; else as every TCP flow.

        Raises:
            PropertyError: The operating system refused.
        """
        if property == EXCESSIVE_RETRANSMISSIONS.name:
            self._properties = {**self._properties, property: value}
            return True
        return super().apply(property, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to look at."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Tell what is new, and look again as long as something is unacknowledged."""
        self._watch = None
        before = tcp_info(self.sock)
        if self._closing or self._lost or before is None or before.state == CLOSED:
            return  # nobody is told any more, or the loop is about to tell the end
        code = self._error_number()
        info = tcp_info(self.sock)
        if code and (info is None or info.state == CLOSED):
            # It broke between the two, and the loop would find no error any more.
            self._lose(_system_error(self._error_number() or code))
            self._transport.abort()
            return
        if code:
            self._tell(SoftError(_system_error(code)))
        self._consider(before)
        waiting = self._transport.get_write_buffer_size() or unacknowledged(self.sock)
        if waiting and self._watch is None and not self._lost:
            delay = min(max(before.retransmission_timeout / 2, SHORTEST), LONGEST)
            self._watch = self._loop.call_later(delay, self._look)

    def _consider(self, info: TCPInfo) -> None:
        """Tell of retransmissions where they pass the threshold: once, until they begin anew."""
        name = EXCESSIVE_RETRANSMISSIONS.name
        most = self._properties.get(name, EXCESSIVE_RETRANSMISSIONS.default)
        now, seen = info.retransmissions_in_a_row, self._seen
        self._seen = now
        if now >= most and not most <= seen <= now:
            sentence = f"no acknowledgement, though it was sent again {now} times in a row"
            self._tell(SoftError(sentence, {"retransmissions": now}))

    def _error_number(self) -> int:
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _tell(self, event: SoftError) -> None:
        if self._above is None or self._closing:
            return
        try:
            self._above.notified(event)
        except Exception as error:  # noqa: BLE001  # entry of the push: what escapes ends this flow only
            self._break(error)


def _system_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
