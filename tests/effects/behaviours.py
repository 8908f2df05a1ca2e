"""What shows that a property has the effect that the table claims: one function for each.

Whoever claims a further effect (in a plugin's table, or of every Connection) adds a function
here, or names a test that shows it.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import DSCP, CapacityProfile, Ecn
from tests.effects.lines import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.effects.lines import Line, Link

TCP, IP = socket.IPPROTO_TCP, socket.IPPROTO_IP
USER_TIMEOUT = (TCP, 18)
KEEP_ALIVE = (socket.SOL_SOCKET, 9)
KEEP_IDLE = (TCP, 4)
PACING = (socket.SOL_SOCKET, 47)
TOS = (IP, 1)
MTU_DISCOVER = (IP, 10)
DO = 2  # IP_PMTUDISC_DO
SCAVENGER = CapacityProfile.SCAVENGER
MARK = DSCP[SCAVENGER][0] << 2

#: Transport or ``"*"``, property → what shows the effect.
BEHAVIOURS: dict[tuple[str, str], Callable[[Line], Awaitable[None]]] = {}

#: Shown elsewhere: transport, property → file and test.
ELSEWHERE = {
    ("tcp", "_taps.excessiveRetransmissions"): (
        "plugins/tcp/tests/test_soft_errors.py",
        "test_the_threshold_can_be_changed_and_disabled",
    ),
    ("tcp", "safelyReplayable"): (
        "plugins/tcp/tests/test_fast_open.py",
        "test_once_there_is_a_cookie_the_message_is_in_the_syn",
    ),
    ("tcp", "earlyData"): (
        "plugins/tcp/tests/test_fast_open.py",
        "test_what_came_in_the_syn_is_told_to_be_early_and_nothing_else",
    ),
    ("tcp", "multipathPolicy"): (
        "plugins/tcp/tests/test_multipath.py",
        "test_the_policy_is_that_of_the_path_manager_and_another_one_is_refused",
    ),
    ("tcp", "_taps.multipathInUse"): (
        "plugins/tcp/tests/test_multipath.py",
        "test_both_ends_use_it_where_one_asks_and_the_other_listens",
    ),
    ("udp", "groupConnLimit"): (
        "plugins/udp/tests/test_multicast.py",
        "test_a_group_takes_no_more_senders_than_it_may",
    ),
    ("udp", "maxSendRate"): (
        "tests/integration/test_group_limit.py",
        "test_max_send_rate_is_kept_by_the_kernel_or_by_the_connection",
    ),
    ("udp", "_taps.dropped"): (
        "plugins/udp/tests/test_drops.py",
        "test_a_connection_counts_what_its_socket_had_no_room_for",
    ),
    ("udp-lite", "recvChecksumLen"): (
        "plugins/udp/tests/test_lite.py",
        "test_the_least_coverage_can_be_changed",
    ),
    ("udp-lite", "msgChecksumLen"): (
        "plugins/udp/tests/test_lite.py",
        "test_of_a_message_so_much_is_covered_as_was_asked_for",
    ),
}
# The group's own, whatever the transport.
ELSEWHERE |= {
    (transport, "_taps.groupMaxSendRate"): (
        "tests/integration/test_group_limit.py",
        "test_three_of_a_group_share_its_limit_as_the_scheduler_says",
    )
    for transport in ("tcp", "udp", "udp-lite")
}
ELSEWHERE["tcp", "_taps.undelivered"] = (
    "plugins/tcp/tests/test_properties.py",
    "test_undelivered_is_a_property_of_the_connection",
)
# What a handshake came to.
_INTROSPECTION = "plugins/tls/tests/test_introspection.py"
ELSEWHERE |= {
    ("tls", f"_taps.{name}"): (
        _INTROSPECTION,
        "test_properties_and_info_tell_the_same_at_both_ends",
    )
    for name in (
        *("securityProtocol", "ciphersuite", "alpn", "peerCertificates", "peerVerified"),
        *("earlyDataAccepted", "preSharedKeyUsed"),
    )
}
ELSEWHERE |= {
    ("tls", "_taps.sessionResumed"): (_INTROSPECTION, "test_a_session_that_is_resumed_is_told"),
    ("tls", "_taps.keyExchangeGroup"): (
        _INTROSPECTION,
        "test_the_group_is_told_where_it_is_known",
    ),
}
# The same code serves both.
ELSEWHERE |= {
    ("udp-lite", name): ELSEWHERE["udp", name]
    for name in ("groupConnLimit", "_taps.dropped", "maxSendRate")
}


def shows(name: str, *transports: str) -> Any:
    """Register a function; ``transports``: those that it is for, all if none is given."""

    def register(function: Any) -> Any:
        for transport in transports or ("*",):
            BEHAVIOURS[transport, name] = function
        return function

    return register


async def refused(link: Link, data: bytes, reason: taps.Reason, **properties: Any) -> None:
    """A Message is refused, and the next one is not."""
    with pytest.raises(taps.SendError) as caught:
        await link.connection.send(data, **properties)
    assert caught.value.reason is reason
    await link.connection.send(b"the next")
    await link.gets(b"the next")


# ------------------------------------------------------------------ Connections see to these


@shows("connPriority")
async def conn_priority(line: Line) -> None:
    """Copied by Clone, each one's own from then on."""
    async with line.open(connPriority=7) as link:
        clone = link.connection.clone()
        clone.set_property("connPriority", 8)
        link.connection.set_property("connPriority", 9)
        assert clone.properties["connPriority"] == 8
        assert link.connection.properties["connPriority"] == 9
        clone.abort()


