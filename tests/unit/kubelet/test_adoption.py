"""What a new process makes of the containers of the one before, and how it follows a runtime that loses things."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.api import labels
from vkprovider.backends.memory import MemoryConfig, MemoryRuntime
from vkprovider.errors import TransientError
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import RuntimeEvents
from vkprovider.testing import FaultPlan, FaultyRuntime, make_container, make_pod

pytestmark = pytest.mark.looptime

IMAGE = "busybox:1.36"


def make_faulty() -> tuple[MemoryRuntime, FaultPlan, FaultyRuntime]:
    runtime = MemoryRuntime(MemoryConfig(images=(IMAGE,)), clock=LoopClock())
    plan = FaultPlan()
    return runtime, plan, FaultyRuntime(runtime, plan)


async def test_running_containers_are_adopted_as_they_are(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(containers=[make_container("a"), make_container("b")]))
        await pod.run_for(1)
        bench.runtime.exit_container(pod.container_id("b"), 1)
        await pod.run_for(1)
        before = pod.status
        other = await bench.restart(pod)
        events = len(pod.recording.events)
        await pod.run_for(30)
        assert pod.status == before
        assert len(pod.recording.events) == events
        assert [item.pod["metadata"]["uid"] for item in await other.provider.list_pods()] == [pod.uid]


async def test_exit_while_nobody_looked_is_found_and_counted(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        await bench.provider.stop_parts()
        bench.runtime.exit_container(pod.container_id(), 7)
        await bench.restart(pod)
        await pod.run_for(1)
        assert pod.container()["restartCount"] == 1
        assert pod.container()["lastState"]["terminated"]["exitCode"] == 7


async def test_containers_of_other_nodes_are_left_alone(open_bench: Any) -> None:
    async with open_bench() as bench:
        metadata = cri.PodSandboxMetadata("other", "uid-other", "default")
        for owner in ({labels.OWNER_NODE: "node2", labels.OWNER_CLUSTER: "cluster"}, {}):
            await bench.runtime.run_pod_sandbox(
                cri.PodSandboxConfig(
                    cri.PodSandboxMetadata("other", f"uid-{len(owner)}", "default"),
                    labels={labels.POD_UID: metadata.uid, **owner},
                )
            )
        assert await bench.provider.list_pods() == []


@pytest.mark.parametrize("verb", ["run_pod_sandbox", "create_container", "start_container"])
async def test_lost_answer_makes_nothing_twice(open_bench: Any, verb: str) -> None:
    runtime, plan, faulty = make_faulty()
    async with open_bench(runtime=runtime, wrapped=faulty) as bench:
        pod = bench.drive(make_pod())
        plan.lose_answer(verb, times=1)
        await pod.run_for(30)
        assert pod.status["phase"] == "Running"
        assert len(await runtime.list_pod_sandboxes()) == 1
        running = [c for c in await runtime.list_containers() if c.state is cri.ContainerState.RUNNING]
        assert len(running) == 1


async def test_engine_that_stops_for_a_minute_delays_and_loses_nothing(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        before = pod.container_id()
        bench.runtime.set_healthy(False)
        late = bench.drive(make_pod("late"))
        await late.run_for(60)
        assert late.status["phase"] == "Pending"
        bench.runtime.set_healthy(True)
        await late.run_for(15)
        await pod.run_for(1)
        assert late.status["phase"] == "Running"
        assert pod.container_id() == before


async def test_exit_is_seen_at_once_through_events(open_bench: Any) -> None:
    async with open_bench(relist_period_s=1000.0) as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(20)
        bench.runtime.exit_container(pod.container_id(), 1)
        await pod.run_for(0.5)
        assert pod.container()["restartCount"] == 1


async def test_exit_is_found_by_relisting_a_runtime_without_events(open_bench: Any) -> None:
    runtime = make_faulty()[0]

    async def never(selector: object) -> Any:
        await asyncio.Event().wait()
        yield

    silent = FaultyRuntime(runtime, FaultPlan())
    assert isinstance(silent, RuntimeEvents)
    silent.container_events = never  # type: ignore[method-assign]
    async with open_bench(runtime=runtime, wrapped=silent, relist_period_s=10.0) as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(20)
        runtime.exit_container(pod.container_id(), 1)
        began = asyncio.get_running_loop().time()
        await pod.run_for(12)
        assert pod.container()["restartCount"] == 1
        assert pod.times("Started")[-1] - began <= 10.0


async def test_lost_events_are_subscribed_again(open_bench: Any) -> None:
    runtime, plan, faulty = make_faulty()
    async with open_bench(runtime=runtime, wrapped=faulty, relist_period_s=1000.0) as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        plan.fail("container_events", TransientError("connection reset"), times=1)
        runtime.reboot()
        await pod.run_for(10)
        assert pod.status["phase"] == "Running"
        assert pod.container()["restartCount"] == 1


async def test_ping_reports_a_runtime_not_listed_for_three_minutes(open_bench: Any) -> None:
    runtime, plan, faulty = make_faulty()
    from vkprovider.provider.capabilities import NodeStatusCapability

    async with open_bench(runtime=runtime, wrapped=faulty) as bench:
        status = bench.provider.find_capability(NodeStatusCapability)
        await status.ping()
        plan.hang("list_containers")
        await asyncio.sleep(200)
        with pytest.raises(
            TransientError, match=r"PLEG is not healthy: pleg was last seen active 3m\S+ ago; threshold is 3m0s"
        ):
            await status.ping()
        plan.heal()


async def test_creation_reads_each_thing_back_once(open_bench: Any) -> None:
    runtime, _, faulty = make_faulty()
    calls: list[str] = []
    for verb in (
        "run_pod_sandbox",
        "pod_sandbox_status",
        "create_container",
        "start_container",
        "container_status",
        "list_pod_sandboxes",
        "list_containers",
        "find_image",
    ):
        original = getattr(faulty, verb) if hasattr(faulty, verb) else getattr(faulty.images, verb)
        target = faulty if hasattr(faulty, verb) else faulty.images

        def wrap(original: Any = original, verb: str = verb) -> Any:
            async def call(*args: Any, **kwargs: Any) -> Any:
                calls.append(verb)
                return await original(*args, **kwargs)

            return call

        setattr(target, verb, wrap())
    async with open_bench(runtime=runtime, wrapped=faulty, relist_period_s=1000.0) as bench:
        await asyncio.sleep(10)
        calls.clear()
        pod = bench.drive(make_pod())
        await pod.run_for(5)
        assert sorted(calls) == sorted(
            [
                "run_pod_sandbox",
                "pod_sandbox_status",
                "find_image",
                "create_container",
                "start_container",
                "container_status",
            ]
        )
        calls.clear()
        await pod.terminate()
        assert sorted(calls) == ["container_status", "pod_sandbox_status"]
