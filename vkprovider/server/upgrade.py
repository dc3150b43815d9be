"""Taking a connection over from HTTP after ``101 Switching Protocols``.

aiohttp knows WebSockets only. For SPDY the transport's protocol is exchanged, which asyncio provides for; aiohttp's own
protocol gets ``connection_lost`` at the end, so that its books stay right, and its handler task is ours until then.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

PEER_CHECK_PERIOD_S = 1.0
_CLOSED_EVENTS = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class UpgradedResponse(web.StreamResponse):
    """Stands for an answer that was given by other means; aiohttp sends nothing for it."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing to do."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to do."""


class RawConnection(asyncio.Protocol):
    """The raw bytes of a connection that was HTTP (a ``spdy.connection.ByteTransport``).

    Args:
        transport: The connection.
        http: The protocol that had it before.
    """

    def __init__(self, transport: asyncio.Transport, http: asyncio.Protocol) -> None:
        self._transport = transport
        self._http = http
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self._watch: asyncio.TimerHandle | None = None
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[], None] | None = None

    def start(self, on_data: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        """Begin to deliver.

        Args:
            on_data: Called with bytes as they come.
            on_lost: Called once, when nothing more comes or goes.
        """
        self._on_data, self._on_lost = on_data, on_lost
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            on_lost()

    def data_received(self, data: bytes) -> None:
        """Deliver bytes."""
        if self._on_data is not None:
            self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everybody; aiohttp then cancels the handler unless it has ended."""
        self._lost = True
        self._writable.set()
        self._stop_watching()
        if self._on_lost is not None:
            self._on_lost()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer does not take what we send."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer takes what we send again."""
        self._writable.set()

    @property
    def is_full(self) -> bool:
        """Whether the peer does not take what we send."""
        return not self._writable.is_set()

    def write(self, data: bytes) -> None:
        """Send bytes, buffering them if need be."""
        if not self._lost and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken enough.

        Raises:
            ConnectionError: The connection is gone.
        """
        if self._writable.is_set():
            # Nothing to wait for, but a busy writer must let others have their turn.
            await asyncio.sleep(0)
        else:
            await self._writable.wait()
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError("the connection was lost")

    def pause_reading(self) -> None:
        """Deliver no more bytes for now; that the peer closes is noticed all the same, within a second."""
        if not self._lost and not self._transport.is_closing():
            self._transport.pause_reading()
            self._watch_peer()

    def resume_reading(self) -> None:
        """Deliver bytes again."""
        self._stop_watching()
        if not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def _watch_peer(self) -> None:
        if self._lost or self._transport.is_closing():
            return
        if peer_has_closed(self._transport):
            self._transport.abort()
            return
        self._watch = asyncio.get_running_loop().call_later(PEER_CHECK_PERIOD_S, self._watch_peer)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def close(self) -> None:
        """Send what is buffered, then close."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


def peer_has_closed(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer has closed its side, although there may be bytes of it left that nobody reads."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), _CLOSED_EVENTS)
    return any(events & _CLOSED_EVENTS for _, events in poll.poll(0))


def is_upgrade_request(request: web.Request) -> bool:
    """Whether the request asks to leave HTTP. Source: streaming pkg/httpstream/httpstream.go, IsUpgradeRequest."""
    return any("upgrade" in value.lower() for value in request.headers.getall("Connection", []))


def is_websocket_request(request: web.Request) -> bool:
    """Whether the request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket" and is_upgrade_request(request)


def switch_protocols(request: web.Request, headers: Mapping[str, str]) -> RawConnection:
    """Answer 101 and take the connection.

    The caller must ``start`` it, and return an ``UpgradedResponse`` when done with it.

    Args:
        request: The request.
        headers: Headers of the answer.

    Raises:
        web.HTTPBadRequest: The request has a body, which leaves it unclear where HTTP ends.
        ConnectionError: The client has gone.
    """
    if request.body_exists and not request.content.is_eof():
        raise web.HTTPBadRequest(text="unable to upgrade: the request must not have a body")
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    connection = RawConnection(transport, request.protocol)
    transport.write("\r\n".join(lines).encode())
    return connection
