"""Logs, exec, node status, garbage and termination messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.runtime_pods import make_instance, make_sandbox, make_state
from vkprovider.api import v1
from vkprovider.backends.memory import MemoryConfig
from vkprovider.backends.memory.behaviour import BEHAVIOUR_ANNOTATION
from vkprovider.errors import InvalidPodError, NotFoundError, TransientError
from vkprovider.kubelet.capabilities import choose_log_instance
from vkprovider.kubelet.gc import compute_garbage
from vkprovider.kubelet.runtime_state import make_runtime_pod
from vkprovider.provider.capabilities import (
    AttachCapability,
    ExecCapability,
    LogOptions,
    LogsCapability,
    NodeStatusCapability,
    PortForwardCapability,
    ProbingCapability,
    StatsCapability,
)
from vkprovider.testing import make_container, make_pod

virtual_time = pytest.mark.looptime


def entry(state: Any, last: Any = None, container_id: str = "docker://now") -> v1.PodStatus:
    return {
        "containerStatuses": [{"name": "main", "state": state, "lastState": last or {}, "containerID": container_id}]
    }


ENDED = {"terminated": {"exitCode": 1, "containerID": "docker://ended"}}
LAST = {"terminated": {"exitCode": 1, "containerID": "docker://last"}}
LOST = {"terminated": {"exitCode": 137}}


@pytest.mark.parametrize(
    ("status", "previous", "expected"),
    [
        (entry({"running": {}}), False, "now"),
        (entry({"running": {}}, LAST), True, "last"),
        (entry(ENDED, LAST), False, "ended"),
        (entry(LOST, LAST), False, "last"),
        (entry({"waiting": {"reason": "CrashLoopBackOff"}}, LAST), False, "last"),
    ],
)
def test_which_instance_a_log_is_of(status: v1.PodStatus, previous: bool, expected: str) -> None:
    assert choose_log_instance(make_pod("p"), status, "main", previous=previous) == expected


@pytest.mark.parametrize(
    ("status", "previous", "message"),
    [
        ({}, False, "is not available"),
        (entry({"running": {}}), True, 'previous terminated container "main" in pod "p" not found'),
        (entry({"running": {}}, LOST), True, 'previous terminated container "main" in pod "p" not found'),
        (entry(LOST), False, 'container "main" in pod "p" is terminated'),
        (
            entry({"waiting": {"reason": "ContainerCreating"}}),
            False,
            'container "main" in pod "p" is waiting to start: ContainerCreating',
        ),
        (entry({"waiting": {"reason": "ErrImagePull"}}), False, "is waiting to start: image can't be pulled"),
        (
            entry({"waiting": {"reason": "ImagePullBackOff"}}),
            False,
            "is waiting to start: trying and failing to pull image",
        ),
        (entry({}), False, "is waiting to start - no logs yet"),
    ],
)
def test_why_there_is_no_log(status: v1.PodStatus, previous: bool, message: str) -> None:
    with pytest.raises(InvalidPodError) as caught:
        choose_log_instance(make_pod("p"), status, "main", previous=previous)
    assert message in caught.value.message


@virtual_time
async def test_logs_of_now_and_of_the_instance_before(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        logs = bench.provider.find_capability(LogsCapability)

        async def read(**options: Any) -> bytes:
            return b"".join([c async for c in logs.container_logs(pod.pod, "main", LogOptions(**options))])

        with pytest.raises(InvalidPodError, match=r"is not available|waiting to start: ContainerCreating"):
            await read()
        await pod.run_for(1)
        bench.runtime.write_log(pod.container_id(), b"one\n")
        bench.runtime.exit_container(pod.container_id(), 1)
        await pod.run_for(1)
        bench.runtime.write_log(pod.container_id(), b"two\n")
        assert await read() == b"two\n"
        assert await read(previous=True) == b"one\n"
        with pytest.raises(NotFoundError, match='container "x" not found in pod "pod"'):
            await anext(aiter(logs.container_logs(pod.pod, "x", LogOptions())))


@virtual_time
async def test_exec_needs_a_running_container(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        execs = bench.provider.find_capability(ExecCapability)
        with pytest.raises(NotFoundError, match="container not found"):
            await execs.exec_probe(pod.pod, "main", ["true"], timeout_s=1)
        await pod.run_for(1)
        assert await execs.exec_probe(pod.pod, "main", ["echo", "hello"], timeout_s=1) == (0, b"hello\n")


@virtual_time
async def test_abilities_follow_the_runtime(open_bench: Any) -> None:
    async with open_bench() as bench:
        for kind in (
            LogsCapability,
            ExecCapability,
            AttachCapability,
            PortForwardCapability,
            StatsCapability,
            NodeStatusCapability,
        ):
            assert isinstance(bench.provider.find_capability(kind), kind)
        assert bench.provider.find_capability(ProbingCapability) is None


@virtual_time
async def test_node_is_described_by_its_runtime(open_bench: Any) -> None:
    config = MemoryConfig(cpu_cores=4, memory_bytes=8 * 1024**3, storage_bytes=100 * 1024**3, images=("a:1",))
    async with open_bench(config=config) as bench:
        status = bench.provider.find_capability(NodeStatusCapability)
        await status.ping()
        described = await status.describe_node()
        assert described.capacity == {"cpu": "4", "memory": "8388608Ki", "ephemeral-storage": "104857600Ki"}
        assert described.node_info["containerRuntimeVersion"].startswith("memory://")
        assert described.images[0]["names"][-1] == "docker.io/library/a:1"
        bench.runtime.set_healthy(False, "engine is gone")
        with pytest.raises(TransientError, match="container runtime is down: engine is gone"):
            await status.ping()


@virtual_time
async def test_usage_of_pods(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(10)
        (usage,) = await bench.provider.find_capability(StatsCapability).pod_usages()
        assert usage.pod_uid == pod.uid
        assert set(usage.containers) == {"main"}
        assert usage.usage.memory_working_set_bytes


def test_newest_dead_instance_and_sandbox_are_kept() -> None:
    pod = make_pod(containers=[make_container("a"), make_container("b")])
    state = make_state(
        pod,
        {"a": ["exited:1", "exited:1", "exited:1", "running"], "b": "running"},
        sandboxes=[make_sandbox(ready=False), make_sandbox(attempt=1)],
    )
    garbage = compute_garbage(state)
    assert garbage.containers == ("a0", "a1")
    # The old sandbox still holds the instances that are kept.
    assert garbage.sandboxes == ()
    fresh = make_runtime_pod(
        v1.PodUID("uid"),
        [make_sandbox(ready=False), make_sandbox(attempt=1)],
        [make_instance(make_container("a"), sandbox=1)],
    )
    assert compute_garbage(fresh).sandboxes == ("sandbox0",)


@virtual_time
async def test_dead_instances_do_not_pile_up(open_bench: Any) -> None:
    async with open_bench() as bench:
        behaviour = {BEHAVIOUR_ANNOTATION: '{"containers": {"main": {"run_s": 1, "exit_code": 1}}}'}
        pod = bench.drive(make_pod(annotations=behaviour))
        await pod.run_for(400)
        assert pod.container()["restartCount"] >= 5
        assert len(await bench.runtime.list_containers()) <= 2


async def test_termination_message_is_read_from_the_file(open_bench: Any, tmp_path: Path) -> None:
    async with open_bench(root_dir=tmp_path) as bench:
        behaviour = {BEHAVIOUR_ANNOTATION: '{"containers": {"main": {"run_s": 0.05, "termination_message": "bye"}}}'}
        pod = bench.drive(make_pod(restart_policy="Never", annotations=behaviour))
        await pod.run_for(2)
        assert pod.container()["state"]["terminated"]["message"] == "bye"
        assert (tmp_path / "pods" / pod.uid / "etc-hosts").is_file()
        await pod.terminate()
        await pod.cleanup()
        assert not (tmp_path / "pods" / pod.uid).exists()


@virtual_time
@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [("FallbackToLogsOnError", 1, "last words\n"), ("FallbackToLogsOnError", 0, None), ("File", 1, None)],
)
async def test_termination_message_from_the_log(open_bench: Any, policy: str, code: int, expected: str | None) -> None:
    async with open_bench() as bench:
        container = make_container(terminationMessagePolicy=policy)
        pod = bench.drive(make_pod(containers=[container], restart_policy="Never"))
        await pod.run_for(1)
        bench.runtime.write_log(pod.container_id(), b"last words\n")
        bench.runtime.exit_container(pod.container_id(), code)
        await pod.run_for(1)
        assert pod.container()["state"]["terminated"].get("message") == expected
