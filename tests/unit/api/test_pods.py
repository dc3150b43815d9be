"""Questions about a pod that its object alone can answer."""

import pytest

from vkprovider.api import pods
from vkprovider.api.pods import ContainerKind
from vkprovider.testing import make_container, make_pod


@pytest.fixture
def full_pod():
    return make_pod(
        "web",
        uid="u-1",
        namespace="shop",
        containers=[make_container("app"), make_container("log")],
        init_containers=[make_container("setup"), make_container("proxy", restartPolicy="Always")],
        ephemeral_containers=[make_container("debug")],
    )


def test_names_of_a_pod(full_pod):
    assert pods.get_uid(full_pod) == "u-1"
    assert pods.get_key(full_pod) == "shop/web"
    assert pods.format_pod(full_pod) == "web_shop(u-1)"


def test_namespace_defaults():
    assert pods.get_key({"metadata": {"name": "p"}}) == "default/p"


def test_containers_come_in_the_order_of_their_start(full_pod):
    found = [(kind, container["name"]) for kind, container in pods.iter_containers(full_pod)]
    assert found == [
        (ContainerKind.INIT, "setup"),
        (ContainerKind.SIDECAR, "proxy"),
        (ContainerKind.APP, "app"),
        (ContainerKind.APP, "log"),
        (ContainerKind.EPHEMERAL, "debug"),
    ]


def test_absent_and_null_lists_are_empty():
    for spec in ({}, {"containers": None, "initContainers": None, "ephemeralContainers": None}):
        assert list(pods.iter_containers({"spec": spec})) == []
    assert list(pods.iter_containers({})) == []


def test_container_is_found_with_its_kind(full_pod):
    kind, container = pods.find_container(full_pod, "proxy")
    assert (kind, container["name"]) == (ContainerKind.SIDECAR, "proxy")
    assert pods.find_container(full_pod, "nobody") is None


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (ContainerKind.APP, "spec.containers{c}"),
        (ContainerKind.INIT, "spec.initContainers{c}"),
        (ContainerKind.SIDECAR, "spec.initContainers{c}"),
        (ContainerKind.EPHEMERAL, "spec.ephemeralContainers{c}"),
    ],
)
def test_field_path_is_the_kubelets(kind, path):
    """Source: pkg/kubelet/container/ref.go, fieldPath."""
    assert pods.field_path(kind, "c") == path


@pytest.mark.parametrize(
    ("phase", "terminal"), [("Succeeded", True), ("Failed", True), ("Running", False), ("Pending", False), ("", False)]
)
def test_ended_phases_are_terminal(phase, terminal):
    assert pods.is_terminal(make_pod(status={"phase": phase})) is terminal


def test_pod_without_a_status_is_not_terminal():
    assert not pods.is_terminal({"metadata": {}})


def test_deletion_is_seen():
    assert pods.is_deleted(make_pod(deletion_grace_period_s=0))
    assert not pods.is_deleted(make_pod())


@pytest.mark.parametrize(
    ("fields", "critical"),
    [
        ({}, False),
        ({"priority": 1_999_999_999}, False),
        ({"priority": 2_000_000_000}, True),
        ({"priority": 2_000_001_000}, True),
        ({"priority": None}, False),
        ({"annotations": {"kubernetes.io/config.mirror": "hash"}}, True),
    ],
)
def test_critical_pods_are_mirrors_or_of_high_priority(fields, critical):
    assert pods.is_critical(make_pod(**fields)) is critical


def test_null_annotations_are_none():
    assert not pods.is_mirror({"metadata": {"annotations": None}})


@pytest.mark.parametrize(("policy", "found"), [("Never", "Never"), ("OnFailure", "OnFailure"), ("", "Always")])
def test_restart_policy_defaults_to_always(policy, found):
    assert pods.get_restart_policy(make_pod(restart_policy=policy)) == found


@pytest.mark.parametrize(
    ("spec_s", "deletion_s", "override_s", "grace_s"),
    [
        (30, None, None, 30),
        (0, None, None, 1),
        (None, None, None, 30),
        (30, None, 5, 5),
        (30, None, 60, 60),
        (30, None, 0, 1),
        (30, 10, None, 10),
        (30, 60, None, 60),
        (30, 0, None, 1),
        (30, 10, 5, 5),
        (30, 10, 20, 10),
    ],
)
def test_grace_period_is_the_deletions_then_the_override_then_the_specs(spec_s, deletion_s, override_s, grace_s):
    """Source: pkg/kubelet/pod_workers.go, calculateEffectiveGracePeriod."""
    pod = make_pod(grace_period_s=spec_s, deletion_grace_period_s=deletion_s)
    assert pods.get_grace_period_s(pod, override_s) == grace_s
