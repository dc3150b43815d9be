from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vkprovider.kubelet.probe_results import ProbeKind, ProbeResults

pytestmark = pytest.mark.looptime


async def test_manager_is_what_the_engine_asks_for(bench: Any) -> None:
    results: ProbeResults = bench.manager
    assert results.find_result(ProbeKind.LIVENESS, "nope") is None  # type: ignore[arg-type]


async def test_new_container_is_alive_unready_and_not_started(bench: Any) -> None:
    bench.add_pod(**{kind: {"initialDelaySeconds": 100} for kind in ("liveness", "readiness", "startup")})
    bench.set_state(started=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.result("liveness") is True
    assert bench.result("readiness") is False
    assert bench.result("startup") is None
    assert bench.changed == []


async def test_failures_below_the_threshold_change_nothing(bench: Any) -> None:
    bench.add_pod(liveness={}, readiness={})
    bench.set_state()
    await asyncio.sleep(5)
    assert bench.result("readiness") is True
    assert bench.changed == [0]
    bench.codes.update(liveness=1, readiness=1)
    await asyncio.sleep(20)
    assert bench.result("readiness") is True
    assert bench.result("liveness") is True
    await asyncio.sleep(10)
    assert bench.result("readiness") is False
    assert bench.result("liveness") is False
    assert bench.changed == [0, 30, 30]


async def test_success_in_between_starts_the_count_anew(bench: Any) -> None:
    answers: Iterator[int] = iter([1, 1, 0, 1, 1, 0, 1, 1, 1])
    bench.codes["liveness"] = lambda: next(answers)
    bench.add_pod(liveness={"periodSeconds": 1})
    bench.set_state()
    await asyncio.sleep(7.5)
    assert bench.result("liveness") is True
    await asyncio.sleep(1)
    assert bench.result("liveness") is False


async def test_readiness_needs_its_number_of_successes(bench: Any) -> None:
    bench.add_pod(readiness={"successThreshold": 3})
    bench.set_state()
    await asyncio.sleep(15)
    assert bench.result("readiness") is False
    await asyncio.sleep(10)
    assert bench.result("readiness") is True


async def test_every_failure_is_an_event_of_the_container(bench: Any) -> None:
    bench.add_pod(readiness={}, liveness={})
    bench.codes.update(liveness=0, readiness=2)
    bench.output = b"no \xff good"
    bench.set_state()
    await asyncio.sleep(11)
    event = ("Warning", "Unhealthy", "Readiness probe failed: no � good", "c")
    assert bench.events == [event, event]


async def test_timed_out_command_is_a_failure(bench: Any) -> None:
    bench.codes["startup"] = TimeoutError()
    bench.add_pod(
        startup={"exec": {"command": ["startup", "-x", "$(A)$(B)"]}, "timeoutSeconds": 90, "failureThreshold": 1}
    )
    bench.pod["spec"]["containers"][0]["env"] = [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {}}},
    ]
    bench.set_state(started=False)
    await asyncio.sleep(1)
    assert bench.events == [
        ("Warning", "Unhealthy", 'Startup probe failed: command timed out: "startup -x 1" timed out after 1m30s', "c")
    ]
    assert bench.result("startup") is False


async def test_attempt_that_errs_is_made_three_times_and_changes_nothing(bench: Any) -> None:
    bench.codes["liveness"] = RuntimeError("container not running (id-1)")
    bench.add_pod(liveness={"failureThreshold": 1})
    bench.set_state()
    await asyncio.sleep(5)
    assert bench.times("liveness") == [0, 0, 0]
    assert bench.result("liveness") is True
    assert bench.events == [
        (
            "Warning",
            "Unhealthy",
            "Liveness probe errored and resulted in unknown state: container not running (id-1)",
            "c",
        )
    ]


