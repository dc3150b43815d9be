"""A node's cluster side against a real API: both against ours and against a real control plane."""

from __future__ import annotations

import asyncio
import logging
import signal

import pytest

from support.waiting import async_wait_for
from vkprovider.errors import NodeNameTakenError


async def until(look, what, timeout_s=20.0):
    return await async_wait_for(look, what, timeout_s=timeout_s, interval_s=0.05)


def conditions(pod):
    return {c["type"]: c["status"] for c in pod["status"].get("conditions") or ()}


async def test_node_is_registered_with_lease_and_status(cluster, side, node_name):
    node = await cluster.find(f"/api/v1/nodes/{node_name}")
    assert conditions(node)["Ready"] == "True"
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.36.")
    assert node["status"]["addresses"][0]["type"] == "InternalIP"
    assert node["metadata"]["annotations"]["vkprovider.io/instance-id"] == side.identity.instance_id
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node_name}"
    lease = await until(lambda: cluster.find(path), "the lease")
    assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]


async def test_pod_runs_and_leaves_in_good_order(cluster, side, node_name, backend):
    backend.stop_s = 1.0
    await cluster.create_pod("web", node_name, terminationGracePeriodSeconds=20)

    async def ready():
        pod = await cluster.pod("web")
        return pod if conditions(pod).get("Ready") == "True" else None

    pod = await until(ready, "the pod to be ready")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"] == "10.1.2.3"
    assert pod["status"]["hostIP"] == side.node.get_host_ips()[0]
    assert pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
    assert pod["status"]["qosClass"] == "BestEffort"

    async def started_event():
        listed = await cluster.client.request("GET", f"/api/v1/namespaces/{cluster.namespace}/events")
        return [e for e in listed["items"] if e["reason"] == "Started"]

    (event,) = await until(started_event, "the event")
    assert event["involvedObject"]["fieldPath"] == "spec.containers{main}"
    assert event["source"] == {"component": "kubelet", "host": node_name}

    await cluster.delete_pod("web")
    await asyncio.sleep(0.5)
    assert await cluster.pod("web") is not None
    await until(lambda: _gone(cluster, "web"), "the pod to be gone")
    assert backend.stopped == [("web", 20)]
    assert backend.cleaned == [pod["metadata"]["uid"]]


async def _gone(cluster, name):
    return await cluster.pod(name) is None


async def _running(cluster, name):
    return await cluster.phase(name) == "Running"


async def test_shorter_second_delete_hurries_the_stop(cluster, side, node_name, backend):
    backend.stop_s = 600
    await cluster.create_pod("slow", node_name)
    await until(lambda: _running(cluster, "slow"), "the pod to run")
    await cluster.delete_pod("slow", gracePeriodSeconds=500)
    await asyncio.sleep(0.5)
    await cluster.delete_pod("slow", gracePeriodSeconds=1)
    await until(lambda: _gone(cluster, "slow"), "the pod to be gone")
    assert backend.stopped == [("slow", 1)]


async def test_force_deleted_pod_is_stopped(cluster, side, node_name, backend):
    await cluster.create_pod("web", node_name)
    await until(lambda: _running(cluster, "web"), "the pod to run")
    await cluster.delete_pod("web", gracePeriodSeconds=0)

    async def stopped():
        return backend.stopped

    assert await until(stopped, "the containers to stop") == [("web", 1)]


async def test_pod_force_deleted_while_the_process_was_down_is_an_orphan(cluster, make_side, node_name, backend):
    first = make_side()
    await first.start()
    pod = await cluster.create_pod("lost", node_name)
    await cluster.create_pod("kept", node_name)
    for name in ("lost", "kept"):
        await until(lambda name=name: _running(cluster, name), "the pod to run")
    await first.crash()
    await cluster.delete_pod("lost", gracePeriodSeconds=0)
    second = make_side()
    await second.start()

    async def cleaned():
        return pod["metadata"]["uid"] in backend.cleaned

    await until(cleaned, "the orphan to be removed")
    assert backend.stopped == [("lost", 1)]
    assert [entry["pod"]["metadata"]["name"] for entry in backend.pods.values()] == ["kept"]


