"""Answers as they come, at exact times of a virtual clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError
from taps_core.planning.answers import Answer, Question
from taps_core.planning.derivation import Derivation, Plan
from taps_core.planning.service_records import Binding, SrvRecord
from taps_core.runtime.look_up import LookUp

if TYPE_CHECKING:
    from taps_core.testing import VirtualNetwork
    from taps_core.testing.fixtures import VirtualRun

WWW = "www.example."
SIX, FOUR = "2001:db8::1", "192.0.2.1"
NOTHING = Answer(problem="no record", detail="no-address")

Says = dict[tuple[str, str], tuple[float, Any]]


class Servers:
    """Who is asked: (name, type) → seconds until the answer comes, and its records."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.running = 0
        self.given_up: list[str] = []

    async def ask(self, question: Question, lifetime: float) -> Answer:
        after, records = self.says.get((question.name, question.rdtype), (0.0, ()))
        self.running += 1
        try:
            if after > lifetime:
                await asyncio.sleep(lifetime)
                return Answer(problem="no answer", detail="timeout", transient=True)
            await asyncio.sleep(after)
        except asyncio.CancelledError:
            self.given_up.append(str(question))
            raise
        finally:
            self.running -= 1
        return Answer(records=tuple(records)) if records else NOTHING

    def look_up(self, **plan: Any) -> LookUp[RemoteEndpoint]:
        plan = {"names": (WWW,), "port": 443, **plan}
        derivation = Derivation(
            RemoteEndpoint(hostname="www.example", port=443),
            Plan(**plan),
            ordered=list,
            chance=type("First", (), {"randint": staticmethod(lambda low, high: low)})(),
        )
        return LookUp(
            derivation, feed=lambda _, questions: [*questions], ask=self.ask, timeout=10.0
        )


