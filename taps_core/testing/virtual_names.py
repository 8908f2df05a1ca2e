"""Names on a virtual network, and what it takes to resolve them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from taps_core.planning.answers import ANY_ADDRESS, Answer, Question
from taps_core.runtime.names import Names
from taps_core.testing.virtual_log import LogEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.endpoints import Endpoint
    from taps_core.runtime.resolver import Terms
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
    delay: float | Mapping[int, float] = 0.0
    """Seconds until the answer comes, or by family (6 and 4) until each comes."""
    fails: NameFailure | None = None
    """In place of the addresses."""


def folded(name: str) -> str:
    """As names are compared."""
    return name.rstrip(".").lower()


class VirtualResolver(Names):
    """Resolves the network's names, and no others; services as the built-in resolver does.

    Args:
        network: Whose names.
        host: Who asks.
    """

    def __init__(self, network: VirtualNetwork, host: Host) -> None:
        super().__init__(nameservers=(), hosts_file=os.devnull, source_of=self._source_of)
        self._names_of = network
        self._host = host

    def _source_of(self, address: str) -> str | None:
        family = [own for own in self._host.addresses if (":" in own) == (":" in address)]
        return family[0] if family else None

    def _here(self, name: str) -> Sequence[str] | None:
        plain = folded(name)
        return _LOOPBACK if plain == "localhost" or plain.endswith(".localhost") else None

    def _is_ready(self, endpoint: Endpoint, terms: Terms) -> bool:
        return True

    def _names(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        record = self._names_of.record(folded(name))
        both = record is None or not isinstance(record.delay, Mapping)
        return (folded(name),), (ANY_ADDRESS,) if both else ("AAAA", "A")

    async def _ask(self, question: Question, lifetime: float) -> Answer:
        record = self._names_of.record(question.name) or Record(fails="no-such-name")
        delay, addresses = record.delay, record.addresses
        if isinstance(delay, Mapping):
            family = 6 if question.rdtype == "AAAA" else 4
            delay = delay.get(family, 0.0)
            addresses = tuple(it for it in addresses if (":" in it) == (family == 6))
        if delay:
            await asyncio.sleep(delay)
        fails = record.fails or (None if addresses else "no-address")
        self._names_of.log.append(
            LogEntry(
                asyncio.get_running_loop().time(),
                "unresolved" if fails else "resolved",
                source=self._host.name,
                target=question.name,
                detail=fails or ", ".join(addresses),
            )
        )
        if fails:
            return Answer(
                problem=_SENTENCES[fails],
                detail=fails,
                transient=fails in ("server-failure", "timeout"),
            )
        return Answer(records=addresses)
