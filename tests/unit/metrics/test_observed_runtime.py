"""A runtime watched through its stand-in."""

from __future__ import annotations

import asyncio

import pytest

from support.exposition import parse_exposition
from vkprovider.backends.memory import MemoryConfig, MemoryRuntime
from vkprovider.errors import NotFoundError
from vkprovider.kubelet.observed_runtime import IMAGE_OPERATIONS, OPERATIONS, observe_runtime
from vkprovider.metrics import KubeletMetrics
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    ImageService,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)


@pytest.fixture
def metrics() -> KubeletMetrics:
    return KubeletMetrics()


@pytest.fixture
def runtime() -> MemoryRuntime:
    return MemoryRuntime(MemoryConfig())


async def test_calls_failures_and_time_are_counted_by_upstreams_names(runtime, metrics):
    observed = observe_runtime(runtime, metrics)
    await observed.connect()
    await observed.version()
    with pytest.raises(NotFoundError):
        await observed.container_status(cri.ContainerID("nothing"))
    await observed.images.list_images()
    await observed.aclose()
    exposition = parse_exposition(metrics.render())
    for operation, errors in (("version", 0), ("container_status", 1), ("list_images", 0)):
        assert exposition.value("kubelet_runtime_operations_total", operation_type=operation) == 1
        assert exposition.value("kubelet_runtime_operations_errors_total", operation_type=operation) == errors
        assert exposition.value("kubelet_runtime_operations_duration_seconds_count", operation_type=operation) == 1


async def test_a_call_that_is_cancelled_is_no_failure(runtime, metrics, monkeypatch):
    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(runtime, "version", hang)
    task = asyncio.create_task(observe_runtime(runtime, metrics).version())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    exposition = parse_exposition(metrics.render())
    assert exposition.value("kubelet_runtime_operations_total", operation_type="version") == 1
    assert exposition.value("kubelet_runtime_operations_errors_total", operation_type="version") == 0


def test_the_stand_in_has_the_abilities_of_the_runtime_and_no_others(runtime, metrics):
    observed = observe_runtime(runtime, metrics)
    for ability in (ContainerRuntime, RuntimeEvents, StreamingRuntime, RuntimeStats, HostInfo):
        assert isinstance(observed, ability) is isinstance(runtime, ability)
    assert isinstance(observed.images, ImageService)
    assert observed.name == runtime.name
    assert observed.shares_filesystem is runtime.shares_filesystem
    assert type(runtime).version is MemoryRuntime.version


def test_every_verb_that_is_counted_exists():
    for verb in OPERATIONS:
        assert any(hasattr(kind, verb) for kind in (ContainerRuntime, StreamingRuntime, RuntimeStats)), verb
    for verb in IMAGE_OPERATIONS:
        assert hasattr(ImageService, verb)
