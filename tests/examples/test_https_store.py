"""curl stores and fetches by HTTPS; the framer, whatever the pieces and however hurried."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from tests.examples.conftest import EXAMPLES, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from taps_core.testing.fixtures import Run
    from tests.examples.conftest import IdentityFiles


class Curl:
    """curl, which trusts our authority alone."""

    def __init__(self, files: IdentityFiles, port: int) -> None:
        self.folder = files.mine.parent
        self.trusted = str(files.trusted)
        self.root = f"https://localhost:{port}"
        self._program = program("curl")

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What it printed to its standard output."""
        command = [self._program, "-q", "-sS", "--noproxy", "*", "--max-time", "30"]
        command += ["--http1.1", "--cacert", self.trusted, *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert done.returncode == status, done.stderr.decode()
        return done.stdout.decode()


@pytest.fixture
def curl(identity_files: IdentityFiles) -> Iterator[Curl]:
    """curl for an HTTPS server that runs as a user would run it."""
    program("curl")
    server = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", str(EXAMPLES / "https_store.py")),
            *("--listen", "localhost:0", str(identity_files.mine)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background ignores SIGINT, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert server.stdout is not None
    try:
        announced = server.stdout.readline()
        found = re.search(r":(\d+)$", announced.strip())
        assert found, announced + server.stdout.read()
        yield Curl(identity_files, int(found[1]))
        server.send_signal(signal.SIGINT)
        printed = server.communicate(timeout=30)[0]
        assert server.returncode == 0
        assert "Traceback" not in printed
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_curl_puts_and_gets_over_one_connection(curl: Curl) -> None:
    (curl.folder / "notes").write_text("to be kept\n")
    facts = ("-w", "%{json}\n")
    lines = curl(
        *("-T", str(curl.folder / "notes"), f"{curl.root}/notes", *facts, "--next"),
        *("-sS", "--cacert", curl.trusted, "--http1.1", *facts),
        *(f"{curl.root}/notes", f"{curl.root}/nowhere"),
    ).splitlines()
    assert lines[0::2] == ["11 bytes", "to be kept", "there is no such thing"]
    told = [json.loads(line) for line in lines[1::2]]
    assert [each["http_code"] for each in told] == [201, 200, 404]
    assert [each["num_connects"] for each in told] == [1, 0, 0]
    assert {each["ssl_verify_result"] for each in told} == {0}


def test_the_framer_brings_its_application_protocol(curl: Curl) -> None:
    done = subprocess.run(
        [program("curl"), "-v", "-sS", "--http1.1", "-k", curl.root],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert b"server accepted http/1.1" in done.stderr


@pytest.mark.parametrize("how", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect:")])
def test_curl_uploads_with_and_without_a_length(curl: Curl, how: tuple[str, ...]) -> None:
    # So much that curl asks first whether it may.
    content = bytes(range(256)) * 8192
    (curl.folder / "large").write_bytes(content)
    said = curl(*how, "-T", str(curl.folder / "large"), f"{curl.root}/large")
    assert said == f"{len(content)} bytes\n"
    fetched = curl.folder / "fetched"
    curl("-o", str(fetched), f"{curl.root}/large")
    assert fetched.read_bytes() == content


def test_heads_and_older_clients_are_answered(curl: Curl) -> None:
    curl("-d", "twelve bytes", f"{curl.root}/x")
    head = curl("-I", f"{curl.root}/x", f"{curl.root}/x").lower()
    assert head.count("content-length: 12\r\n") == 2
    assert curl("--http1.0", f"{curl.root}/x") == "twelve bytes"
    assert curl("-X", "DELETE", "-w", "%{http_code}", f"{curl.root}/x").endswith("405")


def test_curl_does_not_believe_another_name(curl: Curl) -> None:
    port = curl.root.rpartition(":")[2]
    other = ("--resolve", f"other.example:{port}:127.0.0.1", f"https://other.example:{port}/")
    curl(*other, status=60)


# -- the framer

LAST = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def exchange(example: ModuleType, *pieces: bytes, final: bool = False) -> bytes:
    """What a client gets that sends these pieces one by one, until the server ends it.

    Args:
        final: Whether it half-closes at once.
    """
    store = example.Store()
    plain = taps.SecurityParameters.disabled()
    system = taps.System()
    here = taps.Preconnection(
        local="127.0.0.1:0", security=plain, framers=example.HttpServer, system=system
    )
    async with here.listen(store.serve) as listener:
        there: Any = taps.Preconnection(
            remote=listener.remote_endpoint, security=plain, system=system
        )
        async with there.initiate() as client:
            for piece in pieces:
                await client.send(piece, final=final and piece is pieces[-1])
            answer = b""
            try:
                while True:
                    answer += (await client.receive(max_length=65536)).data
            except taps.EndOfData:
                return answer


@pytest.fixture
def example(load_example: Callable[[str], ModuleType]) -> ModuleType:
    return load_example("https_store")


def test_requests_that_come_at_once_are_answered_in_order(run: Run, example: ModuleType) -> None:
    async def main() -> None:
        requests = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(50)]
        puts = [
            b"PUT /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d" % (number, number)
            for number in range(50)
        ]
        answer = await exchange(example, b"".join([*puts, *requests, LAST]))
        bodies = [each.partition(b"\r\n\r\n")[2] for each in answer.split(b"HTTP/1.1 ")[1:]]
        assert bodies == [
            *([b"2 bytes\n"] * 50),
            *(b"%02d" % number for number in range(50)),
            b"there is no such thing\n",
        ]

    run(main)


def test_the_pieces_of_the_stream_do_not_matter(run: Run, example: ModuleType) -> None:
    stream = (
        b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\nGET /a HTTP/1.0\r\n\r\n"
    )

    async def main() -> None:
        whole = await exchange(example, stream)
        assert whole.endswith(b"\r\n\r\nhello")
        for size in (1, 2, 7, 40):
            pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
            assert len(await exchange(example, *pieces)) == len(whole)

    run(main)


@pytest.mark.parametrize("size", [1, 40, 10_000])
def test_requests_before_a_half_close_are_answered(
    run: Run, example: ModuleType, size: int
) -> None:
    # So much that some of it is not even parsed when the first request is delivered.
    puts = [
        b"PUT /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (number, size) + bytes(size)
        for number in range(20)
    ]

    async def main() -> None:
        answer = await exchange(example, b"".join(puts), final=True)
        assert answer.count(b"HTTP/1.1 201 ") == 20

    run(main)


def test_a_request_that_a_half_close_cuts_off_is_answered_with_400(
    run: Run, example: ModuleType
) -> None:
    whole = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"

    async def main() -> None:
        for length in (1, 30, len(whole) - 1):
            answer = await exchange(example, whole + whole[:length], final=True)
            assert [each[:3] for each in answer.split(b"HTTP/1.1 ")[1:]] == [b"201", b"400"]

    run(main)


def test_what_is_no_request_is_answered_with_400(run: Run, example: ModuleType) -> None:
    async def main() -> None:
        for nonsense in (b"\x16\x03\x01 nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            answer = await exchange(example, nonsense)
            assert answer.startswith(b"HTTP/1.1 400 ")

    run(main)


def test_a_body_is_not_longer_than_it_may_be(run: Run, example: ModuleType) -> None:
    example.HttpServer.max_length = 1000

    async def main() -> None:
        for length, status in ((1000, b"201"), (1001, b"400")):
            head = b"PUT /a HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % length
            answer = await exchange(example, head + bytes(length))
            assert answer.startswith(b"HTTP/1.1 %b " % status)

    run(main)
