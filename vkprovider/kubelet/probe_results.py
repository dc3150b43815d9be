"""What the engine wants to know of probes, and what it uses when nobody probes."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from vkprovider.api import v1
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import PodContext


class ProbeKind(StrEnum):
    """What a probe is for; the value is the wire name without ``Probe``."""

    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


class ProbeResults(Protocol):
    """Results of probes by container id, kept by whoever probes.

    Source: pkg/kubelet/prober/prober_manager.go, Manager; pkg/kubelet/prober/results.
    """

    def find_result(self, kind: ProbeKind, container_id: cri.ContainerID) -> bool | None:
        """Success or failure of this container's probe; None while there is no decided result."""
        ...

    def has_worker(self, kind: ProbeKind, uid: v1.PodUID, container: str) -> bool:
        """Whether the container is being probed so."""
        ...

    def trigger_readiness(self, uid: v1.PodUID, container: str) -> None:
        """Run the readiness probe at once; the engine asks for it when a started container is not ready yet."""
        ...

    def ensure_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Begin to probe the pod's containers, or go on with its newest spec. Never blocks."""
        ...

    def update_status(self, uid: v1.PodUID, status: v1.PodStatus) -> None:
        """Learn of containers from the pod's newest status. Never blocks."""
        ...

    def stop_liveness_and_startup(self, pod: v1.Pod) -> None:
        """The pod is being stopped: only readiness and the probes of sidecars go on."""
        ...

    def remove_pod(self, uid: v1.PodUID) -> None:
        """Stop to probe the pod and forget its results. Safe to repeat."""
        ...

    async def aclose(self) -> None:
        """Stop all probes. Safe to repeat."""
        ...


class NoProbes:
    """Nobody probes: whatever runs is started and ready."""

    def find_result(self, kind: ProbeKind, container_id: cri.ContainerID) -> bool | None:
        """No result."""
        return None

    def has_worker(self, kind: ProbeKind, uid: v1.PodUID, container: str) -> bool:
        """Nothing is probed."""
        return False

    def trigger_readiness(self, uid: v1.PodUID, container: str) -> None:
        """Nothing to do."""

    def ensure_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Nothing to do."""

    def update_status(self, uid: v1.PodUID, status: v1.PodStatus) -> None:
        """Nothing to do."""

    def stop_liveness_and_startup(self, pod: v1.Pod) -> None:
        """Nothing to do."""

    def remove_pod(self, uid: v1.PodUID) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""
