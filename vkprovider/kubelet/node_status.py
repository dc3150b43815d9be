"""What the node is and how it fares, as the runtime tells.

Source: pkg/kubelet/runtime.go, runtimeState; pkg/kubelet/kubelet.go, updateRuntimeUp; pkg/kubelet/nodestatus/setters.go.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vkprovider.api.quantity import format_memory_ki
from vkprovider.errors import TransientError, VkproviderError
from vkprovider.kubelet.pleg import PodLifecycleEventGenerator
from vkprovider.provider import cri
from vkprovider.provider.capabilities import NodeDescription, NodeStatusCapability
from vkprovider.provider.container_runtime import ContainerRuntime, HostInfo, HostResources

logger = logging.getLogger(__name__)

MAX_NAMES_PER_IMAGE: Final = 5
"""Source: pkg/kubelet/nodestatus/setters.go, MaxNamesPerImageInNodeStatus."""
SLOW_FACTS_PERIOD_S: Final = 60.0


class RuntimeNodeStatus(NodeStatusCapability):
    """Node status of a provider over a runtime.

    Args:
        runtime: The runtime.
        pleg: Tells whether the runtime has been listed lately.
        root_dir: Directory of this node's files; its filesystem is the node's ephemeral storage.

    Attributes:
        network_problem: Why pods can get no network now, or empty.
        recursive_read_only: Whether the default handler can make mounts recursively read-only.
    """

    def __init__(self, runtime: ContainerRuntime, pleg: PodLifecycleEventGenerator, root_dir: Path) -> None:
        self._runtime = runtime
        self._pleg = pleg
        self._root_dir = root_dir
        self._status = cri.RuntimeStatus()
        self._images: tuple[float, Sequence[Mapping[str, Any]]] | None = None
        self._host: tuple[float, HostResources] | None = None
        self.network_problem = ""
        self.recursive_read_only = False

    async def ping(self) -> None:
        """Ask the runtime how it fares.

        Raises:
            TransientError: Something is wrong; the message is the kubelet's.
        """
        problems: list[str] = []
        try:
            self._status = await self._runtime.status()
        except VkproviderError as error:
            problems.append(f"container runtime is down: {error}")
        else:
            self.recursive_read_only = any(
                handler.recursive_read_only_mounts for handler in self._status.runtime_handlers if not handler.name
            )
            self.network_problem = _find_network_problem(self._status)
            problems += _find_runtime_problems(self._status)
            if self.network_problem:
                problems.append(self.network_problem)
        try:
            self._pleg.check_health()
        except TransientError as error:
            problems.append(str(error))
        if problems:
            raise TransientError(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")

    async def describe_node(self) -> NodeDescription:
        """Capacity, versions, images and abilities.

        Raises:
            TransientError: The runtime did not answer.
        """
        now = asyncio.get_running_loop().time()
        version = await self._runtime.version()
        node_info = {"containerRuntimeVersion": f"{version.runtime_name}://{version.runtime_version}"}
        capacity: dict[str, str] = {}
        host = await self._find_host(now)
        if host is not None:
            capacity["cpu"] = str(host.cpu_cores)
            capacity["memory"] = format_memory_ki(host.memory_bytes)
            node_info["operatingSystem"] = host.operating_system
            node_info["architecture"] = host.architecture
            if host.kernel_version:
                node_info["kernelVersion"] = host.kernel_version
            if host.os_image:
                node_info["osImage"] = host.os_image
        storage_bytes = host.storage_bytes if host is not None and host.storage_bytes else self._storage_bytes()
        if storage_bytes:
            capacity["ephemeral-storage"] = format_memory_ki(storage_bytes)
        policy = self._status.supplemental_groups_policy
        return NodeDescription(
            capacity=capacity,
            node_info=node_info,
            images=await self._list_images(now),
            runtime_handlers=[
                {
                    "name": handler.name,
                    "features": {
                        "recursiveReadOnlyMounts": handler.recursive_read_only_mounts,
                        "userNamespaces": handler.user_namespaces,
                    },
                }
                for handler in sorted(self._status.runtime_handlers, key=lambda handler: handler.name)
            ],
            features={} if policy is None else {"supplementalGroupsPolicy": policy},
        )

    async def _find_host(self, now: float) -> HostResources | None:
        if not isinstance(self._runtime, HostInfo):
            return None
        if self._host is None or now - self._host[0] > SLOW_FACTS_PERIOD_S:
            self._host = (now, await self._runtime.host_resources())
        return self._host[1]

    async def _list_images(self, now: float) -> Sequence[Mapping[str, Any]]:
        if self._images is None or now - self._images[0] > SLOW_FACTS_PERIOD_S:
            images = [
                {
                    "names": [*image.repo_digests, *image.repo_tags][:MAX_NAMES_PER_IMAGE],
                    "sizeBytes": image.size_bytes,
                }
                for image in await self._runtime.images.list_images()
            ]
            self._images = (now, images)
        return self._images[1]

    def _storage_bytes(self) -> int:
        try:
            usage = os.statvfs(self._root_dir)
        except OSError as error:
            logger.warning(
                "Cannot tell the size of the filesystem", extra={"path": str(self._root_dir), "error": str(error)}
            )
            return 0
        return usage.f_frsize * usage.f_blocks


def _describe(condition: cri.RuntimeCondition) -> str:
    return f"{condition.type}={str(condition.status).lower()} reason:{condition.reason} message:{condition.message}"


def _find_runtime_problems(status: cri.RuntimeStatus) -> list[str]:
    condition = next((c for c in status.conditions if c.type == "RuntimeReady"), None)
    if condition is None or condition.status:
        return []
    return [f"container runtime not ready: {_describe(condition)}"]


def _find_network_problem(status: cri.RuntimeStatus) -> str:
    condition = next((c for c in status.conditions if c.type == "NetworkReady"), None)
    if condition is None:
        return "network state unknown"
    return "" if condition.status else f"container runtime network not ready: {_describe(condition)}"
