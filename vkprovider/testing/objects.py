"""A cluster's objects in memory, for code that takes an ``ObjectStore``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any, TypeVar

from vkprovider.aio.clock import Clock
from vkprovider.api import v1
from vkprovider.api.timestamps import format_time
from vkprovider.errors import NotFoundError, TransientError
from vkprovider.testing.clock import FakeClock

T = TypeVar("T")


class FakeObjectStore:
    """An ``ObjectStore`` whose contents a test sets; messages are those of the API server.

    Args:
        clock: Time for the expiry of tokens.

    Attributes:
        reads: What was asked for, in order, e.g. ``("configmap", "default", "settings")``.
        token_requests: Namespace, service account and ``spec`` of each token asked for.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or FakeClock()
        self._config_maps: dict[tuple[str, str], v1.ConfigMap] = {}
        self._secrets: dict[tuple[str, str], v1.Secret] = {}
        self._services: dict[str, dict[str, v1.Service]] = {}
        self._objects: dict[tuple[str, str, str | None, str], Mapping[str, Any]] = {}
        self._unavailable = ""
        self.reads: list[tuple[str, str, str]] = []
        self.token_requests: list[tuple[str, str, Mapping[str, Any]]] = []

    # -- What a test sets.

    def add_config_map(
        self,
        name: str,
        data: Mapping[str, str] | None = None,
        *,
        namespace: str = "default",
        binary_data: Mapping[str, bytes] | None = None,
        immutable: bool = False,
    ) -> v1.ConfigMap:
        """Add a config map or replace it."""
        found: v1.ConfigMap = {"metadata": {"name": name, "namespace": namespace}, "data": dict(data or {})}
        if binary_data:
            found["binaryData"] = {key: base64.b64encode(value).decode() for key, value in binary_data.items()}
        if immutable:
            found["immutable"] = True
        self._config_maps[namespace, name] = found
        return found

    def add_secret(
        self,
        name: str,
        data: Mapping[str, str | bytes] | None = None,
        *,
        namespace: str = "default",
        type: str = "Opaque",
        immutable: bool = False,
    ) -> v1.Secret:
        """Add a secret or replace it; values are given plain and stored as base64."""
        encoded = {
            key: base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
            for key, value in (data or {}).items()
        }
        found: v1.Secret = {"metadata": {"name": name, "namespace": namespace}, "type": type, "data": encoded}
        if immutable:
            found["immutable"] = True
        self._secrets[namespace, name] = found
        return found

    def add_service(
        self, name: str, *, namespace: str = "default", cluster_ip: str = "10.96.0.1", ports: Sequence[int] = (80,)
    ) -> v1.Service:
        """Add a service or replace it."""
        entries = [{"port": port, "protocol": "TCP", "targetPort": port} for port in ports]
        spec = {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "type": "ClusterIP", "ports": entries}
        found: v1.Service = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
        self._services.setdefault(namespace, {})[name] = found
        return found

    def add_object(self, api_version: str, resource: str, namespace: str | None, value: Mapping[str, Any]) -> None:
        """Add any other object or replace it; ``resource`` is its plural, e.g. ``persistentvolumeclaims``."""
        self._objects[api_version, resource, namespace, value["metadata"]["name"]] = value

    def remove(self, kind: str, name: str, *, namespace: str = "default") -> None:
        """Remove a ``configmap``, ``secret`` or ``service``; an absent one is fine.

        Raises:
            ValueError: Another kind.
        """
        if kind == "configmap":
            self._config_maps.pop((namespace, name), None)
        elif kind == "secret":
            self._secrets.pop((namespace, name), None)
        elif kind == "service":
            self._services.get(namespace, {}).pop(name, None)
        else:
            raise ValueError(f"kind must be configmap, secret or service, not {kind!r}")

    def set_available(self, available: bool, message: str = "the API server did not answer") -> None:
        """Let every read fail with ``TransientError``, or work again."""
        self._unavailable = "" if available else message

    # -- ObjectStore.

    async def get_config_map(self, namespace: str, name: str) -> v1.ConfigMap:
        """The config map."""
        self._read("configmap", namespace, name)
        return self._get(self._config_maps, namespace, name, "configmap")

    async def get_secret(self, namespace: str, name: str) -> v1.Secret:
        """The secret."""
        self._read("secret", namespace, name)
        return self._get(self._secrets, namespace, name, "secret")

    async def list_services(self, namespace: str) -> Sequence[v1.Service]:
        """Services of a namespace."""
        self._read("services", namespace, "")
        return list(self._services.get(namespace, {}).values())

    async def create_service_account_token(
        self, namespace: str, service_account: str, request: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """A token that names its account and number, valid as long as asked for."""
        self._read("token", namespace, service_account)
        self.token_requests.append((namespace, service_account, request))
        expires_at = self._clock.now().astimezone(UTC) + timedelta(seconds=request.get("expirationSeconds", 3600))
        return {
            "token": f"token-{namespace}-{service_account}-{len(self.token_requests)}",
            "expirationTimestamp": format_time(expires_at),
        }

    async def get_object(self, api_version: str, resource: str, namespace: str | None, name: str) -> Mapping[str, Any]:
        """Any other object."""
        self._read(resource, namespace or "", name)
        found = self._objects.get((api_version, resource, namespace, name))
        if found is None:
            raise NotFoundError(f'{resource} "{name}" not found')
        return found

    def _read(self, kind: str, namespace: str, name: str) -> None:
        self.reads.append((kind, namespace, name))
        if self._unavailable:
            raise TransientError(self._unavailable)

    def _get(self, table: Mapping[tuple[str, str], T], namespace: str, name: str, kind: str) -> T:
        found = table.get((namespace, name))
        if found is None:
            raise NotFoundError(f'{kind} "{name}" not found')
        return found


def decode_secret(secret: v1.Secret) -> dict[str, bytes]:
    """Plain values of a secret."""
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
