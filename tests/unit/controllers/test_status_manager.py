"""The status manager: what it sends, when, how often, and when it takes a pod out of the API."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools

import pytest

from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.controllers.status_manager import StatusManager
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.pods import PodClient
from vkprovider.testing.builders import make_pod

pytestmark = pytest.mark.looptime


def running(ready=True):
    return {
        "phase": "Running",
        "containerStatuses": [
            {"name": "main", "ready": ready, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
        ],
    }


def ended(code=0):
    return {
        "phase": "Succeeded" if code == 0 else "Failed",
        "containerStatuses": [{"name": "main", "ready": False, "state": {"terminated": {"exitCode": code}}}],
    }


class Bench:
    def __init__(self, **options):
        self.kube = FakeKube()
        self.gone = []
        self.statuses = StatusManager(
            PodClient(self.kube),
            get_host_ips=lambda: ("192.0.2.7",),
            clock=LoopClock(),
            on_deleted=self.gone.append,
            **options,
        )

    def add(self, name="pod", **fields):
        pod = self.kube.put_pod(make_pod(name, uid=f"uid-{name}", **fields))
        self.statuses.track(copy.deepcopy(pod))
        return pod

    def server(self, pod):
        return self.kube.objects.get(f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}")

    def change(self, pod, change):
        current = copy.deepcopy(self.server(pod))
        change(current)
        stored = self.kube.put_pod(current)
        self.statuses.track(copy.deepcopy(stored))
        return stored

    @property
    def patches(self):
        return self.kube.made("PATCH")


@pytest.fixture
async def make_bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for bench in made:
        await bench.statuses.aclose()


async def test_status_is_sent_as_strategic_patch_with_the_uid_as_precondition(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(0.1)
    (request,) = bench.patches
    assert request.path == "/api/v1/namespaces/default/pods/pod/status"
    assert request.body["metadata"] == {"uid": "uid-pod"}
    assert bench.server(pod)["status"]["phase"] == "Running"
    assert bench.server(pod)["status"]["hostIP"] == "192.0.2.7"


async def test_equal_status_is_not_sent_again(make_bench):
    bench = make_bench()
    pod = bench.add()
    for _ in range(3):
        bench.statuses.set_status(pod, running())
        await asyncio.sleep(1)
    assert len(bench.patches) == 1


async def test_status_that_the_server_has_already_is_not_sent_after_a_restart(make_bench):
    first = make_bench()
    pod = first.add()
    first.statuses.set_status(pod, running())
    await asyncio.sleep(1)
    second = make_bench()
    stored = second.kube.put_pod(first.server(pod))
    second.statuses.track(copy.deepcopy(stored))
    second.statuses.set_status(stored, running())
    await asyncio.sleep(1)
    assert second.patches == []


async def test_newest_status_wins_while_a_patch_is_under_way(make_bench):
    bench = make_bench()
    bench.kube.delay_s = 1.0
    pod = bench.add()
    for ready in (False, True, False, True):
        bench.statuses.set_status(pod, running(ready))
        await asyncio.sleep(0.1)
    await asyncio.sleep(5)
    assert len(bench.patches) == 2
    assert bench.server(pod)["status"]["containerStatuses"][0]["ready"] is True


async def test_at_most_so_many_requests_at_once(make_bench):
    bench = make_bench(max_concurrent=3)
    bench.kube.delay_s = 1.0
    for index in range(20):
        bench.statuses.set_status(bench.add(f"p{index}"), running())
    assert await bench.statuses.flush(timeout_s=60)
    assert bench.kube.most_at_once == 3
    assert len(bench.patches) == 20


async def test_condition_of_somebody_else_survives(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.statuses.set_status(pod, running(False))
    await asyncio.sleep(1)
    pod = bench.change(pod, lambda p: p["status"]["conditions"].append({"type": "lb", "status": "True"}))
    bench.statuses.set_status(pod, running(True))
    await asyncio.sleep(1)
    found = {c["type"]: c["status"] for c in bench.server(pod)["status"]["conditions"]}
    assert found["lb"] == "True"
    assert found["Ready"] == "True"


async def test_lost_server_is_tried_for_ever_with_capped_backoff(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.kube.down = True
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(600)
    times = [request.at for request in bench.patches]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 20 < len(times) < 40
    assert max(gaps) <= 36.1
    bench.kube.down = False
    await asyncio.sleep(40)
    assert bench.server(pod)["status"]["phase"] == "Running"


async def test_retry_after_of_the_server_is_obeyed(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.kube.fail("PATCH", "pods", KubeAPIError("slow down", status=429, retry_after_s=20))
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(19)
    assert len(bench.patches) == 1
    await asyncio.sleep(2)
    assert len(bench.patches) == 2


@pytest.mark.parametrize("status", [404, 409])
async def test_pod_that_is_gone_or_was_made_anew_is_dropped(make_bench, status):
    bench = make_bench()
    pod = bench.add()
    bench.kube.fail("PATCH", "pods", KubeAPIError("no", status=status, kube_reason="Conflict"))
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(100)
    assert len(bench.patches) == 1
    assert bench.gone == ["uid-pod"]


async def test_same_name_with_another_uid_is_never_written(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.kube.put_pod(make_pod(uid="another"))
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(1)
    assert bench.server(pod)["status"]["phase"] == "Pending"
    assert bench.gone == ["uid-pod"]


async def test_deleted_pod_leaves_the_api_only_after_its_terminal_status_and_the_end_of_work(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(1)
    pod = bench.change(
        pod, lambda p: p["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=30)
    )
    bench.statuses.set_status(pod, ended(), may_run=True)
    await asyncio.sleep(1)
    assert bench.server(pod)["status"]["phase"] == "Running"  # held back
    assert bench.server(pod)["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    bench.statuses.set_status(pod, ended(), may_run=False)
    await asyncio.sleep(1)
    assert bench.server(pod)["status"]["phase"] == "Succeeded"
    assert bench.kube.made("DELETE") == []
    bench.statuses.finish("uid-pod")
    await asyncio.sleep(1)
    assert bench.server(pod) is None
    (request,) = bench.kube.made("DELETE")
    assert request.body["gracePeriodSeconds"] == 0
    assert request.body["preconditions"] == {"uid": "uid-pod"}


async def test_pod_is_not_deleted_while_its_terminal_status_cannot_be_sent(make_bench):
    bench = make_bench()
    pod = bench.add(deletion_grace_period_s=30)
    bench.kube.fail("PATCH", "pods", TransientError("lost"), times=3)
    bench.statuses.set_status(pod, ended(3), may_run=False)
    bench.statuses.finish("uid-pod")
    await asyncio.sleep(0.3)
    assert bench.server(pod) is not None
    await asyncio.sleep(60)
    assert bench.server(pod) is None
    methods = [r.method for r in bench.kube.requests]
    assert methods == ["PATCH"] * 4 + ["DELETE"]


async def test_finished_pod_is_deleted_when_somebody_deletes_it_later(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.statuses.set_status(pod, ended(), may_run=False)
    bench.statuses.finish("uid-pod")
    await asyncio.sleep(10)
    assert bench.kube.made("DELETE") == []
    bench.change(pod, lambda p: p["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    await asyncio.sleep(1)
    assert bench.server(pod) is None


async def test_terminal_state_is_final(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.statuses.set_status(pod, ended(1), may_run=False)
    await asyncio.sleep(1)
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(1)
    assert bench.server(pod)["status"]["phase"] == "Failed"


async def test_resurrected_container_of_a_pod_that_never_restarts_is_thrown_away(make_bench):
    bench = make_bench()
    pod = bench.add(restart_policy="Never")
    bench.statuses.set_status(pod, ended(1))
    await asyncio.sleep(1)
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(1)
    assert "terminated" in bench.server(pod)["status"]["containerStatuses"][0]["state"]


async def test_rejection_removes_what_a_kubelet_owns_and_keeps_the_rest(make_bench):
    bench = make_bench()
    pod = bench.add()
    pod = bench.change(pod, lambda p: p["status"]["conditions"].append({"type": "lb", "status": "True"}))
    bench.statuses.set_rejected(pod, "OutOfpods", "full")
    await asyncio.sleep(1)
    status = bench.server(pod)["status"]
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "OutOfpods", "Pod was rejected: full")
    assert [c["type"] for c in status["conditions"]] == ["lb"]
    assert "containerStatuses" not in status


async def test_what_somebody_else_overwrote_is_repaired(make_bench):
    bench = make_bench()
    pod = bench.add()
    bench.statuses.set_status(pod, running())
    runner = asyncio.create_task(bench.statuses.run())
    await asyncio.sleep(1)
    bench.change(pod, lambda p: p["status"].update(podIP="1.2.3.4", phase="Pending"))
    await asyncio.sleep(11)
    assert bench.server(pod)["status"]["phase"] == "Running"
    sent = len(bench.patches)
    await asyncio.sleep(100)
    assert len(bench.patches) == sent
    runner.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await runner


async def test_change_of_others_that_arrives_during_a_patch_is_not_lost(make_bench):
    bench = make_bench()
    pod = bench.add()
    runner = asyncio.create_task(bench.statuses.run())
    bench.statuses.set_status(pod, running())
    await asyncio.sleep(1)
    bench.kube.delay_s = 2.0
    bench.statuses.set_status(pod, running(False))
    await asyncio.sleep(0.5)
    stored = bench.change(pod, lambda p: p["status"].update(phase="Unknown"))
    await asyncio.sleep(20)
    assert bench.server(stored)["status"]["phase"] == "Running"
    runner.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await runner


async def test_no_task_exists_while_nothing_is_to_be_sent(make_bench):
    bench = make_bench()
    before = asyncio.all_tasks()
    for index in range(50):
        bench.statuses.set_status(bench.add(f"p{index}"), running())
    await asyncio.sleep(5)
    assert asyncio.all_tasks() == before
