"""Whatever a peer does: a documented error, nothing of the application to it, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import taps_core as taps
from taps_core.plugin import LayerFlow
from taps_core.testing import MemoryNetwork, MemoryStream
from taps_core.testing import run as run_once
from taps_core.testing.rig import Rig
from taps_tls import TLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.plugin import Flow, ListeningFlow, ListenRequest, SendRecord
    from taps_core.testing.fixtures import Run

    from .conftest import Authority

LAYER = TLS()
ACQUAINTED = LAYER.acquainted()


async def meet(answer: Any, security: taps.SecurityParameters, **more: Any) -> Any:
    """The error of a client that meets a peer which does as ``answer`` says, and what it said."""
    said = bytearray()
    served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            said.extend(await reader.read(65536))
            await answer(reader, writer)
            while data := await reader.read(65536):
                said.extend(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        served.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    remote = taps.RemoteEndpoint(
        hostname="localhost",
        ip_address="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
    )
    there = taps.Preconnection(
        remote=remote, security=security, framers="line", system=taps.System()
    )
    with pytest.raises(taps.EstablishmentError) as caught:
        await there.initiate_with_send(b"application data", **more)
    server.close()
    await server.wait_closed()
    await asyncio.wait([served])
    assert b"application data" not in said
    return caught.value


def test_a_peer_that_speaks_plaintext_is_told_apart(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for words in (b"220 mail.example ready\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"):

            async def answer(_: Any, writer: asyncio.StreamWriter, words: bytes = words) -> None:
                writer.write(words)
                await writer.drain()

            error = await meet(answer, authority.client())
            assert error.detail == "not-tls"
            assert "does not speak TLS" in str(error)
            assert not error.transient

    run(main)


def test_a_peer_that_hangs_up_in_the_handshake_may_be_tried_again(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        async def answer(_: Any, writer: asyncio.StreamWriter) -> None:
            writer.close()

        error = await meet(answer, authority.client())
        assert error.detail == "closed-during-handshake"
        assert error.transient

    run(main)


def test_a_peer_that_never_answers_costs_the_time_that_was_given(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        async def answer(*_: Any) -> None:
            """Say nothing."""

        error = await meet(answer, authority.client(), timeout=0.2)
        assert isinstance(error, taps.EstablishmentTimeout)
        assert error.reason is taps.Reason.TIMEOUT
        assert error.detail == "handshake-timeout"
        assert "TLS/TCP" in str(error)

    run(main)


def test_a_client_that_speaks_no_tls_leaves_the_listener_as_it_was(
    run: Run, authority: Authority
) -> None:
    async def main() -> None:
        here = taps.Preconnection(
            local="127.0.0.1:0",
            security=authority.server(),
            framers="line",
            system=taps.System(),
        )
        async with here.listen() as listener:
            port = listener.local_endpoints[0].port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            context = ssl.create_default_context(cadata=authority.pem.decode())
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost"
            )
            async with await listener.accept() as connection:
                writer.write(b"hello\n")
                assert (await connection.receive()).data == b"hello"
                writer.close()  # waits for our end, too
            await writer.wait_closed()

    run(main)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=1, max_size=200), st.integers(0, 1), st.booleans())
def test_random_bytes_in_place_of_a_handshake_are_an_error_in_our_words(
    noise: bytes, records: int, ends: bool
) -> None:
    if records:  # as if they were of a handshake
        noise = b"\x16\x03\x03" + len(noise).to_bytes(2, "big") + noise

    async def main() -> None:
        network = MemoryNetwork()
        rig = Rig(MemoryStream(network), parameters=ACQUAINTED)
        async with rig:
            from taps_core.testing.requests import connect_request

            request = connect_request(rig.remote, security=ACQUAINTED[1])
            connecting = asyncio.ensure_future(LAYER.connect(MemoryStream(network), request))
            server = await rig.accept()
            server.send(noise)
            if ends:
                server.flow.close()
            for _ in range(20):
                await asyncio.sleep(0)
            if not connecting.done():
                assert not ends
                connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                assert isinstance(connecting.exception(), taps.EstablishmentError)

    run_once(main)


class Meddler(LayerFlow):
    """Changes one byte of whatever goes down."""

    def __init__(self, lower: Flow, at: int, change: int) -> None:
        super().__init__(lower)
        self.at = at
        self.change = change

    def send(self, data: Any, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        changed = bytearray(data if isinstance(data, bytes) else b"".join(data))
        changed[self.at % len(changed)] ^= self.change
        return super().send(bytes(changed), record, end_of_message)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(1, 255),
)
def test_a_stream_that_is_changed_anywhere_gives_nothing_but_what_came_before(
    messages: list[bytes], at: int, change: int
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with Rig(MemoryStream(network), LAYER, parameters=ACQUAINTED) as rig:
            client, server = await rig.pair()
            for message in messages:
                client.send(message)
            await server.has_data(b"".join(messages))
            layer = client.flow.lower
            assert isinstance(layer, LayerFlow)
            layer.lower = Meddler(layer.lower, at, change)
            client.send(b"never to be seen")
            client.flow.close()
            for _ in range(50):
                await asyncio.sleep(0)
            assert server.recorder.data == b"".join(messages)
            assert not server.recorder.is_finished

    run_once(main)


def test_a_listener_that_stops_as_somebody_comes_leaves_nothing(run: Run) -> None:
    stopping: list[Callable[[], None]] = []

    class Sudden(MemoryStream):
        async def listen(self, request: ListenRequest) -> ListeningFlow:
            def incoming(flow: Flow, admitted: Any) -> None:
                request.incoming(flow, admitted)
                stopping[0]()  # before the handshake has begun

            return await super().listen(dataclasses.replace(request, incoming=incoming))

    async def main() -> None:
        network = MemoryNetwork()
        system = taps.System(plugins=[Sudden(network), LAYER])
        here = taps.Preconnection(local="127.0.0.1:0", security=ACQUAINTED[0], system=system)
        listener = await here.listen()
        stopping.append(listener.stop)
        remote = f"127.0.0.1:{listener.local_endpoints[0].port}"
        there = taps.Preconnection(remote=remote, security=ACQUAINTED[1], system=system)
        with pytest.raises(taps.EstablishmentError) as caught:
            await there.initiate(timeout=2)
        assert not isinstance(caught.value, taps.EstablishmentTimeout)
        await listener.stopped()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not network.open_flows

    run(main)
