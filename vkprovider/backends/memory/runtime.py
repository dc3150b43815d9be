"""A container runtime that lives in this process: complete behaviour, no containers.

Its state is the process's own: when that ends, all sandboxes and containers are gone. Tests, the quickstart without an engine and
runs with thousands of pods use it. Nothing in it waits unless told to, so verbs cost microseconds; a container that just runs has
no task, no timer and a few hundred bytes.

All times come from the clock given and all waits from the event loop, so virtual time makes it deterministic (pass
``LoopClock`` then).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from vkprovider._version import __version__
from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import labels
from vkprovider.api.durations import format_duration
from vkprovider.backends.memory.addresses import AddressPool
from vkprovider.backends.memory.behaviour import get_sandbox_behaviour, resolve_behaviour
from vkprovider.backends.memory.config import MemoryConfig
from vkprovider.backends.memory.events import EventHub
from vkprovider.backends.memory.execs import run_attach, run_exec
from vkprovider.backends.memory.images import MemoryImageService
from vkprovider.backends.memory.main_process import make_ticker
from vkprovider.backends.memory.process import FOREVER_S, Process, Program, Run
from vkprovider.backends.memory.programs import STANDARD_PROGRAMS, parse_sleep
from vkprovider.backends.memory.records import SIGKILL, ContainerRecord, SandboxRecord
from vkprovider.backends.memory.stats import make_sandbox_stats
from vkprovider.backends.memory.streams import Listener, make_connection, make_http_listener, serve_echo
from vkprovider.errors import ConfigurationError, NotFoundError, PodSyncError, TransientError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    HostResources,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)
from vkprovider.provider.streams import CappedBuffer, DuplexStream, ProcessStreams

MAX_EXEC_OUTPUT_BYTES = 16 * 1024 * 1024
"""Output of a command beyond this is dropped. Source: CRI RuntimeService.ExecSync."""

_RESOURCE_FIELDS = tuple(field.name for field in fields(cri.LinuxContainerResources))


class MemoryRuntime(ContainerRuntime, RuntimeEvents, StreamingRuntime, RuntimeStats, HostInfo):
    """Simulated sandboxes, containers and images.

    Beside the contract it has controls for tests: ``exit_container``, ``kill_sandbox``, ``forget``, ``write_log``, ``listen``,
    ``set_healthy``, ``reboot`` and the table ``programs``. How containers behave is said in
    ``vkprovider.backends.memory.behaviour``.

    Args:
        config: Size of the host, images, behaviours.
        clock: Wall time of all time stamps; ``LoopClock`` under virtual time.
        files_root: Directory inside which mounts lead to real files; None for none at all.
        hostname: Name of the simulated host.
        make_id: Makes ids of sandboxes and containers; by default random, 64 hex digits.

    Attributes:
        programs: What containers can run, by name; add your own (see ``vkprovider.backends.memory.process``).
    """

    name = "memory"
    simulated = True

    def __init__(
        self,
        config: MemoryConfig | None = None,
        *,
        clock: Clock | None = None,
        files_root: Path | None = None,
        hostname: str = "memory",
        make_id: Callable[[], str] | None = None,
    ) -> None:
        self.config = config or MemoryConfig()
        self.clock: Clock = clock or SystemClock()
        self.files_root = files_root
        self.shares_filesystem = files_root is not None
        self.programs: dict[str, Program] = dict(STANDARD_PROGRAMS)
        self._hostname = hostname
        self._make_id = make_id or (lambda: secrets.token_hex(32))
        self._images = MemoryImageService(self.config, in_use=self._is_image_used)
        self._pools = [AddressPool(cidr) for cidr in self.config.pod_cidrs]
        self._sandboxes: dict[str, SandboxRecord] = {}
        self._containers: dict[str, ContainerRecord] = {}
        self._sandbox_keys: dict[tuple[str, int], SandboxRecord] = {}
        # Lists are nearly always asked for one pod: by its UID label.
        self._sandboxes_by_pod: dict[str, dict[str, SandboxRecord]] = {}
        self._containers_by_pod: dict[str, dict[str, ContainerRecord]] = {}
        self._image_users: dict[str, int] = {}
        self._events = EventHub()
        self._connections = TaskPool("memory-listeners")
        self._unhealthy = ""

    # -- The runtime itself.

    @property
    def images(self) -> MemoryImageService:
        """The image service."""
        return self._images

    async def connect(self) -> None:
        """Nothing to reach.

        Raises:
            TransientError: Made unhealthy by ``set_healthy``.
        """
        self._check_healthy()

    async def aclose(self) -> None:
        """End event readers and port-forward connections; containers go on as long as the process. Safe to repeat."""
        self._events.close()
        await self._connections.aclose()

    async def version(self) -> cri.RuntimeVersion:
        """Our own version."""
        self._check_healthy()
        return cri.RuntimeVersion("memory", __version__, "v1")

    async def status(self) -> cri.RuntimeStatus:
        """Ready, with the default handler only."""
        self._check_healthy()
        return cri.RuntimeStatus(
            conditions=(cri.RuntimeCondition("RuntimeReady", True), cri.RuntimeCondition("NetworkReady", True)),
            runtime_handlers=(cri.RuntimeHandler(recursive_read_only_mounts=True),),
            supplemental_groups_policy=True,
        )

    async def host_resources(self) -> HostResources:
        """The simulated host, as configured."""
        return HostResources(
            cpu_cores=self.config.cpu_cores,
            memory_bytes=self.config.memory_bytes,
            kernel_version="0.0.0-memory",
            os_image="vkprovider memory runtime (simulated)",
            hostname=self._hostname,
            storage_bytes=self.config.storage_bytes,
        )

    # -- Sandboxes.

    async def run_pod_sandbox(self, config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> cri.SandboxID:
        """Make a sandbox with an address of its own.

        Raises:
            PodSyncError: The pod's behaviour says so, its annotation is wrong, there is no such runtime handler, or no address is left.
        """
        self._check_healthy()
        if runtime_handler:
            raise PodSyncError(
                f'no runtime for "{runtime_handler}" is configured: the memory runtime has the default handler only',
                reason="CreatePodSandboxError",
            )
        key = (config.metadata.uid, config.metadata.attempt)
        record = self._sandbox_keys.get(key)
        if record is None:
            behaviour = self._read_annotation(get_sandbox_behaviour, config.annotations, "CreatePodSandboxError")
            if behaviour.error:
                if behaviour.start_delay_s > 0:
                    await asyncio.sleep(behaviour.start_delay_s)
                raise PodSyncError(behaviour.error, reason="CreatePodSandboxError")
            pod_uid = config.labels.get(labels.POD_UID, "")
            siblings = self._sandboxes_by_pod.get(pod_uid, {}).values() if pod_uid else ()
            created_at = self._next_created_at(item.created_at for item in siblings)
            record = SandboxRecord(cri.SandboxID(self._make_id()), config, created_at, runtime_handler)
            record.behaviour = behaviour
            self._sandboxes[record.id] = record
            self._sandbox_keys[key] = record
            self._sandboxes_by_pod.setdefault(pod_uid, {})[record.id] = record
        if record.behaviour.start_delay_s > 0 and record.state is cri.SandboxState.NOT_READY:
            await asyncio.sleep(record.behaviour.start_delay_s)
            if self._sandboxes.get(record.id) is not record:
                raise PodSyncError("the sandbox was removed while it started", reason="CreatePodSandboxError")
        if record.state is cri.SandboxState.NOT_READY:
            self._start_sandbox(record)
        return record.id

    async def stop_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """Kill its containers at once and release its address."""
        self._check_healthy()
        record = self._sandboxes.get(sandbox_id)
        if record is not None:
            self._stop_sandbox(record)

    async def remove_pod_sandbox(self, sandbox_id: cri.SandboxID) -> None:
        """Remove it with its containers."""
        self._check_healthy()
        record = self._sandboxes.get(sandbox_id)
        if record is None:
            return
        self._stop_sandbox(record)
        for container in tuple(record.containers.values()):
            self._remove_container(container)
        self._drop_sandbox(record)
        self._publish(record.id, record.config.labels, cri.ContainerEventType.DELETED)

    async def pod_sandbox_status(self, sandbox_id: cri.SandboxID) -> cri.PodSandboxStatus:
        """All about a sandbox."""
        self._check_healthy()
        return self._get_sandbox(sandbox_id).get_status()

    async def list_pod_sandboxes(self, filter: cri.PodSandboxFilter | None = None) -> Sequence[cri.PodSandbox]:
        """Sandboxes that match."""
        self._check_healthy()
        if filter is None:
            return [record.get_listed() for record in self._sandboxes.values()]
        records: Iterable[SandboxRecord] = self._sandboxes.values()
        selector = dict(filter.label_selector)
        if filter.id is not None:
            records = [self._sandboxes[filter.id]] if filter.id in self._sandboxes else []
        elif labels.POD_UID in selector:
            records = self._sandboxes_by_pod.get(selector.pop(labels.POD_UID), {}).values()
        wanted = tuple(filter.label_selector.items()) if filter.id is not None else tuple(selector.items())
        return [
            record.get_listed()
            for record in records
            if (filter.state is None or record.state is filter.state) and _has_labels(record.config.labels, wanted)
        ]

    # -- Containers.

    async def create_container(
        self, sandbox_id: cri.SandboxID, config: cri.ContainerConfig, sandbox_config: cri.PodSandboxConfig
    ) -> cri.ContainerID:
        """Make a container that its behaviour, image and command describe.

        Raises:
            PodSyncError: Its behaviour says so, or its annotation is wrong.
            NotFoundError: No such sandbox, or the image is not present.
        """
        self._check_healthy()
        sandbox = self._get_sandbox(sandbox_id)
        key = (config.metadata.name, config.metadata.attempt)
        existing = sandbox.containers.get(key)
        if existing is not None:
            return existing.id
        image = self._images.lookup(config.image.image)
        if image is None:
            raise NotFoundError(f"No such image: {config.image.image}; pull it first")
        behaviour = self._read_annotation(
            lambda annotations: resolve_behaviour(
                config.metadata.name,
                base=self._images.get_behaviour(image.repo_tags[0] if image.repo_tags else config.image.image),
                has_command=bool(config.command or config.args),
                pod_annotations=sandbox.config.annotations,
                annotations=annotations,
            ),
            config.annotations,
            "CreateContainerError",
        )
        if behaviour.create_error:
            raise PodSyncError(behaviour.create_error, reason="CreateContainerError")
        pod_uid = config.labels.get(labels.POD_UID, "")
        siblings = self._containers_by_pod.get(pod_uid, {}).values() if pod_uid else sandbox.containers.values()
        created_at = self._next_created_at(item.created_at for item in siblings if item.config.metadata.name == key[0])
        record = ContainerRecord(cri.ContainerID(self._make_id()), sandbox, config, image, behaviour, created_at, self)
        sandbox.containers[key] = record
        self._containers[record.id] = record
        self._containers_by_pod.setdefault(pod_uid, {})[record.id] = record
        self._image_users[image.id] = self._image_users.get(image.id, 0) + 1
        self.publish(record, cri.ContainerEventType.CREATED)
        return record.id

    async def start_container(self, container_id: cri.ContainerID) -> None:
        """Run a created container.

        Raises:
            PodSyncError: Its behaviour says so, it ran before, or its sandbox is not ready.
        """
        self._check_healthy()
        record = self._get_container(container_id)
        if record.is_running():
            return
        if record.state is not cri.ContainerState.CREATED:
            raise PodSyncError(f"container {container_id} has exited; make a new one instead of starting it again")
        if record.behaviour.start_delay_s > 0:
            await asyncio.sleep(record.behaviour.start_delay_s)
            if record.is_running():
                return
            if self._containers.get(container_id) is not record:
                raise NotFoundError(f"No such container: {container_id}")
            if record.state is not cri.ContainerState.CREATED:
                raise PodSyncError(f"container {container_id} was stopped while it started")
        if record.sandbox.state is not cri.SandboxState.READY:
            raise PodSyncError(f"sandbox {record.sandbox.id} of container {container_id} is not running")
        message = record.behaviour.start_error
        if message:
            text = f"failed to create task for container: OCI runtime create failed: {message}: unknown"
            record.fail_start(text)
            raise PodSyncError(text)
        program, argv, run_s = self._find_main_program(record)
        record.start(program, argv, run_s)

    async def stop_container(self, container_id: cri.ContainerID, *, grace_period_s: float) -> None:
        """Stop signal, then SIGKILL when the grace period has run out; the kill stays due when the caller is cancelled."""
        self._check_healthy()
        record = self._containers.get(container_id)
        if record is None or not record.is_running():
            return
        record.stop(grace_period_s)
        await record.wait_exited()

    async def remove_container(self, container_id: cri.ContainerID) -> None:
        """Remove a container, killing it if it runs."""
        self._check_healthy()
        record = self._containers.get(container_id)
        if record is not None:
            self._remove_container(record)

    async def list_containers(self, filter: cri.ContainerFilter | None = None) -> Sequence[cri.Container]:
        """Containers that match."""
        self._check_healthy()
        if filter is None:
            return [record.get_listed() for record in self._containers.values()]
        records: Iterable[ContainerRecord] = self._containers.values()
        selector = dict(filter.label_selector)
        if filter.id is not None:
            records = [self._containers[filter.id]] if filter.id in self._containers else []
        elif filter.pod_sandbox_id is not None:
            sandbox = self._sandboxes.get(filter.pod_sandbox_id)
            records = sandbox.containers.values() if sandbox is not None else []
        elif labels.POD_UID in selector:
            records = self._containers_by_pod.get(selector.pop(labels.POD_UID), {}).values()
        wanted = tuple(selector.items())
        return [
            record.get_listed()
            for record in records
            if (filter.state is None or record.state is filter.state)
            and (filter.pod_sandbox_id is None or record.sandbox.id == filter.pod_sandbox_id)
            and _has_labels(record.config.labels, wanted)
        ]

    async def container_status(self, container_id: cri.ContainerID) -> cri.ContainerStatus:
        """All about a container."""
        self._check_healthy()
        return self._get_container(container_id).get_status()

    async def update_container_resources(
        self, container_id: cri.ContainerID, resources: cri.LinuxContainerResources
    ) -> None:
        """Remember the new settings; values of None, empty texts and empty mappings stay as they are."""
        self._check_healthy()
        record = self._get_container(container_id)
        given = {name: getattr(resources, name) for name in _RESOURCE_FIELDS}
        changes = {name: value for name, value in given.items() if value not in (None, "", {})}
        record.set_resources(replace(record.resources, **changes))

    async def exec_sync(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None = None
    ) -> cri.ExecResult:
        """Run a simulated program to its end."""
        self._check_healthy()
        record = self._get_running(container_id)
        stdout, stderr = CappedBuffer(MAX_EXEC_OUTPUT_BYTES), CappedBuffer(MAX_EXEC_OUTPUT_BYTES)
        work = run_exec(record, command, ProcessStreams(stdout=stdout, stderr=stderr))
        if timeout_s is None:
            code = await work
        else:
            try:
                async with asyncio.timeout(timeout_s):
                    code = await work
            except TimeoutError as error:
                text = f'command "{" ".join(command)}" timed out after {format_duration(timeout_s)}'
                raise TimeoutError(text) from error
        return cri.ExecResult(code, stdout.getvalue(), stderr.getvalue())

    async def container_logs(self, container_id: cri.ContainerID, options: LogOptions) -> AsyncIterator[bytes]:
        """The log, from memory; ``previous`` is the caller's business, who names the container."""
        self._check_healthy()
        async for chunk in self._get_container(container_id).log.read(options):
            yield chunk

    # -- Events, streams, figures.

    def container_events(self, label_selector: Mapping[str, str]) -> AsyncIterator[cri.ContainerEvent]:
        """Events from now on, whether or not they are read yet."""
        return self._events.subscribe(label_selector)

    async def exec(self, container_id: cri.ContainerID, command: Sequence[str], streams: ProcessStreams) -> int:
        """Run a simulated program with these streams."""
        self._check_healthy()
        return await run_exec(self._get_running(container_id), command, streams)

    async def attach(self, container_id: cri.ContainerID, streams: ProcessStreams) -> None:
        """Connect to the first process: its output from now on, and its input if it has one."""
        self._check_healthy()
        await run_attach(self._get_running(container_id), streams)

    async def port_forward(self, sandbox_id: cri.SandboxID, port: int) -> DuplexStream:
        """Connect to a simulated listener: one made by ``listen``, of a behaviour, or of a declared container port."""
        self._check_healthy()
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.state is not cri.SandboxState.READY:
            raise NotFoundError(f"No such sandbox, or it does not run: {sandbox_id}")
        listener = self._find_listener(sandbox, port)
        if listener is None:
            raise ConnectionRefusedError(f"dial tcp4 127.0.0.1:{port}: connect: connection refused")
        ours, theirs = make_connection()

        async def serve() -> None:
            try:
                await listener(theirs)
            except ConnectionError:
                pass  # the client has gone
            finally:
                await theirs.aclose()

        self._connections.spawn(serve(), name=f"port-{port}")
        return ours

    async def list_pod_sandbox_stats(self, label_selector: Mapping[str, str]) -> Sequence[cri.PodSandboxStats]:
        """Figures made up from the behaviours: a steady use of CPU since the start, a fixed use of memory."""
        self._check_healthy()
        wanted = tuple(label_selector.items())
        now = self.clock.now()
        return [
            make_sandbox_stats(record, now)
            for record in self._sandboxes.values()
            if record.state is cri.SandboxState.READY and _has_labels(record.config.labels, wanted)
        ]

    # -- Controls for tests.

    def exit_container(self, container_id: str, exit_code: int = 0, *, reason: str = "") -> None:
        """Let a running container end by itself, e.g. with reason ``OOMKilled``.

        Raises:
            NotFoundError: No such container, or it does not run.
        """
        self._get_running(cri.ContainerID(container_id)).exit(exit_code, reason=reason)

    def kill_sandbox(self, sandbox_id: str) -> None:
        """Let a sandbox die with all that runs in it.

        Raises:
            NotFoundError: No such sandbox.
        """
        self._stop_sandbox(self._get_sandbox(cri.SandboxID(sandbox_id)))

    def forget(self, record_id: str) -> None:
        """Lose a container's or sandbox's record without an event, as when somebody removed it behind our back."""
        container = self._containers.get(record_id)
        sandbox = self._sandboxes.get(record_id)
        events, self._events = self._events, EventHub()
        try:
            if container is not None:
                self._remove_container(container)
            elif sandbox is not None:
                self._stop_sandbox(sandbox)
                for item in tuple(sandbox.containers.values()):
                    self._remove_container(item)
                self._drop_sandbox(sandbox)
        finally:
            self._events = events

    def write_log(self, container_id: str, data: bytes, *, stderr: bool = False) -> None:
        """Let a running container write something.

        Raises:
            NotFoundError: No such container, or it does not run.
        """
        self._get_running(cri.ContainerID(container_id)).output(data, stderr=stderr)

    def listen(self, sandbox_id: str, port: int, listener: Listener | None) -> None:
        """Serve a port of a sandbox; None stops serving it.

        Raises:
            NotFoundError: No such sandbox.
        """
        listeners = self._get_sandbox(cri.SandboxID(sandbox_id)).listeners
        if listener is None:
            listeners.pop(port, None)
        else:
            listeners[port] = listener

    def set_healthy(self, healthy: bool, message: str = "the memory runtime was made unhealthy") -> None:
        """Let every verb fail with ``TransientError``, or work again; what runs goes on."""
        self._unhealthy = "" if healthy else message

    def reboot(self) -> None:
        """Let everything that runs die at once, as when the host restarts; records stay."""
        for record in self._sandboxes.values():
            self._stop_sandbox(record)

    def publish(self, record: ContainerRecord, kind: cri.ContainerEventType) -> None:
        """Tell readers of events about a container."""
        self._publish(record.id, record.config.labels, kind)

    # -- Parts.

    def _check_healthy(self) -> None:
        if self._unhealthy:
            raise TransientError(self._unhealthy, reason="RuntimeNotReady")

    def _next_created_at(self, earlier: Iterable[datetime]) -> datetime:
        """Now, but later than earlier attempts were made, so that creation times order attempts even under virtual time."""
        now = self.clock.now()
        return max((now, *(moment + timedelta(microseconds=1) for moment in earlier)))

    def _read_annotation(self, read: Callable[[Mapping[str, str]], Any], found: Mapping[str, str], reason: str) -> Any:
        try:
            return read(found)
        except ConfigurationError as error:
            raise PodSyncError(str(error), reason=reason) from error

    def _get_sandbox(self, sandbox_id: cri.SandboxID) -> SandboxRecord:
        record = self._sandboxes.get(sandbox_id)
        if record is None:
            raise NotFoundError(f"No such sandbox: {sandbox_id}")
        return record

    def _get_container(self, container_id: cri.ContainerID) -> ContainerRecord:
        record = self._containers.get(container_id)
        if record is None:
            raise NotFoundError(f"No such container: {container_id}")
        return record

    def _get_running(self, container_id: cri.ContainerID) -> ContainerRecord:
        record = self._get_container(container_id)
        if not record.is_running():
            raise NotFoundError(f"container {container_id} is not running (it is {record.state.name.lower()})")
        return record

    def _is_image_used(self, image_id: str) -> bool:
        return self._image_users.get(image_id, 0) > 0

    def _start_sandbox(self, record: SandboxRecord) -> None:
        ips: tuple[str, ...] = ()
        if record.config.linux.security_context.namespaces.network is not cri.NamespaceMode.NODE:
            try:
                ips = tuple(pool.take() for pool in self._pools)
            except PodSyncError:
                self._drop_sandbox(record)
                raise
        record.set_state(cri.SandboxState.READY, ips)
        self._publish(record.id, record.config.labels, cri.ContainerEventType.STARTED)

    def _stop_sandbox(self, record: SandboxRecord) -> None:
        for container in record.containers.values():
            if container.is_running():
                container.deliver(SIGKILL)
        if record.state is cri.SandboxState.READY:
            for pool, address in zip(self._pools, record.ips, strict=False):
                pool.release(address)
            record.set_state(cri.SandboxState.NOT_READY, ())
            self._publish(record.id, record.config.labels, cri.ContainerEventType.STOPPED)

    def _drop_sandbox(self, record: SandboxRecord) -> None:
        self._sandboxes.pop(record.id, None)
        self._sandbox_keys.pop((record.config.metadata.uid, record.config.metadata.attempt), None)
        _drop_indexed(self._sandboxes_by_pod, record.config.labels.get(labels.POD_UID, ""), record.id)

    def _remove_container(self, record: ContainerRecord) -> None:
        if record.is_running():
            record.deliver(SIGKILL)
        record.drop_log()
        del self._containers[record.id]
        del record.sandbox.containers[(record.config.metadata.name, record.config.metadata.attempt)]
        _drop_indexed(self._containers_by_pod, record.config.labels.get(labels.POD_UID, ""), record.id)
        self._image_users[record.image.id] -= 1
        self.publish(record, cri.ContainerEventType.DELETED)

    def _publish(self, record_id: str, found: Mapping[str, str], kind: cri.ContainerEventType) -> None:
        if self._events:
            event = cri.ContainerEvent(record_id, kind, self.clock.now(), found.get(labels.POD_UID, ""))
            self._events.publish(event, found)

    def _find_main_program(self, record: ContainerRecord) -> tuple[Program | None, tuple[str, ...], float | None]:
        """What a container runs: a program, or None with the seconds until its end (None: until stopped)."""
        behaviour, config = record.behaviour, record.config
        run_s = behaviour.run_s
        if behaviour.ends_by_itself and run_s is None:
            run_s = 0.0
        if behaviour.log_lines_per_s > 0:
            limit = run_s if behaviour.ends_by_itself else None

            def tick(process: Process) -> Run:
                return make_ticker(record, limit)

            return tick, (), None
        if behaviour.ends_by_itself:
            return None, (), run_s
        # The entrypoint of a simulated image is unknown: arguments alone are taken for its command.
        argv = (*config.command, *config.args) or self._images.get_command(config.image.image)
        if not argv:
            return None, (), None
        program = self.programs.get(argv[0].rpartition("/")[2])
        if program is STANDARD_PROGRAMS["sleep"]:
            seconds = parse_sleep(argv[1:])
            if seconds is not None and seconds != FOREVER_S and not config.stdin:
                return None, (), seconds
        return program, argv, None

    def _find_listener(self, sandbox: SandboxRecord, port: int) -> Listener | None:
        if port in sandbox.listeners:
            return sandbox.listeners[port]
        for record in sandbox.containers.values():
            if not record.is_running():
                continue
            kind = record.behaviour.listen.get(port)
            if kind is None and not record.behaviour.listen and port in _declared_ports(record.config):
                kind = "http"
            if kind == "echo":
                return serve_echo
            if kind == "http":
                metadata = sandbox.config.metadata
                return make_http_listener(
                    f"{record.config.metadata.name} of {metadata.namespace}/{metadata.name} on port {port}\n"
                )
        return None


def _has_labels(found: Mapping[str, str], wanted: Iterable[tuple[str, str]]) -> bool:
    for key, value in wanted:  # noqa: SIM110 - all() of a generator takes twice as long, and lists have thousands of entries
        if found.get(key) != value:
            return False
    return True


def _drop_indexed(index: dict[str, dict[str, Any]], key: str, record_id: str) -> None:
    entry = index.get(key)
    if entry is not None:
        entry.pop(record_id, None)
        if not entry:
            del index[key]


def _declared_ports(config: cri.ContainerConfig) -> frozenset[int]:
    """TCP ports that the container declares in its pod's spec."""
    text = config.annotations.get(labels.CONTAINER_PORTS)
    if not text:
        return frozenset()
    try:
        ports = json.loads(text)
        return frozenset(int(item["containerPort"]) for item in ports if item.get("protocol", "TCP") == "TCP")
    except (ValueError, TypeError, KeyError, AttributeError):
        return frozenset()
