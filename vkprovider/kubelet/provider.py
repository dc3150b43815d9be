"""A provider of pods over any container runtime: the library's kubelet.

It holds nothing that the runtime and the API server do not hold as well: after ``kill -9`` a new process lists the runtime, finds
its containers by their labels, and goes on.

Source: pkg/kubelet/kubelet.go, SyncPod, SyncTerminatingPod, SyncTerminatedPod.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from vkprovider.aio.broadcast import Broadcast
from vkprovider.aio.tasks import TaskPool, cancel_and_wait
from vkprovider.api import labels, v1
from vkprovider.api.pods import get_uid
from vkprovider.api.reasons import EVENT_FAILED_KILL_POD, EVENT_NETWORK_NOT_READY, NORMAL, WARNING
from vkprovider.errors import TransientError, VkproviderError
from vkprovider.kubelet.actions import compute_pod_actions
from vkprovider.kubelet.active_deadline import DEADLINE_EXCEEDED, DEADLINE_MESSAGE, find_remaining_s
from vkprovider.kubelet.capabilities import RuntimeAttach, RuntimeExec, RuntimeLogs, RuntimePortForward
from vkprovider.kubelet.credentials import Credential, read_node_credentials
from vkprovider.kubelet.hooks import LifecycleHooks
from vkprovider.kubelet.images import ImageManager
from vkprovider.kubelet.node_status import RuntimeNodeStatus
from vkprovider.kubelet.observed_runtime import count_running, make_probe_observer, observe_runtime
from vkprovider.kubelet.pleg import PodLifecycleEventGenerator
from vkprovider.kubelet.pod_cache import PodCache
from vkprovider.kubelet.pod_facts import refresh_pod_facts
from vkprovider.kubelet.pod_files import PodFiles
from vkprovider.kubelet.pod_state import PodState
from vkprovider.kubelet.probe_results import ProbeResults
from vkprovider.kubelet.prober import ProbeManager
from vkprovider.kubelet.restart_backoff import RestartBackoff
from vkprovider.kubelet.restart_policy import ALL_CONTAINERS_RESTARTING
from vkprovider.kubelet.runtime_state import RuntimePod
from vkprovider.kubelet.stats import RuntimeStatsCapability
from vkprovider.kubelet.status import StatusInputs, generate_pod_status
from vkprovider.kubelet.sync import Engine, PodSyncer
from vkprovider.kubelet.termination import ContainerKiller, HookRunner, restore_pod
from vkprovider.kubelet.termination_message import TerminationMessageReader
from vkprovider.kubelet.volume_gate import VolumeGate, VolumeManager, VolumesNotReadyError
from vkprovider.kubelet.volumes import PodVolumes, find_volume_host, load_plugins
from vkprovider.provider.capabilities import (
    AttachCapability,
    ExecCapability,
    LogsCapability,
    NodeStatusCapability,
    PortForwardCapability,
    StatsCapability,
)
from vkprovider.provider.container_runtime import ContainerRuntime, RuntimeStats, StreamingRuntime
from vkprovider.provider.pod_provider import NodeContext, PodContext, PodProvider, ProviderPod, SyncResult
from vkprovider.settings import PodSettings

logger = logging.getLogger(__name__)
C = TypeVar("C")

NETWORK_RETRY_S: Final = 1.0
"""Source: pkg/kubelet/pod_workers.go, backOffOnTransientErrorPeriod."""
HOUSEKEEPING_PERIOD_S: Final = 60.0
"""Source: pkg/kubelet/kubelet.go, ContainerGCPeriod."""
CREDENTIALS_PERIOD_S: Final = 300.0
_TERMINAL: Final = ("Failed", "Succeeded")


class _Parts:
    """Everything that is made when the provider starts on a node."""

    def __init__(self, provider: RuntimePodProvider, node: NodeContext) -> None:
        settings, root_dir, clock, metrics = provider.settings, provider.root_dir, node.clock, node.metrics
        self.runtime = runtime = observe_runtime(provider.runtime, metrics)
        self.node = node
        self.owner = {labels.OWNER_CLUSTER: node.cluster_uid, labels.OWNER_NODE: node.node_name}
        self.started_at: datetime = clock.now()
        self.cache = PodCache()
        self.changes: Broadcast[v1.PodUID] = provider.changes
        self.pool = TaskPool("kubelet")
        self.pleg = PodLifecycleEventGenerator(
            runtime,
            self.cache,
            self.changes,
            clock,
            TerminationMessageReader(runtime),
            selector=self.owner,
            relist_period_s=settings.relist_period_s,
            metrics=metrics,
        )
        self.images = ImageManager(
            runtime.images,
            clock,
            serialize=settings.serialize_image_pulls,
            max_parallel=settings.max_parallel_image_pulls,
            qps=settings.registry_pull_qps,
            burst=settings.registry_burst,
            observe_pull=metrics.observe_pull,
        )
        self.exec = RuntimeExec(runtime, self.cache)
        self.hooks: HookRunner = LifecycleHooks(runtime.exec_sync)
        self.probes: ProbeResults = ProbeManager(
            exec_probe=self.exec.exec_probe,
            on_result=self.changes.publish,
            clock=clock,
            started_at=self.started_at,
            observe=make_probe_observer(metrics.probes),
            on_pod_removed=metrics.probes.forget_pod,
        )
        self.killer = ContainerKiller(runtime, self.pleg, self.hooks, clock)
        self.volumes: VolumeManager = provider.make_volumes(node)
        self.files = PodFiles(root_dir, cluster_domain=settings.cluster_domain, enabled=runtime.shares_filesystem)
        self.backoff = RestartBackoff(clock, max_s=settings.max_container_restart_period_s)
        self.credentials: Sequence[Credential] = ()
        self.node_status = RuntimeNodeStatus(runtime, self.pleg, root_dir)
        self.syncer = PodSyncer(
            Engine(
                runtime=runtime,
                cache=self.cache,
                pleg=self.pleg,
                images=self.images,
                killer=self.killer,
                hooks=self.hooks,
                volumes=self.volumes,
                files=self.files,
                backoff=self.backoff,
                settings=settings,
                node=node,
                owner=self.owner,
                seccomp_root=root_dir / "seccomp",
                node_credentials=lambda: self.credentials,
                pool=self.pool,
            )
        )
        self.tasks: list[asyncio.Task[None]] = []
        metrics.on_scrape("runtime", lambda: count_running(self.cache, metrics))

    async def aclose(self) -> None:
        await cancel_and_wait(self.tasks)
        await self.probes.aclose()
        await self.killer.aclose()
        await self.images.aclose()
        await self.pool.aclose()
        await self.volumes.aclose()


class RuntimePodProvider(PodProvider):
    """Runs pods on a container runtime as a kubelet does.

    Args:
        runtime: The runtime; it belongs to the provider from ``start`` to ``stop``.
        settings: How pods are run.
        root_dir: Directory of this node's files.
        make_volumes: Makes what provides volumes; by default the library's own manager, where the runtime shares our files.

    Attributes:
        runtime: The runtime.
        settings: How pods are run.
        root_dir: Directory of this node's files.
        changes: Where UIDs of pods that changed by themselves are published.
    """

    def __init__(
        self,
        runtime: ContainerRuntime,
        settings: PodSettings,
        *,
        root_dir: Path,
        make_volumes: Callable[[NodeContext], VolumeManager] | None = None,
    ) -> None:
        self.name = runtime.name
        self.runtime = runtime
        self.settings = settings
        self.root_dir = root_dir
        self.changes: Broadcast[v1.PodUID] = Broadcast()
        self._make_volumes = make_volumes
        self._parts_made: _Parts | None = None
        self._states: dict[v1.PodUID, PodState] = {}

    # -- Life of the provider.

    async def start(self, node: NodeContext) -> None:
        """Reach the runtime, find what of ours it holds, and begin to follow it.

        Raises:
            ConfigurationError: The runtime can never work as configured.
            TransientError: The runtime does not answer now.
        """
        await self.stop_parts()
        await self.runtime.connect()
        # Only now is it known whether the runtime can mount our files.
        parts = _Parts(self, node)
        try:
            await parts.volumes.start()
            await parts.pleg.relist()
            parts.credentials = await asyncio.to_thread(read_node_credentials, self.root_dir)
        except BaseException:
            await parts.aclose()
            raise
        self._parts_made = parts
        parts.tasks = [
            asyncio.create_task(parts.pleg.run(), name="kubelet:pleg"),
            asyncio.create_task(self._keep_house(parts), name="kubelet:housekeeping"),
        ]
        for task in parts.tasks:
            task.add_done_callback(_report_end)
        if (found := len(parts.cache.uids())) > 0:
            logger.info("Found pods of this node in the runtime", extra={"pods": found, "runtime": self.name})

    async def stop(self) -> None:
        """Stop following the runtime and let go of it; pods keep running. Safe to repeat."""
        await self.stop_parts()
        await self.runtime.aclose()

    async def stop_parts(self) -> None:
        """End everything that ``start`` began, but keep the runtime. Safe to repeat."""
        parts, self._parts_made = self._parts_made, None
        states, self._states = self._states, {}
        for state in states.values():
            await cancel_and_wait(state.in_flight())
        if parts is not None:
            await parts.aclose()

    def make_volumes(self, node: NodeContext) -> VolumeManager:
        """What provides volumes to pods of this node; a gate that refuses them where the runtime cannot mount our files."""
        if self._make_volumes is not None:
            return self._make_volumes(node)
        if not self.runtime.shares_filesystem:
            return VolumeGate(node.clock)
        return PodVolumes(
            node,
            lambda: find_volume_host(self.runtime, self.root_dir, node.node_name),
            load_plugins(),
            refresh_period_s=self.settings.sync_period_s / 2,
            supports_recursive_read_only=lambda: (
                self._parts_made is not None and self._parts_made.node_status.recursive_read_only
            ),
        )

    @property
    def _parts(self) -> _Parts:
        if self._parts_made is None:
            raise TransientError(f"the {self.name} provider has not started yet", retry_after_s=1.0)
        return self._parts_made

    # -- The three phases.

    async def sync_pod(self, pod: v1.Pod, context: PodContext) -> SyncResult:
        """Bring the pod one step nearer to its spec; see ``PodProvider.sync_pod``.

        Raises:
            InvalidPodError: The runtime says that the pod can never run.
            TransientError: The runtime does not answer, or something could not be stopped.
        """
        parts = self._parts
        state = self._state(get_uid(pod))
        await self._settle(parts, state)
        state.facts = refresh_pod_facts(state.facts, pod)
        parts.probes.ensure_pod(pod, context)
        runtime_pod = parts.cache.get(state.uid)
        status = self._generate(parts, pod, state, runtime_pod, context.previous_status)
        if status["phase"] in _TERMINAL:
            return SyncResult(status, terminal=True)
        remaining_s = find_remaining_s(pod, status, now=parts.node.clock.now())
        if remaining_s is not None and remaining_s <= 0:
            context.record_event(NORMAL, DEADLINE_EXCEEDED, DEADLINE_MESSAGE)
            status |= {"phase": "Failed", "reason": DEADLINE_EXCEEDED, "message": DEADLINE_MESSAGE}
            return SyncResult(status, terminal=True)
        result = await self._bring_about(parts, pod, state, runtime_pod, status, context)
        if remaining_s is None:
            return result
        requeue_s = remaining_s if result.requeue_after_s is None else min(remaining_s, result.requeue_after_s)
        return replace(result, requeue_after_s=min(requeue_s, self.settings.sync_period_s))

    async def _bring_about(
        self,
        parts: _Parts,
        pod: v1.Pod,
        state: PodState,
        runtime_pod: RuntimePod,
        status: v1.PodStatus,
        context: PodContext,
    ) -> SyncResult:
        """Find out what is missing, and do it as far as can be done now."""
        assert state.facts is not None
        facts = state.facts
        restart_all = any(
            c["type"] == ALL_CONTAINERS_RESTARTING and c["status"] == "True" for c in status["conditions"]
        )
        actions = compute_pod_actions(pod, facts, runtime_pod, parts.probes, restart_all=restart_all)
        if actions.is_empty:
            await self._refresh_volumes(parts, pod, context)
            return SyncResult(status)
        context.publish_status(status)
        self._check_network(parts, pod, context)
        try:
            await parts.volumes.prepare_pod(pod, context)
        except VolumesNotReadyError as error:
            return SyncResult(status, requeue_after_s=error.retry_after_s)
        newest = status

        def publish() -> None:
            nonlocal newest
            newest = self._generate(parts, pod, state, parts.cache.get(state.uid), newest)
            context.publish_status(newest)

        outcome = await parts.syncer.carry_out(
            pod, facts, actions, state, context, status=status, on_sandbox_ready=publish
        )
        newest = self._generate(parts, pod, state, parts.cache.get(state.uid), newest)
        if actions.to_reset or (outcome.progressed and self._has_next_step(parts, pod, state)):
            outcome.retry(0.0)
        return SyncResult(newest, terminal=newest["phase"] in _TERMINAL, requeue_after_s=outcome.retry_after_s)

    async def terminate_pod(self, pod: v1.Pod, context: PodContext, *, grace_period_s: int) -> SyncResult:
        """Stop everything of the pod; see ``PodProvider.terminate_pod``.

        Raises:
            TransientError: Something may still run.
        """
        parts = self._parts
        state = self._state(get_uid(pod))
        await self._settle(parts, state)
        state.facts = refresh_pod_facts(state.facts, pod)
        runtime_pod = parts.cache.get(state.uid)
        status = self._generate(parts, pod, state, runtime_pod, context.previous_status)
        context.publish_status(status)
        parts.probes.stop_liveness_and_startup(pod)
        try:
            await parts.killer.kill_pod(pod, runtime_pod, context.record_event, grace_period_s=grace_period_s)
        except VkproviderError as error:
            state.outcome_unknown = True
            context.record_event(WARNING, EVENT_FAILED_KILL_POD, f"error killing pod: {error}")
            raise
        parts.probes.remove_pod(state.uid)
        stopped = parts.cache.get(state.uid)
        if stopped.is_running:
            state.outcome_unknown = True
            raise TransientError("something of the pod still runs after it was stopped", retry_after_s=1.0)
        state.failures.clear()
        final = self._generate(parts, pod, state, stopped, status, is_terminal=True)
        return SyncResult(final, terminal=True)

    async def cleanup_pod(self, pod_uid: v1.PodUID) -> None:
        """Remove all records and files of a pod; see ``PodProvider.cleanup_pod``.

        Raises:
            TransientError: Something could not be removed.
        """
        parts = self._parts
        state = self._states.get(pod_uid)
        if state is not None:
            await self._settle(parts, state)
        parts.probes.remove_pod(pod_uid)
        runtime_pod = parts.cache.get(pod_uid)
        parts.killer.forget_pod(runtime_pod)
        for sandbox in runtime_pod.sandboxes:
            await self._remove(parts, sandbox.id, parts.runtime.remove_pod_sandbox(sandbox.id))
        held = {sandbox.id for sandbox in runtime_pod.sandboxes}
        for record in runtime_pod.containers:
            if record.sandbox_id in held:
                parts.cache.drop(record.id)
            else:
                await self._remove(parts, record.id, parts.runtime.remove_container(record.id))
        await parts.volumes.cleanup_pod(pod_uid)
        try:
            await parts.files.remove_pod(pod_uid)
        except OSError as error:
            raise TransientError(f"cannot remove the files of pod {pod_uid}: {error}") from error
        parts.images.forget_pod(pod_uid)
        parts.backoff.forget_pod(pod_uid)
        self._states.pop(pod_uid, None)

    async def get_pod_status(self, pod: v1.Pod, context: PodContext) -> v1.PodStatus | None:
        """The pod's status as last seen, without changing anything; None if the runtime holds nothing of it."""
        parts = self._parts
        uid = get_uid(pod)
        runtime_pod = parts.cache.get(uid)
        if not runtime_pod.is_known:
            return None
        state = self._state(uid)
        state.facts = refresh_pod_facts(state.facts, pod)
        return self._generate(parts, pod, state, runtime_pod, context.previous_status)

    async def list_pods(self) -> Sequence[ProviderPod]:
        """Every pod of this node that the runtime holds anything of, listed now, and those that only left files here.

        Raises:
            TransientError: The runtime did not answer.
        """
        parts = self._parts
        await parts.pleg.relist()
        pods = [parts.cache.get(uid) for uid in parts.cache.uids()]
        found = [ProviderPod(restore_pod(pod), running=pod.is_running) for pod in pods]
        known = {pod.uid for pod in pods}
        for uid in parts.volumes.list_leftovers():
            if uid not in known:
                # Its files do not tell its name; nobody but the cleanup will ask.
                left: v1.Pod = {"metadata": {"name": uid, "namespace": "default", "uid": uid}}
                found.append(ProviderPod(left, running=False))
        return found

    async def pod_changes(self) -> AsyncIterator[v1.PodUID]:
        """UIDs of pods whose containers, sandboxes or probes changed by themselves."""
        subscription = self.changes.subscribe()
        try:
            async for uid in subscription:
                yield uid
        finally:
            subscription.close()

    # -- Abilities.

    def find_capability(self, kind: type[C]) -> C | None:
        """What the runtime can do beyond running containers; logs and node status always."""
        if (own := super().find_capability(kind)) is not None:
            return own
        parts = self._parts_made
        found: object = None
        if parts is not None:
            if kind is LogsCapability:
                found = RuntimeLogs(parts.runtime, self._find_status)
            elif kind is NodeStatusCapability:
                found = parts.node_status
            elif kind is ExecCapability and isinstance(self.runtime, StreamingRuntime):
                found = parts.exec
            elif kind is StatsCapability and isinstance(parts.runtime, RuntimeStats):
                found = RuntimeStatsCapability(parts.runtime, parts.owner, parts.node.clock)
            elif kind is AttachCapability and isinstance(parts.runtime, StreamingRuntime):
                found = RuntimeAttach(parts.runtime, parts.cache)
            elif kind is PortForwardCapability and isinstance(parts.runtime, StreamingRuntime):
                found = RuntimePortForward(parts.runtime, parts.cache)
        if found is None:
            found = self.runtime
        return found if isinstance(found, kind) else None

    def _find_status(self, pod: v1.Pod) -> v1.PodStatus:
        """The pod's status as last seen, for choosing a container instance."""
        parts = self._parts
        uid = get_uid(pod)
        runtime_pod = parts.cache.get(uid)
        previous = pod.get("status", {})
        if not runtime_pod.is_known and uid not in self._states:
            return previous
        state = self._states.get(uid) or PodState(uid)
        state.facts = refresh_pod_facts(state.facts, pod)
        return self._generate(parts, pod, state, runtime_pod, previous)

    # -- Helpers.

    def _has_next_step(self, parts: _Parts, pod: v1.Pod, state: PodState) -> bool:
        """Whether something may begin now: a sidecar lets its successor, a container has ended while others started."""
        assert state.facts is not None
        actions = compute_pod_actions(pod, state.facts, parts.cache.get(state.uid), parts.probes)
        to_start = (*actions.ephemeral_to_start, *actions.init_to_start, *actions.apps_to_start)
        return any(container.name not in state.failures for container in to_start)

    def _state(self, uid: v1.PodUID) -> PodState:
        state = self._states.get(uid)
        if state is None:
            state = self._states[uid] = PodState(uid)
        return state

    async def _settle(self, parts: _Parts, state: PodState) -> None:
        """Wait for what an interrupted call began, and read the pod again if its outcome is unknown."""
        await state.settle()
        if state.outcome_unknown:
            await parts.pleg.relist_pod(state.uid)
            state.outcome_unknown = False

    def _generate(
        self,
        parts: _Parts,
        pod: v1.Pod,
        state: PodState,
        runtime_pod: RuntimePod,
        previous: v1.PodStatus,
        *,
        is_terminal: bool = False,
    ) -> v1.PodStatus:
        assert state.facts is not None
        status = generate_pod_status(
            pod,
            state.facts,
            runtime_pod,
            StatusInputs(
                previous=previous,
                now=parts.node.clock.now(),
                probes=parts.probes,
                failures=state.failures,
                host_ips=parts.node.host_ips,
                runtime_name=self.runtime.name,
                agent_started_at=parts.started_at,
                is_terminal=is_terminal,
                recursive_read_only=parts.node_status.recursive_read_only,
            ),
        )
        parts.probes.update_status(state.uid, status)
        return status

    def _check_network(self, parts: _Parts, pod: v1.Pod, context: PodContext) -> None:
        problem = parts.node_status.network_problem
        if problem and not pod.get("spec", {}).get("hostNetwork"):
            message = f"network is not ready: {problem}"
            context.record_event(WARNING, EVENT_NETWORK_NOT_READY, message)
            raise TransientError(message, reason=EVENT_NETWORK_NOT_READY, retry_after_s=NETWORK_RETRY_S)

    async def _refresh_volumes(self, parts: _Parts, pod: v1.Pod, context: PodContext) -> None:
        if not pod.get("spec", {}).get("volumes"):
            return
        try:
            await parts.volumes.refresh_pod(pod, context)
        except VkproviderError as error:
            logger.info("Cannot refresh volumes", extra={"uid": get_uid(pod), "error": str(error)})

    async def _remove(self, parts: _Parts, id: str, removal: Coroutine[object, object, None]) -> None:
        with parts.pleg.acting_on(id):
            await removal
            parts.cache.drop(id)

    async def _keep_house(self, parts: _Parts) -> None:
        """Now and then: dead containers, credentials of the node."""
        since_credentials_s = 0.0
        while True:
            await asyncio.sleep(HOUSEKEEPING_PERIOD_S)
            for uid in parts.cache.uids():
                if uid in self._states:
                    await parts.syncer.remove_garbage(uid)
            since_credentials_s += HOUSEKEEPING_PERIOD_S
            if since_credentials_s >= CREDENTIALS_PERIOD_S:
                since_credentials_s = 0.0
                with contextlib.suppress(OSError):
                    parts.credentials = await asyncio.to_thread(read_node_credentials, self.root_dir)


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("A part of the kubelet engine failed", extra={"task": task.get_name()}, exc_info=error)
