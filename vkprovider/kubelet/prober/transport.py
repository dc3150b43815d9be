"""Short-lived client connections for probes and hooks, straight on the event loop's socket calls.

A node makes thousands of these a minute, each for one request. Going through streams or a full HTTP client costs several times the
CPU of the request itself, so sockets are used bare here, and TLS by memory buffers. Errors carry Go's texts, since users know probe
failures by them.

Source: pkg/probe/dialer_others.go; Go package net (error texts).
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import socket
import ssl
from typing import Final

_READ_BYTES: Final = 16 * 1024
_TLS_ALERTS: Final = {
    "HANDSHAKE_FAILURE": "handshake failure",
    "PROTOCOL_VERSION": "protocol version not supported",
    "INTERNAL_ERROR": "internal error",
    "UNRECOGNIZED_NAME": "unrecognized name",
    "NO_APPLICATION_PROTOCOL": "no application protocol",
    "CERTIFICATE_REQUIRED": "certificate required",
    "BAD_CERTIFICATE": "bad certificate",
    "UNKNOWN_CA": "unknown certificate authority",
    "ACCESS_DENIED": "access denied",
}

SERVER_GAVE_HTTP: Final = "http: server gave HTTP response to HTTPS client"
"""What Go says when a plain HTTP server answers a TLS handshake."""


class ConnectionFailedError(Exception):
    """A connection could not be made or broke; the text is Go's."""


def join_host_port(host: str, port: int) -> str:
    """``host:port``, the host in brackets if it is an IPv6 address.

    Source: Go net.JoinHostPort.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe_os_error(error: OSError) -> str:
    """Go's text of an error number: ``connection refused``."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


@functools.lru_cache(maxsize=4096)
def is_ip_address(host: str) -> bool:
    """Whether the host is an address rather than a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def dial(host: str, port: int) -> tuple[socket.socket, str]:
    """Connect to a TCP port; names are resolved and their addresses tried in turn.

    Cancellation closes the socket. No linger option is set: the one upstream uses against waiting sockets can block the event
    loop on close.

    Args:
        host: Address or name.
        port: Port number.

    Returns:
        A connected, non-blocking socket, which the caller closes, and the address it leads to as ``host:port``.

    Raises:
        ConnectionFailedError: Nothing listens there, or the name does not exist.
    """
    loop = asyncio.get_running_loop()
    if is_ip_address(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return await _connect(loop, family, (host, port))
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectionFailedError(f"dial tcp: lookup {host}: no such host") from error
    first: ConnectionFailedError | None = None
    for family, _, _, _, address in found:
        try:
            return await _connect(loop, family, address)
        except ConnectionFailedError as error:
            first = first or error
    raise first or ConnectionFailedError(f"dial tcp: lookup {host}: no such host")


async def _connect(
    loop: asyncio.AbstractEventLoop, family: int, address: tuple[object, ...]
) -> tuple[socket.socket, str]:
    where = join_host_port(str(address[0]), int(str(address[1])))
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await loop.sock_connect(sock, address)
    except OSError as error:
        sock.close()
        raise ConnectionFailedError(f"dial tcp {where}: connect: {describe_os_error(error)}") from error
    except BaseException:
        sock.close()
        raise
    return sock, where


class Connection:
    """Bytes to and from a connected socket; use it as a context manager.

    Args:
        sock: The socket, closed at the end.
        remote: The address it leads to, for messages.
    """

    def __init__(self, sock: socket.socket, remote: str) -> None:
        self._sock = sock
        self._remote = remote
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    async def send(self, data: bytes) -> None:
        """Send everything.

        Raises:
            ConnectionFailedError: The connection broke.
        """
        try:
            await self._loop.sock_sendall(self._sock, data)
        except OSError as error:
            raise self._broken("write", error) from error

    async def receive(self) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            ConnectionFailedError: The connection broke.
        """
        try:
            return await self._loop.sock_recv(self._sock, _READ_BYTES)
        except OSError as error:
            raise self._broken("read", error) from error

    def _broken(self, verb: str, error: OSError) -> ConnectionFailedError:
        local = self._sock.getsockname()
        ends = f"{join_host_port(local[0], local[1])}->{self._remote}"
        return ConnectionFailedError(f"{verb} tcp {ends}: {verb}: {describe_os_error(error)}")


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """TLS without any verification, taking even weak certificates, as Go does when told to skip verification."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["http/1.1"])
    return context


class TLSConnection(Connection):
    """A connection with TLS in between; ``handshake`` comes first.

    Args:
        sock: The connected socket.
        remote: The address it leads to, for messages.
        host: Name or address it was connected to; names are told to the server.
    """

    def __init__(self, sock: socket.socket, remote: str, host: str) -> None:
        super().__init__(sock, remote)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        name = None if is_ip_address(host) else host
        self._tls = _tls_context().wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._first_bytes = b""

    async def handshake(self) -> None:
        """Agree on keys.

        Raises:
            ConnectionFailedError: The server does not speak TLS or refuses.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await super().receive()
                if not data:
                    raise ConnectionFailedError("EOF") from None
                self._first_bytes = (self._first_bytes + data)[:5] if len(self._first_bytes) < 5 else self._first_bytes
                self._incoming.write(data)
            except ssl.SSLError as error:
                raise ConnectionFailedError(self._describe(error)) from error
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        """Encrypt and send everything."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
            await self._flush()

    async def receive(self) -> bytes:
        """The next bytes, decrypted; empty at the end."""
        while True:
            try:
                return self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                data = await super().receive()
                if not data:
                    return b""
                self._incoming.write(data)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise ConnectionFailedError(self._describe(error)) from error

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await super().send(data)

    def _describe(self, error: ssl.SSLError) -> str:
        reason = error.reason or ""
        if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason or "UNKNOWN_PROTOCOL" in reason:
            return (
                SERVER_GAVE_HTTP
                if self._first_bytes == b"HTTP/"
                else "tls: first record does not look like a TLS handshake"
            )
        if "ALERT" in reason:
            for word, text in _TLS_ALERTS.items():
                if word in reason:
                    return f"remote error: tls: {text}"
        return f"tls: {reason.replace('_', ' ').lower() or error}"
