"""The volume manager: sets volumes up, keeps them up to date, mounts them into containers, and takes them away.

It remembers only what saves work. After a restart each volume is prepared again, which finds its files as they are.

Source: pkg/kubelet/volumemanager; pkg/volume/util/operationexecutor; pkg/kubelet/kubelet_pods.go, makeMounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.pods import format_pod, get_uid
from vkprovider.api.reasons import CREATE_CONTAINER_CONFIG_ERROR, EVENT_FAILED_MOUNT, WARNING
from vkprovider.errors import ConfigurationError, NotFoundError, PodSyncError, TransientError, VkproviderError
from vkprovider.kubelet.volume_gate import (
    ContainerMounts,
    MountBackoff,
    VolumesNotReadyError,
    iter_mounted_volumes,
    unsupported_kind_message,
    volume_kind,
)
from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumeHost, VolumePlugin, VolumeRequest, mount_error
from vkprovider.kubelet.volumes.storage import list_pod_dirs, remove_empty_bases, remove_pod_dirs
from vkprovider.kubelet.volumes.subpath import SubPathError, bind_sub_path, open_inside
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import NodeContext, PodContext
from vkprovider.resolve.env import EnvFile
from vkprovider.resolve.expansion import expand_sub_path
from vkprovider.resolve.tokens import ServiceAccountTokens, TokenSource

logger = logging.getLogger(__name__)

MIN_REFRESH_S: Final = 1.0
"""A pod that is synced in quick succession looks its objects up no more often."""
MAX_ENV_FILE_BYTES: Final = 1024 * 1024
_PROPAGATION: Final = {
    "HostToContainer": cri.MountPropagation.HOST_TO_CONTAINER,
    "Bidirectional": cri.MountPropagation.BIDIRECTIONAL,
}


@dataclass(slots=True)
class _Volume:
    """A volume that is set up."""

    prepared: PreparedVolume
    refreshed_at: float


@dataclass(slots=True)
class _PodRecord:
    """What is remembered of a pod."""

    backoff: MountBackoff
    ready: dict[str, _Volume] = field(default_factory=dict)
    metadata: object = None
    # File work of an interrupted call may still be under way in its thread.
    file_lock: threading.Lock = field(default_factory=threading.Lock)


class NoTokens:
    """Stands for the tokens of simulated containers, so that none are asked for in vain."""

    async def get_token(self, pod: v1.Pod, *, audience: str = "", expiration_s: int | None = None) -> str:
        """An empty text."""
        return ""

    def forget_pod(self, pod_uid: v1.PodUID) -> None:
        """Nothing to forget."""


class PodVolumes:
    """``VolumeManager`` over plug-ins.

    Args:
        node: The node.
        find_host: Finds out what the machine offers; blocking, called once in a thread.
        plugins: Plug-ins by kind.
        refresh_period_s: Seconds between looks at the sources of a pod's volumes while nothing of it changes.
        supports_recursive_read_only: Whether the runtime can make mounts recursively read-only.
    """

    def __init__(
        self,
        node: NodeContext,
        find_host: Callable[[], VolumeHost],
        plugins: Mapping[str, VolumePlugin],
        *,
        refresh_period_s: float = 30.0,
        supports_recursive_read_only: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node = node
        self._find_host = find_host
        self._plugins = plugins
        self._refresh_period_s = refresh_period_s
        self._supports_recursive_read_only = supports_recursive_read_only
        self._tokens: TokenSource = ServiceAccountTokens(node.objects, clock=node.clock)
        self._pods: dict[v1.PodUID, _PodRecord] = {}
        self._host: VolumeHost | None = None
        self._found: set[v1.PodUID] = set()

    async def start(self) -> None:
        """Find out what the machine offers, and which pods left files here before.

        Raises:
            ConfigurationError: The node's directory cannot be read.
        """

        def look() -> tuple[VolumeHost, set[v1.PodUID]]:
            host = self._find_host()
            return host, set() if host.simulated else list_pod_dirs(host)

        try:
            self._host, self._found = await asyncio.to_thread(look)
        except OSError as error:
            raise ConfigurationError(
                f"cannot look for the pods' volumes: {_describe(error)}; the node agent must own its root directory"
            ) from error
        if self._get_host().simulated:
            self._tokens = NoTokens()

    async def aclose(self) -> None:
        """Leave no empty directory behind; volumes stay."""
        if self._host is not None and not self._host.simulated:
            await asyncio.to_thread(remove_empty_bases, self._host)

    # -- Setting up.

    async def prepare_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Set up what is missing and bring the rest up to date.

        Raises:
            VolumesNotReadyError: Something is not there yet.
        """
        if pod.get("spec", {}).get("volumes"):
            await self._prepare_pod(pod, context, older_than_s=MIN_REFRESH_S)

    async def refresh_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Bring the volumes of a pod that runs up to date, if it is time or the pod's metadata has changed.

        Raises:
            VolumesNotReadyError: Something is not there yet.
        """
        if pod.get("spec", {}).get("volumes"):
            await self._prepare_pod(pod, context, older_than_s=self._refresh_period_s)

    async def _prepare_pod(self, pod: v1.Pod, context: PodContext, *, older_than_s: float) -> None:
        uid, now = get_uid(pod), self._node.clock.monotonic()
        record = self._pods.get(uid)
        if record is None:
            record = self._pods[uid] = _PodRecord(MountBackoff(self._node.clock))
        metadata = (pod["metadata"].get("labels"), pod["metadata"].get("annotations"))
        if metadata != record.metadata:
            record.metadata, older_than_s = metadata, 0.0
        volumes = list(iter_mounted_volumes(pod))
        due = [volume for volume in volumes if _is_due(record, volume["name"], now - older_than_s)]
        if due:
            await self._set_up(record, pod, due, context)
        missing = [volume["name"] for volume in volumes if volume["name"] not in record.ready]
        if missing:
            raise VolumesNotReadyError(
                f"waiting for volumes: {', '.join(missing)}", retry_after_s=record.backoff.remaining_s(missing)
            )

    async def _set_up(
        self, record: _PodRecord, pod: v1.Pod, due: Sequence[Mapping[str, Any]], context: PodContext
    ) -> None:
        requests = [VolumeRequest(volume, pod, self._node, self._get_host(), self._tokens) for volume in due]
        outcomes: Sequence[PreparedVolume | Exception]
        if len(requests) == 1:
            outcomes = [await self._prepare(requests[0])]
        else:
            outcomes = await asyncio.gather(*(self._prepare(request) for request in requests))
        outcomes = await self._do_file_work(record, requests, outcomes)
        now = self._node.clock.monotonic()
        for request, outcome in zip(requests, outcomes, strict=True):
            name = request.name
            if isinstance(outcome, PreparedVolume):
                record.ready[name] = _Volume(outcome, now)
                record.backoff.succeed(name)
                continue
            if (volume := record.ready.get(name)) is not None:
                volume.refreshed_at = now
            record.backoff.fail(name)
            context.record_event(
                WARNING, EVENT_FAILED_MOUNT, f'MountVolume.SetUp failed for volume "{name}" : {_describe(outcome)}'
            )

    async def _prepare(self, request: VolumeRequest) -> PreparedVolume | Exception:
        kind = volume_kind(request.volume)
        plugin = self._plugins.get(kind)
        try:
            if plugin is None:
                raise mount_error(unsupported_kind_message(kind))
            prepared = await plugin.prepare(request)
            # Nobody reads the files of a simulated container: that its volumes can be had once is enough.
            return replace(prepared, refreshes=False) if request.host.simulated else prepared
        except VkproviderError as error:
            return error
        except Exception as error:
            logger.exception(
                "A volume plug-in failed", extra={"pod": format_pod(request.pod), "volume": request.name, "kind": kind}
            )
            return error

    async def _do_file_work(
        self, record: _PodRecord, requests: Sequence[VolumeRequest], outcomes: Sequence[PreparedVolume | Exception]
    ) -> Sequence[PreparedVolume | Exception]:
        """Do the file work of all volumes that need some, in one thread."""
        steps: dict[int, Callable[[], PreparedVolume | Exception]] = {}
        look_ups: dict[int, Callable[[], PreparedVolume | None]] = {}
        for index, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
            known = record.ready.get(request.name)
            if isinstance(outcome, PreparedVolume):
                if not self._get_host().simulated and (
                    outcome.work is not None and (known is None or known.prepared.version != outcome.version)
                ):
                    steps[index] = functools.partial(_work, outcome)
            elif (
                known is None
                and not self._get_host().simulated
                and (plugin := self._plugins.get(volume_kind(request.volume))) is not None
            ):
                look_ups[index] = functools.partial(_find_existing, plugin, request)
        if not steps and not look_ups:
            return outcomes

        def run() -> tuple[dict[int, PreparedVolume | Exception], dict[int, PreparedVolume | None]]:
            with record.file_lock:
                return (
                    {index: step() for index, step in steps.items()},
                    {index: look_up() for index, look_up in look_ups.items()},
                )

        done, existing = await asyncio.to_thread(run)
        for index, found in existing.items():
            if found is not None:
                # An earlier process set it up: it is kept, and the failure is told all the same.
                record.ready[requests[index].name] = _Volume(found, self._node.clock.monotonic())
        return [done.get(index, outcome) for index, outcome in enumerate(outcomes)]

    def _get_host(self) -> VolumeHost:
        if self._host is None:
            raise TransientError("the volume manager has not started yet", retry_after_s=1.0)
        return self._host

    # -- Mounting.

    async def make_mounts(
        self, pod: v1.Pod, container: v1.Container, environment: Mapping[str, str]
    ) -> ContainerMounts:
        """Mounts of one container, outer ones first.

        Raises:
            PodSyncError: A mount cannot be made (reason ``CreateContainerConfigError``).
        """
        if container.get("volumeDevices"):
            raise _config_error("volumeDevices are not supported by this node yet")
        entries = container.get("volumeMounts")
        if not entries:
            return ContainerMounts()
        record = self._pods.get(get_uid(pod))
        made: list[cri.Mount] = []
        groups: list[int] = []
        for index, entry in enumerate(entries):
            volume = record.ready.get(entry["name"]) if record is not None else None
            if volume is None:
                raise _config_error(f"volume {entry['name']!r} of container {container['name']!r} is not set up")
            sub_path = entry.get("subPath") or ""
            if entry.get("subPathExpr"):
                sub_path = expand_sub_path(entry["subPathExpr"], environment)
            path: Path = volume.prepared.path
            if sub_path:
                path = await self._make_sub_path(pod, container, index, entry, volume.prepared, sub_path)
            made.append(self._make_mount(entry, path, volume.prepared))
            groups += volume.prepared.supplemental_groups
        # Stable: of equal depth, the order of the spec counts.
        made.sort(key=lambda mount: len([part for part in mount.container_path.split("/") if part]))
        return ContainerMounts(mounts=tuple(made), supplemental_groups=tuple(dict.fromkeys(groups)))

    def _make_mount(self, entry: Mapping[str, Any], path: Path, prepared: PreparedVolume) -> cri.Mount:
        container_path = entry["mountPath"]
        recursive = entry.get("recursiveReadOnly")
        supported = self._supports_recursive_read_only()
        if recursive == "Enabled" and not supported:
            raise _config_error(
                f'volume "{entry["name"]}" requested recursive read-only mode, but it is not supported by the runtime'
            )
        return cri.Mount(
            container_path=container_path if container_path.startswith("/") else f"/{container_path}",
            host_path=str(path),
            readonly=bool(entry.get("readOnly")) or prepared.read_only,
            propagation=_PROPAGATION.get(entry.get("mountPropagation") or "", cri.MountPropagation.PRIVATE),
            recursive_read_only=recursive == "Enabled" or (recursive == "IfPossible" and supported),
        )

    async def _make_sub_path(
        self,
        pod: v1.Pod,
        container: v1.Container,
        index: int,
        entry: Mapping[str, Any],
        prepared: PreparedVolume,
        sub_path: str,
    ) -> Path:
        if sub_path.startswith("/"):
            raise _config_error(f"error SubPath `{sub_path}` must not be an absolute path")
        if ".." in sub_path.split("/"):
            raise _config_error(f"unable to provision SubPath `{sub_path}`: must not contain '..'")
        host = self._get_host()
        if host.simulated:
            return prepared.path / sub_path
        where = f'volumeMount "{entry["name"]}" of container "{container["name"]}"'
        target: Path = host.pod_dir(get_uid(pod)) / "volume-subpaths" / entry["name"] / container["name"] / str(index)
        try:
            if host.can_mount:
                await asyncio.to_thread(bind_sub_path, prepared.path, sub_path, target)
                return target
            return await asyncio.to_thread(_resolve_sub_path, prepared, sub_path)
        except OSError as error:
            # The message does not tell what lies on the host.
            logger.warning(
                "Cannot prepare a sub-path",
                extra={
                    "pod": format_pod(pod),
                    "container": container["name"],
                    "volume": entry["name"],
                    "error": error.strerror or str(error),
                },
            )
            hint = ""
            if isinstance(error, SubPathError) and not host.can_mount:
                hint = ": symbolic links in sub-paths need a node agent that can mount (as root, on the host)"
            raise _config_error(f"failed to prepare subPath for {where}{hint}") from error

    async def read_env_file(self, pod: v1.Pod, volume: str, path: str) -> EnvFile:
        """Read a file of a volume that holds variables.

        Raises:
            NotFoundError: No such volume is set up.
            OSError: The file cannot be read.
        """
        record = self._pods.get(get_uid(pod))
        known = record.ready.get(volume) if record is not None else None
        if known is None or self._get_host().simulated:
            raise NotFoundError(f'volume "{volume}" not found')
        text = await asyncio.to_thread(_read_inside, known.prepared.path, path)
        return EnvFile(str(known.prepared.path / path), text)

    # -- The end.

    async def cleanup_pod(self, uid: v1.PodUID) -> None:
        """Unmount and remove the volumes of a stopped pod.

        Raises:
            TransientError: Something is in use or cannot be removed.
        """
        record = self._pods.get(uid)
        if record is None and uid not in self._found:
            return
        host = self._get_host()
        self._tokens.forget_pod(uid)
        if not host.simulated:
            lock = record.file_lock if record is not None else threading.Lock()

            def remove() -> None:
                with lock:
                    remove_pod_dirs(host, uid)

            try:
                await asyncio.to_thread(remove)
            except (OSError, PodSyncError) as error:
                raise TransientError(f"cannot remove the volumes of pod {uid}: {error}") from error
        self._pods.pop(uid, None)
        self._found.discard(uid)

    def list_leftovers(self) -> Collection[v1.PodUID]:
        """UIDs of pods that had files here when the node started and were not cleaned up since."""
        return frozenset(self._found)


def _is_due(record: _PodRecord, name: str, refreshed_before: float) -> bool:
    if record.backoff.is_waiting(name):
        return False
    volume = record.ready.get(name)
    return volume is None or (volume.prepared.refreshes and volume.refreshed_at <= refreshed_before)


def _work(prepared: PreparedVolume) -> PreparedVolume | Exception:
    assert prepared.work is not None
    try:
        prepared.work()
    except (OSError, VkproviderError) as error:
        return error
    except Exception as error:
        logger.exception("The file work of a volume failed", extra={"path": str(prepared.path)})
        return error
    return prepared


def _find_existing(plugin: VolumePlugin, request: VolumeRequest) -> PreparedVolume | None:
    with contextlib.suppress(OSError):
        return plugin.find_existing(request)
    return None


def _describe(error: Exception) -> str:
    if isinstance(error, VkproviderError):
        return error.message
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return f"the volume plug-in failed ({type(error).__name__}); the log of the node tells why"


def _config_error(message: str) -> PodSyncError:
    return PodSyncError(message, reason=CREATE_CONTAINER_CONFIG_ERROR)


def _resolve_sub_path(prepared: PreparedVolume, sub_path: str) -> Path:
    """The true path of a part of a volume, for runtimes that look it up by name.

    Links are followed only where containers cannot write, so that none can be swapped meanwhile.
    """
    with open_inside(
        prepared.path, sub_path, create=not prepared.read_only, follow_links=prepared.read_only
    ) as descriptor:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _read_inside(root: Path, path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise SubPathError(0, "the path leads out of the volume", path)
    with open_inside(root, path, create=False) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SubPathError(0, "not a file", path)
        with open(f"/proc/self/fd/{descriptor}", encoding="utf-8", errors="replace") as file:
            return file.read(MAX_ENV_FILE_BYTES)
