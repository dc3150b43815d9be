"""The engine's JSON as CRI messages. Pure.

Source: cri-dockerd core/convert.go, core/container_status.go, core/sandbox_status.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vkprovider.api.labels import POD_UID
from vkprovider.api.reasons import COMPLETED, CONTAINER_CANNOT_RUN, ERROR, OOM_KILLED
from vkprovider.api.timestamps import parse_time
from vkprovider.backends.docker import naming
from vkprovider.provider import cri

_ZERO_TIME = "0001-01-01T00:00:00Z"
_RUNNING_STATES = frozenset({"running", "paused", "restarting"})
_EXITED_STATES = frozenset({"exited", "dead", "removing"})
_EVENT_TYPES = {
    "create": cri.ContainerEventType.CREATED,
    "start": cri.ContainerEventType.STARTED,
    "die": cri.ContainerEventType.STOPPED,
    "destroy": cri.ContainerEventType.DELETED,
}
_PROPAGATION = {
    "rslave": cri.MountPropagation.HOST_TO_CONTAINER,
    "slave": cri.MountPropagation.HOST_TO_CONTAINER,
    "rshared": cri.MountPropagation.BIDIRECTIONAL,
    "shared": cri.MountPropagation.BIDIRECTIONAL,
}


def parse_engine_time(text: str | None) -> datetime | None:
    """A time of the engine; its zero time and an empty text are None."""
    if not text or text == _ZERO_TIME:
        return None
    return parse_time(text)


def to_container_state(state: str) -> cri.ContainerState:
    """State of a container from the engine's word for it."""
    if state in _RUNNING_STATES:
        return cri.ContainerState.RUNNING
    if state in _EXITED_STATES:
        return cri.ContainerState.EXITED
    return cri.ContainerState.CREATED if state == "created" else cri.ContainerState.UNKNOWN


def to_sandbox_state(state: str) -> cri.SandboxState:
    """State of a sandbox from the engine's word for its container's."""
    return cri.SandboxState.READY if state == "running" else cri.SandboxState.NOT_READY


def to_sandbox(entry: Mapping[str, Any]) -> cri.PodSandbox | None:
    """A sandbox from an entry of the engine's container list; None if its identity cannot be told."""
    engine_labels = entry.get("Labels") or {}
    metadata = naming.find_sandbox_metadata(_first_name(entry), engine_labels)
    if metadata is None:
        return None
    labels, annotations = naming.split_labels(engine_labels)
    return cri.PodSandbox(
        id=cri.SandboxID(entry["Id"]),
        metadata=metadata,
        state=to_sandbox_state(entry["State"]),
        created_at=datetime.fromtimestamp(entry["Created"], UTC),
        labels=labels,
        annotations=annotations,
        runtime_handler=engine_labels.get(naming.RUNTIME_HANDLER, ""),
    )


def to_container(entry: Mapping[str, Any]) -> cri.Container | None:
    """A container from an entry of the engine's container list; None if its identity cannot be told.

    A container that could not be started is ``CREATED`` here, since the list does not tell; its status says ``EXITED``.
    """
    engine_labels = entry.get("Labels") or {}
    metadata = naming.find_container_metadata(_first_name(entry), engine_labels)
    if metadata is None:
        return None
    labels, annotations = naming.split_labels(engine_labels)
    return cri.Container(
        id=cri.ContainerID(entry["Id"]),
        pod_sandbox_id=cri.SandboxID(engine_labels.get(naming.SANDBOX_ID, "")),
        metadata=metadata,
        image=cri.ImageSpec(image=entry["Image"], user_specified_image=engine_labels.get(naming.IMAGE, "")),
        image_ref=cri.ImageRef(entry["ImageID"]),
        state=to_container_state(entry["State"]),
        created_at=datetime.fromtimestamp(entry["Created"], UTC),
        labels=labels,
        annotations=annotations,
        image_id=entry["ImageID"],
    )


