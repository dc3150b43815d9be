"""What follows from a pod's spec alone, worked out once and kept while the spec stays the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vkprovider.api import v1
from vkprovider.api.pods import ContainerKind, iter_containers
from vkprovider.api.resources import compute_qos_class, pod_status_resources

RESTART_ALL_ACTION = "RestartAllContainers"


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """Facts of one container of the spec.

    Attributes:
        name: Its name.
        kind: What it is.
        spec: Its spec.
        spec_hash: Hash of the fields whose change restarts it.
        backoff_key: Fields whose change resets its backoff.
        volume_mounts: ``volumeMounts`` of its status, without what depends on the runtime.
    """

    name: str
    kind: ContainerKind
    spec: v1.Container
    spec_hash: str
    backoff_key: tuple[str, ...]
    volume_mounts: tuple[Mapping[str, Any], ...]

    @property
    def is_sidecar(self) -> bool:
        """Whether it is a restartable init container."""
        return self.kind is ContainerKind.SIDECAR


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Facts of one pod's spec.

    Attributes:
        spec: The spec they were made from.
        init: Init containers and sidecars, in order.
        apps: App containers, in order.
        ephemeral: Ephemeral containers, in order.
        by_name: All containers by name.
        qos_class: QoS class.
        resources: ``status.resources``.
        allocated_resources: ``status.allocatedResources``.
        may_restart_all: Whether a rule of some container restarts all of them.
    """

    spec: v1.PodSpec
    init: tuple[ContainerFacts, ...]
    apps: tuple[ContainerFacts, ...]
    ephemeral: tuple[ContainerFacts, ...]
    by_name: Mapping[str, ContainerFacts]
    qos_class: str
    resources: v1.ResourceRequirements
    allocated_resources: Mapping[str, str]
    may_restart_all: bool

    @property
    def app_names(self) -> frozenset[str]:
        """Names of the app containers."""
        return frozenset(app.name for app in self.apps)


def make_pod_facts(pod: v1.Pod) -> PodFacts:
    """Facts of the pod's spec.

    Raises:
        ValueError: A quantity of the spec cannot be read.
    """
    containers = [_make_container_facts(pod, kind, container) for kind, container in iter_containers(pod)]
    resources, allocated = pod_status_resources(pod)
    return PodFacts(
        spec=pod.get("spec", {}),
        init=tuple(c for c in containers if c.kind in (ContainerKind.INIT, ContainerKind.SIDECAR)),
        apps=tuple(c for c in containers if c.kind is ContainerKind.APP),
        ephemeral=tuple(c for c in containers if c.kind is ContainerKind.EPHEMERAL),
        by_name={c.name: c for c in containers},
        qos_class=pod.get("status", {}).get("qosClass") or compute_qos_class(pod),
        resources=resources,
        allocated_resources=allocated,
        may_restart_all=any(
            rule.get("action") == RESTART_ALL_ACTION
            for container in containers
            if container.kind is not ContainerKind.EPHEMERAL
            for rule in container.spec.get("restartPolicyRules") or ()
        ),
    )


def refresh_pod_facts(facts: PodFacts | None, pod: v1.Pod) -> PodFacts:
    """The same facts if the spec is still equal, else new ones."""
    spec = pod.get("spec", {})
    if facts is not None and (facts.spec is spec or facts.spec == spec):
        return facts
    return make_pod_facts(pod)


def _make_container_facts(pod: v1.Pod, kind: ContainerKind, container: v1.Container) -> ContainerFacts:
    meta = pod["metadata"]
    return ContainerFacts(
        name=container["name"],
        kind=kind,
        spec=container,
        spec_hash=hash_container(container),
        backoff_key=(
            meta.get("name", ""),
            meta.get("namespace", "default"),
            meta.get("uid", ""),
            container["name"],
            container.get("image", ""),
            json.dumps(container["resources"], sort_keys=True) if container.get("resources") else "",
        ),
        volume_mounts=tuple(_volume_mount_status(mount) for mount in container.get("volumeMounts") or ()),
    )


def _volume_mount_status(mount: v1.VolumeMount) -> dict[str, Any]:
    status: dict[str, Any] = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        status["readOnly"] = True
        status["recursiveReadOnly"] = "Disabled"
    return status


def hash_container(container: v1.Container) -> str:
    """Hash of the fields whose change restarts a container: name and image. The same in every process.

    Source: pkg/kubelet/container/helpers.go, HashContainer (which fields; the function is our own).
    """
    fields: Sequence[str] = (container["name"], container.get("image", ""))
    return hashlib.blake2s("\0".join(fields).encode(), digest_size=8).hexdigest()
