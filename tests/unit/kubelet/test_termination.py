"""Stopping pods: grace, order, hurry, orphans; and the pure arithmetic behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.backends.memory import MemoryRuntime
from vkprovider.backends.memory.behaviour import BEHAVIOUR_ANNOTATION
from vkprovider.errors import TransientError
from vkprovider.kubelet.actions import KillReason
from vkprovider.kubelet.termination import compute_stop_prerequisites, container_grace_period_s
from vkprovider.testing import FaultPlan, FaultyRuntime, make_container, make_pod

pytestmark = pytest.mark.looptime

STUBBORN = {BEHAVIOUR_ANNOTATION: '{"containers": {"*": {"ignore_sigterm": true}}}'}


@pytest.mark.parametrize(
    ("pod", "container", "reason", "expected"),
    [
        (make_pod(grace_period_s=30), make_container(), KillReason.OTHER, 30),
        (make_pod(grace_period_s=30, deletion_grace_period_s=5), make_container(), KillReason.LIVENESS_PROBE, 5),
        (make_pod(grace_period_s=30, deletion_grace_period_s=0), make_container(), KillReason.OTHER, 0),
        (
            make_pod(grace_period_s=30),
            make_container(liveness_probe={"terminationGracePeriodSeconds": 7, "exec": {}}),
            KillReason.LIVENESS_PROBE,
            7,
        ),
        (
            make_pod(grace_period_s=30),
            make_container(liveness_probe={"terminationGracePeriodSeconds": 7, "exec": {}}),
            KillReason.STARTUP_PROBE,
            30,
        ),
        (
            make_pod(grace_period_s=5),
            make_container(startup_probe={"terminationGracePeriodSeconds": 60, "exec": {}}),
            KillReason.STARTUP_PROBE,
            60,
        ),
        ({"metadata": {}, "spec": {}}, make_container(), KillReason.OTHER, 2),
    ],
)
def test_grace_period_of_a_container(pod: Any, container: Any, reason: KillReason, expected: int) -> None:
    assert container_grace_period_s(pod, container, reason) == expected


def test_sidecars_wait_for_apps_and_for_later_sidecars() -> None:
    pod = make_pod(
        containers=[make_container("a"), make_container("b")],
        init_containers=[
            make_container("s1", restartPolicy="Always"),
            make_container("init"),
            make_container("s2", restartPolicy="Always"),
        ],
    )
    assert compute_stop_prerequisites(pod, {"a", "b", "s1", "s2"}) == {
        "s2": frozenset({"a", "b"}),
        "s1": frozenset({"a", "b", "s2"}),
    }
    assert compute_stop_prerequisites(pod, {"b", "s1"}) == {"s2": frozenset({"b"}), "s1": frozenset({"b"})}
    assert compute_stop_prerequisites(make_pod(), {"main"}) == {}


@pytest.mark.parametrize(("grace", "took"), [(30, 30), (5, 5), (1, 2)])
async def test_stubborn_container_is_killed_when_grace_is_over(open_bench: Any, grace: int, took: int) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=STUBBORN))
        await pod.run_for(1)
        began = asyncio.get_running_loop().time()
        status = await pod.terminate(grace)
        assert asyncio.get_running_loop().time() - began == pytest.approx(took)
        assert pod.container()["state"]["terminated"]["exitCode"] == 137
        assert status["phase"] == "Failed"


async def test_second_call_with_less_grace_hurries_the_first(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=STUBBORN))
        await pod.run_for(1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = asyncio.create_task(pod.terminate(30))
        await asyncio.sleep(4)
        await cancel_and_wait([first])
        await pod.terminate(3)
        assert loop.time() - began == pytest.approx(7)
        assert pod.messages("Killing") == ["Stopping container main"]


async def test_containers_stop_in_parallel(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(containers=[make_container(name) for name in ("a", "b", "c")], annotations=STUBBORN))
        await pod.run_for(1)
        began = asyncio.get_running_loop().time()
        await pod.terminate(10)
        assert asyncio.get_running_loop().time() - began == pytest.approx(10)


async def test_stubborn_app_leaves_its_sidecars_two_seconds(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(
                init_containers=[make_container("side", restartPolicy="Always")],
                annotations={BEHAVIOUR_ANNOTATION: '{"containers": {"*": {"ignore_sigterm": true}}}'},
            )
        )
        await pod.run_for(2)
        began = asyncio.get_running_loop().time()
        await pod.terminate(10)
        assert asyncio.get_running_loop().time() - began == pytest.approx(12)


async def test_pod_that_never_ran_is_terminated_at_once(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(containers=[make_container(image="absent:1", imagePullPolicy="Never")]))
        await pod.run_for(1)
        status = await pod.terminate()
        assert status["phase"] == "Pending"  # a terminal phase is given when the node finalizes the status
        await pod.cleanup()
        assert await bench.provider.list_pods() == []


async def test_unknown_pod_is_terminated_at_once(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.terminate()
        await pod.cleanup()


async def test_deletion_during_a_long_pull_is_not_held_up(open_bench: Any) -> None:
    from vkprovider.backends.memory import MemoryConfig

    async with open_bench(config=MemoryConfig(pull_delay_s=3600)) as bench:
        pod = bench.drive(make_pod())
        sync = asyncio.create_task(pod.sync())
        await asyncio.sleep(5)
        assert pod.messages("Pulling") == ['Pulling image "busybox:1.36"']
        await cancel_and_wait([sync])
        began = asyncio.get_running_loop().time()
        await pod.terminate()
        await pod.cleanup()
        assert asyncio.get_running_loop().time() - began < 1
        assert await bench.provider.list_pods() == []


@pytest.mark.parametrize("verb", ["run_pod_sandbox", "create_container", "start_container"])
async def test_cancelled_sync_leaves_nothing_that_termination_misses(open_bench: Any, verb: str) -> None:
    from vkprovider.aio.clock import LoopClock
    from vkprovider.backends.memory import MemoryConfig

    runtime = MemoryRuntime(MemoryConfig(images=("busybox:1.36",)), clock=LoopClock())
    plan = FaultPlan()
    async with open_bench(runtime=runtime, wrapped=FaultyRuntime(runtime, plan)) as bench:
        pod = bench.drive(make_pod())
        plan.delay(verb, 5.0)
        sync = asyncio.create_task(pod.sync())
        await asyncio.sleep(2)
        await cancel_and_wait([sync])
        await pod.terminate()
        assert all(not item.running for item in await bench.provider.list_pods())
        await pod.cleanup()
        assert await runtime.list_pod_sandboxes() == []
        assert await runtime.list_containers() == []


async def test_failure_to_stop_is_told_and_can_be_tried_again(open_bench: Any) -> None:
    from vkprovider.aio.clock import LoopClock
    from vkprovider.backends.memory import MemoryConfig

    runtime = MemoryRuntime(MemoryConfig(images=("busybox:1.36",)), clock=LoopClock())
    plan = FaultPlan()
    async with open_bench(runtime=runtime, wrapped=FaultyRuntime(runtime, plan)) as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        plan.fail("stop_container", TransientError("no answer"), times=1)
        with pytest.raises(TransientError, match="no answer"):
            await pod.terminate()
        assert pod.messages("FailedKillPod") == ["error killing pod: no answer"]
        status = await pod.terminate()
        assert status["phase"] == "Succeeded"


async def test_orphan_is_stopped_by_what_its_containers_tell(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(
                containers=[make_container(ports=[80], lifecycle={"preStop": {"exec": {"command": ["true"]}}})],
                grace_period_s=17,
            )
        )
        await pod.run_for(1)
        other = await bench.restart()
        (orphan,) = await other.provider.list_pods()
        assert orphan.running
        assert orphan.pod["metadata"] == {"name": "pod", "namespace": "default", "uid": pod.uid}
        assert orphan.pod["spec"]["terminationGracePeriodSeconds"] == 17
        (container,) = orphan.pod["spec"]["containers"]
        assert container["lifecycle"] == {"preStop": {"exec": {"command": ["true"]}}}
        assert container["ports"] == [{"protocol": "TCP", "containerPort": 80}]
        driven = other.drive(orphan.pod)
        await driven.terminate(1)
        await driven.cleanup()
        assert await other.provider.list_pods() == []


@pytest.mark.parametrize(("hook_s", "grace", "took"), [(3, 30, 3), (60, 10, 12), (9, 10, 11)])
async def test_pre_stop_hook_is_part_of_the_grace_period(open_bench: Any, hook_s: int, grace: int, took: int) -> None:
    async with open_bench() as bench:
        hook = {"preStop": {"sleep": {"seconds": hook_s}}}
        behaviour = {} if took == hook_s else STUBBORN
        pod = bench.drive(make_pod(containers=[make_container(lifecycle=hook)], annotations=behaviour))
        await pod.run_for(1)
        began = asyncio.get_running_loop().time()
        await pod.terminate(grace)
        assert asyncio.get_running_loop().time() - began == pytest.approx(took)


async def test_hurried_termination_does_not_run_the_hook_again(open_bench: Any) -> None:
    async with open_bench() as bench:
        hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook; sleep 20"]}}}
        pod = bench.drive(make_pod(containers=[make_container(lifecycle=hook)]))
        await pod.run_for(1)
        runs: list[str] = []
        original = bench.runtime.exec_sync

        async def counted(container_id: Any, command: Any, **options: Any) -> Any:
            runs.append(container_id)
            return await original(container_id, command, **options)

        killer = bench.provider._parts.killer
        killer._hooks._exec_sync = counted
        first = asyncio.create_task(pod.terminate(60))
        await asyncio.sleep(5)
        await cancel_and_wait([first])
        began = asyncio.get_running_loop().time()
        await pod.terminate(30)
        assert runs == [pod.container_id()]
        # Fifteen of the hook's twenty seconds were left.
        assert asyncio.get_running_loop().time() - began == pytest.approx(15)


async def test_failed_pre_stop_hook_is_told_and_does_not_hinder(open_bench: Any) -> None:
    async with open_bench() as bench:
        hook = {"preStop": {"exec": {"command": ["false"]}}}
        pod = bench.drive(make_pod(containers=[make_container(lifecycle=hook)]))
        await pod.run_for(1)
        await pod.terminate()
        assert pod.messages("FailedPreStopHook") == ["PreStopHook failed"]
        assert "terminated" in pod.container()["state"]
