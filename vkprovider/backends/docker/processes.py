"""Processes of containers as this host sees them: killing one for sure, entering its network namespace.

Both need to see the engine's processes, which is so when the engine runs on this host and we share its PID namespace. The
engine's word for a process id is never trusted alone: the process must belong to the container by its cgroup, and it is
signalled through a file descriptor that stays with this very process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from vkprovider.backends.docker.client import EngineClient

_CLONE_NEWNET = 0x40000000


class ContainerProcesses:
    """Looks at processes of containers.

    Args:
        client: Connections to the engine.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    def is_visible(self, pid: int, container_id: str) -> bool:
        """Whether ``pid`` is, on this host, a process of that container. Quick: two small reads from ``/proc``."""
        if not self._client.is_local or pid <= 0:
            return False
        try:
            return container_id in Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            return False

    async def kill_tree(self, pid: int, container_id: str) -> bool:
        """Kill a process of a container with all its descendants.

        Returns:
            Whether it is certain to be dead; False if we cannot see it or may not kill it.
        """
        return await asyncio.to_thread(self._kill_tree, pid, container_id)

    def _kill_tree(self, pid: int, container_id: str) -> bool:
        if not self.is_visible(pid, container_id):
            return False
        # Stopped first, so that none of them starts another one while we look.
        doomed: dict[int, int] = {}
        try:
            waiting = [pid]
            while waiting:
                process = waiting.pop()
                if process in doomed:
                    continue
                try:
                    descriptor = os.pidfd_open(process)
                except OSError:
                    continue
                if not self.is_visible(process, container_id):
                    os.close(descriptor)
                    continue
                doomed[process] = descriptor
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
                waiting.extend(_children(process))
            for descriptor in doomed.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except PermissionError:
            return False
        finally:
            for descriptor in doomed.values():
                os.close(descriptor)
        return True

    async def connect_in_namespace(self, pid: int, container_id: str, port: int) -> socket.socket | None:
        """A socket connected to a TCP port on localhost in the network namespace of a container's process.

        Returns:
            The connected, non-blocking socket; None if we cannot enter the namespace.

        Raises:
            ConnectionError: Nothing listens there.
        """
        if not self.is_visible(pid, container_id):
            return None
        errors: list[OSError] = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                connection = await _run_in_thread(f"/proc/{pid}/ns/net", family)
            except PermissionError:
                return None
            except OSError as error:
                errors.append(error)
                continue
            try:
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
            except OSError as error:
                connection.close()
                errors.append(error)
                continue
            except BaseException:
                connection.close()
                raise
            return connection
        raise ConnectionRefusedError("; ".join(str(error) for error in errors))


async def _run_in_thread(namespace: str, family: socket.AddressFamily) -> socket.socket:
    """Make a socket in another network namespace; it stays there for its whole life."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[socket.socket] = loop.create_future()

    def deliver(result: socket.socket | OSError) -> None:
        if made.cancelled():
            if isinstance(result, socket.socket):
                result.close()
        elif isinstance(result, OSError):
            made.set_exception(result)
        else:
            made.set_result(result)

    def run() -> None:
        # A thread of its own: it enters the namespace and ends there, so that no other work ever runs inside.
        result: socket.socket | OSError
        try:
            with open(namespace, "rb") as file:
                _enter(file.fileno())
            result = socket.socket(family, socket.SOCK_STREAM)
            result.setblocking(False)
        except OSError as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=run, name="docker-netns", daemon=True).start()
    return await made


def _enter(descriptor: int) -> None:
    if hasattr(os, "setns"):  # Python 3.12
        os.setns(descriptor, _CLONE_NEWNET)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                yield from (int(child) for child in text.split())