async def test_second_attempt_may_succeed(bench: Any) -> None:
    answers: Iterator[Any] = iter([RuntimeError("busy"), 0])
    bench.codes["readiness"] = lambda: next(answers)
    bench.add_pod(readiness={})
    bench.set_state()
    await asyncio.sleep(5)
    assert bench.result("readiness") is True
    assert bench.events == []


async def test_probe_without_handler_is_an_error(bench: Any) -> None:
    bench.add_pod(liveness={"exec": None})
    bench.set_state()
    await asyncio.sleep(5)
    assert bench.events[0][2] == (
        "Liveness probe errored and resulted in unknown state: missing probe handler for p_ns(u1):c"
    )


async def test_exited_container_counts_as_failed_and_its_worker_waits(bench: Any) -> None:
    bench.add_pod(readiness={})
    bench.set_state()
    await asyncio.sleep(5)
    bench.set_state(exit_code=1)
    await asyncio.sleep(10)
    assert bench.result("readiness") is False
    assert bench.has_worker("readiness")
    bench.set_state("id-2")
    await asyncio.sleep(10)
    assert bench.result("readiness", "id-2") is True
    assert bench.result("readiness", "id-1") is None


@pytest.mark.parametrize(
    ("policy", "own", "rules", "exit_code", "waits"),
    [
        ("Always", None, None, 0, True),
        ("OnFailure", None, None, 1, True),
        ("OnFailure", None, None, 0, False),
        ("Never", None, None, 1, False),
        ("Never", "Always", None, 0, True),
        ("Always", "Never", None, 1, False),
        ("Never", "Never", [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], 42, True),
        ("Never", "Never", [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], 1, False),
    ],
)
async def test_worker_ends_with_a_container_that_does_not_come_back(
    bench: Any, policy: str, own: str | None, rules: Any, exit_code: int, waits: bool
) -> None:
    bench.add_pod(liveness={})
    bench.pod["spec"]["restartPolicy"] = policy
    bench.pod["spec"]["containers"][0].update({"restartPolicy": own, "restartPolicyRules": rules})
    bench.set_state()
    await asyncio.sleep(5)
    bench.set_state(exit_code=exit_code)
    await asyncio.sleep(10)
    assert bench.has_worker("liveness") is waits


async def test_worker_ends_with_the_pod(bench: Any) -> None:
    bench.add_pod(liveness={})
    bench.set_state()
    await asyncio.sleep(5)
    bench.set_state(phase="Failed")
    await asyncio.sleep(10)
    assert not bench.has_worker("liveness")
    assert bench.times("liveness") == [0]


