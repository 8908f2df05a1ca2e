"""Listeners over TCP and UDP, on real sockets: rows of docs/reference/listeners.md."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from tests.integration.sockets import listening, preconnection, settle, until

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

STACKS = pytest.mark.parametrize("stack", ["TCP", "length-prefix/TCP", "UDP"])


@STACKS
@pytest.mark.requirement("G-9622-7.2-01")
def test_the_budget_counts_what_was_delivered_over_sockets(run: Run, stack: str) -> None:
    async def main() -> None:
        async with listening(stack) as ends:
            got: list[Any] = []
            ends.listener.on(taps.ConnectionReceived, lambda event: got.append(event.connection))
            ends.listener.set_new_connection_limit(2)
            for _ in range(5):
                await ends.client()
            await until(lambda: len(got) == 2)
            got[0].abort()  # a budget, no cap on those that live
            await settle()
            assert len(got) == 2
            ends.listener.set_new_connection_limit(1)
            await until(lambda: len(got) == 3)
            await settle()
            assert len(got) == 3
            ends.listener.set_new_connection_limit(math.inf)
            await until(lambda: len(got) == 5)
            # What came meanwhile has waited.
            for server in got[1:]:
                message = await server.receive(min_incomplete_length=5, max_length=5)
                assert message.data == b"hello"
            ends.connections += got

    run(main)


@STACKS
def test_what_waits_at_limit_0_is_bounded_and_what_comes_then_waits_with_the_kernel_or_the_port(
    run: Run, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taps_core.runtime.listener.MAX_WAITING", 2)

    async def main() -> None:
        async with listening(stack) as ends:
            ends.listener.set_new_connection_limit(0)
            for _ in range(6):
                await ends.client()
                await settle()
            assert len(ends.listener._waiting) < 6
            assert ends.listener._paused
            ends.listener.set_new_connection_limit(math.inf)
            for _ in range(6):
                await ends.accept()
            await ends.client()
            await ends.accept()

    run(main)


@STACKS
def test_a_peer_that_left_while_it_waited_is_delivered_with_what_it_said(
    run: Run, stack: str
) -> None:
    async def main() -> None:
        async with listening(stack) as ends:
            ends.listener.set_new_connection_limit(0)
            client = await ends.client()
            await client.finish()
            _ = client.close()
            await until(lambda: ends.listener._waiting)
            await settle()
            ends.listener.set_new_connection_limit(1)
            server = await ends.accept()
            if stack != "UDP":  # where nobody hears of it
                with pytest.raises(taps.EndOfData):
                    while not (await server.receive(max_length=1)).data:
                        pass

    run(main)


@STACKS
def test_so_many_are_open_at_a_time_over_sockets(run: Run, stack: str) -> None:
    async def main() -> None:
        async with listening(stack, max_connections=2) as ends:
            for _ in range(4):
                await ends.client()
            first, second = [await ends.accept() for _ in range(2)]
            third = asyncio.ensure_future(ends.accept())
            await settle()
            assert not third.done()
            first.abort()
            await third
            fourth = asyncio.ensure_future(ends.accept())
            await settle()
            assert not fourth.done()
            second.abort()
            await fourth

    run(main)


@STACKS
def test_who_may_come_over_sockets(run: Run, stack: str) -> None:
    async def main() -> None:
        for remotes in (["127.0.0.2"], ["127.0.0.9:9", "127.0.0.2"], ["[::1]", "127.0.0.2"]):
            async with listening(stack, remote=remotes) as ends:
                stranger = await ends.client(local="127.0.0.3:0")
                friend = await ends.client(local="127.0.0.2:0")
                server = await ends.accept()
                assert server.remote_endpoint.ip_address == "127.0.0.2"
                assert server.remote_endpoint.port == friend.local_endpoint.port
                if stack != "UDP":  # where nobody would hear of it
                    with pytest.raises(taps.ConnectionError):
                        await stranger.receive(max_length=1)
                await settle()
                assert not ends.listener._waiting

    run(main)


@STACKS
def test_a_port_of_the_peer_is_a_filter_over_sockets(run: Run, stack: str) -> None:
    kind = socket.SOCK_DGRAM if stack == "UDP" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]

    async def main() -> None:
        async with listening(stack, remote=f":{port}") as ends:
            await ends.client(local="127.0.0.2:0")
            friend = await ends.client(local=f"127.0.0.2:{port}")
            server = await ends.accept()
            assert server.remote_endpoint.port == friend.local_endpoint.port == port

    run(main)


@STACKS
@pytest.mark.requirement("G-9622-7.2-03")
def test_stop_leaves_what_was_handed_over_and_ends_what_waits(run: Run, stack: str) -> None:
    async def main() -> None:
        async with listening(stack) as ends:
            client = await ends.client()
            server = await ends.accept()
            ends.listener.set_new_connection_limit(0)
            waiting = await ends.client()
            await until(lambda: ends.listener._waiting)
            place = ends.listener.local_endpoints[0]
            events = ends.listener.events()
            ends.listener.stop()
            await ends.listener.stopped()
            assert [type(event) async for event in events] == [taps.Stopped]
            with pytest.raises(taps.EstablishmentError, match="has stopped"):
                await ends.listener.accept()
            if stack != "UDP":
                with pytest.raises(taps.ConnectionError):
                    await waiting.receive(max_length=1)
            for here, there in ((client, server), (server, client)):
                await here.send(b"12345")
                message = await there.receive(min_incomplete_length=5, max_length=5)
                assert message.data == b"12345"
            # TCP's port is free for others now; UDP's carries the Connection that lives on.
            again = preconnection(stack, local=str(place)).listen()
            if stack == "UDP":
                with pytest.raises(taps.EstablishmentError, match="in use"):
                    await again
                await server.close()
                again = preconnection(stack, local=str(place)).listen()
            async with again:
                assert again.local_endpoints == (place,)

    run(main)


@pytest.mark.requirement("R-9623-4.7-04")
def test_several_ports_and_addresses_are_one_listener_over_sockets(run: Run) -> None:
    async def main() -> None:
        locals_ = ["127.0.0.1:0", "127.0.0.2:0"]
        async with listening("any", local=locals_) as ends:
            places = ends.listener.local_endpoints
            # TCP and UDP at both, all with one number.
            assert len(places) == 4
            assert len({each.port for each in places}) == 1
            seen = set()
            for protocol in ("tcp", "udp"):
                for address in ("127.0.0.1", "127.0.0.2"):
                    there = taps.RemoteEndpoint(
                        ip_address=address, port=places[0].port, protocol=protocol
                    )
                    client = await preconnection("any", remote=there).initiate()
                    server = await ends.accepted_from(client)
                    assert server.local_endpoint.ip_address == address
                    assert str(server.stack) == str(client.stack)
                    seen.add((str(server.stack), address))
            assert seen == {
                ("TCP", "127.0.0.1"),
                ("TCP", "127.0.0.2"),
                ("UDP", "127.0.0.1"),
                ("UDP", "127.0.0.2"),
            }
            # One budget for all of it.
            ends.listener.set_new_connection_limit(1)
            for protocol in ("tcp", "udp"):
                remote = ends.listener.remote_endpoint.with_protocol(protocol)
                client = await preconnection("any", remote=remote).initiate()
                ends.connections.append(client)
                await client.send(b"hello")
            await ends.accept()
            other = asyncio.ensure_future(ends.accept())
            await settle()
            assert not other.done()
            ends.listener.set_new_connection_limit(1)
            await other

    run(main)


@pytest.mark.requirement("R-9623-4.7.2-01", "R-9623-4.7.2-02")
def test_whoever_comes_back_over_udp_is_a_new_connection_once_the_old_one_is_gone(
    run: Run,
) -> None:
    async def main() -> None:
        async with listening("UDP") as ends:
            client = await ends.client()
            first = await ends.accept()
            await client.send(b"again")
            assert (await first.receive()).data == b"again"
            first.abort()
            second = await ends.accepted_from(client)
            assert second is not first
            assert second.remote_endpoint == first.remote_endpoint

    run(main)


# -- system policy


def _reaches(address: str, port: int) -> bool:
    """Whether somebody answers there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        return sock.connect_ex((address, port)) == 0


