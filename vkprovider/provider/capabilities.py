"""What a provider may be able to do besides running pods: each ability a small contract of its own.

A provider that lacks one simply does not implement it: the kubelet API then answers 501, other parts say "not supported".
Look an ability up with ``PodProvider.find_capability``, never with ``isinstance``: a provider may hold it in another object.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vkprovider.api import v1
from vkprovider.provider.streams import CappedBuffer, DuplexStream, ProcessStreams

MAX_PROBE_OUTPUT_BYTES = 10 * 1024
"""Output of a probe's command beyond this is thrown away. Source: pkg/probe/exec/exec.go, maxReadLength."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a container log is asked for.

    Attributes:
        follow: Go on as the container writes.
        previous: The instance before the current one.
        timestamps: Prefix each line with its RFC 3339 time with nine fraction digits.
        since: Leave out older lines.
        tail_lines: Only this many last lines; None for all, 0 for none.
        limit_bytes: Stop after this many bytes of output, even in the middle of a line.
        stdout: Include standard output.
        stderr: Include standard error.

    Source: staging/src/k8s.io/api/core/v1/types.go, PodLogOptions.
    """

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since: datetime | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None
    stdout: bool = True
    stderr: bool = True


class LogsCapability(ABC):
    """Shows logs of containers."""

    @abstractmethod
    def container_logs(self, pod: v1.Pod, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Chunks of the log, formatted as the options say.

        An empty first chunk says that the log is open: the answer's header is sent at once then, even if the container
        stays silent. Without it the header waits a second for a chunk or an error.

        Raises:
            NotFoundError: No such pod or container here, raised at the first step.
            InvalidPodError: The container exists but has no log yet; the message is the kubelet's
                (``container "c" in pod "p" is waiting to start: ContainerCreating``).
        """


class ExecCapability(ABC):
    """Runs commands in containers."""

    @abstractmethod
    async def exec_in_container(
        self, pod: v1.Pod, container: str, command: Sequence[str], streams: ProcessStreams
    ) -> int:
        """Run a command with these streams and return its exit code; cancelling kills the command.

        Raises:
            NotFoundError: No such container, or it does not run.
            PodSyncError: The command could not be started.
        """

    async def exec_probe(
        self, pod: v1.Pod, container: str, command: Sequence[str], *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Run a probe's command and return its exit code and its first 10 KiB of output.

        Raises:
            TimeoutError: The command took longer than ``timeout_s`` seconds and was killed.
        """
        stdout, stderr = CappedBuffer(MAX_PROBE_OUTPUT_BYTES), CappedBuffer(MAX_PROBE_OUTPUT_BYTES)
        async with asyncio.timeout(timeout_s):
            code = await self.exec_in_container(pod, container, command, ProcessStreams(stdout=stdout, stderr=stderr))
        return code, (stdout.getvalue() + stderr.getvalue())[:MAX_PROBE_OUTPUT_BYTES]


class AttachCapability(ABC):
    """Connects clients to the first process of a container."""

    @abstractmethod
    async def attach_to_container(self, pod: v1.Pod, container: str, streams: ProcessStreams) -> None:
        """Connect these streams until the process or the client ends.

        Raises:
            NotFoundError: No such container, or it does not run.
        """


class PortForwardCapability(ABC):
    """Reaches ports inside pods."""

    @abstractmethod
    async def port_forward(self, pod: v1.Pod, port: int) -> DuplexStream:
        """Connect to a TCP port on ``localhost`` inside the pod's network namespace.

        Raises:
            NotFoundError: The pod has no sandbox here.
            ConnectionError: Nothing listens there.
        """


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a pod, container or node uses; None where unknown."""

    at: datetime
    cpu_core_nanoseconds: int | None = None
    memory_working_set_bytes: int | None = None
    memory_usage_bytes: int | None = None
    memory_rss_bytes: int | None = None
    memory_page_faults: int | None = None
    memory_major_page_faults: int | None = None
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None
    network_rx_errors: int | None = None
    network_tx_errors: int | None = None
    ephemeral_storage_bytes: int | None = None
    process_count: int | None = None


@dataclass(frozen=True, slots=True)
class PodUsage:
    """Usage of one pod, and of its containers by name."""

    pod_uid: v1.PodUID
    usage: ResourceUsage
    containers: Mapping[str, ResourceUsage] = field(default_factory=dict)


class StatsCapability(ABC):
    """Knows what pods and the node use."""

    @abstractmethod
    async def pod_usages(self) -> Sequence[PodUsage]:
        """Usage of every pod that runs here."""

    async def node_usage(self) -> ResourceUsage | None:
        """Usage of the whole node, or None if unknown."""
        return None


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What a provider says of the node it presents; absent parts are filled in by the node controller.

    Attributes:
        capacity: Resource name to quantity, e.g. ``{"cpu": "8", "memory": "16Gi", "pods": "110"}``.
        allocatable: Likewise, or None to have it computed from capacity and the reservations configured.
        addresses: Entries of ``status.addresses``; empty to have the agent's own found.
        node_info: Entries of ``status.nodeInfo`` that the provider knows (``containerRuntimeVersion``, ``osImage``, …).
        conditions: Conditions beyond Ready and the pressures, or overriding the pressures.
        images: Entries of ``status.images``, any order; the node controller sorts and cuts them.
        runtime_handlers: Entries of ``status.runtimeHandlers``.
        features: ``status.features``.
        labels: Labels to add.
        annotations: Annotations to add.
        taints: Taints to register with.
    """

    capacity: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, str] | None = None
    addresses: Sequence[Mapping[str, str]] = ()
    node_info: Mapping[str, str] = field(default_factory=dict)
    conditions: Sequence[v1.NodeCondition] = ()
    images: Sequence[Mapping[str, Any]] = ()
    runtime_handlers: Sequence[Mapping[str, Any]] = ()
    features: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[v1.Taint] = ()


class NodeStatusCapability(ABC):
    """Describes the node and says whether the backend is well."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the backend is well; called every few seconds with a timeout.

        Raises:
            VkproviderError: It is not; the message becomes that of the node's Ready condition.
        """

    @abstractmethod
    async def describe_node(self) -> NodeDescription:
        """What the node has and is; called every status period, so keep it cheap.

        Raises:
            TransientError: The backend did not answer; the last description stays in force.
        """


class ResourceAccountingCapability(ABC):
    """Counts resources in a provider's own way, in place of the library's admission by requests."""

    @abstractmethod
    async def admit_pod(self, pod: v1.Pod, active_pods: Sequence[v1.Pod]) -> None:
        """Let a pod in, or refuse it for good.

        Args:
            pod: The pod that wants in.
            active_pods: The pods here that are neither finished nor fully stopped, without this one.

        Raises:
            AdmissionError: Refused; ``reason`` and message go into the pod's status and an event.
        """


class ProbingCapability(ABC):
    """Runs probes itself instead of leaving them to the library."""

    @abstractmethod
    def native_probe_kinds(self) -> frozenset[str]:
        """Kinds of handler it takes over, of ``exec``, ``httpGet``, ``tcpSocket`` and ``grpc``."""

    @abstractmethod
    def probe_results(self) -> AsyncIterator[tuple[v1.PodUID, str, str, bool]]:
        """Changes of results: pod UID, container name, ``liveness``/``readiness``/``startup``, and success."""


class VolumesCapability(ABC):
    """Mounts some kinds of volume itself; the library's volume plug-ins do the rest."""

    @abstractmethod
    def native_volume_kinds(self) -> frozenset[str]:
        """Keys of ``spec.volumes[]`` that it mounts itself, e.g. ``{"emptyDir", "hostPath"}``."""
