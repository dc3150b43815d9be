"""Logs through the engine, with every option."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from vkprovider.errors import NotFoundError
from vkprovider.provider import LogOptions, cri

pytestmark = pytest.mark.docker

STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (.*)")


@pytest.fixture
async def numbers(pods):
    """A container that wrote five lines to standard output, then five to standard error, and ended."""
    # The engine reads the two streams by themselves: only a pause keeps lines of both in order.
    container_id = await pods.shell("seq 1 5; sleep 1; seq 6 10 >&2")
    await pods.ended(container_id)
    return container_id


async def test_whole_log_in_order(pods, numbers):
    assert (await pods.log(numbers)).split() == [str(i).encode() for i in range(1, 11)]


async def test_streams_are_chosen(pods, numbers):
    assert (await pods.log(numbers, stderr=False)).split() == [b"1", b"2", b"3", b"4", b"5"]
    assert (await pods.log(numbers, stdout=False)).split() == [b"6", b"7", b"8", b"9", b"10"]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (0, []),
        (3, [b"8", b"9", b"10"]),
        (6, [b"5", b"6", b"7", b"8", b"9", b"10"]),
        (100, [str(i).encode() for i in range(1, 11)]),
    ],
)
async def test_tail_counts_lines_of_both_streams(pods, numbers, tail, expected):
    assert (await pods.log(numbers, tail_lines=tail)).split() == expected


async def test_time_stamps_have_nine_digits(pods, numbers):
    lines = (await pods.log(numbers, timestamps=True)).splitlines()
    assert len(lines) == 10
    for i, line in enumerate(lines, 1):
        match = STAMPED.fullmatch(line)
        assert match is not None, line
        assert match[2] == str(i).encode()


async def test_since_leaves_out_older_lines_to_the_fraction(pods, numbers):
    lines = (await pods.log(numbers, timestamps=True)).splitlines()
    stamp = STAMPED.fullmatch(lines[5])[1].decode()  # type: ignore[index]
    since = datetime.fromisoformat(stamp[:26]).replace(tzinfo=UTC) - timedelta(microseconds=1)
    assert (await pods.log(numbers, since=since)).split() == [b"6", b"7", b"8", b"9", b"10"]


async def test_limit_cuts_in_the_middle_of_a_line(pods, numbers):
    whole = await pods.log(numbers, timestamps=True)
    assert await pods.log(numbers, timestamps=True, limit_bytes=40) == whole[:40]
    assert await pods.log(numbers, limit_bytes=3) == b"1\n2"


async def test_first_chunk_is_empty_even_of_a_silent_container(runtime, pods):
    container_id = await pods.start("sleep", "100")
    log = runtime.container_logs(container_id, LogOptions(follow=True))
    async with asyncio.timeout(5):
        assert await anext(log) == b""
    await log.aclose()


async def test_unknown_container(pods):
    with pytest.raises(NotFoundError):
        await pods.log(cri.ContainerID("0" * 64))


async def test_followed_log_shows_what_comes_and_ends_with_the_container(runtime, pods):
    container_id = await pods.shell("echo one; sleep 0.5; echo two; sleep 0.5; echo three >&2")
    arrivals = []
    async with asyncio.timeout(15):
        async for chunk in runtime.container_logs(container_id, LogOptions(follow=True)):
            arrivals += [(time.monotonic(), line) for line in chunk.splitlines()]
    assert [line for _, line in arrivals] == [b"one", b"two", b"three"]
    assert arrivals[1][0] - arrivals[0][0] > 0.3, "lines come when they are written"


async def test_followed_log_of_a_tail(runtime, pods):
    container_id = await pods.shell("echo one; echo two; echo ready; sleep 1; echo three")
    await pods.log_shows(container_id, b"ready")
    async with asyncio.timeout(15):
        chunks = [chunk async for chunk in runtime.container_logs(container_id, LogOptions(follow=True, tail_lines=0))]
    assert b"".join(chunks) == b"three\n"


@pytest.mark.parametrize("terminal", [False, True])
async def test_long_lines_appear_as_they_were_written(pods, terminal):
    newline = b"\r\n" if terminal else b"\n"
    container_id = await pods.shell("head -c 50000 /dev/zero | tr '\\0' x; echo; echo short", tty=terminal)
    await pods.ended(container_id)
    line = b"x" * 50000
    assert await pods.log(container_id) == line + newline + b"short" + newline
    stamped = (await pods.log(container_id, timestamps=True)).splitlines()
    assert [STAMPED.fullmatch(text)[2] for text in stamped] == [line, b"short"]  # type: ignore[index]


async def test_tail_of_a_large_log_is_quick(pods):
    container_id = await pods.shell("seq 1 1000000")
    await pods.ended(container_id, timeout_s=60)
    begun = time.monotonic()
    assert await pods.log(container_id, tail_lines=2) == b"999999\n1000000\n"
    assert time.monotonic() - begun < 1


async def test_abandoned_follower_closes_its_connection(runtime, pods):
    container_id = await pods.shell("while :; do echo tick; sleep 0.05; done")
    for _ in range(5):
        log = runtime.container_logs(container_id, LogOptions(follow=True))
        async for chunk in log:
            if chunk:
                break
        await log.aclose()
    task = asyncio.create_task(pods.log(container_id, follow=True))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_200_followed_logs_starve_nothing(runtime, pods):
    sandbox = await pods.sandbox()
    container_id = await pods.shell("echo ready; while [ ! -e /stop ]; do sleep 0.1; done; echo end", sandbox=sandbox)
    await pods.log_shows(container_id, b"ready")
    followers = [asyncio.create_task(pods.log(container_id, follow=True)) for _ in range(200)]
    await asyncio.sleep(1)
    begun = time.monotonic()
    other = await pods.shell("echo hi", sandbox=sandbox, name="other")
    assert (await runtime.exec_sync(container_id, ["true"])).exit_code == 0
    assert len(await runtime.list_containers(cri.ContainerFilter(label_selector=pods.labels))) == 2
    await pods.ended(other)
    assert time.monotonic() - begun < 10
    await runtime.exec_sync(container_id, ["touch", "/stop"])
    async with asyncio.timeout(20):
        logs = await asyncio.gather(*followers)
    assert set(logs) == {b"ready\nend\n"}
