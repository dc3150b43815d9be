from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.api import v1
from vkprovider.errors import InvalidPodError, NotFoundError, TransientError
from vkprovider.provider.capabilities import LogOptions, LogsCapability
from vkprovider.provider.lifecycle import LifecycleProvider, PodLifecycleHandler, PodNotifier
from vkprovider.provider.pod_provider import NodeContext, PodContext

pytestmark = pytest.mark.looptime


class Services:
    async def list_services(self, namespace: str) -> Any:
        return []

    async def get_config_map(self, namespace: str, name: str) -> Any:
        if name != "cm":
            raise NotFoundError(f'configmap "{name}" not found')
        return {"data": {"k": "v"}}


class MockHandler(PodLifecycleHandler):
    """Pods in a dictionary by namespace and name, as virtual-kubelet's own mock provider has them."""

    def __init__(self) -> None:
        self.pods: dict[tuple[str, str], Any] = {}
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.stop_after_s = 0.0
        self.keeps_deleted = False
        self.raises_not_found = False
        self.grace_seen: list[int] = []
        self.background: set[asyncio.Task[None]] = set()

    async def create_pod(self, pod: v1.Pod) -> None:
        self.calls.append("create")
        if self.error is not None:
            raise self.error
        stored = copy.deepcopy(pod)
        stored["status"] = {
            "phase": "Running",
            "containerStatuses": [
                {"name": c["name"], "containerID": "x://1", "ready": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
                for c in pod["spec"]["containers"]
            ],
        }  # fmt: skip
        self.pods[self.key(pod)] = stored

    async def update_pod(self, pod: v1.Pod) -> None:
        self.calls.append("update")
        if self.error is not None:
            raise self.error
        self.pods[self.key(pod)]["spec"] = copy.deepcopy(pod["spec"])

    async def delete_pod(self, pod: v1.Pod) -> None:
        self.calls.append("delete")
        self.grace_seen.append(pod["metadata"].get("deletionGracePeriodSeconds", -1))
        if self.key(pod) not in self.pods:
            raise NotFoundError("no such pod")
        if not self.stop_after_s:
            await self.end(pod)
        else:
            task = asyncio.create_task(self.end_later(pod))
            self.background.add(task)
            task.add_done_callback(self.background.discard)

    async def end_later(self, pod: v1.Pod) -> None:
        await asyncio.sleep(self.stop_after_s)
        await self.end(pod)

    async def end(self, pod: v1.Pod, exit_code: int = 0) -> None:
        if not self.keeps_deleted:
            self.pods.pop(self.key(pod), None)
            return
        status = self.pods[self.key(pod)]["status"]
        status["phase"] = "Failed" if exit_code else "Succeeded"
        for entry in status["containerStatuses"]:
            entry["state"] = {"terminated": {"exitCode": exit_code}}

    async def get_pod(self, namespace: str, name: str) -> v1.Pod | None:
        return self.find(namespace, name)

    async def get_pod_status(self, namespace: str, name: str) -> v1.PodStatus | None:
        found = self.find(namespace, name)
        return found["status"] if found else None

    def find(self, namespace: str, name: str) -> Any:
        if (namespace, name) not in self.pods and self.raises_not_found:
            raise NotFoundError(f"pod {namespace}/{name} is not known")
        return self.pods.get((namespace, name))

    async def list_pods(self) -> Sequence[v1.Pod]:
        return list(self.pods.values())

    @staticmethod
    def key(pod: v1.Pod) -> tuple[str, str]:
        return pod["metadata"]["namespace"], pod["metadata"]["name"]


class NotifyingHandler(MockHandler, PodNotifier, LogsCapability):
    notify: Callable[[v1.Pod], None]

    def notify_pods(self, notify: Callable[[v1.Pod], None]) -> None:
        self.notify = notify

    async def end(self, pod: v1.Pod, exit_code: int = 0) -> None:
        self.keeps_deleted = True
        await super().end(pod, exit_code=7)
        self.notify(self.pods.pop(self.key(pod)))

    async def container_logs(self, pod: v1.Pod, container: str, options: LogOptions) -> Any:
        yield b"hello"


def make_pod(uid: str = "u1", **spec: Any) -> v1.Pod:
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}], **spec},
    }


class Bench:
    """A provider with the tools that a node gives it."""

    def __init__(self, handler: MockHandler) -> None:
        self.handler = handler
        self.provider = LifecycleProvider(handler, name="mock")
        self.node = NodeContext("node", "cluster", Services(), ("192.0.2.1",), clock=LoopClock())  # type: ignore[arg-type]
        self.published: list[v1.PodStatus] = []
        self.status: v1.PodStatus = {}

    @property
    def context(self) -> PodContext:
        return PodContext(self.node, lambda *a, **k: None, self.published.append, self.status)

    async def sync(self, pod: v1.Pod) -> Any:
        result = await self.provider.sync_pod(pod, self.context)
        self.status = result.status or self.status
        return result

    async def terminate(self, pod: v1.Pod, grace_s: int = 30) -> Any:
        return await self.provider.terminate_pod(pod, self.context, grace_period_s=grace_s)


