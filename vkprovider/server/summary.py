"""``/stats/summary``: figures as the kubelet's Summary API shows them. Pure.

Source: staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1/types.go.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vkprovider.api import v1
from vkprovider.api.resources import MEMORY, compute_pod_cgroup, effective_limits
from vkprovider.api.timestamps import format_time
from vkprovider.metrics import find_process_start_s
from vkprovider.provider.capabilities import ResourceUsage
from vkprovider.server.host import Filesystem, HostUsage
from vkprovider.server.stats import ContainerFigures, Figures, NodeFigures, PodFigures

_UNLIMITED = 2**63


def make_summary(figures: Figures, *, only_cpu_and_memory: bool = False) -> dict[str, Any]:
    """The Summary of a node; what is not known is left out.

    Args:
        figures: What was gathered.
        only_cpu_and_memory: Leave out all else.
    """
    pods = [make_pod_stats(pod, figures.node.host, brief=only_cpu_and_memory) for pod in figures.pods]
    return {"node": _make_node(figures, brief=only_cpu_and_memory), "pods": pods}


def make_pod_stats(pod: PodFigures, host: HostUsage, *, brief: bool) -> dict[str, Any]:
    """PodStats of one pod; with ``brief`` CPU and memory only."""
    metadata, usage = pod.pod["metadata"], pod.usage
    stats = {
        "podRef": {
            "name": metadata.get("name", ""),
            "namespace": metadata.get("namespace", ""),
            "uid": metadata.get("uid", ""),
        },
        "startTime": format_time(pod.started_at),
        "containers": [_make_container(pod.pod, container, host, brief=brief) for container in pod.containers],
        "cpu": _cpu(usage, pod.cpu_nanocores),
        "memory": _memory(usage, compute_pod_cgroup(pod.pod).memory_limit_bytes),
    }
    if not brief:
        stats["network"] = _network(usage)
        stats["ephemeral-storage"] = _storage(usage, host.filesystem)
        if usage.process_count is not None:
            stats["process_stats"] = {"process_count": usage.process_count}
    return _without_unknown(stats)


def _make_container(pod: v1.Pod, figures: ContainerFigures, host: HostUsage, *, brief: bool) -> dict[str, Any]:
    limit = effective_limits(pod, figures.container).get(MEMORY)
    usage = figures.usage
    return _without_unknown(
        {
            "name": figures.container["name"],
            "startTime": None if figures.started_at is None else format_time(figures.started_at),
            "cpu": _cpu(usage, figures.cpu_nanocores),
            "memory": _memory(usage, limit.value() if limit else None),
            "rootfs": None if brief else _storage(usage, host.filesystem),
        }
    )


def _make_node(figures: Figures, *, brief: bool) -> dict[str, Any]:
    node = figures.node
    host, usage = node.host, node.usage
    stats = {
        "nodeName": node.name,
        "systemContainers": [_make_own(node)] if host.own is not None else None,
        "startTime": None if host.booted_at is None else format_time(host.booted_at),
        "cpu": _cpu(usage, node.cpu_nanocores),
        "memory": _memory(usage, host.memory_capacity_bytes),
        "swap": _swap(host),
    }
    if not brief:
        stats["network"] = _node_network(usage, host)
        stats["fs"] = _filesystem(host.at, host.filesystem)
        if host.max_pid is not None and host.processes is not None:
            stats["rlimit"] = {"time": format_time(host.at), "maxpid": host.max_pid, "curproc": host.processes}
    return _without_unknown(stats)


def _make_own(node: NodeFigures) -> dict[str, Any]:
    """This process, which upstream's node agents know as the system container ``kubelet``."""
    own, at = node.host.own, node.host.at
    assert own is not None
    usage = ResourceUsage(at, cpu_core_nanoseconds=own.cpu_core_nanoseconds, memory_rss_bytes=own.rss_bytes)
    started_at = datetime.fromtimestamp(find_process_start_s(), at.tzinfo)
    return _without_unknown(
        {
            "name": "kubelet",
            "startTime": format_time(started_at),
            "cpu": _cpu(usage, node.own_cpu_nanocores),
            "memory": _memory(usage, None),
        }
    )


