"""Names and labels of containers on the engine: where a pod's identity is kept.

A name is made from the metadata, so that the engine itself refuses a second container of the same identity: creation is
idempotent. Labels and annotations of the CRI both become labels of the engine, annotations with a prefix.

The label ``io.kubernetes.docker.type`` is never written, not even when a pod carries it: by it a kubelet on the same host
would take the container for its own and remove it.

Source: cri-dockerd core/naming.go, core/helpers.go (makeLabels, extractLabels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vkprovider.api import labels as kube_labels
from vkprovider.provider import cri

KIND: Final = "vkprovider.io/kind"
KIND_SANDBOX: Final = "sandbox"
KIND_CONTAINER: Final = "container"
SANDBOX_ID: Final = "io.kubernetes.sandbox.id"
LOG_PATH: Final = "io.kubernetes.container.logpath"
IMAGE: Final = "vkprovider.io/image"
"""Image as the pod's author wrote it."""
RUNTIME_HANDLER: Final = "vkprovider.io/runtime-handler"
METADATA: Final = "vkprovider.io/metadata"
"""Name and attempt, kept beside the container's name in case someone renames it."""
GIVEN: Final = "vkprovider.io/given"
"""Keys of the labels that were given, joined by commas: the engine adds those of the image to a container's own."""

_PREFIX = "k8s"
_SANDBOX_NAME = "POD"
_ANNOTATION = "annotation."
_ESCAPE = "label."
_FORBIDDEN = "io.kubernetes.docker.type"
_INTERNAL = frozenset({KIND, SANDBOX_ID, LOG_PATH, IMAGE, RUNTIME_HANDLER, METADATA, GIVEN})


def make_sandbox_name(metadata: cri.PodSandboxMetadata) -> str:
    """``k8s_POD_<pod>_<namespace>_<uid>_<attempt>``."""
    return "_".join((_PREFIX, _SANDBOX_NAME, metadata.name, metadata.namespace, metadata.uid, str(metadata.attempt)))


def make_container_name(metadata: cri.ContainerMetadata, pod: cri.PodSandboxMetadata) -> str:
    """``k8s_<container>_<pod>_<namespace>_<uid>_<attempt>``."""
    return "_".join((_PREFIX, metadata.name, pod.name, pod.namespace, pod.uid, str(metadata.attempt)))


def sandbox_labels(config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> dict[str, str]:
    """Engine labels of a sandbox."""
    metadata = config.metadata
    merged = _merge(config.labels, config.annotations)
    merged[KIND] = KIND_SANDBOX
    merged[METADATA] = "_".join((metadata.name, metadata.namespace, metadata.uid, str(metadata.attempt)))
    if runtime_handler:
        merged[RUNTIME_HANDLER] = runtime_handler
    return merged


def container_labels(
    config: cri.ContainerConfig, sandbox_id: cri.SandboxID, sandbox_config: cri.PodSandboxConfig
) -> dict[str, str]:
    """Engine labels of a container."""
    merged = _merge(config.labels, config.annotations)
    merged[KIND] = KIND_CONTAINER
    merged[SANDBOX_ID] = sandbox_id
    merged[METADATA] = f"{config.metadata.name}_{config.metadata.attempt}"
    if config.log_path:
        directory = sandbox_config.log_directory
        merged[LOG_PATH] = f"{directory.rstrip('/')}/{config.log_path}" if directory else config.log_path
    merged[IMAGE] = config.image.user_specified_image or config.image.image
    return merged


def split_labels(engine_labels: Mapping[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations exactly as they were given."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    found = engine_labels or {}
    given = frozenset(found[GIVEN].split(",")) if GIVEN in found else None
    for key, value in found.items():
        if given is not None and key not in given:
            continue
        if key.startswith(_ANNOTATION):
            annotations[key[len(_ANNOTATION) :]] = value
        elif key.startswith(_ESCAPE):
            labels[key[len(_ESCAPE) :]] = value
        elif key not in _INTERNAL:
            labels[key] = value
    return labels, annotations


def make_label_filter(kind: str | None, selector: Mapping[str, str], *, sandbox_id: str | None = None) -> list[str]:
    """Values of the engine's ``label`` filter; all must match."""
    wanted = [f"{_label_key(key)}={value}" for key, value in selector.items()]
    wanted.append(KIND if kind is None else f"{KIND}={kind}")
    if sandbox_id is not None:
        wanted.append(f"{SANDBOX_ID}={sandbox_id}")
    return wanted


def find_sandbox_metadata(name: str, engine_labels: Mapping[str, str]) -> cri.PodSandboxMetadata | None:
    """Identity of a sandbox, or None when neither its labels nor its name tell."""
    parts = engine_labels.get(METADATA, "").split("_")
    if len(parts) != 4:
        parts = name.removeprefix("/").split("_")[2:]
    if len(parts) != 4 or not parts[3].isdigit():
        return None
    return cri.PodSandboxMetadata(name=parts[0], namespace=parts[1], uid=parts[2], attempt=int(parts[3]))


def find_container_metadata(name: str, engine_labels: Mapping[str, str]) -> cri.ContainerMetadata | None:
    """Identity of a container in its pod, or None when neither its labels nor its name tell."""
    parts = engine_labels.get(METADATA, "").split("_")
    if len(parts) != 2:
        full = name.removeprefix("/").split("_")
        parts = [full[1], full[5]] if len(full) == 6 else []
    if len(parts) != 2 or not parts[1].isdigit():
        return None
    return cri.ContainerMetadata(name=parts[0], attempt=int(parts[1]))


def find_foreign_owner(expected: Mapping[str, str], actual: Mapping[str, str] | None) -> str | None:
    """Why an existing container is not the one that ``expected`` (engine labels) describes; None if it is.

    Compared are the owner, the pod and the identity; other labels may have changed since.
    """
    for key in (
        kube_labels.OWNER_CLUSTER,
        kube_labels.OWNER_NODE,
        kube_labels.POD_UID,
        KIND,
        METADATA,
    ):
        wanted, found = expected.get(key), (actual or {}).get(key)
        if wanted != found:
            return f"its label {key} is {found or 'absent'} instead of {wanted or 'absent'}"
    return None


def _merge(labels: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, str]:
    merged = {_label_key(key): value for key, value in labels.items()}
    merged.update((_ANNOTATION + key, value) for key, value in annotations.items())
    merged[GIVEN] = ",".join(merged)
    return merged


def _label_key(key: str) -> str:
    # Pods may carry any label; one that means something else to us or to a kubelet is kept under another key.
    if key == _FORBIDDEN or key in _INTERNAL or key.startswith((_ANNOTATION, _ESCAPE)):
        return _ESCAPE + key
    return key
