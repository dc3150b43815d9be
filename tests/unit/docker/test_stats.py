"""Samples of the engine as figures."""

from __future__ import annotations

from datetime import UTC, datetime

from vkprovider.backends.docker import stats
from vkprovider.provider import cri

SAMPLE = {
    "read": "2026-01-02T03:04:05.5Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 12345}},
    "memory_stats": {
        "usage": 1000,
        "stats": {
            "inactive_file": 1,
            "total_inactive_file": 300,
            "total_rss": 50,
            "total_pgfault": 7,
            "total_pgmajfault": 2,
        },
    },
    "pids_stats": {"current": 3},
    "networks": {"eth0": {"rx_bytes": 1, "rx_errors": 2, "tx_bytes": 3, "tx_errors": 4}},
}
AT = datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)


def test_working_set_leaves_out_inactive_file_pages_by_cgroup_v1():
    memory = stats.to_memory(SAMPLE)
    assert memory == cri.MemoryUsage(
        at=AT, working_set_bytes=700, usage_bytes=1000, rss_bytes=50, page_faults=7, major_page_faults=2
    )


def test_working_set_leaves_out_inactive_file_pages_by_cgroup_v2():
    sample = {**SAMPLE, "memory_stats": {"usage": 1000, "stats": {"inactive_file": 400, "anon": 20, "pgfault": 1}}}
    memory = stats.to_memory(sample)
    assert memory is not None
    assert (memory.working_set_bytes, memory.rss_bytes, memory.page_faults) == (600, 20, 1)


def test_missing_figures_are_unknown():
    assert stats.to_memory({}) is None
    assert stats.to_cpu({}) is None
    assert stats.to_network({}) == ()


def test_sandbox_adds_up_its_containers():
    sandbox = cri.PodSandbox(
        cri.SandboxID("s"), cri.PodSandboxMetadata("p", "u", "n"), cri.SandboxState.READY, AT, {"a": "b"}
    )
    member = cri.Container(
        cri.ContainerID("c"),
        sandbox.id,
        cri.ContainerMetadata("c"),
        cri.ImageSpec("i"),
        cri.ImageRef("i"),
        cri.ContainerState.RUNNING,
        AT,
    )
    found = stats.to_sandbox_stats(sandbox, SAMPLE, [stats.to_container_stats(member, SAMPLE)])
    assert found.cpu == cri.CpuUsage(AT, 24690)
    assert found.memory is not None
    assert found.memory.working_set_bytes == 1400
    assert found.network == (cri.NetworkUsage(AT, "eth0", 1, 2, 3, 4),)
    assert found.process_count == 6
    assert found.labels == {"a": "b"}
