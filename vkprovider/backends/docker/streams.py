"""Exec, attach and port-forward: raw connections to the engine, pumped on the event loop.

Nothing is read ahead of a slow receiver: every pump waits for its writer, so that the engine and the process in the
container are held back in turn.

Source: cri-dockerd core/exec.go, container_attach.go, sandbox_port_forward.go; Engine API, ExecStart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from vkprovider.aio.tasks import cancel_and_wait, finish
from vkprovider.api.durations import format_duration
from vkprovider.backends.docker.convert import find_addresses
from vkprovider.backends.docker.demux import STDERR, STDOUT, SYSTEM_ERROR, Demultiplexer
from vkprovider.backends.docker.engine import Engine
from vkprovider.backends.docker.errors import engine_errors
from vkprovider.backends.docker.naming import KIND, KIND_SANDBOX
from vkprovider.backends.docker.processes import ContainerProcesses
from vkprovider.errors import ConflictError, NotFoundError, PodSyncError, TransientError, VkproviderError
from vkprovider.provider import cri
from vkprovider.provider.streams import ByteReader, ByteWriter, CappedBuffer, DuplexStream, ProcessStreams, TerminalSize

logger = logging.getLogger(__name__)

MAX_EXEC_OUTPUT_BYTES = 16 * 1024 * 1024
EXEC_ERROR = "ExecError"
_CHUNK_BYTES = 256 * 1024
_EXIT_POLL_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_KILL_TIMEOUT_S = 10.0
_RESIZE_TRIES = 5
_MAX_START_ERROR_BYTES = 4096
_MARKER = "VKPROVIDER_EXEC_ID"
_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        self.writer.close()


class Streams:
    """Connects streams to containers.

    Args:
        engine: The engine.
        processes: Processes of containers.
    """

    def __init__(self, engine: Engine, processes: ContainerProcesses) -> None:
        self._engine = engine
        self._client = engine.client
        self._processes = processes

    async def exec_sync(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None
    ) -> cri.ExecResult:
        """Run a command and wait for its end."""
        stdout, stderr = CappedBuffer(MAX_EXEC_OUTPUT_BYTES), CappedBuffer(MAX_EXEC_OUTPUT_BYTES)
        streams = ProcessStreams(stdout=stdout, stderr=stderr)
        try:
            async with asyncio.timeout(timeout_s):
                code = await self.exec(container_id, command, streams)
        except TimeoutError as error:
            raise TimeoutError(
                f"command {' '.join(command)!r} timed out after {format_duration(timeout_s or 0)}"
            ) from error
        return cri.ExecResult(exit_code=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())

    async def exec(self, container_id: cri.ContainerID, command: Sequence[str], streams: ProcessStreams) -> int:
        """Run a command with these streams and return its exit code."""
        # Only an engine whose processes we cannot see needs the marker by which the command is found again.
        marker = "" if self._client.is_local else secrets.token_hex(8)
        doing = f"exec in container {container_id!r}"
        try:
            created = await self._client.call(
                lambda sdk: sdk.exec_create(
                    container_id,
                    list(command),
                    stdin=streams.stdin is not None,
                    stdout=streams.stdout is not None or streams.stderr is None,
                    stderr=streams.stderr is not None and not streams.tty,
                    tty=streams.tty,
                    environment={_MARKER: marker} if marker else None,
                ),
                doing=doing,
            )
        except ConflictError as error:
            raise NotFoundError(error.message) from error  # it does not run
        exec_id: str = created["Id"]
        finished = False
        try:
            with engine_errors(doing, reason=EXEC_ERROR):
                reader, writer = await self._client.hijack(
                    f"/exec/{quote(exec_id)}/start", body={"Detach": False, "Tty": streams.tty}
                )
            connection = _Connection(reader, writer)
            try:
                watched = _StartWatch(lambda: self._inspect_exec(exec_id))
                await self._pump(
                    connection,
                    streams,
                    watched=watched,
                    resize=lambda size: self._resize_exec(exec_id, size),
                    doing=doing,
                )
            finally:
                connection.close()
            code = await self._wait_exit(exec_id)
            finished = True
            return code
        except PodSyncError:
            finished = True
            raise
        finally:
            if not finished:
                await finish(
                    self._kill_exec(exec_id, container_id, marker), timeout_s=_KILL_TIMEOUT_S, name="kill-exec"
                )

    async def attach(self, container_id: cri.ContainerID, streams: ProcessStreams) -> None:
        """Connect these streams to a container's first process."""
        document = await self._engine.inspect(container_id)
        if not document["State"].get("Running"):
            raise NotFoundError(f"container {container_id!r} is not running")
        doing = f"attach to container {container_id!r}"
        parameters = {
            "stream": 1,
            "stdin": int(streams.stdin is not None),
            "stdout": int(streams.stdout is not None),
            "stderr": int(streams.stderr is not None),
        }
        with engine_errors(doing):
            reader, writer = await self._client.hijack(
                f"/containers/{quote(container_id)}/attach", params=urlencode(parameters)
            )
        connection = _Connection(reader, writer)
        terminal = bool(document["Config"].get("Tty"))
        try:
            await self._pump(
                connection,
                ProcessStreams(streams.stdin, streams.stdout, streams.stderr, terminal, streams.sizes),
                watched=None,
                resize=lambda size: self._resize_container(container_id, size),
                doing=doing,
            )
        finally:
            connection.close()

    async def port_forward(self, sandbox_id: cri.SandboxID, port: int) -> DuplexStream:
        """Connect to a TCP port on ``localhost`` inside a sandbox."""
        document = await self._engine.inspect(sandbox_id)
        state = document["State"]
        if (document["Config"].get("Labels") or {}).get(KIND) != KIND_SANDBOX or not state.get("Running"):
            raise NotFoundError(f"sandbox {sandbox_id!r} is not ready")
        where = f"localhost:{port} inside the network namespace of sandbox {sandbox_id!r}"
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                connection = await self._processes.connect_in_namespace(int(state.get("Pid") or 0), sandbox_id, port)
                if connection is not None:
                    reader, writer = await asyncio.open_connection(sock=connection, limit=_CHUNK_BYTES)
                else:
                    addresses = find_addresses(document)
                    if not addresses:
                        raise ConnectionRefusedError("the namespace cannot be entered and the pod has no address")
                    reader, writer = await asyncio.open_connection(addresses[0], port, limit=_CHUNK_BYTES)
        except TimeoutError as error:
            raise ConnectionError(f"failed to connect to {where}: timed out") from error
        except OSError as error:
            raise ConnectionRefusedError(f"failed to connect to {where}: {error}") from error
        return _SocketStream(reader, writer)

    async def _pump(
        self,
        connection: _Connection,
        streams: ProcessStreams,
        *,
        watched: _StartWatch | None,
        resize: Callable[[TerminalSize], Coroutine[Any, Any, None]],
        doing: str,
    ) -> None:
        """Move bytes until the engine ends the stream; an error of the client's side is raised."""
        output = asyncio.create_task(_pump_output(connection.reader, streams, watched, doing), name="docker-output")
        helpers = [asyncio.create_task(_pump_sizes(streams.sizes, resize), name="docker-sizes")] if streams.tty else []
        if streams.stdin is not None:
            helpers.append(asyncio.create_task(_pump_input(streams.stdin, connection.writer), name="docker-input"))
        waiting: set[asyncio.Task[None]] = {output, *helpers}
        try:
            while not output.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {output}:
                    task.result()  # input that breaks off in the middle ends it all
            output.result()
        finally:
            await cancel_and_wait([task for task in (output, *helpers) if not task.done()])

    async def _inspect_exec(self, exec_id: str) -> Mapping[str, Any]:
        document: Mapping[str, Any] = await self._client.call(
            lambda sdk: sdk.exec_inspect(exec_id), doing=f"inspect exec {exec_id!r}"
        )
        return document

    async def _wait_exit(self, exec_id: str) -> int:
        # The stream may end a moment before the engine has noted the exit, or long before if the program closed it.
        delays = iter(_EXIT_POLL_S)
        while True:
            document = await self._inspect_exec(exec_id)
            if not document.get("Running") and document.get("ExitCode") is not None:
                return int(document["ExitCode"])
            await asyncio.sleep(next(delays, _EXIT_POLL_S[-1]))

    async def _resize_exec(self, exec_id: str, size: TerminalSize) -> None:
        await self._client.call(
            lambda sdk: sdk.exec_resize(exec_id, height=size.height, width=size.width), doing="resize a terminal"
        )

    async def _resize_container(self, container_id: str, size: TerminalSize) -> None:
        await self._client.call(
            lambda sdk: sdk.resize(container_id, height=size.height, width=size.width), doing="resize a terminal"
        )

    async def _kill_exec(self, exec_id: str, container_id: str, marker: str) -> None:
        """Make sure that an abandoned command is dead."""
        try:
            for delay_s in _EXIT_POLL_S:
                document = await self._inspect_exec(exec_id)
                if not document.get("Running"):
                    return
                if pid := int(document.get("Pid") or 0):
                    if await self._processes.kill_tree(pid, container_id):
                        return
                    break
                await asyncio.sleep(delay_s)  # being started at this moment
            if not marker:
                logger.warning(
                    "An abandoned command may go on in its container: its process cannot be seen from here",
                    extra={"container": container_id, "exec": exec_id},
                )
                return
            await self._kill_by_marker(container_id, marker)
        except VkproviderError as error:
            logger.warning(
                "An abandoned command was not killed",
                extra={"container": container_id, "exec": exec_id, "error": str(error)},
            )

    async def _kill_by_marker(self, container_id: str, marker: str) -> None:
        """Kill by a shell inside the container, for engines whose processes we cannot see."""
        script = (
            f'for p in /proc/[0-9]*; do grep -q "{_MARKER}={marker}" "$p/environ" 2>/dev/null'
            ' && kill -KILL "${p#/proc/}"; done'
        )
        created = await self._client.call(
            lambda sdk: sdk.exec_create(container_id, ["sh", "-c", script], stdout=False, stderr=False, user="0"),
            doing=f"kill a command in container {container_id!r}",
        )
        await self._client.call(
            lambda sdk: sdk.exec_start(created["Id"], detach=True),
            doing=f"kill a command in container {container_id!r}",
        )


