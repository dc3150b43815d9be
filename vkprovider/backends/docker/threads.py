"""A bounded pool of threads that never keeps the process alive.

The standard pool's threads are waited for at the end of the process. A call to an engine that hangs would hold up our exit
until its timeout; these threads are simply left behind then.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work = tuple["Future[Any]", Callable[[], Any]]


class CallThreads(Executor):
    """Runs calls in at most ``size`` daemon threads, which are started as they are needed.

    Args:
        size: How many threads, at least 1.
        name: Beginning of the threads' names.
    """

    def __init__(self, size: int, *, name: str) -> None:
        self._size = size
        self._name = name
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call.

        Raises:
            RuntimeError: The pool has been shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of threads has been shut down")
            self._queue.put((future, lambda: fn(*args, **kwargs)))
            if self._idle > 0:
                self._idle -= 1  # one that waits will take it
            elif self._threads < self._size:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the threads end when they are free. Never waits. Safe to repeat.

        Args:
            wait: Ignored: what runs is left to end by itself.
            cancel_futures: Whether calls that have not begun are cancelled.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting: list[_Work | None] = []
            while cancel_futures:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            for _ in range(self._threads):
                self._queue.put(None)
        for work in waiting:
            if work is not None:
                work[0].cancel()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            future, function = work
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del work, future, function
            with self._lock:
                self._idle += 1 if self._queue.empty() else 0
