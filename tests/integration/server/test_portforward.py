"""Port-forward over SPDY, WebSocket channels and the WebSocket tunnel."""

from __future__ import annotations

import asyncio
import struct

import aiohttp
import pytest

from vkprovider.errors import NotFoundError
from vkprovider.server.spdy.connection import SpdyConnection

PATH = "/portForward/default/web"
PROTOCOL = "portforward.k8s.io"


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def open_pair(client, port, request_id="1"):
    error = client.open(streamtype="error", port=str(port), requestid=request_id)
    data = client.open(streamtype="data", port=str(port), requestid=request_id)
    return data, error


async def read_all(stream):
    received = bytearray()
    while data := await stream.read():
        received += data
    return bytes(received)


async def test_bytes_go_both_ways_and_the_end_is_passed_on(dial, tcp_server, remotes):
    port = await tcp_server(echo)
    client = await dial(PATH, PROTOCOL)
    assert client.headers["x-stream-protocol-version"] == PROTOCOL
    data, error = open_pair(client, port)
    await error.write_eof()
    await data.write(b"hello")
    assert await data.read() == b"hello"
    await data.write_eof()
    assert await read_all(data) == b""
    assert await read_all(error) == b""
    assert remotes[0].closed


async def test_many_connections_over_one(dial, tcp_server, remotes):
    port = await tcp_server(echo)
    client = await dial(PATH, PROTOCOL)

    async def one(number):
        data, error = open_pair(client, port, str(number))
        text = f"request {number} ".encode() * 5000
        await data.write(text)
        await data.write_eof()
        received = await read_all(data)
        return received == text and await read_all(error) == b""

    assert all(await asyncio.gather(*(one(number) for number in range(100))))
    assert len(remotes) == 100
    assert all(remote.closed for remote in remotes)


async def test_server_that_closes_first_ends_the_pair(dial, tcp_server, remotes):
    async def greet(reader, writer):
        writer.write(b"bye" * 10_000)

    port = await tcp_server(greet)
    client = await dial(PATH, PROTOCOL)
    data, error = open_pair(client, port)
    assert await read_all(data) == b"bye" * 10_000
    assert await read_all(error) == b""


async def test_server_that_does_not_read_on_may_still_answer(dial, tcp_server, remotes):
    over = asyncio.Event()

    async def refuse(reader, writer):
        await reader.read(10)
        writer.transport.pause_reading()
        writer.write(b"413")
        writer.write_eof()
        await over.wait()

    port = await tcp_server(refuse)
    client = await dial(PATH, PROTOCOL)
    data, _ = open_pair(client, port)
    sender = asyncio.create_task(data.write(b"x" * 64 * 1024 * 1024))
    assert await read_all(data) == b"413"
    # A client that goes on sending is told, and holds up nobody.
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionError):
            await sender
    over.set()


async def test_refused_port_is_explained_and_the_connection_goes_on(dial, provider, tcp_server, remotes):
    reachable = await tcp_server(echo)
    connect = provider.connect

    async def picky(pod, port):
        if port == 1:
            raise ConnectionRefusedError("connection refused")
        if port == 2:
            raise NotFoundError("no sandbox")
        return await connect(pod, port)

    provider.connect = picky
    client = await dial(PATH, PROTOCOL)
    for port, why in ((1, "connection refused"), (2, "no sandbox")):
        data, error = open_pair(client, port, str(port))
        received = await error.read()
        assert received.decode() == f"error forwarding port {port} to pod web, uid uid-web: {why}"
        with pytest.raises(ConnectionError):
            await error.read()
        with pytest.raises(ConnectionError):
            await read_all(data)
    data, _ = open_pair(client, reachable, "9")
    await data.write(b"ok")
    assert await data.read() == b"ok"


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data"},
        {"streamtype": "data", "port": "0"},
        {"streamtype": "data", "port": "65536"},
        {"streamtype": "data", "port": "http"},
        {"streamtype": "data", "port": "-1"},
        {"port": "80"},
        {"streamtype": "other", "port": "80"},
    ],
)
async def test_bad_streams_are_reset_and_others_live(dial, tcp_server, remotes, headers):
    port = await tcp_server(echo)
    client = await dial(PATH, PROTOCOL)
    with pytest.raises(ConnectionError):
        await client.open(**headers).read()
    data, _ = open_pair(client, port)
    await data.write(b"ok")
    assert await data.read() == b"ok"


