"""WebSockets as the kubelet uses them: several channels over one, told apart by a first byte; and a plain byte tunnel.

Source: streaming pkg/httpstream/wsstream/conn.go; apiserver pkg/util/proxy/streamtunnel.go.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import deque
from collections.abc import Callable, Sequence

from aiohttp import WSMsgType, web

from vkprovider.provider.streams import ByteWriter
from vkprovider.server.pipes import Pipe
from vkprovider.server.upgrade import PEER_CHECK_PERIOD_S, peer_has_closed

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_SEND_BYTES = 64 * 1024
TUNNEL_BUFFER_BYTES = 256 * 1024
CLOSE_TIMEOUT_S = 5.0
CLOSE_SIGNAL = 255
CHANNEL = "channel.k8s.io"
BASE64_CHANNEL = "base64.channel.k8s.io"


def choose_protocol(request: web.Request, supported: Sequence[str]) -> str:
    """First protocol of the client's list that we speak; empty when the client names none and we speak none such.

    Args:
        request: The request.
        supported: What we speak; an empty name stands for a client that names none.

    Raises:
        web.HTTPForbidden: We speak none of the client's.
    """
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
    wanted = [name.strip() for name in header.split(",") if name.strip()] or [""]
    for name in wanted:
        if name in supported:
            return name
    raise web.HTTPForbidden(
        text=f"unable to upgrade: requested protocol(s) are not supported: {wanted}; supports {list(supported)}"
    )


async def open_websocket(request: web.Request, protocol: str) -> web.WebSocketResponse:
    """Answer a WebSocket request.

    Raises:
        web.HTTPBadRequest: The request is no proper one.
    """
    socket = web.WebSocketResponse(
        protocols=(protocol,) if protocol else (),
        compress=False,
        max_msg_size=MAX_MESSAGE_BYTES,
        timeout=CLOSE_TIMEOUT_S,
    )
    await socket.prepare(request)
    return socket


class ChannelSocket:
    """Channels over a WebSocket.

    Args:
        request: The request.
        socket: The open WebSocket.
        protocol: The sub-protocol chosen; it decides on base64 and on close signals.
    """

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, protocol: str) -> None:
        self._request = request
        self._socket = socket
        self._base64 = protocol.endswith(BASE64_CHANNEL)
        self._close_signals = protocol.startswith("v5.")
        self.last_activity_at = asyncio.get_running_loop().time()

    async def send(self, channel: int, data: bytes) -> None:
        """Send bytes on a channel; waits while the client does not take them.

        Raises:
            ConnectionError: The client is gone.
        """
        for start in range(0, len(data), MAX_SEND_BYTES) or (0,):
            piece = data[start : start + MAX_SEND_BYTES]
            if self._base64:
                await self._socket.send_str(f"{channel}{base64.b64encode(piece).decode()}")
            else:
                await self._socket.send_bytes(bytes((channel,)) + piece)
            self.last_activity_at = asyncio.get_running_loop().time()

    async def receive(self, deliver: Callable[[int, bytes], Pipe | None], half_close: Callable[[int], None]) -> None:
        """Read until the client closes or breaks the protocol; anything may be delivered on any channel.

        Args:
            deliver: Takes bytes of a channel, and names the pipe they went into; nothing more is read until that has room.
            half_close: Told that the client will send no more on a channel.
        """
        async for message in self._socket:
            self.last_activity_at = asyncio.get_running_loop().time()
            if message.type is WSMsgType.BINARY:
                data: bytes = message.data
            elif message.type is WSMsgType.TEXT:
                data = message.data.encode()
            else:
                logger.info("A WebSocket failed", extra={"error": str(self._socket.exception())})
                return
            if not data:
                continue
            channel, data = data[0], data[1:]
            if self._close_signals and channel == CLOSE_SIGNAL:
                if len(data) != 1:
                    logger.info("A WebSocket client sent a malformed close signal")
                    return
                half_close(data[0])
                continue
            if self._base64:
                channel -= ord("0")
                try:
                    data = base64.b64decode(data, validate=True)
                except binascii.Error:
                    logger.info("A WebSocket client sent what is not base64", extra={"channel": channel})
                    continue
            pipe = deliver(channel, data)
            if pipe is not None and pipe.is_full and not await self._wait_for_room(pipe):
                return

    async def aclose(self) -> None:
        """Close, waiting a little for the client to agree. Safe to repeat."""
        await self._socket.close()

    async def _wait_for_room(self, pipe: Pipe) -> bool:
        """Wait for a pipe to empty; as nothing is read meanwhile, the client's leaving must be looked for."""
        while pipe.is_full:
            try:
                async with asyncio.timeout(PEER_CHECK_PERIOD_S):
                    await pipe.room()
            except TimeoutError:
                transport = self._request.transport
                if transport is None or peer_has_closed(transport):
                    if transport is not None:
                        transport.abort()
                    return False
        return True


