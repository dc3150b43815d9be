"""Logs of containers, read through the engine as they are asked for.

The engine applies tail (reading its files from the end) and since; formatting and the byte limit are ours. The engine may
end a followed log before its last lines, or at a rotation while the container runs on; so a followed log is read with time
stamps, shown or not, and read on from the last one until the container has stopped and all has been shown.

Source: kubelet pkg/kubelet/kuberuntime/logs/logs.go, ReadLogs; Engine API, ContainerLogs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from vkprovider.api.timestamps import parse_time
from vkprovider.backends.docker.demux import STDERR, STDOUT, Demultiplexer, StampedLines, TerminalEntries
from vkprovider.backends.docker.engine import Engine
from vkprovider.backends.docker.errors import EngineRefusal, engine_errors
from vkprovider.errors import TransientError, UnsupportedError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Entries of the two streams may lie in the file in another order than their stamps, by a moment.
_OVERLAP = timedelta(milliseconds=1)
_RESUME_PAUSE_S = 0.2


async def read_logs(engine: Engine, container_id: cri.ContainerID, options: LogOptions) -> AsyncIterator[bytes]:
    """Chunks of a container's log; the first, empty one says that the log is open.

    Raises:
        NotFoundError: No such container.
        UnsupportedError: The container's log driver cannot be read.
        TransientError: The engine did not answer.
    """
    document = await engine.inspect(container_id)
    formatter = Formatter(options, terminal=bool(document["Config"].get("Tty")))
    begun_at = datetime.now(UTC)
    remaining = options.limit_bytes
    request = options
    opened = False
    while True:
        async for shown in _read_once(engine, container_id, request, formatter):
            if not shown:
                if not opened:
                    opened = True
                    yield b""
                continue
            if remaining is not None:
                shown = shown[:remaining]
                remaining -= len(shown)
            yield shown
            if remaining == 0:
                return
        if not request.follow:
            return
        last = await engine.find(container_id)
        if last is None:
            return  # removed, and its log with it
        running = bool(last["State"].get("Running"))
        if running:
            await asyncio.sleep(_RESUME_PAUSE_S)
        request = formatter.resume(options, begun_at=begun_at, follow=running)


async def _read_once(
    engine: Engine, container_id: str, request: LogOptions, formatter: Formatter
) -> AsyncIterator[bytes]:
    """One request's share of a log; an empty chunk says that the engine has opened it."""
    doing = f"read the log of container {container_id!r}"
    formatter.begin()
    with engine_errors(doing):
        try:
            async with engine.client.stream(
                "GET",
                f"/containers/{quote(container_id)}/logs",
                params=make_parameters(request, timestamps=formatter.needs_stamps),
            ) as response:
                yield b""
                async for chunk in response.content.iter_any():
                    if shown := formatter.feed(chunk):
                        yield shown
                if rest := formatter.finish():
                    yield rest
        except ValueError as error:
            raise TransientError(f"failed to {doing}: {error}") from error
        except EngineRefusal as error:
            if "does not support reading" in error.message:
                raise UnsupportedError(f"failed to {doing}: {error.message}") from error
            raise


def make_parameters(options: LogOptions, *, timestamps: bool) -> dict[str, str]:
    """Query of the engine's log request.

    Args:
        options: What is asked for.
        timestamps: Whether the engine is to stamp its entries.
    """
    parameters = {"stdout": _flag(options.stdout), "stderr": _flag(options.stderr)}
    if options.follow:
        parameters["follow"] = "1"
    if timestamps:
        parameters["timestamps"] = "1"
    if options.tail_lines is not None:
        parameters["tail"] = str(options.tail_lines)
    if options.since is not None:
        micros = (options.since - _EPOCH) // timedelta(microseconds=1)
        parameters["since"] = f"{micros // 1_000_000}.{micros % 1_000_000:06d}000"
    return parameters


class Formatter:
    """Turns the engine's bytes into what is shown, over all requests of one reading.

    Args:
        options: What is asked for.
        terminal: Whether the container has a terminal, so that its log has one stream and no frames.
    """

    def __init__(self, options: LogOptions, *, terminal: bool) -> None:
        self.needs_stamps = options.timestamps or options.follow
        self._terminal = terminal
        wanted = [stream for stream, on in ((STDOUT, options.stdout), (STDERR, options.stderr)) if on]
        if terminal:
            wanted = [STDOUT]
        self._lines = {stream: StampedLines(show_stamps=options.timestamps) for stream in wanted}
        self._demultiplexer = Demultiplexer()
        self._entries = TerminalEntries()

    def begin(self) -> None:
        """A new answer of the engine begins."""
        self._demultiplexer = Demultiplexer(whole_frames=self.needs_stamps)
        self._entries = TerminalEntries()

    def resume(self, options: LogOptions, *, begun_at: datetime, follow: bool) -> LogOptions:
        """The request that goes on where the last answer ended.

        Args:
            options: What was asked for at first.
            begun_at: When the reading began; where to go on if nothing has been shown of a log without its past.
            follow: Whether to wait for more.
        """
        stamps = [parse_time(lines.last.decode()) for lines in self._lines.values() if lines.last]
        if not stamps:
            since = begun_at if options.tail_lines == 0 else options.since
            tail = None if options.tail_lines == 0 else options.tail_lines
            return replace(options, follow=follow, since=since, tail_lines=tail)
        for lines in self._lines.values():
            lines.restart()
        since = min(stamps) - _OVERLAP
        return replace(
            options, follow=follow, tail_lines=None, since=since if options.since is None else max(since, options.since)
        )

    def feed(self, chunk: bytes) -> bytes:
        """What to show of a chunk.

        Raises:
            ValueError: The chunk is not what the engine sends.
        """
        if not self._terminal:
            return b"".join(self._frames(self._demultiplexer.feed(chunk)))
        if not self.needs_stamps:
            return chunk
        return self._terminal_entries(self._entries.feed(chunk))

    def finish(self) -> bytes:
        """What was held back, at the end of an answer."""
        return self._terminal_entries(self._entries.finish()) if self._terminal else b""

    def _frames(self, frames: list[tuple[int, bytes]]) -> Iterator[bytes]:
        for stream, payload in frames:
            lines = self._lines.get(stream)
            if lines is not None:
                yield lines.feed(payload) if self.needs_stamps else payload

    def _terminal_entries(self, entries: list[bytes]) -> bytes:
        return b"".join(map(self._lines[STDOUT].feed, entries))


def _flag(value: bool) -> str:
    return "1" if value else "0"
