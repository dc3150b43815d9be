"""``/containerLogs`` over the wire."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime

import pytest

from vkprovider.errors import InvalidPodError, NotFoundError, TransientError

PATH = "/containerLogs/default/web/app"


def lines(*chunks, after=None):
    async def logs(pod, container, options):
        for chunk in chunks:
            yield chunk
        if after is not None:
            raise after

    return logs


class Endless:
    """A log that goes on until its reader leaves."""

    def __init__(self, chunk=b"", *, opened=True):
        self.chunk, self.opened = chunk, opened
        self.sent = 0
        self.closed = asyncio.Event()

    async def __call__(self, pod, container, options):
        try:
            if self.opened:
                yield b""
            while True:
                if not self.chunk:
                    await asyncio.Event().wait()
                self.sent += len(self.chunk)
                yield self.chunk
        finally:
            self.closed.set()


async def test_log_is_streamed_without_a_content_type(node, get, provider):
    provider.logs = lines(b"", b"one\n", b"two\n")
    status, text, headers = await get(node, PATH)
    assert (status, text) == (200, "one\ntwo\n")
    assert headers["Transfer-Encoding"] == "chunked"
    assert "Content-Type" not in headers


async def test_empty_log_is_an_empty_answer(node, get, provider):
    provider.logs = lines()
    assert (await get(node, PATH))[:2] == (200, "")


async def test_options_reach_the_provider(node, get, provider):
    seen = []

    async def logs(pod, container, options):
        seen.append((pod["metadata"]["name"], container, options))
        yield b""

    provider.logs = logs
    query = "?follow=true&previous=1&timestamps=true&tailLines=7&limitBytes=9&sinceTime=2026-01-02T03:04:05%2B01:00"
    assert (await get(node, PATH + query))[0] == 200
    ((name, container, options),) = seen
    assert (name, container) == ("web", "app")
    assert (options.follow, options.previous, options.timestamps) == (True, True, True)
    assert (options.tail_lines, options.limit_bytes) == (7, 9)
    assert options.since == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (PATH + "?tailLines=x", 400, '{"message": "Unable to decode query."}'),
        (PATH + "?tailLines=-1", 422, '{"message": "Invalid request."}'),
        ("/containerLogs/default/nope/app", 404, 'pod "nope" does not exist'),
        ("/containerLogs/other/web/app", 404, 'pod "web" does not exist'),
        ("/containerLogs/default/web/nope", 404, 'container "nope" not found in pod "web"'),
        ("/containerLogs/default/web", 404, "404 page not found\n"),
        ("/containerLogs/default/web/..%2F..%2Fetc", 404, 'container "../../etc" not found in pod "web"'),
        (
            PATH + "?stream=Stdout",
            400,
            'unable to return the given log stream: "Stdout". '
            "Please enable PodLogsQuerySplitStreams feature gate in kubelet",
        ),
    ],
)
async def test_refusals(node, get, provider, path, status, text):
    provider.logs = lines(b"never")
    assert (await get(node, path))[:2] == (status, text)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidPodError('container "app" in pod "web" is waiting to start: ContainerCreating'), 400),
        (NotFoundError("unable to retrieve container logs for docker://1"), 400),
        (TransientError("the engine does not answer"), 503),
    ],
)
async def test_error_before_the_log_is_a_status(node, get, provider, error, status):
    provider.logs = lines(after=error)
    assert (await get(node, PATH))[:2] == (status, str(error))


async def test_error_within_the_log_is_appended(node, get, provider):
    provider.logs = lines(b"one\n", after=TransientError("the engine is gone"))
    assert (await get(node, PATH))[:2] == (200, "one\nthe engine is gone")


async def test_limit_holds_even_if_the_provider_ignores_it(node, get, provider):
    log = provider.logs = Endless(b"0123456789")
    assert (await get(node, PATH + "?limitBytes=25"))[:2] == (200, "0123456789012345678901234")
    assert log.closed.is_set()


async def test_provider_without_logs(start_server, get, bare_provider):
    node = await start_server({"authorization_mode": "AlwaysAllow"}, provider=bare_provider)
    assert (await get(node, PATH))[:2] == (501, "provider 'bare' does not show logs of containers")


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "silent"])
async def test_header_comes_before_any_output(node, session, provider, monkeypatch, opened):
    monkeypatch.setattr("vkprovider.server.logs.OPEN_GRACE_S", 30.0 if opened else 0.05)
    log = provider.logs = Endless(opened=opened)
    async with asyncio.timeout(5):
        async with session.get(node.url(PATH + "?follow=true"), ssl=node.tls) as response:
            assert response.status == 200
            assert not log.closed.is_set()
            response.close()
        await log.closed.wait()


async def test_client_that_leaves_ends_the_log_at_once(node, provider):
    log = provider.logs = Endless(b"x" * 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls)
    writer.write(f"GET {PATH}?follow=true HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    await reader.readuntil(b"x")
    writer.transport.abort()
    async with asyncio.timeout(2):
        await log.closed.wait()


async def test_client_that_leaves_before_the_first_chunk_ends_the_log(node, provider):
    log = provider.logs = Endless(opened=False)
    _, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls)
    writer.write(f"GET {PATH}?follow=true HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    await asyncio.sleep(0.1)
    writer.transport.abort()
    async with asyncio.timeout(2):
        await log.closed.wait()


async def test_slow_reader_holds_the_log_back(node, provider):
    log = provider.logs = Endless(b"x" * 65536)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls, limit=65536)
    writer.write(f"GET {PATH}?follow=true HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    before = -1
    async with asyncio.timeout(10):
        while log.sent != before:
            before = log.sent
            await asyncio.sleep(0.2)
    assert log.sent < 32 * 1024 * 1024
    writer.transport.resume_reading()
    async with asyncio.timeout(10):
        while log.sent < before + 16 * 1024 * 1024:
            await reader.read(1 << 20)
    writer.transport.abort()
    async with asyncio.timeout(2):
        await log.closed.wait()


async def test_closing_the_server_ends_followed_logs(node, provider):
    log = provider.logs = Endless()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls)
    writer.write(f"GET {PATH}?follow=true HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(5):
        await node.server.aclose()
    assert log.closed.is_set()
    try:
        await reader.read()
    except (ConnectionError, ssl.SSLError):
        pass
    writer.close()


async def test_many_followers_at_once(node, session, provider):
    logs = []

    def make(pod, container, options):
        log = Endless(b"")
        logs.append(log)
        return log(pod, container, options)

    provider.logs = make
    responses = [await session.get(node.url(PATH + "?follow=1"), ssl=node.tls) for _ in range(50)]
    assert {response.status for response in responses} == {200}
    for response in responses:
        response.close()
    async with asyncio.timeout(5):
        for log in logs:
            await log.closed.wait()
    assert len(logs) == 50
