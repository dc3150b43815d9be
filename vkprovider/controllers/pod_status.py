"""Pod statuses as plain values: completing what a provider left out, ending a pod, merging with the API's, making patches.

Everything here is pure; the clock comes in as a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from vkprovider.api import v1
from vkprovider.api.conditions import KUBELET_POD_CONDITIONS, find_condition, stamp_conditions
from vkprovider.api.pods import TERMINAL_PHASES, get_restart_policy, is_sidecar
from vkprovider.api.reasons import CONTAINER_STATUS_UNKNOWN
from vkprovider.api.resources import compute_qos_class

LOST_CONTAINER_MESSAGE = "The container could not be located when the pod was terminated"
"""Source: pkg/kubelet/kubelet_pods.go, convertStatusToAPIStatus's callers."""

_MISSING = object()
_MERGED_BY_IP = frozenset({"podIPs", "hostIPs"})
_FOREIGN_FIELDS = frozenset(
    {
        "nominatedNodeName",
        "resize",
        "resourceClaimStatuses",
        "extendedResourceClaimStatus",
        "nodeAllocatableResourceClaimStatuses",
    }
)
_STATUS_LISTS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def complete_status(
    pod: v1.Pod, status: v1.PodStatus, *, previous: v1.PodStatus, host_ips: Sequence[str], now: str
) -> v1.PodStatus:
    """A provider's status with what only the node knows, and with default conditions where the provider set none.

    Args:
        pod: The pod.
        status: What the provider said; not changed.
        previous: Newest status known before; start time, QoS class, pod IPs and transition times come from it.
        host_ips: InternalIPs of the node, primary first; empty while unknown.
        now: RFC 3339 time.

    Source: pkg/kubelet/kubelet_pods.go, generateAPIPodStatus; pkg/kubelet/status/status_manager.go, updateStatusInternal.
    """
    new: v1.PodStatus = {**status}
    phase = new.setdefault("phase", previous.get("phase") or "Pending")
    new["startTime"] = previous.get("startTime") or status.get("startTime") or now
    if qos := previous.get("qosClass") or status.get("qosClass"):
        new["qosClass"] = qos
    else:
        new["qosClass"] = compute_qos_class(pod)
    generation = pod["metadata"].get("generation")
    if generation is not None:
        new["observedGeneration"] = max(generation, previous.get("observedGeneration") or 0)
    if phase == previous.get("phase"):
        for key in ("reason", "message"):
            if key not in new and previous.get(key):
                new[key] = previous[key]
    _complete_addresses(pod, new, previous, host_ips)
    new["conditions"] = _complete_conditions(pod, new, previous, now)
    return new


def _complete_addresses(pod: v1.Pod, new: v1.PodStatus, previous: v1.PodStatus, host_ips: Sequence[str]) -> None:
    if host_ips:
        new["hostIP"] = host_ips[0]
        new["hostIPs"] = [{"ip": ip} for ip in host_ips]
    elif previous.get("hostIP"):
        new.setdefault("hostIP", previous["hostIP"])
        new.setdefault("hostIPs", previous.get("hostIPs") or [{"ip": previous["hostIP"]}])
    if pod.get("spec", {}).get("hostNetwork") and host_ips:
        new["podIPs"] = [{"ip": ip} for ip in host_ips]
    if not new.get("podIPs"):
        if new.get("podIP"):
            new["podIPs"] = [{"ip": new["podIP"]}]
        elif previous.get("podIPs"):
            new["podIPs"] = previous["podIPs"]
    if new.get("podIPs"):
        new["podIP"] = new["podIPs"][0]["ip"]


