"""The life of sandboxes and containers on the real engine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import docker.errors
import pytest

from support.images import BUSYBOX_IMAGE
from support.waiting import async_wait_for
from vkprovider.api import labels
from vkprovider.backends.docker.runtime import DockerRuntime
from vkprovider.errors import NotFoundError, PodSyncError, UnsupportedError
from vkprovider.provider import cri

pytestmark = pytest.mark.docker

GRACEFUL = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


async def test_whole_life_of_a_pod(runtime, pods, engine_api):
    sandbox_id, config = await pods.sandbox(annotations={"note": "kept"}, name="web")
    status = await runtime.pod_sandbox_status(sandbox_id)
    assert status.state is cri.SandboxState.READY
    assert status.metadata == config.metadata
    assert status.labels == config.labels
    assert status.annotations == {"note": "kept"}
    assert status.ip.count(".") == 3

    container_config = pods.container_config(config, "sh", "-c", GRACEFUL, annotations={"hash": "1"})
    container_id = await runtime.create_container(sandbox_id, container_config, config)
    assert (await runtime.container_status(container_id)).state is cri.ContainerState.CREATED
    await runtime.start_container(container_id)
    running = await runtime.container_status(container_id)
    assert running.state is cri.ContainerState.RUNNING
    assert running.started_at is not None
    assert running.image.image == container_config.image.image
    assert running.image_ref.startswith("sha256:")
    assert running.annotations == {"hash": "1"}
    assert running.labels == container_config.labels

    (listed,) = await runtime.list_containers(cri.ContainerFilter(pod_sandbox_id=sandbox_id))
    assert (listed.id, listed.state, listed.metadata) == (
        container_id,
        cri.ContainerState.RUNNING,
        container_config.metadata,
    )
    (sandbox,) = await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=pods.labels))
    assert (sandbox.id, sandbox.metadata, sandbox.labels) == (sandbox_id, config.metadata, config.labels)
    names = {
        entry["Names"][0]
        for entry in engine_api.containers(filters={"label": f"{labels.POD_UID}={config.metadata.uid}"})
    }
    assert names == {f"/k8s_POD_web_default_{config.metadata.uid}_0", f"/k8s_c_web_default_{config.metadata.uid}_0"}

    await pods.log_shows(container_id, b"ready")
    await runtime.stop_container(container_id, grace_period_s=10)
    ended = await runtime.container_status(container_id)
    assert (ended.state, ended.exit_code, ended.reason) == (cri.ContainerState.EXITED, 7, "Error")
    assert ended.finished_at is not None
    assert await pods.log(container_id) == b"ready\nbye\n"

    await runtime.stop_pod_sandbox(sandbox_id)
    stopped = await runtime.pod_sandbox_status(sandbox_id)
    assert (stopped.state, stopped.ip) == (cri.SandboxState.NOT_READY, "")
    await runtime.remove_pod_sandbox(sandbox_id)
    with pytest.raises(NotFoundError):
        await runtime.pod_sandbox_status(sandbox_id)
    with pytest.raises(NotFoundError):
        await runtime.container_status(container_id)
    assert await runtime.list_containers(cri.ContainerFilter(label_selector=pods.labels)) == []


async def test_every_verb_is_safe_to_repeat(runtime, pods):
    sandbox_id, config = await pods.sandbox()
    assert await runtime.run_pod_sandbox(config) == sandbox_id
    container_config = pods.container_config(config, "sh", "-c", GRACEFUL)
    container_id = await runtime.create_container(sandbox_id, container_config, config)
    assert await runtime.create_container(sandbox_id, container_config, config) == container_id
    for _ in range(2):
        await runtime.start_container(container_id)
    for _ in range(2):
        await runtime.stop_container(container_id, grace_period_s=0)
    for _ in range(2):
        await runtime.remove_container(container_id)
    for _ in range(2):
        await runtime.stop_pod_sandbox(sandbox_id)
    for _ in range(2):
        await runtime.remove_pod_sandbox(sandbox_id)
    await runtime.stop_container(container_id, grace_period_s=5)


async def test_creation_after_a_crash_adopts_what_was_made(runtime, pods):
    config = pods.sandbox_config()
    sandbox_id = await runtime.run_pod_sandbox(config)
    container_config = pods.container_config(config, "sleep", "100")
    container_id = await runtime.create_container(sandbox_id, container_config, config)
    again = DockerRuntime()
    await again.connect()
    try:
        assert await again.run_pod_sandbox(config) == sandbox_id
        assert await again.create_container(sandbox_id, container_config, config) == container_id
    finally:
        await again.aclose()


async def test_concurrent_creation_of_one_identity_makes_one_container(runtime, pods):
    config = pods.sandbox_config()
    ids = await asyncio.gather(*(runtime.run_pod_sandbox(config) for _ in range(5)))
    assert len(set(ids)) == 1
    assert len(await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=pods.labels))) == 1


async def test_dead_container_of_an_earlier_sandbox_gives_way(runtime, pods):
    old_sandbox = await pods.sandbox()
    old = await pods.shell("exit 0", sandbox=old_sandbox)
    await pods.ended(old)
    await runtime.stop_pod_sandbox(old_sandbox[0])
    config = replace(old_sandbox[1], metadata=replace(old_sandbox[1].metadata, attempt=1))
    sandbox_id = await runtime.run_pod_sandbox(config)
    new = await runtime.create_container(sandbox_id, pods.container_config(config, "sleep", "9"), config)
    assert new != old
    with pytest.raises(NotFoundError):
        await runtime.container_status(old)


async def test_container_of_another_owner_is_never_taken_nor_removed(runtime, pods):
    config = pods.sandbox_config()
    foreign = replace(config, labels={**config.labels, labels.OWNER_CLUSTER: "another"})
    theirs = await runtime.run_pod_sandbox(foreign)
    with pytest.raises(PodSyncError, match=r"its label vkprovider\.io/cluster-uid is another") as caught:
        await runtime.run_pod_sandbox(config)
    assert caught.value.reason == "CreatePodSandboxError"
    assert (await runtime.pod_sandbox_status(theirs)).state is cri.SandboxState.READY
    await runtime.remove_pod_sandbox(theirs)


async def test_cancelled_creation_is_seen_by_the_next_list(runtime, pods):
    config = pods.sandbox_config()
    await runtime.run_pod_sandbox(pods.sandbox_config("warm"))  # the image is there and the engine known
    for delay_s in (0.001, 0.01, 0.03):
        attempt = replace(config, metadata=replace(config.metadata, attempt=int(delay_s * 1000)))
        task = asyncio.create_task(runtime.run_pod_sandbox(attempt))
        await asyncio.sleep(delay_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        listed = await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=pods.labels))
        await asyncio.sleep(1)
        later = await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=pods.labels))
        assert {sandbox.id for sandbox in listed} == {sandbox.id for sandbox in later}


async def test_stop_waits_for_a_start_that_was_cancelled(runtime, pods):
    sandbox_id, config = await pods.sandbox()
    container_id = await runtime.create_container(sandbox_id, pods.container_config(config, "sleep", "100"), config)
    task = asyncio.create_task(runtime.start_container(container_id))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await runtime.stop_container(container_id, grace_period_s=0)
    assert (await runtime.container_status(container_id)).state is not cri.ContainerState.RUNNING


@pytest.mark.parametrize(("script", "exit_code", "reason"), [("exit 0", 0, "Completed"), ("exit 42", 42, "Error")])
async def test_exit_code_and_reason(pods, script, exit_code, reason):
    status = await pods.ended(await pods.shell(script))
    assert (status.exit_code, status.reason, status.message) == (exit_code, reason, "")


async def test_killed_by_a_signal(runtime, pods, engine_api):
    container_id = await pods.start("sleep", "100")
    engine_api.kill(container_id, "SIGKILL")
    status = await pods.ended(container_id)
    assert (status.exit_code, status.reason) == (137, "Error")


async def test_out_of_memory(pods):
    resources = cri.LinuxContainerResources(memory_limit_bytes=16 << 20)
    container_id = await pods.shell("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", resources=resources)
    status = await pods.ended(container_id)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_program_that_is_not_there(runtime, pods):
    sandbox_id, config = await pods.sandbox()
    container_id = await runtime.create_container(sandbox_id, pods.container_config(config, "/no/such"), config)
    with pytest.raises(PodSyncError, match="no such file or directory") as caught:
        await runtime.start_container(container_id)
    assert caught.value.reason == "RunContainerError"
    status = await runtime.container_status(container_id)
    assert (status.state, status.reason, status.exit_code) == (cri.ContainerState.EXITED, "ContainerCannotRun", 127)
    assert "no such file or directory" in status.message
    assert status.finished_at is not None


async def test_image_that_is_not_there(runtime, pods):
    sandbox_id, config = await pods.sandbox()
    with pytest.raises(NotFoundError, match="No such image: vkprovider-test/absent:1"):
        await runtime.create_container(
            sandbox_id, pods.container_config(config, "x", image="vkprovider-test/absent:1"), config
        )


async def test_unknown_sandbox(runtime, pods):
    config = pods.sandbox_config()
    with pytest.raises(NotFoundError):
        await runtime.create_container(cri.SandboxID("0" * 64), pods.container_config(config, "x"), config)


async def test_refused_configuration_has_the_engines_words(runtime, pods):
    sandbox_id, config = await pods.sandbox()
    tiny = cri.LinuxContainerResources(memory_limit_bytes=1000)
    with pytest.raises(PodSyncError, match="Minimum memory limit allowed is 6MB") as caught:
        await runtime.create_container(sandbox_id, pods.container_config(config, "x", resources=tiny), config)
    assert caught.value.reason == "CreateContainerError"
    assert await runtime.list_containers(cri.ContainerFilter(pod_sandbox_id=sandbox_id)) == []


def can_be_privileged(engine_api) -> bool:
    made = engine_api.create_container(
        BUSYBOX_IMAGE, ["true"], host_config=engine_api.create_host_config(privileged=True)
    )
    try:
        engine_api.start(made["Id"])
    except docker.errors.APIError:
        return False
    finally:
        engine_api.remove_container(made["Id"], force=True)
    return True


async def test_privileged_runs_or_fails_with_the_engines_words(runtime, pods, engine_api):
    context = cri.LinuxContainerSecurityContext(privileged=True)
    if await asyncio.to_thread(can_be_privileged, engine_api):
        container_id = await pods.shell("exit 3", security_context=context)
        assert (await pods.ended(container_id)).exit_code == 3
        return
    with pytest.raises(PodSyncError, match="OCI runtime") as caught:
        await pods.shell("exit 3", security_context=context)
    assert caught.value.reason == "RunContainerError"


async def test_guaranteed_pods_run_even_where_the_engine_cannot_lower_the_oom_score(pods):
    resources = cri.LinuxContainerResources(oom_score_adj=-997)
    container_id = await pods.shell("cat /proc/self/oom_score_adj", resources=resources)
    await pods.ended(container_id)
    assert await pods.log(container_id) in (b"-997\n", b"0\n")


async def test_stop_within_the_grace_period(runtime, pods):
    container_id = await pods.shell(GRACEFUL)
    await pods.log_shows(container_id, b"ready")
    begun = time.monotonic()
    await runtime.stop_container(container_id, grace_period_s=20)
    assert time.monotonic() - begun < 5
    assert (await runtime.container_status(container_id)).exit_code == 7


async def test_stop_kills_when_the_grace_period_is_over(runtime, pods):
    container_id = await pods.shell(STUBBORN)
    await pods.log_shows(container_id, b"ready")
    begun = time.monotonic()
    await runtime.stop_container(container_id, grace_period_s=1.5)
    assert 1.5 <= time.monotonic() - begun < 5
    assert (await runtime.container_status(container_id)).exit_code == 137


async def test_repeated_stop_with_less_grace_kills_sooner_and_signals_once(runtime, pods):
    container_id = await pods.shell("trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done")
    await pods.log_shows(container_id, b"ready")
    patient = asyncio.create_task(runtime.stop_container(container_id, grace_period_s=60))
    await pods.log_shows(container_id, b"term")
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient
    assert (await runtime.container_status(container_id)).state is cri.ContainerState.RUNNING
    begun = time.monotonic()
    await runtime.stop_container(container_id, grace_period_s=0.5)
    assert time.monotonic() - begun < 4
    assert await pods.log(container_id) == b"ready\nterm\n"


async def test_concurrent_stops_end_together(runtime, pods):
    container_id = await pods.shell(STUBBORN)
    await pods.log_shows(container_id, b"ready")
    begun = time.monotonic()
    await asyncio.gather(*(runtime.stop_container(container_id, grace_period_s=grace_s) for grace_s in (30, 1, 20)))
    assert time.monotonic() - begun < 5


async def test_stop_signal_of_the_container(runtime, pods):
    container_id = await pods.shell(
        "trap 'exit 5' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done", stop_signal="SIGUSR1"
    )
    await pods.log_shows(container_id, b"ready")
    assert (await runtime.container_status(container_id)).stop_signal == "SIGUSR1"
    await runtime.stop_container(container_id, grace_period_s=10)
    assert (await runtime.container_status(container_id)).exit_code == 5


async def test_many_slow_stops_do_not_hold_up_short_calls(runtime, pods):
    sandbox = await pods.sandbox()
    ids = [await pods.shell(STUBBORN, sandbox=sandbox, name=f"c{i}") for i in range(4)]
    # Far more waits than the pool has threads.
    stops = [asyncio.create_task(runtime.stop_container(ids[i % 4], grace_period_s=3)) for i in range(60)]
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    await runtime.list_containers(cri.ContainerFilter(label_selector=pods.labels))
    assert time.monotonic() - begun < 1
    await asyncio.gather(*stops)


async def test_stopping_a_sandbox_kills_its_containers(runtime, pods):
    sandbox = await pods.sandbox()
    container_id = await pods.shell(STUBBORN, sandbox=sandbox)
    await runtime.stop_pod_sandbox(sandbox[0])
    assert (await runtime.container_status(container_id)).state is cri.ContainerState.EXITED
    with pytest.raises(PodSyncError, match="cannot join network of a non running container"):
        await pods.start("sleep", "1", sandbox=sandbox, name="late")


async def test_containers_share_network_ipc_and_hostname(runtime, pods):
    sandbox = await pods.sandbox(hostname="the-host")
    first = await pods.shell("echo hi > /dev/shm/x; nc -ll -p 8080 -e cat", sandbox=sandbox, name="a")
    second = await pods.start("sleep", "100", sandbox=sandbox, name="b")
    assert (await runtime.exec_sync(second, ["hostname"])).stdout == b"the-host\n"

    async def connected() -> bool:
        return (
            await runtime.exec_sync(
                second, ["sh", "-c", "echo ping | nc -w 2 127.0.0.1 8080 | grep ping && cat /dev/shm/x"]
            )
        ).exit_code == 0

    await async_wait_for(connected, "the other container's port and shared memory", timeout_s=10)
    processes = (await runtime.exec_sync(second, ["ps"])).stdout
    assert b"nc -ll" not in processes, "processes are not shared unless asked for"
    assert (await runtime.container_status(first)).state is cri.ContainerState.RUNNING


async def test_process_namespace_can_be_shared_or_targeted(runtime, pods):
    shared = cri.LinuxContainerSecurityContext(namespaces=cri.NamespaceOption(pid=cri.NamespaceMode.POD))
    sandbox = await pods.sandbox()
    await pods.start("sleep", "111", sandbox=sandbox, name="a", security_context=shared)
    second = await pods.start("sleep", "222", sandbox=sandbox, name="b", security_context=shared)
    assert b"sleep 111" in (await runtime.exec_sync(second, ["ps"])).stdout
    lone = await pods.start("sleep", "333", sandbox=sandbox, name="lone")
    target = cri.NamespaceOption(pid=cri.NamespaceMode.TARGET, target_id=lone)
    debugger = await pods.start(
        "sleep", "444", sandbox=sandbox, name="d", security_context=cri.LinuxContainerSecurityContext(namespaces=target)
    )
    processes = (await runtime.exec_sync(debugger, ["ps"])).stdout
    assert b"sleep 333" in processes
    assert b"sleep 111" not in processes


async def test_host_network_sandbox(runtime, pods):
    host = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespaces=cri.NamespaceOption(network=cri.NamespaceMode.NODE))
    )
    sandbox_id, config = await pods.sandbox(linux=host)
    status = await runtime.pod_sandbox_status(sandbox_id)
    assert status.ip == ""
    assert status.namespaces.network is cri.NamespaceMode.NODE
    context = cri.LinuxContainerSecurityContext(namespaces=cri.NamespaceOption(network=cri.NamespaceMode.NODE))
    container_id = await pods.start("sleep", "9", sandbox=(sandbox_id, config), security_context=context)
    with open("/proc/net/dev") as file:
        ours = {line.split(":")[0].strip() for line in file if ":" in line}
    theirs = (await runtime.exec_sync(container_id, ["cat", "/proc/net/dev"])).stdout.decode()
    assert "docker0" in ours
    assert "docker0" in theirs


async def test_security_settings_reach_the_process(runtime, pods, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "f").write_text("from the host")
    for directory in (shared, *shared.parents[:3]):
        directory.chmod(0o755)
    context = cri.LinuxContainerSecurityContext(
        run_as_user=1234,
        run_as_group=2345,
        supplemental_groups=(3456,),
        no_new_privs=True,
        readonly_rootfs=True,
        capabilities=cri.Capabilities(drop=("ALL",)),
        seccomp=cri.SecurityProfile(),
        masked_paths=("/proc/version",),
    )
    container_id = await pods.shell(
        "exec 2>&1; id -u; id -g; id -G; grep -E 'NoNewPrivs|^Seccomp:|CapBnd' /proc/self/status; touch /x; cat /m/f; cat /proc/version;"
        " touch /m/y",
        security_context=context,
        mounts=(cri.Mount("/m", host_path=str(shared), readonly=True),),
        envs={"A": "b"},
    )
    await pods.ended(container_id)
    text = (await pods.log(container_id)).decode()
    lines = text.splitlines()
    assert lines[:2] == ["1234", "2345"]
    assert set(lines[2].split()) == {"2345", "3456"}
    assert "NoNewPrivs:\t1" in lines
    assert "Seccomp:\t2" in lines
    assert "CapBnd:\t0000000000000000" in lines
    assert "touch: /x: Read-only file system" in text
    assert "touch: /m/y: Read-only file system" in text
    assert "from the host" in text
    assert "Linux version" not in text


async def test_localhost_seccomp_profile(runtime, pods, tmp_path):
    profile = tmp_path / "p.json"
    profile.write_text(
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}'
    )
    context = cri.LinuxContainerSecurityContext(seccomp=cri.SecurityProfile(cri.ProfileType.LOCALHOST, str(profile)))
    container_id = await pods.shell("mkdir /x", security_context=context)
    await pods.ended(container_id)
    assert b"mkdir: can't create directory '/x': Operation not permitted" in await pods.log(container_id)
    absent = cri.LinuxContainerSecurityContext(seccomp=cri.SecurityProfile(cri.ProfileType.LOCALHOST, "/no/such.json"))
    with pytest.raises(PodSyncError, match=r"failed to load the seccomp profile '/no/such\.json'"):
        await pods.shell("true", security_context=absent)


async def test_resources_reach_the_process_and_can_be_changed(runtime, pods):
    resources = cri.LinuxContainerResources(
        cpu_shares=512,
        cpu_quota=50000,
        cpu_period=100000,
        memory_limit_bytes=64 << 20,
        pids_limit=50,
        oom_score_adj=500,
    )
    container_id = await pods.start("sleep", "100", resources=resources)
    assert (await runtime.exec_sync(container_id, ["cat", "/proc/1/oom_score_adj"])).stdout == b"500\n"
    found = (await runtime.container_status(container_id)).resources
    assert found is not None
    assert (found.cpu_shares, found.cpu_quota, found.memory_limit_bytes) == (512, 50000, 64 << 20)
    await runtime.update_container_resources(
        container_id, cri.LinuxContainerResources(cpu_shares=256, cpu_quota=0, memory_limit_bytes=32 << 20)
    )
    found = (await runtime.container_status(container_id)).resources
    assert found is not None
    assert (found.cpu_shares, found.memory_limit_bytes, found.pids_limit) == (256, 32 << 20, 50)
    assert found.cpu_quota in (None, -1)


async def test_recursive_read_only_is_refused_by_an_older_engine(runtime, pods, engine_api):
    if tuple(map(int, engine_api.api_version.split("."))) >= (1, 44):
        pytest.skip("this engine can mount recursively read-only")
    with pytest.raises(UnsupportedError, match="needs Docker Engine 25"):
        await pods.start("true", mounts=(cri.Mount("/m", host_path="/tmp", readonly=True, recursive_read_only=True),))


async def test_dns_settings(runtime, pods):
    dns = cri.DNSConfig(
        servers=("10.96.0.10",), searches=("default.svc.cluster.local", "svc.cluster.local"), options=("ndots:5",)
    )
    container_id = await pods.start("sleep", "9", sandbox=await pods.sandbox(dns_config=dns))
    lines = (await runtime.exec_sync(container_id, ["cat", "/etc/resolv.conf"])).stdout.decode().splitlines()
    assert set(lines) == {
        "nameserver 10.96.0.10",
        "search default.svc.cluster.local svc.cluster.local",
        "options ndots:5",
    }


async def test_sandbox_on_a_missing_network_says_so(engine_api, node_name):
    from vkprovider.backends.docker.config import DockerConfig

    runtime = DockerRuntime(DockerConfig(network="vkt-no-such-network"))
    await runtime.connect()
    try:
        conditions = {condition.type: condition for condition in (await runtime.status()).conditions}
        assert conditions["RuntimeReady"].status
        assert not conditions["NetworkReady"].status
        assert "docker network create vkt-no-such-network" in conditions["NetworkReady"].message
        config = cri.PodSandboxConfig(
            cri.PodSandboxMetadata("p", node_name, "default"), labels={labels.OWNER_NODE: node_name}
        )
        with pytest.raises(PodSyncError, match="network vkt-no-such-network not found") as caught:
            await runtime.run_pod_sandbox(config)
        assert caught.value.reason == "CreatePodSandboxError"
        assert await runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=config.labels)) == []
    finally:
        await runtime.aclose()


async def test_runtime_describes_itself_and_its_host(runtime, engine_api):
    version = await runtime.version()
    assert version.runtime_name == "docker"
    assert version.runtime_version == engine_api.version()["Version"].partition("+")[0]
    status = await runtime.status()
    assert all(condition.status for condition in status.conditions)
    assert status.runtime_handlers[0].name == ""
    assert "runc" in {handler.name for handler in status.runtime_handlers}
    host = await runtime.host_resources()
    info = engine_api.info()
    assert (host.cpu_cores, host.memory_bytes, host.operating_system) == (info["NCPU"], info["MemTotal"], "linux")
    assert host.architecture in ("amd64", "arm64")


async def test_stats(runtime, pods):
    sandbox = await pods.sandbox()
    container_id = await pods.shell("while :; do :; done", sandbox=sandbox)
    await asyncio.sleep(1)
    (stats,) = await runtime.list_pod_sandbox_stats(pods.labels)
    assert stats.id == sandbox[0]
    assert [network.name for network in stats.network] == ["eth0"]
    (member,) = stats.containers
    assert member.id == container_id
    assert member.cpu is not None
    assert member.cpu.usage_core_nanoseconds > 50_000_000
    assert member.memory is not None
    assert 0 < member.memory.working_set_bytes < 64 << 20
    assert stats.cpu is not None
    assert stats.cpu.usage_core_nanoseconds > member.cpu.usage_core_nanoseconds
