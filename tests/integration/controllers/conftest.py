"""Two kinds of cluster that the same tests run against, so that they cannot drift apart."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.cluster_side import Backend, ClusterSide
from vkprovider.kube.client import KubeClient
from vkprovider.kube.credentials import load_credentials
from vkprovider.kube.nodes import NodeClient
from vkprovider.localcluster import LocalCluster


@dataclass
class Cluster:
    """An API server, seen as admin."""

    kind: str
    kubeconfig: Path
    client: KubeClient
    namespace: str
    node_kubeconfig: Any

    async def find(self, path: str) -> dict[str, Any] | None:
        """The object at a path, or None."""
        from vkprovider.errors import KubeAPIError

        try:
            return await self.client.request("GET", path)
        except KubeAPIError as error:
            if error.is_not_found:
                return None
            raise

    def pod_path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{name}"

    async def pod(self, name: str) -> dict[str, Any] | None:
        return await self.find(self.pod_path(name))

    async def create_pod(self, name: str, node_name: str, **spec: Any) -> dict[str, Any]:
        body = {
            "metadata": {"name": name},
            "spec": {
                "nodeName": node_name,
                "automountServiceAccountToken": False,
                "containers": [{"name": "main", "image": "toy"}],
                **spec,
            },
        }
        return await self.client.request("POST", f"/api/v1/namespaces/{self.namespace}/pods", body=body)

    async def delete_pod(self, name: str, **options: Any) -> None:
        await self.client.request("DELETE", self.pod_path(name), body=options)

    async def phase(self, name: str) -> str | None:
        pod = await self.pod(name)
        return None if pod is None else pod["status"].get("phase")


@pytest.fixture(params=["local", pytest.param("controlplane", marks=pytest.mark.controlplane)])
async def cluster(request, tmp_path):
    namespace = f"ctl-{secrets.token_hex(4)}"
    if request.param == "local":
        local = LocalCluster(tmp_path / "cluster")
        await local.start()
        kubeconfig = local.kubeconfig_path

        async def node_kubeconfig(name):
            return await local.write_node_kubeconfig(tmp_path / f"{name}.kubeconfig", name)
    else:
        local = None
        plane = request.getfixturevalue("control_plane")
        kubeconfig = plane.kubeconfig

        async def node_kubeconfig(name):
            return await asyncio.to_thread(plane.node_kubeconfig, name)

    client = KubeClient(await load_credentials(kubeconfig))
    try:
        await client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
        found = Cluster(request.param, kubeconfig, client, namespace, node_kubeconfig)
        for _ in range(200):
            if await found.find(f"/api/v1/namespaces/{namespace}/serviceaccounts/default") is not None:
                break
            await asyncio.sleep(0.05)
        yield found
        await client.request("DELETE", f"/api/v1/namespaces/{namespace}")
    finally:
        await client.aclose()
        if local is not None:
            await local.stop()


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
async def make_side(cluster, node_name, tmp_path, backend):
    made = []

    def make(**options):
        root = options.pop("root_dir", tmp_path / "root")
        kubeconfig = options.pop("kubeconfig", cluster.kubeconfig)
        side = ClusterSide(kubeconfig, options.pop("name", node_name), root, options.pop("backend", backend), **options)
        made.append(side)
        return side

    yield make
    for side in made:
        await side.stop()
    await NodeClient(cluster.client).delete(node_name)


@pytest.fixture
async def side(make_side):
    side = make_side()
    await side.start()
    return side
