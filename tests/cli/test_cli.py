"""What the command line promises: readable results, honest exit statuses, no traceback."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from plugin_site import PluginSite, framer, policy, resolver, transport

from taps_core.cli import main
from taps_core.model.properties import PROPERTIES, Kind
from taps_core.plugin import API_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

# Asked here: in the tests below nothing is installed.
HAS_RICH = importlib.util.find_spec("rich") is not None

TLS = """
from taps_core import plugin as tp

class Tls(tp.SecurityLayer):
    name = "tls"
    capabilities = tp.LayerCapabilities(
        over=frozenset({tp.DataUnit.BYTE_STREAM}),
        needs=frozenset({"reliability"}),
        changes={"zeroRttMsg": tp.Support.OPTIONAL},
        protection=tp.Protection(protocols=("TLSv1.3",)),
    )

    async def connect(self, lower, request):
        raise NotImplementedError

    async def accept(self, lower, request):
        raise NotImplementedError

@tp.hookimpl
def taps_security_layers():
    return [Tls()]
"""

TCP = transport(
    "tcp",
    """
    properties = (
        tp.Property(
            "tcp.userTimeoutValue", tp.Kind.CONNECTION, tp.ValueType.NUMERIC,
            meaning="How long data may stay unacknowledged.", unit="seconds", minimum=0,
        ),
    )
    rendezvous = True
    capabilities = tp.Capabilities.byte_stream(keepAlive=tp.Support.OPTIONAL).but(
        effects={"keepAliveTimeout": tp.Support.ALWAYS}
    )
""",
)

SCTP = transport(
    "sctp",
    """
    capabilities = tp.Capabilities.messages(multistreaming=tp.Support.OPTIONAL)

    def availability(self):
        return tp.Availability(
            available=False, reason="the kernel has no SCTP", remedy="modprobe sctp"
        )
""",
)


class Run:
    """Runs the command line in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, expect: int = 0) -> tuple[str, str]:
        status = main(arguments)
        out, err = self._capsys.readouterr()
        assert status == expect, out + err
        assert "Traceback" not in out + err
        return out, err


@pytest.fixture
def run(site: PluginSite, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def machine(site: PluginSite) -> PluginSite:
    """TCP, TLS and a framer work, SCTP is unavailable, and four plugins are broken."""
    site.install("taps-tcp", TCP)
    site.install("taps-tls", TLS)
    site.install("taps-sctp", SCTP)
    site.install("taps-framers", framer("line"))
    site.install("acme", transport("tcp"))
    site.install("taps-bang", "raise RuntimeError('no such luck')")
    site.install(
        "taps-typo",
        "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_transport(): return []",
    )
    site.install("taps-next", transport("next", "api_version = 2"))
    return site


def widths(text: str) -> int:
    return max(map(len, text.splitlines()))


def sentences(out: str) -> str:
    """Every reason that ``explain --json`` gives."""
    told = json.loads(out)
    return "\n".join(
        why["sentence"] for each in told["ranked"] + told["rejected"] for why in each["reasons"]
    )


# -- list


def test_list_shows_every_plugin_with_its_status(machine: PluginSite, run: Run) -> None:
    out, _ = run("list")
    table = out.split("\n\n")[0].splitlines()
    assert [line.split()[:3] for line in table[1:]] == [
        ["next", "transport", "refused"],
        ["sctp", "transport", "unavailable"],
        ["tcp", "transport", "available"],
        ["tcp", "transport", "conflict"],
        ["tls", "security", "available"],
        ["line", "framer", "available"],
        ["bang", "plugin", "failed"],
        ["typo", "plugin", "failed"],
    ]
    assert re.search(r"^tcp +transport +available +taps-tcp 1\.0 +site-packages$", out, re.M)


def test_list_gives_reason_and_remedy_of_what_is_not_in_use(machine: PluginSite, run: Run) -> None:
    out, _ = run("list")
    flat = " ".join(out.split())
    assert "sctp (taps-sctp): the kernel has no SCTP to do: modprobe sctp" in flat
    assert "bang (taps-bang): import failed: RuntimeError: no such luck" in flat
    assert 'typo (taps-typo): there is no hook "taps_transport"; did you mean' in flat
    assert "next (taps-next): written for plugin interface 2, this is 1" in flat
    assert 'tcp (acme): taps-tcp declares the name "tcp" too, and is used' in flat
    assert 'tcp (taps-tcp): acme declares the name "tcp" too, unused' in flat


def test_list_shows_capabilities_as_a_matrix_with_a_legend(machine: PluginSite, run: Run) -> None:
    out, _ = run("list")
    matrix = out[out.index("CAPABILITIES") :]
    assert re.search(r"^ +sctp  tcp  tls$", matrix, re.M)
    assert re.search(r"^  keepAlive +-     o    \.$", matrix, re.M)
    assert re.search(r"^  preserveMsgBoundaries +A     -    \.$", matrix, re.M)
    assert "A always, o optional (can be had or left out), - never, . as below it" in matrix


def test_list_of_one_kind(machine: PluginSite, run: Run) -> None:
    out, err = run("list", "--kind", "framer")
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "line"]
    assert "2 declared nothing" in err
    out, err = run("list", "--kind", "security")
    assert out.splitlines()[1].split()[0] == "tls"


