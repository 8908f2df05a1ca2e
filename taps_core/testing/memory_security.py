"""Toy security layers: enough handshake and scrambling to prove the seam, no secrecy.

:class:`MemoryTLS` runs over byte streams as TLS does, :class:`MemoryCookies`
over datagrams with cookies at the door as DTLS does. What
``MemoryNetwork.wiretap`` sees under them is no plaintext.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import struct
import zlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import DataUnit, LayerCapabilities, Protection, Support
from taps_core.model.errors import EstablishmentError, Reason, ReceiveError, SendError
from taps_core.model.layers import Door, SecurityLayer
from taps_core.runtime.held import HoldingFlow
from taps_core.testing.memory_flow import joined
from taps_core.testing.memory_secure import PROTOCOL, scrambling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.flow import Data, Flow, PartTuple
    from taps_core.model.layers import AcceptRequest, Connector, ConnectRequest
    from taps_core.model.messages import SendRecord
    from taps_core.model.security import SecurityParameters

__all__ = ["MemoryCookies", "MemoryTLS"]


class _ShakingFlow(HoldingFlow):
    """A layer that shakes hands; the flow below is paused from then on until it is started."""

    def __init__(self, lower: Flow) -> None:
        super().__init__(lower)
        self._loop = asyncio.get_running_loop()
        self._established: asyncio.Future[None] = self._loop.create_future()
        self._protects = False  # the handshake went well

    async def shake(self) -> None:
        """Shake hands; the flow below is aborted if that fails or is cancelled."""
        try:
            self.lower.start(self)
            await self._handshake()
        except BaseException:
            self._established.cancel()  # nobody waits for it any more
            self.lower.abort()
            raise

    @abstractmethod
    async def _handshake(self) -> None:
        """Say what is to be said and wait for ``_established``."""

    @abstractmethod
    def _heard(self, data: bytes) -> bytes:
        """Take a part of the handshake; give what was behind its end."""

    @abstractmethod
    def _opened(self, data: bytes) -> bytes | None:
        """What the layer above gets of ``data``; ``None``: nothing."""

    def _done(self) -> None:
        if not self._established.done():
            self._protects = True
            self._established.set_result(None)
            self.lower.pause()

    def _broken(self, sentence: str) -> None:
        if not self._established.done():
            self._established.set_exception(EstablishmentError(f"the handshake failed: {sentence}"))

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Take what belongs to the handshake, pass up what does not."""
        opened: list[PartTuple] = []
        for part, context, end_of_message in parts:
            if not self._protects and self._established.done():
                return  # the handshake failed; the flow below is being aborted
            rest = part if self._protects else self._heard(part)
            # A last part is passed up even if nothing is in it.
            if self._protects and (rest or end_of_message):
                data = self._opened(rest)
                if data is not None:
                    opened.append((data, context, end_of_message))
        if opened:
            self._up("received", opened)

    def finished(self) -> None:
        """Pass up; it ends a handshake."""
        self._broken("the peer said no more")
        super().finished()

    def closed(self, error: Exception | None) -> None:
        """Pass up; it ends a handshake."""
        self._broken(str(error or "the peer closed"))
        super().closed(error)


_HELLO: Final = b"memory-tls hello"
#: Before each record: its length, and a checksum that depends on the key.
_RECORD: Final = struct.Struct(">II")
_LARGEST: Final = 16 * 1024


