"""Port-forward: pairs of SPDY streams, or pairs of WebSocket channels, each joined to a port of the pod.

Source: cri-streaming pkg/streaming/portforward/httpstream.go and websocket.go.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import web

from vkprovider.aio.tasks import TaskPool, cancel_and_wait
from vkprovider.errors import VkproviderError
from vkprovider.provider.streams import ByteReader, ByteWriter, DuplexStream
from vkprovider.server.idle import wait_while_active
from vkprovider.server.pipes import Pipe
from vkprovider.server.spdy.connection import ByteTransport, SpdyConnection, SpdyStream, StreamRefusedError
from vkprovider.server.websocket import ChannelSocket, ChannelWriter

logger = logging.getLogger(__name__)

SPDY_PROTOCOLS = ("portforward.k8s.io",)
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
WEBSOCKET_PROTOCOLS = ("", "v4.channel.k8s.io", "v4.base64.channel.k8s.io")
STREAM_CREATION_TIMEOUT_S = 30.0
COPY_BYTES = 64 * 1024

Connect = Callable[[int], Awaitable[DuplexStream]]
"""Connects to a port of the pod."""


@dataclass(frozen=True, slots=True)
class Target:
    """The pod that is forwarded to: how to connect, and how to name it in errors."""

    connect: Connect
    pod_name: str
    pod_uid: str

    def explain(self, port: int, error: Exception) -> str:
        """What the client is told when forwarding fails."""
        why = str(error) or type(error).__name__
        return f"error forwarding port {port} to pod {self.pod_name}, uid {self.pod_uid}: {why}"


@dataclass(slots=True)
class _Pair:
    port: int
    streams: dict[str, SpdyStream] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class SpdyPortForward:
    """Serves one SPDY connection on which a client opens a pair of streams for each of its connections.

    Args:
        transport: Carries the bytes.
        target: The pod.
    """

    def __init__(self, transport: ByteTransport, target: Target) -> None:
        self.connection = SpdyConnection(transport, on_stream=self._take)
        self._target = target
        self._pairs: dict[str, _Pair] = {}
        self._pool = TaskPool("port-forward")

    async def aclose(self) -> None:
        """End all that is forwarded and close the connection. Safe to repeat."""
        await self._pool.aclose()
        await self.connection.aclose()

    def _take(self, stream: SpdyStream) -> None:
        port = parse_port(stream.headers.get("port", ""))
        kind = stream.headers.get("streamtype", "")
        if port is None or kind not in ("error", "data"):
            raise StreamRefusedError(f"port or streamType of a stream is missing or wrong: {dict(stream.headers)}")
        request_id = stream.headers.get("requestid") or str(stream.stream_id - (2 if kind == "data" else 0))
        pair = self._pairs.get(request_id)
        if pair is None:
            pair = self._pairs[request_id] = _Pair(port)
            self._pool.spawn(self._serve(request_id, pair), name=f"pair {request_id}")
        if kind in pair.streams:
            raise StreamRefusedError(f"request {request_id} has a {kind} stream already")
        pair.streams[kind] = stream
        if kind == "data":
            pair.port = port
        if len(pair.streams) == 2:
            pair.complete.set()

    async def _serve(self, request_id: str, pair: _Pair) -> None:
        try:
            async with asyncio.timeout(STREAM_CREATION_TIMEOUT_S):
                await pair.complete.wait()
        except TimeoutError:
            logger.info("Timed out waiting for both streams of a forwarded connection", extra={"request": request_id})
            if (stream := pair.streams.get("error")) is not None:
                with suppress(ConnectionError):
                    await stream.write(f"(request={request_id}) timed out waiting for streams".encode())
                    await stream.write_eof()
            for stream in pair.streams.values():
                stream.reset()
            return
        finally:
            del self._pairs[request_id]
        data, error = pair.streams["data"], pair.streams["error"]
        error.forget()  # Clients only read it.
        try:
            await forward(self._target, pair.port, data, data)
        except (OSError, VkproviderError) as problem:
            logger.info("Forwarding a port failed", extra={"port": pair.port, "error": str(problem)})
            with suppress(ConnectionError):
                await error.write(self._target.explain(pair.port, problem).encode())
            data.reset()
            error.reset()
        else:
            await data.write_eof()
            await error.write_eof()
        finally:
            data.forget()
            error.forget()


async def forward_websocket(
    request: web.Request,
    socket: web.WebSocketResponse,
    protocol: str,
    ports: Sequence[int],
    target: Target,
    *,
    idle_timeout_s: float,
) -> None:
    """Serve a WebSocket with two channels a port, data and error, until all its connections or the client end.

    Args:
        request: The request.
        socket: The open WebSocket.
        protocol: The sub-protocol chosen.
        ports: Ports of the pod, in the order of their channels.
        target: The pod.
        idle_timeout_s: Seconds after which a WebSocket on which nothing moves is closed; 0 for never.
    """
    channels = ChannelSocket(request, socket, protocol)
    pipes = [Pipe() for _ in ports]

    def deliver(channel: int, data: bytes) -> Pipe | None:
        if channel % 2 or not 0 <= channel // 2 < len(pipes):
            return None
        pipes[channel // 2].feed(data)
        return pipes[channel // 2]

    async def receive() -> None:
        try:
            await channels.receive(deliver, lambda channel: None)
        finally:
            for pipe in pipes:
                pipe.fail("the client has gone")

    async def serve(index: int, port: int) -> None:
        with suppress(ConnectionError):
            for channel in (2 * index, 2 * index + 1):
                await channels.send(channel, struct.pack("<H", port))
            try:
                await forward(target, port, pipes[index], ChannelWriter(channels, 2 * index))
            except (OSError, VkproviderError) as problem:
                await channels.send(2 * index + 1, target.explain(port, problem).encode())
        pipes[index].feed_eof()

    async def serve_all() -> None:
        async with asyncio.TaskGroup() as group:
            for index, port in enumerate(ports):
                group.create_task(serve(index, port), name=f"port-forward:{port}")

    pool = TaskPool("port-forward")
    try:
        tasks = {pool.spawn(receive(), name="receive"), pool.spawn(serve_all(), name="serve")}
        await wait_while_active(tasks, lambda: channels.last_activity_at, idle_timeout_s=idle_timeout_s)
    finally:
        await pool.aclose()
        await channels.aclose()


async def forward(target: Target, port: int, source: ByteReader, sink: ByteWriter) -> None:
    """Join a client's connection to a port of the pod until the pod closes it, or the client breaks off.

    A client that sends no more is passed on as such; what the pod still sends goes through. A pod that takes no more may
    still send; what the client sends on is thrown away then, so that it holds up nobody else.

    Args:
        target: The pod.
        port: Its port.
        source: What the client sends.
        sink: Where the pod's bytes go.

    Raises:
        VkproviderError: The pod cannot be reached.
        OSError: Nothing listens there, or the connection broke.
    """
    remote = await target.connect(port)
    try:
        upload = asyncio.create_task(_upload(source, remote), name="port-forward:upload")
        download = asyncio.create_task(_download(remote, sink), name="port-forward:download")
        try:
            done, _ = await asyncio.wait({upload, download}, return_when=asyncio.FIRST_COMPLETED)
            if download in done or upload.result():
                await download
        finally:
            await cancel_and_wait([task for task in (upload, download) if not task.done()])
    finally:
        await remote.aclose()


async def _upload(source: ByteReader, remote: ByteWriter) -> bool:
    """Copy until the client has sent its last; False if it broke off."""
    takes_more = True
    while True:
        try:
            data = await source.read(COPY_BYTES)
        except ConnectionError:
            return False
        try:
            if data and takes_more:
                await remote.write(data)
            elif not data:
                await remote.write_eof()
        except ConnectionError:
            takes_more = False
        if not data:
            return True


async def _download(remote: ByteReader, sink: ByteWriter) -> None:
    while data := await remote.read(COPY_BYTES):
        await sink.write(data)


def parse_port(text: str) -> int | None:
    """Number of a port, or None if the text is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535 else None


def parse_ports(values: Sequence[str]) -> list[int]:
    """Ports of a WebSocket request's query: repeated, or listed with commas.

    Raises:
        web.HTTPBadRequest: There is none, or one is wrong.

    Source: cri-streaming pkg/streaming/portforward/websocket.go, NewV4Options.
    """
    if not values:
        raise web.HTTPBadRequest(text='query parameter "port" is required')
    ports: list[int] = []
    for value in values:
        if not value:
            raise web.HTTPBadRequest(text='query parameter "port" cannot be empty')
        for text in value.split(","):
            port = parse_port(text)
            if port is None:
                raise web.HTTPBadRequest(text=f'unable to parse "{value}" as a port: it must be from 1 to 65535')
            ports.append(port)
    if len(ports) > 100:
        raise web.HTTPBadRequest(text="too many ports: a WebSocket has room for 100")
    return ports
