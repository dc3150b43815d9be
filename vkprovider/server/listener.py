"""Accepts TLS connections, each with the context that is current when it comes in."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import weakref
from collections.abc import Callable

from vkprovider.aio.tasks import TaskPool, cancel_and_wait
from vkprovider.errors import ConfigurationError

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 2.0
ACCEPT_RETRY_S = 1.0
BACKLOG = 512
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TLSListener:
    """A listening socket that survives changing certificates.

    asyncio's own server keeps one context for its lifetime; this one asks for it per connection.

    Args:
        make_protocol: Makes the protocol of a connection.
        get_context: The TLS context for the next connection.
    """

    def __init__(
        self, make_protocol: Callable[[], asyncio.BaseProtocol], get_context: Callable[[], ssl.SSLContext]
    ) -> None:
        self._make_protocol = make_protocol
        self._get_context = get_context
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._pool = TaskPool("tls-listener")
        self._transports: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

    @property
    def port(self) -> int:
        """The port listened on."""
        if self._socket is None:
            raise RuntimeError("the listener has not been started")
        return int(self._socket.getsockname()[1])

    async def start(self, address: str, port: int) -> None:
        """Bind and begin to accept.

        Args:
            address: Address to bind; empty or ``::`` means all, of both families.
            port: Port; 0 takes a free one.

        Raises:
            ConfigurationError: The address cannot be had: which, why, and the flag to change it.
        """
        try:
            self._socket = await asyncio.to_thread(_bind, address, port)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot listen on {address or '*'}:{port}: {error}; choose another with --listen"
            ) from error
        self._accepting = self._pool.spawn(self._accept(self._socket), name="accept")

    async def stop_accepting(self) -> None:
        """Take no more connections; those there are go on. Safe to repeat."""
        if self._accepting is not None:
            await cancel_and_wait([self._accepting])
        if self._socket is not None:
            self._socket.close()

    async def aclose(self) -> None:
        """Stop, and drop every connection still open. Safe to repeat."""
        await self.stop_accepting()
        await self._pool.aclose()
        for transport in list(self._transports):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        await asyncio.sleep(0)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    logger.error("Cannot accept connections: %s", error)
                    await asyncio.sleep(ACCEPT_RETRY_S)
                # Others concern one connection that went away before it was accepted.
                continue
            self._pool.spawn(self._shake_hands(connection), name="handshake")

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._get_context(),
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S,
            )
        except (ssl.SSLError, OSError) as error:
            logger.debug("TLS handshake failed", extra={"error": str(error)})
            connection.close()
            return
        except BaseException:
            connection.close()
            raise
        self._transports.add(transport)


def _bind(address: str, port: int) -> socket.socket:
    host = address.strip("[]")
    if host in ("", "::") and socket.has_dualstack_ipv6():
        listening = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG, reuse_port=False
        )
    else:
        family = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host or "0.0.0.0", port), family=family, backlog=BACKLOG)
    listening.setblocking(False)
    return listening
