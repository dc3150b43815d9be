"""The cluster side of a node over a toy provider, in this process: for integration tests of the controllers.

The backend outlives the process it pretends to be: ``crash`` ends everything without a word, a second ``ClusterSide`` on the same
backend and root directory is the restart.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vkprovider.aio.clock import SystemClock
from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api.timestamps import format_time
from vkprovider.controllers.admission import PodAdmission
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.identity import acquire_identity, claim_node_name
from vkprovider.controllers.lease import LeaseController
from vkprovider.controllers.machine import read_machine
from vkprovider.controllers.node import NodeController
from vkprovider.controllers.orphans import OrphanCollector
from vkprovider.controllers.pod_source import PodSource
from vkprovider.controllers.pod_workers import PodWorkers
from vkprovider.controllers.status_manager import StatusManager
from vkprovider.kube.client import KubeClient
from vkprovider.kube.cluster import get_cluster_uid
from vkprovider.kube.credentials import load_credentials
from vkprovider.kube.events import EventClient
from vkprovider.kube.leases import LeaseClient
from vkprovider.kube.nodes import NodeClient
from vkprovider.kube.objects import CachedObjectStore
from vkprovider.kube.pods import PodClient
from vkprovider.provider.pod_provider import NodeContext, PodProvider, ProviderPod, SyncResult
from vkprovider.settings import NodeSettings, PodSettings


@dataclass
class Backend:
    """Where pods run."""

    pods: dict[str, Any] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    stopped: list[tuple[str, int]] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    pod_ip: str = "10.1.2.3"
    stop_s: float = 0.0


class ToyProvider(PodProvider):
    """Pods that run until they are told to stop, and then exit with 0."""

    name = "toy"

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.changes: asyncio.Queue[Any] = asyncio.Queue()

    async def sync_pod(self, pod, context):
        uid = pod["metadata"]["uid"]
        if uid not in self.backend.pods:
            self.backend.pods[uid] = {"pod": pod, "started_at": format_time(context.clock.now())}
            self.backend.started.append(pod["metadata"]["name"])
            for container in pod["spec"]["containers"]:
                context.record_event("Normal", "Started", "Container started", container=container["name"])
        started_at = self.backend.pods[uid]["started_at"]
        return SyncResult(status=self._status(pod, {"running": {"startedAt": started_at}}, ready=True))

    async def terminate_pod(self, pod, context, *, grace_period_s):
        uid = pod["metadata"]["uid"]
        if uid not in self.backend.pods:
            return SyncResult()
        await asyncio.sleep(min(self.backend.stop_s, grace_period_s))
        started_at = self.backend.pods.pop(uid)["started_at"]
        self.backend.stopped.append((pod["metadata"]["name"], grace_period_s))
        now = format_time(context.clock.now())
        end = {"exitCode": 0, "reason": "Completed", "startedAt": started_at, "finishedAt": now}
        return SyncResult(status=self._status(pod, {"terminated": end}, ready=False))

    def _status(self, pod, state, *, ready):
        statuses = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "toy",
                "containerID": f"toy://{pod['metadata']['uid']}",
                "ready": ready,
                "started": ready,
                "restartCount": 0,
                "state": state,
                "lastState": {},
            }
            for container in pod["spec"]["containers"]
        ]
        return {"phase": "Running", "podIP": self.backend.pod_ip, "containerStatuses": statuses}

    async def cleanup_pod(self, pod_uid):
        self.backend.cleaned.append(pod_uid)

    async def get_pod_status(self, pod, context):
        return None

    async def list_pods(self):
        return [ProviderPod(entry["pod"]) for entry in self.backend.pods.values()]

    async def pod_changes(self):
        while True:
            yield await self.changes.get()


class ClusterSide:
    """Everything of a node but a real provider and the server."""

    def __init__(self, kubeconfig: Path, node_name: str, root_dir: Path, backend: Backend, **settings: Any) -> None:
        self.kubeconfig = kubeconfig
        self.node_name = node_name
        self.root_dir = root_dir
        self.provider = ToyProvider(backend)
        self.settings = NodeSettings(name=node_name, default_taint=False, **settings)
        self.tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Start it; returns once the node is ready and its pods have been listed."""
        clock, name = SystemClock(), self.node_name
        pod_settings = PodSettings(backoff_period_s=1.0)
        self.identity = await acquire_identity(self.root_dir)
        credentials = await load_credentials(self.kubeconfig)
        self.client = client = KubeClient(credentials)
        cluster_uid = self.identity.remember_cluster_uid(await get_cluster_uid(client))
        nodes, leases, pods = NodeClient(client), LeaseClient(client), PodClient(client)
        await claim_node_name(
            nodes, leases, node_name=name, instance_id=self.identity.instance_id, lease_duration_s=40, clock=clock
        )
        self.events = EventRecorder(EventClient(client), node_name=name, settings=pod_settings, clock=clock)
        self.node = NodeController(
            nodes,
            settings=self.settings,
            provider=self.provider,
            events=self.events,
            clock=clock,
            machine=read_machine(self.root_dir),
            instance_id=self.identity.instance_id,
            get_kubelet_port=lambda: 10250,
            on_registered=lambda: self.lease.wake(),
        )
        self.lease = LeaseController(
            leases, node_name=name, duration_s=40, get_node_uid=self.node.get_node_uid, clock=clock
        )
        self.statuses = StatusManager(
            pods,
            get_host_ips=self.node.get_host_ips,
            clock=clock,
            on_deleted=lambda uid: self.workers.handle_absent(uid),
        )
        context = NodeContext(name, cluster_uid, CachedObjectStore(client), self.node.get_host_ips(), clock=clock)
        self.workers = PodWorkers(
            self.provider,
            context,
            statuses=self.statuses,
            events=self.events,
            admission=PodAdmission(self.node.get_node),
            settings=pod_settings,
        )
        self.source = PodSource(
            credentials, pods, node_name=name, pod_sink=self.workers, node_sink=self.node, list_period_s=2.0
        )
        orphans = OrphanCollector(self.provider, self.workers, self.source.list_pods, period_s=1.0, delay_s=1.0)
        self.node.set_provider_started()
        for part in (self.node, self.lease, self.statuses, self.source):
            self.tasks.append(asyncio.create_task(part.run(), name=type(part).__name__))
        await self._wait(self.node.became_ready)
        await self._wait(self.source.ready)
        for later in (self.workers, orphans):
            self.tasks.append(asyncio.create_task(later.run(), name=type(later).__name__))

    async def _wait(self, event: asyncio.Event) -> None:
        waiter = asyncio.create_task(event.wait())
        await asyncio.wait({waiter, *self.tasks}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if not waiter.done():
            await cancel_and_wait([waiter])
            for task in self.tasks:
                if task.done():
                    task.result()
            raise TimeoutError(f"node {self.node_name} did not get ready")

    async def stop(self) -> None:
        """Stop it in good order. Safe to repeat."""
        if not self.tasks:
            return
        await self._cancel()
        await self.statuses.flush(timeout_s=5)
        await self.node.shutdown()
        await self.events.flush(timeout_s=5)
        await self._close()

    async def crash(self) -> None:
        """End it without a word to anybody."""
        await self._cancel()
        await self._close()

    async def _cancel(self) -> None:
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.workers.aclose()

    async def _close(self) -> None:
        await self.events.aclose()
        await self.statuses.aclose()
        await self.client.aclose()
        self.identity.release()
