"""What is to be done for a pod, as tables. Parity: pkg/kubelet/kuberuntime/kuberuntime_manager_test.go, TestComputePodActions*."""

from __future__ import annotations

from typing import Any

import pytest

from support.runtime_pods import FixedProbes, make_instance, make_sandbox, make_state
from vkprovider.api import v1
from vkprovider.kubelet.actions import PodActions, compute_pod_actions
from vkprovider.kubelet.pod_facts import hash_container, make_pod_facts
from vkprovider.kubelet.probe_results import NoProbes
from vkprovider.kubelet.restart_policy import should_restart_after_exit
from vkprovider.kubelet.runtime_state import make_runtime_pod
from vkprovider.provider import cri
from vkprovider.testing import make_container, make_pod

ALWAYS = {"restartPolicy": "Always"}


def plan(pod: v1.Pod, state: Any, probes: Any = None, **options: Any) -> dict[str, Any]:
    actions: PodActions = compute_pod_actions(pod, make_pod_facts(pod), state, probes or NoProbes(), **options)
    full = {
        "kill_pod": actions.kill_pod,
        "create": actions.create_sandbox,
        "kill": [(kill.record.id, kill.message) for kill in actions.to_kill],
        "reset": [(reset.record.id, reset.kill) for reset in actions.to_reset],
        "ephemeral": [c.name for c in actions.ephemeral_to_start],
        "init": [c.name for c in actions.init_to_start],
        "apps": [c.name for c in actions.apps_to_start],
    }
    assert actions.is_empty is not any(full.values())
    return {key: value for key, value in full.items() if value}


def two_apps(**fields: Any) -> v1.Pod:
    return make_pod(containers=[make_container("a"), make_container("b")], **fields)


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Always", {"a": "running", "b": "running"}, {}),
        ("Always", {"a": "running"}, {"apps": ["b"]}),
        ("Always", {}, {"apps": ["a", "b"]}),
        ("Always", {"a": "exited", "b": "running"}, {"apps": ["a"]}),
        ("Always", {"a": "created", "b": "running"}, {"apps": ["a"]}),
        ("OnFailure", {"a": "exited", "b": "exited:1"}, {"apps": ["b"]}),
        ("OnFailure", {"a": "exited", "b": "exited"}, {"kill_pod": True}),
        ("OnFailure", {"a": "exited:1", "b": "running"}, {"apps": ["a"]}),
        ("Never", {"a": "exited", "b": "exited:1"}, {"kill_pod": True}),
        ("Never", {"a": "exited", "b": "running"}, {}),
        ("Never", {"a": "exited"}, {"apps": ["b"]}),
        (
            "Always",
            {"a": "unknown", "b": "running"},
            {"apps": ["a"], "kill": [("a0", 'Container is in "unknown" state, try killing it before restart')]},
        ),
        ("Always", {"a": ["exited", "running"], "b": "running"}, {}),
    ],
)
def test_app_containers(policy: str, states: Any, expected: Any) -> None:
    pod = two_apps(restart_policy=policy)
    assert plan(pod, make_state(pod, states)) == expected


@pytest.mark.parametrize(
    ("states", "sandboxes", "policy", "expected"),
    [
        ({}, [], "Always", {"kill_pod": True, "create": True, "apps": ["a", "b"]}),
        (
            {"a": "running"},
            [make_sandbox(ready=False)],
            "Always",
            {"kill_pod": True, "create": True, "apps": ["a", "b"]},
        ),
        ({}, [make_sandbox(ip="")], "Always", {"kill_pod": True, "create": True, "apps": ["a", "b"]}),
        ({}, [make_sandbox(host_network=True)], "Always", {"kill_pod": True, "create": True, "apps": ["a", "b"]}),
        (
            {},
            [make_sandbox(), make_sandbox(attempt=1)],
            "Always",
            {"kill_pod": True, "create": True, "apps": ["a", "b"]},
        ),
        ({}, [make_sandbox(ready=False), make_sandbox(attempt=1)], "Always", {"apps": ["a", "b"]}),
        # A pod that never restarts and whose sandbox died is only cleaned up, if it ever had containers.
        ({"a": "exited:137"}, [make_sandbox(ready=False)], "Never", {"kill_pod": True}),
        ({}, [make_sandbox(ready=False)], "Never", {"kill_pod": True, "create": True, "apps": ["a", "b"]}),
        (
            {"a": "exited", "b": "exited:1"},
            [make_sandbox(ready=False)],
            "OnFailure",
            {"kill_pod": True, "create": True, "apps": ["b"]},
        ),
        ({"a": "exited", "b": "exited"}, [make_sandbox(ready=False)], "OnFailure", {"kill_pod": True}),
    ],
)
def test_sandbox(states: Any, sandboxes: Any, policy: str, expected: Any) -> None:
    pod = two_apps(restart_policy=policy)
    assert plan(pod, make_state(pod, states, sandboxes=sandboxes)) == expected


