"""Security parameters (RFC 9622, section 6.3): values only.

What they mean for a protocol is the business of security layers and of
transports with security of their own. Secrets never appear in a ``repr``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, overload

from taps_core.model.errors import PropertyError
from taps_core.model.properties import nearest

if TYPE_CHECKING:
    from typing import Self, TypeAlias, Unpack

    from taps_core.model.keywords import SecurityKeywords

    #: A PEM file (as a path), or PEM or DER content (as bytes).
    Pem: TypeAlias = str | os.PathLike[str] | bytes
    #: Certificates of the package cryptography, whatever has their ``public_bytes``.
    Object: TypeAlias = "HasPublicBytes | Iterable[HasPublicBytes]"
    #: A chain as it is kept: a path, content, or objects of cryptography.
    Chain: TypeAlias = "str | bytes | tuple[HasPublicBytes, ...]"

T = TypeVar("T")

__all__ = [
    "SECURITY_PARAMETERS",
    "Certificate",
    "HasPrivateBytes",
    "HasPublicBytes",
    "SecurityMode",
    "SecurityParameters",
    "security_parameter",
    "snake_case",
]


class SecurityMode(Enum):
    """What is wanted at all."""

    __hash__ = object.__hash__  # Enum's is a Python function, and these are keys

    REQUIRED = "required"
    """Encrypted and authenticated, or no Connection."""
    OPPORTUNISTIC = "opportunistic"
    """Encrypted without authentication if possible, else plaintext."""
    DISABLED = "disabled"
    """No security is added."""


class HasPublicBytes(Protocol):
    """A certificate, as the package cryptography has them (``x509.Certificate``)."""

    def public_bytes(self, encoding: Any) -> bytes:
        """The certificate in an encoding of cryptography."""


class HasPrivateBytes(Protocol):
    """A private key, as the package cryptography has them."""

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002  # cryptography's word
        """The key in an encoding of cryptography."""


class Certificate:
    """A local identity: certificate chain and private key.

    Args:
        chain: PEM file, content as bytes, or ``x509.Certificate`` objects of the package
            cryptography: the leaf first.
        key: PEM file, content as bytes, or a private key of cryptography; ``None`` if it
            is in the chain's file, or held by an identity challenge callback.
        password: Decrypts the key.
    """

    __slots__ = ("_chain", "_key", "_password")

    def __init__(
        self,
        chain: Pem | Object,
        key: Pem | HasPrivateBytes | None = None,
        password: str | bytes | None = None,
    ) -> None:
        self._chain = _chain("chain", chain)
        self._key = None if key is None else _key(key)
        if password is not None and not isinstance(password, (str, bytes)):
            raise PropertyError("password: a string or bytes expected")
        self._password = password

    @property
    def chain(self) -> Chain:
        """Path of a PEM file, content, or objects of cryptography."""
        return self._chain

    @property
    def key(self) -> str | bytes | HasPrivateBytes | None:
        """Path of a PEM file, content, or an object of cryptography."""
        return self._key

    @property
    def password(self) -> str | bytes | None:
        """Decrypts the key."""
        return self._password

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Certificate):
            return (self._chain, self._key, self._password) == (
                other._chain,
                other._key,
                other._password,
            )
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._chain, self._key))

    def __repr__(self) -> str:
        # The key may be content, and even a path tells where to look for it.
        hidden = "" if self._key is None else ", key=<hidden>"
        return f"Certificate({_shown(self._chain)}{hidden})"


def _pem(value: Any) -> str | bytes | None:
    if isinstance(value, (str, bytes)):
        return value
    return os.fsdecode(value) if isinstance(value, os.PathLike) else None


def _chain(what: str, value: Any) -> Chain:
    pem = _pem(value)
    if pem is not None:
        return pem
    # By what they can do: the model must not import cryptography.
    objects = tuple(value) if isinstance(value, Iterable) else (value,)
    if objects and all(hasattr(each, "public_bytes") for each in objects):
        return objects
    raise PropertyError(
        f"{what}: a path, bytes or x509.Certificate objects expected, not {type(value).__name__}"
    )


def _key(value: Any) -> str | bytes | HasPrivateBytes:
    pem = _pem(value)
    if pem is not None:
        return pem
    if hasattr(value, "private_bytes"):
        made: HasPrivateBytes = value
        return made
    raise PropertyError(
        f"key: a path, bytes or a private key object expected, not {type(value).__name__}"
    )


def _shown(chain: Chain) -> str:
    if isinstance(chain, str):
        return repr(chain)
    return "<content>" if isinstance(chain, bytes) else "<objects>"


# -- what each parameter takes: (name, values given to set) → stored value


def _flat(values: tuple[Any, ...]) -> tuple[Any, ...]:
    # set("alpn", "h2", "http/1.1") and set("alpn", ["h2", "http/1.1"]) are the same.
    if len(values) == 1 and not isinstance(values[0], (str, bytes, os.PathLike, Certificate)):
        if values[0] is None:
            return ()
        if isinstance(values[0], Iterable):
            return tuple(values[0])
    return values


def _names(name: str, values: tuple[Any, ...]) -> tuple[str, ...]:
    listed = _flat(values)
    for each in listed:
        if not isinstance(each, str) or not each:
            raise PropertyError(f"{name}: names expected, not {each!r}")
    return listed


def _identities(name: str, values: tuple[Any, ...]) -> tuple[Certificate, ...]:
    listed = _flat(values)
    for each in listed:
        if not isinstance(each, Certificate):
            raise PropertyError(f"{name}: Certificate(chain, key) expected, not a bare value")
    return listed


def _chains(name: str, values: tuple[Any, ...]) -> tuple[Chain, ...]:
    return tuple(
        each.chain if isinstance(each, Certificate) else _chain(name, each)
        for each in _flat(values)
    )


def _count(name: str, values: tuple[Any, ...]) -> int | None:
    (value,) = values if len(values) == 1 else (values,)
    if value is not None and (type(value) is not int or value < 0):
        raise PropertyError(f"{name}: an integer of at least 0 expected, not {value!r}")
    return value


def _key_and_identity(name: str, values: tuple[Any, ...]) -> tuple[bytes, str | bytes] | None:
    if len(values) == 1:
        if values[0] is None:
            return None
        values = tuple(values[0]) if isinstance(values[0], (tuple, list)) else values
    match values:
        case (bytes(key), str(identity) | bytes(identity)) if key:
            return key, identity
    # The value is not shown: it is or holds a secret.
    raise PropertyError(f"{name}: a key (bytes) and its identity (str or bytes) expected")


def _anything(name: str, values: tuple[Any, ...]) -> Any:
    if len(values) != 1:
        raise PropertyError(f"{name}: one value expected")
    return values[0]


#: Canonical name → (what checks it, default, one line). ``None`` and ``()``
#: stand for «automatic»: the best the security layer has. The last two are
#: not the RFC's.
SECURITY_PARAMETERS: Final[dict[str, tuple[Callable[[str, tuple[Any, ...]], Any], Any, str]]] = {
    "allowedSecurityProtocols": (_names, (), "Protocols and versions that may be used."),
    "serverCertificate": (_identities, (), "Local identity when accepting."),
    "clientCertificate": (_identities, (), "Local identity when initiating; for nothing else."),
    "pinnedServerCertificate": (_chains, (), "Chains that the server must match."),
    "alpn": (_names, (), "Application protocols offered (RFC 7301)."),
    "supportedGroup": (_names, (), "Key-exchange groups allowed."),
    "ciphersuite": (_names, (), "Cipher suites allowed."),
    "signatureAlgorithm": (_names, (), "Signature algorithms allowed."),
    "maxCachedSessions": (_count, None, "Sessions kept for resumption."),
    "cachedSessionLifetimeSeconds": (_count, None, "How long a kept session stays usable."),
    "preSharedKey": (_key_and_identity, None, "Key installed out of band, and its identity."),
    "trustedCertificates": (_chains, (), "Private authorities in place of the system's store."),
    "context": (_anything, None, "A security layer's own settings, such as an ssl.SSLContext."),
}


def snake_case(name: str) -> str:
    """The keyword for a canonical name."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


