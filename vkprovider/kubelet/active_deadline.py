"""``activeDeadlineSeconds``: how long a pod may be active on the node. Pure.

Source: pkg/kubelet/active_deadline.go.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from vkprovider.api import v1
from vkprovider.api.timestamps import parse_time

DEADLINE_EXCEEDED: Final = "DeadlineExceeded"
DEADLINE_MESSAGE: Final = "Pod was active on the node longer than the specified deadline"


def find_remaining_s(pod: v1.Pod, status: v1.PodStatus, *, now: datetime) -> float | None:
    """Seconds until the pod's deadline, 0 or less once it has passed; None if it has none.

    Args:
        pod: The pod; the deadline may be set or shortened while it runs.
        status: Its status, which tells when it began.
        now: Wall time.
    """
    limit = pod.get("spec", {}).get("activeDeadlineSeconds")
    started = status.get("startTime")
    if limit is None or not started:
        return None
    return limit - (now - parse_time(started)).total_seconds()
