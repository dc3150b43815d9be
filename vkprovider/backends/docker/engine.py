"""Operations on the engine that sandboxes and containers share: create once, start, kill, wait, remove, list.

What a caller began and then abandoned (it was cancelled) still happens on the engine. Such calls are remembered, and lists
and stops wait for them, so that a container in the middle of being made is never overlooked.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast
from urllib.parse import quote

import docker
import docker.errors

from vkprovider.aio.tasks import TaskPool
from vkprovider.backends.docker import naming
from vkprovider.backends.docker.client import EngineClient
from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.errors import EngineRefusal, engine_errors
from vkprovider.backends.docker.limiter import PriorityLimiter
from vkprovider.backends.docker.probe import probe_negative_oom_score
from vkprovider.backends.docker.spec import EngineFeatures
from vkprovider.errors import ConflictError, NotFoundError, PodSyncError, TransientError

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Finishing what has begun goes before beginning more: pods become ready one after the other instead of all at the end.
PRIORITY_REMOVE = 0
PRIORITY_CONTAINER = 1
PRIORITY_SANDBOX = 2

_ABANDONED_WAIT_S = 30.0
_NAME_TRIES = 12
_MIN_PARALLEL_STARTS = 4
_STARTS_PER_CORE = 2
_CALLS_KEPT_FREE = 4


class Engine:
    """One engine as the other parts use it.

    Args:
        client: Connections to the engine.
        config: Settings of the backend.
    """

    def __init__(self, client: EngineClient, config: DockerConfig) -> None:
        self.client = client
        self.config = config
        self.features = EngineFeatures()
        self.tasks = TaskPool("docker")
        self.limiter = PriorityLimiter(choose_parallel_starts(config, cores=1))
        self._under_way: dict[str, asyncio.Task[Any]] = {}
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._negative_oom_score: bool | None = None
        self._probing = asyncio.Lock()

    def learn(self, features: EngineFeatures, *, cores: int) -> None:
        """Take over what the engine told about itself. Safe to repeat.

        Args:
            features: What it can do.
            cores: Cores of its host.
        """
        possible = self.features.negative_oom_score if self.knows_oom_score() else features.negative_oom_score
        self.features = replace(features, negative_oom_score=possible)
        if not self._under_way:  # who holds a slot of the old one gives it back there
            self.limiter = PriorityLimiter(choose_parallel_starts(self.config, cores=cores))

    def knows_oom_score(self) -> bool:
        """Whether it has been found out if containers may have a negative OOM score."""
        return self._negative_oom_score is not None

    async def learn_oom_score(self, image: str) -> None:
        """Find out, once, whether containers may have a negative OOM score; a trial container tells.

        Args:
            image: Image for the trial, present on the engine.

        Raises:
            TransientError: The engine did not answer.
        """
        if self.knows_oom_score():
            return
        async with self._probing:
            if self.knows_oom_score():
                return
            possible = await probe_negative_oom_score(self.client, image)
            self.features = replace(self.features, negative_oom_score=possible)
            self._negative_oom_score = possible
        if not possible:
            logger.warning(
                "The engine cannot give containers a negative OOM score (it may lack CAP_SYS_RESOURCE): sandboxes and"
                " guaranteed pods run with 0 and are killed sooner when memory runs out"
            )

    async def mutate(
        self,
        function: Callable[[docker.APIClient], T],
        *,
        key: str,
        doing: str,
        reason: str | None = None,
        priority: int = PRIORITY_CONTAINER,
    ) -> T:
        """Run a call that changes a container; it goes on to its end even if the caller is cancelled.

        Args:
            function: Gets the SDK's client.
            key: Id or name of the container; ``settle`` waits for it.
            doing: What is tried, as in ``failed to <doing>``.
            reason: For a step of a pod: the kubelet's reason for its failure.
            priority: Which of those that wait goes first; low first.
        """
        async with self.limiter.slot(priority):
            task = self.tasks.spawn(self._guarded(function, doing=doing, reason=reason), name=doing)
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
            try:
                result, error = await asyncio.shield(task)
            except asyncio.CancelledError:
                if not task.done():
                    self._abandoned.add(task)
                raise
        if error is not None:
            raise error
        return cast(T, result)

    async def _guarded(
        self, function: Callable[[docker.APIClient], T], *, doing: str, reason: str | None
    ) -> tuple[T | None, Exception | None]:
        # The error travels as a value: if nobody waits any more it is nobody's, not a failed background task.
        try:
            return await self.client.call(function, doing=doing, reason=reason), None
        except Exception as error:
            return None, error

    def _forget(self, key: str, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if self._under_way.get(key) is task:
            del self._under_way[key]

    async def settle(self, key: str | None = None) -> None:
        """Wait until the change under way of one container has ended, or all changes whose callers have gone.

        Raises:
            TransientError: It took too long.
        """
        tasks = set(self._abandoned) if key is None else {t for k, t in self._under_way.items() if k == key}
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=_ABANDONED_WAIT_S)
        if pending:
            raise TransientError(f"the engine is still busy with: {', '.join(t.get_name() for t in pending)}")

    async def create(
        self,
        name: str,
        body: Mapping[str, Any],
        *,
        doing: str,
        reason: str,
        priority: int,
        is_ours: Callable[[Mapping[str, Any]], bool],
    ) -> tuple[str, bool]:
        """Create a container under a name that makes it unique, or adopt the one that bears the name already.

        Args:
            name: Name of the container.
            body: What to create.
            doing: What is tried, as in ``failed to <doing>``.
            reason: The kubelet's reason for a failure.
            priority: Which of those that wait goes first.
            is_ours: Whether an existing container (its inspection) of the right owner and identity may be adopted; else
                it is removed if it is dead.

        Returns:
            The container's id and whether it existed before.

        Raises:
            PodSyncError: Refused, or the name belongs to something that is not ours.
            NotFoundError: The image, or another thing that the container needs, is not there.
            TransientError: The engine did not answer.

        Source: cri-dockerd core/sandbox_helpers.go, recoverFromCreationConflictIfNeeded.
        """
        document = dict(body)
        for attempt in range(_NAME_TRIES):
            answer = await self.mutate(
                lambda sdk: _create(sdk, document, name), key=name, doing=doing, reason=reason, priority=priority
            )
            if answer is None:
                existing = await self.find(name)
                if existing is None:
                    # Taken, yet not there: being made or being removed by another call at this moment.
                    await asyncio.sleep(min(0.05 * 2**attempt, 1.0) * random.uniform(0.5, 1.0))  # noqa: S311
                    continue
                if await self._adopt_or_remove(existing, document["Labels"], name, is_ours, doing=doing, reason=reason):
                    return str(existing["Id"]), True
                continue
            for warning in answer.get("Warnings") or ():
                logger.debug("The engine warns", extra={"container": name, "warning": warning})
            return str(answer["Id"]), False
        raise TransientError(f"failed to {doing}: the container name {name!r} stays in use on the engine")

    async def _adopt_or_remove(
        self,
        existing: Mapping[str, Any],
        expected_labels: Mapping[str, str],
        name: str,
        is_ours: Callable[[Mapping[str, Any]], bool],
        *,
        doing: str,
        reason: str,
    ) -> bool:
        """Whether the existing container can be adopted; a dead one of ours that cannot be is removed."""
        difference = naming.find_foreign_owner(expected_labels, existing["Config"].get("Labels"))
        if difference is not None:
            raise PodSyncError(
                f"failed to {doing}: the engine has another container named {name!r}: {difference}", reason=reason
            )
        if is_ours(existing):
            logger.info("Adopting an existing container", extra={"container": name, "id": existing["Id"]})
            return True
        if existing["State"].get("Running"):
            raise PodSyncError(
                f"failed to {doing}: container {name!r} ({existing['Id']}) of an earlier attempt still runs",
                reason=reason,
            )
        logger.info("Removing a dead container whose name is needed", extra={"container": name, "id": existing["Id"]})
        await self.remove(existing["Id"])
        return False

    async def start(self, container_id: str, *, doing: str, reason: str, priority: int) -> None:
        """Start a container; one that runs is success."""
        await self.mutate(
            lambda sdk: sdk.start(container_id), key=container_id, doing=doing, reason=reason, priority=priority
        )

    async def find(self, container_id: str) -> dict[str, Any] | None:
        """Inspection of a container by id or name; None if there is none."""
        try:
            return await self.inspect(container_id)
        except NotFoundError:
            return None

    async def inspect(self, container_id: str) -> dict[str, Any]:
        """Inspection of a container by id or name.

        Raises:
            NotFoundError: No such container.
            TransientError: The engine did not answer.
        """
        return await self.client.call(
            lambda sdk: sdk.inspect_container(container_id), doing=f"inspect container {container_id!r}"
        )

    async def list(self, label_filter: list[str], *, running: bool = False) -> list[dict[str, Any]]:
        """Containers with these labels, waiting first for what is being made.

        Raises:
            TransientError: The engine did not answer.
        """
        await self.settle()
        filters: dict[str, Any] = {"label": label_filter}
        if running:
            filters["status"] = ["running", "paused", "restarting"]
        return await self.client.call(lambda sdk: sdk.containers(all=True, filters=filters), doing="list containers")

    async def kill(self, container_id: str, signal: str) -> bool:
        """Send a signal to the first process of a container.

        Returns:
            Whether it was sent; False if the container does not run or does not exist.
        """
        try:
            await self.client.call(
                lambda sdk: sdk.kill(container_id, signal=signal), doing=f"send {signal} to container {container_id!r}"
            )
        except (NotFoundError, ConflictError):
            return False
        return True

    async def wait_stopped(self, container_id: str) -> None:
        """Wait until a container does not run; an unknown one does not. Holds no thread.

        Raises:
            TransientError: The engine was lost.
        """
        await self._wait(container_id, "not-running")

    async def _wait(self, container_id: str, condition: str) -> None:
        with engine_errors(f"wait for container {container_id!r}"):
            try:
                await self.client.request(
                    "POST", f"/containers/{quote(container_id)}/wait", params={"condition": condition}, timeout_s=None
                )
            except EngineRefusal as error:
                if error.status != 404:
                    raise

    async def remove(self, container_id: str) -> None:
        """Remove a container with its anonymous volumes, killing it if it runs; an unknown one is success.

        Raises:
            TransientError: The engine did not answer.
        """
        try:
            await self.mutate(
                lambda sdk: sdk.remove_container(container_id, v=True, force=True),
                key=container_id,
                doing=f"remove container {container_id!r}",
                priority=PRIORITY_REMOVE,
            )
        except NotFoundError:
            return
        except ConflictError:
            # Being removed by another call already: gone when that has ended.
            async with asyncio.timeout(_ABANDONED_WAIT_S):
                await self._wait(container_id, "removed")

    async def aclose(self) -> None:
        """End background work."""
        await self.tasks.aclose()


def choose_parallel_starts(config: DockerConfig, *, cores: int) -> int:
    """How many changes of containers to have under way at once.

    Starting a container is work for the processor. Measured on two cores, four at once give the most pods a second at the
    least processor time per pod; forty at once cost up to twice the time per pod. Some calls are kept free for looking.

    Args:
        config: Settings of the backend; its own figure wins.
        cores: Cores of the engine's host.
    """
    if config.max_parallel_starts:
        return config.max_parallel_starts
    most = max(1, config.max_parallel_calls - _CALLS_KEPT_FREE)
    return min(max(_MIN_PARALLEL_STARTS, _STARTS_PER_CORE * cores), most)


def _create(sdk: docker.APIClient, body: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The engine's answer, or None when the name is taken."""
    try:
        answer: dict[str, Any] = sdk.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
    except docker.errors.APIError as error:
        if error.status_code == 409:
            return None
        raise
    return answer
