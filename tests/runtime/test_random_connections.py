"""Whatever is done to a Connection in whatever order: one outcome each, and the end is the end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import taps_core as taps
from taps_core.testing import (
    MemoryDatagram,
    MemoryMessages,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    run,
)
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from taps_core.plugin import Transport
    from taps_core.testing import LoopName

ACTIONS = {
    "send": 6,
    "send a lot": 3,
    "send urgently": 2,
    "send with a lifetime": 2,
    "send without waiting": 3,
    "send in parts": 3,
    "send a part": 3,
    "send the last part": 2,
    "send a final message": 1,
    "finish": 1,
    "receive": 8,
    "receive a part": 4,
    "receive exactly": 2,
    "receive until": 2,
    "cancel": 6,
    "batch": 2,
    "turn": 8,
    "wait": 1,
    "close": 1,
    "abort": 1,
}
actions = st.sampled_from([name for name, weight in ACTIONS.items() for _ in range(weight)])
#: Which end, and what it does; or what a handler of it does when it is called next.
steps = st.lists(st.tuples(st.booleans(), actions, st.booleans()), max_size=40)

SENDS = (taps.Sent, taps.SendError)
RECEIVES = (taps.Received, taps.ReceivedPartial, taps.ReceiveError)
TERMINAL = (taps.Closed, taps.ConnectionError, taps.EstablishmentError)


class End:
    """One end: what was done to it, and what came of it.

    Attributes:
        sends: How many Sends were made while it was open.
        receives: How many Receives came to an end that began while it was open.
        late: How many did that began later.
        reactions: What handlers still have to do.
    """

    def __init__(self, connection: taps.Connection[Any]) -> None:
        self.connection = connection
        self.events: list[Any] = []
        self.sends = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.receives = 0
        self.late = 0
        self.reactions: list[str] = []
        self.context: taps.MessageContext | None = None
        self.count = 0
        for event_type in (taps.Event, taps.TapsError):
            connection.on(event_type, self._told)

    def _told(self, event: Any) -> None:
        self.events.append(event)
        if self.reactions:
            self.do(self.reactions.pop())

    def do(self, action: str) -> None:
        """Something an application may do at any time."""
        connection = self.connection
        self.count += 1
        data = b"%d." % self.count
        match action:
            case "send":
                self._send(lambda: connection.send(data))
            case "send a lot":
                self._send(lambda: connection.send(data * 20_000))
            case "send urgently":
                self._send(lambda: connection.send(data, priority=1))
            case "send with a lifetime":
                self._send(lambda: connection.send(data, lifetime=1e-6))
            case "send without waiting":
                with contextlib.suppress(taps.SendError):
                    self._send(lambda: connection.send_nowait(data))
            case "send in parts":
                self._start(self._send_in_parts(data))
            case "send a part":
                self.context = self.context or taps.MessageContext()
                context = self.context
                self._send(lambda: connection.send(data, context, end_of_message=False))
            case "send the last part":
                context, self.context = self.context or taps.MessageContext(), None
                self._send(lambda: connection.send(data, context))
            case "send a final message":
                self._send(lambda: connection.send(data, final=True))
            case "finish":
                with contextlib.suppress(taps.ConnectionError):
                    self._start(connection.finish())
            case "receive":
                self._start(self._receive(lambda: connection.receive(max_length=1 << 20)))
            case "receive a part":
                self._start(
                    self._receive(lambda: connection.receive(min_incomplete_length=2, max_length=3))
                )
            case "receive exactly":
                self._start(self._receive(lambda: connection.receive_exactly(2)))
            case "receive until":
                self._start(self._receive(lambda: connection.receive_until(b".")))
            case "cancel":
                if self.tasks:
                    self.tasks[self.count % len(self.tasks)].cancel()
            case "batch":
                (connection.start_batch if self.count % 2 else connection.end_batch)()
            case "close":
                _ = connection.close()
            case "abort":
                connection.abort()

    def _send(self, send: Callable[[], Any]) -> None:
        if self.connection.state is taps.ConnectionState.CLOSED:
            with pytest.raises(taps.ConnectionError):
                send()
            return
        self.sends += 1
        outcome = send()
        if outcome is not None:
            self._start(outcome)

    async def _send_in_parts(self, data: bytes) -> None:
        with contextlib.suppress(taps.SendError):
            async with self.connection.sending() as message:
                for _ in range(3):
                    await self._count(lambda: message.send(data))
                await asyncio.sleep(0)
                # Leaving the block sends the last part.
                if self.connection.state is not taps.ConnectionState.CLOSED:
                    self.sends += 1

    async def _count(self, send: Callable[[], Awaitable[None]]) -> None:
        if self.connection.state is not taps.ConnectionState.CLOSED:
            self.sends += 1
        await send()

    async def _receive(self, receive: Callable[[], Awaitable[Any]]) -> None:
        late = self.connection.state is taps.ConnectionState.CLOSED
        with contextlib.suppress(taps.TapsError):
            await receive()
        if late:
            self.late += 1
        else:
            self.receives += 1

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def check(self) -> None:
        """What is promised."""
        events = self.events
        for task in self.tasks:
            assert task.done()
            if not task.cancelled():
                assert isinstance(task.exception(), taps.TapsError | None)
        assert [event for event in events if _is_terminal(event)] == events[-1:]
        answers = sum(isinstance(event, RECEIVES) for event in events)
        assert self.receives <= answers <= self.receives + self.late
        assert sum(isinstance(event, SENDS) for event in events) == self.sends


def _is_terminal(event: Any) -> bool:
    return isinstance(event, TERMINAL) and not isinstance(event, SENDS)


async def live(transport: Transport, script: list[tuple[bool, str, bool]]) -> None:
    """Do all that to a pair of Connections and see what is promised of each."""

    def preconnection(**endpoints: Any) -> taps.Preconnection:
        return taps.Preconnection(
            transport=taps.TransportProperties(
                reliability="no_preference",
                preserve_order="no_preference",
                congestion_control="no_preference",
                safely_replayable=True,
            ),
            security=taps.SecurityParameters.disabled(),
            framers=LengthPrefix(),
            system=taps.System(plugins=[transport]),
            **endpoints,
        )

    async with preconnection(local="127.0.0.1:0").listen() as listener:
        client = await preconnection(remote=listener.remote_endpoint).initiate()
        await client.send(b"hello")
        server = await listener.accept()
        await server.receive()
        ends = [End(client), End(server)]
        for which, action, react in script:
            end = ends[which]
            if react:
                end.reactions.append(action)
            elif action == "turn":
                await asyncio.sleep(0)
            elif action == "wait":
                await asyncio.sleep(0.001)
            else:
                end.do(action)
        for end in ends:
            end.reactions.clear()
            end.connection.abort()
        while any(not task.done() for end in ends for task in end.tasks):
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        for end in ends:
            end.check()


@pytest.mark.requirement("G-9622-9.2.2-01", "G-9622-9.3.2-01", "G-9622-11-03")
@pytest.mark.parametrize("kind", [MemoryStream, MemoryDatagram, MemoryMessages, MemorySecure])
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the loop's name is no state
)
@given(script=steps)
def test_each_send_and_each_receive_has_one_outcome_and_nothing_follows_the_end(
    loop_name: LoopName, kind: Any, script: list[tuple[bool, str, bool]]
) -> None:
    network = MemoryNetwork()
    run(lambda: live(kind(network), script), network, loop=loop_name)
