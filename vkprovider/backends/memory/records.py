"""Sandboxes and containers of the memory runtime.

A container that just runs holds no task and no timer: only those with an end, or a program that waits, have one timer each.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
import signal
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from vkprovider.api import labels
from vkprovider.backends.memory.behaviour import Behaviour, SandboxBehaviour
from vkprovider.backends.memory.logs import ContainerLog
from vkprovider.backends.memory.main_process import Attachment, MainProcess
from vkprovider.backends.memory.process import Files, Process, Program, Write
from vkprovider.provider import cri

if TYPE_CHECKING:
    from vkprovider.backends.memory.runtime import MemoryRuntime
    from vkprovider.backends.memory.streams import Listener

logger = logging.getLogger(__name__)

MAX_STDIN_BYTES = 1024 * 1024
SIGKILL = int(signal.SIGKILL)
SIGTERM = int(signal.SIGTERM)
SIGINT = int(signal.SIGINT)


class SandboxRecord:
    """One sandbox."""

    __slots__ = (
        "_listed",
        "_status",
        "behaviour",
        "config",
        "containers",
        "created_at",
        "id",
        "ips",
        "listeners",
        "runtime_handler",
        "starting",
        "state",
    )

    def __init__(
        self, sandbox_id: cri.SandboxID, config: cri.PodSandboxConfig, created_at: datetime, runtime_handler: str
    ) -> None:
        self.id = sandbox_id
        self.config = config
        self.created_at = created_at
        self.runtime_handler = runtime_handler
        self.behaviour = SandboxBehaviour()
        self.state = cri.SandboxState.NOT_READY
        self.starting = False
        self.ips: tuple[str, ...] = ()
        self.containers: dict[tuple[str, int], ContainerRecord] = {}
        self.listeners: dict[int, Listener] = {}
        self._listed: cri.PodSandbox | None = None
        self._status: cri.PodSandboxStatus | None = None

    def set_state(self, state: cri.SandboxState, ips: tuple[str, ...]) -> None:
        """Change state and addresses."""
        self.state, self.ips = state, ips
        self._listed = self._status = None

    def get_listed(self) -> cri.PodSandbox:
        """As it appears in lists."""
        if self._listed is None:
            config = self.config
            self._listed = cri.PodSandbox(
                self.id,
                config.metadata,
                self.state,
                self.created_at,
                config.labels,
                config.annotations,
                self.runtime_handler,
            )
        return self._listed

    def get_status(self) -> cri.PodSandboxStatus:
        """All about it."""
        if self._status is None:
            config = self.config
            self._status = cri.PodSandboxStatus(
                id=self.id,
                metadata=config.metadata,
                state=self.state,
                created_at=self.created_at,
                ip=self.ips[0] if self.ips else "",
                additional_ips=self.ips[1:],
                namespaces=config.linux.security_context.namespaces,
                labels=config.labels,
                annotations=config.annotations,
                runtime_handler=self.runtime_handler,
            )
        return self._status


class ContainerRecord:
    """One container with its log and, while it runs, whatever drives it."""

    __slots__ = (
        "_attachments",
        "_exec_kills",
        "_exit_waiters",
        "_files",
        "_is_server",
        "_kill_at",
        "_kill_timer",
        "_listed",
        "_log",
        "_process",
        "_status",
        "_stop_signal_sent",
        "_stop_timer",
        "behaviour",
        "config",
        "created_at",
        "exit_code",
        "finished_at",
        "id",
        "image",
        "message",
        "reason",
        "resources",
        "runtime",
        "sandbox",
        "started_at",
        "starting",
        "state",
        "stdin",
        "stdin_closed",
    )

    def __init__(
        self,
        container_id: cri.ContainerID,
        sandbox: SandboxRecord,
        config: cri.ContainerConfig,
        image: cri.Image,
        behaviour: Behaviour,
        created_at: datetime,
        runtime: MemoryRuntime,
    ) -> None:
        self.id = container_id
        self.sandbox = sandbox
        self.config = config
        self.image = image
        self.behaviour = behaviour
        self.created_at = created_at
        self.runtime = runtime
        self.resources = config.resources
        self.state = cri.ContainerState.CREATED
        self.starting = False
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None
        self.exit_code = 0
        self.reason = ""
        self.message = ""
        self.stdin = bytearray()
        self.stdin_closed = not config.stdin
        self._files: Files | None = None
        self._log: ContainerLog | None = None
        self._process: MainProcess | None = None
        self._stop_timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._kill_at = 0.0
        self._stop_signal_sent = False
        self._is_server = False
        self._exit_waiters: list[asyncio.Future[None]] = []
        self._exec_kills: list[Callable[[], None]] = []
        self._attachments: list[Attachment] = []
        self._listed: cri.Container | None = None
        self._status: cri.ContainerStatus | None = None

    @property
    def files(self) -> Files:
        """The files it sees."""
        if self._files is None:
            self._files = Files(self.config.mounts, self.runtime.files_root)
        return self._files

    @property
    def log(self) -> ContainerLog:
        """Its log."""
        if self._log is None:
            self._log = ContainerLog(self.runtime.config.log_max_bytes)
            if self.state is cri.ContainerState.EXITED:
                self._log.closed = True
        return self._log

    @property
    def log_size_bytes(self) -> int:
        """Bytes of its log."""
        return self._log.size_bytes if self._log is not None else 0

    def is_running(self) -> bool:
        """Whether it runs."""
        return self.state is cri.ContainerState.RUNNING

    def get_listed(self) -> cri.Container:
        """As it appears in lists."""
        if self._listed is None:
            config = self.config
            self._listed = cri.Container(
                id=self.id,
                pod_sandbox_id=self.sandbox.id,
                metadata=config.metadata,
                image=config.image,
                image_ref=cri.ImageRef(self.image.repo_digests[0]),
                state=self.state,
                created_at=self.created_at,
                labels=config.labels,
                annotations=config.annotations,
                image_id=self.image.id,
            )
        return self._listed

    def get_status(self) -> cri.ContainerStatus:
        """All about it."""
        if self._status is None:
            config, context = self.config, self.config.security_context
            self._status = cri.ContainerStatus(
                id=self.id,
                metadata=config.metadata,
                state=self.state,
                created_at=self.created_at,
                image=cri.ImageSpec(self.image.repo_tags[0] if self.image.repo_tags else self.image.repo_digests[0]),
                image_ref=cri.ImageRef(self.image.repo_digests[0]),
                started_at=self.started_at,
                finished_at=self.finished_at,
                exit_code=self.exit_code,
                reason=self.reason,
                message=self.message,
                image_id=self.image.id,
                labels=config.labels,
                annotations=config.annotations,
                mounts=config.mounts,
                resources=self.resources,
                user=cri.ContainerUser(
                    context.run_as_user if context.run_as_user is not None else (self.image.uid or 0),
                    context.run_as_group or 0,
                    context.supplemental_groups,
                ),
                stop_signal=config.stop_signal or "SIGTERM",
            )
        return self._status

    def set_resources(self, resources: cri.LinuxContainerResources) -> None:
        """Change its resources."""
        self.resources = resources
        self._status = None

    def drop_log(self) -> None:
        """The container is being removed: end whoever follows its log."""
        if self._log is not None:
            self._log.close(self.runtime.clock.now())

    def make_process(self, argv: tuple[str, ...], *, main: bool = False, tty: bool = False) -> Process:
        """A process inside it."""
        name = self.sandbox.config.hostname or "localhost"
        return Process(
            argv=argv,
            env={"HOSTNAME": name, **self.config.envs},
            files=self.files,
            programs=self.runtime.programs,
            hostname=name,
            cwd=self.config.working_dir or "/",
            tty=tty,
            main=main,
            now=self.runtime.clock.now,
        )

    def start(self, program: Program | None, argv: tuple[str, ...], run_s: float | None) -> None:
        """Run: a program if there is one, else for ``run_s`` seconds, else until stopped."""
        self.state = cri.ContainerState.RUNNING
        self.started_at = max(self.runtime.clock.now(), self.created_at)
        self._listed = self._status = None
        self._is_server = program is None and run_s is None
        self.runtime.publish(self, cri.ContainerEventType.STARTED)
        if program is not None:
            process = self.make_process(argv, main=True, tty=self.config.tty)
            self._process = MainProcess(self, process, program(process))
            self._process.advance()
        elif run_s is not None and run_s <= 0:
            self.end()
        elif run_s is not None:
            self._stop_timer = asyncio.get_running_loop().call_later(run_s, self.end)

    def fail_start(self, message: str) -> None:
        """The process could not be started."""
        self.exit(128, reason="StartError", message=message)

    def end(self) -> None:
        """The container ends by itself, as its behaviour says."""
        self.exit(
            self.behaviour.get_exit_code(self.config.metadata.attempt),
            reason="OOMKilled" if self.behaviour.oom_killed else "",
        )

    def exit(self, code: int, *, reason: str = "", message: str = "") -> None:
        """The first process is gone; whatever waits for that goes on. No effect on one that has exited."""
        if self.state is cri.ContainerState.EXITED:
            return
        if self.behaviour.termination_message and self.started_at is not None:
            self._write_termination_message()
        now = self.runtime.clock.now()
        self.state = cri.ContainerState.EXITED
        self.finished_at = max(now, self.started_at or self.created_at)
        self.exit_code = code
        self.reason = reason or ("Completed" if code == 0 else "Error")
        self.message = message
        self._listed = self._status = None
        for timer in (self._stop_timer, self._kill_timer):
            if timer is not None:
                timer.cancel()
        self._stop_timer = self._kill_timer = None
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._log is not None:
            self._log.close(now)
        for kill in tuple(self._exec_kills):
            kill()
        for attachment in self._attachments:
            attachment.close()
        self._attachments.clear()
        for waiter in self._exit_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._exit_waiters.clear()
        self.runtime.publish(self, cri.ContainerEventType.STOPPED)

    def output(self, data: bytes, *, stderr: bool = False) -> None:
        """The first process wrote something."""
        stderr = stderr and not self.config.tty
        self.log.write(self.runtime.clock.now(), data, stderr=stderr)
        for attachment in self._attachments:
            attachment.put(Write(data, stderr))

    def deliver(self, number: int) -> None:
        """Send a signal to the first process."""
        if not self.is_running():
            return
        if number == SIGKILL:
            self.exit(128 + SIGKILL)
            return
        if self.behaviour.ignore_sigterm:
            return
        code = self.behaviour.sigterm_exit_code
        process = self._process
        if process is not None:
            if number in process.process.traps:
                process.trap(number)
                return
            code = 128 + number if code is None else code
        elif code is None:
            code = 0 if self._is_server else 128 + number
        if self.behaviour.shutdown_s > 0:
            if self._stop_timer is not None:
                self._stop_timer.cancel()
            self._stop_timer = asyncio.get_running_loop().call_later(self.behaviour.shutdown_s, self.exit, code)
        else:
            self.exit(code)

    def stop(self, grace_period_s: float) -> None:
        """Ask the first process to end and kill it when the time has run out; a call with less grace kills sooner."""
        if not self.is_running():
            return
        if grace_period_s <= 0:
            self.deliver(SIGKILL)
            return
        if not self._stop_signal_sent:
            self._stop_signal_sent = True
            self.deliver(self._get_stop_signal())
            if not self.is_running():
                return
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + grace_period_s
        if self._kill_timer is None or kill_at < self._kill_at:
            if self._kill_timer is not None:
                self._kill_timer.cancel()
            self._kill_at = kill_at
            self._kill_timer = loop.call_at(kill_at, self.deliver, SIGKILL)

    async def wait_exited(self) -> None:
        """Return once it no longer runs."""
        if not self.is_running():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exit_waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._exit_waiters:
                self._exit_waiters.remove(waiter)

    def add_exec_kill(self, kill: Callable[[], None]) -> None:
        """Have this called when the container ends, so that what runs in it ends too."""
        self._exec_kills.append(kill)

    def remove_exec_kill(self, kill: Callable[[], None]) -> None:
        """The command has ended."""
        self._exec_kills.remove(kill)

    def attach(self) -> Attachment:
        """Output from now on."""
        attachment = Attachment()
        self._attachments.append(attachment)
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """The client has left."""
        if attachment in self._attachments:
            self._attachments.remove(attachment)

    def feed_stdin(self, data: bytes) -> bool:
        """Hand input to the first process; False when it takes no more for now."""
        if self.stdin_closed:
            return True
        if len(self.stdin) >= MAX_STDIN_BYTES:
            return False
        self.stdin += data
        if self._process is not None:
            self._process.input_ready()
        return True

    def close_stdin(self) -> None:
        """Standard input has ended."""
        self.stdin_closed = True
        if self._process is not None:
            self._process.input_ready()

    def take_stdin(self, max_bytes: int) -> bytes | None:
        """Input for the first process: empty at its end, None if there is none yet."""
        data = bytes(self.stdin[:max_bytes])
        del self.stdin[:max_bytes]
        return data if data or self.stdin_closed else None

    def _get_stop_signal(self) -> int:
        name = self.config.stop_signal
        if not name:
            return SIGTERM
        try:
            return int(name) if name.isdigit() else int(signal.Signals["SIG" + name.upper().removeprefix("SIG")])
        except KeyError:
            return SIGTERM

    def _write_termination_message(self) -> None:
        path = self.config.annotations.get(labels.CONTAINER_TERMINATION_MESSAGE_PATH) or "/dev/termination-log"
        try:
            self.files.write(posixpath.normpath(path), self.behaviour.termination_message.encode())
        except OSError as error:
            logger.warning("Termination message not written", extra={"container": self.id, "error": str(error)})
