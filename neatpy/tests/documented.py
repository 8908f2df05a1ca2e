"""What the documentation of NEATPy 1.0.0 lists, as facts: names, signatures, values, defaults."""

from __future__ import annotations

import math
from typing import Any, Final

#: Module → class → methods with their parameters and defaults.
METHODS: Final[dict[str, dict[str, dict[str, dict[str, Any]]]]] = {
    "preconnection": {
        "Preconnection": {
            "__init__": {
                "local_endpoint": None,
                "remote_endpoint": None,
                "transport_properties": None,
                "security_needed": False,
                "unfulfilled_handler": None,
            },
            "add_framer": {"framer": ...},
            "initiate": {"timeout": None},
            "initiate_with_send": {
                "message_data": ...,
                "sent_handler": ...,
                "message_context": None,
                "timeout": None,
            },
            "listen": {},
            "start": {},
        },
    },
    "connection": {
        "Connection": {
            "abort": {},
            "batch": {"batch_block": ...},
            "clone": {"clone_error_handler": ...},
            "close": {},
            "get_properties": {},
            "receive": {"handler": ..., "min_incomplete_length": None, "max_length": math.inf},
            "send": {
                "message_data": ...,
                "sent_handler": None,
                "message_context": None,
                "end_of_message": True,
            },
            "set_property": {"connection_property": ..., "value": ...},
            "stop": {},
            "stop_listener": {},
        },
        "MessageDataObject": {"__init__": {"data": ..., "length": ...}},
    },
    "listener": {
        "Listener": {
            "stop": {},
            "set_new_connection_limit": {"value": ...},
            "reset_connection_limit": {},
        },
    },
    "transport_properties": {
        "TransportProperties": {
            "__init__": {"property_profile": None},
            "add": {"prop": ..., "value": ...},
            "require": {"prop": ...},
            "prefer": {"prop": ...},
            "ignore": {"prop": ...},
            "avoid": {"prop": ...},
            "prohibit": {"prop": ...},
            "default": {"prop": ...},
        },
    },
    "endpoint": {
        "LocalEndpoint": {
            "__init__": {},
            "with_address": {"address": ...},
            "with_interface": {"interface": ...},
            "with_port": {"port_number": ...},
        },
        "RemoteEndpoint": {
            "__init__": {},
            "with_address": {"address": ...},
            "with_interface": {"interface": ...},
            "with_port": {"port_number": ...},
            "with_hostname": {"hostname": ...},
        },
    },
    "framer": {
        "Framer": {
            "start": {"connection": ...},
            "new_sent_message": {
                "connection": ...,
                "message_data": ...,
                "message_context": ...,
                "sent_handler": ...,
                "is_end_of_message": ...,
            },
            "handle_received_data": {"connection": ...},
        },
        "ExampleFramer": {},
    },
    "message_framer": {
        "MessageFramer": {
            "send": {
                "connection": ...,
                "message_data": ...,
                "message_context": ...,
                "sent_handler": ...,
                "is_end_of_message": ...,
            },
            "parse": {
                "connection": ...,
                "minimum_incomplete_length": ...,
                "maximum_length": ...,
            },
            "advance_receive_cursor": {"connection": ..., "length": ...},
            "deliver_and_advance_receive_cursor": {
                "connection": ...,
                "message_context": ...,
                "length": ...,
                "is_end_of_message": ...,
            },
            "deliver": {
                "connection": ...,
                "message_context": ...,
                "data": ...,
                "is_end_of_message": ...,
            },
        },
    },
    "message_context": {
        "MessageContext": {
            "__init__": {},
            "add": {"key": ..., "value": ..., "scope": None},
            "get": {"key": ..., "scope": None},
            "get_remote_endpoint": {},
            "get_local_endpoint": {},
        },
    },
    "security_parameters": {
        "SecurityParameters": {
            "__init__": {},
            "add_identity": {"identity": ...},
            "add_private_key": {"private_key": ..., "public_key": ...},
            "add_pre_shared_key": {"key": ..., "identity": ...},
            "add_supported_group": {"group": ...},
            "add_cipher_suite": {"cipher_suite": ...},
            "add_signature_algorithm": {"signature_algorithm": ...},
            "set_session_cache_capacity": {"capacity": ...},
            "set_session_cache_lifetime": {"lifetime": ...},
            "set_session_cacahe_policy": {"policy": ...},
            "set_trust_verification_callback": {"callback": ...},
            "set_identity_challenge_callback": {"callback": ...},
        },
    },
}

#: Module → class → handlers that programs assign; all are None in the beginning.
HANDLERS: Final = {
    "connection": {
        "Connection": (
            "HANDLE_STATE_READY",
            "HANDLE_STATE_CLOSED",
            "HANDLE_STATE_CONNECTION_ERROR",
        ),
    },
    "listener": {
        "Listener": (
            "HANDLE_CONNECTION_RECEIVED",
            "HANDLE_STATE_LISTENING",
            "HANDLE_STATE_LISTEN_ERROR",
            "HANDLE_STATE_STOPPED",
        ),
    },
}