def test_list_and_show_have_policies_and_resolvers_too(machine: PluginSite, run: Run) -> None:
    machine.install("acme-policy", policy("acme", {"prohibit": {"protocols": ["tcp"]}}))
    machine.install("acme-wrong", policy("wrong", {"prohibits": {}}))
    machine.install("acme-names", resolver("fleet"))
    out, _ = run("list", "--kind", "policy")
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [
        ["acme", "policy", "available"],
        ["wrong", "policy", "unavailable"],
    ]
    assert "prohibits: there is no such key" in " ".join(out.split())
    out, _ = run("list", "--kind", "resolver")
    assert out.splitlines()[1].split()[:3] == ["fleet", "resolver", "available"]
    out, _ = run("show", "fleet")
    assert "taps_resolvers" in out
    assert "names of stacks" not in out
    out, _ = run("show", "acme", "--json")
    assert json.loads(out)[0]["kind"] == "policy"
    _, err = run("check", "acme", expect=2)
    assert "acme is a policy: there is no suite for these" in err


def test_list_with_no_plugin_says_what_to_install(site: PluginSite, run: Run) -> None:
    out, _ = run("list")
    assert "No plugin is installed" in out
    assert "pip install taps-tcp" in out
    assert widths(out) <= 80
    out, _ = run("list", "--json")
    assert json.loads(out) == []
    _, err = run("list", "--kind", "framer")
    assert "no framer plugin is installed" in err


