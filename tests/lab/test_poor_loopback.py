"""Tests of TCP on loopback, unchanged, where loopback is long and loses packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taps_core.testing.kernel_network import inside
from tests.integration.test_groups_over_sockets import test_a_clone_waits_for_a_parent_that_connects
from tests.integration.test_parts_over_sockets import (
    test_the_end_of_a_bare_stream_is_the_end_of_its_message,
)
from tests.integration.test_tcp_end_to_end import (
    test_a_message_comes_back_whole,
    test_a_peer_that_speaks_first_loses_no_byte_through_a_race,
    test_a_plain_socket_peer_works_both_ways,
    test_final_half_closes_and_the_answer_still_comes,
)
from tests.lab.network import Host, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "test_a_clone_waits_for_a_parent_that_connects",
    "test_a_message_comes_back_whole",
    "test_a_peer_that_speaks_first_loses_no_byte_through_a_race",
    "test_a_plain_socket_peer_works_both_ways",
    "test_final_half_closes_and_the_answer_still_comes",
    "test_the_end_of_a_bare_stream_is_the_end_of_its_message",
]

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def poor_loopback() -> Iterator[None]:
    """All sockets are on a host of their own, uvloop's too."""
    host = Host("alone")
    # More, and once in some thousand runs nobody would be connected after the 10 seconds
    # that some of these tests allow: TCP asks four times in them.
    Way(host, "lo").set(latency=0.05, loss=0.05)
    with inside(host.descriptor):
        yield
    host.close()


@pytest.fixture
def packets_are_lost() -> bool:
    return True
