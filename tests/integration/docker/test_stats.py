"""The host's cgroup files and the engine tell the same of a container."""

from __future__ import annotations

import asyncio

import pytest

from vkprovider.backends.docker import stats
from vkprovider.backends.docker.cgroups import CgroupFiles

pytestmark = pytest.mark.docker


async def test_cgroup_files_say_what_the_engine_says(runtime, pods):
    sandbox = await pods.sandbox()
    container_id = await pods.shell("head -c 20000000 /dev/zero | tail -n 1 > /dev/null; sleep 60", sandbox=sandbox)
    await asyncio.sleep(1)
    samples = await asyncio.to_thread(CgroupFiles().read, [sandbox[0], container_id], with_network=[sandbox[0]])
    if not samples:
        pytest.skip("the engine's cgroups are not on this host")
    for id in (sandbox[0], container_id):
        theirs = await stats.read_stats(runtime._engine, id)
        assert theirs is not None
        ours = samples[id]
        cpu, engine_cpu = stats.to_cpu(ours), stats.to_cpu(theirs)
        memory, engine_memory = stats.to_memory(ours), stats.to_memory(theirs)
        assert cpu is not None
        assert engine_cpu is not None
        assert memory is not None
        assert engine_memory is not None
        assert 0 < cpu.usage_core_nanoseconds <= engine_cpu.usage_core_nanoseconds + 1_000_000
        assert memory.usage_bytes == pytest.approx(engine_memory.usage_bytes, abs=4 << 20)
        assert memory.working_set_bytes == pytest.approx(engine_memory.working_set_bytes, abs=4 << 20)
        assert ours["pids_stats"]["current"] == theirs["pids_stats"]["current"]
    network = stats.to_network(samples[sandbox[0]])
    engine_network = stats.to_network(await stats.read_stats(runtime._engine, sandbox[0]) or {})
    assert [entry.name for entry in network] == [entry.name for entry in engine_network] == ["eth0"]
    assert network[0].rx_bytes <= engine_network[0].rx_bytes


async def test_figures_are_the_same_without_the_files(runtime, pods):
    sandbox = await pods.sandbox()
    await pods.shell("sleep 60", sandbox=sandbox)
    by_files = await stats.list_stats(
        runtime._engine, runtime._sandboxes, runtime._containers, pods.labels, files=CgroupFiles()
    )
    by_engine = await stats.list_stats(runtime._engine, runtime._sandboxes, runtime._containers, pods.labels)
    assert [entry.id for entry in by_files] == [entry.id for entry in by_engine] == [sandbox[0]]
    assert [len(entry.containers) for entry in by_files] == [len(entry.containers) for entry in by_engine] == [1]
    assert by_files[0].process_count == by_engine[0].process_count
