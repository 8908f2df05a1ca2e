"""What every transport promises, and what each kind of transport does beyond that.

Each test is about one promise and takes no offence at anything else, so a
transport with one defect fails the test that names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from taps_core.model.capabilities import DataUnit, Support
from taps_core.model.errors import Reason, SendError, TapsError
from taps_core.model.messages import MessageContext, SendRecord
from taps_core.testing.conformance.base import (
    FULL,
    LARGEST,
    PIECE,
    PIECES,
    length,
    none_of,
    numbered,
    numbers,
    remote_of,
    same_place,
    short,
)
from taps_core.testing.conformance.listeners import ListenerPromises
from taps_core.testing.conformance.odd_moments import OddMoments
from taps_core.testing.conformance.stage import Stage, breaches, names, turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.flow import Flow, PartTuple
    from taps_core.testing.rig import End

__all__ = [
    "ByteStreamConformance",
    "ConnectedConformance",
    "DatagramConformance",
    "MessageConformance",
    "TransportConformance",
]


class TransportConformance(OddMoments, ListenerPromises):
    """What all transports promise.

    Attributes:
        transport: What is tested.
        local: Where to listen, several times at once: with port 0, as a rule.
            ``None``: where ``transport.loopback()`` says.
        properties: Transport properties for all that is done.
        settling: Seconds after which no copy of a datagram comes any more, for networks
            that deliver late ones.
    """

    # -- endpoints

    def test_endpoints_are_the_real_ones(self) -> None:
        """A flow tells the address and port that it really has, and its peer's."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            asked, bound = stage.remote, stage.listener.local_endpoint
            assert same_place(client.flow.remote_endpoint, asked), (
                f"remote_endpoint is {client.flow.remote_endpoint}, connected to {asked}"
            )
            assert same_place(server.flow.local_endpoint, bound), (
                f"local_endpoint is {server.flow.local_endpoint}, the listener's is {bound}"
            )
            assert same_place(client.flow.local_endpoint, server.flow.remote_endpoint), (
                f"the client is at {client.flow.local_endpoint}, "
                f"the server sees {server.flow.remote_endpoint}"
            )

        self.on_stage(act)

    def test_unknown_properties_have_no_effect(self) -> None:
        """A property that it does not know is not applied, and reads as None."""

        async def act(stage: Stage) -> None:
            client, _ = await stage.pair()
            assert not client.flow.apply("_nobody.knows", 1), "apply claims an effect"
            assert client.flow.read("_nobody.knows") is None, "read gives a value"

        self.on_stage(act)

    # -- data

    def test_what_is_sent_arrives(self) -> None:
        """What one end sends arrives at the other, both ways."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            for sender, receiver in ((client, server), (server, client)):
                await self.delivers(stage, sender, receiver, b"there and back")

        self.on_stage(act)

    def test_data_comes_up_as_bytes(self) -> None:
        """What comes up is exactly bytes: no bytearray, no memoryview."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            await stage.insist(
                lambda: client.send(b"bytes"), lambda: server.recorder.parts, "something arrives"
            )
            kinds = {type(data).__name__ for data, _, _ in server.recorder.parts}
            assert kinds == {"bytes"}, f"what came up is {', '.join(sorted(kinds))}"

        self.on_stage(act)

    def test_a_sequence_of_buffers_is_one_message(self) -> None:
        """Several buffers that go down together arrive joined, in order."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            await self.delivers(stage, client, server, (b"ab", b"", b"c", b"def"), b"abcdef")

        self.on_stage(act)

    def test_flush_lets_everything_leave(self) -> None:
        """After flush nothing that was sent stays behind, however much was gathered."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            messages = numbered(40)
            await stage.insist(
                lambda: client.send(*messages),
                lambda: set(numbers(server.recorder.data)) >= set(range(40)),
                "all that was sent before flush arrives",
            )

        self.on_stage(act)

    def test_flows_do_not_mix(self) -> None:
        """What is sent on one flow arrives on no other."""

        async def act(stage: Stage) -> None:
            pairs = [await stage.pair() for _ in range(3)]
            for _ in range(5):
                for letter, (client, server) in zip(b"abc", pairs, strict=True):
                    client.flow.send(bytes([letter]) * 10, None, True)
                    server.flow.send(bytes([letter - 32]) * 10, None, True)
                for client, server in pairs:
                    client.flow.flush()
                    server.flow.flush()
                await turns()
            await stage.elsewhere()
            for letter, (client, server) in zip(b"abc", pairs, strict=True):
                for end, own in ((server, letter), (client, letter - 32)):
                    foreign = set(end.recorder.data) - {own}
                    assert not foreign, f"{bytes(foreign)!r} arrived on the flow of {chr(own)!r}"

        self.on_stage(act)

    # -- backpressure

    def test_pause_holds_back(self) -> None:
        """A paused flow delivers nothing."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            await turns()
            server.recorder.forget()
            client.send(b"held")
            await stage.elsewhere()
            assert not server.recorder.data, f"{server.recorder.data!r} came up while paused"

        self.on_stage(act)

    def test_resume_delivers_what_waited(self) -> None:
        """What came while a flow was paused comes up after resume."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            await turns()
            # Those that may be lost are not all lost.
            client.send(*[b"held"] * (20 if self.transport.capabilities.may_duplicate else 1))
            await stage.elsewhere()
            server.flow.resume()
            await stage.soon(lambda: b"held" in server.recorder.data, "what was held comes up")
            await self.delivers(stage, client, server, b"and what follows")

        self.on_stage(act)

    # -- start

    def test_what_came_before_start_is_held(self) -> None:
        """What arrives before a flow is started comes up once it is."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair(start=False)
            early = b"first" if not self.transport.capabilities.connected else b"early"
            if self.transport.capabilities.connected:
                client.send(early)
            await stage.elsewhere()
            server.start()
            await stage.soon(lambda: early in server.recorder.data, "what came before start")

        self.on_stage(act)

    def test_a_flow_that_is_never_started_can_be_dropped(self) -> None:
        """A flow that nobody starts ends by abort or close, and leaves nothing."""

        async def act(stage: Stage) -> None:
            for drop in ("abort", "close"):
                client, server = await stage.pair(start=False)
                getattr(server.flow.lower, drop)()
                client.flow.abort()
                stage.ends.remove(server)
            await stage.elsewhere()

        self.on_stage(act)

    # -- no call upwards from inside a downward call

    def test_start_calls_nothing_up(self) -> None:
        """Nothing comes up from inside start."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair(start=False)
            client.send(b"waiting")
            await stage.elsewhere()
            server.start()
            none_of(breaches(server, "from inside start"))

        self.on_stage(act)

    def test_send_calls_nothing_up(self) -> None:
        """Nothing comes up from inside send or flush."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            for _ in range(64):
                client.send(bytes(1000), bytes(1000))
                server.send(bytes(1000))
                await turns(1)
            for end in (client, server):
                none_of([*breaches(end, "from inside send"), *breaches(end, "from inside flush")])

        self.on_stage(act)

    def test_pause_and_resume_call_nothing_up(self) -> None:
        """Nothing comes up from inside pause or resume."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            client.send(b"held")
            await stage.elsewhere()
            server.flow.resume()
            server.flow.pause()
            server.flow.resume()
            none_of(
                [*breaches(server, "from inside pause"), *breaches(server, "from inside resume")]
            )

        self.on_stage(act)

    def test_close_calls_nothing_up(self) -> None:
        """Nothing comes up from inside close or finish."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.send(b"last")
            client.flow.finish()
            client.flow.close()
            server.flow.close()
            for end in (client, server):
                none_of([*breaches(end, "from inside close"), *breaches(end, "from inside finish")])

        self.on_stage(act)

    def test_abort_calls_nothing_up(self) -> None:
        """Nothing comes up from inside abort."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.send(b"dropped")
            client.flow.abort()
            server.flow.abort()
            for end in (client, server):
                none_of(breaches(end, "from inside abort"))

        self.on_stage(act)

    # -- the end

    def test_closed_follows_close(self) -> None:
        """A flow that both ends close is closed, without an error."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.flow.close()
            server.flow.close()
            for end in (client, server):
                await stage.soon(end.is_over, "closed() after close()")
                assert end.recorder.error is None, f"closed with {end.recorder.error!r}"

        self.on_stage(act)

    def test_closed_follows_abort(self) -> None:
        """A flow that is aborted is closed, also while it is paused."""

        async def act(stage: Stage) -> None:
            for pause in (False, True):
                client, server = await stage.pair()
                if pause:
                    client.flow.pause()
                    server.send(b"never read")
                    await turns()
                client.flow.abort()
                await stage.soon(client.is_over, "closed() after abort()")

        self.on_stage(act)

    def test_closed_comes_once(self) -> None:
        """Closed comes once, whatever is called in which order."""

        async def act(stage: Stage) -> None:
            for verbs in (("close", "abort"), ("abort", "close"), ("close", "close", "abort")):
                client, server = await stage.pair()
                for verb in verbs:
                    getattr(client.flow, verb)()
                    await turns(3)
                await stage.happens(client.is_over)
                server.flow.abort()
                await stage.elsewhere()
                count = names(client).count("closed")
                assert count <= 1, f"closed came {count} times after {' and '.join(verbs)}"

        self.on_stage(act)

    def test_nothing_follows_closed(self) -> None:
        """After closed nothing comes up any more, whatever the peer still does."""

        async def act(stage: Stage) -> None:
            for verb in ("close", "abort"):
                client, server = await stage.pair()
                client.send(b"unread")
                getattr(server.flow, verb)()
                with contextlib.suppress(SendError):
                    for _ in range(5):
                        client.flow.lower.send(b"too late", None, True)
                        client.flow.lower.flush()
                        await turns(2)
                client.flow.close()
                await stage.happens(server.is_over)
                await stage.elsewhere()
                came = names(server)
                if "closed" in came:
                    after = [name for name in came[came.index("closed") + 1 :] if name != "closed"]
                    assert not after, f"{after[0]} came up after closed"

        self.on_stage(act)

    def test_nothing_but_the_end_follows_close(self) -> None:
        """After close (or abort) nothing but outcomes and closed comes up."""

        async def act(stage: Stage) -> None:
            for verb in ("close", "abort"):
                client, server = await stage.pair()
                getattr(server.flow, verb)()
                already = len(server.recorder.calls)
                with contextlib.suppress(SendError):
                    client.send(b"unwanted")
                await stage.elsewhere()
                client.flow.abort()
                came = names(server)[already:]
                if "closed" in came:
                    came = came[: came.index("closed")]
                late = [name for name in came if name != "outcome"]
                assert not late, f"{late[0]} came up after {verb}"

        self.on_stage(act)

    def test_send_after_close_is_refused(self) -> None:
        """Sending on a flow that was closed or aborted raises SendError."""

        async def act(stage: Stage) -> None:
            for verb in ("close", "abort"):
                client, _ = await stage.pair()
                getattr(client.flow, verb)()
                try:
                    client.flow.lower.send(b"too late", None, True)
                except SendError:
                    continue
                raise AssertionError(f"send after {verb} was taken")

        self.on_stage(act)

    def test_close_while_paused_ends(self) -> None:
        """A paused flow can be closed."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            await turns()
            client.send(b"never read")
            await turns()
            client.flow.close()
            server.flow.close()
            await stage.soon(
                lambda: server.recorder.is_closed, "closed() after close() of a paused flow"
            )

        self.on_stage(act)

    # -- outcomes

    def test_no_outcome_comes_twice(self) -> None:
        """No Send has two outcomes, and none that was not announced."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            later = self._send_with_records(client)
            await stage.happens(lambda: len(client.recorder.outcomes) >= len(later))
            await stage.elsewhere()
            client.flow.close()
            server.flow.close()
            await stage.happens(lambda: client.recorder.is_closed)
            none_of(breaches(client, "not promised, or twice"))

        self.on_stage(act)

    def test_each_promised_outcome_comes(self) -> None:
        """A Send whose fate was to come later has it, at the latest before closed."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            later = self._send_with_records(client)
            await stage.soon(
                lambda: (
                    {id(record) for record, _ in client.recorder.outcomes}
                    >= {id(record) for record in later}
                ),
                "outcome() for each send() that returned True",
            )
            server.flow.abort()

        self.on_stage(act)

    def _send_with_records(self, client: End) -> list[SendRecord]:
        """Send with records; those whose outcome is to come."""
        later = []
        for properties in ({}, {"msgLifetime": 60.0}, {"msgReliable": False}):
            for _ in range(5):
                record = SendRecord(MessageContext(), properties)
                if client.flow.send(b"with a record", record, True):
                    later.append(record)
        client.flow.flush()
        return later

    # -- failures above

    def test_a_receivers_failure_ends_its_flow(self) -> None:
        """An exception that escapes from above ends the flow: closed, with an error."""

        async def act(stage: Stage) -> None:
            victim, _ = await self._fail_above(stage)
            await stage.soon(
                lambda: victim.recorder.is_closed, "closed() after its receiver raised"
            )
            assert victim.recorder.error is not None, "it was closed without an error"

        self.on_stage(act, strict=False)

    def test_a_receivers_failure_ends_no_other_flow(self) -> None:
        """An exception that escapes from above one flow does not touch another."""

        async def act(stage: Stage) -> None:
            _, (client, server) = await self._fail_above(stage)
            await turns()
            assert not client.recorder.is_closed, "another flow was closed"
            await self.delivers(stage, client, server, b"still here")

        self.on_stage(act, strict=False)

    async def _fail_above(self, stage: Stage) -> tuple[End, tuple[End, End]]:
        """A flow whose receiver has raised, and a pair beside it."""
        client, victim = await stage.pair()
        other = await stage.pair()
        raised = []

        def received(parts: Sequence[PartTuple]) -> None:
            raised.append(parts)
            raise RuntimeError("raised above, by the test")

        victim.recorder.received = received  # type: ignore[method-assign]  # to fail is the test
        await stage.insist(lambda: client.send(b"bait"), lambda: raised, "the bait arrives")
        return victim, other


