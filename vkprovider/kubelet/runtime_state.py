"""One pod as the runtime holds it: its sandboxes and containers, newest first.

Source: pkg/kubelet/container/runtime.go, PodStatus and Status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from vkprovider.api import labels, v1
from vkprovider.provider import cri
from vkprovider.resolve.downward import sort_pod_ips


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """One instance of a container.

    Attributes:
        id: Runtime id.
        name: Name in the pod spec.
        sandbox_id: Sandbox it was made in.
        state: State.
        restart_count: How many instances came before.
        spec_hash: Hash of the spec it was made from; see ``pod_facts.hash_container``.
        created_at: When it was made.
        started_at: When its process began, if it did.
        finished_at: When its process ended, if it did.
        exit_code: Exit code once exited.
        reason: Reason once exited.
        message: The runtime's message and the termination message, once exited.
        image: Image as the runtime names it.
        image_ref: What ``imageID`` shows.
        annotations: Annotations it was made with.
        resources: Cgroup settings in force, if the runtime tells.
        user: Identity of its first process, if the runtime tells.
    """

    id: cri.ContainerID
    name: str
    sandbox_id: cri.SandboxID
    state: cri.ContainerState
    restart_count: int
    spec_hash: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    resources: cri.LinuxContainerResources | None = None
    user: cri.ContainerUser | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self.state is cri.ContainerState.RUNNING


def make_record(
    status: cri.ContainerStatus, sandbox_id: cri.SandboxID, *, termination_message: str = ""
) -> ContainerRecord:
    """Record of a container from what the runtime says of it.

    Args:
        status: The runtime's status.
        sandbox_id: Sandbox that holds the container.
        termination_message: What the container left behind; appended to the runtime's own message.

    Source: kuberuntime_container.go, toKubeContainerStatus and convertToKubeContainerStatus.
    """
    exited = status.state is cri.ContainerState.EXITED
    message = status.message if exited else ""
    if termination_message:
        message = f"{message}: {termination_message}" if message else termination_message
    return ContainerRecord(
        id=status.id,
        name=status.labels.get(labels.CONTAINER_NAME) or status.metadata.name,
        sandbox_id=sandbox_id,
        state=status.state,
        restart_count=_restart_count(status),
        spec_hash=status.annotations.get(labels.CONTAINER_HASH, ""),
        created_at=status.created_at,
        started_at=None if status.state is cri.ContainerState.CREATED else status.started_at,
        finished_at=status.finished_at if exited else None,
        exit_code=status.exit_code if exited else 0,
        reason=status.reason if exited else "",
        message=message,
        image=status.image.image,
        image_ref=status.image_ref,
        annotations=status.annotations,
        resources=status.resources,
        user=status.user,
    )


def _restart_count(status: cri.ContainerStatus) -> int:
    text = status.annotations.get(labels.CONTAINER_RESTART_COUNT, "")
    return int(text) if text.isdigit() else status.metadata.attempt


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """All that the runtime holds of one pod.

    Attributes:
        uid: UID of the pod.
        name: Name of the pod.
        namespace: Namespace of the pod.
        sandboxes: Sandboxes, newest first.
        containers: Instances of containers, newest first.
        newest: Newest instance of each container, by name.
    """

    uid: v1.PodUID
    name: str = ""
    namespace: str = ""
    sandboxes: tuple[cri.PodSandboxStatus, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()
    newest: Mapping[str, ContainerRecord] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether the runtime holds anything of the pod."""
        return bool(self.sandboxes or self.containers)

    @property
    def is_running(self) -> bool:
        """Whether anything of the pod runs or may run: a container, or a ready sandbox."""
        return any(
            record.state in (cri.ContainerState.RUNNING, cri.ContainerState.UNKNOWN) for record in self.containers
        ) or any(sandbox.state is cri.SandboxState.READY for sandbox in self.sandboxes)

    @property
    def active_sandbox(self) -> cri.PodSandboxStatus | None:
        """The newest sandbox if it is ready, else None."""
        if self.sandboxes and self.sandboxes[0].state is cri.SandboxState.READY:
            return self.sandboxes[0]
        return None

    @property
    def ips(self) -> tuple[str, ...]:
        """Addresses of the active sandbox, primary first."""
        return sandbox_ips(sandbox) if (sandbox := self.active_sandbox) is not None else ()

    def find(self, name: str) -> ContainerRecord | None:
        """Newest instance of the container, or None."""
        return self.newest.get(name)

    def instances(self, name: str) -> list[ContainerRecord]:
        """All instances of the container, newest first."""
        return [record for record in self.containers if record.name == name]


@lru_cache(maxsize=4096)
def sort_ips(pod_ips: tuple[str, ...], host_ips: tuple[str, ...]) -> tuple[str, ...]:
    """``sort_pod_ips``, remembered: statuses ask for the same addresses again and again."""
    return sort_pod_ips(pod_ips, host_ips)


def sandbox_ips(sandbox: cri.PodSandboxStatus) -> tuple[str, ...]:
    """Addresses of a sandbox, primary first; empty with the host's network.

    Source: kuberuntime_sandbox.go, determinePodSandboxIPs.
    """
    return (sandbox.ip, *sandbox.additional_ips) if sandbox.ip else ()


def make_runtime_pod(
    uid: v1.PodUID,
    sandboxes: Iterable[cri.PodSandboxStatus],
    containers: Iterable[ContainerRecord],
    *,
    name: str = "",
    namespace: str = "",
) -> RuntimePod:
    """A pod of these sandboxes and containers, in any order; the newest come first in the result."""
    ordered_sandboxes = tuple(
        sorted(sandboxes, key=lambda sandbox: (sandbox.created_at, sandbox.metadata.attempt), reverse=True)
    )
    ordered = tuple(sorted(containers, key=lambda record: (record.created_at, record.restart_count), reverse=True))
    newest: dict[str, ContainerRecord] = {}
    for record in ordered:
        newest.setdefault(record.name, record)
    return RuntimePod(uid, name, namespace, ordered_sandboxes, ordered, newest)
