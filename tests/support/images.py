"""Images for tests, made here and loaded into the engine: no registry is asked.

An image is a handful of files and a configuration, written as a docker-archive. The archive of the same content is the same to
the byte, so an image has one id everywhere, and loading it again changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.cache import cache_dir, file_lock

BUSYBOX_IMAGE = "vkprovider-test/busybox:1"
NONROOT_IMAGE = "vkprovider-test/nonroot:1"
# What benchmarks ask for by default.
BENCHMARK_IMAGE = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
PAUSE_IMAGE = "registry.k8s.io/pause:3.10.1"

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:an application:/home/app:/bin/sh
other:x:1001:1001:another one:/home/other:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = """\
root:x:0:
daemon:x:1:
app:x:1000:
other:x:1001:
shared:x:2000:app
extra:x:2001:app,other
nogroup:x:65534:
"""

_PAUSE_SOURCE = """\
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void on_end(int number) { _exit(0); }
static void on_child(int number) { while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
  struct sigaction end = {.sa_handler = on_end}, child = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGINT, &end, 0); sigaction(SIGTERM, &end, 0); sigaction(SIGCHLD, &child, 0);
  for (;;) pause();
}
"""
_PAUSE_SCRIPT = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"


class ImageError(Exception):
    """An image cannot be made; the text says what is missing and what to do."""


@dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link of an image.

    Attributes:
        path: Absolute path; directories above it are made.
        data: Contents of a file; None for a directory.
        target: Where a symbolic link points; None for others.
        mode: Permissions.
        uid: Owner.
        gid: Group.
    """

    path: str
    data: bytes | None = None
    target: str | None = None
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        tags: Its names.
        entries: What is in it.
        config: The ``config`` of an OCI image, such as ``{"Cmd": ["sh"], "User": "app"}``.
    """

    tags: Sequence[str]
    entries: Sequence[Entry]
    config: Mapping[str, Any] = field(default_factory=dict)

    def archive(self) -> tuple[str, bytes]:
        """The image's id, and the docker-archive to load."""
        layer = _layer(self.entries)
        digest = hashlib.sha256(layer).hexdigest()
        configuration = {
            "architecture": _GO_ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "vkprovider tests"}],
        }
        encoded = json.dumps(configuration, sort_keys=True).encode()
        image_id = hashlib.sha256(encoded).hexdigest()
        manifest = [{"Config": f"{image_id}.json", "RepoTags": list(self.tags), "Layers": [f"{digest}/layer.tar"]}]
        files = {
            f"{image_id}.json": encoded,
            f"{digest}/layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return f"sha256:{image_id}", out.getvalue()


def load_image(client: Any, image: Image) -> str:
    """Put an image into the engine unless it is there under all its names; safe to repeat and in parallel.

    Args:
        client: A ``docker.APIClient``.
        image: The image.

    Returns:
        Its id, with ``sha256:``.
    """
    import docker

    image_id, archive = image.archive()
    try:
        present = set(client.inspect_image(image_id)["RepoTags"] or ())
    except docker.errors.ImageNotFound:
        present = set()
    if not set(image.tags) <= present:
        for event in client.load_image(archive, quiet=True) or ():
            if isinstance(event, dict) and "error" in event:
                raise ImageError(f"the engine did not load {', '.join(image.tags)}: {event['error']}")
    return image_id


def busybox_image(*tags: str, **config: Any) -> Image:
    """An image with busybox and all its applets, some users and groups, and a /tmp for everybody.

    Args:
        tags: Names; ``BUSYBOX_IMAGE`` if none is given.
        config: Replaces values of the configuration: ``User="app"``, ``Entrypoint=[...]``, ``Env=[...]``.

    Raises:
        ImageError: No static busybox can be had.
    """
    binary = find_busybox()
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries = [
        Entry("/bin/busybox", data=binary.read_bytes()),
        *(Entry(f"/bin/{name}", target="busybox", mode=0o777) for name in sorted(applets) if name != "busybox"),
        Entry("/usr/bin/env", target="/bin/busybox", mode=0o777),
        Entry("/etc/passwd", data=PASSWD.encode(), mode=0o644),
        Entry("/etc/group", data=GROUP.encode(), mode=0o644),
        Entry("/root", mode=0o700),
        Entry("/home/app", uid=1000, gid=1000),
        Entry("/home/other", uid=1001, gid=1001),
        Entry("/tmp", mode=0o1777),
        Entry("/var/tmp", mode=0o1777),
        Entry("/var/www/index.html", data=b"hello from vkprovider's test image\n", mode=0o644),
    ]
    defaults = {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"]}
    return Image(tags or (BUSYBOX_IMAGE,), entries, {**defaults, **config})


def pause_image(*tags: str) -> Image:
    """An image that does nothing until told to end, for the benchmarks of bare engine calls."""
    tags = tags or (PAUSE_IMAGE,)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is not None:
        with tempfile.TemporaryDirectory() as directory:
            source, program = Path(directory, "pause.c"), Path(directory, "pause")
            source.write_text(_PAUSE_SOURCE)
            command = [compiler, "-Os", "-static", "-s", "-Wl,--build-id=none", "-o", str(program), str(source)]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return Image(tags, [Entry("/pause", data=program.read_bytes())], {"Entrypoint": ["/pause"]})
    busybox = find_busybox().read_bytes()
    return Image(
        tags, [Entry("/bin/busybox", data=busybox)], {"Entrypoint": ["/bin/busybox", "sh", "-c", _PAUSE_SCRIPT]}
    )


def load_test_images(client: Any) -> None:
    """Load ``BUSYBOX_IMAGE``, and ``NONROOT_IMAGE``, which is the same with the user ``app``.

    Raises:
        ImageError: They cannot be made.
    """
    load_image(client, busybox_image())
    load_image(client, busybox_image(NONROOT_IMAGE, User="app", WorkingDir="/home/app"))


def load_benchmark_images(client: Any) -> None:
    """Load what benchmarks of nodes and of the bare engine ask for by default, under those names; images that have the names
    already, real ones perhaps, stay.

    Raises:
        ImageError: They cannot be made.
    """
    import docker

    for name, make in ((BENCHMARK_IMAGE, busybox_image), (PAUSE_IMAGE, pause_image)):
        try:
            client.inspect_image(name)
        except docker.errors.ImageNotFound:
            load_image(client, make(name))


def find_busybox() -> Path:
    """A static busybox: the one in PATH, or that of Debian's busybox-static, kept in the cache.

    Raises:
        ImageError: There is none.
    """
    if (in_path := shutil.which("busybox")) and is_static(Path(in_path)):
        return Path(in_path)
    cached = cache_dir() / f"busybox-{platform.machine()}"
    with file_lock(cached.with_name(cached.name + ".lock")):
        if not cached.exists():
            _download_busybox(cached)
    return cached


def is_static(program: Path) -> bool:
    """Whether a file is an ELF program that needs no dynamic loader."""
    data = program.read_bytes()
    if data[:4] != b"\x7fELF":
        return False
    wide, order = data[4] == 2, "little" if data[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    table = number(0x20, 8) if wide else number(0x1C, 4)
    size, count = (number(0x36, 2), number(0x38, 2)) if wide else (number(0x2A, 2), number(0x2C, 2))
    interpreter = 3  # PT_INTERP
    return all(number(table + index * size, 4) != interpreter for index in range(count))


def _download_busybox(target: Path) -> None:
    """Take busybox out of Debian's package, without installing it.

    Raises:
        ImageError: It cannot be had.
    """
    advice = "install busybox-static, or put a static busybox in PATH"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ImageError(f"the test images need a static busybox, and this is no Debian to get one from: {advice}")
    with tempfile.TemporaryDirectory() as directory:
        for attempt in range(2):
            if attempt and os.geteuid() == 0:  # the lists of packages may be missing
                subprocess.run(["apt-get", "-qq", "update"], capture_output=True)
            done = subprocess.run(
                ["apt-get", "-qq", "download", "busybox-static"], cwd=directory, capture_output=True, text=True
            )
            packages = list(Path(directory).glob("*.deb"))
            if done.returncode == 0 and packages:
                break
        else:
            complaint = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise ImageError(f"'apt-get download busybox-static' failed ({complaint}): {advice}")
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), f"{directory}/root"], check=True, capture_output=True)
        found = [path for path in Path(directory, "root").rglob("busybox") if path.is_file() and is_static(path)]
        if not found:
            raise ImageError(f"Debian's busybox-static has no static busybox: {advice}")
        temporary = target.with_name(f".{target.name}.new")
        shutil.copyfile(found[0], temporary)
        temporary.chmod(0o755)
        temporary.rename(target)


def _layer(entries: Sequence[Entry]) -> bytes:
    """A tar of the entries, and of the directories above them, the same for the same content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as layer:
        made = {entry.path for entry in entries}
        for entry in entries:
            for parent in reversed(Path(entry.path).parents):
                if str(parent) != "/" and str(parent) not in made:
                    made.add(str(parent))
                    layer.addfile(_header(Entry(str(parent))))
            layer.addfile(_header(entry), io.BytesIO(entry.data or b""))
    return out.getvalue()


def _header(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path.lstrip("/"))
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    if entry.target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
    elif entry.data is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(entry.data)
    return info
