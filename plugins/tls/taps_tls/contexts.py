"""Security Parameters as contexts of OpenSSL: each takes effect, or raises saying what is missing.

What Python's ``ssl`` lacks is named with the version that has it. A context is made once
for parameters that are alike, and anew when a file of theirs has changed.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from taps_core.plugin import EstablishmentError, SecurityMode
from taps_tls.identity import chain_of, content, load_identity, shown_as, unusable
from taps_tls.psk import SUITES, use_key
from taps_tls.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from taps_core.plugin import Certificate, SecurityParameters

__all__ = ["VERSIONS", "Contexts", "Settings", "tls_settings"]

T = TypeVar("T")

#: ``allowedSecurityProtocols`` → OpenSSL's, best first.
VERSIONS: Final = {"TLSv1.3": ssl.TLSVersion.TLSv1_3, "TLSv1.2": ssl.TLSVersion.TLSv1_2}

#: Names of RFC 8446 and RFC 8422 → OpenSSL's where they differ. Others are taken as they are.
_GROUPS: Final = {
    "x25519": "X25519",
    "x448": "X448",
    "secp256r1": "prime256v1",
    "p-256": "prime256v1",
    "p-384": "secp384r1",
    "p-521": "secp521r1",
}
#: The suites of TLS 1.3 that OpenSSL offers by itself.
_SUITES_OF_1_3: Final = frozenset(
    {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}
)
#: The same, with those first that go with a pre-shared key: it is used with SHA-256.
_KEYS_FIRST: Final = sorted(_SUITES_OF_1_3, key=lambda name: (name.endswith("SHA384"), name))
#: Of a file: when it changed, and its size.
_Stamp: TypeAlias = tuple[int, int]
#: So many contexts are kept.
_KEPT: Final = 64
#: What may stand beside a context of the application: the rest belongs into it.
_BESIDE_A_CONTEXT: Final = frozenset(
    {
        *("context", "allowedSecurityProtocols", "pinnedServerCertificate"),
        *("maxCachedSessions", "cachedSessionLifetimeSeconds"),
    }
)


#: Parameters that may name files.
_IDENTITIES: Final = ("serverCertificate", "clientCertificate")
_CHAINS: Final = ("pinnedServerCertificate", "trustedCertificates")


class Settings:
    """What connections with the same parameters share.

    Attributes:
        context: OpenSSL's.
        versions: What may be agreed on.
        pins: Chains, each a set of certificates in DER: all of one must be shown.
        sessions: To resume, or ``None`` where none may be.
        keyed: Whether a pre-shared key may stand in for certificates.
    """

    __slots__ = ("context", "keyed", "pins", "sessions", "versions")

    def __init__(
        self,
        context: ssl.SSLContext,
        versions: frozenset[str],
        pins: tuple[frozenset[bytes], ...] = (),
        sessions: Sessions[ssl.SSLSession] | None = None,
        keyed: bool = False,
    ) -> None:
        self.context = context
        self.keyed = keyed
        self.versions = versions
        self.pins = pins
        self.sessions = sessions

    def offers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Versions and cipher suites that may be agreed on, each the best first."""
        context = self.context
        least, most = context.minimum_version, context.maximum_version
        unbounded = ssl.TLSVersion.MAXIMUM_SUPPORTED
        versions = tuple(
            name
            for name, version in VERSIONS.items()
            if name in self.versions and least <= version and (most == unbounded or version <= most)
        )
        suites = tuple(
            each["name"]
            for each in context.get_ciphers()
            # A suite of TLS 1.2 may be from before it.
            if ("TLSv1.3" if each["protocol"] == "TLSv1.3" else "TLSv1.2") in versions
        )
        return versions, suites


class Contexts(Generic[T]):
    """Settings, made once for parameters that are alike.

    Args:
        make: Makes them, of parameters and of whether they are a server's.
    """

    def __init__(self, make: Callable[[SecurityParameters, bool], T]) -> None:
        self._make = make
        #: Settings, and the files that parameters name with what they were like; the one
        #: used longest ago first.
        self._kept: OrderedDict[Hashable, tuple[T, tuple[str, ...], tuple[_Stamp, ...]]] = (
            OrderedDict()
        )

    def known(self, security: SecurityParameters, *, server: bool) -> T | None:
        """What was made before for parameters like these."""
        key = _key(security, server)
        kept = self._kept.get(key)
        if kept is None:
            return None
        settings, files, stamps = kept
        if files and _stamps(files) != stamps:
            return None
        self._kept.move_to_end(key)
        return settings

    def of(self, security: SecurityParameters, *, server: bool) -> T:
        """What is known, or new. Reads files; the system's store takes many milliseconds.

        With an identity challenge callback nobody's certificate is there yet.

        Raises:
            EstablishmentError: INVALID_CONFIGURATION: a parameter that is wrong, or that
                this library cannot honour.
        """
        settings = self.known(security, server=server)
        if settings is None:
            key = _key(security, server)
            files = tuple(_files(security.explicit))
            stamps = _stamps(files)
            settings = self._make(security, server)
            self._kept[key] = (settings, files, stamps)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return settings


