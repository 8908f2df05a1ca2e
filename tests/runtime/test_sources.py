"""What plugins bring to every System: a say in policy, and a resolver."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core import plugin as tp
from taps_core.runtime.registry import Registry, Status
from taps_core.testing import MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from taps_core.testing.fixtures import Run

PLAIN = taps.SecurityParameters.disabled()
NO_MEMORY = {"rule": [{"name": "not in memory", "prohibit": {"protocols": ["memory-stream"]}}]}


class Says(tp.PolicySource):
    def __init__(self, tables: Any = None, name: str = "company") -> None:
        self.name = name
        self.tables = tables
        self.threads: list[threading.Thread] = []

    def policy(self) -> Mapping[str, Any] | None:
        self.threads.append(threading.current_thread())
        if isinstance(self.tables, Exception):
            raise self.tables
        return self.tables  # type: ignore[no-any-return]  # what a test gives may be wrong


class Table:
    """Names in a table; all others are the usual resolver's."""

    def __init__(self, usual: taps.Resolver, table: dict[str, str]) -> None:
        self.usual = usual
        self.table = table

    async def resolve(self, endpoint: Any) -> list[Any]:
        if endpoint.hostname in self.table:
            return [endpoint.with_ip_address(self.table[endpoint.hostname])]
        return await self.usual.resolve(endpoint)


class Tables(tp.ResolverSource):
    name = "fleet"

    def __init__(self, table: dict[str, str] | None = None) -> None:
        self.table = table or {}
        self.made: list[Any] = []

    def resolver(self, usual: taps.Resolver) -> tp.Resolving:
        made = Table(usual, self.table)
        self.made.append(made)
        return made


def ask(system: taps.System, remote: str = "server.example:7000") -> taps.Preconnection:
    return taps.Preconnection(
        remote=remote, security=taps.SecurityParameters.disabled(), system=system
    )


def only_row(system: taps.System, name: str) -> Any:
    (row,) = (row for row in system.registry.rows if row.name == name)
    return row


# -- policy


@pytest.mark.requirement("R-9623-3.2-01")
def test_a_plugins_policy_counts_for_programs_that_know_nothing_of_it(
    run: Run, memory_network: MemoryNetwork
) -> None:
    source = Says(NO_MEMORY)

    async def main() -> None:
        system = taps.System([MemoryStream(memory_network), source])
        for _ in range(2):
            with pytest.raises(taps.NoCandidates) as caught:
                await ask(system).initiate()
            assert caught.value.reason is taps.Reason.POLICY_PROHIBITED
            said = " ".join(str(caught.value).split())
            assert "(plugin company, rule 1, not in memory)" in said

    run(main, memory_network)
    assert len(source.threads) == 1
    assert source.threads[0] is not threading.main_thread()


def test_without_such_plugins_a_connection_asks_for_none(
    run: Run, memory_network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("policy", "resolver", "_loaded"):
        really = getattr(Registry, name)

        def counted(*arguments: Any, name: str = name, really: Any = really) -> Any:
            asked.append(name)
            return really(*arguments)

        monkeypatch.setattr(Registry, name, counted)

    async def main() -> None:
        system = taps.System([MemoryStream(memory_network)])
        async with taps.Preconnection(
            local="127.0.0.1:0", security=PLAIN, system=system
        ).listen() as listener:
            assert listener.remote_endpoint is not None
            there = taps.Preconnection(
                remote=listener.remote_endpoint, security=PLAIN, system=system
            )
            (await there.initiate()).abort()
            assert asked.count("policy") == 1
            asked.clear()
            (await there.initiate()).abort()
            assert not {"policy", "resolver"} & set(asked)

    run(main, memory_network)


def order(system: taps.System) -> list[str]:
    return [each.stack.name for each in ask(system).select()]


def two_streams(network: MemoryNetwork) -> list[Any]:
    other = MemoryStream(network)
    other.name = "other"  # type: ignore[misc]  # of this one alone
    return [MemoryStream(network), other]


def test_files_then_the_program_have_the_word_after_plugins(
    memory_network: MemoryNetwork, tmp_path: Path
) -> None:
    streams = two_streams(memory_network)
    assert order(taps.System(streams)) == ["MEMORY-STREAM", "OTHER"]
    source = Says({"prefer": {"protocols": ["other"]}})
    assert order(taps.System([*streams, source])) == ["OTHER", "MEMORY-STREAM"]
    file = tmp_path / "policy.toml"
    file.write_text("[avoid]\nprotocols = ['other']\n", encoding="utf-8")
    in_file = taps.System([*streams, source], policy_files=[file])
    assert order(in_file) == ["MEMORY-STREAM", "OTHER"]
    in_file.policy = {"prefer": {"protocols": ["other"]}}
    assert order(in_file) == ["OTHER", "MEMORY-STREAM"]
    # What is prohibited stays so, whoever says more.
    source = Says({"prohibit": {"protocols": ["other"]}})
    wish = {"prefer": {"protocols": ["other"]}}
    assert order(taps.System([*streams, source], policy=wish)) == ["MEMORY-STREAM"]


def test_of_several_policies_that_of_the_last_name_has_the_last_word(
    memory_network: MemoryNetwork,
) -> None:
    streams = two_streams(memory_network)
    prefers = Says({"prefer": {"protocols": ["other"]}}, "b")
    avoids = Says({"avoid": {"protocols": ["other"]}}, "c")
    assert order(taps.System([avoids, *streams, prefers])) == ["MEMORY-STREAM", "OTHER"]
    avoids.name = "a"
    assert order(taps.System([avoids, *streams, prefers])) == ["OTHER", "MEMORY-STREAM"]


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (RuntimeError("no such luck"), "RuntimeError: no such luck"),
        ([1], "TypeError: policy() returned [1], not a mapping"),
        ({"prohibits": {}}, "PolicyError: system policy: prohibits: there is no"),
    ],
)
def test_a_policy_that_cannot_be_is_reported_and_costs_nothing_else(
    memory_network: MemoryNetwork, caplog: pytest.LogCaptureFixture, tables: Any, reason: str
) -> None:
    system = taps.System(
        [MemoryStream(memory_network), Says(tables, "broken"), Says(NO_MEMORY, "sound")]
    )
    with caplog.at_level(logging.WARNING, "taps_core.plugins"):
        assert order(system) == []  # the sound one counts
    assert "policy 'broken' of broken is not used" in caplog.text
    row = only_row(system, "broken")
    assert row.status is Status.UNAVAILABLE
    assert row.reason.startswith(f"its policy cannot be used: {reason}")
    assert only_row(system, "sound").status is Status.AVAILABLE