def test_list_hides_what_is_left_out_unless_all_is_asked_for(
    machine: PluginSite, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPS_PLUGINS", "tcp,tsl")
    out, err = run("list")
    assert [line.split()[:3] for line in out.split("\n\n")[0].splitlines()[1:]] == [
        ["tcp", "transport", "available"],
        ["tsl", "plugin", "missing"],
    ]
    assert "TAPS_PLUGINS names it, but it is not installed" in out
    assert "did you mean tls?" in out
    assert "7 left out by choice" in err
    out, err = run("list", "--all")
    assert re.search(r"^bang +plugin +blocked", out, re.M)
    assert re.search(r"^  tcp \(taps-tcp\) +taps_transports$", out, re.M)
    assert not err


def test_list_as_json_holds_all_that_is_known(machine: PluginSite, run: Run) -> None:
    out, _ = run("list", "--json")
    rows = {(row["name"], row["distribution"]): row for row in json.loads(out)}
    tcp = rows["tcp", "taps-tcp"]
    assert tcp["status"] == "available"
    assert tcp["location"] == str(machine.directory)
    assert tcp["capabilities"]["support"]["keepAlive"] == "optional"
    assert tcp["capabilities"]["effects"] == {"keepAliveTimeout": "always"}
    assert rows["tls", "taps-tls"]["capabilities"]["over"] == ["byte stream"]
    assert rows["sctp", "taps-sctp"]["remedy"] == "modprobe sctp"
    assert rows["bang", "taps-bang"]["status"] == "failed"
    assert "capabilities" not in rows["line", "taps-framers"]


def test_list_tells_editable_installs(site: PluginSite, run: Run) -> None:
    site.install(
        "taps-tcp",
        TCP,
        direct_url={"url": "file:///home/me/src/taps/plugins/tcp", "dir_info": {"editable": True}},
    )
    out, _ = run("list")
    assert "editable .../tcp" in out
    out, _ = run("show", "tcp")
    assert "/home/me/src/taps/plugins/tcp (editable)" in out


def test_plugin_that_prints_while_imported_does_not_spoil_json(site: PluginSite, run: Run) -> None:
    site.install("taps-loud", "print('hello from the plugin')\n" + transport("loud"))
    out, err = run("list", "--json")
    assert json.loads(out)[0]["name"] == "loud"
    assert "hello from the plugin" in err


def test_many_transports_still_fit(site: PluginSite, run: Run) -> None:
    for index in range(12):
        site.install(f"taps-transport-{index}", transport(f"transport-{index}"))
    out, _ = run("list")
    assert widths(out) <= 80
    assert out.count("preserveMsgBoundaries") > 1
    assert all(out.count(f"transport-{index} ") >= 1 for index in range(12))


def test_terminal_escapes_of_plugins_are_shown_not_obeyed(site: PluginSite, run: Run) -> None:
    site.install(
        "taps-evil",
        transport(
            "evil",
            "def availability(self):\n        return tp.Availability(available=False, "
            "reason='\\x1b[2J\\x07cleared\\u202e', remedy='line\\nbreak')",
        ),
    )
    for arguments in (["list"], ["show", "evil"], ["explain"]):
        out, err = run(*arguments, expect=1 if arguments == ["explain"] else 0)
        assert all(char.isprintable() or char == "\n" for char in out + err)
    out, _ = run("list")
    assert r"\x1b[2J\x07cleared\u202e" in out
    assert "to do: line break" in out


# -- show


def test_show_tells_everything_of_a_transport(machine: PluginSite, run: Run) -> None:
    out, _ = run("show", "tcp")
    flat = " ".join(out.split())
    for expected in (
        "distribution taps-tcp 1.0",
        "reaches ip",
        "carries byte stream",
        "security none of its own",
        "written as TCP",
        "keepAlive optional 6.2.10",
        "keepAliveTimeout always 8.1.4",
        "_taps.groupMaxSendRate always 4.1 the group holds back what its Connections send",
        "tcp.userTimeoutValue How long data may stay unacknowledged.",
        "a number of seconds of at least 0",
        "conflict",
    ):
        assert expected in flat
    assert widths(out) <= 80


def test_show_tells_what_a_security_layer_needs_and_changes(machine: PluginSite, run: Run) -> None:
    out, _ = run("show", "tls")
    flat = " ".join(out.split())
    assert "runs over byte stream" in flat
    assert "needs below reliability" in flat
    assert "security TLSv1.3; the peer is verified" in flat
    assert "CHANGES WHAT IS BELOW" in out


def test_show_finds_plugins_by_entry_point_and_distribution(machine: PluginSite, run: Run) -> None:
    for name in ("framers", "taps-framers", "Taps_Framers", "line"):
        out, _ = run("show", name)
        assert out.startswith("line (framer)")
    out, _ = run("show", "bang")
    assert "import failed: RuntimeError: no such luck" in out


def test_show_as_json(machine: PluginSite, run: Run) -> None:
    out, _ = run("show", "tcp", "--json")
    used, conflicting = json.loads(out)
    assert used["serves"] == ["ip"]
    assert used["properties"][0]["name"] == "tcp.userTimeoutValue"
    assert conflicting["status"] == "conflict"
    out, _ = run("show", "line", "--json")
    assert json.loads(out)[0]["boundaries"] is True


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("quic", 'no plugin "quic" is installed: pip install taps-quic'),
        ("tpc", 'there is no plugin "tpc"; did you mean tcp?'),
        ("\x1b[31mred", r"\x1b[31mred"),
    ],
)
def test_show_of_an_absent_name_says_what_to_do(
    machine: PluginSite, run: Run, name: str, sentence: str
) -> None:
    out, err = run("show", name, expect=1)
    assert out == ""
    assert sentence in err


