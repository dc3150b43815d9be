"""``/metrics/resource`` and ``/metrics/cadvisor``: figures of node, pods and containers as series. Pure.

metrics-server, and through it ``kubectl top`` and autoscalers, read the first; dashboards read the second.

Source: pkg/kubelet/metrics/collectors/resource_metrics.go; cadvisor metrics/prometheus.go; pkg/kubelet/server/server.go,
containerPrometheusLabelsFunc.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from vkprovider._version import __version__
from vkprovider.api import v1
from vkprovider.api.resources import compute_container_cgroup
from vkprovider.metrics import Family, render_families
from vkprovider.provider.capabilities import ResourceUsage
from vkprovider.server.stats import ContainerFigures, Figures

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CONTAINER: Final = ("container", "pod", "namespace")
_POD: Final = ("pod", "namespace")
_CADVISOR: Final = ("container", "id", "image", "name", "namespace", "pod")
_NANO: Final = 1e9


def render_resource_metrics(figures: Figures | None) -> str:
    """The text of ``/metrics/resource``.

    Args:
        figures: What was gathered; None if that failed, which the text tells.
    """
    error = Family("resource_scrape_error", "gauge", "[STABLE] 1 if figures of containers could not be had, else 0")
    error.add((), 1 if figures is None else 0)
    if figures is None:
        return error.render()
    node_cpu = Family("node_cpu_usage_seconds_total", "counter", "[STABLE] CPU time of the node in core-seconds")
    node_memory = Family("node_memory_working_set_bytes", "gauge", "[STABLE] Working set of the node in bytes")
    node_swap = Family("node_swap_usage_bytes", "gauge", "[ALPHA] Swap that the node uses in bytes")
    cpu = Family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] CPU time of the container in core-seconds",
        _CONTAINER,
    )
    memory = Family(
        "container_memory_working_set_bytes", "gauge", "[STABLE] Working set of the container in bytes", _CONTAINER
    )
    started = Family(
        "container_start_time_seconds", "gauge", "[STABLE] Start of the container in seconds since 1970", _CONTAINER
    )
    pod_cpu = Family("pod_cpu_usage_seconds_total", "counter", "[STABLE] CPU time of the pod in core-seconds", _POD)
    pod_memory = Family("pod_memory_working_set_bytes", "gauge", "[STABLE] Working set of the pod in bytes", _POD)
    node, host = figures.node, figures.node.host
    _add_usage(node.usage, (), cpu=node_cpu, memory=node_memory)
    if host.swap_usage_bytes is not None:
        node_swap.add((), host.swap_usage_bytes, host.at)
    for pod in figures.pods:
        name, namespace = pod.pod["metadata"].get("name", ""), pod.pod["metadata"].get("namespace", "")
        for container in pod.containers:
            labels = (container.container["name"], name, namespace)
            _add_usage(container.usage, labels, cpu=cpu, memory=memory)
            if container.started_at is not None:
                started.add(labels, _seconds(container.started_at))
        _add_usage(pod.usage, (name, namespace), cpu=pod_cpu, memory=pod_memory)
    return render_families((error, node_cpu, node_memory, node_swap, cpu, memory, started, pod_cpu, pod_memory))


def render_cadvisor_metrics(figures: Figures | None) -> str:
    """The text of ``/metrics/cadvisor``: what is known of cadvisor's series. Without pods there is the machine alone.

    Args:
        figures: What was gathered; None if that failed, which the text tells.
    """
    error = Family(
        "container_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise"
    )
    error.add((), 1 if figures is None else 0)
    if figures is None:
        return error.render()
    series = _CadvisorSeries()
    node, host = figures.node, figures.node.host
    series.add_usage(("", "/", "", "", "", ""), node.usage)
    if host.booted_at is not None:
        series.started.add(("", "/", "", "", "", ""), _seconds(host.booted_at))
    for pod in figures.pods:
        metadata = pod.pod["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        labels = ("", f"/kubepods/pod{metadata.get('uid', '')}", "", "", namespace, name)
        series.add_usage(labels, pod.usage)
        series.add_network(labels, pod.usage)
        series.started.add(labels, _seconds(pod.started_at))
        for container in pod.containers:
            series.add_container(pod.pod, container, memory_capacity_bytes=host.memory_capacity_bytes or 0)
    cores = Family(
        "machine_cpu_cores", "gauge", "Number of logical CPU cores.", ("boot_id", "machine_id", "system_uuid")
    )
    cores.add(("", "", ""), host.cpus)
    machine_memory = Family(
        "machine_memory_bytes",
        "gauge",
        "Amount of memory installed on the machine.",
        ("boot_id", "machine_id", "system_uuid"),
    )
    if host.memory_capacity_bytes is not None:
        machine_memory.add(("", "", ""), host.memory_capacity_bytes)
    version = Family(
        "cadvisor_version_info",
        "gauge",
        "The program that shows these series in place of cadvisor; the value is always 1.",
        ("cadvisorRevision", "cadvisorVersion", "dockerVersion", "kernelVersion", "osVersion"),
    )
    version.add(("", f"vkprovider-{__version__}", "", "", ""), 1)
    return render_families((*series.families(), error, cores, machine_memory, version))


class _CadvisorSeries:
    """Families of ``/metrics/cadvisor`` that have a series per container."""

    def __init__(self) -> None:
        self._families: list[Family] = []
        counter, gauge = self._counter, self._gauge
        self.cpu = counter("container_cpu_usage_seconds_total", "Cumulative CPU time in seconds.", "cpu")
        self.usage = gauge("container_memory_usage_bytes", "Memory in use in bytes, with caches.")
        self.working_set = gauge("container_memory_working_set_bytes", "Working set in bytes.")
        self.rss = gauge("container_memory_rss", "Anonymous memory in bytes.")
        self.failures = counter("container_memory_failures_total", "Page faults.", "failure_type", "scope")
        self.fs = gauge("container_fs_usage_bytes", "Bytes that the writable layer takes.", "device")
        self.processes = gauge("container_processes", "Processes and threads inside the container.")
        self.started = gauge("container_start_time_seconds", "Start in seconds since 1970.")
        self.last_seen = gauge("container_last_seen", "When it was last seen, in seconds since 1970.")
        self.shares = gauge("container_spec_cpu_shares", "CPU shares.")
        self.quota = gauge("container_spec_cpu_quota", "CPU quota.")
        self.period = gauge("container_spec_cpu_period", "CPU period.")
        self.limit = gauge("container_spec_memory_limit_bytes", "Memory limit; 0 for none.")
        self.received = counter("container_network_receive_bytes_total", "Bytes received.", "interface")
        self.receive_errors = counter("container_network_receive_errors_total", "Errors at receiving.", "interface")
        self.sent = counter("container_network_transmit_bytes_total", "Bytes sent.", "interface")
        self.send_errors = counter("container_network_transmit_errors_total", "Errors at sending.", "interface")

    def families(self) -> list[Family]:
        """All of them."""
        return self._families

    def add_usage(self, labels: tuple[str, ...], usage: ResourceUsage) -> None:
        """What something uses."""
        at = usage.at
        if usage.cpu_core_nanoseconds is not None:
            self.cpu.add((*labels, "total"), usage.cpu_core_nanoseconds / _NANO, at)
        for family, value in (
            (self.usage, usage.memory_usage_bytes),
            (self.working_set, usage.memory_working_set_bytes),
            (self.rss, usage.memory_rss_bytes),
            (self.processes, usage.process_count),
        ):
            if value is not None:
                family.add(labels, value, at)
        if usage.memory_page_faults is not None:
            self.failures.add((*labels, "pgfault", "hierarchy"), usage.memory_page_faults, at)
        if usage.memory_major_page_faults is not None:
            self.failures.add((*labels, "pgmajfault", "hierarchy"), usage.memory_major_page_faults, at)
        self.last_seen.add(labels, int(_seconds(at)), at)

    def add_network(self, labels: tuple[str, ...], usage: ResourceUsage) -> None:
        """Counters of a pod's interface."""
        for family, value in (
            (self.received, usage.network_rx_bytes),
            (self.receive_errors, usage.network_rx_errors),
            (self.sent, usage.network_tx_bytes),
            (self.send_errors, usage.network_tx_errors),
        ):
            if value is not None:
                family.add((*labels, "eth0"), value, usage.at)

    def add_container(self, pod: v1.Pod, figures: ContainerFigures, *, memory_capacity_bytes: int) -> None:
        """A container's use and limits."""
        metadata, container = pod["metadata"], figures.container
        pod_path = f"/kubepods/pod{metadata.get('uid', '')}"
        labels = (
            container["name"],
            f"{pod_path}/{figures.id or container['name']}",
            figures.image,
            figures.id,
            metadata.get("namespace", ""),
            metadata.get("name", ""),
        )
        self.add_usage(labels, figures.usage)
        if figures.usage.ephemeral_storage_bytes is not None:
            self.fs.add((*labels, ""), figures.usage.ephemeral_storage_bytes, figures.usage.at)
        if figures.started_at is not None:
            self.started.add(labels, _seconds(figures.started_at))
        cgroup = compute_container_cgroup(pod, container, memory_capacity_bytes=memory_capacity_bytes)
        self.shares.add(labels, cgroup.cpu_shares)
        if cgroup.cpu_period_us is not None:
            self.period.add(labels, cgroup.cpu_period_us)
        if cgroup.cpu_quota_us:
            self.quota.add(labels, cgroup.cpu_quota_us)
        self.limit.add(labels, cgroup.memory_limit_bytes or 0)

    def _counter(self, name: str, help: str, *labels: str) -> Family:
        family = Family(name, "counter", help, (*_CADVISOR, *labels))
        self._families.append(family)
        return family

    def _gauge(self, name: str, help: str, *labels: str) -> Family:
        family = Family(name, "gauge", help, (*_CADVISOR, *labels))
        self._families.append(family)
        return family


def _add_usage(usage: ResourceUsage, labels: tuple[str, ...], *, cpu: Family, memory: Family) -> None:
    if usage.cpu_core_nanoseconds is not None:
        cpu.add(labels, usage.cpu_core_nanoseconds / _NANO, usage.at)
    if usage.memory_working_set_bytes is not None:
        memory.add(labels, usage.memory_working_set_bytes, usage.at)


def _seconds(moment: datetime) -> float:
    return (moment - _EPOCH).total_seconds()


Renderer = Callable[[Figures | None], str]
"""Makes the text of an endpoint."""
