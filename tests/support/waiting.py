"""Wait for something that happens elsewhere, with a message that says what did not happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class WaitTimeoutError(AssertionError):
    """What was waited for did not come."""


def wait_for(look: Callable[[], T], what: str, *, timeout_s: float = 60.0, interval_s: float = 0.1) -> T:
    """Call ``look`` until it returns something true, and return that.

    Args:
        look: Called again and again; an exception ends the wait.
        what: For the message: "waited 60 s for <what>".
        timeout_s: Seconds until giving up.
        interval_s: Seconds between two looks.

    Raises:
        WaitTimeoutError: It did not come; the message has the last value.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := look()):
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"waited {timeout_s:g} s for {what}; at last it was {value!r}")
        time.sleep(interval_s)
    return value


async def async_wait_for(
    look: Callable[[], Awaitable[T]], what: str, *, timeout_s: float = 60.0, interval_s: float = 0.1
) -> T:
    """The same for an async ``look``, by the loop's time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not (value := await look()):
        if loop.time() > deadline:
            raise WaitTimeoutError(f"waited {timeout_s:g} s for {what}; at last it was {value!r}")
        await asyncio.sleep(interval_s)
    return value
