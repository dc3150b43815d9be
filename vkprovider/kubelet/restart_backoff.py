"""CrashLoopBackOff: how long a container that ended has to wait before it is started again.

The wait that an instance was started with is written on it, so that backoff goes on when this process is replaced by another.

Source: pkg/kubelet/kuberuntime/kuberuntime_manager.go, doBackOff.
"""

from __future__ import annotations

from typing import Final

from vkprovider.aio.backoff import BackoffTable
from vkprovider.aio.clock import Clock
from vkprovider.api import labels, v1
from vkprovider.api.durations import format_duration
from vkprovider.api.pods import format_pod
from vkprovider.api.reasons import CRASH_LOOP_BACK_OFF
from vkprovider.errors import BackoffError
from vkprovider.kubelet.pod_facts import ContainerFacts
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod
from vkprovider.provider import cri

INITIAL_BACKOFF_S: Final = 10.0
"""Source: pkg/kubelet/kubelet.go, initialNodeBackoff for containers."""
_TOLERANCE_S: Final = 0.001


class RestartBackoff:
    """Restart backoff of all containers of a node.

    Args:
        clock: Time.
        max_s: Longest wait in seconds.
    """

    def __init__(self, clock: Clock, *, max_s: float) -> None:
        self._table = BackoffTable(clock, initial_s=INITIAL_BACKOFF_S, max_s=max_s)
        self._max_s = max_s
        self._keys: dict[v1.PodUID, set[tuple[str, ...]]] = {}

    def check(self, pod: v1.Pod, container: ContainerFacts, runtime_pod: RuntimePod) -> float:
        """Let a container be started, counting one more start, or refuse.

        Returns:
            Seconds that the next restart will have to wait; 0 for the first start.

        Raises:
            BackoffError: It has to wait; ``retry_after_s`` says how long.
        """
        last = next(
            (
                record
                for record in runtime_pod.containers
                if record.name == container.name and record.state is cri.ContainerState.EXITED
            ),
            None,
        )
        if last is None:
            return 0.0
        key = container.backoff_key
        ended_at = last.finished_at or last.created_at
        self._keys.setdefault(runtime_pod.uid, set()).add(key)
        self._restore(key, container, last)
        remaining_s = self._table.remaining_s(key, ended_at)
        if remaining_s > _TOLERANCE_S:
            raise BackoffError(
                f"back-off {format_duration(self._table.get(key))} restarting failed container={container.name} "
                f"pod={format_pod(pod)}",
                reason=CRASH_LOOP_BACK_OFF,
                retry_after_s=remaining_s,
            )
        self._table.step(key, ended_at)
        return self._table.get(key)

    def forget_pod(self, uid: v1.PodUID) -> None:
        """Forget a pod that is gone."""
        for key in self._keys.pop(uid, ()):
            self._table.reset(key)

    def _restore(self, key: tuple[str, ...], container: ContainerFacts, last: ContainerRecord) -> None:
        if self._table.get(key) or last.spec_hash != container.spec_hash:
            return
        try:
            backoff_s = float(last.annotations.get(labels.CONTAINER_RESTART_BACKOFF) or 0)
        except ValueError:
            return
        ran_s = ((last.finished_at or last.created_at) - last.created_at).total_seconds()
        if backoff_s and ran_s <= 2 * self._max_s:
            self._table.seed(key, backoff_s)
