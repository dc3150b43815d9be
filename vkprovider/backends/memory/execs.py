"""Commands that clients run in simulated containers, and clients attached to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.backends.memory.main_process import Attachment
from vkprovider.backends.memory.process import FOREVER_S, Process, Program, Read, Sleep, Write, fixed_program
from vkprovider.backends.memory.records import SIGINT, ContainerRecord
from vkprovider.backends.memory.streams import LineDiscipline, Pipe
from vkprovider.errors import PodSyncError
from vkprovider.provider.streams import ByteReader, ProcessStreams

logger = logging.getLogger(__name__)
_STDIN_RETRY_S = 0.05


def find_program(record: ContainerRecord, command: Sequence[str]) -> Program:
    """The program that a command runs in a container: what its behaviour says, else one of the runtime's.

    Raises:
        PodSyncError: There is none of this name; the message is runc's.
    """
    if not command:
        raise PodSyncError("exec failed: no command was given")
    behaviours = record.behaviour.exec
    if behaviours:
        found = behaviours.get(" ".join(command)) or behaviours.get(command[0])
        if found is not None:
            return fixed_program(
                found.exit_code, stdout=found.stdout.encode(), stderr=found.stderr.encode(), delay_s=found.delay_s
            )
    program = record.runtime.programs.get(command[0].rpartition("/")[2])
    if program is None:
        raise PodSyncError(
            "OCI runtime exec failed: exec failed: unable to start container process: "
            f'exec: "{command[0]}": executable file not found in $PATH: unknown'
        )
    return program


async def run_exec(record: ContainerRecord, command: Sequence[str], streams: ProcessStreams) -> int:
    """Run a command in a running container; ends with 137 when the container ends.

    It runs in the caller's task: cancelling that kills it.

    Raises:
        PodSyncError: There is no such program.
        ConnectionError: The client went away.
    """
    program = find_program(record, command)
    process = record.make_process(tuple(command), tty=streams.tty)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:

            def kill() -> None:
                scope.reschedule(loop.time())

            record.add_exec_kill(kill)
            try:
                if streams.tty and streams.stdin is not None:
                    return await _run_on_terminal(record, program, process, streams)
                return await _drive(record, program, process, streams, streams.stdin)
            finally:
                record.remove_exec_kill(kill)
    except TimeoutError:
        if scope.expired():
            return 137
        raise


async def _drive(
    record: ContainerRecord, program: Program, process: Process, streams: ProcessStreams, stdin: ByteReader | None
) -> int:
    run = program(process)
    value: bytes | None = None
    try:
        while True:
            try:
                effect = run.send(value)
            except StopIteration as stop:
                return int(stop.value or 0)
            value = None
            if isinstance(effect, Write):
                writer = streams.stderr if effect.stderr and not streams.tty else streams.stdout
                if writer is not None:
                    data = effect.data.replace(b"\n", b"\r\n") if streams.tty else effect.data
                    await writer.write(data)
            elif isinstance(effect, Sleep):
                if effect.seconds == FOREVER_S:
                    await asyncio.get_running_loop().create_future()
                await asyncio.sleep(effect.seconds)
            elif isinstance(effect, Read):
                value = await stdin.read(effect.max_bytes) if stdin is not None else b""
            else:
                record.deliver(effect.number)
                await asyncio.sleep(0)  # let the end of the container reach this process
    finally:
        run.close()


async def _run_on_terminal(record: ContainerRecord, program: Program, process: Process, streams: ProcessStreams) -> int:
    """Run behind a terminal: keys are shown as they are typed and handed over line by line; Ctrl-C ends the command."""
    lines = Pipe()
    work = asyncio.create_task(_drive(record, program, process, streams, lines), name="memory-exec")
    keys = asyncio.create_task(_read_keys(streams, lines), name="memory-exec-terminal")
    try:
        await asyncio.wait({work, keys}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and keys.result():
            return 128 + SIGINT
        return await work
    finally:
        await cancel_and_wait([work, keys])


async def _read_keys(streams: ProcessStreams, lines: Pipe) -> bool:
    """Whether the person interrupted the command; False once the input has ended."""
    assert streams.stdin is not None
    discipline = LineDiscipline()
    while data := await streams.stdin.read():
        shown, typed, ended, interrupted = discipline.feed(data)
        if shown and streams.stdout is not None:
            await streams.stdout.write(shown)
        await lines.write(typed)
        if interrupted:
            return True
        if ended:
            break
    await lines.write_eof()
    return False


async def run_attach(record: ContainerRecord, streams: ProcessStreams) -> None:
    """Connect a client to the first process of a running container until either ends.

    Raises:
        ConnectionError: The client went away, or took its output too slowly.
    """
    attachment = record.attach()
    tasks = [asyncio.create_task(_copy_output(attachment, streams), name="memory-attach-output")]
    attachment.on_overrun = tasks[0].cancel
    if streams.stdin is not None:
        tasks.append(asyncio.create_task(_copy_input(record, streams.stdin), name="memory-attach-input"))
    try:
        pending = set(tasks)
        while tasks[0] in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if attachment.overrun:
                raise ConnectionResetError("the attached client takes the container's output too slowly")
            for task in done:
                task.result()
    finally:
        record.detach(attachment)
        await cancel_and_wait(tasks)


async def _copy_output(attachment: Attachment, streams: ProcessStreams) -> None:
    while (write := await attachment.get()) is not None:
        writer = streams.stderr if write.stderr and not streams.tty else streams.stdout
        if writer is not None:
            await writer.write(write.data.replace(b"\n", b"\r\n") if streams.tty else write.data)


async def _copy_input(record: ContainerRecord, stdin: ByteReader) -> None:
    while data := await stdin.read():
        while not record.feed_stdin(data):  # noqa: ASYNC110 - the program may take its input at any time; this is rare
            await asyncio.sleep(_STDIN_RETRY_S)
    if record.config.stdin_once:
        record.close_stdin()
