"""A volume manager on a directory of the test's own, for pods that are never run."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.kubelet.volume_gate import ContainerMounts, VolumesNotReadyError
from vkprovider.kubelet.volumes import PodVolumes, VolumeHost, load_plugins
from vkprovider.kubelet.volumes.mounts import list_mounts, unmount
from vkprovider.provider.pod_provider import NodeContext
from vkprovider.testing import (
    FakeClock,
    FakeObjectStore,
    Recording,
    make_container,
    make_node_context,
    make_pod,
    make_pod_context,
)


@dataclass
class Volumes:
    """The manager under test, its node, and what it reported."""

    host: VolumeHost
    objects: FakeObjectStore
    clock: FakeClock
    node: NodeContext
    manager: PodVolumes
    recording: Recording = field(default_factory=Recording)

    async def prepare(self, pod: v1.Pod) -> None:
        context, _ = make_pod_context(self.node, recording=self.recording)
        await self.manager.prepare_pod(pod, context)

    async def refresh(self, pod: v1.Pod) -> None:
        context, _ = make_pod_context(self.node, recording=self.recording)
        await self.manager.refresh_pod(pod, context)

    async def fail(self, pod: v1.Pod) -> str:
        """Prepare a pod whose volumes cannot be had; what the newest event says."""
        with pytest.raises(VolumesNotReadyError):
            await self.prepare(pod)
        kind, reason, message, _ = self.recording.events[-1]
        assert (kind, reason) == ("Warning", "FailedMount")
        return message

    async def mounts(self, pod: v1.Pod, environment: Mapping[str, str] | None = None) -> ContainerMounts:
        return await self.manager.make_mounts(pod, pod["spec"]["containers"][0], environment or {})

    async def path(self, pod: v1.Pod) -> Path:
        """Prepare a pod; where its first mount leads."""
        await self.prepare(pod)
        return Path((await self.mounts(pod)).mounts[0].host_path)

    async def restart(self) -> Volumes:
        """A new manager on the same files, as after ``kill -9``."""
        return await start_volumes(self.host, self.objects, self.clock)

    def pod_files(self, pod: v1.Pod) -> list[Path]:
        bases = [self.host.root_dir, *([self.host.memory_dir] if self.host.memory_dir else [])]
        return [path for base in bases for path in (base / "pods").glob(f"{get_uid(pod)}/*/*")]


async def start_volumes(
    host: VolumeHost, objects: FakeObjectStore | None = None, clock: FakeClock | None = None, **options: Any
) -> Volumes:
    clock = clock or FakeClock()
    objects = objects or FakeObjectStore(clock=clock)
    node = make_node_context(objects=objects, clock=clock)
    manager = PodVolumes(node, lambda: host, load_plugins(), **options)
    await manager.start()
    return Volumes(host, objects, clock, node, manager)


@pytest.fixture
def host(tmp_path: Path) -> VolumeHost:
    """A host without mounts, whose "tmpfs" is a directory of the test."""
    return VolumeHost(tmp_path / "root", tmp_path / "memory", sees_host=True)


@pytest.fixture
def mounting_host(host: VolumeHost, tmp_path: Path) -> Iterator[VolumeHost]:
    """A host on which mounts can be made; none is left behind."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    yield replace(host, can_mount=True)
    left = list_mounts(tmp_path)
    for mount in reversed(left):
        unmount(mount.path, detach=True)
    assert not left


@pytest.fixture
def make_volumes() -> Callable[..., Awaitable[Volumes]]:
    """Starts a manager on a host."""
    return start_volumes


@pytest.fixture
def pod_with() -> Callable[..., v1.Pod]:
    """Makes pods with volumes."""
    return _pod_with


def _pod_with(*volumes: Mapping[str, Any], mounts: list[dict[str, Any]] | None = None, **spec: Any) -> v1.Pod:
    """A pod whose container mounts each volume at ``/<name>``, or has the mounts given."""
    if mounts is None:
        mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    return make_pod(containers=[make_container(volumeMounts=mounts)], volumes=list(volumes), **spec)
