"""Fan-out of hints."""

import asyncio

import pytest

from vkprovider.aio.broadcast import Broadcast, Subscription

pytestmark = pytest.mark.looptime


async def take(subscription, count):
    return [await anext(subscription) for _ in range(count)]


async def test_every_subscriber_gets_every_key_from_then_on():
    hub = Broadcast()
    hub.publish("early")
    first = hub.subscribe()
    hub.publish("a")
    second = hub.subscribe()
    hub.publish("b")
    assert await take(first, 2) == ["a", "b"]
    assert await take(second, 1) == ["b"]


async def test_key_that_waits_is_not_queued_twice():
    hub = Broadcast()
    reader = hub.subscribe()
    for key in ("a", "b", "a", "a"):
        hub.publish(key)
    reader.close()
    assert [key async for key in reader] == ["a", "b"]


async def test_key_read_may_come_again():
    reader = Broadcast().subscribe()
    reader.put("a")
    assert await anext(reader) == "a"
    reader.put("a")
    assert await anext(reader) == "a"


async def test_reader_waits_for_a_key():
    reader = Subscription()
    asyncio.get_running_loop().call_later(5, reader.put, "a")
    assert await anext(reader) == "a"
    assert asyncio.get_running_loop().time() == 5


async def test_closing_ends_a_waiting_reader_and_gives_out_what_waits():
    hub = Broadcast()
    reader = hub.subscribe()
    hub.publish("a")
    asyncio.get_running_loop().call_later(5, reader.close)
    assert [key async for key in reader] == ["a"]
    hub.publish("late")
    reader.put("late")
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


async def test_closing_may_be_repeated_and_leaves_others():
    hub = Broadcast()
    gone, stays = hub.subscribe(), hub.subscribe()
    gone.close()
    gone.close()
    hub.publish("a")
    assert await anext(stays) == "a"


async def test_cancelled_reader_loses_nothing():
    reader = Subscription()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(reader), 1)
    reader.put("a")
    assert await anext(reader) == "a"
