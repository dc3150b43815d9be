"""What sandboxes and containers use: by the host's cgroup files where they are here, else by the engine's one-shot statistics.

Source: Engine API, ContainerStats; cri-dockerd core/stats_linux.go; docker CLI, calculateMemUsageUnixNoCache.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api.timestamps import parse_time
from vkprovider.backends.docker.cgroups import CgroupFiles
from vkprovider.backends.docker.containers import Containers
from vkprovider.backends.docker.engine import Engine
from vkprovider.backends.docker.errors import EngineRefusal, engine_errors
from vkprovider.backends.docker.sandboxes import Sandboxes
from vkprovider.errors import TransientError
from vkprovider.provider import cri

_PARALLEL = 16
_PATIENCE_S = 8.0
"""Seconds the engine has for all samples; scrapers give up after ten."""

logger = logging.getLogger(__name__)

_NO_ANSWER: Final[dict[str, Any]] = {}


async def list_stats(
    engine: Engine,
    sandboxes: Sandboxes,
    containers: Containers,
    label_selector: Mapping[str, str],
    *,
    files: CgroupFiles | None = None,
) -> Sequence[cri.PodSandboxStats]:
    """Figures of all ready sandboxes with these labels, with their running containers.

    Args:
        engine: The engine.
        sandboxes: Its sandboxes.
        containers: Its containers.
        label_selector: Labels of those that are wanted.
        files: The host's cgroup files, asked first; None to ask the engine alone.

    Raises:
        TransientError: The engine did not answer.
    """
    pods, members = await asyncio.gather(
        sandboxes.list(cri.PodSandboxFilter(state=cri.SandboxState.READY, label_selector=label_selector)),
        containers.list(cri.ContainerFilter(state=cri.ContainerState.RUNNING, label_selector=label_selector)),
    )
    sandbox_ids: list[str] = [pod.id for pod in pods]
    ids: list[str] = [*sandbox_ids, *(member.id for member in members)]
    samples: dict[str, dict[str, Any] | None] = {}
    if files is not None:
        samples.update(await asyncio.to_thread(files.read, ids, with_network=sandbox_ids))
    missing = [container_id for container_id in ids if container_id not in samples]
    answers = await _ask_engine(engine, missing)
    if answers and not samples and all(answer is _NO_ANSWER for answer in answers.values()):
        raise TransientError(f"the engine does not tell what {len(ids)} containers use")
    samples.update({id: None if answer is _NO_ANSWER else answer for id, answer in answers.items()})
    by_pod: dict[str, list[cri.ContainerStats]] = {}
    for member in members:
        document = samples[member.id]
        if document is not None:
            by_pod.setdefault(member.pod_sandbox_id, []).append(to_container_stats(member, document))
    return [to_sandbox_stats(pod, samples[pod.id], by_pod.get(pod.id, [])) for pod in pods if samples[pod.id]]


async def _ask_engine(engine: Engine, ids: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Samples of containers; ``_NO_ANSWER`` for those of which the engine does not tell in time, lest they hide all others."""
    limit = asyncio.Semaphore(_PARALLEL)

    async def sample(container_id: str) -> dict[str, Any] | None:
        async with limit:
            return await read_stats(engine, container_id)

    tasks = {container_id: asyncio.create_task(sample(container_id), name="docker:stats") for container_id in ids}
    if not tasks:
        return {}
    try:
        await asyncio.wait(tasks.values(), timeout=_PATIENCE_S)
    finally:
        await cancel_and_wait(task for task in tasks.values() if not task.done())
    samples: dict[str, dict[str, Any] | None] = {}
    unanswered = 0
    for container_id, task in tasks.items():
        failure = None if task.cancelled() else task.exception()
        if failure is None and not task.cancelled():
            samples[container_id] = task.result()
        elif failure is None or isinstance(failure, TransientError):
            samples[container_id] = _NO_ANSWER
            unanswered += 1
        else:
            raise failure
    if unanswered:
        logger.warning("The engine does not tell what some containers use", extra={"containers": unanswered})
    return samples


