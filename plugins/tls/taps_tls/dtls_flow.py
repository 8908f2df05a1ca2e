"""One DTLS association as a Flow: each Message is a record, and each record a datagram.

* Over Messages (RFC 6083: SCTP) a record is a Message: nothing is lost, so nothing is said
  again, there are no cookies, and what OpenSSL exports authenticates the packets below.
* OpenSSL works on memory, which forgets where datagrams end. It is given whole records
  only, and what it writes is cut at its records again.
* It resends what was lost of a handshake when it is told that its time is over; the loop
  tells it. Of what is sent after that nothing is repeated.
* Records that were changed, forged or seen before are dropped, as if they were lost.
* ``close`` says close_notify once; whoever gets it answers and is closed, too. If it is
  lost, nobody hears of it.
* Nothing of this end's identity leaves before pins and the trust verification callback
  have seen the peer's certificates, and nothing of the application before the handshake
  is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from taps_core.plugin import (
    ConnectionError,
    HoldingFlow,
    Reason,
    SendError,
    SoftError,
)
from taps_tls.dtls_contexts import HANDSHAKE_DATAGRAM, VERSION
from taps_tls.dtls_errors import translated
from taps_tls.dtls_session import DTLSSession
from taps_tls.errors import (
    connection_broken,
    handshake_failed,
    hung_up,
    receiving_broken,
    unfinished,
)
from taps_tls.info import RESULTS, Peer, TLSInfo
from taps_tls.judging import judge, match_pins
from taps_tls.records import (
    CERTIFICATE,
    CERTIFICATE_REQUEST,
    MOST_PLAINTEXT,
    client_random,
    cut,
    fatal_alert,
    handshake_type,
    is_lone_data,
    packed,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taps_core.plugin import (
        Data,
        EstablishmentError,
        Event,
        Flow,
        PartTuple,
        ReceiveError,
        Receiver,
        RecordCarrier,
        SecurityParameters,
        SendRecord,
    )
    from taps_tls.dtls_contexts import Association, DTLSSettings
    from taps_tls.dtls_door import Admitted

__all__ = ["DTLSFlow"]

T = TypeVar("T")

#: So much is given to OpenSSL at once: less than what it reads from memory in one go.
_AT_ONCE: Final = 16 * 1024
#: What a record adds at the most: header, nonce or IV, authentication, padding.
_OVERHEAD: Final = 128
#: Bytes of a record of the longest Message.
_WIDEST: Final = MOST_PLAINTEXT + 256
#: Payload protocol identifier of DTLS (RFC 6083, section 4.1).
_PPID: Final = 47
_EXPORTER: Final = b"EXPORTER_DTLS_OVER_SCTP"
_KEY_LENGTH: Final = 64
#: OpenSSL takes a record for a repetition that has been overtaken by 63 others.
_REPLAY_WINDOW: Final = 60
#: Datagrams that wait for a step of the handshake; more than any flight has.
_MOST_WAITING: Final = 256
#: bad_certificate (RFC 8446, section 6).
_BAD_CERTIFICATE: Final = 42
#: Of lengths, what ends in a record.
_LENGTHS: Final = frozenset({"sendMsgMaxLen", "singularTransmissionMsgMaxLen"})


class DTLSFlow(HoldingFlow):
    """One end of an association.

    Args:
        lower: Established, unstarted.
        settings: Pins, sessions, and where connections come from.
        security: For its callback.
        connection: OpenSSL's, in its initial state.
        peer: Who is at the other end, for sentences.
        name: Under which sessions are kept; ``None`` where this end is the server.
        resumes: Whether an earlier session may be resumed, and this one later.
        admitted: What the door has let in, where this end is the server of datagrams.
        server: Whether this end is the server.
        carrier: What carries records as Messages, if the flow below does.
        session: Streams beside this one, where hands are shaken already.
    """

    __slots__ = (
        "_admitted",
        "_arrived",
        "_asked",
        "_carrier",
        "_connection",
        "_deaf",
        "_ended",
        "_has_key",
        "_is_keyed",
        "_limit",
        "_loop",
        "_name",
        "_news",
        "_out",
        "_partial",
        "_peer",
        "_pieces",
        "_security",
        "_server",
        "_sessions",
        "_settings",
        "_shaken",
        "_silent",
        "_spoke",
        "_whole",
        "_width",
        "session",
    )

    session: DTLSSession | None

    def __init__(
        self,
        lower: Flow,
        settings: DTLSSettings,
        security: SecurityParameters,
        connection: SSL.Connection,
        *,
        peer: str,
        name: str | None = None,
        resumes: bool = False,
        admitted: Admitted | None = None,
        server: bool = False,
        carrier: RecordCarrier | None = None,
        session: DTLSSession | None = None,
    ) -> None:
        super().__init__(lower)
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._security = security
        self._connection = connection
        self._peer = peer
        self._name = name
        self._server = server
        self._admitted = admitted
        self._carrier = carrier
        self._has_key = False  # of what the carrier was told
        self._is_keyed = False  # and what it took
        #: Of a Message below that comes in parts.
        self._pieces: list[bytes] = []
        self.session = session
        self._sessions = settings.sessions if resumes else None
        earlier = None if self._sessions is None else self._sessions.take(name or "")
        if earlier is not None:
            connection.set_session(earlier)
        #: Datagrams for the next step of the handshake.
        self._arrived: list[bytes] = []
        #: What wakes the handshake; None while it does not wait.
        self._news: asyncio.Future[None] | None = None
        self._shaken = session is not None
        #: How the flow below ended: once it has, a tuple of its error or None.
        self._ended: tuple[Exception | None] | None = None
        #: Gathered Messages; None once nothing more can be sent.
        self._out: list[bytes] | None = []
        self._partial: list[bytes] = []
        #: Up to this length nobody need be asked.
        self._limit = 0
        self._silent = False  # nothing more goes down, not even an alert
        self._deaf = False  # nothing more comes up
        self._spoke = False  # the peer has, beside data
        self._asked = False  # for a certificate
        self._whole = False  # certificates were shown: no session was resumed
        #: Bytes of a datagram of the handshake.
        self._width = _WIDEST
        if carrier is None:
            below = lower.read("singularTransmissionMsgMaxLen")
            self._width = min(below or HANDSHAKE_DATAGRAM, HANDSHAKE_DATAGRAM)
        connection.set_ciphertext_mtu(self._width)
        if session is not None:
            self._ask_limit()

    # -- the handshake

    async def shake(self) -> None:
        """Shake hands; the flow below is aborted if that fails or is cancelled.

        Raises:
            EstablishmentError, OSError: It failed; ``detail`` says why.
        """
        try:
            if self._carrier is not None:
                self._carrier.identify(_PPID)
                self._carrier.bound_disorder(_REPLAY_WINDOW)
            self.lower.start(self)
            await self._shake()
        except BaseException:
            self._silent = True
            self.lower.abort()
            raise
        self._shaken = True
        if self.lower.session is not None:
            self.session = DTLSSession(self, self.lower.session)
        self._ask_limit()
        if self._sessions is not None and (session := self._connection.get_session()) is not None:
            lifetime = self._connection.get_context().get_timeout()
            self._sessions.keep(self._name or "", session, time.time(), lifetime)
        self.lower.pause()
        if self._arrived:
            # What came with the end of the handshake, or overtook it.
            arrived, self._arrived = self._arrived, []
            self._open(arrived)

    async def _shake(self) -> None:
        judged = self._security.trust_verification_callback is None and not self._settings.pins
        while True:
            done = self._step()
            if not judged and (done or self._chain()):
                # Before anything more leaves: the next may be this end's certificate.
                await self._judge()
                judged = True
            if self._carrier is not None:
                self._hand_over_key(self._carrier, done)
            self._say()
            if done:
                return
            if not self._arrived:
                await self._more()

    def _hand_over_key(self, carrier: RecordCarrier, done: bool) -> None:
        """Let the packets below be authenticated by what only the two ends know.

        It is accepted as soon as it is known, and before this end's Finished leaves; it is
        used once hands are shaken, when the peer accepts it, too (RFC 6083, section 4.8).
        """
        if not self._has_key:
            try:
                # OpenSSL exports even where there is nothing yet to derive it from.
                self._connection.master_key()
                key = self._connection.export_keying_material(_EXPORTER, _KEY_LENGTH)
            except SSL.Error:
                return  # not yet
            self._has_key = True
            self._is_keyed = carrier.install_key(key)
        if done and self._is_keyed:
            carrier.use_key()

    def _step(self) -> bool:
        """Go on with what has arrived, one datagram; True when the handshake is done.

        Raises:
            EstablishmentError: It failed; an alert has told the peer.
        """
        connection = self._connection
        if self._arrived:
            datagram = self._arrived.pop(0)
            self._look_for_certificates(datagram)
            connection.bio_write(datagram)
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise self._failed(error) from error
        return True

    def _look_for_certificates(self, records: bytes) -> None:
        for record in cut(records):
            kind = handshake_type(record)
            if kind == CERTIFICATE:
                # pyOpenSSL does not tell whether a session was resumed: then there is none.
                self._whole = True
            elif kind == CERTIFICATE_REQUEST:
                self._asked = True

    def _failed(self, error: SSL.Error) -> EstablishmentError:
        association: Association = self._connection.get_app_data()
        # Before the alert leaves, which is the end of everything.
        chain = self._chain()
        self._say()
        cause = translated(error, association.refused)
        shows_none = self._asked and not (self._server or self._security.client_certificate)
        if shows_none and cause.reason.endswith("ALERT_HANDSHAKE_FAILURE"):
            # DTLS 1.2 has no alert that says so.
            cause.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        return handshake_failed(cause, self._peer, self._name, chain, protocol="DTLS")

    async def _more(self) -> None:
        """Wait until the peer has said more, or it is time to say the last flight again."""
        if self._ended is not None:
            error = self._ended[0]
            if isinstance(error, OSError):
                raise error
            raise hung_up(self._peer, error, "DTLS")
        self._news = self._loop.create_future()
        timeout = self._connection.DTLSv1_get_timeout() if self._carrier is None else None
        timer = None if timeout is None else self._loop.call_later(timeout, self._wake)
        try:
            await self._news
        except asyncio.CancelledError as error:
            raise error from unfinished(self._peer, "DTLS")
        finally:
            self._news = None
            if timer is not None:
                timer.cancel()
        if not self._arrived and self._ended is None and self._carrier is None:
            try:
                self._connection.DTLSv1_handle_timeout()
            except SSL.Error as error:
                raise self._failed(error) from error

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _judge(self) -> None:
        """Compare with the pins, and ask the application.

        Raises:
            EstablishmentError: The peer is not welcome; an alert has told it.
        """
        chain = self._chain()
        try:
            if self._settings.pins:
                proven = chain[:1]
                if self._settings.verifies:
                    verified = self._connection.get_verified_chain(as_cryptography=True) or ()
                    proven = tuple(each.public_bytes(Encoding.DER) for each in verified)
                match_pins(self._settings.pins, proven, self._peer)
            if self._server and not chain:
                return
            peer = Peer(
                server_name=None if self._server else self._name,
                chain=chain,
                verified=self._settings.verifies,
            )
            await judge(self._security, peer, self.lower, self._peer)
        except Exception:
            # In place of the flight that OpenSSL has ready.
            self._silent = True
            with contextlib.suppress(SendError):
                self.lower.send(fatal_alert(_BAD_CERTIFICATE), None, True)
                self.lower.flush()
            raise

    def _chain(self) -> tuple[bytes, ...]:
        """The certificates that the peer has shown, in DER, its own first."""
        connection = self._connection
        shown = connection.get_peer_cert_chain(as_cryptography=True) or []
        if self._server:
            # There OpenSSL keeps the peer's own apart.
            own = connection.get_peer_certificate(as_cryptography=True)
            shown = [] if own is None else [own, *shown]
        return tuple(each.public_bytes(Encoding.DER) for each in shown)

    def beside(self, lower: Flow) -> DTLSFlow:
        """The flow of a further stream: the same association, the same keys."""
        return DTLSFlow(
            lower,
            self._settings,
            self._security,
            self._connection,
            peer=self._peer,
            name=self._name,
            server=self._server,
            carrier=self._carrier,
            session=self.session,
        )

    # -- down

    def start(self, receiver: Receiver) -> None:
        """Give ``receiver`` what was held, from the next turn on."""
        if self.session is None or self.session.first is self:
            super().start(receiver)
        else:
            # Nobody has shaken hands here.
            self._held = None
            self.receiver = receiver
            self.lower.start(self)

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Gather; all parts of a Message become one record, which is one datagram."""
        out = self._out
        if out is None:
            raise SendError("nothing can be sent any more", reason=Reason.CONNECTION_CLOSED)
        whole = data if isinstance(data, bytes) else b"".join(data)
        partial = self._partial
        length = len(whole) + sum(map(len, partial)) if partial else len(whole)
        if length > self._limit and length > self._ask_limit():
            raise SendError(
                f"{length} bytes do not fit into a datagram of this path, where records "
                f"leave {self._limit}",
                reason=Reason.MESSAGE_TOO_LARGE,
            )
        if partial or not end_of_message:
            partial.append(whole)
            if not end_of_message:
                return None
            whole = b"".join(partial)
        if not whole:
            raise SendError(
                "OpenSSL makes no record of an empty Message",
                reason=Reason.PROTOCOL_FAILED,
                detail="empty-message",
            )
        partial.clear()
        if record is None:
            out.append(whole)
            return None
        self.flush()
        (sealed,) = self._sealed([whole])
        return self.lower.send(sealed, record, True)

    def write_through(self, data: Data, /) -> None:
        """Encrypt at once what need not wait for anything gathered."""
        if (
            self._out == []
            and type(data) is bytes
            and 0 < len(data) <= self._limit
            and not self._partial
        ):
            connection = self._connection
            try:
                connection.send(data)
                sealed = connection.bio_read(len(data) + _OVERHEAD)
            except SSL.Error as error:
                raise self._unsendable(error) from error
            self.lower.write_through(sealed)
        else:
            super().write_through(data)

    def flush(self) -> None:
        """Encrypt everything gathered."""
        out = self._out
        if out:
            self._out = []
            lower = self.lower.send
            try:
                for sealed in self._sealed(out):
                    lower(sealed, None, True)
            except SendError as error:
                # The path has become narrower since it was asked, or it broke.
                self._loop.call_soon(self._up, "notified", SoftError(str(error)))
        self.lower.flush()

    def _sealed(self, messages: list[bytes]) -> list[bytes]:
        """A record for each Message."""
        connection = self._connection
        send = connection.send
        room = 0
        try:
            for message in messages:
                room += send(message) + _OVERHEAD
            return list(cut(connection.bio_read(room)))
        except SSL.Error as error:
            raise self._unsendable(error) from error

    def _unsendable(self, error: SSL.Error) -> SendError:
        cause = translated(error)
        return SendError(f"DTLS: {cause.args[-1]}", reason=Reason.PROTOCOL_FAILED)

    def withdraw(self) -> bool:
        """Drop the parts of the Message that is not complete."""
        self._partial.clear()
        return True

    def finish(self) -> None:
        """Send no more. Only this side knows: the peer would close on close_notify."""
        if self._out is not None:
            self.flush()
            self._out = None

    def close(self) -> None:
        """Say close_notify after everything that was sent, then close below."""
        if self._ending:
            return
        self._ending = True
        self.finish()
        if self.session is None or self.session.is_left_by(self):
            self._say_goodbye()
        self.lower.close()

    def abort(self) -> None:
        """Drop what was gathered, say nothing, abort below."""
        self._ending = self._silent = True
        self._out = None
        self._partial.clear()
        self.lower.abort()

    def _say_goodbye(self) -> None:
        # It may be broken already.
        with contextlib.suppress(SSL.Error):
            self._connection.shutdown()
        self._say()
        self._silent = True

    def _say(self) -> None:
        """Let go down what OpenSSL itself has to say: handshake and alerts."""
        try:
            flight = self._connection.bio_read(64 * 1024)
        except SSL.WantReadError:
            return
        if not self._shaken:
            self._look_for_certificates(flight)
        if not self._silent:
            with contextlib.suppress(SendError):  # it broke; closed is on its way
                for datagram in packed(cut(flight), self._width):
                    self.lower.send(datagram, None, True)
                self.lower.flush()

    # -- down: what can be read

    def read(self, property: str, /) -> Any:
        """What the handshake came to, or as the flow below, less what records add."""
        if property in RESULTS:
            return getattr(self._info(), RESULTS[property])
        if property == "sendMsgMaxLen" or (property in _LENGTHS and self._carrier is None):
            return self._limit if self._ending else self._ask_limit()
        value = self.lower.read(property)
        if property == "singularTransmissionMsgMaxLen" and value is not None:
            return max(0, min(value - _OVERHEAD, self._limit))
        if property == "recvMsgMaxLen" and value is not None:
            return min(value, MOST_PLAINTEXT)
        if property == "_taps.undelivered" and value is not None and self._out:
            return value + sum(map(len, self._out))
        return value

    def _ask_limit(self) -> int:
        """What a record leaves of what this path allows."""
        name = "singularTransmissionMsgMaxLen" if self._carrier is None else "sendMsgMaxLen"
        below = self.lower.read(name)
        if below is None:
            self._limit = MOST_PLAINTEXT
        else:
            connection = self._connection
            connection.set_ciphertext_mtu(min(below, _WIDEST))
            self._limit = min(connection.get_cleartext_mtu(), MOST_PLAINTEXT)
            connection.set_ciphertext_mtu(self._width)
        return self._limit

    def find(self, wanted: type[T], /) -> T | None:
        """The flow itself, :class:`TLSInfo`, or what the layers below offer."""
        if wanted is TLSInfo:
            return cast("T", self._info())
        return super().find(wanted)

    def _info(self) -> TLSInfo:
        connection = self._connection
        return TLSInfo(
            version=VERSION,
            cipher=connection.get_cipher_name() or "",
            group=connection.get_group_name(),
            alpn=connection.get_alpn_proto_negotiated().decode("ascii", "replace") or None,
            resumed=not self._whole,
            verified=self._settings.verifies,
            pre_shared_key=False,  # pyOpenSSL has none
            chain=self._chain(),
            early_data=False,  # DTLS 1.2 has none
        )

    # -- up

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Take it for the handshake, or decrypt and pass up."""
        if self._pieces or not parts[-1][2]:
            parts = self._whole_ones(parts)
        if self._shaken:
            if len(parts) == 1 and is_lone_data(parts[0][0]) and not self._deaf:
                self._open_one(parts[0][0])
            else:
                self._open([part[0] for part in parts])
            return
        for data, _, _ in parts:
            if len(self._arrived) < _MOST_WAITING and self._is_for_us(data):
                self._arrived.append(data)
        if self._arrived:
            self._wake()

    def _whole_ones(self, parts: Sequence[PartTuple]) -> Sequence[PartTuple]:
        """Messages below whose parts are all there; what is longer than a record is none."""
        whole: list[PartTuple] = []
        for data, _, end_of_message in parts:
            if sum(map(len, self._pieces)) <= _WIDEST:
                self._pieces.append(data)
            if end_of_message:
                whole.append((b"".join(self._pieces), None, True))
                self._pieces.clear()
        return whole

    def _is_for_us(self, datagram: bytes) -> bool:
        """Whether OpenSSL is to see it: whole records, none that begins anew."""
        if not walk(datagram).whole:
            return False
        admitted = self._admitted
        if admitted is not None:
            random = client_random(datagram)
            if random is not None:
                if random != admitted.random:
                    self._consider_successor(admitted, datagram)
                # The one that it was let in with has been seen.
                return False
        return True

    def _consider_successor(self, admitted: Admitted, datagram: bytes) -> None:
        """The peer may have lost its state: who shows that it is there replaces itself.

        RFC 6347, section 4.2.8. Its next ClientHello comes to the Listener.
        """

        def reply(data: bytes) -> None:
            with contextlib.suppress(SendError):
                self.lower.send(data, None, True)
                self.lower.flush()

        remote = self.lower.remote_endpoint
        if remote is None or self._ending:
            return
        if admitted.door.admit(datagram, remote, reply) is not None:
            self._error = ConnectionError(
                f"DTLS: {self._peer} has begun anew",
                reason=Reason.PROTOCOL_FAILED,
                detail="superseded",
            )
            self._out = None
            self._silent = self._deaf = True
            self.lower.abort()

    def _open_one(self, datagram: bytes) -> None:
        """As ``_open``, for a record of which nothing is left when it was read."""
        connection = self._connection
        try:
            connection.bio_write(datagram)
            data = connection.recv(len(datagram))
        except SSL.WantReadError:
            return  # forged, or seen before
        except SSL.Error as error:
            self._end_by_peer(error)
            return
        if self._held is None and not self._ending:
            self.receiver.received(((data, None, True),))
        else:
            self._up("received", ((data, None, True),))

    def _open(self, datagrams: list[bytes]) -> None:
        """Pass up what is in them."""
        if self._deaf:
            return
        connection = self._connection
        read = connection.recv
        opened: list[PartTuple] = []
        broken: SSL.Error | None = None
        try:
            for batch, longest in self._batches(datagrams):
                connection.bio_write(batch)
                with contextlib.suppress(SSL.WantReadError):
                    while True:
                        opened.append((read(longest), None, True))
        except SSL.Error as error:
            broken = error
        if self._spoke:
            self._spoke = False
            self._say()
        if opened:
            if self._held is None and not self._ending:
                self.receiver.received(opened)
            else:
                self._up("received", opened)
        if broken is not None:
            self._end_by_peer(broken)

    def _batches(self, datagrams: list[bytes]) -> Iterator[tuple[bytes, int]]:
        """What OpenSSL is to see, joined as far as it can be, and the longest datagram of it."""
        batch: list[bytes] = []
        size = longest = 0
        for datagram in datagrams:
            if not walk(datagram).only_data:
                if not self._is_for_us(datagram):
                    continue
                # OpenSSL may answer: the end of a handshake that was lost, an alert.
                self._spoke = True
            length = len(datagram)
            if batch and size + length > _AT_ONCE:
                yield b"".join(batch), longest
                batch, size = [], 0
            batch.append(datagram)
            size += length
            longest = max(longest, length)
        if batch:
            yield batch[0] if len(batch) == 1 else b"".join(batch), longest

    def _end_by_peer(self, error: SSL.Error) -> None:
        """It said close_notify, or a fatal alert."""
        self._deaf = True
        self._out = None
        if isinstance(error, SSL.ZeroReturnError):
            self._say_goodbye()
            self._up("finished")
        else:
            failure: ReceiveError = receiving_broken(translated(error), self._peer, "DTLS")
            self._error = connection_broken(failure)
            self._silent = True
            self._up("failed", failure, True)
        self.lower.close()

    def notified(self, event: Event) -> None:
        """Pass up; that nobody is there ends a handshake."""
        if not self._shaken and isinstance(event, SoftError):
            error = event.error
            if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
                self._ended = (error,)
                self._wake()
                return
        self._up("notified", event)

    def closed(self, error: Exception | None) -> None:
        """Pass up."""
        self._silent = True
        if not self._shaken:
            self._ended = (self._error or error,)
            self._wake()
            return
        self._out = None
        self._up("closed", self._error or error)
        if self._held is None:
            # Nothing comes up after that: so there is no circle for the garbage collector.
            del self.receiver
