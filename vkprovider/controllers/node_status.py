"""The Node object as a plain value: labels, capacity, conditions, status, and patches of it. Pure.

Source: pkg/kubelet/kubelet_node_status.go and pkg/kubelet/nodestatus/setters.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from vkprovider._version import __version__
from vkprovider.api import labels as keys
from vkprovider.api import v1
from vkprovider.api.conditions import find_node_condition
from vkprovider.api.quantity import Quantity, format_memory_ki, parse_quantity, parse_threshold
from vkprovider.controllers.machine import Machine
from vkprovider.provider.capabilities import NodeDescription
from vkprovider.settings import KUBELET_VERSION, NodeSettings

READY: Final = "Ready"
_MAX_IMAGE_NAMES = 5
_NATIVE_RESOURCES = ("cpu", "memory", "pods", "ephemeral-storage")
_CONDITIONS: Final[Mapping[str, tuple[tuple[str, str], tuple[str, str]]]] = {
    "MemoryPressure": (
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
}
"""Reason and message of each pressure condition: when all is well, and under pressure."""

_TRANSITION_EVENTS: Final[Mapping[tuple[str, str], str]] = {
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("PIDPressure", "True"): "NodeHasInsufficientPID",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
}
_STOP_REASON: Final = "KubeletStopped"
_STOP_MESSAGE: Final = "vkprovider was stopped and no longer manages this node; its pods keep running"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """All that a node's status is made of.

    Attributes:
        settings: How the node was configured.
        machine: The machine, for what the provider does not tell.
        description: What the provider tells.
        provider_name: Name of the provider.
        kubelet_port: Port of the kubelet API.
        host_ips: InternalIPs, primary first.
        errors: Why the node is not ready; empty when it is.
        declared_features: Features of 1.36 that this node really has.
    """

    settings: NodeSettings
    machine: Machine
    description: NodeDescription
    provider_name: str
    kubelet_port: int
    host_ips: tuple[str, ...]
    errors: tuple[str, ...] = ()
    declared_features: tuple[str, ...] = ()


def make_kubelet_version() -> str:
    """``v1.36.3-vkprovider-0.1.0``: a semantic version whose minor version-skew checks can compare.

    Source: apimachinery util/version/version.go, ParseSemantic.
    """
    suffix = re.sub(r"[^0-9A-Za-z.-]", "-", __version__)
    return f"{KUBELET_VERSION}-vkprovider-{suffix}"


def make_labels(facts: NodeFacts) -> dict[str, str]:
    """Labels to register with: the kubelet's, ours, the provider's, the configured ones; later ones win."""
    machine = facts.machine
    architecture = facts.description.node_info.get("architecture", machine.architecture)
    system = facts.description.node_info.get("operatingSystem", "linux")
    labels = {
        keys.HOSTNAME: facts.settings.name,
        keys.OS: system,
        keys.ARCH: architecture,
        keys.BETA_OS: system,
        keys.BETA_ARCH: architecture,
        keys.NODE_TYPE: keys.NODE_TYPE_VALUE,
        **facts.description.labels,
    }
    if facts.settings.exclude_from_load_balancers:
        labels[keys.EXCLUDE_LOAD_BALANCERS] = "true"
    return {**labels, **facts.settings.labels}


def make_taints(facts: NodeFacts) -> list[v1.Taint]:
    """Taints to register with; of one key and effect the configured one counts."""
    taints: list[v1.Taint] = []
    if facts.settings.default_taint:
        taints.append({"key": keys.PROVIDER_TAINT, "value": facts.provider_name, "effect": "NoSchedule"})
    taints += facts.description.taints
    chosen = {(taint["key"], taint["effect"]): taint for taint in [*taints, *facts.settings.taints]}
    return list(chosen.values())


def make_node(facts: NodeFacts, *, instance_id: str, now: str) -> v1.Node:
    """The Node object to create, its status included."""
    node: v1.Node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": facts.settings.name,
            "labels": make_labels(facts),
            "annotations": {
                keys.ATTACH_DETACH_ANNOTATION: "true",
                keys.INSTANCE_ANNOTATION: instance_id,
                **facts.description.annotations,
            },
        },
        "spec": {},
        "status": make_status(facts, {}, now=now),
    }
    if taints := make_taints(facts):
        node["spec"]["taints"] = taints
    if facts.settings.provider_id:
        node["spec"]["providerID"] = facts.settings.provider_id
    return node


def make_status(facts: NodeFacts, previous: v1.NodeStatus, *, now: str) -> v1.NodeStatus:
    """Status of the node.

    Args:
        facts: What it is made of.
        previous: Status before; transition times come from it.
        now: RFC 3339 time.
    """
    capacity = make_capacity(facts)
    status: v1.NodeStatus = {
        "addresses": make_addresses(facts),
        "capacity": capacity,
        "allocatable": make_allocatable(facts, capacity),
        "nodeInfo": _make_node_info(facts),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.kubelet_port}},
        "images": _make_images(facts),
        "conditions": make_conditions(facts, previous, now=now),
    }
    if facts.description.runtime_handlers:
        handlers = sorted(facts.description.runtime_handlers, key=lambda handler: handler.get("name", ""))
        status["runtimeHandlers"] = [dict(handler) for handler in handlers]
    if facts.description.features:
        status["features"] = dict(facts.description.features)
    if facts.declared_features:
        status["declaredFeatures"] = sorted(facts.declared_features)
    return status


def make_addresses(facts: NodeFacts) -> list[dict[str, str]]:
    """Entries of ``status.addresses``: the InternalIPs, then the host name."""
    if facts.description.addresses and not facts.settings.ips:
        return [dict(address) for address in facts.description.addresses]
    addresses = [{"type": "InternalIP", "address": ip} for ip in facts.host_ips]
    return [*addresses, {"type": "Hostname", "address": facts.settings.name}]


def make_capacity(facts: NodeFacts) -> dict[str, str]:
    """``status.capacity``: the provider's, the machine's for what it leaves out, and the bound on pods."""
    machine, settings = facts.machine, facts.settings
    capacity = {
        "cpu": str(machine.cpus),
        "memory": format_memory_ki(machine.memory_bytes),
        "ephemeral-storage": format_memory_ki(machine.storage_bytes),
        **facts.description.capacity,
    }
    if "pods" not in facts.description.capacity:
        pods = settings.max_pods
        if settings.pods_per_core > 0:
            pods = min(pods, settings.pods_per_core * max(1, parse_quantity(capacity["cpu"]).value()))
        capacity["pods"] = str(pods)
    return capacity


def make_allocatable(facts: NodeFacts, capacity: Mapping[str, str]) -> dict[str, str]:
    """``status.allocatable``: the provider's, or capacity less reservations, eviction thresholds and huge pages.

    Source: pkg/kubelet/cm/node_container_manager_linux.go, GetNodeAllocatableReservation; setters.go, MachineInfo.
    """
    if facts.description.allocatable is not None:
        return {**capacity, **facts.description.allocatable}
    settings = facts.settings
    reserved: dict[str, Quantity] = {}
    for amounts in (settings.system_reserved, settings.kube_reserved):
        for name, text in amounts.items():
            reserved[name] = reserved.get(name, Quantity()) + parse_quantity(text)
    for signal, name in (("memory.available", "memory"), ("nodefs.available", "ephemeral-storage")):
        if signal in settings.eviction_hard and name in capacity:
            threshold = parse_threshold(settings.eviction_hard[signal]).resolve(parse_quantity(capacity[name]))
            reserved[name] = reserved.get(name, Quantity()) + threshold
    allocatable = {}
    for name, text in capacity.items():
        total = parse_quantity(text)
        if name == "memory":
            for other, size in capacity.items():
                if other.startswith("hugepages-"):
                    total = total - parse_quantity(size)
        if name in reserved:
            total = total - reserved[name]
        left = max(total, Quantity(0, total.format))
        if left == parse_quantity(text):
            allocatable[name] = text
        elif name in ("memory", "ephemeral-storage") and left.value() % 1024 == 0:
            allocatable[name] = format_memory_ki(left.value())
        else:
            allocatable[name] = str(left)
    return allocatable


def _make_node_info(facts: NodeFacts) -> dict[str, Any]:
    machine = facts.machine
    info: dict[str, Any] = {
        "machineID": machine.machine_id,
        "systemUUID": machine.system_uuid,
        "bootID": machine.boot_id,
        "kernelVersion": machine.kernel_version,
        "osImage": machine.os_image,
        "containerRuntimeVersion": f"{facts.provider_name}://Unknown",
        "kubeletVersion": make_kubelet_version(),
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": machine.architecture,
    }
    if machine.swap_bytes:
        info["swap"] = {"capacity": machine.swap_bytes}
    return {**info, **facts.description.node_info}


def _make_images(facts: NodeFacts) -> list[dict[str, Any]]:
    images = sorted(facts.description.images, key=lambda image: image.get("sizeBytes", 0), reverse=True)
    if facts.settings.max_images >= 0:
        images = images[: facts.settings.max_images]
    return [{**image, "names": list(image.get("names") or ())[:_MAX_IMAGE_NAMES]} for image in images]


def make_conditions(facts: NodeFacts, previous: v1.NodeStatus, *, now: str) -> list[v1.NodeCondition]:
    """The conditions: the pressures, those the provider adds, Ready last."""
    given = {condition["type"]: condition for condition in facts.description.conditions}
    conditions: list[v1.NodeCondition] = []
    for kind, (good, bad) in _CONDITIONS.items():
        own = given.pop(kind, None)
        status = own.get("status", "False") if own is not None else "False"
        reason, message = bad if status == "True" else good
        condition: v1.NodeCondition = {"type": kind, "status": status, "reason": reason, "message": message}
        conditions.append({**condition, **own} if own is not None else condition)
    given.pop(READY, None)
    conditions += given.values()
    if facts.errors:
        message = facts.errors[0] if len(facts.errors) == 1 else f"[{', '.join(facts.errors)}]"
        conditions.append({"type": READY, "status": "False", "reason": "KubeletNotReady", "message": message})
    else:
        conditions.append(
            {
                "type": READY,
                "status": "True",
                "reason": "KubeletReady",
                "message": "kubelet is posting ready status",
            }
        )
    return [_stamp(condition, previous, now) for condition in conditions]


def make_stopped_condition(previous: v1.NodeStatus, *, now: str) -> v1.NodeCondition:
    """The Ready condition that a clean exit leaves behind."""
    condition: v1.NodeCondition = {
        "type": READY,
        "status": "False",
        "reason": _STOP_REASON,
        "message": _STOP_MESSAGE,
    }
    return _stamp(condition, previous, now)


def _stamp(condition: v1.NodeCondition, previous: v1.NodeStatus, now: str) -> v1.NodeCondition:
    old = find_node_condition(previous, condition["type"])
    same = old is not None and old.get("status") == condition.get("status") and bool(old.get("lastTransitionTime"))
    return {
        **condition,
        "lastHeartbeatTime": now,
        "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else now,
    }


def list_transition_events(old: v1.NodeStatus, new: v1.NodeStatus) -> list[str]:
    """Reasons of the events that a change of status calls for, e.g. ``NodeReady``."""
    reasons = []
    for condition in new.get("conditions") or ():
        before = find_node_condition(old, condition["type"])
        if before is None or before.get("status") != condition.get("status"):
            reason = _TRANSITION_EVENTS.get((condition["type"], condition.get("status", "")))
            if reason is not None:
                reasons.append(reason)
    return reasons


def has_changed(old: v1.NodeStatus, new: v1.NodeStatus) -> bool:
    """Whether anything but heartbeat times differs.

    Source: kubelet_node_status.go, nodeStatusHasChanged.
    """
    return make_status_patch(_without_heartbeat(old), _without_heartbeat(new)) is not None


def _without_heartbeat(status: v1.NodeStatus) -> v1.NodeStatus:
    conditions = []
    for condition in status.get("conditions") or ():
        bare = cast(v1.NodeCondition, {k: v for k, v in condition.items() if k != "lastHeartbeatTime"})
        conditions.append(bare)
    return {**status, "conditions": conditions}


def make_status_patch(old: v1.NodeStatus, new: v1.NodeStatus) -> dict[str, Any] | None:
    """Strategic-merge patch from one status to the other; None if they are equal.

    Resources, conditions and fields that others have put there stay.
    """
    before, after = cast(dict[str, Any], old), cast(dict[str, Any], new)
    patch: dict[str, Any] = {}
    for key, value in after.items():
        current = before.get(key)
        if current == value or (not current and not value):
            continue
        if key == "conditions":
            if changed := _diff_conditions(current or (), value):
                patch[key] = changed
        elif key == "addresses":
            # Two addresses of one type would be merged into one: the list is replaced as a whole.
            patch[key] = [{"$patch": "replace"}, *value]
        elif key in ("capacity", "allocatable"):
            if changed_amounts := _diff_amounts(current or {}, value):
                patch[key] = changed_amounts
        elif isinstance(value, Mapping) and isinstance(current, Mapping):
            removed = {name: None for name in current if name not in value}
            patch[key] = {**removed, **{n: v for n, v in value.items() if current.get(n) != v}}
        else:
            patch[key] = value
    for key in ("runtimeHandlers", "features", "declaredFeatures"):
        if before.get(key) and key not in after:
            patch[key] = None
    return patch or None


def _diff_conditions(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    before = {condition["type"]: condition for condition in old}
    return [dict(condition) for condition in new if before.get(condition["type"]) != condition]


def _diff_amounts(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    diff: dict[str, str | None] = {
        name: text for name, text in new.items() if name not in old or parse_quantity(old[name]) != parse_quantity(text)
    }
    for name in old:
        # An extended resource is somebody else's; what a kubelet measures itself goes when it is gone.
        if name not in new and (name in _NATIVE_RESOURCES or name.startswith("hugepages-")):
            diff[name] = None
    return diff
