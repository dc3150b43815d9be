"""Which pods of the backend are removed, and when."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from vkprovider.controllers.orphans import OrphanCollector
from vkprovider.errors import TransientError
from vkprovider.kube.pods import PodList
from vkprovider.provider.pod_provider import ProviderPod
from vkprovider.testing.builders import make_pod

pytestmark = pytest.mark.looptime


class World:
    """Provider, workers and API server in one."""

    def __init__(self):
        self.backend = {}
        self.known = set()
        self.api = []
        self.api_error = None
        self.backend_error = None
        self.removed = []
        self.api_lists = 0
        self.collector = OrphanCollector(self, self, self.list_api_pods, period_s=60, delay_s=5)

    def add(self, uid):
        self.backend[uid] = make_pod(uid, uid=uid)

    async def list_pods(self):
        if self.backend_error is not None:
            raise self.backend_error
        return [ProviderPod(pod) for pod in self.backend.values()]

    def is_known(self, uid):
        return uid in self.known

    def terminate_orphan(self, provider_pod):
        uid = provider_pod.pod["metadata"]["uid"]
        self.removed.append((uid, asyncio.get_running_loop().time()))
        self.known.add(uid)

    async def list_api_pods(self):
        self.api_lists += 1
        if self.api_error is not None:
            raise self.api_error
        return PodList([make_pod(uid, uid=uid) for uid in self.api], "1")

    async def watch(self, seconds):
        task = asyncio.create_task(self.collector.run())
        await asyncio.sleep(seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_orphan_is_removed_at_the_second_look():
    world = World()
    world.add("lost")
    await world.watch(30)
    assert world.removed == [("lost", 5.0)]


async def test_pod_that_the_api_server_knows_is_never_removed():
    world = World()
    world.add("fresh")
    world.api = ["fresh"]
    await world.watch(300)
    assert world.removed == []


async def test_pod_that_turns_up_in_the_api_between_two_looks_is_spared():
    world = World()
    world.add("late")
    await world.collector.look()
    world.api = ["late"]
    await world.collector.look()
    world.api = []
    await world.collector.look()
    assert world.removed == []


@pytest.mark.parametrize("field", ["api_error", "backend_error"])
async def test_failed_list_proves_nothing(field):
    world = World()
    world.add("lost")
    setattr(world, field, TransientError("lost"))
    await world.watch(300)
    assert world.removed == []


async def test_pods_with_a_worker_cost_no_list_of_the_api():
    world = World()
    world.add("known")
    world.known.add("known")
    await world.watch(300)
    assert world.removed == []
    assert world.api_lists == 0


async def test_bug_in_the_provider_does_not_end_the_collector():
    world = World()
    world.add("lost")
    world.backend_error = ValueError("bug")
    await world.collector.look()
    world.backend_error = None
    await world.watch(30)
    assert [uid for uid, _ in world.removed] == ["lost"]
