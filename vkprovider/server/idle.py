"""Waiting for streams, but not for ever when nothing moves on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from vkprovider.api.durations import format_duration

logger = logging.getLogger(__name__)


async def wait_while_active(
    tasks: set[asyncio.Task[Any]], last_activity_at: Callable[[], float], *, idle_timeout_s: float
) -> None:
    """Wait for the first of some tasks, or until nothing has moved for the idle timeout.

    Args:
        tasks: The tasks; they are left alone.
        last_activity_at: Loop time at which something moved last.
        idle_timeout_s: Seconds without movement after which to return; 0 for never.
    """
    loop = asyncio.get_running_loop()
    while True:
        timeout = None
        if idle_timeout_s > 0:
            timeout = last_activity_at() + idle_timeout_s - loop.time()
            if timeout <= 0:
                logger.info("Closed an idle stream", extra={"idle": format_duration(idle_timeout_s)})
                return
        done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
