"""Streams over one SPDY/3.1 connection.

Bytes come in by ``SpdyConnection.receive`` and go out through a ``ByteTransport``, so that the same code serves a raw TLS
connection and a WebSocket tunnel.

Back-pressure: the peers that exist (client-go, kubectl and the API server, all on moby/spdystream) neither keep to windows
nor send updates; they push back through TCP. So a slow reader of ours pauses reading the whole connection once enough is
buffered. Windows are accounted for all the same: we send updates as data is consumed, and keep to the peer's from the
moment it sends SETTINGS or an update of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from vkprovider.provider.streams import DuplexStream
from vkprovider.server.spdy.frames import (
    DEFAULT_WINDOW_BYTES,
    MAX_STREAM_ID,
    SETTING_INITIAL_WINDOW,
    Data,
    Frame,
    FrameDecoder,
    FrameEncoder,
    GoAway,
    GoAwayStatus,
    Headers,
    HeadersFrame,
    Ping,
    ResetStatus,
    RstStream,
    Settings,
    SpdyError,
    SynReply,
    SynStream,
    WindowUpdate,
    encode_data,
)

logger = logging.getLogger(__name__)

MAX_DATA_BYTES: Final = 64 * 1024
"""Longest data frame we send."""
MAX_STREAMS: Final = 2048
"""Streams a peer may have open at once; more are refused."""
MAX_UNSENT_REPLIES_BYTES: Final = 256 * 1024
"""Answers (pings, resets) a peer may cause without reading them; then it is dropped."""
HIGH_WATER_BYTES: Final = 2 * 1024 * 1024
LOW_WATER_BYTES: Final = 512 * 1024
WINDOW_STEP_BYTES: Final = DEFAULT_WINDOW_BYTES // 2
LINGER_S: Final = 5.0


class ByteTransport(Protocol):
    """What carries the bytes of a connection."""

    def write(self, data: bytes) -> None:
        """Send bytes, buffering them if need be; never fails."""
        ...

    async def drain(self) -> None:
        """Wait until the peer has taken enough.

        Raises:
            ConnectionError: The connection is gone.
        """
        ...

    @property
    def is_full(self) -> bool:
        """Whether ``drain`` would wait."""
        ...

    def pause_reading(self) -> None:
        """Deliver no more bytes for now."""
        ...

    def resume_reading(self) -> None:
        """Deliver bytes again."""
        ...

    def close(self) -> None:
        """Send what is buffered, then close."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class StreamRefusedError(Exception):
    """Raised by the handler of new streams: the stream is reset; the message goes into the log."""


