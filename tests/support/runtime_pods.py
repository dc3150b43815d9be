"""Pods as a runtime would hold them, for tables over the pure parts of the kubelet engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from vkprovider.api import v1
from vkprovider.kubelet.pod_facts import hash_container, make_pod_facts
from vkprovider.kubelet.probe_results import NoProbes, ProbeKind
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod, make_runtime_pod
from vkprovider.provider import cri

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_STATES = {
    "created": cri.ContainerState.CREATED,
    "running": cri.ContainerState.RUNNING,
    "exited": cri.ContainerState.EXITED,
    "unknown": cri.ContainerState.UNKNOWN,
}


def at(seconds: float) -> datetime:
    """A moment so many seconds after the epoch of these tests."""
    return EPOCH + timedelta(seconds=seconds)


def make_sandbox(
    *, attempt: int = 0, ready: bool = True, ip: str = "10.0.0.5", host_network: bool = False
) -> cri.PodSandboxStatus:
    """A sandbox ``sandbox<attempt>``."""
    network = cri.NamespaceMode.NODE if host_network else cri.NamespaceMode.POD
    return cri.PodSandboxStatus(
        id=cri.SandboxID(f"sandbox{attempt}"),
        metadata=cri.PodSandboxMetadata("pod", "uid", "default", attempt),
        state=cri.SandboxState.READY if ready else cri.SandboxState.NOT_READY,
        created_at=at(attempt * 100),
        ip="" if host_network else ip,
        namespaces=cri.NamespaceOption(network=network),
    )


def make_instance(
    container: v1.Container, state: str = "running", *, attempt: int = 0, sandbox: int = 0, **fields: Any
) -> ContainerRecord:
    """An instance ``<name><attempt>``; a state like ``exited:3`` sets the exit code, and the reason that goes with it."""
    word, _, code = state.partition(":")
    exited = word == "exited"
    values: dict[str, Any] = {
        "id": cri.ContainerID(f"{container['name']}{attempt}"),
        "name": container["name"],
        "sandbox_id": cri.SandboxID(f"sandbox{sandbox}"),
        "state": _STATES[word],
        "restart_count": attempt,
        "spec_hash": hash_container(container),
        "created_at": at(attempt * 10 + 1),
        "started_at": None if word == "created" else at(attempt * 10 + 2),
        "finished_at": at(attempt * 10 + 5) if exited else None,
        "exit_code": int(code or 0) if exited else 0,
        "reason": ("Error" if int(code or 0) else "Completed") if exited else "",
        "image": container.get("image", ""),
        "image_ref": "repo@sha256:abc",
    }
    return ContainerRecord(**(values | fields))


def make_state(
    pod: v1.Pod, states: Mapping[str, str | Sequence[str]], *, sandboxes: Sequence[cri.PodSandboxStatus] | None = None
) -> RuntimePod:
    """What the runtime holds of a pod: the states of each container's instances, oldest first."""
    facts = make_pod_facts(pod)
    records = []
    for name, given in states.items():
        for attempt, state in enumerate([given] if isinstance(given, str) else given):
            records.append(make_instance(facts.by_name[name].spec, state, attempt=attempt))
    uid = v1.PodUID(pod["metadata"]["uid"])
    return make_runtime_pod(
        uid, [make_sandbox()] if sandboxes is None else sandboxes, records, name="pod", namespace="default"
    )


class FixedProbes(NoProbes):
    """Results told by ``kind/container id``; a key with None has a worker and no result yet."""

    def __init__(self, results: Mapping[str, bool | None]) -> None:
        self._results = results
        self.triggered: list[str] = []

    def find_result(self, kind: ProbeKind, container_id: cri.ContainerID) -> bool | None:
        """The result given."""
        return self._results.get(f"{kind.value}/{container_id}")

    def has_worker(self, kind: ProbeKind, uid: v1.PodUID, container: str) -> bool:
        """Whether anything was given for this container."""
        return any(key.startswith(f"{kind.value}/{container}") for key in self._results)

    def trigger_readiness(self, uid: v1.PodUID, container: str) -> None:
        """Remember it."""
        self.triggered.append(container)
