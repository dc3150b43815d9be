"""Byte streams in memory, and the servers that simulated containers run on their ports."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from vkprovider.provider.streams import ByteReader, ByteWriter, DuplexStream

PIPE_LIMIT_BYTES = 64 * 1024


class Pipe(ByteReader, ByteWriter):
    """A bounded pipe between one writer and one reader in the same loop.

    Args:
        limit_bytes: Bytes that may wait for the reader; a writer beyond that waits.
    """

    def __init__(self, limit_bytes: int = PIPE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._eof = False
        self._broken = False
        self._changed = asyncio.Event()

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Next bytes; empty at the end."""
        while not self._chunks:
            if self._broken:
                raise ConnectionResetError("the other side dropped the stream")
            if self._eof:
                return b""
            await self._wait()
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._size -= len(chunk)
        self._changed.set()
        return chunk

    async def write(self, data: bytes) -> None:
        """Hand bytes over; waits while the pipe is full."""
        while self._size >= self._limit_bytes and not self._broken:
            await self._wait()
        if self._broken or self._eof:
            raise ConnectionResetError("the other side dropped the stream" if self._broken else "the stream has ended")
        if data:
            self._chunks.append(bytes(data))
            self._size += len(data)
            self._changed.set()

    async def write_eof(self) -> None:
        """No more bytes follow."""
        self._eof = True
        self._changed.set()

    def abort(self) -> None:
        """Break the pipe for both sides. Safe to repeat."""
        self._broken = True
        self._chunks.clear()
        self._size = 0
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class MemoryStream(DuplexStream):
    """One end of a connection in memory; make both with ``make_connection``."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Next bytes from the other end; empty at the end."""
        return await self._incoming.read(max_bytes)

    async def write(self, data: bytes) -> None:
        """Send bytes to the other end."""
        await self._outgoing.write(data)

    async def write_eof(self) -> None:
        """No more bytes follow in this direction."""
        await self._outgoing.write_eof()

    async def aclose(self) -> None:
        """Drop both directions; the other end still reads what was sent before. Safe to repeat."""
        if not self._closed:
            self._closed = True
            await self._outgoing.write_eof()
            self._incoming.abort()


def make_connection() -> tuple[MemoryStream, MemoryStream]:
    """Both ends of a connection."""
    there, back = Pipe(), Pipe()
    return MemoryStream(back, there), MemoryStream(there, back)


Listener = Callable[[DuplexStream], Awaitable[None]]
"""Serves one connection to a simulated port; the connection is closed when it returns."""


async def serve_echo(stream: DuplexStream) -> None:
    """Send back whatever comes."""
    while data := await stream.read():
        await stream.write(data)
    await stream.write_eof()


def make_http_listener(greeting: str) -> Listener:
    """A listener that answers every HTTP/1.1 request on a connection with 200 and this text."""
    body = greeting.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"

    async def serve(stream: DuplexStream) -> None:
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                if len(pending) > 64 * 1024:
                    return
                data = await stream.read()
                if not data:
                    return
                pending += data
            request, _, pending = pending.partition(b"\r\n\r\n")
            lines = request.decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            length = headers.get("content-length", "0")
            missing = (int(length) if length.isdigit() else 0) - len(pending)
            while missing > 0:  # the request's body is of no interest
                data = await stream.read()
                if not data:
                    return
                missing -= len(data)
            pending = pending[int(length) :] if length.isdigit() and missing == 0 else b""
            close = headers.get("connection", "").lower() == "close" or lines[0].endswith("HTTP/1.0")
            answer = head + ("Connection: close\r\n\r\n" if close else "\r\n")
            await stream.write(answer.encode() + (b"" if lines[0].startswith("HEAD ") else body))
            if close:
                return

    return serve


class LineDiscipline:
    """What a terminal does between a person and a program: echo, line editing, end of input on Ctrl-D."""

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes, bool, bool]:
        """Take keys; returns what to show, what the program gets, whether input ended (Ctrl-D) and was interrupted (Ctrl-C)."""
        shown, lines = bytearray(), b""
        for value in data:
            key = bytes((value,))
            if key in b"\r\n":
                shown += b"\r\n"
                lines, self._line = lines + self._line + b"\n", b""
            elif key in b"\x7f\x08":
                if self._line:
                    self._line = self._line[:-1]
                    shown += b"\b \b"
            elif key == b"\x04":
                if not self._line:
                    return bytes(shown), lines, True, False
                lines, self._line = lines + self._line, b""
            elif key == b"\x03":
                self._line = b""
                return bytes(shown) + b"^C\r\n", lines, False, True
            else:
                self._line += key
                shown += key
        return bytes(shown), lines, False, False
