"""Statuses of pods, as tables. Parity: pkg/kubelet/kubelet_pods_test.go, pkg/kubelet/status/generate_test.go."""

from __future__ import annotations

from typing import Any

import pytest

from support.runtime_pods import FixedProbes, at, make_instance, make_sandbox, make_state
from vkprovider.api import v1
from vkprovider.kubelet.container_status import StartFailure
from vkprovider.kubelet.pod_facts import make_pod_facts
from vkprovider.kubelet.probe_results import NoProbes
from vkprovider.kubelet.runtime_state import make_runtime_pod
from vkprovider.kubelet.status import StatusInputs, generate_pod_status
from vkprovider.provider import cri
from vkprovider.testing import make_container, make_pod


def generate(pod: v1.Pod, state: Any, *, previous: Any = None, **inputs: Any) -> v1.PodStatus:
    values: dict[str, Any] = {
        "now": at(1000),
        "probes": NoProbes(),
        "host_ips": ("192.0.2.1",),
        "runtime_name": "docker",
    }
    previous = pod.get("status", {}) if previous is None else previous
    return generate_pod_status(pod, make_pod_facts(pod), state, StatusInputs(previous=previous, **(values | inputs)))


def entry(status: Any, name: str = "main") -> Any:
    groups = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
    return next(c for group in groups for c in status.get(group) or () if c["name"] == name)


def condition(status: Any, kind: str) -> tuple[str, str, str]:
    found = next(c for c in status["conditions"] if c["type"] == kind)
    return found["status"], found.get("reason", ""), found.get("message", "")


@pytest.mark.parametrize(
    ("policy", "states", "terminal", "phase"),
    [
        ("Always", {}, False, "Pending"),
        ("Always", {"a": "running"}, False, "Pending"),
        ("Always", {"a": "running", "b": "running"}, False, "Running"),
        ("Always", {"a": "running", "b": "exited"}, False, "Running"),
        ("Always", {"a": "exited", "b": "exited"}, False, "Running"),
        ("OnFailure", {"a": "exited", "b": "exited"}, False, "Succeeded"),
        ("OnFailure", {"a": "exited", "b": "exited:1"}, False, "Running"),
        ("Never", {"a": "exited", "b": "exited:1"}, False, "Failed"),
        ("Never", {"a": "exited", "b": "running"}, False, "Running"),
        ("Never", {"a": "exited", "b": "exited"}, False, "Succeeded"),
        ("Never", {"a": "exited"}, False, "Pending"),
        ("Always", {"a": "exited", "b": "exited"}, True, "Succeeded"),
        ("Always", {"a": "exited", "b": "exited:137"}, True, "Failed"),
        ("Always", {"a": "created", "b": "running"}, False, "Pending"),
    ],
)
def test_phase_of_app_containers(policy: str, states: Any, terminal: bool, phase: str) -> None:
    pod = make_pod(containers=[make_container("a"), make_container("b")], restart_policy=policy)
    assert generate(pod, make_state(pod, states), is_terminal=terminal)["phase"] == phase


@pytest.mark.parametrize(
    ("policy", "states", "phase"),
    [
        ("Always", {}, "Pending"),
        ("Always", {"init": "running"}, "Pending"),
        ("Always", {"init": "exited"}, "Pending"),
        ("Always", {"init": "exited:1"}, "Pending"),
        ("Never", {"init": "exited:1"}, "Failed"),
        ("Always", {"init": "exited", "main": "running"}, "Running"),
    ],
)
def test_phase_with_init_containers(policy: str, states: Any, phase: str) -> None:
    pod = make_pod(init_containers=[make_container("init")], restart_policy=policy)
    assert generate(pod, make_state(pod, states))["phase"] == phase


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ({"side": "running"}, "Pending"),
        ({"side": "running", "main": "running"}, "Running"),
        ({"side": "exited:1", "main": "running"}, "Running"),
        ({"side": "running", "main": "exited"}, "Running"),
        ({"side": "exited:1", "main": "exited"}, "Succeeded"),
    ],
)
def test_phase_with_sidecars(states: Any, phase: str) -> None:
    pod = make_pod(init_containers=[make_container("side", restartPolicy="Always")], restart_policy="Never")
    assert generate(pod, make_state(pod, states))["phase"] == phase


