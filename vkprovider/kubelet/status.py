"""The status of a pod, made from its spec, what the runtime holds, and the status before. Pure.

The parts: ``container_status.py`` (one entry per container), ``phase.py``, ``pod_conditions.py``; this module puts them together.

Source: pkg/kubelet/kubelet_pods.go, generateAPIPodStatus and convertStatusToAPIStatus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vkprovider.api import v1
from vkprovider.api.conditions import stamp_conditions
from vkprovider.api.pods import ContainerKind, is_deleted
from vkprovider.api.timestamps import format_time, parse_time
from vkprovider.kubelet.container_status import StartFailure, cut_messages, generate_container_statuses
from vkprovider.kubelet.phase import compute_phase
from vkprovider.kubelet.pod_conditions import generate_conditions
from vkprovider.kubelet.pod_facts import ContainerFacts, PodFacts
from vkprovider.kubelet.probe_results import ProbeKind, ProbeResults
from vkprovider.kubelet.restart_policy import should_restart_all
from vkprovider.kubelet.runtime_state import RuntimePod, sort_ips
from vkprovider.provider import cri

_TERMINAL = ("Failed", "Succeeded")


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """Everything that a status depends on besides pod and runtime.

    Attributes:
        previous: The newest status before this one.
        now: Wall time.
        probes: Results of probes.
        failures: Last failed start of a container, by name.
        host_ips: Addresses of the node, primary first.
        runtime_name: Scheme of container ids.
        agent_started_at: When this process began; containers older than that keep their readiness until they are probed.
        is_terminal: Whether nothing of the pod runs and nothing will be started again.
        recursive_read_only: Whether the runtime can make mounts recursively read-only.
    """

    previous: v1.PodStatus
    now: datetime
    probes: ProbeResults
    failures: Mapping[str, StartFailure] = field(default_factory=dict)
    host_ips: tuple[str, ...] = ()
    runtime_name: str = "runtime"
    agent_started_at: datetime | None = None
    is_terminal: bool = False
    recursive_read_only: bool = False


def generate_pod_status(pod: v1.Pod, facts: PodFacts, runtime_pod: RuntimePod, inputs: StatusInputs) -> v1.PodStatus:
    """The pod's status as it is now.

    Args:
        pod: The pod, with its status as the API server has it.
        facts: Facts of its spec.
        runtime_pod: What the runtime holds of it.
        inputs: The rest.
    """
    previous, api_status = inputs.previous, pod.get("status", {})
    now = format_time(inputs.now)
    restarting = should_restart_all(pod, facts, runtime_pod, previous)

    def generate(group: Sequence[ContainerFacts], old: list[v1.ContainerStatus] | None) -> list[v1.ContainerStatus]:
        return generate_container_statuses(
            pod,
            facts,
            group,
            runtime_pod,
            old or (),
            failures=inputs.failures,
            runtime_name=inputs.runtime_name,
            restarting=restarting,
            recursive_read_only=inputs.recursive_read_only,
        )

    init = generate(facts.init, previous.get("initContainerStatuses")) if facts.init else []
    apps = generate(facts.apps, previous.get("containerStatuses"))
    ephemeral = generate(facts.ephemeral, previous.get("ephemeralContainerStatuses")) if facts.ephemeral else []
    status: v1.PodStatus = {}
    phase = compute_phase(pod, facts, runtime_pod, [*apps, *init], is_terminal=inputs.is_terminal)
    # What has ended stays as it ended, whatever its containers say when they are stopped.
    known = (phase for phase in (api_status.get("phase"), previous.get("phase")) if phase in _TERMINAL)
    phase = next(known, phase)
    status["phase"] = phase
    if phase == previous.get("phase"):
        if reason := previous.get("reason") or api_status.get("reason"):
            status["reason"] = reason
        if message := previous.get("message") or api_status.get("message"):
            status["message"] = message
    _apply_probes(pod, facts, apps, init, inputs)
    foreign, own = generate_conditions(
        pod, facts, runtime_pod, previous, apps=apps, init=init, phase=phase, restarting=restarting
    )
    status["conditions"] = foreign + stamp_conditions(own, previous, now=now)
    _set_ips(status, pod, runtime_pod, inputs)
    status["startTime"] = previous.get("startTime") or api_status.get("startTime") or now
    status["qosClass"] = facts.qos_class
    generation = pod["metadata"].get("generation")
    if generation is not None:
        status["observedGeneration"] = max(generation, previous.get("observedGeneration") or 0)
    if facts.resources:
        status["resources"] = facts.resources
    if facts.allocated_resources:
        status["allocatedResources"] = dict(facts.allocated_resources)
    status["containerStatuses"] = apps
    if facts.init:
        status["initContainerStatuses"] = init
    if facts.ephemeral:
        status["ephemeralContainerStatuses"] = ephemeral
    cut_messages((apps, init, ephemeral))
    return status


def _apply_probes(
    pod: v1.Pod,
    facts: PodFacts,
    apps: list[v1.ContainerStatus],
    init: list[v1.ContainerStatus],
    inputs: StatusInputs,
) -> None:
    """Set ``started`` and ``ready`` of app and init containers.

    Source: pkg/kubelet/prober/prober_manager.go, UpdatePodStatus.
    """
    uid = v1.PodUID(pod["metadata"].get("uid", ""))
    for status in (*apps, *init):
        container = facts.by_name[status["name"]]
        running = status["state"].get("running")
        started = running is not None and _is_started(uid, container.name, status, inputs)
        status["started"] = started
        if container.kind is ContainerKind.INIT:
            terminated = status["state"].get("terminated")
            status["ready"] = terminated is not None and terminated.get("exitCode") == 0
            continue
        if not started or running is None:
            continue
        container_id = _bare_id(status)
        result = inputs.probes.find_result(ProbeKind.READINESS, container_id)
        if result is True:
            status["ready"] = True
            continue
        probed = inputs.probes.has_worker(ProbeKind.READINESS, uid, container.name)
        ready = not probed
        if probed:
            inputs.probes.trigger_readiness(uid, container.name)
            if result is None and _started_before_agent(running.get("startedAt"), inputs):
                # We are new, the container is not: it stays as ready as the pod was, until a probe says otherwise.
                ready = any(
                    c.get("type") == "Ready" and c.get("status") == "True"
                    for c in inputs.previous.get("conditions") or ()
                )
        status["ready"] = ready


def _is_started(uid: v1.PodUID, name: str, status: v1.ContainerStatus, inputs: StatusInputs) -> bool:
    result = inputs.probes.find_result(ProbeKind.STARTUP, _bare_id(status))
    if result is not None:
        return result
    # Carried over from the same instance: after a restart of ours the probe has not run yet.
    return bool(status.get("started")) or not inputs.probes.has_worker(ProbeKind.STARTUP, uid, name)


def _bare_id(status: v1.ContainerStatus) -> cri.ContainerID:
    return cri.ContainerID(status.get("containerID", "").partition("://")[2])


def _started_before_agent(started_at: str | None, inputs: StatusInputs) -> bool:
    if not started_at or inputs.agent_started_at is None:
        return False
    return (inputs.agent_started_at - parse_time(started_at)).total_seconds() > 10


def _set_ips(status: v1.PodStatus, pod: v1.Pod, runtime_pod: RuntimePod, inputs: StatusInputs) -> None:
    host_ips, previous = inputs.host_ips, inputs.previous
    pod_ips = sort_ips(runtime_pod.ips, host_ips)
    if host_ips:
        status["hostIP"] = host_ips[0]
        status["hostIPs"] = [{"ip": ip} for ip in host_ips[:2]]
    if pod.get("spec", {}).get("hostNetwork") and not pod_ips:
        pod_ips = host_ips[:2]
    if pod_ips:
        status["podIP"] = pod_ips[0]
        status["podIPs"] = [{"ip": ip} for ip in pod_ips]
    elif previous.get("podIPs") and (status["phase"] in _TERMINAL or inputs.is_terminal or is_deleted(pod)):
        # A sandbox that was stopped no longer tells; the addresses seen before stay.
        status["podIP"] = previous.get("podIP") or previous["podIPs"][0]["ip"]
        status["podIPs"] = previous["podIPs"]
