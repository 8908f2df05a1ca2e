"""An echo server and a client that asks it, line by line.

    python -m trustme                                # server.pem, server.key, client.pem
    python examples/echo.py --certificate server.pem --key server.key     # serves; prints where
    python examples/echo.py --trust client.pem localhost:7007 hello       # asks

Any other program that speaks lines over TLS may be the peer: try ``openssl s_client``.
With ``--plain`` both go without security, and ``nc`` will do; whoever is between them
then reads and writes along.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

import taps_core as taps


async def echo(connection: taps.Connection[bytes]) -> None:
    """What is done with each Connection; it is closed when this returns."""
    async for message in connection:
        await connection.send(message.data)


async def serve(local: str, security: taps.SecurityParameters) -> None:
    """Answer until interrupted."""
    async with taps.Preconnection(local=local, security=security, framers="line").listen(
        echo
    ) as listener:
        for endpoint in listener.local_endpoints:
            print(f"listening on {endpoint}", flush=True)
        await listener.stopped()


async def ask(remote: str, security: taps.SecurityParameters, lines: list[str]) -> None:
    """Send every line, then print every answer."""
    async with taps.Preconnection(remote=remote, security=security, framers="line").initiate(
        timeout=10
    ) as connection:
        for line in lines:
            await connection.send(line.encode())
        await connection.finish()
        async for message in connection:
            print(message.data.decode())


def wanted(arguments: argparse.Namespace) -> taps.SecurityParameters:
    """What is said of security; if nothing is, the system's authorities are trusted."""
    if arguments.plain:
        return taps.SecurityParameters.disabled()
    security = taps.SecurityParameters()
    if arguments.certificate is not None:
        security.set("serverCertificate", taps.Certificate(arguments.certificate, arguments.key))
    if arguments.trust is not None:
        security.set("trustedCertificates", arguments.trust)
    return security


def main() -> int:
    """Serve, or ask."""
    parser = argparse.ArgumentParser(description="An echo server and its client")
    parser.add_argument("--listen", default="localhost:7007", metavar="HOST:PORT")
    parser.add_argument("remote", nargs="?", help="HOST:PORT of the server to ask")
    parser.add_argument("line", nargs="*")
    parser.add_argument("--certificate", metavar="PEM", help="the server's, the leaf first")
    parser.add_argument("--key", metavar="PEM", help="its key, if it is in a file of its own")
    parser.add_argument("--trust", metavar="PEM", help="whom to trust in place of the system's")
    parser.add_argument("--plain", action="store_true", help="go without security, knowingly")
    arguments = parser.parse_args()
    security = wanted(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            if arguments.remote is None:
                asyncio.run(serve(arguments.listen, security))
            else:
                asyncio.run(ask(arguments.remote, security, arguments.line))
    except taps.TapsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