@pytest.fixture(params=[MockHandler, NotifyingHandler])
async def bench(request: pytest.FixtureRequest) -> Bench:
    bench = Bench(request.param())
    await bench.provider.start(bench.node)
    return bench


@pytest.fixture
async def plain() -> Bench:
    return Bench(MockHandler())


async def test_pod_is_created_once_and_updated_only_when_its_spec_changes(bench: Bench) -> None:
    result = await bench.sync(make_pod())
    assert (result.status["phase"], result.terminal) == ("Running", False)
    await bench.sync(make_pod())
    assert bench.handler.calls == ["create"]
    await bench.sync(make_pod(containers=[{"name": "c", "image": "i:2"}]))
    await bench.sync(make_pod(containers=[{"name": "c", "image": "i:2"}]))
    assert bench.handler.calls == ["create", "update"]


async def test_failed_update_is_tried_again(plain: Bench) -> None:
    await plain.sync(make_pod())
    plain.handler.error = RuntimeError("quota")
    changed = make_pod(containers=[{"name": "c", "image": "i:2"}])
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await plain.sync(changed)
    assert plain.handler.calls == ["create", "update", "update"]


async def test_restarted_node_adopts_what_the_backend_has(plain: Bench) -> None:
    await plain.sync(make_pod())
    second = Bench(plain.handler)
    await second.sync(make_pod())
    assert plain.handler.calls == ["create"]
    await second.sync(make_pod(activeDeadlineSeconds=5))
    assert plain.handler.calls == ["create", "update"]


async def test_variables_are_resolved_on_the_way(plain: Bench) -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(k)"}]
    container = {"name": "c", "env": env, "envFrom": [{"configMapRef": {"name": "cm"}}]}
    pod = make_pod(containers=[container], initContainers=[dict(container, name="i")])
    await plain.sync(pod)
    stored = plain.handler.pods["ns", "p"]["spec"]
    for found in (*stored["containers"], *stored["initContainers"]):
        assert {e["name"]: e["value"] for e in found["env"]} == {"A": "1", "B": "1v", "k": "v"}
        assert "envFrom" not in found
    assert pod["spec"]["containers"][0]["env"] == env
    second = Bench(plain.handler)
    await second.sync(pod)
    assert plain.handler.calls == ["create"]


async def test_variables_stay_as_written_when_asked(plain: Bench) -> None:
    plain.provider = LifecycleProvider(plain.handler, resolve_environment=False)
    env = [{"name": "B", "value": "$(A)"}]
    await plain.sync(make_pod(containers=[{"name": "c", "env": env}]))
    assert plain.handler.pods["ns", "p"]["spec"]["containers"][0]["env"] == env


async def test_missing_config_map_shows_in_the_status(plain: Bench) -> None:
    container = {"name": "c", "envFrom": [{"configMapRef": {"name": "absent"}}]}
    with pytest.raises(Exception, match='configmap "absent" not found'):
        await plain.sync(make_pod(containers=[container]))
    assert plain.published[-1]["phase"] == "Pending"
    assert plain.published[-1]["message"] == 'configmap "absent" not found'
    assert plain.handler.calls == []


async def test_error_of_the_provider_is_shown_and_raised_again(plain: Bench) -> None:
    plain.handler.error = RuntimeError("no quota left")
    with pytest.raises(RuntimeError):
        await plain.sync(make_pod())
    assert plain.published == [{"phase": "Pending", "reason": "ProviderFailed", "message": "no quota left"}]


async def test_pod_that_must_not_restart_fails_at_the_first_error(plain: Bench) -> None:
    plain.handler.error = RuntimeError("no quota left")
    result = await plain.sync(make_pod(restartPolicy="Never"))
    assert result.terminal
    assert (result.status["phase"], result.status["reason"]) == ("Failed", "ProviderFailed")


async def test_backend_that_is_away_fails_nothing(plain: Bench) -> None:
    plain.handler.error = TransientError("no answer")
    with pytest.raises(TransientError):
        await plain.sync(make_pod(restartPolicy="Never"))


async def test_pod_that_can_never_run_is_told_to_the_node(plain: Bench) -> None:
    plain.handler.error = InvalidPodError("no privileged pods here")
    with pytest.raises(InvalidPodError):
        await plain.sync(make_pod())
    assert plain.published == []


@pytest.mark.parametrize("raises", [False, True])
async def test_pod_lost_by_the_backend_fails(plain: Bench, raises: bool) -> None:
    plain.handler.raises_not_found = raises
    await plain.sync(make_pod())
    plain.handler.pods.clear()
    result = await plain.sync(make_pod())
    assert result.terminal
    assert (result.status["phase"], result.status["reason"]) == ("Failed", "NotFound")
    state = result.status["containerStatuses"][0]["state"]
    assert state["terminated"]["exitCode"] == 137
    assert state["terminated"]["startedAt"] == "2026-01-01T00:00:00Z"
    assert plain.handler.calls == ["create"]


