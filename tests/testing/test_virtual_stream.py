"""The byte stream on packets: every time is a sum that can be done by hand."""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.errors import ConnectionError, EstablishmentError, EstablishmentTimeout, Reason
from taps_core.model.events import PathChange, SoftError
from taps_core.testing import Rig, VirtualStream, connect_request, run
from tests.testing.between import Between

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taps_core.testing import End

REMOTE = "198.51.100.2:7000"


class Scene(Rig):
    """Two hosts, and a listener on one of them."""

    def __init__(self, between: Between) -> None:
        super().__init__(between, local=REMOTE)
        self.between = between
        self.network = between.network
        self.path = between.path

    def times(self, packet: str, event: str = "sent") -> list[float]:
        """When packets of this kind were sent, or whatever happened to them."""
        return [entry.time for entry in self.network.log.named(event, packet)]

    async def established(self, **properties: Any) -> tuple[End, End]:
        """Both ends, 10 seconds after the beginning; the log is empty."""
        client = await self.connect(**properties)
        server = await self.accept()
        await asyncio.sleep(10 - now())
        self.network.log.clear()
        return client, server


def now() -> float:
    return asyncio.get_running_loop().time()


def exactly(seconds: Any) -> Any:
    """Floats that were added up in another order."""
    return pytest.approx(seconds, abs=1e-9, rel=0)


def play(
    act: Callable[[Scene], Awaitable[None]], *, window: int = 65536, **conditions: Any
) -> None:
    between = Between(lambda host: VirtualStream(host, window=window), **conditions)

    async def main() -> None:
        async with Scene(between) as scene:
            await act(scene)
        await asyncio.sleep(200)  # half-open ends are given up

    run(main, between.network, loop="virtual", timeout=None)


# -- establishing


def test_connecting_takes_one_round_trip_and_the_listener_half_of_one_more() -> None:
    async def act(scene: Scene) -> None:
        await scene.connect()
        assert now() == 0.1
        await scene.accept()
        assert now() == exactly(0.15)
        assert scene.times("syn") == [0.0, 0.05]
        assert scene.times("ack") == [0.1]

    play(act, latency=0.05)


def test_each_direction_has_its_own_distance() -> None:
    async def act(scene: Scene) -> None:
        scene.path.back.set(latency=0.3)
        await scene.connect()
        assert now() == exactly(0.35)

    play(act, latency=0.05)


def test_a_client_that_sends_at_once_waits_for_nothing_more() -> None:
    async def act(scene: Scene) -> None:
        client = await scene.connect()
        client.send(b"hello")
        await (await scene.accept()).has_data(b"hello")
        assert now() == exactly(0.15)

    play(act, latency=0.05)


def test_where_nobody_listens_it_is_refused_after_one_round_trip() -> None:
    async def act(scene: Scene) -> None:
        await scene.listener.close()
        with pytest.raises(EstablishmentError, match=r"refused by 198\.51\.100\.2 port 7000"):
            await scene.connect()
        assert now() == 0.1
        assert scene.times("rst") == [0.05]

    play(act, latency=0.05)


def test_where_nobody_is_there_is_no_route_after_one_round_trip() -> None:
    async def act(scene: Scene) -> None:
        scene.network.path("198.51.100.9", latency=0.2)
        with pytest.raises(EstablishmentError, match=r"no route to 198\.51\.100\.9") as caught:
            await scene.between.connect(connect_request("198.51.100.9:7000"))
        assert caught.value.errno == errno.EHOSTUNREACH
        assert now() == 0.4

    play(act, latency=0.05)


def test_over_a_path_that_is_down_there_is_no_route_at_once() -> None:
    async def act(scene: Scene) -> None:
        scene.path.down()
        with pytest.raises(EstablishmentError, match=r"no route to 198\.51\.100\.2"):
            await scene.connect()
        assert now() == 0.0
        scene.path.up()
        await scene.connect()

    play(act, latency=0.05)


def test_without_an_address_of_the_family_there_is_no_route_and_no_packet() -> None:
    async def act(scene: Scene) -> None:
        host = scene.network.host("old.example", "192.0.2.4")
        with pytest.raises(EstablishmentError, match=r"old\.example has no IPv6 address") as caught:
            await VirtualStream(host).connect(connect_request("[2001:db8:51::2]:7000"))
        assert caught.value.errno == errno.ENETUNREACH
        assert not scene.network.log

    play(act)


