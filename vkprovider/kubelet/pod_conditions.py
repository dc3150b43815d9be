"""The conditions of a pod that a kubelet owns. Pure.

Source: pkg/kubelet/status/generate.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from vkprovider.api import v1
from vkprovider.api.conditions import KUBELET_POD_CONDITIONS, find_condition, is_condition_true
from vkprovider.api.pods import ContainerKind
from vkprovider.kubelet.actions import check_sandbox
from vkprovider.kubelet.pod_facts import ContainerFacts, PodFacts
from vkprovider.kubelet.restart_policy import ALL_CONTAINERS_RESTARTING
from vkprovider.kubelet.runtime_state import RuntimePod

_KEPT = ("PodResizePending", "PodResizeInProgress")


def generate_conditions(
    pod: v1.Pod,
    facts: PodFacts,
    runtime_pod: RuntimePod,
    previous: v1.PodStatus,
    *,
    apps: Sequence[v1.ContainerStatus],
    init: Sequence[v1.ContainerStatus],
    phase: str,
    restarting: bool,
) -> tuple[list[v1.PodCondition], list[v1.PodCondition]]:
    """Conditions to keep as they are, then those made anew, without transition times; in a kubelet's order.

    Args:
        pod: The pod; conditions of others are taken from its status.
        facts: Facts of its spec.
        runtime_pod: What the runtime holds of it.
        previous: The newest status before this one.
        apps: Statuses of app containers, with ``started`` and ``ready``.
        init: Statuses of init containers and sidecars, likewise.
        phase: The phase of now.
        restarting: Whether all containers are being removed to start anew.
    """
    generation = pod["metadata"].get("generation")
    foreign = [
        condition
        for condition in pod.get("status", {}).get("conditions") or ()
        if condition["type"] not in KUBELET_POD_CONDITIONS and condition["type"] != "DisruptionTarget"
    ]
    kept = list(foreign)
    kept += [condition for kind in _KEPT if (condition := find_condition(previous, kind)) is not None]
    disruption = find_condition(previous, "DisruptionTarget") or find_condition(
        pod.get("status", {}), "DisruptionTarget"
    )
    if disruption is not None:
        kept.append(disruption)
    containers_ready = _containers_ready(facts, apps, init, phase)
    own = [
        _condition("PodReadyToStartContainers", not check_sandbox(pod, runtime_pod).changed),
        _initialized(facts, apps, init, phase, previous),
        _ready(pod, containers_ready, kept),
        containers_ready,
        _condition("PodScheduled", True),
    ]
    if generation is not None:
        for condition in own:
            condition["observedGeneration"] = generation
    if facts.may_restart_all:
        own.append(_all_restarting(facts, runtime_pod, phase, restarting))
    return kept, own


def _condition(kind: str, value: bool, *, reason: str = "", message: str = "") -> v1.PodCondition:
    condition: v1.PodCondition = {"type": kind, "status": "True" if value else "False"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _list(names: Sequence[str]) -> str:
    return f"[{' '.join(names)}]"


def _split(
    containers: Sequence[ContainerFacts], statuses: Sequence[v1.ContainerStatus], field: str
) -> tuple[list[str], list[str]]:
    """Names of containers without a status, and of those whose status has not this field set."""
    by_name = {status["name"]: status for status in statuses}
    unknown = [c.name for c in containers if c.name not in by_name]
    return unknown, [c.name for c in containers if c.name in by_name and not by_name[c.name].get(field)]


def _containers_ready(
    facts: PodFacts, apps: Sequence[v1.ContainerStatus], init: Sequence[v1.ContainerStatus], phase: str
) -> v1.PodCondition:
    statuses = (*init, *apps)
    if not statuses:
        return _condition("ContainersReady", False, reason="UnknownContainerStatuses")
    if phase != "Failed" and phase != "Succeeded" and not facts.init and all(s.get("ready") for s in apps):
        return _condition("ContainersReady", True)
    containers = [c for c in facts.init if c.is_sidecar] + list(facts.apps)
    unknown, unready = _split(containers, statuses, "ready")
    if phase == "Succeeded" and not unknown:
        return _condition("ContainersReady", False, reason="PodCompleted")
    if phase == "Failed":
        return _condition("ContainersReady", False, reason="PodFailed")
    parts = []
    if unknown:
        parts.append(f"containers with unknown status: {_list(unknown)}")
    if unready:
        parts.append(f"containers with unready status: {_list(unready)}")
    if parts:
        return _condition("ContainersReady", False, reason="ContainersNotReady", message=", ".join(parts))
    return _condition("ContainersReady", True)


def _ready(pod: v1.Pod, containers_ready: v1.PodCondition, conditions: Sequence[v1.PodCondition]) -> v1.PodCondition:
    if containers_ready["status"] != "True":
        return {**containers_ready, "type": "Ready"}
    problems = []
    for gate in pod.get("spec", {}).get("readinessGates") or ():
        kind = gate["conditionType"]
        found = next((c for c in conditions if c["type"] == kind), None)
        if found is None:
            problems.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif found.get("status") != "True":
            problems.append(f'the status of pod readiness gate "{kind}" is not "True", but {found.get("status", "")}')
    if problems:
        return _condition("Ready", False, reason="ReadinessGatesNotReady", message=", ".join(problems))
    return _condition("Ready", True)


def _initialized(
    facts: PodFacts,
    apps: Sequence[v1.ContainerStatus],
    init: Sequence[v1.ContainerStatus],
    phase: str,
    previous: v1.PodStatus,
) -> v1.PodCondition:
    if not facts.init:
        return _condition("Initialized", True, reason="PodCompleted" if phase == "Succeeded" else "")
    by_name = {status["name"]: status for status in init}
    unknown = [c.name for c in facts.init if c.name not in by_name]
    incomplete = [
        c.name
        for c in facts.init
        if c.name in by_name and not by_name[c.name].get("ready" if c.kind is ContainerKind.INIT else "started")
    ]
    if phase == "Succeeded" and not unknown:
        return _condition("Initialized", True, reason="PodCompleted")
    if any("running" in s.get("state", {}) or "terminated" in s.get("state", {}) for s in apps):
        return _condition("Initialized", True)
    parts = []
    if unknown:
        parts.append(f"containers with unknown status: {_list(unknown)}")
    if incomplete:
        parts.append(f"containers with incomplete status: {_list(incomplete)}")
    if parts and not is_condition_true(previous, "Initialized"):
        return _condition("Initialized", False, reason="ContainersNotInitialized", message=", ".join(parts))
    return _condition("Initialized", True)


def _all_restarting(facts: PodFacts, runtime_pod: RuntimePod, phase: str, restarting: bool) -> v1.PodCondition:
    if phase in ("Succeeded", "Failed"):
        return _condition(
            ALL_CONTAINERS_RESTARTING, False, reason="PodCompleted" if phase == "Succeeded" else "PodFailed"
        )
    cleaned = all(runtime_pod.find(container.name) is None for container in (*facts.init, *facts.apps))
    if not restarting or cleaned:
        return _condition(ALL_CONTAINERS_RESTARTING, False)
    return _condition(
        ALL_CONTAINERS_RESTARTING,
        True,
        reason="RestartAllContainersStarted",
        message="container exited with restart policy rule",
    )
