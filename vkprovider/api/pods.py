"""Questions about a pod that its object alone can answer."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from vkprovider.api import v1

TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
SYSTEM_CRITICAL_PRIORITY = 2_000_000_000
"""Pods of at least this priority are critical. Source: pkg/apis/scheduling/types.go."""


class ContainerKind(StrEnum):
    """What a container of a pod is."""

    APP = "app"
    INIT = "init"
    SIDECAR = "sidecar"
    EPHEMERAL = "ephemeral"


_FIELDS = {
    ContainerKind.APP: "containers",
    ContainerKind.INIT: "initContainers",
    ContainerKind.SIDECAR: "initContainers",
    ContainerKind.EPHEMERAL: "ephemeralContainers",
}


def get_uid(pod: v1.Pod) -> v1.PodUID:
    """Identity of the pod."""
    return v1.PodUID(pod["metadata"]["uid"])


def get_key(pod: v1.Pod) -> str:
    """``namespace/name``, as kubectl users write it."""
    meta = pod["metadata"]
    return f"{meta.get('namespace', 'default')}/{meta.get('name', '')}"


def format_pod(pod: v1.Pod) -> str:
    """``name_namespace(uid)``, as the kubelet writes it in messages.

    Source: pkg/kubelet/util/format/pod.go, Pod.
    """
    meta = pod["metadata"]
    return f"{meta.get('name', '')}_{meta.get('namespace', 'default')}({meta.get('uid', '')})"


def is_sidecar(container: v1.Container) -> bool:
    """Whether an init container is restartable (``restartPolicy: Always``)."""
    return container.get("restartPolicy") == "Always"


def iter_containers(pod: v1.Pod) -> Iterator[tuple[ContainerKind, v1.Container]]:
    """All containers of the spec: init and sidecars in order, then app, then ephemeral ones."""
    spec = pod.get("spec", {})
    for container in spec.get("initContainers") or ():
        yield (ContainerKind.SIDECAR if is_sidecar(container) else ContainerKind.INIT), container
    for container in spec.get("containers") or ():
        yield ContainerKind.APP, container
    for container in spec.get("ephemeralContainers") or ():
        yield ContainerKind.EPHEMERAL, container


def find_container(pod: v1.Pod, name: str) -> tuple[ContainerKind, v1.Container] | None:
    """The container of this name with its kind, or None."""
    return next((pair for pair in iter_containers(pod) if pair[1]["name"] == name), None)


def field_path(kind: ContainerKind, name: str) -> str:
    """Field path of a container for events, e.g. ``spec.initContainers{setup}``.

    Source: pkg/kubelet/container/ref.go, fieldPath.
    """
    return f"spec.{_FIELDS[kind]}{{{name}}}"


def is_terminal(pod: v1.Pod) -> bool:
    """Whether the API status says that the pod has ended for good."""
    return pod.get("status", {}).get("phase") in TERMINAL_PHASES


def is_deleted(pod: v1.Pod) -> bool:
    """Whether deletion was requested."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_mirror(pod: v1.Pod) -> bool:
    """Whether the pod mirrors a static pod."""
    return MIRROR_ANNOTATION in (pod["metadata"].get("annotations") or {})


def is_critical(pod: v1.Pod) -> bool:
    """Whether the pod is static, mirror, or of system-critical priority.

    Source: pkg/kubelet/types/pod_update.go, IsCriticalPod.
    """
    return is_mirror(pod) or (pod.get("spec", {}).get("priority") or 0) >= SYSTEM_CRITICAL_PRIORITY


def get_restart_policy(pod: v1.Pod) -> str:
    """``Always``, ``OnFailure`` or ``Never``; the API's default is ``Always``."""
    return pod.get("spec", {}).get("restartPolicy") or "Always"


def get_grace_period_s(pod: v1.Pod, override_s: int | None = None) -> int:
    """Seconds a pod gets to stop: the deletion's value, else the override, else the spec's; at least 1.

    Source: pkg/kubelet/pod_workers.go, calculateEffectiveGracePeriod.
    """
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if pod["metadata"].get("deletionTimestamp") and deletion is not None:
        grace = deletion
        if override_s is not None and override_s < grace:
            grace = override_s
    elif override_s is not None:
        grace = override_s
    else:
        spec_value = pod.get("spec", {}).get("terminationGracePeriodSeconds")
        grace = 30 if spec_value is None else spec_value
    return max(1, grace)
