"""What becomes of paths while Connections use them (RFC 9622, section 8.3.2; RFC 9623, 7.2).

The kernel's notices wake the loop; what has changed is found by looking at all interfaces again
and comparing, so that nothing is lost if there are too many notices. Nobody polls, there is no
thread, and without somebody who wants to know nothing is open. Where nobody gives notice
(:mod:`taps_core.runtime.survey`), and on a loop that watches no sockets, there is no PathChange
from here; a transport may tell of its own.

A lost path ends no Connection: it may come back in time. Only PathChange says so, and the stack
is told, which may know another way.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taps_core.model.endpoints import LocalEndpoint
from taps_core.model.events import PathChange
from taps_core.model.properties import ConnectionState

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.model.paths import Interface
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.paths import Paths

__all__ = ["PathMonitor"]

logger = logging.getLogger("taps_core")

#: Seconds for what belongs together to come together: an interface, then its addresses.
_SETTLING: Final = 0.01
#: Seconds between two looks where changes never end, and how many times as long as the last
#: one took: a host of containers has hundreds of interfaces.
_BETWEEN: Final = 0.25
_PAUSE: Final = 20
#: Notices read in one turn of the loop.
_READS: Final = 64
_READ_SIZE: Final = 65536


class _Place(NamedTuple):
    """An address, and the interface that has it."""

    interface: Interface
    usable: bool


class PathMonitor:
    """Of one System on one loop. Watches as long as there is somebody to tell.

    Args:
        loop: The running one.
        paths: Those of the System.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, paths: Paths) -> None:
        self._loop = loop
        self._paths = paths
        self._connections: set[Connection[Any]] = set()
        self._others: set[Callable[[], None]] = set()
        self._loading: asyncio.Future[None] | None = None
        self._socket: socket.socket | None = None
        self._before: dict[str, _Place] = {}
        self._look_at: asyncio.TimerHandle | None = None
        self._look_again = 0.0

    # -- who wants to know

    def tell(self, connection: Connection[Any]) -> None:
        """Tell ``connection`` of what concerns it, until :meth:`forget`."""
        self._connections.add(connection)
        self._watch()

    def call(self, changed: Callable[[], None]) -> None:
        """Call ``changed()`` after each change, until :meth:`forget`."""
        self._others.add(changed)
        self._watch()

    def forget(self, whoever: Connection[Any] | Callable[[], None]) -> None:
        """Tell or call no more; watch no more if that was the last one."""
        self._connections.discard(whoever)
        self._others.discard(whoever)
        if not self._connections and not self._others:
            self.close()

    @property
    def watching(self) -> bool:
        """Whether changes are noticed."""
        return self._socket is not None

    def close(self) -> None:
        """Watch no more."""
        self._connections.clear()
        self._others.clear()
        loading, self._loading = self._loading, None
        if loading is not None:
            loading.cancel()
        if self._look_at is not None:
            self._look_at.cancel()
            self._look_at = None
        sock, self._socket = self._socket, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._before = {}

    def _watch(self) -> None:
        if self._socket is not None or self._loading is not None:
            return
        if self._paths.is_loaded:
            self._open()
        else:
            self._loading = self._loop.run_in_executor(None, self._paths.load)
            self._loading.add_done_callback(self._loaded)

    def _loaded(self, loading: asyncio.Future[None]) -> None:
        if loading.cancelled():
            return
        self._loading = None
        loading.result()  # an error is a bug, and the loop's exception handler hears of it
        self._open()

    def _open(self) -> None:
        try:
            sock = self._paths.survey.notices()
        except OSError as error:
            logger.info("paths are not watched: %s", error)
            return
        if sock is None:
            return
        try:
            self._loop.add_reader(sock.fileno(), self._noticed)
        except (NotImplementedError, RuntimeError):  # a loop that watches no sockets
            sock.close()
            return
        self._socket = sock
        self._before = _places(self._paths.survey.interfaces())

    # -- what changed

    def _noticed(self) -> None:
        sock = self._socket
        assert sock is not None
        # What they say is looked up, also after ENOBUFS: some are lost then.
        with contextlib.suppress(OSError):
            for _ in range(_READS):
                sock.recv(_READ_SIZE)
        if self._look_at is None:
            when = max(self._loop.time() + _SETTLING, self._look_again)
            self._look_at = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._look_at = None
        began = self._loop.time()
        self._look_again = began + _BETWEEN
        try:
            after = _places(self._paths.survey.interfaces())
        except OSError as error:
            logger.warning("interfaces cannot be looked at: %s", error)
            return
        now = self._loop.time()
        self._look_again = max(self._look_again, now + _PAUSE * (now - began))
        before, self._before = self._before, after
        changes = {
            address: sentence
            for address in {**before, **after}
            if (sentence := _difference(address, before.get(address), after.get(address)))
        }
        if not changes:
            return
        self._paths.changed()
        for changed in list(self._others):
            changed()
        events = {
            address: PathChange(sentence, (_endpoint(address, before, after),))
            for address, sentence in changes.items()
        }
        for connection in list(self._connections):
            self._tell(connection, events)

    def _tell(self, connection: Connection[Any], events: dict[str, PathChange]) -> None:
        flow = connection._flow
        if flow is None or connection.state is ConnectionState.CLOSED:
            return
        local = flow.local_endpoint
        own = None if local is None else local.ip_address
        for address, event in events.items():
            # Every change may be a way for a protocol that has several; the application's
            # Connection is concerned by its own.
            flow.path_changed(event)
            if address == own:
                connection._notified(event)


def _places(interfaces: Sequence[Interface]) -> dict[str, _Place]:
    """By address. Link-local ones may be on several interfaces: the first that is up counts."""
    found: dict[str, _Place] = {}
    for interface in sorted(interfaces, key=lambda each: not each.up):
        for each in interface.addresses or ():
            found.setdefault(each.address, _Place(interface, interface.up))
    return found


def _difference(address: str, before: _Place | None, after: _Place | None) -> str | None:
    """What became of an address, in a sentence; ``None`` if nothing did."""
    if after is None:
        assert before is not None
        return f"{before.interface.name} has lost {address}"
    name = after.interface.name
    if before is None:
        return f"{name} has got {address}" + ("" if after.usable else ", and is down")
    if before.usable and not after.usable:
        return f"{name} is down"
    if after.usable and not before.usable:
        return f"{name} is up again"
    if before.interface.name != name:
        return f"{address} has moved from {before.interface.name} to {name}"
    if before.interface.mtu != after.interface.mtu:
        return f"the MTU of {name} is {after.interface.mtu} bytes now"
    return None


def _endpoint(
    address: str, before: Mapping[str, _Place], after: Mapping[str, _Place]
) -> LocalEndpoint:
    place = after.get(address) or before[address]
    return LocalEndpoint(ip_address=address, interface=place.interface.name)
