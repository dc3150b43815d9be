"""What a pod asks for: totals, QoS class, and the cgroup values that follow from them. Pure.

Amounts are ``Quantity`` values by resource name; texts of the pod spec are taken to be valid, as the API server has checked them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from vkprovider.api import v1
from vkprovider.api.pods import ContainerKind, is_critical, is_sidecar, iter_containers
from vkprovider.api.quantity import Quantity, parse_quantity

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
EPHEMERAL_STORAGE: Final = "ephemeral-storage"
HUGEPAGES_PREFIX: Final = "hugepages-"

QOS_GUARANTEED: Final = "Guaranteed"
QOS_BURSTABLE: Final = "Burstable"
QOS_BEST_EFFORT: Final = "BestEffort"

NODE_CRITICAL_PRIORITY_CLASS: Final = "system-node-critical"

MIN_CPU_SHARES: Final = 2
MAX_CPU_SHARES: Final = 262_144
MIN_CPU_QUOTA_US: Final = 1000
DEFAULT_CPU_PERIOD_US: Final = 100_000

GUARANTEED_OOM_SCORE_ADJ: Final = -997
BEST_EFFORT_OOM_SCORE_ADJ: Final = 1000
SANDBOX_OOM_SCORE_ADJ: Final = -998

Amounts = dict[str, Quantity]
"""Amounts by resource name."""

_ZERO = Quantity()


def parse_resource_list(resources: Mapping[str, str] | None) -> Amounts:
    """Amounts of a ``requests``, ``limits``, ``overhead``, ``capacity`` or ``allocatable`` of the API.

    Raises:
        ValueError: One of them is not a quantity; the message names resource and text.
    """
    amounts: Amounts = {}
    for name, text in (resources or {}).items():
        try:
            amounts[name] = parse_quantity(str(text))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return amounts


def format_resource_list(amounts: Mapping[str, Quantity]) -> dict[str, str]:
    """Amounts as the API writes them."""
    return {name: str(amount) for name, amount in amounts.items()}


def container_requests(container: v1.Container) -> Amounts:
    """``resources.requests`` of one container."""
    return parse_resource_list(container.get("resources", {}).get("requests"))


def container_limits(container: v1.Container) -> Amounts:
    """``resources.limits`` of one container."""
    return parse_resource_list(container.get("resources", {}).get("limits"))


def is_pod_level_resource(name: str) -> bool:
    """Whether ``spec.resources`` may set it: cpu, memory and huge pages.

    Source: component-helpers resource/helpers.go, IsSupportedPodLevelResource.
    """
    return name in (CPU, MEMORY) or name.startswith(HUGEPAGES_PREFIX)


def pod_requests(pod: v1.Pod, *, exclude_overhead: bool = False) -> Amounts:
    """What the pod needs at most at any one time, with its overhead: what scheduler and admission count.

    App containers and sidecars together, or the hungriest step of the init sequence if that is more; a pod-level request
    replaces the sum for its resource.

    Source: component-helpers resource/helpers.go, PodRequests.
    """
    totals = _aggregate(pod, "requests")
    spec = pod.get("spec", {})
    totals.update(_pod_level(pod, "requests"))
    if not exclude_overhead:
        for name, amount in parse_resource_list(spec.get("overhead")).items():
            totals[name] = totals.get(name, _ZERO) + amount
    return totals


def pod_limits(pod: v1.Pod, *, exclude_overhead: bool = False) -> Amounts:
    """Limits of the pod, summed like requests; overhead is added only to limits that exist and are not zero.

    A resource may be listed although one container has no limit for it; see ``compute_pod_cgroup`` for that question.

    Source: component-helpers resource/helpers.go, PodLimits.
    """
    totals = _aggregate(pod, "limits")
    totals.update(_pod_level(pod, "limits"))
    if not exclude_overhead:
        for name, amount in parse_resource_list(pod.get("spec", {}).get("overhead")).items():
            if totals.get(name, _ZERO):
                totals[name] += amount
    return totals


def pod_status_resources(pod: v1.Pod) -> tuple[v1.ResourceRequirements, dict[str, str]]:
    """``status.resources`` and ``status.allocatedResources`` of a pod whose spec is fully in force.

    Source: pkg/kubelet/kubelet_pods.go, generateAPIPodStatus.
    """
    requests, limits = format_resource_list(pod_requests(pod)), format_resource_list(pod_limits(pod))
    resources: v1.ResourceRequirements = {}
    if requests:
        resources["requests"] = requests
    if limits:
        resources["limits"] = limits
    return resources, dict(requests)


def _pod_level(pod: v1.Pod, kind: str) -> Amounts:
    listed: Mapping[str, str] | None = (pod.get("spec", {}).get("resources") or {}).get(kind)  # type: ignore[assignment]
    return {name: amount for name, amount in parse_resource_list(listed).items() if is_pod_level_resource(name)}


def _steps(pod: v1.Pod, kind: str) -> Iterator[tuple[ContainerKind, Amounts]]:
    for container_kind, container in iter_containers(pod):
        if container_kind is not ContainerKind.EPHEMERAL:
            listed: Mapping[str, str] | None = container.get("resources", {}).get(kind)  # type: ignore[assignment]
            yield container_kind, parse_resource_list(listed)


def _add(totals: Amounts, amounts: Mapping[str, Quantity]) -> None:
    for name, amount in amounts.items():
        totals[name] = totals[name] + amount if name in totals else amount


def _aggregate(pod: v1.Pod, kind: str) -> Amounts:
    """Sum of app containers and sidecars, raised to the largest step of the init sequence.

    Source: component-helpers resource/helpers.go, AggregateContainerRequests.
    """
    running: Amounts = {}
    sidecars: Amounts = {}
    largest_step: Amounts = {}
    for container_kind, amounts in _steps(pod, kind):
        if container_kind is ContainerKind.APP:
            _add(running, amounts)
            continue
        if container_kind is ContainerKind.SIDECAR:
            _add(running, amounts)
            _add(sidecars, amounts)
            step = sidecars
        else:
            step = dict(sidecars)
            _add(step, amounts)
        for name, amount in step.items():
            largest_step[name] = max(amount, largest_step.get(name, amount))
    for name, amount in largest_step.items():
        running[name] = max(amount, running.get(name, amount))
    return running


def _positive_compute(amounts: Mapping[str, Quantity]) -> Amounts:
    return {name: amount for name, amount in amounts.items() if name in (CPU, MEMORY) and amount.nanos > 0}


def compute_qos_class(pod: v1.Pod) -> str:
    """``Guaranteed``, ``Burstable`` or ``BestEffort``, from the spec alone.

    Source: pkg/apis/core/v1/helper/qos/qos.go, ComputePodQOS.
    """
    requests: Amounts = {}
    limits: Amounts = {}
    every_limit_set = True
    pod_level = pod.get("spec", {}).get("resources")
    if pod_level is not None:
        requests = _positive_compute(parse_resource_list(pod_level.get("requests")))
        if pod_level.get("limits"):
            limits = _positive_compute(parse_resource_list(pod_level.get("limits")))
            every_limit_set = len(limits) == 2
    else:
        for kind, container in iter_containers(pod):
            if kind is ContainerKind.EPHEMERAL:
                continue
            _add(requests, _positive_compute(container_requests(container)))
            own_limits = _positive_compute(container_limits(container))
            every_limit_set = every_limit_set and len(own_limits) == 2
            _add(limits, own_limits)
    if not requests and not limits:
        return QOS_BEST_EFFORT
    return QOS_GUARANTEED if every_limit_set and requests == limits else QOS_BURSTABLE


def get_qos_class(pod: v1.Pod) -> str:
    """The class in the pod's status, which never changes, else the computed one.

    Source: pkg/apis/core/v1/helper/qos/qos.go, GetPodQOS.
    """
    return pod.get("status", {}).get("qosClass") or compute_qos_class(pod)


def cpu_shares(millicpu: int) -> int:
    """CPU shares of an amount of CPU in thousandths of a core.

    Source: pkg/kubelet/cm/helpers_linux.go, MilliCPUToShares.
    """
    return min(max(millicpu * 1024 // 1000, MIN_CPU_SHARES), MAX_CPU_SHARES)


def cpu_quota_us(millicpu: int, *, period_us: int = DEFAULT_CPU_PERIOD_US) -> int:
    """CFS quota in microseconds of an amount of CPU in thousandths of a core; 0 for no limit.

    Source: pkg/kubelet/cm/helpers_linux.go, MilliCPUToQuota.
    """
    return max(millicpu * period_us // 1000, MIN_CPU_QUOTA_US) if millicpu else 0


def hugepage_unit(page_size_bytes: int) -> str:
    """Name of a page size in the cgroup filesystem: ``2MB``, ``1GB``, ``64KB``.

    Source: opencontainers/cgroups, HugePageSizes.
    """
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if page_size_bytes >= size and page_size_bytes % size == 0:
            return f"{page_size_bytes // size}{unit}"
    return f"{page_size_bytes}B"


def hugepage_limits_bytes(amounts: Mapping[str, Quantity]) -> dict[str, int]:
    """Limits of huge pages by page size name, e.g. ``{"2MB": 67108864}``."""
    return {
        hugepage_unit(parse_quantity(name.removeprefix(HUGEPAGES_PREFIX)).value()): amount.value()
        for name, amount in amounts.items()
        if name.startswith(HUGEPAGES_PREFIX)
    }


@dataclass(frozen=True, slots=True)
class ContainerCgroup:
    """Cgroup values of one container.

    Attributes:
        cpu_shares: CPU shares, at least 2.
        cpu_period_us: CFS period in microseconds; None when quotas are not enforced.
        cpu_quota_us: CFS quota in microseconds, 0 for unlimited; None when quotas are not enforced.
        memory_limit_bytes: Limit in bytes, or None for none.
        oom_score_adj: From -997 (killed last) to 1000 (killed first).
        hugepage_limits_bytes: Limit by page size name; sizes not named have the limit 0.
    """

    cpu_shares: int
    cpu_period_us: int | None
    cpu_quota_us: int | None
    memory_limit_bytes: int | None
    oom_score_adj: int
    hugepage_limits_bytes: Mapping[str, int] = field(default_factory=dict)


def effective_limits(pod: v1.Pod, container: v1.Container) -> Amounts:
    """Limits of a container, with pod-level ones for cpu, memory and huge pages where it sets none.

    Source: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go, getCPULimit, getMemoryLimit.
    """
    limits = container_limits(container)
    for name, amount in _pod_level(pod, "limits").items():
        if not limits.get(name, _ZERO):
            limits[name] = amount
    return limits


def compute_container_cgroup(
    pod: v1.Pod,
    container: v1.Container,
    *,
    memory_capacity_bytes: int,
    cpu_cfs_quota: bool = True,
    cpu_period_us: int = DEFAULT_CPU_PERIOD_US,
) -> ContainerCgroup:
    """Cgroup values that a container's requests and limits ask for.

    Args:
        pod: The pod.
        container: One of its containers.
        memory_capacity_bytes: Memory of the node, the base of the OOM score.
        cpu_cfs_quota: Whether CPU limits are enforced.
        cpu_period_us: CFS period in microseconds.

    Source: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go, generateLinuxContainerResources.
    """
    requests, limits = container_requests(container), effective_limits(pod, container)
    cpu_limit = limits.get(CPU, _ZERO)
    return ContainerCgroup(
        cpu_shares=cpu_shares(requests.get(CPU, cpu_limit).milli_value()),
        cpu_period_us=cpu_period_us if cpu_cfs_quota else None,
        cpu_quota_us=cpu_quota_us(cpu_limit.milli_value(), period_us=cpu_period_us) if cpu_cfs_quota else None,
        memory_limit_bytes=limits.get(MEMORY, _ZERO).value() or None,
        oom_score_adj=oom_score_adj(pod, container, memory_capacity_bytes=memory_capacity_bytes),
        hugepage_limits_bytes=hugepage_limits_bytes(limits),
    )


@dataclass(frozen=True, slots=True)
class PodCgroup:
    """Cgroup values of a whole pod; None where the pod's cgroup sets nothing.

    Attributes:
        cpu_shares: CPU shares.
        cpu_period_us: CFS period in microseconds.
        cpu_quota_us: CFS quota in microseconds; 0 or -1 for unlimited.
        memory_limit_bytes: Limit in bytes.
    """

    cpu_shares: int
    cpu_period_us: int | None = None
    cpu_quota_us: int | None = None
    memory_limit_bytes: int | None = None


def compute_pod_cgroup(
    pod: v1.Pod, *, cpu_cfs_quota: bool = True, cpu_period_us: int = DEFAULT_CPU_PERIOD_US
) -> PodCgroup:
    """Cgroup values of the pod: limits only where every container, or the pod itself, has one.

    Source: pkg/kubelet/cm/helpers_linux.go, ResourceConfigForPod.
    """
    qos_class = get_qos_class(pod)
    if qos_class == QOS_BEST_EFFORT:
        return PodCgroup(cpu_shares=MIN_CPU_SHARES)
    limits = pod_limits(pod)
    bounded = _bounded_resources(pod)
    shares = cpu_shares(pod_requests(pod).get(CPU, _ZERO).milli_value())
    guaranteed = qos_class == QOS_GUARANTEED
    has_cpu, has_memory = guaranteed or CPU in bounded, guaranteed or MEMORY in bounded
    quota = cpu_quota_us(limits.get(CPU, _ZERO).milli_value(), period_us=cpu_period_us) if cpu_cfs_quota else -1
    return PodCgroup(
        cpu_shares=shares,
        cpu_period_us=cpu_period_us if has_cpu else None,
        cpu_quota_us=quota if has_cpu else None,
        memory_limit_bytes=limits.get(MEMORY, _ZERO).value() if has_memory else None,
    )


def _bounded_resources(pod: v1.Pod) -> set[str]:
    bounded = {CPU, MEMORY}
    sidecars: set[str] = set()
    for kind, amounts in _steps(pod, "limits"):
        named = {name for name in (CPU, MEMORY) if amounts.get(name, _ZERO)}
        if kind is ContainerKind.SIDECAR:
            sidecars |= named
        # An init step counts together with the sidecars before it, as upstream does.
        bounded &= named if kind is ContainerKind.APP else named | sidecars
    return bounded | {name for name, amount in _pod_level(pod, "limits").items() if amount}


def oom_score_adj(pod: v1.Pod, container: v1.Container, *, memory_capacity_bytes: int) -> int:
    """How gladly the kernel kills the container when memory is short, from -997 to 1000.

    Source: pkg/kubelet/qos/policy.go, GetContainerOOMScoreAdjust.
    """
    spec = pod.get("spec", {})
    if is_critical(pod) and spec.get("priorityClassName") == NODE_CRITICAL_PRIORITY_CLASS:
        return GUARANTEED_OOM_SCORE_ADJ
    qos_class = get_qos_class(pod)
    if qos_class == QOS_GUARANTEED:
        return GUARANTEED_OOM_SCORE_ADJ
    if qos_class == QOS_BEST_EFFORT:
        return BEST_EFFORT_OOM_SCORE_ADJ
    share = _unassigned_memory_per_container(pod)
    request = _memory_request(container)
    if is_sidecar(container) and any(c["name"] == container["name"] for c in spec.get("initContainers") or ()):
        request = max(request, min(_memory_request(app) for app in spec["containers"]))
    used = 1000 * (request + share)
    # Go's division cuts towards zero; the share is negative when containers ask for more than the pod.
    score = 1000 - (used // memory_capacity_bytes if used >= 0 else -(-used // memory_capacity_bytes))
    if score < 1000 + GUARANTEED_OOM_SCORE_ADJ:
        return 1000 + GUARANTEED_OOM_SCORE_ADJ
    return BEST_EFFORT_OOM_SCORE_ADJ - 1 if score == BEST_EFFORT_OOM_SCORE_ADJ else score


def _memory_request(container: v1.Container) -> int:
    return container_requests(container).get(MEMORY, _ZERO).value()


def _unassigned_memory_per_container(pod: v1.Pod) -> int:
    """Equal share of the pod-level memory request that no container claims, in bytes.

    Source: pkg/kubelet/qos/helpers.go, remainingPodMemReqPerContainer.
    """
    pod_level = _pod_level(pod, "requests").get(MEMORY, _ZERO)
    if not pod_level:
        return 0
    spec = pod.get("spec", {})
    count = len(spec.get("containers") or ()) + len(spec.get("initContainers") or ())
    rest = pod_level.value() - _aggregate(pod, "requests").get(MEMORY, _ZERO).value()
    return rest // count if rest >= 0 else -(-rest // count)
