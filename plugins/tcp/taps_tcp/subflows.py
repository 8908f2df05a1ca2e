"""A connection of Multipath TCP: its subflows come, go and die, and the application hears of it.

The kernel tells nobody (only programs of an administrator's, by netlink), so it is asked:
often while something has changed or is unacknowledged, and ever more seldom while not. A
path that dies is noticed by what is sent on it, since nothing else is.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    LocalEndpoint,
    PathChange,
    PropertyError,
    choose_source,
    source_address,
)
from taps_tcp import multipath
from taps_tcp.delivery import unacknowledged
from taps_tcp.flow import TCPFlow
from taps_tcp.multipath import MultipathInfo, PlainTCP
from taps_tcp.options import configure
from taps_tcp.watching import flow_for

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from taps_core.plugin import ConnectRequest, Data, Event, Receiver, RemoteEndpoint
    from taps_tcp.multipath import Subflow

__all__ = ["MultipathFlow", "multipath_flow_for", "open_multipath"]

#: Seconds between two looks: at first, while something is on its way, and while nothing is.
FIRST: Final = 0.1
BUSY: Final = 0.5
IDLE: Final = 8.0


def open_multipath(
    request: ConnectRequest, family: socket.AddressFamily
) -> tuple[socket.socket | None, LocalEndpoint | None, str]:
    """A socket of Multipath TCP, not bound, and what to bind it to.

    Returns:
        Without a socket: why plain TCP has to do.

    Raises:
        EstablishmentError, OSError: There is something else about it.
    """
    local, remote, properties = request.local, request.remote, request.properties
    try:
        multipath.check(properties, local, remote, role=request.role)
        sock = socket.socket(family, socket.SOCK_STREAM, multipath.IPPROTO_MPTCP)
    except PlainTCP as reason:
        return None, local, str(reason)
    except OSError as error:
        if error.errno not in multipath.WHY_NOT:
            raise
        return None, local, multipath.reason_for(error)
    try:
        sock.setblocking(False)
        multipath.prepare(sock, properties)
        if local is None or local.ip_address is None:
            try:
                choose_source(sock, properties)
            except OSError:  # the option is one of those that it lacks
                local = (local or LocalEndpoint()).with_ip_address(
                    source_address(remote, local, properties)
                )
    except PlainTCP as reason:
        sock.close()
        return None, local, str(reason)
    except BaseException:
        sock.close()
        raise
    return sock, local, ""


def multipath_flow_for(
    sock: socket.socket,
    properties: Mapping[str, Any],
    *,
    remote: RemoteEndpoint | None = None,
    address: Any = None,
) -> TCPFlow:
    """For a connected socket that was opened for Multipath TCP, or accepted by such a one.

    Args:
        sock: As :class:`TCPFlow`, like all of them.
        properties: Likewise.
        remote: Likewise.
        address: Likewise.
    """
    if multipath.is_multipath(sock):
        return MultipathFlow(sock, properties, remote=remote, address=address, single="")
    # It is a TCP socket now, and has options that it lacked.
    configure(sock, properties)
    return flow_for(sock, properties, remote=remote, address=address, single=multipath.NOT_SPOKEN)


class MultipathFlow(TCPFlow):
    """One whose peer speaks Multipath TCP."""

    __slots__ = ("_delay", "_known", "_look_again")

    def __init__(self, sock: socket.socket, properties: Mapping[str, Any], **more: Any) -> None:
        super().__init__(sock, properties, **more)
        #: By the two Endpoints, which a subflow keeps: what was told of it last.
        self._known = {each[:2]: each.state for each in multipath.subflows(sock)}
        self._delay = FIRST
        self._look_again: asyncio.TimerHandle | None = None

    def start(self, receiver: Receiver) -> None:
        """From then on its paths are watched."""
        super().start(receiver)
        self._look_soon()

    def write_through(self, data: Data, /) -> None:
        """Write at once, and see what becomes of it."""
        super().write_through(data)
        if self._delay > BUSY:
            self._look_soon()

    def flush(self) -> None:
        """Write everything gathered, and see what becomes of it."""
        super().flush()
        if self._delay > BUSY:
            self._look_soon()

    def path_changed(self, event: Event) -> None:
        """The system's paths changed: then so do the subflows."""
        del event
        self._look_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to look at."""
        if self._look_again is not None:
            self._look_again.cancel()
        super().connection_lost(exc)

    def _multipath(self) -> MultipathInfo:
        if not multipath.is_multipath(self.sock):
            return MultipathInfo(False, multipath.NOT_SPOKEN, ())
        return MultipathInfo(True, "", multipath.subflows(self.sock))

    def apply(self, property: str, value: Any, /) -> bool:
        """As every TCP flow; a ``multipathPolicy`` can only be what it is.

        Raises:
            PropertyError: The operating system refused.
        """
        if property == "multipathPolicy" and not self._lost:
            if value is not self.read(property):
                raise PropertyError(
                    f"multipathPolicy {value}: the path manager has one for all connections, "
                    "which an administrator may change (ip mptcp endpoint change … backup)"
                )
            return True
        return super().apply(property, value)

    def read(self, property: str, /) -> Any:
        """As every TCP flow; and ``multipathPolicy``."""
        if property == "multipathPolicy" and not self._lost:
            try:
                return multipath.policy()
            except (ImportError, OSError):
                return None
        return super().read(property)

    def change_endpoints(
        self, verb: str, local: Sequence[LocalEndpoint], remote: Sequence[RemoteEndpoint], /
    ) -> bool:
        """It is not for a connection to say.

        Raises:
            PropertyError: Always.
        """
        which = ", ".join(str(each.ip_address) for each in (*local, *remote))
        raise PropertyError(
            f"cannot {verb} {which}: the path manager opens and announces paths for all "
            "connections, as an administrator has told it (ip mptcp endpoint)"
        )

    # -- what becomes of its paths

    def _look_soon(self) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
        self._delay = FIRST
        self._look_again = None if self._lost else self._loop.call_later(FIRST, self._look)

    def _look(self) -> None:
        """Tell what is new, and look again."""
        self._look_again = None
        # It may fall back in the middle, if something on the path drops its options: to the
        # path that it has, which is no change.
        if self._closing or self._lost or not multipath.is_multipath(self.sock):
            return
        found = {each[:2]: each for each in multipath.subflows(self.sock)}
        changed = False
        for ends, subflow in found.items():
            before = self._known.get(ends)
            if before != subflow.state:
                changed = True
                self._tell(subflow.local, subflow.remote, _change(before, subflow))
        for ends in self._known.keys() - found.keys():
            changed = True
            self._tell(*ends, "is gone")
        self._known = {ends: each.state for ends, each in found.items()}
        if changed or unacknowledged(self.sock):
            self._delay = FIRST if changed else min(2 * self._delay, BUSY)
        else:
            self._delay = min(2 * self._delay, IDLE)
        self._look_again = self._loop.call_later(self._delay, self._look)

    def _tell(self, local: LocalEndpoint, remote: RemoteEndpoint, what: str) -> None:
        if self._above is None or self._closing:
            return
        sentence = f"{remote.ip_address} from {local.ip_address} {what}"
        try:
            self._above.notified(PathChange(sentence, (local,), (remote,)))
        except Exception as error:  # noqa: BLE001  # entry of the push: what escapes ends this flow only
            self._break(error)


def _change(before: str | None, subflow: Subflow) -> str:
    if before is None:
        return "was added"
    return "is available" if subflow.state == "active" else "is unreachable"
