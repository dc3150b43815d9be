from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from vkprovider.kubelet.prober.probes import ProbeAttempt, ProbeOutcome, Prober

Serve = Callable[..., Awaitable[int]]


async def attempt(spec: Any, *, exec_probe: Any = None, container: Any = None) -> ProbeAttempt:
    return await Prober(spec, container or {"name": "c"}, exec_probe=exec_probe).attempt({}, pod_ip="127.0.0.1")


async def test_tcp_port_that_accepts_is_well(serve: Serve) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    port = await serve(accept)
    assert await attempt({"tcpSocket": {"port": port}}) == ProbeAttempt(ProbeOutcome.SUCCESS)
    named = {"name": "c", "ports": [{"name": "db", "containerPort": port}]}
    assert await attempt({"tcpSocket": {"port": "db"}}, container=named) == ProbeAttempt(ProbeOutcome.SUCCESS)
    assert await attempt({"tcpSocket": {"port": port, "host": "localhost"}}) == ProbeAttempt(ProbeOutcome.SUCCESS)


async def test_tcp_port_that_refuses(unused_port: int) -> None:
    got = await attempt({"tcpSocket": {"port": unused_port}})
    assert got == ProbeAttempt(ProbeOutcome.FAILURE, f"dial tcp 127.0.0.1:{unused_port}: connect: connection refused")


async def test_tcp_port_that_never_answers(full_backlog: int) -> None:
    got = await attempt({"tcpSocket": {"port": full_backlog}, "timeoutSeconds": 0.2})
    assert got == ProbeAttempt(ProbeOutcome.FAILURE, f"dial tcp 127.0.0.1:{full_backlog}: i/o timeout")


async def test_exec_command_sees_static_variables_only() -> None:
    seen: list[Any] = []

    async def run(pod: Any, container: str, command: Sequence[str], *, timeout_s: float) -> tuple[int, bytes]:
        seen.append((container, tuple(command), timeout_s))
        return 0, b"fine"

    container = {
        "name": "c",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}}],
        "envFrom": [{"configMapRef": {"name": "cm"}}],
    }
    got = await attempt(
        {"exec": {"command": ["cat", "$(A)", "$(B)", "$(C)"]}, "timeoutSeconds": 7}, exec_probe=run, container=container
    )
    assert got == ProbeAttempt(ProbeOutcome.SUCCESS, "fine")
    assert seen == [("c", ("cat", "1", "", "$(C)"), 7.0)]


async def test_exec_where_the_provider_cannot() -> None:
    got = await attempt({"exec": {"command": ["true"]}})
    assert got == ProbeAttempt(ProbeOutcome.UNKNOWN, error="exec probes are not supported by this node's provider")
