"""System policy end to end: which files are read, when, and what Connections do about it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.runtime import policy_files as files
from taps_core.testing import MemoryNetwork, MemoryStream, VirtualNetwork

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run, VirtualRun

SERVER = "server.example:7000"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "policy.toml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's own file, which is not there yet; the user has none."""
    file = tmp_path / "etc" / "policy.toml"
    monkeypatch.delenv("TAPS_POLICY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(files, "MACHINE", str(file))
    return file


def ask(system: taps.System, remote: str = SERVER, **properties: Any) -> taps.Preconnection:
    return taps.Preconnection(
        remote=remote,
        transport=properties,
        security=taps.SecurityParameters.disabled(),
        system=system,
    )


def names(preconnection: taps.Preconnection) -> list[str]:
    return [each.stack.name for each in preconnection.select()]


# -- which files


def test_the_machine_is_read_first_and_the_user_has_the_word_after_it(
    machine: Path, write: Write, tmp_path: Path
) -> None:
    assert files.policy_files() == []
    user = write("", "config/taps/policy.toml")
    assert files.policy_files() == [user]
    write("", "etc/policy.toml")
    assert files.policy_files() == [machine, user]
    assert files.policy_files({"HOME": str(tmp_path)}) == [machine]
    write("", ".config/taps/policy.toml")
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "not/absolute"}
    assert files.policy_files(home) == [machine, tmp_path / ".config/taps/policy.toml"]


