"""In-process byte streams that cross the provider seam: logs, exec, attach and port-forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


class ByteReader(ABC):
    """The reading end of a byte stream."""

    @abstractmethod
    async def read(self, max_bytes: int = 65536) -> bytes:
        """Next bytes, at most ``max_bytes``; empty at the end of the stream.

        Raises:
            ConnectionError: The other side went away in the middle.
        """


class ByteWriter(ABC):
    """The writing end of a byte stream."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send bytes; returns once they are accepted, so that a slow reader holds the writer back.

        Raises:
            ConnectionError: The other side went away.
        """

    @abstractmethod
    async def write_eof(self) -> None:
        """Say that no more bytes follow. Safe to repeat."""


class CappedBuffer(ByteWriter):
    """Keeps the first bytes written to it and drops the rest.

    Args:
        limit_bytes: How many bytes to keep.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()

    async def write(self, data: bytes) -> None:
        """Keep what still fits."""
        self._data += data[: max(0, self._limit_bytes - len(self._data))]

    async def write_eof(self) -> None:
        """Nothing to do."""

    def getvalue(self) -> bytes:
        """What was kept."""
        return bytes(self._data)


class DuplexStream(ByteReader, ByteWriter):
    """Both ends at once, as of a TCP connection."""

    @abstractmethod
    async def aclose(self) -> None:
        """Drop the stream in both directions. Safe to repeat."""


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Size of a terminal in character cells."""

    width: int
    height: int


async def _no_sizes() -> AsyncIterator[TerminalSize]:
    return
    yield


@dataclass(slots=True)
class ProcessStreams:
    """The streams of a process in a container, as a client asked for them.

    Attributes:
        stdin: What the client sends; None when the client sends nothing.
        stdout: Where output goes; None when the client does not want it. With a terminal it carries both outputs.
        stderr: Where error output goes; always None with a terminal.
        tty: Whether the process has a terminal.
        sizes: Terminal sizes as the client changes them; ends when the client is gone.
    """

    stdin: ByteReader | None = None
    stdout: ByteWriter | None = None
    stderr: ByteWriter | None = None
    tty: bool = False
    sizes: AsyncIterator[TerminalSize] = field(default_factory=_no_sizes)
