"""Whether an engine lives on this very machine, so that it can mount files that we make. Blocking, but quick."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from vkprovider.backends.docker.endpoint import Endpoint

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Locality:
    """What we have in common with an engine.

    Attributes:
        shares_filesystem: It runs under our kernel and is reached through a socket in our files, so that directories of ours can be
            mounted (from inside a container: those that are mounted there at the same path as on the host).
        shares_mounts: It lives in our mount namespace.
    """

    shares_filesystem: bool = False
    shares_mounts: bool = False


def find_locality(endpoint: Endpoint, kernel_version: str) -> Locality:
    """Find out what we have in common with an engine.

    An engine behind TCP, or in a virtual machine behind a socket (another kernel), shares nothing.

    Args:
        endpoint: Where it listens.
        kernel_version: ``KernelVersion`` of its ``/info``.
    """
    if endpoint.socket_path is None or kernel_version != os.uname().release:
        return Locality()
    return Locality(shares_filesystem=True, shares_mounts=_shares_namespace(endpoint.socket_path))


def _shares_namespace(socket_path: str) -> bool:
    """Whether whoever made the socket (the engine, or systemd for it) is in our mount namespace; no, if it cannot be told."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(socket_path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", credentials)[0]
        # 0: a process that our PID namespace does not have.
        return pid > 0 and os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return False
