"""What a node counts, under the kubelet's names and with their meaning, so that dashboards and alerts made for kubelets work.

Figures whose meaning would differ are left out rather than borrowed: those of cgroup, CPU, memory, topology and device managers,
of static pods, and of what a Go runtime tells of itself.

Source: pkg/kubelet/metrics/metrics.go, pkg/kubelet/server/metrics/metrics.go, component-base metrics.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from vkprovider.metrics.exposition import render_registry
from vkprovider.metrics.probes import ProbeMetrics

_OPERATION_BUCKETS: Final = tuple(0.005 * 2.5**power for power in range(14))
_STARTUP_BUCKETS: Final = (
    *(0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
_PULL_BUCKETS: Final = (*(1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),)
_STATUS_BUCKETS: Final = (0.010, 0.050, 0.100, 0.500, 1, 5, 10, 20, 30, 45, 60)
_DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Go's default buckets; prometheus-client's own differ from them."""

_API_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)

_MIB: Final = 1024**2
_GIB: Final = 1024**3
_IMAGE_SIZES: Final = (
    (10 * _MIB, "0-10MB"),
    (100 * _MIB, "10MB-100MB"),
    (500 * _MIB, "100MB-500MB"),
    (_GIB, "500MB-1GB"),
    (5 * _GIB, "1GB-5GB"),
    (10 * _GIB, "5GB-10GB"),
    (20 * _GIB, "10GB-20GB"),
    (30 * _GIB, "20GB-30GB"),
    (40 * _GIB, "30GB-40GB"),
    (60 * _GIB, "40GB-60GB"),
    (100 * _GIB, "60GB-100GB"),
)

_LONG_RUNNING: Final = frozenset({"exec", "attach", "portforward", "debug"})
"""Source: pkg/kubelet/server/server.go, longRunningRequestPathMap; ``portForward`` is spelt so there and never matches."""

_KNOWN_REJECTIONS: Final = frozenset(
    {
        *("AppArmor", "PodOSSelectorNodeLabelDoesNotMatch", "PodOSNotSupported", "InvalidNodeInfo"),
        *("InitContainerRestartPolicyForbidden", "SupplementalGroupsPolicyNotSupported", "UnexpectedAdmissionError"),
        *("UnknownReason", "UnexpectedPredicateFailureType", "OutOfcpu", "OutOfmemory", "OutOfephemeral-storage"),
        *("OutOfpods", "PodLevelResourcesNotAdmittedReason", "PodFeatureUnsupported", "Evicted", "SysctlForbidden"),
        *("TopologyAffinityError", "NodeShutdown", "VolumeAttachmentLimitExceeded"),
        "node(s) had taints that the pod didn't tolerate",
    }
)


