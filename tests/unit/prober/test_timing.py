from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.looptime


async def test_first_probe_is_immediate_and_then_every_period(bench: Any) -> None:
    bench.add_pod(liveness={"periodSeconds": 7})
    bench.set_state()
    await asyncio.sleep(22)
    assert bench.times("liveness") == [0, 7, 14, 21]


async def test_first_probe_is_spread_right_after_the_agent_began(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(started_s_ago=3)
    bench.add_pod(liveness={"periodSeconds": 10})
    bench.set_state()
    await asyncio.sleep(16)
    assert bench.times("liveness") == [5, 15]


async def test_nothing_is_probed_before_the_container_exists(bench: Any) -> None:
    bench.add_pod(liveness={}, readiness={}, startup={})
    await asyncio.sleep(12)
    assert bench.probed == []
    bench.set_state(started=False)
    await asyncio.sleep(10)
    assert bench.probed == [(20, "startup")]


async def test_initial_delay_counts_whole_seconds_from_the_start_of_the_container(bench: Any) -> None:
    bench.add_pod(liveness={"periodSeconds": 1, "initialDelaySeconds": 5})
    await asyncio.sleep(0.5)
    bench.set_state()
    await asyncio.sleep(7)
    assert bench.times("liveness")[0] == 5.0
    assert bench.result("liveness") is True


async def test_started_gates_the_other_probes(bench: Any) -> None:
    bench.add_pod(liveness={}, readiness={}, startup={"periodSeconds": 4, "failureThreshold": 5})
    bench.codes["startup"] = 1
    bench.set_state(started=False)
    await asyncio.sleep(9)
    assert {kind for _, kind in bench.probed} == {"startup"}
    bench.codes["startup"] = 0
    await asyncio.sleep(4)
    assert bench.result("startup") is True
    bench.set_state(started=True)
    await asyncio.sleep(20)
    assert bench.times("startup") == [0, 4, 8, 12]
    assert bench.times("liveness") == [20, 30]


async def test_decided_startup_probe_is_on_hold_until_the_next_instance(bench: Any) -> None:
    bench.add_pod(startup={"periodSeconds": 1, "failureThreshold": 2})
    bench.codes["startup"] = 1
    bench.set_state(started=False)
    await asyncio.sleep(5.5)
    assert bench.times("startup") == [0, 1]
    assert bench.result("startup") is False
    bench.set_state("id-2", started=False)
    await asyncio.sleep(2)
    assert bench.result("startup", "id-1") is None
    assert bench.times("startup") == [0, 1, 6, 7]


async def test_failed_liveness_is_on_hold_until_the_next_instance(bench: Any) -> None:
    bench.add_pod(liveness={"periodSeconds": 1})
    bench.codes["liveness"] = 1
    bench.set_state()
    await asyncio.sleep(10.5)
    assert bench.times("liveness") == [0, 1, 2]
    bench.codes["liveness"] = 0
    bench.set_state("id-2")
    assert bench.result("liveness", "id-2") is None
    await asyncio.sleep(1)
    assert bench.result("liveness", "id-1") is None
    assert bench.result("liveness", "id-2") is True
    assert bench.times("liveness")[-1] == 11


async def test_slow_probe_never_overlaps_itself_and_one_missed_tick_is_made_up(bench: Any) -> None:
    bench.duration_s = 2.5
    bench.add_pod(liveness={"periodSeconds": 1})
    bench.set_state()
    await asyncio.sleep(6)
    assert bench.times("liveness") == [0, 2.5, 5]


async def test_trigger_runs_readiness_at_once_and_moves_the_beat(bench: Any) -> None:
    bench.add_pod(readiness={})
    bench.codes["readiness"] = 1
    bench.set_state()
    await asyncio.sleep(13)
    bench.manager.trigger_readiness("u1", "c")
    await asyncio.sleep(13)
    assert bench.times("readiness") == [0, 10, 13, 23]


async def test_trigger_before_the_status_is_known_runs_once_it_is(bench: Any) -> None:
    bench.add_pod(readiness={})
    await asyncio.sleep(4)
    bench.manager.trigger_readiness("u1", "c")
    await asyncio.sleep(1)
    assert bench.probed == []
    bench.set_state()
    await asyncio.sleep(0.1)
    assert bench.times("readiness") == [5]
    bench.set_state()
    await asyncio.sleep(0.1)
    assert bench.times("readiness") == [5]


async def test_trigger_during_a_probe_runs_right_after_it(bench: Any) -> None:
    bench.duration_s = 2
    bench.add_pod(readiness={})
    bench.set_state()
    await asyncio.sleep(1)
    bench.manager.trigger_readiness("u1", "c")
    await asyncio.sleep(5)
    assert bench.times("readiness") == [0, 2]


async def test_probe_that_waits_for_the_pods_address_does_not_probe_the_node(bench: Any) -> None:
    bench.add_pod(readiness={"exec": None, "tcpSocket": {"port": 1}})
    bench.manager.update_status("u1", {"phase": "Running", "containerStatuses": [
        {"name": "c", "containerID": "m://i", "started": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    ]})  # fmt: skip
    await asyncio.sleep(30)
    assert bench.events == []
