"""What the runtime is asked to make, for sandboxes and containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vkprovider.api import labels, v1
from vkprovider.errors import PodSyncError
from vkprovider.kubelet.container_config import ContainerInputs, make_container_config
from vkprovider.kubelet.dns import make_pod_dns, parse_resolv_conf, read_node_dns
from vkprovider.kubelet.pod_facts import make_pod_facts
from vkprovider.kubelet.pod_files import PodFiles, make_hosts_text
from vkprovider.kubelet.sandbox_config import make_sandbox_config, normalize_sysctl
from vkprovider.provider import cri
from vkprovider.settings import PodSettings
from vkprovider.testing import make_container, make_pod

OWNER = {labels.OWNER_CLUSTER: "cluster", labels.OWNER_NODE: "node"}
NODE_DNS = cri.DNSConfig(("1.1.1.1", "8.8.8.8"), ("corp.example",), ("rotate",))


def container_config(pod: v1.Pod, *, settings: PodSettings | None = None, **inputs: Any) -> cri.ContainerConfig:
    facts = make_pod_facts(pod)
    values: dict[str, Any] = {
        "restart_count": 0,
        "image": cri.ImageSpec("busybox:1.36"),
        "image_status": cri.Image("sha256:1"),
        "environment": {},
        "owner": OWNER,
        "seccomp_root": Path("/root/seccomp"),
        "memory_capacity_bytes": 8 * 1024**3,
    }
    container = (*facts.apps, *facts.init, *facts.ephemeral)[0]
    return make_container_config(pod, container, ContainerInputs(**(values | inputs)), settings or PodSettings())


def sandbox_config(pod: v1.Pod, **options: Any) -> cri.PodSandboxConfig:
    values: dict[str, Any] = {"attempt": 0, "owner": OWNER, "dns": cri.DNSConfig(), "cluster_domain": "cluster.local"}
    return make_sandbox_config(pod, make_pod_facts(pod), **(values | options))


def test_command_and_arguments_are_expanded() -> None:
    pod = make_pod(containers=[make_container(command=["run", "$(A)", "$$(A)"], args=["$(NOPE)"], workingDir="/w")])
    config = container_config(pod, environment={"A": "1"})
    assert config.command == ("run", "1", "$(A)")
    assert config.args == ("$(NOPE)",)
    assert config.working_dir == "/w"
    assert config.envs == {"A": "1"}


def test_labels_and_annotations_say_all_that_is_needed_later() -> None:
    container = make_container(ports=[80], lifecycle={"preStop": {"sleep": {"seconds": 1}}})
    pod = make_pod(containers=[container], grace_period_s=17, labels={"app": "x", labels.OWNER_NODE: "spoofed"})
    config = container_config(pod, restart_count=2, restart_backoff_s=20.0)
    assert config.labels == {
        labels.POD_NAME: "pod",
        labels.POD_NAMESPACE: "default",
        labels.POD_UID: pod["metadata"]["uid"],
        labels.CONTAINER_NAME: "main",
        **OWNER,
    }
    assert config.annotations == {
        labels.CONTAINER_HASH: make_pod_facts(pod).apps[0].spec_hash,
        labels.CONTAINER_RESTART_COUNT: "2",
        labels.CONTAINER_RESTART_BACKOFF: "20",
        labels.CONTAINER_TERMINATION_MESSAGE_PATH: "/dev/termination-log",
        labels.CONTAINER_TERMINATION_MESSAGE_POLICY: "File",
        labels.POD_TERMINATION_GRACE_PERIOD: "17",
        labels.CONTAINER_PRE_STOP_HANDLER: '{"sleep":{"seconds":1}}',
        labels.CONTAINER_PORTS: '[{"protocol":"TCP","containerPort":80}]',
    }
    assert config.metadata == cri.ContainerMetadata("main", 2)
    sandbox = sandbox_config(pod)
    assert sandbox.labels["app"] == "x"
    assert sandbox.labels[labels.OWNER_NODE] == "node"


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, {"cpu_shares": 2, "cpu_quota": 0, "memory_limit_bytes": None, "oom_score_adj": 1000}),
        (
            {"cpu": "250m", "memory": "1Gi"},
            {},
            {"cpu_shares": 256, "cpu_quota": 0, "memory_limit_bytes": None, "oom_score_adj": 875},
        ),
        (
            {"cpu": "1", "memory": "64Mi"},
            {"cpu": "1", "memory": "64Mi"},
            {"cpu_shares": 1024, "cpu_quota": 100_000, "memory_limit_bytes": 64 * 1024**2, "oom_score_adj": -997},
        ),
        ({}, {"cpu": "5m"}, {"cpu_shares": 5, "cpu_quota": 1000}),
    ],
)
def test_resources(requests: Any, limits: Any, expected: dict[str, Any]) -> None:
    config = container_config(make_pod(containers=[make_container(requests=requests, limits=limits)]))
    assert {name: getattr(config.resources, name) for name in expected} == expected
    assert config.resources.cpu_period == 100_000


def test_settings_that_bear_on_resources() -> None:
    settings = PodSettings(cpu_cfs_quota=False, pids_limit=100)
    config = container_config(make_pod(containers=[make_container(limits={"cpu": "1"})]), settings=settings)
    assert (config.resources.cpu_quota, config.resources.pids_limit) == (None, 100)


def test_extended_resources_become_device_requests() -> None:
    limits = {"nvidia.com/gpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"}
    config = container_config(make_pod(containers=[make_container(limits=limits)]))
    assert config.device_requests == {"nvidia.com/gpu": 2}
    assert config.resources.hugepage_limits_bytes == {"2MB": 4 * 1024**2}


def test_security_context_of_the_container_wins_over_that_of_the_pod() -> None:
    own = {
        "runAsUser": 5,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
    }
    pod = make_pod(
        containers=[make_container(securityContext=own)],
        securityContext={
            "runAsUser": 1,
            "runAsGroup": 2,
            "fsGroup": 3,
            "supplementalGroups": [4, 3],
            "supplementalGroupsPolicy": "Strict",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    )
    context = container_config(pod, extra_groups=(9,)).security_context
    assert (context.run_as_user, context.run_as_group) == (5, 2)
    assert context.supplemental_groups == (3, 4, 9)
    assert context.supplemental_groups_policy is cri.SupplementalGroupsPolicy.STRICT
    assert context.capabilities == cri.Capabilities(("NET_ADMIN",), ("ALL",))
    assert context.no_new_privs
    assert context.readonly_rootfs
    assert context.seccomp.profile_type is cri.ProfileType.RUNTIME_DEFAULT
    assert "/proc/kcore" in (context.masked_paths or ())


@pytest.mark.parametrize(
    ("image", "user", "name"),
    [
        (cri.Image("i", uid=1000), 1000, ""),
        (cri.Image("i", username="nobody"), None, "nobody"),
        (cri.Image("i"), None, ""),
    ],
)
def test_user_of_the_image_where_the_spec_names_none(image: cri.Image, user: int | None, name: str) -> None:
    context = container_config(make_pod(), image_status=image).security_context
    assert (context.run_as_user, context.run_as_username) == (user, name)


@pytest.mark.parametrize(
    ("context", "image", "message"),
    [
        ({"runAsNonRoot": True, "runAsUser": 0}, cri.Image("i", uid=1), "container's runAsUser breaks non-root policy"),
        ({"runAsNonRoot": True}, cri.Image("i", uid=0), "container has runAsNonRoot and image will run as root"),
        (
            {"runAsNonRoot": True},
            cri.Image("i", username="web"),
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        ),
        ({"runAsNonRoot": True}, cri.Image("i", uid=1), None),
        ({"runAsNonRoot": True, "runAsUser": 7}, cri.Image("i", uid=0), None),
        ({}, cri.Image("i", uid=0), None),
        (
            {"seccompProfile": {"type": "Localhost"}},
            cri.Image("i"),
            "localhostProfile must be set if seccompProfile type is Localhost.",
        ),
    ],
)
def test_contradictory_security_settings(context: Any, image: cri.Image, message: str | None) -> None:
    pod = make_pod(containers=[make_container(securityContext=context)])
    if message is None:
        container_config(pod, image_status=image)
        return
    with pytest.raises(PodSyncError) as caught:
        container_config(pod, image_status=image)
    assert caught.value.reason == "CreateContainerConfigError"
    assert caught.value.message.startswith(message)
    if "seccomp" not in message:
        uid = pod["metadata"]["uid"]
        assert caught.value.message.endswith(f' (pod: "pod_default({uid})", container: main)')


@pytest.mark.parametrize(
    ("profile", "default", "expected"),
    [
        (None, False, (cri.ProfileType.UNCONFINED, "")),
        (None, True, (cri.ProfileType.RUNTIME_DEFAULT, "")),
        ({"type": "Unconfined"}, True, (cri.ProfileType.UNCONFINED, "")),
        (
            {"type": "Localhost", "localhostProfile": "a/b.json"},
            False,
            (cri.ProfileType.LOCALHOST, "/root/seccomp/a/b.json"),
        ),
    ],
)
def test_seccomp_profile(profile: Any, default: bool, expected: Any) -> None:
    context = {"seccompProfile": profile} if profile else {}
    pod = make_pod(containers=[make_container(securityContext=context)])
    found = container_config(pod, settings=PodSettings(seccomp_default=default)).security_context.seccomp
    assert (found.profile_type, found.localhost_ref) == expected


@pytest.mark.parametrize(
    ("spec", "target", "network", "pid", "ipc"),
    [
        ({}, None, "POD", "CONTAINER", "POD"),
        ({"hostNetwork": True, "hostPID": True, "hostIPC": True}, None, "NODE", "NODE", "NODE"),
        ({"shareProcessNamespace": True}, None, "POD", "POD", "POD"),
        ({}, "main0", "POD", "TARGET", "POD"),
        ({"shareProcessNamespace": True}, "main0", "POD", "POD", "POD"),
        ({"hostPID": True}, "main0", "POD", "NODE", "POD"),
    ],
)
def test_namespaces(spec: Any, target: Any, network: str, pid: str, ipc: str) -> None:
    namespaces = container_config(make_pod(**spec), target_id=target).security_context.namespaces
    assert (namespaces.network.name, namespaces.pid.name, namespaces.ipc.name) == (network, pid, ipc)
    assert namespaces.target_id == (target if pid == "TARGET" else None)


@pytest.mark.parametrize(
    ("name", "spec", "hostname", "domain"),
    [
        ("pod", {}, "pod", ""),
        ("pod", {"hostname": "web"}, "web", ""),
        ("pod", {"subdomain": "sub"}, "pod", "sub.default.svc.cluster.local"),
        ("pod", {"hostnameOverride": "any.thing", "subdomain": "sub"}, "any.thing", ""),
        ("a" * 62 + "-b", {}, "a" * 62, ""),
        (
            "pod",
            {"subdomain": "sub", "setHostnameAsFQDN": True},
            "pod.sub.default.svc.cluster.local",
            "sub.default.svc.cluster.local",
        ),
        ("pod", {"hostNetwork": True}, "", ""),
    ],
)
def test_host_name(name: str, spec: Any, hostname: str, domain: str) -> None:
    config = sandbox_config(make_pod(name, **spec))
    assert (config.hostname, config.domainname) == (hostname, domain)


def test_too_long_host_name_is_refused_in_the_kubelets_words() -> None:
    pod = make_pod("p" * 40, subdomain="s", setHostnameAsFQDN=True)
    name = "p" * 40 + ".s.default.svc.cluster.local"
    with pytest.raises(PodSyncError) as caught:
        sandbox_config(pod)
    assert caught.value.message == (
        f"failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long "
        f"(64 characters is the max, {len(name)} characters requested)"
    )


def test_host_ports_of_app_containers_only() -> None:
    port = {"containerPort": 80, "hostPort": 8080, "protocol": "UDP", "hostIP": "127.0.0.1"}
    pod = make_pod(
        containers=[make_container(ports=[port, 81])],
        init_containers=[make_container("side", restartPolicy="Always", ports=[{"containerPort": 1, "hostPort": 1}])],
    )
    assert sandbox_config(pod).port_mappings == (cri.PortMapping(80, 8080, cri.Protocol.UDP, "127.0.0.1"),)
    pod["spec"]["hostNetwork"] = True
    assert sandbox_config(pod).port_mappings == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x"),
        ("kernel/sem", "kernel.sem"),
    ],
)
def test_separators_of_sysctls(name: str, expected: str) -> None:
    assert normalize_sysctl(name) == expected
    pod = make_pod(securityContext={"sysctls": [{"name": name, "value": "1"}]})
    assert sandbox_config(pod).linux.sysctls == {expected: "1"}


def test_resources_of_the_sandbox() -> None:
    pod = make_pod(
        containers=[make_container(requests={"cpu": "500m"}, limits={"memory": "1Gi"})], overhead={"cpu": "250m"}
    )
    linux = sandbox_config(pod).linux
    assert linux.resources is not None
    assert linux.overhead is not None
    assert (linux.resources.cpu_shares, linux.resources.memory_limit_bytes) == (512, 1024**3)
    assert (linux.overhead.cpu_shares, linux.overhead.cpu_quota) == (256, 25_000)


@pytest.mark.parametrize(
    ("spec", "servers", "searches", "options"),
    [
        (
            {},
            ("10.96.0.10",),
            ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"),
            ("ndots:5",),
        ),
        ({"dnsPolicy": "Default"}, NODE_DNS.servers, NODE_DNS.searches, NODE_DNS.options),
        ({"hostNetwork": True}, NODE_DNS.servers, NODE_DNS.searches, NODE_DNS.options),
        (
            {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
            ("10.96.0.10",),
            ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"),
            ("ndots:5",),
        ),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["9.9.9.9"],
                    "searches": ["x"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}],
                },
            },
            ("9.9.9.9",),
            ("x",),
            ("ndots:2", "debug"),
        ),
    ],
)
def test_dns(spec: Any, servers: Any, searches: Any, options: Any) -> None:
    dns = make_pod_dns(make_pod(**spec), node_dns=NODE_DNS, cluster_dns=("10.96.0.10",), cluster_domain="cluster.local")
    assert dns.config == cri.DNSConfig(servers, searches, options)
    assert dns.warnings == ()


def test_dns_limits_and_missing_cluster_dns_are_told() -> None:
    extra = {"nameservers": ["2.2.2.2", "3.3.3.3"], "searches": [f"d{i}" for i in range(40)]}
    dns = make_pod_dns(make_pod(dnsConfig=extra), node_dns=NODE_DNS, cluster_dns=(), cluster_domain="")
    assert dns.config.servers == ("1.1.1.1", "8.8.8.8", "2.2.2.2")
    assert len(dns.config.searches) == 32
    assert [reason for reason, _ in dns.warnings] == ["MissingClusterDNS", "DNSConfigForming", "DNSConfigForming"]
    assert dns.warnings[1][1].endswith("the applied nameserver line is: 1.1.1.1 8.8.8.8 2.2.2.2")


def test_resolv_conf_is_read_as_resolvers_do(tmp_path: Path) -> None:
    text = "# c\nnameserver 1.1.1.1\nsearch a b.\nsearch . c\nnameserver 2.2.2.2\noptions ndots:1 rotate\noptions ndots:3\n"
    expected = cri.DNSConfig(("1.1.1.1", "2.2.2.2"), ("c",), ("ndots:3", "rotate"))
    assert parse_resolv_conf(text) == expected
    (tmp_path / "resolv.conf").write_text(text)
    assert read_node_dns(str(tmp_path / "resolv.conf")) == expected
    assert read_node_dns("") == cri.DNSConfig(("127.0.0.1",), (".",))


def test_hosts_file_of_a_pod() -> None:
    pod = make_pod(subdomain="sub", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])
    text = make_hosts_text(pod, pod_ips=("10.0.0.5",), cluster_domain="cluster.local")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert text.endswith(
        "fe00::2\tip6-allrouters\n10.0.0.5\tpod.sub.default.svc.cluster.local\tpod\n"
        "\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
    )
    own = make_hosts_text(make_pod(), pod_ips=(), cluster_domain="", node_hosts="127.0.0.1 x\n")
    assert own == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n"


async def test_files_of_a_container_are_made_anew_for_each_start_and_go_with_the_pod(tmp_path: Path) -> None:
    files = PodFiles(tmp_path, cluster_domain="cluster.local", enabled=True)
    pod = make_pod()
    uid = pod["metadata"]["uid"]
    container = pod["spec"]["containers"][0]
    first = await files.make_mounts(pod, container, pod_ips=("10.0.0.5",))
    second = await files.make_mounts(pod, container, pod_ips=("10.0.0.5",))
    assert [mount.container_path for mount in first] == ["/etc/hosts", "/dev/termination-log"]
    assert first[0] == second[0]
    assert first[1].host_path != second[1].host_path
    assert Path(first[1].host_path).stat().st_mode & 0o777 == 0o666
    assert Path(first[0].host_path).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "pods" / uid).stat().st_mode & 0o777 == 0o750
    await files.remove_pod(v1.PodUID(uid))
    await files.remove_pod(v1.PodUID(uid))
    assert list((tmp_path / "pods").iterdir()) == []


async def test_no_hosts_file_over_a_volume_and_no_message_file_without_a_path(tmp_path: Path) -> None:
    files = PodFiles(tmp_path, cluster_domain="", enabled=True)
    container = make_container(volumeMounts=[{"name": "h", "mountPath": "/etc/hosts"}], terminationMessagePath="")
    assert await files.make_mounts(make_pod(), container, pod_ips=("10.0.0.5",)) == ()
    off = PodFiles(tmp_path / "off", cluster_domain="", enabled=False)
    assert await off.make_mounts(make_pod(), make_container(), pod_ips=("10.0.0.5",)) == ()
