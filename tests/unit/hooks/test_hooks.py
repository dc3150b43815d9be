from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.errors import PodSyncError, UnsupportedError
from vkprovider.kubelet.hooks import LifecycleHooks
from vkprovider.kubelet.termination import HookRunner
from vkprovider.provider import cri

POD: Any = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {}}
WHERE = 'for Container "c" in Pod "p_ns(u)" failed - error: '
Serve = Callable[..., Awaitable[int]]


class Runner:
    """Runs hooks of one container whose commands answer as told."""

    def __init__(self) -> None:
        self.result: cri.ExecResult | Exception = cri.ExecResult(0)
        self.commands: list[tuple[str, tuple[str, ...], float | None]] = []
        self.events: list[tuple[str, ...]] = []
        self.pod_ips: tuple[str, ...] = ("127.0.0.1",)
        self.hooks: HookRunner = LifecycleHooks(self.exec_sync)

    async def exec_sync(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None = None
    ) -> cri.ExecResult:
        self.commands.append((container_id, tuple(command), timeout_s))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def run(self, handler: Any, **container: Any) -> None:
        await self.hooks.run_hook(
            POD,
            {"name": "c", **container},  # type: ignore[typeddict-item]
            cri.ContainerID("id"),
            handler,
            pod_ips=self.pod_ips,
            record_event=lambda *event, container=None: self.events.append(event),
        )

    async def failure(self, handler: Any, **container: Any) -> str:
        with pytest.raises(PodSyncError) as caught:
            await self.run(handler, **container)
        return caught.value.message


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server on a free loopback port that sends this to everybody, after reading what came."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def start(answer: bytes, seen: list[bytes] | None = None, *, hang: bool = False) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                request = await reader.read(65536)
                if seen is not None:
                    seen.append(request)
                writer.write(answer)
                if hang:
                    await asyncio.sleep(3600)
            finally:
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(handle(reader, writer)))

        servers.append(await asyncio.start_server(accept, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
    await cancel_and_wait(tasks)
    await asyncio.sleep(0.01)


async def test_command_runs_as_written_without_a_time_limit(runner: Runner) -> None:
    await runner.run({"exec": {"command": ["echo", "$(A)"]}}, env=[{"name": "A", "value": "1"}])
    assert runner.commands == [("id", ("echo", "$(A)"), None)]


async def test_failed_command_shows_its_output(runner: Runner) -> None:
    runner.result = cri.ExecResult(3, b"out\n", b'no "x"')
    assert await runner.failure({"exec": {"command": ["sh", "-c", "exit 3"]}}) == (
        f"Exec lifecycle hook ([sh -c exit 3]) {WHERE}command 'sh -c exit 3' exited with 3: no \"x\", "
        r'message: "out\nno \"x\""'
    )


async def test_command_that_cannot_be_run(runner: Runner) -> None:
    runner.result = UnsupportedError("no exec here")
    assert await runner.failure({"exec": {"command": ["x"]}}) == (
        f'Exec lifecycle hook ([x]) {WHERE}no exec here, message: ""'
    )


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_any_http_answer_is_success(runner: Runner, serve: Serve, status: int) -> None:
    seen: list[bytes] = []
    port = await serve(f"HTTP/1.1 {status} X\r\nContent-Length: 99\r\n\r\n".encode(), seen, hang=True)
    ports = [{"name": "web", "containerPort": port}]
    await asyncio.wait_for(runner.run({"httpGet": {"port": "web", "path": "/stop?now"}}, ports=ports), 5)
    assert seen[0].startswith(b"GET /stop?now HTTP/1.1\r\n")
    assert b"User-Agent: kube-lifecycle/1.36\r\n" in seen[0]


async def test_no_http_answer_is_failure(runner: Runner, serve: Serve) -> None:
    port = await serve(b"")
    assert await runner.failure({"httpGet": {"port": port, "path": "/stop"}}) == (
        f'HTTP lifecycle hook (/stop) {WHERE}Get "http://127.0.0.1:{port}/stop": EOF'
    )


async def test_unknown_port_and_missing_address_are_failures(runner: Runner) -> None:
    assert (await runner.failure({"httpGet": {"port": 0}})).endswith(f"hook () {WHERE}invalid port number: 0")
    runner.pod_ips = ()
    assert "failed to find networking container" in await runner.failure({"httpGet": {"port": 80}})


async def test_plain_answer_to_https_is_asked_for_in_plain(runner: Runner, serve: Serve) -> None:
    seen: list[bytes] = []
    port = await serve(b"HTTP/1.1 200 OK\r\n\r\n", seen)
    headers = [{"name": "Authorization", "value": "secret"}, {"name": "X-A", "value": "1"}]
    await runner.run({"httpGet": {"port": port, "scheme": "HTTPS", "path": "/a", "httpHeaders": headers}})
    assert seen[1].startswith(b"GET /a HTTP/1.1\r\n")
    assert b"X-A: 1\r\n" in seen[1]
    assert b"secret" not in seen[1]
    assert runner.events == [
        (
            "Warning",
            "LifecycleHTTPFallback",
            f"request to HTTPS lifecycle hook 127.0.0.1:{port} got HTTP response, retry with HTTP succeeded",
        )
    ]


async def test_failed_fallback_tells_of_the_first_failure(runner: Runner, serve: Serve) -> None:
    port = await serve(b"HTTP/boo\r\n\r\n")
    text = await runner.failure({"httpGet": {"port": port, "scheme": "HTTPS", "path": "/a"}})
    assert text.endswith(f'Get "https://127.0.0.1:{port}/a": http: server gave HTTP response to HTTPS client')
    assert runner.events == []


@pytest.mark.looptime
async def test_sleep_takes_its_seconds(runner: Runner) -> None:
    await runner.run({"sleep": {"seconds": 45}})
    assert asyncio.get_running_loop().time() == 45
    await runner.run({"sleep": {"seconds": 0}})
    assert asyncio.get_running_loop().time() == 45


async def test_tcp_hooks_are_refused(runner: Runner) -> None:
    assert await runner.failure({"tcpSocket": {"port": 80}}) == (
        'Cannot run handler: invalid handler: {"tcpSocket": {"port": 80}}'
    )
    assert (await runner.failure({})).startswith("Cannot run handler: invalid handler: ")
