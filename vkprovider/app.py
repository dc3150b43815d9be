"""The composition root: builds the parts of a node, and owns their start, life and end.

Start: health endpoint and server, node and lease, provider (which adopts what runs), pod source, workers. Stop: pod source,
workers, last statuses, node, events, server, provider. The parts live together: one that fails ends the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from vkprovider._version import __version__
from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.aio.tasks import cancel_and_wait, finish, innermost
from vkprovider.controllers.admission import PodAdmission
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.identity import InstanceIdentity, acquire_identity, claim_node_name
from vkprovider.controllers.lease import LeaseController
from vkprovider.controllers.machine import read_machine
from vkprovider.controllers.node import NodeController
from vkprovider.controllers.node_status import make_kubelet_version
from vkprovider.controllers.orphans import OrphanCollector
from vkprovider.controllers.pod_source import PodSource
from vkprovider.controllers.pod_workers import PodWorkers
from vkprovider.controllers.status_manager import StatusManager
from vkprovider.errors import ConfigurationError, KubeAPIError, TransientError
from vkprovider.kube.client import KubeClient
from vkprovider.kube.cluster import get_cluster_uid
from vkprovider.kube.credentials import load_credentials
from vkprovider.kube.events import EventClient
from vkprovider.kube.leases import LeaseClient
from vkprovider.kube.nodes import NodeClient
from vkprovider.kube.objects import CachedObjectStore
from vkprovider.kube.pods import PodClient
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.metrics import KubeletMetrics
from vkprovider.provider.capabilities import ResourceAccountingCapability
from vkprovider.provider.container_runtime import ContainerRuntime, HostInfo
from vkprovider.provider.pod_provider import NodeContext, PodProvider
from vkprovider.provider.registry import ProviderOptions, load_factory
from vkprovider.server import HealthChecks, HealthzServer, KubeletServer, effective_configuration, effective_flags
from vkprovider.settings import Settings

logger = logging.getLogger(__name__)

DECLARED_FEATURES = ("ExtendWebSocketsToKubelet",)
"""Features of Kubernetes 1.36 that the node announces, since it really has them: the kubelet API speaks WebSocket itself."""

WORKERS_STOP_S = 10.0
FLUSH_S = 5.0
NODE_STOP_S = 10.0
CLOSE_S = 5.0


class Node:
    """One node, embedded in this process.

    Args:
        settings: All of its settings.
        provider: What runs its pods, a whole-pod provider or a runtime that gets kubelet behaviour; None loads
            ``settings.provider`` by its entry point.
        clock: Time.

    Raises:
        ConfigurationError: The provider named in the settings is not installed or refuses its configuration.
    """

    def __init__(
        self,
        settings: Settings,
        provider: PodProvider | ContainerRuntime | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._host_info: HostInfo | None = None
        self.provider = self._make_provider(provider or self._load_provider())
        self.ready = asyncio.Event()
        """Set once the API server has been told that the node is ready."""

    async def run(self, stop: asyncio.Event) -> None:
        """Run the node until ``stop`` is set; pods keep running afterwards.

        Args:
            stop: Set it to end the node in good order.

        Raises:
            ConfigurationError: Something in the settings cannot work; nothing was started.
            NodeNameTakenError: Another live process runs a node of this name.
            VkproviderError: A part of the node failed for good.
        """
        settings = self._settings
        metrics = KubeletMetrics(settings.node.name, git_version=make_kubelet_version())
        stopping = asyncio.create_task(stop.wait(), name="node:stop")
        try:
            async with contextlib.AsyncExitStack() as stack:
                identity = await _unless_stopped(
                    acquire_identity(settings.root_dir, standby=settings.node.standby), stopping
                )
                if identity is None:
                    return
                stack.callback(identity.release)
                credentials = await load_credentials(settings.cluster.kubeconfig, settings.cluster.context)
                client = await stack.enter_async_context(KubeClient(credentials, settings.cluster, metrics=metrics))
                cluster_uid = await _unless_stopped(self._join_cluster(client, identity), stopping)
                if cluster_uid is None:
                    return
                await self._run_parts(client, identity.instance_id, cluster_uid, stopping, metrics)
        finally:
            await cancel_and_wait([stopping])

    def _load_provider(self) -> PodProvider | ContainerRuntime:
        settings = self._settings
        return load_factory(settings.provider).create(
            ProviderOptions(
                node_name=settings.node.name,
                root_dir=settings.root_dir,
                config=settings.provider_config,
                pod_infra_container_image=settings.pod_infra_container_image,
            )
        )

    def _make_provider(self, provider: PodProvider | ContainerRuntime) -> PodProvider:
        if isinstance(provider, PodProvider):
            return provider
        self._host_info = provider if isinstance(provider, HostInfo) else None
        return RuntimePodProvider(provider, self._settings.pods, root_dir=self._settings.root_dir)

    async def _join_cluster(self, client: KubeClient, identity: InstanceIdentity) -> str:
        """Make sure that this process may run the node; waits for an API server that does not answer."""
        node = self._settings.node
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_is_passing),
            wait=wait_exponential_jitter(initial=0.5, max=10.0),
            before_sleep=_log_unreachable,
            reraise=True,
        ):
            with attempt:
                await claim_node_name(
                    NodeClient(client),
                    LeaseClient(client),
                    node_name=node.name,
                    instance_id=identity.instance_id,
                    lease_duration_s=node.lease_duration_s,
                    clock=self._clock,
                    standby=node.standby,
                )
                return identity.remember_cluster_uid(await get_cluster_uid(client))
        raise AssertionError("retries without an end ended")

    async def _run_parts(
        self,
        client: KubeClient,
        instance_id: str,
        cluster_uid: str,
        stopping: asyncio.Task[Any],
        metrics: KubeletMetrics,
    ) -> None:
        settings, clock, provider = self._settings, self._clock, self.provider
        name = settings.node.name
        pods = PodClient(client)
        events = EventRecorder(EventClient(client), node_name=name, settings=settings.pods, clock=clock)
        node = NodeController(
            NodeClient(client),
            settings=settings.node,
            provider=provider,
            events=events,
            clock=clock,
            machine=await asyncio.to_thread(read_machine, settings.root_dir),
            instance_id=instance_id,
            get_kubelet_port=lambda: server.port,
            declared_features=DECLARED_FEATURES,
            on_registered=lambda: lease.wake(),
        )
        lease = LeaseController(
            LeaseClient(client),
            node_name=name,
            duration_s=settings.node.lease_duration_s,
            get_node_uid=node.get_node_uid,
            clock=clock,
        )
        objects = CachedObjectStore(client)
        context = NodeContext(
            node_name=name,
            cluster_uid=cluster_uid,
            objects=objects,
            host_ips=tuple(node.get_host_ips()),
            get_allocatable=node.get_allocatable,
            get_capacity=node.get_capacity,
            clock=clock,
            metrics=metrics,
        )
        statuses = StatusManager(
            pods,
            get_host_ips=node.get_host_ips,
            clock=clock,
            on_deleted=lambda uid: workers.handle_absent(uid),
            metrics=metrics,
        )
        accounting = provider.find_capability(ResourceAccountingCapability)  # type: ignore[type-abstract]
        workers = PodWorkers(
            provider,
            context,
            statuses=statuses,
            events=events,
            admission=PodAdmission(node.get_node, accounting),
            settings=settings.pods,
        )
        source = PodSource(client.credentials, pods, node_name=name, pod_sink=workers, node_sink=node)
        orphans = OrphanCollector(provider, workers, source.list_pods)
        server = KubeletServer(
            settings.server,
            node_name=name,
            node_ips=node.get_host_ips(),
            root_dir=settings.root_dir,
            pods=workers,
            provider=provider,
            client=client,
            clock=clock,
            configuration=effective_configuration(settings),
            metrics=metrics,
            flags=effective_flags(settings),
        )
        logger.info(
            "Starting node",
            extra={
                "node": name,
                "provider": provider.name,
                "version": __version__,
                "server": client.credentials.server,
            },
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(objects.aclose)
            stack.push_async_callback(provider.stop)
            if settings.server.healthz_port:
                await stack.enter_async_context(_serving_health(settings, node))
            await server.start()
            stack.push_async_callback(server.aclose)
            stack.push_async_callback(events.aclose)
            parts = _Parts(stopping)
            parts.start("node", node.run())
            parts.start("lease", lease.run())
            parts.start("statuses", statuses.run())
            parts.start("pod-source", source.run())
            parts.start("provider", self._run_provider(context, node, source, workers, orphans))
            parts.start("ready", self._signal_ready(node))
            try:
                await parts.wait()
            finally:
                await finish(
                    self._stop_parts(parts, workers, statuses, node, events),
                    timeout_s=WORKERS_STOP_S + FLUSH_S + NODE_STOP_S + 2 * CLOSE_S,
                    name="stop the node",
                )

    async def _run_provider(
        self,
        context: NodeContext,
        node: NodeController,
        source: PodSource,
        workers: PodWorkers,
        orphans: OrphanCollector,
    ) -> None:
        """Start the provider, trying again while it does not answer; then let it work."""

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            node.set_provider_failed(str(error))
            logger.warning("The provider cannot be started, trying again", extra={"error": str(error)})

        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, TransientError)),
            wait=wait_exponential_jitter(initial=0.5, max=10.0),
            before_sleep=tell,
            reraise=True,
        ):
            with attempt:
                await self.provider.start(context)
        await self._check_cgroup_version()
        node.set_provider_started()
        # Admission needs the node as the provider describes it; a sync needs a backend that is well.
        await node.became_ready.wait()
        await source.ready.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(workers.run(), name="node:workers")
            group.create_task(orphans.run(), name="node:orphans")

    async def _check_cgroup_version(self) -> None:
        """Refuse a host with cgroup v1 if so configured, else warn once."""
        if self._host_info is None or (await self._host_info.host_resources()).cgroup_version != 1:
            return
        if self._settings.node.fail_cgroup_v1:
            raise ConfigurationError(
                "the runtime's host uses cgroup v1 and failCgroupV1 is true; move it to cgroup v2 or set it false"
            )
        logger.warning(
            "The runtime's host uses cgroup v1, which a kubelet refuses by default; going on (failCgroupV1 is false)"
        )

    async def _signal_ready(self, node: NodeController) -> None:
        await node.became_ready.wait()
        self.ready.set()
        await asyncio.Event().wait()

    async def _stop_parts(
        self,
        parts: _Parts,
        workers: PodWorkers,
        statuses: StatusManager,
        node: NodeController,
        events: EventRecorder,
    ) -> None:
        logger.info("Stopping node", extra={"node": self._settings.node.name})
        await parts.cancel("pod-source", "provider", "ready")
        await finish(workers.aclose(), timeout_s=WORKERS_STOP_S, name="stop the workers")
        await statuses.flush(timeout_s=FLUSH_S)
        await parts.cancel("statuses")
        await statuses.aclose()
        await parts.cancel("node", "lease")
        await finish(node.shutdown(), timeout_s=NODE_STOP_S, name="take leave")
        await events.flush(timeout_s=CLOSE_S)


class _Parts:
    """The long-lived parts of a node, by name; they end together."""

    def __init__(self, stopping: asyncio.Task[Any]) -> None:
        self._stopping = stopping
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.create_task(coroutine, name=f"node:{name}")

    async def wait(self) -> None:
        """Return when the node is to stop; raise when a part has failed."""
        await asyncio.wait({self._stopping, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        for name, task in self._tasks.items():
            if task.done() and not task.cancelled():
                if (error := task.exception()) is not None:
                    raise innermost(error)
                raise RuntimeError(f"part {name!r} of the node ended by itself")

    async def cancel(self, *names: str) -> None:
        await cancel_and_wait(task for name in names if (task := self._tasks.get(name)) is not None)


async def run_node(settings: Settings, stop: asyncio.Event) -> int:
    """Run a node until ``stop`` is set.

    Returns:
        0, the exit code of a clean end.

    Raises:
        VkproviderError: See ``Node.run``.
    """
    await Node(settings).run(stop)
    return 0


@contextlib.asynccontextmanager
async def _serving_health(settings: Settings, node: NodeController) -> AsyncIterator[None]:
    def check_ready() -> None:
        if not (node.became_ready.is_set() and node.is_ready):
            raise TransientError("the node is not ready")

    server = HealthzServer(
        settings.server.healthz_address,
        settings.server.healthz_port,
        HealthChecks(),
        ready=HealthChecks({"node": check_ready}),
    )
    await server.start()
    try:
        yield
    finally:
        await server.aclose()


async def _unless_stopped(work: Coroutine[Any, Any, Any], stopping: asyncio.Task[Any]) -> Any:
    """Outcome of some work, or None if the node is to stop first."""
    task = asyncio.create_task(work, name="node:prepare")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            await cancel_and_wait([task])


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, TransientError) or (isinstance(error, KubeAPIError) and error.is_retriable)


def _log_unreachable(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if state.attempt_number in (1, 10) or state.attempt_number % 100 == 0:
        logger.warning("The API server does not answer, trying again", extra={"error": str(error)})
