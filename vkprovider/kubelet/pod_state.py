"""What the engine remembers of a pod between two calls, in memory only; all of it can be found again or done without."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vkprovider.api import v1
from vkprovider.errors import TransientError
from vkprovider.kubelet.container_status import StartFailure
from vkprovider.kubelet.pod_facts import PodFacts

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class PodState:
    """Memory of one pod.

    Attributes:
        uid: UID of the pod.
        facts: Facts of its spec, as last seen.
        failures: Last failed start of a container, by name.
        outcome_unknown: Whether something was done to the pod of which we do not know how it ended.
        abandoned: Whether the caller left while something was being done: no further step is to be begun.
    """

    uid: v1.PodUID
    facts: PodFacts | None = None
    failures: dict[str, StartFailure] = field(default_factory=dict)
    outcome_unknown: bool = False
    abandoned: bool = False
    _in_flight: set[asyncio.Task[Any]] = field(default_factory=set)

    def begin(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[tuple[T | None, Exception | None]]:
        """Begin to do something to the runtime that is not to be abandoned half-way; hand the task to ``finish``."""
        task = asyncio.create_task(_capture(work), name=f"pod-{self.uid}:{name}")
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        # A task that is cancelled before its first step never comes to the work.
        task.add_done_callback(lambda _: work.close())
        return task

    async def finish(self, task: asyncio.Task[tuple[T | None, Exception | None]]) -> T:
        """Outcome of what was begun.

        If the caller is cancelled, it leaves at once; the work goes on and is waited for by ``settle``.

        Raises:
            Exception: Whatever the work raised.
        """
        try:
            outcome, error = await asyncio.shield(task)
        except asyncio.CancelledError:
            self.abandoned = True
            raise
        if error is not None:
            if isinstance(error, TransientError):
                self.outcome_unknown = True
            raise error
        return outcome  # type: ignore[return-value]

    async def settle(self) -> None:
        """Wait until nothing is being done to the pod any more."""
        while self._in_flight:
            await asyncio.wait(set(self._in_flight))
        self.abandoned = False

    def in_flight(self) -> set[asyncio.Task[Any]]:
        """What is being done to the pod now."""
        return set(self._in_flight)


async def _capture(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """The outcome as a value, so that a failure nobody waits for any more is not lost nor loud."""
    try:
        return await work, None
    except Exception as error:
        logger.debug("Step failed", exc_info=error)
        return None, error
