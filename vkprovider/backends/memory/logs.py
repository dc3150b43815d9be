"""The log of one simulated container: whole lines with their time, kept up to a size."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from vkprovider.api.timestamps import format_nano_time
from vkprovider.provider.capabilities import LogOptions

CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 16 * 1024
"""A longer line is broken, as real runtimes do."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, or piece of a line, as the container wrote it."""

    at: datetime
    stderr: bool
    data: bytes
    begins_line: bool = True


class ContainerLog:
    """Lines of a log; the oldest are dropped when it grows too big, as rotation does.

    Args:
        max_bytes: Size up to which lines are kept.
    """

    __slots__ = ("_bytes", "_dropped", "_lines", "_max_bytes", "_partial", "_waiters", "closed")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lines: deque[LogLine] = deque()
        self._dropped = 0
        self._bytes = 0
        self._partial: dict[
            bool, tuple[bytes, bool]
        ] = {}  # by stream: text without its end, and whether it begins a line
        self._waiters: list[asyncio.Future[None]] = []
        self.closed = False

    @property
    def size_bytes(self) -> int:
        """Bytes kept."""
        return self._bytes

    def write(self, at: datetime, data: bytes, *, stderr: bool = False) -> None:
        """Add what a process wrote; an unfinished line waits for its end."""
        pending, begins = self._partial.pop(stderr, (b"", True))
        for piece in _split(pending + data):
            while len(piece) > MAX_LINE_BYTES:
                self._append(LogLine(at, stderr, piece[:MAX_LINE_BYTES], begins))
                piece, begins = piece[MAX_LINE_BYTES:], False
            if piece.endswith(b"\n"):
                self._append(LogLine(at, stderr, piece, begins))
                begins = True
            elif piece:
                self._partial[stderr] = (piece, begins)
        self._wake()

    def close(self, at: datetime) -> None:
        """The container has stopped: flush unfinished lines and end the followers."""
        for stderr, (piece, begins) in sorted(self._partial.items()):
            self._append(LogLine(at, stderr, piece, begins))
        self._partial.clear()
        self.closed = True
        self._wake()

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        """Chunks of the log, formatted as the options say; following ends once the log is closed and read."""
        position = self._first_position(options.tail_lines)
        budget = options.limit_bytes
        while True:
            chunk = bytearray()
            position = max(position, self._dropped)
            while position < self._dropped + len(self._lines) and len(chunk) < CHUNK_BYTES:
                line = self._lines[position - self._dropped]
                position += 1
                if (options.stderr if line.stderr else options.stdout) and (
                    options.since is None or line.at >= options.since
                ):
                    if options.timestamps and line.begins_line:
                        chunk += format_nano_time(line.at).encode() + b" "
                    chunk += line.data
            if budget is not None:
                del chunk[budget:]
                budget -= len(chunk)
            if chunk:
                yield bytes(chunk)
            if budget == 0:
                return
            if position < self._dropped + len(self._lines):
                continue
            if not options.follow or self.closed:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:  # cancelled: the list was not emptied by a write
                    self._waiters.remove(waiter)

    def _first_position(self, tail_lines: int | None) -> int:
        end = self._dropped + len(self._lines)
        if tail_lines is None:
            return self._dropped
        position = end
        while tail_lines > 0 and position > self._dropped:
            position -= 1
            tail_lines -= self._lines[position - self._dropped].begins_line
        return position

    def _append(self, line: LogLine) -> None:
        self._lines.append(line)
        self._bytes += len(line.data)
        while self._bytes > self._max_bytes and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft().data)
            self._dropped += 1

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _split(data: bytes) -> list[bytes]:
    """Lines of data, ended by new lines alone (``splitlines`` also breaks at a carriage return)."""
    pieces = data.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + [pieces[-1]]
