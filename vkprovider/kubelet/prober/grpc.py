"""The gRPC health check of ``grpc`` probes, over plaintext HTTP/2.

Source: pkg/probe/grpc/grpc.go; grpc.health.v1 (protocol); gRPC over HTTP/2 (wire format).
"""

from __future__ import annotations

import asyncio
import random
from typing import Final
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from vkprovider.api.durations import format_duration
from vkprovider.kubelet.prober.transport import Connection, ConnectionFailedError, dial, join_host_port
from vkprovider.settings import KUBELET_VERSION

_PATH: Final = "/grpc.health.v1.Health/Check"
_USER_AGENT: Final = f"kube-probe/{'.'.join(KUBELET_VERSION.removeprefix('v').split('.')[:2])}"
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
_RECONNECT_S: Final = 1.0
_RECONNECT_JITTER: Final = 0.2
_SERVING: Final = 1
_STATUS_NAMES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_UNIMPLEMENTED: Final = 12
_DEADLINE_EXCEEDED: Final = 4
_CODES: Final = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
_CODE_BY_HTTP_STATUS: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_HTTP_CLIENT = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_inbound_headers=False)


class _RPCError(Exception):
    """The call ended with a status other than OK."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        name = _CODES[self.code] if self.code < len(_CODES) else f"Code({self.code})"
        return f"rpc error: code = {name} desc = {self.message}"


async def check_health(host: str, port: int, service: str, *, timeout_s: float) -> str | None:
    """Ask a server for the health of a service.

    Args:
        host: Address of the server.
        port: Its port.
        service: Name of the service; empty for the server as a whole.
        timeout_s: Seconds for all of it. A server that does not listen is tried again until then.

    Returns:
        None if it is serving, else the failure in the words of the kubelet.

    Source: pkg/probe/grpc/grpc.go, Probe.
    """
    address, within = join_host_port(host, port), format_duration(timeout_s)
    connected = False
    try:
        async with asyncio.timeout(timeout_s):
            channel = await _connect(host, port)
            connected = True
            with channel.connection:
                status = await channel.check(address, service, timeout_s=timeout_s)
    except TimeoutError:
        if connected:
            return f"timeout: health rpc did not complete within {within}"
        return f'timeout: failed to connect service "{address}" within {within}: context deadline exceeded'
    except ConnectionFailedError as error:
        return f"error: health rpc probe failed: {_RPCError(14, f'error reading from server: {error}')}"
    except _RPCError as error:
        if error.code == _UNIMPLEMENTED:
            return (
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "
                f"{error.message}"
            )
        if error.code == _DEADLINE_EXCEEDED:
            return f"timeout: health rpc did not complete within {within}"
        return f"error: health rpc probe failed: {error}"
    if status != _SERVING:
        return f'service unhealthy (responded with "{_STATUS_NAMES.get(status, status)}")'
    return None


async def _connect(host: str, port: int) -> _Channel:
    """A channel whose server has shown that it speaks HTTP/2; tried again and again, for the caller to bound."""
    while True:
        try:
            sock, remote = await dial(host, port)
            channel = _Channel(Connection(sock, remote))
            try:
                await channel.open()
            except BaseException:
                sock.close()
                raise
            return channel
        except (ConnectionFailedError, h2.exceptions.ProtocolError):
            jitter = 1 + _RECONNECT_JITTER * (2 * random.random() - 1)  # noqa: S311
            await asyncio.sleep(_RECONNECT_S * jitter)


class _Channel:
    """One HTTP/2 connection for one call."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = h2.connection.H2Connection(_HTTP_CLIENT)
        self._early: list[h2.events.Event] = []

    async def open(self) -> None:
        """Greet, and wait for the server's settings."""
        self._http.initiate_connection()
        await self._flush()
        while True:
            events = await self._receive()
            settled = any(isinstance(event, h2.events.RemoteSettingsChanged) for event in events)
            self._early += [e for e in events if not isinstance(e, h2.events.RemoteSettingsChanged)]
            if settled:
                return

    async def check(self, authority: str, service: str, *, timeout_s: float) -> int:
        """Call ``Check`` and return the status in the answer."""
        stream = self._http.get_next_available_stream_id()
        self._http.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", _PATH),
                (":authority", authority),
                ("content-type", "application/grpc"),
                ("user-agent", _USER_AGENT),
                ("te", "trailers"),
                ("grpc-timeout", f"{max(1, int(timeout_s * 1000))}m"),
            ],
        )
        name = service.encode()
        message = b"\x0a" + _encode_varint(len(name)) + name if name else b""
        self._http.send_data(stream, b"\x00" + len(message).to_bytes(4) + message, end_stream=True)
        await self._flush()
        return await self._read_answer(stream)

    async def _read_answer(self, stream: int) -> int:
        headers: dict[str, str] = {}
        body = bytearray()
        events, self._early = self._early, []
        while True:
            for event in events:
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    headers.update(_text_headers(event.headers or ()))
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    if len(body) > _MAX_MESSAGE_BYTES:
                        raise _RPCError(
                            8, f"grpc: received message larger than max ({len(body)} vs. {_MAX_MESSAGE_BYTES})"
                        )
                    self._http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                elif isinstance(event, h2.events.StreamReset):
                    raise _RPCError(13, f"stream terminated by RST_STREAM with error code: {event.error_code}")
                elif isinstance(event, h2.events.ConnectionTerminated):
                    raise _RPCError(14, "connection closed by the server (GOAWAY)")
                elif isinstance(event, h2.events.StreamEnded):
                    return _read_status(headers, bytes(body))
            await self._flush()
            try:
                events = await self._receive()
            except h2.exceptions.ProtocolError as error:
                raise _RPCError(14, f"error reading from server: {error}") from error

    async def _receive(self) -> list[h2.events.Event]:
        data = await self.connection.receive()
        if not data:
            raise ConnectionFailedError("EOF")
        return list(self._http.receive_data(data))

    async def _flush(self) -> None:
        if data := self._http.data_to_send():
            await self.connection.send(data)


