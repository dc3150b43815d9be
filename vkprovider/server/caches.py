"""A bounded cache with lifetimes, and lookups shared by those who ask for the same thing at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TTLCache(Generic[K, V]):
    """Values by key, each with its own lifetime; the least recently used goes when it is full.

    Args:
        clock: Time.
        max_entries: Most entries kept.
    """

    def __init__(self, clock: Clock, *, max_entries: int) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: K) -> V | None:
        """The value, or None when there is none or its lifetime is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock.monotonic() >= entry[0]:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: K, value: V, *, ttl_s: float) -> None:
        """Keep a value for ``ttl_s`` seconds; a lifetime of zero or less keeps nothing."""
        if ttl_s <= 0:
            self._entries.pop(key, None)
            return
        self._entries[key] = (self._clock.monotonic() + ttl_s, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


class SharedLookups(Generic[K, V]):
    """Runs one lookup per key at a time and gives its outcome to everyone who waits for that key.

    A waiter that is cancelled leaves the lookup to the others.

    Args:
        name: For the names of the tasks.
    """

    def __init__(self, name: str) -> None:
        self._pool = TaskPool(name)
        self._running: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, look_up: Callable[[], Awaitable[V]]) -> V:
        """The outcome of the lookup for the key that runs already, or else of ``look_up``; its errors are raised."""
        task = self._running.get(key)
        if task is None:
            task = self._pool.spawn(self._run(key, look_up), name="lookup")
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Cancel what runs."""
        await self._pool.aclose()

    async def _run(self, key: K, look_up: Callable[[], Awaitable[V]]) -> V:
        return await look_up()

    def _forget(self, key: K, task: asyncio.Task[V]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
