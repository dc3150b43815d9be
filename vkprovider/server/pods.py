"""The pods of this node: as the API server wants them, and as the backend runs them.

Source: kubelet pkg/kubelet/server/server.go, getPods and getRunningPods.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from aiohttp import web

from vkprovider.api import v1
from vkprovider.api.pods import iter_containers
from vkprovider.provider.pod_provider import PodProvider

_PODS_A_SLICE = 50


class PodLookup(Protocol):
    """Finds the pods that are bound to this node."""

    def find_pod(self, namespace: str, name: str) -> v1.Pod | None:
        """The pod of this name with its newest status, or None."""
        ...

    def list_pods(self) -> Sequence[v1.Pod]:
        """All pods bound to this node."""
        ...


class PodHandlers:
    """Answers ``/pods`` and ``/runningpods/``.

    Args:
        pods: Pods as the API server has them.
        provider: Pods as the backend has them.
    """

    def __init__(self, pods: PodLookup, provider: PodProvider) -> None:
        self._pods = pods
        self._provider = provider

    async def handle_pods(self, request: web.Request) -> web.Response:
        """All pods bound to the node, whole."""
        return await _respond_with_list(self._pods.list_pods())

    async def handle_running_pods(self, request: web.Request) -> web.Response:
        """Pods of which something runs, by name, namespace, UID, and their containers' names and images."""
        listed = await self._provider.list_pods()
        return await _respond_with_list(_abridge(provider_pod.pod) for provider_pod in listed if provider_pod.running)


def _abridge(pod: v1.Pod) -> dict[str, Any]:
    meta = pod["metadata"]
    return {
        "metadata": {key: meta[key] for key in ("name", "namespace", "uid") if key in meta},
        "spec": {
            "containers": [
                {key: container[key] for key in ("name", "image") if key in container}
                for _, container in iter_containers(pod)
            ]
        },
        "status": {},
    }


async def _respond_with_list(pods: Iterable[Any]) -> web.Response:
    """A PodList; encoded in slices, so that hundreds of pods do not hold up the loop."""
    items: list[str] = []
    for count, pod in enumerate(pods, start=1):
        items.append(json.dumps(pod, separators=(",", ":")))
        if count % _PODS_A_SLICE == 0:
            await asyncio.sleep(0)
    text = '{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[' + ",".join(items) + "]}"
    return web.Response(body=text.encode(), content_type="application/json")
