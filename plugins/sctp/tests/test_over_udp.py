"""``sctp-udp`` does what SCTP promises, without the kernel: over UDP sockets on loopback."""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import SCTPOverUDP, udp_sockets, userland
from taps_sctp.user_engine import UserEngine

import taps_core as taps
from taps_core.testing import local_identity

from .udp_paths import NAME, OPEN, UDP_PORT, at, connected, listening, needed, pair, relayed, to

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

needed()


# -- where it is asked for


def selected(remote: str | taps.RemoteEndpoint, **more: Any) -> list[str]:
    transport = taps.TransportProperties()
    transport.reliable_message()
    system = taps.System(policy=more)
    preconnection = taps.Preconnection(
        remote=remote, transport=transport, security=OPEN, system=system
    )
    return [each.stack.transport.name for each in preconnection.select()]


def test_it_is_tried_only_where_it_is_asked_for() -> None:
    remote = taps.RemoteEndpoint(hostname="192.0.2.1", port=7)
    assert NAME not in selected(remote)
    assert selected(remote.with_protocol(NAME)) == [NAME]
    assert NAME in selected(remote, preferred=[NAME])


# -- what is missing


def test_without_cffi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    here = SCTPOverUDP().availability()
    assert not here.available
    assert here.remedy == "pip install taps-sctp[udp]"


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    here = SCTPOverUDP().availability()
    assert not here.available
    assert here.remedy == "apt install libusrsctp2"


# -- ports


def test_the_port_is_sctps_and_the_identifier_is_udps(run: Run) -> None:
    async def main() -> None:
        async with listening() as listener:
            (local,) = listener.local_endpoints
            client = await connected(to(listener))
            server = await listener.accept()
            here, there = client.local_endpoint, server.remote_endpoint
            assert here is not None
            assert there is not None
            assert (there.port, there.identifiers) == (here.port, here.identifiers)
            assert here.identifiers[UDP_PORT] not in (0, local.identifiers[UDP_PORT])
            client.abort()
            server.abort()

    run(main)


