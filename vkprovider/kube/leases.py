"""Leases of nodes, in namespace ``kube-node-lease``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from vkprovider.api import v1
from vkprovider.errors import KubeAPIError
from vkprovider.kube.client import KubeClient

NAMESPACE = "kube-node-lease"
_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


class LeaseClient:
    """Reads and writes leases.

    Every method raises ``KubeAPIError`` for what the server refuses and ``TransientError`` when it does not answer.
    """

    def __init__(self, client: KubeClient, *, timeout_s: float = 10.0) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def find(self, name: str) -> v1.Lease | None:
        """The lease, or None if it does not exist."""
        try:
            return cast(v1.Lease, await self._client.request("GET", f"{_PATH}/{name}", timeout_s=self._timeout_s))
        except KubeAPIError as error:
            if error.is_not_found:
                return None
            raise

    async def create(self, lease: v1.Lease) -> v1.Lease:
        """Create a lease."""
        body = cast(Mapping[str, Any], lease)
        return cast(v1.Lease, await self._client.request("POST", _PATH, body=body, timeout_s=self._timeout_s))

    async def replace(self, lease: v1.Lease) -> v1.Lease:
        """Put a lease; its ``resourceVersion`` is a precondition."""
        path, body = f"{_PATH}/{lease['metadata']['name']}", cast(Mapping[str, Any], lease)
        return cast(v1.Lease, await self._client.request("PUT", path, body=body, timeout_s=self._timeout_s))
