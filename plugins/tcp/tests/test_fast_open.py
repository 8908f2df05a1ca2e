"""Fast Open: which Message is in the SYN, and which never is, as the wire has it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
import taps_tcp.fast_open
from taps_core.plugin import Support
from taps_core.testing import local_identity
from taps_tcp import TCP, TCPInfo
from tests.programs import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from taps_core.testing import Capture, KernelNetwork, Packet

pytestmark = pytest.mark.linux

PLAIN = taps.SecurityParameters.disabled()
ASKED: dict[str, Any] = {"zeroRttMsg": "prefer"}
REPLAYABLE: dict[str, Any] = {"safely_replayable": True}
HELLO = b"hello"
SYN = 2


def switch(value: int) -> None:
    """Of the network that this thread is in: 1 for what connects, 2 for what listens."""
    pathlib.Path("/proc/sys/net/ipv4/tcp_fastopen").write_text(str(value))


@pytest.fixture
def switched_on(kernel_network: KernelNetwork) -> KernelNetwork:
    """Both ends may, in this network."""
    switch(3)
    return kernel_network


@contextlib.asynccontextmanager
async def listening(
    address: str | None = "127.0.0.1",
    port: int = 0,
    security: Any = PLAIN,
    framers: Any = None,
    **properties: Any,
) -> AsyncIterator[taps.Listener]:
    listener = await taps.Preconnection(
        local=taps.LocalEndpoint(ip_address=address, port=port),
        transport=taps.TransportProperties(**(properties or ASKED)),
        security=security,
        framers=framers,
    ).listen()
    async with listener:
        yield listener


async def exchange(
    listener: taps.Listener,
    data: bytes = HELLO,
    *,
    security: Any = PLAIN,
    message: dict[str, Any] = REPLAYABLE,
    then: bytes = b"more",
    **properties: Any,
) -> tuple[Any, list[Any]]:
    """One Connection with an early Message and another one; what each end made of it."""
    (local,) = listener.local_endpoints
    sent: list[Any] = []
    client = taps.Preconnection(
        remote=taps.RemoteEndpoint(ip_address=local.ip_address, port=local.port),
        transport=taps.TransportProperties(**(properties or ASKED)),
        security=security,
    ).initiate_with_send(data, **message)
    for event in (taps.Sent, taps.SendError, taps.Expired):
        client.on(event, sent.append)
    try:
        await client
        await client.send(then)
        server = await listener.accept()
        try:
            whole = b""
            while len(whole) < len(data + then):
                part = await server.receive(min_incomplete_length=1, max_length=1 << 20)
                whole += bytes(part)
            assert whole == data + then
            return client.find(TCPInfo), sent
        finally:
            server.abort()
    finally:
        client.abort()


def syns(capture: Capture) -> list[Packet]:
    return [each for each in capture.look() if each.tcp_flags == SYN]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_once_there_is_a_cookie_the_message_is_in_the_syn(run, switched_on, address):
    async def main():
        with switched_on.capture() as capture:
            async with listening(address) as listener:
                told = [await exchange(listener) for _ in range(3)]
            assert [each.payload for each in syns(capture)] == [b"", HELLO, HELLO]
        assert [info.early_data_accepted for info, _ in told] == [False, True, True]
        for _, sent in told:
            assert [type(each) for each in sent] == [taps.Sent, taps.Sent]

    run(main)


@pytest.mark.parametrize(
    ("message", "properties"),
    [
        ({}, ASKED),
        ({"safely_replayable": False}, ASKED),
        (REPLAYABLE, {"zeroRttMsg": "no_preference"}),
        (REPLAYABLE, {"zeroRttMsg": "avoid"}),
        (REPLAYABLE, {"zeroRttMsg": "prohibit"}),
        (REPLAYABLE, {**ASKED, "isolateSession": True}),
    ],
)
def test_nothing_is_in_a_syn_that_may_not_come_twice_or_was_not_asked_for(
    run, switched_on, message, properties
):
    async def main():
        async with listening() as listener:
            await exchange(listener)  # from now on there is a cookie
            with switched_on.capture() as capture:
                _, sent = await exchange(listener, message=message, **properties)
                assert [each.payload for each in syns(capture)] == [b""]
        assert [type(each) for each in sent] == [taps.Sent, taps.Sent]

    run(main)


def frames(sock: socket.socket) -> Iterator[bytes]:
    """What has arrived at a packet socket."""
    with contextlib.suppress(BlockingIOError):
        while True:
            data, (_, _, direction, *_) = sock.recvfrom(1 << 16)
            if direction != 4:  # PACKET_OUTGOING: loopback shows each a second time
                yield data


@pytest.mark.usefixtures("switched_on")
def test_tshark_sees_the_message_in_the_syn_and_what_may_not_come_twice_behind_it(run, tmp_path):
    tshark = program("tshark")
    trace = tmp_path / "trace.pcap"

    async def main():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
            wire.bind(("lo", 0))
            wire.setblocking(False)
            async with listening() as listener:
                for _ in range(2):
                    await exchange(listener)
                await exchange(listener, message={"safely_replayable": False})
            with trace.open("wb") as file:
                file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1))
                for frame in frames(wire):
                    file.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)

    run(main)
    read = subprocess.run(
        [
            *(tshark, "-r", trace, "-Y", "tcp.flags.syn == 1 && tcp.flags.ack == 0"),
            *("-T", "fields", "-e", "tcp.payload"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert read.split("\n")[:3] == ["", HELLO.hex(), ""]


def test_a_listener_that_has_not_asked_takes_nothing_before_the_handshake(run, switched_on):
    async def main():
        async with listening(zeroRttMsg="no_preference") as listener:
            with switched_on.capture() as capture:
                for _ in range(2):
                    info, _ = await exchange(listener)
                    assert not info.early_data_accepted
                assert [each.payload for each in syns(capture)] == [b"", b""]

    run(main)


def test_what_does_not_fit_into_the_syn_comes_before_anything_else(run, switched_on):
    long = bytes(range(256)) * 1000

    async def main():
        async with listening() as listener:
            await exchange(listener)
            with switched_on.capture() as capture:
                await exchange(listener, long)
                (syn,) = syns(capture)
                assert 0 < len(syn.payload) < len(long)

    run(main)


def test_a_peer_that_declines_gets_it_once_after_the_handshake(run, switched_on):
    async def main():
        async with listening() as listener:
            await exchange(listener)
            port = listener.local_endpoints[0].port
        async with listening(port=port, zeroRttMsg="avoid") as listener:
            with switched_on.capture() as capture:
                info, sent = await exchange(listener)
                assert [each.payload for each in syns(capture)] == [HELLO]
            assert not info.early_data_accepted
            assert [type(each) for each in sent] == [taps.Sent, taps.Sent]

    run(main)


@pytest.mark.requirement("R-9623-5.3-01")
def test_every_leaf_of_a_race_has_a_copy_and_there_is_one_outcome(run, switched_on):
    dead, alive = "127.0.0.2", "127.0.0.1"

    async def main():
        async with listening(dead) as first, listening(alive) as second:
            for each in (first, second):
                await exchange(each)
            ports = {
                each.local_endpoints[0].ip_address: each.local_endpoints[0].port
                for each in (first, second)
            }
            switched_on.filter(f"ip daddr {dead} drop")
            outcomes: list[Any] = []
            with switched_on.capture() as capture:
                client = taps.Preconnection(
                    remote=[
                        taps.RemoteEndpoint(ip_address=each, port=ports[each])
                        for each in (dead, alive)
                    ],
                    transport=taps.TransportProperties(**ASKED),
                    security=PLAIN,
                ).initiate_with_send(HELLO, safely_replayable=True)
                for event in (taps.Sent, taps.SendError, taps.Expired):
                    client.on(event, outcomes.append)
                await client
                server = await second.accept()
                message = await server.receive(min_incomplete_length=5, max_length=100)
                assert bytes(message) == HELLO
                await client.send(b"!")
                assert bytes(await server.receive(max_length=100)) == b"!"
                seen = {each.destination[0] for each in syns(capture) if each.payload == HELLO}
            assert seen == {dead, alive}
            assert len(client.report.attempts) == 2
            assert [type(each) for each in outcomes] == [taps.Sent, taps.Sent]
            client.abort()
            server.abort()

    run(main)


def test_where_nobody_listens_it_is_an_establishment_error_and_nothing_else(run, switched_on):
    async def main():
        async with listening() as listener:
            await exchange(listener)
            (local,) = listener.local_endpoints
        outcomes: list[Any] = []
        client = taps.Preconnection(
            remote=taps.RemoteEndpoint(ip_address=local.ip_address, port=local.port),
            transport=taps.TransportProperties(**ASKED),
            security=PLAIN,
        ).initiate_with_send(HELLO, safely_replayable=True)
        for event in (taps.Sent, taps.SendError, taps.Expired):
            client.on(event, outcomes.append)
        with pytest.raises(taps.EstablishmentError, match="refused"):
            await client
        await asyncio.sleep(0.01)
        assert not outcomes

    run(main)


def test_over_tls_the_client_hello_is_in_the_syn_and_no_message(run, switched_on):
    server, client = local_identity("127.0.0.1")

    async def main():
        async with listening(security=server) as listener:
            with switched_on.capture() as capture:
                for _ in range(2):
                    await exchange(listener, security=client)
                first, second = syns(capture)
            assert first.payload == b""
            # A record of the handshake, with a ClientHello in it.
            assert second.payload[:1] == b"\x16"
            assert second.payload[5:6] == b"\x01"
            assert HELLO not in second.payload
            with switched_on.capture() as capture:
                await exchange(listener, security=client, zeroRttMsg="no_preference")
                assert [each.payload for each in syns(capture)] == [b""]

    run(main)


def test_multipath_tcp_has_it_too(run, switched_on):
    if why := taps_tcp.multipath.missing():
        pytest.skip(why)

    async def main():
        async with listening() as listener:
            for _ in range(2):
                with switched_on.capture() as capture:
                    await exchange(listener, **ASKED, multipath="Active")
                    payloads = [each.payload for each in syns(capture)]
            assert payloads == [HELLO]

    run(main)


async def told(
    listener: taps.Listener,
    address: str = "127.0.0.1",
    *,
    later: bytes = b"more",
    security: Any = PLAIN,
    framers: Any = "netstring",
) -> list[tuple[bytes, bool]]:
    """What came of an early Message and one behind it, and whether it was told to be early.

    Both are there before the Listener looks.
    """
    client = taps.Preconnection(
        remote=taps.RemoteEndpoint(ip_address=address, port=listener.local_endpoints[0].port),
        transport=taps.TransportProperties(**ASKED),
        security=security,
        framers=framers,
    ).initiate_with_send(HELLO, **REPLAYABLE)
    try:
        await client
        await client.send(later)
        server = await listener.accept()
        try:
            got = []
            while b"".join(data for data, _ in got) != HELLO + later:
                message = await server.receive(min_incomplete_length=1, max_length=1 << 20)
                got.append((bytes(message), message.context.early_data))
            return got
        finally:
            server.abort()
    finally:
        client.abort()


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", None), ("::1", None)],
    ids=["IPv4", "IPv6", "IPv4 at both", "IPv6 at both"],
)
def test_what_came_in_the_syn_is_told_to_be_early_and_nothing_else(
    run, switched_on, address, local
):
    async def main():
        async with listening(local, framers="netstring", **ASKED, multipath="disabled") as there:
            for early in (False, True, True):  # first there is no cookie
                got = await told(there, address)
                assert got == [(HELLO, early), (b"more", False)]

    run(main)


def test_a_stream_without_framers_is_one_message_which_began_early(run, switched_on):
    async def main():
        async with listening(**ASKED, multipath="disabled") as there:
            for early in (False, True):
                got = await told(there, framers=None)
                assert {mark for _, mark in got} == {early}

    run(main)


def test_where_mptcp_listens_what_was_there_at_first_is_told_to_be_early(run, switched_on):
    """The kernel does not tell how long the SYN's data were; none is missed."""
    if why := taps_tcp.multipath.missing():
        pytest.skip(why)

    async def main():
        async with listening(framers="netstring", **ASKED, multipath="passive") as there:
            for early in (False, True):
                hello, _ = await told(there)
                assert hello == (HELLO, early)
        async with listening(framers="netstring", zeroRttMsg="avoid", multipath="passive") as there:
            for _ in range(2):
                assert not any(mark for _, mark in await told(there))

    run(main)


