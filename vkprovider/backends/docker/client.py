"""The one module that talks to the engine: short calls through the Docker SDK, long streams on the event loop.

Short calls run in a bounded pool of threads over the SDK's low-level client. Streams that last (events, followed logs,
waiting for an exit, pulls) are requests of an aiohttp session, and exec and attach are raw upgraded connections, so that
hundreds of them hold no thread. Both reach the same endpoint with the same API version.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import docker

from vkprovider._version import __version__
from vkprovider.backends.docker.endpoint import Endpoint, find_endpoint
from vkprovider.backends.docker.errors import EngineRefusal, describe, engine_errors, read_message
from vkprovider.backends.docker.threads import CallThreads
from vkprovider.errors import ConfigurationError, TransientError

logger = logging.getLogger(__name__)
T = TypeVar("T")

MIN_API_VERSION = (1, 41)
MAX_API_VERSION = (1, 47)
"""Newest API that this backend was written against; newer engines still speak it."""

_CALL_TIMEOUT_S = 120
_CONNECT_TIMEOUT_S = 10.0
_VERSION_TIMEOUT_S = 10.0
_USER_AGENT = f"vkprovider/{__version__}"
_STREAM_BUFFER_BYTES = 256 * 1024
_MAX_HEADER_BYTES = 64 * 1024


class EngineClient:
    """Connections to one engine.

    Args:
        host: Engine to use, as in ``DOCKER_HOST``; empty follows the environment and the docker contexts.
        max_parallel_calls: Short calls under way at once.
    """

    def __init__(self, host: str = "", *, max_parallel_calls: int = 16) -> None:
        self._host = host
        self._max_parallel_calls = max_parallel_calls
        self._endpoint: Endpoint | None = None
        self._sdk: docker.APIClient | None = None
        self._executor: CallThreads | None = None
        self._session: aiohttp.ClientSession | None = None
        self._api_version = MIN_API_VERSION

    @property
    def endpoint(self) -> Endpoint:
        """The engine in use."""
        if self._endpoint is None:
            raise TransientError("the Docker Engine has not been connected to")
        return self._endpoint

    @property
    def api_version(self) -> tuple[int, int]:
        """The API version spoken with the engine."""
        return self._api_version

    @property
    def is_local(self) -> bool:
        """Whether the engine is reached by a socket file, so that it may share our files and processes."""
        return self._endpoint is not None and self._endpoint.socket_path is not None

    async def connect(self) -> None:
        """Find the engine, agree on an API version and open the pools. Safe to repeat.

        Raises:
            ConfigurationError: There is no such engine, we may not use it, or it is too old; says what to do.
            TransientError: The engine does not answer now.
        """
        if self._sdk is not None:
            return
        endpoint = await asyncio.to_thread(find_endpoint, self._host)
        if endpoint.socket_path is not None:
            await asyncio.to_thread(_check_socket, endpoint)
        session = aiohttp.ClientSession(
            connector=await _make_connector(endpoint),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            headers={"User-Agent": _USER_AGENT},
            auto_decompress=False,
            read_bufsize=_STREAM_BUFFER_BYTES,
        )
        try:
            self._api_version = await _negotiate(session, endpoint)
            self._sdk = await asyncio.to_thread(self._make_sdk, endpoint)
        except BaseException:
            await session.close()
            raise
        self._endpoint, self._session = endpoint, session
        self._executor = CallThreads(self._max_parallel_calls, name="docker-call")

    def _make_sdk(self, endpoint: Endpoint) -> docker.APIClient:
        sdk = docker.APIClient(
            **endpoint.make_sdk_arguments(),
            version="{}.{}".format(*self._api_version),
            timeout=_CALL_TIMEOUT_S,
            user_agent=_USER_AGENT,
            max_pool_size=self._max_parallel_calls,
        )
        # Proxies and .netrc do not concern a unix socket, yet requests would look them up for every call.
        sdk.trust_env = endpoint.socket_path is None
        return sdk

    async def aclose(self) -> None:
        """Close all connections. Safe to repeat."""
        sdk, self._sdk = self._sdk, None
        session, self._session = self._session, None
        executor, self._executor = self._executor, None
        if session is not None:
            await session.close()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if sdk is not None:
            sdk.close()

    async def call(self, function: Callable[[docker.APIClient], T], *, doing: str, reason: str | None = None) -> T:
        """Run a short call of the SDK in a thread. Cancellation ends the wait; a call under way goes on.

        Args:
            function: Gets the SDK's client.
            doing: What is tried, as in ``failed to <doing>``.
            reason: For a step of a pod: the kubelet's reason for its failure.

        Raises:
            VkproviderError: As ``vkprovider.backends.docker.errors`` says.
        """
        if self._sdk is None or self._executor is None:
            raise TransientError(f"failed to {doing}: the Docker Engine has not been connected to")
        with engine_errors(doing, reason=reason):
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, self._sdk)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is read as it comes; the connection is dropped at the end of the body.

        Errors are foreign ones: wrap the use in ``engine_errors``.

        Raises:
            EngineRefusal: The engine answered with an error.
        """
        if self._session is None:
            raise TransientError("the Docker Engine has not been connected to")
        data = None if body is None else json.dumps(body).encode()
        all_headers = {**({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})}
        url = f"{self.endpoint.base_url}{self._path(path)}"
        async with self._session.request(method, url, params=params, data=data, headers=all_headers) as response:
            if response.status >= 400:
                raise EngineRefusal(response.status, read_message(await response.read()))
            yield response

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float | None = 60.0,
    ) -> Any:
        """A request on the event loop with a JSON answer, for what the SDK lacks or what may take long.

        Raises:
            EngineRefusal: The engine answered with an error.
        """
        async with asyncio.timeout(timeout_s), self.stream(method, path, params=params, body=body) as response:
            text = await response.read()
            return json.loads(text) if text.strip() else None

    async def hijack(
        self, path: str, *, params: str = "", body: Any = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Upgrade a request to a raw connection, as for exec and attach.

        Returns:
            Reader and writer of the raw stream; the caller closes the writer.

        Raises:
            EngineRefusal: The engine answered with an error.
        """
        endpoint = self.endpoint
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if endpoint.socket_path is not None:
                reader, writer = await asyncio.open_unix_connection(endpoint.socket_path, limit=_STREAM_BUFFER_BYTES)
            else:
                context = await asyncio.to_thread(endpoint.make_ssl_context)
                reader, writer = await asyncio.open_connection(
                    endpoint.host, endpoint.port, ssl=context, limit=_STREAM_BUFFER_BYTES
                )
        try:
            data = b"" if body is None else json.dumps(body).encode()
            target = self._path(path) + (f"?{params}" if params else "")
            head = (
                f"POST {target} HTTP/1.1\r\nHost: docker\r\nUser-Agent: {_USER_AGENT}\r\nConnection: Upgrade\r\n"
                f"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            writer.write(head.encode() + data)
            await writer.drain()
            status, headers = await _read_head(reader)
            if status not in (101, 200):
                length = int(headers.get("content-length", "0") or 0)
                text = await reader.readexactly(min(length, _MAX_HEADER_BYTES)) if length else b""
                raise EngineRefusal(status, read_message(text))
        except BaseException:
            writer.close()
            raise
        return reader, writer

    def _path(self, path: str) -> str:
        return f"/v{self._api_version[0]}.{self._api_version[1]}{path}"


async def _make_connector(endpoint: Endpoint) -> aiohttp.BaseConnector:
    if endpoint.socket_path is not None:
        return aiohttp.UnixConnector(endpoint.socket_path, limit=0)
    context = await asyncio.to_thread(endpoint.make_ssl_context)
    return aiohttp.TCPConnector(limit=0, ssl=context if context is not None else True)


def _check_socket(endpoint: Endpoint) -> None:
    path = endpoint.socket_path or ""
    if not os.path.exists(path):
        raise ConfigurationError(
            f"no Docker Engine at {endpoint}: {path} does not exist; start dockerd, or set DOCKER_HOST to where it listens"
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise ConfigurationError(
            f"no permission to use the Docker Engine at {endpoint}: add this user to the group that owns {path}, or run as root"
        )


async def _negotiate(session: aiohttp.ClientSession, endpoint: Endpoint) -> tuple[int, int]:
    try:
        async with (
            asyncio.timeout(_VERSION_TIMEOUT_S),
            session.get(f"{endpoint.base_url}/version") as response,
        ):
            if response.status >= 400:
                text = read_message(await response.read())
                raise TransientError(f"the Docker Engine at {endpoint} answered {response.status}: {text}")
            document = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        what = "does not answer in time" if isinstance(error, TimeoutError) else f"does not answer: {describe(error)}"
        raise TransientError(
            f"the Docker Engine at {endpoint} {what}; is dockerd running there, and is DOCKER_HOST right?"
        ) from error
    newest, oldest = _parse_version(document.get("ApiVersion")), _parse_version(document.get("MinAPIVersion"))
    if newest is None:
        raise ConfigurationError(f"what answers at {endpoint} is not a Docker Engine: its /version names no ApiVersion")
    if newest < MIN_API_VERSION:
        raise ConfigurationError(
            f"the Docker Engine at {endpoint} (version {document.get('Version')}) is too old: it speaks API"
            f" {newest[0]}.{newest[1]}, at least {MIN_API_VERSION[0]}.{MIN_API_VERSION[1]} (Docker 20.10) is needed"
        )
    return max(min(newest, MAX_API_VERSION), oldest or MIN_API_VERSION)


def _parse_version(text: Any) -> tuple[int, int] | None:
    major, _, minor = str(text or "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    parts = status_line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise ConnectionError(f"malformed answer: {status_line!r}")
    pairs = (line.partition(":") for line in lines if line)
    return int(parts[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
