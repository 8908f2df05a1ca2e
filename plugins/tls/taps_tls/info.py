"""What a handshake came to, for the application to read."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taps_core.plugin import Certificate, RemoteEndpoint

__all__ = ["RESULTS", "Challenge", "Peer", "TLSInfo"]

#: Property that the core reads (``Flow.read``) → the field of :class:`TLSInfo` that is its value.
RESULTS: Final = {
    "_taps.securityProtocol": "version",
    "_taps.ciphersuite": "cipher",
    "_taps.keyExchangeGroup": "group",
    "_taps.alpn": "alpn",
    "_taps.peerCertificates": "chain",
    "_taps.peerVerified": "verified",
    "_taps.sessionResumed": "resumed",
    "_taps.preSharedKeyUsed": "pre_shared_key",
    "_taps.earlyDataAccepted": "early_data",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TLSInfo:
    """What the two ends agreed on (RFC 9622, section 6.3)."""

    version: str
    """As ``allowedSecurityProtocols`` names it: ``"TLSv1.3"``."""
    cipher: str
    """The cipher suite, by the name that OpenSSL gives it."""
    group: str | None
    """The group that keys were agreed in; ``None`` where it is not known: Python's ``ssl`` tells
    it from 3.15 on, before it is known where TLS 1.3 was allowed one group alone."""
    alpn: str | None
    """The application protocol (RFC 7301); ``None`` if none was agreed on."""
    resumed: bool
    """Whether an earlier session was resumed, so that no certificate was shown."""
    verified: bool
    """Whether the peer was verified: by its certificate, or by the pre-shared key."""
    pre_shared_key: bool
    """Whether the pre-shared key stood in for certificates."""
    chain: tuple[bytes, ...]
    """The peer's certificates as it showed them, its own first, in DER; the first alone
    where a session was resumed, none if it showed none."""
    early_data: bool
    """Whether the peer took data that came with the handshake."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Whom a trust verification callback is to judge (RFC 9622, section 6.3.8)."""

    server_name: str | None
    """The name or address that was asked for; ``None`` where this end is the server."""
    chain: tuple[bytes, ...]
    """The certificates that the peer showed, its own first, in DER; the first alone where a
    session was resumed, none where a pre-shared key stands in for them. That it has the key
    is proven of the first alone: others can be there without being of the chain."""
    verified: bool
    """Whether they were verified already. They were not where security is opportunistic."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """What an identity challenge callback is asked: who is this end? (RFC 9622, section 6.3.8)."""

    role: str
    """What this end is: ``"client"`` or ``"server"``."""
    server_name: str | None
    """The server's name or address, as the client has it; ``None`` if it asks for none."""
    certificates: tuple[Certificate, ...]
    """What the parameters have for that role; their keys may be missing."""
    peer: RemoteEndpoint | None
    """Where the other end is; ``None`` where there is no such thing."""