def test_plugins_are_asked_again_after_a_refresh(memory_network: MemoryNetwork) -> None:
    source = Says(NO_MEMORY)
    system = taps.System([MemoryStream(memory_network), source])
    assert order(system) == []
    source.tables = None
    assert order(system) == []
    system.refresh()
    assert order(system) == ["MEMORY-STREAM"]


def test_a_source_that_this_machine_cannot_use_is_not_asked(memory_network: MemoryNetwork) -> None:
    class Enrolled(Says):
        answer = tp.Availability(available=False, reason="not enrolled", remedy="enrol")

        def availability(self) -> tp.Availability:
            return self.answer

    source = Enrolled(NO_MEMORY)
    system = taps.System([MemoryStream(memory_network), source])
    assert order(system) == ["MEMORY-STREAM"]
    assert not source.threads
    assert only_row(system, "company").reason == "not enrolled"
    source.answer = tp.AVAILABLE
    system.refresh()
    assert order(system) == []


def test_a_policy_that_is_of_a_later_interface_is_refused(memory_network: MemoryNetwork) -> None:
    source = Says(NO_MEMORY)
    source.api_version = 2
    system = taps.System([MemoryStream(memory_network), source])
    assert order(system) == ["MEMORY-STREAM"]
    assert only_row(system, "company").status is Status.REFUSED


# -- resolver


def resolved(run: Run, system: taps.System, remote: str) -> list[str | None]:
    found: list[str | None] = []

    async def main() -> None:
        _, remotes = await ask(system, remote).resolve()
        found.extend(each.ip_address for each in remotes)

    run(main)
    return found


def test_a_plugins_resolver_stands_in_for_the_built_in_one_which_it_may_ask(run: Run) -> None:
    source = Tables({"db.fleet": "192.0.2.7"})
    system = taps.System([source])
    assert resolved(run, system, "db.fleet:5432") == ["192.0.2.7"]
    assert "127.0.0.1" in resolved(run, system, "localhost:80")
    assert len(source.made) == 1


def test_connections_resolve_by_it(run: Run, memory_network: MemoryNetwork) -> None:
    source = Tables({"db.fleet": "127.0.0.1"})

    async def main() -> None:
        system = taps.System([MemoryStream(memory_network), source])
        async with taps.Preconnection(
            local="127.0.0.1:0", security=PLAIN, system=system
        ).listen() as listener:
            port = listener.local_endpoints[0].port
            connection = await ask(system, f"db.fleet:{port}").initiate()
            assert connection.remote_endpoint is not None
            assert connection.remote_endpoint.hostname == "db.fleet"
            connection.abort()

    run(main, memory_network)


def test_whoever_brings_a_resolver_uses_that_one(run: Run) -> None:
    source = Tables({"db.fleet": "192.0.2.7"})
    own = Table(taps.Resolver(), {"db.fleet": "198.51.100.1"})
    system = taps.System([source], resolver=own)
    assert resolved(run, system, "db.fleet:5432") == ["198.51.100.1"]
    assert not source.made


