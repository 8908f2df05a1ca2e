"""The two programs of NEATPy's documentation, with the names that it leaves out.

``client_server.py server [PORT]`` answers everybody; ``client_server.py client PORT`` asks once.
"""

import sys

from neatpy import (
    Connection,
    Listener,
    LocalEndpoint,
    MessageContext,
    MessageDataObject,
    Preconnection,
    PreferenceLevel,
    ReceiveError,
    RemoteEndpoint,
    SelectionProperties,
    TransportProperties,
    TransportPropertyProfiles,
)

# ------------------------------------------------------------------------------------ the server


def simple_connection_received_handler(
    connection: Connection, message: None, context: None, is_end: None, error: None
) -> None:
    """Answer, then close.

    Handlers get as many arguments as they take: this one five, of which a Connection has one.
    """
    anon_func = lambda connection: connection.close()  # noqa: E731  # as the documentation has it
    connection.send(b"Hello from server", anon_func)


def server(port: int) -> None:
    """Until somebody interrupts it."""
    local_specifier = LocalEndpoint()
    local_specifier.with_address("127.0.0.1")
    local_specifier.with_port(port)

    transport_properties = TransportProperties()
    # Selection Properties are set by add...
    transport_properties.add(SelectionProperties.RELIABILITY, PreferenceLevel.REQUIRE)
    # ...or by the verb that says how much.
    transport_properties.prohibit(SelectionProperties.PRESERVE_MSG_BOUNDARIES)

    new_preconnection = Preconnection(
        local_endpoint=local_specifier, transport_properties=transport_properties
    )
    new_listener: Listener = new_preconnection.listen()
    new_listener.HANDLE_CONNECTION_RECEIVED = simple_connection_received_handler
    new_listener.HANDLE_STATE_LISTENING = lambda: print(
        "listening on port", new_listener.local_endpoints[0].port, flush=True
    )
    new_preconnection.start()


# ------------------------------------------------------------------------------------ the client


def receive_handler(
    connection: Connection,
    message: MessageDataObject,
    message_context: MessageContext,
    is_end_of_message: bool | None,
    error: ReceiveError | None,
) -> None:
    """Show the answer, and be done."""
    print(f"Got message {len(message.data)}: {message.data.decode()}")
    connection.stop()


def ready_handler(connection: Connection) -> None:
    """Ask."""
    connection.send(b"Hello server", None)
    connection.receive(receive_handler)


def client(port: int) -> None:
    """Until there is an answer."""
    remote_specifier = RemoteEndpoint()
    remote_specifier.with_address("127.0.0.1")
    remote_specifier.with_port(port)

    transport_properties = TransportProperties(TransportPropertyProfiles.RELIABLE_INORDER_STREAM)

    new_preconnection = Preconnection(
        remote_endpoint=remote_specifier, transport_properties=transport_properties
    )
    new_connection = new_preconnection.initiate()
    new_connection.HANDLE_STATE_READY = ready_handler
    new_preconnection.start()


def main() -> None:
    """Be one or the other."""
    match sys.argv[1:]:
        case ["server", *port]:
            server(int(port[0]) if port else 0)
        case ["client", port]:
            client(int(port))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
