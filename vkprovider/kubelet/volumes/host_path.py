"""Volumes of kind ``hostPath``: a path of the host, checked as its type says.

Source: pkg/volume/hostpath/host_path.go, fileTypeChecker.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Final

from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumePlugin, VolumeRequest, mount_error

_KINDS: Final[Mapping[str, tuple[Callable[[int], bool], str]]] = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


class HostPathPlugin(VolumePlugin):
    """A path of the host; never given to a group, never removed."""

    kind: ClassVar[str] = "hostPath"

    async def prepare(self, request: VolumeRequest) -> PreparedVolume:
        """The path. Raises: PodSyncError."""
        source = request.volume["hostPath"]
        return prepare_host_path(request, source.get("path", ""), source.get("type") or "")


def prepare_host_path(request: VolumeRequest, path: str, kind: str, *, read_only: bool = False) -> PreparedVolume:
    """A path of the host as a volume.

    Args:
        request: Who wants it.
        path: The path.
        kind: What it must be, as in ``hostPath.type``; empty for no check.
        read_only: Whether containers may only read it.

    Raises:
        PodSyncError: The path has ``..`` in it, or cannot be looked at from here.
    """
    if ".." in path.split("/"):
        raise mount_error(f"invalid HostPath `{path}`: must not contain '..'")
    if kind and not request.host.sees_host and not request.host.simulated:
        raise mount_error(
            f"hostPath type check failed: {path} cannot be looked at: the node agent does not share the host's mount namespace; "
            "leave the type out"
        )
    return PreparedVolume(Path(path), (lambda: check_type(path, kind)) if kind else None, read_only=read_only)


def check_type(path: str, kind: str) -> None:
    """Make sure that a path is what it should be, making it where the type says so.

    Raises:
        PodSyncError: It is not.
        OSError: It cannot be made.
    """
    if kind not in _KINDS:
        raise mount_error(f"{kind} is an invalid volume type")
    is_kind, word = _KINDS[kind]
    if kind == "DirectoryOrCreate" and not os.path.lexists(path):
        _make_directories(path)
    elif kind == "FileOrCreate" and not os.path.lexists(path):
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            os.fchmod(descriptor, 0o644)
            os.close(descriptor)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = 0
    if not is_kind(mode):
        raise mount_error(f"hostPath type check failed: {path} is not a {word}")


def _make_directories(path: str) -> None:
    parent = os.path.dirname(path.rstrip("/"))
    if parent and not os.path.isdir(parent):
        _make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
