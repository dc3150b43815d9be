from __future__ import annotations

from typing import Any

import pytest

from vkprovider.api import v1
from vkprovider.api.resources import (
    compute_container_cgroup,
    compute_pod_cgroup,
    compute_qos_class,
    cpu_quota_us,
    cpu_shares,
    format_resource_list,
    get_qos_class,
    hugepage_unit,
    oom_score_adj,
    parse_resource_list,
    pod_limits,
    pod_requests,
    pod_status_resources,
)

GI = 2**30


def container(name: str = "c", requests: Any = None, limits: Any = None, **extra: Any) -> Any:
    return {"name": name, "resources": {"requests": requests or {}, "limits": limits or {}}, **extra}


def sidecar(name: str, requests: Any = None, limits: Any = None) -> Any:
    return container(name, requests, limits, restartPolicy="Always")


def make_pod(containers: Any, init: Any = (), **spec: Any) -> v1.Pod:
    return {
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": list(containers), "initContainers": list(init), **spec},
    }


# Rows of component-helpers resource/helpers_test.go, TestPodResourceRequests and TestPodResourceLimits.
@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param(make_pod([container()]), {}, id="nothing asked"),
        pytest.param(
            make_pod([container("a", {"cpu": "1"}), container("b", {"cpu": "500m", "memory": "1Gi"})]),
            {"cpu": "1500m", "memory": "1Gi"},
            id="app containers add up",
        ),
        pytest.param(
            make_pod([container("a", {"cpu": "1"})], [container("i", {"cpu": "2"}), container("j", {"memory": "1Gi"})]),
            {"cpu": "2", "memory": "1Gi"},
            id="the largest init step counts",
        ),
        pytest.param(
            make_pod([container("a", {"cpu": "1"})], [sidecar("s", {"cpu": "1"}), container("i", {"cpu": "5"})]),
            {"cpu": "6"},
            id="an init step runs beside the sidecars before it",
        ),
        pytest.param(
            make_pod([container("a", {"cpu": "3"})], [container("i", {"cpu": "5"}), sidecar("s", {"cpu": "3"})]),
            {"cpu": "6"},
            id="a sidecar after an init step does not",
        ),
        pytest.param(
            make_pod(
                [container("a", {"cpu": "1"})],
                [
                    container("i1", {"cpu": "10"}),
                    sidecar("s1", {"cpu": "1"}),
                    container("i2", {"cpu": "30"}),
                    sidecar("s2", {"cpu": "2"}),
                    sidecar("s3", {"cpu": "3"}),
                    container("i3", {"cpu": "20"}),
                ],
            ),
            {"cpu": "31"},
            id="several sidecars and steps",
        ),
        pytest.param(
            make_pod([container("a", {"cpu": "1"})], overhead={"cpu": "100m", "memory": "64Mi"}),
            {"cpu": "1100m", "memory": "64Mi"},
            id="overhead is added",
        ),
        pytest.param(
            make_pod(
                [container("a", {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"})],
                resources={"requests": {"cpu": "4", "hugepages-2Mi": "4Mi", "example.com/gpu": "9"}},
                overhead={"cpu": "1"},
            ),
            {"cpu": "5", "memory": "1Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "1"},
            id="pod-level requests replace supported resources, then overhead",
        ),
    ],
)
def test_requests_of_a_pod(pod: v1.Pod, expected: dict[str, str]) -> None:
    assert format_resource_list(pod_requests(pod)) == expected


def test_overhead_can_be_left_out() -> None:
    pod = make_pod([container("a", {"cpu": "1"}, {"cpu": "1"})], overhead={"cpu": "1", "memory": "1Mi"})
    assert format_resource_list(pod_requests(pod, exclude_overhead=True)) == {"cpu": "1"}
    assert format_resource_list(pod_limits(pod, exclude_overhead=True)) == {"cpu": "1"}


def test_overhead_is_added_only_to_limits_that_exist() -> None:
    pod = make_pod(
        [container("a", None, {"cpu": "1", "memory": "0"})], overhead={"cpu": "1", "memory": "1Mi", "x.y/z": "1"}
    )
    assert format_resource_list(pod_limits(pod)) == {"cpu": "2", "memory": "0"}


def test_limits_follow_the_shape_of_requests() -> None:
    pod = make_pod(
        [container("a", None, {"memory": "1Gi"})],
        [sidecar("s", None, {"memory": "1Gi"}), container("i", None, {"memory": "4Gi"})],
        resources={"limits": {"cpu": "3"}},
    )
    assert format_resource_list(pod_limits(pod)) == {"memory": "5Gi", "cpu": "3"}


def test_ephemeral_containers_count_for_nothing() -> None:
    pod = make_pod([container("a", {"cpu": "1"})], ephemeralContainers=[container("e", {"cpu": "9"}, {"cpu": "9"})])
    assert format_resource_list(pod_requests(pod)) == {"cpu": "1"}
    assert compute_qos_class(pod) == "Burstable"


def test_status_shows_totals() -> None:
    pod = make_pod([container("a", {"cpu": "1"}, {"cpu": "2"})])
    assert pod_status_resources(pod) == ({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}, {"cpu": "1"})
    assert pod_status_resources(make_pod([container()])) == ({}, {})


def test_bad_quantity_names_the_resource() -> None:
    with pytest.raises(ValueError, match="memory: '1Gb' is not a quantity"):
        parse_resource_list({"cpu": "1", "memory": "1Gb"})


FULL = {"cpu": "1", "memory": "1Gi"}


# Rows of pkg/apis/core/v1/helper/qos/qos_test.go, TestComputePodQOS.
@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param(make_pod([container()]), "BestEffort", id="nothing"),
        pytest.param(make_pod([container(limits={"nvidia.com/gpu": "2"})]), "BestEffort", id="only an extended resource"),
        pytest.param(make_pod([container(requests={"cpu": "0"})]), "BestEffort", id="zero"),
        pytest.param(make_pod([container("a", FULL, FULL), container("b", FULL, FULL)]), "Guaranteed", id="all equal"),
        pytest.param(make_pod([container(requests={"cpu": "1000m", "memory": "1024Mi"}, limits=FULL)]), "Guaranteed",
                     id="equal in other words"),
        pytest.param(make_pod([container("a", FULL, FULL), container("b")]), "Burstable", id="one without"),
        pytest.param(make_pod([container(requests={"cpu": "500m", "memory": "1Gi"}, limits=FULL)]), "Burstable",
                     id="request below limit"),
        pytest.param(make_pod([container(limits={"cpu": "1"}, requests={"cpu": "1"})]), "Burstable", id="cpu only"),
        pytest.param(make_pod([container("a", FULL, FULL)], [container("i", {"cpu": "1"})]), "Burstable",
                     id="init container without limits"),
        pytest.param(make_pod([container("a", FULL, FULL)], [sidecar("s", FULL, FULL)]), "Guaranteed", id="with sidecar"),
        pytest.param(make_pod([container()], resources={"requests": FULL, "limits": FULL}), "Guaranteed",
                     id="pod level decides"),
        pytest.param(make_pod([container("a", FULL, FULL)], resources={"requests": {"cpu": "1"}}), "Burstable",
                     id="pod-level request only"),
        pytest.param(make_pod([container("a", FULL, FULL)], resources={}), "BestEffort", id="empty pod level decides"),
        pytest.param(make_pod([container()], resources={"requests": FULL, "limits": {"cpu": "1"}}), "Burstable",
                     id="pod-level limits in part"),
    ],
)  # fmt: skip
def test_qos_class(pod: v1.Pod, expected: str) -> None:
    assert compute_qos_class(pod) == expected