#: Module → function → parameters and defaults.
FUNCTIONS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "utils": {"shim_print": {"main_msg": ..., "additional_msg": "", "level": None}},
}

#: Module → enumeration → member → value.
ENUMERATIONS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "connection": {
        "ConnectionState": {"ESTABLISHING": 1, "ESTABLISHED": 2, "CLOSING": 3, "CLOSED": 4},
        "SendErrorReason": {
            "CONNECTION_CLOSING": "Connection is closing, no further sending is possible",
            "FINAL_MESSAGE_PASSED": "Message marked final already sent",
            "INCONSISTENT_PROPERTIES_PASSED": "Inconsistencies in message properties",
            "MESSAGE_TOO_LARGE": (
                "Message is too large for the system to handle, try sendPartial()"
            ),
            "FAILURE_UNDERLYING_STACK": "Failure occurred in the underlying protocol stack",
            "MESSAGE_TIMEOUT": "The messages lifetime ran out",
        },
    },
    "selection_properties": {
        "PreferenceLevel": {"REQUIRE": 2, "PREFER": 1, "IGNORE": 0, "AVOID": -1, "PROHIBIT": -2},
        "SelectionProperties": {
            "RELIABILITY": "reliability",
            "PRESERVE_MSG_BOUNDARIES": "preserve-msg-boundaries",
            "PER_MSG_RELIABILITY": "per-msg-reliability",
            "PRESERVE_ORDER": "preserve-order",
            "ZERO_RTT_MSG": "zero-rtt-msg",
            "MULTISTREAMING": "multistreaming",
            "PER_MSG_CHECKSUM_LEN_SEND": "per-msg-checksum-len-send",
            "PER_MSG_CHECKSUM_LEN_RECV": "per-msg-checksum-len-recv",
            "CONGESTION_CONTROL": "congestion-control",
            "INTERFACE": "interface",
            "PVD": "pvd",
            "LOCAL_ADDRESS_PREFERENCE": "local-address-preference",
            "MULTIPATH": "multipath",
            "DIRECTION": "direction",
            "RETRANSMIT_NOTIFY": "retransmit-notify",
            "SOFT_ERROR_NOTIFY": "soft-error-notify",
        },
        "CommunicationDirections": {
            "BIDIRECTIONAL": 1,
            "UNIDIRECTIONAL_SEND": 2,
            "UNIDIRECTIONAL_RECEIVE": 3,
        },
    },
    "connection_properties": {
        "ConnectionProperties": {
            "BOUNDS_ON_SEND_OR_RECEIVE_RATE": "max-send-rate / max-recv-rate",
            "CAPACITY_PROFILE": "conn-capacity-profile",
            "CONNECTION_GROUP_TRANSMISSION_SCHEDULER": "conn-scheduler",
            "MAXIMUM_MESSAGE_SIZE_BEFORE_FRAGMENTATION_OR_SEGMENTATION": (
                "singular-transmission-msg-max-len"
            ),
            "MAXIMUM_MESSAGE_SIZE_CONCURRENT_WITH_CONNECTION_ESTABLISHMENT": (
                "zero-rtt-msg-max-len"
            ),
            "MAXIMUM_MESSAGE_SIZE_ON_RECEIVE": "recv-msg-max-len",
            "MAXIMUM_MESSAGE_SIZE_ON_SEND": "send-msg-max-len",
            "PRIORITY": "conn-prio",
            "REQUIRED_MINIMUM_CORRUPTION_PROTECTION_COVERAGE_FOR_RECEIVING": "recv-checksum-len",
            "RETRANSMISSION_THRESHOLD_BEFORE_EXCESSIVE_RETRANSMISSION_NOTIFICATION": (
                "retransmit-notify-threshold"
            ),
            "TIMEOUT_FOR_ABORTING_CONNECTION": "conn-timeout",
            "USER_TIMEOUT_TCP": "tcp-uto",
        },
        "TCPUserTimeout": {
            "ADVERTISED_USER_TIMEOUT": "tcp.user-timeout-value",
            "USER_TIMEOUT_ENABLED": "tcp.user-timeout",
            "CHANGEABLE": "tcp.user-timeout-recv",
        },
        "CapacityProfiles": {
            "DEFAULT": 0,
            "SCAVENGER": 1,
            "LOW_LATENCY_INTERACTIVE": 36,
            "LOW_LATENCY_NON_INTERACTIVE": 18,
            "CONSTANT_RATE_STREAMING": 28,
            "CAPACITY_SEEKING": 10,
        },
    },
    "message_properties": {
        "MessageProperties": {
            "LIFETIME": "msg-lifetime",
            "PRIORITY": "msg-prio",
            "ORDERED": "msg-ordered",
            "IDEMPOTENT": "idempotent",
            "FINAL": "final",
            "CORRUPTION_PROTECTION_LENGTH": "msg-checksum-len",
            "RELIABLE_DATA_TRANSFER": "msg-reliable",
            "MESSAGE_CAPACITY_PROFILE_OVERRIDE": "msg-capacity-profile",
            "SINGULAR_TRANSMISSION": "singular-transmission",
            "ECN": "ecn",
            "EARLY_DATA": "early-data",
            "RECEIVING_FINAL_MESSAGE": "receiving-final-messages",
        },
    },
    "transport_properties": {
        "TransportPropertyProfiles": {
            "RELIABLE_INORDER_STREAM": 1,
            "RELIABLE_MESSAGE": 2,
            "UNRELIABLE_DATAGRAM": 3,
        },
    },
}

