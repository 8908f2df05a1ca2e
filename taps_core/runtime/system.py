"""System: the RFC's global context as an object.

Plugins, resolver, policy and caches belong to a System. What is bound to an
event loop hangs off its per-loop part. The default System is made on first
use; a contextvar or ``system=`` puts an unedited application on another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import weakref
from collections.abc import Callable, Coroutine, Generator, Hashable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self
from warnings import warn

from taps_core.model.arguments import check_seconds, several
from taps_core.model.errors import PluginError
from taps_core.model.framer import Codec, Framer
from taps_core.model.layers import FramerDefinition
from taps_core.model.properties import ConnectionState, Direction, Preference
from taps_core.planning.candidates import chooses_paths
from taps_core.planning.history import NOTHING
from taps_core.planning.policy import Policy
from taps_core.planning.selection import Selector
from taps_core.planning.staggering import Staggering
from taps_core.runtime.blueprint import Blueprint
from taps_core.runtime.cached import CachedState
from taps_core.runtime.push import Push
from taps_core.runtime.tasks import Team

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import TypeAlias

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.paths import ProvisioningDomain
    from taps_core.model.properties import Role, TransportProperties
    from taps_core.model.security import SecurityParameters
    from taps_core.planning.paths import Path
    from taps_core.planning.selection import Selection
    from taps_core.runtime.blueprint import WorkedOut
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.listener import Listener
    from taps_core.runtime.path_monitor import PathMonitor
    from taps_core.runtime.paths import Domains, Paths
    from taps_core.runtime.registry import Registry
    from taps_core.runtime.resolver import Resolver, Resolving
    from taps_core.runtime.survey import Survey

    GivenPolicy: TypeAlias = Policy | Mapping[str, Any] | None

__all__ = ["LoopRuntime", "System"]

#: The System in use, in front of those that it hides: entering and leaving is
#: a matter of the context alone, so tasks may use one System side by side.
_current: ContextVar[tuple[System, ...]] = ContextVar("taps_core_system", default=())


#: Provisioning Domains whose resolvers are remembered at most.
_DOMAINS: Final = 64

#: Blueprints that each loop remembers at most.
_BLUEPRINTS: Final = 64


class System:
    """Plugins, resolver and policy that Connections are made with.

    Args:
        plugins: Modules, objects with hooks, or bare declarations to use in
            place of what is installed; a Registry is taken as it is.
        allow: Entry points to use of what is installed; ``None``: all.
        block: Entry points to leave out.
        policy: What the program itself prefers, avoids and prohibits, after what plugins and
            this machine say, so with the last word but for prohibitions: a Policy, a mapping
            as a policy file has it, or a function that returns one of these or ``None``,
            asked for each Connection.
        policy_files: Files to read system policy from, in the order in which they count;
            ``None``: those of this machine and its user (see the reference), unless there
            are ``plugins`` in place of what is installed here.
        resolver: In place of the built-in one, and of what plugins make of that.
        provisioning_domains: Those of system policy for the ``pvd`` property, name → fields
            (``interfaces``, ``addresses``, ``resolvers``, ``search``, ``kinds``), or a
            function that returns them, asked for each Connection.
        survey: Who tells of interfaces and routes, in place of this machine's system.
        event_log: How many events every Connection remembers (0: none).
        close_timeout: Seconds that leaving ``async with connection`` waits.
        staggering: When the next attempt of a race starts; ``None``: as RFC 8305 says, with
            round-trip times of earlier Connections where they are known.
        cached: What is remembered of Connections; ``None``: nothing yet.

    Attributes:
        cached: See :class:`CachedState`.

    Raises:
        TypeError, ValueError: A Provisioning Domain, ``policy`` or another argument cannot be.
    """

    def __init__(
        self,
        plugins: Registry | Iterable[object] | None = None,
        *,
        allow: Iterable[str] | None = None,
        block: Iterable[str] = (),
        policy: GivenPolicy | Callable[[], GivenPolicy] = None,
        policy_files: Iterable[str | os.PathLike[str]] | None = None,
        resolver: Resolving | None = None,
        provisioning_domains: Domains | Callable[[], Domains] | None = None,
        survey: Survey | None = None,
        event_log: int = 0,
        close_timeout: float = 10.0,
        staggering: Staggering | None = None,
        cached: CachedState | None = None,
    ) -> None:
        self._plugins = plugins
        self._allow = None if allow is None else several("allow", allow)
        self._block = several("block", block)
        self._registry: Registry | None = None
        self._selector: Selector | None = None
        if policy_files is None and plugins is not None:
            policy_files = ()
        self._policy_files = None if policy_files is None else several("policy_files", policy_files)
        #: What plugins and files say; ``None``: nothing, or they are not read yet.
        self._written: Policy | None = None
        self._has_read_policy = False
        #: What was put together last: the program's and the whole.
        self._merged: tuple[Policy, Policy] | None = None
        self.policy = policy
        self._resolver = resolver
        #: Domain (``None``: the machine) → the built-in resolver, and what a plugin makes of it.
        self._built_in: dict[ProvisioningDomain | None, tuple[Resolver, Resolving]] = {}
        self._provisioning_domains = provisioning_domains
        self._survey = survey
        self._paths: Paths | None = None
        if provisioning_domains is not None:
            _ = self.paths  # what cannot be is said at once
        self.event_log = event_log
        check_seconds("close_timeout", close_timeout)
        self.close_timeout = close_timeout
        self._staggers_itself = staggering is not None
        self.cached = CachedState() if cached is None else cached
        self.staggering = staggering or Staggering(round_trip=self._round_trip)
        #: Role and properties → what Blueprints make of them.
        self.worked_out: dict[Any, WorkedOut] = {}
        #: The one that was asked for last: nearly always the only one.
        self._latest: LoopRuntime | None = None
        self._runtimes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopRuntime] = (
            weakref.WeakKeyDictionary()
        )

    @staticmethod
    def current() -> System:
        """The System of this context, else the default one, made on first use."""
        systems = _current.get() or _made
        return systems[0] if systems else _default()

    @contextlib.contextmanager
    def use(self) -> Generator[System]:
        """``with system.use():`` what is made inside, and by its tasks, is made here."""
        self._enter()
        try:
            yield self
        finally:
            self._leave()

    def _enter(self) -> None:
        _current.set((self, *_current.get()))

    def _leave(self) -> None:
        systems = list(_current.get())
        if self in systems:  # not so in a context that was copied before it was entered
            systems.remove(self)
            _current.set(tuple(systems))

    @property
    def registry(self) -> Registry:
        """The plugins. Importing them is left to first use."""
        registry = self._registry
        if registry is None:
            from taps_core.runtime.registry import Registry

            plugins = self._plugins
            if plugins is None:
                registry = Registry.from_entry_points(self._allow, self._block)
            elif isinstance(plugins, Registry):
                registry = plugins
            else:
                registry = Registry.of(*plugins)
            self._registry = registry
        return registry

    @property
    def policy(self) -> GivenPolicy | Callable[[], GivenPolicy]:
        """What the program itself says; may be set anew.

        Raises:
            TypeError: It is something else.
            PolicyError: It has a key that there is not, or a value that cannot be.
        """
        return self._policy

    @policy.setter
    def policy(self, policy: GivenPolicy | Callable[[], GivenPolicy]) -> None:
        self._policy = policy if policy is None or callable(policy) else Policy.coerce(policy)

    def whole_policy(self) -> Policy | None:
        """What plugins, files and program say together; ``None`` if nobody says anything.

        Asks the plugins and reads the files if that has not been done.

        Raises:
            PolicyError: One of them is no policy.
        """
        if not self._has_read_policy:
            self.read_policy()
        written, given = self._written, self._policy
        if given is None:
            return written
        own = Policy.coerce(given() if callable(given) else given)
        if written is None:
            return own or None
        if self._merged is None or self._merged[0] is not own:
            self._merged = own, written.then(own)
        return self._merged[1]

    @property
    def has_read(self) -> bool:
        """Whether plugins are imported and policy files read."""
        registry = self.registry
        if not self._has_read_policy and self._policy_files == () and registry.loaded:
            # Nobody has anything to say: then there is nothing to wait for.
            self._written = None
            self._has_read_policy = not registry.policies
        return self._has_read_policy and registry.loaded

    def read(self) -> None:
        """Do both, in a thread: it takes a while.

        Raises:
            PolicyError: A file is no policy.
        """
        self.load_plugins()
        if not self._has_read_policy:
            self.read_policy()

    def load_plugins(self) -> None:
        """Import them, in a thread: it takes a while."""
        _ = self.registry.transports

    def read_policy(self) -> None:
        """Read the policy files anew, and what plugins say.

        Raises:
            PolicyError: A file is no policy. Nothing is established until it is.
        """
        self._has_read_policy = False
        self._written = self._merged = None
        policy = self.registry.policy()
        if self._policy_files != ():
            from taps_core.runtime.policy_files import policy_files, read_policy

            files = policy_files() if self._policy_files is None else self._policy_files
            policy = policy.then(read_policy(files))
        self._written = policy or None
        self._has_read_policy = True

    def chooses_paths(
        self, properties: Mapping[str, Any], remotes: Sequence[RemoteEndpoint] = ()
    ) -> bool:
        """Whether anything is asked for about paths, or system policy says anything.

        Args:
            properties: With ``interface`` and ``pvd``.
            remotes: Where it goes, as far as that is known.
        """
        if chooses_paths(properties):
            return True
        policy = self.whole_policy()
        return policy is not None and policy.chooses_paths(remotes)

    def staggering_for(
        self, properties: TransportProperties, remotes: Sequence[RemoteEndpoint]
    ) -> Staggering:
        """When attempts follow each other: what the program chose, and system policy."""
        policy = self.whole_policy()
        if policy is None:
            return self.staggering
        temporary = properties.explicit.get("useTemporaryLocalAddress")
        return policy.on(remotes).staggering(
            self.staggering,
            own=self._staggers_itself,
            # Whoever prefers temporary addresses prefers IPv6 (RFC 9623, section 4.1.3).
            families=temporary not in (Preference.PREFER, Preference.REQUIRE),
        )

    def _round_trip(self, remote: RemoteEndpoint, path: str) -> float | None:
        return self.cached.round_trip(remote, path, self.paths) if self.cached else None

    @property
    def resolver(self) -> Resolving:
        """What turns names into addresses: the program's, a plugin's, or the built-in one."""
        return self._resolvers()[1] if self._resolver is None else self._resolver

    def _resolvers(self, domain: ProvisioningDomain | None = None) -> tuple[Resolver, Resolving]:
        """The built-in resolver, of a domain or of this machine, and what a plugin makes of it."""
        known = self._built_in.get(domain)
        if known is None:
            from taps_core.runtime.resolver import Resolver

            if len(self._built_in) >= _DOMAINS:
                self._built_in.clear()
            usual = (
                Resolver(network=self._network)
                if domain is None
                else Resolver(nameservers=domain.resolvers, search=domain.search)
            )
            known = self._built_in[domain] = usual, self.registry.resolver(usual)
        return known

    def _network(self) -> Hashable:
        """Which network answers are of: prefixes of this machine's addresses."""
        return self.paths.network

    @property
    def paths(self) -> Paths:
        """Interfaces, Provisioning Domains, and what leads where. Made on first use."""
        if self._paths is None:
            from taps_core.runtime.paths import Paths

            self._paths = Paths(
                self._provisioning_domains, survey=self._survey, policy=self.whole_policy
            )
        return self._paths

    def resolver_for(self, *, isolated: bool, path: Path | None = None) -> Resolving:
        """The resolver, or one that asks by a path, or that leaves no answers in a cache.

        A resolver of the application's own is asked as ever, unless it has the methods
        ``by`` and ``isolated`` as the built-in one; that of a plugin without them is made anew,
        of a built-in one that is so.

        Args:
            isolated: ``isolateSession``.
            path: Ask by it, and the DNS servers of its Provisioning Domain, where that names
                some and the application has no resolver of its own.
        """
        usual: Resolver | None = None
        if self._resolver is None:
            domain = None if path is None else path.domain
            usual, resolver = self._resolvers(
                domain if domain is not None and domain.resolvers else None
            )
        else:
            resolver = self._resolver
        if path is not None:
            from taps_core.runtime.resolver import Pathwise

            by = operator.methodcaller("by", self.paths.exit(path))
            usual, resolver = self._changed(usual, resolver, isinstance(resolver, Pathwise), by)
        if isolated:
            from taps_core.runtime.resolver import Remembering

            alone = operator.methodcaller("isolated")
            usual, resolver = self._changed(
                usual, resolver, isinstance(resolver, Remembering), alone
            )
        return resolver

    def _changed(
        self,
        usual: Resolver | None,
        resolver: Resolving,
        able: bool,
        change: Callable[[Any], Any],
    ) -> tuple[Resolver | None, Resolving]:
        """The built-in resolver, and what a plugin made of it, changed alike.

        What a plugin made changes itself if it is ``able`` to, and is otherwise made anew; an
        application's own, for which there is no built-in one, stays as it is.
        """
        if usual is None:
            return None, change(resolver) if able else resolver
        changed: Resolver = change(usual)
        if resolver is usual:
            return changed, changed
        return changed, change(resolver) if able else self.registry.resolver(changed)

    def framers(self, given: Any) -> tuple[FramerDefinition, ...]:
        """Definitions from names, definitions and Framer classes.

        Raises:
            PluginError: No framer of that name.
            TypeError: A live framer, or something else altogether.
        """
        if given is None:
            return ()
        if type(given) is str:
            return ((self._registry or self.registry).framer(given),)
        if isinstance(given, str | FramerDefinition | type) or not isinstance(given, Iterable):
            given = (given,)
        return tuple(self._framer(each) for each in given)

    def _framer(self, given: Any) -> FramerDefinition:
        if isinstance(given, FramerDefinition):
            return given
        if isinstance(given, str):
            return self.registry.framer(given)
        if isinstance(given, type) and issubclass(given, FramerDefinition):
            return given()
        if isinstance(given, type) and issubclass(given, Framer | Codec):
            return ClassDefinition(given)
        if isinstance(given, Framer | Codec):
            raise TypeError(
                f"{type(given).__name__} is a live framer, and each Connection needs its own: "
                f"give the class {type(given).__name__}, or a definition that makes one"
            )
        raise TypeError(f"a framer is a name, a FramerDefinition or a Framer class, not {given!r}")

    def select(
        self,
        properties: TransportProperties,
        *,
        role: str,
        security: SecurityParameters,
        local: tuple[LocalEndpoint, ...],
        remote: tuple[RemoteEndpoint, ...],
        framers: tuple[FramerDefinition, ...],
        isolated: bool = False,
    ) -> Selection:
        """Rank the Protocol Stacks; pure but for asking plugins, once, if they can run.

        Args:
            properties: As for :meth:`Selector.select`, and so are the others.
            role: Likewise.
            security: Likewise.
            local: Likewise.
            remote: Likewise.
            framers: Likewise.
            isolated: Whether to leave aside what is known of earlier Connections.
        """
        selector = self._selector
        if selector is None:
            selector = self._selector = Selector(self.registry)
        known = NOTHING
        if self.cached and role != "listen" and not isolated:
            known = self.cached.about(remote, self.paths)
        return selector.select(
            properties,
            role=role,
            security=security,
            local=local,
            remote=remote,
            framers=framers,
            policy=self.whole_policy(),
            evidence=known.speaks,
            failing=known.failing,
        )

    @property
    def unchanged(self) -> object | None:
        """One and the same as long as what can be selected stays the same.

        ``None`` while that has to be asked each time: policy says something, or nothing has
        been selected yet.
        """
        if self._policy is not None or self._written is not None or not self._has_read_policy:
            return None
        return None if self._selector is None else self._selector.epoch

    def refresh(self) -> None:
        """Look at this machine anew.

        Ask plugins whether it can run them (a module was loaded…), and read the policy
        files, and what plugins say, again before the next Connection.
        """
        self.registry.refresh()
        self._has_read_policy = False
        if self.registry.loaded and self.registry.resolvers:
            self._built_in.clear()
        if self._selector is not None:
            self._selector.invalidate()

    def runtime(self) -> LoopRuntime:
        """The part of this System that belongs to the running loop."""
        loop = asyncio.get_running_loop()
        runtime = self._latest
        if runtime is None or runtime._loop() is not loop:
            runtime = self._runtimes.get(loop)
            if runtime is None:
                runtime = self._runtimes[loop] = LoopRuntime(self, loop)
            self._latest = runtime
        return runtime

    async def close(self) -> None:
        """End what is still open on the running loop: abort, with a ResourceWarning each."""
        await self.runtime().close()

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()
        await self.close()


