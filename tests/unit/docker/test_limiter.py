"""The limit on parallel starts lets the more urgent go first and never loses a slot."""

from __future__ import annotations

import asyncio

import pytest

from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.engine import choose_parallel_starts
from vkprovider.backends.docker.limiter import PriorityLimiter

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(
    ("config", "cores", "expected"),
    [
        (DockerConfig(), 1, 4),
        (DockerConfig(), 2, 4),
        (DockerConfig(), 4, 8),
        (DockerConfig(), 64, 12),
        (DockerConfig(max_parallel_calls=128), 16, 32),
        (DockerConfig(max_parallel_calls=2), 2, 1),
        (DockerConfig(max_parallel_starts=40), 2, 40),
    ],
)
def test_starts_at_once_follow_the_cores(config, cores, expected):
    assert choose_parallel_starts(config, cores=cores) == expected


async def test_never_more_than_the_limit_at_once():
    limiter, running, most = PriorityLimiter(3), 0, 0

    async def work():
        nonlocal running, most
        async with limiter.slot():
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1

    await asyncio.gather(*(work() for _ in range(10)))
    assert most == 3
    assert asyncio.get_running_loop().time() == 4


async def test_urgent_before_old_and_old_before_new():
    limiter, order = PriorityLimiter(1), []

    async def work(name, priority):
        async with limiter.slot(priority):
            order.append(name)
            await asyncio.sleep(1)

    tasks = [
        asyncio.create_task(work(name, priority))
        for name, priority in [("a", 2), ("b", 2), ("c", 1), ("d", 2), ("e", 0)]
    ]
    await asyncio.gather(*tasks)
    assert order == ["a", "e", "c", "b", "d"]


async def test_cancelled_waiters_do_not_take_slots_along():
    limiter = PriorityLimiter(1)

    async def hold():
        async with limiter.slot():
            await asyncio.sleep(1)

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    waiters = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0.5)
    waiters[0].cancel()
    await holder
    waiters[1].cancel()  # in the very step in which it was handed the slot
    await asyncio.wait(waiters)
    assert [task.cancelled() for task in waiters] == [True, True, False]
    async with asyncio.timeout(0.1), limiter.slot():
        pass


async def test_slot_is_free_again_after_an_error():
    limiter = PriorityLimiter(1)
    with pytest.raises(ValueError, match="x"):
        async with limiter.slot():
            raise ValueError("x")
    async with asyncio.timeout(0.1), limiter.slot():
        pass
