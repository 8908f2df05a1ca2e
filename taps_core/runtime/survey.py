"""Who tells of this machine's interfaces, addresses and routes.

On Linux the kernel, by netlink. Elsewhere, and where a sandbox forbids netlink or pyroute2 is
not installed, the socket module: names and indices, a type guessed by the name, neither
addresses nor routes, and no notices. What is not known excludes no path: then the system says
at the attempt that it cannot.
"""

from __future__ import annotations

import logging
import socket
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

from taps_core.model.paths import Interface, InterfaceType

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PortableSurvey", "Survey", "is_known", "of_this_machine"]

logger = logging.getLogger("taps_core")


class Survey(Protocol):
    """What :class:`taps_core.runtime.paths.Paths` asks. Nobody is waited for."""

    def interfaces(self) -> Sequence[Interface]:
        """All of them, in the system's order, as they are now."""

    def leads_to(self, address: str, interface: Interface, source: str | None = None) -> bool:
        """Whether there is a route to ``address`` by this interface; True if nobody knows.

        Args:
            address: Numeric, of nobody on this machine.
            interface: One of :meth:`interfaces`.
            source: Send from here; rules may choose another table by it.
        """

    def usual(self, address: str) -> int | None:
        """The index of the interface by which the system would send to ``address``."""

    def notices(self) -> socket.socket | None:
        """Readable when any of this may have changed; ``None`` where nobody tells.

        What can be read from it says nothing.
        """


#: Beginnings of usual names.
_BY_NAME: Final = {
    "lo": InterfaceType.LOOPBACK,
    "wl": InterfaceType.WIFI,
    "ath": InterfaceType.WIFI,
    "wwan": InterfaceType.CELLULAR,
    "wwp": InterfaceType.CELLULAR,
    "pdp_ip": InterfaceType.CELLULAR,
    "rmnet": InterfaceType.CELLULAR,
    "tun": InterfaceType.TUNNEL,
    "utun": InterfaceType.TUNNEL,
    "wg": InterfaceType.TUNNEL,
    "ipsec": InterfaceType.TUNNEL,
    "gif": InterfaceType.TUNNEL,
    "stf": InterfaceType.TUNNEL,
    "en": InterfaceType.WIRED,
    "eth": InterfaceType.WIRED,
    "em": InterfaceType.WIRED,
    "igb": InterfaceType.WIRED,
    "bridge": InterfaceType.WIRED,
}


class PortableSurvey:
    """By the socket module alone."""

    def interfaces(self) -> Sequence[Interface]:
        """Names and indices; the type is a guess."""
        return [
            Interface(name=name, index=index, type=_guessed(name))
            for index, name in socket.if_nameindex()
        ]

    def leads_to(self, address: str, interface: Interface, source: str | None = None) -> bool:
        """Nobody knows."""
        return True

    def usual(self, address: str) -> int | None:
        """Nobody knows."""
        return None

    def notices(self) -> socket.socket | None:
        """Nobody tells."""
        return None


@cache
def of_this_machine() -> Survey:
    """The best that there is here. The first time takes a while: better in a thread."""
    if hasattr(socket, "AF_NETLINK"):
        try:
            from taps_core.runtime.netlink import NetlinkSurvey

            survey = NetlinkSurvey()
            survey.interfaces()
            return survey
        except ImportError as error:  # whoever installed the core without what it needs
            logger.info("netlink is not asked: %s", error)
        except OSError as error:  # a sandbox without netlink
            logger.info("netlink does not tell: %s", error)
    return PortableSurvey()


def is_known() -> bool:
    """Whether :func:`of_this_machine` need not look any more."""
    return of_this_machine.cache_info().currsize > 0


def _guessed(name: str) -> InterfaceType:
    return next(
        (kind for start, kind in _BY_NAME.items() if name.startswith(start)), InterfaceType.OTHER
    )
