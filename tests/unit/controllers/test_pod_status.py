"""Statuses as values: completion, end, merge with the API server's, and patches that the API server understands."""

from __future__ import annotations

import copy

import pytest

from vkprovider.controllers.pod_status import (
    LOST_CONTAINER_MESSAGE,
    complete_status,
    finalize_status,
    find_forbidden_transition,
    make_rejected_status,
    make_status_patch,
    merge_for_api,
)
from vkprovider.localcluster.patches import apply_strategic
from vkprovider.localcluster.schema import find_message
from vkprovider.testing.builders import make_container, make_pod

NOW = "2026-05-01T10:00:00Z"
EARLIER = "2026-05-01T09:00:00Z"


def running(name="main", **more):
    return {"name": name, "ready": True, "started": True, "state": {"running": {"startedAt": EARLIER}}, **more}


def terminated(name="main", code=0, **more):
    return {"name": name, "ready": False, "state": {"terminated": {"exitCode": code, "finishedAt": NOW}}, **more}


def waiting(name="main", reason="ContainerCreating", **more):
    return {"name": name, "ready": False, "state": {"waiting": {"reason": reason}}, **more}


def complete(pod, status, previous=None, host_ips=("192.0.2.7",)):
    return complete_status(pod, status, previous=previous or {}, host_ips=host_ips, now=NOW)


def conditions(status):
    return {c["type"]: c for c in status["conditions"]}


class TestCompletion:
    def test_bare_status_of_a_running_pod_becomes_complete(self):
        status = complete(make_pod(), {"phase": "Running", "podIP": "10.0.0.9", "containerStatuses": [running()]})
        assert status["hostIP"] == "192.0.2.7"
        assert status["hostIPs"] == [{"ip": "192.0.2.7"}]
        assert status["podIPs"] == [{"ip": "10.0.0.9"}]
        assert status["startTime"] == NOW
        assert status["qosClass"] == "BestEffort"
        assert status["observedGeneration"] == 1
        found = conditions(status)
        assert {kind: c["status"] for kind, c in found.items()} == {
            "Initialized": "True",
            "Ready": "True",
            "ContainersReady": "True",
            "PodScheduled": "True",
        }
        assert all(c["lastTransitionTime"] == NOW and c["observedGeneration"] == 1 for c in found.values())

    def test_start_time_qos_and_transition_times_never_change(self):
        previous = {
            "startTime": EARLIER,
            "qosClass": "Guaranteed",
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": EARLIER},
                {"type": "ContainersReady", "status": "False", "lastTransitionTime": EARLIER},
            ],
        }
        status = complete(make_pod(), {"phase": "Running", "containerStatuses": [running()]}, previous)
        assert (status["startTime"], status["qosClass"]) == (EARLIER, "Guaranteed")
        found = conditions(status)
        assert found["Ready"]["lastTransitionTime"] == EARLIER
        assert found["ContainersReady"]["lastTransitionTime"] == NOW

    def test_own_conditions_of_a_provider_are_left_alone(self):
        own = {"type": "Ready", "status": "False", "reason": "Mine", "message": "m", "lastTransitionTime": EARLIER}
        status = complete(make_pod(), {"phase": "Running", "containerStatuses": [running()], "conditions": [own]})
        assert conditions(status)["Ready"] == {**own, "observedGeneration": 1}

    def test_unready_and_unknown_containers_are_named_sidecars_first(self):
        pod = make_pod(
            init_containers=[make_container("side", restartPolicy="Always")],
            containers=[make_container("a"), make_container("b"), make_container("c")],
        )
        status = complete(
            pod,
            {
                "phase": "Pending",
                "initContainerStatuses": [waiting("side")],
                "containerStatuses": [running("a"), waiting("b")],
            },
        )
        found = conditions(status)
        message = "containers with unknown status: [c], containers with unready status: [side b]"
        assert found["ContainersReady"]["message"] == message
        assert found["Ready"]["message"] == message
        assert found["Ready"]["reason"] == "ContainersNotReady"
        assert found["Initialized"]["status"] == "True"  # an app container runs

    def test_incomplete_init_containers_are_named(self):
        pod = make_pod(init_containers=[make_container("i1"), make_container("i2")])
        status = complete(
            pod,
            {
                "phase": "Pending",
                "initContainerStatuses": [running("i1", ready=False)],
                "containerStatuses": [waiting()],
            },
        )
        initialized = conditions(status)["Initialized"]
        assert initialized["reason"] == "ContainersNotInitialized"
        assert initialized["message"] == (
            "containers with unknown status: [i2], containers with incomplete status: [i1]"
        )

    @pytest.mark.parametrize(
        ("previous", "message"),
        [
            ([], 'corresponding condition of pod readiness gate "lb" does not exist.'),
            (
                [{"type": "lb", "status": "False"}],
                'the status of pod readiness gate "lb" is not "True", but False',
            ),
        ],
    )
    def test_readiness_gate_that_is_not_true_holds_ready_back(self, previous, message):
        pod = make_pod(readinessGates=[{"conditionType": "lb"}])
        status = complete(pod, {"phase": "Running", "containerStatuses": [running()]}, {"conditions": previous})
        assert conditions(status)["ContainersReady"]["status"] == "True"
        ready = conditions(status)["Ready"]
        assert (ready["status"], ready["reason"], ready["message"]) == ("False", "ReadinessGatesNotReady", message)

    @pytest.mark.parametrize(("phase", "reason"), [("Succeeded", "PodCompleted"), ("Failed", "PodFailed")])
    def test_terminal_phase_forces_readiness_off(self, phase, reason):
        own = [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]
        found = conditions(complete(make_pod(), {"phase": phase, "conditions": own}))
        for kind in ("Ready", "ContainersReady"):
            assert (found[kind]["status"], found[kind]["reason"]) == ("False", reason)

    def test_host_network_pod_has_the_nodes_addresses(self):
        status = complete(make_pod(hostNetwork=True), {"phase": "Pending"}, host_ips=("192.0.2.7", "2001:db8::7"))
        assert status["podIP"] == "192.0.2.7"
        assert status["podIPs"] == [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}]

    def test_pod_ips_seen_before_are_kept_when_a_status_has_none(self):
        status = complete(make_pod(), {"phase": "Running"}, {"podIPs": [{"ip": "10.0.0.3"}], "podIP": "10.0.0.3"})
        assert status["podIP"] == "10.0.0.3"

    def test_reason_is_kept_only_while_the_phase_is_the_same(self):
        previous = {"phase": "Pending", "reason": "Evicted", "message": "m"}
        assert complete(make_pod(), {"phase": "Pending"}, previous)["reason"] == "Evicted"
        assert "reason" not in complete(make_pod(), {"phase": "Running"}, previous)

    def test_input_is_not_changed(self):
        given = {"phase": "Running", "containerStatuses": [running()]}
        before = copy.deepcopy(given)
        complete(make_pod(), given)
        assert given == before


