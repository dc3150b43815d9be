"""The Node object as a value: labels, capacity, conditions, patches."""

from __future__ import annotations

import re

import pytest

from vkprovider.api.quantity import int_value
from vkprovider.controllers.machine import Machine, find_default_ip, read_machine
from vkprovider.controllers.node_status import (
    NodeFacts,
    has_changed,
    list_transition_events,
    make_addresses,
    make_allocatable,
    make_capacity,
    make_conditions,
    make_kubelet_version,
    make_labels,
    make_node,
    make_status,
    make_status_patch,
    make_taints,
)
from vkprovider.localcluster.patches import apply_strategic
from vkprovider.localcluster.schema import find_message
from vkprovider.provider.capabilities import NodeDescription
from vkprovider.settings import NodeSettings

NOW = "2026-05-01T10:00:00Z"
EARLIER = "2026-05-01T09:00:00Z"
GI = 1024**3
MACHINE = Machine(
    hostname="box",
    architecture="amd64",
    machine_id="m",
    system_uuid="s",
    boot_id="b",
    kernel_version="6.1",
    os_image="Debian",
    cpus=4,
    memory_bytes=8 * GI,
    storage_bytes=100 * GI,
)


def facts(description=None, *, errors=(), host_ips=("192.0.2.7",), machine=MACHINE, **settings):
    return NodeFacts(
        settings=NodeSettings(name="n1", **settings),
        machine=machine,
        description=description or NodeDescription(),
        provider_name="memory",
        kubelet_port=10250,
        host_ips=host_ips,
        errors=errors,
    )


def test_version_is_semantic_and_of_the_minor_we_reproduce():
    # apimachinery util/version/version.go: pre-release parts have no leading zeros and are never empty.
    version = make_kubelet_version()
    match = re.fullmatch(r"v1\.36\.\d+-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)", version)
    assert match
    assert all(part == "0" or not (part.isdigit() and part.startswith("0")) for part in match.group(1).split("."))
    assert "vkprovider" in version


def test_default_labels_and_those_that_win_over_them():
    assert make_labels(facts()) == {
        "kubernetes.io/hostname": "n1",
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
        "type": "virtual-kubelet",
    }
    labels = make_labels(
        facts(
            NodeDescription(labels={"zone": "a", "type": "provider"}),
            labels={"type": "mine"},
            exclude_from_load_balancers=True,
        )
    )
    assert labels["zone"] == "a"
    assert labels["type"] == "mine"
    assert labels["node.kubernetes.io/exclude-from-external-load-balancers"] == "true"


def test_default_taint_can_be_left_out_and_overridden():
    default = {"key": "virtual-kubelet.io/provider", "value": "memory", "effect": "NoSchedule"}
    assert make_taints(facts()) == [default]
    assert make_taints(facts(default_taint=False)) == []
    own = {**default, "value": "special"}
    other = {"key": "k", "effect": "NoExecute"}
    assert make_taints(facts(taints=(own, other))) == [own, other]


def test_new_node_carries_a_full_status():
    node = make_node(facts(provider_id="vk://n1"), instance_id="i", now=NOW)
    assert node["metadata"]["annotations"] == {
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        "vkprovider.io/instance-id": "i",
    }
    assert node["spec"]["providerID"] == "vk://n1"
    status = node["status"]
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert status["nodeInfo"]["containerRuntimeVersion"] == "memory://Unknown"
    assert status["nodeInfo"]["kubeProxyVersion"] == ""
    assert set(status["nodeInfo"]) >= {
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "operatingSystem",
    }
    assert [c["type"] for c in status["conditions"]] == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]


def test_capacity_of_the_machine_and_allocatable_with_default_reservations():
    found = make_capacity(facts())
    assert found == {
        "cpu": "4",
        "memory": f"{8 * GI // 1024}Ki",
        "ephemeral-storage": f"{100 * GI // 1024}Ki",
        "pods": "110",
    }
    allocatable = make_allocatable(facts(), found)
    assert allocatable["memory"] == f"{(8 * GI - 100 * 1024**2) // 1024}Ki"
    assert allocatable["pods"] == "110"
    assert allocatable["cpu"] == "4"
    assert abs(int_value(allocatable["ephemeral-storage"]) - 90 * GI) < 1024**2


