"""People at simulated containers: exec with a terminal, attach, and the pipes in between."""

import asyncio

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import MemoryRuntime
from vkprovider.backends.memory.main_process import MAX_ATTACH_BYTES
from vkprovider.backends.memory.streams import PIPE_LIMIT_BYTES, Pipe, make_connection
from vkprovider.provider import cri
from vkprovider.provider.streams import CappedBuffer, ProcessStreams

pytestmark = pytest.mark.looptime


@pytest.fixture
async def runtime():
    runtime = MemoryRuntime(clock=LoopClock())
    yield runtime
    await runtime.aclose()


async def run(runtime, *command, **fields):
    metadata = cri.PodSandboxMetadata("pod", "uid", "default")
    config = cri.PodSandboxConfig(metadata, hostname="pod")
    sandbox_id = await runtime.run_pod_sandbox(config)
    await runtime.images.pull_image(cri.ImageSpec("busybox"))
    container = cri.ContainerConfig(cri.ContainerMetadata("c"), cri.ImageSpec("busybox"), command=command, **fields)
    container_id = await runtime.create_container(sandbox_id, container, config)
    await runtime.start_container(container_id)
    return container_id


class Terminal:
    """A person at a terminal: types with pauses, sees what is shown."""

    def __init__(self, *keys):
        self.stdin, self.screen = Pipe(), CappedBuffer(100_000)
        self.streams = ProcessStreams(stdin=self.stdin, stdout=self.screen, tty=True)
        self.typing = asyncio.create_task(self._type(keys))

    async def _type(self, keys):
        for key in keys:
            await asyncio.sleep(1)
            await self.stdin.write(key)


async def test_shell_at_a_terminal_shows_keys_and_answers(runtime):
    container_id = await run(runtime)
    terminal = Terminal(b"echo hallo", b"\x7f\x7flo w", b"orld\r", b"exit 3\r")
    code = await runtime.exec(container_id, ["sh"], terminal.streams)
    assert code == 3
    screen = terminal.screen.getvalue()
    assert screen == b"/ # echo hallo\b \b\b \blo world\r\nhallo world\r\n/ # exit 3\r\n"
    await terminal.typing


async def test_end_of_input_key_ends_the_shell(runtime):
    container_id = await run(runtime)
    terminal = Terminal(b"\x04")
    assert await runtime.exec(container_id, ["sh"], terminal.streams) == 0
    await terminal.typing


async def test_interrupt_key_ends_the_command(runtime):
    container_id = await run(runtime)
    terminal = Terminal(b"\x03")
    assert await runtime.exec(container_id, ["sleep", "600"], terminal.streams) == 130
    assert terminal.screen.getvalue() == b"^C\r\n"
    await terminal.typing


async def test_error_output_goes_to_the_terminal(runtime):
    container_id = await run(runtime)
    terminal = Terminal()
    assert await runtime.exec(container_id, ["sh", "-c", "echo a >&2"], terminal.streams) == 0
    assert terminal.screen.getvalue() == b"a\r\n"
    await terminal.typing


async def test_container_that_ends_ends_the_terminal(runtime):
    container_id = await run(runtime)
    terminal = Terminal()
    work = asyncio.create_task(runtime.exec(container_id, ["sh"], terminal.streams))
    await asyncio.sleep(1)
    runtime.exit_container(container_id)
    assert await work == 137
    await terminal.typing


async def test_attached_client_may_leave_and_another_go_on(runtime):
    container_id = await run(runtime, "cat", stdin=True)
    for text in (b"one\n", b"two\n"):
        stdin, stdout = Pipe(), Pipe()
        client = asyncio.create_task(runtime.attach(container_id, ProcessStreams(stdin=stdin, stdout=stdout)))
        await stdin.write(text)
        assert await stdout.read() == text
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
    assert (await runtime.container_status(container_id)).state is cri.ContainerState.RUNNING


async def test_two_attached_clients_see_the_same(runtime):
    container_id = await run(runtime)
    buffers = [CappedBuffer(100), CappedBuffer(100)]
    clients = [
        asyncio.create_task(runtime.attach(container_id, ProcessStreams(stdout=buffer, stderr=buffer)))
        for buffer in buffers
    ]
    await asyncio.sleep(1)
    runtime.write_log(container_id, b"out\n")
    runtime.write_log(container_id, b"err\n", stderr=True)
    runtime.exit_container(container_id)
    await asyncio.gather(*clients)
    assert [buffer.getvalue() for buffer in buffers] == [b"out\nerr\n"] * 2


async def test_client_too_slow_for_the_output_is_dropped(runtime):
    container_id = await run(runtime)
    stdout = Pipe()
    client = asyncio.create_task(runtime.attach(container_id, ProcessStreams(stdout=stdout)))
    await asyncio.sleep(1)
    for _ in range(MAX_ATTACH_BYTES // 500_000 + 5):
        runtime.write_log(container_id, b"x" * 499_999 + b"\n")
        await asyncio.sleep(0)
    with pytest.raises(ConnectionResetError, match="too slowly"):
        await client


async def test_input_without_a_taker_is_thrown_away(runtime):
    container_id = await run(runtime, "sleep", "600")
    client = asyncio.create_task(runtime.attach(container_id, ProcessStreams(stdin=_full_pipe(b"x"))))
    await asyncio.sleep(1)
    assert not client.done()
    runtime.exit_container(container_id)
    await client


def _full_pipe(data):
    pipe = Pipe()
    pipe._chunks.append(data)
    pipe._eof = True
    return pipe


# -- Pipes.


async def test_full_pipe_holds_the_writer_back():
    pipe = Pipe()
    await pipe.write(b"x" * PIPE_LIMIT_BYTES)
    writer = asyncio.create_task(pipe.write(b"y"))
    await asyncio.sleep(1)
    assert not writer.done()
    assert len(await pipe.read()) == PIPE_LIMIT_BYTES
    await writer
    assert await pipe.read() == b"y"


async def test_reads_are_cut_and_lose_nothing():
    pipe = Pipe()
    await pipe.write(b"abcdef")
    await pipe.write_eof()
    assert [await pipe.read(4), await pipe.read(4), await pipe.read(4)] == [b"abcd", b"ef", b""]
    with pytest.raises(ConnectionResetError, match="ended"):
        await pipe.write(b"more")


async def test_broken_pipe_fails_both_sides():
    pipe = Pipe(4)
    await pipe.write(b"full")
    writer = asyncio.create_task(pipe.write(b"more"))
    await asyncio.sleep(1)
    pipe.abort()
    for work in (writer, pipe.write(b"x"), pipe.read()):
        with pytest.raises(ConnectionResetError):
            await work


async def test_closed_connection_still_delivers_what_was_sent():
    ours, theirs = make_connection()
    await ours.write(b"last words")
    await ours.aclose()
    await ours.aclose()
    assert (await theirs.read(), await theirs.read()) == (b"last words", b"")
    with pytest.raises(ConnectionResetError):
        await theirs.write(b"too late")
