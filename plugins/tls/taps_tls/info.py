"""What a handshake came to, for the application to read."""

from __future__ import annotations

import dataclasses

__all__ = ["Peer", "TLSInfo"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TLSInfo:
    """What the two ends agreed on (RFC 9622, section 6.3)."""

    version: str
    """As ``allowedSecurityProtocols`` names it: ``"TLSv1.3"``."""
    cipher: str
    """The cipher suite, by the name that OpenSSL gives it."""
    alpn: str | None
    """The application protocol (RFC 7301); ``None`` if none was agreed on."""
    resumed: bool
    """Whether an earlier session was resumed, so that no certificate was shown."""
    verified: bool
    """Whether the peer's certificate was verified."""
    chain: tuple[bytes, ...]
    """The peer's certificates as it showed them, its own first, in DER; the first alone
    where a session was resumed, none if it showed none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Whom a trust verification callback is to judge (RFC 9622, section 6.3.8)."""

    server_name: str | None
    """The name or address that was asked for; ``None`` where this end is the server."""
    chain: tuple[bytes, ...]
    """The certificates that the peer showed, its own first, in DER."""
    verified: bool
    """Whether they were verified already. They were not where security is opportunistic."""
