"""Sandboxes: one container per pod that holds the pod's network and IPC namespaces.

Source: cri-dockerd core/sandbox_run.go, sandbox_stop.go, sandbox_remove.go, sandbox_status.go, sandbox_list.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vkprovider.backends.docker import convert, naming
from vkprovider.backends.docker.engine import PRIORITY_SANDBOX, Engine
from vkprovider.backends.docker.errors import CREATE_SANDBOX_ERROR
from vkprovider.backends.docker.infra_image import SandboxImage
from vkprovider.backends.docker.security import read_seccomp_profile
from vkprovider.backends.docker.spec import make_sandbox_spec
from vkprovider.errors import NotFoundError, PodSyncError, TransientError, VkproviderError
from vkprovider.provider import cri

logger = logging.getLogger(__name__)

_KILL_WAIT_S = 30.0
_ADOPTABLE = frozenset({"created", "running", "exited"})


class Sandboxes:
    """The CRI's verbs on sandboxes.

    Args:
        engine: The engine.
        image: Image of sandbox containers.
    """

    def __init__(self, engine: Engine, image: SandboxImage) -> None:
        self._engine = engine
        self._image = image
        # Runtime handler by sandbox id, so that creating a container costs no look at its sandbox.
        self._handlers: dict[str, str] = {}

    async def ensure_image(self) -> str:
        """Name of the sandbox image, which is present on the engine then."""
        return await self._image.ensure()

    async def run(self, config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> cri.SandboxID:
        """Make and start a sandbox, or start the one that was made already."""
        try:
            return await self._run(config, runtime_handler)
        except NotFoundError as error:
            # The image that was there has been removed since, or the network is missing.
            self._image.forget()
            try:
                return await self._run(config, runtime_handler)
            except NotFoundError:
                raise PodSyncError(error.message, reason=CREATE_SANDBOX_ERROR) from error

    async def _run(self, config: cri.PodSandboxConfig, runtime_handler: str) -> cri.SandboxID:
        pod = config.metadata.name
        image = await self._image.ensure()
        await self._engine.learn_oom_score(image)
        body = make_sandbox_spec(
            config,
            image=image,
            docker_config=self._engine.config,
            features=self._engine.features,
            runtime_handler=runtime_handler,
            seccomp_profile=await load_seccomp(config.linux.security_context.seccomp, reason=CREATE_SANDBOX_ERROR),
        )
        sandbox_id, existed = await self._engine.create(
            naming.make_sandbox_name(config.metadata),
            body,
            doing=f'create a sandbox for pod "{pod}"',
            reason=CREATE_SANDBOX_ERROR,
            priority=PRIORITY_SANDBOX,
            is_ours=lambda existing: existing["State"].get("Status") in _ADOPTABLE,
        )
        try:
            await self._engine.start(
                sandbox_id,
                doing=f'start sandbox container for pod "{pod}"',
                reason=CREATE_SANDBOX_ERROR,
                priority=PRIORITY_SANDBOX,
            )
        except (PodSyncError, NotFoundError):
            if not existed:
                with contextlib.suppress(VkproviderError):
                    await self._engine.remove(sandbox_id)
            raise
        self._handlers[sandbox_id] = runtime_handler
        return cri.SandboxID(sandbox_id)

    async def get_runtime_handler(self, sandbox_id: cri.SandboxID) -> str:
        """Runtime handler of a sandbox.

        Raises:
            NotFoundError: No such sandbox.
        """
        handler = self._handlers.get(sandbox_id)
        if handler is None:
            handler = (await self.status(sandbox_id)).runtime_handler
        return handler

    async def stop(self, sandbox_id: cri.SandboxID) -> None:
        """Kill what still runs in a sandbox, then the sandbox."""
        await self._engine.settle(sandbox_id)
        joined = await self._engine.list(
            naming.make_label_filter(naming.KIND_CONTAINER, {}, sandbox_id=sandbox_id), running=True
        )
        await asyncio.gather(*(self._kill(entry["Id"]) for entry in joined))
        await self._kill(sandbox_id)

    async def _kill(self, container_id: str) -> None:
        # The sandbox's program holds nothing worth a graceful end.
        if await self._engine.kill(container_id, "SIGKILL"):
            try:
                async with asyncio.timeout(_KILL_WAIT_S):
                    await self._engine.wait_stopped(container_id)
            except TimeoutError as error:
                raise TransientError(
                    f"container {container_id!r} still runs {_KILL_WAIT_S:g} s after SIGKILL"
                ) from error

    async def remove(self, sandbox_id: cri.SandboxID) -> None:
        """Remove a sandbox with all its containers."""
        await self._engine.settle(sandbox_id)
        joined = await self._engine.list(naming.make_label_filter(naming.KIND_CONTAINER, {}, sandbox_id=sandbox_id))
        await asyncio.gather(*(self._engine.remove(entry["Id"]) for entry in joined))
        await self._engine.remove(sandbox_id)
        self._handlers.pop(sandbox_id, None)

    async def status(self, sandbox_id: cri.SandboxID) -> cri.PodSandboxStatus:
        """All about a sandbox."""
        status = convert.to_sandbox_status(await self.inspect(sandbox_id))
        if status is None:
            raise NotFoundError(f"container {sandbox_id!r} is not a sandbox of a pod")
        self._handlers[sandbox_id] = status.runtime_handler
        return status

    async def inspect(self, sandbox_id: cri.SandboxID) -> dict[str, Any]:
        """The engine's inspection of a sandbox.

        Raises:
            NotFoundError: No such sandbox.
        """
        document = await self._engine.inspect(sandbox_id)
        labels: Mapping[str, str] = document["Config"].get("Labels") or {}
        if labels.get(naming.KIND) != naming.KIND_SANDBOX:
            raise NotFoundError(f"container {sandbox_id!r} is not a sandbox of a pod")
        return document

    async def list(self, filter: cri.PodSandboxFilter) -> Sequence[cri.PodSandbox]:
        """Sandboxes that match."""
        entries = await self._engine.list(naming.make_label_filter(naming.KIND_SANDBOX, filter.label_selector))
        sandboxes = [sandbox for entry in entries if (sandbox := convert.to_sandbox(entry)) is not None]
        return [
            sandbox
            for sandbox in sandboxes
            if (filter.id is None or sandbox.id == filter.id)
            and (filter.state is None or sandbox.state is filter.state)
        ]


async def load_seccomp(profile: cri.SecurityProfile, *, reason: str) -> str | None:
    """Contents of a localhost seccomp profile; None for another kind of profile."""
    if profile.profile_type is not cri.ProfileType.LOCALHOST:
        return None
    return await asyncio.to_thread(read_seccomp_profile, profile.localhost_ref, reason=reason)