class ChannelWriter(ByteWriter):
    """One channel of a WebSocket to write to.

    Args:
        socket: The WebSocket.
        channel: Number of the channel.
    """

    def __init__(self, socket: ChannelSocket, channel: int) -> None:
        self._socket = socket
        self._channel = channel

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        if data:
            await self._socket.send(self._channel, data)

    async def write_eof(self) -> None:
        """Nothing: the end of a channel towards the client is the end of the WebSocket."""


class WebSocketTunnel:
    """A byte stream in the binary messages of a WebSocket (a ``spdy.connection.ByteTransport``).

    Args:
        request: The request.
        socket: The open WebSocket.
    """

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._request = request
        self._socket = socket
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._sending = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._readable = asyncio.Event()
        self._readable.set()
        self._closing = False
        self._lost = False

    async def run(self, on_data: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        """Carry bytes both ways until either side closes.

        Args:
            on_data: Called with bytes as they come.
            on_lost: Called once, when nothing more comes or goes.
        """
        try:
            async with asyncio.TaskGroup() as group:
                receiver = group.create_task(self._receive(on_data), name="tunnel:receive")
                sender = group.create_task(self._send(), name="tunnel:send")
                await asyncio.wait({receiver, sender}, return_when=asyncio.FIRST_COMPLETED)
                receiver.cancel()
                if receiver.done() or self._lost:
                    sender.cancel()
        finally:
            self._lost = True
            self._drained.set()
            on_lost()
        await self._socket.close()

    def write(self, data: bytes) -> None:
        """Send bytes, buffering them if need be."""
        if not self._lost and not self._closing:
            self._outbox.append(data)
            self._outbox_bytes += len(data)
            self._sending.set()
            if self._outbox_bytes > TUNNEL_BUFFER_BYTES:
                self._drained.clear()

    @property
    def is_full(self) -> bool:
        """Whether the peer does not take what we send."""
        return not self._drained.is_set()

    async def drain(self) -> None:
        """Wait until the peer has taken enough.

        Raises:
            ConnectionError: The connection is gone.
        """
        await self._drained.wait()
        if self._lost or self._closing:
            raise ConnectionResetError("the connection was lost")

    def pause_reading(self) -> None:
        """Deliver no more bytes for now."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Deliver bytes again."""
        self._readable.set()

    def close(self) -> None:
        """Send what is buffered, then close."""
        self._closing = True
        self._readable.set()
        self._sending.set()

    def abort(self) -> None:
        """Close at once."""
        self._lost = True
        self._outbox.clear()
        self.close()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _receive(self, on_data: Callable[[bytes], None]) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY:
                logger.info("A tunnelling client sent what is not binary", extra={"type": message.type.name})
                return
            on_data(message.data)
            while not self._readable.is_set():
                try:
                    async with asyncio.timeout(PEER_CHECK_PERIOD_S):
                        await self._readable.wait()
                except TimeoutError:
                    transport = self._request.transport
                    if transport is None or peer_has_closed(transport):
                        return

    async def _send(self) -> None:
        try:
            while True:
                while self._outbox:
                    data = b"".join(self._outbox) if len(self._outbox) > 1 else self._outbox[0]
                    self._outbox.clear()
                    self._outbox_bytes = 0
                    await self._socket.send_bytes(data)
                    if not self._outbox_bytes > TUNNEL_BUFFER_BYTES:
                        self._drained.set()
                if self._closing:
                    return
                self._sending.clear()
                await self._sending.wait()
        except ConnectionError:
            return
