"""What a simulated container sees of the real filesystem: its mounts inside the agent's directory, nothing else."""

import pytest

from vkprovider.backends.memory.process import MAX_FILE_BYTES, Files
from vkprovider.provider import cri


def mount(container_path, host_path, **fields):
    return cri.Mount(container_path=container_path, host_path=str(host_path), **fields)


def test_own_files_live_in_memory():
    files = Files()
    files.write("/tmp/a", b"1")
    files.write("/tmp/a", b"2", append=True)
    assert files.read("/tmp/a") == b"12"
    assert files.is_file("/tmp/a")
    assert files.is_dir("/tmp")
    assert files.list_dir("/tmp") == ["a"]
    files.remove("/tmp/a")
    for action in (files.read, files.remove):
        with pytest.raises(FileNotFoundError):
            action("/tmp/a")


def test_mount_leads_to_real_files_inside_the_root(tmp_path):
    (tmp_path / "vol").mkdir()
    (tmp_path / "vol" / "key").write_text("value")
    files = Files([mount("/etc/config", tmp_path / "vol")], tmp_path)
    assert files.read("/etc/config/key") == b"value"
    assert files.list_dir("/etc/config") == ["key"]
    files.write("/etc/config/new", b"x")
    assert (tmp_path / "vol" / "new").read_bytes() == b"x"
    files.remove("/etc/config/new")
    assert not (tmp_path / "vol" / "new").exists()


def test_links_inside_the_root_are_followed(tmp_path):
    (tmp_path / "..data-1").mkdir()
    (tmp_path / "..data-1" / "key").write_text("v")
    (tmp_path / "..data").symlink_to("..data-1")
    (tmp_path / "key").symlink_to("..data/key")
    assert Files([mount("/c", tmp_path)], tmp_path).read("/c/key") == b"v"


def test_nothing_outside_the_root_is_touched(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("s")
    (root / "link").symlink_to(outside)
    files = Files([mount("/host", outside), mount("/linked", root)], root)
    for path in ("/host/secret", "/linked/link/secret"):
        with pytest.raises(FileNotFoundError):
            files.read(path)
    files.write("/host/new", b"x")
    assert files.read("/host/new") == b"x"
    assert sorted(item.name for item in outside.iterdir()) == ["secret"]


def test_without_a_root_mounts_are_memory(tmp_path):
    files = Files([mount("/c", tmp_path)])
    files.write("/c/a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_read_only_mount_refuses(tmp_path):
    (tmp_path / "a").write_text("x")
    files = Files([mount("/c", tmp_path, readonly=True)], tmp_path)
    for action in (lambda: files.write("/c/a", b"y"), lambda: files.remove("/c/a")):
        with pytest.raises(OSError, match="Read-only"):
            action()


def test_inner_mount_wins(tmp_path):
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    files = Files([mount("/c", tmp_path / "outer"), mount("/c/sub", tmp_path / "inner")], tmp_path)
    assert files.read("/c/f") == b"outer"
    assert files.read("/c/sub/f") == b"inner"


def test_file_size_is_bounded(tmp_path):
    files = Files([mount("/c", tmp_path)], tmp_path)
    for path in ("/c/f", "/own"):
        for _ in range(3):
            files.write(path, b"x" * (MAX_FILE_BYTES // 2), append=True)
        assert len(files.read(path)) == MAX_FILE_BYTES