def _cpu(usage: ResourceUsage, nanocores: int | None) -> dict[str, Any] | None:
    if usage.cpu_core_nanoseconds is None:
        return None
    return _without_unknown(
        {
            "time": format_time(usage.at),
            "usageNanoCores": nanocores,
            "usageCoreNanoSeconds": usage.cpu_core_nanoseconds,
        }
    )


def _memory(usage: ResourceUsage, limit_bytes: int | None) -> dict[str, Any] | None:
    working_set = usage.memory_working_set_bytes
    if working_set is None and usage.memory_rss_bytes is None:
        return None
    available = None
    if limit_bytes and limit_bytes < _UNLIMITED and working_set is not None:
        available = max(0, limit_bytes - working_set)
    return _without_unknown(
        {
            "time": format_time(usage.at),
            "availableBytes": available,
            "usageBytes": usage.memory_usage_bytes,
            "workingSetBytes": working_set,
            "rssBytes": usage.memory_rss_bytes,
            "pageFaults": usage.memory_page_faults,
            "majorPageFaults": usage.memory_major_page_faults,
        }
    )


def _network(usage: ResourceUsage) -> dict[str, Any] | None:
    if usage.network_rx_bytes is None and usage.network_tx_bytes is None:
        return None
    counters = _without_unknown(
        {
            "name": "eth0",
            "rxBytes": usage.network_rx_bytes,
            "rxErrors": usage.network_rx_errors,
            "txBytes": usage.network_tx_bytes,
            "txErrors": usage.network_tx_errors,
        }
    )
    return {"time": format_time(usage.at), **counters, "interfaces": [counters]}


def _node_network(usage: ResourceUsage, host: HostUsage) -> dict[str, Any] | None:
    if not host.interfaces:
        return _network(usage)
    interfaces = [
        {
            "name": entry.name,
            "rxBytes": entry.rx_bytes,
            "rxErrors": entry.rx_errors,
            "txBytes": entry.tx_bytes,
            "txErrors": entry.tx_errors,
        }
        for entry in host.interfaces
    ]
    default: dict[str, Any] = next((entry for entry in interfaces if entry["name"] == host.default_interface), {})
    return {"time": format_time(host.at), **default, "interfaces": interfaces}


def _filesystem(at: datetime, filesystem: Filesystem | None) -> dict[str, Any] | None:
    if filesystem is None:
        return None
    return {
        "time": format_time(at),
        "availableBytes": filesystem.available_bytes,
        "capacityBytes": filesystem.capacity_bytes,
        "usedBytes": filesystem.used_bytes,
        "inodesFree": filesystem.inodes_free,
        "inodes": filesystem.inodes,
        "inodesUsed": filesystem.inodes - filesystem.inodes_free,
    }


def _storage(usage: ResourceUsage, filesystem: Filesystem | None) -> dict[str, Any] | None:
    """Own use of the node's filesystem, whose size stands beside it."""
    if usage.ephemeral_storage_bytes is None:
        return None
    stats = {"time": format_time(usage.at), "usedBytes": usage.ephemeral_storage_bytes}
    if filesystem is not None:
        stats["availableBytes"], stats["capacityBytes"] = filesystem.available_bytes, filesystem.capacity_bytes
        stats["inodesFree"], stats["inodes"] = filesystem.inodes_free, filesystem.inodes
    return stats


def _swap(host: HostUsage) -> dict[str, Any] | None:
    if host.swap_capacity_bytes is None or host.swap_usage_bytes is None:
        return None
    return {
        "time": format_time(host.at),
        "swapAvailableBytes": host.swap_capacity_bytes - host.swap_usage_bytes,
        "swapUsageBytes": host.swap_usage_bytes,
    }


def _without_unknown(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stats.items() if value is not None}
