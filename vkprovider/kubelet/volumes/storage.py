"""Where the files of volumes live: the node's directory on disk, one on a tmpfs; and how both are emptied. Blocking.

Source: pkg/kubelet/kubelet_volumes.go, cleanupOrphanedPodDirs, removeOrphanedPodVolumeDirs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vkprovider.api import v1
from vkprovider.kubelet.volumes.contracts import VolumeHost
from vkprovider.kubelet.volumes.mounts import is_in_memory, list_mounts, unmount
from vkprovider.provider.container_runtime import ContainerRuntime

MEMORY_BASE: Final = Path("/run/vkprovider")
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made inside and checked
DIRECTORY_MODE: Final = 0o750
_PRIVATE: Final = 0o700


def find_volume_host(runtime: ContainerRuntime, root_dir: Path, node_name: str) -> VolumeHost:
    """What this machine and a connected runtime offer to volumes.

    Args:
        runtime: The runtime.
        root_dir: Directory of the node's files.
        node_name: Name of the node.
    """
    if runtime.simulated:
        return VolumeHost(root_dir, simulated=True)
    memory_dir, problem = find_memory_dir(node_name, root_dir, sees_host=runtime.shares_mounts)
    return VolumeHost(
        root_dir,
        memory_dir,
        problem,
        can_mount=runtime.shares_mounts and os.geteuid() == 0,
        sees_host=runtime.shares_mounts,
    )


def find_memory_dir(node_name: str, root_dir: Path, *, sees_host: bool) -> tuple[Path | None, str]:
    """A private directory of this node on a tmpfs, made if absent.

    ``/run/vkprovider`` where that is a tmpfs, else one below ``/dev/shm``. While the runtime does not see our mounts, only a
    ``/run/vkprovider`` that is itself mounted here counts: then it is the host's.

    Args:
        node_name: Name of the node.
        root_dir: Directory of the node's files, which tells nodes of equal names apart.
        sees_host: Whether our paths are the host's.

    Returns:
        The directory, or None and what to do about it.
    """
    name = f"{node_name}-{hashlib.sha256(os.fsencode(root_dir.absolute())).hexdigest()[:8]}"
    problems: list[str] = []
    candidates = [MEMORY_BASE]
    if sees_host:
        candidates.append(SHARED_MEMORY / f"vkprovider-{os.geteuid()}")
    for base in candidates:
        try:
            if not sees_host and not os.path.ismount(base):
                problems.append(f"{base} is not mounted from the host")
                continue
            if not is_in_memory(base if base.exists() else base.parent):
                problems.append(f"{base} is not on a tmpfs")
                continue
            for directory in (base, base / name):
                _make_private(directory)
            return base / name, ""
        except OSError as error:
            problems.append(f"{base}: {error.strerror or error}")
    return None, (
        f"this node has no tmpfs for volumes that must not reach a disk ({'; '.join(problems)}): "
        f"mount a tmpfs of the host at {MEMORY_BASE} and start the node agent again"
    )


def _make_private(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, _PRIVATE)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it is not a directory of the agent's own user")
    if found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others may write to it")


def make_parents(directory: Path) -> None:
    """Make the directories above a volume, for nobody but us and our group."""
    if not directory.parent.is_dir():
        make_parents(directory.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, DIRECTORY_MODE)


def make_volume_dir(directory: Path, mode: int) -> bool:
    """Make a volume's own directory with exactly this mode, complete or not at all.

    Returns:
        Whether it is new.
    """
    if directory.is_dir() and not directory.is_symlink():
        return False
    make_parents(directory.parent)
    fresh = directory.parent / f".new-{directory.name}"
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(fresh)
    os.mkdir(fresh, _PRIVATE)
    os.chmod(fresh, mode)
    os.rename(fresh, directory)
    return True


def list_pod_dirs(host: VolumeHost) -> set[v1.PodUID]:
    """UIDs of pods that have files here."""
    found: set[v1.PodUID] = set()
    for base in _bases(host):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.update(v1.PodUID(entry.name) for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False))
    return found


def remove_pod_dirs(host: VolumeHost, uid: v1.PodUID) -> None:
    """Unmount and remove all volumes of a pod. Safe to repeat; what is still mounted is never descended into.

    Raises:
        OSError: Something is in use or cannot be removed.
    """
    directory = host.pod_dir(uid)
    if mounts := list_mounts(directory):
        for mount in reversed(mounts):
            unmount(mount.path)
        if left := list_mounts(directory):
            raise OSError(errno.EBUSY, "still mounted", left[0].path)
    for name in ("volumes", "volume-subpaths"):
        _remove_tree(directory / name)
    if host.memory_dir is not None:
        _remove_tree(host.memory_pod_dir(uid))


def remove_empty_bases(host: VolumeHost) -> None:
    """Leave no empty directory of this node on the tmpfs when it stops; the one above may be wanted by another just now."""
    if host.memory_dir is not None:
        for directory in (host.memory_dir / "pods", host.memory_dir):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _bases(host: VolumeHost) -> Iterator[Path]:
    yield host.root_dir / "pods"
    if host.memory_dir is not None:
        yield host.memory_dir / "pods"


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
