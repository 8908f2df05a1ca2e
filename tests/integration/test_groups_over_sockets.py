"""Groups over TCP and UDP, on real sockets: rows of docs/reference/groups.md."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from tests.integration.sockets import listening, pair, preconnection, settle

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

STACKS = pytest.mark.parametrize("stack", ["TCP", "length-prefix/TCP", "UDP"])


@STACKS
def test_a_clone_has_a_socket_of_its_own_to_the_same_place(run: Run, stack: str) -> None:
    async def main() -> None:
        async with listening(stack) as ends:
            client = await ends.client()
            server = await ends.accept()
            clone = await client.clone()
            twin = await ends.accepted_from(clone)
            assert str(clone.stack) == stack
            assert clone.remote_endpoint == client.remote_endpoint
            assert clone.local_endpoint.ip_address == client.local_endpoint.ip_address
            assert clone.local_endpoint.port != client.local_endpoint.port
            assert client.grouped_connections() == clone.grouped_connections() == {client, clone}
            # The peer sees two that have nothing to do with each other.
            assert server.grouped_connections() == {server}
            for here, there in ((client, server), (clone, twin)):
                await there.send(b"12345")
                message = await here.receive(min_incomplete_length=5, max_length=5)
                assert message.data == b"12345"

    run(main)


@pytest.mark.parametrize("stack", ["TCP", "UDP"])
@pytest.mark.requirement("G-9622-7.4-01", "G-9622-7.4-02", "G-9622-7.4-03", "R-9623-10.1-01")
def test_what_is_set_on_one_reaches_the_socket_of_the_other(run: Run, stack: str) -> None:
    async def main() -> None:
        async with listening(stack) as ends:
            client = await ends.client()
            await ends.accept()
            client.set_property("connPriority", 7)
            client.set_property("msgPriority", 3)
            clone = await client.clone()
            await ends.accepted_from(clone)
            # Read from what the plugin has, not from what was asked for.
            before = clone._flow.read("connCapacityProfile")
            assert before is taps.CapacityProfile.DEFAULT
            client.set_property("connCapacityProfile", "Scavenger")
            for member in (client, clone):
                assert member._flow.read("connCapacityProfile") is taps.CapacityProfile.SCAVENGER
                assert member.properties["connCapacityProfile"] == "Scavenger"
            assert (clone.properties["connPriority"], clone.properties["msgPriority"]) == (7, 3)
            clone.set_property("connPriority", 9)
            clone.set_property("msgPriority", 1)
            assert client.properties["connPriority"] == 7
            assert client.properties["msgPriority"] == 3
            late = await client.clone()
            await ends.accepted_from(late)
            assert late._flow.read("connCapacityProfile") is taps.CapacityProfile.SCAVENGER

    run(main)


@STACKS
def test_what_was_accepted_cannot_be_cloned_over_sockets(run: Run, stack: str) -> None:
    async def main() -> None:
        async with listening(stack) as ends:
            client = await ends.client()
            server = await ends.accept()
            told: list[Any] = []
            server.on(taps.CloneError, told.append)
            with pytest.raises(taps.CloneError) as caught:
                await server.clone()
            assert caught.value.reason is taps.Reason.NOT_CLONEABLE
            assert caught.value.detail == "accepted"
            await asyncio.sleep(0)
            assert [str(error) for error in told] == [str(caught.value)]
            await server.send(b"alive")
            assert (await client.receive(max_length=5)).data == b"alive"

    run(main)


def test_a_clone_that_nobody_accepts_any_more_is_refused(run: Run) -> None:
    async def main() -> None:
        async with listening("TCP") as ends:
            client = await ends.client()
            await ends.accept()
            ends.listener.stop()
            await ends.listener.stopped()
            with pytest.raises(taps.CloneError, match="refused") as caught:
                await client.clone()
            assert caught.value.reason is taps.Reason.ESTABLISHMENT_FAILED
            assert caught.value.transient
            assert len(caught.value.attempts) == 1
            assert client.state is taps.ConnectionState.ESTABLISHED

    run(main)


def test_a_clone_waits_for_a_parent_that_connects(run: Run) -> None:
    async def main() -> None:
        async with listening("TCP") as ends:
            there = preconnection("TCP", remote=ends.listener.remote_endpoint)
            client = there.initiate()
            clone = client.clone()
            assert await clone is clone
            assert client.state is taps.ConnectionState.ESTABLISHED
            ends.connections += [client, clone]
            for _ in range(2):
                ends.connections.append(await ends.listener.accept())

    run(main)


@pytest.mark.parametrize("stack", ["length-prefix/TCP", "UDP"])
@pytest.mark.requirement("G-9622-10-02", "G-9622-10-03")
def test_a_group_over_sockets_ends_together(run: Run, stack: str) -> None:
    async def main() -> None:
        for action, last in (("close_group", taps.Closed), ("abort_group", taps.ConnectionError)):
            async with listening(stack) as ends:
                client = await ends.client()
                servers = [await ends.accept()]
                clone = await client.clone()
                servers.append(await ends.accepted_from(clone))
                streams = [each.events() for each in (client, clone)]
                for member in (client, clone):
                    member.send_nowait(b"last words")
                getattr(clone, action)()
                if action == "close_group":
                    for server in servers:
                        assert (await server.receive()).data == b"last words"
                        server.close_group()
                for events in streams:
                    ends_by = [event async for event in events][-1]
                    assert isinstance(ends_by, last)
                assert clone.grouped_connections() == set()

    run(main)


# ------------------------------------------------------------------- docs/reference/endpoints.md


@STACKS
@pytest.mark.requirement("G-9622-7.5-01")
def test_endpoints_of_tcp_and_udp_are_fixed(run: Run, stack: str) -> None:
    async def main() -> None:
        async with pair(stack) as (client, server):
            for connection in (client, server):
                changes = (
                    connection.add_remote,
                    connection.remove_remote,
                    connection.add_local,
                    connection.remove_local,
                )
                for change in changes:
                    with pytest.raises(taps.PropertyError) as caught:
                        change("127.0.0.7:7")
                    assert str(caught.value) == (
                        f"{stack} uses one pair of addresses, fixed at establishment"
                    )
                connection.add_remote(connection.remote_endpoint)
                connection.add_local(connection.local_endpoint)
            await client.send(b"alive")
            assert (await server.receive(max_length=5)).data == b"alive"

    run(main)


def test_an_address_added_while_tcp_connects_is_tried(run: Run) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            # Nobody accepts, and the backlog is full: no answer to a SYN.
            busy = [socket.socket() for _ in range(3)]
            try:
                for each in busy:
                    each.setblocking(False)
                    each.connect_ex(full.getsockname())
                async with listening("TCP") as ends:
                    there = f"127.0.0.1:{full.getsockname()[1]}"
                    client = preconnection("TCP", remote=there).initiate()
                    ends.connections.append(client)
                    await settle()
                    assert client.state is taps.ConnectionState.ESTABLISHING
                    client.add_remote(ends.listener.remote_endpoint)
                    await client
                    assert client.remote_endpoint == ends.listener.remote_endpoint
                    await ends.accepted_from(client)
            finally:
                for each in busy:
                    each.close()

    run(main)