class KubeletMetrics:
    """The figures of one node. All of them may be changed from any thread, at the cost of a lock that nobody holds for long.

    Args:
        node_name: Name of the node; empty for one that nobody looks at.
        git_version: The node's ``kubeletVersion``, e.g. ``v1.36.3-vk-1.0``; empty leaves the build out.

    Attributes:
        registry: Where they are kept; a provider may register its own here.
        probes: Figures of probes, with a registry of their own.
    """

    def __init__(self, node_name: str = "", *, git_version: str = "") -> None:
        self.registry = registry = CollectorRegistry()
        self.probes = ProbeMetrics()
        self._refreshers: dict[str, Callable[[], None]] = {}

        def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, f"[ALPHA] {help}", labels, registry=registry)

        def gauge(name: str, help: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, f"[ALPHA] {help}", labels, registry=registry)

        def histogram(
            name: str, help: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = _DEFAULT_BUCKETS
        ) -> Histogram:
            return Histogram(name, f"[ALPHA] {help}", labels, registry=registry, buckets=buckets)

        self.node_name = gauge("kubelet_node_name", "Name of the node; the value is always 1.", ("node",))
        self.running_pods = gauge("kubelet_running_pods", "Pods that have a running sandbox.")
        self.running_containers = gauge("kubelet_running_containers", "Containers by state.", ("container_state",))
        self.desired_pods = gauge("kubelet_desired_pods", "Pods that are to run here.", ("static",))
        self.active_pods = gauge("kubelet_active_pods", "Pods that count when another asks to be let in.", ("static",))
        self.working_pods = gauge(
            "kubelet_working_pods",
            "Pods with a worker, by how far it is and by who wants the pod.",
            ("lifecycle", "config", "static"),
        )
        self.orphaned_runtime_pods = counter(
            "kubelet_orphaned_runtime_pods_total", "Pods found in the runtime that no worker knew."
        )
        self.containers_per_pod = histogram(
            "kubelet_containers_per_pod_count", "Containers a pod has.", buckets=(1, 2, 4, 8, 16)
        )
        self.pod_worker_duration = histogram(
            "kubelet_pod_worker_duration_seconds", "Seconds that one step of work on a pod took.", ("operation_type",)
        )
        self.pod_worker_start_duration = histogram(
            "kubelet_pod_worker_start_duration_seconds", "Seconds from the first sight of a pod to work on it."
        )
        self.pod_start_duration = histogram(
            "kubelet_pod_start_duration_seconds",
            "Seconds from the first sight of a pod until it runs.",
            buckets=_STARTUP_BUCKETS,
        )
        self.pod_status_sync_duration = histogram(
            "kubelet_pod_status_sync_duration_seconds",
            "Seconds from a change of a pod's status until the API server has it.",
            buckets=_STATUS_BUCKETS,
        )
        self.pleg_relist_duration = histogram("kubelet_pleg_relist_duration_seconds", "Seconds that a full list took.")
        self.pleg_relist_interval = histogram("kubelet_pleg_relist_interval_seconds", "Seconds between full lists.")
        self.pleg_last_seen = gauge("kubelet_pleg_last_seen_seconds", "When the runtime was last listed, Unix time.")
        self.runtime_operations = counter(
            "kubelet_runtime_operations_total", "Calls to the runtime so far, by kind.", ("operation_type",)
        )
        self.runtime_operations_errors = counter(
            "kubelet_runtime_operations_errors_total", "Calls to the runtime that failed, by kind.", ("operation_type",)
        )
        self.runtime_operations_duration = histogram(
            "kubelet_runtime_operations_duration_seconds",
            "Seconds that calls to the runtime took, by kind.",
            ("operation_type",),
            _OPERATION_BUCKETS,
        )
        self.started_pods = counter("kubelet_started_pods_total", "Sandboxes that were to be started so far.")
        self.started_pods_errors = counter("kubelet_started_pods_errors_total", "Sandboxes that could not be started.")
        self.started_containers = counter(
            "kubelet_started_containers_total", "Containers that were to be started so far.", ("container_type",)
        )
        self.started_containers_errors = counter(
            "kubelet_started_containers_errors_total",
            "Containers that could not be started, by reason.",
            ("container_type", "code"),
        )
        self.image_pull_duration = histogram(
            "kubelet_image_pull_duration_seconds",
            "Seconds that pulls took, with the time they waited for their turn.",
            ("image_size_in_bytes",),
            _PULL_BUCKETS,
        )
        self.admission_rejections = counter(
            "kubelet_admission_rejections_total", "Pods the node refused, by reason.", ("reason",)
        )
        self._api_requests = counter(
            "rest_client_requests_total", "Requests to the API server so far, by status.", ("code", "method", "host")
        )
        self._api_requests_duration = histogram(
            "rest_client_request_duration_seconds",
            "Seconds that requests to the API server took.",
            ("verb", "host"),
            _API_BUCKETS,
        )
        requests = ("method", "path", "server_type", "long_running")
        self.http_requests = counter("kubelet_http_requests_total", "Requests to the kubelet API so far.", requests)
        self.http_requests_duration = histogram(
            "kubelet_http_requests_duration_seconds", "Seconds that requests to the kubelet API took.", requests
        )
        self.http_inflight_requests = gauge(
            "kubelet_http_inflight_requests", "Requests to the kubelet API that are being served.", requests
        )
        if node_name:
            self.node_name.labels(node_name).set(1)
        if git_version:
            self._tell_build(git_version)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def on_scrape(self, name: str, refresh: Callable[[], None]) -> None:
        """Have gauges brought up to date right before they are read.

        Args:
            name: Whose gauges they are; a later function of the same name takes the place of an earlier.
            refresh: Sets them; runs on the event loop's thread, must be quick.
        """
        self._refreshers[name] = refresh

    def refresh(self) -> None:
        """Bring gauges up to date; call it on the event loop's thread before ``render``."""
        for refresh in self._refreshers.values():
            refresh()

    def render(self) -> str:
        """The text of ``/metrics``. May run in a thread."""
        return render_registry(self.registry)

    def reject(self, reason: str) -> None:
        """Count a pod that was refused.

        Source: pkg/kubelet/kubelet.go, recordAdmissionRejection: reasons can be anything, so that only known ones are shown.
        """
        if reason not in _KNOWN_REJECTIONS:
            reason = "OutOfExtendedResources" if reason.startswith("OutOf") else "Other"
        self.admission_rejections.labels(reason).inc()

    def observe_pull(self, size_bytes: int, duration_s: float) -> None:
        """Take note of a pull that succeeded."""
        size = next((name for bound, name in _IMAGE_SIZES if size_bytes < bound), "GT100GB")
        self.image_pull_duration.labels(size).observe(duration_s)

    def observe_api_request(self, method: str, host: str, code: str, duration_s: float) -> None:
        """Count a request to the API server.

        Args:
            method: HTTP method.
            host: Host and port of the server.
            code: Status answered; ``<error>`` without an answer.
            duration_s: Seconds it took.

        Source: component-base metrics/prometheus/restclient/metrics.go.
        """
        self._api_requests.labels(code, method, host).inc()
        self._api_requests_duration.labels(method, host).observe(duration_s)

    @contextmanager
    def request(self, method: str, path: str, *, get_time: Callable[[], float]) -> Iterator[None]:
        """Count a request to the kubelet API, from its arrival to the end of its answer.

        Args:
            method: HTTP method.
            path: First part of the path, ``other`` if unknown.
            get_time: Loop time.
        """
        labels = (method, path, "readwrite", "true" if path in _LONG_RUNNING else "false")
        self.http_requests.labels(*labels).inc()
        inflight = self.http_inflight_requests.labels(*labels)
        inflight.inc()
        began = get_time()
        try:
            yield
        finally:
            inflight.dec()
            self.http_requests_duration.labels(*labels).observe(get_time() - began)

    def _tell_build(self, git_version: str) -> None:
        major, _, rest = git_version.lstrip("v").partition(".")
        Gauge(
            "kubernetes_build_info",
            "[BETA] The version whose behaviour this node shows, and what it runs on; the value is always 1.",
            (
                *("major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version"),
                *("compiler", "platform"),
            ),
            registry=self.registry,
        ).labels(
            *(major, rest.partition(".")[0], git_version, "", "", "", ""),
            *(platform.python_implementation().lower(), f"{platform.system().lower()}/{platform.machine().lower()}"),
        ).set(1)
