"""CRI configurations as the engine's creation bodies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vkprovider.backends.docker.config import DeviceRequest, DockerConfig
from vkprovider.backends.docker.spec import (
    EngineFeatures,
    make_cgroup_parent,
    make_container_spec,
    make_hostname,
    make_mounts,
    make_port_bindings,
    make_sandbox_spec,
    make_update,
)
from vkprovider.errors import PodSyncError, UnsupportedError
from vkprovider.provider import cri

METADATA = cri.PodSandboxMetadata("p", "uid", "ns")
SANDBOX_ID = cri.SandboxID("s1")


def sandbox(*, features=EngineFeatures(), docker_config=DockerConfig(), runtime_handler="", seccomp=None, **fields):
    return make_sandbox_spec(
        cri.PodSandboxConfig(METADATA, **fields),
        image="pause",
        docker_config=docker_config,
        features=features,
        runtime_handler=runtime_handler,
        seccomp_profile=seccomp,
    )


def sandbox_context(**fields):
    return cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(**fields))


def container(
    *,
    features=EngineFeatures(),
    docker_config=DockerConfig(),
    sandbox_config=cri.PodSandboxConfig(METADATA),
    runtime_handler="",
    seccomp=None,
    **fields,
):
    return make_container_spec(
        cri.ContainerConfig(cri.ContainerMetadata("c"), cri.ImageSpec("image"), **fields),
        sandbox_id=SANDBOX_ID,
        sandbox_config=sandbox_config,
        docker_config=docker_config,
        features=features,
        runtime_handler=runtime_handler,
        seccomp_profile=seccomp,
    )


def secured(**fields):
    return {"security_context": cri.LinuxContainerSecurityContext(**fields)}


def test_sandbox_joins_the_configured_network_with_shareable_ipc():
    host = sandbox(docker_config=DockerConfig(network="pods"), hostname="p")["HostConfig"]
    assert host["NetworkMode"] == "pods"
    assert host["IpcMode"] == "shareable"
    assert host["LogConfig"]["Type"] == "none"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert "PidMode" not in host
    assert "UTSMode" not in host


def test_sandbox_is_confined_by_default():
    assert sandbox()["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]


def test_host_network_sandbox_has_no_hostname_and_no_port_bindings():
    body = sandbox(
        hostname="p",
        port_mappings=(cri.PortMapping(80, 8080),),
        linux=sandbox_context(namespaces=cri.NamespaceOption(network=cri.NamespaceMode.NODE)),
    )
    assert body["HostConfig"]["NetworkMode"] == "host"
    assert body["HostConfig"]["UTSMode"] == "host"
    assert "Hostname" not in body
    assert "PortBindings" not in body["HostConfig"]


def test_host_pid_and_ipc_reach_the_sandbox():
    option = cri.NamespaceOption(pid=cri.NamespaceMode.NODE, ipc=cri.NamespaceMode.NODE)
    host = sandbox(linux=sandbox_context(namespaces=option))["HostConfig"]
    assert host["PidMode"] == "host"
    assert host["IpcMode"] == "host"


def test_sandbox_gets_its_oom_score_only_where_the_engine_can():
    assert sandbox()["HostConfig"]["OomScoreAdj"] == -998
    assert sandbox(features=EngineFeatures(negative_oom_score=False))["HostConfig"]["OomScoreAdj"] == 0


def test_user_namespace_is_refused_with_the_kubelets_words():
    option = cri.NamespaceOption(userns=cri.UserNamespace(mode=cri.NamespaceMode.POD))
    with pytest.raises(UnsupportedError, match="runtime does not support user namespaces"):
        sandbox(linux=sandbox_context(namespaces=option))


def test_dns_without_search_domains_does_not_inherit_the_hosts():
    dns = cri.DNSConfig(servers=("10.0.0.10",), options=("ndots:5",))
    host = sandbox(dns_config=dns)["HostConfig"]
    assert host["Dns"] == ["10.0.0.10"]
    assert host["DnsSearch"] == ["."]
    assert host["DnsOptions"] == ["ndots:5"]
    assert "Dns" not in sandbox()["HostConfig"]


def test_ports_are_bound_only_where_a_host_port_is_given():
    exposed, bindings = make_port_bindings(
        [
            cri.PortMapping(80, 8080),
            cri.PortMapping(80, 8081, host_ip="127.0.0.1"),
            cri.PortMapping(53, 5353, cri.Protocol.UDP),
            cri.PortMapping(9000, 0),
        ]
    )
    assert exposed == {"80/tcp": {}, "53/udp": {}}
    assert bindings == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "8081"}],
        "53/udp": [{"HostIp": "", "HostPort": "5353"}],
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [("web", "web"), ("a" * 70, "a" * 63), ("a" * 62 + "-b", "a" * 62), ("a" * 61 + ".-" + "b", "a" * 61), ("", "")],
)
def test_hostname_is_cut_to_what_engine_and_kernel_take(given, expected):
    assert make_hostname(given) == expected


def test_cgroup_parent_is_a_slice_only_for_systemd():
    assert make_cgroup_parent("/kubepods/burstable/pod1", EngineFeatures()) == "/kubepods/burstable/pod1"
    systemd = EngineFeatures(systemd_cgroups=True)
    assert make_cgroup_parent("/kubepods.slice/kubepods-pod1.slice", systemd) == "kubepods-pod1.slice"


def test_sysctls_groups_user_and_runtime_reach_the_sandbox():
    body = sandbox(
        runtime_handler="kata",
        linux=replace(
            sandbox_context(run_as_user=5, run_as_group=6, supplemental_groups=(7, 8), readonly_rootfs=True),
            sysctls={"net.core.somaxconn": "10"},
            cgroup_parent="/x",
        ),
    )
    host = body["HostConfig"]
    assert body["User"] == "5:6"
    assert host["GroupAdd"] == ["7", "8"]
    assert host["Sysctls"] == {"net.core.somaxconn": "10"}
    assert host["CgroupParent"] == "/x"
    assert host["Runtime"] == "kata"
    assert host["ReadonlyRootfs"] is True


def test_container_joins_network_and_ipc_of_its_sandbox():
    body = container()
    assert body["HostConfig"]["NetworkMode"] == "container:s1"
    assert body["HostConfig"]["IpcMode"] == "container:s1"
    assert "PidMode" not in body["HostConfig"]
    assert "Hostname" not in body


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER), None),
        (cri.NamespaceOption(pid=cri.NamespaceMode.POD), "container:s1"),
        (cri.NamespaceOption(pid=cri.NamespaceMode.NODE), "host"),
        (cri.NamespaceOption(pid=cri.NamespaceMode.TARGET, target_id=cri.ContainerID("t1")), "container:t1"),
    ],
)
def test_pid_namespace_modes(option, expected):
    assert container(**secured(namespaces=option))["HostConfig"].get("PidMode") == expected


def test_health_checks_of_images_never_run():
    assert container()["Healthcheck"] == {"Test": ["NONE"]}
    assert sandbox()["Healthcheck"] == {"Test": ["NONE"]}


def test_image_keeps_entrypoint_and_arguments_unless_they_are_given():
    assert not {"Entrypoint", "Cmd", "WorkingDir", "User", "StopSignal"} & set(container())
    body = container(command=("a",), args=("b", "c"), working_dir="/w", stop_signal="SIGUSR1", envs={"A": "1", "B": ""})
    assert body["Entrypoint"] == ["a"]
    assert body["Cmd"] == ["b", "c"]
    assert body["WorkingDir"] == "/w"
    assert body["StopSignal"] == "SIGUSR1"
    assert body["Env"] == ["A=1", "B="]


def test_terminal_and_input_flags():
    body = container(stdin=True, stdin_once=True, tty=True)
    assert (body["OpenStdin"], body["StdinOnce"], body["Tty"]) == (True, True, True)


def test_log_rotation_comes_from_the_configuration():
    log = container(docker_config=DockerConfig(log_max_bytes=123456, log_max_files=3))["HostConfig"]["LogConfig"]
    assert log == {"Type": "json-file", "Config": {"max-size": "123456", "max-file": "3"}}


def test_resources():
    host = container(
        resources=cri.LinuxContainerResources(
            cpu_period=100000,
            cpu_quota=50000,
            cpu_shares=512,
            memory_limit_bytes=64 << 20,
            pids_limit=100,
            oom_score_adj=500,
            cpuset_cpus="0",
        )
    )["HostConfig"]
    assert host["CpuShares"] == 512
    assert (host["CpuQuota"], host["CpuPeriod"]) == (50000, 100000)
    assert host["Memory"] == host["MemorySwap"] == 64 << 20, "equal values mean no swap"
    assert host["PidsLimit"] == 100
    assert host["OomScoreAdj"] == 500
    assert host["CpusetCpus"] == "0"


def test_unlimited_resources_are_not_sent():
    host = container(resources=cri.LinuxContainerResources(cpu_period=100000, cpu_quota=0, pids_limit=-1))["HostConfig"]
    assert not {"CpuQuota", "CpuPeriod", "Memory", "MemorySwap", "PidsLimit", "OomScoreAdj"} & set(host)


@pytest.mark.parametrize(("score", "possible", "expected"), [(-997, True, -997), (-997, False, 0), (1000, False, 1000)])
def test_negative_oom_score_falls_back_where_the_engine_cannot(score, possible, expected):
    resources = cri.LinuxContainerResources(oom_score_adj=score)
    host = container(resources=resources, features=EngineFeatures(negative_oom_score=possible))["HostConfig"]
    assert host["OomScoreAdj"] == expected


def test_security_options():
    host = container(
        **secured(
            no_new_privs=True,
            seccomp=cri.SecurityProfile(cri.ProfileType.LOCALHOST, "/p.json"),
            apparmor=cri.SecurityProfile(cri.ProfileType.LOCALHOST, "mine"),
            selinux=cri.SELinuxOption(type="t", level="s0"),
            capabilities=cri.Capabilities(add=("NET_ADMIN",), drop=("ALL",)),
            masked_paths=("/proc/kcore",),
            readonly_paths=(),
            readonly_rootfs=True,
            run_as_username="app",
            run_as_group=9,
            supplemental_groups=(1, 2),
        ),
        features=EngineFeatures(apparmor=True),
        seccomp="{}",
    )
    options = host["HostConfig"]
    assert options["SecurityOpt"] == [
        "no-new-privileges",
        "seccomp={}",
        "apparmor=mine",
        "label=type:t",
        "label=level:s0",
    ]
    assert options["CapAdd"] == ["NET_ADMIN"]
    assert options["CapDrop"] == ["ALL"]
    assert options["MaskedPaths"] == ["/proc/kcore"]
    assert options["ReadonlyPaths"] == []
    assert options["ReadonlyRootfs"] is True
    assert options["GroupAdd"] == ["1", "2"]
    assert host["User"] == "app:9"


def test_seccomp_is_unconfined_unless_asked_for():
    assert container()["HostConfig"]["SecurityOpt"] == ["seccomp=unconfined"]
    assert container(**secured(seccomp=cri.SecurityProfile()))["HostConfig"]["SecurityOpt"] == []


def test_privileged_container_has_no_paths_hidden_and_no_profile():
    host = container(**secured(privileged=True, masked_paths=("/proc/kcore",)))["HostConfig"]
    assert host["Privileged"] is True
    assert "MaskedPaths" not in host
    assert host["SecurityOpt"] == []


def test_apparmor_profile_on_a_host_without_it_is_refused_rather_than_ignored():
    profile = cri.SecurityProfile(cri.ProfileType.LOCALHOST, "mine")
    with pytest.raises(PodSyncError, match="no AppArmor") as caught:
        container(**secured(apparmor=profile))
    assert caught.value.reason == "CreateContainerError"
    unconfined = cri.SecurityProfile(cri.ProfileType.UNCONFINED)
    assert container(**secured(apparmor=unconfined))["HostConfig"]["SecurityOpt"] == ["seccomp=unconfined"]


def test_group_without_user_is_refused():
    with pytest.raises(PodSyncError, match="runAsGroup is specified without a runAsUser"):
        container(**secured(run_as_group=5))


def test_strict_supplemental_groups_are_refused():
    with pytest.raises(UnsupportedError, match="supplementalGroupsPolicy"):
        container(**secured(supplemental_groups_policy=cri.SupplementalGroupsPolicy.STRICT))


def test_bind_mounts_of_an_older_engine():
    binds, mounts = make_mounts(
        [
            cri.Mount("/a", host_path="/h/a"),
            cri.Mount("/b", host_path="/h/b", readonly=True, propagation=cri.MountPropagation.HOST_TO_CONTAINER),
            cri.Mount("/c", host_path="/h/c", propagation=cri.MountPropagation.BIDIRECTIONAL, selinux_relabel=True),
            cri.Mount("/d", host_path="/h/d:e", readonly=True),
            cri.Mount("/v", volume="vol", readonly=True),
        ],
        EngineFeatures(),
    )
    assert binds == ["/h/a:/a", "/h/b:/b:ro,rslave", "/h/c:/c:Z,rshared"]
    assert mounts == [
        {
            "Type": "bind",
            "Source": "/h/d:e",
            "Target": "/d",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate"},
        },
        {"Type": "volume", "Source": "vol", "Target": "/v", "ReadOnly": True, "VolumeOptions": {"NoCopy": True}},
    ]


def test_newer_engine_is_told_how_far_read_only_goes():
    features = EngineFeatures(api_version=(1, 44))
    _, mounts = make_mounts(
        [
            cri.Mount("/a", host_path="/h/a", readonly=True),
            cri.Mount("/b", host_path="/h/b", readonly=True, recursive_read_only=True),
        ],
        features,
    )
    assert "ReadOnlyNonRecursive" in mounts[0]["BindOptions"]
    assert "ReadOnlyForceRecursive" in mounts[1]["BindOptions"]


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (cri.Mount("/a", host_path="/h", readonly=True, recursive_read_only=True), "needs Docker Engine 25"),
        (cri.Mount("/a", image=cri.ImageSpec("i")), "image volume"),
        (cri.Mount("/a", volume="v", volume_sub_path="s"), "needs Docker Engine 26"),
    ],
)
def test_mounts_beyond_the_engine_are_refused(mount, words):
    with pytest.raises(UnsupportedError, match=words) as caught:
        make_mounts([mount], EngineFeatures())
    assert caught.value.reason == "CreateContainerError"


def test_device_requests_follow_the_configuration():
    config = DockerConfig(devices={"nvidia.com/gpu": DeviceRequest("nvidia", (("gpu", "compute"),), {"a": "b"})})
    host = container(docker_config=config, device_requests={"nvidia.com/gpu": 2, "other.io/none": 0})["HostConfig"]
    assert host["DeviceRequests"] == [
        {"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu", "compute"]], "Options": {"a": "b"}}
    ]


def test_undeclared_extended_resource_is_refused():
    with pytest.raises(PodSyncError, match=r"example.com/x is not declared .*\(declared: nvidia.com/gpu\)"):
        container(
            docker_config=DockerConfig(devices={"nvidia.com/gpu": DeviceRequest()}),
            device_requests={"example.com/x": 1},
        )


def test_update_changes_only_what_is_given():
    assert make_update(cri.LinuxContainerResources()) == {}
    assert make_update(cri.LinuxContainerResources(cpu_shares=5, cpu_quota=0, memory_limit_bytes=0)) == {
        "CpuShares": 5,
        "CpuQuota": -1,
        "Memory": -1,
        "MemorySwap": -1,
    }
    assert make_update(cri.LinuxContainerResources(memory_limit_bytes=7, cpu_quota=9)) == {
        "CpuQuota": 9,
        "Memory": 7,
        "MemorySwap": 7,
    }
