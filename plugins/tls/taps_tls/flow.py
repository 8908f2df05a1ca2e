"""One connection over TLS as a Flow: handshake, records, and an end that nobody can forge.

* OpenSSL works on memory: what comes up from below goes into one buffer, what it
  wants to send is taken from another. All that came is decrypted at once, so nothing
  is left in the first one but what is no whole record yet.
* What is sent is gathered and encrypted by ``flush``: small Messages share a record.
* ``finish`` and ``close`` say ``close_notify``. A stream that ends below without the
  peer's is an error to whoever receives (truncation). After ``finish`` receiving goes
  on; a peer that keeps to TLS 1.2 by the letter then says no more.
* Nothing of this end's identity leaves before pins and the trust verification callback
  have seen the peer's certificates, and nothing of the application before the handshake
  is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from taps_core.plugin import (
    EstablishmentError,
    HoldingFlow,
    Reason,
    SendError,
    Signal,
)
from taps_tls.errors import (
    connection_broken,
    handshake_failed,
    hung_up,
    receiving_broken,
    truncated,
    unfinished,
)
from taps_tls.identity import unusable
from taps_tls.info import RESULTS, Peer, TLSInfo
from taps_tls.judging import judge, match_pins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import (
        Data,
        Flow,
        PartTuple,
        ReceiveError,
        SecurityParameters,
        SendRecord,
    )
    from taps_tls.contexts import Settings

__all__ = ["TLSFlow"]

T = TypeVar("T")

#: What a record holds at the most (RFC 8446, section 5.1).
RECORD: Final = 16 * 1024
#: So much is encrypted before it goes down, when much is sent at once.
_AT_ONCE: Final = 16 * RECORD
#: What a record adds at the most: by version 1.3, and by the widest suite of 1.2.
_OVERHEAD: Final = 22
_OVERHEAD_OF_1_2: Final = 85
#: So often a server's ticket is looked for: a look is dear, as Python's ``ssl`` copies the
#: session by way of its encoding. And only where so many bytes were no data.
_LOOKS: Final = 4
_TICKET: Final = 50
#: So many records go up as one part: what is larger than 128 KiB glibc gets from the system
#: each time.
_TOGETHER: Final = 7
_NOTHING: Final[list[bytes]] = []
#: What reading ends with once the peer has said so; after ours, OpenSSL raises it.
_CLOSE_NOTIFY: Final = ssl.SSLZeroReturnError()
#: The encoding, by the number that the module behind ``ssl`` gives it.
_DER: Final = 2


#: Whether ``SSLObject`` tells them: from Python 3.15 and 3.13 on.
_GROUP_IS_TOLD: Final = hasattr(ssl.SSLObject, "group")
_CHAINS_ARE_TOLD: Final = hasattr(ssl.SSLObject, "get_unverified_chain")


class _Agreed(NamedTuple):
    """What a handshake came to, as OpenSSL tells it; see :class:`TLSInfo`."""

    version: str
    cipher: str
    group: str | None
    alpn: str | None
    reused: bool
    chain: tuple[bytes, ...]


class TLSFlow(HoldingFlow):
    """One end of a connection over TLS.

    Args:
        lower: Established, unstarted.
        settings: Context, pins and sessions.
        security: For its callback.
        server: Whether this end is the server.
        peer: Who is at the other end, as ``str`` says it.
        name: The name to verify; ``None`` where this end is the server, or where
            nothing is verified.
        resumes: Whether an earlier session may be resumed, and this one later.
    """

    __slots__ = (
        "_answered",
        "_deaf",
        "_ended",
        "_engine",
        "_incoming",
        "_looks",
        "_name",
        "_news",
        "_out",
        "_outgoing",
        "_peer",
        "_peer_finished",
        "_plain",
        "_security",
        "_settings",
        "_shaken",
        "_silent",
        "_tls",
        "_told",
    )

    def __init__(
        self,
        lower: Flow | None,
        settings: Settings,
        security: SecurityParameters,
        *,
        server: bool,
        peer: object,
        name: str | None = None,
        resumes: bool = False,
    ) -> None:
        # None: whoever asks for ``hello`` sets it before ``shake``.
        super().__init__(lower)  # type: ignore[arg-type]  # None until just before ``shake``
        self._settings = settings
        self._security = security
        self._peer = peer
        self._name = name
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._looks = 0
        session = None
        if resumes and settings.sessions is not None and name is not None:
            session = settings.sessions.take(name)
            self._looks = _LOOKS
        try:
            self._tls = settings.context.wrap_bio(
                self._incoming,
                self._outgoing,
                server,
                None if name is None else _as_asked_for(name),
                session,
            )
        except (ValueError, ssl.SSLError) as error:
            # No host name, or a context for the other side.
            raise unusable(f"TLS: {error}") from error
        #: The same without a layer of Python around each read and write.
        self._engine: Any = getattr(self._tls, "_sslobj", self._tls)
        #: What wakes the handshake; None once that is done.
        self._news: Signal | None = Signal(asyncio.get_running_loop())
        self._shaken = False
        #: Nothing but data is expected, and it goes up at once.
        self._plain = False
        #: How the flow below ended: once it has, a tuple of its error or None.
        self._ended: tuple[Exception | None] | None = None
        #: Gathered plaintext; None once nothing more can be sent.
        self._out: list[bytes] | None = []
        self._silent = False  # nothing more goes down, not even an alert
        self._peer_finished = False  # by close_notify
        self._deaf = False  # nothing more comes up
        #: Whether something was sent after the peer's end; None: nothing was sent at all.
        self._answered: bool | None = None
        #: What the handshake came to, once OpenSSL's part is gone.
        self._told: _Agreed | None = None

    # -- the handshake

    def hello(self) -> bytes:
        """What a client says first, before there is a flow below; who asks for it sends it.

        Raises:
            EstablishmentError: There is nothing to say; ``detail`` says why.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except ssl.SSLError as error:
            raise handshake_failed(
                error, self._peer, self._name, (), keyed=self._settings.keyed
            ) from error
        raise AssertionError("a client waits for an answer")

    async def shake(self, hello: bytes = b"") -> None:
        """Shake hands; the flow below is aborted if that fails or is cancelled.

        Args:
            hello: What :meth:`hello` gave, if it has not left yet.

        Raises:
            EstablishmentError: It failed; ``detail`` says why.
        """
        try:
            self.lower.start(self)
            if hello:
                self.lower.write_through(hello)
            await self._shake()
        except BaseException:
            self._silent = True
            self.lower.abort()
            raise
        self._shaken = True
        self._news = None
        if self._incoming.pending:
            self._decrypt([])  # what came with the end of the handshake
        if self._looks and self._tls.version() == "TLSv1.2":
            self._look_for_session()  # those of 1.3 follow later
            self._looks = 0

    async def _shake(self) -> None:
        judged = self._security.trust_verification_callback is None and not self._settings.pins
        while True:
            try:
                self._engine.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as error:
                self._say()  # an alert tells the peer
                raise handshake_failed(
                    error,
                    self._peer,
                    self._name,
                    _chain(self._tls, verified=False),
                    keyed=self._settings.keyed,
                ) from error
            if not judged and (done or _chain(self._tls, verified=False)):
                # Before anything more leaves: the next may be this end's certificate.
                await self._judge()
                judged = True
            if done:
                self._say_with_what_follows()
                break
            self._say()
            if not self._incoming.pending:
                await self._more()
        version = self._engine.version()
        if version not in self._settings.versions:
            # Only an SSLContext of the application goes as far.
            raise EstablishmentError(
                f"TLS: {self._peer} would speak {version} only", detail="no-shared-protocol"
            )

    def _say_with_what_follows(self) -> None:
        """Say the end of the handshake along with what is sent in the next turn of the loop.

        That is when the application learns that it can send.
        """
        if self._say(flush=False):
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush_below)

    def _flush_below(self) -> None:
        if not self._silent:
            self.lower.flush()

    async def _more(self) -> None:
        """Wait until the peer has said more."""
        if self._ended is not None:
            raise hung_up(self._peer, self._ended[0])
        assert self._news is not None
        try:
            await self._news
        except asyncio.CancelledError as error:
            raise error from unfinished(self._peer)

    async def _judge(self) -> None:
        """Compare with the pins, and ask the application.

        Raises:
            EstablishmentError: The peer is not welcome.
        """
        chain = self._shown()
        if self._settings.pins:
            proven = _chain(self._tls, verified=True) if self._verifies else chain[:1]
            match_pins(self._settings.pins, proven, self._peer)
        if self._tls.server_side and not chain:
            return
        peer = Peer(
            server_name=self._name,
            chain=chain,
            verified=self._verifies or self._keyed(self._agreed()),
        )
        await judge(self._security, peer, self.lower, self._peer)

    @property
    def _verifies(self) -> bool:
        return self._settings.context.verify_mode is ssl.CERT_REQUIRED

    def _keyed(self, agreed: _Agreed) -> bool:
        """Whether a pre-shared key stood in for certificates, once hands were shaken."""
        if not self._settings.keyed:
            return False
        if agreed.version == "TLSv1.3":
            # There it is a session to OpenSSL, and where it is no other is kept.
            return agreed.reused
        return "PSK" in agreed.cipher

    # -- down

    def _released(self) -> None:
        if not self._paused:
            self.lower.resume()
        self._look()

    def _look(self) -> None:
        self._plain = self._held is None and not (self._looks or self._deaf or self._ending)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Gather; what asks for something special is encrypted by itself."""
        out = self._out
        if out is None:
            raise SendError("nothing can be sent any more", reason=Reason.CONNECTION_CLOSED)
        self._answered = self._peer_finished
        if record is not None:
            return self._send_marked(data, record, end_of_message)
        if isinstance(data, bytes):
            out.append(data)
        else:
            out.extend(data)
        return None

    def _send_marked(self, data: Data, record: SendRecord, end_of_message: bool) -> bool | None:
        """Send what the flow below is to treat as ``record`` says.

        Raises:
            SendError: It cannot. A record that was encrypted cannot be taken back, so
                that the flow is aborted then, unless it was known before.
        """
        whole = data if isinstance(data, bytes) else b"".join(data)
        if record.properties.get("noSegmentation"):
            limit = self.read("singularTransmissionMsgMaxLen")
            if limit is not None and len(whole) > limit:
                raise SendError(
                    f"{len(whole)} bytes do not fit into a segment of {limit}, which TLS "
                    "leaves of it",
                    reason=Reason.MESSAGE_TOO_LARGE,
                )
        self.flush()
        try:
            return self.lower.send(self._encrypted(whole), record, end_of_message)
        except SendError:
            self.abort()
            raise

    def write_through(self, data: Data, /) -> None:
        """Encrypt at once what need not wait for anything gathered."""
        size = len(data)
        if size and self._out == _NOTHING and type(data) is bytes and size <= _AT_ONCE:
            self._answered = self._peer_finished
            written = self._engine.write(data)
            if written < size:
                self._write_rest(data, written)
            self.lower.write_through(self._outgoing.read())
        else:
            super().write_through(data)

    def flush(self) -> None:
        """Encrypt everything gathered, in as few records as can be."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            try:
                if len(data) <= _AT_ONCE:
                    self.lower.write_through(self._encrypted(data))
                    return
                view = memoryview(data)
                for at in range(0, len(data), _AT_ONCE):
                    self.lower.send(self._encrypted(view[at : at + _AT_ONCE]), None, False)
            except SendError:
                return  # it broke; closed is on its way
        self.lower.flush()

    def _encrypted(self, data: bytes | memoryview) -> bytes:
        if data:
            written = self._engine.write(data)
            if written < len(data):
                self._write_rest(data, written)
        return self._outgoing.read()

    def _write_rest(self, data: bytes | memoryview, written: int) -> None:
        """Encrypt what the first write has not taken; one may stop at the end of a record."""
        write = self._engine.write
        view = memoryview(data)
        while written < len(view):
            written += write(view[written:])

    def finish(self) -> None:
        """Say close_notify after everything that was sent, then finish below."""
        if self._out is not None:
            self._say_goodbye()
            self.lower.finish()

    def close(self) -> None:
        """Say close_notify after everything that was sent, then close below."""
        if self._ending:
            return
        self._ending = True
        self._plain = False
        if self._out is not None:
            self._say_goodbye()
        self.lower.close()

    def abort(self) -> None:
        """Drop what was gathered, say nothing, abort below."""
        self._ending = self._silent = True
        self._plain = False
        self._out = None
        self.lower.abort()

    def _say_goodbye(self) -> None:
        self.flush()
        self._out = None
        with contextlib.suppress(ssl.SSLError):  # the peer's, which is not waited for
            self._engine.shutdown()
        self._say()
        self._silent = True

    def _say(self, *, flush: bool = True) -> bool:
        """Let go down what OpenSSL itself has to say: handshake, alerts, new keys.

        Args:
            flush: Whether at once.

        Returns:
            Whether there was something.
        """
        sealed = self._outgoing.read()
        if not sealed or self._silent:
            return False
        try:
            if flush:
                self.lower.write_through(sealed)
            else:
                self.lower.send(sealed, None, False)
        except SendError:
            return False  # it broke; closed is on its way
        return True

    # -- down: what can be read

    def read(self, property: str, /) -> Any:
        """What the handshake came to, or as the flow below, less what records add."""
        if property in RESULTS:
            return getattr(self._info(), RESULTS[property])
        value = self.lower.read(property)
        if property == "singularTransmissionMsgMaxLen" and value is not None:
            wide = self._info().version != "TLSv1.3"
            return max(0, min(value - (_OVERHEAD_OF_1_2 if wide else _OVERHEAD), RECORD))
        if property == "_taps.undelivered" and value is not None and self._out:
            return value + sum(map(len, self._out))
        return value

    def find(self, wanted: type[T], /) -> T | None:
        """The flow itself, :class:`TLSInfo`, or what the layers below offer."""
        if wanted is TLSInfo:
            return cast("T", self._info())
        return super().find(wanted)

    def _agreed(self) -> _Agreed:
        """What OpenSSL knows, without a word more: nearly nobody asks for it."""
        if self._told is not None:
            return self._told
        engine = self._engine
        cipher = engine.cipher()
        return _Agreed(
            engine.version() or "",
            "" if cipher is None else cipher[0],
            self._engine.group() if _GROUP_IS_TOLD else None,
            engine.selected_alpn_protocol(),
            engine.session_reused,
            self._shown(),
        )

    def _info(self) -> TLSInfo:
        agreed = self._agreed()
        keyed = self._keyed(agreed)
        group, allowed = agreed.group, self._security.supported_group
        if not _GROUP_IS_TOLD and len(allowed) == 1 and agreed.version == "TLSv1.3":
            group = allowed[0]
        return TLSInfo(
            version=agreed.version,
            cipher=agreed.cipher,
            group=group,
            alpn=agreed.alpn,
            resumed=agreed.reused and not keyed,
            verified=self._verifies or keyed,
            pre_shared_key=keyed,
            chain=agreed.chain,
            early_data=False,  # Python's ssl has none
        )

    def _shown(self) -> tuple[bytes, ...]:
        """The peer's certificates; a session that is resumed remembers its own."""
        chain = _chain(self._tls, verified=False)
        leaf = None
        if not chain:
            with contextlib.suppress(ValueError):  # OpenSSL, once it has broken off
                leaf = self._tls.getpeercert(True)
        return chain if leaf is None else (leaf,)

    # -- up

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Take it for the handshake, or decrypt and pass up."""
        incoming = self._incoming
        if self._plain and len(parts) == 1:
            # One read: nearly every call, and most of them hold one record.
            incoming.write(parts[0][0])
            try:
                data = self._engine.read(RECORD)
            except ssl.SSLError as error:
                self._opened([], error)
                return
            if data and not incoming.pending and not self._outgoing.pending:
                self.receiver.received(((data, None, False),))
            elif data:
                self._decrypt([data])
            else:
                self._opened([], _CLOSE_NOTIFY)
            return
        for data, _, _ in parts:
            incoming.write(data)
        if self._news is not None:  # of the handshake
            self._news.fire()
        elif self._deaf:
            incoming.read()  # of no interest, or not to be trusted
        else:
            self._decrypt([])

    def _decrypt(self, opened: list[bytes]) -> None:
        """Pass up ``opened`` and all that is there in whole records."""
        incoming, read = self._incoming, self._engine.read
        came = incoming.pending
        error: ssl.SSLError | None = None
        try:
            while incoming.pending:
                data = read(RECORD)
                if not data:
                    error = _CLOSE_NOTIFY
                    break
                opened.append(data)
        except ssl.SSLWantReadError:
            pass  # not kept: an exception that its frame knows lives until garbage is collected
        except ssl.SSLError as raised:
            error = raised
        if self._looks and came - sum(_OVERHEAD + len(data) for data in opened) > _TICKET:
            self._look_for_session()
        self._opened(opened, error)

    def _opened(self, opened: list[bytes], error: ssl.SSLError | None) -> None:
        """Pass up what was decrypted, and what ended that."""
        if self._outgoing.pending:
            self._say()
        if opened:
            parts = [
                (b"".join(opened[at : at + _TOGETHER]), None, False)
                for at in range(0, len(opened), _TOGETHER)
            ]
            if self._held is None and not self._ending:
                self.receiver.received(parts)
            else:
                self._up("received", parts)
                if self._held is not None:
                    self.lower.pause()
        if error is None or isinstance(error, ssl.SSLWantReadError):
            return
        if isinstance(error, ssl.SSLZeroReturnError):
            self._peer_finished = True
            self._be_deaf()
            self._up("finished")
        else:
            self._break(receiving_broken(error, self._peer))

    def _be_deaf(self) -> None:
        self._deaf = True
        self._plain = False

    def _break(self, failure: ReceiveError) -> None:
        """TLS cannot go on, in either direction."""
        self._error = connection_broken(failure)
        self._be_deaf()
        self._out = None
        self._silent = True
        self._up("failed", failure, True)
        self.lower.close()  # the alert is to arrive

    def _look_for_session(self) -> None:
        """Keep what the server has issued; with TLS 1.3 that comes after the handshake."""
        self._looks -= 1
        session = self._tls.session
        sessions = self._settings.sessions
        if session is not None and session.has_ticket and sessions is not None:
            self._looks = 0
            sessions.keep(self._name or "", session, session.time, session.timeout)
        if not self._looks:
            self._look()

    def finished(self) -> None:
        """Pass up nothing: only the peer itself can say that it has finished."""
        self._ended_below(None)

    def _ended_below(self, error: Exception | None) -> None:
        if not self._shaken:
            self._ended = (error,)
            if self._news is not None:
                self._news.fire()
        elif error is None and not self._deaf and not self._ending:
            self._be_deaf()
            self._up("failed", truncated(self._peer), True)

    def closed(self, error: Exception | None) -> None:
        """Pass up, unless it is a reset that lost nothing."""
        self._silent = True
        self._ended_below(error)
        if not self._shaken:
            return
        if self._lost_nothing and getattr(error, "reason", None) is Reason.CONNECTION_ABORTED:
            error = None
        self._out = None
        self._let_go()
        self._up("closed", self._error or error)
        if self._held is None:
            # Nothing comes up after that: so there is no circle for the garbage collector.
            del self.receiver

    def _let_go(self) -> None:
        """Free what OpenSSL has, keys before all: this flow lives as long as its Connection."""
        self._told = self._agreed()
        del self._tls, self._engine, self._incoming, self._outgoing

    @property
    def _lost_nothing(self) -> bool:
        """Whether what the peer has not read is of TLS alone: tickets, or our close_notify.

        A peer that hangs up before it has read a server's tickets resets the connection.
        """
        if self._answered is None:
            return self._peer_finished or self._ending
        return self._peer_finished and self._ending and not self._answered


def _chain(tls: ssl.SSLObject, *, verified: bool) -> tuple[bytes, ...]:
    """The peer's certificates in DER, its own first: as it showed them, or as verified.

    At any time of the handshake. Empty if there are none. ``SSLObject`` tells them from
    Python 3.13 on; before, only what is behind it does.
    """
    name = "get_verified_chain" if verified else "get_unverified_chain"
    if _CHAINS_ARE_TOLD:
        return tuple(getattr(tls, name)())
    found = getattr(tls._sslobj, name)()  # type: ignore[attr-defined]  # noqa: SLF001  # see above
    return tuple([each.public_bytes(_DER) for each in found or ()])


@functools.lru_cache(maxsize=256)
def _as_asked_for(name: str) -> bytes:
    """A server's name as ``ssl`` itself encodes it, each time anew.

    Raises:
        UnicodeError: It is none.
    """
    return name.encode("idna")
