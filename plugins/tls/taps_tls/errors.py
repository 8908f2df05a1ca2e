"""What OpenSSL says, as errors of taps: whose certificate, until when, and what to do.

Each failure has a ``detail`` of its own; README.md lists them.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final

from taps_core.plugin import (
    ConnectionError,
    EstablishmentError,
    EstablishmentRefused,
    Reason,
    ReceiveError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "connection_broken",
    "handshake_failed",
    "hung_up",
    "receiving_broken",
    "refused",
    "truncated",
    "unfinished",
]

#: OpenSSL's codes for why a certificate was refused (x509_vfy.h) → detail.
_VERDICTS: Final = {
    9: "certificate-not-yet-valid",
    10: "certificate-expired",
    18: "self-signed",
    2: "unknown-authority",
    19: "unknown-authority",
    20: "unknown-authority",
    21: "unknown-authority",
    23: "certificate-revoked",
    62: "wrong-name",
    64: "wrong-name",
}

_WRONG_KEY: Final = (
    "wrong-pre-shared-key",
    "{peer} and this end have different pre-shared keys under one identity",
)
_NO_KEY: Final = (
    "unknown-pre-shared-key",
    "{peer} and this end have no pre-shared key and cipher suite in common, and no certificate "
    "that would do instead",
)
#: What the reasons are in a handshake with a pre-shared key.
_REASONS_WITH_A_KEY: Final[dict[str, tuple[str, str]]] = {
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": _WRONG_KEY,
    "SSLV3_ALERT_BAD_RECORD_MAC": _WRONG_KEY,
    "TLSV1_ALERT_DECRYPT_ERROR": _WRONG_KEY,
    "SSLV3_ALERT_ILLEGAL_PARAMETER": _WRONG_KEY,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_KEY,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": _NO_KEY,
    "NO_SHARED_CIPHER": _NO_KEY,
}

#: OpenSSL's reasons → detail, and the sentence, of which {peer} is the subject or object.
_REASONS: Final[dict[str, tuple[str, str]]] = {
    "NO_SHARED_CIPHER": ("no-shared-cipher", "{peer} and this end have no cipher suite in common"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "handshake-refused",
        "{peer} refused the handshake: it accepts none of the cipher suites and groups offered, "
        "or requires a client certificate",
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "client-certificate-required",
        "{peer} showed no client certificate, and one is required",
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "client-certificate-required",
        "{peer} requires a client certificate: SecurityParameters(client_certificate=...)",
    ),
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": (
        "no-application-protocol",
        "{peer} speaks none of the application protocols offered (ALPN)",
    ),
    "TLSV1_UNRECOGNIZED_NAME": ("unknown-server-name", "{peer} does not serve that name"),
    "PSK_IDENTITY_NOT_FOUND": (
        "unknown-pre-shared-key",
        "the pre-shared key of {peer} has an identity that is not known here",
    ),
    "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY": (
        "unknown-pre-shared-key",
        "{peer} does not know the identity of this end's pre-shared key",
    ),
    "BINDER_DOES_NOT_VERIFY": _WRONG_KEY,
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": (
        "bad-record",
        "a record of {peer} was changed on the way",
    ),
    **dict.fromkeys(
        (
            *("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION"),
            *("VERSION_TOO_LOW", "INAPPROPRIATE_FALLBACK", "NO_PROTOCOLS_AVAILABLE"),
        ),
        ("no-shared-protocol", "{peer} and this end have no version of TLS in common"),
    ),
    **dict.fromkeys(
        (
            *("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"),
            *("RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"),
        ),
        ("not-tls", "{peer} does not speak TLS: is it the right port?"),
    ),
    **{
        f"{version}_ALERT_{alert}": (
            "certificate-refused-by-peer",
            "{peer} refused this end's certificate: " + word,
        )
        for version, alert, word in (
            ("TLSV1", "UNKNOWN_CA", "it does not know who issued it"),
            ("SSLV3", "BAD_CERTIFICATE", "it is broken"),
            ("SSLV3", "UNSUPPORTED_CERTIFICATE", "it is of the wrong kind"),
            ("SSLV3", "CERTIFICATE_REVOKED", "it was revoked"),
            ("SSLV3", "CERTIFICATE_EXPIRED", "it has expired"),
            ("SSLV3", "CERTIFICATE_UNKNOWN", "it does not like it"),
            ("TLSV1", "ACCESS_DENIED", "access is denied"),
        )
    },
}

#: Alerts alone: what stands before them depends on the version of OpenSSL.
_ALERTS: Final = {
    reason.partition("ALERT_")[2]: explained
    for reason, explained in _REASONS.items()
    if "ALERT_" in reason
}


def handshake_failed(
    error: ssl.SSLError,
    peer: object,
    name: str | None,
    chain: Sequence[bytes],
    *,
    keyed: bool = False,
    protocol: str = "TLS",
) -> EstablishmentError:
    """Why there is no Connection.

    Args:
        error: OpenSSL's.
        peer: Who is at the other end, as ``str`` says it.
        name: The name asked for; ``None`` where this end is the server.
        chain: The certificates that the peer showed, in DER; empty if not known.
        keyed: Whether this end has a pre-shared key.
        protocol: To begin the sentence with.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        detail, sentence = _verdict(error, peer, name, chain)
    else:
        detail, sentence = _explained(error, peer, _REASONS_WITH_A_KEY if keyed else {})
    failure = EstablishmentError(f"{protocol}: {_printable(sentence)}", detail=detail)
    failure.__cause__ = error
    return failure


