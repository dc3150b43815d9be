"""What the conformance checks need to know of a ``PodProvider``, and how they drive a pod through it as a node would."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.errors import InvalidPodError, VkproviderError
from vkprovider.provider.pod_provider import NodeContext, PodContext, PodProvider, ProviderPod, SyncResult
from vkprovider.testing.builders import make_container, make_pod
from vkprovider.testing.conformance.checks import CheckSuite, ConformanceFailure, NotOffered
from vkprovider.testing.conformance.runtime import FOREVER, STUBBORN, Workload, shell
from vkprovider.testing.contexts import Recording, make_node_context, make_pod_context

A = TypeVar("A")
_LONGEST_PAUSE_S = 0.2
"""A node waits for ``pod_changes`` or a requeue; the checks look more often than either may come."""


@dataclass(frozen=True, slots=True)
class ProviderUnderTest:
    """A provider to be checked. The defaults of the workloads suit an image with a POSIX shell.

    Attributes:
        provider: The provider; ``start`` has been called with ``node``.
        image: Image of the pods' containers.
        node: The node it serves.
        forever: Runs until stopped, exits with 7 on SIGTERM.
        stubborn: Runs until killed; None if there is no such thing.
        restart: Gives another provider object for the same backend, started, as after a restart of the node's process; None if
            the backend does not outlive the process.
        restarts_containers: Whether it honours ``restartPolicy: Always``.
        patience_s: Seconds to wait for what should happen soon.
    """

    provider: PodProvider
    image: str = "busybox:1.36"
    node: NodeContext = field(default_factory=make_node_context)
    forever: Workload = FOREVER
    stubborn: Workload | None = STUBBORN
    restart: Callable[[], Awaitable[PodProvider]] | None = None
    restarts_containers: bool = True
    patience_s: float = 20.0

    def need(self, ability: type[A]) -> A:
        """One of the provider's optional abilities.

        Raises:
            NotOffered: It does not have it.
        """
        found = self.provider.find_capability(ability)
        if found is None:
            raise NotOffered(f"{type(self.provider).__name__} has no {ability.__name__}")
        return found

    def make_pod(self, workload: Workload | None = None, **fields: Any) -> v1.Pod:
        """A pod with one container, ``main``, that nobody else has; it runs for ever unless a workload is given."""
        work = workload if workload is not None else self.forever
        container = make_container(
            "main", work.image or self.image, command=work.command, args=work.args, imagePullPolicy="IfNotPresent"
        )
        arguments = {
            "name": f"conformance-{uuid.uuid4().hex[:8]}",
            "namespace": "conformance",
            "node_name": self.node.node_name,
            "containers": [container],
            "annotations": dict(work.annotations) or None,
            "automountServiceAccountToken": False,
            "grace_period_s": 5,
            **fields,
        }
        return make_pod(**arguments)

    @asynccontextmanager
    async def pod(self, workload: Workload | None = None, **fields: Any) -> AsyncIterator[PodDriver]:
        """A pod that the provider has not seen yet; at the end it is terminated and cleaned up."""
        driver = PodDriver(self, self.make_pod(workload, **fields))
        try:
            yield driver
        finally:
            await driver.dispose()


class PodDriver:
    """Calls a provider for one pod as a node does: phase by phase, with the newest status, trying again after errors.

    Attributes:
        pod: The pod.
        status: Newest status the provider gave.
        recording: Events and intermediate statuses.
    """

    def __init__(self, subject: ProviderUnderTest, pod: v1.Pod) -> None:
        self._subject = subject
        self.provider = subject.provider
        self.pod = pod
        self.status: v1.PodStatus = {}
        self.recording = Recording()

    @property
    def uid(self) -> v1.PodUID:
        """The pod's UID."""
        return get_uid(self.pod)

    def make_context(self) -> PodContext:
        """A context with the newest status."""
        context, _ = make_pod_context(self._subject.node, previous_status=self.status, recording=self.recording)
        return context

    async def sync(self) -> SyncResult:
        """One sync; what may be tried again counts as a sync without a status."""
        try:
            result = await self.provider.sync_pod(self.pod, self.make_context())
        except InvalidPodError:
            raise
        except VkproviderError:
            return SyncResult()
        self._take(result)
        return result

    async def sync_until(self, wanted: Callable[[SyncResult], Any], what: str) -> SyncResult:
        """Sync until a result is as wanted.

        Raises:
            ConformanceFailure: It did not become so in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._subject.patience_s
        while True:
            result = await self.sync()
            if wanted(result):
                return result
            if loop.time() >= deadline:
                raise ConformanceFailure(f"{what}: not within {self._subject.patience_s:g} s; status: {self.status!r}")
            await asyncio.sleep(min(_LONGEST_PAUSE_S, result.requeue_after_s or _LONGEST_PAUSE_S))

    async def run(self) -> v1.ContainerStatus:
        """Sync until the container runs; its status."""
        await self.sync_until(lambda _: "running" in self.state, "the container runs")
        return self.container

    @property
    def container(self) -> v1.ContainerStatus:
        """Status of the pod's container; empty if there is none."""
        statuses = self.status.get("containerStatuses") or []
        return next((item for item in statuses if item.get("name") == "main"), v1.ContainerStatus())

    @property
    def state(self) -> v1.ContainerState:
        """State of the pod's container; empty if there is none."""
        return self.container.get("state") or {}

    async def terminate(self, grace_period_s: int = 5) -> v1.PodStatus:
        """Terminate, trying again after errors.

        Raises:
            ConformanceFailure: It did not work in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._subject.patience_s + grace_period_s
        while True:
            try:
                context = self.make_context()
                self._take(await self.provider.terminate_pod(self.pod, context, grace_period_s=grace_period_s))
                return self.status
            except VkproviderError as error:
                if loop.time() >= deadline:
                    raise ConformanceFailure(f"terminate_pod fails again and again: {error}") from error
                await asyncio.sleep(_LONGEST_PAUSE_S)

    async def find_listed(self) -> ProviderPod | None:
        """The pod as the provider lists it."""
        for item in await self.provider.list_pods():
            if item.pod["metadata"].get("uid") == self.uid:
                return item
        return None

    async def get_status(self) -> v1.PodStatus | None:
        """The pod's status as the provider sees it now."""
        return await self.provider.get_pod_status(self.pod, self.make_context())

    async def dispose(self) -> None:
        """Take the pod away."""
        await self.terminate(1)
        await self.provider.cleanup_pod(self.uid)

    def _take(self, result: SyncResult) -> None:
        if result.status is not None:
            self.status = result.status


def exits(code: int) -> Workload:
    """A workload that exits at once."""
    return shell(f"exit {code}")


PROVIDER_CHECKS: CheckSuite[ProviderUnderTest] = CheckSuite()
"""All checks of providers."""
