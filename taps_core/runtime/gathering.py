"""Gathering (RFC 9623, section 4.2): from Endpoints, by way of names and paths, to what to try.

Addresses need no asking, and whoever has nothing else pays for nothing here. Names are
asked for side by side. The race begins with what is there when the first Endpoint has
given something, or when anything has been there for the Resolution Delay; what comes
later, a late AAAA or the next name, joins it while it runs.
"""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.endpoints import Endpoint
from taps_core.model.errors import EstablishmentError, Reason, TapsError
from taps_core.model.properties import Preference
from taps_core.planning.candidates import DEFAULT_PATH, MAX_LEAVES, build_leaves
from taps_core.planning.staggering import RESOLUTION_DELAY
from taps_core.runtime.race import failure
from taps_core.runtime.tasks import until_done

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence
    from typing import TypeAlias

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.reports import EstablishmentReport, Resolution
    from taps_core.planning.candidates import Families, Leaf
    from taps_core.planning.paths import Path
    from taps_core.planning.selection import Ranked
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.resolver import Resolving, Trickle

    #: By resolver and by Remote Endpoint: what was found.
    Found: TypeAlias = Sequence[Sequence[Sequence[RemoteEndpoint]]]

__all__ = ["Gathering", "at_hand", "gather", "ranking", "resolve_all"]

E = TypeVar("E", bound=Endpoint)

_needs_resolution: Final = attrgetter("needs_resolution")


def at_hand(blueprint: Blueprint) -> Leaf | None:
    """The one candidate of who has an address, if it was found before and nothing has changed.

    Programs connect to the same place again and again.
    """
    system = blueprint.runtime.system
    known = blueprint.only
    if known is None or known[0] is not system.unchanged:
        return None
    if system.cached.knows(blueprint.remote):
        return None
    return known[1]


async def gather(
    blueprint: Blueprint, families: Families, report: EstablishmentReport, *, isolated: bool
) -> tuple[Sequence[Leaf], Gathering | None]:
    """The candidates, from names and paths as they are now.

    Args:
        blueprint: What is wanted.
        families: How address families alternate.
        report: Where names are recorded.
        isolated: Whether to leave the cache of answers aside (``isolateSession``).

    Returns:
        What the race begins with, and where more will come from; that is to be closed.

    Raises:
        EstablishmentError: There is none.
    """
    system, properties = blueprint.runtime.system, blueprint.effective
    ranked = ranking(blueprint, isolated=isolated)
    cached = None if isolated else system.cached
    locals_: Sequence[LocalEndpoint] = blueprint.local
    if any(map(_needs_resolution, locals_)):
        locals_ = await resolve_all(system.resolver_for(isolated=isolated), locals_, report)
    policy = system.whole_policy()
    chosen: Sequence[Path] = ()
    chooses = system.chooses_paths(properties, blueprint.remote)
    if chooses or properties["useTemporaryLocalAddress"] in _STRICT:
        await blueprint.runtime.load_paths()
    if chooses:
        chosen = system.paths.chosen(properties, blueprint.remote)
    if not chosen and not any(map(_needs_resolution, blueprint.remote)):
        # Whoever has addresses needs nothing of what follows.
        leaves: Sequence[Leaf] = build_leaves(
            ranked, blueprint.remote, locals_, properties=properties, families=families
        )
        if properties["useTemporaryLocalAddress"] in _STRICT:
            leaves = system.paths.from_right_source(leaves, properties)
        if policy is not None and policy.judges_addresses:
            leaves = system.paths.permitted(leaves, policy)
        if not leaves:
            raise _nothing_fits(blueprint.remote, locals_, chosen)
        unchanged = system.unchanged
        if (
            len(leaves) == 1
            and unchanged is not None
            and not chooses
            and locals_ is blueprint.local
            and properties["useTemporaryLocalAddress"] not in _STRICT
        ):
            blueprint.only = unchanged, leaves[0]
        return cached.order(leaves, system.paths) if cached else leaves, None

    by_resolver: dict[Resolving, list[Path]] = {}
    for path in chosen:
        # What a name means may depend on who is asked, and that on the path.
        resolver = system.resolver_for(isolated=isolated, path=path)
        by_resolver.setdefault(resolver, []).append(path)
    if not chosen:
        by_resolver[system.resolver_for(isolated=isolated)] = []

    def build(found: Found) -> Sequence[Leaf]:
        remotes = [endpoint for each in found for some in each for endpoint in some]
        stacks = ranked
        if any(endpoint.protocol is not None for endpoint in remotes):
            # What the peer's records say that it speaks is evidence.
            stacks = ranking(blueprint, remotes, isolated=isolated)
        if chosen:
            from taps_core.runtime.paths import gather_on

            reached = {
                path: [endpoint for some in each for endpoint in some]
                for each, paths in zip(found, by_resolver.values(), strict=True)
                for path in paths
            }
            # In the order of the paths, not of their resolvers.
            ordered = {path: reached[path] for path in chosen if reached[path]}
            known = cached.paths(remotes, system.paths) if cached else {}
            leaves: Sequence[Leaf] = gather_on(
                system.paths, stacks, ordered, locals_, properties, families, known
            )
        else:
            leaves = build_leaves(
                stacks, remotes, locals_, properties=properties, families=families
            )
        if properties["useTemporaryLocalAddress"] in _STRICT:
            leaves = system.paths.from_right_source(leaves, properties)
        if policy is not None and policy.judges_addresses:
            leaves = system.paths.permitted(leaves, policy)
        return cached.order(leaves, system.paths) if cached else leaves

    gathering = Gathering(blueprint, ranked, list(by_resolver), build, report)
    try:
        leaves = await gathering.first()
        if not leaves:
            raise _nothing_fits(gathering.remotes, locals_, chosen)
    except BaseException:
        await gathering.aclose()
        raise
    return leaves, None if gathering.complete else gathering


