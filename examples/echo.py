"""An echo server and a client that asks it, line by line.

    python examples/echo.py                          # serves; prints where
    python examples/echo.py localhost:7007 hello     # asks

Any other program that speaks lines over TCP may be the peer: try ``nc``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

import taps_core as taps

PLAIN = taps.SecurityParameters.disabled()  # there is nothing to keep secret here


async def echo(connection: taps.Connection[bytes]) -> None:
    """What is done with each Connection; it is closed when this returns."""
    async for message in connection:
        await connection.send(message.data)


async def serve(local: str) -> None:
    """Answer until interrupted."""
    async with taps.Preconnection(local=local, security=PLAIN, framers="line").listen(
        echo
    ) as listener:
        for endpoint in listener.local_endpoints:
            print(f"listening on {endpoint}", flush=True)
        await listener.stopped()


async def ask(remote: str, lines: list[str]) -> None:
    """Send every line, then print every answer."""
    async with taps.Preconnection(remote=remote, security=PLAIN, framers="line").initiate(
        timeout=10
    ) as connection:
        for line in lines:
            await connection.send(line.encode())
        await connection.finish()
        async for message in connection:
            print(message.data.decode())


def main() -> int:
    """Serve, or ask."""
    parser = argparse.ArgumentParser(description="An echo server and its client")
    parser.add_argument("--listen", default="localhost:7007", metavar="HOST:PORT")
    parser.add_argument("remote", nargs="?", help="HOST:PORT of the server to ask")
    parser.add_argument("line", nargs="*")
    arguments = parser.parse_args()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            if arguments.remote is None:
                asyncio.run(serve(arguments.listen))
            else:
                asyncio.run(ask(arguments.remote, arguments.line))
    except taps.TapsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
