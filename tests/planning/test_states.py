"""The order that RFC 9622, section 11 promises is a fact of the tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.properties import ConnectionState
from taps_core.planning.states import (
    CONNECTION,
    LISTENER,
    TERMINAL,
    ConnectionEvent,
    IllegalTransition,
    ListenerEvent,
    ListenerState,
    advance,
    mermaid,
)

TABLES: list[tuple[Any, type, type]] = [
    (CONNECTION, ConnectionState, ConnectionEvent),
    (LISTENER, ListenerState, ListenerEvent),
]


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_each_state_has_a_row_and_each_event_a_place(
    table: Any, states: type, events: type
) -> None:
    assert set(table) == set(states)  # type: ignore[call-overload]  # an enum class iterates
    assert {event for row in table.values() for event in row} == set(events)  # type: ignore[call-overload]  # likewise


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_every_pair_moves_as_the_table_says_or_raises(table: Any, states: Any, events: Any) -> None:
    for state in states:
        for event in events:
            if event in table[state]:
                assert advance(state, event) is table[state][event]
            else:
                with pytest.raises(IllegalTransition) as caught:
                    advance(state, event)
                assert (caught.value.state, caught.value.event) == (state, event)
                assert str(caught.value) == f"{event.value} cannot happen in state {state.value}"


def test_an_event_of_the_other_table_is_illegal() -> None:
    with pytest.raises(IllegalTransition):
        advance(ConnectionState.ESTABLISHING, ListenerEvent.ESTABLISHMENT_ERROR)
    with pytest.raises(IllegalTransition):
        advance(ListenerState.OPENING, ConnectionEvent.ESTABLISHMENT_ERROR)


def _life(first: Any, events: list[Any]) -> tuple[list[Any], Any]:
    """Feed all events; what was legal happened."""
    happened, state = [], first
    for event in events:
        try:
            state = advance(state, event)
        except IllegalTransition:
            continue
        happened.append(event)
    return happened, state


@pytest.mark.requirement("G-9622-11-03")
@given(st.lists(st.sampled_from(ConnectionEvent)))
def test_nothing_follows_a_terminal_event_and_there_is_at_most_one(
    events: list[ConnectionEvent],
) -> None:
    happened, state = _life(ConnectionState.ESTABLISHING, events)
    ends = [event for event in happened if event in TERMINAL]
    assert len(ends) <= 1
    assert (state is ConnectionState.CLOSED) == bool(ends)
    if ends:
        assert happened[-1] is ends[0]


@pytest.mark.requirement("G-9622-11-02")
@given(st.lists(st.sampled_from(ConnectionEvent)))
def test_ready_comes_once_and_before_every_received_and_sent(
    events: list[ConnectionEvent],
) -> None:
    happened, _ = _life(ConnectionState.ESTABLISHING, events)
    assert happened.count(ConnectionEvent.READY) <= 1
    ready = ConnectionEvent.READY
    before = happened[: happened.index(ready)] if ready in happened else happened
    assert not {
        ConnectionEvent.RECEIVED,
        ConnectionEvent.RECEIVED_PARTIAL,
        ConnectionEvent.SENT,
    } & set(before)
    if ConnectionEvent.ESTABLISHMENT_ERROR in happened:
        assert ConnectionEvent.READY not in happened


@given(st.lists(st.sampled_from(ListenerEvent)))
def test_a_listener_ends_once_and_hands_out_connections_only_while_it_listens(
    events: list[ListenerEvent],
) -> None:
    happened, state = _life(ListenerState.OPENING, events)
    assert sum(event in TERMINAL for event in happened) == (state is ListenerState.STOPPED)
    if ListenerEvent.CONNECTION_RECEIVED in happened:
        assert ListenerEvent.OPENED in happened[: happened.index(ListenerEvent.CONNECTION_RECEIVED)]


def test_every_state_can_still_end() -> None:
    for table, _, _ in TABLES:
        for state, row in table.items():
            reached, frontier = {state}, [state]
            while frontier:
                for target in table[frontier.pop()].values():
                    if target not in reached:
                        reached.add(target)
                        frontier.append(target)
            assert any(not table[target] for target in reached), row


def test_the_figure_has_the_tables_edges_and_ends() -> None:
    figure = mermaid(LISTENER)
    assert figure == (
        "stateDiagram-v2\n"
        "    [*] --> Opening\n"
        "    Opening --> Listening: Opened\n"
        "    Opening --> Stopped: EstablishmentError, Stopped\n"
        "    Listening --> Listening: ConnectionReceived\n"
        "    Listening --> Stopped: Stopped\n"
        "    Stopped --> [*]\n"
    )
    assert "Establishing --> Closed: EstablishmentError\n" in mermaid(CONNECTION)
