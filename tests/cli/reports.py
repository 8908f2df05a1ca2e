"""Reports of establishments, as ``EstablishmentReport.as_json()`` gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "server.example:443"
SIX = "[2001:db8::1]:443"
FOUR = "192.0.2.1:443"


def candidate(stack: str, remote: str, **more: Any) -> dict[str, Any]:
    return {
        "what": f"{stack} to {remote}",
        "stack": stack,
        "path": "default",
        "remote": remote,
        "local": None,
        "failover": 0,
        "silent": False,
        **more,
    }


def attempt(
    remote: str,
    started: float,
    ended: float | None,
    outcome: str,
    *,
    connected: float | None = None,
    error: str | None = None,
    stack: str = "TLS/TCP",
    **more: Any,
) -> dict[str, Any]:
    return {
        **candidate(stack, remote, **more),
        "started": started,
        "connected": connected,
        "ended": ended,
        "outcome": outcome,
        "error": error,
    }


def name(
    ended: float | None,
    *found: tuple[float, str],
    asked: str = HOST,
    outcome: str = "resolved",
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "name": asked,
        "started": 0.0,
        "ended": ended,
        "outcome": outcome,
        "found": [{"at": at, "address": address} for at, address in found],
        "error": error,
    }


def report(
    outcome: str,
    ended: float | None,
    attempts: Sequence[Any] = (),
    *,
    names: Sequence[Any] = (),
    waiting: Sequence[Any] = (),
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "ended": ended,
        "error": error,
        "untried": len(waiting),
        "resolutions": list(names),
        "attempts": list(attempts),
        "waiting": list(waiting),
    }


BOTH = name(0.014, (0.012, "2001:db8::1"), (0.014, "192.0.2.1"))

#: IPv6 is a black hole.
HOLE = report(
    "ready",
    0.374,
    [
        attempt(SIX, 0.014, 0.374, "cancelled"),
        attempt(FOUR, 0.264, 0.374, "ready", connected=0.312),
    ],
    names=[BOTH],
    waiting=[candidate("TLS/TCP", "192.0.2.2:443")],
)

#: Nothing works.
FAILED = report(
    "failed",
    0.781,
    [
        attempt(SIX, 0.014, 0.021, "failed", error="no route"),
        attempt(FOUR, 0.0211, 0.781, "failed", connected=0.151, error="certificate expired."),
    ],
    names=[BOTH],
    error="no attempt succeeded",
)

UDP = report("ready", 0.0004, [attempt(FOUR, 0.0001, 0.0004, "ready", stack="UDP", silent=True)])

RUNNING = report(
    "running", None, [attempt(SIX, 0.014, None, "running", connected=0.1)], names=[BOTH]
)

# -- any

TIMES = st.none() | st.floats(0, 40) | st.sampled_from([0, 0.25, 1e-9, 1e8])
OUTCOMES = st.sampled_from(["running", "ready", "failed", "cancelled", "resolved", "odd"])
TEXTS = st.text(max_size=60)
#: Reports of any times, in any order.
REPORTS = st.builds(
    report,
    OUTCOMES,
    TIMES,
    st.lists(
        st.builds(
            attempt,
            TEXTS,
            st.floats(0, 40),
            TIMES,
            OUTCOMES,
            connected=TIMES,
            error=st.none() | TEXTS,
            stack=TEXTS,
            silent=st.booleans(),
            failover=st.integers(0, 2),
            local=st.none() | TEXTS,
        ),
        max_size=5,
    ),
    names=st.lists(
        st.builds(
            lambda ended, found, outcome, error, asked: name(
                ended, *found, outcome=outcome, error=error, asked=asked
            ),
            TIMES,
            st.lists(st.tuples(st.floats(0, 40), TEXTS), max_size=4),
            OUTCOMES,
            st.none() | TEXTS,
            TEXTS,
        ),
        max_size=3,
    ),
    waiting=st.lists(st.builds(candidate, TEXTS, TEXTS), max_size=9),
    error=st.none() | TEXTS,
)
