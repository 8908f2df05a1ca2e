"""TLS 1.2 and 1.3 as a security layer over any reliable, ordered stream of bytes.

Importing this module loads neither ``ssl`` nor a certificate: that is left to the
first Connection.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    AVAILABLE,
    Availability,
    DataUnit,
    EarlyData,
    EstablishmentError,
    LayerCapabilities,
    Preference,
    Protection,
    Reason,
    RecordCarrier,
    SecurityLayer,
    Support,
)
from taps_tls.info import RESULTS, Challenge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.plugin import (
        AcceptRequest,
        Connector,
        ConnectRequest,
        Door,
        Flow,
        Offer,
        SecurityParameters,
    )
    from taps_tls.contexts import Contexts, Settings
    from taps_tls.flow import TLSFlow

__all__ = ["TLS", "name_to_verify"]

_NO_EARLY_DATA: Final = "TLS 1.3 could, but Python's ssl offers no early data"


def _hurries(request: ConnectRequest) -> bool:
    """Whether the ClientHello may go with the handshake below: it was asked for."""
    return (
        request.role == "initiate"
        and request.properties.get("zeroRttMsg", Preference.NO_PREFERENCE).wanted
        and not request.properties.get("isolateSession", False)
        # Who is asked for a certificate is told of the peer that is there.
        and request.security.identity_challenge_callback is None
    )


def as_stream(flow: Flow) -> Flow:
    """The flow itself, or what makes a byte stream of its Messages."""
    if flow.find(RecordCarrier) is None:
        return flow
    from taps_tls.message_stream import MessageStream

    return MessageStream(flow)


def name_to_verify(request: ConnectRequest, protocol: str) -> str | None:
    """The name or address that the server's certificate must carry.

    ``None`` where there is none, and security is opportunistic.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: there is nothing to verify.
            NO_CANDIDATES: in a Rendezvous.
    """
    if request.role == "rendezvous":
        raise EstablishmentError(
            f"{protocol}: in a Rendezvous nobody is the server",
            reason=Reason.NO_CANDIDATES,
            detail="rendezvous",
        )
    name = request.server_name or request.remote.ip_address
    if name is not None:
        # A zone is of this machine, and a final dot of the DNS.
        return name.partition("%")[0].rstrip(".")
    from taps_core.plugin import SecurityMode

    if request.security.mode is not SecurityMode.OPPORTUNISTIC:
        raise EstablishmentError(
            f"{protocol}: there is no name to verify: give the Remote Endpoint a hostname",
            reason=Reason.INVALID_CONFIGURATION,
            detail="no-name",
        )
    return None


#: What a byte stream has not, also where Messages carry it, and why.
_OF_MESSAGES: Final = {
    "preserveMsgBoundaries": "the peer sees bytes; a framer can find the boundaries",
    "perMsgReliability": "nothing behind a record that is lost could be decrypted",
    "multistreaming": "each Connection of a group is a transport connection of its own",
}
_OF_EACH_MESSAGE: Final = (
    *("msgOrdered", "msgReliable", "groupConnLimit"),
    *("_taps.streamIdentifier", "_taps.ppid"),
)


class TLS(SecurityLayer):
    """Security layer ``tls``."""

    name = "tls"
    capabilities = LayerCapabilities(
        over=frozenset({DataUnit.BYTE_STREAM, DataUnit.MESSAGE}),
        needs=frozenset({"reliability", "preserveOrder"}),
        data_unit=DataUnit.BYTE_STREAM,
        changes={
            "zeroRttMsg": Support.NEVER,
            "preserveOrder": Support.ALWAYS,
            **dict.fromkeys(_OF_MESSAGES, Support.NEVER),
        },
        effects={
            **dict.fromkeys(RESULTS, Support.ALWAYS),
            **dict.fromkeys(
                ("_taps.keyExchangeGroup", "_taps.alpn", "_taps.preSharedKeyUsed"),
                Support.OPTIONAL,
            ),
            "earlyData": Support.NEVER,
            **dict.fromkeys(_OF_EACH_MESSAGE, Support.NEVER),
        },
        notes={
            **_OF_MESSAGES,
            **dict.fromkeys(_OF_EACH_MESSAGE, "all that is encrypted is one ordered stream"),
            "preserveOrder": "bytes arrive in their order",
            "_taps.securityProtocol": "TLSv1.3 or TLSv1.2",
            "_taps.ciphersuite": "by OpenSSL's name",
            "_taps.keyExchangeGroup": "from Python 3.15 on; before, where TLS 1.3 was allowed "
            "one group alone",
            "_taps.alpn": "what was chosen of alpn",
            "_taps.peerCertificates": "as shown; where a session was resumed the first alone",
            "_taps.peerVerified": "False for clients that are not asked for a certificate, and "
            "where security is opportunistic",
            "_taps.sessionResumed": "by ticket, or by the session's identifier",
            "_taps.preSharedKeyUsed": "where preSharedKey is given: from Python 3.13 on",
            "_taps.earlyDataAccepted": "False: " + _NO_EARLY_DATA,
            "zeroRttMsg": _NO_EARLY_DATA,
            "earlyData": _NO_EARLY_DATA,
            "final": "close_notify, then the end of the stream below",
            "receivedFinal": "the peer's close_notify; without it the end is an error",
        },
        protection=Protection(protocols=("TLSv1.3", "TLSv1.2")),
    )

    def availability(self) -> Availability:
        """Not where Python was built without OpenSSL."""
        if importlib.util.find_spec("_ssl") is not None:
            return AVAILABLE
        return Availability(
            available=False,
            reason="this Python was built without OpenSSL",
            remedy="use a Python that has the module ssl",
        )

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        """Connect ``lower``, shake hands as a client, and verify who is there.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: parameters that are wrong, or that
                cannot be honoured; nothing was sent. NO_CANDIDATES: in a Rendezvous.
                ESTABLISHMENT_FAILED: the handshake failed; ``detail`` says why.
            OSError: As the layer below.
        """
        security = request.security
        name = name_to_verify(request, "TLS")
        settings = self._contexts.known(security, server=False)
        if settings is None:
            settings = await self._client_settings(security)
        if _hurries(request):
            return await self._connect_with_hello(lower, request, settings, name)
        # Early data would leave as plaintext below.
        plain = request if request.early is None else dataclasses.replace(request, early=None)
        below = await lower.connect(plain)
        below = as_stream(below)
        try:
            if security.identity_challenge_callback is not None:
                from taps_tls.challenge import identified

                # Not before: of several addresses that are tried, few may answer.
                security = await identified(
                    security,
                    Challenge(
                        role="client",
                        server_name=name,
                        certificates=security.client_certificate,
                        peer=request.remote,
                    ),
                )
                settings = await self._client_settings(security)
            flow = self._flow(
                below,
                settings,
                security,
                server=False,
                peer=request.remote,
                name=name,
                resumes=not request.properties.get("isolateSession", False),
            )
        except BaseException:
            below.abort()
            raise
        await flow.shake()
        return flow

    async def _connect_with_hello(
        self, lower: Connector, request: ConnectRequest, settings: Settings, name: str | None
    ) -> Flow:
        """As :meth:`connect`; the ClientHello goes with the handshake below, if that takes it.

        It may arrive twice: it is no Message (RFC 9623, section 5.3).
        """
        flow = self._flow(
            None,
            settings,
            request.security,
            server=False,
            peer=request.remote,
            name=name,
            resumes=True,
        )
        early = EarlyData(flow.hello())
        flow.lower = as_stream(await lower.connect(dataclasses.replace(request, early=early)))
        await flow.shake(b"" if early.taken else early.data)
        return flow

    async def _client_settings(self, security: SecurityParameters) -> Settings:
        contexts = self._contexts
        settings = contexts.known(security, server=False)
        if settings is not None:
            return settings
        if security.trusted_certificates or security.context is not None:
            return contexts.of(security, server=False)
        # Reading the system's store takes as long as many round trips.
        return await asyncio.get_running_loop().run_in_executor(
            None, lambda: contexts.of(security, server=False)
        )

    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        """Shake hands as a server.

        Raises:
            EstablishmentError: As :meth:`connect`.
        """
        security = request.security
        remote = lower.remote_endpoint
        peer = "the peer" if remote is None else str(remote)
        lower = as_stream(lower)
        try:
            if security.identity_challenge_callback is not None:
                from taps_tls.challenge import Overheard, identified

                lower = overheard = Overheard(lower, peer)
                security = await identified(
                    security,
                    Challenge(
                        role="server",
                        server_name=await overheard.server_name(),
                        certificates=security.server_certificate,
                        peer=remote,
                    ),
                )
            settings = self._contexts.of(security, server=True)
            flow = self._flow(lower, settings, security, server=True, peer=peer)
        except BaseException:
            lower.abort()
            raise
        await flow.shake()
        return flow

    def door(self, properties: Mapping[str, Any], security: SecurityParameters) -> Door | None:
        """None, as streams have no datagrams to judge; but a Listener learns what is wrong.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: as :meth:`accept` would.
        """
        self._contexts.of(security, server=True)
        return None

    def acquainted(self) -> tuple[SecurityParameters, SecurityParameters]:
        """A certificate for this machine's loopback addresses, and who trusts it.

        Raises:
            ImportError: trustme, which makes it, is not installed.
        """
        from taps_core.testing import local_identity

        return local_identity()

    def offers(self, security: SecurityParameters, *, server: bool) -> Offer:
        """What would be offered, and which parameters cannot be honoured."""
        from taps_tls.offers import offered

        return offered(self._contexts, security, server=server)

    @functools.cached_property
    def _flow(self) -> type[TLSFlow]:
        # Not with this module, as it imports ssl; nor each time, as that is one more search.
        from taps_tls.flow import TLSFlow

        return TLSFlow

    @functools.cached_property
    def _contexts(self) -> Contexts[Settings]:
        from taps_tls.contexts import Contexts, tls_settings

        return Contexts(tls_settings)
