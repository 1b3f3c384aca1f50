"""Chooses free ports on 127.0.0.1 that a restart finds free again."""

import hashlib
import socket
from collections.abc import Collection

from schemas.errors import PortBusyError

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 15_000, 31_999
"""Below the ports that Linux and macOS give to outgoing connections: while a server is down no
client of another one can come to sit on its port, nor a retrying client connect to itself."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection of the last run that still lingers does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            # Two sockets may be bound with SO_REUSEADDR, but only one may listen.
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port(seed: str, taken: Collection[int] = ()) -> int:
    """The first free port in an order that starts where `seed` says.

    Args:
        seed: What the port is for, such as a folder and a name: different seeds start far apart,
            so that two stacks starting at once do not race for one port.
        taken: Ports already promised to others.

    Raises:
        PortBusyError: If no port of the range is free.
    """
    count = LAST_PORT - FIRST_PORT + 1
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % count
    for step in range(count):
        port = FIRST_PORT + (start + step) % count
        if port not in taken and is_free(port):
            return port
    raise PortBusyError(f"no port of 127.0.0.1 between {FIRST_PORT} and {LAST_PORT} is free")
