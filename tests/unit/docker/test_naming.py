"""Names and labels: identity survives the engine, and nothing of ours looks like a kubelet's."""

from __future__ import annotations

import pytest

from vkprovider.api import labels as kube_labels
from vkprovider.backends.docker import naming
from vkprovider.provider import cri

POD = cri.PodSandboxMetadata("web-0", "0a1b", "default", 2)
ENGINE_LABELS = {kube_labels.POD_UID: "0a1b", kube_labels.OWNER_NODE: "n", kube_labels.OWNER_CLUSTER: "c"}


def make_config(labels=None, annotations=None, log_path="", log_directory=""):
    sandbox = cri.PodSandboxConfig(POD, labels=labels or {}, annotations=annotations or {}, log_directory=log_directory)
    container = cri.ContainerConfig(
        cri.ContainerMetadata("app", 3),
        cri.ImageSpec("sha256:1", user_specified_image="busybox:1"),
        labels=labels or {},
        annotations=annotations or {},
        log_path=log_path,
    )
    return sandbox, container


def test_names_are_those_of_cri_dockerd():
    assert naming.make_sandbox_name(POD) == "k8s_POD_web-0_default_0a1b_2"
    assert naming.make_container_name(cri.ContainerMetadata("app", 3), POD) == "k8s_app_web-0_default_0a1b_3"


def test_labels_and_annotations_come_back_exactly_as_given():
    labels = {"app": "web", "annotation.odd": "1", "label.odd": "2", "io.kubernetes.sandbox.id": "spoofed", "empty": ""}
    annotations = {"kubernetes.io/config.seen": "x", "label.a": "y"}
    sandbox, container = make_config(labels, annotations, log_path="app/3.log", log_directory="/var/log/pods/p")
    for engine_labels in (
        naming.sandbox_labels(sandbox, runtime_handler="kata"),
        naming.container_labels(container, cri.SandboxID("s1"), sandbox),
    ):
        assert naming.split_labels(engine_labels) == (labels, annotations)


def test_a_pod_cannot_pose_as_a_container_of_a_kubelet():
    labels = {"io.kubernetes.docker.type": "container"}
    sandbox, container = make_config(labels)
    for engine_labels in (
        naming.sandbox_labels(sandbox),
        naming.container_labels(container, cri.SandboxID("s1"), sandbox),
    ):
        assert "io.kubernetes.docker.type" not in engine_labels
        assert naming.split_labels(engine_labels)[0] == labels


def test_a_pod_cannot_spoof_our_own_labels():
    sandbox, container = make_config({naming.KIND: "sandbox", naming.SANDBOX_ID: "other"})
    engine_labels = naming.container_labels(container, cri.SandboxID("s1"), sandbox)
    assert engine_labels[naming.KIND] == naming.KIND_CONTAINER
    assert engine_labels[naming.SANDBOX_ID] == "s1"


def test_container_labels_hold_what_cannot_be_derived():
    sandbox, container = make_config(log_path="app/3.log", log_directory="/var/log/pods/p/")
    engine_labels = naming.container_labels(container, cri.SandboxID("s1"), sandbox)
    assert engine_labels[naming.SANDBOX_ID] == "s1"
    assert engine_labels[naming.LOG_PATH] == "/var/log/pods/p/app/3.log"
    assert engine_labels[naming.IMAGE] == "busybox:1"


def test_label_filter_finds_escaped_labels_too():
    assert naming.make_label_filter("container", {"annotation.odd": "1", "app": "web"}, sandbox_id="s1") == [
        "label.annotation.odd=1",
        "app=web",
        "vkprovider.io/kind=container",
        "io.kubernetes.sandbox.id=s1",
    ]
    assert naming.make_label_filter(None, {}) == ["vkprovider.io/kind"]


@pytest.mark.parametrize("name", ["/k8s_POD_web-0_default_0a1b_2", "/renamed-by-someone"])
def test_sandbox_metadata_survives_a_rename(name):
    sandbox, _ = make_config()
    assert naming.find_sandbox_metadata(name, naming.sandbox_labels(sandbox)) == POD


def test_metadata_is_read_from_the_name_when_labels_lack_it():
    assert naming.find_sandbox_metadata("/k8s_POD_web-0_default_0a1b_2", {}) == POD
    assert naming.find_container_metadata("/k8s_app_web-0_default_0a1b_3", {}) == cri.ContainerMetadata("app", 3)


@pytest.mark.parametrize("name", ["/other", "/k8s_app_web-0_default_0a1b_x", ""])
def test_metadata_of_a_foreign_container_is_unknown(name):
    assert naming.find_sandbox_metadata(name, {}) is None
    assert naming.find_container_metadata(name, {}) is None


def test_an_existing_container_of_the_same_owner_and_identity_is_ours():
    sandbox, _ = make_config(ENGINE_LABELS)
    expected = naming.sandbox_labels(sandbox)
    assert naming.find_foreign_owner(expected, {**expected, "app": "changed"}) is None


@pytest.mark.parametrize(
    "key", [kube_labels.OWNER_NODE, kube_labels.OWNER_CLUSTER, kube_labels.POD_UID, naming.KIND, naming.METADATA]
)
def test_an_existing_container_of_another_owner_or_identity_is_foreign(key):
    sandbox, _ = make_config(ENGINE_LABELS)
    expected = naming.sandbox_labels(sandbox)
    assert key in (naming.find_foreign_owner(expected, {**expected, key: "other"}) or "")
    assert "absent" in (naming.find_foreign_owner(expected, {k: v for k, v in expected.items() if k != key}) or "")
    assert naming.find_foreign_owner(expected, None) is not None


def test_labels_that_the_engine_took_from_the_image_do_not_come_back():
    config = cri.PodSandboxConfig(
        cri.PodSandboxMetadata("p", "u", "ns"), labels={"app": "web"}, annotations={"note": "n"}
    )
    from_engine = {"maintainer": "somebody", "annotation.of": "the image", **naming.sandbox_labels(config)}

    assert naming.split_labels(from_engine) == ({"app": "web"}, {"note": "n"})
