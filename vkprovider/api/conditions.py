"""Building and merging the condition lists of pods and nodes."""

from __future__ import annotations

from collections.abc import Iterable

from vkprovider.api import v1

KUBELET_POD_CONDITIONS = frozenset(
    {
        "PodScheduled",
        "Ready",
        "Initialized",
        "ContainersReady",
        "PodReadyToStartContainers",
        "PodResizePending",
        "PodResizeInProgress",
        "AllContainersRestarting",
    }
)
"""Pod conditions that the kubelet owns; all others belong to somebody else and are kept.

``DisruptionTarget`` is shared. Source: pkg/kubelet/types/pod_status.go, PodConditionByKubelet.
"""


def find_condition(status: v1.PodStatus, kind: str) -> v1.PodCondition | None:
    """The condition of this type, or None."""
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), None)


def find_node_condition(status: v1.NodeStatus, kind: str) -> v1.NodeCondition | None:
    """The node condition of this type, or None."""
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), None)


def is_condition_true(status: v1.PodStatus, kind: str) -> bool:
    """Whether the condition exists with status True."""
    found = find_condition(status, kind)
    return found is not None and found.get("status") == "True"


def stamp_conditions(
    conditions: Iterable[v1.PodCondition], previous: v1.PodStatus, *, now: str
) -> list[v1.PodCondition]:
    """Copies with ``lastTransitionTime`` kept where the status did not change, and ``now`` elsewhere.

    Args:
        conditions: New conditions, without transition times.
        previous: Status that holds the conditions before this change.
        now: RFC 3339 time.
    """
    before = {condition.get("type"): condition for condition in previous.get("conditions") or ()}
    stamped: list[v1.PodCondition] = []
    for condition in conditions:
        old = before.get(condition["type"])
        same = old is not None and old.get("status") == condition.get("status") and old.get("lastTransitionTime")
        stamped.append(
            {
                "lastProbeTime": None,
                **condition,
                "lastTransitionTime": old["lastTransitionTime"] if same and old else now,
            }
        )
    return stamped