def test_what_is_protected_by_a_handshake_did_not_come_before_it(run, switched_on):
    server, client = local_identity("127.0.0.1")

    async def main():
        async with listening(security=server, framers="netstring", **ASKED) as there:
            for _ in range(2):
                with switched_on.capture() as capture:
                    got = await told(there, security=client)
                    assert got == [(HELLO, False), (b"more", False)]
                    (syn,) = syns(capture)
            assert syn.payload  # a ClientHello

    run(main)


def test_where_the_kernel_takes_none_a_listener_that_requires_it_says_so(run, kernel_network):
    switch(1)

    async def main():
        with pytest.raises(taps.EstablishmentError, match=r"net\.ipv4\.tcp_fastopen=3"):
            async with listening(zeroRttMsg="require"):
                pass
        async with listening() as listener:  # a wish
            info, _ = await exchange(listener)
            assert not info.early_data_accepted

    run(main)


def test_availability_says_where_it_is_switched_off(kernel_network):
    switch(0)
    found = TCP().availability()
    assert found.capabilities.support["zeroRttMsg"] is Support.NEVER
    assert not found.capabilities.early_data
    assert "net.ipv4.tcp_fastopen" in found.capabilities.notes["zeroRttMsg"]
    switch(1)
    assert not taps_tcp.fast_open.missing()
    assert TCP.capabilities.support["zeroRttMsg"] is Support.OPTIONAL
    assert TCP.capabilities.early_data


def test_switched_off_in_the_meantime_it_is_sent_after_the_handshake(run, switched_on):
    async def main():
        async with listening() as listener:
            await exchange(listener)
            switch(2)
            with switched_on.capture() as capture:
                _, sent = await exchange(listener)
                assert [each.payload for each in syns(capture)] == [b""]
            assert [type(each) for each in sent] == [taps.Sent, taps.Sent]

    run(main)


def test_without_a_socket_option_there_is_none(monkeypatch):
    monkeypatch.delattr(socket, "TCP_FASTOPEN")
    assert "switched off" in taps_tcp.fast_open.missing()
