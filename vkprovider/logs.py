"""Log lines: a constant message followed by its fields, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NOISY = ("kopf", "asyncio", "aiohttp", "urllib3", "docker", "kubernetes")


def configure_logging(verbosity: int, form: str = "text") -> None:
    """Send log lines to stderr.

    Args:
        verbosity: 0 warnings, 1 to 3 what happens, 4 and 5 details, 6 and more everything, libraries included.
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING if verbosity < 6 else logging.DEBUG)
    own = logging.WARNING if verbosity < 1 else logging.INFO if verbosity < 4 else logging.DEBUG
    logging.getLogger("vkprovider").setLevel(own)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING if verbosity < 6 else logging.DEBUG)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = f"{moment} {record.levelname:<7} {record.name.removeprefix('vkprovider.')}: {record.getMessage()}"
        for key, value in _fields(record).items():
            line += f" {key}={value!r}" if isinstance(value, str) and (" " in value or not value) else f" {key}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
