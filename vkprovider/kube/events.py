"""Event objects (core/v1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vkprovider.kube.client import STRATEGIC_MERGE_PATCH, KubeClient


class EventClient:
    """Writes Events.

    Every method raises ``KubeAPIError`` for what the server refuses and ``TransientError`` when it does not answer.
    """

    def __init__(self, client: KubeClient, *, timeout_s: float = 10.0) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def create(self, namespace: str, event: Mapping[str, Any]) -> None:
        """Create an event."""
        path = f"/api/v1/namespaces/{namespace}/events"
        await self._client.request("POST", path, body=event, timeout_s=self._timeout_s, decode=False)

    async def patch(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Change count, time and message of an event that was sent before."""
        await self._client.request(
            "PATCH",
            f"/api/v1/namespaces/{namespace}/events/{name}",
            body=patch,
            content_type=STRATEGIC_MERGE_PATCH,
            timeout_s=self._timeout_s,
            decode=False,
        )