def test_crash_looping_pod_is_running_and_ended_ones_stay_ended() -> None:
    pod = make_pod()
    failure = {"main": StartFailure("CrashLoopBackOff", "back-off 10s restarting failed container=main")}
    status = generate(pod, make_state(pod, {"main": "exited:1"}), failures=failure)
    assert status["phase"] == "Running"
    assert entry(status)["state"] == {
        "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container=main"}
    }
    assert entry(status)["lastState"]["terminated"]["exitCode"] == 1
    ended = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. "}
    status = generate(pod, make_state(pod, {"main": "running"}), previous=ended)
    assert (status["phase"], status["reason"], status["message"]) == tuple(ended.values())


def test_running_container_in_full() -> None:
    container = make_container(
        requests={"cpu": "100m"},
        limits={"memory": "64Mi"},
        volumeMounts=[{"name": "v", "mountPath": "/v", "readOnly": True}],
    )
    pod = make_pod(containers=[container])
    record = make_instance(
        container,
        attempt=3,
        user=cri.ContainerUser(1000, 1000, (5,)),
        resources=cri.LinuxContainerResources(
            cpu_shares=204, cpu_period=100_000, cpu_quota=0, memory_limit_bytes=128 * 1024**2
        ),
    )
    status = generate(pod, make_runtime_pod(v1.PodUID("uid"), [make_sandbox()], [record]))
    assert entry(status) == {
        "name": "main",
        "state": {"running": {"startedAt": "2026-01-01T00:00:32Z"}},
        "lastState": {},
        "ready": True,
        "started": True,
        "restartCount": 3,
        "image": "busybox:1.36",
        "imageID": "repo@sha256:abc",
        "containerID": "docker://main3",
        "allocatedResources": {"cpu": "100m", "memory": "64Mi"},
        # What the runtime enforces differs from what was asked for: the truth is shown.
        "resources": {"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True, "recursiveReadOnly": "Disabled"}],
        "user": {"linux": {"uid": 1000, "gid": 1000, "supplementalGroups": [5]}},
    }


def test_small_amounts_are_shown_as_asked_for() -> None:
    container = make_container(requests={"cpu": "1m"}, limits={"cpu": "5m"})
    resources = cri.LinuxContainerResources(cpu_shares=2, cpu_period=100_000, cpu_quota=1000)
    record = make_instance(container, resources=resources)
    pod = make_pod(containers=[container])
    status = generate(pod, make_runtime_pod(v1.PodUID("uid"), [make_sandbox()], [record]))
    assert entry(status)["resources"] == {"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}}


def test_waiting_container_before_anything_was_made() -> None:
    pod = make_pod()
    status = generate(pod, make_state(pod, {}, sandboxes=[]))
    assert entry(status) == {
        "name": "main",
        "state": {"waiting": {"reason": "ContainerCreating"}},
        "lastState": {},
        "ready": False,
        "started": False,
        "restartCount": 0,
        "image": "busybox:1.36",
        "imageID": "",
    }
    assert condition(status, "PodReadyToStartContainers") == ("False", "", "")
    assert status["startTime"] == "2026-01-01T00:16:40Z"
    assert "podIP" not in status
    assert status["hostIP"] == "192.0.2.1"


def test_exited_container_and_the_one_before() -> None:
    pod = make_pod(restart_policy="Never")
    state = make_state(pod, {"main": ["exited:1", "exited:2", "exited:3"]})
    status = generate(pod, state)
    assert entry(status)["state"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "startedAt": "2026-01-01T00:00:22Z",
        "finishedAt": "2026-01-01T00:00:25Z",
        "containerID": "docker://main2",
    }
    assert entry(status)["lastState"]["terminated"]["exitCode"] == 2
    assert entry(status)["restartCount"] == 2


def test_apps_come_by_name_and_init_containers_in_the_order_of_the_spec() -> None:
    pod = make_pod(
        containers=[make_container("b"), make_container("a")],
        init_containers=[make_container("z"), make_container("y")],
        ephemeral_containers=[make_container("f"), make_container("e")],
    )
    status = generate(pod, make_state(pod, {}))
    assert [c["name"] for c in status["containerStatuses"]] == ["a", "b"]
    assert [c["name"] for c in status["initContainerStatuses"]] == ["z", "y"]
    assert [c["name"] for c in status["ephemeralContainerStatuses"]] == ["e", "f"]


def running_before(name: str = "main", **fields: Any) -> Any:
    status = {
        "name": name,
        "state": {"running": {"startedAt": "2026-01-01T00:00:02Z"}},
        "lastState": {},
        "ready": True,
        "started": True,
        "restartCount": 4,
        "image": "busybox:1.36",
        "imageID": "x",
        "containerID": "docker://main0",
    }
    return {"phase": "Running", "containerStatuses": [{**status, **fields}]}


def test_vanished_container_is_waiting_with_a_made_up_end() -> None:
    pod = make_pod()
    status = generate(pod, make_state(pod, {}), previous=running_before())
    assert entry(status)["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert entry(status)["lastState"]["terminated"] == {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was deleted.  The container used to be Running",
        "startedAt": None,
        "finishedAt": None,
    }
    assert entry(status)["restartCount"] == 5
    assert status["phase"] == "Running"
    deleted = make_pod(deletion_grace_period_s=30)
    assert entry(generate(deleted, make_state(deleted, {}), previous=running_before()))["restartCount"] == 4


def test_container_in_unknown_state_has_ended() -> None:
    pod = make_pod()
    status = generate(pod, make_state(pod, {"main": "unknown"}), previous=running_before())
    terminated = entry(status)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (
        137,
        "ContainerStatusUnknown",
        "The container could not be located when the pod was terminated",
    )
    assert entry(status)["restartCount"] == 5


def test_end_without_a_record_is_kept_as_it_was() -> None:
    pod = make_pod(restart_policy="Never")
    end = {"terminated": {"exitCode": 3, "reason": "Error", "containerID": "docker://x"}}
    previous = running_before(state=end, ready=False, started=False)
    status = generate(pod, make_state(pod, {}, sandboxes=[]), previous=previous)
    assert entry(status)["state"] == end
    assert entry(status)["restartCount"] == 4


def test_init_container_without_a_record_is_done_once_the_app_was_made() -> None:
    pod = make_pod(init_containers=[make_container("init")])
    status = generate(pod, make_state(pod, {"main": "running"}))
    terminated = entry(status, "init")["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (0, "Completed")
    assert terminated["message"] == (
        "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"
    )
    assert entry(status, "init")["ready"] is True


def test_restart_count_never_goes_back() -> None:
    pod = make_pod()
    status = generate(pod, make_state(pod, {"main": "running"}), previous=running_before())
    assert entry(status)["restartCount"] == 4


@pytest.mark.parametrize(
    ("results", "started", "ready", "triggered"),
    [
        ({}, True, True, []),
        ({"startup/main0": None}, False, False, []),
        ({"startup/main0": False}, False, False, []),
        ({"startup/main0": True}, True, True, []),
        ({"readiness/main0": None}, True, False, ["main"]),
        ({"readiness/main0": False}, True, False, ["main"]),
        ({"readiness/main0": True}, True, True, []),
        ({"startup/main0": None, "readiness/main0": True}, False, False, []),
    ],
)
def test_started_and_ready_follow_the_probes(results: Any, started: bool, ready: bool, triggered: list[str]) -> None:
    pod = make_pod()
    probes = FixedProbes(results)
    status = generate(pod, make_state(pod, {"main": "running"}), probes=probes)
    assert (entry(status)["started"], entry(status)["ready"]) == (started, ready)
    assert probes.triggered == triggered


def test_readiness_is_kept_over_a_restart_of_the_agent() -> None:
    pod = make_pod()
    previous = running_before() | {"conditions": [{"type": "Ready", "status": "True"}]}
    state, probes = make_state(pod, {"main": "running"}), FixedProbes({"readiness/main0": None, "startup/main0": None})
    kept = generate(pod, state, previous=previous, probes=probes, agent_started_at=at(500))
    assert (entry(kept)["started"], entry(kept)["ready"]) == (True, True)
    young = generate(pod, state, previous=previous, probes=probes, agent_started_at=at(5))
    assert entry(young)["ready"] is False
    unready = generate(
        pod, state, previous=running_before() | {"conditions": []}, probes=probes, agent_started_at=at(500)
    )
    assert entry(unready)["ready"] is False


def test_conditions_of_a_pod_that_is_not_ready() -> None:
    pod = make_pod(
        containers=[make_container("a"), make_container("b")],
        init_containers=[make_container("side", restartPolicy="Always")],
    )
    probes = FixedProbes({"readiness/a0": False, "readiness/side0": False})
    status = generate(pod, make_state(pod, {"a": "running", "b": "running", "side": "running"}), probes=probes)
    expected = ("False", "ContainersNotReady", "containers with unready status: [side a]")
    assert condition(status, "ContainersReady") == expected
    assert condition(status, "Ready") == expected
    assert condition(status, "Initialized") == ("True", "", "")


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ([], ("True", "", "")),
        (
            [{"type": "example.com/ok", "status": "False"}],
            (
                "False",
                "ReadinessGatesNotReady",
                'the status of pod readiness gate "example.com/ok" is not "True", but False',
            ),
        ),
        ([{"type": "example.com/ok", "status": "True"}], ("True", "", "")),
    ],
)
def test_readiness_gates(gates: Any, expected: Any) -> None:
    pod = make_pod(
        readinessGates=[{"conditionType": "example.com/ok"}], status={"phase": "Pending", "conditions": gates}
    )
    status = generate(pod, make_state(pod, {"main": "running"}))
    if not gates:
        expected = (
            "False",
            "ReadinessGatesNotReady",
            'corresponding condition of pod readiness gate "example.com/ok" does not exist.',
        )
    assert condition(status, "Ready") == expected
    assert condition(status, "ContainersReady") == ("True", "", "")


@pytest.mark.parametrize(
    ("code", "ready", "initialized"),
    [
        (0, ("False", "PodCompleted", ""), ("True", "PodCompleted", "")),
        (1, ("False", "PodFailed", ""), ("True", "", "")),
    ],
)
def test_conditions_of_an_ended_pod(code: int, ready: Any, initialized: Any) -> None:
    pod = make_pod(restart_policy="Never", init_containers=[make_container("init")])
    status = generate(pod, make_state(pod, {"init": "exited", "main": f"exited:{code}"}))
    assert condition(status, "Ready") == condition(status, "ContainersReady") == ready
    assert condition(status, "Initialized") == initialized


def test_conditions_of_others_are_kept_and_transition_times_change_with_the_status_only() -> None:
    foreign = {"type": "example.com/x", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    pod = make_pod(status={"phase": "Pending", "conditions": [foreign]})
    first = generate(pod, make_state(pod, {}), now=at(1))
    second = generate(pod, make_state(pod, {"main": "running"}), previous=first, now=at(2))
    third = generate(pod, make_state(pod, {"main": "running"}), previous=second, now=at(3))
    assert first["conditions"][0] == foreign
    times = {c["type"]: c["lastTransitionTime"][-3:-1] for c in third["conditions"]}
    assert times["Ready"] == "02"
    assert times["PodScheduled"] == "01"
    assert second == third
    assert [c["type"] for c in third["conditions"]] == [
        "example.com/x",
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]


def test_observed_generation_follows_the_pod_and_never_goes_back() -> None:
    pod = make_pod()
    pod["metadata"]["generation"] = 3
    status = generate(pod, make_state(pod, {"main": "running"}))
    assert status["observedGeneration"] == 3
    assert {c["observedGeneration"] for c in status["conditions"]} == {3}
    assert generate(pod, make_state(pod, {}), previous={"observedGeneration": 5})["observedGeneration"] == 5


@pytest.mark.parametrize(
    ("ips", "host_ips", "expected"),
    [
        (("10.0.0.5", ()), ("192.0.2.1",), ["10.0.0.5"]),
        (("10.0.0.5", ("fd00::5",)), ("192.0.2.1",), ["10.0.0.5", "fd00::5"]),
        (("10.0.0.5", ("fd00::5",)), ("2001:db8::1", "192.0.2.1"), ["fd00::5", "10.0.0.5"]),
    ],
)
def test_addresses_come_in_the_order_of_the_nodes_families(ips: Any, host_ips: Any, expected: list[str]) -> None:
    from dataclasses import replace

    pod = make_pod()
    sandbox = replace(make_sandbox(ip=ips[0]), additional_ips=ips[1])
    status = generate(pod, make_state(pod, {}, sandboxes=[sandbox]), host_ips=host_ips)
    assert [item["ip"] for item in status["podIPs"]] == expected
    assert status["podIP"] == expected[0]
    assert status["hostIPs"] == [{"ip": ip} for ip in host_ips]


def test_pod_in_the_hosts_network_has_its_addresses_at_once() -> None:
    pod = make_pod(hostNetwork=True)
    assert generate(pod, make_state(pod, {}, sandboxes=[]))["podIP"] == "192.0.2.1"


def test_addresses_outlive_the_sandbox_of_an_ended_pod_only() -> None:
    previous = {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}
    pod = make_pod()
    dead = make_state(pod, {"main": "exited"}, sandboxes=[make_sandbox(ready=False)])
    assert generate(pod, dead, previous=previous, is_terminal=True)["podIP"] == "10.0.0.9"
    assert "podIP" not in generate(pod, dead, previous=previous)


def test_totals_of_the_pod() -> None:
    pod = make_pod(
        containers=[make_container("a", requests={"cpu": "100m"}), make_container("b", requests={"cpu": "150m"})],
        init_containers=[make_container("i", requests={"cpu": "1"})],
    )
    status = generate(pod, make_state(pod, {}))
    assert status["resources"] == {"requests": {"cpu": "1"}}
    assert status["allocatedResources"] == {"cpu": "1"}
    assert status["qosClass"] == "Burstable"


def test_termination_messages_share_twelve_kibibytes() -> None:
    containers = [make_container(f"c{i}") for i in range(4)]
    pod = make_pod(containers=containers, restart_policy="Never")
    records = [make_instance(c, "exited:1", message="é" * 4000) for c in containers]
    status = generate(pod, make_runtime_pod(v1.PodUID("uid"), [make_sandbox()], records))
    lengths = [len(c["state"]["terminated"]["message"].encode()) for c in status["containerStatuses"]]
    assert lengths == [12 * 1024 // 4] * 4
    assert records[0].message == "é" * 4000


def test_nothing_that_was_given_is_changed() -> None:
    import copy

    pod = make_pod(init_containers=[make_container("side", restartPolicy="Always")])
    previous = generate(pod, make_state(pod, {"side": "running"}))
    before_pod, before_status = copy.deepcopy(pod), copy.deepcopy(previous)
    generate(
        pod,
        make_state(pod, {"side": "exited:1", "main": "running"}),
        previous=previous,
        failures={"main": StartFailure("x", "y")},
    )
    assert (pod, previous) == (before_pod, before_status)
