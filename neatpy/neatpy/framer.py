"""Framers: where Messages begin and end, where the protocols below do not say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from neatpy._flat import one_module
from neatpy.utils import shim_print

one_module(__name__)

if TYPE_CHECKING:
    from neatpy.connection import Connection
    from neatpy.message_context import MessageContext

__all__ = ["ABC", "ExampleFramer", "Framer", "abstractmethod", "shim_print"]


class Framer(ABC):
    """Turns Messages into bytes and back. One object serves all Connections of a Preconnection.

    It acts through ``connection.message_framer`` (:class:`neatpy.message_framer.MessageFramer`).
    """

    @abstractmethod
    def start(self, connection: Connection) -> None:
        """A Connection is there, and the application does not know yet.

        What is sent from here goes out before all Messages.

        Args:
            connection: The Connection that this framer works for, here and below.
        """

    def stop(self, connection: Connection) -> None:  # noqa: B027  # few framers have a farewell
        """The application closes the Connection; what is sent from here goes out as the last."""

    @abstractmethod
    def new_sent_message(
        self,
        connection: Connection,
        message_data: bytes,
        message_context: MessageContext,
        sent_handler: Any,
        is_end_of_message: bool,
    ) -> None:
        """The application sends a Message, or a part of one.

        To be passed on, framed, with ``connection.message_framer.send``.

        Args:
            connection: The Connection.
            message_data: The data.
            message_context: What is said of the Message.
            sent_handler: To be passed on.
            is_end_of_message: False for a part that others follow.
        """

    @abstractmethod
    def handle_received_data(self, connection: Connection) -> None:
        """There are bytes that nobody has parsed.

        To be looked at with ``parse``, and taken with the other actions. Called again while it
        takes something and there is more. It is called again when more has arrived, too, if it
        takes nothing, or raises because ``parse`` had not enough.
        """


class ExampleFramer(Framer):
    """Puts the length of each Message in front of it, as four bytes, the highest first.

    ::

        preconnection = Preconnection(remote_endpoint=endpoint)
        preconnection.add_framer(ExampleFramer())
    """

    def start(self, connection: Connection) -> None:
        """Nothing goes before the first Message."""

    def new_sent_message(
        self,
        connection: Connection,
        message_data: bytes,
        message_context: MessageContext,
        sent_handler: Any,
        is_end_of_message: bool,
    ) -> None:
        """Send the length, then the data."""
        framed = len(message_data).to_bytes(4, "big") + message_data
        connection.message_framer.send(
            connection, framed, message_context, sent_handler, is_end_of_message
        )

    def handle_received_data(self, connection: Connection) -> None:
        """Take a length, then as many bytes as a Message."""
        header, context, _ = connection.message_framer.parse(connection, 4, 4)
        if header is None:
            return
        length = int.from_bytes(header, "big")
        connection.message_framer.advance_receive_cursor(connection, 4)
        connection.message_framer.deliver_and_advance_receive_cursor(
            connection, context, length, True
        )
