"""A node on the Docker Engine whose pods mount real volumes; its objects are the test's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from support.images import load_test_images
from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.backends.docker.runtime import DockerRuntime
from vkprovider.errors import TransientError
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.kubelet.volumes.mounts import list_mounts
from vkprovider.kubelet.volumes.storage import find_memory_dir
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import NodeContext
from vkprovider.settings import PodSettings
from vkprovider.testing import FakeObjectStore, Recording, make_node_context, make_pod_context


@dataclass
class DockerNode:
    """A provider on the engine, and the pods it was given."""

    root_dir: Path
    objects: FakeObjectStore
    node: NodeContext
    provider: RuntimePodProvider
    recording: Recording = field(default_factory=Recording)
    pods: dict[v1.PodUID, v1.Pod] = field(default_factory=dict)
    statuses: dict[v1.PodUID, v1.PodStatus] = field(default_factory=dict)

    async def sync(self, pod: v1.Pod) -> v1.PodStatus:
        uid = get_uid(pod)
        self.pods[uid] = pod
        context, _ = make_pod_context(
            self.node, recording=self.recording, previous_status=self.statuses.get(uid, pod["status"])
        )
        with contextlib.suppress(TransientError):
            result = await self.provider.sync_pod(pod, context)
            if result.status is not None:
                self.statuses[uid] = result.status
        return self.statuses.get(uid, pod["status"])

    async def run(self, pod: v1.Pod) -> None:
        """Sync a pod until all of its containers run."""
        async with asyncio.timeout(60):
            while not all(
                "running" in c.get("state", {})
                for c in (await self.sync(pod)).get("containerStatuses") or [{"state": {}}]
            ):
                await asyncio.sleep(0.05)

    async def execute(self, pod: v1.Pod, command: str, *, container: str = "main") -> str:
        """Output of a shell command in a container, errors included."""
        status = next(c for c in self.statuses[get_uid(pod)]["containerStatuses"] if c["name"] == container)
        container_id = cri.ContainerID(status["containerID"].partition("://")[2])
        result = await self.provider.runtime.exec_sync(container_id, ["sh", "-c", f"{command} 2>&1"], timeout_s=20)
        return result.stdout.decode()

    async def restart(self) -> None:
        """A new provider on the same files, as after ``kill -9``; the old one's connection is closed."""
        await self.provider.stop_parts()
        await self.provider.runtime.aclose()
        self.provider = await self._start()

    async def _start(self) -> RuntimePodProvider:
        provider = RuntimePodProvider(DockerRuntime(), PodSettings(sync_period_s=0), root_dir=self.root_dir)
        await provider.start(self.node)
        return provider

    async def remove(self, pod: v1.Pod) -> None:
        """End a pod and take away all of it."""
        context, _ = make_pod_context(self.node, recording=self.recording)
        await self.provider.terminate_pod(pod, context, grace_period_s=1)
        await self.provider.cleanup_pod(get_uid(pod))
        self.pods.pop(get_uid(pod), None)


@pytest.fixture(scope="session")
def test_images() -> None:
    with contextlib.closing(docker.from_env(version="auto").api) as client:
        load_test_images(client)


@pytest.fixture
async def docker_node(test_images: None, node_name: str, tmp_path: Path) -> AsyncIterator[DockerNode]:
    """A node; at the end its pods are removed, and no mount and no file of them may be left."""
    objects = FakeObjectStore()
    node = make_node_context(node_name=node_name, cluster_uid="volumes", objects=objects)
    found = DockerNode(tmp_path / "root", objects, node, None)  # type: ignore[arg-type]
    found.provider = await found._start()
    try:
        yield found
    finally:
        for pod in list(found.pods.values()):
            await found.remove(pod)
        await found.provider.stop()
    assert list_mounts(tmp_path) == []
    assert list((tmp_path / "root").glob("pods/*")) == []
    memory_dir, _ = find_memory_dir(node_name, tmp_path / "root", sees_host=True)
    assert memory_dir is not None
    assert list(memory_dir.iterdir()) == []
    memory_dir.rmdir()
