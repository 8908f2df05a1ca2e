"""The ready-made Flow and listener for stream sockets: what a plugin gets that has nothing else."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import secrets
import socket
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.plugin import (
    Capabilities,
    ConnectionError,
    EstablishmentError,
    EstablishmentTimeout,
    Flow,
    ListeningFlow,
    LocalEndpoint,
    Reason,
    StreamFlow,
    StreamListener,
    Transport,
    connection_failed,
    establishment_failed,
    receiver_failed,
)
from taps_core.testing import End, connect_request, listen_request
from taps_core.testing.conformance import ByteStreamConformance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taps_core.plugin import ConnectRequest, ListenRequest
    from taps_core.testing.fixtures import Run

PATIENCE = 30.0
MEGABYTE = b"0123456789abcdef" * 65536


class Local(Transport):
    """Unix-domain sockets, without any care for their files."""

    name = "local"
    serves = frozenset({"_test.path"})
    capabilities = Capabilities.byte_stream()

    def loopback(self) -> LocalEndpoint:
        path = os.path.join(tempfile.gettempdir(), f"taps-{secrets.token_hex(8)}")
        return LocalEndpoint(identifiers={"_test.path": path})

    async def connect(self, request: ConnectRequest) -> StreamFlow:
        path = request.remote.identifiers["_test.path"]
        return await StreamFlow.connect(socket.socket(socket.AF_UNIX), path, remote=request.remote)

    async def listen(self, request: ListenRequest) -> StreamListener:
        path = request.local.identifiers["_test.path"]
        return LocalListener.open(socket.socket(socket.AF_UNIX), path, request)


class LocalListener(StreamListener):
    def stopping(self) -> None:
        os.unlink(self.local_endpoint.identifiers["_test.path"])


class Plain(Transport):
    """TCP with nothing to it."""

    name = "plain"
    capabilities = Capabilities.byte_stream()

    async def connect(self, request: ConnectRequest) -> StreamFlow:
        address = (request.remote.ip_address, request.remote.port)
        return await StreamFlow.connect(socket.socket(), address, remote=request.remote)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return PlainListener.open(
            sock, (request.local.ip_address, request.local.port or 0), request
        )


class PlainListener(StreamListener):
    @property
    def local_endpoint(self) -> LocalEndpoint:
        address, port = self.bound
        return LocalEndpoint(ip_address=address, port=port)

    def __init__(self, sock: socket.socket, request: ListenRequest) -> None:
        self.bound = sock.getsockname()
        super().__init__(sock, request)


class TestUnixSockets(ByteStreamConformance):
    transport = Local()


class TestTCPSockets(ByteStreamConformance):
    transport = Plain()


# ------------------------------------------------------------------ against plain peers


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.005)


class Meeting:
    """A flow, and the plain socket at its other end."""

    def __init__(self, end: End, peer: socket.socket) -> None:
        self.end, self.peer = end, peer
        self.recorder = end.recorder

    @classmethod
    async def at(cls, path: str, *, start: bool = True) -> Meeting:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            remote = f"_test.path={path}"
            flow = await Local().connect(connect_request(remote))
            peer, _ = server.accept()
        peer.setblocking(False)
        return cls(End(flow, start), peer)

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.recorder.calls]

    async def read_all(self) -> bytes:
        loop = asyncio.get_running_loop()
        chunks = []
        async with asyncio.timeout(PATIENCE):
            while chunk := await loop.sock_recv(self.peer, 65536):
                chunks.append(chunk)
        return b"".join(chunks)

    async def over(self) -> None:
        self.peer.close()
        async with asyncio.timeout(PATIENCE):
            await self.end.has_closed()
        self.end.flow.check()


def test_a_peer_that_hangs_up_both_ways_has_aborted(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path)
        meeting.peer.send(b"half an answer")
        await meeting.over()
        assert meeting.recorder.data == b"half an answer"
        assert meeting.names == ["received", "closed"]
        error = meeting.recorder.error
        assert isinstance(error, ConnectionError)
        assert error.reason is Reason.CONNECTION_ABORTED
        assert path in str(error)

    run(main)


def test_a_peer_that_hung_up_before_start_has_aborted_too(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path, start=False)
        meeting.peer.send(b"half an answer")
        meeting.peer.close()
        await settle()
        meeting.end.start()
        await meeting.over()
        assert meeting.names == ["received", "closed"]
        assert isinstance(meeting.recorder.error, ConnectionError)

    run(main)


def test_a_peer_that_hangs_up_after_our_end_has_closed(run: Run, path: str) -> None:
    async def main() -> None:
        for verb in ("finish", "close"):
            meeting = await Meeting.at(f"{path}-{verb}")
            meeting.end.send(b"all there is")
            getattr(meeting.end.flow, verb)()
            assert await meeting.read_all() == b"all there is"
            meeting.peer.close()
            if verb == "finish":
                await until(lambda: meeting.recorder.is_finished)  # noqa: B023  # awaited at once
                await settle()
                assert not meeting.recorder.is_closed
                meeting.end.flow.close()
            await meeting.over()
            assert meeting.recorder.error is None

    run(main)


def test_half_close_of_the_peer_is_no_end(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path)
        meeting.peer.shutdown(socket.SHUT_WR)
        await until(lambda: meeting.recorder.is_finished)
        meeting.end.send(MEGABYTE)
        meeting.end.flow.close()
        assert await meeting.read_all() == MEGABYTE
        await meeting.over()
        assert meeting.names[-1] == "closed"
        assert meeting.recorder.error is None

    run(main)


def test_an_answer_is_not_lost_to_a_write_that_fails(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path)
        meeting.end.flow.pause()
        await settle()
        meeting.peer.send(b"no, thanks")
        meeting.peer.close()
        meeting.end.send(b"a question")
        await meeting.over()
        assert meeting.recorder.data == b"no, thanks"
        assert isinstance(meeting.recorder.error, ConnectionError)
        assert meeting.recorder.error.detail == "EPIPE"

    run(main)


def test_what_was_not_read_by_the_peer_is_an_error_even_while_closing(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path)
        meeting.end.send(b"never read")
        meeting.end.flow.close()
        await settle()
        meeting.peer.close()
        await meeting.over()
        assert isinstance(meeting.recorder.error, ConnectionError)

    run(main)


def test_closed_waits_for_the_end_of_the_peer(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path)
        meeting.end.send(MEGABYTE)
        meeting.end.flow.close()
        await settle()
        assert not meeting.recorder.is_closed
        assert meeting.end.flow.read("_taps.undelivered") > 0
        assert await meeting.read_all() == MEGABYTE
        await settle()
        assert not meeting.recorder.is_closed
        await meeting.over()
        assert meeting.end.flow.read("_taps.undelivered") is None

    run(main)


def test_a_flow_that_nobody_starts_holds_no_more_than_a_few_reads(run: Run, path: str) -> None:
    async def main() -> None:
        meeting = await Meeting.at(path, start=False)
        sent = 0
        with pytest.raises(BlockingIOError):
            for _ in range(1000):
                sent += meeting.peer.send(MEGABYTE)
                await settle()
        meeting.end.start()
        await until(lambda: len(meeting.recorder.data) == sent)
        meeting.end.flow.close()
        await meeting.over()

    run(main)


# ------------------------------------------------------------------------- connecting


@pytest.mark.parametrize(
    ("make", "words", "detail"),
    [
        (lambda path: None, "there is no such file", "ENOENT"),
        (lambda path: path.write_bytes(b""), "nobody listens there", "ECONNREFUSED"),
        (lambda path: path.mkdir(), "nobody listens there", "ECONNREFUSED"),
    ],
)
def test_a_connect_that_fails_says_why(
    run: Run, tmp_path: Path, make: Callable[[Path], Any], words: str, detail: str
) -> None:
    async def main() -> None:
        make(tmp_path / "s")
        with pytest.raises(EstablishmentError, match=words) as caught:
            await Local().connect(connect_request(f"_test.path={tmp_path / 's'}"))
        assert f"cannot connect to _test.path={tmp_path / 's'}: " in str(caught.value)
        assert (caught.value.detail, caught.value.errno) == (detail, getattr(errno, detail))

    run(main)


def test_a_path_that_is_too_long_says_so(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError, match="too long"):
            await Local().connect(connect_request(f"_test.path=/{'x' * 200}"))

    run(main)


def test_a_backlog_that_is_full_is_waited_for(run: Run, path: str) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(0)
            request = connect_request(f"_test.path={path}")
            first = End(await Local().connect(request))
            waiting = [asyncio.ensure_future(Local().connect(request)) for _ in range(3)]
            await settle()
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()
            peers = [server.accept()[0]]
            server.setblocking(False)
            for count in (1, 2):
                await until(lambda n=count: sum(task.done() for task in waiting[1:]) == n)
                await settle()
                peers.append(server.accept()[0])
            ends = [first, *[End(await task) for task in waiting[1:]]]
            for end in ends:
                end.flow.abort()
                await end.has_closed()
            for peer in peers:
                peer.close()
            assert waiting[0].cancelled()

    run(main)


# -------------------------------------------------------------------------- listening


class Door:
    """What takes inbound flows."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []
        self.raising: Exception | None = None

    def __call__(self, flow: Flow, admitted: Any) -> None:
        if self.raising is not None:
            error, self.raising = self.raising, None
            raise error
        self.flows.append(flow)

    async def listen(self, path: str) -> StreamListener:
        return await Local().listen(listen_request(f"_test.path={path}", self))

    async def end(self) -> None:
        for flow in self.flows:
            end = End(flow)
            end.flow.abort()
            await end.has_closed()