# -- explain


def test_explain_shows_the_ranking_with_reasons(machine: PluginSite, run: Run) -> None:
    out, _ = run("explain", "--framer", "line", "--prefer", "keep-alive")
    assert re.search(r"^1  line/TLS/TCP +secured by TLS .* the RFC's default$", out, re.M)
    out, _ = run("explain", "--framer", "line", "--prefer", "keep-alive", "--json")
    assert "TCP has keepAlive, which the application prefers" in sentences(out)


def test_explain_names_the_file_and_the_rule_of_system_policy(
    machine: PluginSite, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        "[prohibit]\nfamilies = ['IPv6']\n"
        "[[rule]]\nname = 'lab'\nhosts = ['*.lab']\nprohibit.protocols = ['tcp']\n"
    )
    monkeypatch.setenv("TAPS_POLICY", str(file))
    asked = ["explain", "--security", "disabled", "--remote"]
    out, _ = run(*asked, "printer.lab:515", "--json", expect=1)
    assert f"system policy prohibits tcp ({file}, rule 1, lab)" in sentences(out)
    assert json.loads(out)["policy"] == [f"system policy prohibits IPv6 ({file})"]
    out, _ = run(*asked, "printer.example:515")
    assert re.search(r"^1  TCP ", out, re.M)
    assert "system policy prohibits IPv6" in out
    file.write_text("[prohibits]\n")
    _, err = run(*asked, "printer.lab:515", expect=1)
    assert "line 1: prohibits: there is no such key" in " ".join(err.split())


