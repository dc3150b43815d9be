"""An API server that goes away and comes back: pods run on, and what happened meanwhile is caught up with."""

from __future__ import annotations

import asyncio

import pytest

from support.cluster_side import Backend, ClusterSide
from support.waiting import async_wait_for
from vkprovider.kube.client import KubeClient
from vkprovider.kube.credentials import load_credentials
from vkprovider.localcluster import LocalCluster

POD = {"spec": {"automountServiceAccountToken": False, "containers": [{"name": "main", "image": "toy"}]}}


@pytest.fixture
async def world(tmp_path, unused_tcp_port, node_name):
    made = {}

    async def up():
        made["cluster"] = LocalCluster(tmp_path / "cluster", port=unused_tcp_port, state_file=tmp_path / "state.db")
        await made["cluster"].start()
        return made["cluster"]

    cluster = await up()
    client = KubeClient(await load_credentials(cluster.kubeconfig_path))
    side = ClusterSide(cluster.kubeconfig_path, node_name, tmp_path / "root", Backend())
    await side.start()

    class World:
        pass

    world = World()
    world.side, world.client, world.up, world.made = side, client, up, made
    world.backend = side.provider.backend
    yield world
    await side.stop()
    await client.aclose()
    await made["cluster"].stop()
    await asyncio.sleep(0.3)  # the state file is still being written


async def create(world, name):
    body = {**POD, "metadata": {"name": name}, "spec": {**POD["spec"], "nodeName": world.side.node_name}}
    return await world.client.request("POST", "/api/v1/namespaces/default/pods", body=body)


async def wait_phase(world, name, phase):
    async def look():
        pod = await world.client.request("GET", f"/api/v1/namespaces/default/pods/{name}")
        return pod["status"].get("phase") == phase

    await async_wait_for(look, f"{name} to be {phase}", timeout_s=40)


async def test_pods_run_on_through_an_outage_and_changes_are_caught_up_with(world):
    first = await create(world, "first")
    await wait_phase(world, "first", "Running")
    await world.made["cluster"].stop()
    world.backend.pod_ip = "10.7.7.7"
    world.side.provider.changes.put_nowait(first["metadata"]["uid"])
    await asyncio.sleep(3)
    assert len(world.backend.pods) == 1
    assert world.backend.stopped == []
    assert all(not task.done() for task in world.side.tasks)
    await world.up()

    async def told():
        pod = await world.client.request("GET", "/api/v1/namespaces/default/pods/first")
        return pod["status"]["podIP"] == "10.7.7.7"

    await async_wait_for(told, "the status of the time of the outage", timeout_s=40)
    await create(world, "second")
    await wait_phase(world, "second", "Running")
    await world.client.request("DELETE", "/api/v1/namespaces/default/pods/first", body={})

    async def stopped():
        return [name for name, _ in world.backend.stopped]

    assert await async_wait_for(stopped, "the first pod to stop", timeout_s=40) == ["first"]
    assert world.backend.started == ["first", "second"]
