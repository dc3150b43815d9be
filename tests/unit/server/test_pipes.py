from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkprovider.provider.streams import TerminalSize
from vkprovider.server.pipes import PIPE_BYTES, Pipe, TerminalSizes


async def test_bytes_come_out_in_order_and_end():
    pipe = Pipe()
    pipe.feed(b"abc")
    pipe.feed(b"")
    pipe.feed(b"de")
    pipe.feed_eof()
    pipe.feed(b"late")
    assert [await pipe.read(2), await pipe.read(2), await pipe.read(), await pipe.read()] == [b"ab", b"c", b"de", b""]


async def test_full_pipe_holds_its_feeder_back():
    pipe = Pipe()
    pipe.feed(b"x" * PIPE_BYTES)
    waiter = asyncio.create_task(pipe.room())
    await asyncio.sleep(0)
    assert not waiter.done()
    await pipe.read(1)
    await waiter


@pytest.mark.parametrize("end", ["feed_eof", "fail"])
async def test_ended_pipe_lets_its_feeder_go(end):
    pipe = Pipe()
    pipe.feed(b"x" * PIPE_BYTES)
    waiter = asyncio.create_task(pipe.room())
    await asyncio.sleep(0)
    pipe.feed_eof() if end == "feed_eof" else pipe.fail("gone")
    await waiter


async def test_reader_learns_that_the_feeder_is_gone_after_what_there_is():
    pipe = Pipe()
    pipe.feed(b"x")
    pipe.fail("gone")
    assert await pipe.read() == b"x"
    with pytest.raises(ConnectionResetError, match="gone"):
        await pipe.read()


async def test_end_is_no_failure():
    pipe = Pipe()
    pipe.feed_eof()
    pipe.fail("gone")
    assert await pipe.read() == b""


async def test_newest_size_counts():
    sizes = TerminalSizes()
    sizes.feed(b'{"Width":80,"Height":24}{"Width":100,')
    sizes.feed(b'"Height":30}\n {"Wi')
    assert await anext(sizes) == TerminalSize(100, 30)
    waiter = asyncio.create_task(anext(sizes))
    await asyncio.sleep(0)
    sizes.feed(b'dth":1,"Height":2}')
    assert await waiter == TerminalSize(1, 2)
    sizes.close()
    with pytest.raises(StopAsyncIteration):
        await anext(sizes)


@pytest.mark.parametrize(
    "nonsense",
    [b"[1]", b"hello", b'{"Width":-1,"Height":2}', b'{"Width":70000}', b'{"Width":"80"}', b'{"a":"' + b"x" * 20000],
)
async def test_nonsense_ends_the_sizes(nonsense):
    sizes = TerminalSizes()
    sizes.feed(nonsense)
    with pytest.raises(StopAsyncIteration):
        await anext(sizes)


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), min_size=1), st.integers(1, 30))
def test_sizes_may_be_cut_anywhere(pairs, cut):
    async def run():
        sizes = TerminalSizes()
        text = "".join(json.dumps({"Width": width, "Height": height}) for width, height in pairs).encode()
        for start in range(0, len(text), cut):
            sizes.feed(text[start : start + cut])
        assert await anext(sizes) == TerminalSize(*pairs[-1])

    asyncio.run(run())


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_survived(pieces):
    async def run():
        sizes = TerminalSizes()
        for piece in pieces:
            sizes.feed(piece)

    asyncio.run(run())