async def test_streams_without_a_request_id_are_paired_by_their_numbers(dial, tcp_server, remotes):
    port = await tcp_server(echo)
    client = await dial(PATH, PROTOCOL)
    client.open(streamtype="error", port=str(port))
    data = client.open(streamtype="data", port=str(port))
    await data.write(b"ok")
    assert await data.read() == b"ok"


async def test_pair_that_stays_incomplete_times_out(dial, monkeypatch):
    monkeypatch.setattr("vkprovider.server.portforward.STREAM_CREATION_TIMEOUT_S", 0.1)
    client = await dial(PATH, PROTOCOL)
    error = client.open(streamtype="error", port="80", requestid="7")
    received = await error.read()
    assert received == b"(request=7) timed out waiting for streams"


async def test_second_stream_of_a_kind_is_reset(dial, tcp_server, remotes):
    port = await tcp_server(echo)
    client = await dial(PATH, PROTOCOL)
    client.open(streamtype="error", port=str(port), requestid="1")
    second = client.open(streamtype="error", port=str(port), requestid="1")
    with pytest.raises(ConnectionError):
        await second.read()


@pytest.mark.parametrize("how", ["abort", "reset"])
async def test_client_that_leaves_closes_the_pods_connection(dial, tcp_server, remotes, how):
    left = asyncio.Event()

    async def wait(reader, writer):
        await reader.read()
        left.set()

    port = await tcp_server(wait)
    client = await dial(PATH, PROTOCOL)
    data, _ = open_pair(client, port)
    await data.write(b"x")
    while not remotes:
        await asyncio.sleep(0.01)
    client.abort() if how == "abort" else data.reset()
    async with asyncio.timeout(5):
        await left.wait()
    assert remotes[0].closed


async def test_stuck_connection_does_not_grow(dial, tcp_server, remotes):
    stuck = asyncio.Event()

    async def never_read(reader, writer):
        writer.transport.pause_reading()
        await stuck.wait()

    port = await tcp_server(never_read)
    client = await dial(PATH, PROTOCOL)
    data, _ = open_pair(client, port)
    written = 0

    async def send():
        nonlocal written
        while True:
            await data.write(b"x" * 65536)
            written += 65536

    sender = asyncio.create_task(send())
    before = -1
    async with asyncio.timeout(20):
        while written != before:
            before = written
            await asyncio.sleep(0.3)
    sender.cancel()
    assert written < 48 * 1024 * 1024
    stuck.set()


@pytest.fixture
async def ws(node, session):
    opened = []

    async def connect(path, *protocols):
        socket = await session.ws_connect(node.url(path), ssl=node.tls, protocols=protocols)
        opened.append(socket)
        return socket

    yield connect
    for socket in opened:
        await socket.close()


