"""Where the values that a pod refers to come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vkprovider.api import v1


class ObjectStore(Protocol):
    """Objects of the cluster by name. Reads may be a little stale; a missing object is never remembered for long."""

    async def get_config_map(self, namespace: str, name: str) -> v1.ConfigMap:
        """The config map.

        Raises:
            NotFoundError: It does not exist; the message is ``configmap "<name>" not found``.
            TransientError: The API server did not answer.
        """
        ...

    async def get_secret(self, namespace: str, name: str) -> v1.Secret:
        """The secret.

        Raises:
            NotFoundError: It does not exist; the message is ``secret "<name>" not found``.
            TransientError: The API server did not answer.
        """
        ...

    async def list_services(self, namespace: str) -> Sequence[v1.Service]:
        """Services of a namespace, for environment variables.

        Raises:
            TransientError: The API server did not answer and the list was never read before.
        """
        ...

    async def create_service_account_token(
        self, namespace: str, service_account: str, request: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Ask for a token (``TokenRequest``); never cached here.

        Args:
            namespace: Of the service account.
            service_account: Its name.
            request: ``spec`` of the TokenRequest.

        Returns:
            ``status`` of the TokenRequest: ``token`` and ``expirationTimestamp``.
        """
        ...

    async def get_object(self, api_version: str, resource: str, namespace: str | None, name: str) -> Mapping[str, Any]:
        """Any other object: claims, volumes, runtime classes, service accounts.

        Raises:
            NotFoundError: It does not exist.
            TransientError: The API server did not answer.
        """
        ...
