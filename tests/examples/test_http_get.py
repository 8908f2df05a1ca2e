"""A page from a real nginx; and the framer, whatever the pieces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import taps_core as taps

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from tests.examples.conftest import IdentityFiles


@pytest.fixture
def http(load_example: Callable[[str], ModuleType]) -> ModuleType:
    return load_example("http_get")


def test_it_prints_a_page_of_nginx(nginx: int, run_example: Callable[..., str]) -> None:
    printed = run_example("http_get.py", f"http://127.0.0.1:{nginx}/", "/nowhere")
    assert printed.startswith("200 OK, 32 bytes, text/html\n    <title>Hello from nginx</title>")
    assert "404 Not Found" in printed


def test_several_pages_come_over_one_connection(nginx: int, http: ModuleType) -> None:
    root = f"http://localhost:{nginx}"
    large, chunked, empty = asyncio.run(http.fetch(f"{root}/large.bin", "/chunked", "/empty.html"))
    assert (large.status, large.body) == (200, bytes(range(256)) * 4096)
    assert chunked.headers["transfer-encoding"] == "chunked"
    assert chunked.body == b"<title>Hello from nginx</title>\n"
    assert (empty.status, empty.body) == (200, b"")


def test_it_prints_a_page_over_tls(
    secure_nginx: int, identity_files: IdentityFiles, run_example: Callable[..., str]
) -> None:
    page, trusted = f"https://127.0.0.1:{secure_nginx}/", str(identity_files.trusted)
    printed = run_example("http_get.py", "--trust", trusted, page)
    assert "<title>Hello from nginx</title>" in printed
    printed = run_example("http_get.py", page, status=1)
    assert "trusted_certificates" in printed


def test_https_without_a_security_plugin_says_so_and_sends_nothing(
    nginx: int, run_example: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPS_PLUGINS_BLOCK", "tls")
    printed = run_example("http_get.py", f"https://127.0.0.1:{nginx}/", status=1)
    assert "taps-tls" in printed
    assert "Traceback" not in printed


def test_https_where_there_is_none_says_so(nginx: int, run_example: Callable[..., str]) -> None:
    printed = run_example("http_get.py", f"https://127.0.0.1:{nginx}/", status=1)
    assert "does not speak TLS" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("url", ["http://[::1", "http://x:99999/", "ftp://x/", "//x/", "x"])
def test_what_is_no_url_of_http_is_a_sentence(url: str, run_example: Callable[..., str]) -> None:
    printed = run_example("http_get.py", url, status=2)
    assert "a URL looks like" in printed


def test_nobody_there_is_one_line(run_example: Callable[..., str]) -> None:
    printed = run_example("http_get.py", "http://127.0.0.1:1/", status=1)
    assert "127.0.0.1:1" in printed
    assert "Traceback" not in printed


RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Odd: a, b\r\n\r\nhello"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 40, 1000])
def test_the_pieces_of_the_stream_do_not_matter(http: ModuleType, size: int) -> None:
    codec = http.Http().create()
    bodies = []
    for response in RESPONSES.split(b"HTTP/1.1")[1:]:
        codec.encode(http.Request(host="localhost"), None)
        rest, parts = b"", []
        stream = b"HTTP/1.1" + response
        for start in range(0, len(stream), size):
            rest += stream[start : start + size]
            rest = rest[codec.decode(rest, parts) :]
        ((found, context, end),) = parts
        assert (rest, context, end, codec.incomplete) == (b"", None, True, False)
        bodies.append(found.body)
    assert bodies == [b"hello", b"hello"]


def test_garbage_and_excess_are_deframing_failures(http: ModuleType) -> None:
    for stream in (b"\x16\x03\x01 nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + bytes(99)):
        codec = http.Http(max_length=50).create()
        codec.encode(http.Request(host="localhost"), None)
        with pytest.raises(taps.ReceiveError) as raised:
            codec.decode(stream, [])
        assert raised.value.reason is taps.Reason.DEFRAMING_FAILED


def test_a_second_request_before_the_response_is_a_send_error(http: ModuleType) -> None:
    codec = http.Http().create()
    codec.encode(http.Request(host="localhost"), None)
    with pytest.raises(taps.SendError):
        codec.encode(http.Request(host="localhost"), None)


def test_a_body_that_only_the_end_of_the_connection_ends_is_an_error_and_no_hang(
    nginx: int, http: ModuleType
) -> None:
    with pytest.raises(taps.ReceiveError):
        asyncio.run(http.fetch(f"http://127.0.0.1:{nginx}/until-close"))
