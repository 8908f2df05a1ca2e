"""Interfaces of a host on a virtual network: what is chosen among by the ``interface`` property."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.model.paths import Interface, InterfaceAddress, InterfaceType

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from taps_core.testing.virtual_host import Host

__all__ = ["HostSurvey"]

#: Of addresses that nobody gave to another one.
USUAL = "net0"


class HostSurvey:
    """As :class:`taps_core.runtime.survey.Survey`, of a virtual host.

    Every interface leads everywhere; what becomes of packets is up to the path between the
    addresses. Paths tell of their own changes.

    Args:
        host: Whose interfaces.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._named: dict[str, tuple[InterfaceType, list[str]]] = {}

    def name(self, interface: str, kind: InterfaceType, addresses: Sequence[str]) -> None:
        """Let ``addresses`` be those of an interface, and it be of this type."""
        for _, others in self._named.values():
            others[:] = [each for each in others if each not in addresses]
        _, known = self._named.get(interface, (kind, []))
        self._named[interface] = kind, [*known, *addresses]

    def addresses(self, interface: str) -> list[str]:
        """Those of an interface; none if there is no such one."""
        return next(
            (
                [each.address for each in found.addresses or ()]
                for found in self.interfaces()
                if found.name == interface
            ),
            [],
        )

    def interfaces(self) -> Sequence[Interface]:
        """Loopback, those that were named, and one for all other addresses."""
        taken = {each for _, addresses in self._named.values() for each in addresses}
        rest = [each for each in self._host.addresses if each not in taken]
        all_of_them = {
            "lo": (InterfaceType.LOOPBACK, ["127.0.0.1", "::1"]),
            **({USUAL: (InterfaceType.WIRED, rest)} if rest else {}),
            **self._named,
        }
        return [
            Interface(
                name=name,
                index=index,
                type=kind,
                addresses=tuple(
                    InterfaceAddress(address=each, prefix_length=64 if ":" in each else 24)
                    for each in addresses
                ),
            )
            for index, (name, (kind, addresses)) in enumerate(all_of_them.items(), 1)
        ]

    def leads_to(self, address: str, interface: Interface, source: str | None = None) -> bool:
        """Everywhere."""
        return True

    def usual(self, address: str) -> int | None:
        """The interface with the first address of this family."""
        for own in self._host.addresses:
            if (":" in own) == (":" in address):
                return next((each.index for each in self.interfaces() if each.has(own)), None)
        return None

    def notices(self) -> socket.socket | None:
        """Paths tell of their changes themselves."""
        return None
