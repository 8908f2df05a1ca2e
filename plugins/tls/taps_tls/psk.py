"""Pre-shared keys (RFC 9622, section 6.3.7), forward secret with TLS 1.3 and 1.2.

Whoever shows the key needs no certificate. A client that the server answers with a
certificate all the same verifies it as ever.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

from taps_tls.identity import unusable

if TYPE_CHECKING:
    from taps_core.plugin import SecurityParameters

__all__ = ["SUITES", "use_key"]

#: Suites of TLS 1.2 with a pre-shared key and an ephemeral group, best first (RFC 7905,
#: RFC 5489). Plain PSK lets whoever learns the key later read everything.
SUITES: Final = (
    "ECDHE-PSK-CHACHA20-POLY1305",
    "ECDHE-PSK-AES256-CBC-SHA384",
    "ECDHE-PSK-AES128-CBC-SHA256",
)
#: What every OpenSSL takes (PSK_MAX_PSK_LEN, PSK_MAX_IDENTITY_LEN of 1.1.1), in bytes.
_LONGEST_KEY: Final = 256
_LONGEST_IDENTITY: Final = 128


def use_key(context: ssl.SSLContext, security: SecurityParameters, *, server: bool) -> bool:
    """Let ``context`` offer or accept the pre-shared key, if there is one.

    Returns:
        Whether there is one.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: this Python cannot, or the key or its
            identity is none for TLS. What is in the key never is in the sentence.
    """
    if security.pre_shared_key is None:
        return False
    if not getattr(ssl, "HAS_PSK", False):
        raise unusable(
            "preSharedKey: Python's ssl has none here (SSLContext.set_psk_client_callback and "
            "set_psk_server_callback, Python 3.13 with an OpenSSL that was built with PSK)",
            "unsupported-parameter",
        )
    key, given = security.pre_shared_key
    try:
        identity = given if isinstance(given, str) else given.decode()
    except UnicodeDecodeError as error:
        raise unusable(
            "preSharedKey: Python's ssl takes identities in UTF-8 only", "unsupported-parameter"
        ) from error
    if len(key) > _LONGEST_KEY or not 0 < len(identity.encode()) <= _LONGEST_IDENTITY:
        raise unusable(
            f"preSharedKey: a key of at most {_LONGEST_KEY} bytes and an identity of 1 to "
            f"{_LONGEST_IDENTITY} expected, not {len(key)} and {len(identity.encode())}",
            "pre-shared-key-unusable",
        )
    since_3_13: Any = context
    # Whoever has the key needs no ticket; and in TLS 1.3 the two look alike afterwards.
    context.options |= ssl.OP_NO_TICKET
    if server:
        since_3_13.set_psk_server_callback(lambda asked: key if asked == identity else b"")
        context.num_tickets = 0
    else:
        since_3_13.set_psk_client_callback(lambda _: (identity, key))
    return True