class TestEnd:
    @pytest.mark.parametrize(
        ("statuses", "phase"),
        [
            ([terminated(code=0)], "Succeeded"),
            ([terminated(code=3)], "Failed"),
            ([running()], "Failed"),
            ([], "Failed"),
            ([waiting()], "Failed"),
        ],
    )
    def test_phase_follows_the_exit_codes(self, statuses, phase):
        assert (
            finalize_status(make_pod(), {"phase": "Running", "containerStatuses": statuses}, now=NOW)["phase"] == phase
        )

    def test_one_of_two_containers_without_status_fails_the_pod(self):
        pod = make_pod(containers=[make_container("a"), make_container("b")])
        assert finalize_status(pod, {"containerStatuses": [terminated("a")]}, now=NOW)["phase"] == "Failed"

    def test_terminal_phase_is_kept(self):
        status = {"phase": "Succeeded", "containerStatuses": [terminated(code=1)]}
        assert finalize_status(make_pod(), status, now=NOW)["phase"] == "Succeeded"

    def test_container_whose_end_nobody_saw_is_unknown(self):
        status = finalize_status(make_pod(), {"containerStatuses": [running(containerID="x://1")]}, now=NOW)
        end = status["containerStatuses"][0]["state"]["terminated"]
        assert (end["exitCode"], end["reason"], end["message"]) == (
            137,
            "ContainerStatusUnknown",
            LOST_CONTAINER_MESSAGE,
        )
        assert (end["startedAt"], end["finishedAt"], end["containerID"]) == (EARLIER, NOW, "x://1")
        assert status["containerStatuses"][0]["ready"] is False

    @pytest.mark.parametrize(("initialized", "kind"), [("False", "waiting"), ("True", "terminated")])
    def test_container_that_never_started_ends_only_in_an_initialized_pod(self, initialized, kind):
        status = {
            "conditions": [{"type": "Initialized", "status": initialized}],
            "containerStatuses": [waiting()],
        }
        assert kind in finalize_status(make_pod(), status, now=NOW)["containerStatuses"][0]["state"]

    def test_crash_looping_container_ends_as_it_ended_last(self):
        last = {"terminated": {"exitCode": 3}}
        status = {
            "conditions": [{"type": "Initialized", "status": "True"}],
            "containerStatuses": [waiting(reason="CrashLoopBackOff", lastState=last)],
        }
        assert finalize_status(make_pod(), status, now=NOW)["containerStatuses"][0]["state"] == last


