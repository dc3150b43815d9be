"""Clocks."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from vkprovider.aio.clock import LoopClock, SystemClock


async def test_system_clock_is_the_machines():
    clock = SystemClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(clock.monotonic() - asyncio.get_running_loop().time()) < 5


@pytest.mark.looptime
async def test_loop_clock_moves_with_virtual_time():
    clock = LoopClock(datetime(2026, 1, 1, tzinfo=UTC))
    await asyncio.sleep(300)
    assert clock.now() == datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    assert clock.monotonic() == 300


def test_monotonic_time_needs_a_loop():
    for clock in (SystemClock(), LoopClock()):
        with pytest.raises(RuntimeError):
            clock.monotonic()
