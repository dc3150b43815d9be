"""The scheduler: where pods go, and what is said when they cannot."""

from __future__ import annotations

import asyncio

import pytest

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.localcluster.deletion import DeleteOptions
from vkprovider.localcluster.scheduler import Scheduler, tolerates


@pytest.fixture
async def schedule(world):
    """Run the scheduler until a check holds."""
    task = asyncio.create_task(Scheduler(world.objects).run())

    async def until(check, turns=200):
        for _ in range(turns):
            await asyncio.sleep(0)
            if task.done():
                task.result()
            if check():
                return
        raise AssertionError("the scheduler did not get there")

    yield until
    await cancel_and_wait([task])


def node_of(world, name):
    return (world.find("pods", name) or {"spec": {}})["spec"].get("nodeName")


def condition(world, name):
    conditions = world.find("pods", name)["status"].get("conditions") or []
    return next((c for c in conditions if c["type"] == "PodScheduled"), {})


def events(world, reason):
    return [e.obj["message"] for e in world.store.collection("events").iterate() if e.obj["reason"] == reason]


async def test_a_pod_goes_to_a_ready_node_with_condition_and_event(world, make_pod, make_node, schedule):
    world.create("nodes", make_node())
    world.create("pods", make_pod())
    await schedule(lambda: node_of(world, "p") == "n")
    assert condition(world, "p")["status"] == "True"
    assert events(world, "Scheduled") == ["Successfully assigned default/p to n"]


async def test_no_nodes_at_all(world, make_pod, schedule):
    world.create("pods", make_pod())
    await schedule(lambda: condition(world, "p"))
    assert condition(world, "p")["reason"] == "Unschedulable"
    assert condition(world, "p")["message"] == "no nodes available to schedule pods"
    assert events(world, "FailedScheduling") == ["no nodes available to schedule pods"]


@pytest.mark.parametrize(
    ("node", "pod", "message"),
    [
        (
            {"ready": False},
            {},
            "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
        ),
        ({"spec": {"unschedulable": True}}, {}, "0/1 nodes are available: 1 node(s) were unschedulable."),
        (
            {"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}},
            {},
            "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.",
        ),
        (
            {},
            {"nodeSelector": {"a": "b"}},
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            {},
            {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "3", "memory": "5Gi"}}}]},
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
        ),
        (
            {},
            {"containers": [{"name": "c", "image": "x", "resources": {"limits": {"example.com/gpu": "1"}}}]},
            "0/1 nodes are available: 1 Insufficient example.com/gpu.",
        ),
        ({"allocatable": {"pods": "0"}}, {}, "0/1 nodes are available: 1 Too many pods."),
    ],
)
async def test_why_a_pod_does_not_fit(world, make_pod, make_node, schedule, node, pod, message):
    world.create("nodes", make_node(**node))
    world.create("pods", make_pod(**pod))
    await schedule(lambda: condition(world, "p"))
    assert condition(world, "p")["message"] == message
    assert node_of(world, "p") is None


async def test_tolerations_selectors_and_affinity_let_it_in(world, make_pod, make_node, schedule):
    taint = {"key": "k", "value": "v", "effect": "NoSchedule"}
    world.create("nodes", make_node(labels={"zone": "a"}, spec={"taints": [taint]}))
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    world.create(
        "pods",
        make_pod(
            tolerations=[{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}],
            nodeSelector={"zone": "a"},
            affinity={"nodeAffinity": required},
        ),
    )
    await schedule(lambda: node_of(world, "p") == "n")


async def test_a_waiting_pod_goes_when_a_node_comes_or_changes(world, make_pod, make_node, schedule):
    world.create("pods", make_pod())
    await schedule(lambda: condition(world, "p"))
    world.create("nodes", make_node(ready=False))
    await schedule(lambda: "not-ready" in condition(world, "p").get("message", ""))
    ready = [{"type": "Ready", "status": "True"}]
    world.update(
        "nodes", "n", lambda old: {**old, "status": {**old["status"], "conditions": ready}}, subresource="status"
    )
    await schedule(lambda: node_of(world, "p") == "n")


async def test_room_is_counted_and_given_back(world, make_pod, make_node, schedule):
    world.create("nodes", make_node())
    big = [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1500m"}}}]
    world.create("pods", make_pod("a", containers=big))
    world.create("pods", make_pod("b", containers=big))
    await schedule(lambda: node_of(world, "a") == "n" and condition(world, "b"))
    assert condition(world, "b")["message"] == "0/1 nodes are available: 1 Insufficient cpu."
    pods = world.registry.get("pods")
    stored = world.objects.get(pods, "default", "a")
    world.objects.deletion.delete(pods, stored, DeleteOptions(grace_period_s=0))
    await schedule(lambda: node_of(world, "b") == "n")


async def test_pods_spread_over_the_emptier_node(world, make_pod, make_node, schedule):
    world.create("nodes", make_node("n1"))
    world.create("nodes", make_node("n2"))
    for name in ("a", "b", "c", "d"):
        world.create("pods", make_pod(name))
    await schedule(lambda: all(node_of(world, name) for name in "abcd"))
    assert sorted(node_of(world, name) for name in "abcd") == ["n1", "n1", "n2", "n2"]


async def test_gated_and_foreign_pods_are_left_alone(world, make_pod, make_node, schedule):
    world.create("nodes", make_node())
    world.create("pods", make_pod("gated", schedulingGates=[{"name": "example.com/x"}]))
    world.create("pods", make_pod("foreign", schedulerName="other"))
    world.create("pods", make_pod("mine"))
    await schedule(lambda: node_of(world, "mine") == "n")
    assert node_of(world, "gated") is None
    assert node_of(world, "foreign") is None
    assert condition(world, "gated")["reason"] == "SchedulingGated"


def test_tolerations():
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    assert tolerates([{"operator": "Exists"}], taint)
    assert tolerates([{"key": "k", "operator": "Exists"}], taint)
    assert tolerates([{"key": "k", "value": "v"}], taint)
    assert not tolerates([{"key": "k", "value": "w"}], taint)
    assert not tolerates([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}], taint)
    assert not tolerates([], taint)
