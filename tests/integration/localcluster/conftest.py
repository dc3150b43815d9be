"""A local cluster, a plain HTTP client for it, and a real kubectl."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from support.kubectl import Kubectl
from vkprovider.localcluster import LocalCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """A cluster of the test's own."""
    async with LocalCluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def kubectl(cluster: LocalCluster) -> Kubectl:
    """kubectl as administrator; the test is skipped when there is none."""
    directory = os.environ.get("KUBEBUILDER_ASSETS")
    found = shutil.which("kubectl", path=directory) if directory else None
    found = found or shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is missing: put it on PATH, or set KUBEBUILDER_ASSETS to the directory that has it")
    return Kubectl(cluster.kubeconfig_path, Path(found))


class Client:
    """Requests with a kubeconfig's credentials."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **options: Any
    ) -> tuple[int, Any]:
        """Status and decoded answer."""
        data = body if isinstance(body, str | bytes | io.IOBase) or body is None else json.dumps(body)
        headers = {**({"Content-Type": kind} if data is not None else {}), **options.pop("headers", {})}
        async with self.session.request(method, self.url + path, data=data, headers=headers, **options) as response:
            text = await response.text()
            is_json = response.content_type == "application/json" and "\n{" not in text.strip()
            return response.status, json.loads(text) if is_json else text

    async def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer of a request that must succeed."""
        code, answer = await self.call(method, path, body, **options)
        assert code < 300, answer
        return answer

    async def watch(self, path: str, **params: str) -> AsyncIterator[dict[str, Any]]:
        """Events of a watch."""
        async with self.session.get(self.url + path, params={"watch": "1", **params}) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                yield json.loads(line)


async def open_client(kubeconfig: Path, *, token: str | None = None) -> Client:
    """A client of a kubeconfig's user, or of a bearer token."""
    config = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))
    user, target = config["users"][0]["user"], config["clusters"][0]["cluster"]
    context = ssl.create_default_context(cafile=target["certificate-authority"])
    if token is None:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(ssl=context)
    return Client(aiohttp.ClientSession(connector=connector, headers=headers), target["server"])


@pytest.fixture
async def make_client() -> AsyncIterator[Any]:
    """``await make_client(kubeconfig, token=None)``; closed after the test."""
    made: list[Client] = []

    async def make(kubeconfig: Path, *, token: str | None = None) -> Client:
        client = await open_client(kubeconfig, token=token)
        made.append(client)
        return client

    yield make
    for client in made:
        await client.session.close()


@pytest.fixture
async def client(cluster: LocalCluster, make_client: Any) -> Client:
    """The administrator's client."""
    return await make_client(cluster.kubeconfig_path)


def make_pod_object(name: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}], **spec},
    }


def make_node_object(name: str, *, address: str = "127.0.0.1", port: int = 10250) -> dict[str, Any]:
    """A ready node whose kubelet is at an address."""
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}],
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": {
                "kubeletVersion": "v1.36.3",
                "osImage": "Test",
                "kernelVersion": "6",
                "containerRuntimeVersion": "x://1",
            },
        },
    }


@pytest.fixture
def pod() -> Any:
    """``pod(name, **spec)``: a pod object."""
    return make_pod_object


@pytest.fixture
def node() -> Any:
    """``node(name, address=..., port=...)``: a node object."""
    return make_node_object
