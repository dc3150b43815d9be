"""Generated programs: well-formed ELF files that do what a pause program does."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import shutil
import signal
import struct
import subprocess
import tarfile
import time

import pytest

from vkprovider.backends.docker import elf
from vkprovider.backends.docker.infra_image import make_archive

NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
QEMU = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}


def runnable():
    """Architectures that this host runs, natively or by an emulator, with the command prefix."""
    found = {}
    for architecture in ("amd64", "arm64"):
        if architecture == NATIVE:
            found[architecture] = []
        elif path := shutil.which(QEMU[architecture]):
            found[architecture] = [path]
    return found


@pytest.fixture(params=["amd64", "arm64"])
def command(request, tmp_path):
    """Function that writes a program of the architecture and gives the command that runs it."""
    prefix = runnable().get(request.param)
    if prefix is None:
        pytest.skip(f"this host runs no {request.param} programs (install qemu-user-static)")

    def make(program_of):
        path = tmp_path / "program"
        path.write_bytes(program_of(request.param))
        path.chmod(0o755)
        return [*prefix, str(path)]

    return make


@contextlib.contextmanager
def started(command, **options):
    process = subprocess.Popen(command, **options)
    try:
        time.sleep(0.3)
        assert process.poll() is None, f"it ended with {process.returncode}"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_header_tells_a_static_executable(architecture, machine):
    program = elf.make_pause_program(architecture)
    assert program[:7] == b"\x7fELF\x02\x01\x01"
    kind, got_machine, version, entry, phoff, shoff = struct.unpack_from("<HHIQQQ", program, 16)
    ehsize, phentsize, phnum = struct.unpack_from("<HHH", program, 52)
    assert (kind, got_machine, version, shoff) == (2, machine, 1, 0)
    assert (ehsize, phoff, phentsize, phnum) == (64, 64, 56, 2)
    kind, flags, offset, address, _, file_size, memory_size, align = struct.unpack_from("<IIQQQQQQ", program, phoff)
    assert (kind, flags, offset) == (1, 5, 0), "one segment, readable and executable, not writable"
    assert file_size == memory_size == len(program)
    assert address % align == offset % align
    assert address + 64 + 2 * 56 == entry
    assert struct.unpack_from("<II", program, phoff + 56) == (0x6474E551, 6), "the stack is not executable"


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_programs_are_tiny_and_deterministic(architecture):
    assert len(elf.make_pause_program(architecture)) < 400
    assert elf.make_pause_program(architecture) == elf.make_pause_program(architecture)


def test_other_architectures_are_not_known():
    with pytest.raises(KeyError):
        elf.make_pause_program("s390x")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pause_ends_with_zero_on_a_stop_signal(command, number):
    with started(command(elf.make_pause_program)) as process:
        process.send_signal(number)
        assert process.wait(timeout=5) == 0


def test_greeting_is_written_before_waiting(command):
    run = command(lambda architecture: elf.make_greeting_program(architecture, b"hello, world\n"))
    with started(run, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"hello, world\n"
        process.terminate()
        assert process.wait(timeout=5) == 0
        assert process.stdout.read() == b""
        process.stdout.close()


def test_children_are_reaped(command):
    # The shell becomes the program by exec, so that its background children are the program's.
    run = command(elf.make_pause_program)
    script = 'for i in 1 2 3 4 5; do sleep 0.2 & done; sleep 0.6 & exec "$@"'
    with started(["sh", "-c", script, "sh", *run]) as process:
        deadline = time.monotonic() + 5
        while (left := children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_archive_holds_one_image_of_one_program():
    program = elf.make_pause_program("amd64")
    archive = make_archive("example.com/p:1", "/pause", program, architecture="amd64", labels={"a": "b"})
    assert archive == make_archive("example.com/p:1", "/pause", program, architecture="amd64", labels={"a": "b"})
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))
        assert manifest["RepoTags"] == ["example.com/p:1"]
        configuration = json.load(tar.extractfile(manifest["Config"]))
        assert configuration["architecture"] == "amd64"
        assert configuration["config"] == {"Entrypoint": ["/pause"], "Labels": {"a": "b"}, "WorkingDir": "/"}
        with tarfile.open(fileobj=tar.extractfile(manifest["Layers"][0])) as layer:
            (entry,) = layer.getmembers()
            assert (entry.name, entry.mode) == ("pause", 0o755)
            assert layer.extractfile(entry).read() == program
