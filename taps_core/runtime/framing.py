"""Message Framers as layers of a Protocol Stack (RFC 9622, section 9.1.2).

The framer that the application adds first is the lowest; the one it adds last
is nearest to it: it runs first for what is sent and last for what is received
(RFC 9622, section 9.1.2.1). So a stack is built by wrapping in that order.

A :class:`~taps_core.model.framer.Codec` is ready as soon as the layer below
is. A :class:`~taps_core.model.framer.Framer` may talk to the peer first, and
may put further layers above itself while it does (STARTTLS).
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import TYPE_CHECKING, TypeGuard

from taps_core.model.errors import EstablishmentError, PluginError, Reason, SendError
from taps_core.model.framer import Codec, Framer
from taps_core.model.layers import EarlyData, FramerDefinition, SecurityLayer
from taps_core.runtime.codec_flow import CodecFlow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taps_core.model.flow import Flow
    from taps_core.model.layers import AcceptRequest, Connector, ConnectRequest
    from taps_core.runtime.framer_flow import FramerFlow

__all__ = ["CodecFlow", "FramerConnector", "accept_framed", "wrap"]


class FramerConnector:
    """Connects what is below a framer and puts a new framer over it."""

    def __init__(
        self, definition: FramerDefinition | type[Framer], lower: Connector, *, datagrams: bool
    ) -> None:
        """Describe it; nothing is made before :meth:`connect`.

        Args:
            definition: Makes the framer.
            lower: What is below.
            datagrams: Whether the unit of the stack below is the datagram: then
                a frame that cannot be parsed costs that datagram alone.
        """
        self._definition = definition
        self._lower = lower
        self._datagrams = datagrams

    async def connect(self, request: ConnectRequest) -> Flow:
        """An established, unstarted flow of Messages.

        A codec frames the request's early data, so that the layer below can
        carry it. What is not taken is left to the layer above, unframed. A
        Framer has to be ready before Messages can be given to it, so it leaves
        early data alone.

        A failed or cancelled set-up aborts the flow below.

        Raises:
            EstablishmentError, OSError: The layer below failed, or the framer did.
        """
        framer = _create(self._definition)
        if _is_codec(framer):
            if request.early is not None:
                return await self._connect_early(framer, request, request.early)
            lower = await self._lower.connect(request)
            return CodecFlow(lower, framer, datagrams=self._datagrams)
        assert isinstance(framer, Framer)
        if request.early is not None:
            request = dataclasses.replace(request, early=None)
        lower = await self._lower.connect(request)

        async def secure(layer: SecurityLayer, flow: Flow) -> Flow:
            return await layer.connect(_Established(flow), request)

        return await _negotiated(
            _framer_flow(self._definition, framer, lower, self._datagrams), secure, self._datagrams
        )

    async def _connect_early(self, codec: Codec, request: ConnectRequest, early: EarlyData) -> Flow:
        below = _framed(codec, early)
        lower = await self._lower.connect(dataclasses.replace(request, early=below))
        if below is not None and below.taken:
            early.taken = True
        else:
            # The Message will be sent again from above: it must meet a codec
            # that has not encoded it before.
            codec = self._fresh_codec(lower)
        return CodecFlow(lower, codec, datagrams=self._datagrams)

    def _fresh_codec(self, lower: Flow) -> Codec:
        try:
            codec = _create(self._definition)
        except BaseException:
            lower.abort()
            raise
        assert isinstance(codec, Codec), "a definition makes framers of one kind"
        return codec


async def accept_framed(
    definition: FramerDefinition | type[Framer],
    flow: Flow,
    *,
    datagrams: bool,
    request: AcceptRequest | None = None,
) -> Flow:
    """Put a new framer over an inbound, unstarted flow.

    Does not wait where the framer is a codec or is ready at once. A failed or
    cancelled set-up aborts ``flow``.

    Args:
        definition: Makes the framer.
        flow: What is below.
        datagrams: As for :class:`FramerConnector`.
        request: For a security layer that the framer may put above itself.

    Raises:
        EstablishmentError, OSError: The framer failed, or ``flow`` did.
    """
    try:
        framer = _create(definition)
    except BaseException:
        flow.abort()
        raise
    if isinstance(framer, Codec):
        return CodecFlow(flow, framer, datagrams=datagrams)

    async def secure(layer: SecurityLayer, flow: Flow) -> Flow:
        if request is None:
            raise EstablishmentError(
                f"{layer.label} has no place above a framer of this flow",
                reason=Reason.INVALID_CONFIGURATION,
            )
        return await layer.accept(flow, request)

    return await _negotiated(_framer_flow(definition, framer, flow, datagrams), secure, datagrams)


def wrap(flow: Flow, framers: Sequence[Codec | Framer], *, datagrams: bool) -> Flow | None:
    """Put new framers over a flow at once, the first one lowest.

    Returns:
        ``None``, and nothing is done, if one of them may have to talk first:
        :func:`accept_framed` waits for that.
    """
    codecs = [framer for framer in framers if isinstance(framer, Codec)]
    if len(codecs) < len(framers):
        return None
    for codec in codecs:
        flow = CodecFlow(flow, codec, datagrams=datagrams)
    return flow


class _Established:
    """The connector of a layer that is put over a flow which is there already."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def connect(self, request: ConnectRequest) -> Flow:
        """The flow, unstarted."""
        return self._flow


async def _negotiated(
    flow: FramerFlow, secure: Callable[[SecurityLayer, Flow], Awaitable[Flow]], datagrams: bool
) -> Flow:
    """``flow`` once it is ready, below what its framer has put above itself."""
    await flow.negotiate()
    top: Flow = flow
    for other in flow.prepended:
        try:
            if isinstance(other, SecurityLayer):
                top = await secure(other, top)
                continue
            framer = _create(other)
        except BaseException:
            flow.abort()
            raise
        if isinstance(framer, Codec):
            top = CodecFlow(top, framer, datagrams=datagrams)
        else:
            # Aborts top, and so flow, if it fails.
            top = await _negotiated(_framer_flow(other, framer, top, datagrams), secure, datagrams)
    return top


def _create(definition: FramerDefinition | type[Framer]) -> Codec | Framer:
    framer = definition() if isinstance(definition, type) else definition.create()
    if not _is_codec(framer) and not isinstance(framer, Framer):
        raise PluginError(f"{definition!r} made {framer!r}, which is neither a Codec nor a Framer")
    return framer


def _is_codec(framer: object) -> TypeGuard[Codec]:
    return _makes_codecs(type(framer))  # type: ignore[arg-type]  # every class can be hashed


@lru_cache(maxsize=64)
def _makes_codecs(made: type) -> bool:
    """Abstract classes take long to say so, each time."""
    return issubclass(made, Codec)


def _framer_flow(
    definition: FramerDefinition | type[Framer], framer: Framer, lower: Flow, datagrams: bool
) -> FramerFlow:
    # Codecs are the usual thing, and do without it.
    from taps_core.runtime.framer_flow import FramerFlow

    return FramerFlow(lower, framer, datagrams=datagrams, boundaries=definition.boundaries)


def _framed(codec: Codec, early: EarlyData) -> EarlyData | None:
    """The early Message for the layer below; ``None`` if it is no Message for this codec.

    Then it is sent like any other later, and its Send tells what is wrong.
    """
    try:
        return EarlyData(codec.encode(early.data, None))
    except SendError:
        return None
