"""Facts about the machine this process runs on, for nodes whose provider does not tell better."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine.

    Attributes:
        hostname: Its name, lower case.
        architecture: In Go's spelling, e.g. ``amd64``.
        machine_id: Of /etc/machine-id; empty if unknown, as are the following two.
        system_uuid: Of the firmware.
        boot_id: Of this boot.
        kernel_version: Release of the kernel.
        os_image: Name of the distribution.
        cpus: Cores this process may use.
        memory_bytes: Size of the memory.
        swap_bytes: Size of the swap space.
        storage_bytes: Size of the filesystem that holds the root directory.
    """

    hostname: str
    architecture: str
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel_version: str = ""
    os_image: str = ""
    cpus: int = 1
    memory_bytes: int = 0
    swap_bytes: int = 0
    storage_bytes: int = 0


def read_machine(root_dir: Path) -> Machine:
    """Look at this machine; what cannot be read stays empty. Does a little file work.

    Args:
        root_dir: Directory whose filesystem counts as the node's storage; need not exist yet.
    """
    memory = _read_meminfo()
    return Machine(
        hostname=socket.gethostname().strip().lower(),
        architecture=_ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower()),
        machine_id=_read("/etc/machine-id") or _read("/var/lib/dbus/machine-id"),
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or _read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_read_os_image(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory.get("MemTotal", 0),
        swap_bytes=memory.get("SwapTotal", 0),
        storage_bytes=_read_storage_bytes(root_dir),
    )


def find_default_ip() -> str:
    """Address of the interface that the default route leads through, IPv4 first; 127.0.0.1 on a machine without network.

    Source: apimachinery util/net/interface.go, ChooseHostInterface.
    """
    # Connecting a datagram socket sends nothing: it only asks the routing table.
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _read_meminfo() -> dict[str, int]:
    sizes = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if len(parts) == 2 and parts[1] == "kB":
            sizes[name] = int(parts[0]) * 1024
    return sizes


def _read_os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return platform.system()


def _read_storage_bytes(root_dir: Path) -> int:
    for directory in (root_dir, *root_dir.parents):
        try:
            info = os.statvfs(directory)
        except OSError:
            continue
        return info.f_frsize * info.f_blocks
    return 0