async def timeline(look_up: LookUp[RemoteEndpoint]) -> list[tuple[float, list[str]]]:
    """When what came."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    came = []
    async for batch in look_up:
        came.append((round(loop.time() - began, 6), [str(it.ip_address) for it in batch]))
    await look_up.aclose()
    return came


@pytest.mark.parametrize(
    ("six", "four", "expected"),
    [
        ((0.010, [SIX]), (0.020, [FOUR]), [(0.010, [SIX]), (0.020, [FOUR])]),
        ((0.030, [SIX]), (0.020, [FOUR]), [(0.030, [SIX, FOUR])]),
        ((0.300, [SIX]), (0.020, [FOUR]), [(0.070, [FOUR]), (0.300, [SIX])]),
        ((0.030, []), (0.020, [FOUR]), [(0.030, [FOUR])]),
        ((0.010, []), (0.020, [FOUR]), [(0.020, [FOUR])]),
        ((0.010, [SIX]), (3.000, []), [(0.010, [SIX])]),
        ((99.00, [SIX]), (0.020, [FOUR]), [(0.070, [FOUR])]),
        ((0.020, [SIX]), (0.020, [FOUR]), [(0.020, [SIX, FOUR])]),
    ],
    ids=[
        "IPv6 first",
        "IPv6 a little late",
        "IPv6 late",
        "no IPv6, a little late",
        "no IPv6",
        "no IPv4, late",
        "IPv6 never",
        "together",
    ],
)
def test_addresses_go_out_when_they_should(
    six: Any, four: Any, expected: Any, virtual_run: VirtualRun
) -> None:
    async def scenario(_: VirtualNetwork) -> None:
        servers = Servers({(WWW, "AAAA"): six, (WWW, "A"): four})
        assert await timeline(servers.look_up()) == expected
        assert servers.running == 0

    virtual_run(scenario)


def test_targets_go_out_in_their_order_and_what_is_late_joins(virtual_run: VirtualRun) -> None:
    async def scenario(_: VirtualNetwork) -> None:
        servers = Servers(
            {
                (f"_x._tcp.{WWW}", "SRV"): (
                    0.100,
                    [SrvRecord(1, 0, 1, "a.example."), SrvRecord(2, 0, 2, "b.example.")],
                ),
                (WWW, "A"): (5.0, ["192.0.2.66"]),
                ("a.example.", "A"): (0.040, ["192.0.2.10"]),
                ("a.example.", "AAAA"): (0.200, ["2001:db8::a"]),
                ("b.example.", "A"): (0.010, ["192.0.2.11"]),
            }
        )
        look_up = servers.look_up(srv=(("_x._tcp", "tcp"),))
        assert await timeline(look_up) == [
            # b's was known at 0.110; for 50 ms something better could come.
            (0.160, ["192.0.2.10", "192.0.2.11"]),
            (0.300, ["2001:db8::a"]),
        ]
        assert servers.given_up == [f"{WWW} A"], "the name itself is not asked for any more"

    virtual_run(scenario)


def test_a_late_https_record_joins_with_its_host(virtual_run: VirtualRun) -> None:
    async def scenario(_: VirtualNetwork) -> None:
        servers = Servers(
            {
                (WWW, "AAAA"): (0.010, [SIX]),
                (WWW, "HTTPS"): (0.500, [Binding(1, "a.example.")]),
                ("a.example.", "AAAA"): (0.010, ["2001:db8::a"]),
            }
        )
        look_up = servers.look_up(binding=("", "HTTPS"), default_alpn=("http/1.1",))
        assert await timeline(look_up) == [(0.060, [SIX]), (0.510, ["2001:db8::a"])]

    virtual_run(scenario)


def test_all_of_it_waits_for_ipv4_but_not_for_much_more(virtual_run: VirtualRun) -> None:
    async def scenario(net: VirtualNetwork) -> None:
        loop = asyncio.get_running_loop()
        for six, four, found, at in (
            ((0.010, [SIX]), (3.0, [FOUR]), [SIX, FOUR], 3.0),
            ((9.0, [SIX]), (0.020, [FOUR]), [FOUR], 0.070),
            ((0.030, [SIX]), (0.020, [FOUR]), [SIX, FOUR], 0.030),
        ):
            servers = Servers({(WWW, "AAAA"): six, (WWW, "A"): four})
            began = loop.time()
            look_up = servers.look_up()
            assert [it.ip_address for it in await look_up.whole()] == found
            assert loop.time() - began == pytest.approx(at)
            await look_up.aclose()
            assert servers.running == 0

    virtual_run(scenario)


def test_time_is_up_for_all_names_together(virtual_run: VirtualRun) -> None:
    async def scenario(_: VirtualNetwork) -> None:
        loop = asyncio.get_running_loop()
        first = "www.corp.example."
        servers = Servers(
            {
                (first, "AAAA"): (4.0, []),
                (first, "A"): (6.0, []),
                (WWW, "AAAA"): (99.0, []),
                (WWW, "A"): (99.0, []),
            }
        )
        began = loop.time()
        look_up = servers.look_up(names=(first, WWW))
        with pytest.raises(EstablishmentError) as caught:
            await anext(look_up)
        assert loop.time() - began == pytest.approx(10.0)
        assert caught.value.detail == "timeout"
        await look_up.aclose()

    virtual_run(scenario)


def test_closing_it_at_any_time_leaves_nothing(virtual_run: VirtualRun) -> None:
    async def scenario(_: VirtualNetwork) -> None:
        for turns in range(12):
            servers = Servers(
                {
                    (f"_x._tcp.{WWW}", "SRV"): (0.0, [SrvRecord(1, 0, 1, "a.example.")]),
                    (WWW, "A"): (5.0, [FOUR]),
                    ("a.example.", "A"): (9.0, [FOUR]),
                }
            )
            look_up = servers.look_up(srv=(("_x._tcp", "tcp"),))
            task = asyncio.ensure_future(anext(look_up))
            for _turn in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await look_up.aclose()
            assert servers.running == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_run(scenario)