def to_sandbox_status(document: Mapping[str, Any]) -> cri.PodSandboxStatus | None:
    """All about a sandbox from the engine's inspection; None if its identity cannot be told."""
    engine_labels = document["Config"].get("Labels") or {}
    metadata = naming.find_sandbox_metadata(document["Name"], engine_labels)
    if metadata is None:
        return None
    labels, annotations = naming.split_labels(engine_labels)
    host_config = document["HostConfig"]
    state = to_sandbox_state(_state_word(document["State"]))
    host_network = host_config.get("NetworkMode") == "host"
    addresses = [] if host_network or state is not cri.SandboxState.READY else find_addresses(document)
    return cri.PodSandboxStatus(
        id=cri.SandboxID(document["Id"]),
        metadata=metadata,
        state=state,
        created_at=parse_time(document["Created"]),
        ip=addresses[0] if addresses else "",
        additional_ips=tuple(addresses[1:]),
        namespaces=cri.NamespaceOption(
            network=cri.NamespaceMode.NODE if host_network else cri.NamespaceMode.POD,
            pid=cri.NamespaceMode.NODE if host_config.get("PidMode") == "host" else cri.NamespaceMode.CONTAINER,
            ipc=cri.NamespaceMode.NODE if host_config.get("IpcMode") == "host" else cri.NamespaceMode.POD,
        ),
        labels=labels,
        annotations=annotations,
        runtime_handler=engine_labels.get(naming.RUNTIME_HANDLER, ""),
    )


def find_addresses(document: Mapping[str, Any]) -> list[str]:
    """Addresses of a container on its networks, the network it was made for first, IPv4 before IPv6."""
    networks = (document.get("NetworkSettings") or {}).get("Networks") or {}
    mode = document["HostConfig"].get("NetworkMode", "")
    ordered = sorted(networks.items(), key=lambda item: (item[0] != mode, item[0]))
    found: list[str] = []
    for _, network in ordered:
        found.extend(address for address in (network.get("IPAddress"), network.get("GlobalIPv6Address")) if address)
    return found


def to_container_status(document: Mapping[str, Any], image: Mapping[str, Any] | None) -> cri.ContainerStatus | None:
    """All about a container from the engine's inspection; None if its identity cannot be told.

    Args:
        document: Inspection of the container.
        image: Inspection of its image; None when the image is gone.
    """
    config, host_config = document["Config"], document["HostConfig"]
    engine_labels = config.get("Labels") or {}
    metadata = naming.find_container_metadata(document["Name"], engine_labels)
    if metadata is None:
        return None
    labels, annotations = naming.split_labels(engine_labels)
    created_at = parse_time(document["Created"])
    outcome = _find_outcome(document["State"], created_at)
    return cri.ContainerStatus(
        id=cri.ContainerID(document["Id"]),
        metadata=metadata,
        created_at=created_at,
        image=cri.ImageSpec(
            image=_find_image_name(config["Image"], engine_labels.get(naming.IMAGE, ""), image),
            user_specified_image=engine_labels.get(naming.IMAGE, ""),
        ),
        image_ref=to_image_ref(document["Image"], image),
        image_id=document["Image"],
        labels=labels,
        annotations=annotations,
        mounts=tuple(_to_mount(entry) for entry in document.get("Mounts") or ()),
        log_path=document.get("LogPath") or "",
        resources=to_resources(host_config),
        stop_signal=config.get("StopSignal") or "",
        **outcome,
    )


def to_image(document: Mapping[str, Any]) -> cri.Image:
    """An image from its inspection, or from an entry of the image list (which does not tell its user)."""
    uid, username = parse_image_user((document.get("Config") or {}).get("User") or "")
    return cri.Image(
        id=document["Id"],
        repo_tags=tuple(tag for tag in document.get("RepoTags") or () if tag != "<none>:<none>"),
        repo_digests=tuple(digest for digest in document.get("RepoDigests") or () if digest != "<none>@<none>"),
        size_bytes=int(document.get("Size") or 0),
        uid=uid,
        username=username,
    )


def parse_image_user(user: str) -> tuple[int | None, str]:
    """Numeric id, or name, of an image's user; neither when it has none (root).

    Source: cri-dockerd core/helpers.go, getUserFromImageUser.
    """
    name = user.partition(":")[0]
    return (int(name), "") if name.isascii() and name.isdigit() else (None, name)


def to_image_ref(image_id: str, image: Mapping[str, Any] | None) -> cri.ImageRef:
    """``repo@sha256:...`` if the image came from a registry, else its id."""
    digests = [digest for digest in (image or {}).get("RepoDigests") or () if digest != "<none>@<none>"]
    return cri.ImageRef(digests[0] if digests else image_id)


