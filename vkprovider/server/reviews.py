"""Asking the API server who a token belongs to and what a user may do."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any, Protocol

from vkprovider.errors import KubeAPIError, TransientError

logger = logging.getLogger(__name__)

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
SUBJECT_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

RETRY_STEPS = 5
RETRY_FIRST_S = 0.5
RETRY_FACTOR = 1.5
RETRY_JITTER = 0.2
REVIEW_TIMEOUT_S = 10.0


class KubeRequester(Protocol):
    """The part of the API client that the server needs."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the object answered.

        Raises:
            KubeAPIError: The API server answered with an error.
            TransientError: It did not answer.
        """
        ...


class Reviewer:
    """Posts reviews, with the retries of a kubelet; says once what right is missing when the API server refuses.

    Args:
        client: The API client.

    Source: apiserver pkg/server/options/authentication.go, DefaultAuthWebhookRetryBackoff.
    """

    def __init__(self, client: KubeRequester) -> None:
        self._client = client
        self._refused: set[str] = set()

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Post a review and return its ``status``.

        Raises:
            KubeAPIError: The API server refuses; tried again where that may help.
            TransientError: It did not answer within all tries.
        """
        pause_s = RETRY_FIRST_S
        for step in range(1, RETRY_STEPS + 1):
            try:
                answer = await self._client.request("POST", path, body=dict(body), timeout_s=REVIEW_TIMEOUT_S)
            except (KubeAPIError, TransientError) as error:
                self._explain(path, error)
                if step == RETRY_STEPS or (isinstance(error, KubeAPIError) and not error.is_retriable):
                    raise
            else:
                self._refused.discard(path)
                return answer.get("status") or {}
            await asyncio.sleep(pause_s * (1 + RETRY_JITTER * random.random()))  # noqa: S311
            pause_s *= RETRY_FACTOR
        raise AssertionError("unreachable")

    def _explain(self, path: str, error: Exception) -> None:
        if not isinstance(error, KubeAPIError) or error.status not in (401, 403) or path in self._refused:
            return
        self._refused.add(path)
        logger.error(
            "The node's credentials may not create %s, so requests to the kubelet API cannot be checked; "
            "bind the cluster role system:auth-delegator to the node's user",
            path.rpartition("/")[2],
            extra={"error": str(error)},
        )
