"""Events: handlers and streams are told in order, from the loop, and the last event is the last."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

import taps_core as taps

# ------------------------------------------------------------------------------ handlers


def test_handlers_run_from_the_loop_and_in_order(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            seen: list[Any] = []
            connection.on(taps.Sent, lambda event: seen.append(event.context.get("priority")))
            connection.on(taps.PathChange, lambda event: seen.append(event.reason))
            await connection.send(b"x", priority=1)
            flow.up.notified(taps.PathChange("handover"))
            await connection.send(b"x", priority=2)
            assert seen == []
            await turns(1)
            assert seen == [1, "handover", 2]

    run(main)


@pytest.mark.requirement("G-9622-11-02")
def test_ready_comes_before_everything_else(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        events = log(connection)
        receiving = asyncio.create_task(connection.receive())
        await turns()
        transport.go.set()
        await connection
        transport.flows[0].receive(b"x")
        await receiving
        await turns()
        assert events.names == ["Ready", "Received"]
        connection.abort()

    run(main)


def test_a_handler_that_raises_is_reported_and_touches_nothing_else(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        reported: list[Any] = []
        loop = asyncio.get_running_loop()
        usual = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with play.connection() as (connection, _):
            seen: list[Any] = []

            def fail(event: Any) -> None:
                raise ZeroDivisionError

            def cancel(event: Any) -> None:
                raise asyncio.CancelledError

            for handler in (fail, cancel, seen.append):
                connection.on(taps.Sent, handler)
            await connection.send(b"1")
            await connection.send(b"2")
            await turns()
            assert len(seen) == 2
            kinds = [type(error) for error in reported]
            assert kinds == [ZeroDivisionError, asyncio.CancelledError] * 2
            assert connection.state is taps.ConnectionState.ESTABLISHED
        loop.set_exception_handler(usual)

    run(main)


class AsyncHandler:
    async def __call__(self, event: Any) -> None: ...


async def async_handler(event: Any, more: int = 0) -> None: ...


@pytest.mark.parametrize(
    "handler", [async_handler, AsyncHandler(), functools.partial(async_handler, more=1)]
)
def test_a_coroutine_function_is_no_handler(run: Any, play: Any, handler: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            with pytest.raises(TypeError, match="plain functions"):
                connection.on(taps.Sent, handler)

    run(main)


@pytest.mark.parametrize("event_type", [ConnectionError, "Ready", int, taps.Ready()])
def test_only_events_can_be_subscribed_to(run: Any, play: Any, event_type: Any) -> None:
    """The builtin ConnectionError is a likely mistake: it is another class."""

    async def main() -> None:
        async with play.connection() as (connection, _):
            with pytest.raises(TypeError, match="event class"):
                connection.on(event_type, print)
            with pytest.raises(TypeError, match="cannot be called"):
                connection.on(taps.Sent, None)

    run(main)


def test_a_handler_may_call_back_into_the_connection(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            seen: list[str] = []

            def on_sent(event: Any) -> None:
                seen.append("Sent")
                if len(flow.sent) < 5:
                    connection.send_nowait(b"more")
                else:
                    connection.abort()

            connection.on(taps.Sent, on_sent)
            connection.on(taps.ConnectionError, lambda event: seen.append("ConnectionError"))
            await connection.send(b"first")
            await turns(20)
            assert seen == ["Sent"] * 5 + ["ConnectionError"]

    run(main)


def test_handlers_that_send_for_ever_do_not_keep_the_loop(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):

            def again(event: Any) -> None:
                if len(flow.sent) < 1000:
                    connection.send_nowait(b"again")

            connection.on(taps.Sent, again)
            connection.send_nowait(b"first")
            with ticks:
                while len(flow.sent) < 1000:
                    await asyncio.sleep(0)
            assert ticks.count >= 100

    run(main)


def test_handlers_that_come_and_go_are_asked_each_time(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"unseen")
            seen: list[Any] = []
            connection.on(taps.Sent, seen.append)
            await connection.send(b"seen")
            await turns()
            assert len(seen) == 1
            assert [record is None for _, record, _ in flow.sent] == [True, False]

    run(main)


# --------------------------------------------------------------------------- the last one


@pytest.mark.requirement("G-9622-11-03")
@pytest.mark.parametrize("end", ["close", "peer close", "abort", "reset"])
def test_the_terminal_event_comes_last_and_once(
    run: Any, play: Any, log: Any, turns: Any, end: str
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            stream = connection.events()
            flow.up.writable(False)
            connection.send_nowait(b"never", lifetime=1000)
            receiving = [asyncio.create_task(connection.receive()) for _ in range(3)]
            await turns()
            flow.receive(b"x")
            if end == "close":
                _ = connection.close()
                flow.up.writable(True)
                flow.end()
            elif end == "abort":
                connection.abort()
            else:
                flow.end(taps.ConnectionError("reset") if end == "reset" else None)
            await asyncio.gather(*receiving, return_exceptions=True)
            await turns(10)
            last = "Closed" if end == "close" else "ConnectionError"
            assert events.names[-1] == last
            assert events.names.count(last) == 1
            sends = [name for name in events.names if name in ("Sent", "SendError")]
            receives = [name for name in events.names if name in ("Received", "ReceiveError")]
            assert len(sends) == 1
            assert len(receives) == 3
            assert len(events.names) == 5
            assert [event async for event in stream] == events.events

    run(main)


@pytest.mark.requirement("G-9622-9.3.2-01")
def test_receives_that_the_end_answers_are_told_before_it(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            receiving = [asyncio.create_task(connection.receive()) for _ in range(4)]
            await turns()
            flow.receive(b"1", b"2")
            flow.end()
            results = await asyncio.gather(*receiving, return_exceptions=True)
            assert [type(result) for result in results[2:]] == [taps.EndOfData] * 2
            await turns()
            assert events.names == ["Received", "Received", "EndOfData", "EndOfData", "Closed"]

    run(main)


def test_failed_sends_are_no_connection_error(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            seen: list[Any] = []
            connection.on(taps.ConnectionError, seen.append)
            flow.up.writable(False)
            sends = [connection.send(b"x") for _ in range(3)]
            receiving = asyncio.create_task(connection.receive())
            await turns()
            flow.end(taps.ConnectionError("reset"))
            for each in (*sends, receiving):
                with pytest.raises(taps.ConnectionError):
                    await each
            await turns()
            assert [str(event) for event in seen] == ["reset"]

    run(main)


def test_nothing_is_told_after_the_terminal_event(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.receive(b"1", b"2")
            flow.end(taps.ConnectionError("reset"))
            await turns()
            assert events.names == ["ConnectionError"]
            assert (await connection.receive()).data == b"1"
            connection.on(taps.Event, events.events.append)
            assert (await connection.receive()).data == b"2"
            with pytest.raises(taps.ConnectionError):
                await connection.receive()
            connection.abort()
            await turns()
            assert events.names == ["ConnectionError"]

    run(main)


def test_an_application_that_goes_on_receiving_does_not_put_off_the_end(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)

            async def insist() -> None:
                while True:
                    try:
                        await connection.receive()
                    except taps.EndOfData:
                        await asyncio.sleep(0)

            insisting = [asyncio.create_task(insist()) for _ in range(3)]
            await turns()
            flow.end()
            while "Closed" not in events.names:
                await turns(1)
            for task in insisting:
                task.cancel()

    run(main)


# ------------------------------------------------------------------------------- events()


def test_the_stream_of_events_ends_after_the_terminal_one(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            stream = connection.events()
            seen: list[str] = []

            async def watch() -> None:
                async for event in stream:
                    seen.append(type(event).__name__)

            watching = asyncio.create_task(watch())
            await connection.send(b"x")
            flow.up.notified(taps.SoftError("unreachable"))
            await turns()
            assert seen == ["Sent", "SoftError"]
            connection.abort()
            await watching
            assert seen == ["Sent", "SoftError", "ConnectionError"]

    run(main)


@pytest.mark.parametrize("subscribed", [True, False])
def test_the_stream_of_events_of_a_closed_connection_is_empty(
    run: Any, play: Any, turns: Any, subscribed: bool
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            if subscribed:
                connection.on(taps.Closed, lambda event: None)
            flow.end()
            await turns()
            assert [event async for event in connection.events()] == []

    run(main)


def test_two_may_read_one_stream_and_one_may_stop_it(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            stream = connection.events()

            async def watch() -> list[Any]:
                return [event async for event in stream]

            watching = [asyncio.create_task(watch()) for _ in range(2)]
            await turns()
            await connection.send(b"x")
            await turns()
            stream.close()
            told = await asyncio.gather(*watching)
            assert sorted(map(len, told)) == [0, 1]
            await connection.send(b"y")

    run(main)


def test_events_that_nobody_reads_are_dropped_oldest_first(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            stream = connection.events()
            for number in range(12_000):
                flow.up.notified(taps.PathChange(str(number)))
            flow.end()
            await turns()
            reasons = [event.reason async for event in stream if isinstance(event, taps.PathChange)]
            assert stream.dropped == 2001
            assert reasons[0] == "2001"
            assert reasons[-1] == "11999"

    run(main)


# ------------------------------------------------------------------------------ event log


@pytest.mark.requirement("R-9622-13-02")
def test_the_event_log_remembers_the_last_events_without_data(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(system={"event_log": 4}) as (connection, flow):
            await connection.send(b"four")
            flow.receive(b"12345")
            await connection.receive()
            flow.end(taps.ConnectionError("reset"))
            log = connection.event_log
            assert [entry["event"] for entry in log] == [
                "ready",
                "sent",
                "received",
                "ConnectionError",
            ]
            assert [log[1]["bytes"], log[2]["bytes"]] == [4, 5]
            assert log[3]["error"] == "reset"

    run(main)


def test_who_stops_waiting_for_an_event_is_forgotten(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = connection.events()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await anext(events)
            assert not events._waiting
            flow.up.notified(taps.PathChange("handover"))
            assert (await anext(events)).reason == "handover"

    run(main)