async def test_restart_after_a_crash_goes_on_at_once_and_changes_nothing(cluster, make_side, node_name, backend):
    first = make_side()
    await first.start()
    for index in range(5):
        await cluster.create_pod(f"p{index}", node_name)
    for index in range(5):
        await until(lambda index=index: _running(cluster, f"p{index}"), "the pod to run")
    before = {index: (await cluster.pod(f"p{index}"))["metadata"]["resourceVersion"] for index in range(5)}
    await first.crash()
    second = make_side()
    started = asyncio.get_running_loop().time()
    await second.start()
    assert asyncio.get_running_loop().time() - started < 5
    await asyncio.sleep(2)
    after = {index: (await cluster.pod(f"p{index}"))["metadata"]["resourceVersion"] for index in range(5)}
    assert after == before
    assert sorted(backend.started) == [f"p{index}" for index in range(5)]
    await cluster.delete_pod("p0")
    await until(lambda: _gone(cluster, "p0"), "the pod to be gone")


async def test_deletion_asked_for_while_the_process_was_down_is_carried_out(cluster, make_side, node_name, backend):
    first = make_side()
    await first.start()
    await cluster.create_pod("web", node_name)
    await until(lambda: _running(cluster, "web"), "the pod to run")
    await first.crash()
    await cluster.delete_pod("web", gracePeriodSeconds=7)
    assert await cluster.pod("web") is not None
    await make_side().start()
    await until(lambda: _gone(cluster, "web"), "the pod to be gone")
    assert backend.stopped == [("web", 7)]


async def test_same_name_again_is_another_pod(cluster, side, node_name, backend):
    backend.stop_s = 1.0
    first = await cluster.create_pod("web", node_name)
    await until(lambda: _running(cluster, "web"), "the pod to run")
    await cluster.delete_pod("web", gracePeriodSeconds=0)
    second = await cluster.create_pod("web", node_name)
    await until(lambda: _running(cluster, "web"), "the second pod to run")

    async def only_second():
        return list(backend.pods) == [second["metadata"]["uid"]]

    await until(only_second, "the first pod to stop")
    assert backend.cleaned == [first["metadata"]["uid"]]
    assert (await cluster.pod("web"))["metadata"]["uid"] == second["metadata"]["uid"]


async def test_changed_address_and_foreign_condition_go_through_the_real_patch(cluster, side, node_name, backend):
    pod = await cluster.create_pod("web", node_name)
    await until(lambda: _running(cluster, "web"), "the pod to run")
    foreign = {"status": {"conditions": [{"type": "example.com/lb", "status": "True"}]}}
    await cluster.client.request(
        "PATCH",
        f"{cluster.pod_path('web')}/status",
        body=foreign,
        content_type="application/strategic-merge-patch+json",
    )
    backend.pod_ip = "10.9.9.9"
    side.provider.changes.put_nowait(pod["metadata"]["uid"])

    async def moved():
        current = await cluster.pod("web")
        return current if current["status"]["podIP"] == "10.9.9.9" else None

    current = await until(moved, "the new address")
    assert current["status"]["podIPs"] == [{"ip": "10.9.9.9"}]
    assert conditions(current)["example.com/lb"] == "True"


async def test_pod_that_does_not_fit_is_rejected(cluster, make_side, node_name):
    await make_side(max_pods=1).start()
    await cluster.create_pod("first", node_name)
    await until(lambda: _running(cluster, "first"), "the pod to run")
    await cluster.create_pod("second", node_name)

    async def failed():
        pod = await cluster.pod("second")
        return pod if pod["status"]["phase"] == "Failed" else None

    pod = await until(failed, "the rejection")
    assert pod["status"]["reason"] == "OutOfpods"
    assert "containerStatuses" not in pod["status"]
    await cluster.delete_pod("second")
    await until(lambda: _gone(cluster, "second"), "the pod to be gone")


