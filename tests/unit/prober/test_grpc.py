from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from vkprovider.kubelet.prober.grpc import check_health
from vkprovider.kubelet.prober.probes import ProbeAttempt, ProbeOutcome, Prober

Serve = Callable[..., Awaitable[int]]


def health_server(
    *,
    statuses: dict[str, int] | None = None,
    trailers: list[tuple[str, str]] | None = None,
    http_status: str = "200",
    delay_s: float = 0.0,
    seen: list[dict[str, str]] | None = None,
    extra: bytes = b"",
    then: str = "answer",
) -> Any:
    """A gRPC server that knows the health service only; with ``trailers`` it answers these alone."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        writer.write(http.data_to_send())
        body = b""
        while data := await reader.read(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived) and seen is not None:
                    seen.append(dict(event.headers or ()))  # type: ignore[arg-type]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    await asyncio.sleep(delay_s)
                    if then == "close":
                        return
                    if then == "reset":
                        http.reset_stream(event.stream_id, 2)
                    else:
                        answer(http, event.stream_id, body[7:].decode() if len(body) > 5 else "")
            writer.write(http.data_to_send())
            await writer.drain()

    def answer(http: h2.connection.H2Connection, stream: int, service: str) -> None:
        head = [(":status", http_status), ("content-type", "application/grpc")]
        if trailers is not None:
            http.send_headers(stream, head + trailers, end_stream=True)
            return
        status = (statuses or {}).get(service, 3)
        message = extra + (b"\x08" + bytes([status]) if status else b"")
        http.send_headers(stream, head)
        http.send_data(stream, b"\x00" + len(message).to_bytes(4) + message)
        http.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    return handle


async def check(port: int, service: str = "", *, timeout_s: float = 5.0) -> str | None:
    failure = await check_health("127.0.0.1", port, service, timeout_s=timeout_s)
    return failure.replace(f"127.0.0.1:{port}", "HOST") if failure else None


async def test_serving_server_is_healthy(serve: Serve) -> None:
    seen: list[dict[str, str]] = []
    port = await serve(health_server(statuses={"": 1, "db": 1, "x" * 200: 1}, seen=seen))
    assert await check(port) is None
    assert await check(port, "db") is None
    assert seen[0][":path"] == "/grpc.health.v1.Health/Check"
    assert seen[0]["user-agent"] == "kube-probe/1.36"
    assert seen[0]["grpc-timeout"] == "5000m"


@pytest.mark.parametrize(("status", "name"), [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (9, "9")])
async def test_other_states_are_named(serve: Serve, status: int, name: str) -> None:
    port = await serve(health_server(statuses={"": status}))
    assert await check(port) == f'service unhealthy (responded with "{name}")'


async def test_unknown_fields_of_the_answer_are_skipped(serve: Serve) -> None:
    extra = b"\x10\x96\x01" + b"\x1a\x02hi" + b"\x25\0\0\0\0" + b"\x29\0\0\0\0\0\0\0\0"
    assert await check(await serve(health_server(statuses={"": 1}, extra=extra))) is None


@pytest.mark.parametrize(
    ("trailers", "message"),
    [
        ([("grpc-status", "12"), ("grpc-message", "unknown service grpc.health.v1.Health")],
         "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "
         "unknown service grpc.health.v1.Health"),
        ([("grpc-status", "5"), ("grpc-message", "unknown%20service")],
         "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"),
        ([("grpc-status", "4"), ("grpc-message", "x")], "timeout: health rpc did not complete within 5s"),
        ([("grpc-status", "99")], "error: health rpc probe failed: rpc error: code = Code(99) desc = "),
        ([("grpc-status", "0")],
         "error: health rpc probe failed: rpc error: code = Internal desc = "
         "cardinality violation: received no response message from non-server-streaming RPC"),
        ([("x", "y")],
         "error: health rpc probe failed: rpc error: code = Internal desc = "
         "server closed the stream without sending trailers"),
    ],
)  # fmt: skip
async def test_calls_that_fail(serve: Serve, trailers: Any, message: str) -> None:
    assert await check(await serve(health_server(trailers=trailers))) == message


async def test_web_server_that_speaks_http2(serve: Serve) -> None:
    failure = await check(await serve(health_server(http_status="404", trailers=[])))
    assert failure is not None
    assert failure.startswith(
        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "
        "unexpected HTTP status code received from server: 404"
    )


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("close", "code = Unavailable desc = error reading from server: EOF"),
        ("reset", "code = Internal desc = stream terminated by RST_STREAM with error code: "),
    ],
)
async def test_broken_calls(serve: Serve, then: str, message: str) -> None:
    failure = await check(await serve(health_server(then=then)))
    assert failure is not None
    assert failure.startswith(f"error: health rpc probe failed: rpc error: {message}")


async def test_slow_answer_runs_out_of_time(serve: Serve) -> None:
    port = await serve(health_server(statuses={"": 1}, delay_s=60))
    assert await check(port, timeout_s=0.2) == "timeout: health rpc did not complete within 200ms"


async def test_server_that_is_not_there_is_waited_for(unused_port: int) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await check(unused_port, timeout_s=0.3) == (
        'timeout: failed to connect service "HOST" within 300ms: context deadline exceeded'
    )
    assert loop.time() - began >= 0.3


async def test_server_that_does_not_speak_http2(serve: Serve) -> None:
    async def http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    failure = await check(await serve(http1), timeout_s=0.3)
    assert failure == 'timeout: failed to connect service "HOST" within 300ms: context deadline exceeded'


async def test_probe_of_a_pod(serve: Serve) -> None:
    port = await serve(health_server(statuses={"": 1, "db": 2}))

    async def run(**action: Any) -> ProbeAttempt:
        return await Prober({"grpc": {"port": port, **action}}, {}, exec_probe=None).attempt({}, pod_ip="127.0.0.1")

    assert await run() == ProbeAttempt(ProbeOutcome.SUCCESS)
    assert await run(service="db") == ProbeAttempt(
        ProbeOutcome.FAILURE, 'service unhealthy (responded with "NOT_SERVING")'
    )
