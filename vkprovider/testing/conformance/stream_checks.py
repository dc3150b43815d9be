"""The rules of logs, exec, attach, port-forward, events and figures of a runtime."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

from vkprovider.api import labels
from vkprovider.api.timestamps import parse_time
from vkprovider.errors import NotFoundError, PodSyncError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.container_runtime import RuntimeEvents, RuntimeStats, StreamingRuntime
from vkprovider.provider.streams import ByteReader, CappedBuffer, ProcessStreams
from vkprovider.testing.conformance.checks import (
    ConformanceFailure,
    NotOffered,
    eventually,
    expect,
    expect_equal,
    expect_error,
)
from vkprovider.testing.conformance.runtime import RUNTIME_CHECKS, PodUnderTest, RuntimeUnderTest, shell

_UNKNOWN = "0" * 64
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) ")
_LINES = b"line 1\nline 2\nline 3\nline 4\nline 5\n"


class _Input(ByteReader):
    """Standard input that holds some bytes and then ends, or stays open."""

    def __init__(self, data: bytes, *, stays_open: bool = False) -> None:
        self._data = data
        self._stays_open = stays_open

    async def read(self, max_bytes: int = 65536) -> bytes:
        data, self._data = self._data[:max_bytes], self._data[max_bytes:]
        if not data and self._stays_open:
            await asyncio.get_running_loop().create_future()
        return data


async def _write_lines(subject: RuntimeUnderTest, pod: PodUnderTest) -> cri.ContainerID:
    """A container that wrote five lines and ended."""
    container_id = await pod.run(shell("for n in 1 2 3 4 5; do echo line $n; done"))
    await pod.wait_exited(container_id)
    await pod.wait_for_log(container_id, b"line 5\n")
    return container_id


# -- Logs.


@RUNTIME_CHECKS.add
async def log_holds_what_was_written(subject: RuntimeUnderTest) -> None:
    """The log of an ended container holds all its lines in order, unchanged."""
    async with subject.pod() as pod:
        container_id = await _write_lines(subject, pod)
        expect_equal(await pod.read_log(container_id), _LINES, "log")


@RUNTIME_CHECKS.add
async def log_of_a_running_container_is_readable(subject: RuntimeUnderTest) -> None:
    """What a running container has written so far can be read without following."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("echo here; while true; do sleep 0.1; done"))
        expect_equal(await pod.wait_for_log(container_id, b"here\n"), b"here\n", "log")


@RUNTIME_CHECKS.add
async def log_keeps_both_streams(subject: RuntimeUnderTest) -> None:
    """Standard output and error are both in the log, and each can be read alone."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("echo out; echo err >&2"))
        await pod.wait_exited(container_id)
        await pod.wait_for_log(container_id, b"err\n")
        both = await pod.read_log(container_id)
        expect_equal(sorted(both.splitlines()), [b"err", b"out"], "lines of both streams")
        expect_equal(await pod.read_log(container_id, LogOptions(stderr=False)), b"out\n", "standard output")
        expect_equal(await pod.read_log(container_id, LogOptions(stdout=False)), b"err\n", "standard error")


@RUNTIME_CHECKS.add
async def log_tail_counts_lines(subject: RuntimeUnderTest) -> None:
    """tail_lines gives that many last lines, all of them if there are fewer, none for 0."""
    async with subject.pod() as pod:
        container_id = await _write_lines(subject, pod)
        for lines, wanted in ((2, b"line 4\nline 5\n"), (99, _LINES), (0, b"")):
            found = await pod.read_log(container_id, LogOptions(tail_lines=lines))
            expect_equal(found, wanted, f"log with tail_lines={lines}")


@RUNTIME_CHECKS.add
async def log_limit_counts_bytes(subject: RuntimeUnderTest) -> None:
    """limit_bytes ends the output after that many bytes, in the middle of a line if need be."""
    async with subject.pod() as pod:
        container_id = await _write_lines(subject, pod)
        found = await pod.read_log(container_id, LogOptions(limit_bytes=10))
        expect_equal(found, _LINES[:10], "log with limit_bytes=10")


@RUNTIME_CHECKS.add
async def log_timestamps_have_nine_digits(subject: RuntimeUnderTest) -> None:
    """Timestamps puts an RFC 3339 time with nine fraction digits and one blank before each line."""
    async with subject.pod() as pod:
        container_id = await _write_lines(subject, pod)
        found = await pod.read_log(container_id, LogOptions(timestamps=True))
        lines = found.splitlines(keepends=True)
        expect_equal(len(lines), 5, "number of lines")
        for line in lines:
            expect(_STAMP.match(line), f"a line begins with no such time: {line!r}")
        expect_equal(b"".join(_STAMP.sub(b"", line, count=1) for line in lines), _LINES, "text behind the times")
        times = [parse_time(line.split(b" ", 1)[0].decode()) for line in lines]
        expect_equal(times, sorted(times), "times of the lines")


@RUNTIME_CHECKS.add
async def log_since_leaves_older_lines_out(subject: RuntimeUnderTest) -> None:
    """Since leaves out what was written before it."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("echo old; sleep 2; echo new; sleep 0.1"))
        await pod.wait_exited(container_id)
        await pod.wait_for_log(container_id, b"new\n")
        stamped = await pod.read_log(container_id, LogOptions(timestamps=True))
        times = [parse_time(line.split(b" ", 1)[0].decode()) for line in stamped.splitlines()]
        expect_equal(len(times), 2, "number of lines")
        found = await pod.read_log(container_id, LogOptions(since=times[0] + timedelta(seconds=1)))
        expect_equal(found, b"new\n", "log since a second after the first line")
        later = await pod.read_log(container_id, LogOptions(since=times[1] + timedelta(seconds=5)))
        expect_equal(later, b"", "log since after the end")


