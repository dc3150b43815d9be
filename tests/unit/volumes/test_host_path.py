"""Paths of the host are what their type says, or the volume is refused in the kubelet's words."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vkprovider.errors import PodSyncError
from vkprovider.kubelet.volumes.host_path import check_type


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("Directory", "directory"),
        ("File", "file"),
        ("Socket", "socket file"),
        ("CharDevice", "character device"),
        ("BlockDevice", "block device"),
    ],
)
def test_missing_and_wrong_paths_are_refused(tmp_path: Path, kind: str, word: str) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("") if kind != "File" else wrong.mkdir()
    for path in (wrong, tmp_path / "missing"):
        with pytest.raises(PodSyncError) as caught:
            check_type(str(path), kind)
        assert caught.value.message == f"hostPath type check failed: {path} is not a {word}"
        assert caught.value.reason == "FailedMount"


def test_right_paths_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("file", tmp_path / "link")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        check_type(str(tmp_path / "s"), "Socket")
    check_type(str(tmp_path), "Directory")
    check_type(str(tmp_path / "file"), "File")
    check_type(str(tmp_path / "link"), "File")
    check_type("/dev/null", "CharDevice")


def test_directories_and_files_are_made_where_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        check_type(str(tmp_path / "a/b"), "DirectoryOrCreate")
    finally:
        os.umask(before)
    check_type(str(tmp_path / "a/b/f"), "FileOrCreate")
    check_type(str(tmp_path / "a/b/f"), "FileOrCreate")
    assert stat.S_IMODE((tmp_path / "a/b/f").stat().st_mode) == 0o644
    with pytest.raises(PodSyncError, match="is not a directory"):
        check_type(str(tmp_path / "a/b/f"), "DirectoryOrCreate")
    with pytest.raises(PodSyncError, match="is not a file"):
        check_type(str(tmp_path / "a/b"), "FileOrCreate")
    with pytest.raises(FileNotFoundError):
        check_type(str(tmp_path / "none/f"), "FileOrCreate")
    with pytest.raises(PodSyncError, match="Nonsense is an invalid volume type"):
        check_type(str(tmp_path), "Nonsense")