_STRICT: Final = (Preference.REQUIRE, Preference.PROHIBIT)


def ranking(
    blueprint: Blueprint,
    remotes: Sequence[RemoteEndpoint] | None = None,
    *,
    isolated: bool = False,
) -> Sequence[Ranked]:
    """The candidate stacks, best first.

    Args:
        blueprint: What is wanted.
        remotes: What its Remote Endpoints lead to, once that is known.
        isolated: Whether to leave aside what is known of earlier Connections.

    Raises:
        NoCandidates: With the reason for every rejection.
    """
    selection = blueprint.runtime.system.select(
        blueprint.properties,
        role=blueprint.role,
        security=blueprint.security,
        local=blueprint.local,
        remote=blueprint.remote if remotes is None else tuple(remotes),
        framers=blueprint.framers,
        isolated=isolated,
    )
    return selection.candidates()


class Gathering:
    """Candidates by way of names, as they become known.

    An asynchronous iterator of those that come after :meth:`first`. To be closed.

    Args:
        blueprint: Whose Remote Endpoints they are.
        ranked: Its candidate stacks, best first.
        resolvers: Whom to ask for each name. More than one where paths have their own; the
            first one's answers are waited for.
        build: Makes candidates of what was found.
        report: Where names are recorded.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        ranked: Sequence[Ranked],
        resolvers: Sequence[Resolving],
        build: Callable[[Found], Sequence[Leaf]],
        report: EstablishmentReport,
    ) -> None:
        self._endpoints = blueprint.remote
        self._blueprint = blueprint
        self._ranked = ranked
        self._resolvers = resolvers
        self._build = build
        self._report = report
        self._loop = blueprint.loop
        self._found: list[list[list[RemoteEndpoint]]] = [
            [[] if endpoint.needs_resolution else [endpoint] for endpoint in self._endpoints]
            for _ in resolvers
        ]
        #: Of names that gave nothing, by endpoint and resolver, in no particular order.
        self._errors: dict[tuple[int, int], Exception] = {}
        #: Why what was found is of no use, the last time.
        self._refusal: EstablishmentError | None = None
        self._keys: set[Hashable] = set()
        self._tasks: list[asyncio.Task[None]] = []
        #: What comes later of the only name, until its task begins: one that is cancelled
        #: before it began does nothing, not even what it would do in the end.
        self._untouched: tuple[Trickle[RemoteEndpoint], Resolution] | None = None
        self._news = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether no more will come."""
        return all(task.done() for task in self._tasks)

    @property
    def remotes(self) -> list[RemoteEndpoint]:
        """All that was found."""
        return [endpoint for each in self._found for some in each for endpoint in some]

    async def first(self) -> list[Leaf]:
        """What the race begins with; empty only if nothing fits and no more will come.

        Raises:
            EstablishmentError: RESOLUTION_FAILED: no name has an address. Or why what was
                found is of no use.
        """
        wanted = [
            (which, index)
            for index, endpoint in enumerate(self._endpoints)
            if endpoint.needs_resolution
            for which in range(len(self._resolvers))
        ]
        if len(wanted) == len(self._endpoints) == 1:
            # The usual case: no task unless something comes later.
            await self._ask(*wanted[0], alone=True)
        else:
            for which, index in wanted:
                self._spawn(self._ask(which, index, alone=False))
        leaves = self._candidates()
        enough: float | None = None
        while not self.complete:
            if leaves:
                if self._found[self._awaited()][0]:
                    break
                enough = enough or self._loop.time() + RESOLUTION_DELAY
            try:
                async with asyncio.timeout_at(enough):
                    await self._wait()
            except TimeoutError:
                break
            leaves = self._candidates()
        if not leaves:
            errors = [error for _, error in sorted(self._errors.items(), key=_place)]
            if self._refusal is not None:
                raise self._refusal
            if errors and not self.remotes:
                raise errors[0] if len(errors) == 1 else failure((), errors)
        return self._new_of(leaves)

    def __aiter__(self) -> Gathering:
        return self

    async def __anext__(self) -> list[Leaf]:
        """What has become known since.

        Raises:
            ExceptionGroup: In the end, of the names that have no address.
        """
        while True:
            news = self._new_of(self._candidates())
            if news:
                return news
            if self.complete:
                errors, self._errors = self._errors, {}
                if errors:
                    raise ExceptionGroup("names have no address", [*errors.values()])
                raise StopAsyncIteration
            await self._wait()

    async def aclose(self) -> None:
        """Nothing is asked for any more; returns when that is over."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        try:
            await until_done(tasks)
        finally:
            untouched, self._untouched = self._untouched, None
            if untouched is not None:
                later, resolution = untouched
                self._report.resolution_over(resolution, "cancelled", self._loop.time())
                await later.aclose()
        for task in tasks:
            if not task.cancelled():
                task.exception()  # looked at: nobody needs more candidates now

    # -- how

    async def _wait(self) -> None:
        """Until something has been found, or something asked for is over."""
        await self._news.wait()
        self._news.clear()
        for task in self._tasks:
            if task.done():
                task.result()  # a resolver's bug is nobody's candidate

    def _awaited(self) -> int:
        """The first resolver that may know the first endpoint: of the best path with servers."""
        several = range(len(self._resolvers))
        return next((which for which in several if (0, which) not in self._errors), 0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._news.set()

    async def _ask(self, which: int, index: int, *, alone: bool) -> None:
        """Ask for a name; what comes later is followed here, or by a task if this is none."""
        endpoint, resolver = self._endpoints[index], self._resolvers[which]
        report, loop = self._report, self._loop
        path = getattr(resolver, "path", None) or DEFAULT_PATH
        resolution = report.resolving(endpoint, loop.time(), path)
        # Not isinstance: for a protocol that takes longer than all the rest.
        trickle = getattr(resolver, "trickle", None)
        later: Trickle[RemoteEndpoint] | None = None
        try:
            if trickle is None:
                found: Sequence[RemoteEndpoint] = await resolver.resolve(endpoint)
            else:
                found, later = await trickle(endpoint, self._terms())
        except (OSError, TapsError) as error:
            report.resolution_over(resolution, "failed", loop.time(), error)
            if alone:
                raise
            self._errors[index, which] = error
            return
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            report.resolution_over(
                resolution, "cancelled" if cancelled else "failed", loop.time(), error
            )
            raise
        self._put(which, index, found, resolution)
        if later is None:
            report.resolution_over(resolution, "resolved", loop.time())
        elif alone:
            self._untouched = later, resolution
            self._spawn(self._follow(which, index, later, resolution))
        else:
            await self._follow(which, index, later, resolution)

    async def _follow(
        self, which: int, index: int, later: Trickle[RemoteEndpoint], resolution: Resolution
    ) -> None:
        self._untouched = None
        outcome, wrong = "cancelled", None
        try:
            async for more in later:
                self._put(which, index, more, resolution)
            outcome = "resolved"
        except (OSError, TapsError) as error:
            # Where there is something to try, that some answer never came is no failure.
            outcome, wrong = "resolved" if self._found[which][index] else "failed", error
            if outcome == "failed":
                self._errors[index, which] = error
        finally:
            self._report.resolution_over(resolution, outcome, self._loop.time(), wrong)
            await later.aclose()

    def _put(
        self, which: int, index: int, found: Sequence[RemoteEndpoint], resolution: Resolution
    ) -> None:
        if found:
            self._found[which][index] += found
            self._report.resolved(resolution, found, self._loop.time())
            self._news.set()

    def _terms(self) -> Any:
        """What the answers are for."""
        from taps_core.runtime.resolver import Terms

        return Terms(
            alpn=self._blueprint.offered_security.alpn,
            secure=any(each.stack.capabilities.protection is not None for each in self._ranked),
            transports=self._blueprint.runtime.system.registry.application_protocols,
        )

    def _candidates(self) -> Sequence[Leaf]:
        """All of what was found so far, in their order."""
        try:
            return self._build(self._found)
        except EstablishmentError as refusal:
            self._refusal = refusal
            return ()

    def _new_of(self, leaves: Sequence[Leaf]) -> list[Leaf]:
        """Those that were not handed out before."""
        news = [leaf for leaf in leaves if leaf.key not in self._keys]
        del news[MAX_LEAVES - len(self._keys) :]
        self._keys.update(leaf.key for leaf in news)
        return news


def _place(item: tuple[tuple[int, int], Exception]) -> tuple[int, int]:
    return item[0]


def _nothing_fits(
    remotes: Sequence[RemoteEndpoint], locals_: Sequence[LocalEndpoint], chosen: Sequence[Path]
) -> EstablishmentError:
    what = ", ".join(map(str, dict.fromkeys(remotes))) or "none was found"
    where = f" from {', '.join(map(str, locals_))}" if locals_ else ""
    if chosen:
        paths = ", ".join(path.shown for path in chosen)
        sentence = f"no path that is left leads to {what}{where}, and nothing was sent: {paths}"
    else:
        sentence = f"no address fits: {what}{where}"
    return EstablishmentError(sentence, reason=Reason.NO_CANDIDATES)


async def resolve_all(
    resolver: Resolving, endpoints: Sequence[E], report: EstablishmentReport | None = None
) -> Sequence[E]:
    """Addresses of all, in the order of ``endpoints``.

    Raises:
        EstablishmentError: RESOLUTION_FAILED: none of them has any.
    """
    if not endpoints:
        return ()
    if len(endpoints) == 1:
        return await _resolve(resolver, endpoints[0], report)
    answers = await asyncio.gather(
        *(_resolve(resolver, endpoint, report) for endpoint in endpoints), return_exceptions=True
    )
    found: list[E] = []
    errors: list[BaseException] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            errors.append(answer)
        else:
            found += answer
    for error in errors:
        if not found or not isinstance(error, EstablishmentError):
            raise error
    return found


async def _resolve(
    resolver: Resolving, endpoint: E, report: EstablishmentReport | None
) -> Sequence[E]:
    if report is None or not endpoint.needs_resolution:
        return await resolver.resolve(endpoint)
    loop = asyncio.get_running_loop()
    resolution = report.resolving(endpoint, loop.time())
    outcome, wrong = "cancelled", None
    try:
        found = await resolver.resolve(endpoint)
        report.resolved(resolution, found, loop.time())
        outcome = "resolved"
        return found
    except Exception as error:
        outcome, wrong = "failed", error
        raise
    finally:
        report.resolution_over(resolution, outcome, loop.time(), wrong)
