"""One outcome for each Send, awaited or as an event, and the end (sections 9.2.2, 10, 11)."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

import taps_core as taps
from taps_core.testing import MemoryMessages

# ------------------------------------------------------------------------- events of Sends


@pytest.mark.requirement("G-9622-9.2.2-01", "R-9623-5.1.2-01")
def test_every_send_has_one_event_in_order(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.refuse = lambda data: taps.SendError("no") if data == b"bad" else None
            await connection.send(b"1")
            connection.send_nowait(b"2")
            _ = connection.send(b"3")
            with pytest.raises(taps.SendError):
                await connection.send(b"bad")
            flow.up.writable(False)
            with pytest.raises(taps.Expired):
                await connection.send(b"late", lifetime=0.001)
            flow.up.writable(True)
            context = taps.MessageContext()
            for end in (False, False, True):
                await connection.send(b"part", context, end_of_message=end)
            await turns()
            assert events.names == ["Sent"] * 3 + ["SendError", "Expired"] + ["Sent"] * 3

    run(main)


def test_an_outcome_is_both_awaited_and_told(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.refuse = lambda data: taps.SendError("no")
            with pytest.raises(taps.SendError) as caught:
                await connection.send(b"x", priority=9)
            await turns()
            assert events.events == [caught.value]
            assert caught.value.context is not None
            assert caught.value.context.get("priority") == 9

    run(main)


def test_send_nowait_raises_only_what_is_refused_at_once(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.refuse = lambda data: taps.SendError("no") if data == b"bad" else None
            with pytest.raises(taps.SendError, match="no"):
                connection.send_nowait(b"bad")
            flow.up.writable(False)
            connection.send_nowait(b"bad")
            flow.up.writable(True)
            await turns()
            assert events.names == ["SendError", "SendError"]

    run(main)


def test_a_fate_that_the_stack_tells_later_is_the_outcome(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.later = lambda record: True
            sends = [asyncio.create_task(connection.send(b"%d" % n)) for n in range(3)]
            await turns()
            assert flow.data == [b"0", b"1", b"2"]
            assert not any(send.done() for send in sends)
            records = [record for _, record, _ in flow.sent]
            flow.up.outcome(records[1], taps.Expired("given up"))
            flow.up.outcome(records[0], None)
            flow.up.outcome(records[2], None)
            await sends[0]
            with pytest.raises(taps.Expired):
                await sends[1]
            await sends[2]
            await turns()
            assert events.names == ["Expired", "Sent", "Sent"]
            assert events.events[0].context is records[1].context

    run(main)


@pytest.mark.requirement("G-9622-9.2.2-01")
def test_sent_and_expired_make_all_sends_where_messages_may_be_given_up(
    run: Any, pair: Any, memory_network: Any, log: Any, turns: Any
) -> None:
    lose = iter([False, True] * 1000)
    transport = MemoryMessages(memory_network, lose=lambda data: next(lose))

    async def main() -> None:
        async with pair(transport, per_msg_reliability="require") as (client, server):
            events = log(client)
            outcomes = []
            for number in range(100):
                try:
                    await client.send(b"%d" % number, reliable=False)
                except taps.Expired:
                    outcomes.append("Expired")
                else:
                    outcomes.append("Sent")
            await turns()
            assert outcomes == ["Sent", "Expired"] * 50
            assert sorted(events.names) == sorted(outcomes)
            received = [(await server.receive()).data for _ in range(50)]
            assert received == [b"%d" % number for number in range(0, 100, 2)]

    run(main, memory_network)


# --------------------------------------------------------------------- when nobody handles


def test_an_outcome_that_nobody_handles_is_logged_once(
    run: Any, play: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            connection.send_nowait(b"1")
            _ = connection.send(b"2")
            gc.collect()
        async with play.connection() as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no")
            _ = connection.send(b"3")
            _ = connection.send(b"4")
            gc.collect()

    with caplog.at_level(logging.WARNING, "taps_core"):
        run(main)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "aborted on this side" in caplog.text
    assert "no" in caplog.text


@pytest.mark.parametrize("handled", ["awaited", "event", "caught"])
def test_an_outcome_that_somebody_handles_is_not_logged(
    run: Any, play: Any, caplog: pytest.LogCaptureFixture, handled: str
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no")
            if handled == "awaited":
                outcome = connection.send(b"x")
                with pytest.raises(taps.SendError):
                    await outcome
            elif handled == "event":
                connection.on(taps.SendError, lambda event: None)
                _ = connection.send(b"x")
            else:
                with pytest.raises(taps.SendError):
                    connection.send_nowait(b"x")
            gc.collect()

    with caplog.at_level(logging.WARNING, "taps_core"):
        run(main)
    assert caplog.records == []


def test_what_was_sent_and_not_awaited_is_nothing_to_log(
    run: Any, play: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            _ = connection.send(b"x")
            flow.up.writable(True)
            gc.collect()

    with caplog.at_level(logging.WARNING, "taps_core"):
        run(main)
    assert caplog.records == []


# ---------------------------------------------------------------------- when the end comes


@pytest.mark.parametrize("end", ["abort", "error", "closed"])
def test_sends_that_wait_end_with_the_connection(
    run: Any, play: Any, log: Any, turns: Any, end: str
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.later = lambda record: True
            outstanding = asyncio.create_task(connection.send(b"outstanding", priority=1))
            await turns()
            flow.up.writable(False)
            waiting = [asyncio.create_task(connection.send(b"x", priority=n)) for n in (3, 2)]
            await turns()
            if end == "abort":
                connection.abort()
            else:
                flow.end(taps.ConnectionError("broken") if end == "error" else None)
            errors = []
            for send in (outstanding, *waiting):
                with pytest.raises(taps.ConnectionError) as caught:
                    await send
                assert isinstance(caught.value, taps.SendError)
                errors.append(caught.value)
            contexts = [error.context or taps.MessageContext() for error in errors]
            assert [context.get("priority") for context in contexts] == [1, 3, 2]
            assert len({id(error) for error in errors}) == 3
            await turns()
            assert events.names == ["SendError"] * 3 + ["ConnectionError"]
            assert [event.context.get("priority") for event in events.events[:3]] == [2, 3, 1]

    run(main)


@pytest.mark.requirement("G-9622-9.2.2-01")
def test_sends_of_a_connection_that_is_never_ready_end_before_it(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        connection, _ = play.initiate()
        events = log(connection)
        sends = [asyncio.create_task(connection.send(b"x")) for _ in range(2)]
        receive = asyncio.create_task(connection.receive())
        await turns()
        connection.abort()
        for send in sends:
            with pytest.raises(taps.SendError):
                await send
        with pytest.raises(taps.EstablishmentError):
            await receive
        await turns()
        assert events.names == ["SendError", "SendError", "ReceiveError", "EstablishmentError"]

    run(main)


def test_a_send_after_the_end_raises_at_once(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.end(taps.ConnectionError("broken", reason=taps.Reason.TIMEOUT))
            with pytest.raises(taps.ConnectionError, match="broken") as caught:
                connection.send(b"x")
            assert caught.value.reason is taps.Reason.TIMEOUT
            with pytest.raises(taps.ConnectionError):
                connection.send_nowait(b"x")
            with pytest.raises(taps.ConnectionError):
                connection.finish()
            await turns()
            assert events.names == ["ConnectionError"]

    run(main)


def test_a_send_while_closing_is_a_send_error(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            closing = connection.close()
            with pytest.raises(taps.SendError, match="closing") as caught:
                await connection.send(b"x")
            assert caught.value.reason is taps.Reason.CONNECTION_CLOSED
            await connection.finish()
            flow.end()
            await closing

    run(main)


# ----------------------------------------------------------------------------------- close


@pytest.mark.requirement("G-9622-10-01")
def test_close_delivers_what_waits_and_then_closes_once(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            sends = [connection.send(b"%d" % number) for number in range(3)]
            closing = asyncio.ensure_future(connection.close())
            await turns()
            assert flow.calls == []
            flow.up.writable(True)
            for send in sends:
                await send
            assert flow.data == [b"0", b"1", b"2"]
            assert flow.flushed == [[b"0", b"1", b"2"]]
            assert flow.calls == ["close"]
            assert not closing.done()
            flow.end()
            await closing
            await connection.close()

    run(main)


def test_close_lets_a_batch_leave(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with connection.batch():
                await connection.send(b"gathered")
                _ = connection.close()
                assert flow.flushed == [[b"gathered"]]
                assert flow.calls == ["close"]

    run(main)


def test_close_before_ready_delivers_what_was_sent_before_it(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        queued = connection.send(b"queued")
        closing = asyncio.ensure_future(connection.close())
        with pytest.raises(taps.SendError, match="closing"):
            await connection.send(b"too late")
        transport.go.set()
        await connection
        await queued
        flow = transport.flows[0]
        assert flow.data == [b"queued"]
        assert flow.calls == ["close"]
        flow.end()
        await closing

    run(main)


@pytest.mark.parametrize("how", ["expires", "is withdrawn", "is given up by the stack"])
def test_close_goes_on_when_what_it_waited_for_is_no_more(
    run: Any, play: Any, turns: Any, how: str
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            lifetime = 0.001 if how == "expires" else 1000
            send = asyncio.create_task(connection.send(b"x", lifetime=lifetime))
            await turns()
            closing = asyncio.ensure_future(connection.close())
            if how == "is withdrawn":
                send.cancel()
            elif how == "is given up by the stack":
                flow.refuse = lambda data: taps.SendError("no")
                flow.up.writable(True)
            await asyncio.gather(send, return_exceptions=True)
            assert flow.calls == ["close"]
            flow.end()
            await closing

    run(main)


def test_close_that_loses_something_raises(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            closing = connection.close()
            flow.end(taps.ConnectionError("not acknowledged", reason=taps.Reason.TIMEOUT))
            with pytest.raises(taps.ConnectionError, match="not acknowledged"):
                await closing

    run(main)


def test_whatever_a_plugin_calls_it_the_end_is_a_connection_error(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        for error in (OSError("unplugged"), taps.PluginError("unplugged"), taps.SendError("un")):
            async with play.connection() as (connection, flow):
                events = log(connection)
                flow.end(error)
                await turns()
                assert events.names == ["ConnectionError"]
                with pytest.raises(taps.ConnectionError, match="un") as caught:
                    await connection.receive()
                assert caught.value.__cause__ is error

    run(main)


@pytest.mark.requirement("G-9622-10-02")
def test_abort_drops_what_waits_and_ends_at_once(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            connection.send_nowait(b"x")
            connection.abort()
            assert connection.state is taps.ConnectionState.CLOSED
            assert flow.calls == ["abort"]
            assert flow.data == []
            connection.abort()
            await connection.close()
            await turns()
            assert events.names == ["SendError", "ConnectionError"]
            assert events.events[-1].reason is taps.Reason.LOCAL_ABORT
            assert flow.calls == ["abort"]

    run(main)


def test_leaving_the_block_closes_and_an_exception_aborts(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        transport.go.set()
        with pytest.raises(ZeroDivisionError):
            async with connection:
                raise ZeroDivisionError
        assert transport.flows[0].calls == ["abort"]
        connection, transport = play.initiate()
        transport.go.set()
        async with connection:
            asyncio.get_running_loop().call_later(0.001, transport.flows[0].end)
        assert transport.flows[0].calls == ["close"]

    run(main)


def test_an_undelivered_message_makes_leaving_the_block_an_error(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        transport.go.set()
        with pytest.raises(taps.ConnectionError, match="not everything was delivered"):
            async with connection:
                connection.close_timeout = 0.001
                connection.on(taps.SendError, lambda event: None)
                transport.flows[0].up.writable(False)
                connection.send_nowait(b"never")
        assert transport.flows[0].calls == ["abort"]

    run(main)


@pytest.mark.parametrize("known", [None, 0, 7])
def test_leaving_the_block_is_an_error_unless_everything_is_known_to_be_delivered(
    run: Any, play: Any, known: int | None
) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        transport.go.set()
        await connection
        connection.close_timeout = 0.001
        transport.flows[0].values["_taps.undelivered"] = known
        transport.flows[0].close = lambda: None  # the peer never answers
        if known == 0:
            async with connection:
                pass
        else:
            with pytest.raises(taps.ConnectionError, match="as far as is known"):
                async with connection:
                    pass
        assert connection.state is taps.ConnectionState.CLOSED

    run(main)


def test_a_failure_nobody_awaited_is_not_reported_as_long_as_somebody_may(
    run: Any, play: Any, turns: Any
) -> None:
    class Unreachable(taps.EstablishmentError):
        pass

    def refuse(flow: Any) -> None:
        raise Unreachable("no way")

    async def main() -> None:
        connection, transport = play.initiate()
        transport.prepare = refuse
        transport.go.set()
        while connection.state is taps.ConnectionState.ESTABLISHING:
            await turns(1)
        gc.collect()
        for _ in range(2):
            with pytest.raises(taps.EstablishmentError, match="no way"):
                await connection

    run(main)


def test_a_failure_that_nobody_ever_awaits_reaches_the_exception_handler(
    run: Any, play: Any, turns: Any
) -> None:
    def refuse(flow: Any) -> None:
        raise taps.EstablishmentError("no way")

    async def main() -> None:
        reported: list[Any] = []
        loop = asyncio.get_running_loop()
        usual = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        connection, transport = play.initiate()
        transport.prepare = refuse
        transport.go.set()
        while connection.state is taps.ConnectionState.ESTABLISHING:
            await turns(1)
        assert reported == []
        del connection
        gc.collect()
        loop.set_exception_handler(usual)
        assert "no way" in str(reported[0]["exception"])

    run(main)
