"""Security Parameters as contexts of pyOpenSSL, for DTLS: Python's ``ssl`` has none.

As :mod:`taps_tls.contexts` does for TLS: each parameter takes effect, or raises saying
what is missing.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from taps_core.plugin import SecurityMode
from taps_tls.certificates import names, self_signed
from taps_tls.identity import chain_of, private_key, unusable
from taps_tls.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.plugin import Certificate, SecurityParameters

__all__ = ["HANDSHAKE_DATAGRAM", "VERSION", "Association", "DTLSSettings", "dtls_settings"]

#: As ``allowedSecurityProtocols`` names it; newer ones OpenSSL has not.
VERSION: Final = "DTLSv1.2"
_NUMBER: Final = 0xFEFD
#: Forward secret, authenticated encryption (RFC 9325, section 4.2).
_SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: SSL_MODE_NO_AUTO_CHAIN, which pyOpenSSL has no name for: authorities that are trusted here
#: are not shown to the peer.
_NO_AUTO_CHAIN: Final = 0x8
#: Sessions are of this use, and of no other of the same process.
_SESSION_CONTEXT: Final = b"taps-tls"
#: pyOpenSSL takes a curve; those of RFC 7748 are none to it.
_GROUPS: Final[dict[str, type[ec.EllipticCurve]]] = {
    **dict.fromkeys(("secp256r1", "p-256", "prime256v1"), ec.SECP256R1),
    **dict.fromkeys(("secp384r1", "p-384"), ec.SECP384R1),
    **dict.fromkeys(("secp521r1", "p-521"), ec.SECP521R1),
}
#: X509_V_ERR_HOSTNAME_MISMATCH.
_WRONG_NAME: Final = 62
#: Bytes of a datagram of the handshake, which no path is asked about: less than the 1280 of
#: RFC 8200 and its headers, as others may be added on the way.
HANDSHAKE_DATAGRAM: Final = 1200


class Association:
    """What callbacks of OpenSSL find at a connection.

    Attributes:
        name: To verify; ``None``: none is.
        cookies: What the peer must have got at its address: the one to send, and others.
        refused: OpenSSL's code of why the peer's certificate was, once it was.
    """

    __slots__ = ("cookies", "name", "refused")

    def __init__(self, name: str | None = None, cookies: tuple[bytes, ...] = ()) -> None:
        self.name = name
        self.cookies = cookies
        self.refused: int | None = None


class DTLSSettings:
    """What associations with the same parameters share.

    Attributes:
        pins: Chains, each a set of certificates in DER: all of one must be shown.
        sessions: To resume, or ``None`` where none may be.
        verifies: Whether the peer's certificate is verified.
    """

    __slots__ = ("_context", "pins", "sessions", "verifies")

    def __init__(
        self,
        context: SSL.Context,
        *,
        verifies: bool,
        pins: tuple[frozenset[bytes], ...] = (),
        sessions: Sessions[SSL.Session] | None = None,
    ) -> None:
        self._context = context
        self.verifies = verifies
        self.pins = pins
        self.sessions = sessions

    def client(self, name: str | None) -> SSL.Connection:
        """A new connection, between buffers in memory, to a server of this name."""
        made = SSL.Connection(self._context, None)
        made.set_app_data(Association(name if self.verifies else None))
        made.set_connect_state()
        if name is not None and not _is_address(name):
            made.set_tlsext_host_name(name.encode("idna"))
        return made

    def offers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Versions and cipher suites that may be agreed on, each the best first."""
        listed = SSL.Connection(self._context, None).get_cipher_list()
        # OpenSSL lists those of TLS 1.3, too, which has no DTLS here.
        return (VERSION,), tuple(each for each in listed if not each.startswith("TLS_"))

    def server(self, association: Association) -> SSL.Connection:
        """A new connection, between buffers in memory, for a client."""
        made = SSL.Connection(self._context, None)
        made.set_app_data(association)
        made.set_ciphertext_mtu(HANDSHAKE_DATAGRAM)
        made.set_accept_state()
        return made


def dtls_settings(security: SecurityParameters, server: bool) -> DTLSSettings:
    """Settings from parameters.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: a parameter that is wrong, or that
            OpenSSL or pyOpenSSL cannot honour.
    """
    _refuse_what_is_missing(security)
    return _server(security) if server else _client(security)


