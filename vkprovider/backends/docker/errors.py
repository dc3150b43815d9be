"""Where errors of the Docker SDK, requests and aiohttp end: turned into vkprovider's own.

=====================================  ============================================================
what happened                          what is raised
=====================================  ============================================================
no answer, connection lost, timeout    ``TransientError``
502, 503, 504                          ``TransientError``
404                                    ``NotFoundError``
409                                    ``ConflictError``
any other refusal of a pod's step      ``PodSyncError`` with the step's reason and the engine's words
any other refusal                      ``TransientError`` for 5xx, else ``PodSyncError``
=====================================  ============================================================
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import docker.errors
import requests.exceptions

from vkprovider.errors import (
    ConflictError,
    NotFoundError,
    PodSyncError,
    TransientError,
    VkproviderError,
)

CREATE_SANDBOX_ERROR = "CreatePodSandboxError"

_FOREIGN: tuple[type[Exception], ...] = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    aiohttp.ClientError,
    ConnectionError,
    asyncio.IncompleteReadError,
    TimeoutError,
    OSError,
)
_UNAVAILABLE = frozenset({502, 503, 504})


class EngineRefusal(Exception):
    """The engine answered a call of ours with an HTTP error; never leaves the backend."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@contextmanager
def engine_errors(doing: str, *, reason: str | None = None) -> Iterator[None]:
    """Turn foreign errors of the body into vkprovider's.

    Args:
        doing: What was tried, as in ``failed to <doing>``.
        reason: For a step of a pod: the kubelet's reason for its failure. Any refusal but 404 is a ``PodSyncError`` then.
    """
    try:
        yield
    except EngineRefusal as error:
        raise refusal(error.status, error.message, doing=doing, reason=reason) from error
    except docker.errors.APIError as error:
        status = error.status_code or 500
        raise refusal(status, str(error.explanation or error), doing=doing, reason=reason) from error
    except _FOREIGN as error:
        raise no_answer(error, doing=doing) from error


def refusal(status: int, message: str, *, doing: str, reason: str | None = None) -> VkproviderError:
    """The error for an HTTP error of the engine."""
    text = f"failed to {doing}: Error response from daemon: {message.strip()}"
    if status == 404:
        return NotFoundError(text)
    if status in _UNAVAILABLE:
        return TransientError(text)
    if reason is not None:
        return PodSyncError(text, reason=reason)
    if status == 409:
        return ConflictError(text)
    if status >= 500:
        return TransientError(text)
    return PodSyncError(text)


def no_answer(error: BaseException, *, doing: str) -> TransientError:
    """The error for a call that got no answer."""
    if isinstance(error, (TimeoutError, requests.exceptions.Timeout)):
        what = "the engine did not answer in time"
    else:
        what = f"no answer from the engine: {describe(error)}"
    return TransientError(f"failed to {doing}: {what}")


def describe(error: BaseException) -> str:
    """The innermost cause in words: HTTP libraries wrap a refused connection in several layers."""
    seen: set[int] = set()
    innermost: BaseException = error
    while id(innermost) not in seen:
        seen.add(id(innermost))
        inner = innermost.__cause__ or innermost.__context__
        if inner is None:
            inner = next((arg for arg in innermost.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        innermost = inner
    text = innermost.strerror if isinstance(innermost, OSError) and innermost.strerror else str(innermost)
    return text or type(innermost).__name__


def read_message(body: bytes) -> str:
    """The engine's words in an error answer."""
    try:
        document = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip() or "no message"
    if isinstance(document, dict) and isinstance(document.get("message"), str):
        return str(document["message"])
    return body.decode(errors="replace").strip()
