"""The phase of a pod, from the statuses of its containers. Pure.

Source: pkg/kubelet/kubelet_pods.go, getPhase.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vkprovider.api import v1
from vkprovider.api.pods import ContainerKind
from vkprovider.kubelet.pod_facts import PodFacts
from vkprovider.kubelet.restart_policy import should_restart_after_exit
from vkprovider.kubelet.runtime_state import RuntimePod

RESTARTING_ALL_CONTAINERS = "RestartingAllContainers"
"""Reason of containers that were removed so that all of the pod start anew."""


@dataclass(slots=True)
class _Counts:
    pending_init: int = 0
    failed_init_for_good: int = 0
    pending_sidecars: int = 0
    running: int = 0
    waiting: int = 0
    unknown: int = 0
    stopped: int = 0
    stopped_for_good: int = 0
    succeeded: int = 0


def compute_phase(
    pod: v1.Pod,
    facts: PodFacts,
    runtime_pod: RuntimePod,
    statuses: Iterable[v1.ContainerStatus],
    *,
    is_terminal: bool,
) -> str:
    """``Pending``, ``Running``, ``Succeeded`` or ``Failed``.

    Args:
        pod: The pod.
        facts: Facts of its spec.
        runtime_pod: What the runtime holds; says whether app containers ran in the sandbox of now.
        statuses: Statuses of app and init containers, before the start of now counts as ``started``.
        is_terminal: Whether nothing of the pod will be started again.
    """
    by_name = {status["name"]: status for status in statuses}
    counts = _Counts()
    for container in facts.init:
        if container.kind is ContainerKind.INIT:
            _count_init(pod, container.spec, by_name.get(container.name), counts)
        else:
            _count_sidecar(by_name.get(container.name), counts)
    for container in facts.apps:
        _count_app(pod, container.spec, by_name.get(container.name), counts)
    if counts.failed_init_for_good:
        return "Failed"
    if counts.pending_init or (counts.pending_sidecars and not _has_active_app(facts, runtime_pod)) or counts.waiting:
        return "Pending"
    if counts.unknown:
        return "Pending"
    if counts.running:
        return "Running"
    if not counts.stopped:
        return "Pending"
    if not is_terminal and counts.stopped != counts.stopped_for_good:
        return "Running"
    return "Succeeded" if counts.stopped == counts.succeeded else "Failed"


def _has_active_app(facts: PodFacts, runtime_pod: RuntimePod) -> bool:
    """Whether an app container was made in the active sandbox.

    Source: pkg/kubelet/container/helpers.go, HasAnyActiveRegularContainerStarted.
    """
    active = runtime_pod.active_sandbox
    if active is None:
        return False
    names = facts.app_names
    return any(record.sandbox_id == active.id and record.name in names for record in runtime_pod.containers)


def _is_final(pod: v1.Pod, container: v1.Container, terminated: v1.ContainerStateTerminated) -> bool:
    if terminated.get("reason") == RESTARTING_ALL_CONTAINERS:
        return False
    return not should_restart_after_exit(pod, container, terminated.get("exitCode", 0))


def _count_init(pod: v1.Pod, container: v1.Container, status: v1.ContainerStatus | None, counts: _Counts) -> None:
    state = status.get("state", {}) if status is not None else {}
    last = (status.get("lastState", {}) if status is not None else {}).get("terminated")
    ended = state.get("terminated") or (last if "waiting" in state else None)
    if ended is None:
        counts.pending_init += 1
    elif ended.get("exitCode", 0) != 0 and _is_final(pod, container, ended):
        counts.failed_init_for_good += 1


def _count_sidecar(status: v1.ContainerStatus | None, counts: _Counts) -> None:
    if status is None:
        counts.unknown += 1
        return
    state = status.get("state", {})
    if "running" in state:
        counts.running += 1
        counts.pending_sidecars += not status.get("started")
    elif "waiting" in state and "terminated" not in status.get("lastState", {}):
        counts.pending_sidecars += 1
        counts.waiting += 1


def _count_app(pod: v1.Pod, container: v1.Container, status: v1.ContainerStatus | None, counts: _Counts) -> None:
    state = status.get("state", {}) if status is not None else {}
    if status is None or not state:
        counts.unknown += 1
    elif "running" in state:
        counts.running += 1
    elif "terminated" in state:
        counts.stopped += 1
        counts.stopped_for_good += _is_final(pod, container, state["terminated"])
        counts.succeeded += state["terminated"].get("exitCode", 0) == 0
    elif (last := status.get("lastState", {}).get("terminated")) is not None:
        counts.stopped += 1
        counts.stopped_for_good += _is_final(pod, container, last)
    else:
        counts.waiting += 1
