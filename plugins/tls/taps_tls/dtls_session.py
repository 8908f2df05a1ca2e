"""The streams of one association under DTLS (RFC 6083): one handshake, and one end, for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taps_core.plugin import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taps_core.plugin import Flow
    from taps_tls.dtls_flow import DTLSFlow

__all__ = ["DTLSSession"]


class DTLSSession(Session):
    """Wraps the session below and the flows that it gives out.

    Args:
        first: The flow that has shaken hands.
        below: The session of the transport.
    """

    def __init__(self, first: DTLSFlow, below: Session) -> None:
        self.first = first
        self._below = below
        #: Those that are not closed.
        self._open: set[DTLSFlow] = {first}

    def _wrapped(self, lower: Flow) -> DTLSFlow:
        flow = self.first.beside(lower)
        self._open.add(flow)
        return flow

    async def open_stream(self, properties: Mapping[str, Any]) -> DTLSFlow:
        """A further stream; no handshake."""
        return self._wrapped(await self._below.open_stream(properties))

    def accept_streams(self, incoming: Callable[[Flow], None] | None, limit: float) -> None:
        """Hand out what the session below hands out."""
        if incoming is None:
            self._below.accept_streams(None, limit)
            return
        taker = incoming
        self._below.accept_streams(lambda lower: taker(self._wrapped(lower)), limit)

    def is_left_by(self, flow: DTLSFlow) -> bool:
        """A flow is being closed; True if it was the last: then close_notify is said."""
        self._open.discard(flow)
        return not self._open

    def close(self) -> None:
        """Each flow ends in order, then the association."""
        for flow in tuple(self._open):
            flow.close()
        self._below.close()

    def abort(self) -> None:
        """The association ends at once."""
        self._below.abort()

    def apply(self, property: str, value: Any, /) -> bool:
        """Pass down."""
        return self._below.apply(property, value)