def test_qos_class_of_the_status_wins() -> None:
    pod = make_pod([container()])
    pod["status"] = {"qosClass": "Guaranteed"}
    assert get_qos_class(pod) == "Guaranteed"


@pytest.mark.parametrize(
    ("millicpu", "shares", "quota"),
    [(0, 2, 0), (1, 2, 1000), (2, 2, 1000), (10, 10, 1000), (250, 256, 25_000), (1000, 1024, 100_000), (999, 1022, 99_900),
     (400_000, 262_144, 40_000_000)],
)  # fmt: skip
def test_cpu_shares_and_quota(millicpu: int, shares: int, quota: int) -> None:
    assert cpu_shares(millicpu) == shares
    assert cpu_quota_us(millicpu) == quota


def test_quota_follows_the_period() -> None:
    assert cpu_quota_us(500, period_us=10_000) == 5000
    assert cpu_quota_us(10, period_us=10_000) == 1000


def test_container_without_resources_gets_the_least_shares_and_no_limits() -> None:
    cgroup = compute_container_cgroup(make_pod([container()]), container(), memory_capacity_bytes=8 * GI)
    assert (cgroup.cpu_shares, cgroup.cpu_quota_us, cgroup.cpu_period_us) == (2, 0, 100_000)
    assert cgroup.memory_limit_bytes is None
    assert cgroup.oom_score_adj == 1000


