"""What a plugin brings beside protocols: a say in system policy, and a resolver.

They are for the packages of a machine's operator or of a company, which are to count for
programs that know nothing of them. What a program says itself goes before.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from taps_core.model.layers import _Declaration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.runtime.resolver import Resolver, Resolving

__all__ = ["PolicySource", "ResolverSource"]


class PolicySource(_Declaration):
    """Has a say in the system policy of every System that uses its plugin."""

    @abstractmethod
    def policy(self) -> Mapping[str, Any] | None:
        """What it says now: tables as a policy file has them; ``None``: nothing.

        Called in a thread, when a System is first used and again after ``System.refresh()``,
        so it may read files. What it raises, or a key that there is not, makes it unavailable.
        """


class ResolverSource(_Declaration):
    """Resolves names in place of the built-in resolver."""

    @abstractmethod
    def resolver(self, usual: Resolver) -> Resolving:
        """A resolver, made once for each built-in one that it stands in for.

        Called on the loop, so it does no I/O. What it raises makes the source unavailable.

        Args:
            usual: The built-in one, for what is not its own to resolve: as the system is
                configured, or of a Provisioning Domain with DNS servers of its own.

        Returns:
            Anything with a coroutine ``resolve`` as that of ``usual``, and ``isolated``, ``by``
            and ``trickle`` if it likes. Without ``isolated`` this is called for each Connection
            with ``isolateSession``, with a ``usual`` that remembers nothing; without ``by``,
            for each path that was chosen, with one that asks by it.
        """
