"""What the host of this process uses: the node's figures where the provider does not know better.

Source: cadvisor, root container; pkg/kubelet/stats/helper.go, pidlimit_linux.go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A filesystem, in bytes and inodes; ``available`` is what others than root may take."""

    capacity_bytes: int
    available_bytes: int
    used_bytes: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of a network interface since boot."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What this process uses."""

    cpu_core_nanoseconds: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class HostUsage:
    """What a host uses; None and empty where it does not tell.

    Attributes:
        at: When this was true.
        cpus: Cores.
        booted_at: When it was booted.
        cpu_core_nanoseconds: CPU time that all cores were busy since boot.
        memory_capacity_bytes: Size of the memory.
        memory_usage_bytes: Memory that is not free.
        memory_working_set_bytes: Of that, what is not inactive file pages.
        memory_rss_bytes: Anonymous pages.
        page_faults: Page faults since boot.
        major_page_faults: Of those, the ones that had to read.
        swap_capacity_bytes: Size of the swap space.
        swap_usage_bytes: Of that, what is taken.
        filesystem: The filesystem of the root directory.
        interfaces: Network interfaces but loopback.
        default_interface: Name of the one the default route leads through; empty without one.
        max_pid: Most processes and threads there may be.
        processes: Processes and threads there are.
        own: This process.
    """

    at: datetime
    cpus: int = 1
    booted_at: datetime | None = None
    cpu_core_nanoseconds: int | None = None
    memory_capacity_bytes: int | None = None
    memory_usage_bytes: int | None = None
    memory_working_set_bytes: int | None = None
    memory_rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap_capacity_bytes: int | None = None
    swap_usage_bytes: int | None = None
    filesystem: Filesystem | None = None
    interfaces: tuple[Interface, ...] = ()
    default_interface: str = ""
    max_pid: int | None = None
    processes: int | None = None
    own: ProcessUsage | None = field(default=None)


def read_host(root_dir: Path, now: datetime, *, proc: Path = _PROC) -> HostUsage:
    """Look at the host. Reads a dozen small files; a filesystem that hangs makes it hang, so use a thread.

    Args:
        root_dir: Directory whose filesystem counts as the node's.
        now: The time.
        proc: Where the kernel tells about itself.
    """
    stat = _read_words(proc / "stat")
    memory = {name: int(words[0]) * 1024 for name, words in _read_words(proc / "meminfo", ":").items() if words}
    vmstat = {name: int(words[0]) for name, words in _read_words(proc / "vmstat").items() if words}
    total, free = memory.get("MemTotal"), memory.get("MemFree")
    usage = None if total is None or free is None else total - free
    booted_at = datetime.fromtimestamp(int(stat["btime"][0]), UTC) if stat.get("btime") else None
    swap_total = memory.get("SwapTotal")
    loadavg = _read(proc / "loadavg").split()
    return HostUsage(
        at=now,
        cpus=sum(1 for name in stat if name.startswith("cpu") and name != "cpu") or os.cpu_count() or 1,
        booted_at=booted_at,
        cpu_core_nanoseconds=_busy_nanoseconds(stat.get("cpu", [])),
        memory_capacity_bytes=total,
        memory_usage_bytes=usage,
        memory_working_set_bytes=None if usage is None else max(0, usage - memory.get("Inactive(file)", 0)),
        memory_rss_bytes=memory.get("AnonPages"),
        page_faults=vmstat.get("pgfault"),
        major_page_faults=vmstat.get("pgmajfault"),
        swap_capacity_bytes=swap_total,
        swap_usage_bytes=None if swap_total is None else swap_total - memory.get("SwapFree", 0),
        filesystem=read_filesystem(root_dir),
        interfaces=_read_interfaces(proc / "net" / "dev"),
        default_interface=_find_default_interface(proc / "net" / "route"),
        max_pid=_to_int(_read(proc / "sys" / "kernel" / "pid_max")),
        processes=_to_int(loadavg[3].partition("/")[2]) if len(loadavg) > 3 else None,
        own=_read_own(proc / "self" / "stat"),
    )


def read_filesystem(directory: Path) -> Filesystem | None:
    """The filesystem that holds a directory, or its nearest parent that exists; None if nothing can be learned."""
    for path in (directory, *directory.parents):
        try:
            info = os.statvfs(path)
        except OSError:
            continue
        return Filesystem(
            capacity_bytes=info.f_blocks * info.f_frsize,
            available_bytes=info.f_bavail * info.f_frsize,
            used_bytes=(info.f_blocks - info.f_bfree) * info.f_frsize,
            inodes=info.f_files,
            inodes_free=info.f_ffree,
        )
    return None


def _busy_nanoseconds(ticks: list[str]) -> int | None:
    """User, nice, system, irq, softirq and steal; what guests used is in user already."""
    if len(ticks) < 8:
        return None
    busy = sum(int(ticks[index]) for index in (0, 1, 2, 5, 6, 7))
    return busy * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _read_own(path: Path) -> ProcessUsage | None:
    fields = _read(path).rpartition(")")[2].split()
    if len(fields) < 22:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ProcessUsage(
        cpu_core_nanoseconds=ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"),
        rss_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def _read_interfaces(path: Path) -> tuple[Interface, ...]:
    found = []
    for line in _read(path).splitlines()[2:]:
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) >= 11 and name.strip() != "lo":
            found.append(Interface(name.strip(), int(words[0]), int(words[2]), int(words[8]), int(words[10])))
    return tuple(found)


def _find_default_interface(path: Path) -> str:
    for line in _read(path).splitlines()[1:]:
        words = line.split()
        if len(words) > 1 and words[1] == "00000000":
            return words[0]
    return ""


def _read_words(path: Path, separator: str | None = None) -> Mapping[str, list[str]]:
    lines = {}
    for line in _read(path).splitlines():
        name, _, rest = line.partition(separator or " ")
        lines[name.strip()] = rest.split()
    return lines


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _to_int(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None