class SpdyStream(DuplexStream):
    """One stream of a connection. One reader and one writer at a time."""

    def __init__(self, connection: SpdyConnection, stream_id: int, headers: Headers, *, remote_closed: bool) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.headers = headers
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._remote_closed = remote_closed
        self._local_closed = False
        self._failure: str | None = None
        self._wakeup: asyncio.Event = asyncio.Event()
        self._window = connection.initial_window_bytes
        self._window_wakeup: asyncio.Event = asyncio.Event()
        self._unreported_bytes = 0

    def __repr__(self) -> str:
        return f"<SpdyStream {self.stream_id} {dict(self.headers)}>"

    @property
    def is_open(self) -> bool:
        """Whether any direction is still open."""
        return self._failure is None and not (self._local_closed and self._remote_closed)

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Next bytes; empty once the peer has sent its last.

        Raises:
            ConnectionError: The stream was reset or the connection lost.
        """
        while not self._inbox:
            if self._remote_closed:
                return b""
            if self._failure is not None:
                raise ConnectionResetError(self._failure)
            self._wakeup.clear()
            await self._wakeup.wait()
        data = self._inbox.popleft()
        if len(data) > max_bytes:
            self._inbox.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._inbox_bytes -= len(data)
        self._report_consumed(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the peer does not take them.

        Raises:
            ConnectionError: The stream was reset or closed, or the connection lost.
        """
        for start in range(0, len(data), MAX_DATA_BYTES):
            piece = data[start : start + MAX_DATA_BYTES] if len(data) > MAX_DATA_BYTES else data
            while piece:
                self._check_writable()
                allowed = self._connection.allowed_bytes(self)
                if allowed <= 0:
                    await self._connection.wait_for_window(self)
                    continue
                self._connection.send_data(self, piece[:allowed])
                piece = piece[allowed:]
                await self._connection.drain()
        # An answer to a closed peer must fail even if there is nothing to send.
        self._check_writable()

    async def write_eof(self) -> None:
        """Say that no more bytes follow. Safe to repeat."""
        if not self._local_closed and self._failure is None:
            self._local_closed = True
            self._connection.send_data(self, b"", fin=True)
            self._connection.settle(self)

    def reset(self, status: ResetStatus = ResetStatus.CANCEL) -> None:
        """End the stream in both directions at once; what was not read is lost. Safe to repeat.

        The peer is not told when our side has ended already, as in moby/spdystream: it may still be reading.
        """
        if self.is_open and not self._local_closed:
            self._connection.send(RstStream(self.stream_id, status))
        self._remote_closed = False
        self.fail("the stream was reset")

    def forget(self) -> None:
        """Take no more notice of the peer on a stream that is finished on our side. Safe to repeat."""
        self._drop_inbox()
        self._remote_closed = True
        self._wakeup.set()
        self._connection.settle(self)

    async def aclose(self) -> None:
        """Reset the stream unless it has ended. Safe to repeat."""
        self.reset()

    def feed(self, data: bytes, *, fin: bool) -> None:
        """Take bytes of the peer (called by the connection)."""
        if self._remote_closed or self._failure is not None:
            return
        if data:
            self._inbox.append(data)
            self._inbox_bytes += len(data)
            self._connection.account(len(data))
        if fin:
            self._remote_closed = True
            self._connection.settle(self)
        self._wakeup.set()

    def fail(self, why: str) -> None:
        """End the stream in both directions without telling the peer (called by the connection).

        What the peer sent in full may still be read.
        """
        if self._failure is None:
            self._failure = why
            if not self._remote_closed:
                self._drop_inbox()
            self._wakeup.set()
            self._window_wakeup.set()
            self._connection.settle(self)

    def grow_window(self, delta_bytes: int) -> None:
        """Let more bytes be sent (called by the connection)."""
        self._window += delta_bytes
        self._window_wakeup.set()

    def shrink_window(self, sent_bytes: int) -> int:
        """Account for bytes sent (called by the connection) and return what is left."""
        self._window -= sent_bytes
        return self._window

    async def window_opens(self) -> None:
        """Wait for the next change of the window."""
        self._window_wakeup.clear()
        await self._window_wakeup.wait()

    def _report_consumed(self, count: int) -> None:
        self._connection.account(-count)
        self._unreported_bytes += count
        if self._unreported_bytes >= WINDOW_STEP_BYTES:
            if not self._remote_closed and self._failure is None:
                self._connection.send(WindowUpdate(self.stream_id, self._unreported_bytes))
            self._unreported_bytes = 0

    def _drop_inbox(self) -> None:
        self._inbox.clear()
        dropped, self._inbox_bytes = self._inbox_bytes, 0
        self._connection.account(-dropped)

    def _check_writable(self) -> None:
        if self._failure is not None:
            raise ConnectionResetError(self._failure)
        if self._local_closed:
            raise BrokenPipeError("the stream is closed for writing")


