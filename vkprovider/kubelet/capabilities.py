"""Abilities of a provider over a container runtime: logs, exec, attach, port-forward.

Source: pkg/kubelet/kubelet_pods.go, GetKubeletContainerLogs, GetExec, GetAttach, GetPortForward; validateContainerLogStatus.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from vkprovider.api import v1
from vkprovider.api.pods import find_container, get_key, get_uid
from vkprovider.api.reasons import ERR_IMAGE_PULL, IMAGE_PULL_BACK_OFF
from vkprovider.errors import InvalidPodError, NotFoundError, UnsupportedError
from vkprovider.kubelet.pod_cache import PodCache
from vkprovider.kubelet.runtime_state import ContainerRecord
from vkprovider.provider import cri
from vkprovider.provider.capabilities import (
    MAX_PROBE_OUTPUT_BYTES,
    AttachCapability,
    ExecCapability,
    LogOptions,
    LogsCapability,
    PortForwardCapability,
)
from vkprovider.provider.container_runtime import ContainerRuntime, StreamingRuntime
from vkprovider.provider.streams import DuplexStream, ProcessStreams

_WAITING_TEXTS = {
    ERR_IMAGE_PULL: "image can't be pulled",
    IMAGE_PULL_BACK_OFF: "trying and failing to pull image",
}


def choose_log_instance(pod: v1.Pod, status: v1.PodStatus, container: str, *, previous: bool) -> cri.ContainerID:
    """Which instance of a container is meant by its log. Pure.

    Args:
        pod: The pod.
        status: Its status.
        container: Name of the container.
        previous: The instance before the current one.

    Raises:
        InvalidPodError: There is no such instance; the message is the kubelet's.

    Source: pkg/kubelet/kubelet_pods.go, validateContainerLogStatus.
    """
    what = f'container "{container}" in pod "{pod["metadata"].get("name", "")}"'
    found = next(
        (
            entry
            for group in (
                status.get("containerStatuses"),
                status.get("initContainerStatuses"),
                status.get("ephemeralContainerStatuses"),
            )
            for entry in group or ()
            if entry["name"] == container
        ),
        None,
    )
    if found is None:
        raise InvalidPodError(f"{what} is not available")
    state = found.get("state") or {}
    last = (found.get("lastState") or {}).get("terminated")
    last_id = last.get("containerID", "") if last is not None else ""
    if previous:
        if not last_id:
            raise InvalidPodError(f"previous terminated {what} not found")
        return _bare(last_id)
    if "running" in state:
        return _bare(found.get("containerID", ""))
    if "terminated" in state or last is not None:
        chosen = (state.get("terminated") or {}).get("containerID") or last_id
        if not chosen:
            raise InvalidPodError(f"{what} is terminated")
        return _bare(chosen)
    if "waiting" in state:
        reason = state["waiting"].get("reason", "")
        raise InvalidPodError(f"{what} is waiting to start: {_WAITING_TEXTS.get(reason, reason)}")
    raise InvalidPodError(f"{what} is waiting to start - no logs yet")


def _bare(container_id: str) -> cri.ContainerID:
    return cri.ContainerID(container_id.partition("://")[2])


class RuntimeLogs(LogsCapability):
    """Logs of containers, read through the runtime.

    Args:
        runtime: The runtime.
        find_status: The newest status of a pod.
    """

    def __init__(self, runtime: ContainerRuntime, find_status: Callable[[v1.Pod], v1.PodStatus]) -> None:
        self._runtime = runtime
        self._find_status = find_status

    async def container_logs(self, pod: v1.Pod, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log of the instance that the kubelet would choose; an empty chunk first, once it is known to be there.

        Raises:
            NotFoundError: The pod has no such container.
            InvalidPodError: There is no log; the message is the kubelet's.
        """
        if find_container(pod, container) is None:
            raise NotFoundError(f'container "{container}" not found in pod "{pod["metadata"].get("name", "")}"')
        container_id = choose_log_instance(pod, self._find_status(pod), container, previous=options.previous)
        try:
            await self._runtime.container_status(container_id)
        except NotFoundError:
            raise InvalidPodError(
                f"unable to retrieve container logs for {self._runtime.name}://{container_id}"
            ) from None
        yield b""
        chunks = self._runtime.container_logs(container_id, options)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            # A reader that leaves closes this generator only; the runtime's must end with it, not when it is collected.
            if (aclose := getattr(chunks, "aclose", None)) is not None:
                await aclose()


def _get_running(cache: PodCache, pod: v1.Pod, container: str) -> ContainerRecord:
    record = next((r for r in cache.get(get_uid(pod)).instances(container) if r.is_running), None)
    if record is None:
        raise NotFoundError(f'container not found ("{container}")')
    return record


class RuntimeExec(ExecCapability):
    """Commands in containers.

    Args:
        runtime: The runtime.
        cache: What is known of pods.
    """

    def __init__(self, runtime: ContainerRuntime, cache: PodCache) -> None:
        self._runtime = runtime
        self._cache = cache

    async def exec_in_container(
        self, pod: v1.Pod, container: str, command: Sequence[str], streams: ProcessStreams
    ) -> int:
        """Run a command in the running instance.

        Raises:
            NotFoundError: No such container, or it does not run.
            UnsupportedError: The runtime cannot connect streams.
            PodSyncError: The command could not be started.
        """
        record = _get_running(self._cache, pod, container)
        if not isinstance(self._runtime, StreamingRuntime):
            raise UnsupportedError(f"the {self._runtime.name} runtime cannot connect to commands")
        return await self._runtime.exec(record.id, command, streams)

    async def exec_probe(
        self, pod: v1.Pod, container: str, command: Sequence[str], *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Run a probe's command, which needs no streams.

        Raises:
            TimeoutError: It took too long and was killed.
            NotFoundError: No such container, or it does not run.
        """
        record = _get_running(self._cache, pod, container)
        result = await self._runtime.exec_sync(record.id, command, timeout_s=timeout_s)
        return result.exit_code, (result.stdout + result.stderr)[:MAX_PROBE_OUTPUT_BYTES]


class RuntimeAttach(AttachCapability):
    """Streams to first processes.

    Args:
        runtime: The runtime.
        cache: What is known of pods.
    """

    def __init__(self, runtime: StreamingRuntime, cache: PodCache) -> None:
        self._runtime = runtime
        self._cache = cache

    async def attach_to_container(self, pod: v1.Pod, container: str, streams: ProcessStreams) -> None:
        """Connect to the running instance.

        Raises:
            NotFoundError: No such container, or it does not run.
        """
        await self._runtime.attach(_get_running(self._cache, pod, container).id, streams)


class RuntimePortForward(PortForwardCapability):
    """Connections into pods.

    Args:
        runtime: The runtime.
        cache: What is known of pods.
    """

    def __init__(self, runtime: StreamingRuntime, cache: PodCache) -> None:
        self._runtime = runtime
        self._cache = cache

    async def port_forward(self, pod: v1.Pod, port: int) -> DuplexStream:
        """Connect to a port in the pod's sandbox.

        Raises:
            NotFoundError: The pod has no sandbox here.
            ConnectionError: Nothing listens there.
        """
        sandbox = self._cache.get(get_uid(pod)).active_sandbox
        if sandbox is None:
            raise NotFoundError(f"pod {get_key(pod)} has no running sandbox")
        return await self._runtime.port_forward(sandbox.id, port)