def test_without_an_identifier_udps_port_is_9899(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            # Of all these addresses nobody else has this one's port 9899.
            number = os.getpid() & 0xFFFF
            address = f"127.98.{number >> 8}.{number & 0xFF}"
            there.bind((address, 9899))
            there.setblocking(False)
            remote = taps.RemoteEndpoint(ip_address=address, port=7, protocol=NAME)
            connecting = asyncio.create_task(connected(remote))
            packet = await asyncio.get_running_loop().sock_recv(there, 2000)
            # To SCTP's port 7, an INIT.
            assert (packet[2:4], packet[12]) == (struct.pack("!H", 7), 1)
            connecting.cancel()
            await asyncio.wait([connecting])

    run(main)


def test_listeners_share_a_udp_port(run: Run) -> None:
    async def main() -> None:
        async with listening() as one:
            (local,) = one.local_endpoints
            async with listening(at(udp_port=local.identifiers[UDP_PORT])) as other:
                for listener in (one, other):
                    client = await connected(to(listener))
                    server = await listener.accept()
                    await client.send(b"to the right one")
                    assert (await server.receive()).data == b"to the right one"
                    client.abort()
                    server.abort()

    run(main)


def test_a_port_of_sctp_is_a_process_only_once(run: Run) -> None:
    async def main() -> None:
        async with listening() as listener:
            (local,) = listener.local_endpoints
            with pytest.raises(taps.EstablishmentError) as refused:
                await listening(at(port=local.port))
            assert refused.value.detail == "EADDRINUSE"

    run(main)


def test_an_identifier_that_is_no_port_is_refused(run: Run) -> None:
    async def main() -> None:
        remote = taps.RemoteEndpoint(
            ip_address="127.0.0.1", port=7, protocol=NAME, identifiers={UDP_PORT: "7"}
        )
        with pytest.raises(taps.EstablishmentError, match="is a UDP port"):
            await connected(remote)

    run(main)


def test_answers_come_from_the_address_that_was_called(run: Run) -> None:
    async def main() -> None:
        async with listening(at(address=None)) as listener:
            client = await connected(to(listener, address="127.0.0.2"))
            server = await listener.accept()
            assert server.local_endpoint is not None
            assert server.local_endpoint.ip_address == "127.0.0.2"
            await client.send(b"there")
            await server.send((await server.receive()).data + b" and back")
            assert (await client.receive()).data == b"there and back"
            client.abort()
            server.abort()

    run(main)


def test_it_runs_over_ipv6(run: Run) -> None:
    async def main() -> None:
        async with listening(at(address="::1")) as listener:
            client = await connected(to(listener, address="::1"))
            server = await listener.accept()
            await client.send(b"over IPv6")
            assert (await server.receive()).data == b"over IPv6"
            client.abort()
            server.abort()

    run(main)


# -- nobody there


def test_where_no_udp_port_is_open_it_is_refused_at_once(run: Run) -> None:
    async def main() -> None:
        async with listening() as listener:
            remote = to(listener)
        with pytest.raises(taps.EstablishmentError) as refused:
            await connected(remote)
        assert refused.value.detail == "ECONNREFUSED"

    run(main)


def test_where_nobody_listens_behind_the_udp_port_it_is_refused_at_once(run: Run) -> None:
    async def main() -> None:
        async with listening() as listener:
            with pytest.raises(taps.EstablishmentError) as refused:
                await connected(to(listener).with_port(1))
            assert refused.value.detail == "ECONNREFUSED"

    run(main)


# -- Messages and streams


def test_a_connection_group_is_one_association(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            clones = [await client.clone() for _ in range(64)]
            for number, clone in enumerate(clones):
                await clone.send(b"%d" % number)
            found = [await server.incoming().__anext__() for _ in clones]
            heard = {int((await each.receive()).data) for each in found}
            assert heard == set(range(64))
            assert {each.local_endpoint for each in clones} == {client.local_endpoint}

    run(main)


def test_messages_are_whole_and_in_order_over_a_path_that_loses_packets(run: Run) -> None:
    messages = [bytes([number]) * (1 + 3000 * number) for number in range(40)]

    async def main() -> None:
        async with pair(loss=0.1) as (client, server):
            for message in messages:
                await client.send(message)
            got = [(await server.receive()).data for _ in messages]
            assert got == messages

    run(main)


def test_a_long_message_arrives_whole(run: Run) -> None:
    message = bytes(range(256)) * 12_000

    async def main() -> None:
        async with pair() as (client, server):
            await client.send(message)
            got = b""
            while len(got) < len(message):
                part = await server.receive(max_length=1024 * 1024)
                got += part.data
            assert got == message

    run(main)


def test_the_peers_abort_is_an_error(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            client.abort()
            with pytest.raises(taps.TapsError):
                await server.receive()

    run(main)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_messages_are_records_and_packets_are_authenticated(
    run: Run, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    keys: list[int] = []
    use_key = UserEngine.use_key

    def used(engine: UserEngine) -> None:
        use_key(engine)
        keys.append(1)

    monkeypatch.setattr(UserEngine, "use_key", used)

    async def main() -> None:
        async with pair(loss=loss, security=local_identity("127.0.0.1")) as (client, server):
            assert str(client.stack) == "DTLS/SCTP-UDP"
            assert len(keys) == 2
            clone = await client.clone()
            for sender in (client, clone):
                for number in range(100):
                    await sender.send(b"%d" % number * 100)
            other = await server.incoming().__anext__()
            for receiver in (server, other):
                for number in range(100):
                    assert (await receiver.receive()).data == b"%d" % number * 100

    run(main)


# -- partial reliability


def test_what_is_lost_is_given_up_and_each_message_has_an_outcome(run: Run) -> None:
    sends = 100

    async def main() -> None:
        async with pair(loss=0.05, per_msg_reliability="require") as (client, server):
            outcomes = []
            for number in range(sends):
                sending = client.send(b"%d" % number, lifetime=0.1, reliable=False)
                outcomes.append(asyncio.ensure_future(sending))
                await asyncio.sleep(0.001)
            done = await asyncio.gather(*outcomes, return_exceptions=True)
            late = sum(isinstance(each, taps.Expired) for each in done)
            assert all(each is None or isinstance(each, taps.Expired) for each in done)
            await client.send(b"the end")
            came = 0
            while (await server.receive()).data != b"the end":
                came += 1
            assert 0 < came < sends - late

    run(main)


# -- one loop


def test_a_second_loop_is_refused_in_a_sentence(run: Run) -> None:
    refusals: list[BaseException] = []

    async def elsewhere() -> None:
        try:
            await listening()
        except taps.EstablishmentError as error:
            refusals.append(error)

    async def main() -> None:
        async with listening():
            thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
            thread.start()
            await asyncio.to_thread(thread.join)
        (refusal,) = refusals
        assert "one event loop of a process" in str(refusal)

    run(main)


def test_a_loop_that_was_closed_gives_it_up() -> None:
    kept: list[Any] = []

    async def leave() -> None:
        listener = await listening()
        client = await connected(to(listener))
        kept.extend((listener, client, await listener.accept()))

    async def again() -> None:
        async with pair() as (client, server):
            await client.send(b"on another loop")
            assert (await server.receive()).data == b"on another loop"

    for main in (leave, again):
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()


# -- what it costs


def test_there_is_no_thread(run: Run) -> None:
    async def main() -> None:
        before = threading.active_count()
        async with pair():
            assert threading.active_count() == before

    run(main)


def test_an_idle_listener_takes_no_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userland, "QUIET", 0.0)
    ticks: list[float] = []
    advance = userland.Userland._advance

    def counted(land: userland.Userland, now: float) -> None:
        ticks.append(now)
        advance(land, now)

    async def main() -> None:
        async with listening() as listener:
            client = await connected(to(listener))
            server = await listener.accept()
            client.abort()
            server.abort()
            await asyncio.sleep(5 * userland.TICK)
            monkeypatch.setattr(userland.Userland, "_advance", counted)
            await asyncio.sleep(5 * userland.IDLE_TICK)
            assert not ticks

    run(main)


def test_those_who_never_finish_a_handshake_are_forgotten(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_sockets, "HALF_OPEN", 8)

    async def main() -> None:
        async with listening() as listener:
            (local,) = listener.local_endpoints
            there = ("127.0.0.1", local.identifiers[UDP_PORT])
            strangers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
            land = userland.Userland.claim(asyncio.get_running_loop())
            before = land.tokens
            for each in strangers:
                each.setblocking(False)
                each.sendto(init(land, local.port), there)
            loop = asyncio.get_running_loop()
            # Each is answered, an INIT ACK, and the latest of them are remembered.
            for each in strangers:
                assert (await loop.sock_recv(each, 2000))[12] == 2
                each.close()
            assert land.tokens - before <= 9
            client = await connected(to(listener))
            server = await listener.accept()
            await client.send(b"heard all the same")
            assert (await server.receive()).data == b"heard all the same"
            client.abort()
            server.abort()

    run(main)


def test_an_init_whose_parameters_have_no_length_is_not_looked_into(run: Run) -> None:
    """The library goes round and round in it, if it has an association with whom it is from."""

    async def main() -> None:
        async with listening() as listener:
            (local,) = listener.local_endpoints
            async with relayed(local.identifiers[UDP_PORT]) as relay:
                client = await connected(to(listener, udp_port=relay.udp_port))
                server = await listener.accept()
                assert server.remote_endpoint is not None
                land = userland.Userland.claim(asyncio.get_running_loop())
                # As if the client had sent it.
                relay.send(init(land, local.port, server.remote_endpoint.port, bytes(4)))
                await client.send(b"as if nothing had been")
                assert (await server.receive()).data == b"as if nothing had been"
                client.abort()
                server.abort()

    run(main)


def init(
    land: userland.Userland, port: int | None, source: int | None = 5000, parameters: bytes = b""
) -> bytes:
    """A packet that begins an association."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20 + len(parameters), 0x01020304, 65536, 10, 10, 1)
    packet = bytearray(struct.pack("!HHII", source, port, 0, 0) + chunk + parameters)
    packet[8:12] = land.checksum(packet)
    return bytes(packet)
