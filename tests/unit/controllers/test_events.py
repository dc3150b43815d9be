"""Correlation, rate and delivery of events."""

from __future__ import annotations

import asyncio

import pytest

from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.controllers.events import EventRecorder
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.events import EventClient
from vkprovider.settings import PodSettings
from vkprovider.testing.builders import make_container, make_pod

pytestmark = pytest.mark.looptime


class Bench:
    def __init__(self, **options):
        self.kube = FakeKube()
        settings = PodSettings(event_qps=options.pop("qps", 0), event_burst=options.pop("burst", 100))
        self.recorder = EventRecorder(
            EventClient(self.kube), node_name="n1", settings=settings, clock=LoopClock(), **options
        )

    @property
    def created(self):
        return [r.body for r in self.kube.made("POST")]


@pytest.fixture
async def make_bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for bench in made:
        await bench.recorder.aclose()


async def test_event_on_a_container_has_the_kubelets_form(make_bench):
    bench = make_bench()
    pod = make_pod("web", namespace="shop", uid="u1", init_containers=[make_container("setup")])
    bench.recorder.for_pod(pod)("Normal", "Started", "Container started", container="setup")
    await asyncio.sleep(1)
    (body,) = bench.created
    assert body["involvedObject"] == {
        "kind": "Pod",
        "namespace": "shop",
        "name": "web",
        "uid": "u1",
        "apiVersion": "v1",
        "resourceVersion": "1",
        "fieldPath": "spec.initContainers{setup}",
    }
    assert body["source"] == {"component": "kubelet", "host": "n1"}
    assert (body["reportingComponent"], body["reportingInstance"]) == ("kubelet", "n1")
    assert (body["type"], body["reason"], body["message"], body["count"]) == (
        "Normal",
        "Started",
        "Container started",
        1,
    )
    name, _, suffix = body["metadata"]["name"].rpartition(".")
    assert name == "web"
    assert int(suffix, 16) > 0
    assert bench.kube.made("POST")[0].path == "/api/v1/namespaces/shop/events"


async def test_node_event_lives_in_default_and_has_no_uid(make_bench):
    bench = make_bench()
    bench.recorder.record_node_event("Normal", "Starting", "Starting kubelet.")
    await asyncio.sleep(1)
    (body,) = bench.created
    assert body["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1"}
    assert body["metadata"]["namespace"] == "default"


async def test_equal_events_are_counted_in_one_object(make_bench):
    bench = make_bench()
    record = bench.recorder.for_pod(make_pod())
    for _ in range(3):
        record("Warning", "BackOff", "again")
        await asyncio.sleep(5)
    assert len(bench.created) == 1
    patches = bench.kube.made("PATCH")
    assert [p.body["count"] for p in patches] == [2, 3]
    assert patches[-1].body["lastTimestamp"] == "2026-01-01T00:00:10Z"


async def test_equal_events_that_wait_together_are_sent_once(make_bench):
    bench = make_bench()
    record = bench.recorder.for_pod(make_pod())
    for _ in range(4):
        record("Warning", "BackOff", "again")
    await asyncio.sleep(5)
    assert [body["count"] for body in bench.created] == [4]
    assert bench.kube.made("PATCH") == []


async def test_tenth_similar_event_and_more_are_combined(make_bench):
    # Parity with client-go tools/record/events_cache_test.go, TestEventCorrelator.
    bench = make_bench()
    record = bench.recorder.for_pod(make_pod())
    for index in range(15):
        record("Warning", "Unhealthy", f"probe failed: {index}")
        await asyncio.sleep(1)
    messages = [body["message"] for body in bench.created]
    assert messages[:9] == [f"probe failed: {index}" for index in range(9)]
    assert messages[9:] == ["(combined from similar events): probe failed: 9"]
    assert bench.kube.made("PATCH")[-1].body["message"] == "(combined from similar events): probe failed: 14"


async def test_similar_events_are_separate_again_after_ten_quiet_minutes(make_bench):
    bench = make_bench()
    record = bench.recorder.for_pod(make_pod())
    for index in range(9):
        record("Warning", "Unhealthy", f"first {index}")
    await asyncio.sleep(601)
    record("Warning", "Unhealthy", "second")
    await asyncio.sleep(1)
    assert bench.created[-1]["message"] == "second"


async def test_one_object_may_not_flood_the_server(make_bench):
    bench = make_bench()
    record = bench.recorder.for_pod(make_pod("noisy"))
    for index in range(40):
        record("Normal", f"Reason{index}", "m")
    bench.recorder.for_pod(make_pod("quiet"))("Normal", "Created", "m")
    await asyncio.sleep(5)
    names = [body["involvedObject"]["name"] for body in bench.created]
    assert names.count("noisy") == 25
    assert names.count("quiet") == 1
    assert bench.recorder.dropped == 15
    await asyncio.sleep(300)
    record("Normal", "Later", "m")
    record("Normal", "TooSoon", "m")
    await asyncio.sleep(1)
    assert [b["reason"] for b in bench.created[-1:]] == ["Later"]


async def test_sending_keeps_to_the_rate(make_bench):
    bench = make_bench(qps=10, burst=5)
    for index in range(25):
        bench.recorder.for_pod(make_pod(f"p{index}"))("Normal", "Created", "m")
    await asyncio.sleep(0.05)
    assert len(bench.created) == 5
    await asyncio.sleep(1.0)
    assert 14 <= len(bench.created) <= 16
    assert await bench.recorder.flush(timeout_s=10)
    assert len(bench.created) == 25


async def test_oldest_waiting_events_are_dropped_when_too_many_wait(make_bench):
    bench = make_bench(max_queued=10)
    for index in range(30):
        bench.recorder.for_pod(make_pod(f"p{index}"))("Normal", "Created", "m")
    await asyncio.sleep(5)
    names = [body["involvedObject"]["name"] for body in bench.created]
    assert names == [f"p{index}" for index in range(20, 30)]
    assert bench.recorder.dropped == 20


async def test_lost_server_is_tried_again(make_bench):
    bench = make_bench()
    bench.kube.fail("POST", "events", TransientError("lost"), times=2)
    bench.recorder.for_pod(make_pod())("Normal", "Created", "m")
    await asyncio.sleep(30)
    assert len(bench.kube.objects) == 1
    assert bench.recorder.dropped == 0


async def test_refused_event_is_dropped(make_bench):
    bench = make_bench()
    bench.kube.fail("POST", "events", KubeAPIError("namespace is going", status=403), times=99)
    bench.recorder.for_pod(make_pod())("Normal", "Created", "m")
    await asyncio.sleep(300)
    assert len(bench.created) == 1
    assert bench.recorder.dropped == 1


async def test_event_that_the_server_forgot_is_created_again_with_its_count(make_bench):
    bench = make_bench()
    record = bench.recorder.for_pod(make_pod())
    record("Warning", "BackOff", "again")
    await asyncio.sleep(1)
    bench.kube.objects.clear()
    record("Warning", "BackOff", "again")
    await asyncio.sleep(1)
    assert [body["count"] for body in bench.created] == [1, 2]


async def test_flush_gives_up_in_time_and_close_loses_the_rest(make_bench):
    bench = make_bench()
    bench.kube.down = True
    bench.recorder.for_pod(make_pod())("Normal", "Created", "m")
    assert not await bench.recorder.flush(timeout_s=3)
    await bench.recorder.aclose()
    bench.recorder.for_pod(make_pod())("Normal", "Created", "m")
    assert len(bench.kube.requests) == 1
