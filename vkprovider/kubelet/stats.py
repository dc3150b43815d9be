"""What pods use, as the runtime tells.

Source: pkg/kubelet/stats/cri_stats_provider.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from vkprovider.aio.clock import Clock
from vkprovider.api import labels, v1
from vkprovider.provider import cri
from vkprovider.provider.capabilities import PodUsage, ResourceUsage, StatsCapability
from vkprovider.provider.container_runtime import RuntimeStats


class RuntimeStatsCapability(StatsCapability):
    """Usage of pods on a runtime.

    Args:
        runtime: The runtime.
        selector: Ownership labels.
        clock: Time.
    """

    def __init__(self, runtime: RuntimeStats, selector: Mapping[str, str], clock: Clock) -> None:
        self._runtime = runtime
        self._selector = dict(selector)
        self._clock = clock

    async def pod_usages(self) -> Sequence[PodUsage]:
        """Usage of every pod that runs here."""
        return [self._make_usage(stats) for stats in await self._runtime.list_pod_sandbox_stats(self._selector)]

    def _make_usage(self, stats: cri.PodSandboxStats) -> PodUsage:
        containers = {
            container.labels.get(labels.CONTAINER_NAME) or container.metadata.name: self._container_usage(container)
            for container in stats.containers
        }
        each = tuple(containers.values())
        network = stats.network[0] if stats.network else None
        usage = ResourceUsage(
            at=stats.cpu.at if stats.cpu is not None else self._clock.now(),
            cpu_core_nanoseconds=stats.cpu.usage_core_nanoseconds
            if stats.cpu is not None
            else _total(each, lambda usage: usage.cpu_core_nanoseconds),
            memory_working_set_bytes=stats.memory.working_set_bytes
            if stats.memory is not None
            else _total(each, lambda usage: usage.memory_working_set_bytes),
            memory_usage_bytes=stats.memory.usage_bytes
            if stats.memory is not None
            else _total(each, lambda usage: usage.memory_usage_bytes),
            memory_rss_bytes=stats.memory.rss_bytes
            if stats.memory is not None
            else _total(each, lambda usage: usage.memory_rss_bytes),
            network_rx_bytes=network.rx_bytes if network is not None else None,
            network_tx_bytes=network.tx_bytes if network is not None else None,
            network_rx_errors=network.rx_errors if network is not None else None,
            network_tx_errors=network.tx_errors if network is not None else None,
            memory_page_faults=stats.memory.page_faults if stats.memory is not None else None,
            memory_major_page_faults=stats.memory.major_page_faults if stats.memory is not None else None,
            ephemeral_storage_bytes=_total(each, lambda usage: usage.ephemeral_storage_bytes),
            process_count=stats.process_count
            if stats.process_count is not None
            else _total(each, lambda usage: usage.process_count),
        )
        return PodUsage(v1.PodUID(stats.metadata.uid), usage, containers)

    def _container_usage(self, stats: cri.ContainerStats) -> ResourceUsage:
        cpu, memory = stats.cpu, stats.memory
        return ResourceUsage(
            at=cpu.at if cpu is not None else memory.at if memory is not None else self._clock.now(),
            cpu_core_nanoseconds=cpu.usage_core_nanoseconds if cpu is not None else None,
            memory_working_set_bytes=memory.working_set_bytes if memory is not None else None,
            memory_usage_bytes=memory.usage_bytes if memory is not None else None,
            memory_rss_bytes=memory.rss_bytes if memory is not None else None,
            memory_page_faults=memory.page_faults if memory is not None else None,
            memory_major_page_faults=memory.major_page_faults if memory is not None else None,
            ephemeral_storage_bytes=stats.writable_layer_bytes,
            process_count=stats.process_count,
        )


def _total(usages: Iterable[ResourceUsage], figure: Callable[[ResourceUsage], int | None]) -> int | None:
    """Sum of what is known; None if nothing is."""
    known = [value for usage in usages if (value := figure(usage)) is not None]
    return sum(known) if known else None
