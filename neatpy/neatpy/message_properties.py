"""Message Properties: what holds for one Message, by its MessageContext, or by default for all."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final

from neatpy._flat import one_module
from neatpy.connection_properties import CapacityProfiles

one_module(__name__)

__all__ = ["CapacityProfiles", "MessageProperties"]


class MessageProperties(Enum):
    """Annotations of a Message. Those of a Message in parts are given with its first part."""

    LIFETIME = "msg-lifetime"
    """Seconds that the Message may wait to be sent. Default: math.inf."""
    PRIORITY = "msg-prio"
    """Rank among Messages that wait on a Connection; **larger** goes first. Default: 100."""
    ORDERED = "msg-ordered"
    """Delivered in the order of the Send calls. Default: True, where the protocols keep order."""
    IDEMPOTENT = "idempotent"
    """May arrive more than once without harm. Default: False."""
    FINAL = "final"
    """The last Message that is sent; it goes behind all others. Default: False."""
    CORRUPTION_PROTECTION_LENGTH = "msg-checksum-len"
    """How many leading bytes a checksum must cover. Default: -1, all."""
    RELIABLE_DATA_TRANSFER = "msg-reliable"
    """Must be delivered. Default: True, where the protocols are reliable."""
    MESSAGE_CAPACITY_PROFILE_OVERRIDE = "msg-capacity-profile"
    """A capacity profile for this Message alone. Default: CapacityProfiles.DEFAULT."""
    SINGULAR_TRANSMISSION = "singular-transmission"
    """Must leave in one packet, whole. Default: False."""
    ECN = "ecn"
    """Of a received Message: the ECN field of its packets, 0 to 3. Read-only."""
    EARLY_DATA = "early-data"
    """Of a received Message: whether it came before establishment was over. Read-only."""
    RECEIVING_FINAL_MESSAGE = "receiving-final-messages"
    """Of a received Message: whether it is the peer's last. Read-only."""

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def get_default(prop: MessageProperties | None = None) -> Any:
        """The default of one property, or a dict of all; ``None`` where received Messages say."""
        return dict(_DEFAULTS) if prop is None else _DEFAULTS[prop]


_DEFAULTS: Final[dict[MessageProperties, Any]] = {
    MessageProperties.LIFETIME: math.inf,
    MessageProperties.PRIORITY: 100,
    MessageProperties.ORDERED: True,
    MessageProperties.IDEMPOTENT: False,
    MessageProperties.FINAL: False,
    MessageProperties.CORRUPTION_PROTECTION_LENGTH: -1,
    MessageProperties.RELIABLE_DATA_TRANSFER: True,
    MessageProperties.MESSAGE_CAPACITY_PROFILE_OVERRIDE: CapacityProfiles.DEFAULT,
    MessageProperties.SINGULAR_TRANSMISSION: False,
    MessageProperties.ECN: None,
    MessageProperties.EARLY_DATA: None,
    MessageProperties.RECEIVING_FINAL_MESSAGE: None,
}
