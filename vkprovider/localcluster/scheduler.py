"""A small scheduler: puts pending pods on ready nodes that they tolerate, select and fit.

Driven by changes of pods and nodes. Among the nodes that fit, the one with the fewest pods wins. There is no
preemption, no inter-pod affinity and no spreading beyond that.

Source: pkg/scheduler/framework/plugins (nodename, nodeunschedulable, tainttoleration, nodeaffinity, noderesources);
pkg/scheduler/framework/types.go, FitError.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.pods import TERMINAL_PHASES
from vkprovider.api.quantity import Quantity
from vkprovider.api.resources import parse_resource_list, pod_requests
from vkprovider.api.timestamps import format_micro_time
from vkprovider.localcluster import status
from vkprovider.localcluster.admission import random_suffix
from vkprovider.localcluster.objects import ObjectService, WriteOptions
from vkprovider.localcluster.selectors import Requirement
from vkprovider.localcluster.store import Change, ChangeQueue, Stored
from vkprovider.localcluster.subresources import bind_pod, with_condition

logger = logging.getLogger(__name__)
Object = dict[str, Any]
Key = tuple[str, str]
NAME: Final = "default-scheduler"
_BATCH: Final = 50
_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent", "Gt": "gt", "Lt": "lt"}


def tolerates(tolerations: list[Object], taint: Object) -> bool:
    """Whether one of the tolerations matches the taint.

    Source: staging/src/k8s.io/api/core/v1/toleration.go, ToleratesTaint.
    """
    for item in tolerations:
        if item.get("effect") and item["effect"] != taint.get("effect"):
            continue
        if item.get("key") and item["key"] != taint.get("key"):
            continue
        operator = item.get("operator") or "Equal"
        if operator == "Exists" or (operator == "Equal" and item.get("value", "") == taint.get("value", "")):
            return True
    return False


def find_untolerated(pod: Object, node: Object) -> Object | None:
    """The first taint of the node that keeps the pod away, or None."""
    tolerations = pod["spec"].get("tolerations") or []
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not tolerates(tolerations, taint):
            return dict(taint)
    return None


def _term_matches(term: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    for source, values in ((expressions, labels), (fields, {"metadata.name": node["metadata"]["name"]})):
        for item in source:
            requirement = Requirement(item["key"], _OPERATORS[item["operator"]], frozenset(item.get("values") or ()))
            if not requirement.matches(values):
                return False
    return True


def matches_affinity(pod: Object, node: Object) -> bool:
    """Whether the node satisfies the pod's nodeSelector and required node affinity."""
    labels = node["metadata"].get("labels") or {}
    selector = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


class _NodeState:
    """A node and what is already on it."""

    def __init__(self, obj: Object) -> None:
        self.obj = obj
        state = obj.get("status") or {}
        self.allocatable = parse_resource_list(state.get("allocatable") or state.get("capacity"))
        self.used: dict[str, Quantity] = {}
        self.pods: dict[Key, Mapping[str, Quantity]] = {}
        self.ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in state.get("conditions") or ())

    def add(self, key: Key, requests: Mapping[str, Quantity]) -> None:
        if key in self.pods:
            return
        self.pods[key] = requests
        for name, amount in requests.items():
            self.used[name] = self.used.get(name, Quantity()) + amount

    def remove(self, key: Key) -> None:
        requests = self.pods.pop(key, None)
        for name, amount in (requests or {}).items():
            self.used[name] = self.used[name] - amount

    def lacking(self, requests: Mapping[str, Quantity]) -> list[str]:
        """Why the pod does not fit: ``Insufficient cpu``, ``Too many pods``."""
        reasons = []
        room = self.allocatable.get("pods")
        if room is not None and len(self.pods) + 1 > room.value():
            reasons.append("Too many pods")
        for name, amount in requests.items():
            if amount and self.used.get(name, Quantity()) + amount > self.allocatable.get(name, Quantity()):
                reasons.append(f"Insufficient {name}")
        return reasons


