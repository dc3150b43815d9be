"""Keeps the API server's idea of pod statuses up to date: newest wins, only changes are sent, retried for ever.

There is no task for a pod at rest: a bounded number of senders exists only while something waits to be sent. The last known status at
the server comes from our own patches' answers and from the watch, so nothing is read on the way.

After a deleted pod's terminal status was accepted and its worker is done with it, the API object is taken away here as well, since only
here is known what the server has.

Source: pkg/kubelet/status/status_manager.go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import v1
from vkprovider.api.pods import TERMINAL_PHASES, get_key, get_uid, is_deleted
from vkprovider.api.timestamps import format_time
from vkprovider.controllers.pod_state import is_older
from vkprovider.controllers.pod_status import (
    complete_status,
    copy_verdict,
    find_forbidden_transition,
    make_rejected_status,
    make_status_patch,
    merge_for_api,
)
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.pods import PodClient
from vkprovider.metrics import KubeletMetrics

logger = logging.getLogger(__name__)

_REPAIR_PERIOD_S = 10.0
_FIRST_RETRY_S = 0.5
_MAX_RETRY_S = 30.0


@dataclass(slots=True)
class _Entry:
    """One pod.

    Attributes:
        pod: Newest version of the object.
        server: Status at the API server, as last seen.
        status: Newest status of ours; None until there is one.
        may_run: Whether something of the pod may still run, so that a terminal phase is held back.
        finished: Whether the worker is done with it.
        server_version: Resource version of that.
        sent_version: Resource version our last patch made: its echo on the watch needs no second look.
        drifted: Somebody changed what is ours.
        changed_at: Loop time of the first change that has not been sent yet; None if there is none.
        failures: Failed sends in a row.
        retry: Timer of the next try.
    """

    pod: v1.Pod
    server: v1.PodStatus
    server_version: str
    status: v1.PodStatus | None = None
    may_run: bool = True
    finished: bool = False
    sent_version: str = ""
    drifted: bool = False
    changed_at: float | None = None
    failures: int = 0
    retry: asyncio.TimerHandle | None = field(default=None, repr=False)


class StatusManager:
    """Statuses of the pods of this node.

    Args:
        pods: Client for pods.
        get_host_ips: InternalIPs of the node, primary first; empty while unknown.
        clock: Time.
        max_concurrent: Most requests at once.
        on_deleted: Called when the API object of a pod turned out to be gone.
        metrics: What is sent is counted into; None for nothing.
    """

    def __init__(
        self,
        pods: PodClient,
        *,
        get_host_ips: Callable[[], Sequence[str]],
        clock: Clock,
        max_concurrent: int = 16,
        on_deleted: Callable[[v1.PodUID], None] | None = None,
        metrics: KubeletMetrics | None = None,
    ) -> None:
        self._pods = pods
        self._get_host_ips = get_host_ips
        self._clock = clock
        self._max_concurrent = max_concurrent
        self._on_deleted = on_deleted
        self._sync_duration = metrics.pod_status_sync_duration if metrics is not None else None
        self._entries: dict[v1.PodUID, _Entry] = {}
        self._pending: dict[v1.PodUID, None] = {}
        self._in_flight: set[v1.PodUID] = set()
        self._senders = TaskPool("status-manager")
        self._active_senders = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._closed = False

    async def run(self) -> None:
        """Look for statuses that somebody else changed, every ten seconds, until cancelled."""
        while True:
            await asyncio.sleep(_REPAIR_PERIOD_S)
            for uid, entry in self._entries.items():
                if entry.drifted:
                    entry.drifted = False
                    self._schedule(uid)

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until all that is known has been sent.

        Args:
            timeout_s: Seconds to wait at most.

        Returns:
            Whether everything was sent in time.
        """
        for uid, entry in list(self._entries.items()):
            if entry.retry is not None:
                self._schedule(uid)
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            logger.warning("Not all pod statuses could be sent in time", extra={"left": len(self._pending)})
            return False
        return not any(entry.retry for entry in self._entries.values())

    async def aclose(self) -> None:
        """Stop sending. Safe to repeat."""
        self._closed = True
        self._pending.clear()
        for entry in self._entries.values():
            if entry.retry is not None:
                entry.retry.cancel()
        await self._senders.aclose()

    def track(self, pod: v1.Pod) -> None:
        """Take note of a pod's newest version at the API server."""
        uid = get_uid(pod)
        entry = self._entries.get(uid)
        version = _version(pod)
        if entry is None:
            self._entries[uid] = _Entry(pod, pod.get("status", {}), version)
            return
        if is_older(version, _version(entry.pod)):
            return
        newly_deleted = is_deleted(pod) and not is_deleted(entry.pod)
        entry.pod = pod
        if version == entry.sent_version:
            pass
        elif uid in self._in_flight or is_older(version, entry.server_version):
            # Somebody wrote beside our patch; its answer decides what there is, and is looked at again afterwards.
            entry.drifted = entry.status is not None
        else:
            before, entry.server, entry.server_version = entry.server, pod.get("status", {}), version
            if before != entry.server and self._make_patch(entry) is not None:
                entry.drifted = True
        if newly_deleted and entry.finished:
            self._schedule(uid)

    def forget(self, uid: v1.PodUID) -> None:
        """The pod is gone; nothing is sent for it any more."""
        entry = self._entries.pop(uid, None)
        self._pending.pop(uid, None)
        if entry is not None and entry.retry is not None:
            entry.retry.cancel()

    def get_status(self, pod: v1.Pod) -> v1.PodStatus:
        """Newest status known: ours, or what the API server has; empty if there is none."""
        entry = self._entries.get(get_uid(pod))
        if entry is None:
            return pod.get("status", {})
        return entry.server if entry.status is None else entry.status

    def set_status(self, pod: v1.Pod, status: v1.PodStatus, *, may_run: bool = True) -> None:
        """Take over a pod's new status and send it if it differs; returns at once.

        Args:
            pod: The pod.
            status: Its status; what only the node knows is filled in.
            may_run: Whether something of the pod may still run.
        """
        uid = get_uid(pod)
        entry = self._entries.get(uid)
        if entry is None:
            return
        previous = entry.server if entry.status is None else entry.status
        now = format_time(self._clock.now())
        new = complete_status(
            pod, status, previous=_with_foreign(previous, entry.server), host_ips=self._get_host_ips(), now=now
        )
        if entry.status is not None:
            if (name := find_forbidden_transition(pod, entry.status, new)) is not None:
                logger.error(
                    "A terminated container may not run again; the status is thrown away",
                    extra={"pod": get_key(pod), "uid": uid, "container": name},
                )
                return
            if entry.status.get("phase") in TERMINAL_PHASES:
                # Held back or not, a verdict is final.
                copy_verdict(new, entry.status)
        self._take_over(uid, entry, new, may_run=may_run)

    def set_rejected(self, pod: v1.Pod, reason: str, message: str) -> None:
        """The node refuses the pod for good: send exactly that."""
        uid = get_uid(pod)
        if (entry := self._entries.get(uid)) is not None:
            status = make_rejected_status(pod, reason, message, now=format_time(self._clock.now()))
            self._take_over(uid, entry, status, may_run=False)

    def finish(self, uid: v1.PodUID) -> None:
        """The worker is done: once the terminal status has been accepted, a deleted pod may leave the API server."""
        entry = self._entries.get(uid)
        if entry is not None:
            entry.finished = True
            entry.may_run = False
            self._schedule(uid)

    def _take_over(self, uid: v1.PodUID, entry: _Entry, status: v1.PodStatus, *, may_run: bool) -> None:
        if status == entry.status and may_run == entry.may_run:
            return
        entry.status = status
        entry.may_run = may_run
        if entry.changed_at is None:
            entry.changed_at = asyncio.get_running_loop().time()
        self._schedule(uid)

    def _schedule(self, uid: v1.PodUID) -> None:
        if self._closed:
            return
        entry = self._entries.get(uid)
        if entry is not None and entry.retry is not None:
            entry.retry.cancel()
            entry.retry = None
        self._pending[uid] = None
        self._quiet.clear()
        idle = self._active_senders - len(self._in_flight)
        if self._active_senders < self._max_concurrent and idle < len(self._pending):
            self._active_senders += 1
            self._senders.spawn(self._send_pending(), name="send")

    async def _send_pending(self) -> None:
        try:
            while True:
                uid = next((uid for uid in self._pending if uid not in self._in_flight), None)
                if uid is None:
                    break
                del self._pending[uid]
                self._in_flight.add(uid)
                try:
                    await self._send(uid)
                finally:
                    self._in_flight.discard(uid)
        finally:
            # In the same moment as the decision to end, so that nothing is left to a sender that is on its way out.
            self._active_senders -= 1
        if not self._pending and not self._in_flight:
            self._quiet.set()

    async def _send(self, uid: v1.PodUID) -> None:
        entry = self._entries.get(uid)
        if entry is None:
            return
        try:
            await self._sync(uid, entry)
        except (KubeAPIError, TransientError) as error:
            if isinstance(error, KubeAPIError) and (error.is_not_found or error.is_conflict):
                # Gone, or another pod under the same name: this one's story is over.
                if self._entries.get(uid) is entry:
                    self.forget(uid)
                    if self._on_deleted is not None:
                        self._on_deleted(uid)
                return
            self._retry_later(uid, entry, error)
        except Exception as error:
            # A status that cannot be put into a patch must not stop the others.
            logger.exception("Pod status cannot be sent", extra={"pod": get_key(entry.pod), "uid": uid})
            self._retry_later(uid, entry, error)
        else:
            entry.failures = 0
            if entry.changed_at is not None and uid not in self._pending:
                if self._sync_duration is not None:
                    self._sync_duration.observe(asyncio.get_running_loop().time() - entry.changed_at)
                entry.changed_at = None

    async def _sync(self, uid: v1.PodUID, entry: _Entry) -> None:
        metadata = entry.pod["metadata"]
        namespace, name = metadata.get("namespace", "default"), metadata["name"]
        if entry.status is not None and (patch := self._make_patch(entry)) is not None:
            answer = await self._pods.patch_status(namespace, name, uid, patch)
            entry.sent_version = _version(answer)
            newest = entry.pod if is_older(entry.sent_version, _version(entry.pod)) else answer
            entry.server, entry.server_version = newest.get("status", {}), _version(newest)
        if (
            entry.finished
            and is_deleted(entry.pod)
            and entry.server.get("phase") in TERMINAL_PHASES
            and uid not in self._pending
        ):
            await self._pods.delete(namespace, name, uid)

    def _make_patch(self, entry: _Entry) -> dict[str, object] | None:
        if entry.status is None:
            return None
        return make_status_patch(entry.server, merge_for_api(entry.status, entry.server, may_run=entry.may_run))

    def _retry_later(self, uid: v1.PodUID, entry: _Entry, error: Exception) -> None:
        if self._closed or self._entries.get(uid) is not entry:
            return
        delay_s = min(_MAX_RETRY_S, _FIRST_RETRY_S * 2**entry.failures) * random.uniform(0.8, 1.2)  # noqa: S311
        if isinstance(error, (TransientError, KubeAPIError)) and error.retry_after_s is not None:
            delay_s = max(delay_s, error.retry_after_s)
        level = logging.WARNING if entry.failures in (0, 5) else logging.DEBUG
        logger.log(
            level,
            "Pod status could not be sent, trying again",
            extra={"pod": get_key(entry.pod), "uid": uid, "error": str(error), "retry_after_s": round(delay_s, 1)},
        )
        entry.failures = min(entry.failures + 1, 16)
        if entry.retry is not None:
            entry.retry.cancel()
        entry.retry = asyncio.get_running_loop().call_later(delay_s, self._schedule, uid)


def _version(pod: v1.Pod) -> str:
    return pod["metadata"].get("resourceVersion", "")


def _with_foreign(status: v1.PodStatus, server: v1.PodStatus) -> v1.PodStatus:
    """Our status with the server's conditions that it lacks, for readiness gates."""
    kinds = {condition["type"] for condition in status.get("conditions") or ()}
    foreign = [c for c in server.get("conditions") or () if c["type"] not in kinds]
    if not foreign:
        return status
    return {**status, "conditions": [*(status.get("conditions") or ()), *foreign]}
