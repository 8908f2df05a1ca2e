"""A Connection and what it talks to: over memory, or over a stack that the test plays itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import pytest

import taps_core as taps
from taps_core.plugin import Capabilities, Flow, SecurityLayer, Support, Transport
from taps_core.testing import MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from taps_core.plugin import ConnectRequest, PartTuple, Receiver, SendRecord

_ANYTHING: dict[str, Any] = {
    "reliability": "no_preference",
    "preserve_order": "no_preference",
    "congestion_control": "no_preference",
    "per_msg_reliability": "no_preference",
    # Datagrams may come twice: a Message that minds that is refused there.
    "safely_replayable": True,
}


class PlayedFlow(Flow):
    """A stack in the hands of the test. It takes everything, unless it is told otherwise.

    Attributes:
        sent: What ``send`` was given: data, record, end of Message.
        calls: Names of the downward calls, ``send`` apart; and ``flush`` only
            where something had been sent.
        flushed: What left with each ``flush``.
        later: Whether the fate of a Send with this record comes by ``outcome``.
        refuse: What to raise for this data, if anything.
        up: The Connection's side, to call what a stack calls.
    """

    up: Receiver

    def __init__(self) -> None:
        self.sent: list[tuple[Any, SendRecord | None, bool]] = []
        self.calls: list[str] = []
        self.flushed: list[list[Any]] = []
        self.later: Callable[[SendRecord], bool] = lambda record: False
        self.refuse: Callable[[Any], Exception | None] = lambda data: None
        self.can_withdraw = False
        self.values: dict[str, Any] = {}
        self._gathered: list[Any] = []
        self._over = False

    @property
    def data(self) -> list[Any]:
        """What was sent, without records."""
        return [data for data, _, _ in self.sent]

    def start(self, receiver: Receiver) -> None:
        self.up = receiver

    def send(self, data: Any, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        assert "close" not in self.calls
        assert "abort" not in self.calls
        assert "finish" not in self.calls
        error = self.refuse(data)
        if error is not None:
            raise error
        self.sent.append((data, record, end_of_message))
        self._gathered.append(data)
        return record is not None and self.later(record)

    def withdraw(self) -> bool:
        self.calls.append("withdraw")
        return self.can_withdraw

    def flush(self) -> None:
        assert "close" not in self.calls
        assert "abort" not in self.calls
        if self._gathered:
            self.flushed.append(self._gathered)
            self._gathered = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def finish(self) -> None:
        assert not self._gathered
        self.calls.append("finish")

    def close(self) -> None:
        assert not self._gathered
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")
        asyncio.get_running_loop().call_soon(self.end, taps.ConnectionError("aborted"))

    def read(self, property: str, /) -> Any:
        return self.values.get(property)

    # -- what the test lets it do

    def receive(self, *messages: bytes) -> None:
        """Whole Messages arrive with one read."""
        self.up.received([(message, None, True) for message in messages])

    def parts(self, *parts: PartTuple) -> None:
        """Parts arrive with one read."""
        self.up.received(parts)

    def end(self, error: Exception | None = None) -> None:
        """The flow is over, once."""
        if not self._over:
            self._over = True
            self.up.closed(error)


class PlayedTransport(Transport):
    """Gives out the flows that the tests play; waits for ``go`` first."""

    name = "played"

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.flows: list[PlayedFlow] = []
        self.prepare: Callable[[PlayedFlow], None] = lambda flow: None
        self.go = asyncio.Event()
        self.go.set()

    async def connect(self, request: ConnectRequest) -> PlayedFlow:
        await self.go.wait()
        flow = PlayedFlow()
        self.prepare(flow)
        self.flows.append(flow)
        return flow


class Play:
    """Connections over a :class:`PlayedFlow`."""

    MESSAGES = Capabilities.messages(perMsgReliability=Support.OPTIONAL).but(
        effects={"msgLifetime": Support.ALWAYS, "msgReliable": Support.ALWAYS}
    )
    STREAM = Capabilities.byte_stream()
    DATAGRAMS = Capabilities.datagrams()

    def initiate(
        self,
        capabilities: Capabilities = MESSAGES,
        *,
        framers: Any = None,
        early: dict[str, Any] | None = None,
        **properties: Any,
    ) -> tuple[taps.Connection[Any], PlayedTransport]:
        """A Connection that is establishing, and its transport: Ready waits for ``go``.

        Args:
            capabilities: Of the transport.
            framers: Those on top of it.
            early: What InitiateWithSend is given, if that is how to initiate.
            **properties: Transport Properties.
        """
        transport = PlayedTransport(capabilities)
        transport.go.clear()
        preconnection = self.preconnection(transport, framers, None, properties)
        if early is None:
            return preconnection.initiate(), transport
        return preconnection.initiate_with_send(**early), transport

    @contextlib.asynccontextmanager
    async def connection(
        self,
        capabilities: Capabilities = MESSAGES,
        *,
        framers: Any = None,
        system: dict[str, Any] | None = None,
        **properties: Any,
    ) -> AsyncIterator[tuple[taps.Connection[Any], PlayedFlow]]:
        """An established Connection, and its flow; aborted in the end."""
        transport = PlayedTransport(capabilities)
        connection = self.preconnection(transport, framers, system, properties).initiate()
        _ = await connection
        try:
            yield connection, transport.flows[0]
        finally:
            connection.abort()
            await turns()

    def preconnection(
        self,
        transport: Transport,
        framers: Any = None,
        system: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> taps.Preconnection:
        """Leads to ``transport`` and nowhere else."""
        return taps.Preconnection(
            remote="127.0.0.1:7",
            transport=taps.TransportProperties(**{**_ANYTHING, **(properties or {})}),
            security=taps.SecurityParameters.disabled(),
            framers=framers,
            system=taps.System(plugins=[transport], **(system or {})),
        )


class Pairs:
    """Two Connections that talk to each other over memory."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network

    @contextlib.asynccontextmanager
    async def __call__(
        self, transport: Transport | None = None, *, framers: Any = None, **properties: Any
    ) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
        """Client and server, over a byte stream unless told otherwise; aborted in the end."""
        transport = transport or MemoryStream(self.network)

        def preconnection(**endpoints: Any) -> taps.Preconnection:
            return taps.Preconnection(
                transport=taps.TransportProperties(**{**_ANYTHING, **properties}),
                security=taps.SecurityParameters.disabled(),
                framers=framers,
                system=taps.System(plugins=[transport]),
                **endpoints,
            )

        async with preconnection(local="127.0.0.1:0").listen() as listener:
            client = await preconnection(remote=listener.remote_endpoint).initiate()
            if not transport.capabilities.connected:
                # The peer learns of it by the first Message.
                await client.send(b"hello")
            server = await listener.accept()
            if not transport.capabilities.connected:
                assert (await server.receive()).data == b"hello"
            try:
                yield client, server
            finally:
                client.abort()
                server.abort()
                await turns()