@RUNTIME_CHECKS.add
async def following_a_log_ends_with_the_container(subject: RuntimeUnderTest) -> None:
    """Following shows lines as they are written and ends once the container has ended."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("echo first; sleep 1; echo second; sleep 1; echo third"))
        seen = b""
        async with asyncio.timeout(subject.patience_s):
            async for chunk in subject.runtime.container_logs(container_id, LogOptions(follow=True)):
                seen += chunk
                if seen == b"first\n":
                    status = await subject.runtime.container_status(container_id)
                    expect_equal(status.state, cri.ContainerState.RUNNING, "state when the first line is shown")
        expect_equal(seen, b"first\nsecond\nthird\n", "what was followed")


@RUNTIME_CHECKS.add
async def following_from_the_end_shows_only_new_lines(subject: RuntimeUnderTest) -> None:
    """Following with tail_lines=0 shows only what is written from now on."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("echo old; sleep 2; echo new; sleep 0.1"))
        await pod.wait_for_log(container_id, b"old\n")
        async with asyncio.timeout(subject.patience_s):
            found = await pod.read_log(container_id, LogOptions(follow=True, tail_lines=0))
        expect_equal(found, b"new\n", "what was followed")


@RUNTIME_CHECKS.add
async def log_of_an_unknown_container_is_not_found(subject: RuntimeUnderTest) -> None:
    """Reading the log of a container that does not exist raises NotFoundError at the first step."""

    async def read() -> bytes:
        chunks: AsyncIterator[bytes] = subject.runtime.container_logs(cri.ContainerID(_UNKNOWN), LogOptions())
        return b"".join([chunk async for chunk in chunks])

    await expect_error(NotFoundError, read(), "container_logs")


# -- exec_sync.


@RUNTIME_CHECKS.add
async def exec_sync_gives_code_and_outputs(subject: RuntimeUnderTest) -> None:
    """exec_sync waits for the command and gives its exit code and both outputs apart."""
    async with subject.pod() as pod:
        container_id = await pod.run()
        script = "echo out; echo err >&2; exit 3"
        result = await subject.runtime.exec_sync(container_id, ["sh", "-c", script])
        wanted = (3, b"out\n", b"err\n")
        expect_equal((result.exit_code, result.stdout, result.stderr), wanted, "result")
        result = await subject.runtime.exec_sync(container_id, ["true"], timeout_s=subject.patience_s)
        expect_equal((result.exit_code, result.stdout, result.stderr), (0, b"", b""), "result of true")


