"""Free TCP ports for servers that cannot choose one themselves."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel hands to outgoing connections (32768 and up), and below NodePorts (30000 to 32767), so
# that nothing takes the port between this look and the server's start.
_FIRST = 18000
_LAST = 29999


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Different TCP ports that nothing listens on, chosen at random.

    Raises:
        OSError: None was found.
    """
    found: list[int] = []
    for port in random.sample(range(_FIRST, _LAST + 1), k=500):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free TCP ports on {host} between {_FIRST} and {_LAST}")


def free_port(*, host: str = "127.0.0.1") -> int:
    """One TCP port that nothing listens on."""
    return free_ports(1, host=host)[0]


def host_ip() -> str:
    """The address of this host's default route; without one 127.0.0.1. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
