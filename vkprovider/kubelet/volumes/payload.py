"""What the kinds made of API objects have in common: contents are looked up, compared, and written at once.

Source: pkg/volume/configmap, pkg/volume/secret, pkg/volume/downwardapi, pkg/volume/projected; pkg/volume/util/nested_volumes.go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from vkprovider.api import v1
from vkprovider.api.pods import iter_containers
from vkprovider.errors import PodSyncError
from vkprovider.kubelet.volumes.atomic import is_written, write_payload
from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumePlugin, VolumeRequest
from vkprovider.kubelet.volumes.ownership import set_group
from vkprovider.kubelet.volumes.storage import make_volume_dir
from vkprovider.resolve.files import Payload, resolve_volume

ROOT_MODE: Final = 0o755
"""Containers mount it read-only, so that nobody has to write to it."""


class PayloadPlugin(VolumePlugin):
    """A volume whose files are made of API objects; containers only read it, and it follows its sources."""

    word: ClassVar[str]
    """The kind in directory names."""
    in_memory: ClassVar[bool] = True
    """Whether the files must stay off the disk."""

    async def prepare(self, request: VolumeRequest) -> PreparedVolume:
        """Look up the files. Raises: PodSyncError, TransientError."""
        directory = request.directory(self.word, in_memory=self.in_memory)
        payload = await resolve_volume(request.volume, request.pod, sources=request.sources)
        group, nested = request.fs_group, tuple(nested_mount_points(request.pod, request.name))

        def work() -> None:
            _write(directory, payload, group, nested)

        return PreparedVolume(directory, work, _digest(payload), read_only=True, refreshes=True)

    def find_existing(self, request: VolumeRequest) -> PreparedVolume | None:
        """The files as last written, for when an object is gone."""
        try:
            directory = request.directory(self.word, in_memory=self.in_memory)
        except PodSyncError:
            return None
        return PreparedVolume(directory, read_only=True, refreshes=True) if is_written(directory) else None


def nested_mount_points(pod: v1.Pod, volume: str) -> Iterator[str]:
    """Paths inside a volume on which containers mount other volumes; read-only, it cannot get them later.

    Source: nested_volumes.go, getNestedMountpoints.
    """
    for _, container in iter_containers(pod):
        mounts = container.get("volumeMounts") or ()
        for outer in mounts:
            if outer["name"] != volume or outer.get("subPath") or outer.get("subPathExpr"):
                continue
            prefix = outer["mountPath"].rstrip("/") + "/"
            for inner in mounts:
                path = inner["mountPath"].rstrip("/")
                relative = os.path.normpath(path[len(prefix) :])
                if path.startswith(prefix) and not relative.startswith(".."):
                    yield relative


def _write(directory: Path, payload: Payload, group: int | None, nested: tuple[str, ...]) -> None:
    make_volume_dir(directory, ROOT_MODE)

    def give() -> None:
        if group is not None:
            set_group(directory, group, read_only=True)

    write_payload(directory, payload, before_swap=give)
    for path in nested:
        # A file of the volume may be in the way: then the mount goes onto that.
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            os.makedirs(directory / path, mode=ROOT_MODE)


def _digest(payload: Payload) -> str:
    digest = hashlib.sha256()
    for path, file in sorted(payload.items()):
        digest.update(f"{path}\0{file.mode}\0{file.owner_uid}\0{len(file.data)}\0".encode("utf-8", "surrogateescape"))
        digest.update(file.data)
    return digest.hexdigest()
