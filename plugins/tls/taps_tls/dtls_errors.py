"""What pyOpenSSL raises, as Python's ``ssl`` would: :mod:`taps_tls.errors` explains both."""

from __future__ import annotations

import ssl

from OpenSSL import SSL

__all__ = ["translated"]


def translated(error: SSL.Error, refused: int | None = None) -> ssl.SSLError:
    """The same as ``ssl`` has it.

    Args:
        error: Of pyOpenSSL.
        refused: OpenSSL's code of why the peer's certificate was, if it was.
    """
    if refused is not None:
        made = ssl.SSLCertVerificationError(1, str(error))
        made.verify_code = refused
        made.verify_message = _words(refused)
        return made
    queue = error.args[0] if error.args else ()
    reasons = [each[2] for each in queue] if isinstance(queue, list) else []
    reason = next(filter(None, reasons), str(error))
    plain = ssl.SSLError(1, reason)
    plain.reason = reason.replace(" ", "_").upper()
    return plain


def _words(code: int) -> str:
    """«cert signature failure»."""
    for name, value in vars(SSL.X509VerificationCodes).items():
        if value == code and not name.startswith("_"):
            return name.removeprefix("ERR_").replace("_", " ").lower()
    return f"X.509 verification code {code}"
