"""Certificates as a person sees them: whose, from whom, until when. Loaded on first use."""

from __future__ import annotations

import datetime
import ipaddress
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from taps_core.plugin import Certificate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taps_core.plugin import HasPrivateBytes, HasPublicBytes

__all__ = [
    "day",
    "ders",
    "expired",
    "issuer",
    "key_kind",
    "load_key",
    "names",
    "pem_certificates",
    "pem_key",
    "self_signed",
    "subject",
    "when_valid",
]

#: How long a certificate that nobody trusts is good for: it is made when it is needed.
_FOR_NOW: Final = datetime.timedelta(days=1)


def ders(content: bytes) -> list[bytes]:
    """The certificates in PEM or DER content.

    Raises:
        ValueError: It holds none.
    """
    if content.lstrip().startswith(b"-----"):
        found = x509.load_pem_x509_certificates(content)
    else:
        found = [x509.load_der_x509_certificate(content)]
    return [each.public_bytes(serialization.Encoding.DER) for each in found]


def pem_certificates(chain: Iterable[HasPublicBytes]) -> bytes:
    """Objects of cryptography as PEM.

    Raises:
        ValueError, TypeError, AttributeError: They are something else.
    """
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)


def pem_key(key: bytes | HasPrivateBytes, password: bytes | None) -> tuple[bytes, bytes | None]:
    """A private key as PEM, and the password that it still needs.

    Raises:
        ValueError, TypeError, AttributeError: It is no key, or the password is wrong or missing.
    """
    loaded: HasPrivateBytes
    if not isinstance(key, bytes):
        loaded = key
    elif key.lstrip().startswith(b"-----"):
        return key, password
    else:
        loaded = load_key(key, password)
    plain = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return plain, None


def load_key(key: bytes, password: bytes | None) -> Any:
    """A private key from PEM or DER; in PEM there may be certificates before it.

    Raises:
        ValueError, TypeError: It is no key, or the password is wrong, missing, or too much.
    """
    if key.lstrip().startswith(b"-----"):
        return serialization.load_pem_private_key(key, password)
    return serialization.load_der_private_key(key, password)


def names(der: bytes) -> tuple[str, ...]:
    """The names and addresses that a certificate is for."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*found.get_values_for_type(x509.DNSName), *map(str, addresses))


def key_kind(der: bytes) -> str:
    """What kind of key a certificate is for, so that OpenSSL keeps it beside others."""
    return type(x509.load_der_x509_certificate(der).public_key()).__name__


def subject(der: bytes) -> str:
    """What a certificate is called, for a sentence."""
    found = names(der)
    return found[0] if found else _common_name(x509.load_der_x509_certificate(der).subject)


def issuer(der: bytes) -> str:
    """Who issued a certificate, for a sentence."""
    return _common_name(x509.load_der_x509_certificate(der).issuer)


def when_valid(der: bytes) -> tuple[datetime.datetime, datetime.datetime]:
    """First and last moment, in UTC."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def expired(chain: Sequence[bytes]) -> bytes | None:
    """The certificate of a chain that has expired, if one has."""
    now = datetime.datetime.now(datetime.UTC)
    return next((der for der in chain if when_valid(der)[1] < now), None)


def day(moment: datetime.datetime) -> str:
    """A moment as a sentence has it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def self_signed(called: str) -> Certificate:
    """A certificate for loopback addresses that nobody trusts, and its key; good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, called)])
    now = datetime.datetime.now(datetime.UTC)
    usual = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _FOR_NOW)
        .not_valid_after(now + _FOR_NOW)
        .add_extension(x509.SubjectAlternativeName(usual), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Certificate(chain, secret)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string() or "nobody"
