"""Changing endpoints (RFC 9622, section 7.5): rows of docs/reference/endpoints.md."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import LayerFlow
from taps_core.testing import MemoryDatagram, MemoryNetwork, MemoryStream
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest
    from taps_core.testing.fixtures import Run

NOBODY = "127.0.0.9:9"
HOLE = "10.0.0.1:7"


class MovingFlow(LayerFlow):
    """Takes endpoints, and says that the paths have changed."""

    def __init__(self, lower: Any) -> None:
        super().__init__(lower)
        self.changes: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = []

    def change_endpoints(self, verb: str, local: Any, remote: Any, /) -> bool:
        if any(each.port == 1 for each in remote):
            raise taps.PropertyError("port 1 is nobody's")
        self.changes.append((verb, tuple(local), tuple(remote)))
        event = taps.PathChange(f"{verb} by the application", tuple(local), tuple(remote))
        asyncio.get_running_loop().call_soon(self.receiver.notified, event)
        return True


class Moving(MemoryStream):
    """``memory-stream`` over several addresses."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network)
        self.flows: list[MovingFlow] = []

    async def connect(self, request: ConnectRequest) -> Any:
        self.flows.append(MovingFlow(await super().connect(request)))
        return self.flows[-1]


# ------------------------------------------------------------------- on a Preconnection


def test_a_preconnection_can_be_given_endpoints_and_be_relieved_of_them(world: Any) -> None:
    preconnection = world().preconnection(remote=NOBODY)
    preconnection.add_remote("10.0.0.2:7", NOBODY).add_local("127.0.0.1:0", "127.0.0.1:0")
    assert [str(each) for each in preconnection.remote_endpoints] == [NOBODY, "10.0.0.2:7"]
    assert [str(each) for each in preconnection.local_endpoints] == ["127.0.0.1:0"]
    preconnection.remove_remote(NOBODY, HOLE).remove_local("127.0.0.1:0")
    assert [str(each) for each in preconnection.remote_endpoints] == ["10.0.0.2:7"]
    assert preconnection.local_endpoints == ()


# ------------------------------------------------------------------- while establishing


@pytest.mark.parametrize("others", [[], [NOBODY], ["10.0.0.2:7", NOBODY]], ids=["1", "2", "3"])
def test_a_remote_that_is_added_while_establishing_is_tried(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, others: list[str]
) -> None:
    for address in ("10.0.0.1", "10.0.0.2"):
        memory_network.blackhole(address)

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = here.to([HOLE, *others]).initiate()
            client.send_nowait(b"queued before")
            await turns(20)
            assert client.state is taps.ConnectionState.ESTABLISHING
            client.add_remote(listener.remote_endpoint)
            assert await client is client
            assert client.remote_endpoint == listener.remote_endpoint
            server = await listener.accept()
            assert (await server.receive(max_length=100)).data == b"queued before"
            # What was tried before is in the report, too.
            assert {attempt.outcome for attempt in client.report} >= {"cancelled", "ready"}
            starts = [attempt.started for attempt in client.report]
            assert starts == sorted(starts)
            client.abort()
            server.abort()

    run(main, memory_network)
    assert memory_network.open_flows == 0


def test_a_change_before_anything_was_tried_costs_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            preconnection = here.to(HOLE)
            client = preconnection.initiate()
            client.add_remote(listener.remote_endpoint)
            client.remove_remote(HOLE)
            await client
            assert [attempt.outcome for attempt in client.report] == ["ready"]
            # What others are made of is as it was.
            assert [str(each) for each in preconnection.remote_endpoints] == [HOLE]
            (await listener.accept()).abort()
            client.abort()

    run(main, memory_network)


