"""Kubernetes time stamps: RFC 3339 in UTC, whole seconds for Time and microseconds for MicroTime."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FRACTION = re.compile(r"\.(\d+)")


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
    cut = _FRACTION.sub(lambda match: "." + match.group(1)[:6].ljust(6, "0"), text, count=1)
    moment = datetime.fromisoformat(cut)
    if moment.tzinfo is None:
        raise ValueError(f"time without zone: {text!r}")
    return moment.astimezone(UTC)
