"""Peers that are not ours: plain sockets, socat, lksctp's program; what tshark makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps

from .conftest import over_sctp
from .plain import Plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.network import Host

    from .conftest import Lab

pytestmark = pytest.mark.lab


def need(program: str, package: str) -> None:
    """Skip where a program is missing, or fail if it has to be there."""
    if shutil.which(program) is not None:
        return
    if program in os.environ.get("TAPS_REQUIRE", "").split(","):
        pytest.fail(f"{program} is not installed, and TAPS_REQUIRE demands it", pytrace=False)
    pytest.skip(f"{program} is missing (Debian: {package})")


@contextlib.contextmanager
def program(host: Host, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs on a host, until this ends."""
    with host.use():
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


async def connected(lab: Lab, port: int) -> taps.Connection[Any]:
    """To the server, as soon as a program listens there."""
    there = over_sctp(remote=f"{lab.network.server.address()}:{port}")
    while True:
        try:
            with lab.network.client.use():
                return await there.initiate()
        except taps.EstablishmentError:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("resets", [True, False], ids=["resets streams", "knows no resets"])
@pytest.mark.parametrize("size", [1, 1000, 200_000, 3_000_000])
def test_plain_sockets_both_ways(lab: Lab, resets: bool, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    async def main() -> None:
        door = Plain.listen(lab.network.server, resets=resets)
        there = over_sctp(remote=f"{lab.network.server.address()}:{door.port}")
        with lab.network.client.use():
            connection = await there.initiate()
        peer = await door.accept()
        for _ in range(3):
            await connection.send(data)
            assert (await peer.receive()).data == data
            peer.send(data)
            assert (await connection.receive()).data == data
        connection.abort()
        peer.close()
        door.close()

    lab.run(main)


def test_socat_echoes(lab: Lab) -> None:
    need("socat", "socat")

    async def main() -> None:
        with program(lab.network.server, "socat", "SCTP4-LISTEN:7000", "EXEC:cat"):
            connection = await connected(lab, 7000)
            for number in range(10):
                await connection.send(b"line %d\n" % number)
                assert (await connection.receive()).data == b"line %d\n" % number
            connection.abort()

    lab.run(main)


def test_socat_connects(lab: Lab) -> None:
    need("socat", "socat")

    async def main() -> None:
        async with lab.listening() as ends:
            address = f"SCTP4-CONNECT:{lab.network.server.address()}:{ends.port}"
            with program(lab.network.client, "socat", "-", address) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"from socat\n")
                process.stdin.flush()
                server = await ends.listener.accept()
                ends.connections.append(server)
                assert (await server.receive()).data == b"from socat\n"
                await server.send(b"from taps\n")
                line = await asyncio.to_thread(process.stdout.readline)
                assert line == b"from taps\n"
                process.stdin.close()
                with pytest.raises(taps.EndOfData):
                    await server.receive()

    lab.run(main)


def test_sctp_darn_sends_what_it_is_told(lab: Lab) -> None:
    need("sctp_darn", "lksctp-tools")

    async def main() -> None:
        async with lab.listening() as ends:
            command = (
                *("sctp_darn", "-H", lab.network.client.address(), "-P", "7010"),
                *("-h", lab.network.server.address(), "-p", str(ends.port), "-s"),
            )
            with program(lab.network.client, *command) as process:
                assert process.stdin is not None
                process.stdin.write(b"told to say this\n")
                process.stdin.flush()
                server = await ends.listener.accept()
                ends.connections.append(server)
                assert b"told to say this" in (await server.receive()).data

    lab.run(main)


def test_tshark_reads_an_association(lab: Lab, tmp_path: Path) -> None:
    need("tshark", "tshark")
    trace = tmp_path / "trace.pcap"

    async def main() -> None:
        # The part of tshark that captures: tshark itself takes ten seconds to start here.
        capture = lab.network.server.call(
            subprocess.Popen,
            ["dumpcap", "-q", "-i", "path1", "-f", "sctp", "-P", "-w", str(trace)],
            stderr=subprocess.PIPE,
        )
        assert capture.stderr is not None
        line = b""
        while b"File:" not in line:
            line = await asyncio.to_thread(capture.stderr.readline)
        async with lab.listening() as ends:
            client, server = await ends.pair()
            clone = await client.clone()
            await client.send(b"on the first stream", taps.MessageContext().add("_taps.ppid", 46))
            await clone.send(b"on the second")
            assert (await server.receive()).data == b"on the first stream"
            await clone.close()
            closing = client.close()
            with pytest.raises(taps.EndOfData):
                await server.receive()
            await server.close()
            await closing
        await asyncio.sleep(1)
        capture.terminate()
        await asyncio.to_thread(capture.communicate)

    lab.run(main)
    fields = ("chunk_type", "data_sid", "data_payload_proto_id")
    read = subprocess.run(
        [
            *("tshark", "-r", str(trace), "-T", "fields"),
            *(each for field in fields for each in ("-e", f"sctp.{field}")),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = [line.split("\t") for line in read.splitlines()]
    chunks = {int(each) for row in rows for each in row[0].split(",") if each}
    # INIT, INIT ACK, SACK, COOKIE ECHO, COOKIE ACK; RE-CONFIG; SHUTDOWN, its ACK, COMPLETE.
    assert {1, 2, 3, 10, 11, 130, 7, 8, 14} <= chunks
    assert not chunks & {6, 9}  # ABORT, ERROR
    data = {(int(row[1], 0), int(row[2], 0)) for row in rows if row[1] and "," not in row[1]}
    assert data == {(0, 46), (2, 0)}
