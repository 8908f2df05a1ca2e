"""Data over TLS and the kernel's TCP: whole, in few records, with backpressure both ways."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing import MemoryNetwork, MemoryStream
from taps_core.testing.rig import Rig
from taps_framers import LengthPrefix
from taps_tls import TLS, TLSInfo

from .conftest import pair, talked_out

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

    from .conftest import Authority


def test_messages_of_all_sizes_arrive_both_ways(run: Run, authority: Authority) -> None:
    generator = random.Random(1)  # to be repeatable, not to be secret

    async def main() -> None:
        framer = LengthPrefix(4)
        for version in ("TLSv1.2", "TLSv1.3"):
            client = authority.client(allowed_security_protocols=version)
            async with pair(authority.server(), client, framers=framer) as ends:
                info = ends[0].find(TLSInfo)
                assert info is not None
                assert info.version == version
                for size in (0, 1, 100, 16_383, 16_384, 16_385, 300_000, 1_000_000):
                    message = generator.randbytes(size)
                    for sender, receiver in (ends, reversed(ends)):
                        # Beside each other: more than the buffers hold is under way.
                        _, got = await asyncio.gather(sender.send(message), receiver.receive())
                        assert got.data == message

    run(main)


def test_what_was_sent_before_ready_arrives_first(run: Run, authority: Authority) -> None:
    async def main() -> None:
        system = taps.System()
        here = taps.Preconnection(
            local="127.0.0.1:0", security=authority.server(), framers="line", system=system
        )
        async with here.listen() as listener:
            remote = taps.RemoteEndpoint(
                hostname="localhost",
                ip_address="127.0.0.1",
                port=listener.local_endpoints[0].port,
            )
            there = taps.Preconnection(
                remote=remote, security=authority.client(), framers="line", system=system
            )
            client = there.initiate_with_send(b"first")
            client.send_nowait(b"second")
            await client
            server = await listener.accept()
            assert (await server.receive()).data == b"first"
            assert (await server.receive()).data == b"second"
            server.abort()
            client.abort()

    run(main)


def test_many_small_messages_share_records(run: Run) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        wire: list[bytes] = []
        network.wiretap = wire.append
        layer = TLS()
        async with Rig(MemoryStream(network), layer, parameters=layer.acquainted()) as rig:
            client, server = await rig.pair()
            await talked_out()
            wire.clear()
            client.send(*[b"0123456789"] * 1000)
            await server.has_data(b"0123456789" * 1000)
            # One record, with a header of 5 bytes and a tag.
            assert sum(map(len, wire)) < 10_000 + 50
            wire.clear()
            client.send(bytes(100_000))
            await server.recorder.until(lambda: len(server.recorder.data) == 110_000)
            assert sum(map(len, wire)) < 100_000 + 7 * 50

    run(main)


def test_a_reader_that_does_not_read_holds_the_writer_back(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client(), framers=LengthPrefix(4)) as ends:
            sender, receiver = ends
            sent = 0

            async def write() -> None:
                nonlocal sent
                while True:
                    await sender.send(bytes(100_000))
                    sent += 1

            writing = asyncio.ensure_future(write())
            before = -1
            while sent != before:  # until it stands still
                before = sent
                await asyncio.sleep(0.2)
            assert 0 < sent < 1000
            for _ in range(sent + 5):
                assert (await receiver.receive()).data == bytes(100_000)
            writing.cancel()
            await asyncio.wait([writing])

    run(main)


@pytest.mark.linux
def test_what_was_received_is_let_go_of_without_the_garbage_collector(
    run: Run, authority: Authority
) -> None:
    message = bytes(400_000)  # reads that end within a record

    async def main() -> None:
        async with pair(authority.server(), authority.client(), framers=LengthPrefix(4)) as ends:
            sender, receiver = ends
            gc.disable()
            tracemalloc.start()
            try:
                for _ in range(20):
                    await asyncio.gather(sender.send(message), receiver.receive())
                kept, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
                gc.enable()
            assert kept < 3 * len(message)

    run(main)


def test_of_a_segment_so_much_is_left_as_tls_leaves(run: Run, authority: Authority) -> None:
    async def main() -> None:
        async with pair(authority.server(), authority.client(), framers=LengthPrefix(4)) as ends:
            client, server = ends
            limit: Any = client.properties["singularTransmissionMsgMaxLen"]
            with pytest.raises(taps.SendError) as caught:
                await client.send(bytes(limit + 1), no_segmentation=True)
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            # The stream of records is as it was.
            await client.send(bytes(limit - 4), no_segmentation=True)
            assert len((await server.receive()).data) == limit - 4

    run(main)


def test_a_clone_has_a_session_of_its_own(run: Run, authority: Authority) -> None:
    from .conftest import calling

    async def main() -> None:
        async with calling(authority.server(), authority.client()) as (client, listener):
            await listener.accept()
            clone = client.clone()
            await clone
            other = await listener.accept()
            await other.send(b"to the clone")
            assert (await clone.receive()).data == b"to the clone"
            for each in (*client.grouped_connections(), other):
                each.abort()

    run(main)
