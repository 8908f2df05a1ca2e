"""Plugins of others raise what they may not: nobody waits for ever, and others go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import LayerFlow
from taps_core.testing import MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.plugin import ConnectRequest, Flow
    from taps_core.testing.fixtures import Run


class Bug(Exception):
    """What no flow may raise."""


class Breaking(MemoryStream):
    """A transport whose flows raise in one method, once it is armed.

    Attributes:
        armed: Whether they do.
    """

    def __init__(self, network: MemoryNetwork, method: str, *, armed: bool = False) -> None:
        super().__init__(network)
        self.armed = armed

        def broken(flow: Any, *arguments: Any) -> Any:
            if self.armed:
                raise Bug("broken")
            return getattr(super(kind, flow), method)(*arguments)

        kind = type("Broken", (LayerFlow,), {method: broken})
        self._kind = kind

    async def connect(self, request: ConnectRequest) -> Flow:
        flow: Flow = self._kind(await super().connect(request))
        return flow


def play(
    run: Run,
    world: Any,
    network: MemoryNetwork,
    transport: Breaking,
    scenario: Callable[[taps.Connection[Any], taps.Connection[Any]], Any],
) -> None:
    """A client over ``transport`` and its peer, whose stack is sound."""

    async def main() -> None:
        async with world(MemoryStream(network)).listen() as listener:
            client = world(transport).to(listener).initiate()
            server = await listener.accept()
            await client
            transport.armed = True
            async with asyncio.timeout(30):
                await scenario(client, server)
            client.abort()
            server.abort()
            transport.armed = False

    run(main)


SENDS: dict[str, Callable[[taps.Connection[Any]], Any]] = {
    "send": lambda client: client.send(b"x", priority=1),
    "write_through": lambda client: client.send(b"x"),
    "finish": lambda client: client.finish(),
}


@pytest.mark.parametrize("method", SENDS)
def test_a_send_that_a_stack_falls_over_fails_alone(
    run: Run, world: Any, memory_network: MemoryNetwork, method: str
) -> None:
    transport = Breaking(memory_network, method)

    async def scenario(client: taps.Connection[Any], server: taps.Connection[Any]) -> None:
        transport.armed = False
        await client.send(b"before")  # what is sent first after Ready is not written through
        assert (await server.receive_exactly(6)).data == b"before"
        transport.armed = True
        with pytest.raises(taps.SendError, match="the stack failed: Bug: broken") as caught:
            await SENDS[method](client)
        assert caught.value.reason is taps.Reason.PROTOCOL_FAILED
        assert isinstance(caught.value.__cause__, Bug)
        transport.armed = False
        await client.send(b"hello")
        assert (await server.receive_exactly(5)).data == b"hello"

    play(run, world, memory_network, transport, scenario)


def send_together(client: taps.Connection[Any]) -> None:
    with client.batch():
        client.send_nowait(b"x")


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("flush", send_together),
        ("close", lambda client: client.close()),
    ],
)
def test_a_stack_that_breaks_ends_its_connection(
    run: Run, world: Any, memory_network: MemoryNetwork, method: str, act: Any
) -> None:
    """Close never ended, or what was gathered was lost without a word."""
    transport = Breaking(memory_network, method)

    async def scenario(client: taps.Connection[Any], server: taps.Connection[Any]) -> None:
        _ = act(client)
        with pytest.raises(taps.ConnectionError, match="the stack failed: Bug: broken"):
            await client.receive(max_length=1)
        assert client.state is taps.ConnectionState.CLOSED
        with pytest.raises(taps.ConnectionError):
            await server.receive(max_length=1)

    play(run, world, memory_network, transport, scenario)


def test_a_stack_that_cannot_be_aborted_keeps_nobody(
    run: Run, world: Any, memory_network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    transport = Breaking(memory_network, "abort")

    async def scenario(client: taps.Connection[Any], server: taps.Connection[Any]) -> None:
        with pytest.raises(ZeroDivisionError):
            async with client:
                1 / 0  # noqa: B018  # aborts on the way out
        assert client.state is taps.ConnectionState.CLOSED
        assert "could not be aborted" in caplog.text
        transport.armed = False
        client._flow.lower.abort()  # type: ignore[union-attr]  # what nobody can reach any more

    play(run, world, memory_network, transport, scenario)


def test_a_property_that_a_stack_falls_over_is_refused(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    transport = Breaking(memory_network, "apply")

    async def scenario(client: taps.Connection[Any], server: taps.Connection[Any]) -> None:
        with pytest.raises(taps.PropertyError, match="the stack failed: Bug: broken"):
            client.set_property("connPriority", 5)
        await client.send(b"hello")
        assert (await server.receive_exactly(5)).data == b"hello"

    play(run, world, memory_network, transport, scenario)


def test_a_stack_that_cannot_be_started_ends_its_connection(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    """It was Ready, and nothing came, nor the end."""

    async def main() -> None:
        async with world(MemoryStream(memory_network)).listen() as listener:
            client = world(Breaking(memory_network, "start", armed=True)).to(listener).initiate()
            async with asyncio.timeout(30):
                with pytest.raises(taps.ConnectionError, match="the stack failed: Bug: broken"):
                    await client.receive(max_length=1)
            (await listener.accept()).abort()

    run(main)


def test_what_is_no_flow_is_no_connection(
    run: Run, world: Any, memory_network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    """A transport that returns nothing was the winner, and the Connection waited for ever."""

    class Forgetful(MemoryStream):
        async def connect(self, request: ConnectRequest) -> Any:
            (await super().connect(request)).abort()

    async def main() -> None:
        async with world(MemoryStream(memory_network)).listen() as listener:
            client = world(Forgetful(memory_network)).to(listener)
            async with asyncio.timeout(30):
                with pytest.raises(taps.EstablishmentError, match="None in place of a Flow"):
                    _ = await client.initiate()
            assert "failed by a bug" in caplog.text

    run(main)
