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


class StampedLines:
    """Reads what the engine gives with time stamps: for one stream, part by part.

    The engine stamps every part of a line that it split. Only the first stamp is shown, so that a line appears as it was
    written; or none, where stamps serve only to know how far one has come. After a new start, entries that have been shown
    already are left out.

    Args:
        show_stamps: Whether lines are shown with their stamps.
    """

    def __init__(self, *, show_stamps: bool) -> None:
        self._show_stamps = show_stamps
        self._in_line = False
        self._last = b""
        self._repeats = 0
        self._overlap = 0

    @property
    def last(self) -> bytes:
        """Stamp of the last entry shown; empty before the first."""
        return self._last

    def restart(self) -> None:
        """What follows begins again at or before the last entry shown."""
        self._overlap = self._repeats

    def feed(self, entry: bytes) -> bytes:
        """What to show of one entry: a time stamp, a blank and text."""
        stamp, blank, text = entry.partition(b" ")
        if not blank or len(stamp) > _TIMESTAMP_END:
            return entry
        stamp = format_stamp(stamp)
        if self._overlap:
            if stamp < self._last:
                return b""
            if stamp == self._last:
                self._overlap -= 1
                return b""
            self._overlap = 0
        self._repeats = self._repeats + 1 if stamp == self._last else 1
        self._last = stamp
        shown = stamp + b" " + text if self._show_stamps and not self._in_line else text
        self._in_line = not text.endswith(b"\n")
        return shown


class TerminalEntries:
    """Finds the entries in the stamped log of a terminal, which has no frames: parts are told by their length."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Entries that this chunk completes."""
        self._buffer += data
        entries: list[bytes] = []
        position = 0
        while True:
            blank = self._buffer.find(b" ", position, position + _TIMESTAMP_END)
            if blank < 0:
                if len(self._buffer) - position >= _TIMESTAMP_END:  # no stamp where there must be one: take it as it is
                    entries.append(bytes(self._buffer[position:]))
                    position = len(self._buffer)
                break
            start = blank + 1
            newline = self._buffer.find(b"\n", start, start + PARTIAL_BYTES)
            end = newline + 1 if newline >= 0 else start + PARTIAL_BYTES
            if len(self._buffer) < end:
                break
            entries.append(bytes(self._buffer[position:end]))
            position = end
        del self._buffer[:position]
        return entries

    def finish(self) -> list[bytes]:
        """The incomplete entry that was held back, at the end of the log."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [rest] if rest else []


def format_stamp(stamp: bytes) -> bytes:
    """A time stamp of the engine with exactly nine fraction digits, in UTC as the engine gives it."""
    if len(stamp) == 30 and stamp.endswith(b"Z"):
        return stamp
    if not stamp.endswith(b"Z"):
        return stamp
    whole, _, fraction = stamp[:-1].partition(b".")
    return whole + b"." + fraction[:9].ljust(9, b"0") + b"Z"