async def test_young_pod_without_status_is_waited_for(plain: Bench) -> None:
    async def nothing(namespace: str, name: str) -> None:
        return None

    plain.handler.get_pod_status = nothing  # type: ignore[method-assign]
    result = await plain.sync(make_pod())
    assert (result.status, result.terminal, result.requeue_after_s) == (None, False, 1.0)
    await asyncio.sleep(61)
    assert (await plain.sync(make_pod())).status["reason"] == "NotFound"


async def test_finished_pod_is_terminal_and_kept_until_cleanup(plain: Bench) -> None:
    plain.handler.keeps_deleted = True
    await plain.sync(make_pod())
    await plain.handler.end(make_pod(), exit_code=3)
    result = await plain.sync(make_pod())
    assert result.terminal
    result = await plain.terminate(make_pod())
    assert result.status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert "delete" not in plain.handler.calls
    plain.handler.keeps_deleted = False
    await plain.provider.cleanup_pod(v1.PodUID("u1"))
    assert plain.handler.pods == {}
    await plain.provider.cleanup_pod(v1.PodUID("u1"))


async def test_deletion_waits_until_nothing_runs(plain: Bench) -> None:
    plain.handler.stop_after_s = 12
    await plain.sync(make_pod())
    before = asyncio.get_running_loop().time()
    result = await plain.terminate(make_pod(), grace_s=20)
    assert 12 <= asyncio.get_running_loop().time() - before <= 14
    assert plain.handler.grace_seen == [20]
    assert result.terminal
    assert (result.status["phase"], result.status["reason"]) == ("Succeeded", "Terminated")
    terminated = result.status["containerStatuses"][0]["state"]["terminated"]
    assert terminated["message"] == "Container was terminated. The exit code may not reflect the real exit code"
    assert terminated["containerID"] == "x://1"


async def test_notified_exit_codes_are_the_final_ones() -> None:
    bench = Bench(NotifyingHandler())
    await bench.provider.start(bench.node)
    bench.handler.stop_after_s = 3
    await bench.sync(make_pod())
    result = await bench.terminate(make_pod())
    assert result.status["phase"] == "Failed"
    assert result.status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


async def test_provider_that_does_not_stop_is_told_again(plain: Bench) -> None:
    plain.handler.stop_after_s = 1000
    await plain.sync(make_pod())
    with pytest.raises(TransientError, match=r"still runs pod ns/p 12 s after"):
        await plain.terminate(make_pod(), grace_s=2)
    assert plain.handler.pods
    for task in plain.handler.background:
        task.cancel()


async def test_unknown_pod_terminates_at_once(bench: Bench) -> None:
    result = await bench.terminate(make_pod())
    assert result.terminal
    assert result.status["phase"] == "Failed"
    bench.status = {"phase": "Succeeded"}
    assert (await bench.terminate(make_pod())).status is None
    assert bench.handler.calls == []


async def test_namesake_of_a_removed_pod_starts_from_nothing(plain: Bench) -> None:
    await plain.sync(make_pod("old"))
    with pytest.raises(TransientError, match=r"older pod ns/p \(UID old\)"):
        await plain.sync(make_pod("new"))
    await plain.sync(make_pod("new"))
    assert plain.handler.calls == ["create", "delete", "create"]
    assert (await plain.provider.get_pod_status(make_pod("old"), plain.context)) is None
    assert (await plain.provider.get_pod_status(make_pod("new"), plain.context))["phase"] == "Running"  # type: ignore[index]
    await plain.terminate(make_pod("old"))
    await plain.provider.cleanup_pod(v1.PodUID("old"))
    assert plain.handler.pods["ns", "p"]["metadata"]["uid"] == "new"


async def test_orphan_of_an_earlier_life_is_cleaned_up(plain: Bench) -> None:
    await plain.sync(make_pod())
    second = Bench(plain.handler)
    assert [(p.pod["metadata"]["uid"], p.running) for p in await second.provider.list_pods()] == [("u1", True)]
    await second.provider.cleanup_pod(v1.PodUID("u1"))
    assert plain.handler.pods == {}


async def test_notifications_become_changes() -> None:
    handler = NotifyingHandler()
    bench = Bench(handler)
    await bench.provider.start(bench.node)
    await bench.provider.start(bench.node)
    changes = bench.provider.pod_changes()
    first = asyncio.create_task(anext(changes))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    handler.notify({**make_pod(), "status": {"phase": "Running", "message": "told"}})
    assert await first == "u1"
    await changes.aclose()  # type: ignore[attr-defined]


async def test_handler_that_cannot_notify_is_polled(plain: Bench) -> None:
    await plain.sync(make_pod())
    before = asyncio.get_running_loop().time()
    changes = plain.provider.pod_changes()
    assert await anext(changes) == "u1"
    assert asyncio.get_running_loop().time() - before == pytest.approx(5)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_abilities_of_the_handler_are_offered() -> None:
    notifying = LifecycleProvider(NotifyingHandler())
    assert notifying.find_capability(LogsCapability) is notifying.handler  # type: ignore[type-abstract]
    assert LifecycleProvider(MockHandler()).find_capability(LogsCapability) is None  # type: ignore[type-abstract]