def tls_settings(security: SecurityParameters, server: bool) -> Settings:
    """Settings of TLS, from parameters.

    Raises:
        EstablishmentError: As :meth:`Contexts.of`.
    """
    return _server(security) if server else _client(security)


def _key(security: SecurityParameters, server: bool) -> Hashable:
    alike = security.key
    if alike is not None:
        return (server, alike)
    explicit = security.explicit
    context = explicit.get("context")
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise unusable(f"context: an ssl.SSLContext expected, not {type(context).__name__}")
    judged = security.trust_verification_callback is not None
    asks = security.identity_challenge_callback is not None
    return (server, security.mode, judged, asks, frozenset(explicit.items()))


def _files(explicit: Mapping[str, Any]) -> Iterator[str]:
    """The files that parameters name."""
    for name in _IDENTITIES:
        for identity in explicit.get(name, ()):
            yield from (each for each in (identity.chain, identity.key) if isinstance(each, str))
    for name in _CHAINS:
        for chain in explicit.get(name, ()):
            if isinstance(chain, str):
                yield chain


def _stamps(files: tuple[str, ...]) -> tuple[_Stamp, ...]:
    return tuple(map(_stamp, files))


def _stamp(path: str) -> _Stamp:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return (status.st_mtime_ns, status.st_size)
    return (0, 0)


def _client(security: SecurityParameters) -> Settings:
    versions = _versions(security)
    verifies = security.mode is not SecurityMode.OPPORTUNISTIC
    pins = tuple(frozenset(chain_of(each)) for each in security.pinned_server_certificate)
    sessions: Sessions[ssl.SSLSession] = Sessions(
        security.max_cached_sessions, security.cached_session_lifetime_seconds
    )
    if security.context is not None:
        context = _given(security)
        if verifies and not (context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname):
            raise unusable(
                "the SSLContext does not verify whom it talks to (verify_mode, check_hostname): "
                "SecurityParameters.opportunistic(context=...) would allow that",
                "unverified-context",
            )
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if verifies:
            _trust(context, security, ssl.Purpose.SERVER_AUTH)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        _ask_for(context, security, versions)
        asks = security.identity_challenge_callback is not None
        mine = () if asks else security.client_certificate
        if len(mine) > 1:
            raise unusable(
                "clientCertificate: Python's ssl cannot choose among several "
                "(it lacks SSL_CTX_set_client_cert_cb): give one",
                "unsupported-parameter",
            )
        for certificate in mine:
            load_identity(context, certificate)
    keyed = security.pre_shared_key is not None
    # Who resumes is shown no certificate to judge.
    once = pins or security.trust_verification_callback is not None or keyed
    kept = None if once or not sessions.wanted else sessions
    return Settings(context, versions, pins, kept, keyed)


def _server(security: SecurityParameters) -> Settings:
    versions = _versions(security)
    if security.cached_session_lifetime_seconds is not None:
        raise unusable(
            "cachedSessionLifetimeSeconds: Python's ssl cannot set it for a server "
            "(it lacks SSL_CTX_set_timeout); max_cached_sessions=0 issues no sessions",
            "unsupported-parameter",
        )
    if security.max_cached_sessions is not None and "TLSv1.2" in versions:
        raise unusable(
            "maxCachedSessions: Python's ssl cannot limit what a server of TLS 1.2 remembers "
            "(it lacks SSL_CTX_set_session_cache_mode): allow TLSv1.3 alone",
            "unsupported-parameter",
        )
    if security.context is not None:
        return Settings(_given(security), versions)
    if security.identity_challenge_callback is not None:
        return Settings(_server_context(security, versions, ()), versions)
    mine = security.server_certificate
    keyed = security.pre_shared_key is not None
    if not mine and keyed:
        return Settings(_server_context(security, versions, ()), versions, keyed=True)
    if not mine and security.mode is SecurityMode.OPPORTUNISTIC:
        from taps_tls.certificates import self_signed

        # Nobody who is opportunistic looks at it, and without one there is no encryption.
        mine = (self_signed("opportunistic"),)
    if not mine:
        raise unusable(
            "a Listener shows a certificate, and there is none: "
            "SecurityParameters(server_certificate=Certificate(chain, key))",
            "no-server-certificate",
        )
    if keyed and "TLSv1.3" in versions and not hasattr(ssl.SSLContext, "set_ciphersuites"):
        # OpenSSL then chooses a suite before it looks for a key, which goes with SHA-256 alone.
        raise unusable(
            "preSharedKey beside serverCertificate: Python's ssl cannot let TLS 1.3 prefer the "
            "key (SSLContext.set_ciphersuites, Python 3.15): give one of them, or allow TLSv1.2 "
            "alone",
            "unsupported-parameter",
        )
    served = _served(mine) if len(mine) > 1 else {(): [*mine]}
    contexts = {names: _server_context(security, versions, each) for names, each in served.items()}
    first = next(iter(contexts.values()))
    if len(contexts) > 1:
        first.sni_callback = _chooser(contexts)
    return Settings(first, versions, keyed=keyed)


