"""Kubernetes Events of this node: recorded without waiting, correlated as client-go does, sent in the background.

Equal events become one with a count; many similar ones become one "combined" event; one object may not flood the API server. What
cannot be sent fast enough waits in a bounded queue whose oldest entries are dropped first: events are hints, never worth holding up
pods or filling memory.

Source: client-go tools/record/event.go and events_cache.go.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import v1
from vkprovider.api.pods import field_path, find_container
from vkprovider.api.timestamps import format_time
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.client import RateLimiter
from vkprovider.kube.events import EventClient
from vkprovider.provider.pod_provider import PodEventRecorder
from vkprovider.settings import PodSettings

logger = logging.getLogger(__name__)

COMPONENT = "kubelet"
COMBINED_PREFIX = "(combined from similar events): "

_MAX_SIMILAR = 10
_SIMILAR_PERIOD = timedelta(seconds=600)
_SPAM_BURST = 25.0
_SPAM_REFILL_PER_S = 1 / 300
_CACHE_SIZE = 4096
_MAX_QUEUED = 10_000
_MAX_TRIES = 12
_RETRY_S = 10.0
_MAX_NAME = 253
_START_DELAY_S = 0.01

V = TypeVar("V")


class _LRU(Generic[V]):
    """The newest entries of a mapping."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Hashable, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


@dataclass(slots=True)
class _Similar:
    """Distinct messages of one kind of event lately."""

    messages: set[str]
    last_at: datetime


@dataclass(slots=True)
class _Tokens:
    """Events one object may still have."""

    left: float
    updated_at: float


@dataclass(slots=True)
class _Event:
    """One event object; it is sent again whenever it happens again."""

    namespace: str
    name: str
    reference: v1.ObjectReference
    kind: str
    reason: str
    message: str
    first_at: datetime
    last_at: datetime
    count: int = 1
    created: bool = False
    tries: int = field(default=0, repr=False)


