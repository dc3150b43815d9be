"""The contract of a provider of whole pods.

The node calls a provider in three phases per pod, the kubelet's own: ``sync_pod`` as long as the pod should run,
``terminate_pod`` until nothing of it runs any more, ``cleanup_pod`` once to take away what is left. All are keyed by the
pod's UID, idempotent and level-based: a call may come again at any time, also after a restart of the process, and must not
depend on any call before. Calls for one pod never overlap; calls for different pods do.

Source: kubelet pkg/kubelet/pod_workers.go, podSyncer; virtual-kubelet node/podcontroller.go, PodLifecycleHandler.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.api import v1
from vkprovider.metrics import KubeletMetrics
from vkprovider.resolve.objects import ObjectStore

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The node a provider serves.

    Attributes:
        node_name: Name of the Node object.
        cluster_uid: Identity of the cluster (UID of ``kube-system``); with the node name it marks what is ours.
        host_ips: InternalIPs of the node, primary first.
        get_allocatable: Current allocatable resources of the node.
        get_capacity: Current capacity of the node.
        objects: Objects of the cluster.
        clock: Time.
        metrics: What the node counts; a provider may register figures of its own in its ``registry``.
    """

    node_name: str
    cluster_uid: str
    objects: ObjectStore
    host_ips: tuple[str, ...] = ()
    get_allocatable: Callable[[], v1.ResourceList] = dict
    get_capacity: Callable[[], v1.ResourceList] = dict
    clock: Clock = field(default_factory=SystemClock)
    metrics: KubeletMetrics = field(default_factory=KubeletMetrics)


class PodEventRecorder(Protocol):
    """Records Kubernetes Events on one pod; never blocks, never raises."""

    def __call__(self, kind: str, reason: str, message: str, *, container: str | None = None) -> None:
        """Record an event.

        Args:
            kind: ``Normal`` or ``Warning``.
            reason: CamelCase word, the kubelet's where it has one.
            message: For people.
            container: Name of the container it is about, or None for the whole pod.
        """
        ...


@dataclass(frozen=True, slots=True)
class PodContext:
    """What a provider may use while it works on one pod.

    Attributes:
        node: The node.
        record_event: Records an event on the pod.
        publish_status: Sends an intermediate status to the API server; returns at once, newest wins. Optional to use.
        previous_status: The newest status known, published by us or read from the API; the base for what must not change
            (start time, restart counts, transition times).
    """

    node: NodeContext
    record_event: PodEventRecorder
    publish_status: Callable[[v1.PodStatus], None]
    previous_status: v1.PodStatus

    @property
    def objects(self) -> ObjectStore:
        """Objects of the cluster, read when asked for, so that a restarted container gets fresh values."""
        return self.node.objects

    @property
    def clock(self) -> Clock:
        """Time."""
        return self.node.clock


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Outcome of one phase call.

    Attributes:
        status: The pod's status as it is now. The node adds what only it knows (host IPs, start time, QoS class, observed
            generation, missing conditions); None leaves the last status in force.
        terminal: Nothing of the pod runs and nothing will be started again; the pod goes on to termination and cleanup.
        requeue_after_s: Seconds after which to sync again; None for the node's sync period (about a minute).
    """

    status: v1.PodStatus | None = None
    terminal: bool = False
    requeue_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderPod:
    """A pod as a backend holds it, maybe one that the API server no longer knows.

    Attributes:
        pod: At least name, namespace and UID; as much of the spec as the backend can tell.
        running: Whether anything of it runs.
    """

    pod: v1.Pod
    running: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


class PodProvider(ABC):
    """Runs whole pods."""

    name: str = "provider"
    """Short name: the value of the node's default taint and part of its labels."""

    async def start(self, node: NodeContext) -> None:
        """Connect to the backend; called once before any other call, again if it failed.

        Raises:
            ConfigurationError: It can never work as configured.
            TransientError: The backend does not answer now; tried again while the node reports NotReady.
        """

    async def stop(self) -> None:
        """Let go of the backend; pods keep running. Safe to repeat."""

    @abstractmethod
    async def sync_pod(self, pod: v1.Pod, context: PodContext) -> SyncResult:
        """Make the backend run the pod as its spec says, as far as can be done now, and report its status.

        Must not wait for the pod's own progress: return, and name the pod in ``pod_changes`` or ask for a requeue.

        Raises:
            InvalidPodError: The pod can never run here; it ends as Failed with the error's reason and message.
            TransientError: Try again after ``retry_after_s``; other errors are retried with backoff as well.
        """

    @abstractmethod
    async def terminate_pod(self, pod: v1.Pod, context: PodContext, *, grace_period_s: int) -> SyncResult:
        """Stop everything of the pod; return when nothing runs, with the true exit codes in the status.

        Cancelled and called again with less grace when the deletion is hurried. A pod that the backend does not know is
        success, with ``status`` None or a status made from ``context.previous_status``.

        Args:
            pod: The pod; for an orphan only what the backend told in ``list_pods``.
            context: Tools.
            grace_period_s: Seconds between asking and killing, at least 1.

        Raises:
            TransientError: Something may still run; tried again with backoff.
        """

    @abstractmethod
    async def cleanup_pod(self, pod_uid: v1.PodUID) -> None:
        """Take away what is left of a stopped pod (records, logs, files). Safe to repeat; unknown is success."""

    @abstractmethod
    async def get_pod_status(self, pod: v1.Pod, context: PodContext) -> v1.PodStatus | None:
        """Status as the backend sees it now, without changing anything; None if it does not know the pod."""

    @abstractmethod
    async def list_pods(self) -> Sequence[ProviderPod]:
        """Every pod of this node in the backend, also those unknown to the API server.

        Raises:
            TransientError: The list could not be read in full; a partial list is never returned.
        """

    async def pod_changes(self) -> AsyncIterator[v1.PodUID]:
        """UIDs of pods that changed by themselves and want a sync; hints, which may be lost or repeated.

        The default names every pod of ``list_pods`` each five seconds, as virtual-kubelet does for providers that cannot
        notify (node/sync.go). Override it where the backend can tell.
        """
        while True:
            await asyncio.sleep(5.0)
            for provider_pod in await self.list_pods():
                yield v1.PodUID(provider_pod.pod["metadata"]["uid"])

    def find_capability(self, kind: type[C]) -> C | None:
        """The object that implements an ability of ``vkprovider.provider.capabilities``, or None.

        Override it when the ability depends on the backend or lives in another object.
        """
        return self if isinstance(self, kind) else None
