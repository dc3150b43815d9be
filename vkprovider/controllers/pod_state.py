"""What happens to a pod next: pure decisions of the pod workers.

States go one way: sync, terminating, terminated, finished. Once terminating, a pod never goes back, and later words can only shorten
the time it gets.

Source: pkg/kubelet/pod_workers.go, podSyncStatus and UpdatePod.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from vkprovider.api import v1
from vkprovider.api.conditions import KUBELET_POD_CONDITIONS
from vkprovider.api.pods import get_grace_period_s, is_deleted, is_terminal
from vkprovider.errors import TransientError

MAX_BACKOFF_S = 60.0
"""Longest wait that an error's ``retry_after_s`` may ask for. Source: pod_workers.go, completeWork."""


class WorkState(StrEnum):
    """Where a pod's worker is."""

    SYNC = "sync"
    """The pod should run."""
    TERMINATING = "terminating"
    """Everything of it is being stopped."""
    TERMINATED = "terminated"
    """Nothing of it runs; its records stay until the pod is deleted."""
    FINISHED = "finished"
    """Its records are gone as well; only the API object may be left."""


@dataclass(frozen=True, slots=True)
class PodChange:
    """What a new version of a pod means to its worker.

    Attributes:
        newer: Whether it is a later version at all.
        relevant: Whether anything changed that a sync looks at.
    """

    newer: bool
    relevant: bool


def is_older(version: str, than: str) -> bool:
    """Whether a resource version is certainly older; resource versions are numbers that grow."""
    try:
        return int(version) < int(than)
    except ValueError:
        return False


def compare_pods(old: v1.Pod, new: v1.Pod) -> PodChange:
    """What is new in ``new``; an echo of a status that we wrote is newer but not relevant.

    Source: pkg/kubelet/config/config.go, checkAndUpdatePod: spec, labels, annotations and deletion count, status only as far
    as readiness gates look at it.
    """
    before, after = old["metadata"], new["metadata"]
    old_version, new_version = before.get("resourceVersion", ""), after.get("resourceVersion", "")
    if old_version == new_version or is_older(new_version, old_version):
        return PodChange(newer=False, relevant=False)
    relevant = (
        before.get("deletionTimestamp") != after.get("deletionTimestamp")
        or before.get("deletionGracePeriodSeconds") != after.get("deletionGracePeriodSeconds")
        or before.get("labels") != after.get("labels")
        or before.get("annotations") != after.get("annotations")
        or _spec_changed(old, new)
        or (not is_terminal(old) and is_terminal(new))
        or _gates_changed(old, new)
    )
    return PodChange(newer=True, relevant=relevant)


def _spec_changed(old: v1.Pod, new: v1.Pod) -> bool:
    generation = new["metadata"].get("generation")
    if generation is not None and generation == old["metadata"].get("generation"):
        return False
    return old.get("spec") != new.get("spec")


def _gates_changed(old: v1.Pod, new: v1.Pod) -> bool:
    if not new.get("spec", {}).get("readinessGates"):
        return False
    return _foreign_conditions(old) != _foreign_conditions(new)


def _foreign_conditions(pod: v1.Pod) -> dict[str, str]:
    return {
        condition["type"]: condition.get("status", "")
        for condition in pod.get("status", {}).get("conditions") or ()
        if condition["type"] not in KUBELET_POD_CONDITIONS
    }


def must_terminate(pod: v1.Pod) -> bool:
    """Whether the API object alone says that nothing of the pod may run any more."""
    return is_deleted(pod) or is_terminal(pod)


def shorten_grace(current_s: int | None, pod: v1.Pod, override_s: int | None = None) -> int:
    """Grace period in force after hearing of one more reason to stop: the smallest seen, at least 1.

    Source: pkg/kubelet/pod_workers.go, calculateEffectiveGracePeriod.
    """
    new_s = get_grace_period_s(pod, override_s)
    return new_s if current_s is None else min(current_s, new_s)


def compute_requeue_s(requeue_after_s: float | None, *, sync_period_s: float) -> float:
    """Seconds until an unchanged pod is synced again after a success.

    A provider's own wish is kept exactly; the sync period is stretched by up to a half so that pods spread out.

    Source: pkg/kubelet/pod_workers.go, completeWork.
    """
    if requeue_after_s is not None:
        return max(0.0, requeue_after_s)
    return sync_period_s * random.uniform(1.0, 1.5)  # noqa: S311


def compute_retry_s(error: BaseException, *, backoff_period_s: float) -> float:
    """Seconds until a failed step is tried again.

    Source: pkg/kubelet/pod_workers.go, completeWork.
    """
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        return min(max(0.0, error.retry_after_s), MAX_BACKOFF_S)
    return backoff_period_s * random.uniform(1.0, 1.5)  # noqa: S311
