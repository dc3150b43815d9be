"""Condition lists of pods and nodes."""

from vkprovider.api.conditions import (
    KUBELET_POD_CONDITIONS,
    find_condition,
    find_node_condition,
    is_condition_true,
    stamp_conditions,
)

OLD, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_kubelet_owns_its_conditions_alone():
    """Source: pkg/kubelet/types/pod_status.go, PodConditionByKubelet."""
    assert {"Ready", "Initialized", "PodScheduled", "ContainersReady"} <= KUBELET_POD_CONDITIONS
    assert "DisruptionTarget" not in KUBELET_POD_CONDITIONS


def test_condition_is_found_by_its_type():
    ready = {"type": "Ready", "status": "True"}
    status = {"conditions": [{"type": "Initialized", "status": "False"}, ready]}
    assert find_condition(status, "Ready") is ready
    assert find_node_condition(status, "Ready") is ready
    for empty in ({}, {"conditions": None}, {"conditions": []}):
        assert find_condition(empty, "Ready") is None
        assert find_node_condition(empty, "Ready") is None


def test_only_true_is_true():
    def holds(status):
        return is_condition_true({"conditions": [{"type": "Ready", "status": status}]}, "Ready")

    assert [holds(status) for status in ("True", "False", "Unknown")] == [True, False, False]
    assert not is_condition_true({}, "Ready")


def test_transition_time_is_kept_while_the_status_stays():
    previous = {"conditions": [{"type": "Ready", "status": "False", "reason": "A", "lastTransitionTime": OLD}]}
    (same,) = stamp_conditions([{"type": "Ready", "status": "False", "reason": "B"}], previous, now=NOW)
    assert (same["lastTransitionTime"], same["reason"]) == (OLD, "B")
    (changed,) = stamp_conditions([{"type": "Ready", "status": "True"}], previous, now=NOW)
    assert changed["lastTransitionTime"] == NOW


def test_new_condition_is_stamped_now():
    (new,) = stamp_conditions([{"type": "Ready", "status": "True"}], {}, now=NOW)
    assert new == {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": NOW}


def test_missing_transition_time_is_filled_in():
    for time in ({}, {"lastTransitionTime": None}):
        previous = {"conditions": [{"type": "Ready", "status": "True", **time}]}
        (found,) = stamp_conditions([{"type": "Ready", "status": "True"}], previous, now=NOW)
        assert found["lastTransitionTime"] == NOW


def test_conditions_given_are_left_alone():
    condition = {"type": "Ready", "status": "True"}
    stamp_conditions([condition], {}, now=NOW)
    assert condition == {"type": "Ready", "status": "True"}
