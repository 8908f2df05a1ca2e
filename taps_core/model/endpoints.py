"""Local and Remote Endpoints (RFC 9622, section 6.1): frozen values.

An Endpoint holds at most one identifier of each type; several addresses are
several Endpoints. Nothing is resolved here.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.errors import PropertyError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from typing import Self, TypeAlias

    IpAddress: TypeAlias = str | bytes | IPv4Address | IPv6Address

__all__ = [
    "Endpoint",
    "LocalEndpoint",
    "RemoteEndpoint",
    "added",
    "canonical_address",
    "without",
]

E = TypeVar("E", bound="Endpoint")

#: Class and text → what that says, for the texts that were parsed lately.
_parsed: Final[dict[tuple[type, str], Any]] = {}
_REMEMBERED: Final = 256

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_IP: Final = frozenset({"ip"})
_MULTICAST: Final = frozenset({"multicast"})
#: Qualifiers that few Endpoints have; they share one slot.
_RARE: Final = (
    "stun_server",
    "multicast_group",
    "multicast_source",
    "hop_limit",
    "identifiers",
    "target",
)
_COMMON: Final = ("hostname", "ip_address", "port", "service", "interface", "protocol")


@lru_cache(maxsize=1024)
def canonical_address(text: str) -> str | None:
    """An IP address in its canonical text form (RFC 5952), ``None`` if it is none."""
    for family in (socket.AF_INET6,) if ":" in text else (socket.AF_INET,):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, text))
        except (OSError, ValueError):  # ValueError: a NUL byte
            return None
    return None


class Endpoint:
    """What Local and Remote Endpoints have in common. Compares by value.

    Every argument is optional.

    Args:
        hostname: A name, fully qualified; a numeric address given here is
            taken as ``ip_address``.
        ip_address: IPv4 or IPv6, as text, as 4 or 16 bytes, or an object of
            :mod:`ipaddress`; ``address%zone`` sets ``interface`` as well.
            Beside a hostname: the address to use, and the name to verify.
        port: 0 to 65535; on a Local Endpoint ``None`` or 0 is an ephemeral one.
        service: IANA service name or DNS SRV name; ``port`` goes before it.
        interface: Name of a network interface. Binds a Local Endpoint; on a
            Remote Endpoint it is the zone of a link-local address.
        protocol: Name of the only transport that this Endpoint is for.
        stun_server: ``(address, port)`` or ``(address, port, credentials)``.
        multicast_group: Address of the group.
        multicast_source: The only source to accept from (Local Endpoints).
        hop_limit: TTL or hop limit, 0 to 255.
        identifiers: A plugin's own kinds of address, ``{"_unix.path": "/run/x"}``;
            names carry a namespace, values can be hashed.
        target: Where the service's records (SRV, SVCB, HTTPS) say that it is, by name; what
            resolvers say of addresses that are not ``hostname``'s own.

    Raises:
        PropertyError: A value that cannot be.
    """

    __slots__ = (
        "_hash",
        "_hostname",
        "_interface",
        "_ip_address",
        "_kinds",
        "_port",
        "_protocol",
        "_rare",
        "_service",
    )

    def __init__(
        self,
        *,
        hostname: str | None = None,
        ip_address: IpAddress | None = None,
        port: int | None = None,
        service: str | None = None,
        interface: str | None = None,
        protocol: str | None = None,
        stun_server: tuple[Any, ...] | None = None,
        multicast_group: IpAddress | None = None,
        multicast_source: IpAddress | None = None,
        hop_limit: int | None = None,
        identifiers: Mapping[str, Any] | None = None,
        target: str | None = None,
    ) -> None:
        self._interface = None if interface is None else _text("interface", interface)
        if hostname is not None:
            literal = canonical_address(_text("hostname", hostname).partition("%")[0])
            if literal is not None and ip_address is None:
                hostname, ip_address = None, hostname
        self._hostname = hostname
        self._ip_address = None if ip_address is None else self._address(ip_address)
        if port is not None and (type(port) is not int or not 0 <= port <= 65535):
            raise PropertyError(f"port: {port!r} is not an integer from 0 to 65535")
        self._port = port
        self._service = None if service is None else _text("service", service)
        self._protocol = None if protocol is None else _text("protocol", protocol).lower()
        self._rare: dict[str, Any] | None = None
        if (
            stun_server is not None
            or multicast_group is not None
            or multicast_source is not None
            or hop_limit is not None
            or identifiers
            or target is not None
        ):
            self._rare = _check_rare(
                stun_server, multicast_group, multicast_source, hop_limit, identifiers
            )
            self._rare["target"] = None if target is None else _text("target", target)
        self._hash: int | None = None
        self._kinds: frozenset[str] | None = None

    def _address(self, address: IpAddress) -> str:
        text, _, zone = _address_text("ip_address", address).partition("%")
        canonical = canonical_address(text)
        if canonical is None:
            raise PropertyError(f"ip_address: {text!r} is neither an IPv4 nor an IPv6 address")
        if zone:
            if self._interface not in (None, zone):
                raise PropertyError(
                    f"ip_address: zone {zone!r} contradicts interface {self._interface!r}"
                )
            self._interface = zone
        return canonical

    # -- reading

    @property
    def hostname(self) -> str | None:
        """The name to resolve, and to verify."""
        return self._hostname

    @property
    def ip_address(self) -> str | None:
        """The address in canonical text form, without a zone."""
        return self._ip_address

    @property
    def port(self) -> int | None:
        """The port."""
        return self._port

    @property
    def service(self) -> str | None:
        """The service name."""
        return self._service

    @property
    def interface(self) -> str | None:
        """The interface to bind to, or the zone."""
        return self._interface

    @property
    def protocol(self) -> str | None:
        """The only transport that this Endpoint is for, in lower case."""
        return self._protocol

    @property
    def stun_server(self) -> tuple[Any, ...] | None:
        """``(address, port)`` or ``(address, port, credentials)``."""
        return (self._rare or _NOTHING).get("stun_server")

    @property
    def multicast_group(self) -> str | None:
        """The multicast group's address."""
        return (self._rare or _NOTHING).get("multicast_group")

    @property
    def multicast_source(self) -> str | None:
        """The only source to accept from."""
        return (self._rare or _NOTHING).get("multicast_source")

    @property
    def hop_limit(self) -> int | None:
        """TTL or hop limit."""
        return (self._rare or _NOTHING).get("hop_limit")

    @property
    def identifiers(self) -> Mapping[str, Any]:
        """A plugin's own kinds of address, by name; read-only."""
        found: Mapping[str, Any] = (self._rare or _NOTHING).get("identifiers", _NOTHING)
        return found

    @property
    def target(self) -> str | None:
        """The name of the host that the service's records lead to, where they do."""
        return (self._rare or _NOTHING).get("target")

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of identifier that reach it, as ``Transport.serves`` names them.

        ``"ip"`` for names, addresses, ports and services, ``"multicast"`` for
        a group, a plugin's own; empty where nothing but an interface or a
        protocol is said.
        """
        kinds = self._kinds
        if kinds is None:
            if self.multicast_group is not None:
                kinds = _MULTICAST
            elif (self._hostname, self._ip_address, self._port, self._service) != (None,) * 4:
                kinds = _IP
            else:
                kinds = frozenset()
            if self.identifiers:
                kinds |= self.identifiers.keys()
            self._kinds = kinds
        return kinds

    @property
    def needs_resolution(self) -> bool:
        """Whether a resolver has something to add: an address, or a port for a service."""
        if self._ip_address is None and self._hostname is not None:
            return True
        return self._port is None and self._service is not None

    # -- changed copies

    def _with(self, **changes: Any) -> Self:
        known = {name: getattr(self, "_" + name) for name in _COMMON}
        return type(self)(**{**known, **(self._rare or {}), **changes})

    def with_hostname(self, hostname: str | None) -> Self:
        """A copy with this name."""
        return self._with(hostname=hostname)

    def with_ip_address(self, ip_address: IpAddress | None) -> Self:
        """A copy with this address; ``address%zone`` replaces the interface as well."""
        if ip_address is not None and "%" in _address_text("ip_address", ip_address):
            return self._with(ip_address=ip_address, interface=None)
        return self._with(ip_address=ip_address)

    def with_port(self, port: int | None) -> Self:
        """A copy with this port."""
        return self._with(port=port)

    def with_service(self, service: str | None) -> Self:
        """A copy with this service name."""
        return self._with(service=service)

    def with_interface(self, interface: str | None) -> Self:
        """A copy with this interface."""
        return self._with(interface=interface)

    def with_protocol(self, protocol: str | None) -> Self:
        """A copy that is for this transport only."""
        return self._with(protocol=protocol)

    def with_hop_limit(self, hop_limit: int | None) -> Self:
        """A copy with this TTL or hop limit."""
        return self._with(hop_limit=hop_limit)

    def with_identifier(self, name: str, value: Any) -> Self:
        """A copy with one of a plugin's own identifiers."""
        return self._with(identifiers={**self.identifiers, name: value})

    def with_target(self, target: str | None) -> Self:
        """A copy that is at this host, as its service's records say."""
        return self._with(target=target)

    # -- text

    @classmethod
    def parse(cls, text: str) -> Self:
        """From text: what ``str()`` gives, in particular.

        ``"example.net:443"``, ``"example.net:https"``, ``":7000"``,
        ``"192.0.2.1"``, ``"[2001:db8::1]:80"``, ``"fe80::1%eth0"``,
        ``"_unix.path=/run/x"``.

        Raises:
            PropertyError: It is none of these.
            TypeError: It is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"an endpoint is made of text, not {text!r}")
        # Endpoints never change, and whoever connects connects again.
        known: Self | None = _parsed.get((cls, text))
        if known is None:
            known = cls._parse(text.strip())
            if len(_parsed) >= _REMEMBERED:
                _parsed.clear()
            _parsed[cls, text] = known
        return known

    @classmethod
    def _parse(cls, text: str) -> Self:
        name, equals, value = text.partition("=")
        if equals and name.startswith("_") and "." in name:
            return cls(identifiers={name: value})
        if "/" in text or not text:
            hint = "; a URL is not an endpoint" if "//" in text else ""
            raise PropertyError(f"{text!r} is not host:port{hint}")
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise PropertyError(f"{text!r} is not [address]:port")
            if canonical_address(host.partition("%")[0]) is None:
                raise PropertyError(f"{text!r}: {host!r} is not an IPv6 address")
            port = rest[1:] if rest else None
        elif text.count(":") > 1:
            if canonical_address(text.partition("%")[0]) is None:
                raise PropertyError(
                    f"{text!r} is not host:port; an IPv6 address with a port is [address]:port"
                )
            host, port = text, None
        else:
            host, colon, after = text.partition(":")
            port = after if colon else None
        if port is None:
            return cls(hostname=host)
        if port.isascii() and port.isdigit():
            return cls(hostname=host or None, port=int(port))
        if not port:
            raise PropertyError(f"{text!r}: nothing follows the colon")
        if not any(each.isascii() and each.isalpha() for each in port):
            # RFC 6335, section 5.1: a service's name has a letter.
            raise PropertyError(f"{text!r}: {port!r} is neither a port nor a service")
        return cls(hostname=host or None, service=port)

    @classmethod
    def coerce(cls, value: Any) -> Self:
        """``value`` itself, or what its text says.

        Raises:
            PropertyError: Text that is no endpoint.
            TypeError: Anything else.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise TypeError(f"{cls.__name__} or text such as 'host:port' expected, not {value!r}")

    @classmethod
    def coerce_all(cls, value: Any) -> tuple[Self, ...]:
        """One or several of what :meth:`coerce` takes; none for ``None``."""
        if value is None:
            return ()
        if type(value) is str:
            return (cls.parse(value),)
        if isinstance(value, (str, Endpoint)) or not isinstance(value, Iterable):
            return (cls.coerce(value),)
        return tuple(cls.coerce(each) for each in value)

    def __str__(self) -> str:
        if self.multicast_group is not None:
            host: str | None = self.multicast_group
        else:
            host = self._hostname or self._ip_address
        if host is None and self.identifiers:
            return " ".join(f"{name}={value}" for name, value in self.identifiers.items())
        if host is None:
            host = ""
        elif self._interface is not None and host == self._ip_address:
            host = f"{host}%{self._interface}"
        port = self._service if self._port is None else self._port
        if port is None:
            return host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __repr__(self) -> str:
        known = {name: getattr(self, "_" + name) for name in _COMMON}
        known |= self._rare or {}
        if self.stun_server is not None:
            known["stun_server"] = self.stun_server[:2]  # the rest is secret
        if self.identifiers:
            known["identifiers"] = dict(self.identifiers)
        listed = ", ".join(f"{n}={v!r}" for n, v in known.items() if v is not None)
        return f"{type(self).__name__}({listed})"

    def _value(self) -> tuple[Any, ...]:
        rare = self._rare
        if rare is not None:
            rare = tuple(  # type: ignore[assignment]  # a form that can be hashed
                frozenset(rare[name].items()) if name == "identifiers" else rare[name]
                for name in _RARE
            )
        return (
            self._ip_address,
            self._port,
            self._hostname,
            self._service,
            self._interface,
            self._protocol,
            rare,
        )

    def __eq__(self, other: object) -> bool:
        if type(other) is type(self):
            return self is other or self._value() == other._value()
        return NotImplemented

    def __hash__(self) -> int:
        value = self._hash
        if value is None:
            value = self._hash = hash(self._value())
        return value