#: Enumeration → member → default; a name stands for a member of another enumeration.
DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "SelectionProperties": {
        "RELIABILITY": "PreferenceLevel.REQUIRE",
        "PRESERVE_MSG_BOUNDARIES": "PreferenceLevel.PREFER",
        "PER_MSG_RELIABILITY": "PreferenceLevel.IGNORE",
        "PRESERVE_ORDER": "PreferenceLevel.REQUIRE",
        "ZERO_RTT_MSG": "PreferenceLevel.IGNORE",
        "MULTISTREAMING": "PreferenceLevel.PREFER",
        "PER_MSG_CHECKSUM_LEN_SEND": "PreferenceLevel.IGNORE",
        "PER_MSG_CHECKSUM_LEN_RECV": "PreferenceLevel.IGNORE",
        "CONGESTION_CONTROL": "PreferenceLevel.REQUIRE",
        "INTERFACE": None,
        "PVD": None,
        "LOCAL_ADDRESS_PREFERENCE": None,
        "MULTIPATH": "PreferenceLevel.PREFER",
        "DIRECTION": "CommunicationDirections.BIDIRECTIONAL",
        "RETRANSMIT_NOTIFY": "PreferenceLevel.IGNORE",
        "SOFT_ERROR_NOTIFY": "PreferenceLevel.IGNORE",
    },
    "ConnectionProperties": {
        "BOUNDS_ON_SEND_OR_RECEIVE_RATE": (-1, -1),
        "CAPACITY_PROFILE": "CapacityProfiles.DEFAULT",
        "CONNECTION_GROUP_TRANSMISSION_SCHEDULER": "Weighted fair queueing",
        "MAXIMUM_MESSAGE_SIZE_BEFORE_FRAGMENTATION_OR_SEGMENTATION": -1,
        "MAXIMUM_MESSAGE_SIZE_CONCURRENT_WITH_CONNECTION_ESTABLISHMENT": -1,
        "MAXIMUM_MESSAGE_SIZE_ON_RECEIVE": -1,
        "MAXIMUM_MESSAGE_SIZE_ON_SEND": -1,
        "PRIORITY": 100,
        "REQUIRED_MINIMUM_CORRUPTION_PROTECTION_COVERAGE_FOR_RECEIVING": -1,
        "RETRANSMISSION_THRESHOLD_BEFORE_EXCESSIVE_RETRANSMISSION_NOTIFICATION": -1,
        "TIMEOUT_FOR_ABORTING_CONNECTION": -1,
        "USER_TIMEOUT_TCP": {
            "TCPUserTimeout.ADVERTISED_USER_TIMEOUT": 300,
            "TCPUserTimeout.USER_TIMEOUT_ENABLED": False,
            "TCPUserTimeout.CHANGEABLE": True,
        },
    },
    "MessageProperties": {
        "LIFETIME": math.inf,
        "PRIORITY": 100,
        "ORDERED": True,
        "IDEMPOTENT": False,
        "FINAL": False,
        "CORRUPTION_PROTECTION_LENGTH": -1,
        "RELIABLE_DATA_TRANSFER": True,
        "MESSAGE_CAPACITY_PROFILE_OVERRIDE": "CapacityProfiles.DEFAULT",
        "SINGULAR_TRANSMISSION": False,
        "ECN": None,
        "EARLY_DATA": None,
        "RECEIVING_FINAL_MESSAGE": None,
    },
}

#: Modules that programs import, with the package's name or without.
MODULES: Final = (
    "connection",
    "connection_properties",
    "endpoint",
    "enumerations",
    "framer",
    "listener",
    "message_context",
    "message_framer",
    "message_properties",
    "preconnection",
    "security_parameters",
    "selection_properties",
    "transport_properties",
    "utils",
)


def names() -> list[str]:
    """Every documented name, with its class or enumeration in front of it if it has one."""
    found: list[str] = []
    for classes in METHODS.values():
        for cls, methods in classes.items():
            found.append(cls)
            found += [f"{cls}.{method}" for method in methods if method != "__init__"]
    for owners in HANDLERS.values():
        found += [f"{cls}.{name}" for cls, handlers in owners.items() for name in handlers]
    found += [name for functions in FUNCTIONS.values() for name in functions]
    for enumerations in ENUMERATIONS.values():
        for enumeration, members in enumerations.items():
            found.append(enumeration)
            found += [f"{enumeration}.{member}" for member in members]
    return found