class _TLSFlow(_ShakingFlow):
    """Both ends send a greeting with a random byte; the two bytes make the key."""

    def __init__(self, lower: Flow, client: bool) -> None:
        super().__init__(lower)
        self._client = client
        self._mine = os.urandom(1)
        self._heard_so_far = b""
        self._table = b""
        self._records = b""  # of which the last is not complete
        self._goodbye = False
        self._said_goodbye = False
        self._answered = False  # something was sent after the peer's end
        self._distrusted = False

    async def _handshake(self) -> None:
        if self._client:
            self._greet()
        await self._established

    def _greet(self) -> None:
        self.lower.send(_HELLO + self._mine, None, False)
        self.lower.flush()

    def _heard(self, data: bytes) -> bytes:
        data = self._heard_so_far + data
        if not data.startswith(_HELLO[: len(data)]):
            self._broken("the peer does not speak memory-tls")
            return b""
        length = len(_HELLO) + 1
        if len(data) < length:
            self._heard_so_far = data
            return b""
        if not self._client:
            self._greet()
        self._table = scrambling((self._mine[0] + data[length - 1]) % 255 + 1)
        self._done()
        return data[length:]

    def _opened(self, data: bytes) -> bytes | None:
        """What is in the records that are complete."""
        data = self._records + data
        opened = []
        while len(data) >= _RECORD.size and not self._goodbye:
            length, checksum = _RECORD.unpack_from(data)
            end = _RECORD.size + length
            if length > _LARGEST:
                self._distrust("a record of no size that there is")
                return None
            if len(data) < end:
                break
            sealed, data = data[_RECORD.size : end], data[end:]
            if zlib.crc32(sealed, self._table[0]) != checksum:
                self._distrust("a record was changed on the way")
                return None
            self._goodbye = not sealed
            opened.append(sealed.translate(self._table))
        self._records = data
        return b"".join(opened) or None

    def _distrust(self, sentence: str) -> None:
        if not self._distrusted:
            self._distrusted = True
            error = ReceiveError(f"memory-tls: {sentence}", reason=Reason.PROTOCOL_FAILED)
            self._up("failed", error, True)

    def finished(self) -> None:
        """Pass up, if the peer itself has said so."""
        if self._distrusted:
            return
        if self._protects and not self._goodbye:
            self._distrust("the stream was cut off")
            return
        super().finished()

    def closed(self, error: Exception | None) -> None:
        """Pass up; that a peer which has ended does not read our end is no error."""
        if self._goodbye and self._ending and not self._answered:
            error = None
        super().closed(error)

    def _up(self, name: str, *arguments: Any) -> None:
        if not self._distrusted or name not in ("received", "finished"):
            super()._up(name, *arguments)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Scramble and pass down."""
        self._answered = self._goodbye
        whole = joined(data)
        pieces = [whole[at : at + _LARGEST] for at in range(0, len(whole), _LARGEST)]
        sealed = b"".join(map(self._sealed, pieces))
        return self.lower.send(sealed, record, end_of_message)

    def _sealed(self, data: bytes) -> bytes:
        sealed = data.translate(self._table)
        return _RECORD.pack(len(sealed), zlib.crc32(sealed, self._table[0])) + sealed

    def _say_goodbye(self) -> None:
        """An empty record: only who has the key can end the stream."""
        if self._protects and not self._said_goodbye:
            self._said_goodbye = True
            with contextlib.suppress(SendError):
                self.lower.send(self._sealed(b""), None, False)

    def finish(self) -> None:
        """Say so under protection, then finish below."""
        self._say_goodbye()
        self.lower.finish()

    def close(self) -> None:
        """Say so under protection, then close below."""
        if not self._ending:
            self._say_goodbye()
        super().close()


class MemoryTLS(SecurityLayer):
    """Security layer ``memory-tls``: a handshake of one round trip over a byte stream."""

    name = "memory-tls"
    capabilities = LayerCapabilities(
        over=frozenset({DataUnit.BYTE_STREAM}), protection=Protection(protocols=(PROTOCOL,))
    )
    _flow: type[_TLSFlow] = _TLSFlow

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        """Connect ``lower`` and greet first."""
        # Early data would leave as plaintext below.
        flow = self._flow(
            await lower.connect(dataclasses.replace(request, early=None)), client=True
        )
        await flow.shake()
        return flow

    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        """Wait for the greeting and answer it."""
        flow = self._flow(lower, client=False)
        await flow.shake()
        return flow


# First byte of each datagram under MemoryCookies.
_PLEASE: Final = b"?"  # client: may I?
_COOKIE: Final = b"!"  # door: say this then
_KNOCK: Final = b"+"  # client: I may
_WELCOME: Final = b"="  # server: you are in
_DATA: Final = b"."


class _CookieDoor(Door):
    """Lets in who got the mail that was sent to its address; remembers nobody."""

    def __init__(self) -> None:
        self._secret = os.urandom(16)

    def admit(
        self, datagram: bytes, remote: RemoteEndpoint, reply: Callable[[bytes], None]
    ) -> Any | None:
        """Answer a request by a cookie, and a cookie by what makes the key."""
        address = f"{remote.ip_address} {remote.port}".encode()
        cookie = hashlib.blake2b(address, key=self._secret, digest_size=8).digest()
        if datagram == _PLEASE:
            reply(_COOKIE + cookie)
        return cookie if datagram == _KNOCK + cookie else None


class _CookieFlow(_ShakingFlow):
    """A client knocks until it is welcome; a server welcomes as often as one knocks."""

    def __init__(self, lower: Flow, cookie: bytes | None, interval: float) -> None:
        super().__init__(lower)
        self._client = cookie is None
        self._saying = _PLEASE
        self._interval = interval
        self._inside = False  # send is in the middle of a Message
        self._table = b""
        if cookie is not None:
            self._use(cookie)

    def _use(self, cookie: bytes) -> None:
        self._table = scrambling(cookie[0] or 1)

    async def _handshake(self) -> None:
        if not self._client:
            await self._established  # the knock that was admitted comes first
            return
        for attempt in range(6):
            self._say(self._saying)
            done, _ = await asyncio.wait([self._established], timeout=self._interval * 2**attempt)
            if done:
                break
        else:
            self._broken("no answer")
        await self._established

    def _say(self, datagram: bytes) -> None:
        self.lower.send(datagram, None, True)
        self.lower.flush()

    def _heard(self, data: bytes) -> bytes:
        kind, rest = data[:1], data[1:]
        if not self._client:
            if kind == _KNOCK:
                self._done()
        elif kind == _COOKIE and rest and self._saying == _PLEASE:
            self._use(rest)
            self._saying = _KNOCK + rest
            self._say(self._saying)
        elif kind in (_WELCOME, _DATA) and self._table:
            self._done()  # data: the welcome got lost, or is late
        return data

    def _opened(self, data: bytes) -> bytes | None:
        kind, rest = data[:1], data[1:]
        if kind == _KNOCK and not self._client:
            self._say(_WELCOME)
        return rest.translate(self._table) if kind == _DATA else None

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Scramble, mark as data and pass down."""
        sealed = joined(data).translate(self._table)
        later = self.lower.send(sealed if self._inside else _DATA + sealed, record, end_of_message)
        self._inside = not end_of_message
        return later

    def read(self, property: str, /) -> Any:
        """As below, less the byte that is ours."""
        value = self.lower.read(property)
        lengths = ("sendMsgMaxLen", "recvMsgMaxLen", "singularTransmissionMsgMaxLen")
        return value - len(_DATA) if property in lengths and value else value


