"""Datagrams on packets: exact times, exact counts."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.errors import EstablishmentError, Reason, SendError
from taps_core.model.events import PathChange, SoftError
from taps_core.testing import Rig, VirtualDatagram, connect_request, run
from tests.testing.between import Between

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REMOTE = "198.51.100.2:7000"


def now() -> float:
    return asyncio.get_running_loop().time()


def exactly(seconds: Any) -> Any:
    """Floats that were added up in another order."""
    return pytest.approx(seconds, abs=1e-9, rel=0)


def play(act: Callable[[Rig, Between], Awaitable[None]], **conditions: Any) -> None:
    between = Between(VirtualDatagram, **conditions)

    async def main() -> None:
        async with Rig(between, local=REMOTE) as rig:
            await act(rig, between)

    run(main, between.network, loop="virtual")


def test_connecting_takes_no_time_and_sends_nothing() -> None:
    async def act(rig: Rig, between: Between) -> None:
        await rig.connect()
        assert now() == 0.0
        assert not between.network.log

    play(act, latency=0.05)


def test_a_datagram_takes_its_bytes_and_its_distance() -> None:
    async def act(rig: Rig, between: Between) -> None:
        client = await rig.connect()
        client.send(bytes(500), bytes(100))
        server = await rig.accept()
        assert now() == exactly(0.55)
        await server.has_data(bytes(600))
        assert now() == exactly(0.65)
        counts = between.path.there.counts
        assert (counts.sent, counts.sent_bytes, counts.delivered_bytes) == (2, 600, 600)
        assert between.path.back.counts.sent == 0

    play(act, latency=0.05, bandwidth=1000)


def test_what_does_not_fit_into_a_packet_is_refused() -> None:
    async def act(rig: Rig, between: Between) -> None:
        client = await rig.connect()
        assert client.flow.read("sendMsgMaxLen") == 1472
        with pytest.raises(SendError) as caught:
            client.flow.send(bytes(1473), None, True)
        assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
        client.send(bytes(1472))
        assert between.path.there.counts.sent_bytes == 1500
        between.path.set(mtu=600)
        assert client.flow.read("singularTransmissionMsgMaxLen") == 572

    play(act, overhead=28)


def test_loss_duplication_and_reordering_are_counted() -> None:
    async def act(rig: Rig, between: Between) -> None:
        client = await rig.connect()
        for number in range(1000):
            client.send(number.to_bytes(2))
            await asyncio.sleep(0.001)
        server = await rig.accept()
        await asyncio.sleep(1)
        came = [int.from_bytes(message) for message in server.recorder.messages]
        counts = between.path.there.counts
        assert counts.sent == 1000
        assert len(came) == counts.delivered == 1000 + counts.duplicated - counts.lost
        assert len(came) - len(set(came)) == counts.duplicated
        assert came != sorted(came)
        assert 150 < counts.lost < 250
        assert 50 < counts.duplicated < 150
        assert 50 < counts.reordered < 150

    play(act, latency=0.05, loss=0.2, duplicate=0.1, reorder=0.1)


def test_a_full_queue_loses_what_comes_beyond() -> None:
    async def act(rig: Rig, between: Between) -> None:
        client = await rig.connect()
        client.send(*[bytes(1000)] * 5)
        server = await rig.accept()
        await asyncio.sleep(10)
        assert len(server.recorder.messages) == 3
        assert between.path.there.counts.lost == 2

    play(act, bandwidth=1000, queue=3000)


def test_nobody_listening_is_no_error() -> None:
    async def act(rig: Rig, between: Between) -> None:
        await rig.listener.close()
        client = await rig.connect()
        client.send(b"is anybody there?")
        await asyncio.sleep(1)
        assert not client.recorder.calls
        assert between.path.there.counts.delivered == 1

    play(act)


def test_an_address_of_another_family_cannot_be_reached() -> None:
    async def act(rig: Rig, between: Between) -> None:
        host = between.network.host("new.example", "2001:db8::7")
        with pytest.raises(EstablishmentError, match=r"no IPv4 address") as caught:
            await VirtualDatagram(host).connect(connect_request(REMOTE))
        assert caught.value.errno == errno.ENETUNREACH

    play(act)


def test_who_wants_soft_errors_hears_that_there_is_no_route() -> None:
    async def act(rig: Rig, between: Between) -> None:
        client = await rig.connect(softErrorNotify="prefer")
        silent = await rig.connect()
        between.path.down()
        client.send(b"lost")
        silent.send(b"lost")
        await asyncio.sleep(1)
        news = [call.arguments[0] for call in client.recorder.named("notified")]
        assert [type(event) for event in news] == [PathChange, SoftError]
        assert news[1].error.errno == errno.EHOSTUNREACH
        news = [call.arguments[0] for call in silent.recorder.named("notified")]
        assert [type(event) for event in news] == [PathChange]

    play(act)
