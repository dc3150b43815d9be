"""Everything that can be set, as grouped dataclasses passed explicitly; never global.

Units stand in the names (``_s`` seconds, ``_bytes``). Defaults are the kubelet's; where ours differ, the field says so.

Source: staging/src/k8s.io/kubelet/config/v1beta1/types.go, KubeletConfiguration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vkprovider.api import v1

KUBELET_VERSION = "v1.36.3"
"""The kubelet whose behaviour is reproduced; version-skew checks read it from the node."""


@dataclass(frozen=True)
class NodeSettings:
    """The Node object and its heartbeat.

    Attributes:
        name: Node name: lower case, a DNS subdomain.
        ips: InternalIPs to report; empty finds the default route's.
        labels: Labels to add; they win over the defaults.
        taints: Taints to register with, besides the default one.
        default_taint: Whether to register with ``virtual-kubelet.io/provider=<provider>:NoSchedule``.
        exclude_from_load_balancers: Whether to set the label that keeps the node out of load balancers.
        register: Whether to create the Node object.
        provider_id: ``spec.providerID``.
        delete_on_exit: Whether a clean exit deletes the Node object.
        status_update_period_s: Seconds between looks at the node's own state (kubelet: 10).
        status_report_period_s: Seconds after which an unchanged status is sent all the same (kubelet: 300).
        lease_duration_s: Seconds a lease is valid; renewed every quarter of it (kubelet: 40).
        max_images: How many images the status lists; -1 for all (kubelet: 50).
        max_pods: Pods the node takes (kubelet: 110).
        pods_per_core: Bound by cores as well; 0 for none.
        ping_timeout_s: Seconds the provider has to answer a ping.
        standby: Wait for another live process of this node's name to end, instead of giving up.
        system_reserved: Resources kept from pods.
        kube_reserved: Resources kept from pods.
        eviction_hard: Thresholds of hard eviction, which reduce allocatable.
        fail_cgroup_v1: Refuse to start on a host with cgroup v1 (kubelet: true; ours only warns, since engines still
            run pods there).
    """

    name: str
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[v1.Taint, ...] = ()
    default_taint: bool = True
    exclude_from_load_balancers: bool = False
    register: bool = True
    provider_id: str = ""
    delete_on_exit: bool = False
    status_update_period_s: float = 10.0
    status_report_period_s: float = 300.0
    lease_duration_s: int = 40
    max_images: int = 50
    max_pods: int = 110
    pods_per_core: int = 0
    ping_timeout_s: float = 5.0
    standby: bool = False
    system_reserved: Mapping[str, str] = field(default_factory=dict)
    kube_reserved: Mapping[str, str] = field(default_factory=dict)
    eviction_hard: Mapping[str, str] = field(
        default_factory=lambda: {
            "memory.available": "100Mi",
            "nodefs.available": "10%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "15%",
            "imagefs.inodesFree": "5%",
        }
    )
    fail_cgroup_v1: bool = False


@dataclass(frozen=True)
class PodSettings:
    """How pods are run.

    Attributes:
        sync_period_s: Seconds after which an unchanged pod is synced again (kubelet: 60).
        backoff_period_s: Seconds until a failed sync is tried again, plus up to half of it (kubelet: 10).
        max_container_restart_period_s: Longest CrashLoopBackOff, in seconds (kubelet: 300).
        serialize_image_pulls: One pull at a time (kubelet: true).
        max_parallel_image_pulls: Bound on parallel pulls; None for no bound.
        registry_pull_qps: Pulls a second; 0 for no limit (kubelet: 5).
        registry_burst: Pulls at once above the rate (kubelet: 10).
        cluster_dns: Servers for pods with dnsPolicy ClusterFirst.
        cluster_domain: Domain of the cluster's services.
        resolv_conf: File with the node's own DNS settings.
        cpu_cfs_quota: Whether CPU limits are enforced.
        cpu_cfs_quota_period_s: Period of the quota, in seconds.
        pids_limit: Processes a pod may have; -1 for no limit.
        seccomp_default: Use RuntimeDefault where a pod asks for nothing.
        allowed_unsafe_sysctls: Sysctls allowed beyond the safe ones; a trailing ``*`` matches a prefix.
        container_log_max_bytes: Size at which a container's log is rotated (kubelet: 10Mi).
        container_log_max_files: Files kept of each log (kubelet: 5).
        relist_period_s: Seconds between full listings of the runtime (kubelet: 1); events make up for longer ones.
        event_qps: Events a second towards the API server; 0 for no limit (kubelet: 50).
        event_burst: Events at once above the rate (kubelet: 100).
    """

    sync_period_s: float = 60.0
    backoff_period_s: float = 10.0
    max_container_restart_period_s: float = 300.0
    serialize_image_pulls: bool = True
    max_parallel_image_pulls: int | None = None
    registry_pull_qps: int = 5
    registry_burst: int = 10
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = ""
    resolv_conf: str = "/etc/resolv.conf"
    cpu_cfs_quota: bool = True
    cpu_cfs_quota_period_s: float = 0.1
    pids_limit: int = -1
    seccomp_default: bool = False
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    container_log_max_bytes: int = 10 * 1024 * 1024
    container_log_max_files: int = 5
    relist_period_s: float = 10.0
    event_qps: float = 50.0
    event_burst: int = 100


@dataclass(frozen=True)
class ServerSettings:
    """The kubelet API and the health endpoint.

    Attributes:
        address: Address to listen on.
        port: Port of the HTTPS API; 0 takes a free one.
        client_ca_file: CA that signs client certificates; None follows the cluster's
            ``extension-apiserver-authentication`` ConfigMap.
        tls_cert_file: Serving certificate; None for a self-signed one that is rotated.
        tls_private_key_file: Key of the serving certificate.
        anonymous: Whether requests without credentials are let in as ``system:anonymous`` (kubelet: false).
        webhook_authentication: Whether bearer tokens are checked by TokenReview (kubelet: true).
        authorization_mode: ``Webhook`` or ``AlwaysAllow``.
        authentication_cache_ttl_s: Seconds a token's review is remembered (kubelet: 120).
        authorized_cache_ttl_s: Seconds an allowed review is remembered (kubelet: 300).
        unauthorized_cache_ttl_s: Seconds a denied review is remembered (kubelet: 30).
        streaming_idle_timeout_s: Seconds after which an idle stream is closed (kubelet: 4 hours).
        enable_debugging_handlers: Whether logs, exec and their like are served (kubelet: true).
        healthz_address: Address of the unauthenticated health endpoint.
        healthz_port: Its port; 0 switches it off (kubelet: 10248; here off unless asked for, since several nodes may
            share a host).
    """

    address: str = "0.0.0.0"
    port: int = 10250
    client_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_private_key_file: Path | None = None
    anonymous: bool = False
    webhook_authentication: bool = True
    authorization_mode: str = "Webhook"
    authentication_cache_ttl_s: float = 120.0
    authorized_cache_ttl_s: float = 300.0
    unauthorized_cache_ttl_s: float = 30.0
    streaming_idle_timeout_s: float = 4 * 3600.0
    enable_debugging_handlers: bool = True
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 0


@dataclass(frozen=True)
class ClusterSettings:
    """How the API server is reached.

    Attributes:
        kubeconfig: Kubeconfig file; None for the configuration of the pod we run in.
        context: Context of the kubeconfig; None for its current one.
        qps: Requests a second, averaged; None for no limit (kubelet: 50; ours limits only when told to).
        burst: Requests at once above the rate.
        request_timeout_s: Seconds a short request may take.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    qps: float | None = None
    burst: int = 100
    request_timeout_s: float = 30.0


@dataclass(frozen=True)
class Settings:
    """All settings of one node.

    Attributes:
        provider: Name of the provider.
        provider_config: Contents of the provider's configuration file.
        root_dir: Directory of this node's files; made with mode 0750.
        pod_infra_container_image: Image of PodSandbox containers.
        kubelet_configuration: The configuration file as read, for ``/configz``.
    """

    node: NodeSettings
    cluster: ClusterSettings = ClusterSettings()
    pods: PodSettings = PodSettings()
    server: ServerSettings = ServerSettings()
    provider: str = "docker"
    provider_config: Mapping[str, Any] = field(default_factory=dict)
    root_dir: Path = Path("/var/lib/vkprovider")
    pod_infra_container_image: str = "registry.k8s.io/pause:3.10.1"
    kubelet_configuration: Mapping[str, Any] = field(default_factory=dict)
