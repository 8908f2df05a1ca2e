"""Whatever is done to members of groups in whatever order: each has one end, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import taps_core as taps
from taps_core.testing import MemoryDatagram, MemoryMessages, MemoryNetwork, MemoryStream, run
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import Transport
    from taps_core.testing import LoopName

ACTIONS = {
    "clone": 8,
    "clone with other framers": 2,
    "clone with settings": 2,
    "send": 6,
    "send a lot": 2,
    "set for all": 2,
    "set for one": 2,
    "want streams": 2,
    "another address": 1,
    "one address less": 1,
    "turn": 8,
    "wait": 2,
    "close": 3,
    "abort": 3,
    "close the group": 1,
    "abort the group": 1,
    "block the way": 1,
    "free the way": 2,
}
actions = st.sampled_from([name for name, weight in ACTIONS.items() for _ in range(weight)])
#: Which of the Connections that there are, and what happens to it.
steps = st.lists(st.tuples(st.integers(0, 30), actions), max_size=40)

NOBODY = "127.0.0.9:9"


class Member:
    """A Connection, what it was told, and how many Sends it was given."""

    def __init__(self, connection: taps.Connection[Any]) -> None:
        self.connection = connection
        self.events: list[Any] = []
        self.sends = 0
        for kind in (taps.Event, taps.TapsError):
            connection.on(kind, self.events.append)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(taps.SendError):
            self.connection.send_nowait(data)
        if self.connection.state is not taps.ConnectionState.CLOSED:
            self.sends += 1

    def check(self) -> None:
        assert self.connection.state is taps.ConnectionState.CLOSED
        assert self.connection.grouped_connections() == set()
        ready = False
        ends = []
        for position, event in enumerate(self.events):
            if isinstance(event, taps.Ready):
                assert not ready
                assert not self.connection.accepted
                assert not any(isinstance(each, taps.Sent) for each in self.events[:position])
                ready = True
            elif isinstance(event, taps.CloneError):
                # Of a clone of it, unless it was never Ready: then it is its own end.
                if not (ready or self.connection.accepted):
                    ends.append(event)
            elif isinstance(event, taps.SendError):
                pass
            elif isinstance(event, taps.Closed | taps.ConnectionError | taps.EstablishmentError):
                ends.append(event)
        assert ends == self.events[-1:]
        assert sum(isinstance(each, taps.Sent | taps.SendError) for each in self.events) == (
            self.sends
        )


class Lives:
    """All Connections of one example."""

    def __init__(self, transport: Transport, network: MemoryNetwork) -> None:
        self.network = network
        self.system = taps.System(plugins=[transport])
        self.members: list[Member] = []

    def preconnection(self, **endpoints: Any) -> taps.Preconnection:
        return taps.Preconnection(
            transport=taps.TransportProperties(
                reliability="no_preference",
                preserve_order="no_preference",
                congestion_control="no_preference",
                safely_replayable=True,
            ),
            security=taps.SecurityParameters.disabled(),
            framers=LengthPrefix(),
            system=self.system,
            **endpoints,
        )

    def meet(self, connection: taps.Connection[Any]) -> None:
        if all(each.connection is not connection for each in self.members):
            self.members.append(Member(connection))

    def do(self, which: int, action: str) -> None:
        member = self.members[which % len(self.members)]
        connection = member.connection
        match action:
            case "clone":
                self.meet(connection.clone())
            case "clone with other framers":
                self.meet(connection.clone(framers=[LengthPrefix(2), LengthPrefix(1)]))
            case "clone with settings":
                settings_ = {"connPriority": which, "keepAliveTimeout": which + 1}
                self.meet(connection.clone(connection_properties=settings_))
            case "send":
                with contextlib.suppress(taps.ConnectionError):
                    member.send(b"x")
            case "send a lot":
                with contextlib.suppress(taps.ConnectionError):
                    member.send(bytes(100_000))
            case "set for all":
                if self._set(connection, "keepAliveTimeout", which + 1):
                    for each in connection.grouped_connections():
                        assert each.properties["keepAliveTimeout"] == which + 1
            case "set for one":
                others = connection.grouped_connections() - {connection}
                before = [each.properties["connPriority"] for each in others]
                self._set(connection, "connPriority", which)
                assert [each.properties["connPriority"] for each in others] == before
            case "want streams":
                connection.on(taps.ConnectionReceived, lambda event: self.meet(event.connection))
            case "another address":
                with contextlib.suppress(taps.PropertyError):
                    connection.add_remote(NOBODY)
            case "one address less":
                with contextlib.suppress(taps.PropertyError):
                    connection.remove_remote(NOBODY)
            case "close":
                _ = connection.close()
            case "abort":
                connection.abort()
            case "close the group":
                connection.close_group()
            case "abort the group":
                connection.abort_group()
            case "block the way" | "free the way":
                self.network.blackhole("127.0.0.1", action == "block the way")

    def _set(self, connection: taps.Connection[Any], name: str, value: Any) -> bool:
        if connection.state is taps.ConnectionState.CLOSED:
            with pytest.raises(taps.PropertyError):
                connection.set_property(name, value)
            return False
        connection.set_property(name, value)
        return True

    def check_groups(self) -> None:
        for one in self.members:
            group = one.connection.grouped_connections()
            for other in group:
                assert other.state is not taps.ConnectionState.CLOSED
                assert other.grouped_connections() == group

    async def live(self, script: list[tuple[int, str]]) -> None:
        async with self.preconnection(local="127.0.0.1:0").listen() as listener:
            listener.on(taps.ConnectionReceived, lambda event: self.meet(event.connection))
            there = self.preconnection(remote=listener.remote_endpoint)
            self.meet(there.initiate())
            for which, action in script:
                if action == "turn":
                    await asyncio.sleep(0)
                elif action == "wait":
                    await asyncio.sleep(0.001)
                else:
                    self.do(which, action)
                self.check_groups()
            # Everything that is in flight arrives, or is given up.
            self.network.blackhole("127.0.0.1", False)
            for _ in range(3):
                for member in tuple(self.members):
                    member.connection.abort_group()
                for _ in range(10):
                    await asyncio.sleep(0)
            for member in self.members:
                member.check()


@pytest.mark.requirement("G-9622-10-03", "G-9622-11-03", "G-9622-9.2.2-01")
@pytest.mark.parametrize("kind", [MemoryStream, MemoryDatagram, MemoryMessages])
@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the loop's name is no state
)
@given(script=steps)
def test_each_member_of_a_group_has_one_end_and_nothing_is_left(
    loop_name: LoopName, kind: Any, script: list[tuple[int, str]]
) -> None:
    network = MemoryNetwork()
    run(lambda: Lives(kind(network), network).live(script), network, loop=loop_name)
