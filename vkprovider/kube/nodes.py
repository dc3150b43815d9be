"""Node objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from vkprovider.api import v1
from vkprovider.errors import KubeAPIError
from vkprovider.kube.client import MERGE_PATCH, STRATEGIC_MERGE_PATCH, KubeClient

_PATH = "/api/v1/nodes"


class NodeClient:
    """Reads and writes Node objects.

    Every method raises ``KubeAPIError`` for what the server refuses and ``TransientError`` when it does not answer.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def create(self, node: v1.Node) -> v1.Node:
        """Create a node, its status included."""
        return cast(v1.Node, await self._client.request("POST", _PATH, body=cast(Mapping[str, Any], node)))

    async def find(self, name: str) -> v1.Node | None:
        """The node, or None if it does not exist."""
        try:
            return cast(v1.Node, await self._client.request("GET", f"{_PATH}/{name}"))
        except KubeAPIError as error:
            if error.is_not_found:
                return None
            raise

    async def patch(self, name: str, patch: Mapping[str, Any]) -> v1.Node:
        """Merge-patch metadata or spec; ``metadata.resourceVersion`` in the patch is a precondition."""
        path = f"{_PATH}/{name}"
        return cast(v1.Node, await self._client.request("PATCH", path, body=patch, content_type=MERGE_PATCH))

    async def patch_status(self, name: str, patch: Mapping[str, Any], *, timeout_s: float | None = None) -> v1.Node:
        """Strategic-merge-patch the status; labels and annotations in the patch are changed as well."""
        node = await self._client.request(
            "PATCH", f"{_PATH}/{name}/status", body=patch, content_type=STRATEGIC_MERGE_PATCH, timeout_s=timeout_s
        )
        return cast(v1.Node, node)

    async def delete(self, name: str, *, uid: str | None = None) -> None:
        """Delete a node; one that does not exist, or no longer has this UID, is success."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._client.request("DELETE", f"{_PATH}/{name}", body=body, decode=False)
        except KubeAPIError as error:
            if not (error.is_not_found or (uid is not None and error.is_conflict)):
                raise
