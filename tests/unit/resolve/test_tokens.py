from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.errors import KubeAPIError, PodSyncError, TransientError
from vkprovider.resolve.tokens import ServiceAccountTokens

pytestmark = pytest.mark.looptime


@pytest.fixture
def tokens(objects: Any) -> ServiceAccountTokens:
    objects.clock = LoopClock()
    return ServiceAccountTokens(objects, clock=objects.clock, random_source=lambda: 0.0)


async def test_request_names_the_pod_and_the_audience(pod: Any, objects: Any, tokens: ServiceAccountTokens) -> None:
    await tokens.get_token(pod, audience="vault", expiration_s=700)
    await tokens.get_token(pod)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "uid-1"}
    assert objects.token_requests == [
        ("ns", "sa", {"audiences": ["vault"], "expirationSeconds": 700, "boundObjectRef": bound}),
        ("ns", "sa", {"audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound}),
    ]


async def test_token_is_kept_until_four_fifths_of_its_life_are_over(pod: Any, tokens: ServiceAccountTokens) -> None:
    assert await tokens.get_token(pod, expiration_s=1000) == "token-1"
    await asyncio.sleep(799)
    assert await tokens.get_token(pod, expiration_s=1000) == "token-1"
    await asyncio.sleep(2)
    assert await tokens.get_token(pod, expiration_s=1000) == "token-2"


async def test_jitter_brings_renewal_forward(pod: Any, objects: Any) -> None:
    objects.clock = LoopClock()
    tokens = ServiceAccountTokens(objects, clock=objects.clock, random_source=lambda: 0.99)
    await tokens.get_token(pod, expiration_s=1000)
    await asyncio.sleep(792)
    assert await tokens.get_token(pod, expiration_s=1000) == "token-2"


async def test_long_lived_token_is_renewed_after_a_day(pod: Any, tokens: ServiceAccountTokens) -> None:
    week_s = 7 * 86400
    await tokens.get_token(pod, expiration_s=week_s)
    await asyncio.sleep(86399)
    assert await tokens.get_token(pod, expiration_s=week_s) == "token-1"
    await asyncio.sleep(2)
    assert await tokens.get_token(pod, expiration_s=week_s) == "token-2"


async def test_shorter_life_than_asked_for_counts(pod: Any, objects: Any, tokens: ServiceAccountTokens) -> None:
    objects.token_lifetime_s = 600
    await tokens.get_token(pod, expiration_s=3600)
    await asyncio.sleep(481)
    assert await tokens.get_token(pod, expiration_s=3600) == "token-2"


async def test_old_token_serves_while_renewing_fails_until_it_expires(
    pod: Any, objects: Any, tokens: ServiceAccountTokens
) -> None:
    await tokens.get_token(pod, expiration_s=1000)
    objects.broken = TransientError("connection refused")
    await asyncio.sleep(900)
    assert await tokens.get_token(pod, expiration_s=1000) == "token-1"
    await asyncio.sleep(101)
    with pytest.raises(PodSyncError, match=r"expired and refresh failed: connection refused") as caught:
        await tokens.get_token(pod, expiration_s=1000)
    assert caught.value.reason == "FailedMount"


async def test_first_failure_is_told(pod: Any, objects: Any, tokens: ServiceAccountTokens) -> None:
    objects.broken = KubeAPIError('serviceaccounts "sa" not found', status=404)
    with pytest.raises(PodSyncError) as caught:
        await tokens.get_token(pod)
    assert caught.value.message == 'failed to fetch token: serviceaccounts "sa" not found'


async def test_callers_at_once_share_one_request(pod: Any, objects: Any, tokens: ServiceAccountTokens) -> None:
    answers = await asyncio.gather(*(tokens.get_token(pod) for _ in range(5)))
    assert set(answers) == {"token-1"}
    assert len(objects.token_requests) == 1


async def test_forgotten_pod_gets_a_new_token(pod: Any, tokens: ServiceAccountTokens) -> None:
    await tokens.get_token(pod)
    tokens.forget_pod(pod["metadata"]["uid"])
    tokens.forget_pod(pod["metadata"]["uid"])
    assert await tokens.get_token(pod) == "token-2"


async def test_collect_drops_only_expired_tokens(pod: Any, tokens: ServiceAccountTokens) -> None:
    await tokens.get_token(pod, expiration_s=600)
    await tokens.get_token(pod, expiration_s=6000)
    await asyncio.sleep(601)
    tokens.collect()
    assert await tokens.get_token(pod, expiration_s=6000) == "token-2"
    assert await tokens.get_token(pod, expiration_s=600) == "token-3"
