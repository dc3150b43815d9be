"""Durations in Go's spelling, as configuration files and kubelet messages carry them."""

from __future__ import annotations

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as ``1m30s``, ``300ms`` or ``0``.

    Raises:
        ValueError: The text is not a duration.

    Source: Go time.ParseDuration.
    """
    body = text.strip()
    sign = 1.0
    if body[:1] in ("+", "-"):
        sign, body = (-1.0 if body[0] == "-" else 1.0), body[1:]
    if body == "0":
        return 0.0
    total, position = 0.0, 0
    for match in _PART.finditer(body):
        if match.start() != position:
            break
        total += float(match.group(1)) * _UNITS_S[match.group(2)]
        position = match.end()
    if position == 0 or position != len(body):
        raise ValueError(f"{text!r} is not a duration; write it like 10s, 1m30s or 500ms")
    return sign * total


def format_duration(seconds: float) -> str:
    """Go's form of a duration: ``10s``, ``1m20s``, ``5m0s``, ``1.5s``, ``250ms``.

    Source: Go time.Duration.String.
    """
    nanos = round(seconds * 1_000_000_000)
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    if nanos == 0:
        return "0s"
    if nanos < 1_000_000_000:
        for scale, unit in ((1_000_000, "ms"), (1_000, "µs"), (1, "ns")):
            if nanos >= scale:
                return f"{sign}{_trim(nanos, scale)}{unit}"
    minutes, rest = divmod(nanos, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_trim(rest, 1_000_000_000)}s"


def _trim(value: int, scale: int) -> str:
    whole, fraction = divmod(value, scale)
    digits = len(str(scale)) - 1
    tail = f"{fraction:0{digits}d}".rstrip("0") if fraction else ""
    return f"{whole}.{tail}" if tail else str(whole)
