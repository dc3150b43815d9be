"""The node controller: registration, readiness, reports, and leaving."""

from __future__ import annotations

import asyncio
import contextlib
import copy

import pytest

from support.fake_kube import FakeKube
from vkprovider.aio.clock import LoopClock
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.machine import Machine
from vkprovider.controllers.node import NodeController
from vkprovider.errors import KubeAPIError, NodeNameTakenError, TransientError
from vkprovider.kube.events import EventClient
from vkprovider.kube.nodes import NodeClient
from vkprovider.provider.capabilities import NodeDescription, NodeStatusCapability
from vkprovider.settings import NodeSettings, PodSettings

pytestmark = pytest.mark.looptime
NODE = "/api/v1/nodes/n1"


class Provider(NodeStatusCapability):
    name = "memory"

    def __init__(self):
        self.error = None
        self.hangs = False
        self.pings = 0
        self.description = NodeDescription(capacity={"cpu": "4", "memory": "8Gi"})
        self.describe_error = None

    def find_capability(self, kind):
        return self if isinstance(self, kind) else None

    async def ping(self):
        self.pings += 1
        if self.hangs:
            await asyncio.sleep(10_000)
        if self.error is not None:
            raise self.error

    async def describe_node(self):
        if self.describe_error is not None:
            raise self.describe_error
        return self.description


class Bench:
    def __init__(self, **settings):
        self.kube = FakeKube()
        self.provider = Provider()
        clock = LoopClock()
        self.events = EventRecorder(
            EventClient(self.kube), node_name="n1", settings=PodSettings(event_qps=0), clock=clock
        )
        self.registrations = 0
        self.controller = NodeController(
            NodeClient(self.kube),
            settings=NodeSettings(name="n1", ips=("192.0.2.7",), **settings),
            provider=self.provider,
            events=self.events,
            clock=clock,
            machine=Machine(hostname="box", architecture="amd64", boot_id="boot"),
            instance_id="me",
            get_kubelet_port=lambda: 10250,
            on_registered=self.count,
        )
        self.task = None

    def count(self):
        self.registrations += 1

    def start(self, provider_started=True):
        if provider_started:
            self.controller.set_provider_started()
        self.task = asyncio.create_task(self.controller.run())

    async def stop(self):
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
                await self.task
            self.task = None

    @property
    def node(self):
        return self.kube.objects.get(NODE)

    @property
    def ready(self):
        return next(c for c in self.node["status"]["conditions"] if c["type"] == "Ready")

    @property
    def status_patches(self):
        return self.kube.made("PATCH", "/status")

    def reasons(self):
        return [r.body["reason"] for r in self.kube.made("POST", "events")]


@pytest.fixture
async def make_bench():
    made = []

    def make(**settings):
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for bench in made:
        await bench.stop()
        await bench.events.aclose()