def _client(security: SecurityParameters) -> DTLSSettings:
    verifies = security.mode is not SecurityMode.OPPORTUNISTIC
    context = _context(SSL.DTLS_CLIENT_METHOD, security)
    if verifies:
        _trust(context, security)
        context.set_verify(SSL.VERIFY_PEER, _verify)
    if security.alpn:
        context.set_alpn_protos([each.encode() for each in security.alpn])
    asks = security.identity_challenge_callback is not None
    mine = () if asks else security.client_certificate
    if len(mine) > 1:
        raise unusable(
            "clientCertificate: pyOpenSSL cannot choose among several "
            "(it lacks SSL_CTX_set_client_cert_cb): give one",
            "unsupported-parameter",
        )
    for certificate in mine:
        _show(context, certificate)
    pins = tuple(frozenset(chain_of(each)) for each in security.pinned_server_certificate)
    sessions: Sessions[SSL.Session] = Sessions(
        security.max_cached_sessions, security.cached_session_lifetime_seconds
    )
    # Who resumes is shown no certificate to judge.
    judges = pins or security.trust_verification_callback is not None
    return DTLSSettings(
        context,
        verifies=verifies,
        pins=pins,
        sessions=None if judges or not sessions.wanted else sessions,
    )


def _server(security: SecurityParameters) -> DTLSSettings:
    verifies = bool(security.trusted_certificates) and (
        security.mode is not SecurityMode.OPPORTUNISTIC
    )
    if security.identity_challenge_callback is not None:
        return DTLSSettings(_server_context(security, None, verifies), verifies=verifies)
    mine: Sequence[Certificate] = security.server_certificate
    if not mine and security.mode is SecurityMode.OPPORTUNISTIC:
        # Nobody who is opportunistic looks at it, and without one there is no encryption.
        mine = (self_signed("opportunistic"),)
    if not mine:
        raise unusable(
            "a Listener shows a certificate, and there is none: "
            "SecurityParameters(server_certificate=Certificate(chain, key))",
            "no-server-certificate",
        )
    contexts = [_server_context(security, each, verifies) for each in mine]
    if len(mine) > 1:
        contexts[0].set_tlsext_servername_callback(_chooser(mine, contexts))
    return DTLSSettings(contexts[0], verifies=verifies)


def _server_context(
    security: SecurityParameters, certificate: Certificate | None, verifies: bool
) -> SSL.Context:
    context = _context(SSL.DTLS_SERVER_METHOD, security)
    if certificate is not None:
        _show(context, certificate)
    if verifies:
        # Whoever names authorities wants to know who comes.
        _trust(context, security)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    context.set_cookie_generate_callback(_generate_cookie)
    context.set_cookie_verify_callback(_verify_cookie)
    context.set_session_id(_SESSION_CONTEXT)
    # Tickets are all that is needed, and cost the server nothing.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if security.max_cached_sessions == 0:
        context.set_options(SSL.OP_NO_TICKET)
    if security.cached_session_lifetime_seconds is not None:
        context.set_timeout(security.cached_session_lifetime_seconds)
    if security.alpn:
        context.set_alpn_select_callback(_selector(security.alpn))
    return context


def _context(method: int, security: SecurityParameters) -> SSL.Context:
    context = SSL.Context(method)
    # It must not ask a socket that is not there, nor renegotiate.
    context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(_NO_AUTO_CHAIN)
    context.set_min_proto_version(_NUMBER)
    context.set_max_proto_version(_NUMBER)
    _choose_suites(context, security.ciphersuite)
    if security.supported_group:
        _choose_group(context, security.supported_group)
    if not sys.flags.ignore_environment and (path := os.environ.get("SSLKEYLOGFILE")):
        context.set_keylog_callback(_key_logger(path))
    return context


def _choose_suites(context: SSL.Context, suites: Sequence[str]) -> None:
    try:
        # OpenSSL ignores the names that it does not know, if it knows one.
        for each in suites:
            context.set_cipher_list(each.encode())
        context.set_cipher_list((":".join(suites) or _SUITES).encode())
    except SSL.Error as error:
        raise unusable(
            f"ciphersuite: OpenSSL has not all of {', '.join(suites)} for DTLS 1.2, where they "
            "go by its names, such as ECDHE-RSA-AES128-GCM-SHA256",
            "no-cipher",
        ) from error


def _choose_group(context: SSL.Context, groups: Sequence[str]) -> None:
    curve = _GROUPS.get(groups[0].lower())
    if len(groups) > 1 or curve is None:
        raise unusable(
            f"supportedGroup: {', '.join(groups)}: pyOpenSSL takes one curve of NIST's for DTLS "
            "(it lacks SSL_CTX_set1_groups_list)",
            "unsupported-parameter",
        )
    context.set_tmp_ecdh(curve())


