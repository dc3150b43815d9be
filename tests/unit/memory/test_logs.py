"""The log of a simulated container."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from vkprovider.backends.memory.logs import MAX_LINE_BYTES, ContainerLog
from vkprovider.provider.capabilities import LogOptions

START = datetime(2026, 1, 1, tzinfo=UTC)


def make_log(*lines, max_bytes=100_000):
    log = ContainerLog(max_bytes)
    for second, line in enumerate(lines):
        log.write(START + timedelta(seconds=second), line)
    return log


async def read(log, **options):
    return b"".join([chunk async for chunk in log.read(LogOptions(**options))])


async def test_unfinished_line_waits_for_its_end():
    log = make_log(b"a", b"b")
    assert await read(log) == b""
    log.write(START, b"c\nd")
    assert await read(log) == b"abc\n"
    log.close(START)
    assert await read(log) == b"abc\nd"


async def test_streams_keep_their_unfinished_lines_apart():
    log = ContainerLog(1000)
    log.write(START, b"ou")
    log.write(START, b"er", stderr=True)
    log.write(START, b"t\n")
    log.write(START, b"r\n", stderr=True)
    assert await read(log) == b"out\nerr\n"


async def test_only_new_lines_end_a_line():
    log = make_log(b"50%\r100%\r\n\x0bx\x85y\n")
    assert await read(log, tail_lines=1) == b"\x0bx\x85y\n"
    assert await read(log) == b"50%\r100%\r\n\x0bx\x85y\n"


async def test_long_line_is_one_line_with_one_time():
    log = make_log(b"short\n", b"x" * (MAX_LINE_BYTES * 2 + 5) + b"\n")
    text = await read(log, timestamps=True)
    assert text.count(b"2026-01-01T00:00:01.000000000Z ") == 1
    assert text.endswith(b"x" * (MAX_LINE_BYTES * 2 + 5) + b"\n")
    assert await read(log, tail_lines=1) == b"x" * (MAX_LINE_BYTES * 2 + 5) + b"\n"


async def test_tail_counts_before_since():
    log = make_log(b"0\n", b"1\n", b"2\n", b"3\n")
    since = START + timedelta(seconds=1)
    assert await read(log, tail_lines=1, since=since) == b"3\n"
    assert await read(log, tail_lines=4, since=since) == b"1\n2\n3\n"


async def test_limit_counts_times_too():
    log = make_log(b"abc\n")
    assert await read(log, timestamps=True, limit_bytes=33) == b"2026-01-01T00:00:00.000000000Z ab"


async def test_oldest_lines_are_dropped():
    log = make_log(*(b"%04d\n" % n for n in range(100)), max_bytes=50)
    assert await read(log) == b"".join(b"%04d\n" % n for n in range(90, 100))
    assert log.size_bytes == 50


@pytest.mark.looptime
async def test_follower_goes_on_where_lines_were_dropped():
    log = make_log(b"0000\n", max_bytes=20)
    chunks = []

    async def follow():
        async for chunk in log.read(LogOptions(follow=True)):
            chunks.append(chunk)

    follower = asyncio.create_task(follow())
    await asyncio.sleep(1)
    for n in range(1, 100):
        log.write(START, b"%04d\n" % n)
    log.close(START)
    await follower
    assert b"".join(chunks) == b"0000\n0096\n0097\n0098\n0099\n"


@pytest.mark.looptime
async def test_cancelled_follower_is_forgotten():
    log = make_log(b"a\n")
    follower = asyncio.create_task(read(log, follow=True))
    await asyncio.sleep(1)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    assert log._waiters == []


async def test_limit_ends_a_follower():
    log = make_log(b"abcdef\n")
    assert await read(log, follow=True, limit_bytes=3) == b"abc"