async def test_node_is_registered_and_ready_within_a_moment(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(0.3)
    assert bench.controller.became_ready.is_set()
    assert bench.ready["status"] == "True"
    assert bench.node["spec"]["taints"][0]["value"] == "memory"
    assert bench.node["status"]["capacity"]["cpu"] == "4"
    assert bench.node["metadata"]["annotations"]["vkprovider.io/instance-id"] == "me"
    assert bench.registrations == 1
    await asyncio.sleep(1)
    assert "Starting" in bench.reasons()


async def test_node_of_a_provider_that_has_not_started_is_there_but_not_ready(make_bench):
    bench = make_bench()
    bench.start(provider_started=False)
    await asyncio.sleep(5)
    assert bench.ready["status"] == "False"
    assert bench.ready["message"] == "container runtime status check may not have completed yet"
    assert bench.provider.pings == 0
    bench.controller.set_provider_failed("no socket")
    await asyncio.sleep(0.2)
    assert bench.ready["message"] == "container runtime is down: no socket"
    bench.controller.set_provider_started()
    await asyncio.sleep(0.5)
    assert bench.ready["status"] == "True"
    assert bench.node["status"]["capacity"]["memory"] == "8Gi"
    assert "NodeReady" in bench.reasons()


@pytest.mark.parametrize(
    "error",
    [
        KubeAPIError("exists", status=409, kube_reason="AlreadyExists"),
        KubeAPIError("not yours", status=403, kube_reason="Forbidden"),
    ],
)
async def test_existing_node_is_taken_as_registered_and_reconciled(make_bench, error):
    bench = make_bench()
    bench.kube.put(
        NODE,
        {
            "metadata": {"name": "n1", "labels": {"kubernetes.io/arch": "wrong", "mine": "kept"}},
            "spec": {"taints": [{"key": "operator", "effect": "NoSchedule"}], "podCIDR": "10.1.0.0/24"},
            "status": {"conditions": [{"type": "NetworkUnavailable", "status": "False"}]},
        },
    )
    bench.kube.fail("POST", "nodes", error)
    bench.start()
    await asyncio.sleep(1)
    labels = bench.node["metadata"]["labels"]
    assert labels["kubernetes.io/arch"] == "amd64"
    assert labels["mine"] == "kept"
    assert bench.node["spec"] == {"taints": [{"key": "operator", "effect": "NoSchedule"}], "podCIDR": "10.1.0.0/24"}
    assert bench.ready["status"] == "True"
    assert "NetworkUnavailable" in [c["type"] for c in bench.node["status"]["conditions"]]
    assert all(request.path.endswith("/status") for request in bench.kube.made("PATCH"))


async def test_registration_is_tried_until_the_server_answers(make_bench):
    bench = make_bench()
    bench.kube.down = True
    bench.start()
    await asyncio.sleep(120)
    tries = bench.kube.made("POST", "nodes")
    assert 15 < len(tries) < 30
    bench.kube.down = False
    await asyncio.sleep(8)
    assert bench.ready["status"] == "True"


async def test_without_registering_an_existing_node_is_awaited(make_bench):
    bench = make_bench(register=False)
    bench.start()
    await asyncio.sleep(20)
    assert bench.node is None
    bench.kube.put(NODE, {"metadata": {"name": "n1"}, "spec": {}, "status": {}})
    await asyncio.sleep(10)
    assert bench.ready["status"] == "True"
    assert bench.kube.made("POST", "nodes") == []


async def test_hanging_provider_makes_the_node_not_ready_with_the_reason(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.provider.hangs = True
    await asyncio.sleep(17)
    assert bench.ready["status"] == "False"
    assert bench.ready["reason"] == "KubeletNotReady"
    assert bench.ready["message"] == "container runtime is down: no answer to a ping within 5s"
    assert not bench.controller.is_ready
    bench.provider.hangs = False
    await asyncio.sleep(11)
    assert bench.ready["status"] == "True"
    assert [r for r in bench.reasons() if r.startswith("Node")] == ["NodeNotReady", "NodeReady"]


async def test_failing_ping_shows_the_providers_words_and_one_failure_is_forgiven(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.provider.error = TransientError("engine is restarting")
    await asyncio.sleep(4.5)
    bench.provider.error = None
    await asyncio.sleep(5)
    assert "NodeNotReady" not in bench.reasons()
    bench.provider.error = TransientError("engine is restarting")
    await asyncio.sleep(8)
    assert bench.ready["message"] == "container runtime is down: engine is restarting"


async def test_bug_in_a_ping_does_not_end_the_node(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.provider.error = ValueError("bug")
    await asyncio.sleep(10)
    assert bench.ready["message"] == "container runtime is down: ValueError: bug"
    assert not bench.task.done()


async def test_provider_without_node_status_is_well(make_bench):
    bench = make_bench()
    bench.provider.find_capability = lambda kind: None
    bench.start()
    await asyncio.sleep(1)
    assert bench.ready["status"] == "True"


async def test_unchanged_status_is_sent_about_each_five_minutes(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(3600)
    assert 9 <= len(bench.status_patches) <= 15
    heartbeat = bench.ready["lastHeartbeatTime"]
    assert heartbeat > "2026-01-01T00:50:00Z"
    assert bench.ready["lastTransitionTime"] == "2026-01-01T00:00:00Z"


async def test_changed_capacity_is_sent_within_the_status_period(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.provider.description = NodeDescription(capacity={"cpu": "8", "memory": "8Gi"})
    await asyncio.sleep(11)
    assert bench.node["status"]["capacity"]["cpu"] == "8"
    assert bench.controller.get_allocatable()["cpu"] == "8"


async def test_last_description_stays_in_force_while_the_provider_does_not_answer(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.provider.describe_error = TransientError("busy")
    await asyncio.sleep(30)
    assert bench.node["status"]["capacity"]["cpu"] == "4"


async def test_deleted_node_is_registered_again_at_once(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    gone = bench.kube.objects.pop(NODE)
    bench.controller.handle_node_deleted(gone)
    assert bench.controller.get_node_uid() is None
    await asyncio.sleep(0.2)
    assert bench.ready["status"] == "True"
    assert bench.registrations == 2
    assert bench.controller.get_node_uid() == bench.node["metadata"]["uid"]


async def test_deletion_before_the_watch_has_begun_is_found_soon(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    del bench.kube.objects[NODE]
    await asyncio.sleep(11)
    assert bench.ready["status"] == "True"
    # Once the watch shows the node, it is no longer read.
    bench.controller.handle_node(copy.deepcopy(bench.node))
    before = len(bench.kube.made("GET"))
    await asyncio.sleep(100)
    assert len(bench.kube.made("GET")) == before


async def test_deletion_that_the_watch_missed_is_found_by_the_next_report(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.controller.handle_node(copy.deepcopy(bench.node))
    del bench.kube.objects[NODE]
    await asyncio.sleep(460)
    assert bench.ready["status"] == "True"


async def test_node_made_anew_by_somebody_is_reconciled(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    bench.kube.objects.clear()
    anew = bench.kube.put(NODE, {"metadata": {"name": "n1", "uid": "anew"}, "spec": {}, "status": {}})
    bench.controller.handle_node(copy.deepcopy(anew))
    await asyncio.sleep(1)
    assert bench.controller.get_node_uid() == "anew"
    assert bench.ready["status"] == "True"


async def test_another_process_that_takes_the_node_ends_this_one(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    taken = copy.deepcopy(bench.node)
    taken["metadata"]["annotations"]["vkprovider.io/instance-id"] = "rival"
    bench.controller.handle_node(taken)
    with pytest.raises(BaseExceptionGroup) as caught:
        await asyncio.wait_for(bench.task, 5)
    bench.task = None
    assert caught.group_contains(NodeNameTakenError, match="instance rival")
    before = len(bench.kube.requests)
    await bench.controller.shutdown()
    assert len(bench.kube.requests) == before


async def test_clean_exit_reports_not_ready_and_gives_up_the_name(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    await bench.stop()
    await bench.controller.shutdown()
    assert bench.ready["status"] == "False"
    assert bench.ready["reason"] == "KubeletStopped"
    assert "vkprovider was stopped" in bench.ready["message"]
    assert "vkprovider.io/instance-id" not in bench.node["metadata"]["annotations"]


async def test_clean_exit_can_delete_the_node(make_bench):
    bench = make_bench(delete_on_exit=True)
    bench.start()
    await asyncio.sleep(1)
    await bench.stop()
    await bench.controller.shutdown()
    assert bench.node is None


async def test_exit_without_a_server_does_not_fail(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    await bench.stop()
    bench.kube.down = True
    await bench.controller.shutdown()


async def test_platform_labels_are_reasserted_with_every_report(make_bench):
    bench = make_bench()
    bench.start()
    await asyncio.sleep(1)
    broken = copy.deepcopy(bench.node)
    broken["metadata"]["labels"].pop("kubernetes.io/os")
    bench.controller.handle_node(bench.kube.put(NODE, broken))
    await asyncio.sleep(460)
    assert bench.node["metadata"]["labels"]["kubernetes.io/os"] == "linux"


async def test_reboot_and_cordon_have_their_events(make_bench):
    bench = make_bench()
    bench.kube.put(NODE, {"metadata": {"name": "n1"}, "spec": {}, "status": {"nodeInfo": {"bootID": "earlier"}}})
    bench.start()
    await asyncio.sleep(1)
    cordoned = copy.deepcopy(bench.node)
    cordoned["spec"]["unschedulable"] = True
    bench.controller.handle_node(cordoned)
    cordoned = copy.deepcopy(cordoned)
    cordoned["spec"]["unschedulable"] = False
    bench.controller.handle_node(cordoned)
    await asyncio.sleep(1)
    messages = {r.body["reason"]: r.body["message"] for r in bench.kube.made("POST", "events")}
    assert messages["Rebooted"] == "Node n1 has been rebooted, boot id: boot"
    assert messages["NodeNotSchedulable"] == "Node n1 status is now: NodeNotSchedulable"
    assert messages["NodeSchedulable"] == "Node n1 status is now: NodeSchedulable"