async def turns(number: int = 5) -> None:
    """Let the loop run so often."""
    for _ in range(number):
        await asyncio.sleep(0)


class Ticks:
    """Counts the turns of the loop while the block runs."""

    def __init__(self) -> None:
        self.count = 0
        self._stopped = False

    def __enter__(self) -> Self:
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    def _tick(self) -> None:
        if not self._stopped:
            self.count += 1
            asyncio.get_running_loop().call_soon(self._tick)


class Log:
    """The events of a Connection, as a handler is told them."""

    def __init__(self, connection: taps.Connection[Any]) -> None:
        self.events: list[Any] = []
        for event_type in (taps.Event, taps.TapsError):
            connection.on(event_type, self.events.append)

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [type(event).__name__ for event in self.events]


class World:
    """A System with just these plugins, and Preconnections that any of them fits.

    Args:
        *plugins: Transports and security layers; one of the latter is used.
        properties: Transport Properties besides those that let everything in.
        **system: For the System.
    """

    def __init__(
        self, *plugins: Any, properties: dict[str, Any] | None = None, **system: Any
    ) -> None:
        self.system = taps.System(plugins=plugins, **system)
        self.properties = {**_ANYTHING, **(properties or {})}
        secured = any(isinstance(plugin, SecurityLayer) for plugin in plugins)
        self.security = None if secured else taps.SecurityParameters.disabled()

    def preconnection(self, **arguments: Any) -> taps.Preconnection:
        """What is not given is as this world has it."""
        return taps.Preconnection(
            **{
                "transport": taps.TransportProperties(**self.properties),
                "security": self.security,
                "system": self.system,
                **arguments,
            }
        )

    def listen(
        self, handler: Any = None, *, at: Any = "127.0.0.1:0", framers: Any = None, **how: Any
    ) -> taps.Listener:
        """A Listener; ``how`` is for ``listen``."""
        return self.preconnection(local=at, framers=framers).listen(handler, **how)

    def to(self, where: Any, **arguments: Any) -> taps.Preconnection:
        """Leads to a Listener, or to Remote Endpoints."""
        if isinstance(where, taps.Listener):
            where = where.remote_endpoint
        return self.preconnection(remote=where, **arguments)


@pytest.fixture
def world() -> type[World]:
    """:class:`World`, to be made with plugins."""
    return World


@pytest.fixture
def play() -> Play:
    """Connections over a stack that the test plays."""
    return Play()


@pytest.fixture
def pair(memory_network: MemoryNetwork) -> Pairs:
    """Pairs of Connections on ``memory_network``."""
    return Pairs(memory_network)


@pytest.fixture(name="turns")
def turns_function() -> Callable[..., Any]:
    """:func:`turns`."""
    return turns


@pytest.fixture
def log() -> type[Log]:
    """:class:`Log`, to be made for a Connection."""
    return Log


@pytest.fixture
def ticks() -> Ticks:
    """A counter of loop turns, to be entered."""
    return Ticks()