@RUNTIME_CHECKS.add
async def exec_sync_kills_at_the_timeout(subject: RuntimeUnderTest) -> None:
    """exec_sync raises TimeoutError when time runs out and kills the command; the container goes on."""
    async with subject.pod() as pod:
        container_id = await pod.run()
        mark = f"/tmp/{uuid.uuid4().hex}"  # noqa: S108 - inside the container
        command = ["sh", "-c", f"sleep 2; touch {mark}"]
        started = asyncio.get_running_loop().time()
        await expect_error(TimeoutError, subject.runtime.exec_sync(container_id, command, timeout_s=1), "exec_sync")
        took_s = asyncio.get_running_loop().time() - started
        expect(took_s < 1 + subject.patience_s / 2, f"it took {took_s:.1f} s of 1 s")
        await asyncio.sleep(3)
        result = await subject.runtime.exec_sync(container_id, ["test", "-f", mark])
        expect_equal(result.exit_code, 1, "exit code of a test whether the command went on")


@RUNTIME_CHECKS.add
async def exec_sync_needs_a_running_container(subject: RuntimeUnderTest) -> None:
    """exec_sync in a container that has ended, or was never started, raises NotFoundError."""
    async with subject.pod() as pod:
        created = await pod.create()
        await expect_error(NotFoundError, subject.runtime.exec_sync(created, ["true"]), "exec_sync before the start")
        ended = await pod.run(shell("exit 0"), name="ended")
        await pod.wait_exited(ended)
        await expect_error(NotFoundError, subject.runtime.exec_sync(ended, ["true"]), "exec_sync after the end")


@RUNTIME_CHECKS.add
async def exec_sync_of_an_unknown_program_fails(subject: RuntimeUnderTest) -> None:
    """A command that cannot be started raises PodSyncError with the runtime's words."""
    async with subject.pod() as pod:
        container_id = await pod.run()
        await expect_error(PodSyncError, subject.runtime.exec_sync(container_id, ["/no/such/program"]), "exec_sync")


# -- Streams.


@RUNTIME_CHECKS.add
async def exec_connects_all_streams(subject: RuntimeUnderTest) -> None:
    """Exec hands over standard input to its end, keeps both outputs apart and returns the exit code."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    async with subject.pod() as pod:
        container_id = await pod.run()
        stdout, stderr = CappedBuffer(1024), CappedBuffer(1024)
        streams = ProcessStreams(stdin=_Input(b"hello\nworld\n"), stdout=stdout, stderr=stderr)
        code = await streaming.exec(container_id, ["sh", "-c", "cat; echo done >&2; exit 9"], streams)
        wanted = (9, b"hello\nworld\n", b"done\n")
        expect_equal((code, stdout.getvalue(), stderr.getvalue()), wanted, "code and outputs")


@RUNTIME_CHECKS.add
async def cancelled_exec_kills_the_command(subject: RuntimeUnderTest) -> None:
    """Cancelling exec kills its command; the container goes on."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    async with subject.pod() as pod:
        container_id = await pod.run()
        mark = f"/tmp/{uuid.uuid4().hex}"  # noqa: S108 - inside the container
        try:
            async with asyncio.timeout(1):
                await streaming.exec(container_id, ["sh", "-c", f"sleep 2; touch {mark}"], ProcessStreams())
        except TimeoutError:
            pass
        else:
            raise ConformanceFailure("exec returned before its command can have ended")
        await asyncio.sleep(3)
        result = await subject.runtime.exec_sync(container_id, ["test", "-f", mark])
        expect_equal(result.exit_code, 1, "exit code of a test whether the command went on")


@RUNTIME_CHECKS.add
async def exec_needs_a_running_container(subject: RuntimeUnderTest) -> None:
    """Exec and attach in a container that does not run raise NotFoundError."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    async with subject.pod() as pod:
        ended = await pod.run(shell("exit 0"))
        await pod.wait_exited(ended)
        await expect_error(NotFoundError, streaming.exec(ended, ["true"], ProcessStreams()), "exec")
        await expect_error(NotFoundError, streaming.attach(ended, ProcessStreams()), "attach")


@RUNTIME_CHECKS.add
async def attach_shows_output_and_ends_with_the_container(subject: RuntimeUnderTest) -> None:
    """Attach shows what the first process writes from now on and returns once it has ended."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    async with subject.pod() as pod:
        container_id = await pod.run(shell("sleep 2; echo out; echo err >&2"))
        stdout, stderr = CappedBuffer(1024), CappedBuffer(1024)
        async with asyncio.timeout(subject.patience_s):
            await streaming.attach(container_id, ProcessStreams(stdout=stdout, stderr=stderr))
        expect_equal((stdout.getvalue(), stderr.getvalue()), (b"out\n", b"err\n"), "outputs")


