"""GET requests of ``httpGet`` probes and hooks: a small HTTP/1.1 client that behaves, and fails, as Go's does.

No proxy, no verification of certificates, no compression, one connection a request, redirects only within one host name, and at most
10 KiB of the body.

Source: pkg/probe/http/request.go, pkg/probe/http/http.go; Go package net/http (error texts).
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from vkprovider.api import v1
from vkprovider.kubelet.prober.transport import (
    Connection,
    ConnectionFailedError,
    TLSConnection,
    dial,
    join_host_port,
)
from vkprovider.settings import KUBELET_VERSION

MAX_BODY_BYTES: Final = 10 * 1024
"""How much of a body is read. Source: pkg/probe/http/http.go, maxRespBodyLength."""
_MAX_HEADER_BYTES: Final = 10 * 1024 * 1024
_MAX_REDIRECTS: Final = 10
_MAX_INFORMATIONAL: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_VERSION: Final = ".".join(KUBELET_VERSION.removeprefix("v").split(".")[:2])
_BROKEN: Final = "net/http: HTTP/1.x transport connection broken: "

_VALID_ESCAPES = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_VALID_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/\[\]%]*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_PROTOCOL = re.compile(r"HTTP/\d\.\d", re.ASCII)
_QUERY_SAFE: Final = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_HEADER_END = re.compile(rb"\r?\n\r?\n")


class HTTPFailureError(Exception):
    """No answer could be had; the text is the one of Go's client.

    Args:
        url: What was asked for.
        cause: What happened.
    """

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f'Get "{url}": {cause}')
        self.cause = cause


class BodyError(Exception):
    """An answer came, but its body could not be read; the text is Go's."""


