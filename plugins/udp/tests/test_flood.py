"""A Listener that anybody floods, with as many forged source addresses as he likes."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import tracemalloc
from collections import Counter

import pytest

import taps_core as taps
from taps_core.testing import forged_datagram
from taps_udp import UDP

DATAGRAMS = 200_000
#: README: the most unanswered Connections there are, and what each costs beside its data.
UNANSWERED = 1000
BYTES_EACH = 32 * 1024
#: What one wake-up reads; those that it displaced are told of their end a turn later.
AT_A_TIME = 128


def forged(number, port):
    """From a source of its own."""
    address = f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    return forged_datagram((address, 1024 + number % 64000), ("127.0.0.1", port), b"hello" * 10)


class Server:
    """Answers, but to no forged datagram. Counts its handlers."""

    def __init__(self):
        self.live = self.most = self.served = 0

    async def __call__(self, connection):
        self.live += 1
        self.served += 1
        self.most = max(self.most, self.live)
        try:
            async for message in connection:
                if message.data.startswith(b"honest"):
                    await connection.send(message.data)
        finally:
            self.live -= 1


async def exchange(connection, data):
    """Ask until there is an answer, as programs on UDP must."""
    while True:
        await connection.send(data)
        try:
            async with asyncio.timeout(0.05):
                while (await connection.receive()).data != data:
                    pass
        except TimeoutError:
            continue
        return


@pytest.mark.slow
@pytest.mark.linux
def test_a_flood_of_forged_datagrams_costs_bounded_memory_and_shuts_nobody_out(
    kernel_network, run, caplog
):
    server = Server()
    dropped = {}

    async def main():
        common = {
            "transport": taps.TransportProperties.unreliable_datagram(),
            "security": taps.SecurityParameters.disabled(),
            "system": taps.System([UDP()]),
        }
        here = taps.Preconnection(local="127.0.0.1:0", **common)
        async with here.listen(server, grace=0) as listener:
            port = listener.local_endpoints[0].port
            datagrams = [forged(number, port) for number in range(DATAGRAMS)]
            there = taps.Preconnection(remote=listener.remote_endpoint, **common)
            sending = True
            # In bursts, some of which fill the socket: which datagrams find room, honest
            # ones among them, must not depend on who runs first in each turn.
            bursts = random.Random(1)

            async def flood(raw):
                sent = 0
                while sent < DATAGRAMS or sending:
                    for _ in range(bursts.choice((0, 50, 100, 10_000))):
                        raw.sendto(datagrams[sent % DATAGRAMS], ("127.0.0.1", 0))
                        sent += 1
                    await asyncio.sleep(0)

            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            with raw, caplog.at_level(logging.WARNING, logger="taps_udp"):
                async with there.initiate() as known:
                    await exchange(known, b"honest, before")
                    tracemalloc.start(1)
                    flooding = asyncio.create_task(flood(raw))
                    for number in range(10):
                        await exchange(known, b"honest %d" % number)
                    for number in range(3):
                        async with there.initiate() as newcomer:
                            await exchange(newcomer, b"honest newcomer %d" % number)
                    sending = False
                    await flooding
                    now, peak = tracemalloc.get_traced_memory()
                    tracemalloc.stop()
                    await exchange(known, b"honest, after")
            assert server.served > UNANSWERED
            assert server.live <= UNANSWERED + 4 + AT_A_TIME
            assert server.most <= UNANSWERED + 4 + AT_A_TIME
            assert now < peak < UNANSWERED * BYTES_EACH
            dropped.update(listener.dropped)
            assert dropped.keys() == {"kernel", "displaced"}
            # Whoever got in was displaced or is still there, or found no room in the first place.
            assert dropped["displaced"] >= server.served - server.most
            assert dropped["kernel"] + server.served >= DATAGRAMS
        assert listener.dropped == dropped

    try:
        run(main)
    finally:
        tracemalloc.stop()
    # All of it is in the log, once: whatever could be read is the sum of a few lines.
    said = Counter()
    for record in caplog.records:
        if record.name == "taps_udp":
            for each in record.getMessage().rpartition(": ")[2].split(", "):
                number, cause = each.split()
                said[cause] += int(number)
    assert said == dropped
