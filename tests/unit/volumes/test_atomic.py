"""The files of a volume appear all at once, in the kubelet's layout."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from vkprovider.errors import PodSyncError
from vkprovider.kubelet.volumes.atomic import is_written, write_payload
from vkprovider.resolve.files import ProjectedFile


def files(**contents: str) -> dict[str, ProjectedFile]:
    return {name.replace("__", "/"): ProjectedFile(text.encode()) for name, text in contents.items()}


def visible(root: Path) -> dict[str, str]:
    """What a reader sees: regular names only."""
    found = {}
    for entry in sorted(root.iterdir()):
        if not entry.name.startswith(".."):
            for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
                if path.is_file():
                    found[str(path.relative_to(root))] = path.read_text()
    return found


def sets(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if re.match(r"\.\.\d{4}_", entry.name))


def test_layout(tmp_path: Path) -> None:
    assert write_payload(tmp_path, {**files(a="1"), "d/e/f": ProjectedFile(b"2", 0o400)})
    (timestamped,) = sets(tmp_path)
    assert re.fullmatch(r"\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+", timestamped)
    assert os.readlink(tmp_path / "..data") == timestamped
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert os.readlink(tmp_path / "d") == "..data/d"
    assert visible(tmp_path) == {"a": "1", "d/e/f": "2"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [timestamped, "..data", "a", "d"]
    assert stat.S_IMODE((tmp_path / "d/e/f").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "d/e").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / timestamped).stat().st_mode) == 0o755


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_payload(tmp_path, {"d/a": ProjectedFile(b"1", 0o666)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "d/a").stat().st_mode) == 0o666
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755


def test_equal_files_are_left_alone(tmp_path: Path) -> None:
    write_payload(tmp_path, files(a="1", d__b="2"))
    before = sets(tmp_path)
    assert not write_payload(tmp_path, files(a="1", d__b="2"))
    assert sets(tmp_path) == before


@pytest.mark.parametrize(
    "new",
    [files(a="2", b="x"), files(a="1"), files(a="1", b="x", c__d="3"), files(b="x"), {}, files(a__now="dir", b="x")],
    ids=["changed", "one removed", "one added", "other removed", "emptied", "file becomes directory"],
)
def test_update(tmp_path: Path, new: dict[str, ProjectedFile]) -> None:
    write_payload(tmp_path, files(a="1", b="x"))
    assert write_payload(tmp_path, new)
    assert visible(tmp_path) == {path: file.data.decode() for path, file in new.items()}
    assert len(sets(tmp_path)) == 1


def test_open_files_keep_their_contents(tmp_path: Path) -> None:
    write_payload(tmp_path, files(a="old"))
    with (tmp_path / "a").open() as opened:
        write_payload(tmp_path, files(a="new"))
        assert opened.read() == "old"


def test_a_failure_before_the_swap_leaves_the_old_files(tmp_path: Path) -> None:
    write_payload(tmp_path, files(a="old"))

    def fail() -> None:
        assert visible(tmp_path) == {"a": "old"}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_payload(tmp_path, files(a="new"), before_swap=fail)
    assert visible(tmp_path) == {"a": "old"}
    assert len(sets(tmp_path)) == 1


@pytest.mark.parametrize("moment", ["new set", "new link", "swapped", "not linked"])
def test_what_a_killed_process_left_is_put_right(tmp_path: Path, moment: str) -> None:
    write_payload(tmp_path, files(a="old", gone="x"))
    half = tmp_path / "..2026_01_01_00_00_00.123"
    half.mkdir()
    (half / "a").write_text("half")
    if moment != "new set":
        os.symlink(half.name, tmp_path / "..data_tmp")
    if moment in ("swapped", "not linked"):
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")
    if moment == "not linked":
        (tmp_path / "a").unlink()
    write_payload(tmp_path, files(a="new"))
    assert visible(tmp_path) == {"a": "new"}
    assert len(sets(tmp_path)) == 1
    assert not os.path.lexists(tmp_path / "..data_tmp")
    assert is_written(tmp_path)


def test_same_contents_after_a_kill_between_swap_and_links(tmp_path: Path) -> None:
    write_payload(tmp_path, files(a="1", b="2"))
    (tmp_path / "b").unlink()
    os.symlink("..data/stale", tmp_path / "stale")
    assert not write_payload(tmp_path, files(a="1", b="2"))
    assert visible(tmp_path) == {"a": "1", "b": "2"}
    assert not os.path.lexists(tmp_path / "stale")


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/../../x", "..x", "..data/x", "", "a" * 256, "a/" + "b" * 256, "a/" * 2100 + "a", "a\0b"]
)
def test_paths_that_would_leave_the_volume_are_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(PodSyncError, match="invalid path") as caught:
        write_payload(root, {"ok": ProjectedFile(b""), path: ProjectedFile(b"x")})
    assert caught.value.reason == "FailedMount"
    assert list(root.iterdir()) == []
    assert list(tmp_path.iterdir()) == [root]


def test_directories_for_nested_mounts_stay(tmp_path: Path) -> None:
    write_payload(tmp_path, files(a="1"))
    (tmp_path / "nested").mkdir()
    write_payload(tmp_path, files(a="2"))
    assert (tmp_path / "nested").is_dir()