async def read_stats(engine: Engine, container_id: str) -> dict[str, Any] | None:
    """One sample of a container; None if it has gone or does not run.

    Raises:
        TransientError: The engine did not answer.
    """
    with engine_errors(f"read the statistics of container {container_id!r}"):
        try:
            document: dict[str, Any] = await engine.client.request(
                "GET", f"/containers/{quote(container_id)}/stats", params={"stream": "0", "one-shot": "1"}
            )
        except EngineRefusal as error:
            if error.status in (404, 409):
                return None
            raise
    return document if (document.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage") else None


def to_container_stats(container: cri.Container, document: Mapping[str, Any]) -> cri.ContainerStats:
    """Figures of a container from a sample."""
    return cri.ContainerStats(
        id=container.id,
        metadata=container.metadata,
        labels=container.labels,
        cpu=to_cpu(document),
        memory=to_memory(document),
        process_count=(document.get("pids_stats") or {}).get("current"),
    )


def to_sandbox_stats(
    sandbox: cri.PodSandbox, document: Mapping[str, Any] | None, containers: Sequence[cri.ContainerStats]
) -> cri.PodSandboxStats:
    """Figures of a sandbox: its own use and that of its containers added up, and its network's."""
    own = document or {}
    cpus = [usage for usage in (to_cpu(own), *(stats.cpu for stats in containers)) if usage is not None]
    memories = [usage for usage in (to_memory(own), *(stats.memory for stats in containers)) if usage is not None]
    counts = [(own.get("pids_stats") or {}).get("current"), *(stats.process_count for stats in containers)]
    return cri.PodSandboxStats(
        id=sandbox.id,
        metadata=sandbox.metadata,
        labels=sandbox.labels,
        containers=tuple(containers),
        cpu=cri.CpuUsage(
            at=max(usage.at for usage in cpus),
            usage_core_nanoseconds=sum(usage.usage_core_nanoseconds for usage in cpus),
        )
        if cpus
        else None,
        memory=cri.MemoryUsage(
            at=max(usage.at for usage in memories),
            working_set_bytes=sum(usage.working_set_bytes for usage in memories),
            usage_bytes=sum(usage.usage_bytes for usage in memories),
            rss_bytes=sum(usage.rss_bytes for usage in memories),
            page_faults=sum(usage.page_faults for usage in memories),
            major_page_faults=sum(usage.major_page_faults for usage in memories),
        )
        if memories
        else None,
        network=to_network(own),
        process_count=sum(count for count in counts if count is not None),
    )


def to_cpu(document: Mapping[str, Any]) -> cri.CpuUsage | None:
    """CPU use of a sample."""
    total = ((document.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    return None if total is None else cri.CpuUsage(at=_read_at(document), usage_core_nanoseconds=int(total))


def to_memory(document: Mapping[str, Any]) -> cri.MemoryUsage | None:
    """Memory use of a sample; figures are named differently by cgroup v1 (``total_``) and v2."""
    memory = document.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    usage = int(memory["usage"])
    inactive = int(details.get("total_inactive_file", details.get("inactive_file", 0)))
    return cri.MemoryUsage(
        at=_read_at(document),
        working_set_bytes=max(0, usage - inactive),
        usage_bytes=usage,
        rss_bytes=int(details.get("total_rss", details.get("anon", 0))),
        page_faults=int(details.get("total_pgfault", details.get("pgfault", 0))),
        major_page_faults=int(details.get("total_pgmajfault", details.get("pgmajfault", 0))),
    )


def to_network(document: Mapping[str, Any]) -> tuple[cri.NetworkUsage, ...]:
    """Counters of a sandbox's interfaces."""
    at = _read_at(document)
    return tuple(
        cri.NetworkUsage(
            at=at,
            name=name,
            rx_bytes=int(counters.get("rx_bytes", 0)),
            rx_errors=int(counters.get("rx_errors", 0)),
            tx_bytes=int(counters.get("tx_bytes", 0)),
            tx_errors=int(counters.get("tx_errors", 0)),
        )
        for name, counters in sorted((document.get("networks") or {}).items())
    )


def _read_at(document: Mapping[str, Any]) -> datetime:
    text = document.get("read")
    return parse_time(text) if text and not text.startswith("0001-") else datetime.now(UTC)