async def test_deleted_node_is_registered_again(cluster, side, node_name):
    path = f"/api/v1/nodes/{node_name}"
    before = (await cluster.find(path))["metadata"]["uid"]

    async def watched():
        return side.node._watched

    await until(watched, "the watch to show the node")
    await cluster.client.request("DELETE", path)

    async def anew():
        node = await cluster.find(path)
        return node is not None and node["metadata"]["uid"] != before and conditions(node).get("Ready") == "True"

    await until(anew, "the new Node object", timeout_s=5)
    lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node_name}"

    async def owned():
        found = await cluster.find(lease)
        return found is not None and found["metadata"]["ownerReferences"][0]["uid"] != before

    await until(owned, "the lease of the new node")


async def test_clean_exit_leaves_a_node_that_is_not_ready_with_a_reason(cluster, make_side, node_name, backend):
    side = make_side()
    await side.start()
    await cluster.create_pod("web", node_name)
    await until(lambda: _running(cluster, "web"), "the pod to run")
    await side.stop()
    node = await cluster.find(f"/api/v1/nodes/{node_name}")
    ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "KubeletStopped")
    assert len(backend.pods) == 1
    # The name is free at once for another directory.
    started = asyncio.get_running_loop().time()
    other = make_side(root_dir=side.root_dir.with_name("other"))
    await other.start()
    assert asyncio.get_running_loop().time() - started < 5


async def test_second_live_process_gives_up(make_side, side):
    with pytest.raises(NodeNameTakenError):
        await make_side(root_dir=side.root_dir).start()
    # Another machine, with a root directory of its own.
    rival = make_side(root_dir=side.root_dir.with_name("rival"))
    try:
        with pytest.raises(NodeNameTakenError, match="live process"):
            await rival.start()
    finally:
        rival.identity.release()
        await rival.client.aclose()


async def test_identity_of_a_node_is_allowed_all_that_is_done(cluster, make_side, node_name, backend, caplog):
    side = make_side(kubeconfig=await cluster.node_kubeconfig(node_name))
    with caplog.at_level(logging.WARNING):
        await side.start()
        await cluster.create_pod("web", node_name)
        await until(lambda: _running(cluster, "web"), "the pod to run")

        async def started_event():
            listed = await cluster.client.request("GET", f"/api/v1/namespaces/{cluster.namespace}/events")
            return [e for e in listed["items"] if e["reason"] == "Started"]

        await until(started_event, "the event")
        await cluster.delete_pod("web")
        await until(lambda: _gone(cluster, "web"), "the pod to be gone")
        await side.stop()
    refused = [
        record for record in caplog.records if "orbidden" in record.getMessage() + str(record.__dict__.get("error"))
    ]
    assert refused == []


async def test_watch_engine_leaves_signals_and_other_tasks_alone(make_side):
    loop = asyncio.get_running_loop()
    got = []
    loop.add_signal_handler(signal.SIGTERM, got.append, "ours")
    bystander = asyncio.create_task(asyncio.sleep(1000))
    try:
        side = make_side()
        await side.start()
        later = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.sleep(1)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert got == ["ours"]
        await side.stop()
        assert not bystander.done()
        assert not later.done()
        later.cancel()
    finally:
        bystander.cancel()
        loop.remove_signal_handler(signal.SIGTERM)


async def test_many_pods_come_and_go(cluster, make_side, node_name, backend):
    await make_side(max_pods=500).start()
    names = [f"p{index}" for index in range(100)]
    await asyncio.gather(*(cluster.create_pod(name, node_name) for name in names))

    async def all_running():
        listed = await cluster.client.request("GET", f"/api/v1/namespaces/{cluster.namespace}/pods")
        return all(pod["status"]["phase"] == "Running" for pod in listed["items"])

    await until(all_running, "all pods to run", timeout_s=60)
    await asyncio.gather(*(cluster.delete_pod(name) for name in names))

    async def none_left():
        listed = await cluster.client.request("GET", f"/api/v1/namespaces/{cluster.namespace}/pods")
        return not listed["items"]

    await until(none_left, "all pods to be gone", timeout_s=60)
    assert backend.pods == {}
    assert sorted(backend.started) == sorted(names)
    assert len(backend.cleaned) == 100
