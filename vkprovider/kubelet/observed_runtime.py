"""Counts what is asked of a runtime, in one place for all callers, and what becomes of probes.

A runtime is watched through a stand-in that has its abilities and passes everything on; the runtime itself is left as it is.

Source: pkg/kubelet/kuberuntime/instrumented_services.go.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.kubelet.pod_cache import PodCache
from vkprovider.kubelet.probe_results import ProbeKind
from vkprovider.kubelet.prober.worker import ProbeObserver
from vkprovider.metrics import KubeletMetrics, ProbeMetrics
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ContainerRuntime

R = TypeVar("R")

OPERATIONS: Final = {
    "version": "version",
    "status": "status",
    "run_pod_sandbox": "run_podsandbox",
    "stop_pod_sandbox": "stop_podsandbox",
    "remove_pod_sandbox": "remove_podsandbox",
    "pod_sandbox_status": "podsandbox_status",
    "list_pod_sandboxes": "list_podsandbox",
    "create_container": "create_container",
    "start_container": "start_container",
    "stop_container": "stop_container",
    "remove_container": "remove_container",
    "list_containers": "list_containers",
    "container_status": "container_status",
    "update_container_resources": "update_container",
    "exec_sync": "exec_sync",
    "exec": "exec",
    "attach": "attach",
    "port_forward": "port_forward",
    "list_pod_sandbox_stats": "list_podsandbox_stats",
}
"""Verbs of a runtime, and how upstream calls them in its metrics."""

IMAGE_OPERATIONS: Final = {
    "find_image": "image_status",
    "list_images": "list_images",
    "pull_image": "pull_image",
    "remove_image": "remove_image",
    "image_fs_info": "image_fs_info",
}
"""Likewise those of an image service."""


def observe_runtime(runtime: ContainerRuntime, metrics: KubeletMetrics) -> ContainerRuntime:
    """A stand-in for a runtime, of the same abilities, that counts its calls, their failures and the time they take.

    Args:
        runtime: The runtime.
        metrics: What the calls are counted into.
    """
    images = _Observed(runtime.images, IMAGE_OPERATIONS, metrics)
    return cast(ContainerRuntime, _Observed(runtime, OPERATIONS, metrics, images=images))


def count_running(cache: PodCache, metrics: KubeletMetrics) -> None:
    """Set the gauges of running pods and containers to what is known of the runtime.

    Source: pkg/kubelet/pleg/generic.go, updateRunningPodAndContainerMetrics.
    """
    running_pods = 0
    states = dict.fromkeys(cri.ContainerState, 0)
    for uid in cache.uids():
        pod = cache.get(uid)
        running_pods += pod.active_sandbox is not None
        for record in pod.containers:
            states[record.state] += 1
    metrics.running_pods.set(running_pods)
    for state, count in states.items():
        metrics.running_containers.labels(state.name.lower()).set(count)


def make_probe_observer(metrics: ProbeMetrics) -> ProbeObserver:
    """What a ``ProbeManager`` tells of every probe, for ``/metrics/probes``."""

    def observe(pod: v1.Pod, container: str, kind: ProbeKind, *, success: bool, duration_s: float) -> None:
        metadata = pod["metadata"]
        metrics.observe(
            uid=get_uid(pod),
            namespace=metadata.get("namespace", ""),
            pod=metadata.get("name", ""),
            container=container,
            kind=kind.value.capitalize(),
            success=success,
            duration_s=duration_s,
        )

    return observe


class _Observed:
    """Passes everything on to its target; ``isinstance`` holds for what the target is."""

    def __init__(self, target: object, operations: dict[str, str], metrics: KubeletMetrics, **replaced: object) -> None:
        self._target = target
        for verb, operation in operations.items():
            if (method := getattr(target, verb, None)) is not None:
                setattr(self, verb, _observe(method, operation, metrics))
        for name, stand_in in replaced.items():
            setattr(self, name, stand_in)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    @property
    def __class__(self) -> Any:
        return type(self._target)

    @__class__.setter
    def __class__(self, value: object) -> None:
        raise TypeError("the class of a stand-in is that of its target")


def _observe(
    method: Callable[..., Awaitable[R]], operation: str, metrics: KubeletMetrics
) -> Callable[..., Awaitable[R]]:
    total = metrics.runtime_operations.labels(operation)
    errors = metrics.runtime_operations_errors.labels(operation)
    duration = metrics.runtime_operations_duration.labels(operation)

    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> R:
        began = time.monotonic()
        try:
            return await method(*args, **kwargs)
        except Exception:
            errors.inc()
            raise
        finally:
            total.inc()
            duration.observe(time.monotonic() - began)

    return call