@dataclass(frozen=True)
class HTTPRequest:
    """A GET request.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Address or name to connect to.
        port: Port to connect to.
        target: Path and query, escaped.
        headers: Headers to send as (name, value), without Host.
        host_header: Value of Host; empty for the URL's.
        shown_url: The URL as it was written, if that differs.
    """

    scheme: str
    host: str
    port: int
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    host_header: str = ""
    shown_url: str = ""

    @property
    def url(self) -> str:
        """The URL, as messages show it."""
        return self.shown_url or f"{self.scheme}://{join_host_port(self.host, self.port)}{self.target}"

    @functools.cached_property
    def encoded(self) -> bytes:
        """The request as it goes over the wire."""
        host = self.host_header or join_host_port(self.host, self.port)
        lines = [f"GET {self.target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers if name != "Connection"]
        lines += ["Connection: close", "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """An answer.

    Attributes:
        status: Status code.
        headers: Values by lower-case name; of repeated ones the first.
        body: The first 10 KiB of the body.
        body_error: Why the body is not whole, or None.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    body_error: str | None = None


def resolve_port(port: int | str, container: v1.Container) -> int:
    """Number of a port given as number or as name of one of the container's ports.

    Raises:
        ValueError: No such port; the message is Go's.

    Source: pkg/probe/util.go, ResolveContainerPort.
    """
    number: int
    if isinstance(port, int):
        number = port
    else:
        named = next((p["containerPort"] for p in container.get("ports") or () if p.get("name") == port), None)
        if named is not None:
            number = named
        elif re.fullmatch(r"[+-]?\d+", port, re.ASCII):
            number = int(port)
        else:
            raise ValueError(f'strconv.Atoi: parsing "{port}": invalid syntax')
    if not 0 < number < 65536:
        raise ValueError(f"invalid port number: {number}")
    return number


def make_request(action: Mapping[str, Any], container: v1.Container, pod_ip: str, *, purpose: str) -> HTTPRequest:
    """The request of an ``httpGet`` action.

    Args:
        action: The action.
        container: Container whose named ports count.
        pod_ip: Host if the action names none.
        purpose: ``probe`` or ``lifecycle``, for the User-Agent.

    Raises:
        ValueError: The port is unknown, or a header cannot be sent.

    Source: pkg/probe/http/request.go, NewRequestForHTTPGetAction.
    """
    headers: dict[str, list[str]] = {}
    for header in action.get("httpHeaders") or ():
        headers.setdefault(_canonical_name(header.get("name", "")), []).append(header.get("value", ""))
    headers.setdefault("User-Agent", [f"kube-{purpose}/{_VERSION}"])
    if not headers.setdefault("Accept", ["*/*"])[0]:
        del headers["Accept"]
    if not headers["User-Agent"][0]:
        del headers["User-Agent"]
    host_header = (headers.pop("Host", None) or [""])[0]
    for name, values in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f'net/http: invalid header field name "{name}"')
        if any(_CONTROL.search(value.replace("\t", "")) for value in values):
            raise ValueError(f'net/http: invalid header field value for "{name}"')
    return HTTPRequest(
        scheme=(action.get("scheme") or "http").lower(),
        host=action.get("host") or pod_ip,
        port=resolve_port(action.get("port", 0), container),
        target=_make_target(action.get("path") or ""),
        headers=tuple((name, value) for name, values in sorted(headers.items()) for value in values),
        host_header=host_header,
    )


def _canonical_name(name: str) -> str:
    """``x-foo`` as ``X-Foo``; left alone if it is no valid name."""
    if not _TOKEN.fullmatch(name):
        return name
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def _make_target(path: str) -> str:
    """Path and query as sent, with what may not stand there escaped.

    Source: request.go, formatURL; Go net/url, URL.EscapedPath.
    """
    head, question, query = path.partition("#")[0].partition("?")
    if head.startswith("//") and not head.startswith("///"):
        # Go takes it for a host, which the real one then replaces.
        head = "/" + head[2:].partition("/")[2]
    if _CONTROL.search(path) or not _VALID_ESCAPES.fullmatch(head):
        # Too late to refuse it: the whole is taken for a literal path.
        return "/" + quote(path, safe="$&+,/:;=@-_.~").removeprefix("/")
    if not _VALID_PATH.fullmatch(head):
        head = quote(unquote_to_bytes(head), safe="$&+,/:;=@-_.~")
    if not head.startswith("/"):
        head = "/" + head
    return f"{head}{question}{quote(query, safe=_QUERY_SAFE)}" if question else head


async def get(request: HTTPRequest, *, timeout_s: float | None, read_body: bool = True) -> HTTPResponse:
    """Send a request, follow redirects on the same host name, and return the last answer.

    A redirect to another host name is not followed; its answer is returned as it is.

    Args:
        request: What to ask for.
        timeout_s: Seconds for all of it; None for no bound.
        read_body: Whether the body is wanted.

    Raises:
        HTTPFailureError: No answer.
    """
    current = request
    answer: HTTPResponse | None = None
    reading = False
    try:
        async with asyncio.timeout(timeout_s):
            for count in range(_MAX_REDIRECTS + 1):
                reading = False
                try:
                    with await _open(current) as connection:
                        await connection.send(current.encoded)
                        reader = _ResponseReader(connection)
                        answer = await reader.read_head()
                        following = _find_redirect(current, answer, request)
                        if following is None or following.host.lower() != request.host.lower():
                            if not read_body:
                                return answer
                            reading = True
                            return await _with_body(reader, answer)
                except (ConnectionFailedError, _ProtocolError) as error:
                    raise HTTPFailureError(current.url, str(error)) from error
                if count + 1 >= _MAX_REDIRECTS:
                    location = answer.headers["location"]
                    raise HTTPFailureError(location, f"stopped after {_MAX_REDIRECTS} redirects")
                current = following
    except TimeoutError as error:
        if reading and answer is not None:
            text = "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
            return HTTPResponse(answer.status, answer.headers, body_error=text)
        raise HTTPFailureError(
            current.url, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ) from error
    raise AssertionError("unreachable: the loop returns or raises")


async def _open(request: HTTPRequest) -> Connection:
    if request.scheme not in ("http", "https"):
        raise ConnectionFailedError(f'unsupported protocol scheme "{request.scheme}"')
    sock, remote = await dial(request.host, request.port)
    if request.scheme == "http":
        return Connection(sock, remote)
    connection = TLSConnection(sock, remote, request.host)
    try:
        await connection.handshake()
    except BaseException:
        sock.close()
        raise
    return connection


def _find_redirect(current: HTTPRequest, answer: HTTPResponse, first: HTTPRequest) -> HTTPRequest | None:
    """Where a redirect leads, or None if it is none."""
    location = answer.headers.get("location", "")
    if answer.status not in _REDIRECTS or not location:
        return None
    try:
        parts = urlsplit(urljoin(current.url, location))
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise _ProtocolError(f'failed to parse Location header "{location}": parse "{location}": {error}') from error
    relative = not urlsplit(location).scheme
    referer = () if current.scheme == "https" and parts.scheme == "http" else (("Referer", current.url),)
    return HTTPRequest(
        scheme=parts.scheme,
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        target=_make_target(f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"),
        headers=tuple(pair for pair in current.headers if pair[0] != "Referer") + referer,
        host_header=first.host_header if relative else parts.netloc.rpartition("@")[2],
        shown_url=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
    )


async def _with_body(reader: _ResponseReader, answer: HTTPResponse) -> HTTPResponse:
    try:
        body = await reader.read_body(answer)
    except (BodyError, ConnectionFailedError) as error:
        return HTTPResponse(answer.status, answer.headers, body_error=str(error))
    return HTTPResponse(answer.status, answer.headers, body)


class _ProtocolError(Exception):
    """The server does not speak HTTP."""


class _ResponseReader:
    """Reads one answer from a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._at_end = False

    async def read_head(self) -> HTTPResponse:
        """Status and headers of the final answer; informational ones before it are skipped."""
        for _ in range(_MAX_INFORMATIONAL + 1):
            answer = await self._read_one_head()
            if answer.status == 101 or answer.status >= 200:
                return answer
        raise _ProtocolError(f"{_BROKEN}net/http: too many 1xx informational responses")

    async def _read_one_head(self) -> HTTPResponse:
        position, checked = 0, False
        while (end := _HEADER_END.search(self._buffer, max(0, position - 3))) is None:
            position = len(self._buffer)
            if not checked and (newline := self._buffer.find(b"\n")) >= 0:
                # A server of another protocol may have said all it will: do not wait for more.
                _parse_status_line(bytes(self._buffer[:newline]).rstrip(b"\r"))
                checked = True
            if position > _MAX_HEADER_BYTES:
                raise _ProtocolError(
                    f"{_BROKEN}net/http: server response headers exceeded {_MAX_HEADER_BYTES} bytes; aborted"
                )
            if not await self._fill():
                raise _ProtocolError(f"{_BROKEN}unexpected EOF" if self._buffer else "EOF")
        head = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        return _parse_head(head)

    async def _fill(self) -> bool:
        if self._at_end:
            return False
        data = await self._connection.receive()
        self._at_end = not data
        self._buffer += data
        return bool(data)

    async def read_body(self, answer: HTTPResponse) -> bytes:
        """The first 10 KiB of the body."""
        if answer.status in (101, 204, 304):
            return b""
        if "chunked" in answer.headers.get("transfer-encoding", "").lower():
            return await self._read_chunked()
        length = answer.headers.get("content-length")
        if length is not None:
            return await self._read_exactly(min(int(length), MAX_BODY_BYTES))
        while len(self._buffer) < MAX_BODY_BYTES and await self._fill():
            pass
        return bytes(self._buffer[:MAX_BODY_BYTES])

    async def _read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not await self._fill():
                raise BodyError("unexpected EOF")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _read_chunked(self) -> bytes:
        body = bytearray()
        while len(body) < MAX_BODY_BYTES:
            while (end := self._buffer.find(b"\n")) < 0:
                if len(self._buffer) > MAX_BODY_BYTES:
                    raise BodyError("header line too long")
                if not await self._fill():
                    raise BodyError("unexpected EOF")
            digits = bytes(self._buffer[:end]).partition(b";")[0].strip()
            del self._buffer[: end + 1]
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", digits):
                raise BodyError("empty hex number for chunk length" if not digits else "invalid byte in chunk length")
            size = int(digits, 16)
            if size == 0:
                break
            wanted = min(size, MAX_BODY_BYTES - len(body))
            body += await self._read_exactly(wanted)
            if wanted == size and (await self._read_exactly(2)) != b"\r\n":
                raise BodyError("malformed chunked encoding")
        return bytes(body)


def _parse_status_line(line: bytes) -> int:
    text = line.decode("latin-1")
    protocol, blank, rest = text.partition(" ")
    if not blank:
        raise _ProtocolError(f'{_BROKEN}malformed HTTP response "{text}"')
    code = rest.lstrip(" ").partition(" ")[0]
    if len(code) != 3 or not code.isdigit():
        raise _ProtocolError(f'{_BROKEN}malformed HTTP status code "{code}"')
    if not _PROTOCOL.fullmatch(protocol):
        raise _ProtocolError(f'{_BROKEN}malformed HTTP version "{protocol}"')
    return int(code)


def _parse_head(head: bytes) -> HTTPResponse:
    first, *lines = head.split(b"\n")
    status = _parse_status_line(first.rstrip(b"\r"))
    headers: dict[str, str] = {}
    previous = ""
    for raw in lines:
        line = raw.rstrip(b"\r").decode("latin-1")
        if line[:1] in (" ", "\t") and previous:
            headers[previous] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise _ProtocolError(f'{_BROKEN}malformed MIME header: missing colon: "{line}"')
        previous = name.lower()
        headers.setdefault(previous, value.strip())
    length = headers.get("content-length")
    if length is not None and not re.fullmatch(r"\d{1,18}", length, re.ASCII):
        raise _ProtocolError(f'{_BROKEN}bad Content-Length "{length}"')
    return HTTPResponse(status, headers)
