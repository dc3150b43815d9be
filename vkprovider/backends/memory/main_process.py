"""What drives the first process of a simulated container, and who watches its output."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from vkprovider.backends.memory.process import FOREVER_S, Process, Read, Run, Sleep, Write

if TYPE_CHECKING:
    from vkprovider.backends.memory.records import ContainerRecord

logger = logging.getLogger(__name__)

MAX_STEPS = 1000
"""Effects that a program may have in a row before others get a turn."""
PAUSE_S = 0.01
"""How long a program that never sleeps is held back then, so that a busy loop does not eat the agent."""
MAX_ATTACH_BYTES = 8 * 1024 * 1024


class Attachment:
    """Output of a container for one client that is attached; a client too slow for it is dropped."""

    def __init__(self) -> None:
        self.chunks: deque[Write] = deque()
        self.size = 0
        self.closed = False
        self.overrun = False
        self.on_overrun: Callable[[], object] = lambda: None
        self._changed = asyncio.Event()

    def put(self, write: Write) -> None:
        """Add output."""
        if self.closed:
            return
        if self.size > MAX_ATTACH_BYTES:
            self.overrun = True
            self.close()
            self.on_overrun()
            return
        self.chunks.append(write)
        self.size += len(write.data)
        self._changed.set()

    def close(self) -> None:
        """No more output follows."""
        self.closed = True
        self._changed.set()

    async def get(self) -> Write | None:
        """Next output; None at the end."""
        while not self.chunks:
            if self.closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        write = self.chunks.popleft()
        self.size -= len(write.data)
        return write


class MainProcess:
    """Drives the program of a container by timers of the loop; owned by its container."""

    __slots__ = ("_container", "_reading", "_run", "_timer", "process")

    def __init__(self, container: ContainerRecord, process: Process, run: Run) -> None:
        self._container = container
        self.process = process
        self._run = run
        self._timer: asyncio.TimerHandle | None = None
        self._reading = 0

    def advance(self, value: bytes | None = None) -> None:
        """Run the program until it has to wait."""
        container = self._container
        for _ in range(MAX_STEPS):
            try:
                effect = self._run.send(value)
            except StopIteration as stop:
                container.exit(int(stop.value or 0))
                return
            except Exception:
                logger.exception(
                    "Simulated program failed", extra={"container": container.id, "argv": self.process.argv}
                )
                container.exit(139)
                return
            value = None
            if isinstance(effect, Write):
                container.output(effect.data, stderr=effect.stderr)
            elif isinstance(effect, Sleep):
                if effect.seconds > 0:
                    if effect.seconds != FOREVER_S:
                        self._timer = asyncio.get_running_loop().call_later(effect.seconds, self.advance)
                    return
            elif isinstance(effect, Read):
                value = container.take_stdin(effect.max_bytes)
                if value is None:
                    self._reading = effect.max_bytes
                    return
            else:
                container.deliver(effect.number)
                if not container.is_running():
                    return
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self.advance, value)

    def input_ready(self) -> None:
        """There is input, or its end, for a program that waits for it."""
        if self._reading:
            value = self._container.take_stdin(self._reading)
            if value is not None:
                self._reading = 0
                self.advance(value)

    def trap(self, number: int) -> None:
        """A signal that the program handles itself has come."""
        handler = self.process.traps[number]
        if handler is None:
            return
        self.stop()
        self._reading = 0
        self._run = handler(self.process)
        self.advance()

    def stop(self) -> None:
        """Drive no further. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._run.close()
        except ValueError:
            # It is this very program that ended the container (it is executing now).
            logger.debug("Program stopped by itself", extra={"container": self._container.id})


def make_ticker(container: ContainerRecord, run_s: float | None) -> Run:
    """The program of a container that writes lines to its log at a steady rate."""
    behaviour = container.behaviour
    started = asyncio.get_running_loop().time()
    number = 0
    while True:
        number += 1
        due_s = number / behaviour.log_lines_per_s
        if run_s is not None and due_s >= run_s:
            yield Sleep(max(0.0, started + run_s - asyncio.get_running_loop().time()))
            return behaviour.get_exit_code(container.config.metadata.attempt)
        yield Sleep(max(0.0, started + due_s - asyncio.get_running_loop().time()))
        line = behaviour.log_line.replace("{n}", str(number)).replace("{container}", container.config.metadata.name)
        yield Write(line.encode() + b"\n")