def _refuse_what_is_missing(security: SecurityParameters) -> None:
    missing = (
        (security.context is not None, "context: an ssl.SSLContext cannot do DTLS"),
        (
            bool(security.signature_algorithm),
            "signatureAlgorithm: pyOpenSSL cannot restrict them (it lacks SSL_CTX_set1_sigalgs)",
        ),
        (
            security.pre_shared_key is not None,
            "preSharedKey: pyOpenSSL has none (it lacks SSL_CTX_set_psk_client_callback)",
        ),
    )
    for wanted, sentence in missing:
        if wanted:
            raise unusable(sentence, "unsupported-parameter")


# -- whom to trust, and what to show


def _trust(context: SSL.Context, security: SecurityParameters) -> None:
    """Whom the context believes: private authorities if there are any, else the system's."""
    if not security.trusted_certificates:
        _trust_the_system(context)
        return
    store = context.get_cert_store()
    assert store is not None
    # What is trusted need not be a root: also a server's own certificate can be.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for trusted in security.trusted_certificates:
        if isinstance(trusted, str) and os.path.isdir(trusted):
            context.load_verify_locations(None, trusted)
            continue
        for der in chain_of(trusted, "trusted certificate"):
            store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)))


def _trust_the_system(context: SSL.Context) -> None:
    """The same authorities as Python's ``ssl`` trusts."""
    places = ssl.get_default_verify_paths()
    if places.cafile or places.capath:
        context.load_verify_locations(places.cafile, places.capath)
    else:
        context.set_default_verify_paths()


def _show(context: SSL.Context, certificate: Certificate) -> None:
    """Let ``context`` show a certificate.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it cannot be read, or does not fit its key.
    """
    leaf, *others = map(x509.load_der_x509_certificate, chain_of(certificate.chain))
    key = private_key(certificate)
    shown = certificate.chain if isinstance(certificate.chain, str) else "given as content"
    try:
        context.use_certificate(leaf)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise unusable(f"the key does not belong to the certificate {shown}") from error


# -- what OpenSSL asks


def _verify(
    connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    """Remember why a certificate is refused; compare the names of the peer's own."""
    association: Association = connection.get_app_data()
    name = association.name if ok and depth == 0 else None
    if name is not None and not _is_for(certificate.to_cryptography(), name):
        code, ok = _WRONG_NAME, 0
    if not ok:
        association.refused = code
    return bool(ok)


def _is_for(certificate: x509.Certificate, name: str) -> bool:
    try:
        if _is_address(name):
            verify_certificate_ip_address(certificate, name)
        else:
            verify_certificate_hostname(certificate, name.encode("idna").decode())
    except (VerificationError, CertificateError):
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _generate_cookie(connection: SSL.Connection) -> bytes:
    cookie: bytes = connection.get_app_data().cookies[0]
    return cookie


def _verify_cookie(connection: SSL.Connection, cookie: bytes) -> bool:
    return cookie in connection.get_app_data().cookies


def _selector(mine: Sequence[str]) -> Callable[[SSL.Connection, list[bytes]], Any]:
    """Chooses the application protocol: the first of ours that is offered, or none."""
    ordered = [each.encode() for each in mine]

    def select(_: SSL.Connection, offered: list[bytes]) -> Any:
        found = next((each for each in ordered if each in offered), None)
        return SSL.NO_OVERLAPPING_PROTOCOLS if found is None else found

    return select


def _chooser(
    mine: Sequence[Certificate], contexts: Sequence[SSL.Context]
) -> Callable[[SSL.Connection], None]:
    """Chooses the certificate by the name that the client asks for; the first, if none fits."""
    served: dict[str, SSL.Context] = {}
    for certificate, context in zip(mine, contexts, strict=True):
        for name in names(chain_of(certificate.chain)[0]):
            served.setdefault(name.lower(), context)

    def choose(connection: SSL.Connection) -> None:
        asked = connection.get_servername()
        if asked is not None:
            folded = asked.decode("ascii", "replace").lower()
            wildcard = f"*.{folded.partition('.')[2]}"
            chosen = served.get(folded) or served.get(wildcard)
            if chosen is not None:
                connection.set_context(chosen)

    return choose


def _key_logger(path: str) -> Callable[[SSL.Connection, bytes], None]:
    def log(_: SSL.Connection, line: bytes) -> None:
        with open(path, "ab") as file:
            file.write(line + b"\n")

    return log
