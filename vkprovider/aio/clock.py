"""Time as an injected part: wall time for stamps, loop time for deadlines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What asks for the time."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; comparable with ``loop.time()``."""
        ...


class SystemClock:
    """The machine's wall clock and the running loop's monotonic clock."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """The running event loop's time in seconds."""
        return asyncio.get_running_loop().time()


class LoopClock:
    """Wall time derived from loop time, so that virtual loop time moves both.

    Args:
        epoch: Wall time at loop time zero.
    """

    def __init__(self, epoch: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._epoch = epoch

    def now(self) -> datetime:
        """Wall time: the epoch plus loop time."""
        return self._epoch + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The running event loop's time in seconds."""
        return asyncio.get_running_loop().time()
