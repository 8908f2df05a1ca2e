from taps_core.testing.fixtures import (  # noqa: F401  # fixtures are found by name
    loop_name,
    memory_network,
    memory_transport,
    run,
)