class TestChannels:
    async def test_ports_come_first_and_then_the_bytes(self, ws, tcp_server, remotes):
        first, second = await tcp_server(echo), await tcp_server(echo)
        socket = await ws(f"{PATH}?port={first},{second}", "v4.channel.k8s.io")
        assert socket.protocol == "v4.channel.k8s.io"
        greetings = sorted([(await socket.receive()).data for _ in range(4)])
        assert greetings == [
            b"\x00" + struct.pack("<H", first),
            b"\x01" + struct.pack("<H", first),
            b"\x02" + struct.pack("<H", second),
            b"\x03" + struct.pack("<H", second),
        ]
        await socket.send_bytes(b"\x02two")
        assert (await socket.receive()).data == b"\x02two"
        await socket.send_bytes(b"\x00one")
        assert (await socket.receive()).data == b"\x00one"
        await socket.send_bytes(b"\x01ignored")
        await socket.send_bytes(b"\x77ignored")
        await socket.close()
        async with asyncio.timeout(5):
            while not all(remote.closed for remote in remotes):
                await asyncio.sleep(0.01)

    async def test_base64(self, ws, tcp_server, remotes):
        port = await tcp_server(echo)
        socket = await ws(f"{PATH}?port={port}", "v4.base64.channel.k8s.io")
        assert [(await socket.receive()).type for _ in range(2)] == [aiohttp.WSMsgType.TEXT] * 2
        await socket.send_str("0aGk=")
        assert (await socket.receive()).data == "0aGk="

    async def test_refused_port_is_explained(self, ws, provider):
        async def refuse(pod, port):
            raise ConnectionRefusedError("connection refused")

        provider.connect = refuse
        socket = await ws(f"{PATH}?port=81")
        messages = [await socket.receive() for _ in range(4)]
        assert messages[2].data == b"\x01error forwarding port 81 to pod web, uid uid-web: connection refused"
        assert messages[3].type is aiohttp.WSMsgType.CLOSE

    async def test_websocket_ends_with_the_last_connection(self, ws, tcp_server, remotes):
        async def greet(reader, writer):
            writer.write(b"bye")

        socket = await ws(f"{PATH}?port={await tcp_server(greet)}")
        messages = [await socket.receive() for _ in range(4)]
        assert messages[2].data == b"\x00bye"
        assert messages[3].type is aiohttp.WSMsgType.CLOSE

    @pytest.mark.parametrize("query", ["", "?port=", "?port=0", "?port=80,x", "?port=70000"])
    async def test_bad_ports(self, ws, query):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await ws(PATH + query)
        assert caught.value.status == 400


class Tunnel:
    """The client's end of a tunnel."""

    is_full = False

    def __init__(self, socket, chop=None):
        self.socket, self.chop = socket, chop
        self.queue = asyncio.Queue()
        self.connection = SpdyConnection(self, on_stream=lambda stream: None, server=False)
        self.tasks = [asyncio.create_task(self.send()), asyncio.create_task(self.receive())]

    async def send(self):
        while True:
            data = await self.queue.get()
            size = self.chop or len(data)
            for start in range(0, len(data), size):
                await self.socket.send_bytes(data[start : start + size])

    async def receive(self):
        async for message in self.socket:
            self.connection.receive(message.data)
        self.connection.lose()

    def open(self, **headers):
        return self.connection.open_stream(headers)

    def write(self, data):
        self.queue.put_nowait(data)

    async def drain(self):
        await asyncio.sleep(0)

    def pause_reading(self):
        pass

    resume_reading = close = abort = pause_reading


class TestTunnel:
    @pytest.fixture
    async def tunnel(self, ws):
        made = []

        async def connect(chop=None):
            socket = await ws(PATH, "SPDY/3.1+portforward.k8s.io")
            assert socket.protocol == "SPDY/3.1+portforward.k8s.io"
            made.append(Tunnel(socket, chop))
            return made[-1]

        yield connect
        for each in made:
            for task in each.tasks:
                task.cancel()
            await asyncio.gather(*each.tasks, return_exceptions=True)

    @pytest.mark.parametrize("chop", [None, 3])
    async def test_spdy_goes_through_however_it_is_cut(self, tunnel, tcp_server, remotes, chop):
        port = await tcp_server(echo)
        client = await tunnel(chop)
        data, error = open_pair(client, port)
        text = b"0123456789" * 1000
        await data.write(text)
        await data.write_eof()
        assert await read_all(data) == text
        assert await read_all(error) == b""

    async def test_large_transfer(self, tunnel, tcp_server, remotes):
        async def pour(reader, writer):
            for _ in range(320):
                writer.write(b"x" * 65536)
                await writer.drain()

        client = await tunnel()
        data, _ = open_pair(client, await tcp_server(pour))
        count = 0
        while received := await data.read():
            count += len(received)
        assert count == 320 * 65536

    async def test_closing_the_websocket_closes_everything(self, tunnel, tcp_server, remotes):
        port = await tcp_server(echo)
        client = await tunnel()
        data, _ = open_pair(client, port)
        await data.write(b"x")
        assert await data.read() == b"x"
        await client.socket.close()
        async with asyncio.timeout(5):
            while not remotes[0].closed:
                await asyncio.sleep(0.01)

    async def test_text_is_an_error(self, tunnel, tcp_server, remotes):
        client = await tunnel()
        await client.socket.send_str("hello")
        async with asyncio.timeout(8):
            await client.connection.closed.wait()
