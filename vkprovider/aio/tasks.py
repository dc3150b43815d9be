"""Named tasks with an owner: supervised background work, cancel-and-wait, bounded cleanup."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until all have ended; their errors are logged, never raised."""
    pending = [task for task in tasks if task is not asyncio.current_task()]
    for task in pending:
        task.cancel()
    for result, task in zip(await asyncio.gather(*pending, return_exceptions=True), pending, strict=True):
        if isinstance(result, Exception):
            logger.warning("Task failed while it was cancelled", extra={"task": task.get_name()}, exc_info=result)


async def finish(coroutine: Coroutine[Any, Any, T], *, timeout_s: float, name: str = "finish") -> T | None:
    """Run cleanup to its end even if the caller is cancelled, for at most ``timeout_s`` seconds.

    Returns:
        The result, or None when time ran out (the coroutine is then cancelled and the fact logged).

    Raises:
        asyncio.CancelledError: The caller was cancelled; raised only once the cleanup has ended.
    """
    task = asyncio.create_task(coroutine, name=name)
    deadline = asyncio.get_running_loop().time() + timeout_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                logger.warning("Cleanup ran out of time", extra={"task": name, "timeout_s": timeout_s})
                await cancel_and_wait([task])
                break
            await asyncio.wait({task}, timeout=remaining)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if task.done() and not task.cancelled() and task.exception() is not None:
            logger.warning("Cleanup failed", extra={"task": name}, exc_info=task.exception())
        raise cancelled
    return None if task.cancelled() else task.result()


def innermost(error: BaseException) -> BaseException:
    """The error itself where exception groups of one are wrapped around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class TaskPool:
    """Owns fire-and-forget tasks of one part: names them, logs their failures, ends them on close.

    A failure of one task is its own: the others go on. Use ``asyncio.TaskGroup`` where parts must fail together.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a task that the pool owns until it ends."""
        task = asyncio.create_task(coroutine, name=f"{self._name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def aclose(self) -> None:
        """Cancel what still runs and wait for its end."""
        while self._tasks - {asyncio.current_task()}:
            await cancel_and_wait(list(self._tasks))

    async def join(self) -> None:
        """Wait until every task has ended by itself."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Background task failed", extra={"task": task.get_name()}, exc_info=error)


async def run_forever(
    step: Callable[[], Awaitable[None]], *, name: str, retry_after_s: float = 1.0, max_retry_after_s: float = 30.0
) -> None:
    """Run ``step`` again and again; a failing step is logged and tried again after a growing pause.

    Args:
        step: One round of work; returns when the next may begin at once.
        name: For the log.
        retry_after_s: First pause after a failure, in seconds; doubles with each failure in a row.
        max_retry_after_s: Longest pause, in seconds.
    """
    pause_s = retry_after_s
    while True:
        try:
            await step()
            pause_s = retry_after_s
        except Exception:
            logger.exception("Step failed, trying again", extra={"step": name, "retry_after_s": pause_s})
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, max_retry_after_s)