def to_resources(host_config: Mapping[str, Any]) -> cri.LinuxContainerResources:
    """Cgroup settings of a container; what is not limited is None."""
    return cri.LinuxContainerResources(
        cpu_period=host_config.get("CpuPeriod") or None,
        cpu_quota=host_config.get("CpuQuota") or None,
        cpu_shares=host_config.get("CpuShares") or None,
        memory_limit_bytes=host_config.get("Memory") or None,
        memory_swap_limit_bytes=host_config.get("MemorySwap") or None,
        oom_score_adj=host_config.get("OomScoreAdj") or 0,
        cpuset_cpus=host_config.get("CpusetCpus") or "",
        cpuset_mems=host_config.get("CpusetMems") or "",
        pids_limit=host_config.get("PidsLimit") or None,
    )


def to_event(document: Mapping[str, Any]) -> cri.ContainerEvent | None:
    """An event of the engine as a hint; None for one that changes no state."""
    kind = _EVENT_TYPES.get(document.get("Action") or document.get("status") or "")
    actor = document.get("Actor") or {}
    container_id = actor.get("ID") or document.get("id")
    if kind is None or not container_id:
        return None
    return cri.ContainerEvent(
        container_id=container_id,
        type=kind,
        created_at=datetime.fromtimestamp(int(document.get("timeNano", 0)) / 1e9, UTC),
        pod_uid=(actor.get("Attributes") or {}).get(POD_UID, ""),
    )


def _find_outcome(state: Mapping[str, Any], created_at: datetime) -> dict[str, Any]:
    started_at, finished_at = parse_engine_time(state.get("StartedAt")), parse_engine_time(state.get("FinishedAt"))
    exit_code, error = int(state.get("ExitCode") or 0), state.get("Error") or ""
    word = _state_word(state)
    if word in _RUNNING_STATES:
        return {"state": cri.ContainerState.RUNNING, "started_at": started_at}
    if started_at is None and (exit_code != 0 or error):
        # It could not be started; the engine leaves the times unset (older ones) or only the start.
        return {
            "state": cri.ContainerState.EXITED,
            "started_at": created_at,
            "finished_at": finished_at or created_at,
            "exit_code": exit_code,
            "reason": CONTAINER_CANNOT_RUN,
            "message": error,
        }
    if finished_at is None and word == "created":
        return {"state": cri.ContainerState.CREATED, "message": error}
    if finished_at is None:
        return {"state": to_container_state(word), "started_at": started_at, "exit_code": exit_code, "message": error}
    if started_at is not None:
        # The engine notes the end of a very short run before its start.
        started_at = min(started_at, finished_at)
    reason = OOM_KILLED if state.get("OOMKilled") else COMPLETED if exit_code == 0 else ERROR
    return {
        "state": cri.ContainerState.EXITED,
        "started_at": started_at,
        "finished_at": finished_at,
        "exit_code": exit_code,
        "reason": reason,
        "message": error,
    }


def _state_word(state: Mapping[str, Any]) -> str:
    return str(state.get("Status") or ("running" if state.get("Running") else "exited"))


def _find_image_name(created_from: str, written: str, image: Mapping[str, Any] | None) -> str:
    tags = [tag for tag in (image or {}).get("RepoTags") or () if tag != "<none>:<none>"]
    for name in (written, created_from):
        if name in tags:
            return name
    return tags[0] if tags else created_from


def _to_mount(entry: Mapping[str, Any]) -> cri.Mount:
    is_volume = entry.get("Type") == "volume"
    return cri.Mount(
        container_path=entry["Destination"],
        host_path="" if is_volume else entry.get("Source", ""),
        readonly=not entry.get("RW", True),
        propagation=_PROPAGATION.get(entry.get("Propagation", ""), cri.MountPropagation.PRIVATE),
        volume=entry.get("Name", "") if is_volume else "",
    )


def _first_name(entry: Mapping[str, Any]) -> str:
    # A container linked to by others has further names, with more than one slash.
    names: list[str] = entry.get("Names") or []
    return next((name for name in names if name.count("/") == 1), names[0] if names else "")
