"""Giving volumes to a pod's ``fsGroup``. Blocking; needs root unless the group is one of our own.

Source: pkg/volume/volume_linux.go, VolumeOwnership.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from vkprovider.kubelet.volumes.contracts import mount_error

_READ_WRITE: Final = 0o660
_READ_ONLY: Final = 0o440
_DIRECTORY: Final = stat.S_ISGID | 0o110


def set_group(root: Path, group: int, *, read_only: bool = False, only_on_mismatch: bool = False) -> None:
    """Give everything in a directory to a group, links themselves and not what they lead to.

    Files get the group's rights (read and write, or read), directories also search and setgid; other rights stay.

    Args:
        root: The volume.
        group: ``fsGroup`` of the pod.
        read_only: Whether reading is enough.
        only_on_mismatch: Do nothing if the root has the group and the rights already.

    Raises:
        PodSyncError: We may not (reason ``FailedMount``).
        OSError: Something else is wrong.
    """
    mask = _READ_ONLY if read_only else _READ_WRITE
    if only_on_mismatch and _matches(root, group, mask | _DIRECTORY):
        return
    try:
        _give(root, None, group, mask)
        # By descriptors: nothing that is swapped for a link meanwhile is followed.
        for _, directories, files, descriptor in os.fwalk(root, follow_symlinks=False):
            for name in (*directories, *files):
                _give(name, descriptor, group, mask)
    except PermissionError as error:
        raise mount_error(
            f"cannot give the volume to fsGroup {group}: {error.strerror}; the node agent must run as root for that"
        ) from error


def _matches(root: Path, group: int, wanted: int) -> bool:
    found = root.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_gid == group and found.st_mode & wanted == wanted


def _give(path: Path | str, descriptor: int | None, group: int, mask: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(opened)
        os.chown(path, -1, group, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return
        mode = stat.S_IMODE(found.st_mode) | mask
        if stat.S_ISDIR(found.st_mode):
            mode |= _DIRECTORY
        os.chmod(f"/proc/self/fd/{opened}", mode)
    finally:
        os.close(opened)