def test_a_black_hole_is_tried_for_127_seconds() -> None:
    async def act(scene: Scene) -> None:
        scene.path.blackhole()
        with pytest.raises(EstablishmentTimeout, match=r"no answer from 198\.51\.100\.2"):
            await scene.connect()
        assert scene.times("syn") == [0, 1, 3, 7, 15, 31, 63]
        assert now() == 127.0

    play(act, latency=0.05)


def test_a_lost_syn_costs_a_second() -> None:
    async def act(scene: Scene) -> None:
        scene.path.there.blackhole()
        asyncio.get_running_loop().call_later(0.5, scene.path.up)
        await scene.connect()
        assert now() == exactly(1.1)

    play(act, latency=0.05)


def test_a_lost_answer_costs_a_second_and_makes_no_second_connection() -> None:
    async def act(scene: Scene) -> None:
        scene.path.back.blackhole()
        asyncio.get_running_loop().call_later(0.5, scene.path.up)
        client = await scene.connect()
        assert now() == exactly(1.1)
        client.send(b"hello")
        server = await scene.accept()
        await server.has_data(b"hello")
        await asyncio.sleep(100)
        assert scene.network.open_flows == 2
        # The server repeats its own just when the client's repeated one arrives: twice.
        assert scene.times("syn", "delivered") == exactly([0.05, 1.05, 1.1, 1.1])

    play(act, latency=0.05)


def test_a_server_that_speaks_first_survives_a_lost_handshake() -> None:
    async def act(scene: Scene) -> None:
        client = await scene.connect()
        await asyncio.sleep(0)
        # The ack that is on its way counts as sent; so only what is sent now is lost.
        assert scene.times("ack") == [0.1]
        server = await scene.accept()
        server.send(b"220 ready")
        await client.has_data(b"220 ready")
        assert now() == exactly(0.2)

    play(act, latency=0.05)


