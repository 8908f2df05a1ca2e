"""What a Registry promises: one broken plugin is a row, the others work."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from plugin_site import PluginSite, framer, policy, resolver, transport

from taps_core import plugin as tp
from taps_core.runtime.registry import PluginKind, Registry, Row, Status, distribution_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def rows_by_distribution(registry: Registry) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in registry.rows:
        found.setdefault(row.source.distribution, []).append(row)
    return found


def registry_of(site: PluginSite, environ: Mapping[str, str] | None = None) -> Registry:
    return Registry.from_entry_points(environ=environ or {})


class Stream(tp.Transport):
    name = "stream"
    capabilities = tp.Capabilities.byte_stream()

    async def connect(self, request: tp.ConnectRequest) -> tp.Flow:
        raise NotImplementedError


class Shield(tp.SecurityLayer):
    name = "shield"
    capabilities: Any = tp.LayerCapabilities(
        over=frozenset({tp.DataUnit.BYTE_STREAM}),
        protection=tp.Protection(protocols=("Shield1",)),
    )

    async def connect(self, lower: tp.Connector, request: tp.ConnectRequest) -> tp.Flow:
        raise NotImplementedError

    async def accept(self, lower: tp.Flow, request: tp.AcceptRequest) -> tp.Flow:
        raise NotImplementedError


class Lines(tp.FramerDefinition):
    name = "lines"

    def create(self) -> tp.Codec:
        raise NotImplementedError


def option(name: str, meaning: str = "An option.") -> tp.Property:
    return tp.Property(name, tp.Kind.CONNECTION, tp.ValueType.BOOLEAN, False, meaning=meaning)


# -- one broken plugin is a row, the rest work


def test_healthy_plugin_works_beside_broken_ones_and_each_is_a_row(site: PluginSite) -> None:
    site.install("taps-tcp", transport("tcp"))
    site.install("taps-bang", "raise RuntimeError('no such luck')")
    site.install("aaa-rogue", transport("tcp"), plugin="rogue")
    site.install(
        "taps-typo",
        "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_transport():\n    return []\n",
    )
    site.install("taps-next", transport("next", "api_version = 2"))

    registry = registry_of(site)

    assert list(registry.transports) == ["tcp"]
    assert type(registry.transports["tcp"]).__module__ == "taps_tcp"
    rows = rows_by_distribution(registry)
    (tcp,) = rows["taps-tcp"]
    assert tcp.status is Status.AVAILABLE
    assert 'aaa-rogue declares the name "tcp" too' in tcp.note
    (bang,) = rows["taps-bang"]
    assert (bang.status, bang.kind) == (Status.FAILED, PluginKind.PLUGIN)
    assert bang.reason == "import failed: RuntimeError: no such luck (site-packages/taps_bang.py:1)"
    assert "TAPS_PLUGINS_BLOCK=bang" in bang.remedy
    (rogue,) = rows["aaa-rogue"]
    assert (rogue.status, rogue.name) == (Status.CONFLICT, "tcp")
    assert rogue.reason == 'taps-tcp declares the name "tcp" too, and is used'
    assert "TAPS_PLUGINS_BLOCK=rogue" in rogue.remedy
    (typo,) = rows["taps-typo"]
    assert typo.status is Status.FAILED
    assert typo.reason == 'there is no hook "taps_transport"; did you mean taps_transports?'
    (upcoming,) = rows["taps-next"]
    assert (upcoming.status, upcoming.name) == (Status.REFUSED, "next")
    assert upcoming.reason == "written for plugin interface 2, this is 1"
    assert upcoming.remedy == "update taps-core: pip install --upgrade taps-core"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (", "import failed: SyntaxError"),
        ("x = 1", "it declares nothing"),
        ("api_version = 7", "written for plugin interface 7, this is 1"),
        ("api_version = 0", "written for plugin interface 0, this is 1"),
        ("def taps_transports(): return []", '"taps_transports" is not marked as a hook'),
        ("def taps_transport(): return []", "did you mean taps_transports?"),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef transports(): return []",
            'there is no hook "transports"',
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_framers(x): return []",
            "cannot be used: PluginValidationError",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_framers(): 1 / 0",
            "taps_framers: ZeroDivisionError: division by zero (site-packages/taps_bad.py:3)",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_framers(): pass",
            "taps_framers returned None, not a sequence",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\nasync def taps_framers(): return []",
            "taps_framers is a coroutine function; a hook is a plain one",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_framers(): return 'line'",
            "taps_framers returned 'line', not a sequence",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_framers(): return [3]",
            "3 is not a FramerDefinition of taps_core.plugin",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_framers(): return []",
            "it declares nothing",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_policies(): return [{}]",
            "{} is not a PolicySource of taps_core.plugin",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_resolvers(): return [1]",
            "1 is not a ResolverSource of taps_core.plugin",
        ),
        (
            "from taps_core import plugin as tp\n@tp.hookimpl\ndef taps_policy(): return []",
            'there is no hook "taps_policy"; did you mean taps_policies?',
        ),
        (
            transport("bad").replace("[Synthetic()]", "[Synthetic]"),
            "Synthetic is a class; declare an instance of it",
        ),
        (transport("No Name"), "'No Name' is no name"),
        (transport("a/b"), "'a/b' is no name"),
        (transport("bad", "capabilities = None"), "capabilities of bad must be a Capabilities"),
        (transport("bad", "serves = 'ip'"), "serves of bad must be a non-empty set"),
        (transport("bad", "alpn = 'h3'"), "alpn of bad must be a sequence of names"),
        (transport("bad", "properties = ['x']"), "properties of bad must be Property objects"),
        (
            transport(
                "bad",
                "properties = [tp.Property('_TAPS.groupmaxsendrate', tp.Kind.CONNECTION,"
                " tp.ValueType.NUMERIC, meaning='')]",
            ),
            "the property '_TAPS.groupmaxsendrate' of bad is the core's own",
        ),
        (
            transport(
                "bad",
                "properties = [tp.Property('nagle', tp.Kind.CONNECTION, tp.ValueType.BOOLEAN,"
                " meaning='')]",
            ),
            "the property 'nagle' of bad needs a namespace, as in bad.nagle",
        ),
        (
            transport("bad", "@property\n    def api_version(self): raise OSError('disk')"),
            "wrong declaration: OSError: disk",
        ),
    ],
)
def test_mistake_is_a_row_with_its_reason(site: PluginSite, source: str, reason: str) -> None:
    site.install("taps-bad", source)
    site.install("taps-good", transport("good"))
    registry = registry_of(site)
    assert list(registry.transports) == ["good"]
    (row,) = rows_by_distribution(registry)["taps-bad"]
    assert reason in row.reason
    assert row.remedy
    assert row.declaration is None


def test_of_two_resolvers_that_of_the_first_distribution_is_used(site: PluginSite) -> None:
    site.install("zebra", resolver("a"))
    site.install("aardvark", resolver("z"))
    registry = registry_of(site)
    assert list(registry.resolvers) == ["z"]
    (row,) = rows_by_distribution(registry)["zebra"]
    assert (row.status, row.kind) == (Status.CONFLICT, PluginKind.RESOLVER)
    assert row.reason == "aardvark declares a resolver too, and is used"
    assert "TAPS_PLUGINS_BLOCK=zebra" in row.remedy
    hidden = registry_of(site, {"TAPS_PLUGINS_BLOCK": "aardvark"})
    assert list(hidden.resolvers) == ["a"]


def test_of_two_policies_of_one_name_that_of_the_first_distribution_is_used(
    site: PluginSite,
) -> None:
    site.install("zebra", policy("ours", {"prohibit": {"protocols": ["udp"]}}))
    site.install("aardvark", policy("ours", {"prohibit": {"protocols": ["tcp"]}}))
    registry = registry_of(site)
    (rule,) = registry.policy().rules
    assert rule.source == "plugin aardvark"
    (row,) = rows_by_distribution(registry)["zebra"]
    assert row.status is Status.CONFLICT


def test_one_wrong_declaration_leaves_its_siblings_in_use(site: PluginSite) -> None:
    site.install(
        "taps-two",
        transport("two").replace("[Synthetic()]", "[Synthetic(), object()]")
        + framer("frame").replace("Synthetic", "Framing"),
    )
    registry = registry_of(site)
    assert list(registry.transports) == ["two"]
    assert list(registry.framers) == ["frame"]
    assert [row.status for row in registry.rows] == [
        Status.AVAILABLE,
        Status.FAILED,
        Status.AVAILABLE,
    ]


def test_helper_function_that_is_imported_is_no_misspelt_hook(site: PluginSite) -> None:
    site.install("taps-helper", "def taps_address(): pass\n" + transport("helper"))
    site.install("taps-user", "from taps_helper import taps_address\n" + transport("user"))
    registry = registry_of(site)
    assert [row.status for row in rows_by_distribution(registry)["taps-user"]] == [Status.AVAILABLE]


def test_optional_hook_of_another_version_is_no_mistake(site: PluginSite) -> None:
    site.install(
        "taps-eager",
        transport("eager") + "@tp.hookimpl(optionalhook=True)\ndef taps_resolvers(): return []\n",
    )
    assert [row.status for row in registry_of(site).rows] == [Status.AVAILABLE]


def test_damaged_metadata_is_a_row(site: PluginSite) -> None:
    site.install("taps-good", transport("good"))
    damaged = site.directory / "taps_damaged-1.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_bytes(b"[taps]\nx = \xff\xfe\n")
    registry = registry_of(site)
    assert list(registry.transports) == ["good"]
    (row,) = [row for row in registry.rows if row.status is Status.FAILED]
    assert "metadata cannot be read" in row.reason


def test_distribution_without_metadata_file_still_loads(site: PluginSite) -> None:
    site.install("taps-bare", transport("bare"))
    (site.directory / "taps_bare-1.0.dist-info" / "METADATA").unlink()
    assert list(registry_of(site).transports) == ["bare"]


def test_hooks_of_one_plugin_cannot_wrap_those_of_another(site: PluginSite) -> None:
    site.install("taps-good", transport("good"))
    site.install(
        "taps-wrap",
        "from taps_core import plugin as tp\n"
        "@tp.hookimpl(wrapper=True)\n"
        "def taps_transports():\n    yield\n    return []\n",
    )
    assert list(registry_of(site).transports) == ["good"]


# -- names


def test_equal_entry_point_names_are_both_loaded_and_said(site: PluginSite) -> None:
    site.install("taps-one", transport("one"), plugin="same")
    site.install("taps-two", transport("two"), plugin="same")
    registry = registry_of(site)
    assert list(registry.transports) == ["one", "two"]
    assert [row.note for row in registry.rows] == [
        'taps-two also calls its plugin "same"',
        'taps-one also calls its plugin "same"',
    ]


def test_equal_entry_point_names_survive_a_broken_twin(site: PluginSite) -> None:
    site.install("aaa-broken", "1 / 0", plugin="tcp")
    site.install("taps-tcp", transport("tcp"))
    registry = registry_of(site)
    assert list(registry.transports) == ["tcp"]
    (broken,) = rows_by_distribution(registry)["aaa-broken"]
    assert broken.status is Status.FAILED


def test_first_distribution_in_the_alphabet_keeps_a_name_that_nobody_owns(
    site: PluginSite,
) -> None:
    site.install("zebra", transport("odd"))
    site.install("badger", transport("odd"))
    registry = registry_of(site)
    assert type(registry.transports["odd"]).__module__ == "badger"
    assert [row.status for row in registry.rows] == [Status.AVAILABLE, Status.CONFLICT]


def test_owner_of_a_well_known_name_keeps_it(site: PluginSite) -> None:
    site.install("aaa", framer("line"))
    site.install("taps-framers", framer("line"))
    assert type(registry_of(site).framers["line"]).__module__ == "taps_framers"


def test_name_declared_twice_by_one_plugin_is_used_once(site: PluginSite) -> None:
    site.install("taps-twin", transport("twin").replace("[Syn", "[Synthetic(), Syn"))
    first, second = registry_of(site).rows
    assert first.status is Status.AVAILABLE
    assert (first.note, second.status) == ("", Status.CONFLICT)
    assert second.reason == 'taps-twin declares the name "twin" twice; the first is used'


def test_one_name_may_be_of_two_kinds(site: PluginSite) -> None:
    site.install("taps-a", transport("echo"))
    site.install("taps-b", framer("echo"))
    assert [row.status for row in registry_of(site).rows] == [Status.AVAILABLE] * 2


def test_clash_of_properties_is_named_and_one_keeps_it() -> None:
    class Tcp(Stream):
        name = "tcp"
        properties = (option("tcp.nagle"),)

    class Same(Stream):
        name = "same"
        properties = (option("tcp.nagle"),)

    class Other(Stream):
        name = "other"
        properties = (option("TCP.Nagle", "Something else."),)

    registry = Registry.of(Tcp(), Same(), Other())
    assert list(registry.transports) == ["same", "tcp"]
    assert list(registry.properties) == ["tcp.nagle"]
    (clash,) = [row for row in registry.rows if row.status is Status.CONFLICT]
    assert (clash.name, clash.reason) == (
        "other",
        "tcp declares the property TCP.Nagle too, and is used",
    )


def test_application_protocols_of_one_transport_only_are_found_by_their_names() -> None:
    class Swift(Stream):
        name = "swift"
        alpn = ("h3", "doq")

    registry = Registry.of(Stream(), Swift())
    assert registry.application_protocols == {"h3": "swift", "doq": "swift"}


def test_properties_of_transports_and_layers_are_found_by_canonical_name() -> None:
    class WithOptions(Stream):
        properties = (option("stream.a"), option("stream.b"))

    class Protected(Shield):
        properties = (option("shield.c"),)

    registry = Registry.of(WithOptions(), Protected(), Lines())
    assert sorted(registry.properties) == ["shield.c", "stream.a", "stream.b"]


# -- namespaces of properties (RFC 9622, section 4.1)


def declaring(*names: str, transport: str = "acme") -> Registry:
    class Declaring(Stream):
        name = transport
        properties = tuple(map(option, names))

    return Registry.of(Declaring())


@pytest.mark.requirement("R-9622-4.1-03", "R-9622-4.1-06")
@pytest.mark.parametrize("name", ["tcp.nagle", "sctp-udp.port", "vendor.colour"])
def test_an_own_property_in_the_namespace_of_a_protocol_is_refused(name: str) -> None:
    registry = declaring(name, "_acme.colour")
    assert not registry.transports
    (row,) = registry.rows
    assert row.status is Status.FAILED
    assert f"the namespace of {name} is for properties of the protocol" in row.reason
    assert "_VENDOR." in row.remedy
    # A protocol's own plugin may.
    assert declaring(name, transport=name.partition(".")[0]).transports


def test_a_protocols_acronym_may_lack_its_hyphens_and_variants_share_it() -> None:
    assert declaring("udplite.coverage", "udp-lite.x", "udp.y", transport="udp-lite").transports
    assert declaring("SCTP.streams", transport="sctp-udp").transports


def test_what_runs_over_a_protocol_may_share_its_properties_but_adds_none() -> None:
    class Tcp(Stream):
        name = "tcp"
        properties = (option("tcp.nagle"),)

    class Tunnel(Stream):
        name = "tunnel"
        properties = (option("tcp.nagle"),)

    class Rogue(Stream):
        name = "rogue"
        properties = (option("tcp.nagle"), option("tcp.window"))

    assert list(Registry.of(Tunnel(), Rogue(), Tcp()).transports) == ["tcp", "tunnel"]


@pytest.mark.requirement("R-9622-4.1-03", "R-9622-4.1-04")
def test_an_own_namespace_begins_with_an_underscore_and_names_somebody() -> None:
    assert list(declaring("_acme.colour", "_x-1.y").properties) == ["_acme.colour", "_x-1.y"]
    for name in ("_.colour", "_1.colour"):
        (row,) = declaring(name).rows
        assert f"the property '{name}' of acme has a namespace that names nobody" in row.reason


@pytest.mark.requirement("R-9622-4.1-07")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_tcp.colour", "tcp"),
        ("_acme.udp", "udp"),
        ("_acme.fastTcpStart", "tcp"),
        ("_acme.UDPLite.gre", "gre and udp and udplite"),
        ("_acme.ISO-IP", "iso-ip"),
    ],
)
def test_a_word_that_stands_for_a_protocol_in_an_own_name_is_noted(name: str, words: str) -> None:
    (row,) = declaring(name, "_acme.colour").rows
    assert row.status is Status.AVAILABLE
    assert row.note == f"{name}: {words} should not be part of a name that is no protocol's"
    (row,) = declaring("_acme.tcpish").rows
    assert not row.note


def test_the_plugins_of_this_project_keep_to_that() -> None:
    rows = Registry.from_entry_points().rows
    assert rows
    assert not [row for row in rows if row.note or row.status is Status.FAILED]


# -- which plugins are loaded


def test_nothing_is_imported_before_it_is_needed(site: PluginSite) -> None:
    site.install("taps-lazy", transport("lazy"))
    registry = registry_of(site)
    assert not registry.loaded
    assert "taps_lazy" not in sys.modules
    assert list(registry.transports) == ["lazy"]
    assert registry.loaded


def test_no_plugin_at_all_is_an_empty_registry(site: PluginSite) -> None:
    registry = registry_of(site)
    assert (dict(registry.transports), dict(registry.framers), registry.rows) == ({}, {}, ())


@pytest.mark.parametrize(
    ("environ", "used"),
    [
        ({}, ["a", "b"]),
        ({"TAPS_PLUGINS": "a"}, ["a"]),
        ({"TAPS_PLUGINS": " a , b,"}, ["a", "b"]),
        ({"TAPS_PLUGINS": ""}, []),
        ({"TAPS_PLUGINS_BLOCK": "a"}, ["b"]),
        ({"TAPS_PLUGINS_BLOCK": ""}, ["a", "b"]),
        ({"TAPS_PLUGINS": "a", "TAPS_PLUGINS_BLOCK": "a"}, []),
    ],
)
def test_environment_chooses_plugins(
    site: PluginSite, environ: dict[str, str], used: list[str]
) -> None:
    site.install("taps-a", transport("a"))
    site.install("taps-b", transport("b"))
    registry = registry_of(site, environ)
    assert list(registry.transports) == used
    assert {f"taps_{name}" in sys.modules for name in {"a", "b"} - set(used)} <= {False}
    blocked = [row.name for row in registry.rows if row.status is Status.BLOCKED]
    assert sorted([*used, *blocked]) == ["a", "b"]


def test_arguments_choose_plugins_and_environment_can_only_narrow(site: PluginSite) -> None:
    for name in "abc":
        site.install(f"taps-{name}", transport(name))
    registry = Registry.from_entry_points(
        allow=["a", "b"], block=["b"], environ={"TAPS_PLUGINS": "a,b,c"}
    )
    assert list(registry.transports) == ["a"]
    assert [(row.name, row.reason) for row in registry.rows if row.kind == "plugin"] == [
        ("b", "block= leaves it out"),
        ("c", "allow= does not name it"),
    ]


def test_string_in_place_of_a_collection_of_names_is_refused() -> None:
    with pytest.raises(TypeError, match="collections of names"):
        Registry.from_entry_points(allow="tcp")


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("tpc", "did you mean tcp?"),
        ("taps-tcp", 'taps-tcp is the distribution; its plugin is called "tcp"'),
        ("quic", "pip install taps-quic"),
        ("zzzzzz", ""),
    ],
)
def test_name_in_the_environment_that_nothing_answers_to_is_a_row(
    site: PluginSite, asked: str, remedy: str
) -> None:
    site.install("taps-tcp", transport("tcp"))
    (row,) = [
        row
        for row in registry_of(site, {"TAPS_PLUGINS": asked}).rows
        if row.status is Status.MISSING
    ]
    assert (row.name, row.remedy) == (asked, remedy)
    assert row.reason == "TAPS_PLUGINS names it, but it is not installed"


def test_environment_of_the_process_is_read_by_default(
    site: PluginSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("taps-a", transport("a"))
    monkeypatch.setenv("TAPS_PLUGINS_BLOCK", "a")
    assert not Registry.from_entry_points().transports


def test_two_registries_share_nothing(site: PluginSite) -> None:
    site.install("taps-a", transport("a"))
    assert not Registry.from_entry_points(block=["a"]).transports
    assert list(Registry.from_entry_points(environ={}).transports) == ["a"]


def test_plugin_that_asks_the_registry_while_imported_fails_alone(
    site: PluginSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("taps-loop", "import shared_registry\nshared_registry.it.rows\n")
    site.install("taps-good", transport("good"))
    registry = registry_of(site)
    shared: Any = ModuleType("shared_registry")
    shared.it = registry
    monkeypatch.setitem(sys.modules, "shared_registry", shared)
    assert list(registry.transports) == ["good"]
    (row,) = rows_by_distribution(registry)["taps-loop"]
    assert "cannot use the registry while the registry imports it" in row.reason


# -- where from


def test_row_tells_distribution_version_and_place(site: PluginSite) -> None:
    site.install("taps-a", transport("a"), version="3.1")
    (row,) = registry_of(site).rows
    source = row.source
    assert (source.plugin, source.distribution, source.version) == ("a", "taps-a", "3.1")
    assert (source.location, source.editable) == (str(site.directory), False)
    assert row.hooks == ("taps_transports",)


@pytest.mark.parametrize(
    ("direct_url", "location", "editable"),
    [
        ({"url": "file:///src/my%20taps", "dir_info": {"editable": True}}, "/src/my taps", True),
        ({"url": "file:///tmp/a.whl", "archive_info": {}}, "/tmp/a.whl", False),
        ({"url": "https://me:secret@host/a.whl"}, "https://host/a.whl", False),
    ],
)
def test_row_tells_what_it_was_installed_from(
    site: PluginSite, direct_url: dict[str, object], location: str, editable: bool
) -> None:
    site.install("taps-a", transport("a"), direct_url=direct_url)
    source = registry_of(site).rows[0].source
    assert (source.location, source.editable) == (location, editable)


def test_first_distribution_on_the_path_is_the_one_that_is_imported(
    site: PluginSite, tmp_path: Any
) -> None:
    later = PluginSite(tmp_path / "later")
    later.directory.mkdir()
    sys.path.append(str(later.directory))
    site.install("taps-a", transport("new"), version="2")
    later.install("taps-a", transport("old"), version="1")
    (row,) = registry_of(site).rows
    assert (row.name, row.source.version) == ("new", "2")


# -- availability


def test_unavailable_declaration_keeps_its_place_and_tells_why() -> None:
    class Missing(Stream):
        def availability(self) -> tp.Availability:
            return tp.Availability(available=False, reason="no kernel", remedy="modprobe it")

    registry = Registry.of(Missing())
    (row,) = registry.rows
    assert (row.status, row.reason, row.remedy) == (Status.UNAVAILABLE, "no kernel", "modprobe it")
    assert list(registry.transports) == ["stream"]


def test_availability_is_asked_once_until_refresh() -> None:
    class Counting(Stream):
        asked = 0

        def availability(self) -> tp.Availability:
            self.asked += 1
            return tp.Availability(available=self.asked > 1)

    declared = Counting()
    registry = Registry.of(declared)
    assert not registry.availability(declared).available
    assert not registry.availability(declared).available
    assert declared.asked == 1
    registry.refresh()
    assert registry.availability(declared).available
    assert registry.rows[0].status is Status.AVAILABLE


@pytest.mark.parametrize("answer", ["raise", "yes"])
def test_probe_that_fails_makes_its_declaration_unavailable(answer: str) -> None:
    class Nervous(Stream):
        def availability(self) -> tp.Availability:
            if answer == "raise":
                raise OSError("probe failed")
            return answer  # type: ignore[return-value]  # a plugin's mistake

    (row,) = Registry.of(Nervous()).rows
    assert row.status is Status.UNAVAILABLE
    assert "its availability cannot be told" in row.reason


def test_framer_of_the_application_is_asked_itself_whatever_its_name() -> None:
    class Absent(Lines):
        def availability(self) -> tp.Availability:
            return tp.Availability(available=False)

    registry = Registry.of(Lines())
    assert registry.availability(registry.framers["lines"]).available
    assert not registry.availability(Absent()).available
    assert registry.availability(registry.framers["lines"]).available


def test_effective_table_replaces_the_declared_one() -> None:
    less = Stream.capabilities.but(support={"keepAlive": tp.Support.NEVER})

    class Less(Stream):
        def availability(self) -> tp.Availability:
            return tp.Availability(capabilities=less)

    registry = Registry.of(Less(), Shield())
    assert registry.capabilities(registry.transports["stream"]) is less
    shield = registry.security_layers["shield"]
    assert registry.capabilities(shield) is shield.capabilities


# -- look-up


def test_known_name_that_is_absent_answers_with_what_to_install() -> None:
    registry = Registry.of(Stream())
    with pytest.raises(tp.PluginError, match=r'^no framer "line" is installed: pip'):
        registry.framer("line")
    with pytest.raises(
        tp.PluginError, match=r'^no transport "quic" is installed: pip install taps'
    ):
        registry.transport("quic")
    with pytest.raises(tp.PluginError, match=r"no security layer .tls. is .* pip install taps-tls"):
        registry.security_layer("tls")


def test_unknown_name_answers_with_the_nearest_ones() -> None:
    registry = Registry.of(Stream(), Lines())
    with pytest.raises(tp.PluginError, match='no transport "steam"; did you mean stream'):
        registry.transport("steam")
    with pytest.raises(tp.PluginError, match='no framer "lin"; did you mean line'):
        registry.framer("lin")
    with pytest.raises(tp.PluginError, match=r'no transport "x" \(installed: stream\)'):
        registry.transport("x")


def test_name_that_is_there_is_given() -> None:
    registry = Registry.of(Stream(), Shield(), Lines())
    assert registry.transport("stream").name == "stream"
    assert registry.security_layer("shield").name == "shield"
    assert registry.framer("lines").name == "lines"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("1 / 0", r'the transport "tcp" \(taps-tcp\) cannot be used: import failed: ZeroDivision'),
        (transport("tcp", "api_version = 9"), "cannot be used: written for plugin interface 9"),
    ],
)
def test_installed_name_that_cannot_be_used_answers_with_the_reason(
    site: PluginSite, source: str, sentence: str
) -> None:
    site.install("taps-tcp", source)
    with pytest.raises(tp.PluginError, match=sentence):
        registry_of(site).transport("tcp")


def test_blocked_name_answers_with_what_blocks_it(site: PluginSite) -> None:
    site.install("taps-framers", framer("line"))
    registry = registry_of(site, {"TAPS_PLUGINS": "tcp"})
    with pytest.raises(tp.PluginError, match="TAPS_PLUGINS does not name it"):
        registry.framer("line")


def test_distribution_of_well_known_names() -> None:
    assert distribution_of("udp-lite") == "taps-udp"
    assert distribution_of("tls", PluginKind.SECURITY) == "taps-tls"
    assert distribution_of("tls", PluginKind.TRANSPORT) is None
    assert distribution_of("nothing") is None


# -- Registry.of


def test_bare_declarations_modules_and_objects_are_plugins() -> None:
    module = ModuleType("taps_sample")
    exec(transport("sample"), module.__dict__)

    class Plugin:
        @tp.hookimpl
        def taps_framers(self) -> list[tp.FramerDefinition]:
            return [Lines()]

    registry = Registry.of(module, Plugin(), Shield())
    assert list(registry.transports) == ["sample"]
    assert list(registry.framers) == ["lines"]
    assert list(registry.security_layers) == ["shield"]
    assert {row.source.location for row in registry.rows} == {"this program"}


def test_class_in_place_of_an_instance_is_refused() -> None:
    with pytest.raises(TypeError, match="Stream is a class: give an instance of it"):
        Registry.of(Stream)


def test_object_that_declares_nothing_is_a_row() -> None:
    (row,) = Registry.of(ModuleType("taps_nothing")).rows
    assert (row.status, row.reason) == (Status.FAILED, "it declares nothing")


def test_object_with_a_hook_that_takes_arguments_is_a_row() -> None:
    class Plugin:
        @tp.hookimpl
        def taps_framers(self, surprise: int) -> list[tp.FramerDefinition]:
            return []

    (row,) = Registry.of(Plugin()).rows
    assert row.status is Status.FAILED
    assert "surprise" in row.reason


def test_mappings_cannot_be_changed() -> None:
    registry = Registry.of(Stream())
    with pytest.raises(TypeError):
        registry.transports["other"] = Stream()  # type: ignore[index]  # that is the point


# -- logging


def test_plugin_that_is_not_used_is_logged_once(
    site: PluginSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("taps-bang", "1 / 0")
    registry = registry_of(site)
    assert registry.rows == registry.rows
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("taps_core.plugins", "WARNING")
    assert "'bang' of taps-bang is not used: import failed" in record.getMessage()


def test_trace_variable_logs_imports_and_hook_calls(
    site: PluginSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("taps-a", transport("a"))
    logger = logging.getLogger("taps_core.plugins")
    level = logger.level
    try:
        assert registry_of(site).transports
        assert not caplog.records
        assert registry_of(site, {"TAPS_TRACE": "1"}).transports
    finally:
        logger.setLevel(level)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("imported a (taps-a) as <module 'taps_a'")
    assert messages[1] == "taps_transports of a (taps-a) declares [<Synthetic 'a'>]"
