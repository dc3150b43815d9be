"""What the API server wants of this node: its pods and its own Node object.

A kopf operator embedded in the process is the watch engine; this is the only module with kopf handlers. Its selectors are applied by
the server, so that it lists and watches only the pods bound to this node and the node itself. Handlers see raw events; nothing is
ever written on an object. A watch may lose deletions (a re-list after a gap shows only what still exists), so the source also lists by
itself, in full, at the start and about every half minute, and at once after kopf had to list anew.

The operator runs in our own event loop. It is started by ``kopf.spawn_tasks`` and stopped here, since ``kopf.run_tasks`` would cancel
every task that was started after it, ours included.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import aiohttp
import kopf

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api import v1
from vkprovider.errors import TransientError, VkproviderError
from vkprovider.kube.credentials import Credentials
from vkprovider.kube.pods import PodClient, PodList, strip_managed_fields

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
_MAX_FAILURES_IN_ROW = 10
_STOP_TIMEOUT_S = 10.0


class PodSink(Protocol):
    """Who wants to know the pods of this node. All calls are plain and quick."""

    def handle_pod(self, pod: v1.Pod) -> None:
        """A pod exists and looks like this now; may repeat, and may come late (compare resource versions)."""
        ...

    def handle_pod_deleted(self, pod: v1.Pod) -> None:
        """A pod is gone from the API server; this is how it looked last."""
        ...

    def handle_pod_list(self, pods: Sequence[v1.Pod], *, listed_at: float) -> None:
        """All pods there are.

        Args:
            pods: The pods, oldest first.
            listed_at: Loop time when the list was asked for: what was seen since may be missing in it.
        """
        ...


class NodeSink(Protocol):
    """Who wants to know changes of this node's Node object."""

    def handle_node(self, node: v1.Node) -> None:
        """The Node object exists and looks like this now."""
        ...

    def handle_node_deleted(self, node: v1.Node) -> None:
        """The Node object was deleted."""
        ...


