"""Sub-paths never lead out of their volume, whatever a container puts there and when."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vkprovider.kubelet.volumes.mounts import list_mounts, unmount
from vkprovider.kubelet.volumes.subpath import SubPathError, bind_sub_path, open_inside

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return volume


def resolve(volume: Path, sub_path: str, *, create: bool = False, follow_links: bool = True) -> str:
    with open_inside(volume, sub_path, create=create, follow_links=follow_links) as descriptor:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), volume)


def test_plain_paths_and_links_inside(volume: Path) -> None:
    (volume / "a/b").mkdir(parents=True)
    (volume / "a/file").write_text("x")
    os.symlink("a/b", volume / "link")
    os.symlink("../a/./file", volume / "a/up")
    os.symlink("link", volume / "twice")
    assert resolve(volume, "a/b") == "a/b"
    assert resolve(volume, "./a//file") == "a/file"
    assert resolve(volume, "link") == "a/b"
    assert resolve(volume, "twice") == "a/b"
    assert resolve(volume, "a/up") == "a/file"


@pytest.mark.parametrize(
    "target", ["/", "/etc", "../outside", "../outside/secret", "a/../../outside", "..", "a/b/../../../outside"]
)
def test_links_to_the_outside_are_refused(volume: Path, target: str) -> None:
    (volume / "a/b").mkdir(parents=True)
    os.symlink(target, volume / "link")
    for path in ("link", "link/secret"):
        with pytest.raises(SubPathError):
            resolve(volume, path, create=True)


def test_dots_in_the_path_itself_are_refused(volume: Path) -> None:
    with pytest.raises(SubPathError):
        resolve(volume, "../outside")


def test_loops_and_files_in_between_are_refused(volume: Path) -> None:
    os.symlink("two", volume / "one")
    os.symlink("one", volume / "two")
    (volume / "file").write_text("x")
    with pytest.raises(SubPathError):
        resolve(volume, "one")
    with pytest.raises(SubPathError):
        resolve(volume, "file/x", create=True)


def test_links_are_refused_when_they_may_not_be_followed(volume: Path) -> None:
    (volume / "a").mkdir()
    os.symlink("a", volume / "link")
    with pytest.raises(SubPathError):
        resolve(volume, "link", follow_links=False)


def test_missing_directories_get_the_rights_of_the_root(volume: Path) -> None:
    volume.chmod(0o2770)
    before = os.umask(0o077)
    try:
        assert resolve(volume, "new/deep", create=True) == "new/deep"
    finally:
        os.umask(before)
    assert stat.S_IMODE((volume / "new").stat().st_mode) == 0o2770
    assert stat.S_IMODE((volume / "new/deep").stat().st_mode) == 0o2770
    with pytest.raises(FileNotFoundError):
        resolve(volume, "other")


def test_swapping_a_directory_for_a_link_never_leads_out(volume: Path, tmp_path: Path) -> None:
    """The race of CVE-2017-1002101: a container swaps a directory for a link while its path is looked up."""
    (volume / "d").mkdir()
    (volume / "d/secret").write_text("mine")
    os.symlink("../outside", volume / "evil")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for first, second in (("d", "aside"), ("evil", "d"), ("d", "evil"), ("aside", "d")):
                os.rename(volume / first, volume / second)

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        seen = refused = 0
        for _ in range(3000):
            try:
                with open_inside(volume, "d/secret", create=False) as descriptor:
                    with open(f"/proc/self/fd/{descriptor}") as file:
                        assert file.read() == "mine"
                    seen += 1
            except OSError:
                refused += 1
    finally:
        stop.set()
        attacker.join()
    assert seen


@root_only
def test_bind_mounts_what_was_found_and_replaces_an_older_one(volume: Path, tmp_path: Path) -> None:
    (volume / "a").mkdir()
    (volume / "a/f").write_text("1")
    target = tmp_path / "pod" / "volume-subpaths" / "v" / "c" / "0"
    try:
        bind_sub_path(volume, "a", target)
        assert (target / "f").read_text() == "1"
        bind_sub_path(volume, "a", target)
        assert len(list_mounts(target)) == 1
        bind_sub_path(volume, "a/f", target)
        assert target.read_text() == "1"
        os.symlink("/etc", volume / "evil")
        with pytest.raises(SubPathError):
            bind_sub_path(volume, "evil", target)
    finally:
        for mount in list_mounts(tmp_path):
            unmount(mount.path)
    assert list_mounts(tmp_path) == []
