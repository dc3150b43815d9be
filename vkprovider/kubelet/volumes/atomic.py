"""Writing the files of a volume so that readers see all of them old, or all of them new. Blocking.

The layout is the kubelet's: ``..<time>.<random>`` holds the files, ``..data`` leads to it, and each name at the top is a link into
``..data``. A process that dies in between leaves nothing that the next write does not put right.

Source: pkg/volume/util/atomic_writer.go.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vkprovider.kubelet.volumes.contracts import mount_error
from vkprovider.resolve.files import Payload, ProjectedFile

DATA_LINK: Final = "..data"
NEW_DATA_LINK: Final = "..data_tmp"
MAX_PATH_LENGTH: Final = 4096
MAX_NAME_LENGTH: Final = 255
_DIRECTORY_MODE: Final = 0o755
_TIMESTAMPED = re.compile(r"\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+\Z")


def check_payload_path(path: str) -> None:
    """Make sure that a file of a volume stays inside it.

    Raises:
        PodSyncError: It would not, or is too long (reason ``FailedMount``).

    Source: atomic_writer.go, validatePath.
    """
    parts = path.split("/")
    if not path or "\0" in path:
        raise mount_error("invalid path: must not be empty")
    if path.startswith("/"):
        raise mount_error(f"invalid path: must be relative path: {path}")
    if len(path) > MAX_PATH_LENGTH:
        raise mount_error(f"invalid path: must be less than or equal to {MAX_PATH_LENGTH} characters")
    if ".." in parts:
        raise mount_error(f"invalid path: must not contain '..': {path}")
    if parts[0].startswith(".."):
        raise mount_error(f"invalid path: must not start with '..': {path}")
    if any(len(os.fsencode(part)) > MAX_NAME_LENGTH for part in parts):
        raise mount_error(f"invalid path: filenames must be less than or equal to {MAX_NAME_LENGTH} characters")


def write_payload(root: Path, payload: Payload, *, before_swap: Callable[[], None] | None = None) -> bool:
    """Make a directory hold exactly these files; nothing is touched if it does.

    Args:
        root: The volume's directory; it exists.
        payload: Files by relative path.
        before_swap: Called when all files are there and nobody sees them yet, to set ownership.

    Returns:
        Whether anything was written.

    Raises:
        PodSyncError: A path leads out of the volume (reason ``FailedMount``).
        OSError: Something cannot be written; the old files are still in force.
    """
    for path in payload:
        check_payload_path(path)
    files = {os.path.normpath(path): file for path, file in payload.items()}
    current = _current(root)
    if current is not None and _holds(root / current, files):
        _link_names(root, files)
        _remove_others(root, current)
        return False
    fresh = f"..{datetime.now(UTC):%Y_%m_%d_%H_%M_%S}.{secrets.randbelow(10**10)}"
    _make_directory(root / fresh)
    try:
        for path, file in files.items():
            _write_file(root / fresh, path, file)
        if before_swap is not None:
            before_swap()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root / NEW_DATA_LINK)
        os.symlink(fresh, root / NEW_DATA_LINK)
        os.rename(root / NEW_DATA_LINK, root / DATA_LINK)
    except BaseException:
        shutil.rmtree(root / fresh, ignore_errors=True)
        raise
    _link_names(root, files)
    _remove_others(root, fresh)
    return True


def is_written(root: Path) -> bool:
    """Whether a complete set of files is there."""
    return _current(root) is not None


def _current(root: Path) -> str | None:
    try:
        target = os.readlink(root / DATA_LINK)
    except OSError:
        return None
    return target if _TIMESTAMPED.match(target) and (root / target).is_dir() else None


def _holds(directory: Path, files: Payload) -> bool:
    found: set[str] = set()
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), directory)
            if path not in files:
                return False
            found.add(path)
    return found == set(files) and all(_has(directory / path, file) for path, file in files.items())


def _has(path: Path, file: ProjectedFile) -> bool:
    info = path.lstat()
    return stat.S_ISREG(info.st_mode) and info.st_size == len(file.data) and path.read_bytes() == file.data


def _make_directory(path: Path) -> None:
    os.mkdir(path, 0o700)
    # Whatever the umask says.
    os.chmod(path, _DIRECTORY_MODE)


def _write_file(directory: Path, path: str, file: ProjectedFile) -> None:
    *parents, name = path.split("/")
    for part in parents:
        directory = directory / part
        with contextlib.suppress(FileExistsError):
            _make_directory(directory)
    descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.data)
        stream.flush()
        if file.owner_uid is not None:
            os.fchown(descriptor, file.owner_uid, -1)
        os.fchmod(descriptor, file.mode)


def _link_names(root: Path, files: Payload) -> None:
    names = {path.split("/")[0] for path in files}
    for name in names:
        target = f"{DATA_LINK}/{name}"
        try:
            os.symlink(target, root / name)
        except FileExistsError:
            if (root / name).is_symlink() and os.readlink(root / name) != target:
                os.unlink(root / name)
                os.symlink(target, root / name)
    for entry in os.scandir(root):
        if entry.name not in names and entry.is_symlink() and os.readlink(entry.path).startswith(f"{DATA_LINK}/"):
            os.unlink(entry.path)


def _remove_others(root: Path, current: str) -> None:
    """Remove older sets, and what an interrupted write left."""
    for entry in os.scandir(root):
        if entry.name != current and _TIMESTAMPED.match(entry.name) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name == NEW_DATA_LINK:
            os.unlink(entry.path)
