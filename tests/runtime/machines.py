"""Machines whose interfaces and routes are what a test says."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from taps_core.model.paths import Interface, InterfaceAddress, InterfaceType

if TYPE_CHECKING:
    from collections.abc import Sequence


def interface(name: str, *addresses: str, up: bool = True, **more: Any) -> Interface:
    kind = InterfaceType.LOOPBACK if name == "lo" else InterfaceType.WIRED
    return Interface(
        name=name,
        index=sum(name.encode()),
        type=kind,
        up=up,
        addresses=tuple(InterfaceAddress(address=each, prefix_length=24) for each in addresses),
        **more,
    )


class Machine:
    """A machine that is what the test says."""

    def __init__(self, *interfaces: Interface, routes: dict[str, set[str]] | None = None) -> None:
        self.now: Sequence[Interface] = interfaces
        #: Name of an interface → addresses that it leads to; none said: all.
        self.routes = routes or {}
        self.first = ""
        self.sockets: list[socket.socket] = []

    def interfaces(self) -> Sequence[Interface]:
        return self.now

    def leads_to(self, address: str, interface: Interface, source: str | None = None) -> bool:
        return address in self.routes.get(interface.name, {address})

    def usual(self, address: str) -> int | None:
        return sum(self.first.encode())

    def notices(self) -> socket.socket | None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        here.setblocking(False)
        self.sockets.append(there)
        return here

    def become(self, *interfaces: Interface) -> None:
        self.now = interfaces
        self.sockets[-1].send(b"x")


LO = interface("lo", "127.0.0.1", "::1")
ONE = interface("eth1", "192.0.2.1", "2001:db8:1::1", "fe80::1")
TWO = interface("eth2", "198.51.100.1")
