"""The SPDY/3.1 codec: bytes to frames and back, with header compression; no I/O and no state of streams.

Both directions keep a compression context for the life of a connection, so every header block must pass through here, in
order, even if its stream is refused. An error in a frame therefore ends the connection.

Source: SPDY draft 3.1, sections 2.2 to 2.6; limits as in github.com/moby/spdystream/spdy/read.go.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

VERSION: Final = 3
MAX_CONTROL_BYTES: Final = 256 * 1024
"""Longest payload of a control frame that is accepted."""
MAX_HEADER_BLOCK_BYTES: Final = 64 * 1024
"""Longest header block after decompression; a bomb ends here."""
MAX_HEADERS: Final = 128
MAX_LENGTH: Final = (1 << 24) - 1
MAX_STREAM_ID: Final = (1 << 31) - 1
DEFAULT_WINDOW_BYTES: Final = 64 * 1024

_CONTROL_BIT = 0x80000000
_HEAD = struct.Struct(">II")
_WORD = struct.Struct(">I")
_TWO_WORDS = struct.Struct(">II")
_SYN_STREAM_HEAD = struct.Struct(">IIBB")

FLAG_FIN: Final = 0x01
FLAG_UNIDIRECTIONAL: Final = 0x02
FLAG_CLEAR_SETTINGS: Final = 0x01
SETTING_INITIAL_WINDOW: Final = 7

_DICTIONARY_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_DICTIONARY_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = (
    b"".join(_WORD.pack(len(word)) + word.replace("_", " ").encode() for word in _DICTIONARY_WORDS.split())
    + _DICTIONARY_TEXT.encode()
)
"""What both ends take as already seen when they compress headers. Source: SPDY draft 3.1, section 2.6.10.1."""


class SpdyError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


class FrameType(IntEnum):
    """Types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetStatus(IntEnum):
    """Why a stream is reset."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9


class GoAwayStatus(IntEnum):
    """Why a connection ends."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


Headers: TypeAlias = Mapping[str, str]
"""Header names in lower case to values; several values of one name are joined by NUL, as on the wire."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """Opens a stream."""

    stream_id: int
    headers: Headers = field(default_factory=dict)
    associated_id: int = 0
    priority: int = 0
    slot: int = 0
    fin: bool = False
    unidirectional: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    """Accepts a stream."""

    stream_id: int
    headers: Headers = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """Ends a stream in both directions at once."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a connection: triples of id, flags and value."""

    entries: tuple[tuple[int, int, int], ...] = ()
    clear: bool = False


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping of the side whose parity its id has, or the answer to one."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """No more streams are taken."""

    last_good_id: int
    status: int = GoAwayStatus.OK


@dataclass(frozen=True, slots=True)
class HeadersFrame:
    """More headers of a stream."""

    stream_id: int
    headers: Headers = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    """So many more bytes may be sent on a stream, or on the whole connection if the id is 0."""

    stream_id: int
    delta_bytes: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream. A long frame may be decoded as several of these, of which the last carries ``fin``."""

    stream_id: int
    data: bytes
    fin: bool = False


Frame: TypeAlias = SynStream | SynReply | RstStream | Settings | Ping | GoAway | HeadersFrame | WindowUpdate | Data


