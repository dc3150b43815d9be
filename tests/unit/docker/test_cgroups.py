"""Samples from cgroup files, of both versions and both drivers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vkprovider.backends.docker import stats
from vkprovider.backends.docker.cgroups import CgroupFiles
from vkprovider.errors import TransientError
from vkprovider.provider import cri

ID = "a" * 64
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1412      18    2    0    0     0          0         0      840      12    3    0    0     0       0          0
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def version_1(place: str, *, cpu: str = "cpuacct") -> dict[str, str]:
    return {
        f"{cpu}/{place}/cpuacct.usage": "12345\n",
        f"{cpu}/{place}/cgroup.procs": "42\n43\n",
        f"memory/{place}/memory.usage_in_bytes": "1000\n",
        f"memory/{place}/memory.stat": "inactive_file 1\ntotal_inactive_file 300\ntotal_rss 50\ntotal_pgfault 7\n",
        f"pids/{place}/pids.current": "3\n",
    }


def version_2(place: str) -> dict[str, str]:
    return {
        "cgroup.controllers": "cpu memory pids\n",
        f"{place}/cpu.stat": "usage_usec 12\nuser_usec 2\n",
        f"{place}/cgroup.procs": "42\n",
        f"{place}/memory.current": "1000\n",
        f"{place}/memory.stat": "anon 50\ninactive_file 400\npgfault 9\npgmajfault 2\n",
        f"{place}/pids.current": "5\n",
    }


def read(tmp_path: Path, files: dict[str, str], *, net_dev: str | None = NET_DEV, network: bool = True) -> Any:
    write(tmp_path / "cgroup", files)
    if net_dev is not None:
        write(tmp_path / "proc", {"42/net/dev": net_dev})
    reader = CgroupFiles(str(tmp_path / "cgroup"), str(tmp_path / "proc"))
    return reader.read([ID, "b" * 64], with_network=[ID] if network else [])


@pytest.mark.parametrize("place", [f"docker/{ID}", f"system.slice/docker-{ID}.scope"])
@pytest.mark.parametrize("cpu", ["cpuacct", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, place: str, cpu: str) -> None:
    samples = read(tmp_path, version_1(place, cpu=cpu))
    assert list(samples) == [ID]
    memory, usage = stats.to_memory(samples[ID]), stats.to_cpu(samples[ID])
    assert memory is not None
    assert usage is not None
    assert usage.usage_core_nanoseconds == 12345
    assert (memory.usage_bytes, memory.working_set_bytes, memory.rss_bytes, memory.page_faults) == (1000, 700, 50, 7)
    assert samples[ID]["pids_stats"] == {"current": 3}
    [network] = stats.to_network(samples[ID])
    assert (network.name, network.rx_bytes, network.rx_errors, network.tx_bytes, network.tx_errors) == (
        "eth0",
        1412,
        2,
        840,
        3,
    )


@pytest.mark.parametrize("place", [f"docker/{ID}", f"system.slice/docker-{ID}.scope"])
def test_version_2(tmp_path: Path, place: str) -> None:
    samples = read(tmp_path, version_2(place))
    memory, usage = stats.to_memory(samples[ID]), stats.to_cpu(samples[ID])
    assert memory is not None
    assert usage is not None
    assert usage.usage_core_nanoseconds == 12_000
    assert (memory.usage_bytes, memory.working_set_bytes, memory.rss_bytes) == (1000, 600, 50)
    assert (memory.page_faults, memory.major_page_faults) == (9, 2)
    assert samples[ID]["pids_stats"] == {"current": 5}


def test_without_the_pids_controller_processes_are_unknown(tmp_path: Path) -> None:
    files = version_1(f"docker/{ID}")
    del files[f"pids/docker/{ID}/pids.current"]
    assert read(tmp_path, files)[ID]["pids_stats"] == {}


def test_what_is_not_here_is_left_to_the_engine(tmp_path: Path) -> None:
    assert read(tmp_path, {}) == {}
    broken = {**version_1(f"docker/{ID}"), f"memory/docker/{ID}/memory.usage_in_bytes": ""}
    assert read(tmp_path, broken) == {}


@pytest.mark.parametrize("processes", ["", "0\n0\n", "4711\n"])
def test_a_network_that_cannot_be_seen_is_left_to_the_engine(tmp_path: Path, processes: str) -> None:
    files = {**version_1(f"docker/{ID}"), f"cpuacct/docker/{ID}/cgroup.procs": processes}
    assert read(tmp_path, files) == {}
    assert list(read(tmp_path, files, network=False)) == [ID]


class Listing:
    """Sandboxes or containers of an engine."""

    def __init__(self, *found: Any) -> None:
        self.found = found

    async def list(self, filter: Any) -> Any:
        return self.found


def make_sandbox(name: str) -> cri.PodSandbox:
    metadata = cri.PodSandboxMetadata(name, f"uid-{name}", "default")
    return cri.PodSandbox(cri.SandboxID(name), metadata, cri.SandboxState.READY, datetime.now(UTC), {})


@pytest.mark.looptime
async def test_a_container_the_engine_is_stuck_with_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(engine: Any, container_id: str) -> Any:
        if container_id == "stuck":
            await asyncio.Event().wait()
        if container_id == "lost":
            raise TransientError("connection lost")
        return {"cpu_stats": {"cpu_usage": {"total_usage": 5}}}

    monkeypatch.setattr(stats, "read_stats", answer)
    loop = asyncio.get_running_loop()
    began = loop.time()
    listing = Listing(*map(make_sandbox, ("well", "stuck", "lost")))
    found = await stats.list_stats(None, listing, Listing(), {})
    assert [entry.id for entry in found] == ["well"]
    assert loop.time() - began <= 8
    # What the files tell of is shown, whatever the engine does.
    files = CgroupFiles()
    monkeypatch.setattr(
        files, "read", lambda ids, with_network: {"well": {"cpu_stats": {"cpu_usage": {"total_usage": 5}}}}
    )
    listing = Listing(*map(make_sandbox, ("well", "stuck")))
    found = await stats.list_stats(None, listing, Listing(), {}, files=files)
    assert [entry.id for entry in found] == ["well"]
    with pytest.raises(TransientError, match="the engine does not tell what 2 containers use"):
        await stats.list_stats(None, Listing(*map(make_sandbox, ("stuck", "lost"))), Listing(), {})
    assert len(asyncio.all_tasks()) == 1