def _complete_conditions(pod: v1.Pod, new: v1.PodStatus, previous: v1.PodStatus, now: str) -> list[v1.PodCondition]:
    conditions = list(new.get("conditions") or ())
    kinds = {condition["type"] for condition in conditions}
    if "Initialized" not in kinds:
        conditions.append(_initialized(pod, new, previous))
    if "ContainersReady" not in kinds:
        conditions.append(_containers_ready(pod, new))
    if "Ready" not in kinds:
        ready = next(c for c in conditions if c["type"] == "ContainersReady")
        conditions.insert(len(conditions) - 1, _ready(pod, ready, previous))
    if "PodScheduled" not in kinds:
        conditions.append({"type": "PodScheduled", "status": "True"})
    if new["phase"] in TERMINAL_PHASES:
        reason = "PodCompleted" if new["phase"] == "Succeeded" else "PodFailed"
        for index, condition in enumerate(conditions):
            if condition["type"] in ("Ready", "ContainersReady") and condition.get("status") == "True":
                conditions[index] = {"type": condition["type"], "status": "False", "reason": reason}
    if any(not condition.get("lastTransitionTime") for condition in conditions):
        conditions = [
            condition if condition.get("lastTransitionTime") else stamp_conditions([condition], previous, now=now)[0]
            for condition in conditions
        ]
    generation = new.get("observedGeneration")
    if generation is not None:
        conditions = [
            condition
            if "observedGeneration" in condition or condition["type"] not in KUBELET_POD_CONDITIONS
            else {**condition, "observedGeneration": generation}
            for condition in conditions
        ]
    return conditions


def _status_by_name(status: v1.PodStatus, field: str) -> dict[str, v1.ContainerStatus]:
    return {entry["name"]: entry for entry in cast(dict[str, Any], status).get(field) or ()}


def _initialized(pod: v1.Pod, new: v1.PodStatus, previous: v1.PodStatus) -> v1.PodCondition:
    before = find_condition(previous, "Initialized")
    if new["phase"] == "Succeeded":
        return {"type": "Initialized", "status": "True", "reason": "PodCompleted"}
    if before is not None and before.get("status") == "True":
        return {"type": "Initialized", "status": "True"}
    statuses = _status_by_name(new, "initContainerStatuses")
    unknown, incomplete = [], []
    for container in pod.get("spec", {}).get("initContainers") or ():
        found = statuses.get(container["name"])
        if found is None:
            unknown.append(container["name"])
        elif not (found.get("started") if is_sidecar(container) else found.get("ready")):
            incomplete.append(container["name"])
    running = any(
        "running" in (s.get("state") or {}) or "terminated" in (s.get("state") or {})
        for s in new.get("containerStatuses") or ()
    )
    if running or not (unknown or incomplete):
        return {"type": "Initialized", "status": "True"}
    return {
        "type": "Initialized",
        "status": "False",
        "reason": "ContainersNotInitialized",
        "message": _join_names(unknown, incomplete, "incomplete"),
    }


def _containers_ready(pod: v1.Pod, new: v1.PodStatus) -> v1.PodCondition:
    if new["phase"] in TERMINAL_PHASES:
        reason = "PodCompleted" if new["phase"] == "Succeeded" else "PodFailed"
        return {"type": "ContainersReady", "status": "False", "reason": reason}
    spec = pod.get("spec", {})
    init, app = _status_by_name(new, "initContainerStatuses"), _status_by_name(new, "containerStatuses")
    wanted = [(c["name"], init) for c in spec.get("initContainers") or () if is_sidecar(c)]
    wanted += [(c["name"], app) for c in spec.get("containers") or ()]
    unknown = [name for name, statuses in wanted if name not in statuses]
    unready = [name for name, statuses in wanted if name in statuses and not statuses[name].get("ready")]
    if not unknown and not unready:
        return {"type": "ContainersReady", "status": "True"}
    return {
        "type": "ContainersReady",
        "status": "False",
        "reason": "ContainersNotReady",
        "message": _join_names(unknown, unready, "unready"),
    }


def _join_names(unknown: Sequence[str], bad: Sequence[str], word: str) -> str:
    parts = []
    if unknown:
        parts.append(f"containers with unknown status: [{' '.join(unknown)}]")
    if bad:
        parts.append(f"containers with {word} status: [{' '.join(bad)}]")
    return ", ".join(parts)


def _ready(pod: v1.Pod, containers_ready: v1.PodCondition, previous: v1.PodStatus) -> v1.PodCondition:
    if containers_ready.get("status") != "True":
        ready: v1.PodCondition = {"type": "Ready", "status": "False"}
        for key in ("reason", "message"):
            if key in containers_ready:
                ready[key] = containers_ready[key]
        return ready
    messages = []
    for gate in pod.get("spec", {}).get("readinessGates") or ():
        kind = gate["conditionType"]
        found = find_condition(previous, kind)
        if found is None:
            messages.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif found.get("status") != "True":
            messages.append(f'the status of pod readiness gate "{kind}" is not "True", but {found.get("status")}')
    if messages:
        return {
            "type": "Ready",
            "status": "False",
            "reason": "ReadinessGatesNotReady",
            "message": ", ".join(messages),
        }
    return {"type": "Ready", "status": "True"}


