"""Answers ``/stats/summary`` and everything below ``/metrics``.

Source: pkg/kubelet/server/server.go, InstallAuthNotRequiredHandlers; pkg/kubelet/server/stats/handler.go.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from aiohttp import web

from vkprovider.errors import VkproviderError
from vkprovider.metrics import CONTENT_TYPE, KubeletMetrics
from vkprovider.server.resource_metrics import Renderer, render_cadvisor_metrics, render_resource_metrics
from vkprovider.server.stats import StatsCollector
from vkprovider.server.summary import make_summary

logger = logging.getLogger(__name__)


class MetricsHandlers:
    """Answers for figures. Texts are made in threads: with hundreds of containers they take a while.

    Args:
        collector: Gathers what node and pods use.
        metrics: What the node counts.
    """

    def __init__(self, collector: StatsCollector, metrics: KubeletMetrics) -> None:
        self._collector = collector
        self._metrics = metrics

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Serve all of it."""
        for method in ("GET", "POST"):
            router.add_route(method, "/stats/summary", self.handle_summary)
        router.add_get("/metrics", self.handle_metrics, allow_head=False)
        router.add_get("/metrics/resource", self.handle_resource, allow_head=False)
        router.add_get("/metrics/cadvisor", self.handle_cadvisor, allow_head=False)
        router.add_get("/metrics/probes", self.handle_probes, allow_head=False)

    async def handle_summary(self, request: web.Request) -> web.Response:
        """The Summary API; 501 with a provider that does not know what its pods use."""
        wanted = request.query.getall("only_cpu_and_memory", [])
        if request.method == "POST" and request.content_type == "application/x-www-form-urlencoded":
            wanted = [*wanted, *(str(value) for value in (await request.post()).getall("only_cpu_and_memory", []))]
        figures = await self._collector.collect()
        brief = wanted == ["true"]

        def encode() -> bytes:
            return json.dumps(make_summary(figures, only_cpu_and_memory=brief), separators=(",", ":")).encode()

        return web.Response(body=await asyncio.to_thread(encode), content_type="application/json")

    async def handle_resource(self, request: web.Request) -> web.Response:
        """CPU and memory, for metrics-server; the node alone with a provider that does not know what its pods use."""
        return await self._respond_with_figures(render_resource_metrics)

    async def handle_cadvisor(self, request: web.Request) -> web.Response:
        """Likewise the series that upstream's kubelet takes from cadvisor."""
        return await self._respond_with_figures(render_cadvisor_metrics)

    async def handle_metrics(self, request: web.Request) -> web.Response:
        """What the node counts."""
        self._metrics.refresh()
        return await _respond(self._metrics.render)

    async def handle_probes(self, request: web.Request) -> web.Response:
        """Figures of probes."""
        return await _respond(self._metrics.probes.render)

    async def _respond_with_figures(self, render: Renderer) -> web.Response:
        figures = None
        try:
            figures = await self._collector.collect(need_pods=False)
        except VkproviderError as error:
            # Scrapers learn of it from the series made for that.
            logger.warning("Cannot learn what pods use", extra={"error": str(error)})
        return await _respond(lambda: render(figures))


async def _respond(render: Callable[[], str]) -> web.Response:
    text = await asyncio.to_thread(render)
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})
