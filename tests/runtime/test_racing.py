"""What an application can ask of a race, and what a race asks of the stacks, end to end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import DataUnit, Framer, LayerCapabilities, Protection, SecurityLayer
from taps_core.testing import MemoryDatagram, MemoryNetwork, MemoryStream, VirtualNetwork

if TYPE_CHECKING:
    from taps_core.plugin import AcceptRequest, Connector, ConnectRequest, Flow
    from taps_core.testing.fixtures import Run, VirtualRun

SERVER = "server.example:7000"
NOBODY = "127.0.0.9:9"
#: What lets datagrams be candidates beside a stream.
ANY_STACK: dict[str, Any] = {
    "reliability": "no_preference",
    "preserveOrder": "no_preference",
    "congestionControl": "no_preference",
    "fullChecksumSend": "no_preference",
    "fullChecksumRecv": "no_preference",
    "safelyReplayable": True,
}


async def until_the_end(connection: taps.Connection[Any]) -> None:
    async for _ in connection:
        pass


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


def stacks(connection: taps.Connection[Any]) -> list[str]:
    """Of all attempts, without their framers."""
    return [attempt.what.split()[0].rpartition("/")[2] for attempt in connection.report]


def dual_stack(net: VirtualNetwork) -> None:
    net.path(latency=0.05)
    net.host("server.example", "2001:db8::1", "192.0.2.1")


def initiate(transport: dict[str, Any] | None = None, **how: Any) -> taps.Connection[Any]:
    return taps.Preconnection(remote=SERVER, framers="line", transport=transport).initiate(**how)


# -- modes and delays


@pytest.mark.requirement("R-9623-4.3-01")
@pytest.mark.parametrize(
    ("racing", "starts", "ready"),
    [
        (None, [0.0, 0.25], 0.35),
        ("staggered", [0.0, 0.25], 0.35),
        ("simultaneous", [0.0, 0.0], 0.1),
        # Nothing comes of the first one for two minutes, which is when TCP gives up.
        ("failover", [0.0], None),
    ],
)
def test_an_application_may_ask_for_another_kind_of_race(
    virtual_run: VirtualRun, racing: str | None, starts: list[float], ready: float | None
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        dual_stack(net)
        net.path("client", "2001:db8::1").blackhole()
        await net.serve(SERVER, until_the_end, framers="line")
        connection = initiate({} if racing is None else {"_taps.racing": racing})
        if ready is None:
            with pytest.raises(taps.EstablishmentTimeout):
                await connection
        else:
            async with connection:
                assert now() == ready
                assert connection.properties["_taps.racing"] is taps.Racing(
                    (racing or "staggered").capitalize()
                )
        assert [attempt.started for attempt in connection.report] == starts

    virtual_run(scenario)


def test_what_is_no_kind_of_race_is_refused() -> None:
    with pytest.raises(taps.PropertyError, match="Staggered"):
        taps.TransportProperties().set("_taps.racing", "happy")


@pytest.mark.requirement("R-9623-4.3.2-04", "R-9623-4.3.2-06")
def test_delays_and_families_are_the_systems(virtual_run: VirtualRun) -> None:
    asked: list[tuple[str | None, str]] = []

    def round_trip(remote: taps.RemoteEndpoint, path: str) -> float | None:
        asked.append((remote.ip_address, path))
        return 0.2 if remote.ip_address == "2001:db8::1" else None

    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        net.host("server.example", "2001:db8::1", "192.0.2.1", "192.0.2.2")
        net.path("client").blackhole()
        starts = []
        for staggering in (
            taps.Staggering(delay=0.1),
            taps.Staggering(round_trip=round_trip),
            taps.Staggering(first_family=4),
            taps.Staggering(first_family=4, first_family_count=2),
        ):
            taps.System.current().staggering = staggering
            for isolated in (False, True):
                connection = initiate({"isolateSession": isolated}, timeout=1.0)
                with pytest.raises(taps.EstablishmentTimeout):
                    await connection
                starts.append(
                    [
                        (round(each.started, 6), each.what.split("to ")[1].rpartition(":")[0])
                        for each in connection.report
                    ]
                )
        six, four, other = "[2001:db8::1]", "192.0.2.1", "192.0.2.2"
        quick = [(0.0, six), (0.1, four), (0.2, other)]
        usual = [(0.0, six), (0.25, four), (0.5, other)]
        known = [(0.0, six), (0.4, four), (0.65, other)]
        fours = [(0.0, four), (0.25, six), (0.5, other)]
        two_fours = [(0.0, four), (0.25, other), (0.5, six)]
        assert starts == [quick, quick, known, usual, fours, fours, two_fours, two_fours]
        # Only for the Connection that is not isolated.
        assert asked.count(("2001:db8::1", "default")) >= 1
        before = len(asked)
        connection = initiate({"isolateSession": True}, timeout=1.0)
        with pytest.raises(taps.EstablishmentTimeout):
            await connection
        assert len(asked) == before

    virtual_run(scenario)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delay": 0.009}, "delay is 0.01 to 2 seconds"),
        ({"delay": 2.1}, "delay is 0.01 to 2 seconds"),
        ({"path_delay": -0.1}, "path_delay is 0 to 2 seconds"),
        ({"first_family": 5}, "first_family is 4, 6 or None"),
        ({"first_family_count": 0}, "at least 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taps.Staggering(**wrong)


def test_staggering_says_what_it_is() -> None:
    assert repr(taps.Staggering(delay=0.1)) == (
        "Staggering(delay=0.1, first_family=6, first_family_count=1, path_delay=0.0, "
        "round_trip=None)"
    )
    plain = taps.Staggering()
    assert plain.isolated() is plain


def test_of_no_preference_for_a_family_the_resolver_decides(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        net.host("server.example", "192.0.2.1", "2001:db8::1")
        taps.System.current().staggering = taps.Staggering(first_family=None)
        connection = initiate()
        with pytest.raises(taps.EstablishmentError):
            await connection
        assert [each.what.split("to ")[1] for each in connection.report] == [
            "192.0.2.1:7000",
            "[2001:db8::1]:7000",
        ]

    virtual_run(scenario)


# -- what proves nothing


@pytest.mark.requirement("R-9623-4.6-01")
def test_datagrams_beside_a_stream_do_not_win_by_doing_nothing(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.5)  # a round trip takes longer than any delay of the race
        stream_first = {**ANY_STACK, "preserveMsgBoundaries": "avoid"}
        await net.serve(SERVER, until_the_end, framers="line")
        async with initiate(stream_first) as connection:
            assert now() == 1.0
            # To both addresses, and datagrams to none.
            assert stacks(connection) == ["VIRTUAL-STREAM"] * 2
            assert connection.report.untried == 2

    virtual_run(scenario)


def test_datagrams_are_what_is_left_when_the_stream_is_refused(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        both = world(
            MemoryStream(memory_network),
            MemoryDatagram(memory_network),
            properties={"preserve_msg_boundaries": "avoid"},
        )
        only = world(MemoryDatagram(memory_network))
        async with (
            only.listen() as listener,
            both.to(listener).initiate() as connection,
        ):
            assert stacks(connection) == ["MEMORY-STREAM", "MEMORY-DATAGRAM"]
            assert [each.outcome for each in connection.report] == ["failed", "ready"]

    run(main, memory_network)


def test_datagrams_that_are_preferred_win_at_once(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(
            MemoryStream(memory_network),
            MemoryDatagram(memory_network),
            properties={"preserve_msg_boundaries": "prefer"},
        )
        async with here.listen() as listener, here.to(listener).initiate() as connection:
            assert str(connection.stack) == "MEMORY-DATAGRAM"
            assert len(connection.report) == 1

    run(main, memory_network)


class Greeting(Framer):
    """Over datagrams: the peer is there once it has answered."""

    handshakes = True

    def start(self) -> None:
        self.send(b"hello")

    def handle_received_data(self) -> None:
        parsed = self.parse(1, 100)
        if parsed is not None:
            self.advance_receive_cursor(len(parsed.data))
            self.make_connection_ready()


@pytest.mark.requirement("R-9623-4.6-01")
def test_a_framer_that_waits_for_the_peer_makes_datagrams_race(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        plain = world(MemoryDatagram(memory_network))
        async with plain.listen() as listener:
            somebody = listener.remote_endpoint
            connection = plain.to([NOBODY, somebody], framers=Greeting).initiate()

            async def answer() -> None:
                async with await listener.accept() as server:
                    assert (await server.receive()).data == b"hello"
                    await server.send(b"hello")

            await asyncio.gather(answer(), connection._wait_ready())
            assert connection.remote_endpoint == somebody
            # Nobody answered at the first one, which without the framer would have won.
            assert [each.outcome for each in connection.report][-1] == "ready"
            assert len(connection.report) == 2
            connection.abort()
            await connection._released()

    run(main, memory_network)


# -- handshakes above the transport


class Slow(SecurityLayer):
    """Takes its time for the handshake, more of it each time."""

    name = "slow"
    capabilities = LayerCapabilities(
        over=frozenset({DataUnit.BYTE_STREAM}), protection=Protection(protocols=("TLSv1.3",))
    )

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)

    async def connect(self, lower: Connector, request: ConnectRequest) -> Flow:
        flow = await lower.connect(request)
        try:
            await asyncio.sleep(self._seconds.pop(0))
        except BaseException:
            flow.abort()
            raise
        return flow

    async def accept(self, lower: Flow, request: AcceptRequest) -> Flow:
        return lower


@pytest.mark.requirement("R-9623-4.4.1-01")
@pytest.mark.parametrize(
    ("seconds", "starts", "ready"),
    [
        # After 150 ms there is a peer, and 200 ms later its handshake is done.
        ([0.2], [0.0], 0.35),
        # The second one waits one delay after that, not after the start.
        ([0.6, 0.05], [0.0, 0.4], 0.5),
    ],
)
def test_a_transport_that_is_connected_gets_another_delay_for_the_handshake_above_it(
    virtual_run: VirtualRun,
    world: Any,
    memory_network: MemoryNetwork,
    seconds: list[float],
    starts: list[float],
    ready: float,
) -> None:
    memory_network.delay("10.0.0.1", 0.15)
    memory_network.delay("10.0.0.2", 0.05)

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(memory_network), Slow(*seconds))
        where = ["10.0.0.1:7", "10.0.0.2:7"]
        async with here.listen(until_the_end, at=where), here.to(where).initiate() as connection:
            report = connection.report
            assert now() == ready
            assert [round(each.started, 6) for each in report] == starts
            connected = [round(each.connected or 0.0, 6) for each in report]
            assert connected == [0.15, 0.45][: len(starts)]

    virtual_run(scenario)


def test_the_only_attempt_tells_when_its_transport_was_connected(
    virtual_run: VirtualRun, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("127.0.0.1", 0.1)

    async def scenario(_: VirtualNetwork) -> None:
        here = world(MemoryStream(memory_network), Slow(0.05))
        async with here.listen(until_the_end) as listener, here.to(listener).initiate() as client:
            (attempt,) = client.report
            assert (attempt.connected, attempt.ended) == (0.1, pytest.approx(0.15))

    virtual_run(scenario)


# -- who is in the race


def test_a_stack_that_policy_prohibits_is_not_tried(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Other(MemoryStream):
        name = "a-better-stream"

    async def main() -> None:
        for policy, expected in (
            (None, ["A-BETTER-STREAM", "MEMORY-STREAM"]),
            ({"prohibited": ["a-better-stream"]}, ["MEMORY-STREAM"]),
            ({"avoided": ["a-better-stream"]}, ["MEMORY-STREAM", "A-BETTER-STREAM"]),
        ):
            here = world(MemoryStream(memory_network), Other(memory_network), policy=policy)
            connection = here.to(NOBODY).initiate()
            with pytest.raises(taps.EstablishmentError):
                await connection
            assert stacks(connection) == expected

    run(main, memory_network)
