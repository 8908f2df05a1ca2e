"""A framer of one's own, and a clone: both Connections speak in Messages over streams of bytes.

Server and client are in one program here, which NEATPy could not do.
"""

from typing import Any

from neatpy import (
    Connection,
    Framer,
    Listener,
    LocalEndpoint,
    MessageContext,
    MessageDataObject,
    Preconnection,
    ReceiveError,
    RemoteEndpoint,
    TransportProperties,
    TransportPropertyProfiles,
)


class LineFramer(Framer):
    """A Message is a line. One object serves all Connections: what it acts for, it is told."""

    def start(self, connection: Connection) -> None:
        """Nothing goes before the first line."""

    def new_sent_message(
        self,
        connection: Connection,
        message_data: bytes,
        message_context: MessageContext,
        sent_handler: Any,
        is_end_of_message: bool,
    ) -> None:
        """End the line."""
        connection.message_framer.send(
            connection, message_data + b"\n", message_context, sent_handler, is_end_of_message
        )

    def handle_received_data(self, connection: Connection) -> None:
        """Deliver one line; called again as long as there may be another."""
        data, context, _ = connection.message_framer.parse(connection, 1, 64 * 1024)
        length = -1 if data is None else data.find(b"\n")
        if length < 0:
            return  # there is more to come
        connection.message_framer.deliver_and_advance_receive_cursor(
            connection, context, length, True
        )
        connection.message_framer.advance_receive_cursor(connection, 1)


STREAM = TransportProperties(TransportPropertyProfiles.RELIABLE_INORDER_STREAM)
WORDS = {"first": "to be", "clone": "or not to be"}
answers: dict[str, str] = {}


def shout(
    connection: Connection,
    message: MessageDataObject,
    context: MessageContext,
    is_end: bool | None,
    error: ReceiveError | None,
) -> None:
    """The server's: every line comes back, louder."""
    if error is None:
        connection.send(message.data.upper())
        connection.receive(shout)


def ask(connection: Connection, name: str) -> None:
    """The client's: a line on this Connection, and what to do with the answer."""

    def answered(connection: Connection, message: MessageDataObject) -> None:
        answers[name] = message.data.decode()
        if answers.keys() == WORDS.keys():
            for each in WORDS:
                print(f"{each}: {answers[each]}")
            connection.stop()

    connection.send(WORDS[name].encode())
    connection.receive(answered)


def ready(connection: Connection) -> None:
    """Ask, and let a clone ask, too."""
    ask(connection, "first")
    clone = connection.clone(lambda parent: print(parent, "cannot be cloned"))
    clone.HANDLE_STATE_READY = lambda clone: ask(clone, "clone")


def connect(listener: Listener) -> None:
    """Begin the client, now that there is a port."""
    there = RemoteEndpoint()
    there.with_address("127.0.0.1")
    port = listener.local_endpoints[0].port
    assert port is not None
    there.with_port(port)
    preconnection = Preconnection(remote_endpoint=there, transport_properties=STREAM)
    preconnection.add_framer(LineFramer())
    preconnection.initiate().HANDLE_STATE_READY = ready


def main() -> None:
    """Run both ends."""
    here = LocalEndpoint()
    here.with_address("127.0.0.1")
    here.with_port(0)
    preconnection = Preconnection(local_endpoint=here, transport_properties=STREAM)
    preconnection.add_framer(LineFramer())
    listener = preconnection.listen()
    listener.HANDLE_CONNECTION_RECEIVED = lambda connection: connection.receive(shout)
    listener.HANDLE_STATE_LISTENING = lambda: connect(listener)
    preconnection.start()


if __name__ == "__main__":
    main()
