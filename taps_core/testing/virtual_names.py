"""Names on a virtual network, and what it takes to resolve them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Final, Literal

from taps_core.model.errors import EstablishmentError, Reason
from taps_core.runtime.resolver import Resolver
from taps_core.testing.virtual_log import LogEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.testing.virtual_host import Host
    from taps_core.testing.virtual_network import VirtualNetwork

__all__ = ["NameFailure", "Record", "VirtualResolver", "folded"]

#: Why a name does not resolve: the ``detail`` of the error, as of the built-in resolver.
NameFailure = Literal["no-such-name", "no-address", "server-failure", "timeout"]

_SENTENCES: Final[dict[NameFailure, str]] = {
    "no-such-name": "no such name",
    "no-address": "no address",
    "server-failure": "the server has failed",
    "timeout": "no answer",
}
_LOOPBACK: Final = ("::1", "127.0.0.1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What there is to a name."""

    addresses: tuple[str, ...] = ()
    delay: float = 0.0
    """Seconds until the answer comes."""
    fails: NameFailure | None = None
    """In place of the addresses."""


def folded(name: str) -> str:
    """As names are compared."""
    return name.rstrip(".").lower()


class VirtualResolver(Resolver):
    """Resolves the network's names, and no others; services as the built-in resolver does.

    Args:
        network: Whose names.
        host: Who asks.
    """

    def __init__(self, network: VirtualNetwork, host: Host) -> None:
        super().__init__()
        self._network = network
        self._host = host

    async def _addresses(self, name: str) -> Sequence[str]:
        plain = folded(name)
        if plain == "localhost" or plain.endswith(".localhost"):
            return _LOOPBACK
        record = self._network.record(plain) or Record(fails="no-such-name")
        if record.delay:
            await asyncio.sleep(record.delay)
        fails = record.fails or (None if record.addresses else "no-address")
        self._network.log.append(
            LogEntry(
                asyncio.get_running_loop().time(),
                "unresolved" if fails else "resolved",
                source=self._host.name,
                target=name,
                detail=fails or ", ".join(record.addresses),
            )
        )
        if fails:
            raise EstablishmentError(
                f"{name} cannot be resolved: {_SENTENCES[fails]}",
                reason=Reason.RESOLUTION_FAILED,
                detail=fails,
                transient=fails in ("server-failure", "timeout"),
            )
        return record.addresses
