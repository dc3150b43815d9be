from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from vkprovider.aio.clock import Clock
from vkprovider.api.timestamps import format_time
from vkprovider.errors import NotFoundError, TransientError, VkproviderError


class FakeObjects:
    """Objects in dictionaries; ``broken`` makes every read fail."""

    def __init__(self) -> None:
        self.config_maps: dict[tuple[str, str], Any] = {}
        self.secrets: dict[tuple[str, str], Any] = {}
        self.services: list[Any] = []
        self.broken: VkproviderError | None = None
        self.token_requests: list[tuple[str, str, Mapping[str, Any]]] = []
        self.token_lifetime_s: float | None = None
        self.clock: Clock | None = None

    def add_config_map(
        self, name: str, data: Mapping[str, str], *, binary: Mapping[str, bytes] | None = None, namespace: str = "ns"
    ) -> None:
        self.config_maps[namespace, name] = {
            "metadata": {"name": name, "namespace": namespace},
            "data": dict(data),
            "binaryData": {key: base64.b64encode(value).decode() for key, value in (binary or {}).items()},
        }

    def add_secret(self, name: str, data: Mapping[str, bytes], *, namespace: str = "ns") -> None:
        self.secrets[namespace, name] = {
            "metadata": {"name": name, "namespace": namespace},
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }

    def add_service(self, name: str, ip: str | None, ports: Any, *, namespace: str = "ns") -> None:
        self.services.append(
            {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports}}
        )

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def get_config_map(self, namespace: str, name: str) -> Any:
        self._check()
        try:
            return self.config_maps[namespace, name]
        except KeyError:
            raise NotFoundError(f'configmap "{name}" not found') from None

    async def get_secret(self, namespace: str, name: str) -> Any:
        self._check()
        try:
            return self.secrets[namespace, name]
        except KeyError:
            raise NotFoundError(f'secret "{name}" not found') from None

    async def list_services(self, namespace: str) -> Any:
        if isinstance(self.broken, TransientError):
            raise self.broken
        return [service for service in self.services if service["metadata"]["namespace"] == namespace]

    async def create_service_account_token(
        self, namespace: str, service_account: str, request: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        self._check()
        assert self.clock is not None
        self.token_requests.append((namespace, service_account, request))
        lifetime_s = self.token_lifetime_s or request["expirationSeconds"]
        return {
            "token": f"token-{len(self.token_requests)}",
            "expirationTimestamp": format_time(self.clock.now() + timedelta(seconds=lifetime_s)),
        }

    async def get_object(self, api_version: str, resource: str, namespace: str | None, name: str) -> Any:
        raise NotFoundError(f'{resource} "{name}" not found')


@pytest.fixture
def objects() -> FakeObjects:
    return FakeObjects()


@pytest.fixture
def pod() -> Any:
    return {
        "metadata": {
            "name": "web-0",
            "namespace": "ns",
            "uid": "uid-1",
            "labels": {"app": "web", "zone/rack": "r1"},
            "annotations": {"note": 'say "hi"\n', "b": "2"},
        },
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "sa",
            "enableServiceLinks": True,
            "containers": [
                {
                    "name": "app",
                    "resources": {
                        "requests": {"cpu": "250m", "memory": "64Mi"},
                        "limits": {"memory": "100M", "hugepages-2Mi": "4Mi"},
                    },
                },
                {"name": "bare"},
            ],
            "initContainers": [{"name": "setup", "resources": {"requests": {"cpu": "1"}}}],
        },
    }