class ConnectedConformance(TransportConformance):
    """What transports promise that exchange packets before a flow is established."""

    # -- connecting

    def test_cancelled_connect_is_cancelled(self) -> None:
        """Cancelling connect raises CancelledError, at whatever point it comes."""

        async def act(stage: Stage) -> None:
            async def look(task: asyncio.Task[Flow], step: int) -> None:
                if not task.cancelled():
                    seen = repr(task.exception() or "a flow")
                    raise AssertionError(f"cancelled after {step} turns, connect gave {seen}")

            await self._cancel_at_each_step(stage, look)

        self.on_stage(act, strict=False)

    def test_cancelled_connect_leaves_nothing(self) -> None:
        """A connect that is cancelled leaves no task, socket or thread behind."""

        async def act(stage: Stage) -> None:
            async def look(task: asyncio.Task[Flow], step: int) -> None:
                if not task.cancelled() and task.exception() is None:
                    stage.drop(task.result())

            await self._cancel_at_each_step(stage, look)
            await stage.elsewhere()

        self.on_stage(act)

    async def _cancel_at_each_step(self, stage: Stage, look: Any) -> None:
        """Cancel connect after 0, 1, 2, … turns of the loop, until it is faster."""
        for step in range(200):
            task = asyncio.ensure_future(stage.connect_to(stage.remote))
            await turns(step)
            if task.done():
                stage.drop(task.result())
                return
            task.cancel()
            await asyncio.wait([task], timeout=self.patience)
            assert task.done(), f"connect goes on though it was cancelled after {step} turns"
            await look(task, step)

    def test_failed_connect_says_so_in_our_words(self) -> None:
        """Connecting to where nobody listens raises EstablishmentError or OSError."""

        async def act(stage: Stage) -> None:
            error = await self._fail_to_connect(stage)
            assert isinstance(error, (TapsError, OSError)), f"it raised {error!r}"

        self.on_stage(act, strict=False)

    def test_failed_connect_leaves_nothing(self) -> None:
        """A connect that fails leaves no task, socket or thread behind."""

        async def act(stage: Stage) -> None:
            for _ in range(3):
                with contextlib.suppress(AssertionError):  # a test of its own
                    await self._fail_to_connect(stage)

        self.on_stage(act)

    async def _fail_to_connect(self, stage: Stage) -> Exception:
        other = await stage.listen(stage.place())
        remote = remote_of(stage, other)
        await other.close()
        try:
            async with asyncio.timeout(self.patience):
                flow = await stage.connect_to(remote)
        except TimeoutError:
            raise AssertionError("connect to where nobody listens does not end") from None
        except Exception as error:  # noqa: BLE001  # looked at by the caller
            return error
        flow.abort()
        raise AssertionError(f"connected to {remote}, where nobody listens")

    # -- order, completeness

    def test_what_is_sent_arrives_in_order(self) -> None:
        """Messages arrive in the order in which they were sent."""
        if not self.claims("preserveOrder"):
            self.not_claimed("preserveOrder is not ALWAYS")

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            await self._stream_numbers(stage, client, server)
            came = list(dict.fromkeys(numbers(server.recorder.data)))
            late = [after for before, after in itertools.pairwise(came) if after < before]
            assert not late, f"Message {late[0]} came behind a later one"

        self.on_stage(act)

    def test_nothing_arrives_twice(self) -> None:
        """No Message arrives twice."""
        if self.transport.capabilities.may_duplicate:
            self.not_claimed("it may duplicate")

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            await self._stream_numbers(stage, client, server)
            await stage.elsewhere()
            came = numbers(server.recorder.data)
            twice = {number for number in came if came.count(number) > 1}
            assert not twice, f"Message {min(twice)} came {came.count(min(twice))} times"

        self.on_stage(act)

    def test_nothing_is_lost(self) -> None:
        """Every Message arrives."""
        if not self.claims("reliability"):
            self.not_claimed("reliability is not ALWAYS")

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            await self._stream_numbers(stage, client, server)
            missing = set(range(_STREAMED)) - set(numbers(server.recorder.data))
            assert not missing, (
                f"{len(missing)} Messages did not arrive, first of all {min(missing)}"
            )

        self.on_stage(act)

    async def _stream_numbers(self, stage: Stage, client: End, server: End) -> None:
        """Send numbered Messages one by one; wait for the last one."""
        for message in numbered(_STREAMED):
            client.send(message)
            if message[-1] % 16 == 0:
                await turns(1)
        await stage.happens(lambda: _STREAMED - 1 in numbers(server.recorder.data[-400:]))
        await turns()

    def test_the_tail_arrives(self) -> None:
        """What was sent right before close arrives, all of it."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            for message in numbered(20):
                client.send(message)
            client.flow.close()
            await stage.happens(lambda: server.recorder.is_finished or server.recorder.is_closed)
            await stage.elsewhere()
            missing = set(range(20)) - set(numbers(server.recorder.data))
            assert not missing, f"{len(missing)} of 20 Messages did not arrive"
            server.flow.close()

        self.on_stage(act)

    def test_a_large_transfer_is_intact(self) -> None:
        """A large transfer arrives as it was sent, both ways."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            limit = client.flow.read("sendMsgMaxLen")
            size = PIECE if limit is None else min(PIECE, limit)
            for sender, receiver in ((client, server), (server, client)):
                sent: set[bytes] = set()
                for number in range(PIECES):
                    piece = number.to_bytes(4) * (size // 4)
                    sent.add(piece)
                    sender.send(piece)
                    if number % 4 == 3:
                        # Not by ``writable``: that has tests of its own.
                        await stage.soon(
                            lambda number=number, receiver=receiver: (  # type: ignore[misc]  # bound at once
                                length(receiver) >= (number + 1) * len(piece)  # noqa: B023  # each as long
                            ),
                            f"{(number + 1) * len(piece)} bytes arrive",
                        )
                came = receiver.recorder.data
                found = {came[at : at + len(piece)] for at in range(0, len(came), len(piece))}
                assert found == sent, f"{len(found - sent)} pieces arrived changed"
                receiver.recorder.forget()

        self.on_stage(act)

    def test_close_is_no_error_at_the_peer(self) -> None:
        """The peer of a flow that closes is told an orderly end."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.send(b"all of it")
            client.flow.close()
            await stage.happens(lambda: server.recorder.is_finished or server.recorder.is_closed)
            await stage.elsewhere()
            error = server.recorder.error
            assert error is None, f"closed() came up with {error!r}"
            server.flow.close()

        self.on_stage(act)

    def test_a_large_tail_arrives(self) -> None:
        """What was sent before close arrives, also if it has to wait for the peer to make room."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            sent = self._burst(client)
            await turns(2)  # what it does a turn later has a test of its own
            client.flow.close()
            await stage.happens(lambda: server.recorder.is_finished or server.recorder.is_closed)
            came = length(server)
            assert came == sent, f"{came} of {sent} bytes came"
            server.flow.close()

        self.on_stage(act)

    def test_a_transfer_with_pauses_is_intact(self) -> None:
        """A receiver that pauses after each read, and resumes later, misses nothing."""
        if not self.claims("reliability"):
            self.not_claimed("reliability is not ALWAYS")

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            note = server.recorder.received
            loop = asyncio.get_running_loop()

            def received(parts: Sequence[PartTuple]) -> None:
                note(parts)
                server.flow.pause()
                loop.call_later(0.0002, resume)

            def resume() -> None:
                if not server.recorder.is_closed:
                    server.flow.resume()

            server.recorder.received = received  # type: ignore[method-assign]  # watched, not changed
            for message in numbered(_STREAMED // 2):
                client.send(message)
                await turns(2)
            everything = set(range(_STREAMED // 2))
            await stage.happens(lambda: set(numbers(server.recorder.data)) >= everything)
            missing = everything - set(numbers(server.recorder.data))
            server.recorder.received = note  # type: ignore[method-assign]  # as it was
            if names(server).count("received") == 1:
                return  # it never resumes: a test of its own
            assert not missing, f"{len(missing)} Messages did not arrive, first {min(missing)}"

        self.on_stage(act)

    # -- half-close

    def test_finish_reaches_the_peer(self) -> None:
        """The peer of a flow that finishes is told, and only then."""
        self._needs_half_close()

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.send(b"last")
            await stage.elsewhere()
            assert not server.recorder.is_finished, "finished came before finish was called"
            client.flow.finish()
            await stage.soon(lambda: server.recorder.is_finished, "finished() at the peer")

        self.on_stage(act)

    def test_finished_comes_behind_the_data(self) -> None:
        """Finished comes behind everything that was sent before it."""
        self._needs_half_close()

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            for message in numbered(20):
                client.send(message)
            client.flow.finish()
            await stage.happens(lambda: server.recorder.is_finished)
            calls = names(server)
            if "finished" in calls:
                late = calls[calls.index("finished") + 1 :].count("received")
                await stage.elsewhere()
                late = names(server)[calls.index("finished") + 1 :].count("received")
                assert not late, "data came up after finished"

        self.on_stage(act)

    def test_finish_waits_for_what_is_buffered(self) -> None:
        """Final comes behind all data, also if that has to wait for the peer to make room."""
        self._needs_half_close()

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            sent = self._burst(client)
            client.flow.finish()
            await stage.happens(lambda: server.recorder.is_finished or server.recorder.is_closed)
            came = length(server)
            assert came == sent, f"{came} of {sent} bytes came before the end"

        self.on_stage(act)

    def test_close_after_finish_is_a_close(self) -> None:
        """A flow that has finished can still be closed: nothing is received any more."""
        self._needs_half_close()

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.flow.finish()
            await stage.happens(lambda: server.recorder.is_finished)
            client.flow.close()
            with contextlib.suppress(SendError):
                server.send(b"unwanted")
            await stage.elsewhere()
            assert not client.recorder.data, f"{client.recorder.data!r} came up after close"
            server.flow.close()
            await stage.soon(lambda: client.recorder.is_closed, "closed() after close()")

        self.on_stage(act)

    def test_finished_comes_once(self) -> None:
        """Finished comes once, also where finish and close follow each other."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            if self.transport.capabilities.half_close:
                client.flow.finish()
                await stage.elsewhere()
            client.flow.close()
            await stage.elsewhere()
            count = names(server).count("finished")
            assert count <= 1, f"finished came {count} times"

        self.on_stage(act)

    def test_after_finish_the_other_way_goes_on(self) -> None:
        """A flow that has finished still receives."""
        self._needs_half_close()

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.flow.finish()
            await stage.happens(lambda: server.recorder.is_finished)
            await self.delivers(stage, server, client, b"the answer")

        self.on_stage(act)

    def test_send_after_finish_is_refused(self) -> None:
        """Sending on a flow that has finished raises SendError."""
        self._needs_half_close()

        async def act(stage: Stage) -> None:
            client, _ = await stage.pair()
            client.flow.finish()
            try:
                client.flow.lower.send(b"too late", None, True)
            except SendError:
                return
            raise AssertionError("send after finish was taken")

        self.on_stage(act)

    def test_an_end_before_start_is_told(self) -> None:
        """The end of what a peer sends is told though it came before start."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair(start=False)
            client.send(b"all there is")
            client.flow.close()
            await stage.elsewhere()
            server.start()
            await stage.soon(
                lambda: server.recorder.is_finished or server.recorder.is_closed,
                "finished() after start()",
            )

        self.on_stage(act)

    def _needs_half_close(self) -> None:
        if not self.transport.capabilities.half_close:
            self.not_claimed("half_close is not claimed")

    # -- abort, full

    def test_abort_is_an_error_at_the_peer(self) -> None:
        """The peer of a flow that is aborted is closed with an error."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.flow.abort()
            await stage.soon(lambda: server.recorder.is_closed, "closed() at the peer")
            assert server.recorder.error is not None, "it looks like an orderly end"

        self.on_stage(act)

    def test_an_abort_before_start_is_told(self) -> None:
        """That the peer has aborted is told though it came before start."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair(start=False)
            client.flow.abort()
            await stage.elsewhere()
            server.start()
            await stage.soon(lambda: server.recorder.is_closed, "closed() after start()")

        self.on_stage(act)

    def test_abort_does_not_wait_for_room(self) -> None:
        """The abort of a flow that is full, since its peer does not read, reaches the peer."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            await turns()
            await self._fill(client)
            client.flow.abort()
            await stage.elsewhere()
            if not server.recorder.is_closed:
                server.flow.resume()
            await stage.soon(lambda: server.recorder.is_closed, "closed() at the peer")

        self.on_stage(act)

    def test_a_full_flow_says_so(self) -> None:
        """A flow whose peer does not read says writable(False)."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.flow.pause()
            await turns()
            await self._fill(client)
            assert not client.recorder.is_writable, f"not full after {FULL} bytes"

        self.on_stage(act)

    def test_a_full_flow_recovers(self) -> None:
        """A full flow says writable(True) once the peer reads again."""

        async def act(stage: Stage) -> None:
            # Not by pause and resume, which have tests of their own.
            client, server = await stage.pair(start=False)
            await self._fill(client)
            if client.recorder.is_writable:
                return  # never full: likewise
            server.start()
            await stage.soon(
                lambda: client.recorder.is_writable, "writable(True) once the peer reads"
            )

        self.on_stage(act)

    def test_what_is_sent_to_a_full_flow_arrives(self) -> None:
        """A flow that has said writable(False) takes more all the same, and delivers it."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            sent = self._burst(client)
            for _ in range(50):
                await turns(1)
                if not client.recorder.is_writable:
                    break
            else:
                return  # never full: a test of its own
            with contextlib.suppress(SendError):
                client.send(*numbered(20))
            await stage.happens(lambda: length(server) >= sent + 80)
            tail = server.recorder.data[sent:]
            assert numbers(tail) == list(range(20)), (
                f"of 20 Messages that were sent to a full flow {len(tail) // 4} came"
            )

        self.on_stage(act)

    def test_writable_says_each_change_once(self) -> None:
        """No change of writable is told twice: False and True come in turn."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair(start=False)
            await self._fill(client)
            server.start()
            await stage.happens(lambda: client.recorder.is_writable)
            await turns()
            none_of(breaches(client, "writable("))

        self.on_stage(act)

    async def _fill(self, client: End) -> None:
        """Send until it is full, or FULL bytes."""
        piece = self._piece(client)
        for _ in range(FULL // len(piece)):
            client.send(piece)
            await turns(3)
            if not client.recorder.is_writable:
                return

    def _burst(self, client: End) -> int:
        """Send more at once than any system buffers; how many bytes."""
        piece = self._piece(client)
        for _ in range(PIECES):
            client.send(piece)
        return PIECES * len(piece)

    def _piece(self, client: End) -> bytes:
        limit = client.flow.read("sendMsgMaxLen")
        return b"." * (PIECE if limit is None else min(PIECE, limit))


#: Messages that are sent one by one.
_STREAMED = 200


class ByteStreamConformance(ConnectedConformance):
    """What a transport promises whose data unit is the byte stream.

    ::

        class TestMine(ByteStreamConformance):
            transport = Mine()
    """

    def test_the_data_unit_is_the_byte_stream(self) -> None:
        """It declares a byte stream, and never claims Message boundaries."""
        capabilities = self.transport.capabilities
        assert capabilities.data_unit is DataUnit.BYTE_STREAM, "its data unit is another one"
        kept = capabilities.support.get("preserveMsgBoundaries", Support.NEVER)
        assert kept is Support.NEVER, "a byte stream keeps no Message boundaries"

    def test_no_part_of_a_stream_ends_a_message(self) -> None:
        """On a byte stream end_of_message is always False."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.send(b"a whole Message", b"and another")
            await stage.soon(lambda: server.recorder.data, "something arrives")
            ends = [end for _, _, end in server.recorder.parts if end]
            assert not ends, "a part came up with end_of_message"

        self.on_stage(act)


class BoundaryPromises(TransportConformance):
    """What transports promise that keep Message boundaries."""

    def test_boundaries_are_kept(self) -> None:
        """Messages arrive as they were sent: none is split, none is merged."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            messages = [bytes([length % 256]) * length for length in (1, 2, 3, 10, 100, 500, 7)]
            await stage.insist(
                lambda: client.send(*messages),
                lambda: length(server) >= sum(map(len, messages)),
                "as many bytes as were sent",
            )
            changed = set(server.recorder.messages) - set(messages)
            assert not changed, f"{short(next(iter(changed)))} is no Message that was sent"

        self.on_stage(act)

    def test_flush_alone_sends_nothing(self) -> None:
        """A flush with nothing to let go makes no Message."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            server.recorder.forget()
            for _ in range(3):
                client.flow.flush()
            await stage.elsewhere()
            assert not server.recorder.messages, f"what came is {server.recorder.messages}"

        self.on_stage(act)

    def test_an_empty_message_arrives(self) -> None:
        """A Message without a byte is a Message; or is refused, where the protocol has none."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            try:
                client.send(b"")
            except SendError as error:
                if error.detail != "empty-message":
                    raise
                self.not_claimed("it has no empty Messages, and says so")
            await stage.insist(
                lambda: client.send(b""),
                lambda: b"" in server.recorder.messages,
                "the empty Message arrives",
            )

        self.on_stage(act)

    def test_parts_make_one_message(self) -> None:
        """A Message that is sent in parts arrives as one."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()

            def send() -> None:
                client.flow.send(b"one ", None, False)
                client.flow.send(b"whole ", None, False)
                client.flow.send(b"Message", None, True)
                client.flow.flush()

            await stage.insist(
                send, lambda: len(server.recorder.data) >= 17, "as many bytes as were sent"
            )
            await turns()
            assert b"one whole Message" in server.recorder.messages, (
                f"what arrived is {server.recorder.messages}"
            )

        self.on_stage(act)

    def test_a_message_too_large_is_refused(self) -> None:
        """A Message above sendMsgMaxLen raises SendError, with reason MESSAGE_TOO_LARGE."""

        async def act(stage: Stage) -> None:
            client, _ = await stage.pair()
            refusal = None
            try:
                client.flow.send(bytes(self._too_large(client)), None, True)
            except SendError as error:
                refusal = error
            assert refusal is not None, "it was taken"
            reason = refusal.reason
            assert reason is Reason.MESSAGE_TOO_LARGE, f"its reason is {reason}"

        self.on_stage(act)

    def test_after_a_refused_message_the_flow_goes_on(self) -> None:
        """A Message that was refused for its size costs nothing but itself."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            with contextlib.suppress(SendError):
                client.flow.send(bytes(self._too_large(client)), None, True)
            server.recorder.forget()
            await stage.insist(
                lambda: client.send(b"of a proper size"),
                lambda: server.recorder.messages,
                "the next Message arrives",
            )
            wrong = set(server.recorder.messages) - {b"of a proper size"}
            assert not wrong, f"what arrived is {short(wrong.pop())}"

        self.on_stage(act)

    def _too_large(self, end: End) -> int:
        limit = end.flow.read("sendMsgMaxLen")
        if limit is None or limit >= LARGEST:
            self.not_claimed(f"sendMsgMaxLen is {'not known' if limit is None else limit}")
        return int(limit) + 1

    def test_a_withdrawn_message_never_arrives(self) -> None:
        """A Message that was withdrawn does not arrive, and the next one is whole."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.flow.send(b"withdrawn", None, False)
            if not client.flow.withdraw():
                self.not_claimed("it cannot withdraw")
            server.recorder.forget()
            await stage.insist(
                lambda: client.send(b"the next"),
                lambda: len(server.recorder.data) >= len(b"the next"),
                "the next Message",
            )
            await turns()
            wrong = set(server.recorder.messages) - {b"the next"}
            assert not wrong, f"what arrived is {wrong.pop()!r}"

        self.on_stage(act)


class MessageConformance(ConnectedConformance, BoundaryPromises):
    """What a transport promises whose data unit is the Message.

    ::

        class TestMine(MessageConformance):
            transport = Mine()
    """

    def test_the_data_unit_is_the_message(self) -> None:
        """It declares Messages, and claims their boundaries."""
        assert self.transport.capabilities.data_unit is DataUnit.MESSAGE, (
            "its data unit is another one"
        )
        assert self.claims("preserveMsgBoundaries"), "preserveMsgBoundaries is not ALWAYS"


class DatagramConformance(BoundaryPromises):
    """What a transport promises whose data unit is the datagram.

    ::

        class TestMine(DatagramConformance):
            transport = Mine()

    Messages may be lost here: what must arrive is sent until it does.
    """

    def test_the_data_unit_is_the_datagram(self) -> None:
        """It declares datagrams, keeps their boundaries and claims no reliability."""
        assert self.transport.capabilities.data_unit is DataUnit.DATAGRAM, (
            "its data unit is another one"
        )
        assert self.claims("preserveMsgBoundaries"), "preserveMsgBoundaries is not ALWAYS"
        assert not self.claims("reliability"), "reliability is ALWAYS: these are Messages"

    def test_closing_says_nothing_to_the_peer(self) -> None:
        """Closing one end of an unconnected flow does not end the other."""
        if self.transport.capabilities.connected:
            self.not_claimed("it is connected")

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            client.flow.close()
            await stage.elsewhere()
            assert not server.recorder.is_closed, "the other end was closed"

        self.on_stage(act)
