"""A node in miniature: drives pods through the provider as pod workers do, on the memory runtime and the loop's own time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vkprovider.aio.broadcast import Subscription
from vkprovider.aio.clock import LoopClock
from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.backends.memory import MemoryConfig, MemoryRuntime
from vkprovider.errors import TransientError
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.provider.pod_provider import NodeContext, PodContext, SyncResult
from vkprovider.settings import PodSettings
from vkprovider.testing import FakeObjectStore, RecordedEvent, Recording, make_node_context

IMAGE = "busybox:1.36"


@dataclass
class Driven:
    """One pod and what was reported of it."""

    bench: Bench
    pod: v1.Pod
    recording: Recording = field(default_factory=Recording)
    status: v1.PodStatus = field(default_factory=dict)  # type: ignore[assignment]
    terminal: bool = False
    event_times: list[tuple[float, RecordedEvent]] = field(default_factory=list)

    @property
    def uid(self) -> v1.PodUID:
        return get_uid(self.pod)

    def context(self) -> PodContext:
        def record(kind: str, reason: str, message: str, *, container: str | None = None) -> None:
            self.recording.record_event(kind, reason, message, container=container)
            self.event_times.append((asyncio.get_running_loop().time(), self.recording.events[-1]))

        def publish(status: v1.PodStatus) -> None:
            self.recording.publish_status(status)
            self.status = status

        return PodContext(self.bench.node, record, publish, self.status)

    async def sync(self) -> SyncResult:
        try:
            result = await self.bench.provider.sync_pod(self.pod, self.context())
        except TransientError as error:
            return SyncResult(requeue_after_s=error.retry_after_s or 10.0)
        if result.status is not None:
            self.status = result.status
        self.terminal = self.terminal or result.terminal
        return result

    async def run_for(self, seconds: float) -> v1.PodStatus:
        """Sync whenever something changed or is due, until so much time has passed or the pod has ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        changes = self.bench.provider.changes.subscribe()
        try:
            while not self.terminal:
                result = await self.sync()
                if self.terminal:
                    break
                due = min(end, loop.time() + (60.0 if result.requeue_after_s is None else result.requeue_after_s))
                if not await self._changed_before(changes, due) and due >= end:
                    break
            return self.status
        finally:
            changes.close()

    async def _changed_before(self, changes: Subscription[v1.PodUID], due: float) -> bool:
        try:
            async with asyncio.timeout_at(due):
                while await anext(aiter(changes)) != self.uid:
                    pass
        except TimeoutError:
            return False
        return True

    async def terminate(self, grace_period_s: int = 30) -> v1.PodStatus:
        result = await self.bench.provider.terminate_pod(self.pod, self.context(), grace_period_s=grace_period_s)
        assert result.status is not None
        self.status = result.status
        return self.status

    async def cleanup(self) -> None:
        await self.bench.provider.cleanup_pod(self.uid)

    def container(self, name: str = "main") -> v1.ContainerStatus:
        for group in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
            for entry in self.status.get(group) or ():
                if entry["name"] == name:
                    return entry
        raise AssertionError(f"no status of {name}: {self.status}")

    def container_id(self, name: str = "main") -> str:
        return self.container(name)["containerID"].partition("://")[2]

    def condition(self, kind: str) -> v1.PodCondition:
        return next(c for c in self.status["conditions"] if c["type"] == kind)

    def messages(self, reason: str) -> list[str]:
        return [event.message for event in self.recording.events if event.reason == reason]

    def times(self, reason: str, container: str | None = None) -> list[float]:
        return [
            round(at, 3)
            for at, event in self.event_times
            if event.reason == reason and (container is None or event.container == container)
        ]


@dataclass
class Bench:
    """A provider on a runtime, and the node it serves."""

    runtime: MemoryRuntime
    provider: RuntimePodProvider
    node: NodeContext
    objects: FakeObjectStore
    stack: AsyncExitStack

    def drive(self, pod: v1.Pod) -> Driven:
        return Driven(self, pod, status=pod.get("status", {}))

    async def restart(self, driven: Driven | None = None, **settings: object) -> Bench:
        """The same runtime under a new provider, as after ``kill -9`` and a new start."""
        await self.provider.stop_parts()
        other = await start_bench(self.stack, runtime=self.runtime, objects=self.objects, **settings)
        if driven is not None:
            driven.bench = other
        return other

    async def until(self, check: Callable[[], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not check():
                await asyncio.sleep(0.01)


async def start_bench(
    stack: AsyncExitStack,
    *,
    runtime: MemoryRuntime | None = None,
    wrapped: ContainerRuntime | None = None,
    config: MemoryConfig | None = None,
    objects: FakeObjectStore | None = None,
    root_dir: Path | None = None,
    **settings: object,
) -> Bench:
    clock = LoopClock()
    if runtime is None:
        runtime = MemoryRuntime(config or MemoryConfig(images=(IMAGE,)), clock=clock, files_root=root_dir)
    objects = objects or FakeObjectStore(clock=clock)
    node = make_node_context(objects=objects, clock=clock)
    values = {"cluster_dns": ("10.96.0.10",), "cluster_domain": "cluster.local", **settings}
    provider = RuntimePodProvider(
        wrapped or runtime, PodSettings(**values), root_dir=root_dir or Path("/nonexistent/vkprovider")
    )
    await provider.start(node)
    stack.push_async_callback(provider.stop)
    return Bench(runtime, provider, node, objects, stack)


@asynccontextmanager
async def _open_bench(**options: Any) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield await start_bench(stack, **options)


@pytest.fixture
def open_bench() -> Callable[..., AbstractAsyncContextManager[Bench]]:
    """Makes a bench inside the test, so that it lives in the test's own time."""
    return _open_bench
