"""What a layer is asked, made by hand: for tests that speak to a plugin directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.layers import AcceptRequest, ConnectRequest, ListenRequest
from taps_core.model.properties import TransportProperties
from taps_core.model.security import SecurityParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taps_core.model.flow import Flow
    from taps_core.model.layers import Door, EarlyData
    from taps_core.model.properties import Property

__all__ = ["accept_request", "connect_request", "listen_request"]


def connect_request(
    remote: RemoteEndpoint | str,
    *,
    local: LocalEndpoint | str | None = None,
    early: EarlyData | None = None,
    security: SecurityParameters | None = None,
    definitions: Iterable[Property] = (),
    **properties: Any,
) -> ConnectRequest:
    """What ``connect`` is given.

    Args:
        remote: With an address, not a name.
        local: Likewise.
        early: Data that may travel with the handshake.
        security: ``None``: disabled.
        definitions: The plugin's own properties.
        **properties: As ``TransportProperties`` takes them; the others have
            their defaults.
    """
    return ConnectRequest(
        remote=RemoteEndpoint.coerce(remote),
        local=None if local is None else LocalEndpoint.coerce(local),
        properties=TransportProperties(**properties).effective("initiate", definitions),
        security=security or SecurityParameters.disabled(),
        early=early,
    )


def listen_request(
    local: LocalEndpoint | str,
    incoming: Callable[[Flow, Any], None],
    *,
    door: Door | None = None,
    security: SecurityParameters | None = None,
    definitions: Iterable[Property] = (),
    **properties: Any,
) -> ListenRequest:
    """What ``listen`` is given; ``incoming`` and ``door`` as :class:`ListenRequest` has them."""
    return ListenRequest(
        local=LocalEndpoint.coerce(local),
        properties=TransportProperties(**properties).effective("listen", definitions),
        security=security or SecurityParameters.disabled(),
        incoming=incoming,
        door=door,
    )


def accept_request(
    admitted: Any = None,
    *,
    security: SecurityParameters | None = None,
    definitions: Iterable[Property] = (),
    **properties: Any,
) -> AcceptRequest:
    """What a security layer's ``accept`` is given."""
    return AcceptRequest(
        properties=TransportProperties(**properties).effective("listen", definitions),
        security=security or SecurityParameters.disabled(),
        admitted=admitted,
    )
