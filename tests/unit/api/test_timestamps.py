"""Kubernetes time stamps."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkprovider.api.timestamps import format_micro_time, format_nano_time, format_time, parse_time

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


def test_forms_differ_in_their_fraction():
    assert format_time(MOMENT) == "2026-01-02T03:04:05Z"
    assert format_micro_time(MOMENT) == "2026-01-02T03:04:05.678901Z"
    assert format_nano_time(MOMENT) == "2026-01-02T03:04:05.678901000Z"


def test_zero_fraction_is_written_in_full():
    moment = MOMENT.replace(microsecond=0)
    assert format_time(moment) == "2026-01-02T03:04:05Z"
    assert format_micro_time(moment) == "2026-01-02T03:04:05.000000Z"
    assert format_nano_time(moment) == "2026-01-02T03:04:05.000000000Z"


def test_other_zones_are_turned_into_utc():
    moment = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert format_time(moment) == "2026-01-02T03:04:05Z"
    assert format_micro_time(moment) == "2026-01-02T03:04:05.678901Z"
    assert format_nano_time(moment) == "2026-01-02T03:04:05.678901000Z"


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-01-02T03:04:05Z", 0),
        ("2026-01-02T03:04:05.6Z", 600_000),
        ("2026-01-02T03:04:05.678901Z", 678_901),
        ("2026-01-02T03:04:05.678901999Z", 678_901),
        ("2026-01-02T08:34:05.678901+05:30", 678_901),
        ("2026-01-01T20:04:05-07:00", 0),
    ],
)
def test_any_fraction_and_zone_is_read(text, microsecond):
    assert parse_time(text) == MOMENT.replace(microsecond=microsecond)
    assert parse_time(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "20260102T030405Z",
        "2026-01-02T03:04Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05+0530",
        "2026-13-02T03:04:05Z",
        "2026-01-02T25:04:05Z",
        "2026-01-02T03:04:05Z\n",
        "٢٠٢٦-01-02T03:04:05Z",
    ],
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"RFC 3339|must be in|range"):
        parse_time(text)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2999, 1, 1), timezones=st.just(UTC)))
def test_what_is_written_is_read_again(moment):
    assert parse_time(format_micro_time(moment)) == moment
    assert parse_time(format_nano_time(moment)) == moment
    assert parse_time(format_time(moment)) == moment.replace(microsecond=0)
