"""Who may run on this node: the kubelet's predicates over what is running already.

``check_pod`` is pure and reports the first failure in the kubelet's order and words. ``PodAdmission`` keeps the sums of what has been let
in, so that one more pod costs the same however many there are; a provider that counts in its own way
(``ResourceAccountingCapability``) replaces all but the checks that no provider can know better.

Source: pkg/kubelet/lifecycle/predicate.go, component-helpers scheduling/corev1/helpers.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vkprovider.api import v1
from vkprovider.api.labels import OS
from vkprovider.api.nodes import matches_node_selector
from vkprovider.api.pods import ContainerKind, get_uid, iter_containers
from vkprovider.api.quantity import Quantity
from vkprovider.api.resources import CPU, PODS, Amounts, parse_resource_list, pod_requests
from vkprovider.errors import AdmissionError
from vkprovider.provider.capabilities import ResourceAccountingCapability

_ORDERED_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_ZERO = Quantity()

HostPort = tuple[str, str, int]
"""Protocol, host IP and port that a container takes on the node."""


@dataclass(slots=True)
class NodeUsage:
    """What the pods that were let in take.

    Attributes:
        requests: Sum of their requests by resource name.
        pods: How many they are.
        host_ports: Ports on the node, with how many pods take each.
    """

    requests: Amounts = field(default_factory=dict)
    pods: int = 0
    host_ports: dict[HostPort, int] = field(default_factory=dict)

    def add(self, requests: Mapping[str, Quantity], ports: Iterable[HostPort]) -> None:
        """Count one more pod."""
        self.pods += 1
        for name, amount in requests.items():
            self.requests[name] = self.requests.get(name, _ZERO) + amount
        for port in ports:
            self.host_ports[port] = self.host_ports.get(port, 0) + 1

    def remove(self, requests: Mapping[str, Quantity], ports: Iterable[HostPort]) -> None:
        """Count one pod less."""
        self.pods -= 1
        for name, amount in requests.items():
            self.requests[name] = self.requests.get(name, _ZERO) - amount
        for port in ports:
            left = self.host_ports.get(port, 0) - 1
            if left > 0:
                self.host_ports[port] = left
            else:
                self.host_ports.pop(port, None)


def host_ports(pod: v1.Pod) -> Iterator[HostPort]:
    """Ports on the node that a pod's app containers and sidecars ask for.

    Source: component-helpers scheduling/corev1/helpers.go; scheduler framework types.go, HostPortInfo.
    """
    for kind, container in iter_containers(pod):
        if kind not in (ContainerKind.APP, ContainerKind.SIDECAR):
            continue
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield port.get("protocol") or "TCP", port.get("hostIP") or "0.0.0.0", port["hostPort"]


def check_pod(pod: v1.Pod, node: v1.Node, usage: NodeUsage) -> None:
    """Let a pod in, or say why not.

    Args:
        pod: The pod.
        node: The node as registered, with labels, taints and allocatable.
        usage: What the other pods take.

    Raises:
        AdmissionError: The first predicate that fails.
    """
    _check_os(pod)
    _check_supplemental_groups(pod, node)
    _check_resources(pod, node, usage)
    if not matches_node_affinity(pod, node):
        raise AdmissionError(
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector", reason="NodeAffinity"
        )
    wanted = pod.get("spec", {}).get("nodeName")
    if wanted and wanted != node["metadata"].get("name"):
        raise AdmissionError(
            "Predicate NodeName failed: node(s) didn't match the requested node name", reason="NodeName"
        )
    if any(_ports_clash(port, other) for port in host_ports(pod) for other in usage.host_ports):
        raise AdmissionError(
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            reason="NodePorts",
        )
    tolerations = pod.get("spec", {}).get("tolerations") or ()
    for taint in node.get("spec", {}).get("taints") or ():
        if taint.get("effect") == "NoExecute" and not any(tolerates(t, taint) for t in tolerations):
            raise AdmissionError(
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
                reason="TaintToleration",
            )


def _check_os(pod: v1.Pod) -> None:
    selector = (pod["metadata"].get("labels") or {}).get(OS)
    if selector is not None and selector != "linux":
        raise AdmissionError(
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
            reason="PodOSSelectorNodeLabelDoesNotMatch",
        )
    name = (pod.get("spec", {}).get("os") or {}).get("name")
    if name is not None and name != "linux":
        raise AdmissionError("Failed to admit pod as the OS field doesn't match node OS", reason="PodOSNotSupported")


def _check_supplemental_groups(pod: v1.Pod, node: v1.Node) -> None:
    policy = (pod.get("spec", {}).get("securityContext") or {}).get("supplementalGroupsPolicy")
    if policy == "Strict" and not (node.get("status", {}).get("features") or {}).get("supplementalGroupsPolicy"):
        raise AdmissionError(
            "SupplementalGroupsPolicy=Strict is not supported in this node",
            reason="SupplementalGroupsPolicyNotSupported",
        )


def _check_resources(pod: v1.Pod, node: v1.Node, usage: NodeUsage) -> None:
    """Source: scheduler noderesources/fit.go, fitsRequest; pkg/kubelet/lifecycle/predicate.go."""
    allocatable = parse_resource_list(node.get("status", {}).get("allocatable"))
    if PODS in allocatable and usage.pods + 1 > allocatable[PODS].value():
        _refuse(PODS, 1, usage.pods, allocatable[PODS].value())
    requests = pod_requests(pod)
    names = [name for name in _ORDERED_RESOURCES if name in requests]
    # Extended resources that the node does not know are not for this node to judge.
    names += sorted(name for name in requests if name not in _ORDERED_RESOURCES and name in allocatable)
    for name in names:
        requested = requests[name]
        if not requested:
            continue
        used, capacity = usage.requests.get(name, _ZERO), allocatable.get(name, _ZERO)
        if used + requested > capacity:
            in_units = Quantity.milli_value if name == CPU else Quantity.value
            _refuse(name, in_units(requested), in_units(used), in_units(capacity))


def _refuse(name: str, requested: int, used: int, capacity: int) -> None:
    raise AdmissionError(
        f"Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}",
        reason=f"OutOf{name}",
    )


def _ports_clash(a: HostPort, b: HostPort) -> bool:
    everywhere = "0.0.0.0"
    return a[0] == b[0] and a[2] == b[2] and (a[1] == b[1] or everywhere in (a[1], b[1]))


def tolerates(toleration: Mapping[str, Any], taint: v1.Taint) -> bool:
    """Whether a toleration covers a taint.

    Source: staging/src/k8s.io/api/core/v1/toleration.go, ToleratesTaint.
    """
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    if toleration.get("operator") in (None, "", "Equal"):
        return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")
    return False


def matches_node_affinity(pod: v1.Pod, node: v1.Node) -> bool:
    """Whether the node has what ``nodeSelector`` and the required node affinity ask for.

    Source: component-helpers scheduling/corev1/nodeaffinity, RequiredNodeAffinity.Match.
    """
    spec = pod.get("spec", {})
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return matches_node_selector(required, node)


class PodAdmission:
    """Lets pods in one after the other and remembers what they take.

    Args:
        get_node: The node as registered; None while it is not known.
        accounting: The provider's own way of counting, or None for the predicates of this module.
    """

    def __init__(
        self, get_node: Callable[[], v1.Node | None], accounting: ResourceAccountingCapability | None = None
    ) -> None:
        self._get_node = get_node
        self._accounting = accounting
        self._counted: dict[v1.PodUID, tuple[Amounts, tuple[HostPort, ...]]] = {}
        self._usage = NodeUsage()

    @property
    def usage(self) -> NodeUsage:
        """What the pods that were let in take."""
        return self._usage

    async def admit(self, pod: v1.Pod, get_active_pods: Callable[[], Sequence[v1.Pod]]) -> None:
        """Let a pod in and count it, or refuse it.

        Args:
            pod: The pod.
            get_active_pods: The pods that are neither finished nor fully stopped, without this one.

        Raises:
            AdmissionError: It may not run here.
        """
        if self._accounting is not None:
            _check_os(pod)
            await self._accounting.admit_pod(pod, get_active_pods())
        else:
            node = self._get_node()
            if node is None:
                raise AdmissionError("Kubelet cannot get node info.", reason="InvalidNodeInfo")
            check_pod(pod, node, self._usage)
        self.count(pod)

    def count(self, pod: v1.Pod) -> None:
        """Count a pod as it is now, without asking; again after its spec changed."""
        uid = get_uid(pod)
        self.forget(uid)
        try:
            requests = pod_requests(pod)
        except ValueError:
            # Only a backend's memory of an orphan can be this wrong: the API server checks quantities.
            requests = {}
        entry = (requests, tuple(host_ports(pod)))
        self._counted[uid] = entry
        self._usage.add(*entry)

    def forget(self, uid: v1.PodUID) -> None:
        """A pod has stopped; what it took is free again. Unknown is fine."""
        if (entry := self._counted.pop(uid, None)) is not None:
            self._usage.remove(*entry)
