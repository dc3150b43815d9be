"""Figures of probes, which ``/metrics/probes`` shows.

Source: pkg/kubelet/prober/prober_manager.go, ProberResults and ProberDuration.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vkprovider.metrics.exposition import render_registry
from vkprovider.metrics.process import find_process_start_s

_RESULTS: Final = ("successful", "failed", "unknown")


class ProbeMetrics:
    """Counts probes by container; series go with their pods.

    Attributes:
        registry: Where they are kept.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._total = Counter(
            "prober_probe_total",
            "[BETA] Liveness, readiness and startup probes of a container so far, by result.",
            ("probe_type", "result", "container", "pod", "namespace", "pod_uid"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "prober_probe_duration_seconds",
            "[ALPHA] Seconds until a container answered a probe.",
            ("probe_type", "container", "pod", "namespace"),
            registry=self.registry,
        )
        Gauge(
            "process_start_time_seconds",
            "[ALPHA] Start time of the process since the Unix epoch in seconds.",
            registry=self.registry,
        ).set(find_process_start_s())
        self._series: dict[str, set[tuple[str, str, str, str]]] = {}

    def observe(
        self, *, uid: str, namespace: str, pod: str, container: str, kind: str, success: bool, duration_s: float
    ) -> None:
        """Count a probe that came to a result.

        Args:
            uid: UID of the pod.
            namespace: Namespace of the pod.
            pod: Name of the pod.
            container: Name of the container.
            kind: ``Liveness``, ``Readiness`` or ``Startup``.
            success: Whether it succeeded.
            duration_s: Seconds it took; only those of probes that succeed are shown, as upstream's.
        """
        result = "successful" if success else "failed"
        self._total.labels(kind, result, container, pod, namespace, uid).inc()
        if success:
            self._duration.labels(kind, container, pod, namespace).observe(duration_s)
        self._series.setdefault(uid, set()).add((kind, container, pod, namespace))

    def forget_pod(self, uid: str) -> None:
        """Take away the series of a pod that is not probed any more. Safe to repeat."""
        for kind, container, pod, namespace in self._series.pop(uid, ()):
            for result in _RESULTS:
                _remove(self._total, kind, result, container, pod, namespace, uid)
            # A pod of the same name that has begun already keeps its series.
            if not any((kind, container, pod, namespace) in others for others in self._series.values()):
                _remove(self._duration, kind, container, pod, namespace)

    def render(self) -> str:
        """The text of ``/metrics/probes``. May run in a thread."""
        return render_registry(self.registry)


def _remove(metric: Counter | Histogram, *values: str) -> None:
    try:
        metric.remove(*values)
    except KeyError:
        pass