class SpdyConnection:
    """One connection.

    Args:
        transport: Carries the bytes.
        on_stream: Called with each stream the peer opens, before it is accepted; raises ``StreamRefusedError`` to refuse.
        server: Which side we are.
    """

    def __init__(
        self, transport: ByteTransport, *, on_stream: Callable[[SpdyStream], None], server: bool = True
    ) -> None:
        self._transport = transport
        self._on_stream = on_stream
        self._decoder = FrameDecoder()
        self._encoder = FrameEncoder()
        self._streams: dict[int, SpdyStream] = {}
        self._peer_parity = 1 if server else 0
        self._last_peer_id = 0
        self._next_id = 2 if server else 1
        self._buffered_bytes = 0
        self._reading_paused = False
        self._unsent_replies_bytes = 0
        self._keeps_windows = False
        self._keeps_session_window = False
        self._session_window = DEFAULT_WINDOW_BYTES
        self._unreported_bytes = 0
        self._gone_away = False
        self._closing = False
        self._lost = False
        self._outbox: list[bytes] | None = None
        self.initial_window_bytes = DEFAULT_WINDOW_BYTES
        self.ended = asyncio.Event()
        """Set when the peer has gone away or the connection is lost: no more streams will come."""
        self.closed = asyncio.Event()
        """Set when the connection is lost: nothing more comes or goes."""
        self.last_activity_at = asyncio.get_running_loop().time()

    @property
    def streams(self) -> list[SpdyStream]:
        """Streams that are open in at least one direction."""
        return list(self._streams.values())

    def open_stream(self, headers: Headers) -> SpdyStream:
        """Open a stream to the peer; it may be written to at once.

        Raises:
            ConnectionError: The connection is lost or going away.
        """
        if self._lost or self._gone_away:
            raise ConnectionResetError("the connection is closed")
        stream = SpdyStream(self, self._next_id, headers, remote_closed=False)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        self.send(SynStream(stream.stream_id, headers))
        return stream

    # What comes in.

    def receive(self, data: bytes) -> None:
        """Take bytes from the transport."""
        if self._lost:
            return
        self.last_activity_at = asyncio.get_running_loop().time()
        # What the frames cause to be sent leaves in one piece.
        self._outbox = []
        try:
            for frame in self._decoder.feed(data):
                self._handle(frame)
                if self.closed.is_set():
                    return
            self._flush()
        except SpdyError as error:
            self._flush()
            logger.info("A SPDY peer broke the protocol", extra={"error": str(error)})
            self.send(GoAway(self._last_peer_id, GoAwayStatus.PROTOCOL_ERROR))
            self._transport.close()
            self.lose(f"the peer broke the protocol: {error}")

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, None
        if outbox:
            self._transport.write(b"".join(outbox))

    def lose(self, why: str = "the connection was lost") -> None:
        """Take note that the transport is gone. Safe to repeat."""
        if self._lost:
            return
        self._lost = True
        self._outbox = None
        self.ended.set()
        self.closed.set()
        for stream in self.streams:
            stream.fail(why)

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Data():
                self._unreported_bytes += len(frame.data)
                if self._unreported_bytes >= WINDOW_STEP_BYTES:
                    # The session's window is opened on arrival: what holds the peer back is TCP.
                    self.send(WindowUpdate(0, self._unreported_bytes))
                    self._unreported_bytes = 0
                if (stream := self._streams.get(frame.stream_id)) is not None:
                    stream.feed(frame.data, fin=frame.fin)
                elif frame.data and not frame.fin and not self._closing:
                    # It may be waiting for its window to open; moby/spdystream takes no notice.
                    self._reply(RstStream(frame.stream_id, ResetStatus.INVALID_STREAM))
            case SynStream():
                self._accept(frame)
            case SynReply() | HeadersFrame():
                if frame.fin and (stream := self._streams.get(frame.stream_id)) is not None:
                    stream.feed(b"", fin=True)
            case RstStream():
                if (stream := self._streams.get(frame.stream_id)) is not None:
                    stream.fail("the peer reset the stream")
            case Ping():
                if frame.ping_id & 1 == self._peer_parity:
                    self._reply(frame)
            case WindowUpdate():
                self._open_window(frame)
            case Settings():
                self._apply(frame)
            case GoAway():
                self._gone_away = True
                self.ended.set()

    def _accept(self, frame: SynStream) -> None:
        stream_id = frame.stream_id
        if self._gone_away:
            return
        if stream_id & 1 != self._peer_parity or stream_id <= self._last_peer_id:
            self._reply(RstStream(stream_id, ResetStatus.PROTOCOL_ERROR))
            return
        self._last_peer_id = stream_id
        if len(self._streams) >= MAX_STREAMS:
            self._reply(RstStream(stream_id, ResetStatus.REFUSED_STREAM))
            return
        stream = SpdyStream(self, stream_id, frame.headers, remote_closed=frame.fin)
        self._streams[stream_id] = stream
        try:
            self._on_stream(stream)
        except StreamRefusedError as error:
            logger.info("Refused a stream", extra={"error": str(error)})
            del self._streams[stream_id]
            self._reply(RstStream(stream_id, ResetStatus.CANCEL))
            return
        self._reply(SynReply(stream_id))

    def _open_window(self, frame: WindowUpdate) -> None:
        self._keeps_windows = True
        if frame.stream_id == 0:
            self._keeps_session_window = True
            self._session_window += frame.delta_bytes
            for each in self.streams:
                each.grow_window(0)
        elif (stream := self._streams.get(frame.stream_id)) is not None:
            stream.grow_window(frame.delta_bytes)

    def _apply(self, frame: Settings) -> None:
        for number, _, value in frame.entries:
            if number == SETTING_INITIAL_WINDOW and value <= MAX_STREAM_ID:
                self._keeps_windows = True
                delta, self.initial_window_bytes = value - self.initial_window_bytes, value
                for stream in self.streams:
                    stream.grow_window(delta)

    # What goes out.

    def send(self, frame: Frame) -> None:
        """Send a frame; dropped without notice when the connection is lost."""
        if not self._lost:
            self._write(self._encoder.encode(frame))

    def _write(self, data: bytes) -> None:
        if self._outbox is None:
            self._transport.write(data)
        else:
            self._outbox.append(data)

    def _reply(self, frame: Frame) -> None:
        """Send a frame that the peer has caused; one that causes many and reads none is dropped."""
        if not self._transport.is_full:
            self._unsent_replies_bytes = 0
        self._unsent_replies_bytes += 64
        if self._unsent_replies_bytes > MAX_UNSENT_REPLIES_BYTES and self._transport.is_full:
            logger.info("Dropped a SPDY peer that does not read what it asks for")
            self._transport.abort()
            self.lose("the peer does not read")
            return
        self.send(frame)

    def send_data(self, stream: SpdyStream, data: bytes, *, fin: bool = False) -> None:
        """Send bytes of a stream (called by the stream)."""
        if self._lost:
            return
        stream.shrink_window(len(data))
        self._session_window -= len(data)
        self._write(encode_data(stream.stream_id, data, fin=fin))
        self.last_activity_at = asyncio.get_running_loop().time()

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was sent.

        Raises:
            ConnectionError: The connection is gone.
        """
        await self._transport.drain()

    def allowed_bytes(self, stream: SpdyStream) -> int:
        """How many bytes may be sent on a stream now."""
        if not self._keeps_windows:
            return MAX_DATA_BYTES
        allowed = min(MAX_DATA_BYTES, stream.shrink_window(0))
        return min(allowed, self._session_window) if self._keeps_session_window else allowed

    async def wait_for_window(self, stream: SpdyStream) -> None:
        """Wait until more may be sent on a stream, or it has ended."""
        while stream.is_open and self.allowed_bytes(stream) <= 0:
            await stream.window_opens()

    # Bookkeeping.

    def account(self, delta_bytes: int) -> None:
        """Count bytes that wait for their readers, and hold the peer back when there are many."""
        self._buffered_bytes += delta_bytes
        if self._lost:
            return
        if not self._reading_paused and self._buffered_bytes > HIGH_WATER_BYTES:
            self._reading_paused = True
            self._transport.pause_reading()
        elif self._reading_paused and self._buffered_bytes <= LOW_WATER_BYTES:
            self._reading_paused = False
            self._transport.resume_reading()

    def settle(self, stream: SpdyStream) -> None:
        """Forget a stream that has ended in both directions."""
        if not stream.is_open:
            self._streams.pop(stream.stream_id, None)

    async def aclose(self, *, linger_s: float = LINGER_S) -> None:
        """End all streams, say good-bye and close. Safe to repeat.

        The peer is given time to close first: closing while its bytes are still coming in would make TCP throw away what
        it has not read yet, such as an exit status.

        Args:
            linger_s: Longest wait for the peer, in seconds.
        """
        if not self._lost:
            for stream in self.streams:
                stream.reset()
            self._gone_away = self._closing = True
            self.send(GoAway(self._last_peer_id))
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            try:
                async with asyncio.timeout(linger_s):
                    await self.closed.wait()
            except TimeoutError:
                pass
            finally:
                self._transport.close()
                self.lose("the connection was closed")
