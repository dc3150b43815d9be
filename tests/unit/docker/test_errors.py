"""Foreign errors end at the backend's boundary."""

from __future__ import annotations

import docker.errors
import pytest
import requests

from vkprovider.backends.docker.errors import EngineRefusal, describe, engine_errors, read_message
from vkprovider.errors import ConflictError, NotFoundError, PodSyncError, TransientError


def api_error(status, text):
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("x", response=response, explanation=text)


def raised_by(error, reason=None):
    try:
        with engine_errors("start it", reason=reason):
            raise error
    except Exception as raised:
        return raised


@pytest.mark.parametrize("make", [api_error, EngineRefusal])
@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (404, None, NotFoundError),
        (404, "RunContainerError", NotFoundError),
        (409, None, ConflictError),
        (409, "RunContainerError", PodSyncError),
        (400, None, PodSyncError),
        (400, "RunContainerError", PodSyncError),
        (500, None, TransientError),
        (500, "RunContainerError", PodSyncError),
        (503, None, TransientError),
        (503, "RunContainerError", TransientError),
    ],
)
def test_refusals_by_status(make, status, reason, kind):
    error = raised_by(make(status, "its own words"), reason)
    assert type(error) is kind
    assert str(error) == "failed to start it: Error response from daemon: its own words"
    if kind is PodSyncError:
        assert error.reason == "RunContainerError"


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ConnectionError("x"),
        requests.exceptions.ReadTimeout("x"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(),
        docker.errors.DockerException("x"),
    ],
)
def test_no_answer_is_transient_even_for_a_step_of_a_pod(error):
    assert type(raised_by(error, "RunContainerError")) is TransientError


def test_own_errors_and_bugs_pass():
    assert type(raised_by(PodSyncError("x"))) is PodSyncError
    assert type(raised_by(KeyError("x"))) is KeyError


def test_the_innermost_cause_is_told():
    inner = ConnectionRefusedError(111, "Connection refused")
    outer = requests.exceptions.ConnectionError(ConnectionError("Connection aborted.", inner))
    outer.__cause__ = inner
    assert describe(outer) == "Connection refused"
    assert describe(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"message":"no"}', "no"), (b"plain\n", "plain"), (b"", "no message"), (b'["x"]', '["x"]')],
)
def test_message_of_an_error_answer(body, expected):
    assert read_message(body) == expected