def test_shares_come_from_the_limit_when_nothing_is_requested() -> None:
    unit = container(limits={"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"})
    cgroup = compute_container_cgroup(make_pod([unit]), unit, memory_capacity_bytes=8 * GI)
    assert (cgroup.cpu_shares, cgroup.cpu_quota_us, cgroup.memory_limit_bytes) == (512, 50_000, 64 * 2**20)
    assert cgroup.hugepage_limits_bytes == {"2MB": 4 * 2**20, "1GB": GI}
    zero = container(requests={"cpu": "0"}, limits={"cpu": "500m"})
    assert compute_container_cgroup(make_pod([zero]), zero, memory_capacity_bytes=8 * GI).cpu_shares == 2


def test_pod_level_limits_stand_in_for_missing_ones() -> None:
    unit = container(limits={"cpu": "100m"})
    pod = make_pod([unit], resources={"limits": {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"}})
    cgroup = compute_container_cgroup(pod, unit, memory_capacity_bytes=8 * GI)
    assert (cgroup.cpu_quota_us, cgroup.memory_limit_bytes) == (10_000, GI)
    assert cgroup.hugepage_limits_bytes == {"2MB": 4 * 2**20}


def test_quotas_can_be_switched_off() -> None:
    unit = container(limits={"cpu": "1"})
    cgroup = compute_container_cgroup(make_pod([unit]), unit, memory_capacity_bytes=GI, cpu_cfs_quota=False)
    assert (cgroup.cpu_quota_us, cgroup.cpu_period_us) == (None, None)


@pytest.mark.parametrize(("size", "name"), [(2 * 2**20, "2MB"), (GI, "1GB"), (64 * 2**10, "64KB"), (512, "512B")])
def test_names_of_page_sizes(size: int, name: str) -> None:
    assert hugepage_unit(size) == name


def test_pod_cgroup_sets_limits_only_when_every_container_has_one() -> None:
    bounded = make_pod([container("a", {"cpu": "1"}, {"cpu": "2"}), container("b", None, {"cpu": "1"})])
    cgroup = compute_pod_cgroup(bounded)
    assert (cgroup.cpu_shares, cgroup.cpu_quota_us, cgroup.memory_limit_bytes) == (1024, 300_000, None)
    unbounded = make_pod([container("a", {"cpu": "1"}, {"cpu": "2"}), container("b")])
    assert compute_pod_cgroup(unbounded).cpu_quota_us is None
    by_pod = make_pod([container("a", {"cpu": "1"})], resources={"limits": {"memory": "1Gi"}})
    assert compute_pod_cgroup(by_pod).memory_limit_bytes == GI
    assert compute_pod_cgroup(make_pod([container()])).cpu_shares == 2
    guaranteed = compute_pod_cgroup(make_pod([container("a", FULL, FULL)]), cpu_cfs_quota=False)
    assert (guaranteed.cpu_quota_us, guaranteed.memory_limit_bytes) == (-1, GI)


# Rows of pkg/kubelet/qos/policy_test.go, TestGetContainerOOMScoreAdjust.
def test_oom_score_by_class() -> None:
    capacity = 8 * GI
    guaranteed = make_pod([container("a", FULL, FULL)])
    assert oom_score_adj(guaranteed, guaranteed["spec"]["containers"][0], memory_capacity_bytes=capacity) == -997
    critical = make_pod([container()], priorityClassName="system-node-critical", priority=2_000_001_000)
    assert oom_score_adj(critical, container(), memory_capacity_bytes=capacity) == -997
    cluster_critical = make_pod([container()], priorityClassName="system-cluster-critical", priority=2_000_000_000)
    assert oom_score_adj(cluster_critical, container(), memory_capacity_bytes=capacity) == 1000


@pytest.mark.parametrize(
    ("request_text", "score"), [("1Gi", 875), ("8Gi", 3), ("7.99Gi", 3), ("1", 999), ("0", 999), ("4Gi", 500)]
)
def test_oom_score_of_burstable_falls_with_the_request(request_text: str, score: int) -> None:
    unit = container(requests={"memory": request_text, "cpu": "1m"})
    assert oom_score_adj(make_pod([unit]), unit, memory_capacity_bytes=8 * GI) == score


def test_sidecar_is_killed_no_sooner_than_the_app_containers() -> None:
    helper = sidecar("s", {"memory": "100Mi"})
    pod = make_pod([container("a", {"memory": "4Gi"}), container("b", {"memory": "2Gi"})], [helper])
    assert oom_score_adj(pod, helper, memory_capacity_bytes=8 * GI) == 750


def test_unclaimed_pod_level_memory_is_shared_out() -> None:
    unit = container("a", {"memory": "1Gi"})
    pod = make_pod([unit, container("b")], resources={"requests": {"memory": "5Gi"}})
    assert oom_score_adj(pod, unit, memory_capacity_bytes=8 * GI) == 1000 - 1000 * 3 // 8
