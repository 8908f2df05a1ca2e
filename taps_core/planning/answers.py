"""What name servers said, and how long it may be remembered. Pure: ``now`` is an argument."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["ANY_ADDRESS", "MAX_NEGATIVE_TTL", "MAX_TTL", "Answer", "AnswerCache", "Question"]

#: Type of a question for the addresses of both families at once: the system's
#: own resolver, and the hosts file, are asked like that.
ANY_ADDRESS: Final = "A+AAAA"

#: Seconds that an answer is remembered at most, whatever its TTL: a wrong one
#: shall go away some day (RFC 8767 has a cap for the same reason).
MAX_TTL: Final = 86_400.0
#: The same for «there is none»: RFC 2308, section 5, lets it be hours; whoever
#: has just made a name wants to use it.
MAX_NEGATIVE_TTL: Final = 900.0


class Question(NamedTuple):
    """One thing to ask for."""

    name: str
    """Absolute, lower case, with the last dot, but where the system completes it itself."""
    rdtype: str
    """``"A"``, ``"AAAA"``, ``"SRV"``, ``"HTTPS"``, ``"SVCB"`` or :data:`ANY_ADDRESS`."""

    def __str__(self) -> str:
        return f"{self.name} {self.rdtype}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Records, or a problem."""

    records: tuple[Any, ...] = ()
    """Addresses as text, SrvRecords or Bindings, by the question's type."""
    owner: str = ""
    """Whose they are, after the CNAMEs; empty: the question's name."""
    ttl: float = 0.0
    """Seconds that it may be remembered; 0: it may not."""
    problem: str = ""
    """Why there is no record, in a sentence without the name."""
    detail: str = ""
    """That in a word, as ``EstablishmentError.detail`` has it."""
    transient: bool = False
    """Whether another try may help."""
    server: str = ""
    """Who said it; empty where nobody was asked."""

    @property
    def no_such_name(self) -> bool:
        """Whether the name does not exist, with whatever type."""
        return self.detail == "no-such-name"


class AnswerCache:
    """Answers by network and question, each as long as it may be, the latest used of them.

    May be used by several threads.

    Args:
        size: Answers at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[tuple[Hashable, str, str | None], tuple[float, Answer]] = (
            OrderedDict()
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, network: Hashable, question: Question, now: float) -> Answer | None:
        """What is known of it on that network; ``None``: nothing."""
        with self._lock:
            # Of a name that does not exist there is nothing (RFC 2308, section 5).
            return self._get((network, *question), now) or self._get(
                (network, question.name, None), now
            )

    def _get(self, key: tuple[Hashable, str, str | None], now: float) -> Answer | None:
        found = self._known.get(key)
        if found is None:
            return None
        if found[0] <= now:
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return found[1]

    def put(self, network: Hashable, question: Question, answer: Answer, now: float) -> None:
        """Remember it, if it may be: what a server failed to say is asked for again."""
        ttl = min(answer.ttl, MAX_TTL if answer.records else MAX_NEGATIVE_TTL)
        if ttl <= 0 or answer.transient:
            return
        rdtype = None if answer.no_such_name else question.rdtype
        key = (network, question.name, rdtype)
        with self._lock:
            self._known[key] = (now + ttl, answer)
            self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
