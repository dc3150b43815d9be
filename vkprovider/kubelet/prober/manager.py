"""Probes of all pods of a node.

``ProbeManager`` is the engine's ``vkprovider.kubelet.probe_results.ProbeResults``. What it needs to know of containers it takes from
the pods' statuses, as upstream's prober does: **tell it every status with** ``update_status`` **as soon as it was generated**, since
probes start only for container ids, addresses and ``started`` flags that a status names. The order within a sync is::

    probes.ensure_pod(pod, context)            # workers exist for every probe of the spec
    status = generate_pod_status(...)          # asks find_result, has_worker; may trigger_readiness
    probes.update_status(uid, status)          # workers see new containers
    plan = compute_pod_actions(...)            # asks find_result(LIVENESS / STARTUP): False kills

When the pod is being stopped, ``stop_liveness_and_startup``; when nothing runs any more, ``remove_pod``. ``on_result`` names a pod
whose probes changed their mind, to be synced soon.

Across a restart of the agent nothing flaps: a container that ran before us has no result until a probe decides, so the statuses
carried over stay in force.

Source: pkg/kubelet/prober/prober_manager.go.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from datetime import datetime

from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import v1
from vkprovider.api.pods import ContainerKind, get_uid, iter_containers
from vkprovider.kubelet.probe_results import ProbeKind
from vkprovider.kubelet.prober.probes import ExecProbe
from vkprovider.kubelet.prober.results import ResultStore
from vkprovider.kubelet.prober.worker import ProbedPod, ProbeObserver, ProbeWorker, WorkerTools, find_probe
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import PodContext

_KINDS = (ProbeKind.STARTUP, ProbeKind.READINESS, ProbeKind.LIVENESS)


class ProbeManager:
    """Probes containers and keeps the results; lives as long as the node. All methods run on the event loop's thread.

    Args:
        exec_probe: Runs commands in containers, e.g. the provider's ``ExecCapability.exec_probe``; None where it cannot.
        on_result: Called with a pod's UID when a result changed that bears on the pod's status or on its containers.
        clock: Wall time.
        started_at: When the agent began; containers that started more than ten seconds before keep their state until a probe
            decides. None for now.
        native_handlers: Kinds of handler (``exec``, ``httpGet``, ``tcpSocket``, ``grpc``) that the provider probes itself; their
            results come by ``report_native_result``.
        observe: Told of every probe, for metrics.
        on_pod_removed: Told the UID of each pod that is not probed any more.
        random_source: Random numbers from 0 to 1, which spread the first probes after a start.
    """

    def __init__(
        self,
        *,
        exec_probe: ExecProbe | None,
        on_result: Callable[[v1.PodUID], None],
        clock: Clock | None = None,
        started_at: datetime | None = None,
        native_handlers: frozenset[str] = frozenset(),
        observe: ProbeObserver | None = None,
        on_pod_removed: Callable[[v1.PodUID], None] | None = None,
        random_source: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock or SystemClock()
        self._on_pod_removed = on_pod_removed
        self._tasks = TaskPool("probe")
        self._random = random_source
        self._results = ResultStore()
        self._pods: dict[v1.PodUID, ProbedPod] = {}
        self._workers: dict[v1.PodUID, dict[tuple[str, ProbeKind], ProbeWorker]] = {}
        self._tools = WorkerTools(
            results=self._results,
            tasks=self._tasks,
            clock=self._clock,
            started_at=started_at or self._clock.now(),
            exec_probe=exec_probe,
            native_handlers=native_handlers,
            on_result=on_result,
            on_end=self._on_end,
            observe=observe,
        )

    def ensure_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Have a worker for every probe of the pod's app containers and sidecars; known ones see the newest object.

        Source: prober_manager.go, AddPod.
        """
        uid = get_uid(pod)
        state = self._pods.get(uid)
        if state is not None:
            state.pod = pod
            state.record_event = context.record_event
        for container_kind, container in iter_containers(pod):
            if container_kind not in (ContainerKind.APP, ContainerKind.SIDECAR):
                continue
            for kind in _KINDS:
                if find_probe(container, kind) is None:
                    continue
                if state is None:
                    state = self._pods[uid] = ProbedPod(pod, context.record_event)
                    self._workers[uid] = {}
                key = (container["name"], kind)
                if key not in self._workers[uid]:
                    worker = self._workers[uid][key] = ProbeWorker(self._tools, state, container, kind)
                    worker.start(delay_s=self._first_delay_s(worker))

    def _first_delay_s(self, worker: ProbeWorker) -> float:
        """None usually; a random part of the period if we have just begun, lest all pods be probed at once."""
        since_start_s = (self._clock.now() - self._tools.started_at).total_seconds()
        return self._random() * worker.period_s if since_start_s < worker.period_s else 0.0

    def update_status(self, uid: v1.PodUID, status: v1.PodStatus) -> None:
        """Show the workers the pod's newest status. A pod without probes is passed over."""
        state = self._pods.get(uid)
        if state is not None:
            state.status = status
            for worker in list(self._workers[uid].values()):
                worker.on_status()

    def find_result(self, kind: ProbeKind, container_id: cri.ContainerID) -> bool | None:
        """Success or failure of this container's probe; None while there is no decided result."""
        result = self._results.find(kind, container_id)
        return None if result is None else result.value

    def has_worker(self, kind: ProbeKind, uid: v1.PodUID, container: str) -> bool:
        """Whether the container is being probed so."""
        return (container, kind) in self._workers.get(uid, ())

    def trigger_readiness(self, uid: v1.PodUID, container: str) -> None:
        """Run the readiness probe soon; the next ones follow a period after."""
        worker = self._workers.get(uid, {}).get((container, ProbeKind.READINESS))
        if worker is not None:
            worker.trigger()

    def report_native_result(self, uid: v1.PodUID, container: str, kind: ProbeKind, *, success: bool) -> None:
        """Take over a result that the provider found out itself, thresholds included; unknown ones are passed over.

        Source: vkprovider.provider.capabilities, ProbingCapability.
        """
        worker = self._workers.get(uid, {}).get((container, kind))
        if worker is not None:
            worker.report(success=success)

    def find_probe_grace_period_s(self, pod: v1.Pod, container: str, kind: ProbeKind) -> int | None:
        """Seconds a container gets when this probe has it killed, if the probe says so; else None for the pod's own.

        Source: pkg/kubelet/kuberuntime/kuberuntime_container.go, setTerminationGracePeriod.
        """
        for _, candidate in iter_containers(pod):
            if candidate["name"] == container:
                seconds: int | None = (find_probe(candidate, kind) or {}).get("terminationGracePeriodSeconds")
                return seconds
        return None

    def stop_liveness_and_startup(self, pod: v1.Pod) -> None:
        """The pod is being stopped: of app containers only readiness is still probed; sidecars are probed as before.

        Source: prober_manager.go, StopLivenessAndStartup.
        """
        workers = self._workers.get(get_uid(pod), {})
        for container in pod.get("spec", {}).get("containers") or ():
            for kind in (ProbeKind.LIVENESS, ProbeKind.STARTUP):
                if (worker := workers.pop((container["name"], kind), None)) is not None:
                    worker.stop()

    def remove_pod(self, uid: v1.PodUID) -> None:
        """Stop to probe the pod and forget its results. Safe to repeat."""
        if self._pods.pop(uid, None) is None:
            return
        for worker in self._workers.pop(uid, {}).values():
            worker.stop()
        if self._on_pod_removed is not None:
            self._on_pod_removed(uid)

    def retain_pods(self, uids: Collection[v1.PodUID]) -> None:
        """Remove all pods but these.

        Source: prober_manager.go, CleanupPods.
        """
        for uid in [uid for uid in self._pods if uid not in uids]:
            self.remove_pod(uid)

    async def aclose(self) -> None:
        """Stop all workers and wait for the attempts in progress to end. Safe to repeat."""
        for uid in list(self._pods):
            self.remove_pod(uid)
        await self._tasks.aclose()

    def _on_end(self, worker: ProbeWorker) -> None:
        workers = self._workers.get(worker.uid, {})
        key = (worker.container["name"], worker.kind)
        if workers.get(key) is worker:
            del workers[key]
