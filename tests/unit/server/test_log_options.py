"""Reading the query of ``/containerLogs``; cases from kubelet server_test.go and ValidatePodLogOptions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from vkprovider.provider.capabilities import LogOptions
from vkprovider.server.logs import parse_log_options

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def parse(query):
    return parse_log_options(URL(f"http://node/?{query}").query, now=NOW)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", LogOptions()),
        ("follow=true", LogOptions(follow=True)),
        ("follow=1&previous=false", LogOptions(follow=True)),
        ("follow=0&previous=True", LogOptions(previous=True)),
        ("follow=FALSE", LogOptions()),
        ("follow", LogOptions(follow=True)),
        ("timestamps=yes", LogOptions(timestamps=True)),
        ("tailLines=0", LogOptions(tail_lines=0)),
        ("tailLines=%2B5", LogOptions(tail_lines=5)),
        ("tail=5&tailLines=7", LogOptions(tail_lines=5)),
        ("tail=all&tailLines=7", LogOptions()),
        ("tail=&tailLines=7", LogOptions(tail_lines=7)),
        ("limitBytes=1", LogOptions(limit_bytes=1)),
        ("sinceSeconds=10", LogOptions(since=NOW - timedelta(seconds=10))),
        ("sinceSeconds=9223372036854775807", LogOptions(since=datetime.min.replace(tzinfo=UTC))),
        ("sinceTime=2026-01-01T00:00:00Z", LogOptions(since=datetime(2026, 1, 1, tzinfo=UTC))),
        (
            "sinceTime=2026-01-01T00:00:00.123456789%2B02:00",
            LogOptions(since=datetime(2025, 12, 31, 22, 0, 0, 123456, tzinfo=UTC)),
        ),
        ("sinceTime=", LogOptions()),
        ("sinceTime=null", LogOptions()),
        ("stream=All", LogOptions()),
        ("tailLines=1&tailLines=2", LogOptions(tail_lines=1)),
        ("unknown=1", LogOptions()),
    ],
)
def test_what_is_understood(query, options):
    assert parse(query) == options


@pytest.mark.parametrize(
    "query",
    [
        "tailLines=",
        "tailLines=abc",
        "tailLines=1.5",
        "tailLines=1_000",
        "tailLines=%201",
        "tailLines=9223372036854775808",
        "tailLines=%D9%A1",
        "tail=some",
        "sinceSeconds=1s",
        "limitBytes=0x10",
        "sinceTime=yesterday",
        "sinceTime=2026-01-01",
        "sinceTime=2026-01-01T00:00:00",
        "sinceTime=2026-13-01T00:00:00Z",
    ],
)
def test_what_cannot_be_read_is_a_bad_request(query):
    with pytest.raises(web.HTTPBadRequest) as caught:
        parse(query)
    assert caught.value.text == '{"message": "Unable to decode query."}'


@pytest.mark.parametrize(
    "query",
    [
        "tailLines=-1",
        "tail=-1",
        "limitBytes=0",
        "limitBytes=-5",
        "sinceSeconds=0",
        "sinceSeconds=-1",
        "sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z",
        "sinceSeconds=5&sinceTime=",
        "stream=stdout",
        "stream=",
        "stream=Stdout&tailLines=1",
    ],
)
def test_what_makes_no_sense_is_unprocessable(query):
    with pytest.raises(web.HTTPUnprocessableEntity) as caught:
        parse(query)
    assert caught.value.text == '{"message": "Invalid request."}'


@given(
    st.dictionaries(
        st.sampled_from(["follow", "tail", "tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream"]), st.text()
    )
)
def test_any_query_is_read_or_refused(query):
    try:
        options = parse_log_options(URL("http://node/").with_query(query).query, now=NOW)
    except (web.HTTPBadRequest, web.HTTPUnprocessableEntity):
        return
    assert options.tail_lines is None or options.tail_lines >= 0
    assert options.limit_bytes is None or options.limit_bytes >= 1
