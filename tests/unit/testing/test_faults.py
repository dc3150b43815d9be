"""Faults on demand: each kind does what it says, where it says, as often as it says."""

import asyncio
from dataclasses import replace

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import MemoryRuntime
from vkprovider.errors import NotFoundError, PodSyncError, TransientError, UnsupportedError
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    ImageService,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)
from vkprovider.provider.streams import ProcessStreams
from vkprovider.testing import FaultPlan, FaultyRuntime
from vkprovider.testing.faults import VERBS

pytestmark = pytest.mark.looptime
CONFIG = cri.PodSandboxConfig(cri.PodSandboxMetadata("p", "u", "default"))


@pytest.fixture
def inner():
    return MemoryRuntime(clock=LoopClock())


@pytest.fixture
def runtime(inner):
    return FaultyRuntime(inner)


async def run(runtime):
    sandbox_id = await runtime.run_pod_sandbox(CONFIG)
    await runtime.images.pull_image(cri.ImageSpec("busybox"))
    config = cri.ContainerConfig(cri.ContainerMetadata("c"), cri.ImageSpec("busybox"))
    container_id = await runtime.create_container(sandbox_id, config, CONFIG)
    await runtime.start_container(container_id)
    return sandbox_id, container_id


def test_verbs_are_those_of_the_contracts():
    kinds = (ContainerRuntime, ImageService, RuntimeEvents, RuntimeStats, StreamingRuntime, HostInfo)
    declared = {
        name for kind in kinds for name, value in vars(kind).items() if callable(value) and not name.startswith("_")
    }
    assert declared == VERBS


async def test_failure_comes_before_the_work_and_so_many_times(runtime, inner):
    runtime.plan.fail("run_pod_sandbox", PodSyncError("no"), times=2)
    for _ in range(2):
        with pytest.raises(PodSyncError, match="no"):
            await runtime.run_pod_sandbox(CONFIG)
    assert await inner.list_pod_sandboxes() == []
    assert await runtime.run_pod_sandbox(CONFIG)


async def test_lost_answer_comes_after_the_work(runtime, inner):
    runtime.plan.lose_answer("run_pod_sandbox", times=1)
    with pytest.raises(TransientError, match="did not answer"):
        await runtime.run_pod_sandbox(CONFIG)
    (made,) = await inner.list_pod_sandboxes()
    assert await runtime.run_pod_sandbox(CONFIG) == made.id


async def test_delays_add_up(runtime):
    runtime.plan.delay("version", 2)
    runtime.plan.delay("*", 3)
    await runtime.version()
    assert asyncio.get_running_loop().time() == 5


async def test_hanging_call_goes_on_when_healed(runtime):
    runtime.plan.hang("version")
    work = asyncio.create_task(runtime.version())
    await asyncio.sleep(1000)
    assert not work.done()
    runtime.plan.heal()
    assert (await work).runtime_name == "memory"


async def test_hanging_call_can_be_cancelled(runtime):
    runtime.plan.hang("version")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.version(), 1)


async def test_lie_changes_the_answer(runtime):
    _, container_id = await run(runtime)
    runtime.plan.lie("container_status", lambda status: replace(status, state=cri.ContainerState.EXITED, exit_code=9))
    assert (await runtime.container_status(container_id)).exit_code == 9
    runtime.plan.lie("list_containers", lambda found: [])
    assert await runtime.list_containers() == []
    runtime.plan.heal()
    assert len(await runtime.list_containers()) == 1


async def test_fault_strikes_only_the_calls_meant(runtime):
    runtime.plan.fail("pull_image", PodSyncError("denied"), when=lambda image: image.image == "bad")
    await runtime.images.pull_image(cri.ImageSpec("good"))
    with pytest.raises(PodSyncError):
        await runtime.images.pull_image(cri.ImageSpec("bad"))


async def test_vanished_container_is_unknown_though_it_runs(runtime, inner):
    sandbox_id, container_id = await run(runtime)
    runtime.plan.vanish(container_id)
    assert await runtime.list_containers() == []
    for work in (runtime.container_status(container_id), runtime.exec_sync(container_id, ["true"])):
        with pytest.raises(NotFoundError, match="vanished"):
            await work
    await runtime.stop_container(container_id, grace_period_s=0)
    await runtime.remove_container(container_id)
    assert (await inner.container_status(container_id)).state is cri.ContainerState.RUNNING
    runtime.plan.vanish(sandbox_id)
    assert await runtime.list_pod_sandboxes() == []


async def test_containers_of_a_vanished_sandbox_are_not_listed(runtime):
    sandbox_id, _ = await run(runtime)
    runtime.plan.vanish(sandbox_id)
    assert await runtime.list_containers() == []


async def test_events_are_lost_or_end(runtime):
    events = runtime.container_events({})
    first = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    runtime.plan.fail("container_events", NotFoundError("lost"), times=2)
    await run(runtime)
    assert (await first).type is cri.ContainerEventType.STARTED  # of the container; two before it are lost
    runtime.plan.fail("container_events")
    await runtime.stop_pod_sandbox((await runtime.list_pod_sandboxes())[0].id)
    with pytest.raises(TransientError):
        await anext(events)


async def test_calls_are_remembered(runtime):
    await runtime.version()
    await runtime.list_containers(None)
    assert runtime.plan.calls == [("version", ()), ("list_containers", (None,))]
    assert runtime.plan.count("version") == 1


def test_unknown_verb_is_refused():
    with pytest.raises(ValueError, match="no verb 'start'"):
        FaultPlan().fail("start")


async def test_missing_abilities_are_unsupported(inner):
    class Plain(FaultyRuntime):
        pass

    class Bare(ContainerRuntime):
        name = "bare"
        images = None

    for name in ContainerRuntime.__abstractmethods__:
        setattr(Bare, name, getattr(FaultyRuntime, name))
    Bare.__abstractmethods__ = frozenset()
    Bare.images = inner.images
    runtime = Plain(Bare())
    for work in (
        runtime.host_resources(),
        runtime.exec("c", ["true"], ProcessStreams()),
        runtime.port_forward("s", 80),
        runtime.list_pod_sandbox_stats({}),
    ):
        with pytest.raises(UnsupportedError, match="Bare has no"):
            await work
