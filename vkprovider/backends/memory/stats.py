"""Figures of simulated containers: a steady use of CPU since the start, a fixed use of memory."""

from __future__ import annotations

from datetime import datetime

from vkprovider.backends.memory.records import ContainerRecord, SandboxRecord
from vkprovider.provider import cri


def make_sandbox_stats(sandbox: SandboxRecord, now: datetime) -> cri.PodSandboxStats:
    """Figures of a sandbox and of what runs in it."""
    containers = tuple(
        _make_container_stats(record, now) for record in sandbox.containers.values() if record.is_running()
    )
    cpu = sum(item.cpu.usage_core_nanoseconds for item in containers if item.cpu is not None)
    memory = sum(item.memory.working_set_bytes for item in containers if item.memory is not None)
    return cri.PodSandboxStats(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        labels=sandbox.config.labels,
        containers=containers,
        cpu=cri.CpuUsage(now, cpu),
        memory=cri.MemoryUsage(now, memory, memory, memory),
        network=(cri.NetworkUsage(now, "eth0"),) if sandbox.ips else (),
        process_count=len(containers),
    )


def _make_container_stats(record: ContainerRecord, now: datetime) -> cri.ContainerStats:
    behaviour = record.behaviour
    running_s = (now - (record.started_at or now)).total_seconds()
    memory = behaviour.memory_bytes
    return cri.ContainerStats(
        id=record.id,
        metadata=record.config.metadata,
        labels=record.config.labels,
        cpu=cri.CpuUsage(now, int(running_s * behaviour.cpu_cores * 1e9)),
        memory=cri.MemoryUsage(now, memory, memory, memory),
        writable_layer_bytes=0,
        process_count=1,
    )
