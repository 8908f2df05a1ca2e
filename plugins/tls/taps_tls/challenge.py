"""The identity challenge callback (RFC 9622, section 6.3.8): who this end is, asked on demand.

OpenSSL can stop a handshake to ask for a certificate, which Python's ``ssl`` cannot let it.
So the callback is asked before the handshake: of a server once the ClientHello has said
which name is asked for, of a client once the connection below is there.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from typing import TYPE_CHECKING, Any

from taps_core.plugin import Certificate, HoldingFlow
from taps_tls.errors import hung_up, refused, unfinished
from taps_tls.identity import unusable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import (
        Flow,
        PartTuple,
        SecurityParameters,
    )
    from taps_tls.info import Challenge

__all__ = ["Overheard", "identified"]


async def identified(security: SecurityParameters, challenge: Challenge) -> SecurityParameters:
    """The parameters with the identity that the callback supplies, and without the callback.

    Raises:
        EstablishmentError: It failed, or supplied nothing that will do.
    """
    callback = security.identity_challenge_callback
    assert callback is not None
    try:
        supplied = callback(challenge)
        if inspect.isawaitable(supplied):
            supplied = await supplied
    except asyncio.CancelledError as error:
        raise error from refused(
            "identity-challenge", "the identity challenge callback has not returned"
        )
    except Exception as error:
        # It may raise anything, and whatever that is, there is no identity.
        failure = refused(
            "identity-challenge", f"the identity challenge callback failed: {error!r}"
        )
        raise failure from error
    if hasattr(supplied, "sign"):
        raise unusable(
            "the identity challenge callback returned something that signs by itself: Python's "
            "ssl signs with a key that it is given and asks nobody to do it: return "
            "Certificate(chain, key)",
            "external-signing",
        )
    serves = challenge.role == "server"
    if not (isinstance(supplied, Certificate) or (supplied is None and not serves)):
        # Its type alone: it may be a key.
        raise refused(
            "identity-challenge",
            f"the identity challenge callback returned {type(supplied).__name__}, "
            "not Certificate(chain, key)",
        )
    mine = () if supplied is None else (supplied,)
    parameters = security.copy().set_identity_challenge_callback(None)
    return parameters.set("serverCertificate" if serves else "clientCertificate", mine)


class _Eavesdropper(ssl.SSLObject):
    """A server that hears which name a client asks for, and goes no further."""

    asked: str | None = None


def _note(tls: Any, name: str | None, _: ssl.SSLContext) -> int:
    tls.asked = name
    return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)


class Overheard(HoldingFlow):
    """An inbound flow whose first bytes are read before anybody answers them.

    Args:
        lower: Unstarted.
        peer: Who is at the other end, for a sentence.
    """

    __slots__ = ("_ended", "_hello", "_incoming", "_loop", "_news", "_peer")

    def __init__(self, lower: Flow, peer: str) -> None:
        super().__init__(lower)
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._incoming = ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = _Eavesdropper
        context.sni_callback = _note
        self._hello = context.wrap_bio(self._incoming, ssl.MemoryBIO(), server_side=True)
        self._news: asyncio.Future[None] | None = None
        #: How the flow below ended: once it has, a tuple of its error or None.
        self._ended: tuple[Exception | None] | None = None

    async def server_name(self) -> str | None:
        """The name that the client asks for; ``None`` if it asks for none, or speaks no TLS.

        Raises:
            EstablishmentError: The peer hung up before.
        """
        self.lower.start(self)
        while not self._is_told():
            if self._ended is not None:
                raise hung_up(self._peer, self._ended[0])
            self._news = self._loop.create_future()
            try:
                await self._news
            except asyncio.CancelledError as error:
                raise error from unfinished(self._peer)
            finally:
                self._news = None
        self.lower.pause()
        assert isinstance(self._hello, _Eavesdropper)
        return self._hello.asked

    def _is_told(self) -> bool:
        try:
            self._hello.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass  # stopped by _note, or no ClientHello: the handshake to come will say so
        return True

    def _up(self, name: str, *arguments: Any) -> None:
        super()._up(name, *arguments)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Listen, or pass up."""
        if self._held is not None:
            for data, _, _ in parts:
                self._incoming.write(data)
        self._up("received", parts)

    def finished(self) -> None:
        """Pass up: there is no more of a ClientHello to come."""
        self._ended = self._ended or (None,)
        self._up("finished")

    def closed(self, error: Exception | None) -> None:
        """Pass up."""
        self._ended = (error,)
        self._up("closed", error)
