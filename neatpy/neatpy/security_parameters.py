"""Security: what ``security_needed=True`` means, and how to say more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps
from neatpy._flat import one_module

one_module(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    #: A PEM file, or content.
    Pem: TypeAlias = str | os.PathLike[str] | bytes

__all__ = ["SecurityParameters"]

#: Environment variables with the certificate of programs that say no more than
#: ``security_needed=True``, and its key.
CERTIFICATE: Final = "NEATPY_CERTIFICATE"
PRIVATE_KEY: Final = "NEATPY_PRIVATE_KEY"


class SecurityParameters:
    """What security is needed: to be given as ``security_needed`` in place of True.

    Everything is as safe as it gets without calling anything: the peer has to show a certificate of
    an authority that the system trusts (or the files that SSL_CERT_FILE and SSL_CERT_DIR name),
    for the name or address that is reached. A server shows its certificate: one that is added
    here, else that of the files that NEATPY_CERTIFICATE and NEATPY_PRIVATE_KEY name.
    """

    def __init__(self) -> None:
        self._parameters = taps.SecurityParameters()
        self._identities: list[Pem] = []
        self._keys: list[Pem] = []

    def add_identity(self, identity: Pem) -> None:
        """Add a certificate chain to show, the leaf first.

        Args:
            identity: A PEM file, or its content.
        """
        self._identities.append(identity)

    def add_private_key(self, private_key: Pem, public_key: object = None) -> None:
        """Add the key of the identity that was added last; in its file already, it is not needed.

        Args:
            private_key: A PEM file, or its content.
            public_key: Not needed: it is in the certificate.
        """
        self._keys.append(private_key)

    def add_trusted_certificate(self, certificate: Pem) -> None:
        """Trust an authority: those that are added stand in place of the system's.

        Args:
            certificate: A PEM file, or its content. A Listener demands certificates of its clients
                then.
        """
        self._add("trustedCertificates", certificate)

    def add_pre_shared_key(self, key: bytes, identity: str | bytes) -> None:
        """Use a key that both sides have.

        Args:
            key: The key.
            identity: Its name.
        """
        self._parameters.set("preSharedKey", key, identity)

    def add_supported_group(self, group: str) -> None:
        """Allow a group for exchanging keys; without any, those that are best."""
        self._add("supportedGroup", group)

    def add_cipher_suite(self, cipher_suite: str) -> None:
        """Allow a cipher suite, likewise."""
        self._add("ciphersuite", cipher_suite)

    def add_signature_algorithm(self, signature_algorithm: str) -> None:
        """Allow a signature algorithm, likewise."""
        self._add("signatureAlgorithm", signature_algorithm)

    def set_session_cache_capacity(self, capacity: int) -> None:
        """Keep so many sessions, to resume them."""
        self._parameters.set("maxCachedSessions", capacity)

    def set_session_cache_lifetime(self, lifetime: int) -> None:
        """Resume sessions so many seconds long."""
        self._parameters.set("cachedSessionLifetimeSeconds", lifetime)

    def set_session_cache_policy(self, policy: object) -> None:
        """RFC 9622 has no such thing.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "sessions have no policy beyond their number and lifetime (RFC 9622, section 6.3.6): "
            "set_session_cache_capacity(0) keeps none"
        )

    set_session_cacahe_policy = set_session_cache_policy  # so it was spelt

    def set_trust_verification_callback(self, callback: Callable[..., Any]) -> None:
        """Have the last word on a peer that was found good: returning False refuses it.

        Args:
            callback: Called with what the security protocol knows of the peer.
        """
        self._parameters.set_trust_verification_callback(callback)

    def set_identity_challenge_callback(self, callback: Callable[..., Any]) -> None:
        """Provide the certificate when it is asked for.

        Args:
            callback: Called with the challenge; returns a ``taps_core.Certificate``.
        """
        self._parameters.set_identity_challenge_callback(callback)

    def _add(self, name: str, value: Any) -> None:
        before: tuple[Any, ...] = self._parameters.get(name)
        self._parameters.set(name, [*before, value])

    def _to_taps(self, role: str) -> taps.SecurityParameters:
        """As the core has them.

        Args:
            role: ``"clientCertificate"`` or ``"serverCertificate"``: what the identities are.

        Raises:
            PropertyError: A value that cannot be.
        """
        keys = [*self._keys, *[None] * (len(self._identities) - len(self._keys))]
        identities = [
            taps.Certificate(chain, key) for chain, key in zip(self._identities, keys, strict=False)
        ]
        if not identities and role == "serverCertificate" and os.environ.get(CERTIFICATE):
            key = os.environ.get(PRIVATE_KEY) or None
            identities.append(taps.Certificate(os.environ[CERTIFICATE], key))
        made = self._parameters.copy()
        if identities:
            made.set(role, identities)
        return made


def to_taps(security_needed: Any, role: str) -> taps.SecurityParameters:
    """What ``security_needed`` asks of the core.

    Args:
        security_needed: A Boolean, or SecurityParameters: these, or those of ``taps_core``.
        role: As for :meth:`SecurityParameters._to_taps`.

    Raises:
        PropertyError: A value that cannot be.
    """
    if isinstance(security_needed, taps.SecurityParameters):
        return security_needed.copy()
    if isinstance(security_needed, SecurityParameters):
        return security_needed._to_taps(role)
    if security_needed:
        return SecurityParameters()._to_taps(role)
    return taps.SecurityParameters.disabled()
