"""From a pod's spec to the configuration of its sandbox. Pure.

Source: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go, generatePodSandboxConfig; pkg/kubelet/kubelet_pods.go,
GeneratePodHostNameAndDomain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vkprovider.api import labels, v1
from vkprovider.api.resources import (
    CPU,
    MEMORY,
    cpu_quota_us,
    cpu_shares,
    parse_resource_list,
    pod_limits,
    pod_requests,
)
from vkprovider.errors import PodSyncError
from vkprovider.kubelet.pod_facts import PodFacts
from vkprovider.kubelet.security_context import get_pod_security_context, make_sandbox_security_context
from vkprovider.provider import cri

MAX_HOSTNAME_CHARS: Final = 63
MAX_FQDN_CHARS: Final = 64
CREATE_POD_SANDBOX_ERROR: Final = "CreatePodSandboxError"


def make_hostname(pod: v1.Pod, *, cluster_domain: str) -> tuple[str, str]:
    """Host name and domain of a pod with its own network.

    Raises:
        PodSyncError: The host name is wanted fully qualified and is too long.
    """
    spec, meta = pod.get("spec", {}), pod["metadata"]
    override = spec.get("hostnameOverride")
    if override:
        return override, ""
    hostname = (spec.get("hostname") or meta.get("name", ""))[:MAX_HOSTNAME_CHARS].rstrip("-.")
    domain = ""
    if spec.get("subdomain"):
        domain = f"{spec['subdomain']}.{meta.get('namespace', 'default')}.svc.{cluster_domain}"
    return hostname, domain


def make_kernel_hostname(pod: v1.Pod, hostname: str, domain: str) -> str:
    """What the kernel calls the pod: its host name, with the domain if ``setHostnameAsFQDN``.

    Raises:
        PodSyncError: That is too long for the kernel.
    """
    if not domain or not pod.get("spec", {}).get("setHostnameAsFQDN"):
        return hostname
    name = f"{hostname}.{domain}"
    if len(name) > MAX_FQDN_CHARS:
        raise PodSyncError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long "
            f"({MAX_FQDN_CHARS} characters is the max, {len(name)} characters requested)",
            reason=CREATE_POD_SANDBOX_ERROR,
        )
    return name


def make_port_mappings(facts: PodFacts) -> tuple[cri.PortMapping, ...]:
    """Host ports of app containers; those of init containers and sidecars are not mapped."""
    return tuple(
        cri.PortMapping(
            container_port=port["containerPort"],
            host_port=port["hostPort"],
            protocol=cri.Protocol(port.get("protocol") or "TCP"),
            host_ip=port.get("hostIP") or "",
        )
        for app in facts.apps
        for port in app.spec.get("ports") or ()
        if port.get("hostPort")
    )


def normalize_sysctl(name: str) -> str:
    """Dots as separators, whichever the author used.

    Source: component-helpers/node/util/sysctl, NormalizeName.
    """
    separator = next((c for c in name if c in "./"), ".")
    return name if separator == "." else name.translate(str.maketrans("/.", "./"))


def make_pod_labels(pod: v1.Pod, owner: Mapping[str, str]) -> dict[str, str]:
    """Labels that say which pod something belongs to and whose it is."""
    meta = pod["metadata"]
    return {
        labels.POD_NAME: meta.get("name", ""),
        labels.POD_NAMESPACE: meta.get("namespace", "default"),
        labels.POD_UID: meta.get("uid", ""),
        **owner,
    }


def make_sandbox_config(
    pod: v1.Pod,
    facts: PodFacts,
    *,
    attempt: int,
    owner: Mapping[str, str],
    dns: cri.DNSConfig,
    cluster_domain: str = "",
    log_directory: str = "",
) -> cri.PodSandboxConfig:
    """Configuration of the pod's sandbox.

    Args:
        pod: The pod.
        facts: Facts of its spec.
        attempt: Which sandbox of the pod it is, from 0.
        owner: Our ownership labels.
        dns: Contents of ``/etc/resolv.conf``.
        cluster_domain: Domain of the cluster's services.
        log_directory: Directory for logs, for runtimes that write them where told.

    Raises:
        PodSyncError: The host name is wanted fully qualified and is too long.
    """
    meta, spec = pod["metadata"], pod.get("spec", {})
    host_network = bool(spec.get("hostNetwork"))
    hostname = domain = ""
    if not host_network:
        hostname, domain = make_hostname(pod, cluster_domain=cluster_domain)
        hostname = make_kernel_hostname(pod, hostname, domain)
    sysctls = get_pod_security_context(pod).get("sysctls") or ()
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(
            name=meta.get("name", ""),
            uid=meta.get("uid", ""),
            namespace=meta.get("namespace", "default"),
            attempt=attempt,
        ),
        hostname=hostname,
        domainname=domain,
        log_directory=log_directory,
        dns_config=dns,
        port_mappings=() if host_network else make_port_mappings(facts),
        labels={**(meta.get("labels") or {}), **make_pod_labels(pod, owner)},
        annotations=meta.get("annotations") or {},
        linux=cri.LinuxPodSandboxConfig(
            security_context=make_sandbox_security_context(pod),
            sysctls={normalize_sysctl(entry["name"]): entry.get("value", "") for entry in sysctls},
            overhead=_make_overhead(pod),
            resources=_make_resources(pod, facts),
        ),
    )


def _make_resources(pod: v1.Pod, facts: PodFacts) -> cri.LinuxContainerResources | None:
    if not facts.resources:
        return None
    requests, limits = pod_requests(pod, exclude_overhead=True), pod_limits(pod, exclude_overhead=True)
    cpu_limit, cpu_request = limits.get(CPU), requests.get(CPU) or limits.get(CPU)
    return cri.LinuxContainerResources(
        cpu_period=100_000,
        cpu_quota=cpu_quota_us(cpu_limit.milli_value()) if cpu_limit is not None else 0,
        cpu_shares=cpu_shares(cpu_request.milli_value() if cpu_request is not None else 0),
        memory_limit_bytes=limits[MEMORY].value() if MEMORY in limits else None,
    )


def _make_overhead(pod: v1.Pod) -> cri.LinuxContainerResources | None:
    overhead = pod.get("spec", {}).get("overhead")
    if not overhead:
        return None
    amounts = parse_resource_list(overhead)
    cpu = amounts[CPU].milli_value() if CPU in amounts else 0
    return cri.LinuxContainerResources(
        cpu_period=100_000,
        cpu_quota=cpu_quota_us(cpu),
        cpu_shares=cpu_shares(cpu),
        memory_limit_bytes=amounts[MEMORY].value() if MEMORY in amounts else None,
    )