def make_rejected_status(pod: v1.Pod, reason: str, message: str, *, now: str) -> v1.PodStatus:
    """Status of a pod that the node refuses for good: nothing but the verdict.

    Source: pkg/kubelet/kubelet.go, rejectPod.
    """
    status: v1.PodStatus = {
        "phase": "Failed",
        "reason": reason,
        "message": f"Pod was rejected: {message}",
        "qosClass": pod.get("status", {}).get("qosClass") or compute_qos_class(pod),
        "startTime": pod.get("status", {}).get("startTime") or now,
    }
    if (generation := pod["metadata"].get("generation")) is not None:
        status["observedGeneration"] = generation
    return status


def finalize_status(pod: v1.Pod, status: v1.PodStatus, *, now: str) -> v1.PodStatus:
    """Status of a pod of which nothing runs any more: a terminal phase, and no container that seems to run.

    Containers whose end nobody saw are ``ContainerStatusUnknown`` with exit code 137; those that never started stay waiting unless
    the pod had been initialized.

    Source: pkg/kubelet/kubelet_pods.go, getPhase and generateAPIPodStatus; pkg/kubelet/status/status_manager.go,
    TerminatePod.
    """
    new: v1.PodStatus = {**status}
    initialized = (find_condition(status, "Initialized") or {}).get("status") == "True"
    for field in _STATUS_LISTS:
        entries = cast(dict[str, Any], new).get(field)
        if entries:
            never_started_ends = initialized and field == "containerStatuses"
            cast(dict[str, Any], new)[field] = [_end_container(entry, never_started_ends, now) for entry in entries]
    if new.get("phase") in TERMINAL_PHASES:
        return new
    ends = [(entry.get("state") or {}).get("terminated") for entry in cast(Any, new.get("containerStatuses") or ())]
    succeeded = bool(ends) and all(end is not None and end.get("exitCode") == 0 for end in ends)
    complete = len(ends) >= len(pod.get("spec", {}).get("containers") or ())
    new["phase"] = "Succeeded" if succeeded and complete else "Failed"
    return new


def _end_container(entry: v1.ContainerStatus, never_started_ends: bool, now: str) -> v1.ContainerStatus:
    state = entry.get("state") or {}
    if "terminated" in state or ("running" not in state and not never_started_ends):
        return entry
    if "running" not in state and (entry.get("lastState") or {}).get("terminated"):
        # Waiting for a restart that will not come: how it ended last is how it ended.
        return {**entry, "state": entry["lastState"], "lastState": {}, "ready": False, "started": False}
    ended: v1.ContainerStatus = {
        **entry,
        "state": {
            "terminated": {
                "exitCode": 137,
                "reason": CONTAINER_STATUS_UNKNOWN,
                "message": LOST_CONTAINER_MESSAGE,
                "startedAt": state.get("running", {}).get("startedAt"),
                "finishedAt": now if "running" in state else None,
                "containerID": entry.get("containerID", ""),
            }
        },
        "ready": False,
        "started": False,
    }
    return ended


def find_forbidden_transition(pod: v1.Pod, old: v1.PodStatus, new: v1.PodStatus) -> str | None:
    """Name of a container that would come back to life although it may not be restarted; None if all is well.

    Source: pkg/kubelet/status/status_manager.go, checkContainerStateTransition.
    """
    policy = get_restart_policy(pod)
    if policy == "Always":
        return None
    spec = pod.get("spec", {})
    for field, containers in (
        ("containerStatuses", spec.get("containers")),
        ("initContainerStatuses", spec.get("initContainers")),
    ):
        old_by_name, new_by_name = _status_by_name(old, field), _status_by_name(new, field)
        for container in containers or ():
            own_policy = container.get("restartPolicy")
            if own_policy == "Always" or container.get("restartPolicyRules"):
                continue
            end = (old_by_name.get(container["name"], {}).get("state") or {}).get("terminated")
            if end is None or (end.get("exitCode") != 0 and (own_policy or policy) == "OnFailure"):
                continue
            if own_policy == "OnFailure" or end.get("reason") == CONTAINER_STATUS_UNKNOWN:
                continue
            found = new_by_name.get(container["name"])
            if found is not None and "terminated" not in (found.get("state") or {}):
                return container["name"]
    return None


