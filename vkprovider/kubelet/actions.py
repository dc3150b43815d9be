"""What has to be done to bring a pod from what the runtime holds to what its spec says. Pure.

Source: pkg/kubelet/kuberuntime/kuberuntime_manager.go, computePodActions; kuberuntime_container.go, computeInitContainerActions;
pkg/kubelet/kuberuntime/util/util.go, PodSandboxChanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from vkprovider.api import v1
from vkprovider.api.pods import get_restart_policy
from vkprovider.kubelet.pod_facts import ContainerFacts, PodFacts
from vkprovider.kubelet.probe_results import ProbeKind, ProbeResults
from vkprovider.kubelet.restart_policy import (
    restarts_after_kill,
    should_start,
    triggered_restart_all,
)
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod
from vkprovider.provider import cri


class KillReason(Enum):
    """Why a container is killed, where it bears on how: a probe may have a grace period of its own."""

    OTHER = 0
    LIVENESS_PROBE = 1
    STARTUP_PROBE = 2


@dataclass(frozen=True, slots=True)
class ContainerKill:
    """A container to kill, and the text of the event that says so."""

    record: ContainerRecord
    message: str
    reason: KillReason = KillReason.OTHER


@dataclass(frozen=True, slots=True)
class ContainerReset:
    """An instance to remove, killed before if ``kill``, so that all containers of the pod start anew."""

    record: ContainerRecord
    kill: bool


@dataclass(slots=True)
class PodActions:
    """A plan, to be carried out in the order of the attributes.

    Attributes:
        kill_pod: Stop everything that runs, and all sandboxes.
        create_sandbox: Make a new sandbox.
        sandbox_id: Sandbox to use; when a new one is made, the one it replaces, if any.
        attempt: Attempt number of the sandbox in use or to be made.
        to_kill: Running containers to kill.
        to_reset: Instances to remove before all containers start anew.
        ephemeral_to_start: Ephemeral containers to start.
        init_to_start: Init containers and sidecars to start, in this order.
        apps_to_start: App containers to start, in this order.
    """

    kill_pod: bool = False
    create_sandbox: bool = False
    sandbox_id: cri.SandboxID | None = None
    attempt: int = 0
    to_kill: list[ContainerKill] = field(default_factory=list)
    to_reset: list[ContainerReset] = field(default_factory=list)
    ephemeral_to_start: Sequence[ContainerFacts] = ()
    init_to_start: list[ContainerFacts] = field(default_factory=list)
    apps_to_start: list[ContainerFacts] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.kill_pod
            or self.create_sandbox
            or self.to_kill
            or self.to_reset
            or self.ephemeral_to_start
            or self.init_to_start
            or self.apps_to_start
        )


@dataclass(frozen=True, slots=True)
class SandboxVerdict:
    """Whether a new sandbox is needed, its attempt number (or that of the one in use), and the newest one."""

    changed: bool
    attempt: int = 0
    sandbox_id: cri.SandboxID | None = None


def check_sandbox(pod: v1.Pod, runtime_pod: RuntimePod) -> SandboxVerdict:
    """Whether the pod has exactly one usable sandbox, the newest one.

    Source: kuberuntime/util/util.go, PodSandboxChanged.
    """
    if not runtime_pod.sandboxes:
        return SandboxVerdict(True)
    newest = runtime_pod.sandboxes[0]
    following = newest.metadata.attempt + 1
    ready = sum(sandbox.state is cri.SandboxState.READY for sandbox in runtime_pod.sandboxes)
    if ready > 1 or newest.state is not cri.SandboxState.READY:
        return SandboxVerdict(True, following, newest.id)
    host_network = bool(pod.get("spec", {}).get("hostNetwork"))
    if (newest.namespaces.network is cri.NamespaceMode.NODE) != host_network:
        return SandboxVerdict(True, following)
    if not host_network and not newest.ip:
        return SandboxVerdict(True, following, newest.id)
    return SandboxVerdict(False, newest.metadata.attempt, newest.id)


def compute_pod_actions(
    pod: v1.Pod, facts: PodFacts, runtime_pod: RuntimePod, probes: ProbeResults, *, restart_all: bool = False
) -> PodActions:
    """What has to be done for the pod.

    Args:
        pod: The pod as it should be.
        facts: Facts of its spec.
        runtime_pod: The pod as it is.
        probes: Results of probes.
        restart_all: Whether all containers are to be removed first, because one ended and its rule says so.
    """
    sandbox = check_sandbox(pod, runtime_pod)
    actions = PodActions(
        kill_pod=sandbox.changed,
        create_sandbox=sandbox.changed,
        sandbox_id=sandbox.sandbox_id,
        attempt=sandbox.attempt,
    )
    if restart_all:
        actions.to_reset = _compute_resets(facts, runtime_pod)
        return actions
    if sandbox.changed:
        _compute_new_sandbox(pod, facts, runtime_pod, actions)
        return actions
    if facts.ephemeral:
        # They may start at any time, but only once.
        actions.ephemeral_to_start = [c for c in facts.ephemeral if runtime_pod.find(c.name) is None]
    initialized = _compute_init_actions(pod, facts, runtime_pod, probes, actions)
    if actions.kill_pod or not initialized:
        return actions
    kept = 0
    for container in facts.apps:
        kept += _compute_app_action(pod, container, runtime_pod.find(container.name), probes, actions)
    if not kept and not actions.apps_to_start:
        actions.kill_pod = True
        # Sidecars must not keep a finished pod alive.
        actions.init_to_start = []
    return actions


def _compute_new_sandbox(pod: v1.Pod, facts: PodFacts, runtime_pod: RuntimePod, actions: PodActions) -> None:
    """Everything starts from the beginning, unless the pod has already ended."""
    restarts = get_restart_policy(pod) != "Never"
    if not restarts and actions.attempt != 0 and runtime_pod.containers:
        actions.create_sandbox = False
        return
    to_start = [c for c in facts.apps if not (_runs_once(pod, c.spec) and _has_succeeded(runtime_pod.find(c.name)))]
    if not to_start and has_any_app_created(facts, runtime_pod):
        actions.create_sandbox = False
        return
    if facts.init:
        actions.init_to_start = [facts.init[0]]
        return
    actions.apps_to_start = to_start


def _runs_once(pod: v1.Pod, container: v1.Container) -> bool:
    own = container.get("restartPolicy")
    return (own if own is not None else get_restart_policy(pod)) == "OnFailure"


def _has_succeeded(record: ContainerRecord | None) -> bool:
    return record is not None and record.state is cri.ContainerState.EXITED and record.exit_code == 0


def has_any_app_created(facts: PodFacts, runtime_pod: RuntimePod) -> bool:
    """Whether an app container was ever made, so that init containers must have been done.

    Source: kuberuntime_container.go, HasAnyRegularContainerCreated.
    """
    return any(
        (record := runtime_pod.find(app.name)) is not None and record.state is not cri.ContainerState.UNKNOWN
        for app in facts.apps
    )


def is_init_failed(record: ContainerRecord) -> bool:
    """Whether an init container ended without success; running out of memory counts whatever the code.

    Source: kuberuntime_container.go, isInitContainerFailed.
    """
    if record.reason == "OOMKilled" or record.state is cri.ContainerState.UNKNOWN:
        return True
    return record.state is cri.ContainerState.EXITED and record.exit_code != 0


def _compute_resets(facts: PodFacts, runtime_pod: RuntimePod) -> list[ContainerReset]:
    """Every instance of every app and init container; those whose end is the cause come last.

    Source: kuberuntime_manager.go, getContainersToReset.
    """
    victims: list[ContainerReset] = []
    causes: list[ContainerReset] = []
    for group in (facts.apps, facts.init):
        for container in group:
            for record in runtime_pod.instances(container.name):
                if triggered_restart_all(container.spec, record):
                    causes.append(ContainerReset(record, kill=False))
                else:
                    victims.append(ContainerReset(record, kill=record.state is not cri.ContainerState.EXITED))
    return victims + causes


def _unknown_kill(record: ContainerRecord, prefix: str) -> ContainerKill:
    return ContainerKill(record, f'{prefix} is in "unknown" state, try killing it before restart')


def _compute_app_action(
    pod: v1.Pod, container: ContainerFacts, record: ContainerRecord | None, probes: ProbeResults, actions: PodActions
) -> bool:
    """Plan for one app container; True if it runs and is kept."""
    if record is None or not record.is_running:
        if should_start(pod, container.spec, record):
            actions.apps_to_start.append(container)
            if record is not None and record.state is cri.ContainerState.UNKNOWN:
                # It may run after all; never two of one container.
                actions.to_kill.append(_unknown_kill(record, "Container"))
        return False
    restart = restarts_after_kill(pod, container.spec)
    reason = KillReason.OTHER
    if record.spec_hash != container.spec_hash:
        message, restart = f"Container {container.name} definition changed", True
    elif probes.find_result(ProbeKind.LIVENESS, record.id) is False:
        message, reason = f"Container {container.name} failed liveness probe", KillReason.LIVENESS_PROBE
    elif probes.find_result(ProbeKind.STARTUP, record.id) is False:
        message, reason = f"Container {container.name} failed startup probe", KillReason.STARTUP_PROBE
    else:
        return True
    if restart:
        message = f"{message}, will be restarted"
        actions.apps_to_start.append(container)
    actions.to_kill.append(ContainerKill(record, message, reason))
    return False


def _compute_init_actions(
    pod: v1.Pod, facts: PodFacts, runtime_pod: RuntimePod, probes: ProbeResults, actions: PodActions
) -> bool:
    """Plan for init containers and sidecars; True if app containers may run.

    They are looked at from the last to the first, since records of the early ones may be gone: the last one that has a record
    says how far the sequence got.

    Source: kuberuntime_container.go, computeInitContainerActions.
    """
    if not facts.init:
        return True
    # An exited app container does not count: it may be one of a sandbox that is gone.
    initialized = any(
        (record := runtime_pod.find(app.name)) is not None
        and record.state in (cri.ContainerState.CREATED, cri.ContainerState.RUNNING)
        for app in facts.apps
    )
    reached = initialized
    starts: list[ContainerFacts] = []
    last = len(facts.init) - 1
    for index in range(last, -1, -1):
        container = facts.init[index]
        record = runtime_pod.find(container.name)
        if record is None:
            if reached and container.is_sidecar:
                starts.append(container)
            continue
        if reached and not container.is_sidecar:
            continue
        if record.state is cri.ContainerState.CREATED:
            starts.append(container)
        elif record.is_running:
            if container.is_sidecar and _is_sidecar_up(runtime_pod.uid, container, record, probes, starts, actions):
                if index == last:
                    initialized = True
                elif not reached:
                    starts.append(facts.init[index + 1])
                _check_running_sidecar(container, record, probes, starts, actions)
        elif record.state is cri.ContainerState.EXITED and (container.is_sidecar or is_init_failed(record)):
            if not container.is_sidecar and not should_start(pod, container.spec, record):
                actions.kill_pod = True
                return False
            starts.append(container)
        elif record.state is cri.ContainerState.EXITED:
            if index == last:
                initialized = True
            else:
                starts.append(facts.init[index + 1])
        else:
            if not container.is_sidecar and not restarts_after_kill(pod, container.spec):
                actions.kill_pod = True
                return False
            actions.to_kill.append(_unknown_kill(record, "Init container"))
            starts.append(container)
        reached = True
    if not reached:
        starts.append(facts.init[0])
    actions.init_to_start = starts[::-1]
    return initialized


def _is_sidecar_up(
    uid: v1.PodUID,
    container: ContainerFacts,
    record: ContainerRecord,
    probes: ProbeResults,
    starts: list[ContainerFacts],
    actions: PodActions,
) -> bool:
    """Whether a running sidecar lets the next step begin; a failed startup probe restarts it."""
    if not container.spec.get("startupProbe"):
        return True
    result = probes.find_result(ProbeKind.STARTUP, record.id)
    if result is False:
        message = f"Init container {container.name} failed startup probe"
        actions.to_kill.append(ContainerKill(record, message, KillReason.STARTUP_PROBE))
        starts.append(container)
    if result is None:
        return not probes.has_worker(ProbeKind.STARTUP, uid, container.name)
    return result


def _check_running_sidecar(
    container: ContainerFacts,
    record: ContainerRecord,
    probes: ProbeResults,
    starts: list[ContainerFacts],
    actions: PodActions,
) -> None:
    if record.spec_hash != container.spec_hash:
        message, reason = f"Init container {container.name} definition changed", KillReason.OTHER
    elif container.spec.get("livenessProbe") and probes.find_result(ProbeKind.LIVENESS, record.id) is False:
        message, reason = f"Init container {container.name} failed liveness probe", KillReason.LIVENESS_PROBE
    else:
        return
    actions.to_kill.append(ContainerKill(record, message, reason))
    starts.append(container)
