"""``taps-plugins race``: a race that is performed, or one of before, drawn."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import io
import json
import re
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from plugin_site import PluginSite, transport
from reports import HOLE

from taps_core.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taps_core.testing import KernelNetwork


class Server:
    """Takes every TCP connection, and keeps what came until its peer ends it."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.ended = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            with self.listening.accept()[0] as peer:
                with contextlib.suppress(OSError):
                    while data := peer.recv(1000):
                        if data == b"stop":
                            return
                self.ended.release()

    def stop(self) -> None:
        with socket.create_connection(self.listening.getsockname()) as last:
            last.sendall(b"stop")
        self.thread.join()
        self.listening.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(HOLE))
    return path


class Run:
    """Runs ``race`` in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, expect: int = 0) -> tuple[str, str]:
        status = main(["race", *arguments])
        out, err = self._capsys.readouterr()
        assert status == expect, out + err
        assert "Traceback" not in out + err
        return out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_each_step_is_a_line_and_then_there_is_the_picture(run: Run, server: Server) -> None:
    out, err = run(server.address, "--security", "disabled")
    steps, picture, told = out.split("\n\n")[0], out.split("\n\n")[2], out.split("\n\n")[-1]
    trying, ready = steps.splitlines()
    assert trying.endswith(f"TCP to {server.address}: trying")
    assert ready.endswith(f"TCP to {server.address}: ready")
    assert "Connected after" in out
    assert f"TCP to {server.address}" in picture
    assert "It was ready after" in told
    assert err == ""


def test_what_has_won_is_closed_at_once(run: Run, server: Server) -> None:
    run(server.address, "--security", "disabled")
    assert server.ended.acquire(timeout=10)


def test_names_and_several_addresses_are_in_it(run: Run, server: Server, nobody: str) -> None:
    out, _ = run(nobody, server.address, "--security", "disabled", "--json")
    told = json.loads(out)
    assert [each["outcome"] for each in told["attempts"]] == ["failed", "ready"]
    port = server.address.rpartition(":")[2]
    out, _ = run(f"localhost:{port}", "--security", "disabled")
    assert f"localhost:{port}: asking for its addresses" in out
    assert "127.0.0.1" in out


def test_it_fails_where_nothing_is_ready_and_says_why(run: Run, nobody: str) -> None:
    out, _ = run(nobody, "--security", "disabled", expect=1)
    assert "Not connected, after" in out
    assert "connection refused" in out
    told = json.loads(run(nobody, "--security", "disabled", "--json", expect=1)[0])
    assert told["outcome"] == "failed"


def test_its_time_is_bounded(run: Run, server: Server) -> None:
    # The server never answers TLS.
    out, _ = run(server.address, "--timeout", "2", expect=1)
    assert "nothing was ready within 2 s" in out
    assert "connected, the handshake above begins" in out
    assert "it was closed when the time was over" in " ".join(out.split())


@pytest.mark.linux
@pytest.mark.requirement("R-9623-4.3.2-01", "R-9623-4.3.2-03")
def test_a_black_hole_of_the_kernels_costs_one_delay_in_words_and_in_the_page(
    run: Run, kernel_network: KernelNetwork, server: Server, tmp_path: Path
) -> None:
    kernel_network.filter("ip6 daddr ::1 drop")
    port = server.address.rpartition(":")[2]
    path = tmp_path / "race.html"
    out, _ = run(f"localhost:{port}", "--security", "disabled", "--html", str(path))

    said = [line.split(maxsplit=2)[-1] for line in out.split("\n\n")[0].splitlines()]
    assert said[-4:] == [
        f"TCP to [::1]:{port}: trying",
        f"TCP to 127.0.0.1:{port}: trying",
        f"TCP to 127.0.0.1:{port}: ready",
        f"TCP to [::1]:{port}: cancelled",
    ]
    told = " ".join(out.split())
    delay = re.search(r"Tried (\d+) ms after attempt 1 had begun, as that was not ready yet", told)
    assert delay is not None
    assert int(delay[1]) >= 250
    assert "it was closed when attempt 2 had won" in told
    assert f"TCP to 127.0.0.1:{port}" in told.partition("Connected after")[2]

    (report,) = re.findall(r"<pre>(.*?)</pre>", path.read_text(), re.DOTALL)
    hole, won = json.loads(html.unescape(report))["attempts"]
    assert (hole["remote"], hole["outcome"]) == (f"[::1]:{port}", "cancelled")
    assert (won["remote"], won["outcome"]) == (f"127.0.0.1:{port}", "ready")
    # Not a word about how long anything took but for the delay, which is ours.
    assert won["started"] - hole["started"] >= 0.25
    assert hole["ended"] >= won["ended"]


def test_a_peer_that_does_not_close_is_left(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        out, _ = run(f"127.0.0.1:{port}", "--security", "disabled")
        assert "Connected after" in out


def test_udp_is_ready_and_says_that_it_proves_nothing(run: Run, nobody: str) -> None:
    out, _ = run(nobody, "--security", "disabled", "--profile", "unreliable-datagram")
    assert "without a word from the peer" in out


def test_options_are_those_of_explain(run: Run, server: Server) -> None:
    out, _ = run(server.address, "--security", "disabled", "--framer", "line", "--json")
    (attempt,) = json.loads(out)["attempts"]
    assert attempt["stack"] == "line/TCP"
    _, err = run(server.address, "--require", "no-such-property", expect=2)
    assert "no-such-property" in err


def test_what_cannot_be_tried_at_all_is_an_error_with_its_reasons(run: Run, server: Server) -> None:
    out, err = run(server.address, "--require", "multipath-nonsense", expect=2)
    assert out == ""
    out, err = run(
        server.address, "--require", "preserveMsgBoundaries", "--require", "reliability", expect=1
    )
    assert out == ""
    assert "preserveMsgBoundaries" in err


def test_a_secret_is_refused_on_the_command_line(run: Run, server: Server) -> None:
    _, err = run(server.address, "--parameter", "preSharedKey=me", expect=2)
    assert "no secrets on a command line" in err


def test_a_page_is_written_beside_the_picture(run: Run, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "race.html"
    out, _ = run(server.address, "--security", "disabled", "--html", str(path))
    assert "Connected after" in out
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert f"TCP to {server.address}" in path.read_text()


def test_a_page_that_cannot_be_written_is_a_failure(run: Run, saved: Path, tmp_path: Path) -> None:
    out, err = run("--from", str(saved), "--html", str(tmp_path / "no" / "where"), expect=1)
    assert "Connected after 374 ms" in out
    assert "No such file or directory" in " ".join(err.split())


def test_what_json_printed_can_be_drawn(run: Run, nobody: str, tmp_path: Path) -> None:
    out, _ = run(nobody, "--security", "disabled", "--json", expect=1)
    path = tmp_path / "race.json"
    path.write_text(out)
    drawn, _ = run("--from", str(path))
    assert "Not connected, after" in drawn
    again, _ = run("--from", str(path), "--json")
    assert again == out


def test_a_report_comes_from_standard_input_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(HOLE)))
    assert "Connected after 374 ms" in run("--from", "-")[0]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "is no report of an establishment: there is no outcome in it"),
        (None, "No such file or directory"),
        ("\xff", "is no JSON"),
    ],
)
def test_a_file_that_is_no_report_is_misuse(
    run: Run, tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    out, err = run("--from", str(path), expect=2)
    assert out == ""
    assert why in " ".join(err.split())


def test_it_wants_a_peer_or_a_file_and_not_both(run: Run, saved: Path) -> None:
    assert "say HOST:PORT, or --from FILE" in run(expect=2)[1]
    assert "no HOST:PORT beside it" in run("a:1", "--from", str(saved), expect=2)[1]
    assert "number of seconds" in run("a:1", "--timeout", "0", expect=2)[1]


STUCK = transport(
    "stuck",
    """
    capabilities = tp.Capabilities.byte_stream(keepAlive=tp.Support.OPTIONAL)

    async def connect(self, request):
        import _thread, asyncio
        _thread.interrupt_main()
        await asyncio.sleep(3600)
    """,
).replace("async def connect(self, request):\n        raise NotImplementedError", "")


def test_an_interrupted_race_is_drawn_as_far_as_it_came(site: PluginSite, run: Run) -> None:
    site.install("taps-stuck", STUCK)
    began = time.monotonic()
    out, _ = run("127.0.0.1:9", "--security", "disabled", expect=1)
    assert time.monotonic() - began < 60
    assert "Given up on this side" in out
    assert "it was given up" in " ".join(out.split())


@pytest.mark.skipif(
    importlib.util.find_spec("rich") is None, reason="rich belongs to the extra cli"
)
def test_a_terminal_shows_it_while_it_runs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["race", server.address, "--timeout", "0.5"]) == 1
    shown = terminal.getvalue()
    assert "so far" in shown
    assert "Not connected, after" in shown
    assert ": trying" not in shown


def test_neither_rich_nor_a_network_is_needed_to_draw_a_report(
    saved: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket is opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert "Connected after 374 ms" in run("--from", str(saved))[0]