def dial(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peer.setblocking(False)
    return peer


def test_a_paused_listener_leaves_connections_in_the_backlog(run: Run, path: str) -> None:
    async def main() -> None:
        door = Door()
        listener = await door.listen(path)
        listener.pause()
        peers = [dial(path) for _ in range(5)]
        await settle()
        assert not door.flows
        listener.resume()
        listener.resume()
        await until(lambda: len(door.flows) == 5)
        await door.end()
        for peer in peers:
            peer.close()
        await listener.close()
        await listener.close()
        listener.pause()
        listener.resume()

    run(main)


def test_a_pause_from_inside_incoming_stops_after_that_flow(run: Run, path: str) -> None:
    async def main() -> None:
        door = Door()
        listener = await door.listen(path)

        def incoming(flow: Flow, admitted: Any) -> None:
            door(flow, admitted)
            listener.pause()

        object.__setattr__(listener.request, "incoming", incoming)
        peers = [dial(path) for _ in range(3)]
        for expected in range(1, 4):
            await until(lambda least=expected: len(door.flows) >= least)  # type: ignore[misc]  # bound at once
            await settle()
            assert len(door.flows) == expected
            listener.resume()
        await listener.close()
        await door.end()
        for peer in peers:
            peer.close()

    run(main)


def test_what_waits_behind_a_pause_is_dropped_by_close(run: Run, path: str) -> None:
    async def main() -> None:
        door = Door()
        listener = await door.listen(path)
        peer = dial(path)
        await asyncio.sleep(0)
        listener.pause()
        await listener.close()
        await settle()
        assert not door.flows
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            peer.send(b"is anybody there?")
        peer.close()

    run(main)


@pytest.mark.parametrize("turns", range(5))
def test_close_at_any_turn_leaves_no_connection_behind(run: Run, path: str, turns: int) -> None:
    async def main() -> None:
        door = Door()
        listener = await door.listen(path)
        peers = [dial(path) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await listener.close()
        handed_over = len(door.flows)
        await settle()
        assert len(door.flows) == handed_over, "incoming was called after close"
        await door.end()
        for peer in peers:
            peer.close()

    run(main)


def test_a_failure_of_the_taker_costs_that_connection_and_is_reported(run: Run, path: str) -> None:
    async def main() -> None:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reports.append(what))
        door = Door()
        door.raising = ValueError("a bug above")
        listener = await door.listen(path)
        peers = [dial(path), dial(path)]
        await until(lambda: door.flows)
        assert isinstance(reports[0]["exception"], ValueError)
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.get_running_loop().sock_recv(peers[0], 1) == b""
        await listener.close()
        await door.end()
        for peer in peers:
            peer.close()

    run(main)


def test_without_descriptors_the_backlog_is_left_alone_for_a_moment(
    run: Run, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        door = Door()
        listener = await door.listen(path)
        peer = dial(path)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            await until(lambda: "cannot accept connections" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: door.flows)
        await listener.close()
        await door.end()
        peer.close()

    run(main)


def test_a_place_in_use_is_named_and_nothing_is_left(run: Run, path: str) -> None:
    async def main() -> None:
        door = Door()
        listener = await door.listen(path)
        with pytest.raises(EstablishmentError, match="it is in use") as caught:
            await door.listen(path)
        assert f"cannot listen at _test.path={path}" in str(caught.value)
        assert caught.value.detail == "EADDRINUSE"
        await listener.close()

    run(main)


# -------------------------------------------------------------------------- in our words


def test_errors_of_the_system_keep_number_and_name_and_say_whether_to_try_again() -> None:
    refused = establishment_failed(OSError(errno.ECONNREFUSED, "x"), "connect to here")
    assert str(refused) == "cannot connect to here: nobody listens there"
    assert (refused.errno, refused.detail, refused.transient) == (
        errno.ECONNREFUSED,
        "ECONNREFUSED",
        True,
    )
    assert not establishment_failed(PermissionError(errno.EACCES, "x"), "listen at x").transient
    late = establishment_failed(TimeoutError(errno.ETIMEDOUT, "x"), "connect to here")
    assert isinstance(late, EstablishmentTimeout)
    assert str(establishment_failed(OSError("of no number"), "x")) == "cannot x: of no number"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ECONNRESET, "x"), Reason.CONNECTION_ABORTED),
        (OSError(errno.EPIPE, "x"), Reason.CONNECTION_ABORTED),
        (OSError(errno.ETIMEDOUT, "x"), Reason.TIMEOUT),
        (OSError(errno.EHOSTUNREACH, "x"), Reason.TIMEOUT),
        (OSError(errno.EIO, "x"), Reason.PROTOCOL_FAILED),
        (EOFError(), Reason.PROTOCOL_FAILED),
    ],
)
def test_the_end_of_a_connection_has_its_reason(error: Exception, reason: Reason) -> None:
    failed = connection_failed(error, "there")
    assert failed.reason is reason
    assert failed.__cause__ is error
    assert "there" in str(failed)


def test_what_a_receiver_raised_is_an_error_of_ours() -> None:
    ours = ConnectionError("ours")
    assert receiver_failed(ours) is ours
    foreign = ZeroDivisionError("foreign")
    wrapped = receiver_failed(foreign)
    assert isinstance(wrapped, ConnectionError)
    assert wrapped.__cause__ is foreign
    assert "foreign" in str(wrapped)
