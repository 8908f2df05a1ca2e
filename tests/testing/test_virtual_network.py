"""Hosts, names and servers of a virtual network, and how scenarios are run on it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing import (
    DeadlockError,
    LeakError,
    VirtualNetwork,
    VirtualStream,
    run,
)

if TYPE_CHECKING:
    from taps_core.testing.fixtures import VirtualRun

SERVER = "server.example:7000"


def now() -> float:
    return asyncio.get_running_loop().time()


async def echo(connection: taps.Connection[bytes]) -> None:
    async for message in connection:
        await connection.send(message.data)


async def ask(remote: str, data: bytes = b"hello") -> bytes:
    """An application that knows nothing of tests: secure by default, the System of the context."""
    async with taps.Preconnection(remote=remote, framers="line").initiate() as connection:
        await connection.send(data)
        answer: bytes = (await connection.receive()).data
        return answer


# -- hosts


def test_the_same_name_is_the_same_host_and_gets_further_addresses() -> None:
    net = VirtualNetwork()
    host = net.host("Server.Example.", "192.0.2.1")
    assert net.host("server.example", "2001:DB8:0::1") is host
    assert host.addresses == ["192.0.2.1", "2001:db8::1"]
    assert net.host_at("2001:db8::1") is host
    assert net.hosts == (net.client, host)


def test_a_host_without_addresses_gets_one_of_each_family_that_is_free() -> None:
    net = VirtualNetwork()
    taken = net.host("one.example", "198.51.100.2")
    other = net.host("two.example")
    assert net.client.addresses == ["198.51.100.1", "2001:db8:51::1"]
    assert taken.addresses == ["198.51.100.2"]
    assert other.addresses == ["198.51.100.3", "2001:db8:51::3"]


def test_an_address_belongs_to_one_host() -> None:
    net = VirtualNetwork()
    net.host("one.example", "192.0.2.1")
    with pytest.raises(ValueError, match=r"192\.0\.2\.1 is an address of one\.example"):
        net.host("two.example", "192.0.2.1")
    assert net.record("two.example") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::", "no address"])
def test_what_is_no_address_that_others_can_reach_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        VirtualNetwork().host("one.example", address)


def test_a_host_cannot_be_called_by_an_address_or_by_an_alias() -> None:
    net = VirtualNetwork()
    net.name("www.example", "192.0.2.1")
    for name in ("192.0.2.1", "www.example"):
        with pytest.raises(ValueError, match="no name for a host"):
            net.host(name)


def test_a_path_of_a_host_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no host 'sever\.example'"):
        VirtualNetwork().path("client", "sever.example")


def test_local_addresses_are_those_of_the_host(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        server = net.host("server.example", "192.0.2.1")
        with pytest.raises(taps.EstablishmentError, match=r"not an address of the host server"):
            await server.listen("192.0.2.9:7000")
        await net.serve("192.0.2.1:7000", echo, framers="line")
        there = taps.Preconnection(remote="192.0.2.1:7000", local="192.0.2.9:0")
        with pytest.raises(taps.EstablishmentError, match=r"not an address of the host client"):
            await there.initiate()

    virtual_run(scenario)


def test_loopback_stays_on_the_host_and_costs_nothing(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=1.0)
        await net.client.listen("localhost:7000", echo, framers="line")
        server = net.host("server.example")
        assert await ask("localhost:7000") == b"hello"
        assert now() == 0.0
        with pytest.raises(taps.EstablishmentError, match="refused"):
            await server.run(ask("localhost:7000"))
        assert net.counts.sent == 0
        await net.client.system.close()

    with pytest.raises(ResourceWarning, match="never stopped"):
        virtual_run(scenario)


# -- names


def test_names_resolve_to_all_addresses_and_aliases_too(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.host("server.example", "2001:db8::1", "192.0.2.1", aliases=["www.example"])
        net.name("both.example", "server.example", "203.0.113.5")
        for name, addresses in (
            ("server.example", ["2001:db8::1", "192.0.2.1"]),
            ("WWW.example.", ["2001:db8::1", "192.0.2.1"]),
            ("both.example", ["2001:db8::1", "192.0.2.1", "203.0.113.5"]),
            ("localhost", ["::1", "127.0.0.1"]),
        ):
            _, found = await taps.Preconnection(remote=f"{name}:80").resolve()
            assert [endpoint.ip_address for endpoint in found] == addresses
        assert now() == 0.0

    virtual_run(scenario)


def test_resolving_may_take_time(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.name("server.example", net.host("server.example"), delay=1.5)
        await taps.Preconnection(remote="server.example:80").resolve()
        assert now() == 1.5
        (entry,) = net.log
        assert (entry.event, entry.time, entry.source) == ("resolved", 1.5, "client")

    virtual_run(scenario)


@pytest.mark.parametrize(
    ("six", "addresses", "time"),
    [(0.03, ["2001:db8::1", "192.0.2.1"], 0.03), (9.0, ["192.0.2.1"], 0.06)],
)
def test_families_may_take_their_own_time(
    virtual_run: VirtualRun, six: float, addresses: list[str], time: float
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        server = net.host("server.example", "192.0.2.1", "2001:db8::1")
        net.name("server.example", server, delay={4: 0.01, 6: six})
        _, found = await taps.Preconnection(remote="server.example:80").resolve()
        assert [endpoint.ip_address for endpoint in found] == addresses
        assert now() == pytest.approx(time)

    virtual_run(scenario)


@pytest.mark.parametrize(
    ("fails", "transient"),
    [("no-such-name", False), ("no-address", False), ("server-failure", True), ("timeout", True)],
)
def test_resolving_may_fail(virtual_run: VirtualRun, fails: Any, transient: bool) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.name("server.example", delay=5.0, fails=fails)
        with pytest.raises(taps.EstablishmentError) as caught:
            await taps.Preconnection(remote="server.example:80").initiate()
        assert caught.value.reason is taps.Reason.RESOLUTION_FAILED
        assert caught.value.detail == fails
        assert caught.value.transient is transient
        assert now() == 5.0
        assert net.log[-1].event == "unresolved"

    virtual_run(scenario)


def test_a_name_that_nobody_gave_does_not_exist(virtual_run: VirtualRun) -> None:
    async def scenario() -> None:
        with pytest.raises(taps.EstablishmentError, match=r"sever\.example.*no such name"):
            await taps.Preconnection(remote="sever.example:80").initiate()

    virtual_run(scenario)


def test_a_name_without_targets_has_no_address(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.name("empty.example")
        with pytest.raises(taps.EstablishmentError, match="no address"):
            await taps.Preconnection(remote="empty.example:80").initiate()

    virtual_run(scenario)


def test_a_name_may_change_its_meaning(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve("blue.example:7000", echo, framers="line")
        await net.serve("green.example:7000", echo, framers="line")
        for host in ("blue.example", "green.example"):
            net.name("www.example", host)
            net.log.clear()
            await ask("www.example:7000")
            assert f"[{net.host(host).addresses[1]}]:7000" in {entry.target for entry in net.log}

    virtual_run(scenario)


# -- applications on hosts


def test_an_unedited_application_runs_by_its_context(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        await net.serve(SERVER, echo, framers="line")
        assert await ask(SERVER) == b"hello"
        # Ready after one round trip, the answer after another, closed after a third.
        assert now() == pytest.approx(0.3, abs=1e-9)

    virtual_run(scenario)


def test_a_system_can_be_an_argument_too(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, echo, framers="line")
        here = net.host("elsewhere.example")
        there = taps.Preconnection(remote=SERVER, framers="line", system=here.system)
        async with there.initiate() as connection:
            assert str(connection.stack) == "line/VIRTUAL-STREAM"
            assert connection.local_endpoint.ip_address in here.addresses
            await connection.send(b"x")
            assert (await connection.receive()).data == b"x"

    virtual_run(scenario)


def test_two_applications_run_on_two_hosts_and_handlers_on_their_own(
    virtual_run: VirtualRun,
) -> None:
    async def relay(connection: taps.Connection[bytes]) -> None:
        async for message in connection:
            await connection.send(await ask("behind.example:7000", message.data))

    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.1)
        await net.serve("behind.example:7000", echo, framers="line")
        await net.serve("relay.example:7000", relay, framers="line")
        # The client does not reach what the relay reaches.
        net.path("client", "behind.example").down()
        other = net.host("other.example")
        answers = await asyncio.gather(
            ask("relay.example:7000", b"one"), other.run(ask("relay.example:7000", b"two"))
        )
        assert answers == [b"one", b"two"]
        with pytest.raises(taps.EstablishmentError, match="no route"):
            await ask("behind.example:7000")

    virtual_run(scenario)


def test_with_use_everything_inside_is_on_that_host(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, echo, framers="line")
        other = net.host("other.example")
        with other.use() as host:
            assert host is other
            task = asyncio.create_task(ask(SERVER))
        await task
        assert {entry.source for entry in net.log.named("resolved")} == {
            "server.example",
            "other.example",
        }

    virtual_run(scenario)


def test_security_that_is_named_is_there_and_security_that_is_disabled_too(
    virtual_run: VirtualRun,
) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, echo, framers="line", security=taps.SecurityParameters.disabled())
        for security in (
            None,
            taps.SecurityParameters(allowed_security_protocols=["TLSv1.3"]),
            taps.SecurityParameters.opportunistic(),
            taps.SecurityParameters.disabled(),
        ):
            there = taps.Preconnection(remote=SERVER, framers="line", security=security)
            async with there.initiate() as connection:
                await connection.send(b"x")

    virtual_run(scenario)


def test_unreliable_datagrams_are_there_for_those_who_ask(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        datagrams = taps.TransportProperties().unreliable_datagram()
        await net.serve(SERVER, echo, transport=datagrams)
        there = taps.Preconnection(remote=SERVER, transport=datagrams)
        async with there.initiate() as connection:
            assert str(connection.stack) == "VIRTUAL-DATAGRAM"
            await connection.send(b"x")
            assert (await connection.receive()).data == b"x"

    virtual_run(scenario)


def test_hosts_can_have_other_transports() -> None:
    net = VirtualNetwork(transports=[lambda host: VirtualStream(host, window=1000)])

    async def scenario() -> None:
        net.path(latency=0.5)
        await net.serve(SERVER, echo, framers="line")
        assert await ask(SERVER, bytes(2000)) == bytes(2000)
        # A round trip to connect, two to fill the window anew and half a one, the same
        # for the answer, and one to close.
        assert now() == 1 + 2.5 + 2.5 + 1

    run(scenario, network=net)


# -- servers


def test_a_server_can_be_stopped_before_the_end(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        server = await net.serve(SERVER, echo, framers="line")
        assert [str(endpoint) for endpoint in server.local_endpoints] == [
            "198.51.100.2:7000",
            "[2001:db8:51::2]:7000",
        ]
        await ask(SERVER)
        server.stop()
        await server.stopped()
        assert net.open_listeners == 0
        with pytest.raises(taps.EstablishmentError, match="refused"):
            await ask(SERVER)

    virtual_run(scenario)


def test_a_server_without_a_handler_is_a_listener(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        server = await net.serve(SERVER, framers="line")
        asking = asyncio.create_task(ask(SERVER))
        async with await server.accept() as connection:
            await connection.send((await connection.receive()).data)
            await asking

    virtual_run(scenario)


def test_a_server_needs_a_host() -> None:
    net = VirtualNetwork()
    for local in (":7000", "203.0.113.1:7000"):
        with pytest.raises(ValueError, match="which host serves"):
            net.serve(local, echo)


def test_a_server_may_have_an_alias_of_its_host(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.host("server.example", aliases=["www.example"])
        await net.serve("www.example:7000", echo, framers="line")
        assert await ask(SERVER) == b"hello"
        assert len(net.hosts) == 2

    virtual_run(scenario)


def test_handlers_have_their_grace_at_the_end(virtual_run: VirtualRun) -> None:
    ended: list[float] = []

    async def slow(connection: taps.Connection[bytes]) -> None:
        await connection.receive()
        await asyncio.sleep(3)
        ended.append(now())

    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, slow, framers="line")
        async with taps.Preconnection(remote=SERVER, framers="line").initiate() as connection:
            await connection.send(b"x")

    virtual_run(scenario)
    assert ended == [3.0]


# -- running strictly


def test_the_result_is_returned_and_the_network_is_optional() -> None:
    async def with_network(net: VirtualNetwork) -> int | str:
        return net.seed

    async def without(answer: str = "default") -> tuple[str, float]:
        await asyncio.sleep(3)
        return answer, now()

    assert run(with_network, seed=42) == 42
    assert run(without, seed=42) == ("default", 3.0)
    assert run(without, loop="virtual") == ("default", 3.0)


def test_a_connection_that_is_left_open_fails() -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, echo, framers="line")
        await taps.Preconnection(remote=SERVER, framers="line").initiate()

    with pytest.raises(ResourceWarning, match="was left open"):
        run(scenario, seed=1)


def test_a_listener_of_ones_own_that_is_left_open_fails() -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.host("server.example").listen(SERVER, echo)

    with pytest.raises(ResourceWarning, match="never stopped"):
        run(scenario, seed=1)


def test_a_task_that_is_left_behind_fails() -> None:
    kept: list[Any] = []

    async def scenario() -> None:
        kept.append(asyncio.create_task(asyncio.sleep(10), name="the culprit"))

    with pytest.raises(LeakError, match="the culprit"):
        run(scenario, seed=1)


def test_a_failure_is_not_hidden_by_what_it_left_open() -> None:
    async def scenario(net: VirtualNetwork) -> None:
        await net.serve(SERVER, echo, framers="line")
        await taps.Preconnection(remote=SERVER, framers="line").initiate()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(scenario, seed=1)


def test_a_deadlock_of_a_scenario_names_where_it_waits() -> None:
    async def silent(connection: taps.Connection[bytes]) -> None:
        await connection.receive()

    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        await net.serve(SERVER, silent, framers="line")
        async with taps.Preconnection(remote=SERVER, framers="line").initiate() as connection:
            await connection.receive()

    with pytest.raises(DeadlockError, match=r"deadlock at 0\.15 s") as caught:
        run(scenario, seed=1)
    assert any("scenario (test_virtual_network.py" in line for line in caught.value.waiting)
    assert any("silent (test_virtual_network.py" in line for line in caught.value.waiting)


def test_a_scenario_that_never_ends_has_a_limit() -> None:
    async def scenario() -> None:
        while True:
            await asyncio.sleep(600)

    with pytest.raises(TimeoutError, match="not done after 86400 virtual seconds"):
        run(scenario, seed=1)
    with pytest.raises(TimeoutError, match="not done after 5 virtual seconds"):
        run(scenario, seed=1, timeout=5)


def test_without_a_timeout_there_is_no_limit() -> None:
    async def scenario() -> float:
        await asyncio.sleep(1e9)
        return now()

    assert run(scenario, seed=1, timeout=None) == 1e9


def test_a_network_outlives_its_loop(virtual_run: VirtualRun, virtual_network: Any) -> None:
    async def scenario(net: VirtualNetwork) -> float:
        net.path(latency=0.05, bandwidth=1000)
        await net.serve(SERVER, echo, framers="line")
        await ask(SERVER, bytes(1000))
        return now()

    assert virtual_run(scenario) == pytest.approx(0.1 + 2 * 1.051 + 0.1, abs=1e-9)
    assert run(scenario, network=virtual_network) == pytest.approx(2.302, abs=1e-9)


def test_a_network_can_be_used_on_any_loop() -> None:
    async def main() -> None:
        async with VirtualNetwork() as net:
            await net.serve(SERVER, echo, framers="line")
            assert await net.client.run(ask(SERVER)) == b"hello"

    run(main)


# -- the log


def test_the_log_keeps_the_last_entries() -> None:
    net = VirtualNetwork(log_limit=10)

    async def scenario() -> None:
        await net.serve(SERVER, echo, framers="line")
        await ask(SERVER)

    run(scenario, network=net)
    assert len(net.log) == 10
    assert net.log.dropped > 0
    assert net.log[-1].packet == "ack"
    assert [entry.time for entry in net.log[2:4]] == [0.0, 0.0]
    assert net.log.as_json().count("\n") == 10


def test_the_log_can_be_switched_off() -> None:
    net = VirtualNetwork(log_limit=0)

    async def scenario() -> None:
        await net.serve(SERVER, echo, framers="line")
        await ask(SERVER)

    run(scenario, network=net)
    assert len(net.log) == 0
    assert net.counts.sent > 0


def test_the_log_says_what_became_of_each_packet() -> None:
    async def scenario(net: VirtualNetwork) -> None:
        net.path(latency=0.05)
        await net.serve("192.0.2.1:7000" if net.host("s.example", "192.0.2.1") else "", echo)
        net.path("client", "s.example").there.set(loss=1)
        asyncio.get_running_loop().call_at(
            0.5,
            net.path("client", "s.example").set,
        )
        with pytest.raises(taps.EstablishmentTimeout):
            await taps.Preconnection(remote="192.0.2.1:7000").initiate(timeout=0.5)
        sent, lost = net.log
        assert sent.as_json() == {
            "time": 0.0,
            "event": "sent",
            "transport": "virtual-stream",
            "packet": "syn",
            "source": "198.51.100.1:49152",
            "target": "192.0.2.1:7000",
            "number": 0,
        }
        assert (lost.event, lost.packet, lost.detail) == ("lost", "syn", "chance")

    run(scenario, seed=1)


def test_changes_of_paths_are_in_the_log_also_before_the_loop_runs() -> None:
    net = VirtualNetwork()
    net.path("client").there.down()
    (entry,) = net.log
    assert entry.as_json() == {
        "time": 0.0,
        "event": "path",
        "target": "client → all",
        "detail": "down",
    }
    assert math.isinf(net.path().there.conditions.bandwidth)


# -- interfaces


def with_wifi(net: VirtualNetwork) -> None:
    net.client.interface("wlan0", "198.51.100.77", "2001:db8:51::77", type="wifi")


async def reached_by(**wanted: dict[str, str]) -> tuple[str, list[str]]:
    there = taps.Preconnection(remote="server.example:7", framers="line", transport=wanted)
    async with there.initiate() as connection:
        assert connection.local_endpoint is not None
        return str(connection.local_endpoint.ip_address), [
            f"{attempt.started:g} {attempt.what.rpartition(' ')[2]} {attempt.outcome}"
            for attempt in connection.report
        ]


def test_an_interface_is_chosen_by_name_and_type(virtual_run, virtual_network):
    virtual_network.host("server.example", "192.0.2.1")
    with_wifi(virtual_network)

    async def scenario(net):
        await net.serve("server.example:7", echo, framers="line")
        usual = net.client.addresses[0]
        assert (await reached_by())[0] == usual
        assert (await reached_by(interface={"wlan0": "require"}))[0] == "198.51.100.77"
        assert (await reached_by(interface={"wifi": "prefer"}))[0] == "198.51.100.77"
        assert (await reached_by(interface={"wired": "prohibit"}))[0] == "198.51.100.77"
        assert (await reached_by(interface={"wlan0": "avoid"}))[0] == usual
        with pytest.raises(taps.NoCandidates, match="interface cellular is required"):
            await reached_by(interface={"cellular": "require"})

    virtual_run(scenario)


@pytest.mark.requirement("R-9623-4.1.1.2-02")
def test_paths_are_raced_one_delay_apart(virtual_run, virtual_network):
    virtual_network.host("server.example", "192.0.2.1")
    with_wifi(virtual_network)
    virtual_network.path("198.51.100.77", "server.example").blackhole()

    async def scenario(net):
        await net.serve("server.example:7", echo, framers="line")
        address, attempts = await reached_by(interface={"wifi": "prefer"})
        assert address == net.client.addresses[0]
        assert attempts == ["0 wlan0 cancelled", "0.25 net0 ready"]

    virtual_run(scenario)


def test_an_interface_has_the_addresses_that_it_was_given_last(virtual_network):
    client = virtual_network.client
    client.interface("wlan0", "198.51.100.77", type="wifi")
    client.interface("wwan0", "198.51.100.77", "198.51.100.78", type="cellular")
    shown = {
        each.name: [address.address for address in each.addresses or ()]
        for each in client.system.paths.interfaces()
    }
    assert shown["wlan0"] == []
    assert shown["wwan0"] == ["198.51.100.77", "198.51.100.78"]
    with pytest.raises(ValueError, match="nothing"):
        client.interface("x0", type="nothing")