def test_explain_names_the_plugin_whose_policy_it_is(
    machine: PluginSite, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPS_POLICY", "")
    machine.install("acme-policy", policy("acme", {"prohibit": {"protocols": ["tcp"]}}))
    out, _ = run("explain", "--security", "disabled", "--json", expect=1)
    assert "system policy prohibits tcp (plugin acme-policy)" in sentences(out)


def test_explain_shows_each_rejection_and_whose_demand_it_was(
    machine: PluginSite, run: Run
) -> None:
    out, _ = run("explain", "--security", "disabled", "--json", "--prohibit", "KEEP_ALIVE")
    told = json.loads(out)
    assert [each["stack"] for each in told["ranked"]] == ["TCP"]
    rejected = {each["stack"]: each["reasons"] for each in told["rejected"]}
    assert rejected["SCTP"][0]["by"] == "this machine"
    assert "modprobe sctp" in rejected["SCTP"][0]["sentence"]
    assert rejected["TLS/TCP"][0]["by"] == "the application"


def test_explain_without_a_candidate_prints_the_rejections_and_fails(
    machine: PluginSite, run: Run
) -> None:
    out, err = run("explain", "--require", "preserveMsgBoundaries", expect=1)
    assert out.startswith("There is no candidate to initiate.")
    assert re.search(
        r"^TLS/TCP +preserveMsgBoundaries is required by .* the application$", out, re.M
    )
    assert "--security disabled" in err
    out, _ = run("explain", "--require", "multistreaming", "--json", expect=1)
    assert json.loads(out)["ranked"] == []


def test_explain_without_any_transport_says_what_to_install(site: PluginSite, run: Run) -> None:
    out, _ = run("explain", expect=1)
    assert "pip install taps-tcp" in out


def test_explain_says_which_stacks_race(machine: PluginSite, run: Run) -> None:
    out, _ = run("explain", "--security", "opportunistic")
    assert "1 is tried first; 2 only if that fails" in out


OFFERS = """
    def offers(self, security, *, server):
        if not security.alpn:
            raise RuntimeError("no such luck")
        return tp.Offer(
            protocols=("TLSv1.3",),
            ciphersuites=("ONE", "TWO"),
            groups=None,
            signature_algorithms=(),
            alpn=security.alpn,
            certificate="shown by the " + ("server" if server else "client"),
            trust=", ".join(security.trusted_certificates) or "nobody",
            refusals={
                name: f"{name}: not here" for name in security.explicit if name == "preSharedKey"
            },
        )

    async def connect"""


@pytest.fixture
def offering(site: PluginSite) -> None:
    """TCP, and a security layer that says what it offers if it is asked for ALPN, else fails."""
    site.install("taps-tcp", TCP)
    site.install("taps-tls", TLS.replace("\n    async def connect", OFFERS, 1))


@pytest.mark.usefixtures("offering")
def test_explain_shows_what_would_be_offered_and_what_is_refused(run: Run) -> None:
    asked = ["explain", "--parameter", "alpn=h2,acme/1", "--parameter", "ALPN=acme/2"]
    asked += ["--parameter", "trusted-certificates=ca.pem", "--parameter", "preSharedKey=me"]
    out, _ = run(*asked)
    assert "WHAT TLS WOULD OFFER" in out
    for row in (
        r"protocols +TLSv1\.3",
        r"ALPN +h2, acme/1, acme/2",
        r"cipher suites +ONE, TWO",
        r"groups +the layer's own choice",
        r"signatures +none",
        r"certificate +shown by the client",
        r"trusts +ca\.pem",
        r"refuses +preSharedKey: not here",
    ):
        assert re.search(f"^{row}$", out, re.M), row
    assert "no Connection comes to be" in out
    assert widths(out) <= 80
    told = json.loads(run(*asked, "--role", "listen", "--json")[0])["offers"]["tls"]
    assert told["alpn"] == ["h2", "acme/1", "acme/2"]
    assert told["groups"] is None
    assert told["certificate"] == "shown by the server"
    assert told["refusals"] == {"preSharedKey": "preSharedKey: not here"}


def test_explain_ranks_layers_that_do_not_say_what_they_offer(
    machine: PluginSite, run: Run
) -> None:
    assert "It does not say." in run("explain")[0]
    assert json.loads(run("explain", "--json")[0])["offers"] == {"tls": None}


@pytest.mark.usefixtures("offering")
def test_explain_ranks_layers_that_fail_to_say_what_they_offer(run: Run) -> None:
    out, _ = run("explain")
    assert "RuntimeError: no such luck" in out
    assert "1  TLS/TCP" in out


def test_explain_takes_values_profiles_endpoints_and_roles(machine: PluginSite, run: Run) -> None:
    out, _ = run(
        "explain",
        *("--set", "connTimeout=30", "--set", "tcp.userTimeoutValue=2.5"),
        *("--set", "advertises-altaddr=true", "--set", "conn_capacity_profile=scavenger"),
        *("--set", "keepAliveTimeout=inf", "--set", "interface=avoid:eth0,prefer:wlan0"),
        *("--set", "_acme.colour=red", "--set", "multipath=passive"),
        *("--remote", "[::1]:443", "--local", ":0", "--role", "rendezvous"),
    )
    assert "CANDIDATES TO RENDEZVOUS" in out
    assert "_acme.colour: no effect on TLS/TCP" in out
    out, _ = run("explain", "--profile", "unreliable-datagram", "--json", expect=1)
    assert "preserveMsgBoundaries is required by the application, and TCP lacks it" in sentences(
        out
    )
    out, _ = run("explain", "--require", "interface=wlan0", "--role", "listen", "--local", ":80")
    assert "CANDIDATES TO LISTEN" in out


@pytest.mark.parametrize(
    "name", [name for name, row in PROPERTIES.items() if row.kind is Kind.SELECTION]
)
def test_explain_knows_every_selection_property_in_every_spelling(
    machine: PluginSite, run: Run, name: str
) -> None:
    value = {"multipath": "active", "direction": "bidirectional", "advertisesAltaddr": "no"}
    snake = PROPERTIES[name].snake_name
    for spelling in (name, snake, snake.replace("_", "-"), name.upper()):
        if name in value:
            run("explain", "--set", f"{spelling}={value[name]}")
        elif name in ("interface", "pvd"):
            run("explain", "--avoid", f"{spelling}=x")
        else:
            run("explain", "--set", f"{spelling}=no preference")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--require", "reliabilty"], 2, "there is no property 'reliabilty'; did you mean"),
        (["--require", "interface"], 2, "interface"),
        (["--set", "connTimeout=soon"], 2, "connTimeout: 'soon' is not a number of seconds"),
        (["--set", "connState=Closed"], 2, "connState is read-only"),
        (["--set", "nonsense"], 2, "say NAME=VALUE"),
        (["--set", "tcp.userTimeout=3"], 2, "there is no property 'tcp.userTimeout'"),
        (["--set", "interface=eth0"], 2, "interface"),
        (["--remote", "host:port:more"], 2, ""),
        (["--security", "maybe"], 2, "invalid choice"),
        (["--parameter", "alpn"], 2, "say NAME=VALUE"),
        (["--parameter", "alpm=h2"], 2, "did you mean alpn?"),
        (["--parameter", "context=x"], 2, "no text stands for"),
        (["--parameter", "maxCachedSessions=many"], 2, "an integer of at least 0"),
        (["--security", "disabled", "--parameter", "alpn=h2"], 2, "security is disabled"),
        (["--framer", "lin"], 1, 'there is no framer "lin"; did you mean line?'),
        (["--framer", "netstring"], 1, "pip install taps-framers"),
        (
            ["--set", "reliability=prohibit", "--require", "per-msg-reliability"],
            1,
            "perMsgReliability",
        ),
    ],
)
def test_explain_complains_in_one_sentence(
    machine: PluginSite, run: Run, arguments: Sequence[str], status: int, sentence: str
) -> None:
    if "netstring" in arguments:
        (machine.directory / "taps_framers-1.0.dist-info" / "entry_points.txt").unlink()
    out, err = run("explain", *arguments, expect=status)
    assert out == ""
    assert sentence in " ".join(err.split())
    assert err.strip()


