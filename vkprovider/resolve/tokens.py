"""Tokens of service accounts, asked for once and renewed in time.

Source: pkg/kubelet/token/token_manager.go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.api.reasons import EVENT_FAILED_MOUNT
from vkprovider.api.timestamps import parse_time
from vkprovider.errors import PodSyncError, VkproviderError
from vkprovider.resolve.objects import ObjectStore

logger = logging.getLogger(__name__)

DEFAULT_EXPIRATION_S: Final = 3600
"""Lifetime asked for where a volume names none. Source: pkg/apis/core/v1/defaults.go."""
_MAX_AGE: Final = timedelta(hours=24)
_MAX_JITTER_S: Final = 10.0
_REFRESH_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Key:
    namespace: str
    service_account: str
    audience: str
    expiration_s: int
    pod_name: str
    pod_uid: v1.PodUID


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    issued_at: datetime
    expires_at: datetime


class TokenSource(Protocol):
    """Gives out tokens of pods' service accounts."""

    async def get_token(self, pod: v1.Pod, *, audience: str = "", expiration_s: int | None = None) -> str:
        """A valid token; see ``ServiceAccountTokens.get_token``."""
        ...

    def forget_pod(self, pod_uid: v1.PodUID) -> None:
        """Drop the tokens of a pod that is gone."""
        ...


class ServiceAccountTokens:
    """Cache of tokens bound to pods; lives as long as the node.

    A token is renewed when it is asked for and 80 % of its life are over, or it is a day old, each up to ten seconds sooner. While
    renewing fails the old one is given out until it expires.

    Args:
        objects: Where tokens are asked for.
        clock: Wall time.
        random_source: Random numbers from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        clock: Clock | None = None,
        random_source: Callable[[], float] = random.random,
    ) -> None:
        self._objects = objects
        self._clock = clock or SystemClock()
        self._random = random_source
        self._tokens: dict[_Key, _Token] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}

    async def get_token(self, pod: v1.Pod, *, audience: str = "", expiration_s: int | None = None) -> str:
        """A valid token of the pod's service account, bound to the pod.

        Args:
            pod: The pod.
            audience: Whom the token is for; empty for the API server.
            expiration_s: Lifetime to ask for, in seconds; None for an hour.

        Raises:
            PodSyncError: None could be had and there is no valid older one (reason ``FailedMount``).

        Source: token_manager.go, GetServiceAccountToken.
        """
        metadata = pod["metadata"]
        key = _Key(
            namespace=metadata.get("namespace", "default"),
            service_account=pod.get("spec", {}).get("serviceAccountName") or "default",
            audience=audience,
            expiration_s=DEFAULT_EXPIRATION_S if expiration_s is None else expiration_s,
            pod_name=metadata.get("name", ""),
            pod_uid=get_uid(pod),
        )
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            token = self._tokens.get(key)
            if token is not None and not self._is_due(token):
                return token.text
            try:
                fresh = await self._fetch(key)
            except VkproviderError as error:
                if token is None:
                    raise PodSyncError(f"failed to fetch token: {error}", reason=EVENT_FAILED_MOUNT) from error
                if self._clock.now() > token.expires_at:
                    raise PodSyncError(
                        f'token of service account "{key.namespace}/{key.service_account}" for audience "{audience}" '
                        f"expired and refresh failed: {error}",
                        reason=EVENT_FAILED_MOUNT,
                    ) from error
                logger.warning(
                    "Token could not be renewed, the old one stays in use",
                    extra={"pod": f"{key.namespace}/{key.pod_name}", "uid": key.pod_uid},
                    exc_info=error,
                )
                return token.text
            self._tokens[key] = fresh
            return fresh.text

    def forget_pod(self, pod_uid: v1.PodUID) -> None:
        """Drop the tokens of a pod that is gone. Safe to repeat."""
        self._drop({key for key in self._locks if key.pod_uid == pod_uid})

    def collect(self) -> None:
        """Drop expired tokens; call it now and then."""
        now = self._clock.now()
        self._drop({key for key, token in self._tokens.items() if now > token.expires_at})

    def _drop(self, keys: set[_Key]) -> None:
        for key in keys:
            self._tokens.pop(key, None)
            lock = self._locks.get(key)
            if lock is not None and not lock.locked():
                del self._locks[key]

    def _is_due(self, token: _Token) -> bool:
        """Whether the token should be renewed.

        Source: token_manager.go, requiresRefresh.
        """
        now = self._clock.now()
        jitter = timedelta(seconds=int(self._random() * _MAX_JITTER_S))
        lifetime_s = (token.expires_at - token.issued_at).total_seconds()
        return (
            now > token.issued_at + _MAX_AGE - jitter
            or now > token.expires_at - timedelta(seconds=int(lifetime_s * _REFRESH_SHARE)) - jitter
        )

    async def _fetch(self, key: _Key) -> _Token:
        status = await self._objects.create_service_account_token(
            key.namespace,
            key.service_account,
            {
                "audiences": [key.audience] if key.audience else [],
                "expirationSeconds": key.expiration_s,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": key.pod_name, "uid": key.pod_uid},
            },
        )
        expires_at = parse_time(status["expirationTimestamp"])
        # A server may grant less than was asked for, and clocks may differ: the shorter life is the safe one.
        lifetime = min(timedelta(seconds=key.expiration_s), max(expires_at - self._clock.now(), timedelta()))
        return _Token(status["token"], expires_at - lifetime, expires_at)