@RUNTIME_CHECKS.add
async def attach_feeds_standard_input(subject: RuntimeUnderTest) -> None:
    """Attach hands over standard input; with stdin_once its end is the process's end of input."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    async with subject.pod() as pod:
        container_id = await pod.run(shell("cat; exit 6"), stdin=True, stdin_once=True)
        stdout = CappedBuffer(1024)
        async with asyncio.timeout(subject.patience_s):
            await streaming.attach(container_id, ProcessStreams(stdin=_Input(b"typed\n"), stdout=stdout))
        expect_equal(stdout.getvalue(), b"typed\n", "output")
        status = await pod.wait_exited(container_id)
        expect_equal(status.exit_code, 6, "exit code")


@RUNTIME_CHECKS.add
async def port_forward_refuses_where_nothing_listens(subject: RuntimeUnderTest) -> None:
    """Forwarding to a port where nothing listens raises ConnectionError; an unknown sandbox NotFoundError."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    async with subject.pod() as pod:
        await pod.run()
        await expect_error(ConnectionError, streaming.port_forward(pod.sandbox_id, 61), "port_forward")
    await expect_error(NotFoundError, streaming.port_forward(cri.SandboxID(_UNKNOWN), 80), "port_forward")


@RUNTIME_CHECKS.add
async def port_forward_reaches_a_listener(subject: RuntimeUnderTest) -> None:
    """Forwarding to a port where a container listens connects both directions."""
    streaming: StreamingRuntime = subject.need(StreamingRuntime)
    if subject.listener is None:
        raise NotOffered("no workload that listens was given")
    async with subject.pod() as pod:
        await pod.run(subject.listener)

        async def connect() -> object:
            try:
                return await streaming.port_forward(pod.sandbox_id, subject.listener_port)
            except ConnectionError:
                return None

        stream = await eventually(connect, within_s=subject.patience_s, what="the listener can be reached")
        try:
            await stream.write(b"GET / HTTP/1.0\r\n\r\n")
            async with asyncio.timeout(subject.patience_s):
                expect(await stream.read(), "the listener did not answer")
        finally:
            await stream.aclose()


# -- Events and figures.


@RUNTIME_CHECKS.add
async def events_tell_of_start_and_end(subject: RuntimeUnderTest) -> None:
    """Events name containers that start and stop, with the pod's UID, to readers of their labels alone."""
    source: RuntimeEvents = subject.need(RuntimeEvents)
    async with subject.pod() as pod, subject.pod() as other:
        seen: list[cri.ContainerEvent] = []

        async def collect() -> None:
            async for event in source.container_events({labels.POD_UID: pod.uid}):
                seen.append(event)  # noqa: PERF401 - what came before the end must be seen

        reader = asyncio.create_task(collect(), name="conformance-events")
        try:
            await asyncio.sleep(1)  # events from before the subscription may be lost
            foreign = await other.run(shell("exit 0"))
            container_id = await pod.run(shell("sleep 0.5; exit 2"))
            wanted = {cri.ContainerEventType.STARTED, cri.ContainerEventType.STOPPED}

            async def probe() -> bool:
                if reader.done():
                    reader.result()
                    raise ConformanceFailure("the events ended by themselves")
                return wanted <= {event.type for event in seen if event.container_id == container_id}

            await eventually(probe, within_s=subject.patience_s, what="events tell of start and end")
            expect(all(event.pod_uid == pod.uid for event in seen), f"events of other pods were seen: {seen!r}")
            expect(all(event.container_id != foreign for event in seen), "another pod's container was told of")
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


@RUNTIME_CHECKS.add
async def figures_name_running_containers(subject: RuntimeUnderTest) -> None:
    """list_pod_sandbox_stats has an entry for a pod with its labels and its running containers, with CPU and memory."""
    stats: RuntimeStats = subject.need(RuntimeStats)
    async with subject.pod() as pod:
        container_id = await pod.run()

        async def probe() -> cri.ContainerStats | None:
            found = await stats.list_pod_sandbox_stats({labels.POD_UID: pod.uid})
            containers = {item.id: item for entry in found for item in entry.containers}
            item = containers.get(container_id)
            return item if item is not None and item.cpu is not None and item.memory is not None else None

        item: cri.ContainerStats = await eventually(
            probe, within_s=subject.patience_s, what="figures of the container with CPU and memory"
        )
        expect_equal(item.metadata.name, "main", "name of the container")
        expect(item.memory is not None and item.memory.working_set_bytes > 0, "the working set is 0")
