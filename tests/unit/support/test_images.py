from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile

import pytest

from support.images import Entry, Image, is_static


def elf(*, segment: int, bits: int = 64) -> bytes:
    """The head of an ELF program with one segment."""
    data = bytearray(256)
    data[:6] = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1])
    if bits == 64:
        struct.pack_into("<Q", data, 0x20, 64)
        struct.pack_into("<HH", data, 0x36, 56, 1)
        struct.pack_into("<I", data, 64, segment)
    else:
        struct.pack_into("<I", data, 0x1C, 52)
        struct.pack_into("<HH", data, 0x2A, 32, 1)
        struct.pack_into("<I", data, 52, segment)
    return bytes(data)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_program_with_a_loader_is_not_static(tmp_path, bits):
    program = tmp_path / "program"
    program.write_bytes(elf(segment=1, bits=bits))  # PT_LOAD
    assert is_static(program)
    program.write_bytes(elf(segment=3, bits=bits))  # PT_INTERP
    assert not is_static(program)
    program.write_text("#!/bin/sh\n")
    assert not is_static(program)


def test_an_archive_is_what_the_engine_loads_and_always_the_same():
    image = Image(["a:1", "b:2"], [Entry("/x/y/z", data=b"hello", mode=0o644, uid=5)], {"Cmd": ["sh"]})
    image_id, archive = image.archive()
    assert (image_id, archive) == image.archive()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] == ["a:1", "b:2"]
    config = files[manifest["Config"]]
    assert image_id == f"sha256:{hashlib.sha256(config).hexdigest()}"
    layer = files[manifest["Layers"][0]]
    described = json.loads(config)
    assert described["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert described["config"] == {"Cmd": ["sh"]}


def test_a_layer_has_directories_before_what_is_in_them_once_each():
    image = Image(["a:1"], [Entry("/x/y", data=b"1"), Entry("/x/link", target="y"), Entry("/tmp", mode=0o1777)])
    _, archive = image.archive()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        name = next(name for name in tar.getnames() if name.endswith("layer.tar"))
        with tarfile.open(fileobj=tar.extractfile(name)) as layer:
            members = layer.getmembers()
    assert [(m.name, m.type, oct(m.mode)) for m in members] == [
        ("x", tarfile.DIRTYPE, "0o755"),
        ("x/y", tarfile.REGTYPE, "0o755"),
        ("x/link", tarfile.SYMTYPE, "0o755"),
        ("tmp", tarfile.DIRTYPE, "0o1777"),
    ]


def test_images_of_other_content_have_other_ids():
    plain = Image(["a:1"], [Entry("/x", data=b"1")])
    assert plain.archive()[0] != Image(["a:1"], [Entry("/x", data=b"2")]).archive()[0]
    assert plain.archive()[0] != Image(["a:1"], [Entry("/x", data=b"1")], {"User": "app"}).archive()[0]
    assert plain.archive()[0] == Image(["other:1"], [Entry("/x", data=b"1")]).archive()[0]
