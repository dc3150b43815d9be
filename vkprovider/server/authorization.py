"""What a user may do on this node's API.

Source: kubelet pkg/kubelet/server/auth.go; apiserver plugin/pkg/authorizer/webhook.
"""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vkprovider.aio.clock import Clock
from vkprovider.errors import KubeAPIError, TransientError, VkproviderError
from vkprovider.server.authentication import Identity
from vkprovider.server.caches import SharedLookups, TTLCache
from vkprovider.server.reviews import SUBJECT_ACCESS_REVIEWS, Reviewer

logger = logging.getLogger(__name__)

MAX_CACHED_REVIEWS = 8192
MAX_CACHEABLE_BYTES = 10_000
"""Reviews whose user data is larger are not remembered. Source: webhook.go, shouldCache."""

_VERBS = {"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("/pods", ("pods", "proxy")),
    ("/runningpods", ("pods", "proxy")),
    ("/healthz", ("healthz", "proxy")),
    ("/configz", ("configz", "proxy")),
    ("/stats", ("stats",)),
    ("/metrics", ("metrics",)),
    ("/logs", ("log",)),
    ("/checkpoint", ("checkpoint",)),
    ("/statusz", ("statusz",)),
    ("/flagz", ("configz",)),
)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked of the node: a verb on one of several subresources, any of which will do."""

    verb: str
    node_name: str
    subresources: tuple[str, ...]


class ForbiddenError(VkproviderError):
    """The user may not do this."""

    default_reason = "Forbidden"
    http_status = 403


class AuthorizationFailedError(VkproviderError):
    """It could not be found out whether the user may do this."""

    default_reason = "AuthorizationError"
    http_status = 500


def request_attributes(method: str, path: str, *, node_name: str) -> Attributes:
    """What a request needs the right to.

    Args:
        method: HTTP method; one without a verb of the API (HEAD) gives an empty verb.
        path: Decoded path.
        node_name: This node.

    Source: kubelet pkg/kubelet/server/auth.go, GetRequestAttributes.
    """
    for prefix, subresources in _SUBRESOURCES:
        if path == prefix or path.startswith(prefix + "/"):
            return Attributes(_VERBS.get(method, ""), node_name, subresources)
    return Attributes(_VERBS.get(method, ""), node_name, ("proxy",))


class Authorizer(ABC):
    """Decides whether a user may do something on this node's API."""

    @abstractmethod
    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        """Return if it is allowed.

        Raises:
            ForbiddenError: It is not.
            AuthorizationFailedError: It could not be found out.
        """

    async def aclose(self) -> None:
        """Cancel what runs."""


class AlwaysAllow(Authorizer):
    """Lets every authenticated user do everything."""

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        """Return at once."""


class WebhookAuthorizer(Authorizer):
    """Asks the API server by SubjectAccessReview and remembers the answers.

    Args:
        reviewer: Posts the reviews.
        clock: Time.
        allowed_ttl_s: Seconds a yes is remembered.
        denied_ttl_s: Seconds a no is remembered.
    """

    def __init__(self, reviewer: Reviewer, clock: Clock, *, allowed_ttl_s: float, denied_ttl_s: float) -> None:
        self._reviewer = reviewer
        self._allowed_ttl_s = allowed_ttl_s
        self._denied_ttl_s = denied_ttl_s
        self._answers: TTLCache[bytes, bool] = TTLCache(clock, max_entries=MAX_CACHED_REVIEWS)
        self._lookups: SharedLookups[bytes, bool] = SharedLookups("access-review")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        """Try the subresources in turn; the first that is allowed decides."""
        for subresource in attributes.subresources:
            try:
                if await self._is_allowed(identity, attributes, subresource):
                    return
            except (KubeAPIError, TransientError) as error:
                logger.warning(
                    "Could not find out what a user may do",
                    extra={"user": identity.name, "subresource": subresource, "error": str(error)},
                )
                raise AuthorizationFailedError(
                    f"Authorization error (user={identity.name}, verb={attributes.verb}, resource=nodes, "
                    f"subresource={subresource})"
                ) from error
        raise ForbiddenError(forbidden_text(identity, attributes))

    async def aclose(self) -> None:
        """Cancel reviews that still run."""
        await self._lookups.aclose()

    async def _is_allowed(self, identity: Identity, attributes: Attributes, subresource: str) -> bool:
        spec: dict[str, Any] = {
            "user": identity.name,
            "uid": identity.uid,
            "groups": list(identity.groups),
            "extra": {name: list(values) for name, values in sorted(identity.extra.items())},
            "resourceAttributes": {
                "verb": attributes.verb,
                "version": "v1",
                "resource": "nodes",
                "subresource": subresource,
                "name": attributes.node_name,
            },
        }
        text = json.dumps(spec)
        key = hashlib.sha256(text.encode()).digest()
        known = self._answers.find(key)
        if known is not None:
            return known
        return await self._lookups.get(key, lambda: self._review(key, spec, cacheable=len(text) < MAX_CACHEABLE_BYTES))

    async def _review(self, key: bytes, spec: dict[str, Any], *, cacheable: bool) -> bool:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec}
        status = await self._reviewer.review(SUBJECT_ACCESS_REVIEWS, body)
        allowed = bool(status.get("allowed")) and not status.get("denied")
        if cacheable:
            self._answers.put(key, allowed, ttl_s=self._allowed_ttl_s if allowed else self._denied_ttl_s)
        return allowed


def forbidden_text(identity: Identity, attributes: Attributes) -> str:
    """Body of a 403, as a kubelet writes it.

    Source: kubelet pkg/kubelet/server/server.go, InstallAuthFilter.
    """
    subresources = _bracket(attributes.subresources)
    return f"Forbidden (user={identity.name}, verb={attributes.verb}, resource=nodes, subresource(s)={subresources})\n"


def _bracket(words: Sequence[str]) -> str:
    return "[" + " ".join(words) + "]"
