"""Echo over a unix-domain socket, in Messages framed by SLIP: two third parties' plugins at work.

pip install ./taps-unix ./taps-slip
python unix_echo.py
"""

from __future__ import annotations

import asyncio
import tempfile

import taps_core as taps

# A socket file gives no encryption: who may open it is up to its folder.
PLAIN = taps.SecurityParameters.disabled()


async def echo(connection: taps.Connection[bytes]) -> None:
    """What is done with each Connection; it is closed when this returns."""
    async for message in connection:
        await connection.send(message.data)


async def main(system: taps.System | None = None) -> None:
    """Listen, ask, print the answer."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"_unix.path={folder}/echo.sock"
        here = taps.Preconnection(local=place, security=PLAIN, framers="slip", system=system)
        there = taps.Preconnection(remote=place, security=PLAIN, framers="slip", system=system)
        async with here.listen(echo), there.initiate(timeout=10) as connection:
            await connection.send(b"hello, \xc0 and all")
            print((await connection.receive()).data, "over", connection.stack)


if __name__ == "__main__":
    asyncio.run(main())
