"""The entries of ``containerStatuses`` and its siblings. Pure.

Source: pkg/kubelet/kubelet_pods.go, convertToAPIContainerStatuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from vkprovider.api import v1
from vkprovider.api.pods import ContainerKind, is_deleted
from vkprovider.api.quantity import format_cpu, format_memory, milli_value
from vkprovider.api.reasons import COMPLETED, CONTAINER_CREATING, CONTAINER_STATUS_UNKNOWN, POD_INITIALIZING
from vkprovider.api.timestamps import format_time
from vkprovider.kubelet.actions import has_any_app_created
from vkprovider.kubelet.phase import RESTARTING_ALL_CONTAINERS
from vkprovider.kubelet.pod_facts import ContainerFacts, PodFacts
from vkprovider.kubelet.restart_policy import should_start
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod
from vkprovider.provider import cri

MAX_POD_MESSAGES_BYTES: Final = 12 * 1024
"""Termination messages of one pod together. Source: kubelet container/runtime.go, MaxPodTerminationMessageLogLength."""
MIN_CPU_LIMIT_MILLI: Final = 10
MIN_CPU_REQUEST_MILLI: Final = 2

_STATES: Final[tuple[Literal["state", "lastState"], ...]] = ("state", "lastState")
_RESTARTING_MESSAGE = "The container is removed because RestartAllContainers in place"
_LOST_MESSAGE = "The container could not be located when the pod was deleted.  The container used to be Running"
_UNKNOWN_MESSAGE = "The container could not be located when the pod was terminated"
_INIT_LOST_MESSAGE = (
    "Unable to get init container status from container runtime and pod has been initialized, "
    "treat it as exited normally"
)


@dataclass(frozen=True, slots=True)
class StartFailure:
    """The last attempt to start a container failed: what its waiting state shows."""

    reason: str
    message: str


def generate_container_statuses(
    pod: v1.Pod,
    facts: PodFacts,
    containers: Sequence[ContainerFacts],
    runtime_pod: RuntimePod,
    previous: Iterable[v1.ContainerStatus],
    *,
    failures: Mapping[str, StartFailure],
    runtime_name: str,
    restarting: bool,
    recursive_read_only: bool,
) -> list[v1.ContainerStatus]:
    """Statuses of one group of containers: app and ephemeral ones by name, init ones in the order of the spec.

    ``started`` and ``ready`` are left to the caller, but for ``started`` of an instance that ran before.

    Args:
        pod: The pod.
        facts: Facts of its spec.
        containers: The group.
        runtime_pod: What the runtime holds of the pod.
        previous: The group's statuses before.
        failures: Last failed start, by container name.
        runtime_name: Scheme of container ids.
        restarting: Whether all containers are being removed to start anew.
        recursive_read_only: Whether the runtime can make mounts recursively read-only.
    """
    old_by_name = {status["name"]: status for status in previous}
    statuses: list[v1.ContainerStatus] = []
    for container in containers:
        old = old_by_name.get(container.name)
        newest = runtime_pod.find(container.name)
        if newest is None:
            status = _status_without_record(pod, facts, container, old, restarting, recursive_read_only)
        else:
            status = _status_of_record(
                container, newest, old, runtime_name, restarting=restarting, recursive_read_only=recursive_read_only
            )
            before = _find_before(runtime_pod, newest)
            if before is not None:
                status["lastState"] = _convert_state(before, old, runtime_name)
        _apply_failure(pod, facts, container, newest, runtime_pod, status, failures)
        statuses.append(status)
    if containers and containers[0].kind not in (ContainerKind.INIT, ContainerKind.SIDECAR):
        statuses.sort(key=lambda status: status["name"])
    return statuses


def _find_before(runtime_pod: RuntimePod, newest: ContainerRecord) -> ContainerRecord | None:
    if len(runtime_pod.containers) == len(runtime_pod.newest):
        return None
    return next((r for r in runtime_pod.containers if r.name == newest.name and r is not newest), None)


def _status_without_record(
    pod: v1.Pod,
    facts: PodFacts,
    container: ContainerFacts,
    old: v1.ContainerStatus | None,
    restarting: bool,
    recursive_read_only: bool,
) -> v1.ContainerStatus:
    old_state: v1.ContainerState = (old or {}).get("state", {})
    if old is not None and "terminated" in old_state and not restarting:
        return {**old}
    status: v1.ContainerStatus = {
        "name": container.name,
        "state": {"waiting": {"reason": POD_INITIALIZING if facts.init else CONTAINER_CREATING}},
        "lastState": {},
        "ready": False,
        "restartCount": 0,
        "image": container.spec.get("image", ""),
        "imageID": "",
    }
    if container.volume_mounts:
        status["volumeMounts"] = _volume_mounts(container, recursive_read_only)
    if old is None:
        return status
    status["restartCount"] = old.get("restartCount", 0)
    status["lastState"] = old.get("lastState", {})
    if restarting and "waiting" not in old_state:
        status["state"] = {"waiting": {"reason": RESTARTING_ALL_CONTAINERS, "message": _RESTARTING_MESSAGE}}
        status["lastState"] = {
            "terminated": _made_up_end(RESTARTING_ALL_CONTAINERS, _RESTARTING_MESSAGE),
        }
        status["restartCount"] += 1
    elif "running" in old_state and "terminated" not in status["lastState"]:
        # It ran and is gone: shown as ended, so that the pod does not fall back to Pending.
        status["lastState"] = {"terminated": _made_up_end(CONTAINER_STATUS_UNKNOWN, _LOST_MESSAGE)}
        if not is_deleted(pod):
            status["restartCount"] += 1
    return status


def _made_up_end(reason: str, message: str) -> v1.ContainerStateTerminated:
    return {"exitCode": 137, "reason": reason, "message": message, "startedAt": None, "finishedAt": None}


def _status_of_record(
    container: ContainerFacts,
    record: ContainerRecord,
    old: v1.ContainerStatus | None,
    runtime_name: str,
    *,
    restarting: bool,
    recursive_read_only: bool,
) -> v1.ContainerStatus:
    container_id = f"{runtime_name}://{record.id}"
    state = _convert_state(record, old, runtime_name, restarting=restarting)
    status: v1.ContainerStatus = {
        "name": container.name,
        "state": state,
        "lastState": {},
        "ready": False,
        "restartCount": record.restart_count,
        "image": record.image,
        "imageID": record.image_ref,
        "containerID": container_id,
        "resources": _actual_resources(container.spec, record),
    }
    requests = container.spec.get("resources", {}).get("requests")
    if requests:
        status["allocatedResources"] = requests
    if container.volume_mounts:
        status["volumeMounts"] = (old or {}).get("volumeMounts") or _volume_mounts(container, recursive_read_only)
    if record.user is not None:
        user = record.user
        linux = {"uid": user.uid, "gid": user.gid}
        status["user"] = {
            "linux": {**linux, "supplementalGroups": list(user.supplemental_groups)}
            if user.supplemental_groups
            else linux
        }
    if old is None:
        return status
    old_state, old_count = old.get("state", {}), old.get("restartCount", 0)
    same = old.get("containerID") == container_id
    if "terminated" in old_state and not same:
        status["lastState"] = {"terminated": old_state["terminated"]}
    elif "terminated" in old.get("lastState", {}):
        status["lastState"] = old["lastState"]
    # Neither a lost instance nor one made after the records were removed is counted by the runtime.
    lost = record.state is cri.ContainerState.UNKNOWN and "terminated" in state
    uncounted = record.is_running and "terminated" in old_state and not same and old_count >= record.restart_count
    status["restartCount"] = old_count + 1 if lost or uncounted else max(record.restart_count, old_count)
    if record.is_running and same and "started" in old:
        status["started"] = old["started"]
    return status


def _convert_state(
    record: ContainerRecord, old: v1.ContainerStatus | None, runtime_name: str, *, restarting: bool = False
) -> v1.ContainerState:
    if record.is_running:
        return {"running": {"startedAt": format_time(record.started_at or record.created_at)}}
    if record.state is cri.ContainerState.EXITED:
        terminated: v1.ContainerStateTerminated = {"exitCode": record.exit_code}
        if record.reason:
            terminated["reason"] = record.reason
        if record.message:
            terminated["message"] = record.message
        terminated["startedAt"] = _format(record.started_at)
        terminated["finishedAt"] = _format(record.finished_at)
        terminated["containerID"] = f"{runtime_name}://{record.id}"
        return {"terminated": terminated}
    if record.state is cri.ContainerState.UNKNOWN and old is not None and "running" in old.get("state", {}):
        # It ran and nobody knows any more: never shown as waiting, or a pod that runs once might run twice.
        reason = RESTARTING_ALL_CONTAINERS if restarting else CONTAINER_STATUS_UNKNOWN
        return {"terminated": _made_up_end(reason, _UNKNOWN_MESSAGE)}
    return {"waiting": {}}


def _format(moment: datetime | None) -> str | None:
    return format_time(moment) if moment is not None else None


def _apply_failure(
    pod: v1.Pod,
    facts: PodFacts,
    container: ContainerFacts,
    newest: ContainerRecord | None,
    runtime_pod: RuntimePod,
    status: v1.ContainerStatus,
    failures: Mapping[str, StartFailure],
) -> None:
    """A container that should be started but could not be is waiting, whatever became of the instance before."""
    if container.kind in (ContainerKind.INIT, ContainerKind.SIDECAR):
        if newest is not None and newest.state is cri.ContainerState.EXITED and newest.exit_code == 0:
            return
        if (
            newest is None
            and not container.is_sidecar
            and "waiting" in status["state"]
            and has_any_app_created(facts, runtime_pod)
        ):
            status["state"] = {
                "terminated": {
                    "exitCode": 0,
                    "reason": COMPLETED,
                    "message": _INIT_LOST_MESSAGE,
                    "startedAt": None,
                    "finishedAt": None,
                }
            }
            return
    failure = failures.get(container.name)
    if failure is None or not should_start(pod, container.spec, newest):
        return
    if "terminated" in status["state"]:
        status["lastState"] = status["state"]
    waiting: v1.ContainerStateWaiting = {"reason": failure.reason}
    if failure.message:
        waiting["message"] = failure.message
    status["state"] = {"waiting": waiting}


def _volume_mounts(container: ContainerFacts, recursive_read_only: bool) -> list[dict[str, object]]:
    mounts = [dict(mount) for mount in container.volume_mounts]
    if recursive_read_only:
        for mount, spec in zip(mounts, container.spec.get("volumeMounts") or (), strict=True):
            if mount.get("readOnly") and spec.get("recursiveReadOnly") in ("Enabled", "IfPossible"):
                mount["recursiveReadOnly"] = "Enabled"
    return mounts


def _actual_resources(container: v1.Container, record: ContainerRecord) -> v1.ResourceRequirements:
    """What the container was given; of a running one as the runtime tells, where it tells.

    Source: kubelet_pods.go, convertContainerStatusResources.
    """
    allocated = container.get("resources") or {}
    actual = record.resources
    if not record.is_running or actual is None or not allocated:
        return allocated
    result: v1.ResourceRequirements = {**allocated}
    if limits := allocated.get("limits"):
        changed = dict(limits)
        if actual.cpu_quota and actual.cpu_quota > 0 and actual.cpu_period:
            millicpu = actual.cpu_quota * 1000 // actual.cpu_period
            _set_cpu(changed, millicpu, MIN_CPU_LIMIT_MILLI)
        if actual.memory_limit_bytes:
            _set_memory(changed, actual.memory_limit_bytes)
        result["limits"] = changed
    if requests := allocated.get("requests"):
        changed = dict(requests)
        if actual.cpu_shares:
            _set_cpu(changed, -(-actual.cpu_shares * 1000 // 1024), MIN_CPU_REQUEST_MILLI)
        result["requests"] = changed
    return result


def _set_cpu(amounts: dict[str, str], actual_milli: int, minimum_milli: int) -> None:
    """Put in what the runtime tells, unless both amounts are so small that the cgroup cannot tell them apart."""
    allocated_milli = milli_value(amounts["cpu"]) if "cpu" in amounts else 0
    if allocated_milli != actual_milli and max(allocated_milli, actual_milli) > minimum_milli:
        amounts["cpu"] = format_cpu(actual_milli)


def _set_memory(amounts: dict[str, str], actual_bytes: int) -> None:
    text = format_memory(actual_bytes)
    if amounts.get("memory") != text and (
        "memory" not in amounts or milli_value(amounts["memory"]) != actual_bytes * 1000
    ):
        amounts["memory"] = text


def cut_messages(groups: Iterable[Sequence[v1.ContainerStatus]]) -> None:
    """Cut termination messages to a fair share of what a pod may have, in place.

    Source: pkg/kubelet/status/status_manager.go, normalizeStatus.
    """
    statuses = [status for group in groups for status in group]
    if not statuses:
        return
    share = MAX_POD_MESSAGES_BYTES // len(statuses)
    for status in statuses:
        for key in _STATES:
            state: v1.ContainerState = status[key]
            terminated = state.get("terminated")
            message = terminated.get("message") if terminated is not None else None
            if terminated is None or message is None or len(message) * 4 <= share:
                continue
            encoded = message.encode()
            if len(encoded) > share:
                cut = encoded[:share].decode(errors="ignore")
                status[key] = {"terminated": {**terminated, "message": cut}}
