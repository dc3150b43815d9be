"""The pod workers: order, coalescing, interruption, failures, and what a pod costs at rest."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from dataclasses import dataclass, field

import pytest

from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.controllers.admission import PodAdmission
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.pod_workers import PodWorkers
from vkprovider.controllers.status_manager import StatusManager
from vkprovider.errors import AdmissionError, InvalidPodError, PodSyncError, TransientError
from vkprovider.kube.events import EventClient
from vkprovider.kube.pods import PodClient
from vkprovider.provider.capabilities import ResourceAccountingCapability
from vkprovider.provider.pod_provider import PodProvider, ProviderPod, SyncResult
from vkprovider.settings import PodSettings
from vkprovider.testing.builders import make_pod
from vkprovider.testing.contexts import make_node_context

pytestmark = pytest.mark.looptime

NODE = {
    "metadata": {"name": "node"},
    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "3"}},
}


def container_status(state, **more):
    return {"name": "main", "ready": "running" in state, "state": state, **more}


@dataclass
class ScriptedProvider(PodProvider):
    """Keeps pods in a dictionary; how long calls take and how they fail can be set per pod name."""

    calls: list = field(default_factory=list)
    running: dict = field(default_factory=dict)
    sync_s: float = 0.0
    terminate_s: float = 0.0
    errors: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    exit_code: int = 0
    changes: asyncio.Queue = field(default_factory=asyncio.Queue)
    busy: set = field(default_factory=set)

    name = "scripted"

    def log(self, verb, pod, *more):
        self.calls.append((verb, pod["metadata"]["name"], *more))

    def _fail(self, verb, name):
        queue = self.errors.get((verb, name))
        if queue:
            raise queue.pop(0)

    @contextlib.contextmanager
    def alone(self, uid):
        assert uid not in self.busy, "calls for one pod overlap"
        self.busy.add(uid)
        try:
            yield
        finally:
            self.busy.discard(uid)

    async def sync_pod(self, pod, context):
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        with self.alone(uid):
            self.log("sync", pod, pod["metadata"]["resourceVersion"])
            self._fail("sync", name)
            await asyncio.sleep(self.sync_s)
            self.running[uid] = name
            if (result := self.results.get(name)) is not None:
                return result
            status = container_status({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
            return SyncResult(status={"phase": "Running", "containerStatuses": [status]})

    async def terminate_pod(self, pod, context, *, grace_period_s):
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        with self.alone(uid):
            self.log("terminate", pod, grace_period_s)
            self._fail("terminate", name)
            await asyncio.sleep(min(self.terminate_s, grace_period_s) if self.terminate_s else 0)
            if self.running.pop(uid, None) is None:
                return SyncResult()
            end = container_status({"terminated": {"exitCode": self.exit_code}})
            return SyncResult(status={"phase": "Running", "containerStatuses": [end]})

    async def cleanup_pod(self, pod_uid):
        self.calls.append(("cleanup", pod_uid))

    async def get_pod_status(self, pod, context):
        return None

    async def list_pods(self):
        return []

    async def pod_changes(self):
        while True:
            yield await self.changes.get()

    def verbs(self, name):
        return [call[0] for call in self.calls if call[1] in (name, f"uid-{name}")]


class Bench:
    def __init__(self, accounting=None, settings=None):
        self.kube = FakeKube()
        clock = LoopClock()
        self.provider = ScriptedProvider()
        self.events = EventRecorder(
            EventClient(self.kube), node_name="node", settings=PodSettings(event_qps=0), clock=clock
        )
        self.statuses = StatusManager(
            PodClient(self.kube),
            get_host_ips=lambda: ("192.0.2.7",),
            clock=clock,
            on_deleted=lambda uid: self.workers.handle_absent(uid),
        )
        self.workers = PodWorkers(
            self.provider,
            make_node_context(clock=clock),
            statuses=self.statuses,
            events=self.events,
            admission=PodAdmission(lambda: NODE, accounting),
            settings=settings or PodSettings(),
        )
        self.runner = None

    def start(self):
        self.runner = asyncio.create_task(self.workers.run())

    async def stop(self):
        if self.runner is not None:
            self.runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.runner
        await self.workers.aclose()
        await self.statuses.aclose()
        await self.events.aclose()

    def path(self, name):
        return f"/api/v1/namespaces/default/pods/{name}"

    def server(self, name="pod"):
        return self.kube.objects.get(self.path(name))

    def create(self, name="pod", uid=None, **fields):
        pod = self.kube.put_pod(make_pod(name, uid=uid or f"uid-{name}", **fields))
        self.workers.handle_pod(copy.deepcopy(pod))
        return pod

    def update(self, name="pod", *, status=None, **metadata):
        current = copy.deepcopy(self.server(name))
        current["metadata"].update(metadata)
        if status is not None:
            current["status"] = {**current["status"], **status}
        self.workers.handle_pod(copy.deepcopy(self.kube.put_pod(current)))

    def delete(self, name="pod", grace=30):
        self.update(name, deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=grace)

    def force_delete(self, name="pod"):
        gone = self.kube.objects.pop(self.path(name))
        gone["metadata"].update(
            resourceVersion="999999", deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=0
        )
        self.workers.handle_pod_deleted(gone)

    def reasons(self):
        return [r.body["reason"] for r in self.kube.made("POST", "events")]


@pytest.fixture
async def make_bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for bench in made:
        await bench.stop()


@pytest.fixture
async def bench(make_bench):
    bench = make_bench()
    bench.start()
    return bench


async def test_pod_is_synced_and_its_status_sent(bench):
    bench.create()
    await asyncio.sleep(1)
    assert bench.server()["status"]["phase"] == "Running"
    assert bench.provider.verbs("pod") == ["sync"]


async def test_nothing_is_done_before_run_and_everything_after(make_bench):
    bench = make_bench()
    bench.create()
    await asyncio.sleep(100)
    assert bench.provider.calls == []
    bench.start()
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync"]


async def test_echo_of_our_own_status_does_not_sync_again(bench):
    bench.create()
    await asyncio.sleep(1)
    bench.workers.handle_pod(copy.deepcopy(bench.server()))
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync"]


async def test_updates_during_a_sync_become_one_with_the_newest_version(bench):
    bench.provider.sync_s = 5
    bench.create()
    await asyncio.sleep(1)
    for index in range(5):
        bench.update(labels={"n": str(index)})
    newest = bench.server()["metadata"]["resourceVersion"]
    await asyncio.sleep(20)
    syncs = [call for call in bench.provider.calls if call[0] == "sync"]
    assert len(syncs) == 2
    assert syncs[1][2] == newest


async def test_pods_do_not_wait_for_each_other(bench):
    bench.provider.sync_s = 5
    for name in ("a", "b", "c"):
        bench.create(name)
    await asyncio.sleep(5.5)
    assert all(bench.server(name)["status"]["phase"] == "Running" for name in "abc")


async def test_unchanged_pod_is_synced_again_after_the_sync_period(bench):
    bench.create()
    await asyncio.sleep(59)
    assert len(bench.provider.calls) == 1
    await asyncio.sleep(32)
    assert len(bench.provider.calls) == 2


async def test_requeue_that_the_provider_asks_for(bench):
    bench.provider.results["pod"] = SyncResult(requeue_after_s=2.0)
    bench.create()
    await asyncio.sleep(7)
    assert len(bench.provider.calls) == 4


async def test_change_named_by_the_provider_syncs_now(bench):
    bench.create()
    await asyncio.sleep(1)
    bench.provider.changes.put_nowait("uid-pod")
    bench.provider.changes.put_nowait("uid-unknown")
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync", "sync"]


async def test_deletion_stops_reports_and_removes_in_that_order(bench):
    bench.provider.terminate_s = 5
    bench.provider.exit_code = 3
    bench.create()
    await asyncio.sleep(1)
    bench.delete(grace=20)
    await asyncio.sleep(4)
    assert bench.server() is not None
    await asyncio.sleep(4)
    assert bench.server() is None
    assert bench.provider.calls[1:] == [("terminate", "pod", 20), ("cleanup", "uid-pod")]
    final = bench.kube.made("PATCH", "/status")[-1].body["status"]
    assert final["phase"] == "Failed"
    assert final["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


async def test_deletion_interrupts_a_sync_in_progress(bench):
    bench.provider.sync_s = 1000
    bench.create()
    await asyncio.sleep(1)
    bench.delete()
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync", "terminate", "cleanup"]
    assert bench.server() is None


async def test_shorter_grace_period_interrupts_the_stop_in_progress(bench):
    bench.provider.terminate_s = 1000
    bench.create()
    await asyncio.sleep(1)
    bench.delete(grace=600)
    await asyncio.sleep(10)
    bench.delete(grace=5)
    await asyncio.sleep(4)
    assert bench.server() is not None
    await asyncio.sleep(3)
    assert bench.server() is None
    assert [c for c in bench.provider.calls if c[0] == "terminate"] == [
        ("terminate", "pod", 600),
        ("terminate", "pod", 5),
    ]


async def test_longer_grace_period_changes_nothing(bench):
    bench.provider.terminate_s = 1000
    bench.create()
    await asyncio.sleep(1)
    bench.delete(grace=10)
    await asyncio.sleep(2)
    bench.delete(grace=600)
    await asyncio.sleep(10)
    assert [c[2] for c in bench.provider.calls if c[0] == "terminate"] == [10]


async def test_pod_deleted_and_made_again_under_its_name_is_two_pods(bench):
    bench.provider.terminate_s = 10
    bench.create(uid="first")
    await asyncio.sleep(1)
    bench.force_delete()
    bench.create(uid="second")
    await asyncio.sleep(1)
    assert bench.workers.find_pod("default", "pod")["metadata"]["uid"] == "second"
    assert bench.server()["status"]["phase"] == "Running"
    assert "first" in bench.provider.running
    await asyncio.sleep(20)
    assert list(bench.provider.running) == ["second"]
    assert ("cleanup", "first") in bench.provider.calls
    assert ("cleanup", "second") not in bench.provider.calls
    assert bench.workers.find_pod("default", "pod")["metadata"]["uid"] == "second"


async def test_forced_deletion_still_stops_the_containers_and_reports_nothing(bench):
    bench.create()
    await asyncio.sleep(1)
    sent = len(bench.kube.made("PATCH"))
    bench.force_delete()
    await asyncio.sleep(1)
    assert bench.provider.calls[1:] == [("terminate", "pod", 1), ("cleanup", "uid-pod")]
    assert len(bench.kube.made("PATCH")) == sent
    assert bench.kube.made("DELETE") == []
    assert bench.workers.list_pods() == []


async def test_missed_deletion_is_found_by_a_full_list(bench):
    loop = asyncio.get_running_loop()
    bench.create("a")
    bench.create("b")
    await asyncio.sleep(5)
    del bench.kube.objects[bench.path("a")]
    bench.workers.handle_pod_list([copy.deepcopy(bench.server("b"))], listed_at=loop.time())
    await asyncio.sleep(1)
    assert bench.provider.verbs("a") == ["sync", "terminate", "cleanup"]
    assert bench.provider.verbs("b") == ["sync"]


async def test_pod_seen_after_the_list_was_asked_for_is_not_taken_for_deleted(bench):
    listed_at = asyncio.get_running_loop().time()
    await asyncio.sleep(0.5)
    bench.create()
    bench.workers.handle_pod_list([], listed_at=listed_at)
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync"]


async def test_late_list_does_not_bring_a_pod_back(bench):
    bench.create()
    await asyncio.sleep(1)
    old = copy.deepcopy(bench.server())
    bench.force_delete()
    await asyncio.sleep(1)
    bench.workers.handle_pod_list([old], listed_at=0)
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync", "terminate", "cleanup"]


async def test_pod_that_is_terminal_in_the_api_is_never_started(bench):
    bench.create(status={"phase": "Succeeded"})
    await asyncio.sleep(200)
    assert bench.provider.verbs("pod") == ["terminate"]
    assert bench.kube.made("PATCH") == []
    bench.delete()
    await asyncio.sleep(1)
    assert bench.server() is None


async def test_pod_that_ends_by_itself_keeps_its_records_until_it_is_deleted(bench):
    end = container_status({"terminated": {"exitCode": 0}})
    bench.provider.results["pod"] = SyncResult(status={"phase": "Succeeded", "containerStatuses": [end]}, terminal=True)
    bench.create(restart_policy="Never")
    await asyncio.sleep(300)
    assert bench.server()["status"]["phase"] == "Succeeded"
    assert bench.provider.verbs("pod") == ["sync", "terminate"]
    bench.delete()
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync", "terminate", "cleanup"]
    assert bench.server() is None


async def test_terminal_phase_is_not_told_before_everything_has_stopped(bench):
    bench.provider.terminate_s = 10
    bench.provider.results["pod"] = SyncResult(status={"phase": "Failed", "reason": "DeadlineExceeded"}, terminal=True)
    bench.create()
    await asyncio.sleep(5)
    assert bench.server()["status"]["phase"] == "Pending"
    await asyncio.sleep(10)
    assert bench.server()["status"]["phase"] == "Failed"


async def test_failure_is_tried_again_after_the_backoff_and_harms_no_other(bench):
    bench.provider.errors["sync", "bad"] = [ValueError("bug"), PodSyncError("no image")]
    bench.create("bad")
    bench.create("good")
    await asyncio.sleep(1)
    assert bench.server("good")["status"]["phase"] == "Running"
    await asyncio.sleep(8)
    assert bench.provider.verbs("bad") == ["sync"]
    await asyncio.sleep(30)
    assert bench.provider.verbs("bad") == ["sync", "sync", "sync"]
    assert bench.server("bad")["status"]["phase"] == "Running"
    assert bench.reasons() == ["FailedSync"]  # only the bug: step failures have events of the provider's own


async def test_backoff_error_decides_when_to_try_again(bench):
    bench.provider.errors["sync", "pod"] = [TransientError("busy", retry_after_s=2)]
    bench.create()
    await asyncio.sleep(1.9)
    assert len(bench.provider.calls) == 1
    await asyncio.sleep(0.2)
    assert len(bench.provider.calls) == 2


async def test_failing_stop_is_tried_again_until_nothing_runs(bench):
    bench.provider.errors["terminate", "pod"] = [TransientError("engine is away")]
    bench.create()
    await asyncio.sleep(1)
    bench.delete()
    await asyncio.sleep(5)
    assert bench.server() is not None
    await asyncio.sleep(12)
    assert bench.server() is None
    assert "FailedKillPod" in bench.reasons()


async def test_pod_that_can_never_run_fails_with_the_providers_reason(bench):
    bench.provider.errors["sync", "pod"] = [InvalidPodError("no such thing", reason="Unsupported")]
    bench.create()
    await asyncio.sleep(100)
    status = bench.server()["status"]
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Unsupported", "no such thing")
    assert bench.provider.verbs("pod") == ["sync", "terminate"]
    assert bench.reasons() == ["Unsupported"]


async def test_pod_that_does_not_fit_is_rejected_and_never_started(bench):
    for name in ("a", "b", "c", "d"):
        bench.create(name)
    await asyncio.sleep(1)
    status = bench.server("d")["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "OutOfpods")
    assert status["message"] == (
        "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
    )
    assert "sync" not in bench.provider.verbs("d")
    assert bench.reasons() == ["OutOfpods"]
    bench.delete("d")
    await asyncio.sleep(1)
    assert bench.server("d") is None


async def test_place_of_a_stopped_pod_is_free_again(bench):
    for name in ("a", "b", "c"):
        bench.create(name)
    await asyncio.sleep(1)
    bench.delete("a")
    await asyncio.sleep(1)
    bench.create("d")
    await asyncio.sleep(1)
    assert bench.server("d")["status"]["phase"] == "Running"


async def test_provider_that_counts_for_itself_decides(make_bench):
    asked = []

    class Accounting(ResourceAccountingCapability):
        async def admit_pod(self, pod, active_pods):
            asked.append((pod["metadata"]["name"], sorted(p["metadata"]["name"] for p in active_pods)))
            await asyncio.sleep(0.5)
            if len(active_pods) >= 2:
                raise AdmissionError("no GPU left", reason="OutOfgpu")

    bench = make_bench(accounting=Accounting())
    bench.start()
    for name in ("a", "b", "c", "d"):
        bench.create(name)
    await asyncio.sleep(10)
    assert asked == [("a", []), ("b", ["a"]), ("c", ["a", "b"]), ("d", ["a", "b"])]
    assert bench.server("d")["status"]["reason"] == "OutOfgpu"


async def test_orphan_is_stopped_with_the_shortest_grace_and_removed(bench):
    pod = make_pod("lost", uid="uid-lost")
    bench.provider.running["uid-lost"] = "lost"
    bench.workers.terminate_orphan(ProviderPod(pod))
    assert bench.workers.find_pod("default", "lost") is None
    assert bench.workers.is_known("uid-lost")
    await asyncio.sleep(1)
    assert bench.provider.calls == [("terminate", "lost", 1), ("cleanup", "uid-lost")]
    assert not bench.workers.is_known("uid-lost")
    assert bench.kube.requests == []


async def test_pod_that_a_worker_has_is_no_orphan(bench):
    pod = bench.create()
    await asyncio.sleep(1)
    bench.workers.terminate_orphan(ProviderPod(pod))
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync"]


async def test_pod_that_vanished_from_the_api_unseen_is_stopped_when_its_status_is_refused(bench):
    bench.create()
    await asyncio.sleep(1)
    del bench.kube.objects[bench.path("pod")]
    bench.provider.results["pod"] = SyncResult(status={"phase": "Running", "podIP": "10.0.0.9"})
    bench.provider.changes.put_nowait("uid-pod")
    await asyncio.sleep(1)
    assert bench.provider.verbs("pod") == ["sync", "sync", "terminate", "cleanup"]


async def test_five_hundred_pods_at_rest_have_no_task(make_bench):
    bench = make_bench()
    NODE["status"]["allocatable"]["pods"] = "1000"
    try:
        bench.start()
        await asyncio.sleep(0.1)
        before = len(asyncio.all_tasks())
        for index in range(500):
            bench.create(f"p{index}")
        await asyncio.sleep(5)
        assert len(bench.provider.running) == 500
        assert len(asyncio.all_tasks()) == before
    finally:
        NODE["status"]["allocatable"]["pods"] = "3"


async def test_lookup_shows_the_newest_status(bench):
    bench.create()
    bench.kube.delay_s = 60
    await asyncio.sleep(1)
    assert bench.workers.find_pod("default", "pod")["status"]["phase"] == "Running"
    assert [p["metadata"]["name"] for p in bench.workers.list_pods()] == ["pod"]
    assert bench.workers.find_pod("default", "other") is None
    assert bench.workers.find_pod("other", "pod") is None


async def test_published_status_is_sent_at_once(make_bench):
    bench = make_bench()

    class Publishing(ScriptedProvider):
        async def sync_pod(self, pod, context):
            context.publish_status({"phase": "Pending", "message": "pulling"})
            await asyncio.sleep(100)
            return SyncResult(status={"phase": "Running"})

    bench.workers._provider = Publishing()
    bench.start()
    bench.create()
    await asyncio.sleep(1)
    assert bench.server()["status"]["message"] == "pulling"


async def test_stop_leaves_pods_running(bench):
    bench.create()
    bench.provider.sync_s = 100
    bench.create("slow")
    await asyncio.sleep(1)
    await bench.stop()
    assert "terminate" not in [call[0] for call in bench.provider.calls]
    assert bench.provider.busy == set()