class FrameEncoder:
    """Frames to bytes, with one compression context."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(wbits=zlib.MAX_WBITS, zdict=DICTIONARY)

    def encode(self, frame: Frame) -> bytes:
        """Bytes of a frame.

        Raises:
            ValueError: A field does not fit its place on the wire.
        """
        match frame:
            case Data():
                return encode_data(frame.stream_id, frame.data, fin=frame.fin)
            case SynStream():
                head = _SYN_STREAM_HEAD.pack(frame.stream_id, frame.associated_id, frame.priority << 5, frame.slot)
                flags = (FLAG_FIN if frame.fin else 0) | (FLAG_UNIDIRECTIONAL if frame.unidirectional else 0)
                return _control(FrameType.SYN_STREAM, flags, head + self._compress(frame.headers))
            case SynReply():
                payload = _WORD.pack(frame.stream_id) + self._compress(frame.headers)
                return _control(FrameType.SYN_REPLY, FLAG_FIN if frame.fin else 0, payload)
            case HeadersFrame():
                payload = _WORD.pack(frame.stream_id) + self._compress(frame.headers)
                return _control(FrameType.HEADERS, FLAG_FIN if frame.fin else 0, payload)
            case RstStream():
                return _control(FrameType.RST_STREAM, 0, _TWO_WORDS.pack(frame.stream_id, frame.status))
            case Settings():
                entries = b"".join(
                    _TWO_WORDS.pack(flags << 24 | number, value) for number, flags, value in frame.entries
                )
                flags = FLAG_CLEAR_SETTINGS if frame.clear else 0
                return _control(FrameType.SETTINGS, flags, _WORD.pack(len(frame.entries)) + entries)
            case Ping():
                return _control(FrameType.PING, 0, _WORD.pack(frame.ping_id))
            case GoAway():
                return _control(FrameType.GOAWAY, 0, _TWO_WORDS.pack(frame.last_good_id, frame.status))
            case WindowUpdate():
                return _control(FrameType.WINDOW_UPDATE, 0, _TWO_WORDS.pack(frame.stream_id, frame.delta_bytes))

    def _compress(self, headers: Headers) -> bytes:
        parts = [_WORD.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower(), value):
                encoded = text.encode("utf-8", "surrogateescape")
                parts += (_WORD.pack(len(encoded)), encoded)
        block = b"".join(parts)
        if len(block) > MAX_HEADER_BLOCK_BYTES:
            raise ValueError(f"headers of {len(block)} bytes are too long")
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def encode_data(stream_id: int, data: bytes, *, fin: bool = False) -> bytes:
    """Bytes of a data frame.

    Raises:
        ValueError: The data is longer than 16 MiB.
    """
    if len(data) > MAX_LENGTH:
        raise ValueError(f"data of {len(data)} bytes does not fit into one frame")
    return _HEAD.pack(stream_id, (FLAG_FIN << 24 if fin else 0) | len(data)) + data


def _control(kind: FrameType, flags: int, payload: bytes) -> bytes:
    return _HEAD.pack(_CONTROL_BIT | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


class FrameDecoder:
    """Bytes, cut anywhere, to frames, with one compression context.

    Args:
        max_control_bytes: Longest payload of a control frame that is accepted.
    """

    def __init__(self, *, max_control_bytes: int = MAX_CONTROL_BYTES) -> None:
        self._max_control_bytes = max_control_bytes
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS, zdict=DICTIONARY)
        self._buffer = bytearray()
        self._wanted = _HEAD.size
        self._data_id = 0
        self._data_left = 0
        self._data_fin = False

    def feed(self, data: bytes) -> list[Frame]:
        """Frames that these bytes complete; data frames are handed on in pieces as they come.

        Raises:
            SpdyError: The bytes are not SPDY; nothing more can be decoded.
        """
        if self._buffer or len(data) < self._wanted:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        frames: list[Frame] = []
        position, end = 0, len(data)
        while True:
            if self._data_left:
                if position == end:
                    self._wanted = 1
                    return frames
                piece = data[position : position + self._data_left]
                position += len(piece)
                self._data_left -= len(piece)
                frames.append(Data(self._data_id, piece, fin=self._data_fin and not self._data_left))
                continue
            if end - position < _HEAD.size:
                break
            word, rest = _HEAD.unpack_from(data, position)
            flags, length = rest >> 24, rest & MAX_LENGTH
            if word & _CONTROL_BIT:
                if length > self._max_control_bytes:
                    raise SpdyError(f"control frame of {length} bytes is too long")
                stop = position + _HEAD.size + length
                if stop > end:
                    break
                frame = self._decode_control(word, flags, data[position + _HEAD.size : stop])
                if frame is not None:
                    frames.append(frame)
                position = stop
                continue
            if word == 0:
                raise SpdyError("data frame of stream 0")
            position += _HEAD.size
            if length:
                self._data_id, self._data_left, self._data_fin = word, length, bool(flags & FLAG_FIN)
            else:
                frames.append(Data(word, b"", fin=bool(flags & FLAG_FIN)))
        self._buffer += data[position:]
        self._wanted = _HEAD.size
        if len(self._buffer) >= _HEAD.size:
            self._wanted += _HEAD.unpack_from(self._buffer)[1] & MAX_LENGTH
        return frames

    def _decode_control(self, word: int, flags: int, payload: bytes) -> Frame | None:
        version, kind = word >> 16 & 0x7FFF, word & 0xFFFF
        if version != VERSION:
            raise SpdyError(f"control frame of SPDY version {version}")
        fin = bool(flags & FLAG_FIN)
        match kind:
            case FrameType.SYN_STREAM:
                stream_id, associated_id, priority, slot = _unpack(_SYN_STREAM_HEAD, payload, exact=False)
                return SynStream(
                    _stream_id(stream_id),
                    self._decompress(payload[_SYN_STREAM_HEAD.size :]),
                    associated_id & MAX_STREAM_ID,
                    priority >> 5,
                    slot,
                    fin,
                    bool(flags & FLAG_UNIDIRECTIONAL),
                )
            case FrameType.SYN_REPLY:
                (stream_id,) = _unpack(_WORD, payload, exact=False)
                return SynReply(_stream_id(stream_id), self._decompress(payload[_WORD.size :]), fin)
            case FrameType.HEADERS:
                (stream_id,) = _unpack(_WORD, payload, exact=False)
                return HeadersFrame(_stream_id(stream_id), self._decompress(payload[_WORD.size :]), fin)
            case FrameType.RST_STREAM:
                stream_id, status = _unpack(_TWO_WORDS, payload)
                if status == 0:
                    raise SpdyError("RST_STREAM without a status")
                return RstStream(_stream_id(stream_id), status)
            case FrameType.SETTINGS:
                (count,) = _unpack(_WORD, payload, exact=False)
                if len(payload) != _WORD.size + count * _TWO_WORDS.size:
                    raise SpdyError("SETTINGS of a wrong length")
                entries = tuple(
                    (number & 0xFFFFFF, number >> 24, value)
                    for number, value in _TWO_WORDS.iter_unpack(payload[_WORD.size :])
                )
                return Settings(entries, bool(flags & FLAG_CLEAR_SETTINGS))
            case FrameType.PING:
                (ping_id,) = _unpack(_WORD, payload)
                return Ping(ping_id)
            case FrameType.GOAWAY:
                last_good_id, status = _unpack(_TWO_WORDS, payload)
                return GoAway(last_good_id & MAX_STREAM_ID, status)
            case FrameType.WINDOW_UPDATE:
                stream_id, delta = _unpack(_TWO_WORDS, payload)
                delta &= MAX_STREAM_ID
                if delta == 0:
                    raise SpdyError("WINDOW_UPDATE of nothing")
                return WindowUpdate(stream_id & MAX_STREAM_ID, delta)
        return None  # Kinds we do not know are to be passed over.

    def _decompress(self, compressed: bytes) -> dict[str, str]:
        try:
            block = self._inflate.decompress(compressed, MAX_HEADER_BLOCK_BYTES)
        except zlib.error as error:
            raise SpdyError(f"headers cannot be decompressed: {error}") from error
        if self._inflate.unconsumed_tail or self._inflate.eof:
            raise SpdyError("headers are too long or their stream has ended")
        return _decode_headers(block)


def _decode_headers(block: bytes) -> dict[str, str]:
    """Source: SPDY draft 3.1, section 2.6.10."""
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        piece = block[position : position + count]
        position += count
        if len(piece) != count:
            raise SpdyError("headers are cut off")
        return piece

    def take_text() -> str:
        return take(_WORD.unpack(take(_WORD.size))[0]).decode("utf-8", "surrogateescape")

    (count,) = _WORD.unpack(take(_WORD.size))
    if count > MAX_HEADERS:
        raise SpdyError(f"{count} headers are too many")
    headers: dict[str, str] = {}
    for _ in range(count):
        name = take_text()
        if not name or name != name.lower() or name in headers:
            raise SpdyError(f"header name {name!r} is empty, not in lower case or there twice")
        headers[name] = take_text()
    if position != len(block):
        raise SpdyError("headers are longer than they say")
    return headers


def _stream_id(raw: int) -> int:
    stream_id = raw & MAX_STREAM_ID
    if stream_id == 0:
        raise SpdyError("frame of stream 0")
    return stream_id


def _unpack(form: struct.Struct, payload: bytes, *, exact: bool = True) -> tuple[int, ...]:
    if len(payload) < form.size or (exact and len(payload) != form.size):
        raise SpdyError(f"control frame with {len(payload)} bytes is of a wrong length")
    return form.unpack_from(payload)
