"""What every listener of a transport promises."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from taps_core.model.errors import EstablishmentError, SendError, TapsError
from taps_core.model.flow import Flow
from taps_core.model.layers import ListeningFlow
from taps_core.testing.conformance.base import (
    TransportSuite,
    numbers,
    remote_of,
    same_place,
)
from taps_core.testing.conformance.stage import turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.testing.conformance.stage import Stage
    from taps_core.testing.rig import End

__all__ = ["ListenerPromises"]


class ListenerPromises(TransportSuite):
    """What all listeners promise."""

    def test_the_listener_frees_its_place(self) -> None:
        """Where a closed listener was, another one can listen."""

        async def act(stage: Stage) -> None:
            place = stage.listener.local_endpoint
            await stage.close_listener()
            again = await stage.listen(place)
            assert same_place(again.local_endpoint, place), f"{again.local_endpoint} is not {place}"
            stage.listener = again
            await self.delivers(stage, *(await stage.pair()), b"at the same place")

        self.on_stage(act)

    def test_two_listeners_do_not_share_a_place(self) -> None:
        """A second listener at the same place is refused, with an error of ours."""

        async def act(stage: Stage) -> None:
            try:
                second = await stage.listen(stage.listener.local_endpoint)
            except (EstablishmentError, OSError):
                return
            await second.close()
            raise AssertionError(f"two listeners at {stage.listener.local_endpoint}")

        self.on_stage(act, strict=False)

    def test_flows_outlive_the_listener(self) -> None:
        """Flows that were handed over go on when their listener is closed."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            await stage.close_listener()
            await turns()
            await self.delivers(stage, client, server, b"without a listener")
            await self.delivers(stage, server, client, b"both ways")

        self.on_stage(act)

    def test_a_paused_listener_holds_back(self) -> None:
        """A paused listener hands over nothing until it is resumed."""

        async def act(stage: Stage) -> None:
            if type(stage.listener).pause is ListeningFlow.pause:
                self.not_claimed("its listener has nothing to pause")
            stage.listener.pause()
            await turns()
            connecting = asyncio.ensure_future(stage.connect())
            try:
                await stage.elsewhere()
                if not self.transport.capabilities.connected:
                    (await connecting).send(*[b"knock"] * 20)
                    await stage.elsewhere()
                assert not stage.waiting, "a flow was handed over by a paused listener"
                stage.listener.resume()
                await stage.insist(
                    lambda: None, lambda: stage.waiting, "the flow comes after resume"
                )
                await connecting
            finally:
                if not connecting.done():
                    connecting.cancel()
                await asyncio.wait([connecting])

        self.on_stage(act)

    def test_a_paused_listener_loses_nobody(self) -> None:
        """Whoever connects while a listener is paused is handed over after resume."""
        if not self.transport.capabilities.connected:
            self.not_claimed("it is not connected: what waits may be lost")

        async def act(stage: Stage) -> None:
            if type(stage.listener).pause is ListeningFlow.pause:
                self.not_claimed("its listener has nothing to pause")
            stage.listener.pause()
            await turns()
            connecting = [asyncio.ensure_future(stage.connect()) for _ in range(_WAITING)]
            try:
                await stage.elsewhere()
                stage.listener.resume()
                await stage.happens(lambda: stage.waiting >= _WAITING)
                came = stage.waiting
                assert came == _WAITING, f"{came} of {_WAITING} flows were handed over"
                await asyncio.wait(connecting, timeout=self.patience)
            finally:
                await _give_up(stage, connecting)

        self.on_stage(act, strict=False)

    def test_many_flows_at_once(self) -> None:
        """Many that connect at the same time get a flow each, and are told apart."""

        async def act(stage: Stage) -> None:
            connecting = [asyncio.ensure_future(stage.connect()) for _ in range(_MANY)]
            await asyncio.wait(connecting, timeout=self.patience)
            try:
                assert all(task.done() for task in connecting), "not all of them connect"
                clients = [await task for task in connecting]
            finally:
                await _give_up(stage, connecting)
            servers: list[End] = []

            def knock() -> None:
                for number, client in enumerate(clients):
                    with contextlib.suppress(SendError):  # it will be missed
                        client.send(number.to_bytes(4))

            def heard() -> bool:
                servers.extend(stage.take())
                return _heard(servers) >= set(range(_MANY))

            await stage.insist(knock, heard, f"{_MANY} flows at the listener")
            for server in servers:
                several = _heard([server])
                assert len(several) <= 1, f"{len(several)} clients are heard on one flow"

        self.on_stage(act)

    def test_a_failing_taker_costs_one_flow(self) -> None:
        """An exception that incoming raises costs that flow; others are handed over."""

        async def act(stage: Stage) -> None:
            raised: list[Flow] = []
            taken: list[Flow] = []

            def incoming(flow: Flow, _: object) -> None:
                if not raised:
                    raised.append(flow)
                    raise RuntimeError("raised by whoever takes flows, by the test")
                taken.append(flow)

            listener = await stage.listen(stage.place(), incoming)
            try:
                remote = remote_of(stage, listener)
                await self._knock(stage, remote, raised)
                await self._knock(stage, remote, taken)
            finally:
                await listener.close()
                for flow in taken:
                    stage.drop(flow)

        self.on_stage(act, strict=False)

    def test_a_closed_listener_hands_over_nothing(self) -> None:
        """After close a listener hands over nothing, at whatever moment it was closed."""

        async def act(stage: Stage) -> None:
            for step in range(8):
                taken: list[Flow] = []
                listener = await stage.listen(stage.place(), lambda flow, _: taken.append(flow))  # noqa: B023  # of this step
                remote = remote_of(stage, listener)
                connecting = [asyncio.ensure_future(stage.connect_to(remote))]
                await turns(step)
                if not self.transport.capabilities.connected:
                    stage.adopt(await connecting.pop()).send(b"knock")
                await listener.close()
                count = len(taken)
                await stage.elsewhere()
                await _give_up(stage, connecting)
                late = len(taken) - count
                for flow in taken:
                    stage.drop(flow)
                assert not late, "a flow was handed over after close() had returned"

        self.on_stage(act, strict=False)

    def test_a_listener_can_be_closed_twice(self) -> None:
        """Closing, pausing and resuming a closed listener does nothing."""

        async def act(stage: Stage) -> None:
            await stage.close_listener()
            for verb in ("close", "pause", "resume", "close"):
                try:
                    done = getattr(stage.listener, verb)()
                    if verb == "close":
                        await done
                except Exception as error:
                    raise AssertionError(f"{verb}() after close() raised {error!r}") from error

        self.on_stage(act)

    def test_cancelled_listen_leaves_nothing(self) -> None:
        """A listen that is cancelled leaves no task, socket or thread behind."""

        async def act(stage: Stage) -> None:
            for step in range(200):
                task = asyncio.ensure_future(stage.listen(stage.place()))
                await turns(step)
                done = task.done()
                task.cancel()
                await asyncio.wait([task], timeout=self.patience)
                assert task.done(), f"listen goes on though it was cancelled after {step} turns"
                if not task.cancelled() and task.exception() is None:
                    await task.result().close()
                if done:
                    return

        self.on_stage(act)

    def test_failed_listen_leaves_nothing(self) -> None:
        """A listen that fails leaves no task, socket or thread behind."""

        async def act(stage: Stage) -> None:
            for _ in range(3):
                with contextlib.suppress(Exception):  # a test of its own
                    second = await stage.listen(stage.listener.local_endpoint)
                    await second.close()

        self.on_stage(act)

    async def _knock(self, stage: Stage, remote: RemoteEndpoint, heard: list[Flow]) -> None:
        """Connect until the listener has called ``incoming``."""
        client: End | None = None
        # A flow that is refused at once may be gone before it is known to be there.
        with contextlib.suppress(TapsError, OSError):
            client = stage.adopt(await stage.connect_to(remote))
        await stage.insist(
            # Where a connection is known by its first Message only. A flow that was
            # refused may be gone.
            lambda: (
                client is None or self.transport.capabilities.connected or client.send(b"knock")
            ),
            lambda: heard,
            "a flow is handed over",
        )


#: Flows that wait for a paused listener; more may be too many for some backlog.
_WAITING = 20
#: Flows at the same time.
_MANY = 64


async def _give_up(stage: Stage, connecting: Sequence[asyncio.Future[Any]]) -> None:
    """End what is still connecting, and drop what has connected unasked."""
    for task in connecting:
        task.cancel()
    if connecting:
        await asyncio.wait(connecting)
    for task in connecting:
        if not task.cancelled() and task.exception() is None:
            flow = task.result()
            if isinstance(flow, Flow):  # an End is the stage's
                stage.drop(flow)


def _heard(servers: Sequence[End]) -> set[int]:
    """The clients that were heard."""
    return {number for server in servers for number in numbers(server.recorder.data)}
