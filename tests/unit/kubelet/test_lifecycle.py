"""Pods on the memory runtime from their first sync to their removal."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from vkprovider.backends.memory import MemoryConfig
from vkprovider.backends.memory.behaviour import BEHAVIOUR_ANNOTATION
from vkprovider.testing import make_container, make_pod

pytestmark = pytest.mark.looptime

IMAGE = "busybox:1.36"


def behaving(text: str) -> dict[str, str]:
    return {BEHAVIOUR_ANNOTATION: text}


async def test_pod_runs_and_goes_away(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        status = await pod.run_for(1)
        assert status["phase"] == "Running"
        assert pod.container()["state"] == {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        assert pod.container()["ready"] is True
        assert pod.container()["started"] is True
        assert status["podIP"] == "10.88.0.2"
        assert [c["type"] for c in status["conditions"] if c["status"] == "True"] == [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
        ]
        assert [(e.kind, e.reason, e.message, e.container) for e in pod.recording.events] == [
            (
                "Normal",
                "Pulled",
                f'Container image "{IMAGE}" already present on machine and can be accessed by the pod',
                "main",
            ),
            ("Normal", "Created", "Container created", "main"),
            ("Normal", "Started", "Container started", "main"),
        ]
        final = await pod.terminate()
        assert final["phase"] == "Succeeded"
        assert pod.container()["state"]["terminated"]["exitCode"] == 0
        assert final["podIP"] == "10.88.0.2"
        assert pod.condition("PodReadyToStartContainers")["status"] == "False"
        assert pod.messages("Killing") == ["Stopping container main"]
        await pod.cleanup()
        assert await bench.provider.list_pods() == []
        assert await bench.runtime.list_containers() == []


async def test_intermediate_statuses_tell_of_waiting_and_of_the_sandbox(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        first, second = pod.recording.statuses[:2]
        assert first["phase"] == "Pending"
        assert first["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
        ready = {c["type"]: c["status"] for c in second["conditions"]}
        assert ready["PodReadyToStartContainers"] == "True"
        assert ready["Ready"] == "False"
        assert second["podIP"] == "10.88.0.2"


async def test_sync_without_changes_touches_nothing(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        before, events = pod.status, len(pod.recording.events)
        statuses = len(pod.recording.statuses)
        result = await pod.sync()
        assert result.status == before
        assert result.requeue_after_s is None
        assert len(pod.recording.events) == events
        assert len(pod.recording.statuses) == statuses


async def test_crash_loop_backs_off_10_20_40_to_300_seconds(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=behaving('{"containers": {"main": {"run_s": 1, "exit_code": 1}}}')))
        await pod.run_for(2000)
        starts = pod.times("Started")
        gaps = [round(after - before, 3) for before, after in itertools.pairwise(starts)]
        # Each ran one second; the first restart is immediate.
        assert gaps[:9] == [1, 11, 21, 41, 81, 161, 301, 301, 301]
        assert pod.status["phase"] == "Running"
        waiting = pod.container()["state"]["waiting"]
        assert waiting == {
            "reason": "CrashLoopBackOff",
            "message": f"back-off 5m0s restarting failed container=main pod=pod_default({pod.uid})",
        }
        assert pod.container()["lastState"]["terminated"]["exitCode"] == 1
        assert pod.container()["restartCount"] == len(starts) - 1
        assert set(pod.messages("BackOff")) == {
            f"Back-off restarting failed container main in pod pod_default({pod.uid})"
        }


async def test_backoff_starts_anew_after_ten_good_minutes(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=behaving('{"containers": {"main": {"run_s": 1, "exit_code": 1}}}')))
        await pod.run_for(100)
        short = bench.drive(make_pod("long", annotations=behaving('{"containers": {"main": {"run_s": 601}}}')))
        await short.run_for(1900)
        starts = short.times("Started")
        # Every run is longer than twice the longest backoff, so each restart is a first one.
        assert [round(b - a, 3) for a, b in itertools.pairwise(starts)] == [601, 601, 601]


async def test_backoff_goes_on_in_the_next_process(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=behaving('{"containers": {"main": {"run_s": 1, "exit_code": 1}}}')))
        await pod.run_for(40)  # started at 0, 1, 12, 33; down since 34, until 74
        assert pod.times("Started") == [0, 1, 12, 33]
        await bench.restart(pod)
        await pod.run_for(36)
        assert pod.times("Started") == [0, 1, 12, 33, 74]
        assert pod.container()["restartCount"] == 4


async def test_changed_image_restarts_just_that_container_without_backoff(open_bench: Any) -> None:
    config = MemoryConfig(images=(IMAGE, "busybox:1.37"))
    async with open_bench(config=config) as bench:
        pod = bench.drive(make_pod(containers=[make_container("a"), make_container("b")]))
        await pod.run_for(5)
        kept, changed = pod.container_id("b"), pod.container_id("a")
        pod.pod = {
            **pod.pod,
            "spec": {**pod.pod["spec"], "containers": [make_container("a", "busybox:1.37"), make_container("b")]},
        }
        await pod.run_for(5)
        assert pod.container_id("b") == kept
        assert pod.container_id("a") != changed
        assert pod.container("a")["restartCount"] == 1
        assert pod.container("a")["image"] == "docker.io/library/busybox:1.37"
        assert pod.messages("Killing") == ["Container a definition changed, will be restarted"]


@pytest.mark.parametrize(
    ("policy", "code", "phase", "restarts"),
    [
        ("Never", 0, "Succeeded", False),
        ("Never", 3, "Failed", False),
        ("OnFailure", 0, "Succeeded", False),
        ("OnFailure", 3, "Running", True),
        ("Always", 0, "Running", True),
        ("Always", 3, "Running", True),
    ],
)
async def test_restart_policy(open_bench: Any, policy: str, code: int, phase: str, restarts: bool) -> None:
    async with open_bench() as bench:
        text = f'{{"containers": {{"main": {{"run_s": 1, "exit_code": {code}}}}}}}'
        pod = bench.drive(make_pod(restart_policy=policy, annotations=behaving(text)))
        await pod.run_for(5)
        assert pod.status["phase"] == phase
        assert pod.terminal is not restarts
        assert (pod.container()["restartCount"] > 0) is restarts
        if not restarts:
            assert pod.container()["state"]["terminated"]["exitCode"] == code


async def test_finished_pod_frees_its_sandbox_and_keeps_its_records(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(restart_policy="Never", annotations=behaving('{"containers": {"main": {"run_s": 1}}}'))
        )
        await pod.run_for(5)
        assert pod.terminal
        await pod.terminate()
        held = await bench.provider.list_pods()
        assert [item.running for item in held] == [False]
        assert pod.condition("Ready") | {"lastTransitionTime": ""} == {
            "type": "Ready",
            "status": "False",
            "reason": "PodCompleted",
            "observedGeneration": 1,
            "lastProbeTime": None,
            "lastTransitionTime": "",
        }


async def test_init_containers_run_one_by_one_before_the_app(open_bench: Any) -> None:
    async with open_bench() as bench:
        text = '{"containers": {"i1": {"run_s": 2}, "i2": {"run_s": 3}}}'
        pod = bench.drive(
            make_pod(init_containers=[make_container("i1"), make_container("i2")], annotations=behaving(text))
        )
        await pod.run_for(1)
        assert pod.status["phase"] == "Pending"
        assert pod.container("main")["state"] == {"waiting": {"reason": "PodInitializing"}}
        assert pod.container("i2")["state"] == {"waiting": {"reason": "PodInitializing"}}
        assert pod.condition("Initialized")["message"] == "containers with incomplete status: [i1 i2]"
        await pod.run_for(10)
        assert [pod.times("Started", name) for name in ("i1", "i2", "main")] == [[0], [2], [5]]
        assert pod.status["phase"] == "Running"
        assert [c["name"] for c in pod.status["initContainerStatuses"]] == ["i1", "i2"]
        assert pod.container("i1")["ready"] is True
        assert pod.container("i1")["started"] is False


async def test_failing_init_container_ends_a_pod_that_never_restarts(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(
                init_containers=[make_container("init")],
                restart_policy="Never",
                annotations=behaving('{"containers": {"init": {"run_s": 1, "exit_code": 2}}}'),
            )
        )
        await pod.run_for(5)
        assert pod.terminal
        assert pod.status["phase"] == "Failed"
        assert pod.times("Started", "main") == []


async def test_failing_init_container_backs_off_and_keeps_the_pod_pending(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(
                init_containers=[make_container("init")],
                annotations=behaving('{"containers": {"init": {"run_s": 1, "exit_codes": [1, 1, 0]}}}'),
            )
        )
        await pod.run_for(8)
        assert pod.status["phase"] == "Pending"
        assert pod.container("init")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        await pod.run_for(20)
        assert pod.times("Started", "init") == [0, 1, 12]
        assert pod.times("Started", "main") == [13]


async def test_sidecars_start_in_order_and_stop_in_reverse_after_the_app(open_bench: Any) -> None:
    async with open_bench() as bench:
        text = '{"containers": {"*": {"shutdown_s": 2}, "setup": {"run_s": 1}}}'
        pod = bench.drive(
            make_pod(
                init_containers=[
                    make_container("s1", restartPolicy="Always"),
                    make_container("setup"),
                    make_container("s2", restartPolicy="Always"),
                ],
                annotations=behaving(text),
            )
        )
        await pod.run_for(5)
        assert [pod.times("Started", name)[0] for name in ("s1", "setup", "s2", "main")] == [0, 0, 1, 1]
        began = asyncio.get_running_loop().time()
        await pod.terminate(30)
        ended = {name: pod.container(name)["state"]["terminated"]["finishedAt"] for name in ("main", "s2", "s1")}
        assert list(ended.values()) == sorted(ended.values())
        assert asyncio.get_running_loop().time() - began == pytest.approx(6)
        assert pod.status["phase"] == "Succeeded"


async def test_sidecars_do_not_keep_a_finished_pod_alive(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(
                init_containers=[make_container("side", restartPolicy="Always")],
                restart_policy="Never",
                annotations=behaving('{"containers": {"main": {"run_s": 2}, "side": {"sigterm_exit_code": 143}}}'),
            )
        )
        await pod.run_for(10)
        assert pod.terminal
        assert pod.status["phase"] == "Succeeded"
        assert pod.container("side")["state"]["terminated"]["exitCode"] == 143


async def test_sidecar_restarts_also_under_policy_never(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(init_containers=[make_container("side", restartPolicy="Always")], restart_policy="Never")
        )
        await pod.run_for(1)
        bench.runtime.exit_container(pod.container_id("side"), 0)
        await pod.run_for(1)
        assert pod.container("side")["restartCount"] == 1
        assert pod.status["phase"] == "Running"


async def test_restart_rule_starts_all_containers_anew_in_the_same_sandbox(open_bench: Any) -> None:
    async with open_bench() as bench:
        rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
        pod = bench.drive(
            make_pod(
                init_containers=[make_container("init")],
                containers=[
                    make_container("main", restartPolicy="Never", restartPolicyRules=[rule]),
                    make_container("other"),
                ],
                restart_policy="Never",
                annotations=behaving('{"containers": {"init": {"run_s": 1}}}'),
            )
        )
        await pod.run_for(3)
        ip, before = pod.status["podIP"], pod.container_id("other")
        bench.runtime.exit_container(pod.container_id("main"), 42)
        await pod.run_for(10)
        assert pod.status["podIP"] == ip
        assert pod.container_id("other") != before
        assert pod.status["phase"] == "Running"
        assert len(pod.times("Started", "init")) == 2
        assert pod.container("main")["restartCount"] == 1
        assert pod.condition("AllContainersRestarting")["status"] == "False"
        assert pod.condition("Initialized")["status"] == "True"


async def test_dead_sandbox_is_replaced_and_everything_starts_again(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        sandbox = (await bench.runtime.list_pod_sandboxes())[0]
        bench.runtime.kill_sandbox(sandbox.id)
        await pod.run_for(3)
        assert pod.messages("SandboxChanged") == ["Pod sandbox changed, it will be killed and re-created."]
        assert pod.status["phase"] == "Running"
        assert pod.container()["restartCount"] == 1
        attempts = sorted(s.metadata.attempt for s in await bench.runtime.list_pod_sandboxes())
        assert attempts[-1] == 1


async def test_sandbox_failure_is_told_and_tried_again(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=behaving('{"sandbox": {"error": "no network"}}')))
        await pod.run_for(25)
        assert pod.messages("FailedCreatePodSandBox") == ["Failed to create pod sandbox: no network"] * 3
        assert pod.container()["state"] == {"waiting": {"reason": "ContainerCreating"}}
        assert pod.status["phase"] == "Pending"


async def test_ephemeral_container_starts_once_and_joins_its_target(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        debugger = make_container("debug", targetContainerName="main")
        pod.pod = {**pod.pod, "spec": {**pod.pod["spec"], "ephemeralContainers": [debugger]}}
        await pod.run_for(1)
        assert "running" in pod.container("debug")["state"]
        assert pod.container("debug")["ready"] is False
        assert "started" not in pod.container("debug")
        bench.runtime.exit_container(pod.container_id("debug"), 1)
        await pod.run_for(60)
        assert pod.container("debug")["state"]["terminated"]["exitCode"] == 1
        assert len(pod.times("Started", "debug")) == 1


async def test_ephemeral_container_with_unknown_target_waits(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(ephemeral_containers=[make_container("debug", targetContainerName="nobody")]))
        await pod.run_for(1)
        assert pod.container("debug")["state"]["waiting"] == {
            "reason": "CreateContainerConfigError",
            "message": "unable to find target container nobody",
        }
        assert "running" in pod.container("main")["state"]


async def test_missing_config_map_keeps_the_container_waiting_until_it_appears(open_bench: Any) -> None:
    async with open_bench() as bench:
        reference = {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}}
        pod = bench.drive(make_pod(containers=[make_container(env=[reference]), make_container("other")]))
        await pod.run_for(5)
        assert pod.container()["state"]["waiting"] == {
            "reason": "CreateContainerConfigError",
            "message": 'configmap "settings" not found',
        }
        assert "running" in pod.container("other")["state"]
        assert pod.status["phase"] == "Pending"
        assert 'Error: configmap "settings" not found' in pod.messages("Failed")
        bench.objects.add_config_map("settings", {"a": "1"})
        await pod.run_for(12)
        assert "running" in pod.container()["state"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ('{"create_error": "no space left"}', "CreateContainerError"),
        ('{"start_error": "no such program"}', "RunContainerError"),
    ],
)
async def test_errors_of_the_runtime_are_shown_in_its_own_words(open_bench: Any, behaviour: str, reason: str) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(annotations=behaving(f'{{"containers": {{"main": {behaviour}}}}}')))
        await pod.sync()
        waiting = pod.container()["state"]["waiting"]
        assert waiting["reason"] == reason
        word = "no space left" if reason == "CreateContainerError" else "no such program"
        assert word in waiting["message"]
        assert any(word in message and message.startswith("Error: ") for message in pod.messages("Failed"))


async def test_container_that_cannot_start_ends_in_crash_loop_backoff(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(
            make_pod(annotations=behaving('{"containers": {"main": {"start_error": "no such program"}}}'))
        )
        await pod.run_for(35)
        assert pod.container()["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert pod.container()["lastState"]["terminated"]["reason"] == "StartError"


async def test_lost_container_is_shown_as_ended_and_started_again(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        bench.runtime.forget(pod.container_id())
        await pod.run_for(15)
        assert "running" in pod.container()["state"]
        assert pod.container()["restartCount"] == 1
        last = pod.container()["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")


async def test_fifty_failing_containers_do_not_delay_the_good_one(open_bench: Any) -> None:
    async with open_bench() as bench:
        bad = [make_container(f"bad{i:02}", imagePullPolicy="Never", image="absent:1") for i in range(50)]
        pod = bench.drive(make_pod(containers=[*bad, make_container("good")]))
        await pod.sync()
        assert "running" in pod.container("good")["state"]
        assert pod.container("bad07")["state"]["waiting"]["reason"] == "ErrImageNeverPull"


async def test_failed_post_start_hook_kills_the_container_and_tells_no_secret(open_bench: Any) -> None:
    async with open_bench() as bench:
        hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo hidden; exit 3"]}}}
        pod = bench.drive(make_pod(containers=[make_container(lifecycle=hook), make_container("other")]))
        await pod.sync()
        assert pod.container()["state"]["waiting"]["reason"] == "PostStartHookError"
        assert pod.messages("FailedPostStartHook") == ["PostStartHook failed"]
        assert pod.messages("Killing") == ["FailedPostStartHook"]
        assert "running" in pod.container("other")["state"]
        await pod.run_for(12)
        assert pod.container()["restartCount"] >= 1


async def test_post_start_hook_holds_up_the_containers_after_it(open_bench: Any) -> None:
    async with open_bench() as bench:
        hook = {"postStart": {"sleep": {"seconds": 5}}}
        pod = bench.drive(make_pod(containers=[make_container("a", lifecycle=hook), make_container("b")]))
        await pod.run_for(10)
        assert pod.times("Started") == [0, 5]


async def test_pod_past_its_active_deadline_fails_and_is_stopped(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(activeDeadlineSeconds=100))
        await pod.run_for(20)
        assert pod.status["phase"] == "Running"
        pod.pod = {**pod.pod, "spec": {**pod.pod["spec"], "activeDeadlineSeconds": 40}}
        await pod.run_for(200)
        assert pod.terminal
        assert asyncio.get_running_loop().time() == pytest.approx(40, abs=1)
        await pod.terminate()
        message = "Pod was active on the node longer than the specified deadline"
        assert (pod.status["phase"], pod.status["reason"], pod.status["message"]) == (
            "Failed",
            "DeadlineExceeded",
            message,
        )
        assert [e for e in pod.recording.events if e.reason == "DeadlineExceeded"] == [
            ("Normal", "DeadlineExceeded", message, None)
        ]
        assert pod.container()["state"]["terminated"]["exitCode"] == 0
