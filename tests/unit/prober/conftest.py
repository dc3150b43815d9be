from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api import v1
from vkprovider.api.timestamps import format_time
from vkprovider.kubelet.probe_results import ProbeKind
from vkprovider.kubelet.prober import ProbeManager
from vkprovider.provider import cri

UID = v1.PodUID("u1")


class ProbeBench:
    """One pod with an exec probe of each kind asked for; each kind answers as it is told, by its own command."""

    def __init__(self, *, started_s_ago: float = 60.0, **settings: Any) -> None:
        self.clock = LoopClock()
        self.codes: dict[str, Any] = {"liveness": 0, "readiness": 0, "startup": 0}
        self.output = b"out"
        self.probed: list[tuple[float, str]] = []
        self.events: list[tuple[str, str, str, str | None]] = []
        self.changed: list[float] = []
        self.duration_s = 0.0
        self.started_s_ago = started_s_ago
        self.settings = settings
        self.pod: Any = {}
        self.status: Any = {}

    @functools.cached_property
    def manager(self) -> ProbeManager:
        """Made at first use: fixtures do not live in the virtual time of the test."""
        return ProbeManager(
            exec_probe=self.exec_probe,
            on_result=lambda uid: self.changed.append(self.now()),
            clock=self.clock,
            started_at=self.clock.now() - timedelta(seconds=self.started_s_ago),
            random_source=lambda: 0.5,
            **self.settings,
        )

    @staticmethod
    def now() -> float:
        return round(asyncio.get_running_loop().time(), 3)

    async def exec_probe(
        self, pod: v1.Pod, container: str, command: Sequence[str], *, timeout_s: float
    ) -> tuple[int, bytes]:
        kind = command[0]
        self.probed.append((self.now(), kind))
        code = self.codes[kind]
        if callable(code):
            code = code()
        if self.duration_s:
            await asyncio.sleep(self.duration_s)
        if isinstance(code, BaseException):
            raise code
        return code, self.output

    def add_pod(self, *, sidecar: bool = False, **probes: Any) -> None:
        """A pod whose container has these probes (``liveness={...}``); it is not running yet."""
        container: Any = {"name": "c"}
        for kind, extra in probes.items():
            container[f"{kind}Probe"] = {
                "exec": {"command": [kind]},
                "timeoutSeconds": 1,
                "periodSeconds": 10,
                "successThreshold": 1,
                "failureThreshold": 3,
                **extra,
            }
        spec: Any = {"containers": [container], "restartPolicy": "Always"}
        if sidecar:
            container["restartPolicy"] = "Always"
            spec = {"containers": [{"name": "app"}], "initContainers": [container], "restartPolicy": "Never"}
        self.pod = {"metadata": {"name": "p", "namespace": "ns", "uid": UID}, "spec": spec}
        self.ensure()

    def ensure(self) -> None:
        class Context:
            record_event = staticmethod(self.record)

        self.manager.ensure_pod(self.pod, Context())  # type: ignore[arg-type]

    def record(self, kind: str, reason: str, message: str, *, container: str | None = None) -> None:
        self.events.append((kind, reason, message, container))

    def set_state(
        self,
        container_id: str = "id-1",
        *,
        started: bool | None = True,
        running_since_s: float | None = 0.0,
        exit_code: int | None = None,
        phase: str = "Running",
    ) -> None:
        """Tell the manager what the container is doing now."""
        state: Any = {"waiting": {}}
        if exit_code is not None:
            state = {"terminated": {"exitCode": exit_code}}
        elif running_since_s is not None:
            state = {"running": {"startedAt": format_time(self.clock.now() - timedelta(seconds=running_since_s))}}
        entry = {"name": "c", "containerID": f"mem://{container_id}", "state": state, "started": started}
        group = "initContainerStatuses" if self.pod["spec"].get("initContainers") else "containerStatuses"
        self.status = {"phase": phase, "podIP": "10.0.0.1", group: [entry]}
        self.manager.update_status(UID, copy.deepcopy(self.status))

    def result(self, kind: str, container_id: str = "id-1") -> bool | None:
        return self.manager.find_result(ProbeKind(kind), cri.ContainerID(container_id))

    def has_worker(self, kind: str) -> bool:
        return self.manager.has_worker(ProbeKind(kind), UID, "c")

    def times(self, kind: str) -> list[float]:
        return [at for at, probed in self.probed if probed == kind]


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., ProbeBench]]:
    made: list[ProbeBench] = []

    def make(**settings: Any) -> ProbeBench:
        made.append(ProbeBench(**settings))
        return made[-1]

    yield make
    for bench in made:
        await bench.manager.aclose()


@pytest.fixture
def bench(make_bench: Callable[..., ProbeBench]) -> ProbeBench:
    return make_bench()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Start a TCP server on a free loopback port with this handler; its port."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def start(handler: Handler, **options: Any) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(handle(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0, **options)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
    await cancel_and_wait(tasks)
    await asyncio.sleep(0.01)


@pytest.fixture
def unused_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A loopback port whose queue is full, so that the kernel leaves new connections without an answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