# -- everything


def test_everything_fits_eighty_columns(machine: PluginSite, run: Run) -> None:
    machine.install(
        "a-distribution-with-a-name-that-is-much-too-long-for-any-table-of-eighty-columns",
        transport("a-transport-with-quite-a-long-name-too"),
        version="2026.11.22.post1.dev3",
    )
    for arguments in (
        ["list"],
        ["list", "--all"],
        ["show", "tcp"],
        ["show", "a-transport-with-quite-a-long-name-too"],
        ["explain"],
        ["explain", "--framer", "line", "--security", "opportunistic"],
    ):
        out, err = run(*arguments)
        assert widths(out) <= 80, arguments
        assert not err or widths(err) <= 80, arguments


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["explain"], ["check"]])
def test_help_fits_eighty_columns_and_shows_examples(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = run(*command, "--help")
    assert widths(out) <= 80
    if command in ([], ["explain"], ["check"]):
        assert "examples:" in out


def test_version_tells_package_and_interface(run: Run) -> None:
    out, _ = run("--version")
    assert re.fullmatch(rf"taps-core .+, plugin interface {API_VERSION}\n", out)


@pytest.mark.parametrize("arguments", [[], ["lost"], ["list", "--kind", "x"], ["show"], ["--bad"]])
def test_misuse_is_status_2_and_speaks_on_standard_error(run: Run, arguments: list[str]) -> None:
    out, err = run(*arguments, expect=2)
    assert out == ""
    assert "usage: taps-plugins" in err


def test_trace_variable_shows_imports_hooks_and_tracebacks(
    machine: PluginSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPS_TRACE", "1")
    assert main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert "taps_transports of tcp (taps-tcp) declares [<Synthetic 'tcp'>]" in err
    assert "Traceback" in err
    assert "RuntimeError: no such luck" in err


# -- the process


def environment(site: PluginSite) -> dict[str, str]:
    import taps_core

    (package,) = taps_core.__path__
    path = [str(site.directory), str(Path(package).parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TAPS_PLUGINS": "tcp,bang"}


def test_module_is_the_same_as_the_command(site: PluginSite) -> None:
    site.install("taps-tcp", TCP)
    finished = subprocess.run(
        [sys.executable, "-m", "taps_core", "list", "--json"],
        env=environment(site),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(finished.stdout)[0]["name"] == "tcp"


def test_nothing_imports_rich_when_piped(site: PluginSite) -> None:
    site.install("taps-tcp", TCP)
    for command in (["list"], ["show", "tcp"], ["explain", "--security", "disabled"]):
        program = (
            "import sys\n"
            "from taps_core.cli import main\n"
            f"main({command!r})\n"
            "sys.exit(any(name.partition('.')[0] == 'rich' for name in sys.modules))\n"
        )
        finished = subprocess.run(
            [sys.executable, "-c", program], env=environment(site), capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr


def test_reader_that_leaves_early_is_no_traceback(site: PluginSite) -> None:
    site.install("taps-tcp", TCP)
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run(
        [sys.executable, "-m", "taps_core", "show", "tcp"],
        env=environment(site),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["show", "tcp"], ["list", "--json"]])
def test_full_disk_is_a_sentence(site: PluginSite, arguments: list[str]) -> None:
    site.install("taps-tcp", TCP)
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "taps_core", *arguments],
            env=environment(site),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = f"taps-plugins {arguments[0]}: cannot write: No space left on device\n"
    assert (finished.returncode, finished.stderr) == (1, said)


@pytest.mark.skipif(not HAS_RICH, reason="rich belongs to the extra cli")
def test_terminal_gets_tables_that_fit_and_colours(site: PluginSite) -> None:
    pty = pytest.importorskip("pty", reason="this platform has no pseudo-terminals")
    site.install("taps-tcp", TCP)
    site.install("taps-bang", "1 / 0")
    shown = _in_terminal(pty, ["list"], environment(site))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain != shown
    assert "─" in plain
    assert re.search(r"tcp +transport +available", plain)
    assert widths(plain) <= 80


def _in_terminal(pty: Any, command: list[str], environ: dict[str, str]) -> str:
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**environ, "TERM": "xterm-256color"}
    for variable in ("COLUMNS", "LINES", "NO_COLOR"):
        environ.pop(variable, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "taps_core", *command], stdout=theirs, env=environ
    )
    os.close(theirs)
    shown = b""
    # Linux says EIO when the other side is closed, others an empty read.
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    return shown.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_terminal_without_rich_gets_plain_text(
    machine: PluginSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["list"]) == 0
    assert terminal.getvalue().startswith("NAME  KIND")


def test_explain_shows_the_paths_that_there_are_where_they_were_asked_about(
    machine: PluginSite, run: Run
) -> None:
    out, _ = run("explain")
    assert "PATHS" not in out
    asked = ("--require", "interface=nowhere0", "--prefer", "pvd=corporate")
    out, _ = run("explain", *asked)
    assert "PATHS OF THIS MACHINE NOW" in out
    assert "interface nowhere0 is required" in out
    assert "No path is left." in out
    assert "pvd corporate: system policy has no such Provisioning Domain" in out
    told = json.loads(run("explain", *asked, "--json")[0])["paths"]
    assert not told["ranked"]
    assert "interface nowhere0 is required" in str(told["rejected"])
    out, _ = run("explain", "--avoid", "interface=nowhere0")
    assert "the system chooses" in out
