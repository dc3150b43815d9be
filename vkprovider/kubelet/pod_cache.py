"""What is known of every pod in the runtime, kept by id and handed out as frozen views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vkprovider.api import labels, v1
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod, make_runtime_pod
from vkprovider.provider import cri


@dataclass(slots=True)
class _Entry:
    name: str = ""
    namespace: str = ""
    sandboxes: dict[cri.SandboxID, cri.PodSandboxStatus] = field(default_factory=dict)
    containers: dict[cri.ContainerID, ContainerRecord] = field(default_factory=dict)
    view: RuntimePod | None = None


class PodCache:
    """Sandboxes and containers by pod. Holds no lock and does no I/O: whoever reads the runtime writes here."""

    def __init__(self) -> None:
        self._pods: dict[v1.PodUID, _Entry] = {}
        self._owners: dict[str, v1.PodUID] = {}

    def get(self, uid: v1.PodUID) -> RuntimePod:
        """The pod as last seen; an empty one if the runtime holds nothing of it. The same object until something changes."""
        entry = self._pods.get(uid)
        if entry is None:
            return RuntimePod(uid)
        if entry.view is None:
            entry.view = make_runtime_pod(
                uid, entry.sandboxes.values(), entry.containers.values(), name=entry.name, namespace=entry.namespace
            )
        return entry.view

    def uids(self) -> list[v1.PodUID]:
        """UIDs of all pods that the runtime holds anything of."""
        return list(self._pods)

    def find_owner(self, id: str) -> v1.PodUID | None:
        """UID of the pod that a sandbox or container belongs to, or None if it is not known here."""
        return self._owners.get(id)

    def find_sandbox(self, id: str) -> cri.PodSandboxStatus | None:
        """The sandbox, or None."""
        entry = self._find_entry(id)
        return entry.sandboxes.get(cri.SandboxID(id)) if entry is not None else None

    def find_container(self, id: str) -> ContainerRecord | None:
        """The container, or None."""
        entry = self._find_entry(id)
        return entry.containers.get(cri.ContainerID(id)) if entry is not None else None

    def iter_ids(self) -> Iterator[str]:
        """Ids of all sandboxes and containers known."""
        return iter(tuple(self._owners))

    def put_sandbox(self, status: cri.PodSandboxStatus) -> v1.PodUID:
        """Remember what the runtime says of a sandbox; returns its pod's UID."""
        uid = v1.PodUID(status.metadata.uid)
        entry = self._ensure(uid, status.id, name=status.metadata.name, namespace=status.metadata.namespace)
        entry.sandboxes[status.id] = status
        return uid

    def put_container(self, record: ContainerRecord, container_labels: Mapping[str, str]) -> v1.PodUID:
        """Remember what the runtime says of a container; returns its pod's UID."""
        uid = v1.PodUID(container_labels.get(labels.POD_UID, ""))
        entry = self._ensure(
            uid,
            record.id,
            name=container_labels.get(labels.POD_NAME, ""),
            namespace=container_labels.get(labels.POD_NAMESPACE, ""),
        )
        entry.containers[record.id] = record
        return uid

    def drop(self, id: str) -> v1.PodUID | None:
        """Forget a sandbox or container that is gone; returns its pod's UID if it was known."""
        uid = self._owners.pop(id, None)
        if uid is None:
            return None
        entry = self._pods[uid]
        entry.sandboxes.pop(cri.SandboxID(id), None)
        entry.containers.pop(cri.ContainerID(id), None)
        entry.view = None
        if not entry.sandboxes and not entry.containers:
            del self._pods[uid]
        return uid

    def _find_entry(self, id: str) -> _Entry | None:
        uid = self._owners.get(id)
        return self._pods.get(uid) if uid is not None else None

    def _ensure(self, uid: v1.PodUID, id: str, *, name: str, namespace: str) -> _Entry:
        entry = self._pods.get(uid)
        if entry is None:
            entry = self._pods[uid] = _Entry(name, namespace)
        self._owners[id] = uid
        entry.view = None
        return entry
