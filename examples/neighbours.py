"""Who else runs this here? Everybody says his name to a group, and listens to it.

    python examples/neighbours.py --interface eth0 Alice

Each sender to the group is a Connection of its own, and all of them are one Connection
Group (RFC 9622, section 6.1.1). Nobody is connected to anybody: whoever says nothing
any more has gone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import taps_core as taps

GROUP, PORT = "239.255.19.81", 19810  # RFC 2365: groups of this site's own
# Nothing here secures a group: TLS and DTLS are for two. Whoever is on the network reads a
# name, and may say any.
PLAIN = taps.SecurityParameters.disabled()
SAYING = taps.TransportProperties.unreliable_datagram()
LISTENING = SAYING.copy().set("direction", "Unidirectional receive")


async def say(name: str, interface: str | None, every: float) -> None:
    """Say it to the group, for ever."""
    remote = taps.RemoteEndpoint(multicast_group=GROUP, port=PORT, hop_limit=1, interface=interface)
    there = taps.Preconnection(remote=remote, transport=SAYING, security=PLAIN)
    async with there.initiate() as connection:
        while True:
            await connection.send(name.encode())
            await asyncio.sleep(every)


async def hear(connection: taps.Connection[bytes], patience: float) -> None:
    """One neighbour, until nothing comes from there any more."""
    name = (await connection.receive()).data.decode(errors="replace")
    print(f"{name} is here: {connection.remote_endpoint}", flush=True)
    try:
        while True:
            async with asyncio.timeout(patience):
                await connection.receive()
    except TimeoutError:
        print(f"{name} has gone: {connection.remote_endpoint}", flush=True)


async def main(name: str, interface: str | None, every: float) -> None:
    """Say and hear until it is interrupted."""
    local = taps.LocalEndpoint(multicast_group=GROUP, port=PORT, interface=interface)
    here = taps.Preconnection(local=local, transport=LISTENING, security=PLAIN)
    async with here.listen(lambda connection: hear(connection, 3 * every), grace=0):
        await say(name, interface, every)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Who else runs this on this network?")
    parser.add_argument("name", help="what the others see")
    parser.add_argument("--interface", help="of a network; else as the system's routes say")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS")
    given = parser.parse_args()
    try:
        asyncio.run(main(given.name, given.interface, given.every))
    except KeyboardInterrupt:
        pass
    except taps.TapsError as error:
        sys.exit(str(error))
