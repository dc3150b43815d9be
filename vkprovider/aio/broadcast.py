"""Fan-out of hints to many readers, each with a bounded, coalescing buffer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Broadcast(Generic[T]):
    """Sends keys to all current subscribers; a key that waits already is not queued twice.

    Made for hints such as "pod X changed": losing the count is right, losing the key is not.
    """

    def __init__(self) -> None:
        self._subscriptions: set[Subscription[T]] = set()

    def publish(self, key: T) -> None:
        """Hand a key to every subscriber; never blocks."""
        for subscription in self._subscriptions:
            subscription.put(key)

    def subscribe(self) -> Subscription[T]:
        """A new reader that sees all keys from now on; close it when done."""
        subscription = Subscription(self._subscriptions)
        self._subscriptions.add(subscription)
        return subscription


class Subscription(Generic[T]):
    """One reader of a ``Broadcast``: an async iterator of distinct pending keys, oldest first."""

    def __init__(self, registry: set[Subscription[T]] | None = None) -> None:
        self._registry = registry
        self._pending: dict[T, None] = {}
        self._wakeup = asyncio.Event()
        self._closed = False

    def put(self, key: T) -> None:
        """Add a key unless it waits already."""
        if not self._closed:
            self._pending[key] = None
            self._wakeup.set()

    def close(self) -> None:
        """Stop receiving; a waiting reader ends."""
        self._closed = True
        self._wakeup.set()
        if self._registry is not None:
            self._registry.discard(self)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        key = next(iter(self._pending))
        del self._pending[key]
        return key
