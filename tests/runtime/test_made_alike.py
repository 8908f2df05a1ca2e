"""Connections that are made alike share what was found out for the first one, and nothing else."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Availability
from taps_core.testing import MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    from tests.runtime.conftest import Run


async def echo(connection: taps.Connection[Any]) -> None:
    await connection.send((await connection.receive_exactly(5)).data)
    with pytest.raises(taps.EndOfData):
        await connection.receive_exactly(1)


async def exchanged(preconnection: taps.Preconnection) -> taps.Connection[Any]:
    async with preconnection.initiate() as connection:
        await connection.send(b"hello")
        assert (await connection.receive_exactly(5)).data == b"hello"
    return connection


def test_policy_that_comes_later_holds_for_the_next_connection(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(echo) as listener:
            for _ in range(3):
                await exchanged(here.to(listener))
            here.system.policy = {"rule": [{"prohibit": {"protocols": ["memory-stream"]}}]}
            with pytest.raises(taps.NoCandidates):
                await here.to(listener).initiate()
            here.system.policy = None
            await exchanged(here.to(listener))

    run(main)


def test_a_plugin_that_can_run_no_more_is_not_used_once_that_is_known(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Fickle(MemoryStream):
        there = True

        def availability(self) -> Availability:
            return (
                super().availability()
                if Fickle.there
                else Availability(available=False, reason="taken away")
            )

    async def main() -> None:
        here = world(Fickle(memory_network))
        async with here.listen(echo) as listener:
            for _ in range(3):
                await exchanged(here.to(listener))
            Fickle.there = False
            here.system.refresh()
            with pytest.raises(taps.NoCandidates, match="taken away"):
                await here.to(listener).initiate()

    run(main)


def test_what_is_set_on_one_is_not_set_on_the_next(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(echo) as listener, here.to(listener).initiate() as first:
            first.set_property("connPriority", 7)
            first.set_property("msgPriority", 9)
            transport = taps.TransportProperties(**here.properties)
            edited = here.to(listener, transport=transport)
            async with edited.initiate() as second:
                transport.set("connPriority", 3)
                edited.transport.set("connPriority", 4)
                assert second.properties["connPriority"] == 100
                assert second.properties["msgPriority"] == 100
            async with edited.initiate() as third:
                assert third.properties["connPriority"] == 4

    run(main)


@pytest.mark.parametrize(
    "private",
    [
        {"pre_shared_key": (b"0123456789abcdef", "me")},
        {"client_certificate": taps.Certificate("chain.pem", "key.pem", "secret")},
        {"server_certificate": taps.Certificate("chain.pem", "key.pem", "secret")},
    ],
)
def test_secrets_and_callbacks_are_kept_by_nobody(private: dict[str, Any]) -> None:
    assert taps.SecurityParameters(**private).key is None
    asked = taps.SecurityParameters().set_trust_verification_callback(lambda *_: True)
    assert asked.key is None
    asked = taps.SecurityParameters().set_identity_challenge_callback(lambda *_: None)
    assert asked.key is None


def test_other_security_is_another_kind() -> None:
    kinds = [
        taps.SecurityParameters(),
        taps.SecurityParameters.disabled(),
        taps.SecurityParameters.opportunistic(),
        taps.SecurityParameters(alpn=("h2",)),
        taps.SecurityParameters(trusted_certificates="ca.pem"),
    ]
    assert len({each.key for each in kinds}) == len(kinds)
    assert all(each.copy().key == each.key for each in kinds)


def test_a_closed_connection_is_gone_with_the_last_reference_to_it(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(echo) as listener:
            gc.disable()
            try:
                known = weakref.ref(await exchanged(here.to(listener)))
                assert known() is None
            finally:
                gc.enable()

    run(main)
