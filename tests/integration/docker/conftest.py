"""A runtime on the real engine, and pods made through it that are all gone after each test."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import docker
import docker.errors
import pytest

from support.images import BUSYBOX_IMAGE, load_test_images
from support.registry import Registry
from support.waiting import async_wait_for
from vkprovider.api import labels
from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.runtime import DockerRuntime
from vkprovider.provider import LogOptions, cri


@pytest.fixture(scope="session")
def engine_api(request: pytest.FixtureRequest) -> Iterator[docker.APIClient]:
    """The engine itself, for a look behind the runtime's back; it has the test images."""
    with contextlib.closing(docker.from_env(version="auto", timeout=60).api) as client:
        load_test_images(client)
        yield client


class Pods:
    """Makes sandboxes and containers of one node."""

    def __init__(self, runtime: DockerRuntime, node: str) -> None:
        self.runtime = runtime
        self.labels = {labels.OWNER_NODE: node, labels.OWNER_CLUSTER: "test-cluster"}

    def sandbox_config(
        self, name: str = "pod", *, attempt: int = 0, uid: str | None = None, **fields: Any
    ) -> cri.PodSandboxConfig:
        uid = uid or str(uuid.uuid4())
        return cri.PodSandboxConfig(
            cri.PodSandboxMetadata(name, uid, "default", attempt),
            hostname=fields.pop("hostname", name),
            labels={**self.labels, labels.POD_UID: uid, **fields.pop("labels", {})},
            **fields,
        )

    def container_config(
        self, sandbox: cri.PodSandboxConfig, *command: str, name: str = "c", **fields: Any
    ) -> cri.ContainerConfig:
        return cri.ContainerConfig(
            cri.ContainerMetadata(name, fields.pop("attempt", 0)),
            cri.ImageSpec(fields.pop("image", BUSYBOX_IMAGE)),
            command=command,
            labels=dict(sandbox.labels),
            **fields,
        )

    async def sandbox(self, **fields: Any) -> tuple[cri.SandboxID, cri.PodSandboxConfig]:
        config = self.sandbox_config(**fields)
        return await self.runtime.run_pod_sandbox(config), config

    async def start(
        self, *command: str, sandbox: tuple[cri.SandboxID, cri.PodSandboxConfig] | None = None, **fields: Any
    ) -> cri.ContainerID:
        sandbox_id, config = sandbox or await self.sandbox()
        container_id = await self.runtime.create_container(
            sandbox_id, self.container_config(config, *command, **fields), config
        )
        await self.runtime.start_container(container_id)
        return container_id

    async def shell(self, script: str, **fields: Any) -> cri.ContainerID:
        return await self.start("sh", "-c", script, **fields)

    async def ended(self, container_id: cri.ContainerID, *, timeout_s: float = 20.0) -> cri.ContainerStatus:
        async def look() -> cri.ContainerStatus | None:
            status = await self.runtime.container_status(container_id)
            return status if status.state is cri.ContainerState.EXITED else None

        found = await async_wait_for(look, "the container to end", timeout_s=timeout_s)
        assert found is not None
        return found

    async def log(self, container_id: cri.ContainerID, **options: Any) -> bytes:
        chunks = self.runtime.container_logs(container_id, LogOptions(**options))
        return b"".join([chunk async for chunk in chunks])

    async def log_shows(self, container_id: cri.ContainerID, text: bytes) -> None:
        async def look() -> bool:
            return text in await self.log(container_id)

        await async_wait_for(look, f"{text!r} in the log", timeout_s=20.0, interval_s=0.02)


@pytest.fixture
async def runtime(engine_api: docker.APIClient) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime(replace(DockerConfig(), log_max_bytes=100 * 1024 * 1024))
    await runtime.connect()
    yield runtime
    await runtime.aclose()


@pytest.fixture
async def pods(runtime: DockerRuntime, node_name: str) -> AsyncIterator[Pods]:
    pods = Pods(runtime, node_name)
    yield pods
    for sandbox in await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=pods.labels)):
        await runtime.remove_pod_sandbox(sandbox.id)
    for container in await runtime.list_containers(cri.ContainerFilter(label_selector=pods.labels)):
        await runtime.remove_container(container.id)


@pytest.fixture
async def make_registry(engine_api: docker.APIClient) -> AsyncIterator[Callable[..., Any]]:
    """Function that starts a registry with an image of the engine's architecture; pulled images are removed."""
    architecture = engine_api.version()["Arch"]
    addresses: list[str] = []
    async with contextlib.AsyncExitStack() as stack:

        async def make(credentials: tuple[str, str] | None = None) -> Registry:
            registry = await stack.enter_async_context(Registry(architecture, credentials))
            addresses.append(registry.address)
            return registry

        yield make
    for image in engine_api.images():
        names = [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]
        for name in names:
            if name.startswith(tuple(f"{address}/" for address in addresses)):
                with contextlib.suppress(docker.errors.NotFound):
                    engine_api.remove_image(name, force=True)
