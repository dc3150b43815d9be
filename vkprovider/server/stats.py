"""What the node, its pods and their containers use, gathered once for all endpoints that show it.

Figures come from the provider; which containers run, and since when, from the pods' statuses. Those who ask within the same
second share one look. Rates need two looks: they are taken between what is asked for now and what was asked for some seconds
before, so that a node nobody asks costs nothing.

Source: pkg/kubelet/server/stats/summary.go; pkg/kubelet/stats/cri_stats_provider.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from vkprovider.aio.clock import Clock
from vkprovider.api import v1
from vkprovider.api.pods import get_uid, iter_containers
from vkprovider.api.timestamps import parse_time
from vkprovider.errors import UnsupportedError
from vkprovider.provider.capabilities import ResourceUsage, StatsCapability
from vkprovider.provider.pod_provider import PodProvider
from vkprovider.server.host import HostUsage, read_host
from vkprovider.server.pods import PodLookup

MAX_AGE_S: Final = 1.0
"""Seconds for which a look is good enough for others."""
RATE_WINDOW_S: Final = 10.0
"""Seconds over which rates are taken, if it was asked that often. Source: cadvisor housekeeping interval."""
_MIN_WINDOW_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ContainerFigures:
    """A running container.

    Attributes:
        container: Its spec.
        started_at: When it began.
        id: Its runtime id, without the scheme.
        image: Its image, as its status names it.
        usage: What it uses.
        cpu_nanocores: CPU use as a rate; None until known.
    """

    container: v1.Container
    started_at: datetime | None
    id: str
    image: str
    usage: ResourceUsage
    cpu_nanocores: int | None


@dataclass(frozen=True, slots=True)
class PodFigures:
    """A pod that has been started.

    Attributes:
        pod: The pod with its status.
        started_at: Its ``status.startTime``.
        usage: What it uses.
        cpu_nanocores: CPU use as a rate; None until known.
        containers: Its running containers of which anything is known.
    """

    pod: v1.Pod
    started_at: datetime
    usage: ResourceUsage
    cpu_nanocores: int | None
    containers: tuple[ContainerFigures, ...]


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """The node.

    Attributes:
        name: Its name.
        usage: What it uses.
        cpu_nanocores: CPU use as a rate; None until known.
        host: The host of this process.
        own_cpu_nanocores: CPU use of this process as a rate; None until known.
    """

    name: str
    usage: ResourceUsage
    cpu_nanocores: int | None
    host: HostUsage
    own_cpu_nanocores: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The node and its pods. ``has_pods`` says whether the provider can tell of pods at all."""

    node: NodeFigures
    pods: tuple[PodFigures, ...] = ()
    has_pods: bool = True


