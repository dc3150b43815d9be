"""Stats, metrics and the pages for people, as clients get them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from support.exposition import decode_as_metrics_server, parse_exposition
from vkprovider.errors import TransientError
from vkprovider.metrics import KubeletMetrics
from vkprovider.provider.capabilities import PodUsage, ResourceUsage, StatsCapability
from vkprovider.server import effective_flags
from vkprovider.settings import NodeSettings, ServerSettings, Settings

TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Stats(StatsCapability):
    """What a pod uses, or an error."""

    error: Exception | None = None

    async def pod_usages(self):
        if self.error is not None:
            raise self.error
        usage = ResourceUsage(datetime.now(UTC), cpu_core_nanoseconds=10**9, memory_working_set_bytes=1 << 20)
        return [PodUsage("uid-web", usage, {"app": usage})]


@pytest.fixture
def stats(provider, pods, monkeypatch):
    stats = Stats()
    find = provider.find_capability
    monkeypatch.setattr(provider, "find_capability", lambda kind: stats if kind is StatsCapability else find(kind))
    pods.pods[0]["status"] |= {
        "startTime": "2026-01-02T03:04:05Z",
        "containerStatuses": [{"name": "app", "state": {"running": {"startedAt": "2026-01-02T03:04:06Z"}}}],
    }
    return stats


async def test_stats_without_the_ability_are_not_implemented(node, get):
    expected = (501, "the scripted provider does not know what its pods use: no stats")
    assert (await get(node, "/stats/summary"))[:2] == expected
    assert (await get(node, "/stats/summary?only_cpu_and_memory=true"))[:2] == expected


async def test_resource_metrics_without_the_ability_show_the_node(node, get):
    status, text, headers = await get(node, "/metrics/resource")
    assert (status, headers["Content-Type"]) == (200, TEXT)
    assert decode_as_metrics_server(text, now_ms=0).node is not None
    assert parse_exposition(text).value("resource_scrape_error") == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_summary(node, get, stats, method):
    status, text, headers = await get(node, "/stats/summary", method=method)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    summary = json.loads(text)
    assert summary["node"]["nodeName"] == "node-1"
    assert [pod["podRef"]["name"] for pod in summary["pods"]] == ["web"]
    assert "fs" in summary["node"]
    brief = json.loads((await get(node, "/stats/summary?only_cpu_and_memory=true", method=method))[1])
    assert "fs" not in brief["node"]
    assert "fs" in json.loads((await get(node, "/stats/summary?only_cpu_and_memory=1", method=method))[1])["node"]


async def test_summary_by_form(node, session, stats):
    url = node.url("/stats/summary")
    async with session.post(url, data={"only_cpu_and_memory": "true"}, ssl=node.tls) as response:
        assert response.status == 200
        assert "fs" not in (await response.json())["node"]


async def test_metrics_server_finds_the_pods(node, get, stats):
    batch = decode_as_metrics_server((await get(node, "/metrics/resource"))[1], now_ms=0)
    assert batch.pods[("default", "web")]["app"].memory_bytes == 1 << 20


async def test_cadvisor_metrics(node, get, stats):
    exposition = parse_exposition((await get(node, "/metrics/cadvisor"))[1])
    assert exposition.value("container_cpu_usage_seconds_total", container="app", pod="web") == 1


async def test_a_provider_that_does_not_answer_is_told_in_the_way_of_each_endpoint(node, get, stats):
    stats.error = TransientError("the engine does not answer")
    assert (await get(node, "/stats/summary"))[:2] == (503, "the engine does not answer")
    assert parse_exposition((await get(node, "/metrics/resource"))[1]).value("resource_scrape_error") == 1
    assert parse_exposition((await get(node, "/metrics/cadvisor"))[1]).value("container_scrape_error") == 1


async def test_own_metrics_count_requests_too(start_server, get):
    metrics = KubeletMetrics("node-1")
    node = await start_server({"authorization_mode": "AlwaysAllow"}, metrics=metrics)
    await get(node, "/pods")
    await get(node, "/nowhere/x")
    metrics.probes.observe(
        uid="u", namespace="n", pod="p", container="c", kind="Readiness", success=True, duration_s=0.1
    )
    status, text, headers = await get(node, "/metrics")
    exposition = parse_exposition(text)
    assert (status, headers["Content-Type"]) == (200, TEXT)
    labels = {"method": "GET", "server_type": "readwrite", "long_running": "false"}
    assert exposition.value("kubelet_http_requests_total", path="pods", **labels) == 1
    assert exposition.value("kubelet_http_requests_total", path="other", **labels) == 1
    assert exposition.value("kubelet_http_inflight_requests", path="metrics", **labels) == 1
    probes = parse_exposition((await get(node, "/metrics/probes"))[1])
    assert probes.value("prober_probe_total", probe_type="Readiness", result="successful", pod_uid="u") == 1


async def test_figures_are_for_those_who_may_see_them(node, session):
    for path in ("/metrics", "/metrics/resource", "/stats/summary", "/statusz", "/flagz"):
        async with session.get(node.url(path), ssl=False) as response:
            assert (response.status, await response.text()) == (401, "Unauthorized")


async def test_pages_for_people(start_server, get):
    settings = Settings(NodeSettings("node-1", labels={"zone": "a"}), server=ServerSettings(port=1234))
    node = await start_server({"authorization_mode": "AlwaysAllow"}, flags=effective_flags(settings))
    status, text, headers = await get(node, "/statusz")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert text.startswith("\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable")
    paths = next(line for line in text.splitlines() if line.startswith("Paths"))
    assert {"/configz", "/exec", "/healthz", "/metrics", "/pods", "/stats"} <= set(paths.split())
    _, text, _ = await get(node, "/flagz")
    assert text.startswith("\nkubelet flagz\nWarning: ")
    for name, value in {"node-name": "node-1", "listen": "0.0.0.0:1234", "node-labels": "zone=a"}.items():
        assert any(f"{name}{delimiter}{value}" in text.splitlines() for delimiter in (":", ": ", "=", " "))


async def test_unknown_stats_and_metrics_are_not_found(node, get):
    for path in ("/stats", "/stats/container", "/metrics/nothing"):
        assert (await get(node, path))[0] == 404