def _text_headers(headers: object) -> dict[str, str]:
    pairs: list[tuple[str | bytes, str | bytes]] = list(headers)  # type: ignore[call-overload]
    return {
        (name.decode() if isinstance(name, bytes) else name): (
            value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        )
        for name, value in pairs
    }


def _read_status(headers: dict[str, str], body: bytes) -> int:
    """Status of a whole answer.

    Raises:
        _RPCError: The call failed.
    """
    code = headers.get("grpc-status")
    if code is None:
        http_status = int(headers.get(":status", "0"))
        if http_status != 200:
            kind = headers.get("content-type", "")
            raise _RPCError(
                _CODE_BY_HTTP_STATUS.get(http_status, 2),
                f"unexpected HTTP status code received from server: {http_status}; "
                f'transport: received unexpected content-type "{kind}"',
            )
        raise _RPCError(13, "server closed the stream without sending trailers")
    if not code.isdigit() or int(code) != 0:
        number = int(code) if code.isdigit() else 2
        raise _RPCError(number, unquote(headers.get("grpc-message", "")))
    if len(body) < 5 or body[0] != 0 or len(body) < 5 + int.from_bytes(body[1:5]):
        raise _RPCError(13, "cardinality violation: received no response message from non-server-streaming RPC")
    return _decode_health(body[5 : 5 + int.from_bytes(body[1:5])])


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_health(message: bytes) -> int:
    """Field 1 of a HealthCheckResponse; fields of other numbers are skipped."""
    position, status = 0, 0
    try:
        while position < len(message):
            tag, position = _decode_varint(message, position)
            kind = tag & 7
            if kind == 0:
                value, position = _decode_varint(message, position)
                if tag >> 3 == 1:
                    status = value
            elif kind == 2:
                length, position = _decode_varint(message, position)
                position += length
            else:
                position += {1: 8, 5: 4}[kind]
    except (IndexError, KeyError) as error:
        raise _RPCError(13, "grpc: failed to unmarshal the received message") from error
    return status


def _decode_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
