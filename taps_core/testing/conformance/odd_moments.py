"""What a flow promises at moments, and with values, that its author did not think of."""

from __future__ import annotations

import contextlib
import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from taps_core.model.capabilities import Capabilities, Support
from taps_core.model.errors import PropertyError, SendError
from taps_core.model.properties import PROPERTIES, Kind
from taps_core.planning.stacks import EVERYWHERE, SHARING, effect_of
from taps_core.testing.conformance.base import TransportSuite
from taps_core.testing.conformance.stage import names, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taps_core.model.flow import PartTuple
    from taps_core.model.properties import Property
    from taps_core.testing.conformance.stage import Stage
    from taps_core.testing.rig import End

__all__ = ["OddMoments"]

#: Properties that the Connection or its group sees to, whatever the flow says.
_BY_THE_CONNECTION: frozenset[str] = frozenset({*EVERYWHERE, *SHARING, "groupConnLimit"})
#: What properties are set to; each to those that it can have at all.
_VALUES: tuple[Any, ...] = (True, False, 0, 1, 7, 0.001, 2.5, 1e6, 2**31, 2**62, 1e300, math.inf)


class OddMoments(TransportSuite):
    """Calls that are legal, and that nobody tries at home."""

    # -- properties

    def test_every_property_can_be_read(self) -> None:
        """Reading any documented property gives a value or None, also when the flow is over."""

        async def act(stage: Stage) -> None:
            client, _ = await stage.pair()
            for moment in ("is open", "is over"):
                for name in (*PROPERTIES, *self._own, "_taps.undelivered"):
                    self._raises_nothing(
                        f"read({name!r}) of a flow that {moment}",
                        partial(client.flow.lower.read, name),
                    )
                await self._end(stage, client, "abort")

        self.on_stage(act)

    def test_a_value_is_applied_or_refused_in_our_words(self) -> None:
        """Apply tells whether a value has an effect, or raises PropertyError; the flow goes on."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            for definition in (*PROPERTIES.values(), *self._own.values()):
                for value in _settings(definition):
                    try:
                        effect = client.flow.apply(definition.name, value)
                    except PropertyError:
                        continue
                    except Exception as error:
                        call = f"apply({definition.name!r}, {value!r})"
                        raise AssertionError(f"{call} raised {error!r}") from error
                    assert isinstance(effect, bool), (
                        f"apply({definition.name!r}, {value!r}) gave {effect!r}, no bool"
                    )
            await self.delivers(stage, client, server, b"still here")

        self.on_stage(act)

    def test_properties_have_the_effect_that_is_claimed(self) -> None:
        """A Connection Property with effect ALWAYS is applied, and one with NEVER is not."""
        answer = self.transport.availability().capabilities
        table = answer if isinstance(answer, Capabilities) else self.transport.capabilities

        async def act(stage: Stage) -> None:
            client, _ = await stage.pair()
            flow = client.flow
            for definition in (*PROPERTIES.values(), *self._own.values()):
                name = definition.name
                claim = effect_of(table, name, self._own.values())
                if claim is Support.OPTIONAL or name in _BY_THE_CONNECTION:
                    continue
                for value in _settings(definition):
                    effect = claim is Support.ALWAYS
                    with contextlib.suppress(Exception):  # another test is about these
                        by_session = flow.session is not None and flow.session.apply(name, value)
                        effect = flow.apply(name, value) or by_session
                    assert effect is (claim is Support.ALWAYS), (
                        f"{name}: the table says {claim.value}, apply({value!r}) gave {effect}"
                    )

        self.on_stage(act)

    @property
    def _own(self) -> dict[str, Property]:
        return {definition.name: definition for definition in self.transport.properties}

    # -- when it is over

    def test_endpoints_can_be_asked_for_when_it_is_over(self) -> None:
        """A flow that is over still tells its endpoints, or None."""

        async def act(stage: Stage) -> None:
            for verb in ("close", "abort"):
                client, _ = await stage.pair()
                await self._end(stage, client, verb)
                for what in ("local_endpoint", "remote_endpoint"):
                    self._raises_nothing(
                        f"{what} after {verb}",
                        partial(getattr, client.flow.lower, what),
                    )

        self.on_stage(act)

    def test_calls_after_the_end_do_nothing(self) -> None:
        """Whatever is called on a flow that is over raises nothing and brings nothing up."""

        async def act(stage: Stage) -> None:
            for verb in ("close", "abort"):
                client, _ = await stage.pair()
                await self._end(stage, client, verb)
                flow = client.flow.lower
                calls: dict[str, Callable[[], object]] = {
                    "flush()": flow.flush,
                    "pause()": flow.pause,
                    "resume()": flow.resume,
                    "finish()": flow.finish,
                    "withdraw()": flow.withdraw,
                    "find(str)": partial(flow.find, str),
                    "close()": flow.close,
                    "abort()": flow.abort,
                }
                already = len(client.recorder.calls)
                for name, call in calls.items():
                    self._raises_nothing(f"{name} after {verb}", call)
                await turns()
                came = [each for each in names(client)[already:] if each != "closed"]
                assert not came, f"{came[0]} came up"

        self.on_stage(act)

    async def _end(self, stage: Stage, end: End, verb: str) -> None:
        """End a flow and its peer, and wait until it is over."""
        getattr(end.flow, verb)()
        for other in stage.ends:
            if other is not end:
                other.flow.close()
        await stage.happens(lambda: end.recorder.is_closed)
        await turns()

    def _raises_nothing(self, what: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            raise AssertionError(f"{what} raised {error!r}") from error

    # -- from inside a call upwards

    def test_pause_from_inside_received_holds(self) -> None:
        """A receiver may pause from inside received."""

        async def act(stage: Stage) -> None:
            client, server = await stage.pair()
            note = server.recorder.received

            def received(parts: Sequence[PartTuple]) -> None:
                note(parts)
                server.flow.pause()

            await self._bait(stage, client, server, received)
            # What was on its way up may have come.
            await stage.elsewhere()
            server.recorder.forget()
            client.send(b"held")
            await stage.elsewhere()
            assert not server.recorder.data, f"{server.recorder.data!r} came up while paused"

        self.on_stage(act)

    def test_nothing_follows_an_end_from_inside_received(self) -> None:
        """A receiver may abort or close from inside received; then no more comes up."""

        async def act(stage: Stage) -> None:
            for verb in ("abort", "close"):
                client, server = await stage.pair()
                note = server.recorder.received

                def received(
                    parts: Sequence[PartTuple],
                    note: Any = note,
                    server: End = server,
                    verb: str = verb,
                ) -> None:
                    note(parts)
                    getattr(server.flow, verb)()

                await self._bait(stage, client, server, received)
                with contextlib.suppress(SendError):
                    client.send(*[b"too late"] * 5)
                client.flow.close()
                await stage.elsewhere()
                count = names(server).count("received")
                assert count == 1, f"received came up again after {verb} from inside it"

        self.on_stage(act)

    async def _bait(
        self,
        stage: Stage,
        client: End,
        server: End,
        received: Callable[[Sequence[PartTuple]], None],
    ) -> None:
        """Let ``received`` be called in place of the recorder's."""
        server.recorder.forget()
        server.recorder.received = received  # type: ignore[assignment, method-assign]  # what it does is the test
        await stage.insist(
            lambda: client.send(*[b"bait"] * 5), lambda: server.recorder.data, "the bait arrives"
        )


def _settings(definition: Property) -> Iterator[Any]:
    """Values that a property can have; in the end the one that changes nothing."""
    if definition.kind is not Kind.CONNECTION or definition.read_only:
        return
    for value in itertools.chain(_VALUES, definition.values or ()):
        with contextlib.suppress(PropertyError):
            yield definition.check(value)
    default = definition.default_for("initiate")
    if default is not None:
        yield default
