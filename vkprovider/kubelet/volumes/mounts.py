"""Mounts of the host: made, undone and listed. Blocking; needs root for all but listing.

Source: mount(2), umount2(2), proc_pid_mountinfo(5); k8s.io/mount-utils.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_BIND: Final = 4096
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of the mount table: where, of which filesystem type and device number."""

    path: str
    filesystem: str
    device: int


def list_mounts(under: Path | None = None) -> list[MountPoint]:
    """Mounts in the order in which they were made.

    Args:
        under: Only this path and what lies below it.

    Raises:
        OSError: The mount table cannot be read.
    """
    table = MOUNTINFO.read_bytes()
    prefix = None if under is None else os.fsencode(under)
    if prefix is not None and _escape(prefix) not in table:
        return []
    found: list[MountPoint] = []
    for line in table.splitlines():
        fields = line.split(b" ")
        path = _ESCAPE.sub(lambda match: bytes([int(match.group(1), 8)]), fields[4])
        if prefix is not None and path != prefix and not path.startswith(prefix + b"/"):
            continue
        major, _, minor = fields[2].partition(b":")
        kind = fields[fields.index(b"-", 6) + 1]
        found.append(MountPoint(os.fsdecode(path), kind.decode(), os.makedev(int(major), int(minor))))
    return found


def is_in_memory(path: Path) -> bool:
    """Whether an existing path lies on a filesystem that is memory only.

    Raises:
        OSError: It does not exist, or the mount table cannot be read.
    """
    device = path.stat().st_dev
    return any(mount.device == device and mount.filesystem in MEMORY_FILESYSTEMS for mount in list_mounts())


def mount_tmpfs(path: Path, options: str) -> None:
    """Mount a new tmpfs.

    Args:
        path: Existing directory.
        options: As in ``mount -o``, e.g. ``size=1048576,mode=1777``.

    Raises:
        OSError: It cannot be mounted.
    """
    _mount("tmpfs", str(path), "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def bind_descriptor(descriptor: int, path: Path) -> None:
    """Mount what an open file or directory is, not what its name leads to, on an existing path of the same type.

    Raises:
        OSError: It cannot be mounted.
    """
    _mount(f"/proc/self/fd/{descriptor}", str(path), "", _MS_BIND, "")


def unmount(path: str | Path, *, detach: bool = False) -> None:
    """Undo the topmost mount on a path.

    Args:
        path: The mount point.
        detach: Take it out of the tree at once, even while it is in use elsewhere.

    Raises:
        OSError: It is in use, or nothing is mounted there.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0)
    if _libc().umount2(os.fsencode(path), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    result = _libc().mount(
        os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _escape(path: bytes) -> bytes:
    for byte in (b"\\", b" ", b"\t", b"\n"):
        path = path.replace(byte, b"\\%03o" % byte[0])
    return path