class LocalEndpoint(Endpoint):
    """Where to connect from, or to listen; arguments as :class:`Endpoint`."""

    __slots__ = ()

    def with_stun_server(self, address: str, port: int, credentials: Any = None) -> Self:
        """A copy with a STUN server, for Rendezvous."""
        return self._with(stun_server=(address, port, credentials))

    def with_any_source_multicast_group(self, group: IpAddress) -> Self:
        """A copy that receives what anybody sends to the group."""
        return self._with(multicast_group=group, multicast_source=None)

    def with_single_source_multicast_group(self, group: IpAddress, source: IpAddress) -> Self:
        """A copy that receives what this source sends to the group."""
        return self._with(multicast_group=group, multicast_source=source)


class RemoteEndpoint(Endpoint):
    """Whom to reach; arguments as :class:`Endpoint`."""

    __slots__ = ()

    def with_multicast_group(self, group: IpAddress) -> Self:
        """A copy that is a group to send to."""
        return self._with(multicast_group=group)


def added(endpoints: Iterable[E], more: Iterable[E]) -> tuple[E, ...]:
    """``endpoints``, then those of ``more`` that are not among them, each once."""
    return tuple(dict.fromkeys((*endpoints, *more)))


def without(endpoints: Iterable[E], others: Iterable[E]) -> tuple[E, ...]:
    """``endpoints`` but for ``others``."""
    gone = frozenset(others)
    return tuple(endpoint for endpoint in endpoints if endpoint not in gone)


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise PropertyError(f"{what}: one string expected, not {value!r}")
    if not value or not value.isprintable() or " " in value:
        raise PropertyError(f"{what}: {value!r} is empty or holds blanks or control characters")
    return value