async def test_deletion_ends_liveness_and_startup_but_not_readiness(bench: Any) -> None:
    bench.add_pod(liveness={}, readiness={}, startup={})
    bench.set_state()
    await asyncio.sleep(5)
    bench.codes["liveness"] = 1
    bench.pod = {**bench.pod, "metadata": {**bench.pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:05Z"}}
    bench.ensure()
    await asyncio.sleep(30)
    assert bench.times("liveness") == [0]
    assert not bench.has_worker("liveness")
    assert not bench.has_worker("startup")
    assert bench.times("readiness") == [0, 10, 20, 30]


async def test_stopping_a_pod_leaves_readiness_and_sidecars_alone(make_bench: Callable[..., Any]) -> None:
    app, side = make_bench(), make_bench()
    for bench, is_sidecar in ((app, False), (side, True)):
        bench.add_pod(sidecar=is_sidecar, liveness={}, readiness={}, startup={})
        bench.set_state()
    await asyncio.sleep(5)
    for bench in (app, side):
        bench.manager.stop_liveness_and_startup(bench.pod)
    assert [app.has_worker(kind) for kind in ("liveness", "startup", "readiness")] == [False, False, True]
    assert [side.has_worker(kind) for kind in ("liveness", "startup", "readiness")] == [True, True, True]


async def test_plain_init_containers_are_not_probed(bench: Any) -> None:
    bench.add_pod(sidecar=True, liveness={})
    bench.manager.remove_pod("u1")
    del bench.pod["spec"]["initContainers"][0]["restartPolicy"]
    bench.ensure()
    assert not bench.has_worker("liveness")


async def test_removed_pod_is_forgotten_even_in_the_middle_of_a_probe(bench: Any) -> None:
    bench.duration_s = 3
    bench.codes["readiness"] = 1
    bench.add_pod(readiness={"failureThreshold": 1})
    bench.set_state()
    await asyncio.sleep(1)
    bench.manager.remove_pod("u1")
    bench.manager.remove_pod("u1")
    await asyncio.sleep(20)
    assert bench.result("readiness") is None
    assert bench.events == []
    assert bench.changed == []
    assert bench.times("readiness") == [0]


async def test_only_retained_pods_stay(bench: Any) -> None:
    bench.add_pod(readiness={})
    bench.manager.retain_pods({"u1"})
    assert bench.has_worker("readiness")
    bench.manager.retain_pods({"other"})
    assert not bench.has_worker("readiness")


async def test_container_that_ran_before_the_agent_has_no_result_until_a_probe_decides(bench: Any) -> None:
    bench.add_pod(liveness={}, readiness={}, startup={})
    bench.codes["readiness"] = 1
    bench.set_state(running_since_s=71)
    await asyncio.sleep(15)
    assert [bench.result(kind) for kind in ("startup", "readiness", "liveness")] == [None, None, True]
    await asyncio.sleep(6)
    assert bench.result("readiness") is False


async def test_container_that_started_just_before_the_agent_is_new(bench: Any) -> None:
    bench.add_pod(readiness={"initialDelaySeconds": 1000})
    bench.set_state(running_since_s=69)
    await asyncio.sleep(1)
    assert bench.result("readiness") is False


async def test_sidecar_that_was_started_before_the_agent_stays_started(bench: Any) -> None:
    bench.add_pod(sidecar=True, startup={})
    bench.set_state(running_since_s=100, started=True)
    await asyncio.sleep(1)
    assert bench.result("startup") is True


async def test_native_probes_are_left_to_the_provider(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(native_handlers=frozenset({"exec"}))
    bench.add_pod(liveness={}, readiness={})
    bench.manager.report_native_result("u1", "c", ProbeKind.READINESS, success=True)
    bench.set_state()
    await asyncio.sleep(11)
    assert bench.probed == []
    assert bench.result("readiness") is False
    bench.manager.report_native_result("u1", "c", ProbeKind.READINESS, success=True)
    bench.manager.report_native_result("u1", "c", ProbeKind.LIVENESS, success=False)
    bench.manager.report_native_result("u1", "x", ProbeKind.LIVENESS, success=False)
    assert bench.result("readiness") is True
    assert bench.result("liveness") is False
    assert bench.changed == [11, 11]


async def test_grace_period_of_a_probe(bench: Any) -> None:
    bench.add_pod(liveness={"terminationGracePeriodSeconds": 0}, startup={})
    assert bench.manager.find_probe_grace_period_s(bench.pod, "c", ProbeKind.LIVENESS) == 0
    assert bench.manager.find_probe_grace_period_s(bench.pod, "c", ProbeKind.STARTUP) is None
    assert bench.manager.find_probe_grace_period_s(bench.pod, "nope", ProbeKind.STARTUP) is None


async def test_probes_are_observed(make_bench: Callable[..., Any]) -> None:
    seen: list[Any] = []

    def observe(pod: Any, container: str, kind: ProbeKind, *, success: bool, duration_s: float) -> None:
        seen.append((container, kind, success, duration_s))

    bench = make_bench(observe=observe)
    bench.duration_s = 0.25
    bench.add_pod(liveness={})
    bench.set_state()
    await asyncio.sleep(1)
    assert seen == [("c", ProbeKind.LIVENESS, True, 0.25)]
