"""The demonstration: ``make demo``.

A server and a client in one program, over real sockets on this machine. The
client says what it needs and never names a protocol; the program shows what
was chosen, why, what was tried, and what was said.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import textwrap
from pathlib import Path

import taps_core as taps
from taps_core.testing import local_identity

try:
    from rich.console import Console
except ImportError:  # the program is plain without it
    Console = None  # type: ignore[assignment, misc]  # its only use asks first

WIDTH = 80
console = Console(highlight=False, soft_wrap=True) if Console is not None else None


def show(text: str = "", style: str = "", indent: int = 2) -> None:
    """Print a paragraph; in colour where the terminal and rich allow."""
    lines = textwrap.wrap(
        text,
        WIDTH - indent,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines or [""]:
        if console is None:
            print(line)
        else:
            console.print(line, style=style, markup=False)


def heading(number: int, text: str) -> None:
    """Begin a section."""
    show()
    show(f"{number}. {text}", "bold cyan", indent=0)


# What the application needs. A framer makes Messages out of any stream of bytes.
NEEDS = taps.TransportProperties().require("reliability", "preserve-order").prefer("keep-alive")
FRAMERS = "length-prefix"


def why(preconnection: taps.Preconnection) -> None:
    """Show which stacks would be tried, in which order, which not, and why."""
    selection = preconnection.select()
    for ranked in selection.ranked:
        show(f"place {ranked.place}: {ranked.stack}", "green")
        for reason in ranked.reasons:
            show(str(reason), indent=6)
        for sentence in ranked.without_effect:
            show(sentence, indent=6)
    for rejected in selection.rejected:
        show(f"out: {rejected.stack}", "yellow")
        for reason in rejected.reasons:
            show(str(reason), indent=6)


async def shout(connection: taps.Connection[bytes]) -> None:
    """The server: greets first, then answers in upper case, then says how many it heard."""
    await connection.send(b"welcome")
    heard = 0
    async for message in connection:  # until the client has said all it has to say
        heard += 1
        await connection.send(message.data.upper())
    await connection.send(b"%d Messages heard, goodbye" % heard)


async def talk(connection: taps.Connection[bytes]) -> None:
    """The client: three Messages at once, then the end of its side, then what comes back."""
    show(f"<- {(await connection.receive()).data.decode()}", "green")
    with connection.batch():
        for text in ("one", "two", "three"):
            await connection.send(text.encode(), lifetime=5)
            show(f"-> {text}", "magenta")
    await connection.finish()
    show("-> (nothing more from this side)", "magenta")
    async for message in connection:
        show(f"<- {message.data.decode()}", "green")


def command_line() -> str:
    """How to call ``taps-plugins`` from here."""
    program = "taps-plugins"
    if shutil.which(program) is None:
        # The environment is not active: it is beside the interpreter.
        return os.path.relpath(Path(sys.executable).with_name(program))
    return program


async def main() -> None:
    """Ask, choose, connect, talk."""
    show("taps: say what you need from the network, get a Connection", "bold", indent=0)

    heading(1, "Secure unless told otherwise")
    # The server's certificate is of a throw-away authority, and the client trusts no other.
    server, client = local_identity("localhost")
    here = taps.Preconnection(
        local="127.0.0.1:0", transport=NEEDS, security=server, framers=FRAMERS
    )
    async with here.listen(shout) as listener:
        (address,) = listener.local_endpoints
        there = taps.Preconnection(
            remote=taps.RemoteEndpoint(hostname="localhost", port=address.port),
            transport=NEEDS,
            security=client,
            framers=FRAMERS,
        )
        show("Asked for reliability and order, with security as it is by default:")
        why(there)

        heading(2, f"A server on {address}, a client that asks for localhost:{address.port}")
        async with there.initiate(timeout=10) as connection:
            show(f"connected over {connection.stack}", "green")
            show(f"from {connection.local_endpoint} to {connection.remote_endpoint}", indent=4)
            agreed = connection.properties
            show(f"{agreed['_taps.securityProtocol']}, {agreed['_taps.ciphersuite']}", indent=4)
            verified = "was" if agreed["_taps.peerVerified"] else "was not"
            show(f"the server's certificate {verified} verified, for localhost", indent=4)
            show("What was tried, one address after the other:")
            for attempt in connection.report:
                show(str(attempt), "green" if attempt.outcome == "ready" else "yellow", indent=6)

            heading(3, "Messages both ways")
            await talk(connection)

        heading(4, "A client that does not know the authority")
        stranger = taps.Preconnection(
            remote=taps.RemoteEndpoint(hostname="localhost", port=address.port), framers=FRAMERS
        )
        try:
            _ = await stranger.initiate(timeout=10)
        except taps.EstablishmentError as error:
            for attempt in error.attempts:
                show(str(attempt), "yellow")

    heading(5, "Plaintext, knowingly")
    plain = taps.Preconnection(
        remote="localhost:7",
        transport=NEEDS,
        security=taps.SecurityParameters.disabled(),
        framers=FRAMERS,
    )
    show("The same with SecurityParameters.disabled(), were it to connect:")
    why(plain)

    heading(6, "The end")
    show(f"the Connection is {connection.state}, the Listener has stopped")
    show()
    program = command_line()
    show(f"{program} list         what this machine can run", indent=0)
    show(f"{program} explain      what would be chosen, and why", indent=0)


if __name__ == "__main__":
    asyncio.run(main())