def test_a_remote_that_is_removed_while_establishing_is_tried_no_more(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        client = here.to([HOLE, NOBODY]).initiate()
        await turns(20)
        client.remove_remote(HOLE, "10.9.9.9:9")
        with pytest.raises(taps.EstablishmentError, match="refused") as caught:
            await client
        outcomes = {attempt.what: attempt.outcome for attempt in caught.value.attempts}
        assert outcomes[f"MEMORY-STREAM to {HOLE}"] == "cancelled"
        assert outcomes[f"MEMORY-STREAM to {NOBODY}"] == "failed"

    run(main, memory_network)


def test_local_endpoints_can_be_changed_while_establishing(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            memory_network.delay("127.0.0.1", 0.01)
            client = here.to(listener, local="127.0.0.5:4000").initiate()
            await turns(20)
            client.add_local("127.0.0.6:5000")
            client.remove_local("127.0.0.5:4000")
            await client
            assert str(client.local_endpoint) == "127.0.0.6:5000"
            server = await listener.accept()
            assert str(server.remote_endpoint) == "127.0.0.6:5000"
            server.abort()
            client.abort()

    run(main, memory_network)


def test_what_changes_nothing_gives_nothing_up(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            memory_network.delay("127.0.0.1", 0.01)
            client = here.to(listener).initiate()
            await turns(20)
            client.add_remote(listener.remote_endpoint)
            client.remove_remote(NOBODY)
            client.remove_local("127.0.0.5:4000")
            await client
            assert [attempt.outcome for attempt in client.report] == ["ready"]
            (await listener.accept()).abort()
            client.abort()

    run(main, memory_network)


def test_the_last_endpoint_cannot_be_removed(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        client = here.to(HOLE, local="10.0.0.5:0").initiate()
        with pytest.raises(taps.PropertyError, match="no Remote Endpoint would be left"):
            client.remove_remote(HOLE)
        # It would be free to use any other, which it was not.
        with pytest.raises(taps.PropertyError, match="no Local Endpoint would be left"):
            client.remove_local("10.0.0.5:0")
        assert client.state is taps.ConnectionState.ESTABLISHING
        client.abort()

    run(main, memory_network)


def test_a_group_of_many_is_no_further_candidate(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    """It can only be sent to, and this Connection may be meant for more."""
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        client = world(MemoryStream(memory_network)).to(HOLE).initiate()
        with pytest.raises(taps.PropertyError, match="multicast"):
            client.add_remote(taps.RemoteEndpoint(multicast_group="239.1.2.3", port=7))
        client.abort()
        group = taps.RemoteEndpoint(multicast_group="239.1.2.3", port=7)
        sender = world(MemoryStream(memory_network)).to(group).initiate()
        with pytest.raises(taps.PropertyError, match="multicast"):
            sender.add_remote(HOLE)
        sender.abort()

    run(main, memory_network)


def test_a_clone_that_is_establishing_goes_where_its_parent_goes(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = await here.to(listener).initiate()
            clone = client.clone()
            with pytest.raises(taps.PropertyError, match="cloned from"):
                clone.add_remote(NOBODY)
            await clone
            client.abort_group()
            for _ in range(2):
                (await listener.accept()).abort()

    run(main, memory_network)


def test_giving_up_while_the_candidates_change_leaves_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    for address in ("10.0.0.1", "10.0.0.2"):
        memory_network.blackhole(address)

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        for give_up in ("abort", "cancel", "timeout"):
            # Long enough for what comes before, on a machine that has other things to do.
            limit = 0.5 if give_up == "timeout" else 30.0
            client = here.to([HOLE, "10.0.0.2:7"]).initiate(timeout=limit)
            waiting = asyncio.ensure_future(client._wait_ready())
            await turns(20)
            client.add_remote("10.0.0.2:8")
            if give_up == "abort":
                client.abort()
            elif give_up == "cancel":
                waiting.cancel()
            expected = asyncio.CancelledError if give_up == "cancel" else taps.EstablishmentError
            with pytest.raises(expected):
                await waiting
            assert client.state is taps.ConnectionState.CLOSED
            with pytest.raises(taps.PropertyError, match="closed"):
                client.add_remote(NOBODY)

    run(main, memory_network)


# ------------------------------------------------------------------- established


@pytest.mark.parametrize("kind", [MemoryStream, MemoryDatagram])
@pytest.mark.parametrize("framers", [None, LengthPrefix()], ids=["bare", "framed"])
def test_a_stack_with_one_pair_of_addresses_says_so_by_its_name(
    run: Run, world: Any, memory_network: MemoryNetwork, kind: Any, framers: Any
) -> None:
    async def main() -> None:
        here = world(kind(memory_network))
        async with here.listen(framers=framers) as listener:
            client = await here.to(listener, framers=framers).initiate()
            for change in (client.add_remote, client.remove_remote, client.add_local):
                with pytest.raises(taps.PropertyError) as caught:
                    change("127.0.0.7:7")
                assert str(caught.value).startswith(f"{client.stack} uses one pair of addresses")
            client.add_remote(client.remote_endpoint)
            client.add_local(client.local_endpoint)
            await client.send(b"alive")
            (await listener.accept()).abort()
            client.abort()

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.5-01")
@pytest.mark.parametrize("framers", [None, LengthPrefix()], ids=["bare", "framed"])
def test_a_stack_that_takes_endpoints_is_told_and_path_change_follows(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, framers: Any
) -> None:
    async def main() -> None:
        transport = Moving(memory_network)
        here = world(transport)
        async with here.listen(framers=framers) as listener:
            client = await here.to(listener, framers=framers).initiate()
            told: list[Any] = []
            client.on(taps.PathChange, told.append)
            client.add_remote(client.remote_endpoint, "10.0.0.2:7")
            client.add_remote(client.remote_endpoint)  # known: the stack is not asked
            client.add_local("127.0.0.5:0")
            client.remove_remote("10.0.0.2:7")
            client.remove_local("127.0.0.5:0")
            one, other = (
                taps.RemoteEndpoint.parse("10.0.0.2:7"),
                taps.LocalEndpoint.parse("127.0.0.5:0"),
            )
            assert transport.flows[0].changes == [
                ("add", (), (one,)),
                ("add", (other,), ()),
                ("remove", (), (one,)),
                ("remove", (other,), ()),
            ]
            await turns()
            assert [event.reason.split()[0] for event in told] == ["add", "add", "remove", "remove"]
            assert told[0].remote == (one,)
            with pytest.raises(taps.PropertyError, match="port 1 is nobody's"):
                client.add_remote("10.0.0.2:1")
            await client.send(b"alive")
            (await listener.accept()).abort()
            client.abort()

    run(main, memory_network)