def refusals(pod: Object, node: _NodeState, requests: Mapping[str, Quantity]) -> list[str]:
    """Why the pod cannot go to the node, in the scheduler's words; empty when it can."""
    spec = node.obj.get("spec") or {}
    tolerations = pod["spec"].get("tolerations") or []
    unschedulable = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if spec.get("unschedulable") and not tolerates(tolerations, unschedulable):
        return ["node(s) were unschedulable"]
    taint = find_untolerated(pod, node.obj)
    if taint is not None:
        return [f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value', '')}}}"]
    if not node.ready:
        # A real cluster's node controller would have put this taint on the node.
        not_ready = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
        if not tolerates(tolerations, not_ready):
            return ["node(s) had untolerated taint {node.kubernetes.io/not-ready: }"]
    if not matches_affinity(pod, node.obj):
        return ["node(s) didn't match Pod's node affinity/selector"]
    return node.lacking(requests)


def describe_failure(reasons: Mapping[str, int], nodes: int) -> str:
    """``0/2 nodes are available: 1 Insufficient cpu, ...``, as kube-scheduler says it."""
    if not nodes:
        return "no nodes available to schedule pods"
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    return f"0/{nodes} nodes are available: {listed}."


class Scheduler:
    """Binds pending pods.

    Args:
        objects: The objects.
    """

    def __init__(self, objects: ObjectService) -> None:
        self._objects = objects
        self._pods = objects.registry.get("pods")
        self._events = objects.registry.get("events")
        self._nodes: dict[str, _NodeState] = {}
        self._placed: dict[Key, str] = {}
        self._waiting: dict[Key, None] = {}
        self._reported: dict[Key, str] = {}

    async def run(self) -> None:
        """Schedule until cancelled."""
        store = self._objects.store
        pods, nodes = store.collection("pods"), store.collection("nodes")
        changes = ChangeQueue(pods, limit=None)
        nodes.listeners[changes] = None
        try:
            for stored in nodes.iterate():
                self._set_node(stored.obj)
            for stored in pods.list_sorted():
                self._see_pod(stored.obj)
            await self._schedule_waiting()
            while True:
                retry = False
                for change in await changes.take():
                    retry = self._see(change) or retry
                if retry:
                    for key in self._reported:
                        self._waiting.setdefault(key)
                await self._schedule_waiting()
        finally:
            nodes.listeners.pop(changes, None)
            changes.close()

    def _see(self, change: Change) -> bool:
        """Take in one change; whether pods that did not fit before may fit now."""
        obj = change.stored.obj
        if obj["kind"] == "Node":
            if change.removed:
                self._nodes.pop(obj["metadata"]["name"], None)
                return False
            return self._set_node(obj)
        key = change.stored.key
        if change.removed or (obj.get("status") or {}).get("phase") in TERMINAL_PHASES:
            self._waiting.pop(key, None)
            self._reported.pop(key, None)
            node = self._nodes.get(self._placed.pop(key, ""))
            if node is not None:
                node.remove(key)
                return True
            return False
        self._see_pod(obj)
        return False

    def _set_node(self, obj: Object) -> bool:
        """Take in a node; whether anything that matters here has changed."""
        name = obj["metadata"]["name"]
        old = self._nodes.get(name)
        if old is not None and _relevant(old.obj) == _relevant(obj):
            old.obj = obj
            return False
        new = _NodeState(obj)
        if old is not None:
            for key, requests in old.pods.items():
                new.add(key, requests)
        else:
            for stored in self._objects.store.collection("pods").iterate():
                if stored.obj["spec"].get("nodeName") == name:
                    self._nodes[name] = new
                    self._see_pod(stored.obj)
        self._nodes[name] = new
        return True

    def _see_pod(self, pod: Object) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        key = (metadata["namespace"], metadata["name"])
        node = spec.get("nodeName")
        if (pod.get("status") or {}).get("phase") in TERMINAL_PHASES:
            return
        if node:
            self._waiting.pop(key, None)
            self._reported.pop(key, None)
            if node in self._nodes and self._placed.get(key) != node:
                self._placed[key] = node
                self._nodes[node].add(key, pod_requests(pod))  # type: ignore[arg-type]
        elif (
            spec.get("schedulerName") == NAME
            and not metadata.get("deletionTimestamp")
            and not spec.get("schedulingGates")
        ) and key not in self._reported:
            self._waiting.setdefault(key)

    async def _schedule_waiting(self) -> None:
        done = 0
        while self._waiting:
            key = next(iter(self._waiting))
            del self._waiting[key]
            stored = self._objects.store.collection("pods").find(*key)
            if stored is not None and not stored.obj["spec"].get("nodeName"):
                try:
                    self._schedule(key, stored)
                except status.APIStatusError as error:
                    logger.warning("Scheduling failed", extra={"pod": "/".join(key), "error": str(error)})
                except Exception:
                    # A pod that cannot be understood must not keep the others waiting.
                    logger.exception("Scheduling failed", extra={"pod": "/".join(key)})
            done += 1
            if done % _BATCH == 0:
                await asyncio.sleep(0)

    def _schedule(self, key: Key, stored: Stored) -> None:
        pod = stored.obj
        requests = pod_requests(pod)  # type: ignore[arg-type]
        reasons: dict[str, int] = {}
        best: _NodeState | None = None
        for node in self._nodes.values():
            refused = refusals(pod, node, requests)
            for reason in refused:
                reasons[reason] = reasons.get(reason, 0) + 1
            if not refused and (best is None or len(node.pods) < len(best.pods)):
                best = node
        if best is None:
            self._report(key, stored, describe_failure(reasons, len(self._nodes)))
            return
        name = best.obj["metadata"]["name"]
        bind_pod(self._objects, stored, name)
        self._reported.pop(key, None)
        self._placed[key] = name
        best.add(key, requests)
        message = f"Successfully assigned {key[0]}/{key[1]} to {name}"
        self._emit(pod, "Normal", "Scheduled", "Binding", message)

    def _report(self, key: Key, stored: Stored, message: str) -> None:
        if self._reported.get(key) == message:
            return
        self._reported[key] = message
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._objects.rewrite(self._pods, stored, with_condition(stored.obj, condition))
        self._emit(stored.obj, "Warning", "FailedScheduling", "Scheduling", message)

    def _emit(self, pod: Object, kind: str, reason: str, action: str, message: str) -> None:
        metadata = pod["metadata"]
        event = {
            "metadata": {"name": f"{metadata['name']}.{random_suffix(16)}", "namespace": metadata["namespace"]},
            "involvedObject": {
                "kind": "Pod",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "apiVersion": "v1",
                "resourceVersion": metadata["resourceVersion"],
            },
            "reason": reason,
            "message": message,
            "source": {},
            "firstTimestamp": None,
            "lastTimestamp": None,
            "eventTime": format_micro_time(datetime.now(UTC)),
            "type": kind,
            "action": action,
            "reportingComponent": NAME,
            "reportingInstance": f"{NAME}-local",
        }
        try:
            self._objects.create(self._events, metadata["namespace"], event, WriteOptions())
        except status.APIStatusError as error:
            logger.debug("Event not recorded", extra={"pod": metadata["name"], "error": str(error)})


def _relevant(node: Object) -> tuple[Any, ...]:
    state = node.get("status") or {}
    ready = [c.get("status") for c in state.get("conditions") or () if c.get("type") == "Ready"]
    return (
        node["metadata"].get("labels"),
        (node.get("spec") or {}).get("taints"),
        (node.get("spec") or {}).get("unschedulable"),
        state.get("allocatable") or state.get("capacity"),
        ready,
    )
