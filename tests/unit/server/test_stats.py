"""Figures of node, pods and containers: how they are gathered, and the forms in which they are shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.exposition import decode_as_metrics_server, parse_exposition
from vkprovider.api import v1
from vkprovider.errors import TransientError, UnsupportedError
from vkprovider.provider.capabilities import PodUsage, ResourceUsage, StatsCapability
from vkprovider.provider.pod_provider import PodProvider, ProviderPod, SyncResult
from vkprovider.server.resource_metrics import render_cadvisor_metrics, render_resource_metrics
from vkprovider.server.stats import Figures, StatsCollector
from vkprovider.server.summary import make_summary

START = datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)
MIB = 1 << 20


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Provider(PodProvider):
    """Runs nothing."""

    name = "bare"

    async def sync_pod(self, pod: Any, context: Any) -> SyncResult:
        return SyncResult()

    async def terminate_pod(self, pod: Any, context: Any, *, grace_period_s: int) -> SyncResult:
        return SyncResult()

    async def cleanup_pod(self, pod_uid: Any) -> None:
        return None

    async def get_pod_status(self, pod: Any, context: Any) -> Any:
        return None

    async def list_pods(self) -> Sequence[ProviderPod]:
        return ()


class Counting(Provider, StatsCapability):
    """Each pod has used one core since the start, each of its containers half of one."""

    name = "counting"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked = 0
        self.error: Exception | None = None
        self.node: ResourceUsage | None = None
        self.cores = 1.0

    async def pod_usages(self) -> Sequence[PodUsage]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        now = self.clock.now()
        used = int((100 + (now - START).total_seconds()) * self.cores * 1e9)
        return [
            PodUsage(
                v1.PodUID(f"uid-{name}"),
                ResourceUsage(
                    at=now,
                    cpu_core_nanoseconds=used,
                    memory_working_set_bytes=30 * MIB,
                    memory_usage_bytes=40 * MIB,
                    memory_rss_bytes=20 * MIB,
                    network_rx_bytes=1,
                    network_tx_bytes=2,
                    network_rx_errors=3,
                    network_tx_errors=4,
                    process_count=5,
                ),
                {
                    container: ResourceUsage(
                        at=now,
                        cpu_core_nanoseconds=used // 2,
                        memory_working_set_bytes=10 * MIB,
                        memory_usage_bytes=12 * MIB,
                        memory_rss_bytes=8 * MIB,
                        memory_page_faults=77,
                        memory_major_page_faults=7,
                        ephemeral_storage_bytes=4096,
                    )
                    for container in ("app", "done", "setup")
                },
            )
            for name in ("web", "new")
        ]

    async def node_usage(self) -> ResourceUsage | None:
        return self.node


def make_pod(name: str, **status: Any) -> Any:
    limits = {"cpu": "500m", "memory": "64Mi"}
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}"},
        "spec": {
            "initContainers": [{"name": "setup", "image": "busybox"}],
            "containers": [
                {"name": "app", "image": "busybox", "resources": {"limits": limits}},
                {"name": "done", "image": "busybox"},
            ],
        },
        "status": status,
    }


def running(name: str) -> Any:
    return {
        "name": name,
        "image": "docker.io/library/busybox:latest",
        "containerID": f"docker://id-{name}",
        "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}},
    }


ENDED = {"name": "done", "state": {"terminated": {"exitCode": 0}}}
SETUP = {"name": "setup", "state": {"terminated": {"exitCode": 0}}}


class Pods:
    """One pod that runs, one that has not been started."""

    def __init__(self) -> None:
        self.pods = [
            make_pod(
                "web",
                startTime="2026-01-02T02:59:00Z",
                containerStatuses=[running("app"), ENDED],
                initContainerStatuses=[SETUP],
            ),
            make_pod("new"),
        ]

    def find_pod(self, namespace: str, name: str) -> Any:
        return None

    def list_pods(self) -> Sequence[Any]:
        return self.pods


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(clock: Clock) -> Counting:
    return Counting(clock)


@pytest.fixture
def collector(clock: Clock, provider: Counting, tmp_path: Path) -> StatsCollector:
    return StatsCollector(Pods(), provider, node_name="node-1", root_dir=tmp_path, clock=clock)


@pytest.fixture
def bare(clock: Clock, tmp_path: Path) -> StatsCollector:
    return StatsCollector(Pods(), Provider(), node_name="node-1", root_dir=tmp_path, clock=clock)


async def summary_of(collector: StatsCollector, **options: Any) -> Any:
    return json.loads(json.dumps(make_summary(await collector.collect(), **options)))


async def test_summary_shows_started_pods_with_their_running_containers(collector):
    summary = await summary_of(collector)
    [pod] = summary["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "ns", "uid": "uid-web"}
    assert pod["startTime"] == "2026-01-02T02:59:00Z"
    assert pod["cpu"] == {"time": "2026-01-02T03:04:05Z", "usageCoreNanoSeconds": 100_000_000_000}
    assert pod["memory"]["workingSetBytes"] == 30 * MIB
    # One of its containers has no limit, so neither has the pod.
    assert "availableBytes" not in pod["memory"]
    assert pod["process_stats"] == {"process_count": 5}
    counters = {"name": "eth0", "rxBytes": 1, "rxErrors": 3, "txBytes": 2, "txErrors": 4}
    assert pod["network"] == {"time": "2026-01-02T03:04:05Z", **counters, "interfaces": [counters]}
    [container] = pod["containers"]
    assert container["name"] == "app"
    assert container["startTime"] == "2026-01-02T03:00:00Z"
    assert container["memory"] == {
        "time": "2026-01-02T03:04:05Z",
        "availableBytes": 54 * MIB,
        "usageBytes": 12 * MIB,
        "workingSetBytes": 10 * MIB,
        "rssBytes": 8 * MIB,
        "pageFaults": 77,
        "majorPageFaults": 7,
    }
    assert container["rootfs"]["usedBytes"] == 4096
    assert container["rootfs"]["capacityBytes"] == summary["node"]["fs"]["capacityBytes"] > 0


async def test_the_node_is_the_host_unless_the_provider_knows_better(collector, provider, clock):
    node = (await summary_of(collector))["node"]
    assert node["nodeName"] == "node-1"
    assert node["cpu"]["usageCoreNanoSeconds"] > 0
    memory = node["memory"]
    assert 0 < memory["workingSetBytes"] <= memory["usageBytes"]
    assert memory["availableBytes"] > 0
    assert node["rlimit"]["maxpid"] > node["rlimit"]["curproc"] > 0
    [own] = node["systemContainers"]
    assert own["name"] == "kubelet"
    assert own["memory"]["rssBytes"] > MIB
    assert datetime.fromisoformat(node["startTime"]) < datetime.now(UTC)

    provider.node = ResourceUsage(clock.now(), cpu_core_nanoseconds=7, memory_working_set_bytes=8)
    clock.move(2)
    node = (await summary_of(collector))["node"]
    assert node["cpu"]["usageCoreNanoSeconds"] == 7
    assert node["memory"]["workingSetBytes"] == 8


async def test_the_hosts_network_is_not_counted_for_pods_that_see_it(clock, provider, tmp_path):
    pods = Pods()
    pods.pods[0]["spec"]["hostNetwork"] = True
    collector = StatsCollector(pods, provider, node_name="node-1", root_dir=tmp_path, clock=clock)
    assert "network" not in (await summary_of(collector))["pods"][0]
    exposition = parse_exposition(render_cadvisor_metrics(await collector.collect()))
    assert not exposition.find("container_network_receive_bytes_total")


async def test_cpu_and_memory_alone(collector):
    summary = await summary_of(collector, only_cpu_and_memory=True)
    assert summary["pods"][0].keys() == {"podRef", "startTime", "containers", "cpu", "memory"}
    assert summary["pods"][0]["containers"][0].keys() == {"name", "startTime", "cpu", "memory"}
    assert not summary["node"].keys() & {"fs", "network", "rlimit"}


async def test_rates_are_taken_over_some_seconds(collector, provider, clock):
    async def rate() -> int | None:
        figures = await collector.collect()
        assert figures.pods[0].containers[0].cpu_nanocores == (
            None if figures.pods[0].cpu_nanocores is None else figures.pods[0].cpu_nanocores // 2
        )
        return figures.pods[0].cpu_nanocores

    assert await rate() is None
    for _ in range(40):
        clock.move(2)
        assert await rate() == 1_000_000_000
    # A burst fades out of the window within twice its length.
    provider.cores = 1.1
    clock.move(2)
    assert (await rate() or 0) > 1_500_000_000
    for _ in range(12):
        clock.move(2)
        newest = await rate()
    assert newest == pytest.approx(1_100_000_000, rel=0.01)


async def test_a_counter_that_begins_anew_gives_no_rate_and_no_negative_one(collector, provider, clock):
    await collector.collect()
    clock.move(5)
    provider.cores = 0.01
    assert (await collector.collect()).pods[0].cpu_nanocores is None
    clock.move(5)
    assert (await collector.collect()).pods[0].cpu_nanocores == 10_000_000


async def test_who_asks_at_the_same_time_shares_one_look(collector, provider, clock):
    await asyncio.gather(*(collector.collect() for _ in range(10)))
    assert provider.asked == 1
    clock.move(1.5)
    await collector.collect()
    assert provider.asked == 2


async def test_a_failure_is_told_and_not_remembered(collector, provider):
    provider.error = TransientError("the engine does not answer")
    with pytest.raises(TransientError):
        await collector.collect(need_pods=False)
    provider.error = None
    assert len((await collector.collect()).pods) == 1


async def test_without_the_ability_there_is_the_node_alone(bare):
    with pytest.raises(UnsupportedError, match="the bare provider does not know what its pods use: no stats"):
        await bare.collect()
    figures = await bare.collect(need_pods=False)
    batch = decode_as_metrics_server(render_resource_metrics(figures), now_ms=0)
    assert batch.pods == {}
    assert batch.node is not None
    assert parse_exposition(render_cadvisor_metrics(figures)).value("container_scrape_error") == 0


async def test_metrics_server_takes_node_and_pods(collector):
    text = render_resource_metrics(await collector.collect())
    now_ms = int(START.timestamp() * 1000)
    batch = decode_as_metrics_server(text, now_ms=1)
    assert batch.node is not None
    assert batch.node.timestamp_ms == now_ms
    [(key, containers)] = batch.pods.items()
    assert key == ("ns", "web")
    assert containers.keys() == {"app"}
    app = containers["app"]
    assert app.cpu_core_nanoseconds == 50_000_000_000
    assert app.memory_bytes == 10 * MIB
    assert app.timestamp_ms == now_ms
    assert app.started_s == datetime(2026, 1, 2, 3, tzinfo=UTC).timestamp()


async def test_resource_metrics_have_upstreams_names_labels_and_kinds(collector):
    exposition = parse_exposition(render_resource_metrics(await collector.collect()))
    assert exposition.value("resource_scrape_error") == 0
    assert exposition.value("pod_cpu_usage_seconds_total", pod="web", namespace="ns") == 100
    assert exposition.value("pod_memory_working_set_bytes", pod="web", namespace="ns") == 30 * MIB
    for series in exposition.series:
        scope = series.name.partition("_")[0]
        expected = {"container": {"container", "pod", "namespace"}, "pod": {"pod", "namespace"}}.get(scope, set())
        assert series.labels.keys() == expected, series
        assert exposition.kinds[series.name] == ("counter" if series.name.endswith("_total") else "gauge")


def test_a_failed_scrape_says_so():
    assert parse_exposition(render_resource_metrics(None)).value("resource_scrape_error") == 1
    assert parse_exposition(render_cadvisor_metrics(None)).value("container_scrape_error") == 1


async def test_cadvisors_series(collector):
    exposition = parse_exposition(render_cadvisor_metrics(await collector.collect()))
    app = {"container": "app", "pod": "web", "namespace": "ns"}
    [cpu] = exposition.find("container_cpu_usage_seconds_total", **app)
    assert cpu.value == 50
    assert cpu.labels == {
        **app,
        "cpu": "total",
        "id": "/kubepods/poduid-web/id-app",
        "name": "id-app",
        "image": "docker.io/library/busybox:latest",
    }
    assert exposition.value("container_memory_working_set_bytes", **app) == 10 * MIB
    assert exposition.value("container_memory_failures_total", failure_type="pgfault", **app) == 77
    assert exposition.value("container_spec_memory_limit_bytes", **app) == 64 * MIB
    assert exposition.value("container_spec_cpu_quota", **app) == 50_000
    assert exposition.value("container_spec_cpu_period", **app) == 100_000
    assert exposition.value("container_spec_cpu_shares", **app) == 512
    assert exposition.value("container_fs_usage_bytes", **app) == 4096
    pod = {"container": "", "pod": "web", "namespace": "ns"}
    assert exposition.value("container_memory_working_set_bytes", **pod) == 30 * MIB
    assert exposition.value("container_network_receive_bytes_total", interface="eth0", **pod) == 1
    assert exposition.value("container_network_transmit_errors_total", interface="eth0", **pod) == 4
    assert exposition.value("container_cpu_usage_seconds_total", id="/") > 0
    assert exposition.value("machine_memory_bytes") > exposition.value("container_memory_working_set_bytes", id="/")
    assert exposition.value("machine_cpu_cores") >= 1


async def test_hundreds_of_containers_are_shown_quickly(collector):
    figures = await collector.collect()
    many = Figures(figures.node, figures.pods * 500)
    loop = asyncio.get_running_loop()
    for render in (render_resource_metrics, render_cadvisor_metrics, lambda f: json.dumps(make_summary(f))):
        began = loop.time()
        render(many)
        assert loop.time() - began < 2.0
