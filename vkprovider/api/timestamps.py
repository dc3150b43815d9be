"""Kubernetes time stamps: RFC 3339 in UTC, whole seconds for Time and microseconds for MicroTime."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def format_time(moment: datetime) -> str:
    """``metav1.Time``: ``2026-01-02T03:04:05Z``, cut to whole seconds."""
    return moment.astimezone(UTC).isoformat()[:19] + "Z"


def format_micro_time(moment: datetime) -> str:
    """``metav1.MicroTime``: ``2026-01-02T03:04:05.000006Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_nano_time(moment: datetime) -> str:
    """Nine fraction digits, as log lines carry them: ``2026-01-02T03:04:05.000006000Z``.

    Source: pkg/kubelet/kuberuntime/logs/logs.go, RFC3339NanoFixed.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def parse_time(text: str) -> datetime:
    """Aware UTC datetime of an RFC 3339 text with any number of fraction digits; more than six are cut.

    Raises:
        ValueError: The text is not RFC 3339.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time; write it like 2026-01-02T03:04:05Z")
    seconds, fraction, zone = match.groups()
    cut = f".{fraction[:6]:0<6}" if fraction else ""
    return datetime.fromisoformat(f"{seconds}{cut}{zone}").astimezone(UTC)
