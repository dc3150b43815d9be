"""A runtime that fails on demand: wraps any other one and makes it slow, failing, hanging, lying or forgetful.

::

    plan = FaultPlan()
    runtime = FaultyRuntime(MemoryRuntime(), plan)
    plan.fail("start_container", TransientError("no answer"), times=2)
    plan.delay("run_pod_sandbox", 5.0)
    plan.hang("stop_container")
    plan.lose_answer("create_container", times=1)      # done, but the caller hears nothing of it
    plan.lie("container_status", lambda status: replace(status, state=cri.ContainerState.RUNNING))
    plan.vanish(container_id)
    plan.heal()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vkprovider.errors import NotFoundError, TransientError, UnsupportedError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    HostResources,
    ImageService,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)
from vkprovider.provider.streams import DuplexStream, ProcessStreams

T = TypeVar("T")
Call = tuple[Any, ...]
VERBS = frozenset(
    {
        "aclose",
        "attach",
        "connect",
        "container_events",
        "container_logs",
        "container_status",
        "create_container",
        "exec",
        "exec_sync",
        "find_image",
        "host_resources",
        "image_fs_info",
        "list_containers",
        "list_images",
        "list_pod_sandbox_stats",
        "list_pod_sandboxes",
        "pod_sandbox_status",
        "port_forward",
        "pull_image",
        "remove_container",
        "remove_image",
        "remove_pod_sandbox",
        "run_pod_sandbox",
        "start_container",
        "status",
        "stop_container",
        "stop_pod_sandbox",
        "update_container_resources",
        "version",
    }
)


@dataclass(slots=True)
class _Fault:
    verb: str
    times: int | None
    when: Callable[..., bool] | None
    delay_s: float = 0.0
    hangs: bool = False
    error: BaseException | None = None
    after: bool = False
    lie: Callable[[Any], Any] | None = None

    def take(self, verb: str, call: Call) -> bool:
        """Whether it strikes this call; uses up one of its times."""
        if verb != self.verb and self.verb != "*":
            return False
        if self.times == 0 or (self.when is not None and not self.when(*call)):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FaultPlan:
    """Which calls of a runtime go wrong, and how; may be changed at any time.

    Every fault takes the verb (a method of the contracts, or ``*`` for all), ``times`` (how many calls it strikes; None for all
    from now on) and ``when`` (a predicate on the call's positional arguments). Several faults may strike one call: delays add up,
    the first error counts.

    Attributes:
        calls: Verb and positional arguments of every call so far.
    """

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._vanished: set[str] = set()
        self._hanging: set[asyncio.Future[None]] = set()
        self.calls: list[tuple[str, Call]] = []

    def fail(
        self,
        verb: str,
        error: BaseException | None = None,
        *,
        times: int | None = None,
        when: Callable[..., bool] | None = None,
    ) -> None:
        """Let calls fail before anything is done; with ``TransientError`` when no error is given."""
        self._add(_Fault(verb, times, when, error=error or _no_answer(verb)))

    def lose_answer(
        self,
        verb: str,
        error: BaseException | None = None,
        *,
        times: int | None = None,
        when: Callable[..., bool] | None = None,
    ) -> None:
        """Let calls do their work and fail all the same, as when the connection breaks before the answer."""
        self._add(_Fault(verb, times, when, error=error or _no_answer(verb), after=True))

    def delay(
        self, verb: str, seconds: float, *, times: int | None = None, when: Callable[..., bool] | None = None
    ) -> None:
        """Let calls take so much longer."""
        self._add(_Fault(verb, times, when, delay_s=seconds))

    def hang(self, verb: str, *, times: int | None = None, when: Callable[..., bool] | None = None) -> None:
        """Let calls never return, until ``heal``."""
        self._add(_Fault(verb, times, when, hangs=True))

    def lie(
        self,
        verb: str,
        answer: Callable[[Any], Any],
        *,
        times: int | None = None,
        when: Callable[..., bool] | None = None,
    ) -> None:
        """Let calls answer something else: ``answer`` gets the true answer."""
        self._add(_Fault(verb, times, when, lie=answer))

    def vanish(self, record_id: str) -> None:
        """Hide a container or sandbox: lists leave it out and verbs do not find it, though it goes on."""
        self._vanished.add(record_id)

    def heal(self) -> None:
        """Take all faults away; calls that hang go on, what vanished is seen again."""
        self._faults.clear()
        self._vanished.clear()
        hanging, self._hanging = self._hanging, set()
        for future in hanging:
            if not future.done():
                future.set_result(None)

    def count(self, verb: str) -> int:
        """How often a verb was called."""
        return sum(1 for name, _ in self.calls if name == verb)

    async def run(self, verb: str, call: Call, work: Callable[[], Any]) -> Any:
        """Carry out a call with its faults; ``work`` makes the coroutine of the true one."""
        struck = self._strike(verb, call)
        await self._suffer(struck)
        answer = await work()
        return self._finish(struck, answer)

    async def before(self, verb: str, call: Call) -> list[_Fault]:
        """What happens before a stream begins."""
        struck = self._strike(verb, call)
        await self._suffer(struck)
        return struck

    def is_hidden(self, record_id: str) -> bool:
        """Whether a record has vanished."""
        return record_id in self._vanished

    def _add(self, fault: _Fault) -> None:
        if fault.verb != "*" and fault.verb not in VERBS:
            raise ValueError(f"no verb {fault.verb!r}; known are {', '.join(sorted(VERBS))} and *")
        self._faults.append(fault)

    def _strike(self, verb: str, call: Call) -> list[_Fault]:
        self.calls.append((verb, call))
        return [fault for fault in tuple(self._faults) if fault.take(verb, call)]

    async def _suffer(self, struck: list[_Fault]) -> None:
        delay_s = sum(fault.delay_s for fault in struck)
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if any(fault.hangs for fault in struck):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._hanging.add(future)
            try:
                await future
            finally:
                self._hanging.discard(future)
        for fault in struck:
            if fault.error is not None and not fault.after:
                raise fault.error.with_traceback(None)

    def _finish(self, struck: list[_Fault], answer: Any) -> Any:
        for fault in struck:
            if fault.error is not None and fault.after:
                raise fault.error.with_traceback(None)
            if fault.lie is not None:
                answer = fault.lie(answer)
        return answer


def _no_answer(verb: str) -> TransientError:
    return TransientError(f"{verb}: the runtime did not answer (injected fault)")


class FaultyImageService(ImageService):
    """The image service of a ``FaultyRuntime``."""

    def __init__(self, inner: ImageService, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan

    async def find_image(self, image: cri.ImageSpec) -> cri.Image | None:
        """As the inner service, with faults."""
        found: cri.Image | None = await self._plan.run("find_image", (image,), lambda: self._inner.find_image(image))
        return found

    async def list_images(self) -> Sequence[cri.Image]:
        """As the inner service, with faults."""
        images: Sequence[cri.Image] = await self._plan.run("list_images", (), self._inner.list_images)
        return images

    async def pull_image(
        self,
        image: cri.ImageSpec,
        *,
        auth: cri.AuthConfig | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> cri.ImageRef:
        """As the inner service, with faults."""
        reference: cri.ImageRef = await self._plan.run(
            "pull_image", (image,), lambda: self._inner.pull_image(image, auth=auth, progress=progress)
        )
        return reference

    async def remove_image(self, image: cri.ImageSpec) -> None:
        """As the inner service, with faults."""
        await self._plan.run("remove_image", (image,), lambda: self._inner.remove_image(image))

    async def image_fs_info(self) -> Sequence[cri.FilesystemUsage]:
        """As the inner service, with faults."""
        usage: Sequence[cri.FilesystemUsage] = await self._plan.run("image_fs_info", (), self._inner.image_fs_info)
        return usage


class FaultyRuntime(ContainerRuntime, RuntimeEvents, StreamingRuntime, RuntimeStats, HostInfo):
    """A runtime with a plan of faults; without any it behaves as the inner one.

    Optional abilities that the inner runtime lacks raise ``UnsupportedError``.

    Args:
        inner: The true runtime.
        plan: Its faults; an empty plan when left out, reachable as ``plan``.
    """

    def __init__(self, inner: ContainerRuntime, plan: FaultPlan | None = None) -> None:
        self.inner = inner
        self.plan = plan if plan is not None else FaultPlan()
        self.name = inner.name
        self._copy_traits()
        self._images = FaultyImageService(inner.images, self.plan)

    @property
    def images(self) -> FaultyImageService:
        """The image service, with faults."""
        return self._images

    async def connect(self) -> None:
        """As the inner runtime, with faults."""
        await self.plan.run("connect", (), self.inner.connect)
        self._copy_traits()

    def _copy_traits(self) -> None:
        self.shares_filesystem = self.inner.shares_filesystem
        self.shares_mounts = self.inner.shares_mounts
        self.simulated = self.inner.simulated

    async def aclose(self) -> None:
        """As the inner runtime, with faults."""
        await self.plan.run("aclose", (), self.inner.aclose)

    async def version(self) -> cri.RuntimeVersion:
        """As the inner runtime, with faults."""
        version: cri.RuntimeVersion = await self.plan.run("version", (), self.inner.version)
        return version

    async def status(self) -> cri.RuntimeStatus:
        """As the inner runtime, with faults."""
        status: cri.RuntimeStatus = await self.plan.run("status", (), self.inner.status)
        return status

    async def run_pod_sandbox(self, config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> cri.SandboxID:
        """As the inner runtime, with faults."""
        sandbox_id: cri.SandboxID = await self.plan.run(
            "run_pod_sandbox", (config,), lambda: self.inner.run_pod_sandbox(config, runtime_handler=runtime_handler)
        )
        return sandbox_id

    async def stop_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """As the inner runtime, with faults; a vanished sandbox is unknown, which is success."""
        await self._run_unless_hidden("stop_pod_sandbox", sandbox_id, lambda: self.inner.stop_pod_sandbox(sandbox_id))

    async def remove_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """As the inner runtime, with faults; a vanished sandbox is unknown, which is success."""
        await self._run_unless_hidden(
            "remove_pod_sandbox", sandbox_id, lambda: self.inner.remove_pod_sandbox(sandbox_id)
        )

    async def pod_sandbox_status(self, sandbox_id: cri.SandboxID) -> cri.PodSandboxStatus:
        """As the inner runtime, with faults."""
        self._check_visible(sandbox_id)
        status: cri.PodSandboxStatus = await self.plan.run(
            "pod_sandbox_status", (sandbox_id,), lambda: self.inner.pod_sandbox_status(sandbox_id)
        )
        return status

    async def list_pod_sandboxes(self, filter: cri.PodSandboxFilter | None = None) -> Sequence[cri.PodSandbox]:
        """As the inner runtime, without what vanished."""
        found: Sequence[cri.PodSandbox] = await self.plan.run(
            "list_pod_sandboxes", (filter,), lambda: self.inner.list_pod_sandboxes(filter)
        )
        return [item for item in found if not self.plan.is_hidden(item.id)]

    async def create_container(
        self, sandbox_id: cri.SandboxID, config: cri.ContainerConfig, sandbox_config: cri.PodSandboxConfig
    ) -> cri.ContainerID:
        """As the inner runtime, with faults."""
        self._check_visible(sandbox_id)
        container_id: cri.ContainerID = await self.plan.run(
            "create_container",
            (sandbox_id, config, sandbox_config),
            lambda: self.inner.create_container(sandbox_id, config, sandbox_config),
        )
        return container_id

    async def start_container(self, container_id: cri.ContainerID) -> None:
        """As the inner runtime, with faults."""
        self._check_visible(container_id)
        await self.plan.run("start_container", (container_id,), lambda: self.inner.start_container(container_id))

    async def stop_container(self, container_id: cri.ContainerID, *, grace_period_s: float) -> None:
        """As the inner runtime, with faults; a vanished container is unknown, which is success."""
        await self._run_unless_hidden(
            "stop_container",
            container_id,
            lambda: self.inner.stop_container(container_id, grace_period_s=grace_period_s),
            grace_period_s,
        )

    async def remove_container(self, container_id: cri.ContainerID) -> None:
        """As the inner runtime, with faults; a vanished container is unknown, which is success."""
        await self._run_unless_hidden(
            "remove_container", container_id, lambda: self.inner.remove_container(container_id)
        )

    async def list_containers(self, filter: cri.ContainerFilter | None = None) -> Sequence[cri.Container]:
        """As the inner runtime, without what vanished."""
        found: Sequence[cri.Container] = await self.plan.run(
            "list_containers", (filter,), lambda: self.inner.list_containers(filter)
        )
        hidden = self.plan.is_hidden
        return [item for item in found if not hidden(item.id) and not hidden(item.pod_sandbox_id)]

    async def container_status(self, container_id: cri.ContainerID) -> cri.ContainerStatus:
        """As the inner runtime, with faults."""
        self._check_visible(container_id)
        status: cri.ContainerStatus = await self.plan.run(
            "container_status", (container_id,), lambda: self.inner.container_status(container_id)
        )
        return status

    async def update_container_resources(
        self, container_id: cri.ContainerID, resources: cri.LinuxContainerResources
    ) -> None:
        """As the inner runtime, with faults."""
        self._check_visible(container_id)
        await self.plan.run(
            "update_container_resources",
            (container_id, resources),
            lambda: self.inner.update_container_resources(container_id, resources),
        )

    async def exec_sync(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None = None
    ) -> cri.ExecResult:
        """As the inner runtime, with faults."""
        self._check_visible(container_id)
        result: cri.ExecResult = await self.plan.run(
            "exec_sync",
            (container_id, command),
            lambda: self.inner.exec_sync(container_id, command, timeout_s=timeout_s),
        )
        return result

    async def container_logs(self, container_id: cri.ContainerID, options: LogOptions) -> AsyncIterator[bytes]:
        """As the inner runtime, with faults before the first chunk."""
        await self.plan.before("container_logs", (container_id, options))
        self._check_visible(container_id)
        async for chunk in self.inner.container_logs(container_id, options):
            yield chunk

    async def container_events(self, label_selector: Mapping[str, str]) -> AsyncIterator[cri.ContainerEvent]:
        """As the inner runtime, with faults before each event: a failing call loses events, a delay makes them late."""
        events = self._need(RuntimeEvents).container_events(label_selector)  # type: ignore[type-abstract]
        async for event in events:
            try:
                await self.plan.before("container_events", (event,))
            except NotFoundError:
                continue  # this one event is lost
            if not self.plan.is_hidden(event.container_id):
                yield event

    async def exec(self, container_id: cri.ContainerID, command: Sequence[str], streams: ProcessStreams) -> int:
        """As the inner runtime, with faults."""
        inner = self._need(StreamingRuntime)  # type: ignore[type-abstract]
        self._check_visible(container_id)
        code: int = await self.plan.run(
            "exec", (container_id, command), lambda: inner.exec(container_id, command, streams)
        )
        return code

    async def attach(self, container_id: cri.ContainerID, streams: ProcessStreams) -> None:
        """As the inner runtime, with faults."""
        inner = self._need(StreamingRuntime)  # type: ignore[type-abstract]
        self._check_visible(container_id)
        await self.plan.run("attach", (container_id,), lambda: inner.attach(container_id, streams))

    async def port_forward(self, sandbox_id: cri.SandboxID, port: int) -> DuplexStream:
        """As the inner runtime, with faults."""
        inner = self._need(StreamingRuntime)  # type: ignore[type-abstract]
        self._check_visible(sandbox_id)
        stream: DuplexStream = await self.plan.run(
            "port_forward", (sandbox_id, port), lambda: inner.port_forward(sandbox_id, port)
        )
        return stream

    async def list_pod_sandbox_stats(self, label_selector: Mapping[str, str]) -> Sequence[cri.PodSandboxStats]:
        """As the inner runtime, with faults."""
        inner = self._need(RuntimeStats)  # type: ignore[type-abstract]
        stats: Sequence[cri.PodSandboxStats] = await self.plan.run(
            "list_pod_sandbox_stats", (label_selector,), lambda: inner.list_pod_sandbox_stats(label_selector)
        )
        return [item for item in stats if not self.plan.is_hidden(item.id)]

    async def host_resources(self) -> HostResources:
        """As the inner runtime, with faults."""
        inner = self._need(HostInfo)  # type: ignore[type-abstract]
        resources: HostResources = await self.plan.run("host_resources", (), inner.host_resources)
        return resources

    async def _run_unless_hidden(self, verb: str, record_id: str, work: Callable[[], Any], *more: Any) -> None:
        async def run() -> None:
            if not self.plan.is_hidden(record_id):
                await work()

        await self.plan.run(verb, (record_id, *more), run)

    def _check_visible(self, record_id: str) -> None:
        if self.plan.is_hidden(record_id):
            raise NotFoundError(f"No such container or sandbox: {record_id} (it vanished)")

    def _need(self, kind: type[T]) -> T:
        if not isinstance(self.inner, kind):
            raise UnsupportedError(f"{type(self.inner).__name__} has no {kind.__name__}")
        return self.inner