def _served(mine: Sequence[Certificate]) -> dict[tuple[str, ...], list[Certificate]]:
    """Certificates by the names that they are for, in their order.

    Of those for the same names each has a key of another kind, and OpenSSL chooses by what
    the client can verify.
    """
    from taps_tls.certificates import key_kind, names

    served: dict[tuple[str, ...], dict[str, Certificate]] = {}
    for certificate in mine:
        leaf = chain_of(certificate.chain)[0]
        alike = served.setdefault(tuple(sorted(map(str.lower, names(leaf)))), {})
        alike.setdefault(key_kind(leaf), certificate)
    return {names: list(alike.values()) for names, alike in served.items()}


def _server_context(
    security: SecurityParameters, versions: frozenset[str], certificates: Sequence[Certificate]
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for certificate in certificates:
        load_identity(context, certificate)
    if security.trusted_certificates and security.mode is not SecurityMode.OPPORTUNISTIC:
        # Whoever names authorities wants to know who comes.
        _trust(context, security, ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
    _ask_for(context, security, versions)
    if security.max_cached_sessions == 0 or security.trust_verification_callback is not None:
        # A ticket holds the client's own certificate alone, and it is the whole chain that
        # is to be judged.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def _chooser(
    contexts: Mapping[tuple[str, ...], ssl.SSLContext],
) -> Callable[[Any, str | None, ssl.SSLContext], None]:
    """Chooses the certificate by the name that the client asks for; the first, if none fits."""
    served: dict[str, ssl.SSLContext] = {}
    for names, context in contexts.items():
        for name in names:
            served.setdefault(name, context)

    def choose(tls: Any, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            folded = name.lower()
            wildcard = f"*.{folded.partition('.')[2]}"
            chosen = served.get(folded) or served.get(wildcard)
            if chosen is not None:
                tls.context = chosen

    return choose


def _versions(security: SecurityParameters) -> frozenset[str]:
    """What may be agreed on; selection has seen to it that there is one."""
    allowed = {_fold(each) for each in security.allowed_security_protocols}
    return frozenset(each for each in VERSIONS if not allowed or _fold(each) in allowed)


def _fold(protocol: str) -> str:
    return protocol.replace(" ", "").replace("-", "").lower()


def _given(security: SecurityParameters) -> ssl.SSLContext:
    """The application's own context."""
    strays = security.explicit.keys() - _BESIDE_A_CONTEXT
    if strays:
        raise unusable(
            f"{', '.join(sorted(strays))}: belongs into the SSLContext that was given",
            "unsupported-parameter",
        )
    if security.identity_challenge_callback is not None:
        raise unusable(
            "the identity challenge callback: a certificate belongs into the SSLContext that "
            "was given",
            "unsupported-parameter",
        )
    context: ssl.SSLContext = security.context
    return context


def _trust(context: ssl.SSLContext, security: SecurityParameters, purpose: ssl.Purpose) -> None:
    """Whom the context believes: private authorities if there are any, else the system's."""
    if not security.trusted_certificates:
        context.load_default_certs(purpose)
        return
    # What is trusted need not be a root: also a server's own certificate can be.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for trusted in security.trusted_certificates:
        try:
            if isinstance(trusted, str) and os.path.isdir(trusted):
                context.load_verify_locations(capath=trusted)
                continue
            data = content(trusted)
            is_pem = data.lstrip().startswith(b"-----")
            context.load_verify_locations(cadata=data.decode("ascii") if is_pem else data)
        except (ssl.SSLError, ValueError) as error:
            raise unusable(
                f"the trusted certificate {shown_as(trusted)} is neither PEM nor DER"
            ) from error


def _ask_for(
    context: ssl.SSLContext, security: SecurityParameters, versions: frozenset[str]
) -> None:
    """Versions, suites, groups, signature algorithms, application protocols, a key."""
    keyed = use_key(context, security, server=context.protocol is ssl.PROTOCOL_TLS_SERVER)
    suites = security.ciphersuite
    older = [name for name in suites if not name.startswith("TLS_")]
    newer = frozenset(suites) - frozenset(older)
    if keyed and not suites and hasattr(context, "set_ciphersuites"):
        # With a certificate beside it the order decides whether the key is used at all.
        _set_newer_ciphers(context, _KEYS_FIRST)
    if suites:
        if older and "TLSv1.2" in versions:
            _set_ciphers(context, older)
        # Without a suite of its own a version cannot be agreed on.
        versions = versions - ({"TLSv1.2"} if not older else set())
        versions = versions - ({"TLSv1.3"} if not newer else set())
        if not versions:
            raise unusable(
                f"ciphersuite: none of {', '.join(suites)} goes with the allowed protocols",
                "no-cipher",
            )
        if "TLSv1.3" in versions and newer != _SUITES_OF_1_3:
            _set_newer_ciphers(context, [name for name in suites if name in newer])
    elif keyed:
        usual = [each["name"] for each in context.get_ciphers()]
        _set_ciphers(context, [*SUITES, *(name for name in usual if not name.startswith("TLS_"))])
    context.minimum_version = min(VERSIONS[each] for each in versions)
    context.maximum_version = max(VERSIONS[each] for each in versions)
    # OpenSSL would let a peer of TLS 1.2 do it at any time.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if security.supported_group:
        _set_groups(context, security.supported_group)
    if security.signature_algorithm:
        _set_signatures(context, security.signature_algorithm)
    if security.alpn:
        try:
            context.set_alpn_protocols(list(security.alpn))
        except ssl.SSLError as error:
            raise unusable(f"alpn: {error.args[-1]}") from error
    if not sys.flags.ignore_environment and (path := os.environ.get("SSLKEYLOGFILE")):
        try:
            context.keylog_filename = path
        except OSError as error:
            raise unusable(
                f"SSLKEYLOGFILE: {path} cannot be written: {error.strerror}", "key-log"
            ) from error


def _set_ciphers(context: ssl.SSLContext, suites: Sequence[str]) -> None:
    try:
        context.set_ciphers(":".join(suites))
    except ssl.SSLError as error:
        raise _unknown_suite(suites) from error
    # OpenSSL ignores the names that it does not know, if it knows one.
    got = {each["name"] for each in context.get_ciphers()}
    strays = [name for name in suites if name not in got]
    if strays:
        raise _unknown_suite(strays)


def _unknown_suite(suites: Sequence[str]) -> EstablishmentError:
    return unusable(
        f"ciphersuite: OpenSSL has no {', '.join(suites)}; those of TLS 1.2 go by OpenSSL's "
        "names, such as ECDHE-RSA-AES128-GCM-SHA256",
        "no-cipher",
    )


# What follows is in ssl from Python 3.15 on: looked for by name, and never tried by halves.


def _set_newer_ciphers(context: ssl.SSLContext, suites: Sequence[str]) -> None:
    if not hasattr(context, "set_ciphersuites"):
        raise unusable(
            "ciphersuite: Python's ssl cannot choose among those of TLS 1.3 "
            "(SSLContext.set_ciphersuites, Python 3.15): name all of "
            f"{', '.join(sorted(_SUITES_OF_1_3))}, or allow TLSv1.2 alone",
            "unsupported-parameter",
        )
    try:
        context.set_ciphersuites(":".join(suites))
    except ssl.SSLError as error:
        raise unusable(f"ciphersuite: OpenSSL has no {', '.join(suites)}", "no-cipher") from error


def _set_groups(context: ssl.SSLContext, groups: Sequence[str]) -> None:
    try:
        if hasattr(context, "set_groups"):
            context.set_groups(":".join(groups))
        elif len(groups) == 1:
            context.set_ecdh_curve(_GROUPS.get(groups[0].lower(), groups[0]))
        else:
            raise unusable(
                "supportedGroup: Python's ssl takes one group "
                "(several: SSLContext.set_groups, Python 3.15)",
                "unsupported-parameter",
            )
    except (ValueError, ssl.SSLError) as error:
        raise unusable(f"supportedGroup: OpenSSL has no {', '.join(groups)}", "no-group") from error


def _set_signatures(context: ssl.SSLContext, algorithms: Sequence[str]) -> None:
    if not hasattr(context, "set_client_sigalgs") or not hasattr(context, "set_server_sigalgs"):
        raise unusable(
            "signatureAlgorithm: Python's ssl cannot restrict them "
            "(SSLContext.set_client_sigalgs and set_server_sigalgs, Python 3.15)",
            "unsupported-parameter",
        )
    try:
        context.set_client_sigalgs(":".join(algorithms))
        context.set_server_sigalgs(":".join(algorithms))
    except ssl.SSLError as error:
        raise unusable(
            f"signatureAlgorithm: OpenSSL has no {', '.join(algorithms)}", "no-signature-algorithm"
        ) from error
