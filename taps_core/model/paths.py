"""What paths are made of: interfaces with their addresses, and Provisioning Domains. Values.

RFC 9622, sections 6.2.11 and 6.2.12; RFC 7556 for Provisioning Domains.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

__all__ = [
    "Interface",
    "InterfaceAddress",
    "InterfaceType",
    "ProvisioningDomain",
    "is_link_local",
    "is_loopback",
    "type_named",
]


class InterfaceType(StrEnum):
    """What an interface is, as far as its system tells. It says nothing about cost."""

    WIRED = "wired"
    """Ethernet, or what behaves like it: a bridge, one end of a virtual cable."""
    WIFI = "wifi"
    CELLULAR = "cellular"
    LOOPBACK = "loopback"
    TUNNEL = "tunnel"
    """A VPN, or another network inside a network."""
    OTHER = "other"
    """The system does not tell."""


#: What the ``interface`` property may call a type, folded.
_WORDS: Final[Mapping[str, InterfaceType]] = MappingProxyType(
    {
        "wired": InterfaceType.WIRED,
        "ethernet": InterfaceType.WIRED,
        "wifi": InterfaceType.WIFI,
        "wlan": InterfaceType.WIFI,
        "cellular": InterfaceType.CELLULAR,
        "mobile": InterfaceType.CELLULAR,
        "wwan": InterfaceType.CELLULAR,
        "loopback": InterfaceType.LOOPBACK,
        "tunnel": InterfaceType.TUNNEL,
        "vpn": InterfaceType.TUNNEL,
    }
)


def type_named(name: str) -> InterfaceType | None:
    """The type of interface that ``name`` stands for (``"Wi-Fi"``, ``"ethernet"``), if it does."""
    return _WORDS.get(name.lower().replace("-", "").replace(" ", ""))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class InterfaceAddress:
    """An IP address of an interface."""

    address: str
    """Canonical, without zone."""
    prefix_length: int
    """Bits that all addresses on the link share."""
    temporary: bool = False
    """A privacy address (RFC 8981); only IPv6 has them."""
    deprecated: bool = False
    """Its preferred lifetime is over: for what uses it already (RFC 4862, section 5.5.4)."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """A network interface, as it was when it was looked at."""

    name: str
    index: int
    type: InterfaceType = InterfaceType.OTHER
    up: bool = True
    """It is switched on, and there is somebody at the other end."""
    mtu: int | None = None
    """Bytes of an IP packet, ``None`` where it is not known."""
    addresses: tuple[InterfaceAddress, ...] | None = None
    """Those that can be used; ``None`` where the system does not tell."""

    @property
    def shown(self) -> str:
        """For sentences: ``"eth0 (wired)"``."""
        return self.name if self.type is InterfaceType.OTHER else f"{self.name} ({self.type})"

    def has(self, address: str) -> bool:
        """Whether it has this address; True also where the system does not tell."""
        return self.addresses is None or any(each.address == address for each in self.addresses)

    def sources(self, remote: str) -> list[str] | None:
        """Addresses to send from to ``remote``, preferred ones first.

        Only a link-local address is reached from a link-local one (RFC 6724, section 5,
        has it as a preference; nothing would ever come back).

        Args:
            remote: A numeric address.

        Returns:
            Possibly none; ``None`` where the system does not tell.
        """
        if self.addresses is None:
            return None
        version = 6 if ":" in remote else 4
        local = is_link_local(remote)
        fitting = [
            each
            for each in self.addresses
            if each.version == version
            and (version == 4 or local or not is_link_local(each.address))
        ]
        fitting.sort(key=lambda each: (each.deprecated, is_link_local(each.address) is not local))
        return [each.address for each in fitting]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProvisioningDomain:
    """A consistent set of network configuration (RFC 7556), as system policy describes it."""

    name: str
    kinds: frozenset[str] = frozenset()
    """Further words that the ``pvd`` property may call it by, such as ``"iot"``."""
    interfaces: tuple[str, ...] = ()
    """Names of those that it is reached by; none: those that have one of ``addresses``."""
    addresses: tuple[str, ...] = ()
    """Numeric source addresses to use in it; none: any of the interface's."""
    resolvers: tuple[str, ...] = ()
    """Numeric addresses of its DNS servers; none: the system's."""
    search: tuple[str, ...] = ()
    """Domains to complete short names with, for these resolvers."""

    @classmethod
    def all_of(cls, given: Mapping[str, Mapping[str, Any]]) -> tuple[ProvisioningDomain, ...]:
        """From name → field → value, as a file or an application has them.

        Raises:
            TypeError: It is no such mapping.
            ValueError: A domain has a field that there is not, an address that is none,
                or neither interfaces nor addresses.
        """
        if not (
            isinstance(given, Mapping) and all(isinstance(each, Mapping) for each in given.values())
        ):
            raise TypeError(
                f"Provisioning Domains: a mapping of names to fields and values, not {given!r}"
            )
        return tuple(cls._made(name, fields) for name, fields in given.items())

    @classmethod
    def _made(cls, name: str, given: Mapping[str, Any]) -> ProvisioningDomain:
        known = {field.name for field in dataclasses.fields(cls)} - {"name"}
        unknown = set(given) - known
        if unknown:
            raise ValueError(
                f"Provisioning Domain {name}: there is no {sorted(unknown)[0]!r}, "
                f"but {', '.join(sorted(known))}"
            )
        fields = {field: _strings(name, field, value) for field, value in given.items()}
        for field in ("addresses", "resolvers"):
            try:
                fields[field] = tuple(
                    str(ipaddress.ip_address(each)) for each in fields.get(field, ())
                )
            except ValueError as error:
                raise ValueError(f"Provisioning Domain {name}: {field}: {error}") from None
        if not fields.get("interfaces") and not fields["addresses"]:
            raise ValueError(
                f"Provisioning Domain {name}: by which interfaces, or from which addresses, "
                "is it reached?"
            )
        kinds = frozenset(each.lower() for each in fields.pop("kinds", ()))
        return cls(name=name, kinds=kinds, **fields)

    def covers(self, interface: Interface) -> bool:
        """Whether it is reached by this interface."""
        if self.interfaces:
            return interface.name in self.interfaces
        return interface.addresses is not None and any(map(interface.has, self.addresses))

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is its name, or a word for its kind."""
        return name == self.name or name.lower() in self.kinds


def _strings(name: str, field: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, Iterable) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"Provisioning Domain {name}: {field} are strings, not {value!r}")
    return tuple(values)


@lru_cache(maxsize=256)
def is_link_local(address: str) -> bool:
    """Whether a numeric address means something on one link only."""
    return ipaddress.ip_address(address).is_link_local


@lru_cache(maxsize=256)
def is_loopback(address: str) -> bool:
    """Whether a numeric address never leaves this machine."""
    return ipaddress.ip_address(address).is_loopback
