"""Containers of pods.

Source: cri-dockerd core/container_create.go, container_start.go, container_stop.go, container_status.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import quote

from vkprovider.api.reasons import CREATE_CONTAINER_ERROR, RUN_CONTAINER_ERROR
from vkprovider.backends.docker import convert, naming
from vkprovider.backends.docker.engine import PRIORITY_CONTAINER, Engine
from vkprovider.backends.docker.errors import engine_errors
from vkprovider.backends.docker.images import DockerImages
from vkprovider.backends.docker.sandboxes import Sandboxes, load_seccomp
from vkprovider.backends.docker.spec import make_container_spec, make_update
from vkprovider.errors import NotFoundError, TransientError
from vkprovider.provider import cri

logger = logging.getLogger(__name__)

DEFAULT_STOP_SIGNAL = "SIGTERM"
_KILL_WAIT_S = 120.0


class Containers:
    """The CRI's verbs on containers.

    Args:
        engine: The engine.
        images: Its images.
        sandboxes: Its sandboxes.
    """

    def __init__(self, engine: Engine, images: DockerImages, sandboxes: Sandboxes) -> None:
        self._engine = engine
        self._images = images
        self._sandboxes = sandboxes
        # Containers that have got their stop signal: a second one means "at once" to many programs.
        self._signalled: set[str] = set()
        self._ignored: set[str] = set()

    async def create(
        self, sandbox_id: cri.SandboxID, config: cri.ContainerConfig, sandbox_config: cri.PodSandboxConfig
    ) -> cri.ContainerID:
        """Make a container in a sandbox, or find the one that was made already."""
        if (config.resources.oom_score_adj or 0) < 0:
            await self._engine.learn_oom_score(await self._sandboxes.ensure_image())
        self._report_ignored(config.resources)
        handler = await self._sandboxes.get_runtime_handler(sandbox_id)
        body = make_container_spec(
            config,
            sandbox_id=sandbox_id,
            sandbox_config=sandbox_config,
            docker_config=self._engine.config,
            features=self._engine.features,
            runtime_handler=handler,
            seccomp_profile=await load_seccomp(config.security_context.seccomp, reason=CREATE_CONTAINER_ERROR),
        )
        container_id, _ = await self._engine.create(
            naming.make_container_name(config.metadata, sandbox_config.metadata),
            body,
            doing=f'create container "{config.metadata.name}"',
            reason=CREATE_CONTAINER_ERROR,
            priority=PRIORITY_CONTAINER,
            is_ours=lambda existing: (existing["Config"].get("Labels") or {}).get(naming.SANDBOX_ID) == sandbox_id,
        )
        return cri.ContainerID(container_id)

    def _report_ignored(self, resources: cri.LinuxContainerResources) -> None:
        ignored = {
            "hugepage limits": any(limit > 0 for limit in resources.hugepage_limits_bytes.values()),
            "cgroup v2 parameters": bool(resources.unified),
        }
        for what, asked in ignored.items():
            if asked and what not in self._ignored:
                self._ignored.add(what)
                logger.warning("The Docker Engine cannot set %s; they are left out", what)  # said once

    async def start(self, container_id: cri.ContainerID) -> None:
        """Start a created container."""
        await self._engine.start(
            container_id,
            doing=f'start container "{container_id}"',
            reason=RUN_CONTAINER_ERROR,
            priority=PRIORITY_CONTAINER,
        )

    async def stop(self, container_id: cri.ContainerID, *, grace_period_s: float) -> None:
        """Stop a container, killing it when the grace period has run out."""
        deadline = asyncio.get_running_loop().time() + grace_period_s
        await self._engine.settle(container_id)
        document = await self._engine.find(container_id)
        if document is None or not document["State"].get("Running"):
            self._signalled.discard(container_id)
            return
        if grace_period_s > 0:
            if container_id not in self._signalled:
                signal = document["Config"].get("StopSignal") or DEFAULT_STOP_SIGNAL
                self._signalled.add(container_id)
                await self._engine.kill(container_id, signal)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._engine.wait_stopped(container_id)
                self._signalled.discard(container_id)
                return
            except TimeoutError:
                logger.debug("Grace period is over, killing", extra={"container": container_id})
        await self._engine.kill(container_id, "SIGKILL")
        try:
            async with asyncio.timeout(_KILL_WAIT_S):
                await self._engine.wait_stopped(container_id)
        except TimeoutError as error:
            raise TransientError(f"container {container_id!r} still runs {_KILL_WAIT_S:g} s after SIGKILL") from error
        self._signalled.discard(container_id)

    async def remove(self, container_id: cri.ContainerID) -> None:
        """Remove a container."""
        await self._engine.settle(container_id)
        await self._engine.remove(container_id)
        self._signalled.discard(container_id)

    async def list(self, filter: cri.ContainerFilter) -> Sequence[cri.Container]:
        """Containers that match."""
        entries = await self._engine.list(
            naming.make_label_filter(naming.KIND_CONTAINER, filter.label_selector, sandbox_id=filter.pod_sandbox_id)
        )
        containers = [container for entry in entries if (container := convert.to_container(entry)) is not None]
        return [
            container
            for container in containers
            if (filter.id is None or container.id == filter.id)
            and (filter.state is None or container.state is filter.state)
        ]

    async def status(self, container_id: cri.ContainerID) -> cri.ContainerStatus:
        """All about a container."""
        document = await self._engine.inspect(container_id)
        labels = document["Config"].get("Labels") or {}
        if labels.get(naming.KIND) != naming.KIND_CONTAINER:
            raise NotFoundError(f"container {container_id!r} is not a container of a pod")
        status = convert.to_container_status(document, await self._images.find_inspection(document["Image"]))
        if status is None:
            raise NotFoundError(f"container {container_id!r} is not a container of a pod")
        return status

    async def update_resources(self, container_id: cri.ContainerID, resources: cri.LinuxContainerResources) -> None:
        """Change the cgroup settings of a container in place."""
        body = make_update(resources)
        if not body:
            return
        with engine_errors(f"update container {container_id!r}", reason="UpdateContainerError"):
            await self._engine.client.request("POST", f"/containers/{quote(container_id)}/update", body=body)
