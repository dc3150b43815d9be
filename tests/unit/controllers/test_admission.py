"""The kubelet's predicates, in its order and words."""

from __future__ import annotations

import pytest

from vkprovider.controllers.admission import NodeUsage, PodAdmission, check_pod, matches_node_affinity, tolerates
from vkprovider.errors import AdmissionError
from vkprovider.testing.builders import make_container, make_pod


def node(**more):
    labels = {"kubernetes.io/os": "linux", "disk": "ssd", "cores": "8"}
    return {
        "metadata": {"name": "node", "labels": labels},
        "spec": {"taints": more.pop("taints", [])},
        "status": {
            "allocatable": {
                "cpu": "2",
                "memory": "1Gi",
                "ephemeral-storage": "10Gi",
                "pods": "3",
                "example.com/gpu": "1",
            },
            **more,
        },
    }


def asking(**requests):
    requests = {key.replace("__", "/").replace("_", "-"): value for key, value in requests.items()}
    return make_pod(containers=[make_container(resources={"requests": requests})])


def refusal(pod, usage=None, node_object=None):
    with pytest.raises(AdmissionError) as caught:
        check_pod(pod, node_object or node(), usage or NodeUsage())
    return caught.value.reason, caught.value.message


async def used_by(*pods, get_node=node):
    admission = PodAdmission(get_node)
    for pod in pods:
        await admission.admit(pod, list)
    return admission.usage


def test_pod_that_fits_is_let_in():
    check_pod(asking(cpu="2", memory="1Gi"), node(), NodeUsage())


@pytest.mark.parametrize(
    ("pod", "reason", "message"),
    [
        (
            asking(cpu="2500m"),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 2500, used: 0, capacity: 2000",
        ),
        (
            asking(memory="2Gi"),
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824",
        ),
        (
            asking(ephemeral_storage="20Gi"),
            "OutOfephemeral-storage",
            "Node didn't have enough resource: ephemeral-storage, requested: 21474836480, used: 0, capacity: 10737418240",
        ),
        (
            make_pod(containers=[make_container(resources={"requests": {"example.com/gpu": "2"}})]),
            "OutOfexample.com/gpu",
            "Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
        ),
        (
            make_pod(labels={"kubernetes.io/os": "windows"}),
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ),
        (
            make_pod(os={"name": "windows"}),
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
        (
            make_pod(securityContext={"supplementalGroupsPolicy": "Strict"}),
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
        (
            make_pod(nodeSelector={"disk": "tape"}),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            make_pod(node_name="other"),
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        ),
    ],
)
def test_refusals_in_the_kubelets_words(pod, reason, message):
    assert refusal(pod) == (reason, message)


def test_resources_are_named_before_affinity_and_pods_first_of_all():
    pod = make_pod(containers=[make_container(resources={"requests": {"cpu": "3"}})], nodeSelector={"disk": "tape"})
    assert refusal(pod)[0] == "OutOfcpu"
    assert refusal(pod, NodeUsage(pods=3)) == (
        "OutOfpods",
        "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
    )


def test_extended_resource_that_the_node_does_not_know_is_ignored():
    check_pod(
        make_pod(containers=[make_container(resources={"requests": {"other.io/fpga": "1"}})]), node(), NodeUsage()
    )


async def test_zero_request_never_fails():
    usage = await used_by(asking(cpu="2"))
    check_pod(asking(cpu="0"), node(), usage)
    assert refusal(asking(cpu="1m"), usage)[1].endswith("cpu, requested: 1, used: 2000, capacity: 2000")


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ({"hostPort": 80}, {"hostPort": 80}, True),
        ({"hostPort": 80}, {"hostPort": 80, "protocol": "UDP"}, False),
        ({"hostPort": 80}, {"hostPort": 81}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80, "hostIP": "10.0.0.2"}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80}, True),
        ({"containerPort": 80}, {"containerPort": 80}, False),
    ],
)
async def test_host_ports(first, second, clash):
    pods = [make_pod(containers=[make_container(ports=[{"containerPort": 1, **port}])]) for port in (first, second)]
    usage = await used_by(pods[0])
    if clash:
        assert refusal(pods[1], usage)[0] == "NodePorts"
    else:
        check_pod(pods[1], node(), usage)


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_only_no_execute_taints_keep_pods_out(toleration, covers):
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    assert tolerates(toleration, taint) is covers
    pod = make_pod(tolerations=[toleration])
    if covers:
        check_pod(pod, node(taints=[taint]), NodeUsage())
    else:
        assert refusal(pod, node_object=node(taints=[taint]))[0] == "TaintToleration"
    check_pod(make_pod(tolerations=[]), node(taints=[{**taint, "effect": "NoSchedule"}]), NodeUsage())


@pytest.mark.parametrize(
    ("terms", "matches"),
    [
        ([{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd", "nvme"]}]}], True),
        ([{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}], False),
        ([{"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["x"]}]}], True),
        ([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}], True),
        ([{"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}], False),
        ([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}], True),
        ([{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["4"]}]}], False),
        ([{"matchExpressions": [{"key": "disk", "operator": "Gt", "values": ["4"]}]}], False),
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node"]}]}], True),
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["other"]}]}], False),
        ([{}], False),
        ([], False),
        (
            [
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["tape"]}]},
                {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
            ],
            True,
        ),
    ],
)
def test_required_node_affinity(terms, matches):
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    assert matches_node_affinity(make_pod(affinity=affinity), node()) is matches


async def test_what_a_pod_took_is_free_after_it_stopped_and_counted_anew_after_a_resize():
    admission = PodAdmission(node)
    pod = asking(cpu="2")
    await admission.admit(pod, list)
    with pytest.raises(AdmissionError):
        await admission.admit(asking(cpu="1"), list)
    resized = {**pod, "spec": asking(cpu="500m")["spec"]}
    admission.count(resized)
    await admission.admit(asking(cpu="1500m"), list)
    admission.forget(pod["metadata"]["uid"])
    admission.forget("unknown")
    assert admission.usage.pods == 1
    await admission.admit(asking(cpu="500m"), list)


async def test_without_a_node_nobody_is_let_in():
    with pytest.raises(AdmissionError, match=r"Kubelet cannot get node info\.") as caught:
        await PodAdmission(lambda: None).admit(make_pod(), list)
    assert caught.value.reason == "InvalidNodeInfo"