_SPELLINGS: Final = {
    spelling: name
    for name in SECURITY_PARAMETERS
    for spelling in (name, snake_case(name), _folded(name))
}


def security_parameter(name: str) -> str:
    """The canonical name of a security parameter, whatever the spelling.

    Raises:
        PropertyError: There is none.
    """
    if not isinstance(name, str):
        raise PropertyError(f"the name of a security parameter is a string, not {name!r}")
    found = _SPELLINGS.get(name) or _SPELLINGS.get(_folded(name))
    if found is None:
        near = nearest(name, map(snake_case, SECURITY_PARAMETERS))
        raise PropertyError(f"there is no security parameter {name!r}{near}")
    return found


class _Parameter(Generic[T]):
    """Reads one parameter, or its default."""

    def __init__(self, name: str) -> None:
        self._name = name
        _, self._default, self.__doc__ = SECURITY_PARAMETERS[name]

    @overload
    def __get__(self, instance: None, owner: type[SecurityParameters]) -> Self: ...
    @overload
    def __get__(self, instance: SecurityParameters, owner: type[SecurityParameters]) -> T: ...
    def __get__(
        self, instance: SecurityParameters | None, owner: type[SecurityParameters]
    ) -> Self | T:
        if instance is None:
            return self
        value: T = instance._values.get(self._name, self._default)  # noqa: SLF001  # of the same module
        return value


