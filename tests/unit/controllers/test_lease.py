"""The heartbeat: how often, by which requests, and through trouble."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.controllers.lease import LeaseController
from vkprovider.errors import TransientError
from vkprovider.kube.leases import LeaseClient

pytestmark = pytest.mark.looptime
PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"


class Bench:
    def __init__(self):
        self.kube = FakeKube()
        self.uid = "node-uid"
        self.controller = LeaseController(
            LeaseClient(self.kube), node_name="n1", duration_s=40, get_node_uid=lambda: self.uid, clock=LoopClock()
        )

    @property
    def lease(self):
        return self.kube.objects.get(PATH)

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.controller.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_lease_is_made_with_the_node_as_owner_and_renewed_each_ten_seconds():
    bench = Bench()
    async with bench.running():
        await asyncio.sleep(0.1)
        assert bench.lease["spec"] == {
            "holderIdentity": "n1",
            "leaseDurationSeconds": 40,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        }
        assert bench.lease["metadata"]["ownerReferences"] == [
            {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid"}
        ]
        await asyncio.sleep(100)
    puts = bench.kube.made("PUT")
    assert len(puts) == 9
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(puts)]
    assert all(10 <= gap <= 10.41 for gap in gaps)
    # A renewal is one PUT of the last known object: nothing is read.
    assert len(bench.kube.made("GET")) == 1


async def test_no_lease_without_a_node_but_one_soon_after_it_exists():
    bench = Bench()
    bench.uid = None
    async with bench.running():
        await asyncio.sleep(20)
        assert bench.lease is None
        bench.uid = "node-uid"
        bench.controller.wake()
        await asyncio.sleep(0.1)
        assert bench.lease is not None


async def test_lease_of_an_earlier_process_is_taken_over():
    bench = Bench()
    bench.kube.put(PATH, {"metadata": {"name": "n1"}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}})
    assert await bench.controller.renew()
    assert bench.lease["spec"]["renewTime"].startswith("2026")
    assert bench.lease["metadata"]["ownerReferences"][0]["uid"] == "node-uid"


async def test_conflict_is_answered_by_reading_again():
    bench = Bench()
    await bench.controller.renew()
    bench.kube.put(PATH, bench.lease)
    assert await bench.controller.renew()
    assert [r.method for r in bench.kube.requests[-3:]] == ["PUT", "GET", "PUT"]


async def test_deleted_lease_is_made_again():
    bench = Bench()
    await bench.controller.renew()
    del bench.kube.objects[PATH]
    assert await bench.controller.renew()
    assert bench.lease is not None


async def test_node_made_anew_becomes_the_owner():
    bench = Bench()
    await bench.controller.renew()
    bench.uid = "second"
    assert await bench.controller.renew()
    assert bench.lease["metadata"]["ownerReferences"][0]["uid"] == "second"


async def test_lost_requests_are_tried_again_within_the_round():
    bench = Bench()
    await bench.controller.renew()
    bench.kube.fail("PUT", "leases", TransientError("lost"), times=4)
    assert await bench.controller.renew()
    assert len(bench.kube.made("PUT")) == 5


async def test_long_outage_ends_with_a_renewal():
    bench = Bench()
    async with bench.running():
        await asyncio.sleep(1)
        bench.kube.down = True
        await asyncio.sleep(300)
        bench.kube.down = False
        await asyncio.sleep(20)
        assert bench.lease["spec"]["renewTime"] > "2026-01-01T00:05:00"