def test_addresses_need_no_resolver(run: Run, memory_network: MemoryNetwork) -> None:
    source = Tables()

    async def main() -> None:
        system = taps.System([MemoryStream(memory_network), source])
        async with taps.Preconnection(
            local="127.0.0.1:0", security=PLAIN, system=system
        ).listen() as listener:
            assert listener.remote_endpoint is not None
            connection = await taps.Preconnection(
                remote=listener.remote_endpoint, security=PLAIN, system=system
            ).initiate()
            made = list(source.made)  # the Listener's
            connection.abort()
            assert source.made == made

    run(main, memory_network)


def test_paths_and_domains_go_through_it_too() -> None:
    source = Tables()
    domains = {"lab": {"interfaces": ["lo"], "resolvers": ["192.0.2.53"]}}
    system = taps.System([source], provisioning_domains=domains)
    wanted = taps.TransportProperties().prefer(pvd="lab")
    (lab, *others) = system.paths.chosen({name: wanted.get(name) for name in ("interface", "pvd")})
    there: Any = system.resolver_for(isolated=False, path=lab)
    assert there.usual.path == lab.name
    assert there.usual._options["nameservers"] == ("192.0.2.53",)
    here: Any = system.resolver_for(isolated=False)
    assert here.usual.path is None
    assert here.usual._options["nameservers"] is None
    for path in others:
        by: Any = system.resolver_for(isolated=True, path=path)
        assert by.usual.path == path.name
        assert by.usual._options["nameservers"] is None
        assert not by.usual._remembers


def test_a_resolver_that_can_ask_by_a_path_itself_is_asked_to() -> None:
    class Able(Table):
        exits: tuple[str, ...] = ()

        def by(self, exit: Any) -> Able:  # noqa: A002  # as that of Pathwise
            bound = Able(self.usual, self.table)
            bound.exits = (*self.exits, exit.name)
            return bound

    class Source(Tables):
        def resolver(self, usual: taps.Resolver) -> tp.Resolving:
            self.made.append(Able(usual, {}))
            return self.made[-1]  # type: ignore[no-any-return]  # what it made

    source = Source()
    system = taps.System([source])
    wanted = taps.TransportProperties().prefer(interface="loopback")
    (path, *_) = system.paths.chosen({name: wanted.get(name) for name in ("interface", "pvd")})
    bound: Any = system.resolver_for(isolated=False, path=path)
    assert bound.exits == (path.name,)
    assert len(source.made) == 1


def test_an_isolated_session_gets_one_that_asks_one_without_memory() -> None:
    source = Tables()
    system = taps.System([source])
    usual: Any = system.resolver
    alone: Any = system.resolver_for(isolated=True)
    assert alone is not usual
    assert usual.usual._remembers
    assert not alone.usual._remembers


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda usual: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda usual: None, "TypeError: resolver() returned None, which resolves nothing"),
    ],
)
def test_a_resolver_that_cannot_be_made_is_reported_and_names_are_resolved(
    run: Run, caplog: pytest.LogCaptureFixture, make: Callable[[Any], Any], reason: str
) -> None:
    source = Tables()
    source.resolver = make  # type: ignore[method-assign]  # a plugin's mistake
    system = taps.System([source])
    with caplog.at_level(logging.WARNING, "taps_core.plugins"):
        assert "127.0.0.1" in resolved(run, system, "localhost:80")
    assert "resolver 'fleet' of fleet is not used" in caplog.text
    row = only_row(system, "fleet")
    assert row.status is Status.UNAVAILABLE
    assert row.reason == f"its resolver cannot be used: {reason}"


def test_of_two_resolvers_the_first_is_used_and_the_other_is_a_conflict(run: Run) -> None:
    first, second = Tables({"x": "192.0.2.1"}), Tables({"x": "192.0.2.2"})
    second.name = "other"
    system = taps.System(Registry.of(first, second))
    assert resolved(run, system, "x:1") == ["192.0.2.1"]
    assert only_row(system, "fleet").note == "other declares a resolver too, unused"
    row = only_row(system, "other")
    assert row.status is Status.CONFLICT
    assert row.reason == "fleet declares a resolver too, and is used"


def test_cancelling_a_look_up_reaches_the_plugins_resolver(run: Run) -> None:
    cancelled: list[bool] = []

    class Slow(Tables):
        def resolver(self, usual: taps.Resolver) -> tp.Resolving:
            class Never(Table):
                async def resolve(self, endpoint: Any) -> list[Any]:
                    try:
                        await asyncio.Event().wait()
                    finally:
                        cancelled.append(True)
                    return []

            return Never(usual, {})

    async def main() -> None:
        task = asyncio.ensure_future(ask(taps.System([Slow()])).resolve())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert cancelled == [True]
