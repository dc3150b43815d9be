from __future__ import annotations

import asyncio

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.server.caches import SharedLookups, TTLCache


@pytest.mark.looptime
async def test_value_is_kept_for_its_lifetime():
    cache = TTLCache(LoopClock(), max_entries=10)
    cache.put("a", 1, ttl_s=10)
    await asyncio.sleep(9.9)
    assert cache.find("a") == 1
    await asyncio.sleep(0.1)
    assert cache.find("a") is None
    assert len(cache) == 0


@pytest.mark.looptime
async def test_least_recently_used_goes_when_full():
    cache = TTLCache(LoopClock(), max_entries=2)
    for key in ("a", "b"):
        cache.put(key, key, ttl_s=10)
    assert cache.find("a") == "a"
    cache.put("c", "c", ttl_s=10)
    assert [cache.find(key) for key in ("a", "b", "c")] == ["a", None, "c"]


@pytest.mark.looptime
async def test_zero_lifetime_keeps_nothing():
    cache = TTLCache(LoopClock(), max_entries=2)
    cache.put("a", 1, ttl_s=0)
    assert cache.find("a") is None


@pytest.mark.looptime
async def test_one_lookup_serves_all_and_survives_a_waiter_that_leaves():
    lookups = SharedLookups("test")
    runs = 0

    async def look_up():
        nonlocal runs
        runs += 1
        await asyncio.sleep(5)
        return "answer"

    waiters = [asyncio.create_task(lookups.get("key", look_up)) for _ in range(3)]
    await asyncio.sleep(1)
    waiters[0].cancel()
    assert await asyncio.gather(*waiters[1:]) == ["answer", "answer"]
    assert waiters[0].cancelled()
    assert runs == 1
    assert await lookups.get("key", look_up) == "answer"
    assert runs == 2


async def test_error_of_a_lookup_is_raised_and_forgotten():
    lookups = SharedLookups("test")

    async def fail():
        raise ValueError("no")

    async def succeed():
        return "yes"

    with pytest.raises(ValueError, match="no"):
        await lookups.get("key", fail)
    assert await lookups.get("key", succeed) == "yes"


async def test_closing_cancels_what_runs():
    lookups = SharedLookups("test")
    waiter = asyncio.create_task(lookups.get("key", asyncio.Event().wait))
    await asyncio.sleep(0)
    await lookups.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiter
