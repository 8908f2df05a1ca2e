"""What would be offered to a peer, in words: for ``taps-plugins explain``. Nothing is sent."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from taps_core.plugin import EstablishmentError, Offer, SecurityMode, SecurityParameters
from taps_tls.certificates import day, self_signed, subject, when_valid
from taps_tls.identity import chain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taps_core.plugin import Certificate
    from taps_tls.contexts import Contexts

__all__ = ["offered"]


class _Offering(Protocol):
    """Settings that tell what they let be agreed on."""

    def offers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Versions and cipher suites, each the best first."""


S = TypeVar("S", bound=_Offering)

_CERTIFICATE: Final = "serverCertificate"
#: What others depend on is tried before them.
_FIRST: Final = ("context", "allowedSecurityProtocols", _CERTIFICATE)


def offered(contexts: Contexts[S], security: SecurityParameters, *, server: bool) -> Offer:
    """What is offered with these parameters, as far as they can be honoured.

    Args:
        contexts: Of the layer.
        security: What the application wants.
        server: Whether this end is the server.
    """
    settings, accepted, refusals = _tried(contexts, security, server)
    versions, suites = settings.offers()
    return Offer(
        protocols=versions,
        ciphersuites=suites,
        groups=accepted.supported_group or None,
        signature_algorithms=accepted.signature_algorithm or None,
        alpn=accepted.alpn,
        certificate="none" if _CERTIFICATE in refusals else _certificate(accepted, server),
        trust="; ".join(_trust(accepted, server)),
        refusals=refusals,
    )


def _tried(
    contexts: Contexts[S], security: SecurityParameters, server: bool
) -> tuple[S, SecurityParameters, dict[str, str]]:
    """Settings, the parameters that they honour, and why they do not honour the others."""
    with contextlib.suppress(EstablishmentError):
        return contexts.of(security, server=server), security, {}
    accepted, refusals = _added(contexts, security, server)
    try:
        return contexts.of(accepted, server=server), accepted, refusals
    except EstablishmentError as error:
        # No certificate to show. What else there is to say is said as if there were one.
        accepted, more = _added(contexts, security, server, self_signed("explain"))
        refusals = {_CERTIFICATE: str(error), **more}
        return contexts.of(accepted, server=server), accepted, refusals


def _added(
    contexts: Contexts[S],
    security: SecurityParameters,
    server: bool,
    identity: Certificate | None = None,
) -> tuple[SecurityParameters, dict[str, str]]:
    """One parameter after the other: those that can be honoured together, and why not the rest."""
    accepted = SecurityParameters()
    if security.mode is SecurityMode.OPPORTUNISTIC:
        accepted = SecurityParameters.opportunistic()
    if identity is not None:
        accepted.set(_CERTIFICATE, identity)
    refusals: dict[str, str] = {}
    for name, add in _steps(security):
        more = add(accepted.copy())
        try:
            contexts.of(more, server=server)
        except EstablishmentError as error:
            if error.detail != "no-server-certificate":  # another parameter may bring one
                refusals[name] = str(error)
                continue
        accepted = more
    return accepted, refusals


def _steps(
    security: SecurityParameters,
) -> Iterator[tuple[str, Callable[[SecurityParameters], SecurityParameters]]]:
    explicit = security.explicit
    for name in dict.fromkeys((*_FIRST, *explicit)):
        if name in explicit:
            yield name, _setter(name, explicit[name])
    if security.trust_verification_callback is not None:
        judge = security.trust_verification_callback
        yield "trust verification callback", lambda s: s.set_trust_verification_callback(judge)
    if security.identity_challenge_callback is not None:
        ask = security.identity_challenge_callback
        yield "identity challenge callback", lambda s: s.set_identity_challenge_callback(ask)


def _setter(name: str, value: Any) -> Callable[[SecurityParameters], SecurityParameters]:
    return lambda parameters: parameters.set(name, value)


# -- in words


def _certificate(security: SecurityParameters, server: bool) -> str:
    mine = security.server_certificate if server else security.client_certificate
    to_whom = "" if server else ", to a server that asks for one"
    if security.identity_challenge_callback is not None:
        return f"what the identity challenge callback gives{to_whom}"
    if security.context is not None:
        return f"what the SSLContext holds{to_whom}"
    if mine:
        return f"{', or '.join(map(_described, mine))}{to_whom}"
    if not server:
        return "none, whoever asks"
    if security.mode is SecurityMode.OPPORTUNISTIC:
        return "one signed by itself, that nobody trusts"
    return "none, as there is a pre-shared key"


def _described(certificate: Certificate) -> str:
    leaf = chain_of(certificate.chain)[0]
    return f"that of {subject(leaf)}, valid until {day(when_valid(leaf)[1])}"


def _trust(security: SecurityParameters, server: bool) -> Iterator[str]:
    trusted = security.trusted_certificates
    if security.pre_shared_key is not None:
        yield "whoever has the pre-shared key"
    if security.context is not None:
        yield "as the SSLContext says"
    elif security.mode is SecurityMode.OPPORTUNISTIC:
        yield "anybody: nobody is verified"
    elif trusted:
        whom = "clients that show a certificate of" if server else "in place of the system's store"
        yield f"{whom}: {', '.join(map(_authority, trusted))}"
    elif server:
        yield "anybody: clients are not asked for a certificate"
    else:
        yield f"the system's store ({_system_store()})"
    if security.pinned_server_certificate and not server:
        yield f"of what is shown, one of {len(security.pinned_server_certificate)} pinned chains"
    if security.trust_verification_callback is not None:
        yield "whom the trust verification callback approves"


def _authority(trusted: Any) -> str:
    return trusted if isinstance(trusted, str) else ", ".join(map(subject, chain_of(trusted)))


def _system_store() -> str:
    paths = ssl.get_default_verify_paths()
    found = [path for path in (paths.cafile, paths.capath) if path is not None]
    return ", ".join(found) or "empty"
