"""``taps-plugins check``: a verdict on each promise, whatever the plugin does meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from plugin_site import PluginSite, transport

# With a site of its own a test cannot import them any more.
with contextlib.suppress(ImportError):
    import uvloop  # noqa: F401  # one of the loops
import taps_core.testing.conformance  # imports much
from taps_core.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    #: Arguments → status, standard output, standard error in one line.
    Run: TypeAlias = Callable[..., tuple[int, str, str]]

#: A transport in memory; ``{body}`` goes into its class, ``{top}`` before it.
MEMORY = """
import asyncio, logging, sys, time
from taps_core import plugin as tp
from taps_core.testing import MemoryNetwork, MemoryStream
{top}

class Mine(MemoryStream):
    name = "mine"
    {body}

@tp.hookimpl
def taps_transports():
    return [Mine(MemoryNetwork())]
"""

BROKEN = """
    def loopback(self):
        return tp.LocalEndpoint(ip_address="127.0.0.1", port=0)

    async def connect(self, request):
        try:
            return await super().connect(request)
        except OSError as error:
            raise LookupError("\\x1b[2Jno such listener") from error
"""

CHATTY = """
    async def connect(self, request):
        print("connecting", "\\x1b[31m")
        print("really", file=sys.stderr)
        logging.getLogger("mine").warning("careful")
        return await super().connect(request)
"""

HANGS = """
    async def connect(self, request):
        await asyncio.get_running_loop().create_future()
"""

BLOCKS = """
    async def connect(self, request):
        time.sleep(3600)
"""

SLIP = """
from taps_core import plugin as tp

class Codec(tp.Codec):
    max_length = 1000

    def encode(self, data, record):
        data = b"".join(data) if isinstance(data, tuple) else data
        if len(data) > 1000:
            raise tp.too_large("mine", len(data), 1000)
        return len(data).to_bytes(2) + data

    def decode(self, data, parts):
        position = 0
        while len(data) >= position + 2:
            length = int.from_bytes(data[position:position + 2])
            if length > 1000:
                raise tp.deframing_failed("too long")
            if len(data) < position + 2 + length:
                break
            parts.append((data[position + 2:position + 2 + length], None, True))
            position += 2 + length
        return position

class Mine(tp.FramerDefinition):
    name = "mine"

    def create(self):
        return Codec()

@tp.hookimpl
def taps_framers():
    return [Mine()]
