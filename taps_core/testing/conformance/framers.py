"""What every framer promises: on a byte stream that is cut anywhere, over datagrams, on garbage."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tracemalloc
from typing import TYPE_CHECKING, Any, ClassVar

from taps_core.model.errors import (
    ConnectionError,
    EndOfData,
    Reason,
    ReceiveError,
    SendError,
)
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters
from taps_core.runtime.preconnection import Preconnection
from taps_core.runtime.system import System
from taps_core.testing.conformance.stage import turns
from taps_core.testing.conformance.suite import Conformance
from taps_core.testing.memory import MemoryNetwork
from taps_core.testing.memory_datagram import MemoryDatagram
from taps_core.testing.memory_stream import MemoryStream, random_chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taps_core.model.layers import FramerDefinition, Transport
    from taps_core.runtime.connection import Connection
    from taps_core.testing.memory_connected import Chunk

__all__ = ["FramerConformance"]

#: Messages that any framer of bytes should carry.
PLAIN: tuple[bytes, ...] = (b"a", b"hello", b"0123456789", b"x" * 300)
#: Messages that a framer may refuse; what it takes must come back.
ODD: tuple[bytes, ...] = (
    bytes(range(256)),
    b"\0",
    b"\n",
    b"\r\n",
    b"line\nbreak\r",
    b"\xff\xfe\xfd",
    b"12:",
    b"{}",
    b"\0\0\0\1a",
    b"y" * 20_000,
)
#: The same for framers of objects: what JSON has.
PLAIN_OBJECTS: tuple[Any, ...] = ({"name": "value"}, [1, 2, 3], {"list": [1, {"deep": None}]})
ODD_OBJECTS: tuple[Any, ...] = ("text", 0, -1.5, True, None, {}, [], "line\nbreak", "\u00e4\u2028")

#: Above this a test of the largest Message would take too long.
LARGEST = 1024 * 1024
#: Memory that garbage may cost beyond what one Message may have: it may well be many
#: thousand empty Messages, each an object with a context.
ROOM = 8 * 1024 * 1024
GARBAGE = 16 * 1024
#: Where so many Messages were found in it, it was no garbage to that framer.
ENOUGH = 20_000


class FramerConformance(Conformance):
    """What a framer promises.

    ::

        class TestMine(FramerConformance):
            framer = Mine(max_length=65536)

    Attributes:
        framer: The definition that is tested. A small ``max_length`` lets the
            tests of it run.
        messages: Messages that it carries, besides those that every framer is
            tried with; none may be empty.
    """

    framer: ClassVar[FramerDefinition]
    messages: ClassVar[Sequence[Any]] = ()

    # -- the declaration

    def test_the_declaration_is_plain(self) -> None:
        """A definition is a value: named, hashable, and makes a new framer each time."""
        framer = self.framer
        assert framer.name, "it has no name"
        assert framer.name == framer.name.lower(), f"{framer.name} is not lower case"
        hash(framer)
        assert framer.create() is not framer.create(), "create() gives the same framer twice"

    # -- Messages

    def test_messages_come_back_as_they_were(self) -> None:
        """Each Message that is taken comes back as it was, whatever is in it."""

        async def main() -> None:
            plain = PLAIN_OBJECTS if self.framer.objects else PLAIN
            odd = ODD_OBJECTS if self.framer.objects else ODD
            taken = 0
            for message in (*self.messages, *plain, *odd):
                async with self.pair() as (client, server):
                    if not await self._takes(client, message):
                        continue
                    taken += 1
                    came = (await self._next(server)).data
                    assert came == message, f"{_short(message)} came back as {_short(came)}"
            assert taken >= len(plain), "it refuses nearly everything"

        self.run(main)

    def test_an_empty_message_is_a_message(self) -> None:
        """A Message without bytes comes back, or is refused: it never vanishes."""
        if self.framer.objects:
            self.not_claimed("it takes objects")

        async def main() -> None:
            async with self.pair() as (client, server):
                taken = await self._takes(client, b"")
                await client.send(PLAIN[0])
                if taken:
                    came = (await self._next(server)).data
                    assert came == b"", f"what came is {_short(came)}"
                came = (await self._next(server)).data
                assert came == PLAIN[0], f"what came next is {_short(came)}"

        self.run(main)

    def test_a_stream_may_be_cut_anywhere(self) -> None:
        """Messages are found in whatever pieces the stream arrives."""

        async def main() -> None:
            for chunk in (1, 2, 3, 7):
                async with self.pair(chunk=chunk) as (client, server):
                    for message in self._plain:
                        await client.send(message)
                        came = (await self._next(server)).data
                        assert came == message, (
                            f"in pieces of {chunk}, {_short(message)} came as {_short(came)}"
                        )

        self.run(main)

    def test_one_read_may_bring_several_messages(self) -> None:
        """Messages that arrive together are told apart, and none waits for a further read."""

        async def main() -> None:
            messages = [message for _ in range(5) for message in self._plain]
            async with self.pair() as (client, server):
                with client.batch():
                    for message in messages:
                        await client.send(message)
                for message in messages:
                    came = (await self._next(server)).data
                    assert came == message, f"{_short(message)} came as {_short(came)}"

        self.run(main)

    def test_many_messages_in_random_pieces(self) -> None:
        """A long stream, cut at random, brings all Messages in order."""

        async def main() -> None:
            messages = [message for _ in range(40) for message in self._plain]
            async with self.pair(chunk=random_chunks(5)) as (client, server):
                sending = asyncio.ensure_future(self._send_all(client, messages))
                try:
                    came = [(await self._next(server)).data for _ in messages]
                finally:
                    sending.cancel()
                    await asyncio.wait([sending])
                assert came == messages, "other Messages came, or in another order"

        self.run(main)

    def test_data_comes_up_as_bytes(self) -> None:
        """What comes up is exactly bytes: no bytearray, no memoryview."""
        if self.framer.objects:
            self.not_claimed("it makes objects")

        async def main() -> None:
            async with self.pair() as (client, server):
                await client.send(b"bytes")
                kind = type((await self._next(server)).data).__name__
                assert kind == "bytes", f"what came up is {kind}"

        self.run(main)

    def test_a_message_in_parts_is_one_message(self) -> None:
        """A Message that is sent in parts comes back whole, with and without its length."""
        if self.framer.objects:
            self.not_claimed("it takes objects, which have no parts")

        async def main() -> None:
            for length in (12, None):
                async with self.pair() as (client, server):
                    async with client.sending(length) as message:
                        for part in (b"in ", b"several ", b"p"):
                            await message.send(part)
                    came = (await self._next(server)).data
                    assert came == b"in several p", f"what came is {_short(came)}"

        self.run(main)

    def test_connections_share_nothing(self) -> None:
        """Two Connections of one definition do not see each other's bytes."""

        async def main() -> None:
            for message in self._plain:
                wire = await self._wire(message)
                async with self.raw() as one, self.raw() as other:
                    # So that both stand in the middle of a Message at once.
                    for piece in (wire[:-1], wire[-1:]):
                        for client, _ in (one, other):
                            if piece:
                                await client.send(piece)
                        await turns()
                    for _, server in (one, other):
                        came = (await self._next(server)).data
                        assert came == message, f"{_short(message)} came as {_short(came)}"

        self.run(main)

    def test_it_works_over_datagrams(self) -> None:
        """Over datagrams, each Message is found in its own."""

        async def main() -> None:
            transport = MemoryDatagram(MemoryNetwork())
            async with self.pair(transport) as (client, server):
                for message in self._plain:
                    await client.send(message)
                    came = (await self._next(server)).data
                    assert came == message, f"{_short(message)} came as {_short(came)}"

        self.run(main)

    # -- refusals

    def test_what_cannot_be_framed_raises_send_error(self) -> None:
        """A Message that the framer cannot carry raises SendError and nothing else."""
        odd = (*ODD_OBJECTS, object()) if self.framer.objects else ODD

        async def main() -> None:
            refused = 0
            for message in odd:
                async with self.pair() as (client, _):
                    try:
                        await client.send(message)
                    except SendError as error:
                        if error.reason is Reason.PROTOCOL_FAILED:  # the Connection says so for it
                            sentence = f"{_short(message)} raised {error.__cause__!r}, no SendError"
                            raise AssertionError(sentence) from error
                        refused += 1
            if not refused:
                self.not_claimed("it takes every Message that it was tried with")

        self.run(main)

    def test_after_a_refused_message_the_next_one_goes(self) -> None:
        """A Message that was refused costs nothing but itself."""
        odd = (*ODD_OBJECTS, object()) if self.framer.objects else ODD

        async def main() -> None:
            refused = 0
            for message in odd:
                async with self.pair() as (client, server):
                    if await self._takes(client, message):
                        continue
                    refused += 1
                    await client.send(self._plain[0])
                    came = (await self._next(server)).data
                    assert came == self._plain[0], f"what came is {_short(came)}"
            if not refused:
                self.not_claimed("it takes every Message that it was tried with")

        self.run(main)

    def test_a_message_too_large_is_refused(self) -> None:
        """A Message above max_length raises SendError, with reason MESSAGE_TOO_LARGE."""

        async def main() -> None:
            async with self.pair() as (client, _):
                limit = self._limit(client)
                try:
                    await client.send(b"a" * (limit + 1))
                except SendError as error:
                    reason = error.reason
                else:
                    raise AssertionError(f"{limit + 1} bytes were taken, {limit} are allowed")
                assert reason is Reason.MESSAGE_TOO_LARGE, f"its reason is {reason}"

        self.run(main)

    def test_the_largest_message_is_carried(self) -> None:
        """A Message of exactly max_length bytes comes back."""

        async def main() -> None:
            async with self.pair() as (client, server):
                message = b"a" * self._limit(client)
                await client.send(message)
                came = (await self._next(server)).data
                assert came == message, f"{len(came)} of {len(message)} bytes came"

        self.run(main)

    # -- bad input

    def test_a_cut_off_message_is_an_error(self) -> None:
        """Where the stream ends inside a Message, that is an error, and no Message."""

        async def main() -> None:
            message = self._plain[-1]
            wire = await self._wire(message)
            if len(wire) < 2:
                self.not_claimed("there is nothing of a Message on the wire")
            async with self.raw() as (client, server):
                await client.send(wire[:-1])
                await client.finish()
                try:
                    came = await self._next(server)
                except EndOfData:
                    raise AssertionError("it looks like an orderly end") from None
                except ReceiveError:
                    return
                raise AssertionError(f"a Message came: {_short(came.data)}")

        self.run(main)

    def test_garbage_ends_in_a_documented_error(self) -> None:
        """Whatever the peer sends, receive gives Messages, or raises what is documented."""

        async def main() -> None:
            generator = random.Random(1)  # to be repeatable, not to be secret
            wire = await self._wire(self._plain[1])
            for number in range(30):
                garbage = generator.randbytes(generator.randint(1, 500))
                if number % 3 == 1:
                    garbage = wire + garbage
                elif number % 3 == 2:
                    garbage = wire[: generator.randint(0, len(wire))] + garbage
                async with self.raw() as (client, server):
                    with contextlib.suppress(ConnectionError):
                        await client.send(garbage)
                        await client.finish()
                    try:
                        while True:
                            await self._next(server)
                    except ReceiveError:
                        continue  # EndOfData is one
                    except ConnectionError as error:
                        sentence = f"a bug in the framer ended the Connection: {error}"
                        raise AssertionError(sentence) from error

        self.run(main)

    def test_garbage_is_held_within_bounds(self) -> None:
        """What is no Message, or never becomes one, does not fill the memory."""

        async def main() -> None:
            async with self.pair() as (client, _):
                limit = self._limit(client)
            most = 4 * limit + ROOM
            for byte in (b"a", b"0", b"9", b"\0", b"\x7f", b"\xff"):
                async with self.raw() as (client, server):
                    await client.send(b"9" + byte * 3)
                    came: list[None] = []
                    receiving = asyncio.ensure_future(self._drain(server, came))
                    for _ in range(4):  # the beginning comes alone
                        await asyncio.sleep(0)
                    tracemalloc.start()
                    try:
                        with contextlib.suppress(ConnectionError, SendError):
                            for _ in range(2 * most // GARBAGE):
                                await client.send(byte * GARBAGE)
                                await asyncio.sleep(0)
                                if receiving.done() or len(came) > ENOUGH:
                                    break
                        _, peak = tracemalloc.get_traced_memory()
                    finally:
                        tracemalloc.stop()
                        receiving.cancel()
                        await asyncio.wait([receiving])
                    assert peak <= most, f"{peak} bytes are held of garbage ({byte!r}…)"

        self.run(main, strict=False)

    # -- helpers

    @property
    def _plain(self) -> Sequence[Any]:
        return self.messages or (PLAIN_OBJECTS if self.framer.objects else PLAIN)

    @contextlib.asynccontextmanager
    async def pair(
        self,
        transport: Transport | None = None,
        *,
        chunk: Chunk | None = None,
        client_framed: bool = True,
    ) -> AsyncIterator[tuple[Connection[Any], Connection[Any]]]:
        """Client and server with the framer; over a byte stream unless told otherwise."""
        transport = transport or MemoryStream(MemoryNetwork(), chunk=chunk)
        datagrams = isinstance(transport, MemoryDatagram)
        properties = TransportProperties().no_preference(
            "reliability", "preserveOrder", "congestionControl"
        )
        if datagrams:
            properties.set("safelyReplayable", True)

        def preconnection(framed: bool, **endpoints: Any) -> Preconnection:
            return Preconnection(
                transport=properties,
                security=SecurityParameters.disabled(),
                framers=self.framer if framed else None,
                system=System(plugins=[transport]),
                **endpoints,
            )

        async with preconnection(True, local="127.0.0.1:0").listen() as listener:
            remote = listener.remote_endpoint
            client = await preconnection(client_framed, remote=remote).initiate()
            try:
                if datagrams:
                    await client.send(self._plain[0])
                server = await listener.accept()
                try:
                    if datagrams:
                        await self._next(server)
                    yield client, server
                finally:
                    server.abort()
            finally:
                client.abort()

    def raw(
        self,
    ) -> contextlib.AbstractAsyncContextManager[tuple[Connection[Any], Connection[Any]]]:
        """A client that sends bytes as they are, to a server with the framer."""
        return self.pair(client_framed=False)

    async def _wire(self, message: Any) -> bytes:
        """What a Message is on the wire, with what the framer says before it."""
        network = MemoryNetwork()
        wire: list[bytes] = []
        async with self.pair(MemoryStream(network)) as (client, server):
            network.wiretap = wire.append
            await client.send(message)
            await self._next(server)
        return b"".join(wire)

    async def _takes(self, client: Connection[Any], message: Any) -> bool:
        """Whether a Message is sent; what a refusal raises is looked at elsewhere."""
        try:
            await client.send(message)
        except Exception:  # noqa: BLE001  # see above
            return False
        return True

    async def _send_all(self, client: Connection[Any], messages: Sequence[Any]) -> None:
        for message in messages:
            await client.send(message)

    async def _drain(self, server: Connection[Any], came: list[None]) -> None:
        with contextlib.suppress(ReceiveError, ConnectionError):
            while True:
                await server.receive()
                came.append(None)

    async def _next(self, server: Connection[Any]) -> Any:
        try:
            async with asyncio.timeout(self.patience):
                return await server.receive()
        except TimeoutError:
            raise AssertionError(f"no Message within {self.patience:g} s") from None

    def _limit(self, client: Connection[Any]) -> int:
        if self.framer.objects:
            self.not_claimed("it takes objects, whose size is known to nobody else")
        limit = client.properties.get("sendMsgMaxLen")
        if limit is None or limit > LARGEST:
            self.not_claimed(f"max_length is {limit}: a smaller one, up to {LARGEST}, is tested")
        return int(limit)


def _short(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 40 else f"{text[:40]}…"
