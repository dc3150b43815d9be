"""The cluster's objects that pods refer to, read through a small cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import quote

from vkprovider.api import v1
from vkprovider.errors import KubeAPIError, NotFoundError, TransientError
from vkprovider.kube.client import KubeClient

T = TypeVar("T")

_KINDS = {
    "configmaps": "configmap",
    "secrets": "secret",
    "services": "service",
    "serviceaccounts": "serviceaccount",
    "persistentvolumeclaims": "persistentvolumeclaim",
    "persistentvolumes": "persistentvolume",
    "runtimeclasses": "runtimeclass",
}


@dataclass(slots=True)
class _Entry:
    expires_at: float
    value: Any = None
    error: NotFoundError | None = None


class CachedObjectStore:
    """``ObjectStore`` on the API server.

    What was read is good for ``ttl_s`` seconds, that something does not exist for ``negative_ttl_s``. Readers of one object at the
    same time share one request. The services of a namespace stay usable while the server does not answer.

    Args:
        client: Client of the API server.
        ttl_s: Seconds a value may be old.
        negative_ttl_s: Seconds that the absence of an object is believed.
    """

    def __init__(self, client: KubeClient, *, ttl_s: float = 3.0, negative_ttl_s: float = 1.0) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._entries: dict[Hashable, _Entry] = {}
        self._in_flight: dict[Hashable, asyncio.Task[Any]] = {}
        self._services: dict[str, Sequence[v1.Service]] = {}
        self._collect_at = 0.0

    async def get_config_map(self, namespace: str, name: str) -> v1.ConfigMap:
        """The config map. Raises: NotFoundError, TransientError."""
        return cast(v1.ConfigMap, await self.get_object("v1", "configmaps", namespace, name))

    async def get_secret(self, namespace: str, name: str) -> v1.Secret:
        """The secret. Raises: NotFoundError, TransientError."""
        return cast(v1.Secret, await self.get_object("v1", "secrets", namespace, name))

    async def list_services(self, namespace: str) -> Sequence[v1.Service]:
        """Services of a namespace; an older list while the server does not answer. Raises: TransientError."""

        async def read() -> Sequence[v1.Service]:
            answer = await self._client.request("GET", f"/api/v1/namespaces/{namespace}/services")
            return cast(Sequence[v1.Service], answer.get("items") or [])

        try:
            services = await self._read(("services", namespace), read)
        except (TransientError, KubeAPIError) as error:
            if namespace in self._services:
                return self._services[namespace]
            raise _as_transient(error) from error
        self._services[namespace] = services
        return services

    async def create_service_account_token(
        self, namespace: str, service_account: str, request: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Ask for a token; ``status`` of the TokenRequest. Raises: NotFoundError, TransientError."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": request}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        try:
            answer = await self._client.request("POST", path, body=body)
        except KubeAPIError as error:
            if error.is_not_found:
                raise NotFoundError(f'serviceaccount "{service_account}" not found') from error
            raise _as_transient(error) from error
        return cast(Mapping[str, Any], answer.get("status") or {})

    async def get_object(self, api_version: str, resource: str, namespace: str | None, name: str) -> Mapping[str, Any]:
        """Any object by its resource name (plural). Raises: NotFoundError, TransientError."""

        async def read() -> Mapping[str, Any]:
            root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            middle = f"/namespaces/{namespace}" if namespace is not None else ""
            try:
                return await self._client.request("GET", f"{root}{middle}/{resource}/{quote(name, safe='')}")
            except KubeAPIError as error:
                if error.is_not_found:
                    raise NotFoundError(f'{_KINDS.get(resource, resource)} "{name}" not found') from error
                raise _as_transient(error) from error

        return await self._read((api_version, resource, namespace, name), read)

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(key)
        if entry is not None and now < entry.expires_at:
            if entry.error is not None:
                raise NotFoundError(entry.error.message)
            return cast(T, entry.value)
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key, read), name=f"objects:{key}")
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        # A reader that gives up must not take the request from the others.
        return cast(T, await asyncio.shield(task))

    async def _fetch(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        try:
            value = await read()
        except NotFoundError as error:
            self._entries[key] = _Entry(loop.time() + self._negative_ttl_s, error=error)
            raise
        self._entries[key] = _Entry(loop.time() + self._ttl_s, value)
        self._collect(loop.time())
        return value

    def _collect(self, now: float) -> None:
        if now < self._collect_at:
            return
        self._collect_at = now + 30.0
        for key in [key for key, entry in self._entries.items() if entry.expires_at <= now]:
            del self._entries[key]

    async def aclose(self) -> None:
        """End requests that are under way."""
        from vkprovider.aio.tasks import cancel_and_wait

        await cancel_and_wait(list(self._in_flight.values()))


def _as_transient(error: TransientError | KubeAPIError) -> TransientError:
    if isinstance(error, TransientError):
        return error
    return TransientError(str(error), retry_after_s=error.retry_after_s)
