"""One of two processes with thousands of Connections between them; see test_many_connections.py.

``server LOOP`` prints the numbers of its ports; ``client LOOP PORT…`` connects to them.
Both obey lines on stdin, each with a line of JSON: ``round N`` to the client is N
Connections at a time, a Message and its echo on each, and Close; to either, ``look`` is
what is left of all the rounds so far.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import tracemalloc
from typing import Any

import taps_core as taps

#: Each is a further range of ephemeral ports.
ADDRESSES = ("127.0.0.1", "127.0.0.2")
#: Handshakes at a time.
AT_ONCE = 200

PLAIN = taps.SecurityParameters.disabled()


async def echo(connection: taps.Connection[bytes]) -> None:
    async for message in connection:
        await connection.send(message.data)


async def play_round(ports: list[int], count: int) -> dict[str, Any]:
    """So many Connections, all open at the same time."""
    theres = [
        taps.Preconnection(remote=f"{address}:{port}", security=PLAIN, framers="length-prefix")
        for address, port in zip(ADDRESSES, ports, strict=True)
    ]
    connections: list[taps.Connection[bytes]] = []

    async def connect(number: int) -> None:
        connections.append(await theres[number % len(theres)].initiate(timeout=60))

    async def ask(number: int, connection: taps.Connection[bytes]) -> bool:
        await connection.send(b"%d" % number)
        return (await connection.receive()).data == b"%d" % number

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*map(connect, range(first, min(first + AT_ONCE, count))))
    opened = len(os.listdir("/proc/self/fd"))
    echoes = await asyncio.gather(
        *(ask(number, connection) for number, connection in enumerate(connections))
    )
    await asyncio.gather(*(close(connection) for connection in connections))
    return {"echoes": sum(echoes), "opened": opened}


async def close(connection: taps.Connection[bytes]) -> None:
    await connection.close()


async def look() -> dict[str, Any]:
    """What there is when everything is closed."""
    runtime = taps.System.current().runtime()
    # The other process has seen the end of all a moment before or after this one.
    async with asyncio.timeout(30):
        while runtime.connections or len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
    # Loops let go of a socket a turn after its end was told.
    await asyncio.sleep(0.01)
    gc.collect()
    return {
        "memory": tracemalloc.get_traced_memory()[0],
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()) - 1,
        "connections": len(runtime.connections),
    }


async def main(role: str, ports: list[int]) -> None:
    tracemalloc.start()
    if role == "server":
        here = taps.Preconnection(
            local=[f"{address}:0" for address in ADDRESSES], security=PLAIN, framers="length-prefix"
        )
        listener = await here.listen(echo)
        print(json.dumps([endpoint.port for endpoint in listener.local_endpoints]), flush=True)
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        verb, *number = order.split()
        answer = await look() if verb == "look" else await play_round(ports, int(number[0]))
        print(json.dumps(answer), flush=True)
    if role == "server":
        listener.stop()
        await listener.stopped()


def factory(loop: str) -> Any:
    if loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=factory(sys.argv[2])) as runner:
        runner.run(main(sys.argv[1], [int(port) for port in sys.argv[3:]]))
