"""Volumes of kind ``emptyDir``: a directory, or a tmpfs of their own.

Source: pkg/volume/emptydir/empty_dir.go.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import ClassVar, Final

from vkprovider.api.pods import iter_containers
from vkprovider.api.quantity import int_value
from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumePlugin, VolumeRequest, mount_error
from vkprovider.kubelet.volumes.mounts import mount_tmpfs
from vkprovider.kubelet.volumes.ownership import set_group
from vkprovider.kubelet.volumes.storage import make_volume_dir

MODE: Final = 0o777
_TMPFS_MODE: Final = 0o1777


class EmptyDirPlugin(VolumePlugin):
    """A directory that everybody may write to; its contents live as long as the pod."""

    kind: ClassVar[str] = "emptyDir"

    async def prepare(self, request: VolumeRequest) -> PreparedVolume:
        """A directory on disk or a tmpfs.

        Raises:
            PodSyncError: The medium cannot be had on this node.
        """
        medium = (request.volume.get("emptyDir") or {}).get("medium") or ""
        directory = request.directory("empty-dir")
        group = request.fs_group
        if medium == "Memory":
            if not request.host.can_mount and not request.host.simulated:
                raise mount_error(
                    "emptyDir with medium Memory needs a tmpfs, which this node agent cannot mount: it must run as root, in "
                    "the mount namespace of the container runtime"
                )
            options = make_tmpfs_options(compute_size_bytes(request), group)
            return PreparedVolume(directory, lambda: _set_up_tmpfs(directory, options))
        if medium:
            raise mount_error(f"emptyDir with medium {medium} is not supported by this node yet")
        return PreparedVolume(directory, lambda: _set_up_directory(directory, group))


def compute_size_bytes(request: VolumeRequest) -> int:
    """Size of a tmpfs: the smallest of the node's memory, the pod's limit and ``sizeLimit``; 0 for no bound.

    Source: empty_dir.go, calculateEmptyDirMemorySize.
    """
    bounds = [int_value(request.node.get_allocatable().get("memory", "0"))]
    limits = [((c.get("resources") or {}).get("limits") or {}).get("memory") for _, c in iter_containers(request.pod)]
    if limits and all(limits):
        bounds.append(sum(int_value(limit) for limit in limits if limit))
    bounds.append(int_value(str((request.volume.get("emptyDir") or {}).get("sizeLimit") or "0")))
    return min((bound for bound in bounds if bound > 0), default=0)


def make_tmpfs_options(size_bytes: int, group: int | None) -> str:
    """Options for mounting a tmpfs of this size that belongs to a group."""
    options = [f"size={size_bytes}"] if size_bytes else []
    mode = _TMPFS_MODE if group is None else _TMPFS_MODE | stat.S_ISGID
    options.append(f"mode={mode:o}")
    if group is not None:
        options.append(f"gid={group}")
    return ",".join(options)


def _set_up_directory(directory: Path, group: int | None) -> None:
    if group is None:
        make_volume_dir(directory, MODE)
        return
    if make_volume_dir(directory, MODE) or not directory.stat().st_mode & stat.S_ISGID:
        # Setgid comes last, so it tells that an earlier attempt got to its end.
        set_group(directory, group)


def _set_up_tmpfs(directory: Path, options: str) -> None:
    make_volume_dir(directory, 0o750)
    if not os.path.ismount(directory):
        mount_tmpfs(directory, options)
