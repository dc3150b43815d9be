"""Events of the memory runtime: one bounded queue for each reader."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Mapping

from vkprovider.errors import TransientError
from vkprovider.provider import cri

MAX_PENDING_EVENTS = 65536


class EventHub:
    """Hands events to all readers; a reader that is dropped without closing is forgotten."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    def __bool__(self) -> bool:
        """Whether anybody reads."""
        return bool(self._streams)

    def subscribe(self, label_selector: Mapping[str, str]) -> EventStream:
        """A reader of all events from now on about what carries these labels."""
        stream = EventStream(label_selector)
        self._streams.add(stream)
        return stream

    def publish(self, event: cri.ContainerEvent, labels: Mapping[str, str]) -> None:
        """Hand an event about something with these labels to whom it concerns."""
        for stream in tuple(self._streams):
            stream.put(event, labels)

    def close(self) -> None:
        """End all readers, as when the runtime goes away."""
        for stream in tuple(self._streams):
            stream.fail(TransientError("the memory runtime was closed"))
        self._streams.clear()


class EventStream(AsyncIterator[cri.ContainerEvent]):
    """One reader; more than ``MAX_PENDING_EVENTS`` unread events break it, so that it relists."""

    def __init__(self, label_selector: Mapping[str, str]) -> None:
        self._selector = tuple(label_selector.items())
        self._pending: deque[cri.ContainerEvent] = deque()
        self._error: TransientError | None = None
        self._changed = asyncio.Event()

    def put(self, event: cri.ContainerEvent, labels: Mapping[str, str]) -> None:
        """Take an event if it concerns this reader."""
        if self._error is not None or any(labels.get(key) != value for key, value in self._selector):
            return
        if len(self._pending) >= MAX_PENDING_EVENTS:
            self.fail(TransientError("events were lost: the reader is too slow; list again"))
            return
        self._pending.append(event)
        self._changed.set()

    def fail(self, error: TransientError) -> None:
        """End the reader with an error."""
        self._error = error
        self._pending.clear()
        self._changed.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> cri.ContainerEvent:
        while not self._pending:
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        return self._pending.popleft()
