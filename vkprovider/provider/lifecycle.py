"""Virtual-kubelet's verbs, adapted to the node's contract.

A provider written for the Go virtual-kubelet is ported method by method: implement ``PodLifecycleHandler`` (and ``PodNotifier`` if
it can tell of changes), and hand it to ``LifecycleProvider``, which is the ``PodProvider`` that a node runs::

    class MyProviderFactory:
        def __call__(self, ...):
            return LifecycleProvider(MyHandler(), name="mine")

What virtual-kubelet's pod controller does around those verbs is done here: variables are resolved before a pod is created, an
update is sent only when the spec changed, errors become ``ProviderFailed``, a pod that vanished becomes Failed with reason
``NotFound``, and a deleted pod gets a final status even if the provider gives none.

Differences: pods are told apart by UID, so a pod re-created under the same name never meets its predecessor's state; deletion is
complete only when the provider reports nothing running; a pod that ended by itself is deleted from the provider at cleanup.

Source: virtual-kubelet node/podcontroller.go, node/pod.go, node/sync.go.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from vkprovider.aio.broadcast import Broadcast
from vkprovider.api import v1
from vkprovider.api.pods import TERMINAL_PHASES, get_key, get_restart_policy, get_uid
from vkprovider.api.timestamps import format_time, parse_time
from vkprovider.errors import InvalidPodError, NotFoundError, TransientError
from vkprovider.provider.pod_provider import C, NodeContext, PodContext, PodProvider, ProviderPod, SyncResult
from vkprovider.resolve.env import EnvSources, make_environment

logger = logging.getLogger(__name__)

PROVIDER_FAILED: Final = "ProviderFailed"
NOT_FOUND: Final = "NotFound"
TERMINATED: Final = "Terminated"
_NOT_FOUND_MESSAGE: Final = "The pod status was not found and may have been deleted from the provider"
_CONTAINER_NOT_FOUND_MESSAGE: Final = "Container was not found and was likely deleted"
_TERMINATED_MESSAGE: Final = "Container was terminated. The exit code may not reflect the real exit code"
_NOT_FOUND_EXIT_CODE: Final = 137
"""Virtual-kubelet writes -137, which no process can have; the kubelet's own code for a lost container is used instead."""
_CREATION_PATIENCE: Final = timedelta(minutes=1)
_STOP_POLL_S: Final = 1.0
_STOP_MARGIN_S: Final = 10.0


class PodLifecycleHandler(ABC):
    """The verbs of a virtual-kubelet provider.

    Source: virtual-kubelet node/podcontroller.go, PodLifecycleHandler.
    """

    async def start(self, node: NodeContext) -> None:
        """Connect to the backend; called once before any other verb, again if it failed.

        Raises:
            ConfigurationError: It can never work as configured.
            TransientError: The backend does not answer now.
        """

    async def stop(self) -> None:
        """Let go of the backend; pods keep running. Safe to repeat."""

    @abstractmethod
    async def create_pod(self, pod: v1.Pod) -> None:
        """Deploy a pod; its containers' variables are resolved already.

        Raises:
            InvalidPodError: It can never run here; the pod ends as Failed.
            VkproviderError: It did not work; tried again.
        """

    @abstractmethod
    async def update_pod(self, pod: v1.Pod) -> None:
        """Bring a deployed pod in line with its changed spec.

        Raises:
            VkproviderError: It did not work; tried again.
        """

    @abstractmethod
    async def delete_pod(self, pod: v1.Pod) -> None:
        """Delete a pod; may be called again for the same one.

        ``metadata.deletionGracePeriodSeconds`` says how long its containers may take. It need not wait for their end, as long as
        ``get_pod_status`` or the notifier tells of it.

        Raises:
            NotFoundError: The backend does not know it, which is success.
            VkproviderError: It did not work; tried again.
        """

    @abstractmethod
    async def get_pod(self, namespace: str, name: str) -> v1.Pod | None:
        """The pod as it was deployed, or None if the backend does not know it; may be cached.

        Raises:
            NotFoundError: The same as None.
        """

    @abstractmethod
    async def get_pod_status(self, namespace: str, name: str) -> v1.PodStatus | None:
        """The pod's status now, or None if the backend does not know it.

        Raises:
            NotFoundError: The same as None.
        """

    @abstractmethod
    async def list_pods(self) -> Sequence[v1.Pod]:
        """Every pod of this node in the backend, with its UID and, if it can be had, its status.

        Raises:
            TransientError: The list could not be read in full.
        """


