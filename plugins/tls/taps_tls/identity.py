"""A local identity for OpenSSL, which reads certificates and keys from files only."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from typing import TYPE_CHECKING, NoReturn

from taps_core.plugin import EstablishmentError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taps_core.plugin import Certificate

__all__ = ["chain_of", "content", "load_identity", "unusable"]


def unusable(sentence: str, detail: str = "certificate-unusable") -> EstablishmentError:
    """The error for parameters that cannot be used as they are."""
    return EstablishmentError(sentence, reason=Reason.INVALID_CONFIGURATION, detail=detail)


def load_identity(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Let ``context`` show a certificate.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read, or does not fit
            its key. What is in a key never is in the sentence.
    """
    shown = certificate.chain if isinstance(certificate.chain, str) else "given as content"

    def no_password() -> NoReturn:
        # OpenSSL would ask on the terminal, and wait.
        raise unusable(f"the key of the certificate {shown} is encrypted: give its password")

    password = certificate.password
    try:
        with _as_files(certificate) as (chain, key, given):
            context.load_cert_chain(chain, key, no_password if password is None else given)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            sentence = f"the key does not belong to the certificate {shown}"
        elif password is not None and error.reason in ("BAD_DECRYPT", "BAD_PASSWORD_READ", None):
            sentence = f"the password does not open the key of the certificate {shown}"
        else:
            sentence = f"the certificate {shown}, or its key, is no PEM that OpenSSL reads"
        raise unusable(sentence) from error
    except OSError as error:
        if isinstance(error, EstablishmentError):
            raise
        place = error.filename or shown
        raise unusable(f"the certificate {place} cannot be read: {error.strerror}") from error


def content(pem: str | bytes) -> bytes:
    """What is in a file of certificates, or the content itself.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read.
    """
    if isinstance(pem, bytes):
        return pem
    try:
        with open(pem, "rb") as file:
            return file.read()
    except OSError as error:
        raise unusable(f"the certificate {pem} cannot be read: {error.strerror}") from error


def chain_of(pem: str | bytes) -> list[bytes]:
    """The certificates in a file or in content, in DER, the leaf first.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read, or holds none.
    """
    from taps_tls.certificates import ders

    try:
        return ders(content(pem))
    except ValueError as error:
        shown = pem if isinstance(pem, str) else "given as content"
        raise unusable(f"the certificate {shown} is neither PEM nor DER") from error


@contextlib.contextmanager
def _as_files(
    certificate: Certificate,
) -> Iterator[tuple[str, str | None, str | bytes | None]]:
    """Paths of chain and key, and the password; content is in files for as long as that."""
    chain, key, password = certificate.chain, certificate.key, certificate.password
    with contextlib.ExitStack() as files:
        if isinstance(chain, bytes):
            if not chain.lstrip().startswith(b"-----"):
                chain = "".join(map(ssl.DER_cert_to_PEM_cert, chain_of(chain))).encode()
            chain = files.enter_context(_file(chain))
        if isinstance(key, bytes):
            from taps_tls.certificates import pem_key

            secret = password.encode() if isinstance(password, str) else password
            try:
                key, password = pem_key(key, secret)
            except (TypeError, ValueError) as error:
                raise unusable("the key given as content cannot be read") from error
            key = files.enter_context(_file(key))
        yield chain, key, password


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    """A path where OpenSSL finds ``data``: in memory where the system can do that."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("taps-tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    # mkstemp's are readable by their owner alone.
    descriptor, path = tempfile.mkstemp()
    try:
        os.write(descriptor, data)
        os.close(descriptor)
        yield path
    finally:
        os.unlink(path)
