"""``/containerLogs/{namespace}/{pod}/{container}``: a container's log, streamed.

Source: kubelet pkg/kubelet/server/server.go, getContainerLogs; api core/v1 validation, ValidatePodLogOptions.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

from aiohttp import web
from multidict import MultiMapping

from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api.pods import find_container
from vkprovider.api.timestamps import parse_time
from vkprovider.errors import InvalidPodError, NotFoundError, UnsupportedError, VkproviderError
from vkprovider.provider.capabilities import LogOptions, LogsCapability
from vkprovider.provider.pod_provider import PodProvider
from vkprovider.server.pods import PodLookup

logger = logging.getLogger(__name__)

OPEN_GRACE_S = 1.0
"""How long a provider may take to refuse a log before the header is sent. An empty first chunk ends the wait at once."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_INT64 = range(-(2**63), 2**63)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)")
_STREAMS = ("All", "Stdout", "Stderr")


class LogHandlers:
    """Answers ``/containerLogs``.

    Args:
        pods: The node's pods.
        provider: Shows logs by its ``LogsCapability``.
        clock: Time, for ``sinceSeconds``.
    """

    def __init__(self, pods: PodLookup, provider: PodProvider, clock: Clock) -> None:
        self._pods = pods
        self._provider = provider
        self._clock = clock

    async def handle_container_logs(self, request: web.Request) -> web.StreamResponse:
        """Stream the log; the client's leaving ends the provider's generator at once."""
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        container = request.match_info["container"]
        options = parse_log_options(request.query, now=self._clock.now())
        pod = self._pods.find_pod(namespace, name)
        if pod is None:
            raise NotFoundError(f'pod "{name}" does not exist')
        if find_container(pod, container) is None:
            raise NotFoundError(f'container "{container}" not found in pod "{name}"')
        stream = request.query.get("stream", "All")
        if stream != "All":
            raise InvalidPodError(
                f'unable to return the given log stream: "{stream}". '
                "Please enable PodLogsQuerySplitStreams feature gate in kubelet"
            )
        logs = self._provider.find_capability(LogsCapability)  # type: ignore[type-abstract]
        if logs is None:
            raise UnsupportedError(f"provider {self._provider.name!r} does not show logs of containers")
        return await _stream(request, logs.container_logs(pod, container, options), limit_bytes=options.limit_bytes)


def parse_log_options(query: MultiMapping[str], *, now: datetime) -> LogOptions:
    """Options from a query string; of repeated keys the first counts.

    Args:
        query: The query.
        now: What ``sinceSeconds`` counts back from.

    Raises:
        web.HTTPBadRequest: A value cannot be read.
        web.HTTPUnprocessableEntity: A value is out of its range, or two exclude each other.
    """
    try:
        tail = query.get("tail") or None
        tail_lines = _integer(tail if tail is not None else query.get("tailLines")) if tail != "all" else None
        since_seconds = _integer(query.get("sinceSeconds"))
        limit_bytes = _integer(query.get("limitBytes"))
        since_time = query.get("sinceTime")
        since = _time(since_time) if since_time is not None else None
    except ValueError as error:
        raise web.HTTPBadRequest(text='{"message": "Unable to decode query."}') from error
    stream = query.get("stream")
    if (
        (tail_lines is not None and tail_lines < 0)
        or (limit_bytes is not None and limit_bytes < 1)
        or (since_seconds is not None and (since_time is not None or since_seconds < 1))
        or (stream is not None and (stream not in _STREAMS or (stream != "All" and tail_lines is not None)))
    ):
        raise web.HTTPUnprocessableEntity(text='{"message": "Invalid request."}')
    if since_seconds is not None:
        since = _seconds_before(now, since_seconds)
    return LogOptions(
        follow=_flag(query, "follow"),
        previous=_flag(query, "previous"),
        timestamps=_flag(query, "timestamps"),
        since=since,
        tail_lines=tail_lines,
        limit_bytes=limit_bytes,
    )


async def _stream(request: web.Request, chunks: AsyncIterator[bytes], *, limit_bytes: int | None) -> web.StreamResponse:
    """Send chunks as they come, waiting for the client to take them.

    The header goes out as soon as the log is open, also when there is no output yet; an error before that becomes a
    status of its own, one after it is appended to the output, as in the kubelet.
    """
    async with AsyncExitStack() as stack:
        aclose = getattr(chunks, "aclose", None)
        if aclose is not None:
            stack.push_async_callback(aclose)
        first = asyncio.create_task(_next(chunks), name="log:first-chunk")
        stack.push_async_callback(_end, first)
        await asyncio.wait({first}, timeout=OPEN_GRACE_S)
        if first.done() and isinstance(error := first.exception(), NotFoundError):
            # 400 rather than 404: the API server passes the message of a 400 on to the user.
            raise InvalidPodError(str(error)) from error
        chunk = first.result() if first.done() else b""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        # The header leaves with the first bytes in one packet, or by itself if there are none yet.
        await response.prepare(request)
        left = limit_bytes
        try:
            if not first.done():
                chunk = await first
            while chunk is not None:
                if left is not None:
                    chunk = chunk[:left]
                    left -= len(chunk)
                if chunk:
                    await response.write(chunk)
                if left == 0:
                    break
                chunk = await _next(chunks)
        except VkproviderError as error:
            logger.info("A log ended with an error", extra={"path": request.path, "error": str(error)})
            await response.write(str(error).encode())
        await response.write_eof()
    return response


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


async def _end(task: asyncio.Task[bytes | None]) -> None:
    if not task.done():
        await cancel_and_wait([task])


def _flag(query: MultiMapping[str], name: str) -> bool:
    """False if absent, ``0`` or ``false``. Source: apimachinery pkg/runtime/conversion.go."""
    value = query.get(name)
    return value is not None and value != "0" and value.lower() != "false"


def _integer(text: str | None) -> int | None:
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or len(text) > 20 or int(text) not in _INT64:
        raise ValueError(f"not an integer of 64 bits: {text!r}")
    return int(text)


def _time(text: str) -> datetime | None:
    """An RFC 3339 time; empty or ``null`` for none. Source: apimachinery meta/v1 time.go, UnmarshalQueryParameter."""
    if text in ("", "null"):
        return None
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    return parse_time(text.replace(",", "."))


def _seconds_before(now: datetime, seconds: int) -> datetime:
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=now.tzinfo)