def _printable(sentence: str) -> str:
    """Without what would act on a terminal or in a log: names in certificates are the peer's."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in sentence)


def hung_up(peer: object, error: Exception | None, protocol: str = "TLS") -> EstablishmentError:
    """The flow below ended before the handshake did."""
    failure = EstablishmentError(
        f"{protocol}: {peer} ended the connection during the handshake"
        + ("" if error is None else f": {error}"),
        detail="closed-during-handshake",
        transient=True,
    )
    failure.__cause__ = error
    return failure


def unfinished(peer: object, protocol: str = "TLS") -> EstablishmentError:
    """What was not done yet when the time was over, or nobody wanted it any more."""
    return EstablishmentError(
        f"{protocol}: {peer} has not answered in the handshake",
        detail="handshake-timeout",
        transient=True,
    )


def refused(detail: str, sentence: str) -> EstablishmentRefused:
    """The application does not want the peer, though OpenSSL does."""
    return EstablishmentRefused(f"TLS: {sentence}", detail=detail)


def truncated(peer: object) -> ReceiveError:
    """The stream ended without close_notify: perhaps somebody cut it off."""
    return ReceiveError(
        f"TLS: the stream from {peer} was cut off: it ended without close_notify",
        reason=Reason.PROTOCOL_FAILED,
        detail="truncated",
    )


def receiving_broken(error: ssl.SSLError, peer: object, protocol: str = "TLS") -> ReceiveError:
    """Why nothing more is received."""
    detail, sentence = _explained(error, peer)
    if detail == "not-tls":  # it did until now
        detail, sentence = "bad-record", f"what came from {peer} is no record of {protocol}"
    failure = ReceiveError(f"{protocol}: {sentence}", reason=Reason.PROTOCOL_FAILED, detail=detail)
    failure.__cause__ = error
    return failure


def connection_broken(failure: ReceiveError) -> ConnectionError:
    """The end of the Connection for the reason that ended receiving."""
    ended = ConnectionError(str(failure), reason=Reason.PROTOCOL_FAILED, detail=failure.detail)
    ended.__cause__ = failure.__cause__
    return ended


def _explained(
    error: ssl.SSLError, peer: object, special: Mapping[str, tuple[str, str]] = _REASONS
) -> tuple[str, str]:
    reason = error.reason or _reason_in_words(error)
    alert = _ALERTS.get(reason.partition("ALERT_")[2])
    found = special.get(reason) or _REASONS.get(reason) or alert
    if found is None:
        # TLSV1_ALERT_INTERNAL_ERROR → «internal error».
        words = reason.partition("ALERT_")[2] or reason
        plain = words.replace("_", " ").lower() or str(error.args[-1])
        said = f"{peer} said" if "ALERT_" in reason else "OpenSSL says"
        return "alert" if "ALERT_" in reason else "protocol-error", f"{said}: {plain}"
    detail, sentence = found
    return detail, sentence.format(peer=peer)


def _reason_in_words(error: ssl.SSLError) -> str:
    """For reasons that this Python's ``ssl`` has no name for, as it is older than OpenSSL.

    «[SSL] tlsv1 alert no application protocol (_ssl.c:1006)» → TLSV1_ALERT_NO_….
    """
    words = str(error.args[-1]).partition("] ")[2].rpartition(" (")[0]
    return words.upper().replace(" ", "_")


def _verdict(
    error: ssl.SSLCertVerificationError, peer: object, name: str | None, chain: Sequence[bytes]
) -> tuple[str, str]:
    detail = _VERDICTS.get(error.verify_code, "certificate-refused")
    if chain:
        # OpenSSL reads certificates that cryptography does not, which says so by exceptions
        # of all kinds. The verdict stands.
        with contextlib.suppress(Exception):
            return detail, _described(detail, error, peer, name, chain)
    return detail, f"the certificate of {peer} is refused: {error.verify_message}"


def _described(
    detail: str,
    error: ssl.SSLCertVerificationError,
    peer: object,
    name: str | None,
    chain: Sequence[bytes],
) -> str:
    """Whose certificate is refused, why, and what to do."""
    from taps_tls.certificates import day, expired, issuer, names, subject, when_valid

    leaf = chain[0]
    whose = subject(leaf)
    if detail == "certificate-expired":
        old = expired(chain) or leaf
        shown = f"{whose}, shown by {peer}," if old is leaf else f"{subject(old)}, behind {whose},"
        return f"the certificate of {shown} expired on {day(when_valid(old)[1])}"
    if detail == "certificate-not-yet-valid":
        return (
            f"the certificate of {whose}, shown by {peer}, is not valid before "
            f"{day(when_valid(leaf)[0])}"
        )
    if detail == "wrong-name":
        valid = ", ".join(names(leaf)) or "no name at all"
        return f"the certificate that {peer} showed is for {valid}, not for {name}"
    remedy = "SecurityParameters(trusted_certificates=...) names private authorities"
    if detail == "self-signed":
        return (
            f"the certificate of {whose}, shown by {peer}, is signed by itself and not trusted "
            f"here: {remedy}"
        )
    if detail == "unknown-authority":
        return (
            f"the certificate of {whose}, shown by {peer}, was issued by {issuer(leaf)}, which "
            f"is not trusted here: {remedy}"
        )
    return f"the certificate of {whose}, shown by {peer}, is refused: {error.verify_message}"
