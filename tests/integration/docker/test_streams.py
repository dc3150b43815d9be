"""Exec, attach and port-forward against real containers."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import pytest

from support.ports import free_port
from support.waiting import async_wait_for
from vkprovider.errors import NotFoundError, PodSyncError
from vkprovider.provider import ByteReader, ByteWriter, ProcessStreams, TerminalSize, cri

pytestmark = pytest.mark.docker


class Source(ByteReader):
    """Input that a test feeds."""

    def __init__(self, data: bytes = b"", *, end: bool = True) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        if data:
            self.feed(data)
        if end:
            self.feed(b"")

    def feed(self, data: bytes) -> None:
        self._queue.put_nowait(data)

    async def read(self, max_bytes: int = 65536) -> bytes:
        return await self._queue.get()


class Sink(ByteWriter):
    """Output as it comes."""

    def __init__(self, *, broken: bool = False) -> None:
        self.data = bytearray()
        self.ended = False
        self.broken = broken

    async def write(self, data: bytes) -> None:
        if self.broken:
            raise ConnectionResetError("the client went away")
        self.data += data

    async def write_eof(self) -> None:
        self.ended = True


@pytest.fixture
async def container(pods):
    return await pods.start("sleep", "1000")


def host_processes(engine_api, container_id):
    return [row[-1] for row in engine_api.top(container_id)["Processes"]]


async def gone(engine_api, container_id, text):
    async def look() -> bool:
        return not any(text in line for line in await asyncio.to_thread(host_processes, engine_api, container_id))

    await async_wait_for(look, f"no process {text!r}", timeout_s=5)


async def test_exec_sync_gives_outputs_and_exit_code(runtime, container):
    result = await runtime.exec_sync(container, ["sh", "-c", "echo out; echo err >&2; exit 5"])
    assert result == cri.ExecResult(5, b"out\n", b"err\n")


async def test_exec_of_a_missing_program(runtime, container):
    with pytest.raises(PodSyncError, match='exec: "no-such-program": executable file not found'):
        await runtime.exec_sync(container, ["no-such-program"])
    sink = Sink()
    with pytest.raises(PodSyncError, match="executable file not found"):
        await runtime.exec(container, ["no-such-program"], ProcessStreams(stdin=Source(), stdout=sink, tty=True))
    assert sink.data == b"", "the engine's message is an error, not output"


async def test_output_that_looks_like_the_engines_error_is_passed_on(runtime, container):
    result = await runtime.exec_sync(container, ["printf", "OCI runtime exec failed: no\\r\\n"])
    assert result == cri.ExecResult(0, b"OCI runtime exec failed: no\r\n", b"")


async def test_exec_needs_a_running_container(runtime, pods):
    container_id = await pods.shell("exit 0")
    await pods.ended(container_id)
    with pytest.raises(NotFoundError, match="is not running"):
        await runtime.exec_sync(container_id, ["true"])
    with pytest.raises(NotFoundError):
        await runtime.exec_sync(cri.ContainerID("0" * 64), ["true"])


async def test_exec_timeout_kills_the_command_with_its_children(runtime, container, engine_api):
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out after 700ms"):
        await runtime.exec_sync(container, ["sh", "-c", "sleep 777 & sleep 778; true"], timeout_s=0.7)
    assert time.monotonic() - begun < 4
    await gone(engine_api, container, "sleep 777")
    await gone(engine_api, container, "sleep 778")


async def test_exec_timeout_kills_a_command_that_ignores_signals(runtime, container, engine_api):
    with pytest.raises(TimeoutError):
        await runtime.exec_sync(container, ["sh", "-c", "trap '' TERM HUP INT; sleep 779; true"], timeout_s=0.5)
    await gone(engine_api, container, "sleep 779")
    await gone(engine_api, container, "trap")


async def test_cancelled_exec_kills_the_command(runtime, container, engine_api):
    sink = Sink()
    task = asyncio.create_task(
        runtime.exec(
            container, ["sh", "-c", "echo up; sleep 780"], ProcessStreams(stdin=Source(end=False), stdout=sink)
        )
    )
    await async_wait_for(lambda: asyncio.sleep(0, bool(sink.data)), "output", timeout_s=10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(engine_api, container, "sleep 780")


async def test_client_that_goes_away_kills_the_command(runtime, container, engine_api):
    streams = ProcessStreams(stdout=Sink(broken=True))
    with pytest.raises(ConnectionError, match="the client went away"):
        await runtime.exec(container, ["sh", "-c", "while :; do echo x; sleep 0.1; done"], streams)
    await gone(engine_api, container, "while :")


async def test_input_reaches_the_command_and_its_end_too(runtime, container):
    stdout, stderr = Sink(), Sink()
    data = bytes(range(256)) * 4000
    streams = ProcessStreams(stdin=Source(data), stdout=stdout, stderr=stderr)
    assert await runtime.exec(container, ["sh", "-c", "cat; echo done >&2"], streams) == 0
    assert bytes(stdout.data) == data
    assert bytes(stderr.data) == b"done\n"
    assert stdout.ended


async def test_large_output_arrives_whole_though_the_reader_is_slow(runtime, container):
    digest, count = hashlib.sha256(), 0

    class Slow(Sink):
        async def write(self, data: bytes) -> None:
            nonlocal count
            digest.update(data)
            count += len(data)
            await asyncio.sleep(0.001)

    size = 20_000_000
    assert await runtime.exec(container, ["head", "-c", str(size), "/dev/zero"], ProcessStreams(stdout=Slow())) == 0
    assert count == size
    assert digest.hexdigest() == hashlib.sha256(bytes(size)).hexdigest()


async def test_terminal_with_its_size(runtime, container):
    sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()

    async def changes() -> AsyncIterator[TerminalSize]:
        while True:
            yield await sizes.get()

    stdin, stdout = Source(end=False), Sink()
    sizes.put_nowait(TerminalSize(101, 41))
    task = asyncio.create_task(
        runtime.exec(container, ["sh"], ProcessStreams(stdin=stdin, stdout=stdout, tty=True, sizes=changes()))
    )

    async def shows(command: bytes, text: bytes) -> None:
        async def look() -> bool:
            stdin.feed(command + b"\n")
            await asyncio.sleep(0.1)
            return text in stdout.data

        await async_wait_for(look, repr(text), timeout_s=10)

    await shows(b"stty size", b"41 101")
    sizes.put_nowait(TerminalSize(77, 33))
    await shows(b"stty size", b"33 77")
    stdin.feed(b"exit 9\n")
    async with asyncio.timeout(10):
        assert await task == 9


async def test_attach_shows_output_and_carries_input(runtime, pods):
    container_id = await pods.shell("while read line; do echo got $line; done; exit 4", stdin=True, stdin_once=True)
    stdin, stdout = Source(end=False), Sink()
    task = asyncio.create_task(runtime.attach(container_id, ProcessStreams(stdin=stdin, stdout=stdout)))
    stdin.feed(b"one\n")
    await async_wait_for(lambda: asyncio.sleep(0, b"got one\n" in stdout.data), "an answer", timeout_s=10)
    stdin.feed(b"two\n")
    stdin.feed(b"")
    async with asyncio.timeout(10):
        await task
    assert bytes(stdout.data) == b"got one\ngot two\n"
    assert (await pods.ended(container_id)).exit_code == 4


async def test_detaching_leaves_the_container_alone(runtime, pods):
    container_id = await pods.shell("while :; do echo tick; sleep 0.1; done")
    stdout = Sink()
    task = asyncio.create_task(runtime.attach(container_id, ProcessStreams(stdout=stdout)))
    await async_wait_for(lambda: asyncio.sleep(0, bool(stdout.data)), "output", timeout_s=10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await runtime.container_status(container_id)).state is cri.ContainerState.RUNNING


async def test_attach_needs_a_running_container(runtime, pods):
    container_id = await pods.shell("exit 0")
    await pods.ended(container_id)
    with pytest.raises(NotFoundError, match="is not running"):
        await runtime.attach(container_id, ProcessStreams())


async def test_port_forward_reaches_the_pods_loopback(runtime, pods):
    sandbox = await pods.sandbox()
    await pods.shell("head -c 300000 /dev/zero > /zeros; httpd -f -p 127.0.0.1:8080 -h /", sandbox=sandbox)

    async def get() -> bytes:
        stream = await runtime.port_forward(sandbox[0], 8080)
        try:
            await stream.write(b"GET /zeros HTTP/1.0\r\n\r\n")
            await stream.write_eof()
            received = b""
            while data := await stream.read():
                received += data
            return received.partition(b"\r\n\r\n")[2]
        finally:
            await stream.aclose()

    async def answers() -> bool:
        try:
            return await get() == bytes(300000)
        except ConnectionError:
            return False

    await async_wait_for(answers, "an answer through the forwarded port", timeout_s=10)
    assert await asyncio.gather(*(get() for _ in range(20))) == [bytes(300000)] * 20


async def test_port_forward_to_a_silent_port_is_refused(runtime, pods):
    sandbox_id, _ = await pods.sandbox()
    with pytest.raises(ConnectionRefusedError, match="failed to connect to localhost:81 inside the network namespace"):
        await runtime.port_forward(sandbox_id, 81)


async def test_port_forward_needs_a_ready_sandbox(runtime, pods):
    sandbox_id, _ = await pods.sandbox()
    await runtime.stop_pod_sandbox(sandbox_id)
    with pytest.raises(NotFoundError):
        await runtime.port_forward(sandbox_id, 80)


async def test_host_port_leads_to_the_container(runtime, pods):
    port = free_port()
    sandbox = await pods.sandbox(port_mappings=(cri.PortMapping(8080, port, host_ip="127.0.0.1"),))
    await pods.shell("nc -ll -p 8080 -e cat", sandbox=sandbox)

    async def answers() -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"ping\n")
            answer = await reader.read(5)
            writer.close()
            await writer.wait_closed()
        except OSError:
            return False
        return answer == b"ping\n"

    await async_wait_for(answers, "an answer at the host port", timeout_s=10)
    with pytest.raises(PodSyncError, match="port is already allocated") as caught:
        await pods.sandbox(name="second", port_mappings=(cri.PortMapping(8080, port, host_ip="127.0.0.1"),))
    assert caught.value.reason == "CreatePodSandboxError"
    assert len(await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=pods.labels))) == 1
