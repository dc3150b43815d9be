"""What a node counts."""

from __future__ import annotations

import pytest

from support.exposition import parse_exposition
from vkprovider.metrics import KubeletMetrics


def shown(metrics: KubeletMetrics):
    metrics.refresh()
    return parse_exposition(metrics.render())


def test_names_that_dashboards_and_alerts_ask_for():
    metrics = KubeletMetrics("node-1", git_version="v1.36.3-vkprovider-1.0")
    exposition = shown(metrics)
    assert exposition.value("kubelet_node_name", node="node-1") == 1
    assert exposition.value("kubernetes_build_info", major="1", minor="36", git_version="v1.36.3-vkprovider-1.0") == 1
    kinds = exposition.kinds
    for name, kind in {
        "kubelet_running_pods": "gauge",
        "kubelet_started_pods_total": "counter",
        "kubelet_started_pods_errors_total": "counter",
        "kubelet_pod_start_duration_seconds": "histogram",
        "kubelet_pod_status_sync_duration_seconds": "histogram",
        "kubelet_pleg_relist_duration_seconds": "histogram",
        "kubelet_pleg_relist_interval_seconds": "histogram",
        "kubelet_pleg_last_seen_seconds": "gauge",
        "process_start_time_seconds": "gauge",
        "process_resident_memory_bytes": "gauge",
        "process_cpu_seconds_total": "counter",
    }.items():
        assert kinds.get(name) == kind, name
    assert not any(name.endswith("_created") for name in exposition.names())


def test_two_nodes_in_one_process_count_apart():
    first, second = KubeletMetrics("a"), KubeletMetrics("b")
    first.started_pods.inc()
    assert shown(first).value("kubelet_started_pods_total") == 1
    assert shown(second).value("kubelet_started_pods_total") == 0


def test_gauges_are_set_right_before_they_are_read_by_the_newest_owner():
    metrics = KubeletMetrics()
    metrics.on_scrape("runtime", lambda: metrics.running_pods.set(1))
    metrics.on_scrape("runtime", lambda: metrics.running_pods.set(2))
    assert shown(metrics).value("kubelet_running_pods") == 2


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("OutOfcpu", "OutOfcpu"),
        ("NodeShutdown", "NodeShutdown"),
        ("OutOfexample.com/gpu", "OutOfExtendedResources"),
        ("whatever a provider says", "Other"),
    ],
)
def test_reasons_of_rejections_stay_few(reason: str, counted: str) -> None:
    metrics = KubeletMetrics()
    metrics.reject(reason)
    assert shown(metrics).value("kubelet_admission_rejections_total", reason=counted) == 1


@pytest.mark.parametrize(
    ("size", "label"), [(0, "0-10MB"), (10 << 20, "10MB-100MB"), (3 << 30, "1GB-5GB"), (1 << 40, "GT100GB")]
)
def test_pulls_are_counted_by_size(size: int, label: str) -> None:
    metrics = KubeletMetrics()
    metrics.observe_pull(size, 2.0)
    assert shown(metrics).value("kubelet_image_pull_duration_seconds_sum", image_size_in_bytes=label) == 2.0


def test_requests_are_in_flight_until_they_end_even_in_failure():
    metrics, times = KubeletMetrics(), iter((1.0, 3.0))
    labels = {"method": "POST", "path": "exec", "server_type": "readwrite", "long_running": "true"}

    def serve() -> None:
        with metrics.request("POST", "exec", get_time=lambda: next(times)):
            assert shown(metrics).value("kubelet_http_inflight_requests", **labels) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve()
    exposition = shown(metrics)
    assert exposition.value("kubelet_http_inflight_requests", **labels) == 0
    assert exposition.value("kubelet_http_requests_total", **labels) == 1
    assert exposition.value("kubelet_http_requests_duration_seconds_sum", **labels) == 2.0
