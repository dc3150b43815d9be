"""Stopping containers: grace arithmetic, preStop inside the budget, sidecars after the apps they serve.

The arithmetic and the order are pure; ``ContainerKiller`` carries them out. A kill may be cancelled and begun again with less grace:
a preStop hook under way is not started a second time, and its Killing event is not told again.

Source: pkg/kubelet/kuberuntime/kuberuntime_container.go, killContainer; kuberuntime_termination_order.go.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import labels, v1
from vkprovider.api.pods import find_container, is_sidecar
from vkprovider.api.reasons import EVENT_FAILED_PRE_STOP_HOOK, EVENT_KILLING, NORMAL, WARNING
from vkprovider.errors import NotFoundError, TransientError, VkproviderError
from vkprovider.kubelet.actions import KillReason
from vkprovider.kubelet.pleg import PodLifecycleEventGenerator
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.provider.pod_provider import PodEventRecorder

logger = logging.getLogger(__name__)

MINIMUM_GRACE_PERIOD_S: Final = 2
"""Every container gets at least so long. Source: kuberuntime_container.go, minimumGracePeriodInSeconds."""


class HookRunner(Protocol):
    """Runs lifecycle hooks of containers."""

    async def run_hook(
        self,
        pod: v1.Pod,
        container: v1.Container,
        container_id: cri.ContainerID,
        handler: Mapping[str, object],
        *,
        pod_ips: Sequence[str],
        record_event: PodEventRecorder,
    ) -> None:
        """Run one hook to its end.

        Raises:
            VkproviderError: It failed.
        """
        ...


def container_grace_period_s(pod: v1.Pod, container: v1.Container, reason: KillReason) -> int:
    """Seconds a container gets to stop, before anybody overrides them.

    Source: kuberuntime_container.go, setTerminationGracePeriod.
    """
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion is not None:
        return deletion
    spec_value = pod.get("spec", {}).get("terminationGracePeriodSeconds")
    if spec_value is None:
        return MINIMUM_GRACE_PERIOD_S
    field = {KillReason.LIVENESS_PROBE: "livenessProbe", KillReason.STARTUP_PROBE: "startupProbe"}.get(reason)
    if field is not None:
        probe: Mapping[str, int] = container.get(field) or {}  # type: ignore[assignment]
        own = probe.get("terminationGracePeriodSeconds")
        if own is not None:
            return own
    return spec_value


def compute_stop_prerequisites(pod: v1.Pod, running: Collection[str]) -> dict[str, frozenset[str]]:
    """Which running containers must have ended before a sidecar may be stopped: all apps, and the sidecars after it.

    Args:
        pod: The pod.
        running: Names of the containers that run.

    Returns:
        Mapping of sidecar name to names waited for; containers not in it are stopped at once.

    Source: kuberuntime_termination_order.go, newTerminationOrdering.
    """
    spec = pod.get("spec", {})
    waited = {app["name"] for app in spec.get("containers") or () if app["name"] in running}
    result: dict[str, frozenset[str]] = {}
    for container in reversed(spec.get("initContainers") or ()):
        if not is_sidecar(container):
            continue
        result[container["name"]] = frozenset(waited)
        if container["name"] in running:
            waited.add(container["name"])
    return result


def restore_container(record: ContainerRecord) -> v1.Container:
    """As much of a container's spec as its annotations tell: enough to stop it.

    Source: kuberuntime_container.go, restoreSpecsFromContainerLabels.
    """
    container: v1.Container = {"name": record.name, "image": record.image}
    ports = _read_json(record, labels.CONTAINER_PORTS)
    if isinstance(ports, list):
        container["ports"] = ports
    pre_stop = _read_json(record, labels.CONTAINER_PRE_STOP_HANDLER)
    if isinstance(pre_stop, dict):
        container["lifecycle"] = {"preStop": pre_stop}
    return container


def restore_pod(runtime_pod: RuntimePod) -> v1.Pod:
    """As much of a pod as the runtime tells: enough to stop and remove it."""
    newest = [runtime_pod.newest[name] for name in sorted(runtime_pod.newest)]
    pod: v1.Pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": runtime_pod.name, "namespace": runtime_pod.namespace, "uid": runtime_pod.uid},
        "spec": {"containers": [restore_container(record) for record in newest]},
    }
    for record in newest:
        if (grace := _read_int(record, labels.POD_TERMINATION_GRACE_PERIOD)) is not None:
            pod["spec"]["terminationGracePeriodSeconds"] = grace
        if (deletion := _read_int(record, labels.POD_DELETION_GRACE_PERIOD)) is not None:
            pod["metadata"]["deletionGracePeriodSeconds"] = deletion
    return pod


def _read_json(record: ContainerRecord, key: str) -> object:
    try:
        return json.loads(record.annotations.get(key) or "null")
    except ValueError:
        logger.warning("Annotation is not JSON", extra={"container": record.name, "id": record.id, "annotation": key})
        return None


def _read_int(record: ContainerRecord, key: str) -> int | None:
    text = record.annotations.get(key, "")
    return int(text) if text.isdigit() else None


@dataclass(slots=True)
class _Turns:
    """Who waits for whom while a pod is stopped."""

    prerequisites: Mapping[str, frozenset[str]]
    ended: dict[str, asyncio.Event]

    async def wait(self, name: str, budget_s: float) -> None:
        try:
            async with asyncio.timeout(budget_s):
                for other in self.prerequisites.get(name, ()):
                    await self.ended[other].wait()
        except TimeoutError:
            logger.debug("Grace period ran out before the container's turn", extra={"container": name})


class ContainerKiller:
    """Stops containers and pods.

    Args:
        runtime: The runtime.
        pleg: Reads back what became of what was stopped.
        hooks: Runs preStop hooks; None runs none.
        clock: Time.
    """

    def __init__(
        self,
        runtime: ContainerRuntime,
        pleg: PodLifecycleEventGenerator,
        hooks: HookRunner | None,
        clock: Clock,
    ) -> None:
        self._runtime = runtime
        self._pleg = pleg
        self._hooks = hooks
        self._clock = clock
        self._pool = TaskPool("pre-stop")
        self._pre_stops: dict[cri.ContainerID, asyncio.Task[None]] = {}
        self._announced: set[tuple[cri.ContainerID, str]] = set()

    async def aclose(self) -> None:
        """Cancel hooks that still run. Safe to repeat."""
        await self._pool.aclose()

    async def kill_pod(
        self,
        pod: v1.Pod,
        runtime_pod: RuntimePod,
        record_event: PodEventRecorder,
        *,
        grace_period_s: int | None = None,
    ) -> None:
        """Stop all containers of a pod in parallel, sidecars in their turn, then its sandboxes.

        Args:
            pod: The pod, or what is known of it.
            runtime_pod: What the runtime holds of it.
            record_event: Records an event on the pod.
            grace_period_s: Seconds for each container; None for what the pod says.

        Raises:
            TransientError: Something may still run.
        """
        running = [
            record
            for record in runtime_pod.containers
            if record.state in (cri.ContainerState.RUNNING, cri.ContainerState.UNKNOWN)
        ]
        names = {record.name for record in running}
        prerequisites = compute_stop_prerequisites(pod, names)
        turns = _Turns(prerequisites, {name: asyncio.Event() for name in names}) if prerequisites else None
        results = await asyncio.gather(
            *(
                self.kill_container(
                    pod,
                    record,
                    record_event,
                    grace_period_s=grace_period_s,
                    pod_ips=runtime_pod.ips,
                    turns=turns,
                )
                for record in running
            ),
            return_exceptions=True,
        )
        _raise_first(results)
        await asyncio.gather(*(self._stop_sandbox(s.id) for s in runtime_pod.sandboxes if _may_run(s)))

    async def kill_container(
        self,
        pod: v1.Pod,
        record: ContainerRecord,
        record_event: PodEventRecorder,
        *,
        message: str = "",
        reason: KillReason = KillReason.OTHER,
        grace_period_s: int | None = None,
        pod_ips: Sequence[str] = (),
        turns: _Turns | None = None,
    ) -> None:
        """Run the preStop hook, wait for the container's turn, then stop it; all within its grace period.

        Args:
            pod: The pod, or what is known of it.
            record: The container.
            record_event: Records an event on the pod.
            message: Text of the Killing event.
            reason: Why it is killed.
            grace_period_s: Seconds from now to the kill; None for what pod and reason say.
            pod_ips: Addresses of the pod, for hooks.
            turns: Who waits for whom.

        Raises:
            TransientError: It may still run.
        """
        found = find_container(pod, record.name)
        container = found[1] if found is not None else restore_container(record)
        self._announce(record, message or f"Stopping container {record.name}", record_event)
        budget_s = container_grace_period_s(pod, container, reason) if grace_period_s is None else grace_period_s
        try:
            if budget_s > 0 and (handler := (container.get("lifecycle") or {}).get("preStop")):
                began = self._clock.monotonic()
                await self._run_pre_stop(pod, container, record, handler, budget_s, pod_ips, record_event)
                budget_s -= int(self._clock.monotonic() - began)
            if turns is not None and budget_s > 0:
                began = self._clock.monotonic()
                await turns.wait(record.name, budget_s)
                budget_s -= int(self._clock.monotonic() - began)
            await self._stop_container(record, max(budget_s, MINIMUM_GRACE_PERIOD_S))
        finally:
            if turns is not None and record.name in turns.ended:
                # Also when it could not be stopped: the others must not wait for it.
                turns.ended[record.name].set()
        self._forget(record.id)

    def forget_pod(self, runtime_pod: RuntimePod) -> None:
        """Forget what is remembered of a pod's kills; hooks that still run are ended."""
        for record in runtime_pod.containers:
            self._forget(record.id)

    def _announce(self, record: ContainerRecord, message: str, record_event: PodEventRecorder) -> None:
        if (record.id, message) not in self._announced:
            self._announced.add((record.id, message))
            record_event(NORMAL, EVENT_KILLING, message, container=record.name)

    def _forget(self, container_id: cri.ContainerID) -> None:
        self._announced = {known for known in self._announced if known[0] != container_id} if self._announced else set()
        task = self._pre_stops.pop(container_id, None)
        if task is not None:
            task.cancel()

    async def _run_pre_stop(
        self,
        pod: v1.Pod,
        container: v1.Container,
        record: ContainerRecord,
        handler: Mapping[str, object],
        budget_s: float,
        pod_ips: Sequence[str],
        record_event: PodEventRecorder,
    ) -> None:
        """Wait for the hook as long as there is time; begun once, whoever waits."""
        if self._hooks is None:
            return
        task = self._pre_stops.get(record.id)
        if task is None:
            task = self._pre_stops[record.id] = self._pool.spawn(
                self._pre_stop(self._hooks, pod, container, record, handler, pod_ips, record_event),
                name=f"{record.name}-{record.id[:12]}",
            )
        await asyncio.wait({task}, timeout=budget_s)

    async def _pre_stop(
        self,
        hooks: HookRunner,
        pod: v1.Pod,
        container: v1.Container,
        record: ContainerRecord,
        handler: Mapping[str, object],
        pod_ips: Sequence[str],
        record_event: PodEventRecorder,
    ) -> None:
        try:
            await hooks.run_hook(pod, container, record.id, handler, pod_ips=pod_ips, record_event=record_event)
        except VkproviderError as error:
            # The event does not tell why, so that it cannot tell a secret.
            logger.info("preStop hook failed", extra={"container": record.name, "id": record.id, "error": str(error)})
            record_event(WARNING, EVENT_FAILED_PRE_STOP_HOOK, "PreStopHook failed", container=record.name)

    async def _stop_container(self, record: ContainerRecord, grace_period_s: float) -> None:
        with self._pleg.acting_on(record.id):
            await self._runtime.stop_container(record.id, grace_period_s=grace_period_s)
            try:
                stopped = await self._pleg.fetch_container(record.id, record.sandbox_id)
            except NotFoundError:
                return
        if stopped.is_running:
            raise TransientError(f"container {record.name} ({record.id}) still runs after it was stopped")

    async def _stop_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        with self._pleg.acting_on(sandbox_id):
            await self._runtime.stop_pod_sandbox(sandbox_id)
            try:
                await self._pleg.fetch_sandbox(sandbox_id)
            except NotFoundError:
                return


def _may_run(sandbox: cri.PodSandboxStatus) -> bool:
    return sandbox.state is cri.SandboxState.READY


def _raise_first(results: Sequence[BaseException | None]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