class EventRecorder:
    """Records events on pods and on the node.

    Args:
        events: Client for events.
        node_name: Name of the node, also the host that reports.
        settings: Rate of sending.
        clock: Time.
        max_concurrent: Most requests at once; few, so that statuses go first.
        max_queued: Events that may wait to be sent.
    """

    def __init__(
        self,
        events: EventClient,
        *,
        node_name: str,
        settings: PodSettings,
        clock: Clock,
        max_concurrent: int = 2,
        max_queued: int = _MAX_QUEUED,
    ) -> None:
        self._events = events
        self._node_name = node_name
        self._clock = clock
        self._max_concurrent = max_concurrent
        self._max_queued = max_queued
        self._limiter = RateLimiter(settings.event_qps, settings.event_burst) if settings.event_qps > 0 else None
        self._similar: _LRU[_Similar] = _LRU(_CACHE_SIZE)
        self._known: _LRU[_Event] = _LRU(_CACHE_SIZE)
        self._tokens: _LRU[_Tokens] = _LRU(_CACHE_SIZE)
        self._queue: OrderedDict[str, _Event] = OrderedDict()
        self._in_flight: set[str] = set()
        self._senders = TaskPool("events")
        self._active_senders = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._last_ns = 0
        self._starter: asyncio.TimerHandle | None = None
        self._closed = False
        self.dropped = 0
        """Events thrown away because too many waited, or because the API server would not have them."""

    def for_pod(self, pod: v1.Pod) -> PodEventRecorder:
        """A recorder of events on this pod."""
        return _PodRecorder(self, pod)

    def record_node_event(self, kind: str, reason: str, message: str) -> None:
        """Record an event on the node; never blocks, never raises.

        Args:
            kind: ``Normal`` or ``Warning``.
            reason: CamelCase word.
            message: For people.
        """
        reference: v1.ObjectReference = {"apiVersion": "v1", "kind": "Node", "name": self._node_name}
        self.record(reference, "default", kind, reason, message)

    def record(self, reference: v1.ObjectReference, namespace: str, kind: str, reason: str, message: str) -> None:
        """Record an event on any object; never blocks, never raises.

        Args:
            reference: The object it is about.
            namespace: Where the event lives.
            kind: ``Normal`` or ``Warning``.
            reason: CamelCase word.
            message: For people.
        """
        if self._closed:
            return
        now = self._clock.now()
        about = (reference.get("kind"), namespace, reference.get("name"), reference.get("uid"))
        similar_key = (*about, kind, reason)
        key: Hashable = (*similar_key, reference.get("fieldPath"), message)
        if self._is_one_of_many(similar_key, message, now):
            key, message = similar_key, COMBINED_PREFIX + message
        event = self._known.get(key)
        if event is None:
            name = self._make_name(reference.get("name", ""))
            event = _Event(namespace, name, reference, kind, reason, message, now, now)
            self._known.put(key, event)
        else:
            event.count += 1
            event.last_at = now
            event.message = message
        if self._is_spam(about):
            self.dropped += 1
            return
        self._enqueue(event)

    async def flush(self, *, timeout_s: float) -> bool:
        """Send what waits; whether all was sent within ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            logger.info("Not all events could be sent in time", extra={"left": len(self._queue)})
            return False
        return True

    async def aclose(self) -> None:
        """Stop sending; what waits is lost. Safe to repeat."""
        self._closed = True
        self._queue.clear()
        if self._starter is not None:
            self._starter.cancel()
        await self._senders.aclose()

    def _is_one_of_many(self, key: Hashable, message: str, now: datetime) -> bool:
        """Source: events_cache.go, EventAggregator.EventAggregate."""
        similar = self._similar.get(key)
        if similar is None or now - similar.last_at > _SIMILAR_PERIOD:
            similar = _Similar(set(), now)
            self._similar.put(key, similar)
        similar.messages.add(message)
        similar.last_at = now
        if len(similar.messages) < _MAX_SIMILAR:
            return False
        similar.messages.pop()
        return True

    def _is_spam(self, about: Hashable) -> bool:
        """Source: events_cache.go, EventSourceObjectSpamFilter.Filter."""
        now = asyncio.get_running_loop().time()
        tokens = self._tokens.get(about)
        if tokens is None:
            tokens = _Tokens(_SPAM_BURST, now)
            self._tokens.put(about, tokens)
        tokens.left = min(_SPAM_BURST, tokens.left + (now - tokens.updated_at) * _SPAM_REFILL_PER_S)
        tokens.updated_at = now
        if tokens.left < 1:
            return True
        tokens.left -= 1
        return False

    def _make_name(self, about: str) -> str:
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        name = f"{about}.{self._last_ns:x}"
        return name if len(name) <= _MAX_NAME else str(uuid.uuid4())

    def _enqueue(self, event: _Event) -> None:
        self._queue[event.name] = event
        if len(self._queue) > self._max_queued:
            self._queue.popitem(last=False)
            self.dropped += 1
        self._quiet.clear()
        if self._starter is None and self._active_senders < self._max_concurrent:
            # What caused the event comes first: a status patch is mostly just about to be sent.
            self._starter = asyncio.get_running_loop().call_later(_START_DELAY_S, self._start_sender)

    def _start_sender(self) -> None:
        self._starter = None
        if not self._closed and self._queue and self._active_senders < self._max_concurrent:
            self._active_senders += 1
            self._senders.spawn(self._send_queued(), name="send")

    async def _send_queued(self) -> None:
        try:
            while not self._closed:
                name = next((name for name in self._queue if name not in self._in_flight), None)
                if name is None:
                    break
                event = self._queue[name]
                self._in_flight.add(name)
                try:
                    if self._limiter is not None:
                        await self._limiter.acquire()
                    # What happened again while it waited is sent along.
                    self._queue.pop(name, None)
                    await self._send(event)
                finally:
                    self._in_flight.discard(name)
        finally:
            # In the same moment as the decision to end, so that nothing is left to a sender that is on its way out.
            self._active_senders -= 1
        if not self._queue and not self._in_flight:
            self._quiet.set()

    async def _send(self, event: _Event) -> None:
        try:
            if event.created:
                try:
                    await self._events.patch(event.namespace, event.name, self._make_patch(event))
                except KubeAPIError as error:
                    if not error.is_not_found:
                        raise
                    await self._events.create(event.namespace, self._make_body(event))
            else:
                await self._events.create(event.namespace, self._make_body(event))
            event.created = True
            event.tries = 0
        except KubeAPIError as error:
            if error.is_already_exists:
                event.created = True
            elif error.is_retriable and event.tries < _MAX_TRIES:
                await self._try_again(event, error)
            else:
                # Mostly a namespace that is going away, or a right that is missing.
                self.dropped += 1
                logger.debug("Event refused", extra={"event": event.name, "error": str(error)})
        except TransientError as error:
            if event.tries < _MAX_TRIES:
                await self._try_again(event, error)
            else:
                self.dropped += 1

    async def _try_again(self, event: _Event, error: KubeAPIError | TransientError) -> None:
        event.tries += 1
        logger.debug("Event could not be sent", extra={"event": event.name, "error": str(error), "tries": event.tries})
        self._queue[event.name] = event
        await asyncio.sleep(error.retry_after_s if error.retry_after_s is not None else _RETRY_S)

    def _make_body(self, event: _Event) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": event.name, "namespace": event.namespace},
            "involvedObject": event.reference,
            "type": event.kind,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": COMPONENT, "host": self._node_name},
            "firstTimestamp": format_time(event.first_at),
            "lastTimestamp": format_time(event.last_at),
            "count": event.count,
            "eventTime": None,
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node_name,
        }

    def _make_patch(self, event: _Event) -> dict[str, Any]:
        return {"count": event.count, "lastTimestamp": format_time(event.last_at), "message": event.message}


class _PodRecorder:
    """Records events on one pod."""

    __slots__ = ("_pod", "_recorder", "_reference")

    def __init__(self, recorder: EventRecorder, pod: v1.Pod) -> None:
        self._recorder = recorder
        self._pod = pod
        metadata = pod["metadata"]
        self._reference: v1.ObjectReference = {
            "kind": "Pod",
            "namespace": metadata.get("namespace", "default"),
            "name": metadata["name"],
            "uid": metadata["uid"],
            "apiVersion": "v1",
            "resourceVersion": metadata.get("resourceVersion", ""),
        }

    def __call__(self, kind: str, reason: str, message: str, *, container: str | None = None) -> None:
        """Record an event; see ``PodEventRecorder``."""
        reference = self._reference
        if container is not None and (found := find_container(self._pod, container)) is not None:
            reference = {**reference, "fieldPath": field_path(found[0], container)}
        self._recorder.record(reference, reference["namespace"], kind, reason, message)