#: Parameters with something that this end alone may know.
_PRIVATE: Final = ("preSharedKey", "serverCertificate", "clientCertificate", "context")


class SecurityParameters:
    """What security is wanted; without arguments: secure defaults.

    Keywords are the RFC's parameters in snake_case, ``trusted_certificates``
    and ``context``.

    Raises:
        PropertyError: A parameter that does not exist, or a value it cannot have.
    """

    __slots__ = ("_challenge", "_mode", "_trust", "_values")

    def __init__(self, **parameters: Unpack[SecurityKeywords]) -> None:
        self._mode = SecurityMode.REQUIRED
        self._values: dict[str, Any] = {}
        self._trust: Callable[..., Any] | None = None
        self._challenge: Callable[..., Any] | None = None
        for name, value in parameters.items():
            self.set(name, value)

    @classmethod
    def disabled(cls) -> Self:
        """No security is added. A transport that secures itself still does."""
        parameters = cls()
        parameters._mode = SecurityMode.DISABLED
        return parameters

    @classmethod
    def opportunistic(cls, **parameters: Unpack[SecurityKeywords]) -> Self:
        """Encryption without authentication if it can be had, plaintext otherwise.

        No plaintext, though, where the peer is to be judged by pins or the trust
        verification callback.
        """
        made = cls(**parameters)
        made._mode = SecurityMode.OPPORTUNISTIC
        return made

    @classmethod
    def coerce(cls, value: Any) -> SecurityParameters:
        """A copy of ``value``; secure defaults for ``None``.

        An ``ssl.SSLContext`` becomes the ``context`` of secure defaults.

        Raises:
            TypeError: It is something else.
        """
        if value is None:
            return cls()
        if isinstance(value, SecurityParameters):
            return value.copy()
        # By name: the model must not import ssl, whose objects these are.
        if any(
            kind.__module__ == "ssl" and kind.__name__ == "SSLContext"
            for kind in type(value).__mro__
        ):
            return cls(context=value)
        raise TypeError(
            "SecurityParameters or an ssl.SSLContext expected, "
            f"not {type(value).__name__}; to go without: SecurityParameters.disabled()"
        )

    def set(self, name: str, *values: Any) -> Self:
        """Set a parameter: ``set("alpn", "h2", "http/1.1")``, ``set("preSharedKey", key, id)``.

        Raises:
            PropertyError: No such parameter, a value that it cannot have, or
                security is disabled.
        """
        canonical = security_parameter(name)
        if self._mode is SecurityMode.DISABLED:
            raise PropertyError(
                f"{canonical}: security is disabled here, it would be without effect"
            )
        if not values:
            raise PropertyError(f"{canonical}: a value is missing")
        self._values[canonical] = SECURITY_PARAMETERS[canonical][0](canonical, values)
        return self

    def get(self, name: str) -> Any:
        """The value of a parameter, or its default.

        Raises:
            PropertyError: No such parameter.
        """
        canonical = security_parameter(name)
        return self._values.get(canonical, SECURITY_PARAMETERS[canonical][1])

    def set_trust_verification_callback(self, callback: Callable[..., Any] | None) -> Self:
        """Called when the peer's identity is to be judged (section 6.3.8).

        Establishment waits for it. What it returns must be true (a coroutine function's, too):
        anything else, and an exception, ends it.
        """
        self._trust = _callback(callback)
        return self

    def set_identity_challenge_callback(self, callback: Callable[..., Any] | None) -> Self:
        """Called when this end has to show who it is (section 6.3.8).

        With what, and what it returns, is the security layer's to say: TLS and DTLS take a
        Certificate with its key. Establishment waits for it; an exception ends it.
        """
        self._challenge = _callback(callback)
        return self

    @property
    def explicit(self) -> Mapping[str, Any]:
        """What was set, by canonical name. A view."""
        return MappingProxyType(self._values)

    @property
    def mode(self) -> SecurityMode:
        """What is wanted at all."""
        return self._mode

    allowed_security_protocols = _Parameter[tuple[str, ...]]("allowedSecurityProtocols")
    server_certificate = _Parameter[tuple[Certificate, ...]]("serverCertificate")
    client_certificate = _Parameter[tuple[Certificate, ...]]("clientCertificate")
    pinned_server_certificate = _Parameter[tuple["Chain", ...]]("pinnedServerCertificate")
    alpn = _Parameter[tuple[str, ...]]("alpn")
    supported_group = _Parameter[tuple[str, ...]]("supportedGroup")
    ciphersuite = _Parameter[tuple[str, ...]]("ciphersuite")
    signature_algorithm = _Parameter[tuple[str, ...]]("signatureAlgorithm")
    max_cached_sessions = _Parameter[int | None]("maxCachedSessions")
    cached_session_lifetime_seconds = _Parameter[int | None]("cachedSessionLifetimeSeconds")
    pre_shared_key = _Parameter[tuple[bytes, str | bytes] | None]("preSharedKey")
    trusted_certificates = _Parameter[tuple["Chain", ...]]("trustedCertificates")
    context = _Parameter[Any]("context")

    @property
    def trust_verification_callback(self) -> Callable[..., Any] | None:
        """What judges the peer's identity."""
        return self._trust

    @property
    def judges_peer(self) -> bool:
        """Whether the application has its own say about who the peer is: by pins or callback."""
        return self._trust is not None or bool(self._values.get("pinnedServerCertificate"))

    @property
    def identity_challenge_callback(self) -> Callable[..., Any] | None:
        """What supplies this end's identity on demand."""
        return self._challenge

    def copy(self) -> SecurityParameters:
        """An independent copy."""
        parameters = object.__new__(SecurityParameters)
        parameters._mode = self._mode
        parameters._values = self._values.copy()
        parameters._trust = self._trust
        parameters._challenge = self._challenge
        return parameters

    @property
    def key(self) -> tuple[Any, ...] | None:
        """The same for equal parameters, and hashable; ``None`` where nobody is to keep it.

        That is where they hold secrets, or call the application back.
        """
        values = self._values
        if self._trust is not None or self._challenge is not None:
            return None
        if not values:
            return (self._mode,)
        if not values.keys().isdisjoint(_PRIVATE):
            return None
        return (self._mode, *values.items())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SecurityParameters):
            return (
                self._mode is other._mode
                and self._values == other._values
                and self._trust == other._trust
                and self._challenge == other._challenge
            )
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        listed = [] if self._mode is SecurityMode.REQUIRED else [self._mode.value]
        for name, value in self._values.items():
            if name == "preSharedKey" and value is not None:
                shown = f"(<hidden>, {value[1]!r})"
            elif name in ("pinnedServerCertificate", "trustedCertificates"):
                shown = f"({', '.join(map(_shown, value))})"
            else:
                shown = repr(value)
            listed.append(f"{snake_case(name)}={shown}")
        return f"SecurityParameters({', '.join(listed)})"


def _callback(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if callback is not None and not callable(callback):
        raise PropertyError(f"a callback can be called, {callback!r} cannot")
    return callback
