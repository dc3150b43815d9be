"""What a new version of a pod means, grace periods, and when a worker runs again."""

from __future__ import annotations

import copy

import pytest

from vkprovider.controllers.pod_state import (
    compare_pods,
    compute_requeue_s,
    compute_retry_s,
    is_older,
    must_terminate,
    shorten_grace,
)
from vkprovider.errors import BackoffError, PodSyncError, TransientError
from vkprovider.testing.builders import make_pod


def changed(pod, version="2", **metadata):
    new = copy.deepcopy(pod)
    new["metadata"].update(resourceVersion=version, **metadata)
    return new


def test_same_version_is_nothing_new():
    pod = make_pod()
    assert not compare_pods(pod, copy.deepcopy(pod)).newer


def test_older_version_is_ignored_even_with_another_spec():
    pod = changed(make_pod(uid="u"), version="10")
    late = changed(pod, version="9", deletionTimestamp="2026-01-01T00:00:00Z")
    assert not compare_pods(pod, late).newer


def test_versions_are_compared_as_numbers():
    assert is_older("99", "100")
    assert not is_older("100", "99")
    assert not is_older("abc", "100")


def test_echo_of_our_status_is_newer_but_not_relevant():
    pod = make_pod()
    echo = changed(pod)
    echo["status"]["phase"] = "Running"
    change = compare_pods(pod, echo)
    assert change.newer
    assert not change.relevant


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"deletionGracePeriodSeconds": 3},
    ],
)
def test_metadata_that_pods_can_see_is_relevant(metadata):
    pod = make_pod()
    assert compare_pods(pod, changed(pod, **metadata)).relevant


def test_new_image_is_relevant():
    pod = make_pod()
    new = changed(pod, generation=2)
    new["spec"]["containers"][0]["image"] = "other"
    assert compare_pods(pod, new).relevant


def test_new_spec_is_seen_without_generation():
    pod = make_pod()
    del pod["metadata"]["generation"]
    new = changed(pod)
    assert not compare_pods(pod, new).relevant
    new["spec"]["containers"][0]["image"] = "other"
    assert compare_pods(pod, new).relevant


def test_foreign_condition_counts_only_for_pods_with_readiness_gates():
    for gates, relevant in (([], False), ([{"conditionType": "example.com/lb"}], True)):
        pod = make_pod(readinessGates=gates)
        new = changed(pod)
        new["status"]["conditions"].append({"type": "example.com/lb", "status": "True"})
        assert compare_pods(pod, new).relevant is relevant


def test_terminal_phase_written_by_somebody_is_relevant():
    pod = make_pod()
    new = changed(pod)
    new["status"]["phase"] = "Failed"
    assert compare_pods(pod, new).relevant
    assert must_terminate(new)


@pytest.mark.parametrize(
    ("pod", "current", "override", "expected"),
    [
        (make_pod(grace_period_s=30), None, None, 30),
        (make_pod(grace_period_s=0), None, None, 1),
        (make_pod(grace_period_s=30, deletion_grace_period_s=5), None, None, 5),
        (make_pod(grace_period_s=30, deletion_grace_period_s=0), None, None, 1),
        (make_pod(grace_period_s=30, deletion_grace_period_s=60), 10, None, 10),
        (make_pod(grace_period_s=30, deletion_grace_period_s=3), 10, None, 3),
        (make_pod(grace_period_s=30), None, 2, 2),
        (make_pod(grace_period_s=30, deletion_grace_period_s=5), None, 60, 5),
    ],
)
def test_smallest_grace_period_wins(pod, current, override, expected):
    # Parity with pkg/kubelet/pod_workers_test.go, Test_calculateEffectiveGracePeriod.
    assert shorten_grace(current, pod, override) == expected


def test_own_wish_of_a_provider_is_kept_exactly():
    assert compute_requeue_s(0.25, sync_period_s=60) == 0.25
    assert compute_requeue_s(-1, sync_period_s=60) == 0


def test_sync_period_is_stretched_by_up_to_a_half():
    values = [compute_requeue_s(None, sync_period_s=60) for _ in range(200)]
    assert min(values) >= 60
    assert max(values) <= 90
    assert max(values) - min(values) > 10


def test_retry_follows_the_errors_wish_up_to_a_minute():
    assert compute_retry_s(BackoffError("wait", retry_after_s=20), backoff_period_s=10) == 20
    assert compute_retry_s(TransientError("wait", retry_after_s=300), backoff_period_s=10) == 60
    for error in (PodSyncError("no"), TransientError("no"), ValueError("bug")):
        assert 10 <= compute_retry_s(error, backoff_period_s=10) <= 15
