"""One ordered worker per pod: brings the provider to where the newest version of the pod wants it.

A worker is a record and, only while it has work, a task; at rest a pod costs a timer. States and their order are in ``pod_state``. The
newest desired state wins: a sync in progress is cancelled when the pod must stop, a stop in progress when it gets less time. A failure of
one pod is its own affair: it is logged, shown as an event and tried again.

Source: pkg/kubelet/pod_workers.go.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from vkprovider.aio.tasks import TaskPool, run_forever
from vkprovider.api import v1
from vkprovider.api.pods import get_key, get_uid, is_deleted, is_terminal
from vkprovider.api.reasons import EVENT_FAILED_KILL_POD, EVENT_FAILED_SYNC, WARNING
from vkprovider.api.timestamps import format_time
from vkprovider.controllers.admission import PodAdmission
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.pod_state import (
    WorkState,
    compare_pods,
    compute_requeue_s,
    compute_retry_s,
    must_terminate,
    shorten_grace,
)
from vkprovider.controllers.pod_status import finalize_status
from vkprovider.controllers.status_manager import StatusManager
from vkprovider.errors import AdmissionError, InvalidPodError, PodSyncError, TransientError
from vkprovider.provider.pod_provider import NodeContext, PodContext, PodProvider, ProviderPod
from vkprovider.settings import PodSettings

logger = logging.getLogger(__name__)

ORPHAN_GRACE_S = 1
"""Grace period of pods that the API server does not know. Source: pkg/kubelet/kubelet_pods.go, HandlePodCleanups."""

_MAX_DROPPED = 10_000
_OPERATIONS = {WorkState.TERMINATING: "kill", WorkState.TERMINATED: "terminated", WorkState.FINISHED: "terminated"}
"""Steps that are not syncs, as metrics call them. Source: pkg/kubelet/types/pod_update.go, SyncPodType."""


@dataclass(slots=True, eq=False)
class _Worker:
    """One pod.

    Attributes:
        uid: Its identity.
        pod: Newest version.
        state: How far it is.
        grace_s: Grace period in force while terminating.
        gone: The API object does not exist any more, or never did.
        orphan: Only the backend knew it.
        admitted: It was let in by this process.
        rejected: It was refused by this process.
        seen_at: Loop time when the API server last showed it.
        first_seen_at: Loop time when it was first heard of; None once it has been seen to run, or if it ran before us.
        operation: What the next sync is for, as metrics call it; empty before the first step.
        pending: There is work.
        stepping: A call to the provider is under way.
        interrupting: That call has been cancelled because something more urgent came.
    """

    uid: v1.PodUID
    pod: v1.Pod
    state: WorkState = WorkState.SYNC
    grace_s: int | None = None
    gone: bool = False
    orphan: bool = False
    admitted: bool = False
    rejected: bool = False
    seen_at: float = 0.0
    first_seen_at: float | None = None
    operation: str = ""
    pending: bool = False
    stepping: bool = False
    interrupting: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class PodWorkers:
    """All pods of this node; a ``PodSink`` for the pod source and a ``PodLookup`` for the server.

    Args:
        provider: What runs the pods.
        node: The node, handed to the provider with every call.
        statuses: Where statuses go.
        events: Where events go.
        admission: Who lets pods in.
        settings: Periods.
    """

    def __init__(
        self,
        provider: PodProvider,
        node: NodeContext,
        *,
        statuses: StatusManager,
        events: EventRecorder,
        admission: PodAdmission,
        settings: PodSettings,
    ) -> None:
        self._provider = provider
        self._node = node
        self._statuses = statuses
        self._events = events
        self._admission = admission
        self._settings = settings
        self._workers: dict[v1.PodUID, _Worker] = {}
        self._uid_by_key: dict[str, v1.PodUID] = {}
        self._dropped: dict[v1.PodUID, None] = {}
        self._tasks = TaskPool("pods")
        self._admission_lock = asyncio.Lock()
        self._running = False
        self._closed = False
        self._metrics = node.metrics
        node.metrics.on_scrape("pod-workers", self._count)

    async def run(self) -> None:
        """Work until cancelled. Until this is called pods are only taken note of: start the provider first."""
        self._running = True
        for worker in list(self._workers.values()):
            if worker.pending:
                self._wake(worker)
        await run_forever(self._follow_changes, name="pod changes of the provider")

    async def aclose(self) -> None:
        """Stop working; what is under way is cancelled, pods keep running. Safe to repeat."""
        self._closed = True
        for worker in self._workers.values():
            if worker.timer is not None:
                worker.timer.cancel()
        await self._tasks.aclose()

    # What the server asks (PodLookup).

    def find_pod(self, namespace: str, name: str) -> v1.Pod | None:
        """The newest pod of this name, with its newest status; None if there is none."""
        uid = self._uid_by_key.get(f"{namespace}/{name}")
        worker = None if uid is None else self._workers.get(uid)
        return None if worker is None or worker.orphan else self._with_status(worker)

    def list_pods(self) -> Sequence[v1.Pod]:
        """All pods of this node that the API server knows, or knew until they are stopped, with their newest status."""
        return [self._with_status(worker) for worker in self._workers.values() if not worker.orphan]

    def active_pods(self) -> Sequence[v1.Pod]:
        """Pods that are neither finished nor fully stopped."""
        return [
            worker.pod
            for worker in self._workers.values()
            if worker.admitted and worker.state in (WorkState.SYNC, WorkState.TERMINATING)
        ]

    def is_known(self, uid: v1.PodUID) -> bool:
        """Whether a worker has this pod."""
        return uid in self._workers

    def _with_status(self, worker: _Worker) -> v1.Pod:
        return {**worker.pod, "status": self._statuses.get_status(worker.pod)}

    # What the pod source tells (PodSink).

    def handle_pod(self, pod: v1.Pod) -> None:
        """A pod exists and looks like this now."""
        uid = get_uid(pod)
        now = asyncio.get_running_loop().time()
        worker = self._workers.get(uid)
        if worker is None:
            if uid in self._dropped:
                # A list that was on its way while the pod went; a UID never comes back.
                return
            worker = self._add(_Worker(uid, pod, seen_at=now, first_seen_at=_find_first_seen(pod, now)))
            self._statuses.track(pod)
            if must_terminate(pod):
                # Whatever may still run of it is stopped, but it is never started. As it was let in once, it counts.
                worker.state, worker.grace_s, worker.admitted = WorkState.TERMINATING, shorten_grace(None, pod), True
                self._admission.count(pod)
            self._wake(worker)
            return
        worker.seen_at = now
        if worker.orphan:
            return
        change = compare_pods(worker.pod, pod)
        if not change.newer:
            return
        spec_changed = worker.pod["metadata"].get("generation") != pod["metadata"].get("generation")
        worker.pod = pod
        self._statuses.track(pod)
        if change.relevant:
            if spec_changed and worker.admitted and worker.state is WorkState.SYNC:
                self._admission.count(pod)
            self._reconsider(worker)

    def handle_pod_deleted(self, pod: v1.Pod) -> None:
        """A pod is gone from the API server; whatever still runs of it is stopped, and nothing is reported any more."""
        worker = self._workers.get(get_uid(pod))
        if worker is not None and not worker.gone:
            if compare_pods(worker.pod, pod).newer:
                worker.pod = pod
            self._handle_gone(worker)

    def handle_pod_list(self, pods: Sequence[v1.Pod], *, listed_at: float) -> None:
        """All pods there are; one that is missing was deleted without our hearing of it."""
        listed = set()
        for pod in pods:
            listed.add(get_uid(pod))
            self.handle_pod(pod)
        for worker in list(self._workers.values()):
            if worker.uid not in listed and not worker.gone and worker.seen_at < listed_at:
                logger.info("Pod is gone without notice", extra={"pod": get_key(worker.pod), "uid": worker.uid})
                self._handle_gone(worker)

    def handle_absent(self, uid: v1.PodUID) -> None:
        """The API server says that this pod does not exist any more."""
        worker = self._workers.get(uid)
        if worker is not None and not worker.gone:
            self._handle_gone(worker)

    def terminate_orphan(self, provider_pod: ProviderPod) -> None:
        """Stop and remove a pod that only the backend knows; nothing happens if a worker has it."""
        pod = provider_pod.pod
        uid = get_uid(pod)
        if uid in self._workers:
            return
        self._metrics.orphaned_runtime_pods.inc()
        logger.warning("Orphaned pod is removed", extra={"pod": get_key(pod), "uid": uid})
        worker = _Worker(
            uid, pod, state=WorkState.TERMINATING, grace_s=ORPHAN_GRACE_S, gone=True, orphan=True, admitted=True
        )
        self._workers[uid] = worker
        self._wake(worker)

    def wake(self, uid: v1.PodUID) -> None:
        """Look at this pod again soon; unknown is fine."""
        worker = self._workers.get(uid)
        if worker is not None and worker.state is WorkState.SYNC:
            self._wake(worker)

    # Decisions.

    def _add(self, worker: _Worker) -> _Worker:
        self._workers[worker.uid] = worker
        self._uid_by_key[get_key(worker.pod)] = worker.uid
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._workers.pop(worker.uid, None)
        self._dropped[worker.uid] = None
        if len(self._dropped) > _MAX_DROPPED:
            del self._dropped[next(iter(self._dropped))]
        key = get_key(worker.pod)
        if self._uid_by_key.get(key) == worker.uid:
            del self._uid_by_key[key]
        self._admission.forget(worker.uid)
        self._statuses.forget(worker.uid)
        if worker.timer is not None:
            worker.timer.cancel()

    def _reconsider(self, worker: _Worker) -> None:
        if worker.state is WorkState.SYNC:
            if must_terminate(worker.pod):
                self._begin_termination(worker)
            else:
                worker.operation = worker.operation and "update"
                self._wake(worker)
        elif worker.state is WorkState.TERMINATING:
            self._shorten(worker)
        elif worker.state is WorkState.TERMINATED and is_deleted(worker.pod):
            self._wake(worker)

    def _handle_gone(self, worker: _Worker) -> None:
        worker.gone = True
        self._statuses.forget(worker.uid)
        if worker.state is WorkState.FINISHED:
            self._drop(worker)
        elif worker.state is WorkState.SYNC:
            self._begin_termination(worker)
        elif worker.state is WorkState.TERMINATING:
            self._shorten(worker)
        else:
            self._wake(worker)

    def _begin_termination(self, worker: _Worker) -> None:
        worker.state = WorkState.TERMINATING
        worker.grace_s = shorten_grace(worker.grace_s, worker.pod)
        self._interrupt(worker)
        self._wake(worker)

    def _shorten(self, worker: _Worker) -> None:
        grace_s = shorten_grace(worker.grace_s, worker.pod)
        if worker.grace_s is None or grace_s < worker.grace_s:
            worker.grace_s = grace_s
            self._interrupt(worker)
            self._wake(worker)

    def _interrupt(self, worker: _Worker) -> None:
        """Cancel the call under way, if any; the worker goes on with what is true now."""
        if worker.stepping and not worker.interrupting and worker.task is not asyncio.current_task():
            assert worker.task is not None
            worker.interrupting = True
            worker.task.cancel()

    def _wake(self, worker: _Worker) -> None:
        worker.pending = True
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        if worker.task is None and self._running and not self._closed:
            worker.task = self._tasks.spawn(self._work(worker), name=get_key(worker.pod))

    def _wake_after(self, worker: _Worker, delay_s: float) -> None:
        if worker.timer is not None:
            worker.timer.cancel()
        worker.timer = asyncio.get_running_loop().call_later(delay_s, self._wake, worker)

    # Work.

    async def _work(self, worker: _Worker) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while worker.pending and not self._closed:
                worker.pending = False
                worker.stepping = True
                try:
                    await self._step(worker)
                except asyncio.CancelledError:
                    if not worker.interrupting or self._closed:
                        raise
                finally:
                    worker.stepping = False
                    if worker.interrupting:
                        worker.interrupting = False
                        task.uncancel()
        finally:
            worker.task = None

    async def _step(self, worker: _Worker) -> None:
        state = worker.state
        began = asyncio.get_running_loop().time()
        if not worker.operation:
            worker.operation = "create"
            self._metrics.containers_per_pod.observe(len(worker.pod.get("spec", {}).get("containers") or ()))
            if worker.first_seen_at is not None:
                self._metrics.pod_worker_start_duration.observe(began - worker.first_seen_at)
        try:
            if state is WorkState.SYNC:
                await self._sync(worker)
            elif state is WorkState.TERMINATING:
                await self._terminate(worker)
            elif state is WorkState.TERMINATED:
                await self._clean_up(worker)
        except Exception as error:
            # Whatever a provider throws stays with its pod.
            self._report(worker, state, error)
            self._wake_after(worker, compute_retry_s(error, backoff_period_s=self._settings.backoff_period_s))
        finally:
            self._metrics.pod_worker_duration.labels(_OPERATIONS.get(state, worker.operation)).observe(
                asyncio.get_running_loop().time() - began
            )
            worker.operation = "sync"

    def _make_context(self, worker: _Worker) -> PodContext:
        return PodContext(
            node=self._node,
            record_event=self._events.for_pod(worker.pod),
            publish_status=functools.partial(self._publish, worker),
            previous_status=self._statuses.get_status(worker.pod),
        )

    def _publish(self, worker: _Worker, status: v1.PodStatus) -> None:
        if not worker.gone and worker.state in (WorkState.SYNC, WorkState.TERMINATING):
            self._set_status(worker, status)

    def _set_status(self, worker: _Worker, status: v1.PodStatus) -> None:
        if worker.first_seen_at is not None and status.get("phase") == "Running":
            self._metrics.pod_start_duration.observe(asyncio.get_running_loop().time() - worker.first_seen_at)
            worker.first_seen_at = None
        self._statuses.set_status(worker.pod, status)

    async def _sync(self, worker: _Worker) -> None:
        if not worker.admitted and not await self._admit(worker):
            return
        context = self._make_context(worker)
        try:
            result = await self._provider.sync_pod(worker.pod, context)
        except InvalidPodError as error:
            self._fail(worker, error)
            return
        if worker.state is not WorkState.SYNC:
            # It must stop by now and the provider did not notice the cancellation: the next step sees to it.
            return
        if result.status is not None:
            self._set_status(worker, result.status)
        if result.terminal:
            self._begin_termination(worker)
        elif not worker.pending:
            self._wake_after(
                worker, compute_requeue_s(result.requeue_after_s, sync_period_s=self._settings.sync_period_s)
            )

    async def _admit(self, worker: _Worker) -> bool:
        # One at a time: two pods must not both get the last free place.
        async with self._admission_lock:
            try:
                await self._admission.admit(worker.pod, self.active_pods)
            except AdmissionError as error:
                worker.rejected = True
                self._metrics.reject(error.reason)
                self._events.for_pod(worker.pod)(WARNING, error.reason, error.message)
                self._statuses.set_rejected(worker.pod, error.reason, error.message)
                logger.info(
                    "Pod is rejected",
                    extra={"pod": get_key(worker.pod), "uid": worker.uid, "reason": error.reason},
                )
                self._begin_termination(worker)
                return False
            worker.admitted = True
            return True

    def _fail(self, worker: _Worker, error: InvalidPodError) -> None:
        """The pod can never run here: it fails for good, and what may run of it is stopped."""
        self._events.for_pod(worker.pod)(WARNING, error.reason, error.message)
        status: v1.PodStatus = {**self._statuses.get_status(worker.pod)}
        status["phase"], status["reason"], status["message"] = "Failed", error.reason, error.message
        status.pop("conditions", None)
        self._statuses.set_status(worker.pod, status)
        self._begin_termination(worker)

    async def _terminate(self, worker: _Worker) -> None:
        assert worker.grace_s is not None
        pod = worker.pod
        result = await self._provider.terminate_pod(pod, self._make_context(worker), grace_period_s=worker.grace_s)
        worker.state = WorkState.TERMINATED
        self._admission.forget(worker.uid)
        if not worker.gone and not worker.rejected:
            status = self._statuses.get_status(pod) if result.status is None else result.status
            # A pod that had ended before this process knew it, and of which nothing was left, keeps its status.
            if not _has_ended(pod) or (result.status is not None and result.status.get("containerStatuses")):
                now = format_time(self._node.clock.now())
                self._statuses.set_status(pod, finalize_status(pod, status, now=now), may_run=False)
        if worker.gone or is_deleted(worker.pod):
            worker.pending = True

    async def _clean_up(self, worker: _Worker) -> None:
        # Records and logs of a pod that ended by itself are kept for as long as its API object.
        if not (worker.gone or is_deleted(worker.pod)):
            return
        await self._provider.cleanup_pod(worker.uid)
        worker.state = WorkState.FINISHED
        if worker.gone:
            self._drop(worker)
        else:
            self._statuses.finish(worker.uid)

    def _report(self, worker: _Worker, state: WorkState, error: Exception) -> None:
        extra = {"pod": get_key(worker.pod), "uid": worker.uid, "state": str(state), "error": str(error)}
        if isinstance(error, (TransientError, PodSyncError)):
            logger.info("Pod work is tried again", extra=extra)
        else:
            logger.error("Pod work failed and is tried again", extra=extra, exc_info=error)
        if worker.orphan:
            return
        record = self._events.for_pod(worker.pod)
        if state is WorkState.TERMINATING:
            record(WARNING, EVENT_FAILED_KILL_POD, f"error killing pod: {error}")
        elif state is WorkState.SYNC and not isinstance(error, (TransientError, PodSyncError)):
            record(WARNING, EVENT_FAILED_SYNC, f"error syncing pod: {error}")

    def _count(self) -> None:
        """Set the gauges of pods.

        Source: pkg/kubelet/kubelet_pods.go, HandlePodCleanups.
        """
        metrics = self._metrics
        counts = {
            (lifecycle, config): 0
            for lifecycle in ("sync", "terminating", "terminated")
            for config in ("desired", "orphan", "runtime_only")
        }
        for worker in self._workers.values():
            config = "runtime_only" if worker.orphan else "orphan" if worker.gone else "desired"
            lifecycle = "terminated" if worker.state is WorkState.FINISHED else worker.state.value
            counts[lifecycle, config] += 1
        for (lifecycle, config), count in counts.items():
            static = "unknown" if config == "runtime_only" else ""
            metrics.working_pods.labels(lifecycle, config, static).set(count)
        metrics.desired_pods.labels("").set(sum(1 for w in self._workers.values() if not (w.gone or w.orphan)))
        metrics.active_pods.labels("").set(len(self.active_pods()))

    async def _follow_changes(self) -> None:
        async for uid in self._provider.pod_changes():
            self.wake(uid)
        # A provider whose changes end has nothing more to tell: syncs go on by period.
        await asyncio.Event().wait()


def _find_first_seen(pod: v1.Pod, now: float) -> float | None:
    """When a pod was first heard of; None for one that began before this process did."""
    return now if pod.get("status", {}).get("phase", "Pending") == "Pending" else None


def _has_ended(pod: v1.Pod) -> bool:
    """Whether the API object shows a pod that ended, with nothing left to say about its containers."""
    status = pod.get("status", {})
    return is_terminal(pod) and not any(
        "running" in (entry.get("state") or {}) for entry in status.get("containerStatuses") or ()
    )