class Resolver:
    """Notes whom it is asked for; ``alone`` is asked for isolated sessions."""

    def __init__(self, alone: Resolver | None = None, takes: float = 0) -> None:
        self.asked = 0
        self.alone = alone
        self.takes = takes

    def isolated(self) -> Any:
        return self.alone

    async def resolve(self, endpoint: Any) -> list[Any]:
        self.asked += 1
        await asyncio.sleep(self.takes)
        return [endpoint.with_ip_address("127.0.0.1")]


@shows("isolateSession")
async def isolate_session(line: Line) -> None:
    """The resolver that remembers nothing is asked; a clone asks nobody."""
    for isolated in (False, True):
        alone = Resolver()
        remembering = Resolver(alone)
        async with line.open(resolver=remembering, isolateSession=isolated) as link:
            assert (remembering.asked, alone.asked) == (not isolated, isolated)
            clone = await link.connection.clone()
            assert clone.properties["isolateSession"] is isolated
            assert (remembering.asked, alone.asked) == (not isolated, isolated)


@shows("connState")
async def conn_state(line: Line) -> None:
    """Each state is told while it lasts."""
    states: list[Any] = []

    def note(connection: Any) -> None:
        states.append(connection.properties["connState"])

    async with line.open(note) as link:
        note(link.connection)
        closing = link.connection.close()
        note(link.connection)
        link.connection.abort()
        await closing
        note(link.connection)
    assert states == list(taps.ConnectionState)


@shows("canSend")
async def can_send(line: Line) -> None:
    """Until the Final Message."""
    async with line.open() as link:
        assert link.connection.properties["canSend"] is True
        await link.connection.send(b"last", final=True)
        assert link.connection.properties["canSend"] is False
    async with line.open(direction="Unidirectional receive") as link:
        assert link.connection.properties["canSend"] is False


@shows("canReceive")
async def can_receive(line: Line) -> None:
    """Until Close; not at all where nothing shall be received."""
    async with line.open() as link:
        assert link.connection.properties["canReceive"] is True
        closing = link.connection.close()
        assert link.connection.properties["canReceive"] is False
        link.connection.abort()
        await closing
    async with line.open(direction="Unidirectional send") as link:
        assert link.connection.properties["canReceive"] is False


@shows("final")
async def final(line: Line) -> None:
    """No Send is taken after it, and data still comes the other way."""
    async with line.open() as link:
        await link.connection.send(b"last", final=True)
        await link.gets(b"last")
        with pytest.raises(taps.SendError) as caught:
            await link.connection.send(b"one more")
        assert caught.value.reason is taps.Reason.INVALID_MESSAGE_PROPERTIES
        await link.give(b"answer")
        assert (await link.connection.receive(max_length=100)).data == b"answer"


@shows("final", "tcp")
async def final_of_tcp(line: Line) -> None:
    """The same, and the peer sees the end."""
    await final(line)
    async with line.open() as link:
        await link.connection.send(b"last", final=True)
        await link.gets(b"last")
        assert await until(lambda: link.peer.recv(1)) == b""


@shows("msgLifetime")
async def msg_lifetime(line: Line) -> None:
    """A Message whose time is over before it could leave is Expired, and never arrives."""
    late: list[Any] = []

    def send(connection: Any) -> None:
        late.append(connection.send(b"late", lifetime=0.001))
        late.append(connection.send(b"in time", lifetime=1000))

    # Its name is not resolved before that.
    async with line.open(send, resolver=Resolver(takes=0.02)) as link:
        with pytest.raises(taps.Expired):
            await late[0]
        await late[1]
        await link.gets(b"in time")


