"""Results of probes by container.

Source: pkg/kubelet/prober/results/results_manager.go.
"""

from __future__ import annotations

from enum import Enum

from vkprovider.kubelet.probe_results import ProbeKind
from vkprovider.provider import cri


class Result(Enum):
    """What the last decisive probes said."""

    UNKNOWN = None
    SUCCESS = True
    FAILURE = False


class ResultStore:
    """Results by kind of probe and container id."""

    def __init__(self) -> None:
        self._results: dict[tuple[ProbeKind, cri.ContainerID], Result] = {}

    def find(self, kind: ProbeKind, container_id: cri.ContainerID) -> Result | None:
        """The result, or None if there never was one."""
        return self._results.get((kind, container_id))

    def set(self, kind: ProbeKind, container_id: cri.ContainerID, result: Result) -> bool:
        """Keep a result; whether it differs from the one before."""
        changed = self._results.get((kind, container_id)) is not result
        self._results[kind, container_id] = result
        return changed

    def remove(self, kind: ProbeKind, container_id: cri.ContainerID) -> None:
        """Forget a result. Safe to repeat."""
        self._results.pop((kind, container_id), None)
