"""One HTTP session to the API server, made for many small JSON requests.

The typed models of the official client cost milliseconds of CPU a call; here objects stay the dictionaries they are on the wire.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import aiohttp
from yarl import URL

from vkprovider._version import __version__
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.credentials import Credentials
from vkprovider.metrics import KubeletMetrics
from vkprovider.settings import ClusterSettings

logger = logging.getLogger(__name__)

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"

_MAX_CONNECTIONS = 48
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE", "PATCH"})
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


class RateLimiter:
    """Token bucket on loop time: ``qps`` tokens a second, at most ``burst`` at once.

    Source: client-go util/flowcontrol/throttle.go.
    """

    def __init__(self, qps: float, burst: int) -> None:
        self._qps = qps
        self._burst = max(1, burst)
        self._tokens = float(self._burst)
        self._updated_at: float | None = None

    async def acquire(self) -> None:
        """Wait for a token."""
        wait_s = self.reserve()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def reserve(self) -> float:
        """Take a token, maybe ahead of time; seconds until it may be used."""
        now = asyncio.get_running_loop().time()
        if self._updated_at is not None:
            self._tokens = min(float(self._burst), self._tokens + (now - self._updated_at) * self._qps)
        self._updated_at = now
        self._tokens -= 1
        return 0.0 if self._tokens >= 0 else -self._tokens / self._qps


class KubeClient:
    """Requests to the API server, for every part that talks to it.

    Use it as an async context manager, or call ``aclose`` at the end.

    Args:
        credentials: Where the server is, and how to be let in.
        settings: Time limit and client-side rate limit.
        metrics: What requests are counted into; None for nothing.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: ClusterSettings | None = None,
        *,
        metrics: KubeletMetrics | None = None,
    ) -> None:
        self._credentials = credentials
        self._metrics = metrics
        self._host = URL(credentials.server).authority
        self._settings = settings or ClusterSettings()
        self._limiter = RateLimiter(self._settings.qps, self._settings.burst) if self._settings.qps else None
        self._session: aiohttp.ClientSession | None = None
        self._warnings_seen: set[str] = set()
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    @property
    def credentials(self) -> Credentials:
        """Where the server is, and how to be let in."""
        return self._credentials

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Safe to repeat; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        timeout_s: float | None = None,
        decode: bool = True,
    ) -> dict[str, Any]:
        """Send a request and return the decoded answer.

        A request that is safe to repeat is sent once more when the connection was lost; after a 401 the credentials are renewed and
        the request is sent once more.

        Args:
            method: ``GET``, ``POST``, ``PUT``, ``PATCH`` or ``DELETE``.
            path: Path below the server's URL, names in it already escaped where need be.
            params: Query parameters.
            body: Object to send.
            content_type: Media type of the body; for patches one of the constants of this module.
            timeout_s: Seconds the whole request may take; None for the setting.
            decode: Whether the caller wants the answer; False saves decoding it and returns an empty dictionary.

        Raises:
            KubeAPIError: The server answered with an error.
            TransientError: There was no (readable) answer in time.
        """
        content = await self._send(method, path, params, body, content_type, timeout_s)
        return _decode(content, method, path) if decode else {}

    async def request_text(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> str:
        """Send a request whose answer is plain text, such as a pod's log; otherwise like ``request``."""
        return (await self._send(method, path, params, None, JSON, timeout_s)).decode(errors="replace")

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        timeout_s: float | None,
    ) -> bytes:
        url = self._build_url(path, params)
        data = None if body is None else _encode(body).encode()
        retry_connection = method in _IDEMPOTENT
        retry_authorization = True
        while True:
            if self._limiter is not None:
                await self._limiter.acquire()
            headers = {"Content-Type": content_type} if data is not None else {}
            if (authorization := await self._credentials.get_authorization()) is not None:
                headers["Authorization"] = authorization
            began, code = asyncio.get_running_loop().time(), "<error>"
            try:
                async with self._get_session().request(
                    method, url, data=data, headers=headers, timeout=self._get_timeout(timeout_s)
                ) as response:
                    content = await response.read()
                    code = str(response.status)
            except aiohttp.ClientConnectorError as error:
                # Nothing was sent; a refused connection is no accident that passes within the same moment.
                raise TransientError(f"cannot connect to the API server {self._credentials.server}: {error}") from error
            except TimeoutError as error:
                raise TransientError(f"{method} {path}: no answer from the API server in time") from error
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                if retry_connection:
                    retry_connection = False
                    continue
                raise TransientError(
                    f"{method} {path}: lost the connection to the API server: {error or type(error).__name__}"
                ) from error
            except aiohttp.ClientError as error:
                raise TransientError(f"{method} {path}: {error}") from error
            finally:
                if self._metrics is not None:
                    self._metrics.observe_api_request(
                        method, self._host, code, asyncio.get_running_loop().time() - began
                    )
            if "Warning" in response.headers:
                self._log_warnings(response.headers.getall("Warning"))
            if response.status < 300:
                return content
            if response.status == 401 and retry_authorization:
                retry_authorization = False
                if await self._credentials.invalidate():
                    continue
            raise _make_error(response, content, method, path)

    def _build_url(self, path: str, params: Mapping[str, str] | None) -> URL:
        if not params:
            return URL(self._credentials.server + path, encoded=True)
        return URL(self._credentials.server + path, encoded=True).with_query(params)

    def _get_timeout(self, timeout_s: float | None) -> aiohttp.ClientTimeout:
        seconds = self._settings.request_timeout_s if timeout_s is None else timeout_s
        if (timeout := self._timeouts.get(seconds)) is None:
            timeout = aiohttp.ClientTimeout(total=seconds)
            if len(self._timeouts) < 16:
                self._timeouts[seconds] = timeout
        return timeout

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=_MAX_CONNECTIONS, ssl=self._credentials.ssl_context or True, keepalive_timeout=60.0
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": JSON, "User-Agent": f"vkprovider/{__version__}"},
                skip_auto_headers=("Accept-Encoding",),
                proxy=self._credentials.proxy,
            )
        return self._session

    def _log_warnings(self, values: list[str]) -> None:
        for value in values:
            if value not in self._warnings_seen and len(self._warnings_seen) < 1000:
                self._warnings_seen.add(value)
                logger.warning("Warning of the API server", extra={"warning": value})


def _decode(content: bytes, method: str, path: str) -> dict[str, Any]:
    try:
        decoded = json.loads(content)
    except ValueError as error:
        raise TransientError(f"{method} {path}: the API server's answer is not JSON") from error
    if not isinstance(decoded, dict):
        raise TransientError(f"{method} {path}: the API server's answer is not an object")
    return decoded


def _make_error(response: aiohttp.ClientResponse, content: bytes, method: str, path: str) -> KubeAPIError:
    message, reason = content[:500].decode(errors="replace").strip(), ""
    try:
        status = json.loads(content)
        message, reason = status.get("message") or message, status.get("reason") or ""
    except (ValueError, AttributeError):
        pass
    retry_after = response.headers.get("Retry-After", "")
    return KubeAPIError(
        f"{method} {path}: {response.status} {message or response.reason}",
        status=response.status,
        kube_reason=reason,
        retry_after_s=float(retry_after) if retry_after.isdigit() else None,
    )
