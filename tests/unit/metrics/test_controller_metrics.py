"""What the pod workers and the status manager count, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import copy

import pytest

from support.exposition import parse_exposition
from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.controllers.admission import PodAdmission
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.pod_workers import PodWorkers
from vkprovider.controllers.status_manager import StatusManager
from vkprovider.kube.events import EventClient
from vkprovider.kube.pods import PodClient
from vkprovider.provider.pod_provider import PodProvider, ProviderPod, SyncResult
from vkprovider.settings import PodSettings
from vkprovider.testing.builders import make_pod
from vkprovider.testing.contexts import make_node_context

pytestmark = pytest.mark.looptime

NODE = {"metadata": {"name": "node"}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "1"}}}


class SlowProvider(PodProvider):
    """A pod runs four seconds after it was first asked for, and takes two to stop."""

    name = "slow"

    async def sync_pod(self, pod, context):
        await asyncio.sleep(4)
        return SyncResult(status={"phase": "Running"})

    async def terminate_pod(self, pod, context, *, grace_period_s):
        await asyncio.sleep(2)
        return SyncResult(status={"phase": "Running"})

    async def cleanup_pod(self, pod_uid):
        return None

    async def get_pod_status(self, pod, context):
        return None

    async def list_pods(self):
        return []


class Bench:
    def __init__(self):
        clock = LoopClock()
        self.kube = FakeKube()
        self.node = make_node_context(clock=clock)
        self.metrics = self.node.metrics
        self.statuses = StatusManager(
            PodClient(self.kube), get_host_ips=lambda: ("192.0.2.7",), clock=clock, metrics=self.metrics
        )
        self.events = EventRecorder(
            EventClient(self.kube), node_name="node", settings=PodSettings(event_qps=0), clock=clock
        )
        self.workers = PodWorkers(
            SlowProvider(),
            self.node,
            statuses=self.statuses,
            events=self.events,
            admission=PodAdmission(lambda: NODE, None),
            settings=PodSettings(),
        )

    def create(self, name, **fields):
        pod = self.kube.put_pod({**make_pod(name, uid=f"uid-{name}"), **fields})
        self.workers.handle_pod(copy.deepcopy(pod))
        return pod

    def shown(self):
        self.metrics.refresh()
        return parse_exposition(self.metrics.render())


@pytest.fixture
async def bench():
    bench = Bench()
    runner = asyncio.create_task(bench.workers.run())
    await asyncio.sleep(0)
    yield bench
    runner.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await runner
    await bench.workers.aclose()
    await bench.statuses.aclose()
    await bench.events.aclose()


async def test_the_start_of_a_pod_is_timed_from_its_first_sight_until_it_runs(bench):
    bench.create("web")
    await asyncio.sleep(1)
    shown = bench.shown()
    assert shown.value("kubelet_pod_start_duration_seconds_count") == 0
    assert shown.value("kubelet_pod_worker_start_duration_seconds_count") == 1
    assert shown.value("kubelet_containers_per_pod_count_sum") == 1
    await asyncio.sleep(120)
    shown = bench.shown()
    assert shown.value("kubelet_pod_start_duration_seconds_count") == 1
    assert shown.value("kubelet_pod_start_duration_seconds_sum") == pytest.approx(4, abs=0.01)
    assert shown.value("kubelet_pod_worker_duration_seconds_count", operation_type="create") == 1
    assert shown.value("kubelet_pod_worker_duration_seconds_sum", operation_type="create") == pytest.approx(4, abs=0.01)
    assert shown.value("kubelet_pod_worker_duration_seconds_count", operation_type="sync") >= 1


async def test_a_pod_that_ran_before_this_process_has_not_been_started_by_it(bench):
    bench.create("old", status={"phase": "Running"})
    await asyncio.sleep(10)
    assert bench.shown().value("kubelet_pod_start_duration_seconds_count") == 0


async def test_pods_are_counted_by_how_far_they_are(bench):
    pod = bench.create("web")
    await asyncio.sleep(10)
    shown = bench.shown()
    assert shown.value("kubelet_desired_pods", static="") == 1
    assert shown.value("kubelet_active_pods", static="") == 1
    assert shown.value("kubelet_working_pods", lifecycle="sync", config="desired", static="") == 1
    bench.workers.handle_pod_deleted(pod)
    await asyncio.sleep(1)
    shown = bench.shown()
    assert shown.value("kubelet_desired_pods", static="") == 0
    assert shown.value("kubelet_working_pods", lifecycle="terminating", config="orphan", static="") == 1
    await asyncio.sleep(10)
    shown = bench.shown()
    assert shown.value("kubelet_pod_worker_duration_seconds_sum", operation_type="kill") == pytest.approx(2, abs=0.01)
    assert not any(series.value for series in shown.find("kubelet_working_pods"))


async def test_orphans_and_rejections_are_counted(bench):
    bench.workers.terminate_orphan(ProviderPod(make_pod("orphan", uid="uid-orphan")))
    await asyncio.sleep(0.1)
    shown = bench.shown()
    assert shown.value("kubelet_orphaned_runtime_pods_total") == 1
    assert shown.value("kubelet_working_pods", lifecycle="terminating", config="runtime_only", static="unknown") == 1
    bench.create("one")
    bench.create("two")
    await asyncio.sleep(10)
    assert bench.shown().value("kubelet_admission_rejections_total", reason="OutOfpods") == 1


async def test_a_status_is_timed_until_the_api_server_has_it(bench):
    bench.kube.delay_s = 3
    bench.create("web")
    await asyncio.sleep(60)
    shown = bench.shown()
    count = shown.value("kubelet_pod_status_sync_duration_seconds_count")
    assert count >= 1
    assert shown.value("kubelet_pod_status_sync_duration_seconds_sum") == pytest.approx(3 * count, abs=0.1)
