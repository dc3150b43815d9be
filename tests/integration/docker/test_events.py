"""Events of the engine as hints."""

from __future__ import annotations

import asyncio

import pytest

from support.waiting import async_wait_for
from vkprovider.api import labels
from vkprovider.provider import cri

pytestmark = pytest.mark.docker


async def test_every_change_of_state_is_told_with_the_pods_uid(runtime, pods):
    events: list[cri.ContainerEvent] = []

    async def follow() -> None:
        async for event in runtime.container_events(pods.labels):
            events.append(event)

    task = asyncio.create_task(follow())
    try:
        sandbox = await pods.sandbox()
        container_id = await pods.shell("exit 3", sandbox=sandbox)
        await pods.ended(container_id)
        await runtime.remove_pod_sandbox(sandbox[0])
        await async_wait_for(lambda: asyncio.sleep(0, len(events) >= 8), "eight events", timeout_s=10)
    finally:
        task.cancel()
        await asyncio.wait([task])
    kinds = {(event.container_id, event.type) for event in events}
    assert kinds == {(name, kind) for name in (sandbox[0], container_id) for kind in cri.ContainerEventType}
    assert {event.pod_uid for event in events} == {sandbox[1].metadata.uid}


async def test_nothing_is_missed_between_the_call_and_the_first_step(runtime, pods):
    events = runtime.container_events(pods.labels)
    sandbox_id, _ = await pods.sandbox()
    async with asyncio.timeout(10):
        first = await anext(events)
    assert (first.container_id, first.type) == (sandbox_id, cri.ContainerEventType.CREATED)
    await events.aclose()


async def test_events_of_others_are_not_seen(runtime, pods):
    events = runtime.container_events({**pods.labels, labels.OWNER_CLUSTER: "another"})
    await pods.sandbox()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await anext(events)
    await events.aclose()
