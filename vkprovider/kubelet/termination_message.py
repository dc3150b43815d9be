"""What a container leaves behind to say why it ended.

Source: pkg/kubelet/kuberuntime/kuberuntime_container.go, getTerminationMessage, readLastStringFromContainerLogs.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from vkprovider.api import labels
from vkprovider.errors import VkproviderError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.container_runtime import ContainerRuntime

MAX_MESSAGE_BYTES: Final = 4096
MAX_LOG_BYTES: Final = 2048
MAX_LOG_LINES: Final = 80
FALLBACK_POLICY: Final = "FallbackToLogsOnError"


class TerminationMessageReader:
    """Reads termination messages of exited containers.

    Args:
        runtime: The runtime; reads logs, and files where it shares our filesystem.
    """

    def __init__(self, runtime: ContainerRuntime) -> None:
        self._runtime = runtime

    async def read(self, status: cri.ContainerStatus) -> str:
        """The message of an exited container; empty if it left none. Never fails."""
        annotations = status.annotations
        may_use_log = (
            annotations.get(labels.CONTAINER_TERMINATION_MESSAGE_POLICY) == FALLBACK_POLICY
            and status.exit_code != 0
            and status.reason != "ContainerCannotRun"
        )
        path = annotations.get(labels.CONTAINER_TERMINATION_MESSAGE_PATH, "")
        mount = next((m for m in status.mounts if path and m.container_path == path and m.host_path), None)
        if mount is not None and self._runtime.shares_filesystem:
            try:
                data = await asyncio.to_thread(_read_tail, mount.host_path)
            except FileNotFoundError:
                data = b""
            except OSError as error:
                return f"Error on reading termination log {mount.host_path}: {error.strerror or error}"
            if data or not may_use_log:
                return data.decode(errors="replace")
        return await self._read_log(status.id) if may_use_log else ""

    async def _read_log(self, container_id: cri.ContainerID) -> str:
        tail = bytearray()
        try:
            async for chunk in self._runtime.container_logs(container_id, LogOptions(tail_lines=MAX_LOG_LINES)):
                tail += chunk
                del tail[:-MAX_LOG_BYTES]
        except VkproviderError as error:
            return f"Error on reading termination message from logs: {error}"
        return tail.decode(errors="replace")


def _read_tail(path: str) -> bytes:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - MAX_MESSAGE_BYTES))
        return file.read(MAX_MESSAGE_BYTES)
