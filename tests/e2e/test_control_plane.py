"""The control plane that the other end-to-end tests stand on."""

from __future__ import annotations

import json

import pytest

from support.controlplane_build import kubernetes_version
from support.kubectl import Kubectl, KubectlError


def test_kubectl_is_answered_by_the_pinned_version(kubectl):
    assert {"namespace/default", "namespace/kube-system"} <= set(kubectl.run("get", "ns", "-o", "name").split())
    assert f"Server Version: {kubernetes_version()}" in kubectl.run("version")


def test_a_pod_without_a_node_stays_pending_and_says_why(kubectl, namespace):
    scoped = kubectl.in_namespace(namespace)
    scoped.run("run", "lonely", "--image=none", '--overrides={"spec":{"nodeSelector":{"no":"such-node"}}}')
    scoped.run("wait", "pod/lonely", "--for=jsonpath={.status.conditions[0].reason}=Unschedulable", "--timeout=30s")
    assert scoped.get("pod", "lonely")["status"]["phase"] == "Pending"


def test_a_node_may_write_its_own_node_object_only(control_plane, kubectl, node_name, kubectl_binary):
    node = Kubectl(control_plane.node_kubeconfig(node_name), kubectl_binary)
    manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name}}
    node.run("create", "-f", "-", input=json.dumps(manifest))
    try:
        other = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"{node_name}-other"}}
        with pytest.raises(KubectlError, match="is not allowed to modify node"):
            node.run("create", "-f", "-", input=json.dumps(other))
        created = [e for e in control_plane.audit_events(user=f"system:node:{node_name}") if e["verb"] == "create"]
        assert [e["responseStatus"]["code"] for e in created] == [201, 403]
    finally:
        kubectl.run("delete", "node", node_name)
