"""Probes and the engine together: what their results do to containers and statuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vkprovider.testing import make_container, make_pod

pytestmark = pytest.mark.looptime


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def probe(script: str, **extra: Any) -> dict[str, Any]:
    return {
        "exec": {"command": shell(script)},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "failureThreshold": 3,
        **extra,
    }


async def test_pod_is_ready_once_its_probe_succeeds(open_bench: Any) -> None:
    async with open_bench() as bench:
        main = make_container(command=shell("sleep 35; touch /ready; sleep 3600"), readinessProbe=probe("cat /ready"))
        pod = bench.drive(make_pod(containers=[main]))
        await pod.run_for(30)
        assert pod.condition("Ready")["status"] == "False"
        assert pod.condition("ContainersReady")["message"] == "containers with unready status: [main]"
        assert pod.container()["started"] is True
        await pod.run_for(20)
        assert pod.container()["ready"] is True
        assert pod.condition("Ready")["status"] == "True"
        assert pod.container()["restartCount"] == 0
        assert set(pod.messages("Unhealthy")) == {
            "Readiness probe failed: cat: can't open '/ready': No such file or directory\n"
        }


async def test_container_that_fails_its_liveness_probe_is_restarted(open_bench: Any) -> None:
    async with open_bench() as bench:
        main = make_container(
            command=shell("touch /alive; sleep 42; rm /alive; sleep 3600"), livenessProbe=probe("test -f /alive")
        )
        pod = bench.drive(make_pod(containers=[main]))
        await pod.run_for(60)
        assert pod.container()["restartCount"] == 0
        await pod.run_for(40)
        assert pod.container()["restartCount"] == 1
        assert pod.messages("Killing") == ["Container main failed liveness probe, will be restarted"]
        assert pod.messages("Unhealthy") == ["Liveness probe failed: "] * 3


async def test_grace_period_of_the_probe_bounds_its_kill(open_bench: Any) -> None:
    async with open_bench() as bench:
        main = make_container(
            command=shell("trap '' TERM; while true; do sleep 1; done"),
            livenessProbe=probe("exit 1", failureThreshold=1, terminationGracePeriodSeconds=5),
        )
        pod = bench.drive(make_pod(containers=[main], terminationGracePeriodSeconds=600))
        await pod.run_for(40)
        assert pod.container()["restartCount"] >= 1
        last = pod.container()["lastState"]["terminated"]
        assert last["exitCode"] == 137


async def test_startup_probe_holds_back_the_others_and_then_kills(open_bench: Any) -> None:
    async with open_bench() as bench:
        main = make_container(
            command=shell("sleep 3600"),
            startupProbe=probe("exit 1", periodSeconds=5, failureThreshold=4),
            readinessProbe=probe("exit 0"),
            livenessProbe=probe("exit 1"),
        )
        pod = bench.drive(make_pod(containers=[main]))
        await pod.run_for(14)
        assert (pod.container()["started"], pod.container()["ready"]) == (False, False)
        assert set(pod.messages("Unhealthy")) == {"Startup probe failed: "}
        await pod.run_for(60)
        assert pod.messages("Killing")[0] == "Container main failed startup probe, will be restarted"
        assert set(pod.messages("Unhealthy")) == {"Startup probe failed: "}


async def test_started_sidecar_lets_the_pod_go_on(open_bench: Any) -> None:
    async with open_bench() as bench:
        side = make_container(
            "side",
            restartPolicy="Always",
            command=shell("sleep 12; touch /up; sleep 3600"),
            startupProbe=probe("cat /up", periodSeconds=5, failureThreshold=10),
        )
        pod = bench.drive(make_pod(initContainers=[side], containers=[make_container()]))
        await pod.run_for(10)
        assert pod.container("side")["started"] is False
        assert "waiting" in pod.container()["state"]
        await pod.run_for(15)
        assert pod.container("side")["started"] is True
        assert "running" in pod.container()["state"]


async def test_new_agent_keeps_what_was_ready_without_a_flap(open_bench: Any) -> None:
    async with open_bench() as bench:
        main = make_container(
            command=shell("sleep 3600"),
            startupProbe=probe("exit 0"),
            readinessProbe=probe("exit 0", successThreshold=2),
        )
        pod = bench.drive(make_pod(containers=[main]))
        await pod.run_for(60)
        assert pod.container()["ready"] is True
        since = pod.condition("Ready")["lastTransitionTime"]
        await bench.restart(pod)
        for _ in range(40):
            await pod.run_for(1)
            assert (pod.container()["started"], pod.container()["ready"]) == (True, True)
        assert pod.condition("Ready")["lastTransitionTime"] == since


async def test_nothing_is_probed_once_the_pod_is_gone(open_bench: Any) -> None:
    async with open_bench() as bench:
        main = make_container(command=shell("sleep 3600"), livenessProbe=probe("exit 1", failureThreshold=100))
        pod = bench.drive(make_pod(containers=[main]))
        await pod.run_for(15)
        await pod.terminate(1)
        await pod.cleanup()
        seen = len(pod.recording.events)
        await asyncio.sleep(100)
        assert len(pod.recording.events) == seen
