"""Whether the peer is welcome, once its certificates are there and before ours are shown."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from taps_tls.errors import refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from taps_core.plugin import Flow, SecurityParameters
    from taps_tls.info import Peer

__all__ = ["judge", "match_pins"]


def match_pins(pins: Iterable[frozenset[bytes]], proven: Collection[bytes], peer: object) -> None:
    """Compare with the pinned chains: all of one must be among ``proven`` (in DER).

    Args:
        pins: Chains, in DER.
        proven: What the verification went through, from the peer's own certificate up;
            that one alone where nothing was verified. Not what was shown beside: anybody
            can send a certificate that is public.
        peer: Who is at the other end, for a sentence.

    Raises:
        EstablishmentError: None of them is, though there are some.
    """
    pins = tuple(pins)
    if pins and not any(pin <= set(proven) for pin in pins):
        raise refused("wrong-pin", f"{peer} showed none of the pinned certificates")


async def judge(security: SecurityParameters, peer: Peer, below: Flow, whose: object) -> None:
    """Ask the application; nothing is read meanwhile, and the peer has to wait.

    Args:
        security: For its trust verification callback.
        peer: What the callback is given.
        below: Paused for as long as a coroutine runs.
        whose: Who is at the other end, for sentences.

    Raises:
        EstablishmentError: The peer is not welcome.
    """
    callback = security.trust_verification_callback
    if callback is None:
        return
    try:
        verdict = callback(peer)
        if inspect.isawaitable(verdict):
            below.pause()
            verdict = await verdict
            below.resume()
    except asyncio.CancelledError as error:
        raise error from refused(
            "trust-callback", "the trust verification callback has not returned"
        )
    except Exception as error:
        # It may raise anything, and whatever that is, the peer was not approved.
        failure = refused("trust-callback", f"the trust verification callback failed: {error!r}")
        raise failure from error
    if not verdict:
        # None, too: a search that found nothing, or a return that was forgotten, is no approval.
        said = "" if verdict is False else f": it returned {type(verdict).__name__}, not True"
        raise refused("trust-callback", f"the trust verification callback refused {whose}{said}")
