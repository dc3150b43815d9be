"""The Node object, its heartbeat and its readiness, as a real control plane sees them; pods are simulated in memory."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.controlplane import ControlPlane
from support.kubectl import Kubectl
from support.pods import AgentMaker, event_reasons, make_pod, wait_gone, wait_ready
from support.waiting import wait_for


@pytest.fixture
def ctl(kubectl: Kubectl, namespace: str) -> Kubectl:
    return kubectl.in_namespace(namespace)


def conditions_of(kubectl: Kubectl, node: str) -> dict[str, Any]:
    return {c["type"]: c for c in kubectl.get("node", node)["status"]["conditions"]}


def test_a_node_registers_with_what_a_kubelet_reports(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, kubectl: Kubectl
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name, provider="memory", default_taint=True)
    agent.start()
    agent.wait_ready()

    node = kubectl.get("node", node_name)
    labels, status = node["metadata"]["labels"], node["status"]
    assert labels["kubernetes.io/hostname"] == node_name
    assert labels["kubernetes.io/os"] == labels["beta.kubernetes.io/os"] == "linux"
    assert labels["type"] == "virtual-kubelet"
    taints = [(t["key"], t.get("value"), t["effect"]) for t in node["spec"]["taints"]]
    assert ("virtual-kubelet.io/provider", "memory", "NoSchedule") in taints
    conditions = [(c["type"], c["status"], c["reason"], c["message"]) for c in status["conditions"]]
    assert conditions == [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    assert status["nodeInfo"]["kubeletVersion"].startswith("v1.36.")
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == agent.port
    assert [a["type"] for a in status["addresses"]] == ["InternalIP", "Hostname"]
    assert status["capacity"]["pods"] == "110"
    lease = kubectl.get("lease", node_name, "-n", "kube-node-lease")
    assert lease["spec"]["holderIdentity"] == node_name
    assert lease["spec"]["leaseDurationSeconds"] == 40
    owner = lease["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", node_name, node["metadata"]["uid"])
    wait_for(
        lambda: {"Starting", "NodeReady"} <= event_reasons(kubectl.in_namespace("default"), node_name).keys(),
        "the node's events",
    )
    assert agent.healthz() == 200


def test_a_node_object_that_was_deleted_is_registered_again(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name, provider="memory")
    agent.start()
    agent.wait_ready()
    uid = ctl.get("node", node_name)["metadata"]["uid"]
    ctl.run("delete", "node", node_name)
    agent.wait_ready()
    assert ctl.get("node", node_name)["metadata"]["uid"] != uid
    ctl.apply(make_pod("after", node_name))
    wait_ready(ctl, "after")
    ctl.run("delete", "pod", "after")


def test_a_clean_exit_can_delete_the_node(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, kubectl: Kubectl
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name, provider="memory", arguments=["--delete-node-on-exit"])
    agent.start()
    agent.wait_ready()
    assert agent.stop() == 0
    wait_gone(kubectl, "node", node_name, timeout_s=5)


def test_a_second_process_of_the_same_name_gives_up_with_a_clear_error(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str
) -> None:
    first = make_agent(control_plane.kubeconfig, node_name, provider="memory")
    first.start()
    first.wait_ready()
    second = make_agent(control_plane.kubeconfig, node_name, provider="memory")
    second.start()
    assert second.wait_exit(timeout_s=60) == 3
    assert f"node {node_name}" in second.log() or node_name in second.log()
    assert first.is_running


def test_a_standby_takes_over_when_the_first_process_dies(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl
) -> None:
    first = make_agent(control_plane.kubeconfig, node_name, provider="memory")
    first.start()
    first.wait_ready()
    second = make_agent(control_plane.kubeconfig, node_name, provider="memory", arguments=["--standby"])
    second.start()
    time.sleep(14)
    assert second.is_running
    first.kill9()

    def port() -> int:
        node = ctl.get("node", node_name)
        return int(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"])

    wait_for(lambda: port() == second.port, "the standby to report the node", timeout_s=70)
    ctl.apply(make_pod("taken", node_name))
    wait_ready(ctl, "taken")
    ctl.run("delete", "pod", "taken")


def test_taints_keep_pods_away_unless_they_tolerate_them(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name, provider="memory", default_taint=True)
    agent.start()
    agent.wait_ready()
    selector = {"nodeSelector": {"kubernetes.io/hostname": node_name}}
    tolerating = make_pod(
        "daemon", None, tolerations=[{"key": "virtual-kubelet.io/provider", "operator": "Exists"}], **selector
    )
    daemon_set = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "daemon"}},
            "template": {"metadata": {"labels": {"app": "daemon"}}, "spec": tolerating["spec"]},
        },
    }
    ctl.apply(daemon_set, make_pod("outside", None, **selector))
    ctl.run("rollout", "status", "daemonset/agent", "--timeout=60s", timeout=70)

    outside = ctl.get("pod", "outside")
    scheduled = {c["type"]: c for c in outside["status"]["conditions"]}["PodScheduled"]
    assert outside["status"]["phase"] == "Pending"
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    ctl.run("delete", "daemonset/agent", "pod/outside")
    wait_gone(ctl, "pods")


def test_an_outage_of_the_api_server_changes_nothing_for_pods(
    make_agent: AgentMaker, node_name: str, tmp_path_factory: pytest.TempPathFactory, kubectl_binary: Any
) -> None:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        kubectl = Kubectl(plane.kubeconfig, kubectl_binary, namespace="default")
        wait_for(lambda: plane.get("/api/v1/namespaces/default/serviceaccounts")["items"], "the service account")
        agent = make_agent(plane.kubeconfig, node_name, provider="memory")
        agent.start()
        agent.wait_ready()
        kubectl.apply(make_pod("through", node_name), make_pod("timed", node_name, "sleep", "5", restartPolicy="Never"))
        before = wait_ready(kubectl, "through")
        wait_ready(kubectl, "timed")
        with plane.outage():
            time.sleep(8)
            assert agent.is_running
        wait_for(lambda: kubectl.get("pod", "timed")["status"]["phase"] == "Succeeded", "the end during the outage")
        after = kubectl.get("pod", "through")
        assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]
        kubectl.apply(make_pod("later", node_name))
        wait_ready(kubectl, "later")
        kubectl.run("delete", "pods", "--all", timeout=60)
        agent.stop()
