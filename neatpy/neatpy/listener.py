"""Listener: takes Connections of peers."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps
from neatpy._flat import one_module
from neatpy._handlers import call
from neatpy._loop import Work
from neatpy._values import ListenErrorReasons
from neatpy.connection import Connection
from neatpy.endpoint import LocalEndpoint, from_local

one_module(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neatpy.framer import Framer
    from neatpy.preconnection import Preconnection
    from neatpy.transport_properties import TransportProperties

__all__ = ["Connection", "ListenErrorReasons", "Listener"]

logger = logging.getLogger("neatpy")

_REASONS: Final = {
    taps.Reason.NO_CANDIDATES: ListenErrorReasons.UNFULFILLED_PROPERTIES,
    taps.Reason.INVALID_CONFIGURATION: ListenErrorReasons.UNFULFILLED_PROPERTIES,
    taps.Reason.POLICY_PROHIBITED: ListenErrorReasons.PROHIBITED_BY_POLICY,
}


class Listener:
    """Made by ``Preconnection.listen()``; there may be any number of them.

    Attributes:
        HANDLE_CONNECTION_RECEIVED: Called with each Connection, which is ready.
        HANDLE_STATE_LISTENING: Called without arguments when it listens.
        HANDLE_STATE_LISTEN_ERROR: Called with a :class:`ListenErrorReasons` if it cannot listen.
        HANDLE_STATE_STOPPED: Called without arguments when it has stopped.
    """

    def __init__(
        self,
        preconnection: Preconnection,
        framers: tuple[Framer, ...],
        transport_properties: TransportProperties,
        system: taps.System,
    ) -> None:
        """Not called by applications."""
        self.HANDLE_CONNECTION_RECEIVED: Callable[..., object] | None = None
        self.HANDLE_STATE_LISTENING: Callable[..., object] | None = None
        self.HANDLE_STATE_LISTEN_ERROR: Callable[..., object] | None = None
        self.HANDLE_STATE_STOPPED: Callable[..., object] | None = None
        self.preconnection = preconnection
        #: How many Connections have come.
        self.number_of_connections = 0
        #: How many may come in all.
        self.connection_limit: float = math.inf
        self._framers = framers
        self._transport_properties = transport_properties
        self._system = system
        self._inner: taps.Listener | None = None
        self._stopped = False

    def _begin(self, make: Callable[[], taps.Listener]) -> None:
        """Listen, on the running loop."""
        work = Work.here()
        work.enter(self, self._system)
        _ = work.spawn(self._live(make))

    async def _live(self, make: Callable[[], taps.Listener]) -> None:
        if not self._stopped:
            try:
                self._inner = make()
                self._limit()
                _ = await self._inner
            except taps.TapsError as error:
                if not self._stopped:
                    self._fail(error)
                    return
        if not self._stopped:
            assert self._inner is not None
            call(self.HANDLE_STATE_LISTENING)
            async for connection in self._inner:
                self._received(connection)
        if self._inner is not None:
            await self._inner.stopped()
        self._stopped = True
        call(self.HANDLE_STATE_STOPPED)
        Work.here().leave(self)

    def _fail(self, error: taps.TapsError) -> None:
        self._stopped = True
        logger.error("%r cannot listen: %s", self, error)
        reason = _REASONS.get(error.reason, ListenErrorReasons.UNRESOLVED_LOCAL_ENDPOINT)
        call(self.HANDLE_STATE_LISTEN_ERROR, reason)
        call(self.preconnection.unfulfilled_handler)
        Work.here().leave(self)

    def _received(self, inner: taps.Connection[Any]) -> None:
        self.number_of_connections += 1
        connection = Connection(
            self.preconnection,
            self._framers,
            self._transport_properties,
            self._system,
            listener=self,
        )
        connection._begin_accepted(inner)
        # It has to be told: a peer's Connection would otherwise be of no use to anybody.
        call(self.HANDLE_CONNECTION_RECEIVED, connection, None, None, None, None)

    async def _take_streams(self, inner: taps.Connection[Any]) -> None:
        """A peer's clones are streams of its first Connection: they come here, too."""
        async for stream in inner.incoming():
            if self._stopped or self.number_of_connections >= self.connection_limit:
                stream.abort()
            else:
                self._received(stream)

    def stop(self) -> None:
        """Take no more; Connections that have come live on. HANDLE_STATE_STOPPED follows."""
        self._stopped = True
        if self._inner is not None:
            self._inner.stop()

    def set_new_connection_limit(self, value: float) -> None:
        """Take so many Connections, counted from the first on; further ones wait.

        Args:
            value: How many in all, or ``math.inf``.

        Raises:
            ValueError: It is less than 0, or no whole number.
            TypeError: It is no number.
        """
        if not isinstance(value, int | float):
            raise TypeError(f"the limit is a whole number from 0 or math.inf, not {value!r}")
        if value != math.inf and (value != value // 1 or value < 0):
            raise ValueError(f"the limit is a whole number from 0 or math.inf, not {value!r}")
        self.connection_limit = value
        self._limit()

    def reset_connection_limit(self) -> None:
        """Take any number again."""
        self.set_new_connection_limit(math.inf)

    def _limit(self) -> None:
        if self._inner is not None:
            left = max(self.connection_limit - self.number_of_connections, 0)
            self._inner.set_new_connection_limit(left)

    @property
    def local_endpoints(self) -> list[LocalEndpoint]:
        """Where it listens, with the ports really bound; empty when it does not."""
        inner = self._inner
        found = () if inner is None else inner.local_endpoints
        return [local for each in found if (local := from_local(each)) is not None]

    def _wind_up(self) -> None:
        self.stop()

    def _break_off(self) -> None:
        self.stop()

    @property
    def _undelivered(self) -> bool:
        return False

    def __repr__(self) -> str:
        where: Sequence[LocalEndpoint | None]
        where = self.local_endpoints or [self.preconnection.local_endpoint]
        return f"<neatpy.Listener on {', '.join(map(str, where))}>"
