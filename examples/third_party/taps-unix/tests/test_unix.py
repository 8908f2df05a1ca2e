"""What is special about sockets that are files; the rest is the suite's business."""

import os
import socket

import pytest

import taps_core as taps
from taps_core.testing import connect_request, listen_request, run
from taps_unix import PATH, Unix

PLAIN = taps.SecurityParameters.disabled()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


def at(path, **more):
    return taps.Preconnection(
        local=taps.LocalEndpoint(identifiers={PATH: path}),
        security=PLAIN,
        system=taps.System(plugins=[Unix()]),
        **more,
    )


def to(path, **more):
    return taps.Preconnection(
        remote=taps.RemoteEndpoint(identifiers={PATH: path}),
        system=taps.System(plugins=[Unix()]),
        **{"security": PLAIN, **more},
    )


def leave_a_socket_file(path):
    """As a process does that is killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def test_an_answer_comes_back_and_the_socket_file_goes(path):
    async def shout(connection):
        data = await connection.receive_exactly(5)
        await connection.send(data.data.upper())

    async def main():
        async with at(path).listen(shout) as listener:
            assert str(listener.remote_endpoint) == f"_unix.path={path}"
            async with to(path).initiate() as connection:
                await connection.send(b"hello")
                assert (await connection.receive_exactly(5)).data == b"HELLO"
                assert str(connection.stack) == "UNIX"

    run(main)
    assert not os.path.exists(path)


def test_an_abort_is_an_error_at_the_peer(path):
    async def main():
        async with at(path).listen() as listener, to(path).initiate() as connection:
            await connection.send(b"half of it")
            server = await listener.accept()
            await server.receive_exactly(10)
            connection.abort()
            with pytest.raises(taps.ConnectionError):
                await server.receive_exactly(1)

    run(main)


def test_what_a_dead_process_has_left_is_replaced(path):
    async def main():
        leave_a_socket_file(path)
        with pytest.raises(taps.EstablishmentError, match="nobody listens there"):
            await to(path).initiate()
        async with at(path).listen() as listener, to(path).initiate():
            (await listener.accept()).abort()

    run(main)


def test_a_listener_that_lives_keeps_its_place_and_notices_nothing(path):
    async def main():
        async with at(path).listen() as listener:
            with pytest.raises(taps.EstablishmentError, match="it is in use"):
                await at(path).listen()
            async with to(path).initiate() as connection:
                await connection.send(b"first")
                # And not a connection of whoever looked whether somebody lives here.
                server = await listener.accept()
                assert (await server.receive_exactly(5)).data == b"first"
                server.abort()

    run(main)


def test_a_file_that_is_no_socket_is_left_alone(path, tmp_path):
    async def main():
        (tmp_path / "socket").write_text("precious")
        with pytest.raises(taps.EstablishmentError, match="it is in use"):
            await at(path).listen()
        assert (tmp_path / "socket").read_text() == "precious"

    run(main)


def test_the_socket_file_of_a_successor_is_left_alone(path):
    async def main():
        transport = Unix()
        first = await transport.listen(listen_request(f"{PATH}={path}", lambda *_: None))
        os.unlink(path)
        second = await transport.listen(listen_request(f"{PATH}={path}", lambda *_: None))
        await first.close()
        async with to(path).initiate() as connection:  # leads to the second
            connection.abort()
        await second.close()

    run(main)
    assert not os.path.exists(path)


def test_a_socket_file_that_is_gone_already_does_not_matter(path):
    async def main():
        listener = await Unix().listen(listen_request(f"{PATH}={path}", lambda *_: None))
        os.unlink(path)
        await listener.close()

    run(main)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere/socket", "there is no such file"),
        ("x" * 200, "too long"),
        ("", "is the path of a socket file, not ''"),
        ("a\0b", r"is the path of a socket file, not 'a\\x00b'"),
        (7, "is the path of a socket file, not 7"),
    ],
)
def test_a_path_that_cannot_be_says_why(tmp_path, monkeypatch, place, words):
    async def main():
        monkeypatch.chdir(tmp_path)
        with pytest.raises(taps.EstablishmentError, match=words):
            await at(place).listen()
        with pytest.raises(taps.EstablishmentError, match=words):
            await to(place).initiate()

    run(main)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may do everything")
def test_what_this_system_forbids_says_so(path, tmp_path):
    async def main():
        async with at(path).listen():
            os.chmod(path, 0)
            with pytest.raises(taps.EstablishmentError, match="this system forbids it"):
                await to(path).initiate()
        tmp_path.chmod(0o500)
        with pytest.raises(taps.EstablishmentError, match="this system forbids it"):
            await at(path).listen()

    run(main)


def test_a_client_has_no_place_of_its_own(path):
    async def main():
        with pytest.raises(taps.EstablishmentError, match="endpoint of its own"):
            await Unix().connect(connect_request(f"{PATH}={path}", local=f"{PATH}={path}"))

    run(main)


def test_only_an_endpoint_with_a_path_makes_it_a_candidate(path):
    ranked = to(path).select().ranked
    assert [str(each.stack) for each in ranked] == ["UNIX"]
    elsewhere = taps.Preconnection(
        remote="127.0.0.1:80", security=PLAIN, system=taps.System(plugins=[Unix()])
    )
    assert not elsewhere.select().ranked


def test_without_leave_for_plaintext_it_is_no_candidate(path):
    assert not to(path, security=None).select().ranked


def test_where_python_lacks_the_sockets_it_says_so_and_what_to_do(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    answer = Unix().availability()
    assert not answer.available
    assert "on this platform" in answer.reason
    assert answer.remedy
