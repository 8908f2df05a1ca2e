"""Send: what the stack takes at once, what waits, in which order it leaves (RFC 9622, 9.1, 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest

import taps_core as taps
from taps_framers import LengthPrefix

# ------------------------------------------------------------------ while the stack takes data


def test_sends_that_are_taken_at_once_share_one_finished_object(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            first = connection.send(b"a")
            assert connection.send(b"b") is first
            assert connection.send(b"c", priority=3) is first
            assert flow.data == [b"a", b"b", b"c"]
            await first

    run(main)


def test_what_send_returns_is_a_coroutine_to_asyncio(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await asyncio.create_task(connection.send(b"task"))
            await asyncio.wait_for(connection.send(b"wait_for"), 10)
            await asyncio.gather(connection.send(b"gather"), connection.send(b"both"))
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.send(b"group"))
            assert flow.data == [b"task", b"wait_for", b"gather", b"both", b"group"]

    run(main)


def test_what_waits_is_a_coroutine_to_asyncio_too(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            task = asyncio.create_task(connection.send(b"task"))
            timed = asyncio.create_task(asyncio.wait_for(connection.send(b"wait_for"), 10))
            gathered = asyncio.gather(connection.send(b"gather"), connection.send(b"both"))
            await turns()
            assert not task.done()
            assert not timed.done()
            assert not gathered.done()
            flow.up.writable(True)
            await task
            await timed
            await gathered
            assert flow.data == [b"task", b"wait_for", b"gather", b"both"]

    run(main)


def test_one_send_cannot_be_awaited_by_two(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            outcome = connection.send(b"once")
            waiting = asyncio.create_task(outcome)
            await turns()
            with pytest.raises(RuntimeError):
                await outcome
            flow.up.writable(True)
            await waiting

    run(main)


@pytest.mark.parametrize("full", [False, True])
def test_the_buffer_is_the_callers_again_when_send_returns(run: Any, play: Any, full: bool) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(not full)
            buffer = bytearray(b"before")
            view = memoryview(bytearray(b"view"))
            sends = [connection.send(buffer), connection.send(view)]
            buffer[:] = b"after!"
            view[:] = b"VIEW"
            flow.up.writable(True)
            for send in sends:
                await send
            assert flow.data == [b"before", b"view"]
            assert {type(data) for data in flow.data} == {bytes}

    run(main)


def test_bytes_of_a_subclass_go_down_as_plain_bytes(run: Any, play: Any) -> None:
    class Special(bytes):
        pass

    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(Special(b"plain"))
            assert [type(data) for data in flow.data] == [bytes]

    run(main)


def test_what_the_stack_cannot_carry_is_a_type_error(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with pytest.raises(TypeError, match="carries bytes, not str"):
                await connection.send("text")
            await connection.send(b"bytes")
            assert flow.data == [b"bytes"]

    run(main)


def test_a_misspelt_property_sends_nothing(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with pytest.raises(taps.PropertyError, match="priority"):
                await connection.send(b"x", priorty=1)
            assert flow.data == []

    run(main)


def test_the_first_message_of_a_turn_leaves_at_once_and_the_others_together(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"turn before")
            await turns()
            flow.flushed.clear()
            for number in range(5):
                await connection.send(b"%d" % number)
            assert flow.flushed == [[b"0"]]
            await turns()
            assert flow.flushed == [[b"0"], [b"1", b"2", b"3", b"4"]]
            await connection.send(b"next turn")
            assert flow.flushed[2:] == [[b"next turn"]]

    run(main)


@pytest.mark.parametrize("wait", [True, False], ids=["waits", "goes on"])
def test_what_is_sent_first_after_ready_leaves_together(
    run: Any, play: Any, turns: Any, wait: bool
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"hello")
            await connection.send(b"question")
            assert flow.flushed == []
            if wait:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(connection.receive(), 0)
            else:
                await turns()
            assert flow.flushed == [[b"hello", b"question"]]

    run(main)


# ----------------------------------------------------------------------------------- order


@pytest.mark.requirement("G-9622-7.1-01")
def test_sends_before_ready_leave_in_order_and_are_sent_after_ready(
    run: Any, play: Any, log: Any
) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        events = log(connection)
        awaited = asyncio.create_task(connection.send(b"1"))
        await asyncio.sleep(0)
        connection.send_nowait(b"2")
        _ = connection.send(b"3")
        assert connection.queued == (3, 3)
        transport.go.set()
        await connection
        await awaited
        await connection.send(b"4")
        assert transport.flows[0].data == [b"1", b"2", b"3", b"4"]
        assert connection.queued == (0, 0)
        connection.abort()
        await asyncio.sleep(0)
        assert events.names[:5] == ["Ready", "Sent", "Sent", "Sent", "Sent"]

    run(main)


def test_sends_that_nobody_awaits_arrive_in_order(run: Any, pair: Any, memory_network: Any) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            for number in range(1000):
                _ = client.send(b"%d" % number)
            for number in range(1000):
                assert (await server.receive()).data == b"%d" % number

    run(main, memory_network)


def test_what_waits_leaves_by_priority_and_then_in_the_order_of_the_calls(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            for name, priority in [("c", 200), ("a", 0), ("b", 100), ("C", 200), ("B", 100)]:
                connection.send_nowait(name.encode(), priority=priority)
            connection.send_nowait(b"default")
            flow.up.writable(True)
            assert flow.data == [b"a", b"b", b"B", b"default", b"c", b"C"]

    run(main)


@pytest.mark.requirement("G-9622-11-01")
def test_sent_events_come_in_the_order_of_leaving(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            for priority in (200, 0, 100):
                connection.send_nowait(b"x", priority=priority)
            flow.up.writable(True)
            await turns()
            assert [event.context.get("priority") for event in events.events] == [0, 100, 200]

    run(main)


@pytest.mark.requirement("G-9622-9.1.3.5-01")
@pytest.mark.parametrize("full", [False, True])
def test_final_goes_last_whatever_its_priority_and_nothing_follows(
    run: Any, play: Any, full: bool
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(not full)
            before = connection.send(b"before", priority=1000)
            final = connection.send(b"final", final=True, priority=0)
            with pytest.raises(taps.SendError, match="Final") as caught:
                await connection.send(b"after")
            assert caught.value.reason is taps.Reason.INVALID_MESSAGE_PROPERTIES
            flow.up.writable(True)
            await before
            await final
            assert flow.data == [b"before", b"final"]
            assert flow.calls == ["finish"]
            assert flow.flushed[-1][-1] == b"final"

    run(main)


@pytest.mark.requirement("G-9622-9.1.3.5-01")
def test_a_final_message_in_parts_lets_nothing_in_behind_its_first_part(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            async with connection.sending(final=True) as message:
                await message.send(b"one")
                with pytest.raises(taps.SendError, match="Final"):
                    await connection.send(b"other")
                await message.send(b"two")
            assert flow.data == [b"one", b"two", b""]
            assert flow.calls == ["finish"]

    run(main)


def test_a_final_message_that_could_not_be_sent_was_not_the_last(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no") if data == b"too large" else None
            with pytest.raises(taps.SendError, match="no"):
                await connection.send(b"too large", final=True)
            await connection.send(b"goes on")
            flow.up.writable(False)
            with pytest.raises(taps.Expired):
                await connection.send(b"too late", final=True, lifetime=0.001)
            cancelled = asyncio.create_task(connection.send(b"cancelled", final=True))
            await turns()
            cancelled.cancel()
            await turns()
            flow.up.writable(True)
            assert connection.properties["canSend"]
            await connection.send(b"last", final=True)
            assert flow.data == [b"goes on", b"last"]
            assert flow.calls == ["finish"]

    run(main)


def test_finish_is_final_without_data(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            connection.send_nowait(b"x")
            finishing = asyncio.create_task(connection.finish())
            await turns()
            assert flow.calls == []
            await connection.finish()
            with pytest.raises(taps.SendError, match="Final"):
                await connection.send(b"after")
            flow.up.writable(True)
            await finishing
            assert flow.calls == ["finish"]
            flow.receive(b"still")
            assert (await connection.receive()).data == b"still"
            await turns()
            assert events.names == ["SendError", "Sent", "Received"]

    run(main)


def test_a_final_message_reaches_the_peer_as_the_end(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            await client.send(b"one")
            await client.send(b"two", final=True)
            assert [message.data async for message in server] == [b"one", b"two"]
            assert server.properties["receivedFinal"]
            await server.send(b"answer")
            assert (await client.receive()).data == b"answer"

    run(main, memory_network)


# -------------------------------------------------------------------------------- lifetime


def test_a_message_that_waits_too_long_expires(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            kept = connection.send(b"kept", lifetime=1000)
            with pytest.raises(taps.Expired) as caught:
                await connection.send(b"late", lifetime=0.001, priority=7)
            assert caught.value.reason is taps.Reason.EXPIRED
            await turns()
            (event,) = events.events
            assert isinstance(event, taps.Expired)
            assert event.context is not None
            assert event.context.get("priority") == 7
            flow.up.writable(True)
            await kept
            assert flow.data == [b"kept"]

    run(main)


@pytest.mark.requirement("R-9623-5.1.1-01")
def test_a_message_whose_time_is_up_does_not_leave_even_if_the_timer_is_late(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            late = connection.send(b"late", lifetime=1e-9)
            loop = asyncio.get_running_loop()
            before = loop.time()
            while loop.time() <= before + 0.002:
                pass  # the timer's turn does not come
            flow.up.writable(True)
            assert flow.data == []
            with pytest.raises(taps.Expired):
                await late

    run(main)


@pytest.mark.requirement("G-9622-9.2.2-01")
def test_each_part_of_an_expired_message_expires(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            context = taps.MessageContext(lifetime=0.001)
            first = connection.send(b"1", context, end_of_message=False)
            second = connection.send(b"2", context, end_of_message=False)
            for part in (first, second):
                with pytest.raises(taps.Expired):
                    await part
            with pytest.raises(taps.Expired):
                await connection.send(b"3", context)
            flow.up.writable(True)
            await connection.send(b"whole", context)
            await turns()
            assert events.names == ["Expired", "Expired", "Expired", "Sent"]
            assert flow.data == [b"whole"]

    run(main)


def test_lifetimes_end_each_at_its_time(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            order: list[float] = []

            async def send(lifetime: float) -> None:
                with pytest.raises(taps.Expired):
                    await connection.send(b"x", lifetime=lifetime)
                order.append(lifetime)

            # The shortest are less than what a loop's clock can tell.
            lifetimes = [0.2, 1e-9, 0.1, 1e-6]
            await asyncio.gather(*map(send, lifetimes))
            assert order[2:] == [0.1, 0.2]
            assert flow.data == []

    run(main)


def test_infinity_is_no_lifetime(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(msg_lifetime=0.001) as (connection, flow):
            flow.up.writable(False)
            lasting = connection.send(b"lasting", lifetime=float("inf"))
            with pytest.raises(taps.Expired):
                await connection.send(b"late")
            flow.up.writable(True)
            await lasting
            assert flow.sent == [(b"lasting", None, True)]

    run(main)


def test_the_stack_is_told_what_is_left_of_a_lifetime(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"at once", lifetime=1000)
            flow.up.writable(False)
            waiting = connection.send(b"later", lifetime=1000)
            await asyncio.sleep(0.01)
            flow.up.writable(True)
            await waiting
            at_once, later = [record.properties["msgLifetime"] for _, record, _ in flow.sent]
            assert at_once == 1000
            assert 0 < later < 1000

    run(main)


# ------------------------------------------------------------------------------ withdrawal


def test_a_cancelled_send_is_withdrawn_if_nothing_of_it_left(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            kept = connection.send(b"kept")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.send(b"cancelled"), 0.001)
            unstarted = asyncio.create_task(connection.send(b"not even started"))
            unstarted.cancel()
            await turns()
            assert unstarted.cancelled()
            assert connection.queued == (4, 1)
            flow.up.writable(True)
            await kept
            await turns()
            assert flow.data == [b"kept"]
            assert events.names == ["SendError", "SendError", "Sent"]
            assert events.events[0].detail == "withdrawn"

    run(main)


def test_a_send_that_left_while_it_was_being_cancelled_is_sent(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.up.writable(False)
            task = asyncio.create_task(connection.send(b"x"))
            await turns()
            task.cancel()
            flow.up.writable(True)
            await turns()
            assert task.cancelled()
            assert flow.data == [b"x"]
            assert events.names == ["Sent"]

    run(main)


def test_withdrawing_again_and_again_fills_no_memory(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            first = connection.send(b"first")
            for _ in range(1000):
                task = asyncio.create_task(connection.send(b"again"))
                task.cancel()
                await asyncio.wait([task])
            assert connection.queued == (5, 1)
            gc.collect()
            series = [each for each in gc.get_objects() if type(each).__name__ == "Series"]
            assert len(series) < 200
            flow.up.writable(True)
            await first
            assert flow.data == [b"first"]

    run(main)


# --------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize("how", ["send", "send_nowait"])
def test_too_much_that_waits_is_refused(run: Any, play: Any, how: str) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            megabyte = bytes(1 << 20)
            for _ in range(8):
                _ = connection.send(megabyte)
            with pytest.raises(taps.SendError) as caught:
                if how == "send":
                    await connection.send(megabyte)
                else:
                    connection.send_nowait(megabyte)
            assert caught.value.reason is taps.Reason.QUEUE_FULL
            assert connection.queued == (8 << 20, 8)
            flow.up.writable(True)
            while connection.queued[1]:
                await asyncio.sleep(0)
            await connection.send(megabyte)
            assert len(flow.sent) == 9

    run(main)


def test_one_message_always_fits(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        huge = connection.send(bytes(20 << 20))
        with pytest.raises(taps.SendError):
            await connection.send(b"more")
        transport.go.set()
        await connection
        await huge
        connection.abort()

    run(main)


@pytest.mark.requirement("R-9622-9.1.3.4-01")
def test_a_message_that_must_not_come_twice_is_refused_where_it_may(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate(play.DATAGRAMS)
        before_ready = connection.send(b"before", safely_replayable=False)
        transport.go.set()
        await connection
        with pytest.raises(taps.SendError, match="safelyReplayable"):
            await before_ready
        with pytest.raises(taps.SendError, match="safelyReplayable"):
            await connection.send(b"x", safely_replayable=False)
        connection.set_property("safely_replayable", False)
        with pytest.raises(taps.SendError, match="safelyReplayable"):
            await connection.send(b"x")
        await connection.send(b"may", safely_replayable=True)
        assert transport.flows[0].data == [b"may"]
        connection.abort()

    run(main)


@pytest.mark.requirement("G-9622-9.1.3.7-01")
def test_reliability_of_a_message_cannot_change_unless_that_was_enabled(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection(reliability="require", per_msg_reliability="prohibit") as (
            connection,
            _,
        ):
            await connection.send(b"as it is", reliable=True)
            with pytest.raises(taps.SendError, match="perMsgReliability"):
                await connection.send(b"x", reliable=False)
        async with play.connection(per_msg_reliability="require") as (connection, flow):
            await connection.send(b"x", reliable=False)
            assert flow.sent[0][1].properties == {"msgReliable": False}

    run(main)


@pytest.mark.requirement("G-9622-9.1.3-03")
def test_order_cannot_be_had_from_a_stack_without(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.DATAGRAMS) as (connection, flow):
            with pytest.raises(taps.SendError, match="order"):
                await connection.send(b"x", ordered=True)
            await connection.send(b"x", ordered=False)
            assert flow.data == [b"x"]

    run(main)


@pytest.mark.requirement("G-9622-9.1.3.10-01")
def test_what_must_leave_in_one_packet_and_cannot_is_refused(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.values["singularTransmissionMsgMaxLen"] = 4
            await connection.send(b"four", no_segmentation=True)
            with pytest.raises(taps.SendError) as caught:
                await connection.send(b"five!", no_segmentation=True)
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            await connection.send(b"any length")
            assert flow.data == [b"four", b"any length"]

    run(main)


def test_nothing_is_sent_where_the_direction_is_receive_only(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(direction="unidirectional_receive") as (connection, flow):
            with pytest.raises(taps.SendError, match="direction"):
                await connection.send(b"x")
            assert flow.data == []

    run(main)


def test_a_stack_that_breaks_on_a_queued_message_costs_that_send_only(run: Any, play: Any) -> None:
    def refuse(data: bytes) -> Exception | None:
        return ZeroDivisionError("a mistake in a plugin") if data == b"bad" else None

    async def main() -> None:
        connection, transport = play.initiate()
        transport.prepare = lambda flow: setattr(flow, "refuse", refuse)
        sends = [connection.send(data) for data in (b"1", b"bad", b"2")]
        transport.go.set()
        await connection
        await sends[0]
        with pytest.raises(taps.SendError, match="a mistake in a plugin"):
            await sends[1]
        await sends[2]
        assert transport.flows[0].data == [b"1", b"2"]
        connection.abort()

    run(main)


# -------------------------------------------------------------------------------- contexts


@pytest.mark.requirement("G-9622-9.1.3-01", "G-9622-9.1.3-02")
def test_a_context_serves_many_messages_and_editing_it_touches_only_later_ones(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            context = taps.MessageContext(priority=50)
            connection.send_nowait(b"third")
            connection.send_nowait(b"second", context)
            context.add("msgPriority", 10)
            connection.send_nowait(b"first", context)
            flow.up.writable(True)
            assert flow.data == [b"first", b"second", b"third"]

    run(main)


def test_a_default_send_carries_no_record_and_any_other_does(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"default")
            await connection.send(b"own business", priority=1, safely_replayable=True)
            await connection.send(b"special", lifetime=5)
            await connection.send(b"framer's", taps.MessageContext().add("line", "_x.key", 1))
            connection.on(taps.Sent, lambda event: None)
            await connection.send(b"handled")
            records = [record for _, record, _ in flow.sent]
            assert records[:2] == [None, None]
            assert records[2].properties == {"msgLifetime": 5}
            assert records[3].context.get("line", "_x.key") == 1
            assert records[4].properties == {}

    run(main)


def test_a_message_default_of_the_connection_applies_to_sends_without_it(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            connection.set_property("msgLifetime", 5)
            await connection.send(b"default")
            await connection.send(b"own", lifetime=7)
            lifetimes = [record.properties["msgLifetime"] for _, record, _ in flow.sent]
            assert lifetimes == [5, 7]

    run(main)


# ------------------------------------------------------------------------- InitiateWithSend


def test_the_early_message_goes_before_all_others_with_its_properties(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        early = {"data": b"early", "lifetime": 5, "priority": 1000}
        connection, transport = play.initiate(early=early)
        events = log(connection)
        connection.send_nowait(b"queued", priority=0)
        transport.go.set()
        await connection
        flow = transport.flows[0]
        assert flow.data == [b"early", b"queued"]
        assert flow.sent[0][1].properties["msgLifetime"] <= 5
        await turns()
        assert events.names == ["Ready", "Sent", "Sent"]
        connection.abort()

    run(main)


def test_an_early_message_can_be_the_final_one(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate(early={"data": b"early", "final": True})
        with pytest.raises(taps.SendError, match="Final"):
            await connection.send(b"more")
        transport.go.set()
        await connection
        flow = transport.flows[0]
        assert flow.data == [b"early"]
        assert flow.calls == ["finish"]
        connection.abort()

    run(main)


@pytest.mark.requirement("G-9622-9.2.5-01")
def test_an_early_message_of_a_connection_that_fails_has_no_outcome_of_its_own(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        connection, _ = play.initiate(early={"data": b"early"})
        events = log(connection)
        connection.abort()
        await turns()
        assert events.names == ["EstablishmentError"]

    run(main)