def merge_for_api(status: v1.PodStatus, server: v1.PodStatus, *, may_run: bool) -> v1.PodStatus:
    """The status to have at the API server: ours, others' conditions, nothing terminal while something may run.

    Args:
        status: Our newest status.
        server: What the API server has.
        may_run: Whether anything of the pod may still run.

    Source: pkg/kubelet/status/status_manager.go, mergePodStatus.
    """
    merged: v1.PodStatus = {**status}
    own = merged.get("conditions") or []
    kinds = {condition["type"] for condition in own}
    foreign = [
        condition
        for condition in server.get("conditions") or ()
        if condition["type"] not in kinds and condition["type"] not in KUBELET_POD_CONDITIONS
    ]
    if foreign or own:
        merged["conditions"] = foreign + own
    terminal_here = merged.get("phase") in TERMINAL_PHASES
    if server.get("phase") in TERMINAL_PHASES:
        copy_verdict(merged, server)
    elif terminal_here and may_run:
        copy_verdict(merged, server)
        merged.setdefault("phase", "Pending")
        merged["conditions"] = [c for c in merged.get("conditions") or () if c["type"] != "DisruptionTarget"]
    return merged


def copy_verdict(target: v1.PodStatus, source: v1.PodStatus) -> None:
    """Put phase, reason and message of one status into another, in place."""
    for key in ("phase", "reason", "message"):
        if source.get(key):
            target[key] = source[key]
        else:
            target.pop(key, None)  # type: ignore[misc]


def make_status_patch(server: v1.PodStatus, wanted: v1.PodStatus) -> dict[str, Any] | None:
    """Strategic-merge patch that turns one status into the other; None when they mean the same.

    Zero values and absent ones are equal, as for the API server. Fields of others are never touched.
    """
    old, new = cast(dict[str, Any], server), cast(dict[str, Any], wanted)
    patch: dict[str, Any] = {}
    for key in new.keys() | old.keys():
        before, after = old.get(key), new.get(key)
        if key in _FOREIGN_FIELDS or _means_same(before, after):
            continue
        if key == "conditions":
            if conditions := _diff_conditions(before or [], after or []):
                patch[key] = conditions
        elif key in _MERGED_BY_IP:
            patch[key] = [{"$patch": "replace"}, *(after or ())]
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            patch[key] = _diff_mapping(before, after)
        else:
            patch[key] = after
    return patch or None


def _diff_conditions(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    old = {condition["type"]: condition for condition in before}
    new = {condition["type"]: condition for condition in after}
    patch: list[dict[str, Any]] = []
    for kind, condition in new.items():
        if kind not in old:
            patch.append(dict(condition))
        elif not _means_same(old[kind], condition):
            patch.append({**_diff_mapping(old[kind], condition), "type": kind})
    # Only what is ours to take away goes; a condition of somebody else may have come since we looked.
    patch += [{"$patch": "delete", "type": kind} for kind in old if kind not in new and kind in KUBELET_POD_CONDITIONS]
    return patch


def _diff_mapping(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Changed keys with their new values, vanished ones with None."""
    diff: dict[str, Any] = {}
    for key in after.keys() | before.keys():
        old, new = before.get(key), after.get(key)
        if _means_same(old, new):
            continue
        diff[key] = _diff_mapping(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new
    return diff


def _means_same(a: Any, b: Any) -> bool:
    if a == b:
        return True
    if a is None:
        return _is_zero(b)
    if b is None:
        return _is_zero(a)
    return bool(_prune(a) == _prune(b))


def _is_zero(value: Any) -> bool:
    """Whether nothing is left of a value when zero values are left out."""
    if isinstance(value, Mapping):
        return all(map(_is_zero, value.values()))
    return not value


def _prune(value: Any) -> Any:
    """The value without zero values, which the API server may leave out or put in."""
    if isinstance(value, Mapping):
        pruned = {key: kept for key, item in value.items() if (kept := _prune(item)) is not _MISSING}
        return pruned or _MISSING
    if isinstance(value, (list, tuple)):
        items = [item if (kept := _prune(item)) is _MISSING else kept for item in value]
        return items or _MISSING
    return value if value else _MISSING