class PodNotifier(ABC):
    """A handler that tells of changes by itself; its statuses are then taken as they come.

    Source: virtual-kubelet node/podcontroller.go, PodNotifier.
    """

    @abstractmethod
    def notify_pods(self, notify: Callable[[v1.Pod], None]) -> None:
        """Learn the function to call with each pod whose status changed; called once, before any other verb but ``start``.

        Args:
            notify: Takes a pod with its new status; never blocks, to be called from the event loop's thread.
        """


class LifecycleProvider(PodProvider):
    """A ``PodProvider`` made of a ``PodLifecycleHandler``.

    Args:
        handler: The provider's verbs; abilities of ``vkprovider.provider.capabilities`` that it implements are offered too.
        name: Name of the provider.
        resolve_environment: Whether variables are resolved before ``create_pod`` and ``update_pod``; without it the handler sees
            them as written.
        stop_poll_s: Seconds between looks at a pod that is being deleted.
    """

    def __init__(
        self,
        handler: PodLifecycleHandler,
        *,
        name: str = "provider",
        resolve_environment: bool = True,
        stop_poll_s: float = _STOP_POLL_S,
    ) -> None:
        self.name = name
        self._handler = handler
        self._resolve_environment = resolve_environment
        self._stop_poll_s = stop_poll_s
        self._applied: dict[v1.PodUID, v1.PodSpec] = {}
        self._keys: dict[v1.PodUID, tuple[str, str]] = {}
        self._notified: dict[v1.PodUID, v1.PodStatus] = {}
        self._changes: Broadcast[v1.PodUID] = Broadcast()
        self._notifier_registered = False

    @property
    def handler(self) -> PodLifecycleHandler:
        """The provider's verbs."""
        return self._handler

    async def start(self, node: NodeContext) -> None:
        """Start the handler and, if it can tell of changes, have it do so."""
        await self._handler.start(node)
        if isinstance(self._handler, PodNotifier) and not self._notifier_registered:
            self._handler.notify_pods(self._on_notify)
            self._notifier_registered = True

    async def stop(self) -> None:
        """Stop the handler."""
        await self._handler.stop()

    async def sync_pod(self, pod: v1.Pod, context: PodContext) -> SyncResult:
        """Create the pod, or update it if its spec changed, and report its status."""
        uid = get_uid(pod)
        existing = await self._find_pod(pod)
        if existing is not None and not _is_same(existing, pod):
            await self._delete(existing)
            raise TransientError(
                f"an older pod {get_key(pod)} (UID {existing['metadata'].get('uid', '')}) is still being removed",
                retry_after_s=self._stop_poll_s,
            )
        if existing is None and uid in self._applied:
            status = _not_found_status(pod, context.previous_status, now=context.clock.now())
            return SyncResult(status=status, terminal=True)
        try:
            await self._create_or_update(pod, existing, context)
        except InvalidPodError:
            raise
        except Exception as error:
            return self._provider_failed(pod, context, error)
        found = await self._find_status(pod)
        if found is None:
            return self._status_missing(pod, context)
        return SyncResult(status=found, terminal=found.get("phase") in TERMINAL_PHASES)

    async def terminate_pod(self, pod: v1.Pod, context: PodContext, *, grace_period_s: int) -> SyncResult:
        """Delete the pod and wait until the handler reports nothing running.

        A pod that has ended by itself stays in the backend until cleanup, so that its logs can still be read.
        """
        uid = get_uid(pod)
        existing = await self._find_pod(pod)
        if existing is not None and not _is_same(existing, pod):
            existing = None
        status = await self._find_status(pod) if existing is not None else self._notified.get(uid)
        if existing is not None and (status is None or status.get("phase") not in TERMINAL_PHASES):
            await self._delete(_with_grace(pod, grace_period_s, now=context.clock.now()))
            status = await self._wait_stopped(pod, timeout_s=grace_period_s + _STOP_MARGIN_S)
        if status is None or status.get("phase") not in TERMINAL_PHASES:
            base = status or self._notified.get(uid) or context.previous_status
            if base.get("phase") in TERMINAL_PHASES:
                return SyncResult(terminal=True)
            status = _terminated_status(base, now=context.clock.now())
        return SyncResult(status=status, terminal=True)

    async def cleanup_pod(self, pod_uid: v1.PodUID) -> None:
        """Delete what the handler still has of the pod, and forget it."""
        key = self._keys.get(pod_uid)
        found: v1.Pod | None = None
        if key is not None:
            found = await self._get_pod(*key)
        else:
            found = next((p for p in await self._handler.list_pods() if p["metadata"].get("uid") == pod_uid), None)
        if found is not None and found["metadata"].get("uid", pod_uid) == pod_uid:
            await self._delete(found)
        self._applied.pop(pod_uid, None)
        self._keys.pop(pod_uid, None)
        self._notified.pop(pod_uid, None)

    async def get_pod_status(self, pod: v1.Pod, context: PodContext) -> v1.PodStatus | None:
        """The handler's status of the pod, or None if it does not know it."""
        existing = await self._find_pod(pod)
        if existing is None or not _is_same(existing, pod):
            return None
        return await self._find_status(pod)

    async def list_pods(self) -> Sequence[ProviderPod]:
        """The handler's pods; one without a status counts as running."""
        return [
            ProviderPod(pod, running=pod.get("status", {}).get("phase") not in TERMINAL_PHASES)
            for pod in await self._handler.list_pods()
        ]

    async def pod_changes(self) -> AsyncIterator[v1.PodUID]:
        """UIDs that the handler notifies of; all pods each five seconds if it cannot."""
        if not isinstance(self._handler, PodNotifier):
            async for uid in super().pod_changes():
                yield uid
            return
        subscription = self._changes.subscribe()
        try:
            async for uid in subscription:
                yield uid
        finally:
            subscription.close()

    def find_capability(self, kind: type[C]) -> C | None:
        """Abilities of the handler."""
        return self._handler if isinstance(self._handler, kind) else None

    def _on_notify(self, pod: v1.Pod) -> None:
        uid = get_uid(pod)
        self._notified[uid] = copy.deepcopy(pod.get("status", {}))
        self._changes.publish(uid)

    async def _create_or_update(self, pod: v1.Pod, existing: v1.Pod | None, context: PodContext) -> None:
        uid, wanted = get_uid(pod), _comparable(pod.get("spec", {}))
        if existing is None:
            # What an earlier life of the provider said of this pod no longer holds.
            self._notified.pop(uid, None)
            await self._handler.create_pod(await self._prepare(pod, context))
        else:
            applied = self._applied.get(uid)
            if wanted != (_comparable(existing.get("spec", {})) if applied is None else applied):
                await self._handler.update_pod(await self._prepare(pod, context))
        self._applied[uid] = wanted
        self._keys[uid] = _names(pod)

    async def _prepare(self, pod: v1.Pod, context: PodContext) -> v1.Pod:
        """A copy of the pod that the handler may keep and change, its variables resolved."""
        prepared = copy.deepcopy(pod)
        if not self._resolve_environment:
            return prepared
        status = context.previous_status
        sources = EnvSources(
            objects=context.objects,
            host_ips=context.node.host_ips,
            pod_ips=tuple(entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")),
            allocatable=context.node.get_allocatable(),
        )
        spec = prepared.get("spec", {})
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
            values = await make_environment(pod, container, context=sources)
            container["env"] = [{"name": name, "value": value} for name, value in values.items()]
            container.pop("envFrom", None)
        return prepared

    def _provider_failed(self, pod: v1.Pod, context: PodContext, error: Exception) -> SyncResult:
        """Show the failure in the pod's status; a pod that must not restart has then failed for good.

        Source: virtual-kubelet node/pod.go, handleProviderError.
        """
        failed = get_restart_policy(pod) == "Never" and not isinstance(error, TransientError)
        status: v1.PodStatus = {
            **context.previous_status,
            "phase": "Failed" if failed else "Pending",
            "reason": PROVIDER_FAILED,
            "message": str(error),
        }
        if failed:
            logger.error("Provider failed", extra={"pod": get_key(pod), "uid": get_uid(pod)}, exc_info=error)
            return SyncResult(status=status, terminal=True)
        context.publish_status(status)
        raise error

    def _status_missing(self, pod: v1.Pod, context: PodContext) -> SyncResult:
        """The handler has the pod but no status: wait while it is young, then give it up.

        Source: virtual-kubelet node/sync.go, updatePodStatus.
        """
        now, created = context.clock.now(), pod["metadata"].get("creationTimestamp")
        young = created is None or now - parse_time(created) <= _CREATION_PATIENCE
        if context.previous_status.get("phase") != "Running" and young:
            return SyncResult(requeue_after_s=self._stop_poll_s)
        return SyncResult(status=_not_found_status(pod, context.previous_status, now=now), terminal=True)

    async def _wait_stopped(self, pod: v1.Pod, *, timeout_s: float) -> v1.PodStatus | None:
        """The status once nothing runs any more; None when the handler has forgotten the pod."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        subscription = self._changes.subscribe()
        try:
            while True:
                status = await self._find_status(pod)
                if status is None or _nothing_runs(status):
                    return status
                if loop.time() >= deadline:
                    raise TransientError(
                        f"the provider still runs pod {get_key(pod)} {timeout_s:g} s after it was told to delete it",
                        retry_after_s=self._stop_poll_s,
                    )
                try:
                    # A notification ends the pause early; whose it was does not matter.
                    async with asyncio.timeout(self._stop_poll_s):
                        await anext(subscription)
                except TimeoutError:
                    pass
        finally:
            subscription.close()

    async def _delete(self, pod: v1.Pod) -> None:
        try:
            await self._handler.delete_pod(copy.deepcopy(pod))
        except NotFoundError:
            pass

    async def _find_pod(self, pod: v1.Pod) -> v1.Pod | None:
        return await self._get_pod(*_names(pod))

    async def _get_pod(self, namespace: str, name: str) -> v1.Pod | None:
        try:
            return await self._handler.get_pod(namespace, name)
        except NotFoundError:
            return None

    async def _find_status(self, pod: v1.Pod) -> v1.PodStatus | None:
        """The newest status: the one notified, else the one asked for."""
        if (notified := self._notified.get(get_uid(pod))) is not None:
            return notified
        try:
            return await self._handler.get_pod_status(*_names(pod))
        except NotFoundError:
            return None


def _names(pod: v1.Pod) -> tuple[str, str]:
    metadata = pod["metadata"]
    return metadata.get("namespace", "default"), metadata.get("name", "")


def _is_same(existing: v1.Pod, pod: v1.Pod) -> bool:
    """Whether a pod of the backend is this one; a backend that keeps no UIDs is believed."""
    return existing["metadata"].get("uid") in (None, "", pod["metadata"]["uid"])


def _comparable(spec: v1.PodSpec) -> v1.PodSpec:
    """The spec without variables, which never change and which are resolved on the way to the handler."""
    bare: Any = dict(spec)
    for field in ("initContainers", "containers"):
        if bare.get(field):
            bare[field] = [
                {key: value for key, value in container.items() if key not in ("env", "envFrom")}
                for container in bare[field]
            ]
    result: v1.PodSpec = copy.deepcopy(bare)
    return result


def _with_grace(pod: v1.Pod, grace_period_s: int, *, now: datetime) -> v1.Pod:
    deleted = copy.deepcopy(pod)
    deleted["metadata"].setdefault("deletionTimestamp", format_time(now))
    deleted["metadata"]["deletionGracePeriodSeconds"] = grace_period_s
    return deleted


def _nothing_runs(status: v1.PodStatus) -> bool:
    if status.get("phase") in TERMINAL_PHASES:
        return True
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return bool(statuses) and not any("running" in (entry.get("state") or {}) for entry in statuses)


def _terminated_status(base: v1.PodStatus, *, now: datetime) -> v1.PodStatus:
    """A final status for a pod whose provider gave none.

    Source: virtual-kubelet node/sync.go, syncProviderWrapper.DeletePod.
    """
    status = _with_running_as(base, now=now, exit_code=0, reason=TERMINATED, message=_TERMINATED_MESSAGE)
    codes = [
        entry["state"]["terminated"].get("exitCode", 0)
        for entry in status.get("containerStatuses") or ()
        if "terminated" in (entry.get("state") or {})
    ]
    never_ran = not codes and base.get("phase") != "Running"
    status["phase"] = "Failed" if any(codes) or never_ran else "Succeeded"
    status["reason"] = TERMINATED
    return status


def _not_found_status(pod: v1.Pod, base: v1.PodStatus, *, now: datetime) -> v1.PodStatus:
    """Status of a pod that the provider has lost.

    Source: virtual-kubelet node/sync.go, updatePodStatus.
    """
    status = _with_running_as(
        base, now=now, exit_code=_NOT_FOUND_EXIT_CODE, reason=NOT_FOUND, message=_CONTAINER_NOT_FOUND_MESSAGE
    )
    logger.warning("Provider has lost the pod", extra={"pod": get_key(pod), "uid": get_uid(pod)})
    status.update({"phase": "Failed", "reason": NOT_FOUND, "message": _NOT_FOUND_MESSAGE})
    return status


def _with_running_as(base: v1.PodStatus, *, now: datetime, exit_code: int, reason: str, message: str) -> v1.PodStatus:
    status = copy.deepcopy(base)
    status.pop("message", None)
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        running = (entry.get("state") or {}).get("running")
        if running is not None:
            terminated: v1.ContainerStateTerminated = {
                "exitCode": exit_code,
                "reason": reason,
                "message": message,
                "startedAt": running.get("startedAt"),
                "finishedAt": format_time(now),
                "containerID": entry.get("containerID", ""),
            }
            entry["state"] = {"terminated": terminated}
            entry["ready"] = False
            entry["started"] = False
    return status
