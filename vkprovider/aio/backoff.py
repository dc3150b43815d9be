"""Exponential backoff, one entry a key, that survives between tries and expires after a quiet time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

from vkprovider.aio.clock import Clock


@dataclass(slots=True)
class _Entry:
    backoff_s: float
    updated_at: datetime


class BackoffTable:
    """Backoff per key: first ``initial_s``, doubling to ``max_s``, forgotten after ``2 * max_s`` without use.

    Wall time is used, since the events that count (``finishedAt`` of a container) carry wall time.

    Source: client-go util/flowcontrol/backoff.go, Backoff.
    """

    def __init__(self, clock: Clock, *, initial_s: float = 10.0, max_s: float = 300.0) -> None:
        self._clock = clock
        self._initial_s = min(initial_s, max_s)
        self._max_s = max_s
        self._entries: dict[Hashable, _Entry] = {}

    def get(self, key: Hashable) -> float:
        """Current backoff of the key in seconds; 0 when it has none."""
        entry = self._entries.get(key)
        return entry.backoff_s if entry else 0.0

    def step(self, key: Hashable, event_at: datetime) -> None:
        """Record one more failure at ``event_at``: doubles the backoff, or starts anew after a quiet time."""
        entry = self._entries.get(key)
        if entry is None or self._has_expired(event_at, entry.updated_at):
            self._entries[key] = _Entry(self._initial_s, self._clock.now())
        else:
            entry.backoff_s = min(entry.backoff_s * 2, self._max_s)
            entry.updated_at = self._clock.now()

    def remaining_s(self, key: Hashable, event_at: datetime) -> float:
        """Seconds left until the key may be tried again, counted from ``event_at``; 0 when it may be tried now."""
        entry = self._entries.get(key)
        if entry is None or self._has_expired(event_at, entry.updated_at):
            return 0.0
        return max(0.0, entry.backoff_s - (self._clock.now() - event_at).total_seconds())

    def remaining_since_update_s(self, key: Hashable) -> float:
        """Seconds left, counted from the last failure recorded."""
        entry = self._entries.get(key)
        if entry is None:
            return 0.0
        since = self._clock.now() - entry.updated_at
        if since > timedelta(seconds=2 * self._max_s):
            return 0.0
        return max(0.0, entry.backoff_s - since.total_seconds())

    def seed(self, key: Hashable, backoff_s: float) -> None:
        """Restore a backoff known from before a restart of the process."""
        self._entries[key] = _Entry(min(max(backoff_s, self._initial_s), self._max_s), self._clock.now())

    def reset(self, key: Hashable) -> None:
        """Forget the key."""
        self._entries.pop(key, None)

    def collect(self) -> None:
        """Forget all keys whose time has passed."""
        now = self._clock.now()
        for key in [k for k, entry in self._entries.items() if self._has_expired(now, entry.updated_at)]:
            del self._entries[key]

    def _has_expired(self, event_at: datetime, updated_at: datetime) -> bool:
        return event_at - updated_at > timedelta(seconds=2 * self._max_s)