def test_reservations_huge_pages_and_a_floor_at_zero():
    given = facts(
        NodeDescription(capacity={"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "256Mi"}),
        system_reserved={"cpu": "500m", "memory": "256Mi"},
        kube_reserved={"cpu": "250m"},
        eviction_hard={},
    )
    allocatable = make_allocatable(given, make_capacity(given))
    assert allocatable["cpu"] == "1250m"
    assert allocatable["memory"] == "524288Ki"
    assert allocatable["hugepages-2Mi"] == "256Mi"
    poor = facts(system_reserved={"memory": "100Gi"})
    assert make_allocatable(poor, make_capacity(poor))["memory"] == "0Ki"


def test_provider_decides_on_capacity_and_allocatable():
    given = facts(
        NodeDescription(capacity={"cpu": "100", "pods": "5000", "example.com/gpu": "2"}, allocatable={"cpu": "90"}),
        max_pods=10,
    )
    capacity = make_capacity(given)
    assert (capacity["cpu"], capacity["pods"], capacity["example.com/gpu"]) == ("100", "5000", "2")
    assert make_allocatable(given, capacity)["cpu"] == "90"


def test_pods_are_bound_by_cores_as_well():
    assert make_capacity(facts(pods_per_core=10))["pods"] == "40"
    assert make_capacity(facts(pods_per_core=100))["pods"] == "110"


def test_addresses():
    assert make_addresses(facts(host_ips=("192.0.2.7", "2001:db8::7"))) == [
        {"type": "InternalIP", "address": "192.0.2.7"},
        {"type": "InternalIP", "address": "2001:db8::7"},
        {"type": "Hostname", "address": "n1"},
    ]
    given = NodeDescription(addresses=[{"type": "ExternalIP", "address": "203.0.113.1"}])
    assert make_addresses(facts(given)) == [{"type": "ExternalIP", "address": "203.0.113.1"}]
    assert make_addresses(facts(given, ips=("192.0.2.7",)))[0]["type"] == "InternalIP"


def test_images_are_sorted_by_size_and_cut():
    images = [{"names": [f"i{n}:{tag}" for tag in range(7)], "sizeBytes": n} for n in range(60)]
    listed = make_status(facts(NodeDescription(images=images)), {}, now=NOW)["images"]
    assert [image["sizeBytes"] for image in listed] == list(range(59, 9, -1))
    assert all(len(image["names"]) == 5 for image in listed)
    assert len(make_status(facts(NodeDescription(images=images), max_images=-1), {}, now=NOW)["images"]) == 60


@pytest.mark.parametrize(
    ("errors", "status", "reason", "message"),
    [
        ((), "True", "KubeletReady", "kubelet is posting ready status"),
        (("runtime is down",), "False", "KubeletNotReady", "runtime is down"),
        (("a", "b"), "False", "KubeletNotReady", "[a, b]"),
    ],
)
def test_ready_condition(errors, status, reason, message):
    ready = make_conditions(facts(errors=errors), {}, now=NOW)[-1]
    assert (ready["type"], ready["status"], ready["reason"], ready["message"]) == ("Ready", status, reason, message)


def test_pressure_reported_by_a_provider_gets_the_kubelets_words():
    given = NodeDescription(
        conditions=[{"type": "DiskPressure", "status": "True"}, {"type": "GPUHealthy", "status": "True"}]
    )
    found = {c["type"]: c for c in make_conditions(facts(given), {}, now=NOW)}
    assert found["DiskPressure"]["reason"] == "KubeletHasDiskPressure"
    assert found["DiskPressure"]["message"] == "kubelet has disk pressure"
    assert found["GPUHealthy"]["status"] == "True"
    assert found["MemoryPressure"]["reason"] == "KubeletHasSufficientMemory"


def test_transition_time_changes_only_with_the_status():
    first = make_status(facts(), {}, now=EARLIER)
    same = make_status(facts(), first, now=NOW)
    assert all(c["lastTransitionTime"] == EARLIER and c["lastHeartbeatTime"] == NOW for c in same["conditions"])
    down = make_status(facts(errors=("x",)), same, now=NOW)
    assert down["conditions"][-1]["lastTransitionTime"] == NOW
    assert list_transition_events(same, down) == ["NodeNotReady"]
    assert list_transition_events(same, same) == []


def test_heartbeat_alone_is_no_change():
    first = make_status(facts(), {}, now=EARLIER)
    assert not has_changed(first, make_status(facts(), first, now=NOW))
    assert has_changed(first, make_status(facts(max_pods=5), first, now=NOW))


def apply(old, patch):
    return apply_strategic({"status": old}, {"status": patch}, find_message("core.Node"))["status"]


def test_patch_replaces_addresses_and_merges_the_rest():
    old = make_status(facts(host_ips=("192.0.2.7",)), {}, now=EARLIER)
    new = make_status(facts(host_ips=("192.0.2.8", "2001:db8::8"), max_pods=9), old, now=NOW)
    patch = make_status_patch(old, new)
    assert apply(old, patch) == new
    assert "nodeInfo" not in patch
    assert patch["capacity"] == {"pods": "9"}


def test_patch_leaves_what_others_put_there():
    old = make_status(facts(), {}, now=EARLIER)
    server = {**old, "capacity": {**old["capacity"], "example.com/gpu": "1"}, "volumesAttached": [{"name": "v"}]}
    server["conditions"] = [*old["conditions"], {"type": "NetworkUnavailable", "status": "False"}]
    assert make_status_patch(server, old) is None


def test_patch_removes_huge_pages_and_features_that_are_gone():
    old = make_status(facts(NodeDescription(capacity={"hugepages-2Mi": "0"}, features={"f": True})), {}, now=EARLIER)
    patch = make_status_patch(old, make_status(facts(), old, now=EARLIER))
    assert patch["capacity"] == {"hugepages-2Mi": None}
    assert patch["features"] is None


def test_quantities_are_compared_by_amount():
    old = make_status(facts(), {}, now=EARLIER)
    server = {**old, "capacity": {**old["capacity"], "memory": "8Gi"}}
    assert make_status_patch(server, old) is None


def test_this_machine_can_be_read(tmp_path):
    machine = read_machine(tmp_path / "not" / "there")
    assert machine.cpus >= 1
    assert machine.memory_bytes > 64 * 1024**2
    assert machine.storage_bytes > 0
    assert machine.architecture
    assert machine.boot_id
    assert find_default_ip()
