"""Multiplexed streams and time stamps of split lines."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkprovider.backends.docker.demux import (
    PARTIAL_BYTES,
    STDERR,
    STDOUT,
    Demultiplexer,
    StampedLines,
    TerminalEntries,
    format_stamp,
)

STAMP = b"2026-01-02T03:04:05.000000001Z"
LATER = b"2026-01-02T03:04:05.000000002Z"


def frame(stream, payload):
    return struct.pack(">BxxxI", stream, len(payload)) + payload


def cut(data, cuts):
    places = sorted({min(place, len(data)) for place in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


FRAMES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=300)), max_size=20)
CUTS = st.lists(st.integers(0, 3000), max_size=30)


@given(FRAMES, CUTS)
def test_payloads_are_the_same_however_the_stream_is_cut(frames, cuts):
    demultiplexer = Demultiplexer()
    got = {STDOUT: b"", STDERR: b""}
    for chunk in cut(b"".join(frame(*item) for item in frames), cuts):
        for stream, payload in demultiplexer.feed(chunk):
            assert payload
            got[stream] += payload
    for stream in got:
        assert got[stream] == b"".join(payload for number, payload in frames if number == stream)


@given(FRAMES, CUTS)
def test_whole_frames_are_never_split(frames, cuts):
    demultiplexer = Demultiplexer(whole_frames=True)
    got = []
    for chunk in cut(b"".join(frame(*item) for item in frames), cuts):
        got += demultiplexer.feed(chunk)
    assert got == [item for item in frames if item[1]]


def test_parts_of_a_frame_are_given_at_once():
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(frame(STDOUT, b"abcdef")[:11]) == [(STDOUT, b"abc")]
    assert demultiplexer.feed(b"def") == [(STDOUT, b"def")]


@pytest.mark.parametrize("data", [b"plain text, no frames", b"\x07\0\0\0\0\0\0\1x", b"\x01\0\0\0\xff\xff\xff\xff"])
def test_what_is_no_multiplexed_stream_is_refused(data):
    with pytest.raises(ValueError, match="not a multiplexed stream"):
        Demultiplexer().feed(data)


@pytest.mark.parametrize("show_stamps", [True, False])
def test_stamps_of_a_split_line_but_the_first_are_dropped(show_stamps):
    lines = StampedLines(show_stamps=show_stamps)
    part = b"x" * PARTIAL_BYTES
    stamp = STAMP + b" " if show_stamps else b""
    assert lines.feed(STAMP + b" " + part) == stamp + part
    assert lines.feed(LATER + b" " + part) == part
    assert lines.feed(LATER + b" end\n") == b"end\n"
    assert lines.feed(LATER + b" next\n") == (LATER + b" next\n" if show_stamps else b"next\n")


def test_empty_lines_keep_their_stamps():
    lines = StampedLines(show_stamps=True)
    assert lines.feed(STAMP + b" \n") == STAMP + b" \n"
    assert lines.feed(STAMP + b" \n") == STAMP + b" \n"


@given(st.lists(st.integers(0, 5), max_size=12).map(sorted), st.integers(0, 12), st.integers(0, 12))
def test_after_a_restart_only_what_is_new_is_shown(moments, shown_before, again_from):
    entries = [b"2026-01-02T03:04:05.%09dZ %d\n" % (moment, i) for i, moment in enumerate(moments)]
    shown_before = min(shown_before, len(entries))
    if shown_before:  # the engine begins again no later than at the last entry shown, with all of that moment
        first_of_last = moments.index(moments[shown_before - 1])
        again_from = min(again_from, first_of_last)
    else:
        again_from = 0
    lines = StampedLines(show_stamps=True)
    shown = [lines.feed(entry) for entry in entries[:shown_before]]
    lines.restart()
    shown += [lines.feed(entry) for entry in entries[again_from:]]
    assert b"".join(shown) == b"".join(entries)


LINES = st.lists(st.binary(max_size=50).map(lambda text: text.replace(b"\n", b"")), max_size=8)


@given(LINES, st.lists(st.integers(0, 800), max_size=20))
def test_terminal_log_is_the_same_however_it_is_cut(lines, cuts):
    expected = [STAMP + b" " + line + b"\n" for line in lines]
    entries = TerminalEntries()
    found = [entry for chunk in cut(b"".join(expected), cuts) for entry in entries.feed(chunk)] + entries.finish()
    assert found == expected


def test_terminal_log_with_a_split_line():
    part = b"x" * PARTIAL_BYTES
    expected = [STAMP + b" " + part, LATER + b" " + part, LATER + b" end\r\n", LATER + b" next"]
    data = b"".join(expected)
    entries = TerminalEntries()
    found = [entry for i in range(0, len(data), 1000) for entry in entries.feed(data[i : i + 1000])] + entries.finish()
    assert found == expected


def test_terminal_log_without_stamps_is_shown_as_it_is():
    entries = TerminalEntries()
    text = b"x" * 100
    assert entries.feed(text) + entries.finish() == [text]


@pytest.mark.parametrize(
    ("given_stamp", "expected"),
    [
        (STAMP, STAMP),
        (b"2026-01-02T03:04:05Z", b"2026-01-02T03:04:05.000000000Z"),
        (b"2026-01-02T03:04:05.12Z", b"2026-01-02T03:04:05.120000000Z"),
        (b"word", b"word"),
    ],
)
def test_stamps_have_nine_digits(given_stamp, expected):
    assert format_stamp(given_stamp) == expected
