"""The host's figures, read from files as the kernel writes them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vkprovider.server.host import Interface, read_filesystem, read_host

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FILES = {
    "stat": "cpu  100 20 30 4000 50 6 7 8 90 0\ncpu0 50 10 15 2000 25 3 3 4 0 0\ncpu1 50 10 15 2000 25 3 4 4 0 0\nbtime 1700000000\n",
    "meminfo": "MemTotal: 1000 kB\nMemFree: 300 kB\nInactive(file): 200 kB\nAnonPages: 150 kB\nSwapTotal: 50 kB\nSwapFree: 40 kB\n",
    "vmstat": "pgfault 11\npgmajfault 2\n",
    "loadavg": "0.1 0.2 0.3 2/345 6789\n",
    "sys/kernel/pid_max": "32768\n",
    "net/dev": "Inter-|\n face |\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n  ens5: 10 1 2 0 0 0 0 0 30 4 5 0 0 0 0 0\n",
    "net/route": "Iface\tDestination\nens6\t0000A8C0\nens5\t00000000\n",
}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_everything_the_kernel_tells(proc: Path, tmp_path: Path) -> None:
    host = read_host(tmp_path, NOW, proc=proc)
    ticks_s = os.sysconf("SC_CLK_TCK")
    assert host.cpus == 2
    assert host.booted_at == datetime.fromtimestamp(1_700_000_000, UTC)
    # Idle, waiting for disks, and guests (which are in user already) are left out.
    assert host.cpu_core_nanoseconds == (100 + 20 + 30 + 6 + 7 + 8) * 1_000_000_000 // ticks_s
    assert (host.memory_capacity_bytes, host.memory_usage_bytes) == (1000 * 1024, 700 * 1024)
    assert (host.memory_working_set_bytes, host.memory_rss_bytes) == (500 * 1024, 150 * 1024)
    assert (host.swap_capacity_bytes, host.swap_usage_bytes) == (50 * 1024, 10 * 1024)
    assert (host.page_faults, host.major_page_faults) == (11, 2)
    assert (host.max_pid, host.processes) == (32768, 345)
    assert host.interfaces == (Interface("ens5", 10, 2, 30, 5),)
    assert host.default_interface == "ens5"


def test_a_system_that_tells_nothing_leaves_all_unknown(tmp_path: Path) -> None:
    host = read_host(tmp_path, NOW, proc=tmp_path / "nothing")
    assert host.cpus >= 1
    assert host.booted_at is host.cpu_core_nanoseconds is host.memory_usage_bytes is host.swap_usage_bytes is None
    assert host.interfaces == ()
    assert host.own is None


def test_the_filesystem_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    found = read_filesystem(tmp_path / "not" / "yet")
    assert found is not None
    assert found.capacity_bytes >= found.used_bytes + found.available_bytes > 0
