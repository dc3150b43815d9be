"""A clock that moves only when told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

DEFAULT_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A ``Clock`` for code that reads the time but does not wait.

    For code that waits use virtual loop time (looptime) with ``vkprovider.aio.clock.LoopClock``: both then move together.

    Args:
        now: Wall time at the start.
        monotonic: Monotonic time at the start, in seconds.
    """

    def __init__(self, now: datetime = DEFAULT_EPOCH, *, monotonic: float = 0.0) -> None:
        self._now = now
        self._monotonic = monotonic

    def now(self) -> datetime:
        """Wall time."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both times on.

        Raises:
            ValueError: Time does not go back; use ``set_wall_time`` for a clock that steps.
        """
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} s; use set_wall_time to step the wall clock back")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_wall_time(self, now: datetime) -> None:
        """Step the wall clock, also back, as NTP may; monotonic time stays."""
        self._now = now
