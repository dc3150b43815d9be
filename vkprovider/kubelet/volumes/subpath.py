"""Finding a path inside a volume that a container may be writing to at the same time, without ever leaving the volume. Blocking.

The path is walked by descriptors, one name at a time and never following a link of the kernel's; links are followed by us, inside the
volume. ``..`` in a link goes back to a directory that was opened before. So whatever is swapped meanwhile, each descriptor was reached
from the volume's root by names alone.

Source: k8s.io/mount-utils, pkg/volume/util/subpath/subpath_linux.go, doSafeOpen, doSafeMakeDir, doBindSubPath.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vkprovider.kubelet.volumes.mounts import bind_descriptor, list_mounts, unmount
from vkprovider.kubelet.volumes.storage import make_parents

MAX_LINKS: Final = 40
_OPEN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS: Final = 0o777 | stat.S_ISGID


class SubPathError(OSError):
    """The path leads out of the volume, or through what is no directory."""


@contextmanager
def open_inside(root: Path, sub_path: str, *, create: bool, follow_links: bool = True) -> Iterator[int]:
    """A descriptor (``O_PATH``) of what a path inside a volume leads to; closed afterwards.

    Args:
        root: The volume.
        sub_path: Relative path.
        create: Make directories that are missing, with the rights of the volume's root.
        follow_links: Whether links inside the volume are followed; if not, they are refused.

    Raises:
        SubPathError: The path leaves the volume, or a link may not be followed.
        OSError: Something is missing or cannot be made.
    """
    stack = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        mode = os.fstat(stack[0]).st_mode & _PERMISSIONS
        todo = list(reversed(_split(sub_path)))
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":
                if len(stack) == 1:
                    raise SubPathError(errno.EXDEV, "the path leads out of the volume", sub_path)
                os.close(stack.pop())
                continue
            descriptor = _open(stack[-1], name, mode if create else None)
            info = os.fstat(descriptor)
            if not stat.S_ISLNK(info.st_mode):
                stack.append(descriptor)
                if todo and not stat.S_ISDIR(info.st_mode):
                    raise SubPathError(errno.ENOTDIR, "part of the path is not a directory", sub_path)
                continue
            try:
                target = os.readlink("", dir_fd=descriptor)
            finally:
                os.close(descriptor)
            links += 1
            if not follow_links:
                raise SubPathError(errno.ELOOP, "part of the path is a symbolic link", sub_path)
            if target.startswith("/"):
                raise SubPathError(errno.EXDEV, "a symbolic link leads out of the volume", sub_path)
            if links > MAX_LINKS:
                raise SubPathError(errno.ELOOP, "too many symbolic links", sub_path)
            todo += reversed(_split(target))
        yield stack[-1]
    finally:
        for descriptor in stack:
            os.close(descriptor)


def bind_sub_path(root: Path, sub_path: str, target: Path) -> None:
    """Mount a part of a volume on a path of ours, which then is safe to give to the runtime.

    Args:
        root: The volume.
        sub_path: Relative path inside it; missing directories are made.
        target: Where to mount it; an older mount there is let go (containers that have it keep it).

    Raises:
        SubPathError: The path leaves the volume.
        OSError: It cannot be made or mounted.
    """
    with open_inside(root, sub_path, create=True) as descriptor:
        for mount in reversed(list_mounts(target)):
            unmount(mount.path, detach=True)
        make_parents(target.parent)
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if target.exists() and target.is_dir() != is_directory:
            target.rmdir() if target.is_dir() else target.unlink()
        with contextlib.suppress(FileExistsError):
            if is_directory:
                target.mkdir(mode=0o750)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640))
        bind_descriptor(descriptor, target)


def _split(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _open(parent: int, name: str, create_mode: int | None) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except FileNotFoundError:
        if create_mode is None:
            raise
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        made = True
    descriptor = os.open(name, _OPEN, dir_fd=parent)
    if made and stat.S_ISDIR(os.fstat(descriptor).st_mode):
        # Whatever the umask says; by the descriptor, whatever the name is by now.
        os.chmod(f"/proc/self/fd/{descriptor}", create_mode)
    return descriptor
