"""Raw byte relay between a client's connection and another one, after an upgrade was agreed."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.localcluster import status

CHUNK_BYTES: Final = 64 * 1024
CLOSE_S: Final = 5.0


class _Intake:
    """Takes what a client sends after the upgrade, in place of aiohttp's own parser."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass data on; never the end of the connection."""
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """The client closed its connection."""
        self._reader.feed_eof()


class RelayedResponse(web.StreamResponse):
    """Stands for an answer that was written to the connection directly; nothing more is sent."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send nothing."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


async def take_over(
    request: web.BaseRequest, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> web.StreamResponse:
    """Send ``head`` to the client and then pass bytes both ways until one side closes.

    Args:
        request: The client's request, not yet answered.
        head: The other side's answer up to its empty line.
        reader: What the other side sends.
        writer: To the other side; left open for the caller to close.

    Returns:
        A response that sends nothing, for the handler to return.

    Raises:
        APIStatusError: 500, the client has gone.
    """
    transport = request.transport
    if transport is None:
        raise status.internal_error("the client has closed its connection")
    from_client = asyncio.StreamReader(limit=CHUNK_BYTES)
    # The reader pauses the client's connection when more than twice its limit is waiting.
    from_client.set_transport(transport)
    protocol: Any = request.protocol
    protocol.keep_alive(False)
    protocol.set_parser(_Intake(from_client))
    transport.write(head)
    tasks = [
        asyncio.create_task(_to_other(from_client, writer), name="relay-to-kubelet"),
        asyncio.create_task(_to_client(reader, transport, protocol), name="relay-to-client"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1].done() and not tasks[0].done():
            transport.close()
        elif not tasks[1].done():
            # The client is done sending; let the last words of the other side through.
            await asyncio.wait({tasks[1]}, timeout=CLOSE_S)
    finally:
        await cancel_and_wait(tasks)
        transport.close()
    return RelayedResponse()


async def _to_other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        return


async def _to_client(reader: asyncio.StreamReader, transport: asyncio.Transport, protocol: Any) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            if transport.is_closing():
                return
            transport.write(data)
            # aiohttp's protocol knows when the transport's buffer is full.
            await protocol._drain_helper()
    except ConnectionError:
        return
