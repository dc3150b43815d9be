"""The engine's multiplexed streams: frames of an 8-byte header (stream, three zero bytes, length) and a payload. Pure.

Source: Engine API, ContainerAttach, section Stream format; moby pkg/stdcopy.
"""

from __future__ import annotations

import struct

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
HEADER_BYTES = 8
PARTIAL_BYTES = 16 * 1024
"""Length at which the engine splits a long log line. Source: moby daemon/logger/copier.go, defaultBufSize."""
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_TIMESTAMP_END = 64


class Demultiplexer:
    """Takes chunks as they come and gives payloads: parts of frames at once, or whole frames.

    Args:
        whole_frames: Hold a frame back until all of it has come.
    """

    def __init__(self, *, whole_frames: bool = False) -> None:
        self._whole_frames = whole_frames
        self._buffer = bytearray()
        self._stream = 0
        self._missing = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Payloads, with the number of their stream, that this chunk completes or continues.

        Raises:
            ValueError: The data is no multiplexed stream.
        """
        self._buffer += data
        payloads: list[tuple[int, bytes]] = []
        view = memoryview(self._buffer)
        position, end = 0, len(view)
        try:
            while True:
                if self._missing == 0:
                    if end - position < HEADER_BYTES:
                        break
                    stream, length = struct.unpack_from(">BxxxI", view, position)
                    if stream > SYSTEM_ERROR or any(view[position + 1 : position + 4]) or length > _MAX_FRAME_BYTES:
                        raise ValueError(
                            f"not a multiplexed stream: header {bytes(view[position : position + 8]).hex()}"
                        )
                    if self._whole_frames and end - position - HEADER_BYTES < length:
                        break
                    position += HEADER_BYTES
                    self._stream, self._missing = stream, length
                    if length == 0:
                        continue
                take = min(self._missing, end - position)
                if take == 0:
                    break
                payloads.append((self._stream, bytes(view[position : position + take])))
                position += take
                self._missing -= take
        finally:
            view.release()
            del self._buffer[:position]
        return payloads


class LineStamper:
    """Puts together lines that the engine split and stamped part by part.

    With timestamps the engine prefixes every part of a split line. This keeps the first stamp and drops the others, so that
    a line appears as it was written. Give it whole frames of one stream.
    """

    def __init__(self) -> None:
        self._in_line = False

    def feed(self, frame: bytes) -> bytes:
        """What to show for one frame: a time stamp, a blank and text."""
        stamp, blank, text = frame.partition(b" ")
        if not blank or len(stamp) > _TIMESTAMP_END:
            return frame
        shown = text if self._in_line else format_stamp(stamp) + b" " + text
        self._in_line = not text.endswith(b"\n")
        return shown


class TerminalLineStamper:
    """The same for the raw log of a terminal, which has no frames: parts are told by their length."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_line = False

    def feed(self, data: bytes) -> bytes:
        """What to show of this chunk; an incomplete part is held back."""
        self._buffer += data
        shown = bytearray()
        while True:
            blank = self._buffer.find(b" ", 0, _TIMESTAMP_END)
            if blank < 0:
                if len(self._buffer) >= _TIMESTAMP_END:  # no stamp where there must be one: show it as it is
                    shown += self._buffer
                    self._buffer.clear()
                break
            start = blank + 1
            newline = self._buffer.find(b"\n", start, start + PARTIAL_BYTES)
            end = newline + 1 if newline >= 0 else start + PARTIAL_BYTES
            if len(self._buffer) < end:
                break
            self._show(shown, end)
        return bytes(shown)

    def finish(self) -> bytes:
        """What was held back, at the end of the log."""
        shown = bytearray()
        if self._buffer:
            self._show(shown, len(self._buffer))
        return bytes(shown)

    def _show(self, shown: bytearray, end: int) -> None:
        part = bytes(self._buffer[:end])
        del self._buffer[:end]
        stamp, blank, text = part.partition(b" ")
        shown += text if self._in_line and blank else format_stamp(stamp) + blank + text
        self._in_line = not part.endswith(b"\n")


def format_stamp(stamp: bytes) -> bytes:
    """A time stamp of the engine with exactly nine fraction digits, in UTC as the engine gives it."""
    if len(stamp) == 30 and stamp.endswith(b"Z"):
        return stamp
    if not stamp.endswith(b"Z"):
        return stamp
    whole, _, fraction = stamp[:-1].partition(b".")
    return whole + b"." + fraction[:9].ljust(9, b"0") + b"Z"
