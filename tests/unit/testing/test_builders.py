"""Pods come out of the builders as the API server would hand them out."""

import pytest

from vkprovider.testing import make_container, make_pod


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("localhost:5000/busybox", "Always"),
        ("localhost:5000/busybox:1", "IfNotPresent"),
        ("busybox@sha256:" + "a" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy_goes_by_the_tag(image, policy):
    assert make_container(image=image)["imagePullPolicy"] == policy


def test_container_has_its_defaults():
    assert make_container("c", "busybox:1") == {
        "name": "c",
        "image": "busybox:1",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }


def test_container_takes_everything():
    container = make_container(
        command=["a"],
        args=["b"],
        env={"K": "v"},
        ports=[80, {"containerPort": 53, "protocol": "UDP", "name": "dns"}],
        requests={"cpu": "1"},
        limits={"memory": "1Gi"},
        liveness_probe={"exec": {"command": ["true"]}, "periodSeconds": 3},
        readiness_probe={"httpGet": {"port": 80}},
        startup_probe={"grpc": {"port": 9}},
        restartPolicy="Always",
    )
    assert container["env"] == [{"name": "K", "value": "v"}]
    assert container["ports"] == [
        {"containerPort": 80, "protocol": "TCP"},
        {"containerPort": 53, "protocol": "UDP", "name": "dns"},
    ]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    assert container["livenessProbe"] == {
        "exec": {"command": ["true"]},
        "periodSeconds": 3,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["readinessProbe"]["httpGet"] == {"port": 80, "path": "/", "scheme": "HTTP"}
    assert container["startupProbe"]["grpc"] == {"port": 9, "service": ""}
    assert container["restartPolicy"] == "Always"


def test_pod_has_its_defaults():
    pod = make_pod("p")
    spec = pod["spec"]
    assert pod["metadata"]["uid"] != make_pod("p")["metadata"]["uid"]
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"], spec["dnsPolicy"]) == (
        "Always",
        30,
        "ClusterFirst",
    )
    assert [toleration["key"] for toleration in spec["tolerations"]] == [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ]
    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["qosClass"] == "BestEffort"
    assert [condition["type"] for condition in pod["status"]["conditions"]] == ["PodScheduled"]


def test_unbound_pod_is_not_scheduled():
    pod = make_pod(node_name="")
    assert "nodeName" not in pod["spec"]
    assert "conditions" not in pod["status"]


def test_deleted_pod_says_so():
    metadata = make_pod(deletion_grace_period_s=5)["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == 5
    assert metadata["deletionTimestamp"]


def test_pods_share_nothing_with_what_they_were_made_of():
    container = make_container("c")
    first, second = make_pod(containers=[container]), make_pod(containers=[container])
    first["spec"]["containers"][0]["image"] = "changed"
    first["spec"]["tolerations"][0]["key"] = "changed"
    assert second["spec"]["containers"][0]["image"] == container["image"] == "busybox:1.36"
    assert make_pod()["spec"]["tolerations"][0]["key"] == "node.kubernetes.io/not-ready"


def test_fields_go_to_the_spec():
    assert make_pod(hostNetwork=True)["spec"]["hostNetwork"] is True
