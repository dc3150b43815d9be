"""Pods of this node: list, status, deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from vkprovider.api import v1
from vkprovider.errors import KubeAPIError
from vkprovider.kube.client import STRATEGIC_MERGE_PATCH, KubeClient

_PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class PodList:
    """All pods of a node at one moment.

    Attributes:
        items: The pods, without ``managedFields``.
        resource_version: Version of the list.
    """

    items: list[v1.Pod]
    resource_version: str


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def strip_managed_fields(pod: v1.Pod) -> v1.Pod:
    """Drop what only servers need and what makes up a third of an object's memory; changes the pod in place."""
    cast(dict[str, Any], pod["metadata"]).pop("managedFields", None)
    return pod


class PodClient:
    """Reads and writes pods.

    Every method raises ``KubeAPIError`` for what the server refuses and ``TransientError`` when it does not answer.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def find(self, namespace: str, name: str) -> v1.Pod | None:
        """The pod, or None if it does not exist."""
        try:
            pod = await self._client.request("GET", _path(namespace, name))
        except KubeAPIError as error:
            if error.is_not_found:
                return None
            raise
        return strip_managed_fields(cast(v1.Pod, pod))

    async def list_on_node(self, node_name: str) -> PodList:
        """All pods bound to a node, complete and up to date (never from a server's cache), in pages."""
        items: list[v1.Pod] = []
        params = {"fieldSelector": f"spec.nodeName={node_name}", "limit": str(_PAGE_SIZE)}
        while True:
            try:
                answer = await self._client.request("GET", "/api/v1/pods", params=params)
            except KubeAPIError as error:
                if error.status != 410 or "continue" not in params:
                    raise
                # The pages' snapshot is gone: begin anew, in one piece.
                items.clear()
                params = {"fieldSelector": f"spec.nodeName={node_name}"}
                continue
            items += (strip_managed_fields(cast(v1.Pod, pod)) for pod in answer.get("items") or ())
            metadata = answer.get("metadata") or {}
            if not (token := metadata.get("continue")):
                return PodList(items, metadata.get("resourceVersion", ""))
            params["continue"] = token

    async def patch_status(self, namespace: str, name: str, uid: v1.PodUID, status: Mapping[str, Any]) -> v1.Pod:
        """Strategic-merge-patch the status of exactly this pod.

        Args:
            namespace: Of the pod.
            name: Of the pod.
            uid: Precondition: a pod of another UID under the same name is a conflict (409).
            status: The patch, in strategic-merge form.

        Returns:
            The pod as it is now.
        """
        body = {"metadata": {"uid": uid}, "status": status}
        path = f"{_path(namespace, name)}/status"
        try:
            pod = await self._client.request("PATCH", path, body=body, content_type=STRATEGIC_MERGE_PATCH)
        except KubeAPIError as error:
            if error.status == 422 and "metadata.uid" in error.message:
                # The server calls another UID an immutable field; to us it is the precondition that failed.
                raise KubeAPIError(error.message, status=409, kube_reason="Conflict") from error
            raise
        return strip_managed_fields(cast(v1.Pod, pod))

    async def delete(self, namespace: str, name: str, uid: v1.PodUID) -> None:
        """Take exactly this pod out of the API at once; one that is gone already, or was made anew, is success."""
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        }
        try:
            await self._client.request("DELETE", _path(namespace, name), body=body, decode=False)
        except KubeAPIError as error:
            if not (error.is_not_found or error.is_conflict):
                raise
