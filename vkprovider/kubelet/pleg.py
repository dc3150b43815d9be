"""Pod lifecycle event generator: keeps the pod cache true and tells which pods changed by themselves.

Three sources feed it. What we do ourselves is read back once, right where it is done. The runtime's events name what changed
between; only that is read again. A full relist of ids and states, now and then or every second without events, finds whatever
was missed and decides what is gone. Each id is read by one reader at a time, so an old answer never overwrites a newer one.

Source: pkg/kubelet/pleg/generic.go, pleg/evented.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vkprovider.aio.broadcast import Broadcast
from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import labels, v1
from vkprovider.api.durations import format_duration
from vkprovider.errors import NotFoundError, TransientError, VkproviderError
from vkprovider.kubelet.pod_cache import PodCache
from vkprovider.kubelet.runtime_state import ContainerRecord, make_record
from vkprovider.kubelet.termination_message import TerminationMessageReader
from vkprovider.metrics import KubeletMetrics
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ContainerRuntime, RuntimeEvents

logger = logging.getLogger(__name__)

RELIST_THRESHOLD_S = 180.0
"""A runtime not listed for so long is not healthy. Source: pleg/generic.go and kubelet.go, genericPlegRelistThreshold."""
BLIND_RELIST_PERIOD_S = 1.0
"""Relist period while there are no events. Source: kubelet.go, genericPlegRelistPeriod."""
SETTLING_S = 5.0
"""Seconds after a new subscription in which the runtime is still listed as if there were no events."""
MAX_RESUBSCRIBE_PAUSE_S = 30.0


class PodLifecycleEventGenerator:
    """Follows the runtime.

    Args:
        runtime: The runtime.
        cache: Where what is seen is kept.
        changes: Where UIDs of pods that changed by themselves go.
        clock: Time.
        messages: Reads termination messages.
        selector: Ownership labels: nothing else in the runtime is ours.
        relist_period_s: Seconds between full lists while events flow.
        metrics: What lists are counted into; None for nothing.

    Attributes:
        last_relist_at: Loop time of the last full list, or None before the first.
    """

    def __init__(
        self,
        runtime: ContainerRuntime,
        cache: PodCache,
        changes: Broadcast[v1.PodUID],
        clock: Clock,
        messages: TerminationMessageReader,
        *,
        selector: Mapping[str, str],
        relist_period_s: float,
        metrics: KubeletMetrics | None = None,
    ) -> None:
        self._runtime = runtime
        self._cache = cache
        self._changes = changes
        self._clock = clock
        self._messages = messages
        self._selector = dict(selector)
        self._relist_period_s = relist_period_s
        self._metrics = metrics or KubeletMetrics()
        self._relist_began_at: float | None = None
        self._following_since: float | None = None
        self._relist_wanted = asyncio.Event()
        self._readers: dict[str, _Reader] = {}
        self._own: dict[str, bool] = {}
        self._pods_in_creation: set[str] = set()
        self._refreshes: dict[str, asyncio.Task[None]] = {}
        self._pool = TaskPool("pleg")
        self.last_relist_at: float | None = None

    async def run(self) -> None:
        """Follow the runtime until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if isinstance(self._runtime, RuntimeEvents):
                    group.create_task(self._follow_events(self._runtime), name="pleg:events")
                group.create_task(self._relist_forever(), name="pleg:relist")
        finally:
            await self._pool.aclose()

    # -- Reading the runtime.

    async def relist(self) -> None:
        """List everything of this node, read what is new or changed, drop what is gone, and tell of both.

        Raises:
            TransientError: The runtime did not answer; what was read stays.
        """
        began = self._clock.monotonic()
        if self._relist_began_at is not None:
            self._metrics.pleg_relist_interval.observe(began - self._relist_began_at)
        self._relist_began_at = began
        known = set(self._cache.iter_ids())
        sandboxes, containers = await self._list(self._selector)
        work: list[Awaitable[None]] = []
        for sandbox in sandboxes:
            cached = self._cache.find_sandbox(sandbox.id)
            if cached is None or cached.state is not sandbox.state:
                work.append(self._notice_sandbox(sandbox.id))
        for container in containers:
            record = self._cache.find_container(container.id)
            if record is None or record.state is not container.state:
                work.append(self._notice_container(container.id, container.pod_sandbox_id))
        # What was not known before the list may have been made after it.
        listed = {sandbox.id for sandbox in sandboxes} | {container.id for container in containers}
        work += [self._notice(id) for id in known - listed if self._cache.find_owner(id) is not None]
        await _gather(work)
        self.last_relist_at = self._clock.monotonic()
        self._metrics.pleg_relist_duration.observe(self.last_relist_at - began)
        self._metrics.pleg_last_seen.set(self._clock.now().timestamp())

    async def relist_pod(self, uid: v1.PodUID) -> None:
        """Read everything of one pod anew, after something of unknown outcome was done to it. Tells nobody.

        Raises:
            TransientError: The runtime did not answer.
        """
        known = self._cache.get(uid)
        sandboxes, containers = await self._list({**self._selector, labels.POD_UID: uid})
        work: list[Awaitable[object]] = [self.fetch_sandbox(sandbox.id) for sandbox in sandboxes]
        work += [self.fetch_container(container.id, container.pod_sandbox_id) for container in containers]
        await _gather([_ignore_missing(item) for item in work])
        listed = {sandbox.id for sandbox in sandboxes} | {container.id for container in containers}
        for id in {*(s.id for s in known.sandboxes), *(c.id for c in known.containers)} - listed:
            self._cache.drop(id)

    async def fetch_sandbox(self, sandbox_id: cri.SandboxID) -> cri.PodSandboxStatus:
        """Read a sandbox into the cache.

        Raises:
            NotFoundError: It is gone; the cache has dropped it.
            TransientError: The runtime did not answer.
        """
        reader = await self._begin_reading(sandbox_id)
        try:
            status = await self._runtime.pod_sandbox_status(sandbox_id)
            self._cache.put_sandbox(status)
            return status
        except NotFoundError:
            self._cache.drop(sandbox_id)
            raise
        finally:
            self._end_reading(sandbox_id, reader)

    async def fetch_container(self, container_id: cri.ContainerID, sandbox_id: cri.SandboxID) -> ContainerRecord:
        """Read a container into the cache, with its termination message once it has exited.

        Raises:
            NotFoundError: It is gone; the cache has dropped it.
            TransientError: The runtime did not answer.
        """
        reader = await self._begin_reading(container_id)
        try:
            while True:
                if container_id in self._own:
                    self._own[container_id] = False
                status = await self._runtime.container_status(container_id)
                if status.state is not cri.ContainerState.RUNNING or not self._own.get(container_id):
                    break
                # It ended after the question was asked, and its event was held back for us.
            message = ""
            if status.state is cri.ContainerState.EXITED:
                known = self._cache.find_container(container_id)
                if known is not None and known.state is cri.ContainerState.EXITED:
                    return known
                message = await self._messages.read(status)
            record = make_record(status, sandbox_id, termination_message=message)
            self._cache.put_container(record, status.labels)
            return record
        except NotFoundError:
            self._cache.drop(container_id)
            raise
        finally:
            self._end_reading(container_id, reader)

    # -- What we do ourselves.

    @contextlib.contextmanager
    def acting_on(self, id: str) -> Iterator[None]:
        """While we act on a container or sandbox its events say nothing new; who acts reads it back before leaving."""
        self._own[id] = False
        try:
            yield
        finally:
            ended = self._own.pop(id, False)
            if ended and self._seems_running(id):
                self._refresh_soon(id)

    @contextlib.contextmanager
    def creating_sandbox_of(self, uid: str) -> Iterator[None]:
        """While a pod's sandbox is being made, events with unknown ids of that pod are about it."""
        self._pods_in_creation.add(uid)
        try:
            yield
        finally:
            self._pods_in_creation.discard(uid)

    def check_health(self) -> None:
        """Say whether the runtime has been listed lately.

        Raises:
            TransientError: It has not; the message is the kubelet's.
        """
        if self.last_relist_at is None:
            raise TransientError("PLEG is not healthy: pleg has yet to be successful", reason="PLEGNotHealthy")
        elapsed = self._clock.monotonic() - self.last_relist_at
        if elapsed > RELIST_THRESHOLD_S:
            raise TransientError(
                f"PLEG is not healthy: pleg was last seen active {format_duration(round(elapsed, 3))} ago; "
                f"threshold is {format_duration(RELIST_THRESHOLD_S)}",
                reason="PLEGNotHealthy",
            )

    # -- Following.

    async def _relist_forever(self) -> None:
        while True:
            since = self._following_since
            followed = since is not None and self._clock.monotonic() - since > SETTLING_S
            period_s = self._relist_period_s if followed else min(BLIND_RELIST_PERIOD_S, self._relist_period_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._relist_wanted.wait()
            self._relist_wanted.clear()
            try:
                await self.relist()
            except VkproviderError as error:
                logger.warning("Cannot list the runtime", extra={"error": str(error)})
            except Exception:
                logger.exception("Listing the runtime failed, trying again")

    async def _follow_events(self, runtime: RuntimeEvents) -> None:
        pause_s = 1.0
        while True:
            try:
                # What happened before the subscription took hold is found by the lists made in its first seconds.
                self._following_since = self._clock.monotonic()
                self._relist_wanted.set()
                async for event in runtime.container_events(self._selector):
                    pause_s = 1.0
                    self._handle_event(event)
                logger.info("The runtime ended its events, subscribing again")
            except VkproviderError as error:
                logger.warning("Lost the runtime's events, subscribing again", extra={"error": str(error)})
            except Exception:
                logger.exception("Following the runtime's events failed, subscribing again")
            self._following_since = None
            self._relist_wanted.set()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_RESUBSCRIBE_PAUSE_S)

    def _handle_event(self, event: cri.ContainerEvent) -> None:
        id, kind = event.container_id, event.type
        if kind is cri.ContainerEventType.CREATED:
            return
        if kind is cri.ContainerEventType.DELETED:
            if id not in self._own and (uid := self._cache.drop(id)) is not None:
                self._changes.publish(uid)
            return
        if id in self._own:
            if kind is cri.ContainerEventType.STOPPED:
                self._own[id] = True
            return
        if self._cache.find_owner(id) is None:
            if event.pod_uid in self._pods_in_creation:
                return
            # A container of ours that we have not heard of: left from an action whose outcome we never learned.
            self._relist_wanted.set()
            return
        if self._seems_running(id) is not (kind is cri.ContainerEventType.STARTED):
            self._refresh_soon(id)

    def _seems_running(self, id: str) -> bool:
        container, sandbox = self._cache.find_container(id), self._cache.find_sandbox(id)
        return (container is not None and container.is_running) or (
            sandbox is not None and sandbox.state is cri.SandboxState.READY
        )

    def _refresh_soon(self, id: str) -> None:
        if id not in self._refreshes:
            task = self._pool.spawn(self._refresh(id), name=f"refresh-{id[:12]}")
            self._refreshes[id] = task
            task.add_done_callback(lambda _: self._refreshes.pop(id, None))

    async def _refresh(self, id: str) -> None:
        try:
            await self._notice(id)
        except VkproviderError as error:
            logger.warning("Cannot read what changed, leaving it to the relist", extra={"id": id, "error": str(error)})
            self._relist_wanted.set()

    async def _notice(self, id: str) -> None:
        record = self._cache.find_container(id)
        if record is not None:
            await self._notice_container(record.id, record.sandbox_id)
        else:
            await self._notice_sandbox(cri.SandboxID(id))

    async def _notice_container(self, id: cri.ContainerID, sandbox_id: cri.SandboxID) -> None:
        before = self._cache.find_container(id)
        uid = self._cache.find_owner(id)
        with contextlib.suppress(NotFoundError):
            await self.fetch_container(id, sandbox_id)
        after = self._cache.find_container(id)
        if before is None or after is None or before.state is not after.state:
            self._publish(uid or self._cache.find_owner(id))

    async def _notice_sandbox(self, id: cri.SandboxID) -> None:
        before = self._cache.find_sandbox(id)
        uid = self._cache.find_owner(id)
        with contextlib.suppress(NotFoundError):
            await self.fetch_sandbox(id)
        after = self._cache.find_sandbox(id)
        if before is None or after is None or before.state is not after.state:
            self._publish(uid or self._cache.find_owner(id))

    def _publish(self, uid: v1.PodUID | None) -> None:
        if uid:
            self._changes.publish(uid)

    async def _list(self, selector: Mapping[str, str]) -> tuple[Sequence[cri.PodSandbox], Sequence[cri.Container]]:
        return await asyncio.gather(
            self._runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=selector)),
            self._runtime.list_containers(cri.ContainerFilter(label_selector=selector)),
        )

    async def _begin_reading(self, id: str) -> _Reader:
        """Wait for the turn to read this id."""
        reader = self._readers.get(id)
        if reader is None:
            reader = self._readers[id] = _Reader()
        reader.users += 1
        try:
            await reader.lock.acquire()
        except BaseException:
            self._leave(id, reader)
            raise
        return reader

    def _end_reading(self, id: str, reader: _Reader) -> None:
        reader.lock.release()
        self._leave(id, reader)

    def _leave(self, id: str, reader: _Reader) -> None:
        reader.users -= 1
        if not reader.users:
            del self._readers[id]


@dataclass(slots=True)
class _Reader:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


async def _ignore_missing(work: Awaitable[object]) -> None:
    with contextlib.suppress(NotFoundError):
        await work


async def _gather(work: list[Awaitable[None]]) -> None:
    """Do it all, then fail with the first error, so that one bad record does not hide the others."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
