"""Figures of probes."""

from __future__ import annotations

from support.exposition import parse_exposition
from vkprovider.metrics import ProbeMetrics


def observe(metrics: ProbeMetrics, uid: str, *, success: bool = True, kind: str = "Liveness") -> None:
    metrics.observe(uid=uid, namespace="ns", pod="web", container="app", kind=kind, success=success, duration_s=0.25)


def test_probes_are_counted_by_result_and_timed_if_they_succeed():
    metrics = ProbeMetrics()
    for success in (True, True, False):
        observe(metrics, "uid-1", success=success)
    exposition = parse_exposition(metrics.render())
    labels = {"probe_type": "Liveness", "container": "app", "pod": "web", "namespace": "ns"}
    assert exposition.value("prober_probe_total", result="successful", pod_uid="uid-1", **labels) == 2
    assert exposition.value("prober_probe_total", result="failed", pod_uid="uid-1", **labels) == 1
    assert exposition.value("prober_probe_duration_seconds_count", **labels) == 2
    assert exposition.value("prober_probe_duration_seconds_sum", **labels) == 0.5
    assert exposition.value("process_start_time_seconds") > 1e9


def test_series_go_with_their_pod_but_not_those_of_its_namesake():
    metrics = ProbeMetrics()
    observe(metrics, "old")
    observe(metrics, "new")
    metrics.forget_pod("old")
    metrics.forget_pod("old")
    exposition = parse_exposition(metrics.render())
    assert [series.labels["pod_uid"] for series in exposition.find("prober_probe_total")] == ["new"]
    assert exposition.find("prober_probe_duration_seconds_count")
    metrics.forget_pod("new")
    assert parse_exposition(metrics.render()).names() == {"process_start_time_seconds"}


def test_a_pod_that_was_never_probed_can_be_forgotten():
    ProbeMetrics().forget_pod("nobody")