def test_a_variable_names_others_or_none(machine: Path, write: Write) -> None:
    write("", "etc/policy.toml")
    assert files.policy_files({"TAPS_POLICY": ""}) == []
    named = os.pathsep.join(["/a.toml", "/b.toml"])
    assert files.policy_files({"TAPS_POLICY": named}) == [Path("/a.toml"), Path("/b.toml")]


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    system = taps.System(policy_files=[tmp_path / "nowhere.toml"])
    with pytest.raises(taps.PolicyError, match=r"nowhere\.toml: No such file"):
        ask(system).select()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[prefer]\nprotocols = ['tcp'\n", 3, "Unclosed array"),
        ("[prefer]\nprotocols = ['tcp']\nprotocol = ['udp']\n", 3, r"prefer\.protocol: "),
        ("[[rule]]\nhosts = ['a']\n\n[rule.prefer]\nfamilies = ['IPv5']\n", 5, r"rule 1\.prefer"),
        ("[[rule]]\nprefer.protocols=['a']\n[[rule]]\n'ports' = [0]\n", 4, r"rule 2\.ports: "),
        ("# nothing\n\n[[rule]]\nhosts = ['a']\n", 3, "rule 1: says nothing"),
        ("[[rule]]\nhosts = ['a']\nprefer = { protocols = [1] }\n", 3, r"prefer\.protocols"),
        ("x = 1\n", 1, "x: there is no such key"),
        ("[racing]\ndelay = 0\n", 2, r"racing\.delay: "),
        ("[pvd.corp]\nsearch = ['example']\n", 1, r"pvd\.corp: "),
    ],
)
def test_an_error_names_file_line_and_key(write: Write, text: str, line: int, said: str) -> None:
    file = write(text)
    with pytest.raises(taps.PolicyError, match=said) as caught:
        files.read_policy([file])
    assert caught.value.line == line
    assert caught.value.file == str(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")


def test_a_file_that_is_no_text_is_an_error(write: Write) -> None:
    file = write("")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(taps.PolicyError, match="not UTF-8"):
        files.read_policy([file])


# -- who has the last word


def test_reasons_name_the_file_and_the_program_has_the_last_word(write: Write) -> None:
    one = write("[avoid]\nprotocols = ['udp-lite']\n", "one.toml")
    two = write("[prefer]\nprotocols = ['udp-lite']\n", "two.toml")

    def select(*named: Path, policy: Any = None) -> taps.Preconnection:
        system = taps.System(policy_files=named, policy=policy)
        preconnection = ask(system)
        preconnection.transport.unreliable_datagram()
        return preconnection

    assert names(select())[0] == "UDP"
    selection = select(one, two).select()
    assert selection.ranked[0].stack.name == "UDP-Lite"
    assert f"system policy prefers udp-lite ({two})" in map(str, selection.ranked[0].reasons)
    assert names(select(two, one))[0] == "UDP"
    assert names(select(two, policy={"avoid": {"protocols": ["udp-lite"]}}))[0] == "UDP"


def test_a_program_cannot_take_back_what_a_file_prohibits(write: Write) -> None:
    file = write("[prohibit]\nprotocols = ['tcp']\n")
    system = taps.System(policy_files=[file], policy={"prefer": {"protocols": ["tcp"]}})
    with pytest.raises(taps.NoCandidates) as caught:
        ask(system).select().candidates()
    assert caught.value.reason is taps.Reason.POLICY_PROHIBITED
    assert caught.value.rejected["TCP"] == (f"system policy prohibits tcp ({file})",)


@pytest.mark.requirement("R-9623-3.2-04")
def test_a_function_is_asked_for_each_connection(memory_network: MemoryNetwork) -> None:
    says: list[Any] = [None]
    system = taps.System(plugins=[MemoryStream(memory_network)], policy=lambda: says[-1])
    assert names(ask(system)) == ["MEMORY-STREAM"]
    says.append({"prohibit": {"protocols": ["memory-stream"]}})
    assert names(ask(system)) == []
    says.append(None)
    assert names(ask(system)) == ["MEMORY-STREAM"]


def test_policy_may_be_set_anew_and_a_wrong_one_is_told_at_once() -> None:
    system = taps.System()
    system.policy = {"prohibit": {"protocols": ["tcp"]}}
    assert "TCP" not in names(ask(system))
    system.policy = None
    assert "TCP" in names(ask(system))
    with pytest.raises(taps.PolicyError, match="system policy: prohibits: there is no such key"):
        system.policy = {"prohibits": {}}
    with pytest.raises(TypeError):
        taps.System(policy=3)  # type: ignore[arg-type]  # the point of it


# -- when files are read


def test_files_are_read_once_and_again_when_asked_to(machine: Path, write: Write) -> None:
    system = taps.System()
    assert "TCP" in names(ask(system))
    write("[prohibit]\nprotocols = ['tcp']\n", "etc/policy.toml")
    assert "TCP" in names(ask(system))
    system.refresh()
    assert "TCP" not in names(ask(system))


def test_what_stands_in_place_of_this_machine_has_no_files(
    machine: Path, write: Write, memory_network: MemoryNetwork
) -> None:
    write("[prohibit]\nprotocols = ['memory-stream']\n", "etc/policy.toml")
    plugins = [MemoryStream(memory_network)]
    assert names(ask(taps.System(plugins))) == ["MEMORY-STREAM"]
    assert names(ask(taps.System(plugins, policy_files=files.policy_files()))) == []


def test_connections_read_files_off_the_loop(
    run: Run, write: Write, memory_network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by: list[threading.Thread] = []
    really = files.read_policy

    def read_policy(named: Any) -> Any:
        read_by.append(threading.current_thread())
        return really(named)

    monkeypatch.setattr(files, "read_policy", read_policy)
    file = write("[prohibit]\nprotocols = ['memory-stream']\n")

    async def main() -> None:
        system = taps.System([MemoryStream(memory_network)], policy_files=[file])
        for _ in range(2):
            with pytest.raises(taps.EstablishmentError, match="system policy prohibits"):
                await ask(system).initiate()

    run(main, memory_network)
    assert len(read_by) == 1
    assert read_by[0] is not threading.main_thread()


def test_with_a_bad_file_nothing_is_established(
    run: Run, write: Write, memory_network: MemoryNetwork
) -> None:
    file = write("[prohibit]\nprotocol = []\n")

    async def main() -> None:
        system = taps.System([MemoryStream(memory_network)], policy_files=[file])
        for making in (
            lambda: ask(system).initiate(),
            lambda: taps.Preconnection(
                local="127.0.0.1:0", security=taps.SecurityParameters.disabled(), system=system
            ).listen(),
        ):
            with pytest.raises(taps.EstablishmentError, match=r"line 2: prohibit\.protocol") as it:
                await making()
            assert it.value.reason is taps.Reason.INVALID_CONFIGURATION
            assert isinstance(it.value.__cause__, taps.PolicyError)
        # Repaired, it is read by the next one.
        write("")
        async with taps.Preconnection(
            local="127.0.0.1:0", security=taps.SecurityParameters.disabled(), system=system
        ).listen() as listener:
            assert listener.local_endpoints

    run(main, memory_network)


# -- what Connections do


async def until_the_end(connection: taps.Connection[Any]) -> None:
    async for _ in connection:
        pass


async def serve(net: VirtualNetwork, policy: Any) -> None:
    net.path(latency=0.05)
    net.host("server.example", "2001:db8::1", "192.0.2.1")
    await net.serve(SERVER, until_the_end, framers="line")
    taps.System.current().policy = policy


def initiate(transport: dict[str, Any] | None = None) -> taps.Connection[Any]:
    return taps.Preconnection(remote=SERVER, framers="line", transport=transport).initiate()


@pytest.mark.parametrize(
    ("policy", "address"),
    [
        (None, "2001:db8::1"),
        ({"prefer": {"families": ["IPv4"]}}, "192.0.2.1"),
        ({"avoid": {"families": ["IPv6"]}}, "192.0.2.1"),
        ({"prohibit": {"families": ["IPv6"]}}, "192.0.2.1"),
        (
            {"rule": [{"hosts": ["server.*"], "prefer": {"families": ["IPv4"]}}]},
            "192.0.2.1",
        ),
        (
            {"rule": [{"hosts": ["other.*"], "prefer": {"families": ["IPv4"]}}]},
            "2001:db8::1",
        ),
        (
            {"rule": [{"networks": ["2001:db8::/32"], "prohibit": {"families": ["IPv6"]}}]},
            "192.0.2.1",
        ),
    ],
)
def test_families_are_chosen_by_policy(virtual_run: VirtualRun, policy: Any, address: str) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net, policy)
        async with initiate() as connection:
            assert connection.remote_endpoint.ip_address == address
            assert len(connection.report) == 1

    virtual_run(scenario)


def test_an_explicit_preference_for_temporary_addresses_goes_before_policy(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net, {"prefer": {"families": ["IPv4"]}})
        async with initiate({"useTemporaryLocalAddress": "prefer"}) as connection:
            assert connection.remote_endpoint.ip_address == "2001:db8::1"

    virtual_run(scenario)


def test_a_prohibited_address_is_never_tried_and_the_error_says_why(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net, {"prohibit": {"families": ["IPv4", "IPv6"]}})
        connection = initiate()
        with pytest.raises(taps.NoCandidates, match="system policy prohibits IPv6") as caught:
            await connection
        assert caught.value.reason is taps.Reason.POLICY_PROHIBITED
        assert not connection.report.attempts

    virtual_run(scenario)


@pytest.mark.parametrize(
    ("racing", "ready"),
    [({}, 0.35), ({"delay": 0.5}, 0.6), ({"min_delay": 1.0}, 1.1), ({"max_delay": 0.1}, 0.2)],
)
def test_policy_bounds_the_delay(
    virtual_run: VirtualRun, racing: dict[str, float], ready: float
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await serve(net, {"racing": racing})
        net.path("client", "2001:db8::1").blackhole()
        began = asyncio.get_running_loop().time()
        async with initiate():
            assert asyncio.get_running_loop().time() - began == pytest.approx(ready)

    virtual_run(scenario)