class LoopRuntime:
    """What a System keeps per event loop: owned tasks, open Connections and Listeners."""

    def __init__(self, system: System, loop: asyncio.AbstractEventLoop) -> None:
        self.system = system
        self._loop = weakref.ref(loop)
        self.connections: set[Connection[Any]] = set()
        self.listeners: set[Listener] = set()
        #: Of paths, from when somebody wants to know.
        self.monitor: PathMonitor | None = None
        self.push = Push.of(loop)
        self._blueprints: dict[Any, Blueprint] = {}
        #: The one of these that was asked for last, with its key.
        self._latest: tuple[Any, Blueprint | None] = None, None
        self._team = Team()
        # Those of Listeners live as long as there is a handler, whoever has the Listener.
        self._teams: weakref.WeakSet[Team] = weakref.WeakSet((self._team,))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which must still exist."""
        loop = self._loop()
        assert loop is not None
        return loop

    async def load_paths(self) -> None:
        """Import what asks this machine of its paths, off the loop."""
        if not self.system.paths.is_loaded:
            await self.loop.run_in_executor(None, self.system.paths.load)

    def blueprint(
        self,
        role: Role,
        local: tuple[LocalEndpoint, ...],
        remote: tuple[RemoteEndpoint, ...],
        properties: TransportProperties,
        security: SecurityParameters,
        framers: tuple[FramerDefinition, ...],
    ) -> Blueprint:
        """What a Preconnection says, copied; Connections that are made alike share one.

        Programs tend to make a Preconnection for each Connection.
        """
        key: Any = security.key
        if key is not None:
            system = self.system
            key = (
                role,
                local,
                remote,
                properties.key,
                key,
                framers,
                system.close_timeout,
                system.event_log,
            )
            latest, known = self._latest
            # Most objects in it are the same: quicker than to hash them.
            if known is not None and key == latest:
                return known
            try:
                known = self._blueprints.get(key)
            except TypeError:  # the value of a namespaced property cannot be hashed
                key = known = None
            if known is not None:
                self._latest = key, known
                return known
        properties = properties.copy()
        if role == "initiate" and any(each.multicast_group is not None for each in remote):
            # Whom a group consists of is not known, so nobody can be heard (section 6.1.1).
            properties.set("direction", Direction.UNIDIRECTIONAL_SEND)
        made = Blueprint(
            self,
            role=role,
            local=local,
            remote=remote,
            properties=properties,
            security=security.copy(),
            framers=framers,
        )
        # Before, nobody knows yet what is wrong with what was said.
        if key is not None and made.learned:
            if len(self._blueprints) >= _BLUEPRINTS:
                self._blueprints.clear()
            self._blueprints[key] = made
        return made

    def watch_paths(self) -> PathMonitor:
        """What tells of changes of paths, made on first use."""
        if self.monitor is None:
            from taps_core.runtime.path_monitor import PathMonitor

            self.monitor = PathMonitor(self.loop, self.system.paths)
        return self.monitor

    def spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        """A task that this runtime owns."""
        return self._team.spawn(self.loop, work, name)

    def team(self) -> Team:
        """For tasks that have an owner in between, who has to keep it."""
        team = Team()
        self._teams.add(team)
        return team

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """All that run now."""
        return set().union(*(team.tasks for team in self._teams))

    async def close(self) -> None:
        """Abort what is open, cancel what runs, wait until it is gone.

        Warns at the end, so that where warnings are errors nothing stays open.
        Whoever is cancelled while waiting ends the waiting for what is open, and
        waits for what runs, such as handlers.
        """
        left: list[str] = []
        for listener in list(self.listeners):
            if not listener._is_stopped:
                left.append(f"{listener!r} was never stopped")
                listener.stop()
        aborted = list(self.connections)
        for connection in aborted:
            if connection.state is not ConnectionState.CLOSED:
                yet = "not closed yet" if connection.state is ConnectionState.CLOSING else "open"
                left.append(f"{connection!r} was left {yet}")
                connection.abort()
        try:
            for listener in list(self.listeners):
                await listener.stopped()
            for connection in aborted:
                await connection._released()
        finally:
            while tasks := self.tasks - {asyncio.current_task()}:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            if self.monitor is not None:
                self.monitor.close()
        for sentence in left:
            warn(sentence, ResourceWarning, stacklevel=3)


class ClassDefinition(FramerDefinition):
    """A Framer (or Codec) class given in place of a definition."""

    def __init__(self, framer: type[Framer | Codec]) -> None:
        self._class = framer
        self.name = framer.__name__
        self.boundaries = getattr(framer, "boundaries", True)
        self.below_security = getattr(framer, "below_security", False)
        self.objects = getattr(framer, "objects", False)
        self.alpn = tuple(getattr(framer, "alpn", ()))
        self.handshakes = getattr(framer, "handshakes", False)

    def create(self) -> Codec | Framer:
        """A new one.

        Raises:
            PluginError: Its constructor wants arguments.
        """
        try:
            return self._class()
        except TypeError as error:
            raise PluginError(
                f"{self._class.__name__} cannot be made without arguments ({error}): "
                "give a FramerDefinition whose create() passes them"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassDefinition) and other._class is self._class

    def __hash__(self) -> int:
        return hash(self._class)


#: The default one, once it is made.
_made: list[System] = []


def _default() -> System:
    _made.append(System())
    return _made[0]