@shows("msgPriority")
async def msg_priority(line: Line) -> None:
    """Of those that wait the smallest number leaves first; a default counts, too."""
    outcomes: list[Any] = []

    def send(connection: Any) -> None:
        for name, priority in ((b"third", 100), (b"first", 1), (b"second", 50)):
            outcomes.append(connection.send(name, priority=priority))
        connection.set_property("msgPriority", 75)
        outcomes.append(connection.send(b"between"))

    async with line.open(send) as link:
        for outcome in outcomes:
            await outcome
        await link.gets(b"first", b"second", b"between", b"third")


@shows("safelyReplayable")
async def safely_replayable(line: Line) -> None:
    """Demanded of every Message."""
    async with line.open() as link:
        await refused(
            link,
            b"not twice",
            taps.Reason.INVALID_MESSAGE_PROPERTIES,
            safely_replayable=False,
        )


# ------------------------------------------------------------------ TCP


@shows("connTimeout", "tcp")
async def conn_timeout(line: Line) -> None:
    async with line.open(connTimeout=3) as link:
        assert link.option(*USER_TIMEOUT) == 3000
        link.connection.set_property("connTimeout", 2.5)
        assert link.option(*USER_TIMEOUT) == 2500
        assert link.connection.properties["connTimeout"] == 2.5
        link.connection.set_property("connTimeout", math.inf)
        assert link.option(*USER_TIMEOUT) == 0


@shows("keepAliveTimeout", "tcp")
async def keep_alive_timeout(line: Line) -> None:
    async with line.open() as link:
        assert not link.option(*KEEP_ALIVE)
        link.connection.set_property("keepAliveTimeout", 40)
        assert link.option(*KEEP_ALIVE)
        assert link.option(*KEEP_IDLE) == link.connection.properties["keepAliveTimeout"] == 40
        link.connection.set_property("keepAliveTimeout", math.inf)
        assert not link.option(*KEEP_ALIVE)


@shows("connCapacityProfile", "tcp")
async def conn_capacity_profile(line: Line) -> None:
    async with line.open(connCapacityProfile=SCAVENGER) as link:
        assert link.option(*TOS) == MARK
        link.connection.set_property("connCapacityProfile", "Default")
        assert link.option(*TOS) == 0


@shows("maxSendRate", "tcp")
async def max_send_rate(line: Line) -> None:
    async with line.open() as link:
        link.connection.set_property("maxSendRate", 8e6)
        assert link.option(*PACING) == 1_000_000
        assert link.connection.properties["maxSendRate"] == 8e6


@shows("tcp.userTimeoutEnabled", "tcp")
@shows("tcp.userTimeoutValue", "tcp")
async def user_timeout(line: Line) -> None:
    async with line.open() as link:
        link.connection.set_property("tcp.userTimeoutValue", 9)
        assert link.option(*USER_TIMEOUT) == 0
        link.connection.set_property("tcp.userTimeoutEnabled", True)
        assert link.option(*USER_TIMEOUT) == 9000


@shows("_taps.retransmissions", "tcp")
async def retransmissions(line: Line) -> None:
    async with line.open() as link:
        await link.hello()
        assert link.connection.properties["_taps.retransmissions"] == 0


@shows("singularTransmissionMsgMaxLen", "tcp")
async def segment_size(line: Line) -> None:
    async with line.open() as link:
        limit = link.connection.properties["singularTransmissionMsgMaxLen"]
        assert limit == link.option(TCP, socket.TCP_MAXSEG)


@shows("singularTransmissionMsgMaxLen", "tls")
async def segment_size_less_a_record(line: Line) -> None:
    """Header, kind and tag of a record of TLS 1.3 take their part of a segment."""
    async with line.open() as link:
        limit = link.connection.properties["singularTransmissionMsgMaxLen"]
        assert limit == link.option(TCP, socket.TCP_MAXSEG) - 22


@shows("noFragmentation", "tcp")
async def no_fragmentation_on_tcp(line: Line) -> None:
    """Longer Messages are segmented as ever, in packets that nobody may fragment."""
    whole = bytes(100_000)
    async with line.open() as link:
        before = link.options()
        await link.connection.send(whole, no_fragmentation=False)
        assert link.options() == before
        await link.gets(whole)
        await link.connection.send(whole, no_fragmentation=True)
        assert link.option(*MTU_DISCOVER) == DO
        await link.gets(whole)
    async with line.open(noFragmentation=True) as link:
        assert link.option(*MTU_DISCOVER) == DO


@shows("noSegmentation", "tcp")
async def no_segmentation_on_tcp(line: Line) -> None:
    overhead = 4 if line.framers else 0
    async with line.open() as link:
        limit = link.connection.properties["singularTransmissionMsgMaxLen"] - overhead
        longest = bytes(limit)
        await link.connection.send(longest, no_segmentation=True)
        assert link.option(*MTU_DISCOVER) == DO
        await link.gets(longest)
        await refused(link, bytes(limit + 1), taps.Reason.MESSAGE_TOO_LARGE, no_segmentation=True)
        context = taps.MessageContext(no_segmentation=True)
        for part, end in ((b"part", False), (b"part", True)):
            with pytest.raises(taps.SendError, match="noSegmentation"):
                await link.connection.send(part, context, end_of_message=end)
        await link.connection.send(b"the next")
        await link.gets(b"the next")