class TestTransitions:
    # Parity with pkg/kubelet/status/status_manager_test.go, TestCheckContainerStateTransition.
    @pytest.mark.parametrize(
        ("policy", "code", "new", "refused"),
        [
            ("Always", 0, running(), None),
            ("Never", 0, running(), "main"),
            ("Never", 1, waiting(), "main"),
            ("OnFailure", 1, running(), None),
            ("OnFailure", 0, running(), "main"),
            ("Never", 0, terminated(), None),
        ],
    )
    def test_terminated_container_stays_terminated_unless_it_may_restart(self, policy, code, new, refused):
        pod = make_pod(restart_policy=policy)
        old = {"containerStatuses": [terminated(code=code)]}
        assert find_forbidden_transition(pod, old, {"containerStatuses": [new]}) == refused

    def test_sidecar_may_restart_in_a_pod_that_may_not(self):
        pod = make_pod(restart_policy="Never", init_containers=[make_container("s", restartPolicy="Always")])
        old = {"initContainerStatuses": [terminated("s", 1)]}
        assert find_forbidden_transition(pod, old, {"initContainerStatuses": [running("s")]}) is None


class TestMerge:
    def test_conditions_of_others_are_kept_and_ours_win(self):
        server = {
            "phase": "Pending",
            "conditions": [{"type": "lb", "status": "True"}, {"type": "Ready", "status": "False"}],
        }
        merged = merge_for_api(
            {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, server, may_run=True
        )
        assert merged["conditions"] == [{"type": "lb", "status": "True"}, {"type": "Ready", "status": "True"}]

    def test_terminal_phase_is_held_back_while_something_may_run(self):
        server = {"phase": "Running"}
        ours = {
            "phase": "Failed",
            "reason": "DeadlineExceeded",
            "message": "m",
            "conditions": [{"type": "DisruptionTarget", "status": "True"}],
        }
        held = merge_for_api(ours, server, may_run=True)
        assert held["phase"] == "Running"
        assert "reason" not in held
        assert held["conditions"] == []
        assert merge_for_api(ours, server, may_run=False)["reason"] == "DeadlineExceeded"

    def test_terminal_phase_at_the_server_is_final(self):
        merged = merge_for_api({"phase": "Running"}, {"phase": "Succeeded", "reason": "r"}, may_run=True)
        assert (merged["phase"], merged["reason"]) == ("Succeeded", "r")


def apply(server, patch):
    patched = apply_strategic({"status": server}, {"status": patch}, find_message("core.Pod"))
    return patched["status"]


class TestPatch:
    @pytest.mark.parametrize(
        ("server", "wanted"),
        [
            ({}, {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
            (
                {"podIPs": [{"ip": "10.0.0.1"}], "podIP": "10.0.0.1"},
                {"podIPs": [{"ip": "10.0.0.2"}], "podIP": "10.0.0.2"},
            ),
            (
                {"conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m"}]},
                {"conditions": [{"type": "Ready", "status": "True"}]},
            ),
            (
                {"conditions": [{"type": "PodResizePending", "status": "True"}, {"type": "lb", "status": "True"}]},
                {"conditions": [{"type": "lb", "status": "True"}]},
            ),
            ({"reason": "Evicted", "message": "m", "phase": "Pending"}, {"phase": "Running"}),
            (
                {"containerStatuses": [running("a"), running("b")]},
                {"containerStatuses": [terminated("a"), running("b")]},
            ),
            (
                {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
                {"resources": {"requests": {"cpu": "2"}}},
            ),
        ],
    )
    def test_patch_makes_of_one_the_other(self, server, wanted):
        patch = make_status_patch(server, wanted)
        assert patch is not None
        assert apply(server, patch) == wanted

    @pytest.mark.parametrize(
        ("server", "wanted"),
        [
            ({"phase": "Running"}, {"phase": "Running", "reason": "", "podIPs": []}),
            (
                {
                    "containerStatuses": [
                        {"name": "a", "ready": False, "restartCount": 0, "lastState": {}, "imageID": ""}
                    ]
                },
                {"containerStatuses": [{"name": "a"}]},
            ),
            (
                {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": None}]},
                {"conditions": [{"type": "Ready", "status": "True"}]},
            ),
        ],
    )
    def test_what_the_server_writes_out_is_no_difference(self, server, wanted):
        assert make_status_patch(server, wanted) is None

    def test_fields_and_conditions_of_others_are_never_touched(self):
        server = {
            "nominatedNodeName": "n",
            "resourceClaimStatuses": [{"name": "c"}],
            "conditions": [{"type": "lb", "status": "True"}],
        }
        patch = make_status_patch(server, {"phase": "Running", "conditions": []})
        assert patch == {"phase": "Running"}

    def test_only_what_changed_is_in_the_patch(self):
        server = {
            "phase": "Pending",
            "hostIP": "192.0.2.1",
            "conditions": [{"type": "Ready", "status": "False", "reason": "r"}],
        }
        wanted = {**server, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        assert make_status_patch(server, wanted) == {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "reason": None}],
        }


def test_rejected_pod_has_a_verdict_and_nothing_else():
    assert make_rejected_status(make_pod(), "OutOfcpu", "Node didn't have enough resource", now=NOW) == {
        "phase": "Failed",
        "reason": "OutOfcpu",
        "message": "Pod was rejected: Node didn't have enough resource",
        "qosClass": "BestEffort",
        "startTime": NOW,
        "observedGeneration": 1,
    }
