"""The streams of exec and attach, over SPDY and over WebSockets, and what is said at the end.

A ``CommandSession`` is opened from a request, carries a process's streams, and is finished with a status.

Source: cri-streaming pkg/streaming/remotecommand; kubelet pkg/kubelet/server/server.go.
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from vkprovider.aio.tasks import TaskPool
from vkprovider.provider.streams import ByteReader, ProcessStreams
from vkprovider.server.pipes import Pipe, TerminalSizes
from vkprovider.server.spdy.connection import SpdyConnection, SpdyStream, StreamRefusedError
from vkprovider.server.upgrade import (
    RawConnection,
    UpgradedResponse,
    is_upgrade_request,
    is_websocket_request,
    switch_protocols,
)
from vkprovider.server.websocket import ChannelSocket, ChannelWriter, choose_protocol, open_websocket

logger = logging.getLogger(__name__)

STREAM_CREATION_TIMEOUT_S = 30.0
PROTOCOL_VERSION = "X-Stream-Protocol-Version"
ACCEPTED_PROTOCOLS = "X-Accepted-Stream-Protocol-Versions"
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
WEBSOCKET_PROTOCOLS = (
    "",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v5.channel.k8s.io",
)
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
_WITH_JSON_STATUS = ("v4.", "v5.")
_WITH_RESIZE = ("v4.channel.k8s.io", "v3.channel.k8s.io")


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Which streams a client asks for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> StreamOptions:
        """Read the query of a request.

        Raises:
            web.HTTPBadRequest: It asks for no stream.
        """
        tty = query.get("tty") == "1"
        options = cls(
            stdin=query.get("input") == "1",
            stdout=query.get("output") == "1",
            # A terminal has one output.
            stderr=query.get("error") == "1" and not tty,
            tty=tty,
        )
        if not (options.stdin or options.stdout or options.stderr):
            raise web.HTTPBadRequest(text="you must specify at least 1 of stdin, stdout, stderr")
        return options


@dataclass(frozen=True, slots=True)
class CommandStatus:
    """How a command ended: a ``Status`` object in the form of v4, a plain message before it."""

    fields: Mapping[str, Any]

    @classmethod
    def success(cls) -> CommandStatus:
        """It ended well."""
        return cls({"status": "Success"})

    @classmethod
    def exited(cls, code: int) -> CommandStatus:
        """It ended with this exit code."""
        if code == 0:
            return cls.success()
        return cls(
            {
                "status": "Failure",
                "message": f"command terminated with non-zero exit code: exit status {code}",
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
            }
        )

    @classmethod
    def failed(cls, message: str) -> CommandStatus:
        """It could not be run."""
        return cls(
            {
                "status": "Failure",
                "message": f"Internal error occurred: {message}",
                "reason": "InternalError",
                "code": 500,
            }
        )

    def encode(self, protocol: str) -> bytes:
        """What goes onto the error stream in a version of the protocol; empty for nothing."""
        if protocol.startswith(_WITH_JSON_STATUS):
            return json.dumps(self.fields, separators=(",", ":")).encode()
        return b"" if self.fields["status"] == "Success" else str(self.fields["message"]).encode()


class CommandSession(ABC):
    """The streams of one client."""

    streams: ProcessStreams
    response: web.StreamResponse
    """What the handler returns in the end."""
    ended: asyncio.Event
    """Set when the client has gone."""

    @property
    @abstractmethod
    def last_activity_at(self) -> float:
        """Loop time of the last byte in either direction."""

    @abstractmethod
    async def finish(self, status: CommandStatus) -> None:
        """Say how the command ended, after all its output. A client that has gone is no error."""

    @abstractmethod
    async def aclose(self) -> None:
        """End everything. Safe to repeat."""


async def open_session(request: web.Request, options: StreamOptions) -> CommandSession | None:
    """Answer the upgrade and wait for the client's streams.

    Returns:
        The session, or None when the client was answered but then opened not the streams it asked for.

    Raises:
        web.HTTPException: The upgrade is refused.
    """
    if is_websocket_request(request):
        return await WebSocketSession.open(request, options)
    if not is_upgrade_request(request):
        raise web.HTTPInternalServerError(text="Upgrade request required")
    return await SpdySession.open(request, options)


class SpdySession(CommandSession):
    """Streams over SPDY, one each, which the client opens."""

    def __init__(self, protocol: str, options: StreamOptions) -> None:
        self._protocol = protocol
        self._wanted = {"error"}
        self._wanted |= {name for name in ("stdin", "stdout", "stderr") if getattr(options, name)}
        if options.tty and protocol in _WITH_RESIZE:
            self._wanted.add("resize")
        self._tty = options.tty
        self._opened: dict[str, SpdyStream] = {}
        self._complete = asyncio.Event()
        self._pool = TaskPool("spdy-session")
        self._connection: SpdyConnection
        self.response = UpgradedResponse()

    @classmethod
    async def open(cls, request: web.Request, options: StreamOptions) -> SpdySession | None:
        """Switch to SPDY and wait for the client to open its streams."""
        protocol = negotiate_spdy(request, SPDY_PROTOCOLS)
        session = cls(protocol, options)
        raw = switch_to_spdy(request, protocol)
        session._connection = connection = SpdyConnection(raw, on_stream=session._take)
        session.ended = connection.ended
        raw.start(connection.receive, connection.lose)
        try:
            async with asyncio.timeout(STREAM_CREATION_TIMEOUT_S):
                await _first(session._complete, connection.ended)
        except TimeoutError:
            missing = sorted(session._wanted - session._opened.keys())
            logger.info("Timed out waiting for a client to create its streams", extra={"missing": missing})
        except BaseException:
            raw.abort()
            raise
        if not session._complete.is_set():
            await session.aclose()
            return None
        session._connect()
        return session

    @property
    def last_activity_at(self) -> float:
        """Loop time of the last byte in either direction."""
        return self._connection.last_activity_at

    async def finish(self, status: CommandStatus) -> None:
        """End the outputs, then send the status."""
        error = self._opened["error"]
        with suppress(ConnectionError):
            for name in ("stdout", "stderr"):
                if (stream := self._opened.get(name)) is not None:
                    await stream.write_eof()
            await error.write(status.encode(self._protocol))
            await error.write_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()
        await self._pool.aclose()

    def _take(self, stream: SpdyStream) -> None:
        name = stream.headers.get("streamtype", "")
        if name in self._opened:
            raise StreamRefusedError(f"there is a {name} stream already")
        if name not in self._wanted:
            # Tolerated, as upstream does, but nobody reads it.
            stream.forget()
            return
        self._opened[name] = stream
        if self._opened.keys() == self._wanted:
            self._complete.set()

    def _connect(self) -> None:
        opened = self._opened
        self.streams = ProcessStreams(
            stdin=opened.get("stdin"), stdout=opened.get("stdout"), stderr=opened.get("stderr"), tty=self._tty
        )
        opened["error"].forget()
        for name in ("stdout", "stderr"):
            if name in opened:
                opened[name].forget()
        if "resize" in opened:
            sizes = TerminalSizes()
            self.streams.sizes = sizes
            self._pool.spawn(_feed_sizes(opened["resize"], sizes), name="resize")


class WebSocketSession(CommandSession):
    """Streams over the channels of a WebSocket."""

    def __init__(
        self, protocol: str, options: StreamOptions, request: web.Request, socket: web.WebSocketResponse
    ) -> None:
        self._protocol = protocol
        self._socket = ChannelSocket(request, socket, protocol)
        self._stdin = Pipe() if options.stdin else None
        self._sizes = TerminalSizes()
        self._pool = TaskPool("websocket-session")
        self._outputs = [channel for channel, wanted in ((STDOUT, options.stdout), (STDERR, options.stderr)) if wanted]
        self.response = socket
        self.ended = asyncio.Event()
        self.streams = ProcessStreams(
            stdin=self._stdin,
            stdout=ChannelWriter(self._socket, STDOUT) if options.stdout else None,
            stderr=ChannelWriter(self._socket, STDERR) if options.stderr else None,
            tty=options.tty,
            sizes=self._sizes,
        )

    @classmethod
    async def open(cls, request: web.Request, options: StreamOptions) -> WebSocketSession:
        """Switch to a WebSocket."""
        protocol = choose_protocol(request, WEBSOCKET_PROTOCOLS)
        socket = await open_websocket(request, protocol)
        session = cls(protocol, options, request, socket)
        with suppress(ConnectionError):
            # Tells the client that the command's streams are connected.
            await session._socket.send((*session._outputs, ERROR)[0], b"")
        session._pool.spawn(session._receive(), name="receive")
        return session

    @property
    def last_activity_at(self) -> float:
        """Loop time of the last byte in either direction."""
        return self._socket.last_activity_at

    async def finish(self, status: CommandStatus) -> None:
        """Send the status, if there is something to say."""
        text = status.encode(self._protocol)
        if text:
            with suppress(ConnectionError):
                await self._socket.send(ERROR, text)

    async def aclose(self) -> None:
        """Close the WebSocket."""
        if self._stdin is not None:
            # What the client still sends is of no use; reading on lets its closing be seen.
            self._stdin.feed_eof()
        await self._socket.aclose()
        await self._pool.aclose()

    async def _receive(self) -> None:
        try:
            await self._socket.receive(self._deliver, self._half_close)
        finally:
            if self._stdin is not None:
                self._stdin.fail("the client has gone")
            self._sizes.close()
            self.ended.set()

    def _deliver(self, channel: int, data: bytes) -> Pipe | None:
        if channel == STDIN and self._stdin is not None:
            self._stdin.feed(data)
            return self._stdin
        if channel == RESIZE:
            self._sizes.feed(data)
        return None

    def _half_close(self, channel: int) -> None:
        if channel == STDIN and self._stdin is not None:
            self._stdin.feed_eof()
        elif channel == RESIZE:
            self._sizes.close()


def negotiate_spdy(request: web.Request, supported: Sequence[str]) -> str:
    """First protocol of the client's list that we speak.

    Raises:
        web.HTTPBadRequest: The client names none, or does not ask for SPDY.
        web.HTTPForbidden: We speak none of the client's; a header lists ours.

    Source: streaming pkg/httpstream/httpstream.go, Handshake; spdy/upgrade.go, UpgradeResponse.
    """
    name = PROTOCOL_VERSION
    values = request.headers.getall(name, None)
    if values is None:
        count = len(set(request.headers.keys()))
        raise web.HTTPBadRequest(
            text=f"unable to upgrade: header {name} does not exist in request with {count} headers\n"
        )
    wanted = [entry.strip() for value in values for entry in value.split(",") if entry.strip()]
    if not wanted:
        listed = "[" + " ".join(values) + "]"
        raise web.HTTPBadRequest(text=f"unable to upgrade: header {name} contains {listed}, but no valid protocols\n")
    chosen = next((protocol for protocol in wanted if protocol in supported), None)
    if chosen is None:
        theirs, ours = " ".join(wanted), " ".join(supported)
        error = web.HTTPForbidden(
            text=f"unable to upgrade: unable to negotiate protocol: client supports [{theirs}], server accepts [{ours}]\n"
        )
        for protocol in supported:
            error.headers.add(ACCEPTED_PROTOCOLS, protocol)
        raise error
    if "spdy/3.1" not in request.headers.get("Upgrade", "").lower():
        raise web.HTTPBadRequest(text="unable to upgrade: missing upgrade headers in request\n")
    return chosen


def switch_to_spdy(request: web.Request, protocol: str) -> RawConnection:
    """Answer 101 for SPDY with the protocol chosen, and take the connection."""
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", PROTOCOL_VERSION: protocol}
    return switch_protocols(request, headers)


async def _feed_sizes(stream: ByteReader, sizes: TerminalSizes) -> None:
    try:
        while data := await stream.read():
            sizes.feed(data)
    except ConnectionError:
        pass
    finally:
        sizes.close()


async def _first(*events: asyncio.Event) -> None:
    """Wait until any of the events is set."""
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
