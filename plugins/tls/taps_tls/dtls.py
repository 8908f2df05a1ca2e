"""DTLS 1.2 as a security layer over datagrams.

Importing this module loads neither pyOpenSSL nor a certificate: that is left to the first
Connection.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    AVAILABLE,
    Availability,
    DataUnit,
    EstablishmentError,
    LayerCapabilities,
    Protection,
    Reason,
    RecordCarrier,
    SecurityLayer,
    Support,
)
from taps_tls.info import RESULTS, Challenge
from taps_tls.layer import name_to_verify

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
    from taps_tls.contexts import Contexts
    from taps_tls.dtls_contexts import DTLSSettings

__all__ = ["DTLS"]

_NO_EARLY_DATA: Final = "DTLS 1.2 has no early data"
_COVERED: Final = "what was changed anywhere in a record is dropped"


class DTLS(SecurityLayer):
    """Security layer ``dtls``."""

    name = "dtls"
    capabilities = LayerCapabilities(
        over=frozenset({DataUnit.DATAGRAM, DataUnit.MESSAGE}),
        changes={
            "zeroRttMsg": Support.NEVER,
            "fullChecksumSend": Support.ALWAYS,
            "fullChecksumRecv": Support.ALWAYS,
            "activeReadBeforeSend": Support.OPTIONAL,
        },
        effects={
            **dict.fromkeys(RESULTS, Support.ALWAYS),
            "_taps.alpn": Support.OPTIONAL,
            "_taps.preSharedKeyUsed": Support.NEVER,
            "earlyData": Support.NEVER,
            "msgChecksumLen": Support.NEVER,
            "recvChecksumLen": Support.NEVER,
            "receivedFinal": Support.NEVER,
        },
        notes={
            "_taps.securityProtocol": "DTLSv1.2",
            "_taps.ciphersuite": "by OpenSSL's name",
            "_taps.keyExchangeGroup": "by OpenSSL's name",
            "_taps.alpn": "what was chosen of alpn",
            "_taps.peerCertificates": "as shown; where a session was resumed the first alone",
            "_taps.peerVerified": "False for clients that are not asked for a certificate, and "
            "where security is opportunistic",
            "_taps.sessionResumed": "by ticket",
            "_taps.preSharedKeyUsed": "pyOpenSSL has none",
            "_taps.earlyDataAccepted": "False: " + _NO_EARLY_DATA,
            "zeroRttMsg": _NO_EARLY_DATA,
            "earlyData": _NO_EARLY_DATA,
            "fullChecksumSend": _COVERED,
            "fullChecksumRecv": _COVERED,
            "msgChecksumLen": _COVERED,
            "recvChecksumLen": _COVERED,
            "activeReadBeforeSend": "either side may write first, once hands are shaken",
            "sendMsgMaxLen": "what a record leaves of a datagram, 16384 at the most",
            "receivedFinal": "close_notify ends both directions",
        },
        protection=Protection(protocols=("DTLSv1.2",)),
        connected=True,
        may_duplicate=False,
        half_close=False,
    )

    def __init__(self) -> None:
        self._made: Contexts[DTLSSettings] | None = None

    def availability(self) -> Availability:
        """Not without pyOpenSSL: Python's ``ssl`` has no DTLS."""
        if importlib.util.find_spec("OpenSSL") is not None:
            return AVAILABLE
        return Availability(
            available=False, reason="pyOpenSSL is missing", remedy="pip install pyopenssl"
        )

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        """Connect ``lower``, shake hands as a client, and verify who is there.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: parameters that are wrong, or that
                cannot be honoured; nothing was sent. ESTABLISHMENT_FAILED: the handshake
                failed; ``detail`` says why.
            OSError: As the layer below; a port where nobody listens.
        """
        name = name_to_verify(request, "DTLS")
        security = request.security
        settings = await self._client_settings(security)
        from taps_tls.dtls_flow import DTLSFlow

        # Early data would leave as plaintext below.
        below = await lower.connect(dataclasses.replace(request, early=None))
        try:
            if security.identity_challenge_callback is not None:
                from taps_tls.challenge import identified

                challenge = Challenge(
                    role="client",
                    server_name=name,
                    certificates=security.client_certificate,
                    peer=request.remote,
                )
                security = await identified(security, challenge)
                settings = await self._client_settings(security)
            flow = DTLSFlow(
                below,
                settings,
                security,
                settings.client(name),
                peer=str(request.remote),
                name=name,
                resumes=not request.properties.get("isolateSession", False),
                carrier=below.find(RecordCarrier),
            )
        except BaseException:
            below.abort()
            raise
        await flow.shake()
        return flow

    async def _client_settings(self, security: SecurityParameters) -> DTLSSettings:
        loop = asyncio.get_running_loop()
        if self._made is None:
            # Loading pyOpenSSL takes as long as many round trips, as the system's store does.
            await loop.run_in_executor(None, importlib.import_module, "taps_tls.dtls_flow")
        contexts = self._contexts
        settings = contexts.known(security, server=False)
        if settings is not None:
            return settings
        return await loop.run_in_executor(None, lambda: contexts.of(security, server=False))

    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        """Shake hands as a server: with whom the door has let in, or whom a handshake below has.

        Raises:
            EstablishmentError: As :meth:`connect`; a transport of datagrams has not asked
                the door.
        """
        admitted = request.admitted
        carrier = lower.find(RecordCarrier)
        if admitted is None and carrier is None:
            lower.abort()
            raise EstablishmentError(
                "DTLS: the transport has not asked the door for a cookie",
                reason=Reason.INVALID_CONFIGURATION,
                detail="no-cookie",
            )
        from taps_tls.dtls_contexts import Association
        from taps_tls.dtls_flow import DTLSFlow

        security, remote = request.security, lower.remote_endpoint
        try:
            if security.identity_challenge_callback is not None:
                from taps_tls.challenge import identified

                if admitted is None:
                    raise EstablishmentError(
                        "DTLS: the identity challenge callback of a Listener needs the name that "
                        "the client calls, which is known before the handshake over datagrams "
                        "alone: give the certificate",
                        reason=Reason.INVALID_CONFIGURATION,
                        detail="unsupported-parameter",
                    )
                challenge = Challenge(
                    role="server",
                    server_name=admitted.server_name(),
                    certificates=security.server_certificate,
                    peer=remote,
                )
                security = await identified(security, challenge)
                admitted.begin_anew(self._contexts.of(security, server=True))
            settings = self._contexts.of(security, server=True)
            flow = DTLSFlow(
                lower,
                settings,
                security,
                settings.server(Association()) if admitted is None else admitted.connection,
                peer="the peer" if remote is None else str(remote),
                admitted=admitted,
                server=True,
                carrier=carrier,
            )
        except BaseException:
            lower.abort()
            raise
        await flow.shake()
        return flow

    def door(self, properties: Mapping[str, Any], security: SecurityParameters) -> Door | None:
        """Cookies, before anything is remembered (RFC 6347, section 4.2.1).

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: parameters that are wrong, or that
                cannot be honoured.
        """
        settings = self._contexts.of(security, server=True)
        from taps_tls.dtls_door import DTLSDoor

        return DTLSDoor(settings)

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

    @property
    def _contexts(self) -> Contexts[DTLSSettings]:
        if self._made is None:
            from taps_tls.contexts import Contexts
            from taps_tls.dtls_contexts import dtls_settings

            self._made = Contexts(dtls_settings)
        return self._made