class _EndlessBackoff:
    """Pauses between tries of a request of kopf's, for ever: an API server that is down for an hour must not end the node."""

    def __iter__(self) -> Iterator[float]:
        pause_s = _RETRY_S
        while True:
            yield pause_s * random.uniform(0.8, 1.2)  # noqa: S311
            pause_s = min(pause_s * 2, _MAX_RETRY_S)


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps kopf from copying every object in full to find what changed: raw-event handlers do not ask for it."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Raw-event handlers have no progress to keep; saves a copy of every object."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        return None

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        return None

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class PodSource:
    """Feeds pods and the own Node object to those who act on them.

    Args:
        credentials: Shared with the rest of the process.
        pods: Client for full lists.
        node_name: Name of the node.
        pod_sink: Who gets the pods.
        node_sink: Who gets the Node object.
        list_period_s: Seconds between full lists.
    """

    def __init__(
        self,
        credentials: Credentials,
        pods: PodClient,
        *,
        node_name: str,
        pod_sink: PodSink,
        node_sink: NodeSink,
        list_period_s: float = 30.0,
    ) -> None:
        self._credentials = credentials
        self._pods = pods
        self._node_name = node_name
        self._pod_sink = pod_sink
        self._node_sink = node_sink
        self._list_period_s = list_period_s
        self._list_now = asyncio.Event()
        self._sessions: list[aiohttp.ClientSession] = []
        self._events_seen = 0
        self.ready = asyncio.Event()
        """Set once the first full list has been handed on: from now on, what is not known does not exist."""

    async def run(self) -> None:
        """List and watch until cancelled.

        Raises:
            VkproviderError: The watch engine failed again and again without seeing anything in between.
        """
        await self._list_first()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._list_forever(), name="pod-source:list")
            group.create_task(self._watch_forever(), name="pod-source:watch")

    async def list_pods(self) -> PodList:
        """A full, fresh list, handed on as well.

        Raises:
            KubeAPIError: The server refused.
            TransientError: The server did not answer.
        """
        listed_at = asyncio.get_running_loop().time()
        pods = await self._pods.list_on_node(self._node_name)
        pods.items.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""))
        self._pod_sink.handle_pod_list(pods.items, listed_at=listed_at)
        self.ready.set()
        return pods

    async def _list_first(self) -> None:
        pause_s = _RETRY_S
        while True:
            try:
                await self.list_pods()
                return
            except VkproviderError as error:
                logger.warning(
                    "Pods of this node cannot be listed", extra={"error": str(error), "retry_after_s": pause_s}
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_RETRY_S)

    async def _list_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._list_period_s * random.uniform(0.9, 1.1)):  # noqa: S311
                    await self._list_now.wait()
                # What kopf lists comes one by one: let it all come, then look for what is missing.
                await asyncio.sleep(1.0)
            except TimeoutError:
                pass
            self._list_now.clear()
            try:
                await self.list_pods()
            except VkproviderError as error:
                logger.warning("Pods of this node cannot be listed", extra={"error": str(error)})

    async def _watch_forever(self) -> None:
        failures, pause_s = 0, _RETRY_S
        while True:
            seen_before = self._events_seen
            try:
                await self._run_operator()
            except Exception as error:
                if self._events_seen > seen_before:
                    failures, pause_s = 0, _RETRY_S
                failures += 1
                if failures >= _MAX_FAILURES_IN_ROW:
                    raise TransientError(f"the watch of this node's pods keeps failing: {error}") from error
                logger.warning(
                    "The watch failed and is started again", extra={"retry_after_s": pause_s}, exc_info=error
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_RETRY_S)

    async def _run_operator(self) -> None:
        """One life of the kopf operator: until cancelled or failed."""
        stop_flag = asyncio.Event()
        with _signal_handlers_kept():
            tasks = await kopf.spawn_tasks(
                registry=self._make_registry(),
                settings=self._make_settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=stop_flag,
            )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            raise TransientError("the watch engine stopped by itself")
        finally:
            stop_flag.set()
            await asyncio.shield(asyncio.create_task(self._stop_operator(tasks), name="pod-source:stop"))

    async def _stop_operator(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=_STOP_TIMEOUT_S)
        await cancel_and_wait(task for task in pending if not task.done())
        await _close_watches()
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            await session.close()

    def _make_settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.process.ultimate_exiting_timeout = None
        # A worker task per object lives only as long as its events come in quick succession.
        settings.queueing.idle_timeout = 0.5
        settings.queueing.exit_timeout = 1.0
        settings.queueing.error_delays = (1, 1, 2, 3, 5)
        settings.watching.reconnect_backoff = 0.1
        settings.networking.connect_timeout = 10.0
        settings.networking.request_timeout = 60.0
        settings.networking.error_backoffs = _EndlessBackoff()
        settings.persistence.diffbase_storage = _NoDiffBase()
        settings.persistence.progress_storage = _NoProgress()
        settings.watching.field_selectors["", "v1", "pods"] = f"spec.nodeName={self._node_name}"
        settings.watching.field_selectors["", "v1", "nodes"] = f"metadata.name={self._node_name}"
        return settings

    def _make_registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="credentials", errors=kopf.ErrorsMode.TEMPORARY, backoff=5.0)(self._login)
        kopf.on.event("", "v1", "pods", registry=registry, id="pod")(self._on_pod)
        kopf.on.event("", "v1", "nodes", registry=registry, id="node")(self._on_node)
        return registry

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        # Asked again only when the server refused the last session, so what it stood on is read anew. A server that refuses everything
        # must not be asked in a tight loop.
        if self._sessions:
            await asyncio.sleep(_RETRY_S)
            await self._credentials.invalidate()
            self._sessions = [session for session in self._sessions if not session.closed]
        session = self._credentials.create_session()
        self._sessions.append(session)
        return kopf.AiohttpSession(server=self._credentials.server, aiohttp_session=session)

    async def _on_pod(self, event: Mapping[str, Any], **_: Any) -> None:
        self._events_seen += 1
        pod = strip_managed_fields(cast(v1.Pod, event["object"]))
        kind = event["type"]
        if kind == "DELETED":
            self._pod_sink.handle_pod_deleted(pod)
            return
        if kind is None:
            self._list_now.set()
        self._pod_sink.handle_pod(pod)

    async def _on_node(self, event: Mapping[str, Any], **_: Any) -> None:
        self._events_seen += 1
        node = cast(v1.Node, event["object"])
        if event["type"] == "DELETED":
            self._node_sink.handle_node_deleted(node)
        else:
            self._node_sink.handle_node(node)


async def _close_watches() -> None:
    """See off what kopf's watches leave behind when they are cancelled while they hand on an event.

    Their generators close when they are collected, and only then let go of their helper tasks.
    """
    for attempt in range(3):
        for _ in range(5):
            await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith("pause-waiter for ")]
        if not left:
            return
        if attempt == 0:
            gc.collect()
        else:
            await cancel_and_wait(left)


class _signal_handlers_kept:
    """While it is open, kopf's attempt to take over SIGINT and SIGTERM has no effect; they belong to the program."""

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        original = loop.add_signal_handler

        def add_signal_handler(number: int, callback: Callable[..., object], *args: object) -> None:
            if not isinstance(getattr(callback, "__self__", None), asyncio.Future):
                original(number, callback, *args)

        loop.add_signal_handler = add_signal_handler  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        if "add_signal_handler" in vars(loop):
            del loop.add_signal_handler