def test_new_sandbox_is_one_attempt_further() -> None:
    pod = two_apps()
    actions = compute_pod_actions(
        pod, make_pod_facts(pod), make_state(pod, {}, sandboxes=[make_sandbox(attempt=3, ready=False)]), NoProbes()
    )
    assert (actions.attempt, actions.sandbox_id) == (4, "sandbox3")


@pytest.mark.parametrize(
    ("states", "policy", "expected"),
    [
        ({}, "Always", {"init": ["i1"]}),
        ({"i1": "running"}, "Always", {}),
        ({"i1": "created"}, "Always", {"init": ["i1"]}),
        ({"i1": "exited"}, "Always", {"init": ["i2"]}),
        ({"i1": "exited", "i2": "exited"}, "Always", {"apps": ["main"]}),
        ({"i1": "exited:1"}, "Always", {"init": ["i1"]}),
        ({"i1": "exited:1"}, "OnFailure", {"init": ["i1"]}),
        ({"i1": "exited:1"}, "Never", {"kill_pod": True}),
        ({"i1": "exited", "i2": "exited:1"}, "Never", {"kill_pod": True}),
        ({"i2": "exited"}, "Always", {"apps": ["main"]}),
        ({"main": "running"}, "Always", {}),
        ({"i1": "exited:1", "main": "running"}, "Never", {}),
        ({"i2": "exited", "main": "exited:1"}, "Always", {"apps": ["main"]}),
        (
            {"i1": "unknown"},
            "Always",
            {"init": ["i1"], "kill": [("i10", 'Init container is in "unknown" state, try killing it before restart')]},
        ),
        ({"i1": "unknown"}, "Never", {"kill_pod": True}),
    ],
)
def test_init_containers(states: Any, policy: str, expected: Any) -> None:
    pod = make_pod(init_containers=[make_container("i1"), make_container("i2")], restart_policy=policy)
    assert plan(pod, make_state(pod, states)) == expected


def test_init_container_out_of_memory_has_failed_whatever_its_code() -> None:
    pod = make_pod(init_containers=[make_container("init")], restart_policy="Always")
    record = make_instance(make_container("init"), "exited", reason="OOMKilled")
    state = make_runtime_pod(v1.PodUID("uid"), [make_sandbox()], [record])
    assert plan(pod, state) == {"init": ["init"]}


@pytest.mark.parametrize(
    ("states", "probes", "expected"),
    [
        ({}, {}, {"init": ["s1"]}),
        ({"s1": "running"}, {}, {"init": ["i"]}),
        ({"s1": "running", "i": "running"}, {}, {}),
        ({"s1": "exited", "i": "running"}, {}, {"init": ["s1"]}),
        ({"s1": "running", "i": "exited"}, {}, {"init": ["s2"]}),
        # The startup probe of a sidecar gates what follows.
        ({"s1": "running", "i": "exited", "s2": "running"}, {"startup/s20": None}, {}),
        ({"s1": "running", "i": "exited", "s2": "running"}, {"startup/s20": True}, {"apps": ["main"]}),
        (
            {"s1": "running", "i": "exited", "s2": "running"},
            {"startup/s20": False},
            {"kill": [("s20", "Init container s2 failed startup probe")], "init": ["s2"]},
        ),
        (
            {"s1": "running", "s2": "running", "main": "running"},
            {"startup/s20": True, "liveness/s10": False},
            {"kill": [("s10", "Init container s1 failed liveness probe")], "init": ["s1"]},
        ),
        ({"s1": "exited", "s2": "running", "main": "running"}, {"startup/s20": True}, {"init": ["s1"]}),
        ({"s2": "running", "main": "running"}, {"startup/s20": True}, {"init": ["s1"]}),
        # Sidecars do not keep a finished pod alive, nor come back for it.
        (
            {"s1": "running", "s2": "running", "main": "exited", "i": "exited"},
            {"startup/s20": True},
            {"kill_pod": True},
        ),
    ],
)
def test_sidecars(states: Any, probes: Any, expected: Any) -> None:
    pod = make_pod(
        init_containers=[
            make_container("s1", liveness_probe={"exec": {"command": ["true"]}}, **ALWAYS),
            make_container("i"),
            make_container("s2", startup_probe={"exec": {"command": ["true"]}}, **ALWAYS),
        ],
        restart_policy="Never",
    )
    assert plan(pod, make_state(pod, states), FixedProbes(probes)) == expected


