"""Which records of a living pod nobody needs any more. Pure.

Source: pkg/kubelet/kuberuntime/kuberuntime_gc.go; kuberuntime_container.go, pruneInitContainersBeforeStart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vkprovider.kubelet.runtime_state import RuntimePod
from vkprovider.provider import cri

MAX_DEAD_PER_CONTAINER: Final = 1
"""Dead instances kept of each container. Source: kubelet flag --maximum-dead-containers-per-container."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Records to remove, oldest first."""

    containers: tuple[cri.ContainerID, ...] = ()
    sandboxes: tuple[cri.SandboxID, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.containers or self.sandboxes)


def compute_garbage(runtime_pod: RuntimePod) -> Garbage:
    """Dead instances but the newest of each container, and dead sandboxes but the newest that hold no other container."""
    if len(runtime_pod.containers) == len(runtime_pod.newest) and len(runtime_pod.sandboxes) <= 1:
        return Garbage()
    dead: dict[str, int] = {}
    containers: list[cri.ContainerID] = []
    for record in runtime_pod.containers:
        if record.state not in (cri.ContainerState.EXITED, cri.ContainerState.CREATED):
            continue
        dead[record.name] = dead.get(record.name, 0) + 1
        newest = runtime_pod.newest[record.name]
        # An instance that was made and never started is only of use while it is the newest.
        stale = record is not newest and record.state is cri.ContainerState.CREATED
        if stale or dead[record.name] > MAX_DEAD_PER_CONTAINER:
            containers.append(record.id)
    removed = set(containers)
    in_use = {record.sandbox_id for record in runtime_pod.containers if record.id not in removed}
    sandboxes = [
        sandbox.id
        for sandbox in runtime_pod.sandboxes[1:]
        if sandbox.state is not cri.SandboxState.READY and sandbox.id not in in_use
    ]
    return Garbage(tuple(reversed(containers)), tuple(reversed(sandboxes)))