class MemoryCookies(SecurityLayer):
    """Security layer ``memory-cookies``: over datagrams, with a door that keeps no state.

    Args:
        interval: Seconds until a lost datagram of the handshake is sent again,
            doubled each time; it fails after six.
    """

    name = "memory-cookies"
    capabilities = LayerCapabilities(
        over=frozenset({DataUnit.DATAGRAM}),
        changes={"zeroRttMsg": Support.NEVER},
        protection=Protection(protocols=("memory-cookies",)),
    )

    def __init__(self, *, interval: float = 0.1) -> None:
        self._interval = interval

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        """Connect ``lower`` and knock."""
        below = await lower.connect(dataclasses.replace(request, early=None))
        flow = _CookieFlow(below, None, self._interval)
        await flow.shake()
        return flow

    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        """Welcome whom the door admitted.

        Raises:
            EstablishmentError: Nobody asked the door.
        """
        if request.admitted is None:
            lower.abort()
            raise EstablishmentError(f"{self.label} needs a listener that has a door")
        flow = _CookieFlow(lower, request.admitted, self._interval)
        await flow.shake()
        return flow

    def door(self, properties: Mapping[str, Any], security: SecurityParameters) -> Door:
        """One for each listener, with a secret of its own."""
        return _CookieDoor()
