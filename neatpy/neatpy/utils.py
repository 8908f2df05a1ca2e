"""What programs written for NEATPy print with. It is their name for it, not ours."""

from __future__ import annotations

import logging

from neatpy._flat import one_module

one_module(__name__)

__all__ = ["shim_print"]

logger = logging.getLogger("neatpy")

#: Set to 1, messages without a level are printed, too.
debug = 0


def shim_print(main_msg: object, additional_msg: object = "", level: str | None = None) -> None:
    """Print a message of the program.

    Args:
        main_msg: The message.
        additional_msg: Printed below it, if there is any.
        level: ``"msg"`` and ``"error"`` are printed; those without a level are logged, and
            printed only while ``debug`` is set in this module.
    """
    if level is None and not debug:
        logger.debug("%s", main_msg)
        return
    print(main_msg)
    if additional_msg:
        print(additional_msg)
