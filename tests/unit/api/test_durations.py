from __future__ import annotations

import pytest

from vkprovider.api.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("-2s", -2.0),
        ("1h0m0.25s", 3600.25),
        (".5s", 0.5),
        ("3us", 3e-6),
    ],
)
def test_go_durations_are_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "1 m", "ten seconds", "1m30", "1s!", "--1s"])
def test_what_go_refuses_is_refused_with_the_text_named(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (10, "10s"),
        (80, "1m20s"),
        (300, "5m0s"),
        (3600, "1h0m0s"),
        (1.5, "1.5s"),
        (0.25, "250ms"),
        (0.0015, "1.5ms"),
        (2e-6, "2µs"),
        (1e-9, "1ns"),
        (-5, "-5s"),
        (1.0000001, "1.0000001s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    assert format_duration(seconds) == text
