"""A process that uses ``sctp-udp`` ends as others do, and survives what anybody may send to it.

The library is written in C: each of these runs it in a child process, and says how that ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

from .udp_paths import needed

needed()

#: How a process may leave: everything in order, or all of it still open.
_ENDS: Final = {
    "in order": "for each in (client, server): await each.close()",
    "at once": "client.abort(); server.abort()",
    "with everything open": "",
}
_PROGRAM: Final = """
import asyncio
import taps_core as taps

KIND = "_taps.encapsulationPort"
OPEN = taps.SecurityParameters.disabled()

def at(kind, port, udp_port):
    return kind(
        ip_address="127.0.0.1", port=port, protocol="sctp-udp", identifiers={KIND: udp_port}
    )

async def main():
    here = taps.Preconnection(local=at(taps.LocalEndpoint, 0, 0), security=OPEN)
    listener = await here.listen()
    (local,) = listener.local_endpoints
    remote = at(taps.RemoteEndpoint, local.port, local.identifiers[KIND])
    client = await taps.Preconnection(remote=remote, security=OPEN).initiate()
    server = await listener.accept()
    await client.send(b"a Message")
    assert (await server.receive()).data == b"a Message"
    END
    LEFT.append((listener, client, server))

LEFT = []
asyncio.run(main())
print("done")
"""


@pytest.mark.slow
def test_the_interpreter_ends_cleanly_50_times_of_50() -> None:
    ends = list(_ENDS.values())
    for number in range(50):
        program = _PROGRAM.replace("END", ends[number % len(ends)])
        child = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert (child.returncode, child.stdout) == (0, "done\n"), (
            f"run {number + 1}: {_told(child.returncode)}\n{child.stderr}"
        )


#: Feeds itself by UDP with packets that the seed decides upon, and shows that it still works.
_FUZZED: Final = """
import asyncio, random, resource, socket, sys
import taps_core as taps
from taps_sctp.userland import Userland

KIND = "_taps.encapsulationPort"
OPEN = taps.SecurityParameters.disabled()
source = random.Random(int(sys.argv[1]))
ROUNDS = int(sys.argv[2])

def at(kind, port, udp_port):
    return kind(
        ip_address="127.0.0.1", port=port, protocol="sctp-udp", identifiers={KIND: udp_port}
    )

class Recorder(asyncio.DatagramProtocol):
    # Between a client and the Listener: good packets, to begin with.
    def __init__(self, there):
        self.there, self.here, self.packets = there, None, []
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.packets.append(data)
        if address != self.there:
            self.here = address
        self.transport.sendto(data, self.here if address == self.there else self.there)

def mutated(packet):
    packet = bytearray(packet)
    for _ in range(source.randint(0, 4)):
        what = source.randrange(4)
        if what == 0:
            packet[source.randrange(len(packet))] = source.choice([0, 1, 127, 128, 255])
        elif what == 1:
            packet[source.randrange(len(packet))] ^= 1 << source.randrange(8)
        elif what == 2 and len(packet) > 20:
            del packet[source.randrange(16, len(packet)):]
        elif what == 3:
            at = source.randrange(12, len(packet))
            packet[at:at] = source.randbytes(source.randint(1, 64))
    return packet

def random_packet(good):
    chunk = bytes([source.choice([*range(16), 0x40, 0x80, 0x81, 0x82, 0x84, 0xC0, 0xC1, 0xC2])])
    body = source.randbytes(source.randint(0, 200))
    header = chunk + source.randbytes(1) + (len(body) + 4).to_bytes(2)
    return bytearray(source.choice(good)[:12] + header + body)

async def exchange(remote, listener):
    client = await taps.Preconnection(remote=remote, security=OPEN).initiate(timeout=30)
    await client.send(b"a Message" * 1000)
    while True:
        # What was fed may have come as Connections, too.
        server = await listener.accept()
        try:
            async with asyncio.timeout(5):
                if (await server.receive()).data == b"a Message" * 1000:
                    break
        except (taps.TapsError, TimeoutError):
            pass
        server.abort()
    clone = await client.clone()
    await clone.send(b"on a stream")
    await clone.close()
    return client, server

async def main():
    loop = asyncio.get_running_loop()
    here = taps.Preconnection(local=at(taps.LocalEndpoint, 0, 0), security=OPEN)
    listener = await here.listen()
    (local,) = listener.local_endpoints
    udp_port = local.identifiers[KIND]
    path, recorder = await loop.create_datagram_endpoint(
        lambda: Recorder(("127.0.0.1", udp_port)), local_addr=("127.0.0.1", 0)
    )
    through = at(taps.RemoteEndpoint, local.port, path.get_extra_info("sockname")[1])
    land = Userland.claim(loop)
    strangers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(5)]
    print("fed", flush=True)
    before = 0
    for round in range(ROUNDS):
        recorder.packets = []
        # An association that what is fed can be about, by the addresses of both its ends.
        client, server = await exchange(through, listener)
        good = list(recorder.packets)
        for number in range(1000):
            packet = random_packet(good) if source.random() < 0.3 else mutated(source.choice(good))
            if source.random() < 0.9:
                packet[8:12] = bytes(4)
                packet[8:12] = land.checksum(packet)
            if source.random() < 0.7:
                path.sendto(bytes(packet), source.choice([recorder.there, recorder.here]))
            else:
                source.choice(strangers).sendto(packet, ("127.0.0.1", udp_port))
            if number % 20 == 0:
                await asyncio.sleep(0)
        client.abort()
        server.abort()
        # What is still under way is not for the next handshake, which it can spoil.
        await asyncio.sleep(0.05)
        if round == ROUNDS // 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print("alive", grown, flush=True)
    client, server = await exchange(at(taps.RemoteEndpoint, local.port, udp_port), listener)
    print("works", flush=True)
    client.abort()
    server.abort()
    for each in strangers:
        each.close()
    listener.stop()
    path.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
def test_malformed_packets_do_not_end_the_process(seed: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _FUZZED, str(seed), "20"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    said = child.stdout.split("\n")
    assert child.returncode == 0, (
        f"with seed {seed} the child was {_told(child.returncode)}, after saying {said}\n"
        f"{child.stderr[-2000:]}"
    )
    assert said[0] == "fed"
    assert said[2] == "works"
    # Kilobytes in the second half of all packets.
    assert int(said[1].split()[1]) < 16 * 1024


def _told(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"over with {status}"
