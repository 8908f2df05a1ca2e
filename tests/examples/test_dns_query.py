"""Questions to a real DNS server, in datagrams and where these do not do."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_an_answer_comes_in_a_datagram(unbound: int, run_example: Callable[..., str]) -> None:
    server = f"127.0.0.1:{unbound}"
    assert run_example("dns_query.py", server, "www.example") == (
        "www.example. 300 IN A 192.0.2.7\n"
    )
    assert run_example("dns_query.py", server, "www.example", "AAAA") == (
        "www.example. 300 IN AAAA 2001:db8::7\n"
    )


def test_what_is_too_long_for_it_comes_in_a_stream(
    unbound: int, run_example: Callable[..., str]
) -> None:
    lines = run_example("dns_query.py", f"127.0.0.1:{unbound}", "long.example", "TXT").splitlines()
    assert sorted(line.split('"')[1] for line in lines) == [f"{n:0>200}" for n in range(20)]


def test_there_being_no_answer_is_an_answer(unbound: int, run_example: Callable[..., str]) -> None:
    said = run_example("dns_query.py", f"127.0.0.1:{unbound}", "nothing.example")
    assert said == "no A of nothing.example: NXDOMAIN\n"


@pytest.fixture
def liar() -> Iterator[int]:
    """Answers garbage, an answer to another question, and then with the truth at the second try."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            _, address = sock.recvfrom(512)
            sock.sendto(b"garbage", address)
            query, address = sock.recvfrom(512)
            sock.sendto(bytes([query[0] ^ 1]) + query[1:2] + b"\x81\x83" + query[4:], address)
            sock.sendto(query[:2] + b"\x81\x83" + query[4:], address)

        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()[1]
        thread.join()


def test_garbage_and_strange_answers_are_passed_over(
    liar: int, run_example: Callable[..., str]
) -> None:
    said = run_example("dns_query.py", f"127.0.0.1:{liar}", "nothing.example")
    assert said == "no A of nothing.example: NXDOMAIN\n"