@pytest.mark.requirement("R-9623-3.2-01")
@pytest.mark.parametrize(
    ("prohibited", "local", "there", "not_there"),
    [
        ("IPv6", ":0", ["127.0.0.1"], ["::1"]),
        ("IPv4", ":0", ["::1"], ["127.0.0.1"]),
        ("IPv6", "localhost:0", ["127.0.0.1"], ["::1"]),
        ("IPv4", "localhost:0", ["::1"], ["127.0.0.1"]),
        ("IPv6", "[::]:0 127.0.0.1:0", None, None),
        ("IPv4", "[::]:0", ["::1"], ["127.0.0.1"]),
        (None, "[::]:0", ["::1"], ["127.0.0.1"]),
        (None, ":0", ["127.0.0.1", "::1"], []),
    ],
)
def test_nobody_listens_on_addresses_of_a_family_that_policy_prohibits(
    run: Run,
    prohibited: str | None,
    local: str,
    there: list[str] | None,
    not_there: list[str] | None,
) -> None:
    policy = None if prohibited is None else {"prohibit": {"families": [prohibited]}}
    system = taps.System(policy=policy)

    async def main() -> None:
        here = preconnection("TCP", local=local.split(), system=system)
        if there is None or not_there is None:
            # Not one of what was asked for is left out in silence.
            with pytest.raises(taps.EstablishmentError, match="policy prohibits IPv6") as caught:
                await here.listen()
            assert caught.value.reason is taps.Reason.POLICY_PROHIBITED
            return
        async with here.listen() as listener:
            port = listener.local_endpoints[0].port
            assert port is not None
            assert [_reaches(each, port) for each in there] == [True] * len(there)
            assert [_reaches(each, port) for each in not_there] == [False] * len(not_there)
            # How to reach it from here is an address that is left, too.
            client = await preconnection("TCP", remote=listener.remote_endpoint).initiate()
            client.abort()
            refused = [each for each in listener.report if each.outcome == "failed"]
            assert [str(each.error) for each in refused] == [
                f"system policy prohibits {prohibited}"
            ] * (local == "localhost:0")
        await system.close()

    run(main)


def test_with_both_families_prohibited_there_is_no_listener(run: Run) -> None:
    async def main() -> None:
        system = taps.System(policy={"prohibit": {"families": ["IPv4", "IPv6"]}})
        with pytest.raises(taps.EstablishmentError) as caught:
            await preconnection("any", local=":0", system=system).listen()
        assert str(caught.value) == "system policy prohibits IPv4; system policy prohibits IPv6"
        assert caught.value.reason is taps.Reason.POLICY_PROHIBITED

    run(main)
