"""Log options as the engine's query, and what is shown of its bytes."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone

import pytest

from vkprovider.backends.docker.logs import Formatter, make_parameters
from vkprovider.provider import LogOptions

STAMP = b"2026-01-02T03:04:05.000000001Z"
LATER = b"2026-01-02T03:04:05.000000002Z"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def frame(stream, payload):
    return struct.pack(">BxxxI", stream, len(payload)) + payload


def test_plain_options_ask_for_both_streams():
    assert make_parameters(LogOptions(), timestamps=False) == {"stdout": "1", "stderr": "1"}


def test_every_option_is_passed_on():
    since = datetime(2026, 1, 2, 4, 4, 5, 678901, tzinfo=timezone(timedelta(hours=1)))
    options = LogOptions(follow=True, timestamps=True, tail_lines=0, since=since, stderr=False)
    assert make_parameters(options, timestamps=True) == {
        "stdout": "1",
        "stderr": "0",
        "follow": "1",
        "timestamps": "1",
        "tail": "0",
        "since": "1767323045.678901000",
    }
    assert datetime.fromtimestamp(1767323045, UTC) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LogOptions(), b"out\nerr\n"),
        (LogOptions(stderr=False), b"out\n"),
        (LogOptions(stdout=False), b"err\n"),
    ],
)
def test_streams_are_chosen(options, expected):
    assert shown(options, frame(1, b"out\n") + frame(2, b"err\n")) == expected


def shown(options, data, *, terminal=False):
    formatter = Formatter(options, terminal=terminal)
    formatter.begin()
    return formatter.feed(data) + formatter.finish()


def test_split_lines_of_both_streams_do_not_mix_their_stamps():
    data = frame(1, STAMP + b" a") + frame(2, STAMP + b" b\n") + frame(1, STAMP + b" c\n")
    assert shown(LogOptions(timestamps=True), data) == STAMP + b" a" + STAMP + b" b\n" + b"c\n"


def test_terminal_log_is_passed_through():
    assert shown(LogOptions(), b"x\r\n", terminal=True) == b"x\r\n"


def test_followed_log_goes_on_where_the_engine_ended_it():
    options = LogOptions(follow=True, tail_lines=5)
    formatter = Formatter(options, terminal=False)
    assert formatter.needs_stamps
    formatter.begin()
    assert formatter.feed(frame(1, STAMP + b" one\n") + frame(2, LATER + b" two\n")) == b"one\ntwo\n"
    request = formatter.resume(options, begun_at=BEGUN, follow=False)
    assert request.tail_lines is None
    assert not request.follow
    assert request.since is not None
    assert request.since < datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    formatter.begin()
    data = frame(1, STAMP + b" one\n") + frame(2, LATER + b" two\n") + frame(1, LATER + b" three\n")
    assert formatter.feed(data) == b"three\n"


def test_followed_log_of_which_nothing_was_shown_goes_on_from_its_beginning():
    for options, since in ((LogOptions(follow=True, tail_lines=0), BEGUN), (LogOptions(follow=True), None)):
        formatter = Formatter(options, terminal=False)
        request = formatter.resume(options, begun_at=BEGUN, follow=False)
        assert (request.since, request.tail_lines, request.follow) == (since, None, False)
