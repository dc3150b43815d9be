"""Logs of containers, read through the engine as they are asked for.

The engine applies tail (reading its files from the end) and since; formatting and the byte limit are ours.

Source: kubelet pkg/kubelet/kuberuntime/logs/logs.go, ReadLogs; Engine API, ContainerLogs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from vkprovider.backends.docker.demux import STDERR, STDOUT, Demultiplexer, LineStamper, TerminalLineStamper
from vkprovider.backends.docker.engine import Engine
from vkprovider.backends.docker.errors import EngineRefusal, engine_errors
from vkprovider.errors import TransientError, UnsupportedError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def read_logs(engine: Engine, container_id: cri.ContainerID, options: LogOptions) -> AsyncIterator[bytes]:
    """Chunks of a container's log; the first, empty one says that the log is open.

    Raises:
        NotFoundError: No such container.
        UnsupportedError: The container's log driver cannot be read.
        TransientError: The engine did not answer.
    """
    document = await engine.inspect(container_id)
    terminal = bool(document["Config"].get("Tty"))
    doing = f"read the log of container {container_id!r}"
    remaining = options.limit_bytes
    with engine_errors(doing):
        try:
            async with engine.client.stream(
                "GET", f"/containers/{quote(container_id)}/logs", params=make_parameters(options)
            ) as response:
                yield b""
                formatter = make_formatter(options, terminal=terminal)
                async for chunk in response.content.iter_any():
                    shown = formatter.feed(chunk)
                    if remaining is not None:
                        shown = shown[:remaining]
                        remaining -= len(shown)
                    if shown:
                        yield shown
                    if remaining == 0:
                        return
                rest = formatter.finish()
                if rest := rest if remaining is None else rest[:remaining]:
                    yield rest
        except ValueError as error:
            raise TransientError(f"failed to {doing}: {error}") from error
        except EngineRefusal as error:
            if "does not support reading" in error.message:
                raise UnsupportedError(f"failed to {doing}: {error.message}") from error
            raise


def make_parameters(options: LogOptions) -> dict[str, str]:
    """Query of the engine's log request."""
    parameters = {"stdout": _flag(options.stdout), "stderr": _flag(options.stderr)}
    if options.follow:
        parameters["follow"] = "1"
    if options.timestamps:
        parameters["timestamps"] = "1"
    if options.tail_lines is not None:
        parameters["tail"] = str(options.tail_lines)
    if options.since is not None:
        micros = (options.since - _EPOCH) // timedelta(microseconds=1)
        parameters["since"] = f"{micros // 1_000_000}.{micros % 1_000_000:06d}000"
    return parameters


class Formatter:
    """Turns the engine's bytes into what is shown."""

    def __init__(self, options: LogOptions, *, terminal: bool) -> None:
        self._wanted = {stream for stream, on in ((STDOUT, options.stdout), (STDERR, options.stderr)) if on}
        self._demultiplexer = None if terminal else Demultiplexer(whole_frames=options.timestamps)
        self._terminal_stamper = TerminalLineStamper() if terminal and options.timestamps else None
        self._stampers = {stream: LineStamper() for stream in (STDOUT, STDERR)} if options.timestamps else {}

    def feed(self, chunk: bytes) -> bytes:
        """What to show of a chunk.

        Raises:
            ValueError: The chunk is not what the engine sends.
        """
        if self._demultiplexer is None:
            return chunk if self._terminal_stamper is None else self._terminal_stamper.feed(chunk)
        return b"".join(self._frames(self._demultiplexer.feed(chunk)))

    def finish(self) -> bytes:
        """What was held back, at the end of the log."""
        return b"" if self._terminal_stamper is None else self._terminal_stamper.finish()

    def _frames(self, frames: list[tuple[int, bytes]]) -> Iterator[bytes]:
        for stream, payload in frames:
            if stream in self._wanted:
                stamper = self._stampers.get(stream)
                yield payload if stamper is None else stamper.feed(payload)


def make_formatter(options: LogOptions, *, terminal: bool) -> Formatter:
    """A formatter for one reading of a log."""
    return Formatter(options, terminal=terminal)


def _flag(value: bool) -> str:
    return "1" if value else "0"
