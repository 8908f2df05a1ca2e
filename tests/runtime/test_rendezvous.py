"""Rendezvous: both sides open, on transports that can (section 7.3)."""

from __future__ import annotations

import asyncio
import types
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing import MemoryNetwork, MemoryStream
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest
    from taps_core.testing.fixtures import Run


class Meeting(MemoryStream):
    """``memory-stream`` with a simultaneous open: whoever comes second meets the first."""

    name = "memory-meeting"
    rendezvous = True

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network)
        self.waiting: dict[Any, asyncio.Future[Any]] = {}
        self.roles: list[str] = []

    async def connect(self, request: ConnectRequest) -> Any:
        self.roles.append(request.role)
        here, there = self._network.ends(self.name, request)
        other = self.waiting.pop((there, here), None)
        if other is None:
            future = asyncio.get_running_loop().create_future()
            self.waiting[here, there] = future
            try:
                return await future
            finally:
                self.waiting.pop((here, there), None)
        facts: Any = types.SimpleNamespace(facts=self._facts(), context=_context())
        flow, peer = self._pair(request, here, there, facts)
        other.set_result(peer)
        return flow


def _context() -> Any:
    import contextvars

    return contextvars.copy_context()


@pytest.mark.requirement("R-9622-6-05")
@pytest.mark.parametrize("given", ["local", "remote", "neither"])
def test_it_needs_a_local_and_a_remote_endpoint(
    run: Run, world: Any, memory_network: MemoryNetwork, given: str
) -> None:
    async def main() -> None:
        here = world(Meeting(memory_network))
        endpoints = {} if given == "neither" else {given: "127.0.0.1:7"}
        with pytest.raises(taps.EstablishmentError) as caught:
            here.preconnection(**endpoints).rendezvous()
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION

    run(main, memory_network)


@pytest.mark.requirement("R-9623-3.2-03")
def test_transports_without_it_are_no_candidates_and_the_error_says_so(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        connection = here.to("127.0.0.2:7", local="127.0.0.1:7").rendezvous()
        with pytest.raises(taps.NoCandidates, match="MEMORY-STREAM has no Rendezvous"):
            await connection
        assert connection.report == ()

    run(main, memory_network)


@pytest.mark.requirement("R-9622-7.3-01", "R-9622-7.3-02")
def test_two_sides_meet(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        transport = Meeting(memory_network)
        here = world(transport, MemoryStream(memory_network))
        one = here.to("127.0.0.2:7", local="127.0.0.1:7")
        other = here.to("127.0.0.1:7", local="127.0.0.2:7")
        first = one.rendezvous()
        # All of this is too late for the first.
        one.add_remote("127.0.0.9:9").add_local("127.0.0.9:7").add_framer(LengthPrefix())
        one.transport.require("multistreaming").set("connPriority", 3)
        second = other.rendezvous()
        async with first, second:
            assert transport.roles == ["rendezvous", "rendezvous"]
            assert str(first.stack) == "MEMORY-MEETING"
            assert str(first.local_endpoint) == str(second.remote_endpoint) == "127.0.0.1:7"
            assert str(first.remote_endpoint) == str(second.local_endpoint) == "127.0.0.2:7"
            await first.send(b"hello")
            assert (await second.receive(max_length=5)).data == b"hello"
            assert not first.accepted
            assert first.properties["connPriority"] == 100
            assert len(first.report) == 1

    run(main, memory_network)


def test_nobody_comes(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        transport = Meeting(memory_network)
        there = world(transport).to("127.0.0.2:7", local="127.0.0.1:7")
        with pytest.raises(taps.EstablishmentTimeout):
            await there.rendezvous(timeout=0.01)
        assert transport.waiting == {}

    run(main, memory_network)


@pytest.mark.requirement("G-9622-6.1.1-03")
def test_a_source_specific_group_is_refused(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        local = taps.LocalEndpoint(
            multicast_group="232.1.1.1", multicast_source="192.0.2.1", port=7
        )
        there = world(Meeting(memory_network)).to("127.0.0.2:7", local=local)
        with pytest.raises(taps.EstablishmentError) as caught:
            await there.rendezvous()
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION

    run(main, memory_network)
