"""Local and Remote Endpoints: where a Connection begins, and where it leads."""

from __future__ import annotations

import taps_core as taps
from neatpy._flat import one_module

one_module(__name__)

__all__ = ["LocalEndpoint", "RemoteEndpoint"]


class _Endpoint:
    """What both have: one identifier of each type; setting it again replaces it."""

    def __init__(self) -> None:
        self.port: int | None = None
        self.address: str | None = None
        self.interface: str | None = None

    def with_interface(self, interface: str) -> None:
        """Name a network interface.

        Args:
            interface: Binds a Local Endpoint; on a Remote Endpoint it is the zone of a
                link-local address.
        """
        self.interface = interface

    def with_address(self, address: str) -> None:
        """Say the IP address.

        Args:
            address: IPv4 or IPv6, as text.
        """
        self.address = address

    def with_port(self, port_number: int) -> None:
        """Say the port.

        Args:
            port_number: 0 to 65535; 0 on a Local Endpoint: any that is free.
        """
        self.port = port_number

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        known = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value)
        return f"{type(self).__name__}({known})"


class LocalEndpoint(_Endpoint):
    """Where to listen, or to connect from. ``listen()`` needs one."""


class RemoteEndpoint(_Endpoint):
    """Whom to reach. ``initiate()`` needs one.

    With an address and a name the address is dialled; the name is what a secure peer must prove.
    """

    def __init__(self) -> None:
        super().__init__()
        self.host_name: str | None = None

    def with_hostname(self, hostname: str) -> None:
        """Say the host's name.

        Args:
            hostname: Is resolved, and verified where security is needed.
        """
        self.host_name = hostname


def to_local(endpoint: LocalEndpoint) -> taps.LocalEndpoint:
    """As the core has it.

    Raises:
        PropertyError: An identifier that cannot be.
    """
    # NEATPy's programs give names as addresses, too, and the core tells them apart.
    return taps.LocalEndpoint(
        hostname=endpoint.address, port=endpoint.port, interface=endpoint.interface
    )


def to_remote(endpoint: RemoteEndpoint) -> taps.RemoteEndpoint:
    """As the core has it.

    Raises:
        PropertyError: An identifier that cannot be.
    """
    address, name = endpoint.address, endpoint.host_name
    if address is not None and name is None:
        address, name = None, address  # as above
    return taps.RemoteEndpoint(
        hostname=name, ip_address=address, port=endpoint.port, interface=endpoint.interface
    )


def from_local(endpoint: taps.LocalEndpoint | None) -> LocalEndpoint | None:
    """As NEATPy has it."""
    if endpoint is None:
        return None
    made = LocalEndpoint()
    made.address, made.port = endpoint.ip_address, endpoint.port
    made.interface = endpoint.interface
    return made


def from_remote(endpoint: taps.RemoteEndpoint | None) -> RemoteEndpoint | None:
    """As NEATPy has it."""
    if endpoint is None:
        return None
    made = RemoteEndpoint()
    made.address, made.port = endpoint.ip_address, endpoint.port
    made.interface, made.host_name = endpoint.interface, endpoint.hostname
    return made
