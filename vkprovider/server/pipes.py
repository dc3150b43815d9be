"""In-process ends for what a client sends: bytes with back-pressure, and terminal sizes."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator

from vkprovider.provider.streams import ByteReader, TerminalSize

PIPE_BYTES = 256 * 1024
MAX_RESIZE_BYTES = 16 * 1024


class Pipe(ByteReader):
    """Bytes fed on one side and read on the other; the feeder waits while enough lies in between."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._failure: str | None = None
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the feeder would wait."""
        return self._size >= PIPE_BYTES and not self._ended and self._failure is None

    def feed(self, data: bytes) -> None:
        """Add bytes, which are dropped after the end; wait for ``room`` before adding more."""
        if self._ended or self._failure is not None or not data:
            return
        self._chunks.append(data)
        self._size += len(data)
        self._changed.set()

    async def room(self) -> None:
        """Wait until there is room for more, or none is needed."""
        while self.is_full:
            self._changed.clear()
            await self._changed.wait()

    def feed_eof(self) -> None:
        """No more bytes follow. Safe to repeat."""
        self._ended = True
        self._changed.set()

    def fail(self, why: str) -> None:
        """The feeder is gone: the reader gets a ConnectionError once it has read what there is. Safe to repeat."""
        if not self._ended:
            self._failure = self._failure or why
        self._changed.set()

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Next bytes; empty at the end.

        Raises:
            ConnectionError: The feeder is gone.
        """
        while not self._chunks:
            if self._ended:
                return b""
            if self._failure is not None:
                raise ConnectionResetError(self._failure)
            self._changed.clear()
            await self._changed.wait()
        data = self._chunks.popleft()
        if len(data) > max_bytes:
            self._chunks.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._size -= len(data)
        self._changed.set()
        return data


class TerminalSizes(AsyncIterator[TerminalSize]):
    """Sizes of a client's terminal from a stream of JSON objects; of several unseen ones only the newest is given.

    Source: cri-streaming pkg/streaming/remotecommand/httpstream.go, handleResizeEvents.
    """

    def __init__(self) -> None:
        self._text = ""
        self._newest: TerminalSize | None = None
        self._ended = False
        self._changed = asyncio.Event()

    def feed(self, data: bytes) -> None:
        """Take bytes of ``{"Width":80,"Height":24}`` objects, cut anywhere; nonsense ends the sizes."""
        if self._ended:
            return
        self._text = (self._text + data.decode(errors="replace")).lstrip()
        while self._text:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text)
                size = _size_of(value)
            except (ValueError, RecursionError):
                if len(self._text) > MAX_RESIZE_BYTES or not self._text.startswith("{"):
                    self.close()
                return
            if size is None:
                self.close()
                return
            self._text = self._text[end:].lstrip()
            self._newest = size
            self._changed.set()

    def close(self) -> None:
        """No more sizes follow. Safe to repeat."""
        self._ended = True
        self._text = ""
        self._changed.set()

    async def __anext__(self) -> TerminalSize:
        while self._newest is None:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        size, self._newest = self._newest, None
        return size


def _size_of(value: object) -> TerminalSize | None:
    if not isinstance(value, dict):
        return None
    fields = {str(key).lower(): number for key, number in value.items()}
    width, height = fields.get("width", 0), fields.get("height", 0)
    if not all(type(number) is int and 0 <= number <= 0xFFFF for number in (width, height)):
        return None
    return TerminalSize(width, height)
