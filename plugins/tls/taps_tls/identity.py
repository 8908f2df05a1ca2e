"""A local identity for OpenSSL, which reads certificates and keys from files only."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from typing import TYPE_CHECKING, Any, NoReturn

from taps_core.plugin import EstablishmentError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from taps_core.plugin import Certificate, HasPublicBytes

    #: A path, content, or objects of cryptography.
    Chain: TypeAlias = str | bytes | tuple[HasPublicBytes, ...]

__all__ = ["chain_of", "content", "load_identity", "private_key", "shown_as", "unusable"]


def unusable(sentence: str, detail: str = "certificate-unusable") -> EstablishmentError:
    """The error for parameters that cannot be used as they are."""
    return EstablishmentError(sentence, reason=Reason.INVALID_CONFIGURATION, detail=detail)


def load_identity(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Let ``context`` show a certificate.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read, or does not fit
            its key. What is in a key never is in the sentence.
    """
    shown = shown_as(certificate.chain)

    def no_password() -> NoReturn:
        # OpenSSL would ask on the terminal, and wait.
        raise unusable(f"the key of the certificate {shown} is encrypted: give its password")

    password = certificate.password
    try:
        with _as_files(certificate) as (chain, key, given):
            context.load_cert_chain(chain, key, no_password if password is None else given)
    except ssl.SSLError as error:
        if certificate.key is None and b"PRIVATE KEY" not in content(certificate.chain):
            sentence = (
                f"the certificate {shown} comes without its key: Certificate(chain, key), or an "
                "identity challenge callback that supplies it"
            )
        elif error.reason == "KEY_VALUES_MISMATCH":
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


def shown_as(chain: Chain) -> str:
    """What to call a chain in a sentence."""
    if isinstance(chain, str):
        return chain
    return "given as content" if isinstance(chain, bytes) else "given as objects"


def content(chain: Chain) -> bytes:
    """What is in a file of certificates, the content itself, or objects as PEM.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read.
    """
    if isinstance(chain, bytes):
        return chain
    if isinstance(chain, tuple):
        from taps_tls.certificates import pem_certificates

        try:
            return pem_certificates(chain)
        except (TypeError, ValueError, AttributeError) as error:
            raise unusable("the certificate given as objects is none of cryptography's") from error
    try:
        with open(chain, "rb") as file:
            return file.read()
    except OSError as error:
        raise unusable(f"the certificate {chain} cannot be read: {error.strerror}") from error


def chain_of(chain: Chain, what: str = "certificate") -> list[bytes]:
    """The certificates in a file, in content or as objects, in DER, the leaf first.

    Args:
        chain: A path, PEM or DER content, or objects.
        what: What to call it in a sentence.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read, or holds none.
    """
    from taps_tls.certificates import ders

    try:
        return ders(content(chain))
    except ValueError as error:
        raise unusable(f"the {what} {shown_as(chain)} is neither PEM nor DER") from error


def private_key(certificate: Certificate) -> Any:
    """The key of a certificate, as ``cryptography`` has it.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read. What is in it never
            is in the sentence.
    """
    from taps_tls.certificates import load_key

    shown, key = shown_as(certificate.chain), certificate.key
    if not (key is None or isinstance(key, (str, bytes))):
        return key
    password = certificate.password
    secret = password.encode() if isinstance(password, str) else password
    try:
        return load_key(content(certificate.chain if key is None else key), secret)
    except TypeError as error:
        if secret is None:
            sentence = f"the key of the certificate {shown} is encrypted: give its password"
        else:
            sentence = f"the key of the certificate {shown} is not encrypted: give no password"
        raise unusable(sentence) from error
    except ValueError as error:
        sentence = (
            f"the key of the certificate {shown} cannot be read"
            if secret is None
            else f"the password does not open the key of the certificate {shown}"
        )
        raise unusable(sentence) from error


@contextlib.contextmanager
def _as_files(
    certificate: Certificate,
) -> Iterator[tuple[str, str | None, str | bytes | None]]:
    """Paths of chain and key, and the password; content is in files for as long as that."""
    chain, key, password = certificate.chain, certificate.key, certificate.password
    with contextlib.ExitStack() as files:
        if not isinstance(chain, str):
            pem = content(chain)
            if not pem.lstrip().startswith(b"-----"):
                pem = "".join(map(ssl.DER_cert_to_PEM_cert, chain_of(chain))).encode()
            chain = files.enter_context(_file(pem))
        if not (key is None or isinstance(key, str)):
            from taps_tls.certificates import pem_key

            secret = password.encode() if isinstance(password, str) else password
            try:
                pem, password = pem_key(key, secret)
            except (TypeError, ValueError, AttributeError) as error:
                given = "content" if isinstance(key, bytes) else "an object"
                raise unusable(f"the key given as {given} cannot be read") from error
            key = files.enter_context(_file(pem))
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
