"""What the conformance checks need to know of a ``ContainerRuntime``, and the pods they make on it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from vkprovider.api import labels
from vkprovider.errors import NotFoundError
from vkprovider.provider import cri
from vkprovider.provider.capabilities import LogOptions
from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.testing.conformance.checks import CheckSuite, NotOffered, eventually


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that a container runs.

    Attributes:
        command: Entrypoint.
        args: Arguments.
        image: Image, if it is not the subject's.
        annotations: Annotations of the container.
    """

    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    image: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def shell(script: str) -> Workload:
    """A script for ``sh``."""
    return Workload(command=("sh", "-c", script))


FOREVER = shell("trap 'exit 7' TERM; while true; do sleep 0.1; done")
"""Runs until stopped, then exits with 7 at once."""
STUBBORN = shell("trap '' TERM; while true; do sleep 0.1; done")
"""Runs until killed."""


@dataclass(frozen=True, slots=True)
class RuntimeUnderTest:
    """A runtime to be checked. The defaults of the workloads suit an image with a POSIX shell, ``sleep``, ``cat`` and ``test``.

    Attributes:
        runtime: The runtime, connected.
        image: An image that is present or can be pulled.
        labels: Labels put on everything the checks make, e.g. those of ownership.
        forever: Runs until stopped, exits with 7 on SIGTERM.
        stubborn: Runs until killed.
        unstartable: Cannot be started; None if there is no such thing.
        listener: Listens on ``listener_port`` inside its pod; None if there is no such thing.
        listener_port: Where it listens.
        patience_s: Seconds to wait for what should happen soon.
        clock_skew_s: Seconds by which the runtime's clock may differ from ours.
    """

    runtime: ContainerRuntime
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    forever: Workload = FOREVER
    stubborn: Workload = STUBBORN
    unstartable: Workload | None = Workload(command=("/no/such/program",))
    listener: Workload | None = None
    listener_port: int = 8080
    patience_s: float = 20.0
    clock_skew_s: float = 5.0

    def need(self, ability: type[Any]) -> Any:
        """The runtime as one of its optional abilities.

        Raises:
            NotOffered: It does not have it.
        """
        if not isinstance(self.runtime, ability):
            raise NotOffered(f"{type(self.runtime).__name__} is no {ability.__name__}")
        return self.runtime

    async def ensure_image(self, reference: str) -> None:
        """Pull an image unless it is present."""
        spec = cri.ImageSpec(reference)
        if await self.runtime.images.find_image(spec) is None:
            await self.runtime.images.pull_image(spec)

    def make_sandbox_config(self, **changes: Any) -> cri.PodSandboxConfig:
        """Configuration of a sandbox of a pod that nobody else has."""
        uid = str(uuid.uuid4())
        name = f"conformance-{uid[:8]}"
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace="conformance"),
            hostname=name,
            labels={
                **self.labels,
                labels.POD_NAME: name,
                labels.POD_NAMESPACE: "conformance",
                labels.POD_UID: uid,
                "example.com/Label": 'value with blanks, ünïcode and "quotes"',
            },
            annotations={"example.com/annotation": '{"a": [1, "b"]}\nsecond line', "empty": ""},
        )
        return replace(config, **changes)

    @asynccontextmanager
    async def pod(self, **changes: Any) -> AsyncIterator[PodUnderTest]:
        """A pod with a ready sandbox, which is removed at the end with all its attempts."""
        await self.ensure_image(self.image)
        pod = PodUnderTest(self, self.make_sandbox_config(**changes))
        try:
            pod.sandbox_id = await self.runtime.run_pod_sandbox(pod.config)
            yield pod
        finally:
            selector = {labels.POD_UID: pod.config.metadata.uid}
            for sandbox in await self.runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=selector)):
                await self.runtime.remove_pod_sandbox(sandbox.id)


class PodUnderTest:
    """A pod that a check made."""

    def __init__(self, subject: RuntimeUnderTest, config: cri.PodSandboxConfig) -> None:
        self._subject = subject
        self.config = config
        self.sandbox_id = cri.SandboxID("")

    @property
    def uid(self) -> str:
        """The pod's UID."""
        return self.config.metadata.uid

    def make_container_config(
        self, workload: Workload | None = None, *, name: str = "main", attempt: int = 0, **changes: Any
    ) -> cri.ContainerConfig:
        """Configuration of a container; it runs for ever unless a workload is given."""
        work = workload if workload is not None else self._subject.forever
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name, attempt),
            image=cri.ImageSpec(work.image or self._subject.image),
            command=work.command,
            args=work.args,
            labels={**self.config.labels, labels.CONTAINER_NAME: name},
            annotations={
                labels.CONTAINER_RESTART_COUNT: str(attempt),
                labels.CONTAINER_HASH: "1a2b3c",
                "example.com/Json": '{"x": "y"}',
                **work.annotations,
            },
            log_path=f"{name}/{attempt}.log",
        )
        return replace(config, **changes)

    async def create(self, workload: Workload | None = None, **changes: Any) -> cri.ContainerID:
        """A container that is not started."""
        config = self.make_container_config(workload, **changes)
        await self._subject.ensure_image(config.image.image)
        return await self._subject.runtime.create_container(self.sandbox_id, config, self.config)

    async def run(self, workload: Workload | None = None, **changes: Any) -> cri.ContainerID:
        """A container that was started."""
        container_id = await self.create(workload, **changes)
        await self._subject.runtime.start_container(container_id)
        return container_id

    async def wait_exited(self, container_id: cri.ContainerID) -> cri.ContainerStatus:
        """Status of a container once it has exited."""

        async def probe() -> cri.ContainerStatus | None:
            status = await self._subject.runtime.container_status(container_id)
            return status if status.state is cri.ContainerState.EXITED else None

        status: cri.ContainerStatus = await eventually(
            probe, within_s=self._subject.patience_s, what=f"container {container_id} has exited"
        )
        return status

    async def wait_for_log(self, container_id: cri.ContainerID, text: bytes) -> bytes:
        """The log once it holds a text."""

        async def probe() -> bytes:
            log = await self.read_log(container_id)
            return log if text in log else b""

        log: bytes = await eventually(
            probe, within_s=self._subject.patience_s, what=f"the log of {container_id} holds {text!r}"
        )
        return log

    async def read_log(self, container_id: cri.ContainerID, options: LogOptions | None = None) -> bytes:
        """The log of a container."""
        chunks = [chunk async for chunk in self._subject.runtime.container_logs(container_id, options or LogOptions())]
        return b"".join(chunks)

    async def list_ids(self) -> Sequence[cri.ContainerID]:
        """Ids of the pod's containers."""
        selector = {labels.POD_UID: self.uid}
        found = await self._subject.runtime.list_containers(cri.ContainerFilter(label_selector=selector))
        return [item.id for item in found]

    async def is_gone(self, container_id: cri.ContainerID) -> bool:
        """Whether the runtime knows a container no longer."""
        try:
            await self._subject.runtime.container_status(container_id)
        except NotFoundError:
            return True
        return False


RUNTIME_CHECKS: CheckSuite[RuntimeUnderTest] = CheckSuite()
"""All checks of runtimes."""
