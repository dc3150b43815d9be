"""Stats and metrics of real nodes, read through the API server as Prometheus and ``kubectl get --raw`` do.

``kubectl top`` needs metrics-server, which is no part of the control plane; its decoder is replayed on the same answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.controlplane import ControlPlane
from support.exposition import Exposition, decode_as_metrics_server, parse_exposition
from support.kubectl import Kubectl
from support.pods import AgentMaker, Engine, make_pod, wait_gone, wait_ready
from support.waiting import wait_for

MIB = 1 << 20


@pytest.fixture
def ctl(kubectl: Kubectl, namespace: str) -> Kubectl:
    return kubectl.in_namespace(namespace)


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.docker)])
def node(
    request: pytest.FixtureRequest, make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl
) -> Iterator[str]:
    """A node of either backend; at the end its pods are deleted, and it with them."""
    agent = make_agent(control_plane.kubeconfig, node_name, provider=request.param)
    agent.start()
    agent.wait_ready()
    yield node_name
    ctl.run("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    wait_gone(ctl, "pods")
    if request.param == "docker":
        engine = Engine(node_name)
        engine.wait_empty()
        engine.close()
    agent.stop()
    ctl.run("delete", "node", node_name)


def raw(ctl: Kubectl, node: str, path: str) -> str:
    return ctl.run("get", "--raw", f"/api/v1/nodes/{node}/proxy/{path}")


def scrape(ctl: Kubectl, node: str, path: str) -> Exposition:
    return parse_exposition(raw(ctl, node, path))


def make_busy_pod(name: str, node: str) -> dict[str, Any]:
    """A pod that computes, with limits and a probe."""
    pod = make_pod(name, node, "sh", "-c", "while :; do :; done")
    container = pod["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "10m"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
    container["readinessProbe"] = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    return pod


def test_what_pods_use_is_shown_in_all_forms(node: str, ctl: Kubectl) -> None:
    namespace = ctl.namespace
    assert namespace is not None
    ctl.apply(make_busy_pod("busy", node), make_pod("done", node, "sh", "-c", "exit 0", restartPolicy="Never"))
    pod = wait_ready(ctl, "busy")
    uid = pod["metadata"]["uid"]
    wait_for(lambda: ctl.get("pod", "done")["status"]["phase"] == "Succeeded", "the other pod's end")

    def decode() -> Any:
        batch = decode_as_metrics_server(raw(ctl, node, "metrics/resource"), now_ms=0)
        return batch if (namespace, "busy") in batch.pods else None

    first = wait_for(decode, "figures of the pod")
    time.sleep(1.5)
    second = decode()
    assert first.node is not None
    assert second.node.cpu_core_nanoseconds > first.node.cpu_core_nanoseconds
    assert list(second.pods) == [(namespace, "busy")]
    before, after = first.pods[namespace, "busy"]["c"], second.pods[namespace, "busy"]["c"]
    elapsed_ms = after.timestamp_ms - before.timestamp_ms
    assert elapsed_ms > 1000
    assert abs(after.timestamp_ms / 1000 - time.time()) < 30
    assert 0 < (after.cpu_core_nanoseconds - before.cpu_core_nanoseconds) / elapsed_ms / 1e6 <= 1.1
    assert 0 < after.memory_bytes < second.node.memory_bytes
    assert abs(after.started_s - time.time()) < 120

    summary = json.loads(raw(ctl, node, "stats/summary"))
    assert summary["node"]["nodeName"] == node
    assert {"cpu", "memory", "fs", "network", "rlimit", "startTime"} <= summary["node"].keys()
    shown = {entry["podRef"]["name"]: entry for entry in summary["pods"]}
    busy = shown["busy"]
    assert busy["podRef"] == {"name": "busy", "namespace": namespace, "uid": uid}
    assert busy["startTime"] == pod["status"]["startTime"]
    assert busy["cpu"]["usageNanoCores"] > 0
    assert busy["network"]["name"] == "eth0"
    [container] = busy["containers"]
    assert container["startTime"] == pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert container["memory"]["availableBytes"] + container["memory"]["workingSetBytes"] == 64 * MIB
    assert not shown.get("done", {}).get("containers")
    brief = json.loads(raw(ctl, node, "stats/summary?only_cpu_and_memory=true"))
    assert "fs" not in brief["node"]

    cadvisor = scrape(ctl, node, "metrics/cadvisor")
    labels = {"namespace": namespace, "pod": "busy"}
    assert cadvisor.value("container_cpu_usage_seconds_total", container="c", **labels) > 0
    assert cadvisor.value("container_spec_memory_limit_bytes", container="c", **labels) == 64 * MIB
    assert cadvisor.find("container_network_receive_bytes_total", interface="eth0", **labels)


def test_the_node_counts_its_work(node: str, ctl: Kubectl) -> None:
    ctl.apply(make_busy_pod("counted", node))
    uid = wait_ready(ctl, "counted")["metadata"]["uid"]
    shown = scrape(ctl, node, "metrics")
    assert shown.value("kubelet_node_name", node=node) == 1
    assert shown.value("kubelet_running_pods") == 1
    assert shown.value("kubelet_running_containers", container_state="running") == 1
    assert shown.value("kubelet_desired_pods", static="") == 1
    assert shown.value("kubelet_working_pods", lifecycle="sync", config="desired") == 1
    assert shown.value("kubelet_started_pods_total") == 1
    assert shown.value("kubelet_started_containers_total", container_type="container") == 1
    assert shown.value("kubelet_pod_start_duration_seconds_count") == 1
    assert shown.value("kubelet_pod_worker_duration_seconds_count", operation_type="create") == 1
    assert shown.value("kubelet_pod_status_sync_duration_seconds_count") >= 1
    assert shown.value("kubelet_pleg_relist_duration_seconds_count") >= 1
    assert abs(shown.value("kubelet_pleg_last_seen_seconds") - time.time()) < 60
    for operation in ("run_podsandbox", "create_container", "start_container", "exec_sync"):
        assert shown.value("kubelet_runtime_operations_total", operation_type=operation) >= 1, operation
    version = ctl.get("node", node)["status"]["nodeInfo"]["kubeletVersion"]
    assert shown.value("kubernetes_build_info", git_version=version) == 1
    assert shown.value("process_resident_memory_bytes") > 10 * MIB
    assert shown.value("rest_client_requests_total", code="200", method="PATCH") >= 1

    def probed() -> float:
        found = scrape(ctl, node, "metrics/probes").find(
            "prober_probe_total", probe_type="Readiness", result="successful", pod="counted", pod_uid=uid
        )
        return found[0].value if found else 0.0

    wait_for(lambda: probed() >= 2, "two probes")
    ctl.run("delete", "pod", "counted")
    wait_for(lambda: probed() == 0, "the series of the deleted pod to go")
    shown = scrape(ctl, node, "metrics")
    assert shown.value("kubelet_running_pods") == 0
    assert shown.value("kubelet_pod_worker_duration_seconds_count", operation_type="kill") >= 1


def test_pages_for_people(node: str, ctl: Kubectl) -> None:
    assert "kubelet statusz" in raw(ctl, node, "statusz")
    assert node in raw(ctl, node, "flagz")