def _address_text(what: str, address: Any) -> str:
    if isinstance(address, str):
        return address
    if isinstance(address, bytes) and len(address) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    if type(address).__module__ == "ipaddress" and hasattr(address, "packed"):
        return str(address)
    raise PropertyError(f"{what}: one IP address expected, not {address!r}")


def _group_address(what: str, address: Any) -> str:
    text = _address_text(what, address)
    canonical = canonical_address(text)
    if canonical is None:
        raise PropertyError(f"{what}: {text!r} is neither an IPv4 nor an IPv6 address")
    return canonical


def _is_multicast(address: str) -> bool:
    if ":" in address:
        return address.startswith("ff") and len(address.partition(":")[0]) == 4
    return 224 <= int(address.partition(".")[0]) <= 239


def _check_rare(
    stun_server: Any, group: Any, source: Any, hop_limit: Any, identifiers: Any
) -> dict[str, Any]:
    if stun_server is not None:
        match stun_server:
            case (str(), int(port)) | (str(), int(port), _) if 0 < port <= 65535:
                stun_server = tuple(stun_server)
            case _:
                raise PropertyError("stun_server: (address, port) or (address, port, credentials)")
    if group is not None:
        group = _group_address("multicast_group", group)
        if not _is_multicast(group):
            raise PropertyError(f"multicast_group: {group} is not a multicast address")
    if source is not None:
        source = _group_address("multicast_source", source)
        if group is None:
            raise PropertyError("multicast_source needs a multicast_group")
    if hop_limit is not None and (type(hop_limit) is not int or not 0 <= hop_limit <= 255):
        raise PropertyError(f"hop_limit: {hop_limit!r} is not an integer from 0 to 255")
    checked: dict[str, Any] = {}
    if not isinstance(identifiers or {}, Mapping):
        raise PropertyError(f"identifiers: a mapping of names to values, not {identifiers!r}")
    for name, value in (identifiers or {}).items():
        namespace, dot, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
        if not (namespace.strip("_") and dot and rest):
            raise PropertyError(
                f"identifiers: {name!r} has no namespace; a plugin's own looks like '_unix.path'"
            )
        try:
            hash(value)
        except TypeError:
            raise PropertyError(f"identifiers: {name}: {value!r} cannot be hashed") from None
        checked[name] = value
    return {
        "stun_server": stun_server,
        "multicast_group": group,
        "multicast_source": source,
        "hop_limit": hop_limit,
        "identifiers": MappingProxyType(checked),
    }
