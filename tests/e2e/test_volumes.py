"""Volumes of pods, through a real control plane, kubectl and the Docker Engine."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from support.controlplane import ControlPlane
from support.kubectl import Kubectl
from support.pods import AgentMaker, Engine, event_reasons, make_pod, wait_gone, wait_ready
from support.waiting import wait_for

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting and giving away files need root"),
]
TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
def ctl(kubectl: Kubectl, namespace: str) -> Kubectl:
    return kubectl.in_namespace(namespace)


@pytest.fixture
def agent(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl, tmp_path: Path
) -> Iterator[object]:
    """A Docker node that looks at its pods each second; at the end nothing of their volumes may be left."""
    engine = Engine(node_name)
    agent = make_agent(
        control_plane.kubeconfig,
        node_name,
        config={"syncFrequency": "1s"},
        arguments=["--register-with-taints=test.vkprovider.io/own=true:NoSchedule"],
    )
    agent.start()
    agent.wait_ready()
    yield agent
    ctl.run("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    wait_gone(ctl, "pods")
    engine.wait_empty()
    engine.close()
    wait_for(lambda: not list((agent.directory / "root" / "pods").glob("*")), "the pods' directories to go")
    agent.stop()
    ctl.run("delete", "node", node_name)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_the_token_in_a_pod_opens_the_api_server(
    agent: object, ctl: Kubectl, control_plane: ControlPlane, node_name: str
) -> None:
    ctl.apply(make_pod("client", node_name, securityContext={"runAsUser": 1000, "runAsGroup": 1000}))
    wait_ready(ctl, "client")

    def read(name: str) -> str:
        return ctl.run("exec", "client", "--", "cat", f"{TOKEN_DIR}/{name}")

    token, ca, namespace = read("token"), read("ca.crt"), read("namespace")
    assert namespace == ctl.namespace
    assert ctl.run("exec", "client", "--", "stat", "-Lc", "%a %u", f"{TOKEN_DIR}/token").split() == ["600", "1000"]
    server = yaml.safe_load(control_plane.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    assert urlsplit(server).scheme == "https"
    context = ssl.create_default_context(cadata=ca)

    def ask(path: str, body: bytes | None = None) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(server + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    user = ask("/apis/authentication.k8s.io/v1/selfsubjectreviews", json.dumps(review).encode())["status"]["userInfo"]  # type: ignore[index]
    assert user["username"] == f"system:serviceaccount:{ctl.namespace}:default"
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["client"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(f"/api/v1/namespaces/{ctl.namespace}/secrets")
    assert "FailedMount" not in event_reasons(ctl, "client")
    assert "UnsupportedField" not in event_reasons(ctl, "client")


def test_config_follows_its_objects_without_a_restart(agent: object, ctl: Kubectl, node_name: str) -> None:
    pod = make_pod("config", node_name, volumes=[
        {"name": "config", "configMap": {"name": "later"}},
        {"name": "labels", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ])  # fmt: skip
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "config", "mountPath": "/config"},
        {"name": "labels", "mountPath": "/labels"},
    ]
    ctl.apply(pod)
    wait_for(lambda: event_reasons(ctl, "config")["FailedMount"], "event FailedMount")
    description = ctl.run("describe", "pod", "config")
    assert 'MountVolume.SetUp failed for volume "config" : configmap "later" not found' in description
    ctl.run("create", "configmap", "later", "--from-literal=colour=blue")
    wait_ready(ctl, "config", timeout_s=60)
    assert ctl.run("exec", "config", "--", "cat", "/config/colour", "/labels/l") == 'blueapp="config"'

    ctl.run("patch", "configmap", "later", "--type=merge", "-p", '{"data": {"colour": null, "size": "9"}}')
    ctl.run("label", "pod", "config", "new=yes")

    def seen() -> str:
        return ctl.run("exec", "config", "--", "sh", "-c", "ls /config; cat /config/size /labels/l 2>&1 || true")

    wait_for(lambda: seen() == 'size\n9app="config"\nnew="yes"', "the changes in the container", timeout_s=30)
    assert ctl.get("pod", "config")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_claim_is_waited_for_and_mounted_once_bound(
    agent: object, ctl: Kubectl, node_name: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    pod = make_pod("claimer", node_name, volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}])
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": f"pv-{node_name}"}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "claim"},
        "spec": {**spec, "resources": {"requests": {"storage": "1Mi"}}},
    }
    ctl.apply(claim, pod)
    wait_for(lambda: event_reasons(ctl, "claimer")["FailedMount"], "event FailedMount")
    assert "PVC is not bound" in ctl.run("describe", "pod", "claimer")
    waiting = ctl.get("pod", "claimer")["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "ContainerCreating"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pv-{node_name}"},
        "spec": {
            "capacity": {"storage": "1Mi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(disk), "type": "Directory"},
        },
    }
    ctl.apply(volume)
    try:
        wait_ready(ctl, "claimer", timeout_s=60)
        ctl.run("exec", "claimer", "--", "sh", "-c", "echo kept > /v/f")
        assert (disk / "f").read_text() == "kept\n"
        ctl.run("delete", "pod", "claimer", "--grace-period=1")
        wait_gone(ctl, "pod", "claimer")
        assert (disk / "f").read_text() == "kept\n"
    finally:
        ctl.run("delete", "pvc,pod", "--all", "--wait=false")
        ctl.run("delete", "pv", f"pv-{node_name}", "--wait=false")