class _StartWatch:
    """Tells the engine's message about a command that could not be started from a command's own output.

    The engine sends such a message as output, in one piece that ends in CR LF; only then is it asked whether the command
    ever had a process.
    """

    def __init__(self, inspect: Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]) -> None:
        self._inspect = inspect
        self._first = True

    async def check(self, payload: bytes) -> None:
        """Look at output before it is passed on.

        Raises:
            PodSyncError: It is the engine's message; the command never ran.
        """
        first, self._first = self._first, False
        if not first or len(payload) > _MAX_START_ERROR_BYTES or not payload.endswith(b"\r\n"):
            return
        document = await self._inspect()
        if not document.get("Running") and not document.get("Pid"):
            raise PodSyncError(payload.decode(errors="replace").strip(), reason=EXEC_ERROR)


async def _pump_output(
    reader: asyncio.StreamReader, streams: ProcessStreams, watched: _StartWatch | None, doing: str
) -> None:
    demultiplexer = None if streams.tty else Demultiplexer()
    targets: dict[int, ByteWriter | None] = {
        STDOUT: streams.stdout,
        STDERR: streams.stderr,
        SYSTEM_ERROR: streams.stderr or streams.stdout,
    }
    while True:
        with engine_errors(doing):
            data = await reader.read(_CHUNK_BYTES)
        if not data:
            break
        try:
            payloads = [(STDOUT, data)] if demultiplexer is None else demultiplexer.feed(data)
        except ValueError as error:
            raise TransientError(f"failed to {doing}: {error}") from error
        for stream, payload in payloads:
            if watched is not None:
                await watched.check(payload)
            target = targets.get(stream)
            if target is not None:
                await target.write(payload)
    for target in (streams.stdout, streams.stderr):
        if target is not None:
            await target.write_eof()


async def _pump_input(source: ByteReader, writer: asyncio.StreamWriter) -> None:
    while data := await source.read():
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            return  # the process has ended or closed its input: what it wrote still counts
    if writer.can_write_eof():
        with contextlib.suppress(OSError):
            writer.write_eof()
    else:
        logger.debug("A TLS connection to the engine cannot tell that input has ended")


async def _pump_sizes(
    sizes: AsyncIterator[TerminalSize], resize: Callable[[TerminalSize], Coroutine[Any, Any, None]]
) -> None:
    async for size in sizes:
        if size.width <= 0 or size.height <= 0:
            continue
        for attempt in range(_RESIZE_TRIES):
            try:
                await resize(size)
                break
            except VkproviderError as error:  # the process may not have its terminal yet
                logger.debug("A terminal was not resized", extra={"error": str(error)})
                await asyncio.sleep(0.05 * (attempt + 1))


class _SocketStream(DuplexStream):
    """A connection as a duplex stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int = 65536) -> bytes:
        return await self._reader.read(max_bytes)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        if self._writer.can_write_eof() and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
