"""From a container's spec and its resolved values to the configuration that the runtime gets. Pure.

Source: pkg/kubelet/kuberuntime/kuberuntime_container.go, generateContainerConfig; kuberuntime_container_linux.go; labels.go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vkprovider.api import labels, v1
from vkprovider.api.resources import compute_container_cgroup, is_pod_level_resource
from vkprovider.kubelet.pod_facts import ContainerFacts
from vkprovider.kubelet.sandbox_config import make_pod_labels
from vkprovider.kubelet.security_context import make_container_security_context
from vkprovider.provider import cri
from vkprovider.resolve.expansion import expand_all
from vkprovider.settings import PodSettings

DEFAULT_TERMINATION_MESSAGE_PATH: Final = "/dev/termination-log"
"""API default of ``terminationMessagePath``."""


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """What a container's configuration depends on besides the spec.

    Attributes:
        restart_count: How many instances came before.
        image: What to run.
        image_status: The image as it is on the node; tells its user.
        environment: All variables.
        mounts: All mounts, in the order in which they are made.
        owner: Our ownership labels.
        restart_backoff_s: Seconds that a restart of this instance has to wait; read back after a restart of ours.
        memory_capacity_bytes: Memory of the node, the base of the OOM score.
        seccomp_root: Directory of local seccomp profiles.
        target_id: Container whose process namespace an ephemeral one joins.
        extra_groups: Groups that volumes bring.
        devices: Devices that volumes bring.
    """

    restart_count: int
    image: cri.ImageSpec
    image_status: cri.Image | None
    environment: Mapping[str, str]
    owner: Mapping[str, str]
    seccomp_root: Path
    mounts: tuple[cri.Mount, ...] = ()
    restart_backoff_s: float = 0.0
    memory_capacity_bytes: int = 0
    target_id: cri.ContainerID | None = None
    extra_groups: Sequence[int] = ()
    devices: tuple[cri.Device, ...] = ()


def make_container_config(
    pod: v1.Pod, container: ContainerFacts, inputs: ContainerInputs, settings: PodSettings
) -> cri.ContainerConfig:
    """Configuration of one instance of a container.

    Raises:
        PodSyncError: The security settings contradict each other or lack something.
    """
    spec = container.spec
    environment = inputs.environment
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(container.name, inputs.restart_count),
        image=inputs.image,
        command=expand_all(spec.get("command"), environment),
        args=expand_all(spec.get("args"), environment),
        working_dir=spec.get("workingDir") or "",
        envs=environment,
        mounts=inputs.mounts,
        devices=inputs.devices,
        device_requests=make_device_requests(spec),
        labels={**make_pod_labels(pod, inputs.owner), labels.CONTAINER_NAME: container.name},
        annotations=make_annotations(pod, container, inputs),
        log_path=f"{container.name}/{inputs.restart_count}.log",
        stdin=bool(spec.get("stdin")),
        stdin_once=bool(spec.get("stdinOnce")),
        tty=bool(spec.get("tty")),
        resources=make_resources(pod, spec, settings, memory_capacity_bytes=inputs.memory_capacity_bytes),
        security_context=make_container_security_context(
            pod,
            spec,
            image=inputs.image_status,
            seccomp_root=inputs.seccomp_root,
            seccomp_default=settings.seccomp_default,
            target_id=inputs.target_id,
            extra_groups=inputs.extra_groups,
        ),
    )


def make_resources(
    pod: v1.Pod, container: v1.Container, settings: PodSettings, *, memory_capacity_bytes: int
) -> cri.LinuxContainerResources:
    """Cgroup settings that the container asks for."""
    cgroup = compute_container_cgroup(
        pod,
        container,
        memory_capacity_bytes=max(1, memory_capacity_bytes),
        cpu_cfs_quota=settings.cpu_cfs_quota,
        cpu_period_us=round(settings.cpu_cfs_quota_period_s * 1_000_000),
    )
    return cri.LinuxContainerResources(
        cpu_period=cgroup.cpu_period_us,
        cpu_quota=cgroup.cpu_quota_us,
        cpu_shares=cgroup.cpu_shares,
        memory_limit_bytes=cgroup.memory_limit_bytes,
        # Swap is not given to pods: the limit on memory and swap together is the limit on memory.
        memory_swap_limit_bytes=cgroup.memory_limit_bytes,
        oom_score_adj=cgroup.oom_score_adj,
        pids_limit=settings.pids_limit if settings.pids_limit > 0 else None,
        hugepage_limits_bytes=cgroup.hugepage_limits_bytes,
    )


def make_device_requests(container: v1.Container) -> dict[str, int]:
    """Extended resources that the container asks for, such as ``nvidia.com/gpu``."""
    limits = container.get("resources", {}).get("limits") or {}
    return {
        name: int(amount)
        for name, amount in limits.items()
        if "/" in name and not is_pod_level_resource(name) and str(amount).isdigit()
    }


def make_annotations(pod: v1.Pod, container: ContainerFacts, inputs: ContainerInputs) -> dict[str, str]:
    """What has to be known of the instance later, also by a process that starts after us.

    Source: kuberuntime/labels.go, newContainerAnnotations.
    """
    spec, pod_spec = container.spec, pod.get("spec", {})
    annotations = {
        labels.CONTAINER_HASH: container.spec_hash,
        labels.CONTAINER_RESTART_COUNT: str(inputs.restart_count),
        labels.CONTAINER_TERMINATION_MESSAGE_PATH: spec.get("terminationMessagePath", DEFAULT_TERMINATION_MESSAGE_PATH),
        labels.CONTAINER_TERMINATION_MESSAGE_POLICY: spec.get("terminationMessagePolicy") or "File",
    }
    if inputs.restart_backoff_s:
        annotations[labels.CONTAINER_RESTART_BACKOFF] = f"{inputs.restart_backoff_s:g}"
    deletion_grace = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion_grace is not None:
        annotations[labels.POD_DELETION_GRACE_PERIOD] = str(deletion_grace)
    grace = pod_spec.get("terminationGracePeriodSeconds")
    if grace is not None:
        annotations[labels.POD_TERMINATION_GRACE_PERIOD] = str(grace)
    pre_stop = (spec.get("lifecycle") or {}).get("preStop")
    if pre_stop:
        annotations[labels.CONTAINER_PRE_STOP_HANDLER] = json.dumps(pre_stop, separators=(",", ":"))
    if spec.get("ports"):
        annotations[labels.CONTAINER_PORTS] = json.dumps(spec["ports"], separators=(",", ":"))
    return annotations
