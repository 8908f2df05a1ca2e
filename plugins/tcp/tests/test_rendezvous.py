"""Rendezvous: both sides open, one connection comes of it (RFC 9622, section 7.3)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

import taps_core as taps

PLAIN = taps.SecurityParameters.disabled()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def peer(here: int, there: int) -> taps.Preconnection:
    return taps.Preconnection(
        local=f"127.0.0.1:{here}", remote=f"127.0.0.1:{there}", security=PLAIN, framers="line"
    )


@pytest.mark.parametrize("late", [0, 0.05, 0.3], ids=["together", "in between", "late"])
def test_both_sides_get_the_same_connection(run, late):
    async def main():
        one, two = free_port(), free_port()
        first = peer(one, two).rendezvous(timeout=10)
        await asyncio.sleep(late)
        second = peer(two, one).rendezvous(timeout=10)
        async with first, second:
            await first.send(b"from one")
            await second.send(b"from two")
            assert (await second.receive()).data == b"from one"
            assert (await first.receive()).data == b"from two"
            # Neither waits for the other's Close inside the other's block.
            await asyncio.gather(first.close(), second.close())

    run(main)


def test_its_clone_is_dialled_and_a_peer_that_does_not_listen_refuses(run):
    async def main():
        one, two = free_port(), free_port()
        first, second = peer(one, two).rendezvous(timeout=10), peer(two, one).rendezvous(timeout=10)
        async with first, second:
            with pytest.raises(taps.CloneError, match="refused") as caught:
                await first.clone()
            assert caught.value.reason is taps.Reason.ESTABLISHMENT_FAILED
            await first.send(b"alive")
            assert (await second.receive()).data == b"alive"
            await asyncio.gather(first.close(), second.close())

    run(main)


def test_a_peer_that_never_comes_is_a_timeout_and_leaves_nothing(run):
    async def main():
        with pytest.raises(taps.EstablishmentTimeout):
            await peer(free_port(), free_port()).rendezvous(timeout=0.3)

    run(main)


def test_a_stranger_is_turned_away(run):
    async def main():
        one, two = free_port(), free_port()
        first = peer(one, two).rendezvous(timeout=10)
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", one)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        second = peer(two, one).rendezvous(timeout=10)
        async with first, second:
            await second.send(b"the real one")
            assert (await first.receive()).data == b"the real one"
            await asyncio.gather(first.close(), second.close())

    run(main)


def test_without_a_local_port_it_says_so(run):
    async def main():
        there = taps.Preconnection(
            local="127.0.0.1", remote="127.0.0.1:9", security=PLAIN, framers="line"
        )
        with pytest.raises(taps.EstablishmentError, match="port"):
            await there.rendezvous(timeout=1)

    run(main)


@pytest.mark.parametrize("first", [True, False], ids=["knocked at", "knocking"])
def test_cancelled_at_any_step_it_leaves_no_socket(sweep, first):
    @contextlib.asynccontextmanager
    async def meeting():
        one, two = free_port(), free_port()
        made, others = [], []

        async def meet():
            made.append(await peer(one, two).rendezvous(timeout=10))

        def come():
            others.append(peer(two, one).rendezvous(timeout=10))

        if first:
            coming = asyncio.get_running_loop().call_later(0.005, come)
        else:
            come()
            await asyncio.sleep(0.005)
        yield meet
        if first:
            coming.cancel()
        for each in [*made, *others]:
            each.abort()
            await each._released()

    assert sweep(meeting) > 10
