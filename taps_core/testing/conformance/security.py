"""What every security layer promises: secrecy, honesty about the end, and clean failure."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import unittest
from typing import TYPE_CHECKING, Any, ClassVar

from taps_core.model.capabilities import DataUnit
from taps_core.model.errors import SendError, TapsError
from taps_core.model.layers import EarlyData
from taps_core.testing.conformance.stage import breaches, names, turns
from taps_core.testing.conformance.suite import Conformance
from taps_core.testing.memory import MemoryNetwork
from taps_core.testing.memory_datagram import MemoryDatagram
from taps_core.testing.memory_messages import MemoryMessages
from taps_core.testing.memory_stream import MemoryStream
from taps_core.testing.rig import End, Rig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taps_core.model.flow import Flow
    from taps_core.model.layers import SecurityLayer, Transport
    from taps_core.model.security import SecurityParameters

__all__ = ["SecurityLayerConformance"]

SECRET = b"a secret that must not be seen"
#: Turns of the loop after which a handshake in memory is over, or waits for good.
TURNS = 100


class SecurityLayerConformance(Conformance):
    """What a security layer promises.

    ::

        class TestMine(SecurityLayerConformance):
            layer = Mine()

            def parameters(self):
                return server_identity, client_trust

    Attributes:
        layer: What is tested.
    """

    layer: ClassVar[SecurityLayer]

    def parameters(self) -> tuple[SecurityParameters, SecurityParameters]:
        """Security Parameters of a server and of a client that trust each other.

        Unless it is overridden, what the layer's ``acquainted`` gives. What that needs and
        does not find is no fault of the layer's: the test is skipped.
        """
        return self._acquainted

    @functools.cached_property
    def _acquainted(self) -> tuple[SecurityParameters, SecurityParameters]:
        try:
            return self.layer.acquainted()
        except ImportError as missing:
            raise unittest.SkipTest(str(missing)) from missing

    # -- the declaration

    def test_the_declaration_is_plain(self) -> None:
        """Name and table are there, and say which protection it gives over what."""
        layer = self.layer
        assert layer.name == layer.name.lower(), f"{layer.name} is not lower case"
        assert layer.capabilities.over, "it runs over no data unit"
        assert layer.capabilities.protection.protocols, "its table names no protocol"
        hash(layer)

    # -- secrecy

    def test_no_plaintext_is_on_the_wire(self) -> None:
        """What the application sends is nowhere on the wire, in either direction."""

        async def act(rig: Rig, wire: list[bytes]) -> None:
            client, server = await self.pair(rig)
            for sender, receiver in ((client, server), (server, client)):
                await self.delivers(sender, receiver, SECRET)
            assert SECRET not in b"".join(wire), "it is on the wire as it was sent"

        self.on_stage(act)

    def test_early_data_is_protected_too(self) -> None:
        """Data that may travel with the handshake does so protected, or not at all."""

        async def act(rig: Rig, wire: list[bytes]) -> None:
            for _ in range(2):  # with a ticket, the second time, where there are tickets
                accepting = asyncio.ensure_future(rig.accept())
                client = await rig.connect(early=EarlyData(SECRET))
                if not self.connected:
                    client.send(b"first")
                await accepting
            assert SECRET not in b"".join(wire), "it is on the wire as it was given"

        self.on_stage(act)

    # -- data

    def test_data_is_intact_both_ways(self) -> None:
        """Messages of all sizes arrive as they were sent, both ways."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, server = await self.pair(rig)
            generator = random.Random(1)  # to be repeatable, not to be secret
            for size in (1, 2, 100, 1000, 5000) + ((100_000,) if self.connected else ()):
                for sender, receiver in ((client, server), (server, client)):
                    await self.delivers(sender, receiver, generator.randbytes(size))

        self.on_stage(act)

    def test_a_sequence_of_buffers_is_one_message(self) -> None:
        """Several buffers that go down together arrive joined, in order."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, server = await self.pair(rig)
            client.send((b"ab", b"c", b"def"))
            await self.soon(lambda: len(server.recorder.data) >= 6, "the buffers arrive")
            assert server.recorder.data == b"abcdef", f"what came is {server.recorder.data!r}"

        self.on_stage(act)

    def test_the_tail_arrives(self) -> None:
        """What was sent right before close arrives, and the end is an orderly one."""
        self._needs_connected()

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, server = await self.pair(rig)
            client.send(*[b"tail"] * 100)
            client.flow.close()
            await self.soon(
                lambda: server.recorder.is_finished or server.recorder.is_closed, "the end comes"
            )
            assert server.recorder.data == b"tail" * 100, (
                f"{len(server.recorder.data)} of 400 bytes came"
            )
            assert not server.recorder.named("failed"), "an orderly end came as a failure"

        self.on_stage(act)

    def test_pause_holds_back(self) -> None:
        """A paused flow delivers nothing until it is resumed."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, server = await self.pair(rig)
            server.flow.pause()
            await turns()
            client.send(b"held")
            await turns(TURNS)
            assert not server.recorder.data, f"{server.recorder.data!r} came up while paused"
            server.flow.resume()
            await self.soon(lambda: server.recorder.data == b"held", "what was held comes up")

        self.on_stage(act)

    # -- honesty

    def test_truncation_is_an_error(self) -> None:
        """A stream that ends below without the peer's own end is an error, not an end."""
        if DataUnit.BYTE_STREAM not in self.layer.capabilities.over:
            self.not_claimed("it runs over no byte stream")

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, server = await self.pair(rig)
            client.send(b"half of it")
            below(client).finish()
            await self.soon(
                lambda: set(names(server)) & {"finished", "failed", "closed"}, "the end comes"
            )
            assert not server.recorder.is_finished, "it looks like an orderly end"
            closed = server.recorder.is_closed and server.recorder.error is None
            assert not closed, "it looks like an orderly end"

        self.on_stage(act)

    def test_forged_data_does_not_come_up(self) -> None:
        """What the peer has not sent does not come up: it is an error, or is ignored."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            generator = random.Random(1)  # to be repeatable, not to be secret
            for size in (1, 5, 20, 100, 1000):
                client, server = await self.pair(rig)
                below(client).send(generator.randbytes(size), None, self._whole)
                below(client).flush()
                await turns(TURNS)
                came = server.recorder.data
                assert not came, f"{len(came)} bytes came up that nobody has sent"

        self.on_stage(act)

    # -- failure

    def test_a_failed_handshake_says_so_in_our_words(self) -> None:
        """A peer that speaks something else is an EstablishmentError or an OSError."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            error = await self.fail(rig)
            if error is not None:
                assert isinstance(error, (TapsError, OSError)), f"it raised {error!r}"

        self.on_stage(act, raw=True, strict=False)

    def test_a_failed_handshake_leaves_nothing(self) -> None:
        """A handshake that fails ends the flow below and leaves no task."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            await self.fail(rig)
            await turns(TURNS)
            assert not self.clients(rig), "the flow below is still open"

        self.on_stage(act, raw=True)

    def test_a_cancelled_handshake_is_cancelled(self) -> None:
        """Cancelling a handshake raises CancelledError, at whatever point it comes."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            async for task, step in self.cancelled(rig):
                if not task.cancelled():
                    seen = repr(task.exception() or "a flow")
                    raise AssertionError(f"cancelled after {step} turns, connect gave {seen}")

        self.on_stage(act, strict=False)

    def test_a_cancelled_handshake_leaves_nothing(self) -> None:
        """A handshake that is cancelled ends the flow below and leaves no task."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            async for task, step in self.cancelled(rig):
                if not task.cancelled() and task.exception() is None:
                    end = End(task.result())
                    end.flow.abort()
                    await turns()
                await turns()
                assert not self.clients(rig), f"a flow is open, cancelled after {step} turns"

        self.on_stage(act)

    def test_a_peer_that_never_answers_can_be_given_up(self) -> None:
        """A handshake with a silent peer goes on until it is cancelled, and then is gone."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            task = asyncio.ensure_future(self.connect(rig))
            await turns(TURNS)
            if task.done():
                return  # it gave up by itself
            task.cancel()
            await asyncio.wait([task], timeout=self.patience)
            assert task.done(), "connect goes on though it was cancelled"
            await turns()
            assert not self.clients(rig), "the flow below is still open"

        self.on_stage(act, raw=True)

    # -- the rules of the data path

    def test_nothing_comes_up_from_inside_a_call_down(self) -> None:
        """Nothing comes up from inside start, send, flush, pause, resume, close or abort."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, server = await self.pair(rig)
            for _round in range(5):
                client.send(b"there")
                server.send(b"back")
                server.flow.pause()
                await turns(2)
                server.flow.resume()
            client.flow.close()
            server.flow.abort()
            await turns(TURNS)
            for end in (client, server):
                for violation in breaches(end, "from inside"):
                    raise AssertionError(violation)

        self.on_stage(act)

    def test_closed_comes_once(self) -> None:
        """Closed comes, once, after close and after abort."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            for verb in ("close", "abort"):
                client, server = await self.pair(rig)
                getattr(client.flow, verb)()
                client.flow.abort()
                server.flow.abort()
                await self.soon(client.is_over, "closed")
                await turns(TURNS)
                count = names(client).count("closed")
                assert count == 1, f"closed came {count} times after {verb}"

        self.on_stage(act)

    def test_send_after_close_is_refused(self) -> None:
        """Sending on a flow that was closed raises SendError."""

        async def act(rig: Rig, _: list[bytes]) -> None:
            client, _server = await self.pair(rig)
            client.flow.close()
            try:
                client.flow.lower.send(b"too late", None, True)
            except SendError:
                return
            raise AssertionError("send after close was taken")

        self.on_stage(act)

    # -- helpers

    @property
    def connected(self) -> bool:
        """Whether it runs over something that has a beginning and an end."""
        return DataUnit.DATAGRAM not in self.layer.capabilities.over

    @property
    def _whole(self) -> bool:
        """Whether what is sent below is a Message."""
        return DataUnit.BYTE_STREAM not in self.layer.capabilities.over

    def _needs_connected(self) -> None:
        if not self.connected:
            self.not_claimed("datagrams have no end")

    def transport(self, network: MemoryNetwork) -> Transport:
        """What it runs over: the first that it can, of byte stream, Messages, datagrams."""
        over = self.layer.capabilities.over
        if DataUnit.BYTE_STREAM in over:
            return MemoryStream(network)
        return MemoryMessages(network) if DataUnit.MESSAGE in over else MemoryDatagram(network)

    def on_stage(
        self,
        act: Callable[[Rig, list[bytes]], Awaitable[None]],
        *,
        raw: bool = False,
        strict: bool = True,
    ) -> None:
        """Run ``act(rig, wire)`` on each loop.

        Args:
            act: The test.
            raw: Whether the listener has no security layer.
            strict: As for ``run``.
        """

        async def main() -> None:
            self.network = MemoryNetwork()
            wire: list[bytes] = []
            self.network.wiretap = wire.append
            rig = Rig(
                self.transport(self.network),
                None if raw else self.layer,
                parameters=self.parameters(),
            )
            await rig.__aenter__()
            try:
                await act(rig, wire)
            finally:
                # As an error would leave it: what is open is aborted, and nothing is
                # checked that has a test of its own.
                await rig.__aexit__(Exception, Exception(), None)
            await turns(TURNS)

        self.run(main, strict=strict)

    async def pair(self, rig: Rig) -> tuple[End, End]:
        """Both ends, after a first Message."""
        try:
            async with asyncio.timeout(self.patience):
                return await rig.pair()
        except TimeoutError:
            raise AssertionError("no handshake succeeds") from None

    async def delivers(self, sender: End, receiver: End, message: bytes) -> None:
        """Send one Message and wait until it is there."""
        receiver.recorder.forget()
        sender.send(message)
        await self.soon(
            lambda: len(receiver.recorder.data) >= len(message), f"{len(message)} bytes arrive"
        )
        assert receiver.recorder.data == message, "what came is not what was sent"

    async def soon(self, condition: Callable[[], object], what: str) -> None:
        """Wait until it is so."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        while not condition():
            assert loop.time() < deadline, f"waited {self.patience:g} s in vain: {what}"
            await asyncio.sleep(0)

    async def connect(self, rig: Rig) -> Flow:
        """The layer's own connect, to wherever the rig listens."""
        from taps_core.testing.requests import connect_request

        request = connect_request(rig.remote, security=self.parameters()[1])
        return await self.layer.connect(self.transport(self.network), request)

    async def fail(self, rig: Rig) -> Exception | None:
        """Shake hands with a peer that answers nonsense; what that raises, if anything."""
        connecting = asyncio.ensure_future(self.connect(rig))
        try:
            async with asyncio.timeout(self.patience):
                server = await rig.accept()
        except TimeoutError:
            connecting.cancel()
            await asyncio.wait([connecting])
            raise AssertionError("nothing arrives of a handshake") from None
        for _ in range(3):
            with contextlib.suppress(SendError):
                server.flow.send(b"this is no handshake at all\r\n", None, self._whole)
                server.flow.flush()
            await turns(10)
        server.flow.abort()
        await turns(10)
        if not connecting.done() and not self.connected:
            # Garbage is ignored there: whoever connects has a deadline.
            connecting.cancel()
            await asyncio.wait([connecting])
            return None
        await asyncio.wait([connecting], timeout=self.patience)
        if not connecting.done():
            connecting.cancel()
            await asyncio.wait([connecting])
            raise AssertionError("the handshake does not end with the flow below")
        if connecting.cancelled():
            return asyncio.InvalidStateError("connect was cancelled from within")
        error = connecting.exception()
        if error is None:
            connecting.result().abort()
            raise AssertionError("a handshake with nonsense succeeded")
        return error if isinstance(error, Exception) else RuntimeError(repr(error))

    async def cancelled(self, rig: Rig) -> Any:
        """Connects that were cancelled after 0, 1, 2, … turns, until one is faster."""
        serving = asyncio.ensure_future(self._serve(rig))
        try:
            for step in range(200):
                task = asyncio.ensure_future(self.connect(rig))
                await turns(step)
                if task.done():
                    end = End(task.result())
                    end.flow.abort()
                    return
                task.cancel()
                await asyncio.wait([task], timeout=self.patience)
                assert task.done(), f"connect goes on though it was cancelled after {step} turns"
                yield task, step
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    async def _serve(self, rig: Rig) -> None:
        """Answer handshakes, also those that come to nothing."""
        while True:
            with contextlib.suppress(TapsError, OSError):
                await rig.accept()

    def clients(self, rig: Rig) -> list[Flow]:
        """Open flows of those who connected to the rig."""
        port = rig.listener.local_endpoint.port
        return [
            flow
            for flow in self.network.flows
            if flow.local_endpoint is not None and flow.local_endpoint.port != port
        ]


def below(end: End) -> Flow:
    """The flow under the security layer."""
    layer = end.flow.lower
    lower = getattr(layer, "lower", None)
    if lower is None:
        raise AssertionError("the layer's flow has no `lower`: it is no LayerFlow")
    return lower  # type: ignore[no-any-return]  # that of a LayerFlow