"""


def memory(body: str = "", top: str = "") -> str:
    return MEMORY.format(body=body, top=top)


@pytest.fixture
def run(site: PluginSite, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["check", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        if "--json" not in arguments:
            assert all(len(line) <= 80 for line in out.splitlines())
        assert all(char.isprintable() or char == "\n" for char in out + err)
        return status, out, " ".join(err.split())

    return run


def test_a_verdict_on_each_promise_and_a_line_that_sums_up(site: PluginSite, run: Run) -> None:
    site.install("taps-mine", memory())
    status, out, err = run("mine")
    assert (status, err) == (0, "")
    assert out.startswith("mine (transport)\n")
    assert "promises of ByteStreamConformance, on the event loops of asyncio" in out
    assert "\n  passed   What one end sends arrives at the other, both ways.\n" in out
    assert " 0 failed, " in out.splitlines()[-1]


def test_a_framer_is_checked_too_and_what_it_does_not_claim_is_skipped_with_the_reason(
    site: PluginSite,
    run: Run,
) -> None:
    site.install("taps-mine", SLIP)
    status, out, _ = run("mine", "--only", "an_empty_message_is_a_message")
    assert status == 0
    assert "1 promise of FramerConformance" in out
    site.install("taps-line", memory("half_close = False\n    listen = tp.Transport.listen"))
    status, out, _ = run("mine", "--kind", "transport", "--only", "what_is_sent_arrives")
    assert status == 0
    assert "\n  skipped  What one end sends" in out
    assert "test_what_is_sent_arrives: MINE does not listen" in out
    assert out.endswith("0 passed, 0 failed, 1 skipped, in 0.0 s\n")


def test_what_fails_is_shown_with_what_was_seen_and_is_status_1(
    site: PluginSite,
    run: Run,
) -> None:
    site.install("taps-mine", memory(BROKEN))
    status, out, _ = run("mine")
    assert status == 1
    flat = " ".join(out.split())
    assert "failed Connecting to where nobody listens raises" in flat
    assert "test_failed_connect_says_so_in_our_words: it raised LookupError(" in flat
    assert "no such listener" in flat
    assert " 1 failed, " in out.splitlines()[-1]


def test_json_holds_every_verdict(site: PluginSite, run: Run) -> None:
    site.install("taps-mine", memory(BROKEN), version="2.5")
    status, out, _ = run(
        "mine", "--json", "--only", "test_failed_connect_says_so_in_our_words", "the_tail_arrives"
    )
    assert status == 1
    told = json.loads(out)
    assert (told["name"], told["kind"]) == ("mine", "transport")
    assert (told["distribution"], told["version"]) == ("taps-mine", "2.5")
    assert (told["passed"], told["failed"], told["skipped"]) == (1, 1, 0)
    # In the suite's order, whatever was asked for first.
    first, second = told["verdicts"]
    assert first["outcome"] == "failed"
    assert "LookupError" in first["reason"]
    assert second == {
        "test": "test_the_tail_arrives",
        "promise": "What was sent right before close arrives, all of it.",
        "outcome": "passed",
        "reason": "",
    }


def test_what_the_plugin_prints_or_logs_is_kept_from_the_results(
    site: PluginSite,
    run: Run,
) -> None:
    site.install("taps-mine", memory(CHATTY, top="logging.basicConfig()"))
    status, out, err = run("mine", "--json", "--only", "what_is_sent_arrives")
    assert (status, json.loads(out)["passed"]) == (0, 1)
    assert "this was printed" in err
    for said in (r"connecting \x1b[31m", "really", "careful"):
        assert said in err
    status, out, err = run("mine")
    assert "connecting" not in out
    assert "more lines" in err


def test_what_hangs_is_bounded_by_patience(site: PluginSite, run: Run) -> None:
    site.install("taps-mine", memory(HANGS))
    status, out, _ = run("mine", "--patience", "0.02", "--only", "what_is_sent_arrives")
    assert status == 1
    assert "it hangs: not done after 0.2 s" in " ".join(out.split())


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_blocks_the_process_is_given_up_with_a_verdict(
    site: PluginSite, options: list[str]
) -> None:
    site.install("taps-mine", memory(BLOCKS))
    package = Path(taps_core.__file__).parents[1]
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "taps_core", "check", "mine", "--patience", "0.01", *options),
            *("--only", "the_declaration_is_plain", "what_is_sent_arrives", "the_tail_arrives"),
        ],
        env={**os.environ, "PYTHONPATH": f"{site.directory}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1, finished.stderr
    if options:
        outcomes = [verdict["outcome"] for verdict in json.loads(finished.stdout)["verdicts"]]
        assert outcomes == ["passed", "failed", "skipped"]
    else:
        flat = " ".join(finished.stdout.split())
        assert "test_what_is_sent_arrives: it hangs, and cannot even be cancelled" in flat
        assert "not tried, since test_what_is_sent_arrives hangs" in flat
        assert "1 passed, 1 failed, 1 skipped" in flat


# -- what cannot be checked


def test_a_name_that_there_is_not_is_status_2_and_says_what_there_is(
    site: PluginSite,
    run: Run,
) -> None:
    site.install("taps-mine", memory())
    status, out, err = run("mein")
    assert (status, out) == (2, "")
    assert 'there is no plugin "mein"' in err
    assert "installed: mine" in err
    assert "pip install taps-quic" in run("quic")[2]
    assert 'there is no framer "mine"' in run("mine", "--kind", "framer")[2]


def test_a_plugin_that_failed_says_why(site: PluginSite, run: Run) -> None:
    site.install("taps-bang", "raise RuntimeError('no such luck')")
    status, _, err = run("bang")
    assert status == 2
    assert "import failed: RuntimeError: no such luck" in err


def test_an_ambiguous_name_asks_for_the_kind(site: PluginSite, run: Run) -> None:
    site.install("taps-mine", memory())
    site.install("taps-other", SLIP)
    status, _, err = run("mine")
    assert status == 2
    assert '"mine" may be mine (transport), mine (framer): --kind says which' in err
    status, out, _ = run("mine", "--kind", "framer", "--only", "the_declaration_is_plain")
    assert status == 0
    assert out.startswith("mine (framer)")


def test_a_distribution_stands_for_its_only_declaration(site: PluginSite, run: Run) -> None:
    site.install("acme-fast", memory(), plugin="fast")
    for name in ("acme-fast", "Acme_Fast", "fast"):
        assert run(name, "--only", "the_declaration_is_plain")[0] == 0


def test_what_cannot_run_here_is_status_1_with_the_remedy(site: PluginSite, run: Run) -> None:
    site.install(
        "taps-sctp",
        transport(
            "sctp",
            "def availability(self):\n        return tp.Availability(available=False, "
            "reason='the kernel has no SCTP', remedy='modprobe sctp')",
        ),
    )
    status, out, err = run("sctp")
    assert (status, out) == (1, "")
    assert "sctp cannot run here: the kernel has no SCTP; modprobe sctp" in err


def test_where_to_meet_must_be_known_or_said(site: PluginSite, run: Run) -> None:
    site.install("taps-mine", memory("def loopback(self): return None"))
    status, out, err = run("mine")
    assert (status, out) == (2, "")
    assert "its loopback() does not say" in err
    assert "--local" in err
    for place in ("127.0.0.1:0", "127.0.0.1:1{}"):
        status, out, _ = run("mine", "--local", place)
        assert status == 0, out
        assert " 0 skipped" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--local", "127.0.0.1:7000"], "several ends listen at once"),
        (["--local", "_mine.place=here"], "{} where a number may go"),
        (["--local", "a:b:c"], "--local: 'a:b:c'"),
        (["--only", "the_tail_arives"], "did you mean test_the_tail_arrives"),
    ],
)
def test_misuse_is_one_sentence_and_status_2(
    site: PluginSite,
    run: Run,
    arguments: list[str],
    sentence: str,
) -> None:
    site.install("taps-mine", memory())
    status, out, err = run("mine", *arguments)
    assert (status, out) == (2, "")
    assert sentence in err


def test_a_place_is_for_transports(site: PluginSite, run: Run) -> None:
    site.install("taps-mine", SLIP)
    status, _, err = run("mine", "--local", "127.0.0.1:0")
    assert status == 2
    assert "--local is for transports; mine is a framer" in err


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "inf", "nan"])
def test_patience_is_a_number_of_seconds(site: PluginSite, run: Run, seconds: str) -> None:
    site.install("taps-mine", memory())
    status, _, err = run("mine", "--patience", seconds)
    assert status == 2
    assert "is not a number of seconds above 0" in err


def test_other_commands_do_without_the_suites() -> None:
    program = (
        "import sys\n"
        "from taps_core.cli import main\n"
        "main(['list'])\n"
        "sys.exit(any(name.startswith('taps_core.testing') for name in sys.modules))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