@pytest.mark.parametrize(
    ("policy", "own", "probes", "expected"),
    [
        ("Always", {}, {"liveness/main0": True}, {}),
        (
            "Always",
            {},
            {"liveness/main0": False},
            {"kill": [("main0", "Container main failed liveness probe, will be restarted")], "apps": ["main"]},
        ),
        (
            "Never",
            {},
            {"liveness/main0": False},
            {"kill": [("main0", "Container main failed liveness probe")], "kill_pod": True},
        ),
        (
            "Never",
            {"restartPolicy": "OnFailure"},
            {"startup/main0": False},
            {"kill": [("main0", "Container main failed startup probe, will be restarted")], "apps": ["main"]},
        ),
        (
            "Always",
            {"restartPolicy": "Never"},
            {"startup/main0": False},
            {"kill": [("main0", "Container main failed startup probe")], "kill_pod": True},
        ),
    ],
)
def test_failed_probes(policy: str, own: Any, probes: Any, expected: Any) -> None:
    pod = make_pod(containers=[make_container(**own)], restart_policy=policy)
    assert plan(pod, make_state(pod, {"main": "running"}), FixedProbes(probes)) == expected


def test_changed_image_restarts_under_every_policy() -> None:
    pod = make_pod(containers=[make_container(image="new:1")], restart_policy="Never")
    record = make_instance(make_container(image="old:1"))
    state = make_runtime_pod(v1.PodUID("uid"), [make_sandbox()], [record])
    assert plan(pod, state) == {
        "kill": [("main0", "Container main definition changed, will be restarted")],
        "apps": ["main"],
    }


def test_hash_looks_at_name_and_image_only_and_is_the_same_everywhere() -> None:
    plain = make_container("c", "i:1")
    assert hash_container(plain) == hash_container(make_container("c", "i:1", command=["x"], env={"A": "b"}))
    assert hash_container(plain) != hash_container(make_container("c", "i:2"))
    assert hash_container(plain) == "ce806b86de9b4cc9"


def test_ephemeral_containers_start_once_even_before_init_is_done() -> None:
    pod = make_pod(init_containers=[make_container("init")], ephemeral_containers=[make_container("debug")])
    assert plan(pod, make_state(pod, {"init": "running"})) == {"ephemeral": ["debug"]}
    assert plan(pod, make_state(pod, {"init": "running", "debug": "exited:1"})) == {}


@pytest.mark.parametrize(
    ("policy", "own", "rules", "code", "restarts"),
    [
        ("Always", None, [], 0, True),
        ("Never", None, [], 1, False),
        ("OnFailure", None, [], 0, False),
        ("OnFailure", None, [], 1, True),
        ("Never", "Always", [], 0, True),
        ("Always", "Never", [], 1, False),
        ("Always", "OnFailure", [], 0, False),
        ("Never", "Never", [("Restart", "In", [42])], 42, True),
        ("Never", "Never", [("Restart", "In", [42])], 1, False),
        ("Never", "Never", [("Restart", "NotIn", [0])], 1, True),
        ("Never", "Never", [("RestartAllContainers", "In", [7])], 7, True),
        # Rules count only beside a policy of the container's own.
        ("Never", None, [("Restart", "In", [42])], 42, False),
    ],
)
def test_restart_after_exit(policy: str, own: str | None, rules: Any, code: int, restarts: bool) -> None:
    container = make_container()
    if own:
        container["restartPolicy"] = own
    container["restartPolicyRules"] = [
        {"action": action, "exitCodes": {"operator": operator, "values": values}} for action, operator, values in rules
    ]
    assert should_restart_after_exit(make_pod(restart_policy=policy), container, code) is restarts


def test_restart_of_all_removes_the_cause_last() -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
    pod = make_pod(
        init_containers=[make_container("init")],
        containers=[make_container("cause", restartPolicy="Never", restartPolicyRules=[rule]), make_container("other")],
    )
    state = make_state(pod, {"init": "exited", "cause": "exited:42", "other": ["exited:1", "running"]})
    assert plan(pod, state, restart_all=True) == {
        "reset": [("other1", True), ("other0", False), ("init0", False), ("cause0", False)]
    }


def test_deleted_pod_starts_nothing() -> None:
    pod = two_apps(deletion_grace_period_s=30)
    assert plan(pod, make_state(pod, {"a": "exited", "b": "running"})) == {}


def test_states_cover_all_of_the_runtimes() -> None:
    assert {state.name for state in cri.ContainerState} == {"CREATED", "RUNNING", "EXITED", "UNKNOWN"}
