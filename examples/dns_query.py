"""Ask a DNS server: datagrams, and what an application adds to them.

    python examples/dns_query.py 127.0.0.1:53 example.org AAAA

A datagram may be lost, come twice, or come from a question before. So the question
is sent again when nothing comes, what does not answer it is passed over, and an answer
that did not fit is asked for once more over a stream (RFC 1035, section 4.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import dns.exception
import dns.flags
import dns.message
import dns.rcode

import taps_core as taps
from taps_framers import LengthPrefix

# As DNS is, since 1983: servers at port 53 speak nothing else. Whoever is on the way sees the
# question, and may forge the answer.
PLAIN = taps.SecurityParameters.disabled()


async def ask(server: str, query: dns.message.Message) -> dns.message.Message:
    """The answer; by TCP if it is too long for a datagram.

    Raises:
        TapsError, TimeoutError: There is none.
    """
    answer = await ask_in_datagrams(server, query)
    if answer.flags & dns.flags.TC:
        return await ask_in_a_stream(server, query)
    return answer


async def ask_in_datagrams(
    server: str, query: dns.message.Message, *, tries: int = 3, patience: float = 2.0
) -> dns.message.Message:
    """The question in a datagram, up to ``tries`` times, ``patience`` seconds apart."""
    there = taps.Preconnection(
        remote=server, transport=taps.TransportProperties.unreliable_datagram(), security=PLAIN
    )
    async with there.initiate(timeout=10) as connection:
        for _ in range(tries):
            await connection.send(query.to_wire())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while True:
                        message = await connection.receive()
                        with contextlib.suppress(dns.exception.DNSException):
                            answer = dns.message.from_wire(message.data)
                            if query.is_response(answer):
                                return answer
    raise TimeoutError(f"no answer from {server}")


async def ask_in_a_stream(server: str, query: dns.message.Message) -> dns.message.Message:
    """The same over what is reliable; there a length goes before each message."""
    there = taps.Preconnection(remote=server, security=PLAIN, framers=LengthPrefix(2))
    async with there.initiate(timeout=10) as connection:
        await connection.send(query.to_wire())
        return dns.message.from_wire((await connection.receive()).data)


async def main(server: str, name: str, kind: str) -> None:
    """Ask, and show what came."""
    answer = await ask(server, dns.message.make_query(name, kind))
    for rrset in answer.answer:
        print(rrset)
    if not answer.answer:
        print(f"no {kind} of {name}: {dns.rcode.to_text(answer.rcode())}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: dns_query.py HOST:PORT NAME [TYPE]")
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else "A"))
    except (taps.TapsError, TimeoutError, dns.exception.DNSException) as error:
        sys.exit(str(error))