def test_a_lost_last_ack_of_the_handshake_costs_the_server_a_second() -> None:
    async def act(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(0.07, scene.path.there.blackhole)
        loop.call_at(0.2, scene.path.up)
        await scene.connect()
        assert now() == 0.1
        await scene.accept()
        # The server repeats its syn a second after 0.05; the answer takes a round trip.
        assert now() == exactly(1.15)

    play(act, latency=0.05)


def test_a_handshake_whose_client_vanished_is_given_up_and_leaves_nothing() -> None:
    async def act(scene: Scene) -> None:
        connecting = asyncio.create_task(scene.connect())
        await asyncio.sleep(0.07)
        scene.path.blackhole()
        connecting.cancel()
        await asyncio.wait([connecting])
        await asyncio.sleep(200)
        # The client's, the server's, and five repetitions of that.
        assert scene.times("syn") == exactly([0, 0.05, 1.05, 3.05, 7.05, 15.05, 31.05])
        assert scene.network.open_flows == 0

    play(act, latency=0.05)


def test_a_listener_that_closes_gives_up_half_open_handshakes() -> None:
    async def act(scene: Scene) -> None:
        connecting = asyncio.create_task(scene.connect())
        await asyncio.sleep(0.07)
        await scene.listener.close()
        client = await connecting
        await client.has_closed()
        assert isinstance(client.recorder.error, ConnectionError)
        assert now() == exactly(0.12)  # the reset follows the handshake

    play(act, latency=0.05)


def test_duplicates_of_everything_change_nothing_but_the_counts() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        for _ in range(5):
            client.send(bytes(3000))
        client.flow.close()
        await server.recorder.until(lambda: server.recorder.is_finished)
        assert server.recorder.data == bytes(15000)
        assert now() == exactly(10.05)
        await client.has_closed()
        assert now() == exactly(10.1)
        server.flow.close()
        await server.has_closed()
        assert client.recorder.error is None
        assert server.recorder.error is None
        assert scene.network.open_flows == 0

    play(act, latency=0.05, duplicate=1.0)


# -- data


def test_a_message_takes_its_bytes_and_its_distance() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        client.send(bytes(500))
        await server.has_data(bytes(500))
        assert now() == exactly(10 + 0.5 + 0.05)

    play(act, latency=0.05, bandwidth=1000)


def test_a_large_message_is_cut_to_the_mtu_and_pays_for_each_byte_once() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        client.send(bytes(10_500))
        await server.has_data(bytes(10_500))
        assert now() == exactly(10 + 10.5 + 0.05)
        sizes = [entry.size for entry in scene.network.log.named("sent", "data")]
        assert sizes == [1000] * 10 + [500]
        assert scene.path.there.counts.sent_bytes == 10_500
        assert scene.path.back.counts.sent_bytes == 0

    play(act, latency=0.05, bandwidth=1000, mtu=1000)


def test_an_overhead_is_paid_by_every_packet() -> None:
    async def act(scene: Scene) -> None:
        # syn and syn; then ack and data, which leave one behind the other.
        client = await scene.connect()
        assert now() == exactly(2 * (0.04 + 0.05))
        client.send(bytes(1920))
        await (await scene.accept()).has_data(bytes(1920))
        assert now() == exactly(2 * (0.04 + 0.05) + 0.04 + 2 * 1.0 + 0.05)
        assert scene.path.there.counts.sent == 4
        assert scene.path.there.counts.sent_bytes == 40 + 40 + 2 * 1000

    play(act, latency=0.05, bandwidth=1000, mtu=1000, overhead=40)


def test_the_window_limits_what_a_distance_carries() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        client.send(bytes(50_000))
        await server.recorder.until(lambda: len(server.recorder.data) == 50_000)
        # 10,000 bytes for each round trip, the last ones on their way at its end.
        assert now() == exactly(10 + 4 * 0.1 + 0.05)

    play(act, latency=0.05, window=10_000)


def test_who_does_not_read_stops_the_sender_and_lets_it_go_on_half_a_round_trip_later() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        server.flow.pause()
        client.send(bytes(25_000))
        await client.recorder.until(lambda: not client.recorder.is_writable)
        await asyncio.sleep(12 - now())
        assert len(server.recorder.data) == 0
        assert sum(entry.size for entry in scene.network.log.named("sent", "data")) == 10_000
        server.flow.resume()
        await client.recorder.until(lambda: client.recorder.is_writable)
        await server.recorder.until(lambda: len(server.recorder.data) == 25_000)
        # An ack with the window, what was waiting, and the same once more.
        assert now() == exactly(12 + 2 * 0.1)

    play(act, latency=0.05, window=10_000)


def test_a_lost_word_of_new_room_is_asked_for() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        server.flow.pause()
        client.send(bytes(15_000))
        await asyncio.sleep(11 - now())
        scene.path.back.blackhole()
        server.flow.resume()
        await asyncio.sleep(0.5)
        scene.path.up()
        await server.recorder.until(lambda: len(server.recorder.data) == 15_000)
        # Its window is full since 10.0, as it hears at 10.1. It asks 0.2, 0.4, 0.8, …
        # after it has heard last; the third one at 10.4 + 0.1 + … finds the path open.
        probes = scene.times("probe")
        assert probes[:2] == exactly([10.3, 10.8])
        assert now() == exactly(probes[-1] + 0.15)

    play(act, latency=0.05, window=10_000)


def test_a_lost_segment_is_sent_again_and_holds_up_what_is_behind_it() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        scene.path.there.set(loss=1)
        client.send(b"first")
        scene.path.there.set(loss=0)
        client.send(b"second")
        await server.has_data(b"firstsecond")
        # At least 0.2 s, which is twice the round trip of 0.1 s too.
        assert now() == exactly(10 + 0.2 + 0.05)
        assert scene.times("data") == exactly([10, 10, 10.2])
        assert [entry.number for entry in scene.network.log.named("sent", "data")] == [1, 2, 1]
        assert scene.path.there.counts.lost == 1

    play(act, latency=0.05)


def test_the_retransmission_time_is_twice_the_round_trip_and_doubles() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        scene.path.there.blackhole()
        client.send(b"x")
        asyncio.get_running_loop().call_at(20.0, scene.path.up)
        await server.has_data(b"x")
        assert scene.times("data") == exactly([10, 12, 16, 24])
        assert now() == exactly(24.5)

    play(act, latency=0.5)


def test_the_retransmission_time_is_two_minutes_at_most() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established()
        scene.path.there.blackhole()
        client.send(b"x")
        await asyncio.sleep(600)
        pauses = [0.2 * 2**tries for tries in range(10)] + [120, 120, 120]
        sums = itertools.accumulate(pauses, initial=10.0)
        assert scene.times("data") == exactly([when for when in sums if when < 610])

    play(act, latency=0.05)


def test_a_segment_that_waits_for_the_bandwidth_is_not_sent_again() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        client.send(bytes(60_000))
        await server.recorder.until(lambda: len(server.recorder.data) == 60_000)
        assert now() == exactly(10 + 60 + 0.05)
        assert scene.path.there.counts.sent_bytes == 60_000

    play(act, latency=0.05, bandwidth=1000)


def test_jitter_and_reordering_cause_no_retransmission() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        for number in range(200):
            client.send(number.to_bytes(2))
            await asyncio.sleep(0.005)
        await server.has_data(b"".join(number.to_bytes(2) for number in range(200)))
        assert scene.path.there.counts.reordered > 20
        assert len(scene.times("data")) == 200

    play(act, latency=0.05, jitter=0.1, reorder=0.3, reorder_delay=0.2)


# -- signs of the peer


def test_a_dead_path_ends_the_connection_after_conn_timeout() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established(connTimeout=5.0)
        scene.path.blackhole()
        await asyncio.sleep(2)
        client.send(b"lost")
        await client.has_closed()
        assert now() == 17.0
        error = client.recorder.error
        assert isinstance(error, ConnectionError)
        assert error.reason is Reason.TIMEOUT
        assert error.errno == errno.ETIMEDOUT
        assert not server.recorder.is_closed

    play(act, latency=0.05)


def test_conn_timeout_counts_from_the_last_answer() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established(connTimeout=5.0)
        loop = asyncio.get_running_loop()
        client.send(bytes(60_000))  # 60 s of it
        loop.call_at(20.0, scene.path.blackhole)
        await client.has_closed()
        # Packets of 1500 bytes leave every 1.5 s; the last whose answer comes through
        # left at 19 s, and its answer was here at 19.1.
        assert now() == exactly(19.1 + 5)

    play(act, latency=0.05, bandwidth=1000)


def test_conn_timeout_can_be_set_while_something_waits() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established()
        assert client.flow.read("connTimeout") == math.inf
        scene.path.blackhole()
        client.send(b"lost")
        await asyncio.sleep(100)
        assert client.flow.apply("connTimeout", 150.0)
        assert client.flow.read("connTimeout") == 150.0
        await client.has_closed()
        assert now() == 160.0

    play(act, latency=0.05)


def test_who_was_given_up_is_told_when_it_speaks_again() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established(connTimeout=5.0)
        scene.path.blackhole()
        client.send(b"lost")
        await client.has_closed()
        scene.path.up()
        assert now() == 15.0
        server.send(b"are you there?")
        await server.has_closed()
        assert isinstance(server.recorder.error, ConnectionError)
        assert now() == exactly(15.1)

    play(act, latency=0.05)


def test_keep_alives_are_sent_at_exact_times_and_nothing_else_is() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established(keepAliveTimeout=20.0)
        await asyncio.sleep(10_000 - now())
        # Idle since 0.1 s. Each answer comes 0.1 s after its probe, and idling begins anew.
        probes = scene.times("probe")
        assert probes == exactly([20.1 + 20.1 * number for number in range(497)])
        assert len(scene.times("ack")) == len(probes)
        assert not scene.times("data")
        assert not client.recorder.calls
        assert not server.recorder.calls

    play(act, latency=0.05)


def test_keep_alives_find_a_dead_path() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established(keepAliveTimeout=20.0)
        scene.path.blackhole()
        await client.has_closed()
        probes = scene.times("probe")
        assert probes == exactly([20.1 + 75 * number for number in range(9)])
        assert now() == exactly(20.1 + 9 * 75)

    play(act, latency=0.05)


def test_with_conn_timeout_keep_alives_find_it_sooner() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established(keepAliveTimeout=20.0, connTimeout=30.0)
        scene.path.blackhole()
        await client.has_closed()
        assert now() == exactly(20.1 + 30)

    play(act, latency=0.05)


def test_keep_alives_can_be_asked_for_and_stopped_later() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established()
        await asyncio.sleep(990)
        assert client.flow.apply("keepAliveTimeout", 100.0)
        await asyncio.sleep(250)
        assert client.flow.apply("keepAliveTimeout", math.inf)
        await asyncio.sleep(1000)
        assert scene.times("probe") == exactly([1000, 1100.1, 1200.2])

    play(act, latency=0.05)


def test_a_path_that_comes_back_lets_everything_through_at_the_next_try() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        scene.path.down()
        client.send(b"late")
        await asyncio.sleep(1)
        scene.path.up()
        await server.has_data(b"late")
        # Tried at 10.0, 10.2, 10.6 and, with the path up since 11.0, at 11.4.
        assert now() == exactly(11.4 + 0.05)

    play(act, latency=0.05)


def test_both_ends_hear_of_a_path_that_goes_and_comes_but_not_of_a_black_hole() -> None:
    async def act(scene: Scene) -> None:
        both = await scene.established()
        scene.path.down()
        scene.path.up()
        scene.path.blackhole()
        scene.path.up()
        await asyncio.sleep(1)
        for end in both:
            told = [call.arguments[0] for call in end.recorder.named("notified")]
            assert all(isinstance(event, PathChange) for event in told)
            assert [event.reason for event in told] == ["the path is down", "the path is up"]

    play(act, latency=0.05)


def test_soft_errors_are_told_to_those_who_want_them() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established(softErrorNotify="require")
        other = await scene.connect()
        scene.path.down()
        client.send(b"x")
        other.send(b"x")
        await asyncio.sleep(0.1)
        events = [call.arguments[0] for call in client.recorder.named("notified")]
        (error,) = [event for event in events if isinstance(event, SoftError)]
        assert isinstance(error.error, OSError)
        assert error.error.errno == errno.EHOSTUNREACH
        told = [call.arguments[0] for call in other.recorder.named("notified")]
        assert not any(isinstance(event, SoftError) for event in told)

    play(act, latency=0.05)


# -- the end


def test_close_takes_one_round_trip() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        client.flow.close()
        await client.has_closed()
        assert now() == exactly(10.1)
        assert server.recorder.is_finished
        server.flow.close()
        await server.has_closed()
        assert now() == exactly(10.2)
        assert client.recorder.error is None
        assert server.recorder.error is None

    play(act, latency=0.05)


def test_a_lost_fin_is_sent_again_and_so_is_its_lost_answer() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        scene.path.there.blackhole()
        client.flow.close()
        await asyncio.sleep(0.1)
        scene.path.there.up()
        scene.path.back.blackhole()
        await server.recorder.until(lambda: server.recorder.is_finished)
        assert now() == exactly(10.25)
        scene.path.back.up()
        await client.has_closed()
        # The answer to the second fin is lost; the third is sent 0.4 s after that.
        assert now() == exactly(10.2 + 0.4 + 0.1)
        server.flow.close()
        await server.has_closed()
        assert server.recorder.error is None

    play(act, latency=0.05)


def test_an_end_that_has_closed_still_says_what_it_has() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        scene.path.back.set(loss=1)
        client.send(b"the last word")
        client.flow.close()
        await server.recorder.until(lambda: server.recorder.is_finished)
        scene.path.back.set(loss=0)
        server.flow.close()
        await server.has_closed()
        # Its fin was acknowledged; the acks of the client's data and fin were lost.
        assert now() == exactly(10.15)
        assert not client.recorder.is_closed
        await client.has_closed()
        assert client.recorder.error is None
        assert now() == exactly(10.3)

    play(act, latency=0.05)


def test_abort_is_known_half_a_round_trip_later() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        client.flow.abort()
        await client.has_closed()
        assert now() == 10.0
        await server.has_closed()
        assert now() == exactly(10.05)

    play(act, latency=0.05)


def test_a_lost_reset_is_repeated_when_the_peer_speaks() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established()
        scene.path.there.blackhole()
        client.flow.abort()
        scene.path.up()
        await asyncio.sleep(10)
        assert not server.recorder.is_closed
        server.send(b"hello?")
        await server.has_closed()
        assert now() == exactly(20.1)

    play(act, latency=0.05)


def test_a_lost_reset_is_found_by_a_keep_alive() -> None:
    async def act(scene: Scene) -> None:
        client, server = await scene.established(keepAliveTimeout=20.0)
        scene.path.back.blackhole()
        server.flow.abort()
        scene.path.up()
        await client.has_closed()
        assert now() == exactly(20.1 + 0.1)

    play(act, latency=0.05)


def test_undelivered_are_the_bytes_that_were_not_acknowledged() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established()
        client.send(bytes(4000))
        assert client.flow.read("_taps.undelivered") == 4000
        await asyncio.sleep(0.09)
        assert client.flow.read("_taps.undelivered") == 4000
        await asyncio.sleep(0.02)
        assert client.flow.read("_taps.undelivered") == 0

    play(act, latency=0.05)


def test_an_unknown_property_has_no_effect() -> None:
    async def act(scene: Scene) -> None:
        client, _ = await scene.established()
        assert not client.flow.apply("maxSendRate", 1.0)
        assert client.flow.read("maxSendRate") is None

    play(act)