@shows("receivedFinal", "tcp")
async def received_final(line: Line) -> None:
    async with line.open() as link:
        await link.hello()
        assert link.connection.properties["receivedFinal"] is False
        link.peer.shutdown(socket.SHUT_WR)
        with pytest.raises(taps.EndOfData):
            while True:  # on a bare stream the end completes the one Message
                await link.connection.receive(max_length=100)
        assert link.connection.properties["receivedFinal"] is True


@shows("sendMsgMaxLen", "tcp")
async def send_msg_max_len_of_a_stream(line: Line) -> None:
    async with line.open() as link:
        limit = link.connection.properties["sendMsgMaxLen"]
        if not line.framers:
            assert limit == sys.maxsize
            return
        assert limit == line.framers[0].create().max_length
        await refused(link, bytes(limit + 1), taps.Reason.MESSAGE_TOO_LARGE)


@shows("recvMsgMaxLen", "tcp")
async def recv_msg_max_len_of_a_stream(line: Line) -> None:
    async with line.open() as link:
        limit = link.connection.properties["recvMsgMaxLen"]
        if not line.framers:
            assert limit == sys.maxsize
            return
        link.peer.send((limit + 1).to_bytes(4))
        with pytest.raises(taps.ReceiveError):
            await link.connection.receive()


# ------------------------------------------------------------------ UDP, UDP-Lite

DATAGRAMS = ("udp", "udp-lite")


@shows("connCapacityProfile", *DATAGRAMS)
async def conn_capacity_profile_of_datagrams(line: Line) -> None:
    async with line.open(connCapacityProfile=SCAVENGER) as link:
        await link.connection.send(b"marked")
        assert await link.gets(b"marked") == [MARK]
        link.connection.set_property("connCapacityProfile", "Default")
        await link.connection.send(b"plain")
        assert await link.gets(b"plain") == [0]


@shows("msgCapacityProfile", *DATAGRAMS)
async def msg_capacity_profile(line: Line) -> None:
    async with line.open() as link:
        await link.connection.send(b"marked", capacity_profile=SCAVENGER)
        await link.connection.send(b"plain")
        link.connection.set_property("msgCapacityProfile", SCAVENGER)
        await link.connection.send(b"by default")
        assert await link.gets(b"marked", b"plain", b"by default") == [MARK, 0, MARK]


@shows("sendMsgMaxLen", *DATAGRAMS)
@shows("singularTransmissionMsgMaxLen", *DATAGRAMS)
@shows("noFragmentation", *DATAGRAMS)
@shows("noSegmentation", *DATAGRAMS)
async def whole_datagrams(line: Line) -> None:
    """What fits leaves as one datagram that nobody may fragment; what does not is refused."""
    async with line.open() as link:
        assert link.option(*MTU_DISCOVER) == DO
        properties = link.connection.properties
        limit = properties["singularTransmissionMsgMaxLen"]
        assert properties["sendMsgMaxLen"] == limit
        for wish in ({}, {"no_fragmentation": True}, {"no_segmentation": True}):
            await link.connection.send(bytes(limit), **wish)
            await link.gets(bytes(limit))
            await refused(link, bytes(limit + 1), taps.Reason.MESSAGE_TOO_LARGE, **wish)


@shows("recvMsgMaxLen", *DATAGRAMS)
async def recv_msg_max_len(line: Line) -> None:
    async with line.open() as link:
        await link.hello()
        longest = bytes(link.connection.properties["recvMsgMaxLen"])
        await link.give(longest)
        assert (await link.connection.receive()).data == longest
        with pytest.raises(OSError, match="too long"):
            await link.give(longest + b"1")


@shows("_taps.receiveEcn", *DATAGRAMS)
@shows("ecn", *DATAGRAMS)
async def ecn(line: Line) -> None:
    """Told with the Message, by whoever wants it."""
    marks = ((1, Ecn("ECT(1)")), (2, Ecn("ECT(0)")), (3, Ecn("CE")), (0, None))
    async with line.open() as link:
        await link.hello()
        for wanted in (False, True):
            link.connection.set_property("_taps.receiveEcn", wanted)
            for mark, name in marks:
                link.peer.setsockopt(*TOS, mark)
                await link.give(b"%d" % mark)
                message = await link.connection.receive()
                assert message.data == b"%d" % mark
                assert message.context.get("ecn") == (name if wanted else None)
