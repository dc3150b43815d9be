"""One process to a node name: the lock, the instance id, and who counts as alive."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.api.timestamps import format_micro_time
from vkprovider.controllers.identity import acquire_identity, claim_node_name
from vkprovider.errors import ConfigurationError, KubeAPIError, NodeNameTakenError
from vkprovider.kube.leases import LeaseClient
from vkprovider.kube.nodes import NodeClient

NODE = "/api/v1/nodes/n1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"
KEY = "vkprovider.io/instance-id"


class TestRootDirectory:
    async def test_id_survives_a_restart(self, tmp_path):
        root = tmp_path / "a" / "b"
        first = await acquire_identity(root)
        first.release()
        first.release()
        second = await acquire_identity(root)
        assert second.instance_id == first.instance_id
        assert root.stat().st_mode & 0o777 == 0o750
        second.release()

    async def test_two_directories_have_two_ids(self, tmp_path):
        one, two = await acquire_identity(tmp_path / "1"), await acquire_identity(tmp_path / "2")
        assert one.instance_id != two.instance_id
        one.release()
        two.release()

    async def test_directory_in_use_is_refused(self, tmp_path):
        held = await acquire_identity(tmp_path)
        with pytest.raises(NodeNameTakenError, match=r"--root-dir.*--standby"):
            await acquire_identity(tmp_path)
        held.release()

    async def test_standby_waits_for_the_lock(self, tmp_path):
        held = await acquire_identity(tmp_path)
        waiting = asyncio.create_task(acquire_identity(tmp_path, standby=True))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        held.release()
        (await asyncio.wait_for(waiting, 10)).release()

    async def test_unusable_directory_says_what_to_do(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigurationError, match="--root-dir"):
            await acquire_identity(tmp_path / "file" / "below")

    async def test_cluster_identity_is_the_one_of_the_first_start(self, tmp_path):
        identity = await acquire_identity(tmp_path)
        assert identity.remember_cluster_uid("first") == "first"
        assert identity.remember_cluster_uid("second") == "first"
        identity.release()


class Bench:
    def __init__(self):
        self.kube = FakeKube()
        self.clock = LoopClock()

    def claim(self, **options):
        return claim_node_name(
            NodeClient(self.kube),
            LeaseClient(self.kube),
            node_name="n1",
            instance_id="me",
            lease_duration_s=40,
            clock=self.clock,
            **options,
        )

    def put_node(self, owner):
        annotations = {} if owner is None else {KEY: owner}
        self.kube.put(NODE, {"metadata": {"name": "n1", "annotations": annotations}})

    def renew(self, age_s=0.0):
        moment = self.clock.now() - timedelta(seconds=age_s)
        self.kube.put(LEASE, {"metadata": {"name": "n1"}, "spec": {"renewTime": format_micro_time(moment)}})

    @property
    def owner(self):
        return self.kube.objects[NODE]["metadata"]["annotations"].get(KEY)

    async def keep_renewing(self, for_s):
        end = asyncio.get_running_loop().time() + for_s
        while asyncio.get_running_loop().time() < end:
            self.renew()
            await asyncio.sleep(10)


@pytest.mark.looptime
class TestClaim:
    def now(self):
        return asyncio.get_running_loop().time()

    async def test_name_that_nobody_has_is_free(self):
        bench = Bench()
        await bench.claim()
        assert self.now() == 0

    @pytest.mark.parametrize("owner", [None, "me"])
    async def test_own_or_unmarked_node_is_taken_at_once_even_with_a_fresh_lease(self, owner):
        # The restart after kill -9: same directory, same id.
        bench = Bench()
        bench.put_node(owner)
        bench.renew()
        await bench.claim()
        assert self.now() == 0
        assert bench.owner == "me"

    async def test_node_of_a_process_whose_lease_ran_out_is_taken_at_once(self):
        bench = Bench()
        bench.put_node("other")
        bench.renew(age_s=41)
        await bench.claim()
        assert self.now() == 0
        assert bench.owner == "me"

    async def test_fresh_lease_that_does_not_advance_belongs_to_a_dead_process(self):
        bench = Bench()
        bench.put_node("other")
        bench.renew(age_s=2)
        await bench.claim()
        assert 10 < self.now() < 15
        assert bench.owner == "me"

    async def test_advancing_lease_belongs_to_a_live_process(self):
        bench = Bench()
        bench.put_node("other")
        renewing = asyncio.create_task(bench.keep_renewing(60))
        await asyncio.sleep(0.1)
        with pytest.raises(NodeNameTakenError, match=r"n1 is run by another live process \(instance other.*--standby"):
            await bench.claim()
        assert self.now() <= 12
        assert bench.owner == "other"
        await renewing

    async def test_standby_waits_until_the_other_is_silent_for_a_whole_lease(self):
        bench = Bench()
        bench.put_node("other")
        renewing = asyncio.create_task(bench.keep_renewing(100))
        await asyncio.sleep(0.1)
        await bench.claim(standby=True)
        assert 130 <= self.now() <= 140
        assert bench.owner == "me"
        await renewing

    async def test_of_two_standbys_only_one_gets_the_name(self):
        bench = Bench()
        bench.put_node("other")
        bench.renew(age_s=2)

        async def third_party():
            await asyncio.sleep(12.5)
            bench.put_node("third")
            await asyncio.sleep(7)
            await bench.keep_renewing(60)

        rival = asyncio.create_task(third_party())
        with pytest.raises(NodeNameTakenError, match="instance third"):
            await bench.claim()
        assert bench.owner == "third"
        await rival

    async def test_node_changed_in_between_is_looked_at_again(self):
        bench = Bench()
        bench.put_node(None)
        bench.kube.fail("PATCH", "nodes", KubeAPIError("changed", status=409, kube_reason="Conflict"))
        await bench.claim()
        assert bench.owner == "me"
