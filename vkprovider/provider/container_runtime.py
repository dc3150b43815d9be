"""The contract of a container runtime: the CRI's verbs, in process.

The library's kubelet engine (``vkprovider.kubelet``) gives any implementation the behaviour of a kubelet. The verbs and
their meaning are those of CRI v1, with three differences: streams are in-process objects instead of URLs, logs are
read through the runtime (Docker owns its log files), and events are optional hints, relisting being the truth.

All verbs may be called concurrently, for different pods and for one; a runtime bounds its own parallelism. All verbs are
safe to repeat. Cancellation ends the wait, not what the runtime has already begun. A backend that does not answer raises
``TransientError``; anything it refuses raises ``PodSyncError`` or ``InvalidPodError`` with the backend's own words.

Source: k8s.io/cri-api/pkg/apis/services.go, RuntimeService and ImageManagerService.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.streams import DuplexStream, ProcessStreams


class ImageService(ABC):
    """Images of a runtime."""

    @abstractmethod
    async def find_image(self, image: cri.ImageSpec) -> cri.Image | None:
        """The image if it is present on this node, else None.

        Raises:
            TransientError: The runtime did not answer.

        Source: CRI ImageService.ImageStatus.
        """

    @abstractmethod
    async def list_images(self) -> Sequence[cri.Image]:
        """All images on this node.

        Raises:
            TransientError: The runtime did not answer.

        Source: CRI ImageService.ListImages.
        """

    @abstractmethod
    async def pull_image(
        self,
        image: cri.ImageSpec,
        *,
        auth: cri.AuthConfig | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> cri.ImageRef:
        """Fetch an image from its registry.

        Args:
            image: What to pull; a missing tag has been filled in by the caller.
            auth: Credentials, or None for an anonymous pull.
            progress: Called with one line of human-readable progress now and then.

        Returns:
            A reference to the image just pulled.

        Raises:
            PodSyncError: The registry or the runtime refused; the message is theirs.
            TransientError: The runtime did not answer.

        Source: CRI ImageService.PullImage.
        """

    @abstractmethod
    async def remove_image(self, image: cri.ImageSpec) -> None:
        """Remove an image; an absent one is success.

        Raises:
            ConflictError: A container still uses it.
            TransientError: The runtime did not answer.

        Source: CRI ImageService.RemoveImage.
        """

    @abstractmethod
    async def image_fs_info(self) -> Sequence[cri.FilesystemUsage]:
        """Usage of the filesystems that hold images; empty if unknown.

        Source: CRI ImageService.ImageFsInfo.
        """


class ContainerRuntime(ABC):
    """Sandboxes and containers of a runtime, and its image service."""

    name: str = "runtime"
    """Scheme of container ids in statuses, e.g. ``docker`` in ``docker://<id>``."""

    shares_filesystem: bool = False
    """Whether host paths of mounts are paths of this process too, so that files made here can be mounted there. Without it
    pods get no managed ``/etc/hosts``, no termination message file and no volumes."""

    shares_mounts: bool = False
    """Whether any host path of a mount is the same path here, and mounts made here are seen there: both live in one mount
    namespace. Without it nothing is mounted, and paths of the host are not looked at."""

    simulated: bool = False
    """Whether containers are only pretended. Contents of volumes are looked up then, but not written."""

    @property
    @abstractmethod
    def images(self) -> ImageService:
        """The image service."""

    async def connect(self) -> None:
        """Reach the runtime and learn what it can do; called once before anything else.

        Raises:
            ConfigurationError: It can never work as configured (no socket, API too old); says what to do.
            TransientError: It does not answer now.
        """

    async def aclose(self) -> None:
        """Give up connections and tasks; containers keep running. Safe to repeat."""

    @abstractmethod
    async def version(self) -> cri.RuntimeVersion:
        """Name and version.

        Raises:
            TransientError: The runtime did not answer.
        """

    @abstractmethod
    async def status(self) -> cri.RuntimeStatus:
        """Health (conditions ``RuntimeReady`` and ``NetworkReady``) and abilities.

        Raises:
            TransientError: The runtime did not answer.
        """

    @abstractmethod
    async def run_pod_sandbox(self, config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> cri.SandboxID:
        """Make and start a sandbox; it is ready when this returns.

        Idempotent by metadata: a sandbox of the same pod UID and attempt that exists already (a retry after a crash) is
        started if need be and its id returned.

        Raises:
            PodSyncError: Refused; what was made is removed, or found and reused by the next call.
            TransientError: The runtime did not answer.

        Source: CRI RuntimeService.RunPodSandbox.
        """

    @abstractmethod
    async def stop_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """Kill whatever still runs in a sandbox, then the sandbox; it keeps its records. Unknown is success.

        Source: CRI RuntimeService.StopPodSandbox.
        """

    @abstractmethod
    async def remove_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """Remove a sandbox with all its containers, killing what runs. Unknown is success.

        Source: CRI RuntimeService.RemovePodSandbox.
        """

    @abstractmethod
    async def pod_sandbox_status(self, sandbox_id: cri.SandboxID) -> cri.PodSandboxStatus:
        """All about a sandbox.

        Raises:
            NotFoundError: No such sandbox.
            TransientError: The runtime did not answer.
        """

    @abstractmethod
    async def list_pod_sandboxes(self, filter: cri.PodSandboxFilter | None = None) -> Sequence[cri.PodSandbox]:
        """Sandboxes that match, ready or not.

        Raises:
            TransientError: The runtime did not answer; never answers a partial list instead.
        """

    @abstractmethod
    async def create_container(
        self, sandbox_id: cri.SandboxID, config: cri.ContainerConfig, sandbox_config: cri.PodSandboxConfig
    ) -> cri.ContainerID:
        """Make a container in a sandbox without starting it.

        Idempotent by metadata: a container of the same sandbox, name and attempt that exists already is returned.

        Raises:
            PodSyncError: Refused; nothing is left behind.
            NotFoundError: No such sandbox, or the image is not present.
            TransientError: The runtime did not answer.

        Source: CRI RuntimeService.CreateContainer.
        """

    @abstractmethod
    async def start_container(self, container_id: cri.ContainerID) -> None:
        """Start a created container; one that runs already is success.

        Raises:
            PodSyncError: The process could not be started; the container stays, exited, with its reason.
            NotFoundError: No such container.
            TransientError: The runtime did not answer.

        Source: CRI RuntimeService.StartContainer.
        """

    @abstractmethod
    async def stop_container(self, container_id: cri.ContainerID, *, grace_period_s: float) -> None:
        """Stop a container, killing it when the grace period has run out; returns once it has stopped.

        An exited or unknown container is success. If cancelled, the stop signal has been sent and stays sent; a call
        with less grace then kills sooner.

        Args:
            container_id: Runtime id.
            grace_period_s: Seconds between the stop signal and SIGKILL; 0 kills at once.

        Raises:
            TransientError: The runtime did not answer; the container may still run.

        Source: CRI RuntimeService.StopContainer.
        """

    @abstractmethod
    async def remove_container(self, container_id: cri.ContainerID) -> None:
        """Remove a container with its log, killing it if it runs. Unknown is success.

        Source: CRI RuntimeService.RemoveContainer.
        """

    @abstractmethod
    async def list_containers(self, filter: cri.ContainerFilter | None = None) -> Sequence[cri.Container]:
        """Containers that match, in any state; sandboxes are not containers.

        Raises:
            TransientError: The runtime did not answer; never answers a partial list instead.
        """

    @abstractmethod
    async def container_status(self, container_id: cri.ContainerID) -> cri.ContainerStatus:
        """All about a container.

        Raises:
            NotFoundError: No such container.
            TransientError: The runtime did not answer.
        """

    @abstractmethod
    async def update_container_resources(
        self, container_id: cri.ContainerID, resources: cri.LinuxContainerResources
    ) -> None:
        """Change the cgroup settings of a container in place; None values stay as they are.

        Raises:
            UnsupportedError: This runtime cannot.
            PodSyncError: Refused.
            NotFoundError: No such container.
        """

    @abstractmethod
    async def exec_sync(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None = None
    ) -> cri.ExecResult:
        """Run a command in a running container and wait for its end.

        Args:
            container_id: Runtime id.
            command: Program and arguments.
            timeout_s: Seconds after which the command is killed; None waits for ever.

        Raises:
            TimeoutError: Time ran out; the process has been killed.
            NotFoundError: No such container, or it does not run.
            PodSyncError: The command could not be started; the message is the runtime's.
            UnsupportedError: This runtime cannot.
        """

    @abstractmethod
    def container_logs(self, container_id: cri.ContainerID, options: LogOptions) -> AsyncIterator[bytes]:
        """The log of a container as the kubelet API gives it: chunks of bytes, formatted by the options.

        Following ends when the container has stopped and its output has been read.

        Raises:
            NotFoundError: No such container, raised at the first step.
            TransientError: The runtime did not answer.

        Source: kubelet pkg/kubelet/kuberuntime/logs; here through the runtime, since Docker owns its logs.
        """


class RuntimeEvents(ABC):
    """A runtime that can tell of changes as they happen. Events may be lost; relisting makes up for it."""

    @abstractmethod
    def container_events(self, label_selector: Mapping[str, str]) -> AsyncIterator[cri.ContainerEvent]:
        """Changes of containers and sandboxes with these labels, from now on.

        Ends or raises ``TransientError`` when the runtime is lost; the caller subscribes again and relists.

        Source: CRI RuntimeService.GetContainerEvents.
        """


class StreamingRuntime(ABC):
    """A runtime that can connect streams to its containers.

    Source: CRI RuntimeService.Exec, Attach, PortForward.
    """

    @abstractmethod
    async def exec(self, container_id: cri.ContainerID, command: Sequence[str], streams: ProcessStreams) -> int:
        """Run a command with these streams and return its exit code; cancelling kills the command.

        Raises:
            NotFoundError: No such container, or it does not run.
            PodSyncError: The command could not be started.
        """

    @abstractmethod
    async def attach(self, container_id: cri.ContainerID, streams: ProcessStreams) -> None:
        """Connect these streams to the container's first process until it or the client ends.

        Raises:
            NotFoundError: No such container, or it does not run.
        """

    @abstractmethod
    async def port_forward(self, sandbox_id: cri.SandboxID, port: int) -> DuplexStream:
        """Connect to a TCP port on ``localhost`` inside the sandbox's network namespace.

        Raises:
            NotFoundError: No such sandbox, or it is not ready.
            ConnectionError: Nothing listens there.
        """


class RuntimeStats(ABC):
    """A runtime that knows what its containers use.

    Source: CRI RuntimeService.ListPodSandboxStats.
    """

    @abstractmethod
    async def list_pod_sandbox_stats(self, label_selector: Mapping[str, str]) -> Sequence[cri.PodSandboxStats]:
        """Figures of all sandboxes with these labels, with their containers."""


@dataclass(frozen=True, slots=True)
class HostResources:
    """What the host of a runtime has: the base of the node's capacity. None where the runtime does not know."""

    cpu_cores: int
    memory_bytes: int
    operating_system: str = "linux"
    architecture: str = "amd64"
    kernel_version: str = ""
    os_image: str = ""
    hostname: str = ""
    storage_bytes: int | None = None
    cgroup_version: int | None = None


class HostInfo(ABC):
    """A runtime that knows the host it runs containers on, which may be another one than ours."""

    @abstractmethod
    async def host_resources(self) -> HostResources:
        """Cores, memory and system of the runtime's host.

        Raises:
            TransientError: The runtime did not answer.
        """
