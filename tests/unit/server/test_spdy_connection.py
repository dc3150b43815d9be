"""Streams over SPDY, both ends in one process, without a network."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vkprovider.server.spdy import connection as connection_module
from vkprovider.server.spdy.connection import (
    HIGH_WATER_BYTES,
    MAX_STREAMS,
    SpdyConnection,
    StreamRefusedError,
)
from vkprovider.server.spdy.frames import (
    Data,
    FrameDecoder,
    FrameEncoder,
    GoAway,
    Ping,
    ResetStatus,
    RstStream,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
)


class Recorder:
    """A transport that keeps what is sent."""

    def __init__(self):
        self.decoder = FrameDecoder()
        self.frames = []
        self.writes = 0
        self.paused = self.closed = self.aborted = self.full = False
        self.may_drain = asyncio.Event()
        self.may_drain.set()

    @property
    def is_full(self):
        return not self.may_drain.is_set()

    def write(self, data):
        self.writes += 1
        self.frames += self.decoder.feed(data)

    async def drain(self):
        await self.may_drain.wait()

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = True


class Server:
    """A server connection whose client is the test."""

    def __init__(self, on_stream=None):
        self.transport = Recorder()
        self.accepted = []
        self.connection = SpdyConnection(self.transport, on_stream=on_stream or self.accepted.append)
        self.encoder = FrameEncoder()

    def receive(self, *frames):
        self.connection.receive(b"".join(self.encoder.encode(frame) for frame in frames))

    def open(self, stream_id=1, **headers):
        self.receive(SynStream(stream_id, headers))
        return self.accepted[-1]

    def sent(self, kind):
        return [frame for frame in self.transport.frames if isinstance(frame, kind)]


async def test_stream_is_accepted_and_carries_bytes_both_ways():
    server = Server()
    stream = server.open(1, streamtype="data")
    assert stream.headers == {"streamtype": "data"}
    assert server.sent(SynReply) == [SynReply(1)]
    server.receive(Data(1, b"hello"), Data(1, b"!", fin=True))
    assert [await stream.read(3), await stream.read(), await stream.read(), await stream.read()] == [
        b"hel",
        b"lo",
        b"!",
        b"",
    ]
    await stream.write(b"answer")
    await stream.write_eof()
    await stream.write_eof()
    assert server.sent(Data) == [Data(1, b"answer"), Data(1, b"", fin=True)]
    assert server.connection.streams == []
    with pytest.raises(BrokenPipeError):
        await stream.write(b"more")


async def test_refused_stream_is_reset():
    def refuse(stream):
        raise StreamRefusedError("no")

    server = Server(refuse)
    server.receive(SynStream(1))
    assert server.transport.frames == [RstStream(1, ResetStatus.CANCEL)]
    assert server.connection.streams == []


@pytest.mark.parametrize("stream_id", [2, 3, 1])
async def test_stream_with_a_wrong_id_is_reset_and_the_others_live(stream_id):
    server = Server()
    stream = server.open(3)
    server.receive(SynStream(stream_id))
    assert server.sent(RstStream) == [RstStream(stream_id, ResetStatus.PROTOCOL_ERROR)]
    server.receive(Data(3, b"x"))
    assert await stream.read() == b"x"


async def test_streams_beyond_the_limit_are_refused():
    server = Server()
    server.receive(*(SynStream(2 * number + 1) for number in range(MAX_STREAMS + 1)))
    assert server.sent(RstStream) == [RstStream(2 * MAX_STREAMS + 1, ResetStatus.REFUSED_STREAM)]


async def test_reset_by_the_peer_wakes_reader_and_writer():
    server = Server()
    stream = server.open()
    reader = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    server.receive(RstStream(1, ResetStatus.CANCEL))
    with pytest.raises(ConnectionResetError):
        await reader
    with pytest.raises(ConnectionResetError):
        await stream.write(b"x")
    assert server.connection.streams == []
    assert server.sent(RstStream) == []


async def test_what_came_in_full_before_a_reset_can_be_read():
    server = Server()
    stream = server.open()
    server.receive(Data(1, b"all of it", fin=True), RstStream(1, ResetStatus.CANCEL))
    assert [await stream.read(), await stream.read()] == [b"all of it", b""]
    with pytest.raises(ConnectionResetError):
        await stream.write(b"x")


async def test_reset_by_us_is_told_once():
    server = Server()
    stream = server.open()
    stream.reset()
    await stream.aclose()
    assert server.sent(RstStream) == [RstStream(1, ResetStatus.CANCEL)]
    server.receive(Data(1, b"late", fin=True))
    assert server.connection.streams == []


async def test_bytes_for_a_stream_that_has_ended_are_answered_with_a_reset():
    server = Server()
    stream = server.open()
    await stream.write_eof()
    stream.forget()
    server.receive(Data(1, b"", fin=True), Data(1, b"last", fin=True))
    assert server.sent(RstStream) == []
    server.receive(Data(1, b"more"))
    assert server.sent(RstStream) == [RstStream(1, ResetStatus.INVALID_STREAM)]


async def test_pings_of_the_peer_are_answered_and_answers_are_not():
    server = Server()
    server.receive(Ping(1), Ping(2), Ping(7))
    assert server.sent(Ping) == [Ping(1), Ping(7)]


async def test_answers_to_frames_that_came_together_leave_together():
    server = Server()
    server.receive(*(Ping(number) for number in range(1, 100, 2)))
    assert len(server.sent(Ping)) == 50
    assert server.transport.writes == 1


async def test_peer_that_floods_with_pings_and_reads_nothing_is_dropped():
    server = Server()
    server.transport.may_drain.clear()
    for _ in range(100_000):
        if server.transport.aborted:
            break
        server.receive(Ping(1))
    assert server.transport.aborted
    assert server.connection.closed.is_set()


async def test_go_away_ends_new_streams_only():
    server = Server()
    stream = server.open()
    server.receive(GoAway(0), SynStream(3))
    assert server.connection.ended.is_set()
    assert not server.connection.closed.is_set()
    assert len(server.accepted) == 1
    await stream.write(b"still here")
    assert server.sent(Data) == [Data(1, b"still here")]


async def test_broken_protocol_closes_the_connection():
    server = Server()
    stream = server.open()
    server.connection.receive(b"\x80\x02\x00\x01\x00\x00\x00\x00")
    assert server.sent(GoAway) == [GoAway(1, 1)]
    assert server.transport.closed
    with pytest.raises(ConnectionResetError):
        await stream.read()


async def test_lost_connection_wakes_everybody():
    server = Server()
    stream = server.open()
    reader = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    server.connection.lose()
    with pytest.raises(ConnectionResetError):
        await reader


async def test_unread_bytes_pause_the_connection():
    server = Server()
    stream = server.open()
    count = 0
    while not server.transport.paused:
        server.receive(Data(1, b"x" * 65536))
        count += 1
    assert count == HIGH_WATER_BYTES // 65536 + 1
    for _ in range(count):
        await stream.read()
    assert not server.transport.paused


@pytest.mark.parametrize("end", ["forget", "reset", "lose"])
async def test_unread_bytes_of_an_ended_stream_do_not_hold_up_others(end):
    server = Server()
    stream = server.open()
    server.receive(Data(1, b"x" * (HIGH_WATER_BYTES + 1)))
    assert server.transport.paused
    if end == "forget":
        stream.forget()
    elif end == "reset":
        stream.reset()
    else:
        server.receive(RstStream(1, ResetStatus.CANCEL))
    assert not server.transport.paused


async def test_consumed_bytes_open_the_peers_windows():
    server = Server()
    stream = server.open()
    for _ in range(4):
        server.receive(Data(1, b"x" * 16384))
    assert server.sent(WindowUpdate) == [WindowUpdate(0, 32768), WindowUpdate(0, 32768)]
    for _ in range(4):
        await stream.read()
    assert [frame for frame in server.sent(WindowUpdate) if frame.stream_id] == [
        WindowUpdate(1, 32768),
        WindowUpdate(1, 32768),
    ]


async def test_peer_without_windows_is_sent_everything():
    server = Server()
    stream = server.open()
    async with asyncio.timeout(5):
        await stream.write(b"x" * 1_000_000)
    assert sum(len(frame.data) for frame in server.sent(Data)) == 1_000_000


async def test_windows_of_the_peer_are_kept_once_it_names_them():
    server = Server()
    server.receive(Settings(((7, 0, 100),)))
    stream = server.open()
    writer = asyncio.create_task(stream.write(b"x" * 250))
    await asyncio.sleep(0.01)
    assert [len(frame.data) for frame in server.sent(Data)] == [100]
    server.receive(WindowUpdate(1, 120))
    await asyncio.sleep(0.01)
    assert [len(frame.data) for frame in server.sent(Data)] == [100, 120]
    server.receive(Settings(((7, 0, 130),)))
    await writer
    assert [len(frame.data) for frame in server.sent(Data)] == [100, 120, 30]


async def test_session_window_of_the_peer_is_kept_once_it_updates_it():
    server = Server()
    server.receive(Settings(((7, 0, 1_000_000),)), WindowUpdate(0, 1))
    stream = server.open()
    writer = asyncio.create_task(stream.write(b"x" * 70_000))
    await asyncio.sleep(0.01)
    assert sum(len(frame.data) for frame in server.sent(Data)) == 65_537
    server.receive(WindowUpdate(0, 100_000))
    await writer


async def test_writer_that_waits_for_a_window_is_woken_by_a_reset():
    server = Server()
    server.receive(Settings(((7, 0, 0),)))
    stream = server.open()
    writer = asyncio.create_task(stream.write(b"x"))
    await asyncio.sleep(0)
    server.receive(RstStream(1, ResetStatus.CANCEL))
    with pytest.raises(ConnectionResetError):
        await writer


async def test_slow_peer_holds_the_writer_back():
    server = Server()
    stream = server.open()
    server.transport.may_drain.clear()
    writer = asyncio.create_task(stream.write(b"x" * 1_000_000))
    await asyncio.sleep(0.01)
    assert sum(len(frame.data) for frame in server.sent(Data)) == connection_module.MAX_DATA_BYTES
    server.transport.may_drain.set()
    await writer


@pytest.mark.looptime
async def test_closing_says_good_bye_and_waits_for_the_peer_a_little():
    server = Server()
    server.open(1)
    loop = asyncio.get_running_loop()
    begun_at = loop.time()
    await server.connection.aclose()
    assert loop.time() - begun_at == pytest.approx(5.0)
    assert server.transport.frames[-2:] == [RstStream(1, ResetStatus.CANCEL), GoAway(1)]
    assert server.transport.closed
    await server.connection.aclose()


@given(st.lists(st.binary(min_size=1, max_size=200_000), max_size=8), st.integers(1, 100_000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_everything_written_on_one_side_is_read_on_the_other(chunks, read_size, windows):
    async def run():
        class Wire(Recorder):
            peer = None

            def write(self, data):
                asyncio.get_running_loop().call_soon(self.peer.receive, data)

            async def drain(self):
                await asyncio.sleep(0)

        accepted = []
        server_wire, client_wire = Wire(), Wire()
        server = SpdyConnection(server_wire, on_stream=accepted.append)
        client = SpdyConnection(client_wire, on_stream=accepted.append, server=False)
        server_wire.peer, client_wire.peer = client, server
        if windows:
            client.send(Settings(((7, 0, 1000),)))
            server.send(Settings(((7, 0, 1000),)))
            await asyncio.sleep(0)
        near = client.open_stream({"streamtype": "data"})

        async def write():
            for chunk in chunks:
                await near.write(chunk)
            await near.write_eof()

        async def echo():
            while not accepted:
                await asyncio.sleep(0)
            while data := await accepted[0].read(read_size):
                await accepted[0].write(data)
            await accepted[0].write_eof()

        async def read():
            received = b""
            while data := await near.read(read_size):
                received += data
            return received

        async with asyncio.timeout(30):
            _, _, received = await asyncio.gather(write(), echo(), read())
        assert received == b"".join(chunks)
        assert client.streams == server.streams == []

    asyncio.run(run())


@given(st.lists(st.binary(max_size=60), max_size=10))
@settings(max_examples=200, deadline=None)
def test_garbage_never_raises(pieces):
    async def run():
        server = Server()
        server.open()
        for piece in pieces:
            server.connection.receive(piece)

    asyncio.run(run())


class TestArbitraryFrames:
    """Any sequence of well-formed frames leaves the connection in order."""

    frames = st.one_of(
        st.builds(SynStream, st.integers(1, 12), st.just({}), fin=st.booleans()),
        st.builds(SynReply, st.integers(1, 12)),
        st.builds(Data, st.integers(1, 12), st.binary(max_size=50), st.booleans()),
        st.builds(RstStream, st.integers(1, 12), st.integers(1, 20)),
        st.builds(WindowUpdate, st.integers(0, 12), st.integers(1, 2**31 - 1)),
        st.builds(Settings, st.lists(st.tuples(st.integers(0, 9), st.just(0), st.integers(0, 2**32 - 1))).map(tuple)),
        st.builds(Ping, st.integers(0, 9)),
        st.builds(GoAway, st.integers(0, 12)),
    )

    @given(st.lists(frames, max_size=30))
    @settings(max_examples=200, deadline=None)
    def test_frames_in_any_order(self, frames):
        async def run():
            server = Server()
            server.receive(*frames)
            for stream in server.accepted:
                stream.forget()
                await stream.write_eof()
            assert server.connection.streams == []
            assert server.connection._buffered_bytes == 0

        asyncio.run(run())
