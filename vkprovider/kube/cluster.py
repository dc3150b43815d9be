"""Facts about the cluster as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path

from vkprovider.errors import KubeAPIError
from vkprovider.kube.client import KubeClient

_NAMESPACE = uuid.UUID("5b1f3b0e-6f5c-4c3e-9a3f-2c5d0e7f9a11")


async def get_cluster_uid(client: KubeClient) -> str:
    """Identity of the cluster: the UID of namespace ``kube-system``.

    A node's own identity may not read namespaces; then a UID made from the cluster's CA, or its address, stands in. Keep the first
    answer (see ``InstanceIdentity.remember_cluster_uid``): another identity of ours could get another one.

    Raises:
        KubeAPIError: The server refused for another reason.
        TransientError: The server did not answer.
    """
    try:
        namespace = await client.request("GET", "/api/v1/namespaces/kube-system")
        return str(namespace["metadata"]["uid"])
    except KubeAPIError as error:
        if error.status not in (403, 404):
            raise
    ca_file = client.credentials.ca_file
    seed = (
        await asyncio.to_thread(Path(ca_file).read_bytes) if ca_file is not None else client.credentials.server.encode()
    )
    return str(uuid.uuid5(_NAMESPACE, hashlib.sha256(seed).hexdigest()))


async def get_server_version(client: KubeClient) -> str:
    """``gitVersion`` of the API server, e.g. ``v1.36.3``.

    Raises:
        KubeAPIError: The server refused.
        TransientError: The server did not answer.
    """
    answer = await client.request("GET", "/version")
    return str(answer.get("gitVersion", ""))
