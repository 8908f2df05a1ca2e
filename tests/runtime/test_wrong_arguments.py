"""What cannot be an argument is told by its name, at once, and breaks nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.testing import MemoryStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.testing import MemoryNetwork
    from taps_core.testing.fixtures import Run

WRONG = (TypeError, ValueError)


@pytest.mark.parametrize("timeout", ["1", [], b"1", math.nan, -1])
@pytest.mark.parametrize("verb", ["initiate", "initiate_with_send", "rendezvous"])
def test_establishment_takes_seconds(
    run: Run, world: Any, memory_network: MemoryNetwork, verb: str, timeout: Any
) -> None:
    """One that could not be used ended the task, and the Connection waited for ever."""

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        preconnection = here.preconnection(local="127.0.0.1:1", remote="127.0.0.1:2")
        data = (b"x",) if verb == "initiate_with_send" else ()
        with pytest.raises(WRONG, match="timeout"):
            getattr(preconnection, verb)(*data, timeout=timeout)

    run(main)


CALLS: dict[str, Callable[[taps.Connection[Any], Any], Any]] = {
    "separator": lambda connection, wrong: connection.receive_until(wrong),
    "length": lambda connection, wrong: connection.receive_exactly(wrong),
    "max_length": lambda connection, wrong: connection.receive(max_length=wrong),
    "min_incomplete_length": lambda connection, wrong: connection.receive(
        min_incomplete_length=wrong
    ),
    "context": lambda connection, wrong: connection.send(b"x", wrong),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("wrong", [3.5, "3", [], {}, object()])
def test_a_connection_lives_on_after_what_cannot_be(
    run: Run, pair: Any, name: str, wrong: Any
) -> None:
    """A separator that was none was noticed when data came, and ended the Connection."""

    async def main() -> None:
        async with pair() as (client, server):
            await server.send(b"question\n")
            with pytest.raises(WRONG):
                await CALLS[name](client, wrong)
            assert (await client.receive_until(b"\n")).data == b"question\n"
            await client.send(b"answer\n")
            assert (await server.receive_until(b"\n")).data == b"answer\n"

    run(main)


@pytest.mark.parametrize("length", [-1, 1.5, "1"])
def test_a_message_in_parts_is_so_many_bytes_long(run: Run, pair: Any, length: Any) -> None:
    async def main() -> None:
        async with pair() as (client, _):
            with pytest.raises(WRONG, match="length"):
                client.sending(length)

    run(main)


@pytest.mark.parametrize("wrong", ["1", [], -1, 1.5, math.nan])
def test_a_listener_takes_whole_numbers(
    run: Run, world: Any, memory_network: MemoryNetwork, wrong: Any
) -> None:
    async def main() -> None:
        preconnection = world(MemoryStream(memory_network)).preconnection(local="127.0.0.1:0")
        with pytest.raises(WRONG, match="max_connections"):
            preconnection.listen(max_connections=wrong)
        if wrong != 1.5:
            with pytest.raises(WRONG, match="grace"):
                preconnection.listen(grace=wrong)
        async with preconnection.listen() as listener:
            with pytest.raises(WRONG, match="limit"):
                listener.set_new_connection_limit(wrong)

    run(main)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("allow", "tcp"),
        ("block", "tcp"),
        ("block", None),
        ("policy_files", "/etc/taps.toml"),
        ("provisioning_domains", 3),
        ("provisioning_domains", {"home": 3}),
        ("close_timeout", "10"),
    ],
)
def test_a_system_says_what_cannot_be(name: str, wrong: Any) -> None:
    """Text was taken for its letters: ``allow="tcp"`` allowed the plugins t, c and p."""
    with pytest.raises(TypeError, match="Provisioning Domain" if "_d" in name else name):
        taps.System(**{name: wrong})


@pytest.mark.parametrize("wrong", [3, "memory", taps])
def test_a_preconnection_takes_a_system(wrong: Any) -> None:
    with pytest.raises(TypeError, match="system"):
        taps.Preconnection(system=wrong)


def test_what_is_no_text_is_no_endpoint() -> None:
    for wrong in (None, 3, b"localhost:1", []):
        with pytest.raises(TypeError, match="text"):
            taps.RemoteEndpoint.parse(wrong)  # type: ignore[arg-type]  # the point of it
    with pytest.raises(taps.PropertyError, match="identifiers"):
        taps.LocalEndpoint(identifiers=3)  # type: ignore[arg-type]  # the point of it


def test_contexts_are_asked_for_one_thing() -> None:
    with pytest.raises(TypeError, match="framer, key"):
        taps.MessageContext().get("a", "b", "c")