class StatsCollector:
    """Gathers figures.

    Args:
        pods: The node's pods.
        provider: Knows what they use, if it has a ``StatsCapability``.
        node_name: Name of the node.
        root_dir: Directory whose filesystem is the node's.
        clock: Time.
    """

    def __init__(self, pods: PodLookup, provider: PodProvider, *, node_name: str, root_dir: Path, clock: Clock) -> None:
        self._pods = pods
        self._provider = provider
        self._node_name = node_name
        self._root_dir = root_dir
        self._clock = clock
        self._rates = _Rates()
        self._lock = asyncio.Lock()
        self._latest: Figures | None = None
        self._latest_at = 0.0

    async def collect(self, *, need_pods: bool = True) -> Figures:
        """Figures not older than a second.

        Args:
            need_pods: Whether the answer is worth nothing without pods.

        Raises:
            UnsupportedError: Pods are needed and the provider cannot tell of them.
            VkproviderError: The provider failed to answer.
        """
        async with self._lock:
            now = self._clock.monotonic()
            if self._latest is None or now - self._latest_at > MAX_AGE_S:
                self._latest = await self._collect()
                self._latest_at = self._clock.monotonic()
            latest = self._latest
        if need_pods and not latest.has_pods:
            raise UnsupportedError(f"the {self._provider.name} provider does not know what its pods use: no stats")
        return latest

    async def _collect(self) -> Figures:
        stats = self._provider.find_capability(StatsCapability)  # type: ignore[type-abstract]
        usages = {} if stats is None else {entry.pod_uid: entry for entry in await stats.pod_usages()}
        own_view = None if stats is None else await stats.node_usage()
        host = await asyncio.to_thread(read_host, self._root_dir, self._clock.now())
        pods = []
        for pod in self._pods.list_pods():
            uid, started = get_uid(pod), pod.get("status", {}).get("startTime")
            entry = usages.get(uid)
            if entry is None or not started:
                continue
            pods.append(
                PodFigures(
                    pod=pod,
                    started_at=parse_time(started),
                    usage=_without_host_network(pod, entry.usage),
                    cpu_nanocores=self._rates.take(uid, entry.usage),
                    containers=tuple(self._containers(pod, entry.containers)),
                )
            )
        node = self._make_node(host, own_view)
        self._rates.forget_unseen()
        return Figures(node, tuple(pods), has_pods=stats is not None)

    def _make_node(self, host: HostUsage, own_view: ResourceUsage | None) -> NodeFigures:
        default = next((entry for entry in host.interfaces if entry.name == host.default_interface), None)
        usage = own_view or ResourceUsage(
            at=host.at,
            cpu_core_nanoseconds=host.cpu_core_nanoseconds,
            memory_working_set_bytes=host.memory_working_set_bytes,
            memory_usage_bytes=host.memory_usage_bytes,
            memory_rss_bytes=host.memory_rss_bytes,
            memory_page_faults=host.page_faults,
            memory_major_page_faults=host.major_page_faults,
            network_rx_bytes=default.rx_bytes if default is not None else None,
            network_tx_bytes=default.tx_bytes if default is not None else None,
            network_rx_errors=default.rx_errors if default is not None else None,
            network_tx_errors=default.tx_errors if default is not None else None,
            process_count=host.processes,
        )
        own = None
        if host.own is not None:
            own = self._rates.take("own", ResourceUsage(host.at, cpu_core_nanoseconds=host.own.cpu_core_nanoseconds))
        return NodeFigures(self._node_name, usage, self._rates.take("node", usage), host, own)

    def _containers(self, pod: v1.Pod, usages: Mapping[str, ResourceUsage]) -> Sequence[ContainerFigures]:
        uid = get_uid(pod)
        running = {entry["name"]: entry for entry in _running_statuses(pod)}
        found = []
        for _, container in iter_containers(pod):
            name = container["name"]
            status, usage = running.get(name), usages.get(name)
            if status is None or usage is None:
                continue
            started = (status.get("state") or {}).get("running", {}).get("startedAt")
            found.append(
                ContainerFigures(
                    container=container,
                    started_at=parse_time(started) if started else None,
                    id=status.get("containerID", "").partition("://")[2],
                    image=status.get("image", "") or container.get("image", ""),
                    usage=usage,
                    cpu_nanocores=self._rates.take((uid, name), usage),
                )
            )
        return found


class _Rates:
    """CPU use between looks: for each key the look to reckon from, and the one that takes its place a window later."""

    def __init__(self) -> None:
        self._samples: dict[Hashable, tuple[ResourceUsage, ResourceUsage]] = {}
        self._seen: set[Hashable] = set()

    def take(self, key: Hashable, usage: ResourceUsage) -> int | None:
        """Nanocores used since some seconds ago; None at the first look, or if the counter began anew."""
        if usage.cpu_core_nanoseconds is None:
            return None
        self._seen.add(key)
        base, following = self._samples.get(key, (usage, usage))
        if (following.cpu_core_nanoseconds or 0) > usage.cpu_core_nanoseconds:
            base = following = usage
        elif (usage.at - following.at).total_seconds() >= RATE_WINDOW_S:
            base, following = following, usage
        self._samples[key] = (base, following)
        elapsed_s = (usage.at - base.at).total_seconds()
        if elapsed_s < _MIN_WINDOW_S:
            return None
        return int((usage.cpu_core_nanoseconds - (base.cpu_core_nanoseconds or 0)) / elapsed_s)

    def forget_unseen(self) -> None:
        """Drop what was not asked for since the last time."""
        for key in self._samples.keys() - self._seen:
            del self._samples[key]
        self._seen.clear()


def _without_host_network(pod: v1.Pod, usage: ResourceUsage) -> ResourceUsage:
    """What goes over the host's interfaces is the node's, not that of each pod that sees them."""
    if not pod.get("spec", {}).get("hostNetwork"):
        return usage
    return replace(usage, network_rx_bytes=None, network_rx_errors=None, network_tx_bytes=None, network_tx_errors=None)


def _running_statuses(pod: v1.Pod) -> Sequence[v1.ContainerStatus]:
    status = pod.get("status", {})
    groups = (
        status.get("initContainerStatuses"),
        status.get("containerStatuses"),
        status.get("ephemeralContainerStatuses"),
    )
    return [entry for group in groups for entry in group or () if "running" in (entry.get("state") or {})]
