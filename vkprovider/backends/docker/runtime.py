"""The Docker runtime: a ``ContainerRuntime`` with every ability the library knows.

Parts: ``sandboxes`` and ``containers`` hold the CRI's verbs, ``images`` the image service, ``logs`` and ``streams`` what
flows, ``stats`` the figures; ``engine`` and ``client`` talk to the engine for all of them. The runtime keeps no state of
its own that matters: everything is found again on the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from vkprovider.backends.docker import convert, naming
from vkprovider.backends.docker.cgroups import CgroupFiles
from vkprovider.backends.docker.client import EngineClient
from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.containers import Containers
from vkprovider.backends.docker.engine import Engine
from vkprovider.backends.docker.errors import engine_errors
from vkprovider.backends.docker.images import DockerImages
from vkprovider.backends.docker.infra_image import SandboxImage
from vkprovider.backends.docker.locality import find_locality
from vkprovider.backends.docker.logs import read_logs
from vkprovider.backends.docker.processes import ContainerProcesses
from vkprovider.backends.docker.sandboxes import Sandboxes
from vkprovider.backends.docker.spec import EngineFeatures
from vkprovider.backends.docker.stats import list_stats
from vkprovider.backends.docker.streams import Streams
from vkprovider.errors import NotFoundError, TransientError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    HostResources,
    ImageService,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)
from vkprovider.provider.streams import DuplexStream, ProcessStreams

logger = logging.getLogger(__name__)

DEFAULT_SANDBOX_IMAGE = "registry.k8s.io/pause:3.10.1"
_EVENTS_SILENCE_S = 60.0
_RECURSIVE_READ_ONLY_API = (1, 44)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i386": "386", "i686": "386"}


class DockerRuntime(ContainerRuntime, RuntimeEvents, StreamingRuntime, RuntimeStats, HostInfo):
    """Runs sandboxes and containers on one Docker Engine.

    Args:
        config: Settings of the backend.
        sandbox_image: Image of sandbox containers; made on the engine when it cannot be pulled.
    """

    name = "docker"

    def __init__(self, config: DockerConfig | None = None, *, sandbox_image: str = DEFAULT_SANDBOX_IMAGE) -> None:
        self._config = config or DockerConfig()
        self._client = EngineClient(self._config.host, max_parallel_calls=self._config.max_parallel_calls)
        self._engine = Engine(self._client, self._config)
        self._images = DockerImages(self._client)
        self._sandboxes = Sandboxes(self._engine, SandboxImage(self._images, sandbox_image))
        self._containers = Containers(self._engine, self._images, self._sandboxes)
        self._streams = Streams(self._engine, ContainerProcesses(self._client))
        self._cgroup_files: CgroupFiles | None = None

    @property
    def images(self) -> ImageService:
        """The image service."""
        return self._images

    @property
    def engine_images(self) -> DockerImages:
        """The image service with what only Docker has (import of archives), for the quickstart."""
        return self._images

    async def connect(self) -> None:
        """Reach the engine, agree on an API version and learn what it can do. Safe to repeat.

        Raises:
            ConfigurationError: There is no such engine, we may not use it, or it is too old; says what to do.
            TransientError: The engine does not answer now.
        """
        await self._client.connect()
        info = await self._info()
        locality = await asyncio.to_thread(find_locality, self._client.endpoint, str(info.get("KernelVersion") or ""))
        self.shares_filesystem, self.shares_mounts = locality.shares_filesystem, locality.shares_mounts
        self._engine.learn(
            EngineFeatures(
                api_version=self._client.api_version,
                negative_oom_score=True,
                apparmor=any(str(option).startswith("name=apparmor") for option in info.get("SecurityOptions") or ()),
                systemd_cgroups=info.get("CgroupDriver") == "systemd",
            ),
            cores=int(info.get("NCPU") or 1),
        )

    async def aclose(self) -> None:
        """Close the connections to the engine; containers keep running. Safe to repeat."""
        await self._engine.aclose()
        await self._client.aclose()

    async def version(self) -> cri.RuntimeVersion:
        """``docker`` and the engine's version.

        Raises:
            TransientError: The engine did not answer.
        """
        document = await self._client.call(lambda sdk: sdk.version(), doing="ask for the engine's version")
        major, minor = self._client.api_version
        return cri.RuntimeVersion(
            runtime_name=self.name,
            runtime_version=str(document.get("Version", "")).partition("+")[0],
            runtime_api_version=f"{major}.{minor}",
        )

    async def status(self) -> cri.RuntimeStatus:
        """Whether the engine answers and the pods' network exists.

        Raises:
            TransientError: The engine did not answer.
        """
        info, network = await asyncio.gather(self._info(), self._find_network_problem())
        recursive = self._client.api_version >= _RECURSIVE_READ_ONLY_API
        default = str(info.get("DefaultRuntime") or "")
        handlers = ["", *(str(name) for name in info.get("Runtimes") or {} if name != default), default]
        return cri.RuntimeStatus(
            conditions=(
                cri.RuntimeCondition("RuntimeReady", status=True),
                cri.RuntimeCondition(
                    "NetworkReady",
                    status=not network,
                    reason="NetworkNotFound" if network else "",
                    message=network,
                ),
            ),
            runtime_handlers=tuple(
                cri.RuntimeHandler(name=name, recursive_read_only_mounts=recursive) for name in dict.fromkeys(handlers)
            ),
            supplemental_groups_policy=False,
        )

    async def _find_network_problem(self) -> str:
        name = self._config.network
        try:
            await self._client.call(lambda sdk: sdk.inspect_network(name), doing=f"inspect network {name!r}")
        except NotFoundError:
            return f"the engine has no network {name!r}; make it with: docker network create {name}"
        return ""

    async def run_pod_sandbox(self, config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> cri.SandboxID:
        """Make and start a sandbox container; it is ready when this returns. Idempotent by metadata.

        Raises:
            PodSyncError: The engine refused; a sandbox that was made is reused or removed by the next call.
            TransientError: The engine did not answer.
        """
        return await self._sandboxes.run(config, runtime_handler=runtime_handler)

    async def stop_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """Kill whatever still runs in a sandbox, then the sandbox. Unknown is success."""
        await self._sandboxes.stop(sandbox_id)

    async def remove_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """Remove a sandbox with all its containers. Unknown is success."""
        await self._sandboxes.remove(sandbox_id)

    async def pod_sandbox_status(self, sandbox_id: cri.SandboxID) -> cri.PodSandboxStatus:
        """All about a sandbox.

        Raises:
            NotFoundError: No such sandbox.
            TransientError: The engine did not answer.
        """
        return await self._sandboxes.status(sandbox_id)

    async def list_pod_sandboxes(self, filter: cri.PodSandboxFilter | None = None) -> Sequence[cri.PodSandbox]:
        """Sandboxes that match.

        Raises:
            TransientError: The engine did not answer.
        """
        return await self._sandboxes.list(filter or cri.PodSandboxFilter())

    async def create_container(
        self, sandbox_id: cri.SandboxID, config: cri.ContainerConfig, sandbox_config: cri.PodSandboxConfig
    ) -> cri.ContainerID:
        """Make a container in a sandbox without starting it. Idempotent by metadata.

        Raises:
            PodSyncError: The engine refused; nothing is left behind.
            NotFoundError: The image is not present.
            UnsupportedError: The engine lacks something the container asks for.
            TransientError: The engine did not answer.
        """
        return await self._containers.create(sandbox_id, config, sandbox_config)

    async def start_container(self, container_id: cri.ContainerID) -> None:
        """Start a created container; one that runs already is success.

        Raises:
            PodSyncError: The process could not be started; the container stays, exited, with its reason.
            NotFoundError: No such container.
            TransientError: The engine did not answer.
        """
        await self._containers.start(container_id)

    async def stop_container(self, container_id: cri.ContainerID, *, grace_period_s: float) -> None:
        """Stop a container, killing it when the grace period has run out; returns once it has stopped.

        Holds no thread while it waits. An exited or unknown container is success. If cancelled, the stop signal stays
        sent and is not sent again; a call with less grace kills sooner.

        Raises:
            TransientError: The engine did not answer; the container may still run.
        """
        await self._containers.stop(container_id, grace_period_s=grace_period_s)

    async def remove_container(self, container_id: cri.ContainerID) -> None:
        """Remove a container with its log, killing it if it runs. Unknown is success."""
        await self._containers.remove(container_id)

    async def list_containers(self, filter: cri.ContainerFilter | None = None) -> Sequence[cri.Container]:
        """Containers that match.

        Raises:
            TransientError: The engine did not answer.
        """
        return await self._containers.list(filter or cri.ContainerFilter())

    async def container_status(self, container_id: cri.ContainerID) -> cri.ContainerStatus:
        """All about a container.

        Raises:
            NotFoundError: No such container.
            TransientError: The engine did not answer.
        """
        return await self._containers.status(container_id)

    async def update_container_resources(
        self, container_id: cri.ContainerID, resources: cri.LinuxContainerResources
    ) -> None:
        """Change the cgroup settings of a container in place; None values stay as they are.

        Raises:
            PodSyncError: The engine refused.
            NotFoundError: No such container.
            TransientError: The engine did not answer.
        """
        await self._containers.update_resources(container_id, resources)

    async def exec_sync(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None = None
    ) -> cri.ExecResult:
        """Run a command in a container and wait for its end; each output is kept up to 16 MiB.

        Raises:
            TimeoutError: Time ran out; the process has been killed.
            NotFoundError: No such container, or it does not run.
            PodSyncError: The command could not be started.
            TransientError: The engine did not answer.
        """
        return await self._streams.exec_sync(container_id, command, timeout_s=timeout_s)

    def container_logs(self, container_id: cri.ContainerID, options: LogOptions) -> AsyncIterator[bytes]:
        """The log of a container, formatted by the options; an empty first chunk says that it is open.

        Raises:
            NotFoundError: No such container.
            UnsupportedError: The container's log driver cannot be read.
            TransientError: The engine did not answer.
        """
        return read_logs(self._engine, container_id, options)

    def container_events(self, label_selector: Mapping[str, str]) -> AsyncIterator[cri.ContainerEvent]:
        """Changes of sandboxes and containers with these labels, from the time of this call on.

        Raises:
            TransientError: The engine was lost.
        """
        # A local engine shares our clock, so that nothing is missed between this call and the first step.
        since = time.time() if self._client.is_local else None
        return self._stream_events(label_selector, since)

    async def _stream_events(
        self, label_selector: Mapping[str, str], since: float | None
    ) -> AsyncIterator[cri.ContainerEvent]:
        filters = {
            "type": ["container"],
            "event": ["create", "start", "die", "destroy"],
            "label": naming.make_label_filter(None, label_selector),
        }
        params = {"filters": json.dumps(filters)}
        if since is not None:
            params["since"] = f"{since:.9f}"
        with engine_errors("follow the engine's events"):
            async with self._client.stream("GET", "/events", params=params) as response:
                async for line in response.content:
                    if line.strip() and (event := convert.to_event(json.loads(line))) is not None:
                        yield event
        raise TransientError("the engine closed its stream of events")

    async def exec(self, container_id: cri.ContainerID, command: Sequence[str], streams: ProcessStreams) -> int:
        """Run a command with these streams and return its exit code; cancelling kills the command.

        Raises:
            NotFoundError: No such container, or it does not run.
            PodSyncError: The command could not be started.
            TransientError: The engine did not answer.
            ConnectionError: The client's side of the streams went away; the command has been killed.
        """
        return await self._streams.exec(container_id, command, streams)

    async def attach(self, container_id: cri.ContainerID, streams: ProcessStreams) -> None:
        """Connect these streams to the container's first process until it or the client ends.

        Raises:
            NotFoundError: No such container, or it does not run.
            TransientError: The engine did not answer.
        """
        await self._streams.attach(container_id, streams)

    async def port_forward(self, sandbox_id: cri.SandboxID, port: int) -> DuplexStream:
        """Connect to a TCP port on ``localhost`` inside the sandbox's network namespace.

        An engine whose processes we cannot see is reached by the pod's address instead.

        Raises:
            NotFoundError: No such sandbox, or it is not ready.
            ConnectionError: Nothing listens there.
        """
        return await self._streams.port_forward(sandbox_id, port)

    async def list_pod_sandbox_stats(self, label_selector: Mapping[str, str]) -> Sequence[cri.PodSandboxStats]:
        """Figures of all sandboxes with these labels, with their running containers.

        Raises:
            TransientError: The engine did not answer.
        """
        if self._cgroup_files is None and self._client.is_local:
            self._cgroup_files = await asyncio.to_thread(CgroupFiles)
        return await list_stats(
            self._engine, self._sandboxes, self._containers, label_selector, files=self._cgroup_files
        )

    async def host_resources(self) -> HostResources:
        """Cores, memory and system of the engine's host.

        Raises:
            TransientError: The engine did not answer.
        """
        info = await self._info()
        architecture = str(info.get("Architecture") or "")
        return HostResources(
            cpu_cores=int(info.get("NCPU") or 0),
            memory_bytes=int(info.get("MemTotal") or 0),
            operating_system=str(info.get("OSType") or "linux"),
            architecture=_ARCHITECTURES.get(architecture, architecture),
            kernel_version=str(info.get("KernelVersion") or ""),
            os_image=str(info.get("OperatingSystem") or ""),
            hostname=str(info.get("Name") or ""),
        )

    async def _info(self) -> dict[str, Any]:
        return await self._client.call(lambda sdk: sdk.info(), doing="ask the engine about itself")
